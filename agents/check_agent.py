"""check_agent: test whether a class can take part in a comparison."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from spangym.agents.agent_class import action_problem
from spangym.agents.base import Agent, is_resumable, notify_episode_start
from spangym.agents.registry import AgentSpec, get_agent_spec, spec_from_class
from spangym.agents.tabular.controller_agent import TabularAgent
from spangym.attention import NUM_ACTIONS
from spangym.attention.features import NUM_STATES
from spangym.utils.errors import describe_error
from spangym.utils.serialization import from_bytes, to_bytes

_EPISODE_LENGTH = 8
_NUM_FEATURES = 6
_STEPS = 512
_NUM_ENVS = 4


def check_agent(agent: str | type[Any], **options: Any) -> list[str]:
    """Test an agent in a small environment: training, determinism, storage and resumption.

    Args:
        agent: Class, or name as for `spangym.agents.get_agent_spec`.
        options: Options of the agent.

    Returns:
        Optional features that the agent lacks.

    Raises:
        ValueError: The agent does not conform; the message has one line per problem.

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
    if not isinstance(agent, str | type):
        raise ValueError(f"agent must be a name or a class, got an object: {type(agent).__name__}")
    name = agent if isinstance(agent, str) else agent.__name__
    try:
        spec = get_agent_spec(agent) if isinstance(agent, str) else spec_from_class(name, agent)
        spec.check_options(options)
    except ValueError as error:
        raise ValueError(f"{name} does not conform:\n- {error}") from error
    check = _Check(spec, options)
    check.run()
    if check.problems:
        lines = "\n".join(f"- {each}" for each in dict.fromkeys(check.problems))
        raise ValueError(f"{name} does not conform:\n{lines}")
    return check.notes


