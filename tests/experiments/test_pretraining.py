"""Training of the shipped layers, small and real, and what policies without learning earn."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from spangym.envs import ENVIRONMENTS, SpanControlEnv
from spangym.envs.model import pretrain as pretraining
from spangym.envs.model.model_checkpoint import (
    builtin_checkpoints,
    load_metadata,
    load_stack,
    serialize,
)
from spangym.envs.model.pretrain import evaluate, get_config, metadata, pretrain
from spangym.envs.model.pretrain_config import PRETRAIN_CONFIGS, PretrainConfig
from spangym.envs.model.stack import TransformerConfig, TransformerStack
from spangym.experiments.benchmarks.baselines import COLUMNS, BaselineReturns, measure_baselines
from spangym.experiments.cli.app import app
from spangym.utils.errors import UserError

SIZES = TransformerConfig(
    num_layers=1, dims=16, heads=2, ctx=32, win_size=4, max_span=36, hidden=16
)
SMALL = PretrainConfig("letters", SIZES, steps=60, batch=8, learning_rate=1e-2)


@pytest.fixture(scope="module")
def trained() -> TransformerStack:
    return pretrain(SMALL, lambda *_: None)


def test_training_lowers_the_loss_at_every_span(trained: TransformerStack):
    untrained = TransformerStack(SIZES, torch.Generator().manual_seed(0)).eval()
    before, after = evaluate(untrained, SMALL), evaluate(trained, SMALL)
    assert set(after) == {str(action) for action in range(10)}
    assert all(after[action] < 0.6 * before[action] for action in after)


def test_the_same_recipe_gives_the_same_weights(trained: TransformerStack):
    again = pretrain(SMALL, lambda *_: None)
    for one, other in zip(trained.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_global_path_that_only_averages_keeps_its_first_queries_and_keys():
    recipe = dataclasses.replace(SMALL, steps=3, freeze_global_qk=True)
    stack, first = (
        pretrain(recipe, lambda *_: None),
        TransformerStack(SIZES, torch.Generator().manual_seed(0)),
    )
    for name, weight in stack.named_parameters():
        kept = "attn_global.query_module" in name or "attn_global.key_module" in name
        unused = "predictor" in name or "span_pred" in name
        assert torch.equal(weight, first.get_parameter(name)) == (kept or unused), name


def test_a_file_brings_weights_sizes_and_how_it_was_made(trained: TransformerStack, tmp_path: Path):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(serialize(trained, metadata(SMALL, evaluate(trained, SMALL), 1.0)))
    loaded = load_stack(str(path))
    content = torch.randint(256, (2, 32), generator=torch.Generator().manual_seed(0))
    hidden, same = trained.embed(content), loaded.embed(content)
    assert torch.equal(trained.layer(0)(hidden), loaded.layer(0)(same))
    assert not any(each.requires_grad for each in loaded.parameters())
    manifest = load_metadata(str(path))
    assert manifest["pretrain_config"]["steps"] == 60
    env = SpanControlEnv(
        checkpoint=str(path), dataset="letters", reward="task", chunks_per_episode=2
    )
    assert (env.config.num_layers, env.config.dims, env.config.ctx) == (1, 16, 32)
    env.reset(seed=0)
    assert np.isfinite(env.step(3)[1])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "are none that `spangym pretrain` wrote"),
        (b"not safetensors at all", "are none that `spangym pretrain` wrote"),
    ],
)
def test_other_files_are_refused(content: bytes, message: str, tmp_path: Path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.safetensors") as caught:
        SpanControlEnv(checkpoint=str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_named(trained: TransformerStack, tmp_path: Path):
    path = tmp_path / "cut.safetensors"
    whole = serialize(trained, {})
    path.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match=r"cut\.safetensors"):
        SpanControlEnv(checkpoint=str(path))


class TestShippedWeights:
    def test_every_recipe_has_its_file_and_every_id_its_recipe(self):
        assert set(builtin_checkpoints()) == set(PRETRAIN_CONFIGS)
        used = {given["checkpoint"] for given in ENVIRONMENTS.values() if "checkpoint" in given}
        assert used == set(PRETRAIN_CONFIGS)

    @pytest.mark.parametrize("name", PRETRAIN_CONFIGS)
    def test_they_are_what_their_recipe_says(self, name: str):
        made = load_metadata(name)
        recipe = json.loads(json.dumps(dataclasses.asdict(PRETRAIN_CONFIGS[name])))
        assert made["pretrain_config"] == recipe
        assert made["model"] == recipe["model"]

    @pytest.mark.parametrize("name", PRETRAIN_CONFIGS)
    def test_they_are_as_good_as_their_manifest_says(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(pretraining, "_EVAL_CHUNKS", 48)  # Of 256.
        found = evaluate(load_stack(name), PRETRAIN_CONFIGS[name])
        said = load_metadata(name)["loss_bits_by_action"]
        for action in ("0", min(said, key=said.__getitem__), "9"):
            assert found[action] == pytest.approx(said[action], rel=0.3, abs=0.1)

    def test_together_they_are_small(self):
        assert sum(path.stat().st_size for path in builtin_checkpoints().values()) < 5_000_000


def test_pretrain_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(PRETRAIN_CONFIGS, "span-budget", SMALL)
    path = tmp_path / "new.safetensors"
    done = CliRunner().invoke(
        app, ["pretrain", "SpanBudget-v0", "--out", str(path), "--steps", "3"]
    )
    assert done.exit_code == 0, done.output
    assert "bits a target on evaluation streams, by span: 0: " in done.output
    assert load_metadata(str(path))["pretrain_config"]["steps"] == 3


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ("SpanControl-v0", "have random weights; trained are those of: spangym/SpanBudget-v0"),
        ("SpanBugdet-v0", "did you mean 'spangym/SpanBudget-v0'"),
    ],
)
def test_ids_without_a_recipe(environment: str, message: str):
    with pytest.raises(UserError) as caught:
        get_config(environment)
    assert message in str(caught.value)


def test_baselines_are_what_the_policies_earn(monkeypatch: pytest.MonkeyPatch):
    small = {"dims": 8, "heads": 2, "ctx": 16, "chunks_per_episode": 2, "cost_coef": 0.3}
    monkeypatch.setitem(ENVIRONMENTS, "spangym/SpanControl-v0", small)
    done: list[tuple[int, int]] = []
    found = measure_baselines("spangym/SpanControl-v0", 3, lambda *each: done.append(each))
    assert found.chunks == 6
    assert done[-1] == (102, 102)
    env = SpanControlEnv(**small, split="evaluation")
    returns = []
    for env_index in range(3):
        env.reset(seed=1_000_000 + env_index)
        returns.append(sum(env.step(7)[1] for _ in range(4)))
    assert found.fixed[7] == pytest.approx(np.mean(returns) / 2, abs=1e-5)
    assert found.best_fixed <= found.best_by_layer <= found.content_oracle
    assert found.random < found.oracle
    assert found.score <= 1.01


def test_a_row_of_baselines_as_text():
    fixed = (0.0, 0.5, *[0.1] * 8)
    row = BaselineReturns("spangym/A-v0", 9, -1.0, fixed, 0.6, 0.7, 1.0, (1, 2))
    assert row.to_row()[:3] == ("A-v0", "-1.000", "0.000")
    assert row.to_row()[-2:] == ("1", "0.75")


ROOT = Path(__file__).parents[2]


def test_stored_baselines_are_those_of_the_readme_and_no_fixed_span_is_near_the_oracle():
    stored = json.loads((ROOT / "experiments" / "results" / "baselines.json").read_text())
    rows = [BaselineReturns(**row) for row in stored["rows"]]
    assert [row.id for row in rows] == [*ENVIRONMENTS]
    readme = [" ".join(line.split()) for line in (ROOT / "README.md").read_text().splitlines()]
    for names, *cells in zip(COLUMNS, *(row.to_row() for row in rows), strict=True):
        if names != "id":
            assert f"| {names} | {' | '.join(cells)} |" in readme
    for row in rows[1:]:
        assert row.oracle - row.best_fixed > 0.05 * abs(row.oracle)
        assert row.score < 0.95
        assert row.content_oracle > row.best_fixed


def test_the_stored_oracle_is_that_of_the_shipped_layers():
    """One id played again, with fewer episodes: the first of those stored."""
    stored = json.loads((ROOT / "experiments" / "results" / "baselines.json").read_text())
    (row,) = (BaselineReturns(**row) for row in stored["rows"] if row["id"].endswith("Sparsity-v0"))
    env = SpanControlEnv(**ENVIRONMENTS[row.id], split="evaluation")
    returns = []
    for seed in range(3):
        env.reset(seed=1_000_000 + seed)
        for _ in range(env.config.chunks_per_episode):
            returns.append(env.lookahead().max())
            env.step(9)
            env.step(9)
    assert np.mean(returns) == pytest.approx(row.oracle, abs=0.1)


@pytest.mark.parametrize("steps", [3, 9, 10, 11])
def test_any_number_of_steps(steps: int):
    seen: list[int] = []
    pretrain(dataclasses.replace(SMALL, steps=steps, batch=1), lambda done, _: seen.append(done))
    assert seen == [*range(1, steps + 1)]


STUDY = """
name = "own-weights"
total_timesteps = 4
seeds = [0]
[[environments]]
id = "spangym/SpanControl-v0"
kwargs = { checkpoint = "own.safetensors", dataset = "own.txt", reward = "task", chunks_per_episode = 1 }
[evaluation]
episodes = 1
"""


def test_a_run_with_weights_and_content_of_ones_own(
    trained: TransformerStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """From another folder it can be replayed; changed or gone files are named in a line."""
    (tmp_path / "own.safetensors").write_bytes(serialize(trained, {}))
    (tmp_path / "own.txt").write_text("abcdefgh" * 100)
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    done = runner.invoke(app, ["compare", "study.toml", "--out", "run", "--workers", "1"])
    assert done.exit_code == 0, done.output
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = runner.invoke(app, ["validate", "../run"])
    assert done.exit_code == 0, done.output
    assert done.output.endswith("13 of 13 episodes are reproduced, all to the bit\n")
    (tmp_path / "own.txt").write_text("hgfedcba" * 100)
    done = runner.invoke(app, ["validate", "../run"])
    assert done.exit_code == 1
    assert done.output.endswith("the run was made with other content, see its manifest.json\n")
    (tmp_path / "own.txt").write_text("abcdefgh" * 100)
    (tmp_path / "own.safetensors").write_bytes(serialize(trained, {"another": 1}))
    for command, said in (
        (["compare", "--resume", "../run"], "ran other weights than there are now"),
        (["validate", "../run"], "are neither shipped nor a file"),
    ):
        done = runner.invoke(app, command)
        assert isinstance(done.exception, UserError)
        assert said in str(done.exception)
        (tmp_path / "own.safetensors").unlink(missing_ok=True)
    assert runner.invoke(app, ["curves", "../run", "--figure", "pareto"]).exit_code == 0
