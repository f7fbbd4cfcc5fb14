"""A run in several processes on this machine: the same command, started once for each."""

import json
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from kforecast.errors import ConfigError
from kforecast.legacy_cli import flags_for_hydra, quote
from kforecast.processes import start


def train_in_processes(count: int, run_dir: Path, artifact_dir: Path) -> float:
    """Start the processes of this run, wait for them and hand on what they came to.

    Returns
    -------
    The best score of the watched loss; NaN when a job of a sweep failed.

    Raises
    ------
    SystemExit
        With the exit code of a run that failed.
    """
    code = start(count, "kforecast.training.train", _command_line(run_dir, artifact_dir))
    result = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))
    if result["status"] == "running":
        result = {"status": "failed", "error": f"ended with exit code {code}"}
        write_result(run_dir, result)
    if code and HydraConfig.get().mode != RunMode.MULTIRUN:
        raise SystemExit(code)
    return float(result.get("score", "nan"))


def write_result(run_dir: Path, content: dict[str, Any]) -> None:
    """Say in ``result.json`` how far a run has come."""
    (run_dir / "result.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def _command_line(run_dir: Path, artifact_dir: Path) -> list[str]:
    """This run, or this job of a sweep, as a command of its own that works in the same folder."""
    hydra = HydraConfig.get()
    ours_alone = (
        "hydra.mode=",
        "hydra.run.",
        "hydra.sweep",
        "hydra/sweeper",
        "hydra.launcher",
        "hydra/launcher",
    )
    overrides = [*hydra.overrides.task]
    overrides += [override for override in hydra.overrides.hydra if not override.startswith(ours_alone)]
    overrides.append(f"hydra.run.dir={quote(str(run_dir))}")
    if hydra.mode == RunMode.MULTIRUN:
        overrides += [f"hydra.job.num={hydra.job.num}", f"hydra.job.id={quote(str(hydra.job.id))}"]
        overrides.append(f"artifact_dir={quote(str(artifact_dir))}")
    flags = flags_for_hydra(sys.orig_argv)
    if "train_config=from_file" in overrides and not any(flag.startswith("--config-file=") for flag in flags):
        raise ConfigError(
            "--config-file does not reach the processes of a job that a launcher runs elsewhere: give its "
            "values as overrides, or leave out trainer=ddp"
        )
    return flags + overrides
