"""Problems of a history, series by series: the report of ``kforecast-fetch``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kforecast.console import table
from kforecast.errors import few
from kforecast.metrics.units import guess_unit
from kforecast.window import Window

_DAY = 86_400
_MOST_ROWS = 10
# A value constant for this long, and for a tenth of the history, suggests a broken exporter.
_STILL_SECONDS, _STILL_SHARE = _DAY, 0.1
_NOISE_SHARE = 0.01


@dataclass(frozen=True)
class Finding:
    """A problem of a series that its owner should know about.

    Attributes
    ----------
    workload, metric:
        The series.
    kind:
        ``empty, time_unit, duplicates, gaps, missing_values, infinite, counter, negative, constant,
        misaligned, coarse_step, too_short``.
    message:
        The observation and its remedy.
    """

    workload: str
    metric: str
    kind: str
    message: str


def examine(frame: pd.DataFrame, window: Window) -> tuple[pd.DataFrame, list[Finding]]:
    """Measure every series of a long frame (contract 3) that may fail any of its checks.

    Returns
    -------
    table
        One row per series: ``workload, metric, points`` (rows with a number), ``first, last`` (unix
        seconds), ``step`` (the most frequent, seconds), ``missing`` (share of the steps between first and
        last without a value), ``longest_gap`` (seconds between neighbours, 0 when none is missing),
        ``duplicates`` (rows at a repeated timestamp), ``nan, negative`` (rows), ``constant`` (points in the
        longest run of one value), ``counter`` (whether it looks like one), ``offset`` (seconds from the grid
        of most series), ``bins`` (with a value, at the window's frequency), ``daily, weekly`` (strength of
        the seasonality, 0 to 1; NaN with less than two cycles).
    findings
        In the order of the table.
    """
    rows, findings = [], []
    # Series with a missing name, or one that is not text, are reported, too.
    names = frame[["workload", "metric"]].astype(object).where(lambda cells: cells.notna(), "").astype(str)
    grouped = frame[["timestamp", "value"]].groupby([names["workload"], names["metric"]], sort=True)
    for pair, series in grouped:
        workload, metric = map(str, pair)
        one = _Series(series["timestamp"].to_numpy(float), series["value"].to_numpy(float))
        rows.append({"workload": workload, "metric": metric} | one.measures(window))
        findings += [Finding(workload, metric, kind, message) for kind, message in one.findings(window)]
    measured = pd.DataFrame(rows)
    if measured.empty:
        return measured, findings
    measured["offset"] = _offsets(measured)
    for row in measured[measured["offset"] != 0].to_dict("records"):
        message = (
            f"its moments lie {row['offset']:+,} s off those of most series, so bins average different "
            "moments; fetch all series with one clock, as source=kapacity and source=prometheus do"
        )
        findings.append(Finding(row["workload"], row["metric"], "misaligned", message))
    order = {pair: n for n, pair in enumerate(zip(measured["workload"], measured["metric"], strict=True))}
    findings.sort(key=lambda finding: order[finding.workload, finding.metric])
    return measured.drop(columns="phase"), findings


class _Series:
    """One series: its rows with a value in time order, and the findings made while sorting them."""

    def __init__(self, timestamp: np.ndarray, value: np.ndarray) -> None:
        self.seen: list[tuple[str, str]] = []
        stamped = np.isfinite(timestamp)
        self.rows = len(value)
        timestamp, value = timestamp[stamped], value[stamped]
        if unit := guess_unit(timestamp):
            self.seen.append(("time_unit", unit.words(timestamp[0])))
            timestamp = unit.seconds(timestamp)
        self.nan, self.infinite = int(np.isnan(value).sum()), int(np.isinf(value).sum())
        self.duplicates = len(timestamp) - len(np.unique(timestamp))
        known = np.isfinite(value)
        timestamp, value = timestamp[known], value[known]
        order = np.argsort(timestamp, kind="stable")
        timestamp, value = timestamp[order], value[order]
        # Of several rows at one timestamp, the first one counts.
        first = np.r_[True, np.diff(timestamp) > 0] if len(timestamp) else np.zeros(0, bool)
        self.points = len(value)
        self.timestamp, self.value = timestamp[first], value[first]
        gaps = np.diff(self.timestamp)
        self.step = _most_frequent(gaps) if len(gaps) else 0.0
        self.gaps = gaps

    def measures(self, window: Window) -> dict[str, Any]:
        """The row of the table."""
        some = len(self.timestamp) > 0
        first, last = self.timestamp[[0, -1]] if some else (np.nan, np.nan)
        expected = round((last - first) / self.step) + 1 if self.step else max(self.points, 1)
        bins = self._bins(window)
        return {
            "points": self.points,
            "first": first,
            "last": last,
            "step": self.step,
            "missing": max(0.0, 1 - len(self.timestamp) / expected),
            "longest_gap": self._longest_gap()[0],
            "duplicates": self.duplicates,
            "nan": self.nan,
            "negative": int((self.value < 0).sum()),
            "constant": self._constant()[1],
            "counter": self._is_counter(),
            "phase": _most_frequent(self.timestamp % self.step) if self.step else np.nan,
            "bins": int(bins.notna().sum()),
            "daily": _strength(bins, _DAY // window.frequency.step),
            "weekly": _strength(bins, 7 * _DAY // window.frequency.step),
        }

    def findings(self, window: Window) -> list[tuple[str, str]]:
        """Kind and message of all findings."""
        seen = list(self.seen)
        if not self.points:
            seen.append(
                (
                    "empty",
                    f"none of its {self.rows:,} rows has a number; check the metric's name and selector, and "
                    "that something exports it",
                )
            )
            return seen
        if self.infinite:
            seen.append(("infinite", f"{self.infinite:,} rows are infinite; does a query divide by zero?"))
        if self.nan > _NOISE_SHARE * self.rows:
            seen.append(
                (
                    "missing_values",
                    f"{self.nan:,} of {self.rows:,} rows have no number; they count as missing, never as 0",
                )
            )
        if self.duplicates:
            seen.append(
                (
                    "duplicates",
                    f"{self.duplicates:,} rows at a moment already seen; their mean is taken: are two "
                    "sources, or two exports, in one file?",
                )
            )
        seen += self._gap_findings(window)
        if self._is_counter():
            seen.append(
                (
                    "counter",
                    "it only grows, but for resets, like a counter; train on its rate: rate(...[5m]) in "
                    "PromQL, or differences divided by seconds",
                )
            )
        if negative := int((self.value < 0).sum()):
            seen.append(
                (
                    "negative",
                    f"{negative:,} values are below 0 (least {self.value.min():g}); traffic cannot be: is it "
                    "a difference, or the wrong metric?",
                )
            )
        seen += self._constant_findings()
        if self.step > window.frequency.step:
            seen.append(
                (
                    "coarse_step",
                    f"a row every {_span(self.step)}, but bins of {window.frequency.name}: most bins stay "
                    "empty; choose a coarser window or a finer step",
                )
            )
        seen += self._length_findings(window)
        return seen

    def _gap_findings(self, window: Window) -> list[tuple[str, str]]:
        gap, begin = self._longest_gap()
        expected = round((self.timestamp[-1] - self.timestamp[0]) / self.step) + 1 if self.step else 1
        missing = 1 - len(self.timestamp) / expected
        if gap <= max(2 * self.step, window.frequency.step) and missing <= _NOISE_SHARE:
            return []
        return [
            (
                "gaps",
                f"nothing for {_span(gap)} from {_utc(begin)} at the longest, {max(missing, 0):.1%} missing "
                "in all; gaps are never trained on as zeros, but was the exporter down, or renamed?",
            )
        ]

    def _constant_findings(self) -> list[tuple[str, str]]:
        begin, length = self._constant()
        stretch = self.timestamp[begin : begin + length]
        lasted = float(stretch[-1] - stretch[0])
        whole = length == len(self.value) > 1
        if not whole and (lasted < _STILL_SECONDS or length < _STILL_SHARE * len(self.value)):
            return []
        where = "all the time" if whole else f"for {_span(lasted)} from {_utc(float(stretch[0]))}"
        advice = "there is nothing to learn from it" if whole else "is the exporter stuck?"
        return [("constant", f"the value is {self.value[begin]:g} {where}; {advice}")]

    def _length_findings(self, window: Window) -> list[tuple[str, str]]:
        bins = len(self._bins(window))
        cycle, name = (7 * _DAY, "weeks") if window.frequency.step >= _DAY else (_DAY, "days")
        lasted = float(self.timestamp[-1] - self.timestamp[0])
        if bins < window.length:
            said = (
                f"{bins:,} bins of {window.frequency.name}, but one window ({window}) needs {window.length:,}"
            )
        elif lasted + self.step < 2 * cycle:
            said = f"{_span(lasted)} is less than two {name}, so no cycle is seen twice"
        else:
            return []
        return [("too_short", f"{said}; fetch a longer history (historyLength, source.history)")]

    def _longest_gap(self) -> tuple[float, float]:
        """Length and begin of the longest gap, seconds; zeros when no step is missing."""
        if not len(self.gaps) or self.gaps.max() <= 1.5 * self.step:
            return 0.0, 0.0
        longest = int(self.gaps.argmax())
        return float(self.gaps[longest]), float(self.timestamp[longest])

    def _constant(self) -> tuple[int, int]:
        """Index and length of the longest run of one value."""
        if not len(self.value):
            return 0, 0
        begins = np.flatnonzero(np.r_[True, np.diff(self.value) != 0])
        lengths = np.diff(np.r_[begins, len(self.value)])
        longest = int(lengths.argmax())
        return int(begins[longest]), int(lengths[longest])

    def _is_counter(self) -> bool:
        """Whether the value grows nearly always and falls only when it is reset."""
        if len(self.value) < 10 or (self.value < 0).any():
            return False
        steps = np.diff(self.value)
        down = np.flatnonzero(steps < 0)
        resets = self.value[down + 1] <= 0.2 * self.value[down]
        return bool(
            resets.all() and len(down) <= 0.05 * len(steps) and (steps > 0).mean() >= 0.3 and steps.max() > 0
        )

    def _bins(self, window: Window) -> "pd.Series[float]":
        """Mean of each bin from the first to the last one; NaN for bins without a row."""
        step = window.frequency.step
        label = (self.timestamp // step).astype(np.int64)
        if not len(label):
            return pd.Series(dtype=float)
        label -= label[0]
        # A wrong timestamp may be decades away; leave out the empty bins up to it.
        label = label[label < 100 * len(label) + 1_000_000]
        count = np.bincount(label)
        total = np.bincount(label, weights=self.value[: len(label)])
        return pd.Series(np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0))


def _most_frequent(numbers: np.ndarray) -> float:
    values, counts = np.unique(numbers, return_counts=True)
    return float(values[counts.argmax()])


def _offsets(measured: pd.DataFrame) -> "pd.Series[int]":
    """Seconds between the grid of each series and that of most series with the same step."""
    offset = pd.Series(0, index=measured.index)
    for step in measured.loc[measured["step"] > 0, "step"].unique():
        group = measured[measured["step"] == step]
        counts = group["phase"].value_counts()
        # Of equally frequent offsets the smallest, which is usually the full minute.
        usual = min(counts[counts == counts.max()].index)
        late = (group["phase"] - usual) % step
        offset[group.index] = late.where(late <= step / 2, late - step).round().astype(int)
    return offset


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
        "first": column("first", _utc),
        "last": column("last", _utc),
        "step": column("step", _span),
        "missing": column("missing", "{:.1%}".format),
        "longest gap": column("longest_gap", _span),
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
    by_message: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        names = by_message.setdefault((finding.kind, finding.message), [])
        names.append(f"{finding.workload} {finding.metric}")
    lines = [f"{len(findings):,} {'finding' if len(findings) == 1 else 'findings'}:"]
    shown = list(by_message.items())[: 2 * _MOST_ROWS]
    lines += [f"  {kind}: {few(names)}: {message}" for (kind, message), names in shown]
    if len(by_message) > len(shown):
        lines.append(f"  ... and {len(by_message) - len(shown):,} more")
    return "\n".join(lines)


def _utc(second: float) -> str:
    return pd.Timestamp(round(second), unit="s").strftime("%Y-%m-%d %H:%M")


def _span(seconds: float) -> str:
    """A duration in its largest fitting unit."""
    for unit, length in (("d", _DAY), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (seconds >= length and seconds % length == 0):
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"
