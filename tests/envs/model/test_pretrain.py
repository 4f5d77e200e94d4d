"""Pretraining of the shipped layers, at small sizes, and the shipped weights."""

import dataclasses
import json
from typing import Any

import pytest
import torch

from spangym.envs import ENVIRONMENTS
from spangym.envs.model.model_checkpoint import (
    builtin_checkpoints,
    load_cache_transformer,
    load_metadata,
    load_stack,
)
from spangym.envs.model.pretrain import (
    PRETRAIN_CONFIGS,
    evaluate,
    find_trainer,
    get_config,
    pretrain,
)
from spangym.envs.model.pretrain_cache import CachePretrainConfig
from spangym.envs.model.stack import TransformerStack
from spangym.utils.errors import UserError
from tests.factories import SMALL_PRETRAIN, SMALL_TRANSFORMER, pretrained_stack


def test_training_lowers_the_loss_at_every_span():
    untrained = TransformerStack(SMALL_TRANSFORMER, torch.Generator().manual_seed(0)).eval()
    before, after = (
        evaluate(untrained, SMALL_PRETRAIN),
        evaluate(pretrained_stack(), SMALL_PRETRAIN),
    )
    assert set(after) == {str(action) for action in range(10)}
    assert all(after[action] < 0.6 * before[action] for action in after)


def test_the_same_config_gives_the_same_weights():
    again = pretrain(SMALL_PRETRAIN, lambda *_: None)
    for one, other in zip(pretrained_stack().parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_frozen_global_queries_and_keys_keep_their_initial_weights():
    config = dataclasses.replace(SMALL_PRETRAIN, steps=3, freeze_global_qk=True)
    stack, first = (
        pretrain(config, lambda *_: None),
        TransformerStack(SMALL_TRANSFORMER, torch.Generator().manual_seed(0)),
    )
    for name, weight in stack.named_parameters():
        kept = "attn_global.query_module" in name or "attn_global.key_module" in name
        unused = "predictor" in name or "span_pred" in name
        assert torch.equal(weight, first.get_parameter(name)) == (kept or unused), name


@pytest.mark.parametrize("steps", [3, 9, 10, 11])
def test_any_number_of_steps(steps: int):
    seen: list[int] = []
    pretrain(
        dataclasses.replace(SMALL_PRETRAIN, steps=steps, batch=1), lambda done, _: seen.append(done)
    )
    assert seen == [*range(1, steps + 1)]


class TestShippedWeights:
    def test_every_config_has_a_checkpoint_and_an_id(self):
        assert set(builtin_checkpoints()) == set(PRETRAIN_CONFIGS)
        used = {given["checkpoint"] for given in ENVIRONMENTS.values() if "checkpoint" in given}
        assert used == set(PRETRAIN_CONFIGS)

    @pytest.mark.parametrize("name", PRETRAIN_CONFIGS)
    def test_metadata_holds_the_config(self, name: str):
        made = load_metadata(name)
        config = json.loads(json.dumps(dataclasses.asdict(PRETRAIN_CONFIGS[name])))
        expected = PRETRAIN_CONFIGS[name].model
        assert {**made["pretrain_config"], "model": config["model"]} == config
        assert type(expected)(**made["model"]) == expected
        assert type(expected)(**made["pretrain_config"]["model"]) == expected

    @pytest.mark.parametrize("name", PRETRAIN_CONFIGS)
    def test_losses_are_those_of_the_metadata(self, name: str):
        config = PRETRAIN_CONFIGS[name]
        reads_in_blocks = isinstance(config, CachePretrainConfig)
        model: Any = (load_cache_transformer if reads_in_blocks else load_stack)(name)
        found = find_trainer(config)[1](model, config, chunks=24)
        said = load_metadata(name)["loss_bits_by_action"]
        for action in (min(said), min(said, key=said.__getitem__), "9"):
            assert found[action] == pytest.approx(said[action], rel=0.3, abs=0.1)

    def test_together_their_files_are_small(self):
        assert sum(path.stat().st_size for path in builtin_checkpoints().values()) < 5_000_000


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ("SpanControl-v0", "random weights"),
        ("SpanBugdet-v0", " 'spangym/SpanBudget-v0'"),
    ],
)
def test_ids_without_a_config_are_refused(environment: str, message: str):
    with pytest.raises(UserError) as caught:
        get_config(environment)
    assert message in str(caught.value)
