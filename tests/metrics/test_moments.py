"""Representations of time: the same history in any of them gives the same panel, or is refused by name."""

import datetime
import decimal
from collections.abc import Callable
from itertools import product
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.data.panel import Panel
from kforecast.data.reading import read_panel
from kforecast.errors import ConfigError, DataError
from kforecast.metrics.csv import CsvSource
from kforecast.metrics.frame import FrameSource
from kforecast.metrics.prometheus import PrometheusSource, series_of
from kforecast.metrics.units import guess_unit
from kforecast.window import Frequency

TEN_MINUTES = Frequency.parse("10min")
START = 1_729_900_800  # 2024-10-26 00:00 UTC, a day before clocks change in Berlin
SECONDS = START + 600 * np.arange(300)


def history(timestamp: object = SECONDS, **columns: object) -> pd.DataFrame:
    """One series with 300 rows; its timestamps as given."""
    content = {"timestamp": timestamp, "value": np.arange(300) % 7 + 1.5, "workload": "shop/web"}
    return pd.DataFrame(content | {"metric": "qps"} | columns)


def two_series(timestamp: pd.Series) -> pd.DataFrame:
    """The rows of two series, interleaved."""
    one = history(timestamp)
    both = pd.concat([one, one.assign(workload="shop/cart", value=one["value"] + 10)])
    return both.sort_index(kind="stable")


def same(found: Panel, frame: pd.DataFrame) -> bool:
    return found.fingerprint() == Panel.from_frame(frame, TEN_MINUTES).fingerprint()


