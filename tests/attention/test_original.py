"""The preset against what the original code computed."""

import json
from typing import Any

import pytest
import torch

from spangym.attention import (
    AdaptiveUpdateAttention,
    IntegratedAttention,
    SlidingWindowAttention,
    SpanConfig,
)
from spangym.attention.layers.modules import merge_heads, split_heads
from spangym.attention.original.layer import OriginalAdaptiveUpdateAttention
from spangym.attention.original.local_path import (
    FIXABLE_DEFECTS,
    OriginalSlidingWindowAttention,
    OriginalSpanConfig,
    truncated_attention,
)

from ..conftest import Golden

Recorded = Any


def parameters(recorded: Recorded, prefix: str) -> dict[str, torch.Tensor]:
    """Recorded parameters below a prefix, by their own names."""
    return {
        name.removeprefix(prefix): torch.from_numpy(recorded[name])
        for name in recorded
        if name.startswith(prefix)
    }


def tensor(recorded: Recorded, name: str) -> torch.Tensor:
    return torch.from_numpy(recorded[name])


@pytest.mark.parametrize("case", range(3))
@torch.no_grad()
def test_whole_layer_for_every_action(golden: Golden, case: int):
    recorded = golden("integrated_sdpa", f"case{case}.x")
    meta = json.loads(str(recorded[f"case{case}.meta"]))
    layer = IntegratedAttention.original(
        meta["ctx"],
        meta["dims"],
        meta["head"],
        max_dist=meta["max_dist"],
        win_size=meta["win_size"],
        max_span=meta["max_span"],
        temp_scale=meta["temp_scale"],
    )
    layer.load_state_dict(parameters(recorded, f"case{case}.param."))
    x = tensor(recorded, f"case{case}.x")
    for action in range(10):
        prefix = f"case{case}.action{action}."
        outcome = layer.forward_with_action(x, action)
        torch.testing.assert_close(
            outcome.output, tensor(recorded, prefix + "out"), rtol=0, atol=1e-5
        )
        assert outcome.reward.item() == pytest.approx(recorded[prefix + "reward"], abs=1e-5)
        assert outcome.state == [recorded[prefix + "state"]]
        assert outcome.next_state == [recorded[prefix + "next_state"]]


@pytest.mark.parametrize(("fused", "tolerance"), [(True, 1e-5), (False, 5e-4)])
@pytest.mark.parametrize("case", range(3))
@torch.no_grad()
def test_local_path(golden: Golden, case: int, fused: bool, tolerance: float):
    name = "sliding_local_sdpa" if fused else "sliding_local_matmul"
    recorded = golden(name)
    meta = json.loads(str(recorded[f"case{case}.meta"]))
    dims = recorded[f"case{case}.action9.x"].shape[-1]
    config = OriginalSpanConfig(
        meta["win_size"], meta["max_span"], meta["max_dist"], meta["temp_scale"], fused=fused
    )
    local = OriginalSlidingWindowAttention(dims, meta["head"], config)
    actions = [each for each in range(10) if f"case{case}.action{each}.x" in recorded]
    assert len(actions) >= 5
    for action in actions:
        prefix = f"case{case}.action{action}."
        scale = tensor(recorded, prefix + "span_scale")[:, 0]
        got = local(tensor(recorded, prefix + "x"), scale)
        expected = tensor(recorded, prefix + "out")
        torch.testing.assert_close(got.output, expected, rtol=0, atol=tolerance)
        assert got.spans.window[0] == recorded[prefix + "win_size"]
        if got.spans.span[0]:
            assert got.spans.span[0] == recorded[prefix + "span_len"]


@torch.no_grad()
def test_span_limited_attention(golden: Golden):
    recorded = golden("adaptive_span")
    cases = [name.removeprefix("meta") for name in recorded if name.startswith("meta")]
    assert len(cases) == 16
    for case in cases:
        meta = json.loads(str(recorded[f"meta{case}"]))
        m, strength = meta["span_scale"], meta["temp_scale"]
        temperature = 1 + strength * (1 - m) if meta["sharpen"] else 0.5 + strength * m
        got = truncated_attention(
            *(tensor(recorded, f"{name}{case}") for name in "qkv"),
            scale=m,
            head=meta["heads"],
            max_span=meta["max_span"],
            max_dist=meta["max_dist"],
            temperature=None if meta["sdpa"] else temperature,
        )
        torch.testing.assert_close(got, tensor(recorded, f"out{case}"), rtol=0, atol=1e-5)


@torch.no_grad()
def test_global_path_on_a_stream(golden: Golden):
    recorded = golden("adaptive_update")
    attention = OriginalAdaptiveUpdateAttention(16, 4, causal=False)
    attention.load_state_dict(parameters(recorded, "param."))
    cache = None
    for step in range(8):
        out, cache = attention(tensor(recorded, f"x{step}"), cache=cache)
        torch.testing.assert_close(out, tensor(recorded, f"out{step}"), rtol=0, atol=1e-5)
        torch.testing.assert_close(cache.keys, tensor(recorded, f"key{step}"), rtol=0, atol=1e-5)
        torch.testing.assert_close(
            cache.values, tensor(recorded, f"value{step}"), rtol=0, atol=1e-5
        )


