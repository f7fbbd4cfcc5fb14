"""The story of a run, told once: for kforecast-train, kforecast.train and retraining.

Fetch the metrics and cut them into windows, train the network with early stopping, judge it on held-out data,
and publish the artifact.
"""

import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from lightning.pytorch import seed_everything

from kforecast.artifact import Artifact, EstimatorConfig
from kforecast.console import short_path
from kforecast.data.datamodule import ForecastDataModule
from kforecast.data.summary import data_table, summarize
from kforecast.errors import DataError
from kforecast.evaluation.report.words import scores_table
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
from kforecast.training.plan import Recipe
from kforecast.training.publisher import Publisher
from kforecast.training.resume.checkpoints import Checkpoints
from kforecast.training.resume.reading import about_of, deciding, epoch_of
from kforecast.training.trackers import loggers_of, tracking

log = logging.getLogger(__name__)


def run(recipe: Recipe, say: Callable[[str], None] = log.debug) -> Outcome | None:
    """Train as the recipe says.

    Parameters
    ----------
    say:
        Gets a line every now and then, for somebody who waits.

    Returns
    -------
    What the run came to; None in all processes but the first, which alone judges and writes.

    Raises
    ------
    KforecastError
        When a source, the data, the file system or the numbers do not allow it.
    """
    with ExitStack() as held:
        held.enter_context(quiet())
        if recipe.artifact_dir is not None and this_process().first:
            name = f"the run in {short_path(recipe.run_dir)} (process {os.getpid()})"
            held.enter_context(sole_writer(recipe.artifact_dir, name))
        return _run(recipe, say, held)


def _run(recipe: Recipe, say: Callable[[str], None], held: ExitStack) -> Outcome | None:
    settings, process = recipe.settings, this_process()
    cluster = join(settings.trainer.accelerator)

    # Fetch the metrics and cut them into windows.
    data = windowed(recipe)
    _say_data(recipe, data)

    # Build the network, and know what an artifact of it says.
    seed_everything(settings.seed, workers=True, verbose=False)
    net = network_of(recipe, data.panel)
    threads = choose_threads(settings.threads, data.batch_size, process.count, net.windows_per_thread)
    log.info("Seed %d; window: %s; CPU threads: %d", settings.seed, recipe.window, threads)
    say(
        f"Training {type(net).__name__} on {data.panel.num_series:,} series, {len(data.split.train):,} "
        f"windows ({recipe.window}), seed {settings.seed}"
    )
    _say_earlier_artifacts(recipe, data)
    maker = ArtifactMaker(_estimator_config(recipe, data), recipe.recorded, data)
    maker.announce(net)
    _say_sample(recipe, data)
    publisher = Publisher(recipe)
    checkpoints = replace(first(lambda: _checkpoints(recipe, data)), artifact=maker.describe(net))
    parameters = {} if recipe.job is None else hyper_parameters(recipe, data, net)
    loggers = loggers_of(recipe.loggers, short_path(recipe.run_dir))
    if process.first:
        held.enter_context(tracking(loggers, parameters))

    # Train it, with early stopping; the artifact of the best epoch so far is written on the way.
    assembly = Assembly(recipe, cluster, checkpoints)
    callbacks = publisher.writers(maker) if recipe.job is not None else [Progress(say)]
    fit = assembly.train(net, data, callbacks, loggers)

    # Train it once more, on the validation part too.
    refit: Fit | None = None
    of_first = maker
    if settings.refit and len(data.split.validation) and not first(lambda: fit.hopeless):
        say(f"training again, with the validation part, for {fit.best_epoch} epochs (refit)")
        maker = maker.refitted()
        again = replace(checkpoints, artifact=maker.describe(net))
        refit = replace(assembly, checkpoints=again).train_again(fit)

    # Judge it on what was held out.
    judged = _judge(recipe, fit, refit) if process.first else None
    rejected = None if judged is None else publisher.shortfall(judged)

    # Publish the artifact, beside it those of single series.
    parts: dict[str, Artifact] = {}
    if settings.artifact.per_series and first(lambda: rejected is None):
        individual = _individual(assembly, fit, judged)
        if individual is not None:
            rejected = publisher.skill_shortfall(individual, "with an embedding for each series ")
            parts = (maker if individual is judged else of_first).single_series(individual)
    if judged is None:
        return None
    artifact = maker.finished(judged)
    if recipe.artifact_dir is not None:
        rejected = publisher.publish(artifact, parts, rejected)
    outcome = Outcome(judged, artifact, data.panel.fingerprint(), threads, rejected)
    if recipe.job is not None:
        show(recipe, outcome, loggers, parameters)
    return outcome


