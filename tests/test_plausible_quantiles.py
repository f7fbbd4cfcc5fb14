"""Quantiles stay of the order of what a series has had: any errors, and traffic that comes in bursts."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kforecast
from kforecast.data.panel import Panel
from kforecast.forecaster import Forecaster
from kforecast.intervals import LEVELS, Intervals, SeriesIntervals, calibrate
from kforecast.models import NETWORKS
from kforecast.window import Frequency, Window

LARGEST = 1.25
COVERED = {0.8: (0.1, 0.9), 0.9: (0.05, 0.95), 0.95: (0.025, 0.975)}


def calibrated(error, level, peak=math.inf, nonnegative=True):
    """Intervals of one series ``a``."""
    about = (np.array([level.mean()]), np.array([nonnegative]), np.array([peak]))
    found = calibrate(error, level, ["a"], np.zeros(len(error), np.int64), *about)
    assert found is not None
    return found


def quantiles(intervals, forecast, level, levels, peak):
    rows = np.zeros(len(forecast), np.int64)
    return intervals.quantiles(forecast.astype(np.float32), level, ["a"], rows, levels, peak)


# Any errors


@given(
    st.integers(0, 2**32 - 1),
    st.floats(-3, 6),
    st.lists(st.floats(LEVELS[0], LEVELS[-1]), min_size=1, max_size=6, unique=True),
    st.booleans(),
)
@settings(deadline=None, max_examples=100)
def test_quantiles_are_ordered_bounded_and_include_the_forecast(seed, size, levels, nonnegative):
    rng = np.random.default_rng(seed)
    unit = 10.0**size
    level = unit * rng.exponential(1, (60, 1)) * (rng.random((60, 1)) < 0.4)
    error = unit * rng.standard_cauchy((60, 3))
    intervals = calibrated(error, level + 1e-12, peak=3 * unit, nonnegative=nonnegative)
    forecast = unit * rng.normal(1, 2, (20, 3)).astype(np.float32)
    if nonnegative:
        forecast = np.maximum(forecast, 0)
    seen = unit * rng.exponential(2, 20)
    found = quantiles(intervals, forecast, level[:20], sorted(levels), seen)
    assert (np.diff(found, axis=2) >= 0).all()
    below, above = np.array(sorted(levels)) < 0.5, np.array(sorted(levels)) > 0.5
    assert (found[..., below] <= forecast[..., None]).all()
    assert (found[..., above] >= forecast[..., None]).all()
    limit = LARGEST * np.maximum(np.maximum(seen, 3 * unit)[:, None], np.abs(forecast))
    assert (np.abs(found) <= limit[..., None] * (1 + 1e-5)).all()  # six digits are stored
    assert (found >= 0).all() or not nonnegative


def test_the_limit_follows_what_is_seen_and_forecast():
    offsets = np.linspace(-1e6, 1e6, len(LEVELS))[None]
    intervals = Intervals(offsets, {"a": SeriesIntervals(1.0, False, 20, None, peak=8.0)})
    for forecast, seen, limit in [(3, 2, 10), (3, 16, 20), (40, 2, 50), (-40, 2, 50), (0, 0, 10)]:
        found = quantiles(intervals, np.array([[forecast]]), np.ones((1, 1)), [0.01, 0.99], np.array([seen]))
        assert found[0, 0].tolist() == [-limit, limit]


def test_a_model_that_is_always_too_low_is_inside_its_own_interval():
    rng = np.random.default_rng(0)
    error, level = rng.uniform(2, 4, (400, 2)), np.ones((400, 1))
    found = quantiles(calibrated(error, level), np.full((1, 2), 7.0), level[:1], [0.1, 0.5, 0.9], np.ones(1))
    assert (found[..., 0] == 7).all()
    # The median is still that of the errors.
    np.testing.assert_allclose(found[..., 1], 10, atol=0.3)
    np.testing.assert_allclose(found[..., 2], 10.8, atol=0.3)


def test_no_quantile_is_made_of_a_forecast_that_is_not_a_number():
    intervals = calibrated(np.random.default_rng(0).normal(0, 1, (60, 2)), np.ones((60, 1)), peak=5)
    found = quantiles(intervals, np.array([[np.nan, 1.0]]), np.ones((1, 1)), [0.1, 0.5, 0.9], np.ones(1))
    assert np.isnan(found[0, 0]).all()
    assert np.isfinite(found[0, 1]).all()


# The scale of errors


def test_errors_that_grow_with_the_level_stay_relative_to_it():
    rng = np.random.default_rng(0)
    level = rng.lognormal(3, 1, (2000, 1))
    intervals = calibrated(level * rng.normal(0, 0.1, (2000, 2)), level)
    assert intervals.series["a"].floor == pytest.approx(0.1 * level.mean(), rel=1e-3)


def test_errors_that_have_nothing_to_do_with_the_level_are_not_multiplied_by_it():
    """Bursts after quiet contexts, as a share of next to nothing, would make those of a busy context huge."""
    rng = np.random.default_rng(0)
    level = np.where(rng.random((2000, 1)) < 0.5, 1e-3, rng.uniform(5, 40, (2000, 1)))
    error = np.where(rng.random((2000, 2)) < 0.2, rng.uniform(30, 60, (2000, 2)), 0.0)
    intervals = calibrated(error, level)
    found = quantiles(intervals, np.zeros((2000, 2)), level, [0.5, 0.9, 0.975], np.zeros(2000))
    assert found.max() < 2 * 60
    assert (error <= found[..., 1]).mean() == pytest.approx(0.9, abs=0.02)
    assert (error <= found[..., 2]).mean() == pytest.approx(0.975, abs=0.02)


def test_a_series_with_few_windows_does_not_stretch_the_offsets_of_all():
    rng = np.random.default_rng(0)
    series = np.repeat(np.arange(40), 30)
    level = np.where(rng.random((1200, 1)) < 0.7, 1e-3, rng.uniform(5, 40, (1200, 1)))
    error = np.where(rng.random((1200, 2)) < 0.2, rng.uniform(30, 60, (1200, 2)), 0.0)
    mean = np.bincount(series, level[:, 0]) / 30
    keys = [str(number) for number in range(40)]
    about = (mean, np.full(40, True), np.full(40, math.inf))
    intervals = calibrate(error, level, keys, series, *about)
    assert intervals is not None
    assert all(own.offsets is None for own in intervals.series.values())
    found = intervals.quantiles(
        np.zeros((1200, 2), np.float32), level, keys, series, [0.9, 0.975], np.zeros(1200)
    )
    assert np.quantile(found[..., 1], 0.99) < 3 * 60
    assert (error <= found[..., 1]).mean() == pytest.approx(0.975, abs=0.03)


# Networks on traffic


def traffic(kind, freq, days):
    """One value for each bin, of three weeks or so."""
    rng = np.random.default_rng(1)
    day = {"10min": 144, "1H": 24}[freq]
    hour = np.arange(days * day) % day * 24 / day
    burst = 30 + 34 * rng.random(len(hour))
    if kind == "office hours":
        return np.where((hour > 8) & (hour < 18), 100 + 10 * rng.normal(size=len(hour)), 0.0)
    if kind == "bursts":
        return np.where((hour % 2 >= 1) & (hour % 2 < 1.6) & (hour > 8) & (hour < 18), burst, 0.0)
    if kind == "regular":
        return 100 * (1 + 0.6 * np.sin(2 * np.pi * (hour - 9) / 24)) * (1 + 0.08 * rng.normal(size=len(hour)))
    return np.where(rng.random(len(hour)) < float(kind), burst, 0.0)


def of(values, freq):
    frequency = Frequency.parse(freq)
    rows = np.asarray(values, dtype=np.float32)[None]
    return Panel(rows, np.ones(rows.shape, dtype=bool), 0, frequency, (("fn/a", "qps"),))


def untrained(model, freq):
    """A network whose errors are large, as those of a bad model are: random weights, or the last value."""
    torch.manual_seed(0)
    window = Window(Frequency.parse(freq), 12, 6)
    net = NETWORKS[model](window, 1).eval()
    if model == "SeasonalMLP":
        spread = torch.tensor([-1.0, -0.3, 0.0, 0.3, 1.0]).repeat(6)
        net.last_bias.data += spread
        net.context.last.bias.data += spread
    return Forecaster(window, {"fn/aqps": 0}, "zero", net)


def judged(forecaster, panel, begin, stop, levels):
    """Quantiles ``[windows, horizon, level]`` and actual values of the windows in a span."""
    horizon = forecaster.window.prediction_length
    origin = np.arange(begin, stop - horizon + 1)
    series = np.zeros(len(origin), np.int64)
    made = forecaster.forecast_windows(panel, series, origin)
    actual = panel.values[0][origin[:, None] + np.arange(horizon)]
    return forecaster.quantiles(panel, series, made, levels), actual, made.values


@pytest.mark.parametrize("model", ["Fcnet", "SeasonalMLP"])
@pytest.mark.parametrize("freq, days", [("10min", 21), ("1H", 90)])
@pytest.mark.parametrize("kind", ["office hours", "bursts", "regular", "0.03", "0.1", "0.3"])
def test_quantiles_of_traffic_stay_plausible_and_keep_their_coverage(kind, freq, days, model):
    values = traffic(kind, freq, days)
    panel, bins = of(values, freq), len(values)
    middle, stop = bins // 3, 2 * bins // 3
    forecaster = untrained(model, freq).calibrated(panel, middle, stop)
    levels = [level for pair in COVERED.values() for level in pair]
    found, actual, forecast = judged(forecaster, panel, stop, bins, levels)
    assert found[..., -1].max() < 2 * max(values[:stop].max(), forecast.max())
    assert found.min() >= 0
    for number, share in enumerate(COVERED):
        inside = (found[..., 2 * number] <= actual) & (actual <= found[..., 2 * number + 1])
        # Bounds at zero hold more than they promise, and a third of the history is a small sample.
        assert inside.mean() > share - 0.06, share


@pytest.mark.parametrize("model", ["Fcnet", "SeasonalMLP"])
@pytest.mark.parametrize("kind", ["regular", "0.1", "bursts"])
def test_intervals_follow_a_level_that_moved(kind, model):
    values = traffic(kind, "1H", 90)
    stop = 2 * len(values) // 3
    forecaster = untrained(model, "1H").calibrated(of(values, "1H"), stop // 2, stop)
    moved = values * np.where(np.arange(len(values)) < stop, 1, 3)
    found, actual, _ = judged(forecaster, of(moved, "1H"), stop + 24, len(values), [0.025, 0.975])
    assert found.max() > 1.3 * values.max()
    inside = (found[..., 0] <= actual) & (actual <= found[..., 1])
    # The forecasts of the network with random weights do not follow.
    assert inside.mean() > (0.8 if model == "SeasonalMLP" else 0.5)


def test_a_new_series_is_limited_by_the_history_given():
    values = traffic("bursts", "1H", 90)
    panel = of(values, "1H")
    forecaster = untrained("SeasonalMLP", "1H").calibrated(panel, 700, 1400)
    assert forecaster.intervals is not None
    offsets = 1e6 * np.sort(forecaster.intervals.pooled, axis=1)
    strange = replace(forecaster, intervals=Intervals(offsets, {}))
    found, _, forecast = judged(strange, panel, 1400, 2000, [0.1, 0.9])
    assert found.max() <= LARGEST * max(values.max(), forecast.max()) * (1 + 1e-6)
    # In less than a day, the largest value of a new series has not been seen yet.
    short = replace(panel, values=panel.values[:, 8:26], observed=panel.observed[:, 8:26])
    found, _, forecast = judged(strange, short, 12, 18, [0.1, 0.9])
    assert found.max() > 100 * values.max()


def test_a_series_of_the_artifact_may_turn_negative():
    values = traffic("regular", "1H", 90)
    forecaster = untrained("SeasonalMLP", "1H").calibrated(of(values, "1H"), 700, 1400)
    found, _, _ = judged(forecaster, of(values - 60, "1H"), 1400, 2000, [0.1])
    assert (found < 0).any()


@pytest.mark.parametrize("kind", ["office hours", "bursts"])
def test_a_trained_network_forecasts_what_the_service_can_have(kind):
    values = traffic(kind, "10min", 14).round(1)
    history = pd.DataFrame({"timestamp": 1_704_067_200 + 600 * np.arange(len(values)), "value": values})
    history = history.assign(workload="fn/a", metric="qps")
    made = kforecast.train(history, Window(Frequency.parse("10min"), 12, 3), max_epochs=2, verbose=False)
    found = made.evaluate(history, quantiles=[0.025, 0.1, 0.5, 0.9, 0.975]).forecasts
    assert (found["value"] >= 0).all()
    assert (found["q0.025"] <= found["value"]).all()
    assert (found["value"] <= found["q0.975"]).all()
    assert found["q0.975"].max() < 2 * values.max()
    inside = (found["q0.1"] <= found["actual"]) & (found["actual"] <= found["q0.9"])
    assert inside.mean() > 0.7
    # The history ends at the beginning of a burst, or of the day.
    begins = 13 * 144 + (55 if kind == "bursts" else 49)
    newest = made.forecast(history[:begins], quantiles=[0.9, 0.975])
    assert newest["q0.975"].max() < 2 * values.max()
