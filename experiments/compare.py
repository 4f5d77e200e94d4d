"""Comparisons from Python: the same as the command ``spangym compare``."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from spangym.agents.agent_names import ALGORITHMS
from spangym.experiments.cli.terminal import make_console
from spangym.experiments.execute_run import execute_run
from spangym.experiments.run import Run
from spangym.experiments.runner.local_executor import LocalExecutor
from spangym.experiments.runner.manifest import available_cpus
from spangym.experiments.runner.workload import machine_memory
from spangym.experiments.studies.load_study import load_study, override_study
from spangym.experiments.studies.study import Study, StudyAgent, StudyEnv
from spangym.experiments.trials.start_comparison import start_comparison
from spangym.utils.errors import UserError
from spangym.utils.importing import forget_changed_modules, import_class
from spangym.utils.scalars import as_int, describe, plain
from spangym.utils.toml import describe_invalid


def compare(
    study: str | os.PathLike[str] | Study | None = None,
    *,
    agents: Sequence[str | type[Any] | StudyAgent] = (),
    environments: Sequence[str | StudyEnv] = (),
    seeds: int | Sequence[int] | None = None,
    total_timesteps: int | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str | None = None,
    out: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    quiet: bool = False,
) -> Run:
    """Train and evaluate the agents of a study and compare them, as ``spangym compare`` does.

    Everything is written to a run folder: report, figures, tables, trained agents. The same call
    again resumes interrupted trials there and keeps finished ones.

    Args:
        study: Built-in name, TOML file, or `Study`; ``quickstart`` by default. The other arguments
            replace parts of it.
        agents: Agents to compare with the baselines: names of the study's agents or of built-in
            ones, ``module:Class``, classes of importable modules, or `StudyAgent`.
        environments: Names of the study's environments, registered ids, or `StudyEnv`. Without
            ``study``, the comparison is named after the environment.
        seeds: Number of training seeds, counted from 0, or the seeds.
        total_timesteps: Steps of each training.
        settings: Single values by key, as ``--set`` of the command: ``AGENT.option`` is a
            hyperparameter, ``ENV.argument``, or ``argument`` of all, an environment argument,
            and ``evaluation.episodes``, ``n_envs`` and ``name`` are keys of the study.
        device: PyTorch device of the layers, such as ``cuda:0``.
        out: Run folder; ``runs/NAME`` by default.
        workers: Parallel jobs; one a CPU core by default.
        quiet: Whether nothing is displayed during the run.

    Returns:
        The results. Failed jobs are a warning and stand in `Run.failed`.

    Raises:
        TypeError: An argument has another type.
        ValueError: A name or an argument is wrong, or an agent or environment cannot be made.
        RuntimeError: Every job failed, or the results cannot be written.
        KeyboardInterrupt: Interrupted; finished jobs are kept.

    Example:
        >>> import spangym
        >>> run = spangym.compare(agents=["refiner", "dqn"], seeds=5)  # doctest: +SKIP
        >>> run.table[["agent", "return", "return_low", "return_high"]]  # doctest: +SKIP
    """
    _check_type("study", study, "a name, a path or a Study", str | os.PathLike | Study | None)
    _check_type("agents", agents, "a list", list | tuple)
    _check_type("environments", environments, "a list", list | tuple)
    for each in environments:
        _check_type("environments", each, "names, ids or StudyEnv", str | StudyEnv)
    _check_type("settings", settings, "a dict", Mapping | None)
    _check_type("out", out, "a path", str | os.PathLike | None)
    # Arrays and numbers of NumPy and PyTorch.
    seeds = getattr(seeds, "tolist", lambda: seeds)()
    total_timesteps = plain(total_timesteps)
    num_workers = available_cpus() if workers is None else as_int("workers", workers, 1, 1024)
    call = {name: value for name, value in locals().items() if value not in (None, (), False)}
    forget_changed_modules()
    try:
        chosen = override_study(
            study
            if isinstance(study, Study)
            else load_study(os.fspath("quickstart" if study is None else study)),
            seeds=seeds,
            total_timesteps=total_timesteps,
            agents=[_importable(each) for each in agents],
            environments=environments,
            device=device,
            settings=settings,
        )
    except ValidationError as error:
        raise UserError(describe_invalid(error)) from error
    if study is None and environments and "name" not in (settings or {}):
        names = [each.name for each in chosen.environments]
        chosen = replace(chosen, name=names[0] if len(names) == 1 else "comparison")
    folder, work = start_comparison(
        chosen,
        None if out is None else Path(out).expanduser(),
        command=["spangym.compare", *(f"{name}={value!r}" for name, value in call.items())],
        num_workers=num_workers,
        memory_bytes=machine_memory(),
    )
    data = execute_run(folder, work, LocalExecutor(num_workers), make_console(quiet=quiet))
    if failed := data.results.failed:
        name, reason = failed[0]
        warnings.warn(
            f"{len(failed)} of {len(folder.jobs())} jobs failed, see Run.failed; the first is "
            f"{name}: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )
    return Run(folder.name, data)


def _check_type(name: str, value: object, wanted: str, types: Any) -> None:
    if not isinstance(value, types):
        raise TypeError(f"{name} must be {wanted}, got {describe(value)}")


def _importable(agent: str | type[Any] | StudyAgent) -> str | StudyAgent:
    """Return an agent of a study; the name ``module:Class`` of a class."""
    if isinstance(agent, str | StudyAgent):
        return agent
    if not inspect.isclass(agent):
        raise UserError(f"agents: {agent!r:.80} is neither a name nor a class nor a StudyAgent")
    module, name = agent.__module__, agent.__qualname__
    for algo, path in ALGORITHMS.items():
        package, _, class_name = path.partition(":")
        if class_name == name and module.partition(".")[0] == package:
            return algo
    if module == "__main__":
        file = f"my_{name.lower()}"
        raise UserError(
            f"agent class {name!r} is defined in a notebook or script, which the processes of the "
            f"trials cannot import: put it in a file (in a notebook: %%writefile {file}.py) and "
            f"name it '{file}:{name}'"
        )
    if "." in name:
        raise UserError(
            f"agent class {name!r} of {module!r} must be at the top level of its module"
        )
    path = f"{module}:{name}"
    import_class(path, f"agent {path!r}")
    return path
