"""Every reader of files, given damaged and crafted ones: it loads them, or raises one clear error.

The error is a ValueError or a UserError of one line that names the file, and reading takes little
memory and time, whatever sizes the file claims.
"""

import contextlib
import functools
import hashlib
import io
import json
import random
import resource
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from spangym.agents import Refiner, SB3Agent
from spangym.agents.registry import get_agent_spec
from spangym.attention import load_controller
from spangym.envs.data.files import make_file_dataset
from spangym.envs.model.cache_transformer import CacheTransformer
from spangym.envs.model.cache_transformer_config import CacheTransformerConfig
from spangym.envs.model.model_checkpoint import load_cache_transformer, load_stack, serialize
from spangym.envs.model.stack import TransformerStack
from spangym.experiments.analysis.load_results import load_results
from spangym.experiments.analysis.results import AttentionMap
from spangym.experiments.pilot.attention_maps import load_attention_maps, save_attention_maps
from spangym.experiments.pilot.load_pilot_study import parse_pilot_study
from spangym.experiments.pilot.recordings import load_recordings
from spangym.experiments.runner.job_files import is_inside, read_files, replace_files
from spangym.experiments.runner.manifest import make_manifest
from spangym.experiments.runner.run_dir import RunDir
from spangym.experiments.studies.load_study import load_study, parse_study
from spangym.experiments.studies.study import Study
from spangym.experiments.trials.checkpoints import Checkpoints
from spangym.experiments.trials.comparison_run import COMPARISON
from spangym.experiments.tuning.search_space import builtin_search_spaces, load_search_space
from spangym.utils.errors import UserError
from spangym.utils.serialization import load_metadata, load_state, save_state

from .experiments.conftest import TINY
from .factories import SMALL_TRANSFORMER, TINY_PILOT, make_exported_policy, make_training_env

MEGABYTE = 2**20
MOST_MEGABYTES = 600
DEEP = 100_000


