"""Every argument takes numbers of any library, and holds and stores them as Python's own."""

import dataclasses
import functools
import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import gymnasium as gym
import numpy as np
import pytest
import torch

from spangym.agents import SB3Agent
from spangym.agents.baselines.constant import FixedSpanPolicy, RandomPolicy
from spangym.agents.baselines.content_oracle import ContentOracleAgent
from spangym.agents.baselines.env_aware import CoverageThresholdPolicy, OracleAgent
from spangym.agents.baselines.learned_span import LearnedSpanAgent
from spangym.agents.registry import get_agent_spec
from spangym.agents.tabular.kmeans import KMeansDiscretizer
from spangym.agents.tabular.q_learning import Refiner
from spangym.agents.tabular.schedules import LinearSchedule
from spangym.attention import (
    AdaptiveSpan,
    AdaptiveUpdateAttention,
    FocusAttention,
    HybridAttention,
    IntegratedAttention,
    MultiHeadAttention,
    ObservationSpec,
    SlidingWindowAttention,
    SpanConfig,
)
from spangym.attention.original.truncation import OriginalSpanConfig
from spangym.envs import (
    EnvConfig,
    SB3SpanControlVecEnv,
    SpanControlEnv,
    SpanControlVectorEnv,
)
from spangym.envs.data.dataset import NoiseDataset, RepetitionDataset
from spangym.envs.env_config import parse_env_kwargs
from spangym.envs.model.cache_transformer_config import CacheTransformerConfig
from spangym.envs.model.pretrain import PretrainConfig
from spangym.envs.model.pretrain_cache import CachePretrainConfig
from spangym.envs.model.stack import TransformerConfig
from spangym.envs.rewards import REWARDS
from spangym.experiments.pilot.pilot_study import (
    ModelConfig,
    PilotStudy,
    TextConfig,
    VariantConfig,
)
from spangym.experiments.pilot.synthetic_speech import SyntheticSpeechConfig
from spangym.experiments.runner.fingerprint import DatasetHashes, config_hash
from spangym.experiments.studies.load_study import normalize_study
from spangym.experiments.studies.study import EvalConfig, Study, StudyAgent, StudyEnv
from spangym.experiments.trials.trial import trials_of
from spangym.experiments.tuning.search_space import Distribution

_STUDY = Study("s", 64, (0,), (StudyEnv("spangym/SpanControl-v0"),))
_VARIANT = VariantConfig("v", "hybrid")
CONFIGS = {
    type(each).__name__: each
    for each in (
        EnvConfig(),
        SpanConfig(),
        OriginalSpanConfig(),
        ObservationSpec(8),
        TransformerConfig(),
        PretrainConfig("text", TransformerConfig(), 3),
        CacheTransformerConfig(),
        CachePretrainConfig("deadlines", CacheTransformerConfig(), 3),
        LinearSchedule(1.0, 0.0, 5),
        _STUDY,
        _STUDY.environments[0],
        StudyAgent("refiner"),
        EvalConfig(),
        PilotStudy("p", "text", (_VARIANT,)),
        _VARIANT,
        ModelConfig(),
        TextConfig(),
        SyntheticSpeechConfig(),
        Distribution(low=1, high=2),
    )
}
"""A valid instance of every configuration."""

NOT_OF_USERS = {"AgentSpec", "PlotSpec", "TaskSpec"}
"""Dataclasses of the code's own tables."""


def config_classes() -> set[str]:
    """Names of the dataclasses that users fill in, found by their names."""
    found = set()
    for package in ("attention", "envs", "agents", "experiments"):
        module = importlib.import_module(f"spangym.{package}")
        for info in pkgutil.walk_packages(module.__path__, f"{module.__name__}."):
            for name, value in vars(importlib.import_module(info.name)).items():
                ends = name.endswith(("Config", "Study", "Schedule", "Distribution", "Spec"))
                is_ours = getattr(value, "__module__", "").startswith("spangym.")
                if ends and is_ours and inspect.isclass(value) and dataclasses.is_dataclass(value):
                    found.add(value.__name__)
    return found - NOT_OF_USERS


def scalar_fields(kind: type) -> Iterator[tuple[str, str]]:
    """Configurations and their fields of a type."""
    for config in CONFIGS.values():
        hints = get_type_hints(type(config), include_extras=True)
        for name, hint in hints.items():
            if kind in (hint, *get_args(hint)[:1]):
                yield type(config).__name__, name


def test_every_configuration_is_listed():
    assert config_classes() <= {*CONFIGS}


def replace(config: str, name: str, value: Any) -> Any:
    return dataclasses.replace(CONFIGS[config], **{name: value})


@pytest.mark.parametrize(("config", "name"), [*scalar_fields(int)])
def test_integers_of_configurations(config: str, name: str):
    value = getattr(CONFIGS[config], name)
    for given in (np.int64(value), np.array(value), torch.tensor(value)):
        made = replace(config, name, given)
        assert made == CONFIGS[config]
        assert type(getattr(made, name)) is int
    for wrong in (float(value), np.float32(value), bool(value), str(value), None, [value]):
        with pytest.raises((TypeError, ValueError), match=name):
            replace(config, name, wrong)


