"""For any input, a parser returns something valid or raises one of our errors."""

import asyncio
import io
import json
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kforecast.config.legacy_cli import TrainConfigFile, file_tree, read_train_config
from kforecast.data.calendar import Calendar
from kforecast.data.panel import Panel
from kforecast.data.reading import read_panel
from kforecast.errors import ConfigError, DataError, KforecastError, SourceError
from kforecast.metrics.csv import CsvSource
from kforecast.metrics.fetching import Ask, FetchSettings, PassingError, Question, Series, fetch
from kforecast.metrics.kapacity import series_of as series_of_grpc
from kforecast.metrics.prometheus import PrometheusSource
from kforecast.metrics.prometheus import series_of as series_of_json
from kforecast.metrics.proto import provider_pb2 as pb
from kforecast.metrics.source import COLUMNS
from kforecast.metrics.timerange import TimeRange
from kforecast.window import FREQUENCIES, canonical_frequency, parse_duration, parse_instant

_CALM = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
FEW = settings(max_examples=120, **_CALM)
MANY = settings(max_examples=3000, **_CALM)
START = 1_704_067_200

HOSTILE = [
    *(
        "!!python/object/apply:os.system ['true']",
        "!!int x",
        "!!float ''",
        "!!timestamp never",
        "!!binary '*'",
    ),
    *(
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!bool maybe",
        "!unknown x",
        "!!null x",
        "!!str",
        "!!map []",
        "!!seq {}",
    ),
    *("&a [*a]", "*a", "&a x", "<<: *a", "<<: [x]", "? [a]\n: b", "[" * 400, "{" * 400, "]", "}", "- ", ": "),
    *(
        "0x" + "f" * 4000,
        "9" * 5000,
        "1" + ":59" * 3000,
        "1e400",
        ".nan",
        "-.inf",
        "0o17",
        "0b1",
        "1_000",
        "~",
    ),
    *("2024-99-99", "2024-01-01", "2024-01-01T00:00:00+99:99", "'\\", '"\\ud800"', '"\\x00"', "\x00", "\x85"),
    *(
        "|\n  x",
        ">-\n",
        "%YAML 9.9\n---\n",
        "---\n",
        "...\n",
        "\t",
        "\ufeff",
        "é",
        "𝔸",
        "#",
        "'",
        '"',
        "yes",
        "no",
    ),
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**300, -(2**63), 0, 1, -1]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["10min", "48H", "999999999D", "Pods", "External", "../../etc/passwd", "${oc.env:HOME}"]),
    st.dates(),
    st.binary(max_size=4),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
    max_leaves=8,
)
METRIC = {
    "type": "External",
    "external": {"metric": {"name": "qps", "selector": {"matchLabels": {"a": "b"}}}},
}
WORKLOAD = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
GOOD_CONFIG = {
    "targets": [
        {"workloadNamespace": "a", "workloadRef": WORKLOAD, "historyLength": "48H", "metrics": [METRIC]},
        {"workloadNamespace": "a", "workloadName": "b", "historyLength": "7D", "metrics": [METRIC]},
    ],
    "freq": "10min",
    "predictionLength": 3,
    "contextLength": 7,
    "hyperParams": {"learningRate": 0.001, "epochs": 1, "batchSize": 32},
}


@st.composite
def changed_configs(draw: Callable[..., Any]) -> bytes:
    """A valid file in which text was replaced, and perhaps inserted."""
    content = json.loads(json.dumps(GOOD_CONFIG))
    for _ in range(draw(st.integers(0, 3))):
        place = content
        while True:
            keys = [*place] if isinstance(place, dict) else [*range(len(place))]
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            place[key] = draw(VALUES)
            break
    text = yaml.safe_dump(content, allow_unicode=draw(st.booleans()))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(HOSTILE)) + text[at:]
    return text.encode("utf-8", errors="surrogatepass")


CONFIGS = changed_configs() | st.binary(max_size=200) | st.text(max_size=200).map(str.encode)


