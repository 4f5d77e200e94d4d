import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor

from spangym.agents import Refiner
from spangym.agents.base import is_resumable
from spangym.agents.tabular.kmeans import KMeansDiscretizer
from spangym.agents.tabular.kmeans_agent import KMeansQAgent
from spangym.envs import EnvConfig, SB3SpanControlVecEnv
from spangym.utils.serialization import from_bytes, to_bytes

REPEATABLE = settings(derandomize=True, deadline=None)

LAYERS = [-1.0, 0.5, 1.0]


def make_rows(seed: int = 0, number: int = 300, width: int = 5) -> NDArray[np.float32]:
    """Rows about a few places, a constant column before the layer's."""
    generator = np.random.default_rng(seed)
    places = generator.normal(scale=5, size=(4, width)) * np.logspace(-3, 3, width)
    numbers = places[generator.integers(4, size=number)] + generator.normal(size=(number, width))
    layers = generator.choice(LAYERS, size=(number, 1))
    return np.hstack([numbers, np.full((number, 1), 7.1), layers]).astype(np.float32)


def fitted(rows: NDArray[Any], **options: Any) -> KMeansDiscretizer:
    clusters = KMeansDiscretizer(
        **{"n_clusters": 4, "n_fit_samples": len(rows), "seed": 0, **options}
    )
    clusters.partial_fit(rows)
    return clusters


def in_torch(state: dict[str, Tensor], rows: Tensor) -> list[int]:
    """`KMeansDiscretizer.predict` as its docstring gives it."""
    layer = torch.searchsorted(state["layers"], rows[:, -1].double())
    points = (rows[:, :-1].double() - state["means"]) / state["scales"]
    points = points.clamp(-128, 128).mul(1024).round()
    nearest = (points[:, None] - state["centers"][layer]).square().sum(-1).argmin(-1)
    return (layer * state["centers"].shape[1] + nearest).tolist()


