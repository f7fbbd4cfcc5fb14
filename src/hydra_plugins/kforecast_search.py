"""The sweeper of ``hparams_search=optuna``, in the namespace package that Hydra searches for plugins."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class Search(Sweeper):
    """Runs :class:`kforecast.training.sweeps.search.Search`, which it imports only then."""

    def __init__(self, **settings: Any) -> None:
        """``settings`` are the keys of ``hydra.sweeper``; ``setup`` gets them in its configuration."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See :class:`Sweeper`."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """See :class:`Sweeper`."""
        from kforecast.training.sweeps.search import Search as OptunaSearch

        assert self.config is not None
        assert self.launcher is not None
        OptunaSearch(self.config, arguments).run(self.launcher)
