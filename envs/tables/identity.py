"""Identity of a table: everything that affects its numbers, as JSON values."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spangym.envs.core import SpanControlCore
from spangym.envs.data.dataset import Dataset
from spangym.envs.env_config import EnvConfig
from spangym.envs.levels import sample_levels
from spangym.envs.rewards import Reward
from spangym.envs.tables.table_folder import current_versions
from spangym.utils.importing import module_sha256
from spangym.utils.scalars import plain

NOT_STORED = (
    *("encoding", "pool_groups", "autocorrelation", "include_layer_index", "num_states"),
    *("include_cache_size", "observation_time", "control_kv_cache"),
    *("chunks_per_episode", "num_levels", "start_level", "backend"),
    *("reward", "reward_kwargs", "cost_coef", "include_cost_coef"),
)
"""Fields of `EnvConfig` on which the numbers of a table do not depend."""

_PROBED_LEVELS = 16
"""Levels whose content is part of the identity; all others are drawn in the same way."""


def table_arguments(config: EnvConfig) -> dict[str, Any]:
    """Return the arguments of an environment on which the numbers of its table depend."""
    arguments = dataclasses.asdict(config)
    return {name: value for name, value in arguments.items() if name not in NOT_STORED}


def table_identity(core: SpanControlCore) -> dict[str, Any]:
    """Return everything that affects the numbers of an environment's table.

    It holds the arguments that matter, and hashes of the layers' weights and structure, of the
    content, of the code, and of a reward that needs the layers' outputs.
    """
    content = _probe(core)
    identity = {
        **table_arguments(core.config),
        "task": content[2] is not None,
        "layers_sha256": _stack_sha256(core.stack),
        "content_sha256": _content_sha256(core.dataset, *content),
        **current_versions(),
        "transformers": version("transformers") if core.config.model else "",
        "device": _device_name(core.device),
        "reward": _describe_reward(core.reward) if core.reward.needs_layer_output else "",
    }
    return json.loads(json.dumps(plain(identity)))


def identity_hash(identity: Mapping[str, Any]) -> str:
    """Return a hash of an identity, 12 hexadecimal digits."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def has_task(core: SpanControlCore) -> bool:
    """Return whether the layers have a loss on the content."""
    return bool(core.stack.num_classes) and _probe(core)[2] is not None


def _probe(core: SpanControlCore) -> tuple[list[tuple[str, ...]], Tensor, Tensor | None]:
    """Content types, content and targets of the first levels; None if the layers have no loss."""
    levels, ctx = np.arange(_PROBED_LEVELS)[:, None], core.config.ctx
    if core.stack.num_classes:
        try:
            return sample_levels(core.dataset, levels, ctx, core.stack.num_classes)
        except ValueError:
            # The content has no targets of these layers, and only the reward `task` needs them.
            if core.reward.needs_task:
                raise
    return sample_levels(core.dataset, levels, ctx, None)


def _content_sha256(
    dataset: Dataset,
    content_types: list[tuple[str, ...]],
    content: Tensor,
    targets: Tensor | None,
) -> str:
    digest = hashlib.sha256(json.dumps([content_types, dataset.fingerprint()]).encode())
    for each in (content, targets):
        if each is not None:
            digest.update(each.numpy().tobytes())
    return digest.hexdigest()


def _stack_sha256(stack: nn.Module) -> str:
    digest = hashlib.sha256(repr(stack).encode())
    for name, tensor in [*stack.named_parameters(), *stack.named_buffers()]:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    for module in sorted({type(each).__module__ for each in stack.modules()}):
        if module.partition(".")[0] not in ("spangym", "torch"):
            digest.update(module_sha256(module).encode())
    return digest.hexdigest()


def _describe_reward(reward: Reward) -> dict[str, Any]:
    cls = type(reward)
    return {
        "class": f"{cls.__module__}:{cls.__qualname__}",
        "arguments": json.loads(json.dumps(vars(reward), default=repr)),
        "source_sha256": hashlib.sha256(inspect.getsource(cls).encode()).hexdigest(),
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
