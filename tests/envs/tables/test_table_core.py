"""The table backend is bit-equal to the live one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from spangym.attention import IntegratedAttention, SpanConfig
from spangym.envs import ENVIRONMENTS, Reward, RewardContext, make_config, tabulate
from spangym.envs.data.dataset import NoiseDataset
from spangym.envs.env_config import MAX_TABLE_LAYERS
from spangym.utils.serialization import from_bytes, to_bytes
from tests.factories import NATIVE, two_layer_kwargs

LEVELS = 2
ENCODINGS: list[dict[str, Any]] = [
    {},
    {"encoding": "box", "cost_coef": 0.123},
    {"encoding": "features", "autocorrelation": True, "pool_groups": 4},
    {"encoding": "state", "include_layer_index": True},
]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        folder: Path = tmp_path_factory.mktemp("cache")
        patch.setenv("SPANGYM_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def long_range() -> None:
    tabulate("LongRange-v0", LEVELS)


TABULAR = [name for name in ENVIRONMENTS if make_config(name, {}).num_layers <= MAX_TABLE_LAYERS]


def test_ids_with_too_many_action_sequences_have_no_tables():
    assert "spangym/Depth-v0" in {*ENVIRONMENTS} - {*TABULAR}
    for name in {*ENVIRONMENTS} - {*TABULAR}:
        with pytest.raises(ValueError, match=r"backend 'table' needs at most 3 layers"):
            make_config(name, {"backend": "table", "num_levels": 2})


@pytest.mark.parametrize("name", TABULAR)
def test_every_id_is_bit_equal_on_its_levels(name: str):
    own = two_layer_kwargs(name)
    tabulate(name, LEVELS, **own)
    for options in ENCODINGS:
        arguments: dict[str, Any] = {
            **own,
            "num_levels": LEVELS,
            "chunks_per_episode": 2,
            **options,
        }
        live: Any = gym.make_vec(name, 4, **arguments)
        table: Any = gym.make_vec(name, 4, backend="table", **arguments)
        assert table.single_observation_space == live.single_observation_space
        one, two = live.reset(seed=1), table.reset(seed=1)
        assert_equal(one, two)
        generator = np.random.default_rng(0)
        for step in range(6):
            if step < 2 and "cost_coef" in options:
                assert_equal(live.content_type(), table.content_type())
                assert_equal(live.peek(), table.peek())
                assert_equal(live.lookahead(), table.lookahead())
                if name in NATIVE:
                    assert_equal(live.action_coverages(), table.action_coverages())
            actions = generator.integers(10, size=4)
            one, two = live.step(actions), table.step(actions)
            assert_equal(one, two)
            assert_equal(live.output_observations(), table.output_observations())


def assert_equal(one: Any, two: Any) -> None:
    assert type(one) is type(two)
    if isinstance(one, np.ndarray) and one.dtype != object:
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    elif isinstance(one, dict):
        assert [*one] == [*two]
        for key in one:
            assert_equal(one[key], two[key])
    elif isinstance(one, tuple | list | np.ndarray):
        assert len(one) == len(two)
        for each, other in zip(one, two, strict=True):
            assert_equal(each, other)
    else:
        assert one == two


@pytest.mark.parametrize("encoding", ["box", "state"])
def test_observations_and_rewards_of_all_levels_are_those_of_the_steps(encoding: str):
    arguments: dict[str, Any] = {"num_levels": LEVELS, "chunks_per_episode": 3}
    tabulate("LongRange-v0", LEVELS)
    env: Any = gym.make(
        "spangym/LongRange-v0", backend="table", encoding=encoding, **arguments
    ).unwrapped
    observations, rewards = env.core.observations, env.core.rewards
    assert [each.shape[:2] for each in observations] == [(LEVELS, 1), (LEVELS, 10)]
    assert [each.shape for each in rewards] == [(LEVELS, 10), (LEVELS, 100)]
    observation, _ = env.reset(seed=3)
    for first, second in ((3, 7), (9, 0), (0, 2)):
        inner, reward, *_, info = env.step(first)
        level = info["level"]
        assert_equal(observation, observations[0][level, 0])
        assert_equal(inner, observations[1][level, first])
        assert reward == rewards[0][level, first]
        observation, reward, *_ = env.step(second)
        assert reward == rewards[1][level, 10 * first + second]
    with pytest.raises(ValueError, match="read-only"):
        rewards[0][0, 0] = 1


@pytest.mark.usefixtures("long_range")
def test_what_a_table_does_not_hold_is_computed_live():
    arguments: dict[str, Any] = {"num_levels": LEVELS, "chunks_per_episode": 2}
    live: Any = gym.make_vec("spangym/LongRange-v0", 2, **arguments)
    table: Any = gym.make_vec("spangym/LongRange-v0", 2, backend="table", **arguments)
    for envs in (live, table):
        envs.reset(seed=1)
        envs.step(np.array([3, 4]))
        envs.step(np.array([5, 6]))
    scales = torch.tensor([0.5, 0.7])
    assert_equal(live.soft_span_loss(scales).tolist(), table.soft_span_loss(scales).tolist())
    assert_equal(live.predictor_action(), table.predictor_action())
    assert torch.equal(live.core.state.hidden, table.core.state.hidden)
    assert_equal(live.step(np.array([1, 2])), table.step(np.array([1, 2])))


@pytest.mark.usefixtures("long_range")
@pytest.mark.parametrize("encoding", ["state", "features"])
def test_states_and_forks_continue_bit_exactly(encoding: str):
    arguments: dict[str, Any] = {
        "backend": "table",
        "num_levels": LEVELS,
        "chunks_per_episode": 2,
        "encoding": encoding,
    }
    envs: Any = gym.make_vec("spangym/LongRange-v0", 2, **arguments)
    envs.reset(seed=1)
    for actions in ([3, 4], [5, 6], [7, 8]):
        envs.step(np.array(actions))
    stored = from_bytes(to_bytes(envs.state_dict()))
    fork = envs.fork()
    loaded: Any = gym.make_vec("spangym/LongRange-v0", 2, **arguments)
    loaded.load_state_dict(stored)
    played = []
    for each in (envs, fork, loaded):
        generator = np.random.default_rng(0)
        results = [each.output_observations()]
        for _ in range(7):
            results += [each.step(generator.integers(10, size=2)), each.output_observations()]
        played.append(results)
    assert_equal(played[0], played[1])
    assert_equal(played[0], played[2])
    other: Any = gym.make_vec("spangym/LongRange-v0", 2, **{**arguments, "num_levels": 1})
    with pytest.raises(ValueError, match="num_levels is 2, this one's 1"):
        other.load_state_dict(stored)


@pytest.mark.usefixtures("long_range")
def test_a_table_serves_fewer_levels():
    arguments: dict[str, Any] = {"num_levels": 1, "start_level": 1, "chunks_per_episode": 2}
    live: Any = gym.make_vec("spangym/LongRange-v0", 2, **arguments)
    table: Any = gym.make_vec("spangym/LongRange-v0", 2, backend="table", **arguments)
    assert_equal(live.reset(seed=5), table.reset(seed=5))
    for action in range(4):
        assert_equal(live.step(np.full(2, action)), table.step(np.full(2, action)))


class SpanReward(Reward):
    """Reads the layer's output, and depends on its own coefficient."""

    components = ("span", "cost")

    def __call__(self, context: RewardContext) -> torch.Tensor:
        """Compute minus the span scale times the index of the layer, and minus the cost."""
        span = -context.layer_output.span_scale * (1 + context.layer)
        return torch.stack([span, self.cost(context)], dim=-1)


