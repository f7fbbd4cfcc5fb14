"""Loaders of windows: the order of an epoch, and a loader that resumes inside one."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from kforecast.data.origins import Cells, middles
from kforecast.data.windows import WindowBatch


class BatchOrder(Sampler[Tensor]):
    """The windows of an epoch, batch by batch: in order, or in a random order made from seed and epoch.

    Several batches are handed out at a time, because taking windows costs less the more are taken at once.

    Parameters
    ----------
    cells:
        The windows.
    batch_size:
        Windows a batch, over all processes; the last batch may be shorter.
    seed:
        None for the windows' own order; otherwise every epoch has an order of its own, the same on every
        machine.
    most:
        Windows of an epoch at most. Without a seed it is always the same ones, spread evenly; with one each
        epoch draws its own, one from every stretch of as many windows, so that no series is left out.
    at_once:
        Batches handed out at a time.
    rank, world_size:
        Of several processes each takes its share of every batch. At the end of an epoch fewer windows than
        there are processes are left out.
    """

    def __init__(
        self,
        cells: Cells | np.ndarray,
        batch_size: int,
        seed: int | None = None,
        most: int | None = None,
        at_once: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.cells, self.batch_size, self.seed = cells, batch_size, seed
        self.at_once, self.rank, self.world_size = at_once, rank, world_size
        self._chosen = len(cells) if most is None else min(len(cells), most)
        left_over = self._chosen % batch_size
        self.num_windows = self._chosen - (left_over if left_over < world_size > 1 else 0)
        self.epoch = 0
        self.begin = 0
        """How often something was handed out in this epoch already, by the run that is gone on with."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next; Lightning calls this before each."""
        if epoch != self.epoch:
            self.begin = 0
        self.epoch = epoch

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""
        return -(-self.num_windows // self.batch_size)

    @property
    def share(self) -> int:
        """Windows of this process in a whole batch."""
        return share_of(self.batch_size, self.rank, self.world_size)

    def __len__(self) -> int:
        return -(-self.num_batches // self.at_once)

    def __iter__(self) -> Iterator[Tensor]:
        # Worked out at the first step, because Lightning tells the epoch after it has asked for an iterator.
        if not self.num_windows:
            return
        cells = torch.from_numpy(self.cells[self._positions()[: self.num_windows]])
        if self.world_size > 1:
            place = torch.arange(len(cells)) % self.batch_size
            cells = cells[place % self.world_size == self.rank]
        yield from torch.split(cells, self.at_once * self.share)[self.begin :]

    def _positions(self) -> np.ndarray:
        """Which windows, and in which order, int64 ``[chosen]``."""
        count, total = self._chosen, len(self.cells)
        position = np.arange(count, dtype=np.int64)
        if self.seed is None:
            return position if count == total else middles(total, count)
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        order = torch.randperm(count, generator=generator).numpy()
        if count == total:
            return order
        begin = position * total // count
        length = (position + 1) * total // count - begin
        drawn = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
        found: np.ndarray = (begin + (drawn * length).astype(np.int64))[order]
        return found


def share_of(count: int, rank: int, world_size: int) -> int:
    """How many of so many windows one of several processes takes."""
    return len(range(rank, count, world_size))


class ResumableLoader(DataLoader[WindowBatch]):
    """A loader that goes on amid an epoch: its state is the epoch and how often it has handed out windows."""

    sampler: BatchOrder

    def __iter__(self) -> Iterator[WindowBatch]:  # type: ignore[override]
        self._handed_out = self.sampler.begin
        return self._counted(super().__iter__())

    def _counted(self, batches: Iterator[WindowBatch]) -> Iterator[WindowBatch]:
        for batch in batches:
            self._handed_out += 1
            yield batch

    @property
    def num_batches(self) -> int:
        """Batches of an epoch; an item holds several."""
        return self.sampler.num_batches

    def state_dict(self) -> dict[str, int]:
        """Where it stands; Lightning keeps this in a checkpoint."""
        return {"epoch": self.sampler.epoch, "handed_out": self._handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on there, unless that epoch is over."""
        if state["epoch"] == self.sampler.epoch:
            self.sampler.begin = state["handed_out"]


def window_loader(
    dataset: Dataset[WindowBatch], order: BatchOrder, num_workers: int = 0
) -> DataLoader[WindowBatch]:
    """An ordinary DataLoader whose every index is a batch or several, so that they cost one look-up."""
    kind = DataLoader if order.seed is None else ResumableLoader
    return kind(
        dataset,
        sampler=order,
        batch_size=None,
        collate_fn=_as_is,  # type: ignore[arg-type]  # without a batch size it gets one item, not a list
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        # Of its own: every iterator draws a number, so that those of the network would depend on how often a
        # run was gone on with.
        generator=torch.Generator(),
    )


def _as_is(batch: WindowBatch) -> WindowBatch:
    return batch
