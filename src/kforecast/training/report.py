"""What a training came to: tables, a picture, TensorBoard's HParams page."""

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from kforecast.console import table
from kforecast.evaluation.backtest import Scoreboard, forecast_windows
from kforecast.training.figures import span_figure
from kforecast.training.fit import Fit

_MOST_SERIES = 4
_DRAWN_SECONDS = 3 * 86_400


def score_table(scoreboard: Scoreboard) -> str:
    """The models beside naive forecasts, and in words whether the first is worth having."""
    text = table(
        f"Forecast error on {scoreboard.span}",
        {
            "forecast": list(scoreboard.scores),
            "MAE": [f"{scores.mae:.4g}" for scores in scoreboard.scores.values()],
            "WAPE": [f"{scores.wape:.2%}" for scores in scoreboard.scores.values()],
        },
        left=("forecast",),
    )
    return f"{text}\n{_verdict(scoreboard)}"


def _verdict(scoreboard: Scoreboard) -> str:
    name, skill = scoreboard.best_naive, scoreboard.skill
    if skill > 0:
        return f"The model's error is {skill:.0%} lower than that of the best naive forecast ({name})."
    if not np.isfinite(skill):
        return f"The naive forecast {name!r} is exact here; no model can be better."
    above = f"{-skill:.0%} above" if skill > -10 else f"{1 - skill:.2g} times"
    return (
        f"The model is no better than a naive forecast: its error is {above} that of {name!r}. "
        "More history, more epochs or a longer context may help; do not scale on it as it is."
    )


def facts(title: str, values: dict[str, str]) -> str:
    """Names and values, a line each: never folded, so that commands can be copied; no empty ones."""
    width = max(map(len, values))
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in values.items() if value)])


def draw_forecasts(fit: Fit, path: Path) -> bool:
    """Draw a few series over the newest three days of what was held out; False when nothing was."""
    held_out = fit.held_out()
    if held_out is None:
        return False
    panel, steps = fit.data.panel, fit.data.windows.window.prediction_length
    _, cells = held_out
    drawn_bins = max(_DRAWN_SECONDS // panel.frequency.step, 3 * steps)
    series = np.unique(cells // panel.num_bins)
    series = series[np.unique(np.linspace(0, len(series) - 1, _MOST_SERIES).round().astype(int))]
    times, actual, forecast, titles = [], [], [], []
    for row in series:
        own = cells[cells // panel.num_bins == row]
        own = own[own > own[-1] - drawn_bins]
        # The last step of each window: what was known that many bins before.
        bins = own % panel.num_bins + steps - 1
        span = np.arange(bins[0], bins[-1] + 1)
        line = np.full(len(span), np.nan)
        line[bins - bins[0]] = forecast_windows(fit.module, fit.data.windows, own)[:, -1]
        times.append(panel.timestamps[span].astype("datetime64[s]"))
        actual.append(np.where(panel.observed[row, span], panel.values[row, span], np.nan))
        forecast.append(line)
        titles.append(" ".join(panel.series[row]))
    label = f"forecast {steps} x {panel.frequency.name} ahead"
    span_figure(times, actual, forecast, titles, label).savefig(path, dpi=110)
    return True


def log_hyper_parameters(loggers: list[Logger], parameters: dict[str, Any], fit: Fit, monitor: str) -> None:
    """Give TensorBoard's HParams page this run's settings and its real scores."""
    metrics = {f"score/{monitor.replace('/', '_')}": fit.score}
    if (scoreboard := fit.scoreboard) is not None:
        metrics |= {
            "score/skill": scoreboard.skill,
            "score/wape": next(iter(scoreboard.scores.values())).wape,
        }
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(parameters, metrics)
            logger.finalize("success")