OWN: list[dict[str, Any]] = [
    {"num_layers": 1, "reward": "attention", "num_actions": 4},
    {"num_layers": 3, "num_actions": 3, "reward_kwargs": {"entropy_weight": 0.3}},
    {"ctx": 30, "dims": 12, "heads": 3, "num_actions": 3},
    {"layer_variant": "original", "num_actions": 3, "dataset": "noise"},
    {"layer_class": "focus", "num_actions": 3},
    {"layer_class": "hybrid", "num_actions": 3},
    {"reward": SpanReward(0.5), "num_actions": 3},
]


@pytest.mark.parametrize("options", OWN, ids=str)
def test_other_arguments_are_bit_equal_too(options: dict[str, Any]):
    small: dict[str, Any] = {"ctx": 32, "dims": 8, "heads": 2, "chunks_per_episode": 2, **options}
    tabulate("SpanControl-v0", 2, **small)
    live: Any = gym.make_vec("spangym/SpanControl-v0", 3, num_levels=2, **small)
    table: Any = gym.make_vec("spangym/SpanControl-v0", 3, num_levels=2, backend="table", **small)
    assert_equal(live.reset(seed=2), table.reset(seed=2))
    generator = np.random.default_rng(1)
    for _ in range(live.core.episode_length):
        assert_equal(live.peek(), table.peek())
        for beam in (1, 10):
            assert_equal(live.lookahead(beam), table.lookahead(beam))
        actions = generator.integers(small["num_actions"], size=3)
        assert_equal(live.step(actions), table.step(actions))


