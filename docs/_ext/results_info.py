"""How stored results were measured, in words; formatted means."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from spangym.envs import EnvConfig
from spangym.envs.data.dataset import SPLITS
from spangym.envs.data.dataset_registry import make_dataset
from spangym.envs.model.model_checkpoint import weights_sha256
from spangym.experiments.analysis.hypervolume import HYPERVOLUME, tradeoff_metric_infos
from spangym.experiments.analysis.results import MetricInfo
from spangym.experiments.reports.tables import decimals_for, mean_ci_cell


def env_slug(name: str) -> str:
    """Name of the page of an id, and of its study.

    Example:
        >>> env_slug("spangym/SpanControl-v0")
        'span-control'
        >>> env_slug("spangym/KVCache-v0")
        'kv-cache'
    """
    short = name.removeprefix("spangym/").rpartition("-v")[0]
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", short).lower()


def provenance(manifest: Mapping[str, Any]) -> str:
    """When and with what results were measured, of a run's manifest or of a bench's machine."""
    machine = {**manifest, **manifest.get("machine", {})}
    commit = machine.get("commit") or manifest.get("code", {}).get("commit")
    date = (machine.get("date") or manifest.get("started") or "")[:10]
    versions = {**machine, **manifest.get("versions", {})}
    parts = [
        f"measured on {date}" if date else "the date was not recorded",
        f"commit `{commit[:8]}`" if commit else "no commit was recorded",
        f"{machine['processor'].replace('(R)', '')}, {machine['cores']} cores",
    ]
    if machine["device"] != "cpu":
        parts.append(machine["device"])
    if "torch" in versions:
        parts.append(f"PyTorch {versions['torch']}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def is_older(manifest: Mapping[str, Any], config: EnvConfig) -> bool:
    """Whether the texts or the layers of an environment have changed since a run."""
    texts = manifest["content_sha256"].get(config.dataset)
    if texts is not None and texts != _fingerprints(config.dataset):
        return True
    weights = manifest["weights_sha256"].get(config.checkpoint)
    return weights is not None and weights != weights_sha256(config.checkpoint)


@cache
def _fingerprints(dataset: str) -> dict[str, dict[str, str]]:
    return {split: make_dataset(dataset, split).fingerprint() for split in SPLITS}


def mean_ci(row: Mapping[str, Any], metric: str, info: MetricInfo) -> str:
    """A mean with half the width of its interval, of a row of ``summary.json``."""
    numbers = (row[f"{metric}{end}"] for end in ("", "_low", "_high"))
    mean, low, high = (math.nan if each is None else info.scale * each for each in numbers)
    decimals = decimals_for([mean]) if info.decimals is None else info.decimals
    return mean_ci_cell(mean, low, high, decimals).text


def tradeoff_lines(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[list[str], list[list[str]]] | None:
    """Header and lines of returns by cost coefficient; None if no agent was evaluated at several.

    Args:
        rows: Rows of ``summary.json`` of one environment, one for each agent.
    """
    measured = [name for name in rows[0] if rows[0].get(f"{name}_n")]
    infos = tradeoff_metric_infos(measured)
    if not infos:
        return None
    ordered = sorted(rows, key=lambda row: -row[HYPERVOLUME])
    lines = [
        [row["group"], *(mean_ci(row, name, info) for name, info in infos.items())]
        for row in ordered
    ]
    return ["agent", *(info.label for info in infos.values())], lines
