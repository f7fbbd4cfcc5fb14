"""One history written in each format gives the same rows; other files are refused by name."""

import bz2
import gzip
import io
import json
import lzma
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conftest import START, run_command
from kforecast.data.panel import Panel
from kforecast.data.reading import read_panel
from kforecast.errors import ConfigError, DataError
from kforecast.metrics import decompression
from kforecast.metrics.csv import CsvSource
from kforecast.metrics.formats.numbers import NotANumberError, numbers
from kforecast.metrics.source import COLUMNS
from kforecast.window import Frequency

Frame = pd.DataFrame
METRIC = {"metric": "qps"}
MINUTES = Frequency.parse("1min")


def history() -> Frame:
    """Two workloads, a row a minute; one begins later, and a value is missing."""
    rows = [
        (START + 60 * minute, 1000.5 * number + minute / 4, f"shop/{name}", "qps")
        for number, name in ((1, "web"), (2, "cart"))
        for minute in range(5 * (number - 1), 40)
        if minute != 17
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def iso(seconds: Any) -> list[str]:
    return [f"{pd.Timestamp(second, unit='s').isoformat()}Z" for second in seconds]


def wide(frame: Frame) -> Frame:
    return frame.pivot_table(index="timestamp", columns="workload", values="value").sort_index()


def text(frame: Frame, separator: str = ",", **changes: Any) -> str:
    return frame.assign(**changes).to_csv(index=False, sep=separator)


def grafana(frame: Frame, cell: Callable[[float], str], time: Callable[[int], str], head: str = "") -> str:
    table = wide(frame)
    lines = [head + ",".join(f'"{name}"' for name in ["Time", *table.columns])]
    for second, *values in table.itertuples():
        lines.append(",".join([time(second), *("" if np.isnan(v) else cell(v) for v in values)]))
    return "\r\n".join(lines) + "\r\n"


def in_short_units(value: float) -> str:
    return f"{value / 1000:.8g} K req/s" if value >= 1000 else f"{value:.8g} req/s"


def series(frame: Frame) -> list[tuple[dict[str, str], Frame]]:
    return [
        ({"__name__": "qps", "namespace": "shop", "deployment": str(name).split("/")[1]}, rows)
        for name, rows in frame.groupby("workload", sort=False)
    ]


def prometheus(frame: Frame) -> str:
    result = [
        {
            "metric": labels,
            "values": [[t, repr(v)] for t, v in zip(rows["timestamp"], rows["value"], strict=True)],
        }
        for labels, rows in series(frame)
    ]
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}})


def victoriametrics(frame: Frame) -> str:
    lines = []
    for labels, rows in series(frame):
        for half in (rows[:9], rows[9:]):  # a series may be split into blocks
            moments = (half["timestamp"] * 1000).tolist()
            lines.append(
                json.dumps({"metric": labels, "values": half["value"].tolist(), "timestamps": moments})
            )
    return "\n".join(lines) + "\n"


def influx(frame: Frame) -> str:
    tables = []
    for number, (labels, rows) in enumerate(series(frame)):
        lines = [
            "#group,false,false,true,true,false,false,true,true,true,true",
            "#datatype,string,long,dateTime:RFC3339,dateTime:RFC3339,dateTime:RFC3339,double,string,string,string,string",
            "#default,_result,,,,,,,,,",
            ",result,table,_start,_stop,_time,_value,_field,_measurement,namespace,deployment",
        ]
        for moment, value in zip(iso(rows["timestamp"]), rows["value"], strict=True):
            lines.append(
                f",,{number},{moment},{moment},{moment},{value!r},value,qps,shop,{labels['deployment']}"
            )
        tables.append("\r\n".join(lines))
    return "\r\n\r\n".join(tables) + "\r\n\r\n"


def cloudwatch(frame: Frame) -> str:
    results = [
        {"Id": "m1", "Label": name, "Timestamps": iso(rows["timestamp"]), "Values": rows["value"].tolist()}
        for name, rows in frame.groupby("workload", sort=False)
    ]
    return json.dumps(
        {"MetricDataResults": [one | {"StatusCode": "Complete"} for one in results], "Messages": []}
    )


def datadog(frame: Frame) -> str:
    found = [
        {
            "metric": "qps",
            "tag_set": [f"namespace:{labels['namespace']}", f"deployment:{labels['deployment']}"],
            "pointlist": [[1000.0 * t, v] for t, v in zip(rows["timestamp"], rows["value"], strict=True)],
        }
        for labels, rows in series(frame)
    ]
    return json.dumps({"status": "ok", "series": found})


