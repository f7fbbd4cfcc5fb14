"""``source=prometheus``: PromQL queries over the HTTP API of Prometheus or a compatible server.

https://prometheus.io/docs/prometheus/latest/querying/api/#range-queries
"""

import base64
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import aiohttp
import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from kforecast.errors import ConfigError, SourceError
from kforecast.files.untrusted import shortened
from kforecast.metrics.credentials import SecretFile, SecretVariable, is_loopback, read_secret
from kforecast.metrics.fetching import Ask, PassingError, Question, Series, TooLargeError
from kforecast.metrics.proxies import Proxy, check_proxy, from_environment, shown
from kforecast.metrics.server_source import ServerSource
from kforecast.metrics.spec import Duration, Name, check_keys_differ
from kforecast.metrics.timerange import TimeRange
from kforecast.metrics.units import guess_unit
from kforecast.window import parse_duration

# Results that have no values over time, and what to do.
_NO_SERIES = {
    "scalar": "a number without a series; query a series over time, like sum(rate(http_requests_total[5m]))",
    "string": "a text; query a series over time, like sum(rate(http_requests_total[5m]))",
    "vector": "the values of one moment; is source.url the API of a Prometheus, with query_range?",
}
# Only a wrong query has an answer of this size; a series of 11,000 points takes 300 KB.
MOST_BYTES = 256 * 2**20
# Messages quote at most this many characters of a server's text.
_MOST_WORDS = 1000
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_SECRET_HEADER = re.compile(
    r"authori[sz]ation|cookie|token|secret|password|api-?key|credential", re.IGNORECASE
)


