"""Loading the agent of a finished trial."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from spangym.agents import Agent
from spangym.envs import EnvConfig
from spangym.envs.registration import full_id
from spangym.experiments.trials.comparison_run import ComparisonDir
from spangym.experiments.trials.players import AnyConfig, as_live
from spangym.experiments.trials.trial import Trial
from spangym.utils.errors import UserError, report_user_code
from spangym.utils.suggestions import did_you_mean


class TrainedAgent(NamedTuple):
    """The trained agent of a finished trial, and the configuration of its evaluation."""

    trial: Trial
    agent: Agent
    config: EnvConfig


def load_trained_agent(
    run: ComparisonDir,
    agent: str,
    environment: str | None = None,
    seed: int | None = None,
    check: Callable[[Agent], None] = lambda _: None,
) -> TrainedAgent:
    """Load an agent of a comparison.

    Args:
        run: Folder of the comparison.
        agent: Name of the agent in the study.
        environment: Name or id of the environment; needed only if the agent has several.
        seed: Training seed; default: the first one of the study.
        check: Called with the agent before its training is loaded; what it raises passes.

    Raises:
        UserError: There is no such trial, it is not finished, or its agent cannot be read.
    """
    trial = find_trial(run, agent, environment, seed)
    context = f"agent {agent!r} in {str(run.folder_of(trial))!r} cannot be read"
    # Users' classes and damaged files may raise anything.
    with report_user_code(context):
        loaded = trial.make_agent()
    check(loaded)
    with report_user_code(context):
        loaded.load(run.folder_of(trial) / "agent")
    config = stored_eval_config(trial)
    if not isinstance(config, EnvConfig):
        raise UserError(
            f"agent {agent!r} was trained in {config.id!r}, which is no environment of spangym: "
            "it can neither be watched nor exported"
        )
    return TrainedAgent(trial, loaded, config)


def find_trial(
    run: ComparisonDir, agent: str, environment: str | None = None, seed: int | None = None
) -> Trial:
    """Return a finished trial of a comparison; see `load_trained_agent`."""
    trials = run.jobs()
    names = dict.fromkeys(each.agent.name for each in trials)
    if agent not in names:
        raise UserError(
            f"the run in {run.name!r} has no agent {agent!r}{did_you_mean(agent, names)}"
        )
    trials = [each for each in trials if each.agent.name == agent]
    environments = {each.environment.name: each.environment.id for each in trials}
    if environment is not None:
        chosen = [name for name in environments if name == environment]
        chosen = chosen or [
            name for name, env_id in environments.items() if env_id == full_id(environment)
        ]
        if not chosen:
            raise UserError(
                f"the run in {run.name!r} has no agent {agent!r} in environment {environment!r}"
                + did_you_mean(environment, environments)
            )
        environments = {name: environments[name] for name in chosen}
        trials = [each for each in trials if each.environment.name in environments]
    if len(environments) > 1:
        raise UserError(
            f"the run in {run.name!r} has agent {agent!r} in several environments; name one of "
            f"them: {', '.join(environments)}"
        )
    if seed is None:
        # The trials of an agent are in the order of the study's seeds.
        trial = trials[0]
    else:
        seeds = [each.seed for each in trials]
        if seed not in seeds:
            raise UserError(
                f"the run in {run.name!r} has no training seed {seed} of agent {agent!r}; it has "
                f"{', '.join(map(str, seeds))}"
            )
        trial = trials[seeds.index(seed)]
    if not run.is_finished(trial):
        error = run.error(trial)
        state = f"has failed ({error})" if error else "is not finished"
        raise UserError(
            f"trial {trial.job_id} in {run.name!r} {state}: resume with {run.resume_command}"
        )
    return trial


def stored_eval_config(trial: Trial) -> AnyConfig:
    """Return the evaluation configuration of a stored trial; UserError if it cannot be made.

    It is live, which gives the same numbers as a table.
    """
    try:
        return as_live(trial.eval_config())
    except (TypeError, ValueError) as error:
        raise UserError(f"the study's environment cannot be made: {error}") from error
