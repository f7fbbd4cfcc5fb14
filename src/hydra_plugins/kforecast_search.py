"""Where Hydra looks for plugins: the sweeper of ``hparams_search=optuna``."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class Search(Sweeper):
    """Hands everything to :class:`kforecast.training.search.Search`; every start of Hydra imports this."""

    def __init__(self, **settings: Any) -> None:
        from kforecast.training.search import Search as WholeSearch

        self._search = WholeSearch(**settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See :class:`Sweeper`."""
        self._search.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> None:
        """See :class:`Sweeper`."""
        self._search.sweep(arguments)
