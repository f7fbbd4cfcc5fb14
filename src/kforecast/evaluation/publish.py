"""From a scoreboard to its report: what was judged, on what, with which verdict."""

from pathlib import Path

from matplotlib.figure import Figure

from kforecast import __version__
from kforecast.evaluation.report import ReportContext, write_report
from kforecast.evaluation.scoreboard import Scoreboard
from kforecast.evaluation.summary import span_words, verdict


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
        What the report calls the judged model and its history.
    seed:
        Of the bootstrap.
    warnings:
        What to know before believing the numbers.

    Raises
    ------
    OSError
        See :func:`kforecast.evaluation.report.write_report`.
    """
    tone, words = verdict(board)
    warnings = (*warnings, *board.orders.notes)
    facts = {
        "artifact": artifact,
        "source": source,
        "judged": span_words(board),
        "window": str(board.backtest.forecaster.window),
        "kforecast": __version__,
    }
    document = (
        {"kforecast": __version__, "artifact": artifact, "source": source, "seed": seed}
        | {"verdict": {"tone": tone, "words": words}, "warnings": list(warnings)}
        | board.as_dict()
    )
    return write_report(board, ReportContext(artifact, words, tone, facts, warnings), directory, document)
