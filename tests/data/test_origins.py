"""Sets of cells stored as runs, compared with arrays of all cells."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from kforecast.data.origins import Cells, blocks

FLAGS = npst.arrays(bool, st.tuples(st.integers(1, 5), st.integers(0, 12)))


@given(FLAGS, st.integers(0, 4), st.integers(0, 3), st.integers(0, 5), st.integers(1, 3))
@settings(deadline=None)
def test_cells_are_those_that_are_flagged(flags, before, behind, first_series, at_once):
    num_bins = before + flags.shape[1] + behind
    parts = [
        Cells.of_flags(rows, num_bins, first_series=first_series + first, first_bin=before)
        for first, rows in blocks(flags, at_once * flags.shape[1])
    ]
    cells = Cells.joined(parts)
    row, column = np.nonzero(flags)
    expected = (first_series + row) * num_bins + before + column
    assert len(cells) == len(expected)
    assert np.asarray(cells).tolist() == expected.tolist()
    assert np.asarray(cells).dtype == np.int64
    some = np.flatnonzero(expected % 2 == 0)[::-1]
    assert cells[some].tolist() == expected[some].tolist()
    counts = np.bincount(first_series + row, minlength=first_series + len(flags))
    assert cells.per_series(first_series + len(flags), num_bins).tolist() == counts.tolist()
    spread = cells.spread(3)
    assert len(spread) == min(3, len(expected))
    assert set(spread) <= set(expected)
    assert sorted(set(spread)) == spread.tolist()


def test_a_long_history_without_gaps_takes_no_memory_for_its_windows():
    cells = Cells.of_flags(np.ones((1, 10), bool), 10)
    many = Cells(cells.begin, np.array([400_000_000]))
    assert len(many.begin) == 1
    assert many[np.array([399_999_999])].tolist() == [399_999_999]
    assert len(many) == 400_000_000


def test_blocks_hold_as_many_series_as_fit_and_at_least_one():
    array = np.arange(20).reshape(5, 4)
    assert [(first, len(rows)) for first, rows in blocks(array, 8)] == [(0, 2), (2, 2), (4, 1)]
    assert [(first, len(rows)) for first, rows in blocks(array, 1)] == [(n, 1) for n in range(5)]
    assert np.concatenate([rows for _, rows in blocks(array, 12)]).tolist() == array.tolist()
