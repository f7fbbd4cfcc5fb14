"""Filled gaps: for every origin, equal to a fill that sees only the bins before that origin."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from kforecast.data.fill import FILLS
from kforecast.data.gaps import Gaps

NAN = float("nan")
SERIES = npst.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 25)),
    elements=st.floats(-1000, 1000, width=32) | st.just(NAN),
)


def _fill_past(past, policy):
    """Fill the gaps of ``past``, NaN where unobserved, without knowing what follows."""
    if policy == "zero":
        return np.nan_to_num(past)
    if policy == "ffill":
        return pd.Series(past).ffill().bfill().fillna(0.0).to_numpy()
    known = np.flatnonzero(~np.isnan(past))
    return np.interp(np.arange(len(past)), known, past[known]) if len(known) else np.zeros(len(past))


def _filled(values, policy, row, origin):
    """The bins of a series before an origin, with gaps filled for that origin."""
    observed = ~np.isnan(values)
    gaps, num_bins = Gaps(observed, policy), values.shape[1]
    flat = torch.from_numpy(np.where(observed, values, np.float32(12345))).flatten()
    missing = row * num_bins + torch.from_numpy(np.flatnonzero(~observed[row, :origin]))
    past = values[row, :origin].copy()
    first = torch.full_like(missing, row * num_bins)
    filled = gaps.fill(flat, missing, first + origin, first)
    assert filled.dtype == torch.float32
    past[np.isnan(past)] = filled.numpy()
    return past


@given(SERIES, st.sampled_from(FILLS))
@settings(deadline=None, max_examples=75)
def test_what_an_origin_takes_is_the_fill_of_its_past(values, policy):
    for row in range(len(values)):
        for origin in range(1, values.shape[1] + 1):
            expected = _fill_past(values[row, :origin].astype(np.float64), policy)
            np.testing.assert_allclose(_filled(values, policy, row, origin), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    "policy, at_4, at_5",
    [
        ("interpolate", [2, 2, 2, 2], [2, 2, 4, 6, 8]),
        ("ffill", [2, 2, 2, 2], [2, 2, 2, 2, 8]),
        ("zero", [0, 2, 0, 0], [0, 2, 0, 0, 8]),
    ],
)
def test_a_gap_by_hand(policy, at_4, at_5):
    values = np.array([[NAN, 2, NAN, NAN, 8, NAN]], dtype=np.float32)
    assert _filled(values, policy, 0, 4).tolist() == at_4  # only the 2 is known at this origin
    assert _filled(values, policy, 0, 5).tolist() == at_5


def test_gaps_end_with_their_series():
    observed = np.array([[True, False, False], [False, True, False]])
    gaps = Gaps(observed, "zero")
    assert (len(gaps), gaps.begin.tolist(), gaps.end.tolist()) == (3, [1, 3, 5], [3, 4, 6])
    assert len(Gaps(np.ones((2, 3), bool), "interpolate")) == 0


def test_an_unknown_policy_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown fill 'mean'; use one of interpolate, zero, ffill"):
        Gaps(np.ones((1, 1), bool), "mean")
