"""The self-attention modules of a Transformers model, found by a pass of the model."""

from __future__ import annotations

import contextlib
import fnmatch
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spangym.utils.errors import describe_error
from spangym.utils.suggestions import did_you_mean

try:
    from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask
except ImportError as error:
    raise ImportError(
        "spangym.control needs the extra transformers: pip install 'spangym[transformers]'"
    ) from error

IMPLEMENTATION = "spangym"
"""Name of the attention function and of the mask function that are registered."""

ATTRIBUTE = "_span_control"
"""Attribute of an attention module: the object whose ``attend`` the attention function calls."""

_TOLERANCE = 1e-5
"""Largest difference in units of the outputs, in single and double precision."""


def _attention_function(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of a module that may be under control; the interface is Transformers'."""
    layer = getattr(module, ATTRIBUTE, None)
    attend = sdpa_attention_forward if layer is None else layer.attend
    return attend(module, query, key, value, attention_mask, dropout=dropout, **kwargs)


# Without the mask function Transformers would silently drop padding and native windows.
AttentionInterface.register(IMPLEMENTATION, _attention_function)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


@dataclass(frozen=True)
class AttentionModule:
    """A self-attention module.

    Attributes:
        name: Name in the model.
        module: The module.
        owner: The innermost Transformers model that contains it, whose passes are its passes.
        num_calls: Number of times that it is called in a pass.
    """

    name: str
    module: nn.Module
    owner: PreTrainedModel
    num_calls: int


def layer_name(model: nn.Module, attention: str) -> str:
    """Name of the layer around an attention module: the innermost member of a module list.

    Args:
        model: The model.
        attention: Name of the attention module, which is returned if it is in no list.
    """
    parts = attention.split(".")
    for end in range(len(parts) - 1, 0, -1):
        owner = model.get_submodule(".".join(parts[: end - 1]))
        if isinstance(owner, nn.ModuleList):
            return ".".join(parts[:end])
    return attention


class PreHook:
    """A forward pre-hook that copies of the model do not have.

    Args:
        hook: The function that is called.
    """

    def __init__(self, hook: Callable[..., None]) -> None:
        self._hook = hook

    def __call__(self, *args: Any) -> None:
        """Call the function."""
        self._hook(*args)

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        """Copy and pickle a hook that does nothing."""
        return _make_noop, ()


def _make_noop() -> Callable[..., None]:
    return _noop


def _noop(*args: object) -> None:
    del args


def unwrap_model(model: nn.Module) -> PreTrainedModel:
    """The Transformers model itself, of one that may be wrapped, for example by PEFT.

    Raises:
        TypeError: There is none.
    """
    if isinstance(model, nn.Module):
        for module in model.modules():
            if isinstance(module, PreTrainedModel):
                return module
    raise TypeError(
        f"model must be a transformers.PreTrainedModel or wrap one, got {type(model).__name__}"
    )


@contextlib.contextmanager
def attention_implementation(model: PreTrainedModel) -> Iterator[None]:
    """Let every attention module call the registered function; afterwards all is as before.

    Raises:
        ValueError: The model does not let its attention function be set.
    """
    configs = [*_configs(model)]
    before = [each._attn_implementation_internal for each in configs]
    try:
        if not model._can_set_attn_implementation():
            raise ValueError(_refusal(model, "its attention is not a registered function"))
        try:
            model.set_attn_implementation(IMPLEMENTATION)
        except ValueError as error:
            raise ValueError(_refusal(model, describe_error(error))) from error
        yield
    finally:
        for config, implementation in zip(configs, before, strict=True):
            config._attn_implementation_internal = implementation


def _configs(model: PreTrainedModel) -> list[Any]:
    """All configurations of a model and its parts."""
    found: dict[int, Any] = {}
    pending = [each.config for each in model.modules() if isinstance(each, PreTrainedModel)]
    while pending:
        config = pending.pop()
        if config is None or id(config) in found:
            continue
        found[id(config)] = config
        pending += [getattr(config, name, None) for name in config.sub_configs]
    return [*found.values()]


def _refusal(model: nn.Module, reason: str) -> str:
    return f"{type(model).__name__} cannot be controlled: {reason}"


def find_attention_modules(
    model: PreTrainedModel, example: Mapping[str, Any] | None
) -> list[AttentionModule]:
    """Find the self-attention modules by a pass of the model, in the order of `named_modules`.

    The pass also checks that the model gives with the registered function what it gives without.

    Args:
        model: The model.
        example: Keyword inputs of the model; made from its configuration if None.

    Raises:
        ValueError: The model calls no registered attention function, or gives something else with
            it, or no inputs can be made for it.
    """
    inputs = _example_inputs(model) if example is None else dict(example)
    with _deterministic(model):
        expected = _first_tensor(_call(model, inputs))
        recorder = _Recorder()
        modules = [*model.modules()]
        try:
            for module in modules:
                setattr(module, ATTRIBUTE, recorder)
            with attention_implementation(model):
                given = _first_tensor(_call(model, inputs))
        finally:
            for module in modules:
                module.__dict__.pop(ATTRIBUTE, None)
    if not recorder.calls:
        raise ValueError(_refusal(model, "it calls no registered attention function"))
    tolerance = max(_TOLERANCE, 8 * torch.finfo(expected.dtype).eps)
    scale = float(expected.abs().max().clamp_min(1))
    if not torch.allclose(given, expected, rtol=0, atol=tolerance * scale, equal_nan=True):
        raise ValueError(
            _refusal(model, "with scaled dot-product attention it gives other outputs than now")
        )
    owners: list[tuple[str, PreTrainedModel]] = [
        (name, each) for name, each in model.named_modules() if isinstance(each, PreTrainedModel)
    ]
    found = []
    for name, module in model.named_modules():
        if module in recorder.calls and not recorder.crosses[module]:
            # The innermost owner is the last one whose name begins the module's.
            owner = [each for prefix, each in owners if not prefix or name.startswith(prefix + ".")]
            found.append(AttentionModule(name, module, owner[-1], recorder.calls[module]))
    return found


class _Recorder:
    """Records which modules call the attention function, and which read another sequence."""

    def __init__(self) -> None:
        self.calls: Counter[nn.Module] = Counter()
        self.crosses: Counter[nn.Module] = Counter()

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, None]:
        self.calls[module] += 1
        # In the example the two sequences of an encoder-decoder have different lengths.
        self.crosses[module] += query.shape[2] != key.shape[2]
        return sdpa_attention_forward(module, query, key, *args, **kwargs)


