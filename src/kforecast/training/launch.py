"""A run in several processes on this machine: the same command, started once for each."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from kforecast.directory import check_still_there
from kforecast.errors import ConfigError
from kforecast.legacy_cli import flags_for_hydra, quote
from kforecast.output import write_json
from kforecast.processes import start

# Overrides that say nothing of a job.
SILENT = ("resume", "hparams_search", "artifact_dir")


def train_in_processes(
    cfg: DictConfig, run_dir: Path, artifact_dir: Path, anew: bool
) -> float | tuple[float, ...]:
    """Start the processes of this run, wait for them and hand on what they came to.

    Parameters
    ----------
    anew:
        Whether there is no checkpoint to go on from.

    Returns
    -------
    What the run aims at, see :func:`values_of`.

    Raises
    ------
    SystemExit
        With the exit code of a run that failed.
    """
    command_line = _command_line(cfg, run_dir, artifact_dir, anew)
    code = start(cfg.trainer.devices, "kforecast.training.train", command_line)
    result = read_result(run_dir)
    if result["status"] == "running":
        result = {"status": "failed", "error": f"ended with exit code {code}"}
        write_result(run_dir, result)
    if code and HydraConfig.get().mode != RunMode.MULTIRUN:
        raise SystemExit(code)
    return as_returned(values_of(result))


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


def _command_line(cfg: DictConfig, run_dir: Path, artifact_dir: Path, anew: bool) -> list[str]:
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
    # What a retraining adds to the configuration, but for its own keys.
    overrides = [override for override in overrides if not override.lstrip("+").startswith("retrain")]
    for key in ("gate.champion", "warm_start"):
        if (value := OmegaConf.select(cfg, key)) is not None:
            overrides.append(f"{key}={quote(str(value))}")
    if hydra.runtime.choices.get("hparams_search") is not None:
        # What it sets of the training counts; that it begins a sweep does not.
        overrides.append("hydra.mode=RUN")
    overrides += [override for override in hydra.overrides.hydra if not override.startswith(ours_alone)]
    overrides.append(f"hydra.run.dir={quote(str(run_dir))}")
    if anew and any(override.startswith("resume=") for override in overrides):
        overrides.append("resume=null")  # the folder may hold checkpoints of a run that is done
    if hydra.mode == RunMode.MULTIRUN:
        overrides += [f"hydra.job.num={hydra.job.num}", f"hydra.job.id={quote(str(hydra.job.id))}"]
        overrides.append(f"hydra.sweep.dir={quote(str(run_dir.parent))}")
        overrides.append(f"artifact_dir={quote(str(artifact_dir))}")
    flags = flags_for_hydra(sys.orig_argv)
    if "train_config=from_file" in overrides and not any(flag.startswith("--config-file=") for flag in flags):
        raise ConfigError(
            "--config-file does not reach the processes of a job that a launcher runs elsewhere: give its "
            "values as overrides, or leave out trainer=ddp"
        )
    return flags + overrides
