"""``kforecast-leaderboard``: all runs and jobs of sweeps below a folder, best first."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from kforecast.commands.ending import exit_code_of
from kforecast.console import short_path
from kforecast.errors import ConfigError, OutputError
from kforecast.leaderboard.runs import RESULT, SORTS, Run, Task, collect, frame_of, grouped, runs_table


def main() -> None:
    """Run the command."""
    if code := exit_code_of(lambda: _run(sys.argv[1:])):
        sys.exit(code)


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message} (--help shows all flags)")


def _run(arguments: Sequence[str]) -> None:
    parser = _Parser(prog="kforecast-leaderboard", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", nargs="?", default="outputs", type=Path, help="where to look (outputs)")
    parser.add_argument("--sort", choices=SORTS, default="score", help="the order of the rows (score)")
    parser.add_argument("--top", type=int, default=20, metavar="N", help="rows per table on the console (20)")
    parser.add_argument("--data", metavar="FINGERPRINT", help="only runs on this data; a prefix is enough")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write all rows as CSV")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with sortable tables")
    parser.add_argument("--copy-best", type=Path, metavar="DIR", help="copy the best artifact there")
    given = parser.parse_args(arguments)
    if given.top < 1:
        raise ConfigError(f"--top: {given.top}: must be at least 1")
    if not given.folder.is_dir():
        raise ConfigError(f"{given.folder}: no such folder")
    runs = collect(given.folder)
    if given.data is not None:
        runs = [run for run in runs if run.task.data.startswith(given.data)]
    if not runs:
        which = "" if given.data is None else f" on data {given.data}"
        raise ConfigError(f"{given.folder}: no runs{which} below it (a run has a {RESULT})")
    tasks = grouped(runs, given.sort)
    for task, members in tasks.items():
        print(runs_table(task, members, given.sort, given.top), end="\n\n")
    if len(comparable := [task for task in tasks if task.data]) > 1:
        print(f"{len(comparable)} different tasks: scores are comparable within a table only")
    if given.csv is not None:
        from kforecast.files.output import check_output, write_frame

        if check_output(given.csv, (".csv",), "--csv") is not None:
            write_frame(frame_of(tasks), given.csv)
            print(f"table: {short_path(given.csv)}")
    if given.html is not None:
        from kforecast.leaderboard.page import write_page

        write_page(tasks, given.html, given.folder, given.sort)
        print(f"page: {short_path(given.html)}")
    if given.copy_best is not None:
        _copy_best(tasks, given.copy_best)


def _copy_best(tasks: dict[Task, list[Run]], directory: Path) -> None:
    """Copy the artifact of the best run, validated before and after the copy."""
    names = [task.data[:8] for task in tasks if task.data]
    if len(names) > 1:
        raise ConfigError(
            f"--copy-best: {len(names)} different tasks ({', '.join(dict.fromkeys(names))}) have no common "
            "best run; choose one with --data, or by its folder"
        )
    best = next(
        (run for runs in tasks.values() for run in runs if run.status == "done" and run.artifact), None
    )
    if best is None or best.artifact is None:
        raise ConfigError("--copy-best: no finished run still has its artifact")
    from kforecast.artifact import Artifact
    from kforecast.files.directory import check_writable
    from kforecast.files.lock import sole_writer

    if directory.resolve() == best.artifact.resolve():
        raise ConfigError(f"--copy-best: the best artifact is already in {directory}")
    check_writable(directory)
    artifact = Artifact.load(best.artifact)
    with sole_writer(directory, f"kforecast-leaderboard (process {os.getpid()})"):
        artifact.save(directory)
        if Artifact.load(directory).metadata != artifact.metadata:
            raise OutputError(f"{directory}: the copy differs from {best.artifact}")
    print(f"best artifact: {short_path(directory)}, of {short_path(best.folder.absolute())}")


if __name__ == "__main__":
    main()
