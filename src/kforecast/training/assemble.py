"""The trainings of a run: the first, a second one on all data, and one with an embedding for each series."""

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
from kforecast.models import BoostedTrees, Network, SeasonalTrees
from kforecast.training.boosting import ROUNDS, Boosting, grow, grow_beside
from kforecast.training.distributed.process_group import first
from kforecast.training.distributed.processes import this_process
from kforecast.training.fit import Fit, fit, untrained
from kforecast.training.median_stopping import MedianStopping
from kforecast.training.module import ForecastModule
from kforecast.training.plan import Recipe
from kforecast.training.resume.checkpoints import Checkpoints, WholeFiles

log = logging.getLogger(__name__)

# Epochs of a second training that continues the first: a share of the best epoch, but at least two, to learn
# from the validation part more than once.
_CONTINUED, _FEWEST = 0.4, 2


def data_of(recipe: Recipe, source: Any = None) -> ForecastDataModule:
    """The recipe's data module, not set up yet; ``source`` replaces the recipe's source."""
    # A panel comes from another data module of the run, which has taken the events out.
    without = {} if source is None else {"events": None, "incidents": None}
    data: ForecastDataModule = recipe.data(
        source=recipe.history if source is None else source,
        window=recipe.window,
        seed=recipe.settings.seed,
        folder=recipe.run_dir,
        teacher=recipe.teacher,
        # Kapacity's job bins in UTC, whatever the time zone of a workload.
        local_bins=recipe.settings.model.shared_embedding is None,
        **without,
    )
    return data


def windowed(recipe: Recipe) -> ForecastDataModule:
    """The recipe's data module, set up in every process of the run.

    The first process fetches and reads. The others receive its panel, or map the file that the first has
    written of a large history.
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
    """The network, with the weights that training begins from."""
    net: Network = recipe.network(window=recipe.window, num_series=panel.num_series)
    if recipe.warm_start is not None:
        recipe.warm_start.give(net, panel)
    return net


@dataclass(frozen=True)
class Assembly:
    """Builds module and trainer as the recipe says, and trains.

    Attributes
    ----------
    recipe:
        The recipe of the run.
    cluster:
        The launcher's environment, for Lightning; None for one process.
    checkpoints:
        The folder of checkpoints, and the one to resume from.
    trees:
        Most trees to grow beside a network.
    """

    recipe: Recipe
    cluster: ClusterEnvironment | None
    checkpoints: Checkpoints
    trees: int = ROUNDS

    def train(
        self,
        net: Network,
        data: ForecastDataModule,
        callbacks: Sequence[Callback] = (),
        loggers: Sequence[Logger] = (),
        training: str = "",
        schedule_epochs: int | None = None,
    ) -> Fit:
        """Train ``net``.

        Parameters
        ----------
        training:
            Name of the training; empty for the first one of a run.
        schedule_epochs:
            Length of the schedule of the learning rate; None for the epochs of this training.
        """
        recipe, settings = self.recipe, self.recipe.settings
        # Finds wrong settings of the optimizer before the training begins.
        recipe.optimizer(params=net.parameters())
        if isinstance(net, BoostedTrees):
            return self._grow(net, data, training)
        if not settings.trainer.max_epochs:
            return untrained(ForecastModule(net), data)
        used = [callback() for callback in recipe.callbacks.values()]
        run_checkpoint, resumed = self.checkpoints.of(training)
        if training:  # the jobs of a sweep are compared by their first trainings
            used = [callback for callback in used if not isinstance(callback, MedianStopping)]
        # The run's checkpoint comes last: it saves the state of the other callbacks.
        used += [*callbacks, run_checkpoint]
        # The bars of several jobs on one terminal would overwrite each other.
        job = recipe.job
        shows_bar = sys.stdout.isatty() and job is not None and not job.beside_others
        if shows_bar:
            used.append(RichProgressBar(leave=False))
        trainer = recipe.trainer(
            callbacks=used,
            # Given even for one process: otherwise Lightning would search the environment for a cluster.
            plugins=[self.cluster or LightningEnvironment(), WholeFiles(resumed)],
            logger=list(loggers) or False,
            enable_progress_bar=shows_bar,
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
            found = fit(module, data, trainer, settings.monitor, run_checkpoint, resumed)
        finally:
            run_checkpoint.restore_handlers()
        if isinstance(net, SeasonalTrees) and this_process().first and not found.hopeless:
            return grow_beside(found, Boosting(settings.seed, rounds=self.trees), run_checkpoint)
        return found

    def _grow(self, net: BoostedTrees, data: ForecastDataModule, training: str) -> Fit:
        """Grow trees, one an epoch; a training that was interrupted begins again."""
        recipe, settings = self.recipe, self.recipe.settings
        run_checkpoint, resumed = self.checkpoints.of(training)
        stopping = settings.callbacks.early_stopping
        how = Boosting(
            settings.seed,
            rounds=recipe.trainer.settings["max_epochs"],
            rate=settings.optimizer.lr,
            patience=None if stopping is None else stopping.patience,
        )
        return grow(ForecastModule(net), data, how, run_checkpoint, resumed)

    def epochs_again(self, first_fit: Fit) -> int:
        """Epochs of the second training: as many as were best, or fewer if it continues the first."""
        # Only the first process knows the best epoch of a training that was resumed after its end.
        best = first(lambda: first_fit.best_epoch)
        return max(_FEWEST, round(_CONTINUED * best)) if self.recipe.continues else best

    def train_again(self, first_fit: Fit, described: dict[str, Any]) -> Fit:
        """Train the network again, with the validation part, for :meth:`epochs_again`.

        With ``refit=continue`` it begins from the best weights, and the learning rate falls to zero.

        Parameters
        ----------
        described:
            The artifact without weights, for the checkpoints.
        """
        epochs = self.epochs_again(first_fit)
        log.info("Training again, with the validation part, for %d epochs (refit)", epochs)
        recipe, checkpoints = self.recipe.on_all_data(epochs), replace(self.checkpoints, artifact=described)
        seed_everything(recipe.settings.seed, workers=True, verbose=False)
        panel = first_fit.data.panel
        net, data = network_of(recipe, panel), data_of(recipe, panel)
        data.setup("fit")
        trees = max(1, first_fit.net.trees.count) if isinstance(first_fit.net, SeasonalTrees) else ROUNDS
        assembly = replace(self, recipe=recipe, checkpoints=checkpoints, trees=trees)
        if not recipe.continues:
            whole = self.recipe.settings.trainer.max_epochs
            return assembly.train(net, data, training="refit", schedule_epochs=whole)
        # Only the first process has the best weights of such a training.
        weights = first(lambda: {name: value.cpu() for name, value in first_fit.net.state_dict().items()})
        net.load_state_dict(weights)
        return assembly.train(net, data, training="refit")

    def train_individually(self, first_fit: Fit) -> Fit:
        """Train a network with an embedding for each series, on the same windows."""
        log.info("Training once more, with an embedding for each series, for artifact.per_series")
        recipe = self.recipe.with_own_embeddings()
        net = recipe.network(window=recipe.window, num_series=first_fit.data.panel.num_series)
        return replace(self, recipe=recipe).train(net, first_fit.data, training="per_series")
