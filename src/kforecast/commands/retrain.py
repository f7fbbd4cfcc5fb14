"""``kforecast-retrain``: trains a candidate, and promotes it only if it is better than the champion."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict
from pydantic import BaseModel, ConfigDict, Field

from kforecast.commands.run import run
from kforecast.commands.train import train
from kforecast.config.checks import plain
from kforecast.config.legacy_cli import FLAGS
from kforecast.config.overrides import append, is_override
from kforecast.console import short_path
from kforecast.errors import ConfigError, GateError
from kforecast.retraining.store import CHAMPION, Cycle, Store, facts_of
from kforecast.training.distributed.process_group import end_at_once
from kforecast.training.distributed.processes import this_process
from kforecast.training.plan import check as check_training
from kforecast.training.result import read_result
from kforecast.validation import validate

if TYPE_CHECKING:
    from kforecast.retraining.store import Decision

log = logging.getLogger(__name__)

_ROLLBACK = "--rollback"
# Keys that a cycle sets itself.
_OURS = ("artifact_dir", "gate.champion", "warm_start", "repeat")


class _Settings(BaseModel):
    """``retrain``: settings of a cycle, in addition to those of the training."""

    model_config = ConfigDict(extra="forbid", strict=True)

    dir: Annotated[str, Field(min_length=1)]
    warm_start: bool
    keep: Annotated[int, Field(ge=1)]
    rollback: bool = False


def main() -> None:
    """Run the command."""
    flags = [flag for flag in FLAGS if flag != "--model-save-path"]
    try:
        code: object = run(retrain, config_name="train", flags=flags, prepare=prepare, check=_check)
    except SystemExit as error:
        code = error.code
    end_at_once(code, alone=True)
    sys.exit(code)  # type: ignore[arg-type]


def retrain(cfg: DictConfig) -> None:
    """Run a cycle as configured, or restore the former champion.

    Raises
    ------
    ConfigError, DataError, ArtifactError
        When the settings, the history or the champion cannot be used.
    GateError
        When there is no champion yet, and the candidate does not pass the gate or is not fit to serve.
    """
    settings = _settings(cfg)
    holder = f"the run in {short_path(Path(HydraConfig.get().runtime.output_dir))} (process {os.getpid()})"
    with Store(Path(settings.dir)).writing(holder) as store:
        if settings.rollback:
            _roll_back(store, settings)
        else:
            _run_cycle(cfg, settings, store)


def _run_cycle(cfg: DictConfig, settings: _Settings, store: Store) -> None:
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    begun = time.perf_counter()
    before, champion = store.state.champion, store.champion
    if champion is None:
        log.info("There is no champion in %s yet: the candidate becomes it", store.root)
    else:
        log.info("Champion: version %d of %s", before, store.root)
    try:
        train(_for_training(cfg, settings, store, run_dir))
    except GateError:
        pass  # result.json holds the reason
    except SystemExit as ended:  # of a training in several processes
        if ended.code != GateError.exit_code:
            raise

    from kforecast.artifact import Artifact

    result, number = read_result(run_dir), store.state.newest + 1
    report = _report(run_dir)
    # The rest names the place of the model, which becomes a version of the store here.
    refused = None if result["rejected"] is None else result["rejected"].partition("; ")[0]
    if refused is None and before is None and report is not None:
        # With a champion, the gate has looked at this already.
        refused = report["verdict"]["unfit"]
    Artifact.load(Path(result["artifact_dir"])).save(store.version(number))
    decision, promoted = _decision(before, refused), refused is None
    former = store.state.former
    cycle = Cycle(
        time=_now(),
        decision=decision,
        champion=number if promoted else before,
        candidate=number,
        reason=refused or "",
        seconds=round(time.perf_counter() - begun, 1),
        run=short_path(run_dir),
        **facts_of(report),
    )
    store.decide(cycle, (*former, before) if promoted and before is not None else former, settings.keep)
    _close(store)
    if decision == "rejected":
        raise GateError(f"there is no champion: {refused}")


def _decision(before: int | None, refused: str | None) -> Decision:
    if refused is None:
        return "first" if before is None else "promoted"
    return "rejected" if before is None else "kept"


def _roll_back(store: Store, settings: _Settings) -> None:
    """Make the former champion the champion again.

    Raises
    ------
    ConfigError
        When there is no former champion.
    ArtifactError
        When its files have changed.
    """
    state = store.state
    if not state.former:
        raise ConfigError(f"--rollback: {store.root} has no former champion to go back to")
    store.check(state.former[-1])
    # The version stays in the store, as the candidate of this cycle.
    cycle = Cycle(
        time=_now(),
        decision="rolled back",
        champion=state.former[-1],
        candidate=state.champion,
        reason=f"version {state.champion} was taken back",
    )
    store.decide(cycle, state.former[:-1], settings.keep)
    _close(store)


def _close(store: Store) -> None:
    from kforecast.retraining.report import publish, summary

    store.write_history()
    publish(store)
    log.info("%s", summary(store))


def _for_training(cfg: DictConfig, settings: _Settings, store: Store, run_dir: Path) -> DictConfig:
    """The configuration of the candidate's training."""
    found = cfg.copy()
    with open_dict(found):
        del found["retrain"]
        found.artifact_dir = str(run_dir / "artifact")
        if store.champion is not None:
            found.gate.champion = str(store.champion)
            if settings.warm_start:
                found.warm_start = str(store.champion)
    return found


def _report(run_dir: Path) -> dict[str, Any] | None:
    path = run_dir / "evaluation" / "report.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def prepare(arguments: list[str]) -> tuple[list[str], str]:
    """Turn the command line into one for ``conf/train.yaml``, with the keys of ``retrain`` added.

    Returns
    -------
    The command line, and the name of the primary config.

    Raises
    ------
    ConfigError
        When it sets a key that a cycle sets itself, or requests several trainings.
    """
    if {"-m", "--multirun"} & set(arguments):
        raise ConfigError("kforecast-retrain trains one candidate: leave out -m")
    if this_process().count > 1:
        raise ConfigError(
            "kforecast-retrain starts its processes itself: leave out the launcher, and give trainer=ddp "
            "trainer.devices=..."
        )
    for argument in filter(is_override, arguments):
        key = argument.partition("=")[0].lstrip("+~")
        if key in _OURS:
            raise ConfigError(
                f"{argument}: kforecast-retrain decides that itself; the served artifact is {CHAMPION} below "
                "retrain.dir"
            )
    rest = [argument for argument in arguments if argument != _ROLLBACK]
    ours = ["+retrain=default", "hydra/help=retrain", "hydra.job.name=retrain"]
    if len(rest) < len(arguments):
        ours.append("+retrain.rollback=true")
    return append(rest, ours), "train"


def _check(cfg: DictConfig) -> None:
    """Check the configuration as far as possible without data."""
    settings = _settings(cfg)
    store = Store(Path(settings.dir))
    if not settings.rollback:
        if cfg.artifact.per_series:
            raise ConfigError(
                "artifact.per_series: a champion is one artifact; leave it out, and train artifacts for "
                "single series with kforecast-train"
            )
        run_dir = Path(HydraConfig.get().runtime.output_dir)
        check_training(_for_training(cfg, settings, store, run_dir))


def _settings(cfg: DictConfig) -> _Settings:
    if cfg.retrain.get("rollback"):
        cfg = DictConfig({"source": {}, "retrain": cfg.retrain})
    return validate(_Settings, plain(cfg)["retrain"], "retrain")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    main()