class _Check:
    def __init__(self, spec: AgentSpec, options: dict[str, Any]) -> None:
        self.spec = spec
        self.options = options
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.num_actions, self.num_states = NUM_ACTIONS, NUM_STATES

    def run(self) -> None:
        for num_envs in (1, _NUM_ENVS):
            with self._catch(f"learning in {num_envs} environment(s)"):
                agent = self._train(num_envs)
        if self.problems:
            return
        with self._catch("predicting"):
            actions = self._rollout(agent)
        if self.problems:
            return
        with self._catch("learning again from the same seed"):
            if self._rollout(self._train(_NUM_ENVS)) != actions:
                hint = "take an argument `seed`, or draw from the seeded global generators"
                raise _Problem(f"equal seeds give different agents: {hint}")
        with self._catch("saving and loading"):
            self._check_storage(agent, actions)
        with self._catch("resuming from state_dict()"):
            self._check_resuming(actions)

    @contextlib.contextmanager
    def _catch(self, activity: str) -> Iterator[None]:
        try:
            yield
        except _Problem as problem:
            self.problems.append(str(problem))
        except Exception as error:
            self.problems.append(f"{activity} fails: {describe_error(error)}")

    def _make(self) -> Agent:
        set_random_seed(0)
        try:
            agent = self.spec.make(seed=0, **self.options)
        except Exception as error:
            problem = describe_error(error)
            given = self.options or "no options"
            raise _Problem(f"construction with {given} fails: {problem}") from error
        if isinstance(agent, TabularAgent):
            vars(self).update(agent.env_counts)
        return agent

    def _make_env(self, num_envs: int) -> _ToyVecEnv:
        return _ToyVecEnv(self.spec, num_envs, self.num_actions, self.num_states)

    def _train(self, num_envs: int) -> Agent:
        agent, env = self._make(), self._make_env(num_envs)
        agent.learn(env, _STEPS)
        if env.steps != _STEPS:
            took = f"took {env.steps} of {_STEPS} steps in {num_envs} environment(s)"
            raise _Problem(f"learn(env, steps) {took}")
        return agent

    def _rollout(self, agent: Agent) -> list[int]:
        """Return the actions of two episodes."""
        env, actions = self._make_env(_NUM_ENVS), []
        observations = np.asarray(env.reset())
        notify_episode_start(agent, env)
        for _ in range(2 * _EPISODE_LENGTH):
            before = observations.copy()
            chosen = np.asarray(agent.predict(observations))
            if not np.array_equal(before, observations):
                raise _Problem("predict(observations) changes the observations")
            observations = np.asarray(env.step(chosen)[0])
            actions += chosen.tolist()
        return actions

    def _check_storage(self, agent: Agent, actions: list[int]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            agent.save(Path(folder, "agent"))
            if not any(Path(folder).iterdir()):
                self.notes.append("the agent cannot be stored: it has no save(path)")
                return
            loaded = self._make()
            loaded.load(Path(folder, "agent"))
        # A controller that draws its actions need not store its generator.
        repeated, restored = self._rollout(agent), self._rollout(loaded)
        if repeated == actions and restored != actions:
            raise _Problem("the saved and loaded agent chooses other actions")

    def _check_resuming(self, actions: list[int]) -> None:
        interrupted, env = self._make(), self._make_env(_NUM_ENVS)
        if not is_resumable(interrupted):
            missing = "state_dict() and load_state_dict(state_dict)"
            self.notes.append(f"an interrupted training starts over: it has no {missing}")
            return
        checkpoints: list[bytes] = []

        def checkpoint_callback(last: bool) -> None:
            if not last and len(checkpoints) < 2:
                checkpoints.append(to_bytes([interrupted.state_dict(), env.get_attr("state")]))

        interrupted.learn(env, _STEPS, checkpoint_callback)
        if not checkpoints:
            return
        state, env_states = from_bytes(checkpoints[-1])
        resumed = self._make()
        assert is_resumable(resumed)
        env = self._make_env(_NUM_ENVS)
        for index, env_state in enumerate(env_states):
            env.set_attr("state", env_state, indices=index)
        resumed.load_state_dict(state)
        resumed.learn(env, _STEPS)
        if self._rollout(resumed) != actions:
            raise _Problem("a training resumed from state_dict() gives another agent")


class _Problem(Exception):  # noqa: N818
    """A line of the error message."""


class _ToyVecEnv(DummyVecEnv):
    """Counts steps and checks actions."""

    def __init__(self, spec: AgentSpec, num_envs: int, num_actions: int, num_states: int) -> None:
        arguments = (spec.encoding, num_actions, num_states)
        super().__init__([lambda: _ToyEnv(*arguments) for _ in range(num_envs)])
        self.num_actions = num_actions
        observes_state = spec.encoding == "state"
        self.method = "choose_action(state)" if observes_state else "predict(observations)"
        self.steps = 0
        self._last_observations: list[Any] = []

    def output_observations(self) -> NDArray[Any]:
        """Return what the last actions led to, also at the end of an episode."""
        return np.array(self._last_observations)

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = super().step_wait()
        self._last_observations = [
            info.get("terminal_observation", row)
            for info, row in zip(infos, np.asarray(observations), strict=True)
        ]
        return observations, rewards, dones, infos

    def step_async(self, actions: NDArray[Any]) -> None:
        if problem := action_problem(self.method, actions, self.num_envs, self.num_actions):
            raise _Problem(problem)
        self.steps += self.num_envs
        super().step_async(actions)


class _ToyEnv(gym.Env[Any, np.int64]):
    """Rewards long spans; the observation is the place, which actions move."""

    def __init__(self, encoding: str, num_actions: int, num_states: int) -> None:
        self.encoding = encoding
        self.num_ids = num_states - 1
        self.num_actions = num_actions
        self.action_space = spaces.Discrete(num_actions)
        self.observation_space = {
            "state": spaces.Discrete(self.num_ids),
            "digits": spaces.MultiDiscrete([11] * _NUM_FEATURES),
        }.get(encoding, spaces.Box(-1, 1, (_NUM_FEATURES,), np.float32))
        self.state = [0, 0]
        """Steps of the episode, and place."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.state = [0, 0]
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        steps, place = self.state
        self.state = [steps + 1, (place + int(action)) % _EPISODE_LENGTH]
        reward = float(action) / self.num_actions - 0.1 * place
        return self._observation(), reward, False, steps + 1 == _EPISODE_LENGTH, {}

    def _observation(self) -> Any:
        place = self.state[1]
        if self.encoding == "state":
            return place % self.num_ids
        digits = np.full(_NUM_FEATURES, place)
        return (
            digits if self.encoding == "digits" else (digits / _EPISODE_LENGTH).astype(np.float32)
        )
