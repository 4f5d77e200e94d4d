"""Tiny models of many architectures, with random weights and padded input of 80 tokens."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from tests.attention.transformers.tiny_llama import vary_norms

TOKENS = 80
LENGTHS = (80, 57, 70)
"""Unpadded tokens of the sequences of a batch."""
VOCABULARY = 64

Padding = Literal["right", "left"]

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_TEXT = {**_SIZES, "max_position_embeddings": 128}
_TOKEN_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_GQA = {**_TEXT, **_TOKEN_IDS, "num_key_value_heads": 2}
_WHISPER_DECODER = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    **_TOKEN_IDS,
    "decoder_start_token_id": 1,
}


@dataclass(frozen=True)
class Architecture:
    """A family of models.

    Attributes:
        name: Name in Transformers' module ``transformers.models``.
        model_class: Class of `transformers`.
        config: Arguments of its configuration.
        input: Kind of the (encoder's) input.
        encoder: Regular expression of the names of the encoder's self-attention modules.
        decoder: Likewise of a decoder's, which are causal.
        since: First version of Transformers in which it has attention functions.
    """

    name: str
    model_class: str
    config: dict[str, Any] = field(default_factory=dict)
    input: Literal["ids", "image", "waveform", "mel"] = "ids"
    encoder: str | None = None
    decoder: str | None = None
    since: str = "5"

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether there is cross-attention."""
        return self.encoder is not None and self.decoder is not None

    @property
    def paddings(self) -> list[Padding]:
        """Sides on which the tests pad."""
        return ["right", "left"] if self.encoder is None and self.input == "ids" else ["right"]

    def self_attention(self, model: Any) -> dict[str, Any]:
        """Self-attention modules by name, in the order of ``named_modules``."""
        patterns = [each for each in (self.encoder, self.decoder) if each]
        return {
            name: module
            for name, module in model.named_modules()
            if any(re.fullmatch(each, name) for each in patterns)
        }

    def is_causal(self, name: str) -> bool:
        """Whether the self-attention module of this name is causal."""
        return bool(self.decoder and re.fullmatch(self.decoder, name))


_BERT_LIKE = {**_TEXT, "type_vocab_size": 2, "pad_token_id": 0}
_BERT_SELF = r"encoder\.layer\.\d+\.attention\.self"

ARCHITECTURES = {
    each.name: each
    for each in (
        Architecture(
            "gpt2",
            "GPT2LMHeadModel",
            {
                "vocab_size": VOCABULARY,
                "n_embd": 32,
                "n_layer": 2,
                "n_head": 4,
                "n_positions": 128,
                **_TOKEN_IDS,
            },
            decoder=r"transformer\.h\.\d+\.attn",
        ),
        Architecture(
            "gpt_neox",
            "GPTNeoXForCausalLM",
            {**_TEXT, **_TOKEN_IDS},
            decoder=r"gpt_neox\.layers\.\d+\.attention",
        ),
        Architecture(
            "opt",
            "OPTForCausalLM",
            {
                **{key: value for key, value in _TEXT.items() if key != "intermediate_size"},
                "ffn_dim": 48,
                "word_embed_proj_dim": 32,
                **_TOKEN_IDS,
            },
            decoder=r"model\.decoder\.layers\.\d+\.self_attn",
        ),
        *(
            Architecture(name, model_class, _GQA | more, decoder=r"model\.layers\.\d+\.self_attn")
            for name, model_class, more in (
                ("llama", "LlamaForCausalLM", {}),
                ("qwen2", "Qwen2ForCausalLM", {}),
                ("qwen3", "Qwen3ForCausalLM", {"head_dim": 8}),
                ("mistral", "MistralForCausalLM", {"sliding_window": 40, "head_dim": 8}),
                (
                    "gemma3",
                    "Gemma3ForCausalLM",
                    {
                        "head_dim": 8,
                        "query_pre_attn_scalar": 8,
                        "sliding_window": 20,
                        "layer_types": ["sliding_attention", "full_attention"],
                    },
                ),
                ("phi3", "Phi3ForCausalLM", {}),
            )
        ),
        Architecture("bert", "BertModel", _BERT_LIKE, encoder=_BERT_SELF),
        # Positions begin at 2.
        Architecture("roberta", "RobertaModel", _BERT_LIKE, encoder=_BERT_SELF),
        Architecture(
            "electra", "ElectraModel", {**_BERT_LIKE, "embedding_size": 16}, encoder=_BERT_SELF
        ),
        Architecture(
            "modernbert",
            "ModernBertModel",
            {
                **_TEXT,
                **_TOKEN_IDS,
                "cls_token_id": 1,
                "sep_token_id": 2,
                "local_attention": 48,
                "layer_types": ["full_attention", "sliding_attention"],
            },
            encoder=r"layers\.\d+\.attn",
            since="5.3",
        ),
        Architecture(
            "albert",
            "AlbertModel",
            {**_BERT_LIKE, "embedding_size": 16},
            encoder=r"encoder\.albert_layer_groups\.0\.albert_layers\.0\.attention",
        ),
        Architecture(
            "distilbert",
            "DistilBertModel",
            {
                "vocab_size": VOCABULARY,
                "max_position_embeddings": 128,
                "dim": 32,
                "hidden_dim": 48,
                "n_layers": 2,
                "n_heads": 4,
            },
            encoder=r"transformer\.layer\.\d+\.attention",
        ),
        Architecture(
            "vit",
            "ViTModel",
            {**_SIZES, "image_size": 36, "patch_size": 4},
            "image",
            encoder=r"encoder\.layer\.\d+\.attention\.attention|layers\.\d+\.attention",
        ),
        Architecture(
            "clip",
            "CLIPTextModel",
            {**_TEXT, **_TOKEN_IDS},
            # A text encoder, but causal.
            decoder=r"(text_model\.)?encoder\.layers\.\d+\.self_attn",
        ),
        Architecture(
            "wav2vec2",
            "Wav2Vec2Model",
            {
                **_SIZES,
                "conv_dim": (16, 16),
                "conv_stride": (5, 2),
                "conv_kernel": (10, 3),
                "feat_extract_norm": "layer",
                "num_conv_pos_embeddings": 8,
                "num_conv_pos_embedding_groups": 4,
            },
            "waveform",
            encoder=r"encoder\.layers\.\d+\.attention",
        ),
        Architecture(
            "t5",
            "T5ForConditionalGeneration",
            {
                "vocab_size": VOCABULARY,
                "d_model": 32,
                "d_kv": 8,
                "d_ff": 48,
                "num_layers": 2,
                "num_heads": 4,
                "pad_token_id": 0,
                "eos_token_id": 2,
                "decoder_start_token_id": 0,
            },
            encoder=r"encoder\.block\.\d+\.layer\.0\.SelfAttention",
            decoder=r"decoder\.block\.\d+\.layer\.0\.SelfAttention",
            since="5.15",
        ),
        Architecture(
            "bart",
            "BartForConditionalGeneration",
            {**_WHISPER_DECODER, "max_position_embeddings": 128, "forced_eos_token_id": None},
            encoder=r"model\.encoder\.layers\.\d+\.self_attn",
            decoder=r"model\.decoder\.layers\.\d+\.self_attn",
        ),
        Architecture(
            "whisper",
            "WhisperForConditionalGeneration",
            {
                **_WHISPER_DECODER,
                "num_mel_bins": 16,
                "max_source_positions": TOKENS,
                "max_target_positions": 128,
                "suppress_tokens": None,
                "begin_suppress_tokens": None,
            },
            "mel",
            encoder=r"model\.encoder\.layers\.\d+\.self_attn",
            decoder=r"model\.decoder\.layers\.\d+\.self_attn",
        ),
        Architecture(
            "moonshine",
            "MoonshineForConditionalGeneration",
            {
                "vocab_size": VOCABULARY,
                "hidden_size": 32,
                "intermediate_size": 48,
                "encoder_num_hidden_layers": 2,
                "decoder_num_hidden_layers": 2,
                "encoder_num_attention_heads": 4,
                "decoder_num_attention_heads": 4,
                "max_position_embeddings": 128,
                **_TOKEN_IDS,
            },
            "waveform",
            encoder=r"model\.encoder\.layers\.\d+\.self_attn",
            decoder=r"model\.decoder\.layers\.\d+\.self_attn",
        ),
    )
}

REFUSED = {
    each.name: each
    for each in (
        Architecture(
            "bloom",
            "BloomForCausalLM",
            {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 2, "n_head": 4, **_TOKEN_IDS},
        ),
        Architecture(
            "deberta_v2",
            "DebertaV2Model",
            {**_BERT_LIKE, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        ),
        Architecture("longformer", "LongformerModel", {**_BERT_LIKE, "attention_window": [16, 16]}),
        Architecture(
            "mamba",
            "MambaForCausalLM",
            {
                "vocab_size": VOCABULARY,
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "state_size": 4,
                **_TOKEN_IDS,
            },
        ),
    )
}
"""Architectures that have no registered attention functions."""


def make_model(name: str, **config: Any) -> Any:
    """A new model in eval mode, with weights large enough for attention to matter."""
    transformers = pytest.importorskip("transformers")
    architecture = (ARCHITECTURES | REFUSED)[name]
    pytest.importorskip("transformers", architecture.since)
    model_class = getattr(transformers, architecture.model_class)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class(model_class.config_class(**(architecture.config | config))).eval()
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                fan_in = parameter[0].numel()
                parameter.data.normal_(0, fan_in**-0.5)
        vary_norms(model)
    return model


shared_model = functools.cache(make_model)
"""The same model for all tests that do not change it."""


def example_inputs(name: str, padding: Padding = "right") -> dict[str, Tensor]:
    """Keyword inputs of a model: a batch of three sequences with `LENGTHS` unpadded tokens."""
    architecture = (ARCHITECTURES | REFUSED)[name]
    generator = torch.Generator().manual_seed(1)
    batch = len(LENGTHS)
    inputs: dict[str, Tensor] = {}
    if architecture.input == "image":
        return {"pixel_values": torch.randn(batch, 3, 36, 36, generator=generator)}
    if architecture.input == "mel":
        inputs["input_features"] = torch.randn(batch, 16, 2 * TOKENS, generator=generator)
    elif architecture.input == "waveform":
        # Samples of `LENGTHS` tokens; Moonshine's convolutions have a stride of 384.
        stride, overlap = (10, 15) if name == "wav2vec2" else (384, 511)
        samples = [stride * length + overlap for length in LENGTHS]
        inputs["input_values"] = torch.randn(batch, max(samples), generator=generator)
        inputs["attention_mask"] = _padding_mask(samples, "right")
        inputs["input_values"] *= inputs["attention_mask"]
    else:
        ids = torch.randint(3, VOCABULARY, (batch, TOKENS), generator=generator)
        inputs["attention_mask"] = _padding_mask(LENGTHS, padding)
        inputs["input_ids"] = ids * inputs["attention_mask"]
    if architecture.is_encoder_decoder:
        ids = torch.randint(3, VOCABULARY, (batch, TOKENS), generator=generator)
        inputs["decoder_attention_mask"] = _padding_mask(LENGTHS, "right")
        inputs["decoder_input_ids"] = ids * inputs["decoder_attention_mask"]
    return inputs


def unpadded_outputs(name: str, model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Outputs of the unpadded tokens, (tokens of all sequences, numbers): logits, or states."""
    outputs = model(**inputs)
    found = outputs.logits if "logits" in outputs else outputs.last_hidden_state
    if (ARCHITECTURES | REFUSED)[name].is_encoder_decoder:
        mask = inputs["decoder_attention_mask"]
    elif name == "wav2vec2":
        mask = model._get_feature_vector_attention_mask(found.shape[1], inputs["attention_mask"])
    else:
        mask = inputs.get("attention_mask")
    return found.flatten(0, 1) if mask is None else found[mask.bool()]


def one_sequence(inputs: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """The inputs of one sequence of a batch, with its padding."""
    return {key: value[index : index + 1] for key, value in inputs.items()}


def _padding_mask(lengths: Any, padding: Padding) -> Tensor:
    position = torch.arange(max(lengths))
    mask = (position < torch.tensor(lengths)[:, None]).long()
    return mask.flip(-1) if padding == "left" else mask
