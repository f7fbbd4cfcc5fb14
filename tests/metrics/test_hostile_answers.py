"""Answers of a server that is not (or no longer) a Prometheus: one error of ours, in bounded memory."""

import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from conftest import START
from kforecast.errors import KforecastError
from kforecast.metrics.prometheus import PrometheusSource

POINT = f'[{START + 60}, "1"]'


def result(*series: str) -> bytes:
    return f'{{"status": "success", "data": {{"result": [{", ".join(series)}]}}}}'.encode()


def values(*pairs: str, labels: str = "{}") -> bytes:
    return result(f'{{"metric": {labels}, "values": [{", ".join(pairs)}]}}')


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, list[bytes]]]:
    content: list[bytes] = [b""]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(len(content[0])))
            self.end_headers()
            self.wfile.write(content[0])

        def log_message(self, *_: object) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_address[1]}", content
    running.shutdown()
    running.server_close()


def source(url: str) -> PrometheusSource:
    queries = [{"workload": "shop/web", "metric": "qps", "query": "up"}]
    return PrometheusSource(url=url, queries=queries, end=START + 3600, history="1H", attempts=1)  # type: ignore[arg-type]


ANSWERS = {
    "nothing": b"",
    "null": b"null",
    "depth": b"[" * 200_000,
    "depth in objects": b'{"a":' * 100_000,
    "no data": b'{"status": "success"}',
    "no result": b'{"status": "success", "data": {}}',
    "a list of data": b'{"status": "success", "data": []}',
    "numbers for series": result("1", "2"),
    "half a point": values("[1]"),
    "text for a moment": values('["x", "1"]'),
    "text for a value": values(f'[{START}, "x"]'),
    "no value": values(f"[{START}, null]"),
    "a mapping of points": result('{"metric": {}, "values": {"a": 1}}'),
    "a list of labels": values(POINT, labels="[1]"),
    "a label that is a list": values(POINT, labels='{"a": [1]}'),
    "a moment without end": values('[1e400, "1"]'),
    "a moment of many digits": values(f'[{"9" * 400}, "1"]'),
    "a moment of too many digits": values(f'[{"9" * 5000}, "1"]'),
    "a moment in the year 10^300": values('[1e300, "1"]'),
    "a long value among many": values(f'[{START}, "x{"1" * 1_000_000}"]', *[POINT] * 10_000),
    "an error that is none": b'{"status": "error", "error": {"a": ["\\u001b[2J"]}}',
    "an error that does not end": b'{"status": "error", "error": "' + b"x" * 1_000_000 + b'"}',
}


@pytest.mark.parametrize("what", ANSWERS)
@pytest.mark.filterwarnings("error")
def test_an_answer_that_is_none(what: str, server: tuple[str, list[bytes]]) -> None:
    url, content = server
    content[0] = ANSWERS[what]
    with pytest.raises(KforecastError) as caught:
        source(url).fetch()
    message = str(caught.value)
    assert message.startswith(url)
    assert message.isprintable()
    assert len(message) < 2000


def test_words_that_a_terminal_would_obey_are_not_repeated(
    server: tuple[str, list[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    url, content = server
    name = r'"\ud800\u001b[2J\u001b]0;title\u0007"'
    one, other = (f'{{"metric": {{{name}: {label}}}, "values": [{POINT}]}}' for label in (name, '"b"'))
    content[0] = result(one, other).replace(b"{", f'{{"warnings": [{name}], '.encode(), 1)
    asked = source(url)
    assert asked.fetch()["value"].tolist() == [2.0]
    assert asked.report is not None
    said = caplog.text + json.dumps(asked.report.as_dict(), ensure_ascii=False)
    assert said.encode().isascii() is False
    assert "\x1b" not in said
