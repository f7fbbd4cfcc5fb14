"""Values of bins as paths of small SVG drawings: for a server, which should not hold matplotlib in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_TIME_STEPS = (
    *(seconds * _MINUTE for seconds in (1, 2, 5, 10, 15, 30)),
    *(hours * _HOUR for hours in (1, 2, 3, 6, 12)),
    *(days * _DAY for days in (1, 2, 7, 14, 28, 91, 364)),
)
_MOST_TIMES, _MOST_NUMBERS = 12, 5


@dataclass(frozen=True)
class Plane:
    """Where moments and values lie in a drawing.

    Attributes
    ----------
    begin, end:
        Unix seconds at the left and right edge.
    low, high:
        Values at the bottom and top edge. Values beyond them are drawn on the edge.
    left, top, right, bottom:
        The edges in the units of the drawing's view box.
    """

    begin: float
    end: float
    low: float
    high: float
    left: float
    top: float
    right: float
    bottom: float

    def x(self, seconds: np.ndarray) -> np.ndarray:
        """Positions of moments in unix seconds, to a tenth."""
        share = (seconds - self.begin) / (self.end - self.begin)
        placed: np.ndarray = np.round(self.left + share * (self.right - self.left), 1)
        return placed

    def y(self, values: np.ndarray) -> np.ndarray:
        """Positions of values, to a tenth; NaN stays NaN."""
        share = np.clip((values - self.low) / (self.high - self.low), 0, 1)
        placed: np.ndarray = np.round(self.bottom - share * (self.bottom - self.top), 1)
        return placed

    def line(self, edges: np.ndarray, values: np.ndarray) -> str:
        """The path of a line with one level step a bin; it breaks at NaN.

        Parameters
        ----------
        edges:
            Unix seconds at which the bins begin, and at last the end of the last one, ``[bins + 1]``.
        values:
            ``[bins]``.
        """
        known = np.isfinite(values)
        first = known & ~np.append(False, known[:-1])
        x, y = self.x(edges), self.y(values)
        columns = (first[known], x[:-1][known], x[1:][known], y[known])
        return "".join(
            f"M{left:g} {level:g}H{right:g}" if begins else f"V{level:g}H{right:g}"
            for begins, left, right, level in zip(*(column.tolist() for column in columns), strict=True)
        )

    def band(self, edges: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> str:
        """The path of the area between two lines without NaN; see :meth:`line`."""
        x, below, above = self.x(edges), self.y(lower), self.y(upper)
        # Along the upper line, and back along the lower one.
        levels = np.concatenate([above, below[::-1]]).tolist()
        ends = np.concatenate([x[1:], x[-2::-1]]).tolist()
        steps = "".join(f"V{level:g}H{end:g}" for level, end in zip(levels, ends, strict=True))
        return f"M{x[0]:g} {below[0]:g}{steps}Z"

    def times(self) -> Iterator[tuple[float, str, str]]:
        """Position, time and date in UTC of ticks on the time axis; empty texts where they say nothing."""
        span = self.end - self.begin
        step = next((step for step in _TIME_STEPS if span <= _MOST_TIMES * step), span)
        ticks = np.arange(-(-self.begin // step) * step, self.end, step)
        for number, (place, tick) in enumerate(zip(self.x(ticks).tolist(), ticks.tolist(), strict=True)):
            moment = datetime.fromtimestamp(tick, UTC)
            midnight = tick % _DAY == 0
            yield (
                place,
                f"{moment:%H:%M}" if step < _DAY else "",
                f"{moment:%d %b}" if number == 0 or midnight else "",
            )

    def numbers(self) -> Iterator[tuple[float, str]]:
        """Position and text of ticks on the axis of values."""
        rough = (self.high - self.low) / _MOST_NUMBERS
        size = 10.0 ** np.floor(np.log10(rough))
        step = next(step for step in (size, 2 * size, 2.5 * size, 5 * size, 10 * size) if step >= rough)
        ticks = np.arange(np.ceil(self.low / step), np.floor(self.high / step) + 1) * step
        for place, tick in zip(self.y(ticks).tolist(), ticks.tolist(), strict=True):
            yield place, number_words(tick)


def extent(*values: np.ndarray) -> tuple[float, float]:
    """The ends of an axis for values: zero or the lowest negative value, and a little above the highest."""
    known = np.concatenate([np.ravel(array) for array in values])
    known = known[np.isfinite(known)]
    low = min(0.0, float(known.min(initial=0.0)))
    high = float(known.max(initial=0.0))
    # Ticks need a span that can be divided.
    return low, high + 0.06 * (high - low) if high - low > 1e-100 else low + 1.0


def thinned(edges: np.ndarray, values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most so many bins: the highest value of each group of neighbours, so that no peak is lost."""
    group = -(-len(values) // most)
    if group <= 1:
        return edges, values
    first = np.arange(0, len(values), group)
    return np.append(edges[first], edges[-1]), np.fmax.reduceat(values, first)


def number_words(value: float) -> str:
    """A number in about four digits: ``0.01234``, ``12.34``, ``12,345``; a dash if it is not finite."""
    if not np.isfinite(value):
        return "–"
    text = f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.4g}"
    return text.replace("-", "−")
