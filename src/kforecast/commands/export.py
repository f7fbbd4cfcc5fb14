"""``kforecast-export``: the checkpoint of a run -> artifact directory, or an artifact -> ONNX file."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from kforecast.commands.run import run
from kforecast.config.checks import plain
from kforecast.errors import ConfigError, OutputError
from kforecast.files.directory import check_writable
from kforecast.files.lock import sole_writer
from kforecast.files.output import check_output
from kforecast.training.resume.earlier_run import CHECKPOINTS

if TYPE_CHECKING:
    from kforecast.training.resume.reading import State

log = logging.getLogger(__name__)

_FORMATS = ("artifact", "onnx")
# Packages of the extra onnx.
_NEEDED = ("onnx", "onnxscript")


def main() -> None:
    """Run the command."""
    sys.exit(run(export, config_name="export", flags=(), check=check))


def check(cfg: DictConfig) -> dict[str, Any]:
    """Check the configuration and return its values.

    Raises
    ------
    ConfigError
        When keys contradict each other, or a package is missing.
    """
    settings = plain(cfg)
    run, output = settings["run"], settings["output"]
    if settings["format"] not in _FORMATS:
        raise ConfigError(f"format: {settings['format']!r} is none of {', '.join(_FORMATS)}")
    directory = Path(str(settings["artifact_dir"]))
    if settings["format"] == "artifact":
        if run is None:
            raise ConfigError("run: say which run's network to take: run=outputs/... (or add format=onnx)")
        if output is not None:
            raise ConfigError("output: only format=onnx writes a file; format=artifact writes artifact_dir")
        if not Path(str(run)).exists():
            raise ConfigError(f"run: {run}: no such folder or checkpoint")
        check_writable(directory)
        return settings
    if run is not None:
        raise ConfigError("run: format=onnx reads artifact_dir; export the run without format first")
    if output is None:
        raise ConfigError("output: format=onnx needs a file to write: output=model.onnx")
    check_output(output, (".onnx",))
    if not directory.is_dir():
        raise ConfigError(f"artifact_dir: {directory}: no such directory")
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"format=onnx needs a package ({', '.join(missing)}): pip install 'kforecast[onnx]'"
        )
    return settings


def export(cfg: DictConfig) -> None:
    """Export as configured.

    Raises
    ------
    ConfigError
        When the run has no checkpoint that can become an artifact.
    OutputError
        When the artifact or the file cannot be written.
    """
    settings = check(cfg)
    directory = Path(str(settings["artifact_dir"]))
    if settings["format"] == "artifact":
        _export_artifact(Path(str(settings["run"])), directory)
        return
    from kforecast.forecaster import Forecaster
    from kforecast.onnx_export import write_onnx

    output = Path(str(settings["output"]))
    forecaster = Forecaster.load(directory)
    if forecaster.online is not None and forecaster.online.rate:
        log.warning(
            "%s has the weights of the validation part; those that follow the newest errors (combine=online) "
            "need kforecast-forecast or the Python API",
            output,
        )
    inputs = write_onnx(forecaster, directory, output)
    log.info("%s: inputs %s; output forecast", output, ", ".join(inputs))


def _export_artifact(run: Path, directory: Path) -> None:
    from kforecast.training.artifact_maker import restored
    from kforecast.training.resume.reading import artifact_of, best_of

    path, checkpoint = _kept(run)
    try:
        described, best = artifact_of(checkpoint), best_of(checkpoint)
        scores = {"best": best["score"], "best_epoch": best["epoch"]}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not one of our trainings ({type(error).__name__})") from error
    if not described:
        raise ConfigError(f"{path}: written by an earlier version, without the metadata of an artifact")
    try:
        artifact = restored(described, best["state_dict"], scores)
    except ValueError as error:
        raise ConfigError(f"{path}: no artifact can be made of it: {error}") from error
    with sole_writer(directory, f"kforecast-export (process {os.getpid()})"):
        try:
            artifact.save(directory)
        except OSError as error:
            raise OutputError(f"{directory}: cannot be written: {error.strerror or error}") from error
    score = "not judged yet" if best["score"] is None else f"loss {best['score']:.6g}"
    log.info("%s: the network of epoch %d (%s) of %s", directory, best["epoch"], score, path)
    log.info("It has no intervals: kforecast-evaluate evaluate.save_intervals=true makes them")


def _kept(run: Path) -> tuple[Path, State]:
    """Find the checkpoint of a run to export; return its path and its validated content."""
    from kforecast.training.resume.reading import LAST, PREVIOUS, about_of, read_checkpoint

    if not run.is_dir():
        return run, read_checkpoint(run, run.parent)
    folder = run / CHECKPOINTS if (run / CHECKPOINTS).is_dir() else run
    last, refit = folder / LAST, folder / "refit" / LAST
    # The second training (refit) counts only when both are finished.
    if last.is_file() and refit.is_file():
        try:
            first, second = read_checkpoint(last, folder), read_checkpoint(refit, folder)
        except ConfigError as error:
            log.warning("%s; taking the network before it", error)
        else:
            if "finished" in first and "finished" in second and about_of(first) == about_of(second):
                return refit, second
    for path in (folder / "best.ckpt", last, folder / PREVIOUS):
        if path.is_file():
            try:
                return path, read_checkpoint(path, folder)
            except ConfigError as error:
                log.warning("%s; taking another", error)
    raise ConfigError(f"run: {run}: no whole checkpoint in it")


if __name__ == "__main__":
    main()