def datadog_v2(frame: Frame) -> str:
    table = wide(frame)
    names = [str(name).split("/") for name in table.columns]
    attributes = {
        "series": [{"group_tags": [f"namespace:{n}", f"deployment:{d}"], "query_index": 0} for n, d in names],
        "times": [1000 * int(second) for second in table.index],
        "values": [[None if np.isnan(v) else v for v in table[name]] for name in table.columns],
    }
    return json.dumps({"data": {"type": "timeseries_response", "attributes": attributes}})


def german(frame: Frame, thousands: str = "") -> str:
    def cell(value: float) -> str:
        return f"{value:,.2f}".replace(",", "T").replace(".", ",").replace("T", thousands)

    return text(frame, ";", value=frame["value"].map(cell))


MAPPED = {"timestamp": "ts", "value": "rps", "workload": "service"}
TEXTS: dict[str, tuple[Callable[[Frame], str], dict[str, Any]]] = {
    "the four columns": (text, {}),
    "semicolons": (lambda f: text(f, ";"), {}),
    "tabs": (lambda f: text(f, "\t"), {}),
    "decimal commas": (german, {}),
    "decimal commas, thousands": (lambda f: german(f, "."), {}),
    "decimal commas, thousands by blanks": (lambda f: german(f, " "), {}),
    "thousands": (lambda f: text(f, value=f["value"].map("{:,.2f}".format)), {}),
    "blanks and capitals in the header": (
        lambda f: text(f).replace("timestamp,value", "Timestamp, Value", 1),
        {},
    ),
    "blanks before cells": (lambda f: text(f.assign(value=" " + f["value"].astype(str))), {}),
    "other names": (
        lambda f: text(f.rename(columns=MAPPED).drop(columns="metric")),
        {"columns": MAPPED, "metric": "qps"},
    ),
    "two columns for a workload": (
        lambda f: text(f.assign(namespace="shop", app=f["workload"].str[5:]).drop(columns="workload")),
        {"columns": {"workload": ["namespace", "app"]}},
    ),
    "time instead of timestamp": (lambda f: text(f).replace("timestamp", "time", 1), {}),
    "ISO 8601": (lambda f: text(f, timestamp=iso(f["timestamp"])), {}),
    "wide": (lambda f: wide(f).to_csv(), METRIC),
    "wide with tabs": (lambda f: wide(f).to_csv(sep="\t"), METRIC),
    "Grafana": (lambda f: grafana(f, repr, lambda t: f"{iso([t])[0]}"), METRIC),
    "Grafana in milliseconds": (lambda f: grafana(f, repr, lambda t: f"{t}000"), METRIC),
    "Grafana with units": (lambda f: grafana(f, in_short_units, lambda t: f"{iso([t])[0]}"), METRIC),
    "Grafana for Excel": (lambda f: grafana(f, repr, lambda t: f"{t}000", "sep=,\r\n"), METRIC),
    "Grafana for Excel, semicolons": (
        lambda f: (
            grafana(f, repr, lambda t: f"{t}000", "sep=;\r\n").replace(",", ";").replace("sep=;;", "sep=;")
        ),
        METRIC,
    ),
    "Grafana with labels for names": (
        lambda f: grafana(
            f.assign(workload=f["workload"].map(lambda n: f'qps{{namespace=""shop"", app=""{n[5:]}""}}')),
            repr,
            lambda t: f"{t}000",
        ),
        {},
    ),
    "Grafana in rows": (
        lambda f: text(
            pd.DataFrame({"Time": 1000 * f["timestamp"], "app": f["workload"], "Value": f["value"]})
        ),
        METRIC,
    ),
    "Grafana, a table of a query": (
        lambda f: text(
            pd.DataFrame({"Time": 1000 * f["timestamp"], "app": f["workload"], "Value #A": f["value"]})
        ),
        METRIC,
    ),
    "Grafana, labels chosen": (
        lambda f: text(
            pd.DataFrame(
                {
                    "Time": 1000 * f["timestamp"],
                    "app": "shop",
                    "instance": f["workload"].str[5:],
                    "Value": f["value"],
                }
            )
        ),
        METRIC | {"columns": {"workload": ["app", "instance"]}},
    ),
    "thousands of Switzerland": (
        lambda f: text(f, ";", value=[f"{value:,.3f}".replace(",", "'") for value in f["value"]]),
        {},
    ),
    "Grafana, series as rows": (
        lambda f: (
            "sep=;\n"
            + text(
                pd.DataFrame({"Series": f["workload"], "Time": iso(f["timestamp"]), "Value": f["value"]}), ";"
            )
        ),
        METRIC | {"columns": {"workload": "Series"}},
    ),
    "Prometheus": (prometheus, {}),
    "promtool": (lambda f: json.dumps(json.loads(prometheus(f))["data"]["result"]), {}),
    "jq .data": (lambda f: json.dumps(json.loads(prometheus(f))["data"], indent=2), {}),
    "jq '.data.result[]'": (
        lambda f: "\n".join(json.dumps(one, indent=2) for one in json.loads(prometheus(f))["data"]["result"]),
        {},
    ),
    "Prometheus, answers that overlap": (
        lambda f: "\n".join(
            prometheus(part)
            for part in (
                f[f["timestamp"] <= f["timestamp"].max() - 600],
                f[f["timestamp"] >= f["timestamp"].max() - 900],
            )
        ),
        {},
    ),
    "VictoriaMetrics": (victoriametrics, {}),
    "InfluxDB": (influx, {}),
    "InfluxDB without annotations": (
        lambda f: "\n".join(line for line in influx(f).splitlines() if not line.startswith("#")),
        {},
    ),
    "CloudWatch": (cloudwatch, METRIC),
    "Datadog": (datadog, {}),
    "Datadog, version 2": (datadog_v2, METRIC),
}


