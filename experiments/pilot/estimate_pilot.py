"""The work of a pilot, estimated before it begins."""

from __future__ import annotations

from spangym.experiments.pilot.pilot_study import PilotStudy
from spangym.experiments.runner.workload import Workload

_FLOAT_BYTES = 4


def estimate_pilot(study: PilotStudy) -> Workload:
    """Estimate the work of a normalized study; nothing is run."""
    trials = len(study.variants) * len(study.seeds)
    in_environment = sum(
        each.agent is not None and each.learns == "environment" for each in study.variants
    )
    steps = {"updates": trials * study.updates}
    if in_environment:
        steps["steps of agents"] = in_environment * len(study.seeds) * study.agent_steps
    # A training keeps the input of each layer for the gradient, and two moments of each weight.
    sizes = study.model
    tokens = study.text.ctx if study.task == "text" else 1
    activations = study.batch * tokens * sizes.dims * sizes.num_layers
    weights = sizes.num_layers * (4 * sizes.dims**2 + 2 * sizes.dims * sizes.hidden)
    return Workload(trials, steps, _FLOAT_BYTES * (activations + 3 * weights))
