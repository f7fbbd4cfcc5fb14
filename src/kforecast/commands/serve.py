"""``kforecast-serve``: a resident server that forecasts at the end of every bin and answers autoscalers."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import ssl
import sys
import threading
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from omegaconf import DictConfig
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from kforecast.commands.run import run
from kforecast.commands.zero_shot import window_without_artifact
from kforecast.config.checks import check_step, plain, source_of
from kforecast.config.settings import AskedWindow, EventsSection
from kforecast.errors import ConfigError
from kforecast.intervals import check_levels
from kforecast.metrics.credentials import PemFile, SecretFile, is_loopback, read_secret
from kforecast.training.distributed.processes import TERMINATED
from kforecast.validation import validate

if TYPE_CHECKING:
    from kforecast.forecaster import Forecaster
    from kforecast.serving.engine import Engine
    from kforecast.window import Window

log = logging.getLogger(__name__)

# Seconds between two looks at clock and artifact.
_LOOK = 0.5
# Seconds that the answers under way have at the end.
_DRAIN = 4.0
# Name of the thread that reads and forecasts.
_ENGINE = "engine"


def _port(address: str) -> str:
    # The system takes a larger number modulo 65536, and listens elsewhere.
    if int(address.rpartition(":")[2]) > 65_535:
        raise ValueError(f"{address}: a port is at most 65535")
    return address


Address = Annotated[str, Field(pattern=r"^.+:[0-9]{1,5}$"), AfterValidator(_port)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def main() -> None:
    """Run the command; at the end, the process does not wait for what the source has not answered."""
    flags = ("--config-file", "--dataset-file", "--metrics-server-addr")
    code: Any
    try:
        code = run(serve, config_name="serve", flags=flags)
    except SystemExit as ended:
        code = ended.code
    if not any(thread.name == _ENGINE for thread in threading.enumerate()):
        sys.exit(code)
    # Python would wait for a look-up of a host name, and end the thread in the midst of a forecast of torch.
    os._exit(code if isinstance(code, int) else 1)


def _level(level: float) -> float:
    check_levels([level])
    return level


class TlsSection(BaseModel):
    """``serve.tls``: the server's certificate, and whose certificates it asks for."""

    model_config = ConfigDict(extra="forbid", strict=True)

    cert: PemFile | None
    key: PemFile | None
    client_ca: PemFile | None

    @model_validator(mode="after")
    def _pair(self) -> TlsSection:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together: give both, or neither")
        try:
            self.context()
        except ssl.SSLError as error:
            raise ValueError(
                f"{self.cert} or {self.key}: not valid PEM, or not a matching pair: {error.reason}"
            ) from error
        if self.client_ca is not None:
            if self.cert is None:
                raise ValueError("client_ca needs cert and key: without TLS, no client shows a certificate")
            try:
                ssl.create_default_context(cafile=self.client_ca)
            except ssl.SSLError as error:
                raise ValueError(
                    f"{self.client_ca}: not a certificate in PEM: {error.reason}; client_ca is the authority "
                    "that signs the certificates of clients"
                ) from error
        return self

    def context(self) -> ssl.SSLContext | None:
        """For a server; None without a certificate."""
        if self.cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        # Without a password argument, OpenSSL would prompt for one at the terminal.
        context.load_cert_chain(self.cert, self.key, password="")
        return context


class ServeSection(BaseModel):
    """``serve``: addresses, and the numbers to answer with."""

    model_config = ConfigDict(extra="forbid", strict=True)

    address: Address
    grpc: Address | None
    settle: Seconds
    value: Literal["max", "forecast"]
    quantile: Annotated[float, AfterValidator(_level)] | None
    window: Seconds | None
    quantiles: Annotated[list[float], BeforeValidator(check_levels), Field(min_length=1, max_length=20)]
    leads: list[Seconds] | None
    windows: list[Seconds] | None
    guard: bool
    guard_lead: Seconds
    guard_cost: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    shard: Annotated[str, Field(pattern=r"^[0-9]{1,4}/[1-9][0-9]{0,3}$")] | None
    replay: bool
    token_file: SecretFile | None
    tls: TlsSection


class _RetrainSection(BaseModel):
    dir: str | None


class _Settings(BaseModel):
    artifact_dir: Annotated[str, BeforeValidator(str)] | None
    retrain: _RetrainSection
    data: EventsSection
    window: AskedWindow
    serve: ServeSection


def serve(cfg: DictConfig) -> None:
    """Serve as configured until Ctrl-C or SIGTERM.

    Raises
    ------
    ConfigError, ArtifactError
        When a setting is wrong, or there is no usable artifact.
    SourceError
        When the server cannot listen on an address.
    KeyboardInterrupt, SystemExit
        When a signal has stopped it.
    """
    content = plain(cfg)
    settings = validate(_Settings, {name: content[name] for name in _Settings.model_fields}, "configuration")
    directory, window = _artifact(settings)
    source = source_of(cfg)
    if getattr(source, "end", None) is not None:
        raise ConfigError(f"source.end: {source.end}; a server reads up to now, leave it null")
    chosen = settings.serve
    if chosen.replay and not source.repeatable:
        raise ConfigError("serve.replay: only a file can be moved in time, not the answers of a server")
    if chosen.tls.client_ca is not None and chosen.grpc is None:
        raise ConfigError(
            "serve.tls.client_ca: only clients of serve.grpc show certificates; give serve.grpc=HOST:PORT, "
            "or serve.token_file=FILE for clients of HTTP"
        )
    if chosen.replay and settings.data.events is not None:
        raise ConfigError("serve.replay: the history is moved in time, but data.events is not; leave one out")

    import time

    from kforecast.serving.board import AskDefaults, Board
    from kforecast.serving.engine import Engine
    from kforecast.serving.feed import Feed, Shard
    from kforecast.serving.lean import lean
    from kforecast.serving.model import Model
    from kforecast.shadow import GuardSettings

    lean()
    shard = None
    if chosen.shard is not None:
        number, count = map(int, chosen.shard.split("/"))
        if number >= count:
            raise ConfigError(
                f"serve.shard: {chosen.shard}; {count} parts are 0/{count} to {count - 1}/{count}"
            )
        shard = Shard(number, count)
    board = Board(AskDefaults(chosen.value, chosen.quantile, chosen.window))
    feed = Feed(source, shard, time.time() if chosen.replay else None)

    def check(forecaster: Forecaster) -> None:
        _check_fits(forecaster, chosen, source)

    events = None if settings.data.events is None else Path(settings.data.events)
    guard = None
    if chosen.guard:
        guard = GuardSettings(chosen.value, chosen.quantile, chosen.guard_lead, chosen.guard_cost)
    model = Model(directory, check, events, getattr(source, "timezone", None), window)
    levels = [*chosen.quantiles, chosen.quantile]
    engine = Engine(board, model, feed, chosen.settle, levels, guard)
    stopped_by = asyncio.run(_serve(engine, chosen))
    log.info("Stopped")
    if stopped_by is signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(TERMINATED)


