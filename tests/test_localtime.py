"""Offsets from UTC, compared with Python's conversion of single instants."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, available_timezones

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.localtime import check_time_zone, utc_offsets

# Offsets of 45 minutes, half an hour of summer time, summer time interrupted in Ramadan, changes at one
# minute past midnight, a skipped day, abolished summer time, two changes in a week.
PECULIAR = (
    *("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Asia/Kolkata", "Pacific/Chatham"),
    *("Australia/Lord_Howe", "Africa/Casablanca", "America/St_Johns", "Asia/Gaza", "Pacific/Apia"),
    *("Asia/Pyongyang", "America/Sao_Paulo", "America/Boa_Vista", "Antarctica/Troll", "Africa/Cairo"),
)
BEGIN, END = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (1995, 2036))


def one_by_one(zone, timestamps):
    clock = ZoneInfo(zone)
    return [int(datetime.fromtimestamp(t, clock).utcoffset().total_seconds()) for t in timestamps]


def days_of_change(zone):
    """The UTC midnights of the days on which a zone's clocks change."""
    midnights = np.arange(BEGIN, END, 86_400)
    return midnights[:-1][np.diff(one_by_one(zone, midnights)) != 0].tolist()


@given(
    st.sampled_from([*PECULIAR, *sorted(available_timezones() - {"Factory", "localtime"})]),
    st.lists(st.integers(BEGIN, END), min_size=1, max_size=30),
)
@settings(deadline=None, max_examples=150)
def test_offsets_are_those_of_the_clock(zone, timestamps):
    offsets = utc_offsets(zone, np.array(timestamps))
    assert offsets.dtype == np.int32
    assert offsets.tolist() == one_by_one(zone, timestamps)


@pytest.mark.parametrize("zone", PECULIAR)
def test_on_days_of_change_offsets_are_those_of_the_clock(zone):
    minutes = np.array(
        [[midnight + 60 * minute for minute in range(24 * 60)] for midnight in days_of_change(zone)]
    )
    timestamps = np.concatenate([minutes.ravel() - 1, minutes.ravel()]).astype(np.int64)
    assert utc_offsets(zone, timestamps).tolist() == one_by_one(zone, timestamps.tolist())


def test_a_clock_changes_at_the_second():
    at = int(datetime(2010, 3, 14, 3, 31, tzinfo=UTC).timestamp())  # 00:01 in Newfoundland
    assert utc_offsets("America/St_Johns", np.array([at - 1, at])).tolist() == [-12_600, -9_000]


def test_order_does_not_matter_and_none_is_none():
    timestamps = np.random.default_rng(0).integers(BEGIN, END, 1000)
    order = np.argsort(timestamps)
    offsets = utc_offsets("Europe/Berlin", timestamps)
    assert offsets[order].tolist() == utc_offsets("Europe/Berlin", timestamps[order]).tolist()
    assert utc_offsets("Europe/Berlin", timestamps[:0]).shape == (0,)


@pytest.mark.parametrize("zone", PECULIAR)
def test_a_name_is_handed_back(zone):
    assert check_time_zone(zone) == zone


@pytest.mark.parametrize(
    "name, words",
    [
        ("Europe/Belin", "did you mean Europe/Berlin?"),
        ("europe/berlin ", "'europe/berlin '"),
        *(
            (name, "IANA name")
            for name in ("", "../etc/passwd", "/etc/passwd", "a\0b", "x" * 500, 7, None, [])
        ),
        *((name, "is not a time zone") for name in ("Europe", "localtime", "right/Europe/Berlin", "Factory")),
    ],
)
def test_what_is_no_zone_is_refused(name, words):
    with pytest.raises(ValueError, match=r"is not a time zone") as refusal:
        check_time_zone(name)
    assert words in str(refusal.value)


def test_a_machine_without_a_database_of_its_own_knows_zones():
    script = "import numpy, kforecast.localtime as l; print(l.utc_offsets('Europe/Berlin', numpy.array([0])))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONTZPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "[3600]", done.stderr
