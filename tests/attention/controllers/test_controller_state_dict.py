"""State dicts of layers with controllers."""

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from spangym.agents import Refiner
from spangym.attention import HybridAttention, IntegratedAttention, SpanConfig
from spangym.attention.controllers.exported import ExportedPolicy
from tests.factories import POLICY_DIMS, make_exported_policy, varied_inputs

HEADS = [("state", "lookup"), ("box", "kmeans"), ("digits", "mlp"), ("features", "mlp")]


def make_layer(layer_class: Any = IntegratedAttention, seed: int = 0, **options: Any) -> Any:
    config = SpanConfig(win_size=8, max_span=12, max_dist=12, **options)
    generator = torch.Generator().manual_seed(seed)
    return layer_class(24, POLICY_DIMS, 4, config, generator=generator).eval()


class Model(nn.Module):
    """A layer for each type of head, one without a controller, and one that has no controller."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        layers = [make_layer(seed=seed + index) for index in range(len(HEADS) + 1)]
        self.layers = nn.ModuleList([*layers, make_layer(HybridAttention, seed)])
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


@pytest.fixture(scope="module")
def model() -> Model:
    model = Model(seed=0)
    for index, (layer, head) in enumerate(zip(model.layers, HEADS, strict=False)):
        layer.refiner = make_exported_policy(*head, layer=index % 3, metadata={"index": index})
    return model


def through_torch(model: nn.Module, path: Path) -> Any:
    torch.save(model.state_dict(), path)
    other = Model(seed=9)
    other.load_state_dict(torch.load(path, weights_only=True))
    return other


def through_safetensors(model: nn.Module, path: Path) -> Any:
    safetensors.torch.save_model(model, str(path))
    other = Model(seed=9)
    safetensors.torch.load_model(other, str(path))
    return other


def through_flat_safetensors(model: nn.Module, path: Path) -> Any:
    safetensors.torch.save_file(model.state_dict(), path)
    other = Model(seed=9)
    other.load_state_dict(safetensors.torch.load_file(path))
    return other


def through_data_parallel(model: nn.Module, _: Path) -> Any:
    other = nn.DataParallel(Model(seed=9))
    other.load_state_dict(nn.DataParallel(model).state_dict())
    return other


def through_meta(model: nn.Module, _: Path) -> Any:
    other = Model(seed=9).to("meta")
    other.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    return other


def through_compiled_prefixes(model: nn.Module, _: Path) -> Any:
    other: Any = torch.compile(Model(seed=9), backend="eager")
    compiled: Any = torch.compile(model, backend="eager")
    other.load_state_dict(compiled.state_dict())
    return other._orig_mod


def through_pickle(model: nn.Module, _: Path) -> Any:
    content = io.BytesIO()
    torch.save(model, content)
    content.seek(0)
    return torch.load(content, weights_only=False)


def loaded_twice(model: nn.Module, path: Path) -> Any:
    other = through_torch(model, path)
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize(
    "transfer",
    [
        through_torch,
        through_safetensors,
        through_flat_safetensors,
        through_data_parallel,
        through_meta,
        through_compiled_prefixes,
        through_pickle,
        loaded_twice,
    ],
    ids=lambda each: each.__name__,
)
def test_a_new_model_gets_the_controllers(
    model: Model, transfer: Callable[[nn.Module, Path], Any], tmp_path: Path
):
    other = transfer(model, tmp_path / "model")
    x = varied_inputs(20)
    assert torch.equal(other(x), model(x))
    layers = getattr(other, "module", other).layers
    assert [layer.refiner.metadata["index"] for layer in layers[: len(HEADS)]] == [0, 1, 2, 3]
    assert [layer.refiner.layer for layer in layers[: len(HEADS)]] == [0, 1, 2, 0]
    assert layers[len(HEADS)].refiner is None


def test_buffers_are_copies():
    policy = make_exported_policy("features")
    state = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    again = ExportedPolicy(
        policy.observation, type(policy.head)(policy.observation, **policy.head.arguments), layer=1
    )
    for tensor in policy.buffers():
        tensor.zero_()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_half_precision_state_dict_keeps_the_description(model: Model):
    half = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    other = Model(seed=9)
    other.load_state_dict(half)
    assert isinstance(other.layers[1].refiner, ExportedPolicy)


def test_a_shared_controller_stays_equal(tmp_path: Path):
    model = Model(seed=0)
    policy = make_exported_policy()
    model.layers[0].refiner = model.layers[1].refiner = policy
    other, x = through_torch(model, tmp_path / "model"), varied_inputs(20)
    assert torch.equal(other(x), model(x))


@pytest.mark.parametrize(
    ("stored", "has", "message"),
    [
        (Refiner(), None, "the layer has none: assign layer.refiner"),
        ("box", Refiner(), "has a Refiner: assign layer.refiner = None"),
        (Refiner(), "box", "Missing key"),
        (None, "box", "Missing key"),
        (None, Refiner(), "Missing key"),
        # Equal in all shapes, but not in the actions.
        ("box", "digits", "another head, observation"),
    ],
    ids=str,
)
def test_errors_say_what_to_do(stored: Any, has: Any, message: str):
    def make(refiner: Any) -> IntegratedAttention:
        layer = make_layer()
        layer.refiner = make_exported_policy(refiner) if isinstance(refiner, str) else refiner
        return layer

    with pytest.raises(RuntimeError, match=message):
        make(has).load_state_dict(make(stored).state_dict())


@pytest.mark.parametrize("changed", [{"layer": 2}, {"observation_time": "previous"}], ids=str)
def test_controllers_of_equal_shapes_are_told_apart(changed: dict[str, Any]):
    layer, other = make_layer(), make_layer()
    layer.refiner, other.refiner = make_exported_policy(), make_exported_policy(**changed)
    with pytest.raises(RuntimeError, match=f"another {next(iter(changed))}: assign"):
        other.load_state_dict(layer.state_dict())


def test_a_controller_of_other_layers_cannot_be_made():
    layer, other = make_layer(), make_layer(action_scale="absolute")
    layer.refiner = make_exported_policy()
    with pytest.raises(RuntimeError, match="trained with action_scale 'relative'"):
        other.load_state_dict(layer.state_dict())
    assert other.refiner is None


def change(state: Tensor, **values: Any) -> Tensor:
    """Change values of an extra state."""
    description = json.loads(bytes(state.tolist())) | values
    return torch.tensor([*json.dumps(description).encode()], dtype=torch.uint8)


@pytest.mark.parametrize("has_controller", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe{",
        b'{"head": 3}',
        b"[]",
        b"3",
        b"[" * 10**5,
        b'{"observation": {"dims": 4',
        "text",
        {"a": 1},
        None,
        torch.ones(2, 3),
        {"metadata": [1]},
        {"metadata": "text"},
        {"layer": "0"},
        {"head_type": "os:system"},
        {"head_type": ["mlp"]},
        {"format": 2},
        {"observation": None},
        {"head": {"weights": [{"shape": [10**6, 10**6], "dtype": "uint8"}]}},
        {"head": {"weights": [{"shape": [3], "dtype": "load"}]}},
    ],
    ids=lambda each: f"{each!r:.30}",
)
def test_damaged_and_crafted_states_are_one_error(content: Any, has_controller: bool):
    layer, other = make_layer(), make_layer()
    layer.refiner = make_exported_policy()
    other.refiner = make_exported_policy() if has_controller else None
    state = layer.state_dict()
    if isinstance(content, bytes):
        content = torch.tensor([*content], dtype=torch.uint8)
    elif isinstance(content, dict) and "a" not in content:
        content = change(state["refiner._extra_state"], **content)
    for strict in (True, False):
        with pytest.raises(RuntimeError, match="refiner") as raised:
            other.load_state_dict({**state, "refiner._extra_state": content}, strict=strict)
        # The first line names the class.
        assert str(raised.value).count("\n") == 1
        assert len(str(raised.value)) < 500
    assert (other.refiner is not None) == has_controller
