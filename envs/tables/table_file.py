"""Tables in files: a folder of memory-mapped arrays, found by what affects their numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spangym.envs.core import SpanControlCore
from spangym.envs.env_config import EnvComponents, EnvConfig, make_spec
from spangym.envs.registration import ENVIRONMENTS
from spangym.envs.tables.identity import (
    NOT_STORED,
    identity_hash,
    table_arguments,
    table_identity,
)
from spangym.envs.tables.table_folder import (
    METADATA_FILE,
    PARTS,
    list_shipped,
    list_tables,
    read_metadata,
    tables_dir,
)
from spangym.utils.readable_repr import readable_repr, short_repr
from spangym.utils.scalars import plain
from spangym.utils.text import shell_join

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Table:
    """Everything that an environment shows for every action sequence of every level.

    Attributes:
        path: Its folder.
        identity: Everything that affects the numbers, see `spangym.envs.tables.identity`.
        env_id: Id of the environment, whose arguments may be others than the id's.
        start_level: First level.
        num_levels: Number of levels.
        content_types: Names of the content types.
        arrays: Read-only arrays by name, memory-mapped; the first dimension is the level. See
            `spangym.envs.tables.tabulate`.
    """

    __repr__ = readable_repr

    path: Path
    identity: dict[str, Any]
    env_id: str
    start_level: int
    num_levels: int
    content_types: tuple[str, ...]
    arrays: Arrays

    @classmethod
    def open(cls, path: Path) -> Table:
        """Open the table of a folder; arrays are read when they are used.

        Raises:
            ValueError: The folder holds no complete table.
        """
        metadata = read_metadata(path)
        arrays: Arrays = {}
        for name in metadata["arrays"]:
            # A plain view: indexing a memmap makes a memmap each time, which is slow.
            arrays[name] = np.load(path / f"{name}.npy", mmap_mode="r").view(np.ndarray)
        return cls(
            path,
            metadata["identity"],
            metadata["env_id"],
            metadata["start_level"],
            metadata["num_levels"],
            tuple(metadata["content_types"]),
            arrays,
        )

    def select(self, start_level: int, num_levels: int) -> Table:
        """Return the part of the table with these levels, which it must have."""
        first = start_level - self.start_level
        rows = slice(first, first + num_levels)
        arrays = {name: each[rows] for name, each in self.arrays.items()}
        return Table(
            self.path,
            self.identity,
            self.env_id,
            start_level,
            num_levels,
            self.content_types,
            arrays,
        )


@dataclass(frozen=True)
class TableRequest:
    """A table that an environment asks for, whether it exists or not.

    Attributes:
        identity: Everything that affects the numbers.
        env_id: Id of the environment.
        start_level: First level.
        num_levels: Number of levels.
        how_to_make: Command, or call, that makes the table.
    """

    identity: dict[str, Any]
    env_id: str
    start_level: int
    num_levels: int
    how_to_make: str

    @property
    def path(self) -> Path:
        """Folder of a table with exactly these levels."""
        name = self.env_id.rpartition("/")[2]
        levels = f"{self.start_level}-{self.start_level + self.num_levels - 1}"
        return tables_dir() / f"{name}-{identity_hash(self.identity)}-levels-{levels}"

    @property
    def parts_dir(self) -> Path:
        """Folder of the finished blocks, while the table is not complete."""
        return self.path.with_name(f"{self.path.name}{PARTS}")

    @property
    def metadata(self) -> dict[str, Any]:
        """The table in words and numbers, for JSON."""
        return {
            "env_id": self.env_id,
            "start_level": self.start_level,
            "num_levels": self.num_levels,
            "identity": self.identity,
        }

    def covers(self, metadata: Mapping[str, Any]) -> bool:
        """Return whether a table, given by its metadata, has the levels of the request."""
        end = metadata["start_level"] + metadata["num_levels"]
        return (
            metadata["start_level"] <= self.start_level
            and self.start_level + self.num_levels <= end
        )

    def find(self) -> Path | None:
        """Return the folder of a complete table that serves the request, None if there is none."""
        found = (
            path
            for path, metadata in list_tables().items()
            if metadata["identity"] == self.identity and self.covers(metadata)
        )
        return next(found, None)

    def load(self) -> Table:
        """Open the table; its levels are those of the request.

        Raises:
            ValueError: There is no such table; the message says how the closest one differs.
        """
        path = self.find()
        if path is None:
            raise ValueError(self._describe_missing())
        return Table.open(path).select(self.start_level, self.num_levels)

    def _describe_missing(self) -> str:
        last = self.start_level + self.num_levels - 1
        text = f"there is no table of levels {self.start_level} to {last} of {self.env_id}"
        found = [
            (self._differences(metadata), path.name)
            for path, metadata in list_tables().items()
            if metadata["env_id"] == self.env_id
        ]
        if found:
            differences, name = min(found, key=lambda each: len(each[0]))
            text += f"; the closest, {name}, has {', '.join(differences[:3])}"
        return f"{text}; make it with: {self.how_to_make}"

    def _differences(self, metadata: Mapping[str, Any]) -> list[str]:
        stored = metadata["identity"]
        differences = [
            f"other {name.removesuffix('_sha256')}"
            if name.endswith("sha256")
            else f"{name} = {short_repr(stored.get(name))} instead of {short_repr(value)}"
            for name, value in self.identity.items()
            if stored.get(name) != value
        ]
        if not self.covers(metadata):
            end = metadata["start_level"] + metadata["num_levels"]
            differences.append(f"the levels {metadata['start_level']} to {end - 1}")
        return differences


def open_shipped(config: EnvConfig, components: EnvComponents) -> Table | None:
    """Open a table that comes with spangym, if one serves an environment; no layers are made.

    It is found by the arguments of the environment, whatever code, versions and device are
    installed: they may round differently.

    Args:
        config: Arguments of the environment.
        components: Objects of the user's own in it.
    """
    reward = components.reward or config.make_reward()
    if any(each is not None for each in components._replace(reward=None)):
        return None
    if reward.needs_layer_output or not config.num_levels:
        return None
    arguments = json.loads(json.dumps(plain(table_arguments(config))))
    del arguments["device"]
    for path, metadata in list_shipped().items():
        end = metadata["start_level"] + metadata["num_levels"]
        identity = metadata["identity"]
        if (
            # Arguments that came later have their defaults in it.
            all(
                identity.get(name, getattr(EnvConfig, name, None)) == value
                for name, value in arguments.items()
            )
            and metadata["start_level"] <= config.start_level
            and config.start_level + config.num_levels <= end
        ):
            return Table.open(path).select(config.start_level, config.num_levels)
    return None


def request_table(
    config: EnvConfig, core: SpanControlCore, components: EnvComponents
) -> TableRequest:
    """Return what the table of an environment must be.

    Args:
        config: Arguments of the environment.
        core: The environment with live layers.
        components: Objects of the user's own in it.

    Raises:
        ValueError: The chunks of the environment are not independent of each other.
    """
    check_independent(core)
    env_id = make_spec(config, components).id
    hint = _how_to_make(config, components, env_id)
    return TableRequest(table_identity(core), env_id, config.start_level, config.num_levels, hint)


def _how_to_make(config: EnvConfig, components: EnvComponents, env_id: str) -> str:
    """Return the command that makes a table, or the call if there are objects of the user's own."""
    name, defaults = env_id.rpartition("/")[2], ENVIRONMENTS[env_id]
    if any(each is not None for each in components):
        return f"spangym.envs.tabulate({name!r}, {config.num_levels}, ...) with the same objects"
    words = ["spangym", "tabulate", name, "--num-levels", str(config.num_levels)]
    if config.start_level:
        words += ["--start-level", str(config.start_level)]
    arguments = make_spec(config, components).kwargs
    for key, value in arguments.items():
        if key not in NOT_STORED and value != defaults.get(key):
            words += ["--set", f"{key}={value}"]
    return shell_join(words)


