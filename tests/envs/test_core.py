import itertools
import json
import math
import random
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils import seeding
from numpy.typing import NDArray
from torch import Tensor

from spangym.attention import HybridAttention, IntegratedAttention, LayerCache
from spangym.attention.features import discretize, quality, token_moments, tuple_hash_id
from spangym.attention.original.truncation import FIXABLE_DEFECTS
from spangym.envs import (
    EnvConfig,
    LayerStack,
    SB3SpanControlVecEnv,
    SpanControlCore,
    SpanControlEnv,
    make_config,
)
from spangym.envs.data.dataset import Dataset, Stream
from spangym.envs.env_config import LAYER_CLASSES

from ..conftest import Golden

SMALL: dict[str, Any] = {"dims": 16, "heads": 2, "ctx": 32, "chunks_per_episode": 3}


def test_an_episode_in_words():
    """Chunk by chunk and layer by layer, as the design says, beside the environment."""
    env = SpanControlEnv(**SMALL, num_layers=2, encoding="digits", cost_coef=0.5)
    observation, info = env.reset(seed=3)
    core = env.core
    stream = core.dataset.sample(seeding.np_random(3)[0], 4, 32)
    assert info == {"content_type": stream.content_types[0]}
    caches: list[LayerCache | None] = [None, None]
    actions = iter([9, 3, 0, 5, 1, 8])
    for chunk in range(3):
        hidden = core.stack.embed(torch.tensor(stream.content[chunk].astype(int))[None])
        for index, layer in enumerate(core.layers):
            seen = discretize(layer.obs_features(hidden))[0]
            assert observation.tolist() == seen.tolist()
            action = next(actions)
            with torch.no_grad():
                outcome = layer.forward_with_action(hidden, action, cache=caches[index])
            caches[index] = outcome.cache
            observation, reward, terminated, truncated, info = env.step(action)
            cost = 0.5 * outcome.qk_pairs.item() / 32**2 / 2
            quality_stats = quality(outcome.local_output)
            assert reward == pytest.approx(quality_stats.quality.item() - cost, abs=1e-6)
            assert info["reward_components"] == pytest.approx(
                {
                    "coverage": quality_stats.coverage.item(),
                    "entropy": -0.1 * quality_stats.entropy.item(),
                    "cost": -cost,
                }
            )
            assert sum(info["reward_components"].values()) == pytest.approx(reward)
            assert (info["chunk"], info["layer"]) == (chunk, index)
            for name in ("window", "span", "qk_pairs", "num_refinement_steps", "span_scale"):
                assert info[name] == getattr(outcome, name).item()
            assert info["output_norm"] == pytest.approx(outcome.output.norm().item())
            assert not terminated
            assert truncated == ((chunk, index) == (2, 1))
            hidden = outcome.output
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(0)


class _Frames(Dataset):
    """Recorded inputs of the first layer, as frames."""

    channels = 32

    def __init__(self, frames: NDArray[np.float32]) -> None:
        self._frames = frames

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        del generator
        # An episode draws one more chunk than it has, for the last observation.
        assert (chunks, ctx) == self._frames.shape[:2]
        return Stream(self._frames, ("recorded",) * chunks)


class _WithoutEmbedding(LayerStack):
    def embed(self, content: Tensor) -> Tensor:
        return content


def test_a_stream_reproduces_the_original(golden: Golden):
    recorded = golden("stream")
    sizes = json.loads(str(recorded["meta"]))
    layers = [IntegratedAttention.original(**sizes) for _ in range(2)]
    for index, layer in enumerate(layers):
        prefix = f"layer{index}.param."
        weights = {name: recorded[name] for name in recorded if name.startswith(prefix)}
        layer.load_state_dict(
            {name.removeprefix(prefix): torch.from_numpy(each) for name, each in weights.items()}
        )
    frames = np.concatenate([recorded[f"pass{step}.x"] for step in (*range(6), 5)])
    env = SpanControlEnv(
        layers=_WithoutEmbedding(layers),
        dataset=_Frames(frames),
        ctx=64,
        chunks_per_episode=6,
        encoding="state",
    )
    state, _ = env.reset(seed=0)
    for step, index in itertools.product(range(6), range(2)):
        prefix = f"pass{step}.layer{index}."
        assert state == recorded[prefix + "state"]
        state, reward, _, _, info = env.step(int(recorded[prefix + "action"]))
        assert reward == pytest.approx(recorded[prefix + "reward"], abs=1e-5)
        assert env.output_observations() == recorded[prefix + "next_state"]
        norm = np.linalg.norm(recorded[prefix + "out"])
        assert info["output_norm"] == pytest.approx(norm, rel=1e-5)