def rows_of(path: Path, **keys: Any) -> Frame:
    """Everything that a source reads of a file, in the order of series and time; by each way of reading."""
    frame = CsvSource(path, **keys).fetch()
    panel = read_panel(CsvSource(path, **keys), MINUTES)
    assert panel.fingerprint() == Panel.from_frame(frame, MINUTES).fingerprint()
    return ordered(frame)


def ordered(frame: Frame) -> Frame:
    found = frame.astype({"workload": str, "metric": str, "timestamp": float, "value": float})
    return found[list(COLUMNS)].sort_values(["workload", "timestamp"]).reset_index(drop=True)


@pytest.mark.parametrize("form", TEXTS)
def test_one_history_in_each_format_gives_the_same_rows(form: str, tmp_path: Path) -> None:
    write, keys = TEXTS[form]
    path = tmp_path / "export"
    path.write_text(write(history()), encoding="utf-8")
    found = rows_of(path, **keys)
    found = found[found["value"].notna()].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, ordered(history()))


def zipped(content: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("below/history.csv", content)
        archive.writestr("__MACOSX/below/._history.csv", b"\0")
    return made.getvalue()


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "gzip in pieces": lambda content: gzip.compress(content[:99]) + gzip.compress(content[99:]),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "xz in pieces": lambda content: lzma.compress(content[:99]) + b"\0" * 4 + lzma.compress(content[99:]),
    "zstd": lambda content: pa.compress(content, "zstd", asbytes=True),
    "zip": zipped,
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "UTF-16, big end first": lambda content: b"\xfe\xff" + content.decode().encode("utf-16-be"),
    "UTF-8 with a mark": lambda content: b"\xef\xbb\xbf" + content,
    "UTF-16 in a zip": lambda content: zipped(content.decode().encode("utf-16")),
}


@pytest.mark.parametrize("name", ["any", "plain.csv", "wrong.csv.gz"])
@pytest.mark.parametrize("how", COMPRESSIONS)
def test_a_compression_is_known_by_its_content(how: str, name: str, tmp_path: Path) -> None:
    for form in ("the four columns", "Grafana", "Prometheus"):
        write, keys = TEXTS[form]
        path = tmp_path / name
        path.write_bytes(COMPRESSIONS[how](write(history()).encode()))
        pd.testing.assert_frame_equal(rows_of(path, **keys), ordered(history()))


PARQUETS: dict[str, tuple[Callable[[Frame], Frame], dict[str, Any]]] = {
    "four columns": (lambda f: f, {}),
    "other names": (lambda f: f.rename(columns=MAPPED).drop(columns="metric"), METRIC | {"columns": MAPPED}),
    "wide": (lambda f: wide(f).reset_index(), METRIC),
    "wide, time as index": (lambda f: wide(f), METRIC),
    "two columns for a workload": (
        lambda f: f.assign(namespace="shop", app=f["workload"].str[5:]).drop(columns="workload"),
        {"columns": {"workload": ["namespace", "app"]}},
    ),
}


