"""``result.json``: the state and the outcome of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kforecast.files.directory import check_still_there
from kforecast.files.output import write_json

# Overrides that say nothing of a job.
SILENT = ("resume", "hparams_search", "artifact_dir")


def read_result(run_dir: Path) -> dict[str, Any]:
    """What ``result.json`` says; empty where there is none that can be read."""
    try:
        content = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def values_of(result: Mapping[str, Any]) -> list[float]:
    """What a run came to, in the order of ``objective``; NaN for one that failed."""
    aims = result.get("objectives") or {"score": result.get("score")}
    return [math.nan if value is None else float(value) for value in aims.values()]


def as_returned(values: list[float]) -> float | tuple[float, ...]:
    """What a sweeper is given: one number, or a tuple when there are several aims."""
    return values[0] if len(values) == 1 else tuple(values)


def write_result(run_dir: Path, content: dict[str, Any]) -> None:
    """Say in ``result.json`` how far a run has come."""
    check_still_there(run_dir)
    write_json(content, run_dir / "result.json")
