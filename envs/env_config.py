"""The arguments of an environment, typed and checked: one list for all its faces.

What has a name or a number is a field of `Settings`. Live objects (layers, a source, a reward of
the user's own) stand beside them in `Parts`.
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

from spangym.attention import IntegratedAttention, Observation
from spangym.attention.layers.integrated import ActionScale
from spangym.attention.original.local_path import check_mended
from spangym.attention.span_config import SpanOptions, check_sizes
from spangym.envs.data.dataset import SPLITS, Source
from spangym.envs.data.dataset_registry import check_source
from spangym.envs.model.model_checkpoint import read_sizes
from spangym.envs.model.stack import Stack
from spangym.envs.observations import ENCODINGS
from spangym.envs.registration import arguments_of
from spangym.envs.rewards import REWARDS, Reward
from spangym.utils.suggestions import did_you_mean

_OBJECTS = {
    "source": "a path, or a Source that is made",
    "reward": "a Reward that is made",
    "layers": "a list of IntegratedAttention",
}
"""What may be handed in to an environment instead of a name or a number."""

OWN = "own"
"""Name of a source, a reward or layers that are an object of the user's."""


@dataclass(frozen=True)
class Settings:
    """Arguments of a span-control environment.

    Attributes:
        layers: Live layers in the stack.
        dims: Width of the layers; at least 4.
        heads: Attention heads of a layer; divides ``dims``.
        ctx: Tokens in a chunk.
        chunks: Chunks in an episode, which has ``chunks * layers`` steps.
        win_size: Window at span scale 1, in tokens.
        max_span: Span at span scale 1, in tokens; at least ``win_size``.
        max_dist: Upper bound on the span, in tokens; at least ``win_size``.
        temp_scale: Strength of the layers' temperature law.
        sharpen: Sharper scores for longer spans (True) or for shorter ones (False).
        layer: What the layers are: ``default``, or ``original``, as they were, defects and all
            (`spangym.attention.original.layer`).
        mended: Name of the one defect of original layers that is mended: ``temperature``,
            ``local_causal``, ``global_causal``, ``double_scale`` or ``cut``; none if empty.
        action_scale: What an action is a share of: the span that the layer predicts
            (``relative``), or the longest one (``absolute``). Trained layers are ``absolute``,
            whatever stands here.
        weights_seed: Seed of the layers' and the embedding's random weights.
        weights: Trained layers instead: a shipped name, or a file that ``spangym pretrain`` wrote.
            They bring their sizes with them; only ``ctx`` may be less.
        source: What the streams are drawn from: a shipped name, or a file or folder of one's own;
            see `spangym.envs.data.dataset_registry`.
        split: Part of the source that is read: ``train`` or ``evaluation``.
        reward: Name of the reward: ``quality``, ``attention`` or ``task``.
        price: What it costs, in units of reward, to visit the keys of one full attention in every
            layer of a chunk.
        refresh: Whether the action also decides if keys and values are computed anew.
        observe: Whether a decision is made from the chunk itself (``current``) or, so that nothing
            of a token is known before it, from the chunk before (``previous``).
        encoding: Name of the encoding: ``digits``, ``box``, ``features`` or ``state``.
        groups: Groups of dimensions that the features are pooled to first; 0 leaves them.
        lags: Whether lag correlations are observed, too.
        layer_index: Whether the observation says which layer is next.
        device: Where the layers run, as torch names it.

    Raises:
        TypeError: An argument has another type.
        ValueError: An argument breaks its rule.
    """

    layers: int = 2
    dims: int = 64
    heads: int = 4
    ctx: int = 256
    chunks: int = 8
    win_size: int = 256
    max_span: int = 384
    max_dist: int = 512
    temp_scale: float = 0.01
    sharpen: bool = True
    layer: str = "default"
    mended: str = ""
    action_scale: str = "relative"
    weights_seed: int = 0
    weights: str = ""
    source: str = "text"
    split: str = "train"
    reward: str = "quality"
    price: float = 0.0
    refresh: bool = False
    observe: str = "current"
    encoding: str = "digits"
    groups: int = 0
    lags: bool = False
    layer_index: bool = False
    device: str = "cpu"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), type(field.default))
        for name in ("layers", "chunks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.heads < 1 or self.dims % self.heads:
            raise ValueError(f"heads must divide dims, got heads={self.heads}, dims={self.dims}")
        check_sizes(self.ctx, self.dims, self.heads)
        SpanOptions(
            win_size=self.win_size,
            max_span=self.max_span,
            max_dist=self.max_dist,
            temp_scale=self.temp_scale,
            sharpen=self.sharpen,
        )
        if self.groups < 0 or (self.groups and self.dims % self.groups):
            raise ValueError(
                f"groups must divide dims (or be 0: no pooling), got groups={self.groups}, "
                f"dims={self.dims}"
            )
        if not 0 <= self.weights_seed < 2**63:
            raise ValueError(f"weights_seed must be in 0..2**63 - 1, got {self.weights_seed}")
        if not 0 <= self.price < math.inf:
            raise ValueError(f"price must be at least 0 and finite, got {self.price}")
        for name, known in (
            ("split", SPLITS),
            ("reward", (*REWARDS, OWN)),
            ("observe", ("current", "previous")),
            ("encoding", ENCODINGS),
            ("layer", ("default", "original")),
            ("action_scale", get_args(ActionScale)),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} {value!r} is unknown{did_you_mean(value, known)}")
        if self.mended:
            check_mended(self.mended)
            if self.layer != "original":
                raise ValueError(
                    f"mended is of the original layer, layer is {self.layer!r}: leave it out, or "
                    "set layer to 'original'"
                )
        if self.source != OWN:
            check_source(self.source)
        if self.weights:
            self._check_weights()
        check_device(self.device)

    @property
    def observation(self) -> Observation:
        """What is observed of a layer's input."""
        return Observation(
            self.dims, self.layers, self.encoding, self.groups, self.lags, self.layer_index
        )

    @property
    def full_keys(self) -> int:
        """Query-key pairs of one pass of full attention, in layers that settings can name.

        Of original layers, too, those of attention to both sides: what they price is the same.
        """
        named = self.weights and self.weights != OWN
        return full_keys(self.ctx, read_sizes(self.weights).causal if named else False)

    def _check_weights(self) -> None:
        of_random = _OF_RANDOM
        if self.weights != OWN:
            # Beside live layers it is the embedding's.
            of_random = (*of_random, "weights_seed")
            sizes = read_sizes(self.weights)
            for name in _SIZES:
                needed, given = getattr(sizes, name), getattr(self, name)
                if given != needed and not (name == "ctx" and given < needed):
                    raise ValueError(
                        f"{name} must be {needed}, as the weights {self.weights!r} have, "
                        f"got {given}"
                    )
        for name in of_random:
            if getattr(self, name) != getattr(type(self), name):
                raise ValueError(
                    f"{name} is of layers with random weights: leave it out beside the weights "
                    f"{self.weights!r}"
                )

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Settings:
        """Make settings from keyword arguments; weights bring their sizes with them.

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
        weights = arguments.get("weights")
        if weights and weights != OWN and isinstance(weights, str):
            sizes = read_sizes(weights)
            arguments = {**{name: getattr(sizes, name) for name in _SIZES}, **arguments}
        return cls(**arguments)


_SIZES = ("layers", "dims", "heads", "ctx", "win_size", "max_span", "max_dist")
_OF_RANDOM = ("temp_scale", "sharpen", "layer", "mended", "action_scale")
"""What trained and live layers bring with them, and settings do not say of them."""


Layers = Stack | Sequence[IntegratedAttention] | torch.nn.ModuleList
"""Live layers, as they may be handed in."""


class Parts(NamedTuple):
    """Live objects of the user's own that take the place of what `Settings` names.

    Attributes:
        layers: Layers, or a stack of them.
        source: Where the streams come from.
        reward: What judges decisions.
    """

    layers: Layers | None = None
    source: Source | None = None
    reward: Reward | None = None


def split_arguments(arguments: Mapping[str, Any]) -> tuple[Settings, Parts]:
    """Take keyword arguments apart: settings, and objects handed in for layers, source or reward.

    Layers take the place of weights, a reward brings its own price.

    Args:
        arguments: As an environment is given them.

    Raises:
        TypeError: An argument is unknown, or an object is none of its kind.
        ValueError: An argument breaks its rule.
    """
    named, objects = dict(arguments), {}
    layers = named.get("layers")
    if isinstance(layers, IntegratedAttention):
        layers = [layers]
    if isinstance(layers, Stack | Sequence | torch.nn.ModuleList) and not isinstance(layers, str):
        objects["layers"] = layers
        named = {**_sizes_of(layers, named), **named, "layers": len(live_modules(layers))}
        named["weights"] = OWN
    if isinstance(named.get("source"), Path):
        named["source"] = str(named["source"])
    for name, kind in (("source", Source), ("reward", Reward)):
        if isinstance(named.get(name), kind):
            objects[name] = named[name]
            named[name] = OWN
    if "reward" in objects:
        named["price"] = objects["reward"].price
    return Settings.from_arguments(named), Parts(**objects)


def live_modules(layers: Layers) -> list[IntegratedAttention]:
    """The layers themselves.

    Raises:
        TypeError: One is no `IntegratedAttention`, or there is none.
    """
    given = [*(layers.layers if isinstance(layers, Stack) else layers)]
    modules = [each for each in given if isinstance(each, IntegratedAttention)]
    if not modules or len(modules) < len(given):
        raise TypeError(
            "layers must be a number, or a sequence of IntegratedAttention, at least one; got "
            f"{[type(each).__name__ for each in given]}"
        )
    return modules


def _sizes_of(layers: Layers, given: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of live layers, as settings; what else was said of them is refused."""
    modules = live_modules(layers)
    first = modules[0]
    for name in ("dims", "heads", "win_size", "max_span", "max_dist", *_OF_RANDOM):
        if name in given:
            raise TypeError(f"argument {name!r} is the layers' own: leave it out beside layers")
    if len({each.dims for each in modules}) > 1:
        raise ValueError(f"layers must be of the same dims, got {[each.dims for each in modules]}")
    longest = min(each.ctx for each in modules)
    if isinstance(given.get("ctx"), int) and given["ctx"] > longest:
        raise ValueError(f"ctx must be at most {longest}, as the layers have, got {given['ctx']}")
    options = first.options
    return {
        "dims": first.dims,
        "heads": first.head,
        "ctx": min(longest, Settings.ctx),
        "win_size": options.win_size,
        "max_span": options.max_span,
        "max_dist": options.max_dist,
        "device": str(first.projection.weight.device),
    }


def full_keys(ctx: int, causal: bool) -> int:
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


def settings_for(name: str, arguments: Mapping[str, Any]) -> Settings:
    """Settings of an id, with arguments of one's own.

    Args:
        name: A registered id; ``spangym/`` may be left out.
        arguments: Arguments to change.

    Raises:
        ValueError: The id is unknown, or an argument breaks its rule.
        TypeError: An argument is unknown.
    """
    return Settings.from_arguments({**arguments_of(name), **arguments})
