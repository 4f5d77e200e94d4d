"""Every number of a study has a bound, which is an error with key, value and bound."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from pydantic.fields import FieldInfo

from spangym.envs import EnvConfig
from spangym.experiments.pilot.load_pilot_study import builtin_pilot_studies, parse_pilot_study
from spangym.experiments.pilot.pilot_study import (
    ModelConfig,
    PilotStudy,
    TextConfig,
    VariantConfig,
)
from spangym.experiments.pilot.synthetic_speech import SyntheticSpeechConfig
from spangym.experiments.studies.load_study import parse_study
from spangym.experiments.studies.study import EvalConfig, Study, StudyAgent, StudyEnv
from spangym.experiments.tuning.search_space import Distribution
from spangym.utils.errors import UserError
from spangym.utils.toml import parse_toml

from ..conftest import TINY

ROOT = Path(__file__).parents[3]
CLASSES = {
    "": Study,
    "evaluation.": EvalConfig,
    "agents.": StudyAgent,
    "environments.": StudyEnv,
    "environments.kwargs.": EnvConfig,
}
PILOT_CLASSES = {
    "": PilotStudy,
    "model.": ModelConfig,
    "variants.": VariantConfig,
    "text.": TextConfig,
    "speech.": SyntheticSpeechConfig,
}


def bounds_of(hint: Any) -> tuple[float, float] | None:
    """Lowest and highest value of a number's type; None for other types."""
    arguments = get_args(hint)
    if arguments and arguments[-1] is Ellipsis:
        return bounds_of(arguments[0])
    if tuple in [getattr(each, "__origin__", None) for each in arguments[:1]]:
        return bounds_of(arguments[0])
    if not hasattr(hint, "__metadata__"):
        return (0, 0) if hint in (int, float) else None
    if arguments[0] not in (int, float):
        return None
    metadata = []
    for each in arguments[1:]:
        metadata += each.metadata if isinstance(each, FieldInfo) else [each]
    low, high = (
        next(
            bound
            for each in reversed(metadata)
            for name in names
            if (bound := getattr(each, name, None)) is not None
        )
        for names in (("ge", "gt"), ("le", "lt"))
    )
    return low, high


def numbers_of(classes: dict[str, Any]) -> Iterator[tuple[str, float, float]]:
    for prefix, cls in classes.items():
        for name, hint in get_type_hints(cls, include_extras=True).items():
            bounds = bounds_of(hint)
            if bounds is not None:
                yield f"{prefix}{name}", *bounds


NUMBERS = [*numbers_of(CLASSES)]
PILOT_NUMBERS = [*numbers_of(PILOT_CLASSES)]


def test_every_number_has_both_bounds():
    assert len(NUMBERS) >= 20
    assert len(PILOT_NUMBERS) > 30
    for name, low, high in [*NUMBERS, *PILOT_NUMBERS]:
        assert low < high, name


def test_the_documentation_states_the_bounds():
    text = (ROOT / "docs" / "studies.md").read_text("utf-8")
    stated = dict(re.findall(r"^\| `([\w.]+)` \| (\S+ to \S+) \|$", text, re.MULTILINE))
    expected = {name: f"{shown(low)} to {shown(high)}" for name, low, high in NUMBERS}
    assert stated == expected


def shown(number: float) -> str:
    """A number as the documentation writes it.

    Example:
        >>> shown(2**20), shown(2**31 - 1), shown(10**10), shown(1e6)
        ('2^20', '2^31-1', '10^10', '10^6')
    """
    for base in (2, 10):
        for exponent in range(4, 64):
            if number == base**exponent:
                return f"{base}^{exponent}"
            if base == 2 and number == base**exponent - 1 and exponent > 16:
                return f"2^{exponent}-1"
    return f"{number:g}"


@pytest.mark.parametrize("value", ["100000000000000000000", "1e300", "-1", "inf", "nan", "true"])
@pytest.mark.parametrize(
    "key", ["total_timesteps", "n_envs", "evaluation.seed", "evaluation.episodes"]
)
def test_numbers_of_studies(key: str, value: str):
    *table, name = key.split(".")
    line = re.search(rf"^{name} = .*\n", TINY, re.MULTILINE)
    text = TINY.replace(line[0], "") if line else TINY
    changed = f"{name} = {value}\n"
    place = "[evaluation]\n" if table else ""
    text = text.replace(place, place + changed, 1)
    with pytest.raises(UserError, match=rf"tiny: key '{key}' must be") as caught:
        parse_study(text, "tiny")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["100000000000000000000", "-1", "inf"])
@pytest.mark.parametrize(
    "name", ["num_layers", "weights_seed", "cost_coef", "temp_scale", "max_dist", "pool"]
)
def test_arguments_of_environments(name: str, value: str):
    if name == "pool":
        text, key = TINY.replace("pool_groups = 2", f"pool_groups = {value}"), "pool_groups"
    else:
        text, key = TINY.replace("{ dims = 8", f"{{ {name} = {value}, dims = 8"), name
    with pytest.raises(UserError, match=rf"tiny: .*{key}.* got -?[\de.i]"):
        parse_study(text, "tiny")


@pytest.mark.parametrize("value", ["100000000000000000000", "-1e300", "inf", "nan", "[1, nan]"])
def test_hyperparameters(value: str):
    text = TINY.replace("{ gamma = 0.5 }", f"{{ policy_kwargs = {{ net_arch = {value} }} }}")
    with pytest.raises(UserError, match=r"hyperparameters': policy_kwargs\.net_arch must be"):
        parse_study(text, "tiny")


@pytest.mark.parametrize(
    ("space", "key"),
    [
        ("gamma = { low = 0, high = 100000000000000000000 }", "gamma.high"),
        ("gamma = { low = -inf, high = 1.0 }", "gamma.low"),
        ("gamma = { choices = [0, [1, nan]] }", "gamma.choices"),
    ],
)
def test_search_spaces(space: str, key: str):
    with pytest.raises(UserError, match=rf"space: key '{key}': number must be"):
        parse_toml(space, "space", dict[str, Distribution])


@pytest.mark.parametrize("value", ["100000000000000000000", "-1", "inf"])
@pytest.mark.parametrize(
    "key", ["updates", "learning_rate", "model.dims", "text.chunks", "speech.voices"]
)
def test_numbers_of_pilots(key: str, value: str):
    table, _, name = key.rpartition(".")
    text = re.sub(rf"^{name} = .*\n", "", builtin_pilot_studies()["text-quick"], flags=re.MULTILINE)
    changed = f"{name} = {value}\n"
    if not table:
        text = changed + text
    elif f"[{table}]\n" in text:
        text = text.replace(f"[{table}]\n", f"[{table}]\n{changed}")
    else:
        text += f"\n[{table}]\n{changed}"
    with pytest.raises(UserError, match=rf"quick: key '{key}' must be"):
        parse_pilot_study(text, "quick")


def test_integers_of_thousands_of_digits():
    with pytest.raises(UserError, match="4300"):
        parse_study(TINY.replace("total_timesteps = 64", f"total_timesteps = {'9' * 5000}"), "tiny")
