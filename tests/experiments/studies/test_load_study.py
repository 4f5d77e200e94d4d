from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from spangym.agents import Refiner, TabularAgent
from spangym.experiments.pilot.load_pilot_study import builtin_pilot_studies, load_pilot_study
from spangym.experiments.studies.load_study import (
    builtin_studies,
    load_study,
    normalize_agent,
    override_study,
    parse_study,
)
from spangym.experiments.studies.study import Study, StudyAgent
from spangym.experiments.trials.smoke_test import smoke_test
from spangym.experiments.trials.trial import trials_of
from spangym.utils.errors import UserError
from spangym.utils.toml import parse_toml
from tests.factories import as_env_config

from ..conftest import TINY

RESULTS = Path(__file__).parents[3] / "experiments" / "results"


def test_toml_round_trip(tiny: Study):
    assert parse_study(tiny.to_toml(), "again") == tiny


def test_several_fixes_of_original_layers(tiny: Study):
    kwargs = {
        "layer_class": "focus",
        "layer_variant": "original",
        "fixes": ["cut", "temperature"],
        "dims": 16,
    }
    environment = replace(tiny.environments[0], kwargs=kwargs)
    study = parse_study(replace(tiny, environments=(environment,)).to_toml(), "fixes")
    assert study.environments[0].kwargs["fixes"] == ["temperature", "cut"]
    # A run folder gives back the study that was written to it.
    assert parse_toml(study.to_toml(), "stored", Study) == study
    config = as_env_config(trials_of(study)[0].train_config())
    assert (config.layer_class, config.fixes) == ("focus", ("temperature", "cut"))


def test_normalized_study_has_all_defaults(tiny: Study):
    assert tiny.environments[0].kwargs["max_span"] == 384
    assert [entry.name for entry in tiny.agents] == ["pooled", "dqn"]
    assert [entry.encoding for entry in tiny.agents] == ["state", "box"]


def test_baselines_are_part_of_every_study(tiny: Study):
    names = [trial.job_id.removeprefix("SpanControl-v0/") for trial in trials_of(tiny)]
    assert names[:4] == ["pooled/seed-0", "pooled/seed-1", "dqn/seed-0", "dqn/seed-1"]
    assert names[4:8] == ["oracle/seed-0", "threshold/seed-0", "random/seed-0", "random/seed-1"]
    assert names[8:] == [f"fixed-{action}/seed-0" for action in range(10)]


def test_training_and_evaluation_have_different_splits(tiny: Study):
    trial = trials_of(tiny)[0]
    assert as_env_config(trial.train_config()).split == "train"
    assert as_env_config(trial.eval_config()).split == "evaluation"


LEVELS = "chunks_per_episode = 2, num_levels = 4, start_level = 6"


def content_of(config: object) -> tuple[str, int, int, str]:
    env = as_env_config(config)
    return env.split, env.num_levels, env.start_level, env.backend


@pytest.mark.parametrize("backend", ["live", "table"])
def test_levels_are_those_of_the_training(backend: str):
    kwargs = f"{LEVELS}, backend = '{backend}'"
    for trial in trials_of(parse_study(TINY.replace("chunks_per_episode = 2", kwargs), "tiny")):
        assert content_of(trial.train_config()) == ("train", 4, 6, backend)
        assert content_of(trial.eval_config()) == ("evaluation", 0, 0, "live")


@pytest.mark.parametrize("start_level", [0, 10])
def test_searches_evaluate_on_levels_of_their_own(start_level: int):
    evaluation = f"split = 'train'\nnum_levels = 6\nstart_level = {start_level}\nbackend = 'table'"
    text = TINY.replace("chunks_per_episode = 2", LEVELS)
    text = text.replace("episodes = 2\n", f"episodes = 2\n{evaluation}\n")
    trial = trials_of(parse_study(text, "tiny"))[0]
    assert content_of(trial.train_config()) == ("train", 4, 6, "live")
    assert content_of(trial.eval_config()) == ("train", 6, start_level, "table")


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ("split = 'train'\nnum_levels = 7", "levels 6 to 6 are in the training"),
        ("split = 'train'\nnum_levels = 9\nstart_level = 8", "levels 8 to 9 are in the training"),
        ("start_level = 1", "evaluation: agent 'pooled': start_level is for a number of levels"),
        ("backend = 'table'", "evaluation: agent 'pooled': backend 'table' needs num_levels"),
        ("backend = 'tables'", "key 'evaluation.backend'"),
    ],
)
def test_wrong_levels_of_the_evaluation(evaluation: str, message: str):
    text = TINY.replace("chunks_per_episode = 2", LEVELS)
    with pytest.raises(UserError, match=message):
        parse_study(text.replace("episodes = 2\n", f"episodes = 2\n{evaluation}\n"), "tiny")


