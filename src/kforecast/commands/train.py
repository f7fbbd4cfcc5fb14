"""``kforecast-train``: trains a model, from a configuration to an artifact.

Heavy libraries are imported where they are first needed, so that ``--help`` and configuration errors appear
at once.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from kforecast.commands.run import run
from kforecast.config.job import Job
from kforecast.config.overrides import is_sweep, typed
from kforecast.console import short_path
from kforecast.errors import GateError, KforecastError, OutputError, ours
from kforecast.training.background_errors import writer_errors_once
from kforecast.training.distributed.launch import train_in_processes
from kforecast.training.distributed.process_group import end_at_once, explained, leave
from kforecast.training.distributed.processes import this_process
from kforecast.training.plan import Recipe, check, is_unfinished, make_recipe
from kforecast.training.result import as_returned, values_of, write_result
from kforecast.training.resume.earlier_run import CHECKPOINTS, prepare

log = logging.getLogger(__name__)


def main() -> None:
    """Run the command."""
    with writer_errors_once():
        try:
            code: object = run(train, config_name="train", together=True, prepare=prepare, check=check)
        except SystemExit as error:
            code = error.code
        end_at_once(code, alone=not is_sweep(sys.argv[1:]))
    sys.exit(code)  # type: ignore[arg-type]


def train(cfg: DictConfig) -> float | tuple[float, ...]:
    """Train as configured; ``result.json`` in the run folder holds the state of the run.

    With several devices and without a launcher, this function starts the processes after it has checked the
    configuration; each of them runs it again.

    Returns
    -------
    The value of ``objective`` for a sweeper, by default the best score of the watched loss; a tuple for
    several objectives; NaN if a job of a sweep failed.

    Raises
    ------
    GateError
        When the model does not pass the gate; the earlier artifact is left as it was.
    """
    job, process, begun = Job.current(), this_process(), time.perf_counter()
    unfinished = is_unfinished(job.run_dir)
    if process.first:
        write_result(job.run_dir, {"status": "running"})
    try:
        recipe = make_recipe(cfg, job, unfinished)
        starts_others = recipe.settings.trainer.processes > 1 and process.count == 1
        result = None if starts_others else _result(recipe)
    except Exception as error:
        if not process.first:
            leave(error)
            raise
        return _failed(job, explained(_named(error, job.run_dir)), begun)
    except (KeyboardInterrupt, SystemExit):
        if process.first:
            _interrupted(job, begun)
        raise
    if starts_others:  # the first of them writes the result, also one that is no success
        return train_in_processes(recipe)
    if result is None:  # in all processes but the first
        return float("nan")
    write_result(job.run_dir, result | {"seconds": time.perf_counter() - begun})
    if result["rejected"] is not None:
        if not job.of_sweep:
            raise GateError(result["rejected"])
        log.error("job rejected: %s", result["rejected"])
    return as_returned(values_of(result))


def _result(recipe: Recipe) -> dict[str, Any] | None:
    from kforecast.training.run import run as train_as

    outcome = train_as(recipe)
    return None if outcome is None else outcome.result()


def _failed(job: Job, error: Exception, begun: float) -> float:
    """Record that the run failed, and raise its error; in a sweep, log it so that other jobs can run."""
    found = ours(error)
    failure = {"status": "failed", "error": str(found or error), "seconds": time.perf_counter() - begun}
    with suppress(OutputError):  # the original error is more important
        write_result(job.run_dir, failure)
    if not job.of_sweep:
        raise error
    log.error("job failed: %s", found or error, exc_info=None if found is not None else error)
    return float("nan")


def _interrupted(job: Job, begun: float) -> None:
    """Record that the run was interrupted, and log how to resume it."""
    with suppress(KforecastError):
        write_result(job.run_dir, {"status": "interrupted", "seconds": time.perf_counter() - begun})
    # A search logs this itself.
    if any((job.run_dir / CHECKPOINTS).glob("*.ckpt")) and not job.searches:
        how = "the same command with" if job.name == "retrain" else "kforecast-train"
        folder = typed(short_path(job.run_dir))
        log.info("Interrupted; to go on: %s resume=auto hydra.run.dir=%s", how, folder)


def _named(error: Exception, run_dir: Path) -> Exception:
    """The error; as an OutputError with a path when a library could not write to the run's folder."""
    if not isinstance(error, OSError):
        return error
    path = run_dir if error.filename is None else Path(os.fsdecode(error.filename))
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
    if not path.is_relative_to(run_dir) or (error.filename is None and error.errno not in full):
        return error
    named = OutputError(f"{path}: cannot be written: {error.strerror}")
    named.__cause__ = error
    return named


if __name__ == "__main__":
    main()
