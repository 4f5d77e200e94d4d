"""Run folders of comparisons: their trials and tables."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from spangym.envs import ENVIRONMENTS, EnvConfig
from spangym.envs.registration import full_id
from spangym.experiments.runner.run_dir import RunDir, RunKind
from spangym.experiments.studies.study import Study
from spangym.experiments.trials.trial import Trial, trials_of
from spangym.utils.scalars import check_fields


class _Row(BaseModel, strict=True):
    environment: str
    agent: str
    seed: Annotated[int, Field(ge=0)]
    total_timesteps: Annotated[int, Field(ge=0)]
    n_envs: Annotated[int, Field(ge=1)]


class _Result(BaseModel, strict=True):
    total_timesteps: int
    wall_seconds: float
    regret: float | None
    full_qk_pairs: float
    training_return: float | None = None
    generalization_gap: float | None = None


def _to_row(trial: Trial) -> dict[str, Any]:
    return {
        "environment": trial.environment.name,
        "agent": trial.agent.name,
        "seed": trial.seed,
        "total_timesteps": trial.total_timesteps,
        "n_envs": trial.n_envs,
    }


def _from_rows(study: Study, rows: list[dict[str, Any]]) -> list[Trial]:
    by_names = {
        (environment.name, agent.name): (environment, agent)
        for environment in study.environments
        for agent in study.agents_in(environment)
    }
    return [
        Trial(
            *by_names[row["environment"], row["agent"]],
            row["seed"],
            row["total_timesteps"],
            row["n_envs"],
            study.evaluation,
            study.resumed_from_steps if row["total_timesteps"] else (),
        )
        for row in rows
    ]


def _check_study(study: Study) -> None:
    for environment in study.environments:
        if full_id(environment.id) in ENVIRONMENTS:
            check_fields(EnvConfig, environment.kwargs)
            # Results are read by means of these.
            names = ("num_layers", "chunks_per_episode", "num_actions")
            if missing := [each for each in names if each not in environment.kwargs]:
                raise ValueError(f"environment {environment.name!r} lacks {', '.join(missing)}")
        else:
            # A ValueError, if there is no such environment.
            _ = environment.num_actions, environment.episode_steps


def _find_error(trial: Trial, file: str, content: Any) -> str:
    steps, evaluation = trial.total_timesteps, trial.evaluation
    if file == "result.json" and content["total_timesteps"] != steps:
        return f"it was trained for {content['total_timesteps']} steps, jobs.json says {steps}"
    if file == "curve.csv":
        rounds = steps // (trial.environment.episode_steps * trial.n_envs)
        if len(content) != rounds * trial.n_envs:
            return f"it has {len(content)} rows of {rounds * trial.n_envs}"
    if file == "evaluation.csv":
        seeds = range(evaluation.seed, evaluation.seed + evaluation.episodes)
        times = max(len(trial.environment.eval_cost_coefs), 1)
        if content["evaluation_seed"].tolist() != [*seeds] * times:
            return "its rows are not those of the study's evaluation"
    return ""


COMPARISON = RunKind(
    command="compare",
    study=Study,
    jobs=trials_of,
    to_row=_to_row,
    from_rows=_from_rows,
    row=_Row,
    result=_Result,
    tables={
        "curve": ("step", "return", "qk_pairs", "wall_seconds"),
        "evaluation": (
            *("evaluation_seed", "return", "mean_span"),
            *("qk_pairs", "output_norm", "actions"),
        ),
        "action_counts": ("layer", "content_type", "action", "count", "mean_span"),
    },
    text_columns=("actions", "content_type"),
    check_study=_check_study,
    find_error=_find_error,
)
"""Kind of the runs of ``spangym compare``."""

ComparisonDir = RunDir[Study, Trial]
"""Type of the run folders of comparisons."""
