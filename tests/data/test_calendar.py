"""Calendar fields, compared with pandas; local time and holidays, compared with lookups of single dates."""

import json
import pickle
import sys
from datetime import datetime
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.data.calendar import Calendar, calendar_fields
from kforecast.window import CALENDAR_TABLE_SIZES, FREQUENCIES, Frequency

SECONDS = st.lists(st.integers(0, 4_102_444_800), min_size=1, max_size=50)  # up to the year 2100


@given(SECONDS, st.sampled_from(sorted(FREQUENCIES)))
@settings(deadline=None, max_examples=100)
def test_fields_are_those_of_pandas_in_utc(seconds, name):
    frequency = Frequency.parse(name)
    index = pd.to_datetime(np.array(seconds), unit="s")
    expected = {
        "minute": index.minute,
        "hour": index.hour,
        "day_of_week": index.day_of_week,
        "day_of_month": index.day,
    }
    fields = calendar_fields(np.array(seconds), frequency)
    assert fields.dtype == np.int64
    assert fields.shape == (len(seconds), len(frequency.calendar_fields))
    for column, field in enumerate(frequency.calendar_fields):
        np.testing.assert_array_equal(fields[:, column], expected[field])


@pytest.mark.parametrize("name", FREQUENCIES)
def test_every_field_fits_its_embedding_table(name):
    frequency = Frequency.parse(name)
    fields = calendar_fields(np.arange(1_700_000_000, 1_700_000_000 + 400 * 86_400, 977), frequency)
    sizes = [CALENDAR_TABLE_SIZES[field] for field in frequency.calendar_fields]
    assert (fields >= 0).all()
    assert (fields < sizes).all()


def test_a_known_moment():
    leap_day = int(pd.Timestamp("2024-02-29 23:50").timestamp())  # a Thursday
    assert calendar_fields(np.array([leap_day]), Frequency.parse("10min")).tolist() == [[50, 23, 3, 29]]
    assert calendar_fields(np.array([leap_day]), Frequency.parse("1D")).tolist() == [[3, 29]]
    monday = int(pd.Timestamp("2024-01-01").timestamp())
    assert calendar_fields(np.array([monday]), Frequency.parse("1H")).tolist() == [[0, 0, 1]]


GERMAN = {"timezone": "Europe/Berlin", "holidays": "DE"}
ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/St_Johns",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
)
INSTANTS = st.lists(st.integers(788_918_400, 2_082_758_400), min_size=1, max_size=30)  # 1995 to 2035


@given(st.lists(st.sampled_from(ZONES), min_size=1, max_size=3, unique=True), INSTANTS)
@settings(deadline=None, max_examples=80)
def test_local_time_is_what_clocks_show(zones, seconds):
    local = Calendar(tuple(zones)).local(np.array(seconds))
    assert [part.dtype for part in local] == [np.int32, np.int32, np.int8, np.bool_]
    for number, zone in enumerate(zones):
        shown = [datetime.fromtimestamp(second, ZoneInfo(zone)) for second in seconds]
        assert local.offset[number].tolist() == [int(t.utcoffset().total_seconds()) for t in shown]
        assert local.second_of_day[number].tolist() == [
            t.hour * 3600 + t.minute * 60 + t.second for t in shown
        ]
        assert local.day_of_week[number].tolist() == [t.weekday() for t in shown]
    assert not local.holiday.any()


def test_of_nothing_there_is_no_local_time():
    for part in Calendar(ZONES).local(np.array([], dtype=np.int64)):
        assert part.shape == (len(ZONES), 0)


