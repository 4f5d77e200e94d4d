"""Studies with rewards, datasets, layers, ids and environments of a user's own."""

import json
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest

from spangym.experiments.runner.fingerprint import DatasetHashes
from spangym.experiments.studies.foreign_env import ForeignEnv
from spangym.experiments.studies.load_study import parse_study
from spangym.experiments.studies.study import Study
from spangym.experiments.trials.evaluate import measure_regret, rollout
from spangym.experiments.trials.trial import trials_of
from spangym.utils.errors import UserError

from ..conftest import spangym

MODULE = """
    import gymnasium as gym
    import numpy as np
    import torch

    from spangym.attention import IntegratedAttention, SpanConfig
    from spangym.envs import Dataset, Reward, SpanControlEnv, Stream

    class ShortSpan(Reward):
        components = ("tokens",)
        def __init__(self, factor=1.0):
            super().__init__()
            self.factor = factor
        def __call__(self, context):
            return -self.factor * context.layer_output.span.double()[:, None]

    class Ramp(Dataset):
        def sample(self, generator, chunks, ctx):
            content = (generator.integers(256) + np.arange(chunks * ctx)) % 256
            return Stream(content.astype(np.uint8).reshape(chunks, ctx), ("ramp",) * chunks)

    def make_layers():
        return [IntegratedAttention(16, 8, 2, SpanConfig(4, 8, 8)) for _ in range(2)]

    class Bandit(gym.Env):
        action_space = gym.spaces.Discrete(4)
        observation_space = gym.spaces.Box(-1, 1, (3,), np.float32)

        def __init__(self, best=2, steps=4, arms=4):
            self.best, self.steps = best, steps
            if arms != 4:
                self.action_space = gym.spaces.Discrete(arms)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.count = 0
            return self.observe(), {}

        def observe(self):
            return self.np_random.uniform(-1, 1, 3).astype(np.float32)

        def info(self, action):
            return {
                "content_type": "noise", "layer": self.count % 2, "span": int(action),
                "qk_pairs": 10 * int(action), "output_norm": float(self.np_random.uniform()),
                "reward_components": {"hit": float(action == self.best)},
            }

        def step(self, action):
            info = self.info(action)
            self.count += 1
            ended = self.count == self.steps
            return self.observe(), info["reward_components"]["hit"], False, ended, info

    class Chain(Bandit):
        observation_space = gym.spaces.Discrete(5)
        def observe(self):
            return int(self.np_random.integers(5))

    class NoSpan(Bandit):
        def info(self, action):
            return {key: value for key, value in super().info(action).items() if key != "span"}

    class BadSpan(Bandit):
        def info(self, action):
            return super().info(action) | {"span": "long"}

    class Unseeded(Bandit):
        def reset(self, *, seed=None, options=None):
            return super().reset()
        def step(self, action):
            observation, reward, *more = super().step(action)
            return observation, reward + float(self.np_random.uniform()), *more

    class Continuous(Bandit):
        action_space = gym.spaces.Box(-1, 1, (1,))

    class Uneven(Bandit):
        def step(self, action):
            *result, ended, info = super().step(action)
            return *result, ended or action == 3, info

    for name, cls in list(globals().items()):
        if isinstance(cls, type) and issubclass(cls, Bandit):
            gym.registry.pop(f"{name}-v0", None)
            gym.register(f"{name}-v0", cls)
    gym.registry.pop("mine/Short-v0", None)
    gym.register(
        "mine/Short-v0",
        "spangym.envs.span_control:SpanControlEnv",
        kwargs={"dims": 8, "heads": 2, "ctx": 16, "chunks_per_episode": 2, "num_actions": 2},
    )

    class Derived(SpanControlEnv): pass
    gym.registry.pop("mine/Derived-v0", None)
    gym.register("mine/Derived-v0", Derived)

    class Favorite:
        actions = 2
        def __init__(self, seed=None): pass
        def choose_action(self, state): return 1
        def update(self, state, action, reward, next_state): pass
        def save(self, path): open(path, "w").close()
        def load(self, path): pass
"""
STUDY = """
name = "own"
total_timesteps = 32
seeds = [0]
n_envs = 2
environments = [
    { id = "own_parts:mine/Short-v0", kwargs = { REWARD } },
    { id = "own_parts:Bandit-v0", name = "bandit", kwargs = { best = 1, arms = 2 } },
]
evaluation = { episodes = 3, regret_episodes = 1 }

[[agents]]
algo = "ppo"
hyperparameters = { n_steps = 8, batch_size = 16, n_epochs = 1 }

[[agents]]
algo = "own_parts:Favorite"
environments = ["Short-v0"]
""".replace(
    "REWARD",
    'reward = "own_parts:ShortSpan", reward_kwargs = { factor = 2 }, dataset = "own_parts:Ramp"',
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_parts.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_parts", raising=False)
    return tmp_path


@pytest.fixture
def study(folder: Path) -> Study:
    del folder
    return parse_study(STUDY, "own")


@pytest.mark.slow
def test_a_comparison_from_the_command_line(folder: Path):
    (folder / "own.toml").write_text(STUDY)
    done = spangym(["compare", "own.toml", "--workers", 1], folder)
    assert (done.returncode, done.stderr) == (0, "")
    jobs = folder / "runs" / "own" / "jobs"
    assert (folder / "runs" / "own" / "report.html").exists()
    (ppo,) = jobs.glob("bandit/ppo/seed-0-*")
    rows = pd.read_csv(ppo / "curve.csv")
    assert len(rows) == 8
    assert rows["reward_hit"].tolist() == rows["return"].tolist()
    short = pd.read_csv(next(jobs.glob("Short-v0/fixed-1/*")) / "evaluation.csv")
    assert short["return"].tolist() == (-2 * 4 * short["mean_span"]).tolist()
    assert {each.name for each in (jobs / "bandit").iterdir()} == {
        *("ppo", "random", "fixed-0", "fixed-1"),
    }
    validated = spangym(["validate", "runs/own"], folder)
    assert validated.returncode == 0
    assert "NOT" not in validated.stdout


def test_a_trial_in_a_foreign_environment(study: Study, tmp_path: Path):
    trials = {(each.environment.name, each.agent.name): each for each in trials_of(study)}
    fixed = trials["bandit", "fixed:1"]
    (tmp_path / "job").mkdir()
    fixed.run(tmp_path / "job")
    result = json.loads((tmp_path / "job" / "result.json").read_text())
    assert (result["evaluation_return"], result["regret"]) == (4.0, None)
    assert result["full_qk_pairs"] == 10
    counts = pd.read_csv(tmp_path / "job" / "action_counts.csv")
    assert counts[["layer", "action", "count"]].to_numpy().tolist() == [[0, 1, 6], [1, 1, 6]]
    rows = rollout(fixed.eval_config(), range(5, 8), lambda obs, _: obs[:, 0] * 0 + 1)
    assert [row["evaluation_seed"] for row in rows] == [5, 6, 7]
    assert [row["output_norm"] for row in rows] == [
        row["output_norm"]
        for row in rollout(fixed.eval_config(), range(5, 8), lambda obs, _: obs[:, 0] * 0 + 1)
    ]
    assert measure_regret(fixed.eval_config(), rows).empty


def test_levels_of_subclasses_and_of_foreign_environments(folder: Path):
    """A subclass has the levels of spangym; other environments keep their arguments."""
    del folder
    kwargs = "dims = 8, heads = 2, ctx = 16, chunks_per_episode = 2, num_levels = 3"
    derived = f'{{ id = "own_parts:mine/Derived-v0", kwargs = {{ {kwargs} }} }},'
    study = parse_study(STUDY.replace("environments = [", f"environments = [{derived}", 1), "own")
    trials = {each.environment.name: each for each in trials_of(study) if each.agent.algo == "ppo"}
    configs = trials["Derived-v0"].train_config(), trials["Derived-v0"].eval_config()
    levels = [each.kwargs["num_levels"] for each in configs if isinstance(each, ForeignEnv)]
    assert levels == [3, 0]
    bandit = trials["bandit"]
    assert bandit.eval_config() == bandit.train_config()
    with pytest.raises(UserError, match=r"num_levels must be 0: environment 'bandit'"):
        parse_study(STUDY.replace("{ episodes", "{ num_levels = 2, episodes"), "own")


@pytest.mark.parametrize("name", ["ppo", "random"])
def test_agents_learn_and_choose_in_a_foreign_environment(study: Study, tmp_path: Path, name: str):
    trial = next(
        each
        for each in trials_of(study)
        if (each.environment.name, each.agent.name) == ("bandit", name)
    )
    (tmp_path / "job").mkdir()
    trial.run(tmp_path / "job")
    rows = pd.read_csv(tmp_path / "job" / "curve.csv")
    assert len(rows) == (8 if name == "ppo" else 0)
    assert rows["reward_hit"].tolist() == rows["return"].tolist()
    actions = " ".join(pd.read_csv(tmp_path / "job" / "evaluation.csv")["actions"])
    assert {*actions.split()} <= {"0", "1"}


def test_a_trial_with_an_own_reward_dataset_and_id(study: Study, tmp_path: Path):
    trial = next(each for each in trials_of(study) if each.agent.algo == "own_parts:Favorite")
    assert trial.has_user_code
    (tmp_path / "job").mkdir()
    trial.run(tmp_path / "job")
    rows = pd.read_csv(tmp_path / "job" / "evaluation.csv")
    # Four decisions, each with minus twice its span.
    spans = rows["mean_span"].tolist()
    assert rows["return"].tolist() == [-2 * 4 * span for span in spans]
    assert min(spans) > 0
    counts = pd.read_csv(tmp_path / "job" / "action_counts.csv")
    assert counts["content_type"].unique().tolist() == ["ramp"]


def test_baselines_that_look_inside_are_left_out(study: Study):
    short, bandit = study.environments
    assert {each.name for each in study.agents_in(bandit)} == {
        *("ppo", "random", "fixed:0", "fixed:1")
    }
    assert {"oracle", "threshold"} < {each.name for each in study.agents_in(short)}
    assert short.kwargs["dims"] == 8
    assert (bandit.episode_steps, bandit.num_actions, bandit.is_foreign) == (4, 2, True)
    assert (short.is_foreign, short.name) == (False, "Short-v0")


def test_hashes_follow_the_module(study: Study, folder: Path):
    trials = {(each.environment.name, each.agent.name): each for each in trials_of(study)}

    def hashes() -> list[dict[str, str]]:
        return [
            trials[name, "random"].config_for_hash(DatasetHashes())["modules_sha256"]
            for name in ("Short-v0", "bandit")
        ]

    before = hashes()
    assert [{*each} for each in before] == [{"dataset", "reward"}, {"entry_point", "id"}]
    with (folder / "own_parts.py").open("a") as file:
        file.write("\n# changed\n")
    for old, new in zip(before, hashes(), strict=True):
        assert all(old[name] != new[name] for name in old)


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("own_parts:NoSpan-v0", "'own_parts:NoSpan-v0' cannot .*must have the key 'span'"),
        ("own_parts:BadSpan-v0", "span must be an integer, got 'long'"),
        ("own_parts:Unseeded-v0", "depend on the seed"),
        ("own_parts:Continuous-v0", r"must be Discrete\(n\), they are Box"),
        ("own_parts:Uneven-v0", "one length"),
        ("own_parts:Absent-v0", "'own_parts' registers no such id"),
        ("absent_parts:A-v0", "there is no module 'absent_parts'"),
        ("CartPole-v1", "must have the key 'content_type'"),
        ("SpanControl-v1", "did you mean 'spangym/SpanControl-v0'"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_environments_that_cannot_stand_in_a_study(env_id: str, message: str):
    text = f'name = "x"\ntotal_timesteps = 64\nseeds = [0]\nenvironments = [{{ id = "{env_id}" }}]'
    with pytest.raises(UserError, match=message) as caught:
        parse_study(text, "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("env_id", "agent", "message"),
    [
        ("Bandit-v0", 'algo = "content-oracle"', "looks into environments of spangym"),
        ("Chain-v0", 'algo = "refiner"', "looks into environments of spangym"),
        ("Bandit-v0", 'algo = "ppo"\nencoding = "features"', "takes no encoding, got 'features'"),
        ("Bandit-v0", 'algo = "ppo"\npool_groups = 2', "takes no pool_groups, got 2"),
        ("Bandit-v0", 'algo = "fixed:7"', r"has actions 0\.\.3"),
        (
            "Bandit-v0",
            'algo = "refiner"\nhyperparameters = { bootstrap_from = "next_obs", actions = 4 }',
            "learns from state ids, .* observes Box",
        ),
        (
            "Chain-v0",
            'algo = "refiner"\nhyperparameters = { bootstrap_from = "next_obs" }',
            r"has actions 0\.\.3",
        ),
        (
            "Chain-v0",
            'algo = "refiner"\nhyperparameters = { bootstrap_from = "next_obs", actions = 4 }',
            "",
        ),
    ],
)
@pytest.mark.usefixtures("folder")
def test_agents_in_foreign_environments(env_id: str, agent: str, message: str):
    text = f"""
name = "x"
total_timesteps = 64
seeds = [0]
environments = [{{ id = "own_parts:{env_id}" }}]
[[agents]]
{agent}
"""
    if not message:
        parse_study(text, "x")
        return
    with pytest.raises(UserError, match=message):
        parse_study(text, "x")
