"""How the shipped layers are trained: one table."""

from __future__ import annotations

from dataclasses import dataclass

from spangym.envs.model.stack import TransformerConfig


@dataclass(frozen=True)
class PretrainConfig:
    """How the layers of an id are trained: at random spans, so that they work at any.

    Attributes:
        dataset: Name of the dataset they read.
        model: Sizes of the stack.
        steps: Steps of the optimizer, at least 3.
        batch: Chunks in a step.
        learning_rate: Highest rate of a one-cycle schedule.
        p_full_span: Share of the decisions that are the full span, over those drawn at random.
        freeze_global_qk: Whether queries and keys of the global paths keep their first, small weights, so
            that these paths only average: retrieval is then the local paths'.
        seed: Of weights, batches and spans.
    """

    dataset: str
    model: TransformerConfig
    steps: int
    batch: int = 16
    learning_rate: float = 3e-3
    p_full_span: float = 0.2
    freeze_global_qk: bool = False
    seed: int = 0


def _scenario(
    dataset: str, steps: int, *, causal: bool, win_size: int = 16, max_span: int = 144
) -> PretrainConfig:
    model = TransformerConfig(
        dims=32,
        ctx=128,
        win_size=win_size,
        max_span=max_span,
        causal=causal,
        hidden=64,
        num_classes=4,
    )
    return PretrainConfig(dataset, model, steps, learning_rate=5e-3, freeze_global_qk=True)


PRETRAIN_CONFIGS: dict[str, PretrainConfig] = {
    "span-budget": PretrainConfig("mixed", TransformerConfig(), steps=3000),
    "long-range": _scenario("long-range", 600, causal=True),
    "collapse": _scenario("collapse", 500, causal=False),
    "precision": _scenario("precision", 500, causal=False),
    "hierarchy": _scenario("hierarchy", 1000, causal=True),
    "sparsity": _scenario("sparsity", 600, causal=True, win_size=8, max_span=72),
}
"""Training configurations by the name of the weights."""
