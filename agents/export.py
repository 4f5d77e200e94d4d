"""Export trained agents as controllers of layers, without Gymnasium and Stable-Baselines3."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.dqn.policies import DQNPolicy
from torch import Tensor, nn

from spangym.agents.base import Agent
from spangym.agents.sb3.sb3_agent import SB3Agent
from spangym.agents.tabular.controller_agent import TabularAgent
from spangym.agents.tabular.kmeans_agent import KMeansQAgent
from spangym.agents.tabular.q_learning import Refiner
from spangym.attention.controllers.exported import ExportedPolicy
from spangym.attention.controllers.lookup import KMeansPolicy, LookupPolicy
from spangym.attention.controllers.mlp import ACTIVATIONS, MLPPolicy
from spangym.attention.controllers.policy_heads import ObsNormalization, PolicyHead
from spangym.attention.controllers.protocol import ObservationTime
from spangym.attention.geometry import MAX_ACTIONS
from spangym.attention.observation_spec import ObservationSpec

_SAMPLES = 256
"""Number of observations on which an exported network is compared with its policy."""
_MIN_AGREEMENT = 0.99
"""Minimum share of equal actions; another order of summation may change near ties."""


def export_policy(
    agent: Agent,
    observation: ObservationSpec,
    *,
    observation_time: ObservationTime = "current",
    action_scale: str = "relative",
    layer: int | None = None,
    cost_coef: float | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> ExportedPolicy:
    """Export an agent as a controller that chooses the same actions and does not learn.

    Args:
        agent: `SB3Agent` with a multi-layer perceptron, `TabularAgent` of a `Refiner`, or
            `KMeansQAgent`.
        observation: Observation that the agent was trained on.
        observation_time: Whether it is of the ``current`` or the ``previous`` chunk.
        action_scale: Action scale of the layers that the agent was trained in.
        layer: Index of the layer to control; required if the agent observes it.
        cost_coef: Cost coefficient at which it controls; required if the agent observes it.
        metadata: Description of the training as JSON values, kept in the file.

    Returns:
        The controller, on the CPU.

    Raises:
        ValueError: The agent cannot be exported, or was trained on another observation.
        RuntimeError: The agent is untrained.

    Example:
        >>> refiner = Refiner()
        >>> refiner.update(state=hash((5,) * 8) % 9999, action=3, reward=1.0, next_state=0)
        >>> observation = ObservationSpec(dims=4, encoding="state")
        >>> controller = export_policy(TabularAgent(refiner), observation)
        >>> controller(torch.zeros(2, 16, 4)).tolist()  # means and variances of 0 are digits of 5
        [3, 3]
    """
    check_exportable(agent)
    try:
        if observation.num_cache_features:
            raise ValueError("it observes the key-value cache of a model, which layers do not have")
        if isinstance(agent, SB3Agent):
            head: PolicyHead = _mlp_policy(agent, observation)
        elif isinstance(agent, KMeansQAgent):
            head = _kmeans_policy(agent, observation)
        else:
            head = _lookup_policy(cast(Refiner, cast(TabularAgent, agent).controller), observation)
    except ValueError as error:
        raise ValueError(f"{_name(agent)} cannot be exported: {error}") from error
    options: dict[str, Any] = {"layer": layer, "cost_coef": cost_coef}
    options |= {"action_scale": action_scale, "metadata": metadata}
    return ExportedPolicy(observation, head, observation_time=observation_time, **options)


def check_exportable(agent: Agent) -> None:
    """Raise a `ValueError` for an agent of a class that cannot be exported, trained or not."""
    if isinstance(agent, TabularAgent) and not isinstance(agent.controller, Refiner):
        raise ValueError(
            f"{_name(agent)} cannot be exported: the actions of a custom refiner are not known in "
            "advance; set it as layer.refiner, or derive it from spangym.agents.Refiner"
        )
    if not isinstance(agent, SB3Agent | KMeansQAgent | TabularAgent):
        raise ValueError(
            f"{_name(agent)} cannot be exported: only Stable-Baselines3, refiner and "
            "refiner-kmeans can be"
        )


def _name(agent: Agent) -> str:
    if isinstance(agent, SB3Agent):
        return agent.algorithm.__name__
    return type(agent.controller if isinstance(agent, TabularAgent) else agent).__name__


def _lookup_policy(refiner: Refiner, observation: ObservationSpec) -> LookupPolicy:
    if refiner.states != observation.num_states:
        raise ValueError(
            f"it has {refiner.states} states, the observation {observation.num_states}"
        )
    table = _greedy_table(refiner, observation.num_state_ids)
    return LookupPolicy(observation, table, refiner.actions)


def _greedy_table(refiner: Refiner, num_ids: int) -> Tensor:
    return torch.from_numpy(refiner.greedy_actions(np.arange(num_ids)))


def _kmeans_policy(agent: KMeansQAgent, observation: ObservationSpec) -> KMeansPolicy:
    discretizer = agent.discretizer
    if not discretizer.is_fitted:
        raise RuntimeError("the agent has not learned yet: call learn() or load() first")
    clusters = discretizer.state_dict()
    if discretizer.by_layer:
        fitted = clusters["layers"].tolist()
        layers = range(observation.num_layers)
        expected = [float(np.float32(observation.encode_layer_index(layer))) for layer in layers]
        if not observation.include_layer_index or fitted != expected:
            raise ValueError(f"its clusters are of layers {fitted}, the observation's {expected}")
    means, scales, centers = (clusters[name] for name in ("means", "scales", "centers"))
    table = _greedy_table(agent.refiner, centers.shape[0] * centers.shape[1])
    by_layer, num_actions = discretizer.by_layer, agent.refiner.actions
    return KMeansPolicy(observation, means, scales, centers, table, by_layer, num_actions)


def _mlp_policy(agent: SB3Agent, observation: ObservationSpec) -> MLPPolicy:
    policy = agent.policy
    space = policy.action_space
    if not isinstance(space, spaces.Discrete) or not 2 <= space.n <= MAX_ACTIONS:
        rule = f"Discrete(2) to Discrete({MAX_ACTIONS})"
        raise ValueError(f"its actions are {space}, a layer's are {rule}")
    if not _matches_space(policy.observation_space, observation):
        raise ValueError(f"it observes {policy.observation_space}, which is not {observation}")
    modules, extractor, quantiles = _policy_network(policy)
    if type(extractor) is not FlattenExtractor:
        raise ValueError(f"its features extractor is a {type(extractor).__name__}")
    activations = {_activation_name(each) for each in modules[1::2]}
    linears = [each for each in modules[::2] if type(each) is nn.Linear]
    if len(activations) > 1 or len(modules) != 2 * len(linears) - 1:
        rule = "its network does not alternate linear layers and one activation"
        raise ValueError(f"{rule}: {nn.Sequential(*modules)}")
    network = MLPPolicy(
        observation,
        [each.weight for each in linears],
        [torch.zeros(each.out_features) if each.bias is None else each.bias for each in linears],
        activations.pop() if activations else "Identity",
        quantiles,
        _obs_normalization(agent),
        int(space.n),
    )
    _check_agreement(network, agent, observation)
    return network


def _matches_space(space: spaces.Space[Any], observation: ObservationSpec) -> bool:
    if isinstance(space, spaces.MultiDiscrete):
        return observation.encoding == "digits" and space.nvec.tolist() == observation.nvec
    if isinstance(space, spaces.Discrete):
        return observation.encoding == "state" and space.n == observation.num_state_ids
    count = len(observation.nvec)
    bounds = {"box": ([-1.0] * count, [1.0] * count), "features": observation.bounds}
    if not isinstance(space, spaces.Box) or observation.encoding not in bounds:
        return False
    low, high = (np.array(each, np.float32) for each in bounds[observation.encoding])
    return np.array_equal(space.low, low) and np.array_equal(space.high, high)


def _policy_network(policy: BasePolicy) -> tuple[list[nn.Module], nn.Module, int]:
    """Return the modules of a policy's network, its features extractor and number of quantiles."""
    if isinstance(policy, DQNPolicy):
        return [*policy.q_net.q_net], policy.q_net.features_extractor, 1
    # Policies of sb3-contrib, which may not be installed, are recognized by their attributes.
    contrib: Any = policy
    if hasattr(policy, "quantile_net"):
        net = contrib.quantile_net
        return [*net.quantile_net], net.features_extractor, net.n_quantiles
    if hasattr(policy, "lstm_actor"):
        raise ValueError("it is recurrent, and its actions depend on earlier observations")
    if isinstance(policy, ActorCriticPolicy) or hasattr(policy, "mlp_extractor"):
        modules = [*contrib.mlp_extractor.policy_net, contrib.action_net]
        return modules, contrib.pi_features_extractor, 1
    if isinstance(getattr(policy, "action_net", None), nn.Sequential):
        return [*contrib.action_net], contrib.features_extractor, 1
    raise ValueError(f"its policy is a {type(policy).__name__}, whose network is not known")


