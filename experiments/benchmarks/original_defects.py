"""``spangym defects``: the effect of each defect of the original layer, measured on real text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from rich import box
from rich.table import Table as RichTable
from torch import Tensor

from spangym.agents import Refiner
from spangym.attention import NUM_ACTIONS, IntegratedAttention, SlidingWindowAttention, SpanConfig
from spangym.attention.layers.modules import split_heads
from spangym.attention.original.local_path import OriginalSlidingWindowAttention
from spangym.attention.original.truncation import OriginalSpanConfig
from spangym.envs.data.dataset import TextDataset

CTX, DIMS, HEADS = 256, 64, 4
MAX_ACTION = NUM_ACTIONS - 1

COLUMNS = ("#", "defect", "measured", "original", "default", "with an option")


@dataclass(frozen=True)
class Defect:
    """A defect and its effect.

    Attributes:
        number: Number of the defect; empty for all defects together.
        name: Behavior of the original.
        measure: Measured quantity.
        original: Its value for the original layer.
        default: Its value for the default layer.
        option: Its value for the default layer with the option that fixes a defect it keeps.
        option_name: That option; empty without one.
    """

    number: str
    name: str
    measure: str
    original: float
    default: float
    option: float | None = None
    option_name: str = ""

    def to_row(self) -> tuple[str, ...]:
        """The row as text, in the order of `COLUMNS`."""
        option = "" if self.option is None else f"{self.option:.3g} (`{self.option_name}`)"
        return (
            self.number,
            self.name,
            self.measure,
            f"{self.original:.3g}",
            f"{self.default:.3g}",
            option,
        )


def measure_defects() -> Iterator[Defect]:
    """Measure every defect, on layers with the same random weights and the same text.

    Yields:
        The defects in order, then all of them together.
    """
    text = _Text()
    x = text.chunks(2)
    mask = torch.rand(CTX, CTX, generator=text.generator) < 0.5

    def temperature(make: _Make) -> float:
        weak, strong = (
            make(temp_scale=each).forward_with_action(x, MAX_ACTION) for each in (0.01, 1.0)
        )
        return _change(weak.local_output, strong.local_output)

    yield _both(
        "1",
        "fused attention ignores the temperature",
        "change of the local output as `temp_scale` goes from 0.01 to 1",
        temperature,
    )
    yield _both(
        "2",
        "the local path is causal, by position inside the slice",
        "share of the later keys in a query's interval that reach it",
        lambda make: _reach(make().attn_local)[0],
    )
    yield _both(
        "3",
        "masks and cross-attention input are ignored",
        "change of the output as half of the keys are masked",
        lambda make: _change(
            make().forward_with_action(x, MAX_ACTION).output,
            make().forward_with_action(x, MAX_ACTION, mask=mask).output,
        ),
    )
    yield _both(
        "4",
        "global queries and keys are scaled twice",
        "standard deviation of the global scores",
        lambda make: _global_scores(make(), x).std().item(),
    )
    config = SpanConfig(win_size=32, max_span=48)
    unfused = OriginalSpanConfig(win_size=32, max_span=48, fused=False)
    yield Defect(
        "5",
        "queries and keys are cut to the first of their slice",
        "share of the keys in a query's interval that reach it (without fused attention)",
        _reach(OriginalSlidingWindowAttention(DIMS, HEADS, unfused))[1],
        _reach(SlidingWindowAttention(DIMS, HEADS, config))[1],
    )
    yield _both(
        "6",
        "a batch shares stopping, span, state and reward",
        "change of a sequence's reward if another is added to the batch",
        lambda make: _change(
            make().forward_with_action(x[:1], MAX_ACTION).reward,
            make().forward_with_action(x, MAX_ACTION).reward[:1],
        ),
    )
    yield _both(
        "7",
        "ties go to action 0, which turns the local path off",
        "share of such decisions of a new Refiner, over 500 chunks",
        lambda make: _share_off(make(), _Text()),
    )
    absolute = _default(action_scale="absolute")
    yield replace(
        _both(
            "8",
            "the action multiplies a prediction near one half",
            "longest span, as a share of `max_span`",
            lambda make: _longest_span(make(), x),
        ),
        option=_longest_span(absolute, x),
        option_name='action_scale="absolute"',
    )
    soft = _default(soft_span=True)
    yield replace(
        _both(
            "9",
            "the span leaves the graph",
            "norm of the span predictor's gradient, of the mean square output",
            lambda make: _gradient(make(), x),
        ),
        option=_gradient(soft, x),
        option_name="soft_span=True",
    )
    yield _both(
        "10",
        "explores and learns in eval mode",
        "decisions with exploration, and updates, in 10 passes in eval mode",
        lambda make: _asked_in_eval(make(), x),
    )
    predicted = _default(use_refresh_predictors=True)
    yield replace(
        _both(
            "11",
            "keys and values are cached and never read",
            "change of the output if chunks are a stream, over 10 chunks",
            lambda make: _cache_effect(make(), _Text()),
        ),
        option=_cache_effect(predicted, _Text()),
        option_name="use_refresh_predictors=True",
    )
    yield _both(
        "",
        "all of them",
        "quality of the local output at the longest span",
        lambda make: make().forward_with_action(x, MAX_ACTION).reward.mean().item(),
    )
    yield _both(
        "",
        "all of them",
        "fixed span with the highest mean quality, as a share of `max_span`, over 32 chunks",
        lambda make: _best_fixed_span(make(action_scale="absolute"), _Text()),
    )


def defects_table(defects: list[Defect]) -> RichTable:
    """The defects for the terminal."""
    table = RichTable(box=box.SIMPLE_HEAD)
    for column in COLUMNS:
        number = column in ("original", "default")
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for defect in defects:
        table.add_row(*(cell.replace("`", "") for cell in defect.to_row()))
    return table


_Make = Callable[..., IntegratedAttention]


def _both(number: str, name: str, measure: str, figure: Callable[[_Make], float]) -> Defect:
    return Defect(number, name, measure, figure(_original), figure(_default))


class _Text:
    """Chunks of text, embedded as in the environment."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self._numbers = np.random.default_rng(0)
        self._dataset = TextDataset("evaluation")
        self._embedding = torch.randn(256, DIMS, generator=self.generator)

    def chunks(self, count: int) -> Tensor:
        """Chunks from different places, shape (count, CTX, DIMS)."""
        streams = [self._dataset.sample(self._numbers, 1, CTX).content for _ in range(count)]
        return self._embedding[torch.from_numpy(np.concatenate(streams).astype(np.int64))]


