"""``spangym defects``: measure the defects of the original layer."""

from __future__ import annotations

from dataclasses import asdict

from spangym.experiments.cli.options import Json
from spangym.experiments.cli.terminal import echo, make_console


def command(json: Json = None) -> None:
    """Measure the effect of each defect of the original layer.

    Examples:
        spangym defects
        spangym defects --json defects.json
    """
    import torch

    from spangym.experiments.benchmarks.measure import describe_bench, save_bench
    from spangym.experiments.benchmarks.original_defects import defects_table, measure_defects

    torch.set_num_threads(1)
    console = make_console(160)
    with console.status("measuring"):
        measured = list(measure_defects())
    console.print(defects_table(measured))
    if json is not None:
        save_bench(json, describe_bench(torch.device("cpu")), [asdict(each) for each in measured])
        echo(f"written: {json}")
