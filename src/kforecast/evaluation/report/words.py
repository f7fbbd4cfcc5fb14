"""A scoreboard as text for one console screen."""

import math
from datetime import UTC, datetime

import numpy as np
import pandas as pd

from kforecast.console import table
from kforecast.evaluation.capacity import PERFECT, REACTIVE, timing
from kforecast.evaluation.champion import comparison_words
from kforecast.evaluation.scoreboard import HEADROOMS, Scoreboard
from kforecast.evaluation.scores import overall
from kforecast.evaluation.skill import aged_at
from kforecast.evaluation.verdict import caveats, origins_words, useless, verdict
from kforecast.models.naive import LAST_VALUE

# Names in the table that differ from the names of baselines and policies.
_LABELS = {LAST_VALUE: "last value (reactive)", PERFECT: "perfect knowledge"}


def summary(board: Scoreboard) -> str:
    """The scoreboard on one screen: a table, the verdict, and lines on replicas, intervals and age."""
    lines = [scores_table(board), verdict(board).words]
    lines += [] if board.comparison is None else comparison_words(board.comparison)
    lines.append(capacity_words(board))
    # That it would have done nothing is on the page; a console has few lines.
    lines += [board.guard.words] if board.guard is not None and board.guard.count else []
    lines += [words for words in (intervals_words(board), age_words(board)) if words]
    return "\n".join([*lines, *(f"Note: {note}" for note in caveats(board))])


def span_words(board: Scoreboard) -> str:
    """The judged span in words: series, origins and time."""
    first, last = (f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M}" for second in board.bounds)
    found = board.backtest
    scored, total = len(found.scored_series), found.panel.num_series
    series = f"{scored:,} series" if scored == total else f"{scored:,} of {total:,} series"
    every = f", every {found.stride} bins" if found.stride > 1 else ""
    served = ", as Kapacity's job serves it" if board.as_consumed else ""
    if served:
        served += " when a bin has just begun" if found.at_edge else ", from complete bins"
    span = board.part or "the span"
    return f"{span}: {series}, {origins_words(board)}{every}, {first} to {last} UTC{served}"


def scores_table(board: Scoreboard) -> str:
    """A table of models and baselines: forecast errors, and the replicas they would have ordered."""
    policies = board.orders.simulation.outcomes
    policies = policies.assign(under_hours=policies["under_minutes"] / 60)
    rows: list[tuple[str, dict[str, float], pd.Series]] = []
    for name in policies.index:
        if name == REACTIVE:
            continue  # the same orders as the last value's
        scores = overall(board.scores, name) if name in board.backtest.forecasts else {}
        rows.append((_LABELS.get(name, name), scores, policies.loc[name]))

    def scored(key: str, form: str) -> list[str]:
        return [
            form.format(scores[key]) if math.isfinite(scores.get(key, math.nan)) else ""
            for _, scores, _ in rows
        ]

    def ordered(key: str, form: str) -> list[str]:
        values = [float(policy[key]) if board.orders.any else math.nan for _, _, policy in rows]
        return [form.format(value) if math.isfinite(value) else "" for value in values]

    return table(
        f"Forecast error, and replicas ordered by it, on {span_words(board)}",
        {
            "forecast": [name for name, _, _ in rows],
            "MAE": scored("mae", "{:.4g}"),
            "WAPE": scored("wape", "{:.2%}"),
            "MASE": scored("mase", "{:.3f}"),
            "bias": scored("relative_bias", "{:+.1%}"),
            "too few h": ordered("under_hours", "{:,.1f}"),
            "unserved": ordered("unserved_share", "{:.2%}"),
            "idle": ordered("over_share", "{:.1%}"),
            "scalings": ordered("scalings", "{:,.0f}"),
            "replica-h": ordered("replica_hours", "{:,.0f}"),
            "cost": ordered("cost", "{:,.0f}"),
        },
        left=("forecast",),
        spare=("scalings", "MASE", "bias", "idle"),
        bold=0,
    )


