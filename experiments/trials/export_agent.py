"""``spangym export``: a trained agent as a file that controls any layer."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import cast

from spangym.agents.export import export_policy
from spangym.attention.controllers.exported import ExportedPolicy
from spangym.attention.controllers.protocol import ObservationTime
from spangym.envs.model.build_model import build_model
from spangym.experiments.trials.load_agent import load_trained_agent
from spangym.utils.errors import UserError


def export(folder: Path, out: Path) -> ExportedPolicy:
    """Export the agent of a finished trial for `spangym.attention.load_controller`, atomically.

    Returns the policy; for an agent that observes the layer index, that of layer 0. A trial that is
    not finished, or an agent that cannot be exported, raises a UserError.
    """
    trial, agent, config = load_trained_agent(folder)
    try:
        # The action scale depends on the model alone, not on its data.
        action_scale = build_model(config, None, channels=0).layer(0).config.action_scale
        controller = export_policy(
            agent,
            config.observation_spec,
            observation_time=cast(ObservationTime, config.observation_time),
            action_scale=action_scale,
            layer=0,
            metadata={
                "algo": trial.agent.algo,
                "name": trial.agent.name,
                "hyperparameters": trial.agent.hyperparameters,
                "seed": trial.seed,
                "total_timesteps": trial.total_timesteps,
                "environment": trial.environment.id,
                "kwargs": trial.environment.kwargs,
                "spangym": importlib.metadata.version("spangym"),
            },
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the trial in {str(folder)!r}: {error}") from error
    out.parent.mkdir(parents=True, exist_ok=True)
    controller.save(out)
    return controller