class PromQuery(BaseModel):
    """One series: its identity and its PromQL query."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    workload: Name
    metric: Name
    query: Annotated[str, Field(min_length=1)]


def _check_queries(queries: list[PromQuery]) -> list[PromQuery]:
    check_keys_differ((f"queries[{i}]", query.workload, query.metric) for i, query in enumerate(queries))
    return queries


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        said = url if "@" not in url else "it"
        raise ValueError(f"{said!r} is not a URL like http://localhost:9090")
    if parts.username or parts.password:
        raise ValueError("holds a user or password; give them as username and password_file or password_env")
    if parts.query or parts.fragment:
        raise ValueError("holds a query string or a fragment; give the URL without it")
    return url.rstrip("/")


def _check_headers(headers: dict[str, str]) -> dict[str, str]:
    for name in headers:
        if _SECRET_HEADER.search(name):
            raise ValueError(
                f"{name} looks like a secret, which does not belong in a configuration; name an "
                f"environment variable that holds it, secret_headers={{{name}: VARIABLE}}, or use token_file"
            )
    return headers


def _check_proxy(proxy: str) -> str:
    return proxy if proxy == "none" else check_proxy(proxy if "//" in proxy else f"http://{proxy}")


class PrometheusSource(ServerSource):
    """A list of PromQL queries to the server at ``url``."""

    url: Annotated[str, AfterValidator(_check_url)]
    """Base URL of the API, without ``/api/v1`` but with any path prefix."""
    queries: Annotated[list[PromQuery], AfterValidator(_check_queries)] = Field(default=[])
    """``{workload, metric, query}`` of each series."""
    history: Duration = "14D"
    """Length of the history: an integer and min, H or D."""
    headers: Annotated[dict[str, str], AfterValidator(_check_headers)] | None = None
    """Headers of every request; none of them secret."""
    secret_headers: dict[str, SecretVariable] | None = None
    """Secret headers: name -> environment variable that holds the value."""
    proxy: Annotated[str, AfterValidator(_check_proxy)] | None = Field(None, repr=False, exclude=True)
    """URL of an HTTP proxy; ``none`` for the direct way; null takes the environment's (``http_proxy``)."""
    username: str | None = None
    """User of basic authentication; ``password_file`` or ``password_env`` names the password."""
    password_file: SecretFile | None = None
    """File that holds the password."""
    password_env: SecretVariable | None = None
    """Environment variable that holds the password."""

    @model_validator(mode="after")
    def _one_credential(self) -> "PrometheusSource":
        password = self.password_file is not None or self.password_env is not None
        if password and self.username is None:
            raise ValueError("a password without username; basic authentication needs both")
        if self.username is not None and not password:
            raise ValueError("username without a password; name password_file or password_env")
        if self.username is not None and (self.token_file is not None or self.token_env is not None):
            raise ValueError("username and a token cannot both be sent; choose one")
        return self

    def __str__(self) -> str:
        return f"{len(self.queries):,} {'query' if len(self.queries) == 1 else 'queries'} to {self.url}"

    @property
    def server(self) -> str:
        """The URL."""
        return self.url

    def check(self) -> None:
        """Check the settings and the environment's proxy without asking the server; raises ConfigError."""
        super().check()
        self.way_through()

    def way_through(self) -> Proxy | None:
        """The proxy on the way to the server; None for the direct way.

        Raises
        ------
        ConfigError
            When the environment's proxy is not one of HTTP.
        """
        if self.proxy is not None:
            return None if self.proxy == "none" else Proxy(self.proxy, "source.proxy", "source.proxy=none")
        parts = urlsplit(self.url)
        # Not HTTP_PROXY: curl ignores it, because in a CGI script it would be a header of the client.
        variables = ["http_proxy"] if parts.scheme == "http" else ["https_proxy", "HTTPS_PROXY"]
        port = parts.port or (80 if parts.scheme == "http" else 443)
        found = from_environment(parts.hostname or "", port, [*variables, "all_proxy", "ALL_PROXY"])
        try:
            return found and Proxy(check_proxy(found.url), found.origin, found.around)
        except ValueError as error:
            assert found is not None
            raise ConfigError(
                f"{found.origin}: {error}; {found.around} or source.proxy=none goes around it, and "
                "source.proxy=URL takes another"
            ) from error

    @property
    def way(self) -> str:
        """The end of a message about a failure; see :attr:`FetchSettings.way`."""
        proxy = self.way_through()
        return "" if proxy is None else proxy.way

    @property
    def is_plain_text(self) -> bool:
        """Whether the URL is http and the server is not on this machine."""
        parts = urlsplit(self.url)
        return parts.scheme == "http" and not is_loopback(parts.hostname or "")

    def questions(self, now: float) -> list[Question[str]]:
        """One question per query.

        Raises
        ------
        ConfigError
            When there are no queries.
        """
        if not self.queries:
            raise ConfigError(
                "source.queries: empty, so there is nothing to ask Prometheus for; list "
                "{workload: ..., metric: ..., query: PROMQL}"
            )
        asked = TimeRange.ending(now, parse_duration(self.history), self.step)
        return [Question(one.workload, one.metric, one.query, asked, one.query) for one in self.queries]

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Ask[str]]:
        """Open one session for all requests."""
        async with self.session() as call:

            async def ask(query: str, chunk: TimeRange) -> list[Series]:
                parameters = {
                    "query": query,
                    "start": str(chunk.start),
                    "end": str(chunk.end),
                    "step": str(chunk.step),
                    # No partial answers from Thanos and VictoriaMetrics; Prometheus has none anyway.
                    "partial_response": "false",
                    "deny_partial_response": "1",
                }
                answer = await call("query_range", parameters)
                for notes in (answer.get("warnings"), answer.get("infos")):
                    for warning in notes if isinstance(notes, list) else ():
                        self.warn(shortened(warning, _MOST_WORDS))
                try:
                    return series_of(answer)
                except ValueError as error:
                    raise SourceError(f"{self.url}: {error} (query: {query})") from error

            yield ask

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Callable[[str, dict[str, str]], Awaitable[dict[str, Any]]]]:
        """Open an HTTP session; yield a function that calls an endpoint below ``/api/v1``.

        The function takes the endpoint and its parameters, and raises the errors that
        :func:`kforecast.metrics.fetching.fetch` expects.
        """
        if self.tls.wanted or self.url.startswith("https:"):
            tls: Any = self.tls.context()
        else:
            tls = True
        through = self._through_proxy()
        connector = aiohttp.TCPConnector(limit=self.concurrency, ssl=tls)
        timeout = aiohttp.ClientTimeout(total=self.deadline)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            headers, method = self._headers() | through.pop("headers", {}), "POST"

            async def call(endpoint: str, parameters: dict[str, str]) -> dict[str, Any]:
                nonlocal method
                # POST, because a query may be longer than a URL; GET for proxies that refuse POST.
                sent = {"data": parameters} if method == "POST" else {"params": parameters}
                try:
                    async with session.request(
                        method,
                        f"{self.url}/api/v1/{endpoint}",
                        headers=headers,
                        server_hostname=self.tls.server_name,
                        allow_redirects=False,
                        **through,
                        **sent,  # type: ignore[arg-type]
                    ) as response:
                        if response.status in (405, 501) and method == "POST":
                            method = "GET"
                            return await call(endpoint, parameters)
                        body = bytearray()
                        async for part in response.content.iter_any():
                            body += part
                            if len(body) > MOST_BYTES:
                                raise TooLargeError(f"more than {MOST_BYTES:,} bytes")
                except aiohttp.ClientConnectorCertificateError as error:
                    raise SourceError(
                        f"{self.url}: the server's certificate is refused: {error.certificate_error} "
                        f"(source.tls.ca, source.tls.server_name){self.way}"
                    ) from error
                except aiohttp.ClientHttpProxyError as error:
                    raise self._refused_by_proxy(error.status, error.message) from error
                except aiohttp.ClientError as error:
                    raise PassingError(f"cannot be reached: {str(error) or type(error).__name__}") from error
                return self._read(response.status, bytes(body), parameters["query"])

            yield call

    def _through_proxy(self) -> dict[str, Any]:
        """Arguments of a request through the proxy; its ``headers`` are meant for the proxy, too."""
        proxy = self.way_through()
        if proxy is None:
            return {}
        parts = urlsplit(proxy.url)
        found: dict[str, Any] = {"proxy": shown(proxy.url)}
        if parts.username is not None:
            login = _basic(unquote(parts.username), unquote(parts.password or ""))
            # The proxy reads a request in plain text itself; before one over TLS it is asked for a tunnel.
            read_by_proxy = "headers" if self.url.startswith("http:") else "proxy_headers"
            found[read_by_proxy] = {"Proxy-Authorization": login}
        return found

    def _headers(self) -> dict[str, str]:
        headers = dict(self.headers or {})
        try:
            for name, variable in (self.secret_headers or {}).items():
                headers[name] = read_secret(None, variable) or ""
            token = read_secret(self.token_file, self.token_env)
            password = read_secret(self.password_file, self.password_env)
        except ValueError as error:
            raise ConfigError(f"source: {error}") from error
        if self.username is not None:
            headers["Authorization"] = _basic(self.username, password or "")
        elif token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _read(self, status: int, body: bytes, query: str) -> dict[str, Any]:
        """Parse the body of a response, and raise the error that it reports."""
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if status == 200 and isinstance(answer, dict) and answer.get("status") == "success":
            if answer.get("isPartial"):
                raise SourceError(
                    f"{self.url}: the answer is partial (some storage did not answer), so it is not used"
                )
            return answer
        said = answer.get("error") if isinstance(answer, dict) else None
        words = said if isinstance(said, str) else body[:200].decode(errors="replace")
        text = shortened(" ".join(words.split()), _MOST_WORDS) or "no reason given"
        if status == 407:
            raise self._refused_by_proxy(status, text)
        if status in _PASSING:
            raise PassingError(f"HTTP {status}: {text}")
        if status in (401, 403):
            raise SourceError(
                f"{self.url}: HTTP {status}: {text} (credentials: source.token_file, source.token_env, or "
                "source.username with source.password_file or source.password_env)"
            )
        if said is not None:
            raise SourceError(f"{self.url}: {text} (HTTP {status}, query: {query})")
        raise SourceError(
            f"{self.url}: HTTP {status} is not the answer of a Prometheus; is its API below "
            f"{self.url}/api/v1? It says: {text}{self.way}"
        )

    def _refused_by_proxy(self, status: int, said: str) -> Exception:
        text = f"the proxy answers HTTP {status} ({said})"
        if status in _PASSING:
            return PassingError(text)
        if status == 407:
            proxy = self.way_through()
            text += f": give {'source.proxy' if proxy is None else proxy.origin} a user and a password"
        return SourceError(f"{self.url}: {text}{self.way}")


