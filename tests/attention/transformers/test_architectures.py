"""Span control of every supported architecture, against an independent reference."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import spangym
from tests.attention.transformers.span_reference import reference_model, reference_qk_pairs
from tests.attention.transformers.tiny_models import (
    ARCHITECTURES,
    REFUSED,
    Padding,
    example_inputs,
    one_sequence,
    shared_model,
    unpadded_outputs,
)

NAMES = list(ARCHITECTURES)
PADDED = [(each.name, side) for each in ARCHITECTURES.values() for side in each.paddings]
SPANS = [7, 32, "full"]
FULL_SPAN = 2**31 - 1


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(autouse=True)
def _no_gradients(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch.set_grad_enabled("gradients" in request.node.name):
        yield


def by_sequence(_features: Tensor, _group: int) -> Tensor:
    """A controller that gives every sequence of a batch another span."""
    return torch.tensor([FULL_SPAN if each == "full" else each for each in SPANS])


def snapshot(model: Any) -> dict[str, Any]:
    """Everything about a model that control could leave changed."""
    modules = dict(model.named_modules())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return {
        "attention": [module.config._attn_implementation for module in _configured(model)],
        "configs": [repr(module.config) for module in _configured(model)],
        "hooks": {
            name: [len(getattr(each, one)) for one in hooks] for name, each in modules.items()
        },
        "attributes": {name: sorted(vars(each)) for name, each in modules.items()},
        "classes": {name: type(each) for name, each in modules.items()},
    }


def _configured(model: Any) -> list[Any]:
    return [each for each in model.modules() if hasattr(each, "config")]


@pytest.mark.parametrize(("name", "side"), PADDED)
def test_full_span_equals_the_default_exactly(name: str, side: Padding):
    model, inputs = shared_model(name), example_inputs(name, side)
    expected = unpadded_outputs(name, model, inputs)
    with spangym.control(model, "full"):
        found = unpadded_outputs(name, model, inputs)
    assert (found - expected).abs().max().item() == 0.0


@pytest.mark.parametrize(("name", "side"), PADDED)
def test_span_32_equals_an_equivalent_mask(name: str, side: Padding):
    model, inputs = shared_model(name), example_inputs(name, side)
    reference = reference_model(ARCHITECTURES[name], model, 32)
    expected = unpadded_outputs(name, reference, inputs)
    with spangym.control(model, 32) as handle:
        found = unpadded_outputs(name, model, inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    # The span matters.
    assert (found - unpadded_outputs(name, model, inputs)).abs().max() > 0.1
    assert handle.spans.tolist() == [[32] * 3]
    assert handle.qk_pairs.tolist() == reference_qk_pairs(reference).tolist()


def test_pairs_of_full_span_are_those_that_the_model_sees(name: str):
    model, inputs = shared_model(name), example_inputs(name)
    reference = reference_model(ARCHITECTURES[name], model, FULL_SPAN)
    unpadded_outputs(name, reference, inputs)
    expected = reference_qk_pairs(reference).tolist()
    with spangym.control(model, "full") as handle:
        unpadded_outputs(name, model, inputs)
    assert handle.spans.tolist() == [[FULL_SPAN] * 3]
    assert handle.qk_pairs.tolist() == expected
    assert handle.full_qk_pairs.tolist() == expected


@pytest.mark.parametrize("sinks", [0, 1, 9])
def test_other_numbers_of_sinks(name: str, sinks: int):
    model, inputs = shared_model(name), example_inputs(name)
    expected = unpadded_outputs(name, reference_model(ARCHITECTURES[name], model, 5, sinks), inputs)
    with spangym.control(model, 5, sinks=sinks):
        found = unpadded_outputs(name, model, inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "side"), PADDED)
def test_sequences_of_a_batch_are_independent(name: str, side: Padding):
    model, inputs = shared_model(name), example_inputs(name, side)
    with spangym.control(model, by_sequence) as handle:
        together = unpadded_outputs(name, model, inputs)
    assert handle.spans.tolist() == [[7, 32, FULL_SPAN]]
    alone, pairs = [], []
    for index, span in enumerate(SPANS):
        with spangym.control(model, span) as single:
            alone.append(unpadded_outputs(name, model, one_sequence(inputs, index)))
        pairs += single.qk_pairs.tolist()
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)
    assert handle.qk_pairs.tolist() == pairs


def test_groups_have_spans_of_their_own(name: str):
    architecture, model, inputs = ARCHITECTURES[name], shared_model(name), example_inputs(name)
    names = list(architecture.self_attention(model))
    spans = [9, 32, "full", 17][: len(names)]
    expected = unpadded_outputs(
        name,
        reference_model(
            architecture,
            model,
            {each: span for each, span in zip(names, spans, strict=True) if span != "full"},
        ),
        inputs,
    )
    with spangym.control(model, spans, groups=len(names)) as handle:
        assert handle.modules == [[each] for each in names]
        found = unpadded_outputs(name, model, inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_gradients_equal_those_of_the_mask(name: str):
    model, inputs = shared_model(name), example_inputs(name)
    reference = reference_model(ARCHITECTURES[name], model, 32)

    def gradients(of: Any) -> dict[str, Tensor]:
        outputs = unpadded_outputs(name, of, inputs)
        weights = torch.linspace(-1, 1, outputs.numel()).view_as(outputs)
        named = {each: value for each, value in of.named_parameters() if value.requires_grad}
        found = torch.autograd.grad(
            (outputs * weights).mean(), [*named.values()], allow_unused=True
        )
        return {each: value for each, value in zip(named, found, strict=True) if value is not None}

    expected = gradients(reference)
    with spangym.control(model, 32):
        found = gradients(model)
    assert found.keys() == expected.keys()
    largest = max(each.abs().max() for each in expected.values())
    for each in expected:
        torch.testing.assert_close(found[each], expected[each], rtol=0, atol=1e-5 * largest.item())


def test_model_is_as_before_after_the_block_and_after_an_error(name: str):
    model, inputs = shared_model(name), example_inputs(name)
    before, weights = snapshot(model), copy.deepcopy(model.state_dict())
    expected = unpadded_outputs(name, model, inputs)
    with spangym.control(model, 8):
        unpadded_outputs(name, model, inputs)
        torch.testing.assert_close(model.state_dict(), weights, rtol=0, atol=0)
    assert snapshot(model) == before
    assert torch.equal(unpadded_outputs(name, model, inputs), expected)

    def fail(_features: Tensor, group: int) -> int:
        raise RuntimeError(f"no span for group {group}")

    with pytest.raises(RuntimeError, match="no span for group 0"), spangym.control(model, fail):
        unpadded_outputs(name, model, inputs)
    assert snapshot(model) == before
    assert torch.equal(unpadded_outputs(name, model, inputs), expected)
    torch.testing.assert_close(model.state_dict(), weights, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["llama", "bert", "t5"])
def test_copies_of_a_controlled_model_have_no_control(name: str):
    model, inputs = shared_model(name), example_inputs(name)
    expected = unpadded_outputs(name, model, inputs)
    with spangym.control(model, 8):
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for each in copies:
        assert torch.equal(unpadded_outputs(name, each, inputs), expected)
        with spangym.control(each, 8):
            assert not torch.equal(unpadded_outputs(name, each, inputs), expected)


@pytest.mark.parametrize("name", [each for each in NAMES if ARCHITECTURES[each].is_encoder_decoder])
def test_encoder_and_decoder_alone(name: str):
    architecture, model, inputs = ARCHITECTURES[name], shared_model(name), example_inputs(name)
    names = list(architecture.self_attention(model))
    for where, causal in (("encoder_self", False), ("decoder_self", True)):
        chosen = [each for each in names if architecture.is_causal(each) is causal]
        spans = dict.fromkeys(chosen, 32)
        expected = unpadded_outputs(name, reference_model(architecture, model, spans), inputs)
        with spangym.control(model, 32, where=where) as handle:
            assert handle.modules == [chosen]
            found = unpadded_outputs(name, model, inputs)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_models_without_attention_functions_are_refused(name: str):
    model, inputs = shared_model(name), example_inputs(name)
    before, expected = snapshot(model), unpadded_outputs(name, model, inputs)
    with (
        pytest.raises(ValueError, match=f"{type(model).__name__}.*attention"),
        spangym.control(model, 32),
    ):
        pass
    assert snapshot(model) == before
    assert torch.equal(unpadded_outputs(name, model, inputs), expected)