@pytest.mark.parametrize(("config", "name"), [*scalar_fields(float)])
def test_reals_of_configurations(config: str, name: str):
    value = getattr(CONFIGS[config], name)
    for given in (np.float64(value), np.float32(value), torch.tensor(value, dtype=torch.float64)):
        made = getattr(replace(config, name, given), name)
        assert type(made) is float
        assert made == float(given)
    for wrong in (True, str(value), None, [value], float("nan"), float("inf")):
        with pytest.raises((TypeError, ValueError), match=name):
            replace(config, name, wrong)


@pytest.mark.parametrize(("config", "name"), [*scalar_fields(bool)])
def test_truth_values_of_configurations(config: str, name: str):
    assert getattr(replace(config, name, np.False_), name) is False
    for wrong in (1, "yes", None):
        with pytest.raises((TypeError, ValueError), match=name):
            replace(config, name, wrong)


CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "Refiner": Refiner,
    "KMeansDiscretizer": KMeansDiscretizer,
    "LearnedSpanAgent": LearnedSpanAgent,
    "ContentOracleAgent": ContentOracleAgent,
    "CoverageThresholdPolicy": CoverageThresholdPolicy,
    "OracleAgent": OracleAgent,
    "SB3Agent": lambda normalize=False: SB3Agent("ppo", normalize=normalize),
    "RepetitionDataset": lambda shortest=8, longest=192: RepetitionDataset(
        NoiseDataset(), shortest, longest
    ),
    **{f"reward {name}": make for name, make in REWARDS.items()},
    "original layer": lambda ctx=64, dims=8, head=2, **spans: IntegratedAttention.original(
        ctx, dims, head, **spans
    ),
    **{
        cls.__name__: lambda ctx=64, dims=8, head=2, cls=cls: cls(ctx, dims, head)
        for cls in (IntegratedAttention, FocusAttention, HybridAttention)
    },
    "MultiHeadAttention": lambda dims=8, head=2: MultiHeadAttention(dims, head),
    "AdaptiveUpdateAttention": lambda dims=8, head=2: AdaptiveUpdateAttention(dims, head),
    "SlidingWindowAttention": lambda dims=8, head=2: SlidingWindowAttention(
        dims, head, SpanConfig()
    ),
    "AdaptiveSpan": lambda head=2: AdaptiveSpan(head, SpanConfig()),
}
"""Constructors with numeric arguments that are no dataclasses."""


def numeric_arguments() -> Iterator[tuple[str, str]]:
    for name, make in CONSTRUCTORS.items():
        for argument, parameter in inspect.signature(make).parameters.items():
            if isinstance(parameter.default, bool | int | float):
                yield name, argument


@pytest.mark.parametrize(("name", "argument"), [*numeric_arguments()])
def test_arguments_of_constructors(name: str, argument: str):
    make = CONSTRUCTORS[name]
    default = inspect.signature(make).parameters[argument].default
    given = np.array(default)
    made = make(**{argument: given[()]})
    assert type(getattr(made, argument, default)) is type(default)
    make(**{argument: given})
    for wrong in ("two", None) if isinstance(default, bool) else ("two", True, 1j):
        with pytest.raises((TypeError, ValueError), match=argument):
            make(**{argument: wrong})
    if type(default) is int:
        with pytest.raises(TypeError, match=rf"{argument} must be an integer, got 2\.5"):
            make(**{argument: 2.5})


@pytest.mark.parametrize("make", [Refiner, KMeansDiscretizer, RandomPolicy, ContentOracleAgent])
def test_seeds_of_agents(make: Any):
    make(seed=np.int64(3))
    for wrong in (3.0, "3", True):
        with pytest.raises(TypeError, match="seed must be an integer"):
            make(seed=wrong)


def test_actions_of_fixed_spans():
    assert FixedSpanPolicy(np.int64(3)).state_dict() == {"action": 3}  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"action must be .* got -1"):
        FixedSpanPolicy(-1)


SMALL: dict[str, Any] = {"dims": 8, "heads": 2, "ctx": 16, "chunks_per_episode": 2}
NUMPY: dict[str, Any] = {name: np.int64(value) for name, value in SMALL.items()}
ENV_ID = "spangym/SpanControl-v0"


def test_environments_hold_plain_values():
    options = {**NUMPY, "cost_coef": np.float32(0.5), "device": torch.device("cpu")}
    env = gym.make(ENV_ID, **options).unwrapped
    config: EnvConfig = env.config  # pyright: ignore[reportAttributeAccessIssue]
    expected = EnvConfig(**SMALL, cost_coef=0.5)
    assert json.dumps(dataclasses.asdict(config)) == json.dumps(dataclasses.asdict(expected))


