"""Clusters of observations, as the states of a table."""

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
from spangym.utils.rng import rng_from_tensor, rng_to_tensor

_MAX_LAYERS = 64
_ITERATIONS = 30


class KMeansDiscretizer:
    """States from observations: the nearest of some centers, which k-means finds once.

    The first rows are collected, and then fitted: columns are standardized by their means and
    deviations (a constant column keeps its scale) and put on a grid of 1/1024 deviations, at most
    128 from the mean. On it, distances are sums of whole numbers that float64 holds exactly, so
    that the nearest center is the same for a row by itself or among others, and in any library.

    Args:
        n_clusters: Number of centers (of each layer), at least 1. Where there are fewer distinct
            rows than that, some are never the nearest.
        n_fit_samples: Number of rows to fit, at least 1.
        by_layer: Whether the last column is the index of the layer, and the rows of each of its
            values have centers of their own.
        seed: Seed of k-means, or a generator for it; entropy of the system if None.

    Raises:
        ValueError: An argument breaks its rule.

    Example:
        >>> discretizer = KMeansDiscretizer(n_clusters=2, n_fit_samples=4, by_layer=False, seed=0)
        >>> discretizer.partial_fit([[0.0, 5.0], [1.0, 5.0], [10.0, 5.0], [11.0, 5.0]])
        >>> discretizer.is_fitted, len(set(discretizer.predict([[0.4, 5.0], [1.2, 9.0], [90.0, 5.0]])))
        (True, 2)
    """

    def __init__(
        self,
        n_clusters: int = 16,
        n_fit_samples: int = 1000,
        by_layer: bool = True,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        for name, number in (("n_clusters", n_clusters), ("n_fit_samples", n_fit_samples)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if by_layer not in (True, False):
            raise ValueError(f"by_layer must be true or false, got {by_layer!r}")
        self.n_clusters = n_clusters
        self.n_fit_samples = n_fit_samples
        self.by_layer = by_layer
        self._generator = np.random.default_rng(seed)
        self._rows: NDArray[np.float32] | None = None
        self._fitted: _Fitted | None = None

    @property
    def is_fitted(self) -> bool:
        """Whether the centers are found, so that there are states."""
        return self._fitted is not None

    def partial_fit(self, rows: ArrayLike) -> None:
        """Collect rows, and fit as soon as there are enough; later ones are not looked at.

        Args:
            rows: Shape (num_envs, numbers); taken as float32.

        Raises:
            ValueError: They are not finite or not as wide as those before; the last column holds
                too many values to be layers.
        """
        if self.is_fitted:
            return
        rows = _checked(rows, None if self._rows is None else self._rows.shape[1])
        rows = rows if self._rows is None else np.concatenate([self._rows, rows])
        self._rows = rows[: self.n_fit_samples]
        if len(rows) >= self.n_fit_samples:
            self.fit()

    def fit(self) -> None:
        """Fit what was collected, without waiting for more.

        Raises:
            ValueError: Nothing was; the last column holds too many values to be layers.
        """
        if self._rows is None:
            raise ValueError("there are no rows to fit: add some first")
        numbers, values = self._split_layer_column(self._rows)
        layers = np.unique(values)
        if len(layers) > _MAX_LAYERS:
            raise ValueError(
                f"the last column of {len(values)} rows has {len(layers)} values, more than the "
                f"{_MAX_LAYERS} that an index of layers may have: set include_layer_index = true, so that "
                "observations end with it, or by_layer = false"
            )
        means, scales = numbers.mean(0), numbers.std(0)
        scales[numbers.min(0) == numbers.max(0)] = 1.0
        points = _on_grid(numbers, means, scales)
        centers = [self._find_centers(points[values == each]) for each in layers]
        self._fitted, self._rows = _Fitted(layers, means, scales, np.stack(centers)), None

    def predict(self, rows: ArrayLike) -> NDArray[np.int64]:
        """State of each row: the number of its layer times ``n_clusters``, plus its nearest center.

        Of several that are nearest it is the lowest. With what `state_dict` gives, that is::

            points = ((rows.double() - means) / scales).clamp(-128, 128).mul(1024).round()
            nearest = (points[:, None] - centers[layer]).square().sum(-1).argmin(-1)

        where ``rows`` are float32 (without the last column, if ``by_layer``), and ``layer`` is the
        place of its value among ``layers``.

        Args:
            rows: Shape (num_envs, numbers); taken as float32.

        Returns:
            Shape (num_envs,), below the number of layers times ``n_clusters``.

        Raises:
            RuntimeError: Nothing is fitted yet.
            ValueError: They are not finite, not as wide as those that were fitted, or of a layer
                that was not among these.
        """
        found = self._fitted
        if found is None:
            raise RuntimeError("the clusters are not fitted yet: add rows first")
        numbers, values = self._split_layer_column(_checked(rows, len(found.means) + self.by_layer))
        layer = np.searchsorted(found.layers, values).clip(max=len(found.layers) - 1)
        if (unknown := found.layers[layer] != values).any():
            raise ValueError(
                f"layer {values[unknown][0]:g} is none of those that were fitted "
                f"({', '.join(f'{each:g}' for each in found.layers)}): raise n_fit_samples, or set "
                "by_layer = false if observations do not end with the layer's index"
            )
        points = _on_grid(numbers, found.means, found.scales)
        away = np.square(points[:, None] - found.centers[layer]).sum(-1)
        return layer * self.n_clusters + away.argmin(-1)

    def state_dict(self) -> dict[str, Tensor]:
        """What was collected or found, as tensors.

        Returns:
            ``by_layer``, boolean. What was found, float64: ``layers``, shape (layers,), ascending;
            ``means`` and ``scales``, shape (numbers,); ``centers``, in whole steps of the grid,
            shape (layers, clusters, numbers). Before that, the ``generator``'s state and, if there
            are any, the ``rows``, float32.
        """
        tensors = {"by_layer": torch.tensor(self.by_layer)}
        if self._fitted is not None:
            arrays = self._fitted._asdict()
            return tensors | {name: torch.from_numpy(each.copy()) for name, each in arrays.items()}
        if self._rows is not None:
            tensors["rows"] = torch.from_numpy(self._rows.copy())
        return tensors | {"generator": rng_to_tensor(self._generator)}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Put what `state_dict` gave in place of what is here.

        Raises:
            KeyError: Something is missing.
            ValueError: It is of another number of clusters, or not ``by_layer`` as this is.
        """
        if (there := bool(state_dict["by_layer"])) != self.by_layer:
            raise ValueError(f"by_layer = {there} is stored, here it is {self.by_layer}")
        arrays = {name: tensor.numpy().copy() for name, tensor in state_dict.items()}
        if "centers" in arrays:
            found = _Fitted(*(arrays[name] for name in _Fitted._fields))
            if (clusters := found.centers.shape[1]) != self.n_clusters:
                raise ValueError(f"{clusters} clusters are stored, here are {self.n_clusters}")
            self._fitted, self._rows = found, None
        else:
            rng_from_tensor(self._generator, state_dict["generator"])
            self._fitted, self._rows = None, arrays.get("rows")

    def _split_layer_column(
        self, rows: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The numbers to be clustered, and the value of the layer of each row."""
        precise = rows.astype(np.float64)
        return (
            (precise[:, :-1], precise[:, -1]) if self.by_layer else (precise, np.zeros(len(rows)))
        )

    def _find_centers(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Centers of points on the grid, shape (clusters, numbers)."""
        centers = np.unique(points, axis=0)
        if len(centers) > self.n_clusters:
            with warnings.catch_warnings():
                # An empty cluster keeps its center, and is just rarely the nearest.
                warnings.filterwarnings("ignore", "One of the clusters is empty")
                centers, _ = kmeans2(
                    points, self.n_clusters, _ITERATIONS, minit="++", rng=self._generator
                )
        # Of equal centers the first is the nearest.
        lacking = self.n_clusters - len(centers)
        return np.concatenate([centers, centers[-1:].repeat(lacking, 0)]).round()


class _Fitted(NamedTuple):
    """What `KMeansDiscretizer` found; see its ``state_dict``."""

    layers: NDArray[np.float64]
    means: NDArray[np.float64]
    scales: NDArray[np.float64]
    centers: NDArray[np.float64]


def _checked(rows: ArrayLike, width: int | None) -> NDArray[np.float32]:
    """Rows as float32."""
    checked = np.asarray(rows, np.float32)
    if checked.ndim != 2 or checked.shape[1] != (width or checked.shape[1]):
        wanted = f"(num_envs, {width})" if width else "(num_envs, numbers)"
        raise ValueError(f"rows must have shape {wanted}, got {checked.shape}")
    if not np.isfinite(checked).all():
        raise ValueError("rows must be finite numbers")
    return checked


def _on_grid(
    numbers: NDArray[np.float64], means: NDArray[np.float64], scales: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Standardized numbers in whole steps of the grid."""
    standardized = (numbers - means) / scales
    return (standardized.clip(-CLIP_STD, CLIP_STD) * GRID_STEPS).round()
