"""Finds the usable windows of a panel and splits them by time into train, validation and test."""

from dataclasses import dataclass

import numpy as np

from kforecast.data.origins import Cells, blocks
from kforecast.data.panel import Panel
from kforecast.errors import DataError
from kforecast.window import Window


@dataclass(frozen=True)
class SplitSettings:
    """Which windows are usable and how large the held-out parts are; defaults as in ``conf/data``.

    Attributes
    ----------
    validation, test:
        Shares of the time range: the newest bins are test, the bins before them validation.
    max_missing:
        Use a window only if at most this share of its context is unobserved.
    mask_gaps:
        Mask unobserved targets; a window without any observed target is not used.
    skip_zero_context:
        Leave out windows whose whole context is zero. The network scales by the mean of the context, so
        nothing can be learned from them, and their scaled error (about 1e10) would dominate the loss.
    skip_newest_window:
        Never use the newest ``context + horizon`` bins, as Kapacity's training does.
    """

    validation: float = 0.1
    test: float = 0.1
    max_missing: float = 0.5
    mask_gaps: bool = True
    skip_zero_context: bool = True
    skip_newest_window: bool = False

    def ends(self, num_bins: int, window: Window) -> tuple[int, int, int]:
        """Bins (exclusive) where the training, validation and test parts of so many bins end."""
        end = num_bins - (window.length if self.skip_newest_window else 0)
        horizon = window.prediction_length
        test_bins = max(round(self.test * end), horizon) if self.test else 0
        validation_bins = max(round(self.validation * end), horizon) if self.validation else 0
        return end - test_bins - validation_bins, end - test_bins, end


@dataclass(frozen=True)
class Split:
    """The windows of each part.

    Attributes
    ----------
    train, validation, test:
        Validation and test may be empty.
    train_end, validation_end, end:
        Bins (exclusive) where the parts end. No horizon crosses these limits; a context may reach back into
        an earlier part.
    unused:
        Number of windows left out, by reason.
    """

    train: Cells
    validation: Cells
    test: Cells
    train_end: int
    validation_end: int
    end: int
    unused: dict[str, int]


def split_windows(panel: Panel, window: Window, settings: SplitSettings) -> Split:
    """Find the usable windows and split them by time.

    Raises
    ------
    DataError
        When a part has no window; the message has the numbers and the smallest remedy.
    """
    train_end, validation_end, end = settings.ends(panel.num_bins, window)
    spans = {
        "train": (0, train_end),
        "validation": (train_end, validation_end if settings.validation else train_end),
        "test": (validation_end, end if settings.test else validation_end),
    }
    parts: dict[str, list[Cells]] = {part: [] for part in spans}
    unused: dict[str, int] = {}
    for first, observed in blocks(panel.observed[:, : max(end, 0)]):
        values = panel.values[first : first + len(observed), : max(end, 0)]
        usable, reasons = _usable(values, observed, window, settings)
        for reason, number in reasons.items():
            unused[reason] = unused.get(reason, 0) + number
        for part, (begin, stop) in spans.items():
            oldest = max(begin, window.context_length)
            inside = usable[:, oldest - window.context_length : max(stop - window.length + 1, 0)]
            found = Cells.of_flags(inside, panel.num_bins, first_series=first, first_bin=oldest)
            parts[part].append(found)
    split = Split(
        **{part: Cells.joined(found) for part, found in parts.items()},
        train_end=train_end,
        validation_end=validation_end,
        end=end,
        unused={reason: number for reason, number in unused.items() if number},
    )
    _check_enough(panel, window, split, settings)
    return split


def cells_between(panel: Panel, window: Window, begin: int, stop: int, stride: int = 1) -> np.ndarray:
    """The windows that a forecaster is evaluated on: all their targets lie in the bins ``[begin, stop)``.

    There is an origin every ``stride`` bins. It is used when at least half of its context is observed; bins
    before the start of the panel count as unobserved.

    Returns
    -------
    Flat cells of the origins, ``series * num_bins + origin``, ascending, int64 ``[windows]``.
    """
    origins = np.arange(begin, stop - window.prediction_length + 1, stride, dtype=np.int64)
    first = max(begin - window.context_length, 0)
    known = running_sum(panel.observed[:, first:stop])
    seen = known[:, origins - first] - known[:, np.maximum(origins - window.context_length, 0) - first]
    row, column = np.nonzero(2 * seen >= window.context_length)
    return row.astype(np.int64) * panel.num_bins + origins[column]


def _usable(
    values: np.ndarray, observed: np.ndarray, window: Window, settings: SplitSettings
) -> tuple[np.ndarray, dict[str, int]]:
    """Usable windows, bool ``[series, origin - context_length]``, and the number of others by reason."""
    context, horizon = window.context_length, window.prediction_length
    count = max(0, observed.shape[1] - window.length + 1)
    if count == 0:
        return np.zeros((len(observed), 0), dtype=bool), {}
    known = running_sum(observed)
    seen = known[:, context : context + count] - known[:, :count]
    enough = context - seen <= settings.max_missing * context
    unused = {"with too much of the context missing": int((~enough).sum())}
    usable = enough
    if settings.mask_gaps:
        has_target = known[:, context + horizon :][:, :count] > known[:, context : context + count]
        unused["without an observed target"] = int((usable & ~has_target).sum())
        usable = usable & has_target
    if settings.skip_zero_context:
        traffic = running_sum((values != 0) & observed)
        alive = traffic[:, context : context + count] > traffic[:, :count]
        unused["with a context of zeros"] = int((usable & ~alive).sum())
        usable = usable & alive
    return usable, unused


def running_sum(values: np.ndarray, dtype: type[np.generic] = np.int32) -> np.ndarray:
    """Sum of all earlier columns for each column, ``[series, time + 1]``; for flags, their count."""
    total = np.zeros((values.shape[0], values.shape[1] + 1), dtype=dtype)
    np.cumsum(values, axis=1, out=total[:, 1:])
    return total


def _check_enough(panel: Panel, window: Window, split: Split, settings: SplitSettings) -> None:
    horizon = window.prediction_length
    parts = [f"context {window.context_length}", f"horizon {horizon}"]
    parts += [f"validation {horizon}"] * bool(settings.validation)
    parts += [f"test {horizon}"] * bool(settings.test)
    if not len(split.train):
        longest = int(np.argmax(panel.observed.sum(axis=1)))
        points = int(panel.observed[longest].sum())
        series = f"series {' '.join(panel.series[longest])}: {points:,} points at {window.frequency.name}"
        if split.train_end >= window.length:
            raise DataError(
                f"no window to train on: {series}, and no other has more, but none of the windows is "
                f"usable{_reasons(split)}"
            )
        remedy = "give a longer history or a shorter window.context_length or window.prediction_length"
        if settings.test:
            remedy += ", or set data.test=0"
        if panel.num_series > 1:
            series = f"all {panel.num_series:,} series are too short; the longest is {series}"
        raise DataError(
            f"no window to train on: {series}, need {' + '.join(parts)}; {remedy}{_reasons(split)}"
        )
    held_out = (
        ("validation", settings.validation, split.validation),
        ("test", settings.test, split.test),
    )
    for name, share, found in held_out:
        if share and not len(found):
            raise DataError(
                f"no window in the {name} part ({share:.0%} of the time range): nothing usable was observed "
                f"there; give a longer history or set data.{name}=0{_reasons(split)}"
            )


def _reasons(split: Split) -> str:
    if not split.unused:
        return ""
    return " (windows not used: " + ", ".join(f"{n:,} {reason}" for reason, n in split.unused.items()) + ")"
