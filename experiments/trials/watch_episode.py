"""``spangym watch``: one episode of an agent, as a video or as text."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spangym.agents import Agent
from spangym.agents.base import notify_episode_start
from spangym.agents.registry import BUILTIN_AGENTS, get_agent_spec
from spangym.envs import EnvConfig, SpanControlEnv, make_config
from spangym.envs.registration import full_id
from spangym.experiments.studies.study import StudyAgent, make_agent
from spangym.experiments.trials.load_agent import TRIAL_DIR_PATTERN, load_trained_agent
from spangym.utils.atomic_io import atomic_write, check_writable_file
from spangym.utils.errors import UserError
from spangym.utils.suggestions import did_you_mean

FPS: int = SpanControlEnv.metadata["render_fps"]
_QUALITY = 8
"""Of 10: letters stay sharp."""


class PolicyRun(NamedTuple):
    """An agent and where it plays.

    Attributes:
        name: As it was asked for.
        agent: The agent.
        config: Of the environment, as the agent observes it.
    """

    name: str
    agent: Agent
    config: EnvConfig


def load_policy(environment: str, name: str, seed: int) -> PolicyRun:
    """Find an agent for an environment; it plays the streams that no training reads.

    Args:
        environment: A registered id.
        name: A shipped agent that needs no training, ``module:Class``, or the folder
            of a finished trial, whose study then says what the environment is like.
        seed: Of an agent that was not trained.

    Raises:
        UserError: There is no such environment or agent, or they do not go together.
    """
    folder = Path(name)
    if name not in BUILTIN_AGENTS and folder.is_dir():
        return _load_trained(full_id(environment), name, folder)
    if len(folder.parts) > 1 and ":" not in name:
        raise UserError(f"agent {name!r} is no folder; name that of a trial: {TRIAL_DIR_PATTERN}")
    if name not in BUILTIN_AGENTS and (":" not in name or name.startswith("fixed:")):
        raise UserError(
            f"agent {name!r} is unknown{did_you_mean(name, BUILTIN_AGENTS)} "
            "(besides, it may be module:Class of a refiner, or the folder of a trial)"
        )
    if name in BUILTIN_AGENTS and name != "refiner" and get_agent_spec(name).is_trainable:
        raise UserError(
            f"agent {name!r} has to be trained first: name the folder of a trial, as "
            + TRIAL_DIR_PATTERN.replace("AGENT", name)
        )
    # The agent's seed is not that of the stream, lest both draw the same numbers.
    own_seed = int(np.random.SeedSequence([seed, 2]).generate_state(1)[0]) >> 1
    entry = StudyAgent(name)
    agent = _make(entry, own_seed)
    kwargs = {"encoding": entry.spec().encoding, "split": "evaluation"}
    try:
        return PolicyRun(name, agent, make_config(full_id(environment), kwargs))
    except (TypeError, ValueError) as error:
        raise UserError(str(error)) from error


def _load_trained(environment: str, name: str, folder: Path) -> PolicyRun:
    trained = load_trained_agent(folder)
    trained_in = trained.trial.environment.id
    if trained_in != environment:
        raise UserError(
            f"the trial in {name!r} is of {trained_in}, not of {environment}: watch {trained_in}"
        )
    return PolicyRun(name, trained.agent, trained.config)


def _make(entry: StudyAgent, seed: int) -> Agent:
    try:
        entry.spec()
    except ValueError as error:
        raise UserError(str(error)) from error
    try:
        return make_agent(entry, seed)
    except (Exception, SystemExit) as error:  # Whatever a user's constructor may raise.
        raise UserError(
            f"agent {entry.algo!r} cannot be made: {type(error).__name__}: {error}"
        ) from error


def render_episode(policy_run: PolicyRun, seed: int, render_mode: str) -> Iterator[Any]:
    """Play an episode.

    Args:
        policy_run: What plays where.
        seed: Seed of the stream.
        render_mode: ``ansi`` or ``rgb_array``.

    Yields:
        What the environment shows before the first decision and after each.

    Raises:
        UserError: The agent fails, or acts as the environment does not let it.
    """
    env = SpanControlEnv(render_mode=render_mode, **dataclasses.asdict(policy_run.config))
    observation, _ = env.reset(seed=seed)
    notify_episode_start(policy_run.agent, env)
    yield env.render()
    truncated = False
    while not truncated:
        try:
            action = policy_run.agent.predict(np.array([observation]))[0]
        except Exception as error:  # Whatever a user's refiner may raise.
            raise UserError(
                f"agent {policy_run.name!r} failed: {type(error).__name__}: {error}"
            ) from error
        try:
            observation, _, _, truncated, _ = env.step(action)
        except ValueError as error:
            raise UserError(f"agent {policy_run.name!r}: {error}") from error
        yield env.render()


def check_video(path: Path) -> None:
    """Refuse a file that could not be written as a video, before anything is played.

    Raises:
        UserError: Its ending is none of a video, it cannot be written, or a package is missing.
    """
    if path.suffix.lower() not in _WRITERS:
        raise UserError(f"--video: {str(path)!r} must end in {' or '.join(_WRITERS)}")
    check_writable_file("--video", path)
    if path.suffix.lower() == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UserError(
            "--video needs the package imageio-ffmpeg for .mp4: install it by "
            "`pip install 'spangym[video]'`, or name a file that ends in .gif"
        )


def save_video(path: Path, frames: Iterable[NDArray[np.uint8]]) -> int:
    """Write a video, whole or not at all.

    Args:
        path: A file that `check_video` accepts.
        frames: Pictures, all of one size.

    Returns:
        How many frames it has.
    """
    counted = 0

    def count() -> Iterator[NDArray[np.uint8]]:
        nonlocal counted
        for frame in frames:
            counted += 1
            yield frame

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as tmp:
        _WRITERS[path.suffix.lower()](tmp, count())
    return counted


def _write_mp4(path: Path, frames: Iterator[NDArray[np.uint8]]) -> None:
    # Imported here: it is an extra.
    from imageio_ffmpeg import write_frames

    first = next(frames)
    height, width, _ = first.shape
    writer = write_frames(path, (width, height), fps=FPS, quality=_QUALITY)
    with contextlib.closing(writer):
        writer.send(None)
        writer.send(first)
        for frame in frames:
            writer.send(frame)


def _write_gif(path: Path, frames: Iterator[NDArray[np.uint8]]) -> None:
    first, *others = (Image.fromarray(frame) for frame in frames)
    milliseconds = 1000 // FPS
    first.save(path, save_all=True, append_images=others, duration=milliseconds, loop=0)


_WRITERS = {".mp4": _write_mp4, ".gif": _write_gif}
