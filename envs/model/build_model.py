"""The stack that settings describe: trained, with seeded random weights, or of live layers."""

from __future__ import annotations

import functools
from typing import cast

import torch

from spangym.attention import IntegratedAttention
from spangym.attention.layers.integrated import ActionScale
from spangym.envs.env_config import CUSTOM, EnvConfig, Layers, unwrap_layers
from spangym.envs.model.model_checkpoint import load_stack
from spangym.envs.model.stack import AttentionOnlyStack, LayerStack, random_embedding


def build_model(
    config: EnvConfig,
    layers: Layers | None,
    channels: int,
) -> LayerStack:
    """Make the stack of an environment.

    Args:
        config: What to run.
        layers: Layers or a stack of the user's own, used as they are; None for what the settings
            name.
        channels: Channels of the content's frames; 0 for bytes.

    Raises:
        ValueError: Layers are of other sizes than the settings say, or trained ones read bytes,
            and the content is frames.
    """
    if layers is not None:
        modules = unwrap_layers(layers)
        widths = {each.dims for each in modules}
        shortest = min(each.ctx for each in modules)
        if (len(modules), widths) != (config.num_layers, {config.dims}) or shortest < config.ctx:
            raise ValueError(
                f"layers do not go with the config, which say num_layers={config.num_layers}, "
                f"dims={config.dims}, ctx={config.ctx}: make both by `parse_env_kwargs`"
            )
    if isinstance(layers, LayerStack):
        return layers
    # Drawn on the CPU, so that every device runs the same weights.
    generator = torch.Generator().manual_seed(config.weights_seed)
    if layers is not None:
        return AttentionOnlyStack(
            unwrap_layers(layers), random_embedding(config.dims, channels, generator)
        )
    if config.checkpoint == CUSTOM:
        raise ValueError(
            f"checkpoint {CUSTOM!r} stands for layers that are handed in, and none are"
        )
    if config.checkpoint:
        if channels:
            raise ValueError(
                f"checkpoint {config.checkpoint!r} reads bytes, the dataset {config.dataset!r} gives "
                "frames"
            )
        return load_stack(config.checkpoint).to(config.device)
    embedding = random_embedding(config.dims, channels, generator)
    make = IntegratedAttention
    if config.layer_variant == "original":
        make = functools.partial(IntegratedAttention.original, fixes=config.fixes)
    modules = [
        make(
            config.ctx,
            config.dims,
            config.heads,
            config.max_dist,
            config.win_size,
            config.max_span,
            config.temp_scale,
            temperature_law=config.temperature_law,
            action_scale=cast(ActionScale, config.action_scale),
            generator=generator,
        )
        for _ in range(config.num_layers)
    ]
    return AttentionOnlyStack(modules, embedding).to(config.device).eval()