def assert_brief(error: Exception, start: str = "") -> None:
    """A message contains only printable text."""
    assert str(error).startswith(start)
    assert 0 < len(str(error)) < 20_000


def check_config(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    try:
        found = read_train_config(path)
    except ConfigError as error:
        assert_brief(error, str(path))
        return
    assert isinstance(found, TrainConfigFile)
    tree = file_tree(found)
    assert 1 <= tree["window"]["context_length"] <= 10_000
    assert math.isfinite(tree["optimizer"]["lr"])
    # Hydra gets only plain text and numbers.
    assert json.loads(json.dumps(tree)) == tree


@given(CONFIGS)
@example(b'freq: "\\U99999999"')
@FEW
def test_any_config_file(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    check_config(content, tmp_path_factory.getbasetemp() / "any.yaml")


@pytest.mark.slow
@given(CONFIGS)
@MANY
def test_very_many_config_files(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    check_config(content, tmp_path_factory.getbasetemp() / "any.yaml")


WORDS = st.one_of(
    st.text(max_size=12),
    st.from_regex(r"-?[0-9]{0,12}(min|H|h|D|d|S|s| )?[0-9]?", fullmatch=True),
    st.from_regex(r"[0-9]{1,5}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})?)?"),
    st.sampled_from(
        ["1e400", "nan", "-inf", "٣D", "1D\n", "9" * 5000, "\x00", "\ud800", "x" * 100_000, "0x1p3"]
    ),
)
ZONES = st.one_of(
    st.text(max_size=20),
    st.lists(
        st.sampled_from(["..", "/", "etc", "Europe", "Berlin", "\x00", "localtime", "tzdata.zi", "."])
    ).map("/".join),
    st.dictionaries(
        st.text(max_size=5) | st.integers(), st.sampled_from(["UTC", "Moon", "a/b", ""]), max_size=3
    ),
    VALUES,
)


def check_words(word: str, number: float | int) -> None:
    for parse in (parse_duration, parse_instant, canonical_frequency):
        try:
            found = parse(word)
        except ValueError:
            continue
        if parse is parse_duration:
            assert isinstance(found, int)
            assert 60 <= found <= 20_000 * 86_400
        elif parse is parse_instant:
            assert isinstance(found, int)
            assert 0 <= found < 1e11
        else:
            assert canonical_frequency(found) == found
    with suppress(ValueError):
        assert 0 <= parse_instant(number) < 1e11


def check_zone(zone: Any, country: Any) -> None:
    for name, value in (("timezone", zone), ("holidays", country)):
        try:
            Calendar.from_dict({"timezone": "UTC", "holidays": None} | {name: value})
        except ValueError as error:
            assert_brief(error)


NUMBERS = st.floats() | st.integers() | st.sampled_from([10**400, -(10**400), 2**63])


@given(WORDS, NUMBERS)
@FEW
def test_any_duration_and_moment(word: str, number: float) -> None:
    check_words(word, number)


@pytest.mark.slow
@given(WORDS, NUMBERS)
@MANY
def test_very_many_durations_and_moments(word: str, number: float) -> None:
    check_words(word, number)


@given(ZONES, VALUES)
@FEW
def test_any_time_zone_and_country(zone: Any, country: Any) -> None:
    check_zone(zone, country)


@pytest.mark.slow
@given(ZONES, VALUES)
@MANY
def test_very_many_time_zones_and_countries(zone: Any, country: Any) -> None:
    check_zone(zone, country)


TIMES = st.one_of(
    st.integers(0, 300).map(lambda n: str(START + 60 * n)),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["", "NaN", "1e30", "-0.0", "1e400", "2024-01-01", "1.5", "9223372036854775807", "0x10"]),
)
CELLS = st.one_of(
    st.floats().map(str),
    st.integers().map(str),
    st.sampled_from(
        ["", "NaN", "null", "1e35", "-1e35", "1e36", "inf", "true", "1,5", "1_0", "\x00", '"', "'"]
    ),
    st.text(max_size=3),
)
NAMES = st.sampled_from(["a", "b", "ab", "", "é", "a,b", '"', "\x00", "\n"]) | st.text(max_size=3)


@st.composite
def tables(draw: Callable[..., Any]) -> bytes:
    """Mostly valid rows, with columns in any order and any separator and line ending."""
    rows = draw(st.lists(st.tuples(TIMES, CELLS, NAMES, NAMES), max_size=12))
    good = [(str(START + 60 * n), "1.5", "a", "b") for n in range(draw(st.integers(0, 30)))]
    frame = pd.DataFrame([*good, *rows], columns=[*COLUMNS])
    columns = draw(st.permutations(COLUMNS) | st.lists(st.sampled_from([*COLUMNS, "extra"]), max_size=6))
    parts = {name: frame[name] if name in frame else frame["metric"] for name in columns}
    text = io.StringIO()
    separator = draw(st.sampled_from([",", ",", ",", ";", "\t"]))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    if parts:
        whole = pd.concat([parts[name].rename(name) for name in columns], axis=1)
        whole.to_csv(text, index=False, sep=separator, lineterminator=end, quoting=draw(st.integers(0, 2)))
    content = text.getvalue().encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])), "surrogatepass")
    at = draw(st.integers(0, len(content)))
    return (
        content[:at]
        + draw(st.sampled_from([b"", b"", b"\x00", b"\xff", b'"', b"\n", b",", b"\r"]))
        + content[at:]
    )


