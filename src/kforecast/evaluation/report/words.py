"""A scoreboard as text for one console screen, and the verdict."""

import math
from datetime import UTC, datetime
from typing import Literal

import pandas as pd

from kforecast.console import table
from kforecast.errors import few
from kforecast.evaluation.capacity import timing
from kforecast.evaluation.champion import comparison_words
from kforecast.evaluation.scoreboard import HEADROOMS, Orders, Scoreboard
from kforecast.evaluation.scores import overall
from kforecast.evaluation.skill import aged_at
from kforecast.models.naive import LAST_VALUE

Tone = Literal["good", "unsure", "bad"]
# Names in the table that differ from the names of baselines and policies.
_LABELS = {LAST_VALUE: "last value (reactive)", "perfect": "perfect knowledge"}


def verdict(board: Scoreboard) -> tuple[Tone, str]:
    """Tone and words of the verdict: whether the model is good enough to scale production."""
    if doubt := _doubt(board):
        return "bad", f"Do not scale on it: {doubt}."
    skill, best = board.skill, board.skill.best_baseline
    if math.isnan(skill.value):
        if overall(board.scores, best)["wape"] == 0:
            return "bad", f"The baseline '{best}' is exact here; no model can be better."
        return "unsure", "No verdict: there was no traffic to forecast."
    lower = "lower" if skill.value > 0 else "higher"
    compared = f"its error is {abs(skill.value):.1%} {lower} than that of the best baseline ({best})"
    if math.isnan(skill.low):
        return "unsure", (
            f"No verdict: {compared}, but {_origins(board)} cannot tell that from chance; judge it on a "
            "longer span."
        )
    interval = f"95% interval of the skill {skill.low:.1%} to {skill.high:.1%}"
    if skill.low > 0:
        return "good", f"Worth scaling on: {compared}; {interval}."
    remedies = "More history, more epochs or a longer context may help"
    if skill.high < 0:
        return "bad", (f"Do not scale on it: {compared}, which costs nothing; {interval}. {remedies}.")
    return "unsure", (
        f"Not proven: {compared}, which may be chance; {interval}. {remedies}, or a longer span to judge it "
        "on."
    )


def shortfall(board: Scoreboard | None, required: float) -> str | None:
    """Why a model does not pass the gate ``require_skill``; None if it passes."""
    if board is None:
        return "nothing to judge the model on"
    if doubt := _doubt(board):
        return doubt
    skill = board.skill
    if skill.above(required):
        return None
    over = f"over the best baseline ({skill.best_baseline})"
    if math.isnan(skill.value):
        return f"there is no skill {over}, which is exact or has no traffic to forecast"
    if math.isnan(skill.low):
        return f"the skill {over} is {skill.value:.1%}, but {_origins(board)} are too few to be sure"
    return (
        f"the skill {over} is {skill.value:.1%}, and its 95% interval, {skill.low:.1%} to {skill.high:.1%}, "
        f"is not clear of {required:.1%}"
    )


def champion_shortfall(board: Scoreboard | None, required: float) -> str | None:
    """Why a candidate does not replace the champion; None if it does."""
    if board is None or board.comparison is None:
        return "nothing to compare the candidate and the champion on"
    if doubt := _doubt(board):
        return doubt
    over = board.comparison.skill
    if over.above(required):
        return None
    if math.isnan(over.value):
        return "the champion is exact there, or there is no traffic to forecast"
    if math.isnan(over.low):
        return (
            f"the skill over the champion is {over.value:.1%}, but {_origins(board)} are too few to be sure"
        )
    return (
        f"the skill over the champion is {over.value:.1%}, and its 95% interval, {over.low:.1%} to "
        f"{over.high:.1%}, is not clear of {required:.1%}"
    )


def summary(board: Scoreboard) -> str:
    """The scoreboard on one screen: a table, the verdict, and lines on replicas, intervals and age."""
    lines = [scores_table(board), verdict(board)[1]]
    lines += [] if board.comparison is None else comparison_words(board.comparison)
    lines.append(capacity_words(board))
    lines += [words for words in (intervals_words(board), age_words(board)) if words]
    return "\n".join([*lines, *(f"Note: {note}" for note in board.orders.notes)])


def span_words(board: Scoreboard) -> str:
    """The judged span in words: series, origins and time."""
    first, last = (f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M}" for second in board.bounds)
    found = board.backtest
    scored, total = len(found.scored_series), found.panel.num_series
    series = f"{scored:,} series" if scored == total else f"{scored:,} of {total:,} series"
    every = f", every {found.stride} bins" if found.stride > 1 else ""
    served = ", as Kapacity's job serves it" if board.as_consumed else ""
    span = board.part or "the span"
    return f"{span}: {series}, {_origins(board)}{every}, {first} to {last} UTC{served}"


def scores_table(board: Scoreboard) -> str:
    """A table of models and baselines: forecast errors, and the replicas they would have ordered."""
    policies = board.orders.simulation.outcomes
    policies = policies.assign(under_hours=policies["under_minutes"] / 60)
    rows: list[tuple[str, dict[str, float], pd.Series]] = []
    for name in policies.index:
        if name == "reactive":
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
    return f"Replicas: {rules_words(board)}. {best_words(board.orders, board.backtest.model)}"


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


def best_words(orders: Orders, model: str) -> str:
    """The headroom and the quantile that would have cost least on this span."""
    best = orders.best_headroom(model)
    more = " or more" if best == HEADROOMS[-1] else ""
    headroom = f"Cheapest here: {best:.0%}{more} headroom"
    if orders.best_level is None:
        return f"{headroom}."
    theory = orders.settings.best_quantile
    return f"{headroom}, or ordering for quantile {orders.best_level:g} (the costs suggest {theory:.3g})."


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


def _doubt(board: Scoreboard) -> str:
    """Why the scores mean nothing; empty if they do: a counter is easy to forecast, and no load."""
    counters = board.backtest.panel.counters
    if not counters:
        return ""
    return (
        f"{few(counters)}: a counter, no load, as it only grows; train on its rate: rate(...[5m]) in PromQL"
    )


def _origins(board: Scoreboard) -> str:
    """The number of origins with its noun."""
    return f"{board.origins:,} origin{'s' * (board.origins != 1)}"


def age_text(seconds: float) -> str:
    """An age in days, or in hours below two days."""
    size, unit = (86_400, "day") if abs(seconds) >= 2 * 86_400 else (3600, "hour")
    count = round(seconds / size, 1)
    return f"{count:g} {unit}{'' if count == 1 else 's'}"
