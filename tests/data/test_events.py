"""Events: which past bins are replaced, by what, and from when on that is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.data.events.past import Events, EventSearch, detected, span
from kforecast.data.panel import Panel
from kforecast.data.windows import WindowDataset
from kforecast.window import Frequency, Lookback, Window

MONDAY = 1_704_067_200  # 2024-01-01 00:00 UTC
HOUR = Frequency.parse("1H")
DAYS = 35
CONFIRMED = 2  # bins of an hour


def panel_of(values, frequency=HOUR):
    """A panel from an array ``[series, time]``, NaN where unobserved."""
    values = np.atleast_2d(np.asarray(values, dtype=np.float32))
    observed = ~np.isnan(values)
    series = tuple((f"w{row}", "m") for row in range(len(values)))
    return Panel(np.where(observed, values, np.float32(0)), observed, MONDAY, frequency, series)


def traffic(days=DAYS, day=24, seed=0, noise=0.05, weekend=0.6):
    """Days with a wave and noise, and quieter weekends."""
    at = np.arange(days * day)
    wave = 100 * (1.4 + np.sin(2 * np.pi * at / day)) * np.where(at // day % 7 >= 5, weekend, 1.0)
    return wave * np.exp(noise * np.random.default_rng(seed).standard_normal(len(at)))


def left_out(events, origin, shape):
    """Which bins a forecast from ``origin`` sees with usual values."""
    found = np.zeros(shape, bool)
    event, at = events.bins()
    seen = (events.begin[event] <= origin) & (origin < events.end[event])
    found[events.series[event[seen]], at[seen]] = True
    return found


@pytest.mark.parametrize(("frequency", "day"), [("1H", 24), ("10min", 144)])
@given(seed=st.integers(0, 1000), noise=st.floats(0, 0.06))  # at 0.08, one seed in sixty has an outlier
@settings(max_examples=20, deadline=None)
def test_regular_traffic_has_no_events(frequency, day, seed, noise):
    values = traffic(21, day, seed, noise)
    found = detected(panel_of(values, Frequency.parse(frequency)), 14 * day)
    assert len(found) == 0
    # Before the first weekend has come again, it is unlike all days.
    assert (
        len(detected(panel_of(traffic(21, day, seed, noise, weekend=1.0), Frequency.parse(frequency)))) == 0
    )


@given(
    factor=st.sampled_from([0.0, 0.05, 0.3, 3.0]),
    first=st.integers(16 * 24, (DAYS - 2) * 24),
    length=st.integers(2, 12),
    seed=st.integers(0, 100),
)
@settings(max_examples=40, deadline=None)
def test_an_outage_is_an_event_once_it_is_over(factor, first, length, seed):
    plain = traffic(seed=seed, weekend=1.0)
    values = plain.copy()
    values[first : first + length] *= factor
    panel, over = panel_of(values), first + length
    events = detected(panel)
    bins = np.zeros(panel.values.shape, bool)
    bins[0, first:over] = True
    for origin in range(first, over + CONFIRMED):
        assert not left_out(events, origin, bins.shape).any()
    np.testing.assert_array_equal(left_out(events, over + CONFIRMED, bins.shape), bins)
    np.testing.assert_array_equal(left_out(events, panel.num_bins, bins.shape), bins)
    np.testing.assert_allclose(events.usual, plain[first:over], rtol=0.25)


def mixed(seed):
    """Series with outages, surges, a new level, pauses, gaps and noise, at random."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(3):
        values = traffic(seed=seed + number, noise=rng.choice([0.02, 0.2, 0.6]))
        for first in rng.integers(0, len(values), 6):
            values[first : first + rng.integers(1, 30)] *= rng.choice([0.0, 0.05, 0.5, 3.0])
        at = np.arange(len(values))
        if rng.random() < 0.5:
            values[(at % 24 < 4) & (at > rng.integers(0, len(at)))] *= 0.1
        if rng.random() < 0.5:
            values[rng.integers(0, len(values)) :] *= 4
        values[rng.random(len(values)) < rng.choice([0, 0.2])] = np.nan
        gap = rng.integers(0, len(values))
        values[gap : gap + rng.integers(0, 100)] = np.nan
        rows.append(values)
    return panel_of(np.stack(rows))


