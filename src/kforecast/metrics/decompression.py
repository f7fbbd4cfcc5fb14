"""Compressed files that hold far more than they look: refused before they fill memory or disk."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from kforecast.errors import DataError

# So many times its size a compressed file may hold. A constant metric of every minute, with two names of 200
# letters, makes 110 with gzip and 340 with zstd, of which most is possible 1,030 and more than 10,000; what
# has noise in it makes 10. Small files may do as they like.
_MOST_FOLD = 400
_FREE = 64 << 20
# A Parquet file may hold so many rows for each of its bytes: its encodings reduce what is constant to the
# headers of pages, 70 rows a byte, but a value that says something takes a tenth of a byte or more.
_MOST_ROWS_A_BYTE = 30
_FREE_ROWS = 50_000_000
# The longest line of a text file, which is held as a whole.
LONGEST_LINE = 16 << 20


def is_compressed(path: Path) -> bool:
    """Whether a file's ending is one of a compression that pyarrow knows."""
    try:
        return bool(pa.Codec.detect(str(path)))
    except (TypeError, ValueError):  # it has none
        return False


class Decompressed(io.RawIOBase):
    """What a compressed file holds.

    Reading raises DataError as soon as it has grown out of proportion to what was read of the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._held = path, 0
        self._file = path.open("rb", buffering=0)
        self._stream: Any = pa.CompressedInputStream(self._file, pa.Codec.detect(str(path)).name)

    def readable(self) -> bool:
        """It can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes; raises OSError when the file is damaged."""
        content: bytes = self._stream.read(size if size >= 0 else None)
        self._held += len(content)
        if self._held > max(_FREE, _MOST_FOLD * self._file.tell()):
            raise DataError(
                f"{self._path}: holds more than {_MOST_FOLD} times its size, as no metrics do; if it is what "
                "you want, decompress it first"
            )
        return content

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._stream.close()
            self._file.close()
        super().close()


def check_parquet(path: Path, columns: tuple[str, ...]) -> None:
    """Refuse a Parquet file whose footer promises more than a file of its size holds.

    Raises
    ------
    DataError
        Naming both numbers.
    ArrowException, OSError
        When it cannot be read.
    """
    about, size = pa.parquet.read_metadata(path), path.stat().st_size
    held = 0
    for group in range(about.num_row_groups):
        row_group = about.row_group(group)
        for number in range(row_group.num_columns):
            column = row_group.column(number)
            if column.path_in_schema in columns:
                held += column.total_uncompressed_size
    for unit, promised, most in (
        ("rows", about.num_rows, max(_FREE_ROWS, _MOST_ROWS_A_BYTE * size)),
        ("bytes", held, max(_FREE, _MOST_FOLD * size)),
    ):
        if promised > most:
            raise DataError(f"{path}: {promised:,} {unit} in a file of {size:,} bytes, which no metrics are")
