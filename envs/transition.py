"""Transitions from one state to the next: pure functions, so that lookahead can try actions."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spangym.attention import LayerOutput
from spangym.envs.env_config import EnvConfig
from spangym.envs.model.stack import LayerStack, join_outputs
from spangym.envs.rewards import Reward, RewardContext
from spangym.envs.state import (
    Cache,
    Episode,
    Prepared,
    State,
    concat_trees,
    repeat_rows,
    select_row,
    select_rows,
    tree_map,
)

T = TypeVar("T")

_TILE = 16
_SERIAL_NUMBERS = 1 << 15

_OUTPUT_METRICS = ("span_scale", "window", "span", "qk_pairs", "num_refinement_steps")
"""Fields of a `LayerOutput`, one number per environment each."""
METRICS = (*_OUTPUT_METRICS, "output_norm")
"""Numbers of the infos of a step, in the order of `Transition.metrics`."""
_FLOATS = ("span_scale", "output_norm")
"""Metrics that are no integers."""
_RECOMPUTE_METRICS = ("recomputed_keys", "recomputed_values", "key_staleness", "value_staleness")


class Transition(NamedTuple):
    """The result of one step in every environment, on the device.

    Attributes:
        state: The next state.
        reward_components: Components of the reward, shape (num_envs, components).
        metrics: Numbers for the infos (`metrics_to_columns`), float64 of shape (num_envs, metrics).
        local_output: Output of the layer's local path, shape (num_envs, tokens, dims).
    """

    state: State
    reward_components: Tensor
    metrics: Tensor
    local_output: Tensor


def is_batch_invariant(ctx: int, dims: int) -> bool:
    """Whether chunks of this shape give the same bits in a batch of any size on the CPU.

    Matrix products round the rows at the edge of a tile differently, and which rows those are
    depends on the batch, unless every chunk is whole tiles. PyTorch sums an array of 2**15 numbers
    or more by several threads if it is the only one.
    """
    return ctx % _TILE == dims % _TILE == 0 and ctx * dims < _SERIAL_NUMBERS


class TransitionModel:
    """Runs states of any number of environments through a stack; it holds no state itself.

    On the CPU the result for an environment is bit-identical in a batch of any size. Shapes that
    are not `is_batch_invariant` are run one environment at a time.

    Args:
        config: Arguments of the environment.
        stack: The live layers with embedding and task head.
        reward: The reward.
    """

    def __init__(self, config: EnvConfig, stack: LayerStack, reward: Reward) -> None:
        self.config = config
        self.stack = stack
        self.reward = reward
        self.observation_spec = config.observation_spec
        self._weights = [
            [module._parameters for module in layer.modules()] for layer in stack.layers
        ]
        is_invariant = stack.is_batch_invariant
        if is_invariant is None:
            is_invariant = is_batch_invariant(config.ctx, config.dims)
        self._is_batched = is_invariant or stack.device.type != "cpu"

    def initial_state(self, episode: Episode) -> State:
        """The state at the start of an episode."""
        layers = self.config.num_layers
        empty = (None,) * layers
        staleness = None
        if self.config.control_kv_cache:
            size = (len(episode.content), layers, 2)
            staleness = torch.zeros(size, dtype=torch.int64, device=episode.content.device)
        state = State(
            episode.content,
            *(empty, empty, staleness),
            *(None, None, None, empty),
            cost_coef=episode.cost_coef,
        )
        return self.start_chunk(episode, state, 0)

    def start_chunk(self, episode: Episode, state: State, chunk: int) -> State:
        """Embed a chunk and, for rewards that need it, run it at full span."""
        start = functools.partial(self._start_chunk, chunk=chunk)
        return self._per_env(len(episode.content), start, concat_trees, episode, state)

    def _start_chunk(self, episode: Episode, state: State, chunk: int) -> State:
        hidden = self.stack.embed(episode.content[:, chunk])
        state = dataclasses.replace(state, hidden=hidden)
        is_last = chunk == self.config.chunks_per_episode
        # The last chunk is observed only.
        if is_last and not self.observation_spec.num_cache_features:
            return state
        started = self.stack.start_caches(hidden, state.caches)
        if is_last:
            return dataclasses.replace(state, caches=started)
        is_restarted = started is not state.caches
        state = dataclasses.replace(state, caches=started)
        needs_fidelity = self.reward.needs_fidelity
        needs_full_span = episode.targets is not None or needs_fidelity
        if not needs_full_span:
            return state
        # The first layer's input and cache are those of the pass at full span.
        first, version = None, self._weights_version(0)
        if version is not None:
            first = self.stack.prepare_layer(0, hidden, cache=state.caches[0])
        caches = started if is_restarted else state.full_caches
        targets = None if episode.targets is None else episode.targets[:, chunk]
        losses: list[Tensor] = []
        for index in range(self.config.num_layers):
            cache = caches[index]
            if index or first is None:
                prepared = self.stack.prepare_layer(index, hidden, cache=cache)
            else:
                prepared = first
            layer_output = self.stack.run_full_span(index, prepared, self.config.num_actions)
            if first is not None and not index:
                first = self.stack.keep_full_output(first, layer_output)
            hidden = self.stack.connect(index, hidden, layer_output.output)
            caches = self.stack.carry(caches, index, layer_output.cache)
            if targets is not None:
                loss = self.stack.step_loss(index, layer_output, hidden, targets)
                losses += [] if loss is None else [loss]
        full_span_loss = None
        if losses:
            full_span_loss = losses[0] if len(losses) == 1 else torch.stack(losses, dim=1)
        return dataclasses.replace(
            state,
            targets=targets,
            full_span_loss=full_span_loss,
            full_outputs=self.stack.outputs(hidden) if needs_fidelity else None,
            full_caches=caches,
            prepared=first,
            weights_version=version,
        )

    def prepare_layer(self, state: State, index: int) -> State:
        """Compute, before layer ``index``, what the observation and the step share.

        Nothing is shared where the agent decides about keys and values, and if the weights have
        changed before the step.
        """
        version = self._weights_version(index)
        if version is None or self._prepared(state, index) is not None:
            return state
        prepared = self._prepare(state, None, index)
        return dataclasses.replace(state, prepared=prepared, weights_version=version)

    def _weights_version(self, index: int) -> int | None:
        """A number that differs after a change of a layer's weights; None to share nothing."""
        if self.config.control_kv_cache:
            return None
        weights = (each for own in self._weights[index] for each in own.values())
        try:
            return sum(id(each) + each._version for each in weights if each is not None)
        except RuntimeError:
            # Inference tensors have no version.
            return None

    def _prepared(self, state: State, index: int) -> Prepared | None:
        """What was prepared with the weights that the layer still has."""
        if state.prepared is None or state.weights_version != self._weights_version(index):
            return None
        return state.prepared

    def observe(self, state: State, index: int) -> Tensor:
        """Encode the observation before layer ``index``, float64 of shape (num_envs, numbers)."""
        observe = functools.partial(self._observe, index=index)
        return self._per_env(len(state.hidden), observe, torch.cat, state)

    def observe_output(
        self, local_output: Tensor, index: int, cost_coef: Tensor | None = None
    ) -> Tensor:
        """Encode the local output of layer ``index`` like an observation."""

        def encode(local_output: Tensor, cost_coef: Tensor | None) -> Tensor:
            features = self.observation_spec.extract_from_input(local_output)
            return self.observation_spec.encode(features, index, cost_coef)

        return self._per_env(len(local_output), encode, torch.cat, local_output, cost_coef)

    def _observe(self, state: State, index: int) -> Tensor:
        features = self._features(state, index)
        return self.observation_spec.encode(features, index, state.cost_coef)

    def _features(self, state: State, index: int) -> Tensor:
        spec, normalize = (
            self.observation_spec,
            functools.partial(self.stack.normalize_input, index),
        )
        if self.config.observation_time == "previous":
            features = state.prev_features[index]
            if features is not None:
                return features
            # Without a previous chunk it is the first token, which every token may see.
            return spec.extract_from_input(normalize(state.hidden[:, :1]))
        prepared = self._prepared(state, index)
        if prepared is None and spec.num_cache_features:
            prepared = self.stack.prepare_layer(index, state.hidden, cache=state.caches[index])
        if prepared is None:
            return spec.extract_from_input(normalize(state.hidden))
        return spec.extract(
            prepared.observed.moments,
            prepared.observed.local_input,
            cache_features=getattr(prepared, "cache_features", None),
        )

    def run_layer(
        self, state: State, index: int, actions: Tensor | None, *, return_stats: bool = False
    ) -> LayerOutput:
        """Run layer ``index`` with the spans that the actions set.

        Actions are integers in ``0..num_actions - 1`` of shape (num_envs,), with
        ``control_kv_cache`` (num_envs, 3), on the device; the span predictor decides if None. With
        ``return_stats`` statistics of the local attention weights are computed.

        Actions of shape (num_envs, k), with ``control_kv_cache`` (num_envs, k, 3), are k actions in
        every environment: the result has num_envs * k rows, those of an environment together. What
        does not depend on the span is computed once. Every row is bit-identical to that of its
        action alone.
        """
        run = functools.partial(self._run_layer, index=index, return_stats=return_stats)
        states, prepared, spans = self._fan_out(state, index, actions, return_stats)
        return self._per_env(len(states.hidden), run, join_outputs, prepared, spans)

    def _fan_out(
        self, state: State, index: int, actions: Tensor | None, return_stats: bool
    ) -> tuple[State, Prepared, Tensor | None]:
        """One row for each action: states, prepared inputs of a layer, and spans' actions."""
        spans, recompute_kv = actions, None
        if self.config.control_kv_cache and actions is not None:
            spans, recompute_kv = actions[..., 0], actions[..., 1:] > 0
        prepare = functools.partial(self._prepare, index=index, return_stats=return_stats)
        if spans is None or spans.ndim == 1:
            prepared = prepare(state, recompute_kv)
            return dataclasses.replace(state, prepared=None), prepared, spans
        num_envs, times = spans.shape
        states = repeat_rows(dataclasses.replace(state, prepared=None), times)
        if recompute_kv is None:
            prepared = repeat_rows(prepare(state, None), times)
        else:
            # Whether keys and values are recomputed, in choice ``2 * keys + values``.
            number = torch.arange(4, device=spans.device)
            choices = torch.stack([number >= 2, number % 2 > 0], dim=-1)
            prepared = prepare(repeat_rows(state, len(choices)), choices.repeat(num_envs, 1))
            first = len(choices) * torch.arange(num_envs, device=spans.device)
            choice = 2 * recompute_kv[..., 0] + recompute_kv[..., 1]
            prepared = select_rows(prepared, (first[:, None] + choice).flatten())
        return states, prepared, spans.flatten()

    def _prepare(
        self, state: State, recompute_kv: Tensor | None, index: int, return_stats: bool = False
    ) -> Prepared:
        """The part of a layer's pass that does not depend on the spans."""
        num_envs, prepared = len(state.hidden), self._prepared(state, index)

        def prepare(hidden: Tensor, cache: Cache | None, recompute_kv: Tensor | None) -> Prepared:
            return self.stack.prepare_layer(index, hidden, recompute_kv=recompute_kv, cache=cache)

        if prepared is None:
            trees = (state.hidden, state.caches[index], recompute_kv)
            prepared = self._per_env(num_envs, prepare, concat_trees, *trees)
        if not return_stats:
            return prepared
        prepare_stats = self.stack.layer(index).prepare_stats
        return self._per_env(num_envs, prepare_stats, concat_trees, prepared)

    def _run_layer(
        self, prepared: Prepared, spans: Tensor | None, index: int, return_stats: bool
    ) -> LayerOutput:
        return self.stack.run_prepared(
            index,
            prepared,
            spans,
            num_actions=self.config.num_actions,
            return_stats=return_stats,
        )

    def step(self, state: State, index: int, actions: Tensor) -> Transition:
        """Run layer ``index``, and compute its rewards and metrics; actions as in `run_layer`.

        Raises:
            ValueError: The reward did not return a tensor of shape (num_envs, components).
        """
        step = functools.partial(self._step, index=index)
        trees = self._fan_out(state, index, actions, self.reward.needs_statistics)
        return Transition(*self._per_env(len(trees[0].hidden), step, concat_trees, *trees))

    def _step(self, state: State, prepared: Prepared, spans: Tensor, index: int) -> Transition:
        with_stats = self.reward.needs_statistics
        layer_output = self._run_layer(prepared, spans, index, with_stats)
        prev_features = state.prev_features
        if self.config.observation_time == "previous":
            observed = prepared.observed
            features = self.observation_spec.extract(observed.moments, observed.local_input)
            prev_features = _replace_at(prev_features, index, features)
        hidden = self.stack.connect(index, state.hidden, layer_output.output)
        excess_loss = self._excess_loss(state, index, hidden, layer_output)
        infidelity = self._infidelity(state, index, hidden)
        terms = (layer_output, excess_loss, infidelity)
        components = self._reward_components(index, *terms, state.cost_coef)
        staleness = _update_staleness(state.staleness, index, layer_output)
        next_state = dataclasses.replace(
            state,
            hidden=hidden,
            caches=self.stack.carry(state.caches, index, layer_output.cache),
            prev_features=prev_features,
            staleness=staleness,
        )
        metrics = _collect_metrics(layer_output, index, staleness)
        return Transition(next_state, components, metrics, layer_output.local_output)

    def _per_env(
        self,
        num_envs: int,
        function: Callable[..., T],
        join: Callable[[list[T]], T],
        *trees: Any,
    ) -> T:
        """Call a function with all environments, or with one at a time and join the results.

        A single environment takes the same way, so that its tensors have the same memory layout.
        """
        if self._is_batched:
            return function(*trees)
        # Copies are aligned in memory, on which the rounding of matrix products may depend.
        results = []
        for row in range(num_envs):
            own = tree_map(torch.clone, select_row(trees, row))
            results.append(function(*own))
        return join(results)

    def _excess_loss(
        self, state: State, index: int, hidden: Tensor, layer_output: LayerOutput
    ) -> Tensor | None:
        if state.targets is None:
            return None
        step = (index, layer_output, hidden, state.targets)
        loss, full = self.stack.step_loss(*step), state.full_span_loss
        if loss is None:
            return None
        assert full is not None
        return loss - (full if full.ndim == 1 else full[:, index])

    def _infidelity(self, state: State, index: int, hidden: Tensor) -> Tensor | None:
        if index + 1 < self.config.num_layers or state.full_outputs is None:
            return None
        pair = (self.stack.outputs(hidden), state.full_outputs)
        cosines = torch.nn.functional.cosine_similarity(*(each.double() for each in pair), dim=-1)
        # At least float32, as the losses.
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        return (1 - cosines.mean(-1)).to(dtype)

    def _reward_components(
        self,
        index: int,
        layer_output: LayerOutput,
        excess_loss: Tensor | None,
        infidelity: Tensor | None,
        cost_coef: Tensor | None,
    ) -> Tensor:
        pairs = self.stack.full_qk_pairs(index, self.config.ctx)
        context = RewardContext(
            layer_output,
            *(index, self.config.num_layers, pairs),
            *(excess_loss, infidelity, cost_coef),
        )
        components = self.reward(context)
        name = f"reward {type(self.reward).__name__}"
        expected = (len(layer_output.output), len(self.reward.components))
        if not isinstance(components, Tensor):
            given = type(components).__name__
            raise ValueError(f"{name} must return a tensor, it returned a {given}")
        if (given := tuple(components.shape)) != expected:
            wanted = f"shape (num_envs, components), {expected}"
            raise ValueError(f"{name} must return {wanted}; it returned {given}")
        return components


