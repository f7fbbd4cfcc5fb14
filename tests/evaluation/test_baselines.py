"""Naive forecasts, against loops that look at one window and one step at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from kforecast.data.panel import Panel
from kforecast.evaluation.baselines import last_value, seasonal_naive
from kforecast.window import Frequency

NAN = float("nan")
VALUES = st.floats(-1000, 1000, width=32)


def _frequency(season):
    return Frequency("1H", 3600, ("hour", "day_of_week", "day_of_month"), season, "one season ago")


def _panel(values, season=4):
    """A panel of an array with NaN where nothing was observed; what stands there instead must not matter."""
    values = np.asarray(values, dtype=np.float32)
    observed = ~np.isnan(values)
    series = tuple((f"w{row}", "m") for row in range(len(values)))
    return Panel(np.where(observed, values, np.float32(77)), observed, 0, _frequency(season), series)


def _newest(values, origin):
    known = [value for value in values[:origin] if not np.isnan(value)]
    return known[-1] if known else 0.0


def _season_ago(values, origin, step, season):
    """Go back whole seasons from the target until a bin before the origin was observed."""
    source = origin + step - season
    while source >= 0:
        if source < origin and not np.isnan(values[source]):
            return values[source]
        source -= season
    return _newest(values, origin)


@st.composite
def cases(draw):
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 30)))
    values = draw(npst.arrays(np.float32, shape, elements=VALUES | st.just(NAN)))
    cells = draw(st.lists(st.integers(0, values.size - 1), min_size=1, max_size=10))
    return values, np.array(cells, dtype=np.int64), draw(st.integers(1, 9)), draw(st.integers(1, 7))


@given(cases())
@settings(deadline=None, max_examples=200)
def test_the_last_value_is_repeated(case):
    values, cells, horizon, season = case
    forecast = last_value(_panel(values, season), cells, horizon)
    assert forecast.dtype == np.float32
    expected = [
        [_newest(values[cell // values.shape[1]], cell % values.shape[1])] * horizon for cell in cells
    ]
    np.testing.assert_array_equal(forecast, np.array(expected, dtype=np.float32))


@given(cases())
@settings(deadline=None, max_examples=300)
def test_the_season_before_is_repeated(case):
    values, cells, horizon, season = case
    forecast = seasonal_naive(_panel(values, season), cells, horizon)
    assert forecast.dtype == np.float32
    expected = [
        [_season_ago(values[row], origin, step, season) for step in range(horizon)]
        for row, origin in (divmod(int(cell), values.shape[1]) for cell in cells)
    ]
    np.testing.assert_array_equal(forecast, np.array(expected, dtype=np.float32))


@given(cases(), st.data())
@settings(deadline=None, max_examples=150)
def test_nothing_at_or_after_the_origin_is_looked_at(case, data):
    values, cells, horizon, season = case
    cell = cells[:1]
    row, origin = divmod(int(cell[0]), values.shape[1])
    changed = values.copy()
    changed[row, origin:] = data.draw(
        npst.arrays(np.float32, values.shape[1] - origin, elements=VALUES | st.just(NAN))
    )
    for naive in (last_value, seasonal_naive):
        before = naive(_panel(values, season), cell, horizon)
        np.testing.assert_array_equal(before, naive(_panel(changed, season), cell, horizon))


def test_a_horizon_longer_than_a_season_repeats_the_last_whole_one():
    panel = _panel([[1, 2, 3, 4, 5, 6, 90, 90, 90, 90, 90]], season=3)
    assert seasonal_naive(panel, np.array([6]), 5).tolist() == [[4, 5, 6, 4, 5]]


def test_a_gap_is_passed_over_to_the_season_before():
    panel = _panel([[1, 2, 3, NAN, 5, 6]], season=3)
    assert seasonal_naive(panel, np.array([6 - 1]), 1).tolist() == [[3]]
    panel = _panel([[1, 2, 3, NAN, 5, 6, 90]], season=3)
    assert seasonal_naive(panel, np.array([6]), 1).tolist() == [[1]]


def test_before_a_whole_season_the_last_value_stands_in():
    panel = _panel([[1, 2, 90, 90]], season=24)
    assert seasonal_naive(panel, np.array([2]), 2).tolist() == [[2, 2]]


@pytest.mark.parametrize("naive", [last_value, seasonal_naive])
def test_without_any_value_the_forecast_is_zero(naive):
    panel = _panel([[NAN, NAN, NAN, 5]])
    assert naive(panel, np.array([0, 3]), 2).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("name, bins", [("1H", 24), ("10min", 144), ("1D", 7)])
def test_the_season_of_each_frequency(name, bins):
    values = np.arange(2 * bins + 3, dtype=np.float32)[None]
    panel = Panel(values, np.ones(values.shape, bool), 0, Frequency.parse(name), (("w", "m"),))
    assert seasonal_naive(panel, np.array([2 * bins]), 3).tolist() == [[bins, bins + 1, bins + 2]]
