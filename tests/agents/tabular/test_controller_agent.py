from typing import Any

import numpy as np
import pytest

from spangym.agents import Refiner, TabularAgent, get_agent_spec
from spangym.agents.tabular.controller_agent import BootstrapFrom

from ...factories import RecordingEnv, make_training_env

Update = tuple[int, int, float, int]


class RecordingController:
    """Chooses actions by the state, and records its updates."""

    def __init__(self) -> None:
        self.updates: list[Update] = []

    def choose_action(self, state: int) -> int:
        return state % 10

    def update(self, state: int, action: int, reward: float, next_state: int) -> None:
        self.updates.append((state, action, reward, next_state))


def layer_output_states(env: RecordingEnv) -> list[int]:
    """States of the layers' outputs when the recorded actions are played again."""
    replay = make_training_env("state", env.num_envs)
    replay.reset()
    states: list[int] = []
    for actions in env.actions:
        replay.step(np.array(actions))
        output: Any = replay.venv
        states += output.output_observations().tolist()
    return states


@pytest.mark.parametrize("bootstrap_from", ["next_obs", "layer_output"])
def test_updates_are_the_transitions_of_all_environments(bootstrap_from: BootstrapFrom):
    controller, env = RecordingController(), make_training_env("state", 2)
    TabularAgent(controller, bootstrap_from).learn(env, 17)
    assert env.steps == 16
    expected = [
        transition
        for step in env.transitions
        for transition in zip(*(each.tolist() for each in step), strict=True)
    ]
    if bootstrap_from == "layer_output":
        outputs = layer_output_states(env)
        expected = [(*update[:3], state) for update, state in zip(expected, outputs, strict=True)]
    assert controller.updates == expected
    assert all(action == state % 10 for state, action, *_ in expected)


def test_the_agent_named_refiner_has_a_table_for_each_layer_and_bootstraps_on_its_output():
    spec = get_agent_spec("refiner")
    env = make_training_env("state", 3, include_layer_index=spec.include_layer_index)
    agent: Any = spec.make(seed=0)
    originals = [Refiner(), Refiner()]
    agent.learn(env, 3 * 24)
    replay: Any = make_training_env("state", 3).venv  # The original's ids, without the layer.
    replay.seed(0)
    states = replay.reset()
    for step, (_, actions, rewards, _) in enumerate(env.transitions):
        next_states = replay.step(actions)[0]
        outputs = replay.output_observations()
        columns = zip(states, actions, rewards, outputs, strict=True)
        for state, action, reward, output in columns:
            originals[step % 2].update(int(state), int(action), float(reward), int(output))
        states = next_states
    expected = {
        (9999 * layer + state, action): value
        for layer, original in enumerate(originals)
        for (state, action), value in original.R.items()
    }
    assert len(env.transitions) == 24
    assert dict(agent.controller.R) == expected


def test_unknown_bootstrap():
    with pytest.raises(ValueError, match=r"'layer_outputs'.*'layer_output'"):
        TabularAgent(Refiner(), "layer_outputs")  # pyright: ignore[reportArgumentType]


def test_controllers_without_optional_methods(tmp_path: Any):
    agent = TabularAgent(RecordingController())
    assert not agent.resumable
    assert agent.predict(np.array([7, 12])).tolist() == [7, 2]
    agent.save(tmp_path / "agent")
    assert not [*tmp_path.iterdir()]
    with pytest.raises(TypeError, match="load"):
        agent.load(tmp_path / "agent")
    with pytest.raises(TypeError, match="state_dict"):
        agent.state_dict()
