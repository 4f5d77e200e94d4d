"""Numbers of actions and states mean the same in layers, environments, agents and files."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from spangym.agents import Refiner, TabularAgent, get_agent_spec
from spangym.agents.baselines.content_oracle import ContentOracleAgent
from spangym.agents.baselines.env_aware import EnvAwarePolicy, MyopicPolicy, OracleAgent
from spangym.agents.check_agent import check_agent
from spangym.agents.export import export_policy
from spangym.attention import IntegratedAttention, ObservationSpec, SpanConfig, load_controller
from spangym.attention.features import discretize, token_moments
from spangym.attention.hashing import cpython_tuple_hash
from spangym.envs import EnvConfig, SB3SpanControlVecEnv, SpanControlEnv, SpanControlVectorEnv

COUNTS = pytest.mark.parametrize(
    ("actions", "states"), [(2, 100), (5, 100), (10, 100), (2, 10_000), (5, 10_000), (10, 10_000)]
)
SPANS: dict[str, Any] = {"win_size": 4, "max_span": 12, "max_dist": 12}
SIZES: dict[str, Any] = {"dims": 8, "heads": 2, "ctx": 16, "chunks_per_episode": 2, **SPANS}


def make_layer(original: bool = False, **more: Any) -> IntegratedAttention:
    generator = torch.Generator().manual_seed(0)
    if original:
        return IntegratedAttention.original(
            16, 8, 2, **SPANS, action_scale="absolute", generator=generator, **more
        )
    config = SpanConfig(**SPANS, action_scale="absolute")
    return IntegratedAttention(16, 8, 2, config, generator=generator, **more)


def make_input(batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    scale, shift = torch.randn(2, batch, 1, 8, generator=generator)
    return torch.randn(batch, 16, 8, generator=generator) * scale + shift


def state_ids(features: torch.Tensor, states: int) -> list[int]:
    return [hash(tuple(row)) % (states - 1) for row in discretize(features).tolist()]


@COUNTS
@pytest.mark.parametrize("original", [False, True])
def test_layers(original: bool, actions: int, states: int):
    refiner = Refiner(states, actions, epsilon=1.0, seed=0)
    layer, x = make_layer(original, refiner=refiner), make_input(1 if original else 40)
    assert layer.num_actions == actions
    for action in range(actions):
        scale = layer.forward_with_action(x, action).span_scale
        assert scale.tolist() == pytest.approx([action / (actions - 1)] * len(x))
    for action in (-1, actions):
        with pytest.raises(ValueError, match=rf"0\.\.{actions - 1}"):
            layer.forward_with_action(x, action)

    output = layer.train().step(x)
    expected = state_ids(token_moments(layer.ln_a(x)), states)
    assert output.state == expected
    assert output.next_state == state_ids(token_moments(output.local_output), states)
    assert {state for state, _ in refiner.R} == {*expected}
    fractions = {round(scale * (actions - 1), 4) for scale in output.span_scale.tolist()}
    assert fractions <= {*range(actions)}
    if not original:
        assert fractions == {*range(actions)}


def test_a_layer_without_a_refiner_has_ten_actions():
    layer, x = make_layer(), make_input(2)
    assert layer.num_actions == 10
    assert layer.forward_with_action(x, 4).span_scale.tolist() == pytest.approx([4 / 9] * 2)
    scale = layer.forward_with_action(x, 3, num_actions=4).span_scale
    assert scale.tolist() == [1.0, 1.0]
    layer.refiner = Refiner(actions=3)
    layer.refiner = None
    assert layer.num_actions == 10


def test_a_refiner_that_chooses_beyond_its_actions():
    class Wild:
        actions = 3

        def choose_action(self, state: int) -> int:
            return 3 + 0 * state

        def update(self, state: int, action: int, reward: float, next_state: int) -> None: ...

    with pytest.raises(ValueError, match=r"0\.\.2, chose \[3, 3\]"):
        make_layer(refiner=Wild())(make_input(2))


@pytest.mark.parametrize("counts", [{"actions": 1}, {"states": 1}, {"states": 10**8}])
def test_counts_out_of_range(counts: dict[str, Any]):
    (name,) = counts
    with pytest.raises(ValueError, match=f"{name} must be in 2"):
        Refiner(**counts)

    class Own(Refiner):
        def __init__(self) -> None:
            super().__init__()
            vars(self).update(counts)

    with pytest.raises(ValueError, match=rf"Own\.{name} must be in 2"):
        make_layer(refiner=Own())


def spaces_of(env: Any) -> tuple[gym.Space[Any], gym.Space[Any]]:
    if isinstance(env, SpanControlVectorEnv):
        return env.single_action_space, env.single_observation_space
    return env.action_space, env.observation_space


def play(env: Any, action: int) -> list[float]:
    """Span scales of two steps with the same action."""
    env.reset()
    scales = []
    for _ in range(2):
        if isinstance(env, SpanControlEnv):
            *_, info = env.step(action)
            scales.append(info["span_scale"])
        else:
            *_, infos = env.step(np.array([action] * env.num_envs))
            found = infos["span_scale"] if isinstance(infos, dict) else infos[0]["span_scale"]
            scales.append(np.ravel(found)[0])
    return scales


def make_env(kind: str, **kwargs: Any) -> Any:
    if kind == "scalar":
        return SpanControlEnv(**kwargs)
    if kind == "vector":
        return SpanControlVectorEnv(2, **kwargs)
    return SB3SpanControlVecEnv(EnvConfig(**kwargs), 2)


@COUNTS
@pytest.mark.parametrize("kind", ["scalar", "vector", "sb3"])
@pytest.mark.parametrize("variant", ["default", "original"])
def test_environments(kind: str, variant: str, actions: int, states: int):
    env = make_env(
        kind,
        encoding="state",
        num_actions=actions,
        num_states=states,
        action_scale="absolute",
        layer_variant=variant,
        **SIZES,
    )
    action_space, observation_space = spaces_of(env)
    assert action_space == gym.spaces.Discrete(actions)
    assert observation_space == gym.spaces.Discrete(states - 1)
    for action in {0, 1, actions - 1}:
        assert play(env, action) == pytest.approx([action / (actions - 1)] * 2)
    with pytest.raises(ValueError, match=rf"0\.\.{actions - 1}"):
        play(env, actions)
    env.reset()
    assert np.atleast_2d(env.peek()).shape[1] == actions
    assert np.atleast_2d(env.lookahead()).shape[1] == actions
    assert np.atleast_2d(env.action_coverages()).shape[1] == actions
    local_input = env.core.layers[0].ln_a(env.core.state.hidden)
    observed = env.core.transition_model.observe(env.core.state, 0)
    ids = env.core.observation_spec.state_ids(observed).tolist()
    assert ids == state_ids(token_moments(local_input), states)


def test_predictor_action_is_nearest_to_the_prediction():
    config = EnvConfig(num_actions=5, action_scale="absolute", **SIZES)
    env = SB3SpanControlVecEnv(config, 3)
    env.reset()
    state = env.core.state
    cache = state.caches[0]
    assert cache is None
    predicted = env.core.stack.run_layer(0, state.hidden).span_scale
    assert env.predictor_action().tolist() == [round(4 * each) for each in predicted.tolist()]
    relative = SB3SpanControlVecEnv(EnvConfig(num_actions=5, **SIZES), 3)
    relative.reset()
    assert relative.predictor_action().tolist() == [4, 4, 4]


def test_an_environment_takes_the_counts_of_the_refiners_in_its_layers():
    layers = [make_layer(refiner=Refiner(100, 5)), make_layer(refiner=Refiner(100, 5))]
    env = SpanControlEnv(layers=layers, encoding="state", ctx=16)
    assert env.action_space == gym.spaces.Discrete(5)
    assert env.observation_space == gym.spaces.Discrete(99)
    assert play(env, 3) == pytest.approx([0.75, 0.75])
    with pytest.raises(ValueError, match=r"num_actions must be 5, as the refiners .* got 10"):
        SpanControlEnv(layers=layers, num_actions=10)
    layers[1].refiner = Refiner(100, 4)
    with pytest.raises(ValueError, match="must have the same num_actions"):
        SpanControlEnv(layers=layers)
    # Layers without a refiner have the environment's.
    assert play(SpanControlEnv(layers=[make_layer()], num_actions=3, ctx=16), 1) == [0.5, 0.5]


def test_each_layer_has_its_own_range_of_state_ids():
    config = EnvConfig(encoding="state", include_layer_index=True, num_states=100, **SIZES)
    env = SB3SpanControlVecEnv(config, 4)
    assert env.observation_space == gym.spaces.Discrete(198)
    plain = SB3SpanControlVecEnv(EnvConfig(encoding="state", num_states=100, **SIZES), 4)
    for each in (env, plain):
        each.seed(0)
    observations: Any = env.reset()
    ids: Any = plain.reset()
    for step in range(8):
        assert observations.tolist() == (ids + 99 * (step % 2)).tolist()
        observations, *_ = env.step(np.full(4, 7))
        ids, *_ = plain.step(np.full(4, 7))
        outputs, plain_outputs = env.output_observations(), plain.output_observations()
        assert outputs.tolist() == (plain_outputs + 99 * (step % 2)).tolist()


def test_state_ids_on_the_device_equal_those_of_python():
    digits = torch.randint(0, 11, (50, 16), generator=torch.Generator().manual_seed(0))
    for states in (2, 100, 10_000, 10_000_000):
        expected = [hash(tuple(row)) % (states - 1) for row in digits.tolist()]
        assert cpython_tuple_hash(digits, states).tolist() == expected


@COUNTS
@pytest.mark.parametrize("include_layer_index", [False, True])
def test_exported_refiners(include_layer_index: bool, actions: int, states: int, tmp_path: Path):
    config = EnvConfig(
        encoding="state",
        include_layer_index=include_layer_index,
        num_actions=actions,
        num_states=states,
        action_scale="absolute",
        pool_groups=2,
        **SIZES,
    )
    env = SB3SpanControlVecEnv(config, 8)
    env.seed(0)
    agent = TabularAgent(Refiner(states, actions, epsilon=1.0, seed=0), "layer_output")
    agent.learn(env, 8 * 32)
    spec = config.observation_spec
    export_policy(agent, spec, action_scale="absolute", layer=1).save(tmp_path / "it.safetensors")
    controller = load_controller(tmp_path / "it.safetensors", layer=1)
    assert controller.num_actions == actions
    layer, x = make_layer(refiner=controller).eval(), make_input(60)
    numbers = spec.encode(spec.extract_from_input(layer.ln_a(x)), layer=1)
    chosen = agent.predict(spec.state_ids(numbers).numpy())
    assert controller(layer.ln_a(x)).tolist() == chosen.tolist()
    scale = layer.step(x).span_scale
    assert scale.tolist() == pytest.approx((chosen / (actions - 1)).tolist())
    # A stored action beyond the last one cannot pass for another span.
    with pytest.raises(ValueError, match="states, the observation"):
        export_policy(agent, ObservationSpec(8, encoding="state", num_states=states + 1))


@pytest.mark.parametrize("name", ["dqn", "refiner-kmeans"])
def test_other_agents_in_an_environment_of_five_actions(name: str):
    options: dict[str, Any] = {"learning_starts": 8} if name == "dqn" else {}
    if name == "refiner-kmeans":
        options = {"actions": 5, "n_fit_samples": 16, "n_clusters": 4, "by_layer": False}
    agent = get_agent_spec(name).make(seed=0, **options)
    config = EnvConfig(encoding="box", num_actions=5, action_scale="absolute", **SIZES)
    env = SB3SpanControlVecEnv(config, 4)
    env.seed(0)
    agent.learn(env, 64)
    controller = export_policy(agent, config.observation_spec, action_scale="absolute")
    assert controller.num_actions == 5
    layer, x = make_layer(refiner=controller).eval(), make_input(30)
    chosen = controller(layer.ln_a(x))
    assert layer.step(x).span_scale.tolist() == pytest.approx((chosen / 4).tolist())


@pytest.mark.parametrize("num_actions", [2, 5, 10])
@pytest.mark.parametrize(
    "name", ["random", "full", "predictor", "threshold", "myopic", "oracle", "content-oracle"]
)
def test_baselines(name: str, num_actions: int):
    config = EnvConfig(num_actions=num_actions, action_scale="absolute", **SIZES)
    env = SB3SpanControlVecEnv(config, 30)
    env.seed(0)
    agent: Any = get_agent_spec(name).make(seed=0)
    agent.learn(env, 30 * 8)
    observations = env.reset()
    agent.on_episode_start(env)
    chosen = agent.predict(observations)
    assert chosen.min() >= 0
    assert chosen.max() < num_actions
    if name == "random":
        assert {*chosen.tolist()} == {*range(num_actions)}
    if name == "full":
        assert {*chosen.tolist()} == {num_actions - 1}
    if isinstance(agent, MyopicPolicy | OracleAgent):
        scores = env.peek() if name == "myopic" else env.lookahead()
        assert chosen.tolist() == scores.argmax(1).tolist()
    if isinstance(agent, ContentOracleAgent):
        assert all(len(each.counts) == num_actions**2 for each in agent.stats.values())
    assert isinstance(agent, EnvAwarePolicy) or name in ("random", "full")


def test_cache_control_with_five_spans():
    config = EnvConfig(num_actions=5, control_kv_cache=True, **SIZES)
    env = SB3SpanControlVecEnv(config, 2)
    env.reset()
    assert env.action_space == gym.spaces.MultiDiscrete([5, 2, 2])
    agent = MyopicPolicy()
    agent.on_episode_start(env)
    scores = env.peek()
    assert scores.shape == (2, 20)
    chosen = agent.predict(None)
    assert (chosen @ np.array([4, 2, 1])).tolist() == scores.argmax(1).tolist()


@pytest.mark.parametrize(
    ("refiner", "message"),
    [
        (Refiner(actions=5), "actions = 5, its environment num_actions = 10"),
        (Refiner(states=100), "states = 100, its environment num_states = 10000"),
    ],
)
def test_a_refiner_in_an_environment_with_other_counts(refiner: Refiner, message: str):
    env = SB3SpanControlVecEnv(EnvConfig(encoding="state", **SIZES), 2)
    with pytest.raises(ValueError, match=message):
        TabularAgent(refiner).learn(env, 8)


@pytest.mark.parametrize("options", [{"actions": 2}, {"states": 5}, {"actions": 20}])
def test_check_agent(options: dict[str, int]):
    assert check_agent("refiner", **options) == []
