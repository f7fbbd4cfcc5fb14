"""The end of a run: how good the model is, where everything lies and what to type next."""

import logging
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib.figure import Figure
from omegaconf import DictConfig, OmegaConf
from torch.utils.tensorboard.summary import hparams

from kforecast.artifact import Artifact
from kforecast.config.checks import built
from kforecast.config.overrides import typed
from kforecast.config.settings import TrainSettings
from kforecast.console import short_path
from kforecast.data.history import HISTORY
from kforecast.evaluation.report.files import publish, remove_report
from kforecast.evaluation.report.words import summary
from kforecast.training.holdout import JudgedFit
from kforecast.training.result import SILENT
from kforecast.training.trackers import log_outcome

log = logging.getLogger(__name__)


def close(
    cfg: DictConfig,
    settings: TrainSettings,
    run_dir: Path,
    artifact_dir: Path,
    judged: JudgedFit,
    loggers: list[Any],
    parameters: dict[str, Any],
    artifact: Artifact,
    rejected: bool,
) -> None:
    """Say and show what came of it."""
    fit, refit, scoreboard = judged.fit, judged.refit, judged.scoreboard
    report_dir = run_dir / "evaluation"
    if scoreboard is None:
        remove_report(report_dir)
    else:
        log.info("How good is it?\n%s", summary(scoreboard))
        artifact_name, source = short_path(artifact_dir), str(built(cfg.source))
        figures = publish(scoreboard, report_dir, artifact=artifact_name, source=source, seed=settings.seed)
        log_figures(loggers, figures)
    scores = final_scores(judged, artifact, cfg.monitor)
    log_hyper_parameters(loggers, parameters, scores, HydraConfig.get().mode == RunMode.MULTIRUN)
    log_outcome(loggers, scores, artifact_dir, list(artifact.sizes()), report_dir / "report.html")
    directory, run = typed(short_path(artifact_dir)), shlex.quote(short_path(run_dir))
    values = {
        "best epoch": f"{fit.best_epoch} of {fit.epochs} ({cfg.monitor} {fit.score:.6g})",
        "stopped by": fit.stopped_by,
        "trained in": f"{fit.seconds:.1f} s" + (f", and again in {refit.seconds:.1f} s" if refit else ""),
        "rejected" if rejected else "artifact": short_path(artifact_dir),
        "per series": short_path(artifact_dir / "per_series")
        if (artifact_dir / "per_series").exists()
        else "",
        "report": short_path(report_dir / "report.html") if scoreboard is not None else "",
        "checkpoints": short_path(run_dir / "checkpoints") if (run_dir / "checkpoints").exists() else "",
        "log file": short_path(run_dir / f"{HydraConfig.get().job.name}.log"),
        "TensorBoard": f"{_typed('tensorboard')} --logdir {run}"
        if (run_dir / "tensorboard").exists()
        else "",
        "forecast": ""
        if rejected
        else f"{_typed('kforecast-forecast')} artifact_dir={directory} {_source(cfg, run_dir)}",
    }
    next_step = (
        "the gate did not let the model pass" if rejected else "next, type the command in the last line"
    )
    log.info("Done\n%s", facts(f"Training is done; {next_step}", values))


def hyper_parameters(settings: TrainSettings, num_series: int, model: str) -> dict[str, Any]:
    """What loggers show a run by: its settings, and in a sweep what the job overrides, by its key."""
    # Without prefixes: TensorBoard's page sorts by name and ticks the first ones.
    parameters = settings.window.model_dump() | {
        "batch_size": settings.data.batch_size,
        "lr": settings.optimizer.lr,
        "max_epochs": settings.trainer.max_epochs,
        "seed": settings.seed,
        "series": num_series,
        "model": model,
    }
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return parameters
    overrides = OverridesParser.create().parse_overrides(list(HydraConfig.get().overrides.task))
    values = {override.key_or_group: override.value() for override in overrides}
    plain = {name: value for name, value in values.items() if isinstance(value, bool | int | float | str)}
    return parameters | {name: value for name, value in plain.items() if name not in SILENT}


def _typed(name: str) -> str:
    """A command as it must be typed: by its path where it is not on the search path."""
    return name if shutil.which(name) else shlex.quote(short_path(Path(sys.executable).with_name(name)))


def _source(cfg: DictConfig, run_dir: Path) -> str:
    """The source as typed for the forecast command."""
    path = OmegaConf.select(cfg, "source.path")
    if (run_dir / HISTORY).exists():
        path = short_path(run_dir / HISTORY)
    if path is not None:
        return f"--dataset-file={shlex.quote(str(path))}"
    source = HydraConfig.get().runtime.choices.get("source")
    if source is not None:
        chosen = [override for override in HydraConfig.get().overrides.task if override.startswith("source.")]
        return shlex.join([f"source={source}", *chosen])
    # The configuration of an earlier run, which was not composed of options.
    values = OmegaConf.to_container(cfg.source, resolve=False)
    assert isinstance(values, dict)
    plain = {str(name): value for name, value in values.items() if isinstance(value, int | float | str)}
    option = str(plain.pop("_target_")).split(".")[-2]
    return shlex.join([f"source={option}", *(f"source.{name}={value}" for name, value in plain.items())])


def aim_at(names: list[str], judged: JudgedFit, artifact: Artifact) -> dict[str, float]:
    """The value of each aim, by its name in ``objective``; NaN where nothing was held out to judge by."""
    return {name: _value(name, judged, artifact) for name in names}


def _value(name: str, judged: JudgedFit, artifact: Artifact) -> float:
    if name == "score":
        return judged.fit.score
    if name == "artifact_kib":
        return sum(artifact.sizes().values()) / 1024
    if name == "training_seconds":
        return judged.fit.seconds + (judged.refit.seconds if judged.refit is not None else 0.0)
    board = judged.scoreboard
    if board is None:
        return float("nan")
    if name == "skill":
        return float(board.skill.value)
    if name == "capacity_cost":
        return float(board.orders.simulation.outcomes["cost"][board.backtest.model])
    return float(board.model[name])


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

    Of a sweep the page shows what :mod:`kforecast.training.sweeps.hparams_board` says; a job adds its values.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            if of_sweep:
                logger.log_metrics(scores, step=0)  # reopens the file that the end of the training closed
                _, *values = hparams(parameters, scores)  # type: ignore[no-untyped-call]
                for summary in values:
                    logger.experiment.file_writer.add_summary(summary)
            else:
                logger.log_hyperparams(parameters, scores)
            logger.finalize("success")
