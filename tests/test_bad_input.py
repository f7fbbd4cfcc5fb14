"""Any bad input: exit code 2, one message that names it, nothing written, no server asked."""

import gzip
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from conftest import START, run_command, run_process, traffic_rows
from kforecast.artifact import METADATA, TRIO
from kforecast.config.legacy_cli import translate
from kforecast.errors import ConfigError
from kforecast.files.run_folder import RunFolder

HEADER = "timestamp,value,workload,metric"
GOLDEN = Path(__file__).parent / "golden" / "trio_1min"
# In arguments and files: a port of this machine that must never be contacted.
PORT = "PORT"


@dataclass(frozen=True)
class Case:
    """A command line to be refused."""

    name: str
    arguments: list[str]
    words: list[str]
    """What the message must say."""
    files: dict[str, str | bytes] = field(default_factory=dict)
    """Files beside it, by name; ``traffic.csv`` and the artifact ``good`` are always there and good."""
    command: str = "kforecast-train"
    make: Callable[[Path], object] | None = None
    """Makes what is no file there."""


def config(**changes: Any) -> str:
    """A valid train-config.yaml with some top-level keys changed; None removes a key."""
    content = {
        "targets": [target()],
        "freq": "10min",
        "predictionLength": 3,
        "contextLength": 7,
        "hyperParams": {"learningRate": 0.001, "epochs": 1, "batchSize": 32},
    } | changes
    return yaml.safe_dump({key: value for key, value in content.items() if value is not None})


HYPER_PARAMS = ("epochs", "batchSize", "learningRate")
NUMBERS = ["predictionLength", "contextLength", *(f"hyperParams.{name}" for name in HYPER_PARAMS)]


def numbers(prediction_length: Any = 3, context_length: Any = 7, **hyper_params: Any) -> str:
    return config(predictionLength=prediction_length, contextLength=context_length, hyperParams=hyper_params)


def target(**changes: Any) -> dict[str, Any]:
    """A valid target with some keys changed."""
    content = {
        "workloadNamespace": "shop",
        "workloadName": "web",
        "historyLength": "48H",
        "metrics": [external("qps")],
    } | changes
    return {key: value for key, value in content.items() if value is not None}


def external(name: str) -> dict[str, Any]:
    return {"type": "External", "external": {"metric": {"name": name}}}


def in_file(name: str, content: str | bytes, *words: str) -> Case:
    """A bad config file; the message must name it."""
    return Case(
        f"config file: {name}",
        ["--config-file=config.yaml", "--dataset-file=traffic.csv"],
        ["config.yaml", *words],
        {"config.yaml": content},
    )


def in_data(name: str, content: str | bytes, *words: str, arguments: tuple[str, ...] = ()) -> Case:
    """A bad dataset file; the message need not name it when it names the series."""
    return Case(f"data: {name}", ["--dataset-file=data.csv", *arguments], list(words), {"data.csv": content})


def override(argument: str, *words: str) -> Case:
    """A bad override; unless words are given, the message must name its key."""
    said = list(words) or [argument.partition("=")[0].lstrip("+~")]
    return Case(f"override: {argument}", ["--dataset-file=traffic.csv", argument], said)


def overrides(*arguments: str) -> Case:
    """Several bad overrides: the message has each key before its problem."""
    keys = [argument.partition("=")[0] for argument in arguments]
    return Case(
        f"overrides: {' '.join(arguments)}",
        ["--dataset-file=traffic.csv", *arguments],
        [f"{len(keys)} problems", *(f"\n  {key}: " for key in keys)],
    )


def lines(*rows: str) -> str:
    return "\n".join((HEADER, *rows)) + "\n"


def bomb(level: str) -> str:
    """A config file of nine levels, each a repetition of the previous one, which ``L`` stands for."""
    first = level[0] + ("a: 1" if level[0] == "{" else "a") + level[-1]
    levels = [f"l{n}: &l{n} {level.replace('L', f'l{n - 1}')}" for n in range(1, 10)]
    return "\n".join([f"l0: &l0 {first}", *levels, "targets: *l9", ""])


def deep() -> str:
    """A config file with a chain of aliases: each adds one level, and no line is deep."""
    links = [f"l{n}: &l{n} [*l{n - 1}]" for n in range(1, 200)]
    return "\n".join(["l0: &l0 [a]", *links, "targets: *l199", ""])


GOOD_ROWS = traffic_rows(1, 200)

