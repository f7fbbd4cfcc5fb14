"""Weights and interval widths that follow the errors at the newest origins."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.data.events.effects import Effect, Effects, Plan
from kforecast.data.events.known import KnownEvent, KnownEvents
from kforecast.data.events.past import EventSearch
from kforecast.data.fill import Fill
from kforecast.data.panel import Panel
from kforecast.forecaster import Forecaster
from kforecast.intervals import calibrate
from kforecast.models.combination import Combination
from kforecast.models.online import Online, jumps, naive_experts, prior_weights
from kforecast.models.seasonal_mlp import SeasonalMLP
from kforecast.window import Frequency, Window

HOUR = 3600
WINDOW = Window("1H", 6, 4)
DAYS = 40


def panel_of(values: np.ndarray, observed: np.ndarray | None = None) -> Panel:
    """Series at 1H that begin on a Monday."""
    known = np.ones(values.shape, bool) if observed is None else observed
    names = tuple((f"w{number}", "m") for number in range(len(values)))
    shown = np.where(known, values, 0).astype(np.float32)
    return Panel(shown, known, 1_704_067_200, Frequency.parse("1H"), names)


def daily(series: int = 2, days: int = DAYS, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    hour = np.arange(days * 24)
    shape = 100 + 50 * np.sin(2 * np.pi * hour / 24)
    return shape * random.uniform(0.9, 1.1, (series, 1)) + random.normal(0, 5, (series, len(hour)))


def forecaster_of(panel: Panel, origins: int = 30, memory: int = 12) -> Forecaster:
    """An untrained network, combined online, with intervals."""
    torch.manual_seed(0)
    net = SeasonalMLP(WINDOW, panel.num_series, members=1, hidden=8, layers=1, embedding=2).eval()
    online = Online(0, np.full(4, np.nan), 0.2, origins, memory, 24)
    half = Combination({"past days": np.full(4, 0.5), "context": np.full(4, 0.5)})
    made = Forecaster(WINDOW, panel.item_ids, "interpolate", net, combination=half, online=online)
    windows = 40
    series = np.repeat(np.arange(panel.num_series), windows)
    error = np.random.default_rng(1).normal(0, 5, (len(series), 4))
    keys = list(panel.item_ids)
    intervals = calibrate(
        error,
        np.full((len(series), 1), 1.0),
        keys,
        series,
        np.full(panel.num_series, 100.0),
        np.ones(panel.num_series, bool),
        np.full(panel.num_series, 1e3),
    )
    return replace(made, intervals=intervals)


def frame_of(panel: Panel, begin: int, stop: int) -> pd.DataFrame:
    row, column = np.nonzero(panel.observed[:, begin:stop])
    return pd.DataFrame(
        {
            "timestamp": panel.start + (begin + column) * HOUR,
            "value": panel.values[row, begin + column].astype(np.float64),
            "workload": [panel.series[number][0] for number in row],
            "metric": "m",
        }
    )


@settings(max_examples=3)
@given(seed=st.integers(0, 10**6), gaps=st.sampled_from([0.0, 0.03]))
def test_a_backtest_and_a_forecast_from_recent_bins_give_the_same_numbers(seed: int, gaps: float) -> None:
    values = daily(days=50, seed=seed)
    observed = np.random.default_rng(seed).random(values.shape) >= gaps
    observed[:, -10:] = True
    panel = panel_of(values, observed)
    forecaster = forecaster_of(panel)
    ends = np.array([panel.num_bins, panel.num_bins - 1, panel.num_bins - 7])
    series, origin = np.tile([0, 1], len(ends)), np.repeat(ends, 2)
    everything = np.divmod(np.arange(2 * panel.num_bins), panel.num_bins)
    late = everything[1] >= panel.num_bins - 60
    cells = np.concatenate([everything[0][late], series]), np.concatenate([everything[1][late], origin])
    made = forecaster.forecast_windows(panel, *cells)
    quantiles = forecaster.quantiles(panel, cells[0], made, [0.05, 0.95])
    assert made.widths is not None
    assert np.ptp(made.widths) > 0.1
    for end in ends:
        history = frame_of(panel, end - forecaster.history_length, end)
        frame = forecaster.forecast(history, quantiles=[0.05, 0.95])
        for row, name in enumerate(["w0", "w1"]):
            at = np.flatnonzero((cells[0] == row) & (cells[1] == end))[-1]
            mine = frame[frame["workload"] == name]
            np.testing.assert_allclose(mine["value"], made.values[at], rtol=1e-5)
            np.testing.assert_allclose(mine[["q0.05", "q0.95"]], quantiles[at], rtol=1e-5)


@settings(max_examples=3)
@given(
    seed=st.integers(0, 10**6),
    gaps=st.sampled_from([0.0, 0.03, 0.4]),
    jump=st.sampled_from([1.0, 8.0]),
    rate=st.sampled_from([0.0, 0.2]),
    fill=st.sampled_from(["interpolate", "zero"]),
)
def test_one_bin_after_the_other_gives_the_same_numbers(
    seed: int, gaps: float, jump: float, rate: float, fill: Fill
) -> None:
    values = daily(series=3, days=50, seed=seed)
    values[1, -8:] *= jump
    observed = np.random.default_rng(seed).random(values.shape) >= gaps
    panel = panel_of(values, observed)
    forecaster = forecaster_of(panel)
    assert forecaster.online is not None
    forecaster = replace(forecaster, fill=fill, online=replace(forecaster.online, rate=rate), events=True)

    def history(end: int) -> Panel:
        window = slice(end - forecaster.history_length, end)
        return replace(
            panel,
            values=panel.values[:, window],
            observed=panel.observed[:, window],
            start=panel.seconds(window.start),
        )

    recent, search = None, EventSearch()
    # Bins that come alone, together, again, and after a long time.
    for ago in (45, 44, 43, 43, 40, 39, 3, 2, 1, 0):
        mine = history(panel.num_bins - ago)
        made, recent = forecaster.forecast_next(mine, recent, search=search)
        rows, end = np.arange(3), np.full(3, mine.num_bins)
        expected = forecaster.forecast_windows(mine, rows, end, hold_newest=True)
        np.testing.assert_allclose(made.values, expected.values, rtol=1e-6)
        np.testing.assert_allclose(made.widths, expected.widths, rtol=1e-6)


@settings(max_examples=3)
@given(
    seed=st.integers(0, 10**6),
    gaps=st.sampled_from([0.0, 0.03]),
    begin=st.integers(-12, 5),
    minutes=st.sampled_from([60, 90, 300]),
    incident=st.booleans(),
)
def test_known_events_change_nothing_about_that(
    seed: int, gaps: float, begin: int, minutes: int, incident: bool
) -> None:
    """An event in the history, in the horizon, or at the edge of both, while origins pass over it."""
    values = daily(series=3, days=50, seed=seed)
    last = values.shape[1]
    factor = np.exp(1.1)
    values[:2, last + begin : last + begin + max(1, minutes // 60)] *= factor
    values[2, -70:-65] *= 0.1  # not known by name: the search finds it
    observed = np.random.default_rng(seed).random(values.shape) >= gaps
    observed[:, -1] = True
    panel = panel_of(values, observed)
    edge = panel.seconds(last) + 1800 * (seed % 2)
    known = [
        KnownEvent(edge + begin * HOUR, edge + begin * HOUR + 60 * minutes, "w0", "sale", 4.0),
        KnownEvent(edge + begin * HOUR, edge + begin * HOUR + 60 * minutes, "w1", "sale"),
        KnownEvent(edge - 30 * HOUR, edge - 24 * HOUR, "*", "low", 0.2),
        KnownEvent(edge - 50 * HOUR, edge - 40 * HOUR, "w1", "broken", incident=incident),
    ]
    effect = Effect(3, 1.1, {"w0m": (2, 1.2)}, (0.1, 0.2, -0.1, 0.0))
    plan = Plan(KnownEvents(tuple(known)), Effects({"sale": effect}))
    forecaster = replace(forecaster_of(panel), events=True, plan=plan)

    def history(end: int) -> Panel:
        window = slice(end - forecaster.history_length, end)
        return replace(
            panel,
            values=panel.values[:, window],
            observed=panel.observed[:, window],
            start=panel.seconds(window.start),
        )

    recent, search, rows = None, EventSearch(), np.arange(3)
    for ago in (14, 13, 12, 12, 10, 9, 8, 7, 5, 4, 3, 2, 1, 0):
        mine = history(last - ago)
        made, recent = forecaster.forecast_next(mine, recent, 20, search)
        at_end = np.full(3, mine.num_bins)
        expected = forecaster.forecast_windows(mine, rows, at_end, hold_newest=True)
        np.testing.assert_allclose(made.values, expected.values, rtol=1e-6)
        np.testing.assert_allclose(made.widths, expected.widths, rtol=1e-6)
        one, other = (forecaster.quantiles(mine, rows, each, [0.05, 0.95]) for each in (made, expected))
        np.testing.assert_allclose(one, other, rtol=1e-6)
        if gaps == 0:
            backtest = forecaster.forecast_windows(panel, rows, np.full(3, last - ago))
            np.testing.assert_allclose(made.values, backtest.values, rtol=1e-5)


def test_nothing_after_the_origin_changes_a_forecast() -> None:
    values = daily()
    other = values.copy()
    other[:, 800:] *= 3
    made = [
        forecaster_of(panel_of(some)).forecast_windows(
            panel_of(some), np.arange(2).repeat(101), np.tile(np.arange(700, 801), 2)
        )
        for some in (values, other)
    ]
    np.testing.assert_array_equal(made[0].values, made[1].values)
    np.testing.assert_array_equal(made[0].widths, made[1].widths)


def test_the_better_forecast_of_each_series_gets_the_weight() -> None:
    hours = np.arange(DAYS * 24)
    same_every_day = 100 + 80 * np.sin(2 * np.pi * hours / 24)
    level = 100 + 30 * (np.random.default_rng(0).random(DAYS * 24 // 48 + 1).repeat(48)[: len(hours)])
    panel = panel_of(np.stack([same_every_day, level]))
    forecaster = forecaster_of(panel, origins=144, memory=48)
    series, origin = np.arange(2).repeat(200), np.tile(np.arange(700, 900), 2)
    at = (series[:, None], origin[:, None] + np.arange(4))
    follows = forecaster.forecast_windows(panel, series, origin).values - panel.values[at]
    fixed = replace(forecaster, online=None).forecast_windows(panel, series, origin).values - panel.values[at]
    error, before = (np.abs(one).reshape(2, -1).mean(axis=1) for one in (follows, fixed))
    assert error[0] < 0.1 * before[0]  # the same time yesterday is exact
    assert error[1] < 1.2 * before[1]  # the untrained network repeats the last value, which is best


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_intervals_follow_errors_that_grow(factor: float) -> None:
    random = np.random.default_rng(3)
    error = random.normal(0, 1, (4, 900, 2))
    error[:, 300:] *= factor
    online = Online(0, np.ones(2))
    tail = 1.645
    shares = []
    for sign in (-1, 1):
        wide = online.widths(sign * error / tail)
        shares.append((sign * error[:, 500:] > tail * wide[:, 500:]).mean())
    assert 0.03 < sum(shares) < 0.12
    assert 1 - sum(shares) > 0.88


def test_more_origins_than_the_history_has_take_no_memory() -> None:
    error = np.random.default_rng(3).normal(0, 1, (50, 20, 6))
    tracemalloc.start()
    try:
        found = Online(0, np.ones(6), origins=100_000).widths(error)
        assert tracemalloc.get_traced_memory()[1] < 100 * error.nbytes
    finally:
        tracemalloc.stop()
    np.testing.assert_allclose(found, Online(0, np.ones(6), origins=20).widths(error))


def test_an_unknown_forecast_has_no_weight_and_loses_nothing() -> None:
    random = np.random.default_rng(0)
    actual = random.normal(100, 10, (1, 100, 2))
    forecasts = np.stack([actual + 10, actual + 1, actual + 1])
    forecasts[2, :, 50:60] = np.nan
    weights = Online(0, np.ones(2), 0.2).weights(
        forecasts,
        np.abs(forecasts - actual),
        np.array([0.8, 0.1, 0.1]),
        np.array([0.1, 0.8, 0.1]),
        np.zeros((1, 100), bool),
    )
    np.testing.assert_allclose(weights.sum(axis=0), 1)
    assert (weights[2, :, 50:60] == 0).all()
    assert (weights[1, :, -1] + weights[2, :, -1] > 0.99).all()
    np.testing.assert_allclose(weights[:, 0, 0, 0], [0.8, 0.1, 0.1])


def test_naive_experts_are_unknown_where_a_bin_is() -> None:
    values = np.arange(2 * 24 * 15.0).reshape(2, -1)
    observed = np.ones(values.shape, bool)
    observed[0, 200 - 24] = False
    panel = panel_of(values, observed)
    last, day, week, by_day, day_ratio, by_week, week_ratio = naive_experts(
        panel, panel, np.array([0, 1]), np.array([200, 200]), 4
    )
    assert (last == [[199.0] * 4, [559.0] * 4]).all()
    assert np.isnan(day[0, 0])
    assert np.isnan(by_day[0, 0])
    assert (day[1] == [536.0, 537.0, 538.0, 539.0]).all()
    assert (by_day[1] == [560.0, 561.0, 562.0, 563.0]).all()
    assert np.isfinite(week).all()
    assert np.isfinite(by_week).all()
    assert np.isnan(day_ratio[0, 0])
    np.testing.assert_allclose(day_ratio[1], 559 * np.array([536, 537, 538, 539]) / 535, rtol=1e-6)
    assert np.isfinite(week_ratio).all()


@pytest.mark.parametrize(
    "change",
    [
        {"optimism": [1.0]},
        {"optimism": [0.0, 1.0]},
        {"optimism": "no"},
        {"rate": -1},
        {"rate": float("nan")},
        {"origins": 0},
        {"origins": 10**9},
        {"widths_memory": 0},
        {"trained_until": None},
    ],
)
def test_wrong_settings_of_an_artifact_are_refused(change: dict[str, object]) -> None:
    content = Online(1_700_000_000, np.array([1.1, 1.2]), 0.2).as_dict()
    again = Online.from_dict(content, 2)
    assert again.as_dict() == content
    with pytest.raises(ValueError, match=r"optimism|rate|structure"):
        Online.from_dict(content | change, 2)


def jumped_at(values: np.ndarray) -> np.ndarray:
    """Origins of the first series at which its level has just jumped."""
    panel = panel_of(values)
    return np.flatnonzero(jumps(panel, 0, panel.num_bins)[0])


@pytest.mark.parametrize("factor", [8.0, 0.1])
def test_a_jump_is_found_within_three_bins_and_over_after_half_a_day(factor: float) -> None:
    values = daily()
    assert not len(jumped_at(values))
    values[:, 800:] *= factor
    found = jumped_at(values)
    assert found[0] == 803
    assert set(found) <= set(range(803, 817))
    assert len(found) >= 8


def test_bursts_that_recur_are_no_jump() -> None:
    values = daily()
    for begin in range(5 * 24, DAYS * 24, 40):
        values[:, begin : begin + 4] *= 8
    assert len(jumped_at(values)) <= 4  # the first burst was not known


def test_a_jump_is_found_from_the_bins_before_it_alone() -> None:
    values = daily()
    values[:, 800:] *= 8
    whole = jumps(panel_of(values), 700, 830)
    for stop in (802, 804, 810):
        some = jumps(panel_of(values[:, :stop]), stop - 5, stop)
        np.testing.assert_array_equal(some, whole[:, stop - 5 - 700 : stop - 700])


def test_after_a_jump_the_last_value_has_the_weight() -> None:
    actual = np.full((1, 60, 4), 1000.0)
    forecasts = np.stack([np.full_like(actual, 100.0), np.full_like(actual, 990.0), actual * 0.1])
    jumped = np.zeros((1, 60), bool)
    jumped[:, 30:] = True
    before, after = prior_weights(0, 2)
    weights = Online(0, np.ones(4), 0.2).weights(forecasts, np.abs(forecasts - actual), before, after, jumped)
    assert (weights[1, 0, 30:] > 0.7).all()