@dataclass(frozen=True)
class Reader:
    """A reader of files.

    Attributes:
        write: Writes a correct file, or several, in a folder; returns the file to be damaged.
        read: Reads the file, which it is given.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], object]


# --- readers --------------------------------------------------------------------------------------


def _state() -> dict[Any, Any]:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": (np.arange(4), np.ones((2, 2)))}
    return {"steps": 3, 7: [None, "text", 1.5, True], **tensors}


def _writes(name: str, write: Callable[[Path], object]) -> Callable[[Path], Path]:
    def written(folder: Path) -> Path:
        write(folder / name)
        return folder / name

    return written


def _saved_agent(make: Callable[[], Any], suffix: str) -> Callable[[Path], Path]:
    def written(folder: Path) -> Path:
        make().save(folder / "agent")
        return folder / f"agent{suffix}"

    return written


def _trained(algorithm: str, **options: Any) -> SB3Agent:
    agent = SB3Agent(algorithm, 0, **options)
    agent.learn(make_training_env("box"), 16)
    return agent


def _trained_refiner() -> Refiner:
    refiner = Refiner(seed=0, lambda_=0.5, count_based_lr=True, double_q=True)
    for state in range(4):
        refiner.update(state, refiner.choose_action(state), 1.0, state + 1)
    return refiner


def _trained_agent(name: str) -> Any:
    agent = get_agent_spec(name).make(seed=0)
    agent.learn(make_training_env("digits"), 16)
    return agent


def _agent_reader(name: str) -> Reader:
    return Reader(
        _saved_agent(lambda: _trained_agent(name), ".json"),
        lambda path: get_agent_spec(name).make(seed=0).load(path.with_suffix("")),
    )


def _checkpoint(make: Callable[[torch.Generator], Any]) -> Callable[[Path], Path]:
    def write(path: Path) -> None:
        path.write_bytes(serialize(make(torch.Generator().manual_seed(0)), {"loss": 1.0}))

    return _writes("layers.safetensors", write)


def _write_training_checkpoint(folder: Path) -> Path:
    Checkpoints(folder / "checkpoints").write(3, _state())
    (path,) = (folder / "checkpoints").iterdir()
    return path


def _read_training_checkpoint(path: Path) -> object:
    messages: list[str] = []
    found = Checkpoints(path.parent).read(messages.append)
    assert (found is None) == any(str(path) in each for each in messages)
    return found


def _write_npz(path: Path) -> None:
    np.savez_compressed(path, one=np.ones((8, 3)), two=np.zeros((9, 3), np.float32))


def _write_audio(path: Path, rate: int = 16_000, seconds: float = 0.2) -> None:
    soundfile = pytest.importorskip("soundfile")
    samples = np.sin(np.arange(int(rate * seconds)) / 20) / 2
    soundfile.write(path, samples, rate)


def test_checkpoints_that_are_damaged_before_their_hash(tmp_path: Path):
    checkpoints, messages = Checkpoints(tmp_path), list[str]()
    checkpoints.write(1, {"a": 1})
    content = b"[" * 100
    path = tmp_path / f"step-0000000002-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    path.write_bytes(content)
    assert checkpoints.read(messages.append) == {"a": 1}
    assert [str(path) in each for each in messages] == [True]


def _read_dataset(path: Path) -> object:
    return make_file_dataset(path, "train").fingerprint()


def _write_recordings(folder: Path) -> Path:
    rows = ["file,text,speaker"]
    for number in range(12):
        _write_audio(folder / f"{number}.wav")
        rows.append(f"{number}.wav,sentence number {'abcdefghijkl'[number % 6]},me")
    (folder / "all.csv").write_text("\n".join(rows) + "\n")
    return folder / "all.csv"


def _text_reader(name: str, text: str, read: Callable[[Path], object]) -> Reader:
    return Reader(_writes(name, lambda path: path.write_text(text)), read)


def _run_file(name: str) -> Callable[[Path], Path]:
    def written(folder: Path) -> Path:
        study = parse_study(TINY, "tiny")
        study = Study(**{**vars(study), "agents": (), "seeds": (0,)})
        run = RunDir(folder / "run", COMPARISON)
        manifest = make_manifest(["spangym"], 1, "cpu", {"content_sha256": {}})
        run.create(study, manifest)
        run.create(study, manifest)
        trial = run.jobs()[0]
        job = run.folder_of(trial)
        job.mkdir(parents=True)
        result = {"total_timesteps": 0, "wall_seconds": 0.5, "regret": 0.1, "full_qk_pairs": 9}
        (job / "result.json").write_text(json.dumps(result))
        first = study.evaluation.seed
        rows = {"evaluation_seed": [first, first + 1], "return": [1.0, 2.0], "mean_span": [3, 4.5]}
        rows |= {"qk_pairs": [5, 6], "output_norm": [1.5, 2.5], "actions": ["3 4", "5 6"]}
        pd.DataFrame(rows).to_csv(job / "evaluation.csv", index=False)
        counts = {"layer": [0, 1], "content_type": ["a", "b"], "action": [3, 4], "count": [1, 2]}
        counts |= {"mean_span": [0.5, 1.5]}
        pd.DataFrame(counts).to_csv(job / "action_counts.csv", index=False)
        place = {"study.toml": run.path, "manifest.json": run.path, "jobs.json": run.path}
        return place.get(name, job) / name

    return written


def _read_run(path: Path) -> object:
    root = next(each for each in path.parents if each.name == "run")
    run = RunDir.open(root, COMPARISON)
    return run.manifest(), run.changes(), load_results([run])


def _maps(folder: Path) -> Path:
    weights = np.eye(3, dtype=np.float32)
    save_attention_maps(folder, [AttentionMap("", "a", 0, "local", weights, 0.5)])
    (path,) = folder.iterdir()
    return path


READERS: dict[str, Reader] = {
    "state": Reader(_writes("a.safetensors", lambda path: save_state(path, _state())), load_state),
    "flat state": Reader(
        _writes("a.safetensors", lambda path: save_state(path, {"a": torch.ones(3)})), load_state
    ),
    "metadata": Reader(
        _writes("a.safetensors", lambda path: save_state(path, _state(), {"b": [1, {"c": None}]})),
        load_metadata,
    ),
    **{
        f"controller {encoding} {kind}": Reader(
            _writes(
                "a.safetensors",
                lambda path, encoding=encoding, kind=kind: make_exported_policy(
                    encoding, kind
                ).save(path),
            ),
            lambda path: load_controller(path, layer=0),
        )
        for encoding, kind in (
            ("box", "mlp"),
            ("digits", "mlp"),
            ("state", "lookup"),
            ("box", "kmeans"),
        )
    },
    "layers": Reader(
        _checkpoint(functools.partial(TransformerStack, SMALL_TRANSFORMER)),
        lambda path: load_stack(str(path)),
    ),
    "cache transformer": Reader(
        _checkpoint(functools.partial(CacheTransformer, CacheTransformerConfig(dims=8, hidden=8))),
        lambda path: load_cache_transformer(str(path)),
    ),
    "training checkpoint": Reader(_write_training_checkpoint, _read_training_checkpoint),
    "refiner": Reader(
        _saved_agent(_trained_refiner, ".safetensors"),
        lambda path: Refiner(lambda_=0.5, count_based_lr=True, double_q=True).load(path),
    ),
    **{
        f"agent {name}": _agent_reader(name)
        for name in ("random", "fixed:3", "threshold", "oracle", "content-oracle")
    },
    **{
        f"network {name}": Reader(
            _saved_agent(lambda name=name: _trained(name, normalize=True), ".safetensors"),
            lambda path, name=name: SB3Agent(name).load(path),
        )
        for name in ("dqn", "ppo")
    },
    "archive": Reader(
        _writes("a.zip", lambda path: _trained("dqn").model.save(path)),
        lambda path: SB3Agent("dqn").load(path, allow_pickle=True),
    ),
    "texts": Reader(_writes("a.txt", lambda path: path.write_bytes(b"text " * 20)), _read_dataset),
    "npy": Reader(_writes("a.npy", lambda path: np.save(path, np.ones((9, 3)))), _read_dataset),
    "npz": Reader(_writes("a.npz", _write_npz), _read_dataset),
    "wav": Reader(_writes("a.wav", _write_audio), _read_dataset),
    "flac": Reader(_writes("a.flac", _write_audio), _read_dataset),
    "recordings": Reader(_write_recordings, lambda path: load_recordings(path.parent, 0)),
    "study": _text_reader("a.toml", TINY, lambda path: load_study(str(path))),
    "pilot study": _text_reader(
        "a.toml",
        TINY_PILOT,
        lambda path: parse_pilot_study(path.read_text("utf-8", "replace"), str(path)),
    ),
    "search space": _text_reader(
        "a.toml", builtin_search_spaces()["dqn"], lambda path: load_search_space(str(path))
    ),
    "attention maps": Reader(_maps, lambda path: load_attention_maps(path.parent, "a")),
    **{
        f"run {name}": Reader(_run_file(name), _read_run)
        for name in (
            *("study.toml", "manifest.json", "jobs.json", "result.json"),
            *("evaluation.csv", "action_counts.csv"),
        )
    },
}

# --- damage ---------------------------------------------------------------------------------------

WRONG: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        2,
        1.5,
        1e300,
        10**9,
        10**12,
        2**63,
        10**30,
        "",
        "x",
        "../x",
        "a\0b",
        "\ud800",
    ),
    *([], [1], {}, {"a": 1}, [[[]]], float("nan"), float("inf")),
)


def _replaced(value: Any, wrong: Any) -> Iterator[Any]:
    """The value with each of its leaves, tables and lists replaced once."""
    yield wrong
    if isinstance(value, dict):
        for name, each in value.items():
            yield {other: value[other] for other in value if other != name}
            yield from ({**value, name: new} for new in _replaced(each, wrong))
    if isinstance(value, list):
        yield value[1:]
        for index, each in enumerate(value):
            yield from (
                [*value[:index], new, *value[index + 1 :]] for new in _replaced(each, wrong)
            )


def _sample(values: Iterator[Any], generator: random.Random, most: int) -> list[Any]:
    values_ = [*values]
    return generator.sample(values_, min(most, len(values_)))


def _json_damage(value: Any, generator: random.Random, most: int) -> Iterator[str]:
    for wrong in WRONG:
        for new in _sample(_replaced(value, wrong), generator, most):
            yield json.dumps(new)
    yield json.dumps(value).replace("1", "9" * 5000, 1)


NESTED = ("[" * DEEP, "[" * DEEP + "]" * DEEP, '{"a":' * DEEP, '{"list":[' * DEEP + "]}" * DEEP)


def _safetensors_damage(content: bytes, generator: random.Random) -> Iterator[bytes]:
    size = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + size]), content[8 + size :]

    def with_header(text: str | bytes) -> bytes:
        text = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        return struct.pack("<Q", len(text)) + text + body

    for claimed in (0, 1, size - 1, size + 1, 2**31, 2**62, 2**64 - 1):
        yield struct.pack("<Q", claimed) + content[8:]
    for text in _json_damage(header, generator, 4):
        yield with_header(text)
    for part in header.get("__metadata__", {}):
        rest = {each: text for each, text in header["__metadata__"].items() if each != part}
        texts = [*_json_damage(json.loads(header["__metadata__"][part]), generator, 12), *NESTED]
        for text in texts:
            yield with_header(json.dumps({**header, "__metadata__": {**rest, part: text}}))
    for text in NESTED:
        yield with_header(text)
        yield with_header('{"__metadata__":' + text + "}")


def _toml_damage(text: str) -> Iterator[bytes]:
    for depth in (500, 2_000, DEEP):
        yield f"{text}\nx = {'[' * depth}{']' * depth}\n".encode()
        yield f"{text}\nx = {'{a=' * depth}1{'}' * depth}\n".encode()
        yield f"{'.'.join('a' * depth)} = 1\n{text}".encode()
        yield f"{text}\n[{'.'.join('a' * depth)}]\n".encode()
    for wrong in (
        "-1",
        "true",
        "1e400",
        "nan",
        "9" * 5000,
        "9" * 30,
        '"x"',
        "[]",
        "{}",
        "1979-05-27",
    ):
        for line in text.splitlines():
            if "=" in line:
                yield text.replace(line, f"{line.partition('=')[0]}= {wrong}").encode()
    yield b"x = 1\n" * 300_000


def damaged(content: bytes, suffix: str) -> Iterator[bytes]:
    """The content of a file, damaged in many ways, always the same."""
    generator = random.Random(0)
    for end in (0, 1, 7, 8, 9, len(content) // 2, len(content) - 1):
        yield content[:end]
    for _ in range(30):
        changed = bytearray(content)
        for _ in range(generator.choice((1, 2, 8, 64))):
            # The beginning holds the structure of most files.
            end = generator.choice((16, 200, len(content)))
            changed[generator.randrange(min(end, len(content)))] = generator.randrange(256)
        yield bytes(changed)
    position = generator.randrange(len(content))
    yield content[:position] + bytes(range(256)) + content[position:]
    yield content + content
    yield bytes(4096)
    if suffix == ".safetensors":
        yield from _safetensors_damage(content, generator)
    if suffix == ".json":
        yield from (each.encode() for each in _json_damage(json.loads(content), generator, 12))
        yield from (each.encode() for each in NESTED)
        yield b"9" * 5000
    if suffix == ".toml":
        yield from _toml_damage(content.decode())
    if suffix == ".csv":
        text = content.decode()
        for old in sorted({*text.replace("\n", ",").split(",")}):
            for new in (
                "x",
                "",
                "nan",
                "inf",
                "1e999",
                "-1",
                "9" * 400,
                '"',
                "a\0b",
                "\ud800",
                "1,2",
            ):
                yield text.replace(old, new, 1).encode("utf-8", "surrogatepass")
        yield b'"' + b"a" * 200_000


@pytest.mark.parametrize("name", READERS)
def test_damaged_files(name: str, tmp_path: Path):
    reader = READERS[name]
    path = reader.write(tmp_path)
    reader.read(path)
    content = path.read_bytes()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    failed = 0
    for number, wrong in enumerate(damaged(content, path.suffix)):
        path.write_bytes(wrong)
        try:
            reader.read(path)
        except (ValueError, UserError) as error:
            failed += 1
            message = str(error)
            where = f"damage {number}: {message[:300]!r}"
            assert "\n" not in message, where
            assert len(message) < 4000, where
            names = (str(path), path.name, path.stem, str(path.parent))
            assert any(each in message for each in names), where
        except Exception as error:
            raise AssertionError(f"damage {number} raises {error!r:.300}") from error
    assert failed or name in ("texts", "training checkpoint")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MOST_MEGABYTES


# --- sizes ----------------------------------------------------------------------------------------


def _archive_that_claims(path: Path, name: str, content: bytes, size: int) -> None:
    """An archive whose member is said to take more bytes than it does."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
        archive.infolist()[0].file_size = size


