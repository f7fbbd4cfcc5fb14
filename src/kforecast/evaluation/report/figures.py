"""The figures of an evaluation report. Their common look is in :mod:`kforecast.pages.drawing`."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kforecast.evaluation.capacity import JUDGED
from kforecast.evaluation.scoreboard import Scoreboard
from kforecast.evaluation.scores import mean_of_known, overall, ratio
from kforecast.evaluation.skill import aged_at
from kforecast.intervals import LEVELS
from kforecast.pages.drawing import (
    BAD,
    BAND,
    BASELINE,
    FULL,
    HALF,
    INK,
    LINE,
    MODEL,
    MUTED,
    ON_MODEL,
    OTHER,
    PERCENT,
    SECOND,
    SHADE,
    WIDE,
    WIDE_BAND,
    Margins,
    Stroke,
    canvas,
    date_axis,
    duration,
    from_zero,
    largest,
    legend,
    line,
    percent,
    style,
)
from kforecast.simulation.drivers import PERFECT, REACTIVE

# In the order of the page.
NAMES = ("forecasts", "steps", "baselines", "replicas", "cost", "calibration", "age")

_DRAWN_SECONDS = 3 * 86_400
_FEWEST_BINS, _MOST_BINS = 48, 432
_FEWEST_ORIGINS = 24
_LONGEST_NAME = 64
# The y axis ends at this multiple of the errors that matter: one bad forecast must not flatten all others.
_CUT = 4.0
# Baselines other than the best one are told apart by these dashes, in two colours.
_DASHES: tuple[tuple[float, ...], ...] = ((), (4.0, 2.0), (1.2, 1.5), (6.0, 1.5, 1.2, 1.5))


class Drawn(NamedTuple):
    """A series chosen for drawing."""

    row: int
    """Its row of the panel."""
    place: str
    """``best``, ``median`` or ``worst``; empty if it is the only one."""
    wape: float


def figures(board: Scoreboard) -> dict[str, Figure]:
    """Draw a scoreboard.

    Returns
    -------
    Figures by name, in the order of :data:`NAMES`; those without anything to show are missing.
    """
    with style():
        drawn = {
            "forecasts": _forecasts(board),
            "steps": _steps(board),
            "baselines": _baselines(board),
            "replicas": _replicas(board),
            "cost": _cost(board),
            "calibration": _calibration(board),
            "age": _age(board),
        }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def notable(board: Scoreboard) -> list[Drawn]:
    """The best, the median and the worst series by WAPE, or fewer if there are fewer series.

    Series with few targets are skipped, see :func:`often_seen`.
    """
    rows, wape = board.backtest.scored_series, board.series_scores()["wape"].to_numpy()
    often = often_seen(board)
    candidates = np.flatnonzero(often & ~np.isnan(wape))
    if not len(candidates):
        candidates = np.flatnonzero(often)[:1]
    order = candidates[np.argsort(wape[candidates], kind="stable")]
    places = {"best": 0, "median": len(order) // 2, "worst": len(order) - 1}
    if len(order) < len(places):
        places = dict(zip(("best", "worst") if len(order) == 2 else ("",), range(2), strict=False))
    return [Drawn(int(rows[order[at]]), place, float(wape[order[at]])) for place, at in places.items()]


def often_seen(board: Scoreboard) -> np.ndarray:
    """Mask of the scored series with enough targets for a rank beyond chance, bool ``[scored]``."""
    targets = board.series_scores()["targets"].to_numpy()
    often: np.ndarray = targets * 4 >= np.median(targets)
    return often


def middle(board: Scoreboard) -> Drawn:
    """The median series by WAPE; the worse one of two."""
    found = notable(board)
    return found[len(found) // 2]


def short_name(board: Scoreboard, row: int) -> str:
    """A series' name on one line; a long one is shortened in the middle."""
    name = " ".join(board.backtest.panel.series[row])
    name = " ".join("".join(sign if sign.isprintable() else " " for sign in name).split())
    if len(name) <= _LONGEST_NAME:
        return name
    half = (_LONGEST_NAME - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _forecasts(board: Scoreboard) -> Figure:
    found, panel = board.backtest, board.backtest.panel
    drawn = notable(board)
    margins = Margins(top=0.58, bottom=0.36, between=0.58)
    figure, axes = canvas(FULL, 0.35 + 2.0 * len(drawn), len(drawn), margins=margins)
    bands = _bands(found.levels)
    for axis, series in zip(axes[:, 0], drawn, strict=True):
        first, stop = _shown(board, series.row)
        span = np.arange(first, stop)
        actual = np.where(panel.observed[series.row, span], panel.values[series.row, span], np.nan)
        grid, forecast, quantiles = _last_steps(board, series.row, first, stop)
        for low, high, label, colour in bands:
            axis.fill_between(
                _times(board, grid), quantiles[:, low], quantiles[:, high], color=colour, lw=0, label=label
            )
        line(axis, _times(board, span), actual, "actual", Stroke(INK, 1.1))
        label = f"forecast made {duration(found.horizon * panel.frequency.step)} ahead"
        line(axis, _times(board, grid), forecast, label, Stroke(MODEL, 1.3))
        place = f"{series.place}: " if series.place else ""
        axis.set_title(f"{place}{short_name(board, series.row)}, WAPE {percent(series.wape)}")
        # Limit the axis: a wide interval must not flatten the forecast.
        peak = largest(actual, forecast)
        from_zero(axis, peak, largest(*quantiles.T), cut=1.7)
        date_axis(axis, *_times(board, np.array([first, stop])))
    legend(figure, axes[0, 0], reverse=True)
    return figure


def _steps(board: Scoreboard) -> Figure | None:
    found = board.backtest
    if found.horizon == 1:
        return None
    steps = np.arange(1, found.horizon + 1)
    wape = {name: board.step_scores(name)["wape"].to_numpy() for name in found.forecasts}
    wape = {name: values for name, values in wape.items() if np.isfinite(values).any()}
    if found.model not in wape:
        return None
    rows = -(-len(wape) // 2)
    figure, axes = canvas(HALF, 2.7 + LINE * rows, margins=Margins(bottom=0.5 + LINE * rows))
    axis = axes[0, 0]
    strokes = _strokes(board)
    compared = [found.model, board.skill.best_baseline]
    most = _CUT * largest(*(wape[name] for name in compared if name in wape))
    for name, values in wape.items():
        off = "" if np.nanmin(values) <= most else f" ({percent(np.nanmin(values), 0)} and more)"
        line(axis, steps, values, name + off, replace(strokes[name], marker=found.horizon <= 30))
    axis.set_title("WAPE by step of the horizon")
    axis.set_xlabel(f"step (of {duration(found.panel.frequency.step)})")
    axis.set_xticks(np.unique(np.linspace(1, found.horizon, 8).round()))
    axis.set_xlim(1 - 0.03 * found.horizon, found.horizon * 1.03)
    from_zero(axis, min(most, largest(*wape.values())), form="percent")
    legend(figure, axis, below=rows)
    return figure


def _baselines(board: Scoreboard) -> Figure | None:
    found = board.backtest
    wape = {name: overall(board.scores, name)["wape"] for name in found.forecasts}
    order = sorted((name for name in wape if np.isfinite(wape[name])), key=wape.__getitem__)
    if len(order) < 2:
        return None
    margins = Margins(left=0.2 + 0.076 * max(map(len, order)), top=0.34)
    figure, axes = canvas(HALF, 0.5 + 0.4 * len(order), margins=margins)
    axis, strokes = axes[0, 0], _strokes(board)
    models = list(found.forecasts)[: found.models]
    at = np.arange(len(order))
    values = np.array([wape[name] for name in order])
    colours = [strokes[name].colour if name in models else SHADE for name in order]
    axis.barh(at, values, height=0.62, color=colours)
    for place, value, name in zip(at, values, order, strict=True):
        weight = "bold" if name == found.model else "normal"
        axis.annotate(
            percent(value), (value, place), (5, 0), textcoords="offset points", va="center", weight=weight
        )
    axis.set_yticks(at, order)
    for label, name in zip(axis.get_yticklabels(), order, strict=True):
        label.set(color=INK, size=8.5, weight="bold" if name == found.model else "normal")
    axis.invert_yaxis()
    axis.set_xlim(0, 1.18 * max(values.max(), 1e-9))
    axis.set_xticks([])
    axis.grid(visible=False)
    axis.spines["bottom"].set_visible(False)
    axis.set_title("WAPE over all series and steps, best first")
    return figure


def _replicas(board: Scoreboard) -> Figure | None:
    simulation = board.orders.simulation
    if simulation is None:
        return None
    row = int(simulation.rows[simulation.drawn])
    begin, end = simulation.begin, simulation.stop
    first, stop = _shown(board, row)
    first, stop = max(min(first, end - (stop - first)), begin), min(stop, end)
    inside = slice(first - begin, stop - begin)
    load = simulation.services.load
    needed = np.where(load.observed, load.values, np.nan)[simulation.drawn, first:stop]
    needed = needed / simulation.services.capacity[simulation.drawn]
    names = [driver.name for driver in simulation.setting.drivers]
    serving = {
        name: simulation.bins.serving[inside, names.index(name)] for name in (PERFECT, REACTIVE, JUDGED)
    }
    figure, axes = canvas(FULL, 2.75, margins=Margins(top=0.58, bottom=0.36))
    axis = axes[0, 0]
    edges = _times(board, np.repeat(np.arange(first, stop + 1), 2)[1:-1])
    drawn = {name: np.repeat(values, 2) for name, values in serving.items()}
    needed = np.repeat(needed, 2)
    axis.fill_between(edges, 0, drawn[PERFECT], color=SHADE, lw=0, label=PERFECT)
    short = needed > drawn[JUDGED]
    label = "above the pods with the forecast"
    axis.fill_between(edges, drawn[JUDGED], needed, where=short, color=BAD, alpha=0.55, lw=0, label=label)
    line(axis, edges, needed, "load, in pods", Stroke(INK, 0.9))
    line(axis, edges, drawn[REACTIVE], REACTIVE, Stroke(OTHER, 1.1, (3, 1.5)))
    line(axis, edges, drawn[JUDGED], JUDGED, Stroke(MODEL, 1.4))
    axis.set_title(f"Pods that serve {short_name(board, row)}, mean of each bin")
    from_zero(axis, largest(needed, *drawn.values()), form="whole")
    date_axis(axis, *_times(board, np.array([first, stop])))
    legend(figure, axis)
    return figure


def _cost(board: Scoreboard) -> Figure | None:
    simulation = board.orders.simulation
    if simulation is None:
        return None
    frame, prices = simulation.table.sort_values("cost", kind="stable"), simulation.setting.prices
    margins = Margins(left=0.2 + 0.076 * max(map(len, frame.index)), top=0.34, bottom=0.2 + LINE)
    figure, axes = canvas(WIDE, 0.7 + 0.36 * len(frame), margins=margins)
    axis, at = axes[0, 0], np.arange(len(frame))
    idle = (prices.over * frame["idle"]).to_numpy()
    axis.barh(at, idle, height=0.62, color=SHADE, label="idle replica-hours")
    unserved = (prices.under * frame["unserved"]).to_numpy()
    axis.barh(at, unserved, left=idle, height=0.62, color=BAD, label="unserved load")
    for place, cost in zip(at, frame["cost"], strict=True):
        axis.annotate(f"{cost:,.0f}", (cost, place), (5, 0), textcoords="offset points", va="center", size=8)
    axis.set_yticks(at, list(frame.index))
    for label, name in zip(axis.get_yticklabels(), frame.index, strict=True):
        label.set(color=INK, size=8.5, weight="bold" if name == JUDGED else "normal")
    axis.invert_yaxis()
    axis.set_xlim(0, 1.18 * max(float(frame["cost"].max()), 1e-9))
    axis.set_xticks([])
    axis.grid(visible=False)
    axis.spines["bottom"].set_visible(False)
    axis.set_title("Cost, cheapest first")
    legend(figure, axis, below=1, columns=2)
    return figure


def _calibration(board: Scoreboard) -> Figure | None:
    found = board.backtest
    if not found.levels:
        return None
    shares = reached(board)
    coverages = {float(name): share for name, share in board.coverages().items() if np.isfinite(share)}
    margins = Margins(top=0.34, bottom=0.52)
    figure, axes = canvas(WIDE, 3.2, 1, 1 + bool(coverages), margins, widths=(1.05, 1))
    axis = axes[0, 0]
    line(axis, np.array([0.0, 1.0]), np.array([0.0, 1.0]), "", Stroke(MUTED, 1.0, (3, 2)))
    line(axis, np.array(LEVELS), shares, "", Stroke(MODEL, 1.6, marker=True))
    axis.set_title("Actual values at or below each quantile")
    axis.set_xlabel("level of the quantile")
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=np.arange(0, 1.01, 0.2))
    axis.set_yticks(np.arange(0, 1.01, 0.2))
    for both in (axis.xaxis, axis.yaxis):
        both.set_major_formatter(PERCENT)
    axis.text(1, 0.03, "dashed: ideal", ha="right", color=MUTED)
    if coverages:
        _coverages(axes[0, 1], coverages)
    return figure


def _coverages(axis: Axes, coverages: dict[float, float]) -> None:
    nominal = np.array(sorted(coverages))
    actual = np.array([coverages[share] for share in nominal])
    at = np.arange(len(nominal))
    axis.barh(at - 0.17, nominal / 100, height=0.3, color=SHADE)
    axis.barh(at + 0.17, actual, height=0.3, color=MODEL)
    for place, share, value in zip(at, nominal, actual, strict=True):
        for offset, text, colour in (
            (-0.17, f"nominal {share:g} %", INK),
            (0.17, f"actual {percent(value)}", ON_MODEL),
        ):
            inside = offset < 0 or value > 0.4
            axis.annotate(
                text,
                (0 if inside else value, place + offset),
                (5, -0.5),
                textcoords="offset points",
                va="center",
                size=8,
                color=colour if inside else INK,
            )
    axis.set_title("Actual values inside each interval")
    axis.set_yticks([])
    axis.set_ylim(len(at) - 0.45, -0.55)
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter(PERCENT)
    axis.grid(visible=False, axis="y")
    axis.grid(visible=True, axis="x")


def reached(board: Scoreboard) -> np.ndarray:
    """Share of actual values at or below each quantile of :data:`LEVELS`, mean over series, ``[level]``."""
    found = board.backtest
    count = np.bincount(found.series, found.observed.sum(axis=1), found.panel.num_series)
    shares = []
    # One level at a time: all at once take much memory in a long backtest.
    for level in LEVELS:
        below = (found.actual <= found.quantiles_at([level])[..., 0]).sum(axis=1)
        shares.append(mean_of_known(ratio(np.bincount(found.series, below, len(count)), count)))
    return np.array(shares, dtype=np.float64)


def _age(board: Scoreboard) -> Figure | None:
    ages = board.ages
    if len(ages) < 2 or not np.isfinite(ages["wape"]).any():
        return None
    unit, seconds = ("days", 86_400) if ages["age"].abs().max() >= 2 * 86_400 else ("hours", 3600)
    figure, axes = canvas(WIDE, 2.9, margins=Margins(bottom=0.5 + LINE))
    axis = axes[0, 0]
    age = ages["age"].to_numpy() / seconds
    model, baseline = ages["wape"].to_numpy(), ages["baseline_wape"].to_numpy()
    line(axis, age, model, board.backtest.model, Stroke(MODEL, 1.8, marker=True))
    line(axis, age, baseline, board.skill.best_baseline, Stroke(BASELINE, 1.4, marker=True))
    when = aged_at(ages)
    if when is not None:
        label = "aged: a tenth worse than when younger"
        axis.axvline(when / seconds, color=BAD, lw=1.2, dashes=(3, 2), label=label)
    known = board.age_known
    axis.set_title("WAPE by age of the model" if known else "WAPE by time into the judged span")
    axis.set_xlabel(f"{unit} after the {'end of the training data' if known else 'start of the judged span'}")
    axis.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    from_zero(axis, largest(model, baseline), form="percent")
    legend(figure, axis, below=1, columns=3)
    return figure


def _strokes(board: Scoreboard) -> dict[str, Stroke]:
    """The line of each model and baseline."""
    found, best = board.backtest, board.skill.best_baseline
    left = iter([(colour, dashes) for dashes in _DASHES for colour in (OTHER, MUTED)])
    strokes = {}
    for number, name in enumerate(found.forecasts):
        if number < found.models:
            strokes[name] = Stroke(MODEL, 2.0) if number == 0 else Stroke(SECOND, 1.4)
        elif name == best:
            strokes[name] = Stroke(BASELINE, 1.6)
        else:
            colour, dashes = next(left)
            strokes[name] = Stroke(colour, 1.2, dashes)
    return strokes


def _times(board: Scoreboard, bins: np.ndarray) -> np.ndarray:
    """Starts of bins, datetime64."""
    return board.backtest.panel.seconds(bins).astype("datetime64[s]")


def _shown(board: Scoreboard, row: int) -> tuple[int, int]:
    """The bins ``[first, stop)`` to draw of a series: the end of the span, or its last part with traffic."""
    found, panel = board.backtest, board.backtest.panel
    bins = max(_DRAWN_SECONDS // panel.frequency.step, _FEWEST_ORIGINS * found.stride, _FEWEST_BINS)
    bins = min(max(min(bins, _MOST_BINS), 3 * found.horizon), found.stop - found.begin)
    seen = np.cumsum(panel.observed[row, found.begin : found.stop])
    within = seen[bins - 1 :] - np.r_[0, seen[:-bins]]
    stop = found.begin + bins + int(np.flatnonzero(2 * within >= within.max())[-1])
    return stop - bins, stop


def _last_steps(
    board: Scoreboard, row: int, first: int, stop: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The forecasts made a whole horizon ahead, for bins ``[first, stop)`` of a series.

    Returns
    -------
    Bins ``[n]``, their forecasts ``[n]`` and quantiles ``[n, level]``; NaN where no forecast was made.
    """
    found = board.backtest
    begin, end = np.searchsorted(found.series, [row, row + 1])
    target = found.origin[begin:end] + found.horizon - 1
    inside = (target >= first) & (target < stop)
    target, windows = target[inside], np.arange(begin, end)[inside]
    # One entry for each possible origin, so that a missing one is a gap.
    offset = (found.begin + found.horizon - 1 - first) % found.stride
    grid = np.arange(first + offset, stop, found.stride)
    at = (target - grid[0]) // found.stride if len(grid) else target
    forecast = np.full(len(grid), np.nan)
    quantiles = np.full((len(grid), len(found.levels)), np.nan)
    forecast[at] = found.forecasts[found.model][windows, -1]
    if found.levels:
        quantiles[at] = found.quantiles[windows, -1]
    return grid, forecast, quantiles


def _bands(levels: Sequence[float]) -> list[tuple[int, int, str, str]]:
    """The judged intervals among 95 % and 80 %, widest first: positions of both bounds, label, colour."""
    at = {round(level, 6): number for number, level in enumerate(levels)}
    bounds = [(0.025, 0.975, "95 % interval", WIDE_BAND), (0.1, 0.9, "80 % interval", BAND)]
    return [
        (at[low], at[high], label, colour) for low, high, label, colour in bounds if low in at and high in at
    ]
