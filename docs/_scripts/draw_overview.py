"""Draw docs/_static/overview.png, the figure of the README, from the layer and the stored suite.

Left: the query-key pairs that the local path scores after a small and a large action. Right: mean
return against query-key pairs, for every fixed span and for agents that choose spans by input.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap

import spangym  # noqa: F401  (registers the ids)
from spangym.attention.geometry import SpanGeometry
from spangym.experiments.plots.style import COLORS, MUTED, STYLE

ROOT = Path(__file__).parents[2]
ENVIRONMENT = "Sparsity-v0"
ACTIONS = (2, 7)
AGENTS = {"oracle": "oracle", "dqn": "DQN", "ppo": "PPO", "random": "random"}
BLUE, ORANGE, GREEN, PINK = [*COLORS][:4]


def draw_pairs(axes: Axes, action: int, color: str) -> None:
    """Draw the query-key pairs that the first layer scores after an action."""
    env = gym.make(f"spangym/{ENVIRONMENT}")
    env.reset(seed=0)
    *_, info = env.step(action)
    spans = [torch.tensor([info[name]]) for name in ("window", "span")]
    ctx = env.get_wrapper_attr("config").ctx
    first, end = (each[0, :, None] for each in SpanGeometry(*spans, causal=True).intervals(ctx))
    keys = torch.arange(ctx)
    scored = np.where((first <= keys) & (keys < end), 1.0, np.nan)
    axes.imshow(scored, cmap=ListedColormap([color]), interpolation="nearest")
    axes.set_title(f"action {action}: span {info['span']}", fontsize=12)
    axes.set(xlabel="keys", xticks=[], yticks=[])
    axes.grid(False)


def draw_returns(axes: Axes, rows: dict[str, dict[str, Any]]) -> None:
    """Draw mean return against query-key pairs."""
    fixed = [rows[f"fixed:{action}"] for action in range(10)]
    axes.plot(
        [row["qk_pairs"] for row in fixed], [row["return"] for row in fixed], "o--", color=MUTED
    )
    for action in (*ACTIONS, 9):
        row = rows[f"fixed:{action}"]
        axes.annotate(
            f"fixed:{action}",
            (row["qk_pairs"], row["return"]),
            (0, 8 if action == 7 else -18),
            textcoords="offset points",
            ha="center",
            color=MUTED,
        )
    for (agent, label), color, marker in zip(
        AGENTS.items(), (MUTED, GREEN, PINK, ORANGE), "*^Ds", strict=True
    ):
        row = rows[agent]
        axes.plot(row["qk_pairs"], row["return"], marker, color=color, ms=9, ls="", label=label)
    axes.set(xlabel="mean query-key pairs per decision", ylabel="mean return")
    axes.set_title(f"{ENVIRONMENT}: agents and fixed spans", fontsize=12)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(frameon=False, loc="lower right")


def main() -> None:
    """Draw and write the figure."""
    stored = json.loads((ROOT / "experiments/results/suite/summary.json").read_text("utf-8"))
    rows = {row["group"]: row for row in stored["groups"] if row["environment"] == ENVIRONMENT}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            1, 3, figsize=(11, 3.6), width_ratios=(1, 1, 1.9), layout="constrained"
        )
        axes[0].set_ylabel("queries")
        for each, action in zip(axes, ACTIONS, strict=False):
            draw_pairs(each, action, BLUE)
        draw_returns(axes[2], rows)
        figure.savefig(ROOT / "docs" / "_static" / "overview.png", dpi=160)


if __name__ == "__main__":
    main()
