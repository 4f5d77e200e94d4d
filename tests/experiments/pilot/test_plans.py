import re
from pathlib import Path

import pytest

from spangym.experiments.pilot.load_pilot_study import (
    change_plan,
    load_plan,
    load_task_plan,
    parse_resolved,
    resolve,
    shipped_plans,
)
from spangym.utils.errors import UserError

from .plans import TINY, tiny_plan


def test_a_plan_survives_toml():
    plan = tiny_plan()
    assert resolve(parse_resolved(plan.to_toml(), "again")) == plan


@pytest.mark.parametrize("name", shipped_plans())
def test_shipped_plans_can_be_run(name: str):
    plan = load_plan(name)
    assert plan.name == name
    assert name.startswith(plan.task)
    assert plan.variants[0].attention == "standard"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("updates = 12", "updatez = 12", "key 'updatez' is unknown; did you mean 'updates'?"),
        ("dims = 16", "dim = 16", "key 'model.dim' is unknown; did you mean 'dims'?"),
        ("chunks = 2", "chunk = 2", "key 'text.chunk' is unknown; did you mean 'chunks'?"),
        ("sharpen = false", "sharp = false", "is unknown; did you mean 'sharpen'?"),
        ("varied = 0.34", "varied = 1.0", "key 'varied': input should be less than 1"),
        (
            'agent = "refiner" }',
            'agent = "oracle" }',
            "oracle asks an environment what its actions",
        ),
        ('agent = "refiner" }', 'agent = "ars" }', "ars cannot learn online"),
        ("updates = 12", "updates = 13", "updates must be a multiple of the 2 chunks"),
        ("evaluations = 2", "evaluations = 7", "evaluations must be at most one for each stream"),
        ('label = "2H"', 'label = "Standard"', "two variants are one"),
        ("hidden = 96", "hidden = 1", "raise hidden"),
        ("heads = 2\n", "heads = 3\n", "head must divide dims"),
        ('"refiner" }', '"refinr" }', "agent 'refinr' is unknown; did you mean 'refiner'?"),
        (
            'attention = "integrated"\nagent',
            'attention = "hybrid"\nagent',
            "an agent decides the spans of focus and integrated attention, not of hybrid",
        ),
        ("sharpen = false", "soft_span = true\nprice = -1.0", "greater than or equal to 0"),
        ('attention = "original"', 'attention = "original"\nsoft_span = true', "soft_span is not"),
        ("evaluation_streams = 2", 'source = "nowhere"', "nowhere"),
        ('task = "text"', 'task = "text"\ndevice = "tpu"', "device 'tpu' cannot be used"),
    ],
)
def test_what_is_wrong_is_said(old: str, new: str, message: str):
    assert old in TINY
    with pytest.raises(UserError, match=re.escape(message)):
        resolve(parse_resolved(TINY.replace(old, new, 1), "tiny.toml"))


def test_plans_are_changed_from_the_command_line(tmp_path: Path):
    plan = change_plan(tiny_plan(), seeds=2, updates=3, variants=["refiner"], data=tmp_path)
    # What the others are compared with stays; updates come in whole streams.
    assert [each.label for each in plan.variants] == ["standard", "refiner"]
    assert (plan.seeds, plan.updates, plan.evaluations) == ((0, 1), 4, 2)
    assert plan.text.source == str(tmp_path)
    with pytest.raises(UserError, match="no variant 'refinr'; did you mean 'refiner'"):
        change_plan(plan, variants=["refinr"])


def test_plans_are_of_a_task(tmp_path: Path):
    path = tmp_path / "mine.toml"
    path.write_text(TINY)
    assert load_task_plan("text", str(path)).name == "tiny"
    with pytest.raises(UserError, match="is of text: run `spangym pilot text"):
        load_task_plan("speech", str(path))
    with pytest.raises(UserError, match="plan 'nothing' cannot be read"):
        load_task_plan("speech", "nothing")


def test_laws_and_agents_are_told_by_their_variants():
    plan = tiny_plan()
    assert plan.laws == {
        "hybrid longer": "sharper for longer",
        "hybrid shorter": "sharper for shorter",
    }
    assert plan.alone == {
        "refiner": "predictor",
        "dqn online": "predictor",
        "ppo frozen": "predictor",
    }
