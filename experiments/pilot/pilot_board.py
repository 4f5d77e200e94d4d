"""What a training of the pilot shows in TensorBoard: the same names for every variant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class TrainingLogger:
    """TensorBoard events of one training.

    Scalars ``training/loss``, ``training/span/layer_0`` and ``training/qk_pairs/layer_0`` (and
    so on), and ``evaluation/SPLIT/...`` for all that a model is judged by.

    Args:
        folder: The training's folder.
        updates: Updates that were made before: what was shown of later ones comes again.
    """

    def __init__(self, folder: Path, updates: int = 0) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=updates + 1 if updates else None)

    def close(self) -> None:
        """Write what is not yet written."""
        self._writer.close()

    def log_training(self, loss: float, layers: Sequence[Mapping[str, Any]], updates: int) -> None:
        """Show what was learned from.

        Args:
            loss: In bits a target.
            layers: ``span`` and ``qk_pairs`` of each layer; none of plain attention.
            updates: Of the training so far.
        """
        self._writer.add_scalar("training/loss", loss, updates)
        for row in layers:
            for name in ("span", "qk_pairs"):
                self._writer.add_scalar(f"training/{name}/layer_{row['layer']}", row[name], updates)

    def log_evaluation(self, split: str, judged: Mapping[str, float], updates: int) -> None:
        """Show how a model does on a split, by the names of a `EvalResult`."""
        for name, value in judged.items():
            if not math.isnan(value):
                self._writer.add_scalar(f"evaluation/{split}/{name}", value, updates)
