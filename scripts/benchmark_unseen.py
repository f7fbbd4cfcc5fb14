"""Measure the forecasts of workloads that are not in the training data.

python scripts/benchmark_unseen.py --bench ../shared/bench
python scripts/benchmark_unseen.py --bench ../shared/bench --task csirtmu_web_1H_C24_P6 --jobs 2 model=auto

Each series is left out in turn: kforecast-train trains on the others, and kforecast-evaluate forecasts the
series that was left out. Its error is printed beside that of a training on all series and that of the same
time yesterday. Everything after the options is passed to kforecast-train.
"""

import argparse
import json
import math
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from benchmark_stages.commands import Commands

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bench", type=Path, default=ROOT.parent / "shared" / "bench", help="the protocol")
    parser.add_argument("--task", default="wsd_requests_10min_C12_P12")
    parser.add_argument("--out", type=Path, default=Path("outputs/unseen"), help="where runs go")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    parser.add_argument("override", nargs="*", default=[], help="overrides for kforecast-train")
    given = parser.parse_args()
    if not (given.bench / "protocol.py").is_file():
        parser.error(f"{given.bench}: no protocol.py there; name its folder with --bench")
    overrides = given.override or ["model=seasonal_mlp"]
    commands = Commands()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = given.out / given.task
    export = (sys.executable, given.bench / "protocol.py", "export", "--task", given.task)
    commands.run(*export, "--out", folder / "data", env=dict(os.environ))
    facts = json.loads((folder / "data" / "task.json").read_text(encoding="utf-8"))
    series = [tuple(pair) for pair in facts["series"]]

    def errors(left_out: tuple[str, str] | None) -> dict[tuple[str, str], dict[str, float]]:
        """Return the MAE of the model and of the same time yesterday, by series."""
        run = folder / ("all" if left_out is None else str(series.index(left_out)))
        run.mkdir(parents=True, exist_ok=True)
        for part in ("train", "full"):
            frame = pd.read_csv(folder / "data" / f"{part}.csv")
            mine = frame[["workload", "metric"]].apply(tuple, axis=1) == left_out
            if left_out is not None:
                frame = frame[~mine if part == "train" else mine]
            frame.to_csv(run / f"{part}.csv", index=False)
        environment = dict(os.environ)
        threads = []
        if given.jobs > 1:
            environment["OMP_NUM_THREADS"], threads = "1", ["threads=1"]
        window = [f"window.{key}={facts[key]}" for key in ("freq", "context_length", "prediction_length")]
        commands.run(
            BIN / "kforecast-train",
            *("source=csv", f"source.path={run / 'train.csv'}", "source.any_time=true", *window),
            *("data.test=0", *threads, *overrides),
            *(f"artifact_dir={run / 'model'}", f"hydra.run.dir={run / 'run'}", "logger=none"),
            env=environment,
        )
        commands.run(
            BIN / "kforecast-evaluate",
            *("source=csv", f"source.path={run / 'full.csv'}", "source.any_time=true"),
            f"evaluate.start={facts['train_end']}",
            *(f"artifact_dir={run / 'model'}", f"hydra.run.dir={run / 'evaluation'}"),
            env=environment,
        )
        scores = pd.read_csv(run / "evaluation" / "scores.csv", keep_default_na=False)
        scores = scores[(scores["step"] == "all") & (scores["workload"] != "*")]
        table = scores.pivot(index=["workload", "metric"], columns="model", values="mae").astype(float)
        return {pair: dict(table.loc[pair]) for pair in table.index}

    try:
        with ThreadPoolExecutor(given.jobs) as pool:
            found = list(pool.map(errors, [None, *series]))
    except BaseException:
        commands.stop()
        raise
    trained = found[0]
    print(f"{'series':30s} {'left out / trained on':>22s} {'left out / yesterday':>22s}")
    ratios, yesterdays = [], []
    for pair, unseen in zip(series, found[1:], strict=True):
        error = unseen[pair]["kforecast"]
        ratios.append(error / trained[pair]["kforecast"])
        yesterdays.append(error / unseen[pair]["same time yesterday"])
        print(f"{' '.join(pair)[:30]:30s} {ratios[-1]:22.3f} {yesterdays[-1]:22.3f}")
    print(f"{'geometric mean':30s} {_geometric(ratios):22.3f} {_geometric(yesterdays):22.3f}")
    print(f"{'largest':30s} {max(ratios):22.3f} {max(yesterdays):22.3f}")


def _geometric(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


if __name__ == "__main__":
    main()
