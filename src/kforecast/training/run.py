"""A run from start to end, for kforecast-train, kforecast-retrain and kforecast.train.

Fetch the metrics and cut them into windows, train the network with early stopping, judge it on held-out data,
and publish the artifact.
"""

import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch import seed_everything

from kforecast.artifact import Artifact
from kforecast.console import short_path
from kforecast.data.datamodule import ForecastDataModule
from kforecast.data.summary import data_table, summarize
from kforecast.errors import DataError
from kforecast.evaluation.report.words import scores_table
from kforecast.evaluation.verdict import better_naive
from kforecast.files.directory import make_directories
from kforecast.files.lock import sole_writer
from kforecast.training.artifact_maker import ArtifactMaker
from kforecast.training.assemble import Assembly, network_of, windowed
from kforecast.training.callbacks import Progress
from kforecast.training.distributed.process_group import first, join
from kforecast.training.distributed.processes import this_process
from kforecast.training.distributed.threads import choose_threads
from kforecast.training.fit import Fit
from kforecast.training.holdout import JudgedFit, judge_fit
from kforecast.training.lightning_warnings import quiet
from kforecast.training.outcome import Outcome, hyper_parameters, show
from kforecast.training.plan import Recipe, recipe_of_teacher
from kforecast.training.publisher import Publisher
from kforecast.training.resume.checkpoints import Checkpoints
from kforecast.training.resume.reading import about_of, deciding, epoch_of
from kforecast.training.teacher import TEACHING_HELPS, Teacher
from kforecast.training.trackers import loggers_of, tracking

log = logging.getLogger(__name__)


def run(recipe: Recipe, say: Callable[[str], None] = log.debug) -> Outcome | None:
    """Train as the recipe says.

    Parameters
    ----------
    say:
        Receives lines about the progress.

    Returns
    -------
    The outcome; None in all processes but the first, which alone judges and writes.

    Raises
    ------
    KforecastError
        When a source, the data, the file system or the numbers do not allow it.
    """
    with quiet(), _reserved(recipe):
        return _run(recipe, say)


def _run(recipe: Recipe, say: Callable[[str], None]) -> Outcome | None:
    settings, process = recipe.settings, this_process()
    cluster = join(settings.trainer.accelerator)

    # Fetch the metrics and cut them into windows.
    data = windowed(recipe)
    _check_shares(data)
    if process.first and recipe.job is not None:
        summary = summarize(data.panel, data.split)
        summary.to_csv(recipe.run_dir / "data_summary.csv", index=False)
        log.info("Data\n%s", data_table(summary, data.panel, data.split))

    if settings.trains_teacher:
        recipe = _taught(recipe, data, say)

    # Build the network, and the recorders of its training: artifact, checkpoints, loggers.
    seed_everything(settings.seed, workers=True, verbose=False)
    net = network_of(recipe, data.panel)
    threads = choose_threads(settings.threads, data.batch_size, process.count, net.windows_per_thread)
    log.info("Seed %d; window: %s; CPU threads: %d", settings.seed, recipe.window, threads)
    say(
        f"Training {type(net).__name__} on {data.panel.num_series:,} series, {len(data.split.train):,} "
        f"windows ({recipe.window}), seed {settings.seed}"
    )
    if settings.trees is None:
        given = "with" if settings.with_trees else "without, as lightgbm is not installed"
        log.info("Boosted trees beside the network (trees=null): %s", given)
    if recipe.teacher is not None:
        recipe.teacher.announce(data.panel, data.split)
    if recipe.warm_start is not None:
        recipe.warm_start.announce()
    first_maker = maker = ArtifactMaker(recipe, data)
    maker.announce(net)
    _log_samples(recipe, data)
    checkpoints = first(lambda: _checkpoints(recipe, data, first_maker.describe(net)))
    publisher, assembly = Publisher(recipe), Assembly(recipe, cluster, checkpoints)
    parameters = hyper_parameters(recipe, data, net)
    loggers = loggers_of(recipe.loggers, short_path(recipe.run_dir))

    with tracking(loggers if process.first else [], parameters):
        # Train with early stopping. The artifact of the best epoch so far is written during the training.
        callbacks = publisher.writers(maker) if recipe.job is not None else [Progress(say)]
        fit = assembly.train(net, data, callbacks, loggers)

        # Train again, with the validation part, as many epochs as were best or a share of them.
        refit: Fit | None = None
        trained = settings.trainer.max_epochs > 0
        if settings.refit and trained and len(data.split.validation) and not first(lambda: fit.hopeless):
            say(f"training again, with the validation part, for {assembly.epochs_again(fit)} epochs (refit)")
            maker = maker.refitted()
            refit = assembly.train_again(fit, maker.describe(net))

        # Judge on held-out data.
        judged: JudgedFit | None = None
        rejected: str | None = None
        if process.first:
            fill, champion = settings.data.fill, recipe.champion
            judged = judge_fit(fit, fill, recipe.capacity, settings.seed, refit, settings.combine, champion)
            rejected = publisher.shortfall(judged)

        # Publish the artifact, with an artifact per series if requested.
        parts: dict[str, Artifact] = {}
        if settings.artifact.per_series and first(lambda: rejected is None):
            individual = _individual(assembly, fit, judged)
            if individual is not None:
                rejected = publisher.skill_shortfall(individual, "with an embedding for each series ")
                parts = (maker if individual is judged else first_maker).single_series(individual)
        if judged is None:
            return None
        artifact = maker.finished(judged)
        if recipe.artifact_dir is not None:
            rejected = publisher.publish(artifact, parts, rejected)
        if rejected is None and judged.scoreboard is not None and (words := better_naive(judged.scoreboard)):
            log.warning("%s", words)
        outcome = Outcome(recipe, judged, artifact, data.panel.fingerprint(), threads, rejected)
        if recipe.job is not None:
            show(outcome, loggers, parameters)
        return outcome


