"""The arguments of an environment, typed and validated, for all interfaces.

Names and numbers are fields of `EnvConfig`. Objects of the user's own (layers, a dataset, a reward)
are in `EnvComponents`.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import gymnasium as gym
import torch
from annotated_types import Interval
from gymnasium.envs.registration import EnvSpec

from spangym.attention import (
    NUM_ACTIONS,
    FocusAttention,
    HybridAttention,
    IntegratedAttention,
    LocalGlobalAttention,
    ObservationSpec,
)
from spangym.attention.controllers.protocol import num_actions_of, num_states_of
from spangym.attention.features import MAX_STATES, NUM_STATES
from spangym.attention.geometry import MAX_ACTIONS, full_qk_pairs
from spangym.attention.observation_spec import ENCODINGS
from spangym.attention.original.truncation import parse_fixes
from spangym.attention.span_config import ActionScale, GlobalPath, SpanConfig
from spangym.attention.temperature import TemperatureLaw
from spangym.attention.transformers.span_choosers import DEFAULT_SPANS, parse_spans
from spangym.attention.validation import check_sizes
from spangym.envs.data.dataset import SPLITS, Dataset
from spangym.envs.data.dataset_registry import (
    TASKS,
    make_dataset,
    validate_dataset_name,
)
from spangym.envs.data.tasks import MAX_DIFFICULTY
from spangym.envs.levels import MAX_LEVEL
from spangym.envs.model.cache_transformer_config import CacheTransformerConfig
from spangym.envs.model.model_checkpoint import load_config
from spangym.envs.model.pretrained_sizes import PretrainedSizes, past_pairs, read_sizes, sizes_of
from spangym.envs.model.stack import LayerStack
from spangym.envs.registration import ENVIRONMENTS, default_kwargs
from spangym.envs.rewards import Reward, make_reward
from spangym.utils.errors import describe_error
from spangym.utils.importing import import_object, is_import_path, module_sha256
from spangym.utils.readable_repr import readable_repr, short_repr
from spangym.utils.scalars import as_float, as_int, as_str, describe, normalize_fields, plain
from spangym.utils.signatures import construct
from spangym.utils.suggestions import did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LAYER_CLASSES: dict[str, type[IntegratedAttention] | type[HybridAttention]] = {
    "integrated": IntegratedAttention,
    "focus": FocusAttention,
    "hybrid": HybridAttention,
}
"""Layers with random weights, by the argument ``layer_class``."""

CUSTOM = "own"
"""Name of a dataset, a reward, layers or a model that are an object of the user's."""

MAX_TABLE_LAYERS = 3
"""Largest number of layers of a table, which holds all action sequences of a chunk."""
MAX_TABLE_SEQUENCES = 10_000
"""Largest number of action sequences of a chunk in a table."""

MAX_COST_COEF = 1e6
"""Upper bound of the cost coefficient."""

_SPAN_SIZES = ("win_size", "max_span", "max_dist")
_CHECKPOINT_SIZES = ("num_layers", "dims", "heads", "ctx", *_SPAN_SIZES)
_LAW_OPTIONS = ("temp_scale", "temperature_law")
"""Arguments of layers with random weights and of trained ones; live layers bring their own."""

_MODEL_CTX = 512
"""Largest default number of tokens in a chunk of a pretrained model."""

GLOBAL_PATH_OPTIONS = ("global_path", "pool")

_SPAN_OPTIONS = (*_SPAN_SIZES, *_LAW_OPTIONS, "action_scale", *GLOBAL_PATH_OPTIONS)
_RANDOM_LAYER_FIELDS = (
    "action_scale",
    *GLOBAL_PATH_OPTIONS,
    "layer_class",
    "layer_variant",
    "fixes",
)
"""Fields that only layers with random weights have; checkpoints and live layers bring their own."""


_MODEL_OPTIONS = ("groups", "blocks", "spans", "sinks")
"""Arguments of pretrained models; a checkpoint that reads in blocks has all but the first."""

_SET_BY_MODEL = ("num_layers", "num_actions", "dims", "heads", *_SPAN_SIZES, "action_scale")
"""Fields that a pretrained model and its options determine."""


