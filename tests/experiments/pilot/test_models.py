import itertools
import math
from typing import Literal

import pytest
import torch

from spangym.attention import LocalGlobalAttention
from spangym.experiments.pilot.corpus import BLANK
from spangym.experiments.pilot.evaluate_model import run_model
from spangym.experiments.pilot.models import (
    PilotModel,
    SpeechModel,
    make_model,
    num_parameters,
)
from spangym.experiments.pilot.pilot_study import VariantConfig
from spangym.experiments.pilot.span_policies import FixedSpans, SpanPolicy
from tests.factories import tiny_pilot_study

STUDY = tiny_pilot_study()
GLOBAL_PATHS = (
    VariantConfig("pooled", "integrated", global_path="pooled", pool=4),
    VariantConfig("none", "hybrid", global_path="none"),
)
VARIANTS = pytest.mark.parametrize(
    "variant", [*STUDY.variants, *GLOBAL_PATHS], ids=lambda each: each.slug
)


def made(variant: VariantConfig, task: Literal["speech", "text"] = "text") -> PilotModel:
    return make_model(task, STUDY.model, variant, 256 if task == "text" else 9, 24, seed=0)


def named(name: str) -> VariantConfig:
    return next(each for each in STUDY.variants if each.name == name)


@VARIANTS
@pytest.mark.parametrize("task", ["speech", "text"])
def test_all_variants_are_of_one_size(task: Literal["speech", "text"], variant: VariantConfig):
    plain, own = (num_parameters(made(each, task)) for each in (STUDY.variants[0], variant))
    assert abs(own / plain - 1) < 0.005


@VARIANTS
def test_weights_depend_on_the_seed_alone(variant: VariantConfig):
    torch.manual_seed(1)
    first = made(variant).state_dict()
    before = torch.get_rng_state()
    second = made(variant).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = make_model("text", STUDY.model, variant, 256, 24, seed=1).state_dict()
    assert not torch.equal(first["frontend.weight"], other["frontend.weight"])


@VARIANTS
def test_text_is_read_causally(variant: VariantConfig):
    if variant.attention == "original":
        pytest.skip("the original layer reads its span off the whole chunk")
    model = made(variant).eval()
    content = torch.randint(256, (1, 24), generator=torch.Generator().manual_seed(0))
    changed = content.clone()
    changed[:, 13:] = 7
    before, after = model(content), model(changed)
    torch.testing.assert_close(before[:, :13], after[:, :13])
    assert not torch.allclose(before[:, 13:], after[:, 13:])


@VARIANTS
def test_a_decoded_text_is_one_that_is_read(variant: VariantConfig):
    model = made(variant).eval()
    content = torch.randint(256, (2, 24), generator=torch.Generator().manual_seed(0))
    if variant.attention == "original":
        with pytest.raises(ValueError, match="needs a causal layer"):
            model.decode(content)
        return
    for layer in model.layers:
        if isinstance(layer, LocalGlobalAttention):
            # It starts at zero, and the attention would not matter.
            generator = torch.Generator().manual_seed(1)
            torch.nn.init.normal_(layer.projection.weight, std=0.3, generator=generator)
    outputs, cache = [], None
    for block in content.split([5, 1, 1, 10, 1, 6], dim=1):
        hidden, cache = model.decode(block, cache)
        outputs.append(hidden)
    assert cache is not None
    assert cache.num_tokens == 24
    assert cache.nbytes > 0
    torch.testing.assert_close(torch.cat(outputs, dim=1), model(content), rtol=1e-4, atol=1e-5)


def test_pairs_of_the_global_path_are_counted():
    """Of 24 causal tokens: all earlier ones, the earlier blocks of 4, or none."""
    hidden = torch.randn(2, 24, STUDY.model.dims, generator=torch.Generator().manual_seed(0))
    for variant, expected in zip((named("predictor"), *GLOBAL_PATHS), (300, 60, 0), strict=True):
        model = made(variant)
        _, pairs, layer_output = model.attend(0, hidden)
        assert layer_output is not None
        assert (pairs - layer_output.qk_pairs).tolist() == [expected] * 2


def test_the_speech_loss_is_that_of_all_alignments():
    model = made(named("standard"), "speech")
    hidden = torch.randn(1, 4, STUDY.model.dims, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([[3, 3, -100, -100]])
    odds = model.head(hidden)[0].softmax(-1)
    total = 0.0
    for path in itertools.product((BLANK, 3), repeat=4):
        merged = [each for each, _ in itertools.groupby(path) if each != BLANK]
        if merged == [3, 3]:
            total += math.prod(odds[at, each].item() for at, each in enumerate(path))
    expected = -math.log2(total) / 2
    assert model.loss_bits(hidden, targets).item() == pytest.approx(expected, rel=1e-5)


def test_as_layer_stack_the_model_computes_the_same():
    model = made(named("predictor")).eval()
    content = torch.randint(256, (3, 1, 24), generator=torch.Generator().manual_seed(0))
    (chunk,) = run_model(model, content, content, FixedSpans(4))
    hidden = model.embed(content[:, 0])
    for index in range(2):
        layer_output = model.run_layer(index, hidden, torch.full((3,), 4))
        hidden = model.connect(index, hidden, layer_output.output)
    assert torch.equal(hidden, chunk.hidden)
    assert torch.equal(model.loss_bits(hidden, content[:, 0]), chunk.losses)


def test_qk_pairs_are_those_of_both_paths():
    content = torch.zeros(2, 1, 24, dtype=torch.int64)
    (plain,) = run_model(made(named("standard")), content, content, SpanPolicy())
    assert plain.qk_pairs.tolist() == [[300, 300], [300, 300]]
    (off,) = run_model(made(named("predictor")), content, content, FixedSpans(0))
    assert torch.equal(off.qk_pairs, plain.qk_pairs)
    (on,) = run_model(made(named("predictor")), content, content, FixedSpans(9))
    assert (on.qk_pairs > plain.qk_pairs).all()


def test_recognizers_ignore_loudness():
    model = made(named("standard"), "speech")
    assert isinstance(model, SpeechModel)
    frames = torch.randn(1, 24, 320, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.embed(frames), model.embed(frames + 0.7), rtol=1e-3, atol=1e-3)