def refusal(read: Callable[[], object]) -> str:
    with pytest.raises(DataError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    return message


UTC_TIMES = pd.Series(pd.to_datetime(SECONDS, unit="s", utc=True))
NAIVE = UTC_TIMES.dt.tz_localize(None)
BERLIN = UTC_TIMES.dt.tz_convert("Europe/Berlin")
LOCAL = BERLIN.dt.tz_localize(None)

TYPES = {
    **{f"datetime64[{unit}]": NAIVE.astype(f"datetime64[{unit}]") for unit in ("s", "ms", "us", "ns")},
    **{f"datetime64[{unit}, UTC]": UTC_TIMES.dt.as_unit(unit) for unit in ("s", "ns")},
    "datetime64 of Berlin": BERLIN,
    "objects: Timestamp": NAIVE.astype(object),
    "objects: datetime": pd.Series([moment.to_pydatetime() for moment in UTC_TIMES], dtype=object),
    "objects: datetime, naive": pd.Series([moment.to_pydatetime() for moment in NAIVE], dtype=object),
    "objects: several zones": pd.Series(
        [
            moment.tz_convert(zone).to_pydatetime()
            for moment, zone in zip(UTC_TIMES, ["UTC", "Asia/Tokyo"] * 150, strict=True)
        ],
        dtype=object,
    ),
    "objects: numpy": pd.Series(list(NAIVE.to_numpy()), dtype=object),
    "objects: int": pd.Series(SECONDS.tolist(), dtype=object),
    "objects: Decimal": pd.Series([decimal.Decimal(int(second)) for second in SECONDS], dtype=object),
    "objects: Period": pd.Series(pd.PeriodIndex(NAIVE, freq="min").astype(object), dtype=object),
    "period": pd.Series(pd.PeriodIndex(NAIVE, freq="10min")),
    "category of datetimes": UTC_TIMES.astype("category"),
    "int64": pd.Series(SECONDS),
    "uint64": pd.Series(SECONDS.astype(np.uint64)),
    "uint32": pd.Series(SECONDS.astype(np.uint32)),
    "float64": pd.Series(SECONDS.astype(float)),
    "Int64": pd.Series(SECONDS, dtype="Int64"),
    "Float64": pd.Series(SECONDS, dtype="Float64"),
    "category of numbers": pd.Series(SECONDS).astype("category"),
    "text: numbers": pd.Series(SECONDS.astype(str)),
    "text: Z": NAIVE.dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
    "text: space, offset": BERLIN.dt.strftime("%Y-%m-%d %H:%M:%S%z"),
    "text: offset with colon": pd.Series([moment.isoformat() for moment in BERLIN]),
    "text: fractions": NAIVE.dt.strftime("%Y-%m-%dT%H:%M:%S.987654321Z"),
    "text: mixed offsets": pd.Series(
        [
            moment.tz_convert(zone).isoformat()
            for moment, zone in zip(UTC_TIMES, ["UTC", "Asia/Kolkata"] * 150, strict=True)
        ]
    ),
    "text: minutes": NAIVE.dt.strftime("%Y-%m-%d %H:%MZ"),
    "text: basic": NAIVE.dt.strftime("%Y%m%dT%H%M%SZ"),
    "text: Go": NAIVE.dt.strftime("%Y-%m-%d %H:%M:%S +0000 UTC"),
    "text: mail": NAIVE.dt.strftime("%a, %d %b %Y %H:%M:%S GMT"),
    "text: string": NAIVE.dt.strftime("%Y-%m-%dT%H:%M:%SZ").astype("string"),
    "text: category": NAIVE.dt.strftime("%Y-%m-%dT%H:%M:%SZ").astype("category"),
    **{
        f"Arrow {kind}": pd.Series(pd.arrays.ArrowExtensionArray(pa.array(UTC_TIMES).cast(kind)))
        for kind in (
            *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")),
            *(pa.timestamp(unit, "UTC") for unit in ("s", "ns")),
            pa.timestamp("us", "Europe/Berlin"),
        )
    },
    **{
        f"Arrow {kind}": pd.Series(pd.arrays.ArrowExtensionArray(pa.array(SECONDS).cast(kind)))
        for kind in (pa.int64(), pa.uint64(), pa.float64(), pa.decimal128(25, 3), pa.string())
    },
}
# As text of a local clock, with source.timezone.
LOCAL_TYPES = {
    "text": LOCAL.dt.strftime("%Y-%m-%d %H:%M:%S"),
    "text: T": LOCAL.dt.strftime("%Y-%m-%dT%H:%M"),
    "text: slashes, year first": LOCAL.dt.strftime("%Y/%m/%d %H:%M:%S"),
    "text: dots": LOCAL.dt.strftime("%d.%m.%Y %H:%M:%S"),
    "text: month first": LOCAL.dt.strftime("%m/%d/%Y %H:%M:%S"),
    "text: half days": LOCAL.dt.strftime("%m/%d/%Y %I:%M:%S %p"),
    "text: month's name": LOCAL.dt.strftime("%d %b %Y %H:%M:%S"),
    "datetime64": LOCAL,
    "objects": LOCAL.astype(object),
    "Arrow": pd.Series(pd.arrays.ArrowExtensionArray(pa.array(LOCAL))),
}


@pytest.mark.parametrize("timestamp", TYPES.values(), ids=TYPES)
def test_a_frame_says_the_same_with_any_timestamps(timestamp: pd.Series) -> None:
    frame = two_series(timestamp)
    kept = frame.copy()
    assert same(read_panel(FrameSource(frame), TEN_MINUTES), two_series(pd.Series(SECONDS)))
    pd.testing.assert_frame_equal(frame, kept)


def written(frame: pd.DataFrame, path: Path) -> Path:
    """The frame as a file of that suffix, as pandas writes it."""
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    "name, suffix",
    # pyarrow writes no Period.
    [pair for pair in product(TYPES, (".csv", ".parquet", "mapped")) if pair[0] != "objects: Period"]
    + [("objects: Period", ".csv")],
)
def test_a_file_says_the_same_with_any_timestamps(name: str, suffix: str, tmp_path: Path) -> None:
    mapped = suffix == "mapped"
    frame = two_series(TYPES[name]).reset_index(drop=True)
    path = written(frame, tmp_path / f"a{'.parquet' if mapped else suffix}")
    source = CsvSource(path, memory_map=mapped, cache_dir=tmp_path / "cache")
    try:
        found = read_panel(source, TEN_MINUTES)
    except DataError as error:
        # A text of pandas without a zone, and text in a mapped file.
        assert "source.timezone=" in str(error) or (mapped and "cannot be mapped" in str(error))  # noqa: PT017
        return
    assert same(found, two_series(pd.Series(SECONDS)))


