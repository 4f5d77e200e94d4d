"""The preset against what the original code computed."""

import json
from typing import Any

import pytest
import torch

from spangym.attention import IntegratedAttention, SpanOptions
from spangym.attention.original import (
    OriginalAdaptiveUpdateAttention,
    OriginalSlidingWindowAttention,
    cut_attention,
)

from ..conftest import Golden

Recorded = Any


def parameters(recorded: Recorded, prefix: str) -> dict[str, torch.Tensor]:
    """Recorded parameters below a prefix, by their own names."""
    return {
        name.removeprefix(prefix): torch.from_numpy(recorded[name])
        for name in recorded
        if name.startswith(prefix)
    }


def tensor(recorded: Recorded, name: str) -> torch.Tensor:
    return torch.from_numpy(recorded[name])


@pytest.mark.parametrize("case", range(3))
@torch.no_grad()
def test_whole_layer_for_every_action(golden: Golden, case: int):
    recorded = golden("integrated_sdpa", f"case{case}.x")
    meta = json.loads(str(recorded[f"case{case}.meta"]))
    layer = IntegratedAttention.original(
        meta["ctx"],
        meta["dims"],
        meta["head"],
        max_dist=meta["max_dist"],
        win_size=meta["win_size"],
        max_span=meta["max_span"],
        temp_scale=meta["temp_scale"],
    )
    layer.load_state_dict(parameters(recorded, f"case{case}.param."))
    x = tensor(recorded, f"case{case}.x")
    for action in range(10):
        prefix = f"case{case}.action{action}."
        outcome = layer.outcome(x, action)
        torch.testing.assert_close(
            outcome.output, tensor(recorded, prefix + "out"), rtol=0, atol=1e-5
        )
        assert outcome.reward.item() == pytest.approx(recorded[prefix + "reward"], abs=1e-5)
        assert outcome.state == [recorded[prefix + "state"]]
        assert outcome.next_state == [recorded[prefix + "next_state"]]


@pytest.mark.parametrize(("fused", "tolerance"), [(True, 1e-5), (False, 5e-4)])
@pytest.mark.parametrize("case", range(3))
@torch.no_grad()
def test_local_path(golden: Golden, case: int, fused: bool, tolerance: float):
    name = "sliding_local_sdpa" if fused else "sliding_local_matmul"
    recorded = golden(name)
    meta = json.loads(str(recorded[f"case{case}.meta"]))
    local = OriginalSlidingWindowAttention(
        meta["head"],
        SpanOptions(
            win_size=meta["win_size"],
            max_span=meta["max_span"],
            max_dist=meta["max_dist"],
            temp_scale=meta["temp_scale"],
        ),
        fused=fused,
    )
    actions = [each for each in range(10) if f"case{case}.action{each}.x" in recorded]
    assert len(actions) >= 5
    for action in actions:
        prefix = f"case{case}.action{action}."
        scale = tensor(recorded, prefix + "span_scale")[:, 0]
        got = local(tensor(recorded, prefix + "x"), scale)
        expected = tensor(recorded, prefix + "out")
        torch.testing.assert_close(got.output, expected, rtol=0, atol=tolerance)
        assert got.spans.window[0] == recorded[prefix + "win_size"]
        if got.spans.span[0]:
            assert got.spans.span[0] == recorded[prefix + "span_len"]


@torch.no_grad()
def test_span_limited_attention(golden: Golden):
    recorded = golden("adaptive_span")
    cases = [name.removeprefix("meta") for name in recorded if name.startswith("meta")]
    assert len(cases) == 16
    for case in cases:
        meta = json.loads(str(recorded[f"meta{case}"]))
        m, strength = meta["span_scale"], meta["temp_scale"]
        temperature = 1 + strength * (1 - m) if meta["sharpen"] else 0.5 + strength * m
        got = cut_attention(
            *(tensor(recorded, f"{name}{case}") for name in "qkv"),
            scale=m,
            head=meta["heads"],
            max_span=meta["max_span"],
            max_dist=meta["max_dist"],
            temperature=None if meta["sdpa"] else temperature,
        )
        torch.testing.assert_close(got, tensor(recorded, f"out{case}"), rtol=0, atol=1e-5)


@torch.no_grad()
def test_global_path_on_a_stream(golden: Golden):
    recorded = golden("adaptive_update")
    attention = OriginalAdaptiveUpdateAttention(16, 4, causal=False)
    attention.load_state_dict(parameters(recorded, "param."))
    cache = None
    for step in range(8):
        out, cache = attention(tensor(recorded, f"x{step}"), cache=cache)
        torch.testing.assert_close(out, tensor(recorded, f"out{step}"), rtol=0, atol=1e-5)
        torch.testing.assert_close(cache.keys, tensor(recorded, f"key{step}"), rtol=0, atol=1e-5)
        torch.testing.assert_close(
            cache.values, tensor(recorded, f"value{step}"), rtol=0, atol=1e-5
        )


def test_refiner_decides_once_for_the_batch_and_learns_in_eval_mode(generator: torch.Generator):
    class Recording:
        def __init__(self) -> None:
            self.updates: list[tuple[int, int, float, int]] = []

        def choose_action(self, state: int) -> int:  # noqa: ARG002
            return 7

        def update(self, state: int, action: int, reward: float, next_state: int) -> None:
            self.updates.append((state, action, reward, next_state))

    refiner = Recording()
    layer = IntegratedAttention.original(40, 16, 2, refiner=refiner, generator=generator).eval()
    x = torch.randn(3, 40, 16, generator=generator)
    outcome = layer.outcome(x, 7)
    assert torch.equal(layer(x), outcome.output)
    (decision,) = refiner.updates
    assert decision == (outcome.state[0], 7, outcome.reward.item(), outcome.next_state[0])
    assert len(set(outcome.span.tolist())) == 1