def test_paths_of_datasets_and_checkpoints(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes(bytes(range(256)) * 16)
    assert EnvConfig(dataset=path) == EnvConfig(dataset=str(path))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"absent.*neither shipped nor a file"):
        EnvConfig.from_arguments({"checkpoint": tmp_path / "absent"})
    kwargs = {"dataset": path, "device": torch.device("cpu"), "ctx": np.int64(16)}
    assert StudyEnv(ENV_ID, kwargs=kwargs).kwargs == {
        "dataset": str(path),
        "device": "cpu",
        "ctx": 16,
    }


@pytest.mark.parametrize("num_envs", [np.int64(2), np.array(2), torch.tensor(2)])
def test_numbers_of_environments_and_seeds(num_envs: Any):
    envs = gym.make_vec(ENV_ID, num_envs, **NUMPY)
    sb3 = SB3SpanControlVecEnv(EnvConfig(**SMALL), num_envs)
    assert type(envs.num_envs) is type(sb3.num_envs) is int
    one = gym.make(ENV_ID, **SMALL)
    first, _ = one.reset(seed=np.int64(4))  # pyright: ignore[reportArgumentType]
    vector, _ = envs.reset(seed=np.int64(4))  # pyright: ignore[reportArgumentType]
    sb3.seed(np.int64(4))  # pyright: ignore[reportArgumentType]
    batch = sb3.reset()
    np.testing.assert_array_equal(vector[0], first)
    np.testing.assert_array_equal(batch, vector)


@pytest.mark.parametrize("num_envs", [2.0, "2", True, None, np.float64(2)])
def test_wrong_numbers_of_environments(num_envs: Any):
    for make in (SpanControlVectorEnv, lambda n: SB3SpanControlVecEnv(EnvConfig(), n)):
        with pytest.raises(TypeError, match="num_envs must be an integer, got"):
            make(num_envs)


@pytest.mark.parametrize("seed", [4.0, "4", np.float32(4)])
def test_wrong_seeds_of_environments(seed: Any):
    for env in (gym.make(ENV_ID, **SMALL), SpanControlVectorEnv(2, **SMALL)):
        with pytest.raises(TypeError, match="seed must be an integer"):
            env.reset(seed=seed)


def test_hyperparameters_of_a_library_are_stored_as_plain_values():
    agent = SB3Agent(
        "ppo",
        np.int64(3),  # pyright: ignore[reportArgumentType]
        learning_rate=np.float32(0.25),
        policy_kwargs={"net_arch": [np.int64(8)]},
    )
    assert json.dumps([agent.seed, agent.hyperparameters]) == (
        '[3, {"learning_rate": 0.25, "policy_kwargs": {"net_arch": [8]}}]'
    )


def test_studies_of_numpy_numbers_have_the_same_hash():
    def make(integer: Any, real: Any) -> Study:
        kwargs = {"ctx": integer(16), "cost_coef": real(0.5)}
        agent = StudyAgent("refiner", hyperparameters={"alpha": real(0.5), "states": integer(99)})
        env = StudyEnv(ENV_ID, "e", kwargs)
        return Study("s", integer(64), (integer(0),), (env,), (agent,), n_envs=integer(2))

    plain, of_numpy = make(int, float), make(np.int64, np.float32)
    assert plain == of_numpy
    plain, of_numpy = normalize_study(plain), normalize_study(of_numpy)
    assert plain.to_toml() == of_numpy.to_toml()
    keys = [
        config_hash(each.config_for_hash(DatasetHashes()))
        for study in (plain, of_numpy)
        for each in trials_of(study)[:1]
    ]
    assert keys[0] == keys[1]


BIG = {
    "module": torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(100))),
    "array": np.zeros(10_000),
    "list": [*range(10_000)],
    "dict": {str(number): number for number in range(10_000)},
    "list of text": ["long " * 30] * 100,
}


@pytest.mark.parametrize("value", BIG.values(), ids=BIG)
def test_errors_do_not_print_large_objects(value: Any):
    def make_layer(name: str) -> Any:
        arguments = {"ctx": 16, "dims": 16, "head": 2, name: value}
        return IntegratedAttention(**arguments)

    env = SpanControlEnv(dims=8, heads=2, ctx=16, chunks_per_episode=1)
    env.reset(seed=0)
    calls: dict[str, Callable[[], Any]] = {"step": lambda: env.step(value)}
    for config in (EnvConfig, SpanConfig):
        for field in dataclasses.fields(config):
            calls[f"{config.__name__}.{field.name}"] = functools.partial(
                parse_env_kwargs if config is EnvConfig else lambda given: SpanConfig(**given),
                {field.name: value},
            )
    for name in ("ctx", "dims", "head"):
        calls[f"layer.{name}"] = functools.partial(make_layer, name)
    for name in get_agent_spec("refiner").options or ():
        calls[f"refiner.{name}"] = functools.partial(
            get_agent_spec("refiner").make, seed=0, **{name: value}
        )
    for name, call in calls.items():
        try:
            call()
        except (TypeError, ValueError) as error:
            message = str(error)
            assert len(message) < 1000, (name, message[:200])
            assert "\n" not in message, name
