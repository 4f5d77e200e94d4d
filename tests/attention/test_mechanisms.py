"""Masks, padding, cross-attention, causality, soft spans, statistics: through whole layers."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from spangym.agents import Refiner
from spangym.attention import (
    AdaptiveSpan,
    AdaptiveUpdateAttention,
    FocusAttention,
    HybridAttention,
    IntegratedAttention,
    LocalGlobalAttention,
    MultiHeadAttention,
    SlidingWindowAttention,
    SpanConfig,
)
from spangym.attention.features import token_mean, token_moments
from spangym.attention.layers.modules import merge_heads, split_heads
from spangym.attention.temperature import TemperatureLaw, temperature

LAYERS = pytest.mark.parametrize("kind", [IntegratedAttention, FocusAttention, HybridAttention])
SMALL: dict[str, Any] = {"max_dist": 48, "win_size": 16, "max_span": 24, "temp_scale": 0.3}

Kind = Callable[..., LocalGlobalAttention]


def make(kind: Any = IntegratedAttention, **options: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    return kind(96, 32, 4, SpanConfig(**SMALL, **options), generator=generator).eval()


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return torch.randn(3, 70, 32, generator=generator)


class TestMasks:
    @LAYERS
    def test_a_mask_of_padding_is_lengths(self, kind: Kind, x: Tensor):
        layer, lengths = make(kind), torch.tensor([70, 33, 16])
        mask = (torch.arange(70) < lengths[:, None])[:, None, None]
        by_mask, by_lengths = layer(x, mask=mask), layer(x, lengths=lengths)
        # The predictor's mean knows padding only by lengths: the first lane has none.
        torch.testing.assert_close(by_mask[0], by_lengths[0])

    @LAYERS
    def test_padding_changes_nothing(self, kind: Kind, x: Tensor):
        layer, lengths = make(kind), torch.tensor([70, 33, 16])
        padded = layer.step(x, lengths=lengths)
        other = torch.where((torch.arange(70) < lengths[:, None])[..., None], x, 7.0)
        assert torch.equal(padded.output, layer(other, lengths=lengths))
        for lane, length in enumerate(lengths.tolist()):
            alone = layer.step(x[lane : lane + 1, :length])
            torch.testing.assert_close(
                padded.output[lane, :length], alone.output[0], rtol=1e-4, atol=1e-5
            )
            assert padded.output[lane, length:].abs().sum() == 0
            assert padded.qk_pairs[lane] == alone.qk_pairs[0]
            torch.testing.assert_close(padded.reward[lane], alone.reward[0])
            assert padded.state[lane] == alone.state[0]

    def test_what_a_mask_hides_has_no_influence(self, x: Tensor, generator: torch.Generator):
        local = SlidingWindowAttention(32, 4, SpanConfig(win_size=8, max_span=20))
        mask = torch.rand(3, 1, 70, 70, generator=generator) < 0.5
        scale = torch.tensor([0.4, 1.0, 0.7])
        other = torch.randn(x.shape, generator=generator)
        hidden = ~mask.any(2)[:, 0]  # Keys that no query may see.
        hidden[:, ::7] = True
        mask = mask & ~hidden[:, None, None]
        changed = torch.where(hidden[..., None], other, x)
        q, k, k_changed = x, x, changed
        span = AdaptiveSpan(4, local.config)
        one = span(q, k, k, scale, mask=mask).output
        assert torch.equal(one, span(q, k_changed, k_changed, scale, mask=mask).output)
        assert not torch.equal(one, span(q, k, k, scale).output)

    def test_a_boolean_mask_equals_an_additive_one(self, x: Tensor, generator: torch.Generator):
        layer = make()
        mask = torch.rand(3, 4, 70, 70, generator=generator) < 0.5
        to_additive_mask = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
        torch.testing.assert_close(layer(x, mask=mask), layer(x, mask=to_additive_mask))

    def test_queries_that_see_nothing_get_zero_and_no_gradient(self, x: Tensor):
        x.requires_grad_()
        mask = torch.ones(70, 70, dtype=torch.bool)
        mask[5] = False
        outcome = make().forward_with_action(x, 9, mask=mask, return_stats=True)
        assert outcome.local_output[:, 5].abs().sum() == 0
        outcome.output.sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert outcome.stats is not None
        assert outcome.stats.entropy.isfinite().all()


class TestCrossAttention:
    @LAYERS
    def test_of_itself_is_self_attention(self, kind: Kind, x: Tensor):
        layer = make(kind)
        assert torch.equal(layer(x, x.clone()), layer(x))

    @LAYERS
    def test_keys_come_from_xa_alone(self, kind: Kind, x: Tensor, generator: torch.Generator):
        layer, xa = make(kind), torch.randn(3, 40, 32, generator=generator)
        y = layer(x, xa, torch.rand(3, 1, 70, 40, generator=generator) < 0.9)
        assert y.shape == x.shape
        outcome = layer.step(x, xa, xa_lengths=torch.tensor([40, 20, 30]))
        padded = torch.where(
            (torch.arange(40) < torch.tensor([40, 20, 30])[:, None])[..., None], xa, 5.0
        )
        again = layer.step(x, padded, xa_lengths=torch.tensor([40, 20, 30]))
        assert torch.equal(outcome.output, again.output)
        # A token's output depends on no other token of x, but for the span, which is the mean's.
        changed = x.clone()
        changed[:, -1] += 1e-6
        assert torch.equal(layer(changed, xa)[:, :-1], layer(x, xa)[:, :-1])

    def test_windows_behind_the_last_key_see_nothing(self, x: Tensor):
        local = SlidingWindowAttention(32, 4, SpanConfig(win_size=8, max_span=8))
        got = local(x, torch.ones(3), x[:, :20])
        assert got.output[:, 24:].abs().sum() == 0
        assert got.output[:, 16:24].abs().sum() > 0


class TestCausality:
    @LAYERS
    @settings(max_examples=15, deadline=None)
    @given(at=st.integers(1, 69), action=st.integers(0, 9), seed=st.integers(0, 99))
    def test_future_tokens_never_leak(self, kind: Kind, at: int, action: int, seed: int):
        layer = make(kind, causal=True)
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(2, 70, 32, generator=generator)
        changed = x.clone()
        changed[:, at:] = torch.randn(2, 70 - at, 32, generator=generator) * 3
        if isinstance(layer, IntegratedAttention):
            layer.refiner = Refiner(seed=0, epsilon=1.0)
            one, other = (
                layer.forward_with_action(x, action),
                layer.forward_with_action(changed, action),
            )
            torch.testing.assert_close(
                one.output[:, :at], other.output[:, :at], rtol=1e-5, atol=1e-6
            )
            assert layer.obs_features(x).tolist() == layer.obs_features(changed).tolist()
        one = layer.step(x)
        if isinstance(layer, IntegratedAttention):
            layer.refiner = Refiner(seed=0, epsilon=1.0)
        other = layer.step(changed)
        torch.testing.assert_close(one.output[:, :at], other.output[:, :at], rtol=1e-5, atol=1e-6)
        assert torch.equal(one.span, other.span)
        # On a stream the next pass is decided from this one, not from itself.
        if isinstance(layer, IntegratedAttention):
            layer.refiner = None
        following = torch.randn(2, 70, 32, generator=generator)
        torch.testing.assert_close(
            layer.step(following, cache=one.cache).span,
            layer.step(following * 2, cache=one.cache).span,
        )

    @LAYERS
    def test_a_causal_decoder_sees_all_of_its_encoder_and_nothing_of_its_future(
        self, kind: Kind, x: Tensor, generator: torch.Generator
    ):
        layer, xa = make(kind, causal=True), torch.randn(3, 100, 32, generator=generator)
        for module in (layer.attn_global.query_module, layer.attn_global.key_module):
            torch.nn.init.normal_(module.proj.weight, std=0.5, generator=generator)
        changed = x.clone()
        changed[:, 30:] = torch.randn(3, 40, 32, generator=generator) * 3
        one, other = layer(x, xa), layer(changed, xa)
        torch.testing.assert_close(one[:, :30], other[:, :30], rtol=1e-5, atol=1e-6)
        assert not torch.equal(one[:, 30:], other[:, 30:])
        further = xa.clone()
        further[:, -1] += 5
        assert not torch.equal(one[:, 0], layer(x, further)[:, 0])

    def test_later_queries_do_not_say_when_earlier_ones_have_settled(
        self, generator: torch.Generator
    ):
        x, xa = torch.randn(2, 3, 64, 32, generator=generator)
        xa = xa * 2  # Keys far enough apart that windows settle, some sooner than others.
        later = torch.arange(64) % 16 >= 8
        settled = torch.where(later[:, None], 0.0, x)
        for causal in (False, True):
            options = SpanConfig(win_size=16, max_span=24, causal=causal)
            local = SlidingWindowAttention(32, 1, options)
            one, other = (local(each, torch.ones(3), xa).output for each in (x, settled))
            assert torch.equal(one[:, ~later], other[:, ~later]) == causal

    @pytest.mark.parametrize("causal", [False, True])
    def test_what_is_computed_anew_is_decided_from_the_pass_before(self, causal: bool, x: Tensor):
        layer = make(causal=causal)
        decisions = set()
        cache = layer.step(x).cache
        for number in range(12):
            towards = torch.randn(32, generator=torch.Generator().manual_seed(number))
            kept = layer.step(x + 9 * towards, cache=cache).cache.key_value
            decisions.add((*kept.recomputed_keys.tolist(), *kept.recomputed_values.tolist()))
        assert len(decisions) == 1 if causal else len(decisions) > 1

    @LAYERS
    def test_without_it_they_do(self, kind: Kind, x: Tensor):
        layer, changed = make(kind), x.clone()
        changed[:, -1] += 3
        assert not torch.equal(layer(x)[:, :-1], layer(changed)[:, :-1])

    def test_a_causal_mask_by_hand_is_the_global_path(self, x: Tensor):
        torch.manual_seed(0)
        causal = MultiHeadAttention(32, 4, causal=True)
        plain = MultiHeadAttention(32, 4)
        plain.load_state_dict(causal.state_dict())
        mask = torch.ones(70, 70, dtype=torch.bool).tril()
        torch.testing.assert_close(causal(x), plain(x, mask=mask))
        torch.testing.assert_close(causal(x, key_lengths=torch.full((3,), 70)), causal(x))


class TestSoftSpan:
    def test_the_span_predictor_learns(self, x: Tensor):
        layer = make(soft_span=True, soft_edge_width=8)
        layer.forward_with_action(x, 7).output.square().mean().backward()
        for parameter in layer.span_pred.parameters():
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 0

    def test_gradient_is_the_slope(self, generator: torch.Generator):
        options = SpanConfig(
            win_size=8, max_span=20, temp_scale=0.2, soft_span=True, soft_edge_width=4
        )
        local = SlidingWindowAttention(8, 2, options)
        x = torch.randn(1, 30, 8, generator=generator, dtype=torch.float64)

        def loss(scale: Tensor) -> Tensor:
            return (local(x, scale).output * x.cos()).sum()

        # Between the scales at which a window or a span steps on.
        scale = torch.tensor([0.57], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(scale), scale)
        with torch.no_grad():
            difference = (loss(scale + 1e-3) - loss(scale - 1e-3)) / 2e-3
        assert slope.item() == pytest.approx(difference.item(), rel=2e-2)

    def test_a_steep_edge_is_the_hard_one(self, x: Tensor):
        soft = AdaptiveSpan(
            4, SpanConfig(win_size=8, max_span=20, soft_span=True, soft_edge_width=1)
        )
        hard = AdaptiveSpan(4, SpanConfig(win_size=8, max_span=20))
        scale = torch.ones(3)
        torch.testing.assert_close(
            soft(x, x, x, scale).output, hard(x, x, x, scale).output, rtol=1e-4, atol=1e-5
        )


def test_temperature_laws():
    m = torch.tensor([0.0, 0.5, 1.0])
    laws: dict[TemperatureLaw, list[float]] = {
        "longer": [1.2, 1.1, 1.0],
        "shorter": [0.5, 0.6, 0.7],
        "legacy": [1.0, 0.9, 0.8],
        "legacy_unscaled": [1.0, 0.5, 0.01],
        "none": [1.0, 1.0, 1.0],
    }
    for law, expected in laws.items():
        torch.testing.assert_close(temperature(m, law, 0.2), torch.tensor(expected))


def test_weights_scaled_by_the_span(x: Tensor):
    plain = AdaptiveSpan(4, SpanConfig(win_size=8, max_span=20))
    scaled = AdaptiveSpan(4, SpanConfig(win_size=8, max_span=20, scale_weights=True))
    scale = torch.tensor([0.5, 0.0, 1.0])
    expected = plain(x, x, x, scale).output * torch.tensor([2.0, 0.0, 1.0])[:, None, None]
    torch.testing.assert_close(scaled(x, x, x, scale).output, expected)


def test_absolute_actions_ignore_the_predictor(x: Tensor):
    layer = make(action_scale="absolute")
    assert layer.forward_with_action(x, 9).span.tolist() == [24] * 3
    assert layer.forward_with_action(x, torch.tensor([0, 3, 6])).span.tolist() == [0, 8, 16]
    assert layer.forward_with_action(x).span.max() < 24


def test_hybrid_attention_focuses_as_often_as_it_is_told(x: Tensor):
    made = [
        HybridAttention(
            x.shape[1],
            x.shape[2],
            4,
            SpanConfig(num_refinement_steps=steps, win_size=8, max_span=16),
        )
        for steps in (1, 3)
    ]
    assert [each.step(x).num_refinement_steps.max().item() for each in made] == [1, 3]


def test_hybrid_attention_has_no_agent_and_a_toggle(x: Tensor):
    layer = make(HybridAttention, temperature_law="shorter")
    outcome = layer.step(x)
    # A sigmoid of the predictor's logits, as `m = p`.
    expected = torch.sigmoid(layer.span_pred.linear(outcome.cache.global_mean))[:, 0]
    torch.testing.assert_close(outcome.span_scale, expected)
    assert layer.attn_local.temperature(torch.ones(1)).item() == pytest.approx(0.8)
    assert not hasattr(layer, "refiner")


def test_learned_local_projections(x: Tensor):
    layer = make(local_projections=True)
    layer.forward_with_action(x, 9).output.sum().backward()
    names = {"query", "key", "value"}
    assert set(layer.attn_local.projections) == names
    for name in names:
        assert layer.attn_local.projections[name].proj.weight.grad.abs().max() > 0


def test_focus_takes_as_many_passes_as_it_is_told(x: Tensor):
    assert make(num_refinement_steps=3).forward_with_action(x, 9).num_refinement_steps.tolist() == [
        3,
        3,
        3,
    ]
    layer = make(num_refinement_steps=1, temperature_law="none", action_scale="absolute")
    one = layer.forward_with_action(x, 9)
    written = layer.attention_weights(x, scale=one.span_scale) @ split_heads(layer.ln_a(x), 4)
    torch.testing.assert_close(one.local_output, merge_heads(written))


class TestShiftedHeads:
    def test_keys_are_those_of_the_token_before(self, x: Tensor):
        options = {"num_refinement_steps": 1, "temperature_law": "none", "action_scale": "absolute"}
        plain, shifted = make(**options), make(**options, num_induction_heads=2)
        scale = torch.ones(len(x))
        one, other = (each.attention_weights(x, scale=scale) for each in (plain, shifted))
        torch.testing.assert_close(other[:, 2:], one[:, 2:])
        key = split_heads(plain.ln_a(x), 4)[:, :2]
        moved = torch.cat([torch.zeros_like(key[:, :, :1]), key[:, :, :-1]], dim=2)
        scores = key @ moved.transpose(-1, -2) * key.shape[-1] ** -0.5
        seen = one[:, :2] > 0
        expected = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        torch.testing.assert_close(other[:, :2], expected, atol=1e-5, rtol=1e-4)

    @pytest.mark.parametrize("causal", [False, True])
    def test_the_future_does_not_leak(self, causal: bool, x: Tensor):
        layer = make(num_induction_heads=2, causal=causal, local_projections=True)
        cut = x.clone()
        cut[:, 30:] = 0
        same = torch.allclose(layer(x)[:, :30], layer(cut)[:, :30], atol=1e-6)
        assert same == causal

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"num_induction_heads": 5},
                "num_induction_heads must be in 0..head, got 5, head=4",
            ),
            ({"num_induction_heads": -1}, "num_induction_heads must be in 0..head"),
            ({"num_refinement_steps": 0}, "num_refinement_steps must be at least 1, got 0"),
            ({"num_refinement_steps": 1.5}, "num_refinement_steps must be an integer, got 1.5"),
        ],
    )
    def test_bad_options(self, options: dict[str, Any], message: str):
        with pytest.raises(ValueError, match=re.escape(message)):
            make(**options)


class TestForcedRefresh:
    @pytest.mark.parametrize("causal", [False, True])
    def test_is_what_is_done(self, causal: bool, x: Tensor):
        layer = make(causal=causal)
        first = layer.forward_with_action(x, 5).cache
        wanted = torch.tensor([[True, False], [False, True], [False, False]])
        kept = layer.forward_with_action(
            x.cos(), 5, recompute_kv=wanted, cache=first
        ).cache.key_value
        assert torch.equal(kept.recomputed_keys, wanted[:, 0])
        assert torch.equal(kept.recomputed_values, wanted[:, 1])
        anew = layer.attn_global.key_module(layer.ln_b(x.cos()))
        torch.testing.assert_close(kept.keys[0], anew[0])
        assert torch.equal(kept.keys[1:], first.key_value.keys[1:])

    @pytest.mark.parametrize(
        ("kind", "recompute_kv", "message"),
        [
            (IntegratedAttention, torch.ones(3, 2), "must be boolean of shape (3, 2)"),
            (IntegratedAttention, torch.ones(2, 2).bool(), "must be boolean of shape (3, 2)"),
            (FocusAttention, torch.ones(3, 2).bool(), "FocusAttention keeps no keys"),
        ],
    )
    def test_what_is_refused(self, kind: Kind, recompute_kv: Tensor, message: str, x: Tensor):
        with pytest.raises(ValueError, match=re.escape(message)):
            make(kind).forward_with_action(x, 5, recompute_kv=recompute_kv)


class TestStatistics:
    @settings(max_examples=30, deadline=None)
    @given(data=st.data())
    def test_entropy_and_coverage_equal_their_definitions(self, data: st.DataObject):
        generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
        options = {
            "causal": data.draw(st.booleans()),
            "soft_span": data.draw(st.booleans()),
            "local_projections": data.draw(st.booleans()),
            "scale_weights": data.draw(st.booleans()),
        }
        layer = make(**options).double()
        x = torch.randn(3, 40, 32, generator=generator, dtype=torch.float64)
        lengths = data.draw(st.sampled_from([None, torch.tensor([40, 0, 9])]))
        rough = torch.randn(1, 4, 40, 40, generator=generator, dtype=torch.float64)
        mask = data.draw(st.sampled_from([None, rough > 0, rough]))
        action = torch.tensor([9, 4, data.draw(st.integers(0, 9))])
        done = layer.forward_with_action(x, action, mask=mask, lengths=lengths, return_stats=True)
        weights = layer.attention_weights(x, mask=mask, scale=done.span_scale, lengths=lengths)
        entropy = torch.special.entr(weights).sum(-1)
        seeing = weights.sum(-1) > 0
        stats = done.stats
        for lane in range(3):
            chosen = seeing[lane]
            if not chosen.any():
                assert stats.entropy[lane] == stats.coverage[lane] == 0
                assert stats.effective_span[lane] == 0
                continue
            expected = entropy[lane][chosen].mean()
            torch.testing.assert_close(stats.entropy[lane], expected, rtol=1e-6, atol=1e-8)
            torch.testing.assert_close(stats.effective_span[lane], expected.exp())
        for name in ("window", "span", "qk_pairs", "num_refinement_steps"):
            assert torch.equal(getattr(stats, name), getattr(done, name))

    def test_coverage_is_the_share_of_full_attention(self, x: Tensor):
        """One pass, whose queries are known: full attention's weights summed over the interval."""
        span = AdaptiveSpan(4, SpanConfig(win_size=16, max_span=24, temp_scale=0.3))
        scale = torch.tensor([0.2, 0.6, 1.0])
        done = span(x, x, x, scale, return_stats=True)
        full = AdaptiveSpan(4, SpanConfig(win_size=96, max_span=96, temp_scale=0.0))
        by_temperature = x / span.temperature(scale)[:, None, None]
        weights = full(by_temperature, x, x, torch.ones(3), return_weights=True).weights
        limited = span(x, x, x, scale, return_weights=True).weights
        assert done.stats is not None
        expected = torch.where(limited > 0, weights, 0).sum(-1).mean((1, 2))
        torch.testing.assert_close(done.stats.coverage, expected, rtol=1e-5, atol=1e-6)

    def test_weights_make_the_output(self, x: Tensor):
        layer = make()
        local_input = layer.ln_a(x)
        weights = layer.attention_weights(x, scale=layer.forward_with_action(x, 9).span_scale)
        values = local_input.unflatten(-1, (4, 8)).transpose(1, 2)
        out = (weights @ values).transpose(1, 2).flatten(2)
        torch.testing.assert_close(
            out, layer.forward_with_action(x, 9).local_output, rtol=1e-4, atol=1e-5
        )
        whole = layer.attention_weights(x, path="global")
        torch.testing.assert_close(whole.sum(-1), torch.ones(3, 4, 70))
        with pytest.raises(ValueError, match="path must be"):
            layer.attention_weights(x, path="both")