CONFIG_FILES = [
    Case("config file: missing", ["--config-file=nowhere.yaml"], ["nowhere.yaml", "no such config file"]),
    Case("config file: a directory", ["--config-file=."], ["cannot be read"]),
    in_file("empty", "", "empty", "freq"),
    in_file("only a comment", "# later\n", "empty"),
    in_file("not YAML", "freq: [10min\ntargets: }\n", "not YAML", "line 2"),
    in_file("not UTF-8", b"freq: \xff\xfe\n", "cannot be read"),
    in_file("text", "just words\n", "not a mapping", "str"),
    in_file("a list", "- freq: 10min\n", "not a mapping", "list"),
    in_file("unknown key", config(contextLenght=7), "contextLenght", "did you mean contextLength"),
    in_file(
        "unknown nested key",
        config(hyperParams={"learningrate": 0.1}),
        "hyperParams.learningrate",
        "did you mean learningRate",
    ),
    in_file(
        "unknown key of a metric",
        config(targets=[target(metrics=[external("qps") | {"nmae": "x"}])]),
        "targets[0].metrics[0].nmae",
        "did you mean name",
    ),
    in_file("key twice", config() + "contextLength: 9\n", "'contextLength'", "twice", "line"),
    in_file("a needed key is missing", config(predictionLength=None), "predictionLength", "missing"),
    in_file("wrong type", config(contextLength="seven"), "contextLength", "'seven'"),
    in_file("a number as a block", config(hyperParams=3), "hyperParams", "3", "not a mapping"),
    in_file(
        "all numbers zero",
        numbers(0, 0, epochs=0, batchSize=0, learningRate=0),
        "5 problems",
        *(f"{name}: 0 is wrong" for name in NUMBERS),
    ),
    in_file(
        "all numbers negative",
        numbers(-1, -1, epochs=-1, batchSize=-1, learningRate=-1),
        "5 problems",
        *(f"{name}: -1 is wrong" for name in NUMBERS),
    ),
    in_file(
        "learningRate .nan", numbers(learningRate=float("nan")), "hyperParams.learningRate: nan is wrong"
    ),
    in_file(
        "fractions and infinity",
        numbers(2.5, 2.5, learningRate=float("inf"), epochs=1.5, batchSize=float("inf")),
        "5 problems",
        *(f"{name}: 2.5 is wrong" for name in NUMBERS[:2]),
        "hyperParams.learningRate: inf is wrong",
        "hyperParams.epochs: 1.5 is wrong",
        "hyperParams.batchSize: inf is wrong",
    ),
    in_file(
        "numbers of the wrong type",
        numbers("seven", True, epochs="many", batchSize=[32], learningRate=False),
        "5 problems",
        "predictionLength: 'seven' is wrong",
        "contextLength: true is a boolean",
        "hyperParams.epochs: 'many'",
        "hyperParams.batchSize: [32]",
        "hyperParams.learningRate: false is a boolean",
    ),
    in_file("freq", config(freq="7min"), "freq", "'7min'", "6min or 8min"),
    in_file(
        "historyLength",
        config(targets=[target(historyLength="two days")]),
        "targets[0].historyLength",
        "'two days'",
    ),
    in_file(
        "historyLength without a unit",
        config(targets=[target(historyLength="48")]),
        "targets[0].historyLength",
        "'48'",
    ),
    in_file(
        "a metric without its type's block",
        config(targets=[target(metrics=[external("qps") | {"type": "Object"}])]),
        "targets[0].metrics[0]",
        "'object'",
    ),
    in_file(
        "unknown type of metric",
        config(targets=[target(metrics=[{"type": "Podz"}])]),
        "targets[0].metrics[0].type",
        "'Podz'",
    ),
    in_file(
        "Pods without workloadRef",
        config(targets=[target(metrics=[{"type": "Pods", "pods": {"metric": {"name": "qps"}}}])]),
        "targets[0]",
        "metrics[0]",
        "workloadRef",
    ),
    in_file("no workload", config(targets=[target(workloadName=None)]), "targets[0]", "workloadRef"),
    in_file(
        "two metrics with one series key",
        config(targets=[target(), target(metrics=[external("rps"), external("qps")])]),
        "targets[0].metrics[0]",
        "targets[1].metrics[1]",
        "'shop/webqps'",
    ),
    in_file(
        "several problems",
        config(freq="7min", predictionLength=0, hyperParams={"epochs": -3, "lr": 1}),
        "4 problems",
        "freq",
        "predictionLength",
        "hyperParams.epochs",
        "hyperParams.lr",
    ),
    in_file("a value that is no value of its tag", config() + "targets: !!int ''\n", "config.yaml"),
    in_file(
        "a Python object", config() + "x: !!python/object/apply:os.system ['touch x']\n", "line", "python"
    ),
    in_file("a date that is none", config() + "x: 2024-99-99\n", "config.yaml"),
    in_file("a NUL", config() + "x: a\0b\n", "not YAML"),
    in_file("half a surrogate", config(freq=None) + 'freq: "\\uD800"\n', "freq"),
    in_file("a key that is a list", config() + "? [a, b]\n: 1\n", "not YAML"),
    in_file("a key that is a number", config() + "3: 1\n", "3"),
    in_file("two documents", config() + "---\n" + config(), "not YAML"),
    in_file("very deep", "[" * 5000 + "]" * 5000, "nested"),
    in_file("an alias of itself", "targets: &a [*a]\nfreq: 1min\n", "alias"),
    in_file("aliases of aliases", bomb("[*L, *L, *L, *L, *L, *L, *L, *L, *L]"), "alias"),
    in_file("aliases nested deeper and deeper", deep(), "nested", "line"),
    in_file("merges of merges", bomb("{<<: [*L, *L, *L, *L, *L, *L, *L, *L]}"), "config.yaml"),
    in_file("a huge number", config() + f"x: {'9' * 5000}\n", "config.yaml"),
    in_file("a huge hexadecimal number", config(contextLength=None) + f"contextLength: 0x{'f' * 5000}\n"),
    in_file("huge text", config(freq="x" * 1_000_000), "freq"),
    in_file("a huge file", "#" * 20_000_000, "too large"),
    in_file("a tab", "freq: 10min\n\tx: 1\n", "not YAML", "line 2"),
    in_file(
        "a history longer than time", config(targets=[target(historyLength="999999999D")]), "historyLength"
    ),
    in_file("a history of zero", config(targets=[target(historyLength="0D")]), "historyLength"),
    in_file("targets that are text", config(targets="web"), "targets"),
    in_file("targets that are a mapping", config(targets={"a": 1}), "targets"),
    in_file("a target that is nothing", config(targets=[None]), "targets[0]"),
    in_file("no metrics", config(targets=[target(metrics=[])]), "targets[0].metrics"),
    in_file("a metric that is text", config(targets=[target(metrics=["qps"])]), "targets[0].metrics[0]"),
    in_file("an empty name", config(targets=[target(workloadName="")]), "targets[0].workloadName"),
    Case(
        "config file: wrong, and a server is named",
        ["--config-file=config.yaml", f"--metrics-server-addr=localhost:{PORT}"],
        ["config.yaml", "freq"],
        {"config.yaml": config(freq="7min")},
    ),
]

GOOD = lines(*GOOD_ROWS)


def changed(old: str, new: str) -> str:
    """The valid rows with the first occurrence of a text replaced."""
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def in_named(name: str, label: str, content: bytes, *words: str, arguments: tuple[str, ...] = ()) -> Case:
    """A bad dataset file with a name of its own."""
    return Case(f"{name}: {label}", [f"--dataset-file={name}", *arguments], [name, *words], {name: content})


def parquet(**columns: Any) -> bytes:
    """A Parquet file of valid rows with some columns changed to one value; None removes a column."""
    frame = pd.DataFrame([row.split(",") for row in GOOD_ROWS], columns=HEADER.split(","))
    made: dict[str, Any] = {
        "timestamp": pa.array(frame["timestamp"].astype(int)),
        "value": pa.array(frame["value"].astype(float)),
        "workload": pa.array(frame["workload"].astype(str)),
        "metric": pa.array(frame["metric"].astype(str)),
    }
    made |= {
        name: value if isinstance(value, pa.Array) else pa.array([value] * len(frame))
        for name, value in columns.items()
        if value is not None
    }
    table = pa.table({name: column for name, column in made.items() if columns.get(name, 0) is not None})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


EMPTY = {"timestamp": pa.int64(), "value": pa.float64(), "workload": pa.string(), "metric": pa.string()}
PARQUET = parquet()
IN_NANOSECONDS = pa.array([(START + 600 * i) * 10**9 for i in range(len(GOOD_ROWS))])
GZ = gzip.compress(GOOD.encode())

MINUTES = (f"timestamps like {START // 60} look like minutes; multiply by 60",)

