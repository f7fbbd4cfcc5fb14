"""``kforecast-fetch``: copy the history of any source into a file, and report its defects."""

from __future__ import annotations

import logging
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from pydantic import BaseModel, ConfigDict

from kforecast.commands.run import run
from kforecast.config.checks import check_step, plain, source_of, window_of
from kforecast.config.overrides import append, quote
from kforecast.config.settings import TimeZone, WindowSection
from kforecast.console import short_path
from kforecast.errors import ConfigError
from kforecast.files.output import check_output, replace_file, write_frame, write_json
from kforecast.validation import validate

if TYPE_CHECKING:
    import pandas as pd

    from kforecast.data.calendar import Calendar
    from kforecast.window import Window

log = logging.getLogger(__name__)

_FORMATS = (".csv", ".csv.gz", ".parquet")


_SUGGEST, _SUGGESTED = "--suggest-events", "events.csv"


def main() -> None:
    """Run the command."""
    flags = ("--config-file", "--dataset-file", "--metrics-server-addr")
    sys.exit(run(fetch, config_name="fetch", flags=flags, prepare=prepare))


def prepare(arguments: list[str]) -> tuple[list[str], str]:
    """Turn ``--suggest-events`` and ``--suggest-events=FILE`` into the key; return the config's name."""
    mine = [argument for argument in arguments if argument.partition("=")[0] == _SUGGEST]
    if not mine:
        return arguments, "fetch"
    file = mine[-1].partition("=")[2] or _SUGGESTED
    rest = [argument for argument in arguments if argument not in mine]
    return append(rest, [f"suggest_events={quote(file)}"]), "fetch"


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid")

    timezone: TimeZone


class _Settings(BaseModel):
    window: WindowSection
    data: _Data


def fetch(cfg: DictConfig) -> None:
    """Fetch as configured, report the quality of the history, and write it.

    Raises
    ------
    DataError
        When no training can use the rows; the report is written then, the history is not.
    """
    settings = plain(cfg)
    chosen = validate(_Settings, {name: settings[name] for name in ("window", "data")}, "configuration")
    window = window_of(chosen.window)
    output = check_output(settings["output"], _FORMATS)
    beside = output.parent / "report.json" if output is not None else None
    report = check_output(settings["report"], (".json",), key="report") or beside
    suggested = check_output(settings["suggest_events"], (".csv",), key="suggest_events (--suggest-events)")
    if suggested is not None and suggested.exists():
        raise ConfigError(
            f"{_SUGGEST}: {suggested} exists, and may have been edited; name another file: "
            f"{_SUGGEST}=FILE.csv"
        )
    source = source_of(cfg)
    check_step(source, window)

    from kforecast.data.calendar import Calendar
    from kforecast.data.quality import examine, findings_text, quality_table

    log.info("Reading %s", source)
    # Unchecked: a file may hold anything, and the report describes it.
    rows = source.read() if hasattr(source, "read") else source.fetch()
    calendar = Calendar.of(chosen.data.timezone)
    measured, findings = examine(rows, window, getattr(source, "on_multiple", None), calendar)
    if len(measured):
        print(quality_table(measured, window))
        print(findings_text(findings))
    if report is not None:
        content = {
            "source": str(source),
            "window": settings["window"],
            "series": [{k: _plain(v) for k, v in row.items()} for row in measured.to_dict("records")],
            "findings": [asdict(finding) for finding in findings],
            "fetch": source.report.as_dict() if hasattr(source, "report") else None,
        }
        write_json(content, report)
        print(f"report: {short_path(Path(report).resolve())}")
    if suggested is not None:
        _suggest(rows, window, calendar, suggested)
    # Several rows at one moment are combined here: the column that tells them apart is not written.
    rows = source.resolved(rows) if hasattr(source, "resolved") else rows
    if output is not None:
        write_frame(rows[["timestamp", "value", "workload", "metric"]], output)
        print(f"history: {short_path(output.resolve())} ({len(rows):,} rows)")


def _suggest(rows: pd.DataFrame, window: Window, calendar: Calendar, file: Path) -> None:
    """Print the incidents that the history shows, and write them as a file of events."""
    from kforecast.data.events.incidents import found_incidents, incidents_text
    from kforecast.data.events.known import KnownEvents
    from kforecast.data.panel import Panel

    panel = Panel.from_frame(rows, window.frequency, calendar)
    found = found_incidents(panel)
    print(incidents_text(panel, found))
    known = KnownEvents(()).and_those(one.known for one in found)

    def write(staged: Path) -> None:
        staged.write_text(known.to_csv(), encoding="utf-8")

    replace_file(file, write)
    print(f"events: {short_path(file.resolve())} (edit it, then give data.events={short_path(file)})")


def _plain(value: Any) -> Any:
    """A value for JSON: None for NaN, and an integer for a float without a fraction."""
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else int(value) if value.is_integer() else value


if __name__ == "__main__":
    main()
