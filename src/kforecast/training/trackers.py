"""Loggers, and the runs that MLflow and Weights & Biases keep on a server."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, WandbLogger

from kforecast.config.secrets import without_secrets
from kforecast.errors import KforecastError, OutputError
from kforecast.training.plan import Component

_LOCAL = ("sqlite:", "file:")
# Libraries that raise when training loses its tracker.
_LIBRARIES = ("mlflow", "wandb", "requests", "urllib3", "sqlalchemy")
# The console is for results.
_QUIET = {"console": "off", "silent": True}


def loggers_of(components: Mapping[str, Component], run: str) -> list[Logger]:
    """Build the configured loggers; a tracker without a run name or settings gets defaults.

    Parameters
    ----------
    components:
        The recipe's loggers by name.
    run:
        Name of the run.

    Raises
    ------
    ConfigError
        When a class refuses its settings.
    """
    return [component(**_defaults(component.settings, run)) for component in components.values()]


def _defaults(settings: Mapping[str, Any], run: str) -> dict[str, Any]:
    """Constructor arguments of a tracker that its settings leave open."""
    name = str(settings.get("_target_")).rpartition(".")[2]
    if name == "WandbLogger":
        values: dict[str, Any] = {"name": run, "settings": _QUIET}
    elif name == "MLFlowLogger":
        # MLflow reads both when it is imported. It would retry a wrong address for ten minutes.
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
        values = {"run_name": run}
        # Lightning's own default: the variable, else a local folder.
        address = settings.get("tracking_uri", os.environ.get("MLFLOW_TRACKING_URI")) or "file:"
        if str(address).startswith(_LOCAL):
            values["artifact_location"] = Path("outputs", "mlartifacts").resolve().as_uri()
    else:
        return {}
    return {key: value for key, value in values.items() if settings.get(key) is None}


@contextmanager
def tracking(loggers: list[Logger], parameters: Mapping[str, Any]) -> Iterator[None]:
    """Open a run at each tracker and close it with the block, so that each job of a sweep has its own.

    Parameters
    ----------
    parameters:
        Hyper-parameters of the training.

    Raises
    ------
    OutputError
        When a tracker cannot be reached or refuses.
    """
    begun: list[MLFlowLogger | WandbLogger] = []
    status = "failed"
    try:
        for tracker in loggers:
            if isinstance(tracker, MLFlowLogger | WandbLogger):
                with _reworded(tracker):
                    _begin(tracker)
                    begun.append(tracker)
                    tracker.log_hyperparams(dict(parameters))
        try:
            yield
        except Exception as error:
            if type(error).__module__.partition(".")[0] in _LIBRARIES:
                raise OutputError(f"logger: {_first_line(error)}") from error
            raise
        status = "success"
    finally:
        for tracker in begun:
            _end(tracker, status)


def log_outcome(
    loggers: list[Logger], scores: Mapping[str, float], artifact: Path, names: list[str], report: Path
) -> None:
    """Give each tracker the final scores, the artifact and the report.

    Parameters
    ----------
    artifact, names:
        The artifact's directory, and the names of its files.
    report:
        Page of the evaluation; it may not exist.

    Raises
    ------
    OutputError
        When a tracker cannot be reached or refuses.
    """
    files = [artifact / name for name in names if (artifact / name).is_file()]
    for tracker in loggers:
        with _reworded(tracker):
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


def _begin(tracker: MLFlowLogger | WandbLogger) -> None:
    if isinstance(tracker, WandbLogger):
        import wandb

        # Lightning passes an argument that wandb warns about before it applies the settings of the run.
        wandb.termsetup(wandb.Settings(silent=True), None)
    _ = tracker.experiment  # opens the run


def _end(tracker: MLFlowLogger | WandbLogger, status: str) -> None:
    try:
        if isinstance(tracker, WandbLogger):
            tracker.experiment.finish(exit_code=int(status != "success"))
        else:
            tracker.finalize(status)
    except Exception as error:  # must not hide how the training itself ended
        logging.getLogger(__name__).warning("%s: %s", type(tracker).__name__, _first_line(error))


@contextmanager
def _reworded(tracker: Logger) -> Iterator[None]:
    """Turn a client's error into one line."""
    try:
        yield
    except (KforecastError, OSError):
        raise
    except Exception as error:  # from the tracker's client, its database, or requests
        name = "mlflow" if isinstance(tracker, MLFlowLogger) else "wandb"
        raise OutputError(f"logger.{name}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return without_secrets(line)
