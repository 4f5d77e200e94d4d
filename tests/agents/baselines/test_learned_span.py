import itertools

import pytest
import torch

from spangym.agents.baselines.learned_span import LearnedSpanAgent

from ...factories import make_task_env, make_training_env, played_actions


def test_spans_are_deterministic_and_shrink_with_their_cost():
    learned: dict[float, list[float]] = {}
    for cost_coef in (0.0, 2.0, 2.0, 20.0):
        env, agent = make_task_env(2), LearnedSpanAgent(cost_coef, learning_rate=0.1)
        agent.learn(env, 24)
        scales = agent.scales.tolist()
        assert learned.setdefault(cost_coef, scales) == scales
        assert not agent.scales.requires_grad
        # Training plays the nearest actions, the same in all environments.
        assert all(len({*actions}) == 1 for actions in env.actions)
        # Spans start at the longest; the first step has moved them by 0.1.
        assert env.actions[0][0] >= 8
        layers = itertools.cycle(range(2))
        assert played_actions(agent, make_task_env(3), 6) == [
            [round(9 * scales[next(layers)])] * 3 for _ in range(6)
        ]
    assert learned[0.0] == [1.0, 1.0]
    assert max(learned[20.0]) < 0.6
    # Beyond the longest distance only the cost matters.
    assert max(learned[2.0]) < 0.95


def test_default_cost_is_the_environments():
    for cost_coef in (0.0, 3.0):
        default, explicit = LearnedSpanAgent(), LearnedSpanAgent(cost_coef)
        default.learn(make_task_env(2, cost_coef=cost_coef), 24)
        explicit.learn(make_task_env(2, cost_coef=0.5), 24)
        assert default.scales.tolist() == explicit.scales.tolist()


def test_spans_can_grow_again():
    agent = LearnedSpanAgent(cost_coef=1000.0, learning_rate=2.0)
    agent.learn(make_task_env(1), 2)
    assert agent.scales.tolist() == pytest.approx([1e-3, 1e-3])
    agent.cost_coef = 0.0
    agent.learn(make_task_env(1), 2)
    assert agent.scales.max() == 1


def test_layers_do_not_learn():
    env = make_task_env(2)
    layers: list[torch.nn.Module] = env.get_attr("core")[0].layers
    for layer in layers:
        layer.requires_grad_()
    before = [parameter.clone() for layer in layers for parameter in layer.parameters()]
    LearnedSpanAgent().learn(env, 8)
    after = [parameter for layer in layers for parameter in layer.parameters()]
    assert all(parameter.grad is None for parameter in after)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_environment_without_a_loss():
    with pytest.raises(ValueError, match=r"loss.*'task'"):
        LearnedSpanAgent().learn(make_training_env("digits"), 4)