def _replace_at(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    return (*values[:index], value, *values[index + 1 :])


def _recomputed(layer_output: LayerOutput) -> Tensor:
    """Whether keys, and values, were recomputed, boolean of shape (num_envs, 2)."""
    key_value = layer_output.cache.key_value
    assert key_value is not None
    return torch.stack([key_value.recomputed_keys, key_value.recomputed_values], dim=-1)


def _update_staleness(
    staleness: Tensor | None, index: int, layer_output: LayerOutput
) -> Tensor | None:
    if staleness is None:
        return None
    staleness = staleness.clone()
    staleness[:, index] = torch.where(_recomputed(layer_output), 0, staleness[:, index] + 1)
    return staleness


def _collect_metrics(layer_output: LayerOutput, index: int, staleness: Tensor | None) -> Tensor:
    metrics = [getattr(layer_output, name) for name in _OUTPUT_METRICS]
    metrics.append(layer_output.output.flatten(1).norm(dim=1))
    if staleness is not None:
        metrics += [*_recomputed(layer_output).unbind(-1), *staleness[:, index].unbind(-1)]
    return torch.stack([each.double() for each in metrics], dim=-1)


def metrics_to_columns(metrics: NDArray[np.float64], ctx: int) -> dict[str, list[Any]]:
    """Name the columns of `Transition.metrics`, as in ``info``.

    Example:
        >>> metrics_to_columns(np.array([[0.5, 8.0, 12.0, 64.0, 1.0, 2.5]]), ctx=16)["span"]
        [12]
    """
    names = (*METRICS, *_RECOMPUTE_METRICS)[: metrics.shape[1]]
    columns = {
        name: column if name in _FLOATS else column.astype(np.int64)
        for name, column in zip(names, metrics.T, strict=True)
    }
    if len(names) > len(METRICS):
        recomputed = columns["recomputed_keys"] + columns["recomputed_values"]
        columns["recompute_cost"] = ctx * recomputed
    return {name: column.tolist() for name, column in columns.items()}
