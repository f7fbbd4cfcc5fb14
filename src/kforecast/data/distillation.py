"""Distillation: training windows whose targets are mixed with a teacher's forecasts.

Shape suffixes: B windows, P horizon bins.
"""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kforecast.data.origins import Cells
from kforecast.data.windows import WindowBatch, WindowDataset

# The teacher's share of a target. On recordings with few windows Fcnet did better with nine tenths than with
# half or none (docs/models.md).
_TEACHER = 0.9


class TaughtWindows(Dataset[WindowBatch]):
    """Windows whose target is nine tenths of a teacher's forecast and one tenth of the observed value.

    Observed values are the teacher's expectation plus noise; with most of the noise removed there is less to
    overfit (distillation: Hinton et al. 2015, https://arxiv.org/abs/1503.02531). Unobserved targets are the
    teacher's forecast alone.

    Parameters
    ----------
    windows:
        The windows without a teacher; their tensors are used where they are.
    cells:
        The windows that have a forecast, in ascending order; no others may be requested.
    forecasts:
        The teacher's forecasts, float32 ``[len(cells), P]``.
    """

    def __init__(self, windows: WindowDataset, cells: Cells, forecasts: np.ndarray) -> None:
        self._windows = windows
        self._cells = torch.from_numpy(np.asarray(cells))
        self._forecasts = torch.from_numpy(forecasts)

    def __getitem__(self, cell_B: Tensor) -> WindowBatch:  # noqa: N803
        """See :class:`kforecast.data.windows.WindowDataset`."""
        batch = self._windows[cell_B]
        forecast_BP = self._forecasts[torch.searchsorted(self._cells, cell_B)].to(batch.target.device)  # noqa: N806
        mixed_BP = torch.lerp(batch.target, forecast_BP, _TEACHER)  # noqa: N806
        return batch._replace(
            target=torch.where(batch.observed, mixed_BP, forecast_BP),
            observed=torch.ones_like(batch.observed),
        )
