"""Small layers, environments, agents, studies and results that tests share."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from torch import Tensor

from spangym.agents import Agent
from spangym.agents.base import notify_episode_start
from spangym.attention import IntegratedAttention, SpanConfig
from spangym.attention.controllers.exported import ExportedPolicy
from spangym.attention.controllers.lookup import GRID_STEPS, KMeansPolicy, LookupPolicy
from spangym.attention.controllers.mlp import MLPPolicy
from spangym.attention.controllers.policy_heads import ObsNormalization, PolicyHead
from spangym.attention.observation_spec import ObservationSpec
from spangym.envs import ENVIRONMENTS, EnvConfig, SB3SpanControlVecEnv, make_config
from spangym.envs.model.pretrain import PretrainConfig, pretrain
from spangym.envs.model.stack import TransformerConfig, TransformerStack
from spangym.experiments.pilot.load_pilot_study import normalize_pilot_study, parse_pilot_study
from spangym.experiments.pilot.pilot_study import PilotStudy

# --- attention ------------------------------------------------------------------------------------

SMALL_SPANS = {"max_dist": 48, "win_size": 16, "max_span": 24, "temp_scale": 0.3}


def make_layer(layer_class: Any = IntegratedAttention, **options: Any) -> Any:
    """A layer of ctx 96, dims 32 and 4 heads in eval mode, with the same weights in every class."""
    config = SpanConfig(**(SMALL_SPANS | options))
    return layer_class(96, 32, 4, config, generator=torch.Generator().manual_seed(0)).eval()


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference divided by the norm of what is expected; 0 if both are 0."""
    if torch.equal(found, expected):
        return 0.0
    return ((found - expected).norm() / expected.norm()).item()


def recorded_parameters(recorded: Any, prefix: str) -> dict[str, Tensor]:
    """The state dict that a recording of the original holds under a prefix."""
    names = [name for name in recorded if name.startswith(prefix)]
    return {name.removeprefix(prefix): torch.from_numpy(recorded[name]) for name in names}


class RecordingController:
    """Chooses a fixed action; records the states asked for and the updates."""

    def __init__(self, action: int) -> None:
        self.action = action
        self.states: list[int] = []
        self.updates: list[tuple[int, int, float, int]] = []

    def choose_action(self, state: int) -> int:
        self.states.append(state)
        return self.action

    def update(self, state: int, action: int, reward: float, next_state: int) -> None:
        self.updates.append((state, action, reward, next_state))


POLICY_DIMS = 16


def make_full_observation_spec(dims: int, encoding: str) -> ObservationSpec:
    """All that an encoding can have: pooled features, lag correlations and the layer's index."""
    return ObservationSpec(
        dims,
        num_layers=3,
        encoding=encoding,
        pool_groups=4,
        autocorrelation=encoding != "state",
        include_layer_index=True,
    )


def make_policy_head(observation: ObservationSpec, kind: str = "mlp", **options: Any) -> PolicyHead:
    generator = torch.Generator().manual_seed(3)
    if kind == "lookup":
        size = (observation.num_state_ids,)
        return LookupPolicy(observation, torch.randint(10, size, generator=generator))
    if kind == "kmeans":
        numbers = observation.num_features
        means = torch.zeros(numbers).double()
        centers = torch.randn(observation.num_layers, 10, numbers, generator=generator).double()
        if observation.encoding == "digits":
            means += 5
        actions = torch.cat([torch.randperm(10, generator=generator) for _ in centers])
        return KMeansPolicy(
            observation,
            means,
            means * 0 + 1,
            (centers * GRID_STEPS).round(),
            actions,
            by_layer=True,
        )
    one_hot = {"digits": sum(observation.nvec), "state": observation.num_state_ids}
    inputs = one_hot.get(observation.encoding, len(observation.nvec))
    outputs = 10 * options.get("quantiles", 1)
    weights = [torch.randn(size, generator=generator) / 3 for size in ((20, inputs), (outputs, 20))]
    biases = [torch.randn(len(each), generator=generator) / 3 for each in weights]
    if observation.encoding in ("box", "features"):
        mean, std = torch.rand(2, inputs, generator=generator, dtype=torch.float64) + 0.1
        options["normalization"] = ObsNormalization(mean, std, 1.5)
    return MLPPolicy(observation, weights, biases, **options)