@pytest.mark.parametrize("suffix", ["frame", ".csv", ".parquet"])
@pytest.mark.parametrize("order", ["oldest first", "newest first"])
@pytest.mark.parametrize("timestamp", LOCAL_TYPES.values(), ids=LOCAL_TYPES)
def test_times_of_a_local_clock_are_read_with_its_zone(
    timestamp: pd.Series, order: str, suffix: str, tmp_path: Path
) -> None:
    frame = two_series(timestamp).reset_index(drop=True)
    if order == "newest first":
        frame = frame[::-1].reset_index(drop=True)
    source: FrameSource | CsvSource
    if suffix == "frame":
        source = FrameSource(frame, timezone="Europe/Berlin")
    else:
        source = CsvSource(written(frame, tmp_path / f"a{suffix}"), timezone="Europe/Berlin")
    assert same(read_panel(source, TEN_MINUTES), two_series(pd.Series(SECONDS)))


def test_an_hour_that_clocks_show_twice_needs_an_order() -> None:
    frame = history(LOCAL)
    shuffled = frame.sample(frac=1, random_state=0).reset_index(drop=True)
    message = refusal(FrameSource(shuffled, timezone="Europe/Berlin").fetch)
    row = int(message.partition("row ")[2].partition(" ")[0])
    assert f"is {shuffled['timestamp'][row]}, which the clocks of Europe/Berlin showed twice" in message
    assert shuffled["timestamp"][row].hour == 2
    # One of the two hours is missing: which one?
    half = history(LOCAL).drop(index=range(144, 150))
    assert "showed twice" in refusal(FrameSource(half, timezone="Europe/Berlin").fetch)


def test_an_hour_that_clocks_skip_is_named() -> None:
    moments = pd.date_range("2024-03-31 01:00", periods=300, freq="10min")
    message = refusal(FrameSource(history(moments), timezone="Europe/Berlin").fetch)
    assert "row 6 is 2024-03-31 02:00:00, which the clocks of Europe/Berlin skipped" in message


ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "America/Sao_Paulo",
    "UTC",
]


@given(st.sampled_from(ZONES), st.integers(0, 400), st.sampled_from([600, 1800, 3600]))
@settings(deadline=None, max_examples=60)
def test_a_local_history_in_order_reads_back(zone: str, day: int, step: int) -> None:
    seconds = 1_700_006_400 + 86_400 * day + step * np.arange(300)
    clock = [datetime.datetime.fromtimestamp(second, ZoneInfo(zone)) for second in seconds.tolist()]
    text = [f"{moment:%Y-%m-%d %H:%M:%S}" for moment in clock]
    try:
        found = FrameSource(history(text), timezone=zone).fetch()
    except DataError as error:
        # Half an hour that is shown twice has a single row of every hour.
        assert "showed twice" in str(error)  # noqa: PT017
        assert zone == "Australia/Lord_Howe"
        return
    assert found["timestamp"].tolist() == seconds.tolist()


def test_dates_are_midnights(tmp_path: Path) -> None:
    days = pd.date_range("2024-01-01", periods=300, freq="D")
    midnights = {"UTC": days, "Asia/Tokyo": days.tz_localize("Asia/Tokyo")}
    for zone, expected in midnights.items():
        for timestamp in (
            days.strftime("%Y-%m-%d"),
            days.date,
            pd.arrays.ArrowExtensionArray(pa.array(days.date, pa.date32())),
            pd.arrays.ArrowExtensionArray(pa.array(days.date, pa.date64())),
            pd.PeriodIndex(days, freq="D"),
        ):
            frame = history(timestamp)
            found = FrameSource(frame, timezone=zone).fetch()["timestamp"]
            assert found.tolist() == expected.as_unit("s").asi8.tolist()
            source = CsvSource(written(frame, tmp_path / "a.parquet"), timezone=zone)
            assert source.fetch()["timestamp"].tolist() == found.tolist()


