"""The interface of a network for training and serving.

Shape suffixes: B windows, C context bins, P horizon bins.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kforecast.data.windows import WindowBatch
from kforecast.window import Lookback, Window


class Prepared(NamedTuple):
    """Windows prepared for a network; a forecast is ``center + scale * net(...)``."""

    inputs: tuple[Tensor, ...]
    """Arguments of ``forward``, each [B, ...]."""
    center: Tensor
    """float32 [B, 1], in the series' units."""
    scale: Tensor
    """float32 [B, 1], above 0, in the series' units."""
    alive: Tensor | None = None
    """bool [B, 1]: whether a window has a scale and can be learned from; None if all have one."""


class Forecast(NamedTuple):
    """Forecasts in the series' units."""

    values: Tensor
    """float32 [B, P]."""
    spread: Tensor
    """float32 [B, P] or [B, 1]: errors are expected to be proportional to it."""
    parts: Tensor | None = None
    """float32 [parts, B, P]: the forecasts whose mean is ``values`` (:attr:`Network.parts`); None for one."""


class Network(nn.Module, ABC):
    """A network that forecasts windows.

    Attributes
    ----------
    lookback:
        Bins that it sees beyond the context; None for the context alone.
    windows_per_thread:
        Windows of a training step per CPU thread; fewer would not be worth another thread.
    parts:
        Names of the forecasts whose mean is its forecast; they can be weighted differently (``combine``).
    equal_share:
        How far fitted weights of the parts are drawn towards equal ones, from 0 to 1.
    window, num_series:
        Its window, and the number of series that it was built for.
    series_table:
        Name of the weight with one row per series; empty if there is none.
    with_prior:
        Whether it has pre-trained weights beside its own (:meth:`prior_forecast`).
    """

    lookback: Lookback | None = None
    windows_per_thread: int = 512
    parts: tuple[str, ...] = ("network",)
    equal_share: float = 0.0
    window: Window
    num_series: int
    series_table: str = ""
    with_prior: bool = False

    @abstractmethod
    def prepare(self, batch: WindowBatch) -> Prepared:
        """Compute everything that needs no weights, so that several batches can be prepared at once."""

    @abstractmethod
    def losses(self, made: Tensor, target_BP: Tensor) -> Tensor:  # noqa: N803
        """The loss of each step of each window, float32 [B, P].

        Parameters
        ----------
        made:
            Output of ``forward``.
        target_BP:
            Targets minus the center, divided by the scale.
        """

    @abstractmethod
    def forecast(self, batch: WindowBatch) -> Forecast:
        """Forecast windows."""

    def prior_forecast(self, batch: WindowBatch) -> Tensor | None:  # noqa: ARG002
        """The forecast of pre-trained weights beside the network's own, float32 [B, P]; None without any."""
        return None

    def settle(self, seen: Sequence[Tensor]) -> None:
        """Give weights that training never reaches a value that can be served.

        Parameters
        ----------
        seen:
            For each calendar field of the frequency, which of its values training sees, bool ``[values]``.
        """

    @abstractmethod
    def unknown_series(self) -> int | None:
        """The id for series that were not in training; None if the network has none."""

    @abstractmethod
    def series_rows(self, table: Tensor, rows: Tensor) -> Tensor:
        """The table of this network's series, taken from another network's table.

        Parameters
        ----------
        table:
            The table in the other network's artifact, float32.
        rows:
            Its row for each series of this network, int64; -1 for a new series.
        """

    def settings(self) -> dict[str, Any]:
        """The arguments of its class, other than window and number of series, as plain values."""
        return {}

    def arguments(self) -> dict[str, Any]:
        """Arguments of its class besides window and number of series, as plain values."""
        return self.settings()

    def description(self) -> dict[str, Any]:
        """Plain values for :func:`kforecast.models.rebuilt`, which makes the network again, untrained."""
        return {
            "network": type(self).__name__,
            "freq": self.window.frequency.name,
            "context_length": self.window.context_length,
            "prediction_length": self.window.prediction_length,
            "num_series": self.num_series,
            "arguments": self.arguments(),
        }

    def artifact_state(self) -> dict[str, Tensor]:
        """The state dict for an artifact: CPU float32, each tensor with its own storage."""
        return {
            name: value.detach().to("cpu", torch.float32).clone(memory_format=torch.contiguous_format)
            for name, value in self.state_dict().items()
        }


def pinball(error: Tensor, levels: Sequence[float]) -> Tensor:
    """Twice the mean pinball loss over members and quantiles; for the median it is the absolute error.

    Parameters
    ----------
    error:
        Target minus forecast, ``[members, ..., quantiles]``.
    """
    level = torch.tensor(levels, device=error.device)
    return 2 * torch.maximum(level * error, (level - 1) * error).mean(dim=(0, -1))
