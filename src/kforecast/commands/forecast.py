"""``kforecast-forecast``: forecast every series from an artifact and the recent history."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from omegaconf import DictConfig

from kforecast.commands.run import run
from kforecast.commands.streams import data_output
from kforecast.commands.zero_shot import chosen_artifact, window_without_artifact
from kforecast.config.checks import check_forecast_settings, check_step, events_of, source_of
from kforecast.errors import DataError, StaleError, few
from kforecast.files.output import check_output, write_frame
from kforecast.intervals import missing

if TYPE_CHECKING:
    from kforecast.data.freshness import Origins
    from kforecast.forecaster import Forecaster

_FORMATS = (".csv", ".json", ".parquet")


def main() -> None:
    """Run the command."""
    flags = ("--config-file", "--dataset-file", "--metrics-server-addr")
    sys.exit(run(forecast, config_name="forecast", flags=flags))


def forecast(cfg: DictConfig) -> None:
    """Forecast as configured and write the result.

    Raises
    ------
    ConfigError, ArtifactError
        When a setting is wrong, or the artifact cannot be used.
    DataError
        When a series is not in the artifact or has no value that the model reads; the others are forecast
        nevertheless.
    StaleError
        When ``forecast.on_stale=error`` refuses a series; the others are forecast nevertheless.
    """
    settings = check_forecast_settings(cfg)
    chosen = settings.forecast
    output = check_output(settings.output, _FORMATS)
    artifact_dir = Path(settings.artifact_dir)
    window = window_without_artifact(artifact_dir, settings.window)
    source = source_of(cfg)
    events = events_of(settings.data.events, source)
    # A file is read at once; a server is asked only after everything else has been checked.
    history = source.fetch() if source.repeatable else None

    from kforecast.data.freshness import StaleRule, parse_moment, unseen_words
    from kforecast.forecaster import Forecaster
    from kforecast.metrics.frame import FrameSource

    artifact = chosen_artifact(artifact_dir, window)
    forecaster = Forecaster.of(artifact, str(artifact_dir)).knowing(events)
    if chosen.quantiles and forecaster.intervals is None:
        raise missing(artifact_dir)
    check_step(source, forecaster.window)
    if history is None:
        history = source.fetch()
    origins = forecaster.origins(
        FrameSource(history, any_time=True), parse_moment(chosen.at), as_consumed=chosen.as_consumed
    )
    rule = StaleRule(chosen.max_age, chosen.on_stale)
    stale = rule.stale(origins, forecaster.window)
    refused = stale & (rule.on_stale == "error")
    unseen = origins.unseen(forecaster.window, forecaster.net.lookback) & (origins.newest >= 0) & ~refused
    problems = _problems(forecaster, origins, refused, unseen)
    served = np.array([row for row in range(len(stale)) if row not in problems], dtype=np.int64)
    if len(served):
        forecasts = forecaster.forecast_from(
            origins.rows(served), stale[served], chosen.quantiles, as_consumed=chosen.as_consumed
        )
        if output is None:
            forecasts.to_csv(data_output(), index=False)
        else:
            write_frame(forecasts, output)
    if problems:
        message = f"{len(problems)} of {len(stale)} series cannot be forecast: {few(list(problems.values()))}"
        message += "; the others are" if len(served) else ""
        if refused.any():
            message += (
                ". Check the exporters of stale series, or give forecast.max_age or forecast.on_stale=warn"
            )
        if unseen.any():
            message += f". {unseen_words(forecaster.window, forecaster.net.lookback)}"
        raise (StaleError if refused.any() else DataError)(message)


def _problems(
    forecaster: Forecaster, origins: Origins, refused: np.ndarray, unseen: np.ndarray
) -> dict[int, str]:
    """The rows of series that cannot be forecast, each with name and reason."""
    from kforecast.data.freshness import age_words

    unknown, age, problems = set(forecaster.unknown(origins.panel.series)), origins.age, {}
    for row, pair in enumerate(origins.panel.series):
        if pair in unknown:
            reason = "not in the artifact: train it on this series first"
        elif origins.newest[row] < 0:
            reason = "no value is known"
        elif refused[row] or unseen[row]:
            reason = f"{'stale' if refused[row] else 'too old'}: newest value {age_words(age[row])} old"
        else:
            continue
        problems[row] = f"{' '.join(pair)} ({reason})"
    return problems


if __name__ == "__main__":
    main()