@dataclass(frozen=True)
class EnvConfig:
    """Arguments of a span-control environment.

    Attributes:
        num_layers: Number of layers in the stack, default 2.
        dims: Width of the layers, at least 4, default 64.
        heads: Attention heads of a layer, a divisor of ``dims``, default 4.
        ctx: Tokens in a chunk, default 256.
        chunks_per_episode: Chunks in an episode of ``chunks_per_episode * num_layers`` steps,
            default 8.
        win_size: Window at span scale 1, in tokens, default 256.
        max_span: Span at span scale 1, in tokens, at least ``win_size``, default 384.
        max_dist: Upper bound of the span, in tokens, at least ``win_size``, default 512.
        temp_scale: Strength of the temperature law, default 0.01, or as in the checkpoint.
        temperature_law: Name of the temperature law (`spangym.attention.temperature`), default
            ``longer``, or as in the checkpoint: the shipped ones were trained with ``none``.
            ``learned`` is for checkpoints that were trained with it.
        layer_class: ``integrated`` (default) for `IntegratedAttention`, ``focus`` for
            `FocusAttention` or ``hybrid`` for `HybridAttention`, which has no agent of its own:
            here an action sets its span as in the others. `from_arguments` takes the defaults of
            the span options from the class.
        layer_variant: ``default``, or ``original`` for layers with all defects of the original code
            (`spangym.attention.original`).
        fixes: Defects of original layers that are fixed, a list of names, or one name:
            ``temperature`` (local scores are divided by it), ``local_causal`` (a query sees all
            keys of its window's interval), ``global_causal`` (the global path is bidirectional),
            ``double_scale`` (global scores are scaled once), ``cut`` (a window sees its whole
            interval, up to each query); default ``()``, none. The weights and the unit of the cost
            do not depend on it.
        action_scale: Whether actions are fractions of the predicted span (``relative``, default) or
            of the longest span (``absolute``). Trained layers are always ``absolute``.
        global_path: What the global path of layers attends to: ``full`` (default) to every token,
            ``pooled`` to means of blocks of tokens, ``none`` for layers without a global path.
        pool: Tokens of a block of the pooled global path, default 16.
        layers: ``module:function`` that returns layers or a `LayerStack` of the user's own; default
            ``""``. They set the sizes; only ``ctx`` may be reduced.
        layers_kwargs: Arguments of the function.
        weights_seed: Seed of the random weights of layers and embedding, default 0.
        checkpoint: Trained layers: a builtin name, or a file written by ``spangym pretrain``;
            default ``""``, random weights. A checkpoint sets all sizes; only ``ctx`` may be
            reduced.
        model: A pretrained model of Transformers whose spans are controlled
            (`spangym.attention.transformers.load_model`): a builtin name, a folder, or the id of a
            model on a hub; default ``""``, none. It sets the sizes; only ``ctx``, by default at
            most 512, may be changed. Datasets of bytes are read through its tokenizer.
        groups: Groups of consecutive layers of the model, each with a decision of its own, which
            stand for layers; 0 without a model and with ``blocks``, otherwise at least 1, the
            default.
        blocks: Blocks in which the model reads a chunk with a key-value cache, a divisor of
            ``ctx``, at least 2; each action but before the first block says how many of the last
            tokens stay in the cache, and these decisions stand for layers. Default 0: the model
            reads chunks at once. Of a checkpoint that reads in blocks, the blocks in ``ctx``.
        spans: Span of each action on the model, in tokens, ascending; the last may be ``full``.
            Default ``()`` without a model, otherwise 16, 32, 64, 128, 256 and ``full``; also for a
            checkpoint that reads in blocks.
        sinks: First tokens of a chunk that stay visible at every span of the model, less than
            ``ctx``, default 4, or 0 for a checkpoint that reads in blocks.
        dataset: A builtin name, the path of a file or folder, a list of files, or ``module:Class``
            (`spangym.envs.data.dataset_registry`), default ``text``.
        dataset_kwargs: Arguments of a ``module:Class`` other than ``split``.
        difficulty: How the datasets ``long-range``, ``collapse``, ``precision``, ``hierarchy`` and
            ``sparsity`` show the content type: 0 by the alphabet, 1 (default) by one marker, 2 only
            by the distance of repeats (`spangym.envs.data.tasks`).
        split: ``train`` (default) or ``evaluation``.
        num_levels: Number of levels, fixed chunks from which episodes are drawn, as in Procgen;
            default 0, new content in each episode.
        start_level: First level, default 0: the levels are ``start_level`` to ``start_level +
            num_levels - 1``. Equal levels have equal content, whatever their number is.
        backend: ``live`` (default), or ``table`` to look everything up that the layers would
            compute, in a table of all action sequences of all levels (`spangym.envs.tabulate`).
        reward: ``quality`` (default), ``attention``, ``task`` or ``fidelity``, or the
            ``module:Class`` of a `spangym.envs.Reward`.
        reward_kwargs: Arguments of the reward other than ``cost_coef``: ``coverage_weight``
            (default 1) and ``entropy_weight`` (default 0.1) of ``quality`` and ``attention``.
        cost_coef: Cost of scoring the query-key pairs of one full attention in every layer of a
            chunk, in units of reward, default 0; or the lowest and the highest, both above 0:
            each episode then draws its own, uniformly in its logarithm.
        num_actions: Number of spans to choose from, in 2..1000, default 10: action ``a`` asks for
            the fraction ``a / (num_actions - 1)``.
        control_kv_cache: Whether the action also sets the recomputation of keys and values.
        observation_time: Whether observations are of the ``current`` chunk (default) or of the
            ``previous`` one, so that no action depends on tokens that come later.
        encoding: ``digits`` (default), ``box``, ``features`` or ``state``.
        pool_groups: Groups of dimensions to average the features over; default 0, no pooling.
        autocorrelation: Whether the observation includes lag correlations.
        include_layer_index: Whether the observation includes the index of the layer; of state ids,
            each layer then has its own range.
        include_cost_coef: Whether the observation includes the cost coefficient of the episode,
            scaled to [-1, 1), as one more feature.
        num_states: Number of states of the encoding ``state``, in 2..1,000,000, default 10,000:
            ids are taken modulo ``num_states - 1``.
        include_cache_size: Whether the observation includes the share of a document's tokens that
            the key-value cache of a checkpoint holds, default false: the size is itself a memory.
        device: Device of the layers, as PyTorch names it, default ``cpu``.

    Raises:
        TypeError: An argument has another type.
        ValueError: An argument is invalid; bounds of numbers are those of the fields.
    """

    __repr__ = readable_repr

    num_layers: Annotated[int, Interval(ge=1, le=1024)] = 2
    dims: Annotated[int, Interval(ge=4, le=2**16)] = 64
    heads: Annotated[int, Interval(ge=1, le=2**16)] = 4
    ctx: Annotated[int, Interval(ge=1, le=2**20)] = 256
    chunks_per_episode: Annotated[int, Interval(ge=1, le=2**20)] = 8
    win_size: Annotated[int, Interval(ge=1, le=2**31 - 1)] = 256
    max_span: Annotated[int, Interval(ge=1, le=2**31 - 1)] = 384
    max_dist: Annotated[int, Interval(ge=1, le=2**31 - 1)] = 512
    temp_scale: Annotated[float, Interval(ge=0, le=1e6)] = 0.01
    temperature_law: TemperatureLaw = "longer"
    layer_class: str = "integrated"
    layer_variant: str = "default"
    fixes: tuple[str, ...] = ()
    action_scale: ActionScale = "relative"
    global_path: GlobalPath = "full"
    pool: Annotated[int, Interval(ge=1, le=2**31 - 1)] = 16
    weights_seed: Annotated[int, Interval(ge=0, le=2**63 - 1)] = 0
    checkpoint: str = ""
    model: str = ""
    groups: Annotated[int, Interval(ge=0, le=1024)] = 0
    blocks: Annotated[int, Interval(ge=0, le=1025)] = 0
    spans: tuple[int | str, ...] = ()
    sinks: Annotated[int, Interval(ge=0, le=2**20)] = 4
    dataset: str | tuple[str, ...] = "text"
    difficulty: Annotated[int, Interval(ge=0, le=MAX_DIFFICULTY)] = 1
    split: str = "train"
    num_levels: Annotated[int, Interval(ge=0, le=MAX_LEVEL + 1)] = 0
    start_level: Annotated[int, Interval(ge=0, le=MAX_LEVEL)] = 0
    backend: str = "live"
    reward: str = "quality"
    cost_coef: Annotated[float, Interval(ge=0, le=1e6)] | tuple[float, float] = 0.0
    num_actions: Annotated[int, Interval(ge=2, le=MAX_ACTIONS)] = NUM_ACTIONS
    control_kv_cache: bool = False
    observation_time: str = "current"
    encoding: str = "digits"
    pool_groups: Annotated[int, Interval(ge=0, le=2**16)] = 0
    autocorrelation: bool = False
    include_layer_index: bool = False
    include_cost_coef: bool = False
    num_states: Annotated[int, Interval(ge=2, le=MAX_STATES)] = NUM_STATES
    include_cache_size: bool = False
    device: str = "cpu"
    dataset_kwargs: dict[str, Any] = field(default_factory=dict)
    reward_kwargs: dict[str, Any] = field(default_factory=dict)
    layers: str = ""
    layers_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "fixes", parse_fixes(self.fixes))
        for name in ("dataset", "reward"):
            _check_object(name, getattr(self, name))
        normalize_fields(self)
        object.__setattr__(self, "dataset", _as_dataset_name(self.dataset))
        object.__setattr__(self, "spans", _as_spans(self.spans))
        object.__setattr__(self, "cost_coef", _as_cost_coef(self.cost_coef))
        if self.heads < 1 or self.dims % self.heads:
            raise ValueError(f"heads must divide dims, got heads={self.heads}, dims={self.dims}")
        check_sizes(self.ctx, self.dims, self.heads)
        SpanConfig(**self.span_options)
        for name, known in (
            ("split", SPLITS),
            ("observation_time", ("current", "previous")),
            ("encoding", ENCODINGS),
            ("layer_class", LAYER_CLASSES),
            ("layer_variant", ("default", "original")),
            ("backend", ("live", "table")),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(
                    f"{name} {short_repr(value)} is unknown{did_you_mean(value, known)}"
                )
        _ = self.observation_spec
        if self.fixes and self.layer_variant != "original":
            raise ValueError(
                f"fixes is for layer_variant 'original', not {self.layer_variant!r}: omit fixes"
            )
        if self.global_path != "full" and self.layer_variant == "original":
            raise ValueError("global_path must be 'full' with layer_variant 'original': omit it")
        for name in ("dataset", "reward"):
            if getattr(self, name) == CUSTOM and getattr(self, f"{name}_kwargs"):
                raise ValueError(f"{name}_kwargs is for a {name} by name: omit it with an object")
        if self.dataset != CUSTOM:
            validate_dataset_name(self.dataset)
            if self.dataset_kwargs and not is_import_path(str(self.dataset)):
                raise ValueError(
                    f"dataset {self.dataset!r} takes no dataset_kwargs: only module:Class does"
                )
        if self.difficulty != type(self).difficulty and self.dataset not in TASKS:
            names = ", ".join(TASKS)
            raise ValueError(
                f"difficulty is for the datasets {names}: omit it with {self.dataset!r}"
            )
        if self.reward != CUSTOM:
            self.make_reward()
        for name in ("checkpoint", "layers"):
            if self.model and getattr(self, name):
                raise ValueError(f"give either model or {name}, not both")
        if self.checkpoint:
            self._check_checkpoint()
        self._check_layers()
        self._check_model()
        self._check_levels()
        check_device(self.device)

    def _check_checkpoint(self) -> None:
        random_layer_fields = (*_RANDOM_LAYER_FIELDS, *_LAW_OPTIONS)
        # Live layers may stand on an embedding with random weights.
        if self.checkpoint != CUSTOM:
            random_layer_fields = (*_RANDOM_LAYER_FIELDS, "weights_seed")
            sizes = load_config(self.checkpoint)
            if isinstance(sizes, CacheTransformerConfig):
                self._check_block_checkpoint(sizes)
                return
            for name in _CHECKPOINT_SIZES:
                needed, given = getattr(sizes, name), getattr(self, name)
                if given != needed and not (name == "ctx" and given < needed):
                    where = f"as in checkpoint {self.checkpoint!r}"
                    raise ValueError(f"{name} must be {needed}, {where}, got {given}")
            laws = (sizes.temperature_law, self.temperature_law)
            if laws[0] != laws[1] and "learned" in laws:
                raise ValueError(
                    f"temperature_law must not be {laws[1]!r} with the checkpoint "
                    f"{self.checkpoint!r}, which was trained with {laws[0]!r}"
                )
        for name in random_layer_fields:
            if getattr(self, name) != getattr(type(self), name):
                raise ValueError(
                    f"{name} is for layers with random weights: omit it with the checkpoint "
                    f"{self.checkpoint!r}"
                )

    def _check_block_checkpoint(self, sizes: CacheTransformerConfig) -> None:
        where = f"the checkpoint {self.checkpoint!r}"
        if not 2 * sizes.block <= self.ctx <= sizes.ctx or self.ctx % sizes.block:
            rule = f"a multiple of {sizes.block} in {2 * sizes.block}..{sizes.ctx}"
            raise ValueError(f"ctx must be {rule}, as {where} reads, got {self.ctx}")
        for name, needed in block_arguments({"ctx": self.ctx, "spans": self.spans}, sizes).items():
            if name != "sinks" and (given := getattr(self, name)) != needed:
                raise ValueError(f"{name} must be {needed}, as in {where}, got {given}")
        for name in (*_RANDOM_LAYER_FIELDS, *_LAW_OPTIONS, "weights_seed", "control_kv_cache"):
            if getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"{name} is not for {where}, which reads in blocks: omit it")
        if self.reward in ("quality", "attention"):
            raise ValueError(f"reward must not be {self.reward!r} with blocks: use 'task'")
        self._check_blocks()

    def _check_layers(self) -> None:
        if not self.layers:
            if self.layers_kwargs:
                raise ValueError("layers_kwargs is for layers = module:function: omit it")
            return
        if self.checkpoint:
            raise ValueError("give either layers or a checkpoint, not both")
        where = f"as the layers {self.layers!r} have"
        for name, needed in self._named_layers.sizes.items():
            given = getattr(self, name)
            if name == "ctx" and given > needed:
                raise ValueError(f"ctx must be at most {needed}, {where}, got {given}")
            if name != "ctx" and given != needed:
                raise ValueError(f"{name} must be {needed}, {where}, got {given}")
        for name in (*_RANDOM_LAYER_FIELDS, *_LAW_OPTIONS):
            if getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"{name} is set by the layers {self.layers!r}: omit it")

    def _check_model(self) -> None:
        if self.include_cache_size and not self.reads_in_blocks:
            raise ValueError("include_cache_size is for a checkpoint that reads in blocks: omit it")
        if not self.model:
            for name in _MODEL_OPTIONS[: 1 if self.reads_in_blocks else None]:
                if getattr(self, name) != getattr(type(self), name):
                    raise ValueError(f"{name} is for a pretrained model: set model, or omit it")
            return
        sizes = None if self.model == CUSTOM else read_sizes(self.model)
        if sizes is not None and self.groups > sizes.num_layers:
            raise ValueError(
                f"groups must be at most {sizes.num_layers}, the layers of the model "
                f"{self.model!r}, got {self.groups}"
            )
        if sizes is not None and self.ctx > sizes.ctx:
            raise ValueError(
                f"ctx must be at most {sizes.ctx}, as the model {self.model!r} has, got {self.ctx}"
            )
        if self.blocks:
            self._check_blocks()
        self._check_sinks()
        own = dataclasses.asdict(self)
        for name, needed in model_arguments(own, sizes).items():
            if name in _SET_BY_MODEL and (given := getattr(self, name)) != needed:
                layers = "blocks" if self.blocks else "groups"
                reason = {"num_layers": layers, "num_actions": "spans"}.get(name, "model")
                raise ValueError(
                    f"{name} is set by {reason}: omit it, or give {needed}, not {given}"
                )
        for name in (*_RANDOM_LAYER_FIELDS, *_LAW_OPTIONS, "weights_seed", "control_kv_cache"):
            if name != "action_scale" and getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"{name} is not for the model {self.model!r}: omit it")
        if self.reward in ("quality", "attention"):
            raise ValueError(
                f"reward must not be {self.reward!r} with a model, whose attention weights are not "
                "known: use 'task' or 'fidelity'"
            )

    def _check_sinks(self) -> None:
        if self.sinks >= self.ctx:
            raise ValueError(f"sinks must be less than ctx={self.ctx}, got {self.sinks}")

    def _check_blocks(self) -> None:
        if self.groups:
            raise ValueError("give either groups or blocks, not both: blocks trim all layers alike")
        if self.blocks < 2 or self.ctx % self.blocks:
            raise ValueError(
                f"blocks must be at least 2 and divide ctx={self.ctx}, got {self.blocks}"
            )
        if self.observation_time != "current":
            raise ValueError("observation_time must be 'current' with blocks: omit it")
        if self.reward == "fidelity":
            raise ValueError("reward must not be 'fidelity' with blocks: use 'task'")
        self._check_sinks()

    def _check_levels(self) -> None:
        if self.start_level and not self.num_levels:
            raise ValueError("start_level is for a number of levels: set num_levels, or omit it")
        if self.start_level + self.num_levels > MAX_LEVEL + 1:
            raise ValueError(f"levels must be in 0..{MAX_LEVEL}, the last one is too large")
        if self.backend == "live":
            return
        sequences = self.num_actions**self.num_layers
        for holds, rule in (
            (self.num_levels > 0, "num_levels: a table holds a fixed number of chunks"),
            (
                not self.control_kv_cache,
                "control_kv_cache = false: keys and values are carried from chunk to chunk",
            ),
            (
                self.observation_time == "current",
                "observation_time = 'current': observations of the previous chunk depend on it",
            ),
            (
                self.num_layers <= MAX_TABLE_LAYERS,
                f"at most {MAX_TABLE_LAYERS} layers: a table holds all action sequences, "
                f"{self.num_actions}^{self.num_layers} a chunk",
            ),
            (
                sequences <= MAX_TABLE_SEQUENCES,
                f"at most {MAX_TABLE_SEQUENCES:,} action sequences a chunk: {self.num_actions} "
                f"actions at {self.num_layers} layers are {sequences:,}",
            ),
        ):
            if not holds:
                raise ValueError(f"backend 'table' needs {rule}")
        reward = None if self.reward == CUSTOM else self.make_reward()
        if self.has_episode_cost and reward is not None and reward.needs_layer_output:
            raise ValueError(
                "backend 'table' needs one cost_coef that is not observed with the reward "
                f"{self.reward!r}: a table holds its components, not what they are computed from"
            )

    @property
    def _named_layers(self) -> _NamedLayers:
        return _inspect_layers(self.layers, json.dumps(self.layers_kwargs), self.weights_seed)

    def make_layers(self) -> Layers:
        """Make the named layers, equal ones each time; a ValueError if they cannot be made."""
        return make_layers(self.layers, self.layers_kwargs, self.weights_seed)

    def make_reward(self) -> Reward:
        """Make the named reward; a ValueError if it cannot be made."""
        cost_coef = 0.0 if isinstance(self.cost_coef, tuple) else self.cost_coef
        return make_reward(self.reward, cost_coef, self.reward_kwargs)

    def make_dataset(self) -> Dataset:
        """Make the named dataset; a ValueError if it cannot be made."""
        is_task = self.dataset in TASKS
        kwargs = {"difficulty": self.difficulty} if is_task else self.dataset_kwargs
        return make_dataset(self.dataset, self.split, kwargs)

    def module_hashes(self) -> dict[str, str]:
        """SHA-256 of the modules of the user's classes, by the argument that names them."""
        return module_hashes(dataclasses.asdict(self))

    @property
    def span_options(self) -> dict[str, Any]:
        """Arguments of the `SpanConfig` of layers with random weights."""
        return {name: getattr(self, name) for name in _SPAN_OPTIONS}

    @property
    def observation_spec(self) -> ObservationSpec:
        """Specification of the observation."""
        names = (each.name for each in dataclasses.fields(ObservationSpec) if each.init)
        return ObservationSpec(**{name: getattr(self, name) for name in names})

    @property
    def mean_cost_coef(self) -> float:
        """Mean of the cost coefficients of the episodes."""
        if not isinstance(self.cost_coef, tuple):
            return self.cost_coef
        low, high = self.cost_coef
        return low if low == high else (high - low) / math.log(high / low)

    @property
    def has_episode_cost(self) -> bool:
        """Whether the cost coefficient belongs to the episode, as it is drawn or observed."""
        return self.include_cost_coef or isinstance(self.cost_coef, tuple)

    @property
    def num_cuts(self) -> int:
        """Number of cuts of the cache whose attention is observed, all spans but ``full``."""
        return sum(each != "full" for each in self.spans) if self.reads_in_blocks else 0

    @property
    def reads_in_blocks(self) -> bool:
        """Whether a checkpoint reads documents block by block, with a cache that is trimmed.

        What its later blocks read depends on earlier actions only by what the cache holds, so that
        different plans lead to equal states.
        """
        return self._block_sizes is not None

    @property
    def native_layers(self) -> bool:
        """Whether the layers are of `spangym.attention`; see `LayerStack.native_layers`."""
        return not self.model and not self.reads_in_blocks

    @property
    def _block_sizes(self) -> CacheTransformerConfig | None:
        """Sizes of a checkpoint that reads documents block by block; None for others."""
        if not self.checkpoint or self.checkpoint == CUSTOM:
            return None
        sizes = load_config(self.checkpoint)
        return sizes if isinstance(sizes, CacheTransformerConfig) else None

    @property
    def episode_steps(self) -> int:
        """Steps of an episode, one for each chunk and layer."""
        return self.chunks_per_episode * self.num_layers

    @property
    def full_qk_pairs(self) -> int:
        """Query-key pairs of one pass of full attention, in layers that are not the user's.

        Original layers count as bidirectional, so that their cost has the same unit.
        """
        # Models by name predict the next token.
        causal = bool(self.model)
        if self.blocks:
            # The mean over the decisions.
            return (
                sum(past_pairs(self.ctx, self.blocks, index) for index in range(self.num_layers))
                // self.num_layers
            )
        if self.layers:
            causal = self._named_layers.causal
        elif self.checkpoint and self.checkpoint != CUSTOM:
            sizes = load_config(self.checkpoint)
            causal = isinstance(sizes, CacheTransformerConfig) or sizes.causal
        return full_qk_pairs(self.ctx, causal)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> EnvConfig:
        """Make a config from keyword arguments.

        A checkpoint sets the sizes and the default of the temperature law; the class of the layers
        sets the defaults of the span options.

        Raises:
            TypeError: An argument is unknown; the message suggests the closest match.
            ValueError: An argument is invalid.
        """
        known = [each.name for each in dataclasses.fields(cls)]
        for name in arguments:
            if name not in known:
                hint = did_you_mean(name, known)
                raise TypeError(f"got an unexpected keyword argument {name!r}{hint}")
        model = plain(arguments.get("model"))
        if model and model != CUSTOM and isinstance(model, str):
            arguments = {**model_arguments(arguments, read_sizes(model)), **arguments}
        checkpoint = plain(arguments.get("checkpoint"))
        if checkpoint and checkpoint != CUSTOM and isinstance(checkpoint, str):
            sizes = load_config(checkpoint)
            if isinstance(sizes, CacheTransformerConfig):
                own = block_arguments(arguments, sizes)
            else:
                own = {each: getattr(sizes, each) for each in (*_CHECKPOINT_SIZES, *_LAW_OPTIONS)}
            arguments = {**own, **arguments}
        elif (name := plain(arguments.get("layer_class"))) in [*LAYER_CLASSES]:
            defaults = LAYER_CLASSES[name].default_config
            arguments = {**{each: getattr(defaults, each) for each in _SPAN_OPTIONS}, **arguments}
        if (name := plain(arguments.get("layers"))) and isinstance(name, str):
            kwargs = json.dumps(plain(arguments.get("layers_kwargs", {})))
            seed = as_int("weights_seed", arguments.get("weights_seed", 0), 0, 2**63 - 1)
            sizes = _inspect_layers(name, kwargs, seed).sizes
            arguments = {**sizes, "ctx": min(sizes["ctx"], cls.ctx), **arguments}
        return cls(**arguments)


