"""Spans while decoding: equality with one masked pass, decisions, memory, `generate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("transformers")

import transformers
from transformers import Cache, DynamicCache, EncoderDecoderCache, PreTrainedModel

from spangym.attention.transformers.control import control
from spangym.attention.transformers.span_cache import SpanCacheLayer
from spangym.attention.transformers.span_choosers import FULL_SPAN, GroupInput

pytestmark = pytest.mark.filterwarnings("ignore:.*past_key_values")

PROMPT, TOKENS, INTERVAL, SINKS, WINDOW = 20, 44, 6, 3, 12

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}


def llama() -> PreTrainedModel:
    """With rotary positions, two heads of queries for one of keys."""
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2)
    return seeded(transformers.LlamaForCausalLM, config)


def gemma() -> PreTrainedModel:
    """With a native window in the first of two layers."""
    layers = ["sliding_attention", "full_attention"]
    config = transformers.Gemma3TextConfig(
        **SIZES, num_key_value_heads=2, head_dim=8, sliding_window=WINDOW, layer_types=layers
    )
    return seeded(transformers.Gemma3ForCausalLM, config)


def mistral() -> PreTrainedModel:
    """With a native window in all layers."""
    config = transformers.MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=WINDOW)
    return seeded(transformers.MistralForCausalLM, config)


def gpt2() -> PreTrainedModel:
    """With learned positions, and keys that are views of the projection's output."""
    config = transformers.GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3
    )
    config.bos_token_id = config.eos_token_id = None
    return seeded(transformers.GPT2LMHeadModel, config)


def bart() -> PreTrainedModel:
    """With an encoder."""
    config = transformers.BartConfig(
        vocab_size=64,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=128,
        init_std=0.3,
        forced_eos_token_id=None,
    )
    return seeded(transformers.BartForConditionalGeneration, config)


def t5() -> PreTrainedModel:
    """With an encoder, and a bias of the scores by relative position."""
    pytest.importorskip("transformers", "5.15", "T5 has no attention functions there")
    config = transformers.T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4
    )
    return seeded(transformers.T5ForConditionalGeneration, config)


def seeded(model_class: Any, config: Any) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return model_class(config).eval()


@dataclass
class Stream:
    """A text that is decoded under control.

    Attributes:
        logits: Shape (batch, tokens, vocabulary).
        spans: Spans at each token, shape (tokens, groups, batch).
        ends: Number of tokens after each pass.
        cache: The cache of self-attention.
        modules: Names of the controlled modules by group.
        text: Token ids, shape (batch, tokens).
        padding: Number of padded tokens at the start of each sequence.
    """

    logits: Tensor
    spans: Tensor
    ends: list[int]
    cache: Cache
    modules: list[list[str]]
    text: Tensor
    padding: list[int]

    @property
    def is_token(self) -> Tensor:
        return torch.arange(self.text.shape[1]) >= torch.tensor(self.padding)[:, None]

    def visible(self, trims: bool) -> Tensor:
        """What every query could see, boolean (groups, batch, tokens, tokens)."""
        count, position = self.text.shape[1], torch.arange(self.text.shape[1])
        first = torch.tensor(self.padding)[None, :, None]
        is_sink = (position >= first) & (position < first + SINKS)
        is_held = torch.ones(*self.spans.shape[1:], count, dtype=torch.bool)
        visible = torch.zeros(*self.spans.shape[1:], count, count, dtype=torch.bool)
        start = 0
        for end in self.ends:
            for query in range(start, end):
                is_near = query - position < self.spans[query][..., None]
                causal = (position <= query) & (position >= first)
                visible[:, :, query] = is_held & (is_near | is_sink) & causal
            if trims:
                is_held &= (end - position < self.spans[end - 1][..., None]) | is_sink
            start = end
        return visible


def scripted(*spans: Any) -> Callable[[Tensor, int], Any]:
    """A controller that gives one span, or spans of the batch, after the other."""
    calls: dict[int, int] = {}

    def choose(features: Tensor, group: int) -> Any:
        del features
        own = spans[min(calls.get(group, 0), len(spans) - 1)]
        calls[group] = calls.get(group, 0) + 1
        if isinstance(own, dict):
            own = own[group]
        return torch.tensor(own) if isinstance(own, list) else own

    return choose