def test_tables_of_own_layers_and_datasets_are_found_by_their_content():
    def layers(seed: int) -> list[IntegratedAttention]:
        generator = torch.Generator().manual_seed(seed)
        return [IntegratedAttention(32, 8, 2, generator=generator).eval() for _ in range(2)]

    tabulate("SpanControl-v0", 2, layers=layers(0), dataset=NoiseDataset(b"ab"), num_actions=3)
    options: dict[str, Any] = {"num_levels": 2, "num_actions": 3, "chunks_per_episode": 1}
    name = "spangym/SpanControl-v0"
    own: Any = {"layers": layers(0), "dataset": NoiseDataset(b"ab"), **options}
    live, table = gym.make(name, **own), gym.make(name, backend="table", **own)
    assert_equal(live.reset(seed=0), table.reset(seed=0))
    for action in (2, 1):
        assert_equal(live.step(action), table.step(action))
    for changes in ({"layers": layers(1)}, {"dataset": NoiseDataset(b"ac")}):
        with pytest.raises(ValueError, match="there is no table of levels 0 to 1"):
            gym.make(name, backend="table", **{**own, **changes})


@pytest.mark.usefixtures("long_range")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_levels": 50}, "levels 0 to 49 .* has the levels 0 to 1;"),
        ({"ctx": 144}, "ctx"),
        ({"split": "evaluation"}, "split = 'train' instead of 'evaluation'"),
        ({"weights_seed": 0, "num_actions": 4}, "num_actions = 10 instead of 4"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_with_what_differs(
    options: dict[str, Any], message: str
):
    arguments: dict[str, Any] = {"num_levels": LEVELS, **options}
    with pytest.raises(ValueError, match=message) as error:
        gym.make("spangym/LongRange-v0", backend="table", **arguments)
    assert "spangym tabulate LongRange-v0 --num-levels" in str(error.value) or "ctx" in message


def test_layers_that_carry_something_over_are_refused():
    config = SpanConfig(causal=True)
    layers = [IntegratedAttention(32, 8, 2, config).eval()]
    with pytest.raises(ValueError, match="the prediction of its span"):
        tabulate("SpanControl-v0", 2, layers=layers)
    config = SpanConfig(use_refresh_predictors=True)
    layers = [IntegratedAttention(32, 8, 2, config).eval()]
    with pytest.raises(ValueError, match="refresh predictors"):
        tabulate("SpanControl-v0", 2, layers=layers)