@pytest.mark.parametrize("name", ["a.parquet", "a.pq"])
@pytest.mark.parametrize("form", PARQUETS)
def test_parquet_is_mapped_alike(form: str, name: str, tmp_path: Path) -> None:
    write, keys = PARQUETS[form]
    write(history()).to_parquet(tmp_path / name)
    pd.testing.assert_frame_equal(rows_of(tmp_path / name, **keys), ordered(history()))


def test_a_folder_of_parquet_parts_is_one_table(tmp_path: Path) -> None:
    frame = history()
    folder = tmp_path / "parts"
    folder.mkdir()
    frame[:30].to_parquet(folder / "part-00000.parquet", index=False)
    frame[30:].to_parquet(folder / "part-00001.parquet", index=False)
    (folder / "_SUCCESS").touch()
    (folder / ".part-00000.parquet.crc").write_bytes(b"crc")
    pd.testing.assert_frame_equal(rows_of(folder), ordered(frame))
    (folder / "notes.txt").write_text("hm")
    with pytest.raises(DataError, match=r"parts: holds notes\.txt beside Parquet files"):
        CsvSource(folder).fetch()


def test_a_folder_is_not_mapped(tmp_path: Path) -> None:
    history().to_parquet(tmp_path / "part.parquet", index=False)
    with pytest.raises(ConfigError, match="kforecast-fetch"):
        CsvSource(tmp_path, memory_map=True)


def test_folders_may_say_names(tmp_path: Path) -> None:
    for name, rows in history().groupby("workload"):
        folder = tmp_path / "hive" / f"workload={str(name).replace('/', '%2F')}" / "metric=qps"
        folder.mkdir(parents=True)
        rows[["timestamp", "value"]].to_parquet(folder / "part.parquet", index=False)
    pd.testing.assert_frame_equal(rows_of(tmp_path / "hive"), ordered(history()))


def test_parts_of_different_columns_are_refused(tmp_path: Path) -> None:
    history().to_parquet(tmp_path / "a.parquet", index=False)
    history().rename(columns={"value": "other"}).to_parquet(tmp_path / "b.parquet", index=False)
    with pytest.raises(
        DataError, match=r"b\.parquet: other columns than in the parts before it: other, value"
    ):
        CsvSource(tmp_path).fetch()


