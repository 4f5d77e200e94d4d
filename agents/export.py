"""Trained agents as frozen controllers of layers, that need neither Gymnasium nor their library."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
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
from spangym.attention.features import NUM_STATES
from spangym.attention.geometry import NUM_ACTIONS
from spangym.attention.observation_spec import ObservationSpec

_SAMPLES = 256
"""Observations on which a frozen network is held against the policy that it was made from."""
_MIN_AGREEMENT = 0.99
"""Share of them on which both must decide alike; sums in another order may turn a near tie."""


def export_policy(
    agent: Agent,
    observation: ObservationSpec,
    *,
    observation_time: ObservationTime = "current",
    action_scale: str = "relative",
    layer: int | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> ExportedPolicy:
    """Make a controller that decides as an agent does, and learns nothing any more.

    Args:
        agent: A `SB3Agent` with a multi-layer perceptron, a `Refiner`'s `TabularAgent`, or a
            `KMeansQAgent`.
        observation: What it was trained to observe.
        observation_time: Whether of the ``current`` chunk or the ``previous`` one.
        action_scale: That of the layers that it was trained in.
        layer: Index of the layer that it is to control; needed where it observes that.
        metadata: How it came about, ready for JSON, to be kept in the file.

    Returns:
        The controller, on the CPU.

    Raises:
        ValueError: The agent cannot be frozen, or does not observe that; the message says why.
        RuntimeError: It has learned nothing yet.

    Example:
        >>> refiner = Refiner()
        >>> refiner.update(state=hash((5,) * 8) % 9999, action=3, reward=1.0, next_state=0)
        >>> frozen = export_policy(TabularAgent(refiner), ObservationSpec(dims=4, encoding="state"))
        >>> frozen(torch.zeros(2, 16, 4)).tolist()  # means and variances of 0 are digits of 5
        [3, 3]
    """
    try:
        head = _head(agent, observation)
    except ValueError as error:
        raise ValueError(f"{_name(agent)} cannot be frozen: {error}") from error
    return ExportedPolicy(
        observation,
        head,
        layer=layer,
        observation_time=observation_time,
        action_scale=action_scale,
        metadata=metadata,
    )


def _head(agent: Agent, observation: ObservationSpec) -> PolicyHead:
    if isinstance(agent, SB3Agent):
        return _network(agent, observation)
    if isinstance(agent, KMeansQAgent):
        return _kmeans(agent, observation)
    if not isinstance(agent, TabularAgent):
        raise ValueError("only networks of Stable-Baselines3, the Refiner and its clusters can")
    if not isinstance(agent.controller, Refiner):
        raise ValueError("what a refiner of one's own would decide is not known beforehand")
    return LookupPolicy(observation, _greedy_table(agent.controller, NUM_STATES))


def _greedy_table(refiner: Refiner, states: int) -> Tensor:
    """Its greedy action of every state."""
    if refiner.n_actions != NUM_ACTIONS:
        raise ValueError(f"it has {refiner.n_actions} actions, a layer has {NUM_ACTIONS}")
    return torch.from_numpy(refiner.greedy_actions(np.arange(states)))


def _kmeans(agent: KMeansQAgent, observation: ObservationSpec) -> KMeansPolicy:
    discretizer = agent.discretizer
    if not discretizer.is_fitted:
        raise RuntimeError("the agent has not learned yet: call learn() or load() first")
    found = discretizer.state_dict()
    if discretizer.by_layer:
        there = found["layers"].tolist()
        observed = [
            float(np.float32(observation.encode_layer_index(layer)))
            for layer in range(observation.num_layers)
        ]
        if not observation.include_layer_index or there != observed:
            raise ValueError(
                f"the layers that it has clusters of are not those that are observed: {there}, "
                f"not {observed}"
            )
    centers = found["centers"]
    return KMeansPolicy(
        observation,
        found["means"],
        found["scales"],
        centers,
        _greedy_table(agent.refiner, centers.shape[0] * centers.shape[1]),
        discretizer.by_layer,
    )


class _Layers(NamedTuple):
    """A policy's network, and how its outputs are read."""

    modules: list[nn.Module]
    extractor: nn.Module
    quantiles: int = 1


