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

from spangym.agents import Agent, Refiner
from spangym.agents.base import is_resumable
from spangym.attention import NUM_ACTIONS, IntegratedAttention
from spangym.envs import EnvConfig, Reward, SB3SpanControlVecEnv, parse_env_kwargs
from spangym.envs.observations import ENCODINGS, Encoding
from spangym.envs.rewards import QualityReward, TaskReward
from spangym.experiments.pilot.attention_maps import capture_attention_maps, save_attention_maps
from spangym.experiments.pilot.evaluate_model import eval_mode, evaluate_model
from spangym.experiments.pilot.model_optimizer import TrainingDiverged
from spangym.experiments.pilot.models import PilotModel, make_model, num_parameters
from spangym.experiments.pilot.online_env import (
    ONLINE_REWARDS,
    OnlineQualityReward,
    OnlineVecEnv,
)
from spangym.experiments.pilot.pilot_board import TrainingLogger
from spangym.experiments.pilot.pilot_study import CONTROLLABLE_ATTENTION, PilotStudy, VariantConfig
from spangym.experiments.pilot.pilot_tasks import fingerprint, make_task
from spangym.experiments.pilot.span_policies import AgentSpans, FixedSpans, SpanPolicy
from spangym.experiments.pilot.trainer import Trainer
from spangym.experiments.runner.fingerprint import DatasetHashes
from spangym.experiments.runner.job import RESULT_FILE
from spangym.experiments.studies.study import OBS_FIELDS, make_agent
from spangym.experiments.trials.checkpoints import Checkpoints, Interval
from spangym.experiments.trials.train import env_seed, save_agent, save_csv, save_json
from spangym.utils.serialization import save_state

TABLES = {
    "curve": ("update", "seconds", "loss"),
    "spans": ("update", "seconds", "layer", "span", "qk_pairs"),
    "evaluation": (
        *("update", "seconds", "split", "loss"),
        *("error", "character_error", "span", "qk_pairs"),
    ),
    "by_span": ("action", "split", "error"),
}
"""Tables of a training, each a CSV file of its name, and their columns."""


@dataclass(frozen=True)
class ModelTrainingJob:
    """A variant that is trained from a seed: an independent job.

    Attributes:
        study: What it is part of.
        variant: One of the study's.
        seed: Seed of weights, order of data and agent.
    """

    study: PilotStudy
    variant: VariantConfig
    seed: int

    @property
    def job_id(self) -> str:
        """What it is called in messages, and its folder."""
        return f"{self.variant.slug}/seed-{self.seed}"

    @property
    def name(self) -> str:
        """The same in a progress bar."""
        return f"{self.variant.name} seed {self.seed}"

    @property
    def total(self) -> int:
        """Updates of the model."""
        return self.study.updates

    @property
    def sort_key(self) -> tuple[bool, ...]:
        """What sorts trainings, those that take longest first."""
        variant = self.variant
        return not variant.soft_span, variant.agent is None, variant.attention == "standard"

    @property
    def device(self) -> str:
        """Where it trains."""
        return self.study.device

    def config_for_hash(self, hashes: DatasetHashes) -> dict[str, Any]:
        """All that its numbers hang on, but for the machine and its libraries."""
        study = asdict(self.study)
        for name in ("name", "variants", "seeds"):
            del study[name]
        variant = asdict(self.variant)
        del variant["name"]
        return {
            "study": study,
            "variant": variant,
            "seed": self.seed,
            "content_sha256": fingerprint(self.study, hashes),
        }

    def run(
        self,
        folder: Path,
        progress: Callable[[int], None],
        log: Callable[[str], None],
        checkpoint_seconds: float,
    ) -> None:
        """Train the model, and judge it.

        Writes ``job.json``, TensorBoard events, ``curve.csv``, ``spans.csv``, ``evaluation.csv``,
        ``by_span.csv``, ``attention_maps.safetensors``, the model (``model.safetensors``), the agent
        (``agent.*``) and, when all that is done, ``result.json``. Meanwhile there are checkpoints,
        from which an interrupted training goes on, unless its agent cannot.

        A training whose loss is no longer finite ends there; its result says so.
        """
        save_json(folder / "job.json", self.config_for_hash(DatasetHashes()))
        checkpoints = Checkpoints(folder / "checkpoints")
        checkpoint = checkpoints.read(log)
        logger = TrainingLogger(
            folder, 0 if checkpoint is None else checkpoint["trainer"]["optimizer"]["updates"]
        )
        with contextlib.closing(logger):
            checkpointing = _CheckpointPolicy(checkpoints, Interval(checkpoint_seconds))
            _TrainingRun(self, folder, logger, progress, checkpointing).run(checkpoint)


