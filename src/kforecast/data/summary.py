"""The data summary: one row per series, shown before training starts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from kforecast.console import table
from kforecast.data.origins import blocks
from kforecast.data.panel import Panel
from kforecast.data.split import Split
from kforecast.errors import few

# With more series than this, the table shows only the worst.
_MOST_ROWS = 10
_PARTS = ("train", "validation", "test")


def summarize(panel: Panel, split: Split) -> pd.DataFrame:
    """Describe every series of a panel.

    Returns
    -------
    DataFrame with one row per series: ``workload, metric, points`` (observed bins), ``first, last`` (unix
    seconds of the outermost observed bins), ``missing`` (share of unobserved bins between them), ``zeros``
    (share of observed bins that are zero), ``min, mean, max`` and its number of windows in each part:
    ``train, validation, test``.
    """
    rows = []
    for begin, observed in blocks(panel.observed):
        values = panel.values[begin : begin + len(observed)]
        rows.append(_figures(values, observed, panel))
    names = {"workload": [pair[0] for pair in panel.series], "metric": [pair[1] for pair in panel.series]}
    windows = {part: getattr(split, part).per_series(panel.num_series, panel.num_bins) for part in _PARTS}
    return pd.concat([pd.DataFrame(names), pd.concat(rows, ignore_index=True), pd.DataFrame(windows)], axis=1)


def _figures(values: np.ndarray, observed: np.ndarray, panel: Panel) -> pd.DataFrame:
    points = observed.sum(axis=1)
    some = points > 0
    first = np.where(some, observed.argmax(axis=1), 0)
    last = np.where(some, observed.shape[1] - 1 - observed[:, ::-1].argmax(axis=1), -1)
    least_one = np.maximum(points, 1)
    nothing = np.where(some, 0.0, np.nan)
    return pd.DataFrame(
        {
            "points": points,
            "first": panel.seconds(first),
            "last": panel.seconds(last),
            "missing": 1 - points / np.maximum(last - first + 1, 1),
            "zeros": (observed & (values == 0)).sum(axis=1) / least_one,
            "min": values.min(axis=1, where=observed, initial=np.inf) + nothing,
            "mean": values.sum(axis=1, where=observed, dtype=np.float64) / least_one + nothing,
            "max": values.max(axis=1, where=observed, initial=-np.inf) + nothing,
        }
    )


def data_table(summary: pd.DataFrame, panel: Panel, split: Split) -> str:
    """The data summary as text: every series, or the worst ten of many, and the total."""
    shown = summary
    title = f"{panel.num_series:,} series on one grid of {panel.num_bins:,} bins of {panel.frequency.name}"
    if panel.zone != "UTC":
        title += f", in local time of {panel.zone}"
    if len(summary) > _MOST_ROWS:
        shown = summary.sort_values(["missing", "points"], ascending=[False, True]).head(_MOST_ROWS)
        title += f"; the {_MOST_ROWS} with the most missing"
    total = summary[["points", *_PARTS]].sum()

    def column(name: str, form: Callable[[Any], str]) -> list[str]:
        last = form(total[name]) if name in total else ""
        return [*map(form, shown[name]), last]

    columns = {
        "workload": [*shown["workload"], "total"],
        "metric": [*shown["metric"], ""],
        "points": column("points", "{:,}".format),
        "first": _times(shown, "first"),
        "last": _times(shown, "last"),
        "missing": column("missing", "{:.1%}".format),
        "zeros": column("zeros", "{:.1%}".format),
        "min": column("min", "{:.4g}".format),
        "mean": column("mean", "{:.4g}".format),
        "max": column("max", "{:.4g}".format),
    } | {part: column(part, "{:,}".format) for part in _PARTS}
    spare = ("zeros", "min", "max", "last", "first")
    text = table(title, columns, left=("workload", "metric"), spare=spare, total=True)
    lines = [text, str(panel.report)]
    if split.unused:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in split.unused.items())
        lines.append(f"windows not used: {reasons}")
    for part in _PARTS:
        idle = summary.loc[summary[part] == 0]
        if len(idle) and summary[part].any():
            names = few([*(idle["workload"] + " " + idle["metric"])])
            lines.append(f"{len(idle):,} of {len(summary):,} series have no {part} window: {names}")
    return "\n".join(lines)


def _times(shown: pd.DataFrame, name: str) -> list[str]:
    times = pd.to_datetime(shown[name], unit="s").dt.strftime("%Y-%m-%d %H:%M")
    return [*times.where(shown["points"] > 0, "-"), ""]
