"""``kforecast-forecast``: forecast every series from an artifact and the recent history."""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig

from kforecast.commands.run import run
from kforecast.config.checks import check_step, plain, source_of
from kforecast.errors import ConfigError, DataError, few
from kforecast.files.output import check_output, write_frame
from kforecast.intervals import check_levels, missing

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
        When a series is not in the artifact or has no value; the others are forecast nevertheless.
    """
    settings = plain(cfg)
    as_consumed = settings["forecast"]["as_consumed"]
    if not isinstance(as_consumed, bool):
        raise ConfigError(f"forecast.as_consumed: {as_consumed!r} is neither true nor false")
    try:
        levels = check_levels(settings["forecast"]["quantiles"])
    except ValueError as error:
        raise ConfigError(f"forecast.quantiles: {error}") from error
    output = check_output(settings["output"], _FORMATS)
    artifact_dir = Path(str(settings["artifact_dir"]))
    if not artifact_dir.is_dir():
        raise ConfigError(f"artifact_dir: {artifact_dir}: no such directory")
    source = source_of(cfg)
    # A file is read at once; a server is asked only after everything else has been checked.
    history = source.fetch() if source.repeatable else None

    import pandas as pd

    from kforecast.forecaster import Forecaster

    forecaster = Forecaster.load(artifact_dir)
    if levels and forecaster.intervals is None:
        raise missing(artifact_dir)
    check_step(source, forecaster.window)
    if history is None:
        history = source.fetch()
    names = history[["workload", "metric"]].astype(str)
    observed = set(names[history["value"].notna()].drop_duplicates().itertuples(index=False, name=None))
    served, problems = [], []
    pairs = list(names.drop_duplicates().itertuples(index=False, name=None))
    unknown = set(forecaster.unknown(pairs))
    for pair in pairs:
        if pair in unknown:
            problems.append(f"{' '.join(pair)} (not in the artifact: train it on this series first)")
        elif pair not in observed:
            problems.append(f"{' '.join(pair)} (no value is known)")
        else:
            served.append(pair)
    if served:
        chosen = history[pd.MultiIndex.from_frame(names).isin(served)]
        forecasts = forecaster.forecast(chosen, quantiles=levels, as_consumed=as_consumed, any_time=True)
        if output is None:
            forecasts.to_csv(sys.stdout, index=False)
        else:
            write_frame(forecasts, output)
    if problems:
        raise DataError(
            f"{len(problems)} of {len(pairs)} series cannot be forecast: {few(problems)}"
            + ("; the others are" if served else "")
        )


if __name__ == "__main__":
    main()
