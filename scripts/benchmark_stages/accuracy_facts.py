"""Results of scripts/benchmark_accuracy.py: of a run, of a task over its seeds, and of all tasks."""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

ORIGINAL = "original"
RIVAL = "LightGBM, aligned lags"
# Coverage asked of the 90 % interval: mean over the series of a task, and of each series.
COVERAGE, LEAST_COVERAGE = (0.88, 0.92), 0.85
# Error asked of a series, divided by that of its best naive forecast: of most series, and of all.
NAIVE_RATIO, MOST_SERIES, LARGEST_NAIVE_RATIO = 1.05, 0.95, 1.15
# Cost with the forecast asked, divided by that of the cheaper rule that needs no training.
COST_RATIO = 0.85
# Forecast after an outage in the history asked, divided by the forecast without it.
UNHARMED = (0.95, 1.05)
MODEL = "kforecast"
# Drivers of the simulated autoscaler: with the forecast, and those that need no training.
DRIVER, RULES = "max(reactive, forecast)", ("last week and yesterday", "schedule")

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
        Cost of an autoscaler that scales on the larger of the newest load and the forecast, on the newest
        load alone, and by the cheaper rule that needs no training (:data:`RULES`). None without a quantile or
        without simulated replicas.
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
    cost_reactive: float | None
    cost_naive: float | None

    @property
    def cost_ratio(self) -> float | None:
        """Cost with the model's forecast divided by that of the cheaper simple rule; None without one."""
        return self.cost / self.cost_naive if self.cost is not None and self.cost_naive else None

    @property
    def cheapest(self) -> bool:
        """Whether the model's forecast costs less than the reactive rule and both simple rules."""
        rivals = [cost for cost in (self.cost_reactive, self.cost_naive) if cost is not None]
        return self.cost is not None and self.cost < min(rivals, default=self.cost)

    @property
    def covers(self) -> bool:
        """Whether the coverage of the interval is close to its nominal level."""
        return self.coverage is not None and COVERAGE[0] <= self.coverage <= COVERAGE[1]


@dataclass(frozen=True)
class SeriesFacts:
    """The evaluation of one series.

    Attributes
    ----------
    mae:
        The model's mean absolute error.
    naive, naive_mae:
        The best naive forecast of this series, and its error.
    coverage:
        Share of the targets inside the 90 % interval; None without intervals.
    """

    workload: str
    metric: str
    mae: float
    naive: str
    naive_mae: float
    coverage: float | None

    @property
    def ratio(self) -> float:
        """The model's error divided by that of the best naive forecast; 1 where both are exact."""
        if self.naive_mae == 0:
            return 1.0 if self.mae == 0 else math.inf
        return self.mae / self.naive_mae


@dataclass(frozen=True)
class RivalFacts:
    """The model against another recipe of this script.

    Attributes
    ----------
    error:
        The protocol's ratio of the errors.
    width, conformal_width:
        The width of the 90 % interval at equal coverage, divided by that of the rival's own interval and of
        split conformal intervals around its forecasts (:mod:`benchmark_stages.accuracy_intervals`); None
        without intervals.
    """

    error: float | None
    width: float | None
    conformal_width: float | None


# Forecasts after an outage in the history, by case: ``ratio`` and ``off`` of accuracy_outages.py.
Outages = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class RunFacts:
    """One training and its evaluation; ``outages`` is empty if they were not measured."""

    task: str
    seed: int
    figures: Figures
    series: tuple[SeriesFacts, ...] = ()
    outages: Outages = field(default_factory=dict)
    rival: RivalFacts | None = None


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
    figures, series, outages, rival:
        Means over seeds.
    """

    task: str
    nmae: dict[int, float]
    ratios: dict[int, float]
    peers: dict[str, float]
    figures: Figures
    series: tuple[SeriesFacts, ...] = ()
    outages: Outages = field(default_factory=dict)
    rival: RivalFacts | None = None

    @property
    def unbeaten(self) -> dict[str, float]:
        """The peers that are not worse, with the error divided by theirs."""
        return {peer: ratio for peer, ratio in self.peers.items() if ratio >= 1}

    @property
    def worst_series(self) -> SeriesFacts | None:
        """The series with the largest error against its best naive forecast."""
        return max(self.series, key=lambda one: one.ratio, default=None)

    @property
    def least_covered(self) -> SeriesFacts | None:
        """The series of which the 90 % interval holds the smallest share."""
        known = [one for one in self.series if one.coverage is not None]
        return min(known, key=lambda one: one.coverage or 0.0, default=None)

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


def figures_of_run(folder: Path, seconds: float, fit_seconds: float | None) -> Figures:
    """Read the figures from a run's folder."""
    result = json.loads((folder / "run" / "result.json").read_text(encoding="utf-8"))
    found = json.loads((folder / "evaluation" / "report.json").read_text(encoding="utf-8"))
    naives = found["baselines"]
    naive = min(naives, key=lambda name: naives[name]["mae"])
    costs = {name: policy["cost"] for name, policy in found["capacity"]["policies"].items()}
    at_quantile = found["capacity"]["quantile"]["level"] is not None
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
        cost=costs.get(DRIVER) if at_quantile else None,
        cost_reactive=costs.get("reactive"),
        cost_naive=min((costs[name] for name in RULES if name in costs), default=None),
    )


