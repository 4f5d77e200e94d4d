"""Cost coefficients that episodes draw and observe."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from spangym.attention import ObservationSpec
from spangym.attention.observation_spec import scale_cost_coef
from spangym.envs import (
    EnvConfig,
    Reward,
    RewardContext,
    SB3SpanControlVecEnv,
    SpanControlEnv,
    SpanControlVectorEnv,
    make_config,
    tabulate,
)
from spangym.utils.serialization import from_bytes, to_bytes
from tests.envs.tables.test_table_core import assert_equal

NAME = "spangym/Pareto-v0"
TINY: dict[str, Any] = {
    "ctx": 16,
    "dims": 16,
    "heads": 2,
    "num_actions": 4,
    "chunks_per_episode": 2,
    "cost_coef": (0.1, 10.0),
    "include_cost_coef": True,
}


class SpanReward(Reward):
    """Reads the layer's output."""

    components = ("span", "cost")

    def __call__(self, context: RewardContext) -> torch.Tensor:
        """Compute minus the span scale, and minus the cost."""
        return torch.stack([-context.layer_output.span_scale, self.cost(context)], dim=-1)


def first_infos(num_envs: int, **changes: Any) -> list[float]:
    envs = SpanControlVectorEnv(num_envs, **{**TINY, **changes})
    return envs.reset(seed=0)[1]["cost_coef"].tolist()


def test_coefficients_are_uniform_on_a_log_scale():
    drawn = np.log10(first_infos(400, chunks_per_episode=1))
    assert drawn.min() >= -1
    assert drawn.max() <= 1
    counts = np.histogram(drawn, bins=4, range=(-1, 1))[0]
    assert counts.min() >= 75
    assert first_infos(2, cost_coef=(0.3, 0.3)) == [np.float32(0.3)] * 2


@pytest.mark.parametrize("encoding", ["digits", "box", "features", "state"])
def test_every_interface_draws_them_from_the_generator_of_the_episode(encoding: str):
    arguments = {**TINY, "encoding": encoding, "include_layer_index": True}
    vector = SpanControlVectorEnv(3, **arguments)
    stable = SB3SpanControlVecEnv(EnvConfig(**arguments), 3)
    scalars = [SpanControlEnv(**arguments) for _ in range(3)]
    stable.seed(4)
    for episode in range(2):
        seeds = [None if episode else 4 + index for index in range(3)]
        firsts = [env.reset(seed=seed) for env, seed in zip(scalars, seeds, strict=True)]
        observations, infos = vector.reset(seed=seeds)
        np.testing.assert_array_equal(observations, stable.reset())
        np.testing.assert_array_equal(observations, np.stack([first[0] for first in firsts]))
        assert len({*infos["cost_coef"]}) == 3
        for index, (_, info) in enumerate(firsts):
            assert info["cost_coef"] == infos["cost_coef"][index]
            assert info["cost_coef"] == stable.reset_infos[index]["cost_coef"]
        for _ in range(3):
            actions = vector.action_space.sample()
            np.testing.assert_array_equal(vector.lookahead()[0], scalars[0].lookahead())
            _, rewards, *_, infos = vector.step(actions)
            for index, env in enumerate(scalars):
                _, reward, *_, info = env.step(actions[index])
                assert reward == rewards[index]
                assert info["cost_coef"] == infos["cost_coef"][index]
                assert info["cost_coef"] == firsts[index][1]["cost_coef"]


def test_reward_and_observation_are_those_of_the_same_fixed_coefficient():
    env: Any = SpanControlEnv(**TINY, encoding="features")
    observation, info = env.reset(seed=1)
    fixed: Any = SpanControlEnv(**{**TINY, "encoding": "features", "cost_coef": info["cost_coef"]})
    blind: Any = SpanControlEnv(**{**TINY, "encoding": "features", "include_cost_coef": False})
    same, _ = fixed.reset(seed=1)
    unseen, _ = blind.reset(seed=1)
    np.testing.assert_array_equal(observation, same)
    np.testing.assert_array_equal(observation[:-1], unseen)
    cost_coef = info["cost_coef"]
    assert observation[-1] == np.float32((cost_coef - 1) / (cost_coef + 1))
    for action in (3, 1, 2, 3):
        np.testing.assert_array_equal(env.peek(), fixed.peek())
        one, two, three = env.step(action), fixed.step(action), blind.step(action)
        assert_equal(one, two)
        assert one[1] == three[1]
        assert three[4]["cost_coef"] == cost_coef
        np.testing.assert_array_equal(env.output_observations(), fixed.output_observations())


