"""Score a recipe on a neutral accuracy protocol, and compare it with other forecasters.

python scripts/benchmark_accuracy.py
python scripts/benchmark_accuracy.py --jobs 2 --name slow --task nasa_http_10min_C7_P3 optimizer.lr=0.001

The folder of the protocol (--bench) contains protocol.py (exports tasks, judges forecasts, prints its table),
tasks.json, and peers.json (the scores of other forecasters). Each task is trained and evaluated with the
public commands only, once per seed. Everything after the options is passed to kforecast-train, with {task}
and {seed} filled in.
"""

import argparse
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmark_stages.accuracy_facts import Peers, RunFacts, figures_of_run, task_facts
from benchmark_stages.accuracy_table import report, write
from benchmark_stages.commands import CommandFailedError, Commands

BIN = Path(sys.executable).parent
BENCH = Path(__file__).resolve().parents[2] / "shared" / "bench"
SEEDS = [42, 43]
STAMP = "stamp.json"


class Run(NamedTuple):
    """A training to run: a task with a seed."""

    task: str
    seed: int


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--bench", type=Path, default=BENCH, help="folder of the protocol; ../shared/bench when not given"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/accuracy"), help="where runs and scores go")
    parser.add_argument("--name", default="kforecast", help="what to call this recipe in the table")
    parser.add_argument("--task", action="append", help="one task; all when not given, may be repeated")
    parser.add_argument("--seed", action="append", type=int, help="42 and 43 when not given, may be repeated")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side; above 1 each has one thread")
    parser.add_argument("--again", action="store_true", help="run anew what has been run the same way before")
    parser.add_argument("override", nargs="*", help="overrides for kforecast-train")
    given = parser.parse_args()
    if given.jobs < 1:
        parser.error("--jobs must be at least 1")
    if any(override.lstrip("+").startswith("seed=") for override in given.override):
        parser.error("name the seed with --seed")
    protocol_file = given.bench / "protocol.py"
    if not protocol_file.is_file():
        parser.exit(2, f"{protocol_file}: no such file; name the folder of the protocol with --bench\n")
    protocol = imported(protocol_file)
    if unknown := [task for task in given.task or [] if task not in protocol.TASKS]:
        parser.error(f"unknown task {unknown[0]}; known: {', '.join(protocol.TASKS)}")
    given.out.mkdir(parents=True, exist_ok=True)
    # When this script ends, the commands that it started end too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    alone = given.jobs == 1
    bench = Bench(
        protocol_file=protocol_file,
        tasks=protocol.TASKS,
        out=given.out,
        name=given.name,
        overrides=[*([] if alone else ["threads=1"]), *given.override],
        again=given.again,
        threads={} if alone else {"OMP_NUM_THREADS": "1"},
    )
    chosen, seeds = given.task or list(protocol.TASKS), list(dict.fromkeys(given.seed or SEEDS))
    runs = [Run(task, seed) for task in dict.fromkeys(chosen) for seed in seeds]
    try:
        found = run_all(bench, runs, given.jobs)
    except KeyboardInterrupt:
        print("stopped; runs that are done are kept", file=sys.stderr)
        sys.exit(130)
    if found:
        peers = Peers.read(protocol.PEERS, protocol.ratio)
        order = [facts for run in runs if (facts := found.get(run))]
        tasks = task_facts(order, bench.saved(), given.name, peers)
        try:
            print(bench.protocol("table"))
        except CommandFailedError as error:  # for instance if the original's scores are unknown
            print(f"no table of the protocol: {error}\n", file=sys.stderr)
        print("\n".join(report(tasks, order, peers)))
        write(given.out, given.name, bench.overrides, tasks, order, peers)
    if len(found) < len(runs):
        sys.exit(f"{len(runs) - len(found)} of {len(runs)} runs failed")


def imported(file: Path) -> Any:
    """The protocol as a module: its tasks, its peers, and its comparison of two scores."""
    spec = importlib.util.spec_from_file_location("protocol", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_all(bench: "Bench", runs: list[Run], jobs: int) -> dict[Run, RunFacts]:
    """Do the runs, several at a time, and return the facts of those that did not fail."""
    found: dict[Run, RunFacts] = {}
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(bench.do, run): run for run in runs}
        try:
            for future in as_completed(futures):
                run = futures[future]
                try:
                    found[run], line = future.result()
                except CommandFailedError as error:
                    print(f"{run.task} seed {run.seed}: {error}", file=sys.stderr, flush=True)
                else:
                    print(line, flush=True)
        except BaseException:
            bench.commands.stop()
            pool.shutdown(cancel_futures=True)
            raise
    return found