def make_config(name: str, arguments: Mapping[str, Any]) -> EnvConfig:
    """Make the config of a registered id, of which ``spangym/`` may be omitted.

    Args:
        name: The id.
        arguments: Arguments that override the id's.

    Raises:
        ValueError: The id is unknown, or an argument is invalid.
        TypeError: An argument is unknown.
    """
    return EnvConfig.from_arguments({**default_kwargs(name), **arguments})


def make_spec(config: EnvConfig, components: EnvComponents) -> EnvSpec:
    """Make the specification from which ``gym.make`` makes an environment.

    The id is the one of the checkpoint or of pretrained models, `spangym/SpanControl-v0` for other
    layers.
    """
    name = _find_id(config)
    given = {name: each for name, each in components._asdict().items() if each is not None}
    default = EnvConfig.from_arguments(ENVIRONMENTS[name])
    names = [field.name for field in dataclasses.fields(config)]
    if components.layers is not None:
        of_layers = {*_CHECKPOINT_SIZES, *_RANDOM_LAYER_FIELDS, "device"} - {"ctx"}
        names = [name for name in names if name not in of_layers]
    if config.model:
        names = [name for name in names if name not in _SET_BY_MODEL]
    kwargs = {
        name: value
        for name in names
        if (value := getattr(config, name)) not in (getattr(default, name), CUSTOM)
    }
    spec = copy.copy(gym.spec(name))
    spec.kwargs = {**ENVIRONMENTS[name], **kwargs, **given}
    spec.max_episode_steps = config.chunks_per_episode * config.num_layers
    return spec


