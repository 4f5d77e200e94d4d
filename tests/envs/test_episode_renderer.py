"""Rendering of episodes as text and as images."""

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import RecordVideo
from hypothesis import given
from hypothesis import strategies as st

from spangym.attention import IntegratedAttention
from spangym.attention.span_config import SpanConfig
from spangym.envs import EnvConfig, SpanControlEnv
from spangym.envs.episode_renderer import EpisodeRenderer, LayerDecision
from tests.factories import SMALL_ENV_KWARGS

CTX = 16
INFO: dict[str, Any] = {"content_type": "code", "window": 4, "span": 6, "qk_pairs": 64}


def picture(layers: int = 2, **options: Any) -> EpisodeRenderer:
    config = EnvConfig(num_layers=layers, ctx=CTX, chunks_per_episode=3)
    return EpisodeRenderer(config, (SpanConfig(**options),) * layers, "code")


def make(render_mode: str | None, **arguments: Any) -> SpanControlEnv:
    return SpanControlEnv(render_mode=render_mode, **{**SMALL_ENV_KWARGS, **arguments})


@given(
    st.integers(1, 40), st.integers(1, 50), st.integers(0, 50), st.booleans(), st.integers(1, 60)
)
def test_coverage_is_the_interval_of_each_querys_window(
    ctx: int, window: int, reach: int, causal: bool, cells: int
):
    band = LayerDecision(window, window + reach, 0.0, 0.0)
    options = SpanConfig(causal=causal)
    covered = band.coverage(options, ctx, np.arange(ctx), ctx)
    query, key = np.arange(ctx)[:, None], np.arange(ctx)
    start = query // window * window
    expected = (start - reach <= key) & (key < start + window + reach)
    if causal:
        expected &= key <= query
    np.testing.assert_allclose(covered, expected, atol=1e-6)
    # In cells of other sizes the same share of the keys is seen.
    coarse = band.coverage(options, ctx, np.arange(ctx), cells)
    np.testing.assert_allclose(coarse.mean(1), covered.mean(1), atol=1e-12)


def test_a_soft_edge_is_seen_too_and_off_sees_nothing():
    soft = SpanConfig(soft_span=True, soft_edge_width=3)
    first, end = LayerDecision(4, 6, 0.0, 0.0).intervals(soft, CTX)
    assert (first[8], end[8]) == (8 - 2 - 3, CTX)
    assert (first[4], end[4]) == (0, 4 + 6 + 3)
    assert not LayerDecision(1, 0, 0.0, 0.0).coverage(SpanConfig(), CTX, np.arange(CTX), CTX).any()


def test_of_the_original_the_keys_are_seen_that_it_leaves():
    env = make("ansi", layer_variant="original", win_size=4, max_span=6, action_scale="absolute")
    env.reset(seed=0)
    env.step(9)
    drawn = env.renderer
    first, end = drawn.decisions[0].intervals(drawn.options[0], CTX)
    # The window of query 9 begins at 8, its interval two tokens before.
    assert (first[9], end[9]) == (6, 8)


@pytest.mark.parametrize("causal", [False, True])
def test_panel_shows_the_keys_that_are_seen(causal: bool):
    drawn = picture(causal=causal).with_step(0.5, {**INFO, "layer": 0})
    image = drawn.rgb_array().astype(int)
    blank = picture(causal=causal).rgb_array().astype(int)
    rows, columns = np.nonzero((image != blank).any(-1) & (image == (0, 0x72, 0xB2)).all(-1))
    # Bars of the histories have the layer's color too, below the panel.
    panel = rows < image.shape[0] - 176
    left, top, side = columns[panel].min(), rows[panel].min(), 240
    centers = ((np.arange(CTX) + 0.5) * side / CTX).astype(int)
    colored = (image[top + centers[:, None], left + centers] == (0, 0x72, 0xB2)).all(-1)
    first, end = drawn.decisions[0].intervals(SpanConfig(causal=causal), CTX)
    keys = np.arange(CTX)
    np.testing.assert_array_equal(colored, (keys >= first[:, None]) & (keys < end[:, None]))


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_frames_of_an_episode_differ_but_in_size(layers: int):
    env = make("rgb_array", num_layers=layers, chunks_per_episode=2, cost_coef=0.5)
    env.reset(seed=0)
    frames = [env.render()]
    for step in range(2 * layers):
        env.step(step % 10)
        frames.append(env.render())
    assert len({frame.shape for frame in frames}) == 1
    height, width, channels = frames[0].shape
    assert (height % 16, width % 16, channels) == (0, 0, 3)
    assert all(frame.dtype == np.uint8 for frame in frames)
    for one, other in itertools.pairwise(frames):
        assert (one != other).any()


