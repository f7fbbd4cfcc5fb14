"""Runs that continue or repeat an earlier one: ``resume=auto``, ``resume=PATH`` and ``--repeat RUN_FOLDER``.

The folder of the earlier run describes it: ``.hydra/config.yaml``, ``result.json``, ``history.parquet`` and
``checkpoints/``.
"""

from __future__ import annotations

import logging
from argparse import ArgumentError, ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from kforecast.config.checks import CONF_DIR, recorded
from kforecast.config.legacy_cli import FLAGS
from kforecast.config.overrides import append, is_override, is_sweep, quote
from kforecast.config.settings import TrainSettings
from kforecast.console import short_path
from kforecast.data.history import HISTORY
from kforecast.errors import ConfigError
from kforecast.files.run_folder import in_use
from kforecast.training.result import read_result

if TYPE_CHECKING:
    from kforecast.training.resume.reading import State

log = logging.getLogger(__name__)

# States of a run that can be resumed. A killed process leaves "running".
UNFINISHED = ("running", "interrupted", "failed")
CHECKPOINTS = "checkpoints"
_RECORDED = "recorded"
# Classes in recorded configurations that have moved since.
_MOVED = {
    "kforecast.training.hopeless.MedianStopping": "kforecast.training.median_stopping.MedianStopping",
}
# Hydra's flags that exclude -m, or mean the same.
_OTHER_MODES = {
    *("-m", "--multirun", "-r", "--run", "-c", "--cfg", "-i", "--info", "-h", "--help", "--hydra-help"),
    *("-sc", "--shell-completion", "--version"),
}


def prepare(arguments: list[str]) -> tuple[list[str], str]:
    """Find the earlier run that a command line names, before Hydra creates a folder for a new one.

    Returns
    -------
    The command line for Hydra, and the name of the primary config: the one in ``conf/``, or the configuration
    of the earlier run if the command line changes nothing.

    Raises
    ------
    ConfigError
        When there is no such run.
    """
    given, rest = _flags(arguments)
    if is_sweep(rest) and not any(argument.partition("=")[0] in _OTHER_MODES for argument in rest):
        rest = ["-m", *rest]  # ranges on the command line need it
    overrides = [argument for argument in rest if is_override(argument)]
    if given.repeat is not None:
        return _repeat(Path(given.repeat), rest)
    resume = _value_of("resume", overrides)
    if resume in (None, "", "null") or is_sweep(rest):
        return rest, "train"
    folder = _value_of("hydra.run.dir", overrides)
    run_dir = Path(folder) if folder is not None else _run_of(resume)
    others = [argument for argument in overrides if not argument.startswith(("resume=", "hydra."))]
    alone = not others and not any(argument.partition("=")[0] in FLAGS for argument in rest)
    if run_dir is None:
        if alone and resume == "auto":
            raise ConfigError(
                "resume=auto: there is no unfinished run under outputs/; begin one, or name its folder"
            )
        return rest, "train"
    if folder is None:
        rest = append(rest, [f"hydra.run.dir={quote(str(run_dir))}"])
    if not alone or not _config_of(run_dir).is_file():
        return rest, "train"
    _store(_read_config(run_dir), {})
    # The folder keeps the record of how its run began.
    return append(rest, ["hydra.output_subdir=null"]), _RECORDED


def _flags(arguments: list[str]) -> tuple[Namespace, list[str]]:
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--repeat")
    try:
        return parser.parse_known_args(arguments)
    except ArgumentError as error:
        raise ConfigError(str(error)) from error


def _repeat(run_dir: Path, rest: list[str]) -> tuple[list[str], str]:
    flags = [argument.partition("=")[0] for argument in rest if argument.partition("=")[0] in FLAGS]
    if flags:
        raise ConfigError(f"--repeat takes everything from {run_dir}: leave out {', '.join(flags)}")
    groups = {path.name for path in CONF_DIR.iterdir() if path.is_dir()} - {"hydra"}
    chosen = [argument for argument in rest if argument.partition("=")[0].partition("@")[0] in groups]
    if chosen:
        raise ConfigError(
            f"--repeat takes everything from {run_dir}: {', '.join(chosen)} cannot be chosen anew; single "
            "keys can (optimizer.lr=0.01)"
        )
    if is_sweep(rest):
        raise ConfigError("--repeat repeats one run: leave out -m")
    config = _read_config(run_dir)
    result = read_result(run_dir)
    changes: dict[str, Any] = {"repeat": str(run_dir), "resume": None}
    # The artifact of the earlier run stays as it is.
    changes["artifact_dir"] = "${hydra:runtime.output_dir}/artifact"
    if isinstance(result.get("threads"), int):
        changes["threads"] = result["threads"]
    _store(config, changes)
    return rest, _RECORDED


