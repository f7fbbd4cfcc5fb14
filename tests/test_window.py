"""Parsing of frequencies and durations."""

import re
from contextlib import suppress

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kforecast.window import CALENDAR_TABLE_SIZES, FREQUENCIES, Frequency, Window, parse_duration

SPELLINGS = {
    "1min": "1min",
    "min": "1min",
    "10min": "10min",
    "1H": "1H",
    "H": "1H",
    "1h": "1H",
    "h": "1H",
    "1D": "1D",
    "D": "1D",
    "1d": "1D",
    "d": "1D",
    "30s": "30s",
    "60s": "1min",
    "90s": "90s",
    "5min": "5min",
    "15min": "15min",
    "60min": "1H",
    "90min": "90min",
    "2H": "2H",
    "12h": "12H",
    "24H": "1D",
    "86400s": "1D",
}
UNITS = {"min": 60, "H": 3600, "h": 3600, "D": 86_400, "d": 86_400}


@pytest.mark.parametrize("text, name", SPELLINGS.items())
def test_a_frequency_is_read_in_every_spelling(text, name):
    assert Frequency.parse(text).name == name


@pytest.mark.parametrize(
    "text", ["", "5m", "1MIN", "Min", "02H", " 1H", "1H\n", "1", "hour", "1m", "10 min", "W", "1.5H", "-1H"]
)
def test_an_unknown_frequency_is_refused_with_examples(text):
    with pytest.raises(ValueError, match="unknown frequency") as caught:
        Frequency.parse(text)
    assert repr(text) in str(caught.value)
    for name in ("30s", "5min", "1H", "1D"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    "text, remedy",
    [
        ("7min", "bins of '7min' do not divide a day; use 6min or 8min"),
        ("55s", "bins of '55s' do not divide a day; use 54s or 1min"),
        ("5H", "bins of '5H' do not divide a day; use 4H or 6H"),
        ("2D", "bins of '2D' do not divide a day; use 1D"),
        ("36H", "bins of '36H' do not divide a day; use 1D"),
        ("999999999D", "do not divide a day; use 1D"),
        ("5s", "bins of '5s' are finer than 10 s; use 10s or 1min"),
        ("s", "bins of 's' are finer than 10 s"),
    ],
)
def test_a_width_that_makes_no_grid_is_refused_with_its_neighbours(text, remedy):
    with pytest.raises(ValueError, match=re.escape(remedy)):
        Frequency.parse(text)


@given(st.integers(1, 200_000), st.sampled_from([("s", 1), ("min", 60), ("H", 3600), ("D", 86_400)]))
@settings(deadline=None, max_examples=200)
def test_the_widths_that_divide_a_day_and_no_others(number, unit):
    name, seconds = unit
    step = number * seconds
    if step < 10 or 86_400 % step:
        with pytest.raises(ValueError, match="; use "):
            Frequency.parse(f"{number}{name}")
        return
    frequency = Frequency.parse(f"{number}{name}")
    assert frequency.step == step
    assert frequency.day * step == 86_400
    assert Frequency.parse(frequency.name) == frequency
    shorter = [f"{step // size}{unit}" for unit, size in UNITS.items() if step % size == 0]
    assert all(len(frequency.name) <= len(spelling) for spelling in shorter)


@given(st.text(max_size=6))
@settings(deadline=None, max_examples=100)
def test_any_text_is_a_frequency_or_a_value_error(text):
    known = re.fullmatch("([1-9][0-9]*)?(s|min|[HhDd])", text)
    if known is None:
        with pytest.raises(ValueError, match="unknown frequency"):
            Frequency.parse(text)
    else:
        with suppress(ValueError):
            assert Frequency.parse(text).name in (text, SPELLINGS.get(text))


@pytest.mark.parametrize(
    "name, step, fields, day, week, season",
    [
        ("1min", 60, ("minute", "hour", "day_of_week"), 1440, 10_080, 1440),
        ("10min", 600, ("minute", "hour", "day_of_week", "day_of_month"), 144, 1008, 144),
        ("1H", 3600, ("hour", "day_of_week", "day_of_month"), 24, 168, 24),
        ("1D", 86_400, ("day_of_week", "day_of_month"), 1, 7, 7),
    ],
)
def test_the_facts_of_each_frequency(name, step, fields, day, week, season):
    frequency = Frequency.parse(name)
    assert (frequency.name, frequency.step, frequency.calendar_fields) == (name, step, fields)
    assert (frequency.day, frequency.week, frequency.season) == (day, week, season)
    assert all(field in CALENDAR_TABLE_SIZES for field in fields)


def test_a_season_is_a_day_or_a_week():
    spans = {name: frequency.season * frequency.step for name, frequency in FREQUENCIES.items()}
    assert spans == {"1min": 86_400, "10min": 86_400, "1H": 86_400, "1D": 7 * 86_400}


def test_days_and_weeks_are_whole_bins():
    for frequency in FREQUENCIES.values():
        assert frequency.day * frequency.step == 86_400
        assert frequency.week * frequency.step == 7 * 86_400


def test_a_window_knows_its_length_and_says_its_shape():
    window = Window(Frequency.parse("1h"), context_length=7, prediction_length=3)
    assert window.length == 10
    assert str(window) == "context 7 + horizon 3 at 1H"


@given(st.integers(1, 20_000), st.sampled_from(sorted(UNITS)))
@settings(deadline=None, max_examples=100)
def test_a_duration_is_its_number_times_its_unit(number, unit):
    assert parse_duration(f"{number}{unit}") == number * UNITS[unit]


@pytest.mark.parametrize("text", ["20001D", "999999999min"])
def test_a_duration_reaches_back_to_1970_at_most(text):
    with pytest.raises(ValueError, match="too long; at most 20000D"):
        parse_duration(text)


def _is_duration(text: str) -> bool:
    unit = next((unit for unit in ("min", "H", "h", "D", "d") if text.endswith(unit)), None)
    if unit is None:
        return False
    digits = text[: -len(unit)]
    return 1 <= len(digits) <= 9 and set(digits) <= set("0123456789") and digits[0] != "0"


@given(
    st.text(max_size=12) | st.from_regex(r"[+-]?\d{0,11}[. ]?\d?(min|Min|H|h|D|d|s|m|W|)\s?", fullmatch=True)
)
@settings(deadline=None, max_examples=300)
def test_any_other_text_is_a_value_error(text):
    if _is_duration(text):
        assume(len(text) <= 5)  # longer ones may exceed the range of dates
        assert parse_duration(text) > 0
    else:
        with pytest.raises(ValueError, match="is not a duration") as caught:
            parse_duration(text)
        assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "48", "H", "0H", "-1H", "1.5H", "48 H", " 48H", "48H\n", "2W", "30m", "1e3min", "1٣H", "²D"]
)
def test_near_misses_of_a_duration_are_refused(text):
    with pytest.raises(ValueError, match="write a positive integer and min, H or D"):
        parse_duration(text)