def test_the_last_observation_is_of_the_chunk_that_would_follow():
    env = SpanControlEnv(**SMALL)
    env.reset(seed=0)
    stream = env.core.dataset.sample(seeding.np_random(0)[0], 4, 32)
    observation = [env.step(5)[0] for _ in range(6)][-1]
    hidden = env.core.stack.embed(torch.tensor(stream.content[3].astype(int))[None])
    expected = discretize(env.core.layers[0].obs_features(hidden))[0]
    assert observation.tolist() == expected.tolist()


def test_state_is_the_originals_id_of_the_digits():
    by_digits, by_state = SpanControlEnv(**SMALL), SpanControlEnv(**SMALL, encoding="state")
    seen, state = by_digits.reset(seed=2)[0], by_state.reset(seed=2)[0]
    for action in [4, 9, 0, 2]:
        assert state == tuple_hash_id(seen.tolist())
        seen, state = by_digits.step(action)[0], by_state.step(action)[0]


def test_box_is_the_digits_scaled():
    by_digits, by_box = SpanControlEnv(**SMALL), SpanControlEnv(**SMALL, encoding="box")
    seen, box = by_digits.reset(seed=2)[0], by_box.reset(seed=2)[0]
    np.testing.assert_allclose(box, seen / 5 - 1, atol=1e-7)


def test_groups_average_neighboring_dimensions():
    raw = SpanControlEnv(**SMALL, encoding="features")
    pooled = SpanControlEnv(**SMALL, encoding="features", pool_groups=4, include_layer_index=True)
    expected = raw.reset(seed=2)[0].reshape(8, 4).mean(1)
    seen = pooled.reset(seed=2)[0]
    np.testing.assert_allclose(seen[:-1], expected, atol=1e-6)
    assert seen[-1] == -1
    assert pooled.step(3)[0][-1] == 1


def test_scalar_and_envs_agree_on_short_chunks_up_to_rounding():
    config = EnvConfig(dims=16, heads=2, ctx=2, chunks_per_episode=3, encoding="features")
    vector, scalar = SB3SpanControlVecEnv(config, n_envs=3), SB3SpanControlVecEnv(config, n_envs=1)
    vector.seed(0)
    scalar.seed(0)
    first = np.asarray(scalar.reset())
    np.testing.assert_allclose(np.asarray(vector.reset())[:1], first, atol=1e-5)
    for _ in range(5):
        seen, alone = vector.step(np.array([9, 9, 9])), scalar.step(np.array([9]))
        np.testing.assert_allclose(np.asarray(seen[0])[:1], np.asarray(alone[0]), atol=1e-4)


def test_vec_env_gives_fresh_arrays():
    env = SB3SpanControlVecEnv(EnvConfig(**SMALL, encoding="box"), n_envs=2)
    arrays = [env.reset(), *(env.step(np.array([1, 2]))[0] for _ in range(8))]
    for index, array in enumerate(arrays):
        assert array.dtype == np.float32
        assert not any(np.shares_memory(array, other) for other in arrays[:index])


