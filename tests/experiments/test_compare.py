"""`spangym.compare`: the same as the command, from Python."""

import dataclasses
import json
import textwrap
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO

import spangym
from spangym.experiments import compare as module
from spangym.experiments.runner.job import Event, Failed, PlacedJob, Started
from spangym.experiments.studies.study import Study, StudyAgent, StudyEnv
from spangym.utils.errors import RunError, UserError

from .conftest import TINY

SMALL = {"dims": 8, "heads": 2, "ctx": 16, "chunks_per_episode": 2, "win_size": 16}


def test_the_same_as_the_command(copied_run: Path, tmp_path: Path):
    """The jobs have the same keys, so that nothing is run again, and the outputs are the same."""
    before = {name: (copied_run / name).read_bytes() for name in ("evaluation.csv", "jobs.json")}
    files = {path: path.stat().st_mtime_ns for path in (copied_run / "jobs").rglob("*")}
    (copied_run / "evaluation.csv").unlink()
    (tmp_path / "tiny.toml").write_text(TINY)
    run = spangym.compare(tmp_path / "tiny.toml", out=copied_run, workers=1, quiet=True)
    assert {name: (copied_run / name).read_bytes() for name in before} == before
    assert {path: path.stat().st_mtime_ns for path in (copied_run / "jobs").rglob("*")} == files
    assert run.path == copied_run
    (resumed,) = json.loads((copied_run / "manifest.json").read_text())["resumed"]
    assert resumed["command"][0] == "spangym.compare"


class StoppedError(Exception):
    pass


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Study]:
    """The study that a call would run."""

    def make(*arguments: Any, **options: Any) -> Study:
        def stop(study: Study, *_: Any, **__: Any) -> None:
            raise StoppedError(study)

        monkeypatch.setattr(module, "start_comparison", stop)
        with pytest.raises(StoppedError) as stopped:
            spangym.compare(*arguments, **options)
        return stopped.value.args[0]

    return make


@pytest.mark.parametrize(
    "arguments",
    [
        {"study": 3},
        {"study": ["quickstart"]},
        {"agents": "refiner"},
        {"agents": None},
        {"environments": "SpanControl-v0"},
        {"environments": [3]},
        {"settings": [("ctx", 32)]},
        {"settings": {3: 4}},
        {"out": 3},
        {"workers": "2"},
        {"workers": True},
    ],
    ids=str,
)
def test_arguments_of_other_types_are_refused(arguments: dict[str, Any]):
    with pytest.raises(TypeError, match=f"{next(iter(arguments)).removesuffix('s')}.* must be"):
        spangym.compare(**arguments)


def test_an_empty_name_is_not_the_default():
    with pytest.raises(UserError, match="study ''"):
        spangym.compare("")


@pytest.mark.parametrize("seeds", [np.arange(2), np.int64(2), range(2), [np.int64(0), 1]], ids=str)
def test_numbers_of_other_libraries(seeds: Any, made: Callable[..., Study]):
    study = made(seeds=seeds, total_timesteps=np.int64(400))
    assert (study.seeds, study.total_timesteps) == ((0, 1), 400)


def test_default_is_quickstart(made: Callable[..., Study]):
    assert made().name == "quickstart"
    assert made(seeds=2, total_timesteps=400).seeds == (0, 1)


def test_composed_of_agents_and_environments(made: Callable[..., Study]):
    study = made(
        environments=[StudyEnv("SpanControl-v0", kwargs=SMALL)],
        agents=["ppo", PPO, "dqn", StudyAgent("dqn", "slow", hyperparameters={"gamma": 0.5})],
        seeds=[0, 5],
        total_timesteps=64,
    )
    assert study.name == "SpanControl-v0"
    assert [each.name for each in study.agents] == ["ppo", "dqn", "slow"]
    assert study.agents[2].hyperparameters == {"gamma": 0.5}
    assert study.seeds == (0, 5)
    assert study.environments[0].kwargs["ctx"] == 16


