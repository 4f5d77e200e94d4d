"""Comparisons from Python: the same as the command ``spangym compare``."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from spangym.agents.agent_names import ALGORITHMS
from spangym.envs.registration import full_id
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
from spangym.utils.text import slug
from spangym.utils.toml import describe_validation_error


def compare(
    study: str | os.PathLike[str] | Study | None = None,
    *,
    agents: Sequence[str | type[Any] | StudyAgent] = (),
    environments: Sequence[str | StudyEnv] = (),
    seeds: int | Sequence[int] | None = None,
    total_timesteps: int | None = None,
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
        device: PyTorch device of the layers, such as ``cuda:0``.
        out: Run folder; ``runs/NAME`` by default.
        workers: Parallel jobs; one a CPU core by default.
        quiet: Whether nothing is displayed during the run.

    Returns:
        The results. Failed jobs are a warning and stand in `Run.failed`.

    Raises:
        ValueError: A name or an argument is wrong, or an agent or environment cannot be made.
        RuntimeError: Every job failed, or the results cannot be written.
        KeyboardInterrupt: Interrupted; finished jobs are kept.

    Example:
        >>> import spangym
        >>> run = spangym.compare(agents=["refiner", "dqn"], seeds=5)  # doctest: +SKIP
        >>> run.table[["agent", "return", "return_low", "return_high"]]  # doctest: +SKIP
    """
    call = {name: value for name, value in locals().items() if value not in (None, (), False)}
    forget_changed_modules()
    try:
        chosen = _make_study(study, agents, environments)
        if isinstance(seeds, Sequence):
            chosen = replace(chosen, seeds=tuple(seeds))
        chosen = override_study(
            chosen,
            seeds=seeds if isinstance(seeds, int) else None,
            total_timesteps=total_timesteps,
            agents=[_agent_name(each) for each in agents],
            device=device,
        )
    except ValidationError as error:
        raise UserError(describe_validation_error(error, Study)) from error
    num_workers = workers or available_cpus()
    folder, work = start_comparison(
        chosen,
        None if out is None else Path(out),
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


def _make_study(
    study: str | os.PathLike[str] | Study | None,
    agents: Sequence[str | type[Any] | StudyAgent],
    environments: Sequence[str | StudyEnv],
) -> Study:
    """Return a study with the given environments, and with the given agents among its own."""
    made = study if isinstance(study, Study) else load_study(os.fspath(study or "quickstart"))
    if given := [each for each in agents if isinstance(each, StudyAgent)]:
        names = {_agent_name(each) for each in given}
        others = (each for each in made.agents if each.name not in names)
        renamed = (replace(each, name=_agent_name(each)) for each in given)
        made = replace(made, agents=(*others, *renamed))
    if environments:
        made = _in_environments(made, environments)
        if study is None:
            names = [each.name or each.id.rpartition("/")[2] for each in made.environments]
            made = replace(made, name=slug(names[0]) if len(names) == 1 else "comparison")
    return made


def _in_environments(study: Study, environments: Sequence[str | StudyEnv]) -> Study:
    by_name = {each.name: each for each in study.environments}
    by_id = {each.id: each for each in reversed(study.environments)}
    chosen = tuple(
        each
        if isinstance(each, StudyEnv)
        else by_name.get(each) or by_id.get(full_id(each)) or StudyEnv(each)
        for each in environments
    )
    names = {each.name for each in chosen}
    agents = []
    for agent in study.agents:
        kept = tuple(each for each in agent.environments if each in names)
        if kept or not agent.environments:
            agents.append(replace(agent, environments=kept))
    return replace(study, environments=chosen, agents=tuple(agents))


def _agent_name(agent: str | type[Any] | StudyAgent) -> str:
    """Return the name of an agent in a study; a class is named ``module:Class``."""
    if isinstance(agent, StudyAgent):
        return agent.name or agent.algo[-80:]
    if not inspect.isclass(agent):
        if not isinstance(agent, str):
            raise UserError(f"agents: {agent!r:.80} is neither a name nor a class nor a StudyAgent")
        return agent
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