def sqlite(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE history (ts, value)")
    database.close()


def tarred(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("history.csv"))


def several(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "timestamp,value,workload,metric\n")


def locked(path: Path) -> None:
    several(path, "history.csv")
    content = bytearray(path.read_bytes())
    for at in (6, content.index(b"PK\1\2") + 8):
        content[at] |= 1
    path.write_bytes(bytes(content))


RANGE = '{"status":"success","data":{"resultType":"%s","result":%s}}'
POD = '{"metric":{"app":"web","pod":"%s"},"values":[[1704067200,"1"]]}'
HEADER = "timestamp,value,workload,metric\n"
REFUSED: dict[str, tuple[str | bytes | Callable[[Path], object], list[str]]] = {
    "SQLite": (sqlite, ["SQLite", "sqlite3 -header -csv"]),
    "tar": (tarred, ["tar archive", "unpack"]),
    "Excel": (
        lambda path: several(path, "[Content_Types].xml", "xl/workbook.xml"),
        ["Excel workbook", "save the sheet as CSV"],
    ),
    "zip of several": (
        lambda path: several(path, "a.csv", "../b.csv"),
        ["zip of 2 files", "'a.csv', '../b.csv'"],
    ),
    "empty zip": (lambda path: several(path), ["zip of 0 files"]),
    "zip of very many": (lambda path: several(path, *map(str, range(30_000))), ["very many files"]),
    "zip with a password": (locked, ["password"]),
    "compressed twice": (gzip.compress(gzip.compress(HEADER.encode())), ["compressed twice"]),
    "Parquet in gzip": (gzip.compress(b"PAR1...."), ["compressed Parquet"]),
    "ORC": (lambda path: pa.orc.write_table(pa.table({"a": [1]}), path), ["ORC", "read_orc"]),
    "Feather": (
        lambda path: pa.feather.write_feather(pa.table({"a": [1]}), path),
        ["Feather", "read_feather"],
    ),
    "pickle": (b"\x80\x04\x95", ["pickle"]),
    "a login page": ("<!DOCTYPE html>\n<html>log in</html>", ["web page", "login"]),
    "Git LFS": ("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", ["git lfs pull"]),
    "exposition format": ("# HELP up Up.\n# TYPE up gauge\nup 1\n", ["one moment", "source=prometheus"]),
    "line protocol": ("cpu,host=a usage=1.5 1704067200000000000\n", ["line protocol"]),
    "CloudWatch's console": (
        "Label,CPU\nPeriod,300\n2024/01/01 00:00:00,1\n",
        ["CloudWatch's console", "--output json"],
    ),
    "AWS text": ("LABEL\tCPU\nDATAPOINTS\t1\t2024\tCount\n", ["AWS", "--output json"]),
    "Prometheus, instant": (RANGE % ("vector", "[]"), ["instant answer", "query_range"]),
    "Prometheus, scalar": (RANGE % ("scalar", '[1,"1"]'), ["instant answer", "scalar"]),
    "Prometheus, nothing": (RANGE % ("matrix", "[]"), ["without any series"]),
    "Prometheus, error": ('{"status":"error","error":"bad query"}', ["server's error: bad query"]),
    "Prometheus, native histogram": (
        RANGE % ("matrix", '[{"metric":{"a":"b"},"values":[],"histograms":[[1,{}]]}]'),
        ["native histogram", "histogram_quantile"],
    ),
    "Prometheus, pods": (
        RANGE % ("matrix", f"[{POD % 'a'},{POD % 'b'}]"),
        [
            "several series would be called web value",
            "differ in pod",
            "source.columns={workload: [app, pod]}",
        ],
    ),
    "Prometheus, no label": (
        RANGE % ("matrix", '[{"metric":{},"values":[[1704067200,"1"]]}]'),
        ["no label names the workload; source.workload=NAME"],
    ),
    "Prometheus, unclear labels": (
        RANGE
        % ("matrix", '[{"metric":{"x":"1","y":"2"},"values":[]},{"metric":{"x":"2","y":"1"},"values":[]}]'),
        ["differ in the labels x, y"],
    ),
    "Prometheus, a value that is none": (
        RANGE % ("matrix", '[{"metric":{"app":"a"},"values":[[1,"many"]]}]'),
        ["cannot be read as JSON"],
    ),
    "Prometheus, truth": (
        RANGE % ("matrix", '[{"metric":{"app":"a"},"values":[[1,true]]}]'),
        ["true or false"],
    ),
    "a part of CloudWatch's answer": (
        '{"MetricDataResults":[{"Label":"a","Timestamps":[],"Values":[],"StatusCode":"PartialData"}]}',
        ["part of CloudWatch's answer"],
    ),
    "JSON of another shape": (
        '{"rows": [1, 2]}',
        ["JSON of an unknown shape", "timestamp, value, workload, metric"],
    ),
    "lines of records": ('{"value": 1}\n{"value": 2}\n', ["JSON of an unknown shape"]),
    "promtool's text": (
        '{app="web"} =>\n1 @[1704067200]\n2 @[1704067260]\n',
        ["promtool's text output", "-o json"],
    ),
    "Grafana, two queries": (
        '"Time","app","Value #A","Value #B"\n1704067200000,a,1,2\n',
        ["several columns of values", """'source.columns={value: "Value #A"}'"""],
    ),
    "CloudWatch's console, short": (
        "Label,web\nMetric,RequestCount\nStatistic,Sum\n2024/01/01 00:00:00,5\n",
        ["export of CloudWatch's console", "get-metric-data"],
    ),
    "records": ('[{"timestamp": 1, "value": 2}]', ["JSON of an unknown shape"]),
    "torn JSON": ((RANGE % ("matrix", "["))[:-5], ["JSON"]),
    "deep JSON": ('{"data":' + "[" * 100_000, ["nested too deeply"]),
    "JSON with half a letter": (
        RANGE % ("matrix", '[{"metric":{"app":"\\ud800"},"values":[[1704067200,"1"]]}]'),
        ["cannot be read"],
    ),
    "InfluxDB, text": (
        "#datatype,string,long,dateTime:RFC3339,string\n,result,table,_time,_value\n,,0,2024-01-01T00:00:00Z,up\n",
        ["_value of InfluxDB's CSV has the type string", "filter()"],
    ),
    "InfluxDB, error": (
        "#datatype,string,string\n,error,reference\n,out of memory,1\n",
        ["InfluxDB's error: out of memory"],
    ),
    "InfluxDB, pivoted": (
        "#datatype,string,long,dateTime:RFC3339,double\n,result,table,_time,usage\n,,0,2024-01-01T00:00:00Z,1\n",
        ["no column _value", "pivot()"],
    ),
    "one series without names": (
        "ts,value\n1704067200,1\n",
        ["no column workload, metric; the file has: ts, value", "source.workload=NAME source.metric=NAME"],
    ),
    "other names": (
        "ts,rps,service,kind\n1704067200,1,a,b\n",
        ["'source.columns={value: rps, workload: service}' source.metric=NAME"],
    ),
    "quite other names": ("a,b\n1704067200,1\n", ["'source.columns={timestamp: COLUMN, value: COLUMN}'"]),
    "wide, but of what?": ("ts,a,b\n1704067200,1,2\n", ["source.metric=NAME (the columns are workloads)"]),
    "no header": ("1704067200,1,a,b\n", ["the first line must name the columns"]),
    "Grafana, a column of text": (
        '"Time","web","region"\n1704067200000,1,eu\n',
        ["'region' in row 2 is 'eu', not a number"],
    ),
    "Grafana, one column twice": (
        '"Time","web","web"\n1704067200000,1,2\n',
        ["two columns are the series web value"],
    ),
    "Grafana, mixed units": (
        '"Time","web"\n1704067200000,1 req/s\n1704067260000,1 s\n',
        ["row 3", "'1 s', in another unit"],
    ),
    "Grafana, an unknown unit": (
        '"Time","web"\n1704067200000,1 bananas\n',
        ["row 2", "unknown unit, 'bananas'"],
    ),
    "thousands or decimals": (
        "timestamp;value;workload;metric\n1704067200;1,234;a;b\n",
        ["row 2 is '1,234', which may mean thousands or decimals", "source.decimal=point or comma"],
    ),
    "two files joined": (
        HEADER + "1704067200,1,a,b\n" + HEADER + "1704067260,2,a,b\n",
        ["row 3 is a header again", "delete that line"],
    ),
    "two decimal marks": (
        HEADER + '1704067200,"1,5",a,b\n1704067260,2.5,a,b\n',
        ["row 3 is '2.5'", "other decimal mark"],
    ),
    "a million columns": (",".join(map(str, range(9000))) + ",x" * 12_000 + "\n1\n", ["columns"]),
}


@pytest.mark.parametrize("form", REFUSED)
def test_other_files_are_refused_by_name(form: str, tmp_path: Path) -> None:
    content, words = REFUSED[form]
    path = tmp_path / "history.csv"
    if callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for read in (CsvSource.fetch, CsvSource.read, lambda one: read_panel(one, MINUTES)):
        with pytest.raises(DataError) as caught:
            read(CsvSource(path))
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
        assert len(message) < 700
        for word in words:
            assert word in message


@pytest.mark.parametrize("kind", ["xz", "zip", "zstd"])
def test_bombs_are_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decompression, "_SMALL", 8 << 20)
    (tmp_path / "bomb").write_bytes(COMPRESSIONS[kind](HEADER.encode() + b"1704067200,0,a,b\n" * (1 << 20)))
    with pytest.raises(DataError, match="holds more than 400 times its size"):
        CsvSource(tmp_path / "bomb").fetch()