def _relative_width(forecasts: Path) -> float:
    frame = pd.read_csv(forecasts, usecols=["workload", "metric", "actual", "q0.05", "q0.95"])
    frame = frame.dropna(subset="actual")
    frame = frame.assign(width=frame["q0.95"] - frame["q0.05"], level=frame["actual"].abs())
    means = frame.groupby(["workload", "metric"])[["width", "level"]].mean()
    means = means[means["level"] > 0]
    return float((means["width"] / means["level"]).mean())


def series_of_run(folder: Path) -> tuple[SeriesFacts, ...]:
    """Read the scores of each series from a run's folder."""
    scores = pd.read_csv(folder / "evaluation" / "scores.csv", dtype={"step": str})
    naives = json.loads((folder / "evaluation" / "report.json").read_text(encoding="utf-8"))["baselines"]
    scores = scores[(scores["step"] == "all") & (scores["workload"] != "*")].dropna(subset="mae")
    found = []
    for (workload, metric), own in scores.groupby(["workload", "metric"]):
        own = own.set_index("model")
        naive = own.loc[list(naives), "mae"].astype(float)
        covered = float(own.loc[MODEL].get("coverage_90", math.nan))
        found.append(
            SeriesFacts(
                workload=str(workload),
                metric=str(metric),
                mae=float(own.loc[MODEL, "mae"]),
                naive=str(naive.idxmin()),
                naive_mae=float(naive.min()),
                coverage=None if math.isnan(covered) else covered,
            )
        )
    return tuple(found)


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
                series=_mean_series([run.series for run in some]),
                outages=_mean_outages([run.outages for run in some if run.outages]),
                rival=_mean_rival([run.rival for run in some if run.rival is not None]),
            )
        )
    return found


def _means(figures: Sequence[Figures]) -> Figures:
    names = [field.name for field in fields(Figures) if field.name != "naive"]
    means: dict[str, Any] = {name: mean(getattr(some, name) for some in figures) for name in names}
    return Figures(naive=figures[0].naive, **means)


def _mean_series(runs: Sequence[Sequence[SeriesFacts]]) -> tuple[SeriesFacts, ...]:
    """The mean of each series over the runs, in which the naive forecasts are the same."""
    by_key: dict[tuple[str, str], list[SeriesFacts]] = {}
    for one in (series for run in runs for series in run):
        by_key.setdefault((one.workload, one.metric), []).append(one)
    return tuple(
        SeriesFacts(
            workload=workload,
            metric=metric,
            mae=statistics.mean(one.mae for one in some),
            naive=some[0].naive,
            naive_mae=statistics.mean(one.naive_mae for one in some),
            coverage=mean(one.coverage for one in some),
        )
        for (workload, metric), some in by_key.items()
    )


def _mean_outages(runs: Sequence[Outages]) -> Outages:
    return {
        case: {key: statistics.mean(run[case][key] for run in runs) for key in figures}
        for case, figures in (runs[0] if runs else {}).items()
    }


def _mean_rival(runs: Sequence[RivalFacts]) -> RivalFacts | None:
    if not runs:
        return None
    return RivalFacts(
        **{each.name: mean(getattr(run, each.name) for run in runs) for each in fields(RivalFacts)}
    )


