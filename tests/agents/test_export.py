"""Exported agents choose the same actions in a layer as in the environment."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from spangym.agents import Agent, Refiner, SB3Agent, TabularAgent, get_agent_spec
from spangym.agents.export import export_policy
from spangym.agents.tabular.kmeans import KMeansDiscretizer
from spangym.agents.tabular.kmeans_agent import KMeansQAgent
from spangym.attention import IntegratedAttention
from spangym.attention.controllers.exported import ExportedPolicy, load_controller
from spangym.attention.observation_spec import ENCODINGS, ObservationSpec
from spangym.envs import EnvConfig, SB3SpanControlVecEnv

DEEP = ["dqn", "ppo", "a2c", "qrdqn", "trpo", "maskable_ppo", "ars"]
SMALL: dict[str, Any] = {"dims": 8, "heads": 2, "ctx": 8, "chunks_per_episode": 4, "win_size": 8}
NUM_ENVS = 50


def make_env_config(**more: Any) -> EnvConfig:
    return EnvConfig(**{**SMALL, **more})


def train(name: str, config: EnvConfig, **options: Any) -> Agent:
    """Train an agent briefly, so that its actions vary."""
    env = SB3SpanControlVecEnv(config, 4)
    env.seed(0)
    if name == "refiner-kmeans":
        agent: Agent = KMeansQAgent(
            Refiner(seed=0),
            KMeansDiscretizer(12, 100, config.include_layer_index, seed=0),
            seed=0,
        )
    else:
        agent = get_agent_spec(name).make(seed=0, **options)
    if not isinstance(agent, SB3Agent):
        agent.learn(env, 400)
        return agent
    agent.learn(env, 600 if name == "ars" else 16)
    generator = torch.Generator().manual_seed(0)
    for parameter in agent.policy.parameters():
        if parameter.ndim == 2:
            # Early in training, inputs hardly matter.
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += noise * 3 / min(64, parameter.shape[1]) ** 0.5
    return agent


def play(agent: Agent, config: EnvConfig) -> tuple[list[int], list[int]]:
    """Actions of an agent in an environment, and of its export in the layers, on equal streams."""
    env = SB3SpanControlVecEnv(config, NUM_ENVS)
    env.seed(1)
    observations = np.asarray(env.reset())
    layers = env.core.layers
    for index, layer in enumerate(layers):
        layer.refiner = export_policy(
            agent,
            config.observation_spec,
            observation_time=config.observation_time,  # pyright: ignore[reportArgumentType]
            layer=index,
            cost_coef=config.mean_cost_coef,
        )
    in_environment: list[int] = []
    in_layer: list[int] = []
    for step in range(config.chunks_per_episode * len(layers)):
        index, state = step % len(layers), env.core.state
        decided = layers[index].select_actions(state.hidden, cache=state.caches[index])
        assert decided is not None
        actions = agent.predict(observations)
        in_environment += actions.tolist()
        in_layer += decided.tolist()
        # Action 0 turns the local path off, which is fast.
        observations = np.asarray(env.step(actions * 0)[0])
    return in_environment, in_layer


@pytest.mark.parametrize(
    ("name", "encoding", "observe"),
    [
        *((name, encoding, "current") for name in ("dqn", "ppo") for encoding in ENCODINGS),
        *(("refiner-kmeans", encoding, "current") for encoding in ("digits", "box", "features")),
        ("refiner", "state", "current"),
        ("refiner", "state", "previous"),
        ("ppo", "features", "previous"),
    ],
)
def test_actions_in_a_layer_equal_actions_in_the_environment(
    name: str, encoding: str, observe: str
):
    """On 600 inputs: 6 chunks of 50 streams in 2 layers."""
    config = make_env_config(
        encoding=encoding,
        observation_time=observe,
        pool_groups=2 if encoding == "state" else 4,
        autocorrelation=encoding == "features",
        include_layer_index=True,
        chunks_per_episode=6,
        dataset="mixed",
    )
    in_environment, in_layer = play(train(name, config), config)
    assert len(in_layer) == 600
    assert in_layer == in_environment
    assert len(set(in_layer)) > 1


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        *(("ppo", encoding) for encoding in ENCODINGS),
        ("refiner-kmeans", "features"),
        ("refiner", "state"),
    ],
)
def test_an_agent_that_observes_the_cost_is_exported_for_any_cost(
    name: str, encoding: str, tmp_path: Path
):
    config = make_env_config(
        encoding=encoding,
        pool_groups=2,
        include_layer_index=True,
        dataset="mixed",
        cost_coef=(0.01, 100.0),
        include_cost_coef=True,
    )
    agent, played = train(name, config), []
    for cost_coef in (0.02, 30.0):
        fixed = dataclasses.replace(config, cost_coef=cost_coef)
        in_environment, in_layer = play(agent, fixed)
        assert in_layer == in_environment
        played.append(in_layer)
    if name == "ppo":
        assert played[0] != played[1]
    with pytest.raises(ValueError, match="give cost_coef"):
        export_policy(agent, config.observation_spec, layer=0)
    policy = export_policy(agent, config.observation_spec, layer=0, cost_coef=0.02)
    policy.save(tmp_path / "policy.safetensors")
    with pytest.raises(ValueError, match="give cost_coef"):
        load_controller(tmp_path / "policy.safetensors", layer=0)
    loaded = load_controller(tmp_path / "policy.safetensors", layer=0, cost_coef=30.0)
    x = torch.randn(40, 8, 8, generator=torch.Generator().manual_seed(1))
    policy.cost_coef = 30.0
    assert policy(x).tolist() == loaded(x).tolist()
    # A state dict brings the coefficient, too.
    loaded.cost_coef = 0.5
    policy.load_state_dict(loaded.state_dict())
    assert policy.cost_coef == 0.5
    assert policy(x).tolist() == loaded(x).tolist()
    restored = ExportedPolicy.from_extra_state(loaded.get_extra_state())
    assert restored.cost_coef == 0.5
    with pytest.raises(ValueError, match="cost_coef must be at least 0"):
        policy.cost_coef = -1.0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in DEEP),
        ("ppo", {"normalize": True}),
        ("a2c", {"normalize": True, "policy_kwargs": {"net_arch": []}}),
        ("ppo", {"policy_kwargs": {"net_arch": {"pi": [32, 16], "vf": [8]}}}),
        ("dqn", {"policy_kwargs": {"net_arch": [20], "activation_fn": "SiLU"}}),
    ],
)
def test_networks_of_every_kind(name: str, options: dict[str, Any]):
    config = make_env_config(encoding="features", dataset="mixed")
    in_environment, in_layer = play(train(name, config, **options), config)
    assert in_layer == in_environment
    assert len(set(in_layer)) > 1


@pytest.mark.parametrize("name", ["dqn", "refiner", "refiner-kmeans"])
def test_saved_and_loaded_policy(name: str, tmp_path: Path):
    config = make_env_config(encoding="state" if name == "refiner" else "box", pool_groups=2)
    policy = export_policy(train(name, config), config.observation_spec, metadata={"agent": name})
    policy.save(tmp_path / "policy.safetensors")
    loaded = load_controller(tmp_path / "policy.safetensors")
    assert loaded.metadata == {"agent": name}
    layer = IntegratedAttention(8, 8, 2, generator=torch.Generator().manual_seed(0)).eval()
    x = torch.randn(200, 8, 8, generator=torch.Generator().manual_seed(1))
    layer.refiner = policy
    decided = layer.select_actions(x)
    layer.refiner = loaded
    assert decided is not None
    assert torch.equal(loaded(layer.ln_a(x)), decided)


def test_unseen_states():
    refiner = Refiner(tie_breaking="random", seed=0)
    config = make_env_config(encoding="state", pool_groups=2)
    in_environment, in_layer = play(TabularAgent(refiner), config)
    assert in_layer == in_environment
    assert len(set(in_layer)) > 1


class Averaging(BaseFeaturesExtractor):
    """A features extractor that is no flattening."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 1)

    def forward(self, observations: Tensor) -> Tensor:
        return observations.mean(-1, keepdim=True)


