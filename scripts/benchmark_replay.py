"""Measure kforecast-replay: time and memory of a large replay, and gains on recorded tasks.

python scripts/benchmark_replay.py
python scripts/benchmark_replay.py --task wsd_requests_10min_C12_P12 --out outputs/replay

Without --task: synthetic services with synthetic forecasts, all drivers, with the seconds of CPU and the
memory of all processes. With --task (or --tasks for all): each task of the accuracy protocol is trained on
its training part, settings are chosen on the older half of its test part, and judged on the newer half.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from kforecast.autoscaling.hpa import HpaPolicy
from kforecast.replay.jobs import LANES, Job, run_all
from kforecast.simulation.drivers import MIMIR, PERFECT, Driver, Served, spans, usual_drivers
from kforecast.simulation.load import Load
from kforecast.simulation.outcomes import Outcomes, Prices
from kforecast.simulation.service import LATE, PODS, SERVED, UNSERVED, Service
from kforecast.simulation.simulation import Services, Setting, Signal

BIN = Path(sys.executable).parent
BENCH = Path(__file__).resolve().parents[2] / "shared" / "bench"
START, DAY = 1_704_067_200, 86_400


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--services", type=int, default=1000)
    parser.add_argument("--days", type=int, default=28)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--metric", choices=["value_per_pod_total", "utilization"], default="value_per_pod_total"
    )
    parser.add_argument("--task", action="append", help="a recorded task, may be repeated")
    parser.add_argument("--tasks", action="store_true", help="all recorded tasks")
    parser.add_argument("--bench", type=Path, default=BENCH, help="folder of the protocol")
    parser.add_argument("--out", type=Path, default=Path("outputs/replay"))
    parser.add_argument("override", nargs="*", help="overrides for kforecast-replay, with --task")
    given = parser.parse_args()
    if given.task or given.tasks:
        recorded(given)
    else:
        speed(given)


def speed(given: argparse.Namespace) -> None:
    """Replay services with a daily cycle at bins of a minute, and forecasts that know the cycle."""
    count, bins = given.services, (given.days + 7) * 1440
    rng = np.random.default_rng(0)
    level = rng.uniform(300, 3000, (count, 1)).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, (count, 1)).astype(np.float32)
    values = np.empty((count, bins), np.float32)
    angle = (2 * np.pi * np.arange(bins) / 1440).astype(np.float32)
    for row in range(count):
        noise = 0.05 * rng.standard_normal(bins, np.float32)
        values[row] = np.maximum(level[row] * (1 + 0.5 * np.sin(angle + phase[row]) + noise), 0)
    load = Load(values, np.ones(values.shape, bool), START, 60, 0.1, 0, np.arange(count))
    parts, kind = spans(60, 15, 600, 15, 12)
    setting = Setting(
        HpaPolicy(), given.metric, Service(start=60), Signal(), usual_drivers(), 75, Prices(), trace=True
    )
    wall, cpu = time.monotonic(), cpu_seconds()
    blocks = -(-max(1, count * len(setting.drivers) // LANES) // given.processes) * given.processes

    def jobs():
        for rows in np.array_split(np.arange(count), blocks):
            made = np.repeat(1.1 * values[rows, 7 * 1440 :].T[None], len(parts), axis=0)
            served = Served(made, kind, START + 7 * DAY, 60, 15)
            ones = np.ones((1, len(rows)), np.int64)
            capacity = np.full(len(rows), 100.0)
            services = Services(load.of(rows), capacity, np.full(len(rows), 0.7), ones, capacity, [served])
            yield Job(setting, services, 7 * 1440, bins)

    found = Outcomes.joined(list(run_all(jobs(), given.processes)))
    wall, cpu = time.monotonic() - wall, cpu_seconds() - cpu
    most = [
        resource.getrusage(who).ru_maxrss / 2**20 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    print(found.of_drivers(setting.prices).round(4).to_string(index=False))
    print(
        f"{count:,} services, {given.days} days at 1 min, {len(setting.drivers)} drivers, {given.processes} "
        f"processes: {wall:.0f} s, {cpu:.0f} s of CPU, at most {most[0]:.2f} GiB here and "
        f"{most[1]:.2f} GiB in each other process"
    )


def cpu_seconds() -> float:
    """Of this process and those that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def recorded(given: argparse.Namespace) -> None:
    """Judge settings chosen on the older half of each task's test part on the newer half."""
    tasks = json.loads((given.bench / "tasks.json").read_text(encoding="utf-8"))
    chosen = [task for task in tasks if given.tasks or task["name"] in given.task]
    rows = []
    for task in chosen:
        folder = (given.out / task["name"]).resolve()
        prepare(given, task, folder)
        rows.append({"task": task["name"]} | judged(folder, given.override))
        print(json.dumps(rows[-1]), flush=True)
    print("\nmedian over tasks")
    for name in rows[0]:
        if name != "task":
            print(
                f"  {name}: {np.nanmedian([np.nan if row[name] is None else row[name] for row in rows]):.3f}"
            )