@pytest.mark.parametrize("kind", ["xz", "zip", "gzip", "zstd"])
def test_damaged_compressions_are_refused(kind: str, tmp_path: Path) -> None:
    good = COMPRESSIONS[kind](text(history()).encode())
    for content in (good[:-30], good[:60], good[:8], good[:90] + b"\xff" * 30 + good[120:]):
        (tmp_path / "torn").write_bytes(content)
        with pytest.raises(DataError, match="torn: "):
            CsvSource(tmp_path / "torn").fetch()


@pytest.mark.parametrize(
    "keys, words",
    [
        ({"columns": ["a"]}, "source.columns: "),
        ({"columns": {"time": "ts"}}, "source.columns: 'time' is unknown"),
        ({"columns": {"value": None}}, "source.columns.value"),
        ({"columns": {"value": ["a", "b"]}}, "source.columns.value"),
        ({"columns": {"workload": "a"}, "workload": "b"}, "leave out one of them"),
        ({"workload": " "}, "source.workload"),
        ({"metric": True}, "source.metric"),
        ({"decimal": "x"}, "source.decimal"),
        ({"memory_map": True, "columns": {"value": "a"}}, "kforecast-fetch"),
    ],
)
def test_wrong_keys_are_refused(keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        CsvSource(tmp_path / "a.parquet", **keys)


@pytest.mark.parametrize(
    "content, keys, words",
    [
        ("timestamp,value,workload,metric\n1,1,a,b\n", {"workload": "x"}, "leave out source.workload"),
        ("ts,value\n1,1\n", {"columns": {"timestamp": "when"}}, "no column when (source.columns.timestamp)"),
        ("ts,a,b\n1,1,1\n", {"workload": "x", "metric": "y"}, "no column value"),
        ("ts,value,host\n1,1,1\n", {"metric": "y"}, "source.columns={workload: host}"),
        (RANGE % ("matrix", f"[{POD % 'a'}]"), {"columns": {"workload": "deploy"}}, "no label 'deploy'"),
    ],
)
def test_keys_that_do_not_fit_the_file_are_refused(
    content: str, keys: dict[str, Any], words: str, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DataError) as caught:
        CsvSource(tmp_path / "a.csv", **keys).fetch()
    assert words in str(caught.value)


PODS: dict[str, Callable[[list[list[int]]], str]] = {
    "Prometheus": lambda pods: (
        RANGE
        % (
            "matrix",
            json.dumps(
                [
                    {"metric": {"app": "web", "pod": f"p{n}"}, "values": [[s, "1"] for s in moments]}
                    for n, moments in enumerate(pods)
                ]
            ),
        )
    ),
    "InfluxDB": lambda pods: (
        ",result,table,_time,_value,app,pod\n"
        + "".join(f",,{n},{moment},1,web,p{n}\n" for n, pod in enumerate(pods) for moment in iso(pod))
    ),
    "Grafana, a column a series": lambda pods: (
        "Time,"
        + ",".join(f'"{{app=""web"", pod=""p{n}""}}"' for n in range(len(pods)))
        + "\n"
        + "".join(
            f"{moment}000,{','.join('1' if moment in pod else '' for pod in pods)}\n"
            for moment in sorted({moment for pod in pods for moment in pod})
        )
    ),
    "Grafana": lambda pods: (
        "Time,app,pod,Value\n"
        + "".join(f"{moment}000,web,p{n},1\n" for n, pod in enumerate(pods) for moment in pod)
    ),
}


@pytest.mark.parametrize("form", PODS)
def test_pods_of_an_export_are_added_up_as_wanted(form: str, tmp_path: Path) -> None:
    path = tmp_path / "pods"
    path.write_text(PODS[form]([list(range(START + 60 * first, START + 2400, 60)) for first in (0, 0, 20)]))
    with pytest.raises(DataError, match=r"they differ in pod: add them up with source\.on_multiple=sum"):
        CsvSource(path).fetch()
    assert rows_of(path, on_multiple="sum")["value"].tolist() == [2.0] * 20 + [3.0] * 20
    assert set(rows_of(path, on_multiple="mean")["value"]) == {1.0}
    named = rows_of(path, columns={"workload": ["app", "pod"]})
    assert named["workload"].value_counts().to_dict() == {"web/p0": 40, "web/p1": 40, "web/p2": 20}


@pytest.mark.parametrize("form", ["Prometheus", "InfluxDB"])
def test_pods_of_an_export_with_moments_of_their_own_are_refused(form: str, tmp_path: Path) -> None:
    path = tmp_path / "pods"
    path.write_text(PODS[form]([list(range(START + 7 * n, START + 2400, 60)) for n in range(3)]))
    with pytest.raises(DataError, match="the 3 series called web value have moments of their own"):
        CsvSource(path, on_multiple="sum").fetch()
    assert len(rows_of(path, on_multiple="mean")) == 120


@pytest.mark.parametrize("decimal, value", [("point", 1234.0), ("comma", 1.234)])
def test_the_decimal_mark_may_be_given(decimal: str, value: float, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"timestamp;value;workload;metric\n{START};1,234;a;b\n")
    assert CsvSource(tmp_path / "a.csv", decimal=decimal).fetch()["value"].tolist() == [value]


def test_a_single_series_gets_its_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"ts,rps\n{START},1.5\n")
    frame = CsvSource(tmp_path / "a.csv", workload="shop/web", metric="qps").fetch()
    assert frame.astype(object).to_numpy().tolist() == [[START, 1.5, "shop/web", "qps"]]