def capacity_words(board: Scoreboard) -> str:
    """The rules of the simulation, and the settings that would have cost least."""
    if not board.orders.any:
        return "Replicas: the span is shorter than capacity.lead_time, so no order would take effect in it."
    return f"Replicas: {rules_words(board)}. {best_words(board)}"


def rules_words(board: Scoreboard) -> str:
    """The rules of the simulation."""
    settings, step = board.orders.settings, board.backtest.panel.frequency.step
    if settings.per_replica is None:
        one = f"{settings.mean_replicas:g} for a service's mean load"
    else:
        one = f"one serves {settings.per_replica:g}"
    lead = timing(settings, step, board.backtest.stride)[0] * step
    rounded = f" (in whole bins {lead:,} s)" if lead != settings.lead_time else ""
    headroom = f", headroom {settings.headroom:.0%}" if settings.headroom else ""
    return (
        f"{one} ({settings.min_replicas} to {settings.max_replicas}), {settings.lead_time} s to start"
        f"{rounded}{headroom}; cost = {settings.cost_under:g} x unserved + {settings.cost_over:g} x idle "
        "replica-hours"
    )


def best_words(board: Scoreboard) -> str:
    """The headroom and the quantile that would have cost least on this span, if they can be advised."""
    if against := words_against(board):
        return against
    orders, model = board.orders, board.backtest.model
    best = orders.best_headroom(model)
    more = " or more" if best == HEADROOMS[-1] else ""
    headroom = f"Cheapest here: {best:.0%}{more} headroom"
    if not len(orders.by_quantile):
        return f"{headroom}."
    if orders.best_level is None:
        return f"{headroom}. {implausible_words(board)}"
    theory = orders.settings.best_quantile
    found = f"{headroom}, or ordering for quantile {orders.best_level:g} (the costs suggest {theory:.3g})."
    return " ".join(filter(None, [found, implausible_words(board)]))


def words_against(board: Scoreboard) -> str:
    """Why no headroom and no quantile can be advised; empty if one can."""
    if useless(board) is not None:
        return "No headroom and no quantile of it can be advised: see the verdict."
    orders = board.orders
    cheapest = np.fmin(orders.by_headroom[board.backtest.model].min(), orders.best_level_cost)
    if cheapest < orders.simulation.outcomes["cost"][REACTIVE]:
        return ""
    return "No headroom and no quantile of it costs less here than a reactive rule."


def implausible_words(board: Scoreboard) -> str:
    """Which quantiles are too high to order; empty if none of them is."""
    orders = board.orders
    if orders.plausible.all():
        return ""
    above = "All quantiles" if orders.highest_level is None else f"Quantiles above {orders.highest_level:g}"
    return f"{above} exceed twice the largest value ever seen: do not order them."


def intervals_words(board: Scoreboard) -> str:
    """Actual and nominal coverage; empty without intervals."""
    parts = [f"{actual:.1%} (nominal {share}%)" for share, actual in board.coverages().items()]
    return f"Intervals: coverage {', '.join(parts)}." if parts else ""


def age_words(board: Scoreboard) -> str:
    """How the error changed with the age of the model; empty with fewer than two ages."""
    ages = board.ages.dropna(subset=["wape"])
    if len(ages) < 2:
        return ""
    first, last, at = ages.iloc[0], ages.iloc[-1], aged_at(ages)
    since = "after its training data" if board.age_known else "into the span"
    grown = (
        f"relative to the baseline it is a tenth worse from {age_text(at)} on: retrain before that"
        if at is not None
        else "no lasting ageing relative to the baseline"
    )
    return (
        f"Age: WAPE {first['wape']:.2%} at {age_text(first['age'])} and {last['wape']:.2%} at "
        f"{age_text(last['age'])} {since}; {grown}."
    )


def age_text(seconds: float) -> str:
    """An age in days, or in hours below two days."""
    size, unit = (86_400, "day") if abs(seconds) >= 2 * 86_400 else (3600, "hour")
    count = round(seconds / size, 1)
    return f"{count:g} {unit}{'' if count == 1 else 's'}"