def test_an_hour_left_out_and_one_that_comes_twice():
    spring, autumn = (int(pd.Timestamp(day, tz="UTC").timestamp()) for day in ("2024-03-31", "2024-10-27"))
    berlin = Calendar.of("Europe/Berlin")
    hours = np.arange(4) * 3600
    assert (berlin.local(spring + hours).second_of_day // 3600).tolist() == [[1, 3, 4, 5]]
    assert (berlin.local(autumn + hours).second_of_day // 3600).tolist() == [[2, 2, 3, 4]]


def test_every_workload_is_in_its_zone():
    series = [("shop/a", "qps"), ("shop/b", "cpu"), ("shop/b", "qps"), ("shop/c", "qps")]
    everywhere = Calendar.of("Asia/Tokyo")
    assert everywhere.zones == ("Asia/Tokyo",)
    assert everywhere.zone_numbers(series).tolist() == [0, 0, 0, 0]
    some = Calendar.of({"shop/b": "Europe/Berlin", "shop/c": "America/New_York"})
    assert some.zones == ("UTC", "America/New_York", "Europe/Berlin")
    assert some.zone_numbers(series).tolist() == [0, 2, 2, 1]
    assert some.zone_numbers(series).dtype == np.int64
    mostly = Calendar.of({"default": "Europe/Berlin", "shop/b": "UTC", "shop/c": "Europe/Berlin"})
    assert mostly.zones == ("Europe/Berlin", "UTC")
    assert mostly.zone_numbers(series).tolist() == [0, 1, 1, 0]
    assert Calendar.of({}) == Calendar() == Calendar.of("UTC")
    assert some.zone_numbers([]).shape == (0,)


@pytest.mark.parametrize(
    "timezone", ["UTC", "Asia/Tokyo", {"b": "Asia/Tokyo", "a": "UTC", "default": "Asia/Tokyo"}]
)
def test_a_calendar_survives_its_file(timezone):
    calendar = Calendar.of(timezone)
    text = json.dumps(calendar.as_dict(), sort_keys=True)
    assert Calendar.from_dict(json.loads(text)) == calendar
    assert pickle.loads(pickle.dumps(calendar)) == calendar


@pytest.mark.parametrize(
    "content",
    [
        *(None, [], "UTC", {}, {"timezone": "UTC"}),
        {"timezone": "UTC", "holidays": None, "moon": "full"},
        *(
            {"timezone": zone, "holidays": None}
            for zone in (None, 3, [], ["UTC"], {"a": []}, {"a": "Mars"}, "")
        ),
        *(
            {"timezone": "UTC", "holidays": code}
            for code in (False, 3, [], {}, "", "de", "Germany", "DE-", "D")
        ),
    ],
    ids=str,
)
def test_a_file_that_holds_no_calendar_is_refused(content):
    with pytest.raises(ValueError, match=r"time zone|holidays"):
        Calendar.from_dict(content)


def test_a_zone_that_is_not_known_is_said_with_its_workload():
    with pytest.raises(ValueError, match=r"^shop/a: 'Europe/Belin' .* did you mean Europe/Berlin\?$"):
        Calendar.of({"shop/a": "Europe/Belin"})
    with pytest.raises(ValueError, match="7 is not the name of a workload; write it in quotes"):
        Calendar.of({7: "UTC"})


@pytest.mark.parametrize("make", [lambda: Calendar.of("UTC", "DE"), lambda: Calendar.from_dict(GERMAN)])
def test_without_the_package_the_extra_is_named(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "holidays", None)
    with pytest.raises(
        ValueError, match=r"holidays \(DE\) need a package: pip install 'kforecast\[holidays\]'"
    ):
        make()


@pytest.mark.parametrize("country", ["DE", "DE-BY", "US", "GB", "CN", "IL", "NO"])
def test_holidays_are_those_of_the_country_on_local_dates(country):
    package = pytest.importorskip("holidays")
    code, _, part = country.partition("-")
    expected = package.country_holidays(code, subdiv=part or None)
    seconds = np.arange(788_918_400, 2_082_758_400, 86_400 // 2 + 977)
    zones = ("UTC", "Pacific/Auckland", "America/New_York")
    local = Calendar(zones, holidays=country).local(seconds)
    assert 0 < local.holiday.mean() < 0.2
    for number, zone in enumerate(zones):
        clock = ZoneInfo(zone)
        dates = [datetime.fromtimestamp(second, clock).date() for second in seconds.tolist()]
        assert local.holiday[number].tolist() == [date in expected for date in dates]


def test_a_holiday_begins_at_local_midnight():
    pytest.importorskip("holidays")
    calendar = Calendar.of({"default": "Europe/Berlin", "shop/us": "America/New_York"}, "DE-BY")
    epiphany = int(pd.Timestamp("2026-01-06", tz="Europe/Berlin").timestamp())
    hours = epiphany + np.array([-1, 0, 86_399, 86_400])
    assert calendar.local(hours).holiday.tolist() == [[False, True, True, False], [False, False, True, True]]
    assert not Calendar.of("Europe/Berlin", "DE").local(hours).holiday.any()


@pytest.mark.parametrize(
    "country, words",
    [
        ("XX", "'XX' is not a country"),
        ("DE-XX", "DE has no part 'XX'; write DE or one of BB, BE"),
        ("MC-1", "write MC"),
    ],
)
def test_a_country_that_is_not_known_is_refused(country, words):
    pytest.importorskip("holidays")
    with pytest.raises(ValueError, match=r"^'") as refusal:
        Calendar.of("UTC", country)
    assert words in str(refusal.value)


def test_of_years_whose_holidays_nobody_knows_there_are_none():
    pytest.importorskip("holidays")
    long_ago = int(pd.Timestamp("1700-01-01").timestamp()) + np.arange(366) * 86_400
    assert not Calendar.of("UTC", "DE").local(long_ago).holiday.any()
