"""Pretrained models run group by group, each group within its own span."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import spangym
from spangym.attention import ObservationSpec
from spangym.envs.data.dataset import next_token_targets
from spangym.envs.model.pretrained_stack import PretrainedStack, bits_per_byte
from tests.attention.transformers.tiny_llama import vary_norms

CTX, LAYERS, SINKS = 24, 3, 2
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def make_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2)).eval()


def make_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=LAYERS, n_head=4, n_positions=64)
    return GPT2LMHeadModel(config).eval()


def make_bert() -> BertModel:
    torch.manual_seed(0)
    return BertModel(BertConfig(**SIZES)).eval()


def make_mistral() -> MistralForCausalLM:
    torch.manual_seed(0)
    config = MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=10)
    return MistralForCausalLM(config).eval()


MODELS = pytest.mark.parametrize("make", [make_llama, make_gpt2, make_bert])


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(64, (2, CTX), generator=torch.Generator().manual_seed(1))


def visible(span: int, causal: bool) -> Tensor:
    """Which keys each query sees, boolean (CTX, CTX)."""
    position = torch.arange(CTX)
    distance = position[:, None] - position
    keys = (distance.abs() < span) | (position < SINKS)
    return keys & (distance >= 0) if causal else keys


def run(stack: PretrainedStack, tokens: Tensor, actions: list[int]) -> tuple[Tensor, list[Any]]:
    """Final hidden states of the groups' actions, and the groups' outputs."""
    hidden, outputs = stack.embed(tokens), []
    for index, action in enumerate(actions):
        each = stack.run_layer(index, hidden, torch.full((len(tokens),), action))
        hidden = stack.connect(index, hidden, each.output)
        outputs.append(each)
    return hidden, outputs


@MODELS
@pytest.mark.parametrize("span", [1, 5, 23])
@torch.no_grad()
def test_one_group_is_the_model_under_a_mask(make: Any, span: int, tokens: Tensor):
    model = make()
    stack = PretrainedStack(model, CTX, spans=(span, "full"), sinks=SINKS)
    hidden, (output,) = run(stack, tokens, [0])
    mask = visible(span, stack.causal)
    expected = model.base_model(
        input_ids=tokens, attention_mask=mask[None, None].expand(2, -1, -1, -1)
    )
    torch.testing.assert_close(stack.outputs(hidden), expected.last_hidden_state)
    assert output.qk_pairs.tolist() == [int(mask.sum())] * 2
    assert output.span.tolist() == [span] * 2


@MODELS
@pytest.mark.parametrize("groups", [1, 2, 3])
@torch.no_grad()
def test_full_span_is_the_model_itself_bit_exactly(make: Any, groups: int, tokens: Tensor):
    model = make()
    stack = PretrainedStack(model, CTX, spans=(4, "full"), sinks=SINKS, num_groups=groups)
    assert stack.num_layers == groups
    hidden, outputs = run(stack, tokens, [1] * groups)
    expected = model.base_model(input_ids=tokens).last_hidden_state
    assert torch.equal(stack.outputs(hidden), expected)
    full = CTX * (CTX + 1) // 2 if stack.causal else CTX**2
    assert [each.qk_pairs.tolist() for each in outputs] == [[full] * 2] * groups
    assert stack.causal == (make is not make_bert)


@MODELS
@pytest.mark.parametrize("groups", [1, 3])
@torch.no_grad()
def test_control_of_the_live_model_observes_the_same(make: Any, groups: int, tokens: Tensor):
    """An agent of the environment decides the same when it is put on the model itself."""
    model = make()
    vary_norms(model)
    stack = PretrainedStack(model, CTX, spans=(4, "full"), sinks=SINKS, num_groups=groups)
    actions = [index % 2 for index in range(groups)]
    _, outputs = run(stack, tokens, actions)
    spans: list[Any] = [(4, "full")[action] for action in actions]
    with spangym.control(model, spans, groups=groups, sinks=SINKS) as handle:
        model.base_model(input_ids=tokens)
    spec = ObservationSpec(32, encoding="features", autocorrelation=True)
    for output, features in zip(outputs, handle.features, strict=True):
        expected = spec.extract_from_input(output.local_input)
        torch.testing.assert_close(features, expected.float(), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_each_group_has_its_own_span(tokens: Tensor):
    """The second of three groups at a span of 3, against a mask for its layer alone."""
    model = make_llama()
    stack = PretrainedStack(model, CTX, spans=(3, "full"), sinks=SINKS, num_groups=3)
    hidden, _ = run(stack, tokens, [1, 0, 1])
    mask = visible(3, causal=True)[None, None]

    def masked(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "attention_mask": mask}

    layer: Any = model.model.layers[1]
    hook = layer.register_forward_pre_hook(masked, with_kwargs=True)
    expected = model.model(input_ids=tokens).last_hidden_state
    hook.remove()
    torch.testing.assert_close(stack.outputs(hidden), expected)


@torch.no_grad()
def test_windows_of_the_model_itself_stay(tokens: Tensor):
    model = make_mistral()
    stack = PretrainedStack(model, CTX, spans=(4, "full"), sinks=SINKS)
    hidden, (output,) = run(stack, tokens, [1])
    assert torch.equal(stack.outputs(hidden), model.model(input_ids=tokens).last_hidden_state)
    assert output.qk_pairs.tolist() == [10 * 11 // 2 + 10 * (CTX - 10)] * 2


@torch.no_grad()
def test_what_is_known_of_full_span_is_used_again(tokens: Tensor):
    """Sequences at full span take the known output, the others are run."""
    stack = PretrainedStack(make_llama(), CTX, spans=(4, "full"), sinks=SINKS)
    prepared = stack.prepare_layer(0, stack.embed(tokens))
    full = stack.run_full_span(0, prepared, 2)
    kept = stack.keep_full_output(prepared, full)
    actions = torch.tensor([1, 0])
    one, two = (stack.run_prepared(0, each, actions) for each in (prepared, kept))
    torch.testing.assert_close(one.output, two.output)
    assert torch.equal(two.output[0], full.output[0])
    assert one.qk_pairs.tolist() == two.qk_pairs.tolist()
    assert one.span.tolist() == [CTX, 4]


@torch.no_grad()
def test_the_loss_is_in_bits_a_byte(tokens: Tensor):
    model = make_llama()
    stack = PretrainedStack(model, CTX, spans=(4, "full"))
    stack.count_bytes(torch.arange(64) % 5)
    hidden, _ = run(stack, tokens, [1])
    targets = next_token_targets(tokens)
    logits = model(input_ids=tokens).logits.log_softmax(-1)
    for row, loss in enumerate(stack.loss_bits(hidden, targets)):
        next_tokens = tokens[row, 1:]
        nats = -logits[row, :-1].gather(1, next_tokens[:, None]).sum()
        size = (next_tokens % 5).sum()
        assert loss.item() == pytest.approx((nats / size).item() / math.log(2), rel=1e-5)


def test_a_sequence_without_bytes_has_a_finite_loss():
    logits, targets = torch.zeros(1, 3, 8), torch.tensor([[1, 2, -100]])
    assert bits_per_byte(logits, targets, torch.zeros(8, dtype=torch.int64)).tolist() == [6.0]


@torch.no_grad()
def test_the_model_is_as_it_was_after_an_error(tokens: Tensor):
    model = make_llama()
    before = {name: {*vars(each)} for name, each in model.named_modules()}
    stack = PretrainedStack(model, CTX, spans=(4, "full"), num_groups=3)
    with pytest.raises(Exception, match=r"shape|size"):
        stack.run_layer(1, torch.zeros(2, CTX, 31), torch.tensor([0, 0]))
    assert {name: {*vars(each)} for name, each in model.named_modules()} == before
    assert torch.isfinite(model(input_ids=tokens).logits).all()


def test_models_that_cannot_run_group_by_group_are_refused():
    albert = AlbertModel(AlbertConfig(**{**SIZES, "embedding_size": 16})).eval()
    with pytest.raises(ValueError, match="AlbertModel cannot run layer by layer"):
        PretrainedStack(albert, CTX)
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=32, d_model=16, num_layers=1, num_heads=2))
    with pytest.raises(ValueError, match="encoder-decoder"):
        PretrainedStack(t5, CTX)
    with pytest.raises(ValueError, match="groups must be at most 3"):
        PretrainedStack(make_llama(), CTX, num_groups=4)
    dropout = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=4, vocab_size=64)).train()
    with pytest.raises(ValueError, match="eval"):
        PretrainedStack(dropout, CTX)
