"""An executor that runs jobs in this process, and may be interrupted after some of them."""

from collections.abc import Generator, Sequence

from spangym.experiments.runner.job import Event, PlacedJob, Started
from spangym.experiments.runner.job_files import make_parents
from spangym.experiments.runner.run_job import run_job


class InlineExecutor:
    """Runs jobs one after the other.

    Attributes:
        ran: Ids of the jobs that were run.
    """

    def __init__(self, interrupt_after: int | None = None) -> None:
        self._interrupt_after = interrupt_after
        self.ran: list[str] = []

    def run(self, jobs: Sequence[PlacedJob]) -> Generator[Event, None, None]:
        make_parents(folder for _, folder in jobs)
        for job, folder in jobs:
            if len(self.ran) == self._interrupt_after:
                raise KeyboardInterrupt
            yield Started(job)
            self.ran.append(job.job_id)
            yield run_job(job, folder, lambda _: None, 0.0)
