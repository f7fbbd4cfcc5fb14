"""Dataset files: valid ones (contract 3) are read equal; all others are a DataError that names the fault."""

import csv
import gzip
import itertools

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.errors import DataError
from kforecast.metrics.csv import CsvSource
from kforecast.metrics.names import trimmed
from kforecast.metrics.source import COLUMNS, check_frame

START = 1_700_000_000
HEADER = "timestamp,value,workload,metric\n"
ROW = "1700000000,1.5,shop/cart,qps\n"


def _records(frame):
    """Rows in file order, as tuples in the order of COLUMNS."""
    return [tuple(row) for row in frame[list(COLUMNS)].astype(object).itertuples(index=False)]


def _write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _refusal(path):
    with pytest.raises(DataError) as caught:
        CsvSource(path).fetch()
    message = str(caught.value)
    assert str(path) in message
    return message


def _frame():
    return pd.DataFrame(
        {
            "timestamp": [1_700_000_060, 1_700_000_000, 1_700_000_000, 1_700_000_120],
            "value": [1.25, 0.1, float("nan"), -3.0],
            "workload": ["shop/cart", "007", "NA", "café 購物車"],
            "metric": ["qps", "1e3", "null", 'a,"b"'],
        }
    )


@pytest.mark.parametrize("order", list(itertools.permutations(COLUMNS))[::5])
def test_columns_may_stand_in_any_order_beside_extra_ones(order, tmp_path):
    frame = _frame()
    wide = frame.assign(pod="x,y", **{"Ω": 1})[["pod", *order, "Ω"]]
    wide.to_csv(tmp_path / "a.csv", index=False)
    wide.to_parquet(tmp_path / "a.parquet", index=False)
    for name in ("a.csv", "a.parquet"):
        read = CsvSource(tmp_path / name).fetch()
        pd.testing.assert_frame_equal(
            read[list(COLUMNS)].astype({"workload": object, "metric": object}),
            frame.astype({"timestamp": float, "workload": object, "metric": object}),
            check_column_type=False,
        )


def test_the_columns_read_are_those_of_the_contract(tmp_path):
    _frame().assign(extra=1).to_csv(tmp_path / "a.csv")
    assert sorted(CsvSource(tmp_path / "a.csv").fetch().columns) == sorted(COLUMNS)


def test_every_kind_of_file_gives_the_same_frame(tmp_path):
    frame = _frame()
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "a.csv.gz", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.astype({"workload": "category", "metric": "category", "timestamp": "float64"}).to_parquet(
        tmp_path / "category.parquet"
    )
    names = ("a.csv", "a.csv.gz", "a.parquet", "category.parquet")
    first, *others = (CsvSource(tmp_path / name).fetch() for name in names)
    assert first["timestamp"].tolist() == frame["timestamp"].tolist()
    assert first["workload"].tolist() == frame["workload"].tolist()
    assert first["metric"].tolist() == frame["metric"].tolist()
    np.testing.assert_array_equal(first["value"], frame["value"])
    for other in others:
        pd.testing.assert_frame_equal(other, first, check_categorical=False)


def test_rows_keep_their_number_in_any_order(tmp_path):
    rows = [f"{START + second},{second},w,m\n" for second in (3, 1, 2, 1, 0)]
    frame = CsvSource(_write(tmp_path / "a.csv", HEADER + "".join(rows))).fetch()
    assert (frame["timestamp"] - START).tolist() == [3, 1, 2, 1, 0]


def test_a_path_may_be_text_and_names_the_source(tmp_path):
    path = _write(tmp_path / "a.csv", HEADER + ROW)
    assert len(CsvSource(str(path)).fetch()) == 1
    assert str(CsvSource(str(path))) == str(path)


@pytest.mark.parametrize("name", ["007", "1e3", "NA", "null", "nan", "None", "true", "2024-01-01", "-"])
def test_names_stay_text(name, tmp_path):
    frame = CsvSource(_write(tmp_path / "a.csv", HEADER + f"{START},1,{name},{name}\n")).fetch()
    assert _records(frame) == [(START, 1.0, name, name)]


