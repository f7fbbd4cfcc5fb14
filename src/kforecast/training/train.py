"""``kforecast-train``: the main job, from a configuration to an artifact.

Heavy libraries are imported where they are first needed, so that ``--help`` and an error in the configuration
or the data answer at once.
"""

from __future__ import annotations

import json
import logging
import shlex
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from kforecast import __version__, command
from kforecast.config import TrainSettings, check_train_settings, window_of
from kforecast.directory import check_writable

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

    from kforecast.artifact import Artifact
    from kforecast.data.panel import Panel
    from kforecast.data.split import Split
    from kforecast.evaluation.backtest import Scoreboard
    from kforecast.models.fcnet import Fcnet
    from kforecast.window import Window

log = logging.getLogger(__name__)


def main() -> None:
    """Run the command."""
    sys.exit(command.run(train, config_name="train"))


def train(cfg: DictConfig) -> float:
    """Train as configured; the run folder gets ``result.json``, whatever happens.

    Returns
    -------
    The best score of the watched loss, which a sweeper minimises; NaN when a job of a sweep failed.
    """
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    begun = time.perf_counter()
    try:
        result = _train(cfg, run_dir)
    except Exception as error:
        _write_result(
            run_dir, {"status": "failed", "error": str(error), "seconds": time.perf_counter() - begun}
        )
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            # The other jobs of a sweep go on; this one is in the table as failed.
            found = command.ours(error)
            log.error("job failed: %s", found or error, exc_info=found is None)
            return float("nan")
        raise
    _write_result(run_dir, {"status": "done"} | asdict(result) | {"seconds": time.perf_counter() - begun})
    return result.score


@dataclass(frozen=True)
class Result:
    """What a run came to; ``score`` is the best of the watched loss, ``epochs`` how many were run."""

    score: float
    epochs: int
    best_epoch: int
    artifact_dir: str


def _train(cfg: DictConfig, run_dir: Path) -> Result:
    settings = check_train_settings(cfg)
    artifact_dir = _artifact_dir(settings, run_dir)
    check_writable(artifact_dir)
    window = window_of(settings.window)
    source = instantiate(cfg.source)

    from kforecast.data.panel import Panel

    log.info("Reading %s", source)
    panel = Panel.from_frame(source.fetch(), window.frequency)
    split = _split(panel, window, settings, run_dir)

    # From here on everything needs torch.
    import torch
    from lightning.pytorch import seed_everything

    from kforecast.artifact import PER_SERIES
    from kforecast.training.callbacks import ArtifactWriter

    _quieten()
    # A step of a small network is over before several threads have met; on a busy machine, or with a CPU
    # quota below the number of cores, they wait for each other most of the time.
    torch.set_num_threads(settings.threads)
    seed_everything(settings.seed, workers=True, verbose=False)
    log.info("Seed %d; window: %s", settings.seed, window)
    data = _built(cfg.data, panel=panel, window=window, split=split, seed=settings.seed)
    net = _built(cfg.model, window=window, num_series=panel.num_series)
    make = _ArtifactMaker(cfg, settings, panel, split)
    _announce_size(make(net), artifact_dir, window)

    fit = _fit(cfg, data, net, ArtifactWriter(lambda module: make(module.net).save(artifact_dir)))
    scoreboard = _score(fit, panel, split)
    parts = _per_series(cfg, run_dir, data, make, net) if settings.artifact.per_series else {}
    make(net, fit, scoreboard).save(artifact_dir, parts)

    _log_hyper_parameters(fit, settings, cfg.monitor, panel.num_series, scoreboard)
    _say_result(cfg, run_dir, artifact_dir, fit, scoreboard)
    if parts:
        log.info("Single-series artifacts: %d folders in %s", len(parts), _shown(artifact_dir / PER_SERIES))
    return Result(fit.score, fit.epochs, fit.best_epoch, str(artifact_dir))


def _artifact_dir(settings: TrainSettings, run_dir: Path) -> Path:
    directory = Path(settings.artifact_dir)
    if HydraConfig.get().mode == RunMode.MULTIRUN and not directory.is_relative_to(run_dir):
        # Jobs of a sweep that share one directory would overwrite each other's artifact.
        return directory / str(HydraConfig.get().job.num)
    return directory