def test_environments_of_a_study_keep_their_arguments_and_agents(
    tiny: Study, made: Callable[..., Study]
):
    study = made(tiny, environments=["SpanControl-v0", StudyEnv("SpanControl-v0", "more")])
    assert study.name == "tiny"
    assert study.environments[0] == tiny.environments[0]
    assert [each.name for each in study.environments] == ["SpanControl-v0", "more"]
    assert study.agents == tiny.agents
    agents = [StudyAgent("dqn", environments=("more",)), StudyAgent("ppo", environments=("x",))]
    restricted = dataclasses.replace(
        tiny,
        agents=tuple(agents),
        environments=tuple(
            StudyEnv("SpanControl-v0", name, SMALL) for name in ("more", "x", "SpanControl-v0")
        ),
    )
    study = made(restricted, environments=["more", "SpanControl-v0"], settings={"more.ctx": 32})
    assert [each.name for each in study.agents] == ["dqn"]
    assert [each.kwargs["ctx"] for each in study.environments] == [32, 16]
    study = made(environments=["SpanBudget-v0", "spangym/Collapse-v0"])
    assert study.name == "comparison"
    ids = [each.id for each in study.environments]
    assert ids == ["spangym/SpanBudget-v0", "spangym/Collapse-v0"]


REFINER = """
    class Mine:
        def choose_action(self, state):
            return 0
        def {method}(self, state, action, reward, next_state):
            pass
"""


def test_a_class_is_named_by_its_module(
    tiny: Study, made: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "refiner_of_a_class.py"
    file.write_text(textwrap.dedent(REFINER.format(method="learn_from")))
    from refiner_of_a_class import Mine  # pyright: ignore[reportMissingImports]

    with pytest.raises(UserError, match=r"needs .* update"):
        spangym.compare(tiny, agents=[Mine])
    # As after an edit in a notebook, where the module stays imported.
    file.write_text(textwrap.dedent(REFINER.format(method="update")))
    (agent,) = made(tiny, agents=[Mine]).agents
    assert agent.algo == agent.name == "refiner_of_a_class:Mine"


def test_a_class_that_workers_cannot_import_is_refused(tiny: Study):
    class Local:
        pass

    with pytest.raises(UserError, match="top level of its module"):
        spangym.compare(tiny, agents=[Local])
    Local.__module__, Local.__qualname__ = "__main__", "Local"
    with pytest.raises(UserError, match=r"%%writefile my_local\.py.* 'my_local:Local'"):
        spangym.compare(tiny, agents=[Local])
    with pytest.raises(UserError, match="neither a name nor a class"):
        spangym.compare(tiny, agents=[3])  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"study": "quickstrat"}, "did you mean 'quickstart'"),
        ({"agents": ["refinr"]}, "did you mean 'refiner'"),
        ({"environments": ["SpanBudgt-v0"]}, "did you mean 'spangym/SpanBudget-v0'"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [-1]}, "seed must be"),
        ({"total_timesteps": 0}, "total_timesteps"),
        ({"device": "gpu"}, "device"),
    ],
)
def test_wrong_arguments_are_one_line(options: dict[str, Any], match: str):
    with pytest.raises(ValueError, match=match) as raised:
        spangym.compare(**options)
    assert isinstance(raised.value, UserError)
    assert "\n" not in str(raised.value)


class Ends:
    """An executor in which jobs of some agents fail, or which is interrupted."""

    def __init__(self, failing: str | None) -> None:
        self._failing = failing

    def run(self, jobs: Sequence[PlacedJob]) -> Generator[Event, None, None]:
        for job, _ in jobs:
            yield Started(job)
            if self._failing is None:
                raise KeyboardInterrupt
            if self._failing in job.job_id:
                yield Failed(job, "ValueError: no")


def test_failed_jobs(copied_run: Path, tiny: Study, monkeypatch: pytest.MonkeyPatch):
    (result,) = copied_run.glob("jobs/*/dqn/seed-1-*/result.json")
    result.unlink()
    monkeypatch.setattr(module, "LocalExecutor", lambda _: Ends("dqn"))
    with pytest.warns(RuntimeWarning, match="1 of 18 jobs failed.*ValueError: no"):
        run = spangym.compare(tiny, out=copied_run, quiet=True)
    assert run.failed == {"SpanControl-v0/dqn/seed-1": "ValueError: no"}


def test_if_every_job_fails_it_raises(tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "LocalExecutor", lambda _: Ends(""))
    with pytest.raises(RunError, match="every job failed, the first with: ValueError: no"):
        spangym.compare(tiny, out=tmp_path / "run", quiet=True)


def test_interrupt_says_how_to_go_on(
    copied_run: Path, tiny: Study, monkeypatch: pytest.MonkeyPatch
):
    (result,) = copied_run.glob("jobs/*/dqn/seed-1-*/result.json")
    result.unlink()
    monkeypatch.setattr(module, "LocalExecutor", lambda _: Ends(None))
    with pytest.raises(KeyboardInterrupt, match="17 of 18 jobs are finished; resume with"):
        spangym.compare(tiny, out=copied_run, quiet=True)
