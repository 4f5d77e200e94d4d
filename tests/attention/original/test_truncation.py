"""`AdaptiveSpan.original` against recorded results, and the names of defects."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from spangym.attention import AdaptiveSpan, SlidingWindowAttention
from spangym.attention.original.truncation import FIXABLE_DEFECTS, parse_fixes
from tests.factories import relative_error

from ...conftest import Golden

SIZES = {"max_span": 20, "max_dist": 40, "temp_scale": 0.7}


@pytest.fixture
def q() -> Tensor:
    return torch.randn(2, 18, 16, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_reproduces_the_original(golden: Golden):
    recorded = golden("adaptive_span")
    cases = [name.removeprefix("meta") for name in recorded if name.startswith("meta")]
    assert len(cases) == 16
    for case in cases:
        meta = json.loads(str(recorded[f"meta{case}"]))
        attention = AdaptiveSpan.original(
            meta["heads"],
            meta["max_dist"],
            meta["max_span"],
            meta["temp_scale"],
            temperature_law="longer" if meta["sharpen"] else "shorter",
            fused=meta["sdpa"],
        )
        q, k, v, expected = (
            torch.from_numpy(recorded[f"{name}{case}"]) for name in ("q", "k", "v", "out")
        )
        scale = torch.full((len(q),), meta["span_scale"], dtype=torch.float64)
        local = attention(q, k, v, scale)
        assert relative_error(local.output, expected) < 1e-5
        assert local.spans.span.tolist() == [expected.shape[1]] * len(q)
        assert local.qk_pairs.tolist() == [expected.shape[1] ** 2] * len(q)


@torch.no_grad()
def test_fused_attention_is_causal_where_a_mask_is_given(q: Tensor):
    scale, mask = torch.ones(2), torch.ones(18, 18, dtype=torch.bool)

    def run(mask: Tensor | None, **options: Any) -> Any:
        return AdaptiveSpan.original(2, **SIZES, **options)(q, q, q, scale, mask=mask)

    causal = run(mask)
    assert torch.allclose(causal.output[:, 0], q[:, 0])
    assert causal.qk_pairs.tolist() == [18 * 19 // 2] * 2
    for other in (run(mask, fused=False), run(mask, fixes="local_causal"), run(None)):
        assert not torch.allclose(other.output[:, 0], q[:, 0])
        assert other.qk_pairs.tolist() == [18 * 18] * 2


@torch.no_grad()
def test_with_all_defects_fixed_equals_the_default(q: Tensor):
    scale = torch.full((2,), 0.5)
    original = AdaptiveSpan.original(2, **SIZES, fixes=FIXABLE_DEFECTS)
    scores = q.unflatten(-1, (2, 8)).transpose(1, 2)
    weights = (scores @ scores.mT / 8**0.5 / (1 + 0.7 * 0.5)).softmax(-1)
    expected = (weights @ scores).transpose(1, 2).flatten(2)
    torch.testing.assert_close(original(q, q, q, scale).output, expected)
    assert AdaptiveSpan.original(2, **SIZES)(q, q, q, scale).output.shape == (2, 10, 16)


def test_what_the_original_lacks_is_refused(q: Tensor):
    attention, scale = AdaptiveSpan.original(2, **SIZES), torch.ones(2)
    lacked: list[dict[str, Any]] = [
        {"lengths": torch.tensor([3, 4])},
        {"key_lengths": torch.tensor([3, 4])},
        {"num_refinement_steps": 2},
        {"return_stats": True},
        {"return_weights": True},
    ]
    for options in lacked:
        with pytest.raises(ValueError, match="the original has no"):
            attention(q, q, q, scale, **options)
    with pytest.raises(TypeError, match="SlidingWindowAttention has no original"):
        SlidingWindowAttention.original(2)


def test_names_of_defects():
    assert parse_fixes("") == parse_fixes([]) == ()
    assert parse_fixes(reversed(FIXABLE_DEFECTS)) == FIXABLE_DEFECTS
