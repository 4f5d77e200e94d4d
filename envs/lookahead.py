"""Consequences of every action: one-step reward, best return up to the chunk's end, coverage.

The environments do not change. All functions raise a `RuntimeError` while no episode is running.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spangym.envs.core import EpisodeCore
from spangym.envs.state import select_rows
from spangym.utils.scalars import as_int

_MAX_BATCH = 400
"""Maximum number of plans in a batch; larger batches only take more memory."""


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
        ValueError: The layers are of a pretrained model, whose attention weights are not known.
    """
    _check_native(core, "coverages of attention weights")
    return _per_env(core, core.coverages)


@torch.no_grad()
def predictor_action(core: EpisodeCore) -> NDArray[np.int64]:
    """Action whose span scale is nearest to the next layer's own prediction, shape (num_envs,).

    It is the last one where actions are fractions of the prediction.

    Raises:
        ValueError: The layers are of a pretrained model, which predicts no spans.
    """
    _check_native(core, "predictions of spans")
    state, index, highest = core.state, core.layer, core.config.num_actions - 1
    layer = core.stack.layer(index)
    if layer.config.action_scale == "relative":
        return np.full(core.num_envs, highest)
    predicted = core.transition_model.run_layer(state, index, None).span_scale
    return (highest * predicted).round().long().cpu().numpy()


def _check_native(core: EpisodeCore, what: str) -> None:
    if core.config.model:
        raise ValueError(f"layers of a pretrained model give no {what}")


@torch.no_grad()
def lookahead(core: EpisodeCore, beam: int = 10) -> NDArray[np.float32]:
    """Best return of each action up to the end of the chunk, (num_envs, actions).

    All plans (one action per layer) through the next two layers are tried. Beyond two layers only
    the best ``beam`` plans of each first action, by their return so far, are extended: then the
    result is a lower bound, which matters for the reward ``task``, most of which arrives last.

    Args:
        core: The environments.
        beam: Plans of each first action that are extended beyond two layers, at least 1.

    Raises:
        ValueError: ``beam`` is less than 1.
    """
    beam = as_int("beam", beam, 1)
    last = core.config.num_layers - 1

    def best_returns(state: Any) -> Tensor:
        if core.layer == last:
            return core.try_all_actions(state, last)[1]
        states, returns = core.try_all_actions(state, core.layer)
        num_actions = len(returns)
        for layer in range(core.layer + 1, last):
            states, rewards = core.try_all_actions(states, layer)
            plans = (returns[:, None] + rewards.view(len(returns), -1)).view(num_actions, -1)
            kept = plans.topk(min(beam, plans.shape[1]), dim=1).indices
            offsets = torch.arange(num_actions, device=kept.device)[:, None] * plans.shape[1]
            rows = (kept + offsets).flatten()
            states, returns = select_rows(states, rows), plans.flatten()[rows]
        size = max(1, _MAX_BATCH // core.config.num_actions)
        groups = torch.arange(len(returns), device=returns.device).split(size)
        rewards = torch.cat(
            [core.try_all_actions(select_rows(states, rows), last)[1] for rows in groups]
        )
        return (returns[:, None] + rewards.view(len(returns), -1)).view(num_actions, -1).amax(1)

    return _per_env(core, best_returns)


def _per_env(core: EpisodeCore, function: Callable[[Any], Tensor]) -> NDArray[np.float32]:
    """Apply a function to the state of one environment at a time, and stack the results."""
    state = core.search_state
    indices = torch.arange(core.num_envs, device=core.device).split(1)
    values = torch.cat([function(select_rows(state, index)) for index in indices])
    return values.view(core.num_envs, -1).cpu().numpy().astype(np.float32)
