"""Samples to pre-train on: steps of windows of many series, as inputs and targets."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from kforecast.data.panel import Panel
from kforecast.data.windows import Past, WindowDataset
from kforecast.models.aligned import Aligned, aligned, lookback
from kforecast.models.pretrained import LONGEST
from kforecast.pretraining.traffic import traffic
from kforecast.window import Window

# Steps of each window that become samples, and the smallest context that WindowDataset fills gaps in.
_STEPS, _CONTEXT = 3, 12
# Share of the windows with a short history, its mean number of days, and the share of those windows without
# any whole day that have only some of the newest bins.
_SHORT, _DAYS, _VERY_SHORT = 0.35, 6.0, 0.5
_LARGEST_TARGET = 60.0
# A Thursday, as traffic() begins with.
_START = 1_600_300_800 // 604_800 * 604_800


class Samples(NamedTuple):
    """Inputs of a :class:`kforecast.models.pretrained.TrafficNet` and targets, one row each."""

    inputs: Aligned
    """float16, except ``known``."""
    target: Tensor
    """The correction to the last value in units of the scale, float32 [N]."""

    def __len__(self) -> int:
        return len(self.target)

    def rows(self, chosen: Tensor | slice) -> "Samples":
        """Some of them, as float32."""
        inputs = (part[chosen] for part in self.inputs)
        return Samples(
            Aligned(*(part if part.dtype == torch.bool else part.float() for part in inputs)),
            self.target[chosen],
        )

    def drawn(self, chosen: Tensor) -> "Samples":
        """Some of them, as they are kept."""
        return Samples(Aligned(*(part[chosen] for part in self.inputs)), self.target[chosen])

    @classmethod
    def joined(cls, several: "list[Samples]") -> "Samples":
        """All of several."""
        inputs = (torch.cat(parts) for parts in zip(*(one.inputs for one in several), strict=True))
        return cls(Aligned(*inputs), torch.cat([one.target for one in several]))


class Mix(NamedTuple):
    """How much of a shard has a frequency."""

    frequency: str
    bins: int
    series: int
    windows: int


# A shard of some 310,000 samples.
MIX = (
    Mix("1min", 24 * 1440, 12, 10_000),
    Mix("5min", 40 * 288, 36, 10_000),
    Mix("10min", 56 * 144, 120, 40_000),
    Mix("15min", 56 * 96, 36, 10_000),
    Mix("30min", 60 * 48, 36, 8_000),
    Mix("1H", 90 * 24, 120, 28_000),
    Mix("1D", 730, 48, 8_000),
)


def generated(seed: int) -> Samples:
    """A shard of samples of generated traffic at all frequencies; the same seed gives the same shard."""
    rng = np.random.default_rng([seed, 1])
    found = []
    for number, mix in enumerate(MIX):
        window = Window(mix.frequency, _CONTEXT, LONGEST)
        values = traffic(seed * len(MIX) + number, mix.series, mix.bins, window.frequency.step)
        known = np.isfinite(values)
        names = tuple((f"{row:05}", "generated") for row in range(len(values)))
        panel = Panel(np.nan_to_num(values), known, _START, window.frequency, names)
        found += list(samples_of(panel, mix.windows, rng))
    return Samples.joined(found)


def samples_of(panel: Panel, windows: int, rng: Generator) -> Iterator[Samples]:
    """Samples of random windows of a panel; some are made as if the history were short."""
    window = Window(panel.frequency, _CONTEXT, LONGEST)
    dataset = WindowDataset(panel, window, "ffill", lookback=lookback(window))
    for begin in range(0, windows, dataset.evaluation_windows):
        count = min(dataset.evaluation_windows, windows - begin)
        series = rng.integers(panel.num_series, size=count)
        origin = rng.integers(2, panel.num_bins - LONGEST, size=count)
        batch = dataset[torch.from_numpy(series * panel.num_bins + origin)]
        assert batch.past is not None
        past = _shortened(batch.past, rng)
        # Near steps are more usual than far ones.
        step = torch.from_numpy(
            LONGEST ** rng.random((count, _STEPS)) - rng.integers(1, 3, (count, _STEPS)) / 2
        )
        step = step.long().clamp(0, LONGEST - 1)
        inputs, scaled = aligned(past, step, window)
        target = (batch.target.gather(1, step) - scaled.center) / scaled.scale
        counted = (
            batch.observed.gather(1, step) & scaled.alive & past.recent_observed.any(dim=1, keepdim=True)
        )
        chosen = counted.flatten()
        rows = (part.flatten(0, 1)[chosen] for part in inputs)
        small = Aligned(*(part if part.dtype == torch.bool else part.half() for part in rows))
        yield Samples(small, target.flatten()[chosen].clamp(-_LARGEST_TARGET, _LARGEST_TARGET))


def _shortened(past: Past, rng: Generator) -> Past:
    """Hide the older history of some windows."""
    count, seasons = past.seasons.shape[:2]
    recent = past.recent.shape[1]
    short = rng.random(count) < _SHORT
    days = np.where(
        short, np.minimum(rng.integers(0, seasons + 1, count), rng.exponential(_DAYS, count)), seasons
    )
    few = short & (days < 1) & (rng.random(count) < _VERY_SHORT)
    bins = np.where(few, rng.integers(2, recent + 1, count), recent)
    kept = torch.arange(seasons) < torch.from_numpy(np.floor(days))[:, None]
    newest = torch.arange(recent) >= recent - torch.from_numpy(bins)[:, None]
    return past._replace(
        seasons=past.seasons.where(kept[..., None], 0.0),
        seasons_observed=past.seasons_observed & kept[..., None],
        recent=past.recent.where(newest, 0.0),
        recent_observed=past.recent_observed & newest,
    )
