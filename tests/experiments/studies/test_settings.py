"""Settings, ``KEY=VALUE``, of studies and pilots."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from spangym.experiments.pilot.load_pilot_study import override_pilot_study
from spangym.experiments.studies.field_types import expand_seeds
from spangym.experiments.studies.load_study import (
    builtin_studies,
    load_study,
    override_study,
    parse_study,
)
from spangym.experiments.studies.settings import parse_settings
from spangym.experiments.studies.study import Study
from spangym.utils.errors import UserError
from tests.factories import tiny_pilot_study

from ..conftest import TINY


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 1e-3),
        ("true", True),
        ("True", "True"),
        ("task", "task"),
        ("two words", "two words"),
        ("my_rewards:Mine", "my_rewards:Mine"),
        ("'3'", "3"),
        ("[64, 64]", [64, 64]),
        ("{ a = [1], b = 'x' }", {"a": [1], "b": "x"}),
        ("a=b", "a=b"),
        ("2026-01-31", "2026-01-31"),
        ("1\nb = 2", "1\nb = 2"),
        ("", ""),
    ],
)
def test_values_are_toml_or_bare_words(text: str, value: object):
    (parsed,) = parse_settings([f"my.module:Class.key={text}"]).values()
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("words", [["ctx"], ["=3"], ["ctx=1", "ctx=2"], ["a=[1"], ['a="x'], [""]])
def test_settings_that_cannot_be_read(words: list[str]):
    with pytest.raises(UserError) as caught:
        parse_settings(words)
    assert repr(words[-1].partition("=")[0]) in str(caught.value) or words[-1] in str(caught.value)


def test_settings_reach_agents_environments_and_the_study(tiny: Study):
    settings = {
        "dqn.gamma": 0.25,
        "dqn.policy_kwargs.net_arch": [8, 8],
        "dqn.pool_groups": 4,
        "pooled.epsilon": np.float64(0.2),
        "cost_coef": 0.5,
        "reward_kwargs.entropy_weight": 0.2,
        "SpanControl-v0.ctx": 32,
        "evaluation.episodes": 3,
        "n_envs": 2,
        "seeds": 3,
        "name": "my study",
    }
    changed = override_study(tiny, settings=settings)
    pooled, dqn = changed.agents
    expected = {"gamma": 0.25, "policy_kwargs": {"net_arch": [8, 8]}}
    assert (dqn.hyperparameters, dqn.pool_groups) == (expected, 4)
    assert pooled.hyperparameters == {"epsilon": 0.2}
    kwargs = changed.environments[0].kwargs
    assert (kwargs["cost_coef"], kwargs["ctx"], kwargs["dims"]) == (0.5, 32, 8)
    assert kwargs["reward_kwargs"] == {"entropy_weight": 0.2}
    assert (changed.evaluation.episodes, changed.n_envs) == (3, 2)
    assert (changed.seeds, changed.name, changed.slug) == ((0, 1, 2), "my study", "my-study")
    assert parse_study(changed.to_toml(), "again") == changed


@pytest.mark.parametrize("name", builtin_studies())
def test_a_setting_without_change_gives_the_same_study(name: str):
    study = load_study(name)
    assert override_study(study, settings={"name": study.name}) == study


def test_names_of_agents_may_contain_dots_and_colons(tiny: Study):
    name = "stable_baselines3.dqn:DQN"
    study = override_study(tiny, agents=[name, "dqn"], settings={f"{name}.gamma": 0.125})
    assert [each.hyperparameters["gamma"] for each in study.agents] == [0.125, 0.5]
    renamed = replace(study, agents=(replace(study.agents[0], name="dqn.v2"), study.agents[1]))
    changed = override_study(renamed, settings={"dqn.v2.gamma": 0.75, "dqn.gamma": 0.25})
    assert [each.hyperparameters["gamma"] for each in changed.agents] == [0.75, 0.25]


def test_a_setting_of_one_environment_has_precedence(tiny: Study):
    other = replace(tiny.environments[0], name="other")
    study = replace(tiny, environments=(*tiny.environments, other))
    changed = override_study(study, settings={"other.ctx": 64, "ctx": 32})
    assert [each.kwargs["ctx"] for each in changed.environments] == [32, 64]
    by_id = override_study(study, settings={"spangym/SpanControl-v0.ctx": 64})
    assert [each.kwargs["ctx"] for each in by_id.environments] == [64, 64]


def test_values_that_follow_from_others_are_not_in_the_way(tiny: Study):
    focus = override_study(tiny, settings={"layer_class": "focus"})
    trained = override_study(load_study("quickstart"), settings={"checkpoint": "long-range"})
    assert focus.environments[0].kwargs["layer_class"] == "focus"
    assert (trained.environments[0].kwargs["dims"], trained.environments[0].kwargs["ctx"]) == (
        32,
        128,
    )
    states = override_study(tiny, settings={"pooled.states": 100})
    assert states.agents[0].num_states == 100
    again = override_study(states, settings={"pooled.states": 200})
    assert again.agents[0].num_states == 200


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dqn.gama": 1}, ["'dqn.gama'", "'dqn.gamma'"]),
        ({"gamma": 1}, ["'gamma'", "'dqn.gamma'"]),
        ({"dqm.gamma": 1}, ["'dqm.gamma'", "'dqn.gamma'"]),
        ({"ctxx": 1}, ["'ctxx'", "'ctx'"]),
        ({"Spancontrol-v0.ctx": 1}, ["'SpanControl-v0.ctx'"]),
        ({"evaluation.episode": 1}, ["'evaluation.episodes'"]),
        ({"fixed:3.x": 1}, ["'fixed:3.x'", "dqn.OPTION", "evaluation.KEY"]),
        ({"dqn": 1}, ["'dqn'"]),
        ({"dqn.": 1}, ["'dqn.'"]),
        ({"encoding": "box"}, ["'dqn.encoding'"]),
        ({"ctx": "many"}, ["ctx", "integer", "'many'"]),
        ({"ctx": 0}, ["ctx", "1..1048576", "got 0"]),
        ({"dqn.pool_groups": "two"}, ["'dqn.pool_groups'", "integer", "'two'"]),
        ({"pooled.epsilon": "high"}, ["epsilon", "number", "'high'"]),
        ({"n_envs": 0}, ["'n_envs'", "at least 1", "got 0"]),
        ({"evaluation.split": "trin"}, ["'evaluation.split'", "did you mean 'train'"]),
        ({"reward": object()}, ["'reward'", "object"]),
        ({"seeds": "0-9"}, ["'seeds'", "'0-9'"]),
        ({"seeds": 0}, ["seeds", "1..10000"]),
        ({"total_timesteps": 8}, ["total_timesteps", "twice"]),
        (
            {"SpanControl-v0.ctx": 8, "spangym/SpanControl-v0.ctx": 8},
            ["'SpanControl-v0.ctx'", "same value"],
        ),
    ],
)
def test_wrong_settings_are_named(tiny: Study, settings: dict[str, Any], words: list[str]):
    with pytest.raises(UserError) as caught:
        override_study(tiny, total_timesteps=64, settings=settings)
    assert [word for word in words if word not in str(caught.value)] == []


def test_settings_of_pilots():
    study = tiny_pilot_study()
    settings = {
        "batch": 6,
        "model.dims": 32,
        "text.ctx": 48,
        "learned-span.cost_coef": 0.5,
        "dqn-online.agent.batch_size": 12,
        "refiner.agent.epsilon": 0.5,
    }
    changed = override_pilot_study(study, seeds=[4, 2], settings=settings)
    by_name = {each.name: each for each in changed.variants}
    assert (changed.batch, changed.model.dims, changed.text.ctx) == (6, 32, 48)
    assert changed.seeds == (4, 2)
    assert by_name["learned-span"].cost_coef == 0.5
    dqn, refiner = by_name["dqn-online"].agent, by_name["refiner"].agent
    assert dqn is not None
    assert dqn.hyperparameters["batch_size"] == 12
    assert refiner is not None
    assert refiner.hyperparameters == {"epsilon": 0.5}
    with pytest.raises(UserError, match=r"'modl\.dims' .*'model\.dims'"):
        override_pilot_study(study, settings={"modl.dims": 8})
    with pytest.raises(UserError, match="updates is given twice"):
        override_pilot_study(study, updates=4, settings={"updates": 4})
    with pytest.raises(UserError, match=r"model\.dims.* must be at least 1"):
        override_pilot_study(study, settings={"model.dims": 0})


def test_expand_seeds():
    assert expand_seeds(2) == (0, 1)
    assert expand_seeds([5]) == (5,)
    for wrong in (0, 10**5, [-1], [2**31]):
        with pytest.raises(ValueError, match="seed"):
            expand_seeds(wrong)


def test_seeds_of_a_file_may_be_their_number():
    study = parse_study(TINY.replace("seeds = [0, 1]", "seeds = 3"), "tiny")
    assert study.seeds == (0, 1, 2)
    for wrong in ("0", "true", "[]", "'x'", "1.5"):
        with pytest.raises(UserError, match="key 'seeds'"):
            parse_study(TINY.replace("[0, 1]", wrong), "tiny")