@dataclass
class Bench:
    """The settings of the runs, and the locks that they share."""

    protocol_file: Path
    tasks: dict[str, dict[str, Any]]
    out: Path
    name: str
    overrides: list[str]
    again: bool
    threads: dict[str, str]
    commands: Commands = field(default_factory=Commands)
    judging: threading.Lock = field(default_factory=threading.Lock)
    exporting: threading.Lock = field(default_factory=threading.Lock)
    exported: set[str] = field(default_factory=set)

    def do(self, run: Run) -> tuple[RunFacts, str]:
        """Train, evaluate and judge, unless the results exist; return the facts, and one line about them."""
        folder = self._folder(run.task) / f"seed-{run.seed}"
        wanted = {"seed": run.seed, "overrides": self.overrides, "task": self.tasks[run.task]}
        stamp = {} if self.again else _json(folder / STAMP)
        kept = {key: stamp.get(key) for key in wanted} == wanted
        if not kept:
            stamp = wanted | self._train_and_evaluate(run, folder)
        scores = self._judged(run, folder, anew=not kept)
        if not kept:
            # Written last: if the stamp exists, all other files do.
            (folder / STAMP).write_text(json.dumps(stamp, indent=1), encoding="utf-8")
        figures = figures_of_run(folder, stamp["seconds"], stamp["fit_seconds"])
        said = ", ".join(f"{score} {scores[score]:.4f}" for score in ("NMAE", "MASE", "under", "over"))
        how = f"{figures.epochs} epochs, trained in {figures.seconds:.0f} s"
        since = f", kept from {stamp['finished']}" if kept else ""
        return RunFacts(run.task, run.seed, figures), f"{run.task} seed {run.seed}: {said} ({how}{since})"

    def saved(self) -> dict[str, Any]:
        """Return the scores that the protocol has saved, by name and task."""
        return _json(self.out / "scores.json")

    def protocol(self, *words: object) -> str:
        env = os.environ | {"BENCH_SCORES": str((self.out / "scores.json").resolve())}
        return self.commands.run(sys.executable, self.protocol_file, *words, env=env)

    def _train_and_evaluate(self, run: Run, folder: Path) -> dict[str, Any]:
        """Train on the task's train part and forecast its test part; return the content of the stamp."""
        data = self._data(run.task)
        task = _json(data / "task.json")
        shutil.rmtree(folder, ignore_errors=True)
        train = [
            BIN / "kforecast-train",
            "source=csv",
            f"source.path={data / 'train.csv'}",
            "source.any_time=true",  # the NASA log is of 1995
            *(f"window.{key}={task[key]}" for key in ("freq", "context_length", "prediction_length")),
            "data.test=0",  # the protocol keeps the test part; it is not in this file
            f"artifact_dir={folder / 'model'}",
            f"hydra.run.dir={folder / 'run'}",
            f"seed={run.seed}",
            *(part.replace("{task}", run.task).replace("{seed}", str(run.seed)) for part in self.overrides),
        ]
        evaluate = [
            BIN / "kforecast-evaluate",
            f"artifact_dir={folder / 'model'}",
            "source=csv",
            f"source.path={data / 'full.csv'}",
            "source.any_time=true",  # the NASA log is of 1995
            f"evaluate.start={task['train_end']}",
            f"hydra.run.dir={folder / 'evaluation'}",
        ]
        env = os.environ | self.threads
        begun = time.perf_counter()
        said = self.commands.run(*train, env=env)
        seconds = time.perf_counter() - begun
        self.commands.run(*evaluate, env=env)
        fit = re.search(r"trained in +([\d.]+) s", said)
        return {
            "command": shlex.join(map(str, train)),
            "seconds": round(seconds, 2),
            "fit_seconds": float(fit[1]) if fit else None,
            "finished": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        }

    def _data(self, task: str) -> Path:
        """Return the task's files, which are exported once."""
        folder = self._folder(task) / "data"
        with self.exporting:
            if task not in self.exported:
                self.protocol("export", "--task", task, "--out", folder)
                self.exported.add(task)
        return folder

    def _judged(self, run: Run, folder: Path, anew: bool) -> dict[str, float]:
        """Score the forecasts with the protocol, whose single file of scores needs a lock."""
        name = f"{self.name} seed {run.seed}"
        with self.judging:
            if anew or run.task not in self.saved().get(name, {}):
                forecasts = folder / "evaluation" / "forecasts.csv"
                self.protocol("score", "--task", run.task, "--save", name, "--forecast", forecasts)
            scores: dict[str, float] = self.saved()[name][run.task]
        return scores

    def _folder(self, task: str) -> Path:
        # Some characters have a meaning in an override.
        return self.out / re.sub(r"[^\w.-]+", "-", self.name) / task


def _json(file: Path) -> dict[str, Any]:
    """Return the content of a JSON file, or nothing if there is no such file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


if __name__ == "__main__":
    main()
