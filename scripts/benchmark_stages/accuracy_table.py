"""Output of scripts/benchmark_accuracy.py: console tables, JSON and CSV."""

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmark_stages.accuracy_facts import COVERAGE, ORIGINAL, Peers, RunFacts, TaskFacts, mean, summary


def report(tasks: Sequence[TaskFacts], runs: Sequence[RunFacts], peers: Peers) -> list[str]:
    """Return the lines for the console: a table of the tasks, then a summary of all of them."""
    several = len({run.seed for run in runs}) > 1
    return [*_table([_cells(task, several) for task in tasks]), "", *_said(summary(tasks, runs, peers))]


def _cells(task: TaskFacts, several: bool) -> dict[str, str]:
    made = task.figures
    return {
        "task": task.task,
        "/ original": f"NMAE {mean(task.nmae.values()):.3f}" if task.ratio is None else f"{task.ratio:.3f}",
        "spread": f"{task.spread:.3f}" if several else "-",
        "train s": f"{made.seconds:.1f}",
        "fit s": _said_or_dash(made.fit_seconds, ".1f"),
        "epochs": f"{made.epochs:.0f}",
        "bytes": f"{made.artifact_bytes:,.0f}",
        "best naive": made.naive,
        "/ naive": f"{made.naive_ratio:.3f}",
        "in 90 %": _said_or_dash(made.coverage, ".1%"),
        "width": _said_or_dash(made.width, ".3f"),
        "cost": _said_or_dash(made.cost, ",.0f"),
        "reactive": f"{made.cost_reactive:,.0f}",
        "naive": f"{made.cost_naive:,.0f}",
    }


def _table(rows: Sequence[dict[str, str]]) -> list[str]:
    """Align the columns: words to the left, figures to the right."""
    lines = []
    for row in [{head: head for head in rows[0]}, *rows]:
        cells = []
        for head, text in row.items():
            width = max(len(head), *(len(other[head]) for other in rows))
            cells.append(text.ljust(width) if head in ("task", "best naive") else text.rjust(width))
        lines.append("  ".join(cells).rstrip())
    return lines


def _said(found: dict[str, Any]) -> list[str]:
    count, rival = found["tasks"], found["of_rival"]
    lines = []
    if found["tasks_with_original"]:
        by_seed = ", ".join(
            f"seed {seed}: {ratio:.3f}" for seed, ratio in found["of_original_by_seed"].items() if ratio
        )
        over = f"geometric mean over {_counted(found['tasks_with_original'], 'task')}"
        lines.append(f"error / the original's: {found['of_original']:.3f} ({by_seed}; {over})")
    if rival["tasks"]:
        better = f"better on {rival['better']} of {_counted(rival['tasks'], 'task')}"
        lines.append(f"error / that of {rival['name']}: {rival['ratio']:.3f} (geometric mean), {better}")
    for peer, beside in found["neural_peers"].items():
        unbeaten = ", ".join(f"{task} ({ratio:.3f})" for task, ratio in beside["not_beaten"].items())
        beaten = f"beaten on {'all ' if beside['tasks'] > 1 else ''}{_counted(beside['tasks'], 'task')}"
        lines.append(
            f"{peer}: "
            + (f"not beaten on {unbeaten}, of {_counted(beside['tasks'], 'task')}" if unbeaten else beaten)
        )
    seconds, worst = found["seconds"], found["worst_of_naive"]
    lines += [
        f"training command: median {seconds['median']:.0f} s, "
        f"longest {seconds['worst']:.0f} s ({seconds['worst_task']})",
        f"90 % interval holds {100 * COVERAGE[0]:.0f} to {100 * COVERAGE[1]:.0f} % of the targets "
        f"on {found['coverage_right']} of {_counted(count, 'task')}",
        f"capacity costs less than reactive and every naive forecast on {found['cheapest']} of "
        f"{_counted(count, 'task')}",
        f"worst error / best naive forecast's: {worst['ratio']:.3f} ({worst['task']}, {worst['naive']})",
    ]
    return lines


def write(
    out: Path,
    name: str,
    overrides: Sequence[str],
    tasks: Sequence[TaskFacts],
    runs: Sequence[RunFacts],
    peers: Peers,
) -> None:
    """Write the same as ``accuracy.json`` and, a row per task, as ``accuracy.csv``."""
    document = {
        "name": name,
        "overrides": list(overrides),
        "summary": summary(tasks, runs, peers),
        "tasks": [asdict(task) | {"ratio": task.ratio, "spread": task.spread} for task in tasks],
        "runs": [asdict(run) for run in runs],
    }
    (out / "accuracy.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    seeds = dict.fromkeys(run.seed for run in runs)
    rows = []
    for task in tasks:
        row: dict[str, object] = {"task": task.task, "ratio": task.ratio, "spread": task.spread}
        row |= {f"ratio seed {seed}": task.ratios.get(seed) for seed in seeds}
        row |= {f"nmae seed {seed}": task.nmae.get(seed) for seed in seeds}
        row |= asdict(task.figures)
        rows.append(
            row | {f"ratio to {peer}": task.peers.get(peer) for peer in peers.scores if peer != ORIGINAL}
        )
    with (out / "accuracy.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def _said_or_dash(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
