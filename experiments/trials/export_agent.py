"""``spangym export``: a trained agent as a file that any layer can be controlled by."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import cast

from spangym.agents.export_policy import freeze
from spangym.attention.controllers.exported import FrozenController
from spangym.attention.controllers.protocol import Observes
from spangym.envs.model.build_model import make_stack
from spangym.experiments.trials.load_agent import read_trial
from spangym.utils.atomic_io import written_whole
from spangym.utils.errors import UserError

ENDING = ".safetensors"


def export(folder: Path, out: Path) -> FrozenController:
    """Write the agent of a finished trial to a file for `spangym.attention.load_controller`.

    Args:
        folder: The trial's folder.
        out: The file, which is written whole or not at all.

    Returns:
        What was written; of an agent that observes the layer, the controller of the first.

    Raises:
        UserError: The folder is no finished trial's, or its agent cannot be frozen.
    """
    trained = read_trial(folder)
    trial, settings = trained.trial, trained.settings
    try:
        # Which layers a study names is known to the stack alone; what it reads does not matter.
        action_scale = make_stack(settings, None, channels=0).layer(0).action_scale
        controller = freeze(
            trained.agent,
            settings.observation,
            observes=cast(Observes, settings.observe),
            action_scale=action_scale,
            layer=0,
            made={
                "agent": trial.agent.agent,
                "label": trial.agent.label,
                "options": trial.agent.options,
                "seed": trial.seed,
                "steps": trial.steps,
                "environment": trial.environment.id,
                "arguments": trial.environment.arguments,
                "spangym": importlib.metadata.version("spangym"),
            },
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the trial in {str(folder)!r}: {error}") from error
    out.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(out) as aside:
        controller.save(aside)
    return controller