def test_columns_of_one_workload_are_metrics(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"Time,qps,cpu\n{START}000,1,2\n")
    frame = CsvSource(tmp_path / "a.csv", workload="shop/web").fetch()
    assert sorted(zip(frame["workload"], frame["metric"], frame["value"], strict=True)) == [
        ("shop/web", "cpu", 2.0),
        ("shop/web", "qps", 1.0),
    ]


CELLS = {
    "1.20 K req/s": (1200.0, "req/s"),
    "12.3 req/s": (12.3, "req/s"),
    "1.5 Mil": (1.5e6, ""),
    "4.35 B ops/s": (4.35e9, "ops/s"),
    "45%": (45.0, "%"),
    "2.5 MiB": (2.5 * 2**20, "B"),
    "1.1 kB/s": (1100.0, "B/s"),
    "150 ms": (0.15, "s"),
    "3 mins": (180.0, "s"),
    "1.5 GHz": (1.5e9, "Hz"),
    "2 Ki": (2048.0, ""),
    "1e3": (1000.0, ""),
    "-7": (-7.0, ""),
}


@pytest.mark.parametrize("cell", CELLS)
def test_units_are_scaled_exactly(cell: str) -> None:
    (found,) = numbers([pa.array([cell, ""])])
    assert (found.values[0], found.unit) == CELLS[cell]
    assert np.isnan(found.values[1])


