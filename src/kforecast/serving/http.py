"""The answers of a board over HTTP: numbers as JSON, metrics as text, a page for people."""

import asyncio
import hmac
import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict

from aiohttp import web

from kforecast.errors import SourceError
from kforecast.serving.board import Board
from kforecast.serving.exposition import CONTENT_TYPE, Exposition
from kforecast.serving.page import page
from kforecast.serving.snapshot import AskError, NothingHonestError, UnknownSeriesError
from kforecast.version import __version__

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
# No request has a body.
_MOST_BYTES = 1024
# Connections beyond these are closed at once.
_MOST_CONNECTIONS = 1000
# Seconds: a quiet connection is closed, and pending requests end after SIGTERM.
_QUIET, _GRACE = 75.0, 2.0
_OPEN_PATHS = ("/healthz", "/readyz")
_PARAMETERS = ("workload", "metric", "quantile", "lead", "window")


class Refusing(asyncio.Protocol):
    """Closes a connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it."""
        transport.close()


def application(
    board: Board, exposition: Exposition, token: Callable[[], str] | None = None
) -> web.Application:
    """The routes.

    Parameters
    ----------
    token:
        Returns the bearer token that clients must send; None to answer everybody. Probes need none.
    """

    @web.middleware
    async def careful(request: web.Request, handler: Handler) -> web.StreamResponse:
        if token is not None and request.path not in _OPEN_PATHS and not _knows(request, token()):
            return _error(401, "give the token: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})
        try:
            return await handler(request)
        except AskError as error:
            return _error(400, str(error))
        except UnknownSeriesError as error:
            return _error(404, str(error))
        except NothingHonestError as error:
            return _error(503, str(error))
        except web.HTTPException as error:
            return _error(error.status, error.reason)

    async def forecast(request: web.Request) -> web.Response:
        asked = request.query
        for name in asked:
            if name not in _PARAMETERS:
                raise AskError(f"unknown parameter {name!r}; known: {', '.join(_PARAMETERS)}")
            if len(asked.getall(name)) > 1:
                raise AskError(f"{name} is given more than once")
        if missing := [name for name in ("workload", "metric") if not asked.get(name)]:
            raise AskError(f"{' and '.join(missing)} missing: /forecast?workload=...&metric=...")
        numbers = {name: _number(asked, name) for name in ("quantile", "lead", "window")}
        answer = board.ask(asked["workload"], asked["metric"], **numbers)
        return web.json_response(asdict(answer))

    async def metrics(request: web.Request) -> web.Response:  # noqa: ARG001
        return web.Response(body=await exposition.render(), headers={"Content-Type": CONTENT_TYPE})

    async def people(request: web.Request) -> web.Response:
        asked = request.query
        first = _number(asked, "first") or 0.0
        text = page(
            board,
            workload=asked.get("workload"),
            metric=asked.get("metric"),
            search=asked.get("search", ""),
            first=int(min(max(first, 0.0), 1e9)),
        )
        return web.Response(text=text, content_type="text/html")

    async def healthz(request: web.Request) -> web.Response:  # noqa: ARG001
        return web.json_response({"alive": True})

    async def readyz(request: web.Request) -> web.Response:  # noqa: ARG001
        if board.snapshot is None:
            raise NothingHonestError(board.reason)
        return web.json_response({"ready": True})

    async def openapi(request: web.Request) -> web.Response:  # noqa: ARG001
        return web.json_response(_OPENAPI)

    made = web.Application(middlewares=[careful], client_max_size=_MOST_BYTES)
    routes = {
        "/": people,
        "/forecast": forecast,
        "/metrics": metrics,
        "/healthz": healthz,
        "/readyz": readyz,
        "/openapi.json": openapi,
    }
    made.add_routes([web.get(path, handler) for path, handler in routes.items()])
    return made


@asynccontextmanager
async def serving(
    made: web.Application, address: str, certificate: ssl.SSLContext | None
) -> AsyncIterator[int]:
    """Answer at ``HOST:PORT`` until the block ends; yields the port.

    Raises
    ------
    SourceError
        When the server cannot listen on the address.
    """
    host, _, port = address.rpartition(":")
    runner = web.AppRunner(made, access_log=None, keepalive_timeout=_QUIET, shutdown_timeout=_GRACE)
    await runner.setup()
    web_server = runner.server
    assert web_server is not None

    def accept() -> asyncio.Protocol:
        return web_server() if len(web_server.connections) < _MOST_CONNECTIONS else Refusing()

    try:
        try:
            server = await asyncio.get_running_loop().create_server(
                accept, host.strip("[]"), int(port), ssl=certificate
            )
        except (OSError, OverflowError) as error:
            raise SourceError(
                f"cannot listen on {address}: {error}; choose another: serve.address=HOST:PORT"
            ) from error
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            # Not `async with`: it would wait for clients that do not read their answer.
            server.close()
    finally:
        await runner.cleanup()  # pending requests have _GRACE seconds


def _knows(request: web.Request, token: str) -> bool:
    sent = request.headers.get("Authorization", "")
    return hmac.compare_digest(sent.encode("utf-8", "surrogateescape"), f"Bearer {token}".encode())


def _number(asked: Mapping[str, str], name: str) -> float | None:
    text = asked.get(name)
    if text is None:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise AskError(f"{name} is {text[:100]!r}, which is not a number")
    return number


def _error(status: int, words: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": words}, status=status, headers=headers)


def _parameter(name: str, kind: str, words: str, required: bool = False) -> dict[str, object]:
    return {"name": name, "in": "query", "required": required, "schema": {"type": kind}, "description": words}


_OPENAPI = {
    "openapi": "3.1.0",
    "info": {"title": "kforecast-serve", "version": __version__},
    "paths": {
        "/forecast": {
            "get": {
                "summary": "One number to scale a series on, and how it was made",
                "parameters": [
                    _parameter("workload", "string", "the workload, as in training", True),
                    _parameter("metric", "string", "the metric, as in training", True),
                    _parameter("quantile", "number", "between 0.005 and 0.995"),
                    _parameter("window", "number", "seconds from now: the largest forecast of this time"),
                    _parameter("lead", "number", "seconds from now: the forecast for that moment"),
                ],
                "responses": {
                    "200": {"description": "a number that is honest now: value"},
                    "400": {"description": "a wrong question: error names the parameter"},
                    "404": {"description": "an unknown series: error names known ones"},
                    "503": {"description": "no honest number: error says why"},
                },
            }
        },
        **{
            path: {"get": {"summary": words, "responses": {"200": {"description": words}}}}
            for path, words in {
                "/": "a page for people",
                "/metrics": "metrics in the text format of Prometheus",
                "/healthz": "the process lives",
                "/readyz": "a first forecast exists; 503 with the reason before",
            }.items()
        },
    },
}
