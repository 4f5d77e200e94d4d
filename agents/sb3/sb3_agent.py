"""Stable-Baselines3's algorithms behind the agent protocol."""

from __future__ import annotations

import contextlib
import inspect
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from spangym.agents.base import CheckpointCallback, noop
from spangym.agents.sb3.algorithms import find_algorithm, hyperparameters_of, parse_hyperparameters
from spangym.agents.sb3.training_state import (
    get_training_state,
    normalization_from_dict,
    normalization_to_dict,
    set_training_state,
    space_from_dict,
    space_to_dict,
)
from spangym.utils.atomic_io import ensure_suffix
from spangym.utils.rng import get_global_rng_state, set_global_rng_state
from spangym.utils.serialization import SUFFIX, load_state, save_state

_BUFFER = 50_000
_ROLLOUT = 128


class VecNormalizeStats(NamedTuple):
    """How observations are normalized: ``clip((x - mean) / sqrt(var + epsilon), -clip, clip)``.

    Attributes:
        mean: Shape (numbers,), float64.
        var: Variance, same shape.
        epsilon: Added to the variance.
        clip: Bound of the result.
    """

    mean: NDArray[np.float64]
    var: NDArray[np.float64]
    epsilon: float
    clip: float

    def __call__(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Normalize rows, as `stable_baselines3.common.vec_env.VecNormalize` does."""
        scaled = (observations - self.mean) / np.sqrt(self.var + self.epsilon)
        return np.clip(scaled, -self.clip, self.clip).astype(np.float32)


class SB3Agent:
    """An algorithm of Stable-Baselines3 or sb3-contrib, with a multi-layer perceptron.

    Hyperparameters are the algorithm's own, with its own defaults but for those that a short
    training would make meaningless: a replay buffer holds no more than the training's steps and
    the target network is refreshed every 500; rollouts are 128 steps at most, or the whole training
    if that is shorter. What TOML cannot hold is written as `spangym.agents.sb3.algorithms` says.

    Note:
        Stable-Baselines3 draws from the global random states, which it seeds; equal seeds give
        equal agents only where nothing else draws from them, as in a process of its own.

    Args:
        algorithm: A name (``dqn``, ``ppo``, ...), or a class.
        seed: Seed of the network, the exploration and the environment's streams.
        normalize: Whether observations are normalized by their running mean and variance.
        hyperparameters: Keyword arguments of the algorithm.

    Raises:
        ValueError: The algorithm is in a package that is not installed, or a hyperparameter is
            wrong.
    """

    def __init__(
        self,
        algorithm: str | type[BaseAlgorithm],
        seed: int | None = None,
        *,
        normalize: bool = False,
        **hyperparameters: Any,
    ) -> None:
        self.algorithm = find_algorithm(algorithm) if isinstance(algorithm, str) else algorithm
        self.seed = seed
        self.normalize = normalize
        self.hyperparameters = hyperparameters
        self._kwargs = parse_hyperparameters(self.algorithm, hyperparameters)
        self._model: BaseAlgorithm | None = None
        self._total_timesteps = 0
        # What the next training begins with: a network, or a whole state.
        self._network: dict[str, Any] | None = None
        self._state: dict[str, Any] | None = None
        self._memory: Any = None
        self._first = True

    @property
    def resumable(self) -> bool:
        """Whether the algorithm comes to rest between its rollouts; ARS does not."""
        return issubclass(self.algorithm, OnPolicyAlgorithm | OffPolicyAlgorithm)

    def learn(
        self, env: VecEnv, steps: int, checkpoint_callback: CheckpointCallback = noop
    ) -> None:
        """Train for exactly so many steps, over all environments together.

        Makes the network first, or goes on with the one that was trained or loaded. A last rollout
        that the steps do not fill is played but not learned from.

        Raises:
            ValueError: A rollout is longer than the training, so that it would never learn.
        """
        done, resumed = 0, False
        if self._state is not None:
            state, self._state = self._state, None
            self._total_timesteps, done, resumed = state["total_timesteps"], state["done"], True
            self._model = model = self._make(self._wrapped(env), self.seed)
            set_training_state(model, state["model"])
            set_global_rng_state(state["generators"])
        elif self._model is None or self._network is not None:
            model = self.make_model(env, steps)
            if self._network is not None:
                model.policy.load_state_dict(self._network["policy"])
                normalization_from_dict(
                    model.get_vec_normalize_env(), self._network["normalization"]
                )
                self._network = None
            self._model = model
        else:
            model = self._model
            moments = normalization_to_dict(model.get_vec_normalize_env())
            model.set_env(self._wrapped(env))
            normalization_from_dict(model.get_vec_normalize_env(), moments)
        callback = _BudgetCallback(
            steps, self._rollout_steps(env.num_envs), checkpoint_callback, self.resumable
        )
        options: dict[str, Any] = {"reset_num_timesteps": not resumed}
        if "use_masking" in inspect.signature(model.learn).parameters:
            # Every action may be taken at every time.
            options["use_masking"] = False
        with contextlib.suppress(_BudgetExhausted):
            model.learn(steps - done, callback=callback, **options)

    def make_model(self, env: VecEnv, steps: int) -> BaseAlgorithm:
        """The untrained algorithm for a training of so many steps, over all environments together.

        Raises:
            ValueError: A rollout is longer than the training, so that it would never learn.
        """
        self._total_timesteps = steps
        rollout = self._rollout_steps(env.num_envs)
        if rollout > steps:
            raise ValueError(
                f"a rollout of n_steps={rollout // env.num_envs} in {env.num_envs} environments "
                f"is longer than the {steps} steps of training: lower n_steps or raise the steps"
            )
        return self._make(self._wrapped(env), self.seed)

    @property
    def model(self) -> BaseAlgorithm:
        """The algorithm itself: what Stable-Baselines3 would have trained.

        Raises:
            RuntimeError: Nothing was learned or loaded.
        """
        if self._model is None:
            raise RuntimeError("the agent has not learned yet: call learn() or load() first")
        return self._model

    @property
    def policy(self) -> BasePolicy:
        """The trained policy."""
        return self.model.policy

    @property
    def normalization(self) -> VecNormalizeStats | None:
        """How observations are normalized before the policy sees them; None if they are not."""
        env = self.model.get_vec_normalize_env()
        stored = normalization_to_dict(env)
        if env is None or stored is None:
            return None
        return VecNormalizeStats(stored["mean"], stored["var"], env.epsilon, env.clip_obs)

    def on_episode_start(self, env: Any) -> None:
        """Forget the last episodes; only recurrent policies remember any."""
        del env
        self._memory, self._first = None, True

    def predict(self, observations: NDArray[Any]) -> NDArray[Any]:
        """The network's best actions, shape (num_envs,).

        Raises:
            RuntimeError: Nothing was learned or loaded.
        """
        model, normalization = self.model, self.normalization
        if normalization is not None:
            observations = normalization(np.asarray(observations))
        starts = np.full(len(observations), self._first)
        actions, self._memory = model.predict(
            observations, self._memory, starts, deterministic=True
        )
        self._first = False
        return actions

    def save(self, path: Path | str) -> None:
        """Write the network to ``path`` with the ending ``.safetensors``; needs no pickle.

        Raises:
            TypeError: A hyperparameter is an object that can be stored by pickle only.
        """
        model = self.model
        tree = {
            "algorithm": self._name,
            "hyperparameters": self.hyperparameters,
            "normalize": self.normalize,
            "total_timesteps": self._total_timesteps,
            "observation_space": space_to_dict(model.observation_space),
            "action_space": space_to_dict(model.action_space),
            "policy": model.policy.state_dict(),
            "normalization": normalization_to_dict(model.get_vec_normalize_env()),
        }
        save_state(ensure_suffix(path, SUFFIX), tree)

    def load(self, path: Path | str, *, allow_pickle: bool = False) -> None:
        """Read what `save` wrote, or an archive (``.zip``) of Stable-Baselines3's own.

        Args:
            path: As given to `save`; or a file that ends in ``.zip``.
            allow_pickle: Your word that an archive comes from somebody you trust.

        Warning:
            Stable-Baselines3's archives hold pickles: loading one can run any code. What `save`
            writes holds none.

        Raises:
            ValueError: The file is damaged, of another algorithm, or an archive without your word.
        """
        if Path(path).suffix == ".zip":
            if not allow_pickle:
                raise ValueError(
                    f"{path} is an archive of Stable-Baselines3's, which holds pickles and can run "
                    "code: give allow_pickle=True if you trust whoever made it"
                )
            self._model = self.algorithm.load(path, device="cpu")
            return
        path = ensure_suffix(path, SUFFIX)
        stored = load_state(path)
        if not isinstance(stored, dict) or stored.get("algorithm") != self._name:
            found = stored.get("algorithm") if isinstance(stored, dict) else None
            raise ValueError(f"{path} is no network of {self._name}, but of {found}")
        self.hyperparameters, self.normalize = stored["hyperparameters"], stored["normalize"]
        self._kwargs = parse_hyperparameters(self.algorithm, self.hyperparameters)
        self._total_timesteps = stored["total_timesteps"]
        spaces_of = [space_from_dict(stored[f"{name}_space"]) for name in ("observation", "action")]
        env = self._wrapped(DummyVecEnv([lambda: _SpacesOnlyEnv(*spaces_of)]))
        self._model = self._make(env, seed=None)
        self._model.policy.load_state_dict(stored["policy"])
        normalization_from_dict(self._model.get_vec_normalize_env(), stored["normalization"])
        self._network = stored

    def state_dict(self) -> dict[str, Any]:
        """All that the training has changed, the global generators among it."""
        return {
            "algorithm": self._name,
            "total_timesteps": self._total_timesteps,
            "done": self.model.num_timesteps,
            "model": get_training_state(self.model),
            "generators": get_global_rng_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Have the next `learn` go on from where `state_dict` was called.

        Raises:
            ValueError: It is of another algorithm.
        """
        if state_dict["algorithm"] != self._name:
            raise ValueError(f"the state is of {state_dict['algorithm']}, not of {self._name}")
        self._state = state_dict

    @property
    def _name(self) -> str:
        return f"{self.algorithm.__module__}:{self.algorithm.__qualname__}"

    def _wrapped(self, env: VecEnv) -> VecEnv:
        if not self.normalize:
            return env
        if not isinstance(env.observation_space, spaces.Box):
            raise ValueError(
                "normalize goes with observations of numbers: set the encoding 'box' or 'features'"
            )
        return VecNormalize(env, norm_reward=False)

    def _make(self, env: VecEnv, seed: int | None) -> BaseAlgorithm:
        aliases = self.algorithm.policy_aliases
        policy = "MlpPolicy" if "MlpPolicy" in aliases else next(iter(aliases))
        made = {
            "policy": policy,
            "device": "cpu",
            **self._default_kwargs(env.num_envs),
            **self._kwargs,
        }
        return self.algorithm(env=env, seed=seed, **made)

    def _default_kwargs(self, num_envs: int) -> dict[str, Any]:
        """Hyperparameters for a training of that many steps, where the user gives none."""
        takes = hyperparameters_of(self.algorithm)
        fitting: dict[str, Any] = {}
        if issubclass(self.algorithm, OffPolicyAlgorithm):
            fitting = {
                "buffer_size": min(self._total_timesteps, _BUFFER),
                "learning_starts": min(100, self._total_timesteps // 10),
                "target_update_interval": 500,
            }
        elif "n_steps" in takes:
            rollout = self._rollout_steps(num_envs)
            fitting = {"n_steps": rollout // num_envs}
            if "batch_size" in takes:
                # Mini-batches that do not fill a rollout would leave a last one of few samples.
                batch = takes["batch_size"].default
                fitting["batch_size"] = rollout if rollout % batch else batch
        return {name: value for name, value in fitting.items() if name in takes}

    def _rollout_steps(self, num_envs: int) -> int:
        """Steps, over all environments, after which the algorithm learns."""
        takes = hyperparameters_of(self.algorithm)
        if issubclass(self.algorithm, OffPolicyAlgorithm):
            every = self._kwargs.get("train_freq", takes["train_freq"].default)
            return (every if isinstance(every, int) else 1) * num_envs
        if "n_steps" not in takes:
            return 1
        shipped = max(1, min(takes["n_steps"].default, _ROLLOUT, self._total_timesteps // num_envs))
        return self._kwargs.get("n_steps", shipped) * num_envs


class _SpacesOnlyEnv(gym.Env[Any, Any]):
    """The spaces of an environment: all that a network is made from."""

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> None:
        self.observation_space = observation_space
        self.action_space = action_space


class _BudgetExhausted(Exception):  # noqa: N818  (no error)
    """The steps are used up, which an algorithm does not ask for."""


class _BudgetCallback(BaseCallback):
    """Ends a training at its last step, and tells where it is at rest."""

    def __init__(
        self, steps: int, rollout: int, checkpoint_callback: CheckpointCallback, resumable: bool
    ) -> None:
        super().__init__()
        self._steps = steps
        self._rollout_steps = rollout
        self._checkpoint_callback = checkpoint_callback
        self._resumable = resumable

    def _on_rollout_start(self) -> None:
        if self._resumable:
            self._checkpoint_callback(self.num_timesteps + self._rollout_steps >= self._steps)

    def _on_step(self) -> bool:
        if self.num_timesteps < self._steps:
            return True
        if not self._resumable:
            raise _BudgetExhausted
        # A rollout that ends just here is still to be learned from, and is not followed by another.
        return self._steps % self._rollout_steps == 0
