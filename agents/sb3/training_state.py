"""The training state of an algorithm of Stable-Baselines3, without pickle.

Stable-Baselines3's own archives are pickles and lack the last observations of the environment, the
replay buffer and the generators, without which a resumed training is not identical.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor
from torch.utils import _pytree as pytree

from spangym.utils.serialization import is_serializable
from spangym.utils.signatures import parameters_of


def get_training_state(model: BaseAlgorithm) -> dict[str, Any]:
    """Return everything that training has changed, between two rollouts."""
    arguments = parameters_of(type(model))
    buffer = vars(model).get("replay_buffer")
    return {
        "parameters": model.get_parameters(),
        "attributes": {
            name: value
            for name, value in vars(model).items()
            if name not in arguments
            and is_serializable(value)
            # Other tensors belong to the networks.
            and (name.startswith("_last") or not _has_tensors(value))
        },
        "replay_buffer": None if buffer is None else _buffer_to_dict(buffer),
        "action_generator": model.action_space.np_random.bit_generator.state,
        "normalization": normalization_to_dict(model.get_vec_normalize_env()),
    }


def set_training_state(model: BaseAlgorithm, state: dict[str, Any]) -> None:
    """Restore the state that `get_training_state` returned.

    Raises:
        ValueError: The network has another shape.
    """
    try:
        model.set_parameters(state["parameters"], device=model.device)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"the stored network has another shape: {error}") from error
    for name, value in state["attributes"].items():
        if name.startswith("_last"):
            # Recurrent states are named tuples of tensors, stored as tuples.
            moved = pytree.tree_map_only(Tensor, lambda leaf: leaf.to(model.device), value)
            structure = pytree.tree_structure(getattr(model, name, None))
            value = pytree.tree_unflatten(pytree.tree_leaves(moved), structure)
        setattr(model, name, value)
    if state["replay_buffer"] is not None:
        _buffer_from_dict(vars(model)["replay_buffer"], state["replay_buffer"])
    model.action_space.np_random.bit_generator.state = state["action_generator"]
    normalization_from_dict(model.get_vec_normalize_env(), state["normalization"])


def normalization_to_dict(env: VecNormalize | None) -> dict[str, Any] | None:
    """Return the running mean and variance of observations; None without normalization."""
    if env is None:
        return None
    assert isinstance(env.obs_rms, RunningMeanStd)
    return {**vars(env.obs_rms), "count": float(env.obs_rms.count)}


def normalization_from_dict(env: VecNormalize | None, stored: dict[str, Any] | None) -> None:
    """Restore the statistics that `normalization_to_dict` returned."""
    if env is not None and stored is not None:
        vars(env.obs_rms).update(stored)


def space_to_dict(space: spaces.Space[Any]) -> dict[str, Any]:
    """Return the arguments of a space; a `TypeError` for kinds that the environments lack."""
    if isinstance(space, spaces.Box):
        return {"low": space.low, "high": space.high, "dtype": space.dtype.name}
    if isinstance(space, spaces.MultiDiscrete):
        return {"nvec": space.nvec.tolist()}
    if isinstance(space, spaces.Discrete):
        return {"n": int(space.n)}
    raise TypeError(f"a {type(space).__name__} space cannot be stored")


def space_from_dict(stored: dict[str, Any]) -> spaces.Space[Any]:
    """Return the space of which `space_to_dict` returned the arguments."""
    if "n" in stored:
        return spaces.Discrete(stored["n"])
    if "nvec" in stored:
        return spaces.MultiDiscrete(stored["nvec"])
    return spaces.Box(stored["low"], stored["high"], dtype=np.dtype(stored["dtype"]).type)


def _has_tensors(value: Any) -> bool:
    return any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value))


def _buffer_to_dict(buffer: ReplayBuffer) -> dict[str, Any]:
    """Return the filled part of a replay buffer."""
    filled = buffer.buffer_size if buffer.full else min(buffer.pos + 1, buffer.buffer_size)
    arrays = {
        name: value[:filled]
        for name, value in vars(buffer).items()
        if isinstance(value, np.ndarray) and len(value) == buffer.buffer_size
    }
    return {"pos": buffer.pos, "full": buffer.full, "arrays": arrays}


def _buffer_from_dict(buffer: ReplayBuffer, stored: dict[str, Any]) -> None:
    buffer.pos, buffer.full = stored["pos"], stored["full"]
    for name, rows in stored["arrays"].items():
        getattr(buffer, name)[: len(rows)] = rows
