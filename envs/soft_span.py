"""Loss of a chunk as a differentiable function of the layers' spans.

After Sukhbaatar et al., Adaptive Attention Span in Transformers, 2019: the edge of a span fades out
over some tokens, so that the loss has a gradient with respect to its position.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import cast

from torch import Tensor, nn

from spangym.attention import LayerCache, LocalGlobalAttention
from spangym.envs.core import EpisodeCore


def soft_span_loss(core: EpisodeCore, scales: Tensor) -> Tensor:
    """Compute the loss of the next chunk at spans with soft edges, differentiably.

    Every layer uses its own weights; the edge fades over the ``soft_edge_width`` tokens of its
    options. Windows are whole numbers of tokens and change with the scales too: at those jumps of
    the loss the gradient is that of either side.

    Args:
        core: The environments, at the start of a chunk.
        scales: Fractions of the longest span, one for each layer, floating of shape (layers,), in
            [0, 1]. 0 turns the local path of a layer off, without a gradient.

    Returns:
        Loss in bits a target, shape (num_envs,), on the layers' device.

    Raises:
        ValueError: There is no task, a layer has no soft edge, or the scales have another shape or
            dtype.
        RuntimeError: The next step is not the first of a chunk, or no episode is running.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from spangym.envs import make_config
        >>> from spangym.envs.make_core import make_core
        >>> config = make_config("LongRange-v0", {"chunks_per_episode": 1})
        >>> core = make_core(config, num_envs=2)
        >>> _ = core.reset([np.random.default_rng(env_index) for env_index in range(2)])
        >>> scales = torch.tensor([0.5, 0.5], requires_grad=True)
        >>> soft_span_loss(core, scales).mean().backward()
        >>> scales.grad.shape
        torch.Size([2])
    """
    if not core.config.native_layers:
        raise ValueError("soft_span_loss needs layers whose edge can be soft, of spangym.attention")
    state, stack = core.state, core.stack
    if state.targets is None:
        raise ValueError("soft_span_loss needs a loss: use trained layers and the reward 'task'")
    if core.layer:
        found = f"the next layer is {core.layer}"
        raise RuntimeError(f"soft_span_loss is defined at the start of a chunk; {found}")
    layers = core.config.num_layers
    if scales.shape != (layers,) or not scales.is_floating_point():
        found = f"shape {tuple(scales.shape)} and type {scales.dtype}"
        raise ValueError(f"scales must be floating of shape ({layers},), they have {found}")
    if any(stack.layer(index).single_span_per_batch for index in range(layers)):
        raise ValueError("soft_span_loss needs layers whose edge can be soft: not the original's")
    hidden = state.hidden
    for index, scale in enumerate(scales.to(core.device).unbind()):
        soft = _with_soft_span(stack.layer(index), scale)
        cache = cast(LayerCache | None, state.caches[index])
        layer_output = soft.forward_with_action(hidden, cache=cache)
        hidden = stack.connect(index, hidden, layer_output.output)
    return stack.loss_bits(hidden, state.targets)


class _ConstantScale(nn.Module):
    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self._scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self._scale.expand(len(x), 1)


def _with_soft_span(layer: LocalGlobalAttention, scale: Tensor) -> LocalGlobalAttention:
    """Copy a layer, with the same weights and a soft span of the given scale."""
    soft, local = copy.copy(layer), copy.copy(layer.attn_local)
    local.config = dataclasses.replace(layer.config, soft_span=True)
    # A shallow copy shares its table of modules with the layer, which must not change.
    soft._modules = {**layer._modules, "attn_local": local, "span_pred": _ConstantScale(scale)}
    return soft
