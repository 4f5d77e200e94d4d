"""The layer stack of an environment: shipped, with seeded random weights, or the user's own."""

from __future__ import annotations

import math
from typing import cast

import torch

from spangym.attention import IntegratedAttention, SpanConfig
from spangym.attention.span_config import ActionScale
from spangym.envs.data.dataset import BYTES
from spangym.envs.env_config import CUSTOM, EnvConfig, Layers, unwrap_layers
from spangym.envs.model.model_checkpoint import load_stack
from spangym.envs.model.stack import AttentionOnlyStack, LayerStack


def build_model(config: EnvConfig, layers: Layers | None, channels: int) -> LayerStack:
    """Build the layer stack of an environment.

    Args:
        config: Configuration of the environment.
        layers: The user's own layers or stack, used as they are; None for those of the config.
        channels: Channels of the content's frames; 0 for bytes.

    Raises:
        ValueError: The layers' sizes contradict ``config``, or the content is frames and the
            checkpoint reads bytes.
    """
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
            raise ValueError(
                f"layers do not match the config, num_layers={config.num_layers}, "
                f"dims={config.dims}, ctx={config.ctx}: make both with `parse_env_kwargs`"
            )
        if isinstance(layers, LayerStack):
            return layers
        return AttentionOnlyStack(modules, embedding)
    if config.checkpoint == CUSTOM:
        raise ValueError(f"checkpoint {CUSTOM!r} stands for layers that are passed in: pass layers")
    if config.checkpoint:
        if channels:
            raise ValueError(
                f"checkpoint {config.checkpoint!r} reads bytes, but dataset {config.dataset!r} "
                "gives frames"
            )
        return load_stack(config.checkpoint).to(config.device)
    modules = [_make_layer(config, generator) for _ in range(config.num_layers)]
    return AttentionOnlyStack(modules, embedding).to(config.device).eval()


def _make_layer(config: EnvConfig, generator: torch.Generator) -> IntegratedAttention:
    sizes = (config.ctx, config.dims, config.heads)
    options = {
        "max_dist": config.max_dist,
        "win_size": config.win_size,
        "max_span": config.max_span,
        "temp_scale": config.temp_scale,
        "temperature_law": config.temperature_law,
        "action_scale": cast(ActionScale, config.action_scale),
    }
    if config.layer_variant == "original":
        return IntegratedAttention.original(
            *sizes, **options, fixes=config.fixes, generator=generator
        )
    return IntegratedAttention(*sizes, SpanConfig(**options), generator=generator)