def _npz_that_inflates(path: Path) -> None:
    file = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (3 * 2**20, 256)}
    np.lib.format.write_array_header_1_0(file, shape)
    _archive_that_claims(path, "a.npy", file.getvalue() + bytes(MEGABYTE), 3 * 2**30 + 128)


def _npy_that_claims(path: Path) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (80 * 2**30, 1)}
        )
        file.write(bytes(64))


def _wav_header(rate: int, size: int) -> bytes:
    chunk = struct.pack("<HHIIHH", 1, 1, rate, (2 * rate) % 2**32, 2, 16)
    start = b"RIFF" + struct.pack("<I", 2**32 - 1) + b"WAVEfmt " + struct.pack("<I", 16) + chunk
    return start + b"data" + struct.pack("<I", size)


def _rf64_that_claims(path: Path) -> None:
    size = 298 * 2**30
    sizes = b"ds64" + struct.pack("<IQQQI", 28, size + 100, size, size // 2, 0)
    start = b"RF64" + struct.pack("<I", 2**32 - 1) + b"WAVE" + sizes
    path.write_bytes(start + _wav_header(16_000, 2**32 - 1)[12:] + bytes(2000))


def _wav(rate: int, size: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(_wav_header(rate, size) + bytes(4000))


SIZES: dict[str, tuple[str, Callable[[Path], object], bool]] = {
    "npz that inflates": ("a.npz", _npz_that_inflates, True),
    "npy that claims": ("a.npy", _npy_that_claims, True),
    "wav that claims": (
        "a.wav",
        lambda path: path.write_bytes(_wav_header(16_000, 2**32 - 2) + bytes(2000)) and None,
        False,
    ),
    "rf64 that claims": ("a.wav", _rf64_that_claims, False),
    "low rate": ("a.wav", _wav(1, 4000), True),
    "high rate": ("a.wav", _wav(2**31 - 1, 4000), True),
    "odd rate": ("a.wav", _wav(191_999, 4000), True),
}


@pytest.mark.parametrize("name", SIZES)
def test_claimed_sizes(name: str, tmp_path: Path):
    file, write, fails = SIZES[name]
    if file.endswith(".wav"):
        pytest.importorskip("soundfile")
    write(tmp_path / file)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=file) if fails else contextlib.nullcontext():
        _read_dataset(tmp_path / file)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MOST_MEGABYTES


def test_archives_that_inflate(tmp_path: Path):
    _archive_that_claims(tmp_path / "a.zip", "data", bytes(MEGABYTE), 2**31 + 1)
    with pytest.raises(ValueError, match=r"a\.zip.*2147483649 bytes"):
        SB3Agent("dqn").load(tmp_path / "a.zip", allow_pickle=True)


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (("hyperparameters",), "policy_kwargs", {"net_arch": [200_000, 200_000]}),
        (("observation_space",), "n", 10**9),
        (("observation_space",), "nvec", [10**9]),
        (("action_space",), "n", 10**9),
    ],
)
def test_networks_larger_than_their_weights(
    place: tuple[str, ...], name: str, value: Any, tmp_path: Path
):
    _trained("dqn").save(tmp_path / "agent")
    state = load_state(tmp_path / "agent.safetensors")
    table = state
    for each in place:
        table = table[each]
    table[name] = value
    save_state(tmp_path / "agent.safetensors", state)
    with pytest.raises(
        ValueError, match=r"agent\.safetensors is damaged: ValueError: its weights have at most"
    ):
        SB3Agent("dqn").load(tmp_path / "agent")


