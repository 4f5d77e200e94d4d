from pathlib import Path

import pytest

from spangym.experiments.reports.write_outputs import check_startable
from spangym.experiments.studies.load_study import (
    change_study,
    load_study,
    parse_study,
    shipped_studies,
)
from spangym.experiments.studies.study import Study
from spangym.utils.errors import UserError

from .conftest import TINY


def test_what_is_written_reads_as_the_same_study(tiny: Study):
    assert parse_study(tiny.to_toml(), "again") == tiny


def test_resolved_study_spells_everything_out(tiny: Study):
    assert tiny.environments[0].arguments["max_span"] == 384
    assert [entry.label for entry in tiny.agents] == ["pooled", "dqn"]
    assert [entry.encoding for entry in tiny.agents] == ["state", "box"]


def test_references_stand_in_every_study(tiny: Study):
    names = [trial.name.removeprefix("SpanControl-v0/") for trial in tiny.trials()]
    assert names[:4] == ["pooled/seed-0", "pooled/seed-1", "dqn/seed-0", "dqn/seed-1"]
    assert names[4:8] == ["oracle/seed-0", "threshold/seed-0", "random/seed-0", "random/seed-1"]
    assert names[8:] == [f"fixed-{action}/seed-0" for action in range(10)]


def test_training_and_evaluation_read_different_text(tiny: Study):
    assert tiny.trials()[0].training().split == "train"
    assert tiny.trials()[0].judging().split == "evaluation"


@pytest.mark.parametrize("name", shipped_studies())
def test_shipped_studies_are_studies(name: str):
    assert load_study(name).name == name


def test_quickstart_is_what_the_readme_says():
    study = load_study("quickstart")
    (environment,) = study.environments
    arguments = environment.arguments
    assert [arguments[each] for each in ("layers", "dims", "heads", "ctx")] == [2, 64, 4, 256]
    assert [entry.agent for entry in study.agents] == ["refiner", "refiner", "dqn", "ppo"]
    assert len(study.seeds) == 3


def test_changes_from_the_command_line(tiny: Study):
    changed = change_study(tiny, seeds=4, steps=128, agents=["pooled", "ppo", "random", "ppo"])
    assert changed.seeds == (0, 1, 2, 3)
    assert changed.steps == 128
    assert [entry.label for entry in changed.agents] == ["pooled", "ppo"]
    assert changed.agents[0] == tiny.agents[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"tiny"', '"a/b"', "key 'name': string should match pattern"),
        ("steps = 64", "stepz = 64", "key 'stepz' is unknown; did you mean 'steps'?"),
        ("steps = 64", "", "key 'steps' is missing"),
        ("steps = 64", 'steps = "64"', "key 'steps': input should be a valid integer, got '64'"),
        ("steps = 64", "steps = 0", "key 'steps': input should be greater than or equal to 1"),
        ("steps = 64", "steps = 2", "steps must be at least 4, one episode in each lane"),
        ("steps = 64", "steps = 64\nlanes = 3", "steps must be a multiple of lanes"),
        ("steps = 64", "steps = ", "not TOML"),
        ("seeds = [0, 1]", "seeds = []", "key 'seeds'"),
        ("seeds = [0, 1]", "seeds = [1, 1]", "seeds must differ"),
        ("SpanControl-v0", "SpanControl-v9", "did you mean 'spangym/SpanControl-v0' or"),
        ("ctx = 16", "ctxx = 16", "unexpected keyword argument 'ctxx'; did you mean 'ctx'?"),
        ("ctx = 16", "heads = 16", "not TOML"),
        ("heads = 2", "heads = 3", "heads must divide dims, got heads=3, dims=8"),
        ("chunks = 2", "encoding = 'box'", "set it for an agent"),
        ("chunks = 2", "refresh = true", "'refresh' is not for comparisons"),
        ("chunks = 2", "weights = 'gone'", "weights 'gone' are neither shipped nor a file"),
        ("episodes = 2", "episode = 2", "key 'evaluation.episode' is unknown; did you mean 'epi"),
        ('"refiner"', '"refinr"', "agent 'refinr' is unknown; did you mean 'refiner'?"),
        ('label = "pooled"', 'label = "dqn"', "two agents would be kept in one folder, 'dqn'"),
        (
            'label = "pooled"',
            'label = "random"',
            "kept in one folder, 'random'",
        ),
        ('label = "pooled"', 'label = "fixed-3"', "kept in one folder, 'fixed-3'"),
        ("groups = 2", 'encoding = "box"', "learns from state ids: its encoding must be 'state'"),
        ("ctx = 16", "ctx = 16, price = nan", "price must be at least 0 and finite, got nan"),
        ("groups = 2", f"label = '{'x' * 81}'", "not TOML"),
        ('label = "pooled"', f"label = '{'x' * 81}'", "at most 80 characters"),
        ("groups = 2", "groups = 3", "groups must divide dims"),
        ('agent = "dqn"', 'agent = "dqn"\nencoding = "x"', "agent 'dqn': encoding 'x' is unknown"),
        ("gamma = 0.5", "gama = 0.5", "agent 'dqn' has no option 'gama'; did you mean 'gamma'"),
        ('agent = "refiner"', 'agent = "refiner"\noptions = { alpha = 2 }', "alpha must be in"),
    ],
)
def test_what_is_wrong_is_said_with_what_would_be_right(old: str, new: str, message: str):
    assert old in TINY
    with pytest.raises(UserError) as caught:
        parse_study(TINY.replace(old, new, 1), "tiny.toml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("tiny.toml: ")
    assert "\n" not in str(caught.value)


def test_a_mark_before_utf8_is_no_mistake(tmp_path: Path, tiny: Study):
    (tmp_path / "tiny.toml").write_text(TINY, "utf-8-sig")
    assert load_study(str(tmp_path / "tiny.toml")) == tiny


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{ gamma = 0.5 }", '{ learning_rate = "x" }', "agent 'dqn' cannot be started"),
        ("{ gamma = 0.5 }", '{ policy_kwargs = { arch = "x" } }', "agent 'dqn' cannot be started"),
        (
            'agent = "dqn"\noptions = { gamma = 0.5 }',
            'agent = "ppo"\noptions.n_steps = 65',
            "n_steps=65",
        ),
        ("chunks = 2", "chunks = 900000", "use fewer chunks or a smaller ctx"),
    ],
)
def test_what_cannot_be_started_is_said_before_anything_runs(old: str, new: str, message: str):
    assert old in TINY
    text = TINY.replace(old, new).replace(
        "steps = 64", "steps = 64" if "n_steps" in new else "steps = 1800000"
    )
    study = parse_study(text, "tiny")
    with pytest.raises(UserError) as caught:
        check_startable(study)
    assert message in str(caught.value)


def test_clusters_ask_for_the_layers_index():
    text = """
name = "clusters"
steps = 64
seeds = [0]
[[environments]]
id = "spangym/SpanControl-v0"
arguments = { dims = 8, heads = 2, ctx = 16, chunks = 2, win_size = 16 }
[[agents]]
agent = "refiner-clusters"
"""
    with pytest.raises(UserError, match="set layer_index = true for it, or by_layer = false"):
        parse_study(text, "clusters")
    parse_study(text + "layer_index = true", "clusters")
    parse_study(text + "options = { by_layer = false }", "clusters")
