"""A plain reference trainer with the same network, written as such trainers usually are.

A map-style dataset cuts one window at a time, a DataLoader collates them, and a loop trains on the batches.
"""

import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kforecast.data.calendar import calendar_fields
from kforecast.data.panel import Panel
from kforecast.models.fcnet import Fcnet
from kforecast.window import Window

Batch = dict[str, Tensor]


class PlainWindows(Dataset[Batch]):
    """One item is one window, as a dictionary of slices."""

    def __init__(self, panel: Panel, window: Window, first: int, stop: int) -> None:
        self.values, self.observed = torch.from_numpy(panel.values), torch.from_numpy(panel.observed)
        self.calendar = torch.from_numpy(calendar_fields(panel.timestamps, window.frequency))
        self.window, self.first = window, first
        self.per_series = stop - first - window.length + 1
        self.count = panel.num_series * self.per_series

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Batch:
        series, offset = divmod(index, self.per_series)
        begin = self.first + offset
        middle = begin + self.window.context_length
        end = begin + self.window.length
        return {
            "context": self.values[series, begin:middle],
            "calendar": self.calendar[middle:end],
            "series": torch.tensor(series),
            "target": self.values[series, middle:end],
            "observed": self.observed[series, middle:end],
        }


def plain_loss(net: Fcnet, batch: Batch) -> Tensor:
    scale = net.scale(batch["context"])
    error = net(batch["context"] / scale, batch["calendar"], batch["series"]) - batch["target"] / scale
    return (error.abs() * batch["observed"]).sum() / batch["observed"].sum()


def plain_step(net: Fcnet, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    optimizer.zero_grad()
    loss = plain_loss(net, batch)
    loss.backward()
    optimizer.step()
    return loss.item()


def plain_rate(net: Fcnet, windows: PlainWindows, batch_size: int, most_seconds: float) -> float:
    """Return the windows per second of an epoch, measured over its first seconds only."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    batches: Iterator[Batch] = iter(DataLoader(windows, batch_size, shuffle=True))
    plain_step(net, optimizer, next(batches))
    begun, count = time.perf_counter(), 0
    for batch in batches:
        plain_step(net, optimizer, batch)
        count += len(batch["context"])
        if time.perf_counter() - begun > most_seconds:
            break
    return count / (time.perf_counter() - begun)


@torch.no_grad()
def held_out_error(net: Fcnet, held_out: Batch) -> float:
    return plain_loss(net, held_out).item()
