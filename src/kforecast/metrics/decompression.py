"""Protection from decompression bombs: refused before they fill memory or disk."""

import io
import lzma
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from kforecast.errors import DataError, few

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
# The first bytes of compressed files.
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
    b"\xfd7zXZ\0": "xz",
    b"PK\3\4": "zip",
    b"PK\5\6": "zip",
}
# An xz file names the memory that it needs; xz -9 needs 65 MiB.
_MOST_XZ_MEMORY = 256 << 20
# The end of a zip, which has its directory's size, and the most bytes of a directory.
_ZIP_END = (1 << 16) + 22
_MOST_DIRECTORY = 1 << 20
_PIECE = 1 << 20


def codec_of(path: Path) -> str | None:
    """The compression of a file by its first bytes, whatever its name; None for none.

    Raises
    ------
    OSError
        When the file cannot be read.
    """
    with path.open("rb") as file:
        begin = file.read(8)
    found = next((name for magic, name in _MAGIC.items() if begin.startswith(magic)), None)
    return "brotli" if found is None and path.suffix in (".br", ".brotli") else found


class Decompressed(io.RawIOBase):
    """The decompressed content of a file, as a stream.

    Opening raises DataError for a zip that does not hold exactly one readable file. Reading raises DataError
    as soon as the content exceeds the accepted ratio to the bytes read so far.
    """

    def __init__(self, path: Path, codec: str) -> None:
        super().__init__()
        self._path, self._held = path, 0
        self._file = path.open("rb", buffering=0)
        try:
            self._stream = self._opened(codec)
        except BaseException:
            self._file.close()
            raise

    def _opened(self, codec: str) -> Any:
        if codec == "zip":
            return _only_file(self._file, self._path)
        if codec == "xz":
            return _Lzma(self._file)
        return pa.CompressedInputStream(self._file, codec)

    def readable(self) -> bool:
        """Always true."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read the next bytes; raises OSError when the file is damaged."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_PIECE), b""))
        try:
            content: bytes = self._stream.read(size)
        except (zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, NotImplementedError) as error:
            raise OSError(f"Truncated or damaged: {error}") from error
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


class _Lzma:
    """The content of an xz file, decompressed in bounded memory."""

    def __init__(self, file: Any) -> None:
        self._file, self._rest = file, b""
        self._decoder = lzma.LZMADecompressor(memlimit=_MOST_XZ_MEMORY)

    def read(self, size: int) -> bytes:
        """Read up to ``size`` bytes; empty at the end."""
        content = b""
        while not content and size:
            if self._decoder.eof:  # several streams read as one
                rest = self._decoder.unused_data.lstrip(b"\0") or self._file.read(_PIECE).lstrip(b"\0")
                if not rest:
                    break
                self._decoder, self._rest = lzma.LZMADecompressor(memlimit=_MOST_XZ_MEMORY), rest
            elif self._decoder.needs_input and not self._rest:
                self._rest = self._file.read(_PIECE)
                if not self._rest:
                    raise EOFError("the file ends early")
            content, self._rest = self._decoder.decompress(self._rest, max_length=size), b""
        return content

    def close(self) -> None:
        """The file is closed by its owner."""


def _only_file(file: Any, path: Path) -> Any:
    """The one file in a zip, opened; files that macOS adds do not count."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - _ZIP_END, 0))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    # The directory is checked before zipfile reads it, which takes memory for each of its entries.
    if at >= 0 and (int.from_bytes(tail[at + 12 : at + 16], "little") > _MOST_DIRECTORY or b"PK\6\6" in tail):
        raise DataError(f"{path}: is a zip of very many files, or a huge one; unpack it first")
    try:
        archive = zipfile.ZipFile(file)
        names = [
            entry
            for entry in archive.infolist()
            if not entry.is_dir()
            and not entry.filename.startswith("__MACOSX/")
            and entry.filename.rpartition("/")[2] != ".DS_Store"
        ]
        listed = {entry.filename for entry in names}
        if "[Content_Types].xml" in listed or "mimetype" in listed:
            kind = "an Excel workbook" if any(n.startswith("xl/") for n in listed) else "an office document"
            raise DataError(f"{path}: is {kind}; save the sheet as CSV and give that file")
        if len(names) != 1:
            said = few([repr(entry.filename[:80]) for entry in names]) or "no file"
            raise DataError(
                f"{path}: is a zip of {len(names):,} files, {said}; unpack it and give one of them"
            )
        if names[0].flag_bits & 1:
            raise DataError(f"{path}: is a zip with a password; unpack it first")
        return archive.open(names[0])
    except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError, struct.error) as error:
        raise OSError(f"not a readable zip: {error}") from error


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
