"""FrameSource: which frames are accepted, and the errors for all others."""

import numpy as np
import pandas as pd
import pytest

from kforecast.data.panel import Panel
from kforecast.data.reading import read_panel
from kforecast.errors import DataError
from kforecast.metrics.frame import FrameSource
from kforecast.window import Frequency

START = 1_704_067_200
HOUR = Frequency.parse("1H")


def rows(**columns: object) -> pd.DataFrame:
    """Three hours of a single series."""
    content = {"timestamp": START + 3600 * np.arange(3), "value": [1.0, 2.0, np.nan]}
    return pd.DataFrame(content | {"workload": "shop/cart", "metric": "qps"} | columns)


def panel(frame: pd.DataFrame) -> tuple[object, ...]:
    found = read_panel(FrameSource(frame), HOUR)
    return found.series, found.start, found.observed.tolist(), np.nan_to_num(found.values).tolist()


@pytest.mark.parametrize(
    "same",
    [
        rows(timestamp=pd.to_datetime(START + 3600 * np.arange(3), unit="s")),
        rows(timestamp=pd.to_datetime(START + 3600 * np.arange(3), unit="s", utc=True).as_unit("ns")),
        rows(
            timestamp=pd.to_datetime(START + 3600 * np.arange(3), unit="s", utc=True).tz_convert("Asia/Tokyo")
        ),
        rows(timestamp=pd.array(START + 3600 * np.arange(3), dtype="Int64")),
        rows(timestamp=(START + 3600 * np.arange(3)).astype(str)),
        rows(value=pd.array([1, 2, None], dtype="Int64")),
        rows(value=np.array([1, 2, None], dtype=object)),
        rows(value=["1.0", "2", None]),
        rows(workload=pd.Categorical(["shop/cart"] * 3, categories=["shop/cart", "other"])),
        rows(extra=1).sample(frac=1, random_state=0),
        rows()[["metric", "value", "timestamp", "workload"]].set_index(pd.Index([7, 7, 7])),
    ],
    ids=range(11),
)
def test_many_frames_say_the_same(same: pd.DataFrame) -> None:
    kept = same.copy()
    assert panel(same) == panel(rows())
    pd.testing.assert_frame_equal(same, kept)


def test_what_it_makes_of_a_frame_is_what_the_panel_makes_of_it() -> None:
    found = Panel.from_frame(rows(), HOUR)
    assert panel(rows()) == (
        *(found.series, found.start, found.observed.tolist()),
        np.nan_to_num(found.values).tolist(),
    )


def test_numbers_as_names_are_names() -> None:
    assert read_panel(FrameSource(rows(metric=7)), HOUR).series == (("shop/cart", "7"),)


@pytest.mark.parametrize(
    "frame, words",
    [
        ([1, 2], "the frame is of the type list; a pandas DataFrame with the columns timestamp, value"),
        (rows().drop(columns=["value", "metric"]), "the frame has no column value, metric, but timestamp"),
        (pd.DataFrame(), "the frame has no column timestamp, value, workload, metric, but no columns"),
        (pd.concat([rows(), rows()["value"]], axis=1), "the frame has more than one column value"),
        (rows().head(0), "the frame: no rows"),
        (rows(value=["1", "two", "3"]), "the frame: value in row 1 is 'two', not a number"),
        (
            rows(timestamp=["2024-01-01"] * 3),
            "the frame: timestamp in row 0 is 2024-01-01 00:00:00, without a time zone; give datetimes with",
        ),
        (rows(timestamp=1000 * (START + 3600 * np.arange(3))), "look like milliseconds; divide by 1000"),
        (rows(timestamp=pd.to_datetime([START, None, START], unit="s")), "timestamp is missing in 1 rows"),
        (rows(value=[1.0, np.inf, 2.0]), "value is infinite in 1 rows, first in row 1"),
        (rows(workload=["a", None, "a"]), "workload is empty in 1 rows, first in row 1"),
    ],
    ids=range(11),
)
def test_what_is_no_history_is_said(frame: pd.DataFrame, words: str) -> None:
    with pytest.raises(DataError) as raised:
        FrameSource(frame).fetch()
    assert words in str(raised.value)