HISTORIES = (
    tables()
    | st.binary(max_size=100)
    | st.binary(max_size=60).map(b"timestamp,value,workload,metric\n".__add__)
)


def check_history(content: bytes, frequency: str, path: Path) -> None:
    path.write_bytes(content)
    try:
        panel = read_panel(CsvSource(path), FREQUENCIES[frequency])
    except DataError as error:
        assert_brief(error)
        return
    check_panel(panel)


def check_panel(panel: Panel) -> None:
    assert panel.observed.any()
    assert np.isfinite(panel.values).all()
    assert panel.start >= 0
    assert panel.num_bins * panel.num_series <= 1_000_000
    assert all(workload and metric for workload, metric in panel.series)


@given(HISTORIES, st.sampled_from([*FREQUENCIES]))
@FEW
def test_any_csv(tmp_path_factory: pytest.TempPathFactory, content: bytes, frequency: str) -> None:
    check_history(content, frequency, tmp_path_factory.getbasetemp() / "any.csv")


@pytest.mark.slow
@given(HISTORIES, st.sampled_from([*FREQUENCIES]))
@MANY
def test_very_many_csvs(tmp_path_factory: pytest.TempPathFactory, content: bytes, frequency: str) -> None:
    check_history(content, frequency, tmp_path_factory.getbasetemp() / "any.csv")


def fetched(answer: Callable[[], Sequence[Series]], combine: str) -> None:
    """Fetch from a server with the given answer, and check the result."""

    async def ask(query: str, chunk: TimeRange) -> Sequence[Series]:
        return answer()

    @asynccontextmanager
    async def connect() -> AsyncIterator[Ask[str]]:
        yield ask

    asked = Question("shop/web", "qps", "up", TimeRange(START, START + 600, 60), "up")
    made = FetchSettings(attempts=1, on_multiple=combine)  # type: ignore[arg-type]
    try:
        frame, _ = fetch("server:1", [asked], connect, made)
    except KforecastError as error:
        assert_brief(error)
        return
    assert frame["timestamp"].between(START, START + 600).all()
    assert frame["timestamp"].is_monotonic_increasing
    assert not np.isinf(frame["value"]).any()
    assert frame["value"].notna().any()


INT64 = st.integers(-(2**63), 2**63 - 1)
POINTS = st.lists(
    st.tuples(st.integers(0, 12).map(lambda n: (START + 60 * n) * 1000) | INT64, st.floats()), max_size=8
)
LABELS = st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2)