NUMBERS = {
    "nanoseconds": (SECONDS * 10**9, "nanoseconds; divide by 1000000000"),
    "microseconds": (SECONDS * 10**6, "microseconds; divide by 1000000"),
    "milliseconds": (SECONDS * 10**3, "milliseconds; divide by 1000"),
    "milliseconds as uint64": ((SECONDS * 10**3).astype(np.uint64), "milliseconds; divide by 1000"),
    "minutes": (SECONDS / 60, "minutes; multiply by 60"),
    "hours": (SECONDS / 3600, "hours; multiply by 3600"),
    "days": (SECONDS / 86_400, "days; multiply by 86400"),
    "Excel": (SECONDS / 86_400 + 25_569, "Excel serial dates; subtract 25569 and multiply by 86400"),
    "ticks": (SECONDS * 10**7 + 621_355_968 * 10**9, ".NET ticks; subtract 621355968000000000 and divide"),
    "years": (2020 + np.arange(300) % 5, "years; write ISO 8601"),
    **{
        form: (NAIVE.dt.strftime(code).astype("int64"), f"dates written as digits ({form}); write ISO 8601")
        for form, code in [
            ("YYYYMM", "%Y%m"),
            ("YYYYMMDD", "%Y%m%d"),
            ("YYYYMMDDhh", "%Y%m%d%H"),
            ("YYYYMMDDhhmm", "%Y%m%d%H%M"),
            ("YYYYMMDDhhmmss", "%Y%m%d%H%M%S"),
            ("YYMMDDhhmm", "%y%m%d%H%M"),
            ("YYMMDDhhmmss", "%y%m%d%H%M%S"),
        ]
    },
    "float32": (SECONDS.astype(np.float32), "timestamp is float32, which is exact to 128 s only"),
    "Float32": (pd.array(SECONDS, "Float32"), "timestamp is float32, which is exact to 128 s only"),
    "float32 within float64": (SECONDS.astype(np.float32).astype(float), "all multiples of 128, so their"),
    "five digits": ([float(f"{second:.5E}") for second in SECONDS], "all multiples of 10,000, so their last"),
    "three digits": ([float(f"{second:.2E}") for second in SECONDS], "their last digits are lost"),
    "milliseconds of five digits": ([float(f"{1000 * second:.5E}") for second in SECONDS], "digits are lost"),
    "a step": (np.arange(300), "timestamp 0 in row 0 is 1970-01-01 00:00:00 UTC, before 2000, one of 300"),
    "1999": (SECONDS - 26 * 365 * 86_400, "1998-11-02 00:00:00 UTC, before 2000, one of 300 such rows"),
    "2101": (SECONDS + 77 * 365 * 86_400, "after 2100, one of 300 such rows; unix seconds are expected"),
    "one of 1970": (np.r_[60, SECONDS[1:]], "timestamp 60 in row 0 is 1970-01-01 00:01:00 UTC, before 2000;"),
    "one in milliseconds": (
        np.r_[SECONDS[:-1], SECONDS[-1] * 1000],
        f"timestamp {SECONDS[-1] * 1000} in row 299 looks like milliseconds, unlike other rows (1 of 300",
    ),
    "half in milliseconds": (
        np.r_[SECONDS[:150], SECONDS[150:] * 1000],
        f"timestamp {SECONDS[150] * 1000} in row 150 looks like milliseconds, unlike other rows (150 of",
    ),
    "huge": (np.full(300, 2**64 - 1, np.uint64), "is not a valid time; unix seconds are expected"),
    "negative": (-SECONDS, "is negative"),
    "datetimes of nanoseconds": (pd.to_datetime(SECONDS), "1970-01-01 00:00:01 UTC, before 2000"),
}


