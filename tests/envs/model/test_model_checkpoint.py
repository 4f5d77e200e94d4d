"""Files of trained layers."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spangym.envs import ENVIRONMENTS, SpanControlEnv, make_config
from spangym.envs.model.build_model import build_model
from spangym.envs.model.model_checkpoint import load_metadata, load_stack, serialize
from spangym.envs.model.pretrain import metadata
from spangym.envs.model.stack import TransformerStack
from tests.factories import NATIVE, SMALL_PRETRAIN, pretrained_stack


def test_a_file_holds_weights_sizes_and_metadata(tmp_path: Path):
    trained = pretrained_stack()
    path = tmp_path / "mine.safetensors"
    path.write_bytes(serialize(trained, metadata(SMALL_PRETRAIN, {"9": 1.5}, 1.0)))
    loaded = load_stack(str(path))
    content = torch.randint(256, (2, 32), generator=torch.Generator().manual_seed(0))
    hidden, same = trained.embed(content), loaded.embed(content)
    assert torch.equal(trained.layer(0)(hidden), loaded.layer(0)(same))
    assert not any(each.requires_grad for each in loaded.parameters())
    manifest = load_metadata(str(path))
    assert (manifest["pretrain_config"]["steps"], manifest["loss_bits_by_action"]) == (
        60,
        {"9": 1.5},
    )
    env = SpanControlEnv(
        checkpoint=str(path), dataset="letters", reward="task", chunks_per_episode=2
    )
    assert (env.config.num_layers, env.config.dims, env.config.ctx) == (1, 16, 32)
    env.reset(seed=0)
    assert np.isfinite(env.step(3)[1])


@pytest.mark.parametrize("content", [b"", b"not safetensors at all"])
def test_other_files_are_refused(content: bytes, tmp_path: Path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.safetensors.* `spangym pretrain`") as caught:
        SpanControlEnv(checkpoint=str(path))
    assert "\n" not in str(caught.value)


def test_unknown_names_are_refused_with_the_closest():
    with pytest.raises(ValueError, match=r"'sparsty'.* 'sparsity'"):
        load_stack("sparsty")


def test_metadata_of_a_file_that_changed_is_read_again(tmp_path: Path):
    path = tmp_path / "mine.safetensors"
    for mark in ("first", "second one"):
        path.write_bytes(serialize(pretrained_stack(), {"mark": mark}))
        assert load_metadata(str(path))["mark"] == mark


def test_a_damaged_file_is_named(tmp_path: Path):
    path = tmp_path / "cut.safetensors"
    whole = serialize(pretrained_stack(), {})
    path.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match=r"cut\.safetensors"):
        SpanControlEnv(checkpoint=str(path))


TRAINED = [name for name in NATIVE if "checkpoint" in ENVIRONMENTS[name]]


@pytest.mark.parametrize("name", TRAINED)
def test_the_temperature_law_of_trained_layers_is_an_argument(name: str):
    x = torch.randn(1, 64, make_config(name, {}).dims, generator=torch.Generator().manual_seed(0))

    def run(**law: object) -> torch.Tensor:
        config = make_config(name, law)
        layer = build_model(config, None, 0).layer(0)
        assert layer.config.temperature_law == config.temperature_law
        return layer.forward_with_action(x, 4).output

    trained = run()
    assert torch.equal(trained, run(temperature_law="none"))
    # At strength 0 the law for longer spans is no law; otherwise it is another for each strength.
    assert torch.equal(trained, run(temperature_law="longer", temp_scale=0))
    others = [run(temperature_law="longer", temp_scale=each) for each in (0.5, 1.0)]
    others.append(run(temperature_law="shorter"))
    results = [trained, *others]
    assert all(not torch.equal(*pair) for pair in itertools.combinations(results, 2))
    with pytest.raises(ValueError, match=r"temperature_law .*'learned' .*trained with 'none'"):
        make_config(name, {"temperature_law": "learned"})


def test_a_learned_temperature_is_stored_with_its_law(tmp_path: Path):
    model = dataclasses.replace(SMALL_PRETRAIN.model, temperature_law="learned")
    stack = TransformerStack(model, torch.Generator().manual_seed(0))
    local: Any = stack.layer(0).attn_local
    local.log_temperature.data += torch.tensor([0.5, -0.5])
    path = tmp_path / "learned.safetensors"
    path.write_bytes(serialize(stack, {}))
    env: Any = SpanControlEnv(checkpoint=str(path), dataset="letters", chunks_per_episode=2)
    loaded = env.unwrapped.core.stack.layer(0).attn_local
    assert torch.equal(loaded.temperature(torch.ones(1)), local.temperature(torch.ones(1)))
    with pytest.raises(ValueError, match=r"must not be 'longer' .*trained with 'learned'"):
        SpanControlEnv(checkpoint=str(path), temperature_law="longer")
