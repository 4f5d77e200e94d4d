from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor

from spangym.agents.tabular.kmeans import KMeansDiscretizer

REPEATABLE = settings(derandomize=True, deadline=None)

LAYERS = [-1.0, 0.5, 1.0]


def make_rows(seed: int = 0, number: int = 300, width: int = 5) -> NDArray[np.float32]:
    """Observations around four places, with a constant column before the layer index."""
    generator = np.random.default_rng(seed)
    places = generator.normal(scale=5, size=(4, width)) * np.logspace(-3, 3, width)
    features = places[generator.integers(4, size=number)] + generator.normal(size=(number, width))
    layers = generator.choice(LAYERS, size=(number, 1))
    return np.hstack([features, np.full((number, 1), 7.1), layers]).astype(np.float32)


def fitted(rows: NDArray[Any], **options: Any) -> KMeansDiscretizer:
    discretizer = KMeansDiscretizer(
        **{"n_clusters": 4, "n_fit_samples": len(rows), "seed": 0, **options}
    )
    discretizer.partial_fit(rows)
    return discretizer


def predict_in_torch(state: dict[str, Tensor], rows: Tensor) -> list[int]:
    """The formula in the docstring of `KMeansDiscretizer.predict`."""
    layer = torch.searchsorted(state["layers"], rows[:, -1].double())
    points = (rows[:, :-1].double() - state["means"]) / state["scales"]
    points = points.clamp(-128, 128).mul(1024).round()
    nearest = (points[:, None] - state["centers"][layer]).square().sum(-1).argmin(-1)
    return (layer * state["centers"].shape[1] + nearest).tolist()


def test_separates_clusters_of_any_scale():
    generator = np.random.default_rng(0)
    labels = generator.integers(3, size=200)
    places = np.array([[0.0, 0.0], [0.0, 900.0], [0.01, 0.0]])
    rows = places[labels] + generator.normal(size=(200, 2)) * [0.0005, 9.0]
    states = fitted(rows, n_clusters=3, by_layer=False).predict(rows)
    assert len(set(zip(labels, states, strict=True))) == 3


def test_centers_are_means_within_their_layer():
    rows = make_rows()
    discretizer = fitted(rows)
    states, state = discretizer.predict(rows), discretizer.state_dict()
    assert states.dtype == np.int64
    assert (states // 4 == np.searchsorted(LAYERS, rows[:, -1])).all()
    features = (rows[:, :-1].astype(float) - state["means"].numpy()) / state["scales"].numpy()
    centers = state["centers"].numpy().reshape(12, -1) / 1024
    for each in set(states):
        np.testing.assert_allclose(centers[each], features[states == each].mean(0), atol=0.02)


@REPEATABLE
@given(seed=st.integers(0, 1000), num_envs=st.integers(1, 9), factor=st.sampled_from([1, 40]))
def test_batch_and_library_do_not_matter(seed: int, num_envs: int, factor: int):
    discretizer, rows = fitted(make_rows()), make_rows(seed, num_envs)
    rows[:, :-1] *= factor
    # Half way between two centers, too.
    state, generator = discretizer.state_dict(), np.random.default_rng(seed)
    one, other = state["centers"].numpy()[0, generator.choice(4, (2, num_envs))]
    half_way = (one + other) / 2 / 1024 * state["scales"].numpy() + state["means"].numpy()
    ties = np.hstack([half_way, np.full((num_envs, 1), LAYERS[0])]).astype(np.float32)
    rows = np.concatenate([rows, ties])
    states = discretizer.predict(rows).tolist()
    assert states == [discretizer.predict(row[None])[0] for row in rows]
    assert states == discretizer.predict(np.asfortranarray(rows)).tolist()
    assert states == predict_in_torch(state, torch.from_numpy(rows))


def test_only_the_first_rows_are_fitted():
    rows = make_rows()
    one, other = KMeansDiscretizer(4, 100, seed=0), KMeansDiscretizer(4, 100, seed=0)
    for start in range(0, 300, 7):
        assert one.is_fitted == (start > 100)
        one.partial_fit(rows[start : start + 7])
    other.partial_fit(rows)
    assert one.predict(rows).tolist() == other.predict(rows).tolist()


@pytest.mark.filterwarnings("error")
def test_fewer_distinct_rows_than_clusters():
    rows = np.array([[1, 2, 0], [1, 3, 0], [1, 2, 0], [4, 4, 1]] * 20, np.float32)
    discretizer = fitted(rows, n_clusters=16)
    assert len(set(discretizer.predict(rows))) == 3
    assert discretizer.predict(rows[3:4]) == 16


@pytest.mark.filterwarnings("error")
def test_clusters_may_become_empty(monkeypatch: pytest.MonkeyPatch):
    # This is rare, unless all centers start at the same place.
    def from_one_place(points: NDArray[Any], number: int, iterations: int, **_: Any) -> Any:
        return kmeans2(points, points[[0] * number], iterations, minit="matrix")

    monkeypatch.setattr("spangym.agents.tabular.kmeans.kmeans2", from_one_place)
    rows = make_rows()
    discretizer = fitted(rows, by_layer=False)
    assert discretizer.state_dict()["centers"].isfinite().all()
    assert set(discretizer.predict(rows)) <= set(range(4))


def test_rows_without_a_layer_index():
    rows = make_rows()[:, :-2]
    assert fitted(rows, by_layer=False).predict(rows).max() == 3
    with pytest.raises(ValueError, match=r"298 values.*include_layer_index.*by_layer"):
        fitted(rows)


@REPEATABLE
@given(at=st.sampled_from([0, 40, 99, 100, 170]))
def test_state_dict_continues_identically(at: int):
    rows = make_rows()
    one, other = KMeansDiscretizer(4, 100, seed=0), KMeansDiscretizer(4, 100, seed=1)
    other.partial_fit(-rows[:70])
    if at:
        one.partial_fit(rows[:at])
    other.load_state_dict(one.state_dict())
    for discretizer in (one, other):
        discretizer.partial_fit(rows[at:])
    assert one.predict(rows).tolist() == other.predict(rows).tolist()


def test_state_of_a_discretizer_with_other_options():
    state = fitted(make_rows()).state_dict()
    with pytest.raises(ValueError, match=r"by_layer = True .*False"):
        KMeansDiscretizer(4, by_layer=False).load_state_dict(state)
    with pytest.raises(ValueError, match=r"4 clusters .*16"):
        KMeansDiscretizer().load_state_dict(state)


@pytest.mark.parametrize("options", [{"n_clusters": 0}, {"n_fit_samples": 0}, {"by_layer": "no"}])
def test_invalid_options(options: dict[str, Any]):
    with pytest.raises((TypeError, ValueError), match=next(iter(options))):
        KMeansDiscretizer(**options)


def test_invalid_rows():
    rows = make_rows()
    with pytest.raises(RuntimeError, match="not fitted"):
        KMeansDiscretizer().predict(rows)
    with pytest.raises(ValueError, match="no rows"):
        KMeansDiscretizer().fit()
    discretizer = fitted(rows)
    with pytest.raises(ValueError, match=r"\(num_envs, 7\).*\(300, 6\)"):
        discretizer.predict(rows[:, 1:])
    rows[1, -1] = 0.25
    with pytest.raises(ValueError, match=r"layer 0\.25 .*\(-1, 0\.5, 1\).*n_fit_samples"):
        discretizer.predict(rows)
    rows[1, -1] = np.nan
    with pytest.raises(ValueError, match="finite"):
        KMeansDiscretizer().partial_fit(rows)