def test_levels_of_another_split_may_have_the_same_numbers():
    text = TINY.replace("chunks_per_episode = 2", LEVELS)
    study = parse_study(text.replace("episodes = 2\n", "episodes = 2\nnum_levels = 9\n"), "tiny")
    assert content_of(trials_of(study)[0].eval_config()) == ("evaluation", 9, 0, "live")


@pytest.mark.parametrize("name", builtin_studies())
def test_built_in_studies_are_valid(name: str):
    assert load_study(name).name == name


def test_quickstart_is_the_documented_study():
    study = load_study("quickstart")
    live, table = study.environments
    assert (live.name, live.kwargs["backend"]) == ("SpanControl-v0", "live")
    assert (table.name, table.kwargs["backend"]) == ("LongRange-v0", "table")
    assert (len(study.seeds_in(live)), len(study.seeds_in(table))) == (3, 10)
    for environment in study.environments:
        agents = study.agents_in(environment)[:4]
        assert [each.name for each in agents] == ["refiner", "refiner-kmeans", "dqn", "ppo"]


def test_override_study(tiny: Study):
    changed = override_study(
        tiny, seeds=4, total_timesteps=128, agents=["pooled", "ppo", "random", "ppo"]
    )
    assert changed.seeds == (0, 1, 2, 3)
    assert changed.total_timesteps == 128
    assert [entry.name for entry in changed.agents] == ["pooled", "ppo"]
    assert changed.agents[0] == tiny.agents[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"tiny"', '"//"', "'name'"),
        (
            "total_timesteps = 64",
            "total_timestepz = 64",
            "did you mean 'total_timesteps'",
        ),
        ("total_timesteps = 64", "", "'total_timesteps' is missing"),
        (
            "total_timesteps = 64",
            'total_timesteps = "64"',
            "must be an integer, got '64'",
        ),
        (
            "total_timesteps = 64",
            "total_timesteps = 0",
            "'total_timesteps'",
        ),
        (
            "total_timesteps = 64",
            "total_timesteps = 2",
            "at least 4",
        ),
        (
            "total_timesteps = 64",
            "total_timesteps = 64\nn_envs = 3",
            "multiple of n_envs",
        ),
        ("total_timesteps = 64", "total_timesteps = ", "not TOML"),
        ("seeds = [0, 1]", "seeds = []", "key 'seeds'"),
        ("seeds = [0, 1]", "seeds = [1, 1]", "seeds must differ"),
        ("SpanControl-v0", "SpanControl-v9", "'spangym/SpanControl-v0'"),
        ("ctx = 16", "ctxx = 16", "did you mean 'ctx'"),
        ("ctx = 16", "heads = 16", "not TOML"),
        ("heads = 2", "heads = 3", "got heads=3, dims=8"),
        ("chunks_per_episode = 2", "encoding = 'box'", "in the agents"),
        (
            "chunks_per_episode = 2",
            "control_kv_cache = true",
            "'control_kv_cache' must be false",
        ),
        (
            "chunks_per_episode = 2",
            "checkpoint = 'gone'",
            "'gone' is neither shipped",
        ),
        ("episodes = 2", "episode = 2", "'evaluation.episode' is unknown"),
        ('"refiner"', '"refinr"', "did you mean 'refiner'"),
        ('name = "pooled"', 'name = "dqn"', "same folder, 'dqn'"),
        (
            'name = "pooled"',
            'name = "random"',
            "same folder, 'random'",
        ),
        ('name = "pooled"', 'name = "fixed-3"', "same folder, 'fixed-3'"),
        (
            "pool_groups = 2",
            'encoding = "box"',
            "must be 'state'",
        ),
        (
            "ctx = 16",
            "ctx = 16, cost_coef = nan",
            "got nan",
        ),
        ("pool_groups = 2", f"name = '{'x' * 81}'", "not TOML"),
        ('name = "pooled"', f"name = '{'x' * 81}'", "80 characters"),
        ("pool_groups = 2", "pool_groups = 3", "pool_groups"),
        ('algo = "dqn"', 'algo = "dqn"\nencoding = "x"', "encoding 'x'"),
        ("gamma = 0.5", "gama = 0.5", "did you mean 'gamma'"),
        (
            'algo = "refiner"',
            'algo = "refiner"\nhyperparameters = { alpha = 2 }',
            "alpha",
        ),
    ],
)
def test_invalid_studies_raise_a_one_line_error(old: str, new: str, message: str):
    assert old in TINY
    with pytest.raises(UserError) as caught:
        parse_study(TINY.replace(old, new, 1), "tiny.toml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("tiny.toml: ")
    assert "\n" not in str(caught.value)


def test_byte_order_mark_is_ignored(tmp_path: Path, tiny: Study):
    (tmp_path / "tiny.toml").write_text(TINY, "utf-8-sig")
    assert load_study(str(tmp_path / "tiny.toml")) == tiny


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{ gamma = 0.5 }", '{ learning_rate = "x" }', "agent 'dqn'"),
        ("{ gamma = 0.5 }", '{ policy_kwargs = { arch = "x" } }', "agent 'dqn'"),
        (
            'algo = "dqn"\nhyperparameters = { gamma = 0.5 }',
            'algo = "ppo"\nhyperparameters.n_steps = 65',
            "n_steps=65",
        ),
        (
            "chunks_per_episode = 2",
            "chunks_per_episode = 900000",
            "smaller ctx",
        ),
    ],
)
def test_smoke_test_reports_what_cannot_be_started(old: str, new: str, message: str):
    assert old in TINY
    text = TINY.replace(old, new).replace(
        "total_timesteps = 64",
        "total_timesteps = 64" if "n_steps" in new else "total_timesteps = 1800000",
    )
    study = parse_study(text, "tiny")
    with pytest.raises(UserError) as caught:
        smoke_test(study)
    assert message in str(caught.value)


