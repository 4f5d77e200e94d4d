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
    load_stack,
    read_manifest,
    shipped_weights,
    to_bytes,
)
from spangym.envs.model.pretrain import describe, judge, pretrain, recipe_of
from spangym.envs.model.pretrain_config import RECIPES, Recipe
from spangym.envs.model.stack import BlockSizes, BlockStack
from spangym.experiments.benchmarks.baselines import COLUMNS, References, measure_references
from spangym.experiments.cli.app import app
from spangym.utils.errors import UserError

SIZES = BlockSizes(layers=1, dims=16, heads=2, ctx=32, win_size=4, max_span=36, hidden=16)
SMALL = Recipe("letters", SIZES, steps=60, batch=8, learning_rate=1e-2)


@pytest.fixture(scope="module")
def trained() -> BlockStack:
    return pretrain(SMALL, lambda *_: None)


def test_training_lowers_the_loss_at_every_span(trained: BlockStack):
    untrained = BlockStack(SIZES, torch.Generator().manual_seed(0)).eval()
    before, after = judge(untrained, SMALL), judge(trained, SMALL)
    assert set(after) == {str(action) for action in range(10)}
    assert all(after[action] < 0.6 * before[action] for action in after)


def test_the_same_recipe_gives_the_same_weights(trained: BlockStack):
    again = pretrain(SMALL, lambda *_: None)
    for one, other in zip(trained.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_global_path_that_only_averages_keeps_its_first_queries_and_keys():
    recipe = dataclasses.replace(SMALL, steps=3, summary=True)
    stack, first = (
        pretrain(recipe, lambda *_: None),
        BlockStack(SIZES, torch.Generator().manual_seed(0)),
    )
    for name, weight in stack.named_parameters():
        kept = "attn_global.query_module" in name or "attn_global.key_module" in name
        unused = "predictor" in name or "span_pred" in name
        assert torch.equal(weight, first.get_parameter(name)) == (kept or unused), name


def test_a_file_brings_weights_sizes_and_how_it_was_made(trained: BlockStack, tmp_path: Path):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(to_bytes(trained, describe(SMALL, judge(trained, SMALL), 1.0)))
    loaded = load_stack(str(path))
    content = torch.randint(256, (2, 32), generator=torch.Generator().manual_seed(0))
    hidden, same = trained.embed(content), loaded.embed(content)
    assert torch.equal(trained.layer(0)(hidden), loaded.layer(0)(same))
    assert not any(each.requires_grad for each in loaded.parameters())
    manifest = read_manifest(str(path))
    assert manifest["recipe"]["steps"] == 60
    env = SpanControlEnv(weights=str(path), source="letters", reward="task", chunks=2)
    assert (env.settings.layers, env.settings.dims, env.settings.ctx) == (1, 16, 32)
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
        SpanControlEnv(weights=str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_named(trained: BlockStack, tmp_path: Path):
    path = tmp_path / "cut.safetensors"
    whole = to_bytes(trained, {})
    path.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match=r"cut\.safetensors"):
        SpanControlEnv(weights=str(path))


class TestShippedWeights:
    def test_every_recipe_has_its_file_and_every_id_its_recipe(self):
        assert set(shipped_weights()) == set(RECIPES)
        used = {given["weights"] for given in ENVIRONMENTS.values() if "weights" in given}
        assert used == set(RECIPES)

    @pytest.mark.parametrize("name", RECIPES)
    def test_they_are_what_their_recipe_says(self, name: str):
        made = read_manifest(name)
        recipe = json.loads(json.dumps(dataclasses.asdict(RECIPES[name])))
        assert made["recipe"] == recipe
        assert made["sizes"] == recipe["sizes"]

    @pytest.mark.parametrize("name", RECIPES)
    def test_they_are_as_good_as_their_manifest_says(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setattr(pretraining, "_JUDGED_CHUNKS", 48)  # Of 256.
        found = judge(load_stack(name), RECIPES[name])
        said = read_manifest(name)["bits_by_action"]
        for action in ("0", min(said, key=said.__getitem__), "9"):
            assert found[action] == pytest.approx(said[action], rel=0.3, abs=0.1)

    def test_together_they_are_small(self):
        assert sum(path.stat().st_size for path in shipped_weights().values()) < 5_000_000


def test_pretrain_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(RECIPES, "span-budget", SMALL)
    path = tmp_path / "new.safetensors"
    done = CliRunner().invoke(
        app, ["pretrain", "SpanBudget-v0", "--out", str(path), "--steps", "3"]
    )
    assert done.exit_code == 0, done.output
    assert "bits a target on evaluation streams, by span: 0: " in done.output
    assert read_manifest(str(path))["recipe"]["steps"] == 3


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ("SpanControl-v0", "have random weights; trained are those of: spangym/SpanBudget-v0"),
        ("SpanBugdet-v0", "did you mean 'spangym/SpanBudget-v0'"),
    ],
)
def test_ids_without_a_recipe(environment: str, message: str):
    with pytest.raises(UserError) as caught:
        recipe_of(environment)
    assert message in str(caught.value)


