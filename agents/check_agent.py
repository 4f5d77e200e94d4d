"""``check_agent``: does a class of one's own do what a comparison will ask of it?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper

from spangym.agents.base import Agent, is_resumable, notify_episode_start
from spangym.agents.registry import AgentSpec, get_agent_spec, spec_from_class
from spangym.attention import NUM_ACTIONS
from spangym.attention.features import NUM_STATES
from spangym.utils.serialization import from_bytes, to_bytes

_EPISODE_LENGTH = 8
_NUM_FEATURES = 6
_STEPS = 512
_NUM_ENVS = 4


def check_agent(agent: str | type[Any], **options: Any) -> list[str]:
    """Check that a class can be compared, and say in words what is missing.

    It is made and made to learn in a small environment of the check's own, in one environment and in
    several, decides, is stored and read back, and learns once more from the same seed.

    Args:
        agent: A class, or a name as `spangym.agents.get_agent_spec` takes it.
        options: Options to make it with.

    Returns:
        Remarks: what it could do besides, and does not.

    Raises:
        ValueError: It does not conform; the message has a line for each reason.

    Example:
        >>> class Stubborn:
        ...     def choose_action(self, state):
        ...         return 11
        ...     def update(self, state, action, reward, next_state): ...
        >>> check_agent(Stubborn)
        Traceback (most recent call last):
        ...
        ValueError: Stubborn does not conform:
        - choose_action(state) gave 11: an action is an integer in 0..9
    """
    if isinstance(agent, str):
        name, spec = agent, get_agent_spec(agent)
    else:
        name = agent.__name__
        try:
            spec = spec_from_class(name, agent)
        except ValueError as error:
            raise ValueError(f"{name} does not conform:\n- {error}") from error
    check = _Check(spec, options)
    check.run()
    if check.problems:
        listed = "\n".join(f"- {each}" for each in dict.fromkeys(check.problems))
        raise ValueError(f"{name} does not conform:\n{listed}")
    return check.notes


class _Check:
    def __init__(self, spec: AgentSpec, options: dict[str, Any]) -> None:
        self.spec = spec
        self.options = options
        self.problems: list[str] = []
        self.notes: list[str] = []

    def run(self) -> None:
        """Look at one thing after another; what cannot go on ends here."""
        try:
            self.spec.check_options(self.options)
        except ValueError as error:
            self.problems.append(str(error))
            return
        trained = [self._trained(num_envs) for num_envs in (1, _NUM_ENVS)]
        if None in trained or self.problems:
            return
        one = trained[1]
        assert one is not None
        decided = self._rollout(one)
        if decided is None:
            return
        if self._rollout(self._trained(_NUM_ENVS)) != decided:
            self.problems.append(
                "from the same seed it learns something else each time: take an argument `seed`, "
                "or draw from the global generators, which are seeded"
            )
        self._check_storing(one, decided)
        self._check_resuming(decided)

    def _make(self) -> Agent | None:
        set_random_seed(0)
        try:
            return self.spec.make(seed=0, **self.options)
        except Exception as error:
            self.problems.append(
                f"it cannot be made with {self.options or 'no options'}: "
                f"{type(error).__name__}: {error}"
            )
        return None

    def _trained(self, num_envs: int) -> Agent | None:
        agent = self._make()
        if agent is None:
            return None
        env = _StepCounter(_make_env(self.spec.encoding, num_envs))
        try:
            agent.learn(env, _STEPS)
        except _CheckFailed as failure:
            self.problems.append(self._in_its_words(str(failure)))
        except Exception as error:
            self.problems.append(self._fails("learning", num_envs, error))
        else:
            if env.steps != _STEPS:
                self.problems.append(
                    f"learn(env, steps) took {env.steps} of {_STEPS} steps in {num_envs} environment(s)"
                )
            return agent
        return None

    def _rollout(self, agent: Agent | None) -> list[int] | None:
        """What it decides in some observations; None if it does so wrongly."""
        if agent is None:
            return None
        env = _StepCounter(_make_env(self.spec.encoding, _NUM_ENVS))
        env.seed(9)
        observations, chosen = np.asarray(env.reset()), []
        notify_episode_start(agent, env)
        for _ in range(2 * _EPISODE_LENGTH):
            before = observations.copy()
            try:
                actions = np.asarray(agent.predict(observations))
                if not np.array_equal(before, observations):
                    raise _CheckFailed("predict(observations) changes the observations")
                _check_actions(actions, _NUM_ENVS)
            except _CheckFailed as failure:
                self.problems.append(self._in_its_words(str(failure)))
                return None
            except Exception as error:
                self.problems.append(self._fails("deciding", _NUM_ENVS, error))
                return None
            chosen += actions.tolist()
            observations = np.asarray(env.step(actions)[0])
        return chosen

    def _check_storing(self, agent: Agent, decided: list[int]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "agent")
            fresh = self._make()
            assert fresh is not None
            try:
                agent.save(path)
                if not any(Path(folder).iterdir()):
                    self.notes.append("nothing of it is stored: it has no save(path)")
                    return
                fresh.load(path)
            except Exception as error:
                self.problems.append(self._fails("saving and loading", _NUM_ENVS, error))
                return
        # What a controller draws is not part of what it has learned.
        again = [self._rollout(each) for each in (agent, fresh)]
        if again[0] == decided and again[1] != decided:
            self.problems.append("saved and loaded it decides otherwise than before")

    def _check_resuming(self, decided: list[int]) -> None:
        agent = self._make()
        assert agent is not None
        if not is_resumable(agent):
            self.notes.append(
                "a training that is interrupted begins anew: it has no state_dict() and "
                "load_state_dict(state_dict)"
            )
            return
        env = _make_env(self.spec.encoding, _NUM_ENVS)
        kept: list[bytes] = []

        def checkpoint_callback(last: bool) -> None:
            if not last and len(kept) < 2:
                kept[:] = [*kept, to_bytes([agent.state_dict(), env.get_attr("state")])]

        try:
            agent.learn(env, _STEPS, checkpoint_callback)
            if not kept:
                return
            state, places = from_bytes(kept[-1])
            fresh = self._make()
            assert fresh is not None
            assert is_resumable(fresh)
            again = _make_env(self.spec.encoding, _NUM_ENVS)
            for env_index, place in enumerate(places):
                again.env_method("set_state", place, indices=env_index)
            fresh.load_state_dict(state)
            fresh.learn(again, _STEPS)
        except Exception as error:
            self.problems.append(self._fails("going on from state_dict()", _NUM_ENVS, error))
            return
        if self._rollout(fresh) != decided:
            self.problems.append("gone on with from state_dict() it learns something else")

    def _fails(self, doing: str, num_envs: int, error: Exception) -> str:
        return f"{doing} in {num_envs} environment(s) fails: {type(error).__name__}: {error}"

    def _in_its_words(self, failure: str) -> str:
        """What is wrong, of the method that the class has."""
        if self.spec.encoding == "state":
            return failure.replace("predict(observations)", "choose_action(state)")
        return failure


class _CheckFailed(Exception):  # noqa: N818
    """What is wrong, in words."""


def _check_actions(actions: NDArray[Any], num_envs: int) -> None:
    if actions.shape != (num_envs,):
        raise _CheckFailed(
            f"predict(observations) gave shape {actions.shape} for {num_envs} environments: it must be "
            "one action per environment"
        )
    for action in actions.tolist():
        if not isinstance(action, int) or not 0 <= action < NUM_ACTIONS:
            raise _CheckFailed(
                f"predict(observations) gave {action!r}: an action is an integer in "
                f"0..{NUM_ACTIONS - 1}"
            )


class _StepCounter(VecEnvWrapper):
    """Counts steps, and looks at the actions."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.steps = 0

    def reset(self) -> Any:
        return self.venv.reset()

    def step_async(self, actions: NDArray[Any]) -> None:
        _check_actions(np.asarray(actions), self.num_envs)
        self.venv.step_async(actions)

    def step_wait(self) -> Any:
        self.steps += self.num_envs
        return self.venv.step_wait()


