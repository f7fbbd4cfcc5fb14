"""The figure of a few windows that a training draws into TensorBoard."""

import numpy as np
from matplotlib.figure import Figure


def forecast_figure(
    context: np.ndarray, target: np.ndarray, forecast: np.ndarray, titles: list[str]
) -> Figure:
    """Draw windows side by side: context, observed values and forecast.

    Parameters
    ----------
    context:
        ``[windows, context]``.
    target:
        ``[windows, horizon]``, NaN where not observed.
    forecast:
        ``[windows, horizon]``.
    titles:
        One for each window.
    """
    count = len(titles)
    columns = min(count, 2)
    rows = -(-count // columns)
    # Not through pyplot, which keeps every figure in global state.
    figure = Figure(figsize=(6 * columns, 2.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    past = np.arange(-context.shape[1], 0)
    future = np.arange(target.shape[1])
    for number, (axis, title) in enumerate(zip(axes.flat, titles, strict=False)):
        axis.plot(past, context[number], color="0.45", marker=".", label="context")
        joined = np.r_[context[number, -1], target[number]]
        axis.plot(np.r_[-1, future], joined, color="tab:blue", marker="o", label="observed")
        axis.plot(future, forecast[number], color="tab:orange", marker="x", linestyle="--", label="forecast")
        axis.axvline(-0.5, color="0.8", linewidth=1)
        axis.set_title(title, fontsize=9)
        axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]))
        axis.set_xlabel("steps from the origin", fontsize=8)
        axis.tick_params(labelsize=8)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    axes.flat[0].legend(fontsize=8)
    return figure