def _find_id(config: EnvConfig) -> str:
    for name, arguments in ENVIRONMENTS.items():
        if config.model:
            if "model" in arguments and ("blocks" in arguments) == (config.blocks > 0):
                return name
        elif config.checkpoint and config.checkpoint == arguments.get("checkpoint"):
            is_drawn = isinstance(config.cost_coef, tuple)
            if is_drawn == isinstance(arguments["cost_coef"], tuple):
                return name
    return next(iter(ENVIRONMENTS))


def model_arguments(arguments: Mapping[str, Any], sizes: PretrainedSizes | None) -> dict[str, Any]:
    """Return the arguments of `EnvConfig` that a pretrained model and its options determine.

    Args:
        arguments: Arguments of the environment; those of the model have defaults.
        sizes: Sizes of the model; None to leave them out.
    """
    spans = _as_spans(arguments.get("spans") or DEFAULT_SPANS)
    blocks = as_int("blocks", arguments.get("blocks", 0), 0, 1025)
    groups = as_int("groups", arguments.get("groups") or (0 if blocks else 1), 0, 1024)
    of_model: dict[str, Any] = {}
    if sizes is not None:
        of_model = {"dims": sizes.dims, "heads": sizes.heads}
    ctx = as_int("ctx", arguments.get("ctx", min(_MODEL_CTX, sizes.ctx if sizes else _MODEL_CTX)))
    return {
        "groups": groups,
        "spans": spans,
        "num_layers": max(blocks - 1, 1) if blocks else groups,
        "num_actions": len(spans),
        **of_model,
        "ctx": ctx,
        # Each query is a window of its own.
        "win_size": 1,
        "max_span": ctx,
        "max_dist": ctx,
        "action_scale": "absolute",
    }


