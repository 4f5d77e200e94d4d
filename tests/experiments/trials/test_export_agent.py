"""`spangym export`: the exported policy decides as the agent does."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spangym.attention import IntegratedAttention
from spangym.attention.controllers.exported import load_controller
from spangym.envs.observations import to_observations
from spangym.experiments.runner.job_files import clean_job_dir, make_parents
from spangym.experiments.runner.run_dir import RunDir
from spangym.experiments.studies.study import Study
from spangym.experiments.trials.comparison_run import COMPARISON, ComparisonDir
from spangym.experiments.trials.export_agent import export_agent
from spangym.experiments.trials.load_agent import load_trained_agent
from spangym.experiments.trials.trial import Trial
from spangym.utils.errors import UserError

from ..conftest import run_here


def run_trial(run: ComparisonDir, trial: Trial) -> None:
    make_parents([run.folder_of(trial)])
    clean_job_dir(run.folder_of(trial))
    trial.run(run.folder_of(trial))


@pytest.fixture(scope="module")
def run(tiny: Study, tmp_path_factory: pytest.TempPathFactory) -> ComparisonDir:
    """A run in which some agents are finished for the first seed."""
    run = RunDir(tmp_path_factory.mktemp("trials") / "run", COMPARISON)
    for trial in run.create(tiny, {}):
        if trial.seed == 0 and trial.agent.name in ("pooled", "dqn", "random"):
            run_trial(run, trial)
    return run


@pytest.mark.parametrize("name", ["pooled", "dqn"])
def test_what_is_exported_decides_as_the_agent_does(
    name: str,
    run: ComparisonDir,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    arguments = ["--agent", name, "--env", "SpanControl-v0", "--out", "new/it.safetensors"]
    assert run_here(monkeypatch, "export", run.path, *arguments) == 0
    trained = load_trained_agent(run, name)
    observes_layer = trained.config.include_layer_index
    index = ", layer=INDEX" if observes_layer else ""
    said = capsys.readouterr().out
    assert f"spangym.attention.load_controller('new/it.safetensors'{index})" in said
    assert "seed 0" in said
    assert [each.name for each in Path("new").iterdir()] == ["it.safetensors"]
    controller = load_controller("new/it.safetensors", layer=0 if observes_layer else None)
    metadata = controller.metadata
    assert (metadata["algo"], metadata["name"]) == (trained.trial.agent.algo, name)
    assert (metadata["environment"], metadata["seed"], metadata["total_timesteps"]) == (
        "spangym/SpanControl-v0",
        0,
        64,
    )
    assert metadata["kwargs"]["win_size"] == 16
    layer = IntegratedAttention(16, 8, 2)
    layer.refiner = controller
    local_input = torch.randn(300, 16, 8, generator=torch.Generator().manual_seed(0))
    config = trained.config
    spec = config.observation_spec
    numbers = spec.encode(spec.extract_from_input(local_input), 0).numpy()
    wanted = trained.agent.predict(to_observations(spec, numbers))
    assert controller(local_input).tolist() == wanted.tolist()


def test_the_file_is_named_after_the_agent(
    run: ComparisonDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert run_here(monkeypatch, "export", run.path, "--agent", "dqn", "--seed", 0) == 0
    assert [each.name for each in tmp_path.iterdir()] == ["dqn.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--agent", "random"], "RandomPolicy"),
        (["--agent", "poled"], "no agent 'poled'; did you mean 'pooled'"),
        (["--agent", "dqn", "--seed", "7"], "no training seed 7 of agent 'dqn'; it has 0, 1"),
        (["--agent", "dqn", "--env", "SpanControl-v1"], "did you mean 'SpanControl-v0'"),
        (["--agent", "dqn", "--seed", "1"], "not finished: resume with spangym compare --resume"),
        (["--agent", "dqn", "--out", "it.pt"], "must end in .safetensors"),
        (["--agent", "dqn", "--out", "."], "is a folder"),
        ([], "missing option '--agent'"),
    ],
)
def test_what_cannot_be_exported_says_why(
    run: ComparisonDir,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert run_here(monkeypatch, "export", run.path, *arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said.replace("Missing", "missing")
    assert not [*tmp_path.iterdir()]


def test_one_of_several_environments_has_to_be_named(tiny: Study, tmp_path: Path):
    """Nothing is trained: the trial is found before it is read."""
    (one,) = tiny.environments
    other = replace(one, name="other", kwargs={**one.kwargs, "temp_scale": 0.5})
    run = RunDir(tmp_path / "run", COMPARISON)
    run.create(replace(tiny, environments=(one, other)), {})
    with pytest.raises(UserError, match=r"several .*: SpanControl-v0, other$"):
        export_agent(run, "dqn", tmp_path / "it.safetensors")
    with pytest.raises(UserError, match=r"several .*: SpanControl-v0, other$"):
        export_agent(run, "dqn", tmp_path / "it.safetensors", "spangym/SpanControl-v0")
    with pytest.raises(UserError, match=r"trial other/dqn/seed-1 in .* is not finished"):
        export_agent(run, "dqn", tmp_path / "it.safetensors", "other", 1)
    with pytest.raises(UserError, match=r"trial SpanControl-v0/dqn/seed-0 in .* is not finished"):
        export_agent(run, "dqn", tmp_path / "it.safetensors", "SpanControl-v0")


def test_a_failed_trial_says_how_it_failed(tiny: Study, tmp_path: Path):
    run = RunDir(tmp_path / "run", COMPARISON)
    trial = next(each for each in run.create(tiny, {}) if each.agent.name == "dqn")
    run.folder_of(trial).mkdir(parents=True)
    (run.folder_of(trial) / "error.txt").write_text("Traceback\nValueError: not today\n")
    with pytest.raises(UserError, match=r"failed \(ValueError: not today\): resume with spangym"):
        export_agent(run, "dqn", tmp_path / "it.safetensors")


def test_a_custom_refiner_is_refused_before_it_is_loaded(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "plain_refiner.py").write_text(
        "class Plain:\n"
        "    def choose_action(self, state): return 1\n"
        "    def update(self, state, action, reward, next_state): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    agent = replace(tiny.agents[0], algo="plain_refiner:Plain", name="plain", hyperparameters={})
    run = RunDir(tmp_path / "run", COMPARISON)
    trial = next(
        each
        for each in run.create(replace(tiny, agents=(agent,)), {})
        if each.agent.name == "plain" and each.seed == 0
    )
    run_trial(run, trial)
    with pytest.raises(UserError, match="custom refiner"):
        export_agent(run, "plain", tmp_path / "plain.safetensors")
