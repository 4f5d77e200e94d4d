from pathlib import Path

import pytest

from spangym.agents.registry import get_agent_spec
from spangym.experiments.studies.settings import with_nested
from spangym.experiments.tuning.search_space import (
    Distribution,
    builtin_search_spaces,
    flatten,
    load_search_space,
)
from spangym.utils.errors import UserError


@pytest.mark.parametrize("name", builtin_search_spaces())
def test_shipped_search_spaces_name_existing_options(name: str):
    search_space = load_search_space(name)
    get_agent_spec(name).check_options({each.partition(".")[0]: None for each in search_space})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gamma = 3", "'gamma'"),
        ("gamma = { low = 1.0 }", "low and high"),
        ("gamma = { low = 1.0, high = 0.5 }", "1.0 and 0.5"),
        ("gamma = { low = 0.0, high = 0.5, log = true }", "log .*above 0"),
        ("gamma = { low = 0.0, hgh = 0.5 }", "'gamma.hgh' .*'high'"),
    ],
)
def test_invalid_files(tmp_path: Path, text: str, message: str):
    path = tmp_path / "space.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"space\.toml.*{message}"):
        load_search_space(str(path))


def test_unknown_names():
    with pytest.raises(UserError, match=r"'dqm' .*'dqn'"):
        load_search_space("dqm")


def test_dotted_names_are_keys_of_tables():
    search_space = {"policy_kwargs.net_arch": Distribution(choices=([8], [16, 16]))}
    hyperparameters = {"gamma": 0.5, "policy_kwargs": {"net_arch": [8], "activation_fn": "ReLU"}}
    assert flatten(hyperparameters, search_space) == {"policy_kwargs.net_arch": [8]}
    changed = with_nested(hyperparameters, {"policy_kwargs.net_arch": [16, 16]})
    assert changed["policy_kwargs"] == {"net_arch": [16, 16], "activation_fn": "ReLU"}
    assert hyperparameters["policy_kwargs"] == {"net_arch": [8], "activation_fn": "ReLU"}


@pytest.mark.parametrize(
    ("distribution", "inside", "outside"),
    [
        (Distribution(choices=([8], [16, 16])), [16, 16], [16]),
        (Distribution(low=1, high=8), 8, 2.5),
        (Distribution(low=0.0, high=0.5), 0.25, float("nan")),
        (Distribution(low=0, high=1), 1, True),
    ],
)
def test_values_and_optuna(distribution: Distribution, inside: object, outside: object):
    assert distribution.contains(inside)
    assert not distribution.contains(outside)
    value = distribution.encode(inside)
    optuna_distribution = distribution.to_optuna()
    assert (
        optuna_distribution.to_external_repr(optuna_distribution.to_internal_repr(value)) == value
    )
    assert distribution.decode(value) == inside
