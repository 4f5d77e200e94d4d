"""Actions and controllers of a layer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from spangym.agents import Refiner
from spangym.attention import SpanGeometry
from tests.factories import RecordingController, make_layer

from ...conftest import Golden


def test_parameters_have_the_originals_names(golden: Golden):
    prefix = "case0.param."
    recorded = {name for name in golden("integrated_sdpa") if name.startswith(prefix)}
    names = {name.removeprefix(prefix) for name in recorded}
    # The original has one more, which nothing reads.
    assert names - {"attn_local.span_scale"} == set(make_layer().state_dict())


class TestActions:
    def test_scale_the_prediction(self, x: Tensor):
        layer = make_layer()
        predicted = layer.forward_with_action(x).span_scale
        for action in range(10):
            output = layer.forward_with_action(x, action)
            torch.testing.assert_close(output.span_scale, predicted * action / 9)
            spans = SpanGeometry.from_scale(
                output.span_scale, win_size=16, max_span=24, max_dist=48
            )
            assert torch.equal(output.window, spans.window)
            assert torch.equal(output.span, spans.span)
        off = layer.forward_with_action(x, 0)
        assert off.local_output.abs().max() == 0
        assert off.qk_pairs.tolist() == [0, 0, 0]

    def test_absolute_ones_ignore_the_prediction(self, x: Tensor):
        layer = make_layer(action_scale="absolute")
        assert layer.forward_with_action(x, 9).span.tolist() == [24] * 3
        assert layer.forward_with_action(x, torch.tensor([0, 3, 6])).span.tolist() == [0, 8, 16]
        assert layer.forward_with_action(x).span.max() < 24

    def test_of_numpy(self, x: Tensor):
        layer = make_layer()
        expected = layer.forward_with_action(x, 3).output
        assert torch.equal(layer.forward_with_action(x, np.full(3, 3)).output, expected)
        layer.refiner = RecordingController(np.array(3))  # type: ignore[arg-type]
        assert torch.equal(layer(x), expected)


class TestController:
    def test_controls_the_layer_and_learns_in_train_mode_only(self, x: Tensor):
        layer, controller = make_layer(), RecordingController(7)
        layer.refiner = controller
        expected = layer.forward_with_action(x, 7)
        assert torch.equal(layer(x), expected.output)
        assert controller.states == expected.state
        assert controller.updates == []
        layer.train()(x)
        rewards = expected.reward.tolist()
        updates = zip(expected.state, [7] * 3, rewards, expected.next_state, strict=True)
        assert controller.updates == list(updates)

    @pytest.mark.parametrize("causal", [False, True])
    def test_is_asked_for_the_states_of_the_output(self, causal: bool, x: Tensor):
        layer, controller = make_layer(causal=causal), RecordingController(5)
        layer.refiner = controller
        first = layer.step(x)
        second = layer.step(x * 2, cache=first.cache)
        assert controller.states == first.state + second.state

    def test_is_greedy_in_eval_mode(self, x: Tensor):
        layer = make_layer()
        layer.refiner = Refiner(seed=0, epsilon=1.0)
        layer.refiner.update(layer.step(x).state[0], 7, 1.0, 0)
        before = layer.state_dict()
        outputs = [layer(x) for _ in range(3)]
        assert torch.equal(outputs[0], layer.forward_with_action(x, torch.tensor([7, 0, 0])).output)
        assert all(torch.equal(outputs[0], each) for each in outputs)
        for name, tensor in layer.state_dict().items():
            assert torch.equal(tensor, before[name])
        checkpoint(layer, x, use_reentrant=False).sum().backward()

    def test_cannot_learn_twice_under_checkpointing(self, x: Tensor):
        layer = make_layer().train()
        layer.refiner = Refiner(seed=0, epsilon=1.0)
        y = checkpoint(layer, x, use_reentrant=False)
        with pytest.raises(RuntimeError, match=r"layer\.select_actions\(x\)"):
            y.sum().backward()
        action = layer.select_actions(x)
        output = checkpoint(layer.forward_with_action, x, action, use_reentrant=False)
        output.output.sum().backward()
        layer.refiner = Refiner()
        layer.update_controller(output, action)
        pairs = zip(output.state, action.tolist(), strict=True)
        assert all(layer.refiner.get_value(*each) != 0 for each in pairs)

    @pytest.mark.parametrize("action", [10, -1, 3.0, "3"])
    def test_with_an_invalid_action_is_an_error(self, action: int, x: Tensor):
        layer = make_layer()
        layer.refiner = RecordingController(action)
        with pytest.raises(ValueError, match=r"refiner .* 0\.\.9"):
            layer(x)

    def test_other_objects_are_refused(self):
        with pytest.raises(TypeError, match="class Refiner"):
            make_layer().refiner = Refiner
        with pytest.raises(TypeError, match=r"choose_action.*update.*object"):
            make_layer().refiner = object()


class LearnedController(torch.nn.Module):
    """A controller that is a module."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Parameter(torch.arange(10.0))

    def choose_action(self, state: int) -> int:  # noqa: ARG002
        return int(self.table.argmax())

    def update(self, state: int, action: int, reward: float, next_state: int) -> None:
        pass


