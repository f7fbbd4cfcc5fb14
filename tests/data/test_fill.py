"""Filling of gaps: for every origin equal to what is made from nothing but the bins before it."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from kforecast.data.fill import FILLS, fill_gaps

NAN = float("nan")
SERIES = npst.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 25)),
    elements=st.floats(-1000, 1000, width=32) | st.just(NAN),
)


def _fill_past(past, policy):
    """Fill a series of which nothing is known but ``past``, NaN where not observed."""
    if policy == "zero":
        return np.nan_to_num(past)
    if policy == "ffill":
        return pd.Series(past).ffill().bfill().fillna(0.0).to_numpy()
    known = np.flatnonzero(~np.isnan(past))
    return np.interp(np.arange(len(past)), known, past[known]) if len(known) else np.zeros(len(past))


@given(SERIES, st.sampled_from(FILLS))
@settings(deadline=None, max_examples=150)
def test_what_an_origin_takes_is_the_fill_of_its_past(values, policy):
    observed = ~np.isnan(values)
    filled = fill_gaps(np.where(observed, values, 12345), observed, policy)
    assert filled.inside.dtype == filled.open.dtype == np.float32
    bins = np.arange(values.shape[1])
    for row in range(len(values)):
        for origin in range(1, values.shape[1] + 1):
            still_open = bins >= origin - filled.gap_age[row, origin - 1]
            taken = np.where(still_open, filled.open[row], filled.inside[row])[:origin]
            expected = _fill_past(values[row, :origin].astype(np.float64), policy)
            np.testing.assert_allclose(taken, expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("policy", FILLS)
def test_what_was_observed_is_never_changed(policy):
    values = np.array([[NAN, 3.5, NAN, NAN, -1.25, 0.0, NAN]], dtype=np.float32)
    observed = ~np.isnan(values)
    filled = fill_gaps(np.where(observed, values, 9), observed, policy)
    np.testing.assert_array_equal(filled.inside[observed], values[observed])
    np.testing.assert_array_equal(filled.open[observed], values[observed])
    assert (filled.gap_age[observed] == 0).all()


@pytest.mark.parametrize(
    "policy, inside, still_open",
    [
        ("interpolate", [2, 2, 4, 6, 8, 8], [0, 2, 2, 2, 8, 8]),
        ("ffill", [2, 2, 2, 2, 8, 8], [0, 2, 2, 2, 8, 8]),
        ("zero", [0, 2, 0, 0, 8, 0], [0, 2, 0, 0, 8, 0]),
    ],
)
def test_a_gap_by_hand(policy, inside, still_open):
    values = np.array([[NAN, 2, NAN, NAN, 8, NAN]], dtype=np.float32)
    observed = ~np.isnan(values)
    filled = fill_gaps(np.nan_to_num(values), observed, policy)
    assert filled.inside.tolist() == [inside]
    assert filled.open.tolist() == [still_open]
    assert filled.gap_age.tolist() == [[1, 0, 1, 2, 0, 1]]


def test_an_unknown_policy_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown fill 'mean'; use one of interpolate, zero, ffill"):
        fill_gaps(np.zeros((1, 1), np.float32), np.ones((1, 1), bool), "mean")
