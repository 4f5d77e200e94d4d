"""What the comparison asks of an agent, whatever is inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv


class Agent(Protocol):
    """Learns in an environment, then decides."""

    def learn(self, env: VecEnv, steps: int) -> None:
        """Learn for exactly so many steps.

        Args:
            env: Environment of one or more lanes; the agent resets it first.
            steps: Steps to take, over all lanes together; a multiple of the lanes.
        """
        ...

    def predict(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Decide as well as it has learnt to, without learning.

        Args:
            observations: One row a lane.

        Returns:
            Actions, integers of shape (lanes,).
        """
        ...

    def save(self, path: Path | str) -> None:
        """Write what was learnt.

        Args:
            path: File without its ending, which the agent chooses.
        """
        ...

    def load(self, path: Path | str) -> None:
        """Read what `save` wrote, in place of what was learnt here.

        Args:
            path: As given to `save`.
        """
        ...
