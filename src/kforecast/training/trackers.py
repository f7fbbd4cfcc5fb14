"""Loggers that keep runs beside each other on a server: MLflow, and Weights & Biases."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

from kforecast.config.secrets import without_secrets
from kforecast.errors import KforecastError, OutputError

_LOCAL = ("sqlite:", "file:")
# Whose errors come out of a training when the tracker is lost in the middle of it.
_LIBRARIES = ("mlflow", "wandb", "requests", "urllib3", "sqlalchemy")


@contextmanager
def tracking(loggers: list[Logger], run: str, parameters: Mapping[str, Any]) -> Iterator[None]:
    """Begin a run at each tracker, and end it with the block, so that the next job of a sweep has its own.

    Parameters
    ----------
    run:
        The name of the run, where the configuration gives none.
    parameters:
        What it is trained with.

    Raises
    ------
    OutputError
        When a tracker cannot be reached or refuses.
    """
    trackers = [logger for logger in loggers if isinstance(logger, MLFlowLogger | WandbLogger)]
    status = "failed"
    # What libraries tell of what they make is not for a console that is for results.
    logging.getLogger("lightning.pytorch.loggers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*MLFlow only allows.*")
    try:
        for tracker in trackers:
            with _said_plainly(tracker):
                _begin(tracker, run)
                tracker.log_hyperparams(dict(parameters))
        try:
            yield
        except Exception as error:
            if type(error).__module__.partition(".")[0] in _LIBRARIES:
                raise OutputError(f"logger: {_first_line(error)}") from error
            raise
        status = "success"
    finally:
        for tracker in trackers:
            _end(tracker, status)


def log_outcome(
    loggers: list[Logger], scores: Mapping[str, float], artifact: Path, names: list[str], report: Path
) -> None:
    """Give each tracker the final scores, the artifact and the report.

    Parameters
    ----------
    artifact, names:
        The directory, and the names of the artifact's files in it.
    report:
        The page of the evaluation, if it was made.

    Raises
    ------
    OutputError
        When a tracker cannot be reached or refuses.
    """
    files = [artifact / name for name in names if (artifact / name).is_file()]
    for tracker in loggers:
        with _said_plainly(tracker):
            if isinstance(tracker, MLFlowLogger):
                tracker.log_metrics(dict(scores))
                for file in files:
                    tracker.experiment.log_artifact(tracker.run_id, str(file), "artifact")
                if report.is_file():
                    tracker.experiment.log_artifact(tracker.run_id, str(report), "evaluation")
            elif isinstance(tracker, WandbLogger):
                import wandb

                tracker.experiment.summary.update(dict(scores))
                kept = wandb.Artifact(f"artifact-{tracker.experiment.id}", type="model")
                for file in files:
                    kept.add_file(str(file), name=file.name)
                tracker.experiment.log_artifact(kept)


def _begin(tracker: MLFlowLogger | WandbLogger, run: str) -> None:
    if isinstance(tracker, WandbLogger):
        named = tracker._wandb_init["name"] is not None
        tracker._wandb_init.pop("anonymous", None)  # it warns of what nobody has set
        tracker._wandb_init.setdefault("settings", {"console": "off", "silent": True})
        if not named:
            tracker._wandb_init["name"] = run
        _ = tracker.experiment
        return
    if tracker._artifact_location is None and (tracker._tracking_uri or "").startswith(_LOCAL):
        tracker._artifact_location = Path("outputs", "mlartifacts").resolve().as_uri()
    if tracker._run_name is None:
        tracker._run_name = run
    _ = tracker.run_id


def _end(tracker: MLFlowLogger | WandbLogger, status: str) -> None:
    try:
        if isinstance(tracker, WandbLogger):
            if tracker._experiment is not None:
                tracker._experiment.finish(exit_code=int(status != "success"))
        elif tracker._initialized:
            tracker.finalize(status)
    except Exception as error:  # the run itself has ended, well or badly
        logging.getLogger(__name__).warning("%s: %s", type(tracker).__name__, _first_line(error))


@contextmanager
def _said_plainly(tracker: Logger) -> Iterator[None]:
    try:
        yield
    except (KforecastError, OSError):
        raise
    except Exception as error:  # of the tracker's client, of its database, of requests
        name = "mlflow" if isinstance(tracker, MLFlowLogger) else "wandb"
        raise OutputError(f"logger.{name}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return without_secrets(said)
