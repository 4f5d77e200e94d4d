"""What changes a model's weights: its optimizer, its learning rate, and when to stop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spangym.experiments.pilot.models import PilotModel

_WEIGHT_DECAY = 0.01
_WARMUP_FRACTION = 0.1
"""Share of the updates in which the learning rate rises."""
_EMA_DECAY = 0.95
"""What is left, after an update, of the weight of all updates before in the recent loss."""


class TrainingDiverged(Exception):  # noqa: N818  (it says why a training has ended early)
    """A training cannot go on."""


class ModelOptimizer:
    """Updates a model by AdamW, its learning rate rising and falling once.

    Args:
        model: The model.
        updates: How many there will be.
        learning_rate: The peak.

    Attributes:
        updates: How many there were.
        ema_loss: Mean loss of the last updates in bits a target; None before the first.
    """

    def __init__(self, model: PilotModel, updates: int, learning_rate: float) -> None:
        self.model = model
        self.updates = 0
        self.ema_loss: float | None = None
        self._optimizer = torch.optim.AdamW(
            model.parameters(), learning_rate, weight_decay=_WEIGHT_DECAY
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            # In a shorter rise than of two steps the library divides by zero.
            self._optimizer,
            learning_rate,
            total_steps=max(updates, 3),
            pct_start=max(_WARMUP_FRACTION, 2 / max(updates, 3)),
        )

    def step(self, losses: Tensor, penalty: Tensor | None = None) -> float:
        """Update the model.

        Args:
            losses: In bits a target, shape (batch,).
            penalty: What is made small beside them, shape ().

        Returns:
            The mean loss.

        Raises:
            TrainingDiverged: It is not finite; nothing was changed.
        """
        mean = losses.mean()
        loss = mean.item()
        if not torch.isfinite(mean):
            raise TrainingDiverged(f"the loss was {loss} in update {self.updates + 1}")
        self._optimizer.zero_grad()
        (mean if penalty is None else mean + penalty).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if not torch.isfinite(norm):
            raise TrainingDiverged(f"the gradient was not finite in update {self.updates + 1}")
        self._optimizer.step()
        self._schedule.step()
        self.updates += 1
        before = loss if self.ema_loss is None else self.ema_loss
        self.ema_loss = _EMA_DECAY * before + (1 - _EMA_DECAY) * loss
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The model and all that its training has changed."""
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "updates": self.updates,
            "ema_loss": self.ema_loss,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where `state_dict` was called."""
        self.model.load_state_dict(state_dict["model"])
        self._optimizer.load_state_dict(state_dict["optimizer"])
        self._schedule.load_state_dict(state_dict["schedule"])
        self.updates, self.ema_loss = state_dict["updates"], state_dict["ema_loss"]
