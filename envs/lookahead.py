"""What each action would do: earn at once, earn at best up to the chunk's end, and cover."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spangym.attention import NUM_ACTIONS
from spangym.envs.core import SpanControlCore
from spangym.envs.state import State, tree_map
from spangym.envs.transition import MAX_SPAN_ACTION

_MAX_BATCH = 400
"""Plans that are evaluated side by side; more would only take more memory."""


def all_actions(core: SpanControlCore) -> NDArray[np.int64]:
    """All actions of one environment.

    Returns:
        Shape (10,); with ``refresh`` (40, 3), the span changing slowest.
    """
    spans = range(NUM_ACTIONS)
    if not core.config.control_kv_cache:
        return np.array(spans)
    return np.array([*itertools.product(spans, range(2), range(2))])


@torch.no_grad()
def one_step_rewards(core: SpanControlCore) -> NDArray[np.float32]:
    """The reward of each action for the coming decision; nothing changes.

    Args:
        core: In mid-episode.

    Returns:
        Shape (num_envs, 10), with ``refresh`` (num_envs, 40): by `all_actions`.

    Raises:
        RuntimeError: The episode is over, or none has begun.
    """
    return _per_env(core, lambda some: _expand_rewards(core, some, core.layer))


@torch.no_grad()
def action_coverages(core: SpanControlCore) -> NDArray[np.float32]:
    """How much of full attention's weight each action would leave within the span.

    That is `spangym.attention.AttentionStats.coverage` of the coming decision; nothing changes. Of
    an original layer only the keys count that it lets a query see, which are not all of its span's.

    Args:
        core: In mid-episode.

    Returns:
        In [0, 1], of shape (num_envs, 10), with ``refresh`` (num_envs, 40): by `all_actions`.

    Raises:
        RuntimeError: The episode is over, or none has begun.
    """

    def covered(state: State) -> Tensor:
        tried = _repeat_for_actions(core, state, core.layer)
        outcome = core.transition_model.run_layer(*tried, return_stats=True)
        assert outcome.stats is not None
        return outcome.stats.coverage

    return _per_env(core, covered)


@torch.no_grad()
def predictor_action(core: SpanControlCore) -> NDArray[np.int64]:
    """The action whose span scale is nearest to what the coming layer predicts itself.

    Where an action is a share of the prediction that is the whole of it: 9.

    Args:
        core: In mid-episode.

    Returns:
        Actions for the span, shape (num_envs,).

    Raises:
        RuntimeError: The episode is over, or none has begun.
    """
    state, index = core.state, core.layer
    layer = core.stack.layer(index)
    if layer.config.action_scale == "relative":
        return np.full(core.num_envs, MAX_SPAN_ACTION)
    predicted = core.stack.run_layer(index, state.hidden, cache=state.caches[index]).span_scale
    return (MAX_SPAN_ACTION * predicted).round().long().cpu().numpy()


@torch.no_grad()
def lookahead(core: SpanControlCore, beam: int = 10) -> NDArray[np.float32]:
    """The best return of each action up to the end of the chunk, over all that can follow.

    All plans (one action per layer) through the coming two layers are tried. Where more are left, only the best ``beam``
    plans of each first action, by what they have earned so far, are extended: with the
    reward ``task``, whose greater part comes last, that is a bound from below.

    Args:
        core: In mid-episode.
        beam: Plans of each first action that are extended beyond two layers, at least 1.

    Returns:
        Shape (num_envs, 10), with ``refresh`` (num_envs, 40): by `all_actions`.

    Raises:
        RuntimeError: The episode is over, or none has begun.
        ValueError: The beam is less than 1.
    """
    if beam < 1:
        raise ValueError(f"beam must be at least 1, got {beam}")

    last = core.config.num_layers - 1

    def best(state: State) -> Tensor:
        if core.layer == last:
            return _expand_rewards(core, state, last)
        state, returns = _expand(core, state, core.layer)
        first = len(returns)
        for layer in range(core.layer + 1, last):
            state, earned = _expand(core, state, layer)
            plans = (returns[:, None] + earned.view(len(returns), -1)).view(first, -1)
            kept = plans.topk(min(beam, plans.shape[1]), dim=1).indices
            offsets = torch.arange(first, device=kept.device)[:, None] * plans.shape[1]
            rows = (kept + offsets).flatten()
            state, returns = tree_map(_rows(rows), state), plans.flatten()[rows]
        # The plans through the last layer are not extended: only what they earn is kept.
        groups = torch.arange(len(returns), device=returns.device).split(_MAX_BATCH // NUM_ACTIONS)
        earned = torch.cat(
            [_expand_rewards(core, tree_map(_rows(each), state), last) for each in groups]
        )
        return (returns[:, None] + earned.view(len(returns), -1)).view(first, -1).amax(1)

    return _per_env(core, best)


def _per_env(core: SpanControlCore, returns: Callable[[State], Tensor]) -> NDArray[np.float32]:
    """Returns of the actions in each environment, one environment after the other."""
    # What is kept of full spans is for chunks to come.
    state = dataclasses.replace(core.state, full_caches=())
    indices = torch.arange(core.num_envs, device=core.device).split(1)
    together = torch.cat([returns(tree_map(_rows(index), state)) for index in indices])
    return together.view(core.num_envs, -1).cpu().numpy().astype(np.float32)


def _rows(chosen: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor[chosen]


def _expand_rewards(core: SpanControlCore, state: State, layer: int) -> Tensor:
    """What every action earns in every environment, float64 of shape (num_envs * actions,)."""
    return _expand(core, state, layer)[1]


def _expand(core: SpanControlCore, state: State, layer: int) -> tuple[State, Tensor]:
    """Every environment gone on with every action, side by side, and what that earned, float64."""
    transition = core.transition_model.step(*_repeat_for_actions(core, state, layer))
    return transition.state, transition.reward_components.double().sum(-1)


def _repeat_for_actions(
    core: SpanControlCore, state: State, layer: int
) -> tuple[State, int, Tensor]:
    """Every environment once for each action; the layer; and those actions."""
    actions = torch.from_numpy(all_actions(core)).to(core.device)
    repeated = tree_map(lambda each: each.repeat_interleave(len(actions), dim=0), state)
    return repeated, layer, actions.repeat(len(state.hidden), *[1] * (actions.ndim - 1))
