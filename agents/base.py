"""Interface between agents and the experiments."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from spangym.attention import NUM_ACTIONS


class Agent(Protocol):
    """Learns in an environment, then decides.

    An agent that needs more than observations may define ``on_episode_start(env)``, which is called
    with the environment when evaluation episodes begin.
    """

    def learn(self, env: VecEnv, steps: int) -> None:
        """Train for exactly ``steps`` steps over all environments, a multiple of their number.

        The agent resets the vector environment.
        """
        ...

    def predict(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Choose greedy actions, integers (num_envs,), without learning.

        ``observations`` have one row per environment.
        """
        ...

    def save(self, path: Path | str) -> None:
        """Write the trained agent to ``path``, to which the agent adds a suffix."""
        ...

    def load(self, path: Path | str) -> None:
        """Restore the agent that `save` wrote to ``path``."""
        ...


def notify_episode_start(agent: Agent, env: Any) -> None:
    """Call ``agent.on_episode_start(env)`` if it exists; ``env`` was just reset."""
    if callable(hook := getattr(agent, "on_episode_start", None)):
        hook(env)


def num_actions_in(env: Any) -> int:
    """Return the number of spans that an agent chooses from; 10 if the environment has no space."""
    space = getattr(env, "single_action_space", None) or getattr(env, "action_space", None)
    if isinstance(space, spaces.MultiDiscrete):
        return int(space.nvec[0])
    return int(space.n) if isinstance(space, spaces.Discrete) else NUM_ACTIONS


CheckpointCallback = Callable[[bool], None]
"""Called whenever a training can be checkpointed, with whether this is the last time."""


def noop(last: bool) -> None:
    """Ignore the opportunity to write a checkpoint."""
    del last


class ResumableAgent(Agent, Protocol):
    """An agent whose resumed training is identical to an uninterrupted one."""

    @property
    def resumable(self) -> bool:
        """Whether `state_dict` holds everything that training needs."""
        ...

    def learn(
        self, env: VecEnv, steps: int, checkpoint_callback: CheckpointCallback = noop
    ) -> None:
        """Train until ``steps`` steps are done in total.

        Args:
            env: Vector environment. If a state was loaded, the environment is in the state of that
                moment and is not reset.
            steps: Number of steps of the whole training, including those before the loaded state.
            checkpoint_callback: Called when `state_dict` is complete, at least before the last
                steps, then with ``True``.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training changes, as tensors, arrays and JSON values."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the next `learn` where `state_dict` was called.

        Raises:
            ValueError: The state is of another agent.
        """
        ...


def is_resumable(agent: Agent) -> TypeGuard[ResumableAgent]:
    """Return whether a training of the agent can be resumed."""
    return bool(getattr(agent, "resumable", False))