def test_refiner_decides_once_for_the_batch_and_learns_in_eval_mode(generator: torch.Generator):
    class Recording:
        def __init__(self) -> None:
            self.updates: list[tuple[int, int, float, int]] = []

        def choose_action(self, state: int) -> int:  # noqa: ARG002
            return 7

        def update(self, state: int, action: int, reward: float, next_state: int) -> None:
            self.updates.append((state, action, reward, next_state))

    refiner = Recording()
    layer = IntegratedAttention.original(40, 16, 2, refiner=refiner, generator=generator).eval()
    x = torch.randn(3, 40, 16, generator=generator)
    outcome = layer.forward_with_action(x, 7)
    assert torch.equal(layer(x), outcome.output)
    (span_action,) = refiner.updates
    assert span_action == (outcome.state[0], 7, outcome.reward.item(), outcome.next_state[0])
    assert len(set(outcome.span.tolist())) == 1


LOCAL = ("temperature", "local_causal", "cut")
SIZES = {"win_size": 8, "max_span": 14, "max_dist": 14, "temp_scale": 0.7}


def make_local(**options: Any) -> OriginalSlidingWindowAttention:
    return OriginalSlidingWindowAttention(16, 2, OriginalSpanConfig(**(SIZES | options)))


VARIANTS = pytest.mark.parametrize(
    "fixes",
    [(), *((name,) for name in LOCAL), ("local_causal", "cut"), LOCAL],
    ids=lambda names: "-".join(names) or "none",
)
FUSED = pytest.mark.parametrize("fused", [True, False])
SCALES = (0.3, 0.6, 1.0)


def small(fixes: str = "", **options: Any) -> IntegratedAttention:
    generator = torch.Generator().manual_seed(0)
    sizes = {"win_size": 8, "max_span": 14, "temp_scale": 0.7, **options}
    return IntegratedAttention.original(30, 16, 2, **sizes, fixes=fixes, generator=generator).eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(1, 30, 16, generator=torch.Generator().manual_seed(1))


def keys_before(fixes: tuple[str, ...], fused: bool, query: int, window: int, span: int) -> range:
    """Which keys a query sees, in words of the original's slices of 30 tokens."""
    start = query // window * window
    first = max(0, start - span + window)
    held = range(first, min(30, start + span))
    slice_causal = fused and "local_causal" not in fixes
    if "cut" in fixes:
        return range(first, query + 1) if slice_causal else held
    queries = min(window, 30 - start)
    return range(first, first + (query - start + 1 if slice_causal else queries))


@VARIANTS
@FUSED
def test_which_keys_reach_a_query(fixes: tuple[str, ...], fused: bool, x: torch.Tensor):
    """Gradients beside the slices in words, and what the options say of them."""
    local = make_local(fused=fused, fixes=fixes)
    # Wide enough that no weight vanishes.
    x = x.double().requires_grad_()
    for scale in SCALES:
        done = local(x, torch.tensor([scale]))
        window, span = int(done.spans.window[0]), int(done.spans.span[0])
        first, end = local.config.visible_range(done.spans, 30)
        for query in range(30):
            expected = keys_before(fixes, fused, query, window, span)
            assert (first[0, query], end[0, query]) == (expected.start, expected.stop)
            (influence,) = torch.autograd.grad(
                done.output[0, query].square().sum(), x, retain_graph=True
            )
            reached = set(influence[0].abs().sum(-1).nonzero()[:, 0].tolist())
            # Its own position may reach it as the query, too.
            assert reached - {query} == {*expected} - {query}


@VARIANTS
@FUSED
@torch.no_grad()
def test_one_pass_written_out(fixes: tuple[str, ...], fused: bool, x: torch.Tensor):
    """Output, price and statistics beside weights that are all written out."""
    local = make_local(fused=fused, fixes=fixes, num_refinement_steps=1)
    for scale in SCALES:
        done = local(x, torch.tensor([scale]), return_stats=True)
        window, span = int(done.spans.window[0]), int(done.spans.span[0])
        seen = torch.zeros(30, 30, dtype=torch.bool)
        for query in range(30):
            keys = keys_before(fixes, fused, query, window, span)
            seen[query, keys.start : keys.stop] = True
        heads = split_heads(x, 2)
        divisor = 1 + 0.7 * (1 - scale) if "temperature" in fixes or not fused else 1.0
        scores = heads @ heads.transpose(-1, -2) / divisor / (8**0.5 if fused else 1)
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        torch.testing.assert_close(done.output, merge_heads(weights @ heads))
        assert done.qk_pairs.item() == seen.sum()
        assert done.stats is not None
        entropy = -torch.xlogy(weights, weights).sum(-1).mean()
        torch.testing.assert_close(done.stats.entropy[0], entropy, atol=1e-4, rtol=1e-4)
        coverage = (scores.softmax(-1) * seen).sum(-1).mean()
        torch.testing.assert_close(done.stats.coverage[0], coverage)
        assert done.stats.qk_pairs.item() == done.qk_pairs.item()


