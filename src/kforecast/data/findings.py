"""The problems that the measures of a history show, series by series."""

import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kforecast.data.panel import Panel
from kforecast.errors import DataError, few
from kforecast.metrics.multiple import are_many
from kforecast.window import Frequency, Window

_DAY = 86_400
# A value constant for this long, and for a tenth of the history, suggests a broken exporter. No traffic at
# all for a long weekend does not.
_STILL_SECONDS, _STILL_ZERO_SECONDS, _STILL_SHARE, _STILL_POINTS = _DAY, 4 * _DAY, 0.1, 10
_NOISE_SHARE = 0.01
# With more messages of one kind, a training shows the first ones.
_MOST_MESSAGES = 3
# Bin widths that have a window of their own; the others are given by window.freq.
_WINDOWS = {60: "1min", 300: "5min", 600: "10min", 900: "15min", 1800: "30min", 3600: "1h", _DAY: "1d"}

Place = tuple[int, str]
"""Row of a series, and the message of its finding."""


@dataclass(frozen=True)
class Finding:
    """A problem of a series that its owner should know about.

    Attributes
    ----------
    workload, metric:
        The series.
    kind:
        ``empty, time_unit, infinite, missing_values, duplicates, rows_per_moment, gaps, counter, negative,
        constant, coarse_step, off_grid, too_short, stale, future, misaligned, names``.
    message:
        The observation and its remedy.
    """

    workload: str
    metric: str
    kind: str
    message: str


# The findings that a training warns of; its summary has the gaps and the missing values.
TOLD = (
    *("empty", "counter", "negative", "constant", "duplicates", "rows_per_moment", "coarse_step"),
    *("too_short", "stale", "future", "misaligned", "names"),
)
# The findings that make scores and forecasts wrong.
SERIOUS = ("counter", "negative", "rows_per_moment")


def findings_of(measures: np.ndarray, series: Sequence[tuple[str, str]], window: Window) -> list[Finding]:
    """Find the problems of a history.

    Parameters
    ----------
    measures:
        :data:`~kforecast.data.measures.MEASURES` of each series.
    series:
        ``(workload, metric)`` of each.

    Returns
    -------
    In the order of the series.
    """
    found = [
        (row, kind, message)
        for kind, of_kind in _KINDS.items()
        for row, message in of_kind(measures, series, window)
    ]
    found.sort(key=lambda place: place[0])  # stable: the kinds of a series keep their order
    return [Finding(*series[row], kind, message) for row, kind, message in found]


def panel_findings(panel: Panel, window: Window) -> list[Finding]:
    """The findings of a panel's rows, as :func:`examine` has them; none where the rows are unknown."""
    return [] if panel.measures is None else findings_of(panel.measures, panel.series, window)


def warnings_of(findings: Sequence[Finding], kinds: Sequence[str] = TOLD) -> list[str]:
    """The findings of some kinds as warnings, one for each kind and message."""
    lines = []
    grouped = by_message(findings)
    for kind in kinds:
        groups = [group for group in grouped if group[0] == kind]
        lines += [f"{kind}: {few(names)}: {message}" for _, message, names in groups[:_MOST_MESSAGES]]
        others = [name for *_, names in groups[_MOST_MESSAGES:] for name in names]
        if others:
            lines.append(f"{kind}: {len(others):,} more series, with other numbers: {few(others)}")
    return lines


def serious_warnings(panel: Panel, window: Window) -> list[str]:
    """The warnings about a history that is forecast from."""
    findings = panel_findings(panel, window)
    # Within less than a day, traffic that rises all morning looks like a counter.
    whole = panel.num_bins >= panel.frequency.season
    return warnings_of(findings, SERIOUS if whole else [kind for kind in SERIOUS if kind != "counter"])


def refuse_coarse(panel: Panel, model: str | None = None) -> None:
    """Refuse a history whose rows lie further apart than the bins, in all series.

    Parameters
    ----------
    model:
        The name of a trained model, whose bins cannot change; None before a training.

    Raises
    ------
    DataError
        Naming the window to give.
    """
    if panel.measures is None:
        return
    step = panel.measures["coarse"]
    if not (step > 0).any() or ((step == 0) & (panel.measures["points"] > 0)).any():
        return
    usual, frequency = int(np.median(step)), panel.frequency
    if model is None:
        raise DataError(_coarse_words(usual, frequency))
    raise DataError(
        f"a row every {span(usual)}, but the bins of {model} are {frequency.name}: give it rows no further "
        f"apart; for a model of these rows, {_remedy(usual)}"
    )


def _rows(chosen: np.ndarray) -> list[int]:
    """The rows where a condition holds; each gets a finding of its own."""
    found: list[int] = np.flatnonzero(chosen).tolist()
    return found


def _empty(measures: np.ndarray, _: object, __: object) -> Iterator[Place]:
    for row in _rows(measures["points"] == 0):
        message = (
            f"none of its {measures['nan'][row]:,} rows has a number; check the metric's name and selector, "
            "and that something exports it"
        )
        yield row, message


