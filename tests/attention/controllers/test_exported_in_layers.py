"""Controllers that decide for whole batches, as the refiner of layers."""

import copy
from typing import Any, Literal, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spangym.attention import FocusAttention, IntegratedAttention, LayerCache, SpanConfig
from spangym.attention.controllers.exported import ExportedPolicy
from spangym.attention.controllers.lookup import LookupPolicy
from spangym.attention.features import NUM_STATES, token_moments
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


def decide(layer: IntegratedAttention, x: Tensor, **more: Any) -> Tensor:
    decided = layer.select_actions(x, **more)
    assert decided is not None
    return decided


@LAYERS
@pytest.mark.parametrize("train", [False, True])
def test_decides_in_every_layer_and_mode(options: dict[str, Any], train: bool):
    layer, x = make_layer(**options).train(train), varied_inputs(20)
    frozen = make_exported_policy("features")
    layer.refiner = frozen
    decided = frozen(layer.ln_a(x))
    assert len(set(decided.tolist())) > 1
    assert torch.equal(decide(layer, x), decided)
    expected = layer.forward_with_action(x, decided)
    assert torch.equal(layer(x), expected.output)
    assert torch.equal(layer.step(x).span_scale, expected.span_scale)
    for name, tensor in frozen.state_dict().items():
        assert torch.equal(tensor, make_exported_policy("features").state_dict()[name])


def test_learns_nothing():
    layer = make_layer().train()
    layer.refiner = make_exported_policy()
    layer.update_controller(layer.step(varied_inputs(2)), torch.tensor([1, 2]))


@CURRENT_AND_PREVIOUS
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("autocorrelation", [False, True])
def test_a_stream_is_decided_as_in_the_environment(
    observation_time: Any, causal: bool, autocorrelation: bool
):
    observation = ObservationSpec(POLICY_DIMS, encoding="features", autocorrelation=autocorrelation)
    frozen = ExportedPolicy(
        observation, make_policy_head(observation), observation_time=observation_time
    )
    layer = make_layer(causal=causal)
    layer.refiner = frozen
    cache: LayerCache | None = None
    before: Tensor | None = None
    decisions: list[int] = []
    for chunk in range(5):
        x = varied_inputs(9, seed=chunk)
        local_input = layer.ln_a(x)
        read = local_input
        if observation_time == "previous":
            read = local_input[:, :1] if before is None else before
        assert torch.equal(decide(layer, x, cache=cache), frozen(read))
        expected = layer.forward_with_action(x, frozen(read), cache=cache)
        outcome = layer.step(x, cache=cache)
        assert torch.equal(outcome.output, expected.output)
        decisions += frozen(read).tolist()
        cache, before = outcome.cache, local_input
    assert len(set(decisions)) > 3


def test_a_controller_that_comes_in_the_middle_of_a_stream():
    layer, x = make_layer(), varied_inputs(3)
    cache = layer.step(x).cache
    frozen = make_exported_policy("features", observation_time="previous")
    layer.refiner = frozen
    # Nobody has observed the pass before.
    assert torch.equal(decide(layer, x, cache=cache), frozen(layer.ln_a(x[:, :1])))
    cache = layer.step(x, cache=cache).cache
    assert torch.equal(decide(layer, x, cache=cache), frozen(layer.ln_a(x)))
    layer.refiner = make_exported_policy("box", observation_time="previous")
    with pytest.raises(ValueError, match="41 numbers were observed, this controller reads 32"):
        layer.step(x, cache=cache)


@CURRENT_AND_PREVIOUS
def test_padded_lanes_are_decided_as_unpadded_ones(observation_time: Any):
    layer, x = make_layer(), varied_inputs(6)
    layer.refiner = make_exported_policy("features", observation_time=observation_time)
    lengths = torch.tensor([12, 5, 1, 7, 12, 3])
    first = layer.step(x, lengths=lengths)
    second = layer.step(x, lengths=lengths, cache=first.cache)
    for lane, length in enumerate(lengths.tolist()):
        alone = x[lane : lane + 1, :length]
        one = layer.step(alone)
        two = layer.step(alone, cache=one.cache)
        for batched, apart in ((first, one), (second, two)):
            assert batched.span[lane] == apart.span[0]


@CURRENT_AND_PREVIOUS
def test_checkpointing_may_ask_twice(observation_time: Any):
    layer, x = make_layer().train(), varied_inputs(4).requires_grad_()
    layer.refiner = make_exported_policy("features", observation_time=observation_time)
    gradients = []
    for output in (layer(x), checkpoint(layer, x, use_reentrant=False)):
        assert isinstance(output, Tensor)
        gradients.append(torch.autograd.grad(output.square().sum(), x)[0])
    assert torch.equal(*gradients)


