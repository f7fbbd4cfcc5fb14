"""Score the default recipe on a neutral accuracy protocol, beside other forecasters.

python scripts/benchmark_accuracy.py --bench BENCH
python scripts/benchmark_accuracy.py --bench BENCH --name slow --task nasa_http_10min_C7_P3 optimizer.lr=0.001

BENCH is a folder with protocol.py (exports tasks, judges forecasts, prints the table), tasks.json and
peers.json (what others score). Each task is trained and evaluated with the public commands alone; everything
after the options is handed to kforecast-train.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bench", type=Path, required=True, help="folder with protocol.py and tasks.json")
    parser.add_argument("--out", type=Path, default=Path("outputs/accuracy"), help="where runs and scores go")
    parser.add_argument("--name", default="kforecast", help="what to call this recipe in the table")
    parser.add_argument("--task", action="append", help="one task; all when not given, may be repeated")
    parser.add_argument("override", nargs="*", help="overrides for kforecast-train")
    given = parser.parse_args()
    protocol = given.bench / "protocol.py"
    if not protocol.is_file():
        parser.error(f"{protocol}: no such file")
    tasks = [task["name"] for task in json.loads((given.bench / "tasks.json").read_text(encoding="utf-8"))]
    if unknown := [task for task in given.task or [] if task not in tasks]:
        parser.error(f"unknown task {unknown[0]}; known: {', '.join(tasks)}")
    given.out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"BENCH_SCORES": str((given.out / "scores.json").resolve())}
    for task in given.task or tasks:
        begun = time.perf_counter()
        folder = given.out / given.name.replace(" ", "-") / task
        epochs = fit_and_forecast(protocol, task, folder, given.override)
        judge = [sys.executable, protocol, "score", "--task", task, "--save", given.name]
        scores = json.loads(
            run(*judge, "--forecast", folder / "evaluation" / "forecasts.csv", env=environment)
        )
        said = ", ".join(f"{score} {scores[score]:.4f}" for score in ("NMAE", "MASE", "under", "over"))
        print(f"{task}: {said} ({epochs} epochs, {time.perf_counter() - begun:.0f} s)", flush=True)
    print(run(sys.executable, protocol, "table", env=environment))


def fit_and_forecast(protocol: Path, task: str, folder: Path, overrides: list[str]) -> int:
    """Train on the task's train part and forecast its test part; return how many epochs it took."""
    run(sys.executable, protocol, "export", "--task", task, "--out", folder / "data")
    facts = json.loads((folder / "data" / "task.json").read_text(encoding="utf-8"))
    run(
        BIN / "kforecast-train",
        "source=csv",
        f"source.path={folder / 'data' / 'train.csv'}",
        *(f"window.{key}={facts[key]}" for key in ("freq", "context_length", "prediction_length")),
        "data.test=0",  # the test part is the protocol's, and not in this file
        f"artifact_dir={folder / 'model'}",
        f"hydra.run.dir={folder / 'run'}",
        *overrides,
    )
    run(
        BIN / "kforecast-evaluate",
        f"artifact_dir={folder / 'model'}",
        "source=csv",
        f"source.path={folder / 'data' / 'full.csv'}",
        f"evaluate.start={facts['train_end']}",
        f"hydra.run.dir={folder / 'evaluation'}",
    )
    return int(json.loads((folder / "run" / "result.json").read_text(encoding="utf-8"))["epochs"])


def run(*command: object, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{last}")
    return done.stdout


if __name__ == "__main__":
    main()