def _missing_values(measures: np.ndarray, _: object, __: object) -> Iterator[Place]:
    nan, total = measures["nan"], measures["nan"] + measures["points"] + measures["repeated"]
    for row in _rows((nan > _NOISE_SHARE * total) & (measures["points"] > 0)):
        yield row, (f"{nan[row]:,} of {total[row]:,} rows have no number; they count as missing, never as 0")


def _repeated(measures: np.ndarray) -> Iterator[tuple[int, bool]]:
    """Series with more repeated rows than a handful, and whether their values differ."""
    columns = ("repeated_moments", "differing_moments", "points")
    for row in _rows(measures["repeated"] > 0):
        moments, differing, points = (int(measures[column][row]) for column in columns)
        if are_many(moments, points):
            yield row, are_many(differing, points)


def _duplicates(measures: np.ndarray, _: object, __: object) -> Iterator[Place]:
    for row, differ in _repeated(measures):
        if not differ:
            message = (
                f"{measures['repeated'][row]:,} rows at a moment already seen; their mean is taken: are two "
                "sources, or two exports, in one file?"
            )
            yield row, message


def _rows_per_moment(measures: np.ndarray, _: object, __: object) -> Iterator[Place]:
    for row, differ in _repeated(measures):
        if differ:
            message = (
                f"{measures['differing_moments'][row]:,} of {measures['points'][row]:,} moments have several "
                f"rows with different values ({measures['repeated_rows'][row]:,} at "
                f"{utc(measures['repeated_at'][row])}), which are averaged; if they are parts of a whole, "
                "like pods, source.on_multiple=sum adds them up, as the servers do"
            )
            yield row, message


def _gaps(measures: np.ndarray, _: object, window: Window) -> Iterator[Place]:
    gap, missing = measures["longest_gap"], share_missing(measures)
    long = gap > np.maximum(2 * measures["step"], window.frequency.step)
    gap = np.where(gap > 1.5 * measures["step"], gap, 0)
    for row in _rows((measures["points"] > 0) & ((long & (gap > 0)) | (missing > _NOISE_SHARE))):
        message = (
            f"nothing for {span(gap[row])} from {utc(measures['gap_begin'][row])} at the longest, "
            f"{missing[row]:.1%} missing in all; gaps are never trained on as zeros, but was the exporter "
            "down, or renamed?"
        )
        yield row, message


def _counter(measures: np.ndarray, _: object, __: object) -> Iterator[Place]:
    for row in _rows(measures["counter"]):
        message = (
            "it only grows, but for resets, like a counter; train on its rate: rate(...[5m]) in PromQL, or "
            "differences divided by seconds"
        )
        yield row, message


def _negative(measures: np.ndarray, _: object, __: object) -> Iterator[Place]:
    for row in _rows(measures["negative"] > 0):
        message = (
            f"{measures['negative'][row]:,} values are below 0 (least {measures['least'][row]:g}); traffic "
            "cannot be: is it a difference, or the wrong metric?"
        )
        yield row, message


def _constant(measures: np.ndarray, _: object, __: object) -> Iterator[Place]:
    points, lasted, value = measures["still_points"], measures["still_seconds"], measures["still_value"]
    whole = (points == measures["points"]) & (points > 1)
    least = np.where(value == 0, _STILL_ZERO_SECONDS, _STILL_SECONDS)
    long = (lasted >= least) & (points >= np.maximum(_STILL_SHARE * measures["points"], _STILL_POINTS))
    for row in _rows(whole | long):
        where = f"for {span(lasted[row])} from {utc(measures['still_begin'][row])}; is the exporter stuck?"
        if whole[row]:
            where = "all the time; there is nothing to learn from it"
        yield row, f"the value is {value[row]:g} {where}"


def _coarse_step(measures: np.ndarray, _: object, window: Window) -> Iterator[Place]:
    for row in _rows(measures["coarse"] > 0):
        yield row, _coarse_words(int(measures["coarse"][row]), window.frequency)


def _too_short(measures: np.ndarray, _: object, window: Window) -> Iterator[Place]:
    width, some = window.frequency.step, measures["points"] > 0
    bins = measures["last"] // width - measures["first"] // width + 1
    cycle, name = (7 * _DAY, "weeks") if width >= _DAY else (_DAY, "days")
    lasted = measures["last"] - measures["first"]
    longer = "fetch a longer history (historyLength, source.history)"
    for row in _rows(some & ((bins < window.length) | (lasted + measures["step"] < 2 * cycle))):
        said = f"{span(lasted[row])} is less than two {name}, so no cycle is seen twice"
        if bins[row] < window.length:
            said = (
                f"{bins[row]:,} bin{'s' * int(bins[row] != 1)} of {window.frequency.name}, but one window "
                f"({window}) needs {window.length:,}"
            )
        yield row, f"{said}; {longer}"


