"""The page for people: the server's state, all series, and one series with its forecast."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import numpy as np

from kforecast.console import harmless
from kforecast.data.freshness import age_words
from kforecast.metrics.timerange import utc
from kforecast.pages.curves import Plane, extent, number_words, thinned
from kforecast.pages.template import template
from kforecast.serving.board import Board
from kforecast.serving.snapshot import AskError, NothingHonestError, Snapshot

ROWS = 50
"""Series on one page."""
_LOW, _MIDDLE, _HIGH = 0.05, 0.5, 0.95
_ANSWERS = ("metrics", "healthz", "readyz", "openapi.json")
_WIDTH, _HEIGHT = 1000, 340
_SMALL_WIDTH, _SMALL_HEIGHT, _SMALL_BINS = 180, 36, 96
# The figure shows an interval up to this multiple of what else it shows.
_INTERVAL_SHARE = 3.0
_TODO = {
    "starting": "This page asks again every 10 seconds.",
    "fetch": "Check that the source runs, its address and its credentials; the server asks again by itself.",
    "data": "Check that the source has the artifact's series, up to now; the server asks again by itself.",
    "artifact": "Put a whole artifact into artifact_dir; the server takes it over by itself.",
    "forecast": "See the server's log; the server tries again by itself.",
}


def page(
    board: Board,
    *,
    workload: str | None = None,
    metric: str | None = None,
    search: str = "",
    first: int = 0,
) -> str:
    """The HTML of the page: all series, or one series if workload and metric are given.

    Parameters
    ----------
    search:
        Only series whose name contains this text, in upper or lower case.
    first:
        Number of the first series shown, among those found.

    Raises
    ------
    AskError
        When only one of workload and metric is given.
    UnknownSeriesError
        When the series is not read.
    """
    if (workload is None) != (metric is None):
        raise AskError("give workload and metric, or neither")
    # One snapshot at one moment for the whole page.
    now = board.clock()
    board = replace(board, clock=lambda: now)
    snapshot = board.snapshot
    tone, state = _state(board, now)
    one = many = None
    links = [*_ANSWERS]
    if snapshot is not None and workload is not None and metric is not None:
        one = _one(board, snapshot, snapshot.row(workload, metric), now)
        links.insert(0, f"forecast?{_query(workload=workload, metric=metric)}")
    elif snapshot is not None:
        many = _many(board, snapshot, now, search, first)
    text = template("server.html").render(
        starting=snapshot is None,
        moment=utc(now),
        tone=tone,
        state=state,
        one=one,
        many=many,
        links=links,
    )
    # A source's JSON may name half of a surrogate pair, which UTF-8 cannot hold.
    return text.encode(errors="replace").decode()


def _state(board: Board, now: float) -> tuple[str, list[str]]:
    """Tone and sentences: whether the server answers, and why not."""
    snapshot, reason = board.snapshot, harmless(board.reason)
    if snapshot is None:
        cause = reason.partition(":")[0]
        sentences = [f"Not ready: {reason.rstrip('.')}.", _TODO.get(cause, "")]
        return "bad", [*filter(None, sentences), f"Failures so far: {_failures(board)}."]
    count = len(snapshot.series)
    served = int(snapshot.served(now).sum())
    tone = "good" if served == count else "unsure" if served else "bad"
    sentences = [
        f"Ready: {served:,} of {count:,} series have a number to scale on."
        if served
        else "Ready, but no series has a number to scale on."
    ]
    if snapshot.withdrawn:
        sentences.append(f"The guard has withdrawn the forecasts of {len(snapshot.withdrawn):,} series.")
    if reason:
        tone = "unsure" if served else "bad"
        todo = _TODO.get(reason.partition(":")[0], "")
        sentences.append(f"A newer forecast could not be made: {reason.rstrip('.')}. {todo}")
    if board.refused_artifact:
        tone = "unsure" if served else "bad"
        refused = harmless(board.refused_artifact).rstrip(".")
        sentences.append(f"A new artifact was refused, and the earlier one serves: {refused}.")
    if board.refused_events:
        tone = "unsure" if served else "bad"
        refused = harmless(board.refused_events).rstrip(".")
        sentences.append(f"The file of events was refused, and the earlier events count: {refused}.")
    return tone, sentences


def _failures(board: Board) -> str:
    """The failures so far, by cause."""
    return ", ".join(f"{cause} {count:,}" for cause, count in board.failures.items() if count) or "none"


def _many(board: Board, snapshot: Snapshot, now: float, search: str, first: int) -> dict[str, Any]:
    """Values of the table of series."""
    found = np.arange(len(snapshot.series))
    if search:
        text = search.casefold()
        matches = (text in f"{workload} {metric}".casefold() for workload, metric in snapshot.series)
        found = found[np.fromiter(matches, bool, len(found))]
    found = found[np.argsort(snapshot.served(now)[found], kind="stable")]
    count = len(found)
    first = max(0, min(first, (count - 1) // ROWS * ROWS))
    shown = found[first : first + ROWS].tolist()
    return {
        "cards": _cards(board, snapshot, now),
        "rule": _rule(board, snapshot),
        "search": search,
        "span": f"{first + 1:,} to {first + len(shown):,} of {count:,}",
        "before": _turn(search, max(first - ROWS, 0)) if first else None,
        "after": _turn(search, first + ROWS) if first + ROWS < count else None,
        "rows": [_row(board, snapshot, row, now) for row in shown],
    }


def _turn(search: str, first: int) -> str:
    return "?" + _query(search=search, first=str(first)) if search else "?" + _query(first=str(first))


def _query(**values: str) -> str:
    return urlencode(values, errors="replace")


def _rule(board: Board, snapshot: Snapshot) -> str:
    """Which number the table shows, and that requests get by default."""
    defaults = board.defaults
    window = snapshot.horizon if defaults.window is None else defaults.window
    what = "point forecast" if defaults.quantile is None else f"forecast at quantile {defaults.quantile:g}"
    number = f"the highest {what} of the next {age_words(window)}"
    if defaults.rule == "max":
        number += ", or the newest observation if that is higher"
    return f"The number to scale on is {number}; requests may ask for another quantile, lead or window."


def _cards(board: Board, snapshot: Snapshot, now: float) -> list[dict[str, str]]:
    fetches, forecasts = board.fetches, board.forecasts
    return [
        {
            "name": "Newest forecast begins",
            "value": utc(snapshot.origin),
            "note": f"{_ago(now - snapshot.origin)}; its last bin ends {utc(snapshot.end)}",
        },
        {
            "name": "Artifact",
            "value": snapshot.artifact[:12],
            "note": "the beginning of its hash",
        },
        {
            "name": "Failures by cause",
            "value": _failures(board),
            "note": "since the server started",
        },
        {
            "name": "Fetches and forecasts",
            "value": f"{fetches[0]:,.0f} and {forecasts[0]:,.0f}",
            "note": f"the newest took {fetches[2]:.2f} s and {forecasts[2]:.2f} s",
        },
    ]


def _row(board: Board, snapshot: Snapshot, row: int, now: float) -> dict[str, Any]:
    """Values of one line of the table."""
    workload, metric = snapshot.series[row]
    value, _, refused = _number(board, workload, metric)
    edges, observed, _ = _past(snapshot, row)
    forecast = np.empty(0) if refused else snapshot.values[row].astype(np.float64)
    plane = _plane(snapshot, (_SMALL_WIDTH, _SMALL_HEIGHT), (1, 2, 1, 2), extent(observed, forecast))
    return {
        "workload": harmless(workload),
        "metric": harmless(metric),
        "link": "?" + _query(workload=workload, metric=metric),
        **_newest(snapshot, row, now),
        "value": value,
        "highest": "–" if refused else number_words(_highest(snapshot, row, now)),
        "refused": refused,
        "note": harmless(snapshot.notes.get(row, "")),
        "title": harmless(f"Newest day{'' if refused else ' and forecast'} of {workload} {metric}"),
        "observed": plane.line(*thinned(edges, observed, _SMALL_BINS)),
        "forecast": "" if refused else plane.line(*thinned(snapshot.starts, forecast, _SMALL_BINS)),
    }


def _number(board: Board, workload: str, metric: str) -> tuple[str, str, str]:
    """The number to scale on, where it comes from, and why there is none."""
    try:
        answer = board.ask(workload, metric)
    except (AskError, NothingHonestError) as error:
        return "–", "", harmless(str(error))
    what = "point forecast" if answer.quantile is None else f"forecast at quantile {answer.quantile:g}"
    if answer.value > answer.forecast:
        highest = number_words(answer.forecast)
        made_of = f"the newest observation; the highest {what} until {utc(answer.end)} is {highest}"
    else:
        made_of = f"the highest {what} until {utc(answer.end)}"
    return number_words(answer.value), made_of, ""


def _newest(snapshot: Snapshot, row: int, now: float) -> dict[str, str]:
    """The newest observation, and when its bin ended."""
    end = int(snapshot.observed_end[row])
    if not end:
        return {"newest": "none", "newest_when": ""}
    return {
        "newest": number_words(float(snapshot.observed[row])),
        "newest_when": f"{utc(end)}, {_ago(now - end)}",
    }


def _ago(seconds: float) -> str:
    return f"{age_words(seconds)} ago" if seconds >= 0 else f"in {age_words(-seconds)}"


def _highest(snapshot: Snapshot, row: int, now: float) -> float:
    """The highest point forecast from the bin under way to the horizon."""
    steps = snapshot.steps(now, window=snapshot.horizon)
    return float("nan") if steps is None else float(snapshot.values[row, steps].max())


def _past(snapshot: Snapshot, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges of the past bins, their values, and the forecasts made when they began."""
    begins, observed, forecast = snapshot.past
    return np.append(begins, snapshot.origin), observed[row], forecast[row]


