"""Attention to blocks of tokens, against a reference that treats one query at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from spangym.attention import MultiHeadAttention, PooledAttention
from spangym.attention.layers.modules import merge_heads
from tests.factories import make_layer

DIMS, HEADS = 8, 2


def make_attention(pool: int, causal: bool = False) -> PooledAttention:
    attention = PooledAttention(DIMS, HEADS, causal, pool).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return attention


def reference(
    attention: PooledAttention,
    x: Tensor,
    xa: Tensor | None,
    bias: Tensor,
    lengths: Tensor,
) -> tuple[Tensor, Tensor]:
    """Output before the output projection and weights of the tokens; ``bias`` has all four axes."""
    source, pool = x if xa is None else xa, attention.pool
    causal = attention.causal and xa is None
    query = attention.query_module(x)
    out = torch.zeros_like(query)
    weights = query.new_zeros(*query.shape[:3], source.shape[1])
    for batch, length in enumerate(lengths.tolist()):
        visible = (bias[batch] > -torch.inf).any(1).any(0)
        blocks = []
        for start in range(0, length, pool):
            tokens = [t for t in range(start, min(start + pool, length)) if visible[t]]
            if tokens:
                blocks.append((start // pool, tokens, source[batch, tokens].mean(0)))
        if not blocks:
            continue
        means = torch.stack([mean for _, _, mean in blocks])[None]
        key, value = attention.key_module(means)[0], attention.value_module(means)[0]
        for head in range(HEADS):
            for q in range(x.shape[1]):
                scores = []
                for index, (block, tokens, _) in enumerate(blocks):
                    score = query[batch, head, q] @ key[head, index] / math.sqrt(DIMS // HEADS)
                    score = score + bias[batch, head, q, tokens].mean()
                    scores.append(-torch.inf if causal and block >= q // pool else score)
                row = torch.stack([torch.as_tensor(each, dtype=x.dtype) for each in scores])
                if (row == -torch.inf).all():
                    continue
                shares = row.softmax(0)
                out[batch, head, q] = shares @ value[head]
                for share, (_, tokens, _) in zip(shares, blocks, strict=True):
                    weights[batch, head, q, tokens] = share / len(tokens)
    return merge_heads(out), weights


@settings(deadline=None, max_examples=60)
@given(
    tokens=st.integers(1, 11),
    cross=st.sampled_from([None, 1, 7]),
    pool=st.integers(1, 5),
    causal=st.booleans(),
    mask=st.sampled_from(["none", "keys", "queries", "heads", "additive"]),
    has_lengths=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_equals_the_reference(
    tokens: int,
    cross: int | None,
    pool: int,
    causal: bool,
    mask: str,
    has_lengths: bool,
    seed: int,
):
    generator = torch.Generator().manual_seed(seed)
    attention = make_attention(pool, causal)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, xa = draw(2, tokens, DIMS), None if cross is None else draw(2, cross, DIMS)
    keys = cross or tokens
    shape = {"keys": (2, 1, 1, keys), "queries": (tokens, keys), "heads": (HEADS, tokens, keys)}
    given_mask = None
    if mask == "additive":
        given_mask = draw(2, 1, tokens, keys)
        given_mask[given_mask < -0.5] = -torch.inf
    elif mask != "none":
        given_mask = torch.rand(shape[mask], generator=generator) < 0.7
    bias = torch.zeros(2, HEADS, tokens, keys, dtype=torch.float64)
    if given_mask is not None:
        is_bool = given_mask.dtype == torch.bool
        bias = bias.masked_fill(~given_mask, -torch.inf) if is_bool else bias + given_mask
    lengths = torch.full((2,), keys)
    if has_lengths:
        lengths = torch.randint(0, keys + 1, (2,), generator=generator)
    given_lengths = lengths if has_lengths else None

    x.requires_grad_()
    found = attention(x, xa, mask=given_mask, key_lengths=given_lengths)
    before, weights = reference(attention, x, xa, bias, lengths)
    expected = attention.combiner.out(before)
    # Causal queries in the padding see the padding's blocks, or not.
    compared = slice(None) if cross or not has_lengths else slice(0, int(lengths.min()))
    torch.testing.assert_close(found[:, compared], expected[:, compared])
    gradient = draw(*found[:, compared].shape)
    gradients = [
        torch.autograd.grad((each[:, compared] * gradient).sum(), x, allow_unused=True)[0]
        for each in (found, expected)
    ]
    torch.testing.assert_close(*(torch.zeros_like(x) if g is None else g for g in gradients))
    all_weights = attention.weights(x, xa, given_mask, given_lengths)
    torch.testing.assert_close(all_weights[:, :, compared], weights[:, :, compared])


@pytest.mark.parametrize("masked", [False, True])
def test_blocks_of_one_token_are_full_attention(masked: bool, generator: torch.Generator):
    attention = make_attention(pool=1)
    plain = MultiHeadAttention(DIMS, HEADS).double()
    plain.load_state_dict(attention.state_dict())
    x = torch.randn(2, 9, DIMS, generator=generator, dtype=torch.float64)
    mask = torch.rand(9, 9, generator=generator) < 0.7
    mask[torch.arange(9), torch.arange(9)] = True
    arguments = {"mask": mask, "key_lengths": torch.tensor([9, 5])} if masked else {}
    found, expected = attention(x, **arguments), plain(x, **arguments)
    # In the second sequence a query of the padding may see nothing.
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1, :5], expected[1, :5])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tokens", [1, 4, 11])
def test_gradient_is_right(causal: bool, tokens: int, generator: torch.Generator):
    attention = make_attention(pool=4, causal=causal)
    x = torch.randn(2, tokens, DIMS, generator=generator, dtype=torch.float64, requires_grad=True)
    assert gradcheck(attention, (x,))
    assert gradcheck(lambda x: attention(x, key_lengths=torch.tensor([tokens, 0])), (x,))


@pytest.mark.parametrize("tokens", [1, 16, 17, 100])
def test_pairs_are_those_of_visible_blocks(tokens: int):
    for causal in (False, True):
        attention = make_attention(pool=16, causal=causal)
        weights = attention.weights(torch.randn(1, tokens, DIMS).double(), None, None, None)[0, 0]
        blocks = sum((each > 0).any(1).sum().item() for each in weights.split(16, dim=1))
        assert attention.qk_pairs(tokens) == blocks
        full = MultiHeadAttention(DIMS, HEADS, causal)
        visible = full.weights(torch.randn(1, tokens, DIMS), None, None, None)[0, 0] > 0
        assert full.qk_pairs(tokens) == visible.sum()


@pytest.mark.parametrize("global_path", ["full", "pooled", "none"])
@pytest.mark.parametrize("changed", [1, 15, 16, 40, 69])
def test_no_later_token_is_seen(global_path: str, changed: int, x: Tensor):
    options = {"causal": True, "global_path": global_path, "soft_span": True}
    layer = make_layer(**options, num_refinement_steps=3)
    other = x.clone()
    other[:, changed:] = x[:, changed:].cos() * 3
    for action in (None, 0, 9):
        one, two = (layer.forward_with_action(each, action).output for each in (x, other))
        assert torch.equal(one[:, :changed], two[:, :changed])
        reads_nothing = action == 0 and global_path == "none"
        assert torch.equal(one, two) == reads_nothing


def test_layers_without_full_attention(x: Tensor):
    """Neither path depends on another sequence, and each option changes what it names."""
    outputs = []
    for options in ({"global_path": "pooled"}, {"global_path": "pooled", "pool": 7}):
        layer = make_layer(**options)
        assert layer.state_dict().keys() == make_layer(global_path="pooled").state_dict().keys()
        outputs.append(layer.forward_with_action(x, 5).output)
    assert not torch.allclose(*outputs)
    layer = make_layer(global_path="none")
    assert layer.attn_global is None
    assert layer.projection.in_features == 32
    whole = layer.forward_with_action(x, 5)
    torch.testing.assert_close(whole.output, layer.projection(whole.local_output))
    scale = layer.span_pred(layer.ln_b(x))[:, 0] * 5 / 9
    torch.testing.assert_close(whole.span_scale, scale)
    assert torch.equal(layer.forward_with_action(x[1:2], 5).output, whole.output[1:2])


def test_what_has_no_keys_and_values_refuses_them(x: Tensor):
    for global_path in ("pooled", "none"):
        with pytest.raises(ValueError, match=f"global_path='{global_path}'"):
            make_layer(global_path=global_path, use_refresh_predictors=True)
        layer = make_layer(global_path=global_path)
        with pytest.raises(ValueError, match="keeps no keys and values"):
            layer.prepare(x, recompute_kv=torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="no global path"):
        make_layer(global_path="none").attention_weights(x, path="global")