def test_clusters_need_the_layer_index():
    text = """
name = "clusters"
total_timesteps = 64
seeds = [0]
[[environments]]
id = "spangym/SpanControl-v0"
kwargs = { dims = 8, heads = 2, ctx = 16, chunks_per_episode = 2, win_size = 16 }
[[agents]]
algo = "refiner-kmeans"
"""
    with pytest.raises(UserError, match=r"include_layer_index = true .* by_layer = false"):
        parse_study(text + "include_layer_index = false", "clusters")
    (agent,) = parse_study(text, "clusters").agents
    assert agent.include_layer_index
    (agent,) = parse_study(text + "hyperparameters = { by_layer = false }", "clusters").agents
    assert agent.include_layer_index is False


@pytest.mark.parametrize("part", ["environments", "agents", "evaluation"])
def test_study_classes_are_strict(tiny: Study, part: str):
    value = getattr(tiny, part)
    with pytest.raises((TypeError, ValidationError)):
        replace(value[0] if isinstance(value, tuple) else value, steps=3)
    with pytest.raises((TypeError, ValidationError)):
        replace(tiny, steps=3)
    with pytest.raises(ValidationError):
        replace(tiny, total_timesteps="64")


OWN_AGENTS = """
import numpy as np
from stable_baselines3 import DQN, PPO

class Saves:
    def choose_action(self, state): return 3
    def update(self, state, action, reward, next_state): ...
    def save(self, path): ...

class Floats:
    def choose_action(self, state): return 3.5
    def update(self, state, action, reward, next_state): ...

class Columns:
    def learn(self, env, steps): raise RuntimeError("this must not be reached")
    def predict(self, observations): return np.zeros((len(observations), 1), int)
    def save(self, path): ...
    def load(self, path): ...

class Late(DQN):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, learning_starts=64)

class Long(PPO):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, n_steps=128)
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Saves", r"own_wrong\.py:8: Saves has save\(path\) but no load\(path\)"),
        ("Floats", r"own_wrong\.py:11: choose_action\(state\) gave 3\.5"),
        ("Columns", r"own_wrong\.py:16: predict\(observations\) gave shape \(1, 1\)"),
        ("Late", "learning_starts=64 .*64 steps"),
        ("Long", "n_steps=128 .*64 steps"),
    ],
)
def test_own_agents_are_checked_before_training(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "own_wrong.py").write_text(OWN_AGENTS)
    monkeypatch.syspath_prepend(tmp_path)
    text = TINY.replace('algo = "refiner"', f'algo = "own_wrong:{name}"')
    text = text.replace("pool_groups = 2", "")
    with pytest.raises(UserError, match=message):
        smoke_test(parse_study(text, "tiny"))


def test_names_with_characters_that_cannot_be_seen_are_escaped():
    """In TOML they may be escapes; names go to files, terminals and TensorBoard."""
    text = TINY.replace('name = "pooled"', r'name = "p\u001b[31m\n\u202E"')
    study = parse_study(
        text.replace('id = "spangym', 'name = "e\\u0000"\nid = "spangym').replace(
            'algo = "dqn"', 'algo = "dqn"\nenvironments = ["e\\u0000"]'
        ),
        "x",
    )
    (environment,) = study.environments
    assert environment.name == r"e\x00"
    assert [each.name for each in study.agents] == [r"p\x1b[31m\n\u202e", "dqn"]
    assert study.agents_in(environment)[1].name == "dqn"
    assert parse_study(study.to_toml(), "again") == study


COUNTS = """
name = "counts"
total_timesteps = 8
seeds = [0]

[[environments]]
id = "spangym/SpanControl-v0"
name = "ten"
kwargs = { dims = 8, heads = 2, ctx = 16, chunks_per_episode = 2, win_size = 16 }