class TestStateDict:
    def test_holds_the_refiner(self, x: Tensor, tmp_path: Path):
        layer = make_layer().train()
        layer.refiner = Refiner(seed=0, epsilon=0.5)
        for _ in range(5):
            layer(x)
        torch.save(layer.state_dict(), tmp_path / "layer.pt")
        other = make_layer().train()
        other.refiner = Refiner(seed=1, epsilon=0.5)
        other.load_state_dict(torch.load(tmp_path / "layer.pt", weights_only=True))
        for state in layer.eval().step(x).state:
            for action in range(10):
                assert other.refiner.get_value(state, action) == layer.refiner.get_value(
                    state, action
                )

    def test_holds_the_refiner_within_a_model(self):
        layers = [make_layer(), make_layer()]
        layers[1].refiner = Refiner(seed=0)
        layers[1].refiner.update(3, 4, 1.0, 5)
        stored = torch.nn.Sequential(*layers).state_dict()
        assert "1.refiner.values" in stored
        layers = [make_layer(), make_layer()]
        model = torch.nn.Sequential(*layers)
        with pytest.raises(RuntimeError, match=r"1\.refiner.* the layer has none: assign"):
            model.load_state_dict(stored)
        layers[1].refiner = Refiner(seed=1)
        model.load_state_dict(stored)
        assert layers[1].refiner.get_value(3, 4) == pytest.approx(0.1)
        layers[0].refiner = Refiner(seed=1)
        with pytest.raises(RuntimeError, match=r"Missing key.*0\.refiner"):
            model.load_state_dict(stored)

    def test_of_another_number_of_actions_is_an_error(self):
        layer, other = make_layer(), make_layer()
        layer.refiner, other.refiner = Refiner(), Refiner(actions=9)
        layer.refiner.update(3, 4, 1.0, 5)
        with pytest.raises(RuntimeError, match=r"10 actions .* 9"):
            other.load_state_dict(layer.state_dict())

    def test_holds_a_module_once(self, x: Tensor):
        layer = make_layer()
        layer.refiner = LearnedController()
        assert "refiner.table" in layer.state_dict()
        assert torch.equal(layer(x), layer.forward_with_action(x, 9).output)
        layer.refiner = None
        assert "refiner.table" not in layer.state_dict()
        layer.refiner = Refiner()
        assert "refiner.values" in layer.state_dict()

    def test_redrawing_weights_keeps_the_refiner(self):
        layer = make_layer()
        layer.refiner = LearnedController()
        layer.ln_a.weight.data.fill_(7.0)
        layer.reset_parameters()
        assert layer.refiner.table.tolist() == list(range(10))
        assert layer.ln_a.weight.unique().tolist() == [1.0]
