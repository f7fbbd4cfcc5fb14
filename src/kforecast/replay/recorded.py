"""Recorded traffic for a replay: each artifact's view of a history, and the load at its finest step."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kforecast.data.findings import refuse_coarse
from kforecast.data.history import fetch_history
from kforecast.data.panel import Panel
from kforecast.data.reading import read_panel
from kforecast.errors import DataError, few
from kforecast.predictor import Predictor
from kforecast.replay.study import Model
from kforecast.simulation.load import Load, held, step_of
from kforecast.window import Frequency

if TYPE_CHECKING:
    import pandas as pd

    from kforecast.data.calendar import Calendar
    from kforecast.metrics.source import MetricSource

log = logging.getLogger(__name__)

# Bins of the load, in seconds: the finest that the rows allow.
_WIDTHS = (15, 30, 60, 120, 300, 600, 900, 1800, 3600)
# Share of the history before the span on which intervals are calibrated.
_CALIBRATION = 0.2


class History:
    """A history, read as often as needed but asked for once.

    Parameters
    ----------
    run_dir:
        Where a history is kept that cannot be read again.
    rows:
        Whether its rows are needed as a frame.

    Attributes
    ----------
    frame:
        Its rows; None where they were not needed.
    """

    def __init__(self, source: MetricSource, run_dir: Path, rows: bool) -> None:
        self._source = source
        self.frame: pd.DataFrame | None = None
        log.info("Reading %s", source)
        if not source.repeatable:
            self.frame = fetch_history(source, run_dir)
        elif rows:
            self.frame = source.fetch()

    def panel(self, frequency: Frequency, calendar: Calendar | None = None) -> Panel:
        """The history in bins."""
        if self.frame is not None:
            return Panel.from_frame(self.frame, frequency, calendar)
        return read_panel(self._source, frequency, calendar)


def models_of(predictors: Sequence[tuple[str, Predictor]], history: History) -> list[Model]:
    """Artifacts, by name, with their panels of the series that all of them know.

    Raises
    ------
    DataError
        When there is no such series, or the rows are too coarse for an artifact.
    """
    panels = []
    for name, predictor in predictors:
        panel = history.panel(predictor.window.frequency, predictor.bin_calendar)
        refuse_coarse(panel, name)
        panels.append(panel)
    unknown = {
        pair for panel, (_, one) in zip(panels, predictors, strict=True) for pair in one.unknown(panel.series)
    }
    kept = [pair for pair in panels[0].series if pair not in unknown]
    names = few([" ".join(pair) for pair in sorted(unknown)])
    if not kept:
        raise DataError(f"none of the series is in every artifact: {names}")
    if unknown:
        log.warning("%d series are not in every artifact: %s", len(unknown), names)
    return [
        Model(name, predictor, only(panel, kept))
        for (name, predictor), panel in zip(predictors, panels, strict=True)
    ]


def only(panel: Panel, kept: Sequence[tuple[str, str]]) -> Panel:
    """The panel of some of its series."""
    number = {pair: row for row, pair in enumerate(panel.series)}
    return panel.rows(sorted(number[pair] for pair in kept))


def services_of(models: Sequence[Model], besides: Collection[str], notes: list[str]) -> list[Model]:
    """The models without series that are no services, but other metrics of them.

    Parameters
    ----------
    besides:
        Names of metrics that belong to the services.
    """
    series = models[0].panel.series
    kept = [pair for pair in series if pair[1] not in besides] or list(series)
    several = [workload for workload, count in Counter(workload for workload, _ in kept).items() if count > 1]
    if several:
        metrics = sorted({metric for workload, metric in kept if workload in {*several}})
        notes.append(
            f"{len(several):,} workloads have several metrics ({few(metrics)}), and each is replayed as a "
            "service of its own; give a history of the traffic alone if some are no traffic."
        )
    if len(kept) == len(series):
        return list(models)
    names = sorted({metric for _, metric in series if metric in besides})
    notes.append(f"These series are metrics beside the traffic, not services: {few(names)}.")
    return [replace(model, panel=only(model.panel, kept)) for model in models]


def finest(models: Sequence[Model], history: History) -> Panel:
    """The whole history in bins as fine as its rows allow.

    Raises
    ------
    DataError
        When these bins have no whole number of steps.
    """
    panel = min((model.panel for model in models), key=lambda panel: panel.frequency.step)
    step = panel.frequency.step
    usual = step if panel.measures is None else int(np.median(panel.measures["step"]))
    width = min((width for width in _WIDTHS if width >= usual and step % width == 0), default=step)
    try:
        step_of(width)
    except ValueError as error:
        raise DataError(str(error)) from error
    return history.panel(Frequency.parse(f"{width}s"))


def load_of(panel: Panel, variability: float, seed: int, notes: list[str]) -> Load:
    """The load of a panel's series; see :class:`~kforecast.simulation.load.Load`."""
    values = held(panel.values, panel.observed)
    if (values < 0).any():
        notes.append("Some load is below 0 and counts as 0; is this traffic?")
        values = np.maximum(values, 0)
    width, rows = panel.frequency.step, np.arange(len(values))
    return Load(values, panel.observed, panel.start, width, variability, seed, rows)


def with_intervals(model: Model, begin: int, notes: list[str]) -> Model:
    """The model with intervals; without its own they are calibrated on the history before a moment."""
    if model.predictor.intervals is not None:
        used = None if model.predictor.artifact is None else model.predictor.artifact.training_span[1]
        if used is None:
            notes.append(
                f"{model.name}: its training data is not known; if it includes the replayed span, the replay "
                "flatters it."
            )
        elif used > begin:
            notes.append(
                f"{model.name}: a part of the replayed span was used in training, which flatters it."
            )
        return model
    stop = model.panel.bin_at(begin)
    before = max(0, stop - round(_CALIBRATION * model.panel.num_bins))
    calibrated = model.predictor.calibrated(model.panel, before, stop)
    if calibrated.intervals is None:
        notes.append(
            f"{model.name}: no intervals, and the history before the span is too short to calibrate them "
            "on, so only its point forecast is tried."
        )
    return replace(model, predictor=calibrated)
