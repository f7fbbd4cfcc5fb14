"""The outcome of a run: its result and scores, what is logged about them, and the next command."""

import logging
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from kforecast.artifact import Artifact, sha256
from kforecast.config.job import Job
from kforecast.config.overrides import typed
from kforecast.console import short_path
from kforecast.data.datamodule import ForecastDataModule
from kforecast.data.history import HISTORY
from kforecast.evaluation.capacity import JUDGED
from kforecast.evaluation.report.files import publish, remove_report
from kforecast.evaluation.report.words import summary
from kforecast.models import Network
from kforecast.training.holdout import JudgedFit
from kforecast.training.plan import Recipe
from kforecast.training.result import SILENT, read_result
from kforecast.training.trackers import log_outcome

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Attributes
    ----------
    recipe:
        The recipe of the run.
    judged:
        The training, its forecaster and its scores.
    artifact:
        The finished artifact.
    fingerprint:
        Fingerprint of the panel.
    threads:
        CPU threads of the training.
    rejected:
        Why the model did not pass the gate; None when it did.
    """

    recipe: Recipe
    judged: JudgedFit
    artifact: Artifact
    fingerprint: str
    threads: int
    rejected: str | None

    @property
    def artifact_dir(self) -> Path:
        """Directory of the written artifact."""
        assert self.recipe.artifact_dir is not None
        return self.recipe.artifact_dir if self.rejected is None else self.recipe.candidate_dir

    def result(self) -> dict[str, Any]:
        """The content of ``result.json``."""
        fit, objectives = self.judged.fit, self.recipe.settings.objective
        content: dict[str, Any] = {
            "status": "done" if self.rejected is None else "rejected",
            "score": fit.score,
            "epochs": fit.epochs,
            "best_epoch": fit.best_epoch,
            "stopped_by": fit.stopped_by,
            "artifact_dir": str(self.artifact_dir),
        }
        if objectives != ["score"]:
            content["objectives"] = {name: self.value_of(name) for name in objectives}
        return content | {
            "rejected": self.rejected,
            "weights": sha256(self.artifact_dir),
            "data": self.fingerprint,
            "threads": self.threads,
        }

    def value_of(self, objective: str) -> float:
        """The value of an objective; NaN if it needs held-out data and there is none."""
        fit, refit, board = self.judged.fit, self.judged.refit, self.judged.scoreboard
        if objective == "score":
            return fit.score
        if objective == "artifact_kib":
            return sum(self.artifact.sizes().values()) / 1024
        if objective == "training_seconds":
            return fit.seconds + (refit.seconds if refit is not None else 0.0)
        if board is None:
            return float("nan")
        if objective == "skill":
            return float(board.skill.value)
        if objective == "capacity_cost":
            simulation = board.orders.simulation
            return float("nan") if simulation is None else float(simulation.table["cost"][JUDGED])
        return float(board.model[objective])

    def scores(self) -> dict[str, float]:
        """The scores by their names in loggers."""
        scores = {f"score/{self.recipe.settings.monitor.replace('/', '_')}": self.judged.fit.score}
        if self.judged.scoreboard is not None:
            scores |= {"score/skill": self.value_of("skill"), "score/wape": self.value_of("wape")}
        return scores | {
            "score/seconds": self.value_of("training_seconds"),
            "score/epochs": self.judged.fit.epochs,
            "score/artifact_kib": self.value_of("artifact_kib"),
        }


def show(outcome: Outcome, loggers: Sequence[Logger], parameters: Mapping[str, Any]) -> None:
    """Log the scores, write the report, pass both to the loggers, and log the next command."""
    recipe, job, board = outcome.recipe, outcome.recipe.job, outcome.judged.scoreboard
    assert job is not None
    tensorboards = [logger for logger in loggers if isinstance(logger, TensorBoardLogger)]
    report_dir = recipe.run_dir / "evaluation"
    if recipe.settings.repeat is not None:
        _compare(outcome, Path(recipe.settings.repeat), job)
    if board is None:
        remove_report(report_dir)
    else:
        log.info("How good is it?\n%s", summary(board))
        artifact_name, source = short_path(outcome.artifact_dir), str(recipe.source)
        figures = publish(board, report_dir, artifact=artifact_name, source=source, seed=recipe.settings.seed)
        for tensorboard in tensorboards:
            for name, figure in figures.items():
                tensorboard.experiment.add_figure(f"evaluation/{name}", figure)
    scores = outcome.scores()
    for tensorboard in tensorboards:
        _log_hyper_parameters(tensorboard, parameters, scores, job.of_sweep)
    files, report = list(outcome.artifact.sizes()), report_dir / "report.html"
    log_outcome(list(loggers), scores, outcome.artifact_dir, files, report)
    next_step = "next, type the command in the last line"
    if outcome.rejected is not None:
        next_step = "the gate did not let the model pass"
    log.info("Done\n%s", _listed(f"Training is done; {next_step}", _facts(outcome, report, job)))


def _facts(outcome: Outcome, report: Path, job: Job) -> dict[str, str]:
    """Facts, files and commands by name; empty where there is none."""
    recipe, fit, refit = outcome.recipe, outcome.judged.fit, outcome.judged.refit
    run_dir, artifact_dir = recipe.run_dir, outcome.artifact_dir

    def there(path: Path) -> str:
        return short_path(path) if path.exists() else ""

    board = f"{_typed('tensorboard')} --logdir {shlex.quote(short_path(run_dir))}"
    forecast = f"{_typed('kforecast-forecast')} artifact_dir={typed(short_path(artifact_dir))}"
    events = recipe.settings.data.events
    known = "" if events is None else f" data.events={typed(events)}"
    rejected = outcome.rejected is not None
    return {
        "best epoch": f"{fit.best_epoch} of {fit.epochs} ({recipe.settings.monitor} {fit.score:.6g})",
        "stopped by": fit.stopped_by,
        "trained in": f"{fit.seconds:.1f} s" + (f", and again in {refit.seconds:.1f} s" if refit else ""),
        "rejected" if rejected else "artifact": short_path(artifact_dir),
        "per series": there(artifact_dir / "per_series"),
        "report": short_path(report) if outcome.judged.scoreboard is not None else "",
        "checkpoints": there(run_dir / "checkpoints"),
        "log file": short_path(run_dir / f"{job.name}.log"),
        "TensorBoard": board if (run_dir / "tensorboard").exists() else "",
        "forecast": "" if rejected else f"{forecast} {_source(recipe, job)}{known}",
    }


def _listed(title: str, values: Mapping[str, str]) -> str:
    """Names and values, one per line without wrapping, so that commands can be copied; no empty values."""
    width = max(map(len, values))
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in values.items() if value)])


def hyper_parameters(recipe: Recipe, data: ForecastDataModule, net: Network) -> dict[str, Any]:
    """The settings that loggers show for a run, and in a sweep the job's overrides by their keys."""
    settings = recipe.settings
    # Without prefixes: TensorBoard's page sorts by name and shows only the first ones by default.
    parameters = settings.window.model_dump() | {
        "batch_size": settings.data.batch_size,
        "lr": settings.optimizer.lr,
        "max_epochs": settings.trainer.max_epochs,
        "seed": settings.seed,
        "series": data.panel.num_series,
        "model": type(net).__name__,
    }
    if recipe.job is None or not recipe.job.of_sweep:
        return parameters
    return parameters | {name: value for name, value in recipe.job.values.items() if name not in SILENT}


