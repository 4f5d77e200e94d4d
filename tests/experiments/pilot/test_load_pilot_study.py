from pathlib import Path

import pytest

from spangym.experiments.pilot.load_pilot_study import (
    builtin_pilot_studies,
    load_pilot_study,
    normalize_pilot_study,
    override_pilot_study,
    parse_pilot_study,
)
from spangym.utils.errors import UserError
from tests.factories import TINY_PILOT, tiny_pilot_study


def test_a_plan_survives_toml():
    study = tiny_pilot_study()
    assert normalize_pilot_study(parse_pilot_study(study.to_toml(), "again")) == study


@pytest.mark.parametrize("name", builtin_pilot_studies())
def test_shipped_plans_can_be_run(name: str):
    study = load_pilot_study(name)
    assert study.name == name
    assert name.startswith(study.task)
    assert study.variants[0].attention == "standard"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("updates = 12", "updatez = 12", "'updatez' .* 'updates'"),
        ("dims = 16", "dim = 16", "'model.dim' .* 'dims'"),
        ("chunks = 2", "chunk = 2", "'text.chunk' .* 'chunks'"),
        (
            'temperature_law = "shorter"',
            'temperature_lw = "shorter"',
            "did you mean 'temperature_law'",
        ),
        (
            "random_span_fraction = 0.34",
            "random_span_fraction = 1.0",
            "'random_span_fraction' must be below 1",
        ),
        (
            'algo = "refiner" }',
            'algo = "oracle" }',
            "oracle",
        ),
        ('algo = "refiner" }', 'algo = "ars" }', "ars .* learns = 'environment'"),
        ("updates = 12", "updates = 13", "updates .* 2 chunks"),
        ("evaluations = 2", "evaluations = 7", "evaluations .* 6, got 7"),
        ('name = "standard-4h"', 'name = "Standard"', "variants"),
        ("hidden = 96", "hidden = 1", "raise hidden"),
        ("heads = 2\n", "heads = 3\n", "head must divide dims"),
        ('"refiner" }', '"refinr" }', "'refinr' .* 'refiner'"),
        (
            'attention = "integrated"\nagent',
            'attention = "hybrid"\nagent',
            "not hybrid",
        ),
        (
            'temperature_law = "shorter"',
            "soft_span = true\ncost_coef = -1.0",
            "cost_coef.* 0",
        ),
        ('attention = "original"', 'attention = "original"\nsoft_span = true', "soft_span is not"),
        ("evaluation_streams = 2", 'dataset = "nowhere"', "nowhere"),
        ('task = "text"', 'task = "text"\ndevice = "tpu"', "'tpu'"),
    ],
)
def test_what_is_wrong_is_said(old: str, new: str, message: str):
    assert old in TINY_PILOT
    with pytest.raises(UserError, match=message):
        normalize_pilot_study(parse_pilot_study(TINY_PILOT.replace(old, new, 1), "tiny.toml"))


def test_plans_are_changed_from_the_command_line(tmp_path: Path):
    study = override_pilot_study(
        tiny_pilot_study(), seeds=2, updates=3, variants=["refiner"], data=tmp_path
    )
    # The baseline stays; updates come in whole streams.
    assert [each.name for each in study.variants] == ["standard", "refiner"]
    assert (study.seeds, study.updates, study.evaluations) == ((0, 1), 4, 2)
    assert study.text.dataset == str(tmp_path)
    with pytest.raises(UserError, match=r"'refinr'.* 'refiner'"):
        override_pilot_study(study, variants=["refinr"])


def test_plans_are_of_a_task(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(TINY_PILOT)
    assert load_pilot_study(str(path), "text").name == "tiny"
    with pytest.raises(UserError, match="`spangym pilot text"):
        load_pilot_study(str(path), "speech")
    with pytest.raises(UserError, match="'nothing'"):
        load_pilot_study("nothing", "speech")


def test_only_two_path_attention_has_another_global_path():
    for attention in ("standard", "original"):
        variant = f'[[variants]]\nname = "x"\nattention = "{attention}"\nglobal_path = "none"'
        with pytest.raises(UserError, match=f"'x': global_path .*'full' for {attention}"):
            parse_pilot_study(TINY_PILOT + variant, "tiny")


def test_laws_and_agents_are_told_by_their_variants():
    study = tiny_pilot_study()
    assert study.temperature_law_pairs == {
        "hybrid-sharper-longer": "sharper for longer",
        "hybrid-sharper-shorter": "sharper for shorter",
    }
    assert study.predictor_counterpart == {
        "refiner": "predictor",
        "dqn-online": "predictor",
        "ppo-frozen": "predictor",
    }
