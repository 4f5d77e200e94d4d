"""What each action would do: earn at once, earn at best up to the chunk's end, and cover."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spangym.attention import ACTIONS
from spangym.envs.core import Simulator
from spangym.envs.state import State, map_tensors
from spangym.envs.transition import FULL_SPAN

_AT_ONCE = 400
"""Ways that are gone side by side; more would only take more memory."""


def choices(simulator: Simulator) -> NDArray[np.int64]:
    """All actions of one lane.

    Returns:
        Shape (10,); with ``refresh`` (40, 3), the span changing slowest.
    """
    spans = range(ACTIONS)
    if not simulator.settings.refresh:
        return np.array(spans)
    return np.array([*itertools.product(spans, range(2), range(2))])


@torch.no_grad()
def peek(simulator: Simulator) -> NDArray[np.float32]:
    """The reward of each action for the coming decision; nothing changes.

    Args:
        simulator: In mid-episode.

    Returns:
        Shape (lanes, 10), with ``refresh`` (lanes, 40): by `choices`.

    Raises:
        RuntimeError: The episode is over, or none has begun.
    """
    return _by_lanes(simulator, lambda some: _earned(simulator, some, simulator.layer))


@torch.no_grad()
def coverages(simulator: Simulator) -> NDArray[np.float32]:
    """How much of full attention's weight each action would leave within the span.

    That is `spangym.attention.AttentionStats.coverage` of the coming decision; nothing changes. Of
    an original layer only the keys count that it lets a query see, which are not all of its span's.

    Args:
        simulator: In mid-episode.

    Returns:
        In [0, 1], of shape (lanes, 10), with ``refresh`` (lanes, 40): by `choices`.

    Raises:
        RuntimeError: The episode is over, or none has begun.
    """

    def covered(state: State) -> Tensor:
        tried = _side_by_side(simulator, state, simulator.layer)
        outcome = simulator.dynamics.run(*tried, return_stats=True)
        assert outcome.stats is not None
        return outcome.stats.coverage

    return _by_lanes(simulator, covered)


@torch.no_grad()
def predicted_actions(simulator: Simulator) -> NDArray[np.int64]:
    """The action whose span scale is nearest to what the coming layer predicts itself.

    Where an action is a share of the prediction that is the whole of it: 9.

    Args:
        simulator: In mid-episode.

    Returns:
        Actions for the span, shape (lanes,).

    Raises:
        RuntimeError: The episode is over, or none has begun.
    """
    state, index = simulator.state, simulator.layer
    layer = simulator.stack.layer(index)
    if layer.action_scale == "relative":
        return np.full(simulator.lanes, FULL_SPAN)
    predicted = simulator.stack.run(index, state.hidden, cache=state.caches[index]).scale
    return (FULL_SPAN * predicted).round().long().cpu().numpy()


@torch.no_grad()
def lookahead(simulator: Simulator, beam: int = 10) -> NDArray[np.float32]:
    """The best return of each action up to the end of the chunk, over all that can follow.

    All ways through the coming two layers are tried. Where more are left, only the best ``beam``
    ways of each first action, by what they have earned so far, are followed further: with the
    reward ``task``, whose greater part comes last, that is a bound from below.

    Args:
        simulator: In mid-episode.
        beam: Ways of each first action that are followed beyond two layers, at least 1.

    Returns:
        Shape (lanes, 10), with ``refresh`` (lanes, 40): by `choices`.

    Raises:
        RuntimeError: The episode is over, or none has begun.
        ValueError: The beam is less than 1.
    """
    if beam < 1:
        raise ValueError(f"beam must be at least 1, got {beam}")

    last = simulator.settings.layers - 1

    def best(state: State) -> Tensor:
        if simulator.layer == last:
            return _earned(simulator, state, last)
        state, returns = _go_on(simulator, state, simulator.layer)
        first = len(returns)
        for layer in range(simulator.layer + 1, last):
            state, earned = _go_on(simulator, state, layer)
            ways = (returns[:, None] + earned.view(len(returns), -1)).view(first, -1)
            kept = ways.topk(min(beam, ways.shape[1]), dim=1).indices
            offsets = torch.arange(first, device=kept.device)[:, None] * ways.shape[1]
            rows = (kept + offsets).flatten()
            state, returns = map_tensors(_rows(rows), state), ways.flatten()[rows]
        # The ways through the last layer are not gone on from: only what they earn is kept.
        groups = torch.arange(len(returns), device=returns.device).split(_AT_ONCE // ACTIONS)
        earned = torch.cat(
            [_earned(simulator, map_tensors(_rows(each), state), last) for each in groups]
        )
        return (returns[:, None] + earned.view(len(returns), -1)).view(first, -1).amax(1)

    return _by_lanes(simulator, best)


def _by_lanes(simulator: Simulator, returns: Callable[[State], Tensor]) -> NDArray[np.float32]:
    """Returns of the actions in each lane, one lane after the other."""
    # What is kept of full spans is for chunks to come.
    state = dataclasses.replace(simulator.state, full_caches=())
    lanes = torch.arange(simulator.lanes, device=simulator.device).split(1)
    together = torch.cat([returns(map_tensors(_rows(lane), state)) for lane in lanes])
    return together.view(simulator.lanes, -1).cpu().numpy().astype(np.float32)


def _rows(chosen: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor[chosen]


def _earned(simulator: Simulator, state: State, layer: int) -> Tensor:
    """What every action earns in every lane, float64 of shape (lanes * actions,)."""
    return _go_on(simulator, state, layer)[1]


def _go_on(simulator: Simulator, state: State, layer: int) -> tuple[State, Tensor]:
    """Every lane gone on with every action, side by side, and what that earned, float64."""
    passed = simulator.dynamics.decide(*_side_by_side(simulator, state, layer))
    return passed.state, passed.parts.double().sum(-1)


def _side_by_side(simulator: Simulator, state: State, layer: int) -> tuple[State, int, Tensor]:
    """Every lane once for each action; the layer; and those actions."""
    actions = torch.from_numpy(choices(simulator)).to(simulator.device)
    repeated = map_tensors(lambda each: each.repeat_interleave(len(actions), dim=0), state)
    return repeated, layer, actions.repeat(len(state.hidden), *[1] * (actions.ndim - 1))