@pytest.mark.parametrize("ctx", [1, 7, 300])
def test_any_length_can_be_drawn(ctx: int):
    for mode in ("rgb_array", "ansi"):
        env = make(mode, ctx=ctx)
        env.reset(seed=0)
        env.step(9)
        assert len(env.render())


@pytest.mark.parametrize("reward", [np.nan, -np.inf, 0.0, -3e38, 1e-38])
def test_any_reward_can_be_drawn(reward: float):
    drawn = picture().with_step(reward, {**INFO, "layer": 0}).with_step(-1.0, {**INFO, "layer": 1})
    assert drawn.rgb_array().shape == picture().rgb_array().shape
    assert f"reward {reward:+10.3g}" in str(drawn)


def test_a_name_of_a_source_is_only_a_name():
    info = {**INFO, "content_type": "$x_$" * 200, "layer": 0}
    assert picture().with_step(0.0, info).rgb_array().shape == picture().rgb_array().shape


def test_text_says_what_was_decided():
    drawn = picture().with_step(0.125, {**INFO, "layer": 0})
    head, first, second, totals = str(drawn).splitlines()
    assert head == "chunk 1/3  code"
    for said in ("layer 0", "window    4", "span    6", "25.0%", "reward     +0.125"):
        assert said in first
    # Query 8 begins the third window, which sees the keys 6 to 13.
    assert first.endswith("▕      ████████  ▏")
    assert second.startswith("layer 1")
    for part in ("return +0.125", "25.0%", "1/6"):
        assert part in totals
    off = drawn.with_step(0.0, {**INFO, "layer": 1, "window": 1, "span": 0, "qk_pairs": 0})
    assert "off" in str(off).splitlines()[2]


def test_text_follows_the_chunks():
    env = make("ansi")
    env.reset(seed=0)
    assert str(env.render()).startswith("chunk 1/3  ")
    earned, chunks = 0.0, []
    for step in range(6):
        earned += env.step(step)[1]
        chunks.append(env.render().partition("/")[0])
    assert chunks == ["chunk 1"] * 2 + ["chunk 2"] * 2 + ["chunk 3"] * 2
    assert f"return {earned:+.3g}" in env.render()


def test_visited_keys_of_causal_layers_are_shares_of_what_they_could_see():
    drawn = picture(causal=True).with_step(0.0, {**INFO, "layer": 0, "qk_pairs": 136})
    assert drawn.mean_attention_fraction == 1


def test_layers_of_the_user_are_drawn_as_they_are():
    layers = [IntegratedAttention(CTX, 8, 2, SpanConfig(causal=causal)) for causal in (False, True)]
    env = SpanControlEnv(render_mode="ansi", layers=layers, chunks_per_episode=2)
    env.reset(seed=0)
    env.step(9)
    env.step(9)
    free, causal = (line.partition("▕")[2] for line in env.render().splitlines()[1:3])
    assert free.rstrip("▏") == "█" * CTX
    assert causal.rstrip("▏") == "█" * (CTX // 2 + 1) + " " * (CTX // 2 - 1)


def test_without_a_mode_nothing_is_drawn_and_unknown_ones_are_refused():
    env = make(None)
    env.reset(seed=0)
    assert env.render() is None
    with pytest.raises(ValueError, match="None, ansi or rgb_array"):
        make("human")


def test_state_keeps_the_picture():
    env, other = make("rgb_array"), make("rgb_array")
    env.reset(seed=0)
    for action in (3, 0, 9):
        env.step(action)
    state = env.state_dict()
    other.load_state_dict({**state, "rendering": json.loads(json.dumps(state["rendering"]))})
    np.testing.assert_array_equal(env.render(), other.render())
    env.step(5)
    other.step(5)
    np.testing.assert_array_equal(env.render(), other.render())


def test_a_fork_draws_its_own():
    env = make("ansi")
    env.reset(seed=0)
    before = env.render()
    fork = env.fork()
    fork.step(9)
    assert env.render() == before != fork.render()


def test_gymnasium_finds_nothing_to_warn_of():
    env = gym.make("spangym/SpanControl-v0", render_mode="rgb_array", **SMALL_ENV_KWARGS)
    assert env.metadata["render_fps"] > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)


def test_gymnasium_records_a_video(tmp_path: Path):
    pytest.importorskip("moviepy", reason="RecordVideo needs moviepy, of gymnasium[other]")
    import imageio_ffmpeg

    env = RecordVideo(make("rgb_array"), str(tmp_path / "videos"), name_prefix="span")
    env.reset(seed=0)
    truncated = False
    while not truncated:
        *_, truncated, _ = env.step(7)
    env.close()
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(tmp_path / "videos/span-episode-0.mp4")
    assert frames == 7
    assert seconds == pytest.approx(7 / 4, abs=0.1)
