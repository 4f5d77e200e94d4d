"""One training of a pilot: a variant, from a seed, with whatever controls its spans."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from safetensors.torch import save_file

from spangym.agents import Agent, Refiner
from spangym.agents.base import is_resumable
from spangym.attention import ACTIONS, IntegratedAttention
from spangym.envs import Reward, Settings, SpanControlVecEnv, split_arguments
from spangym.envs.observations import ENCODINGS, Encoding
from spangym.envs.rewards import QualityReward, TaskReward
from spangym.experiments.pilot.attention_maps import take_pictures, write_pictures
from spangym.experiments.pilot.evaluate_model import in_eval_mode, judge
from spangym.experiments.pilot.model_optimizer import Stopped
from spangym.experiments.pilot.models import PilotModel, count_parameters, make_model
from spangym.experiments.pilot.online_env import (
    TRAINING_REWARDS,
    QualityOfTraining,
    TrainingVecEnv,
)
from spangym.experiments.pilot.pilot_board import PilotBoard
from spangym.experiments.pilot.pilot_study import CONTROLLED, Plan, VariantEntry
from spangym.experiments.pilot.pilot_tasks import content_hashes, make_task
from spangym.experiments.pilot.span_policies import AgentDecides, Decider, FixedDecides
from spangym.experiments.pilot.trainer import Course
from spangym.experiments.runner.fingerprint import ContentHashes
from spangym.experiments.runner.job import RESULT
from spangym.experiments.studies.study import OBSERVATION, make_agent
from spangym.experiments.trials.checkpoints import Checkpoints, Clock
from spangym.experiments.trials.train import save_agent, stream_seed, write_csv, write_json
from spangym.utils.atomic_io import written_whole

TABLES = {
    "curve": ("update", "seconds", "loss"),
    "spans": ("update", "seconds", "layer", "span", "visited_keys"),
    "evaluation": (
        *("update", "seconds", "split", "loss"),
        *("error", "character_error", "span", "visited_keys"),
    ),
    "by_span": ("action", "split", "error"),
}
"""Tables of a training, each a CSV file of its name, and their columns."""


@dataclass(frozen=True)
class Training:
    """A variant that is trained from a seed: an independent job.

    Attributes:
        plan: What it is part of.
        variant: One of the plan's.
        seed: Seed of weights, order of data and agent.
    """

    plan: Plan
    variant: VariantEntry
    seed: int

    @property
    def name(self) -> str:
        """What it is called in messages, and its folder."""
        return f"{self.variant.slug}/seed-{self.seed}"

    @property
    def label(self) -> str:
        """The same in a progress bar."""
        return f"{self.variant.label} seed {self.seed}"

    @property
    def total(self) -> int:
        """Updates of the model."""
        return self.plan.updates

    @property
    def haste(self) -> tuple[bool, ...]:
        """What sorts trainings, those that take longest first."""
        variant = self.variant
        return not variant.soft_span, variant.agent is None, variant.attention == "standard"

    @property
    def device(self) -> str:
        """Where it trains."""
        return self.plan.device

    def content(self, hashes: ContentHashes) -> dict[str, Any]:
        """All that its numbers hang on, but for the machine and its libraries."""
        plan = asdict(self.plan)
        for name in ("name", "variants", "seeds"):
            del plan[name]
        variant = asdict(self.variant)
        del variant["label"]
        return {
            "plan": plan,
            "variant": variant,
            "seed": self.seed,
            "content_sha256": content_hashes(self.plan, hashes),
        }

    def run(
        self,
        folder: Path,
        progress: Callable[[int], None],
        note: Callable[[str], None],
        checkpoint_seconds: float,
    ) -> None:
        """Train the model, and judge it.

        Writes ``job.json``, TensorBoard events, ``curve.csv``, ``spans.csv``, ``evaluation.csv``,
        ``by_span.csv``, ``pictures.npz``, the model (``model.safetensors``), the agent
        (``agent.*``) and, when all that is done, ``result.json``. Meanwhile there are checkpoints,
        from which an interrupted training goes on, unless its agent cannot.

        A training whose loss is no longer finite ends there; its result says so.
        """
        write_json(folder / "job.json", self.content(ContentHashes()))
        checkpoints = Checkpoints(folder / "checkpoints")
        kept = checkpoints.read(note)
        board = PilotBoard(folder, 0 if kept is None else kept["course"]["learner"]["updates"])
        with contextlib.closing(board):
            keep = _Keep(checkpoints, Clock(checkpoint_seconds))
            _Run(self, folder, board, progress, keep).go(kept)


class _Keep(NamedTuple):
    """Where checkpoints go, and when."""

    checkpoints: Checkpoints
    clock: Clock


class _Run:
    """A training as it runs."""

    def __init__(
        self,
        training: Training,
        folder: Path,
        board: PilotBoard,
        progress: Callable[[int], None],
        keep: _Keep,
    ) -> None:
        plan, variant, seed = training.plan, training.variant, training.seed
        self.plan, self.variant, self.seed = plan, variant, seed
        self.folder, self.keep = folder, keep
        self.task = task = make_task(plan)
        self.model = make_model(plan.task, plan.model, variant, task.classes, task.ctx, seed)
        self.model.to(plan.device)
        if variant.attention == "original":
            give_refiners(self.model, seed)
        self.course = Course(plan, variant, seed, task, self.model, board, progress)
        self.agent = None if variant.agent is None else make_agent(variant.agent, seed)

    def go(self, kept: dict[str, Any] | None) -> None:
        """Train from where it stands, and write down what came of it.

        Args:
            kept: The last checkpoint; None to begin with.
        """
        self.written = 0
        if kept is not None:
            self.course.load_state_dict(kept["course"])
            self.written = kept["written"]
        self.model.train()
        stopped = ""
        try:
            for number, phase in enumerate(self._phases()):
                if kept is None or number >= kept["phase"]:
                    self.phase = number
                    phase(kept)
                    kept = None
            self.course.rest()
        except Stopped as reason:
            stopped = str(reason)
        self._conclude(stopped)

    def _phases(self) -> list[Callable[[dict[str, Any] | None], None]]:
        agent, updates = self.agent, self.plan.updates
        if agent is None:
            self.course.decider = Decider()
            return [lambda _: self._alone(updates, self.course.decider)]
        settings = split_arguments(self._arguments(QualityOfTraining()))[0]
        encoding = make_encoding(settings)
        self.course.decider = AgentDecides(agent, encoding, settings.observe == "previous")
        if self.variant.learns == "online":
            return [lambda kept: self._online(agent, kept)]
        half = updates // self.task.chunks // 2 * self.task.chunks
        trained = self.course.decider

        def varied(_: dict[str, Any] | None) -> None:
            # An agent that has learnt nothing yet decides nothing.
            self.course.decider = FixedDecides(ACTIONS - 1)
            self._alone(half, self.course.chance)

        def frozen(kept: dict[str, Any] | None) -> None:
            if kept is not None:
                agent.load(self.folder / "agent")
            self.course.decider = trained
            self._alone(updates, trained)

        return [varied, lambda kept: self._in_environment(agent, kept), frozen]

    def _alone(self, until: int, decider: Decider) -> None:
        """Train the model; an agent, if there is one, only decides."""
        while self.course.updates < until:
            self.course.rest()
            self.course.run_episode(decider)
            self._keep_state(self.course.updates >= until)

    def _online(self, agent: Agent, kept: dict[str, Any] | None) -> None:
        """Train the model while the agent learns to control it."""
        plan, variant = self.plan, self.variant
        reward = TRAINING_REWARDS[variant.reward](variant.price)
        settings, parts = split_arguments(self._arguments(reward))
        env = TrainingVecEnv(settings, plan.batch, parts, self.course)
        episodes = self.course.controlled(plan.updates // self.task.chunks)
        self._learn(agent, env, episodes * self.task.chunks * self.model.layers * plan.batch, kept)

    def _in_environment(self, agent: Agent, kept: dict[str, Any] | None) -> None:
        """Have the agent learn on the model's layers, which do not; then it is frozen."""
        plan, variant = self.plan, self.variant
        kind = QualityReward if variant.reward == "quality" else TaskReward
        settings, parts = split_arguments(self._arguments(kind(variant.price)))
        env = SpanControlVecEnv(settings, plan.batch, parts)
        env.seed(stream_seed(self.seed))
        steps = plan.agent_steps // plan.batch * plan.batch
        with in_eval_mode(self.model):
            self._learn(agent, env, steps, kept)
        save_agent(agent, self.folder)

    def _learn(
        self, agent: Agent, env: SpanControlVecEnv, steps: int, kept: dict[str, Any] | None
    ) -> None:
        if not is_resumable(agent):
            agent.learn(env, steps)
            return
        if kept is not None:
            agent.load_state_dict(kept["agent"])
            env.load_state_dict(kept["environment"])

        def at_rest(last: bool) -> None:
            self._keep_state(last, {"agent": agent.state_dict, "environment": env.state_dict})

        agent.learn(env, steps, at_rest)

    def _keep_state(
        self, last: bool, more: Mapping[str, Callable[[], dict[str, Any]]] | None = None
    ) -> None:
        """Write a checkpoint, if it is time to."""
        if last or self.keep.clock.is_due():
            others = {name: state() for name, state in (more or {}).items()}
            self.written += 1
            state = {"phase": self.phase, "written": self.written}
            tree = {**state, "course": self.course.state_dict(), **others}
            self.keep.checkpoints.write(self.written, tree)

    def _arguments(self, reward: Reward) -> dict[str, Any]:
        """Arguments of the environment of the model's layers."""
        entry = self.variant.agent
        assert entry is not None
        return {
            "layers": self.course.stack(),
            "source": self.task.source,
            "reward": reward,
            "ctx": self.task.ctx,
            "chunks": self.task.chunks,
            "observe": "previous" if self.model.causal else "current",
            **{name: getattr(entry, name) for name in OBSERVATION},
        }

    def _conclude(self, stopped: str) -> None:
        """Judge what was learnt, and write everything down; ``result.json`` last."""
        course, task = self.course, self.task
        if not stopped and self.agent is not None:
            save_agent(self.agent, self.folder)
        by_span = []
        if self.variant.attention in CONTROLLED and not stopped:
            for action in range(ACTIONS):
                for split, examples in task.sets.items():
                    decider = FixedDecides(action)
                    judged = judge(self.model, task, examples, decider, self.plan.batch)
                    by_span.append({"action": action, "split": split, "error": judged.error})
        tables = {**course.tables, "by_span": by_span}
        for name, columns in TABLES.items():
            write_csv(self.folder / f"{name}.csv", pd.DataFrame(tables[name], columns=[*columns]))
        if not stopped:
            write_pictures(self.folder, take_pictures(self.model, task, course.decider))
        with written_whole(self.folder / "model.safetensors") as aside:
            save_file(
                {name: each.contiguous() for name, each in self.model.state_dict().items()}, aside
            )
        last = [row for row in tables["evaluation"] if row["update"] == course.updates]
        result = {
            "updates": course.updates,
            "parameters": count_parameters(self.model),
            "seconds": round(course.seconds, 3),
            "milliseconds": float(np.median(course.milliseconds)) if course.milliseconds else None,
            "visited_keys": _mean(last, "visited_keys"),
            "full_keys": self.model.full_keys(task.ctx),
            "span": _mean(last, "span"),
            "stopped": stopped,
        }
        write_json(self.folder / RESULT, result)


def give_refiners(model: PilotModel, seed: int) -> None:
    """Give each layer a Refiner of its own, which learns in it, as in the original."""
    for index in range(model.layers):
        attention = model.attention(index)
        assert isinstance(attention, IntegratedAttention)
        attention.refiner = Refiner(seed=np.random.default_rng([seed, index]))


def make_encoding(settings: Settings) -> Encoding:
    """How observations are encoded that settings describe."""
    return ENCODINGS[settings.encoding](
        settings.dims, settings.layers, settings.groups, settings.lags, settings.layer_index
    )


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Mean of a column; None where there is none or it is not a number."""
    values = [row[name] for row in rows]
    return None if not values or math.isnan(sum(values)) else sum(values) / len(values)
