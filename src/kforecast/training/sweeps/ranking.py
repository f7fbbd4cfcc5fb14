"""The ranking at the end of a sweep (``-m``)."""

import logging
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from kforecast.config.overrides import typed
from kforecast.console import short_path, table
from kforecast.files.untrusted import parse_yaml
from kforecast.training.result import SILENT, read_result

log = logging.getLogger(__name__)

_SOME_JOB_FAILED = 3
_MOST_OVERRIDES = 10_000
# Columns of every row; overrides follow.
_COLUMNS = ("job", "status", "score", "epochs", "seconds", "artifact_dir")


class SweepResults(Callback):
    """Ranks the jobs at the end of a sweep, in ``results.csv`` of its folder and on the console."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Rank the jobs; exit with code 3 when a job failed or was rejected."""
        folder = Path(config.hydra.sweep.dir)
        results = collect(folder)
        if results.empty:
            # The jobs have written elsewhere: their workers run in another folder, or on another disk.
            print(
                f"error: no job has written to {folder}; the launcher's workers must run in {Path.cwd()}, on "
                "a disk that all share, or be given absolute paths",
                file=sys.stderr,
            )
            raise SystemExit(_SOME_JOB_FAILED)
        results.to_csv(folder / "results.csv", index=False)
        print(f"\n{ranking_table(results)}")
        if aims := [name for name in results.attrs["aims"] if len(results.attrs["aims"]) > 1]:
            print(f"\n{front_table(results, aims, _signs(config, aims))}")
        print(f"ranking: {folder / 'results.csv'}")
        _describe(config, folder, results)
        if len(results.attrs["data"]) > 1:
            print(
                "warning: the jobs were trained on different data (data in their result.json); their scores "
                "cannot be compared",
                file=sys.stderr,
            )
        rejected = int((results["status"] == "rejected").sum())
        failed = int((results["status"] != "done").sum()) - rejected
        if failed or rejected:
            counts = [(failed, "failed"), (rejected, "did not pass the gate")]
            what = " and ".join(f"{count} {how}" for count, how in counts if count)
            print(f"error: of {len(results)} jobs {what}; see their logs in {folder}", file=sys.stderr)
            raise SystemExit(_SOME_JOB_FAILED)


def collect(folder: Path) -> pd.DataFrame:
    """The jobs of a sweep folder, best first, then rejected jobs, then failed ones.

    Returns
    -------
    DataFrame ``job, status, score, epochs, seconds, artifact_dir``, one column per override, and one per aim
    except the score. ``attrs`` has the names of the ``aims`` and the fingerprints of the ``data``.
    """
    rows, aims, data = [], list[str](), set[str]()
    jobs = [path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()]
    for job in sorted(jobs, key=lambda path: int(path.name)):
        result = read_result(job)
        row = {"job": int(job.name), "status": result.get("status", "failed")}
        row |= {name: result.get(name) for name in ("score", "epochs", "seconds", "artifact_dir")}
        # An override of artifact_dir names the folder of all jobs; the row already has the job's own.
        overrides = overrides_of(job / ".hydra" / "overrides.yaml")
        row |= {name: value for name, value in overrides.items() if name not in (*row, *SILENT)}
        objectives = result.get("objectives") or {}
        aims = aims or list(objectives)
        data |= {str(result["data"])} if result.get("data") else set()
        rows.append((row, {name: value for name, value in objectives.items() if name not in row}))
    overridden = dict.fromkeys(name for row, _ in rows for name in row)
    frame = pd.DataFrame([row | more for row, more in rows])
    if frame.empty:
        return frame
    frame = frame[[*overridden, *(name for name in frame.columns if name not in overridden)]]
    frame["epochs"] = frame["epochs"].astype("Int64")
    place = frame["status"].map({"done": 0, "rejected": 1}).fillna(2)
    order = frame.assign(place=place).sort_values(["place", "score"], na_position="last", ignore_index=True)
    results = order.drop(columns="place")
    results.attrs = {"aims": aims, "data": sorted(data)}
    return results


