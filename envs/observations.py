"""Spaces and observations of each encoding.

`spangym.attention.ObservationSpec` computes the numbers on the device; these functions turn the
numbers, once copied to the host, into observations.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from spangym.attention import ObservationSpec


@functools.cache
def _float32_bounds(spec: ObservationSpec) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    low, high = spec.bounds
    return np.array(low, np.float32), np.array(high, np.float32)


def make_observation_space(spec: ObservationSpec) -> spaces.Space[Any]:
    """Space of one environment's observation.

    Example:
        >>> make_observation_space(ObservationSpec(dims=4, encoding="box"))
        Box(-1.0, 1.0, (8,), float32)
    """
    if spec.encoding == "digits":
        return spaces.MultiDiscrete(spec.nvec, dtype=np.int64)
    if spec.encoding == "box":
        return spaces.Box(-1.0, 1.0, (len(spec.nvec),), np.float32)
    if spec.encoding == "features":
        return spaces.Box(*_float32_bounds(spec), dtype=np.float32)
    return spaces.Discrete(spec.num_state_ids)


def to_observations(spec: ObservationSpec, numbers: NDArray[np.float64]) -> NDArray[Any]:
    """Convert the numbers of `ObservationSpec.encode` to observations, a fresh array.

    Args:
        spec: Specification of the observation.
        numbers: Encoded numbers, shape (num_envs, numbers).

    Returns:
        int64 digits or float32 numbers of shape (num_envs, numbers), or int64 state ids of shape
        (num_envs,).
    """
    if spec.encoding == "digits":
        return numbers.astype(np.int64)
    if spec.encoding == "box":
        return numbers.astype(np.float32)
    if spec.encoding == "features":
        return numbers.astype(np.float32).clip(*_float32_bounds(spec))
    return spec.state_ids(torch.from_numpy(numbers)).numpy()
