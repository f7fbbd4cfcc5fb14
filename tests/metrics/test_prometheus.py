"""``source=prometheus`` with a server in this process that implements the API."""

import base64
import datetime
import json
import logging
import math
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import trustme

from conftest import HANG, run_command
from kforecast.errors import SourceError
from kforecast.metrics import fetching
from kforecast.metrics.prometheus import PrometheusSource

END = 1_704_100_000 // 60 * 60
Reply = tuple[int, Any]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FIRST_PAUSE", 0.001)


def moments(query: dict[str, str]) -> range:
    step = int(query["step"])
    return range(int(query["start"]), int(query["end"]) + step, step)


def matrix(
    *series: tuple[dict[str, str], Callable[[int], str]], **more: Any
) -> Callable[[dict[str, str]], Reply]:
    def reply(query: dict[str, str]) -> Reply:
        result = [
            {"metric": labels, "values": [[t, value(t)] for t in moments(query)]} for labels, value in series
        ]
        return 200, {"status": "success", "data": {"resultType": "matrix", "result": result}, **more}

    return reply


GOOD = matrix(({"pod": "a"}, lambda t: str(t % 1000 / 7)))


class Server:
    """Answers with ``reply``, but the first requests with ``first``."""

    def __init__(
        self, reply: Callable[[dict[str, str]], Reply] = GOOD, first: tuple[Reply, ...] = ()
    ) -> None:
        self.reply, self.first = reply, list(first)
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.headers: list[dict[str, str]] = []

    @contextmanager
    def serve(self, context: ssl.SSLContext | None = None) -> Iterator[str]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                self.answer(dict(parse_qsl(body)))

            def do_GET(self) -> None:
                self.answer(dict(parse_qsl(urlsplit(self.path).query)))

            def answer(self, query: dict[str, str]) -> None:
                outer.requests.append((self.command, urlsplit(self.path).path, query))
                outer.headers.append(dict(self.headers))
                status, content = outer.first.pop(0) if outer.first else outer.reply(query)
                body = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                # A status of our own that means a truncated answer.
                self.send_header("Content-Length", str(len(body) + (10 if content == b"cut" else 0)))
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = True

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http{'s' if context else ''}://localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


QUERY = {"workload": "shop/web", "metric": "qps", "query": "sum(rate(x[5m]))"}


def source(url: str, **settings: Any) -> PrometheusSource:
    defaults = {"queries": [QUERY], "history": "2H", "end": END, "deadline": HANG}
    return PrometheusSource(url=url, **defaults | settings)


@pytest.mark.parametrize("prefix", ["", "/prometheus/"])
def test_chunks_are_exact(prefix: str) -> None:
    server = Server()
    with server.serve() as url:
        frame = source(url + prefix, chunk_points=7).fetch()
    grid = [*range(END - 7200, END + 60, 60)]
    assert frame["timestamp"].tolist() == grid
    assert frame["value"].tolist() == [t % 1000 / 7 for t in grid]
    assert len(server.requests) == 18
    assert {path for _, path, _ in server.requests} == {f"{prefix.rstrip('/')}/api/v1/query_range"}
    assert {query["query"] for _, _, query in server.requests} == {QUERY["query"]}


def test_nan_is_missing_and_infinity_is_refused() -> None:
    with Server(matrix(({}, lambda t: "NaN" if t < END - 3600 else "1.5"))).serve() as url:
        frame = source(url).fetch()
    assert frame["value"].isna().sum() == 60
    with (
        Server(matrix(({}, lambda t: "+Inf"))).serve() as url,
        pytest.raises(SourceError, match=r"shop/web, metric qps .* infinite"),
    ):
        source(url).fetch()


def test_several_series_are_combined() -> None:
    two = matrix(({"pod": "a"}, lambda t: "1"), ({"pod": "b"}, lambda t: "3"))
    with Server(two).serve() as url:
        assert set(source(url).fetch()["value"]) == {4.0}
        assert set(source(url, on_multiple="mean").fetch()["value"]) == {2.0}
        with pytest.raises(SourceError, match=r"2 series answer where one is wanted: \{pod=a\}, \{pod=b\}"):
            source(url, on_multiple="error").fetch()


def test_an_empty_answer_names_what_was_asked() -> None:
    with Server(matrix()).serve() as url, pytest.raises(SourceError) as caught:
        source(url).fetch()
    for word in (url, "workload shop/web", "metric qps", QUERY["query"], "2024-01-01", "no value"):
        assert word in str(caught.value)