def test_where_the_coefficient_stands_in_an_observation():
    costs = torch.tensor([0.25, 4.0])
    features = torch.zeros(2, 8)
    for encoding, expected in (("features", [-0.6, 0.6]), ("box", [-0.6, 0.6]), ("digits", [2, 8])):
        spec = ObservationSpec(
            4, num_layers=2, encoding=encoding, include_layer_index=True, include_cost_coef=True
        )
        numbers = spec.encode(features, 1, costs)
        assert numbers[:, -2].tolist() == pytest.approx(expected)
        assert numbers[:, -1].tolist() == [1.0, 1.0]
        assert len(spec.nvec) == numbers.shape[1] == len(spec.bounds[0])
    spec = ObservationSpec(4, encoding="state", include_cost_coef=True)
    ids = spec.state_ids(spec.encode(features, 0, costs)).tolist()
    assert ids == [hash((5,) * 8 + (each,)) % 9999 for each in (2, 8)]
    assert scale_cost_coef(torch.tensor([0.0, 1e6])).tolist() == pytest.approx([-1, 1], abs=1e-5)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPANGYM_CACHE", str(tmp_path_factory.mktemp("cache")))
        small = {name: value for name, value in TINY.items() if "cost_coef" not in name}
        yield tabulate("SpanControl-v0", 2, **small)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("encoding", ["features", "state"])
@pytest.mark.parametrize("is_blind", [False, True])
def test_one_table_serves_all_coefficients(encoding: str, is_blind: bool):
    arguments = {**TINY, "num_levels": 2, "encoding": encoding, "include_cost_coef": not is_blind}
    live: Any = SpanControlVectorEnv(3, **arguments)
    stored: Any = SpanControlVectorEnv(3, **arguments, backend="table")
    assert_equal(live.reset(seed=2), stored.reset(seed=2))
    generator = np.random.default_rng(0)
    for _ in range(7):
        assert_equal(live.peek(), stored.peek())
        assert_equal(live.lookahead(), stored.lookahead())
        actions = generator.integers(4, size=3)
        assert_equal(live.step(actions), stored.step(actions))
        assert_equal(live.output_observations(), stored.output_observations())
    # What no table holds is computed live at the same coefficients.
    assert torch.equal(live.core.state.cost_coef, stored.core.state.cost_coef)
    with pytest.raises(ValueError, match="set cost_coef to a number"):
        _ = stored.core.rewards


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("backend", ["live", "table"])
def test_states_and_forks_keep_the_coefficient(backend: str):
    arguments = {**TINY, "num_levels": 2, "backend": backend, "encoding": "features"}
    envs: Any = SpanControlVectorEnv(2, **arguments)
    envs.reset(seed=3)
    # Into the second episode: the outputs are still those of the first.
    for _ in range(4):
        envs.step(np.array([1, 3]))
    loaded: Any = SpanControlVectorEnv(2, **arguments)
    loaded.load_state_dict(from_bytes(to_bytes(envs.state_dict())))
    fork = envs.fork()
    played = []
    for each in (envs, loaded, fork):
        steps = [each.output_observations(), each.lookahead()]
        for _ in range(5):
            steps += [each.step(np.array([2, 0])), each.output_observations()]
        played.append(steps)
    assert_equal(played[0], played[1])
    assert_equal(played[0], played[2])
    fixed = {**arguments, "cost_coef": 0.5, "include_cost_coef": False}
    other: Any = SpanControlVectorEnv(2, **fixed)
    with pytest.raises(ValueError, match="has_cost_coef is True"):
        other.load_state_dict(envs.state_dict())


def test_rendering_shows_the_coefficient():
    env = SpanControlEnv(**TINY, render_mode="ansi")
    _, info = env.reset(seed=0)
    assert f"cost coefficient {info['cost_coef']:.3g}\n" in env.render()
    assert "cost" not in SpanControlEnv(**{**TINY, "cost_coef": 1.0}, render_mode="ansi").render()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"cost_coef": (1.0, 0.5)}, ValueError, r"0 < lowest <= highest, got \(1.0, 0.5\)"),
        ({"cost_coef": [0.0, 0.5]}, ValueError, r"0 < lowest <= highest"),
        ({"cost_coef": [0.1, 0.5, 1]}, ValueError, "got 3 numbers"),
        ({"cost_coef": (0.1, 1e7)}, ValueError, r"cost_coef must be in \[0, "),
        ({"cost_coef": "low"}, TypeError, "cost_coef must be a number"),
        (
            {"backend": "table", "num_levels": 1, "reward": f"{__name__}:SpanReward"},
            ValueError,
            "needs one cost_coef that is not observed",
        ),
    ],
)
def test_wrong_coefficients_are_refused(
    changes: dict[str, Any], error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        EnvConfig.from_arguments({**TINY, **changes})


def test_the_id_and_its_arguments():
    config = make_config(NAME, {})
    assert config.cost_coef == (0.02, 2.0)
    assert config.include_cost_coef
    assert config.mean_cost_coef == pytest.approx(1.98 / np.log(100))
    env = SB3SpanControlVecEnv(config)
    assert env.spec.id == NAME
    assert env.spec.kwargs["cost_coef"] == (0.02, 2.0)
    assert SB3SpanControlVecEnv(make_config("SpanBudget-v0", {})).spec.id == "spangym/SpanBudget-v0"
    # The content is that of SpanBudget-v0 from the same seed.
    one, two = (
        gym.make(f"spangym/{name}", encoding="features") for name in ("Pareto-v0", "SpanBudget-v0")
    )
    np.testing.assert_array_equal(one.reset(seed=5)[0][:-1], two.reset(seed=5)[0])
