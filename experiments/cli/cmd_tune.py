"""``spangym tune``: search an agent's hyperparameters."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from spangym.experiments.cli.app import INTERRUPTED
from spangym.experiments.cli.catalog import agents, complete, spaces, studies
from spangym.experiments.cli.options import Set, Workers
from spangym.experiments.cli.terminal import echo, make_console, make_progress
from spangym.experiments.studies.field_types import MAX_EPISODES, MAX_SEEDS, MAX_STEPS
from spangym.utils.errors import RunError, UserError
from spangym.utils.text import printable, shell_join


def command(
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY",
            autocompletion=complete(studies),
            help="A TOML file or a built-in study.",
        ),
    ],
    agent: Annotated[
        str,
        typer.Option(
            metavar="AGENT",
            autocompletion=complete(agents),
            help="Name of the study's agent to tune.",
        ),
    ],
    trials: Annotated[
        int, typer.Option(metavar="N", min=1, max=10**5, help="Number of Optuna trials.")
    ] = 20,
    total_timesteps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MAX_STEPS,
            help="Steps of each training; default: the study's.",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(metavar="N", min=1, max=MAX_SEEDS, help="Training seeds of each trial.")
    ] = 1,
    episodes: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MAX_EPISODES,
            help="Evaluation episodes of a trial; default: 32, on a table 128.",
        ),
    ] = None,
    eval_levels: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=10**6,
            help="Levels of the evaluation on a table, those after the training's.",
        ),
    ] = 512,
    search_space: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            autocompletion=complete(spaces),
            help="A TOML file or a built-in search space; default: the agent's.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, max=2**32 - 1, help="Seed of the search.")
    ] = 0,
    settings: Set = None,
    workers: Workers = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder for the search; default: runs/tune-STUDY-TIME. A search in it is resumed.",
        ),
    ] = None,
) -> None:
    """Search for hyperparameters of a study's agent with Optuna.

    Examples:
        spangym tune long-range --agent dqn --trials 40
        spangym tune long-range --agent dqn --seeds 3 --set n_envs=4
    """
    from spangym.experiments.runner.folder_watch import FolderWatch
    from spangym.experiments.runner.local_executor import LocalExecutor
    from spangym.experiments.runner.manifest import available_cpus
    from spangym.experiments.runner.workload import Workload, machine_memory
    from spangym.experiments.studies.load_study import load_study, override_study
    from spangym.experiments.studies.settings import parse_settings
    from spangym.experiments.tables.build_tables import build_tables
    from spangym.experiments.trials.estimate_comparison import estimate_comparison
    from spangym.experiments.trials.smoke_test import smoke_test
    from spangym.experiments.tuning.search_space import load_search_space
    from spangym.experiments.tuning.tune import (
        TrialResult,
        build_search,
        find_study_agent,
        optimize,
        rank,
        save_best,
        tables_of_search,
        trials_table,
    )

    changes = parse_settings(settings or ())
    if fixed := [key for key in changes if key == "seeds" or key.startswith("evaluation.")]:
        raise UserError(f"setting {fixed[0]!r}: a search has its own: use --seeds and --episodes")
    chosen = override_study(load_study(study), total_timesteps=total_timesteps, settings=changes)
    algo = find_study_agent(chosen, agent).algo
    search = build_search(
        chosen,
        agent,
        load_search_space(str(search_space or algo)),
        num_trials=trials,
        seeds=seeds,
        seed=seed,
        episodes=episodes,
        eval_levels=eval_levels,
    )
    # Search trials are studies of one agent, without baselines.
    steps = {"training steps": trials * seeds * search.study.total_timesteps}
    peak = estimate_comparison(search.study).peak_bytes
    Workload(trials * seeds, steps, peak).check(machine_memory())
    smoke_test(search.study)
    folder = out or Path("runs", f"tune-{chosen.slug}-{datetime.now():%Y%m%d-%H%M%S}")
    console = make_console()
    console.print(f"{agent}: {search.describe()}", markup=False, highlight=False)
    folder.mkdir(parents=True, exist_ok=True)
    watch = FolderWatch(folder, *_command_without_out())
    tried: list[TrialResult] = []
    num_workers = workers or available_cpus()
    command = shell_join([*_command_without_out(), folder])
    try:
        build_tables(tables_of_search(search), LocalExecutor(num_workers), console, command)
        with make_progress(console) as bars:
            bar = bars.add_task("steps", total=trials * seeds * search.study.total_timesteps)

            def progress(done: int) -> None:
                watch.check()
                bars.update(bar, completed=done)

            path = folder.absolute()
            for each in optimize(search, path, num_workers, progress):
                watch.check()
                tried.append(each)
                line = printable(each)
                bars.console.print(line, markup=False, highlight=False, soft_wrap=True)
    except (OSError, KeyboardInterrupt) as error:
        if moved := watch.describe_move():
            echo(f"spangym: {moved}", error=True)
            raise typer.Exit(1) from None
        if isinstance(error, OSError):
            raise
        echo(error if error.args else f"interrupted: resume with: {command}", error=True)
        raise typer.Exit(INTERRUPTED) from None
    except RunError as error:
        echo(f"spangym: {error}", error=True)
        raise typer.Exit(1) from None
    finally:
        watch.close()
    if not (ranked := rank(tried)):
        raise UserError(f"every trial failed, the first with: {tried[0].error}")
    path = folder / "best.toml"
    save_best(path, search, ranked[0])
    console.print(trials_table(tried))
    echo(f"written: {path}, the best trial as an agent of a study")


def _command_without_out() -> list[str]:
    """Return the words of this command up to the value of ``--out``, which comes last."""
    words = ["spangym", *sys.argv[1:]]
    for index, word in reversed([*enumerate(words)]):
        if word == "--out":
            del words[index : index + 2]
        elif word.startswith("--out="):
            del words[index]
    return [*words, "--out"]
