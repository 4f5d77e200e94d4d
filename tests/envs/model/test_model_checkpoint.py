"""Files of trained layers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from spangym.envs import SpanControlEnv
from spangym.envs.model.model_checkpoint import load_metadata, load_stack, serialize
from spangym.envs.model.pretrain import metadata
from tests.factories import SMALL_PRETRAIN, pretrained_stack


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