@given(seed=st.integers(0, 10_000), back=st.integers(0, 20 * 24))
@settings(max_examples=60, deadline=None)
def test_a_backtest_knows_what_a_forecast_of_that_time_knew(seed, back):
    panel = mixed(seed)
    origin = panel.num_bins - back
    now, later = detected(panel, 0, origin), detected(panel)
    for at in (origin, origin - 30):
        was, found = (left_out(events, at, panel.values.shape) for events in (now, later))
        np.testing.assert_array_equal(was, found)


@given(seed=st.integers(0, 10_000), length=st.integers(1, 10 * 24))
@settings(max_examples=60, deadline=None)
def test_only_a_span_before_a_bin_decides(seed, length):
    panel = mixed(seed)
    begin = panel.num_bins - length
    whole, part = (
        left_out(events, panel.num_bins, panel.values.shape)[:, begin:]
        for events in (detected(panel), detected(panel, begin - span(HOUR)))
    )
    np.testing.assert_array_equal(whole, part)


@pytest.mark.parametrize("every", [1, 7])
def test_a_pause_that_recurs_is_no_event_from_its_second_time_on(every):
    values = traffic(50)
    hours = 24 * np.arange(21, 50, every)[:, None] + np.arange(2, 6)
    values[hours] *= 0.02
    panel = panel_of(values)
    events = detected(panel)
    second = 24 * (21 + every) + 2
    assert left_out(events, second, panel.values.shape).sum() == 4
    for origin in range(second + CONFIRMED, panel.num_bins + 1):
        assert not left_out(events, origin, panel.values.shape).any()


@pytest.mark.parametrize("factor", [0.2, 3.0])
def test_a_new_level_is_no_event(factor):
    values = traffic(42)
    values[500:] *= factor
    assert len(detected(panel_of(values))) == 0


def test_few_bins_of_bursty_traffic_are_events():
    rng = np.random.default_rng(0)
    values = np.exp(rng.standard_normal((4, 60 * 24)))
    assert len(detected(panel_of(values)).usual) < 0.15 * values.size


@pytest.mark.parametrize(
    "values",
    [
        np.empty((1, 0)),
        np.ones((2, 1)),
        np.full((1, 24 * 30), np.nan),
        np.zeros((1, 24 * 30)),
        traffic(3),
        -traffic(30),
        np.full((1, 24 * 30), 3e38),
    ],
    ids=["no bins", "one bin", "nothing observed", "zeros", "short", "negative", "huge"],
)
def test_histories_without_events(values):
    assert len(detected(panel_of(values))) == 0


def test_wide_bins_have_no_events():
    for freq in ("2H", "1D"):
        values = traffic(30, day=12)
        values[200:206] = 0
        assert span(Frequency.parse(freq)) == 0
        assert len(detected(panel_of(values, Frequency.parse(freq)))) == 0


def test_events_move_with_a_padded_panel():
    values = traffic()
    values[700:706] = 0
    panel = panel_of(values)
    moved, padded = detected(panel).moved(7), detected(panel.padded(7, 3))
    for name in ("series", "first", "stop", "begin", "usual"):
        np.testing.assert_array_equal(getattr(moved, name), getattr(padded, name))


