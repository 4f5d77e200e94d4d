"""KMeansDiscretizer: clusters of observations as states of a Q-table."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor

from spangym.attention.controllers.lookup import CLIP_STD, GRID_STEPS
from spangym.utils.readable_repr import readable_repr
from spangym.utils.rng import Seed, make_generator, rng_from_tensor, rng_to_tensor
from spangym.utils.scalars import as_bool, as_int

_MAX_LAYERS = 64
_ITERATIONS = 30


class KMeansDiscretizer:
    """Maps an observation to the nearest center of a k-means clustering, fitted once.

    Columns are standardized (a constant column keeps its scale), clipped to 128 standard deviations
    and rounded to a grid of 1/1024. On this grid float64 holds squared distances exactly, so the
    nearest center does not depend on the batch or the library.

    Args:
        n_clusters: Number of centers (per layer), at least 1. With fewer distinct observations the
            remaining centers are unused.
        n_fit_samples: Number of observations to fit, at least 1.
        by_layer: Whether the last column is the layer index and each layer has its own centers.
        seed: Seed of k-means, or a generator; system entropy if None.

    Raises:
        TypeError: An argument has another type.
        ValueError: An argument is out of range.

    Example:
        >>> discretizer = KMeansDiscretizer(n_clusters=2, n_fit_samples=4, by_layer=False, seed=0)
        >>> discretizer.partial_fit([[0.0, 5.0], [1.0, 5.0], [10.0, 5.0], [11.0, 5.0]])
        >>> len(set(discretizer.predict([[0.4, 5.0], [1.2, 9.0], [90.0, 5.0]])))
        2
    """

    __repr__ = readable_repr

    def __init__(
        self,
        n_clusters: int = 16,
        n_fit_samples: int = 1000,
        by_layer: bool = True,
        seed: Seed = None,
    ) -> None:
        self.n_clusters = as_int("n_clusters", n_clusters, 1)
        self.n_fit_samples = as_int("n_fit_samples", n_fit_samples, 1)
        self.by_layer = as_bool("by_layer", by_layer)
        self._generator = make_generator(seed)
        self._rows: NDArray[np.float32] | None = None
        self._clusters: _Clusters | None = None

    @property
    def is_fitted(self) -> bool:
        """Whether there are centers."""
        return self._clusters is not None

    def partial_fit(self, rows: ArrayLike) -> None:
        """Collect observations (num_envs, features) until ``n_fit_samples``, then fit.

        Raises:
            ValueError: Observations are invalid, or the last column is no layer index.
        """
        if self.is_fitted:
            return
        rows = _checked(rows, None if self._rows is None else self._rows.shape[1])
        rows = rows if self._rows is None else np.concatenate([self._rows, rows])
        self._rows = rows[: self.n_fit_samples]
        if len(rows) >= self.n_fit_samples:
            self.fit()

    def fit(self) -> None:
        """Fit the observations collected so far."""
        if self._rows is None:
            raise ValueError("there are no rows to fit: add some first")
        features, layer_values = self._split_layer_column(self._rows)
        layers = np.unique(layer_values)
        if len(layers) > _MAX_LAYERS:
            raise ValueError(
                f"the last column has {len(layers)} values, a layer index at most {_MAX_LAYERS}: "
                "set include_layer_index = true, so that observations end with it, or "
                "by_layer = false"
            )
        means, scales = features.mean(0), features.std(0)
        scales[features.min(0) == features.max(0)] = 1.0
        points = _to_grid(features, means, scales)
        centers = [self._find_centers(points[layer_values == each]) for each in layers]
        self._clusters, self._rows = _Clusters(layers, means, scales, np.stack(centers)), None

    def _find_centers(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        centers = np.unique(points, axis=0)
        if len(centers) > self.n_clusters:
            with warnings.catch_warnings():
                # An empty cluster keeps its center.
                warnings.filterwarnings("ignore", "One of the clusters is empty")
                centers, _ = kmeans2(
                    points, self.n_clusters, _ITERATIONS, minit="++", rng=self._generator
                )
        # The first of equal centers is the nearest, so copies of the last one are unused.
        missing = self.n_clusters - len(centers)
        return np.concatenate([centers, centers[-1:].repeat(missing, 0)]).round()

    def predict(self, rows: ArrayLike) -> NDArray[np.int64]:
        """Return the state of each observation: layer number * ``n_clusters`` + nearest center.

        Ties go to the lowest center. With the tensors of `state_dict`::

            points = ((rows.double() - means) / scales).clamp(-128, 128).mul(1024).round()
            nearest = (points[:, None] - centers[layer]).square().sum(-1).argmin(-1)

        where ``rows`` are float32 (without the last column if ``by_layer``) and ``layer`` is the
        position of its value in ``layers``.

        Args:
            rows: Observations, shape (num_envs, features).

        Raises:
            RuntimeError: The clusters are not fitted.
            ValueError: Observations are invalid, or of a layer that was not fitted.
        """
        clusters = self._clusters
        if clusters is None:
            raise RuntimeError("the clusters are not fitted yet: add rows first")
        rows = _checked(rows, len(clusters.means) + self.by_layer)
        features, layer_values = self._split_layer_column(rows)
        layers = np.searchsorted(clusters.layers, layer_values).clip(max=len(clusters.layers) - 1)
        if (unknown := clusters.layers[layers] != layer_values).any():
            fitted = ", ".join(f"{each:g}" for each in clusters.layers)
            raise ValueError(
                f"layer {layer_values[unknown][0]:g} is none of those fitted ({fitted}): raise "
                "n_fit_samples, or set by_layer = false if observations do not end with the layer"
            )
        points = _to_grid(features, clusters.means, clusters.scales)
        distances = np.square(points[:, None] - clusters.centers[layers]).sum(-1)
        return layers * self.n_clusters + distances.argmin(-1)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the clusters, or the observations collected so far.

        Returns:
            ``by_layer``, boolean. If fitted, float64: ``layers`` (layers,), ascending; ``means``
            and ``scales`` (features,); ``centers`` in grid steps (layers, n_clusters, features).
            Before that, the ``generator`` state, and ``rows``, float32, if there are any.
        """
        tensors = {"by_layer": torch.tensor(self.by_layer)}
        if self._clusters is not None:
            arrays = self._clusters._asdict()
            return tensors | {name: torch.from_numpy(each.copy()) for name, each in arrays.items()}
        if self._rows is not None:
            tensors["rows"] = torch.from_numpy(self._rows.copy())
        return tensors | {"generator": rng_to_tensor(self._generator)}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Restore the state that `state_dict` returned.

        Raises:
            KeyError: The state is incomplete.
            ValueError: The state has another ``n_clusters`` or ``by_layer``.
        """
        if (stored := bool(state_dict["by_layer"])) != self.by_layer:
            raise ValueError(f"by_layer = {stored} is stored, here it is {self.by_layer}")
        arrays = {name: tensor.numpy().copy() for name, tensor in state_dict.items()}
        if "centers" not in arrays:
            rng_from_tensor(self._generator, state_dict["generator"])
            self._clusters, self._rows = None, arrays.get("rows")
            return
        if (stored := arrays["centers"].shape[1]) != self.n_clusters:
            raise ValueError(f"{stored} clusters are stored, here are {self.n_clusters}")
        self._clusters = _Clusters(*(arrays[name] for name in _Clusters._fields))
        self._rows = None

    def _split_layer_column(
        self, rows: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        values = rows.astype(np.float64)
        return (values[:, :-1], values[:, -1]) if self.by_layer else (values, np.zeros(len(rows)))


class _Clusters(NamedTuple):
    layers: NDArray[np.float64]
    means: NDArray[np.float64]
    scales: NDArray[np.float64]
    centers: NDArray[np.float64]


def _checked(rows: ArrayLike, width: int | None) -> NDArray[np.float32]:
    checked = np.asarray(rows, np.float32)
    if checked.ndim != 2 or checked.shape[1] != (width or checked.shape[1]):
        expected = f"(num_envs, {width or 'features'})"
        raise ValueError(f"rows must have shape {expected}, got {checked.shape}")
    if not np.isfinite(checked).all():
        raise ValueError("rows must be finite numbers")
    return checked


def _to_grid(
    features: NDArray[np.float64], means: NDArray[np.float64], scales: NDArray[np.float64]
) -> NDArray[np.float64]:
    standardized = (features - means) / scales
    return (standardized.clip(-CLIP_STD, CLIP_STD) * GRID_STEPS).round()
