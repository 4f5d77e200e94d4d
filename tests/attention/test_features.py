import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spangym.attention.features import (
    autocorrelation_buckets,
    discretize,
    pool_dims,
    quality,
    token_moments,
    tuple_hash_id,
)

from ..conftest import Golden


@pytest.mark.parametrize("case", range(6))
def test_reproduces_the_original(golden: Golden, case: int):
    recorded = golden("features")
    x = torch.from_numpy(recorded[f"x{case}"])
    # The original averages over the batch as well.
    x = x.flatten(0, 1)[None]
    got = token_moments(x)
    np.testing.assert_allclose(got[0], recorded[f"features{case}"], rtol=1e-5, atol=1e-6)
    assert discretize(got)[0].tolist() == recorded[f"digits{case}"].tolist()
    assert tuple_hash_id(discretize(got)[0].tolist()) == recorded[f"state_id{case}"]
    assert quality(x).quality.item() == pytest.approx(recorded[f"quality{case}"], abs=1e-5)


def test_state_of_an_output_of_zeros():
    # Recorded from the original: all digits are 5.
    assert tuple_hash_id(discretize(token_moments(torch.zeros(1, 40, 16)))[0].tolist()) == 2495


@given(st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=20))
def test_digits_count_the_edges_below(values: list[float]):
    edges = np.linspace(-1, 1, 10)
    expected = [int((edges <= value).sum()) for value in values]
    assert discretize(torch.tensor(values)).tolist() == expected


def test_quality_equals_the_definition():
    output = torch.tensor([[[0.5, -1.0], [0.0, 2.0]]])
    got = quality(output)
    tiny = 1e-10
    tokens = [
        -(0.5 * np.log(0.5) + tiny * np.log(tiny)),
        -(tiny * np.log(tiny) + 2.0 * np.log(2.0)),
    ]
    assert got.coverage.item() == 0.5
    assert got.entropy.item() == pytest.approx(np.mean(tokens))
    assert got.quality.item() == pytest.approx(0.5 - 0.1 * np.mean(tokens))


def test_pooling_keeps_means_and_variances_apart():
    pooled = pool_dims(torch.tensor([[1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0]]), groups=2)
    assert pooled.tolist() == [[1.5, 3.5, 15.0, 35.0]]


@given(
    tokens=st.integers(1, 40),
    buckets=st.integers(1, 8),
    seed=st.integers(0, 2**31),
)
def test_autocorrelations_are_mean_cosines(tokens: int, buckets: int, seed: int):
    x = torch.randn(2, tokens, 5, generator=torch.Generator().manual_seed(seed))
    unit = x / x.norm(dim=-1, keepdim=True)
    means = [0.0, *((unit[:, k:] * unit[:, :-k]).sum(-1).mean(1) for k in range(1, tokens))]
    found = autocorrelation_buckets(x, buckets)
    assert found.shape == (2, buckets)
    for bucket in range(buckets):
        first = 2 ** (bucket - 1) + 1 if bucket > 1 else bucket + 1
        last = tokens - 1 if bucket == buckets - 1 else min(2**bucket, tokens - 1)
        expected = torch.zeros(2)
        if first <= last:
            expected = torch.stack(means[first : last + 1]).amax(0)
        torch.testing.assert_close(found[:, bucket], expected, atol=1e-5, rtol=0)


def test_autocorrelations_find_a_repetition():
    passage = torch.randn(1, 24, 16, generator=torch.Generator().manual_seed(0))
    found = autocorrelation_buckets(passage.repeat(1, 6, 1), 9)[0]
    assert found.argmax() == 5  # 24 lies in 17..32
    assert found[5] == pytest.approx(1, abs=1e-5)
    assert found[:4].max() < 0.5


def test_autocorrelations_ignore_padding(generator: torch.Generator):
    x = torch.randn(4, 40, 8, generator=generator)
    lengths = torch.tensor([40, 17, 3, 1])
    got = autocorrelation_buckets(x, 9, lengths)
    for index, length in enumerate(lengths.tolist()):
        alone = autocorrelation_buckets(x[index : index + 1, :length], 9)[0]
        torch.testing.assert_close(got[index], alone, rtol=1e-4, atol=1e-6)


@given(
    tokens=st.sampled_from([1, 3, 16, 32, 48, 128, 300]),
    dims=st.sampled_from([5, 16, 64, 100]),
    batch=st.integers(2, 9),
    threads=st.sampled_from([1, 3]),
)
def test_features_of_a_sequence_do_not_depend_on_the_batch(
    tokens: int, dims: int, batch: int, threads: int
):
    x = torch.randn(batch, tokens, dims, generator=torch.Generator().manual_seed(tokens))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for features in (token_moments, lambda each: autocorrelation_buckets(each, 9)):
            together = features(x)
            alone = torch.cat([features(x[index : index + 1]) for index in range(batch)])
            assert torch.equal(together, alone)
    finally:
        torch.set_num_threads(before)


def test_gradient_of_autocorrelations(generator: torch.Generator):
    x = torch.randn(2, 9, 70, dtype=torch.float64, generator=generator, requires_grad=True)
    torch.autograd.gradcheck(lambda x: autocorrelation_buckets(x, 4), x)


def test_weights_of_quality():
    output = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0))
    default, other = quality(output), quality(output, coverage_weight=0.5, entropy_weight=2.0)
    assert torch.equal(default.quality, default.coverage - 0.1 * default.entropy)
    assert torch.equal(other.quality, 0.5 * default.coverage - 2.0 * default.entropy)