def _plane(
    snapshot: Snapshot,
    size: tuple[int, int],
    margins: tuple[int, int, int, int],
    limits: tuple[float, float],
) -> Plane:
    """A plane from the first past bin to the end of the forecast; margins left, top, right and bottom."""
    (width, height), (left, top, right, bottom) = size, margins
    begin = snapshot.past[0][0] if len(snapshot.past[0]) else snapshot.origin
    return Plane(int(begin), snapshot.end, *limits, left, top, width - right, height - bottom)


def _one(board: Board, snapshot: Snapshot, row: int, now: float) -> dict[str, Any]:
    """Values of the page of one series."""
    workload, metric = snapshot.series[row]
    value, made_of, refused = _number(board, workload, metric)
    newest = _newest(snapshot, row, now)
    levels = {} if refused else _levels(board, snapshot, row)
    cards = [{"name": "Newest observation", "value": newest["newest"], "note": newest["newest_when"]}]
    if not refused:
        cards = [
            {"name": "Number to scale on now", "value": value, "note": made_of},
            *cards,
            {
                "name": "Highest point forecast",
                "value": number_words(_highest(snapshot, row, now)),
                "note": f"until {utc(snapshot.end)}",
            },
        ]
    return {
        "workload": harmless(workload),
        "metric": harmless(metric),
        "refused": refused,
        "note": harmless(snapshot.notes.get(row, "")),
        "cards": cards,
        "figure": _figure(snapshot, row, now, None if refused else levels),
        "missed": _missed(snapshot, row),
        "levels": [f"{level:g}" for level in levels],
        "steps": [] if refused else _steps(snapshot, row, now, levels),
    }


