"""A tiny random Llama with a byte-level tokenizer."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_LINES = ["The code of Anna is 4821.", "def add(one, other):", "    return one + other", "a,b,c"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of 300 tokens, two of them special, trained on a few lines."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_LINES * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def vary_norms(model: nn.Module) -> None:
    """Let norms scale their input, as those of a trained model do; at first their weights are 1."""
    for name, parameter in model.named_parameters():
        if "norm" in name.lower() or ".ln_" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)


def save_tiny_llama(folder: Path) -> Path:
    """Save a model of two layers, with `make_tokenizer`'s tokenizer, in a folder."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        dtype="bfloat16",
    )
    model = LlamaForCausalLM(config).bfloat16()
    vary_norms(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
