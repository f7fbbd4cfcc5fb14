"""ForecastDataModule: fetches the metrics once per run and cuts them into windows, split by time."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from kforecast.data.calendar import Calendar, calendar_fields
from kforecast.data.distillation import TaughtWindows
from kforecast.data.events.effects import Effects, Plan, learned
from kforecast.data.events.incidents import found_incidents
from kforecast.data.events.known import KnownEvents
from kforecast.data.fill import FILLS, Fill
from kforecast.data.findings import panel_findings, refuse_coarse, warnings_of
from kforecast.data.frames import forecast_frame
from kforecast.data.freshness import StaleRule, checked_origins, next_origins, stale_words
from kforecast.data.history import HISTORY, fetch_history, kept_history
from kforecast.data.loader import BatchOrder, window_loader
from kforecast.data.panel import Panel
from kforecast.data.reading import read_panel
from kforecast.data.split import Split, SplitSettings, cells_between, split_windows
from kforecast.data.windows import WindowBatch, WindowDataset
from kforecast.errors import ConfigError, DataError, few
from kforecast.metrics.frame import FrameSource
from kforecast.metrics.source import MetricSource
from kforecast.window import CALENDAR_TABLE_SIZES, Lookback, Window

log = logging.getLogger(__name__)


class Teaches(Protocol):
    """A model whose forecasts are mixed into the training targets."""

    def forecasts(self, panel: Panel, split: Split) -> np.ndarray:
        """Forecasts from the origins of the training windows, float32 ``[len(split.train), horizon]``."""
        ...


class ForecastDataModule(pl.LightningDataModule):
    """Windows of a history, split by time into train, validation and test.

    ``setup()`` makes ``panel``, ``split`` and ``windows``; the trainer calls it, and so may you.

    Parameters
    ----------
    source:
        The history: a source of metrics, a long frame ``timestamp, value, workload, metric``, or a panel.
    window:
        Bin width, context and horizon.
    batch_size:
        Windows per training step, over all processes.
    windows_per_epoch, validation_windows:
        Maximum number of windows per epoch and per validation; None for all
        (:class:`kforecast.data.loader.BatchOrder`).
    num_workers:
        Processes that gather batches. With 0 the training process gathers them on its own device, which is
        fastest for data that fits there. The windows and their order are the same for every number.
    fill, mask_gaps:
        See :class:`kforecast.data.windows.WindowDataset`.
    validation, test, max_missing, skip_zero_context, skip_newest_window:
        See :class:`kforecast.data.split.SplitSettings`.
    timezone, holidays:
        Local time of the series, for networks that use it (:meth:`kforecast.data.calendar.Calendar.of`).
    local_bins:
        Whether bins follow the local time of the series too (:func:`kforecast.data.grid.common_grid`); False
        for UTC.
    seed:
        Seed of the order of the training windows.
    folder:
        Where a history that cannot be fetched again is kept (``history.parquet``); needed with several
        processes.
    lookback:
        History before the context that the network reads; a trainer's module overrides it.
    teacher:
        A model whose forecasts are mixed into the training targets.
    strict:
        Refuse a history with findings (:mod:`kforecast.data.findings`) instead of warning of them.
    events:
        Known events and incidents, or the path of their file. Events are taken out of the panel, incidents
        become missing values.
    incidents:
        ``auto`` treats incidents that are found before the test part as missing values, too.

    Attributes
    ----------
    panel:
        The history that training sees.
    judged_panel:
        The history that judges: with events, but without the known incidents.
    plan:
        The known events with the effects that were learned before the test part; None without events.
    effects:
        The effects learned from the whole history.
    """

    panel: Panel
    judged_panel: Panel
    split: Split

    def __init__(
        self,
        source: MetricSource | pd.DataFrame | Panel,
        window: Window,
        *,
        batch_size: int = 64,
        windows_per_epoch: int | None = 1_000_000,
        validation_windows: int | None = 200_000,
        num_workers: int = 0,
        fill: Fill = "interpolate",
        mask_gaps: bool = True,
        validation: float = 0.1,
        test: float = 0.1,
        max_missing: float = 0.5,
        skip_zero_context: bool = True,
        skip_newest_window: bool = False,
        timezone: str | Mapping[str, str] = "UTC",
        holidays: str | None = None,
        local_bins: bool = True,
        seed: int = 42,
        folder: Path | None = None,
        lookback: Lookback | None = None,
        teacher: Teaches | None = None,
        strict: bool = False,
        events: KnownEvents | Path | str | None = None,
        incidents: Literal["auto"] | None = None,
    ) -> None:
        super().__init__()
        _check(source, window, batch_size, fill, validation + test)
        # The history is fetched once per run, not once per machine: a second answer would be newer.
        self.prepare_data_per_node = False
        self.window, self.lookback, self.folder, self.teacher = window, lookback, folder, teacher
        self.strict, self.incidents = strict, incidents
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.windows_per_epoch, self.validation_windows = windows_per_epoch, validation_windows
        self.fill, self.mask_gaps = fill, mask_gaps
        self.calendar = Calendar.of(timezone, holidays)
        self._bin_calendar = self.calendar if local_bins else None
        self.split_settings = SplitSettings(
            validation, test, max_missing, mask_gaps, skip_zero_context, skip_newest_window
        )
        self._source = FrameSource(source) if isinstance(source, pd.DataFrame) else source
        if events is not None and not isinstance(events, KnownEvents):
            events = KnownEvents.read(events, getattr(self._source, "timezone", None))
        self.known_events = events
        self.plan: Plan | None = None
        self.effects = Effects()
        self._fetched: pd.DataFrame | None = None

    def prepare_data(self) -> None:
        """Fetch a history that cannot be fetched again, and keep it in the folder."""
        done = self._fetched is not None or hasattr(self, "panel")
        if not done and not isinstance(self._source, Panel) and not self._source.repeatable:
            self._fetched = fetch_history(self._source, self.folder)

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002
        """Read and split the history, once, and move it to the device of the trainer.

        Raises
        ------
        DataError
            When the source fails, there is too little data, its rows are coarser than the bins, or anything
            was found that ``strict`` refuses.
        """
        if not hasattr(self, "panel"):
            self.panel = self._read()
            refuse_coarse(self.panel)
            if not isinstance(self._source, Panel):  # reported where it was read
                self._report_findings()
            unknown = sorted({*self.calendar.zone_of} - {workload for workload, _ in self.panel.series})
            if unknown:
                log.warning("data.timezone names workloads that the data does not have: %s", few(unknown))
            self._take_out_events()
            self.split = split_windows(self.panel, self.window, self.split_settings)
        if self.trainer is None:
            return
        net = getattr(self.trainer.lightning_module, "net", None)
        if net is not None:
            self.look_back(net.lookback)
        if self.num_workers == 0:  # worker processes gather on the host
            self.windows.to(self.trainer.strategy.root_device)

    def look_back(self, lookback: Lookback | None) -> None:
        """Make the windows of a network with this lookback."""
        if lookback != self.lookback:
            self.lookback = lookback
            self.__dict__.pop("windows", None)
            self.__dict__.pop("_to_learn", None)

    def _read(self) -> Panel:
        source, frequency = self._source, self.window.frequency
        if isinstance(source, Panel):
            return source
        if self._fetched is not None:
            frame, self._fetched = self._fetched, None
            return Panel.from_frame(frame, frequency, self._bin_calendar)
        if not source.repeatable and self.folder is not None and (self.folder / HISTORY).is_file():
            source = kept_history(self.folder / HISTORY)  # fetched by the first process
        log.info("Reading %s", source)
        return read_panel(source, frequency, self._bin_calendar)

    def _take_out_events(self) -> None:
        """Make ``panel`` the ordinary traffic, and keep the rest for judging."""
        self.judged_panel, known = self.panel, self.known_events
        _, before_test, _ = self.split_settings.ends(self.panel.num_bins, self.window)
        if self.incidents == "auto":
            found = [one.known for one in found_incidents(self.panel, before_test)]
            log.info(
                "Incidents found in the history and left out (data.incidents=auto): %s", f"{len(found):,}"
            )
            known = (known or KnownEvents(())).and_those(found)
        if known is None:
            return
        self.plan = Plan(known, learned(self.panel, known, before_test))
        self.effects = learned(self.panel, known)
        for words in self.effects.words():
            log.info("Event %s", words)
        for warning in Plan(known, self.effects).warnings(self.panel):
            log.warning("%s", warning)
        raw = self.panel
        self.judged_panel, self.panel = self.plan.without_incidents(raw), self.plan.ordinary(raw)

    def _report_findings(self) -> None:
        lines = warnings_of(panel_findings(self.panel, self.window))
        if lines and self.strict:
            raise DataError(
                "data.strict=true, but the history has findings:" + "".join(f"\n  {line}" for line in lines)
            )
        for line in lines:
            log.warning("%s", line)

    @cached_property
    def windows(self) -> WindowDataset:
        """The windows of all parts."""
        return WindowDataset(self.panel, self.window, self.fill, self.mask_gaps, self.lookback, self.calendar)

    @cached_property
    def _to_learn(self) -> Dataset[WindowBatch]:
        if self.teacher is None:
            return self.windows
        return TaughtWindows(self.windows, self.split.train, self.teacher.forecasts(self.panel, self.split))

    def train_dataloader(self) -> DataLoader[WindowBatch]:
        """Training windows, several batches per item, in an order that depends on seed and epoch."""
        most, at_once = self.windows_per_epoch, self.batches_at_once
        order = BatchOrder(self.split.train, self.batch_size, self.seed, most, at_once, **self._place)
        if self.trainer is not None:  # a resumed training begins in a later epoch than the first
            order.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]
        return window_loader(self._to_learn, order, self.num_workers)

    def val_dataloader(self) -> DataLoader[WindowBatch] | list[DataLoader[WindowBatch]]:
        """Validation windows in order; no loader without a validation part."""
        if not len(self.split.validation):
            return []
        size, most = self.windows.evaluation_windows, self.validation_windows
        order = BatchOrder(self.split.validation, size, most=most, **self._place)
        return window_loader(self.windows, order, self.num_workers)

    def test_dataloader(self) -> DataLoader[WindowBatch] | list[DataLoader[WindowBatch]]:
        """The windows that an evaluation of the test span uses, in order; all of them in every process."""
        if not len(self.split.test):
            return []
        return self._padded_loader(*np.divmod(self.test_cells, self.panel.num_bins))

    def predict_dataloader(self) -> DataLoader[WindowBatch]:
        """The window after the newest bin of the history for every series; all of them in every process.

        Raises
        ------
        DataError
            When a series has no value in the bins that the network reads.
        """
        origins = next_origins(self.panel)
        stale = checked_origins(origins, self.window, self.lookback, StaleRule())
        if stale.any():
            log.warning("%s", stale_words(origins, stale))
        return self._padded_loader(np.arange(self.panel.num_series), origins.bins, hold_newest=True)

    @cached_property
    def test_cells(self) -> np.ndarray:
        """Origins in the test span as flat cells ``series * num_bins + origin``, int64 ``[windows]``."""
        return cells_between(self.panel, self.window, self.split.validation_end, self.split.end)

    def forecast_frame(self, predictions: list[torch.Tensor]) -> pd.DataFrame:
        """Turn the result of ``trainer.predict`` into a frame ``timestamp, workload, metric, value, age``."""
        origins, values = next_origins(self.panel), torch.cat(predictions).numpy()
        if self.plan is not None:
            rows, bins = np.arange(self.panel.num_series), origins.bins[:, None] + np.arange(values.shape[1])
            factor = Plan(self.plan.known, self.effects).factors(self.panel, rows[:, None], bins)
            values = values if factor is None else values * factor
        return forecast_frame(origins, values)

    def _padded_loader(
        self, series: np.ndarray, origin: np.ndarray, hold_newest: bool = False
    ) -> DataLoader[WindowBatch]:
        """Windows that may reach beyond the panel, as Predictor cuts them; unobserved targets never count."""
        context, horizon = self.window.context_length, self.window.prediction_length
        reaches_out = origin.min() < context or origin.max() + horizon > self.panel.num_bins
        before, after = (context, horizon) if reaches_out else (0, 0)
        padded = self.panel.padded(before, after) if reaches_out else self.panel
        windows = WindowDataset(
            padded,
            self.window,
            self.fill,
            lookback=self.lookback,
            calendar=self.calendar,
            hold_newest=hold_newest,
        )
        order = BatchOrder(series * padded.num_bins + origin + before, windows.evaluation_windows)
        return window_loader(windows, order, self.num_workers)

    @property
    def batches_at_once(self) -> int:
        """Batches per step of Lightning's loop: one if a trainer's limit counts batches."""
        if (trainer := self.trainer) is not None and (
            trainer.limit_train_batches != 1.0 or trainer.val_check_interval != 1.0 or trainer.max_steps > 0
        ):
            return 1
        return max(1, self.windows.training_windows // self.batch_size)

    @property
    def _place(self) -> dict[str, int]:
        """Rank of this process, and the number of processes; empty without a trainer."""
        trainer = self.trainer
        return {} if trainer is None else {"rank": trainer.global_rank, "world_size": trainer.world_size}

    def seen_calendar(self) -> list[torch.Tensor]:
        """For each calendar field of the frequency, which of its values the training part contains; bool."""
        frequency = self.panel.frequency
        begin = min(self.window.context_length, self.split.train_end - 1)
        fields = calendar_fields(self.panel.timestamps[begin : self.split.train_end], frequency)
        return [
            torch.from_numpy(np.bincount(fields[:, number], minlength=CALENDAR_TABLE_SIZES[name]) > 0)
            for number, name in enumerate(frequency.calendar_fields)
        ]

    def title(self, cell: int) -> str:
        """Series and time of a window's origin."""
        series, origin = divmod(cell, self.panel.num_bins)
        workload, metric = self.panel.series[series]
        second = self.panel.seconds(origin)
        return f"{workload} {metric}, {datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M} UTC"


def _check(source: object, window: object, batch_size: int, fill: str, held_out: float) -> None:
    """Check the arguments of a call from Python; a configuration is checked before.

    Raises
    ------
    ConfigError
        Naming the argument.
    """
    if not isinstance(source, pd.DataFrame | Panel) and not hasattr(source, "fetch"):
        kinds = "a frame, a Panel or a source of kforecast.metrics"
        raise ConfigError(f"source is of the type {type(source).__name__}; give {kinds}")
    if not isinstance(window, Window):
        raise ConfigError(f"window is of the type {type(window).__name__}; give a kforecast.Window")
    if batch_size < 1:
        raise ConfigError(f"batch_size is {batch_size}; at least 1")
    if fill not in FILLS:
        raise ConfigError(f"fill is {fill!r}; use one of {', '.join(FILLS)}")
    if not 0 <= held_out < 1:
        raise ConfigError(f"validation + test is {held_out:g}; it must be at least 0 and below 1")
