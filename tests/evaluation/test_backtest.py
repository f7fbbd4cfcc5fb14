"""The backtest compared with a loop over origins in which the history ends before each origin."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from examples import checked
from hypothesis import assume
from hypothesis import strategies as st

from kforecast.data.fill import FILLS
from kforecast.data.panel import Panel
from kforecast.data.split import cells_between
from kforecast.errors import ArtifactError, DataError
from kforecast.evaluation.backtest import AS_CONSUMED, MODEL, BacktestSettings, Span, backtest
from kforecast.forecaster import Forecaster
from kforecast.models.fcnet import Fcnet
from kforecast.models.naive import baselines
from kforecast.window import Frequency, Window

HOUR = Frequency.parse("1H")
WINDOW = Window(HOUR, 6, 3)
START = 1_700_006_400
BASELINES = (
    "last value",
    "moving average",
    "same time yesterday",
    "same time last week",
    "mean by time of week",
    "last value plus daily difference",
    "last value plus weekly difference",
    "training mean",
    "always zero",
)


def _panel(bins=70, series=3, gaps=0.2, seed=5):
    """Random traffic with large values in unobserved bins, which must not matter."""
    rng = np.random.default_rng(seed)
    observed = rng.random((series, bins)) >= gaps
    values = np.where(observed, rng.uniform(1, 9, (series, bins)), 77).astype(np.float32)
    return Panel(values, observed, START, HOUR, tuple((f"w{row}", "m") for row in range(series)))


def _forecaster(series=3, fill="interpolate"):
    """A network with random weights: its forecast depends on every context value and on the series id."""
    torch.manual_seed(1)
    # Ids differ from row numbers.
    item_ids = {f"w{row}m": series - row for row in range(series)}
    return Forecaster(WINDOW, item_ids, fill, Fcnet(WINDOW, series + 1).eval())


def _until(panel, origin):
    """The panel as known at the start of a bin."""
    return replace(panel, values=panel.values[:, :origin], observed=panel.observed[:, :origin])


def _frame(panel):
    """One row per observed bin."""
    row, bin_ = np.nonzero(panel.observed)
    return pd.DataFrame(
        {
            "timestamp": panel.timestamps[bin_],
            "value": panel.values[row, bin_],
            "workload": [panel.series[number][0] for number in row],
            "metric": [panel.series[number][1] for number in row],
        }
    )


def _assert_close(found, expected):
    """Equal up to float32 rounding, which depends on the batch size."""
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("bins", [30, pytest.param(70, marks=pytest.mark.slow)])
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("as_consumed", [False, True])
def test_each_forecast_is_that_of_a_history_that_ends_before_its_origin(fill, as_consumed, bins):
    panel, forecaster = _panel(bins), _forecaster(fill=fill)
    test = backtest(forecaster, panel, Span(3, panel.num_bins), BacktestSettings(as_consumed=as_consumed))
    compared = 0
    for origin in np.unique(test.origin):
        made = forecaster.forecast(_frame(_until(panel, origin)), as_consumed=as_consumed)
        first = START + 3600 * origin
        for window in np.flatnonzero(test.origin == origin):
            row = test.series[window]
            if not panel.observed[row, origin - 1]:
                continue  # forecast() bridges a gap up to the origin
            first_bin = origin - forecaster.window.context_length
            if fill == "zero" and not as_consumed and (first_bin < 0 or not panel.observed[row, first_bin]):
                continue  # and one at the beginning of the context
            workload, _ = panel.series[row]
            expected = made[made["workload"] == workload]
            assert expected["timestamp"].tolist() == [first, first + 3600, first + 7200]
            _assert_close(test.forecasts[MODEL][window], expected["value"])
            compared += 1
    assert compared > bins


@pytest.mark.parametrize("fill", FILLS)
def test_an_origin_after_a_bin_that_was_not_observed_sees_only_what_was_before(fill):
    panel, forecaster = _panel(gaps=0.4), _forecaster(fill=fill)
    test = backtest(forecaster, panel, Span(3, panel.num_bins))
    open_gap = np.flatnonzero(~panel.observed[test.series, test.origin - 1])
    assert len(open_gap) > 20
    for window in open_gap:
        row, origin = test.series[window : window + 1], test.origin[window : window + 1]
        known = _until(panel, origin[0])
        made = forecaster.forecast_windows(known, row, origin)
        _assert_close(test.forecasts[MODEL][window], made.values[0])
        # At the end of the gap the fill decides: the last value, or zero.
        closed = replace(known, values=known.values.copy(), observed=known.observed.copy())
        newest = np.flatnonzero(known.observed[row[0]])[-1]
        closed.values[row[0], newest + 1 :] = 0 if fill == "zero" else known.values[row[0], newest]
        closed.observed[row[0], newest + 1 :] = True
        _assert_close(made.values, forecaster.forecast_windows(closed, row, origin).values)


@st.composite
def _futures(draw):
    """A panel, an origin, a begin at or before the origin, and the panel with a different future."""
    bins = draw(st.integers(10, 40))
    panel = _panel(bins, 2, draw(st.sampled_from([0.0, 0.2, 0.5])), draw(st.integers(0, 10**6)))
    origin = draw(st.integers(3, bins - WINDOW.prediction_length))
    begin = draw(st.integers(0, origin))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    values, observed = panel.values.copy(), panel.observed.copy()
    if draw(st.booleans()):
        order = origin + rng.permutation(bins - origin)
        values[:, origin:], observed[:, origin:] = values[:, order], observed[:, order]
    else:
        shape = (2, bins - origin)
        values[:, origin:] = rng.normal(0, 1e4, shape)
        observed[:, origin:] = rng.random(shape) >= draw(st.sampled_from([0.0, 0.5, 1.0]))
    observed[:, -1] = True  # something remains to be scored
    assume(len(cells_between(panel, WINDOW, origin, origin + WINDOW.prediction_length)))
    return panel, replace(panel, values=values, observed=observed), origin, begin


@checked(_futures(), st.sampled_from(FILLS), few=20, many=80)
def test_nothing_at_or_after_an_origin_matters_to_its_forecasts(case, fill):
    panel, other, origin, begin = case
    forecaster = _forecaster(2, fill)
    try:
        one, two = (
            backtest(forecaster, each, Span(begin, panel.num_bins), BacktestSettings(show_as_consumed=True))
            for each in (panel, other)
        )
    except DataError:
        assume(False)
    here, there = one.origin == origin, two.origin == origin
    assert one.series[here].tolist() == two.series[there].tolist()
    assert list(one.forecasts) == list(two.forecasts) == [MODEL, AS_CONSUMED, *BASELINES]
    for name, forecast in one.forecasts.items():
        if name in BASELINES:
            np.testing.assert_array_equal(forecast[here], two.forecasts[name][there], err_msg=name)
        else:
            _assert_close(forecast[here], two.forecasts[name][there])
    np.testing.assert_allclose(one.made.level[here], two.made.level[there], rtol=1e-6)


def test_the_models_come_first_and_then_the_baselines():
    panel, forecaster = _panel(), _forecaster()
    alone = backtest(forecaster, panel, Span(20, 60))
    assert list(alone.forecasts) == ["kforecast", *BASELINES]
    assert (alone.model, alone.models, alone.baselines) == ("kforecast", 1, BASELINES)

    both = backtest(forecaster, panel, Span(20, 60), BacktestSettings(show_as_consumed=True))
    assert list(both.forecasts) == ["kforecast", "the same, with series id 0", *BASELINES]
    assert (both.model, both.models, both.baselines) == ("kforecast", 2, BASELINES)
    consumed = backtest(forecaster, panel, Span(20, 60), BacktestSettings(as_consumed=True))
    np.testing.assert_array_equal(both.forecasts[MODEL], alone.forecasts[MODEL])
    np.testing.assert_array_equal(both.forecasts[AS_CONSUMED], consumed.forecasts[MODEL])
    assert not np.allclose(both.forecasts[MODEL], both.forecasts[AS_CONSUMED])
    assert both.made.values is both.forecasts[MODEL]


def test_the_baselines_forecast_from_the_same_origins_with_a_history_of_their_own():
    panel = _panel()
    test = backtest(_forecaster(), panel, Span(30, 60))
    expected = baselines(panel, test.cells, WINDOW, 30)
    for name in BASELINES:
        np.testing.assert_array_equal(test.forecasts[name], expected[name])
        assert test.forecasts[name].shape == (len(test.cells), 3)


def test_the_baselines_see_a_bin_that_has_just_begun_as_the_job_does():
    panel, edge = _panel(gaps=0.1), _panel(gaps=0, seed=6).values
    test = backtest(_forecaster(), panel, Span(30, 60), BacktestSettings(edge=edge))
    assert len(test.cells) > 50
    for window, (row, origin) in enumerate(zip(test.series, test.origin, strict=True)):
        seen = panel.values.copy()
        seen[row, origin - 1] = edge[row, origin - 1]
        known = baselines(replace(panel, values=seen), test.cells[window : window + 1], WINDOW, 30)
        for name in ("last value", "moving average", *BASELINES[5:7]):
            _assert_close(test.forecasts[name][window], known[name][0])


@pytest.mark.parametrize("stride", [1, 4])
def test_there_is_a_window_for_every_cell_between_begin_and_stop(stride):
    panel = _panel()
    test = backtest(_forecaster(), panel, Span(30, 61), BacktestSettings(stride=stride))
    cells = cells_between(panel, WINDOW, 30, 61, stride)
    np.testing.assert_array_equal(test.cells, cells)
    assert (test.begin, test.stop, test.stride, test.horizon) == (30, 61, stride, 3)
    assert set((test.origin - 30) % stride) == {0}
    assert test.series.tolist() == [cell // 70 for cell in cells]
    assert test.origin.tolist() == [cell % 70 for cell in cells]
    assert test.target.tolist() == [[cell % 70 + step for step in range(3)] for cell in cells]


def test_what_came_is_told_where_it_was_observed():
    panel = _panel()
    test = backtest(_forecaster(), panel, Span(30, 60))
    assert 0 < test.observed.mean() < 1
    for window, (row, origin) in enumerate(zip(test.series, test.origin, strict=True)):
        for step in range(3):
            seen = panel.observed[row, origin + step]
            value = panel.values[row, origin + step] if seen else np.nan
            assert test.observed[window, step] == seen
            np.testing.assert_equal(test.actual[window, step], float(value))


def test_only_series_with_an_observed_target_are_scored():
    panel = _panel(gaps=0, series=4)
    panel.observed[0, 40:] = False
    panel.observed[2, :44] = False  # too late for a context
    test = backtest(_forecaster(4), panel, Span(40, 46))
    assert set(test.series) == {0, 1, 3}
    assert test.scored_series.tolist() == [1, 3]


def test_quantiles_are_those_of_the_forecaster_at_the_levels_asked_for():
    panel = _panel(200)
    forecaster = _forecaster().calibrated(panel, 10, 100)
    levels = (0.9, 0.1, 0.5)
    test = backtest(forecaster, panel, Span(100, 160), BacktestSettings(levels=levels))
    assert test.levels == levels
    made = forecaster.forecast_windows(panel, test.series, test.origin)
    expected = forecaster.quantiles(panel, test.series, made, levels)
    np.testing.assert_array_equal(test.quantiles, expected)
    assert test.quantiles.shape == (len(test.cells), 3, 3)
    assert (test.quantiles[..., 1] < test.quantiles[..., 0]).all()
    np.testing.assert_array_equal(test.quantiles_at([0.5, 0.3])[..., 0], expected[..., 2])


def test_quantiles_as_consumed_are_around_the_forecasts_as_consumed():
    panel = _panel(200)
    forecaster = _forecaster().calibrated(panel, 10, 100, as_consumed=True)
    test = backtest(forecaster, panel, Span(100, 160), BacktestSettings(as_consumed=True, levels=(0.1,)))
    made = forecaster.forecast_windows(panel, test.series, test.origin, as_consumed=True)
    np.testing.assert_array_equal(test.quantiles, forecaster.quantiles(panel, test.series, made, [0.1]))


def test_without_intervals_no_levels_are_judged():
    test = backtest(_forecaster(), _panel(), Span(30, 60), BacktestSettings(levels=(0.1, 0.9)))
    assert test.levels == ()
    with pytest.raises(ArtifactError, match=r"intervals\.json"):
        test.quantiles_at([0.1])


def test_levels_that_cannot_be_served_are_refused():
    panel = _panel(200)
    forecaster = _forecaster().calibrated(panel, 10, 100)
    with pytest.raises(ValueError, match=r"1\.0: quantiles are"):
        backtest(forecaster, panel, Span(100, 160), BacktestSettings(levels=(0.1, 1.0)))


def _without_context(panel):
    panel.observed[:, :40] = False


def _without_targets(panel):
    panel.observed[:, 40:] = False


@pytest.mark.parametrize(
    "change, begin, stop",
    [
        (lambda panel: None, 40, 42),  # shorter than the horizon
        (lambda panel: None, 0, 5),  # without half a context before the last origin
        (_without_context, 40, 44),
        (_without_targets, 40, 60),
    ],
)
def test_nothing_to_score_is_refused(change, begin, stop):
    panel = _panel(gaps=0)
    change(panel)
    with pytest.raises(DataError, match="nothing to score"):
        backtest(_forecaster(), panel, Span(begin, stop))


def test_one_observed_target_is_something_to_score():
    panel = _panel(gaps=0)
    panel.observed[:, 40:] = False
    panel.observed[1, 42] = True
    test = backtest(_forecaster(), panel, Span(40, 44))
    assert test.observed.sum() == 2  # the third step of one origin and the second of the next
    assert test.scored_series.tolist() == [1]