def _split(panel: Panel, window: Window, settings: TrainSettings, run_dir: Path) -> Split:
    """Split, and say what the data looks like: on the console and in ``data_summary.csv``."""
    from kforecast.data.split import split_windows
    from kforecast.data.summary import data_table, summarize

    data = settings.data
    split = split_windows(
        panel,
        window,
        validation=data.validation,
        test=data.test,
        max_missing=data.max_missing,
        mask_gaps=data.mask_gaps,
        skip_zero_context=data.skip_zero_context,
        skip_newest_window=data.skip_newest_window,
    )
    summary = summarize(panel, split)
    summary.to_csv(run_dir / "data_summary.csv", index=False)
    log.info("Data\n%s", data_table(summary, panel, split))
    return split


@dataclass
class _Fit:
    """A finished training: the network holds the best weights."""

    net: Fcnet
    trainer: Trainer
    score: float
    epochs: int
    best_epoch: int
    stopped_by: str
    seconds: float


def _fit(cfg: DictConfig, data: Any, net: Fcnet, *more_callbacks: Any) -> _Fit:
    """Train ``net`` on ``data`` and leave the best weights in it.

    Raises
    ------
    TrainingError
        When the loss is not a finite number.
    """
    import torch
    from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, RichProgressBar

    from kforecast.errors import TrainingError
    from kforecast.training.callbacks import watching
    from kforecast.training.module import ForecastModule

    callbacks = [instantiate(callback) for callback in cfg.callbacks.values() if callback is not None]
    callbacks += more_callbacks
    watches_terminal = sys.stdout.isatty()
    if watches_terminal:
        callbacks.append(RichProgressBar(leave=False))
    module = ForecastModule(net, optimizer=instantiate(cfg.optimizer))
    trainer: Trainer = _built(
        cfg.trainer,
        callbacks=callbacks,
        logger=[instantiate(logger) for logger in cfg.logger.values()] or False,
        enable_progress_bar=watches_terminal,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
    )
    begun = time.perf_counter()
    try:
        trainer.fit(module, datamodule=data)
    except SystemExit as error:
        # Lightning turns Ctrl-C into exit code 1.
        if error.code == 1 and trainer.interrupted:
            raise KeyboardInterrupt from error
        raise
    seconds = time.perf_counter() - begun

    checkpoint, stopping = watching(trainer), trainer.early_stopping_callback
    epochs = best_epoch = trainer.current_epoch
    score = float(trainer.callback_metrics.get(cfg.monitor, float("nan")))
    if checkpoint is not None and checkpoint.best_model_path:
        best = torch.load(checkpoint.best_model_path, map_location="cpu", weights_only=True)
        module.load_state_dict(best["state_dict"])
        best_epoch = best["epoch"] + 1
        score = float(checkpoint.best_model_score)  # type: ignore[arg-type]
    if not torch.isfinite(torch.tensor(score)):
        raise TrainingError(
            f"the loss ({cfg.monitor}) is {score} after {epochs} epochs; try a smaller optimizer.lr"
        )
    stopped_by = f"trainer.max_epochs={trainer.max_epochs}"
    if isinstance(stopping, EarlyStopping) and stopping.stopped_epoch:
        stopped_by = f"early stopping: no better {cfg.monitor} in {stopping.patience} epochs"
    return _Fit(module.net.eval(), trainer, score, epochs, best_epoch, stopped_by, seconds)


