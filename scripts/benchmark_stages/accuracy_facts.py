"""Results of scripts/benchmark_accuracy.py: of a run, of a task over its seeds, and of all tasks."""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

ORIGINAL = "original"
RIVAL = "LightGBM, long lags"
# Acceptable coverage of the 90 % interval, given the noise of a test span.
COVERAGE = (0.86, 0.94)

Score = dict[str, Any]


@dataclass(frozen=True)
class Figures:
    """Figures of one training and its evaluation, or means over several.

    Attributes
    ----------
    seconds, fit_seconds:
        Seconds of the whole command, and of the training as the run reports it, without the refit.
    naive, naive_ratio:
        The best naive forecast by mean absolute error, and the model's error divided by its error.
    coverage, width:
        Share of the targets inside the 90 % interval, and its mean width divided by the mean absolute actual
        value; means over the series. None without intervals.
    cost, cost_reactive, cost_naive:
        Cost of the capacity ordered for the model's quantile, for the newest value and by the cheapest naive
        forecast.
    """

    seconds: float
    fit_seconds: float | None
    epochs: float
    artifact_bytes: float
    naive: str
    naive_ratio: float
    coverage: float | None
    width: float | None
    cost: float | None
    cost_reactive: float
    cost_naive: float

    @property
    def cheapest(self) -> bool:
        """Whether the model's orders cost less than the reactive rule's and every naive forecast's."""
        return self.cost is not None and self.cost < min(self.cost_reactive, self.cost_naive)

    @property
    def covers(self) -> bool:
        """Whether the coverage of the interval is close to its nominal level."""
        return self.coverage is not None and COVERAGE[0] <= self.coverage <= COVERAGE[1]


@dataclass(frozen=True)
class RunFacts:
    """One training and its evaluation."""

    task: str
    seed: int
    figures: Figures


@dataclass(frozen=True)
class TaskFacts:
    """Results of a task over its seeds.

    Attributes
    ----------
    nmae:
        The protocol's score, by seed.
    ratios:
        The error divided by the original's, by seed; empty if the original's is unknown.
    peers:
        The error divided by the peer's, by peer; mean over seeds.
    figures:
        Means over seeds.
    """

    task: str
    nmae: dict[int, float]
    ratios: dict[int, float]
    peers: dict[str, float]
    figures: Figures

    @property
    def ratio(self) -> float | None:
        """Mean over the seeds of the error divided by the original's."""
        return mean(self.ratios.values())

    @property
    def spread(self) -> float:
        """Largest minus smallest ratio over the seeds; without an original, of the protocol's score."""
        scores = (self.ratios or self.nmae).values()
        return max(scores) - min(scores)


class Peers(NamedTuple):
    """The scores of other forecasters by name and task, and the protocol's comparison of two scores."""

    scores: dict[str, dict[str, Score]]
    ratio: Callable[[Score, Score], float]

    @classmethod
    def read(cls, file: Path, ratio: Callable[[Score, Score], float]) -> "Peers":
        return cls(json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}, ratio)

    @property
    def neural(self) -> list[str]:
        """The trained networks among the peers, without the trees."""
        return [
            name
            for name, by_task in self.scores.items()
            if not name.startswith("LightGBM")
            and any(score.get("train_seconds", 0) > 0 for score in by_task.values())
        ]


def figures_of_run(folder: Path, seconds: float, fit_seconds: float | None) -> Figures:
    """Read the figures from a run's folder."""
    result = json.loads((folder / "run" / "result.json").read_text(encoding="utf-8"))
    found = json.loads((folder / "evaluation" / "report.json").read_text(encoding="utf-8"))
    naives = found["baselines"]
    naive = min(naives, key=lambda name: naives[name]["mae"])
    costs = {name: policy["cost"] for name, policy in found["capacity"]["policies"].items()}
    coverage = found["overall"].get("coverage_90")
    return Figures(
        seconds=seconds,
        fit_seconds=fit_seconds,
        epochs=result["epochs"],
        artifact_bytes=sum(file.stat().st_size for file in (folder / "model").rglob("*") if file.is_file()),
        naive=naive,
        naive_ratio=found["overall"]["mae"] / naives[naive]["mae"],
        coverage=coverage,
        width=None if coverage is None else _relative_width(folder / "evaluation" / "forecasts.csv"),
        cost=next((cost for name, cost in costs.items() if " at quantile " in name), None),
        cost_reactive=costs["reactive"],
        cost_naive=min(costs[name] for name in naives),
    )