def _say_data(recipe: Recipe, data: ForecastDataModule) -> None:
    """Say what the data looks like: on the console and in ``data_summary.csv``."""
    process = this_process()
    for part in ("train", "validation"):
        if 0 < (count := len(getattr(data.split, part))) < process.count:
            raise DataError(
                f"{process.count} processes cannot share the {count} windows of the {part} part; give a "
                "longer history, or start fewer processes"
            )
    if process.first and recipe.job is not None:
        summary = summarize(data.panel, data.split)
        summary.to_csv(recipe.run_dir / "data_summary.csv", index=False)
        log.info("Data\n%s", data_table(summary, data.panel, data.split))


def _say_earlier_artifacts(recipe: Recipe, data: ForecastDataModule) -> None:
    if recipe.teacher is not None:
        recipe.teacher.announce(data.panel, data.split)
    if recipe.warm_start is not None:
        recipe.warm_start.announce()


def _say_sample(recipe: Recipe, data: ForecastDataModule) -> None:
    settings = recipe.settings.data
    for part, most, key in (
        (data.split.train, settings.windows_per_epoch, "windows_per_epoch"),
        (data.split.validation, settings.validation_windows, "validation_windows"),
    ):
        if most is not None and most < len(part):
            what = "An epoch draws" if key == "windows_per_epoch" else "A validation takes"
            log.info("%s %s of its %s windows (data.%s)", what, f"{most:,}", f"{len(part):,}", key)


def _estimator_config(recipe: Recipe, data: ForecastDataModule) -> EstimatorConfig:
    """What estimator_config.yaml says of a training."""
    settings = recipe.settings
    stopping = settings.callbacks.early_stopping
    return EstimatorConfig(
        freq=settings.window.freq,
        prediction_length=settings.window.prediction_length,
        context_length=settings.window.context_length,
        num_series=data.panel.num_series,
        learning_rate=settings.optimizer.lr,
        epochs=settings.trainer.max_epochs,
        batch_size=settings.data.batch_size,
        num_workers=settings.data.num_workers,
        patience=0 if stopping is None else stopping.patience,
        use_validation=bool(settings.data.validation),
    )


def _checkpoints(recipe: Recipe, data: ForecastDataModule) -> Checkpoints:
    """Where this run keeps its checkpoints; the one it resumes from is of the same data."""
    every, earlier = recipe.settings.checkpoint_seconds, recipe.earlier
    if recipe.job is None:
        # Nothing to resume from is kept, but the best epoch's weights lie in a file.
        if recipe.checkpoint_dir is not None:
            make_directories(recipe.checkpoint_dir)
        return Checkpoints(None, {}, every)
    about = {"config": deciding(dict(recipe.recorded)), "data": data.panel.fingerprint()}
    if earlier.checkpoint is not None:
        if about_of(earlier.checkpoint)["data"] != about["data"]:
            raise DataError(
                "resume: the checkpoint is of other data than this; give the data it was trained on, or "
                "leave out resume to begin anew"
            )
        epoch = epoch_of(earlier.checkpoint)
        log.info("Going on %s", "behind a training that is done" if epoch is None else f"in epoch {epoch}")
    return Checkpoints(recipe.checkpoint_dir, about, every, earlier.checkpoint, earlier.newest_of_all)


def _judge(recipe: Recipe, fit: Fit, refit: Fit | None) -> JudgedFit:
    settings = recipe.settings
    return judge_fit(
        fit, settings.data.fill, recipe.capacity, settings.seed, refit, settings.combine, recipe.champion
    )


def _individual(assembly: Assembly, fit: Fit, judged: JudgedFit | None) -> JudgedFit | None:
    """The network with individual embeddings, judged: the one at hand, or another that is trained here.

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