def check_independent(core: SpanControlCore) -> None:
    """Refuse layers whose results on a chunk depend on the chunks before it.

    Raises:
        ValueError: A layer carries something over that its output depends on.
    """
    for index, layer in enumerate(core.layers):
        carried = ""
        if layer.config.use_refresh_predictors:
            carried = "keys and values, by its refresh predictors"
        elif layer.config.causal and layer.config.action_scale == "relative":
            carried = "the prediction of its span: it is causal and its actions are relative"
        if carried:
            raise ValueError(
                "backend 'table' needs independent chunks, but layer "
                f"{index} carries over {carried}"
            )


def write_table(
    request: TableRequest, blocks: Iterable[Mapping[str, Any]], metadata: Mapping[str, Any]
) -> Path:
    """Write a table from consecutive blocks of levels, atomically.

    Args:
        request: The request that the table serves.
        blocks: Results of `spangym.envs.tables.tabulate.tabulate_levels`, read one at a time.
        metadata: Further values for the metadata, for JSON.

    Returns:
        Folder of the table.
    """
    path = request.path
    tmp = path.with_name(f".{path.name}")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    targets: dict[str, np.memmap[Any, Any]] = {}
    types: list[str] = []
    start = 0
    for block in blocks:
        types += block["content_types"]
        for name, array in block["arrays"].items():
            if name not in targets:
                shape = (request.num_levels, *array.shape[1:])
                targets[name] = np.lib.format.open_memmap(
                    tmp / f"{name}.npy", "w+", array.dtype, shape
                )
            targets[name][start : start + len(array)] = array
        start = len(types)
    names = sorted({*types})
    codes = np.array([names.index(each) for each in types], np.int32)
    np.save(tmp / "content_types.npy", codes)
    for target in targets.values():
        target.flush()
    content = {
        **request.metadata,
        "content_types": names,
        "arrays": [*targets, "content_types"],
        **metadata,
    }
    (tmp / METADATA_FILE).write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    shutil.rmtree(path, ignore_errors=True)
    tmp.rename(path)
    return path