def _relative_width(forecasts: Path) -> float:
    import pandas as pd

    frame = pd.read_csv(forecasts, usecols=["workload", "metric", "actual", "q0.05", "q0.95"])
    frame = frame.dropna(subset="actual")
    frame = frame.assign(width=frame["q0.95"] - frame["q0.05"], level=frame["actual"].abs())
    means = frame.groupby(["workload", "metric"])[["width", "level"]].mean()
    means = means[means["level"] > 0]
    return float((means["width"] / means["level"]).mean())


def task_facts(
    runs: Sequence[RunFacts], saved: dict[str, dict[str, Score]], name: str, peers: Peers
) -> list[TaskFacts]:
    """Summarise each task over its seeds, in the order of the runs; scores are named ``NAME seed SEED``."""
    by_task: dict[str, list[RunFacts]] = {}
    for run in runs:
        by_task.setdefault(run.task, []).append(run)
    found = []
    for task, some in by_task.items():
        scores = {run.seed: saved[f"{name} seed {run.seed}"][task] for run in some}
        beside = {
            peer: {seed: peers.ratio(score, by_task[task]) for seed, score in scores.items()}
            for peer, by_task in peers.scores.items()
            if task in by_task
        }
        found.append(
            TaskFacts(
                task=task,
                nmae={seed: score["NMAE"] for seed, score in scores.items()},
                ratios=beside.get(ORIGINAL, {}),
                peers={peer: statistics.mean(by_seed.values()) for peer, by_seed in beside.items()},
                figures=_means([run.figures for run in some]),
            )
        )
    return found


def _means(figures: Sequence[Figures]) -> Figures:
    names = [field.name for field in fields(Figures) if field.name != "naive"]
    means: dict[str, Any] = {name: mean(getattr(some, name) for some in figures) for name in names}
    return Figures(naive=figures[0].naive, **means)


def summary(tasks: Sequence[TaskFacts], runs: Sequence[RunFacts], peers: Peers) -> dict[str, Any]:
    """Summarise all tasks, as plain values."""
    seeds = list(dict.fromkeys(run.seed for run in runs))
    beside = {
        peer: {task.task: task.peers[peer] for task in tasks if peer in task.peers} for peer in peers.scores
    }
    rival = beside.get(RIVAL, {})
    slowest = max(runs, key=lambda run: run.figures.seconds)
    worst = max(tasks, key=lambda task: task.figures.naive_ratio)
    return {
        "tasks": len(tasks),
        "tasks_with_original": sum(task.ratio is not None for task in tasks),
        "of_original": _geometric(task.ratio for task in tasks if task.ratio is not None),
        "of_original_by_seed": {
            seed: _geometric(task.ratios[seed] for task in tasks if seed in task.ratios) for seed in seeds
        },
        "of_rival": {
            "name": RIVAL,
            "ratio": _geometric(rival.values()),
            "better": sum(ratio < 1 for ratio in rival.values()),
            "tasks": len(rival),
        },
        "neural_peers": {
            peer: {
                "tasks": len(beside[peer]),
                "not_beaten": {task: ratio for task, ratio in beside[peer].items() if ratio >= 1},
            }
            for peer in peers.neural
            if beside[peer]
        },
        "seconds": {
            "median": statistics.median(run.figures.seconds for run in runs),
            "worst": slowest.figures.seconds,
            "worst_task": slowest.task,
        },
        "coverage_right": sum(task.figures.covers for task in tasks),
        "cheapest": sum(task.figures.cheapest for task in tasks),
        "worst_of_naive": {
            "ratio": worst.figures.naive_ratio,
            "task": worst.task,
            "naive": worst.figures.naive,
        },
    }


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the known values."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _geometric(values: Iterable[float]) -> float | None:
    known = list(values)
    return math.exp(statistics.mean(map(math.log, known))) if known else None