OTHER_DATA = [
    in_data("torn UTF-16", GOOD.encode("utf-16")[:-1], "data.csv", "damaged UTF-16", "save it as UTF-8"),
    in_data("Latin-1", GOOD.replace("web", "wéb").encode("latin-1"), "data.csv", "save the file as UTF-8"),
    in_data("an unknown separator", GOOD.replace(",", "^"), "no column timestamp", "timestamp^value"),
    in_data(
        "other names",
        changed("timestamp,value", "when,rps"),
        "'source.columns={timestamp: COLUMN, value: rps}'",
    ),
    in_data("no header", "\n".join(GOOD_ROWS), "the first line must name the columns"),
    in_data("a column twice", "timestamp,value,value,workload,metric\n1,1,1,a,b\n", "value", "twice"),
    in_data("a header alone without an end of line", HEADER, "data.csv: no rows"),
    in_data("NULs in a number", changed(f"{START}", f"{START}\0"), "timestamp in row 2"),
    in_data("nothing but NULs", b"\0" * 5000, "no column timestamp"),
    in_data("a row too short", changed(",qps", ""), "Expected 4 columns, got 3"),
    in_data("a row too long", changed(",qps", ",qps,x"), "Expected 4 columns, got 5"),
    in_data("a quote that is never closed", changed(",shop", ',"shop'), "data.csv: cannot be read"),
    in_data("a comma for the decimal point", lines(*GOOD_ROWS, f'{START},"1,5",a,b'), "row 202", "'1,5'"),
    in_data("a unit", changed(",shop", "ms,shop"), "value in row 3", "in another unit than", "ms'"),
    in_data("hexadecimal", lines(*GOOD_ROWS, f"{START},0x10,a,b"), "value in row 202", "'0x10'"),
    in_data("a truth value", lines(*GOOD_ROWS, f"{START},true,a,b"), "value in row 202", "'true'"),
    in_data("microseconds", lines(f"{START}000000,1,a,b"), "microseconds", "divide by 1000000"),
    in_data("mixed units", lines(*GOOD_ROWS, f"{START}000,1,a,b"), "row 202", "milliseconds"),
    in_data(
        "beyond what nanoseconds in 64 bits hold", lines("9300000000000000000,1,a,b"), "not a valid time"
    ),
    in_data("an absurd time", lines("1e30,1,a,b"), "timestamp 1e+30 in row 2 is not a valid time"),
    in_data("an infinite time", lines("inf,1,a,b"), "timestamp", "row 2"),
    in_data(
        "half a second before 1970", lines("-0.5,1,a,b", *GOOD_ROWS), "timestamp -0.5 in row 2", "negative"
    ),
    in_data(
        "one row in 1970", lines("0,1,a,b", *GOOD_ROWS), "timestamp 0 in row 2", "before 2000", "any_time"
    ),
    in_data("one row in 4821", lines("90000000000,1,a,b", *GOOD_ROWS), "row 2 is 4821-12-26", "after 2100"),
    in_data("minutes", lines(*(f"{START // 60 + i},1,a,b" for i in range(99))), *MINUTES),
    in_data(
        "Excel's dates", lines(*(f"{45292 + i / 96},1,a,b" for i in range(99))), "Excel", "subtract 25569"
    ),
    in_data("digits", lines(*(f"20240101{h:02}00,1,a,b" for h in range(24))), "YYYYMMDDhhmm", "ISO 8601"),
    in_data("a few digits", lines(*(f"1.70407E+09,{i},a,b" for i in range(99))), "last digits are lost"),
    in_data("day or month", lines("01/02/2024 10:00,1,a,b"), "row 2", "day or month first?"),
    in_data("no time zone", lines("2024-01-31 10:00,1,a,b"), "without a time zone", "source.timezone="),
    in_data("a row without a time", lines(*GOOD_ROWS, ",1,a,b"), "timestamp is missing in 1 rows", "row 202"),
    in_data("a row without a metric", lines(*GOOD_ROWS, f"{START},1,a,"), "metric", "row 202"),
    in_data(
        "the largest integer",
        lines(*GOOD_ROWS, f"{START},9223372036854775807,a,b"),
        "row 202, is a limit of 64-bit integers",
        "leave the cell empty",
    ),
    in_data("too large for float32", lines(*GOOD_ROWS, f"{START},1e36,a,b"), "row 202", "too large"),
    in_data("one row", lines(GOOD_ROWS[0]), "shop/web-0 qps", "1 points"),
    in_data("the same row twice", lines(*GOOD_ROWS[:1] * 2), "shop/web-0 qps", "1 points"),
    in_data(
        "nothing but zeros", lines(*(f"{START + 600 * i},0,a,b" for i in range(300))), "context of zeros"
    ),
    in_data("nothing but gaps", lines(*GOOD_ROWS[::40]), "none of the windows is usable"),
    in_data("a huge header", "x" * 5_000_000 + "\n1\n", "no column timestamp", "xxx ..."),
    in_data("a huge name", lines(f"{START},1,{'a' * 5_000_000},b"), "no window to train on"),
    in_data("a name that commands a terminal", lines(f"{START},1,\x1b[31mred,b"), "\\x1b[31mred"),
    in_data("a page of an error", "<html><body>404</body></html>", "a web page"),
    in_data("JSON", '[{"timestamp": 1}]', "JSON of an unknown shape"),
    Case(
        "data: a pipe",
        ["--dataset-file=pipe.csv"],
        ["pipe.csv", "pipe"],
        make=lambda d: os.mkfifo(d / "pipe.csv"),
    ),
    Case("data: a device", ["--dataset-file=/dev/zero"], ["/dev/zero", "device"]),
    Case(
        "data: a link to nowhere",
        ["--dataset-file=link.csv"],
        ["link.csv", "no such file"],
        make=lambda d: (d / "link.csv").symlink_to("nowhere"),
    ),
    in_named("data.csv.gz", "torn", GZ[:-100], "cannot be read", "Truncated"),
    in_named("data.csv.gz", "nothing in it", gzip.compress(b""), "no column timestamp"),
    in_named(
        "data.csv.gz", "text in value", gzip.compress(lines("1,x,a,b").encode()), "value in row 2", "'x'"
    ),
    in_named("data.csv.gz", "Parquet in it", gzip.compress(PARQUET), "a compressed Parquet file"),
    *(
        in_named("data.parquet", f"{label}{mapped and ', mapped'}", content, *words, arguments=arguments)
        for mapped, arguments in (("", ()), ("mapped", ("source.memory_map=true",)))
        for label, content, *words in (
            ("CSV", GOOD.encode(), "cannot be read"),
            ("torn", PARQUET[: len(PARQUET) // 2], "cannot be read"),
            ("torn in the middle", PARQUET[:99] + b"\0" * 99 + PARQUET[198:], "cannot be read"),
            ("no rows", parquet(**{n: pa.array([], t) for n, t in EMPTY.items()}), "no rows"),
            ("a column missing", parquet(metric=None), "no column metric"),
            ("durations", parquet(timestamp=pd.Timedelta("1s")), "timestamp has the type dura", "datetimes"),
            ("float32", parquet(timestamp=pa.array([float(START)] * 200, pa.float32())), "float32", "128 s"),
            ("text in value", parquet(value="1"), "value has the type string"),
            ("truth values", parquet(value=True), "value has the type bool"),
            ("numbers for names", parquet(workload=7), "workload has the type int64"),
            ("names that are no text", parquet(workload=b"\xff"), "cannot be read", "UTF8"),
            ("lists for names", parquet(metric=["qps"]), "metric has the type list"),
            (
                "no times",
                parquet(timestamp=pa.array([None] * 200, pa.int64())),
                "timestamp is missing in 200",
            ),
            ("nanoseconds", parquet(timestamp=IN_NANOSECONDS), "row 1", "nanoseconds", "divide by"),
            ("the last time there is", parquet(timestamp=2**63 - 1), "row 1", "valid time"),
            ("before 1970", parquet(timestamp=-5), "timestamp -5 in row 1", "negative"),
            ("infinite", parquet(value=float("inf")), "infinite in 200 rows"),
        )
    ),
]

DATA = [
    Case("data: missing", ["--dataset-file=nowhere.csv"], ["nowhere.csv", "no such file"]),
    Case("data: a directory", ["--dataset-file=."], ["is a directory"]),
    in_data("empty", "", "data.csv", "empty", "timestamp, value, workload, metric"),
    in_data("header only", lines(), "data.csv", "no rows"),
    in_data("without a column", "timestamp,value,workload\n1704067200,1,a\n", "data.csv", "metric"),
    in_data(
        "text in value",
        lines(GOOD_ROWS[0], f"{START + 600},many,shop/web-0,qps"),
        "data.csv",
        "value",
        "row 3",
        "'many'",
    ),
    in_data("only NaN", lines(*(f"{START + 600 * i},NaN,a,b" for i in range(9))), "data.csv", "value"),
    in_data("infinite", lines(*GOOD_ROWS, f"{START},inf,a,b"), "data.csv", "infinite", "row 202"),
    in_data(
        "milliseconds", lines(f"{START * 1000},1,a,b"), "data.csv", "row 2", "milliseconds", "divide by 1000"
    ),
    in_data(
        "no date", lines("2024-02-30T00:00Z,1,a,b"), "data.csv", "row 2", "'2024-02-30T00:00Z'", "not exist"
    ),
    in_data("a date in 1970 by mistake", lines("-5,1,a,b", *GOOD_ROWS), "data.csv", "row 2", "negative"),
    in_data("a row without a workload", lines(*GOOD_ROWS, f"{START},1,,qps"), "workload", "row 202"),
    in_data("not text", bytes(range(256)) * 4, "data.csv"),
    in_data(
        "too short",
        lines(*traffic_rows(1, 9)),
        "shop/web-0 qps",
        "9 points",
        "context 7",
        "horizon 3",
    ),
    in_data(
        "all series too short",
        lines(*traffic_rows(3, 5)),
        "all 3 series",
        "5 points",
        "context 21",
        "horizon 4",
        arguments=("window.context_length=21", "window.prediction_length=4"),
    ),
    in_data(
        "two series with one item key",
        lines(*(f"{START + 600 * i},1,{pair}" for i in range(200) for pair in ("ns/ab,c", "ns/a,bc"))),
        "'ns/ab' 'c'",
        "'ns/a' 'bc'",
        "'ns/abc'",
    ),
]

OVERRIDES = [
    overrides(
        "window.context_length=0",
        "window.prediction_length=0",
        "data.batch_size=0",
        "data.validation_windows=0",
        "trainer.max_epochs=-1",
        "optimizer.lr=0",
    ),
    overrides(
        "window.context_length=-1",
        "window.prediction_length=-1",
        "data.num_workers=-1",
        "data.validation=-0.1",
        "data.max_missing=-0.1",
        "optimizer.lr=-1",
        "seed=-1",
    ),
    overrides(
        "data.validation=1.5", "data.test=1", "data.max_missing=2", "optimizer.lr=nan", "seed=4294967296"
    ),
    overrides("seed=lucky", "data.mask_gaps=3", "data.fill=guess", "optimizer.lr=inf", "artifact_dir=''"),
    override("seed=-1", "error: configuration: seed: -1 is wrong"),
    override("trainer.max_epochs=0", "trainer.max_epochs", "0", "only model=pretrained"),
    override("window.freq=7min", "window.freq", "'7min'", "6min or 8min"),
    override("window.freq=2H", "window.freq", "2H", "1min, 10min, 1H, 1D", "model=auto"),
    override("window=5min", "window.freq", "5min", "model=seasonal_mlp"),
    Case(
        "override: nothing left to train on",
        ["--dataset-file=traffic.csv", "data.validation=0.6", "data.test=0.4"],
        ["data.validation", "data.test", "0.6", "0.4", "below 1"],
    ),
    override("data.validation=0", "data.validation", "monitor=train/loss"),
    override("gate.require_skill=1", "gate.require_skill"),
    Case(
        "override: a gate without unseen data",
        ["--dataset-file=traffic.csv", "gate.require_skill=0", "data.test=0"],
        ["gate.require_skill", "never seen", "data.test above 0"],
    ),
    override("capacity.lead_time=-1", "capacity.lead_time: -1 is wrong"),
    Case(
        "override: the cost of replicas in bins of a day",
        ["--dataset-file=traffic.csv", "model=auto", "window.freq=1D", "objective=capacity_cost"],
        ["objective: capacity_cost needs simulated replicas, and bins of 1D are longer than 1H"],
    ),
    override("seed=???"),
    override("seed=${nowhere}", "nowhere"),
    override("sede=1", "sede", "did you mean seed"),
    override("window.contextlength=3", "window.contextlength", "did you mean window.context_length"),
    override("window=2h", "'2h'", "window", "10min", "1min", "1h", "1d"),
    override("modle=fcnet", "modle", "did you mean model"),
    override("experiment=smok", "'smok'", "did you mean smoke", "kapacity"),
    override("seed=[1", "the override seed=[1"),
    override("seed", "the override seed"),
    override("window=10", "group"),
    override("optimizer._target_=torch.optim.Adum", "optimizer", "torch.optim.Adum"),
    override("source._target_=kforecast.nowhere.Source", "source", "kforecast.nowhere.Source"),
    override("+source.colour=red", "source", "colour"),
    override("source.memory_map=maybe", "source.memory_map", "'maybe'", "auto, true or false"),
    override("source.memory_map=true", "source.memory_map", "traffic.csv", "Parquet", "kforecast-fetch"),
    override("source.cache_dir=''", "source.cache_dir"),
    override("trainer.accelerator=nonsense", "trainer.accelerator: 'nonsense'", "'cpu'"),
    override("trainer.accelerator=tpu"),
    override("+trainer.strategy=fsdp", "trainer.strategy", "'ddp'"),
    override("trainer.devices=auto"),
    override("trainer.devices=[0]"),
    override("trainer.max_epochs=1.5"),
    override("trainer._target_=3", "trainer._target_: 3"),
    override("trainer=null", "trainer=null"),
    override("trainer=tpu", "'tpu'", "cpu, ddp, default, gpu"),
    override("+trainer.profiler=nonsense", "profiler", "'simple'"),
    override("+trainer.max_time=soon", "trainer", "'soon'"),
    override("+trainer.limit_train_batches=-1", "trainer", "limit_train_batches"),
    override("+trainer.limit_train_batches=few", "trainer.limit_train_batches: 'few'"),
    override("+trainer.deterministic=perhaps", "trainer.deterministic: 'perhaps'"),
    override("+trainer.benchmarck=true", "trainer.benchmarck", "did you mean benchmark"),
    override("+trainer.callbacks=[]", "trainer.callbacks"),
    override("+trainer.val_check_interval=9999"),
    override("optimizer=sgd", "'sgd'", "adam"),
    override("optimizer._partial_=false"),
    override("optimizer._target_=builtins.dict", "optimizer"),
    override("+optimizer.colour=red", "optimizer.colour", "unknown key"),
    override("+optimizer.betas=[0.9]"),
    override("+optimizer.betas=[0.9,1.5]", "optimizer.betas[1]: 1.5"),
    override("+optimizer.eps=-1", "optimizer", "epsilon"),
    override("+optimizer.amsgrad=text", "optimizer.amsgrad: 'text'"),
    override("callbacks.early_stopping.patience=-1"),
    override("callbacks.early_stopping.monitor=loss"),
    override("+callbacks.early_stopping.patiense=3", "patiense", "did you mean patience"),
    override("+callbacks.early_stopping.min_delta=small"),
    override("callbacks.early_stopping=5"),
    override("+callbacks.model_checkpoint.save_top_k=-5"),
    override("callbacks.model_checkpoint.dirpath=traffic.csv", "traffic.csv", "is a file"),
    override("callbacks.model_checkpoint.filename=3", "callbacks.model_checkpoint.filename: 3"),
    override("callbacks.forecast_figures.num_windows=0"),
    override("callbacks.epoch_log=3"),
    override("+callbacks.mine._target_=kforecast.nowhere.Mine", "callbacks.mine", "kforecast.nowhere"),
    override("logger=neptune", "'neptune'", "tensorboard"),
    override("+logger.tensorboard.colour=red", "logger.tensorboard.colour"),
    override("+logger.tensorboard.flush_secs=soon"),
    override("logger.tensorboard=3"),
    override("+logger.csv._target_=lightning.pytorch.loggers.CSVLogger", "logger.csv.save_dir: missing"),
    override("logger.tensorboard.save_dir=traffic.csv", "traffic.csv", "is a file"),
    override("+model.colour=red", "model.colour", "unknown key"),
    override("model.day_of_month=perhaps"),
    override("+data.colour=red", "data.colour", "unknown key"),
    override("data.batch_size=99999999999999999999"),
    override("+window.colour=red", "window.colour", "unknown key"),
    override("+gate.require_skil=0", "gate.require_skil", "did you mean require_skill"),
    override("window.context_length=10001"),
    override("source.path=''"),
    override("source.path=3"),
    override("artifact_dir=null"),
    override("teacher=nowhere", "teacher: nowhere", "no such directory"),
    override("teacher=model", "model"),
    override("refit=perhaps"),
    override("callbacks.window_budget.windows=0", "callbacks.window_budget.windows"),
    override("schedule=linear"),
    override("monitor=loss", "monitor: 'loss'"),
    override("hydra.run.dir=traffic.csv", "hydra.run.dir", "is a file"),
    override("hydra.run.dir=traffic.csv/below", "hydra.run.dir", "is a file"),
    override("hydra.mode=nonsense"),
    override("hydra/launcher=nonsense", "nonsense", "basic"),
    override("~trainer.max_epochs", "trainer.max_epochs: missing"),
    override("data.timezone=../../etc/passwd", "data.timezone", "IANA"),
    override("data.timezone=/etc/passwd", "data.timezone", "IANA"),
    override("source=kapacity", "source.path is not a key"),
    override(f"artifact_dir={'x' * 300}/{'y' * 5000}", "xxx"),
    override("+trainer.accumulate_grad_batches=4", "trainer.accumulate_grad_batches", "data.batch_size"),
    override("+trainer.precision=bf16-mixed", "trainer.precision", "float32"),
    override("+trainer.gradient_clip_val=0", "trainer.gradient_clip_val"),
    override("threads=many", "threads", "'many'"),
    override("refit=again", "configuration: refit: 'again' is wrong; use true, false or continue"),
    override("combine=onlin", "configuration: combine: 'onlin' is wrong; use true, false or online"),
    override("average_windows=0", "average_windows"),
    override("data.windows_per_epoch=0", "data.windows_per_epoch"),
    overrides("data.timezone=Europe/Belin", "data.holidays=germany"),
    Case(
        "override: a combination that Kapacity could not serve",
        ["--dataset-file=traffic.csv", "combine=true"],
        ["configuration: combine is not for Kapacity's network", "model=auto"],
    ),
    Case(
        "override: a teacher trained first by several processes",
        ["--dataset-file=traffic.csv", "teacher=auto", "trainer=ddp", "trainer.accelerator=cpu"],
        ["configuration: teacher: auto trains a teacher in one process, but there are 2", "model=auto"],
    ),
    Case(
        "override: one artifact a series of a network that has no embeddings like that",
        ["--dataset-file=traffic.csv", "model=seasonal_mlp", "artifact.per_series=true"],
        ["configuration: artifact.per_series: true is for Kapacity's network", "model=fcnet"],
    ),
    Case(
        "override: settings that make no network",
        ["--dataset-file=traffic.csv", "model=seasonal_mlp", "model.hidden=0", "model.dropout=1"],
        ["error: model: hidden is 0", "dropout is 1"],
    ),
    Case(
        "override: settings that make a huge network",
        ["--dataset-file=traffic.csv", "model=seasonal_mlp", "model.hidden=100000"],
        ["error: model: ", "GiB; at most 1"],
    ),
    override("data.timezone=Europe/Belin", "data.timezone", "'Europe/Belin'", "did you mean Europe/Berlin"),
    override("data.timezone={shop/a: UTC, shop/b: Moon}", "data.timezone: shop/b", "'Moon'", "IANA"),
    override("data.timezone=null", "data.timezone", "IANA"),
    override("data.holidays=germany", "data.holidays", "'germany'", "ISO code", "DE-BY"),
    override("data.holidays=false", "data.holidays", "'NO'"),
    Case("source: none", [], ["no source", "--dataset-file", "--metrics-server-addr", "source=synthetic"]),
    Case(
        "source: kapacity without targets",
        ["--config-file=config.yaml", "--metrics-server-addr=localhost:9090"],
        ["source.targets: empty", "--config-file"],
        {"config.yaml": config(targets=None)},
    ),
    Case("flag: without a value", ["--dataset-file"], ["--dataset-file", "expected one argument"]),
    Case("flag: unknown", ["--dataset-fil=traffic.csv"], ["--dataset-fil;", "did you mean --dataset-file"]),
    Case(
        "flag: overrides on both sides",
        ["source=synthetic", "-m", "seed=1,2"],
        ["seed=1,2", "one side of -m"],
    ),
    Case(
        "flag: workers not a number",
        ["--dataset-file=traffic.csv", "--dataloader-num-workers=few"],
        ["data.num_workers", "'few'"],
    ),
]

TARGETS = {"config.yaml": config()}
KAPACITY = ["--config-file=config.yaml", f"--metrics-server-addr=localhost:{PORT}"]
QUERY = "source.queries=[{workload: shop/web, metric: qps, query: up}]"
PROMETHEUS = ["source=prometheus", f"source.url=http://localhost:{PORT}", QUERY]

# These problems are found before the configured server is asked.
SERVERS = [
    Case(f"server: {' '.join(more)}", [*named, *more], words, files)
    for named, files, more, words in [
        (KAPACITY, TARGETS, ["optimizer.lr=-1"], ["optimizer.lr"]),
        (KAPACITY, TARGETS, ["trainer.accelerator=nonsense"], ["trainer.accelerator"]),
        (KAPACITY, TARGETS, ["+trainer.profiler=nonsense"], ["profiler"]),
        (KAPACITY, TARGETS, ["+callbacks.early_stopping.colour=red"], ["callbacks.early_stopping.colour"]),
        (KAPACITY, TARGETS, ["source.step=3600"], ["source.step", "window.freq"]),
        (KAPACITY, TARGETS, ["source.deadline=0"], ["source.deadline"]),
        (KAPACITY, TARGETS, ["source.end=soon"], ["source.end", "'soon'"]),
        (KAPACITY, TARGETS, [f"source.end=1{'0' * 400}"], ["source.end"]),
        (KAPACITY, TARGETS, ["source.token_file=nowhere"], ["source.token_file", "nowhere"]),
        (KAPACITY, TARGETS, ["source.tls.ca=traffic.csv"], ["source.tls", "traffic.csv"]),
        (KAPACITY, TARGETS, ["+source.colour=red"], ["source.colour"]),
        (KAPACITY, TARGETS, ["hydra.run.dir=traffic.csv"], ["hydra.run.dir"]),
        (PROMETHEUS, {}, ["seed=-1"], ["seed"]),
        (PROMETHEUS, {}, ["source.queries=[]"], ["source.queries"]),
        (PROMETHEUS, {}, ["source.history=forever"], ["source.history", "'forever'"]),
        (PROMETHEUS, {}, ["source.history=999999999D"], ["source.history"]),
        (PROMETHEUS, {}, ["source.username=me"], ["source", "password"]),
        (PROMETHEUS, {}, ["source.headers={Authorization: x}"], ["source.headers", "secret"]),
        (PROMETHEUS, {}, ["model.day_of_month=perhaps"], ["model.day_of_month"]),
    ]
]

SWEEPS = [
    Case(
        "sweep: every job is wrong",
        ["-m", "--dataset-file=traffic.csv", "seed=1,2", "optimizer.lr=-1"],
        ["none of the 2 jobs can start", "optimizer.lr: -1 is wrong"],
    ),
    Case("sweep: no file", ["-m", "--dataset-file=nowhere.csv", "seed=1,2"], ["nowhere.csv: no such file"]),
    Case("sweep: no source", ["-m", "seed=1,2"], ["no source"]),
    Case("sweep: unknown key", ["-m", "--dataset-file=traffic.csv", "sede=1,2"], ["sede"]),
]

FORECAST = [
    Case(f"forecast: {name}", arguments, words, files, command="kforecast-forecast")
    for name, arguments, words, files in [
        ("no artifact_dir", ["--dataset-file=traffic.csv"], ["artifact_dir"], {}),
        ("no source", ["artifact_dir=model"], ["no source", "--dataset-file"], {}),
        (
            "artifact_dir is missing",
            ["artifact_dir=nowhere", "--dataset-file=traffic.csv"],
            ["nowhere", "no such directory"],
            {},
        ),
        (
            "artifact_dir is a file",
            ["artifact_dir=traffic.csv", "--dataset-file=traffic.csv"],
            ["artifact_dir", "traffic.csv"],
            {},
        ),
        (
            "artifact is incomplete",
            ["artifact_dir=part", "--dataset-file=traffic.csv"],
            ["part", TRIO[0], TRIO[1]],
            {f"part/{TRIO[2]}": "{}"},
        ),
        (
            "ending of output",
            ["artifact_dir=model", "--dataset-file=traffic.csv", "output=forecast.xlsx"],
            ["output", "forecast.xlsx", ".csv", ".json", ".parquet"],
            {},
        ),
        (
            "history is missing",
            ["artifact_dir=model", "--dataset-file=nowhere.csv"],
            ["nowhere.csv", "no such file"],
            {},
        ),
        (
            "a flag of training",
            ["artifact_dir=model", "--dataset-file=traffic.csv", "--model-save-path=model"],
            ["--model-save-path"],
            {},
        ),
        (
            "as_consumed",
            ["artifact_dir=model", "--dataset-file=traffic.csv", "forecast.as_consumed=maybe"],
            ["forecast.as_consumed", "'maybe'"],
            {},
        ),
        (
            "quantiles out of reach",
            ["artifact_dir=model", "--dataset-file=traffic.csv", "forecast.quantiles=[0.5,1.0,text]"],
            ["forecast.quantiles", "1.0, text", "between 0.005 and 0.995"],
            {},
        ),
        (
            "unknown key",
            ["artifact_dir=model", "--dataset-file=traffic.csv", "outptu=x.csv"],
            ["outptu", "did you mean output"],
            {},
        ),
    ]
]

GOOD_ARTIFACT = ["artifact_dir=good"]
HISTORY = {"history.csv": (GOLDEN / "history.csv").read_bytes()}

# Data of other commands.
VERBS = [
    Case(f"{verb.removeprefix('kforecast-')}: {name}", [*GOOD_ARTIFACT, *arguments], words, files, verb)
    for verb in ("kforecast-forecast", "kforecast-evaluate")
    for name, arguments, words, files in [
        (
            "text in value",
            ["--dataset-file=data.csv"],
            ["data.csv", "row 2", "'x'"],
            {"data.csv": lines("1,x,a,b")},
        ),
        ("no rows", ["--dataset-file=data.csv"], ["data.csv: no rows"], {"data.csv": lines()}),
        ("wrong columns", ["--dataset-file=data.csv"], ["no column"], {"data.csv": "a,b\n1,2\n"}),
        (
            "torn gzip",
            ["--dataset-file=data.csv.gz"],
            ["data.csv.gz: cannot be read"],
            {"data.csv.gz": GZ[:-9]},
        ),
        (
            "torn Parquet",
            ["--dataset-file=a.parquet"],
            ["a.parquet: cannot be read"],
            {"a.parquet": PARQUET[:-9]},
        ),
        (
            "milliseconds",
            ["--dataset-file=a.csv"],
            ["milliseconds"],
            {"a.csv": lines(f"{START}000,1,shop/cart,qps")},
        ),
        ("infinite", ["--dataset-file=a.csv"], ["infinite"], {"a.csv": lines(f"{START},inf,shop/cart,qps")}),
        ("no values", ["--dataset-file=a.csv"], ["no number"], {"a.csv": lines(f"{START},,shop/cart,qps")}),
        (
            "other series",
            ["--dataset-file=a.csv"],
            ["shop/web-0 qps", "artifact"],
            {"a.csv": lines(*(f"{START + 60 * i},5,shop/web-0,qps" for i in range(60)))},
        ),
        ("coarser rows", ["--dataset-file=traffic.csv"], ["a row every 10 min", "bins of good are 1min"], {}),
        ("a directory", ["--dataset-file=good"], ["good", "is a directory"], {}),
        ("a device", ["--dataset-file=/dev/zero"], ["/dev/zero", "device"], {}),
        (
            "unknown key of the source",
            ["--dataset-file=traffic.csv", "+source.colour=red"],
            ["source: ", "colour"],
            {},
        ),
        (
            "no targets",
            ["source=kapacity", f"source.address=localhost:{PORT}"],
            ["source.targets"],
            {},
        ),
        (
            "a step that is too long",
            [
                "source=kapacity",
                f"source.address=localhost:{PORT}",
                "--config-file=config.yaml",
                "source.step=3600",
            ],
            ["source.step"],
            TARGETS,
        ),
    ]
]
VERBS += [
    Case(
        "evaluate: nothing after the start",
        [*GOOD_ARTIFACT, "--dataset-file=history.csv", "evaluate.start=2030-01-01"],
        ["evaluate.start", "2030"],
        HISTORY,
        "kforecast-evaluate",
    ),
    Case(
        "evaluate: an unknown key",
        [*GOOD_ARTIFACT, "--dataset-file=history.csv", "+evaluate.colour=red"],
        ["evaluate.colour"],
        HISTORY,
        "kforecast-evaluate",
    ),
    *(
        Case(f"fetch: {name}", arguments, words, files, "kforecast-fetch")
        for name, arguments, words, files in [
            ("no source", ["output=a.csv"], ["no source"], {}),
            ("no file", ["--dataset-file=nowhere.csv", "output=a.csv"], ["nowhere.csv"], {}),
            ("ending", ["--dataset-file=traffic.csv", "output=a.txt"], ["output", "a.txt"], {}),
            ("ending of the report", ["--dataset-file=traffic.csv", "report=a.txt"], ["report", "a.txt"], {}),
            ("no window", ["--dataset-file=traffic.csv", "window.freq=7min"], ["window.freq"], {}),
            ("no directory", ["--dataset-file=traffic.csv", "output=traffic.csv/a.csv"], ["is a file"], {}),
            (
                "torn",
                ["--dataset-file=a.parquet", "output=a.csv"],
                ["a.parquet"],
                {"a.parquet": PARQUET[:-9]},
            ),
            ("no targets", ["source=kapacity", f"source.address=localhost:{PORT}"], ["source.targets"], {}),
            ("folder", ["--dataset-file=nowhere.csv", "hydra.run.dir=new/folder"], ["nowhere.csv"], {}),
        ]
    ),
    *(
        Case(f"serve-metrics: {name}", arguments, words, files, "kforecast-serve-metrics")
        for name, arguments, words, files in [
            ("no source", [], ["no source"], {}),
            ("no file", ["--dataset-file=nowhere.csv"], ["nowhere.csv"], {}),
            (
                "address",
                ["--dataset-file=traffic.csv", "serve.address=here"],
                ["serve.address", "'here'"],
                {},
            ),
            ("bad rows", ["--dataset-file=a.csv"], ["row 2"], {"a.csv": lines("1,x,a,b")}),
            ("templates", [*PROMETHEUS], ["serve.templates"], {}),
        ]
    ),
]

ARTIFACT = ["artifact_dir=model", "--dataset-file=traffic.csv"]
EVALUATE = [
    Case(f"evaluate: {name}", arguments, words, command="kforecast-evaluate")
    for name, arguments, words in [
        ("no artifact", ["--dataset-file=traffic.csv"], ["artifact_dir"]),
        ("no such artifact", ["artifact_dir=nowhere", "--dataset-file=traffic.csv"], ["nowhere"]),
        ("a damaged artifact", ARTIFACT, ["model", "cannot be read"]),
        ("no source", ["artifact_dir=model"], ["no source of traffic"]),
        ("a start that is no time", [*ARTIFACT, "evaluate.start=soon"], ["evaluate.start", "'soon'"]),
        (
            "an end before the start",
            [*ARTIFACT, "evaluate.start=2024-01-02", "evaluate.end=2024-01-01T12:00"],
            ["evaluate.end: 1704110400 is before evaluate.start, 1704153600"],
        ),
        (
            "several problems",
            [*ARTIFACT, "evaluate.stride=0", "evaluate.as_consumed=maybe", "evaluate.require_skill=1"],
            ["3 problems", "evaluate.stride", "evaluate.as_consumed", "evaluate.require_skill"],
        ),
        (
            "intervals of what is not the artifact's own",
            [*ARTIFACT, "evaluate.save_intervals=true", "evaluate.as_consumed=true"],
            ["evaluate.save_intervals", "evaluate.as_consumed"],
        ),
        ("a quantile out of reach", [*ARTIFACT, "evaluate.quantiles=1.5"], ["evaluate.quantiles", "1.5"]),
        ("quantiles", [*ARTIFACT, "evaluate.quantiles=[0.1,0.1]"], ["evaluate.quantiles", "twice"]),
        ("capacity", [*ARTIFACT, "capacity.cost_over=0"], ["capacity.cost_over: 0 is wrong"]),
        (
            "capacity: an endless cost",
            [*ARTIFACT, "capacity.cost_under=1e308"],
            ["less than or equal to 1000000000"],
        ),
        (
            "capacity: an endless headroom",
            [*ARTIFACT, "capacity.headroom=1e12"],
            ["less than or equal to 1000"],
        ),
        (
            "more replicas at least than at most",
            [*ARTIFACT, "capacity.min_replicas=5", "capacity.max_replicas=4"],
            ["capacity", "min_replicas", "max_replicas"],
        ),
        ("unknown key", [*ARTIFACT, "evaluate.strides=2"], ["strides"]),
    ]
]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with an older artifact, which must survive."""
    directory = tmp_path / "model"
    directory.mkdir()
    for name in (*TRIO, METADATA):
        (directory / name).write_bytes(f"marker {name}".encode())
    return directory


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    """A server that must not be contacted."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def snapshot(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Every path below a folder: kind, permissions and content."""
    return {
        path.relative_to(directory).as_posix(): (path.lstat().st_mode, _content(path))
        for path in sorted(directory.rglob("*"))
    }


def _content(path: Path) -> bytes:
    return path.read_bytes() if stat.S_ISREG(path.lstat().st_mode) else b""


def assert_says(done: subprocess.CompletedProcess[str], words: list[str]) -> None:
    said = f"\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
    assert done.returncode == 2, said
    assert "Traceback" not in done.stdout + done.stderr, said
    # Some commands log to standard error.
    told = [line for line in done.stderr.splitlines() if not line.startswith(("INFO: ", "WARNING: "))]
    first, *others = told
    assert first.startswith("error: "), said
    # One message: continuation lines are indented.
    assert all(line.startswith("  ") for line in others), said
    assert len(done.stderr) < 20_000
    missing = [word for word in words if word not in done.stderr]
    assert not missing, f"{missing} missing in the message{said}"


def assert_refused(arguments: list[str], words: list[str], cwd: Path) -> None:
    assert_says(run_command("kforecast-train", *arguments, cwd=cwd), words)


def laid_out(case: Case, folder: Path) -> None:
    """Write the files of a case."""
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    if case.make is not None:
        case.make(folder)


CASES = [*CONFIG_FILES, *DATA, *OTHER_DATA, *OVERRIDES, *SERVERS, *SWEEPS, *FORECAST, *EVALUATE, *VERBS]


def test_there_are_enough_cases() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert len([*CONFIG_FILES, *OVERRIDES, *SERVERS, *SWEEPS]) >= 80
    assert len([*DATA, *OTHER_DATA]) >= 40


@pytest.mark.parametrize("case", CONFIG_FILES, ids=lambda case: case.name[:60])
def test_a_config_file_is_refused_before_anything_is_composed(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid_out(case, tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as refusal:
        translate(case.arguments)
    assert [word for word in case.words if word not in str(refusal.value)] == []


# Every sixth case in `make test`, all in `make test-all`: each one runs a whole command.
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] if number % 12 else [])
        for number, case in enumerate(CASES)
    ],
    ids=lambda case: case.name[:60],
)
def test_refused(
    case: Case,
    tmp_path: Path,
    model: Path,
    traffic_csv: Callable[..., Path],
    listener: socket.socket,
) -> None:
    traffic_csv()
    shutil.copytree(GOLDEN / "model", tmp_path / "good")
    laid_out(case, tmp_path)
    before = snapshot(tmp_path)
    port = str(listener.getsockname()[1])
    keeps = ["--model-save-path=model"] if case.command == "kforecast-train" else []
    arguments = [argument.replace(PORT, port) for argument in [*keeps, *case.arguments]]
    done = run_command(case.command, *arguments, cwd=tmp_path)
    assert_says(done, case.words)
    assert snapshot(tmp_path) == before
    with pytest.raises(BlockingIOError):
        listener.accept()


