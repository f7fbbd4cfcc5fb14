"""Run a training in several processes on this machine, each with the same command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from kforecast.config.legacy_cli import flags_for_hydra
from kforecast.config.overrides import quote
from kforecast.errors import ConfigError
from kforecast.training.distributed.processes import start
from kforecast.training.result import as_returned, read_result, values_of, write_result

if TYPE_CHECKING:
    from kforecast.training.plan import Recipe


def train_in_processes(recipe: Recipe) -> float | tuple[float, ...]:
    """Start the processes of this run, wait for them and return what they came to.

    Returns
    -------
    The values of the run's objective, see :func:`values_of`.

    Raises
    ------
    SystemExit
        With the exit code of a run that failed.
    """
    run_dir = recipe.run_dir
    assert recipe.job is not None
    code = start(recipe.settings.trainer.devices, "kforecast.training.train", _command_line(recipe))
    result = read_result(run_dir)
    if result["status"] == "running":
        result = {"status": "failed", "error": f"ended with exit code {code}"}
        write_result(run_dir, result)
    if code and not recipe.job.of_sweep:
        raise SystemExit(code)
    return as_returned(values_of(result))


def _command_line(recipe: Recipe) -> list[str]:
    """The command line for the processes of this run or job, which work in the same folder."""
    job, settings = recipe.job, recipe.settings
    assert job is not None
    ours_alone = (
        "hydra.mode=",
        "hydra.run.",
        "hydra.sweep",
        "hydra/sweeper",
        "hydra.launcher",
        "hydra/launcher",
    )
    # The keys of kforecast-retrain itself are unknown to kforecast-train; those it has set are passed on.
    overrides = [override for override in job.overrides if not override.lstrip("+").startswith("retrain")]
    for key, value in (("gate.champion", settings.gate.champion), ("warm_start", settings.warm_start)):
        if value is not None:
            overrides.append(f"{key}={quote(value)}")
    if job.searches:
        # Its settings of the training apply; the sweep that it begins must not begin again.
        overrides.append("hydra.mode=RUN")
    overrides += [override for override in job.hydra_overrides if not override.startswith(ours_alone)]
    # This process has taken the folder for all of them.
    overrides += [
        f"hydra.run.dir={quote(str(recipe.run_dir))}",
        "hydra.callbacks.check_first.own_folder=false",
    ]
    if recipe.earlier.checkpoint is None and any(one.startswith("resume=") for one in overrides):
        overrides.append("resume=null")  # the folder may hold checkpoints of a finished run
    if job.of_sweep:
        overrides += [f"hydra.job.num={job.number}", f"hydra.job.id={quote(str(job.id))}"]
        overrides.append(f"hydra.sweep.dir={quote(str(recipe.run_dir.parent))}")
        overrides.append(f"artifact_dir={quote(str(recipe.artifact_dir))}")
    flags = flags_for_hydra(sys.orig_argv)
    if "train_config=from_file" in overrides and not any(flag.startswith("--config-file=") for flag in flags):
        raise ConfigError(
            "--config-file does not reach the processes of a job that a launcher runs elsewhere: give its "
            "values as overrides, or leave out trainer=ddp"
        )
    return flags + overrides