def block_arguments(arguments: Mapping[str, Any], sizes: CacheTransformerConfig) -> dict[str, Any]:
    """Return the arguments of `EnvConfig` that a checkpoint which reads in blocks determines.

    Args:
        arguments: Arguments of the environment; ``ctx`` or ``blocks``, and ``spans``, are used.
        sizes: Sizes of the checkpoint.
    """
    spans = _as_spans(arguments.get("spans") or DEFAULT_SPANS)
    blocks = as_int("blocks", arguments.get("blocks") or sizes.num_blocks, 2, 1025)
    ctx = as_int("ctx", arguments.get("ctx", blocks * sizes.block))
    return {
        "blocks": ctx // sizes.block,
        "spans": spans,
        "sinks": 0,
        "num_layers": max(ctx // sizes.block - 1, 1),
        "num_actions": len(spans),
        "dims": sizes.dims,
        "heads": sizes.heads,
        "ctx": ctx,
        # Each query is a window of its own.
        "win_size": 1,
        "max_span": ctx,
        "max_dist": ctx,
    }


def module_hashes(arguments: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the modules of the user's classes, by the argument of an environment."""
    return {
        name: module_sha256(import_object(path, f"{name} {path!r}"))
        for name in ("dataset", "reward", "layers")
        if isinstance(path := arguments.get(name, ""), str) and is_import_path(path)
    }


def check_device(name: str) -> torch.device:
    """Make the device of that name, and check that it is available.

    Raises:
        ValueError: This machine has no such device.
    """
    try:
        device = torch.device(name)
        # Counts are float64, which not every device supports.
        torch.zeros(1, dtype=torch.float64, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        available = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise ValueError(
            f"device {name!r} is not available on this machine; it has: {', '.join(available)}"
        ) from error
    return device


def _as_spans(spans: Any) -> tuple[int | str, ...]:
    if not isinstance(spans, list | tuple):
        raise TypeError(f"spans must be a list of integers and 'full', got {describe(spans)}")
    choices = tuple(plain(each) for each in spans)
    if choices:
        parse_spans(choices)
    return choices


def _as_cost_coef(value: Any) -> float | tuple[float, float]:
    value, rule = plain(value), "cost_coef must be a number, or two: the lowest and the highest"
    if not isinstance(value, list | tuple):
        return as_float("cost_coef", value, 0, MAX_COST_COEF)
    low_high = [as_float("cost_coef", each, 0, MAX_COST_COEF) for each in value]
    if len(low_high) != 2:
        raise ValueError(f"{rule}, got {len(low_high)} numbers")
    low, high = low_high
    if not 0 < low <= high:
        raise ValueError(f"{rule}, with 0 < lowest <= highest, got {short_repr(value)}")
    return low, high


def _check_object(name: str, value: object) -> None:
    """Refuse what is neither a name nor an object that `parse_env_kwargs` has replaced by one."""
    is_list = name == "dataset" and isinstance(value, list | tuple)
    if not is_list and not isinstance(value, str | PathLike):
        wanted = {
            "dataset": "a name, a path, a list of files, or a Dataset object",
            "reward": "a name, or a Reward",
        }
        raise TypeError(f"{name} must be {wanted[name]}, got {describe(value)}")


def _as_dataset_name(dataset: Any) -> str | tuple[str, ...]:
    """Convert a name or a path to a string, and a list of files to a tuple of them."""
    if isinstance(dataset, list | tuple):
        return tuple(as_str("dataset", each) for each in dataset)
    return as_str("dataset", dataset)


Layers = LayerStack | Sequence[LocalGlobalAttention] | torch.nn.ModuleList
"""Live layers, as users pass them."""


class EnvComponents(NamedTuple):
    """Objects of the user's own that replace what `EnvConfig` names.

    Attributes:
        layers: Live layers, or a stack of them.
        model: Pretrained model of Transformers.
        tokenizer: Its tokenizer; None if the dataset gives the tokens that the model reads.
        dataset: Dataset of the streams.
        reward: Reward of the steps.
    """

    layers: Layers | None = None
    model: PreTrainedModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    dataset: Dataset | None = None
    reward: Reward | None = None


def parse_env_kwargs(kwargs: Mapping[str, Any]) -> tuple[EnvConfig, EnvComponents]:
    """Separate keyword arguments into a config and the objects for layers, dataset and reward.

    Layers take the place of a checkpoint, a model and its tokenizer that of the name of a model; a
    reward brings its own cost coefficient.

    Raises:
        TypeError: An argument is unknown, or an object has another type.
        ValueError: An argument is invalid.
    """
    named, objects = dict(kwargs), {}
    if "layers" in named and not isinstance(named["layers"], str):
        layers = objects["layers"] = _as_layers(named.pop("layers"))
        named = {**_config_of_layers(layers, named), **named, "checkpoint": CUSTOM}
    if not isinstance(named.get("model", ""), str | PathLike):
        model = objects["model"] = _as_model(named["model"])
        objects["tokenizer"] = named.pop("tokenizer", None)
        sizes, device = sizes_of(model.config), str(model.device)
        named = {**model_arguments(named, sizes), "device": device, **named, "model": CUSTOM}
    for name, cls in (("dataset", Dataset), ("reward", Reward)):
        if isinstance(named.get(name), cls):
            objects[name] = named[name]
            named[name] = CUSTOM
    if "reward" in objects:
        named["cost_coef"] = objects["reward"].cost_coef
    return EnvConfig.from_arguments(named), EnvComponents(**objects)


def make_layers(name: str, kwargs: Mapping[str, Any], seed: int) -> Layers:
    """Call ``module:function``, which returns layers, with arguments.

    Weights that it draws from PyTorch's default generator depend on the seed only.

    Raises:
        ValueError: There is no such function, or it returns no layers.
    """
    if not is_import_path(name):
        raise ValueError(f"layers {name!r} must be named module:function, or be layers themselves")
    function = import_object(name, f"layers {name!r}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            layers = _as_layers(construct(function, kwargs))
            unwrap_layers(layers)
        except Exception as error:  # The user's function may raise anything.
            raise ValueError(f"layers {name!r} cannot be made: {describe_error(error)}") from error
    return layers


def _as_model(model: Any) -> PreTrainedModel:
    from spangym.attention.transformers.attention_modules import unwrap_model

    return unwrap_model(model)


class _NamedLayers(NamedTuple):
    """The arguments that named layers determine, and whether they are causal."""

    sizes: dict[str, Any]
    causal: bool


@functools.lru_cache(maxsize=32)
def _inspect_layers(name: str, kwargs: str, seed: int) -> _NamedLayers:
    layers = make_layers(name, json.loads(kwargs), seed)
    modules = unwrap_layers(layers)
    sizes = _config_of_layers(layers, {}) | {"ctx": min(each.ctx for each in modules)}
    del sizes["device"]
    return _NamedLayers(sizes, modules[0].config.causal)


def _as_layers(layers: Any) -> Layers:
    if isinstance(layers, LocalGlobalAttention):
        return [layers]
    if isinstance(layers, str) or not isinstance(
        layers, LayerStack | Sequence | torch.nn.ModuleList
    ):
        raise TypeError(
            "layers must be a sequence of IntegratedAttention or its relatives, got "
            f"{describe(layers)}: the number of layers is num_layers"
        )
    return layers


def unwrap_layers(layers: Layers) -> list[LocalGlobalAttention]:
    """List the layers.

    Raises:
        TypeError: There is no layer, or one has another type.
    """
    given = [*(layers.layers if isinstance(layers, LayerStack) else layers)]
    modules = [each for each in given if isinstance(each, LocalGlobalAttention)]
    if not modules or len(modules) < len(given):
        names = short_repr([*dict.fromkeys(type(each).__name__ for each in given)])
        raise TypeError(
            "layers must be at least one IntegratedAttention, FocusAttention or HybridAttention, "
            f"got {names}"
        )
    return modules


def _config_of_layers(layers: Layers, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that live layers determine; those that contradict them are errors."""
    modules = unwrap_layers(layers)
    for name in (*_CHECKPOINT_SIZES, *_LAW_OPTIONS, *_RANDOM_LAYER_FIELDS):
        if name in kwargs and name != "ctx":
            raise TypeError(f"argument {name!r} is set by the layers: omit it beside layers")
    if len({each.dims for each in modules}) > 1:
        raise ValueError(f"layers must have the same dims, got {[each.dims for each in modules]}")
    longest = min(each.ctx for each in modules)
    if "ctx" in kwargs and as_int("ctx", kwargs["ctx"]) > longest:
        raise ValueError(f"ctx must be at most {longest}, as the layers have, got {kwargs['ctx']}")
    first = modules[0]
    return {
        **_counts_of_refiners(modules, kwargs),
        "num_layers": len(modules),
        "dims": first.dims,
        "heads": first.head,
        "ctx": min(longest, EnvConfig.ctx),
        "win_size": first.config.win_size,
        "max_span": first.config.max_span,
        "max_dist": first.config.max_dist,
        "device": str(first.projection.weight.device),
    }


def _counts_of_refiners(
    modules: Sequence[LocalGlobalAttention], kwargs: Mapping[str, Any]
) -> dict[str, int]:
    """The numbers of actions and states of the refiners in live layers, if there are any."""
    refiners = [
        refiner for each in modules if (refiner := getattr(each, "refiner", None)) is not None
    ]
    counts = {}
    for name, count_of in (("num_actions", num_actions_of), ("num_states", num_states_of)):
        found = {count_of(each) for each in refiners}
        if len(found) > 1:
            raise ValueError(f"refiners of the layers must have the same {name}, got {found}")
        for count in found:
            if kwargs.get(name, count) != count:
                needed = f"{count}, as the refiners of the layers have"
                raise ValueError(f"{name} must be {needed}, got {kwargs[name]}")
            counts[name] = count
    return counts