class TestClusters:
    def test_finds_what_is_apart(self):
        generator = np.random.default_rng(0)
        labels = generator.integers(3, size=200)
        places = np.array([[0.0, 0.0], [0.0, 900.0], [0.01, 0.0]])
        rows = places[labels] + generator.normal(size=(200, 2)) * [0.0005, 9.0]
        clusters = fitted(rows, n_clusters=3, by_layer=False)
        states = clusters.predict(rows)
        assert len(set(zip(labels, states, strict=True))) == 3

    def test_nearest_center_of_its_own_layer(self):
        rows = make_rows()
        clusters = fitted(rows)
        states, state = clusters.predict(rows), clusters.state_dict()
        assert states.dtype == np.int64
        assert (states // 4 == np.searchsorted(LAYERS, rows[:, -1])).all()
        # Each center is about the mean of its own.
        numbers = (rows[:, :-1].astype(float) - state["means"].numpy()) / state["scales"].numpy()
        centers = state["centers"].numpy().reshape(12, -1) / 1024
        for each in set(states):
            np.testing.assert_allclose(centers[each], numbers[states == each].mean(0), atol=0.02)

    @REPEATABLE
    @given(seed=st.integers(0, 1000), num_envs=st.integers(1, 9), factor=st.sampled_from([1, 40]))
    def test_each_row_by_itself_and_alike_in_torch(self, seed: int, num_envs: int, factor: int):
        clusters, rows = fitted(make_rows()), make_rows(seed, num_envs)
        rows[:, :-1] *= factor
        # Half way between two centers, too.
        state, generator = clusters.state_dict(), np.random.default_rng(seed)
        one, other = state["centers"].numpy()[0, generator.choice(4, (2, num_envs))]
        half_way = (one + other) / 2 / 1024 * state["scales"].numpy() + state["means"].numpy()
        ties = np.hstack([half_way, np.full((num_envs, 1), LAYERS[0])]).astype(np.float32)
        rows = np.concatenate([rows, ties])
        states = clusters.predict(rows).tolist()
        assert states == [clusters.predict(row[None])[0] for row in rows]
        assert states == clusters.predict(np.asfortranarray(rows)).tolist()
        assert states == in_torch(state, torch.from_numpy(rows))

    def test_first_rows_are_fitted(self):
        rows = make_rows()
        one, other = KMeansDiscretizer(4, 100, seed=0), KMeansDiscretizer(4, 100, seed=0)
        for start in range(0, 300, 7):
            assert one.is_fitted == (start > 100)
            one.partial_fit(rows[start : start + 7])
        other.partial_fit(rows)
        assert one.predict(rows).tolist() == other.predict(rows).tolist()

    @pytest.mark.filterwarnings("error")
    def test_fewer_distinct_rows_than_clusters(self):
        rows = np.array([[1, 2, 0], [1, 3, 0], [1, 2, 0], [4, 4, 1]] * 20, np.float32)
        clusters = fitted(rows, n_clusters=16)
        assert len(set(clusters.predict(rows))) == 3
        assert clusters.predict(rows[3:4]) == 16

    @pytest.mark.filterwarnings("error")
    def test_empty_clusters(self, monkeypatch: pytest.MonkeyPatch):
        # It hardly ever happens by itself: here all begin at the same place.
        def from_one_place(points: NDArray[Any], number: int, iterations: int, **_: Any) -> Any:
            return kmeans2(points, points[[0] * number], iterations, minit="matrix")

        monkeypatch.setattr("spangym.agents.tabular.kmeans.kmeans2", from_one_place)
        rows = make_rows()
        clusters = fitted(rows, by_layer=False)
        assert clusters.state_dict()["centers"].isfinite().all()
        assert set(clusters.predict(rows)) <= set(range(4))

    def test_without_layers_the_last_column_is_one_of_many(self):
        rows = make_rows()[:, :-2]
        assert fitted(rows, by_layer=False).predict(rows).max() == 3
        with pytest.raises(
            ValueError, match=r"has 298 values.*include_layer_index = true.*by_layer = fals"
        ):
            fitted(rows)

    @REPEATABLE
    @given(at=st.sampled_from([0, 40, 99, 100, 170]))
    def test_stored_it_goes_on_alike(self, at: int):
        rows = make_rows()
        one, other = KMeansDiscretizer(4, 100, seed=0), KMeansDiscretizer(4, 100, seed=1)
        other.partial_fit(-rows[:70])
        if at:
            one.partial_fit(rows[:at])
        other.load_state_dict(one.state_dict())
        for clusters in (one, other):
            clusters.partial_fit(rows[at:])
        assert one.predict(rows).tolist() == other.predict(rows).tolist()

    def test_what_is_stored_has_to_fit(self):
        state = fitted(make_rows()).state_dict()
        with pytest.raises(ValueError, match="by_layer = True is stored, here it is False"):
            KMeansDiscretizer(4, by_layer=False).load_state_dict(state)
        with pytest.raises(ValueError, match="4 clusters are stored, here are 16"):
            KMeansDiscretizer().load_state_dict(state)

    def test_bad_values_name_the_rule(self):
        wrong: dict[str, Any] = {"n_clusters": 0, "n_fit_samples": 0, "by_layer": "no"}
        for name, value in wrong.items():
            with pytest.raises(ValueError, match=f"{name} must be"):
                KMeansDiscretizer(**{name: value})
        rows = make_rows()
        with pytest.raises(RuntimeError, match="not fitted yet"):
            KMeansDiscretizer().predict(rows)
        with pytest.raises(ValueError, match="no rows to fit"):
            KMeansDiscretizer().fit()
        clusters = fitted(rows)
        with pytest.raises(
            ValueError, match=r"rows must have shape \(num_envs, 7\), got \(300, 6\)"
        ):
            clusters.predict(rows[:, 1:])
        rows[1, -1] = 0.25
        with pytest.raises(
            ValueError, match=r"layer 0\.25 is none of .*\(-1, 0\.5, 1\): raise n_fit_samples"
        ):
            clusters.predict(rows)
        rows[1, -1] = np.nan
        with pytest.raises(ValueError, match="rows must be finite"):
            KMeansDiscretizer().partial_fit(rows)


def make_env(num_envs: int = 2) -> SB3SpanControlVecEnv:
    shape = EnvConfig(
        dims=8,
        heads=2,
        ctx=16,
        chunks_per_episode=2,
        win_size=16,
        encoding="box",
        num_layers=2,
        include_layer_index=True,
    )
    env = SB3SpanControlVecEnv(shape, num_envs)
    env.seed(0)
    return env


def make_agent(seed: int = 0, n_fit_samples: int = 20, **options: Any) -> KMeansQAgent:
    refiner = Refiner(tie_breaking="random", double_q=True, lambda_=0.5, seed=seed, **options)
    return KMeansQAgent(refiner, KMeansDiscretizer(3, n_fit_samples, seed=seed), seed)


def decisions(agent: KMeansQAgent) -> list[int]:
    env = make_env(4)
    observations, chosen = env.reset(), []
    for _ in range(8):
        actions = agent.predict(np.asarray(observations))
        chosen += actions.tolist()
        observations, *_ = env.step(actions)
    return chosen


class Told(Refiner):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.told: list[tuple[int, int, float, int, int]] = []

    def update(
        self, state: int, action: int, reward: float, next_state: int, env_index: int = 0
    ) -> None:
        self.told.append((state, action, reward, next_state, env_index))
        super().update(state, action, reward, next_state, env_index)


class TestClusterAgent:
    def test_learns_all_that_was_played_in_order(self):
        played: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]] = []

        class Watched(SB3SpanControlVecEnv):
            def reset(self) -> NDArray[Any]:
                self.last = super().reset()
                return self.last

            def step_async(self, actions: NDArray[Any]) -> None:
                self.chosen = actions
                super().step_async(actions)

            def step_wait(self) -> Any:
                step = super().step_wait()
                observations, rewards, dones, infos = step
                ends = [info.get("terminal_observation") for info in infos]
                following = [
                    end if done else observation
                    for end, done, observation in zip(ends, dones, observations, strict=True)
                ]
                played.append((self.last, self.chosen, rewards, np.array(following)))
                self.last = np.asarray(observations)
                return step

        env = Watched(make_env().config, 2)
        env.seed(0)
        refiner = Told()
        agent = KMeansQAgent(refiner, KMeansDiscretizer(3, 20, seed=0), 0)
        agent.learn(env, 60)
        expected = []
        for observations, actions, rewards, following in played:
            states = [
                agent.discretizer.predict(each).tolist() for each in (observations, following)
            ]
            steps = (states[0], actions.tolist(), rewards.tolist(), states[1], range(2))
            expected += zip(*steps, strict=True)
        assert refiner.told == expected
        assert len({action for _, action, *_ in expected[:20]}) > 4

    def test_takes_exactly_its_steps_in_every_training(self):
        agent, env = make_agent(), make_env()
        for steps in (0, 31, 64):
            taken: list[bool] = []
            agent.learn(env, steps, taken.append)
            assert taken == [False] * (steps // 2 - 1) + [True] * (steps > 0)

    @pytest.mark.parametrize("at", [0, 4, 10, 11, 25])
    def test_an_interrupted_training_goes_on_to_the_bit(self, at: int):
        whole, kept = make_agent(), []
        env = make_env()

        def checkpoint_callback(last: bool) -> None:
            del last
            kept.append(to_bytes([whole.state_dict(), env.state_dict()]))

        whole.learn(env, 60, checkpoint_callback)
        agent_state, env_state = from_bytes(kept[at])
        again, env = make_agent(seed=9), make_env()
        again.load_state_dict(agent_state)
        env.load_state_dict(env_state)
        again.learn(env, 60)
        one, other = whole.state_dict(), again.state_dict()
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name], other[name]), name

    def test_saved_and_loaded_it_decides_alike_and_learns_on(self, tmp_path: Path):
        agent, env = make_agent(), make_env()
        agent.learn(env, 60)
        agent.save(tmp_path / "agent")
        assert [each.name for each in tmp_path.iterdir()] == ["agent.safetensors"]
        fresh = make_agent(seed=9)
        fresh.load(tmp_path / "agent")
        assert decisions(fresh) == decisions(agent)
        for each in (agent, fresh):
            each.learn(make_env(), 20)
        assert decisions(fresh) == decisions(agent)

    def test_a_short_training_fits_what_there_is(self):
        agent = make_agent(n_fit_samples=1000)
        agent.learn(make_env(), 30)
        assert agent.discretizer.is_fitted
        assert len(agent.refiner.state_dict()["states"]) > 1
        assert set(decisions(agent)) <= set(range(10))

    def test_what_does_not_fit_changes_nothing(self):
        agent = make_agent()
        agent.learn(make_env(), 60)
        other = make_agent(seed=3, count_based_lr=True)
        other.learn(make_env(), 30)
        before = other.state_dict()
        with tempfile.TemporaryDirectory() as folder:
            agent.save(Path(folder, "agent"))
            with pytest.raises(
                ValueError, match=r"agent\.safetensors is not of such.*'other_visits' is m"
            ):
                other.load(Path(folder, "agent"))
        for name, tensor in other.state_dict().items():
            assert torch.equal(tensor, before[name])

    def test_other_envs_than_were_stored(self):
        agent = make_agent()
        agent.learn(make_env(), 60)
        agent.load_state_dict(agent.state_dict())
        with pytest.raises(ValueError, match="2 environments are stored, here are 3"):
            agent.learn(make_env(3), 90)

    def test_an_untrained_agent_says_so(self):
        assert is_resumable(make_agent())
        with pytest.raises(RuntimeError, match=r"call learn\(\) or load\(\) first"):
            make_agent().predict(np.zeros((1, 17), np.float32))
