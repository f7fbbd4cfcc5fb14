"""``kforecast-evaluate``: a rolling backtest of an artifact against baselines, a report and a verdict."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from kforecast.commands.run import run
from kforecast.commands.zero_shot import chosen_artifact, window_without_artifact
from kforecast.config.checks import built, check_evaluate_settings, check_step, events_of, source_of
from kforecast.config.settings import EvaluateSettings
from kforecast.console import short_path
from kforecast.data.history import fetch_history, read_history
from kforecast.errors import ConfigError, DataError, GateError
from kforecast.files.directory import check_writable
from kforecast.intervals import FEWEST_WINDOWS

if TYPE_CHECKING:
    from kforecast.data.events.known import KnownEvents
    from kforecast.metrics.source import MetricSource
    from kforecast.simulation.capacity import Capacity
    from kforecast.window import Window

log = logging.getLogger(__name__)


def main() -> None:
    """Run the command."""
    flags = ("--config-file", "--dataset-file", "--metrics-server-addr")
    sys.exit(run(evaluate, config_name="evaluate", flags=flags, check=_check))


def evaluate(cfg: DictConfig) -> None:
    """Evaluate as configured: print the result and write the report into the run folder.

    Raises
    ------
    ConfigError, ArtifactError, DataError
        When a setting, the artifact or the history cannot be used.
    GateError
        When ``evaluate.require_skill`` is not reached; the report is written nevertheless.
    """
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    settings, artifact_dir, window, capacity, source, known_events = _check(cfg)
    chosen = settings.evaluate

    from torch.utils.tensorboard import SummaryWriter

    from kforecast.artifact import save_intervals
    from kforecast.data.panel import Panel
    from kforecast.evaluation.backtest import BacktestSettings
    from kforecast.evaluation.evaluation import EvaluationSettings, evaluate_panel
    from kforecast.evaluation.verdict import shortfall
    from kforecast.forecaster import Forecaster
    from kforecast.metrics.timerange import utc

    artifact = chosen_artifact(artifact_dir, window)
    forecaster = Forecaster.of(artifact, str(artifact_dir)).knowing(known_events)
    check_step(source, forecaster.window)
    frequency, rows = forecaster.window.frequency, None
    if chosen.as_consumed:  # Kapacity's job sees the rows of a bin that has just begun, and days of UTC
        rows = source.fetch() if source.repeatable else fetch_history(source, run_dir)
        panel = Panel.from_frame(rows, frequency)
    else:
        panel = read_history(source, frequency, run_dir, forecaster.bin_calendar)
    backtest = BacktestSettings(chosen.stride, chosen.as_consumed, levels=chosen.quantiles)
    judging = EvaluationSettings(chosen.start, chosen.end, backtest, capacity, settings.seed)
    found = evaluate_panel(
        forecaster, panel, judging, str(source), calibrate=chosen.save_intervals, rows=rows
    )
    figures = found.publish(run_dir, short_path(artifact_dir))
    with SummaryWriter(str(run_dir / "tensorboard")) as events:
        for name, figure in figures.items():
            events.add_figure(f"evaluation/{name}", figure)
    print(found)
    print(f"report: {short_path(run_dir / 'report.html')}")
    if chosen.save_intervals:
        made = found.board.backtest.predictor.intervals
        if made is None:
            raise DataError(
                f"evaluate.save_intervals: before {utc(found.board.bounds[0])} there are less than "
                f"{FEWEST_WINDOWS} forecasts to calibrate on; give more history, or a later evaluate.start"
            )
        known = artifact.intervals
        kept = made if known is None else known.updated(made)
        print(f"intervals: {short_path(save_intervals(artifact_dir, kept))}")
    if chosen.require_skill is not None:
        reason = shortfall(found.board, chosen.require_skill)
        if reason is not None:
            raise GateError(f"gate not passed (evaluate.require_skill={chosen.require_skill:g}): {reason}")


def _check(
    cfg: DictConfig,
) -> tuple[EvaluateSettings, Path, Window | None, Capacity, MetricSource, KnownEvents | None]:
    """Check the settings as far as that needs neither the artifact nor the history."""
    settings = check_evaluate_settings(cfg)
    artifact_dir = Path(settings.artifact_dir)
    window = window_without_artifact(artifact_dir, settings.window)
    if settings.evaluate.save_intervals:
        if window is not None:
            raise ConfigError(
                f"evaluate.save_intervals: artifact_dir={artifact_dir} is no directory to save them in; make "
                "one with kforecast-train model=pretrained trainer.max_epochs=0"
            )
        check_writable(artifact_dir)
    source = source_of(cfg)
    events = events_of(settings.data.events, source)
    return settings, artifact_dir, window, built(cfg.capacity, "capacity"), source, events


if __name__ == "__main__":
    main()
