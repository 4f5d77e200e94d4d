"""Updates a model, and stops the training when numbers are no longer finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_EMA_DECAY = 0.95


class TrainingDiverged(Exception):  # noqa: N818  (the reason why a training stopped)
    """A loss, gradient or layer output that is not finite."""


class ModelOptimizer:
    """AdamW with a one-cycle learning rate and gradient clipping.

    Args:
        model: The model.
        updates: Total number of updates.
        learning_rate: Peak learning rate.

    Attributes:
        updates: Number of updates so far.
        ema_loss: Moving average of the loss in bits a target; None before the first update.
    """

    def __init__(self, model: nn.Module, updates: int, learning_rate: float) -> None:
        self.model = model
        self.updates = 0
        self.ema_loss: float | None = None
        self.optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0.01)
        # OneCycleLR divides by zero if the warm-up is shorter than two steps.
        steps = max(updates, 3)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, learning_rate, total_steps=steps, pct_start=max(0.1, 2 / steps)
        )

    def step(self, losses: Tensor, penalty: Tensor | None = None) -> float:
        """Update the model on the mean loss plus the penalty, and return the mean loss.

        Args:
            losses: Losses in bits a target, shape (batch,).
            penalty: Term added to the mean loss, shape ().

        Raises:
            TrainingDiverged: The loss or the gradient is not finite; the model is unchanged.
        """
        mean = losses.mean()
        loss = mean.item()
        if not torch.isfinite(mean):
            raise TrainingDiverged(f"the loss was {loss} in update {self.updates + 1}")
        self.optimizer.zero_grad()
        (mean if penalty is None else mean + penalty).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if not torch.isfinite(norm):
            raise TrainingDiverged(f"the gradient was not finite in update {self.updates + 1}")
        self.optimizer.step()
        self.schedule.step()
        self.updates += 1
        before = loss if self.ema_loss is None else self.ema_loss
        self.ema_loss = _EMA_DECAY * before + (1 - _EMA_DECAY) * loss
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the model and everything that its training has changed."""
        return {
            "model": dict(self.model.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "updates": self.updates,
            "ema_loss": self.ema_loss,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from a `state_dict`."""
        self.model.load_state_dict(state_dict["model"])
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.schedule.load_state_dict(state_dict["schedule"])
        self.updates, self.ema_loss = state_dict["updates"], state_dict["ema_loss"]
