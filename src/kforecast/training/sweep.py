"""The ranking at the end of a sweep (``-m``)."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from kforecast.console import short_path, table
from kforecast.training.launch import read_result

log = logging.getLogger(__name__)

_SOME_JOB_FAILED = 3


class SweepResults(Callback):
    """When all jobs are done, ranks them: in ``results.csv`` of the sweep folder and on the console."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Rank, and end with exit code 3 when a job failed."""
        folder = Path(config.hydra.sweep.dir)
        results = collect(folder)
        if results.empty:
            # Jobs that ran have written somewhere: their workers run in another folder, or on another disk.
            print(
                f"error: no job has written to {folder}; the launcher's workers must run in {Path.cwd()}, on "
                "a disk that all share, or be given absolute paths",
                file=sys.stderr,
            )
            raise SystemExit(_SOME_JOB_FAILED)
        results.to_csv(folder / "results.csv", index=False)
        print(f"\n{ranking_table(results)}\nranking: {folder / 'results.csv'}")
        rejected = int((results["status"] == "rejected").sum())
        failed = int((results["status"] != "done").sum()) - rejected
        if failed or rejected:
            counts = [(failed, "failed"), (rejected, "did not pass the gate")]
            said = " and ".join(f"{count} {how}" for count, how in counts if count)
            print(f"error: of {len(results)} jobs {said}; see their logs in {folder}", file=sys.stderr)
            raise SystemExit(_SOME_JOB_FAILED)


def collect(folder: Path) -> pd.DataFrame:
    """The jobs of a sweep folder, best first, then those that a gate rejected, then the failed ones.

    Returns
    -------
    DataFrame ``job, status, score, epochs, seconds, artifact_dir`` and one column per override.
    """
    rows = []
    jobs = [path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()]
    for job in sorted(jobs, key=lambda path: int(path.name)):
        result = read_result(job)
        row = {"job": int(job.name), "status": result.get("status", "failed")}
        row |= {name: result.get(name) for name in ("score", "epochs", "seconds", "artifact_dir")}
        # An override of artifact_dir names the folder of all jobs; the job's own is already in its row.
        overrides = _overrides(job / ".hydra" / "overrides.yaml")
        rows.append(row | {name: value for name, value in overrides.items() if name not in row})
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    frame["epochs"] = frame["epochs"].astype("Int64")
    place = frame["status"].map({"done": 0, "rejected": 1}).fillna(2)
    order = frame.assign(place=place).sort_values(["place", "score"], na_position="last", ignore_index=True)
    return order.drop(columns="place")


def ranking_table(results: pd.DataFrame) -> str:
    """The ranking as text."""
    varied = [name for name in results.columns[6:] if results[name].nunique(dropna=False) > 1]
    rows = results.to_dict("records")
    finished = [row["status"] in ("done", "rejected") for row in rows]

    def column(name: str, form: Callable[[Any], str]) -> list[str]:
        return [form(row[name]) if known else "" for row, known in zip(rows, finished, strict=True)]

    columns = (
        {"job": [str(row["job"]) for row in rows]}
        | {name: [str(row[name]) for row in rows] for name in varied}
        | {
            "score": [
                score if row["status"] == "done" else f"{row['status']} {score}".strip()
                for row, score in zip(rows, column("score", "{:.6f}".format), strict=True)
            ],
            "epochs": column("epochs", str),
            "seconds": column("seconds", "{:.1f}".format),
            "artifact": column("artifact_dir", lambda path: short_path(Path(path))),
        }
    )
    return table("Sweep, best first", columns, left=("artifact",), spare=("seconds", "epochs"))


def _overrides(path: Path) -> dict[str, Any]:
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except (OSError, yaml.YAMLError):
        return {}
    overrides = OverridesParser.create().parse_overrides([str(entry) for entry in entries])
    return {override.key_or_group: override.value() for override in overrides}