def test_weights_come_from_their_own_seed():
    one, same, other = (
        SpanControlCore(EnvConfig(**SMALL, weights_seed=seed), num_envs=1) for seed in (0, 0, 1)
    )
    weights = [each.layers[1].projection.weight for each in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_content_types_of_layers_have_the_same_weights():
    default, original, fixes = (
        SpanControlCore(EnvConfig(**{**SMALL, **kind}), num_envs=1).stack.state_dict()
        for kind in (
            {},
            {"layer_variant": "original"},
            {"layer_variant": "original", "fixes": "cut"},
        )
    )
    assert all(torch.equal(original[name], each) for name, each in default.items())
    assert all(torch.equal(fixes[name], each) for name, each in original.items())


@pytest.mark.parametrize("layer_class", LAYER_CLASSES)
@pytest.mark.parametrize("variant", ["default", "original"])
def test_layers_are_of_the_class_with_its_defaults(layer_class: str, variant: str):
    name = "spangym/SpanControl-v0"
    env = gym.make(name, layer_class=layer_class, layer_variant=variant, dims=16, heads=2)
    core = env.unwrapped.core  # pyright: ignore[reportAttributeAccessIssue]
    make = LAYER_CLASSES[layer_class]
    layer = (make if variant == "default" else make.original)(256, 16, 2)
    for each in core.layers:
        assert type(each) is type(layer)
        assert each.config == layer.config


@pytest.mark.parametrize("layer_class", LAYER_CLASSES)
def test_layers_have_the_named_global_path(layer_class: str):
    name = "spangym/SpanControl-v0"
    sizes: dict[str, Any] = {"dims": 16, "heads": 2, "layer_class": layer_class}
    options: list[dict[str, Any]] = [{"global_path": "pooled", "pool": 5}, {"global_path": "none"}]
    for arguments in options:
        env = gym.make(name, **sizes, **arguments)
        for layer in env.unwrapped.core.layers:  # pyright: ignore[reportAttributeAccessIssue]
            assert (layer.attn_global is None) == (arguments["global_path"] == "none")
            if layer.attn_global is not None:
                assert layer.attn_global.pool == 5
        with pytest.raises(ValueError, match=r"control_kv_cache .*no keys and values"):
            gym.make(name, **sizes, **arguments, control_kv_cache=True)
    with pytest.raises(ValueError, match="'full' with layer_variant 'original'"):
        gym.make(name, **sizes, global_path="none", layer_variant="original")


@pytest.mark.parametrize("layer_class", LAYER_CLASSES)
@pytest.mark.parametrize("variant", ["default", "original"])
def test_an_action_multiplies_the_prediction(layer_class: str, variant: str):
    """In layers with an agent of their own and without."""
    arguments = {**SMALL, "layer_class": layer_class, "layer_variant": variant}
    scales = {}
    for action in (None, 0, 3, 9):
        env = SpanControlEnv(**arguments)
        env.reset(seed=0)
        if action is None:
            with torch.no_grad():
                layer, hidden = env.core.layers[0], env.core.state.hidden
                scales[action] = layer.step(hidden).span_scale.item()
        else:
            info = env.step(action)[4]
            scales[action] = info["span_scale"]
            assert (info["span"] > 0) == (action > 0)
    assert scales == pytest.approx({a: scales[None] * (1 if a is None else a / 9) for a in scales})


def test_live_hybrid_layers_run():
    layers = [HybridAttention(32, 16, 2), HybridAttention.original(32, 16, 2)]
    env = SpanControlEnv(layers=layers, chunks_per_episode=1)
    env.reset(seed=0)
    assert env.step(9)[4]["span"] > 0
    assert env.step(0)[4]["span"] == 0


def test_fixes_are_one_set_however_they_are_given():
    arguments = {**SMALL, "layer_variant": "original"}
    given: list[Any] = [["cut", "temperature"], ("temperature", "cut", "cut")]
    configs = [EnvConfig(**arguments, fixes=fixes) for fixes in given]
    assert [each.fixes for each in configs] == [("temperature", "cut")] * 2
    assert make_config("SpanControl-v0", {**arguments, "fixes": "cut"}).fixes == ("cut",)


@pytest.mark.parametrize("fixes", [*FIXABLE_DEFECTS, ("temperature", "cut"), FIXABLE_DEFECTS])
def test_a_defect_is_fixed_by_its_name(fixes: Any):
    """Beside the layers run by hand: the preset's, with that defect fixed."""
    arguments = {
        **SMALL,
        "win_size": 12,
        "max_span": 20,
        "temp_scale": 0.5,
        "layer_variant": "original",
    }
    env, plain = SpanControlEnv(**arguments, fixes=fixes), SpanControlEnv(**arguments)
    env.reset(seed=1)
    plain.reset(seed=1)
    layer = IntegratedAttention.original(
        32, 16, 2, win_size=12, max_span=20, temp_scale=0.5, fixes=fixes
    ).eval()
    layer.load_state_dict(env.core.layers[0].state_dict())
    with torch.no_grad():
        outcome = layer.forward_with_action(env.core.state.hidden, 8)
    step, other = env.step(8), plain.step(8)
    assert step[1] == pytest.approx(outcome.reward.item(), abs=1e-6)
    assert step[4]["qk_pairs"] == outcome.qk_pairs.item()
    assert step[4]["output_norm"] == pytest.approx(outcome.output.norm().item())
    assert step[4]["output_norm"] != other[4]["output_norm"]
    assert env.config.full_qk_pairs == plain.config.full_qk_pairs == 32**2


@pytest.mark.parametrize("layer", ["default", "original"])
def test_an_action_may_be_a_share_of_the_longest_span(layer: str):
    env = SpanControlEnv(**SMALL, layer_variant=layer, action_scale="absolute")
    env.reset(seed=0)
    assert env.step(9)[4]["span"] == env.config.max_span
    assert env.step(3)[4]["span_scale"] == pytest.approx(1 / 3)


def global_states() -> list[object]:
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002
    return [str(numpy_state), torch.get_rng_state().tolist(), random.getstate()]


def test_nothing_draws_from_the_global_generators():
    before = global_states()
    env = SpanControlEnv(**SMALL)
    env.reset(seed=0)
    env.step(4)
    assert global_states() == before


def test_timing_is_there_when_asked_for():
    env = SpanControlEnv(**SMALL, report_step_time=True)
    env.reset(seed=0)
    assert env.step(4)[4]["milliseconds"] > 0


def test_features_are_of_the_normalized_input():
    env = SpanControlEnv(**SMALL, encoding="features")
    seen, _ = env.reset(seed=4)
    layer, hidden = env.core.layers[0], env.core.state.hidden
    expected = token_moments(torch.nn.functional.layer_norm(hidden, (16,)))
    np.testing.assert_allclose(seen, expected[0], atol=1e-6)
    assert layer.ln_a.weight.tolist() == [1.0] * 16


@pytest.mark.parametrize("action", [-1, 10, 2.5])
def test_a_bad_action_is_an_error(action: float):
    env = SpanControlEnv(**SMALL)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"action .*0\.\.9"):
        env.step(action)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"encodng": "box"}, TypeError, "'encoding'"),
        ({"encoding": "boxx"}, ValueError, "'box'"),
        ({"reward": "x"}, ValueError, "attention, fidelity, quality, task"),
        ({"num_layers": 0}, ValueError, "num_layers .*1..1024"),
        (
            {"num_layers": "2"},
            TypeError,
            "num_layers .*int.*'2'",
        ),
        ({"num_layers": True}, TypeError, "num_layers .*int"),
        ({"pool_groups": 5}, ValueError, "pool_groups .*divide dims"),
        ({"cost_coef": -1.0}, ValueError, "cost_coef .*\\[0, "),
        ({"device": "cuda:77"}, ValueError, "device 'cuda:77'"),
        (
            {"device": "warp"},
            ValueError,
            "device 'warp' .*cpu",
        ),
        ({"heads": 3}, ValueError, "heads=3, dims=64"),
        ({"weights_seed": 10**22}, ValueError, r"weights_seed .*0\.\.9223372036854775807"),
        ({"render_mode": "human"}, ValueError, "render_mode"),
        ({"dataset": "tetx"}, ValueError, "'text'"),
        ({"observation_time": "now"}, ValueError, "observation_time 'now'"),
        ({"checkpoint": "span-bugdet"}, ValueError, "'span-budget'"),
        (
            {"checkpoint": "span-budget", "dims": 32},
            ValueError,
            "dims .*64.*checkpoint",
        ),
        (
            {"checkpoint": "span-budget", "ctx": 512},
            ValueError,
            "ctx .*256.*checkpoint",
        ),
        (
            {"checkpoint": "span-budget", "temperature_law": "learned"},
            ValueError,
            "temperature_law .*'learned' .*span-budget.* trained with 'none'",
        ),
        ({"reward": "task"}, ValueError, "no task"),
        (
            {"layer_variant": "orginal"},
            ValueError,
            "'orginal' .*'original'",
        ),
        ({"layer_variant": 1}, TypeError, "layer_variant .*string.* 1"),
        ({"layer_class": "hibrid"}, ValueError, "layer_class 'hibrid' .*'hybrid'"),
        ({"layer_class": HybridAttention}, TypeError, "layer_class .*str.* HybridAttention"),
        ({"fixes": 1}, TypeError, "fixes must be names"),
        ({"global_path": "pool"}, ValueError, "global_path must be one of .*'pooled'"),
        ({"pool": 0}, ValueError, "pool"),
        (
            {"checkpoint": "span-budget", "global_path": "none"},
            ValueError,
            "global_path .*random weights",
        ),
        (
            {"checkpoint": "span-budget", "layer_class": "hybrid"},
            ValueError,
            "layer_class .*random weights",
        ),
        ({"action_scale": "relativ"}, ValueError, "'relative'"),
        (
            {"layer_variant": "original", "fixes": "temprature"},
            ValueError,
            "'temprature' .*'temperature'",
        ),
        (
            {"fixes": "cut"},
            ValueError,
            "layer_variant .*'default'",
        ),
        (
            {"checkpoint": "span-budget", "layer_variant": "original"},
            ValueError,
            "layer_variant .*random weights",
        ),
        (
            {"checkpoint": "span-budget", "action_scale": "absolute"},
            ValueError,
            "action_scale .*random weights",
        ),
        (
            {"checkpoint": "own", "layer_variant": "original"},
            ValueError,
            "checkpoint 'own'",
        ),
        ({"cost_coef": math.nan}, ValueError, "cost_coef .*finite"),
        ({"chunks_per_episode": 1_000_000}, ValueError, "fewer chunks"),
    ],
)
def test_bad_arguments_say_what_would_be_right(
    arguments: dict[str, Any], error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        SpanControlEnv(**arguments).reset(seed=0)
