"""Time ranges: the chunks of a range make up the same grid."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.metrics.timerange import MOST_POINTS, TimeRange
from kforecast.window import parse_instant


@settings(deadline=None)
@given(
    end=st.floats(0, 2e9),
    length=st.integers(0, 10_000_000),
    step=st.integers(1, 100_000),
    points=st.integers(1, MOST_POINTS),
)
def test_chunks_are_the_exact_grid(end: float, length: int, step: int, points: int) -> None:
    length = min(length, 2000 * step * points)
    asked = TimeRange.ending(end, length, step)
    assert asked.start % step == asked.end % step == 0
    assert asked.end <= end < asked.end + step
    assert length - step < asked.end - asked.start <= length
    chunks = list(asked.chunks(points))
    assert (chunks[0].start, chunks[-1].end) == (asked.start, asked.end)
    assert all(one.end + step == two.start for one, two in pairwise(chunks))
    assert all(1 <= chunk.num_points <= points for chunk in chunks)
    assert sum(chunk.num_points for chunk in chunks) == asked.num_points


@pytest.mark.parametrize(
    "text, second",
    [
        (1_704_067_200, 1_704_067_200),
        ("1704067200", 1_704_067_200),
        (1_704_067_200.9, 1_704_067_200),
        ("2024-01-01", 1_704_067_200),
        ("2024-01-01T00:00:00", 1_704_067_200),
        ("2024-01-01T00:00:00Z", 1_704_067_200),
        ("2024-01-01T02:00:00+02:00", 1_704_067_200),
    ],
)
def test_moments(text: str, second: int) -> None:
    assert parse_instant(text) == second


@pytest.mark.parametrize("text", ["yesterday", "", "nan", "-1", "1704067200000", "2024-13-01"])
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        parse_instant(text)
