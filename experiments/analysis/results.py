"""What finished trials left behind, as tables, from which statistics and figures are made."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from spangym.agents.registry import FIXED_SPAN_NAMES


@dataclass(frozen=True)
class Results:
    """The rows of a comparison, or of several together.

    An agent is told apart by its label, an environment by its label. A table has a row for each
    thing named and the columns given, in the order of the study.

    Attributes:
        environments: Labels of the environments.
        learners: Labels of the agents that are compared.
        baselines: Labels of the non-learning baselines: the oracle, the threshold on
            coverage, random, every fixed span.
        trials: A row a finished trial: ``environment``, ``agent``, ``training_seed``, ``return``
            (mean of an evaluation episode), ``score`` (0 for random, 1 for the oracle; NaN where
            these are missing or equal), ``regret`` (mean of a decision; NaN where it was not
            measured), ``mean_span`` (tokens), ``qk_pairs`` (of a decision), ``full_qk_pairs`` (of
            one pass of full attention), ``seconds`` (wall time) and ``steps`` (of the training; 0
            where there is nothing to learn).
        episodes: A row an evaluation episode: ``environment``, ``agent``, ``training_seed``,
            ``evaluation_seed``, ``return``, and whatever else was stored of it.
        curves: A row an episode of a training: ``environment``, ``agent``, ``training_seed``,
            ``step`` (environment steps of the training so far, over all environments), ``return``,
            ``qk_pairs`` (of the episode) and ``wall_seconds`` (since the training began).
            Environments that end an episode together have rows of the same step.
        action_counts: Actions taken in evaluation, a row for each layer, content type and action:
            ``environment``, ``agent``, ``training_seed``, ``layer``, ``content_type``, ``action``,
            ``count`` and ``mean_span`` (in tokens).
        failed: Names of trials that failed, each with its error in a line.
        missing: How many trials are neither finished nor known to have failed.
    """

    environments: tuple[str, ...]
    learners: tuple[str, ...]
    baselines: tuple[str, ...]
    trials: pd.DataFrame
    episodes: pd.DataFrame
    curves: pd.DataFrame
    action_counts: pd.DataFrame
    failed: tuple[tuple[str, str], ...] = ()
    missing: int = 0

    @property
    def agents(self) -> tuple[str, ...]:
        """Labels of all, learners first."""
        return (*self.learners, *self.baselines)

    @property
    def fixed_span_agents(self) -> tuple[str, ...]:
        """Labels of the fixed spans among the baselines."""
        return tuple(each for each in self.baselines if each in FIXED_SPAN_NAMES)