def _built(node: DictConfig, **arguments: Any) -> Any:
    """Make what a config node describes, with arguments that no configuration can hold.

    Raises
    ------
    ConfigError
        When the class refuses its arguments.
    """
    from hydra.errors import InstantiationException
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from kforecast.errors import ConfigError

    try:
        # In two steps: given to instantiate() itself, our dataclasses would be turned into configs.
        return instantiate(node, _partial_=True)(**arguments)
    except (InstantiationException, TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
        if command.ours(error):
            raise
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        raise ConfigError(f"{node._get_full_key('')}: {str(cause).splitlines()[0]}") from error


def _score(fit: _Fit, panel: Panel, split: Split) -> Scoreboard | None:
    """The model beside naive forecasts on what it was not trained on; None when nothing was held out."""
    from kforecast.evaluation.backtest import backtest

    if split.test.size:
        cells, span = split.test, f"the test span ({split.test.size:,} windows)"
    elif split.validation.size:
        cells = split.validation
        span = f"the validation span ({split.validation.size:,} windows, which also chose the best epoch)"
    else:
        return None
    module = fit.trainer.lightning_module
    windows = fit.trainer.datamodule.windows  # type: ignore[attr-defined]
    module.to(fit.trainer.strategy.root_device)
    models: dict[str, Any] = {"kforecast": module}
    if not fit.net.shared_embedding and panel.num_series > 1:
        models["the same, as Kapacity serves it"] = lambda batch: module(
            batch._replace(series=batch.series.new_zeros(len(batch.series)))
        )
    return backtest(models, windows, panel, cells, span)


def _per_series(
    cfg: DictConfig, run_dir: Path, data: Any, make: _ArtifactMaker, net: Fcnet
) -> dict[str, Artifact]:
    """Artifacts of one series each, from a net with individual embeddings, trained here if need be."""
    if net.shared_embedding:
        log.info("Training once more, with an embedding for each series, for artifact.per_series")
        cfg = cfg.copy()
        OmegaConf.update(cfg, "logger", {}, merge=False)
        if "model_checkpoint" in cfg.callbacks and cfg.callbacks.model_checkpoint is not None:
            OmegaConf.update(
                cfg, "callbacks.model_checkpoint.dirpath", str(run_dir / "checkpoints" / "per_series")
            )
        individual = _built(
            cfg.model, window=data.windows.window, num_series=make.panel.num_series, shared_embedding=False
        )
        net = _fit(cfg, data, individual).net
    return make.single_series(net)


class _ArtifactMaker:
    """Puts a network's weights together with everything an artifact says about them."""

    def __init__(self, cfg: DictConfig, settings: TrainSettings, panel: Panel, split: Split) -> None:
        from kforecast.artifact import EstimatorConfig

        self.panel = panel
        window, trainer = window_of(settings.window), settings.trainer
        self._config = EstimatorConfig(
            freq=window.frequency.name,
            prediction_length=window.prediction_length,
            context_length=window.context_length,
            num_series=panel.num_series,
            learning_rate=settings.optimizer.lr,
            epochs=trainer.max_epochs,
            batch_size=settings.data.batch_size,
            num_workers=settings.data.num_workers,
            patience=int(OmegaConf.select(cfg, "callbacks.early_stopping.patience", default=0) or 0),
            use_validation=bool(split.validation.size),
        )
        self._metadata = {
            "kforecast": __version__,
            "libraries": _library_versions(),
            "seed": settings.seed,
            "fill": settings.data.fill,
            "config": OmegaConf.to_container(cfg, resolve=True),
            "data": {
                "fingerprint": panel.fingerprint(),
                "series": panel.num_series,
                "first": int(panel.timestamps[0]),
                "last": int(panel.timestamps[-1]),
                "train_end": int(panel.start + split.train_end * window.frequency.step),
                "validation_end": int(panel.start + split.validation_end * window.frequency.step),
            },
        }

    def __call__(self, net: Fcnet, fit: _Fit | None = None, scoreboard: Scoreboard | None = None) -> Artifact:
        """The artifact of a network, with the scores known so far."""
        from kforecast.artifact import Artifact

        scores: dict[str, Any] = {}
        if fit is not None:
            scores = {"best": fit.score, "best_epoch": fit.best_epoch, "epochs": fit.epochs}
        if scoreboard is not None:
            scores["scoreboard"] = scoreboard.as_dict()
        return Artifact(
            self._config, self.panel.item_ids, net.artifact_state(), self._metadata | {"scores": scores}
        )

    def single_series(self, net: Fcnet) -> dict[str, Artifact]:
        """One artifact a series, by folder name: its row of the embedding and all that is shared."""
        from dataclasses import replace

        from kforecast.artifact import Artifact, folder_name
        from kforecast.data.panel import item_key

        state, config = net.artifact_state(), replace(self._config, num_series=1)
        table = "static_embeddings.0.weight"
        return {
            folder_name(number, *pair): Artifact(
                config,
                {item_key(*pair): 0},
                state | {table: state[table][number : number + 1].clone()},
                self._metadata,
            )
            for number, pair in enumerate(self.panel.series)
        }


def _announce_size(artifact: Artifact, artifact_dir: Path, window: Window) -> None:
    from kforecast.artifact import CONFIG_MAP_LIMIT, checkpoint_bytes

    size = len(checkpoint_bytes(artifact.state))
    log.info("The checkpoint will have %.0f KiB; artifact: %s", size / 1024, _shown(artifact_dir))
    if size > CONFIG_MAP_LIMIT:
        log.warning(
            "The checkpoint (%.2f MiB) will not fit a ConfigMap, which holds at most 1 MiB: mount the "
            "artifact from a volume, or make window.context_length smaller",
            size / (1 << 20),
        )
    if window.frequency.name == "1D":
        log.warning(
            "Kapacity's job stamps forecasts at 1D ten hours apart instead of a day; the values are right"
        )


def _say_result(
    cfg: DictConfig, run_dir: Path, artifact_dir: Path, fit: _Fit, scoreboard: Scoreboard | None
) -> None:
    from kforecast.training.summary import facts_table, score_table

    if scoreboard is not None:
        log.info("How good is it?\n%s", score_table(scoreboard))
    else:
        log.info("Not scored: nothing was held out (data.validation=0, data.test=0)")
    facts = {
        "best epoch": f"{fit.best_epoch} of {fit.epochs} ({cfg.monitor} {fit.score:.6g})",
        "stopped by": fit.stopped_by,
        "trained in": f"{fit.seconds:.1f} s",
        "artifact": _shown(artifact_dir),
        "checkpoints": _shown(run_dir / "checkpoints"),
        "log file": _shown(run_dir / f"{HydraConfig.get().job.name}.log"),
        "TensorBoard": f"tensorboard --logdir {shlex.quote(_shown(run_dir))}",
        "forecast": f"kforecast-forecast artifact_dir={shlex.quote(_shown(artifact_dir))} {_source(cfg)}",
    }
    if "tensorboard" not in cfg.logger:
        del facts["TensorBoard"]
    log.info("Done\n%s", facts_table("Training is done; next, type the command in the last line", facts))


def _shown(path: Path) -> str:
    """A path as short as it can be typed here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _source(cfg: DictConfig) -> str:
    """The source as typed for the forecast command."""
    path = OmegaConf.select(cfg, "source.path", default=None)
    if path is not None:
        return f"source=csv source.path={shlex.quote(str(path))}"
    return f"source={HydraConfig.get().runtime.choices['source']}"


def _log_hyper_parameters(
    fit: _Fit, settings: TrainSettings, monitor: str, num_series: int, scoreboard: Scoreboard | None
) -> None:
    """Give TensorBoard's HParams page this run's settings and its real scores."""
    from lightning.pytorch.loggers import TensorBoardLogger

    window, data = settings.window, settings.data
    # Without prefixes: the page sorts by name and ticks the first ones.
    parameters = {
        "batch_size": data.batch_size,
        "context_length": window.context_length,
        "freq": window.freq,
        "lr": settings.optimizer.lr,
        "max_epochs": settings.trainer.max_epochs,
        "prediction_length": window.prediction_length,
        "seed": settings.seed,
        "series": num_series,
        "shared_embedding": fit.net.shared_embedding,
    }
    metrics = {f"score/{monitor.replace('/', '_')}": fit.score}
    if scoreboard is not None:
        metrics |= {
            "score/skill": scoreboard.skill,
            "score/wape": next(iter(scoreboard.scores.values())).wape,
        }
    for logger in fit.trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(parameters, metrics)
            logger.finalize("success")


def _library_versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("torch", "lightning", "hydra-core", "omegaconf", "numpy", "pandas", "pyarrow")
    return {"python": sys.version.split()[0]} | {name: version(name) for name in names}


def _quieten() -> None:
    """Keep Lightning's advertisements and advice off a console that is for results."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for advice in (
        r".*does not have many workers.*",  # our loader gathers whole batches; workers are seldom faster
        r".*number of training batches .* is smaller than the logging interval.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*Total length of `list` across ranks is zero.*",  # no validation part: meant so
        r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    ):
        warnings.filterwarnings("ignore", message=advice)


def _write_result(run_dir: Path, content: dict[str, Any]) -> None:
    (run_dir / "result.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
