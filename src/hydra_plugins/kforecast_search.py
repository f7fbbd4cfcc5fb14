"""Where Hydra looks for plugins: the sweeper of ``hparams_search=optuna``."""

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class Search(Sweeper):
    """Runs :class:`kforecast.training.sweeps.search.Search`, and imports it only then."""

    def __init__(self, **settings: Any) -> None:
        """``settings`` are ``hydra.sweeper``, which ``setup`` gets too."""

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
