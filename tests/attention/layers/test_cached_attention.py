import numpy as np
import pytest
import torch
from torch import Tensor

from spangym.attention import AdaptiveUpdateAttention
from tests.factories import make_layer

from ...conftest import Golden


@pytest.fixture
def attention() -> AdaptiveUpdateAttention:
    return make_layer(use_refresh_predictors=True).attn_global


def test_first_pass_computes_everything(attention: AdaptiveUpdateAttention, x: Tensor):
    _, cache = attention(x)
    assert cache.recomputed_keys.all()
    assert torch.equal(cache.keys, attention.key_module(x))
    assert not cache.keys.requires_grad


@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_untrained_predictors_never_decide(causal: bool, x: Tensor):
    layer, cache = make_layer(causal=causal), None
    # Both predictors choose to keep the first pass.
    for name in ("key_update_predictor", "value_update_predictor"):
        torch.nn.init.constant_(getattr(layer.attn_global, name)[2].bias, -100)
    for chunk in (x, x.cos(), x[:, :50]):
        cache = layer.step(chunk, cache=cache).cache
        assert torch.equal(cache.key_value.keys, layer.attn_global.key_module(layer.ln_b(chunk)))
        assert cache.key_value.recomputed_values.all()


def test_predictors_choose_for_each_sequence(
    attention: AdaptiveUpdateAttention, generator: torch.Generator
):
    # Sequences far enough apart that the predictors choose differently.
    first, second = torch.randn(2, 12, 1, 32, generator=generator).expand(2, 12, 20, 32) * 9
    _, cache = attention(first)
    _, cache = attention(second, cache=cache)
    assert set(cache.recomputed_keys.tolist()) == {True, False}
    recomputed = cache.recomputed_keys[:, None, None]
    expected = attention.key_module(torch.where(recomputed, second, first))
    torch.testing.assert_close(cache.keys, expected)


def test_reproduces_the_originals_choices(golden: Golden):
    recorded = golden("adaptive_update")
    attention = AdaptiveUpdateAttention(16, 4, use_refresh_predictors=True).eval()
    attention.load_state_dict(
        {
            name.removeprefix("param."): torch.from_numpy(recorded[name])
            for name in recorded
            if name.startswith("param.")
        }
    )
    with torch.no_grad():
        _, cache = attention(torch.from_numpy(recorded["x0"]))
        for step in range(1, 8):
            _, cache = attention(torch.from_numpy(recorded[f"x{step}"]), cache=cache)
            for name, chosen in (
                ("key", cache.recomputed_keys),
                ("value", cache.recomputed_values),
            ):
                assert chosen.tolist() == recorded[f"update_{name}{step}"][:, 0].tolist()
            np.testing.assert_allclose(cache.values, recorded[f"value{step}"], atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_forced_choice(causal: bool, x: Tensor):
    layer = make_layer(causal=causal)
    first = layer.forward_with_action(x, 5).cache
    forced = torch.tensor([[True, False], [False, True], [False, False]])
    cache = layer.forward_with_action(x.cos(), 5, recompute_kv=forced, cache=first).cache.key_value
    assert torch.equal(cache.recomputed_keys, forced[:, 0])
    assert torch.equal(cache.recomputed_values, forced[:, 1])
    torch.testing.assert_close(cache.keys[0], layer.attn_global.key_module(layer.ln_b(x.cos()))[0])
    assert torch.equal(cache.keys[1:], first.key_value.keys[1:])


@pytest.mark.parametrize("causal", [False, True])
def test_causal_predictors_read_the_previous_pass(causal: bool, x: Tensor):
    layer = make_layer(causal=causal, use_refresh_predictors=True)
    # Without a bias the choice depends on the input.
    torch.nn.init.zeros_(layer.attn_global.key_update_predictor[2].bias)
    first, choices = layer.step(x).cache, set()
    for seed in range(12):
        shift = 9 * torch.randn(32, generator=torch.Generator().manual_seed(seed))
        cache = layer.step(x + shift, cache=first).cache.key_value
        choices.add((*cache.recomputed_keys.tolist(), *cache.recomputed_values.tolist()))
    assert len(choices) == 1 if causal else len(choices) > 1


def never_recompute(attention: AdaptiveUpdateAttention) -> None:
    for predictor in (attention.key_update_predictor, attention.value_update_predictor):
        for parameter in predictor.parameters():
            parameter.data.fill_(-1.0)


def test_padding_is_recomputed(x: Tensor):
    layer = make_layer(use_refresh_predictors=True)
    never_recompute(layer.attn_global)
    lengths = torch.tensor([60, 33, 16])
    first = layer.step(x, lengths=lengths).cache
    lengths += 10  # The cache holds a copy.
    second = layer.step(x.cos(), cache=first, lengths=lengths).cache.key_value
    assert not second.recomputed_keys.any()
    recomputed = layer.attn_global.key_module(layer.ln_b(x.cos()))
    for index, length in enumerate([60, 33, 16]):
        expected = torch.cat(
            [first.key_value.keys[index, :, :length], recomputed[index, :, length : length + 10]],
            dim=1,
        )
        torch.testing.assert_close(second.keys[index, :, : length + 10], expected)


def test_dtype_may_change_on_a_stream(x: Tensor):
    layer = make_layer(use_refresh_predictors=True)
    cache = layer.step(x).cache
    never_recompute(layer.attn_global)
    with torch.autocast("cpu", torch.bfloat16):
        cache = layer.step(x, cache=cache).cache
    assert layer.step(x, cache=cache).output.dtype == torch.float32


def test_another_number_of_keys_is_an_error(attention: AdaptiveUpdateAttention):
    _, cache = attention(torch.zeros(2, 20, 32))
    with pytest.raises(ValueError, match=r"\(2, 4, 20, 8\).*\(2, 4, 21, 8\)"):
        attention(torch.zeros(2, 21, 32), cache=cache)


def test_causal_layer_does_not_reveal_lengths(x: Tensor):
    layer = make_layer(causal=True)
    cache = layer.step(x, lengths=torch.tensor([48, 48, 48])).cache
    one, other = (
        layer.step(x.cos(), lengths=torch.full((3,), length), cache=cache).output[:, :40]
        for length in (40, 60)
    )
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
