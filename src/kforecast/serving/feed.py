"""Feed: the rows of any source between two moments, for one shard of its series."""

import hashlib
import math
from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd

from kforecast.metrics.server_source import ServerSource
from kforecast.metrics.source import MetricSource

_WEEK = 7 * 86_400

Pair = tuple[str, str]


@dataclass(frozen=True)
class Shard:
    """``serve.shard=i/n``: the ``i``-th of ``n`` parts of the series, from 0 on.

    A series belongs to one part, whatever the other series are.
    """

    number: int
    count: int

    def holds(self, pair: Pair) -> bool:
        """Whether a series belongs to this part."""
        digest = hashlib.sha256("\0".join(pair).encode()).digest()
        return int.from_bytes(digest[:8]) % self.count == self.number


class Feed:
    """The rows of a source.

    Parameters
    ----------
    source:
        A server is asked for the time range. A file is read anew as a whole.
    shard:
        The part of the series to serve; None for all.
    replay_at:
        Unix seconds. The rows of a file are moved by whole weeks, so that this moment is in their last week;
        None leaves them where they are.
    """

    def __init__(
        self, source: MetricSource, shard: Shard | None = None, replay_at: float | None = None
    ) -> None:
        self.source, self.shard, self.replay_at = source, shard, replay_at

    @property
    def step(self) -> int:
        """Seconds between two rows of a series of a server; a minute for a file, which is read as a whole."""
        return self.source.step if isinstance(self.source, ServerSource) else 60

    def series(self) -> list[Pair] | None:
        """The series of the shard; None for a file, whose rows tell."""
        if isinstance(self.source, ServerSource):
            return [pair for pair in self.source.series() if self.shard is None or self.shard.holds(pair)]
        return None

    def read(
        self, start: int, end: int, only: Collection[Pair] | None = None
    ) -> tuple[pd.DataFrame, dict[Pair, str]]:
        """The rows from ``start`` on and before ``end``, and why series failed.

        See :meth:`ServerSource.fetch_range`.

        Raises
        ------
        SourceError, DataError
            When the source cannot be read.
        """
        if isinstance(self.source, ServerSource):
            return self.source.fetch_range(start, end, self.series() if only is None else only)
        frame = self.source.fetch()
        if self.replay_at is not None:
            weeks = math.ceil((self.replay_at - float(frame["timestamp"].max())) / _WEEK)
            frame = frame.assign(timestamp=frame["timestamp"] + max(0, weeks) * _WEEK)
        frame = frame[(frame["timestamp"] >= start) & (frame["timestamp"] < end)]
        if self.shard is not None or only is not None:
            pairs = pd.MultiIndex.from_arrays([frame["workload"].astype(str), frame["metric"].astype(str)])
            wanted = [
                pair
                for pair in pairs.unique()
                if (self.shard is None or self.shard.holds(pair)) and (only is None or pair in only)
            ]
            frame = frame[pairs.isin(wanted)]
        return frame, {}