class TestTraining:
    @LAYERS
    @pytest.mark.parametrize("kind_of_number", [torch.bfloat16, torch.float16])
    def test_under_autocast(self, kind: Kind, kind_of_number: torch.dtype, x: Tensor):
        layer = make(kind)
        with torch.autocast("cpu", kind_of_number):
            y, stats = layer(x, return_stats=True)
        assert y.dtype == kind_of_number
        assert stats.entropy.dtype == torch.float32
        y.float().sum().backward()
        # Focus adds up the rounding of ten passes.
        assert (y.float() - layer(x)).abs().mean() < 0.02

    @LAYERS
    @pytest.mark.parametrize("kind_of_number", [torch.bfloat16, torch.float16, torch.float64])
    def test_in_other_types(self, kind: Kind, kind_of_number: torch.dtype, x: Tensor):
        layer = make(kind, soft_span=True).to(kind_of_number)
        y = layer(x.to(kind_of_number))
        assert y.dtype == kind_of_number
        y.sum().backward()
        assert (y.float() - make(kind, soft_span=True)(x)).abs().mean() < 0.02

    @pytest.mark.parametrize("soft_span", [False, True])
    def test_gradient_checkpointing(self, soft_span: bool, x: Tensor):
        gradients = []
        for run in (
            lambda layer: layer(x),
            lambda layer: checkpoint(layer, x, use_reentrant=False),
        ):
            layer = make(soft_span=soft_span).train()
            run(layer).square().sum().backward()
            gradients.append({n: p.grad for n, p in layer.named_parameters() if p.grad is not None})
        plain, recomputed = gradients
        assert plain.keys() == recomputed.keys()
        for name, gradient in plain.items():
            assert torch.equal(gradient, recomputed[name]), name

    def test_a_learning_refiner_is_not_asked_twice(self, x: Tensor):
        layer = make().train()
        layer.refiner = Refiner(seed=0, epsilon=1.0)
        y = checkpoint(layer, x, use_reentrant=False)
        with pytest.raises(RuntimeError, match=r"action = layer\.select_actions\(x\)"):
            y.sum().backward()
        action = layer.select_actions(x)
        outcome = checkpoint(layer.forward_with_action, x, action, use_reentrant=False)
        outcome.output.sum().backward()
        layer.refiner = Refiner()
        layer.update_controller(outcome, action)
        decided = zip(outcome.state, action.tolist(), strict=True)
        assert all(layer.refiner.q_value(*each) != 0 for each in decided)

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("options", [{}, {"causal": True, "soft_span": True}])
    def test_compiled(self, options: dict[str, Any], x: Tensor):
        torch.compiler.reset()
        layer = make(**options)
        compiled = torch.compile(layer, backend="aot_eager")
        got, expected = compiled(x), layer(x)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        got.square().sum().backward()
        found = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
        layer.zero_grad()
        expected.square().sum().backward()
        for name, parameter in layer.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-4)

    def test_gradient_of_the_global_path_is_right(self, generator: torch.Generator):
        attention = MultiHeadAttention(8, 2, causal=True).double()
        x = torch.randn(2, 6, 8, generator=generator, dtype=torch.float64, requires_grad=True)
        mask = torch.rand(2, 1, 6, 6, generator=generator) < 0.7
        assert torch.autograd.gradcheck(lambda x: attention(x), (x,))
        assert torch.autograd.gradcheck(lambda x: attention(x, mask=mask), (x,))

    def test_a_pass_changes_nothing(self, x: Tensor):
        layer = make().train()
        before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        first = layer.step(x)
        kept = first.cache.key_value.keys.clone()
        second = layer.step(x * 2, cache=first.cache)
        assert second.cache is not first.cache
        assert torch.equal(first.cache.key_value.keys, kept)
        for name, tensor in layer.state_dict().items():
            assert torch.equal(tensor, before[name])


