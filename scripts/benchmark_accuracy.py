"""Score a recipe on a neutral accuracy protocol, and compare it with other forecasters.

python scripts/benchmark_accuracy.py
python scripts/benchmark_accuracy.py --jobs 2 --name slow --task nasa_http_10min_C7_P3 optimizer.lr=0.001

The folder of the protocol (--bench) contains protocol.py (exports tasks, judges forecasts, prints its table),
tasks.json, and peers.json (the scores of other forecasters). Each task is trained and evaluated with the
public commands only, once per seed. Everything after the options is passed to kforecast-train, with {task}
and {seed} filled in. Two more stages follow: forecasts after outages in the history, and a training on
traffic with a nightly pause. With --history, the pre-trained weights are judged instead, from a history of
this length.
"""

import argparse
import importlib.util
import json
import math
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from benchmark_stages import accuracy_drops
from benchmark_stages.accuracy_facts import (
    Peers,
    RivalFacts,
    RunFacts,
    Score,
    figures_of_run,
    series_of_run,
    task_facts,
)
from benchmark_stages.accuracy_intervals import equal_coverage
from benchmark_stages.accuracy_table import drop_lines, report, rival_lines, write
from benchmark_stages.commands import CommandFailedError, Commands

BIN = Path(sys.executable).parent
BENCH = Path(__file__).resolve().parents[2] / "shared" / "bench"
# A command of its own, since the models that it loads need torch.
MEASURE_OUTAGES = Path(__file__).parent / "benchmark_stages" / "accuracy_outages.py"
MEASURE_HISTORY = MEASURE_OUTAGES.with_name("accuracy_history.py")
SEEDS = [42, 43]
STAMP, OUTAGES_FILE = "stamp.json", "outages.json"
OUTAGES, DROPS = "outages", "drops"
STAGES = [OUTAGES, DROPS]
_UNITS = {"h": 3600, "d": 86_400}

Facts = TypeVar("Facts")


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
    parser.add_argument(
        "--evaluate-again",
        action="store_true",
        help="only evaluate anew what has been trained before",
    )
    parser.add_argument(
        "--stage",
        action="append",
        choices=[*STAGES, "none"],
        help="what to measure besides the accuracy; all when not given, may be repeated",
    )
    parser.add_argument("--rival", metavar="NAME", help="another recipe in --out to compare with")
    parser.add_argument(
        "--history",
        action="append",
        metavar="LENGTH",
        help="train nothing, and judge the pre-trained weights from this much history (3h, 1D) before each "
        "origin; may be repeated",
    )
    parser.add_argument("override", nargs="*", help="overrides for kforecast-train")
    given = parser.parse_args()
    for text in given.history or []:
        if not re.fullmatch(r"[1-9]\d{0,4}[hHdD]", text):
            parser.error(f"--history is {text!r}, not a number of hours or days such as 3h or 7D")
    lengths = {text: int(text[:-1]) * _UNITS[text[-1].lower()] for text in given.history or []}
    if lengths and given.override:
        parser.error(f"--history trains nothing, so {given.override[0]} would have no effect")
    trained = {"--seed": given.seed, "--stage": given.stage, "--rival": given.rival}
    for option in [name for name, value in trained.items() if lengths and value is not None]:
        parser.error(f"--history trains nothing, so {option} would have no effect")
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

    alone, stages = given.jobs == 1, given.stage or STAGES
    bench = Bench(
        protocol_file=protocol_file,
        tasks=protocol.TASKS,
        ratio=protocol.ratio,
        out=given.out,
        name=given.name,
        overrides=[*([] if alone else ["threads=1"]), *given.override],
        again=given.again,
        evaluate_again=given.evaluate_again,
        outages=OUTAGES in stages,
        rival=given.rival,
        threads={} if alone else {"OMP_NUM_THREADS": "1"},
    )
    if lengths:
        judge_short(bench, given.task or list(protocol.TASKS), lengths)
        return
    chosen, seeds = given.task or list(protocol.TASKS), list(dict.fromkeys(given.seed or SEEDS))
    runs = [Run(task, seed) for task in dict.fromkeys(chosen) for seed in seeds]
    pauses = [Run(accuracy_drops.TASK, seed) for seed in seeds if DROPS in stages]
    try:
        found = run_all(bench.do, runs, given.jobs, bench)
        drops = run_all(bench.do_drops, pauses, given.jobs, bench)
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
        paused = [facts for run in pauses if (facts := drops.get(run))]
        beside = [] if given.rival is None else ["", *rival_lines(given.rival, tasks, order, peers)]
        print("\n".join([*report(tasks, order, peers), *drop_lines(paused), *beside]))
        write(given.out, given.name, bench.overrides, tasks, order, peers, paused)
    count = len(runs) + len(pauses)
    if failed := count - len(found) - len(drops):
        sys.exit(f"{failed} of {count} runs failed")


