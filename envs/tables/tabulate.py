"""Makes tables: evaluates every action sequence of every level.

Arrays of a table with layers ``l`` and ``A`` actions; ``n`` is the number of levels. The prefix of
``l`` actions before layer ``l`` has the index of its digits in base ``A``, the first action first.

- ``features_l``: features of the input of layer ``l``, means, variances and lag correlations, shape
  (n, A^l, 2 * dims + 9);
- ``outputs_l``: the same of its local output, shape (n, A^(l+1), 2 * dims + 9);
- ``terms_l``: `TERMS`, shape (n, A^(l+1), 6);
- ``metrics_l``: numbers of the infos, float64 of shape (n, A^(l+1), 6);
- ``components_l``: components of a reward that needs the layers' outputs, float64;
- ``content_types``: index of the content type, int32 of shape (n,).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import Timeout
from numpy.typing import NDArray
from torch import Tensor

from spangym.envs.core import SpanControlCore
from spangym.envs.env_config import EnvComponents, EnvConfig, parse_env_kwargs
from spangym.envs.levels import sample_levels
from spangym.envs.model.stack import LayerStack
from spangym.envs.registration import default_kwargs
from spangym.envs.rewards import Reward, RewardContext
from spangym.envs.state import Episode, tree_map
from spangym.envs.tables.identity import has_task
from spangym.envs.tables.table_file import Table, TableRequest, request_table, write_table
from spangym.envs.tables.table_folder import BLOCK_FILE, REQUEST_FILE, table_lock
from spangym.envs.transition import TransitionModel
from spangym.utils.atomic_io import atomic_write
from spangym.utils.scalars import as_int
from spangym.utils.serialization import load_state, save_state

TERMS = (
    *("output_coverage", "output_entropy"),
    *("attention_coverage", "attention_entropy"),
    *("excess_loss", "infidelity"),
)
"""Terms of the builtin rewards.