class _ToyEnv(gym.Env[Any, np.int64]):
    """Longer spans earn more, and where one stands tells how far; episodes of eight steps."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.action_space = spaces.Discrete(NUM_ACTIONS)
        self.observation_space = _SPACES[encoding]()
        self.state = [0, 0]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.state = [0, 0]
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        steps, place = self.state
        self.state = [steps + 1, (place + int(action)) % _EPISODE_LENGTH]
        reward = float(action) / NUM_ACTIONS - 0.1 * place
        return self._observation(), reward, False, steps + 1 == _EPISODE_LENGTH, {}

    def set_state(self, state: list[int]) -> None:
        """Go to where another one stood."""
        self.state = [*state]

    def _observation(self) -> Any:
        place = self.state[1]
        if self.encoding == "state":
            return place
        if self.encoding == "digits":
            return np.full(_NUM_FEATURES, place)
        return np.full(_NUM_FEATURES, place / _EPISODE_LENGTH, np.float32)


_SPACES: dict[str, Callable[[], spaces.Space[Any]]] = {
    "state": lambda: spaces.Discrete(NUM_STATES),
    "digits": lambda: spaces.MultiDiscrete([11] * _NUM_FEATURES),
    "box": lambda: spaces.Box(-1, 1, (_NUM_FEATURES,), np.float32),
    "features": lambda: spaces.Box(-1, 1, (_NUM_FEATURES,), np.float32),
}


def _make_env(encoding: str, num_envs: int) -> VecEnv:
    return DummyVecEnv([lambda: _ToyEnv(encoding) for _ in range(num_envs)])