def _check_fits(forecaster: Forecaster, chosen: ServeSection, source: Any) -> None:
    """Refuse an artifact that cannot answer as configured."""
    window = forecaster.window
    check_step(source, window)
    if forecaster.intervals is None and chosen.quantile is not None:
        raise ConfigError(
            f"serve.quantile: {chosen.quantile:g}, but {forecaster.name} has no calibrated intervals; give "
            "serve.quantile=null for the point forecast"
        )
    horizon = window.prediction_length * window.frequency.step
    longest = max([chosen.window or 0.0, *(chosen.leads or []), *(chosen.windows or [])])
    if longest > horizon:
        raise ConfigError(
            f"serve.window, serve.leads or serve.windows: {longest:g} s is beyond the horizon, {horizon} s"
        )


def _artifact(settings: _Settings) -> tuple[Path, Window | None]:
    """The directory of the artifact; and the window, if the package's weights serve in its place."""
    given, store = settings.artifact_dir, settings.retrain.dir
    if (given is None) == (store is None):
        raise ConfigError(
            "give artifact_dir=DIR, or retrain.dir=DIR of kforecast-retrain"
            + ("" if given is None else ", not both")
        )
    directory = Path(given) if given is not None else Path(str(store)) / "champion"
    if given is None and not directory.is_dir():
        raise ConfigError(f"retrain.dir: {directory}: no such directory")
    return directory, window_without_artifact(directory, settings.window)


async def _serve(engine: Engine, chosen: ServeSection) -> signal.Signals:
    from kforecast.serving import external_scaler, http
    from kforecast.serving.exposition import Exposition

    board, loop = engine.board, asyncio.get_running_loop()
    stopped: asyncio.Future[signal.Signals] = loop.create_future()

    def stop(number: signal.Signals) -> None:
        if not stopped.done():
            stopped.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    token = None if chosen.token_file is None else _Token(chosen.token_file)
    exposition = Exposition(board, chosen.quantiles, chosen.leads, chosen.windows)
    # Threads of numpy hold the interpreter for short times only; answers do not wait for them.
    sys.setswitchinterval(0.001)
    ended = threading.Event()
    stack = AsyncExitStack()
    try:
        made = http.application(board, exposition, token)
        context = chosen.tls.context()
        port = await stack.enter_async_context(http.serving(made, chosen.address, context))
        _say("https" if context else "http", chosen.address, port, chosen)
        if chosen.grpc is not None:
            pair = None if chosen.tls.cert is None else (chosen.tls.cert, str(chosen.tls.key))
            grpc_port = await stack.enter_async_context(
                external_scaler.serving(
                    board,
                    chosen.grpc,
                    certificate=pair,
                    client_ca=chosen.tls.client_ca,
                    token=token if chosen.tls.client_ca is None else None,
                )
            )
            log.info("KEDA's external scaler at %s:%d", chosen.grpc.rpartition(":")[0], grpc_port)
        worker = threading.Thread(target=_work, args=(engine, ended), name=_ENGINE, daemon=True)
        worker.start()
        return await stopped
    finally:
        ended.set()
        # A client that does not read its answer would hold up the end.
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN):
                await stack.aclose()


def _say(scheme: str, address: str, port: int, chosen: ServeSection) -> None:
    host = address.rpartition(":")[0]
    log.info("Serving at %s://%s:%d; stop with Ctrl-C", scheme, host, port)
    if is_loopback(host):
        log.info("Only this machine can reach it; serve.address=0.0.0.0:%d opens it to others", port)
    elif chosen.token_file is None:
        log.warning("Everybody who reaches %s can ask; serve.token_file=FILE asks for a token", address)
    if chosen.token_file is not None and scheme == "http" and not is_loopback(host):
        log.warning(
            "The token crosses the network in plain text; serve.tls.cert and serve.tls.key protect it"
        )


class _Token:
    """Reads the token at every use, because token files are rotated; a file that fails keeps the last one."""

    def __init__(self, file: str) -> None:
        self.file, self.token = file, str(read_secret(file, None))

    def __call__(self) -> str:
        try:
            self.token = str(read_secret(self.file, None))
        except ValueError as error:
            log.debug("%s", error)
        return self.token


def _work(engine: Any, ended: threading.Event) -> None:
    while not ended.wait(_LOOK):
        try:
            engine.step()
        except Exception:
            log.exception("The engine failed; it goes on")


if __name__ == "__main__":
    main()
