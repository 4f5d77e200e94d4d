"""A chunk's loss as a differentiable function of the layers' spans, for learning spans by gradient.

After Sukhbaatar et al., Adaptive Attention Span in Transformers, 2019: the edge of a span fades out
over some tokens, so that the loss has a gradient with respect to where the edge is.
"""

from __future__ import annotations

import copy
import dataclasses

from torch import Tensor, nn

from spangym.attention import IntegratedAttention
from spangym.envs.core import SpanControlCore


def soft_span_loss(core: SpanControlCore, scales: Tensor) -> Tensor:
    """The coming chunk's loss with soft spans; nothing changes.

    Every layer runs on its own weights, its edge soft over the ``soft_edge_width`` tokens of its options.
    Windows are whole numbers of tokens, which change with the scales too: there the loss jumps, and
    the gradient is that to either side.

    Args:
        core: At the beginning of a chunk, of a stack that is judged by a task.
        scales: Shares of the longest span, one for each layer, floating of shape (layers,), in
            [0, 1]. 0 turns a layer's local path off, and gets no gradient.

    Returns:
        Loss in bits a target, shape (num_envs,), on the layers' device; gradients flow to the scales.

    Raises:
        ValueError: There is no task, a layer has no soft edge, or the scales are not that.
        RuntimeError: A chunk has been decided on in part, the episode is over, or none has begun.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from spangym.envs import make_config
        >>> core = SpanControlCore(make_config("LongRange-v0", {"chunks_per_episode": 1}), num_envs=2)
        >>> _ = core.reset([np.random.default_rng(env_index) for env_index in range(2)])
        >>> scales = torch.tensor([0.5, 0.5], requires_grad=True)
        >>> soft_span_loss(core, scales).mean().backward()
        >>> scales.grad.shape
        torch.Size([2])
    """
    state, stack = core.state, core.stack
    if state.targets is None:
        raise ValueError("soft_span_loss needs a loss: use trained layers and the reward 'task'")
    if core.layer:
        raise RuntimeError(
            f"soft_span_loss is of whole chunks, and layer {core.layer} of this one is next: call "
            "it where a chunk begins"
        )
    layers = core.config.num_layers
    if scales.shape != (layers,) or not scales.is_floating_point():
        raise ValueError(
            f"scales have shape {tuple(scales.shape)} and type {scales.dtype}; they must be "
            f"floating of shape ({layers},), one a layer"
        )
    if any(stack.layer(index).single_span_per_batch for index in range(layers)):
        raise ValueError(
            "soft_span_loss needs layers whose edge can be soft: the original's cannot"
        )
    hidden = state.hidden
    for index, scale in enumerate(scales.to(core.device).unbind()):
        soft = _softened(stack.layer(index), scale)
        outcome = soft.forward_with_action(hidden, cache=state.caches[index])
        hidden = stack.connect(index, hidden, outcome.output)
    return stack.loss_bits(hidden, state.targets)


class _Given(nn.Module):
    """Stands in for a span predictor: always the same scale."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self._scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self._scale.expand(len(x), 1)


def _softened(layer: IntegratedAttention, scale: Tensor) -> IntegratedAttention:
    """A layer of the same weights that has a soft span of that scale."""
    soft, local = copy.copy(layer), copy.copy(layer.attn_local)
    local.config = dataclasses.replace(layer.config, soft_span=True)
    # A shallow copy shares its table of modules with the layer, which has to stay as it is.
    soft._modules = {**layer._modules, "attn_local": local, "span_pred": _Given(scale)}
    return soft
