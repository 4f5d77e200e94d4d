import copy
import pickle

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from spangym.attention.transformers.load_model import token_bytes
from spangym.envs.data.dataset import (
    NO_TARGET,
    Dataset,
    MixtureDataset,
    NoiseDataset,
    RepetitionDataset,
    Stream,
    TextDataset,
    default_mixture,
    sample_streams,
)
from spangym.envs.data.token_dataset import TokenDataset
from spangym.envs.levels import sample_levels
from spangym.envs.span_control import SpanControlEnv
from tests.attention.transformers.tiny_llama import make_tokenizer


def make_dataset(dataset: Dataset | None = None) -> TokenDataset:
    return TokenDataset(dataset or default_mixture("train"), make_tokenizer())


def test_chunks_are_the_tokens_of_text():
    dataset = make_dataset(TextDataset("train", ["code"]))
    stream = dataset.sample(np.random.default_rng(0), 3, 100)
    assert stream.content.shape == (3, 100)
    assert stream.content.dtype == np.int64
    assert stream.content_types == ("code",) * 3
    code = TextDataset("train").texts["code"].tobytes().decode()
    sizes = token_bytes(dataset.tokenizer)
    for row in stream.content:
        text = str(dataset.tokenizer.decode(row))
        assert text in code
        assert sizes[row].sum() == len(text.encode())


def test_generator_determines_the_stream():
    dataset = make_dataset()
    one, other = (dataset.sample(np.random.default_rng(4), 4, 60) for _ in range(2))
    np.testing.assert_array_equal(one.content, other.content)
    assert one.content_types == other.content_types
    generator = np.random.default_rng(4)
    first, second = (dataset.sample(generator, 4, 60) for _ in range(2))
    assert (first.content != second.content).any()


@pytest.mark.parametrize("make", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_copies_draw_the_same(make):
    dataset = make_dataset()
    twin = make(dataset)
    streams = [each.sample(np.random.default_rng(3), 2, 64) for each in (dataset, twin)]
    np.testing.assert_array_equal(streams[0].content, streams[1].content)
    assert twin.fingerprint() == dataset.fingerprint()


def test_levels_do_not_depend_on_each_other():
    dataset = make_dataset()
    size = dataset.vocab_size
    _, alone, _ = sample_levels(dataset, np.array([[3]]), 50, size)
    _, together, _ = sample_levels(dataset, np.array([[7, 3], [3, 9]]), 50, size)
    assert torch.equal(together[0, 1], alone[0, 0])
    assert torch.equal(together[1, 0], alone[0, 0])


def test_targets_are_the_next_tokens():
    dataset = make_dataset()
    generators = [np.random.default_rng(seed) for seed in range(2)]
    _, content, targets = sample_streams(dataset, generators, 2, 40, dataset.vocab_size)
    assert targets is not None
    assert torch.equal(targets[..., :-1], content[..., 1:])
    assert (targets[..., -1] == NO_TARGET).all()
    assert content.max() > 255


class Spaces(Dataset):
    """Text of long tokens, of which the usual number of bytes is not enough, every second time."""

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        name = ("long", "short")[generator.integers(2)]
        pattern = np.frombuffer(b"The code of Anna" if name == "long" else b"~^`", np.uint8)
        return Stream(np.tile(np.resize(pattern, ctx), (chunks, 1)), (name,) * chunks)


def test_long_tokens_are_as_frequent_as_short_ones():
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["The code of Anna"])
    dataset = TokenDataset(Spaces(), tokenizer)
    stream = dataset.sample(np.random.default_rng(0), 400, 32)
    assert stream.content_types.count("long") == pytest.approx(200, abs=30)


class Fixed(Dataset):
    def __init__(self, content: bytes) -> None:
        self._content = np.frombuffer(content, np.uint8)

    def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
        del generator
        return Stream(np.tile(np.resize(self._content, ctx), (chunks, 1)), ("fixed",) * chunks)


def test_text_is_utf8():
    dataset = make_dataset(Fixed("字Größe ".encode()[1:]))
    row = dataset.sample(np.random.default_rng(0), 1, 60).content[0]
    assert str(dataset.tokenizer.decode(row)).startswith("Größe ")


def test_bytes_that_are_no_text():
    with pytest.raises(ValueError, match="0 tokens"):
        make_dataset(Fixed(b"\xff")).sample(np.random.default_rng(0), 1, 8)


def test_special_tokens_start_a_chunk():
    tokenizer = make_tokenizer()
    template = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.backend_tokenizer.post_processor = template
    rows = TokenDataset(NoiseDataset(b"ab"), tokenizer).sample(np.random.default_rng(0), 2, 16)
    assert (rows.content[:, 0] == tokenizer.bos_token_id).all()
    assert (rows.content[:, 1:] != tokenizer.bos_token_id).all()


def test_fingerprint_is_that_of_dataset_and_tokenizer():
    text = TextDataset("train")
    one = make_dataset(text)
    before = one.fingerprint()
    assert before.items() > text.fingerprint().items()
    one.tokenizer("some text", truncation=True, max_length=2)
    assert one.fingerprint() == before
    one.tokenizer.add_tokens(["other"])
    assert one.fingerprint() != before


def test_frames_and_tokens_are_refused():
    class Frames(Dataset):
        channels = 2

        def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
            raise NotImplementedError

    with pytest.raises(ValueError, match="frames"):
        make_dataset(Frames())
    with pytest.raises(ValueError, match="tokens"):
        make_dataset(make_dataset())


def test_layers_that_read_bytes_refuse_tokens():
    with pytest.raises(ValueError, match="token ids"):
        SpanControlEnv(dataset=make_dataset())


def test_wrappers_keep_the_vocabulary():
    dataset = make_dataset()
    for wrapped in (RepetitionDataset(dataset), MixtureDataset([dataset, dataset])):
        assert wrapped.vocab_size == dataset.vocab_size
        sample_streams(wrapped, [np.random.default_rng(0)], 2, 32, dataset.vocab_size)
    with pytest.raises(ValueError, match="vocab_size"):
        MixtureDataset([dataset, NoiseDataset()])


def test_ids_outside_of_the_vocabulary_are_refused():
    class Wrong(Dataset):
        vocab_size = 1000

        def sample(self, generator: np.random.Generator, chunks: int, ctx: int) -> Stream:
            del generator
            return Stream(np.full((chunks, ctx), 1000), ("wrong",) * chunks)

    with pytest.raises(ValueError, match=r"0\.\.999"):
        sample_streams(Wrong(), [np.random.default_rng(0)], 1, 8, None)