def summary(tasks: Sequence[TaskFacts], runs: Sequence[RunFacts], peers: Peers) -> dict[str, Any]:
    """Summarise all tasks, as plain values."""
    seeds = list(dict.fromkeys(run.seed for run in runs))
    beside = {
        peer: {task.task: task.peers[peer] for task in tasks if peer in task.peers} for peer in peers.scores
    }
    rival = beside.get(RIVAL, {})
    slowest = max(runs, key=lambda run: run.figures.seconds)
    largest = max(runs, key=lambda run: run.figures.artifact_bytes)
    costs = {task.task: task.figures.cost_ratio for task in tasks if task.figures.cost_ratio is not None}
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
        "peers": {
            "tasks": sum(bool(task.peers) for task in tasks),
            "better_than_all": sum(bool(task.peers) and not task.unbeaten for task in tasks),
            "not_beaten": {
                peer: {task: ratio for task, ratio in by_task.items() if ratio >= 1}
                for peer, by_task in beside.items()
                if any(ratio >= 1 for ratio in by_task.values())
            },
        },
        "series": _series_summary(tasks),
        "seconds": {
            "median": statistics.median(run.figures.seconds for run in runs),
            "worst": slowest.figures.seconds,
            "worst_task": slowest.task,
        },
        "artifact_bytes": {"worst": largest.figures.artifact_bytes, "worst_task": largest.task},
        "coverage_right": sum(task.figures.covers for task in tasks),
        "least_covered": _least_covered(tasks),
        "cheapest": sum(task.figures.cheapest for task in tasks),
        "cost_of_naive": {
            "least": min(costs.values(), default=None),
            "worst": max(costs.values(), default=None),
            "worst_task": max(costs, key=lambda task: costs[task], default=None),
            "low": sum(ratio <= COST_RATIO for ratio in costs.values()),
            "tasks": len(costs),
        },
        "outages": _outages_summary(tasks),
        "of_named_rival": {
            name: _geometric(
                value for task in tasks if task.rival is not None and (value := getattr(task.rival, name))
            )
            for name in ("error", "width", "conformal_width")
        },
    }


def _series_summary(tasks: Sequence[TaskFacts]) -> dict[str, Any] | None:
    """Errors of all series of all tasks against their best naive forecasts; None without series."""
    worst = max(
        ((task.task, series) for task in tasks for series in task.series),
        key=lambda found: found[1].ratio,
        default=None,
    )
    if worst is None:
        return None
    ratios = [series.ratio for task in tasks for series in task.series]
    return {
        "count": len(ratios),
        "low_share": statistics.mean(ratio <= NAIVE_RATIO for ratio in ratios),
        "worst": worst[1].ratio,
        "worst_task": worst[0],
        "worst_series": f"{worst[1].workload} {worst[1].metric}",
        "worst_naive": worst[1].naive,
    }


def _least_covered(tasks: Sequence[TaskFacts]) -> dict[str, Any] | None:
    """The series of which the interval holds the smallest share; None without intervals."""
    found = [(task.task, series) for task in tasks if (series := task.least_covered) is not None]
    if not found:
        return None
    task, series = min(found, key=lambda one: one[1].coverage or 0.0)
    return {"coverage": series.coverage, "task": task, "series": f"{series.workload} {series.metric}"}


def _outages_summary(tasks: Sequence[TaskFacts]) -> dict[str, Any] | None:
    """How many tasks no outage harms, and the case in which one harms most; None where not measured."""
    measured = [task for task in tasks if task.outages]
    if not measured:
        return None
    task, case, ratio = max(
        ((task.task, case, each["ratio"]) for task in measured for case, each in task.outages.items()),
        key=lambda found: abs(found[2] - 1),
    )
    unharmed = [all(_unharmed(each["ratio"]) for each in task.outages.values()) for task in measured]
    return {
        "tasks": len(measured),
        "unharmed": sum(unharmed),
        "worst": ratio,
        "worst_task": task,
        "worst_case": case,
    }


def _unharmed(ratio: float) -> bool:
    return UNHARMED[0] <= ratio <= UNHARMED[1]


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the known values."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


def _geometric(values: Iterable[float]) -> float | None:
    known = list(values)
    return math.exp(statistics.mean(map(math.log, known))) if known else None
