"""``spangym leaderboard``: rank the agents of runs."""

from __future__ import annotations

import json as json_module

import typer

from spangym.experiments.cli.options import Json, Runs
from spangym.experiments.cli.terminal import echo, make_console, make_progress
from spangym.utils.atomic_io import atomic_write
from spangym.utils.text import printable


def command(folders: Runs, json: Json = None) -> None:
    """Replay the evaluation episodes of runs and rank the agents by score.

    Results that cannot be reproduced are left out of the ranking.

    Examples:
        spangym leaderboard runs/suite
        spangym leaderboard runs/mine runs/other --json leaderboard.json
    """
    import torch

    from spangym.experiments.analysis.rank_agents import leaderboard_table, make_leaderboard
    from spangym.experiments.runner.run_dir import RunDir
    from spangym.experiments.trials.comparison_run import COMPARISON

    runs = [RunDir.open(folder, COMPARISON) for folder in folders]
    torch.set_num_threads(1)
    console = make_console()
    with make_progress(console) as bars:
        bar = bars.add_task("replaying episodes", total=None)

        def progress(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total)

        board = make_leaderboard(runs, progress)
    console.print(leaderboard_table(board))
    console.print(
        f"score: 0 is random, 1 the oracle; interquartile mean over environments and training "
        f"seeds; {board.episodes:,} evaluation episodes replayed",
        style="dim",
        highlight=False,
    )
    for note in board.notes:
        console.print(printable(note), style="dim", markup=False, highlight=False)
    for rejected in board.rejected:
        echo(f"not reproduced: {rejected}", error=True)
    if json is not None:
        with atomic_write(json) as tmp:
            tmp.write_text(json_module.dumps(board.as_json(), indent=2) + "\n", "utf-8")
        echo(f"written: {json}")
    if board.rejected:
        raise typer.Exit(1)
