"""``kforecast-forecast``: the next points of every series, from an artifact and its recent history."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from kforecast import command
from kforecast.config import built, plain
from kforecast.directory import check_writable
from kforecast.errors import ConfigError, DataError, few

if TYPE_CHECKING:
    import pandas as pd

_FORMATS = (".csv", ".json", ".parquet")


def main() -> None:
    """Run the command."""
    flags = ("--config-file", "--dataset-file", "--metrics-server-addr")
    sys.exit(command.run(forecast, config_name="forecast", flags=flags))


def forecast(cfg: DictConfig) -> None:
    """Forecast as configured and write the result.

    Raises
    ------
    DataError
        When a series is not in the artifact or has no value; the others are forecast nonetheless.
    """
    settings = plain(cfg)
    as_consumed = settings["forecast"]["as_consumed"]
    if not isinstance(as_consumed, bool):
        raise ConfigError(f"forecast.as_consumed: {as_consumed!r} is neither true nor false")
    output = Path(str(settings["output"])) if settings["output"] is not None else None
    if output is not None:
        if output.suffix not in _FORMATS:
            raise ConfigError(f"output: {output} ends in none of {', '.join(_FORMATS)}")
        check_writable(output.parent)
        if output.is_dir():
            raise ConfigError(f"output: {output} is a directory")
    artifact_dir = Path(str(settings["artifact_dir"]))
    if not artifact_dir.is_dir():
        raise ConfigError(f"artifact_dir: {artifact_dir}: no such directory")
    history = built(cfg.source).fetch()

    import pandas as pd

    from kforecast.forecaster import Forecaster

    forecaster = Forecaster.load(artifact_dir)
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
        write(forecaster.forecast(chosen, as_consumed=as_consumed), output)
    if problems:
        raise DataError(
            f"{len(problems)} of {len(pairs)} series cannot be forecast: {few(problems)}"
            + ("; the others are" if served else "")
        )


def write(frame: pd.DataFrame, output: Path | None) -> None:
    """Write a forecast as CSV, JSON (a list of rows) or Parquet, by the file's ending; None is stdout."""
    if output is None:
        frame.to_csv(sys.stdout, index=False)
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".parquet":
        frame.to_parquet(output, index=False)
    elif output.suffix == ".json":
        rows = json.dumps(frame.to_dict("records"), ensure_ascii=False, indent=1)
        output.write_text(rows + "\n", encoding="utf-8")
    else:
        frame.to_csv(output, index=False)


if __name__ == "__main__":
    main()
