"""Stable-Baselines3's algorithms behind the agent protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from .files import with_ending, written_whole

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"dqn": DQN, "ppo": PPO}
"""Algorithms by name."""

_BUFFER = 50_000
_ROLLOUT = 128
_BATCH = 64


class DeepAgent:
    """A Stable-Baselines3 algorithm with a multi-layer perceptron.

    Hyperparameters are the algorithm's own, with its own defaults but for those that a short
    training would make meaningless: DQN's replay buffer holds no more than the training's steps and
    its target network is refreshed every 500; PPO's rollouts are 128 steps, or the whole training
    if that is shorter.

    Note:
        Stable-Baselines3 draws from the global random states, which it seeds; equal seeds give
        equal agents only where nothing else draws from them, as in a process of its own.

    Args:
        algorithm: Name of the algorithm: ``dqn`` or ``ppo``.
        seed: Seed of the network, the exploration and the environment's streams.
        hyperparameters: Keyword arguments of the algorithm.
    """

    def __init__(self, algorithm: str, seed: int | None = None, **hyperparameters: Any) -> None:
        self.algorithm = ALGORITHMS[algorithm]
        self.seed = seed
        self.hyperparameters = hyperparameters
        self._model: BaseAlgorithm | None = None

    def learn(self, env: VecEnv, steps: int) -> None:
        """Train for exactly so many steps, over all lanes together.

        Makes the network first, or goes on with the one that was trained or loaded. A last rollout
        of PPO that the steps do not fill is played but not learnt from.

        Raises:
            ValueError: PPO's rollout is longer than the training, so that it would never learn.
        """
        rollout = self._rollout(steps, env.num_envs)
        if self._model is None:
            self._model = self.make_model(env, steps)
        else:
            self._model.set_env(env)
        self._model.learn(steps, callback=_StopAt(steps, rollout))

    def make_model(self, env: VecEnv, steps: int) -> BaseAlgorithm:
        """The untrained algorithm for a training of so many steps, over all lanes together.

        Raises:
            ValueError: PPO's rollout is longer than the training, so that it would never learn.
        """
        rollout = self._rollout(steps, env.num_envs)
        if rollout > steps:
            raise ValueError(
                f"a rollout of n_steps={self.hyperparameters['n_steps']} in {env.num_envs} lanes "
                f"is longer than the {steps} steps of training: lower n_steps or raise the steps"
            )
        budgeted = self._for_budget(steps, env.num_envs)
        options: dict[str, Any] = {"policy": "MlpPolicy", "device": "cpu", **budgeted}
        return self.algorithm(env=env, seed=self.seed, **options)

    def predict(self, observations: NDArray[Any]) -> NDArray[Any]:
        """The network's best actions, shape (lanes,).

        Raises:
            RuntimeError: Nothing was learnt or loaded.
        """
        return self._trained().predict(observations, deterministic=True)[0]

    def save(self, path: Path | str) -> None:
        """Write Stable-Baselines3's own archive, ``path`` with the ending ``.zip``."""
        with written_whole(with_ending(path, ".zip")) as aside:
            self._trained().save(aside)

    def load(self, path: Path | str) -> None:
        """Read what `save` wrote.

        Warning:
            Stable-Baselines3's archives hold pickles: loading one can run code. Load only files
            that you trust.
        """
        self._model = self.algorithm.load(with_ending(path, ".zip"), device="cpu")

    def _trained(self) -> BaseAlgorithm:
        if self._model is None:
            raise RuntimeError("the agent has not learnt yet: call learn() or load() first")
        return self._model

    def _for_budget(self, steps: int, lanes: int) -> dict[str, Any]:
        """The hyperparameters, completed for a training of so many steps."""
        fitting: dict[str, Any]
        if self._off_policy:
            fitting = {
                "buffer_size": min(steps, _BUFFER),
                "learning_starts": min(100, steps // 10),
                "target_update_interval": 500,
            }
        else:
            rollout = self._rollout(steps, lanes)
            # Mini-batches that do not fill a rollout would leave a last one of few samples.
            batch = rollout if rollout % _BATCH else _BATCH
            fitting = {"n_steps": rollout // lanes, "batch_size": batch}
        return {**fitting, **self.hyperparameters}

    def _rollout(self, steps: int, lanes: int) -> int:
        """Steps, over all lanes, after which an on-policy algorithm learns; 1 for the others."""
        if self._off_policy:
            return 1
        if self._model is not None:
            return vars(self._model)["n_steps"] * lanes
        shipped = max(1, min(_ROLLOUT, steps // lanes))
        return self.hyperparameters.get("n_steps", shipped) * lanes

    @property
    def _off_policy(self) -> bool:
        return issubclass(self.algorithm, OffPolicyAlgorithm)


class _StopAt(BaseCallback):
    """Ends a training at its last step, though the algorithm collects several at a time."""

    def __init__(self, steps: int, rollout: int) -> None:
        super().__init__()
        self._steps = steps
        self._rollout = rollout

    def _on_step(self) -> bool:
        # A rollout that ends just here is still to be learnt from, and is not followed by another.
        last_is_whole = self._rollout > 1 and self._steps % self._rollout == 0
        return self.num_timesteps < self._steps or last_is_whole
