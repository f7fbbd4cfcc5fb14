"""What a training came to: facts for the console, pictures and TensorBoard's HParams page."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib.figure import Figure
from torch.utils.tensorboard.summary import hparams

from kforecast.artifact import Artifact
from kforecast.training.holdout import JudgedFit


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


def final_scores(judged: JudgedFit, artifact: Artifact, monitor: str) -> dict[str, float]:
    """What a run came to, by the names that loggers show it under."""
    fit, scoreboard = judged.fit, judged.scoreboard
    scores = {f"score/{monitor.replace('/', '_')}": fit.score}
    if scoreboard is not None:
        scores |= {"score/skill": scoreboard.skill.value, "score/wape": scoreboard.model["wape"]}
    seconds = fit.seconds + (judged.refit.seconds if judged.refit is not None else 0.0)
    size = sum(artifact.sizes().values()) / 1024
    return scores | {"score/seconds": seconds, "score/epochs": fit.epochs, "score/artifact_kib": size}


def log_hyper_parameters(
    loggers: list[Logger], parameters: dict[str, Any], scores: dict[str, float], of_sweep: bool
) -> None:
    """Give TensorBoard's HParams page this run's settings and its real scores.

    Of a sweep the page shows what :mod:`kforecast.training.board` says; a job adds its values.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            if of_sweep:
                _, *values = hparams(parameters, scores)  # type: ignore[no-untyped-call]
                for summary in values:
                    logger.experiment._get_file_writer().add_summary(summary)
                logger.log_metrics(scores, step=0)
            else:
                logger.log_hyperparams(parameters, scores)
            logger.finalize("success")