def test_is_saved_and_copied_with_its_layer():
    layer, x = make_layer(), varied_inputs(30)
    layer.refiner = make_exported_policy("features")
    stored = layer.state_dict()
    assert any(name.startswith("refiner.") for name in stored)
    other = make_layer()
    with pytest.raises(RuntimeError, match="Unexpected key"):
        other.load_state_dict(stored)
    other.refiner = changed = make_exported_policy("features")
    for tensor in changed.state_dict().values():
        tensor.zero_()
    other.load_state_dict(stored)
    copied = copy.deepcopy(layer)
    assert copied.refiner is not layer.refiner
    for each in (other, copied):
        assert torch.equal(each(x), layer(x))
    layer.refiner = None
    assert layer.select_actions(x) is None
    assert torch.equal(layer(x), layer.forward_with_action(x).output)


def test_decides_alike_in_half_precision():
    layer, x = make_layer(), varied_inputs(30).bfloat16()
    frozen = make_exported_policy("box")
    layer.refiner = frozen
    layer.bfloat16()
    assert torch.equal(decide(layer, x), frozen(layer.ln_a(x)))
    assert frozen.head.state_dict()["first.weight"].dtype == torch.float32


@CURRENT_AND_PREVIOUS
@pytest.mark.parametrize(("encoding", "kind"), [("box", "mlp"), ("state", "lookup")])
def test_a_layer_asks_without_a_copy_to_the_host(observation_time: Any, encoding: str, kind: str):
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
        decided = decide(layer, x.to("meta"), lengths=lengths, cache=given)
        assert decided.device.type == "meta"


def test_compiled_with_its_layer():
    torch.compiler.reset()
    layer, x = make_layer(), varied_inputs(10)
    layer.refiner = make_exported_policy("features")
    compiled = torch.compile(layer, backend="eager")
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": 32}, "refiner is for layers of dims 16, this layer has 32"),
        (
            {"action_scale": "absolute"},
            "trained in layers of action_scale 'relative', this layer has 'absolute'",
        ),
    ],
)
def test_a_layer_that_it_is_not_for_is_refused(options: dict[str, Any], message: str):
    dims = options.pop("dims", POLICY_DIMS)
    layer = IntegratedAttention(24, dims, 4, SpanConfig(**options))
    with pytest.raises(ValueError, match=message):
        layer.refiner = make_exported_policy()
    assert layer.refiner is None
    layer(torch.zeros(1, 24, dims))
    with pytest.raises(ValueError, match=message):
        IntegratedAttention(
            24, dims, 4, SpanConfig(**options), refiner=make_exported_policy()
        )


def test_layers_of_other_windows_and_spans_are_accepted():
    layer = make_layer(win_size=4, max_span=20, max_dist=20)
    layer.refiner = make_exported_policy()
    layer(varied_inputs(2))


class ByNorm(nn.Module):
    """A controller of the user's own, that decides by a trainable threshold on the variances."""

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


def test_one_of_the_users_own():
    layer, x = make_layer(), varied_inputs(20)
    layer.ln_a.weight.data *= torch.linspace(0, 3, POLICY_DIMS)
    layer.refiner = ByNorm()
    small = token_moments(layer.ln_a(x))[:, POLICY_DIMS:].mean(-1) < 1
    assert decide(layer, x).tolist() == [2 if each else 9 for each in small.tolist()]
    assert "refiner.threshold" in layer.state_dict()
    layer(x).sum().backward()
    layer.refiner = another = ByNorm(highest=10)
    another.threshold.data.zero_()
    with pytest.raises(ValueError, match=r"action must be in \[0, 9\]"):
        layer(x)


def test_what_is_no_controller_is_still_refused():
    class OnlyActions:
        def actions(self, obs: Tensor) -> Tensor:
            return obs

    with pytest.raises(TypeError, match="refiner must have the methods choose_action"):
        make_layer().refiner = cast(Any, OnlyActions())


def test_a_table_of_states_is_the_refiner_that_it_was_made_from():
    """In a layer that is not causal both are asked from the same states."""
    layer, x = make_layer(), varied_inputs(50)
    actions = torch.arange(NUM_STATES) % 10

    class Asked:
        def choose_action(self, state: int) -> int:
            return state % 10

        def update(self, state: int, action: int, reward: float, next_state: int) -> None:
            pass

    layer.refiner = Asked()
    expected = decide(layer, x)
    observation = ObservationSpec(POLICY_DIMS, encoding="state")
    layer.refiner = ExportedPolicy(observation, LookupPolicy(observation, actions))
    assert torch.equal(decide(layer, x), expected)