@pytest.mark.parametrize(
    "cell", ["5 m", "5 KB bananas", "0x10", "1_0", "true", "12:30", "1.2.3", "--1", "1,2,3", "€5"]
)
def test_other_cells_are_no_numbers(cell: str) -> None:
    with pytest.raises(NotANumberError):
        numbers([pa.array([cell])])


@given(
    st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20), st.sampled_from(["", " K req/s", " ms", " GiB"])
)
@settings(deadline=None, max_examples=100)
def test_printed_numbers_read_back(values: list[float], unit: str) -> None:
    factor = {"": 1.0, " K req/s": 1e3, " ms": 1e-3, " GiB": 2.0**30}[unit]
    (found,) = numbers([pa.array([f"{value!r}{unit}" for value in values])])
    np.testing.assert_allclose(found.values, np.array(values) * factor, rtol=1e-15)


@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=20), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=200)
def test_thousands_and_decimals_are_right_or_refused(cents: list[int], german: bool, grouped: bool) -> None:
    values = [number / 1000 for number in cents]
    cells = [f"{value:{',' if grouped else ''}}" for value in values]
    if german:
        cells = [cell.translate(str.maketrans(",.", ".,")) for cell in cells]
    try:
        (found,) = numbers([pa.array(cells)], regional=True)
    except NotANumberError as error:
        assert "may mean thousands or decimals" in str(error)  # noqa: PT017
        return
    assert found.values.tolist() == values


PIECES = st.sampled_from(
    [
        "Time",
        "value",
        "metric",
        ",",
        ";",
        "\t",
        '"',
        "\n",
        "1704067200",
        "1,5",
        "2 K",
        "{",
        "}",
        "[",
        "]",
        ":",
        "#group",
    ]
)


@given(
    st.lists(PIECES | st.text(max_size=3), max_size=30).map("".join), st.sampled_from(sorted(COMPRESSIONS))
)
@example(content="#group\r0", how="UTF-16")
@settings(deadline=None, max_examples=300)
def test_any_text_is_read_or_refused(tmp_path_factory: Any, content: str, how: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any-text"
    try:
        path.write_bytes(COMPRESSIONS[how](content.encode()))
    except UnicodeError:
        return
    try:
        CsvSource(path).fetch()
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_fetch_writes_the_four_columns(tmp_path: Path) -> None:
    (tmp_path / "prometheus.json").write_text(prometheus(history()))
    done = run_command(
        "kforecast-fetch", "--dataset-file=prometheus.json", "output=history.csv", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "a range answer of Prometheus" in done.stdout + done.stderr
    written = pd.read_csv(tmp_path / "history.csv")
    assert list(written.columns) == list(COLUMNS)
    pd.testing.assert_frame_equal(ordered(written), ordered(history()))
