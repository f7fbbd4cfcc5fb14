"""What a training came to: facts for the console, pictures and TensorBoard's HParams page."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib.figure import Figure

from kforecast.evaluation.scoreboard import Scoreboard
from kforecast.training.fit import Fit


def facts(title: str, values: dict[str, str]) -> str:
    """Names and values, a line each: never folded, so that commands can be copied; no empty ones."""
    width = max(map(len, values))
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in values.items() if value)])


def log_figures(loggers: list[Logger], figures: Mapping[str, Figure]) -> None:
    """Put the report's figures into TensorBoard."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            for name, figure in figures.items():
                logger.experiment.add_figure(f"evaluation/{name}", figure)


def log_hyper_parameters(
    loggers: list[Logger], parameters: dict[str, Any], fit: Fit, scoreboard: Scoreboard | None, monitor: str
) -> None:
    """Give TensorBoard's HParams page this run's settings and its real scores."""
    metrics = {f"score/{monitor.replace('/', '_')}": fit.score}
    if scoreboard is not None:
        metrics |= {"score/skill": scoreboard.skill.value, "score/wape": scoreboard.model["wape"]}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(parameters, metrics)
            logger.finalize("success")
