"""Loaders of windows: the order of an epoch, and a loader that can resume within an epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from kforecast.data.origins import Cells, middles
from kforecast.data.windows import WindowBatch


class BatchOrder(DistributedSampler[Tensor]):
    """The windows of an epoch, batch by batch, in their own order or in a random one.

    An item holds several batches, because gathering many windows at once costs less per window.

    Parameters
    ----------
    cells:
        The windows, as flat cells ``series * num_bins + origin``.
    batch_size:
        Windows per batch, over all processes; the last batch may be shorter.
    seed:
        None keeps the windows' own order. With a seed every epoch has a different order, which is the same on
        every machine.
    most:
        Maximum number of windows per epoch. Without a seed they are always the same ones, spread evenly. With
        a seed every epoch draws its own, one from each stretch of equal length, so that no series is left
        out.
    at_once:
        Batches per item.
    rank, world_size:
        Each process takes its share of every batch. A last batch with fewer windows than processes is left
        out. Lightning would divide the items once more, unless the sampler is a DistributedSampler.
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
        self.cells, self.batch_size, self.order_seed = cells, batch_size, seed
        self.at_once, self.rank, self.world_size = at_once, rank, world_size
        self._chosen = len(cells) if most is None else min(len(cells), most)
        left_over = self._chosen % batch_size
        self.num_windows = self._chosen - (left_over if left_over < world_size > 1 else 0)
        self.epoch = 0
        self.begin = 0
        """Items of this epoch that the interrupted run has already used."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this before each one."""
        if epoch != self.epoch:
            self.begin = 0
        self.epoch = epoch

    @property
    def num_batches(self) -> int:
        """Batches per epoch."""
        return -(-self.num_windows // self.batch_size)

    @property
    def share(self) -> int:
        """Windows of this process in a whole batch."""
        return share_of(self.batch_size, self.rank, self.world_size)

    def __len__(self) -> int:
        return -(-self.num_batches // self.at_once)

    def __iter__(self) -> Iterator[Tensor]:
        # Runs at the first item, not before: Lightning sets the epoch after it has requested an iterator.
        if not self.num_windows:
            return
        cells = torch.from_numpy(self.cells[self._positions()[: self.num_windows]])
        if self.world_size > 1:
            place = torch.arange(len(cells)) % self.batch_size
            cells = cells[place % self.world_size == self.rank]
        yield from torch.split(cells, self.at_once * self.share)[self.begin :]

    def _positions(self) -> np.ndarray:
        """Indices of the epoch's windows in their order, int64 ``[chosen]``."""
        count, total = self._chosen, len(self.cells)
        position = np.arange(count, dtype=np.int64)
        if self.order_seed is None:
            return position if count == total else middles(total, count)
        generator = torch.Generator().manual_seed((self.order_seed * 1_000_003 + self.epoch) % 2**63)
        order = torch.randperm(count, generator=generator).numpy()
        if count == total:
            return order
        begin = position * total // count
        length = (position + 1) * total // count - begin
        drawn = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
        found: np.ndarray = (begin + (drawn * length).astype(np.int64))[order]
        return found


def share_of(count: int, rank: int, world_size: int) -> int:
    """Windows that one process takes of a batch of ``count``."""
    return len(range(rank, count, world_size))


class ResumableLoader(DataLoader[WindowBatch]):
    """A loader that can resume within an epoch: its state is the epoch and the number of items used."""

    sampler: BatchOrder

    def __iter__(self) -> Iterator[WindowBatch]:  # type: ignore[override]
        self._handed_out = self.sampler.begin
        return self._counted(super().__iter__())

    def _counted(self, batches: Iterator[WindowBatch]) -> Iterator[WindowBatch]:
        for batch in batches:
            self._handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The position, which Lightning keeps in a checkpoint."""
        return {"epoch": self.sampler.epoch, "handed_out": self._handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume there, unless that epoch has ended."""
        if state["epoch"] == self.sampler.epoch:
            self.sampler.begin = state["handed_out"]


def window_loader(
    dataset: Dataset[WindowBatch], order: BatchOrder, num_workers: int = 0
) -> DataLoader[WindowBatch]:
    """A DataLoader that gathers all windows of an item with one look-up."""
    kind = DataLoader if order.order_seed is None else ResumableLoader
    return kind(
        dataset,
        sampler=order,
        batch_size=None,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        # Its own generator: each new iterator draws a number, so with torch's global one the network's random
        # numbers would depend on how often a run was resumed.
        generator=torch.Generator(),
    )
