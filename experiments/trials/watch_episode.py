"""``spangym watch``: one episode of an agent, as a video or as text."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spangym.agents import Agent
from spangym.agents.agent_names import BUILTIN_AGENTS
from spangym.agents.base import notify_episode_start
from spangym.agents.registry import get_agent_spec
from spangym.envs import EnvConfig, SpanControlEnv
from spangym.envs.registration import full_id
from spangym.experiments.studies.load_study import normalize_agent, set_arguments
from spangym.experiments.studies.study import StudyAgent, StudyEnv
from spangym.experiments.trials.comparison_run import ComparisonDir
from spangym.experiments.trials.load_agent import load_trained_agent
from spangym.utils.atomic_io import atomic_write, check_writable_file
from spangym.utils.errors import UserError, report_user_code

FPS: int = SpanControlEnv.metadata["render_fps"]
_MP4_QUALITY = 8
"""Of 10; keeps text sharp."""


class PolicyRun(NamedTuple):
    """An agent, with its name as the user gave it, and the configuration of its environment."""

    name: str
    agent: Agent
    config: EnvConfig


def load_policy(
    environment: str, name: str, seed: int, settings: Mapping[str, Any] = MappingProxyType({})
) -> PolicyRun:
    """Make an agent that needs no training for an environment, with episodes of the evaluation.

    Args:
        environment: Id of an environment of spangym.
        name: Built-in name or ``module:Class`` of a refiner, which stays untrained.
        seed: Seed of the episode, from which that of the agent is derived.
        settings: Arguments of the environment.

    Raises:
        UserError: There is no such environment or agent, or the agent has to be trained.
    """
    try:
        spec = get_agent_spec(name)
    except ValueError as error:
        raise UserError(str(error)) from error
    if name in BUILTIN_AGENTS and name != "refiner" and spec.is_trainable:
        raise UserError(
            f"agent {name!r} has to be trained first: watch it in a run of `spangym compare` by "
            f"`spangym watch RUN --agent {name}`"
        )
    # Another seed than the episode's, so that both draw different numbers.
    agent_seed = int(np.random.SeedSequence([seed, 2]).generate_state(1)[0]) >> 1
    entry = normalize_agent(StudyAgent(name))
    (kwargs,) = set_arguments([environment], settings)
    try:
        config = entry.config_in(StudyEnv(full_id(environment), environment, kwargs), "evaluation")
    except (TypeError, ValueError) as error:
        raise UserError(f"agent {name!r}: {error}") from error
    if not isinstance(config, EnvConfig):
        raise UserError(f"environment {environment!r} is not of spangym: only those can be watched")
    return PolicyRun(name, entry.make(agent_seed), config)


def load_trained_policy(
    run: ComparisonDir,
    name: str,
    environment: str | None,
    seed: int | None,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> PolicyRun:
    """Load an agent of a comparison with its training seed; see `load_trained_agent`.

    Settings change arguments of its environment; a UserError if its observations or actions would
    have another form than in training.
    """
    trained = load_trained_agent(run, name, environment, seed)
    config = trained.config
    (kwargs,) = set_arguments([trained.trial.environment.id], settings)
    try:
        changed = EnvConfig.from_arguments({**dataclasses.asdict(config), **kwargs})
    except (TypeError, ValueError) as error:
        raise UserError(f"environment: {error}") from error
    for attribute in ("observation_spec", "num_actions"):
        if getattr(changed, attribute) != getattr(config, attribute):
            raise UserError(
                f"the settings change the observations or actions that agent {name!r} was trained "
                f"with: omit {' and '.join(map(repr, kwargs))}"
            )
    return PolicyRun(name, trained.agent, changed)


def render_episode(policy_run: PolicyRun, seed: int, render_mode: str) -> Iterator[Any]:
    """Play an episode; yield renderings (``ansi`` or ``rgb_array``) before and after each decision.

    Raises:
        UserError: The agent raises an error or chooses an invalid action.
    """
    env = SpanControlEnv(render_mode=render_mode, **dataclasses.asdict(policy_run.config))
    observation, _ = env.reset(seed=seed)
    notify_episode_start(policy_run.agent, env)
    yield env.render()
    truncated = False
    while not truncated:
        with report_user_code(f"agent {policy_run.name!r} failed"):
            action = policy_run.agent.predict(np.array([observation]))[0]
        try:
            observation, _, _, truncated, _ = env.step(action)
        except ValueError as error:
            raise UserError(f"agent {policy_run.name!r}: {error}") from error
        yield env.render()


def check_video(path: Path) -> None:
    """Check that a video can be written, before anything is played; else raise a UserError."""
    if path.suffix.lower() not in _WRITERS:
        raise UserError(f"--video: {str(path)!r} must end in {' or '.join(_WRITERS)}")
    check_writable_file("--video", path)
    if path.suffix.lower() == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UserError(
            "--video needs the package imageio-ffmpeg for .mp4: install it by "
            "`pip install 'spangym[video]'`, or name a file that ends in .gif"
        )


def save_video(path: Path, frames: Iterable[NDArray[np.uint8]]) -> int:
    """Write frames to a file that `check_video` accepts, atomically; return their number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as tmp:
        return _WRITERS[path.suffix.lower()](tmp, iter(frames))


def _write_mp4(path: Path, frames: Iterator[NDArray[np.uint8]]) -> int:
    # Imported here because it is an optional extra.
    from imageio_ffmpeg import write_frames

    first, count = next(frames), 1
    height, width, _ = first.shape
    writer = write_frames(path, (width, height), fps=FPS, quality=_MP4_QUALITY)
    with contextlib.closing(writer):
        writer.send(None)
        writer.send(first)
        for frame in frames:
            writer.send(frame)
            count += 1
    return count


def _write_gif(path: Path, frames: Iterator[NDArray[np.uint8]]) -> int:
    first, *others = (Image.fromarray(frame) for frame in frames)
    milliseconds = 1000 // FPS
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0)
    return 1 + len(others)


_WRITERS = {".mp4": _write_mp4, ".gif": _write_gif}