def judge_short(bench: "Bench", tasks: list[str], lengths: dict[str, int]) -> None:
    """Judge the pre-trained weights with short histories, and print a line for each task."""
    ratios: dict[str, list[float]] = {}
    for length, seconds in lengths.items():
        for task in dict.fromkeys(tasks):
            found = bench.short(task, length, seconds)
            ratios.setdefault(length, []).append(found["ratio"])
            print(
                f"{task}, history {length}: error / naive {found['ratio']:.3f} ({found['naive']})", flush=True
            )
    print(bench.protocol("table"))
    for length, each in ratios.items():
        mean = math.exp(sum(map(math.log, each)) / len(each))
        print(f"history {length}: error / best naive forecast {mean:.3f} (geometric mean, {len(each)} tasks)")


def imported(file: Path) -> Any:
    """The protocol as a module: its tasks, its peers, and its comparison of two scores."""
    spec = importlib.util.spec_from_file_location("protocol", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_all(
    do: Callable[[Run], tuple[Facts, str]], runs: list[Run], jobs: int, bench: "Bench"
) -> dict[Run, Facts]:
    """Do the runs, several at a time, and return the facts of those that did not fail."""
    found: dict[Run, Facts] = {}
    with ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(do, run): run for run in runs}
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
    ratio: Callable[[Score, Score], float]
    out: Path
    name: str
    overrides: list[str]
    again: bool
    threads: dict[str, str]
    evaluate_again: bool = False
    outages: bool = False
    rival: str | None = None
    commands: Commands = field(default_factory=Commands)
    judging: threading.Lock = field(default_factory=threading.Lock)
    exporting: threading.Lock = field(default_factory=threading.Lock)
    exported: set[str] = field(default_factory=set)

    def do(self, run: Run) -> tuple[RunFacts, str]:
        """Train, evaluate and judge, unless the results exist; return the facts, and one line about them."""
        folder, stamp = self._trained(run)
        scores = self._judged(run, folder, anew="finished" not in stamp)
        kept = self._finished(folder, stamp)
        figures = figures_of_run(folder, stamp["seconds"], stamp["fit_seconds"])
        said = ", ".join(f"{score} {scores[score]:.4f}" for score in ("NMAE", "MASE", "under", "over"))
        how = f"{figures.epochs} epochs, trained in {figures.seconds:.0f} s"
        since = f", kept from {kept}" if kept else ""
        facts = RunFacts(
            run.task,
            run.seed,
            figures,
            series_of_run(folder),
            self._outages(run, folder) if self.outages else {},
            self._rival(run, folder),
        )
        return facts, f"{run.task} seed {run.seed}: {said} ({how}{since})"

    def do_drops(self, run: Run) -> tuple[accuracy_drops.DropFacts, str]:
        """Train and evaluate on traffic with a nightly pause, as :meth:`do` does on a task."""
        folder, stamp = self._trained(run)
        kept = self._finished(folder, stamp)
        its = self._forecasts_of_rival(run)
        facts = accuracy_drops.facts(run.seed, folder / "evaluation" / "forecasts.csv", its)
        since = f" (kept from {kept})" if kept else ""
        return facts, f"{run.task} seed {run.seed}: error in the pause {facts.paused:.4f}{since}"

    def short(self, task: str, length: str, seconds: int) -> dict[str, Any]:
        """The error of the pre-trained weights from a short history, and the best naive forecast from it."""
        name = f"pretrained, history {length}"
        folder = self._folder(task, name)
        data = self._data(task)
        self.commands.run(
            sys.executable, MEASURE_HISTORY, data, seconds, folder, env=os.environ | self.threads
        )
        self.protocol("score", "--task", task, "--save", name, "--forecast", folder / "forecasts.csv")
        return _json(folder / "history.json")

    def saved(self) -> dict[str, Any]:
        """Return the scores that the protocol has saved, by name and task."""
        return _json(self.out / "scores.json")

    def protocol(self, *words: object) -> str:
        env = os.environ | {"BENCH_SCORES": str((self.out / "scores.json").resolve())}
        return self.commands.run(sys.executable, self.protocol_file, *words, env=env)

    def _trained(self, run: Run) -> tuple[Path, dict[str, Any]]:
        """Train and evaluate, unless it was done; return the folder, and the stamp as it was found.

        A stamp without ``finished`` belongs to an evaluation that has not been judged.
        """
        folder = self._folder(run.task) / f"seed-{run.seed}"
        wanted = {"seed": run.seed, "overrides": self.overrides, "task": self.tasks.get(run.task)}
        stamp = {} if self.again else _json(folder / STAMP)
        if {key: stamp.get(key) for key in wanted} != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            stamp = wanted | self._train(run, folder)
        elif self.evaluate_again:
            stamp.pop("finished", None)
        if "finished" not in stamp:
            _write_json(folder / STAMP, stamp)
            shutil.rmtree(folder / "evaluation", ignore_errors=True)
            (folder / OUTAGES_FILE).unlink(missing_ok=True)
            self._evaluate(run, folder)
        return folder, stamp

    def _finished(self, folder: Path, stamp: dict[str, Any]) -> str | None:
        """Complete the stamp; return when the run was finished if that was before."""
        if "finished" in stamp:
            return str(stamp["finished"])
        # Written last: if the stamp has this, all other files exist.
        _write_json(folder / STAMP, stamp | {"finished": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"})
        return None

    def _train(self, run: Run, folder: Path) -> dict[str, Any]:
        """Train on the task's train part; return what the stamp says about it."""
        data = self._data(run.task)
        task = _json(data / "task.json")
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
        begun = time.perf_counter()
        said = self.commands.run(*train, env=os.environ | self.threads)
        seconds = time.perf_counter() - begun
        fit = re.search(r"trained in +([\d.]+) s", said)
        return {
            "command": shlex.join(map(str, train)),
            "seconds": round(seconds, 2),
            "fit_seconds": float(fit[1]) if fit else None,
        }

    def _evaluate(self, run: Run, folder: Path) -> None:
        """Forecast the task's test part."""
        data = self._data(run.task)
        self.commands.run(
            BIN / "kforecast-evaluate",
            f"artifact_dir={folder / 'model'}",
            "source=csv",
            f"source.path={data / 'full.csv'}",
            "source.any_time=true",  # the NASA log is of 1995
            f"evaluate.start={_json(data / 'task.json')['train_end']}",
            f"hydra.run.dir={folder / 'evaluation'}",
            env=os.environ | self.threads,
        )

    def _outages(self, run: Run, folder: Path) -> dict[str, dict[str, float]]:
        """Forecast after outages in the history, unless it was done."""
        found = folder / OUTAGES_FILE
        if not found.is_file():
            data = self._data(run.task)
            begin = _json(data / "task.json")["train_end"]
            command = [sys.executable, MEASURE_OUTAGES, folder / "model", data / "full.csv", begin, found]
            self.commands.run(*command, env=os.environ | self.threads)
        return _json(found)

    def _rival(self, run: Run, folder: Path) -> RivalFacts | None:
        """Compare with the rival's run of the same seed; None if there is none."""
        its = self._forecasts_of_rival(run)
        if its is None:
            return None
        scores = self.saved()
        names = [f"{name} seed {run.seed}" for name in (self.name, self.rival)]
        own, other = (scores.get(name, {}).get(run.task) for name in names)
        error = self.ratio(own, other) if own and other else None
        return RivalFacts(error, *equal_coverage(folder / "evaluation" / "forecasts.csv", its))

    def _forecasts_of_rival(self, run: Run) -> Path | None:
        """The forecasts of the rival's run of the same seed; None if there is none."""
        if self.rival is None:
            return None
        found = self._folder(run.task, self.rival) / f"seed-{run.seed}" / "evaluation" / "forecasts.csv"
        return found if found.is_file() else None

    def _data(self, task: str) -> Path:
        """Return the task's files, which are exported once."""
        folder = self._folder(task) / "data"
        with self.exporting:
            if task not in self.exported:
                if task == accuracy_drops.TASK:
                    accuracy_drops.export(folder)
                else:
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

    def _folder(self, task: str, name: str | None = None) -> Path:
        """The folder of a task, under this recipe's name or another one."""
        # Some characters have a meaning in an override.
        inside = [re.sub(r"[^\w.-]+", "-", part) for part in (name or self.name, task)]
        return self.out.joinpath(*inside)


def _json(file: Path) -> dict[str, Any]:
    """Return the content of a JSON file, or nothing if there is no such file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