@pytest.mark.parametrize("numbers, words", NUMBERS.values(), ids=NUMBERS)
def test_other_units_are_named_with_the_remedy(numbers: object, words: str, tmp_path: Path) -> None:
    frame = history(numbers)
    assert words in refusal(FrameSource(frame).fetch)
    path = written(frame, tmp_path / "a.parquet")
    said = words.replace("row 0 ", "row 1 ").replace("row 299", "row 300").replace("row 150", "row 151")
    assert said in refusal(lambda: read_panel(CsvSource(path), TEN_MINUTES))
    if "float32" in words or "datetimes" in words or "1970-01-01 00:00:01" in words:
        return
    path = written(frame, tmp_path / "a.csv")
    said = words.replace("row 0 ", "row 2 ").replace("row 299", "row 301").replace("row 150", "row 152")
    assert said in refusal(lambda: read_panel(CsvSource(path), TEN_MINUTES))


def test_any_time_takes_the_seconds_of_all_years(tmp_path: Path) -> None:
    seconds = SECONDS - 26 * 365 * 86_400
    frame = history(seconds)
    path = written(frame, tmp_path / "a.csv")
    assert same(read_panel(CsvSource(path, any_time=True), TEN_MINUTES), frame)
    assert same(read_panel(FrameSource(frame, any_time=True), TEN_MINUTES), frame)
    assert "milliseconds" in refusal(FrameSource(history(SECONDS * 1000), any_time=True).fetch)


