"""The chunk's loss as a function of soft spans, beside that of the stack run by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spangym.envs import SB3SpanControlVecEnv, SpanControlEnv, SpanControlVectorEnv, make_config
from spangym.envs.model.stack import TransformerStack
from spangym.envs.registration import default_kwargs
from tests.factories import SMALL_ENV_KWARGS

NAME = "spangym/LongRange-v0"
TRAINED: dict[str, Any] = {**default_kwargs(NAME), "chunks_per_episode": 2}


@pytest.fixture(scope="module")
def envs() -> SpanControlVectorEnv:
    envs = SpanControlVectorEnv(2, **TRAINED)
    envs.reset(seed=3)
    return envs


def test_with_the_longest_spans_it_is_the_loss_at_full_span(envs: SpanControlVectorEnv):
    bits = envs.soft_span_loss(torch.ones(2))
    full = envs.core.state.full_span_loss
    assert full is not None
    torch.testing.assert_close(bits, full)
    assert envs.soft_span_loss(torch.full((2,), 1e-3)).mean() > full.mean() + 0.1


# No scale is near one at which a window or a span gains a token: the loss jumps there.
@pytest.mark.parametrize("scales", [[0.1, 0.05], [0.34, 0.21], [0.55, 0.03], [1e-3, 1e-3]])
def test_gradient_is_that_of_finite_differences(envs: SpanControlVectorEnv, scales: list[float]):
    given = torch.tensor(scales, requires_grad=True)
    bits = envs.soft_span_loss(given)
    assert bits.shape == (2,)
    for env_index in range(2):
        (gradient,) = torch.autograd.grad(bits[env_index], given, retain_graph=True)
        for layer in range(2):
            step = torch.zeros(2)
            step[layer] = 2e-4
            with torch.no_grad():
                above, below = envs.soft_span_loss(given + step), envs.soft_span_loss(given - step)
            slope = (above[env_index] - below[env_index]).item() / 4e-4
            assert gradient[layer].item() == pytest.approx(slope, rel=0.02, abs=0.02)
    assert gradient.abs().max() > 0.1  # pyright: ignore[reportPossiblyUnboundVariable]


def test_it_is_the_stack_with_soft_layers(envs: SpanControlVectorEnv):
    """Weights written out, edge by edge, beside what the kernel does."""
    core, scales = envs.core, torch.tensor([0.3, 0.6])
    stack = core.stack
    assert isinstance(stack, TransformerStack)
    state, hidden = core.state, core.state.hidden
    positions = torch.arange(hidden.shape[1])
    with torch.no_grad():
        for index, layer in enumerate(core.layers):
            options, scale = layer.config, float(scales[index])
            local_input, local = layer.ln_a(hidden), layer.attn_local
            q, k, v = (split(each, local.head) for each in local.project(local_input))
            window = max(1, int(options.win_size * np.float64(np.float32(scale))))
            start = positions - positions % window
            ahead = positions - start[:, None]
            distance = torch.maximum(ahead + 1, window - ahead)
            edge = ((scale * options.max_span - distance) / options.soft_edge_width + 1).clamp(0, 1)
            edge = torch.where(positions <= positions[:, None], edge, 0.0)
            weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).exp() * edge
            output = (weights / weights.sum(-1, keepdim=True)) @ v
            globe, _ = layer.attn_global(layer.ln_b(hidden))
            joined = torch.cat([output.transpose(1, 2).flatten(2), globe], dim=-1)
            attended = hidden + layer.projection(joined)
            hidden = attended + stack.feed_forward[index](attended)
        assert state.targets is not None
        expected = stack.loss_bits(hidden, state.targets)
    torch.testing.assert_close(envs.soft_span_loss(scales), expected, rtol=1e-4, atol=1e-4)


def split(x: Tensor, head: int) -> Tensor:
    return x.unflatten(-1, (head, -1)).transpose(1, 2)


def test_every_face_gives_the_same():
    stable = SB3SpanControlVecEnv(make_config(NAME, {"chunks_per_episode": 2}), 2)
    stable.seed(3)
    stable.reset()
    vector, scales = SpanControlVectorEnv(2, **TRAINED), torch.tensor([0.4, 0.1])
    vector.reset(seed=3)
    bits = vector.soft_span_loss(scales)
    assert torch.equal(stable.soft_span_loss(scales), bits)
    for env_index in range(2):
        alone = SpanControlEnv(**TRAINED)
        alone.reset(seed=3 + env_index)
        assert alone.soft_span_loss(scales).shape == ()
        torch.testing.assert_close(alone.soft_span_loss(scales), bits[env_index])


def test_it_changes_nothing():
    env, other = SpanControlEnv(**TRAINED), SpanControlEnv(**TRAINED)
    env.reset(seed=5)
    other.reset(seed=5)
    modules = [dict(layer.named_modules()) for layer in env.core.layers]
    options = [layer.config for layer in env.core.layers]
    env.soft_span_loss(torch.tensor([0.5, 0.5], requires_grad=True)).backward()
    for layer, before in zip(env.core.layers, modules, strict=True):
        assert dict(layer.named_modules()) == before
        assert all(parameter.grad is None for parameter in layer.parameters())
    assert [layer.config for layer in env.core.layers] == options
    for action in (1, 9, 4):
        one, two = env.step(action), other.step(action)
        np.testing.assert_array_equal(one[0], two[0])
        assert one[1:] == two[1:]


def test_where_it_is_refused(envs: SpanControlVectorEnv):
    env = SpanControlEnv(**TRAINED)
    with pytest.raises(RuntimeError, match=r"call reset\(\) first"):
        env.soft_span_loss(torch.ones(2))
    env.reset(seed=0)
    env.step(3)
    with pytest.raises(RuntimeError, match="start of a chunk"):
        env.soft_span_loss(torch.ones(2))
    for wrong in (torch.ones(3), torch.ones(2, 1), torch.ones(2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"floating.*\(2,\)"):
            envs.soft_span_loss(wrong)
    with pytest.raises(ValueError, match=r"scale .*\[0, 1\]"):
        envs.soft_span_loss(torch.tensor([0.5, 1.5]))
    untrained = SpanControlEnv(**SMALL_ENV_KWARGS)
    untrained.reset(seed=0)
    with pytest.raises(ValueError, match="'task'"):
        untrained.soft_span_loss(torch.ones(2))
