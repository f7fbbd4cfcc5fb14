"""A scoreboard as text for one console screen."""

import math
from datetime import UTC, datetime

from kforecast.console import table
from kforecast.evaluation.capacity import JUDGED, Simulation
from kforecast.evaluation.champion import comparison_words
from kforecast.evaluation.scoreboard import Scoreboard
from kforecast.evaluation.scores import overall
from kforecast.evaluation.skill import aged_at
from kforecast.evaluation.verdict import caveats, origins_words, verdict
from kforecast.models.naive import NAIVE
from kforecast.simulation.drivers import REACTIVE

# The whole replay, with the reader's own autoscaler.
REPLAY = "kforecast-replay artifact_dir=... policy.manifest=hpa.yaml"


def summary(board: Scoreboard) -> str:
    """The scoreboard on one screen: two tables, the verdict, and lines on replicas, intervals and age."""
    simulation = board.orders.simulation
    lines = [scores_table(board)]
    lines += [] if simulation is None else [capacity_table(board, simulation)]
    lines.append(verdict(board).words)
    lines += [] if board.comparison is None else comparison_words(board.comparison)
    lines.append(capacity_words(board))
    # That it would have done nothing is on the page; a console has few lines.
    lines += [board.guard.words] if board.guard is not None and board.guard.count else []
    lines += [words for words in (intervals_words(board), age_words(board)) if words]
    return "\n".join([*lines, *(f"Note: {note}" for note in caveats(board))])


def span_words(board: Scoreboard) -> str:
    """The judged span in words: series, origins and time."""
    found = board.backtest
    scored, total = len(found.scored_series), found.panel.num_series
    every = f", every {found.stride} bins" if found.stride > 1 else ""
    served = ", as Kapacity's job serves it" if board.as_consumed else ""
    if served:
        served += " when a bin has just begun" if found.at_edge else ", from complete bins"
    span = board.part or "the span"
    return (
        f"{span}: {_series_words(scored, total)}, {origins_words(board)}{every}, "
        f"{_time_words(*board.bounds)}{served}"
    )


def simulated_words(board: Scoreboard, simulation: Simulation) -> str:
    """What was simulated: series and time."""
    found = board.backtest
    bounds = (found.panel.seconds(at) for at in (simulation.begin, simulation.stop - 1))
    return (
        f"{_series_words(len(simulation.rows), len(found.scored_series))}, {_time_words(*bounds)}, in steps "
        f"of {simulation.outcomes.step} s"
    )


def _series_words(some: int, total: int) -> str:
    return f"{some:,} series" if some == total else f"{some:,} of {total:,} series"


def _time_words(*seconds: int) -> str:
    first, last = (f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M}" for second in seconds)
    return f"{first} to {last} UTC"


def scores_table(board: Scoreboard) -> str:
    """A table of the forecast errors of models and baselines, without constants that are not the best one."""
    found = board.backtest
    useful = {*NAIVE, board.skill.best_baseline}
    names = [name for name in found.forecasts if name not in found.baselines or name in useful]
    scores = [overall(board.scores, name) for name in names]

    def scored(key: str, form: str) -> list[str]:
        return [form.format(row[key]) if math.isfinite(row[key]) else "" for row in scores]

    return table(
        f"Forecast error on {span_words(board)}",
        {
            "forecast": names,
            "MAE": scored("mae", "{:.4g}"),
            "WAPE": scored("wape", "{:.2%}"),
            "MASE": scored("mase", "{:.3f}"),
            "bias": scored("relative_bias", "{:+.1%}"),
        },
        left=("forecast",),
        spare=("MASE", "bias"),
        bold=0,
    )


def capacity_table(board: Scoreboard, simulation: Simulation) -> str:
    """A table of what an autoscaler would have done with and without the forecast."""
    frame = simulation.table

    def shown(key: str, form: str) -> list[str]:
        return [form.format(value) if math.isfinite(value) else "" for value in frame[key]]

    return table(
        f"A horizontal pod autoscaler, replayed for {simulated_words(board, simulation)}",
        {
            "scales on": list(frame.index),
            "unserved": shown("unserved_share", "{:.2%}"),
            "short min": shown("under_minutes", "{:,.0f}"),
            "replica-h": shown("replica_hours", "{:,.0f}"),
            "idle": shown("over_share", "{:.1%}"),
            "scalings": shown("scalings", "{:,.0f}"),
            "cost": shown("cost", "{:,.0f}"),
        },
        left=("scales on",),
        spare=("scalings", "idle"),
        bold=list(frame.index).index(JUDGED),
    )


def capacity_words(board: Scoreboard) -> str:
    """What scaling on the forecast did, by which rules, and how to replay the reader's own autoscaler."""
    orders = board.orders
    if orders.simulation is None:
        return f"Replicas: {orders.lacking}."
    hint = f"Your own autoscaler, and the target and quantile to give it: {REPLAY}"
    return f"Replicas: {effect_words(orders.simulation)} {rules_words(board)} {hint}"


def effect_words(simulation: Simulation) -> str:
    """What the larger of the newest load and the forecast did, compared with the newest load alone."""
    rows = simulation.table.to_dict("index")
    before, after = rows[REACTIVE], rows[JUDGED]
    unserved, was = (
        f"{share:.2%}" if math.isfinite(share) else "nothing"
        for share in (after["unserved_share"], before["unserved_share"])
    )
    hours = _change(after["replica_hours"], before["replica_hours"])
    cost = _change(after["cost"], before["cost"])
    return (
        f"scaling on the larger of the newest load and the forecast leaves {unserved} of the load unserved, "
        f"scaling on the newest load alone {was}; replica-hours {hours}, cost {cost}."
    )


def _change(after: float, before: float) -> str:
    return f"{after / before - 1:+.0%}" if before > 0 else f"{after:,.0f} instead of 0"


def rules_words(board: Scoreboard) -> str:
    """The rules of the simulation."""
    settings, question = board.orders.settings, board.orders.question
    if settings.per_replica is None:
        one = f"{settings.mean_replicas:g} full pods for a service's mean load"
    else:
        one = f"a pod serves {settings.per_replica:g}"
    headroom = f" with headroom {settings.headroom:.0%}" if settings.headroom else ""
    every = f", a decision every {settings.interval:,} s" if settings.interval is not None else ""
    return (
        f"The forecast is {board.orders.quantile_words} over the next {question.window:,} s; {one}{headroom} "
        f"({settings.min_replicas} to {settings.max_replicas}), {settings.lead_time} s to start{every}; cost "
        f"= {settings.cost_under:g} x unserved + {settings.cost_over:g} x idle replica-hours."
    )


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