The last two are 0 except at the last layer, the others of pretrained models, where no reward reads
them.
"""

_MOST_BLOCKS = 128
_BLOCK_LEVELS = (4, 256)
"""Bounds of the number of levels of a block, the unit of interrupted and parallel work."""

_BATCH_ON_CPU = 1
"""Levels that are evaluated at once on the CPU: larger batches are not faster there."""

_BATCH_ON_GPU = 32


def _ignore(_: int) -> None:
    pass


def tabulate(
    env_id: str,
    num_levels: int,
    *,
    start_level: int = 0,
    progress: Callable[[int], object] = _ignore,
    **kwargs: Any,
) -> Table:
    """Evaluate every action sequence of every level of an environment, for ``backend="table"``.

    The table is stored in the cache folder (``SPANGYM_CACHE``, or the platform's); a stored one is
    opened. An interrupted call is resumed by the next one. ``spangym tabulate`` does the same in
    several processes.

    Args:
        env_id: Registered id, of which ``spangym/`` may be omitted.
        num_levels: Number of levels.
        start_level: First level.
        progress: Function of the number of finished levels.
        **kwargs: Arguments of the environment, which may be objects (``layers``, ``dataset``,
            ``reward``). Arguments of the observation, the reward's coefficients and the length of
            episodes make no difference.

    Returns:
        The table, with exactly these levels; the stored one may have more.

    Raises:
        TypeError: An argument is unknown, or of another type.
        ValueError: An argument is invalid, chunks of the environment are not independent, or a
            result is NaN or infinite.

    Example:
        >>> import os, tempfile
        >>> import gymnasium as gym
        >>> os.environ["SPANGYM_CACHE"] = tempfile.mkdtemp()
        >>> table = tabulate("LongRange-v0", num_levels=2)
        >>> table.arrays["features_1"].shape
        (2, 10, 73)
        >>> env = gym.make("spangym/LongRange-v0", backend="table", num_levels=2)
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(5)
        >>> info["level"], info["span"]
        (1, 80)
    """
    levels = {"num_levels": as_int("num_levels", num_levels, 1), "start_level": start_level}
    arguments = {**default_kwargs(env_id), **kwargs, **levels, "backend": "table"}
    config, components = parse_env_kwargs(arguments)
    core = make_live_core(config, components)
    request = request_table(config, core, components)
    if request.find() is not None:
        return request.load()
    with prepare_parts(request) as found:
        if found is not None:
            return request.load()
        done = 0
        for block in blocks_of(request):
            path = block_path(request, block)
            if not path.exists():
                write_block(path, core, block)
            done += len(block)
            progress(done)
        return Table.open(merge_blocks(request))


def make_live_core(config: EnvConfig, components: EnvComponents | None = None) -> SpanControlCore:
    """Make the environment whose layers fill the table, one stream wide."""
    live = dataclasses.replace(config, backend="live")
    return SpanControlCore(live, 1, components or EnvComponents())


@contextlib.contextmanager
def prepare_parts(
    request: TableRequest, on_wait: Callable[[], object] = lambda: None
) -> Iterator[Path | None]:
    """Lock a table, and prepare the folder of its blocks if it is not complete.

    Args:
        request: The request that the table serves.
        on_wait: Called if another process has the lock, before it is awaited.

    Yields:
        Folder of a complete table that serves the request, None if there is none.
    """
    request.path.parent.mkdir(parents=True, exist_ok=True)
    lock = table_lock(request.path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        if (found := request.find()) is None:
            request.parts_dir.mkdir(exist_ok=True)
            with atomic_write(request.parts_dir / REQUEST_FILE) as tmp:
                tmp.write_text(json.dumps(request.metadata, indent=2) + "\n", "utf-8")
        yield found
    finally:
        lock.release()


def blocks_of(request: TableRequest) -> list[range]:
    """Return the levels of each block.

    The number of levels determines them, so that any number of processes resumes what another has
    begun.
    """
    least, most = _BLOCK_LEVELS
    size = min(max(math.ceil(request.num_levels / _MOST_BLOCKS), least), most)
    end = request.start_level + request.num_levels
    return [range(first, min(first + size, end)) for first in range(request.start_level, end, size)]


def block_path(request: TableRequest, levels: range) -> Path:
    """Return the file of a finished block of a table that is not complete."""
    return request.parts_dir / f"{levels[0]}-{levels[-1]}" / BLOCK_FILE


def write_block(
    path: Path,
    core: SpanControlCore,
    levels: range,
    progress: Callable[[int], object] = _ignore,
) -> None:
    """Evaluate a block of levels, and write it atomically."""
    began = time.perf_counter()
    block = tabulate_levels(core, levels, progress)
    path.parent.mkdir(exist_ok=True)
    save_state(path, {**block, "seconds": time.perf_counter() - began})


def merge_blocks(request: TableRequest) -> Path:
    """Write the table from its finished blocks, and remove them; returns its folder."""
    metadata: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": 0.0,
    }

    def read() -> Iterator[dict[str, Any]]:
        for block in blocks_of(request):
            content = load_state(block_path(request, block))
            metadata["seconds"] += content["seconds"]
            yield content

    path = write_table(request, read(), metadata)
    shutil.rmtree(request.parts_dir)
    return path


@torch.no_grad()
def tabulate_levels(
    core: SpanControlCore, levels: range, progress: Callable[[int], object] = _ignore
) -> dict[str, Any]:
    """Evaluate all action sequences of some levels.

    Returns:
        ``content_types``, one per level, and ``arrays`` by name, whose first dimension is the
        level.

    Raises:
        ValueError: A result is NaN or infinite.
    """
    config = dataclasses.replace(
        core.config,
        encoding="features",
        pool_groups=0,
        autocorrelation=True,
        include_layer_index=False,
        # Observations and rewards of any coefficient are computed from the same numbers.
        include_cost_coef=False,
        include_cache_size=core.config.reads_in_blocks,
    )
    needs_task = has_task(core)
    reward = _AllTerms(core.reward, needs_task, core.stack, config)
    model = TransitionModel(config, core.stack, reward)
    batch = _BATCH_ON_GPU if core.device.type != "cpu" else _BATCH_ON_CPU
    content_types: list[str] = []
    parts: list[dict[str, NDArray[Any]]] = []
    for start in range(0, len(levels), batch):
        numbers = np.array(levels[start : start + batch])[:, None]
        classes = core.stack.num_classes if needs_task else None
        types, content, targets = sample_levels(core.dataset, numbers, config.ctx, classes)
        episode = tree_map(lambda each: each.to(core.device), Episode(content, targets))
        arrays = _evaluate(model, episode)
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                hint = "check the weights of the layers, the reward and the dataset"
                raise ValueError(f"{name} of levels {numbers[0]} are NaN or infinite: {hint}")
        content_types += [only for (only,) in types]
        parts.append(arrays)
        progress(len(content_types))
    names = parts[0]
    return {
        "content_types": content_types,
        "arrays": {name: np.concatenate([part[name] for part in parts]) for name in names},
    }


def _evaluate(model: TransitionModel, episode: Episode) -> dict[str, NDArray[Any]]:
    num_actions, levels = model.config.num_actions, len(episode.content)
    precision = next(model.stack.parameters()).dtype
    dtype = np.float64 if precision == torch.float64 else np.float32
    state = dataclasses.replace(model.initial_state(episode), full_caches=())
    arrays: dict[str, NDArray[Any]] = {}

    def store(name: str, numbers: Tensor, dtype: Any) -> None:
        rows = numbers.view(levels, -1, numbers.shape[-1]).cpu().numpy()
        arrays[name] = rows.astype(dtype)

    for layer in range(model.config.num_layers):
        state = model.prepare_layer(state, layer)
        store(f"features_{layer}", model.observe(state, layer), dtype)
        actions = torch.arange(num_actions, device=episode.content.device)
        transition = model.step(state, layer, actions.expand(len(state.hidden), -1))
        terms, components = transition.reward_components.split(
            [len(TERMS), transition.reward_components.shape[1] - len(TERMS)], dim=1
        )
        store(f"terms_{layer}", terms, dtype)
        if components.shape[1]:
            store(f"components_{layer}", components, np.float64)
        store(f"metrics_{layer}", transition.metrics, np.float64)
        store(f"outputs_{layer}", model.observe_output(transition.local_output, layer), dtype)
        state = transition.state
        if model.stack.native_layers:
            # A chunk does not depend on the caches of the one before it.
            state = dataclasses.replace(state, caches=(None,) * model.config.num_layers)
    return arrays


class _AllTerms(Reward):
    """`TERMS`, and the components of a reward that needs the layers' outputs."""

    def __init__(
        self, reward: Reward, needs_task: bool, stack: LayerStack, config: EnvConfig
    ) -> None:
        super().__init__()
        self.needs_statistics = stack.native_layers
        # Of blocks only their losses are compared.
        self.needs_fidelity = not config.blocks
        self._reward = reward if reward.needs_layer_output else None
        self.needs_task = needs_task
        self.components = (*TERMS, *(reward.components if self._reward else ()))

    def __call__(self, context: RewardContext) -> Tensor:
        """Compute the terms, and the components, in float64."""
        zeros = torch.zeros_like(context.layer_output.span_scale)
        terms = [zeros] * 4
        if self.needs_statistics:
            terms = [*context.output_quality, *context.attention_quality]
        excess, infidelity = context.excess_loss, context.infidelity
        terms += [zeros if each is None else each for each in (excess, infidelity)]
        numbers = torch.stack([each.double() for each in terms], dim=-1)
        if self._reward is None:
            return numbers
        # Exactly what it gets in the live environment.
        layer_output = context.layer_output
        if not self._reward.needs_statistics:
            layer_output = dataclasses.replace(layer_output, stats=None)
        if not self._reward.needs_task:
            excess = None
        if not self._reward.needs_fidelity:
            infidelity = None
        own = dataclasses.replace(
            context, layer_output=layer_output, excess_loss=excess, infidelity=infidelity
        )
        return torch.cat([numbers, self._reward(own).double()], dim=-1)
