"""The files of a replay: ``replay.json`` and the HTML page with the worst day of every driver."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from kforecast.files.output import replace_file, write_json
from kforecast.pages.drawing import (
    BAD,
    BASELINE,
    FULL,
    MODEL,
    Margins,
    Stroke,
    canvas,
    date_axis,
    from_zero,
    inline_svg,
    largest,
    legend,
    line,
    style,
)
from kforecast.pages.template import template
from kforecast.replay.recommend import Choice
from kforecast.replay.study import Replay
from kforecast.replay.words import (
    cells,
    changes,
    day_words,
    guard_words,
    moment_words,
    recommendation,
    search_words,
    services_words,
    setting_words,
)
from kforecast.simulation.outcomes import Trace
from kforecast.version import __version__

_MOST_ROWS = 50
_MINUTE = 60
_DEFINITIONS = {
    "unserved": "load above what the pods that serve can take, as a share of all load; load that waits too",
    "short min": "service-minutes with unserved load",
    "busy min": "service-minutes with pods used above replay.busy, so that requests are slow",
    "replica-h": "running time of all pods, also of those that start or drain: what a cluster is paid for",
    "idle": "share of the replica-hours without work",
    "scalings": "how often an order changed the number of replicas",
    "worst day": "the day (UTC) with the highest cost, over all services",
    "cost": "replica-hours of unserved load plus idle replica-hours, each times its price",
}


def publish(
    found: Replay, directory: Path, targets: np.ndarray | None, facts: Mapping[str, str], notes: Sequence[str]
) -> None:
    """Write ``replay.json`` and ``replay.html``.

    Parameters
    ----------
    targets:
        See :func:`kforecast.replay.words.changes`.
    facts:
        Facts about the replay, text by name.
    notes:
        Assumptions and doubts, shown at the top.

    Raises
    ------
    OSError
        When the file system refuses.
    """
    write_json(document(found, targets, facts, notes), directory / "replay.json")
    text = page(found, targets, facts, notes)
    # The page comes last: once it exists, so does the file that it links to.
    replace_file(directory / "replay.html", lambda path: _write(path, text))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def document(
    found: Replay, targets: np.ndarray | None, facts: Mapping[str, str], notes: Sequence[str]
) -> dict[str, Any]:
    """The replay as plain values."""
    plan, outcomes = found.plan, found.outcomes
    names = [model.name for model in plan.models]
    series = plan.models[0].panel.series
    begin, middle, end = plan.bounds
    by_series = outcomes.of_series(plan.prices)
    services = []
    guards = [outcomes.withdrawn.get(number) for number in range(len(names))]
    for row, (workload, metric) in enumerate(series):
        own = found.advice.series.get(row)
        saved = found.saving_of(row)
        rows = by_series[by_series["series"] == row].drop(columns="series")
        services.append(
            {
                "workload": workload,
                "metric": metric,
                "capacity": float(plan.capacity[row]),
                "utilization_at_target": float(plan.share[row]),
                "change": changes(found, targets, row),
                "own_best": None if own is None else _choice(own, names),
                "saving": _skill(saved.value, saved.low, saved.high),
                "guard": [one and one.only(row).as_dict() for one in guards],
                "drivers": _records(rows),
            }
        )
    drivers = outcomes.of_drivers(plan.prices)
    drivers["worst_day"] = [day_words(day) for day in drivers["worst_day"]]
    return {
        "kforecast": __version__,
        "facts": dict(facts),
        "notes": list(notes),
        "older_part": [begin, middle],
        "newest_part": [middle, end],
        "recommended": _choice(found.advice.fleet, names)
        | {
            "limits_kept": found.advice.kept,
            "driver": outcomes.drivers[found.chosen].name,
            "saving": _skill(found.saving.value, found.saving.low, found.saving.high),
            "words": recommendation(found, targets),
        },
        "searched_services": found.searched,
        "guard": [{"artifact": name} | one.as_dict() for name, one in zip(names, guards, strict=True) if one],
        "drivers": _records(drivers),
        "worst_days": [_trace(found, number, trace) for number, trace in sorted(outcomes.worst.items())],
        "series": services,
    }


def _choice(choice: Choice, names: Sequence[str]) -> dict[str, Any]:
    forecast = choice.artifact is not None
    return {
        "setting": setting_words(choice, names),
        "artifact": None if choice.artifact is None else names[choice.artifact],
        "quantile": choice.question.level if forecast else None,
        "window": choice.question.window if forecast else None,
        "target_factor": choice.target,
        "floor_quantile": choice.floor,
    }


def _skill(value: float, low: float, high: float) -> dict[str, float | None]:
    return {name: _plain(one) for name, one in (("value", value), ("low", low), ("high", high))}


def _trace(found: Replay, number: int, trace: Trace) -> dict[str, Any]:
    workload, metric = found.plan.models[0].panel.series[trace.series]
    return {
        "driver": found.outcomes.drivers[number].name,
        "day": day_words(trace.day),
        "workload": workload,
        "metric": metric,
        "cost": trace.cost,
    }


def _records(frame: Any) -> list[dict[str, Any]]:
    return [{str(name): _plain(value) for name, value in row.items()} for row in frame.to_dict("records")]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def page(found: Replay, targets: np.ndarray | None, facts: Mapping[str, str], notes: Sequence[str]) -> str:
    """The page as self-contained HTML."""
    plan, outcomes = found.plan, found.outcomes
    columns = cells(outcomes.of_drivers(plan.prices))
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    sure = found.saving.low > 0
    tone = "good" if sure else "bad" if found.saving.high < 0 else "unsure"
    worst = []
    for number, trace in sorted(outcomes.worst.items()):
        name, said = outcomes.drivers[number].name, _trace(found, number, trace)
        caption = (
            f"{name}: {said['day']}, {said['workload']} {said['metric']}, cost {trace.cost:,.1f}. Load and "
            "the capacity of the pods that serve, in pods; red: load above the capacity."
        )
        svg = Markup(inline_svg(worst_day(trace), f"worst-{number}", f"Worst day of {name}"))
        worst.append({"svg": svg, "caption": caption})
    return template("replay.html").render(
        title=facts["artifact"],
        under=f"{services_words(len(plan.capacity))}, {moment_words(plan.bounds[1])} to "
        f"{moment_words(plan.bounds[2])} UTC",
        words=recommendation(found, targets),
        tone=tone,
        notes=notes,
        heads=list(columns)[1:],
        rows=rows,
        chosen=found.chosen,
        search=search_words(found),
        guard=guard_words(found),
        worst=worst,
        series=_series(found),
        shown=_MOST_ROWS,
        definitions=_DEFINITIONS,
        facts=dict(facts) | {"kforecast": __version__},
    )


def _series(found: Replay) -> list[dict[str, Any]]:
    """The services with the largest cost today: today's outcome, and the recommended setting's."""
    plan = found.plan
    frame = found.outcomes.of_series(plan.prices)
    names = [driver.name for driver in found.outcomes.drivers]
    before = frame[frame["driver"] == names[0]].set_index("series")
    after = frame[frame["driver"] == names[found.chosen]].set_index("series")
    rows = []
    for row in before["cost"].sort_values(ascending=False, kind="stable").index[:_MOST_ROWS]:
        own, saved = found.advice.series.get(int(row)), found.saving_of(int(row))
        interval = f"{saved.low:+.0%} to {saved.high:+.0%}" if math.isfinite(saved.low) else "–"
        rows.append(
            {
                "name": " ".join(plan.models[0].panel.series[int(row)]),
                "cells": [
                    f"{before['unserved_share'][row]:.3%}",
                    f"{after['unserved_share'][row]:.3%}",
                    f"{before['replica_hours'][row]:,.0f}",
                    f"{after['replica_hours'][row]:,.0f}",
                    f"{saved.value:+.0%}" if math.isfinite(saved.value) else "–",
                    interval,
                ],
                "own": "" if own is None else setting_words(own, [model.name for model in plan.models]),
            }
        )
    return rows


def worst_day(trace: Trace) -> Figure:
    """Load and capacity over a day."""
    with style():
        figure, axes = canvas(FULL, 2.1, margins=Margins(top=0.34, bottom=0.34))
        axis = axes[0, 0]
        minutes = np.arange(len(trace.load)) * _MINUTE + trace.day * 86_400
        time = minutes.astype("datetime64[s]")
        line(
            axis,
            time,
            trace.capacity.astype(np.float64),
            "capacity of the pods that serve",
            Stroke(MODEL, 1.2),
        )
        line(axis, time, trace.load.astype(np.float64), "load", Stroke(BASELINE, 0.9))
        short = np.nan_to_num(trace.load) > np.nan_to_num(trace.capacity)
        axis.fill_between(time, trace.capacity, trace.load, where=short.tolist(), color=BAD, lw=0, alpha=0.8)
        from_zero(axis, largest(trace.load, trace.capacity))
        date_axis(axis, time[0], time[-1] + np.timedelta64(_MINUTE, "s"))
        axis.set_ylabel("pods")
        legend(figure, axis)
    return figure
