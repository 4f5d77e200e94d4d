"""Rewards, their components, and custom layers, datasets and rewards."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spangym.attention import FocusAttention, IntegratedAttention, SpanConfig
from spangym.envs import (
    LayerStack,
    Reward,
    RewardContext,
    SB3SpanControlVecEnv,
    SpanControlEnv,
    SpanControlVectorEnv,
    make_config,
    parse_env_kwargs,
)
from spangym.envs.data.dataset import NO_TARGET, Dataset, NoiseDataset, Stream
from spangym.envs.model.stack import TransformerConfig, TransformerStack
from spangym.envs.rewards import REWARDS

TINY: dict[str, Any] = {"dims": 16, "heads": 2, "ctx": 32, "chunks_per_episode": 2}
BUDGET: dict[str, Any] = {"checkpoint": "span-budget", "dataset": "mixed", "chunks_per_episode": 2}


@pytest.mark.parametrize("name", REWARDS)
def test_every_reward_says_what_it_is(name: str):
    reward = REWARDS[name](0.5)
    assert reward.components[-1] == "cost"
    assert reward.platform_dependent
    assert reward.cost_coef == 0.5


def test_full_span_in_every_layer_costs_cost_coef():
    env = SpanControlEnv(**BUDGET, reward="task", cost_coef=0.6)
    env.reset(seed=0)
    parts = [env.step(9)[4]["reward_components"] for _ in range(2)]
    assert sum(each["cost"] for each in parts) == pytest.approx(-0.6)
    assert [each["task"] for each in parts] == [0.0, 0.0]


def test_attention_is_of_the_weights_themselves():
    env = SpanControlEnv(**TINY, reward="attention", win_size=8, max_span=12)
    env.reset(seed=0)
    layer, hidden = env.core.layers[0], env.core.state.hidden
    weights = layer.attention_weights(
        hidden, scale=layer.forward_with_action(hidden, 6).span_scale
    )[0]
    logs = torch.where(weights > 0, weights, 1).log()
    entropy = -(weights * logs).sum(-1).mean()
    parts = env.step(6)[4]["reward_components"]
    assert parts["entropy"] == pytest.approx(-0.1 * entropy.item(), abs=1e-5)
    assert 0 < parts["coverage"] < 1


def test_task_is_minus_the_excess_over_full_span():
    env = SpanControlEnv(**BUDGET, reward="task")
    env.reset(seed=4)
    core = env.core
    stack = core.stack
    content = core.episode.content[:, 0]  # pyright: ignore[reportOptionalMemberAccess]
    targets = torch.full_like(content, NO_TARGET)
    targets[:, :-1] = content[:, 1:]
    losses = []
    for actions in ((9, 9), (2, 1)):
        hidden = stack.embed(content)
        for index, action in enumerate(actions):
            outcome = stack.layer(index).forward_with_action(hidden, action)
            hidden = stack.connect(index, hidden, outcome.output)
        losses.append(stack.loss_bits(hidden, targets).item())
    first, last = env.step(2), env.step(1)
    assert first[4]["reward_components"]["task"] == 0
    assert last[1] == pytest.approx(losses[0] - losses[1], abs=1e-5)
    assert last[4]["content_type"] == first[4]["content_type"]


def test_full_span_is_a_stream_of_its_own():
    """The loss at full span uses the keys of full spans, not those of the chosen spans."""
    own = Sized(layers(use_refresh_predictors=True))
    for index in range(2):
        predictor = own.get_submodule(f"layers.{index}.attn_global.key_update_predictor")
        for parameter in predictor.parameters():
            parameter.data.fill_(-1.0)  # Keys are never recomputed.
    env = SpanControlEnv(layers=own, reward="task", chunks_per_episode=2, ctx=32)
    env.reset(seed=0)
    episode = env.core.episode
    assert episode is not None
    caches: list[Any] = [None, None]
    for chunk in range(2):
        hidden = own.embed(episode.content[:, chunk])
        for index in range(2):
            outcome = own.layer(index).forward_with_action(hidden, 9, cache=caches[index])
            caches[index], hidden = outcome.cache, outcome.output
        assert env.core.state.full_span_loss == own.loss_bits(hidden, episode.content[:, chunk])
        for action in (2, 0):
            if chunk == 0:
                env.step(action)


def test_bits_are_the_mean_cross_entropy_of_the_targets():
    stack = TransformerStack(
        TransformerConfig(num_layers=1, dims=8, heads=2, ctx=16), torch.Generator()
    )
    hidden = torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.full((3, 16), NO_TARGET)
    targets[0, 2], targets[0, 5], targets[1, 0] = 7, 9, 255
    log_p = stack.head(hidden).log_softmax(-1)
    expected = [-(log_p[0, 2, 7] + log_p[0, 5, 9]) / 2, -log_p[1, 0, 255], torch.zeros(())]
    found = stack.loss_bits(hidden, targets)
    torch.testing.assert_close(found, torch.stack(expected) / np.log(2))


class ShortSpan(Reward):
    components = ("tokens", "cost")

    def __call__(self, context: RewardContext) -> Tensor:
        return torch.stack([-context.layer_output.span.float(), self.cost(context)], dim=-1)


class Ramp(Dataset):
    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        ramp = (generator.integers(256) + np.arange(chunks * ctx)) % 256
        return Stream(ramp.astype(np.uint8).reshape(chunks, ctx), ("ramp",) * chunks)


def test_a_reward_and_a_source_of_the_user():
    env = SpanControlEnv(**TINY, reward=ShortSpan(cost_coef=2.0), dataset=Ramp())
    _, info = env.reset(seed=0)
    assert info["content_type"] == "ramp"
    info = env.step(7)[4]
    assert info["reward_components"]["tokens"] == -info["span"]
    assert info["reward_components"]["cost"] == pytest.approx(-2 * info["qk_pairs"] / 32**2 / 2)


def layers(count: int = 2, **options: Any) -> list[IntegratedAttention]:
    generator = torch.Generator().manual_seed(3)
    return [
        IntegratedAttention(
            48,
            16,
            2,
            SpanConfig(win_size=8, max_span=48, max_dist=48, **options),
            generator=generator,
        )
        for _ in range(count)
    ]


def test_layers_of_the_user_are_live_while_they_train():
    own = layers()
    env = SpanControlEnv(layers=own, chunks_per_episode=2, ctx=32)
    assert (env.config.dims, env.config.heads, env.config.num_layers) == (16, 2, 2)
    assert env.core.layers == own
    env.reset(seed=0)
    before = env.step(9)
    fork = env.fork()
    with torch.no_grad():
        for each in own:
            each.projection.weight.mul_(2)
    env.reset(seed=0)
    after = env.step(9)
    assert after[4]["output_norm"] > 1.5 * before[4]["output_norm"]
    assert fork.core.layers[0] is own[0]
    assert own[0].training
    assert all(each.grad is None for each in own[0].parameters())


def test_a_module_list_and_longer_ctx():
    modules = torch.nn.ModuleList(layers(3))
    env = SpanControlEnv(layers=modules, chunks_per_episode=1)
    assert env.config.ctx == 48
    env.reset(seed=0)
    assert [env.step(4)[4]["layer"] for _ in range(3)] == [0, 1, 2]


class OwnJudgment(Reward):
    """What the layer itself makes of its output, and its state."""

    components = ("quality", "state")

    def __call__(self, context: RewardContext) -> Tensor:
        state = torch.tensor(context.layer_output.state).double()
        return torch.stack([context.layer_output.reward.double(), state], dim=-1)


def test_original_layers_of_the_user_judge_each_env_by_itself():
    """One of them beside a default one; together they would share span, state and reward."""
    generator = torch.Generator().manual_seed(3)
    original = IntegratedAttention.original(48, 16, 2, 48, 8, 48, generator=generator).eval()
    arguments = {"layers": [original, *layers(1)], "chunks_per_episode": 2, "reward": OwnJudgment()}
    envs = SpanControlVectorEnv(3, **arguments)
    alone = [SpanControlEnv(**arguments) for _ in range(3)]
    envs.reset(seed=5)
    for env_index, env in enumerate(alone):
        env.reset(seed=5 + env_index)
    for actions in ([9, 4, 0], [1, 2, 3], [7, 7, 7]):
        _, rewards, *_, infos = envs.step(np.array(actions))
        for env_index, env in enumerate(alone):
            _, reward, *_, info = env.step(actions[env_index])
            assert (rewards[env_index], infos["span"][env_index]) == (
                np.float32(reward),
                info["span"],
            )


class Sized(LayerStack):
    """A layer stack whose loss is the size of its output."""

    num_classes = 256

    def embed(self, content: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(content % 16, 16).float()

    def loss_bits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        assert targets.shape == hidden.shape[:2]
        return hidden.square().mean((1, 2))


def test_a_stack_of_the_user_has_a_task():
    env = SpanControlEnv(layers=Sized(layers()), reward="task", chunks_per_episode=2, ctx=32)
    env.reset(seed=0)
    env.step(0)
    assert env.step(0)[1] != 0


def test_original_layers_do_their_task_env_by_env_and_have_no_soft_edge():
    original = IntegratedAttention.original(48, 16, 2, 48, 8, 48).eval()
    arguments = {"layers": Sized([original]), "reward": "task", "chunks_per_episode": 2, "ctx": 32}
    envs = SpanControlVectorEnv(2, **arguments)
    envs.reset(seed=0)
    for _ in range(3):
        np.testing.assert_array_equal(envs.peek()[:, 9], 0)
        envs.step(np.array([9, 9]))
    with pytest.raises(ValueError, match="soft_span_loss"):
        envs.soft_span_loss(torch.ones(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": []}, r"at least one.*\[\]"),
        ({"layers": [torch.nn.Linear(2, 2)]}, r"\['Linear'\]"),
        ({"layers": layers(), "dims": 16}, "'dims'"),
        ({"layers": layers(), "layer_variant": "original"}, "'layer_variant'"),
        ({"layers": layers(), "action_scale": "relative"}, "'action_scale'"),
        ({"layers": layers(), "ctx": 64}, "ctx .*48"),
        ({"layers": layers(), "reward": "task"}, "no task"),
        ({"checkpoint": "own"}, "checkpoint 'own'"),
        ({"dataset": "own"}, "dataset 'own'"),
        ({"reward": "own"}, "reward 'own'"),
        ({"layers": 2.5}, "IntegratedAttention.*2.5"),
        ({"layers": torch.nn.Linear(2, 2)}, "IntegratedAttention.*Linear"),
        ({"layers": layers(), "ctx": "3"}, "ctx .*int.*'3'"),
        ({"dataset": "text", "checkpoint": "sparsity", "reward": "task"}, "4 classes"),
        ({"reward": ShortSpan}, "a Reward.*class ShortSpan"),
        ({"dataset": Ramp}, "Dataset object.*class Ramp"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: dict[str, Any], message: str):
    with pytest.raises((ValueError, TypeError), match=message):
        SpanControlEnv(**{"chunks_per_episode": 2, **arguments}).reset(seed=0)


class Frames(Dataset):
    channels = 5

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        content = generator.normal(size=(chunks, ctx, 5)).astype(np.float32)
        return Stream(content, ("frames",) * chunks)


def test_frames_are_projected():
    env = SpanControlEnv(**TINY, dataset=Frames())
    env.reset(seed=0)
    hidden = env.core.state.hidden
    assert hidden.shape == (1, 32, 16)
    assert hidden.std().item() == pytest.approx(1, abs=0.2)
    with pytest.raises(ValueError, match="reads bytes"):
        SpanControlEnv(**{**BUDGET, "dataset": Frames()})


class TooShort(Dataset):
    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        drawn = generator.integers(256, size=(chunks, ctx - 1))
        return Stream(drawn.astype(np.uint8), ("short",) * chunks)


def test_a_source_that_gives_another_shape_is_named():
    env = SpanControlEnv(**TINY, dataset=TooShort())
    with pytest.raises(ValueError, match=r"TooShort: .*\(3, 32\)"):
        env.reset(seed=0)


class Wrong(Dataset):
    """Gives what it is told to, whatever it is asked for."""

    def __init__(self, content: np.ndarray, targets: np.ndarray | None = None) -> None:
        self.stream = Stream(content, ("wrong",) * 3, targets)

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:  # noqa: ARG002
        return self.stream


BYTES_OF_3 = np.zeros((3, 32), np.uint8)


@pytest.mark.parametrize(
    ("content", "targets", "message"),
    [
        (np.random.default_rng(0).random((3, 32)), None, "bytes"),
        (np.full((3, 32), -3), None, r"-3\.\.-3"),
        (np.full((3, 32), 300), None, r"300\.\.300"),
        (np.zeros((3, 32, 2)), None, r"content .*\(3, 32\)"),
        (BYTES_OF_3, np.zeros((3, 31), np.int64), r"targets .*int64.*\(3, 32\)"),
        (BYTES_OF_3, np.full((3, 32), 256), r"0\.\.255 or -100.*256\.\.256"),
        (BYTES_OF_3, np.zeros((3, 32)), "float64"),
    ],
)
def test_wrong_streams_are_refused(content: np.ndarray, targets: np.ndarray | None, message: str):
    arguments = {**BUDGET, "ctx": 32, "dataset": Wrong(content, targets)}
    with pytest.raises(ValueError, match=f"dataset Wrong: .*{message}"):
        SpanControlEnv(**arguments, reward="task").reset(seed=0)


def test_a_reward_of_another_shape_is_named():
    class Flat(Reward):
        components = ("one",)

        def __call__(self, context: RewardContext) -> Tensor:
            return context.layer_output.span_scale

    env = SpanControlEnv(**TINY, reward=Flat())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"reward Flat .*\(1, 1\).*\(1,\)"):
        env.step(1)


@pytest.mark.parametrize("kind", [np.uint8, np.uint64, np.int32])
def test_actions_of_any_integers(kind: type[np.integer[Any]]):
    env = SB3SpanControlVecEnv(make_config("spangym/SpanControl-v0", TINY), 3)
    env.seed(0)
    env.reset()
    given = np.arange(9, dtype=kind)[::-3]
    given.flags.writeable = False
    infos = env.step(given)[3]
    assert infos[0]["span"] > infos[2]["span"]


def test_numbers_that_are_not_finite_are_an_error():
    own = layers()
    env = SpanControlEnv(layers=own, chunks_per_episode=2)
    env.reset(seed=0)
    env.step(3)
    with torch.no_grad():
        own[1].projection.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"layer 1 .*chunk 0.*infinite"):
        env.step(3)
    frames = Wrong(np.full((3, 32, 5), np.nan, np.float32))
    frames.channels = 5
    with pytest.raises(ValueError, match=r"content .*finite"):
        SpanControlEnv(**{**TINY, "chunks_per_episode": 2}, dataset=frames).reset(seed=0)


def test_cost_coef_is_not_negative():
    for cost_coef in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="cost_coef must be"):
            ShortSpan(cost_coef=cost_coef)


def test_layers_in_many_envs_and_those_that_do_not_go_with_the_settings():
    arguments = {
        "layers": layers(),
        "dataset": Ramp(),
        "reward": ShortSpan(),
        "chunks_per_episode": 1,
    }
    config, parts = parse_env_kwargs(arguments)
    env = SB3SpanControlVecEnv(config, 3, parts)
    env.seed(0)
    env.reset()
    assert env.step(np.array([1, 2, 3]))[3][0]["content_type"] == "ramp"
    for change in ({"num_layers": 3}, {"dims": 32}, {"ctx": 64}):
        with pytest.raises(ValueError, match=r"num_layers=.*dims=.*ctx="):
            SB3SpanControlVecEnv(dataclasses.replace(config, **change), 3, parts)


def test_paths_name_sources(tmp_path: Path):
    (tmp_path / "a.txt").write_text("text " * 100)
    env = SpanControlEnv(**TINY, dataset=tmp_path / "a.txt")
    assert env.reset(seed=0)[1] == {"content_type": "a.txt"}


class TestRefresh:
    def test_the_action_decides_and_info_tells(self):
        env = SpanControlEnv(**{**TINY, "chunks_per_episode": 4}, control_kv_cache=True)
        env.reset(seed=0)
        told = []
        for keys, values in ((0, 0), (0, 1), (1, 0), (0, 0)):
            env.step(np.array([5, keys, values]))
            info = env.step(np.array([5, keys, values]))[4]
            names = ("recomputed_keys", "recomputed_values", "key_staleness", "value_staleness")
            told.append((*(info[name] for name in names), info["recompute_cost"]))
        assert told == [
            (1, 1, 0, 0, 64),  # where there is nothing to use again, all is computed
            (0, 1, 1, 0, 32),
            (1, 0, 0, 1, 32),
            (0, 0, 1, 2, 0),
        ]

    def test_stale_keys_change_the_output(self):
        outputs = set()
        for refresh in ((0, 0), (0, 1), (1, 0), (1, 1)):
            env = SpanControlEnv(**TINY, control_kv_cache=True)
            env.reset(seed=0)
            env.step(np.array([5, 1, 1]))
            env.step(np.array([5, 1, 1]))
            env.step(np.array([5, *refresh]))
            outputs.add(env.core.state.hidden.numpy().tobytes())
        assert len(outputs) == 4

    def test_layers_that_keep_nothing_are_refused(self):
        cases: list[tuple[dict[str, Any], str]] = [
            ({"layers": [FocusAttention(32, 16, 2)]}, "FocusAttention"),
            ({"layer_class": "focus"}, "FocusAttention"),
            ({"layer_class": "hybrid", "layer_variant": "original"}, "HybridAttention"),
        ]
        for arguments, name in cases:
            with pytest.raises(ValueError, match=f"control_kv_cache .*{name}"):
                SpanControlEnv(**arguments, control_kv_cache=True)

    @pytest.mark.parametrize("action", [5, [5, 1], [5, 2, 0], [10, 0, 0], [5, 1, -1]])
    def test_other_actions_are_refused(self, action: Any):
        env = SpanControlEnv(**TINY, control_kv_cache=True)
        env.reset(seed=0)
        with pytest.raises(ValueError, match=r"0\.\.9.*0 or 1"):
            env.step(action)


class TestObservingThePreviousChunk:
    def test_the_observation_is_of_the_chunk_before(self):
        current = SpanControlEnv(**TINY, encoding="features", autocorrelation=True)
        previous = SpanControlEnv(
            **TINY, encoding="features", autocorrelation=True, observation_time="previous"
        )
        seen = [current.reset(seed=1)[0], *(current.step(4)[0] for _ in range(3))]
        late = [previous.reset(seed=1)[0], *(previous.step(4)[0] for _ in range(3))]
        np.testing.assert_array_equal(late[2], seen[0])
        np.testing.assert_array_equal(late[3], seen[1])
        assert not np.array_equal(late[0], seen[0])

    def test_nothing_of_a_chunk_but_its_first_token_is_known_before_it(self):
        class Late(Dataset):
            """The same first tokens, and others after them."""

            def __init__(self, last: int) -> None:
                self.last = last

            def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
                content = generator.integers(256, size=(chunks, ctx)).astype(np.uint8)
                for chunk in (0, 1):
                    content[chunk, 1:] = (content[chunk, 1:].astype(int) + self.last) % 256
                return Stream(content, ("late",) * chunks)

        for observe, same in (("previous", True), ("current", False)):
            envs = [
                SpanControlEnv(
                    **TINY, dataset=Late(last), observation_time=observe, encoding="features"
                )
                for last in (0, 9)
            ]
            assert np.array_equal(*(env.reset(seed=1)[0] for env in envs)) == same

    def test_of_a_chunk_nothing_is_known_before_it(self):
        class Last(Dataset):
            """Chunks of noise, and a last one that is told."""

            def __init__(self, last: int) -> None:
                self.last = last

            def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
                content = generator.integers(256, size=(chunks, ctx)).astype(np.uint8)
                content[1] = self.last
                return Stream(content, ("last",) * chunks)

        for observe, same in (("previous", True), ("current", False)):
            seen = []
            for last in (0, 9):
                env = SpanControlEnv(**TINY, dataset=Last(last), observation_time=observe)
                env.reset(seed=1)
                env.step(3)
                seen.append(env.step(3)[0])
            assert np.array_equal(*seen) == same


def test_studies_share_settings_with_environments():
    env = SB3SpanControlVecEnv(make_config("spangym/SpanBudget-v0", {"chunks_per_episode": 1}), 2)
    env.seed(0)
    assert np.asarray(env.reset()).shape == (2, 128)
    assert env.core.reward.components == ("task", "cost")
    assert isinstance(env.core.dataset, Dataset)
    assert not isinstance(env.core.dataset, NoiseDataset)