@torch.no_grad()
def test_local_path_with_all_fixed_is_the_default_one(x: torch.Tensor):
    fixes = make_local(fixes=LOCAL)
    default = SlidingWindowAttention(16, 2, SpanConfig(**SIZES))
    for scale in torch.linspace(0, 1, 10)[:, None]:
        got, expected = (each(x, scale, return_stats=True) for each in (fixes, default))
        torch.testing.assert_close(got.output, expected.output, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(vars(got.stats), vars(expected.stats), atol=1e-4, rtol=1e-4)
        assert got.qk_pairs.item() == expected.qk_pairs.item()
        assert got.num_refinement_steps.item() == expected.num_refinement_steps.item()


@torch.no_grad()
def test_global_path_with_all_fixed_is_the_default_one(x: torch.Tensor):
    fixes = OriginalAdaptiveUpdateAttention(16, 2, causal=False, scaled_twice=False)
    default = AdaptiveUpdateAttention(16, 2)
    default.load_state_dict(fixes.state_dict())
    torch.testing.assert_close(fixes(x)[0], default(x)[0])


@pytest.mark.parametrize("fixes", FIXABLE_DEFECTS)
@torch.no_grad()
def test_a_fixed_defect_changes_its_own_path_alone(fixes: str, x: torch.Tensor):
    original, layer = small(), small(fixes)
    assert original.state_dict().keys() == layer.state_dict().keys()
    scale = torch.tensor([0.6])
    same_local = torch.equal(
        original.attn_local(x, scale).output, layer.attn_local(x, scale).output
    )
    same_global = torch.equal(original.attn_global(x)[0], layer.attn_global(x)[0])
    assert (same_local, same_global) == (fixes not in LOCAL, fixes in LOCAL)
    before, after = original.forward_with_action(x, 9), layer.forward_with_action(x, 9)
    assert not torch.equal(before.output, after.output)


@pytest.mark.parametrize("fixes", ["", *FIXABLE_DEFECTS])
@torch.no_grad()
def test_only_a_fixed_temperature_is_heeded(fixes: str, x: torch.Tensor):
    cold, warm = (
        small(fixes, temp_scale=each).attn_local(x, torch.tensor([0.6])) for each in (0.0, 2.0)
    )
    assert torch.equal(cold.output, warm.output) == (fixes != "temperature")


@pytest.mark.parametrize("fixes", ["", *FIXABLE_DEFECTS])
def test_only_a_fixed_global_path_looks_ahead(fixes: str, x: torch.Tensor):
    x.requires_grad_()
    first = small(fixes).attn_global(x)[0][0, 0]
    (influence,) = torch.autograd.grad(first.square().sum(), x)
    assert bool(influence[0, -1].any()) == (fixes == "global_causal")


@torch.no_grad()
def test_global_scores_are_scaled_once_if_that_is_fixed(x: torch.Tensor):
    ratio = [
        each.query_module(x) @ each.key_module(x).transpose(-1, -2)
        for each in (small().attn_global, small("double_scale").attn_global)
    ]
    torch.testing.assert_close(ratio[0] * 8**0.5, ratio[1])


@torch.no_grad()
def test_an_action_may_be_a_share_of_the_longest_span(x: torch.Tensor):
    layer = small(action_scale="absolute")
    assert layer.forward_with_action(x, 9).span.item() == 14
    assert layer.forward_with_action(x, 3).span_scale.item() == pytest.approx(1 / 3)


@torch.no_grad()
def test_turned_off_it_covers_nothing(x: torch.Tensor):
    stats = small().forward_with_action(x, 0, return_stats=True).stats
    assert stats is not None
    assert all(getattr(stats, name).item() == 0 for name in ("span", "coverage", "entropy"))
    # So does a scale of less than a key.
    off = make_local()(x, torch.tensor([0.05]))
    assert (off.spans.span.item(), off.qk_pairs.item()) == (0, 0)


def test_weights_are_drawn_as_those_of_the_default_layer():
    generator = torch.Generator().manual_seed(0)
    default = IntegratedAttention(30, 16, 2, generator=generator).state_dict()
    drawn = small().state_dict()
    assert drawn.keys() - default.keys() == {"attn_local.span_scale"}
    assert all(torch.equal(drawn[name], each) for name, each in default.items())


def test_what_is_refused(x: torch.Tensor):
    with pytest.raises(ValueError, match="fixes 'causal' is unknown; did you mean"):
        small("causal")
    with pytest.raises(ValueError, match="not support lengths"):
        small()(x, lengths=torch.tensor([20]))
    with pytest.raises(NotImplementedError, match="no matrix of attention weights"):
        small().attention_weights(x)
