import pytest
import torch

from spangym.attention.controllers.lookup import KMeansPolicy, LookupPolicy
from spangym.attention.observation_spec import ObservationSpec
from tests.factories import POLICY_DIMS, make_exported_policy, varied_inputs


def test_the_nearest_center_is_that_of_the_definition():
    policy, x = make_exported_policy("features", "kmeans", layer=2), varied_inputs(80)
    head = policy.head
    assert isinstance(head, KMeansPolicy)
    observed = policy.observation.extract_from_input(x)
    low, high = (torch.tensor(each)[:-1] for each in policy.observation.bounds)
    numbers = (observed.clamp(low, high).double() * 1024).round()
    expected = [
        head.actions[20 + (head.centers[2] - row).square().sum(-1).argmin()].item()
        for row in numbers
    ]
    assert policy(x).tolist() == expected


def test_a_table_that_does_not_fit_is_refused():
    states = ObservationSpec(POLICY_DIMS, encoding="state")
    for actions, message in (
        (torch.zeros(100, dtype=torch.int64), "integers of shape"),
        (torch.zeros(9999), "integers of shape"),
        (torch.full((9999,), 10), r"0\.\.9"),
    ):
        with pytest.raises(ValueError, match=message):
            LookupPolicy(states, actions)
    with pytest.raises(ValueError, match="'state', got 'box'"):
        LookupPolicy(
            ObservationSpec(POLICY_DIMS, encoding="box"), torch.zeros(9999, dtype=torch.int64)
        )


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (ObservationSpec(4, encoding="state"), "encoding"),
        (ObservationSpec(4, encoding="box"), "its index"),
        (
            ObservationSpec(4, num_layers=3, encoding="box", include_layer_index=True),
            r"\(8,\), \(8,\) and \(3, clusters, 8\)",
        ),
    ],
)
def test_centers_that_do_not_fit_are_refused(observation: ObservationSpec, message: str):
    one = torch.ones(8).double()
    with pytest.raises(ValueError, match=message):
        KMeansPolicy(observation, one, one, torch.zeros(2, 5, 8), torch.zeros(10).long(), True)