_CHARACTERS = st.characters(exclude_categories=["Cs", "Cc"])
NAMES = st.text(_CHARACTERS, min_size=1, max_size=12).filter(lambda name: trimmed(name) == name)


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=6), st.permutations(COLUMNS), st.booleans())
@settings(deadline=None, max_examples=100)
def test_names_of_any_script_read_back_equal(tmp_path_factory, names, order, quote_all):
    path = tmp_path_factory.getbasetemp() / "names.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, order, quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL)
        writer.writeheader()
        for second, (workload, metric) in enumerate(names):
            writer.writerow({"timestamp": START + second, "value": 1, "workload": workload, "metric": metric})
    assert _records(CsvSource(path).fetch()) == [(START + i, 1.0, w, m) for i, (w, m) in enumerate(names)]


@given(
    st.lists(
        st.floats(-1e35, 1e35).filter(lambda v: abs(v) not in (2.0**63, 2.0**64)), min_size=1, max_size=20
    )
)
@settings(deadline=None, max_examples=100)
def test_numbers_read_back_equal(tmp_path_factory, values):
    path = tmp_path_factory.getbasetemp() / "numbers.csv"
    path.write_text(HEADER + "".join(f"{START + i},{value!r},w,m\n" for i, value in enumerate(values)))
    assert CsvSource(path).fetch()["value"].tolist() == values


@pytest.mark.parametrize("value", ["1e36", "-1e300"])
def test_numbers_that_float32_cannot_hold_are_refused(value, tmp_path):
    with pytest.raises(DataError, match="row 3 is too large"):
        CsvSource(_write(tmp_path / "a.csv", HEADER + ROW + f"0,{value},w,m\n")).fetch()


@pytest.mark.parametrize("missing", ["", "NaN", "nan", "NA", "N/A", "null", "NULL", "None", '""'])
def test_missing_values_are_nan(missing, tmp_path):
    frame = CsvSource(_write(tmp_path / "a.csv", HEADER + f"{START},{missing},w,m\n" + ROW)).fetch()
    assert np.isnan(frame["value"].iloc[0])
    assert frame["value"].iloc[1] == 1.5


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + (HEADER + ROW).encode(),
        (HEADER + ROW).replace("\n", "\r\n"),
        HEADER + ROW.strip(),
        '"timestamp","value","workload","metric"\n"1700000000","1.5","shop/cart","qps"\n',
        HEADER + "1.7e9, 1.5 ,shop/cart,qps\n",
    ],
    ids=["BOM", "CRLF", "no newline at the end", "quotes", "spaces and exponents"],
)
def test_what_spreadsheets_write_reads_as_well(content, tmp_path):
    frame = CsvSource(_write(tmp_path / "a.csv", content)).fetch()
    assert _records(frame) == [(1_700_000_000.0, 1.5, "shop/cart", "qps")]


def test_a_missing_file_is_named(tmp_path):
    assert "no such file" in _refusal(tmp_path / "nope.csv")


def test_a_directory_is_no_file(tmp_path):
    assert "is a directory" in _refusal(tmp_path)


