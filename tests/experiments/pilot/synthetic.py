"""Rows as a pilot would leave them, made up."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spangym.experiments.analysis.load_results import pilot_curves, pilot_pairs, pilot_values
from spangym.experiments.analysis.results import (
    ACTION_VALUE_COLUMNS,
    PILOT_METRICS,
    AttentionMap,
    Results,
)
from spangym.utils.text import slug

LONGER, SHORTER = "hybrid-sharper-longer", "hybrid-sharper-shorter"
PLAIN = ("standard", "standard-8h")
PREDICTOR, REFINER = "integrated-predictor", "integrated-refiner"
VARIANTS = (
    *PLAIN,
    LONGER,
    SHORTER,
    "focus",
    PREDICTOR,
    "integrated-learned-span",
    REFINER,
    "integrated-dqn",
    "integrated-ppo",
    "integrated-frozen-dqn",
    "integrated-frozen-ppo",
    "original",
)
LAWS = {LONGER: "sharper for longer spans", SHORTER: "sharper for shorter spans"}
AGENTS = {REFINER: PREDICTOR, "integrated-dqn": PREDICTOR, "integrated-ppo": PREDICTOR}
SPLITS = {"speech": ("seen", "unseen"), "text": ("held out",)}
STOPPED, FAILED = "original", "integrated-frozen-ppo"
ERROR = "RuntimeError: <b>out of memory</b>"
EXAMPLES = ("the old boat leans on the quay", "seven small birds")
FULL_QK_PAIRS = 62_500.0
# Final errors, in the order of the variants: seconds of an update grow with the last.
_QUALITY = (0.0, -0.004, 0.03, 0.035, 0.02, 0.0, -0.03, 0.005, 0.01, 0.0, -0.01, 0.0, 0.12)
_MILLISECONDS = (95, 100, 150, 152, 210, 230, 240, 245, 250, 255, 238, 236, 900)
_SHARES = (1, 1, 1.3, 1.3, 1.9, 1.8, 1.45, 1.7, 1.75, 1.6, 1.2, 1.15, 3.4)


def make_pilot(
    task: str = "speech",
    variants: Sequence[str] = VARIANTS,
    seeds: int = 3,
    *,
    updates: int = 600,
    every: int = 10,
    evaluations: int = 6,
    layers: int = 2,
    stopped: Collection[str] = (STOPPED,),
    failed: Collection[str] = (FAILED,),
    plain: Collection[str] = PLAIN,
    examples: Sequence[str] = EXAMPLES,
    tokens: int = 120,
    missing: int = 0,
    laws: Mapping[str, str] = LAWS,
    seed: int = 0,
) -> Results:
    """Plausible rows.

    Args:
        task: ``speech`` or ``text``.
        variants: Labels; the first is the baseline.
        seeds: Training seeds.
        updates: Of a training.
        every: Updates between rows of the curves.
        evaluations: Of a training.
        layers: Of the models.
        stopped: Variants whose trainings all end early.
        failed: Variants whose last training failed.
        plain: Variants without spans.
        examples: What attention is shown for.
        tokens: Of an example.
        missing: Trainings that are not there.
        laws: Temperature laws of variants that differ in nothing else.
        seed: Of what is drawn.
    """
    generator = np.random.default_rng(seed)
    splits = SPLITS[task]
    trainings: list[dict[str, object]] = []
    tables: dict[str, list[pd.DataFrame]] = {"curves": [], "evaluations": [], "spans": []}
    actions: list[dict[str, object]] = []
    luck = 0.012 * generator.normal(size=seeds)
    failures = []
    for number, variant in enumerate(variants):
        place = number % len(_QUALITY)
        for training_seed in range(seeds):
            if variant in failed and training_seed == seeds - 1:
                failures.append((f"{slug(variant)}/seed-{training_seed}", ERROR))
                continue
            key = {"environment": task, "group": variant, "seed": training_seed}
            last = updates * 2 // 5 if variant in stopped else updates
            quality = _QUALITY[place] + luck[training_seed] + 0.006 * float(generator.normal())
            milliseconds = _MILLISECONDS[place] * (1 + 0.02 * float(generator.normal()))
            ends = np.arange(every, last + 1, every)
            losses = _losses(task, ends / updates, quality)
            tables["curves"].append(
                pd.DataFrame(
                    {
                        **key,
                        "update": ends,
                        "seconds": ends * milliseconds / 1000,
                        "loss": losses * (1 + 0.08 * generator.normal(size=len(ends))),
                    }
                )
            )
            evaluated = np.linspace(0, updates, evaluations + 1)[1:]
            evaluated = evaluated[evaluated <= last]
            for worse, split in enumerate(splits):
                loss = _losses(task, evaluated / updates, quality) + 0.12 * worse
                error = np.clip(0.34 * loss + 0.05 * worse, 0, 1) if task == "speech" else loss
                tables["evaluations"].append(
                    pd.DataFrame(
                        {
                            **key,
                            "update": evaluated.astype(int),
                            "seconds": evaluated * milliseconds / 1000,
                            "split": split,
                            "loss": loss,
                            "error": error,
                            "character_error": 0.4 * error if task == "speech" else np.nan,
                        }
                    )
                )
                if variant not in plain:
                    for action in range(10):
                        far = abs(action - 5) / 5
                        actions.append(
                            {
                                **key,
                                "action": action,
                                "split": split,
                                "error": error[-1] * (1 + far**2 * (0.4 + 0.05 * place)),
                            }
                        )
            span = np.nan if variant in plain else 12.0 + 3 * place
            trainings.append(
                {
                    **key,
                    "updates": last,
                    "parameters": 412_345 + 10 * number,
                    "seconds": last * milliseconds / 1000,
                    "milliseconds": milliseconds,
                    "qk_pairs": FULL_QK_PAIRS * _SHARES[place],
                    "full_qk_pairs": FULL_QK_PAIRS,
                    "span": span * (1 + 0.05 * float(generator.normal())),
                    "stopped": "its loss is not finite" if variant in stopped else "",
                }
            )
            for layer in range(0 if variant in plain else layers):
                wave = np.cumsum(generator.normal(size=len(ends)))
                spans = np.clip(span * (1 + layer / 2) + wave, 1, 64)
                tables["spans"].append(
                    pd.DataFrame(
                        {
                            **key,
                            "update": ends,
                            "seconds": ends * milliseconds / 1000,
                            "layer": layer,
                            "span": spans,
                            "qk_pairs": 250 * spans * 2,
                        }
                    )
                )
    finished = {str(each["group"]) for each in trainings}
    attention_maps = [
        _attention_map(variant, example, layer, path, tokens, generator)
        for variant, example, layer in itertools.product(variants, examples, range(layers))
        for path in (("global",) if variant in plain else ("local", "global"))
        if variant in finished
    ]
    evaluated_rows = _joined(tables["evaluations"], _EVALUATIONS)
    by_action = pd.DataFrame(actions, columns=[*_KEYS, "action", "split", "error"])
    return Results(
        study_type="pilot",
        environments=(task,),
        groups=tuple(variants),
        baselines=tuple(variants[:1]),
        splits=splits if trainings else (),
        metrics=PILOT_METRICS[task],
        primary="error",
        values=pilot_values(
            pd.DataFrame(trainings), evaluated_rows, variants[0], PILOT_METRICS[task]
        ),
        curves=pilot_curves(
            evaluated_rows,
            _joined(tables["curves"], ("update", "seconds", "loss")),
            _joined(tables["spans"], ("update", "seconds", "layer", "span", "qk_pairs")),
        ),
        action_values=by_action.rename(columns={"error": "value"})
        .assign(metric="error")
        .reindex(columns=[*ACTION_VALUE_COLUMNS]),
        pairs=pilot_pairs(
            {each: law for each, law in laws.items() if each in variants},
            {each: other for each, other in AGENTS.items() if {each, other} <= set(variants)},
        ),
        stopped=tuple(
            (str(each["group"]), int(str(each["seed"])), str(each["stopped"]))
            for each in trainings
            if each["stopped"]
        ),
        attention_maps=tuple(attention_maps),
        failed=tuple(failures),
        missing=missing,
    )


_KEYS = ("environment", "group", "seed")
_EVALUATIONS = ("update", "seconds", "split", "loss", "error", "character_error")


def _losses(task: str, share: NDArray[np.float64], quality: float) -> NDArray[np.float64]:
    """From much down to little, the less the better the model."""
    if task == "speech":
        return 0.62 + 2.2 * quality + 2.6 * np.exp(-4 * share) + 20 * np.exp(-60 * share)
    return 2.3 + 2.2 * quality + 4.0 * np.exp(-7 * share)


def _attention_map(
    variant: str,
    example: str,
    layer: int,
    path: str,
    tokens: int,
    generator: np.random.Generator,
) -> AttentionMap:
    if path == "local" and layer and variant == STOPPED:
        weights = np.zeros((tokens, tokens), np.float32)
        return AttentionMap(variant, example, layer, path, weights, 0.0)
    queries = np.arange(tokens)
    far = np.abs(queries[:, None] - queries)
    scores = -far / (4.0 + 8 * layer) + 0.5 * generator.normal(size=far.shape)
    if path == "local":
        scores[far > 24] = -np.inf
    weights = np.exp(scores)
    weights /= weights.sum(-1, keepdims=True)
    entropy = float(-(weights * np.log(np.maximum(weights, 1e-30))).sum(-1).mean())
    return AttentionMap(variant, example, layer, path, weights.astype(np.float32), entropy)


def _joined(tables: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    if tables:
        return pd.concat(tables, ignore_index=True)
    return pd.DataFrame(columns=[*_KEYS, *columns])


def column(table: pd.DataFrame, name: str, **where: object) -> NDArray[np.float64]:
    """A column of the rows that have these values."""
    rows = np.ones(len(table), bool)
    for other, value in where.items():
        rows &= (table[other] == value).to_numpy()
    return table[name].to_numpy(float)[rows]
