"""``kforecast.train``: trains on a frame and returns a Forecaster, as kforecast-train does but without files.

The configuration comes from conf/, as for the command. The state of the process is restored: Hydra, random
numbers, threads, warnings and signal handlers. Files are written to a temporary folder only.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra.errors import HydraException
from lightning.pytorch.utilities.seed import isolate_rng
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from kforecast.config.compose import composed
from kforecast.config.conf_dir import CONF_DIR
from kforecast.config.explain import explain
from kforecast.errors import ConfigError, ours
from kforecast.evaluation.report.words import span_words
from kforecast.evaluation.verdict import verdict
from kforecast.forecaster import Forecaster
from kforecast.metrics.frame import source_of
from kforecast.metrics.source import MetricSource
from kforecast.training.distributed.processes import this_process
from kforecast.training.holdout import JudgedFit
from kforecast.training.plan import make_recipe_for_frame
from kforecast.training.run import run
from kforecast.validation import nearest
from kforecast.window import Window

log = logging.getLogger(__name__)

# Keys of the command only: output, loggers, resuming.
_OF_THE_COMMAND = (
    *("logger", "artifact_dir", "artifact", "gate", "resume", "repeat", "checkpoint_seconds"),
    *("hydra", "train_config"),
)
_ARGUMENTS = {"source": "frame", "window": "window"}
_MODELS = sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml"))
_KEYS = {
    "max_epochs": "trainer.max_epochs",
    "learning_rate": "optimizer.lr",
    "batch_size": "data.batch_size",
    "patience": "callbacks.early_stopping.patience",
    "validation": "data.validation",
    "test": "data.test",
    "refit": "refit",
    "timezone": "data.timezone",
    "holidays": "data.holidays",
    "seed": "seed",
}


def train(
    frame: pd.DataFrame | MetricSource,
    window: Window,
    *,
    model: str = "fcnet",
    max_epochs: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    patience: int | None = None,
    validation: float | None = None,
    test: float | None = None,
    refit: bool | None = None,
    timezone: str | Mapping[str, str] | None = None,
    holidays: str | None = None,
    seed: int = 42,
    overrides: Sequence[str] = (),
    verbose: bool = True,
) -> Forecaster:
    """Train a forecaster on a frame of traffic.

    With the same settings, seed and data the weights are those of kforecast-train, bit for bit. An argument
    that is None has the value in conf/.

    Parameters
    ----------
    frame:
        Long frame ``timestamp`` (unix seconds, or datetimes), ``value, workload, metric``, at the window's
        frequency or finer; rows in any order.
    window:
        Bin width, context and horizon.
    model:
        ``fcnet``, which Kapacity's job loads; ``seasonal_mlp`` or ``auto``, which forecast better;
        ``pretrained``, which has seen much traffic before; or ``lightgbm``, boosted trees, which need that
        extra.
    max_epochs, patience:
        Training ends after this many epochs, or this many epochs without improvement.
    learning_rate, batch_size:
        Step size of the optimizer, and windows per step.
    validation, test:
        Shares of the time range: the validation part chooses the best epoch, the test part (the newest)
        judges the result. Without a validation part the training loss is watched.
    refit:
        Whether to train again with the validation part, from new weights for as many epochs as were best.
        None does so too, or continues the first training with ``fcnet``.
    timezone, holidays:
        Local time of the series, an IANA name or one per workload; holidays, an ISO code like ``DE`` or
        ``DE-BY``.
    seed:
        Seed of the weights, the order of windows and all other random numbers.
    overrides:
        Other settings, as on the command line: ``["data.fill=zero", "optimizer=adamw"]``. Arguments take
        precedence.
    verbose:
        Print the progress. The logger ``kforecast`` receives all log lines in any case.

    Returns
    -------
    The forecaster, whose artifact can be saved.

    Raises
    ------
    ConfigError
        When an argument or an override is wrong.
    DataError
        When the frame is malformed, or there is too little data.
    TrainingError
        When a loss or a gradient is not a finite number.
    KeyboardInterrupt
        When the user interrupts; no files are left.
    """
    say: Callable[[str], None] = partial(print, flush=True) if verbose else log.debug
    begun = time.perf_counter()
    if not isinstance(window, Window):
        raise ConfigError(
            f"window is of the type {type(window).__name__}; give "
            'Window(freq="10min", context_length=7, prediction_length=3)'
        )
    if (started := this_process().count) > 1:
        raise ConfigError(
            f"train() works in one process, but a launcher has started {started}; use kforecast-train there"
        )
    given: dict[str, Any] = {"max_epochs": max_epochs, "learning_rate": learning_rate, "seed": seed}
    given |= {"batch_size": batch_size, "patience": patience, "validation": validation, "test": test}
    given |= {"refit": refit, "timezone": timezone, "holidays": holidays}
    with tempfile.TemporaryDirectory(prefix="kforecast-") as folder, _process_state_restored():
        cfg = _composed(window, model, given, list(overrides), folder)
        recipe = make_recipe_for_frame(cfg, source_of(frame), Path(folder))
        if recipe.settings.trainer.processes > 1:
            raise ConfigError(
                f"trainer.devices: {recipe.settings.trainer.processes} processes; train() works in one: use "
                "kforecast-train"
            )
        outcome = run(replace(recipe, recorded=_described(recipe.recorded, folder)), say)
    assert outcome is not None
    say(f"Done in {time.perf_counter() - begun:.1f} s: {_words(outcome.judged)}")
    return Forecaster.of(outcome.artifact, "the trained model")


def _words(judged: JudgedFit) -> str:
    fit, board = judged.fit, judged.scoreboard
    best = f"best epoch {fit.best_epoch} of {fit.epochs}"
    if board is None:
        return f"{best}; nothing was held out to judge it on"
    return f"{best}; WAPE {board.model['wape']:.2%} on {span_words(board)}. {verdict(board).words}"


def _composed(
    window: Window, model: str, given: Mapping[str, Any], overrides: list[str], folder: str
) -> DictConfig:
    """The configuration as kforecast-train composes it, with all interpolations resolved."""
    if model not in _MODELS:
        raise ConfigError(
            f"model is {model!r}{nearest(str(model), _MODELS)}; use one of {', '.join(_MODELS)}"
        )
    for override in overrides:
        if not isinstance(override, str) or "=" not in override.lstrip("~"):
            raise ConfigError(f"overrides: {override!r} is not of the form key=value")
        group = override.lstrip("+~").partition("=")[0].partition(".")[0].partition("@")[0].partition("/")[0]
        whole = "." not in override.partition("=")[0]
        if group in _ARGUMENTS or (group == "model" and whole):
            raise ConfigError(
                f"overrides: {override}: give it as the argument {_ARGUMENTS.get(group, group)}"
            )
        if group in _OF_THE_COMMAND:
            raise ConfigError(f"overrides: {override}: {group} is for kforecast-train, not for train()")
    fixed = [f"model={model}", "logger=none", "source=csv", "source.path=frame"]
    values = {f"window.{name}": getattr(window, name) for name in ("context_length", "prediction_length")}
    values |= {"window.freq": window.frequency.name}
    values |= {_KEYS[name]: _plain(name, value) for name, value in given.items() if value is not None}
    if values.get("data.validation") == 0:
        values["monitor"] = "train/loss"
    try:
        return composed("train", [*fixed, *overrides], values=values, output_dir=folder)
    except (HydraException, OmegaConfBaseException) as error:
        raise ours(error) or explain(error, "train", overrides) from error


def _plain(name: str, value: Any) -> Any:
    """An argument as a plain value; the checks of the configuration report wrong ones."""
    if isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(name, inner) for key, inner in value.items()}
    raise ConfigError(f"{name} is {value!r}, of the type {type(value).__name__}")


@contextmanager
def _process_state_restored() -> Iterator[None]:
    """Restore what a training sets: random numbers, torch's threads and Lightning's environment variables."""
    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    threads, environment = torch.get_num_threads(), {name: os.environ.get(name) for name in names}
    try:
        with isolate_rng():
            yield
    finally:
        torch.set_num_threads(threads)
        for name, value in environment.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _described(settings: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The settings for metadata.json, without the name of the temporary folder."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: renamed(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [renamed(inner) for inner in value]
        return value.replace(folder, ".") if isinstance(value, str) else value

    found: dict[str, Any] = renamed(dict(settings))
    return found | {"source": {"_target_": "kforecast.metrics.frame.FrameSource"}}