def _stale(measures: np.ndarray, _: object, window: Window) -> Iterator[Place]:
    some = measures["points"] > 0
    if not some.any():
        return
    age = measures["last"].max(where=some, initial=0) - measures["last"]
    most = max(window.context_length, window.prediction_length) * window.frequency.step
    for row in _rows(some & (age > most)):
        message = (
            f"its newest value, of {utc(measures['last'][row])}, is {span(age[row])} older than the newest "
            "of the history; was it renamed or removed, or has its exporter failed?"
        )
        yield row, message


def _future(measures: np.ndarray, _: object, __: object) -> Iterator[Place]:
    ahead = measures["last"] - time.time()
    for row in _rows((measures["points"] > 0) & (ahead > _DAY)):
        message = (
            f"its newest value is of {utc(measures['last'][row])}, {span(ahead[row])} after now; are the "
            "clock, time zone and unit of the timestamps right?"
        )
        yield row, message


def _misaligned(measures: np.ndarray, _: object, __: object) -> Iterator[Place]:
    offset = offsets(measures)
    for row in _rows(offset != 0):
        message = (
            f"its moments lie {offset[row]:+,} s off those of most series, so bins average different "
            "moments; fetch all series with one clock, as source=kapacity and source=prometheus do"
        )
        yield row, message


def _names(_: object, series: Sequence[tuple[str, str]], __: object) -> Iterator[Place]:
    spellings: dict[str, list[int]] = {}
    for row, pair in enumerate(series):
        plain = unicodedata.normalize("NFKC", "\0".join("".join(name.split()) for name in pair)).casefold()
        spellings.setdefault(plain, []).append(row)
    for rows in spellings.values():
        for row in rows if len(rows) > 1 else ():
            others = [repr(" ".join(series[other])) for other in rows if other != row]
            yield (
                row,
                f"its name differs from {few(others)} in blanks, capitals or Unicode form only; are they one "
                "series?",
            )


_KINDS: dict[str, Callable[[np.ndarray, Sequence[tuple[str, str]], Window], Iterator[Place]]] = {
    "empty": _empty,
    "missing_values": _missing_values,
    "duplicates": _duplicates,
    "rows_per_moment": _rows_per_moment,
    "gaps": _gaps,
    "counter": _counter,
    "negative": _negative,
    "constant": _constant,
    "coarse_step": _coarse_step,
    "too_short": _too_short,
    "stale": _stale,
    "future": _future,
    "misaligned": _misaligned,
    "names": _names,
}


def share_missing(measures: np.ndarray) -> np.ndarray:
    """Share of the steps between first and last without a value, ``[series]``."""
    step, points = measures["step"], measures["points"]
    expected = np.rint((measures["last"] - measures["first"]) / np.maximum(step, 1)) + 1
    found: np.ndarray = np.maximum(0.0, 1 - points / np.where(step > 0, expected, np.maximum(points, 1)))
    return found


def _coarse_words(step: int, frequency: Frequency) -> str:
    return f"a row every {span(step)}, but bins of {frequency.name}: {_remedy(step)}"


def _remedy(step: int) -> str:
    """The window whose bins are no finer than a step in seconds."""
    if step > _DAY:
        return "bins are a day at most; fetch or export more rows"
    if step not in _WINDOWS and not _DAY % step and not step % 60:
        hours, rest = divmod(step, 3600)
        return f"give window.freq={step // 60}min" if rest else f"give window.freq={hours}h"
    return f"give window={next(name for width, name in _WINDOWS.items() if width >= step)}"


def offsets(measures: np.ndarray) -> np.ndarray:
    """Seconds between the grid of each series and that of most series with the same step, int64 ``[series]``.

    0 for a series without a grid of its own, and where less than half of the series share one.
    """
    offset = np.zeros(len(measures), np.int64)
    gridded = (measures["step"] > 0) & (measures["phase"] >= 0)
    for step in np.unique(measures["step"][gridded]).tolist():
        group = np.flatnonzero(gridded & (measures["step"] == step))
        phases, counts = np.unique(measures["phase"][group], return_counts=True)
        if 2 * counts.max() < len(group):
            continue
        # Of equally frequent offsets the smallest, which is usually the full minute.
        late = (measures["phase"][group] - phases[counts.argmax()]) % step
        offset[group] = np.where(late <= step / 2, late, late - step)
    return offset


def by_message(findings: Sequence[Finding]) -> list[tuple[str, str, list[str]]]:
    """Kind, message and the series of equal findings."""
    found: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        names = found.setdefault((finding.kind, finding.message), [])
        names.append(f"{finding.workload} {finding.metric}")
    return [(kind, message, names) for (kind, message), names in found.items()]


def utc(second: float) -> str:
    """Unix seconds as UTC date and minute, of any year."""
    # numpy has years beyond 9999, which wrong timestamps have.
    return str(np.datetime_as_string(np.datetime64(round(second), "s"), unit="m")).replace("T", " ")


def span(seconds: float) -> str:
    """A duration in its largest fitting unit."""
    for unit, length in (("d", _DAY), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length or (seconds >= length and seconds % length == 0):
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"
