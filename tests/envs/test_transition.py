"""Many actions of one state give bit-identical numbers to each action alone."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spangym.envs import ENVIRONMENTS, SpanControlEnv, SpanControlVectorEnv
from spangym.envs.core import EpisodeCore
from spangym.envs.state import State, tree_map
from tests.factories import NATIVE, small_env_kwargs

TILES: dict[str, Any] = {"dims": 16, "heads": 2, "ctx": 16, "num_actions": 4, "cost_coef": 0.7}
ODD: dict[str, Any] = {**TILES, "dims": 10, "ctx": 19}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"reward": "attention", "num_layers": 3},
    {"control_kv_cache": True},
    {"layer_variant": "original"},
    {"layer_variant": "original", "fixes": "cut", "reward": "attention", "control_kv_cache": True},
    {"layer_class": "focus"},
    {"layer_class": "focus", "layer_variant": "original"},
    {"layer_class": "hybrid"},
    {"observation_time": "previous", "autocorrelation": True},
]
CASES = [
    *({**ENVIRONMENTS[name], **small_env_kwargs(name)} for name in NATIVE),
    # The folder of their model is made when a test runs.
    *({"name": name} for name in ENVIRONMENTS if name not in NATIVE),
    {**ENVIRONMENTS["spangym/SpanBudget-v0"], "ctx": 39, "num_actions": 3},
    *({**TILES, **variant} for variant in VARIANTS),
    *({**ODD, **variant} for variant in VARIANTS),
]


def leaves(*trees: Any) -> list[Tensor]:
    """All tensors of trees."""
    found: list[Tensor] = []
    tree_map(lambda each: (found.append(each), each)[1], trees)
    return found


def repeated(core: EpisodeCore, state: State) -> tuple[State, Tensor]:
    """The plain way: a copy of the state for every action."""
    actions = torch.from_numpy(core.all_actions)
    states = tree_map(lambda each: each.repeat_interleave(len(actions), dim=0), state)
    states = dataclasses.replace(states, prepared=None)
    return states, actions.repeat(len(state.hidden), *[1] * (actions.ndim - 1))


@torch.no_grad()
def plain_lookahead(core: EpisodeCore, state: State) -> Tensor:
    """The best sum of rewards over all plans to the end of the chunk, (num_envs, actions)."""
    num_envs, model = len(state.hidden), core.transition_model
    total = torch.zeros(num_envs, dtype=torch.float64)
    for layer in range(core.layer, core.config.num_layers):
        states, actions = repeated(core, state)
        step = model.step(states, layer, actions)
        times = len(actions) // len(state.hidden)
        total = total.repeat_interleave(times) + step.reward_components.double().sum(-1)
        state = step.state
    return total.view(num_envs, len(core.all_actions), -1).amax(-1)


@pytest.mark.parametrize("arguments", CASES, ids=str)
def test_all_actions_at_once_are_each_action_alone(arguments: dict[str, Any]):
    if name := arguments.get("name"):
        arguments = {**ENVIRONMENTS[name], **small_env_kwargs(name)}
    envs = SpanControlVectorEnv(2, **{**arguments, "chunks_per_episode": 2})
    core, model = envs.core, envs.core.transition_model
    envs.reset(seed=3)
    envs.action_space.seed(0)
    for _ in range(core.config.num_layers):
        envs.step(envs.action_space.sample())
    for _ in range(core.config.num_layers):
        state, layer = core.state, core.layer
        states, actions = repeated(core, state)
        fan_out = torch.from_numpy(core.all_actions).expand(2, *core.all_actions.shape)
        with torch.no_grad():
            plain = model.step(states, layer, actions)
            at_once = model.step(state, layer, fan_out)
        for one, other in zip(leaves(*plain), leaves(*at_once), strict=True):
            assert torch.equal(one, other)
        peeked = plain.reward_components.double().sum(-1).view(2, -1).float().numpy()
        np.testing.assert_array_equal(envs.peek(), peeked)
        if core.config.native_layers:
            with torch.no_grad():
                stats = model.run_layer(states, layer, actions, return_stats=True).stats
            assert stats is not None
            coverages = stats.coverage.view(2, -1).numpy()
            np.testing.assert_array_equal(envs.action_coverages(), coverages)
        if core.config.num_layers - layer <= 2 and not core.config.control_kv_cache:
            best = plain_lookahead(core, state).float().numpy()
            np.testing.assert_array_equal(envs.lookahead(), best)
        envs.step(envs.action_space.sample())


def batches_of(layer: Any) -> list[int]:
    """Batch sizes of all later passes through the part that does not depend on the span."""
    batches: list[int] = []
    for module in (layer.ln_a, layer.ln_b, layer.attn_global, layer.span_pred):
        module.register_forward_hook(lambda _, inputs, __: batches.append(len(inputs[0])))
    return batches


def test_what_does_not_depend_on_the_span_is_computed_once():
    envs = SpanControlVectorEnv(2, **TILES)
    first, second = map(batches_of, envs.core.layers)
    envs.reset(seed=0)
    envs.peek()
    envs.action_coverages()
    assert second == []
    envs.lookahead()
    assert second == 2 * 4 * [4]
    envs.step(np.array([1, 3]))
    # The first layer of the first chunk, for everything that was asked.
    assert first == 4 * [2]


def test_a_trained_chunk_runs_each_layer_once_more_at_full_span():
    env = SpanControlEnv(**{**ENVIRONMENTS["spangym/LongRange-v0"], "chunks_per_episode": 1})
    batches, calls = [batches_of(layer) for layer in env.core.layers], []
    for act in (lambda: env.reset(seed=0), lambda: env.step(1), lambda: env.step(2)):
        act()
        calls.append([len(each) // 4 for each in batches])
    # The first layer's input is that of the full span; the last observation needs no pass.
    assert calls == [[1, 1], [1, 2], [1, 2]]


def test_weights_that_change_before_the_step_are_those_of_the_step():
    envs, others = (SpanControlVectorEnv(2, **TILES, encoding="features") for _ in range(2))
    for each in (envs, others):
        each.reset(seed=0)
    with torch.no_grad():
        for layer in (*envs.core.layers, *others.core.layers):
            layer.ln_b.weight.mul_(2)
    others.load_state_dict(others.state_dict())
    one, other = (each.step(np.array([1, 3])) for each in (envs, others))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])


def test_state_dicts_leave_out_what_can_be_computed_again():
    env = SpanControlEnv(**TILES)
    env.reset(seed=0)
    assert env.core.state.prepared is not None
    assert "prepared" not in env.state_dict()["state"]