class Learned(torch.nn.Module):
    """A controller that is a module."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.arange(10.0))

    def choose_action(self, state: int) -> int:  # noqa: ARG002
        return int(self.table.argmax())

    def update(self, state: int, action: int, reward: float, next_state: int) -> None:
        pass


class TestRefinerInTheLayer:
    def test_is_saved_and_loaded_with_it(self, x: Tensor, tmp_path: Any):
        layer = make().train()
        layer.refiner = Refiner(seed=0, epsilon=0.5)
        for _ in range(5):
            layer(x)
        torch.save(layer.state_dict(), tmp_path / "layer.pt")
        other = make().train()
        other.refiner = Refiner(seed=1, epsilon=0.5)
        other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
        for state in layer.eval().step(x).state:
            for action in range(10):
                assert other.refiner.q_value(state, action) == layer.refiner.q_value(state, action)

    def test_within_a_model(self):
        layers = [make(), make()]
        layers[1].refiner = Refiner(seed=0)
        layers[1].refiner.update(3, 4, 1.0, 5)
        stored = torch.nn.Sequential(*layers).state_dict()
        assert "1.refiner.values" in stored
        layers = [make(), make()]
        again = torch.nn.Sequential(*layers)
        with pytest.raises(RuntimeError, match=r"Unexpected key.*1\.refiner"):
            again.load_state_dict(stored)
        layers[1].refiner = Refiner(seed=1)
        again.load_state_dict(stored)
        assert layers[1].refiner.q_value(3, 4) == pytest.approx(0.1)
        layers[0].refiner = Refiner(seed=1)
        with pytest.raises(RuntimeError, match=r"Missing key.*0\.refiner"):
            again.load_state_dict(stored)

    def test_another_number_of_actions_is_an_error(self):
        layer, other = make(), make()
        layer.refiner, other.refiner = Refiner(), Refiner(n_actions=9)
        layer.refiner.update(3, 4, 1.0, 5)
        with pytest.raises(RuntimeError, match="10 actions are stored, this refiner has 9"):
            other.load_state_dict(layer.state_dict())

    def test_may_be_a_module(self, x: Tensor):
        layer = make()
        layer.refiner = Learned()
        assert "refiner.table" in layer.state_dict()
        assert torch.equal(layer(x), layer.forward_with_action(x, 9).output)
        layer.refiner = None
        assert "refiner.table" not in layer.state_dict()
        layer.refiner = Refiner()
        assert "refiner.values" in layer.state_dict()

    def test_what_is_no_controller_is_refused(self):
        with pytest.raises(TypeError, match="refiner is the class Refiner"):
            make().refiner = Refiner
        with pytest.raises(AttributeError, match="HybridAttention has no refiner"):
            make(HybridAttention).refiner = Refiner()
        with pytest.raises(TypeError, match="refiner must have the methods choose_action"):
            make().refiner = object()


class TestDecisions:
    def test_in_eval_mode_the_refiner_is_greedy_and_nothing_changes(self, x: Tensor):
        layer = make()
        layer.refiner = Refiner(seed=0, epsilon=1.0)
        layer.refiner.update(layer.step(x).state[0], 7, 1.0, 0)
        before = layer.state_dict()
        outputs = [layer(x) for _ in range(3)]
        assert torch.equal(outputs[0], layer.forward_with_action(x, torch.tensor([7, 0, 0])).output)
        assert all(torch.equal(outputs[0], each) for each in outputs)
        for name, tensor in layer.state_dict().items():
            assert torch.equal(tensor, before[name])
        checkpoint(layer, x, use_reentrant=False).sum().backward()

    def test_state_is_what_the_refiner_was_asked_for(self, x: Tensor):
        for causal in (False, True):
            layer = make(causal=causal)
            asked: list[int] = []
            layer.refiner = Refiner(seed=0)
            layer.refiner.greedy_action = lambda state, asked=asked: (asked.append(state), 5)[1]
            first = layer.step(x)
            second = layer.step(x * 2, cache=first.cache)
            assert asked == first.state + second.state

    def test_actions_of_other_libraries(self, x: Tensor, monkeypatch: pytest.MonkeyPatch):
        layer = make()
        layer.refiner = Refiner()
        monkeypatch.setattr(layer.refiner, "greedy_action", lambda _: np.array(3))
        assert torch.equal(layer(x), layer.forward_with_action(x, 3).output)
        assert torch.equal(layer(x), layer.forward_with_action(x, np.full(3, 3)).output)
        monkeypatch.setattr(layer.refiner, "greedy_action", lambda _: 3.0)
        with pytest.raises(ValueError, match=r"refiner must choose actions in 0\.\.9"):
            layer(x)
        with pytest.raises(ValueError, match=r"action has shape \(3,\) and type torch.float32"):
            layer.forward_with_action(x, torch.full((3,), 4.5))

    def test_drawing_weights_anew_leaves_a_refiner_alone(self):
        layer = make()
        layer.refiner = Learned()
        layer.ln_a.weight.data.fill_(7.0)
        layer.reset_parameters()
        assert layer.refiner.table.tolist() == list(range(10))
        assert layer.ln_a.weight.unique().tolist() == [1.0]


class TestHalfPrecision:
    @pytest.mark.parametrize("original", [False, True])
    def test_reward_and_state_are_numbers(self, original: bool, x: Tensor):
        def kind() -> Any:
            if original:
                return IntegratedAttention.original(96, 32, 4, **SMALL)
            return IntegratedAttention(96, 32, 4, SpanConfig(**SMALL))

        layer = kind().half()
        outcome = layer.forward_with_action(x.half(), 9)
        assert outcome.reward.isfinite().all()
        assert outcome.reward.dtype == torch.float32
        expected = kind()
        expected.load_state_dict({n: t.float() for n, t in layer.state_dict().items()})
        torch.testing.assert_close(
            outcome.reward, expected.forward_with_action(x, 9).reward, rtol=0.1, atol=0.05
        )

    def test_long_sums_do_not_overflow(self):
        x = torch.full((1, 8192, 4), 20.0, dtype=torch.float16)
        assert token_mean(x, torch.tensor([8192])).tolist() == [[20.0] * 4]
        assert token_moments(x, torch.tensor([8192])).tolist() == [[20.0] * 4 + [0.0] * 4]

    def test_weights_scaled_at_the_smallest_span(self, x: Tensor):
        span = AdaptiveSpan(4, SpanConfig(win_size=8, max_span=20, scale_weights=True))
        x.requires_grad_()
        span(x, x, x, torch.tensor([1e-42, 1e-5, 0.0])).output.sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()


class TestCaches:
    def test_types_may_change_on_a_stream(self, x: Tensor):
        layer = make()
        cache = layer.step(x).cache
        for parameter in layer.attn_global.key_update_predictor.parameters():
            parameter.data.fill_(-1.0)  # Nothing is computed anew.
        with torch.autocast("cpu", torch.bfloat16):
            cache = layer.step(x, cache=cache).cache
        assert layer.step(x, cache=cache).output.dtype == torch.float32

    @pytest.mark.parametrize("kind", [IntegratedAttention, FocusAttention])
    def test_of_other_lanes_or_kinds_is_an_error(self, kind: Kind, x: Tensor):
        layer = make(kind, causal=True)
        cache = layer.step(x[:1]).cache
        with pytest.raises(ValueError, match="without a cache"):
            layer.step(x, cache=cache)
        with pytest.raises(ValueError, match="it must be a"):
            layer.step(x, cache=cache.obs_features)

    def test_what_was_padding_is_computed_anew(self, x: Tensor):
        layer = make()
        for name in ("key", "value"):
            predictor = getattr(layer.attn_global, f"{name}_update_predictor")
            for parameter in predictor.parameters():
                parameter.data.fill_(-1.0)  # Nothing else is.
        lengths = torch.tensor([60, 33, 16])
        first = layer.step(x, lengths=lengths).cache
        lengths += 10  # The cache has a copy.
        second = layer.step(x.cos(), cache=first, lengths=lengths).cache.key_value
        assert not second.recomputed_keys.any()
        anew = layer.attn_global.key_module(layer.ln_b(x.cos()))
        for lane, before in enumerate([60, 33, 16]):
            assert torch.equal(
                second.keys[lane, :, :before], first.key_value.keys[lane, :, :before]
            )
            torch.testing.assert_close(second.keys[lane, :, before:], anew[lane, :, before:])

    def test_a_causal_layer_does_not_tell_how_long_a_sequence_is(self, x: Tensor):
        layer = make(causal=True)
        cache = layer.step(x, lengths=torch.tensor([48, 48, 48])).cache
        one, other = (
            layer.step(x.cos(), lengths=torch.tensor([n, n, n]), cache=cache).output[:, :40]
            for n in (40, 60)
        )
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"mask": torch.ones(10, 10, dtype=torch.int64)}, "mask has type torch.int64"),
            ({"mask": torch.ones(10, 9)}, "mask has shape"),
            ({"key_lengths": torch.ones(1, dtype=torch.int64)}, "key_lengths has shape"),
            ({"key_lengths": torch.ones(2)}, "key_lengths has shape"),
        ],
    )
    def test_of_the_paths_alone(self, arguments: dict[str, Any], message: str):
        x = torch.randn(2, 10, 8)
        local = SlidingWindowAttention(8, 2, SpanConfig())
        for path in (
            lambda: MultiHeadAttention(8, 2)(x, **arguments),
            lambda: AdaptiveSpan(2, SpanConfig())(x, x, x, torch.ones(2), **arguments),
            lambda: local(x, torch.ones(2), **arguments),
        ):
            with pytest.raises(ValueError, match=message):
                path()

    def test_sizes_of_the_paths_alone(self):
        for make_one, message in [
            (lambda: MultiHeadAttention(10, 4), "head must divide dims"),
            (lambda: AdaptiveUpdateAttention(3, 1), "dims must be at least 4"),
            (lambda: AdaptiveSpan(0, SpanConfig()), "head must be at least 1, got 0"),
            (lambda: SlidingWindowAttention(10, 3, SpanConfig()), "head must divide dims"),
        ]:
            with pytest.raises(ValueError, match=message):
                make_one()

    def test_an_input_that_is_no_number_gives_none(self, x: Tensor):
        x[0, 0, 0] = torch.nan
        output = make()(x)
        assert output[0].isnan().any()
        assert output[1:].isfinite().all()

    def test_what_is_no_tensor_is_named(self, x: Tensor):
        with pytest.raises(ValueError, match="lengths is a list; it must be a tensor of integers"):
            make()(x, lengths=[70, 3, 2])
        with pytest.raises(ValueError, match="mask is a list; it must be a tensor"):
            make()(x, mask=[True])
        with pytest.raises(ValueError, match=r"action must be an integer in 0\.\.9, got 9\.0"):
            make().forward_with_action(x, 9.0)

    def test_values_on_the_host_are_looked_at(self, x: Tensor):
        layer = make()
        with pytest.raises(ValueError, match=r"x has type torch\.int64; it must be floating"):
            layer(torch.ones(1, 5, 32, dtype=torch.int64))
        with pytest.raises(ValueError, match=r"lengths must be in \[0, 70\], got \[70, 71, 3\]"):
            layer(x, lengths=torch.tensor([70, 71, 3]))
        with pytest.raises(ValueError, match=r"action must be in \[0, 9\], got \[0, 9, 12\]"):
            layer.forward_with_action(x, torch.tensor([0, 9, 12]))
        span = AdaptiveSpan(4, SpanConfig())
        for scale in ([0.5, 1.1, 0.0], [0.5, -0.1, 0.0]):
            with pytest.raises(ValueError, match=r"scale must be in \[0, 1\]"):
                span(x, x, x, torch.tensor(scale))
        layer.refiner = Refiner()
        with pytest.raises(ValueError, match="x has shape"):
            layer.select_actions(x[0])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"mask": torch.ones(3, 1, 70, 69)}, r"mask has shape .*\(3, 4, 70, 70\)"),
            ({"mask": torch.ones(2, 3, 1, 70, 70)}, "mask has shape"),
            ({"mask": torch.ones(70, 70, dtype=torch.int64)}, "mask has type torch.int64"),
            ({"lengths": torch.ones(2, dtype=torch.int64)}, "lengths has shape"),
            ({"lengths": torch.ones(3)}, "lengths has shape .* integers"),
            ({"xa": torch.ones(2, 5, 32)}, r"xa has shape .* \(3, keys, 32\)"),
            ({"xa": torch.ones(3, 0, 32)}, "xa has shape .* at least one key"),
            ({"xa_lengths": torch.ones(3, dtype=torch.int64)}, "xa_lengths is given without xa"),
        ],
    )
    @LAYERS
    def test_names_argument_and_rule(
        self, kind: Kind, arguments: dict[str, Any], message: str, x: Tensor
    ):
        with pytest.raises(ValueError, match=message):
            make(kind)(x, **arguments)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"temperature_law": "legcy"}, "did you mean 'legacy'"),
            ({"temperature_law": 3}, "temperature_law must be one of"),
            ({"soft_edge_width": 0}, "soft_edge_width must be at least 1"),
            ({"action_scale": "relativ"}, "did you mean 'relative'"),
        ],
    )
    def test_bad_options(self, options: dict[str, Any], message: str):
        with pytest.raises(ValueError, match=message):
            make(**options)

    def test_whole_numbers_are_whole(self):
        with pytest.raises(ValueError, match=r"ctx must be an integer, got 9\.5"):
            IntegratedAttention(9.5, 32, 4)  # type: ignore[arg-type]

    def test_shapes_of_given_queries_and_keys(self, x: Tensor):
        span = AdaptiveSpan(4, SpanConfig())
        for q, k, v, scale, message in [
            (x[0], x, x, torch.ones(3), "q has shape"),
            (x, x[:2], x[:2], torch.ones(3), "k and v have shapes"),
            (x, x, x[:, 1:], torch.ones(3), "k and v have shapes"),
            (x, x, x, torch.ones(3, 1), "scale has shape"),
        ]:
            with pytest.raises(ValueError, match=message):
                span(q, k, v, scale)