BAD = {
    "empty": ("", ["the file is empty", "timestamp, value, workload, metric"]),
    "header only": (HEADER, ["no rows"]),
    "one column short": (
        "timestamp,value,workload\n1,1,w\n",
        ["no column metric", "timestamp, value, workload"],
    ),
    "wrong names": ("time,value,workload,name\n1,1,w,m\n", ["no column metric", "time, value"]),
    "an unknown separator": (HEADER.replace(",", "^") + ROW.replace(",", "^"), ["no column timestamp"]),
    "text in value": (HEADER + ROW + "1,much,w,m\n", ["value in row 3", "'much'", "not a number"]),
    "text in timestamp": (HEADER + "noon,1,w,m\n", ["timestamp in row 2", "'noon'", "not a number"]),
    "date without a zone": (
        HEADER + "2024-01-01 10:00:00,1,w,m\n",
        ["row 2 is 2024-01-01 10:00:00, without a time zone", "source.timezone=Europe/Berlin"],
    ),
    "truth in value": (HEADER + "1,true,w,m\n", ["value in row 2", "'true'"]),
    "milliseconds": (HEADER + "1700000000000,1,w,m\n", ["milliseconds", "row 2", "divide by 1000"]),
    "microseconds": (HEADER + "1700000000000000,1,w,m\n", ["microseconds", "divide by 1000000"]),
    "nanoseconds": (HEADER + "1700000000000000000,1,w,m\n", ["nanoseconds", "divide by 1000000000"]),
    "one row in milliseconds": (HEADER + ROW + "1700000000000,1,w,m\n", ["milliseconds", "row 3"]),
    "negative timestamp": (HEADER + "-5,1,w,m\n", ["-5", "row 2", "negative"]),
    "no timestamp": (HEADER + ROW + ",1,w,m\n", ["timestamp is missing in 1 row", "row 3"]),
    "infinite timestamp": (HEADER + "inf,1,w,m\n", ["timestamp", "row 2"]),
    "infinite value": (HEADER + ROW + "1,inf,w,m\n1,-inf,w,m\n", ["infinite in 2 rows", "row 3"]),
    "nothing but missing values": (HEADER + "1,,w,m\n2,NaN,w,m\n", ["value holds no number"]),
    "empty workload": (HEADER + ROW + "1,1,,m\n", ["workload is empty in 1 row", "row 3"]),
    "empty metric": (HEADER + '1,1,w,""\n', ["metric is empty in 1 row", "row 2"]),
    "row too short": (HEADER + ROW + "1,1,w\n", ["Expected 4 columns, got 3"]),
    "row too long": (HEADER + ROW + "1,1,w,m,x\n", ["Expected 4 columns, got 5"]),
    "Latin-1 in a name": ((HEADER + "1,1,café,m\n").encode("latin-1"), ["UTF-8"]),
    "Latin-1 in a number": ((HEADER + "1,1é,w,m\n").encode("latin-1"), ["UTF-8"]),
    "UTF-16 that ends early": ((HEADER + ROW).encode("utf-16")[:-1], ["damaged UTF-16"]),
}


@pytest.mark.parametrize("content, words", BAD.values(), ids=BAD)
def test_a_bad_file_is_refused_with_what_is_wrong(content, words, tmp_path):
    message = _refusal(_write(tmp_path / "a.csv", content))
    for word in words:
        assert word in message
    assert "\n" not in message


def test_all_problems_of_a_file_are_told_at_once(tmp_path):
    message = _refusal(_write(tmp_path / "a.csv", HEADER + "-1,inf,,m\n1,1,w,\n"))
    for problem in ("negative", "infinite", "workload is empty", "metric is empty"):
        assert problem in message


GOOD_GZ = gzip.compress((HEADER + ROW * 5000).encode())


@pytest.mark.parametrize(
    "content",
    [GOOD_GZ[:10], GOOD_GZ[:-20], GOOD_GZ[:40] + b"\xff" * 8 + GOOD_GZ[48:]],
    ids=["not", "cut", "bad"],
)
def test_a_corrupt_gz_is_refused(content, tmp_path):
    assert "cannot be read" in _refusal(_write(tmp_path / "a.csv.gz", content))


def test_a_gz_of_nothing_has_no_columns(tmp_path):
    assert "no column timestamp" in _refusal(_write(tmp_path / "a.csv.gz", gzip.compress(b"")))