def _obs_normalization(agent: SB3Agent) -> ObsNormalization | None:
    env = agent.model.get_vec_normalize_env()
    if env is None:
        return None
    assert isinstance(env.obs_rms, RunningMeanStd)
    mean, std = env.obs_rms.mean, np.sqrt(env.obs_rms.var + env.epsilon)
    return ObsNormalization(torch.from_numpy(mean), torch.from_numpy(std), env.clip_obs)


def _activation_name(module: nn.Module) -> str:
    name = type(module).__name__
    known = ACTIVATIONS.get(name)
    if known is None or type(module) is not known or repr(module) != repr(known()):
        raise ValueError(f"its network contains {module}; known are: {', '.join(ACTIVATIONS)}")
    return name


def _check_agreement(network: MLPPolicy, agent: SB3Agent, observation: ObservationSpec) -> None:
    """Compare the actions of network and policy, which may do more than its network."""
    space = copy.deepcopy(agent.policy.observation_space)
    space.seed(0)
    observations = np.stack([space.sample() for _ in range(_SAMPLES)])
    agent.on_episode_start(None)
    expected = agent.predict(observations)
    inputs = torch.from_numpy(observations)
    # State ids are already hashed; the encoder would hash features.
    is_hashed = observation.encoding == "state"
    values = network.values(inputs[:, None] if is_hashed else network.encoder(inputs.double()))
    agreement = float(np.mean(values.argmax(-1).numpy() == expected))
    if agreement < _MIN_AGREEMENT:
        equal = f"only {agreement:.0%} of the actions are equal"
        raise ValueError(f"its policy does more than its network: {equal}")
