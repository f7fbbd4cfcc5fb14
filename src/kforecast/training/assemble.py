"""The trainings of a run: the first, one more on all data, and one with an embedding for each series."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback, Checkpoint, RichProgressBar
from lightning.pytorch.loggers import Logger

from kforecast.data.datamodule import ForecastDataModule
from kforecast.data.panel import Panel
from kforecast.metrics.csv import CsvSource
from kforecast.models import Network
from kforecast.training.distributed.process_group import first
from kforecast.training.distributed.processes import this_process
from kforecast.training.fit import Fit, fit
from kforecast.training.median_stopping import MedianStopping
from kforecast.training.module import ForecastModule
from kforecast.training.plan import Recipe
from kforecast.training.resume.checkpoints import Checkpoints, WholeFiles

log = logging.getLogger(__name__)


def data_of(recipe: Recipe, source: Any = None) -> ForecastDataModule:
    """The recipe's data module, of another source where one is given; not set up yet."""
    data: ForecastDataModule = recipe.data(
        source=recipe.history if source is None else source,
        window=recipe.window,
        seed=recipe.settings.seed,
        folder=recipe.run_dir,
        teacher=recipe.teacher,
    )
    return data


def windowed(recipe: Recipe) -> ForecastDataModule:
    """The recipe's data module, set up in every process of the run.

    The first process fetches and reads. The others get its panel, unless each can map the file that the first
    has made of a large history.
    """
    data = data_of(recipe)
    source = recipe.history
    mapped = first(lambda: isinstance(source, CsvSource) and source.is_mapped())

    def read() -> Panel | None:
        data.prepare_data()
        data.setup("fit")
        return None if mapped else data.panel

    panel = first(read)
    if not this_process().first:
        data = data if panel is None else data_of(recipe, panel)
        data.setup("fit")
    return data


def network_of(recipe: Recipe, panel: Panel) -> Network:
    """The network that is to be trained, with the weights that training begins from."""
    net: Network = recipe.network(window=recipe.window, num_series=panel.num_series)
    if recipe.warm_start is not None:
        recipe.warm_start.give(net, panel)
    return net


@dataclass(frozen=True)
class Assembly:
    """Puts together network, data and trainer as the recipe says, and trains.

    Attributes
    ----------
    recipe:
        What is trained, and how.
    cluster:
        What Lightning needs to know of a launcher; None for one process.
    checkpoints:
        Where the trainings keep theirs, and which one to resume from.
    """

    recipe: Recipe
    cluster: ClusterEnvironment | None
    checkpoints: Checkpoints

    def train(
        self,
        net: Network,
        data: ForecastDataModule,
        callbacks: Sequence[Callback] = (),
        loggers: Sequence[Logger] = (),
        training: str = "",
        schedule_epochs: int | None = None,
    ) -> Fit:
        """Train ``net``; the first training of a run has no name."""
        recipe, settings = self.recipe, self.recipe.settings
        # An optimizer that refuses its settings is found now, not when training has begun.
        recipe.optimizer(params=net.parameters())
        used = [callback() for callback in recipe.callbacks.values()]
        run_checkpoint, resumed = self.checkpoints.of(training)
        if training:  # other jobs are judged by their first one
            used = [callback for callback in used if not isinstance(callback, MedianStopping)]
        # It comes last, and sees what the others have done.
        used += [*callbacks, run_checkpoint]
        # The bars of several jobs on one terminal would overwrite each other.
        job = recipe.job
        watched = sys.stdout.isatty() and job is not None and not job.beside_others
        if watched:
            used.append(RichProgressBar(leave=False))
        trainer = recipe.trainer(
            callbacks=used,
            # Named even for one process: Lightning would look for a cluster in the environment by itself.
            plugins=[self.cluster or LightningEnvironment(), WholeFiles(resumed)],
            logger=list(loggers) or False,
            enable_progress_bar=watched,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in used),
        )
        module = ForecastModule(
            net,
            lambda parameters: recipe.optimizer(params=parameters),
            gradient_clip_val=settings.trainer.gradient_clip_val,
            average_windows=settings.average_windows,
            schedule=settings.schedule,
            schedule_epochs=schedule_epochs,
        )
        try:
            return fit(module, data, trainer, settings.monitor, run_checkpoint, resumed)
        finally:
            run_checkpoint.restore_handlers()

    def train_again(self, first_fit: Fit) -> Fit:
        """Train the network again, on the validation part too, for as many epochs as were best before."""
        # Only the first process has read the checkpoint that says it.
        epochs = first(lambda: first_fit.best_epoch)
        log.info("Training again, with the validation part, for %d epochs (refit)", epochs)
        recipe = self.recipe.on_all_data(epochs)
        seed_everything(recipe.settings.seed, workers=True, verbose=False)
        panel = first_fit.data.panel
        net, data = network_of(recipe, panel), data_of(recipe, panel)
        data.setup("fit")
        whole = self.recipe.settings.trainer.max_epochs
        return replace(self, recipe=recipe).train(net, data, training="refit", schedule_epochs=whole)

    def train_individually(self, first_fit: Fit) -> Fit:
        """Train a network with an embedding for each series, on the same windows."""
        log.info("Training once more, with an embedding for each series, for artifact.per_series")
        recipe = self.recipe.with_own_embeddings()
        net = recipe.network(window=recipe.window, num_series=first_fit.data.panel.num_series)
        return replace(self, recipe=recipe).train(net, first_fit.data, training="per_series")
