"""``kforecast-serve-metrics``: a local gRPC metrics provider for a file or a Prometheus server."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from typing import Annotated, Any

from omegaconf import DictConfig
from pydantic import BaseModel, ConfigDict, Field

from kforecast.commands.run import run
from kforecast.config.checks import built, plain
from kforecast.errors import ConfigError
from kforecast.metrics.spec import Targets
from kforecast.training.distributed.processes import TERMINATED
from kforecast.validation import validate

log = logging.getLogger(__name__)


def main() -> None:
    """Run the command."""
    flags = ("--config-file", "--dataset-file")
    sys.exit(run(serve_metrics, config_name="serve_metrics", flags=flags))


class ServeSection(BaseModel):
    """``serve``: the address, and the data to serve."""

    model_config = ConfigDict(extra="forbid", strict=True)

    address: Annotated[str, Field(pattern=r"^.+:[0-9]{1,5}$")]
    shift_to_now: bool
    templates: dict[str, str] | None
    targets: Targets


class _Settings(BaseModel):
    serve: ServeSection


def serve_metrics(cfg: DictConfig) -> None:
    """Serve as configured until Ctrl-C or SIGTERM.

    Raises
    ------
    ConfigError
        When a setting is wrong, or the source cannot be served.
    KeyboardInterrupt, SystemExit
        When a signal has stopped it.
    """
    settings = validate(_Settings, {"serve": plain(cfg)["serve"]}, "configuration").serve
    source = built(cfg.source, "source")
    if not source.repeatable and not hasattr(source, "queries"):
        raise ConfigError("source: a metrics provider cannot be served from another; use csv or prometheus")

    from kforecast.metrics.provider import FrameBackend, PrometheusBackend, serve

    backend: Any
    if source.repeatable:
        log.info("Reading %s", source)
        frame = source.fetch()
        shift = _seconds_to_now(float(frame["timestamp"].max())) if settings.shift_to_now else 0
        backend = FrameBackend(frame, settings.targets, shift)
        first, last = (float(end(frame["timestamp"])) + shift for end in (min, max))
        log.info(
            "%d series, %s rows, %s to %s UTC%s",
            len(backend.series),
            f"{len(frame):,}",
            *(time.strftime("%Y-%m-%d %H:%M", time.gmtime(moment)) for moment in (first, last)),
            f" (shifted by {shift:,} s)" if shift else "",
        )
    else:
        backend = PrometheusBackend(source, settings.templates or {}, settings.targets)
        log.info("In front of %s; metrics: %s", source.url, ", ".join(backend.templates))
    stopped_by = asyncio.run(serve(backend, settings.address))
    log.info("Stopped")
    if stopped_by is signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(TERMINATED)


def _seconds_to_now(last: float) -> int:
    """Seconds from the newest row to the present, rounded down to minutes to preserve the grid."""
    return int((time.time() - last) // 60 * 60)


if __name__ == "__main__":
    main()
