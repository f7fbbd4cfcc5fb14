"""``kforecast-train``: the main job, from a configuration to an artifact.

Heavy libraries are imported where they are first needed, so that ``--help`` and an error in the configuration
or the data answer at once.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from kforecast.commands.run import run
from kforecast.config.checks import recorded
from kforecast.config.overrides import is_sweep, typed
from kforecast.config.settings import TrainSettings
from kforecast.console import short_path
from kforecast.data.history import kept_history, read_history
from kforecast.errors import DataError, GateError, KforecastError, OutputError, ours
from kforecast.files.directory import check_still_there
from kforecast.files.lock import sole_writer
from kforecast.training.distributed.launch import train_in_processes
from kforecast.training.distributed.process_group import end_at_once, explained, first, join, leave
from kforecast.training.distributed.processes import this_process
from kforecast.training.plan import Plan, check, is_unfinished, make_plan
from kforecast.training.result import as_returned, read_result, values_of, write_result
from kforecast.training.resume.earlier_run import CHECKPOINTS, Earlier, prepare

if TYPE_CHECKING:
    from kforecast.artifact import Artifact
    from kforecast.data.panel import Panel
    from kforecast.data.split import Split
    from kforecast.metrics.source import MetricSource
    from kforecast.training.holdout import JudgedFit
    from kforecast.training.module import ForecastModule
    from kforecast.training.resume.checkpoints import Checkpoints
    from kforecast.window import Frequency, Window

log = logging.getLogger(__name__)


def main() -> None:
    """Run the command."""
    try:
        code: object = run(train, config_name="train", together=True, prepare=prepare, check=check)
    except SystemExit as error:
        code = error.code
    end_at_once(code, alone=not is_sweep(sys.argv[1:]))
    sys.exit(code)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Result:
    """What a run came to; ``score`` is the best of the watched loss, ``epochs`` how many were run."""

    score: float
    epochs: int
    best_epoch: int
    stopped_by: str
    artifact_dir: str
    objectives: dict[str, float] | None = None
    """What a sweep aims at, when it is not the score alone."""
    rejected: str | None = None
    """Why the gate did not let the model pass."""
    weights: str | None = None
    """sha256 of the artifact's checkpoint.pth; ``data`` is that of the panel."""
    data: str | None = None
    threads: int | None = None


def train(cfg: DictConfig) -> float | tuple[float, ...]:
    """Train as configured; ``result.json`` of the run folder says how far it came.

    With several devices and without a launcher the processes are started here, once the configuration has
    been checked; each of them runs this function again. The first one does what needs to be done once.

    Returns
    -------
    What a sweeper optimises (``objective``): the best score of the watched loss unless the configuration says
    otherwise, a tuple when there are several; NaN when a job of a sweep failed.

    Raises
    ------
    GateError
        When the gate does not let the model pass; the earlier artifact is left as it was.
    """
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    begun = time.perf_counter()
    process = this_process()
    unfinished = is_unfinished(run_dir)
    if process.first:
        write_result(run_dir, {"status": "running"})
    try:
        plan = make_plan(cfg, run_dir, process, unfinished)
        alone = plan.settings.trainer.processes == 1
        result = None
        if alone or process.count > 1:
            holder = f"the run in {short_path(run_dir)} (process {os.getpid()})"
            with ExitStack() as held:
                if process.first:
                    held.enter_context(sole_writer(plan.artifact_dir, holder))
                result = _train(cfg, run_dir, plan, held)
    except Exception as error:
        if not process.first:
            leave(error)
            raise
        error = explained(_named(error, run_dir))
        found = ours(error)
        failure = {"status": "failed", "error": str(found or error), "seconds": time.perf_counter() - begun}
        with suppress(OutputError):  # the error at hand says more
            write_result(run_dir, failure)
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            # The other jobs of a sweep go on; this one is in the table as failed.
            log.error("job failed: %s", found or error, exc_info=found is None)
            return float("nan")
        raise error
    except (KeyboardInterrupt, SystemExit):
        if process.first:
            with suppress(KforecastError):
                write_result(run_dir, {"status": "interrupted", "seconds": time.perf_counter() - begun})
            # A search says itself how to go on.
            searching = HydraConfig.get().runtime.choices.get("hparams_search") is not None
            if any((run_dir / CHECKPOINTS).glob("*.ckpt")) and not searching:
                again = HydraConfig.get().job.name == "retrain"
                how = "the same command with" if again else "kforecast-train"
                run = typed(short_path(run_dir))
                log.info("Interrupted; to go on: %s resume=auto hydra.run.dir=%s", how, run)
        raise
    if result is None:
        anew = plan.earlier.checkpoint is None
        return train_in_processes(cfg, run_dir, plan.artifact_dir, anew)
    if not process.first:
        return result.score
    content = asdict(result)
    if result.objectives is None:
        del content["objectives"]
    status = "done" if result.rejected is None else "rejected"
    write_result(run_dir, {"status": status} | content | {"seconds": time.perf_counter() - begun})
    if result.rejected is not None:
        if HydraConfig.get().mode != RunMode.MULTIRUN:
            raise GateError(result.rejected)
        log.error("job rejected: %s", result.rejected)
    return as_returned(values_of(content))


