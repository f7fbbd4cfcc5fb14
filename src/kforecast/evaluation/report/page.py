"""The HTML page of a report, written for platform engineers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from kforecast.evaluation.capacity import JUDGED
from kforecast.evaluation.champion import comparison_words
from kforecast.evaluation.report.figures import notable, often_seen, short_name
from kforecast.evaluation.report.words import REPLAY, age_text, effect_words, simulated_words
from kforecast.evaluation.scoreboard import Scoreboard
from kforecast.evaluation.scores import overall
from kforecast.evaluation.skill import CONFIDENCE, RESAMPLES, aged_at
from kforecast.pages.drawing import duration, inline_svg, percent
from kforecast.pages.template import template
from kforecast.simulation.drivers import BOTH, FORECAST, MIMIR, PERFECT, REACTIVE, SCHEDULED

_MOST_ROWS = 50
# An interval whose coverage is within this many percentage points of its claim keeps its promise.
_CLOSE = 3.0
# Explanations of the terms, shown on the page.
_DEFINITIONS = {
    "MAE": "mean absolute error |forecast - actual|, in the metric's unit; big services weigh more",
    "RMSE": "square root of the mean squared error, in the metric's unit; one big miss weighs more than many "
    "small ones",
    "WAPE": "sum of the absolute errors over the sum of the actual values; 0 is perfect, and every series "
    "weighs the same",
    "MASE": "MAE over the MAE of repeating the value of one day before (one week before for daily data), "
    "measured before the judged span; below 1 the model is better than that",
    "bias": "sum of (forecast - actual) over the sum of the actual values; above 0 forecasts are too high on "
    "average",
    "skill": "1 - WAPE of the model / WAPE of the best baseline; above 0 the model is better",
    "coverage": "share of the actual values inside an interval; an interval of 80 % should hold 80 % of them",
    "unserved": "load above what the pods serve, as a share of all load",
    "with unserved load": "time in which a service had more load than its pods serve, over all services",
    "replica-hours": "running time of all pods together, which is what a cluster is paid for",
    "idle": "share of the replica-hours that stood idle",
    "scalings": "how often the autoscaler changed the number of replicas",
    "cost": "replica-hours of unserved load plus idle replica-hours, each times its cost in the settings",
}
_DRIVERS = {
    REACTIVE: "the newest load",
    FORECAST: "without the newest load",
    BOTH: "two metrics",
    MIMIR: "Mimir's rule, with the newest load",
    SCHEDULED: "cron from the mean week, with the newest load",
    PERFECT: "the load to come",
}


@dataclass(frozen=True)
class ReportContext:
    """The parts of the page that the scoreboard does not hold.

    Attributes
    ----------
    title:
        Path of the evaluated artifact.
    verdict:
        The verdict in words.
    tone:
        Tone of the verdict: ``good``, ``unsure`` or ``bad``.
    facts:
        Facts about the evaluation, text by name, shown at the end.
    warnings:
        Caveats, shown at the top.
    """

    title: str
    verdict: str
    tone: str
    facts: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def page(board: Scoreboard, context: ReportContext, drawn: Mapping[str, Figure]) -> str:
    """The page as self-contained HTML; ``drawn`` are its figures by name."""
    labels, captions = _labels(board), _captions(board)
    return template("report.html").render(
        context=context,
        figures={
            # Texts within the SVG are already escaped.
            name: {"svg": Markup(inline_svg(figure, name, labels[name])), "caption": captions[name]}
            for name, figure in drawn.items()
        },
        span=_span(board),
        key_numbers=_key_numbers(board),
        comparison=() if board.comparison is None else comparison_words(board.comparison),
        scoreboard=_scoreboard(board),
        capacity=_capacity(board),
        coverage=_coverage(board),
        age=_age(board),
        series=_series(board),
        definitions=_DEFINITIONS,
        facts=dict(context.facts) | _facts(board),
        no_intervals=_no_intervals(board),
        best_baseline=board.skill.best_baseline,
    )


def _key_numbers(board: Scoreboard) -> list[dict[str, str]]:
    """The four key numbers, each with a note."""
    model, found = board.model, board.skill
    best = overall(board.scores, found.best_baseline)["wape"]
    if math.isfinite(found.low):
        sure = f"{percent(CONFIDENCE, 0)} interval: {percent(found.low)} to {percent(found.high)}"
    else:
        sure = "too few origins for an interval"
    coverages = board.coverages()
    name, inside = next(iter(coverages.items()), ("80", math.nan))
    return [
        {"name": f"skill over “{found.best_baseline}”", "value": percent(found.value), "note": sure},
        {
            "name": "error (WAPE)",
            "value": percent(model["wape"]),
            "note": f"best baseline, “{found.best_baseline}”: {percent(best)}",
        },
        {
            "name": f"actual values inside the {name}\N{NO-BREAK SPACE}% interval",
            "value": percent(inside),
            "note": f"promised: {name}\N{NO-BREAK SPACE}%" if coverages else _no_intervals(board),
        },
        _key_cost(board),
    ]


def _key_cost(board: Scoreboard) -> dict[str, str]:
    name, simulation = "cost against scaling on the newest load", board.orders.simulation
    if simulation is None:
        return {"name": name, "value": "–", "note": board.orders.lacking}
    cost = simulation.table["cost"]
    reactive = float(cost[REACTIVE])
    against = float(cost[JUDGED]) / reactive - 1 if reactive > 0 else math.nan
    note = f"{_number(cost[JUDGED])} ({JUDGED} at {board.orders.quantile_words}) against {_number(reactive)}"
    if math.isfinite(board.saving.low):
        note += f"; {percent(CONFIDENCE, 0)} interval: {_signed_percent(-board.saving.high)} to "
        note += _signed_percent(-board.saving.low)
    return {"name": name, "value": _signed_percent(against), "note": note}


def _scoreboard(board: Scoreboard) -> list[dict[str, Any]]:
    """Rows of the table of errors: the models, then the baselines from best to worst."""
    found = board.backtest
    scores = {name: overall(board.scores, name) for name in found.forecasts}
    rivals = sorted(
        found.baselines, key=lambda name: (math.isnan(scores[name]["wape"]), scores[name]["wape"])
    )
    return [
        {
            "name": name,
            "is_model": name == found.model,
            "is_best": name == board.skill.best_baseline,
            "cells": _cells(scores[name]),
        }
        for name in [*list(found.forecasts)[: found.models], *rivals]
    ]


def _cells(scores: Mapping[Any, Any]) -> list[str]:
    """The cells of MAE, RMSE, WAPE, MASE and bias."""
    return [
        _number(scores["mae"]),
        _number(scores["rmse"]),
        percent(scores["wape"]),
        _number(scores["mase"]),
        _signed_percent(scores["relative_bias"]),
    ]


def _capacity(board: Scoreboard) -> dict[str, Any]:
    """Values of the section on replicas: the rules in words, and a row per driver, cheapest first."""
    orders, simulation = board.orders, board.orders.simulation
    found: dict[str, Any] = {
        "lacking": orders.lacking,
        "guard": "" if board.guard is None else board.guard.words,
    }
    if simulation is None:
        return found
    observed = simulation.outcomes.seconds.sum() / 60
    table = simulation.table.sort_values("cost", kind="stable")
    effect = effect_words(simulation)
    return found | {
        "scope": simulated_words(board, simulation),
        "settings": _settings(board),
        "effect": effect[:1].upper() + effect[1:],
        "replay": REPLAY,
        "rows": [
            {
                "name": name,
                "note": _DRIVERS[str(name)],
                "is_model": name == JUDGED,
                "cells": [
                    percent(row["unserved_share"], 2),
                    _hours(row["under_minutes"]),
                    percent(row["under_minutes"] / observed if observed else math.nan),
                    _number(row["replica_hours"]),
                    percent(row["over_share"]),
                    f"{row['scalings']:,.0f}",
                    _number(row["cost"]),
                ],
            }
            for name, row in table.iterrows()
        ],
    }


def _settings(board: Scoreboard) -> str:
    """The scaling rules in some sentences."""
    settings, question = board.orders.settings, board.orders.question
    if settings.per_replica is None:
        serves = f"Each series' mean load before the judged span fills {settings.mean_replicas:g} pods"
    else:
        serves = f"A pod serves a load of {_number(settings.per_replica)}"
    lead_time = settings.lead_time
    lead = f"and serve {duration(lead_time)} later" if lead_time else "and serve at once"
    target = ""
    if settings.headroom:
        target = f" The autoscaler's target leaves {percent(settings.headroom, 0)} headroom."
    under, over = settings.cost_under, settings.cost_over
    return (
        f"{serves}; {settings.min_replicas:,} to {settings.max_replicas:,} are ordered, {lead}.{target} The "
        f"forecast is {board.orders.quantile_words} over the next {duration(question.window)}. A "
        f"replica-hour of unserved load costs {under:g}, an idle one {over:g}; the cheapest quantile to "
        f"order for is then {under:g} / ({under:g} + {over:g}) = {settings.best_quantile:.3g}."
    )


def _coverage(board: Scoreboard) -> dict[str, Any] | None:
    """Values of the section on intervals: nominal and actual coverage; None without intervals."""
    coverages = {float(name): share for name, share in board.coverages().items()}
    if not board.backtest.levels:
        return None
    rows, points = [], []
    for nominal in sorted(coverages):
        difference = 100 * coverages[nominal] - nominal
        points.append(difference)
        rows.append([f"{nominal:g}\N{NO-BREAK SPACE}%", percent(coverages[nominal]), _signed(difference)])
    known = [value for value in points if math.isfinite(value)]
    worst = max(known, key=abs, default=math.nan)
    if not known:
        words = "No interval was judged."
    elif abs(worst) <= _CLOSE:
        words = "The intervals contain about as many actual values as they promise."
    elif worst < 0:
        words = (
            "The intervals contain fewer actual values than they promise: they are too narrow here. This "
            "span was harder to forecast than the one they were calibrated on."
        )
    else:
        words = (
            "The intervals contain more actual values than they promise: they are wider than needed here, so "
            "ordering for a high quantile orders more replicas than necessary."
        )
    return {"rows": rows, "words": words}


def _age(board: Scoreboard) -> str:
    """Words on how the error changed with the age of the model."""
    ages, best = board.ages, board.skill.best_baseline
    since = "the end of its training data" if board.age_known else "the start of the judged span"
    unknown = "" if board.age_known else " The end of its training data is not known."
    if len(ages) < 2:
        return f"The judged span is too short to show whether the model ages.{unknown}"
    when = aged_at(ages)
    if when is None:
        last = age_text(int(ages["age"].iloc[-1]))
        return (
            f"No ageing up to {last} after {since}: the model's error relative to “{best}” shows no "
            f"lasting growth of a tenth or more.{unknown}"
        )
    return (
        f"From {age_text(when)} after {since} on, the model's error relative to “{best}” is more than a "
        f"tenth larger than at younger ages: retrain at least that often.{unknown}"
    )


def _series(board: Scoreboard) -> dict[str, Any]:
    """Values of the table of series: the worst first, those without a WAPE last."""
    own = board.series_scores()
    best = board.series_scores(board.skill.best_baseline)
    coverage = next((name for name in own.columns if name.startswith("coverage_")), None)
    own = own.assign(best=best["wape"].to_numpy())
    shown = own.sort_values("wape", ascending=False, kind="stable", na_position="last").head(_MOST_ROWS)
    heads = ["MAE", "RMSE", "WAPE", "MASE", "bias", f"WAPE of “{board.skill.best_baseline}”"]
    if coverage:
        heads.append(f"inside {coverage.removeprefix('coverage_')}\N{NO-BREAK SPACE}%")
    rows = [
        {
            "workload": row["workload"],
            "metric": row["metric"],
            "is_worse": bool(row["wape"] > row["best"]),
            "cells": [
                *_cells(row),
                percent(row["best"]),
                *([percent(row[coverage])] if coverage else []),
                f"{row['targets']:,}",
            ],
        }
        for row in shown.to_dict("records")
    ]
    worse = int((own["wape"] > own["best"]).sum())
    return {
        "heads": [*heads, "targets"],
        "rows": rows,
        "count": f"{len(own):,}",
        "total": len(own),
        "worse": worse,
    }


def _no_intervals(board: Scoreboard) -> str:
    """Why there is no coverage."""
    if board.backtest.predictor.intervals is None:
        return "the artifact has no intervals"
    return "intervals were not judged"


def _facts(board: Scoreboard) -> dict[str, str]:
    """Facts about the judging, text by name."""
    found, skill = board.backtest, board.skill
    width = found.panel.frequency.step
    return {
        "forecasts": f"{len(found.cells):,} windows of {len(found.scored_series):,} series, from "
        f"{board.origins:,} origins, one every {duration(found.stride * width)}",
        "interval of the skill": f"block bootstrap: {RESAMPLES:,} draws of {skill.blocks:,} blocks of "
        f"{duration(skill.block * width)}"
        + ("" if math.isfinite(skill.low) else "; too few blocks for an interval"),
    }


def _span(board: Scoreboard) -> str:
    """The judged span in words."""
    start, end = (f"{pd.Timestamp(second, unit='s'):%Y-%m-%d %H:%M}" for second in board.bounds)
    return f"{start} to {end} UTC" + (f" ({board.part})" if board.part else "")


def _labels(board: Scoreboard) -> dict[str, str]:
    """Descriptions of the figures for screen readers."""
    model, best = board.backtest.model, board.skill.best_baseline
    shown = ", ".join(
        f"{short_name(board, series.row)}{f' ({series.place})' if series.place else ''}"
        for series in notable(board)
    )
    scored = ", ".join(f"{row['name']} {row['cells'][2]}" for row in _scoreboard(board))
    costs = ", ".join(f"{row['name']} {row['cells'][-1]}" for row in _capacity(board).get("rows", ()))
    return {
        "forecasts": f"Lines of forecast and actual traffic over time of {shown}",
        "steps": f"Lines of the WAPE at each step of the horizon, of {model} and every baseline",
        "baselines": f"Bars of the WAPE: {scored}",
        "replicas": "Pods of one service over time under three drivers, with its load",
        "cost": f"Bars of the cost of every driver; {costs}",
        "calibration": "Level of each quantile against the share of actual values at or below it, and "
        "nominal against actual coverage of the intervals; the numbers are in the table",
        "age": f"Lines of the WAPE of {model} and {best} against the age of the model",
    }


def _captions(board: Scoreboard) -> dict[str, str]:
    """Captions of the figures, by name."""
    found = board.backtest
    ahead = duration(found.horizon * found.panel.frequency.step)
    more = ""
    if found.stride > 1:
        more += f" One forecast is drawn every {duration(found.stride * found.panel.frequency.step)}."
    if not often_seen(board).all():
        more += " Series with few targets are skipped."
    return {
        "forecasts": f"The actual value of each bin, and its forecast made {ahead} before the bin's end, "
        f"a whole horizon ahead. A forecast that follows a jump late did not predict it.{more}",
        "steps": "Forecasts further ahead are harder. The error at the start-up time of replicas matters "
        "most.",
        "baselines": "Baselines cost nothing. A model must beat all of them to be worth its cost.",
        "replicas": "The service of median traffic. Where a line is below the load, requests wait or fail; "
        "where it is above the grey area, pods stand idle.",
        "cost": "Idle replica-hours and unserved load, each times its price.",
        "calibration": "Below the dashed line a quantile is too low: fewer actual values than promised are "
        "at or below it. Above the line it is too high.",
        "age": "The baseline is shown for comparison, because some days are hard for every model.",
    }


def _number(value: float) -> str:
    """Three significant digits, or all digits before the decimal point."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"
    return text.replace("-", "−")


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−") if math.isfinite(value) else "–"


def _signed_percent(value: float) -> str:
    return f"{100 * value:+,.1f}\N{NO-BREAK SPACE}%".replace("-", "−") if math.isfinite(value) else "–"


def _hours(minutes: float) -> str:
    hours, left = divmod(round(minutes), 60)
    parts = [f"{hours:,} h"] * (hours > 0) + [f"{left} min"] * (left > 0 or hours == 0)
    return " ".join(parts).replace(" ", "\N{NO-BREAK SPACE}")
