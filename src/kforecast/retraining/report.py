"""The history of a champion: a table on the console, and a page with a figure."""

from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from kforecast.console import short_path, table
from kforecast.evaluation.champion import DRIFTED
from kforecast.files.output import replace_file
from kforecast.pages.drawing import (
    BASELINE,
    FULL,
    INK,
    LINE,
    MODEL,
    SECOND,
    Margins,
    Stroke,
    canvas,
    date_axis,
    from_zero,
    inline_svg,
    largest,
    legend,
    line,
    percent,
    style,
)
from kforecast.pages.template import template
from kforecast.retraining.store import Cycle, Store

PAGE = "report.html"
_NEWEST = 10
_HEADS = ("candidate", "its WAPE", "champion's WAPE", "skill", "interval", "drift", "champion then")


def publish(store: Store) -> Path:
    """Write the page; return its path.

    Raises
    ------
    OutputError
        When the file system refuses.
    """
    cycles = store.state.cycles
    figure = _figure(cycles)
    tone, verdict = _verdict(store)
    text = template("champion.html").render(
        title=store.root.resolve().name,
        tone=tone,
        verdict=verdict,
        # The figure holds only texts of our own, so nothing is left to escape.
        figure="" if figure is None else Markup(inline_svg(figure, "cycles", _label(cycles))),
        heads=_HEADS,
        rows=[
            {
                "time": _time(cycle),
                "cells": [cell or "–" for cell in _cells(cycle)],
                "decision": cycle.decision,
                # If there is an interval, the numbers already give the reason.
                "reason": "" if cycle.low is not None else cycle.reason,
                "changed": cycle.decision in ("first", "promoted", "rolled back"),
            }
            for cycle in cycles
        ],
        former=", ".join(map(str, store.state.former)) or "none yet",
    )

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8", newline="\n")

    replace_file(store.root / PAGE, write)
    return store.root / PAGE


def summary(store: Store) -> str:
    """The newest cycles and the serving version, for the console."""
    cycles = store.state.cycles[-_NEWEST:]
    cells = list(zip(*map(_cells, cycles), strict=True))
    columns = {
        "decided (UTC)": [_time(cycle) for cycle in cycles],
        **dict(zip(_HEADS, map(list, cells), strict=True)),
        "decision": [cycle.decision for cycle in cycles],
    }
    shown = table(
        f"Cycles of {store.root}",
        columns,
        left=("decided (UTC)", "decision"),
        spare=("interval", "champion then", "drift", "its WAPE"),
    )
    lines = [shown, _verdict(store)[1]]
    if store.champion is not None:
        lines.append(f"  serves  {short_path(store.champion)}")
    return "\n".join([*lines, f"  report  {short_path(store.root / PAGE)}"])


def _verdict(store: Store) -> tuple[str, str]:
    """Tone and words: which version serves, and whether it should."""
    state, newest = store.state, store.state.cycles[-1]
    if state.champion is None:
        return "bad", f"No champion yet. {_sentence(newest.reason)}"
    tone, words = _decided(f"Version {state.champion}", newest)
    serves = newest.champion_wape if newest.decision == "kept" else newest.candidate_wape
    best = newest.baseline_wape
    if serves is not None and best is not None and serves > best:
        return "bad", (
            f"{words} Do not scale on it for now: its error on the newest span, {percent(serves)}, is higher "
            f"than that of the best baseline, {percent(best)}."
        )
    return tone, words


def _decided(name: str, newest: Cycle) -> tuple[str, str]:
    """Tone and words of the newest decision; ``name`` is the champion's."""
    if newest.decision == "first":
        return "good", f"{name} is the first champion."
    if newest.decision == "promoted":
        gain = "" if newest.skill is None else percent(newest.skill)
        return "good", (
            f"{name} is the new champion: its error is {gain} lower than that of the former one; 95% "
            f"interval {_interval(newest)}."
        )
    if newest.decision == "rolled back":
        return "unsure", f"{name} is the champion again: {newest.reason}."
    refused = newest.reason.partition("): ")[2]  # after "gate not passed (gate.champion=...): "
    if newest.low is not None and newest.low > 0 and refused and not refused.startswith("the skill over"):
        return "bad", f"{name} stays the champion; the candidate must not serve: {refused}."
    if newest.drift is not None and newest.drift > DRIFTED:
        return "unsure", (
            f"{name} stays the champion, with drift: relative to the best baseline its error is "
            f"{percent(newest.drift, 0)} larger than when it was trained. The candidate, which knows newer "
            "data, is not better beyond doubt: this span is harder to forecast, or the change is too recent."
        )
    return "good", f"{name} stays the champion: the candidate is not better beyond doubt."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "." * (not text.endswith("."))


def _time(cycle: Cycle) -> str:
    return cycle.time[:16].replace("T", " ")


def _interval(cycle: Cycle) -> str:
    if cycle.low is None or cycle.high is None:
        return ""
    return f"{percent(cycle.low)} to {percent(cycle.high)}"


def _cells(cycle: Cycle) -> list[str]:
    """The table cells of a cycle, one for each of ``_HEADS``; empty where a value is missing."""
    return [
        "" if cycle.candidate is None else str(cycle.candidate),
        *(
            "" if value is None else percent(value, 2)
            for value in (cycle.candidate_wape, cycle.champion_wape, cycle.skill)
        ),
        _interval(cycle),
        "" if cycle.drift is None else f"{'+' if cycle.drift >= 0 else ''}{percent(cycle.drift, 0)}",
        "none" if cycle.champion is None else str(cycle.champion),
    ]


def _figure(cycles: tuple[Cycle, ...]) -> Figure | None:
    """The errors over the cycles; None unless at least two different spans were judged."""
    judged = [cycle for cycle in cycles if cycle.span_end is not None and cycle.candidate_wape is not None]
    if len({cycle.span_end for cycle in judged}) < 2:
        return None

    def column(name: str) -> np.ndarray:
        return np.array([getattr(cycle, name) for cycle in judged], dtype=np.float64)

    time = column("span_end").astype("datetime64[s]")
    candidate, champion, baseline = map(column, ("candidate_wape", "champion_wape", "baseline_wape"))
    served = np.array([cycle.decision in ("first", "promoted") for cycle in judged])
    with style():
        figure, axes = canvas(FULL, 3.0, margins=Margins(bottom=0.4 + LINE))
        axis = axes[0, 0]
        line(axis, time, baseline, "best baseline", Stroke(BASELINE, marker=True))
        line(axis, time, champion, "champion so far", Stroke(SECOND, 1.6, marker=True))
        line(axis, time, candidate, "candidate", Stroke(MODEL, 1.6, marker=True))
        axis.plot(
            time[served], candidate[served], "o", ms=9, mfc="none", mec=INK, mew=1.2, label="becomes champion"
        )
        axis.set_title("WAPE on the newest span of each cycle")
        reach = max((time[-1] - time[0]) * 0.03, np.timedelta64(3600, "s"))
        from_zero(axis, largest(candidate, champion), largest(baseline), cut=3.0, form="percent")
        date_axis(axis, time[0] - reach, time[-1] + reach)
        legend(figure, axis, below=1, columns=4)
    return figure


def _label(cycles: tuple[Cycle, ...]) -> str:
    return f"Lines of the WAPE of candidate, champion and best baseline over {len(cycles)} cycles"
