"""Grids in UTC and in local time, the bins of panels on them, and rows that stand off the grid."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.data.calendar import Calendar
from kforecast.data.grid import Grid
from kforecast.data.panel import Panel
from kforecast.data.quality import examine
from kforecast.data.reading import read_panel
from kforecast.data.windows import WindowDataset
from kforecast.errors import DataError
from kforecast.metrics.csv import CsvSource
from kforecast.models.naive import seasonal_naive, time_of_week_mean
from kforecast.window import Frequency, Lookback, Window

DAY, HOUR = Frequency.parse("1D"), Frequency.parse("1H")
ZONES = [
    "UTC",
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "America/St_Johns",
    "America/Havana",  # clocks change at midnight
    "Asia/Beirut",  # likewise, and are set back to the day before
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "Australia/Lord_Howe",  # clocks change by half an hour
    "Pacific/Apia",  # left out a day
    "Pacific/Auckland",
]
WIDTHS = ["10min", "30min", "1H", "90min", "2H", "6H", "12H", "1D"]


def of_days(zone, first, count, skipped=()):
    """Unix seconds at which the local days of a zone begin, by the clocks of the standard library."""
    dates = [datetime(*first, tzinfo=UTC).date() + timedelta(number) for number in range(count)]
    dates = [date for date in dates if date not in skipped]
    # Where midnight is skipped, the day begins with the first moment that has its date.
    begins = []
    for date in dates:
        second = int(datetime(date.year, date.month, date.day, tzinfo=UTC).timestamp()) - 16 * 3600
        while datetime.fromtimestamp(second, ZoneInfo(zone)).date() < date:
            second += 900
        begins.append(second)
    return dates, np.array(begins)


def off_grid(rows, frequency, calendar=None):
    """The messages of the report of kforecast-fetch."""
    _, findings = examine(rows, Window(frequency, 2, 1), calendar=calendar)
    return [finding.message for finding in findings if finding.kind == "off_grid"]


def frame_of(seconds, values=None, workload="shop/web"):
    values = np.arange(1.0, len(seconds) + 1) if values is None else values
    return pd.DataFrame({"timestamp": seconds, "value": values, "workload": workload, "metric": "m"})


@given(st.sampled_from(ZONES), st.sampled_from(WIDTHS), st.integers(0, 2_000_000_000))
@settings(deadline=None, max_examples=150)
def test_bins_follow_each_other_and_hold_their_moments(zone, width, start):
    grid = Grid(Frequency.parse(width).step, zone)
    # Around a change of the clocks, if there is one.
    moments = np.arange(start, start + 200 * 86_400, 86_399 // 4)
    number = grid.bins(moments)
    begin, end = grid.seconds(number), grid.seconds(number + 1)
    assert (begin <= moments).all()
    assert (moments < end).all()
    np.testing.assert_array_equal(grid.bins(begin), number)
    np.testing.assert_array_equal(grid.bins(end - 1), number)
    for place in (0, 100):
        assert grid.bin_at(int(moments[place])) == number[place]
        assert grid.seconds(int(number[place])) == begin[place]


@given(st.sampled_from(ZONES), st.sampled_from(WIDTHS), st.integers(0, 2_000_000_000))
@settings(deadline=None, max_examples=150)
def test_bins_begin_at_whole_steps_of_local_time(zone, width, start):
    step = Frequency.parse(width).step
    grid = Grid(step, zone)
    number = np.arange(grid.bin_at(start), grid.bin_at(start) + 3000 * 3600 // step)
    local = [datetime.fromtimestamp(int(second), ZoneInfo(zone)) for second in grid.seconds(number)[:60]]
    odd = [moment for moment in local if (moment.hour * 3600 + moment.minute * 60) % step]
    # Only a bin whose begin the clocks skip begins later.
    assert len(odd) <= (0 if grid.is_uniform else 1)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("year", [2010, 2011, 2023])
def test_a_year_of_local_days_is_a_year_of_bins(zone, year):
    skipped = [datetime(2011, 12, 30, tzinfo=UTC).date()] if zone == "Pacific/Apia" else []
    dates, begins = of_days(zone, (year, 2, 1), 365, skipped)
    panel = Panel.from_frame(frame_of(begins), DAY, Calendar((zone,)))
    numbers = [(date - dates[0]).days for date in dates]
    assert panel.num_bins == 365
    np.testing.assert_array_equal(np.flatnonzero(panel.observed[0]), numbers)
    np.testing.assert_array_equal(panel.values[0, numbers], np.arange(1, len(dates) + 1))
    np.testing.assert_array_equal(panel.seconds(np.array(numbers)), begins)
    assert panel.start == begins[0]
    # The day after the last one.
    _, following = of_days(zone, (year + 1, 1, 31), 2)
    assert panel.seconds(panel.num_bins) == following[-1]
    assert panel.bin_at(int(following[-1]) - 1) == panel.num_bins - 1


@pytest.mark.parametrize(
    ("zone", "minutes"),
    [
        ("Asia/Kolkata", {30}),
        ("Asia/Kathmandu", {15}),
        ("Australia/Adelaide", {30}),
        ("Australia/Lord_Howe", {0, 30}),
        ("Europe/Berlin", {0}),
    ],
)
def test_local_hours_begin_at_the_minute_of_the_offset(zone, minutes):
    begin = int(datetime(2023, 1, 1, tzinfo=UTC).timestamp())
    panel = Panel.from_frame(frame_of(begin + 60 * np.arange(200 * 1440)), HOUR, Calendar((zone,)))
    assert {second // 60 % 60 for second in panel.timestamps.tolist()} == minutes
    assert panel.observed.all()
    assert {*np.diff(panel.timestamps).tolist()} <= {1800, 3600, 5400}  # those of Lord Howe change by half


def test_days_have_23_and_25_hours_where_clocks_change():
    begin = int(datetime(2023, 12, 31, 23, tzinfo=UTC).timestamp())
    panel = Panel.from_frame(frame_of(begin + 3600 * np.arange(366 * 24)), DAY, Calendar(("Europe/Berlin",)))
    hours = np.diff(panel.seconds(np.arange(367))) // 3600
    assert panel.num_bins == 366
    assert [(number, hours[number]) for number in np.flatnonzero(hours != 24)] == [(90, 23), (300, 25)]
    # Each mean is that of its own rows.
    rows = np.arange(1.0, 366 * 24 + 1)
    assert panel.values[0, 90] == pytest.approx(rows[90 * 24 : 90 * 24 + 23].mean())


def test_a_grid_that_local_time_does_not_move_is_that_of_utc():
    rows = frame_of(1_700_000_000 + 60 * np.arange(3000))
    plain = Panel.from_frame(rows, HOUR)
    for zone in ("Europe/Berlin", "America/New_York", "Africa/Casablanca"):
        panel = Panel.from_frame(rows, HOUR, Calendar((zone,)))
        assert panel.zone == "UTC"
        assert panel.fingerprint() == plain.fingerprint()
    moved = Panel.from_frame(rows, HOUR, Calendar(("Asia/Kolkata",)))
    assert moved.zone == "Asia/Kolkata"
    assert moved.fingerprint() != plain.fingerprint()


def test_a_mapped_panel_has_the_same_local_bins(tmp_path):
    _, begins = of_days("Europe/Berlin", (2023, 2, 1), 300)
    path = tmp_path / "days.parquet"
    frame_of(begins).to_parquet(path)
    calendar = Calendar(("Europe/Berlin",))
    source = CsvSource(path, memory_map=True, cache_dir=tmp_path / "cache")
    whole = Panel.from_frame(frame_of(begins), DAY, calendar)
    for _ in range(2):  # made, and from the cache
        panel = read_panel(source, DAY, calendar)
        assert panel.fingerprint() == whole.fingerprint()
        assert panel.zone == "Europe/Berlin"
        np.testing.assert_array_equal(panel.timestamps, whole.timestamps)
    with pytest.raises(DataError, match=r"data\.timezone=Europe/Berlin"):
        read_panel(source, DAY)


def test_padding_and_choosing_series_keep_the_grid():
    _, begins = of_days("Europe/London", (2024, 3, 20), 60)
    panel = Panel.from_frame(frame_of(begins), DAY, Calendar(("Europe/London",)))
    padded = panel.padded(30, 20)
    np.testing.assert_array_equal(padded.timestamps, panel.seconds(np.arange(-30, 80)))
    assert padded.rows([0]).timestamps.tolist() == padded.timestamps.tolist()


# Zones of several workloads.


def two_workloads(zones, width, step=60, days=10):
    begin = int(datetime(2024, 3, 20, tzinfo=UTC).timestamp())
    seconds = np.arange(begin, begin + days * 86_400, step)
    rows = pd.concat([frame_of(seconds, workload=name) for name in ("a", "b")])
    return Panel.from_frame(rows, Frequency.parse(width), Calendar.of(zones))


@pytest.mark.parametrize(
    ("zones", "width", "zone"),
    [
        ({"a": "Europe/Berlin", "b": "Europe/Paris"}, "1D", "Europe/Berlin"),
        ({"a": "Europe/Berlin", "b": "America/New_York"}, "1H", "UTC"),
        ({"a": "Asia/Kolkata", "b": "Australia/Darwin"}, "1H", "Asia/Kolkata"),
        ({"a": "Asia/Kolkata", "b": "Asia/Kolkata", "c": "Europe/Berlin"}, "1H", "Asia/Kolkata"),
    ],
)
def test_zones_with_the_same_bins_share_them(zones, width, zone, caplog):
    panel = two_workloads(zones, width)
    assert Grid(panel.frequency.step, panel.zone).seconds(0) == Grid(panel.frequency.step, zone).seconds(0)
    assert (panel.zone == "UTC") == (zone == "UTC")
    assert not caplog.records


@pytest.mark.parametrize(
    ("zones", "width"),
    [
        ({"a": "Europe/Berlin", "b": "America/New_York"}, "1D"),
        ({"a": "Europe/Berlin"}, "1D"),  # b is in UTC
        ({"a": "Europe/Berlin", "b": "Asia/Kolkata"}, "1H"),
    ],
)
def test_zones_with_other_bins_have_those_of_utc_and_are_named(zones, width, caplog):
    assert two_workloads(zones, width).zone == "UTC"
    [record] = caplog.records
    assert "Europe/Berlin" in record.getMessage()
    assert "apart" in record.getMessage()


# Local days in windows and naive forecasts.


def test_the_calendar_of_a_local_day_is_that_of_its_date():
    _, begins = of_days("Europe/Berlin", (2024, 1, 1), 200)
    panel = Panel.from_frame(frame_of(begins), DAY, Calendar(("Europe/Berlin",)))
    calendar = Calendar(("Europe/Berlin",), holidays="DE")
    look = Lookback(recent=4, seasons=3, before=1, after=1)
    windows = WindowDataset(panel, Window(DAY, 7, 1), "zero", lookback=look, calendar=calendar)
    first = datetime(2024, 1, 1, tzinfo=UTC)
    origins = range(30, 199)
    past = windows[torch.tensor(list(origins))].past
    assert past is not None
    for moment, recent, seasons, origin in zip(
        past.moment.tolist(), past.recent.tolist(), past.seasons.tolist(), origins, strict=True
    ):
        date = (first + timedelta(origin)).date()
        off = date.weekday() >= 5 or (date.month, date.day) in {(3, 29), (4, 1), (5, 1), (5, 9), (5, 20)}
        assert moment == [0.0, date.weekday(), float(off)]
        assert recent == [origin - 3.0, origin - 2.0, origin - 1.0, float(origin)]
        assert [week[1] for week in seasons] == [origin + 1.0 - 7 * back for back in (1, 2, 3)]


@pytest.mark.parametrize("width", ["6H", "1D"])
def test_naive_forecasts_repeat_local_time_over_a_change_of_clocks(width):
    zone, frequency = "Europe/Berlin", Frequency.parse(width)
    begin = int(datetime(2024, 2, 29, 23, tzinfo=UTC).timestamp())
    seconds = np.arange(begin, begin + 60 * 86_400, 1800)
    local = [datetime.fromtimestamp(int(second), ZoneInfo(zone)) for second in seconds]
    # Traffic that depends on the local time of the week only.
    value = [100.0 * moment.weekday() + moment.hour // 6 for moment in local]
    if width == "1D":
        value = [100.0 * moment.weekday() for moment in local]
    panel = Panel.from_frame(frame_of(seconds, value), frequency, Calendar((zone,)))
    cells = np.arange(35 * frequency.day, panel.num_bins - 3)
    expected = panel.values[0, cells[:, None] + np.arange(3)]
    np.testing.assert_array_equal(seasonal_naive(panel, cells, 3, frequency.week), expected)
    np.testing.assert_allclose(time_of_week_mean(panel, cells, 3, 35 * frequency.day), expected)


# Rows off the grid.


@pytest.mark.parametrize(
    ("zone", "frequency", "seen"),
    [
        ("Europe/Berlin", DAY, "rows come at 22:00 and 23:00 UTC, but bins of 1D begin at 00:00 UTC"),
        ("Europe/London", DAY, "rows come at 00:00 and 23:00 UTC, but bins of 1D begin at 00:00 UTC"),
        ("America/New_York", DAY, "rows come at 04:00 and 05:00 UTC"),
        ("Asia/Kolkata", DAY, "rows come at 18:30 UTC"),
        ("Asia/Kathmandu", DAY, "rows come at 18:15 UTC"),
        ("Asia/Kolkata", HOUR, "rows come 00:30 after whole 1H in UTC"),
        ("Asia/Kathmandu", HOUR, "rows come 00:15 after whole 1H in UTC"),
        ("Europe/Berlin", Frequency.parse("12H"), "rows come 10:00 and 11:00 after whole 12H in UTC"),
    ],
)
def test_rows_of_another_zone_are_refused_with_a_zone_that_fits(zone, frequency, seen):
    grid = Grid(frequency.step, zone)
    first = grid.bin_at(1_680_000_000)
    rows = frame_of(grid.seconds(np.arange(first, first + 300 * frequency.day)))
    with pytest.raises(DataError) as caught:
        Panel.from_frame(rows, frequency)
    said = str(caught.value)
    assert said.startswith(f"shop/web m: {seen}")
    assert "model=auto" in said
    named = said.partition("data.timezone=")[2].split()[0]
    assert Panel.from_frame(rows, frequency, Calendar((named,))).observed.all()
    assert Panel.from_frame(rows, frequency, Calendar((zone,))).observed.all()
    [finding] = off_grid(rows, frequency)
    assert said == f"shop/web m: {finding}"
    assert not off_grid(rows, frequency, Calendar((zone,)))


def test_a_wrong_zone_is_refused_too():
    _, begins = of_days("Europe/Berlin", (2023, 2, 1), 300)
    with pytest.raises(DataError, match="bins of 1D in Europe/London begin at 00:00 and 23:00 UTC"):
        Panel.from_frame(frame_of(begins), DAY, Calendar(("Europe/London",)))


@pytest.mark.parametrize(
    ("frequency", "zone"),
    [("1D", "Europe/Berlin"), ("1D", "Asia/Kolkata"), ("1H", "Asia/Kolkata"), ("30min", "Asia/Kathmandu")],
)
def test_bins_of_utc_for_a_local_grid_are_refused_without_another_zone(frequency, zone):
    frequency = Frequency.parse(frequency)
    rows = frame_of(MIDNIGHT + frequency.step * np.arange(400))
    with pytest.raises(DataError, match="begin at other moments; leave out data") as caught:
        Panel.from_frame(rows, frequency, Calendar((zone,)))
    assert zone in str(caught.value)
    assert Panel.from_frame(rows, frequency).observed.all()


def test_one_series_of_another_zone_among_many_is_named():
    _, begins = of_days("Europe/Berlin", (2023, 2, 1), 300)
    good = [frame_of(86_400 * np.arange(19_400, 19_700), workload=name) for name in "abcdefghij"]
    with pytest.raises(DataError, match=r"^late m: rows come at 22:00 and 23:00"):
        Panel.from_frame(pd.concat([*good, frame_of(begins, workload="late")]), DAY)


MIDNIGHT = 19_400 * 86_400


@pytest.mark.parametrize(
    ("seconds", "frequency"),
    [
        (MIDNIGHT + 86_400 * np.arange(100), DAY),
        (MIDNIGHT + 1800 + 900 * np.arange(5000), HOUR),  # finer than the bins
        (MIDNIGHT + 420 + 600 * np.arange(500), Frequency.parse("10min")),  # no zone begins there
        (MIDNIGHT + 1800, HOUR),  # a single row
        (MIDNIGHT + 3600 * np.arange(300) + np.r_[np.zeros(297), 900, 1800, 900], HOUR),  # a few late rows
    ],
)
def test_other_rows_are_not_refused(seconds, frequency, caplog):
    seconds = np.atleast_1d(seconds)
    assert Panel.from_frame(frame_of(seconds), frequency).zone == "UTC"
    assert not caplog.records
    assert not off_grid(frame_of(seconds), frequency)


def test_any_other_constant_time_is_one_warning(caplog):
    rows = [frame_of(MIDNIGHT + 47_220 + 86_400 * np.arange(50), workload=name) for name in "ab"]
    Panel.from_frame(pd.concat(rows), DAY)
    [record] = caplog.records
    assert record.getMessage().startswith("a m, b m: rows come 13:07 after bins of 1D begin")
    assert [f"a m, b m: {finding}" for finding in off_grid(pd.concat(rows), DAY)] == 2 * [record.getMessage()]


@pytest.mark.parametrize("stray", [-(10**17), 10**17])
def test_a_stray_moment_thousands_of_years_away(stray):
    _, begins = of_days("Europe/Berlin", (2023, 2, 1), 300)
    rows = frame_of(np.sort(np.r_[begins, stray]))
    grid = Grid(86_400, "Europe/Berlin")
    assert (grid.seconds(grid.bins(begins)) == begins).all()
    assert np.isin(grid.bins(begins), grid.bins(rows["timestamp"].to_numpy())).all()
    off_grid(rows, DAY, Calendar(("Europe/Berlin",)))
    with pytest.raises(DataError, match="is a timestamp wrong"):
        Panel.from_frame(rows, DAY, Calendar(("Europe/Berlin",)))