def _compare(outcome: Outcome, earlier: Path, job: Job) -> None:
    """Log whether the weights equal those of the earlier run that was repeated."""
    then, name = read_result(earlier), short_path(earlier)
    if then.get("weights") == sha256(outcome.artifact_dir):
        log.info("The weights equal those of %s, bit for bit", name)
    elif then.get("weights") is None:
        log.warning("%s did not come to its end: there is nothing to compare with", name)
    else:
        why = "the same data on another machine, or with other versions?"
        if job.overrides:
            why = f"trained with {' '.join(job.overrides)}"
        if then.get("data") != outcome.fingerprint:
            why = "its data was other data"
        log.warning("The weights differ from those of %s: %s", name, why)


def _log_hyper_parameters(
    tensorboard: TensorBoardLogger, parameters: Mapping[str, Any], scores: dict[str, float], of_sweep: bool
) -> None:
    """Give TensorBoard's HParams page the settings and scores of this run.

    In a sweep :mod:`kforecast.training.sweeps.hparams_board` describes the page; a job adds its values.
    """
    if of_sweep:
        tensorboard.log_metrics(scores, step=0)  # reopens the file that the end of the training closed
        _, *values = hparams(dict(parameters), scores)  # type: ignore[no-untyped-call]
        for value in values:
            tensorboard.experiment.file_writer.add_summary(value)
    else:
        tensorboard.log_hyperparams(dict(parameters), scores)
    tensorboard.finalize("success")


def _typed(name: str) -> str:
    """A command as the user types it: with its path if it is not on the search path."""
    return name if shutil.which(name) else shlex.quote(short_path(Path(sys.executable).with_name(name)))


def _source(recipe: Recipe, job: Job) -> str:
    """The source, as arguments of the forecast command."""
    chosen = [override for override in job.overrides if override.startswith("source.")]
    if (recipe.run_dir / HISTORY).exists():
        return f"--dataset-file={shlex.quote(short_path(recipe.run_dir / HISTORY))}"
    if recipe.source_settings.get("path") is not None:
        # The source knows its path literally; the settings have it as OmegaConf writes it.
        others = [override for override in chosen if not override.startswith("source.path=")]
        return shlex.join([f"--dataset-file={recipe.source}", *others])
    if (source := job.choices.get("source")) is not None:
        return shlex.join([f"source={source}", *chosen])
    # The configuration comes from an earlier run, and was not composed from config groups.
    values = recipe.source_settings
    plain = {name: value for name, value in values.items() if isinstance(value, int | float | str)}
    option = str(plain.pop("_target_")).split(".")[-2]
    return shlex.join([f"source={option}", *(f"source.{name}={value}" for name, value in plain.items())])