@torch.no_grad()
def decode(
    model: PreTrainedModel,
    controller: Any,
    mode: Any,
    padding: Sequence[int] = (0, 0),
    chunk: int = 1,
    **options: Any,
) -> Stream:
    """Decode a random text after a prompt, in chunks."""
    batch = len(padding)
    text = torch.randint(3, 64, (batch, TOKENS), generator=torch.Generator().manual_seed(1))
    is_token = torch.arange(TOKENS) >= torch.tensor(padding)[:, None]
    positions = (is_token.cumsum(1) - 1).clamp(min=0)
    own = DynamicCache(config=model.config.get_text_config(decoder=True))
    is_encoder_decoder = model.config.is_encoder_decoder
    cache = EncoderDecoderCache(own, DynamicCache()) if is_encoder_decoder else own
    encoded = encoder_inputs(model, text)
    logits, spans, ends, start = [], [], [], 0
    options = {"sinks": SINKS, "interval": INTERVAL, "where": "decoder_self", **options}
    with control(model, controller, cache=mode, **options) as handle:
        for end in [*range(PROMPT, TOKENS, chunk), TOKENS]:
            inputs: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
            if is_encoder_decoder:
                inputs |= {"decoder_input_ids": text[:, start:end], **encoded}
            else:
                inputs |= {"input_ids": text[:, start:end], "attention_mask": is_token[:, :end]}
                inputs["position_ids"] = positions[:, start:end]
            logits.append(model(**inputs).logits)
            spans += [handle.spans.clone()] * (end - start)
            ends.append(end)
            start = end
    joined = torch.cat(logits, dim=1)
    return Stream(joined, torch.stack(spans), ends, own, handle.modules, text, [*padding])


def encoder_inputs(model: PreTrainedModel, text: Tensor) -> dict[str, Any]:
    if not model.config.is_encoder_decoder:
        return {}
    return {"encoder_outputs": model.get_encoder()(text[:, :7])}


