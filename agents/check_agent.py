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

from spangym.agents.base import Agent, begin, is_resumable
from spangym.agents.registry import AgentKind, find_agent, kind_of_class
from spangym.attention import ACTIONS
from spangym.attention.features import STATES
from spangym.utils.serialization import from_bytes, to_bytes

_EPISODE = 8
_NUMBERS = 6
_STEPS = 512
_LANES = 4


def check_agent(agent: str | type[Any], **options: Any) -> list[str]:
    """Check that a class can be compared, and say in words what is missing.

    It is made and made to learn in a small environment of the check's own, in one lane and in
    several, decides, is stored and read back, and learns once more from the same seed.

    Args:
        agent: A class, or a name as `spangym.agents.find_agent` takes it.
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
        name, kind = agent, find_agent(agent)
    else:
        name = agent.__name__
        try:
            kind = kind_of_class(name, agent)
        except ValueError as error:
            raise ValueError(f"{name} does not conform:\n- {error}") from error
    check = _Check(kind, options)
    check.run()
    if check.problems:
        listed = "\n".join(f"- {each}" for each in dict.fromkeys(check.problems))
        raise ValueError(f"{name} does not conform:\n{listed}")
    return check.remarks


class _Check:
    def __init__(self, kind: AgentKind, options: dict[str, Any]) -> None:
        self.kind = kind
        self.options = options
        self.problems: list[str] = []
        self.remarks: list[str] = []

    def run(self) -> None:
        """Look at one thing after another; what cannot go on ends here."""
        try:
            self.kind.check_options(self.options)
        except ValueError as error:
            self.problems.append(str(error))
            return
        trained = [self._trained(lanes) for lanes in (1, _LANES)]
        if None in trained or self.problems:
            return
        one = trained[1]
        assert one is not None
        decided = self._decided(one)
        if decided is None:
            return
        if self._decided(self._trained(_LANES)) != decided:
            self.problems.append(
                "from the same seed it learns something else each time: take an argument `seed`, "
                "or draw from the global generators, which are seeded"
            )
        self._check_storing(one, decided)
        self._check_resuming(decided)

    def _make(self) -> Agent | None:
        set_random_seed(0)
        try:
            return self.kind.make(seed=0, **self.options)
        except Exception as error:
            self.problems.append(
                f"it cannot be made with {self.options or 'no options'}: "
                f"{type(error).__name__}: {error}"
            )
        return None

    def _trained(self, lanes: int) -> Agent | None:
        agent = self._make()
        if agent is None:
            return None
        env = _Counting(_make_env(self.kind.encoding, lanes))
        try:
            agent.learn(env, _STEPS)
        except _Complaint as complaint:
            self.problems.append(self._in_its_words(str(complaint)))
        except Exception as error:
            self.problems.append(self._fails("learning", lanes, error))
        else:
            if env.steps != _STEPS:
                self.problems.append(
                    f"learn(env, steps) took {env.steps} of {_STEPS} steps in {lanes} lane(s)"
                )
            return agent
        return None

    def _decided(self, agent: Agent | None) -> list[int] | None:
        """What it decides in some observations; None if it does so wrongly."""
        if agent is None:
            return None
        env = _Counting(_make_env(self.kind.encoding, _LANES))
        env.seed(9)
        observations, chosen = np.asarray(env.reset()), []
        begin(agent, env)
        for _ in range(2 * _EPISODE):
            before = observations.copy()
            try:
                actions = np.asarray(agent.predict(observations))
                if not np.array_equal(before, observations):
                    raise _Complaint("predict(observations) changes the observations")
                _check_actions(actions, _LANES)
            except _Complaint as complaint:
                self.problems.append(self._in_its_words(str(complaint)))
                return None
            except Exception as error:
                self.problems.append(self._fails("deciding", _LANES, error))
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
                    self.remarks.append("nothing of it is stored: it has no save(path)")
                    return
                fresh.load(path)
            except Exception as error:
                self.problems.append(self._fails("saving and loading", _LANES, error))
                return
        # What a controller draws is not part of what it has learnt.
        again = [self._decided(each) for each in (agent, fresh)]
        if again[0] == decided and again[1] != decided:
            self.problems.append("saved and loaded it decides otherwise than before")

    def _check_resuming(self, decided: list[int]) -> None:
        agent = self._make()
        assert agent is not None
        if not is_resumable(agent):
            self.remarks.append(
                "a training that is interrupted begins anew: it has no state_dict() and "
                "load_state_dict(state_dict)"
            )
            return
        env = _make_env(self.kind.encoding, _LANES)
        kept: list[bytes] = []

        def at_rest(last: bool) -> None:
            if not last and len(kept) < 2:
                kept[:] = [*kept, to_bytes([agent.state_dict(), env.get_attr("state")])]

        try:
            agent.learn(env, _STEPS, at_rest)
            if not kept:
                return
            state, places = from_bytes(kept[-1])
            fresh = self._make()
            assert fresh is not None
            assert is_resumable(fresh)
            again = _make_env(self.kind.encoding, _LANES)
            for lane, place in enumerate(places):
                again.env_method("put", place, indices=lane)
            fresh.load_state_dict(state)
            fresh.learn(again, _STEPS)
        except Exception as error:
            self.problems.append(self._fails("going on from state_dict()", _LANES, error))
            return
        if self._decided(fresh) != decided:
            self.problems.append("gone on with from state_dict() it learns something else")

    def _fails(self, doing: str, lanes: int, error: Exception) -> str:
        return f"{doing} in {lanes} lane(s) fails: {type(error).__name__}: {error}"

    def _in_its_words(self, complaint: str) -> str:
        """What is wrong, of the method that the class has."""
        if self.kind.encoding == "state":
            return complaint.replace("predict(observations)", "choose_action(state)")
        return complaint


class _Complaint(Exception):  # noqa: N818
    """What is wrong, in words."""


def _check_actions(actions: NDArray[Any], lanes: int) -> None:
    if actions.shape != (lanes,):
        raise _Complaint(
            f"predict(observations) gave shape {actions.shape} for {lanes} lanes: it must be "
            "one action a lane"
        )
    for action in actions.tolist():
        if not isinstance(action, int) or not 0 <= action < ACTIONS:
            raise _Complaint(
                f"predict(observations) gave {action!r}: an action is an integer in "
                f"0..{ACTIONS - 1}"
            )


class _Counting(VecEnvWrapper):
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


class _Corridor(gym.Env[Any, np.int64]):
    """Longer spans earn more, and where one stands tells how far; episodes of eight steps."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.action_space = spaces.Discrete(ACTIONS)
        self.observation_space = _SPACES[encoding]()
        self.state = [0, 0]

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.state = [0, 0]
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        steps, place = self.state
        self.state = [steps + 1, (place + int(action)) % _EPISODE]
        reward = float(action) / ACTIONS - 0.1 * place
        return self._observation(), reward, False, steps + 1 == _EPISODE, {}

    def put(self, state: list[int]) -> None:
        """Go to where another one stood."""
        self.state = [*state]

    def _observation(self) -> Any:
        place = self.state[1]
        if self.encoding == "state":
            return place
        if self.encoding == "digits":
            return np.full(_NUMBERS, place)
        return np.full(_NUMBERS, place / _EPISODE, np.float32)


_SPACES: dict[str, Callable[[], spaces.Space[Any]]] = {
    "state": lambda: spaces.Discrete(STATES),
    "digits": lambda: spaces.MultiDiscrete([11] * _NUMBERS),
    "box": lambda: spaces.Box(-1, 1, (_NUMBERS,), np.float32),
    "features": lambda: spaces.Box(-1, 1, (_NUMBERS,), np.float32),
}


def _make_env(encoding: str, lanes: int) -> VecEnv:
    return DummyVecEnv([lambda: _Corridor(encoding) for _ in range(lanes)])