def _basic(user: str, password: str) -> str:
    """The header of basic authentication."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def series_of(answer: dict[str, Any]) -> list[Series]:
    """Convert an answer to ``query_range``.

    Raises
    ------
    ValueError
        When it is not a matrix of numbers:
        https://prometheus.io/docs/prometheus/latest/querying/api/#expression-query-result-formats
    """
    data = answer.get("data")
    kind = data.get("resultType") if isinstance(data, dict) else None
    if isinstance(kind, str) and kind in _NO_SERIES:
        raise ValueError(f"the answer is a {kind}, {_NO_SERIES[kind]}")
    with suppress(LookupError, TypeError, AttributeError):  # explained below
        _refuse_histograms(answer["data"]["result"])
    try:
        return [_series(series) for series in answer["data"]["result"]]
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"the answer is not a list of series with their values ({error!r:.200})") from error


def _refuse_histograms(result: list[dict[str, Any]]) -> None:
    """Refuse native histograms, also among numbers: a histogram is no number that can be forecast.

    Raises
    ------
    ValueError
        With the queries to write instead.
    """
    found = next((series for series in result if series.get("histograms")), None)
    if found is None:
        return
    name = found.get("metric", {}).get("__name__")
    rate = f"rate({_printable(name)}[5m])" if isinstance(name, str) else "rate(METRIC[5m])"
    among = "holds numbers and native histograms" if found.get("values") else "is a native histogram"
    raise ValueError(
        f"the answer {among}, not one number a moment; ask for its requests per second, "
        f"histogram_count({rate}), or for a quantile, histogram_quantile(0.95, {rate})"
    )


def _series(series: dict[str, Any]) -> Series:
    labels = {_printable(name): _printable(value) for name, value in series.get("metric", {}).items()}
    pairs = series.get("values", [])
    timestamps = np.fromiter((float(pair[0]) for pair in pairs), np.float64, len(pairs))
    # Values are text, which may be NaN, +Inf or -Inf.
    values = np.fromiter((float(pair[1]) for pair in pairs), np.float64, len(pairs))
    if not (np.abs(timestamps) < 1e12).all():  # also refuses NaN
        unit = guess_unit(timestamps)
        raise ValueError("a timestamp is out of range" if unit is None else unit.words(timestamps[0]))
    whole = not (timestamps % 1).any()
    return Series(labels, timestamps.astype(np.int64) if whole else timestamps, values)


def _printable(text: str) -> str:
    """Replace control characters, and characters that UTF-8 cannot encode."""
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    )
