"""What ``GET /metrics`` answers: a board in the text format of Prometheus.

All forecasts are gauges stamped now, with the lead as a label: Prometheus takes no samples from the future.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from prometheus_client import ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from kforecast.guard import NAMES, SERVED
from kforecast.intervals import check_levels
from kforecast.serving.board import Board
from kforecast.serving.snapshot import Snapshot
from kforecast.version import __version__

CONTENT_TYPE = CONTENT_TYPE_LATEST
# Samples between two turns of the event loop: some two milliseconds.
_CHUNK = 200
_SERIES = ("workload", "metric")
Sample = tuple[list[str], float]


class Exposition:
    """Writes the metrics of a board.

    Parameters
    ----------
    quantiles:
        Levels of the forecasts; the point forecast is shown if the artifact has no intervals.
    leads:
        Seconds from now; by default the begin of each forecast bin, from the first one on.
    windows:
        Seconds from now; by default the horizon. Leads and windows beyond the horizon are absent.

    Raises
    ------
    ValueError
        When a level is out of range.
    """

    def __init__(
        self,
        board: Board,
        quantiles: Sequence[float],
        leads: Sequence[float] | None = None,
        windows: Sequence[float] | None = None,
    ) -> None:
        check_levels(quantiles)
        self.board, self.quantiles, self.leads, self.windows = board, quantiles, leads, windows
        self._process = ProcessCollector(registry=None)
        # Forecasts change with the snapshot, the bin under way, and the series that become stale.
        self._written: tuple[Snapshot, object, bytes] | None = None
        self._one_at_a_time = asyncio.Lock()

    async def render(self) -> bytes:
        """The text, all of one snapshot and one moment; a series without an honest forecast is absent.

        Other tasks have their turn after every few samples.
        """
        async with self._one_at_a_time:
            snapshot, now = self.board.snapshot, self.board.clock()
            texts = [_text(self._process.collect()), _text(_of_server(self.board))]
            if snapshot is not None:
                texts.append(_text(_of_snapshot(snapshot, now)))
                for name, help_text, samples in _of_series(snapshot, now):
                    texts.append(await _written(name, help_text, _SERIES, samples))
                if snapshot.withdrawn is not None:
                    help_text = "1, with the state of the series: served, or why its forecast is withdrawn."
                    labels = (*_SERIES, "state")
                    texts.append(await _written("kforecast_guard", help_text, labels, _of_guard(snapshot)))
                texts.append(await self._forecasts(snapshot, now))
            return b"".join(texts)

    async def _forecasts(self, snapshot: Snapshot, now: float) -> bytes:
        served = snapshot.served(now)
        begins = (snapshot.starts[:-1] - snapshot.origin).tolist()
        leads = self._steps(snapshot, now, "lead", begins if self.leads is None else self.leads)
        windows = [snapshot.horizon] if self.windows is None else self.windows
        maxima = self._steps(snapshot, now, "window", windows)
        state = (served.tobytes(), leads, maxima)
        if self._written is not None and self._written[0] is snapshot and self._written[1] == state:
            return self._written[2]
        rows = np.flatnonzero(served)
        text = await _written(
            "kforecast_forecast",
            "Forecast at a quantile, for the bin of the moment a lead ahead.",
            (*_SERIES, "lead", "quantile"),
            self._samples(snapshot, rows, leads),
        )
        text += await _written(
            "kforecast_forecast_max",
            "Largest forecast at a quantile, from the bin under way to the end of a window.",
            (*_SERIES, "window", "quantile"),
            self._samples(snapshot, rows, maxima),
        )
        self._written = snapshot, state, text
        return text

    def _steps(
        self, snapshot: Snapshot, now: float, kind: str, spans: Iterable[float]
    ) -> list[tuple[str, slice]]:
        """The label and the forecast bins of each lead or window that the snapshot covers now."""
        possible = [seconds for seconds in spans if 0 <= seconds <= snapshot.horizon]
        found = [(_label(seconds), snapshot.steps(now, **{kind: seconds})) for seconds in possible]
        return [(label, steps) for label, steps in found if steps is not None]

    def _samples(
        self, snapshot: Snapshot, rows: np.ndarray, spans: list[tuple[str, slice]]
    ) -> Iterator[Sample]:
        levels = [None] if snapshot.quantiles_of is None else self.quantiles
        for level in levels:
            quantile = "point" if level is None else _label(level)
            forecasts = snapshot.at_level(level)
            for span, steps in spans:
                yield from _finite(snapshot, rows, forecasts[rows, steps].max(axis=-1), span, quantile)


def _of_server(board: Board) -> Iterator[Metric]:
    """How the server fares."""
    yield GaugeMetricFamily("kforecast_ready", "Whether a forecast exists.", board.snapshot is not None)
    refused = bool(board.refused_artifact)
    yield GaugeMetricFamily("kforecast_artifact_refused", "Whether a newer artifact was refused.", refused)
    refused = bool(board.refused_events)
    yield GaugeMetricFamily("kforecast_events_refused", "Whether the file of events was refused.", refused)
    failures = CounterMetricFamily("kforecast_failures", "Failures by cause.", labels=["cause"])
    for cause, count in board.failures.items():
        failures.add_metric([cause], count)
    yield failures
    durations = (("fetch", "fetches", board.fetches), ("forecast", "forecasts", board.forecasts))
    for one, many, (number, seconds, _) in durations:
        yield CounterMetricFamily(f"kforecast_{many}", f"Number of {many}.", number)
        yield SummaryMetricFamily(f"kforecast_{one}_seconds", f"Durations of {many}.", int(number), seconds)


def _of_snapshot(snapshot: Snapshot, now: float) -> Iterator[Metric]:
    """What the forecasts come from, and how many there are."""
    yield InfoMetricFamily(
        "kforecast_artifact",
        "The artifact that forecasts, and the version of kforecast.",
        {"sha256": snapshot.artifact, "version": __version__},
    )
    origin = "Begin of the first forecast bin."
    yield GaugeMetricFamily("kforecast_origin_timestamp_seconds", origin, snapshot.origin)
    served = int(snapshot.served(now).sum())
    series = GaugeMetricFamily("kforecast_series", "Series with and without a forecast.", labels=["state"])
    series.add_metric(["forecast"], served)
    series.add_metric(["missing"], len(snapshot.series) - served)
    yield series


def _of_series(snapshot: Snapshot, now: float) -> Iterator[tuple[str, str, Iterator[Sample]]]:
    """Name, help and samples of the families with one sample a series."""
    ends, age = snapshot.observed_end, now - snapshot.observed_end
    known = np.flatnonzero(ends > 0)
    # An old value must not pass for what is needed now.
    recent = np.flatnonzero((ends > 0) & (age <= snapshot.horizon) & (now >= snapshot.origin))
    yield (
        "kforecast_observed",
        "Newest observed value, unless it is older than the horizon.",
        _finite(snapshot, recent, snapshot.observed[recent]),
    )
    yield (
        "kforecast_forecast_age_seconds",
        "Seconds since the end of the newest observed bin.",
        _finite(snapshot, known, age[known]),
    )
    yield (
        "kforecast_newest_point_timestamp_seconds",
        "End of the newest observed bin.",
        _finite(snapshot, known, ends[known]),
    )


def _of_guard(snapshot: Snapshot) -> Iterator[Sample]:
    """One sample a series, with its state as a label."""
    assert snapshot.withdrawn is not None, "there is a guard"
    for row, pair in enumerate(snapshot.series):
        yield [*pair, snapshot.withdrawn.get(row, NAMES[SERVED])], 1.0


def _finite(snapshot: Snapshot, rows: np.ndarray, values: np.ndarray, *labels: str) -> Iterator[Sample]:
    """A sample for each row whose value is a finite number."""
    finite = np.isfinite(values)
    for row, value in zip(rows[finite].tolist(), values[finite].tolist(), strict=True):
        yield [*snapshot.series[row], *labels], value


async def _written(name: str, help_text: str, labels: Sequence[str], samples: Iterator[Sample]) -> bytes:
    """One family of gauges as text, written in parts so that other tasks have their turn."""
    texts: list[bytes] = []
    while (chunk := [*islice(samples, _CHUNK)]) or not texts:
        family = GaugeMetricFamily(name, help_text, labels=labels)
        for values, value in chunk:
            family.add_metric(values, value)
        text = _text([family])
        # A family is introduced once, by two lines.
        texts.append(text.split(b"\n", 2)[2] if texts else text)
        await asyncio.sleep(0)
    return b"".join(texts)


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self.families = families

    def collect(self) -> Iterable[Metric]:
        return self.families


def _text(families: Iterable[Metric]) -> bytes:
    return generate_latest(_Families(families))


def _label(number: float) -> str:
    """A number as a label: ``600``, ``0.9``."""
    return str(int(number)) if number == int(number) else str(float(number))
