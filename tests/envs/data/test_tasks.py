"""Content of the five tasks at each difficulty: answers by the rule, and what shows the type."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spangym.attention.observation_spec import ObservationSpec
from spangym.envs import EnvConfig, SpanControlEnv
from spangym.envs.data.dataset import NO_TARGET
from spangym.envs.data.dataset_registry import TASKS, make_dataset
from spangym.envs.data.tasks import FILLERS, MARKERS, TaskDataset

ALL = pytest.mark.parametrize("name", TASKS)
FILLED = pytest.mark.parametrize("name", [name for name in TASKS if name != "sparsity"])
DIFFICULTIES = pytest.mark.parametrize("difficulty", range(3))


def sample(name: str, difficulty: int, chunks: int = 300) -> list[tuple[str, bytes, list[int]]]:
    """Content type, content and targets of each chunk."""
    dataset = TASKS[name](difficulty)
    stream = dataset.sample(np.random.default_rng(difficulty), chunks, 128)
    assert stream.targets is not None
    assert {*stream.content_types} == {*dataset._content_types}
    content = [each.tobytes() for each in stream.content]
    return [*zip(stream.content_types, content, stream.targets.tolist(), strict=True)]


def targets_of(targets: list[int]) -> Iterator[tuple[int, int]]:
    return ((token, target) for token, target in enumerate(targets) if target != NO_TARGET)


# --- answers --------------------------------------------------------------------------------------


@DIFFICULTIES
def test_long_range_asks_for_the_value_after_the_key(difficulty: int):
    near, far = {}, {}
    for content_type, chunk, targets in sample("long-range", difficulty):
        asked = [*targets_of(targets)]
        assert len(asked) == 4
        for token, target in asked:
            place = chunk.index(chunk[token])
            assert place < token
            assert chunk[place + 1] == ord("0") + target
            distance = token - place - 1
            near[content_type] = min(near.get(content_type, 999), distance)
            far[content_type] = max(far.get(content_type, 0), distance)
    assert far["near"] <= 15 < 25 < near["middle"]
    assert far["middle"] <= 43 < 95 < near["far"]


@DIFFICULTIES
def test_collapse_asks_for_the_nearest_list(difficulty: int):
    bounds = {"near": (15, 23), "middle": (29, 37), "far": (43, 51)}
    for content_type, chunk, targets in sample("collapse", difficulty):
        asked = dict(targets_of(targets))
        for token, target in asked.items():
            answers = sorted(
                (abs(place + 1 - token), chunk[place + 1] - ord("0"))
                for place in range(127)
                if chunk[place] == chunk[token] and place not in asked
            )
            distance, value = answers[0]
            assert value == target
            assert distance <= bounds[content_type][0]
            assert all(each >= bounds[content_type][1] for each, _ in answers[1:])


def test_lists_are_equally_dense_whatever_their_distance():
    counts: dict[str, list[int]] = {}
    for content_type, chunk, _ in sample("collapse", 1):
        keys = sum(chr(each).isupper() for each in chunk)
        counts.setdefault(content_type, []).append(keys)
    means = [np.mean(each) for each in counts.values()]
    assert max(means) - min(means) < 3


@DIFFICULTIES
def test_precision_asks_for_the_cue_of_the_entity(difficulty: int):
    sizes = {"notes": 16, "paragraphs": 44, "article": 128}
    for content_type, chunk, targets in sample("precision", difficulty, 100):
        asked = [*targets_of(targets)]
        assert len(asked) == 27
        for token, target in asked:
            mentions = [place for place in range(128) if chunk[place] == chunk[token]]
            cues = [b"@#%&".find(chunk[place + 1 : place + 2]) for place in mentions]
            assert [each for each in cues if each >= 0] == [target]
            assert max(mentions) - min(mentions) < sizes[content_type]


@DIFFICULTIES
def test_hierarchy_asks_in_two_hops(difficulty: int):
    hops = {"all near": (0, 0), "sections far": (84, 0), "index far": (0, 40)}
    for content_type, chunk, targets in sample("hierarchy", difficulty):
        asked = [*targets_of(targets)]
        assert len(asked) == 6
        for token, target in asked:
            section = place = token
            if chunk[token] <= ord("M"):
                place = chunk.index(chunk[token])
                section = place + 1
                assert 0 <= token - place - hops[content_type][1] < 32
            first = chunk.index(chunk[section])
            assert chunk[first + 1] == ord("0") + target
            if section != token:
                assert 0 <= section - first - hops[content_type][0] < 32


@DIFFICULTIES
def test_sparsity_asks_for_the_note_after_the_same_note(difficulty: int):
    lengths = {"short": (4, 6), "medium": (16, 20), "long": (44, 48)}
    for content_type, chunk, targets in sample("sparsity", difficulty):
        asked = [*targets_of(targets)]
        assert len(asked) > 50
        for token, target in asked:
            assert target == chunk[token + 1] % 4
            last = chunk.rindex(chunk[token], 0, token)
            # The marker may be between the two notes.
            after = chunk[last + 1] if chunk[last + 1] not in MARKERS else chunk[last + 2]
            assert after == chunk[token + 1]
            low, high = lengths[content_type]
            assert low <= token - last <= high + (difficulty == 1)
        assert max(map(chunk.count, {*chunk})) <= 6


# --- what shows the content type ------------------------------------------------------------------


@ALL
@DIFFICULTIES
def test_one_marker_at_difficulty_1_alone(name: str, difficulty: int):
    places = []
    for content_type, chunk, targets in sample(name, difficulty):
        marked = [place for place in range(128) if chunk[place] in MARKERS]
        assert len(marked) == (difficulty == 1)
        for place in marked:
            assert chunk[place] == MARKERS[TASKS[name]._content_types.index(content_type)]
            assert targets[place] == NO_TARGET
        places += marked
    if places:
        assert min(places) < 8
        assert max(places) > 119


@FILLED
def test_filler_of_difficulty_0_is_of_the_content_type(name: str):
    for content_type, chunk, _ in sample(name, 0, 50):
        index = TASKS[name]._content_types.index(content_type)
        assert {each for each in chunk if chr(each).islower()} <= {*FILLERS[index].tolist()}


@ALL
@pytest.mark.parametrize("difficulty", [1, 2])
def test_the_histogram_does_not_show_the_content_type(name: str, difficulty: int):
    counts: dict[str, NDArray[np.int64]] = {}
    for content_type, chunk, _ in sample(name, difficulty, 600):
        is_filler = [name == "sparsity" or chr(each).islower() for each in chunk]
        filler = np.frombuffer(chunk, np.uint8)[is_filler]
        filler = filler[~np.isin(filler, MARKERS)]
        counts[content_type] = counts.get(content_type, 0) + np.bincount(filler, minlength=256)
    shares = np.stack([each / each.sum() for each in counts.values()])
    used = shares.any(0)
    # Letters are equally frequent, and notes are.
    np.testing.assert_allclose(shares[:, used], 1 / used.sum(), rtol=0.25)


def accuracy(name: str, difficulty: int, encoding: str, autocorrelation: bool) -> float:
    """Accuracy of linear discriminants of the content type, on chunks that they were not fit to.

    Tokens have random embeddings, so that it does not depend on trained layers.
    """
    stream = TASKS[name](difficulty).sample(np.random.default_rng(5), 1200, 128)
    types = TASKS[name]._content_types
    labels = np.array([types.index(each) for each in stream.content_types])
    embedding = torch.randn(256, 32, generator=torch.Generator().manual_seed(0))
    hidden = torch.nn.functional.layer_norm(embedding[stream.content.astype(np.int64)], (32,))
    spec = ObservationSpec(32, num_layers=1, encoding=encoding, autocorrelation=autocorrelation)
    features = spec.encode(spec.extract_from_input(hidden), 0).numpy()
    features = (features - features.mean(0)) / (features.std(0) + 1e-9)
    train, test = slice(0, 800), slice(800, None)
    means = np.stack([features[train][labels[train] == each].mean(0) for each in range(3)])
    within = features[train] - means[labels[train]]
    covariance = within.T @ within / len(within) + 1e-3 * np.eye(within.shape[1])
    weights = np.linalg.solve(covariance, means.T)
    scores = features[test] @ weights - (means.T * weights).sum(0) / 2
    return float((scores.argmax(1) == labels[test]).mean())


@ALL
def test_each_difficulty_shows_less_of_the_content_type(name: str):
    # Digits show the alphabet, hardly the marker, and no repeats.
    assert accuracy(name, 0, "box", False) > 0.99
    assert accuracy(name, 1, "box", False) < 0.75
    assert accuracy(name, 1, "features", False) > 0.95
    assert accuracy(name, 2, "features", False) < 0.65
    assert accuracy(name, 2, "features", True) > 0.75


# --- arguments ------------------------------------------------------------------------------------


@ALL
def test_without_a_difficulty_chunks_have_each(name: str):
    dataset = make_dataset(name, "train")
    assert isinstance(dataset, TaskDataset)
    assert dataset.difficulty is None
    content = dataset.sample(np.random.default_rng(0), 600, 128).content
    marked = np.isin(content, MARKERS).any(1)
    assert marked.mean() == pytest.approx(1 / 3, abs=0.07)
    if name == "sparsity":
        common = (content >= 208).any(1)
    else:
        common = (content == ord("a")).any(1) & (content == ord("q")).any(1)
    assert common.mean() == pytest.approx(2 / 3, abs=0.1)


@ALL
def test_environments_have_their_difficulty(name: str):
    arguments = {"checkpoint": name, "dataset": name, "encoding": "features"}
    assert EnvConfig.from_arguments(arguments).difficulty == 1
    seen = []
    for difficulty in range(3):
        env = SpanControlEnv(**arguments, difficulty=difficulty)  # pyright: ignore[reportArgumentType]
        assert isinstance(env.core.dataset, TaskDataset)
        assert env.core.dataset.difficulty == difficulty
        seen.append(env.reset(seed=0)[0].tobytes())
    assert len({*seen}) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "long-range", "difficulty": 3}, r"difficulty must be in 0\.\.2, got 3"),
        ({"dataset": "long-range", "difficulty": -1}, r"difficulty must be in 0\.\.2, got -1"),
        ({"dataset": "text", "difficulty": 2}, "is for the datasets long-range, .* with 'text'"),
        ({"difficulty": 0}, "is for the datasets"),
    ],
)
def test_difficulties_that_are_refused(arguments: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        EnvConfig.from_arguments(arguments)


def test_a_dataset_refuses_other_difficulties():
    with pytest.raises(ValueError, match=r"difficulty must be in 0\.\.2, got 3"):
        TASKS["collapse"](3)
    with pytest.raises(TypeError, match="difficulty must be an integer"):
        TASKS["collapse"](1.5)  # pyright: ignore[reportArgumentType]