def test_a_repaired_panel_has_usual_values_where_they_are_known_in_time():
    values = np.arange(20.0)
    events = Events(
        *(np.array(part) for part in ([0, 0], [3, 10], [5, 12], [6, 15], [99, 99], [70, 80, 90, 95]))
    )
    known = events.repaired(panel_of(values), age=4).values[0]
    expected = values.copy()
    expected[[3, 4, 11]] = [70, 80, 95]  # bin 10 is looked at from bin 14 on, when the event is not yet over
    np.testing.assert_array_equal(known, expected)
    expected[11] = values[11]
    np.testing.assert_array_equal(events.repaired(panel_of(values), origin=14).values[0], expected)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_windows_see_usual_values_of_known_events_only(data):
    bins, window, look = 40, Window(HOUR, 3, 2), Lookback(recent=5, seasons=1, before=2, after=1)
    values = np.arange(2 * bins, dtype=np.float32).reshape(2, bins) + 1
    first = np.sort(data.draw(st.lists(st.integers(0, 12), min_size=3, max_size=3)))
    rows = []
    for series, place in ((0, first[0]), (0, first[1] + 14), (1, first[2])):
        begin = place + data.draw(st.integers(0, 30))
        rows.append(
            (series, place, place + data.draw(st.integers(1, 4)), begin, begin + data.draw(st.integers(0, 9)))
        )
    series, start, stop, begin, end = np.array(rows, dtype=np.int64).T
    usual = -np.arange(1, (stop - start).sum() + 1, dtype=np.float32)
    events = Events(series, start, stop, begin, end, usual)
    panel = panel_of(values)
    origins = np.arange(3, bins - 1)
    cells = torch.from_numpy((np.arange(2)[:, None] * bins + origins).ravel())
    plain = WindowDataset(panel, window, "zero", lookback=look)
    seen = WindowDataset(panel, window, "zero", lookback=look).leave_out(events)
    found = seen[cells]
    event, at = events.bins()
    for number, cell in enumerate(cells.tolist()):
        row, origin = divmod(cell, bins)
        known = (series[event] == row) & (begin[event] <= origin) & (origin < end[event])
        then = values.copy()
        then[row, at[known]] = usual[known]
        expected = WindowDataset(replace(panel, values=then), window, "zero", lookback=look)[
            cells[number : number + 1]
        ]
        np.testing.assert_array_equal(found.context[number], expected.context[0])
        for name in ("recent", "seasons", "recent_observed", "seasons_observed"):
            np.testing.assert_array_equal(getattr(found.past, name)[number], getattr(expected.past, name)[0])
    np.testing.assert_array_equal(found.target, plain[cells].target)


@given(
    seed=st.integers(0, 10_000),
    gaps=st.sampled_from([0.0, 0.02, 0.2]),
    moves=st.lists(st.sampled_from([0, 1, 1, 5, 30, 200, -1]), min_size=1, max_size=4),
)
@settings(max_examples=20, deadline=None)
def test_a_search_that_goes_on_finds_what_a_whole_search_finds(seed, gaps, moves):
    random = np.random.default_rng(seed)
    length, lead = 24 * 24, span(HOUR)
    values = np.stack([traffic(seed=seed + row, weekend=1.0) for row in range(3)])
    for row, factor in ((0, 0.0), (0, 3.0), (1, 0.05)):
        for first in random.integers(0, values.shape[1] - 12, 6):
            values[row, first : first + random.integers(2, 12)] *= factor
    values[2] *= np.exp(random.normal(0, 0.8, values.shape[1]))  # unlike all days much of the time
    values[random.random(values.shape) < gaps] = np.nan
    whole, search, end = panel_of(np.round(values)), EventSearch(), length
    for move in [0, *moves]:
        end = min(max(length, end + move), whole.num_bins)
        # A late row of the newest bins, or of an old one.
        late = (random.integers(3), end - random.choice([1, 2, 4, 200]))
        whole.values[late], whole.observed[late] = random.integers(0, 300), True
        window = slice(end - length, end)
        panel = replace(
            whole,
            values=whole.values[:, window].copy(),
            observed=whole.observed[:, window].copy(),
            start=whole.seconds(window.start),
        )
        found, expected = search.events(panel, 0, length), detected(panel)
        counted, wanted = found.stop > lead, expected.stop > lead
        assert wanted.any()
        for name in ("series", "first", "stop", "begin", "end"):
            np.testing.assert_array_equal(getattr(found, name)[counted], getattr(expected, name)[wanted])
        seen, usual = (each.repaired(panel, origin=length).values for each in (found, expected))
        np.testing.assert_array_equal(seen[:, lead:], usual[:, lead:])
