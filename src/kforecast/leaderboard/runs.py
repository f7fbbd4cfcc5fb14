"""Runs and sweep jobs in a folder, read from their files, grouped by task and ranked.

Only small files are read and torch is not loaded, so that thousands of runs take seconds.
"""

import json
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from kforecast.console import short_path, table
from kforecast.files.untrusted import finite, inside

# Sort keys, and whether higher is better.
SORTS = {"score": False, "wape": False, "skill": True, "seconds": False, "size": False, "newest": True}
RESULT, METADATA = "result.json", "metadata.json"
_FINISHED = ("done", "rejected")
# Overrides that do not distinguish runs.
_SILENT = ("resume", "hparams_search", "artifact_dir")
_MOST_BYTES = 64 << 20
# Up to this many varying overrides have a column each on the console.
_MOST_COLUMNS = 5


@dataclass(frozen=True, order=True)
class Task:
    """The data and forecast horizon of runs; only scores of the same task can be compared.

    Attributes
    ----------
    data:
        Fingerprint of the panel; empty for unfinished runs.
    freq, horizon:
        Frequency and number of forecast bins.
    monitor:
        Name of the loss that is the score.
    tested_from:
        Unix seconds of the end of the validation part, where the test span begins.
    """

    data: str = ""
    freq: str = ""
    horizon: int = 0
    monitor: str = ""
    tested_from: int = 0


@dataclass
class Run:
    """One run, or one job of a sweep; values missing in its files are None or empty."""

    folder: Path
    status: str
    task: Task = Task()
    score: float | None = None
    wape: float | None = None
    skill: float | None = None
    best_baseline: str = ""
    seconds: float | None = None
    epochs: int | None = None
    stopped_by: str = ""
    artifact: Path | None = None
    size: float | None = None
    newest: float = 0.0
    note: str = ""
    overrides: dict[str, str] = field(default_factory=dict)
    about_data: str = ""

    @property
    def report(self) -> Path:
        """Path of its report, which may not exist."""
        return self.folder / "evaluation" / "report.html"


def collect(folder: Path) -> list[Run]:
    """Every run below a folder; an unreadable run has a note."""
    return [read_run(path) for path in sorted(_run_folders(folder))]


def _run_folders(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        if RESULT in files:
            folders.clear()  # runs are not nested
            yield Path(place)


def read_run(folder: Path) -> Run:
    """Read the files of one run."""
    path = folder / RESULT
    newest = path.stat().st_mtime if path.exists() else 0.0
    result = _read_json(path)
    if result is None:
        return Run(folder, "broken", newest=newest, note=f"{RESULT} cannot be read")
    run = Run(folder, str(result.get("status", "broken")), newest=newest)
    run.overrides = _overrides(folder / ".hydra" / "overrides.yaml")
    run.score, run.seconds = finite(result.get("score")), finite(result.get("seconds"))
    epochs = finite(result.get("epochs"))
    run.epochs = None if epochs is None else int(epochs)
    run.stopped_by, run.note = _text(result.get("stopped_by")), _text(result.get("error"))
    if run.status in _FINISHED:
        _add_artifact(run, result)
    elif run.status == "running" and not run.note:
        run.note = "still running, or killed: continue it with resume=auto"
    return run


def _add_artifact(run: Run, result: dict[str, Any]) -> None:
    """Add size, scores and task from the run's artifact, if the artifact is still in its place."""
    run.task = Task(_text(result.get("data")))
    written = Path(_text(result.get("artifact_dir")) or "artifact")
    for place in dict.fromkeys((written, run.folder / written.name)):
        metadata = _read_json(place / METADATA)
        if metadata is not None and inside(metadata, "sha256", "checkpoint.pth") == result.get("weights"):
            run.artifact = place
            break
    else:
        # An artifact_dir shared by several runs holds the artifact of the last one only.
        run.note = f"its artifact is no longer in {short_path(written)}"
        _add_scores(run, _read_json(run.folder / "evaluation" / "report.json"))
        return
    _add_scores(run, inside(metadata, "scores", "scoreboard"))
    run.size = sum(entry.stat().st_size for entry in os.scandir(run.artifact) if entry.is_file()) / 1024
    horizon = finite(inside(metadata, "config", "window", "prediction_length"))
    freq, monitor = (
        _text(inside(metadata, "config", "window", "freq")),
        _text(inside(metadata, "config", "monitor")),
    )
    tested_from = finite(inside(metadata, "data", "validation_end"))
    run.task = Task(run.task.data, freq, int(horizon or 0), monitor, int(tested_from or 0))
    bounds = [finite(inside(metadata, "data", name)) for name in ("first", "last")]
    if None not in bounds:
        days = [datetime.fromtimestamp(bound or 0, UTC).strftime("%Y-%m-%d") for bound in bounds]
        run.about_data = f"{inside(metadata, 'data', 'series')} series, {days[0]} to {days[1]}"


def _add_scores(run: Run, board: Any) -> None:
    """Add WAPE and skill from a scoreboard, as metadata.json and report.json have it."""
    run.wape, run.skill = finite(inside(board, "overall", "wape")), finite(inside(board, "skill", "value"))
    run.best_baseline = _text(inside(board, "skill", "best_baseline"))


def _read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None if it is missing or damaged."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _overrides(path: Path) -> dict[str, str]:
    """The overrides of a run by key; empty if the file is missing or damaged."""
    try:
        entries = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError, RecursionError):
        return {}
    texts = [str(entry).lstrip("+~") for entry in entries] if isinstance(entries, list) else []
    pairs = (text.partition("=") for text in texts)
    return {name: value for name, _, value in pairs if name not in _SILENT}


