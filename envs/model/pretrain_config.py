"""How the shipped layers are trained: one table."""

from __future__ import annotations

from dataclasses import dataclass

from spangym.envs.model.stack import BlockSizes


@dataclass(frozen=True)
class Recipe:
    """How the layers of an id are trained: at random spans, so that they work at any.

    Attributes:
        source: Name of the source they read.
        sizes: Sizes of the stack.
        steps: Steps of the optimiser, at least 3.
        batch: Chunks in a step.
        learning_rate: Highest rate of a one-cycle schedule.
        full_span: Share of the decisions that are the full span, over those drawn at random.
        summary: Whether queries and keys of the global paths keep their first, small weights, so
            that these paths only average: retrieval is then the local paths'.
        seed: Of weights, batches and spans.
    """

    source: str
    sizes: BlockSizes
    steps: int
    batch: int = 16
    learning_rate: float = 3e-3
    full_span: float = 0.2
    summary: bool = False
    seed: int = 0


def _scenario(
    source: str, steps: int, *, causal: bool, win_size: int = 16, max_span: int = 144
) -> Recipe:
    sizes = BlockSizes(
        dims=32,
        ctx=128,
        win_size=win_size,
        max_span=max_span,
        causal=causal,
        hidden=64,
        classes=4,
    )
    return Recipe(source, sizes, steps, learning_rate=5e-3, summary=True)


RECIPES: dict[str, Recipe] = {
    "span-budget": Recipe("mixed", BlockSizes(), steps=3000),
    "long-range": _scenario("long-range", 600, causal=True),
    "collapse": _scenario("collapse", 500, causal=False),
    "precision": _scenario("precision", 500, causal=False),
    "hierarchy": _scenario("hierarchy", 1000, causal=True),
    "sparsity": _scenario("sparsity", 600, causal=True, win_size=8, max_span=72),
}
"""Recipes by the name of the weights."""