def test_layers_larger_than_their_weights(tmp_path: Path):
    path = READERS["layers"].write(tmp_path)
    state, metadata = load_state(path), load_metadata(path)
    for name in ("dims", "hidden", "ctx", "num_classes", "num_layers"):
        model = {**metadata["model"], name: 2**26}
        save_state(path, state, {**metadata, "model": model})
        with pytest.raises(ValueError, match=r"layers\.safetensors.* fewer weights"):
            load_stack(str(path))


# --- names ----------------------------------------------------------------------------------------

LEAVING = ("/etc/passwd", "../a", "a/../../b", "a/..", "..", "", ".", "C:/a", "C:a", "a\\b", "a\0b")


@pytest.mark.parametrize("name", LEAVING)
def test_files_of_a_node_stay_in_their_folder(name: str, tmp_path: Path):
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "kept.txt").write_bytes(b"kept")
    assert not is_inside(name)
    with pytest.raises(ValueError, match="outside"):
        replace_files(folder, {"a.txt": b"new", name: b"bad"})
    assert read_files(tmp_path) == {"job/kept.txt": b"kept"}
    with pytest.raises(UserError, match=r"jobs\.json.*folder"):
        _with_folder(tmp_path, name)


def _with_folder(folder: Path, name: str) -> object:
    path = _run_file("jobs.json")(folder)
    rows = json.loads(path.read_text())
    rows["jobs"][0]["folder"] = f"jobs/{name}" if ".." in name else name
    path.write_text(json.dumps(rows))
    return _read_run(path)


def test_links_do_not_leave_their_folder(tmp_path: Path):
    folder, outside = tmp_path / "job", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "secret.txt").write_bytes(b"secret")
    (folder / "link").symlink_to(outside)
    (folder / "file.txt").symlink_to(outside / "secret.txt")
    (folder / "own.txt").write_bytes(b"own")
    assert read_files(folder) == {"own.txt": b"own"}
    with pytest.raises(ValueError, match="outside"):
        replace_files(folder, {"link/secret.txt": b"bad"})
    replace_files(folder, {"file.txt": b"new"})
    assert (outside / "secret.txt").read_bytes() == b"secret"
    assert (folder / "file.txt").read_bytes() == b"new"
