import numpy as np
import pytest

from spangym.envs.sources import TextSource


@pytest.mark.parametrize("split", ["train", "evaluation"])
def test_streams_are_real_text(split: str):
    source = TextSource(split)
    generator = np.random.default_rng(0)
    kinds = set()
    for _ in range(20):
        stream = source.stream(generator, 400)
        kinds.add(stream.kind)
        text = stream.tokens.tobytes().decode("utf-8", errors="replace")
        assert sum(each.isalpha() or each.isspace() for each in text) > 200
    assert kinds == {"documentation", "code"}


def test_splits_share_no_text():
    train, evaluation = TextSource("train"), TextSource("evaluation")
    assert train.content_hashes().keys() == evaluation.content_hashes().keys()
    for kind, text in train._texts.items():
        other = evaluation._texts[kind]
        assert not np.shares_memory(text, other)
        assert len(other) == pytest.approx(len(text) / 4, abs=4)


def test_same_generator_same_stream():
    one, other = (TextSource("train").stream(np.random.default_rng(5), 100) for _ in range(2))
    np.testing.assert_array_equal(one.tokens, other.tokens)
    assert one.kind == other.kind
