from typing import Any

import pytest
import torch

from spangym.attention.controllers.exported import ExportedPolicy
from spangym.attention.controllers.mlp import MLPPolicy
from spangym.attention.controllers.policy_heads import ObsNormalization
from spangym.attention.observation_spec import ObservationSpec
from tests.factories import POLICY_DIMS, varied_inputs


def test_equals_the_definition(generator: torch.Generator):
    observation = ObservationSpec(POLICY_DIMS, encoding="features")
    sizes = ((7, 32), (10, 7))
    weights = [torch.randn(size, generator=generator) for size in sizes]
    biases = [torch.randn(size[0], generator=generator) for size in sizes]
    x = varied_inputs(50)
    found = torch.cat([x.mean(1), x.var(1, correction=0)], dim=-1)
    low, high = (torch.tensor(each) for each in observation.bounds)
    hidden = torch.tanh(found.clamp(low, high) @ weights[0].T + biases[0])
    expected = (hidden @ weights[1].T + biases[1]).argmax(-1)
    policy = ExportedPolicy(observation, MLPPolicy(observation, weights, biases, "Tanh"))
    actions = policy(x)
    assert actions.dtype == torch.int64
    assert torch.equal(actions, expected)
    assert len(set(actions.tolist())) > 3


def test_value_of_an_action_is_the_mean_of_its_quantiles():
    observation = ObservationSpec(4, encoding="box", pool_groups=1)
    bias = torch.zeros(3, 10)
    bias[:, 4], bias[0, 7] = 0.5, 1.4  # Means of 0.5 and 0.47.
    head = MLPPolicy(observation, [torch.zeros(30, 2)], [bias.flatten()], quantiles=3)
    assert ExportedPolicy(observation, head)(torch.zeros(2, 3, 4)).tolist() == [4, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": [torch.zeros(10, 31)]}, r"\(10, 31\).*from 32 numbers"),
        ({"weights": [torch.zeros(9, 32)]}, r"\(9, 32\).* to 10"),
        ({"weights": []}, "to 10"),
        ({"biases": [torch.zeros(9)]}, r"\(9,\).* to 10"),
        ({"activation": "ReLu"}, "'ReLU'"),
        (
            {"normalization": ObsNormalization(torch.zeros(3), torch.zeros(32), 10.0)},
            r"\[\(3,\), \(32,\)\].*\(32,\)",
        ),
    ],
)
def test_a_network_that_does_not_fit_is_refused(arguments: dict[str, Any], message: str):
    good: dict[str, Any] = {"weights": [torch.zeros(10, 32)], "biases": [torch.zeros(10)]}
    with pytest.raises(ValueError, match=message):
        MLPPolicy(ObservationSpec(POLICY_DIMS, encoding="box"), **{**good, **arguments})