def test_a_corrupt_parquet_is_refused(tmp_path):
    _frame().to_parquet(tmp_path / "good.parquet")
    good = (tmp_path / "good.parquet").read_bytes()
    for content in (b"no parquet", good[: len(good) // 2], b"PAR1"):
        assert "cannot be read" in _refusal(_write(tmp_path / "a.parquet", content))


PARQUET_FAULTS = {
    "dates": (
        {"timestamp": pa.array([0], pa.timestamp("us"))},
        ["timestamp 0 in row 1 is 1970-01-01 00:00:00 UTC, before 2000", "source.any_time=true"],
    ),
    "text in value": ({"value": pa.array(["1"])}, ["value has the type string", "numbers"]),
    "truth in value": ({"value": pa.array([True])}, ["value has the type bool"]),
    "fractions as names": ({"workload": pa.array([7.5])}, ["workload has the type double", "text"]),
    "lists as names": ({"metric": pa.array([["m"]])}, ["metric has the type list", "text"]),
    "null names": ({"workload": pa.array([None], pa.string())}, ["workload is empty in 1 row", "row 1"]),
    "milliseconds": ({"timestamp": pa.array([1_700_000_000_000])}, ["milliseconds", "row 1"]),
    "null timestamp": ({"timestamp": pa.array([None], pa.int64())}, ["timestamp is missing in 1 row"]),
    "infinite": ({"value": pa.array([float("inf")])}, ["infinite"]),
    "no rows": (
        {name: pa.array([], pa.float64() if i < 2 else pa.string()) for i, name in enumerate(COLUMNS)},
        ["no rows"],
    ),
}


def _table(**columns):
    good = {
        "timestamp": pa.array([START]),
        "value": pa.array([1.0]),
        "workload": pa.array(["w"]),
        "metric": pa.array(["m"]),
    }
    return pa.table(good | columns)


@pytest.mark.parametrize("columns, words", PARQUET_FAULTS.values(), ids=PARQUET_FAULTS)
def test_a_bad_parquet_is_refused_with_what_is_wrong(columns, words, tmp_path):
    pq.write_table(_table(**columns), tmp_path / "a.parquet")
    message = _refusal(tmp_path / "a.parquet")
    for word in words:
        assert word in message


def test_a_parquet_without_a_column_is_refused(tmp_path):
    pq.write_table(_table().drop_columns(["metric"]), tmp_path / "a.parquet")
    assert "no column metric; the file has: timestamp, value, workload" in _refusal(tmp_path / "a.parquet")


def test_a_parquet_with_a_column_twice_is_refused(tmp_path):
    twice = _table().append_column("value", pa.array([2.0]))
    pq.write_table(twice, tmp_path / "a.parquet")
    message = _refusal(tmp_path / "a.parquet")
    assert "value" in message
    assert "twice" in message


@pytest.mark.parametrize(
    "columns",
    [
        {"timestamp": pa.array([START], pa.int32()), "value": pa.array([1], pa.int16())},
        {"timestamp": pa.array([float(START)]), "value": pa.array([1.0], pa.float32())},
        {"workload": pa.array(["w"], pa.large_string()), "metric": pa.array(["m"]).dictionary_encode()},
    ],
)
def test_other_number_and_text_types_of_parquet_are_taken(columns, tmp_path):
    pq.write_table(_table(**columns), tmp_path / "a.parquet")
    assert _records(CsvSource(tmp_path / "a.parquet").fetch()) == [(START, 1.0, "w", "m")]


CELLS = st.sampled_from(
    ["0", "1", "-1", "1.5", "", "nan", "inf", "1e999", "2024-01-01", "a", '"a,b"', '"', "1_0", "é"]
)
LINES = st.lists(CELLS | st.text(max_size=4), min_size=3, max_size=5).map(",".join)
CONTENTS = st.one_of(
    st.text(max_size=60).map(str.encode),
    st.binary(max_size=60),
    st.text(max_size=60).map(lambda text: (HEADER + text).encode()),
    st.binary(max_size=60).map(lambda data: HEADER.encode() + data),
    st.lists(LINES, max_size=4).map(lambda lines: (HEADER + "\n".join(lines)).encode()),
)


@given(CONTENTS, st.sampled_from(["any.csv", "any.csv.gz", "plain.csv.gz", "any.parquet"]))
@settings(deadline=None, max_examples=150)
def test_any_content_is_a_frame_or_a_data_error(tmp_path_factory, content, name):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(gzip.compress(content) if name == "any.csv.gz" else content)
    try:
        frame = CsvSource(path).fetch()
    except DataError:
        return
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame)
    assert np.isfinite(frame["timestamp"]).all()
    assert not np.isinf(frame["value"]).any()
    assert frame["workload"].ne("").all()


def test_check_frame_gives_back_a_good_frame_and_counts_rows_from_one():
    frame = _frame()
    assert check_frame(frame, "a server") is frame
    with pytest.raises(DataError, match=r"a server: timestamp is missing in 1 rows, first in row 2"):
        check_frame(frame.assign(timestamp=[1.0, np.nan, 2.0, 3.0]), "a server")


@pytest.mark.parametrize("kind", ["int64", "int16", "category"])
def test_whole_numbers_are_names_as_in_a_csv(kind, tmp_path):
    frame = pd.DataFrame(
        {"timestamp": [START, START + 1], "value": [1.0, 2.0], "workload": [7, 12], "metric": "m"}
    )
    frame.astype({"workload": kind}).to_parquet(tmp_path / "a.parquet")
    frame.to_csv(tmp_path / "a.csv", index=False)
    found = [_records(CsvSource(tmp_path / name).fetch()) for name in ("a.parquet", "a.csv")]
    assert found[0] == found[1] == [(START, 1.0, "7", "m"), (START + 1, 2.0, "12", "m")]
