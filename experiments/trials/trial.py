"""A trial: one agent is trained from one seed in one environment, saved and evaluated."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spangym.agents import Agent
from spangym.agents.base import is_resumable
from spangym.envs import EnvConfig
from spangym.envs.model.model_checkpoint import weights_sha256
from spangym.experiments.runner.fingerprint import DatasetHashes
from spangym.experiments.runner.job import CHECKPOINT_SECONDS
from spangym.experiments.runner.job_files import RESULT_FILE, save_csv, save_json
from spangym.experiments.studies.study import OBS_FIELDS, EvalConfig, Study, StudyAgent, StudyEnv
from spangym.experiments.trials.checkpoints import Checkpoints, Interval
from spangym.experiments.trials.evaluate import (
    count_actions,
    eval_configs,
    evaluate,
    measure_regret,
)
from spangym.experiments.trials.players import AnyConfig, make_training_env, reward_components
from spangym.experiments.trials.recorder import EpisodeRecorder
from spangym.experiments.trials.tensorboard import TrialLogger


def ignore(_: object) -> None:
    """Ignore progress or messages."""


@dataclass(frozen=True)
class Trial:
    """One agent, trained from one seed in one environment and evaluated: a `Job`.

    Attributes:
        environment: Environment of the study, normalized.
        agent: Agent of the study, normalized.
        seed: Seed of the agent and of its training episodes.
        total_timesteps: Environment steps of the training, over all parallel environments; 0 for
            agents that do not learn.
        n_envs: Parallel environments of the training.
        evaluation: Evaluation of the agent.
        resumed_from_steps: Earlier values of ``total_timesteps``, see `Study`.
    """

    environment: StudyEnv
    agent: StudyAgent
    seed: int
    total_timesteps: int
    n_envs: int
    evaluation: EvalConfig
    resumed_from_steps: tuple[int, ...] = ()

    @property
    def job_id(self) -> str:
        """Environment, agent and seed, as in the path of the trial's folder."""
        return f"{self.environment.slug}/{self.agent.slug}/seed-{self.seed}"

    @property
    def name(self) -> str:
        """Environment, agent and seed by their names in tables and figures."""
        return f"{self.environment.name} {self.agent.name} seed {self.seed}"

    @property
    def total(self) -> int:
        """Steps of training and evaluation together."""
        return self.total_timesteps + self.eval_steps * (2 if self.environment.levels else 1)

    @property
    def eval_steps(self) -> int:
        """Steps of the evaluation, and as many on the levels of the training."""
        times = max(len(self.environment.eval_cost_coefs), 1)
        return times * self.evaluation.episodes * self.environment.episode_steps

    @property
    def device(self) -> str:
        """Torch device of the layers."""
        return self.environment.device

    @property
    def has_user_code(self) -> bool:
        """Whether the agent or the environment is not of spangym."""
        return self.agent.has_user_code or self.environment.has_user_code

    def config_for_hash(self, hashes: DatasetHashes) -> dict[str, Any]:
        """Return everything that affects the results, except machine and libraries, for JSON.

        The names of agent and environment are not part of it. Datasets, weights and the module of a
        user's agent are part of it by their hashes.
        """
        agent, kwargs = self.agent, self.environment.kwargs
        content = weights = None
        if not self.environment.is_foreign:
            content = hashes.get(kwargs["dataset"], kwargs["dataset_kwargs"])
            weights = weights_sha256(path) if (path := kwargs["checkpoint"]) else None
        return {
            "environment": {"id": self.environment.id, "kwargs": kwargs},
            "agent": {
                "algo": agent.algo,
                "hyperparameters": agent.hyperparameters,
                "num_actions": agent.num_actions,
                **{name: getattr(agent, name) for name in OBS_FIELDS},
                "module_sha256": agent.spec().module_sha256,
            },
            "seed": self.seed,
            "total_timesteps": self.total_timesteps,
            "resumed_from_steps": list(self.resumed_from_steps),
            "n_envs": self.n_envs,
            "evaluation": asdict(self.evaluation),
            "content_sha256": content,
            "modules_sha256": self.environment.module_hashes(),
            "weights_sha256": weights,
            "spangym": importlib.metadata.version("spangym"),
        }

    def train_config(self) -> AnyConfig:
        """Return the configuration of the training environment."""
        return self.agent.config_in(self.environment, "train")

    def eval_config(self) -> AnyConfig:
        """Return the configuration of the evaluation, whose content is not the training's."""
        evaluation = self.evaluation
        return self.agent.config_in(self.environment, evaluation.split, evaluation.level_arguments)

    @property
    def tables_key(self) -> str:
        """Environment and agent, since all seeds read the same tables."""
        return f"{self.environment.slug}/{self.agent.slug}"

    def table_configs(self) -> list[EnvConfig]:
        """Return the environments of training and evaluation that look everything up in tables."""
        configs = []
        if self.environment.kwargs.get("backend") == "table":
            configs.append(self.train_config())
        if self.evaluation.backend == "table":
            configs.append(self.eval_config())
        return [each for each in configs if isinstance(each, EnvConfig)]

    def make_agent(self) -> Agent:
        """Make the untrained agent."""
        return self.agent.make(self.seed)

    def run(
        self,
        folder: Path,
        progress: Callable[[int], None] = ignore,
        log: Callable[[str], None] = ignore,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
    ) -> None:
        """Train the agent, save it, evaluate it and write the results; see `Job.run`.

        If the environment has levels, as many episodes are played on the levels of the training.

        The files are, in this order: ``job.json`` (everything that affects the results),
        ``curve.csv`` and TensorBoard events, ``checkpoints/`` (if the agent is resumable),
        ``agent.*``, ``evaluation.csv``, ``action_counts.csv``, ``regret.csv`` and ``result.json``.
        The last checkpoint stays, so that the training can be made longer later.

        Raises:
            RuntimeError: The agent took more or fewer steps than ``total_timesteps``.
            ValueError: A layer or a reward returned numbers that are not finite.
        """
        save_json(folder / "job.json", self.config_for_hash(DatasetHashes()))
        with contextlib.closing(TrialLogger(folder)) as logger:
            agent, seconds = train(self, folder, logger, progress, log, checkpoint_seconds)
            start_time = time.perf_counter()
            save_agent(agent, folder)

            config, start = self.eval_config(), self.total_timesteps
            configs = eval_configs(config, self.environment.eval_cost_coefs)
            rows = self._play(agent, configs, progress, start)
            episodes = pd.DataFrame(rows)
            action_counts = count_actions(rows)
            number, looked_at = self.evaluation.episodes, self.evaluation.regret_episodes
            regret = pd.concat(
                [
                    measure_regret(each, rows[index * number :][:looked_at])
                    for index, each in enumerate(configs)
                ]
            )
            mean_return, on_levels = _mean_return(rows), None
            if self.environment.levels:
                start += self.eval_steps
                configs = eval_configs(self.train_config(), self.environment.eval_cost_coefs)
                on_levels = _mean_return(self._play(agent, configs, progress, start))
            measures = {
                "regret": float(regret["regret"].to_numpy(float).mean()) if len(regret) else None,
                "training_return": on_levels,
                "generalization_gap": None if on_levels is None else on_levels - mean_return,
            }
            logger.log_evaluation(
                self.hyperparameters(),
                episodes,
                action_counts,
                measures,
                config.num_actions,
                self.total_timesteps,
            )

        save_csv(
            folder / "evaluation.csv", episodes.drop(columns=["spans", "layers", "content_types"])
        )
        save_csv(folder / "action_counts.csv", action_counts)
        save_csv(folder / "regret.csv", regret)
        result = {
            "total_timesteps": self.total_timesteps,
            "evaluation_return": mean_return,
            **measures,
            "full_qk_pairs": config.full_qk_pairs,
            "wall_seconds": round(seconds + time.perf_counter() - start_time, 3),
        }
        save_json(folder / RESULT_FILE, result)

    def _play(
        self,
        agent: Agent,
        configs: Sequence[AnyConfig],
        progress: Callable[[int], None],
        start: int,
    ) -> list[dict[str, Any]]:
        """Play the episodes of the evaluation; progress counts from the step ``start``."""
        seed, episodes = self.evaluation.seed, self.evaluation.episodes
        return evaluate(agent, configs, seed, episodes, lambda steps: progress(start + steps))

    def hyperparameters(self) -> dict[str, Any]:
        """Return the settings by which TensorBoard's HParams tab distinguishes trials."""
        return {
            "environment": self.environment.name,
            "agent": self.agent.name,
            "seed": self.seed,
            "total_timesteps": self.total_timesteps,
            "n_envs": self.n_envs,
            **{name: getattr(self.agent, name) for name in OBS_FIELDS},
            **self.agent.hyperparameters,
        }