@pytest.mark.parametrize("failure", [(503, {"status": "error", "error": "busy"}), (429, b""), (200, b"cut")])
def test_what_may_pass_is_tried_again(failure: Reply) -> None:
    server = Server(first=(failure, failure))
    with server.serve() as url:
        assert len(source(url).fetch()) == 121
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "reply, words",
    [
        (
            (400, {"status": "error", "errorType": "bad_data", "error": "parse error:\n unclosed"}),
            ["parse error: unclosed (HTTP 400, query: sum(rate(x[5m])))"],
        ),
        (
            (422, {"status": "error", "errorType": "execution", "error": "too many samples"}),
            ["too many samples"],
        ),
        ((401, b"who are you"), ["HTTP 401: who are you", "source.token_file"]),
        ((404, b"<html>"), ["HTTP 404 is not the answer of a Prometheus", "/api/v1"]),
        ((302, b""), ["HTTP 302 is not the answer of a Prometheus"]),
        ((200, b"<html>welcome"), ["is not the answer of a Prometheus", "<html>welcome"]),
        ((200, {"status": "success", "isPartial": True, "data": {"result": []}}), ["partial"]),
    ],
    ids=["parse", "execution", "401", "404", "302", "html", "partial"],
)
def test_what_is_for_good_is_one_line_and_asked_once(reply: Reply, words: list[str]) -> None:
    server = Server(lambda query: reply)
    with server.serve() as url, pytest.raises(SourceError) as caught:
        source(url).fetch()
    said = str(caught.value)
    assert said.startswith(url)
    assert [word for word in words if word not in said] == []
    assert "\n" not in said
    assert len(server.requests) == 1


def test_warnings_of_the_server_are_shown_once(caplog: pytest.LogCaptureFixture) -> None:
    with Server(matrix(({}, lambda t: "1"), warnings=["old data"], infos=["a hint"])).serve() as url:
        asked = source(url, chunk_points=10)
        asked.fetch()
    assert [r.message for r in caplog.records] == [f"{url} warns: old data", f"{url} warns: a hint"]
    assert asked.report is not None
    assert asked.report.warnings == ["old data", "a hint"]


def test_a_proxy_that_lets_only_get_through() -> None:
    server = Server(first=((405, b""),))
    with server.serve() as url:
        assert len(source(url, chunk_points=50, concurrency=1).fetch()) == 121
    assert [method for method, _, _ in server.requests] == ["POST", "GET", "GET", "GET"]


def test_a_server_that_is_too_slow() -> None:
    given_up = threading.Event()

    def too_late(query: dict[str, str]) -> Reply:
        given_up.wait(HANG)
        return GOOD(query)

    server = Server(too_late)
    with server.serve() as url:
        with pytest.raises(SourceError, match=r"no answer within 0\.2 s \(2 attempts"):
            source(url, deadline=0.2, attempts=2).fetch()
        given_up.set()
    assert len(server.requests) <= 2


def test_credentials_arrive_and_are_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "secret").write_text("hush\n")
    monkeypatch.setenv("SECRET", "hush")
    file = str(tmp_path / "secret")
    basic = f"Basic {base64.b64encode('müller:hush'.encode()).decode()}"
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"token_file": file}, "Authorization", "Bearer hush"),
        ({"token_env": "SECRET"}, "Authorization", "Bearer hush"),
        ({"username": "müller", "password_file": file}, "Authorization", basic),
        ({"username": "müller", "password_env": "SECRET"}, "Authorization", basic),
        ({"headers": {"X-Scope-OrgID": "team"}}, "X-Scope-OrgID", "team"),
        ({"secret_headers": {"X-Api-Key": "SECRET"}}, "X-Api-Key", "hush"),
    ]
    server = Server()
    with server.serve() as url:
        for settings, header, value in cases:
            asked = source(url, **settings)
            asked.fetch()
            assert server.headers[-1][header] == value
            assert "hush" not in repr(asked) + str(asked) + asked.model_dump_json() + repr(asked.report)
    assert "hush" not in caplog.text


