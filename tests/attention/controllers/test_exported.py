"""Frozen controllers by themselves: what they read, how they decide, their files."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spangym.attention.controllers.exported import ExportedPolicy, load_controller
from spangym.attention.controllers.lookup import KMeansPolicy, LookupPolicy
from spangym.attention.controllers.mlp import ACTIVATIONS, MLPPolicy
from spangym.attention.controllers.policy_heads import ObsNormalization
from spangym.attention.features import NUM_STATES, autocorrelation_buckets, tuple_hash_id
from spangym.attention.hashing import cpython_tuple_hash, tuple_hash_states
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


@pytest.mark.parametrize("numbers", [1, 2, 3, 8, 33, 130, 769])
def test_the_device_hashes_as_python_does(numbers: int, generator: torch.Generator):
    digits = torch.randint(11, (100, numbers), generator=generator)
    digits[0], digits[1] = 0, 10
    expected = [tuple_hash_id(row) for row in digits.tolist()]
    assert cpython_tuple_hash(digits).tolist() == expected
    assert tuple_hash_states(digits).tolist() == expected


def test_decides_by_the_highest_output_of_the_network_in_words(generator: torch.Generator):
    observation = ObservationSpec(POLICY_DIMS, encoding="features")
    sizes = ((7, 32), (10, 7))
    weights = [torch.randn(size, generator=generator) for size in sizes]
    biases = [torch.randn(size[0], generator=generator) for size in sizes]
    x = varied_inputs(50)
    found = torch.cat([x.mean(1), x.var(1, correction=0)], dim=-1)
    low, high = (torch.tensor(each) for each in observation.bounds)
    hidden = torch.tanh(found.clamp(low, high) @ weights[0].T + biases[0])
    expected = (hidden @ weights[1].T + biases[1]).argmax(-1)
    frozen = ExportedPolicy(observation, MLPPolicy(observation, weights, biases, "Tanh"))
    decided = frozen(x)
    assert decided.dtype == torch.int64
    assert torch.equal(decided, expected)
    assert len(set(decided.tolist())) > 3


def test_value_of_an_action_is_the_mean_of_its_quantiles():
    observation = ObservationSpec(4, encoding="box", pool_groups=1)
    bias = torch.zeros(3, 10)
    bias[:, 4], bias[0, 7] = 0.5, 1.4  # Means of 0.5 and 0.47.
    head = MLPPolicy(observation, [torch.zeros(30, 2)], [bias.flatten()], quantiles=3)
    assert ExportedPolicy(observation, head)(torch.zeros(2, 3, 4)).tolist() == [4, 4]


@EVERY_KIND
def test_a_lane_never_depends_on_its_neighbors(encoding: str, kind: str):
    frozen, x = make_exported_policy(encoding, kind), varied_inputs(300)
    batched = frozen(x)
    assert batched.tolist() == [frozen(each[None]).item() for each in x]
    assert len(set(batched.tolist())) > 3


@EVERY_KIND
def test_padding_is_not_seen(encoding: str, kind: str):
    frozen, x = make_exported_policy(encoding, kind), varied_inputs(40)
    lengths = torch.randint(1, 13, (40,), generator=torch.Generator().manual_seed(1))
    expected = [frozen(x[i : i + 1, :n]).item() for i, n in enumerate(lengths.tolist())]
    for lane, length in enumerate(lengths.tolist()):
        x[lane, length:] = 1e3
    assert frozen(x, lengths).tolist() == expected


def test_lag_correlations_of_padded_lanes(generator: torch.Generator):
    x = torch.randn(4, 40, 8, generator=generator)
    lengths = torch.tensor([40, 17, 3, 1])
    got = autocorrelation_buckets(x, 9, lengths)
    for lane, length in enumerate(lengths.tolist()):
        alone = autocorrelation_buckets(x[lane : lane + 1, :length], 9)[0]
        torch.testing.assert_close(got[lane], alone, rtol=1e-4, atol=1e-6)


class NoCopiesToTheHost(TorchDispatchMode):
    """Fails where a number is read off a tensor."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        assert "_local_scalar_dense" not in str(func), "a tensor's number was read"
        return func(*args, **(kwargs or {}))


def test_the_nearest_center_in_words():
    frozen, x = make_exported_policy("features", "kmeans", layer=2), varied_inputs(80)
    head = frozen.head
    assert isinstance(head, KMeansPolicy)
    observed = frozen.observation.extract_from_input(x)
    low, high = (torch.tensor(each)[:-1] for each in frozen.observation.bounds)
    numbers = (observed.clamp(low, high).double() * 1024).round()
    expected = [
        head.actions[20 + (head.centers[2] - row).square().sum(-1).argmin()].item()
        for row in numbers
    ]
    assert frozen(x).tolist() == expected


@EVERY_KIND
def test_nothing_is_copied_to_the_host(encoding: str, kind: str):
    frozen, x = make_exported_policy(encoding, kind), varied_inputs(3)
    with NoCopiesToTheHost():
        frozen(x)
    # A tensor without content cannot be copied at all.
    decided = frozen.to("meta")(x.to("meta"))
    assert (decided.shape, decided.dtype) == ((3,), torch.int64)


@EVERY_KIND
def test_compiles_to_one_graph(encoding: str, kind: str):
    torch.compiler.reset()
    frozen, x = make_exported_policy(encoding, kind), varied_inputs(30)
    compiled = torch.compile(frozen, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), frozen(x))


