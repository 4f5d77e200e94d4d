"""The arguments of an environment, typed and checked: one list for all its faces.

What has a name or a number is a field of `EnvConfig`. Live objects (layers, a dataset, a reward of
the user's own) stand beside them in `EnvComponents`.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch

from spangym.attention import IntegratedAttention, ObservationSpec
from spangym.attention.original.local_path import check_fix
from spangym.attention.span_config import ActionScale, SpanConfig
from spangym.attention.temperature import TemperatureLaw
from spangym.attention.validation import check_sizes
from spangym.envs.data.dataset import SPLITS, Dataset
from spangym.envs.data.dataset_registry import validate_dataset_name
from spangym.envs.model.model_checkpoint import load_config
from spangym.envs.model.stack import LayerStack
from spangym.envs.observations import ENCODINGS
from spangym.envs.registration import default_kwargs
from spangym.envs.rewards import REWARDS, Reward
from spangym.utils.suggestions import did_you_mean

_OBJECTS = {
    "dataset": "a path, or a Dataset that is made",
    "reward": "a Reward that is made",
}
"""What may be handed in to an environment instead of a name or a number."""

CUSTOM = "own"
"""Name of a dataset, a reward or layers that are an object of the user's."""


@dataclass(frozen=True)
class EnvConfig:
    """Arguments of a span-control environment.

    Attributes:
        num_layers: Live layers in the stack.
        dims: Width of the layers; at least 4.
        heads: Attention heads of a layer; divides ``dims``.
        ctx: Tokens in a chunk.
        chunks_per_episode: Chunks in an episode, which has ``chunks_per_episode * num_layers`` steps.
        win_size: Window at span scale 1, in tokens.
        max_span: Span at span scale 1, in tokens; at least ``win_size``.
        max_dist: Upper bound on the span, in tokens; at least ``win_size``.
        temp_scale: Strength of the layers' temperature law.
        temperature_law: Name of the temperature law: see `spangym.attention.temperature`.
        layer_variant: What the layers are: ``default``, or ``original``, as they were, defects and all
            (`spangym.attention.original.layer`).
        fixes: Name of the one defect of original layers that is fixed: ``temperature``,
            ``local_causal``, ``global_causal``, ``double_scale`` or ``cut``; none if empty.
        action_scale: What an action is a share of: the span that the layer predicts
            (``relative``), or the longest one (``absolute``). Trained layers are ``absolute``,
            whatever stands here.
        weights_seed: Seed of the layers' and the embedding's random weights.
        checkpoint: Trained layers instead: a shipped name, or a file that ``spangym pretrain`` wrote.
            They bring their sizes with them; only ``ctx`` may be less.
        dataset: What the streams are drawn from: a shipped name, or a file or folder of one's own;
            see `spangym.envs.data.dataset_registry`.
        split: Part of the dataset that is read: ``train`` or ``evaluation``.
        reward: Name of the reward: ``quality``, ``attention`` or ``task``.
        cost_coef: What it costs, in units of reward, to visit the keys of one full attention in every
            layer of a chunk.
        control_kv_cache: Whether the action also decides if keys and values are computed anew.
        observation_time: Whether a decision is made from the chunk itself (``current``) or, so that nothing
            of a token is known before it, from the chunk before (``previous``).
        encoding: Name of the encoding: ``digits``, ``box``, ``features`` or ``state``.
        pool_groups: Groups of dimensions that the features are pooled to first; 0 leaves them.
        autocorrelation: Whether lag correlations are observed, too.
        include_layer_index: Whether the observation says which layer is next.
        device: Where the layers run, as torch names it.

    Raises:
        TypeError: An argument has another type.
        ValueError: An argument breaks its rule.
    """

    num_layers: int = 2
    dims: int = 64
    heads: int = 4
    ctx: int = 256
    chunks_per_episode: int = 8
    win_size: int = 256
    max_span: int = 384
    max_dist: int = 512
    temp_scale: float = 0.01
    temperature_law: TemperatureLaw = "longer"
    layer_variant: str = "default"
    fixes: str = ""
    action_scale: str = "relative"
    weights_seed: int = 0
    checkpoint: str = ""
    dataset: str = "text"
    split: str = "train"
    reward: str = "quality"
    cost_coef: float = 0.0
    control_kv_cache: bool = False
    observation_time: str = "current"
    encoding: str = "digits"
    pool_groups: int = 0
    autocorrelation: bool = False
    include_layer_index: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), type(field.default))
        for name in ("num_layers", "chunks_per_episode"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.heads < 1 or self.dims % self.heads:
            raise ValueError(f"heads must divide dims, got heads={self.heads}, dims={self.dims}")
        check_sizes(self.ctx, self.dims, self.heads)
        SpanConfig(
            win_size=self.win_size,
            max_span=self.max_span,
            max_dist=self.max_dist,
            temp_scale=self.temp_scale,
            temperature_law=self.temperature_law,
        )
        if self.pool_groups < 0 or (self.pool_groups and self.dims % self.pool_groups):
            raise ValueError(
                f"pool_groups must divide dims (or be 0: no pooling), got pool_groups={self.pool_groups}, "
                f"dims={self.dims}"
            )
        if not 0 <= self.weights_seed < 2**63:
            raise ValueError(f"weights_seed must be in 0..2**63 - 1, got {self.weights_seed}")
        if not 0 <= self.cost_coef < math.inf:
            raise ValueError(f"cost_coef must be at least 0 and finite, got {self.cost_coef}")
        for name, known in (
            ("split", SPLITS),
            ("reward", (*REWARDS, CUSTOM)),
            ("observation_time", ("current", "previous")),
            ("encoding", ENCODINGS),
            ("layer_variant", ("default", "original")),
            ("action_scale", get_args(ActionScale)),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} {value!r} is unknown{did_you_mean(value, known)}")
        if self.fixes:
            check_fix(self.fixes)
            if self.layer_variant != "original":
                raise ValueError(
                    f"fixes is of the original layer, layer_variant is {self.layer_variant!r}: leave it out, or "
                    "set layer_variant to 'original'"
                )
        if self.dataset != CUSTOM:
            validate_dataset_name(self.dataset)
        if self.checkpoint:
            self._check_weights()
        check_device(self.device)

    @property
    def observation(self) -> ObservationSpec:
        """What is observed of a layer's input."""
        return ObservationSpec(
            self.dims,
            self.num_layers,
            self.encoding,
            self.pool_groups,
            self.autocorrelation,
            self.include_layer_index,
        )

    @property
    def full_qk_pairs(self) -> int:
        """Query-key pairs of one pass of full attention, in layers that settings can name.

        Of original layers, too, those of attention to both sides: what their cost counts is the same.
        """
        named = self.checkpoint and self.checkpoint != CUSTOM
        return full_qk_pairs(self.ctx, load_config(self.checkpoint).causal if named else False)

    def _check_weights(self) -> None:
        of_random = _RANDOM_LAYER_FIELDS
        if self.checkpoint != CUSTOM:
            # Beside live layers it is the embedding's.
            of_random = (*of_random, "weights_seed")
            sizes = load_config(self.checkpoint)
            for name in _SIZES:
                needed, given = getattr(sizes, name), getattr(self, name)
                if given != needed and not (name == "ctx" and given < needed):
                    raise ValueError(
                        f"{name} must be {needed}, as the checkpoint {self.checkpoint!r} has, "
                        f"got {given}"
                    )
        for name in of_random:
            if getattr(self, name) != getattr(type(self), name):
                raise ValueError(
                    f"{name} is of layers with random weights: leave it out beside the checkpoint "
                    f"{self.checkpoint!r}"
                )

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> EnvConfig:
        """Make settings from keyword arguments; a checkpoint brings its sizes with it.

        Raises:
            TypeError: An argument is unknown; the message names the nearest.
            ValueError: An argument breaks its rule.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in arguments:
            if name not in known:
                raise TypeError(
                    f"got an unexpected keyword argument {name!r}{did_you_mean(name, known)}"
                )
        weights = arguments.get("checkpoint")
        if weights and weights != CUSTOM and isinstance(weights, str):
            sizes = load_config(weights)
            arguments = {**{name: getattr(sizes, name) for name in _SIZES}, **arguments}
        return cls(**arguments)


_SIZES = ("num_layers", "dims", "heads", "ctx", "win_size", "max_span", "max_dist")
_RANDOM_LAYER_FIELDS = ("temp_scale", "temperature_law", "layer_variant", "fixes", "action_scale")
"""What trained and live layers bring with them, and settings do not say of them."""


Layers = LayerStack | Sequence[IntegratedAttention] | torch.nn.ModuleList
"""Live layers, as they may be handed in."""


class EnvComponents(NamedTuple):
    """Live objects of the user's own that take the place of what `EnvConfig` names.

    Attributes:
        layers: Layers, or a stack of them.
        dataset: Where the streams come from.
        reward: What judges decisions.
    """

    layers: Layers | None = None
    dataset: Dataset | None = None
    reward: Reward | None = None


def parse_env_kwargs(arguments: Mapping[str, Any]) -> tuple[EnvConfig, EnvComponents]:
    """Take keyword arguments apart: settings, and objects handed in for layers, dataset or reward.

    Layers take the place of a checkpoint, a reward brings its own cost coefficient.

    Args:
        arguments: As an environment is given them.

    Raises:
        TypeError: An argument is unknown, or an object is none of its kind.
        ValueError: An argument breaks its rule.
    """
    named, objects = dict(arguments), {}
    if "layers" in named:
        layers = named.pop("layers")
        if isinstance(layers, IntegratedAttention):
            layers = [layers]
        if isinstance(layers, str) or not isinstance(
            layers, LayerStack | Sequence | torch.nn.ModuleList
        ):
            given = repr(layers) if isinstance(layers, int | float | str) else type(layers).__name__
            raise TypeError(
                f"layers must be a sequence of IntegratedAttention, got {given}: the number of "
                "layers is num_layers"
            )
        objects["layers"] = layers
        named = {**_sizes_of(layers, named), **named, "num_layers": len(unwrap_layers(layers))}
        named["checkpoint"] = CUSTOM
    if isinstance(named.get("dataset"), Path):
        named["dataset"] = str(named["dataset"])
    for name, kind in (("dataset", Dataset), ("reward", Reward)):
        if isinstance(named.get(name), kind):
            objects[name] = named[name]
            named[name] = CUSTOM
    if "reward" in objects:
        named["cost_coef"] = objects["reward"].cost_coef
    return EnvConfig.from_arguments(named), EnvComponents(**objects)


def unwrap_layers(layers: Layers) -> list[IntegratedAttention]:
    """The layers themselves.

    Raises:
        TypeError: One is no `IntegratedAttention`, or there is none.
    """
    given = [*(layers.layers if isinstance(layers, LayerStack) else layers)]
    modules = [each for each in given if isinstance(each, IntegratedAttention)]
    if not modules or len(modules) < len(given):
        raise TypeError(
            "layers must be a sequence of IntegratedAttention, at least one; got "
            f"{[type(each).__name__ for each in given]}"
        )
    return modules


def _sizes_of(layers: Layers, given: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of live layers, as settings; what else was said of them is refused."""
    modules = unwrap_layers(layers)
    first = modules[0]
    for name in (
        "num_layers",
        "dims",
        "heads",
        "win_size",
        "max_span",
        "max_dist",
        *_RANDOM_LAYER_FIELDS,
    ):
        if name in given:
            raise TypeError(f"argument {name!r} is the layers' own: leave it out beside layers")
    if len({each.dims for each in modules}) > 1:
        raise ValueError(f"layers must be of the same dims, got {[each.dims for each in modules]}")
    longest = min(each.ctx for each in modules)
    if isinstance(given.get("ctx"), int) and given["ctx"] > longest:
        raise ValueError(f"ctx must be at most {longest}, as the layers have, got {given['ctx']}")
    options = first.config
    return {
        "dims": first.dims,
        "heads": first.head,
        "ctx": min(longest, EnvConfig.ctx),
        "win_size": options.win_size,
        "max_span": options.max_span,
        "max_dist": options.max_dist,
        "device": str(first.projection.weight.device),
    }


def full_qk_pairs(ctx: int, causal: bool) -> int:
    """Query-key pairs of one pass of full attention over so many tokens."""
    return ctx * (ctx + 1) // 2 if causal else ctx**2


def _check_type(name: str, value: object, expected: type) -> None:
    number = {int: numbers.Integral, float: numbers.Real}.get(expected, expected)
    if not isinstance(value, number) or (isinstance(value, bool) and expected is not bool):
        plain = isinstance(value, str | int | float | bool | None)
        shown = repr(value) if plain else f"a {type(value).__name__}"
        if isinstance(value, type):
            shown = f"the class {value.__name__}"
        besides = f", or {_OBJECTS[name]}" if name in _OBJECTS else ""
        raise TypeError(f"{name} must be of type {expected.__name__}{besides}; got {shown}")


def check_device(name: str) -> torch.device:
    """The device of that name, after a look whether it is there.

    Raises:
        ValueError: There is no such device on this machine.
    """
    try:
        device = torch.device(name)
        # Counts are held in float64, which not every device has.
        torch.zeros(1, dtype=torch.float64, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise ValueError(
            f"device {name!r} cannot be used on this machine; it has: {', '.join(there)}"
        ) from error
    return device


def make_config(name: str, arguments: Mapping[str, Any]) -> EnvConfig:
    """EnvConfig of an id, with arguments of one's own.

    Args:
        name: A registered id; ``spangym/`` may be left out.
        arguments: Arguments to change.

    Raises:
        ValueError: The id is unknown, or an argument breaks its rule.
        TypeError: An argument is unknown.
    """
    return EnvConfig.from_arguments({**default_kwargs(name), **arguments})
