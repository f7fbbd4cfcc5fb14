"""Protection from decompression bombs: refused before they fill memory or disk."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from kforecast.errors import DataError

# The highest accepted compression ratio. A constant metric once a minute, with two names of 200 letters,
# reaches 110 with gzip and 340 with zstd; noisy values reach 10. The formats themselves allow 1,030 and more
# than 10,000. Content up to _SMALL bytes is always accepted.
_MOST_RATIO = 400
_SMALL = 64 << 20
# The most rows accepted for each byte of a Parquet file. Constant columns shrink to page headers, 70 rows per
# byte, but values with information take a tenth of a byte or more each.
_MOST_ROWS_A_BYTE = 30
_SMALL_ROWS = 50_000_000
# The longest accepted line of a text file; a line is held in memory as a whole.
LONGEST_LINE = 16 << 20


def is_compressed(path: Path) -> bool:
    """Whether pyarrow knows a compression for the file's suffix."""
    try:
        return bool(pa.Codec.detect(str(path)))
    except (TypeError, ValueError):  # there is no codec for it
        return False


class Decompressed(io.RawIOBase):
    """The decompressed content of a file, as a stream.

    Reading raises DataError as soon as the content exceeds the accepted ratio to the bytes read so far.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._held = path, 0
        self._file = path.open("rb", buffering=0)
        self._stream: Any = pa.CompressedInputStream(self._file, pa.Codec.detect(str(path)).name)

    def readable(self) -> bool:
        """Always true."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read the next bytes; raises OSError when the file is damaged."""
        content: bytes = self._stream.read(size if size >= 0 else None)
        self._held += len(content)
        if self._held > max(_SMALL, _MOST_RATIO * self._file.tell()):
            raise DataError(
                f"{self._path}: holds more than {_MOST_RATIO} times its size, which is implausible for "
                "metrics; if this is intended, decompress it first"
            )
        return content

    def close(self) -> None:
        """Close the stream and the file."""
        if not self.closed:
            self._stream.close()
            self._file.close()
        super().close()


def check_parquet(path: Path, columns: tuple[str, ...]) -> None:
    """Refuse a Parquet file whose footer announces implausibly much for the file's size.

    Raises
    ------
    DataError
        When rows or bytes are too many; the message has both numbers.
    ArrowException, OSError
        When the file cannot be read.
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
        ("rows", about.num_rows, max(_SMALL_ROWS, _MOST_ROWS_A_BYTE * size)),
        ("bytes", held, max(_SMALL, _MOST_RATIO * size)),
    ):
        if promised > most:
            raise DataError(
                f"{path}: {promised:,} {unit} in a file of {size:,} bytes are implausible for metrics"
            )
