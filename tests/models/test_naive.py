"""Naive forecasts compared with loops over windows and steps."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from kforecast.data.panel import Panel
from kforecast.models.naive import (
    LAST_VALUE,
    NAIVE,
    baselines,
    history_mean,
    last_plus_difference,
    last_value,
    moving_average,
    naive_forecasts,
    seasonal_naive,
    time_of_week_mean,
)
from kforecast.window import Frequency, Window

NAN = float("nan")
VALUES = st.floats(-1000, 1000, width=32)
# Days of 4 and 2 bins, so that a short panel has several weeks.
COARSE = [Frequency("6H", 6 * 3600, ("hour",)), Frequency("12H", 12 * 3600, ("hour",))]
NAMES = [
    "last value",
    "moving average",
    "same time yesterday",
    "same time last week",
    "mean by time of week",
    "last value plus daily difference",
    "last value plus weekly difference",
]
# Baselines that no combination may use.
TIMELESS = ["training mean", "always zero"]


def _panel(values, frequency=COARSE[0], start=0):
    """A panel from an array with NaN for unobserved bins; the values put there must not matter."""
    values = np.asarray(values, dtype=np.float32)
    observed = ~np.isnan(values)
    series = tuple((f"w{row}", "m") for row in range(len(values)))
    return Panel(np.where(observed, values, np.float32(77)), observed, start, frequency, series)


def _newest(values, origin):
    known = [value for value in values[:origin] if not math.isnan(value)]
    return known[-1] if known else 0.0


def _mean_of_context(values, origin, context):
    known = [value for value in values[max(origin - context, 0) : origin] if not math.isnan(value)]
    return sum(known) / len(known) if known else _newest(values, origin)


def _season_ago(values, origin, step, *seasons):
    """Go back whole seasons from the target to an observed bin before the origin."""
    if not seasons:
        return _newest(values, origin)
    source = origin + step - seasons[0]
    while source >= 0:
        if source < origin and not math.isnan(values[source]):
            return values[source]
        source -= seasons[0]
    return _season_ago(values, origin, step, *seasons[1:])


def _changed(values, origin, step, *seasons):
    """The newest value plus the change in the newest season of which both bins were observed."""
    newest = max((number for number in range(origin) if not math.isnan(values[number])), default=None)
    if newest is None:
        return 0.0
    change = np.float32(0)
    for season in reversed(seasons):  # the first that has both bins wins
        back = season
        while origin + step - back >= origin:
            back += season
        while newest - back >= 0:
            pair = np.float32(values[origin + step - back]), np.float32(values[newest - back])
            if not np.isnan(pair).any():
                change = pair[0] - pair[1]
                break
            back += season
    forecast = np.float32(values[newest]) + change
    below = any(value < 0 for value in values[:origin])
    return forecast if below else max(forecast, 0.0)


def _mean_at_that_time(values, origin, step, stop, panel):
    """The mean of observed values before ``stop`` at the same time of the week or of the day, or of all."""
    width = panel.frequency.step
    for season in (7 * 86_400, 86_400, width):
        wanted = (panel.start + (origin + step) * width) % season
        at_that_time = [
            value
            for number, value in enumerate(values[:stop])
            if not math.isnan(value) and (panel.start + number * width) % season == wanted
        ]
        if at_that_time:
            return sum(at_that_time) / len(at_that_time)
    return _newest(values, origin)


def _by_loop(values, cells, horizon, step_of):
    """``step_of(values of the series, origin, step)`` for every cell and step."""
    rows = [[float(value) for value in row] for row in values]
    expected = [
        [step_of(rows[row], origin, step) for step in range(horizon)]
        for row, origin in (divmod(int(cell), values.shape[1]) for cell in cells)
    ]
    return np.array(expected, dtype=np.float32)


@st.composite
def cases(draw):
    """Values with gaps, cells, horizon, the first evaluated bin (no origin is before it), and the panel."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 40)))
    values = draw(npst.arrays(np.float32, shape, elements=VALUES | st.just(NAN)))
    begin = draw(st.integers(0, shape[1] - 1))
    cell = st.builds(
        lambda row, origin: row * shape[1] + origin,
        st.integers(0, shape[0] - 1),
        st.integers(begin, shape[1] - 1),
    )
    cells = np.array(draw(st.lists(cell, min_size=1, max_size=10)), dtype=np.int64)
    frequency = draw(st.sampled_from([*COARSE, Frequency.parse("1D")]))
    panel = _panel(values, frequency, draw(st.integers(0, 40)) * frequency.step)
    return values, cells, draw(st.integers(1, 17)), begin, panel


