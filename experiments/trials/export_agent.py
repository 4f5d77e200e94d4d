"""``spangym export``: a trained agent as a file that controls any layer."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import cast

from spangym.agents.export import check_exportable, export_policy
from spangym.attention.controllers.exported import ExportedPolicy
from spangym.attention.controllers.protocol import ObservationTime
from spangym.envs.model.build_model import build_model
from spangym.experiments.trials.comparison_run import ComparisonDir
from spangym.experiments.trials.load_agent import load_trained_agent
from spangym.utils.errors import UserError


def export_agent(
    run: ComparisonDir,
    agent: str,
    out: Path,
    environment: str | None = None,
    seed: int | None = None,
) -> ExportedPolicy:
    """Export an agent of a comparison for `spangym.attention.load_controller`, atomically.

    Args:
        run: Folder of the comparison.
        agent: Name of the agent in the study.
        out: File to write, ``.safetensors``; its folder is made.
        environment: Name or id of the environment; needed only if the agent has several.
        seed: Training seed; default: the first one of the study.

    Returns:
        The policy; for an agent that observes the layer index, that of layer 0, and for one that
        observes the cost coefficient, at the mean coefficient of the training. Its ``metadata``
        holds agent, seed and environment, and the spans of the actions on a pretrained model.

    Raises:
        UserError: There is no such trial, it is not finished, or its agent cannot be exported.
    """
    try:
        # An agent without `load` cannot be exported either; that is the reason to give.
        trial, trained, config = load_trained_agent(
            run, agent, environment, seed, check=check_exportable
        )
        # The action scale depends on the model alone, not on its data.
        action_scale = config.action_scale
        if not config.model:
            action_scale = build_model(config, None, channels=0).layer(0).config.action_scale
        controller = export_policy(
            trained,
            config.observation_spec,
            observation_time=cast(ObservationTime, config.observation_time),
            action_scale=action_scale,
            layer=0,
            cost_coef=config.mean_cost_coef,
            metadata={
                "algo": trial.agent.algo,
                "name": trial.agent.name,
                "hyperparameters": trial.agent.hyperparameters,
                "seed": trial.seed,
                "total_timesteps": trial.total_timesteps,
                "environment": trial.environment.id,
                "kwargs": trial.environment.kwargs,
                "spangym": importlib.metadata.version("spangym"),
                # What `spangym.control` takes the actions to mean.
                **({"spans": [*config.spans]} if config.model else {}),
            },
        )
    except UserError:
        raise
    except (RuntimeError, ValueError) as error:
        raise UserError(f"agent {agent!r} of {run.name!r}: {error}") from error
    out.parent.mkdir(parents=True, exist_ok=True)
    controller.save(out)
    return controller
