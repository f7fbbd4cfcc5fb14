"""Time that a command takes to end after a signal."""

import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmark_stages.rows import Row

BIN = Path(sys.executable).parent
ENDLESS = [
    *("source=synthetic", "trainer.max_epochs=1000000", "callbacks.early_stopping=null"),
    *("checkpoint_seconds=1000", "hydra.run.dir=run"),
]
# Loads the same libraries as a training, then waits.
WAITS = "import lightning.pytorch, pathlib, time; pathlib.Path('ready').touch(); time.sleep(3600)"


def stop() -> list[Row]:
    """Time from signal to exit, of a training and of an idle process with the same libraries."""
    train = [str(BIN / "kforecast-train"), *ENDLESS]
    waits = [sys.executable, "-c", WAITS]
    rows = []
    for number, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")):
        times = alternately_ended(
            {
                "train": partial(_ended, train, number, partial(_says, "run/train.log", "Epoch: 2")),
                "waits": partial(_ended, waits, number, partial(_says, "ready", "")),
            }
        )
        ratio = f"{times['train'] / times['waits']:.1f}"
        what = f"a training ends, {name} to exit, its checkpoint written"
        rows.append(Row(what, f"{times['train']:.2f} s", f"{times['waits']:.2f} s", ratio, "<= 5 s"))
    return rows


def alternately_ended(works: dict[str, Callable[[], float]], repeats: int = 3) -> dict[str, float]:
    """Return the medians of self-measured times of tasks that take turns."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(work())
    return {name: statistics.median(found) for name, found in times.items()}


def _ended(command: list[str], number: signal.Signals, ready: Callable[[Path], bool]) -> float:
    """Start a command in a new folder, wait until it is ready, and end it."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )
        while not ready(Path(folder)):
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} has ended with {process.returncode}")
            time.sleep(0.01)
        begun = time.perf_counter()
        process.send_signal(number)
        process.wait()
        return time.perf_counter() - begun


def _says(name: str, text: str, folder: Path) -> bool:
    path = folder / name
    return path.exists() and text in path.read_text(encoding="utf-8")