@pytest.mark.parametrize(
    "settings, words",
    [
        (["source.url=localhost:9090"], ["source.url", "is not a URL"]),
        (["source.url=http://me:hush@h"], ["source.url", "password_file"]),
        (["source.url=http://h", "source.headers={Authorization: hush}"], ["source.headers", "token_file"]),
        (["source.url=http://h", "source.username=me"], ["without a password"]),
        (["source.url=http://h", "source.password_env=SECRET"], ["without username"]),
        (
            [
                "source.url=http://h",
                "source.username=a",
                "source.password_env=SECRET",
                "source.token_env=SECRET",
            ],
            ["both"],
        ),
        (
            ["source.url=http://h", "source.token_env=NOWHERE"],
            ["source.token_env", "NOWHERE holds no secret"],
        ),
        (["source.url=http://h", "source.queries=[]"], ["source.queries: empty"]),
    ],
    ids=lambda value: value[-1].partition("=")[0] if "=" in value[-1] else None,
)
def test_wrong_settings_are_refused_and_no_secret_is_repeated(
    settings: list[str], words: list[str], tmp_path: Path
) -> None:
    done = run_command(
        "kforecast-fetch", "source=prometheus", *settings, cwd=tmp_path, env={"SECRET": "hush"}
    )
    assert done.returncode == 2, done.stderr
    assert [word for word in words if word not in done.stderr] == []
    assert "hush" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_same_series_twice() -> None:
    with pytest.raises(ValueError, match=r"queries\[0\] and queries\[1\] have the same series key"):
        source("http://localhost:1", queries=[QUERY, QUERY])


LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


@pytest.mark.parametrize("case", ["right", "wrong", "expired"])
def test_https_with_an_authority_of_our_own(case: str, tmp_path: Path) -> None:
    ca = trustme.CA()
    dates = {"not_before": LONG_AGO, "not_after": LONG_AGO + datetime.timedelta(days=1)}
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost", **(dates if case == "expired" else {})).configure_cert(context)
    (trustme.CA() if case == "wrong" else ca).cert_pem.write_to_path(tmp_path / "ca.pem")
    server = Server()
    with server.serve(context) as url:
        asked = source(url, tls={"ca": str(tmp_path / "ca.pem")})
        if case == "right":
            assert len(asked.fetch()) == 121
            return
        with pytest.raises(SourceError) as caught:
            asked.fetch()
    assert str(caught.value).startswith(f"{url}: the server's certificate is refused: ")
    assert ("expired" in str(caught.value)) == (case == "expired")
    assert "\n" not in str(caught.value)
    assert server.requests == []


def test_numbers_come_as_text_and_lose_nothing() -> None:
    with Server(matrix(({}, lambda t: repr(math.pi * t)))).serve() as url:
        frame = source(url).fetch()
    assert frame["value"].tolist() == [math.pi * t for t in frame["timestamp"]]


def result_of(kind: str, result: Any) -> Callable[[dict[str, str]], Reply]:
    return lambda _: (200, {"status": "success", "data": {"resultType": kind, "result": result}})


HISTOGRAM = {"count": "3", "sum": "6", "buckets": [[0, "1", "2", "3"]]}


@pytest.mark.parametrize(
    "kind, result, words",
    [
        ("scalar", [END, "7"], ["is a scalar, a number without a series", "sum(rate("]),
        ("string", [END, "seven"], ["is a string, a text"]),
        ("vector", [{"metric": {}, "value": [END, "7"]}], ["is a vector, the values of one moment"]),
        (
            "matrix",
            [{"metric": {"__name__": "latency"}, "histograms": [[END, HISTOGRAM]]}],
            ["is a native histogram", "histogram_count(rate(latency[5m]))", "histogram_quantile(0.95, "],
        ),
        (
            "matrix",
            [
                {"metric": {"pod": "a"}, "values": [[END, "7"]]},
                {"metric": {"pod": "b"}, "values": [[END, "7"]], "histograms": [[END, HISTOGRAM]]},
            ],
            ["holds numbers and native histograms", "histogram_count("],
        ),
    ],
    ids=["scalar", "string", "vector", "histogram", "histogram among numbers"],
)
def test_answers_that_are_no_series_of_numbers_are_refused_by_name(
    kind: str, result: Any, words: list[str]
) -> None:
    with Server(result_of(kind, result)).serve() as url, pytest.raises(SourceError) as error:
        source(url).fetch()
    said = str(error.value)
    assert [word for word in words if word not in said] == []
    assert "query: " in said
    assert "\n" not in said
