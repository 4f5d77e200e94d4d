"""Names of plots, for the command line; nothing heavy is imported."""

from __future__ import annotations

from typing import Literal

Axis = Literal["steps", "wall", "qk_pairs"]
"""Horizontal axis of learning curves."""

TITLES = {
    "reward": "Return in training",
    "error": "{Metric} in training",
    "loss": "Loss in training",
    "qk_pairs": "Query-key pairs in training",
    "spans": "Spans in training",
    "pareto": "{Metric} vs. compute",
    "differences": "Differences from the baseline",
    "aggregates": "Scores over all environments",
    "profiles": "Performance profiles",
    "probability_of_improvement": "Probability of improvement",
    "radar": "Scores by environment",
    "span_heatmap": "Spans by layer and content type",
    "runtime": "Run time",
    "error_by_action": "{Metric} by action",
    "temperature_laws": "Temperature laws",
    "attention_maps": "Attention weights",
}
"""Titles by name, with the placeholders of `PlotData.format_vars`."""
