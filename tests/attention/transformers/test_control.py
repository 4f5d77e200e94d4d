"""What works under span control, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import layer_norm

import spangym
from spangym.agents import Refiner
from spangym.attention import ExportedPolicy, ObservationSpec
from spangym.attention.controllers.lookup import GRID_STEPS, KMeansPolicy
from spangym.attention.controllers.mlp import MLPPolicy
from spangym.attention.features import autocorrelation_buckets, token_moments
from spangym.attention.transformers import attention_modules
from tests.attention.transformers.span_reference import reference_model, reference_qk_pairs
from tests.attention.transformers.test_architectures import FULL_SPAN, snapshot
from tests.attention.transformers.tiny_models import (
    ARCHITECTURES,
    LENGTHS,
    Padding,
    example_inputs,
    make_model,
    shared_model,
    unpadded_outputs,
)

pytest.importorskip("transformers")

DIMS = 32
LAYERS = ["model.layers.0.self_attn", "model.layers.1.self_attn"]
LLAMA = ARCHITECTURES["llama"]
# Also of wrapped models.
WRAPPED_LLAMA = dataclasses.replace(LLAMA, decoder=r".*self_attn")


def span_outputs(model: Any, controller: Any, inputs: dict[str, Tensor], **more: Any) -> Tensor:
    with spangym.control(model, controller, **more):
        return unpadded_outputs("llama", model, inputs)


def reference_outputs(model: Any, spans: Any, inputs: dict[str, Tensor]) -> Tensor:
    return unpadded_outputs("llama", reference_model(WRAPPED_LLAMA, model, spans), inputs)


# --- what works -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3", "t5", "bart"])
@torch.no_grad()
def test_generate_with_full_span_equals_the_default(name: str):
    model = shared_model(name)
    side: Padding = "right" if ARCHITECTURES[name].is_encoder_decoder else "left"
    inputs = {key: value for key, value in example_inputs(name, side).items() if "deco" not in key}
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    expected = model.generate(**inputs, **options)
    with spangym.control(model, "full"):
        assert torch.equal(model.generate(**inputs, **options), expected)
    assert torch.equal(model.generate(**inputs, **options), expected)


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "gemma3", "t5", "bart"])
@torch.no_grad()
def test_generate_reads_the_cache_as_the_mask_says(name: str):
    model = shared_model(name)
    side: Padding = "right" if ARCHITECTURES[name].is_encoder_decoder else "left"
    inputs = {key: value for key, value in example_inputs(name, side).items() if "deco" not in key}
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    reference = reference_model(ARCHITECTURES[name], model, 5, sinks=2)
    expected = reference.generate(**inputs, **options, use_cache=False)
    with spangym.control(model, 5, sinks=2):
        assert torch.equal(model.generate(**inputs, **options), expected)


@torch.no_grad()
def test_masks_of_the_caller_are_intersected():
    model, ids = shared_model("llama"), example_inputs("llama")["input_ids"]
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(3, 1, 80, 80, generator=generator) < 0.5).tril() | torch.eye(80).bool()
    additive = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    reference = reference_model(LLAMA, model, 16)
    expected = reference(input_ids=ids, attention_mask=additive).logits
    for each in (mask, additive):
        with spangym.control(model, 16) as handle:
            found = model(input_ids=ids, attention_mask=each).logits
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert handle.qk_pairs.tolist() == reference_qk_pairs(reference).tolist()


@torch.no_grad()
def test_eager_attention_is_restored():
    model, inputs = make_model("llama"), example_inputs("llama")
    model.set_attn_implementation("eager")
    before, expected = snapshot(model), unpadded_outputs("llama", model, inputs)
    found = span_outputs(model, "full", inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert snapshot(model) == before
    assert torch.equal(unpadded_outputs("llama", model, inputs), expected)


@torch.no_grad()
def test_example_for_models_of_several_inputs():
    transformers = pytest.importorskip("transformers")
    text, image = (ARCHITECTURES[each].config for each in ("clip", "vit"))
    config = transformers.CLIPConfig(text_config={**text}, vision_config={**image})
    model = transformers.CLIPModel(config).eval()
    with (
        pytest.raises(ValueError, match=r"CLIPModel.*example="),
        spangym.control(model, 8),
    ):
        pass
    inputs = {"input_ids": torch.arange(3, 20)[None], "pixel_values": torch.randn(1, 3, 36, 36)}
    with spangym.control(model, 8, groups=2, example=inputs) as handle:
        model(**inputs)
    assert [len(each) for each in handle.modules] == [2, 2]
    # 17 tokens, and 9 * 9 patches with a class token.
    text_pairs, image_pairs = 17 * 18 // 2, 82 * 82
    assert handle.full_qk_pairs.tolist() == [2 * (text_pairs + image_pairs)]


@torch.no_grad()
def test_a_control_can_be_entered_again():
    model, inputs = shared_model("llama"), example_inputs("llama")
    expected = span_outputs(model, 8, inputs)
    control = spangym.control(model, 8)
    for _ in range(2):
        with control:
            assert torch.equal(unpadded_outputs("llama", model, inputs), expected)
        assert not torch.equal(unpadded_outputs("llama", model, inputs), expected)


def test_nothing_is_known_before_the_first_pass():
    with spangym.control(shared_model("llama"), 8) as handle:
        for name in ("spans", "features"):
            with pytest.raises(RuntimeError, match="no pass"):
                getattr(handle, name)


@torch.no_grad()
def test_autocast():
    model, inputs = shared_model("llama"), example_inputs("llama")
    with torch.autocast("cpu", torch.bfloat16):
        expected = unpadded_outputs("llama", model, inputs)
        assert torch.equal(span_outputs(model, "full", inputs), expected)
        found = span_outputs(model, 32, inputs)
        masked = reference_outputs(model, 32, inputs)
    assert found.dtype == expected.dtype
    assert (found - masked).abs().mean() < 0.02 < 0.1 < (found - expected).abs().mean()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@torch.no_grad()
def test_other_dtypes(dtype: torch.dtype):
    model, inputs = make_model("llama").to(dtype), example_inputs("llama")
    expected = unpadded_outputs("llama", model, inputs)
    assert torch.equal(span_outputs(model, "full", inputs), expected)
    found = span_outputs(model, 32, inputs)
    assert found.dtype == dtype
    error = (found - reference_outputs(model, 32, inputs)).abs().mean()
    assert error < (0.02 if dtype == torch.bfloat16 else 1e-12)


@torch.no_grad()
def test_compiled_equals_eager():
    model, inputs = make_model("bert"), example_inputs("bert")
    with spangym.control(model, 32):
        expected = unpadded_outputs("bert", model, inputs)
    model.compile(backend="eager", fullgraph=True)
    with spangym.control(model, 32) as handle:
        found = unpadded_outputs("bert", model, inputs)
        assert handle.spans.tolist() == [[32] * 3]
        with torch.compiler.set_stance("fail_on_recompile"):
            again = unpadded_outputs("bert", model, inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert torch.equal(again, found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "bert"])
@torch.no_grad()
def test_optimized_equals_eager(name: str):
    model, inputs = make_model(name), example_inputs(name)
    before = unpadded_outputs(name, model, inputs)
    with spangym.control(model, 32):
        expected = unpadded_outputs(name, model, inputs)
    model.compile()
    with spangym.control(model, 32):
        found = unpadded_outputs(name, model, inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(unpadded_outputs(name, model, inputs), before, rtol=0, atol=1e-5)


def test_lora():
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = peft.get_peft_model(make_model("llama"), config).eval()
    inputs = example_inputs("llama")
    with spangym.control(model, 32, groups=2) as handle:
        # Names in the Transformers model itself.
        assert handle.modules == [[name] for name in LAYERS]
        found = unpadded_outputs("llama", model, inputs)
        found.square().mean().backward()
    reference = reference_model(WRAPPED_LLAMA, model, 32)
    reference.zero_grad()
    expected = unpadded_outputs("llama", reference, inputs)
    expected.square().mean().backward()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    trained = {name: each for name, each in reference.named_parameters() if each.requires_grad}
    assert trained
    for name, each in trained.items():
        torch.testing.assert_close(model.get_parameter(name).grad, each.grad, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_device_map(tmp_path: Path):
    accelerate = pytest.importorskip("accelerate")
    inputs = example_inputs("llama")
    expected = span_outputs(shared_model("llama"), 32, inputs)
    parts = ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm"]
    device_map = dict.fromkeys([*parts, "model.rotary_emb", "lm_head"], "cpu")
    # With hooks, which replace the `forward` of the modules.
    model = accelerate.dispatch_model(make_model("llama"), device_map, force_hooks=True)
    assert torch.equal(span_outputs(model, 32, inputs), expected)
    shared_model("llama").save_pretrained(tmp_path)
    model = type(model).from_pretrained(tmp_path, device_map="cpu")
    assert torch.equal(span_outputs(model, 32, inputs), expected)


def test_training_step_with_gradient_checkpointing():
    inputs = example_inputs("llama")
    model = make_model("llama").train()
    reference = reference_model(LLAMA, model, 32)
    unpadded_outputs("llama", reference, inputs).square().mean().backward()
    model.gradient_checkpointing_enable()
    with spangym.control(model, 32) as handle:
        unpadded_outputs("llama", model, inputs).square().mean().backward()
    assert handle.spans.tolist() == [[32] * 3]
    assert handle.qk_pairs.tolist() == reference_qk_pairs(reference).tolist()
    for name, each in reference.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, each.grad, rtol=1e-4, atol=1e-6)


# --- controllers ----------------------------------------------------------------------------------


ACTIONS = [1, 5, 3]
"""What the agents of these tests choose for the sequences of the example."""


def make_agent(kind: str) -> ExportedPolicy:
    """An agent that tells the sequences of the example by their features."""
    model, inputs = shared_model("llama"), example_inputs("llama")
    with spangym.control(model, lambda *_: "full") as handle:
        model(**inputs)
    [features] = handle.features
    observation = ObservationSpec(DIMS, encoding="features", autocorrelation=True)
    if kind == "kmeans":
        centers = (features.double()[None] * GRID_STEPS).round()
        zeros = torch.zeros(features.shape[1]).double()
        actions = torch.tensor(ACTIONS)
        head = KMeansPolicy(observation, zeros, zeros + 1, centers, actions, False, num_actions=6)
    else:
        weights, biases = torch.zeros(6, features.shape[1]), torch.full((6,), -1e3)
        weights[ACTIONS], biases[ACTIONS] = features, -features.square().sum(1) / 2
        head = MLPPolicy(observation, [weights], [biases], num_actions=6)
    return ExportedPolicy(observation, head)


SPANS = (4, 8, 16, 32, 64, "full")


@pytest.mark.parametrize("kind", ["mlp", "kmeans"])
@pytest.mark.parametrize("stored", [False, True])
@torch.no_grad()
def test_exported_agents(kind: str, stored: bool, tmp_path: Path):
    model, inputs, agent = shared_model("llama"), example_inputs("llama"), make_agent(kind)
    agent.save(tmp_path / "agent.safetensors")
    controller: Any = tmp_path / "agent.safetensors" if stored else agent
    with spangym.control(model, controller, spans=SPANS) as handle:
        found = unpadded_outputs("llama", model, inputs)
    assert handle.spans.tolist() == [[8, FULL_SPAN, 32]]
    masked = reference_outputs(model, handle.spans[0], inputs)
    torch.testing.assert_close(found, masked, rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_stored_agent_that_knows_its_layer_controls_each_group_as_that_layer(tmp_path: Path):
    model, inputs = shared_model("llama"), example_inputs("llama")
    observation = ObservationSpec(DIMS, num_layers=2, encoding="features", include_layer_index=True)
    weight = torch.zeros(6, 2 * DIMS + 1)
    weight[1, -1], weight[4, -1] = -1, 1
    head = MLPPolicy(observation, [weight], [torch.zeros(6)], num_actions=6)
    agent = ExportedPolicy(observation, head, layer=0)
    agent.save(tmp_path / "agent.safetensors")
    with spangym.control(model, tmp_path / "agent.safetensors", groups=2, spans=SPANS) as handle:
        unpadded_outputs("llama", model, inputs)
    assert handle.spans.tolist() == [[8] * 3, [64] * 3]


@torch.no_grad()
def test_refiner_is_asked_for_its_greedy_actions_and_does_not_learn():
    model, inputs = shared_model("llama"), example_inputs("llama")
    refiner = Refiner(actions=len(SPANS), epsilon=1.0, seed=0)
    states: list[int] = []
    greedy = refiner.greedy_action
    refiner.greedy_action = lambda state: states.append(state) or greedy(state)  # type: ignore[method-assign]
    with spangym.control(model, refiner, spans=SPANS) as handle:
        unpadded_outputs("llama", model, inputs)
        # An unseen state: the lowest action.
        assert handle.spans.tolist() == [[4] * 3]
        assert len({*states}) == len(LENGTHS)
        for state, action in zip(states, (2, 5, 3), strict=True):
            refiner.set_value(state, action, 1.0)
        table = dict(refiner.R)
        unpadded_outputs("llama", model, inputs)
        assert handle.spans.tolist() == [[16, FULL_SPAN, 32]]
    assert table == refiner.R


@torch.no_grad()
def test_function_gets_features_and_group_and_gives_spans():
    model, inputs = shared_model("llama"), example_inputs("llama")
    calls = []

    def choose(features: Tensor, group: int) -> Any:
        calls.append((tuple(features.shape), group))
        return torch.tensor([5, 90, 32]) if group == 0 else "full"

    with spangym.control(model, choose, groups=2) as handle:
        found = unpadded_outputs("llama", model, inputs)
    assert calls == [((3, 2 * DIMS + 9), 0), ((3, 2 * DIMS + 9), 1)]
    assert handle.spans.tolist() == [[5, 90, 32], [FULL_SPAN] * 3]
    expected = reference_outputs(model, {LAYERS[0]: torch.tensor([5, 90, 32])}, inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_lag_threshold_reaches_as_far_as_tokens_repeat():
    model, ids = shared_model("llama"), example_inputs("llama")["input_ids"]
    repeating = ids[:, :20].repeat(1, 4)
    with spangym.control(model, spangym.LagThreshold(0.5)) as handle:
        model(ids[:1])
        assert handle.spans.tolist() == [[16]]
        # Equal tokens are 20, 40 and 60 apart: the last bucket of lags ends at 64.
        model(repeating[:1])
        assert handle.spans.tolist() == [[128]]


@torch.no_grad()
def test_one_controller_for_each_group():
    model, inputs = shared_model("llama"), example_inputs("llama")
    with spangym.control(model, [lambda *_: 9, "full"], groups=2) as handle:
        found = unpadded_outputs("llama", model, inputs)
    assert handle.spans.tolist() == [[9] * 3, [FULL_SPAN] * 3]
    expected = reference_outputs(model, {LAYERS[0]: 9}, inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_decisions_while_decoding_are_interval_tokens_apart():
    model = shared_model("llama")
    inputs = example_inputs("llama", "left")
    groups: list[int] = []

    def choose(_features: Tensor, group: int) -> int:
        groups.append(group)
        return 16 + len(groups)

    with spangym.control(model, choose, groups=2, interval=8) as handle:
        model.generate(**inputs, max_new_tokens=20, min_new_tokens=20, do_sample=False)
        # 19 tokens are decoded after the prompt.
        assert groups == [0, 1] * 3
        assert handle.spans.tolist() == [[21] * 3, [22] * 3]
        model.generate(**inputs, max_new_tokens=2, min_new_tokens=2, do_sample=False)
        assert groups == [0, 1] * 4


# --- features -------------------------------------------------------------------------------------


def expected_features(name: str, modules: list[str], inputs: dict[str, Tensor]) -> list[Tensor]:
    """Features of the input of modules, from hooks of our own on the uncontrolled model."""
    model, seen = make_model(name), {}

    def remember(module: Any, args: Any, kwargs: Any) -> None:
        seen[module] = kwargs.get("hidden_states", args[0] if args else None)

    chosen = [model.get_submodule(each) for each in modules]
    for module in chosen:
        module.register_forward_pre_hook(remember, with_kwargs=True)
    model(**inputs)
    mask, features = inputs["attention_mask"].bool(), []
    for module in chosen:
        rows = []
        for row, unpadded in zip(seen[module], mask, strict=True):
            x = layer_norm(row[unpadded], (DIMS,))[None]
            rows.append(torch.cat([token_moments(x), autocorrelation_buckets(x, 9)], -1))
        features.append(torch.cat(rows))
    return features


@pytest.mark.parametrize(
    ("name", "layers", "side"),
    [
        ("llama", "model.layers", "left"),
        ("llama", "model.layers", "right"),
        ("bert", "encoder.layer", "right"),
    ],
)
@torch.no_grad()
def test_features_are_those_of_unpadded_tokens(name: str, layers: str, side: Padding):
    model, inputs = make_model(name), example_inputs(name, side)
    # At full span, the second group's input is the uncontrolled model's.
    with spangym.control(model, lambda *_: "full", groups=2) as handle:
        model(**inputs)
    # They are those of the layers, before their norms.
    expected = expected_features(name, [f"{layers}.{index}" for index in range(2)], inputs)
    assert [each.dtype for each in handle.features] == [torch.float32] * 2
    for found, each in zip(handle.features, expected, strict=True):
        torch.testing.assert_close(found, each, rtol=1e-4, atol=1e-5)
    with spangym.control(model, lambda *_: "full", groups=2, observe="embeddings") as handle:
        model(**inputs)
    for found in handle.features:
        torch.testing.assert_close(found, expected[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_features_do_not_depend_on_the_side_of_the_padding():
    model, found = shared_model("llama"), []
    right = example_inputs("llama", "right")
    left = {
        key: torch.stack([row.roll(80 - length) for row, length in zip(each, LENGTHS, strict=True)])
        for key, each in right.items()
    }
    left["position_ids"] = (left["attention_mask"].cumsum(-1) - 1).clamp_min(0)
    for inputs in (right, left):
        with spangym.control(model, lambda *_: "full", groups=2) as handle:
            model(**inputs)
        found.append(handle.features)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


# --- groups and where -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "groups", "expected"),
    [
        ("all", 1, [[0, 1, 2, 3, 4]]),
        ("all", 2, [[0, 1, 2], [3, 4]]),
        ("all", 5, [[0], [1], [2], [3], [4]]),
        ("decoder_self", 1, [[0, 1, 2, 3, 4]]),
        ("model.layers.[1-3].self_attn", 2, [[1, 2], [3]]),
        ("*layers.4*", 1, [[4]]),
    ],
)
def test_groups_and_globs(where: str, groups: int, expected: list[list[int]]):
    model = make_model("llama", num_hidden_layers=5)
    with spangym.control(model, 8, where=where, groups=groups) as handle:
        pass
    assert handle.modules == [[f"model.layers.{i}.self_attn" for i in each] for each in expected]


# --- bad input ------------------------------------------------------------------------------------


def refused(error: type[Exception], match: str, *args: Any, model: Any = None, **more: Any) -> None:
    """Assert that control raises one line on entry and that the model stays as it was."""
    model = shared_model("llama") if model is None else model
    before = snapshot(model)
    with pytest.raises(error, match=match) as caught, spangym.control(model, *args, **more):
        pass
    assert "\n" not in str(caught.value)
    assert snapshot(model) == before


@pytest.mark.parametrize("span", [0, -1])
def test_spans_that_are_not_positive(span: int):
    refused(ValueError, f"span.*{span}", span)
    refused(ValueError, f"span.*{span}", "full", spans=(16, span))


@pytest.mark.parametrize("span", [True, 2.5, None, object()])
def test_spans_of_other_types(span: Any):
    refused(TypeError, "controller|span", span)


@pytest.mark.parametrize(
    "more",
    [
        {"sinks": 1.5},
        {"sinks": True},
        {"groups": "2"},
        {"interval": None},
        {"where": 3},
        {"spans": 16},
        {"spans": (16, True)},
    ],
    ids=str,
)
def test_arguments_of_other_types(more: dict[str, Any]):
    [name] = more
    refused(TypeError, name, 16, **more)


@pytest.mark.parametrize(
    "more",
    [
        {"sinks": -1},
        {"groups": 0},
        {"groups": 3},
        {"interval": 0},
        {"observe": "inputs"},
        {"observe": 3},
        {"cache": "trimmed"},
        {"cache": 1},
        {"spans": ()},
        {"spans": (16, "fall")},
    ],
    ids=str,
)
def test_arguments_out_of_range(more: dict[str, Any]):
    [name] = more
    refused(ValueError, name, 16, **more)


def test_misspelt_values_are_answered_with_the_nearest():
    refused(FileNotFoundError, "fulll.*full", "fulll")
    refused(ValueError, "encoder_slef.*encoder_self", 16, where="encoder_slef")


def test_where_that_matches_nothing():
    refused(ValueError, r"where.*model\.layers\.9", 16, where="model.layers.9.*")
    refused(ValueError, "where.*encoder_self", 16, where="encoder_self")
    refused(ValueError, "where.*decoder_self", 16, where="decoder_self", model=shared_model("bert"))


def test_sinks_larger_than_the_context():
    refused(ValueError, "sinks.*128.*129", 16, sinks=129)


def test_number_of_controllers_is_not_that_of_groups():
    refused(ValueError, "3 controllers.*2 groups", [4, 8, 16], groups=2)


def test_controller_trained_on_other_features():
    observation = ObservationSpec(48, encoding="features")
    head = MLPPolicy(observation, [torch.zeros(6, 96)], [torch.zeros(6)], num_actions=6)
    refused(ValueError, "48.*32", ExportedPolicy(observation, head))


def test_controller_with_another_number_of_actions():
    refused(ValueError, "6.*3", make_agent("mlp"), spans=(16, 32, "full"))
    refused(ValueError, "10.*6", Refiner())


def test_file_that_does_not_exist(tmp_path: Path):
    refused(FileNotFoundError, "missing", tmp_path / "missing.safetensors")


@pytest.mark.parametrize(
    ("result", "error", "match"),
    [
        (0, ValueError, "span"),
        (-3, ValueError, "span"),
        ("fall", ValueError, "span"),
        (2.5, TypeError, "span"),
        (None, TypeError, "span"),
        (True, TypeError, "span"),
        (torch.tensor([1, 2]), ValueError, "3"),
        (torch.tensor([1.0, 2.0, 3.0]), TypeError, "int64"),
        (torch.tensor([4, 0, 4]), ValueError, "span"),
    ],
    ids=str,
)
def test_functions_that_return_something_else(result: Any, error: type[Exception], match: str):
    model, inputs = shared_model("llama"), example_inputs("llama")
    before = snapshot(model)
    with pytest.raises(error, match=match), spangym.control(model, lambda *_: result):
        model(**inputs)
    assert snapshot(model) == before


def test_model_in_another_control():
    model, inputs = shared_model("llama"), example_inputs("llama")
    before, expected = snapshot(model), span_outputs(model, 8, inputs)
    with spangym.control(model, 8):
        with pytest.raises(ValueError, match="control"), spangym.control(model, 16):
            pass
        # Parts of it, too.
        with pytest.raises(ValueError, match="control"), spangym.control(model.model, 16):
            pass
        assert torch.equal(unpadded_outputs("llama", model, inputs), expected)
    assert snapshot(model) == before
    # Two models at the same time are no problem.
    other = copy.deepcopy(model)
    with spangym.control(model, 8), spangym.control(other, 32):
        assert torch.equal(unpadded_outputs("llama", model, inputs), expected)
        assert not torch.equal(unpadded_outputs("llama", other, inputs), expected)


@pytest.mark.parametrize(
    "model", [None, "gpt2", torch.nn.Linear(2, 2)], ids=["none", "name", "layer"]
)
def test_things_that_are_no_models(model: Any):
    with pytest.raises(TypeError, match="PreTrainedModel"), spangym.control(model, 16):
        pass


def test_missing_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'spangym\[transformers\]'"):
        runpy.run_path(attention_modules.__file__)
