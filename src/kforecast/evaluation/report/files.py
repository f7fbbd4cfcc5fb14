"""The files of a report: page, data and figures."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kforecast.evaluation.report.figures import NAMES, figures
from kforecast.evaluation.report.page import ReportContext, page
from kforecast.evaluation.report.words import span_words
from kforecast.evaluation.scoreboard import Scoreboard
from kforecast.evaluation.verdict import caveats, verdict
from kforecast.files.output import replace_file, write_json
from kforecast.intervals import column
from kforecast.pages.drawing import save_png
from kforecast.version import __version__


def publish(
    board: Scoreboard,
    directory: Path,
    *,
    artifact: str,
    source: str,
    seed: int,
    warnings: tuple[str, ...] = (),
) -> dict[str, Figure]:
    """Write the report of a scoreboard into a directory; return its figures.

    Parameters
    ----------
    artifact, source:
        Names of the judged model and of its history in the report.
    seed:
        Seed of the bootstrap.
    warnings:
        Caveats to show; those of the scoreboard are added.

    Raises
    ------
    OSError
        See :func:`write_report`.
    """
    found = verdict(board)
    warnings = (*warnings, *caveats(board))
    facts = {
        "artifact": artifact,
        "source": source,
        "judged": span_words(board),
        "window": str(board.backtest.predictor.window),
        "kforecast": __version__,
    }
    document = (
        {"kforecast": __version__, "artifact": artifact, "source": source, "seed": seed}
        | {"verdict": asdict(found), "warnings": list(warnings)}
        | board.as_dict()
    )
    return write_report(
        board, ReportContext(artifact, found.words, found.tone, facts, warnings), directory, document
    )


def write_report(
    board: Scoreboard, context: ReportContext, directory: Path, document: Mapping[str, Any]
) -> dict[str, Figure]:
    """Write ``report.html``, ``report.json``, ``scores.csv``, ``forecasts.csv`` and ``figures/*.png``.

    Parameters
    ----------
    directory:
        Created if missing. Figures of an earlier report are removed if this report lacks them.
    document:
        Plain values for ``report.json``.

    Returns
    -------
    The figures, see :func:`kforecast.evaluation.report.figures.figures`.

    Raises
    ------
    OSError
        When the file system refuses. Each file is then either the complete old one or the complete new one.
    """
    drawn = figures(board)
    text = page(board, context, drawn)
    for name, figure in drawn.items():
        replace_file(directory / "figures" / f"{name}.png", partial(save_png, figure))
    for name in set(NAMES) - set(drawn):
        (directory / "figures" / f"{name}.png").unlink(missing_ok=True)
    _write_csv(forecasts_frame(board), directory / "forecasts.csv")
    _write_csv(board.scores, directory / "scores.csv")
    write_json(dict(document), directory / "report.json")
    # The page comes last: once it exists, so does everything that it links to.
    replace_file(directory / "report.html", lambda path: _write_text(text, path))
    return drawn


def remove_report(directory: Path) -> None:
    """Remove the files that :func:`write_report` wrote into a directory, and nothing else."""
    for name in ("report.html", "report.json", "scores.csv", "forecasts.csv"):
        (directory / name).unlink(missing_ok=True)
    for name in NAMES:
        (directory / "figures" / f"{name}.png").unlink(missing_ok=True)


def forecasts_frame(board: Scoreboard) -> pd.DataFrame:
    """The judged forecasts, one row per window and step.

    Returns
    -------
    DataFrame ``workload, metric`` (categoricals), ``origin`` (unix seconds of the last bin before the first
    target), ``step`` (from 1), ``timestamp`` (unix seconds of the target's bin), ``value``, ``actual`` (NaN
    if not observed) and a column like ``q0.9`` for each judged quantile; sorted by series, origin
    and step.
    """
    found, panel, horizon = board.backtest, board.backtest.panel, board.backtest.horizon

    def name(part: int) -> "pd.Categorical[str]":
        """Column of workloads (0) or metrics (1)."""
        names = [pair[part] for pair in panel.series]
        number = {name: place for place, name in enumerate(dict.fromkeys(names))}
        codes = np.array([number[name] for name in names])[found.series].repeat(horizon)
        return pd.Categorical.from_codes(codes, categories=pd.Index([*number]))

    columns: dict[str, object] = {
        "workload": name(0),
        "metric": name(1),
        "origin": np.repeat(panel.seconds(found.origin - 1), horizon),
        "step": np.tile(np.arange(1, horizon + 1), len(found.origin)),
        "timestamp": panel.seconds(found.target).reshape(-1),
        "value": found.forecasts[found.model].reshape(-1),
        # The values were float32 before, so nothing is lost.
        "actual": found.actual.astype(np.float32).reshape(-1),
    }
    for number, level in enumerate(found.levels):
        columns[column(level)] = found.quantiles[..., number].reshape(-1)
    return pd.DataFrame(columns)


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame with pyarrow: about six times as fast as pandas, which matters for a million rows."""
    import pyarrow
    from pyarrow import csv

    table = pyarrow.Table.from_pandas(frame, preserve_index=False)
    replace_file(path, lambda staged: csv.write_csv(table, staged))


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