# In new processes, as a user runs them.
@pytest.mark.parametrize(
    "case",
    [
        OVERRIDES[0],
        *(
            pytest.param(case, marks=pytest.mark.slow)
            for case in (CONFIG_FILES[8], OTHER_DATA[0], override("+optimizer.colour=red"))
        ),
    ],
    ids=lambda case: case.name[:60],
)
def test_refused_by_an_installed_command(
    case: Case, tmp_path: Path, model: Path, traffic_csv: Callable[..., Path]
) -> None:
    traffic_csv()
    laid_out(case, tmp_path)
    before = snapshot(tmp_path)
    assert_says(
        run_process(case.command, "--model-save-path=model", *case.arguments, cwd=tmp_path), case.words
    )
    assert snapshot(tmp_path) == before


def test_a_plain_mistake_does_not_load_torch(tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    arguments = [
        "train",
        f"--dataset-file={traffic_csv()}",
        "optimizer.lr=-1",
        "trainer.accelerator=nonsense",
    ]
    script = (
        f"import sys; sys.argv = {arguments!r}\n"
        "from kforecast.commands.train import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout == "2 False\n", done.stderr


def test_the_folder_of_an_earlier_run_is_left_as_it_was(
    tmp_path: Path, traffic_csv: Callable[..., Path]
) -> None:
    traffic_csv()
    (tmp_path / "short.csv").write_text(lines(*traffic_rows(1, 9)))
    run = ["--dataset-file=traffic.csv", "hydra.run.dir=runs/mine", "trainer=cpu", "trainer.max_epochs=1"]
    assert run_command("kforecast-train", *run, "refit=false", cwd=tmp_path).returncode == 0
    before = snapshot(tmp_path)
    # A mistyped override changes nothing in the folder, not even the recorded configuration.
    assert_says(run_command("kforecast-train", *run, "optimizer.lr=-1", cwd=tmp_path), ["optimizer.lr"])
    assert snapshot(tmp_path) == before
    # Bad data is found after the run has begun: the files stay, and the record describes the last run.
    done = run_command("kforecast-train", *run, "--dataset-file=short.csv", cwd=tmp_path)
    assert_says(done, ["9 points"])
    assert {*snapshot(tmp_path)} == {*before}
    assert (
        snapshot(tmp_path)["runs/mine/artifact/checkpoint.pth"] == before["runs/mine/artifact/checkpoint.pth"]
    )
    assert json.loads((tmp_path / "runs" / "mine" / "result.json").read_text())["status"] == "failed"


def test_a_folder_that_others_use_stays(tmp_path: Path) -> None:
    ours, theirs = (RunFolder(tmp_path / "outputs" / "run") for _ in range(2))
    ours.share()
    theirs.share()
    (ours.path / "train.log").touch()
    ours.remove({"train.log"})
    assert ours.path.is_dir()
    theirs.remove({"train.log"})  # this object did not create the folder
    assert ours.path.is_dir()


@pytest.mark.parametrize("name, stays", [("train.log", False), ("history.parquet", True)])
def test_a_folder_with_something_of_worth_stays(name: str, stays: bool, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "outputs" / "run")
    assert folder.take(new=True)
    (folder.path / name).touch()
    folder.remove({"train.log"})
    assert (tmp_path / "outputs").exists() == stays


def test_a_bad_job_among_good_ones_does_not_stop_a_sweep(
    tmp_path: Path, traffic_csv: Callable[..., Path]
) -> None:
    traffic_csv()
    quick = [
        "--dataset-file=traffic.csv",
        "trainer=cpu",
        "trainer.max_epochs=1",
        "refit=false",
        "logger=none",
    ]
    done = run_command("kforecast-train", "-m", *quick, "optimizer.lr=-1,0.01", cwd=tmp_path)
    assert done.returncode == 3
    assert "of 2 jobs 1 failed" in done.stderr


@pytest.mark.parametrize("path", ["occupied", "occupied/below/model"])
def test_save_path_is_a_file_or_below_one(
    path: str, tmp_path: Path, traffic_csv: Callable[..., Path]
) -> None:
    (tmp_path / "occupied").write_text("mine")
    assert_refused(
        [f"--dataset-file={traffic_csv()}", f"--model-save-path={path}"], ["occupied", "is a file"], tmp_path
    )
    assert (tmp_path / "occupied").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root ignores permission bits")
def test_save_path_may_not_be_written(tmp_path: Path, model: Path, traffic_csv: Callable[..., Path]) -> None:
    before = snapshot(model)
    model.chmod(0o555)
    try:
        done = run_command(
            "kforecast-train", f"--dataset-file={traffic_csv()}", "--model-save-path=model", cwd=tmp_path
        )
    finally:
        model.chmod(0o755)
    # The path is valid, but the disk refuses the write.
    assert done.returncode == 3
    assert re.fullmatch("error: .*model is not writable\n", done.stderr)
    assert snapshot(model) == before
    assert not (tmp_path / "outputs").exists()