def grouped(runs: Sequence[Run], sort: str) -> dict[Task, list[Run]]:
    """Runs by task, each sorted best first; unfinished runs come last."""
    tasks: dict[Task, list[Run]] = defaultdict(list)
    for run in runs:
        tasks[run.task].append(run)
    sign = -1 if SORTS[sort] else 1

    def place(run: Run) -> tuple[int, float]:
        value = getattr(run, sort)
        return run.status != "done", math.inf if value is None else sign * value

    largest = sorted(tasks, key=lambda task: (not task.data, -len(tasks[task]), task))
    return {task: sorted(tasks[task], key=place) for task in largest}


def varied(runs: Sequence[Run]) -> list[str]:
    """The keys of overrides that differ between these runs."""
    names = dict.fromkeys(name for run in runs for name in run.overrides)
    return [name for name in names if len({run.overrides.get(name) for run in runs}) > 1]


def heading(task: Task, runs: Sequence[Run]) -> str:
    """The heading of a task's table."""
    if not task.data:
        return "Not finished"
    said = [f"Data {task.data[:8]}", next((run.about_data for run in runs if run.about_data), "")]
    said += [f"{task.horizon} x {task.freq} ahead" if task.horizon else "", task.monitor]
    if task.tested_from:
        said.append(f"tested from {datetime.fromtimestamp(task.tested_from, UTC):%Y-%m-%d %H:%M}")
    return ", ".join(filter(None, said))


def cells(run: Run) -> dict[str, str]:
    """The results of a run as text, by column."""

    def text(form: str, value: float | None) -> str:
        return "" if value is None else form.format(value)

    return {
        "status": run.status,
        "score": text("{:.6f}", run.score),
        "WAPE": text("{:.2%}", run.wape),
        "skill": text("{:+.1%}", run.skill),
        "seconds": text("{:.1f}", run.seconds),
        "KiB": text("{:,.0f}", run.size),
    }


def runs_table(task: Task, runs: Sequence[Run], sort: str, top: int) -> str:
    """A task's best runs as a table for the console."""
    shown, names = runs[:top], varied(runs)
    texts = [cells(run) for run in shown]
    columns = {"run": [short_path(run.folder.absolute()) for run in shown]}
    if any(run.status != "done" for run in shown):
        columns["status"] = [row["status"] for row in texts]
    if task.data:
        columns |= {
            name: [row[name] for row in texts] for name in ("score", "WAPE", "skill", "seconds", "KiB")
        }
        # Few overrides have a column each, many share one.
        for name in names if len(names) <= _MOST_COLUMNS else ():
            columns[name] = [brief(run.overrides.get(name, "")) for run in shown]
        if len(names) > _MOST_COLUMNS:
            columns["overrides"] = [_differences(run, names) for run in shown]
    else:
        columns["why"] = [_shortened(run.note) for run in shown]
    title = f"{heading(task, runs)}: {len(runs)} runs" + (f", best {sort} first" if task.data else "")
    more = f"\n  ... and {len(runs) - top} more (--top, --csv, --html)" if len(runs) > top else ""
    return table(title, columns, left=("run", "status", "overrides", "why"), spare=("KiB", "seconds")) + more


def _differences(run: Run, names: Sequence[str]) -> str:
    return " ".join(f"{name}={brief(run.overrides[name])}" for name in names if name in run.overrides)


def brief(value: str) -> str:
    """A value shortened for a table; values proposed by a search have many digits."""
    try:
        return f"{float(value):.4g}" if len(value) > 8 else value
    except ValueError:
        return _shortened(value, 32)


def _shortened(text: str, length: int = 80) -> str:
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 3]}..."


def frame_of(tasks: dict[Task, list[Run]]) -> Any:
    """All runs as a pandas frame, one row each, with a column for each override."""
    import pandas as pd

    rows = []
    for task, runs in tasks.items():
        for rank, run in enumerate(runs, start=1):
            row: dict[str, Any] = {"data": task.data, "freq": task.freq, "horizon": task.horizon or None}
            row |= {"monitor": task.monitor, "rank": rank if run.status == "done" else None}
            row |= {"run": str(run.folder), "status": run.status, "score": run.score, "wape": run.wape}
            row |= {"skill": run.skill, "best_baseline": run.best_baseline, "seconds": run.seconds}
            row |= {"epochs": run.epochs, "stopped_by": run.stopped_by, "artifact_kib": run.size}
            row |= {"artifact_dir": "" if run.artifact is None else str(run.artifact), "note": run.note}
            row["written"] = datetime.fromtimestamp(run.newest, UTC).isoformat(timespec="seconds")
            rows.append(row | {f"override {name}": value for name, value in run.overrides.items()})
    frame = pd.DataFrame(rows)
    whole: dict[str, Literal["Int64"]] = dict.fromkeys(("horizon", "rank", "epochs"), "Int64")
    return frame.astype(whole)