@given(cases())
@settings(deadline=None, max_examples=100)
def test_the_last_value_is_repeated(case):
    values, cells, horizon, _, panel = case
    forecast = last_value(panel, cells, horizon)
    assert forecast.dtype == np.float32
    np.testing.assert_array_equal(
        forecast, _by_loop(values, cells, horizon, lambda row, origin, step: _newest(row, origin))
    )


@given(cases(), st.integers(1, 12))
@settings(deadline=None, max_examples=100)
def test_the_mean_of_the_context_is_repeated(case, context):
    values, cells, horizon, _, panel = case
    forecast = moving_average(panel, cells, horizon, context)
    assert forecast.dtype == np.float32
    expected = _by_loop(
        values, cells, horizon, lambda row, origin, step: _mean_of_context(row, origin, context)
    )
    np.testing.assert_allclose(forecast, expected, rtol=1e-6, atol=1e-6)


@given(cases(), st.lists(st.integers(1, 9), min_size=1, max_size=3))
@settings(deadline=None, max_examples=200)
def test_the_season_before_is_repeated_and_where_there_is_none_that_of_the_next_season(case, seasons):
    values, cells, horizon, _, panel = case
    forecast = seasonal_naive(panel, cells, horizon, *seasons)
    assert forecast.dtype == np.float32
    expected = _by_loop(
        values, cells, horizon, lambda row, origin, step: _season_ago(row, origin, step, *seasons)
    )
    np.testing.assert_array_equal(forecast, expected)


@given(cases(), st.lists(st.integers(1, 9), min_size=1, max_size=3), st.booleans())
@settings(deadline=None, max_examples=200)
def test_the_change_of_the_season_before_is_added_to_the_last_value(case, seasons, nonnegative):
    values, cells, horizon, _, panel = case
    if nonnegative:
        values = np.abs(values)
        panel = _panel(values, panel.frequency, panel.start)
    last = last_value(panel, cells, horizon)
    forecast = last_plus_difference(panel, cells, last, *seasons)
    assert forecast.dtype == np.float32
    expected = _by_loop(
        values, cells, horizon, lambda row, origin, step: _changed(row, origin, step, *seasons)
    )
    np.testing.assert_array_equal(forecast, expected)


