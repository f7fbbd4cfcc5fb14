"""The quality of a history, series by series: the report of ``kforecast-fetch``."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from kforecast.console import table
from kforecast.data.binning import Tally, merged
from kforecast.data.calendar import Calendar
from kforecast.data.findings import (
    Finding,
    by_message,
    findings_of,
    offsets,
    share_missing,
    span,
    utc,
)
from kforecast.data.grid import Grid, common_grid
from kforecast.data.measures import MEASURES, measure
from kforecast.data.off_grid import off_grid_words
from kforecast.data.rows import Rows
from kforecast.errors import few
from kforecast.metrics.units import guess_unit
from kforecast.window import Window

_MOST_ROWS = 10


def examine(
    frame: pd.DataFrame,
    window: Window,
    on_multiple: str | None = None,
    calendar: Calendar | None = None,
) -> tuple[pd.DataFrame, list[Finding]]:
    """Measure every series of a long frame (contract 3) that may fail any of its checks.

    Parameters
    ----------
    on_multiple:
        ``sum`` or ``mean`` combine several rows of a series at one moment, and then they are no finding.
    calendar:
        Local time of the series, which the bins follow; None for UTC.

    Returns
    -------
    table
        One row per series: ``workload, metric, points`` (moments with a number), ``first, last`` (unix
        seconds), ``step`` (the most frequent, seconds), ``missing`` (share of the steps between first and
        last without a value), ``longest_gap`` (seconds between neighbours, 0 when none is missing),
        ``duplicates`` (rows at a repeated timestamp), ``nan, negative`` (rows), ``constant`` (points in the
        longest run of one value), ``counter`` (whether it looks like one), ``offset`` (seconds from the grid
        of most series), ``bins`` (with a value, at the window's frequency), ``daily, weekly`` (strength of
        the seasonality, 0 to 1; NaN with less than two cycles).
    findings
        In the order of the table.
    """
    # Series with a missing name, or one that is not text, are reported, too.
    names = frame[["workload", "metric"]].astype(object).where(lambda cells: cells.notna(), "").astype(str)
    grouped = names.groupby(["workload", "metric"], sort=True)
    number = grouped.ngroup().to_numpy()
    series = [(str(workload), str(metric)) for workload, metric in grouped.size().index]
    second, value = frame["timestamp"].to_numpy(float), frame["value"].to_numpy(float)
    stamped = np.isfinite(second)
    number, second, value = number[stamped], second[stamped], value[stamped]
    raw: list[tuple[int, str, str]] = []
    second = _in_seconds(number, second, raw)
    for row, count in _counted(number[np.isinf(value)]):
        raw.append((row, "infinite", f"{count:,} rows are infinite; does a query divide by zero?"))
    known = np.isfinite(value)
    combined = on_multiple in ("sum", "mean")
    tally = Tally(on_multiple)
    rows, repeats = merged(Rows(number[known], np.floor(second[known]).astype(np.int64), value[known]), tally)
    measures = np.zeros(len(series), MEASURES)
    places, measured = measure(
        rows.series, rows.second, rows.value, None if combined else repeats, window.frequency.step
    )
    measures[places] = measured
    measures["nan"] = np.bincount(number[np.isnan(value)], minlength=len(series))
    grid = Grid(window.frequency.step)
    if len(rows.second):
        ends = (int(rows.second.min()), int(rows.second.max()))
        grid = common_grid(calendar or Calendar(), series, window.frequency.step, ends)
        off = off_grid_words(rows, window.frequency, grid, 0, len(series))
        raw += [(row, "off_grid", words) for row, words in off.items()]
    findings = [Finding(*series[row], kind, message) for row, kind, message in raw]
    findings += findings_of(measures, series, window)
    order = {pair: n for n, pair in enumerate(series)}
    findings.sort(key=lambda finding: order[finding.workload, finding.metric])
    return _table(series, measures, rows, window, grid), findings


def _table(
    series: Sequence[tuple[str, str]], measures: np.ndarray, rows: Rows, window: Window, grid: Grid
) -> pd.DataFrame:
    """The table of :func:`examine`; ``rows`` are sorted, with one row a moment."""
    if not series:
        return pd.DataFrame()
    some = measures["points"] > 0
    bounds = np.searchsorted(rows.series, np.arange(len(series) + 1))
    bins = [_bins(rows.at(slice(begin, stop)), grid) for begin, stop in pairwise(bounds)]
    gap = measures["longest_gap"]
    return pd.DataFrame(
        {
            "workload": [workload for workload, _ in series],
            "metric": [metric for _, metric in series],
            "points": measures["points"],
            "first": np.where(some, measures["first"], np.nan),
            "last": np.where(some, measures["last"], np.nan),
            "step": measures["step"].astype(float),
            "missing": share_missing(measures),
            "longest_gap": np.where(gap > 1.5 * measures["step"], gap, 0).astype(float),
            "duplicates": measures["repeated"],
            "nan": measures["nan"],
            "negative": measures["negative"],
            "constant": measures["still_points"],
            "counter": measures["counter"],
            "offset": offsets(measures),
            "bins": [int(one.notna().sum()) for one in bins],
            "daily": [_strength(one, window.frequency.day) for one in bins],
            "weekly": [_strength(one, window.frequency.week) for one in bins],
        }
    )


def _in_seconds(number: np.ndarray, second: np.ndarray, found: list[tuple[int, str, str]]) -> np.ndarray:
    """Convert timestamps that seem to have another unit; add a finding for each of these series."""
    converted = second.copy()
    for rows in pd.Series(np.arange(len(second))).groupby(number).indices.values():
        unit = guess_unit(second[rows])
        if unit is not None:
            found.append((int(number[rows[0]]), "time_unit", unit.words(second[rows[0]])))
            converted[rows] = unit.seconds(second[rows])
    return converted


def _counted(numbers: np.ndarray) -> Iterator[tuple[int, int]]:
    yield from zip(*(part.tolist() for part in np.unique(numbers, return_counts=True)), strict=True)


def _bins(rows: Rows, grid: Grid) -> "pd.Series[float]":
    """Mean of each bin of a series from the first to the last one; NaN for bins without a row."""
    label = grid.bins(rows.second)
    if not len(label):
        return pd.Series(dtype=float)
    label = label - label[0]
    # A wrong timestamp may be decades away; leave out the empty bins up to it.
    label = label[label < 100 * len(label) + 1_000_000]
    count = np.bincount(label)
    total = np.bincount(label, weights=rows.value[: len(label)])
    return pd.Series(np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0))


def _strength(bins: "pd.Series[float]", period: int) -> float:
    """Strength of the seasonality after detrending, 0 to 1; NaN with less than two periods.

    ``1 - var(remainder) / var(season + remainder)`` of Wang, Smith and Hyndman (2006), "Characteristic-based
    clustering for time series data". The season is the mean of each phase. Both variances are divided by
    their degrees of freedom, because with few periods noise would look like a season.
    """
    if period < 2 or len(bins) < 2 * period:
        return float("nan")
    detrended = (bins - bins.rolling(period, center=True, min_periods=period // 2).mean()).to_numpy()
    known = ~np.isnan(detrended)
    phase, value = (np.arange(len(bins)) % period)[known], detrended[known]
    count = np.bincount(phase, minlength=period)
    degrees = len(value) - int((count > 0).sum())
    if degrees < 1:
        return float("nan")
    season = np.bincount(phase, weights=value, minlength=period) / np.maximum(count, 1)
    with np.errstate(over="ignore"):  # values that are refused later
        spread = float(((value - value.mean()) ** 2).sum()) / (len(value) - 1)
        remainder = float(((value - season[phase]) ** 2).sum()) / degrees
    return max(0.0, 1 - remainder / spread) if spread > 0 else 0.0


def quality_table(measured: pd.DataFrame, window: Window) -> str:
    """The table for the console: every series, or the ten with the most missing steps."""
    shown, title = measured, f"{len(measured):,} series"
    if len(measured) > _MOST_ROWS:
        shown = measured.sort_values(["missing", "points"], ascending=[False, True]).head(_MOST_ROWS)
        title += f"; the {_MOST_ROWS} with the most missing"

    def column(name: str, form: Callable[[Any], str]) -> list[str]:
        return [form(value) if value == value else "-" for value in shown[name]]

    columns: dict[str, Sequence[str]] = {
        "workload": [*shown["workload"]],
        "metric": [*shown["metric"]],
        "points": column("points", "{:,}".format),
        "first": column("first", utc),
        "last": column("last", utc),
        "step": column("step", span),
        "missing": column("missing", "{:.1%}".format),
        "longest gap": column("longest_gap", span),
        "duplicates": column("duplicates", "{:,}".format),
        "NaN": column("nan", "{:,}".format),
        f"bins of {window.frequency.name}": column("bins", "{:,}".format),
        "daily": column("daily", "{:.0%}".format),
        "weekly": column("weekly", "{:.0%}".format),
    }
    spare = ("NaN", "duplicates", "last", f"bins of {window.frequency.name}", "first", "longest gap")
    return table(title, columns, left=("workload", "metric"), spare=spare)


def findings_text(findings: Sequence[Finding]) -> str:
    """The findings for the console, grouped by kind and message."""
    if not findings:
        return "Nothing to complain about."
    lines = [f"{len(findings):,} {'finding' if len(findings) == 1 else 'findings'}:"]
    groups = by_message(findings)
    shown = groups[: 2 * _MOST_ROWS]
    lines += [f"  {kind}: {few(names)}: {message}" for kind, message, names in shown]
    if len(groups) > len(shown):
        lines.append(f"  ... and {len(groups) - len(shown):,} more")
    return "\n".join(lines)
