"""What is foreseen is what then happens."""

import itertools
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from spangym.envs import Decided, Reward, SpanControlEnv, SpanControlVectorEnv
from spangym.envs.lookahead import choices

TINY: dict[str, Any] = {"dims": 8, "heads": 2, "ctx": 16, "chunks": 2, "price": 0.7}
VARIANTS = pytest.mark.parametrize(
    "variant",
    [{}, {"refresh": True}, {"reward": "attention"}, {"observe": "previous", "lags": True}],
    ids=lambda each: "-".join(each) or "plain",
)


def after(env: SpanControlEnv, actions: Any) -> float:
    """What the actions earn, tried on a fork."""
    fork = env.fork()
    return sum(fork.step(action)[1] for action in actions)


@VARIANTS
def test_peek_is_what_each_action_earns(variant: dict[str, Any]):
    env = SpanControlEnv(**TINY, **variant)
    env.reset(seed=1)
    env.step(env.action_space.sample())
    seen = env.peek()
    assert seen.dtype == np.float32
    assert seen.tolist() == [after(env, [action]) for action in choices(env.simulator)]


@pytest.mark.parametrize("layers", [1, 2])
def test_lookahead_is_the_best_of_all_ways(layers: int):
    env = SpanControlEnv(**TINY, layers=layers)
    env.reset(seed=1)
    for _ in range(layers):
        env.step(5)
    best = [
        max(after(env, [first, *rest]) for rest in itertools.product(range(10), repeat=layers - 1))
        for first in range(10)
    ]
    np.testing.assert_allclose(env.lookahead(), best, atol=1e-6)


def test_in_mid_chunk_only_what_is_left_is_looked_at():
    env = SpanControlEnv(**TINY)
    env.reset(seed=1)
    env.step(3)
    np.testing.assert_array_equal(env.lookahead(), env.peek())


class PaidLast(Reward):
    """Spans cost at once; what they are good for shows in the last layer's output."""

    parts = ("size",)

    def __call__(self, decided: Decided) -> Tensor:
        last = decided.layer + 1 == decided.layers
        size = decided.outcome.output.square().sum((1, 2))
        return (size if last else -1e-3 * decided.outcome.scale)[:, None]


def test_a_wide_beam_is_exact_and_a_narrow_one_a_bound_from_below():
    env = SpanControlEnv(**TINY, layers=3, reward=PaidLast())
    env.reset(seed=1)
    exact = [
        max(after(env, [first, *rest]) for rest in itertools.product(range(10), repeat=2))
        for first in range(10)
    ]
    np.testing.assert_allclose(env.lookahead(beam=10), exact, atol=1e-6)
    narrow = env.lookahead(beam=1)
    assert (narrow <= np.array(exact) + 1e-6).all()
    assert (narrow < np.array(exact) - 1e-6).any()
    with pytest.raises(ValueError, match="beam must be at least 1, got 0"):
        env.lookahead(beam=0)


def test_following_it_earns_what_it_promised():
    env = SpanControlEnv(**TINY)
    env.reset(seed=2)
    for _ in range(2):
        promised = env.lookahead().max()
        earned = 0.0
        for _ in range(2):
            earned += env.step(int(env.lookahead().argmax()))[1]
        assert earned == pytest.approx(promised, abs=1e-6)


def test_of_many_lanes_each_is_as_alone():
    envs = SpanControlVectorEnv(6, **TINY)
    envs.reset(seed=4)
    envs.step(np.arange(6))
    ahead, at_once = envs.lookahead(), envs.peek()
    assert ahead.shape == at_once.shape == (6, 10)
    for lane in range(6):
        alone = SpanControlEnv(**TINY)
        alone.reset(seed=4 + lane)
        alone.step(lane)
        np.testing.assert_array_equal(ahead[lane], alone.lookahead())
        np.testing.assert_array_equal(at_once[lane], alone.peek())


def test_looking_changes_nothing():
    env, other = SpanControlEnv(**TINY), SpanControlEnv(**TINY)
    env.reset(seed=3)
    other.reset(seed=3)
    env.peek()
    env.lookahead()
    for action in (1, 9, 4):
        one, two = env.step(action), other.step(action)
        np.testing.assert_array_equal(one[0], two[0])
        assert one[1:] == two[1:]
