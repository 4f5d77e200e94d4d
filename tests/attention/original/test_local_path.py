"""The original's local path: recorded results, and each defect that can be fixed."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from spangym.attention import SlidingWindowAttention, SpanConfig
from spangym.attention.layers.modules import merge_heads, split_heads
from spangym.attention.original.local_path import OriginalSlidingWindowAttention
from spangym.attention.original.truncation import OriginalSpanConfig
from tests.factories import relative_error

from ...conftest import Golden

SIZES: dict[str, Any] = {"win_size": 8, "max_span": 14, "max_dist": 14, "temp_scale": 0.7}
SCALES = (0.3, 0.6, 1.0)
TOKENS = 30
LOCAL_FIXES = ("temperature", "local_causal", "cut")
VARIANTS = pytest.mark.parametrize(
    "fixes",
    [(), *((name,) for name in LOCAL_FIXES), ("local_causal", "cut"), LOCAL_FIXES],
    ids=lambda names: "-".join(names) or "none",
)
FUSED = pytest.mark.parametrize("fused", [True, False])


def make_local(**options: Any) -> OriginalSlidingWindowAttention:
    return OriginalSlidingWindowAttention(16, 2, OriginalSpanConfig(**(SIZES | options)))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(1, TOKENS, 16, generator=torch.Generator().manual_seed(1))


@FUSED
@pytest.mark.parametrize("case", range(3))
@torch.no_grad()
def test_reproduces_the_original(golden: Golden, case: int, fused: bool):
    recorded = golden("sliding_local_sdpa" if fused else "sliding_local_matmul")
    meta = json.loads(str(recorded[f"case{case}.meta"]))
    config = OriginalSpanConfig(**{name: meta[name] for name in SIZES}, fused=fused)
    actions = [each for each in range(10) if f"case{case}.action{each}.x" in recorded]
    assert len(actions) >= 5
    for action in actions:
        prefix = f"case{case}.action{action}."
        x, scale, expected = (
            torch.from_numpy(recorded[prefix + name]) for name in ("x", "span_scale", "out")
        )
        local = OriginalSlidingWindowAttention(x.shape[-1], meta["head"], config)(x, scale[:, 0])
        assert relative_error(local.output, expected) < 1e-5
        assert local.spans.window[0] == recorded[prefix + "win_size"]
        if local.spans.span[0]:
            assert local.spans.span[0] == recorded[prefix + "span_len"]


def visible_keys(fixes: tuple[str, ...], fused: bool, query: int, window: int, span: int) -> range:
    """Keys of a query, by the original's slices."""
    start = query // window * window
    first = max(0, start - span + window)
    slice_causal = fused and "local_causal" not in fixes
    if "cut" in fixes:
        return range(first, query + 1 if slice_causal else min(TOKENS, start + span))
    queries = min(window, TOKENS - start)
    return range(first, first + (query - start + 1 if slice_causal else queries))


@VARIANTS
@FUSED
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_keys_with_influence_on_a_query(fixes: tuple[str, ...], fused: bool, x: Tensor):
    local = make_local(fused=fused, fixes=fixes)
    # In float64 no weight vanishes.
    x = x.double().requires_grad_()
    for scale in SCALES:
        result = local(x, torch.tensor([scale]))
        window, span = int(result.spans.window[0]), int(result.spans.span[0])
        first, end = local.config.visible_range(result.spans, TOKENS)
        (gradients,) = torch.autograd.grad(
            result.output[0].square().sum(-1), x, torch.eye(TOKENS).double(), is_grads_batched=True
        )
        has_influence = gradients[:, 0].abs().sum(-1) > 0
        for query in range(TOKENS):
            expected = visible_keys(fixes, fused, query, window, span)
            assert (first[0, query], end[0, query]) == (expected.start, expected.stop)
            found = set(has_influence[query].nonzero()[:, 0].tolist())
            # Its own position has influence as the query, too.
            assert found - {query} == {*expected} - {query}


@VARIANTS
@FUSED
@torch.no_grad()
def test_one_pass_equals_its_definition(fixes: tuple[str, ...], fused: bool, x: Tensor):
    """Output, query-key pairs and statistics from the full matrix of weights."""
    local = make_local(fused=fused, fixes=fixes, num_refinement_steps=1)
    for scale in SCALES:
        result = local(x, torch.tensor([scale]), return_stats=True)
        window, span = int(result.spans.window[0]), int(result.spans.span[0])
        visible = torch.zeros(TOKENS, TOKENS, dtype=torch.bool)
        for query in range(TOKENS):
            keys = visible_keys(fixes, fused, query, window, span)
            visible[query, keys.start : keys.stop] = True
        heads = split_heads(x, 2)
        divisor = 1 + 0.7 * (1 - scale) if "temperature" in fixes or not fused else 1.0
        scores = heads @ heads.transpose(-1, -2) / divisor / (8**0.5 if fused else 1)
        weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        torch.testing.assert_close(result.output, merge_heads(weights @ heads))
        assert result.qk_pairs.item() == visible.sum()
        assert result.stats is not None
        entropy = torch.special.entr(weights).sum(-1).mean()
        torch.testing.assert_close(result.stats.entropy[0], entropy, atol=1e-4, rtol=1e-4)
        coverage = (scores.softmax(-1) * visible).sum(-1).mean()
        torch.testing.assert_close(result.stats.coverage[0], coverage)
        assert result.stats.qk_pairs.item() == result.qk_pairs.item()


@torch.no_grad()
def test_with_all_defects_fixed_equals_the_default(x: Tensor):
    fixed = make_local(fixes=LOCAL_FIXES)
    default = SlidingWindowAttention(16, 2, SpanConfig(**SIZES))
    for scale in torch.linspace(0, 1, 10)[:, None]:
        one, other = (each(x, scale, return_stats=True) for each in (fixed, default))
        torch.testing.assert_close(one.output, other.output, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(vars(one.stats), vars(other.stats), atol=1e-4, rtol=1e-4)
        assert one.qk_pairs.item() == other.qk_pairs.item()
        assert one.num_refinement_steps.item() == other.num_refinement_steps.item()


@pytest.mark.parametrize(
    "options",
    [
        {"scale_weights": True},
        {"causal": True},
        {"soft_span": True},
        {"local_projections": True},
        {"num_induction_heads": 1},
    ],
    ids=lambda each: next(iter(each)),
)
def test_options_that_the_original_lacks_are_refused(options: dict[str, Any]):
    with pytest.raises(ValueError, match=f"{next(iter(options))} .*lacks"):
        make_local(**options)


def test_weights_are_refused(x: Tensor):
    with pytest.raises(NotImplementedError, match="weights"):
        make_local()(x, torch.tensor([0.5]), return_weights=True)


def test_scale_of_less_than_a_key_turns_it_off(x: Tensor):
    result = make_local()(x, torch.tensor([0.05]))
    assert (result.spans.span.item(), result.qk_pairs.item()) == (0, 0)