def make_exported_policy(encoding: str = "box", kind: str = "mlp", **more: Any) -> ExportedPolicy:
    observation = ObservationSpec(
        POLICY_DIMS,
        num_layers=3,
        encoding=encoding,
        pool_groups=2 if encoding == "state" else 0,
        autocorrelation=encoding == "features",
        include_layer_index=True,
    )
    return ExportedPolicy(observation, make_policy_head(observation, kind), **{"layer": 1, **more})


def varied_inputs(batch: int, tokens: int = 12, seed: int = 0) -> Tensor:
    """Inputs (batch, tokens, 16) that differ in mean and variance."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, tokens, POLICY_DIMS, generator=generator)
    scale, shift = torch.randn(2, batch, 1, POLICY_DIMS, generator=generator)
    return x * scale + shift


# --- envs -----------------------------------------------------------------------------------------

SMALL_ENV_KWARGS: dict[str, Any] = {"dims": 16, "heads": 2, "ctx": 32, "chunks_per_episode": 3}


NATIVE = [name for name in ENVIRONMENTS if make_config(name, {}).native_layers]
"""Ids whose layers are of this project's attention."""

TEN_SPANS = [1, 2, 3, 4, 6, 8, 12, 16, 24, "full"]
"""Spans of a model in tokens, for tests of ten actions."""

PRETRAINED = [name for name, kwargs in ENVIRONMENTS.items() if "model" in kwargs]
"""Ids of pretrained models."""


def small_env_kwargs(name: str) -> dict[str, Any]:
    """Arguments that make an id fast; trained layers have fixed sizes."""
    if name in PRETRAINED:
        return tiny_model_kwargs(name)
    if name == "spangym/KVCache-v0":
        return {"ctx": 48, "spans": TEN_SPANS, "chunks_per_episode": 3}
    trained = "checkpoint" in ENVIRONMENTS[name]
    return {"chunks_per_episode": 3} if trained else SMALL_ENV_KWARGS


def two_layer_kwargs(name: str) -> dict[str, Any]:
    """Arguments that give an id two layers and ten actions, where it has others by default."""
    return {} if name in NATIVE else small_env_kwargs(name)


def tiny_model_kwargs(name: str = "spangym/Pretrained-v0", **more: Any) -> dict[str, Any]:
    """Arguments of an environment with a tiny pretrained model: two layers, and ten actions."""
    layers = {"blocks": 3, "ctx": 48} if "blocks" in ENVIRONMENTS[name] else {"groups": 2}
    return {
        "model": _tiny_model_folder(),
        "dataset": "mixed",
        "ctx": 32,
        **layers,
        "spans": TEN_SPANS,
        "sinks": 2,
        "chunks_per_episode": 3,
        "reward": "task",
        **more,
    }


