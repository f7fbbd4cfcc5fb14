"""History: the newest bins that a forecaster reads, extended bin by bin."""

import logging
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from kforecast.data.findings import refuse_coarse, serious_warnings
from kforecast.data.grid import Grid
from kforecast.data.panel import Panel, in_key_order
from kforecast.data.reading import read_panel
from kforecast.errors import DataError
from kforecast.metrics.frame import FrameSource
from kforecast.metrics.timerange import utc
from kforecast.predictor import Predictor
from kforecast.serving.feed import Feed, Pair

log = logging.getLogger(__name__)

# A read begins this many bins before a horizon ago: late rows of these bins are seen.
_OVERLAP = 2
# Rows in memory at once: some 20 MB.
_MOST_ROWS = 500_000


class History:
    """The newest ``history_length`` bins of all series before an origin.

    Parameters
    ----------
    feed:
        Where rows come from.
    predictor:
        Tells the bins, and how many are read.

    Attributes
    ----------
    panel:
        None before the first :meth:`load`. A new one after each read; no panel changes.
    problems:
        Why series could not be read last time.
    """

    def __init__(self, feed: Feed, predictor: Predictor) -> None:
        self.feed, self.predictor = feed, predictor
        frequency, zone = predictor.window.frequency, predictor.zone
        grid = Grid(frequency.step, zone)
        self.grid = Grid(frequency.step) if grid.is_utc else grid
        self.frequency, self.length = frequency, predictor.history_length
        self.panel: Panel | None = None
        self.problems: dict[Pair, str] = {}
        self.appeared = False  # whether rows of other series than those of the panel have come

    def load(self, stop: int) -> None:
        """Read all bins before bin ``stop`` of the grid.

        Raises
        ------
        SourceError, DataError
            When the source cannot be read, or there is no value at all.
        """
        series, begin = self.feed.series(), stop - self.length
        values, observed, pairs = self._read(begin, stop, series, check=True)
        if not observed.any():
            reasons = "; ".join(list(self.problems.values())[:3])
            raise DataError(
                f"no value of any series in the newest {self.length:,} bins. {reasons}".rstrip(". ")
            )
        self.panel = Panel(
            values, observed, self.grid.seconds(begin), self.frequency, pairs, zone=self.grid.zone
        )

    def extend(self, stop: int) -> np.ndarray:
        """Read the bins up to bin ``stop`` of the grid, and the newest of those that are known.

        Returns
        -------
        The rows of series whose known bins have changed, int64.

        Raises
        ------
        SourceError, DataError
            When the source cannot be read, or has lost the newest bins of all series; the panel is then as
            before.
        """
        panel = self.panel
        assert panel is not None, "loaded first"
        end = panel.first_bin + panel.num_bins
        begin = max(end - self.predictor.window.prediction_length - _OVERLAP, stop - self.length)
        values, observed, pairs = self._read(begin, stop, panel.series)
        if self.appeared:
            self.load(stop)
            assert self.panel is not None, "loaded"
            return np.arange(self.panel.num_series)
        failed = np.array([pair in self.problems for pair in pairs])
        old_values, old_observed = self._before(panel, begin, stop)
        if old_observed[~failed].any() and not observed.any():
            since = utc(self.grid.seconds(begin))
            raise DataError(f"no value of any series since {since} UTC, where some were known")
        values[failed], observed[failed] = old_values[failed], old_observed[failed]
        known = max(0, end - begin)
        differs = ((observed != old_observed) | (values != old_values))[:, :known]
        # A series that comes back may have older rows that were unknown, or whose bin was unfinished. Where
        # the oldest bin has changed, those before it may have, too: the source was wrong, or has lost rows.
        older = (~old_observed.any(axis=1) & observed.any(axis=1)) | differs[:, :1].any(axis=1)
        made = self._joined(panel, begin, stop, values, observed)
        if older.any():
            made = self._reread(made, stop, np.flatnonzero(older), begin - made.first_bin)
        self.panel = made
        return np.flatnonzero(differs.any(axis=1) | older)

    def _reread(self, panel: Panel, stop: int, rows: np.ndarray, begin: int) -> Panel:
        """The panel with some series read anew as a whole; unknown from ``begin`` on if that fails."""
        wanted = [panel.series[row] for row in rows.tolist()]
        problems = self.problems
        values, observed, pairs = self._read(stop - self.length, stop, wanted)
        if pairs == tuple(wanted):
            good = np.array([pair not in self.problems for pair in wanted])
            panel.values[rows[good]], panel.observed[rows[good]] = values[good], observed[good]
            # Few newest values must not pass for a whole history: silent until it can be read as a whole.
            panel.values[rows[~good], begin:], panel.observed[rows[~good], begin:] = 0, False
        self.problems = problems | self.problems
        return panel

    def _before(self, panel: Panel, begin: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Known values and mask of bins of the grid; unobserved where unknown."""
        shape = (panel.num_series, stop - begin)
        values, observed = np.zeros(shape, np.float32), np.zeros(shape, bool)
        first = begin - panel.first_bin
        known = panel.values[:, first : first + stop - begin]
        values[:, : known.shape[1]] = known
        observed[:, : known.shape[1]] = panel.observed[:, first : first + stop - begin]
        return values, observed

    def _joined(self, panel: Panel, begin: int, stop: int, values: np.ndarray, observed: np.ndarray) -> Panel:
        """The newest bins of a panel before ``stop``, with other values from ``begin`` on."""
        first = stop - self.length
        old = slice(first - panel.first_bin, begin - panel.first_bin)
        return Panel(
            np.concatenate([panel.values[:, old], values], axis=1),
            np.concatenate([panel.observed[:, old], observed], axis=1),
            self.grid.seconds(first),
            self.frequency,
            panel.series,
            zone=panel.zone,
        )

    def _read(
        self, begin: int, stop: int, series: Sequence[Pair] | None, check: bool = False
    ) -> tuple[np.ndarray, np.ndarray, tuple[Pair, ...]]:
        """Values and mask ``[series, bins]`` of bins of the grid, and the series in their order."""
        start, end = self.grid.seconds(begin), self.grid.seconds(stop)
        # A file is read as a whole in any case, and its rows tell of new series.
        if self.feed.series() is None:
            frame, self.problems = self.feed.read(start, end)
            seen, frames = list(dict.fromkeys(_pairs(frame))), iter([frame])
        else:
            assert series is not None, "a server's series are known"
            self.problems, seen, frames = {}, [], self._frames(start, end, series)
        pairs, _ = in_key_order(list(seen if series is None else series))
        self.appeared = not {*pairs}.issuperset(seen)
        shape = (len(pairs), stop - begin)
        values, observed = np.zeros(shape, np.float32), np.zeros(shape, bool)
        for frame in frames:
            if frame["value"].notna().any():
                self._place(frame, begin, pairs, values, observed, check)
        return values, observed, pairs

    def _frames(self, start: int, end: int, series: Sequence[Pair]) -> Iterator[pd.DataFrame]:
        """The rows of some series at a time: as bins they need far less memory."""
        count = max(1, _MOST_ROWS // max(1, (end - start) // self.feed.step))
        for first in range(0, len(series), count):
            frame, problems = self.feed.read(start, end, frozenset(series[first : first + count]))
            self.problems |= problems
            yield frame

    def _place(
        self,
        frame: pd.DataFrame,
        begin: int,
        pairs: Sequence[Pair],
        values: np.ndarray,
        observed: np.ndarray,
        check: bool,
    ) -> None:
        """Put the bins of rows into arrays ``[series, bins]`` whose first bin is ``begin``."""
        panel = read_panel(FrameSource(frame, any_time=True), self.frequency, self.predictor.bin_calendar)
        if check:
            refuse_coarse(panel, self.predictor.name)
            for warning in serious_warnings(panel, self.predictor.window):
                log.warning("%s", warning)
        row_of = {pair: row for row, pair in enumerate(pairs)}
        known = [pair in row_of for pair in panel.series]
        rows = np.array([row_of[pair] for pair in panel.series if pair in row_of], dtype=np.int64)
        place = panel.first_bin - begin
        values[rows, place : place + panel.num_bins] = panel.values[known]
        observed[rows, place : place + panel.num_bins] = panel.observed[known]
        values[~observed] = 0


def _pairs(frame: pd.DataFrame) -> list[Pair]:
    unique = frame[["workload", "metric"]].drop_duplicates()
    return list(zip(unique["workload"].astype(str), unique["metric"].astype(str), strict=True))
