"""All that a training changes in an algorithm of Stable-Baselines3, taken out and put back.

Stable-Baselines3's own archives are pickles, and leave out the environment's last observations,
the replay buffer and the generators, without which a training does not go on to the bit.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from spangym.utils.serialization import is_serializable


def get_training_state(model: BaseAlgorithm) -> dict[str, Any]:
    """All that the training has changed, between two rollouts."""
    given = inspect.signature(type(model)).parameters
    attributes = {
        name: value
        for name, value in vars(model).items()
        # Tensors that are not of the last step are the networks', which come by themselves.
        if name not in given
        and is_serializable(value)
        and (name.startswith("_last") or not _holds_tensor(value))
    }
    buffer = vars(model).get("replay_buffer")
    return {
        "parameters": model.get_parameters(),
        "attributes": attributes,
        "replay_buffer": None if buffer is None else _buffer_to_dict(buffer),
        "action_generator": model.action_space.np_random.bit_generator.state,
        "normalization": normalization_to_dict(model.get_vec_normalize_env()),
    }


def set_training_state(model: BaseAlgorithm, state: dict[str, Any]) -> None:
    """Put what `get_training_state` gave in place, in an algorithm made alike.

    Raises:
        ValueError: It does not fit.
    """
    try:
        model.set_parameters(state["parameters"], device=model.device)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"the stored network is another one: {error}") from error
    for name, value in state["attributes"].items():
        before = getattr(model, name, None)
        setattr(model, name, _on_device(model, before, value) if name[:5] == "_last" else value)
    if state["replay_buffer"] is not None:
        _buffer_from_dict(vars(model)["replay_buffer"], state["replay_buffer"])
    model.action_space.np_random.bit_generator.state = state["action_generator"]
    normalization_from_dict(model.get_vec_normalize_env(), state["normalization"])


def normalization_to_dict(env: VecNormalize | None) -> dict[str, Any] | None:
    """Running moments of the observations; None without an environment that keeps them."""
    if env is None:
        return None
    moments = env.obs_rms
    assert not isinstance(moments, dict)
    return {"mean": moments.mean, "var": moments.var, "count": float(moments.count)}


def normalization_from_dict(env: VecNormalize | None, stored: dict[str, Any] | None) -> None:
    """Put what `normalization_to_dict` gave in place."""
    if env is None or stored is None:
        return
    moments = env.obs_rms
    assert not isinstance(moments, dict)
    moments.mean, moments.var, moments.count = stored["mean"], stored["var"], stored["count"]


def space_to_dict(space: spaces.Space[Any]) -> dict[str, Any]:
    """A space as what can be stored.

    Raises:
        TypeError: It is of a kind that no environment here has.
    """
    if isinstance(space, spaces.Box):
        return {"low": space.low, "high": space.high, "dtype": space.dtype.name}
    if isinstance(space, spaces.MultiDiscrete):
        return {"nvec": space.nvec.tolist()}
    if isinstance(space, spaces.Discrete):
        return {"n": int(space.n)}
    raise TypeError(f"a space of the kind {type(space).__name__} cannot be stored")


def space_from_dict(stored: dict[str, Any]) -> spaces.Space[Any]:
    """The space that `space_to_dict` was given."""
    if "n" in stored:
        return spaces.Discrete(stored["n"])
    if "nvec" in stored:
        return spaces.MultiDiscrete(stored["nvec"])
    return spaces.Box(stored["low"], stored["high"], dtype=np.dtype(stored["dtype"]).type)


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_holds_tensor, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_tensor, value))
    return isinstance(value, Tensor)


def _on_device(model: BaseAlgorithm, before: Any, value: Any) -> Any:
    """A stored value as it was: recurrent states are named tuples of tensors on the device."""
    if isinstance(value, Tensor):
        return value.to(model.device)
    if isinstance(value, tuple):
        inside = [_on_device(model, None, each) for each in value]
        return type(before)(*inside) if hasattr(before, "_fields") else tuple(inside)
    return value


def _buffer_to_dict(buffer: ReplayBuffer) -> dict[str, Any]:
    """What is in a replay buffer, without the room that is still empty."""
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