@functools.cache
def _tiny_model_folder() -> str:
    folder = Path(tempfile.mkdtemp(prefix="spangym-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # Transformers takes seconds to import.
    from tests.attention.transformers.tiny_llama import save_tiny_llama

    return str(save_tiny_llama(folder))


def as_env_config(config: object) -> EnvConfig:
    """Narrow the type of a study's environment to one of this project."""
    assert isinstance(config, EnvConfig)
    return config


SMALL_TRANSFORMER = TransformerConfig(
    num_layers=1, dims=16, heads=2, ctx=32, win_size=4, max_span=36, hidden=16
)
SMALL_PRETRAIN = PretrainConfig("letters", SMALL_TRANSFORMER, steps=60, batch=8, learning_rate=1e-2)


@functools.cache
def pretrained_stack() -> TransformerStack:
    """A small trained stack, not to be changed."""
    return pretrain(SMALL_PRETRAIN, lambda *_: None)


# --- agents ---------------------------------------------------------------------------------------


class RecordingEnv(VecEnvWrapper):
    """Records the transitions of all environments: observations, actions, rewards, next ones."""

    venv: Any

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self._observations = np.empty(0)
        self.steps = 0
        self.transitions: list[tuple[NDArray[Any], ...]] = []

    @property
    def actions(self) -> list[list[int]]:
        """Actions of each step."""
        return [actions.tolist() for _, actions, *_ in self.transitions]

    def reset(self) -> Any:
        self._observations = np.asarray(self.venv.reset())
        return self._observations

    def step_async(self, actions: NDArray[Any]) -> None:
        self._actions = actions.copy()
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = self.venv.step_wait()
        self.steps += self.num_envs
        next_observations = np.array(observations)
        for index in np.flatnonzero(dones):
            next_observations[index] = infos[index]["terminal_observation"]
        self.transitions.append((self._observations, self._actions, rewards, next_observations))
        self._observations = np.asarray(observations)
        return observations, rewards, dones, infos


def make_training_env(encoding: str = "box", num_envs: int = 1, **arguments: Any) -> RecordingEnv:
    """Two chunks of 16 tokens per episode, in two layers of width 8."""
    config = EnvConfig(
        dims=8,
        heads=2,
        ctx=16,
        chunks_per_episode=2,
        win_size=16,
        encoding=encoding,
        **arguments,
    )
    env = RecordingEnv(SB3SpanControlVecEnv(config, num_envs))
    env.seed(0)
    return env


def make_task_env(num_envs: int, **arguments: Any) -> RecordingEnv:
    """A trained two-layer environment whose episodes have two chunks."""
    config = make_config("spangym/LongRange-v0", {"chunks_per_episode": 2, **arguments})
    env = RecordingEnv(SB3SpanControlVecEnv(config, num_envs))
    env.seed(0)
    return env


def played_actions(agent: Agent, env: VecEnv, steps: int = 8) -> list[list[int]]:
    """Actions of an agent in an environment, without learning."""
    observations, actions = np.asarray(env.reset()), []
    notify_episode_start(agent, env)
    for _ in range(steps):
        chosen = agent.predict(observations)
        actions.append(chosen.tolist())
        observations = np.asarray(env.step(chosen)[0])
    return actions


# --- experiments: studies, runs, trials -----------------------------------------------------------

# --- experiments: results, plots, reports ---------------------------------------------------------

# --- experiments: pilot ---------------------------------------------------------------------------

TINY_PILOT = """
name = "tiny"
task = "text"
updates = 12
batch = 3
evaluations = 2
random_span_fraction = 0.34
agent_steps = 96

[model]
num_layers = 2
dims = 16
heads = 2
hidden = 96
win_size = 4
max_span = 12

[text]
ctx = 24
chunks = 2
evaluation_streams = 2

[[variants]]
name = "standard"
attention = "standard"

[[variants]]
name = "standard-4h"
attention = "standard"
heads = 4

[[variants]]
name = "hybrid-sharper-longer"
attention = "hybrid"

[[variants]]
name = "hybrid-sharper-shorter"
attention = "hybrid"
temperature_law = "shorter"

[[variants]]
name = "focus-refiner"
attention = "focus"
agent = { algo = "refiner" }

[[variants]]
name = "predictor"
attention = "integrated"

[[variants]]
name = "learned-span"
attention = "integrated"
soft_span = true
cost_coef = 0.1

[[variants]]
name = "refiner"
attention = "integrated"
agent = { algo = "refiner" }

[[variants]]
name = "dqn-online"
attention = "integrated"
agent = { algo = "dqn", hyperparameters = { learning_starts = 6, train_freq = 2, batch_size = 6 } }
reward = "loss_improvement"
cost_coef = 0.2

[[variants]]
name = "ppo-frozen"
attention = "integrated"
agent = { algo = "ppo", hyperparameters = { n_steps = 8 } }
learns = "environment"
reward = "loss_improvement"
cost_coef = 0.2

[[variants]]
name = "original"
attention = "original"
"""
"""A study with every kind of variant."""


def tiny_pilot_study() -> PilotStudy:
    """The study, normalized."""
    return normalize_pilot_study(parse_pilot_study(TINY_PILOT, "tiny"))
