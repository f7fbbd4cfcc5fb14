"""The window engine: batches are gathers from whole-panel tensors, never per-item Python.

Shape suffixes: B windows, C context bins, P horizon bins, F calendar fields, S series, T bins.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from kforecast.data.calendar import calendar_fields
from kforecast.data.fill import Fill, fill_gaps
from kforecast.data.panel import Panel
from kforecast.window import Window

# Without gradients a batch costs little memory, so that scoring takes large ones whatever the training's.
EVALUATION_BATCH_SIZE = 4096


class WindowBatch(NamedTuple):
    """What a network sees and what it is judged by."""

    context: Tensor
    """float32 [B, C]: the newest bins before the origin, gaps filled."""
    calendar: Tensor
    """int64 [B, P, F]: calendar fields of the horizon."""
    series: Tensor
    """int64 [B]: series ids."""
    target: Tensor
    """float32 [B, P]: the bins from the origin on; 0 where not observed."""
    observed: Tensor
    """bool [B, P]: which targets count."""


class WindowDataset(Dataset[WindowBatch]):
    """Cuts windows out of a panel. Its items are whole batches: index it with a tensor of window cells.

    Parameters
    ----------
    panel, window:
        What to cut and how long.
    fill:
        Policy for unobserved bins of the context (:func:`kforecast.data.fill.fill_gaps`).
    mask_gaps:
        False makes an unobserved target count as a zero, as Kapacity's training does.
    """

    def __init__(self, panel: Panel, window: Window, fill: Fill, mask_gaps: bool = True) -> None:
        self.window = window
        self.num_bins = panel.num_bins
        filled = fill_gaps(panel.values, panel.observed, fill)
        observed = panel.observed if mask_gaps else panel.observed | True
        self._inside = torch.from_numpy(filled.inside).flatten()
        self._target = torch.from_numpy(panel.values).flatten()
        self._observed = torch.from_numpy(observed).flatten()
        self._calendar = torch.from_numpy(calendar_fields(panel.timestamps, window.frequency))
        self._context_steps = torch.arange(-window.context_length, 0)
        self._horizon_steps = torch.arange(window.prediction_length)
        # Without gaps there is nothing to choose between, and two gathers a batch are saved.
        has_gaps = fill != "zero" and not bool(panel.observed.all())
        self._open = torch.from_numpy(filled.open).flatten() if has_gaps else None
        self._gap_age = torch.from_numpy(filled.gap_age).flatten() if has_gaps else None

    def to(self, device: torch.device) -> "WindowDataset":
        """Move the panel's tensors to ``device``, in place, so that batches are made there."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    def __getitem__(self, cell_B: Tensor) -> WindowBatch:  # noqa: N803
        """Gather the windows at the flat cells ``series * num_bins + origin`` (int64 [B])."""
        cell_B = cell_B.to(self._inside.device)  # noqa: N806
        context_BC = cell_B[:, None] + self._context_steps  # noqa: N806
        horizon_BP = cell_B[:, None] + self._horizon_steps  # noqa: N806
        context = self._inside[context_BC]
        if self._open is not None and self._gap_age is not None:
            # A gap that the origin is still inside of may not be filled from beyond the origin.
            age_B = self._gap_age[cell_B - 1]  # noqa: N806
            context = torch.where(-self._context_steps <= age_B[:, None], self._open[context_BC], context)
        series = cell_B // self.num_bins
        return WindowBatch(
            context=context,
            calendar=self._calendar[horizon_BP - (series * self.num_bins)[:, None]],
            series=series,
            target=self._target[horizon_BP],
            observed=self._observed[horizon_BP],
        )


class BatchOrder(Sampler[Tensor]):
    """Cuts the windows of an epoch into batches: in order, or in a random order made from seed and epoch.

    Parameters
    ----------
    cells:
        int64 ``[windows]``.
    batch_size:
        Windows a batch; the last batch may be shorter.
    seed:
        None for the order given; otherwise every epoch has an order of its own, the same on every machine.
    """

    def __init__(self, cells: Tensor, batch_size: int, seed: int | None = None) -> None:
        self.cells, self.batch_size, self.seed = cells, batch_size, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; Lightning calls this before each."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.cells) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        cells = self.cells
        if self.seed is not None:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
            cells = cells[torch.randperm(len(cells), generator=generator)]
        return iter(torch.split(cells, self.batch_size))


def window_loader(
    dataset: WindowDataset, cells: Tensor, batch_size: int, seed: int | None = None, num_workers: int = 0
) -> DataLoader[WindowBatch]:
    """An ordinary DataLoader whose every index is a batch, so that a batch costs one gather."""
    return DataLoader(
        dataset,
        sampler=BatchOrder(cells, batch_size, seed),
        batch_size=None,
        collate_fn=_as_is,  # type: ignore[arg-type]  # without a batch size it gets one item, not a list
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )


def _as_is(batch: WindowBatch) -> WindowBatch:
    return batch
