"""The stack that settings describe: trained, with seeded random weights, or of live layers."""

from __future__ import annotations

import functools
from typing import cast

import torch

from spangym.attention import IntegratedAttention
from spangym.attention.layers.integrated import ActionScale
from spangym.envs.env_config import OWN, Layers, Settings, live_modules
from spangym.envs.model.model_checkpoint import load_stack
from spangym.envs.model.stack import BareStack, Stack, draw_embedding


def make_stack(
    settings: Settings,
    layers: Layers | None,
    channels: int,
) -> Stack:
    """Make the stack of an environment.

    Args:
        settings: What to run.
        layers: Layers or a stack of the user's own, used as they are; None for what the settings
            name.
        channels: Channels of the content's frames; 0 for bytes.

    Raises:
        ValueError: Layers are of other sizes than the settings say, or trained ones read bytes,
            and the content is frames.
    """
    if layers is not None:
        modules = live_modules(layers)
        widths = {each.dims for each in modules}
        shortest = min(each.ctx for each in modules)
        if (len(modules), widths) != (settings.layers, {settings.dims}) or shortest < settings.ctx:
            raise ValueError(
                f"layers do not go with the settings, which say layers={settings.layers}, "
                f"dims={settings.dims}, ctx={settings.ctx}: make both by `split_arguments`"
            )
    if isinstance(layers, Stack):
        return layers
    # Drawn on the CPU, so that every device runs the same weights.
    generator = torch.Generator().manual_seed(settings.weights_seed)
    if layers is not None:
        return BareStack(live_modules(layers), draw_embedding(settings.dims, channels, generator))
    if settings.weights == OWN:
        raise ValueError(f"weights {OWN!r} stand for layers that are handed in, and none are")
    if settings.weights:
        if channels:
            raise ValueError(
                f"weights {settings.weights!r} read bytes, the source {settings.source!r} gives "
                "frames"
            )
        return load_stack(settings.weights).to(settings.device)
    embedding = draw_embedding(settings.dims, channels, generator)
    make = IntegratedAttention
    if settings.layer == "original":
        make = functools.partial(IntegratedAttention.original, mended=settings.mended)
    modules = [
        make(
            settings.ctx,
            settings.dims,
            settings.heads,
            settings.max_dist,
            settings.win_size,
            settings.max_span,
            settings.temp_scale,
            sharpen=settings.sharpen,
            action_scale=cast(ActionScale, settings.action_scale),
            generator=generator,
        )
        for _ in range(settings.layers)
    ]
    return BareStack(modules, embedding).to(settings.device).eval()