@st.composite
def grpc_answers(draw: Callable[..., Any]) -> bytes:
    series = [
        pb.Series(points=[pb.Point(timestamp=t, value=v) for t, v in draw(POINTS)], labels=draw(LABELS))
        for _ in range(draw(st.integers(0, 3)))
    ]
    content = pb.QueryResponse(series=series).SerializeToString()
    if draw(st.booleans()):
        return content
    at = draw(st.integers(0, len(content)))
    return content[:at] + draw(st.binary(max_size=6)) + content[at + draw(st.integers(0, 4)) :]


GRPC = grpc_answers() | st.binary(max_size=80)
POINT = pb.Point(timestamp=START * 1000, value=math.nan)
NOTHING_TWICE = pb.QueryResponse(
    series=[pb.Series(points=[POINT], labels={"pod": pod}) for pod in "ab"]
).SerializeToString()
COMBINE = st.sampled_from(["sum", "mean", "error"])


def check_grpc(content: bytes, combine: str) -> None:
    try:
        for series in series_of_grpc(content):
            assert len(series.timestamps) == len(series.values)
    except PassingError:
        pass
    fetched(lambda: series_of_grpc(content), combine)


@given(GRPC, COMBINE)
@example(NOTHING_TWICE, "mean")
@FEW
def test_any_grpc_answer(content: bytes, combine: str) -> None:
    check_grpc(content, combine)


@pytest.mark.slow
@given(GRPC, COMBINE)
@MANY
def test_very_many_grpc_answers(content: bytes, combine: str) -> None:
    check_grpc(content, combine)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
TEXTS = (
    st.floats().map(str) | st.sampled_from(["+Inf", "-Inf", "NaN", "", "1e400", "x" * 100_000, "0x1"]) | JSON
)
MOMENTS = st.integers(0, 12).map(lambda n: START + 60 * n) | st.floats() | st.just(10**400) | JSON
MATRIX = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "metric": LABELS | JSON,
            "values": st.lists(st.tuples(MOMENTS, TEXTS).map(list) | JSON, max_size=5) | JSON,
        },
    )
    | JSON,
    max_size=3,
)
BODIES = st.fixed_dictionaries(
    {"status": st.sampled_from(["success", "success", "success", "error"]) | JSON},
    optional={
        "data": st.fixed_dictionaries({}, optional={"resultType": JSON, "result": MATRIX | JSON}) | JSON,
        **dict.fromkeys(("error", "errorType", "warnings", "infos", "isPartial"), JSON),
    },
)
REPLIES = st.one_of(
    BODIES.map(json.dumps).map(str.encode),
    JSON.map(json.dumps).map(str.encode),
    st.binary(max_size=60),
    st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b'"\\ud800"', b"\xef\xbb\xbf{}", b""]),
)
STATUSES = st.sampled_from([200, 200, 200, 400, 401, 404, 422, 503, 204])


def check_json(status: int, body: bytes, combine: str) -> None:
    query = {"workload": "shop/web", "metric": "qps", "query": "up"}
    source = PrometheusSource(url="http://localhost:1", queries=[query])

    async def answer() -> list[Series]:
        @asynccontextmanager
        async def session() -> AsyncIterator[Any]:
            async def call(endpoint: str, parameters: dict[str, str]) -> dict[str, Any]:
                return source._read(status, body, parameters["query"])

            yield call

        object.__setattr__(source, "session", session)
        async with source.connect() as ask:
            return list(await ask("up", TimeRange(START, START + 600, 60)))

    try:
        series = asyncio.run(answer())
    except (SourceError, PassingError) as error:
        assert_brief(error)
        return
    fetched(lambda: series, combine)


@given(STATUSES, REPLIES, COMBINE)
@FEW
def test_any_answer_of_a_prometheus(status: int, body: bytes, combine: str) -> None:
    check_json(status, body, combine)


@pytest.mark.slow
@given(STATUSES, REPLIES, COMBINE)
@MANY
def test_very_many_answers_of_a_prometheus(status: int, body: bytes, combine: str) -> None:
    check_json(status, body, combine)


def test_an_answer_without_series_is_refused() -> None:
    with pytest.raises(ValueError, match="not a list of series"):
        series_of_json({"status": "success", "data": None})