@given(
    st.integers(946_684_800, 4_000_000_000),
    st.sampled_from([1, 10, 60, 300, 600, 3600, 86_400]),
    st.booleans(),
)
@settings(deadline=None, max_examples=100)
def test_seconds_are_never_taken_for_another_unit(start: int, step: int, on_the_grid: bool) -> None:
    seconds = (start // step * step if on_the_grid else start) + step * np.arange(300)
    assert guess_unit(seconds) is None
    assert FrameSource(history(seconds)).fetch()["timestamp"].tolist() == seconds.tolist()


@given(st.floats(-12, 12), st.integers(1_000_000_000, 1_900_000_000), st.floats(-1e12, 1e12))
@settings(deadline=None, max_examples=100)
def test_numbers_of_any_scale_are_never_a_wrong_calendar(scale: float, start: int, offset: float) -> None:
    numbers = (start + 600 * np.arange(300)) * 10**scale + offset
    try:
        found = FrameSource(history(numbers)).fetch()["timestamp"].to_numpy()
    except DataError:
        return
    np.testing.assert_array_equal(found, numbers)
    assert found.min() >= 946_684_800
    assert found.max() < 4_102_444_800


TEXT = {
    "no zone": (["2024-01-31 10:00:00"], "row 0 is 2024-01-31 10:00:00, without a time zone"),
    "day or month": (["01/02/2024 10:00"], "row 0 is '01/02/2024 10:00', day or month first?"),
    "both orders": (["31/01/2024", "01/31/2024"], "row 0 is '31/01/2024', day or month first?"),
    "no such day": (["2024-02-30T10:00:00Z"], "row 0 is '2024-02-30T10:00:00Z', a date that does not exist"),
    "no such hour": (["2024-02-20T25:00:00Z"], "a date that does not exist"),
    "no such offset": (["2024-02-20T10:00:00+99:00"], "a date that does not exist"),
    "a name of a zone": (["2024-01-31 10:00 CET"], "'2024-01-31 10:00 CET', not a number or a date"),
    "a word": (["2024-01-31T10:00Z", "noon"], "row 1 is 'noon', not a number or a date"),
    "a time": (["10:00"], "row 0 is '10:00', not a number or a date"),
    "years of two digits": (["31/01/24"], "row 0 is '31/01/24', not a number or a date"),
    "a number among dates": (["2024-01-31T10:00Z", "1706695200"], "'1706695200', a number among dates"),
    "a word among numbers": (["1706695200", "noon"], "row 1 is 'noon', not a number or a date"),
    "digits": (["20240131", "20240201"], "dates written as digits (YYYYMMDD)"),
}


@pytest.mark.parametrize("cells, words", TEXT.values(), ids=TEXT)
def test_text_that_may_be_misread_is_refused(cells: list[str], words: str, tmp_path: Path) -> None:
    frame = history()[: len(cells)].assign(timestamp=cells)
    assert words in refusal(FrameSource(frame).fetch)
    for suffix, first in ((".csv", 2), (".parquet", 1)):
        path = written(frame, tmp_path / f"a{suffix}")
        said = words.replace("row 1 ", f"row {first + 1} ").replace("row 0 ", f"row {first} ")
        assert said in refusal(lambda path=path: read_panel(CsvSource(path), TEN_MINUTES))


def test_missing_moments_are_counted(tmp_path: Path) -> None:
    for timestamp in (
        UTC_TIMES.where(SECONDS[7] != SECONDS),
        UTC_TIMES.astype(object).where(SECONDS[7] != SECONDS, None),
        UTC_TIMES.dt.strftime("%Y-%m-%dT%H:%M:%SZ").where(SECONDS[7] != SECONDS, None),
        pd.Series(SECONDS, dtype="Int64").where(SECONDS[7] != SECONDS),
        pd.Series(pd.PeriodIndex(NAIVE, freq="min")).where(SECONDS[7] != SECONDS),
        pd.Series(pd.arrays.ArrowExtensionArray(pa.array(UTC_TIMES))).where(SECONDS[7] != SECONDS),
    ):
        frame = history(timestamp)
        assert "timestamp is missing in 1 rows, first in row 7" in refusal(FrameSource(frame).fetch)
        path = written(frame, tmp_path / "a.parquet")
        assert "timestamp is missing in 1 rows, first in row 8" in refusal(CsvSource(path).fetch)
    nothing = history([None] * 300)
    assert "timestamp is missing in 300 rows" in refusal(FrameSource(nothing).fetch)
    assert "timestamp is missing in 300 rows" in refusal(CsvSource(written(nothing, path)).fetch)


NO_MOMENTS = {
    "booleans": [True, False] * 150,
    "durations": pd.to_timedelta(SECONDS, unit="s"),
    "lists": [[1]] * 300,
    "dicts": [{"a": 1}] * 300,
    "complex": SECONDS.astype(complex),
    "bytes": [b"2024-01-31"] * 300,
    "times": [datetime.time(1)] * 300,
    "structs": pd.arrays.ArrowExtensionArray(pa.array([{"a": 1}] * 300)),
    "Arrow booleans": pd.arrays.ArrowExtensionArray(pa.array([True] * 300)),
    "datetimes with and without a zone": [UTC_TIMES[0].to_pydatetime(), NAIVE[1].to_pydatetime()] * 150,
    "numbers and datetimes": [1_700_000_000, NAIVE[1]] * 150,
    "an integer beyond float64": [10**400] * 300,
    "intervals": pd.interval_range(0, 300),
}


@pytest.mark.parametrize("cells", NO_MOMENTS.values(), ids=NO_MOMENTS)
def test_what_is_no_moment_and_no_value_is_refused(cells: object, tmp_path: Path) -> None:
    for column in ("timestamp", "value"):
        frame = history(**{column: cells})
        assert column in refusal(FrameSource(frame).fetch)
        if cells is NO_MOMENTS["datetimes with and without a zone"]:
            continue  # pandas writes them with one
        try:
            path = written(frame, tmp_path / "a.parquet")
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue
        assert column in refusal(lambda path=path: read_panel(CsvSource(path), TEN_MINUTES))


VALUES = np.arange(300) % 7 + 1.0
SAME_VALUES = {
    **{kind: pd.Series(VALUES).astype(kind) for kind in ("int8", "uint64", "float32", "Int64", "Float32")},
    "Decimal": pd.Series([decimal.Decimal(int(value)) for value in VALUES], dtype=object),
    "objects": pd.Series(VALUES.tolist(), dtype=object),
    "text": pd.Series(VALUES.astype(str)),
    "category": pd.Series(VALUES).astype("category"),
    **{
        f"Arrow {kind}": pd.Series(pd.arrays.ArrowExtensionArray(pa.array(VALUES).cast(kind)))
        for kind in (pa.int16(), pa.float32(), pa.decimal128(10, 2), pa.string())
    },
}


@pytest.mark.parametrize("value", SAME_VALUES.values(), ids=SAME_VALUES)
def test_values_of_any_backend_say_the_same(value: pd.Series, tmp_path: Path) -> None:
    frame = history(value=value)
    assert same(read_panel(FrameSource(frame), TEN_MINUTES), history(value=VALUES))
    path = written(frame, tmp_path / "a.parquet")
    if "text" in str(value.dtype) or pd.api.types.infer_dtype(value) == "string":
        assert "string; numbers are expected" in refusal(CsvSource(path).fetch)
    else:
        assert same(read_panel(CsvSource(path), TEN_MINUTES), history(value=VALUES))


def test_datetimes_as_values_are_refused() -> None:
    for cells in (
        UTC_TIMES,
        NAIVE.astype(object),
        pd.Series(pd.PeriodIndex(NAIVE, freq="min")),
        LOCAL.dt.date,
    ):
        assert "value" in refusal(FrameSource(history(value=cells)).fetch)


def test_other_shapes_of_frames_are_refused() -> None:
    frame = history()
    indexed = frame.set_index("timestamp")
    assert "timestamp is its index: use reset_index()" in refusal(FrameSource(indexed).fetch)
    levels = pd.concat({"a": frame}, axis=1)
    assert "columns of 2 levels" in refusal(FrameSource(levels).fetch)
    assert "has more than one column value" in refusal(
        FrameSource(pd.concat([frame, frame["value"]], axis=1)).fetch
    )
    assert "no rows" in refusal(FrameSource(frame.head(0)).fetch)
    empty = frame.head(0).convert_dtypes(dtype_backend="pyarrow")
    assert "no rows" in refusal(FrameSource(empty).fetch)
    assert "workload holds cells that are not text" in refusal(
        FrameSource(history(workload=[["a"]] * 300)).fetch
    )


@pytest.mark.parametrize("backend", ["pyarrow", "numpy_nullable"])
def test_frames_of_any_backend_say_the_same(backend: str, tmp_path: Path) -> None:
    frame = two_series(UTC_TIMES)
    for names in ("object", "category", "string"):
        written(frame.astype({"workload": names, "metric": names}), tmp_path / "a.parquet")
        found = pd.read_parquet(tmp_path / "a.parquet", dtype_backend=backend)
        assert same(read_panel(FrameSource(found), TEN_MINUTES), two_series(pd.Series(SECONDS)))


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"source\.timezone: 'Europe/Berln' is not a time zone"):
        CsvSource("a.csv", timezone="Europe/Berln")
    with pytest.raises(ConfigError, match=r"source\.any_time: 'yes' is neither true nor false"):
        CsvSource("a.csv", any_time="yes")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="timezone: 7 is not a time zone"):
        FrameSource(history(), timezone=7)  # type: ignore[arg-type]


def test_rows_of_later_batches_are_numbered_on(tmp_path: Path) -> None:
    rows = 700_000
    table = pa.table(
        {
            "timestamp": pa.array(np.where(np.arange(rows) == rows - 1, None, START + np.arange(rows))),
            "value": np.ones(rows),
            "workload": pa.array(["w"] * rows).dictionary_encode(),
            "metric": pa.array(["m"] * rows).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    source = CsvSource(tmp_path / "a.parquet")
    assert f"missing in 1 rows, first in row {rows}" in refusal(lambda: read_panel(source, TEN_MINUTES))


def test_answers_and_settings_of_servers_in_other_units_are_named() -> None:
    answer = {"data": {"result": [{"metric": {}, "values": [[1_704_067_200_000, "1"]]}]}}
    with pytest.raises(ValueError, match="look like milliseconds; divide by 1000"):
        series_of(answer)
    with pytest.raises(ValueError, match="timestamps like 28401120 look like minutes; multiply by 60"):
        PrometheusSource(url="http://localhost:9090", history="1D", end=28_401_120)
