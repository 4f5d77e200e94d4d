"""A job that evaluates a block of levels of a table."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spangym.envs import EnvComponents, EnvConfig, SpanControlCore
from spangym.envs.tables.table_file import TableRequest, request_table
from spangym.envs.tables.table_folder import BLOCK_FILE
from spangym.envs.tables.tabulate import blocks_of, make_live_core, write_block
from spangym.experiments.runner.fingerprint import DatasetHashes
from spangym.experiments.runner.job import PlacedJob
from spangym.experiments.runner.job_files import RESULT_FILE, save_json
from spangym.experiments.studies.study import names_class


@dataclass(frozen=True)
class TableJob:
    """A block of levels of a table: a `Job`, whose folder is that of the block.

    Attributes:
        config: Environment with the levels of the whole table.
        table: Name of the table.
        levels: Levels of the block.
        seed: Seed of the global generators, which nothing draws from.
    """

    config: EnvConfig
    table: str
    levels: range
    seed: int = 0

    @property
    def job_id(self) -> str:
        """Table and levels."""
        return f"{self.table}/{self.levels[0]}-{self.levels[-1]}"

    @property
    def name(self) -> str:
        """Environment and levels."""
        environment = self.table.partition("-levels-")[0].rpartition("-")[0]
        return f"{environment} levels {self.levels[0]} to {self.levels[-1]}"

    @property
    def total(self) -> int:
        """Number of levels."""
        return len(self.levels)

    @property
    def device(self) -> str:
        """Torch device of the layers."""
        return self.config.device

    @property
    def has_user_code(self) -> bool:
        """Whether the data, the reward or the layers are not of spangym."""
        return names_class(dataclasses.asdict(self.config))

    def config_for_hash(self, hashes: DatasetHashes) -> dict[str, Any]:
        """Return everything that affects the results; the table's identity is computed here."""
        del hashes
        return {
            "identity": find_request(self.config).identity,
            "levels": [self.levels[0], self.levels[-1]],
            "spangym": importlib.metadata.version("spangym"),
        }

    def run(
        self,
        folder: Path,
        progress: Callable[[int], None],
        log: Callable[[str], None],
        checkpoint_seconds: float,
    ) -> None:
        """Evaluate the block; see `Job.run`."""
        del log, checkpoint_seconds
        write_block(folder / BLOCK_FILE, live_core(self.config), self.levels, progress)
        save_json(folder / RESULT_FILE, {"levels": [self.levels[0], self.levels[-1]]})


def jobs_of(config: EnvConfig, request: TableRequest) -> list[PlacedJob]:
    """Return the jobs that make a table, finished ones included, with their folders."""
    return [
        (
            TableJob(config, request.path.name, levels),
            request.parts_dir / f"{levels[0]}-{levels[-1]}",
        )
        for levels in blocks_of(request)
    ]


def is_complete(folder: Path) -> bool:
    """Return whether the block of a folder is complete, whoever wrote it."""
    return (folder / BLOCK_FILE).exists()


def live_core(config: EnvConfig) -> SpanControlCore:
    """Make the environment that fills a table, once for consecutive blocks of the same table."""
    return _live_core(_to_json(config))


def find_request(config: EnvConfig) -> TableRequest:
    """Return the table that an environment asks for.

    Raises:
        ValueError: The environment cannot be made, or its chunks are not independent.
    """
    return _find_request(_to_json(config))


def _to_json(config: EnvConfig) -> str:
    return json.dumps(dataclasses.asdict(config), sort_keys=True)


@functools.lru_cache(maxsize=1)
def _live_core(config: str) -> SpanControlCore:
    return make_live_core(EnvConfig(**json.loads(config)))


@functools.lru_cache(maxsize=256)
def _find_request(config: str) -> TableRequest:
    return request_table(EnvConfig(**json.loads(config)), _live_core(config), EnvComponents())
