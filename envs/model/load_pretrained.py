"""The pretrained model of an environment, what it reads, and what its loss counts."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from spangym.envs.data.dataset import BYTES, Dataset
from spangym.envs.env_config import CUSTOM, EnvComponents, EnvConfig
from spangym.envs.model.stack import LayerStack


def load_components(config: EnvConfig, components: EnvComponents) -> EnvComponents:
    """Load the model that a config names, with its tokenizer, unless it is there.

    Raises:
        ValueError: An extra is not installed, or there is no such model.
    """
    if not config.model or components.model is not None:
        return components
    if config.model == CUSTOM:
        raise ValueError(f"model {CUSTOM!r} stands for a model that is passed in: pass model")
    # Transformers takes seconds to import.
    from spangym.attention.transformers.load_model import load_model

    loaded = load_model(config.model, device=config.device)
    return components._replace(model=loaded.model, tokenizer=loaded.tokenizer)


def read_as_tokens(dataset: Dataset, components: EnvComponents) -> Dataset:
    """Let a dataset of bytes be read through a model's tokenizer, if there is one.

    Raises:
        ValueError: The dataset is of frames.
    """
    from spangym.envs.data.token_dataset import TokenDataset

    if dataset.channels:
        raise ValueError("dataset must be of text or tokens for a pretrained model, got frames")
    gives_tokens = isinstance(dataset, TokenDataset) or dataset.vocab_size != BYTES
    if components.tokenizer is None or gives_tokens:
        return dataset
    return TokenDataset(dataset, components.tokenizer)


def build_pretrained(
    config: EnvConfig, components: EnvComponents, dataset: Dataset, needs_task: bool
) -> LayerStack:
    """Build the stack of an environment with a pretrained model.

    Args:
        config: Configuration of the environment.
        components: The model and its tokenizer.
        dataset: What the model reads.
        needs_task: Whether the model's loss is needed.

    Raises:
        ValueError: The model cannot be controlled, its sizes contradict the config, it does not
            know all tokens, or its loss is needed and it does not predict the next token.
    """
    from spangym.envs.model.pretrained_cache import PretrainedCacheStack
    from spangym.envs.model.pretrained_sizes import sizes_of
    from spangym.envs.model.pretrained_stack import PretrainedStack

    model = components.model
    assert model is not None
    sizes = sizes_of(model.config)
    if (sizes.dims, sizes.heads) != (config.dims, config.heads) or config.ctx > sizes.ctx:
        own = f"dims={config.dims}, heads={config.heads}, ctx={config.ctx}"
        hint = "make both with `parse_env_kwargs`"
        raise ValueError(f"model does not match the config, {own}: {hint}")
    vocabulary = cast(Tensor, model.get_input_embeddings().weight).shape[0]
    if dataset.vocab_size > vocabulary:
        raise ValueError(
            f"dataset gives {dataset.vocab_size} different tokens, the model knows {vocabulary}: "
            "give its own tokenizer"
        )
    options: dict[str, Any] = {"spans": config.spans, "sinks": config.sinks}
    predicts = model.get_output_embeddings() is not None
    if config.blocks:
        if not predicts:
            raise ValueError(f"blocks need a model that predicts, {type(model).__name__} does not")
        stack = PretrainedCacheStack(model, config.ctx, config.blocks, **options)
    else:
        stack = PretrainedStack(model, config.ctx, num_groups=config.groups, **options)
    predicts = predicts and stack.causal
    if predicts:
        try:
            stack.count_bytes(_token_bytes(components, dataset))
        except ValueError:
            if needs_task:
                raise
    elif needs_task:
        raise ValueError(
            f"reward 'task' needs a model that predicts the next token, {type(model).__name__} "
            "does not: use 'fidelity'"
        )
    return stack


def _token_bytes(components: EnvComponents, dataset: Dataset) -> Tensor:
    from spangym.attention.transformers.load_model import token_bytes

    if components.tokenizer is not None:
        return token_bytes(components.tokenizer)
    if dataset.vocab_size != BYTES:
        raise ValueError("reward 'task' counts bits a byte: give the model's tokenizer")
    return torch.ones(BYTES, dtype=torch.int64)
