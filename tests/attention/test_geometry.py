import torch
from hypothesis import given
from hypothesis import strategies as st

from spangym.attention import SpanGeometry


@st.composite
def geometries(draw: st.DrawFn) -> tuple[int, int, int, float]:
    win_size = draw(st.integers(1, 40))
    max_span = win_size + draw(st.integers(0, 60))
    return draw(st.integers(1, 70)), win_size, max_span, draw(st.floats(0, 1, width=32))


def by_hand(tokens: int, win_size: int, max_span: int, scale: float) -> list[tuple[int, int]]:
    """The interval of each query by definition."""
    if scale == 0:
        return [(0, 0)] * tokens
    window = max(1, int(win_size * scale))
    span = max(1, int(max_span * scale))
    reach = span - window
    starts = [query // window * window for query in range(tokens)]
    return [(max(0, start - reach), min(start + span, tokens)) for start in starts]


@given(geometries())
def test_intervals_are_those_of_the_definition(geometry: tuple[int, int, int, float]):
    tokens, win_size, max_span, scale = geometry
    spans = SpanGeometry.from_scale(torch.tensor([scale]), win_size=win_size, max_span=max_span)
    first, end = spans.intervals(tokens)
    got = list(zip(first[0].tolist(), end[0].tolist(), strict=True))
    expected = by_hand(tokens, win_size, max_span, scale)
    assert got == expected
    assert spans.qk_pairs(tokens).item() == sum(end - first for first, end in expected)


@given(geometries())
def test_an_interval_covers_its_own_query(geometry: tuple[int, int, int, float]):
    tokens, win_size, max_span, scale = geometry
    spans = SpanGeometry.from_scale(
        torch.tensor([max(scale, 0.01)]), win_size=win_size, max_span=max_span
    )
    first, end = spans.intervals(tokens)
    position = torch.arange(tokens)
    assert ((first <= position) & (position < end)).all()
    assert (spans.span >= spans.window).all()


def test_sequences_are_independent():
    scales = torch.tensor([0.0, 0.3, 1.0])
    batched = SpanGeometry.from_scale(scales, win_size=8, max_span=12)
    for index in range(3):
        alone = batched.select(index)
        assert alone == SpanGeometry(alone.window, alone.span)
        for one, other in zip(batched.intervals(30), alone.intervals(30), strict=True):
            assert torch.equal(one[index], other[0])


def test_multiplies_as_python_does():
    # float32 would round this product up to 7.
    scale = torch.tensor([0.7])
    assert SpanGeometry.from_scale(scale, win_size=10, max_span=10).window.item() == int(
        10 * scale.item()
    )


def test_max_dist_bounds_the_span():
    spans = SpanGeometry.from_scale(torch.ones(1), win_size=4, max_span=100, max_dist=6)
    assert spans.span.item() == 6
