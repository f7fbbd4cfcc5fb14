"""The leaderboard as a self-contained HTML page with sortable tables and links to the reports."""

import base64
import hashlib
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kforecast.console import harmless, short_path
from kforecast.files.output import check_output, replace_file
from kforecast.leaderboard.runs import Run, Task, brief, cells, heading, varied
from kforecast.pages.template import template


def write_page(tasks: dict[Task, list[Run]], path: Path, folder: Path, sort: str) -> None:
    """Write the page; its links are relative, so that it can be moved together with the folder of runs.

    Parameters
    ----------
    path:
        The file to write.
    folder:
        The folder of the runs, which gives the page its title.
    sort:
        Sort key, one of :data:`kforecast.leaderboard.runs.SORTS`.

    Raises
    ------
    ConfigError
        When the file's name does not end in ``.html``.
    OutputError
        When the file system refuses.
    """
    check_output(path, (".html",), "--html")
    text = page(tasks, path, folder, sort)

    def write(staged: Path) -> None:
        staged.write_text(text, encoding="utf-8")

    replace_file(path, write)


def page(tasks: dict[Task, list[Run]], path: Path, folder: Path, sort: str) -> str:
    """The HTML of the page."""
    source = files("kforecast.pages").joinpath("leaderboard.html").read_text(encoding="utf-8")
    # The content security policy allows no script but the page's own, by its hash.
    script = re.search(r"<script>(.*)</script>", source, flags=re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    runs = [run for members in tasks.values() for run in members]
    counts = {name: sum(run.status == name for run in runs) for name in sorted({run.status for run in runs})}
    return template("leaderboard.html").render(
        digest=digest,
        title=folder.resolve().name if folder.resolve() == Path.cwd() else short_path(folder.absolute()),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        counts=counts,
        total=len(runs),
        comparable=sum(bool(task.data) for task in tasks),
        sort=sort,
        groups=[_group(task, members, path.absolute().parent) for task, members in tasks.items()],
    )


def _group(task: Task, runs: Sequence[Run], start: Path) -> dict[str, Any]:
    """Values of a task's table; links are relative to the folder ``start``."""
    names = varied(runs) if task.data else []
    rows = [_row(number, run, names, start) for number, run in enumerate(runs, start=1)]
    return {
        "heading": heading(task, runs),
        "finished": bool(task.data),
        "overrides": [harmless(name) for name in names],
        "notes": any(row["note"] for row in rows),
        "rows": rows,
    }


def _row(number: int, run: Run, names: Sequence[str], start: Path) -> dict[str, Any]:
    texts, log = cells(run), next(run.folder.glob("*.log"), None)
    given = [run.overrides.get(name, "") for name in names]
    values = (run.score, run.wape, run.skill, run.seconds, run.size)
    shown = (texts["score"], texts["WAPE"], texts["skill"], texts["seconds"], texts["KiB"])
    return {
        "rank": number if run.status == "done" else "",
        "run": harmless(short_path(run.folder.absolute())),
        "status": run.status,
        "report": _link(run.report, start) if run.report.is_file() else "",
        "log": _link(log, start) if log is not None else "",
        "numbers": list(zip(shown, ("" if value is None else repr(value) for value in values), strict=True)),
        "overrides": [(harmless(brief(value)), harmless(value)) for value in given],
        "note": harmless(run.note or (run.stopped_by if run.stopped_by.startswith("median") else "")),
    }


def _link(path: Path, start: Path) -> str:
    """A relative link from the folder ``start`` to a file."""
    return quote(os.path.relpath(path.absolute(), start))
