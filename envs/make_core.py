"""The core of an environment, by its backend."""

from __future__ import annotations

from spangym.envs.core import EpisodeCore, SpanControlCore
from spangym.envs.env_config import EnvComponents, EnvConfig
from spangym.envs.tables.table_core import TableCore


def make_core(
    config: EnvConfig,
    num_envs: int,
    components: EnvComponents = EnvComponents(),  # noqa: B008
    max_episode_steps: int | None = None,
) -> EpisodeCore:
    """Make the core of environments; arguments and errors as of `EpisodeCore`.

    Raises:
        ValueError: There is no table for the backend ``table``, or the environment cannot have one.
    """
    core_class = TableCore if config.backend == "table" else SpanControlCore
    return core_class(config, num_envs, components, max_episode_steps)
