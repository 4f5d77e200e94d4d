"""Token-by-token decoding: equality with one pass, memory, and a controller's decisions."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spangym.agents import Refiner
from spangym.attention import (
    DecodingCache,
    FocusAttention,
    HybridAttention,
    IntegratedAttention,
    LocalGlobalAttention,
    SpanConfig,
)
from spangym.attention.features import token_moments, tuple_hash_ids
from spangym.attention.layers.decoding_cache import RollingBuffer
from tests.factories import (
    POLICY_DIMS,
    SMALL_SPANS,
    RecordingController,
    make_exported_policy,
    make_layer,
    relative_error,
    varied_inputs,
)

LAYERS = (IntegratedAttention, FocusAttention, HybridAttention)


def make_causal(layer_class: Any = IntegratedAttention, **options: Any) -> Any:
    """A causal layer of `make_layer` whose weights are large enough to matter."""
    layer = make_layer(layer_class, causal=True, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for each in layer.parameters():
            each += 0.1 * torch.randn(each.shape, generator=generator)
    return layer


def decode(
    layer: LocalGlobalAttention, blocks: Iterable[Tensor], action: Any = None
) -> tuple[Tensor, DecodingCache]:
    outputs, cache = [], None
    for block in blocks:
        output, cache = layer.decode(block, cache, action)
        outputs.append(output)
    assert cache is not None
    return torch.cat(outputs, dim=1), cache


def varied_actions(batch: int, generator: torch.Generator) -> Tensor:
    return torch.randint(10, (batch,), generator=generator)


OPTIONS = st.fixed_dictionaries(
    {
        "temperature_law": st.sampled_from(
            ["longer", "shorter", "legacy", "legacy_unscaled", "none", "learned"]
        ),
        "soft_span": st.booleans(),
        "soft_edge_width": st.sampled_from([1, 5]),
        "scale_weights": st.booleans(),
        "local_projections": st.booleans(),
        "num_induction_heads": st.sampled_from([0, 2]),
        "num_refinement_steps": st.sampled_from([1, 2, 10]),
        "action_scale": st.sampled_from(["relative", "absolute"]),
        "win_size": st.sampled_from([1, 16, 24]),
        "global_path": st.sampled_from(["full", "pooled", "none"]),
        "pool": st.sampled_from([1, 4, 16]),
    }
)


class TestOnePass:
    @given(
        layer_class=st.sampled_from(LAYERS),
        options=OPTIONS,
        sizes=st.lists(st.sampled_from([1, 1, 2, 7, 30]), min_size=1, max_size=12),
        action=st.sampled_from([None, *range(10), "varied"]),
        seed=st.integers(0, 3),
    )
    @settings(max_examples=60, deadline=None)
    def test_every_option_in_any_blocks(
        self,
        layer_class: Any,
        options: dict[str, Any],
        sizes: list[int],
        action: Any,
        seed: int,
    ):
        """In double precision: rounding may decide that a query takes another pass."""
        generator = torch.Generator().manual_seed(seed)
        layer = make_causal(layer_class, **options).double()
        x = torch.randn(3, min(sum(sizes), 96), 32, generator=generator).double()
        if action == "varied":
            action = varied_actions(3, generator)
        found, _ = decode(layer, x.split([*clip(sizes, 96)], dim=1), action)
        assert relative_error(found, layer.forward_with_action(x, action).output) < 1e-12

    @pytest.mark.parametrize("global_path", ["full", "pooled", "none"])
    @pytest.mark.parametrize("steps", [1, 10])
    @pytest.mark.parametrize("actions", [None, (0, 1, 2), (3, 4, 5), (6, 7, 8), (9, 0, 5)])
    def test_single_precision_token_by_token(
        self, actions: tuple[int, ...] | None, steps: int, global_path: str, x: Tensor
    ):
        layer = make_causal(num_refinement_steps=steps, global_path=global_path)
        action = None if actions is None else torch.tensor(actions)
        found, _ = decode(layer, x.split(1, dim=1), action)
        expected = layer.forward_with_action(x, action).output
        for index in range(3):
            assert relative_error(found[index], expected[index]) < 1e-5

    @pytest.mark.parametrize("global_path", ["full", "pooled", "none"])
    def test_long_blocks(self, global_path: Any, generator: torch.Generator):
        """More tokens than are attended to together, and than the cache holds."""
        config = SpanConfig(**SMALL_SPANS, causal=True, global_path=global_path)
        layer = IntegratedAttention(512, 32, 4, config, generator=generator).double()
        x = torch.randn(2, 460, 32, generator=generator).double()
        found, _ = decode(layer, x.split([3, 300, 157], dim=1), 9)
        assert relative_error(found, layer.forward_with_action(x, 9).output) < 1e-12

    def test_numbers_of_actions(self, x: Tensor):
        layer = make_causal()
        output, _ = layer.decode(x, None, 20, num_actions=31)
        expected = layer.forward_with_action(x, 20, num_actions=31).output
        torch.testing.assert_close(output, expected)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, dtype: torch.dtype, x: Tensor):
        layer = make_causal(num_refinement_steps=1).to(dtype)
        found, cache = decode(layer, x.to(dtype).split(1, dim=1), 7)
        assert found.dtype == dtype
        assert cache.local.keys.entries().dtype == dtype
        expected = layer.forward_with_action(x.to(dtype), 7).output
        assert relative_error(found.float(), expected.float()) < 2e-2

    def test_autocast(self, x: Tensor):
        layer = make_causal(num_refinement_steps=1)
        with torch.autocast("cpu", torch.bfloat16):
            found, cache = decode(layer, x.split([40, 1, 29], dim=1), 7)
            expected = layer.forward_with_action(x, 7).output
        assert cache.local.keys.entries().dtype == torch.bfloat16
        assert relative_error(found.float(), expected.float()) < 2e-2


def attend_densely(layer: Any, local: Tensor, position: int, first: int, scale: float) -> Tensor:
    """Local output of a token, shape (dims,), from the keys of one sequence, (tokens, dims)."""
    config, head = layer.config, layer.head
    divisor = (1 + config.temp_scale * (1 - scale)) * (local.shape[1] / head) ** 0.5
    keys = local[first : position + 1].unflatten(1, (head, -1))
    query = keys[-1]
    previous = result = torch.zeros_like(query)
    for _ in range(config.num_refinement_steps):
        weights = (torch.einsum("hd,khd->hk", query, keys) / divisor).softmax(-1)
        result = torch.einsum("hk,khd->hd", weights, keys)
        change = (result - previous).abs().mean()
        if change < 1e-4 + 0.1 * change:
            break
        query, previous = query + result, result
    return result.flatten()


def clip(sizes: Sequence[int], most: int) -> Iterable[int]:
    """The first sizes, whose sum is at most ``most``."""
    for size in sizes:
        if size and most:
            yield min(size, most)
        most -= min(size, most)


class TestBlocks:
    def test_no_token_affects_an_earlier_output(self, x: Tensor):
        layer = make_causal()
        changed = torch.cat([x[:, :40], x[:, 40:] + 1], dim=1)
        one, _ = decode(layer, x.split([33, 37], dim=1), 8)
        other, _ = decode(layer, changed.split([33, 37], dim=1), 8)
        torch.testing.assert_close(one[:, :40], other[:, :40])
        assert (one[:, 40:] != other[:, 40:]).any(-1).all()

    @torch.no_grad()
    def test_another_action_starts_a_window(self, x: Tensor):
        """In the sequences whose action changes; windows of the others continue."""
        layer = make_causal(action_scale="absolute", num_refinement_steps=1).double()
        x = x.double()
        _, cache = layer.decode(x[:, :21], None, 3)
        changed, cache = layer.decode(x[:, 21:40], cache, torch.tensor([3, 9, 3]))
        assert cache.local.first_window.tolist() == [0, 21, 0]
        same = layer.forward_with_action(x[:, :40], 3).output[:, 21:]
        assert relative_error(changed[[0, 2]], same[[0, 2]]) < 1e-12
        # Windows of 16 tokens begin at 21 and 37, and reach back 8 tokens.
        local = layer.ln_a(x[1])
        expected = [
            attend_densely(layer, local, at, 13 if at < 37 else 29, 1.0) for at in range(21, 40)
        ]
        globe, _ = layer.attn_global(layer.ln_b(x[1:2]))
        joined = torch.cat([torch.stack(expected), globe[0, 21:40]], dim=-1)
        assert relative_error(changed[1], layer.projection(joined)) < 1e-12
        assert relative_error(changed[1], same[1]) > 1e-3

    def test_a_copied_cache_continues_on_its_own(self, x: Tensor):
        layer = make_causal()
        _, cache = layer.decode(x[:, :50], None, 5)
        other = copy.deepcopy(cache)
        layer.decode(-x[:, 50:], other, 5)
        found, _ = layer.decode(x[:, 50:], cache, 5)
        expected = layer.forward_with_action(x, 5).output[:, 50:]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    def test_no_gradients(self, x: Tensor):
        output, _ = make_causal(soft_span=True).decode(x.requires_grad_(), None, 5)
        assert not output.requires_grad


class TestErrors:
    @pytest.mark.parametrize("layer", [make_layer(), IntegratedAttention.original(96, 32, 4)])
    def test_layers_that_are_not_causal(self, layer: Any, x: Tensor):
        with pytest.raises(ValueError, match="needs a causal layer"):
            layer.decode(x)

    def test_paths_that_are_not_causal(self, x: Tensor):
        layer = make_layer()
        with pytest.raises(ValueError, match="needs a causal layer"):
            layer.attn_local.decode(x, torch.ones(3))
        with pytest.raises(ValueError, match="needs a causal layer"):
            layer.attn_global.decode(x)

    def test_the_full_global_path_holds_ctx_tokens(self, x: Tensor):
        layer = make_causal()
        _, cache = layer.decode(x)
        layer.decode(x[:, :26], cache)
        with pytest.raises(ValueError, match="at most ctx=96 tokens, got 97"):
            layer.decode(x[:, :1], cache)

    @pytest.mark.parametrize("global_path", ["pooled", "none"])
    def test_other_caches_hold_longer_texts(self, global_path: str, x: Tensor):
        layer = make_causal(global_path=global_path)
        output, cache = decode(layer, [x] * 4)
        assert cache.num_tokens == 4 * 70
        assert output.isfinite().all()
        with pytest.raises(ValueError, match="with 1 to 96 tokens"):
            layer.decode(torch.cat([x, x], dim=1), cache)

    def test_a_cache_of_something_else(self, x: Tensor):
        layer = make_causal()
        with pytest.raises(ValueError, match="cache is a LayerCache"):
            layer.decode(x, layer.step(x).cache)
        _, cache = layer.decode(x)
        with pytest.raises(ValueError, match="cache has 3 sequences and x 2"):
            layer.decode(x[:2, :1], cache)

    def test_wrong_inputs(self, x: Tensor):
        layer = make_causal()
        with pytest.raises(ValueError, match="x has shape"):
            layer.decode(x[..., :16])
        with pytest.raises(ValueError, match=r"action must be an integer in 0\.\.9"):
            layer.decode(x, None, 10)

    def test_a_controller_that_is_asked_for_a_part_of_a_text(self, x: Tensor):
        layer = make_causal()
        layer.refiner = RecordingController(5)
        for first, second in ((None, 5), (5, None)):
            _, cache = layer.decode(x[:, :20], None, first)
            with pytest.raises(ValueError, match="a whole text or for none of it"):
                layer.decode(x[:, 20:], cache, second)
            # The refused call has changed nothing.
            found, _ = layer.decode(x[:, 20:], cache, first)
            expected, _ = layer.decode(x, None, first)
            torch.testing.assert_close(found, expected[:, 20:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("global_path", "entries"), [("full", 96), ("pooled", 24), ("none", 0)])
def test_memory_is_bounded(global_path: Any, entries: int, generator: torch.Generator):
    """By the span in the local path, and by the number of tokens or blocks in the global one."""
    options = {"global_path": global_path, "pool": 4, "soft_span": True, "soft_edge_width": 8}
    config = SpanConfig(**SMALL_SPANS, causal=True, **options)
    layer = IntegratedAttention(96, 32, 4, config, generator=generator)
    x = torch.randn(2, 96, 32, generator=generator)
    for blocks in (x.split(1, dim=1), [x]):
        _, cache = decode(layer, blocks, 9)
        # Keys are values, and the longest span is 24 tokens.
        assert cache.local.nbytes == 2 * (24 + 8) * 32 * 4
        held = 0
        if cache.global_path is not None:
            assert cache.global_path.keys.entries().shape == (2, 4, entries, 8)
            # Memory grows by 256 entries at a time.
            assert cache.global_path.nbytes == 2 * 2 * 256 * 32 * 4
            held = cache.global_path.nbytes
        assert cache.nbytes == cache.local.nbytes + held
        assert cache.num_tokens == 96


@pytest.mark.cuda
@pytest.mark.parametrize("global_path", ["full", "pooled", "none"])
def test_on_a_cuda_device(global_path: str, x: Tensor):
    """Tokens are decoded without waiting for the device."""
    layer = make_causal(num_refinement_steps=1, soft_span=True, global_path=global_path)
    actions = torch.tensor([2, 5, 9])
    expected = copy.deepcopy(layer).double().forward_with_action(x.double(), actions).output
    layer, x, actions = layer.cuda(), x.cuda(), actions.cuda()
    outputs, cache = [], None
    try:
        for tokens in x.split([30, 1, 1, 28, *[1] * 10], dim=1):
            output, cache = layer.decode(tokens, cache, actions)
            outputs.append(output)
            torch.cuda.set_sync_debug_mode("error")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert relative_error(torch.cat(outputs, dim=1).cpu().double(), expected) < 1e-4


class TestRollingBuffer:
    @given(
        capacity=st.sampled_from([None, 1, 3, 8, 300]),
        sizes=st.lists(st.integers(1, 400), min_size=1, max_size=6),
    )
    @settings(max_examples=60, deadline=None)
    def test_the_last_entries(self, capacity: int | None, sizes: list[int]):
        buffer, total = RollingBuffer(capacity), sum(sizes)
        everything = torch.arange(total, dtype=torch.float64)[None, :, None]
        for block in everything.split(sizes, dim=1):
            buffer.append(block)
            kept = min(buffer.num_appended, capacity or total)
            assert len(buffer) == kept
            assert torch.equal(buffer.entries()[0, :, 0].long(), buffer.positions())
            assert sorted(buffer.positions().tolist()) == [
                *range(buffer.num_appended - kept, buffer.num_appended)
            ]
            some = (kept + 1) // 2
            end = buffer.num_appended
            assert torch.equal(buffer.last(some), everything[:, end - some : end])
        most = total + 256 if capacity is None else capacity
        assert buffer.nbytes <= most * 8


# --- a controller -----------------------------------------------------------------------------


class ByState(RecordingController):
    """Chooses actions by the state."""

    def __init__(self) -> None:
        super().__init__(0)

    def choose_action(self, state: int) -> int:
        self.action = 1 + state % 9
        return super().choose_action(state)


def dense_windows(layer: Any, x: Tensor) -> tuple[Tensor, list[int], list[int]]:
    """One sequence, (tokens, dims), window by window: output, states and starts of windows."""
    local, globe = layer.ln_a(x), layer.ln_b(x)[None]
    if layer.attn_global is not None:
        globe = layer.attn_global(globe)
        globe = globe[0] if isinstance(globe, tuple) else globe
    predicted = layer.span_pred(globe[:, :1])[0, 0].item()
    config = layer.config
    out, states, starts = torch.zeros_like(local), [], []
    start, observed = 0, local[:1]
    while start < len(x):
        (state,) = tuple_hash_ids(token_moments(observed)[None])
        scale = predicted * (1 + state % 9) / 9
        window, span = max(1, int(config.win_size * scale)), max(1, int(config.max_span * scale))
        for position in range(start, min(start + window, len(x))):
            first = max(0, start + window - span)
            out[position] = attend_densely(layer, local, position, first, scale)
        states.append(state)
        starts.append(start)
        observed = local[start : start + window]
        start += window
    joined = out if layer.attn_global is None else torch.cat([out, globe[0]], dim=-1)
    return layer.projection(joined), states, starts


class TestController:
    @pytest.mark.parametrize("layer_class", [IntegratedAttention, FocusAttention])
    @pytest.mark.parametrize("global_path", ["full", "pooled", "none"])
    @pytest.mark.parametrize("sizes", [[70], [1] * 70, [5, 1, 30, 34]])
    @torch.no_grad()
    def test_equal_to_a_dense_reference(
        self, layer_class: Any, global_path: str, sizes: list[int], x: Tensor
    ):
        layer, x = (
            make_causal(layer_class, global_path=global_path).double(),
            x.double() * torch.linspace(0.1, 3, 70)[:, None],
        )
        layer.refiner = controller = ByState()
        found, _ = decode(layer, x.split(sizes, dim=1))
        asked = []
        for index, each in enumerate(x):
            expected, states, starts = dense_windows(layer, each)
            assert relative_error(found[index], expected) < 1e-12
            assert len(starts) >= 5
            asked += [(start, index, state) for start, state in zip(starts, states, strict=True)]
        # By position, then by sequence: asked at each start of a window and nowhere else.
        assert controller.states == [state for *_, state in sorted(asked)]
        assert controller.updates == []

    def test_first_decision_is_that_of_a_pass(self, x: Tensor):
        layer = make_causal()
        layer.refiner = decoding = ByState()
        layer.decode(x[:, :1])
        layer.refiner = stepping = ByState()
        layer.eval().step(x)
        assert decoding.states == stepping.states

    def test_no_token_affects_an_earlier_output(self, x: Tensor):
        layer = make_causal()
        changed = torch.cat([x[:, :40], x[:, 40:] * 3 + 1], dim=1)
        outputs = []
        for each in (x, changed):
            layer.refiner = ByState()
            outputs.append(decode(layer, each.split(7, dim=1))[0])
        torch.testing.assert_close(outputs[0][:, :40], outputs[1][:, :40])

    def test_greedy_in_eval_mode_and_never_learns(self, x: Tensor):
        layer = make_causal()
        layer.refiner = refiner = Refiner(seed=0, epsilon=1.0, initial_q=1.0)
        before = copy.deepcopy(dict(refiner.state_dict()))
        actions = {}
        for training in (False, True):
            layer.train(training)
            _, cache = layer.decode(x)
            assert cache.decisions is not None
            actions[training] = cache.decisions.actions
        # Ties go to action 0, which turns the local path off.
        assert actions[False].tolist() == [0, 0, 0]
        assert (actions[True] > 0).any()
        after = dict(refiner.state_dict())
        assert {name for name in before if not torch.equal(before[name], after[name])} == {
            "generator"
        }

    def test_batch_controllers(self):
        """An exported agent sees the tokens since its last decision; sequences are independent."""
        config = SpanConfig(**SMALL_SPANS, causal=True)
        layer = IntegratedAttention(96, POLICY_DIMS, 4, config).double().eval()
        x = varied_inputs(4, 60).double()
        for encoding in ("box", "features"):
            layer.refiner = make_exported_policy(encoding)
            together, cache = decode(layer, x.split(1, dim=1))
            assert cache.decisions is not None
            assert len({*cache.decisions.ends}) > 1
            for index in range(4):
                alone, own = decode(layer, [x[index : index + 1]])
                assert own.decisions is not None
                assert own.decisions.ends == [cache.decisions.ends[index]]
                assert relative_error(alone[0], together[index]) < 1e-12

    def test_invalid_actions(self, x: Tensor):
        layer = make_causal()
        layer.refiner = RecordingController(10)
        with pytest.raises(ValueError, match=r"must choose actions in 0\.\.9"):
            layer.decode(x)