def train(
    trial: Trial,
    folder: Path,
    logger: TrialLogger,
    progress: Callable[[int], None],
    log: Callable[[str], None],
    checkpoint_seconds: float,
) -> tuple[Agent, float]:
    """Train an agent from its last checkpoint, if any; also return the wall time in seconds."""
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoint = checkpoints.read(log)
    agent, config = trial.make_agent(), trial.train_config()
    ends = (trial.total_timesteps,)
    # The state of a foreign environment is not known.
    resumable = is_resumable(agent) and isinstance(config, EnvConfig)
    if resumable:
        # A training that was made longer passes through its earlier ends, where schedules ended.
        ends = (*trial.resumed_from_steps, trial.total_timesteps)
    if checkpoint is not None:
        ends = tuple(end for end in ends if end >= checkpoint["until"])

    seconds = 0.0
    for end in ends:
        agent = trial.make_agent()
        env = make_training_env(config, trial.n_envs)
        state = checkpoint and checkpoint["recorder"]
        components, seed = reward_components(config), env_seed(trial.seed)
        recorder = EpisodeRecorder(env, components, folder, logger, end, seed, progress, state)
        with contextlib.closing(recorder):
            if is_resumable(agent) and checkpoint is not None:
                agent.load_state_dict(checkpoint["agent"])
            if end:
                learn(agent, recorder, end, checkpoints if resumable else None, checkpoint_seconds)
            if recorder.steps != end:
                raise RuntimeError(f"the agent took {recorder.steps} of {end} steps")
            seconds = recorder.seconds
        checkpoint = checkpoints.read(log)
    return agent, seconds


