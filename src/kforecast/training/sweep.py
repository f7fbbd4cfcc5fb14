"""The ranking at the end of a sweep (``-m``)."""

import json
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

log = logging.getLogger(__name__)

_SOME_JOB_FAILED = 3


class SweepResults(Callback):
    """When all jobs are done, ranks them: in ``results.csv`` of the sweep folder and on the console."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Rank, and end with exit code 3 when a job failed."""
        folder = Path(config.hydra.sweep.dir)
        results = collect(folder)
        if results.empty:
            return
        results.to_csv(folder / "results.csv", index=False)
        print(f"\n{ranking_table(results)}\nranking: {folder / 'results.csv'}")
        failed = int((results["status"] != "done").sum())
        if failed:
            print(
                f"error: {failed} of {len(results)} jobs failed; see their logs in {folder}", file=sys.stderr
            )
            raise SystemExit(_SOME_JOB_FAILED)


def collect(folder: Path) -> pd.DataFrame:
    """The jobs of a sweep folder, best first, failed last.

    Returns
    -------
    DataFrame ``job, status, score, epochs, seconds, artifact_dir`` and one column per override.
    """
    rows = []
    jobs = [path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()]
    for job in sorted(jobs, key=lambda path: int(path.name)):
        result = _read_json(job / "result.json")
        row = {"job": int(job.name), "status": result.get("status", "failed")}
        row |= {name: result.get(name) for name in ("score", "epochs", "seconds", "artifact_dir")}
        # An override of artifact_dir names the folder of all jobs; the job's own is already in its row.
        overrides = _overrides(job / ".hydra" / "overrides.yaml")
        rows.append(row | {name: value for name, value in overrides.items() if name not in row})
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    frame["epochs"] = frame["epochs"].astype("Int64")
    return frame.sort_values("score", na_position="last", ignore_index=True)


def ranking_table(results: pd.DataFrame) -> str:
    """The ranking as text."""
    varied = [name for name in results.columns[6:] if results[name].nunique(dropna=False) > 1]
    rows = results.to_dict("records")
    done = [row["status"] == "done" for row in rows]

    def column(name: str, form: Callable[[Any], str], otherwise: str = "") -> list[str]:
        return [form(row[name]) if fine else otherwise for row, fine in zip(rows, done, strict=True)]

    columns = (
        {"job": [str(row["job"]) for row in rows]}
        | {name: [str(row[name]) for row in rows] for name in varied}
        | {
            "score": column("score", "{:.6f}".format, otherwise="failed"),
            "epochs": column("epochs", str),
            "seconds": column("seconds", "{:.1f}".format),
            "artifact": column("artifact_dir", lambda path: short_path(Path(path))),
        }
    )
    return table("Sweep, best first", columns, left=("artifact",), spare=("seconds", "epochs"))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _overrides(path: Path) -> dict[str, Any]:
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    except (OSError, yaml.YAMLError):
        return {}
    overrides = OverridesParser.create().parse_overrides([str(entry) for entry in entries])
    return {override.key_or_group: override.value() for override in overrides}
