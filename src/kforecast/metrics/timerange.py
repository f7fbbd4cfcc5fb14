"""A range of time on the grid of a step, and its chunks."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

# What Prometheus answers at most for one series; it refuses longer ranges.
MOST_POINTS = 11_000


@dataclass(frozen=True)
class TimeRange:
    """The moments ``start, start + step, ..., end``, both ends included, in unix seconds.

    Both ends are multiples of the step: whoever asks, and whenever, meets the same grid.
    """

    start: int
    end: int
    step: int

    @classmethod
    def ending(cls, end: float, length: int, step: int) -> "TimeRange":
        """The last ``length`` seconds up to ``end``, snapped to the grid towards the past."""
        last = int(end // step) * step
        return cls(last - length // step * step, last, step)

    @property
    def num_points(self) -> int:
        """Moments in the range."""
        return (self.end - self.start) // self.step + 1

    def chunks(self, points: int) -> Iterator["TimeRange"]:
        """Cut into consecutive ranges of at most ``points`` moments; together they are this one."""
        width = points * self.step
        for first in range(self.start, self.end + 1, width):
            yield TimeRange(first, min(first + width - self.step, self.end), self.step)

    def __str__(self) -> str:
        return f"{utc(self.start)} to {utc(self.end)}"


def utc(second: float) -> str:
    """A moment for a message."""
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S}"