def learn(
    agent: Agent,
    recorder: EpisodeRecorder,
    steps: int,
    checkpoints: Checkpoints | None,
    checkpoint_seconds: float,
) -> None:
    """Let an agent learn, with checkpoints if it can be resumed."""
    if checkpoints is None or not is_resumable(agent):
        agent.learn(recorder, steps)
        return
    interval = Interval(checkpoint_seconds)

    def save_checkpoint(last: bool) -> None:
        if interval.elapsed() or last:
            state = {"agent": agent.state_dict(), "recorder": recorder.state_dict()}
            checkpoints.write(recorder.steps, {**state, "until": steps})

    agent.learn(recorder, steps, save_checkpoint)
    checkpoints.prune()


def _mean_return(episodes: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([each["return"] for each in episodes]))


def env_seed(training_seed: int) -> int:
    """Return the seed of a training's episodes, which differs from the seed of the agent."""
    return int(np.random.SeedSequence([training_seed, 1]).generate_state(1)[0]) >> 1


def save_agent(agent: Agent, folder: Path) -> None:
    """Save an agent atomically, whatever files it writes."""
    with tempfile.TemporaryDirectory(prefix=f".{os.getpid()}-", dir=folder) as tmp:
        agent.save(Path(tmp) / "agent")
        for path in Path(tmp).iterdir():
            path.replace(folder / path.name)


def make_trial(study: Study, environment: StudyEnv, agent: StudyAgent, seed: int) -> Trial:
    """Make one trial of a study."""
    learns = agent.spec().is_trainable
    return Trial(
        environment,
        agent,
        seed,
        total_timesteps=study.steps_in(environment) if learns else 0,
        n_envs=study.n_envs if learns else 1,
        evaluation=study.evaluation,
        resumed_from_steps=study.resumed_from_steps if learns else (),
    )


def trials_of(study: Study) -> list[Trial]:
    """Return all trials of a study, learners first; one seed for deterministic agents."""
    trials = [
        make_trial(study, environment, agent, seed)
        for environment in study.environments
        for agent in study.agents_in(environment)
        for seed in (study.seeds_in(environment) if agent.spec().is_stochastic else (0,))
    ]
    return sorted(trials, key=lambda trial: -trial.total_timesteps)
