"""What the comparison asks of an agent, whatever is inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv


class Agent(Protocol):
    """Learns in an environment, then decides.

    An agent whose decisions hang on more than the observation has one more method,
    ``on_episode_start(env)``: it is called as episodes begin that are played without learning, with the
    environment that is played.
    """

    def learn(self, env: VecEnv, steps: int) -> None:
        """Learn for exactly so many steps.

        Args:
            env: Vector environment; the agent resets it first.
            steps: Steps to take, over all environments together; a multiple of ``env.num_envs``.
        """
        ...

    def predict(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Decide as well as it has learned to, without learning.

        Args:
            observations: One row per environment.

        Returns:
            Actions, integers of shape (num_envs,).
        """
        ...

    def save(self, path: Path | str) -> None:
        """Write what was learned.

        Args:
            path: File without its ending, which the agent chooses.
        """
        ...

    def load(self, path: Path | str) -> None:
        """Read what `save` wrote, in place of what was learned here.

        Args:
            path: As given to `save`.
        """
        ...


def notify_episode_start(agent: Agent, env: Any) -> None:
    """Tell an agent that episodes begin, if it asks to be told.

    Args:
        agent: The agent.
        env: What is played, right after its reset.
    """
    if callable(hook := getattr(agent, "on_episode_start", None)):
        hook(env)


CheckpointCallback = Callable[[bool], None]
"""Called by a training wherever it can be gone on with, and told whether for the last time."""


def noop(last: bool) -> None:
    """What most trainings do where they are at rest."""
    del last


class ResumableAgent(Agent, Protocol):
    """An agent whose training, killed at any moment, can be gone on with to the bit."""

    @property
    def resumable(self) -> bool:
        """Whether `state_dict` holds all that the training needs."""
        ...

    def learn(
        self, env: VecEnv, steps: int, checkpoint_callback: CheckpointCallback = noop
    ) -> None:
        """Learn, for so many steps altogether.

        Args:
            env: As in `Agent`; where a state was loaded it stands where that state was taken, and
                is not reset.
            steps: Steps of the whole training, those before the loaded state among them.
            checkpoint_callback: Called whenever `state_dict` holds all there is: at least before the last
                steps, and then told that it is the last time.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that the training has changed, as tensors, arrays and what JSON can hold."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have the next `learn` go on from where `state_dict` was called.

        Raises:
            ValueError: It is of another agent.
        """
        ...


def is_resumable(agent: Agent) -> TypeGuard[ResumableAgent]:
    """Whether a training of the agent can be gone on with."""
    return bool(getattr(agent, "resumable", False))