def _levels(board: Board, snapshot: Snapshot, row: int) -> dict[float, np.ndarray]:
    """Quantiles of one series by level, each ``[P]``; empty if the artifact has no intervals."""
    if snapshot.quantiles_of is None:
        return {}
    asked = {_LOW, _MIDDLE, _HIGH}
    if board.defaults.quantile is not None:
        asked.add(board.defaults.quantile)
    return {level: snapshot.at_level(level)[row].astype(np.float64) for level in sorted(asked)}


def _steps(
    snapshot: Snapshot, row: int, now: float, levels: Mapping[float, np.ndarray]
) -> list[dict[str, Any]]:
    """Values of the table of forecast bins that are not over."""
    steps = snapshot.steps(now, window=snapshot.horizon)
    if steps is None:
        return []
    numbers = np.stack([snapshot.values[row], *levels.values()], axis=1)[steps]
    return [
        {
            "begins": utc(begin),
            "lead": age_words(begin - now) if begin >= now else "under way",
            "numbers": [number_words(number) for number in line],
        }
        for begin, line in zip(snapshot.starts[steps].tolist(), numbers.tolist(), strict=True)
    ]


def _figure(
    snapshot: Snapshot, row: int, now: float, levels: Mapping[float, np.ndarray] | None
) -> dict[str, Any]:
    """Values of the drawing of one series; without a forecast if ``levels`` is None."""
    edges, observed, earlier = _past(snapshot, row)
    forecast = np.empty(0) if levels is None else snapshot.values[row].astype(np.float64)
    low, high = extent(observed, earlier, forecast)
    if levels:
        most, least = levels[_HIGH].max(), levels[_LOW].min()
        low, high = extent(np.array([low, high, min(most, _INTERVAL_SHARE * high), least]))
    plane = _plane(snapshot, (_WIDTH, _HEIGHT), (72, 24, 28, 44), (low, high))
    span = f"from {utc(plane.begin)} to {utc(plane.end)} UTC"
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "plane": plane,
        "title": harmless(f"{' '.join(snapshot.series[row])}, {span}"),
        "numbers": list(plane.numbers()),
        "times": list(plane.times()),
        "observed": plane.line(edges, observed),
        "earlier": plane.line(edges, earlier),
        "forecast": "" if levels is None else plane.line(snapshot.starts, forecast),
        "interval": plane.band(snapshot.starts, levels[_LOW], levels[_HIGH]) if levels else "",
        "now": float(plane.x(np.array(now))) if snapshot.origin <= now <= snapshot.end else None,
    }


def _missed(snapshot: Snapshot, row: int) -> str:
    """How far the forecasts made when the past bins began were from their values."""
    _, observed, forecast = _past(snapshot, row)
    known = np.isfinite(observed) & np.isfinite(forecast)
    came = float(np.abs(observed[known]).sum())
    error = float(np.abs(forecast[known] - observed[known]).sum()) / came if came else math.inf
    if not math.isfinite(error):
        return ""
    bins = "past bin" if known.sum() == 1 else "past bins"
    return (
        f"Over {known.sum():,} {bins}, the forecasts made when each bin began were off by {error:.1%} "
        "of the observed values (WAPE)."
    )