def _weights() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _original(**options: Any) -> IntegratedAttention:
    return IntegratedAttention.original(CTX, DIMS, HEADS, **options, generator=_weights()).eval()


def _default(**options: Any) -> IntegratedAttention:
    return IntegratedAttention(CTX, DIMS, HEADS, SpanConfig(**options), generator=_weights()).eval()


def _change(one: Tensor, other: Tensor) -> float:
    """Norm of the difference over the norm of the first."""
    return ((one - other).norm() / one.norm()).item()


def _reach(local: SlidingWindowAttention) -> tuple[float, float]:
    """Shares of the keys in a query's interval that reach its output, its own position excluded.

    Returns:
        The share of the later keys, and the share of all keys.
    """
    tokens = 96
    scale = torch.tensor([32 / local.config.win_size])
    x = torch.randn(1, tokens, DIMS, generator=_weights(), requires_grad=True)
    outputs = local(x, scale).output[0]
    influence = [torch.autograd.grad(row.sum(), x, retain_graph=True)[0][0] for row in outputs]
    reached = torch.stack(influence).abs().amax(-1) > 0
    first, end = local.spans(scale).intervals(tokens)
    position = torch.arange(tokens)
    inside = (position >= first[0, :, None]) & (position < end[0, :, None])
    ahead, others = position > position[:, None], position != position[:, None]
    ahead_share, share = (
        ((reached & inside & which).sum() / (inside & which).sum()).item()
        for which in (ahead, others)
    )
    return ahead_share, share


def _global_scores(layer: IntegratedAttention, x: Tensor) -> Tensor:
    attention, globe = layer.attn_global, layer.ln_b(x)
    assert attention is not None
    query, key = attention.query_module(globe), attention.key_module(globe)
    return query @ key.transpose(-1, -2) * split_heads(globe, HEADS).shape[-1] ** -0.5


def _share_off(layer: IntegratedAttention, text: _Text) -> float:
    layer.refiner = Refiner(seed=0)
    layer.train()
    with torch.no_grad():
        off = [int(layer.step(text.chunks(1)).span[0]) == 0 for _ in range(500)]
    return sum(off) / len(off)


def _longest_span(layer: IntegratedAttention, x: Tensor) -> float:
    return layer.forward_with_action(x, MAX_ACTION).span.max().item() / layer.config.max_span


def _gradient(layer: IntegratedAttention, x: Tensor) -> float:
    layer.forward_with_action(x, MAX_ACTION).output.square().mean().backward()
    gradients = [each.grad for each in layer.span_pred.parameters() if each.grad is not None]
    return sum(each.square().sum().item() for each in gradients) ** 0.5


def _asked_in_eval(layer: IntegratedAttention, x: Tensor) -> int:
    counting = _CountingRefiner()
    layer.refiner = counting
    for _ in range(10):
        layer(x[:1])
    return counting.asked


@torch.no_grad()
def _cache_effect(layer: IntegratedAttention, text: _Text) -> float:
    chunks = text.chunks(10).split(1)
    alone = [layer.forward_with_action(chunk, MAX_ACTION).output for chunk in chunks]
    streamed, cache = [], None
    for chunk in chunks:
        layer_output = layer.forward_with_action(chunk, MAX_ACTION, cache=cache)
        cache = layer_output.cache
        streamed.append(layer_output.output)
    return _change(torch.cat(alone), torch.cat(streamed))


@torch.no_grad()
def _best_fixed_span(layer: IntegratedAttention, text: _Text) -> float:
    chunks = text.chunks(32).split(1)
    qualities = [
        sum(layer.forward_with_action(chunk, action).reward.item() for chunk in chunks)
        for action in range(NUM_ACTIONS)
    ]
    return int(np.argmax(qualities)) / MAX_ACTION


class _CountingRefiner(Refiner):
    """Counts decisions and updates."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.asked = 0

    def choose_action(self, state: int) -> int:
        self.asked += 1
        return super().choose_action(state)

    def update(
        self, state: int, action: int, reward: float, next_state: int, env_index: int = 0
    ) -> None:
        self.asked += 1
        super().update(state, action, reward, next_state, env_index)
