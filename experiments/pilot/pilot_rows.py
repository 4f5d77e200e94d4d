"""What the trainings of a pilot left behind, as tables, from which figures and report are made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray


@dataclass(frozen=True)
class AttentionMap:
    """The attention weights of one example in one layer, mean over the heads.

    Attributes:
        variant: Label of the variant.
        example: What was read, as text.
        layer: Index of the layer.
        path: ``local`` or ``global``; plain attention has a global path only.
        weights: Shape (queries, keys); rows sum to 1, or to 0 where the path is off.
        entropy: Mean over queries and heads of the entropy of the weights, in nats.
    """

    variant: str
    example: str
    layer: int
    path: str
    weights: NDArray[np.float32]
    entropy: float


@dataclass(frozen=True)
class PilotRows:
    """The rows of a pilot. All tables begin with ``variant`` (its label) and ``seed``.

    Attributes:
        task: ``speech`` or ``text``.
        variants: Labels of the variants, in the order of the study.
        baseline: Label of the variant that the others are compared with: plain attention.
        splits: What is evaluated, in order: ``seen`` and ``unseen`` voices; ``held out`` text.
        trainings: A row a finished training: ``updates`` (of the model), ``parameters``,
            ``seconds`` (wall time of the training, evaluation left out), ``milliseconds`` (median
            of an update), ``qk_pairs`` (query-key pairs scored in evaluation, mean of a layer
            and sequence, local path with all passes and, where there is one, global path),
            ``full_qk_pairs`` (of one pass of full attention), ``span`` (tokens, mean over layers in
            evaluation; NaN for plain attention) and ``stopped`` (why it ended early, in a line;
            empty if it did not).
        curves: A row each few updates: ``update`` (counted from 1), ``seconds`` (since the training
            began, evaluation left out) and ``loss`` (training loss, mean since the row before; bits
            a character for speech, a byte for text).
        evaluations: A row an evaluation and split: ``update``, ``seconds``, ``split``, ``loss``,
            ``error`` (word error rate, as a share; bits a byte for text) and ``character_error``
            (a share; NaN for text).
        spans: A row each few updates and layer: ``update``, ``seconds``, ``layer``, ``span``
            (tokens, mean over the sequences that were trained on since the row before) and
            ``qk_pairs`` (of a sequence, local path).
        by_span: What the trained model does at spans that are set: ``action`` (0 to 9, in every
            layer), ``split`` and ``error``; none for plain attention.
        attention_maps: Attention weights of chosen examples, of the first seed.
        failed: Names of trainings that failed, each with its error in a line.
        missing: How many trainings are neither finished nor known to have failed.
    """

    task: str
    variants: tuple[str, ...]
    baseline: str
    splits: tuple[str, ...]
    trainings: pd.DataFrame
    curves: pd.DataFrame
    evaluations: pd.DataFrame
    spans: pd.DataFrame
    by_span: pd.DataFrame
    attention_maps: tuple[AttentionMap, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    missing: int = 0
