"""Calendar fields against pandas."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.data.calendar import calendar_fields
from kforecast.window import CALENDAR_TABLE_SIZES, FREQUENCIES, Frequency

SECONDS = st.lists(st.integers(0, 4_102_444_800), min_size=1, max_size=50)  # to the year 2100


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