def _reserved(recipe: Recipe) -> AbstractContextManager[None]:
    """Keep other runs from writing the artifact."""
    if recipe.artifact_dir is None or not this_process().first:
        return nullcontext()
    return sole_writer(
        recipe.artifact_dir, f"the run in {short_path(recipe.run_dir)} (process {os.getpid()})"
    )


def _taught(recipe: Recipe, data: ForecastDataModule, say: Callable[[str], None]) -> Recipe:
    """The recipe with a teacher that is trained here, if there are few enough windows to need one."""
    count = len(data.split.train)
    if count > TEACHING_HELPS:
        log.info("No teacher: %s windows are enough without (teacher=auto)", f"{count:,}")
        return recipe
    directory = recipe.run_dir / "teacher"
    if recipe.earlier.checkpoint is None or not directory.is_dir():
        log.info("Training a teacher first: model=auto (teacher=auto)")
        with tempfile.TemporaryDirectory(dir=recipe.run_dir, prefix="teacher-") as folder:
            outcome = _run(
                recipe_of_teacher(recipe, data.panel, Path(folder)), say if recipe.job is None else log.info
            )
        assert outcome is not None
        outcome.artifact.save(directory)
    data.teacher = Teacher.load(directory, recipe.window)
    return replace(recipe, teacher=data.teacher)


def _check_shares(data: ForecastDataModule) -> None:
    """Check that each process gets windows of each part."""
    count = this_process().count
    for part in ("train", "validation"):
        if 0 < (windows := len(getattr(data.split, part))) < count:
            raise DataError(
                f"{count} processes cannot share the {windows} windows of the {part} part; give a "
                "longer history, or start fewer processes"
            )


def _log_samples(recipe: Recipe, data: ForecastDataModule) -> None:
    """Log which parts have more windows than an epoch or a validation uses."""
    settings = recipe.settings.data
    for what, part, most, key in (
        ("An epoch draws", data.split.train, settings.windows_per_epoch, "windows_per_epoch"),
        ("A validation takes", data.split.validation, settings.validation_windows, "validation_windows"),
    ):
        if most is not None and most < len(part):
            log.info("%s %s of its %s windows (data.%s)", what, f"{most:,}", f"{len(part):,}", key)


def _checkpoints(recipe: Recipe, data: ForecastDataModule, described: dict[str, Any]) -> Checkpoints:
    """Where this run keeps its checkpoints, and the one it resumes from.

    Raises
    ------
    DataError
        When that one was trained on other data.
    """
    every, earlier = recipe.settings.checkpoint_seconds, recipe.earlier
    if recipe.job is None:
        # No checkpoints to resume from, but ModelCheckpoint writes the best epoch's weights to a file.
        if recipe.checkpoint_dir is not None:
            make_directories(recipe.checkpoint_dir)
        return Checkpoints(None, {}, every, artifact=described)
    about = {"config": deciding(dict(recipe.recorded)), "data": data.panel.fingerprint()}
    if earlier.checkpoint is not None:
        if about_of(earlier.checkpoint)["data"] != about["data"]:
            raise DataError(
                "resume: the checkpoint was trained on other data; give the same data, or leave out resume "
                "to train from the beginning"
            )
        epoch = epoch_of(earlier.checkpoint)
        log.info("Going on %s", "behind a training that is done" if epoch is None else f"in epoch {epoch}")
    folder, others = recipe.checkpoint_dir, earlier.newest_of_all
    return Checkpoints(folder, about, every, earlier.checkpoint, others, described)


def _individual(assembly: Assembly, fit: Fit, judged: JudgedFit | None) -> JudgedFit | None:
    """A network with individual embeddings, judged: the one at hand, or one that is trained here.

    None in all processes but the first, which alone judges.
    """
    recipe = assembly.recipe
    if not recipe.settings.model.shared_embedding:
        return judged
    own = assembly.train_individually(fit)
    if judged is None:
        return None
    found = judge_fit(own, recipe.settings.data.fill, recipe.capacity, recipe.settings.seed)
    if found.scoreboard is not None:
        log.info("How good are individual embeddings?\n%s", scores_table(found.scoreboard))
    return found