def test_references_are_what_the_policies_earn(monkeypatch: pytest.MonkeyPatch):
    small = {"dims": 8, "heads": 2, "ctx": 16, "chunks": 2, "price": 0.3}
    monkeypatch.setitem(ENVIRONMENTS, "spangym/SpanControl-v0", small)
    done: list[tuple[int, int]] = []
    found = measure_references("spangym/SpanControl-v0", 3, lambda *each: done.append(each))
    assert found.chunks == 6
    assert done[-1] == (102, 102)
    env = SpanControlEnv(**small, split="evaluation")
    returns = []
    for lane in range(3):
        env.reset(seed=1_000_000 + lane)
        returns.append(sum(env.step(7)[1] for _ in range(4)))
    assert found.fixed[7] == pytest.approx(np.mean(returns) / 2, abs=1e-5)
    assert found.best_fixed <= found.best_by_layer <= found.told
    assert found.random < found.oracle
    assert found.score <= 1.01


def test_a_row_of_references_as_text():
    fixed = (0.0, 0.5, *[0.1] * 8)
    row = References("spangym/A-v0", 9, -1.0, fixed, 0.6, 0.7, 1.0, (1, 2))
    assert row.cells()[:3] == ("A-v0", "-1.000", "0.000")
    assert row.cells()[-2:] == ("1", "0.75")


ROOT = Path(__file__).parents[2]


def test_stored_references_are_those_of_the_readme_and_no_fixed_span_is_near_the_oracle():
    stored = json.loads((ROOT / "experiments" / "results" / "references.json").read_text())
    rows = [References(**row) for row in stored["rows"]]
    assert [row.id for row in rows] == [*ENVIRONMENTS]
    readme = [" ".join(line.split()) for line in (ROOT / "README.md").read_text().splitlines()]
    for names, *cells in zip(COLUMNS, *(row.cells() for row in rows), strict=True):
        if names != "id":
            assert f"| {names} | {' | '.join(cells)} |" in readme
    for row in rows[1:]:
        assert row.oracle - row.best_fixed > 0.05 * abs(row.oracle)
        assert row.score < 0.95
        assert row.told > row.best_fixed


def test_the_stored_oracle_is_that_of_the_shipped_layers():
    """One id played again, with fewer episodes: the first of those stored."""
    stored = json.loads((ROOT / "experiments" / "results" / "references.json").read_text())
    (row,) = (References(**row) for row in stored["rows"] if row["id"].endswith("Sparsity-v0"))
    env = SpanControlEnv(**ENVIRONMENTS[row.id], split="evaluation")
    returns = []
    for seed in range(3):
        env.reset(seed=1_000_000 + seed)
        for _ in range(env.settings.chunks):
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
steps = 4
seeds = [0]
[[environments]]
id = "spangym/SpanControl-v0"
arguments = { weights = "own.safetensors", source = "own.txt", reward = "task", chunks = 1 }
[evaluation]
episodes = 1
"""


def test_a_run_with_weights_and_content_of_ones_own(
    trained: BlockStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """From another folder it can be replayed; changed or gone files are named in a line."""
    (tmp_path / "own.safetensors").write_bytes(to_bytes(trained, {}))
    (tmp_path / "own.txt").write_text("abcdefgh" * 100)
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    done = runner.invoke(app, ["compare", "study.toml", "--out", "run", "--jobs", "1"])
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
    (tmp_path / "own.safetensors").write_bytes(to_bytes(trained, {"another": 1}))
    for command, said in (
        (["compare", "--resume", "../run"], "ran other weights than there are now"),
        (["validate", "../run"], "are neither shipped nor a file"),
    ):
        done = runner.invoke(app, command)
        assert isinstance(done.exception, UserError)
        assert said in str(done.exception)
        (tmp_path / "own.safetensors").unlink(missing_ok=True)
    assert runner.invoke(app, ["curves", "../run", "--figure", "pareto"]).exit_code == 0
