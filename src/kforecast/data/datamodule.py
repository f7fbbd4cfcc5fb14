"""ForecastDataModule: a panel and its split as Lightning's loaders."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from kforecast.data.calendar import Calendar, calendar_fields
from kforecast.data.distillation import TaughtWindows
from kforecast.data.fill import Fill
from kforecast.data.loader import BatchOrder, window_loader
from kforecast.data.panel import Panel
from kforecast.data.split import Split, SplitSettings, split_windows
from kforecast.data.windows import WindowBatch, WindowDataset
from kforecast.errors import few
from kforecast.window import CALENDAR_TABLE_SIZES, Lookback, Window

log = logging.getLogger(__name__)


class ForecastDataModule(pl.LightningDataModule):
    """Windows of a panel, split by time.

    Parameters
    ----------
    panel, window:
        What to cut and how.
    batch_size:
        Windows a training step, over all processes.
    num_workers:
        Processes that gather batches; 0 gathers in the training process, on the training device, which is
        the fastest for data that fits there. The windows and their order do not depend on it.
    fill, mask_gaps:
        See :class:`kforecast.data.windows.WindowDataset`.
    validation, test, max_missing, skip_zero_context, skip_newest_window:
        See :class:`kforecast.data.split.SplitSettings`.
    windows_per_epoch, validation_windows:
        Windows of an epoch, and of a validation, at most; None for all. See
        :class:`kforecast.data.loader.BatchOrder` for which.
    timezone, holidays:
        Where the series are, for networks that see local time: see
        :meth:`kforecast.data.calendar.Calendar.of`.
    seed:
        Seed of the order of the training windows.
    split:
        The split, when the caller has made it with the same settings already.
    lookback:
        What the network sees beyond the context.
    taught:
        A teacher's forecasts from the origins of the training windows, float32 ``[windows, horizon]``, to be
        learned too (:class:`kforecast.data.distillation.TaughtWindows`).

    Raises
    ------
    DataError
        When there is too little data.
    """

    def __init__(
        self,
        panel: Panel,
        window: Window,
        *,
        batch_size: int,
        num_workers: int,
        fill: Fill,
        mask_gaps: bool,
        validation: float,
        test: float,
        max_missing: float,
        skip_zero_context: bool,
        skip_newest_window: bool,
        windows_per_epoch: int | None = None,
        validation_windows: int | None = None,
        timezone: str | Mapping[str, str] = "UTC",
        holidays: str | None = None,
        seed: int = 0,
        split: Split | None = None,
        lookback: Lookback | None = None,
        taught: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.panel = panel
        self.calendar = Calendar.of(timezone, holidays)
        unknown = sorted({*self.calendar.zone_of} - {workload for workload, _ in panel.series})
        if unknown:
            log.warning("data.timezone names workloads that the data does not have: %s", few(unknown))
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.windows_per_epoch, self.validation_windows = windows_per_epoch, validation_windows
        settings = SplitSettings(
            validation=validation,
            test=test,
            max_missing=max_missing,
            mask_gaps=mask_gaps,
            skip_zero_context=skip_zero_context,
            skip_newest_window=skip_newest_window,
        )
        self.split = split or split_windows(panel, window, settings)
        self.windows = WindowDataset(panel, window, fill, mask_gaps, lookback, self.calendar)
        self._to_learn: Dataset[WindowBatch] = self.windows
        if taught is not None:
            self._to_learn = TaughtWindows(self.windows, self.split.train, taught)

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """Put the panel where the network is; worker processes gather on the host."""
        if self.trainer is not None and self.num_workers == 0:
            self.windows.to(self.trainer.strategy.root_device)

    def train_dataloader(self) -> DataLoader[WindowBatch]:
        """Training windows, several batches at a time, in an order made from seed and epoch."""
        rank, world_size = self._place
        order = BatchOrder(
            self.split.train,
            self.batch_size,
            self.seed,
            most=self.windows_per_epoch,
            at_once=self.batches_at_once,
            rank=rank,
            world_size=world_size,
        )
        if self.trainer is not None:  # gone on with at another epoch than the first
            order.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]
        return window_loader(self._to_learn, order, self.num_workers)

    def val_dataloader(self) -> DataLoader[WindowBatch] | list[DataLoader[WindowBatch]]:
        """Validation windows in order; no loader when there is no validation part."""
        if not len(self.split.validation):
            return []
        rank, world_size = self._place
        order = BatchOrder(
            self.split.validation,
            self.windows.evaluation_windows,
            most=self.validation_windows,
            rank=rank,
            world_size=world_size,
        )
        return window_loader(self.windows, order, self.num_workers)

    def seen_calendar(self) -> list[torch.Tensor]:
        """For each calendar field of the frequency which of its numbers are in the training part; bool."""
        frequency = self.panel.frequency
        begin = min(self.windows.window.context_length, self.split.train_end - 1)
        fields = calendar_fields(self.panel.timestamps[begin : self.split.train_end], frequency)
        return [
            torch.from_numpy(np.bincount(fields[:, number], minlength=CALENDAR_TABLE_SIZES[name]) > 0)
            for number, name in enumerate(frequency.calendar_fields)
        ]

    @property
    def _place(self) -> tuple[int, int]:
        """Which of how many processes this is."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    @property
    def batches_at_once(self) -> int:
        """How many batches a step of Lightning's loop takes: one where the trainer counts them."""
        trainer = self.trainer
        if trainer is not None and (
            trainer.limit_train_batches != 1.0 or trainer.val_check_interval != 1.0 or trainer.max_steps > 0
        ):
            return 1
        return max(1, self.windows.training_windows // self.batch_size)

    def title(self, cell: int) -> str:
        """Series and time of a window's origin, for a picture."""
        series, origin = divmod(cell, self.panel.num_bins)
        workload, metric = self.panel.series[series]
        second = int(self.panel.timestamps[origin])
        return f"{workload} {metric}, {datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M} UTC"
