"""Batch controllers as the refiner of layers."""

import copy
from typing import Any, Literal, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spangym.attention import FocusAttention, IntegratedAttention, LayerCache, SpanConfig
from spangym.attention.controllers.exported import ExportedPolicy
from spangym.attention.controllers.lookup import LookupPolicy
from spangym.attention.features import token_moments
from spangym.attention.observation_spec import ObservationSpec
from tests.factories import POLICY_DIMS, make_exported_policy, make_policy_head, varied_inputs

CURRENT_AND_PREVIOUS = pytest.mark.parametrize("observation_time", ["current", "previous"])
LAYERS = pytest.mark.parametrize(
    "options",
    [{}, {"causal": True}, {"soft_span": True}, {"kind": FocusAttention}, {"kind": "original"}],
    ids=str,
)


def make_layer(**options: Any) -> IntegratedAttention:
    kind = options.pop("kind", IntegratedAttention)
    options = {"win_size": 8, "max_span": 12, "max_dist": 12, **options}
    generator = torch.Generator().manual_seed(0)
    if kind == "original":
        layer = IntegratedAttention.original(24, POLICY_DIMS, 4, **options, generator=generator)
    else:
        layer = kind(24, POLICY_DIMS, 4, SpanConfig(**options), generator=generator)
    return layer.eval()


def select(layer: IntegratedAttention, x: Tensor, **more: Any) -> Tensor:
    actions = layer.select_actions(x, **more)
    assert actions is not None
    return actions


@LAYERS
@pytest.mark.parametrize("train", [False, True])
def test_controls_every_layer_in_every_mode(options: dict[str, Any], train: bool):
    layer, x = make_layer(**options).train(train), varied_inputs(20)
    policy = make_exported_policy("features")
    layer.refiner = policy
    actions = policy(layer.ln_a(x))
    assert len(set(actions.tolist())) > 1
    assert torch.equal(select(layer, x), actions)
    expected = layer.forward_with_action(x, actions)
    assert torch.equal(layer(x), expected.output)
    assert torch.equal(layer.step(x).span_scale, expected.span_scale)
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, make_exported_policy("features").state_dict()[name])


def test_learns_nothing():
    layer = make_layer().train()
    layer.refiner = make_exported_policy()
    layer.update_controller(layer.step(varied_inputs(2)), torch.tensor([1, 2]))


@CURRENT_AND_PREVIOUS
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("autocorrelation", [False, True])
def test_a_stream_gets_the_actions_of_the_environment(
    observation_time: Any, causal: bool, autocorrelation: bool
):
    observation = ObservationSpec(POLICY_DIMS, encoding="features", autocorrelation=autocorrelation)
    policy = ExportedPolicy(
        observation, make_policy_head(observation), observation_time=observation_time
    )
    layer = make_layer(causal=causal)
    layer.refiner = policy
    cache: LayerCache | None = None
    before: Tensor | None = None
    decisions: list[int] = []
    for chunk in range(5):
        x = varied_inputs(9, seed=chunk)
        local_input = layer.ln_a(x)
        read = local_input
        if observation_time == "previous":
            read = local_input[:, :1] if before is None else before
        assert torch.equal(select(layer, x, cache=cache), policy(read))
        expected = layer.forward_with_action(x, policy(read), cache=cache)
        outcome = layer.step(x, cache=cache)
        assert torch.equal(outcome.output, expected.output)
        decisions += policy(read).tolist()
        cache, before = outcome.cache, local_input
    assert len(set(decisions)) > 3


def test_a_controller_may_be_assigned_within_a_stream():
    layer, x = make_layer(), varied_inputs(3)
    cache = layer.step(x).cache
    policy = make_exported_policy("features", observation_time="previous")
    layer.refiner = policy
    # No controller has observed the previous pass.
    assert torch.equal(select(layer, x, cache=cache), policy(layer.ln_a(x[:, :1])))
    cache = layer.step(x, cache=cache).cache
    assert torch.equal(select(layer, x, cache=cache), policy(layer.ln_a(x)))
    layer.refiner = make_exported_policy("box", observation_time="previous")
    with pytest.raises(ValueError, match=r"41 numbers.* reads 32"):
        layer.step(x, cache=cache)


@CURRENT_AND_PREVIOUS
def test_padding_does_not_change_the_actions(observation_time: Any):
    layer, x = make_layer(), varied_inputs(6)
    layer.refiner = make_exported_policy("features", observation_time=observation_time)
    lengths = torch.tensor([12, 5, 1, 7, 12, 3])
    first = layer.step(x, lengths=lengths)
    second = layer.step(x, lengths=lengths, cache=first.cache)
    for index, length in enumerate(lengths.tolist()):
        alone = x[index : index + 1, :length]
        one = layer.step(alone)
        two = layer.step(alone, cache=one.cache)
        for batched, apart in ((first, one), (second, two)):
            assert batched.span[index] == apart.span[0]


@CURRENT_AND_PREVIOUS
def test_checkpointing_may_call_it_twice(observation_time: Any):
    layer, x = make_layer().train(), varied_inputs(4).requires_grad_()
    layer.refiner = make_exported_policy("features", observation_time=observation_time)
    gradients = []
    for output in (layer(x), checkpoint(layer, x, use_reentrant=False)):
        assert isinstance(output, Tensor)
        gradients.append(torch.autograd.grad(output.square().sum(), x)[0])
    assert torch.equal(*gradients)