def _named(error: Exception, run_dir: Path) -> Exception:
    """The error itself; with the run's folder when a library could not write, and does not say where."""
    if not isinstance(error, OSError):
        return error
    path = run_dir if error.filename is None else Path(os.fsdecode(error.filename))
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
    if not path.is_relative_to(run_dir) or (error.filename is None and error.errno not in full):
        return error
    named = OutputError(f"{path}: cannot be written: {error.strerror}")
    named.__cause__ = error
    return named


def _train(cfg: DictConfig, run_dir: Path, plan: Plan, held: ExitStack) -> Result:
    settings, artifact_dir, window, source, capacity, teacher, champion, warm_start, earlier = plan
    cluster = join(settings.trainer.accelerator)

    panel = _read(
        source if earlier.history is None else kept_history(earlier.history), window.frequency, run_dir
    )
    split = _split(panel, window, settings, run_dir)

    # From here on everything needs torch.
    from lightning.pytorch import seed_everything

    from kforecast.artifact import discard, sha256
    from kforecast.training.artifact_maker import ArtifactMaker
    from kforecast.training.assemble import (
        data_of,
        estimator_config,
        network_of,
        train_again,
        train_individually,
        train_network,
    )
    from kforecast.training.callbacks import ArtifactWriter
    from kforecast.training.distributed.threads import choose_threads
    from kforecast.training.holdout import judge_fit
    from kforecast.training.lightning_warnings import quieten
    from kforecast.training.outcome import aim_at, close, hyper_parameters
    from kforecast.training.trackers import loggers_of, tracking

    threading.excepthook = _thread_failed
    # Read when MLflow is imported; its own ten minutes of attempts are too many for a wrong address.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
    quieten()
    seed_everything(settings.seed, workers=True, verbose=False)
    net = network_of(cfg, window, panel, warm_start)
    processes = this_process().count
    threads = choose_threads(settings.threads, settings.data.batch_size, processes, net.windows_per_thread)
    log.info("Seed %d; window: %s; CPU threads: %d", settings.seed, window, threads)
    if teacher is not None:
        teacher.announce(panel, split)
    if warm_start is not None:
        warm_start.announce()
    data = data_of(cfg, settings, panel, split, net, teacher)
    config = estimator_config(cfg, settings, panel.num_series)
    maker = ArtifactMaker(config, recorded(cfg), panel, split, data.calendar)
    maker.announce(net)
    _say_sample(settings, split)
    checkpoints = replace(first(lambda: _checkpoints(cfg, earlier, panel)), artifact=maker.describe(net))

    loggers = loggers_of(cfg.logger, short_path(run_dir))
    parameters = hyper_parameters(settings, panel.num_series, type(net).__name__)
    if this_process().first:
        held.enter_context(tracking(loggers, parameters))
    # With a gate nothing replaces the earlier artifact before the model has passed it.
    candidate_dir = run_dir / "candidate"
    gated = settings.gate.require_skill is not None or champion is not None
    during = candidate_dir if gated else artifact_dir

    def publish(module: ForecastModule, first_time: bool) -> None:
        check_still_there(during.parent if first_time else during)
        maker.make(module.net).save(during)

    writer = ArtifactWriter(publish)
    fit = train_network(cfg, data, net, loggers, cluster, checkpoints, writer)

    # All that is left is done once, but for a second training.
    process = this_process()
    refit = None
    if settings.refit and len(split.validation) and not first(lambda: fit.hopeless):
        again = replace(checkpoints, artifact=maker.refitted().describe(net))
        refit = train_again(cfg, settings, fit, teacher, cluster, again, warm_start)
    judged = None
    if process.first:
        judged = judge_fit(
            fit, settings.data.fill, capacity, settings.seed, refit, settings.combine, champion
        )
    maker_of_first, maker = maker, maker if refit is None else maker.refitted()
    rejected = None if judged is None else _shortfall(settings, judged)
    individual = None
    if settings.artifact.per_series and first(lambda: rejected is None):
        individual = train_individually(cfg, run_dir, fit, judged, capacity, cluster, checkpoints)
    if judged is None:
        return Result(fit.score, fit.epochs, fit.best_epoch, fit.stopped_by, str(artifact_dir))
    parts: dict[str, Artifact] = {}
    if individual is not None:
        rejected = _shortfall(settings, individual, "with an embedding for each series ")
        parts = (maker if individual is judged else maker_of_first).single_series(individual)
    artifact = maker.finished(judged)
    target = artifact_dir if rejected is None else candidate_dir
    check_still_there(target.parent)
    artifact.save(target, parts)
    if rejected is None:
        discard(candidate_dir)
    else:
        kept = (
            f"{short_path(artifact_dir)} is left as it was"
            if artifact_dir.exists()
            else "nothing is published"
        )
        rejected = f"{rejected}; {kept}, the model is in {short_path(candidate_dir)}"
    weights, fingerprint = sha256(target), panel.fingerprint()
    if settings.repeat is not None:
        _compare(Path(settings.repeat), weights, fingerprint)
    close(cfg, settings, run_dir, target, judged, loggers, parameters, artifact, rejected is not None)
    return Result(
        fit.score,
        fit.epochs,
        fit.best_epoch,
        fit.stopped_by,
        str(target),
        aim_at(settings.objective, judged, artifact) if settings.objective != ["score"] else None,
        rejected,
        weights,
        fingerprint,
        threads,
    )


