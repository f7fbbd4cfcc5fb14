"""``kforecast-evaluate``: a rolling backtest of an artifact beside baselines, a report and a verdict."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from kforecast import command
from kforecast.config import (
    EvaluateSection,
    EvaluateSettings,
    built,
    check_evaluate_settings,
    check_step,
    source_of,
)
from kforecast.console import short_path
from kforecast.directory import check_writable
from kforecast.errors import ConfigError, DataError, GateError, few
from kforecast.history import read_history
from kforecast.intervals import FEWEST_WINDOWS

if TYPE_CHECKING:
    from kforecast.data.panel import Panel
    from kforecast.evaluation.capacity import Capacity
    from kforecast.forecaster import Forecaster
    from kforecast.metrics.source import MetricSource

log = logging.getLogger(__name__)

# Without a start, and without knowledge of the training data, the newest fifth is judged; what calibrates
# intervals is the fifth before it.
_SHARE = 0.2


def main() -> None:
    """Run the command."""
    flags = ("--config-file", "--dataset-file", "--metrics-server-addr")
    sys.exit(command.run(evaluate, config_name="evaluate", flags=flags, check=_check))


def evaluate(cfg: DictConfig) -> None:
    """Evaluate as configured: say what came of it, and write the report into the run folder.

    Raises
    ------
    GateError
        When ``evaluate.require_skill`` is not reached; the report is written nonetheless.
    """
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    settings, artifact_dir, capacity, source = _check(cfg)
    chosen = settings.evaluate

    from torch.utils.tensorboard import SummaryWriter

    from kforecast.artifact import Artifact, save_intervals
    from kforecast.evaluation.report import publish
    from kforecast.evaluation.scoreboard import judge
    from kforecast.evaluation.summary import shortfall, summary
    from kforecast.forecaster import Forecaster

    artifact = Artifact.load(artifact_dir)
    forecaster = Forecaster.of(artifact, str(artifact_dir))
    check_step(source, forecaster.window)
    panel = _known_series(read_history(source, forecaster.window.frequency, run_dir), forecaster)
    trained_until, used_until = artifact.training_span
    begin, stop = _span(panel, forecaster, chosen, used_until)
    warnings = _training_warnings(panel, begin, used_until)
    if forecaster.intervals is None or chosen.save_intervals:
        forecaster, more = _calibrated(forecaster, panel, begin, used_until, chosen.as_consumed)
        warnings += more
    for warning in warnings:
        log.warning(warning)
    board = judge(
        forecaster,
        panel,
        begin,
        stop,
        capacity,
        stride=chosen.stride,
        as_consumed=chosen.as_consumed,
        levels=chosen.quantiles,
        trained_until=trained_until,
        seed=settings.seed,
    )
    figures = publish(
        board,
        run_dir,
        artifact=short_path(artifact_dir),
        source=str(source),
        seed=settings.seed,
        warnings=tuple(warnings),
    )
    with SummaryWriter(str(run_dir / "tensorboard")) as events:
        for name, figure in figures.items():
            events.add_figure(f"evaluation/{name}", figure)
    print(summary(board))
    print(f"report: {short_path(run_dir / 'report.html')}")
    if chosen.save_intervals:
        if forecaster.intervals is None:
            raise DataError(
                f"evaluate.save_intervals: before {_utc(board.bounds[0])} there are less than "
                f"{FEWEST_WINDOWS} forecasts to calibrate on; give more history, or a later evaluate.start"
            )
        known, made = artifact.intervals, forecaster.intervals
        kept = made if known is None else known.updated(made)
        print(f"intervals: {short_path(save_intervals(artifact_dir, kept))}")
    if chosen.require_skill is not None:
        reason = shortfall(board, chosen.require_skill)
        if reason is not None:
            raise GateError(f"gate not passed (evaluate.require_skill={chosen.require_skill:g}): {reason}")


def _check(cfg: DictConfig) -> tuple[EvaluateSettings, Path, Capacity, MetricSource]:
    """What can be said without the artifact and the history."""
    settings = check_evaluate_settings(cfg)
    artifact_dir = Path(settings.artifact_dir)
    if not artifact_dir.is_dir():
        raise ConfigError(f"artifact_dir: {artifact_dir}: no such directory")
    if settings.evaluate.save_intervals:
        check_writable(artifact_dir)
    return settings, artifact_dir, built(cfg.capacity), source_of(cfg)


def _training_warnings(panel: Panel, begin: int, used_until: int | None) -> list[str]:
    """What to know where the judged span may have been trained on."""
    if used_until is None:
        return [
            "What the model was trained on is not known: where it is the history given here, the scores "
            "flatter the model, and intervals calibrated on it are too narrow."
        ]
    if panel.timestamps[begin] < used_until:
        return ["A part of the span was used in training: the scores flatter the model."]
    return []


def _calibrated(
    forecaster: Forecaster, panel: Panel, begin: int, used_until: int | None, as_consumed: bool
) -> tuple[Forecaster, list[str]]:
    """The forecaster with intervals from the history before the span, and what to know of them."""
    before = max(0, begin - round(_SHARE * panel.num_bins))
    forecaster = forecaster.calibrated(panel, before, begin, as_consumed=as_consumed)
    if forecaster.intervals is None:
        return forecaster, ["No intervals: the history before the span is too short to calibrate them on."]
    if used_until is not None and panel.timestamps[before] < used_until:
        return forecaster, ["The intervals are calibrated on data of the training, and may be too narrow."]
    return forecaster, []


def _known_series(panel: Panel, forecaster: Forecaster) -> Panel:
    """The series that the artifact has an id for; the others are said."""
    unknown = forecaster.unknown(panel.series)
    if not unknown:
        return panel
    names = few([" ".join(pair) for pair in unknown])
    if len(unknown) == panel.num_series:
        raise DataError(
            f"none of the series is in the artifact: {names}; it knows {few(list(forecaster.item_ids))}"
        )
    log.warning("%d of %d series are not in the artifact: %s", len(unknown), panel.num_series, names)
    strangers = set(unknown)
    return panel.rows([row for row, pair in enumerate(panel.series) if pair not in strangers])


def _span(
    panel: Panel, forecaster: Forecaster, chosen: EvaluateSection, used_until: int | None
) -> tuple[int, int]:
    """The judged bins ``[begin, stop)``."""
    step, first, last = panel.frequency.step, int(panel.timestamps[0]), int(panel.timestamps[-1])
    has = f"the history has bins of {panel.frequency.name} from {_utc(first)} to {_utc(last)}"
    start = used_until if chosen.start is None else chosen.start
    if start is None:
        start = first + round((1 - _SHARE) * panel.num_bins) * step
    if start > last:
        used = "evaluate.start" if chosen.start is not None else "the end of what training used"
        remedy = "" if chosen.start is not None else "; give newer history, or name an evaluate.start"
        raise DataError(f"nothing to judge: {used} is {_utc(start)}, but {has}{remedy}")
    end = last if chosen.end is None else chosen.end
    if end < first:
        raise DataError(f"nothing to judge: evaluate.end is {_utc(end)}, but {has}")
    # The first bin that begins at or after the start, and the last that begins at or before the end.
    begin = max(-(-(start - first) // step), 0)
    stop = min((end - first) // step + 1, panel.num_bins)
    if stop - begin < forecaster.window.prediction_length:
        raise DataError(
            f"nothing to judge: {max(stop - begin, 0)} bins from {_utc(start)} to {_utc(end)} are less than "
            f"a horizon of {forecaster.window.prediction_length}; {has}"
        )
    return begin, stop


def _utc(second: int) -> str:
    from kforecast.metrics.timerange import utc

    return utc(second)


if __name__ == "__main__":
    main()