class Contrary(ActorCriticPolicy):
    """Chooses other actions than its network."""

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return 9 - super()._predict(observation, deterministic)


def agent_with(name: str, **options: Any) -> Agent:
    return train(name, make_env_config(encoding="box"), **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: get_agent_spec("random").make(seed=0), "RandomPolicy"),
        (lambda: get_agent_spec("fixed:3").make(seed=0), "FixedSpanPolicy"),
        (lambda: agent_with("recurrent_ppo"), "RecurrentPPO .*recurrent"),
        (
            lambda: agent_with(
                "ppo", policy_kwargs={"features_extractor_class": Averaging, "net_arch": [4]}
            ),
            "extractor .*Averaging",
        ),
        (lambda: agent_with("dqn", policy_kwargs={"activation_fn": "PReLU"}), "PReLU"),
        (
            lambda: agent_with("dqn", policy_kwargs={"activation_fn": lambda: nn.ELU(alpha=0.5)}),
            r"ELU\(alpha=0.5\)",
        ),
    ],
)
def test_agents_that_cannot_be_exported(make: Any, message: str):
    with pytest.raises(ValueError, match=message):
        export_policy(make(), ObservationSpec(8, 2, "box"))


def test_policy_that_is_more_than_its_network():
    config = make_env_config(encoding="box")
    agent = train("ppo", config)
    assert isinstance(agent, SB3Agent)
    agent.policy.__class__ = Contrary
    with pytest.raises(ValueError, match=r"only .*% of"):
        export_policy(agent, config.observation_spec)