class _CheckpointPolicy(NamedTuple):
    """Where checkpoints go, and when."""

    checkpoints: Checkpoints
    interval: Interval


class _TrainingRun:
    """A training as it runs."""

    def __init__(
        self,
        job: ModelTrainingJob,
        folder: Path,
        logger: TrainingLogger,
        progress: Callable[[int], None],
        checkpointing: _CheckpointPolicy,
    ) -> None:
        study, variant, seed = job.study, job.variant, job.seed
        self.study, self.variant, self.seed = study, variant, seed
        self.folder, self.checkpointing = folder, checkpointing
        self.task = task = make_task(study)
        self.model = make_model(study.task, study.model, variant, task.num_classes, task.ctx, seed)
        self.model.to(study.device)
        if variant.attention == "original":
            attach_refiners(self.model, seed)
        self.trainer = Trainer(study, variant, seed, task, self.model, logger, progress)
        self.agent = None if variant.agent is None else make_agent(variant.agent, seed)

    def run(self, checkpoint: dict[str, Any] | None) -> None:
        """Train from where it stands, and write down what came of it.

        Args:
            checkpoint: The last checkpoint; None to begin with.
        """
        self.num_checkpoints = 0
        if checkpoint is not None:
            self.trainer.load_state_dict(checkpoint["trainer"])
            self.num_checkpoints = checkpoint["num_checkpoints"]
        self.model.train()
        stopped = ""
        try:
            for number, phase in enumerate(self._phases()):
                if checkpoint is None or number >= checkpoint["phase"]:
                    self.phase = number
                    phase(checkpoint)
                    checkpoint = None
            self.trainer.maybe_evaluate()
        except TrainingDiverged as reason:
            stopped = str(reason)
        self._write_results(stopped)

    def _phases(self) -> list[Callable[[dict[str, Any] | None], None]]:
        agent, updates = self.agent, self.study.updates
        if agent is None:
            self.trainer.span_policy = SpanPolicy()
            return [lambda _: self._train_without_agent(updates, self.trainer.span_policy)]
        config = parse_env_kwargs(self._arguments(OnlineQualityReward()))[0]
        encoding = make_encoding(config)
        self.trainer.span_policy = AgentSpans(
            agent, encoding, config.observation_time == "previous"
        )
        if self.variant.learns == "online":
            return [lambda checkpoint: self._train_online(agent, checkpoint)]
        half = updates // self.task.chunks // 2 * self.task.chunks
        agent_policy = self.trainer.span_policy

        def train_half(_: dict[str, Any] | None) -> None:
            # An agent that has learned nothing yet decides nothing.
            self.trainer.span_policy = FixedSpans(NUM_ACTIONS - 1)
            self._train_without_agent(half, self.trainer.random_span_policy)

        def train_frozen(checkpoint: dict[str, Any] | None) -> None:
            if checkpoint is not None:
                agent.load(self.folder / "agent")
            self.trainer.span_policy = agent_policy
            self._train_without_agent(updates, agent_policy)

        return [
            train_half,
            lambda checkpoint: self._train_agent_in_env(agent, checkpoint),
            train_frozen,
        ]

    def _train_without_agent(self, until: int, span_policy: SpanPolicy) -> None:
        """Train the model; an agent, if there is one, only decides."""
        while self.trainer.updates < until:
            self.trainer.maybe_evaluate()
            self.trainer.run_episode(span_policy)
            self._save_checkpoint(self.trainer.updates >= until)

    def _train_online(self, agent: Agent, checkpoint: dict[str, Any] | None) -> None:
        """Train the model while the agent learns to control it."""
        study, variant = self.study, self.variant
        reward = ONLINE_REWARDS[variant.reward](variant.cost_coef)
        config, parts = parse_env_kwargs(self._arguments(reward))
        env = OnlineVecEnv(config, study.batch, parts, self.trainer)
        episodes = self.trainer.num_controlled_episodes(study.updates // self.task.chunks)
        self._train_agent(
            agent,
            env,
            episodes * self.task.chunks * self.model.num_layers * study.batch,
            checkpoint,
        )

    def _train_agent_in_env(self, agent: Agent, checkpoint: dict[str, Any] | None) -> None:
        """Have the agent learn on the model's layers, which do not; then it is frozen."""
        study, variant = self.study, self.variant
        reward_class = QualityReward if variant.reward == "quality" else TaskReward
        config, parts = parse_env_kwargs(self._arguments(reward_class(variant.cost_coef)))
        env = SB3SpanControlVecEnv(config, study.batch, parts)
        env.seed(env_seed(self.seed))
        steps = study.agent_steps // study.batch * study.batch
        with eval_mode(self.model):
            self._train_agent(agent, env, steps, checkpoint)
        save_agent(agent, self.folder)

    def _train_agent(
        self, agent: Agent, env: SB3SpanControlVecEnv, steps: int, checkpoint: dict[str, Any] | None
    ) -> None:
        if not is_resumable(agent):
            agent.learn(env, steps)
            return
        if checkpoint is not None:
            agent.load_state_dict(checkpoint["agent"])
            env.load_state_dict(checkpoint["environment"])

        def checkpoint_callback(last: bool) -> None:
            self._save_checkpoint(last, {"agent": agent.state_dict, "environment": env.state_dict})

        agent.learn(env, steps, checkpoint_callback)

    def _save_checkpoint(
        self, last: bool, more: Mapping[str, Callable[[], dict[str, Any]]] | None = None
    ) -> None:
        """Write a checkpoint, if it is time to."""
        if last or self.checkpointing.interval.elapsed():
            others = {name: state() for name, state in (more or {}).items()}
            self.num_checkpoints += 1
            state = {"phase": self.phase, "num_checkpoints": self.num_checkpoints}
            tree = {**state, "trainer": self.trainer.state_dict(), **others}
            self.checkpointing.checkpoints.write(self.num_checkpoints, tree)

    def _arguments(self, reward: Reward) -> dict[str, Any]:
        """Arguments of the environment of the model's layers."""
        agent_config = self.variant.agent
        assert agent_config is not None
        return {
            "layers": self.trainer.layer_stack(),
            "dataset": self.task.dataset,
            "reward": reward,
            "ctx": self.task.ctx,
            "chunks_per_episode": self.task.chunks,
            "observation_time": "previous" if self.model.causal else "current",
            **{name: getattr(agent_config, name) for name in OBS_FIELDS},
        }

    def _write_results(self, stopped: str) -> None:
        """Judge what was learned, and write everything down; ``result.json`` last."""
        trainer, task = self.trainer, self.task
        if not stopped and self.agent is not None:
            save_agent(self.agent, self.folder)
        by_span = []
        if self.variant.attention in CONTROLLABLE_ATTENTION and not stopped:
            for action in range(NUM_ACTIONS):
                for split, examples in task.eval_sets.items():
                    span_policy = FixedSpans(action)
                    evaluation = evaluate_model(
                        self.model, task, examples, span_policy, self.study.batch
                    )
                    by_span.append({"action": action, "split": split, "error": evaluation.error})
        tables = {**trainer.tables, "by_span": by_span}
        for name, columns in TABLES.items():
            save_csv(self.folder / f"{name}.csv", pd.DataFrame(tables[name], columns=[*columns]))
        if not stopped:
            save_attention_maps(
                self.folder, capture_attention_maps(self.model, task, trainer.span_policy)
            )
        save_state(self.folder / "model.safetensors", self.model.state_dict())
        last = [row for row in tables["evaluation"] if row["update"] == trainer.updates]
        result = {
            "updates": trainer.updates,
            "parameters": num_parameters(self.model),
            "seconds": round(trainer.seconds, 3),
            "milliseconds": float(np.median(trainer.milliseconds))
            if trainer.milliseconds
            else None,
            "qk_pairs": _mean(last, "qk_pairs"),
            "full_qk_pairs": self.model.full_qk_pairs(task.ctx),
            "span": _mean(last, "span"),
            "stopped": stopped,
        }
        save_json(self.folder / RESULT_FILE, result)


def attach_refiners(model: PilotModel, seed: int) -> None:
    """Give each layer a Refiner of its own, which learns in it, as in the original."""
    for index in range(model.num_layers):
        attention = model.attention(index)
        assert isinstance(attention, IntegratedAttention)
        attention.refiner = Refiner(seed=np.random.default_rng([seed, index]))


def make_encoding(config: EnvConfig) -> Encoding:
    """How observations are encoded that settings describe."""
    return ENCODINGS[config.encoding](
        config.dims,
        config.num_layers,
        config.pool_groups,
        config.autocorrelation,
        config.include_layer_index,
    )


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Mean of a column; None where there is none or it is not a number."""
    values = [row[name] for row in rows]
    return None if not values or math.isnan(sum(values)) else sum(values) / len(values)
