"""Bins as they look when they have just begun, for a job that starts then."""

import numpy as np
import pandas as pd

from kforecast.data.panel import Panel

# Kapacity's job asks for a value every 60 seconds (contract 7).
_FIRST = 60


def edge_values(rows: pd.DataFrame, panel: Panel) -> np.ndarray:
    """The mean of the first rows of each bin: those of the minute that begins with its first row.

    Parameters
    ----------
    rows:
        The long frame that the panel was made from; other series are ignored.

    Returns
    -------
    float32 ``[series, time]``; 0 for a bin without rows.
    """
    rows = rows[rows["value"].notna()]
    names = pd.MultiIndex.from_arrays([rows[name].astype(str) for name in ("workload", "metric")])
    series = pd.MultiIndex.from_tuples(panel.series).get_indexer(names)
    second = np.floor(rows["timestamp"].to_numpy(np.float64)).astype(np.int64)
    begins = panel.seconds(np.arange(panel.num_bins + 1, dtype=np.int64))
    number = np.searchsorted(begins, second, side="right") - 1
    inside = (series >= 0) & (number >= 0) & (number < panel.num_bins)
    cell, second = series[inside] * panel.num_bins + number[inside], second[inside]
    cells = panel.num_series * panel.num_bins
    first = np.full(cells, np.iinfo(np.int64).max)
    np.minimum.at(first, cell, second)
    early = second - first[cell] < _FIRST
    value = rows["value"].to_numpy(np.float64)[inside][early]
    count = np.bincount(cell[early], minlength=cells)
    total = np.bincount(cell[early], weights=value, minlength=cells)
    mean = np.divide(total, count, out=np.zeros(cells), where=count > 0)
    return mean.astype(np.float32).reshape(panel.num_series, panel.num_bins)