def _network(agent: SB3Agent, observation: ObservationSpec) -> MLPPolicy:
    policy = agent.policy
    space = policy.action_space
    if not isinstance(space, spaces.Discrete) or space.n != NUM_ACTIONS:
        raise ValueError(f"its actions are {space}, a layer's are Discrete({NUM_ACTIONS})")
    if not _matches_space(policy.observation_space, observation):
        raise ValueError(f"it observes {policy.observation_space}, which is not {observation}")
    found = _policy_layers(policy)
    if type(found.extractor) is not FlattenExtractor:
        raise ValueError(f"it reads its observations by a {type(found.extractor).__name__}")
    activations = {_activation_name(each) for each in found.modules[1::2]}
    linears = [each for each in found.modules[::2] if type(each) is nn.Linear]
    if len(activations) > 1 or len(found.modules) != 2 * len(linears) - 1:
        raise ValueError(
            "its network is not of linear layers with one activation in between: "
            f"{nn.Sequential(*found.modules)}"
        )
    network = MLPPolicy(
        observation,
        [each.weight for each in linears],
        [torch.zeros(each.out_features) if each.bias is None else each.bias for each in linears],
        activations.pop() if activations else "Identity",
        found.quantiles,
        _obs_normalization(agent),
    )
    _check_equivalence(network, agent, observation)
    return network


def _matches_space(space: spaces.Space[Any], observation: ObservationSpec) -> bool:
    """Whether an observation space is that of the environment with such observations."""
    if isinstance(space, spaces.MultiDiscrete):
        return observation.encoding == "digits" and space.nvec.tolist() == observation.nvec
    if isinstance(space, spaces.Discrete):
        return observation.encoding == "state" and space.n == NUM_STATES
    count = len(observation.nvec)
    bounds = {"box": ([-1.0] * count, [1.0] * count), "features": observation.bounds}
    if not isinstance(space, spaces.Box) or observation.encoding not in bounds:
        return False
    low, high = (np.array(each, np.float32) for each in bounds[observation.encoding])
    return np.array_equal(space.low, low) and np.array_equal(space.high, high)


def _policy_layers(policy: BasePolicy) -> _Layers:
    """A policy's network, by what each kind of policy calls it."""
    if isinstance(policy, DQNPolicy):
        return _Layers([*policy.q_net.q_net], policy.q_net.features_extractor)
    # Of sb3-contrib, which need not be installed.
    quantile_net: Any = getattr(policy, "quantile_net", None)
    if quantile_net is not None:
        return _Layers(
            [*quantile_net.quantile_net], quantile_net.features_extractor, quantile_net.n_quantiles
        )
    if hasattr(policy, "lstm_actor"):
        raise ValueError("it is recurrent, and decides from what it saw before, too")
    actor: Any = policy
    if isinstance(policy, ActorCriticPolicy) or hasattr(policy, "mlp_extractor"):
        modules = [*actor.mlp_extractor.policy_net, actor.action_net]
        return _Layers(modules, actor.pi_features_extractor)
    if isinstance(getattr(policy, "action_net", None), nn.Sequential):
        return _Layers([*actor.action_net], actor.features_extractor)
    raise ValueError(f"its policy is a {type(policy).__name__}, whose network is not known")


def _obs_normalization(agent: SB3Agent) -> ObsNormalization | None:
    found = agent.normalization
    if found is None:
        return None
    std = np.sqrt(found.var + found.epsilon)
    return ObsNormalization(torch.from_numpy(found.mean), torch.from_numpy(std), found.clip)


def _activation_name(module: nn.Module) -> str:
    name = type(module).__name__
    known = ACTIVATIONS.get(name)
    if known is None or type(module) is not known or repr(module) != repr(known()):
        raise ValueError(f"its network holds {module}; known are: {', '.join(ACTIVATIONS)}")
    return name


def _check_equivalence(network: MLPPolicy, agent: SB3Agent, observation: ObservationSpec) -> None:
    """Whatever else a policy may do with its network shows in what it decides."""
    space = copy.deepcopy(agent.policy.observation_space)
    space.seed(0)
    observations = np.stack([space.sample() for _ in range(_SAMPLES)])
    agent.on_episode_start(None)
    wanted = agent.predict(observations)
    given = torch.from_numpy(observations)
    # State ids have no numbers any more that could be hashed.
    hashed = observation.encoding == "state"
    decided = network.values(given[:, None] if hashed else network.encoder(given.double())).argmax(
        -1
    )
    alike = float(np.mean(decided.numpy() == wanted))
    if alike < _MIN_AGREEMENT:
        raise ValueError(
            f"its policy does more than its network: both decide alike in {alike:.0%} of cases only"
        )


def _name(agent: Agent) -> str:
    if isinstance(agent, SB3Agent):
        return f"a {agent.algorithm.__name__} agent"
    if isinstance(agent, TabularAgent):
        return f"a {type(agent.controller).__name__}"
    return f"a {type(agent).__name__}"
