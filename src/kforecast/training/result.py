"""``result.json``: the state and outcome of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kforecast.files.directory import check_still_there
from kforecast.files.output import write_json

# Overrides that do not distinguish the jobs of a sweep.
SILENT = ("resume", "hparams_search", "artifact_dir")


def read_result(run_dir: Path) -> dict[str, Any]:
    """The content of ``result.json``; empty if it cannot be read."""
    try:
        content = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def values_of(result: Mapping[str, Any]) -> list[float]:
    """The values of a run's objectives, in the order of ``objective``; NaN for a failed run."""
    aims = result.get("objectives") or {"score": result.get("score")}
    return [math.nan if value is None else float(value) for value in aims.values()]


def as_returned(values: list[float]) -> float | tuple[float, ...]:
    """The return value for a sweeper: one number, or a tuple for several objectives."""
    return values[0] if len(values) == 1 else tuple(values)


def write_result(run_dir: Path, content: dict[str, Any]) -> None:
    """Write the state of a run to ``result.json``."""
    check_still_there(run_dir)
    write_json(content, run_dir / "result.json")
