"""One job of a pilot: train a variant from a seed, evaluate it, write the results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spangym.agents import Agent, Refiner
from spangym.agents.base import ResumableAgent, is_resumable
from spangym.attention import NUM_ACTIONS, IntegratedAttention
from spangym.attention.geometry import full_qk_pairs
from spangym.envs import EnvComponents, EnvConfig, Reward, SB3SpanControlVecEnv, parse_env_kwargs
from spangym.envs.model.model_optimizer import TrainingDiverged
from spangym.envs.rewards import QualityReward, TaskReward
from spangym.experiments.pilot.attention_maps import capture_attention_maps, save_attention_maps
from spangym.experiments.pilot.evaluate_model import eval_mode, evaluate_model
from spangym.experiments.pilot.models import PilotModel, make_model, num_parameters
from spangym.experiments.pilot.online_env import ONLINE_REWARDS, OnlineQualityReward, OnlineVecEnv
from spangym.experiments.pilot.pilot_study import CONTROLLABLE_ATTENTION, PilotStudy, VariantConfig
from spangym.experiments.pilot.pilot_tasks import Task, fingerprint, make_task
from spangym.experiments.pilot.span_policies import AgentSpans, FixedSpans, SpanPolicy
from spangym.experiments.pilot.trainer import Trainer
from spangym.experiments.runner.fingerprint import DatasetHashes
from spangym.experiments.runner.job_files import RESULT_FILE, save_csv, save_json
from spangym.experiments.studies.study import OBS_FIELDS, names_class
from spangym.experiments.trials.checkpoints import Checkpoints, Interval
from spangym.experiments.trials.tensorboard import TrialLogger
from spangym.experiments.trials.trial import env_seed, save_agent
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
"""Columns of the CSV files of a training, by file name without suffix."""


@dataclass(frozen=True)
class ModelTrainingJob:
    """Trains one variant from one seed, that of weights, batches and agent: a `Job`."""

    study: PilotStudy
    variant: VariantConfig
    seed: int

    @property
    def job_id(self) -> str:
        """Name in messages and of the folder."""
        return f"{self.variant.slug}/seed-{self.seed}"

    @property
    def name(self) -> str:
        """Name in progress bars."""
        return f"{self.variant.name} seed {self.seed}"

    @property
    def total(self) -> int:
        """Number of updates."""
        return self.study.updates

    @property
    def sort_key(self) -> tuple[bool, ...]:
        """Sort key that puts long trainings first."""
        variant = self.variant
        return not variant.soft_span, variant.agent is None, variant.attention == "standard"

    @property
    def device(self) -> str:
        """Device of the model."""
        return self.study.device

    @property
    def has_user_code(self) -> bool:
        """Whether the agent or the dataset is not of spangym."""
        agent = self.variant.agent
        has_own_data = names_class(self.study.text.dataset)
        return has_own_data or (agent is not None and agent.has_user_code)

    def config_for_hash(self, hashes: DatasetHashes) -> dict[str, Any]:
        """Return everything that affects the results, except the machine and its libraries."""
        study, variant = asdict(self.study), asdict(self.variant)
        for name in ("name", "variants", "seeds"):
            del study[name]
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
        """Train and evaluate the model.

        Writes ``job.json``, TensorBoard events, the CSV files of `TABLES`, the agent (``agent.*``),
        ``attention_maps.safetensors``, ``model.safetensors`` and, last, ``result.json``. An
        interrupted training resumes from its last checkpoint; the phase in which an agent learns
        starts over if the agent cannot resume. A training whose loss is no longer finite stops, and
        ``result.json`` gives the reason.
        """
        save_json(folder / "job.json", self.config_for_hash(DatasetHashes()))
        checkpoints = Checkpoints(folder / "checkpoints")
        checkpoint = checkpoints.read(log)
        state = None if checkpoint is None else TrainingState(**checkpoint)
        updates = 0 if state is None else state.trainer["optimizer"]["updates"]
        with contextlib.closing(TrialLogger(folder)) as logger:
            logger.open(updates)
            interval = Interval(checkpoint_seconds)
            ModelTraining(self, folder, logger, progress, checkpoints, interval, state).run()
        checkpoints.remove()


@dataclass
class TrainingState:
    """Content of a checkpoint, numbered from 1: the state of the trainer and its model.

    ``agent_is_frozen`` once the agent has finished learning in the environment and is stored; the
    states of agent and environment are None except while the agent learns.
    """

    number: int
    trainer: dict[str, Any]
    agent_is_frozen: bool = False
    agent: dict[str, Any] | None = None
    environment: dict[str, Any] | None = None


class ModelTraining:
    """A training in progress, from its last checkpoint on if there is one."""

    def __init__(
        self,
        job: ModelTrainingJob,
        folder: Path,
        logger: TrialLogger,
        progress: Callable[[int], None],
        checkpoints: Checkpoints,
        interval: Interval,
        state: TrainingState | None,
    ) -> None:
        study, variant, seed = job.study, job.variant, job.seed
        self.study, self.variant, self.seed = study, variant, seed
        self.folder, self.checkpoints, self.interval = folder, checkpoints, interval
        self.task = task = make_task(study)
        self.model = make_model(study.task, study.model, variant, task.num_classes, task.ctx, seed)
        self.model.to(study.device).train()
        if variant.attention == "original":
            attach_refiners(self.model, seed)
        self.trainer = Trainer(study, variant, seed, task, self.model, logger, progress)
        if state is not None:
            self.trainer.load_state_dict(state.trainer)
        self.state = state or TrainingState(0, {})

    def run(self) -> None:
        """Train, evaluate and write the results."""
        study, variant, trainer = self.study, self.variant, self.trainer
        agent = None if variant.agent is None else variant.agent.make(self.seed)
        stopped = ""
        try:
            if agent is None:
                self.train_model(study.updates, trainer.span_policy)
            elif variant.learns == "online":
                trainer.span_policy = self.agent_spans(agent)
                self.train_model_with_agent(agent)
            else:
                # An agent that has not learned yet controls nothing, in evaluations included.
                trainer.span_policy = FixedSpans(NUM_ACTIONS - 1)
                half = study.updates // self.task.chunks // 2 * self.task.chunks
                self.train_model(half, trainer.random_spans)
                self.train_agent(agent)
                trainer.span_policy = self.agent_spans(agent)
                self.train_model(study.updates, trainer.span_policy)
            trainer.evaluate_if_due()
        except TrainingDiverged as reason:
            stopped = str(reason)
        else:
            if agent is not None:
                save_agent(agent, self.folder)
            attention_maps = capture_attention_maps(self.model, self.task, trainer.span_policy)
            save_attention_maps(self.folder, attention_maps)
        self.write_results(stopped, [] if stopped else self.evaluate_fixed_spans())

    def train_model(self, until: int, span_policy: SpanPolicy) -> None:
        """Train the model up to an update at the spans of a policy that does not learn."""
        trainer = self.trainer
        while trainer.updates < until:
            trainer.evaluate_if_due()
            at_random = trainer.uses_random_spans(trainer.episodes)
            trainer.run_batch(trainer.random_spans if at_random else span_policy)
            self.save_checkpoint(last=trainer.updates >= until)

    def train_model_with_agent(self, agent: Agent) -> None:
        """Train the model while the agent learns to control its spans."""
        study, variant, trainer = self.study, self.variant, self.trainer
        reward = ONLINE_REWARDS[variant.reward](variant.cost_coef)
        env = OnlineVecEnv(*self.env_arguments(reward), trainer)
        episodes = range(study.updates // self.task.chunks)
        controlled = sum(not trainer.uses_random_spans(each) for each in episodes)
        self.learn(agent, env, controlled * self.task.chunks * self.model.num_layers * study.batch)

    def train_agent(self, agent: Agent) -> None:
        """Train the agent on the model's layers, which do not change; then freeze the agent."""
        if self.state.agent_is_frozen:
            agent.load(self.folder / "agent")
            return
        study, variant = self.study, self.variant
        reward_class = QualityReward if variant.reward == "quality" else TaskReward
        env = SB3SpanControlVecEnv(*self.env_arguments(reward_class(variant.cost_coef)))
        env.seed(env_seed(self.seed))
        with eval_mode(self.model):
            self.learn(agent, env, study.agent_steps // study.batch * study.batch)
        save_agent(agent, self.folder)
        self.state = TrainingState(self.state.number, {}, agent_is_frozen=True)

    def learn(self, agent: Agent, env: SB3SpanControlVecEnv, steps: int) -> None:
        """Let the agent learn, from the last checkpoint on if the agent can resume."""
        if not is_resumable(agent):
            agent.learn(env, steps)
            return
        if self.state.agent is not None and self.state.environment is not None:
            agent.load_state_dict(self.state.agent)
            env.load_state_dict(self.state.environment)

        def checkpoint_callback(last: bool) -> None:
            self.save_checkpoint(last, agent, env)

        agent.learn(env, steps, checkpoint_callback)

    def save_checkpoint(
        self,
        last: bool,
        agent: ResumableAgent | None = None,
        env: SB3SpanControlVecEnv | None = None,
    ) -> None:
        """Write a checkpoint if one is due, or if it is the last of a phase."""
        if not self.interval.elapsed() and not last:
            return
        self.state = TrainingState(
            self.state.number + 1,
            self.trainer.state_dict(),
            self.state.agent_is_frozen,
            None if agent is None else agent.state_dict(),
            None if env is None else env.state_dict(),
        )
        self.checkpoints.write(self.state.number, vars(self.state))

    def agent_spans(self, agent: Agent) -> AgentSpans:
        """Return the policy of an agent that does not learn."""
        config, *_ = self.env_arguments(OnlineQualityReward())
        spec = config.observation_spec
        return AgentSpans(agent, spec, config.observation_time == "previous")

    def env_arguments(self, reward: Reward) -> tuple[EnvConfig, int, EnvComponents]:
        """Return the arguments of a vector environment of the model's layers."""
        config, components = make_env_config(self.variant, self.model, self.task, reward)
        return config, self.study.batch, components

    def evaluate_fixed_spans(self) -> list[dict[str, Any]]:
        """Return the error of the trained model at each fixed span, in rows of ``by_span``."""
        if self.variant.attention not in CONTROLLABLE_ATTENTION:
            return []
        rows = []
        for action in range(NUM_ACTIONS):
            for split, examples in self.task.eval_sets.items():
                result = evaluate_model(
                    self.model, self.task, examples, FixedSpans(action), self.study.batch
                )
                rows.append({"action": action, "split": split, "error": result.error})
        return rows

    def write_results(self, stopped: str, by_span: list[dict[str, Any]]) -> None:
        """Write tables, model and, last, ``result.json``."""
        trainer, model = self.trainer, self.model
        for name, rows in {**trainer.tables, "by_span": by_span}.items():
            save_csv(self.folder / f"{name}.csv", pd.DataFrame(rows, columns=[*TABLES[name]]))
        save_state(self.folder / "model.safetensors", model.state_dict())
        last = [row for row in trainer.tables["evaluation"] if row["update"] == trainer.updates]
        qk_pairs, span = (np.array([row[name] for row in last]) for name in ("qk_pairs", "span"))
        result = {
            "updates": trainer.updates,
            "parameters": num_parameters(model),
            "seconds": round(trainer.seconds, 3),
            "milliseconds": float(np.median(times)) if (times := trainer.milliseconds) else None,
            "qk_pairs": _mean(qk_pairs),
            "full_qk_pairs": full_qk_pairs(self.task.ctx, model.causal),
            "span": _mean(span),
            "stopped": stopped,
        }
        save_json(self.folder / RESULT_FILE, result)


def make_env_config(
    variant: VariantConfig, model: PilotModel, task: Task, reward: Reward
) -> tuple[EnvConfig, EnvComponents]:
    """Return the configuration of an environment of a model's layers, as its agent observes it."""
    return parse_env_kwargs(
        {
            "layers": model,
            "dataset": task.dataset,
            "reward": reward,
            "ctx": task.ctx,
            "chunks_per_episode": task.chunks,
            "observation_time": "previous" if model.causal else "current",
            **{name: getattr(variant.agent, name) for name in OBS_FIELDS},
            # Its loss has no cost coefficient.
            "include_cost_coef": False,
        }
    )


def attach_refiners(model: PilotModel, seed: int) -> None:
    """Give each original layer its own Refiner, which learns in it as in the original."""
    for index in range(model.num_layers):
        attention = model.attention(index)
        assert isinstance(attention, IntegratedAttention)
        attention.refiner = Refiner(seed=np.random.default_rng([seed, index]))


def _mean(values: NDArray[np.float64]) -> float | None:
    """Return the mean; None, as JSON cannot hold NaN, if there is none."""
    return float(values.mean()) if len(values) and np.isfinite(values).all() else None