@contextmanager
def masks(model: PreTrainedModel, stream: Stream, visible: Tensor) -> Iterator[None]:
    """Let each module see what its group could see, without control."""
    hooks = []
    for group, names in enumerate(stream.modules):
        for name in names:
            module = model.get_submodule(name)

            def set_mask(
                module: nn.Module, args: Any, kwargs: Mapping[str, Any], group: int = group
            ) -> Any:
                own = visible[group][:, None]
                config = model.config
                window = getattr(config, "sliding_window", None)
                if window is not None and getattr(module, "is_sliding", True):
                    position = torch.arange(TOKENS)
                    own = own & (position[:, None] - position < window)
                # Padded queries see themselves, so that no row is empty.
                own = own | torch.eye(TOKENS, dtype=torch.bool)
                name = "mask" if config.model_type == "t5" else "attention_mask"
                additive = torch.zeros(own.shape).masked_fill(~own, -1e30)
                return args, {**kwargs, name: additive}

            hooks.append(module.register_forward_pre_hook(set_mask, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def masked_pass(model: PreTrainedModel, stream: Stream, mode: str) -> Tensor:
    """Logits of one pass over the whole text, with a mask of what each query could see."""
    is_token = stream.is_token
    inputs: dict[str, Any] = {"use_cache": False}
    if model.config.is_encoder_decoder:
        inputs |= {"decoder_input_ids": stream.text, **encoder_inputs(model, stream.text)}
    else:
        inputs |= {"input_ids": stream.text, "attention_mask": is_token}
        inputs["position_ids"] = (is_token.cumsum(1) - 1).clamp(min=0)
    with masks(model, stream, stream.visible(mode == "trim")):
        return model(**inputs).logits


def error(model: PreTrainedModel, stream: Stream, mode: str) -> float:
    """Largest difference from the masked pass, relative to the scale of the logits."""
    expected = masked_pass(model, stream, mode)
    difference = (stream.logits - expected).abs() * stream.is_token[..., None]
    return float(difference.max() / expected.abs().max())


SCHEDULES: dict[str, tuple[Any, ...]] = {
    "constant": (8,),
    "growing": (4, 10, 17, "full"),
    "shrinking": ("full", 15, 9, 2, 7),
    "by sequence": ([5, FULL_SPAN], [14, 3], [FULL_SPAN, 8], [4, 9]),
    "by group": ({0: 9, 1: "full"}, {0: 16, 1: 5}, {0: 4, 1: 11}),
}


CASES = [
    *((make, schedule, "trim") for make in (llama, gemma) for schedule in SCHEDULES),
    *((make, "by sequence", "trim") for make in (mistral, gpt2, bart, t5)),
    *((make, "shrinking", "trim") for make in (mistral, gpt2, bart, t5)),
    *((make, "growing", "read") for make in (llama, gemma, mistral, gpt2, bart, t5)),
    *((make, "by sequence", "read") for make in (llama, gemma, t5)),
]


@pytest.mark.parametrize(("make", "schedule", "mode"), CASES)
def test_decoding_equals_one_masked_pass(make: Any, schedule: str, mode: str) -> None:
    model = make()
    groups = 2 if schedule == "by group" else 1
    stream = decode(model, scripted(*SCHEDULES[schedule]), mode, groups=groups)
    assert error(model, stream, mode) < 1e-5
    assert all(isinstance(each, SpanCacheLayer) for each in stream.cache.layers)


@pytest.mark.parametrize("mode", ["trim", "read"])
@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("make", [llama, gemma])
def test_decoding_with_left_padding_equals_one_masked_pass(
    make: Any, chunk: int, mode: str
) -> None:
    model = make()
    controller = scripted([5, FULL_SPAN], [14, 3], [FULL_SPAN, 8], [4, 9])
    stream = decode(model, controller, mode, padding=(7, 0), chunk=chunk)
    assert error(model, stream, mode) < 1e-5


@pytest.mark.parametrize("make", [llama, gemma])
def test_sequences_do_not_depend_on_each_other(make: Any) -> None:
    model = make()
    both = decode(model, scripted([5, 30], [12, 4]), "trim", padding=(6, 0))
    alone = decode(model, scripted([5], [12]), "trim", padding=(6,))
    difference = (both.logits[:1] - alone.logits)[:, 6:]
    assert difference.abs().max() < 1e-4 * alone.logits.abs().max()


def held_tokens(stream: Stream) -> list[int]:
    """Slots of each layer's cache."""
    sizes = []
    for layer in stream.cache.layers:
        assert isinstance(layer, SpanCacheLayer)
        assert layer.keys is not None
        row = layer.keys[:, :, 0].numel() * layer.keys.element_size()
        sizes.append(layer.nbytes // (2 * row))
    return sizes


def test_trimming_frees_memory_and_reading_keeps_it() -> None:
    model = llama()
    trimmed = decode(model, scripted({0: 8, 1: 16}), "trim", groups=2)
    assert held_tokens(trimmed) == [8 + SINKS, 16 + SINKS]
    kept = decode(model, scripted({0: 8, 1: 16}), "read", groups=2)
    assert all(each >= TOKENS for each in held_tokens(kept))
    assert trimmed.cache.get_seq_length() == kept.cache.get_seq_length() == TOKENS


def test_native_windows_bound_the_memory_in_both_modes() -> None:
    for mode in ("read", "trim"):
        sliding, full = held_tokens(decode(gemma(), "full", mode))
        assert sliding <= WINDOW + SINKS
        assert full >= TOKENS


def test_a_decision_for_the_prompt_and_every_interval_from_the_tokens_since() -> None:
    model, observed = llama(), []

    def choose(features: Tensor, group: int) -> int:
        del group
        observed.append(features)
        return 5 + len(observed)

    inputs: list[Tensor] = []

    def keep_input(module: nn.Module, args: Any) -> None:
        del module
        inputs.append(args[0])

    hook = model.get_submodule("model.layers.0").register_forward_pre_hook(keep_input)
    stream = decode(model, choose, "trim")
    hook.remove()
    spans = stream.spans[:, 0, 0].tolist()
    # The pass of the sixth token after a decision decides, and uses its own span.
    starts = [0, *range(PROMPT + INTERVAL - 1, TOKENS, INTERVAL)]
    lengths = [b - a for a, b in zip(starts, [*starts[1:], TOKENS], strict=True)]
    assert spans == [6 + i for i, length in enumerate(lengths) for _ in range(length)]
    # The first pass of all is the one that looks for attention modules.
    hidden = torch.cat([each for each in inputs if len(each) == 2], dim=1)
    assert len(observed) == len(starts)
    torch.testing.assert_close(observed[0], GroupInput(hidden[:, :PROMPT]).features)
    for number, features in enumerate(observed[1:]):
        start = PROMPT + number * INTERVAL
        expected = GroupInput(hidden[:, start : start + INTERVAL]).features
        torch.testing.assert_close(features, expected)


GENERATE: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "do_sample": False},
}


def generate(model: Any, **options: Any) -> Tensor:
    ids = torch.randint(3, 64, (2, 10), generator=torch.Generator().manual_seed(3))
    fixed = {"max_new_tokens": 20, "min_new_tokens": 20, "pad_token_id": 0}
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return model.generate(ids, **fixed, **options)


@pytest.mark.parametrize("mode", ["trim", "read"])
@pytest.mark.parametrize("options", GENERATE)
def test_generate_at_full_span_is_that_of_the_model(options: str, mode: Any) -> None:
    model = llama()
    expected = generate(model, **GENERATE[options])
    with control(model, "full", cache=mode):
        assert torch.equal(generate(model, **GENERATE[options]), expected)


def test_generate_with_a_span_is_that_of_a_model_with_this_native_window() -> None:
    model = mistral()
    expected = [generate(model, **each) for each in GENERATE.values()]
    wide = mistral()
    wide.config.sliding_window = None
    for mode in ("trim", "read"):
        with control(wide, WINDOW, cache=mode, sinks=0):
            given = [generate(wide, **each) for each in GENERATE.values()]
        assert all(map(torch.equal, given, expected))


@pytest.mark.parametrize("mode", ["trim", "read"])
def test_a_reordered_cache_takes_spans_and_recent_inputs_along(mode: Any) -> None:
    """As beam search does: the second sequence goes on in both rows."""
    model, ids = llama(), torch.arange(40).view(2, 20) + 3

    def run(rows: list[int]) -> tuple[Tensor, Tensor]:
        cache, outputs = DynamicCache(), []
        order: Any = torch.tensor(rows)
        with control(model, span_of_features, cache=mode, interval=4) as handle:
            for start, end in [(0, 8), *((i, i + 1) for i in range(8, 20))]:
                if start == 10:
                    cache.reorder_cache(order)
                inputs = ids if start < 10 else ids[rows]
                output = model(inputs[:, start:end], past_key_values=cache, use_cache=True)
                outputs.append(output.logits)
        return torch.cat(outputs, dim=1), handle.spans

    with torch.no_grad():
        (expected, spans), (given, own_spans) = run([0, 1]), run([1, 1])
    assert own_spans.tolist() == [[int(spans[0, 1])] * 2]
    torch.testing.assert_close(given[0, 10:], expected[1, 10:])
    torch.testing.assert_close(given[1], expected[1])


@pytest.mark.parametrize("mode", ["trim", "read"])
def test_a_second_text_decides_from_its_beginning(mode: Any) -> None:
    model, chosen = llama(), []

    def choose(features: Tensor, group: int) -> Tensor:
        chosen.append(span_of_features(features, group))
        return chosen[-1]

    with control(model, choose, cache=mode, interval=4):
        for _ in range(2):
            generate(model, **GENERATE["beams"])
    first, second = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    assert len(first) == 1 + (20 - 1) // 4
    assert all(map(torch.equal, first, second))


def span_of_features(features: Tensor, group: int) -> Tensor:
    """Spans from 3 to 11 that look random."""
    del group
    return (features[:, 0] * 1e4).long() % 9 + 3


def test_two_texts_alternate_under_one_control() -> None:
    model = llama()
    texts = [torch.arange(14)[None] + start for start in (3, 30)]

    def run(order: Sequence[int]) -> list[Tensor]:
        caches = [DynamicCache(), DynamicCache()]
        outputs: list[list[Tensor]] = [[], []]
        for start, end in [(0, 6), *((i, i + 1) for i in range(6, 14))]:
            for text in order:
                inputs = texts[text][:, start:end]
                output = model(inputs, past_key_values=caches[text], use_cache=True)
                outputs[text].append(output.logits)
        return [torch.cat(each, dim=1) for each in outputs if each]

    with torch.no_grad(), control(model, span_of_features, cache="trim", interval=3):
        together = run([0, 1])
        apart = [run([text])[0] for text in (0, 1)]
    assert all(map(torch.equal, together, apart))


def test_qk_pairs_count_what_a_query_reads() -> None:
    model = llama()
    for mode in ("trim", "read"):
        cache = DynamicCache()
        with torch.no_grad(), control(model, 8, cache=mode, sinks=SINKS) as handle:
            model(torch.arange(30)[None] + 3, past_key_values=cache)
            model(torch.tensor([[5]]), past_key_values=cache)
            assert handle.qk_pairs.tolist() == [2 * (8 + SINKS)]
            assert handle.full_qk_pairs.tolist() == [2 * 31]


def test_caches_continue_without_control_unless_they_were_trimmed() -> None:
    model, ids = llama(), torch.arange(30)[None] + 3
    with torch.no_grad():
        expected = model(ids).logits[:, -1]
        for mode in ("read", "trim"):
            cache = DynamicCache()
            with control(model, "full" if mode == "read" else 8, cache=mode):
                model(ids[:, :-1], past_key_values=cache)
            if mode == "read":
                given = model(ids[:, -1:], past_key_values=cache).logits[:, -1]
                torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)
            else:
                with pytest.raises(ValueError, match="continue it in a with block"):
                    model(ids[:, -1:], past_key_values=cache)


def test_bad_arguments_of_the_cache() -> None:
    model = llama()
    with pytest.raises(ValueError, match=r"cache must be read or trim, got 'trimm'; did you mean"):
        control(model, 8, cache="trimm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="interval must be at least 1"):
        control(model, 8, interval=0)
    with control(model, 8), pytest.raises(ValueError, match="need a DynamicCache"):
        generate(model, cache_implementation="static", do_sample=False)
