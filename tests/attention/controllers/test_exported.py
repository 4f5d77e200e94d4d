"""Exported policies of every kind by themselves: batches, devices, compilation, files."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from spangym.attention.controllers.exported import ExportedPolicy, load_controller
from spangym.attention.controllers.mlp import ACTIVATIONS
from spangym.attention.observation_spec import ENCODINGS, ObservationSpec
from spangym.utils.serialization import load_state, save_state
from tests.factories import (
    POLICY_DIMS,
    make_exported_policy,
    make_policy_head,
    varied_inputs,
)

KINDS = [
    *((encoding, "mlp") for encoding in ENCODINGS),
    ("state", "lookup"),
    *((encoding, "kmeans") for encoding in ("digits", "box", "features")),
]
EVERY_KIND = pytest.mark.parametrize(("encoding", "kind"), KINDS)


@EVERY_KIND
def test_actions_are_independent_of_the_batch(encoding: str, kind: str):
    policy, x = make_exported_policy(encoding, kind), varied_inputs(300)
    batched = policy(x)
    assert batched.tolist() == [policy(each[None]).item() for each in x]
    assert len(set(batched.tolist())) > 3


@EVERY_KIND
def test_padding_is_ignored(encoding: str, kind: str):
    policy, x = make_exported_policy(encoding, kind), varied_inputs(40)
    lengths = torch.randint(1, 13, (40,), generator=torch.Generator().manual_seed(1))
    expected = [policy(x[i : i + 1, :n]).item() for i, n in enumerate(lengths.tolist())]
    for index, length in enumerate(lengths.tolist()):
        x[index, length:] = 1e3
    assert policy(x, lengths).tolist() == expected


class NoCopiesToTheHost(TorchDispatchMode):
    """Fails where a number of a tensor is read on the host."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert "_local_scalar_dense" not in str(func), "read on the host"
        return func(*args, **(kwargs or {}))


@EVERY_KIND
def test_nothing_is_copied_to_the_host(encoding: str, kind: str):
    policy, x = make_exported_policy(encoding, kind), varied_inputs(3)
    with NoCopiesToTheHost():
        policy(x)
    # A tensor without content cannot be copied.
    actions = policy.to("meta")(x.to("meta"))
    assert (actions.shape, actions.dtype) == ((3,), torch.int64)


@EVERY_KIND
def test_compiles_to_one_graph(encoding: str, kind: str):
    torch.compiler.reset()
    policy, x = make_exported_policy(encoding, kind), varied_inputs(30)
    compiled = torch.compile(policy, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), policy(x))


def test_layers_of_a_stack_are_compiled_once():
    torch.compiler.reset()
    x, graphs = varied_inputs(2), []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    observation = ObservationSpec(
        POLICY_DIMS, num_layers=12, encoding="box", include_layer_index=True
    )
    for layer in range(12):
        policy = ExportedPolicy(observation, make_policy_head(observation), layer=layer)
        torch.compile(policy, fullgraph=True, backend=backend)(x)
    assert len(graphs) == 1


@pytest.mark.slow
@EVERY_KIND
def test_compiled_by_inductor(encoding: str, kind: str):
    torch.compiler.reset()
    policy, x = make_exported_policy(encoding, kind), varied_inputs(200)
    compiled = torch.compile(policy, fullgraph=True)
    # Another order of summation may change near ties.
    assert (compiled(x) == policy(x)).float().mean() >= 0.99


