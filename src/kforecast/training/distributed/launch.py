"""Run a training in several processes on this machine, each with the same command line."""

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from kforecast.config.legacy_cli import flags_for_hydra
from kforecast.config.overrides import quote
from kforecast.errors import ConfigError
from kforecast.training.distributed.processes import start
from kforecast.training.result import as_returned, read_result, values_of, write_result


def train_in_processes(
    cfg: DictConfig, run_dir: Path, artifact_dir: Path, anew: bool
) -> float | tuple[float, ...]:
    """Start the processes of this run, wait for them and return their result.

    Parameters
    ----------
    anew:
        Whether there is no checkpoint to resume from.

    Returns
    -------
    The objectives of the run, see :func:`values_of`.

    Raises
    ------
    SystemExit
        When the run failed, with its exit code; a failed job of a sweep returns instead.
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


def _command_line(cfg: DictConfig, run_dir: Path, artifact_dir: Path, anew: bool) -> list[str]:
    """The command line for the processes of this run or job, which work in the same folder."""
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
    # The keys of kforecast-retrain itself are unknown to kforecast-train; those it has set are passed on.
    overrides = [override for override in overrides if not override.lstrip("+").startswith("retrain")]
    for key in ("gate.champion", "warm_start"):
        if (value := OmegaConf.select(cfg, key)) is not None:
            overrides.append(f"{key}={quote(str(value))}")
    if hydra.runtime.choices.get("hparams_search") is not None:
        # Its settings of the training apply; the sweep that it begins must not begin again.
        overrides.append("hydra.mode=RUN")
    overrides += [override for override in hydra.overrides.hydra if not override.startswith(ours_alone)]
    overrides.append(f"hydra.run.dir={quote(str(run_dir))}")
    if anew and any(override.startswith("resume=") for override in overrides):
        overrides.append("resume=null")  # the folder may hold checkpoints of a finished run
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