def _describe(config: DictConfig, folder: Path, results: pd.DataFrame) -> None:
    """Describe the sweep for TensorBoard, if the jobs logged to it."""
    best = results.iloc[0]
    if best["status"] != "done" or not (folder / str(best["job"]) / "tensorboard").is_dir():
        return
    from kforecast.training.sweeps.hparams_board import describe_sweep

    varied = {name: results[name].dropna().tolist() for name in _varied(results)}
    describe_sweep(folder, varied, str(config.monitor), folder / str(best["job"]))
    print(f"TensorBoard: tensorboard --logdir {typed(short_path(folder.absolute()))}")


def ranking_table(results: pd.DataFrame) -> str:
    """The ranking as text."""
    varied = _varied(results)
    rows = results.to_dict("records")
    finished = [row["status"] in ("done", "rejected") for row in rows]

    def column(name: str, form: Callable[[Any], str]) -> list[str]:
        return [form(row[name]) if known else "" for row, known in zip(rows, finished, strict=True)]

    columns = (
        {"job": [str(row["job"]) for row in rows]}
        | {name: [_short(row[name]) for row in rows] for name in varied}
        | {
            "score": [
                score if row["status"] == "done" else f"{row['status']} {score}".strip()
                for row, score in zip(rows, column("score", "{:.6f}".format), strict=True)
            ],
        }
        | {name: column(name, "{:.6g}".format) for name in _more_aims(results)}
        | {
            "epochs": column("epochs", str),
            "seconds": column("seconds", "{:.1f}".format),
            "artifact": column("artifact_dir", lambda path: short_path(Path(path))),
        }
    )
    return table("Sweep, best first", columns, left=("artifact",), spare=("seconds", "epochs"))


def front_table(results: pd.DataFrame, aims: Sequence[str], signs: Sequence[int]) -> str:
    """The Pareto front of the jobs as text, sorted by the first aim.

    Parameters
    ----------
    signs:
        For each aim, 1 when lower is better, -1 when higher is better.
    """
    done = results[results["status"] == "done"].dropna(subset=list(aims))
    best = done[front(done[list(aims)].to_numpy(float) * np.array(signs))]
    best = best.sort_values(list(aims), ascending=[sign > 0 for sign in signs])
    columns = {"job": list(map(str, best["job"]))}
    columns |= {name: list(map(_short, best[name])) for name in _varied(results)}
    columns |= {name: list(map("{:.6g}".format, best[name])) for name in aims}
    title = f"Pareto front: {len(best)} of {len(done)} jobs; what is better in one aim is worse in another"
    return table(title, columns)


def front(values: np.ndarray) -> np.ndarray:
    """Rows of ``[jobs, aims]`` (lower is better) that no other row dominates, bool ``[jobs]``."""
    no_worse = (values[None, :] <= values[:, None]).all(axis=2)
    better = (values[None, :] < values[:, None]).any(axis=2)
    dominated: np.ndarray = (no_worse & better).max(axis=1, initial=False)
    return ~dominated


def _signs(config: DictConfig, aims: Sequence[str]) -> list[int]:
    """Signs of the aims: from the direction of a search, else lower is better except for skill."""
    directions = OmegaConf.select(config, "hydra.sweeper.direction")
    if OmegaConf.is_list(directions) and len(directions) == len(aims):
        return [-1 if direction == "maximize" else 1 for direction in directions]
    return [-1 if name == "skill" else 1 for name in aims]


def _more_aims(results: pd.DataFrame) -> list[str]:
    return [name for name in results.attrs.get("aims", []) if name not in _COLUMNS]


def _varied(results: pd.DataFrame) -> list[str]:
    more = _more_aims(results)
    overridden = [name for name in results.columns[len(_COLUMNS) :] if name not in more]
    return [name for name in overridden if results[name].nunique(dropna=False) > 1]


def _short(value: Any) -> str:
    """A value for a table, rounded: values from a search have many digits."""
    return f"{value:.4g}" if isinstance(value, float) and not math.isnan(value) else str(value)


def overrides_of(path: Path) -> dict[str, Any]:
    """The overrides that Hydra has recorded, by key; empty when unreadable."""
    try:
        entries = parse_yaml(path.read_text(encoding="utf-8"), _MOST_OVERRIDES) or []
    except (OSError, ValueError):
        return {}
    overrides = OverridesParser.create().parse_overrides([str(entry) for entry in entries])
    values = {override.key_or_group: override.value() for override in overrides}
    plain = (bool, int, float, str, type(None))  # a list cannot be counted
    return {name: value if isinstance(value, plain) else str(value) for name, value in values.items()}