@EVERY_KIND
@pytest.mark.parametrize("observation_time", ["current", "previous"])
def test_a_file_restores_the_policy(
    encoding: str, kind: str, observation_time: Any, tmp_path: Path
):
    policy = make_exported_policy(
        encoding,
        kind,
        observation_time=observation_time,
        action_scale="absolute",
        metadata={"agent": "it", "seed": 3},
    )
    path = tmp_path / "policy.safetensors"
    policy.save(path)
    loaded = load_controller(path, layer=1)
    x = varied_inputs(300)
    assert torch.equal(loaded(x), policy(x))
    assert repr(loaded) == repr(policy)
    for name in ("observation", "observation_time", "action_scale", "metadata"):
        assert getattr(loaded, name) == getattr(policy, name)
    assert b"pickle" not in path.read_bytes()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_kept(activation: str, tmp_path: Path):
    observation = ObservationSpec(POLICY_DIMS, encoding="features")
    policy = ExportedPolicy(observation, make_policy_head(observation, activation=activation))
    policy.save(tmp_path / "policy.safetensors")
    loaded = load_controller(tmp_path / "policy.safetensors")
    assert activation in repr(loaded)
    assert torch.equal(loaded(varied_inputs(100)), policy(varied_inputs(100)))


def test_buffers_keep_their_dtypes():
    policy, x = make_exported_policy("features"), varied_inputs(200)
    actions = policy(x)
    assert not list(policy.parameters())
    for changed in (policy.half(), policy.double(), policy.to(torch.bfloat16)):
        assert torch.equal(changed(x), actions)


def test_the_layer_index_is_required_where_it_is_observed(tmp_path: Path):
    path = tmp_path / "policy.safetensors"
    make_exported_policy().save(path)
    assert load_controller(path, layer=2).layer == 2
    with pytest.raises(ValueError, match="layer=0 to layer=2"):
        load_controller(path)
    for wrong in (3, -1):
        with pytest.raises(ValueError, match=r"layer.* 0\.\.2"):
            load_controller(path, layer=wrong)


def test_actions_depend_on_the_layer_index():
    x = varied_inputs(200)
    first, last = make_exported_policy(layer=0)(x), make_exported_policy(layer=2)(x)
    assert not torch.equal(first, last)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"observation": {"dims": 16}}, "'digits' needs"),
        ({"observation": {"dims": 16, "encoding": "boxx"}}, "'box'"),
        ({"observation": {"dms": 16}}, "is damaged: TypeError"),
        ({"head_type": "tree"}, "KeyError: 'tree'"),
        ({"head": {"weights": []}}, "is damaged: TypeError"),
        ({"observation_time": "next"}, "observation_time 'next'"),
        ({"biases": [torch.zeros(3), torch.zeros(10)]}, "is damaged: ValueError"),
        ({"more": torch.zeros(3)}, "is damaged: TypeError"),
    ],
)
def test_an_inconsistent_file_is_refused(changes: dict[str, Any], message: str, tmp_path: Path):
    path = tmp_path / "policy.safetensors"
    make_exported_policy().save(path)
    state = load_state(path)
    for name, value in changes.items():
        (state if name in state else state["head"])[name] = value
    save_state(path, state)
    with pytest.raises(ValueError, match=r"policy\.safetensors") as caught:
        load_controller(path, layer=0)
    assert message in str(caught.value)


def test_damaged_and_foreign_files_are_refused_by_name(tmp_path: Path):
    path = tmp_path / "policy.safetensors"
    make_exported_policy().save(path)
    whole = path.read_bytes()
    other = tmp_path / "other.safetensors"
    save_state(other, {"weight": torch.zeros(2)})
    for content in (b"", b"not a file", whole[:100], whole[:-1], other.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"policy\.safetensors' is"):
            load_controller(path, layer=0)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_controller(tmp_path / "nowhere.safetensors")
    with pytest.raises(ValueError, match="damaged, or not"):
        load_controller(tmp_path)


def test_needs_no_library_of_agents_or_experiments(tmp_path: Path):
    path = tmp_path / "policy.safetensors"
    make_exported_policy().save(path)
    code = f"""
import sys, torch
from spangym.attention import IntegratedAttention, load_controller
layer = IntegratedAttention(48, {POLICY_DIMS}, 4)
layer.refiner = load_controller({str(path)!r}, layer=1)
layer(torch.zeros(2, 48, {POLICY_DIMS}))
print(*{{"stable_baselines3", "pandas", "matplotlib", "scipy"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("\n", "", 0)
