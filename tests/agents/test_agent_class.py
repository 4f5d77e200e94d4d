"""Wrong classes of a user's are refused with the method and its line, before anything runs."""

import abc
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from spangym.agents import Refiner, SB3Agent, check_agent
from spangym.agents.agent_class import AGENT, REFINER, action_problem, find_role
from spangym.agents.baselines.constant import FixedSpanPolicy, RandomPolicy
from spangym.agents.baselines.content_oracle import ContentOracleAgent
from spangym.agents.baselines.learned_span import LearnedSpanAgent
from spangym.agents.registry import spec_from_class
from spangym.agents.tabular.controller_agent import TabularAgent
from spangym.agents.tabular.kmeans_agent import KMeansQAgent

Class = type[Any]


class Chooses:
    """A correct refiner."""

    def choose_action(self, state: int) -> int:
        return state % 10

    def update(self, state: int, action: int, reward: float, next_state: int) -> None: ...


class Plays:
    """A correct agent."""

    def learn(self, env: Any, steps: int) -> None:
        env.reset()
        for _ in range(steps // env.num_envs):
            env.step(np.zeros(env.num_envs, int))

    def predict(self, observations: Any) -> Any:
        return np.zeros(len(observations), int)

    def save(self, path: Any) -> None: ...

    def load(self, path: Any) -> None: ...


ALL_METHODS = [(Chooses, each) for each in (*REFINER.methods, *REFINER.optional)]
ALL_METHODS += [(Plays, each) for each in (*AGENT.methods, *AGENT.optional)]


def with_method(base: Class, name: str, value: Any) -> Class:
    """A class with a wrong method, and the other methods of its pair."""
    pairs = {"save": "load", "load": "save"}
    pairs |= {"state_dict": "load_state_dict", "load_state_dict": "state_dict"}
    other = {pairs[name]: lambda self, *_: self} if name in pairs else {}
    return type("Mine", (base,), {**other, name: value})


async def waits(self: Any, *_: Any) -> Any:
    return self


def yields(self: Any, *_: Any) -> Iterator[Any]:
    yield self


def takes_six(self: Any, one: Any, two: Any, three: Any, four: Any, five: Any, six: Any) -> Any: ...


def takes_none() -> Any: ...


WRONG: dict[str, tuple[Any, Callable[..., Any] | None, str]] = {
    "property": (property(yields), yields, "property"),
    "async": (waits, waits, "async"),
    "generator": (yields, yields, "generator"),
    "many": (takes_six, takes_six, "missing a required argument"),
    "none": (takes_none, takes_none, "too many positional"),
    "static": (staticmethod(takes_none), takes_none, "too many positional"),
    "class": (classmethod(takes_six), takes_six, "missing a required argument"),
    "value": (3, None, "of type int"),
}


@pytest.mark.parametrize(
    ("base", "name", "wrong"),
    [
        (base, name, wrong)
        for base, name in ALL_METHODS
        for wrong in WRONG
        if (name, wrong) != ("state_dict", "static")
    ],
)
def test_wrong_methods(base: Class, name: str, wrong: str):
    value, function, message = WRONG[wrong]
    cls = with_method(base, name, value)
    with pytest.raises(ValueError, match=rf"Mine\.{name} .*{message}") as caught:
        find_role("mine", cls)
    if function is not None:
        line = inspect.getsourcelines(function)[1]
        assert f"test_agent_class.py:{line}: Mine.{name}" in str(caught.value)
    with pytest.raises(ValueError, match=rf"does not conform:\n- .*Mine\.{name} .*{message}"):
        check_agent(cls)


@pytest.mark.parametrize(
    ("base", "name", "lacking"),
    [
        (Chooses, "save", r"load\(path\)"),
        (Chooses, "load", r"save\(path\)"),
        (Chooses, "state_dict", r"load_state_dict\(state_dict\)"),
        (Chooses, "load_state_dict", r"state_dict\(\)"),
    ],
)
def test_halves_of_pairs(base: Class, name: str, lacking: str):
    cls = type("Mine", (base,), {name: waits})
    line = inspect.getsourcelines(waits)[1]
    with pytest.raises(ValueError, match=rf"py:{line}: Mine has {name}\(.*\) but no {lacking}"):
        find_role("mine", cls)


@pytest.mark.parametrize(("role", "base"), [(REFINER, Chooses), (AGENT, Plays)])
def test_missing_methods(role: Any, base: Class):
    for name in role.methods:
        rest = {each: vars(base)[each] for each in role.methods if each != name}
        with pytest.raises(
            ValueError, match=rf"Mine has .*no (method )?{name}\(.*{role.name} needs"
        ):
            find_role("mine", type("Mine", (), rest))


def resumable(**changes: Any) -> Class:
    def learn(self: Any, env: Any, steps: int, checkpoint_callback: Any = None) -> None: ...
    def state_dict(self: Any) -> Any: ...
    def load_state_dict(self: Any, state_dict: Any) -> None: ...

    methods = {"learn": learn, "state_dict": state_dict, "load_state_dict": load_state_dict}
    content = {"resumable": property(lambda _: True), **methods, **changes}
    kept = {name: value for name, value in content.items() if value is not None}
    return type("Mine", (Plays,), kept)


def test_resumable_agents():
    assert find_role("mine", resumable()) is AGENT
    assert find_role("mine", resumable(resumable=True)) is AGENT
    assert find_role("mine", resumable(resumable=False, state_dict=None)) is AGENT
    for changes, message in (
        ({"resumable": waits}, "resumable is a method: it must be a property"),
        ({"learn": Plays.learn}, r"learn must take \(env, steps, checkpoint_callback\)"),
        ({"state_dict": None}, r"has load_state_dict\(state_dict\) but no state_dict\(\)"),
        ({"load_state_dict": None}, r"has state_dict\(\) but no load_state_dict"),
        ({"load_state_dict": None, "state_dict": None}, r"no method state_dict\(\)"),
    ):
        with pytest.raises(ValueError, match=f"Mine.*{message}"):
            find_role("mine", resumable(**changes))


def test_encodings():
    assert (
        spec_from_class("mine", type("Mine", (Plays,), {"encoding": "digits"})).encoding == "digits"
    )
    with pytest.raises(ValueError, match=r"Mine\.encoding 'digit' is unknown.*'digits'"):
        spec_from_class("mine", type("Mine", (Plays,), {"encoding": "digit"}))
    with pytest.raises(ValueError, match=r"Mine\.encoding <property.* is unknown.*digits"):
        spec_from_class("mine", type("Mine", (Plays,), {"encoding": property(waits)}))


def test_abstract_classes():
    class Mine(Chooses, abc.ABC):
        @abc.abstractmethod
        def rate(self) -> float: ...

    with pytest.raises(ValueError, match="Mine is abstract: it does not define rate"):
        find_role("mine", Mine)


@pytest.mark.parametrize("given", [Chooses(), Plays(), Refiner(), partial(Refiner, alpha=0.1)])
def test_objects_instead_of_classes(given: Any):
    with pytest.raises(ValueError, match=f"got an object: {type(given).__name__}"):
        check_agent(given)


def test_complete_classes_may_have_methods_of_the_other_role():
    assert find_role("mine", type("Mine", (Plays,), {"choose_action": yields})) is AGENT
    assert find_role("mine", type("Mine", (Chooses,), {"predict": yields})) is REFINER


BUILTIN = (
    *(FixedSpanPolicy, RandomPolicy, ContentOracleAgent, LearnedSpanAgent),
    *(SB3Agent, TabularAgent, KMeansQAgent),
)


@pytest.mark.parametrize("cls", BUILTIN)
def test_builtin_agents_have_all_methods(cls: Class):
    assert find_role("builtin", cls) is AGENT


def test_builtin_refiners_have_all_methods():
    assert find_role("builtin", Refiner) is REFINER


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([3, 11], "gave 11"),
        ([3, -1], "gave -1"),
        ([3.0, 1.0], "gave 3.0"),
        ([[3], [1]], r"shape \(2, 1\) for 2"),
        ([3], r"shape \(1,\) for 2"),
        (None, r"shape \(\) for 2"),
        ([[3], [1, 2]], "no array"),
        (["3", "1"], "gave '3'"),
    ],
)
def test_wrong_actions(actions: Any, message: str):
    assert action_problem("predict(observations)", [3, 9], 2) == ""
    problem = action_problem("predict(observations)", actions, 2)
    assert problem.startswith("predict(observations) gave ")
    with pytest.raises(ValueError, match=message):
        raise ValueError(problem)