def prepare(given: argparse.Namespace, task: dict, folder: Path) -> None:
    """Export a task and train on its training part, unless that has been done."""
    if not (folder / "task.json").exists():
        subprocess.run(
            [sys.executable, given.bench / "protocol.py", "export", "--task", task["name"], "--out", folder],
            check=True,
        )
    if not (folder / "model" / "metadata.json").exists():
        subprocess.run(
            [
                BIN / "kforecast-train", f"--dataset-file={folder / 'train.csv'}", "source.any_time=true",
                "model=auto", f"window.freq={task['freq']}",
                f"window.context_length={task['context_length']}",
                f"window.prediction_length={task['prediction_length']}", f"artifact_dir={folder / 'model'}",
                f"hydra.run.dir={folder / 'run'}", "data.test=0",
            ],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


def judged(folder: Path, overrides: list[str]) -> dict[str, float | None]:
    """Ratios of the chosen settings, on the newer half."""
    from kforecast.commands.replay import check, plan_of
    from kforecast.config.compose import composed
    from kforecast.replay.study import Part, outcomes_of

    info = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    values = {
        "source.path": str(folder / "full.csv"),
        "source.any_time": True,
        "artifact_dir": str(folder / "model"),
    }
    cfg = composed(
        "replay",
        [f"replay.start={info['train_end']}", *overrides],
        values=values,
        output_dir=str(folder / "run"),
    )
    plan = plan_of(check(cfg), folder).plan
    begin, middle, end = plan.bins
    choices, grid = plan.grid.choices(), plan.grid
    drivers = [grid.driver(choice) for choice in choices]
    drivers += [Driver(MIMIR, "mimir"), Driver(PERFECT, "perfect", reactive=False)]
    rows = np.arange(len(plan.capacity))
    older, newer = (
        outcomes_of(plan, Part(drivers, grid.questions, first, stop, ""), rows).counts.sum(axis=(0, 3))
        for first, stop in ((begin, middle), (middle, end))
    )
    forecast = np.array([choice.artifact is not None for choice in choices] + [False, False])
    mimir, perfect = len(choices), len(choices) + 1

    def short(counts: np.ndarray) -> np.ndarray:
        return counts[UNSERVED] + counts[LATE]

    def idle(counts: np.ndarray) -> np.ndarray:
        return counts[PODS] - counts[SERVED]

    def best(value: np.ndarray, allowed: np.ndarray) -> int:
        return int(np.argmin(np.where(allowed & forecast, value, np.inf)))

    def ratio(one: float, other: float) -> float | None:
        return round(float(one / other), 4) if other > 0 else None

    cost = [plan.prices.cost(counts, plan.load.step) for counts in (older, newer)]
    # At no more replica-hours than the autoscaler as it is: the least unserved load.
    at_hours = best(short(older), older[PODS] <= older[PODS][0])
    # At no more unserved load than Mimir's rule: the fewest idle replica-hours.
    at_mimir = best(idle(older), short(older) <= short(older)[mimir])
    cheapest = best(cost[0], np.ones(len(drivers), bool))
    careful = best(cost[0], short(older) <= short(older)[0])
    return {
        "services": len(rows),
        "days": round((end - middle) * plan.load.width / DAY, 1),
        "reactive_unserved_share": round(float(short(newer)[0] / (short(newer)[0] + newer[SERVED][0])), 6),
        "unserved_at_hours": ratio(short(newer)[at_hours], short(newer)[0]),
        "hours_at_hours": ratio(newer[PODS][at_hours], newer[PODS][0]),
        "idle_at_mimir": ratio(idle(newer)[at_mimir], idle(newer)[mimir]),
        "unserved_at_mimir": ratio(short(newer)[at_mimir], short(newer)[mimir]),
        "distance": ratio(cost[1][cheapest] - cost[1][perfect], cost[1][0] - cost[1][perfect]),
        "distance_careful": ratio(cost[1][careful] - cost[1][perfect], cost[1][0] - cost[1][perfect]),
    }


if __name__ == "__main__":
    main()
