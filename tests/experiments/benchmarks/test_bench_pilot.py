"""`spangym bench pilot`: its rows and inputs, never seconds."""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from spangym.envs.data.dataset_registry import make_dataset
from spangym.experiments.benchmarks.bench_pilot import (
    LENGTHS,
    VARIANTS,
    LocalAttention,
    PilotBench,
    Variant,
    make_variant,
    run,
)
from spangym.experiments.benchmarks.long_inputs import (
    CHEAPER_RATIO,
    FULL,
    TaskName,
    Timing,
    break_even_length,
    long_inputs_table,
    make_row,
)
from spangym.experiments.cli.app import app
from spangym.experiments.pilot.attentions import PlainAttention
from spangym.experiments.pilot.corpus import Corpus
from spangym.experiments.pilot.models import num_parameters
from spangym.experiments.pilot.pilot_study import ModelConfig
from spangym.experiments.pilot.synthetic_speech import SyntheticSpeechConfig, build_corpus
from spangym.utils.errors import UserError

STORED = Path(__file__).parents[3] / "experiments" / "results" / "bench-pilot-cpu.json"
TINY = SyntheticSpeechConfig(
    train_utterances=4, test_seen_utterances=4, test_unseen_utterances=4, voices=2, unseen_voices=2
)
TASKS = pytest.mark.parametrize("task", ["speech", "text"])
BY_NAME = {each.name: each for each in VARIANTS}
rising = st.lists(st.integers(1, 10**6), min_size=1, max_size=8, unique=True).map(sorted)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def corpus(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """A corpus of few utterances."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return build_corpus(TINY)


def tiny_bench(**lengths: tuple[int, ...]) -> PilotBench:
    sizes: Any = {"speech": (1, 2), "text": (16, 24, 32)} | lengths
    return PilotBench(rounds=1, lengths=sizes, min_seconds=1e-4, corpus=TINY)


@given(
    rising.filter(lambda each: len(each) > 1),
    st.floats(0.001, 0.999),
    st.floats(0.1, 3),
    st.floats(0.5, 1),
)
def test_costs_cross_where_a_power_law_does(
    tokens: list[int], place: float, power: float, level: float
):
    where = tokens[0] ** (1 - place) * tokens[-1] ** place
    ratios = [level * (each / where) ** -power for each in tokens]
    assert break_even_length(tokens, ratios, level) == pytest.approx(where, rel=1e-6)


@given(st.data(), rising)
def test_costs_have_crossed_for_good(data: st.DataObject, tokens: list[int]):
    one = st.floats(0.01, 100)
    ratios = data.draw(st.lists(one, min_size=len(tokens), max_size=len(tokens)))
    found = break_even_length(tokens, ratios)
    assert (found is None) == (ratios[-1] >= CHEAPER_RATIO)
    if found is not None:
        assert tokens[0] * (1 - 1e-9) <= found <= tokens[-1] * (1 + 1e-9)
        pairs = list(zip(tokens, ratios, strict=True))
        assert all(ratio < CHEAPER_RATIO for each, ratio in pairs if each > found * (1 + 1e-9))
        dearer = [each for each, ratio in pairs if ratio >= CHEAPER_RATIO]
        assert found == tokens[0] if not dearer else found >= dearer[-1] * (1 - 1e-9)


@TASKS
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda each: each.name)
def test_all_models_are_of_one_size(task: TaskName, variant: Variant):
    plain, own = (
        num_parameters(make_variant(each, task, 30, 16, 0)) for each in (BY_NAME[FULL], variant)
    )
    assert abs(own / plain - 1) < 0.005


@pytest.mark.parametrize("causal", [False, True])
def test_the_local_path_alone_is_full_attention_where_its_span_reaches(causal: bool):
    config = ModelConfig()
    local, plain = LocalAttention(config, 9, causal), PlainAttention(96, 4, causal)
    for name in ("query", "key", "value"):
        own = local.local.get_submodule(f"projections.{name}").state_dict()
        plain.attention.get_submodule(f"{name}_module").load_state_dict(own)
    plain.attention.combiner.load_state_dict(local.combiner.state_dict())
    x = torch.randn(1, config.win_size, 96, generator=torch.Generator().manual_seed(0))
    output, visited = local(x)
    torch.testing.assert_close(output, plain(x))
    assert visited.item() == (136 if causal else 256)


def test_real_text_is_read():
    lengths = (16, 300)
    source = make_dataset("text", "evaluation")
    for length, long_input in zip(lengths, tiny_bench(text=lengths).inputs("text"), strict=True):
        expected = source.sample(np.random.default_rng(0), 1, length).content
        assert long_input.content.tolist() == expected.tolist()
        assert torch.equal(long_input.targets[0, :-1], long_input.content[0, 1:])
        assert long_input.num_classes == 256


def test_real_utterances_are_joined(corpus: Corpus):
    assert corpus.test_unseen is not None
    unseen = corpus.test_unseen
    lengths = (1, 5)
    for length, long_input in zip(
        lengths, tiny_bench(speech=lengths).inputs("speech"), strict=True
    ):
        assert long_input.content.shape[0] == 1
        assert long_input.content.shape[1] >= 25 * length
        frames = long_input.content[0].numpy().reshape(-1, 80)
        first = next(
            index
            for index, each in enumerate(unseen.frames)
            if np.array_equal(each[: unseen.lengths[index]], frames[: unseen.lengths[index]])
        )
        said = "".join(corpus.alphabet[each - 1] for each in long_input.targets[0].tolist())
        assert said.startswith(unseen.texts[first])
        assert set(said.split()) <= set(" ".join(unseen.texts).split())


@pytest.mark.usefixtures("corpus")
def test_rows_of_both_tasks():
    measured = list(run(["speech", "text"], True, torch.device("cpu"), bench=tiny_bench()))
    rows = {(row["task"], row["variant"]): row for row in measured}
    assert list(rows) == [*itertools.product(("speech", "text"), BY_NAME)]
    for (task, label), row in rows.items():
        assert set(row) == {"task", "variant", "lengths", "break_even_length", "ratio_at_longest"}
        full = rows[task, FULL]["lengths"]
        assert len(row["lengths"]) == (3 if task == "text" else 2)
        for own, other in zip(row["lengths"], full, strict=True):
            assert own["tokens"] == other["tokens"]
            assert own.get("seconds") == (own["tokens"] / 25 if task == "speech" else None)
            pairs = own["tokens"] ** 2
            if task == "text":
                pairs = (pairs + own["tokens"]) / 2
            assert other["qk_pairs"] == pairs
            variant = BY_NAME[label]
            has_full = variant.config.global_path == "full" and not variant.local_only
            if label != FULL and has_full:
                assert own["qk_pairs"] > pairs
            for what in ("training", "inference"):
                ratio = own[f"{what}_milliseconds"] / other[f"{what}_milliseconds"]
                assert own[f"{what}_ratio"] == pytest.approx(ratio)
                assert ratio > 0
        for what in ("training", "inference"):
            ratios = [each[f"{what}_ratio"] for each in row["lengths"]]
            assert row["ratio_at_longest"][what] == ratios[-1]
            assert row["break_even_length"][what] == break_even_length(
                [each["tokens"] for each in row["lengths"]], ratios
            )
    assert {each["qk_pairs"] for each in rows["text", "neither path"]["lengths"]} == {0}
    one, ten = (
        rows["text", f"integrated, fixed:9{refinement_steps}"]["lengths"][-1]["qk_pairs"] - 528
        for refinement_steps in ("", ", ten passes")
    )
    assert one < ten <= 10 * one


def test_the_table_says_what_was_measured():
    full = [Timing(length, length**2, length**2, length**2 / 4) for length in (50, 500, 5000)]
    local = [Timing(each.tokens, each.tokens * 50, each.tokens * 100.0, 1.0) for each in full]
    tasks: tuple[TaskName, ...] = ("speech", "text")
    rows = [
        make_row(task, label, own, full)
        for task in tasks
        for label, own in ((FULL, full), ("local", local))
    ]
    table = long_inputs_table(rows)
    assert table.title == "cost over full attention's: speech of 200 s, text of 5,000 bytes"
    first, second = ([cell.text for cell in line.cells] for line in table.rows)
    assert first == [FULL, *["1", "25,000,000 ms", "6,250,000 ms"] * 2]
    assert second[1:4] == ["0.01", "0.02 (4.4 s)", "0.00 (≤ 2.0 s)"]
    assert second[4:] == ["0.01", "0.02 (110 bytes)", "0.00 (≤ 50 bytes)"]


@pytest.mark.parametrize(("option", "value"), [("--json", "."), ("--device", "abacus")])
def test_bad_options_are_refused_before_anything_is_measured(option: str, value: str):
    done = CliRunner().invoke(app, ["bench", "pilot", option, value])
    assert isinstance(done.exception, UserError)
    assert repr(value) in str(done.exception)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    done = CliRunner().invoke(app, ["bench", "pilot", "speech", "--quick"])
    assert isinstance(done.exception, UserError)
    assert "pip install 'spangym[speech]'" in str(done.exception)


def test_stored_rows_are_of_these_variants():
    stored = json.loads(STORED.read_text())
    assert (stored["machine"]["device"], stored["machine"]["threads"]) == ("cpu", 1)
    expected = [*itertools.product(("speech", "text"), BY_NAME)]
    assert [(row["task"], row["variant"]) for row in stored["rows"]] == expected
    for row in stored["rows"]:
        assert len(row["lengths"]) == len(LENGTHS[row["task"]])
