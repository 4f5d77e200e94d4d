"""Masks, padding, cross-attention, causality, dtypes and training, through whole layers."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from spangym.agents import Refiner
from spangym.attention import FocusAttention, HybridAttention, IntegratedAttention
from spangym.attention.features import token_mean, token_moments
from spangym.attention.kernels import reference
from spangym.attention.layers.modules import merge_heads, split_heads
from tests.factories import SMALL_SPANS, make_layer

LAYERS = pytest.mark.parametrize(
    "layer_class", [IntegratedAttention, FocusAttention, HybridAttention]
)


def test_kernels_agree(x: Tensor, monkeypatch: pytest.MonkeyPatch):
    layer, action = make_layer(), torch.tensor([2, 5, 9])
    fast = layer.forward_with_action(x, action)
    monkeypatch.setattr(
        "spangym.attention.layers.adaptive_span.select_kernel", lambda _: reference.attend
    )
    plain = layer.forward_with_action(x, action)
    torch.testing.assert_close(fast.output, plain.output, rtol=1e-4, atol=1e-5)
    assert torch.equal(fast.qk_pairs, plain.qk_pairs)


@pytest.mark.parametrize(
    "options",
    [{}, {"global_path": "pooled"}, {"global_path": "pooled", "causal": True}],
    ids=["full", "pooled", "pooled causal"],
)
def test_sequences_are_independent(options: dict[str, Any], x: Tensor):
    layer, action = make_layer(**options), torch.tensor([1, 6, 9])
    batch = layer.forward_with_action(x, action)
    for index in range(3):
        one = slice(index, index + 1)
        alone = layer.forward_with_action(x[one], action[one])
        for name in ("output", "local_output", "span_scale", "qk_pairs", "num_refinement_steps"):
            assert torch.equal(getattr(batch, name)[one], getattr(alone, name)), name


def test_same_generator_same_weights():
    one, other = make_layer(), make_layer()
    for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b)


ONE_PASS = {"local_projections": True, "num_refinement_steps": 1, "temperature_law": "none"}


@pytest.mark.parametrize(
    ("options", "known"),
    [(ONE_PASS, True), ({**ONE_PASS, "causal": True, "num_induction_heads": 2}, True), ({}, False)],
    ids=["one pass", "causal", "refinement"],
)
def test_a_prepared_pass_is_the_pass_of_each_action(
    options: dict[str, Any], known: bool, x: Tensor
):
    """With the log-sum-exp of full attention, where it does not depend on the action."""
    layer = make_layer(**options)
    prepared = layer.prepare_stats(layer.prepare(x))
    assert (prepared.full_lse is not None) == known
    without = layer.prepare(x)
    assert without.full_lse is None
    for action in (0, 4, 9):
        alone = layer.forward_with_action(x, action, return_stats=True)
        for each in (prepared, without):
            again = layer.forward_prepared(each, action, return_stats=True)
            assert torch.equal(again.output, alone.output)
            assert torch.equal(again.stats.coverage, alone.stats.coverage)
            assert torch.equal(again.stats.entropy, alone.stats.entropy)


class TestMasks:
    @LAYERS
    def test_mask_of_padding_equals_lengths(self, layer_class: Any, x: Tensor):
        layer, lengths = make_layer(layer_class), torch.tensor([70, 33, 16])
        mask = (torch.arange(70) < lengths[:, None])[:, None, None]
        # The predictor's mean ignores masks; the first sequence has no padding.
        torch.testing.assert_close(layer(x, mask=mask)[0], layer(x, lengths=lengths)[0])

    @LAYERS
    @pytest.mark.parametrize("global_path", ["full", "pooled", "none"])
    def test_padding_changes_nothing(self, layer_class: Any, global_path: str, x: Tensor):
        layer = make_layer(layer_class, global_path=global_path)
        lengths = torch.tensor([70, 33, 16])
        padded = layer.step(x, lengths=lengths)
        other = torch.where((torch.arange(70) < lengths[:, None])[..., None], x, 7.0)
        assert torch.equal(padded.output, layer(other, lengths=lengths))
        for index, length in enumerate(lengths.tolist()):
            alone = layer.step(x[index : index + 1, :length])
            torch.testing.assert_close(
                padded.output[index, :length], alone.output[0], rtol=1e-4, atol=1e-5
            )
            assert padded.output[index, length:].abs().sum() == 0
            assert padded.qk_pairs[index] == alone.qk_pairs[0]
            torch.testing.assert_close(padded.reward[index], alone.reward[0])
            assert padded.state[index] == alone.state[0]

    def test_boolean_mask_equals_an_additive_one(self, x: Tensor, generator: torch.Generator):
        layer = make_layer()
        mask = torch.rand(3, 4, 70, 70, generator=generator) < 0.5
        additive = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
        torch.testing.assert_close(layer(x, mask=mask), layer(x, mask=additive))

    def test_query_without_keys_gives_zero_and_no_gradient(self, x: Tensor):
        x.requires_grad_()
        mask = torch.ones(70, 70, dtype=torch.bool)
        mask[5] = False
        output = make_layer().forward_with_action(x, 9, mask=mask, return_stats=True)
        assert output.local_output[:, 5].abs().sum() == 0
        output.output.sum().backward()
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert output.stats.entropy.isfinite().all()


class TestCrossAttention:
    @LAYERS
    def test_of_itself_is_self_attention(self, layer_class: Any, x: Tensor):
        layer = make_layer(layer_class)
        assert torch.equal(layer(x, x.clone()), layer(x))

    @LAYERS
    def test_keys_come_from_xa_alone(self, layer_class: Any, x: Tensor, generator: torch.Generator):
        layer, xa = make_layer(layer_class), torch.randn(3, 40, 32, generator=generator)
        y = layer(x, xa, torch.rand(3, 1, 70, 40, generator=generator) < 0.9)
        assert y.shape == x.shape
        lengths = torch.tensor([40, 20, 30])
        padded = torch.where((torch.arange(40) < lengths[:, None])[..., None], xa, 5.0)
        assert torch.equal(layer(x, xa, xa_lengths=lengths), layer(x, padded, xa_lengths=lengths))
        # Other tokens of x affect a token only through the span.
        changed = x.clone()
        changed[:, -1] += 1e-6
        assert torch.equal(layer(changed, xa)[:, :-1], layer(x, xa)[:, :-1])


class TestCausality:
    @LAYERS
    @settings(max_examples=6, deadline=None)
    @given(at=st.integers(1, 69), action=st.integers(0, 9), seed=st.integers(0, 99))
    def test_future_tokens_never_leak(self, layer_class: Any, at: int, action: int, seed: int):
        layer = make_layer(layer_class, causal=True)
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(2, 70, 32, generator=generator)
        changed = x.clone()
        changed[:, at:] = torch.randn(2, 70 - at, 32, generator=generator) * 3

        def run(x: Tensor) -> Any:
            if layer_class is not HybridAttention:
                layer.refiner = Refiner(seed=0, epsilon=1.0)
            return layer.step(x)

        if layer_class is not HybridAttention:
            one, other = (layer.forward_with_action(each, action).output for each in (x, changed))
            torch.testing.assert_close(one[:, :at], other[:, :at], rtol=1e-5, atol=1e-6)
        one, other = run(x), run(changed)
        torch.testing.assert_close(one.output[:, :at], other.output[:, :at], rtol=1e-5, atol=1e-6)
        assert torch.equal(one.obs_features, other.obs_features)
        assert torch.equal(one.span, other.span)
        # The next pass over a stream depends on the cache, not on its own input.
        if layer_class is not HybridAttention:
            layer.refiner = None
        following = torch.randn(2, 70, 32, generator=generator)
        spans = [layer.step(each, cache=one.cache).span for each in (following, following * 2)]
        assert torch.equal(*spans)

    @LAYERS
    def test_decoder_attends_to_all_of_its_encoder(
        self, layer_class: Any, x: Tensor, generator: torch.Generator
    ):
        layer, xa = (
            make_layer(layer_class, causal=True),
            torch.randn(3, 100, 32, generator=generator),
        )
        for module in (layer.attn_global.query_module, layer.attn_global.key_module):
            torch.nn.init.normal_(module.proj.weight, std=0.5, generator=generator)
        changed = x.clone()
        changed[:, 30:] = torch.randn(3, 40, 32, generator=generator) * 3
        one, other = layer(x, xa), layer(changed, xa)
        torch.testing.assert_close(one[:, :30], other[:, :30], rtol=1e-5, atol=1e-6)
        assert not torch.equal(one[:, 30:], other[:, 30:])
        changed_end = xa.clone()
        changed_end[:, -1] *= -1
        assert not torch.equal(one[:, 0], layer(x, changed_end)[:, 0])

    @LAYERS
    def test_other_layers_are_bidirectional(self, layer_class: Any, x: Tensor):
        layer, changed = make_layer(layer_class), x.clone()
        changed[:, -1] += 3
        assert not torch.equal(layer(x)[:, :-1], layer(changed)[:, :-1])


class TestStatistics:
    @settings(max_examples=12, deadline=None)
    @given(data=st.data())
    def test_entropy_equals_its_definition(self, data: st.DataObject):
        generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
        names = ("causal", "soft_span", "local_projections", "scale_weights")
        options: dict[str, Any] = {name: data.draw(st.booleans()) for name in names}
        options["temperature_law"] = data.draw(st.sampled_from(["longer", "learned"]))
        layer = make_layer(**options).double()
        x = torch.randn(3, 30, 32, generator=generator, dtype=torch.float64)
        lengths = data.draw(st.sampled_from([None, torch.tensor([30, 0, 9])]))
        additive = torch.randn(1, 4, 30, 30, generator=generator, dtype=torch.float64)
        mask = data.draw(st.sampled_from([None, additive > 0, additive]))
        action = torch.tensor([9, 4, data.draw(st.integers(0, 9))])
        output = layer.forward_with_action(x, action, mask=mask, lengths=lengths, return_stats=True)
        weights = layer.attention_weights(x, mask=mask, scale=output.span_scale, lengths=lengths)
        if options["scale_weights"]:
            weights = weights * output.span_scale.where(output.span_scale > 0, 1).view(3, 1, 1, 1)
        stats, entropy = output.stats, torch.special.entr(weights).sum(-1)
        has_keys = weights.sum(-1) > 0
        for index in range(3):
            chosen = has_keys[index]
            if not chosen.any():
                assert stats.entropy[index] == stats.coverage[index] == 0
                assert stats.effective_span[index] == 0
                continue
            expected = entropy[index][chosen].mean()
            torch.testing.assert_close(stats.entropy[index], expected, rtol=1e-6, atol=1e-8)
            torch.testing.assert_close(stats.effective_span[index], expected.exp())
        for name in ("window", "span", "qk_pairs", "num_refinement_steps"):
            assert torch.equal(getattr(stats, name), getattr(output, name))

    @pytest.mark.parametrize("options", [{}, {"scale_weights": True}])
    def test_attention_weights(self, options: dict[str, Any], x: Tensor):
        layer = make_layer(**options)
        output = layer.forward_with_action(x, 9)
        weights = layer.attention_weights(x, scale=output.span_scale)
        local_output = merge_heads(weights @ split_heads(layer.ln_a(x), 4))
        torch.testing.assert_close(local_output, output.local_output, rtol=1e-4, atol=1e-5)
        assert torch.equal(layer.attention_weights(x), weights)  # Action 9 is the prediction.
        whole = layer.attention_weights(x, path="global")
        torch.testing.assert_close(whole.sum(-1), torch.ones(3, 4, 70))
        with pytest.raises(ValueError, match=r"path .* 'both'"):
            layer.attention_weights(x, path="both")


class TestTypes:
    @LAYERS
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast(self, layer_class: Any, dtype: torch.dtype, x: Tensor):
        layer = make_layer(layer_class)
        with torch.autocast("cpu", dtype):
            y, stats = layer(x, return_stats=True)
        assert y.dtype == dtype
        assert stats.entropy.dtype == torch.float32
        y.float().sum().backward()
        # Refinement accumulates the rounding of ten passes.
        assert (y.float() - layer(x)).abs().mean() < 0.02

    @LAYERS
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_weights_of_other_types(self, layer_class: Any, dtype: torch.dtype, x: Tensor):
        options = {"soft_span": True, "num_refinement_steps": 3}
        layer = make_layer(layer_class, **options).to(dtype)
        y = layer(x.to(dtype))
        assert y.dtype == dtype
        y.sum().backward()
        assert (y.float() - make_layer(layer_class, **options)(x)).abs().mean() < 0.02

    @pytest.mark.parametrize("original", [False, True])
    def test_reward_in_half_precision(self, original: bool, x: Tensor):
        def make() -> Any:
            if original:
                return IntegratedAttention.original(
                    96, 32, 4, **SMALL_SPANS, generator=torch.Generator().manual_seed(0)
                )
            return make_layer()

        half, single = make().half(), make()
        reward = half.forward_with_action(x.half(), 9).reward
        assert reward.dtype == torch.float32
        torch.testing.assert_close(
            reward, single.forward_with_action(x, 9).reward, rtol=0.1, atol=0.05
        )

    def test_long_sums_do_not_overflow(self):
        x = torch.full((1, 8192, 4), 20.0, dtype=torch.float16)
        assert token_mean(x, torch.tensor([8192])).tolist() == [[20.0] * 4]
        assert token_moments(x, torch.tensor([8192])).tolist() == [[20.0] * 4 + [0.0] * 4]


class TestTraining:
    def test_gradients_reach_both_paths(self, x: Tensor):
        layer = make_layer()
        x.requires_grad_()
        layer.forward_with_action(x, 9).output.square().mean().backward()
        for name, parameter in layer.named_parameters():
            # Predictions are thresholds or integers, without gradient.
            if "span_pred" in name or "update_predictor" in name:
                assert parameter.grad is None, name
            # A bias of the keys shifts all scores of a query equally.
            elif name != "attn_global.key_module.proj.bias":
                assert parameter.grad is not None, name
                assert parameter.grad.abs().max() > 0, name
        assert x.grad is not None
        assert x.grad.abs().max() > 0

    def test_soft_span_trains_the_span_predictor(self, x: Tensor):
        layer = make_layer(soft_span=True, soft_edge_width=8)
        layer.forward_with_action(x, 7).output.square().mean().backward()
        for parameter in layer.span_pred.parameters():
            assert parameter.grad is not None
            assert parameter.grad.abs().max() > 0

    @pytest.mark.parametrize("soft_span", [False, True])
    def test_gradient_checkpointing(self, soft_span: bool, x: Tensor):
        gradients = []
        for run in (
            lambda layer: layer(x),
            lambda layer: checkpoint(layer, x, use_reentrant=False),
        ):
            layer = make_layer(soft_span=soft_span).train()
            run(layer).square().sum().backward()
            gradients.append({n: p.grad for n, p in layer.named_parameters() if p.grad is not None})
        plain, recomputed = gradients
        assert plain.keys() == recomputed.keys()
        for name, gradient in plain.items():
            assert torch.equal(gradient, recomputed[name]), name

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize(
        ("backend", "options"),
        [
            ("eager", {}),
            ("aot_eager", {"causal": True, "soft_span": True}),
            ("aot_eager", {"temperature_law": "learned"}),
            ("aot_eager", {"global_path": "pooled"}),
            ("aot_eager", {"global_path": "pooled", "causal": True}),
            ("eager", {"global_path": "none"}),
        ],
    )
    def test_compiled(self, backend: str, options: dict[str, Any], x: Tensor):
        torch.compiler.reset()
        layer = make_layer(**options, num_refinement_steps=2)
        compiled = torch.compile(layer, backend=backend)
        y, expected = compiled(x), layer(x)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
        y.square().sum().backward()
        found = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
        layer.zero_grad()
        expected.square().sum().backward()
        for name, parameter in layer.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"causal": True},
            {"soft_span": True},
            {"global_path": "pooled", "pool": 2},
            {"global_path": "pooled", "pool": 2, "causal": True},
        ],
    )
    @pytest.mark.parametrize("layer_class", [IntegratedAttention, FocusAttention])
    def test_double_backward(
        self, layer_class: Any, options: dict[str, Any], generator: torch.Generator
    ):
        sizes = {"win_size": 4, "max_span": 6, "soft_edge_width": 3, "num_refinement_steps": 2}
        more = {"local_projections": True, "num_induction_heads": 1, "action_scale": "absolute"}
        layer = make_layer(layer_class, **sizes, **more, **options).double()
        x = torch.randn(2, 5, 32, generator=generator, dtype=torch.float64, requires_grad=True)
        lengths = torch.tensor([5, 3])

        def run(x: Tensor, lengths: Tensor | None = None) -> Tensor:
            # A given span: the prediction has no gradient.
            y = layer.forward_with_action(x, 6, lengths=lengths).output
            return y[..., :6]

        with sdpa_kernel(SDPBackend.MATH):
            y, math = run(x), run(x, lengths)
            assert gradgradcheck(run, (x,), fast_mode=True)
            assert gradgradcheck(run, (x, lengths), fast_mode=True)
        torch.testing.assert_close(y, run(x))
        torch.testing.assert_close(math, run(x, lengths))

    def test_pass_changes_nothing(self, x: Tensor):
        layer = make_layer().train()
        before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        first = layer.step(x)
        keys = first.cache.key_value.keys.clone()
        second = layer.step(x * 2, cache=first.cache)
        assert second.cache is not first.cache
        assert torch.equal(first.cache.key_value.keys, keys)
        for name, tensor in layer.state_dict().items():
            assert torch.equal(tensor, before[name])