def test_layers_of_a_stack_are_compiled_once():
    torch.compiler.reset()
    counters = torch._dynamo.utils.counters["stats"]
    before, x = counters["unique_graphs"], varied_inputs(2)
    observation = ObservationSpec(
        POLICY_DIMS, num_layers=12, encoding="box", include_layer_index=True
    )
    for layer in range(12):
        frozen = ExportedPolicy(observation, make_policy_head(observation), layer=layer)
        torch.compile(frozen, fullgraph=True, backend="eager")(x)
    assert counters["unique_graphs"] == before + 1


@pytest.mark.slow
@EVERY_KIND
def test_compiled_by_inductor_it_decides_alike(encoding: str, kind: str):
    torch.compiler.reset()
    frozen, x = make_exported_policy(encoding, kind), varied_inputs(200)
    compiled = torch.compile(frozen, fullgraph=True)
    # Sums in another order may turn a near tie.
    assert (compiled(x) == frozen(x)).float().mean() >= 0.99


@EVERY_KIND
@pytest.mark.parametrize("observation_time", ["current", "previous"])
def test_file_holds_all_of_it(encoding: str, kind: str, observation_time: Any, tmp_path: Path):
    frozen = make_exported_policy(
        encoding,
        kind,
        observation_time=observation_time,
        action_scale="absolute",
        metadata={"agent": "it", "seed": 3},
    )
    path = tmp_path / "frozen.safetensors"
    frozen.save(path)
    loaded = load_controller(path, layer=1)
    x = varied_inputs(300)
    assert torch.equal(loaded(x), frozen(x))
    assert repr(loaded) == repr(frozen)
    for name in ("observation", "observation_time", "action_scale", "metadata"):
        assert getattr(loaded, name) == getattr(frozen, name)
    assert b"pickle" not in path.read_bytes()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_kept(activation: str, tmp_path: Path):
    observation = ObservationSpec(POLICY_DIMS, encoding="features")
    frozen = ExportedPolicy(observation, make_policy_head(observation, activation=activation))
    frozen.save(tmp_path / "frozen.safetensors")
    loaded = load_controller(tmp_path / "frozen.safetensors")
    assert activation in repr(loaded)
    assert torch.equal(loaded(varied_inputs(100)), frozen(varied_inputs(100)))


def test_holds_buffers_that_keep_their_types():
    frozen, x = make_exported_policy("features"), varied_inputs(200)
    decided = frozen(x)
    assert not list(frozen.parameters())
    for changed in (frozen.half(), frozen.double(), frozen.to(torch.bfloat16)):
        assert torch.equal(changed(x), decided)


def test_the_layer_that_it_observes_must_be_said(tmp_path: Path):
    path = tmp_path / "frozen.safetensors"
    make_exported_policy().save(path)
    assert load_controller(path, layer=2).layer == 2
    with pytest.raises(ValueError, match=r"say which, layer=0 to layer=2"):
        load_controller(path)
    for wrong in (3, -1, "1"):
        with pytest.raises(ValueError, match=r"layer must be in 0\.\.2"):
            load_controller(path, layer=wrong)  # pyright: ignore[reportArgumentType]


def test_layers_decide_by_the_index_that_they_observe():
    x = varied_inputs(200)
    first, last = make_exported_policy(layer=0)(x), make_exported_policy(layer=2)(x)
    assert not torch.equal(first, last)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format 2"),
        ({"observation": {"dims": 16}}, "encoding 'digits' gives"),
        ({"observation": {"dims": 16, "encoding": "boxx"}}, "did you mean 'box'"),
        ({"observation": {"dms": 16}}, "is damaged: TypeError"),
        ({"head_type": "tree"}, "is damaged: KeyError: 'tree'"),
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
        with pytest.raises(ValueError, match=r"policy\.safetensors' is damaged, or not"):
            load_controller(path, layer=0)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_controller(tmp_path / "nowhere.safetensors")
    with pytest.raises(ValueError, match="damaged, or not"):
        load_controller(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": [torch.zeros(10, 31)]}, "reads 31 numbers.*gives 32"),
        ({"weights": [torch.zeros(9, 32)]}, "must give 10 numbers, 9"),
        ({"weights": []}, "at least one"),
        ({"biases": [torch.zeros(9)]}, "weights and biases"),
        ({"activation": "ReLu"}, "did you mean 'ReLU'"),
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


def test_a_table_that_does_not_fit_is_refused():
    states = ObservationSpec(POLICY_DIMS, encoding="state")
    for actions, message in (
        (torch.zeros(100, dtype=torch.int64), "integers of shape"),
        (torch.zeros(NUM_STATES), "integers of shape"),
        (torch.full((NUM_STATES,), 10), r"must be in 0\.\.9"),
    ):
        with pytest.raises(ValueError, match=message):
            LookupPolicy(states, actions)
    with pytest.raises(ValueError, match="'state', got 'box'"):
        LookupPolicy(
            ObservationSpec(POLICY_DIMS, encoding="box"), torch.zeros(NUM_STATES, dtype=torch.int64)
        )


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (ObservationSpec(4, encoding="state"), "must not be 'state'"),
        (ObservationSpec(4, encoding="box"), "its index"),
        (
            ObservationSpec(4, num_layers=3, encoding="box", include_layer_index=True),
            r"\(8,\), \(8,\) and \(3, clusters, 8\)",
        ),
    ],
)
def test_clusters_that_do_not_fit_are_refused(observation: ObservationSpec, message: str):
    one = torch.ones(8).double()
    with pytest.raises(ValueError, match=message):
        KMeansPolicy(observation, one, one, torch.zeros(2, 5, 8), torch.zeros(10).long(), True)


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
