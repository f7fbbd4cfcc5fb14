"""What the data looks like, one row per series, before anything is trained on it."""

import numpy as np
import pandas as pd
from rich.table import Table
from rich.text import Text

from kforecast.console import render
from kforecast.data.panel import Panel
from kforecast.data.split import Split

# With more series than this the worst are shown.
_MOST_ROWS = 10
_PARTS = ("train", "validation", "test")


def summarize(panel: Panel, split: Split) -> pd.DataFrame:
    """Describe every series.

    Returns
    -------
    DataFrame with one row per series: ``workload, metric, points`` (observed bins), ``first, last`` (unix
    seconds of the outermost observed bins), ``missing`` (share of unobserved bins between them), ``zeros``
    (share of observed bins that are zero), ``min, mean, max`` and the windows it yields: ``train,
    validation, test``.
    """
    observed, values = panel.observed, panel.values
    points = observed.sum(axis=1)
    some = points > 0
    first = np.where(some, observed.argmax(axis=1), 0)
    last = np.where(some, panel.num_bins - 1 - observed[:, ::-1].argmax(axis=1), -1)
    least_one = np.maximum(points, 1)
    nothing = np.where(some, 0.0, np.nan)
    windows = {
        part: np.bincount(getattr(split, part) // panel.num_bins, minlength=panel.num_series)
        for part in _PARTS
    }
    return pd.DataFrame(
        {
            "workload": [workload for workload, _ in panel.series],
            "metric": [metric for _, metric in panel.series],
            "points": points,
            "first": panel.start + first * panel.frequency.step,
            "last": panel.start + last * panel.frequency.step,
            "missing": 1 - points / np.maximum(last - first + 1, 1),
            "zeros": (observed & (values == 0)).sum(axis=1) / least_one,
            "min": values.min(axis=1, where=observed, initial=np.inf) + nothing,
            "mean": values.sum(axis=1, where=observed, dtype=np.float64) / least_one + nothing,
            "max": values.max(axis=1, where=observed, initial=-np.inf) + nothing,
            **windows,
        }
    )


def data_table(summary: pd.DataFrame, panel: Panel, split: Split) -> str:
    """The data summary: every series, or the worst ten and the total where there are many."""
    shown = summary
    title = f"{panel.num_series:,} series on one grid of {panel.num_bins:,} bins of {panel.frequency.name}"
    if len(summary) > _MOST_ROWS:
        shown = summary.sort_values(["missing", "points"], ascending=[False, True]).head(_MOST_ROWS)
        title += f"; the {_MOST_ROWS} with the most missing"
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("workload", overflow="fold")
    table.add_column("metric", overflow="fold")
    for name in (
        "points",
        "first",
        "last",
        "missing",
        "zeros",
        "min",
        "mean",
        "max",
        "train",
        "validation",
        "test",
    ):
        table.add_column(name, justify="right")
    for row in shown.itertuples():
        table.add_row(
            Text(str(row.workload)),  # names may hold what rich takes for markup
            Text(str(row.metric)),
            f"{row.points:,}",
            _time(row.first) if row.points else "-",
            _time(row.last) if row.points else "-",
            f"{row.missing:.1%}",
            f"{row.zeros:.1%}",
            *(f"{getattr(row, name):.4g}" for name in ("min", "mean", "max")),
            *(f"{getattr(row, name):,}" for name in _PARTS),
        )
    table.add_section()
    total = summary[["points", "train", "validation", "test"]].sum()
    table.add_row(
        "total",
        "",
        f"{total['points']:,}",
        "",
        "",
        "",
        "",
        "",
        "",
        "",
        *(f"{total[part]:,}" for part in _PARTS),
    )
    lines = [render(table), str(panel.report)]
    if split.unused:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in split.unused.items())
        lines.append(f"windows not used: {reasons}")
    idle = summary.loc[summary["train"] == 0]
    if len(idle):
        names = ", ".join(f"{row.workload} {row.metric}" for row in idle.head(5).itertuples())
        lines.append(
            f"{len(idle):,} series yield no training window: {names}{' ...' if len(idle) > 5 else ''}"
        )
    return "\n".join(lines)


def _time(second: object) -> str:
    return pd.Timestamp(int(str(second)), unit="s").strftime("%Y-%m-%d %H:%M")
