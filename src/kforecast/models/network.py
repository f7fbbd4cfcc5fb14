"""What training and serving ask of a network.

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
    """Windows as a network takes them; a forecast is ``center + scale * net(...)``."""

    inputs: tuple[Tensor, ...]
    """What ``forward`` takes, each [B, ...]."""
    center: Tensor
    """float32 [B, 1]: in the series' units."""
    scale: Tensor
    """float32 [B, 1], above 0: in the series' units."""
    alive: Tensor | None = None
    """bool [B, 1]: whether a window has a scale to be learned at; None when all have."""


class Forecast(NamedTuple):
    """Forecasts in the series' units."""

    values: Tensor
    """float32 [B, P]."""
    spread: Tensor
    """float32 [B, P] or [B, 1]: what errors are expected to be in proportion to."""
    parts: Tensor | None = None
    """float32 [parts, B, P]: forecasts that ``values`` is a mean of (:attr:`Network.parts`); None for one."""


class Network(nn.Module, ABC):
    """A network that forecasts windows.

    Attributes
    ----------
    lookback:
        What it sees beyond the context; None for nothing.
    windows_per_thread:
        Windows of a training step that are worth a CPU thread.
    parts:
        Names of the forecasts it is made of, which can be weighted anew (``combine``).
    window, num_series:
        What it forecasts, and how many series it was built for.
    series_table:
        Name of the weight that holds a row for each series.
    """

    lookback: Lookback | None = None
    windows_per_thread: int = 512
    parts: tuple[str, ...] = ("network",)
    window: Window
    num_series: int
    series_table: str

    @abstractmethod
    def prepare(self, batch: WindowBatch) -> Prepared:
        """Everything that has no weights in it, so that several batches are made ready at once."""

    @abstractmethod
    def losses(self, made: Tensor, target_BP: Tensor) -> Tensor:  # noqa: N803
        """What each step of each window loses, float32 [B, P].

        Parameters
        ----------
        made:
            What ``forward`` returned.
        target_BP:
            Targets less the center, divided by the scale.
        """

    @abstractmethod
    def forecast(self, batch: WindowBatch) -> Forecast:
        """Forecast windows."""

    def settle(self, seen: Sequence[Tensor]) -> None:
        """Give what training does not reach a value that can be served.

        Parameters
        ----------
        seen:
            For each calendar field of the frequency which of its numbers training sees, bool ``[numbers]``.
        """

    @abstractmethod
    def unknown_series(self) -> int | None:
        """The id that stands for a series that was not trained on; None when there is none."""

    @abstractmethod
    def series_rows(self, table: Tensor, rows: Tensor) -> Tensor:
        """This network's table of series, taken from the one of another with other series.

        Parameters
        ----------
        table:
            As an artifact holds it, float32.
        rows:
            For each series of this network its row there, int64; -1 for one that is new.
        """

    def settings(self) -> dict[str, Any]:
        """What its class needs, besides window and number of series, to be made again; plain values."""
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
        """The state dict an artifact holds: CPU float32, each tensor with a storage of its own."""
        return {
            name: value.detach().to("cpu", torch.float32).clone(memory_format=torch.contiguous_format)
            for name, value in self.state_dict().items()
        }
