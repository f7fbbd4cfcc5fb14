"""Training windows whose targets lean towards a teacher's forecasts.

Shape suffixes: B windows, P horizon bins.
"""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kforecast.data.origins import Cells
from kforecast.data.windows import WindowBatch, WindowDataset

# With nine tenths Fcnet did better than with half or none on recordings with few windows (docs/models.md).
_TEACHER = 0.9


class TaughtWindows(Dataset[WindowBatch]):
    """Windows with nine tenths of a teacher's forecast and one of what came as their target.

    What came is the teacher's expectation and noise; without most of the noise there is less to learn by
    heart (distillation: Hinton et al. 2015, https://arxiv.org/abs/1503.02531). Where nothing was observed the
    teacher alone is the target.

    Parameters
    ----------
    windows:
        Those that are taught; their panel's tensors are used as they are, wherever they are.
    cells:
        The only ones that may be asked for.
    forecasts:
        The teacher's, float32 ``[len(cells), P]``.
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
