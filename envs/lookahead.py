"""Consequences of every action: one-step reward, best return up to the chunk's end, coverage.

The environments do not change. All functions raise a `RuntimeError` while no episode is running.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spangym.envs.core import EpisodeCore
from spangym.envs.state import concat_trees, select_rows, tree_map
from spangym.utils.scalars import as_int

_GROUP = 40
"""States from which actions are tried at a time; larger batches only take more memory."""


@torch.no_grad()
def one_step_rewards(core: EpisodeCore) -> NDArray[np.float32]:
    """Reward of each of `EpisodeCore.all_actions` at the next step, shape (num_envs, actions)."""
    return _per_env(core, lambda state: core.try_all_actions(state, core.layer)[1])


@torch.no_grad()
def action_coverages(core: EpisodeCore) -> NDArray[np.float32]:
    """Share of full attention's weight within the span of each action, (num_envs, actions).

    It is `spangym.attention.AttentionStats.coverage`, in [0, 1]. Of an original layer only the keys
    count that its truncation leaves.

    Raises:
        ValueError: The layers are of another model, whose attention weights are not known.
    """
    _check_native(core, "coverages of attention weights")
    return _per_env(core, core.coverages)


@torch.no_grad()
def predictor_action(core: EpisodeCore) -> NDArray[np.int64]:
    """Action whose span scale is nearest to the next layer's own prediction, shape (num_envs,).

    It is the last one where actions are fractions of the prediction.

    Raises:
        ValueError: The layers are of another model, which predicts no spans.
    """
    _check_native(core, "predictions of spans")
    state, index, highest = core.state, core.layer, core.config.num_actions - 1
    layer = core.stack.layer(index)
    if layer.config.action_scale == "relative":
        return np.full(core.num_envs, highest)
    predicted = core.transition_model.run_layer(state, index, None).span_scale
    return (highest * predicted).round().long().cpu().numpy()


def _check_native(core: EpisodeCore, what: str) -> None:
    if not core.config.native_layers:
        raise ValueError(f"layers of this model give no {what}")


@torch.no_grad()
def lookahead(core: EpisodeCore, beam: int = 10) -> NDArray[np.float32]:
    """Best return of each action up to the end of the chunk, (num_envs, actions).

    All plans (one action per layer) through the next two layers are tried. Where plans lead to
    equal states (`EnvConfig.reads_in_blocks`), each is tried once, and the result is exact.
    Elsewhere only the best ``beam`` plans of each first action are extended beyond two layers: then
    the result is a lower bound, exact with a ``beam`` of all plans of the other layers but the
    last. Plans are ranked by their return when the other layers take the last action, full span.
    The return so far would not do for the reward ``task``, most of which arrives last: it would
    rank the cheapest plans first.

    Args:
        core: The environments.
        beam: Plans of each first action that are extended beyond two layers, at least 1.

    Raises:
        ValueError: ``beam`` is less than 1.
    """
    beam = as_int("beam", beam, 1)
    last = core.config.num_layers - 1
    num_actions = len(core.all_actions)
    merges = core.config.reads_in_blocks

    def best_returns(state: Any) -> Tensor:
        if core.layer == last:
            return core.try_all_actions(state, last)[1]
        states, returns = core.try_all_actions(state, core.layer)
        best = torch.full_like(returns, -torch.inf)
        for layer in range(core.layer + 1, last):
            states, rewards = _in_groups(core.try_all_actions, states, len(returns), layer)
            returns = returns.repeat_interleave(num_actions) + rewards
            if (plans := len(returns) // num_actions) <= beam:
                continue
            completed = returns + _full_span_rewards(core, states, len(returns), layer + 1)
            kept = completed.view(num_actions, plans).topk(beam, dim=1)
            best = torch.maximum(best, kept.values[:, 0])
            offsets = torch.arange(num_actions, device=returns.device)[:, None] * plans
            rows = (kept.indices + offsets).flatten()
            states, returns = select_rows(states, rows), returns[rows]
        _, rewards = _in_groups(core.try_all_actions, states, len(returns), last, keep=False)
        returns = returns.repeat_interleave(num_actions) + rewards
        return torch.maximum(best, returns.view(num_actions, -1).amax(1))

    return _per_env(core, functools.partial(_merged_returns, core) if merges else best_returns)


def _merged_returns(core: EpisodeCore, state: Any) -> Tensor:
    """Best return of each action of one environment, where plans lead to equal states."""
    num_actions, last = len(core.all_actions), core.config.num_layers - 1
    rewards: list[Tensor] = []
    children: list[Tensor] = []
    for layer in range(core.layer, last + 1):
        states, found = core.try_all_actions(state, layer)
        rewards.append(found.view(-1, num_actions))
        if layer < last:
            firsts, numbers = _find_equal_rows(states, len(found))
            state = select_rows(states, firsts.to(found.device))
            children.append(numbers.view(-1, num_actions).to(found.device))
    returns = rewards.pop()
    while rewards:
        returns = rewards.pop() + returns.amax(1)[children.pop()]
    return returns


def _find_equal_rows(states: Any, count: int) -> tuple[Tensor, Tensor]:
    """Find states that are equal to the last bit.

    Returns:
        The first row of each different state, and the number of each row's state, int64 (count,).
    """
    parts: list[Any] = []
    tree_map(lambda each: parts.append(each.cpu().numpy()) or each, states)
    numbers: dict[bytes, int] = {}
    found = [
        numbers.setdefault(b"".join(part[row].tobytes() for part in parts), len(numbers))
        for row in range(count)
    ]
    firsts = [found.index(number) for number in range(len(numbers))]
    return torch.tensor(firsts), torch.tensor(found)


def _full_span_rewards(core: EpisodeCore, states: Any, count: int, layer: int) -> Tensor:
    """Return of full span in layer ``layer`` and all later ones, from each of ``count`` states."""
    total = torch.zeros(count, dtype=torch.float64, device=core.device)
    for index in range(layer, core.config.num_layers):
        keep = index + 1 < core.config.num_layers
        states, rewards = _in_groups(core.try_last_action, states, count, index, keep=keep)
        total = total + rewards
    return total


def _in_groups(
    function: Callable[[Any, int], tuple[Any, Tensor]],
    states: Any,
    count: int,
    layer: int,
    *,
    keep: bool = True,
) -> tuple[Any, Tensor]:
    """Try actions in a few states at a time; without ``keep`` the next states are dropped."""
    if count <= _GROUP:
        return function(states, layer)
    groups = torch.arange(count).split(_GROUP)
    results = [function(select_rows(states, rows), layer) for rows in groups]
    next_states = concat_trees([each[0] for each in results]) if keep else None
    return next_states, torch.cat([each[1] for each in results])


def _per_env(core: EpisodeCore, function: Callable[[Any], Tensor]) -> NDArray[np.float32]:
    """Apply a function to the state of one environment at a time, and stack the results."""
    state = core.search_state
    indices = torch.arange(core.num_envs, device=core.device).split(1)
    values = torch.cat([function(select_rows(state, index)) for index in indices])
    return values.view(core.num_envs, -1).cpu().numpy().astype(np.float32)