[[environments]]
id = "spangym/SpanControl-v0"
name = "five"
kwargs = { dims = 8, heads = 2, ctx = 16, chunks_per_episode = 2, win_size = 16, num_actions = 5 }

[[agents]]
algo = "refiner"
hyperparameters = { actions = 5, states = 100 }

[[agents]]
algo = "dqn"
"""


def test_an_environment_takes_the_counts_of_the_refiner():
    study = parse_study(COUNTS, "counts")
    ten, five = study.environments
    refiner, dqn, *baselines = study.agents_in(five)
    for environment in study.environments:
        config = as_env_config(refiner.config_in(environment, "train"))
        assert (config.num_actions, config.num_states) == (5, 100)
    assert [dqn.config_in(each, "train").num_actions for each in (ten, five)] == [10, 5]
    assert [each.config_in(five, "train").num_actions for each in baselines] == [5] * 8
    assert [each.name for each in baselines[-5:]] == [f"fixed:{action}" for action in range(5)]
    assert len(study.agents_in(ten)) == 2 + 13
    assert parse_study(study.to_toml(), "again") == study


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("actions = 5, states", "actions = 7, states", "7 actions.*'five'.*set actions = 5"),
        ("actions = 5, states", "actions = 1, states", "actions must be in 2"),
        ('algo = "dqn"', 'algo = "fixed:7"\nname = "mine"', r"'five' has actions 0\.\.4"),
        ("num_actions = 5", "num_states = 5", "'num_states' must be set in the agents"),
        ('algo = "refiner"', 'algo = "refiner"\nnum_states = 7', "100 states, but num_states = 7"),
        ("num_actions = 5", "num_actions = 1", "num_actions must be in 2"),
    ],
)
def test_contradicting_counts(old: str, new: str, message: str):
    assert old in COUNTS
    with pytest.raises(UserError, match=message):
        parse_study(COUNTS.replace(old, new), "counts")


def test_refiner_is_the_originals_rule():
    agent = normalize_agent(StudyAgent("refiner"))
    made = agent.make(seed=0)
    assert isinstance(made, TabularAgent)
    assert made.bootstrap_from == "layer_output"
    assert agent.include_layer_index  # One table a layer.
    refiner = made.controller
    assert isinstance(refiner, Refiner)
    assert (refiner.states, refiner.actions, refiner.double_q) == (10_000, 10, False)
    assert (refiner.alpha, refiner.gamma, refiner.epsilon) == (0.1, 0.9, 0.1)


@pytest.mark.parametrize("name", [*builtin_studies(), *builtin_pilot_studies()])
def test_the_label_refiner_stands_for_the_originals_rule(name: str):
    if name in builtin_studies():
        labeled = [(each.name, each) for each in load_study(name).agents]
    else:
        variants = load_pilot_study(name).variants
        labeled = [(each.name, each.agent) for each in variants if each.agent is not None]
    for label, agent in labeled:
        if label in ("refiner", "focus-refiner"):
            # The number of actions is the environment's.
            own = {key: each for key, each in agent.hyperparameters.items() if key == "actions"}
            original = normalize_agent(StudyAgent("refiner", hyperparameters=own))
            assert agent == replace(original, name=agent.name)


def test_seeds_and_steps_of_one_environment():
    text = """
        name = "two"
        total_timesteps = 64
        seeds = 4
        [[agents]]
        algo = "dqn"
        [[environments]]
        id = "SpanControl-v0"
        seeds = [7, 8]
        total_timesteps = 32
        [[environments]]
        id = "LongRange-v0"
    """
    study = parse_study(text, "two.toml")
    trials = [each for each in trials_of(study) if each.agent.name == "dqn"]
    found = {(each.environment.name, each.seed, each.total_timesteps) for each in trials}
    assert found == {
        *(("SpanControl-v0", seed, 32) for seed in (7, 8)),
        *(("LongRange-v0", seed, 64) for seed in range(4)),
    }
    same = override_study(study, seeds=1, settings={"SpanControl-v0.total_timesteps": 48})
    steps = {each.name: (same.seeds_in(each), same.steps_in(each)) for each in same.environments}
    assert steps == {"SpanControl-v0": ((0,), 48), "LongRange-v0": ((0,), 64)}
    with pytest.raises(UserError, match="seeds must differ"):
        parse_study(text.replace("[7, 8]", "[7, 7]"), "two.toml")
    with pytest.raises(UserError, match="at least 16"):
        parse_study(text.replace("= 32", "= 8"), "two.toml")


@pytest.mark.parametrize("name", ["quickstart", "suite"])
def test_stored_comparisons_can_be_run_again(name: str):
    assert load_study(str(RESULTS / name / "study.toml")).seeds
