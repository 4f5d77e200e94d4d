"""Results of finished jobs as tables in long format: the input of statistics, tables and plots."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spangym.agents.registry import fixed_action_of

KEYS = ("environment", "group", "seed")
"""Columns that identify a job; all tables of `Results` begin with them."""
VALUE_COLUMNS = (*KEYS, "split", "metric", "value")
CURVE_COLUMNS = (*KEYS, "split", "metric", "layer", "step", "seconds", "value")
EPISODE_COLUMNS = (*KEYS, "evaluation_seed", "return")
ACTION_COUNT_COLUMNS = (*KEYS, "layer", "content_type", "action", "count", "mean_span")
ACTION_VALUE_COLUMNS = (*KEYS, "split", "metric", "action", "value")

EVALUATION, TRAINING, ALL_SPLITS = "evaluation", "training", "all"
"""Splits: the only one of a comparison; measured in training; mean over the splits of a pilot."""
EVALUATED = ("error", "character_error", "loss")
"""Metrics of a pilot that are measured on each split; others are costs."""
WHOLE_MODEL = -1
"""Layer of values that do not belong to one layer."""
SPLIT_LABELS = {"seen": "seen speakers", "unseen": "unseen speakers", "held out": "held-out text"}
"""Splits of a pilot, as they are named in titles."""


@dataclass(frozen=True)
class MetricInfo:
    """Name and format of a metric.

    Attributes:
        label: Name in tables.
        title: Name in titles and on axes; the label by default.
        unit: Unit of the formatted value; empty without one.
        difference_unit: Unit of a difference of two values; the unit by default.
        scale: Factor from the stored value to the unit.
        decimals: Decimal places; None: 3 below 100, else 1.
        higher_is_better: Direction of improvement.
        average: Statistic over training seeds; a median counts missing values as infinite.
    """

    label: str
    title: str = ""
    unit: str = ""
    difference_unit: str = ""
    scale: float = 1.0
    decimals: int | None = None
    higher_is_better: bool = True
    average: Literal["mean", "median"] = "mean"

    @property
    def axis_label(self) -> str:
        """Title with the unit."""
        return f"{self.title or self.label}{self.unit_suffix}"

    @property
    def unit_suffix(self) -> str:
        """The unit, to be put after a name."""
        return f", {self.unit}" if self.unit else ""


COMPARISON_METRICS = {
    "return": MetricInfo("mean return", "return"),
    "score": MetricInfo("score", decimals=2),
    "regret": MetricInfo("regret", decimals=3, higher_is_better=False),
    "generalization_gap": MetricInfo("generalization gap", higher_is_better=False),
    "mean_span": MetricInfo("mean span", decimals=0),
    "qk_pairs": MetricInfo("query-key pairs", decimals=0, higher_is_better=False),
    "full_qk_pairs": MetricInfo("query-key pairs of full attention", decimals=0),
    "seconds": MetricInfo("seconds", decimals=1, higher_is_better=False),
    "steps": MetricInfo("steps", decimals=0),
    "area": MetricInfo("mean return in training"),
    "efficiency": MetricInfo(
        "steps to 95 % of gain", decimals=0, higher_is_better=False, average="median"
    ),
}

_PILOT_COSTS = {
    "updates": MetricInfo("updates", decimals=0),
    "parameters": MetricInfo("parameters", decimals=0, higher_is_better=False),
    "seconds": MetricInfo("seconds per training", decimals=1, higher_is_better=False),
    "milliseconds": MetricInfo("ms per update", decimals=1, higher_is_better=False),
    "time_ratio": MetricInfo("time ratio", decimals=2, higher_is_better=False),
    "qk_pairs": MetricInfo("query-key pairs", decimals=0, higher_is_better=False),
    "full_qk_pairs": MetricInfo("query-key pairs of full attention", decimals=0),
    "qk_share": MetricInfo(
        "query-key pairs, % of full", scale=100.0, decimals=0, higher_is_better=False
    ),
    "span": MetricInfo("span", decimals=1),
}
_BITS_PER_BYTE = MetricInfo(
    "bits per byte", difference_unit="bits per byte", decimals=3, higher_is_better=False
)
PILOT_METRICS = {
    "speech": {
        "error": MetricInfo(
            "WER", "word error rate", "%", "points", 100.0, decimals=1, higher_is_better=False
        ),
        "character_error": MetricInfo(
            "CER", "character error rate", "%", "points", 100.0, decimals=1, higher_is_better=False
        ),
        "loss": MetricInfo("loss", unit="bits per character", higher_is_better=False),
        **_PILOT_COSTS,
    },
    "text": {
        "error": _BITS_PER_BYTE,
        "loss": MetricInfo("loss", unit="bits per byte", higher_is_better=False),
        **_PILOT_COSTS,
    },
}
"""By task of the pilot."""


@dataclass(frozen=True)
class AttentionMap:
    """Attention weights of one example in one layer, mean over the heads.

    Attributes:
        group: Name of the variant.
        example: Transcript of the example.
        layer: Index of the layer.
        path: ``local`` or ``global``; plain attention has a global path only.
        weights: Shape (queries, keys); rows sum to 1, or to 0 where the path is off.
        entropy: Mean over queries and heads of the entropy of the weights, in nats.
    """

    group: str
    example: str
    layer: int
    path: str
    weights: NDArray[np.float32]
    entropy: float


@dataclass(frozen=True)
class Results:
    """Results of a comparison, of several comparisons together, or of a pilot.

    All tables begin with the columns ``environment``, ``group`` and ``seed`` (training seed).

    Attributes:
        study_type: ``comparison`` or ``pilot``.
        environments: Names of the environments; the task of a pilot.
        groups: Names of the compared agents, then of the non-learning baselines; the attention
            variants of a pilot in the study's order.
        baselines: Groups that the others are compared with: non-learning policies; the plain
            attention of a pilot.
        splits: ``evaluation``; ``seen`` and ``unseen`` voices or ``held out`` text of a pilot.
        metrics: Metrics by name.
        primary: Name of the metric by which groups are compared.
        values: One row for each finished job, split and metric: ``split``, ``metric``, ``value``.
            Costs of a pilot have the split ``all``.
        curves: One row for each measurement during training: ``split`` (``training`` or one of
            ``splits``), ``metric``, ``layer`` (-1 for the whole model), ``step`` (environment steps
            over all environments, or updates), ``seconds`` (since the training began), ``value``.
        episodes: One row for each evaluation episode: ``evaluation_seed``, ``return`` and the other
            stored columns; empty for a pilot.
        action_counts: Actions taken in evaluation, one row for each layer, content type and action:
            ``layer``, ``content_type``, ``action``, ``count``, ``mean_span`` (tokens).
        action_values: Metrics of a trained model with the same action in every layer, one row for
            each split and action: ``split``, ``metric``, ``action``, ``value``.
        attention_maps: Attention weights of chosen examples, of the first seed.
        pairs: Further pairs of groups to compare, in addition to the baselines, by name of the
            comparison: ``temperature law`` (groups that differ in nothing else), ``controller``
            (agent-controlled group, the same layer without an agent).
        stopped: Group, seed and reason of each training that ended early.
        failed: Job id and one-line error of each failed job.
        missing: Number of jobs that are neither finished nor failed.
    """

    study_type: Literal["comparison", "pilot"]
    environments: tuple[str, ...]
    groups: tuple[str, ...]
    baselines: tuple[str, ...]
    splits: tuple[str, ...]
    metrics: dict[str, MetricInfo]
    primary: str
    values: pd.DataFrame
    curves: pd.DataFrame
    episodes: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=[*EPISODE_COLUMNS]))
    action_counts: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=[*ACTION_COUNT_COLUMNS])
    )
    action_values: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=[*ACTION_VALUE_COLUMNS])
    )
    attention_maps: tuple[AttentionMap, ...] = ()
    pairs: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    stopped: tuple[tuple[str, int, str], ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    missing: int = 0

    @property
    def learners(self) -> tuple[str, ...]:
        """Groups other than the baselines."""
        return tuple(each for each in self.groups if each not in self.baselines)

    @property
    def fixed_span_agents(self) -> tuple[str, ...]:
        """The fixed spans among the baselines."""
        return tuple(each for each in self.baselines if fixed_action_of(each) is not None)

    @property
    def finished(self) -> pd.DataFrame:
        """Finished jobs, one row each, with ``environment``, ``group`` and ``seed``."""
        return pd.DataFrame(self.values[[*KEYS]]).drop_duplicates()
