"""`spangym export`: the exported policy decides as the agent does."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from spangym.attention import IntegratedAttention
from spangym.attention.controllers.exported import load_controller
from spangym.envs.observations import to_observations
from spangym.experiments.cli.app import app
from spangym.experiments.runner.job_files import clean_job_dir, make_parents
from spangym.experiments.runner.run_dir import RunDir
from spangym.experiments.studies.study import Study
from spangym.experiments.trials.comparison_run import COMPARISON
from spangym.experiments.trials.export_agent import export
from spangym.experiments.trials.load_agent import load_trained_agent
from spangym.utils.errors import UserError


@pytest.fixture(scope="module")
def trials(tiny: Study, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of finished trials, by the agent's label."""
    run = RunDir(tmp_path_factory.mktemp("trials") / "run", COMPARISON)
    folders = {}
    for trial in run.create(tiny, {}):
        if trial.seed == 0 and trial.agent.name in ("pooled", "dqn", "random"):
            folders[trial.agent.name] = run.folder_of(trial)
            make_parents([run.folder_of(trial)])
            clean_job_dir(run.folder_of(trial))
            trial.run(run.folder_of(trial))
    return folders


@pytest.mark.parametrize("label", ["pooled", "dqn"])
def test_what_is_exported_decides_as_the_agent_does(
    label: str, trials: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["export", str(trials[label]), "--out", "new/it.safetensors"])
    assert done.exit_code == 0, done.output
    observes_layer = load_trained_agent(trials[label]).config.include_layer_index
    index = ", layer=INDEX" if observes_layer else ""
    assert f"spangym.attention.load_controller('new/it.safetensors'{index})" in done.output
    assert [each.name for each in Path("new").iterdir()] == ["it.safetensors"]
    controller = load_controller("new/it.safetensors", layer=0 if observes_layer else None)
    trained = load_trained_agent(trials[label])
    metadata = controller.metadata
    assert (metadata["algo"], metadata["name"]) == (trained.trial.agent.algo, label)
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


def test_what_cannot_be_exported_says_why(
    trials: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "it.safetensors"
    with pytest.raises(UserError, match="RandomPolicy"):
        export(trials["random"], out)
    with pytest.raises(UserError, match="is not of a trial: name one as RUN/jobs/ENVIRONMENT/"):
        export(tmp_path, out)
    with pytest.raises(UserError, match="is not of a trial of the study"):
        export(trials["dqn"].parent / "seed-7", out)
    run = RunDir(trials["dqn"].parents[3], COMPARISON)
    unfinished = next(each for each in run.jobs() if each.job_id.endswith("dqn/seed-1"))
    with pytest.raises(UserError, match=r"is not finished: .* spangym compare --resume"):
        export(run.folder_of(unfinished), out)
    assert not list(tmp_path.iterdir())
    for name, message in (("it.pt", r"must end in \.safetensors"), (".", "is a folder")):
        done = CliRunner().invoke(app, ["export", str(trials["dqn"]), "--out", name])
        assert isinstance(done.exception, UserError)
        with pytest.raises(UserError, match=message):
            raise done.exception
