"""SB3Agent: algorithms of Stable-Baselines3 and sb3-contrib as agents."""

from __future__ import annotations

import contextlib
import inspect
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import TrainFrequencyUnit
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
from spangym.utils.readable_repr import short_repr
from spangym.utils.rng import get_global_rng_state, set_global_rng_state
from spangym.utils.scalars import as_bool, as_int, plain
from spangym.utils.serialization import SUFFIX, load_state, report_damage, save_state
from spangym.utils.signatures import construct, parameters_of

_MAX_BUFFER_SIZE = 50_000
_MAX_N_STEPS = 128
_MAX_ARCHIVE_BYTES = 2**31


class SB3Agent:
    """An algorithm of Stable-Baselines3 or sb3-contrib with a multi-layer perceptron.

    Defaults are the algorithm's own, except those that do not suit a short training: the replay
    buffer holds at most the steps of the training, the target network is updated every 500 steps,
    and a rollout has at most 128 steps and at most the steps of the training. See
    `spangym.agents.sb3.algorithms` for hyperparameters that TOML cannot express directly.

    Note:
        Stable-Baselines3 seeds and uses the global generators. Equal seeds give equal agents only
        if nothing else draws from them, as in a separate process.

    Args:
        algorithm: Name (``dqn``, ``ppo``, ...) or class.
        seed: Seed of network, exploration and environment.
        normalize: Whether to normalize observations by their running mean and variance.
        hyperparameters: Keyword arguments of the algorithm.

    Raises:
        ValueError: The algorithm's package is not installed, or a hyperparameter is invalid.
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
        self._algorithm_name = f"{self.algorithm.__module__}:{self.algorithm.__qualname__}"
        self.seed = None if seed is None else as_int("seed", seed, 0)
        self.normalize = as_bool("normalize", normalize)
        self.hyperparameters = plain(hyperparameters)
        self._kwargs = parse_hyperparameters(self.algorithm, self.hyperparameters)
        self._total_timesteps = 0
        self._model: BaseAlgorithm | None = None
        self._is_loaded = False
        self._resume_state: dict[str, Any] | None = None
        self._recurrent_state: Any = None
        self._is_episode_start = True

    def __repr__(self) -> str:
        options = {"seed": self.seed, "normalize": self.normalize or None} | self.hyperparameters
        given = [f"{name}={short_repr(each)}" for name, each in options.items() if each is not None]
        return f"SB3Agent({', '.join([self.algorithm.__name__, *given])})"

    @property
    def resumable(self) -> bool:
        """Whether training can be resumed between rollouts; ARS has none."""
        return issubclass(self.algorithm, OnPolicyAlgorithm | OffPolicyAlgorithm)

    def learn(
        self, env: VecEnv, steps: int, checkpoint_callback: CheckpointCallback = noop
    ) -> None:
        """Train, further if trained or loaded before; an incomplete last rollout is not learned.

        Raises:
            ValueError: A rollout is longer than the training, which would never learn.
        """
        steps = as_int("steps", steps, 0)
        steps_done, state = 0, self._resume_state
        if state is not None:
            self._resume_state = None
            self._total_timesteps, steps_done = state["total_timesteps"], state["steps_done"]
            self._model = self._build(env, self.seed)
            set_training_state(self._model, state["model"])
            set_global_rng_state(state["generators"])
        elif self._model is None or self._is_loaded:
            model = self.make_model(env, steps)
            if self._model is not None:
                model.policy.load_state_dict(self._model.policy.state_dict())
            self._model, self._is_loaded = model, False
        else:
            self._model.set_env(self._wrap(env))
        rollout = _rollout_steps(self.algorithm, vars(self._model), env.num_envs)
        callback = _BudgetCallback(steps, rollout, checkpoint_callback, self.resumable)
        options: dict[str, Any] = {"reset_num_timesteps": state is None}
        if "use_masking" in parameters_of(self._model.learn):
            # MaskablePPO asks for masks, but every action is always valid.
            options["use_masking"] = False
        with contextlib.suppress(_BudgetExhausted):
            self._model.learn(steps - steps_done, callback=callback, **options)

    def make_model(self, env: VecEnv, steps: int) -> BaseAlgorithm:
        """Build the untrained algorithm for a training of ``steps`` steps over all environments.

        Raises:
            ValueError: The algorithm would not learn once, see `check_budget`.
        """
        episode_steps = getattr(env, "episode_steps", 1)
        self.check_budget(steps, env.num_envs, episode_steps)
        self._total_timesteps = steps
        model = self._build(env, self.seed)
        # A subclass may set hyperparameters itself.
        _check_budget(self.algorithm, vars(model), steps, env.num_envs, episode_steps)
        return model

    def check_budget(self, steps: int, num_envs: int, episode_steps: int = 1) -> None:
        """Refuse a training in which the algorithm would not learn once.

        Args:
            steps: Steps of the training over all environments.
            num_envs: Number of environments.
            episode_steps: Steps of an episode; they matter for algorithms that play whole ones.

        Raises:
            ValueError: A rollout, or the steps before learning, take longer than the training.
        """
        defaults = self._default_kwargs(steps, num_envs)
        values = _parameter_defaults(self.algorithm) | defaults | self._kwargs
        _check_budget(self.algorithm, values, steps, num_envs, episode_steps)

    @property
    def model(self) -> BaseAlgorithm:
        """The algorithm of Stable-Baselines3.

        Raises:
            RuntimeError: The agent is untrained.
        """
        if self._model is None:
            raise RuntimeError("the agent has not learned yet: call learn() or load() first")
        return self._model

    @property
    def policy(self) -> BasePolicy:
        """The policy of `model`."""
        return self.model.policy

    def on_episode_start(self, env: Any) -> None:
        """Reset the state of a recurrent policy."""
        del env
        self._recurrent_state, self._is_episode_start = None, True

    def predict(self, observations: NDArray[Any]) -> NDArray[Any]:
        """Return the deterministic actions of the policy, shape (num_envs,).

        Raises:
            RuntimeError: The agent is untrained.
        """
        rows: Any = np.asarray(observations)
        if (normalizer := self.model.get_vec_normalize_env()) is not None:
            rows = normalizer.normalize_obs(rows)
        starts = np.full(len(rows), self._is_episode_start)
        actions, self._recurrent_state = self.model.predict(
            rows, self._recurrent_state, starts, deterministic=True
        )
        self._is_episode_start = False
        return actions

    def save(self, path: Path | str) -> None:
        """Write the network to ``path`` with the suffix ``.safetensors``, without pickle.

        Raises:
            TypeError: A hyperparameter is an object that only pickle can store.
        """
        state = {
            "algorithm": self._algorithm_name,
            "hyperparameters": self.hyperparameters,
            "normalize": self.normalize,
            "total_timesteps": self._total_timesteps,
            "observation_space": space_to_dict(self.model.observation_space),
            "action_space": space_to_dict(self.model.action_space),
            "policy": self.policy.state_dict(),
            "normalization": normalization_to_dict(self.model.get_vec_normalize_env()),
        }
        save_state(ensure_suffix(path, SUFFIX), state)

    def load(self, path: Path | str, *, allow_pickle: bool = False) -> None:
        """Restore the network that `save` wrote, or an archive (``.zip``) of Stable-Baselines3.

        Args:
            path: As given to `save`, or a file with the suffix ``.zip``.
            allow_pickle: Whether to load an archive.

        Warning:
            Archives of Stable-Baselines3 contain pickles, which can run arbitrary code. Files of
            `save` contain none.

        Raises:
            ValueError: The file is damaged, of another algorithm, or an archive without
                ``allow_pickle``.
        """
        if Path(path).suffix == ".zip":
            if not allow_pickle:
                hint = "pickles can run code: pass allow_pickle=True if you trust its source"
                raise ValueError(f"{path} is an archive of Stable-Baselines3, whose {hint}")
            with report_damage(f"{path} is not an archive of {self._algorithm_name}", path):
                _check_archive(path)
                self._model = self.algorithm.load(path, device="cpu")
            return
        path = ensure_suffix(path, SUFFIX)
        state = load_state(path)
        algorithm = state.get("algorithm") if isinstance(state, dict) else None
        if algorithm != self._algorithm_name:
            raise ValueError(f"{path} is a network of {algorithm}, not of {self._algorithm_name}")
        with report_damage(f"{path} is damaged", path):
            self._load(state)
        self._is_loaded = True

    def _load(self, state: dict[str, Any]) -> None:
        _check_sizes(state)
        self.normalize = as_bool("normalize", state["normalize"])
        self.hyperparameters = state["hyperparameters"]
        self._kwargs = parse_hyperparameters(self.algorithm, self.hyperparameters)
        self._total_timesteps = as_int("total_timesteps", state["total_timesteps"], 0)
        self._model = None
        env = gym.Env[Any, Any]()
        env.observation_space = space_from_dict(state["observation_space"])
        env.action_space = space_from_dict(state["action_space"])
        model = self._build(DummyVecEnv([lambda: env]), seed=None)
        model.policy.load_state_dict(state["policy"])
        normalization_from_dict(model.get_vec_normalize_env(), state["normalization"])
        self._model = model

    def state_dict(self) -> dict[str, Any]:
        """Return everything that training changes, global generators included."""
        return {
            "algorithm": self._algorithm_name,
            "total_timesteps": self._total_timesteps,
            "steps_done": self.model.num_timesteps,
            "model": get_training_state(self.model),
            "generators": get_global_rng_state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with the next `learn` where `state_dict` was called.

        Raises:
            ValueError: The state is of another algorithm.
        """
        if (algorithm := state_dict["algorithm"]) != self._algorithm_name:
            raise ValueError(f"the state is of {algorithm}, not of {self._algorithm_name}")
        self._resume_state = state_dict

    def _build(self, env: VecEnv, seed: int | None) -> BaseAlgorithm:
        aliases = self.algorithm.policy_aliases
        policy = "MlpPolicy" if "MlpPolicy" in aliases else next(iter(aliases))
        defaults = {
            "policy": policy,
            "device": "cpu",
            **self._default_kwargs(self._total_timesteps, env.num_envs),
        }
        parameters = parameters_of(self.algorithm)
        defaults = {name: value for name, value in defaults.items() if name in parameters}
        given = {"env": self._wrap(env), "seed": seed, **self._kwargs}
        while True:
            try:
                return construct(self.algorithm, defaults | given)
            except TypeError as error:
                # A subclass that sets one of the defaults itself does not take it as well.
                twice = re.search(r"multiple values for (?:keyword )?argument '(\w+)'", str(error))
                if twice is None or twice[1] not in defaults or twice[1] in given:
                    raise
                del defaults[twice[1]]

    def _wrap(self, env: VecEnv) -> VecEnv:
        """Normalize observations if asked to, with the statistics of the earlier training."""
        if not self.normalize:
            return env
        if not isinstance(env.observation_space, spaces.Box):
            raise ValueError("normalize needs numbers: set the encoding 'box' or 'features'")
        wrapped = VecNormalize(env, norm_reward=False)
        earlier = None if self._model is None else self._model.get_vec_normalize_env()
        if earlier is not None:
            wrapped.obs_rms = earlier.obs_rms
        return wrapped

    def _default_kwargs(self, steps: int, num_envs: int) -> dict[str, Any]:
        """Return the defaults that suit a training of ``steps`` steps."""
        parameters = _parameter_defaults(self.algorithm)
        kwargs: dict[str, Any] = {}
        if issubclass(self.algorithm, OffPolicyAlgorithm):
            kwargs = {
                "buffer_size": min(steps, _MAX_BUFFER_SIZE),
                "learning_starts": min(100, steps // 10),
                "target_update_interval": 500,
            }
        elif isinstance(n_steps := parameters.get("n_steps"), int):
            longest = min(_MAX_N_STEPS, steps // num_envs)
            kwargs = {"n_steps": max(1, min(n_steps, longest))}
            if isinstance(batch_size := parameters.get("batch_size"), int):
                # A batch size that does not divide the rollout would leave a small last batch.
                rollout = _integer(kwargs | self._kwargs, "n_steps") * num_envs
                kwargs["batch_size"] = rollout if rollout % batch_size else batch_size
        return {name: value for name, value in kwargs.items() if name in parameters}


def _check_sizes(state: Mapping[str, Any]) -> None:
    """Raise a ValueError if the network of a file is larger than its weights, before it is made."""
    widest = max((size for each in state["policy"].values() for size in each.shape), default=0)
    sizes = [*_integers(state["hyperparameters"].get("policy_kwargs"))]
    for space in (state["observation_space"], state["action_space"]):
        sizes += [space.get("n", 0), sum(space.get("nvec", []))]
    if largest := max((each for each in sizes if each > widest), default=0):
        raise ValueError(f"its weights have at most {widest} rows, its sizes say {largest}")


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, Mapping):
        value = [*value.values()]
    if isinstance(value, list | tuple):
        for each in value:
            yield from _integers(each)
    elif isinstance(value, int):
        yield value


def _check_archive(path: Path | str) -> None:
    """Raise a ValueError for an archive that takes much more memory than a policy."""
    with zipfile.ZipFile(path) as archive:
        size = sum(each.file_size for each in archive.infolist())
    if size > _MAX_ARCHIVE_BYTES:
        raise ValueError(f"its content takes {size} bytes, more than {_MAX_ARCHIVE_BYTES}")


def _parameter_defaults(algorithm: type[BaseAlgorithm]) -> dict[str, Any]:
    return {name: each.default for name, each in hyperparameters_of(algorithm).items()}


def _rollout_steps(algorithm: type[BaseAlgorithm], values: Mapping[str, Any], num_envs: int) -> int:
    """Return the steps over all environments between updates; 1 where their number varies."""
    if issubclass(algorithm, OnPolicyAlgorithm):
        return _integer(values, "n_steps") * num_envs
    frequency = values.get("train_freq", 1)
    if isinstance(frequency, tuple):
        count, unit = frequency
        frequency = 1 if unit in ("episode", TrainFrequencyUnit.EPISODE) else count
    return _integer({"train_freq": frequency}, "train_freq") * num_envs


def _check_budget(
    algorithm: type[BaseAlgorithm],
    values: Mapping[str, Any],
    steps: int,
    num_envs: int,
    episode_steps: int,
) -> None:
    """See `SB3Agent.check_budget`; ``values`` are hyperparameters by name."""
    budget = f"the {steps} steps of training: lower it or raise the steps"
    rollout = _rollout_steps(algorithm, values, num_envs)
    if rollout > steps:
        name = "n_steps" if issubclass(algorithm, OnPolicyAlgorithm) else "train_freq"
        found = f"{name}={values[name]} in {num_envs} environments"
        raise ValueError(f"a rollout of {found} takes {rollout} steps, longer than {budget}")
    if issubclass(algorithm, OffPolicyAlgorithm):
        waits = _integer(values, "learning_starts")
        if rollout * (max(waits, 0) // rollout + 1) > steps:
            found = f"learning_starts={waits} with updates every {rollout} steps"
            raise ValueError(f"{found} leaves no update in {budget}")
    if "n_delta" in values:
        # ARS plays whole episodes with each of its candidates before it learns.
        candidates, episodes = 2 * _integer(values, "n_delta"), _integer(values, "n_eval_episodes")
        update = candidates * -(-episodes // num_envs) * num_envs * episode_steps
        if update >= steps:
            found = f"n_delta={candidates // 2} plays {candidates} candidates"
            raise ValueError(f"{found}, which takes {update} steps, not fewer than {budget}")


def _integer(values: Mapping[str, Any], name: str) -> int:
    value = values.get(name, 1)
    if value is inspect.Parameter.empty:
        return 1
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be an integer, got {short_repr(value)}")
    return int(value)


class _BudgetExhausted(Exception):  # noqa: N818
    """Ends the training of an algorithm that ignores the return value of callbacks."""


class _BudgetCallback(BaseCallback):
    """Ends a training after exactly ``steps`` steps, and offers checkpoints before rollouts."""

    def __init__(
        self, steps: int, rollout: int, checkpoint_callback: CheckpointCallback, resumable: bool
    ) -> None:
        super().__init__()
        self._steps, self._rollout_steps = steps, rollout
        self._checkpoint_callback, self._resumable = checkpoint_callback, resumable

    def _on_rollout_start(self) -> None:
        if self._resumable:
            self._checkpoint_callback(self.num_timesteps + self._rollout_steps >= self._steps)

    def _on_step(self) -> bool:
        if self.num_timesteps < self._steps:
            return True
        if not self._resumable:
            raise _BudgetExhausted
        # The algorithm still learns from a rollout that is complete with the last step.
        return self._steps % self._rollout_steps == 0
