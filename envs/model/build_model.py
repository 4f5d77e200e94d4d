"""The layer stack of an environment: shipped, with seeded random weights, or the user's own."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch

from spangym.attention import AdaptiveUpdateAttention, LocalGlobalAttention
from spangym.envs.data.dataset import BYTES
from spangym.envs.env_config import (
    CUSTOM,
    GLOBAL_PATH_OPTIONS,
    LAYER_CLASSES,
    EnvConfig,
    Layers,
    unwrap_layers,
)
from spangym.envs.model.cache_transformer import CacheTransformerStack
from spangym.envs.model.model_checkpoint import load_cache_transformer, load_stack
from spangym.envs.model.stack import AttentionOnlyStack, LayerStack


def build_model(config: EnvConfig, layers: Layers | None, channels: int) -> LayerStack:
    """Build the layer stack of an environment.

    Args:
        config: Configuration of the environment.
        layers: The user's own layers or stack, used as they are; None for those of the config.
        channels: Channels of the content's frames; 0 for bytes.

    Raises:
        ValueError: The layers' sizes contradict ``config``, or the content is frames and the
            checkpoint reads bytes, or ``control_kv_cache`` is set and a layer keeps no keys and
            values.
    """
    with _default_tensors():
        stack = _build_stack(config, layers, channels)
    if config.control_kv_cache:
        for index in range(stack.num_layers):
            if not isinstance(stack.layer(index).attn_global, AdaptiveUpdateAttention):
                name = type(stack.layer(index)).__name__
                raise ValueError(f"control_kv_cache must be false: {name} keeps no keys and values")
    return stack


@contextlib.contextmanager
def _default_tensors() -> Iterator[None]:
    """Make tensors as PyTorch does in a new process: an agent may have changed its defaults."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)


def _build_stack(config: EnvConfig, layers: Layers | None, channels: int) -> LayerStack:
    # Drawn on the CPU, so that every device runs the same weights.
    generator = torch.Generator().manual_seed(config.weights_seed)
    embedding = torch.randn(channels or BYTES, config.dims, generator=generator)
    if channels:
        embedding = embedding / math.sqrt(channels)
    if layers is not None:
        modules = unwrap_layers(layers)
        widths = {each.dims for each in modules}
        shortest = min(each.ctx for each in modules)
        if (len(modules), widths) != (config.num_layers, {config.dims}) or shortest < config.ctx:
            sizes = f"num_layers={config.num_layers}, dims={config.dims}, ctx={config.ctx}"
            hint = "make both with `parse_env_kwargs`"
            raise ValueError(f"layers do not match the config, {sizes}: {hint}")
        return layers if isinstance(layers, LayerStack) else AttentionOnlyStack(modules, embedding)
    if config.checkpoint == CUSTOM:
        raise ValueError(f"checkpoint {CUSTOM!r} stands for layers that are passed in: pass layers")
    if config.layers:
        named = config.make_layers()
        is_stack = isinstance(named, LayerStack)
        stack = named if is_stack else AttentionOnlyStack(unwrap_layers(named), embedding)
        return stack.to(config.device).eval()
    if config.checkpoint:
        if channels:
            given = f"dataset {config.dataset!r} gives frames"
            raise ValueError(f"checkpoint {config.checkpoint!r} reads bytes, but {given}")
        if config.blocks:
            model = load_cache_transformer(config.checkpoint)
            options: dict[str, Any] = {"spans": config.spans, "sinks": config.sinks}
            return CacheTransformerStack(model, config.ctx, **options).to(config.device)
        laws = {name: getattr(config, name) for name in ("temperature_law", "temp_scale")}
        return load_stack(config.checkpoint, **laws).to(config.device)
    modules = [_make_layer(config, generator) for _ in range(config.num_layers)]
    return AttentionOnlyStack(modules, embedding).to(config.device).eval()


def _make_layer(config: EnvConfig, generator: torch.Generator) -> LocalGlobalAttention:
    sizes = (config.ctx, config.dims, config.heads)
    layer_class, options = LAYER_CLASSES[config.layer_class], config.span_options
    if config.layer_variant == "original":
        for name in GLOBAL_PATH_OPTIONS:
            del options[name]
        return layer_class.original(*sizes, **options, fixes=config.fixes, generator=generator)
    span_config = dataclasses.replace(layer_class.default_config, **options)
    return layer_class(*sizes, span_config, generator=generator)