def _read(source: MetricSource, frequency: Frequency, run_dir: Path) -> Panel:
    """The history, read by the first process; what is mapped each maps itself once the first has made it."""
    from kforecast.metrics.csv import CsvSource

    if not (isinstance(source, CsvSource) and first(source.is_mapped)):
        return first(lambda: read_history(source, frequency, run_dir))
    made: list[Panel] = []
    first(lambda: made.append(read_history(source, frequency, run_dir)))
    return made[0] if made else read_history(source, frequency, run_dir)


def _checkpoints(cfg: DictConfig, earlier: Earlier, panel: Panel) -> Checkpoints:
    """Where this run keeps its checkpoints; the one it goes on from is of the same data."""
    from kforecast.training.resume.checkpoints import Checkpoints
    from kforecast.training.resume.reading import about_of, deciding, epoch_of

    folder = OmegaConf.select(cfg, "callbacks.model_checkpoint.dirpath")
    about = {"config": deciding(recorded(cfg)), "data": panel.fingerprint()}
    if earlier.checkpoint is not None:
        if about_of(earlier.checkpoint)["data"] != about["data"]:
            raise DataError(
                "resume: the checkpoint is of other data than this; give the data it was trained on, or "
                "leave out resume to begin anew"
            )
        epoch = epoch_of(earlier.checkpoint)
        log.info("Going on %s", "behind a training that is done" if epoch is None else f"in epoch {epoch}")
    path = None if folder is None else Path(folder)
    return Checkpoints(path, about, cfg.checkpoint_seconds, earlier.checkpoint, earlier.newest_of_all)


def _compare(run_dir: Path, weights: str, data: str) -> None:
    """Say whether a repeated run came to the same weights."""
    then = read_result(run_dir)
    name = short_path(run_dir)
    if then.get("weights") == weights:
        log.info("The weights equal those of %s, bit for bit", name)
    elif then.get("weights") is None:
        log.warning("%s did not come to its end: there is nothing to compare with", name)
    else:
        why = "the same data on another machine, or with other versions?"
        if changed := HydraConfig.get().overrides.task:
            why = f"trained with {' '.join(changed)}"
        if then.get("data") != data:
            why = "its data was other data"
        log.warning("The weights differ from those of %s: %s", name, why)


def _say_sample(settings: TrainSettings, split: Split) -> None:
    for part, most, key in (
        (split.train, settings.data.windows_per_epoch, "windows_per_epoch"),
        (split.validation, settings.data.validation_windows, "validation_windows"),
    ):
        if most is not None and most < len(part):
            what = "An epoch draws" if part is split.train else "A validation takes"
            log.info("%s %s of its %s windows (data.%s)", what, f"{most:,}", f"{len(part):,}", key)


def _shortfall(settings: TrainSettings, judged: JudgedFit, which: str = "") -> str | None:
    """Why the gate does not let a model pass; None when it does, or there is no gate."""
    from kforecast.evaluation.report.words import champion_shortfall, shortfall

    gate, board = settings.gate, judged.scoreboard
    if gate.require_skill is not None and (reason := shortfall(board, gate.require_skill)):
        return f"gate not passed (gate.require_skill={gate.require_skill:g}): {which}{reason}"
    if gate.champion is not None and not which and (reason := champion_shortfall(board, gate.require_gain)):
        return f"gate not passed (gate.champion={gate.champion}): {reason}"
    return None


def _split(panel: Panel, window: Window, settings: TrainSettings, run_dir: Path) -> Split:
    """Split, and say what the data looks like: on the console and in ``data_summary.csv``."""
    from kforecast.data.split import split_windows
    from kforecast.data.summary import data_table, summarize

    split = split_windows(panel, window, **settings.data.split_arguments)
    process = this_process()
    for part in ("train", "validation"):
        if 0 < (count := len(getattr(split, part))) < process.count:
            raise DataError(
                f"{process.count} processes cannot share the {count} windows of the {part} part; give a "
                "longer history, or start fewer processes"
            )
    if process.first:
        summary = summarize(panel, split)
        summary.to_csv(run_dir / "data_summary.csv", index=False)
        log.info("Data\n%s", data_table(summary, panel, split))
    return split


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    # TensorBoard's writer hands it on to whoever writes next.
    if not issubclass(failure.exc_type, OSError):
        threading.__excepthook__(failure)


if __name__ == "__main__":
    main()
