"""A folder of Parquet files that are one table, as Spark and others write it."""

from pathlib import Path
from urllib.parse import unquote

from kforecast.errors import DataError, few

_MOST_PARTS = 100_000
_MOST_DEPTH = 8


def parts_of(folder: Path) -> list[tuple[Path, dict[str, str]]] | None:
    """The Parquet files of a folder, in the order of their names; None when it holds none.

    Hidden files and those that begin with an underscore are ignored. A folder called ``column=value`` says
    the value of a column for all files below it.

    Returns
    -------
    Each file with the columns that its folders say.

    Raises
    ------
    DataError
        When other files lie among them.
    OSError
        When a folder cannot be listed.
    """
    found: list[tuple[Path, dict[str, str]]] = []
    others: list[str] = []
    waiting: list[tuple[Path, dict[str, str], int]] = [(folder, {}, 0)]
    while waiting:
        current, said, depth = waiting.pop()
        for path in sorted(current.iterdir()):
            if path.name.startswith((".", "_")):
                continue
            if path.is_dir():
                column, equals, value = path.name.partition("=")
                if not equals or depth >= _MOST_DEPTH:
                    others.append(path.name)
                    continue
                waiting.append((path, said | {column: unquote(value)}, depth + 1))
            elif path.is_file() and is_parquet(path):
                found.append((path, said))
            else:
                others.append(path.name)
        if len(found) + len(waiting) + len(others) > _MOST_PARTS:
            raise DataError(f"{folder}: holds more than {_MOST_PARTS:,} files")
    if not found:
        return None
    if others:
        raise DataError(
            f"{folder}: holds {few(sorted(others))[:200]} beside Parquet files; a folder of Parquet parts is "
            "read as one table, so move the others away"
        )
    return sorted(found)


def is_parquet(path: Path) -> bool:
    """Whether a file is named or begins like a Parquet file."""
    if path.suffix == ".parquet":
        return True
    try:
        if not path.is_file():  # opening a pipe would wait for its writer
            return False
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False