def _value_of(key: str, overrides: list[str]) -> str | None:
    """The last value given to a key, without quotes; None for none."""
    values = [argument.partition("=")[2] for argument in overrides if argument.partition("=")[0] == key]
    return values[-1].strip("'\"") if values else None


def _run_of(resume: str) -> Path | None:
    """The folder of the run to resume: that of a checkpoint, or the newest unfinished one."""
    if resume != "auto":
        path = Path(resume).resolve()
        folder = path if path.is_dir() else path.parent.parent
        return folder if _config_of(folder).is_file() else None
    found = [path for path in Path("outputs").glob("*/*/result.json") if _is_resumable(path.parent)]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def _is_resumable(run_dir: Path) -> bool:
    unfinished = read_result(run_dir).get("status") in UNFINISHED
    return unfinished and any((run_dir / CHECKPOINTS).glob("*.ckpt")) and not in_use(run_dir)


def _config_of(run_dir: Path) -> Path:
    return run_dir / ".hydra" / "config.yaml"


def _read_config(run_dir: Path) -> dict[str, Any]:
    path = _config_of(run_dir)
    try:
        config = OmegaConf.load(path)
        content = OmegaConf.to_container(config, resolve=False)
    except FileNotFoundError as error:
        raise ConfigError(f"{run_dir}: not the folder of a run: {path} is missing") from error
    except Exception as error:  # of YAML and OmegaConf
        raise ConfigError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or not {"window", "source", "trainer"} <= set(content):
        raise ConfigError(f"{path}: not the configuration of a training")
    # Without the keys that Hydra itself would act on.
    kept = {str(name): value for name, value in content.items() if name not in ("defaults", "hydra")}
    found: dict[str, Any] = _with_moved_classes(kept)
    return found


def _with_moved_classes(value: Any) -> Any:
    if isinstance(value, dict):
        inside = {key: _with_moved_classes(inner) for key, inner in value.items()}
        target = inside.get("_target_")
        return inside | {"_target_": _MOVED[target]} if target in _MOVED else inside
    return [_with_moved_classes(inner) for inner in value] if isinstance(value, list) else value


def _store(config: dict[str, Any], changes: dict[str, Any]) -> None:
    """Store the configuration of an earlier run as a primary config for Hydra."""
    own = OmegaConf.load(CONF_DIR / "train.yaml")
    assert isinstance(own, DictConfig)
    overridden = [
        entry
        for entry in own.defaults
        if isinstance(entry, DictConfig) and any("override " in str(k) for k in entry)
    ]
    of_hydra = {"defaults": ["_self_", *map(OmegaConf.to_container, overridden)], "hydra": own.hydra}
    node = of_hydra | config | changes
    ConfigStore.instance().store(name=_RECORDED, node=node, provider="an earlier run")


@dataclass(frozen=True)
class Earlier:
    """What a run takes over from an earlier one.

    Attributes
    ----------
    history:
        File of the history that the earlier run kept; None to read the source.
    checkpoint:
        The checkpoint to resume from; None to train from the beginning.
    newest_of_all:
        Whether the other trainings of the run resume from their newest checkpoints.
    """

    history: Path | None = None
    checkpoint: State | None = None
    newest_of_all: bool = False


def earlier_run(cfg: DictConfig, settings: TrainSettings, run_dir: Path, unfinished: bool) -> Earlier:
    """Find what a configuration takes over from an earlier run.

    Parameters
    ----------
    unfinished:
        Whether ``run_dir`` holds an unfinished run.

    Raises
    ------
    ConfigError
        When a checkpoint is damaged or of another training.
    """
    repeated = None if settings.repeat is None else _history(Path(settings.repeat))
    if settings.resume is None:
        return Earlier(repeated)
    from kforecast.training.resume.reading import check_same, deciding, newest, read_checkpoint

    folder = run_dir / CHECKPOINTS
    if settings.resume == "auto":
        found = newest(folder) if unfinished else None
        if found is None:
            log.info("Nothing to resume in %s: training from the beginning", short_path(run_dir))
        kept = _history(run_dir) if unfinished else None
    else:
        path = Path(settings.resume)
        if not path.exists():
            raise ConfigError(f"resume: {path}: no such checkpoint")
        found = newest(path / CHECKPOINTS) if path.is_dir() else read_checkpoint(path, folder)
        if found is None:
            raise ConfigError(f"resume: {path}: no whole checkpoint in it")
        kept = _history(path if path.is_dir() else path.resolve().parent.parent)
    if found is not None:
        check_same(found, deciding(recorded(cfg)))
    return Earlier(kept or repeated, found, settings.resume == "auto")


def _history(run_dir: Path) -> Path | None:
    return run_dir / HISTORY if (run_dir / HISTORY).is_file() else None
