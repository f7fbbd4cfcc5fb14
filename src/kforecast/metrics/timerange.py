"""Time ranges aligned to a step, and how to cut them into chunks."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

# The most points per series that Prometheus returns; it refuses longer ranges.
MOST_POINTS = 11_000


@dataclass(frozen=True)
class TimeRange:
    """The instants ``start, start + step, ..., end`` in unix seconds, both ends included.

    Both ends are multiples of the step, so that fetches at any time share one grid.
    """

    start: int
    end: int
    step: int

    @classmethod
    def ending(cls, end: float, length: int, step: int) -> "TimeRange":
        """The last ``length`` seconds up to ``end``, rounded down to the grid."""
        last = int(end // step) * step
        return cls(last - length // step * step, last, step)

    @property
    def num_points(self) -> int:
        """Number of instants in the range."""
        return (self.end - self.start) // self.step + 1

    def chunks(self, points: int) -> Iterator["TimeRange"]:
        """Cut the range into consecutive ranges of at most ``points`` instants."""
        width = points * self.step
        for first in range(self.start, self.end + 1, width):
            yield TimeRange(first, min(first + width - self.step, self.end), self.step)

    def __str__(self) -> str:
        return f"{utc(self.start)} to {utc(self.end)}"


def utc(second: float) -> str:
    """Unix seconds as UTC date and time, for messages."""
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S}"
