"""Output of scripts/benchmark_accuracy.py: console tables, JSON and CSV."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark_stages.accuracy_drops import DropFacts
from benchmark_stages.accuracy_facts import (
    COST_RATIO,
    COVERAGE,
    LARGEST_NAIVE_RATIO,
    LEAST_COVERAGE,
    MOST_SERIES,
    NAIVE_RATIO,
    ORIGINAL,
    RIVAL,
    UNHARMED,
    Peers,
    RunFacts,
    TaskFacts,
    mean,
    summary,
)

_WORST = 10
_WORDS = ("task", "best naive", "series")


def report(tasks: Sequence[TaskFacts], runs: Sequence[RunFacts], peers: Peers) -> list[str]:
    """Return the lines for the console: tables of the tasks and of the worst series, then a summary."""
    several = len({run.seed for run in runs}) > 1
    lines = [*_table([_cells(task, several) for task in tasks]), ""]
    if worst := _worst_series(tasks):
        lines += ["the series with the largest errors against their best naive forecasts", *_table(worst), ""]
    if outages := [_outage_cells(task) for task in tasks if task.outages]:
        lines += ["forecast after an outage of six hours / forecast without it", *_table(outages), ""]
    return [*lines, *_said(summary(tasks, runs, peers))]


def rival_lines(name: str, tasks: Sequence[TaskFacts], runs: Sequence[RunFacts], peers: Peers) -> list[str]:
    """Return the lines on another recipe of this script."""
    rows = [
        {
            "task": task.task,
            "error": _said_or_dash(task.rival.error, ".3f"),
            "width": _said_or_dash(task.rival.width, ".3f"),
            "width / split conformal": _said_or_dash(task.rival.conformal_width, ".3f"),
        }
        for task in tasks
        if task.rival is not None
    ]
    if not rows:
        return [f"{name}: none of these tasks has been run under this name"]
    found = summary(tasks, runs, peers)["of_named_rival"]
    over = f"geometric mean over {_counted(len(rows), 'task')}"
    means = ", ".join(
        f"{what} {_said_or_dash(found[key], '.3f')}"
        for key, what in (
            ("error", "error"),
            ("width", "width"),
            ("conformal_width", "width against split conformal intervals"),
        )
    )
    return [
        f"error, and width of the 90 % interval at equal coverage, / those of {name}",
        *_table(rows),
        f"/ {name}: {means} ({over})",
    ]


def drop_lines(drops: Sequence[DropFacts]) -> list[str]:
    """Return the line on traffic with a nightly pause; none if it was not measured."""
    if not drops:
        return []
    by_seed = ", ".join(f"seed {one.seed}: {one.paused:.4f}" for one in drops)
    paused, elsewhere, of_rival = (
        mean(values)
        for values in zip(*((one.paused, one.elsewhere, one.of_rival) for one in drops), strict=True)
    )
    beside = "" if of_rival is None else f", {of_rival:.3f} of the other recipe's"
    return [
        f"recurring drops: error in the hours of a nightly pause {paused:.4f} of the mean traffic "
        f"({by_seed}){beside}; in the other hours {elsewhere:.4f}"
    ]


def _cells(task: TaskFacts, several: bool) -> dict[str, str]:
    made, worst, least = task.figures, task.worst_series, task.least_covered
    low = [one.ratio <= NAIVE_RATIO for one in task.series]
    return {
        "task": task.task,
        "/ original": f"NMAE {mean(task.nmae.values()):.3f}" if task.ratio is None else f"{task.ratio:.3f}",
        "spread": f"{task.spread:.3f}" if several else "-",
        "/ aligned": _said_or_dash(task.peers.get(RIVAL), ".3f"),
        "peers": f"{len(task.peers) - len(task.unbeaten)} of {len(task.peers)}",
        "train s": f"{made.seconds:.1f}",
        "fit s": _said_or_dash(made.fit_seconds, ".1f"),
        "epochs": f"{made.epochs:.0f}",
        "bytes": f"{made.artifact_bytes:,.0f}",
        "best naive": made.naive,
        "/ naive": f"{made.naive_ratio:.3f}",
        f"<= {NAIVE_RATIO:g}": f"{sum(low)} of {len(low)}",
        "largest": _said_or_dash(worst and worst.ratio, ".3f"),
        "in 90 %": _said_or_dash(made.coverage, ".1%"),
        "least": _said_or_dash(least and least.coverage, ".1%"),
        "width": _said_or_dash(made.width, ".3f"),
        "cost / naive": _said_or_dash(made.cost_ratio, ".3f"),
        "cost": _said_or_dash(made.cost, ",.0f"),
        "reactive": _said_or_dash(made.cost_reactive, ",.0f"),
    }


def _worst_series(tasks: Sequence[TaskFacts]) -> list[dict[str, str]]:
    found = [(task.task, series) for task in tasks for series in task.series]
    found.sort(key=lambda each: -each[1].ratio)
    return [
        {
            "task": task,
            "series": f"{one.workload} {one.metric}",
            "best naive": one.naive,
            "/ naive": f"{one.ratio:.3f}",
            "in 90 %": _said_or_dash(one.coverage, ".1%"),
        }
        for task, one in found[:_WORST]
    ]


def _outage_cells(task: TaskFacts) -> dict[str, str]:
    cells = {case: f"{each['ratio']:.3f}" for case, each in task.outages.items()}
    return {"task": task.task, **cells}


def _table(rows: Sequence[dict[str, str]]) -> list[str]:
    """Align the columns: words to the left, figures to the right."""
    lines = []
    for row in [{head: head for head in rows[0]}, *rows]:
        cells = []
        for head, text in row.items():
            width = max(len(head), *(len(other[head]) for other in rows))
            cells.append(text.ljust(width) if head in _WORDS else text.rjust(width))
        lines.append("  ".join(cells).rstrip())
    return lines


def _said(found: dict[str, Any]) -> list[str]:
    count, seconds, size = found["tasks"], found["seconds"], found["artifact_bytes"]
    lines = [
        *_said_of_peers(found),
        *_said_of_series(found["series"]),
        f"90 % interval holds {100 * COVERAGE[0]:.0f} to {100 * COVERAGE[1]:.0f} % of the targets "
        f"on {found['coverage_right']} of {_counted(count, 'task')}",
    ]
    if least := found["least_covered"]:
        where = f"{least['task']}, {least['series']}"
        lines.append(
            f"its least coverage of a series: {least['coverage']:.1%} ({where}); asked: {LEAST_COVERAGE:.0%}"
        )
    lines.append(
        f"max(reactive, forecast) costs less than reactive and the simple rules on {found['cheapest']} of "
        f"{_counted(count, 'task')}"
    )
    if (cost := found["cost_of_naive"])["tasks"]:
        low = f"{COST_RATIO:g} or less on {cost['low']} of {_counted(cost['tasks'], 'task')}"
        span = f"{cost['least']:.3f} to {cost['worst']:.3f} ({cost['worst_task']})"
        lines.append(f"its cost / cheaper simple rule's: {span}, {low}")
    lines += [
        f"training command: median {seconds['median']:.0f} s, "
        f"longest {seconds['worst']:.0f} s ({seconds['worst_task']})",
        f"artifact: {size['worst']:,.0f} bytes at most ({size['worst_task']})",
    ]
    if outages := found["outages"]:
        lines.append(
            f"after an outage, {UNHARMED[0]:g} to {UNHARMED[1]:g} of the forecast without it in all cases on "
            f"{outages['unharmed']} of {_counted(outages['tasks'], 'task')}; "
            f"worst: {outages['worst']:.3f} ({outages['worst_task']}, {outages['worst_case']})"
        )
    return lines


def _said_of_peers(found: dict[str, Any]) -> list[str]:
    rival, peers, lines = found["of_rival"], found["peers"], []
    if found["tasks_with_original"]:
        by_seed = ", ".join(
            f"seed {seed}: {ratio:.3f}" for seed, ratio in found["of_original_by_seed"].items() if ratio
        )
        over = f"geometric mean over {_counted(found['tasks_with_original'], 'task')}"
        lines.append(f"error / the original's: {found['of_original']:.3f} ({by_seed}; {over})")
    if rival["tasks"]:
        better = f"better on {rival['better']} of {_counted(rival['tasks'], 'task')}"
        lines.append(f"error / that of {rival['name']}: {rival['ratio']:.3f} (geometric mean), {better}")
    if peers["tasks"]:
        known = _counted(peers["tasks"], "task")
        lines.append(f"better than every peer on {peers['better_than_all']} of {known}")
    for peer, ratios in peers["not_beaten"].items():
        lines.append(f"not beaten: {peer} on {', '.join(f'{task} ({r:.3f})' for task, r in ratios.items())}")
    return lines


def _said_of_series(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    low = f"{NAIVE_RATIO:g} or less for {found['low_share']:.1%} (asked: {MOST_SERIES:.0%})"
    where = f"{found['worst_task']}, {found['worst_series']}, {found['worst_naive']}"
    return [
        f"error / best naive forecast's, of each of {found['count']} series: {low}",
        f"its largest: {found['worst']:.3f} ({where}); asked: {LARGEST_NAIVE_RATIO:g}",
    ]


def write(
    out: Path,
    name: str,
    overrides: Sequence[str],
    tasks: Sequence[TaskFacts],
    runs: Sequence[RunFacts],
    peers: Peers,
    drops: Sequence[DropFacts] = (),
) -> None:
    """Write ``accuracy.json``, and with a row per task and per series ``accuracy.csv`` and ``series.csv``."""
    document = {
        "name": name,
        "overrides": list(overrides),
        "summary": summary(tasks, runs, peers),
        "tasks": [asdict(task) | {"ratio": task.ratio, "spread": task.spread} for task in tasks],
        "runs": [asdict(run) for run in runs],
        "recurring_drops": [one._asdict() for one in drops],
    }
    (out / "accuracy.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    seeds = dict.fromkeys(run.seed for run in runs)
    cases = dict.fromkeys(case for task in tasks for case in task.outages)
    rows = []
    for task in tasks:
        row: dict[str, object] = {"task": task.task, "ratio": task.ratio, "spread": task.spread}
        row |= {f"ratio seed {seed}": task.ratios.get(seed) for seed in seeds}
        row |= {f"nmae seed {seed}": task.nmae.get(seed) for seed in seeds}
        row |= asdict(task.figures) | {"cost_ratio": task.figures.cost_ratio}
        row |= {f"outage {case}": task.outages[case]["ratio"] if task.outages else None for case in cases}
        rows.append(
            row | {f"ratio to {peer}": task.peers.get(peer) for peer in peers.scores if peer != ORIGINAL}
        )
    _write_csv(out / "accuracy.csv", rows)
    series = [(task.task, one) for task in tasks for one in task.series]
    if series:
        _write_csv(
            out / "series.csv", [{"task": task} | asdict(one) | {"ratio": one.ratio} for task, one in series]
        )


def _write_csv(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as opened:
        table = csv.DictWriter(opened, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def _said_or_dash(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
