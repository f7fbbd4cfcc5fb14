"""Parsing of frequencies and durations."""

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
}
UNITS = {"min": 60, "H": 3600, "h": 3600, "D": 86_400, "d": 86_400}


@pytest.mark.parametrize("text, name", SPELLINGS.items())
def test_a_frequency_is_read_in_every_spelling(text, name):
    assert Frequency.parse(text).name == name


@pytest.mark.parametrize(
    "text", ["", "5min", "1MIN", "Min", "2H", " 1H", "1H\n", "1", "hour", "1m", "10 min", "W"]
)
def test_an_unknown_frequency_is_refused_with_the_known_ones(text):
    with pytest.raises(ValueError, match="unknown frequency") as caught:
        Frequency.parse(text)
    assert repr(text) in str(caught.value)
    for name in ("1min", "10min", "1H", "1D"):
        assert name in str(caught.value)


@given(st.text(max_size=6))
@settings(deadline=None, max_examples=100)
def test_any_text_is_a_frequency_or_a_value_error(text):
    if text in SPELLINGS:
        assert Frequency.parse(text).name == SPELLINGS[text]
    else:
        with pytest.raises(ValueError, match="unknown frequency"):
            Frequency.parse(text)


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
