"""Text that the trained models of a pilot write, byte by byte."""

from __future__ import annotations

from pathlib import Path

import torch

from spangym.attention import IntegratedAttention
from spangym.experiments.pilot.model_training import ModelTrainingJob, make_env_config
from spangym.experiments.pilot.models import PilotModel, make_model
from spangym.experiments.pilot.online_env import OnlineQualityReward
from spangym.experiments.pilot.pilot_run import PilotDir
from spangym.experiments.pilot.pilot_study import PilotStudy
from spangym.experiments.pilot.pilot_tasks import Task, make_task
from spangym.experiments.pilot.span_policies import AgentController
from spangym.experiments.runner.job_files import save_json
from spangym.utils.errors import UserError
from spangym.utils.serialization import load_state, report_damage

GENERATED_FILE = "generated.json"

SAMPLING_TEMPERATURE = 0.8
"""Divisor of the logits; below 1, probable bytes are drawn more often than the model expects."""


def check_prompt(study: PilotStudy, prompt: str, num_bytes: int) -> None:
    """Raise a UserError if the models of a study cannot continue a prompt by so many bytes."""
    if study.task != "text":
        raise UserError("--generate is for models of text: `spangym pilot text`")
    length = len(prompt.encode("utf-8", "surrogateescape"))
    if length == 0:
        raise UserError("--generate needs a prompt of at least one byte")
    if length + num_bytes > study.text.ctx:
        raise UserError(
            f"a prompt of {length} bytes and {num_bytes} new ones are more than the context of "
            f"{study.text.ctx}: shorten the prompt, or set --bytes to at most "
            f"{max(0, study.text.ctx - length)}"
        )


def generate_texts(folder: PilotDir, prompt: str, num_bytes: int) -> dict[str, str]:
    """Let the finished models of the first seed continue a prompt, and write ``generated.json``.

    Returns:
        Text of each variant, without the prompt. Variants without one are missing: the original
        layer is not causal, and a training may have diverged.
    """
    study = folder.study()
    task, encoded = make_task(study), prompt.encode("utf-8", "surrogateescape")
    texts = {}
    for variant in study.variants:
        job = ModelTrainingJob(study, variant, study.seeds[0])
        if variant.attention == "original" or not folder.is_finished(job):
            continue
        if folder.result(job)["stopped"]:
            continue
        try:
            model = load_trained_model(job, folder.folder_of(job), task)
        except (OSError, ValueError) as error:
            raise UserError(f"{job.job_id} cannot be read: {error}") from error
        written = generate(model, encoded, num_bytes, torch.Generator().manual_seed(0))
        texts[variant.name] = written.decode("utf-8", "replace")
    save_json(
        folder.path / GENERATED_FILE,
        {
            "prompt": encoded.decode("utf-8", "replace"),
            "num_bytes": num_bytes,
            "model_seed": study.seeds[0],
            "sampling_temperature": SAMPLING_TEMPERATURE,
            "sampling_seed": 0,
            "texts": texts,
        },
    )
    return texts


def load_trained_model(job: ModelTrainingJob, folder: Path, task: Task) -> PilotModel:
    """Load the model of a finished training in eval mode, with its agent in its layers."""
    study, variant = job.study, job.variant
    sizes = (task.num_classes, task.ctx, job.seed)
    model = make_model(study.task, study.model, variant, *sizes).to(study.device).eval()
    path = folder / "model.safetensors"
    with report_damage(f"{path} is damaged", path):
        model.load_state_dict(load_state(path))
    if variant.agent is None:
        return model
    agent = variant.agent.make(job.seed)
    agent.load(folder / "agent")
    config, _ = make_env_config(variant, model, task, OnlineQualityReward())
    for index in range(model.num_layers):
        attention = model.attention(index)
        assert isinstance(attention, IntegratedAttention)
        attention.refiner = AgentController(agent, config.observation_spec, index)
    return model


def generate(model: PilotModel, prompt: bytes, num_bytes: int, generator: torch.Generator) -> bytes:
    """Sample the bytes after a prompt with the model's cache; the generator is on the CPU."""
    content = torch.tensor([[*prompt]], device=model.device)
    written, cache = [], None
    for _ in range(num_bytes):
        hidden, cache = model.decode(content, cache)
        with torch.no_grad():
            logits = model.head(hidden[:, -1]).double().cpu()
        probabilities = (logits / SAMPLING_TEMPERATURE).softmax(-1)
        content = torch.multinomial(probabilities, 1, generator=generator)
        written.append(int(content))
        content = content.to(model.device)
    return bytes(written)