def test_is_copied_with_its_layer():
    layer, x = make_layer(), varied_inputs(30)
    layer.refiner = make_exported_policy("features")
    copied = copy.deepcopy(layer)
    assert copied.refiner is not layer.refiner
    assert torch.equal(copied(x), layer(x))
    layer.refiner = None
    assert layer.select_actions(x) is None
    assert torch.equal(layer(x), layer.forward_with_action(x).output)


def test_actions_do_not_depend_on_the_precision():
    layer, x = make_layer(), varied_inputs(30).bfloat16()
    policy = make_exported_policy("box")
    layer.refiner = policy
    layer.bfloat16()
    assert torch.equal(select(layer, x), policy(layer.ln_a(x)))
    assert policy.head.state_dict()["first.weight"].dtype == torch.float32


@CURRENT_AND_PREVIOUS
@pytest.mark.parametrize(("encoding", "kind"), [("box", "mlp"), ("state", "lookup")])
def test_a_layer_copies_nothing_to_the_host(observation_time: Any, encoding: str, kind: str):
    layer = make_layer(causal=True).train()
    layer.refiner = make_exported_policy(encoding, kind, observation_time=observation_time)
    x = varied_inputs(3)
    cache = layer.step(x).cache
    there = LayerCache(
        None,
        *(each.to("meta") for each in (cache.global_mean, cache.obs_features)),
        controller_obs=None,
    )
    # Nothing can be copied from there.
    layer.to("meta")
    for given in (None, there):
        lengths = torch.ones(3, device="meta").long()
        actions = select(layer, x.to("meta"), lengths=lengths, cache=given)
        assert actions.device.type == "meta"


def test_compiled_with_its_layer():
    torch.compiler.reset()
    layer, x = make_layer(), varied_inputs(10)
    layer.refiner = make_exported_policy("features")
    compiled = torch.compile(layer, backend="eager")
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": 32}, "dims 16.* has 32"),
        (
            {"action_scale": "absolute"},
            "action_scale 'relative'.* has 'absolute'",
        ),
    ],
)
def test_a_layer_that_does_not_fit_is_refused(options: dict[str, Any], message: str):
    dims = options.pop("dims", POLICY_DIMS)
    layer = IntegratedAttention(24, dims, 4, SpanConfig(**options))
    with pytest.raises(ValueError, match=message):
        layer.refiner = make_exported_policy()
    assert layer.refiner is None
    layer(torch.zeros(1, 24, dims))
    with pytest.raises(ValueError, match=message):
        IntegratedAttention(24, dims, 4, SpanConfig(**options), refiner=make_exported_policy())


def test_layers_of_other_windows_and_spans_are_accepted():
    layer = make_layer(win_size=4, max_span=20, max_dist=20)
    layer.refiner = make_exported_policy()
    layer(varied_inputs(2))


class ByNorm(nn.Module):
    """A controller of a user with a trainable threshold on the variances."""

    observation_time: Literal["current"] = "current"

    def __init__(self, highest: int = 9) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(1.0))
        self.highest = highest

    def observe(
        self,
        features: Tensor,
        local_input: Tensor,  # noqa: ARG002
        lengths: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        return features[:, POLICY_DIMS:].mean(-1)

    def actions(self, obs: Tensor) -> Tensor:
        return torch.where(obs < self.threshold, 2, self.highest)

    def check(self, dims: int, action_scale: str) -> None:
        pass


def test_a_module_of_a_user():
    layer, x = make_layer(), varied_inputs(20)
    layer.ln_a.weight.data *= torch.linspace(0, 3, POLICY_DIMS)
    layer.refiner = ByNorm()
    small = token_moments(layer.ln_a(x))[:, POLICY_DIMS:].mean(-1) < 1
    assert select(layer, x).tolist() == [2 if each else 9 for each in small.tolist()]
    assert "refiner.threshold" in layer.state_dict()
    layer(x).sum().backward()
    layer.refiner = another = ByNorm(highest=10)
    another.threshold.data.zero_()
    with pytest.raises(ValueError, match=r"\[0, 9\]"):
        layer(x)


def test_other_objects_are_refused():
    class OnlyActions:
        def actions(self, obs: Tensor) -> Tensor:
            return obs

    with pytest.raises(TypeError, match="choose_action"):
        make_layer().refiner = cast(Any, OnlyActions())


def test_a_lookup_policy_chooses_as_the_refiner_of_its_table():
    """In a layer that is not causal both read the same states."""
    layer, x = make_layer(), varied_inputs(50)
    actions = torch.arange(9999) % 10

    class Table:
        def choose_action(self, state: int) -> int:
            return state % 10

        def update(self, state: int, action: int, reward: float, next_state: int) -> None:
            pass

    layer.refiner = Table()
    expected = select(layer, x)
    observation = ObservationSpec(POLICY_DIMS, encoding="state")
    layer.refiner = ExportedPolicy(observation, LookupPolicy(observation, actions))
    assert torch.equal(select(layer, x), expected)