@given(cases())
@settings(deadline=None, max_examples=200)
def test_the_mean_at_that_time_of_the_week_is_forecast(case):
    values, cells, horizon, begin, panel = case
    forecast = time_of_week_mean(panel, cells, horizon, begin)
    assert forecast.dtype == np.float32
    expected = _by_loop(
        values,
        cells,
        horizon,
        lambda row, origin, step: _mean_at_that_time(row, origin, step, begin, panel),
    )
    np.testing.assert_allclose(forecast, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "name, day, week, seen",
    [
        ("10min", 144, 1008, 0.8),
        *(("1H", 24, 168, seen) for seen in (0.02, 0.8, 1.0)),
        *(("1D", 1, 7, seen) for seen in (0.02, 0.8, 1.0)),
    ],
)
def test_all_of_them_at_the_frequencies_there_are(name, day, week, seen):
    rng = np.random.default_rng(3)
    bins, horizon = 2 * week + week // 2, day + 5
    values = np.where(rng.random((2, bins)) < seen, rng.uniform(-9, 9, (2, bins)), NAN).astype(np.float32)
    frequency = Frequency.parse(name)
    panel = _panel(values, frequency, 1_700_006_400 // frequency.step * frequency.step)
    begin, window = bins - 2 * day - 9, Window(frequency, 7, horizon)
    cells = np.array([begin, begin + day + 1, bins - 1, bins + begin, 2 * bins - day - 1], dtype=np.int64)
    made = baselines(panel, cells, window, begin)
    season = day if day > 1 else week  # a season of one bin has no change of its own
    loops = {
        "last value": lambda row, origin, step: _newest(row, origin),
        "moving average": lambda row, origin, step: _mean_of_context(row, origin, 7),
        "same time yesterday": lambda row, origin, step: _season_ago(row, origin, step, day),
        "same time last week": lambda row, origin, step: _season_ago(row, origin, step, week, day),
        "mean by time of week": lambda row, origin, step: _mean_at_that_time(row, origin, step, begin, panel),
        "last value plus daily difference": lambda row, origin, step: _changed(row, origin, step, season),
        "last value plus weekly difference": lambda row, origin, step: _changed(
            row, origin, step, week, season
        ),
        "training mean": lambda row, origin, step: _mean_of_context(row[:begin], begin, begin),
        "always zero": lambda row, origin, step: 0.0,
    }
    assert list(made) == list(loops)
    for baseline, step_of in loops.items():
        expected = _by_loop(values, cells, horizon, step_of)
        np.testing.assert_allclose(made[baseline], expected, rtol=1e-5, atol=1e-5, err_msg=baseline)


@given(cases(), st.integers(1, 12), st.data())
@settings(deadline=None, max_examples=100)
def test_nothing_at_or_after_the_origin_is_looked_at(case, context, data):
    values, cells, horizon, begin, panel = case
    cell = cells[:1]
    origin = int(cell[0]) % values.shape[1]
    changed = values.copy()
    # In the other series, too: each is forecast from its own past, and the means end before the origin.
    changed[:, origin:] = data.draw(
        npst.arrays(np.float32, (len(values), values.shape[1] - origin), elements=VALUES | st.just(NAN))
    )
    other = _panel(changed, panel.frequency, panel.start)
    window = Window(panel.frequency, context, horizon)
    before, after = (baselines(one, cell, window, begin) for one in (panel, other))
    for name in [*NAMES, *TIMELESS]:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


@given(cases(), st.data())
@settings(deadline=None, max_examples=100)
def test_a_mean_by_time_of_week_looks_at_nothing_from_the_judged_span(case, data):
    values, cells, horizon, begin, panel = case
    changed = values.copy()
    changed[:, begin:] = data.draw(
        npst.arrays(np.float32, (len(values), values.shape[1] - begin), elements=VALUES | st.just(NAN))
    )
    ever = ~np.isnan(values[:, :begin]).all(axis=1)
    # A series without a value before the span falls back to its last value, which may be in the span.
    cells = cells[ever[cells // values.shape[1]]]
    other = _panel(changed, panel.frequency, panel.start)
    np.testing.assert_array_equal(
        time_of_week_mean(panel, cells, horizon, begin), time_of_week_mean(other, cells, horizon, begin)
    )


def test_the_baselines_by_name_and_in_order():
    day, week = 4, 28
    panel = _panel([np.arange(80.0)])
    cells = np.array([70, 71])
    made = baselines(panel, cells, Window(COARSE[0], 6, 3), 60)
    assert list(made) == [*NAMES, *TIMELESS]
    assert NAMES[0] == LAST_VALUE
    assert made["last value"].tolist() == [[69] * 3, [70] * 3]
    assert made["moving average"].tolist() == [[66.5] * 3, [67.5] * 3]
    assert made["same time yesterday"].tolist() == [[70 - day, 71 - day, 72 - day], [67, 68, 69]]
    assert made["same time last week"].tolist() == [[70 - week, 71 - week, 72 - week], [43, 44, 45]]
    # Bins 14 and 42, 15 and 43, ...: only bins before bin 60 count.
    assert made["mean by time of week"].tolist() == [[28, 29, 30], [29, 30, 31]]
    assert made["last value plus daily difference"].tolist() == [[70, 71, 72], [71, 72, 73]]
    assert made["last value plus weekly difference"].tolist() == [[70, 71, 72], [71, 72, 73]]
    assert made["training mean"].tolist() == [[29.5] * 3] * 2
    assert made["always zero"].tolist() == [[0] * 3] * 2


def test_a_combination_uses_neither_the_training_mean_nor_zero():
    panel = _panel([np.arange(80.0)])
    made = naive_forecasts(panel, np.array([70]), Window(COARSE[0], 6, 3), 60)
    assert list(made) == list(NAIVE) == NAMES


def test_without_a_value_before_the_span_the_training_mean_is_the_last_value():
    panel = _panel([[NAN, NAN, NAN, 5, 7, NAN], [1, NAN, 3, 90, 90, 90]])
    assert history_mean(panel, np.array([4, 5, 10]), 2, 3).tolist() == [[5, 5], [7, 7], [2, 2]]


def test_a_horizon_longer_than_a_season_repeats_the_last_whole_one():
    panel = _panel([[1, 2, 3, 4, 5, 6, 90, 90, 90, 90, 90]])
    assert seasonal_naive(panel, np.array([6]), 8, 3).tolist() == [[4, 5, 6, 4, 5, 6, 4, 5]]


def test_a_gap_is_passed_over_to_the_season_before():
    panel = _panel([[1, 2, 3, NAN, 5, 6]])
    assert seasonal_naive(panel, np.array([6 - 1]), 1, 3).tolist() == [[3]]
    panel = _panel([[1, 2, 3, NAN, 5, 6, 90]])
    assert seasonal_naive(panel, np.array([6]), 1, 3).tolist() == [[1]]


def test_before_a_whole_season_the_next_season_stands_in_and_after_the_last_one_the_last_value():
    panel = _panel([[1, 2, 3, 4, 5, 90, 90]])
    assert seasonal_naive(panel, np.array([5]), 2, 24).tolist() == [[5, 5]]
    assert seasonal_naive(panel, np.array([5]), 2, 24, 3).tolist() == [[3, 4]]
    # The first step has a value a week ago, the second one only a day ago.
    assert seasonal_naive(panel, np.array([2]), 2, 2, 1).tolist() == [[1, 2]]
    late = _panel([[NAN, 2, 3, 4, 90]])
    assert seasonal_naive(late, np.array([4]), 3, 4, 2).tolist() == [[3, 2, 3]]


def _plus_difference(values, origin, horizon, *seasons):
    panel, cells = _panel([values]), np.array([origin])
    last = last_value(panel, cells, horizon)
    return last_plus_difference(panel, cells, last, *seasons)[0].tolist()


def test_a_change_is_measured_from_the_newest_observed_bin():
    # Bin 5 was not observed: the last value is that of bin 4, and bin 0 has its time of the season.
    assert _plus_difference([1, 2, 5, 9, 40, NAN, 90, 90], 6, 2, 4) == [44, 48]
    # A season of which one bin was not observed is passed over: bins 4 and 5 are followed by 5 and nothing.
    assert _plus_difference([1, 3, 0, 0, 1, NAN, 0, 0, 10, 90], 9, 1, 4) == [12]


def test_a_long_horizon_adds_the_change_over_as_many_seasons():
    assert _plus_difference([10, 11, 13, 20, 21, 23, 30, 90, 90, 90, 90], 7, 4, 3) == [31, 33, 40, 41]


def test_a_falling_change_ends_at_zero_unless_the_series_was_below_zero():
    assert _plus_difference([9, 1, 4, 90], 3, 1, 2) == [0]
    assert _plus_difference([9, 1, 4, -90], 3, 1, 2) == [0]
    assert _plus_difference([-1, 9, 1, 4, 90], 4, 1, 2) == [-4]


def test_a_mean_by_time_of_week_falls_back_to_the_day_to_the_series_and_to_the_last_value():
    week, day = 28, 4
    values = np.full((4, 2 * week + day), NAN)
    values[0, 1], values[0, 1 + week] = 10, 20  # same time of the week: 15
    values[0, 1 + day] = 700
    values[1, 1 + day], values[1, 1 + 2 * day], values[1, 2] = 30, 50, 700  # same time of the day: 40
    values[2, 2], values[2, 4 * day + 3] = 60, 80  # any time: 70
    values[3, 2 * week] = 7  # nothing before the span
    cells = np.arange(4) * values.shape[1] + 2 * week + 1
    forecast = time_of_week_mean(_panel(values), cells, 1, 2 * week)
    assert forecast.tolist() == [[15], [40], [70], [7]]


@pytest.mark.parametrize(
    "naive",
    [
        last_value,
        partial(moving_average, context_length=2),
        lambda panel, cells, horizon: seasonal_naive(panel, cells, horizon, 3, 2),
        partial(time_of_week_mean, stop=0),
        lambda panel, cells, horizon: last_plus_difference(panel, cells, np.zeros((2, 2), np.float32), 3, 2),
    ],
)
def test_without_any_value_the_forecast_is_zero(naive):
    panel = _panel([[NAN, NAN, NAN, 5]])
    assert naive(panel, np.array([0, 3]), 2).tolist() == [[0, 0], [0, 0]]


def test_a_context_without_a_value_is_averaged_by_the_last_value():
    panel = _panel([[4, 6, NAN, NAN, 90]])
    assert moving_average(panel, np.array([4]), 2, 2).tolist() == [[6, 6]]
    assert moving_average(panel, np.array([4]), 2, 3).tolist() == [[6, 6]]
    assert moving_average(panel, np.array([4]), 2, 4).tolist() == [[5, 5]]
    assert moving_average(panel, np.array([1]), 2, 4).tolist() == [[4, 4]]