@contextlib.contextmanager
def _deterministic(model: nn.Module) -> Iterator[None]:
    """Evaluate a model without dropout, gradients and compilation.

    Afterwards its modes are as before.
    """
    training = [each for each in model.modules() if each.training]
    model.eval()
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module in training:
            module.training = True


def _call(model: PreTrainedModel, inputs: Mapping[str, Any]) -> Any:
    try:
        return model(**inputs)
    except Exception as error:  # Models of others may raise anything.
        raise ValueError(
            f"{type(model).__name__} cannot be called with {', '.join(inputs)} of the example: "
            f"{describe_error(error)}; give example=, keyword inputs of the model"
        ) from error


def _first_tensor(output: Any) -> Tensor:
    values = output.values() if isinstance(output, Mapping) else output
    return next(each for each in values if isinstance(each, Tensor) and each.is_floating_point())


def _example_inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """Small inputs that only need the model's configuration."""
    config, name = model.config, model.main_input_name
    text_config = config.get_text_config()
    parameter = next(model.parameters())
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(parameter.device, parameter.dtype)

    def token_ids(tokens: int) -> Tensor:
        ids = torch.arange(tokens)[None] + 3
        return (ids % text_config.vocab_size).to(parameter.device)

    inputs: dict[str, Tensor] = {}
    if name == "pixel_values":
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        inputs[name] = normal(1, config.num_channels, height, width)
    elif name == "input_features":
        inputs[name] = normal(1, config.num_mel_bins, 2 * config.max_source_positions)
    elif name == "input_values":
        inputs[name] = normal(1, 4_000)
    elif name == "input_ids":
        inputs[name] = token_ids(8)
    else:
        raise ValueError(f"no example of {name!r} can be made: give example=, keyword inputs")
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = token_ids(5)
    return inputs


def select_modules(
    model: PreTrainedModel, modules: list[AttentionModule], where: str
) -> list[AttentionModule]:
    """Select modules by ``all``, ``encoder_self``, ``decoder_self`` or a glob over their names.

    Raises:
        ValueError: No module matches.
    """
    if where == "all":
        return modules
    if where in ("encoder_self", "decoder_self"):
        chosen = [each for each in modules if _side(model, each) == where]
    else:
        chosen = [each for each in modules if fnmatch.fnmatchcase(each.name, where)]
    if not chosen:
        names = ["all", "encoder_self", "decoder_self", *(each.name for each in modules)]
        raise ValueError(f"where {where!r} matches no attention module{did_you_mean(where, names)}")
    return chosen


def _side(model: PreTrainedModel, attention: AttentionModule) -> str:
    """Side of a module: that of an encoder-decoder, otherwise by its causality."""
    if model.config.is_encoder_decoder:
        parts = attention.name.split(".")
        return "decoder_self" if "decoder" in parts else "encoder_self"
    return "decoder_self" if getattr(attention.module, "is_causal", False) else "encoder_self"
