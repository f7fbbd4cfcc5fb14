"""The page of a report: what was found, in the words and with the pictures a platform engineer reads."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from kforecast.evaluation.capacity import Capacity, timing
from kforecast.evaluation.champion import comparison_words
from kforecast.evaluation.report.figures import middle, model_policy, notable, often_seen, short_name
from kforecast.evaluation.report.words import age_text
from kforecast.evaluation.scoreboard import HEADROOMS, Scoreboard
from kforecast.evaluation.scores import overall
from kforecast.evaluation.skill import CONFIDENCE, RESAMPLES, aged_at
from kforecast.models.naive import LAST_VALUE
from kforecast.pages.drawing import duration, inline_svg, percent
from kforecast.pages.template import template

_MOST_ROWS = 50
# An interval that covers so many points more or less than it claims is as good as its word.
_CLOSE = 3.0
# In a line each.
_DEFINITIONS = {
    "MAE": "mean absolute error |forecast - actual|, in the metric's unit; big services weigh more",
    "RMSE": "square root of the mean squared error, in the metric's unit; one big miss weighs more than many "
    "small ones",
    "WAPE": "sum of the absolute errors over the sum of the actual values; 0 is perfect, and every series "
    "weighs the same",
    "MASE": "MAE over that of repeating the same time of the day before (for daily data of the week before), "
    "measured before the judged span; below 1 is better than that",
    "bias": "sum of (forecast - actual) over the sum of the actual values; above 0 forecasts are too high on "
    "average",
    "skill": "1 - WAPE of the model / WAPE of the best baseline; above 0 the model is worth having",
    "coverage": "share of the actual values inside an interval; an interval of 80 % should hold 80 % of them",
    "under-provisioned": "time in which a service had more load than its replicas serve, over all services",
    "load unserved": "load above what the replicas serve, as a share of all load",
    "replica-hours": "hours that all replicas ran, which is what a cluster is paid for",
    "over-provisioned": "share of the replica-hours that stood idle",
    "scalings": "how often the number of replicas changed",
    "cost": "replica-hours of load not served, and replica-hours that stood idle, each times its cost in the "
    "settings",
}
_POLICIES = {LAST_VALUE: "a reactive rule's orders", "perfect": "knows the load"}


@dataclass(frozen=True)
class ReportContext:
    """What the report says around the scoreboard.

    Attributes
    ----------
    title:
        What was evaluated: an artifact's path.
    verdict:
        In words.
    tone:
        Of the verdict: ``good``, ``unsure`` or ``bad``.
    facts:
        Text by name, shown at the end.
    warnings:
        What to know before believing the numbers.
    """

    title: str
    verdict: str
    tone: str
    facts: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def page(board: Scoreboard, context: ReportContext, drawn: Mapping[str, Figure]) -> str:
    """The page as HTML that needs nothing besides itself."""
    labels, captions = _labels(board), _captions(board)
    return template("report.html").render(
        context=context,
        figures={
            # Its texts were escaped when it was drawn.
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
    """The four numbers to know, each with a line about it."""
    model, found = board.model, board.skill
    best = overall(board.scores, found.best_baseline)["wape"]
    if math.isfinite(found.low):
        sure = f"{percent(CONFIDENCE, 0)} interval: {percent(found.low)} to {percent(found.high)}"
    else:
        sure = "too few moments to say how sure this is"
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
    policy, cost = model_policy(board), board.orders.simulation.outcomes["cost"]
    reactive = float(cost["reactive"])
    against = float(cost[policy]) / reactive - 1 if reactive > 0 else math.nan
    note = f"{_number(cost[policy])} ({policy}) against {_number(reactive)}"
    return {
        "name": "cost against scaling on the last value",
        "value": _signed_percent(against),
        "note": note if board.orders.any else "the span is too short for the lead time",
    }


def _scoreboard(board: Scoreboard) -> list[dict[str, Any]]:
    """Models first, then the baselines, best first."""
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
    """MAE, RMSE, WAPE, MASE and bias."""
    return [
        _number(scores["mae"]),
        _number(scores["rmse"]),
        percent(scores["wape"]),
        _number(scores["mase"]),
        _signed_percent(scores["relative_bias"]),
    ]


def _capacity(board: Scoreboard) -> dict[str, Any]:
    found, orders = board.backtest, board.orders
    settings, simulation = orders.settings, orders.simulation
    minutes = simulation.counted.sum() * orders.timeline.step / 60
    rows = []
    outcomes = simulation.outcomes
    for policy in outcomes.sort_values("cost", kind="stable").index:
        row = outcomes.loc[policy]
        if policy == "reactive":
            continue  # it is the last value's
        rows.append(
            {
                "name": policy,
                "note": _POLICIES.get(policy, ""),
                "is_model": policy == model_policy(board),
                "cells": [
                    _hours(row["under_minutes"]),
                    percent(row["under_minutes"] / minutes if minutes else math.nan),
                    percent(row["unserved_share"], 2),
                    _number(row["replica_hours"]),
                    percent(row["over_share"]),
                    f"{row['scalings']:,.0f}",
                    _number(row["cost"]),
                ],
            }
        )
    best = None
    if orders.any:
        headroom = orders.best_headroom(found.model)
        best = {
            "headroom": percent(headroom, 0) + (" or more" if headroom == HEADROOMS[-1] else ""),
            "headroom_cost": _number(orders.by_headroom[found.model].min()),
            "level": None if orders.best_level is None else f"{orders.best_level:g}",
            "level_cost": _number(orders.by_quantile.min()) if len(orders.by_quantile) else "",
            "newsvendor": f"{settings.best_quantile:.3g}",
            "under": f"{settings.cost_under:g}",
            "over": f"{settings.cost_over:g}",
        }
    return {"settings": _settings(settings, board), "rows": rows, "best": best, "model": found.model}


def _settings(settings: Capacity, board: Scoreboard) -> str:
    """The settings in a sentence or two."""
    if settings.per_replica is None:
        serves = f"Each series' mean load before the judged span fills {settings.mean_replicas:g} replicas"
    else:
        serves = f"A replica serves a load of {_number(settings.per_replica)}"
    ordered = f"{settings.min_replicas:,} to {settings.max_replicas:,} are ordered"
    step = board.backtest.panel.frequency.step
    bins, interval = timing(settings, step, board.backtest.stride)
    every, lead_time = interval * step, bins * step
    lead = f"{duration(lead_time)} before they serve" if lead_time else "and serve at once"
    if lead_time != settings.lead_time:
        lead += f" ({duration(settings.lead_time)}, rounded up to whole bins)"
    headroom = f", with {percent(settings.headroom, 0)} headroom on the forecast" if settings.headroom else ""
    return (
        f"{serves}; {ordered}, every {duration(every)}, {lead}{headroom}. A replica-hour of load that was "
        f"not served costs {settings.cost_under:g}, one that stood idle {settings.cost_over:g}."
    )


def _coverage(board: Scoreboard) -> dict[str, Any] | None:
    """Nominal and actual coverage; None without intervals."""
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
        words = "The intervals hold about as many actual values as they promise."
    elif worst < 0:
        words = (
            "The intervals hold fewer actual values than they promise: they are too narrow here. This span "
            "was harder to forecast than the one they were calibrated on."
        )
    else:
        words = (
            "The intervals hold more actual values than they promise: they are wider than needed here, so "
            "that ordering for a high quantile orders more than it must."
        )
    return {"rows": rows, "words": words}


def _age(board: Scoreboard) -> str:
    ages, best = board.ages, board.skill.best_baseline
    since = "the end of its training data" if board.age_known else "the start of the judged span"
    unknown = "" if board.age_known else " When its training data ended is not known."
    if len(ages) < 2:
        return f"The judged span is too short to see whether the model grows old.{unknown}"
    when = aged_at(ages)
    if when is None:
        last = age_text(int(ages["age"].iloc[-1]))
        return (
            f"No ageing is seen up to {last} after {since}: the model's error beside that of “{best}” did "
            f"not lastingly grow by a tenth or more.{unknown}"
        )
    return (
        f"From {age_text(when)} after {since} on, the model's error beside that of “{best}” is more than a "
        f"tenth larger than when it was younger: train again at least that often.{unknown}"
    )


def _series(board: Scoreboard) -> dict[str, Any]:
    """The worst series first, those without a WAPE last."""
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
    if board.backtest.forecaster.intervals is None:
        return "the artifact has no intervals"
    return "intervals were not judged"


def _facts(board: Scoreboard) -> dict[str, str]:
    """What there is to know of how it was judged."""
    found, skill = board.backtest, board.skill
    width = found.panel.frequency.step
    return {
        "forecasts": f"{len(found.cells):,} windows of {len(found.scored_series):,} series, from "
        f"{board.origins:,} moments, one every {duration(found.stride * width)}",
        "interval of the skill": f"block bootstrap: {RESAMPLES:,} draws of {skill.blocks:,} blocks of "
        f"{duration(skill.block * width)}"
        + ("" if math.isfinite(skill.low) else "; too few blocks for an interval"),
    }


def _span(board: Scoreboard) -> str:
    start, end = (f"{pd.Timestamp(second, unit='s'):%Y-%m-%d %H:%M}" for second in board.bounds)
    return f"{start} to {end} UTC" + (f" ({board.part})" if board.part else "")


def _labels(board: Scoreboard) -> dict[str, str]:
    """What each figure shows, for those who do not see it."""
    model, best = board.backtest.model, board.skill.best_baseline
    shown = ", ".join(
        f"{short_name(board, series.row)}{f' ({series.place})' if series.place else ''}"
        for series in notable(board)
    )
    scored = ", ".join(f"{row['name']} {row['cells'][2]}" for row in _scoreboard(board))
    return {
        "forecasts": f"Lines of forecast and actual traffic over time of {shown}",
        "steps": f"Lines of the WAPE at each step of the horizon, of {model} and every baseline",
        "baselines": f"Bars of the WAPE: {scored}",
        "replicas": f"Replicas over time of {short_name(board, middle(board).row)}: perfect, reactive and "
        f"{model_policy(board)}, beside the load",
        "cost": f"Lines of cost against headroom, of {model}, {best} and the reactive rule, and against the "
        "quantile ordered for",
        "calibration": "Level of each quantile against the share of actual values at or below it, and "
        "nominal against actual coverage of the intervals; the numbers are in the table",
        "age": f"Lines of the WAPE of {model} and {best} against the age of the model",
    }


def _captions(board: Scoreboard) -> dict[str, str]:
    found = board.backtest
    ahead = duration(found.horizon * found.panel.frequency.step)
    more = ""
    if found.stride > 1:
        more += f" One forecast is drawn every {duration(found.stride * found.panel.frequency.step)}."
    if not often_seen(board).all():
        more += " Series with few targets are passed over."
    return {
        "forecasts": f"Each bin beside the forecast of it that was made {ahead} before its end, the whole "
        f"horizon. A line that follows a jump late did not see it coming.{more}",
        "steps": "Further ahead is harder. What counts is the error as far ahead as replicas take to start.",
        "baselines": "Baselines cost nothing. A model that does not beat them all is not worth its trouble.",
        "replicas": "Where a line is below the load, requests wait or fail; where it is above the grey, "
        "replicas stand idle.",
        "cost": "The dots are the cheapest. Curves are cut off where they get far more expensive than that.",
        "calibration": "Below the dashed line, fewer actual values came out at or below a quantile than "
        "promised: it is too low. Above the line it is too high.",
        "age": "The baseline is beside it because some days are hard for everyone.",
    }


def _number(value: float) -> str:
    """Three digits, or all before the point."""
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