def test_custom_refiners_cannot_be_exported():
    class Mine:
        def choose_action(self, state: int) -> int:
            return state % 10

        def update(self, state: int, action: int, reward: float, next_state: int) -> None:
            pass

    with pytest.raises(ValueError, match=r"Mine cannot .*custom refiner"):
        export_policy(TabularAgent(Mine()), ObservationSpec(8, encoding="state"))
    with pytest.raises(ValueError, match=r"100 states.*10000"):
        export_policy(TabularAgent(Refiner(states=100)), ObservationSpec(8, encoding="state"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"dims": 16},
        {"encoding": "features"},
        {"encoding": "digits"},
        {"encoding": "state"},
        {"pool_groups": 2},
        {"autocorrelation": True},
        {"include_layer_index": True},
    ],
    ids=str,
)
def test_another_observation_than_in_training(wrong: dict[str, Any]):
    agent = agent_with("dqn")
    right = {"dims": 8, "num_layers": 2, "encoding": "box"}
    export_policy(agent, ObservationSpec(**right))
    with pytest.raises(ValueError, match=r"DQN cannot .*Box"):
        export_policy(agent, ObservationSpec(**{**right, **wrong}), layer=0)


def test_clusters_of_another_observation():
    config = make_env_config(encoding="box", include_layer_index=True)
    agent = train("refiner-kmeans", config)
    for wrong, message in (
        ({"num_layers": 3}, "clusters are of layers"),
        ({"include_layer_index": False}, "clusters are of layers"),
        ({"pool_groups": 4}, "means, scales and centers"),
        ({"encoding": "state"}, "clusters are of layers"),
    ):
        observation = {
            "dims": 8,
            "num_layers": 2,
            "encoding": "box",
            "include_layer_index": True,
            **wrong,
        }
        with pytest.raises(ValueError, match=message):
            export_policy(agent, ObservationSpec(**observation), layer=0)


def test_untrained_agents():
    for agent in (SB3Agent("dqn", 0), KMeansQAgent(Refiner(), KMeansDiscretizer())):
        with pytest.raises(RuntimeError, match=r"learn\(\) or load\(\)"):
            export_policy(agent, ObservationSpec(8, 2, "box"))


def test_agents_that_control_the_cache_cannot_be_exported():
    config = make_env_config(encoding="box", control_kv_cache=True)
    agent = get_agent_spec("ppo").make(seed=0)
    agent.learn(SB3SpanControlVecEnv(config, 4), 16)
    with pytest.raises(ValueError, match=r"MultiDiscrete\(\[10  2  2\]\)"):
        export_policy(agent, config.observation_spec)
