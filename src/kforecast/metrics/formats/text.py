"""Text files as UTF-8 streams: compressed or not, in UTF-8 or UTF-16."""

import codecs
import io
from pathlib import Path
from typing import Any

import pyarrow as pa

from kforecast.errors import DataError
from kforecast.metrics.decompression import Decompressed, codec_of

# The longest accepted beginning, and the most text that is parsed as a whole.
START = 1 << 16
_MOST_TEXT = 1 << 30
_PIECE = 1 << 20
_UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def opened(path: Path) -> Any:
    """Open a text file for reading as UTF-8 bytes; the caller closes it.

    Raises
    ------
    DataError
        When it is a zip that does not hold exactly one readable file.
    OSError
        When it cannot be read.
    """
    codec = codec_of(path)
    stream = _raw(path, codec)
    begin = stream.read(2)
    stream.close()
    stream = _raw(path, codec)
    return _Recoded(stream, _UTF16[begin], path) if begin in _UTF16 else stream


def start_of(path: Path) -> bytes:
    """The first 64 KiB of a text file, decompressed and in UTF-8; raises as :func:`opened`."""
    with opened(path) as stream:
        content = b""
        while len(content) < START and (piece := stream.read(START - len(content))):
            content += piece
    return content.removeprefix(codecs.BOM_UTF8)


def whole_text(path: Path) -> bytes:
    """All of a text file, decompressed and in UTF-8.

    Raises
    ------
    DataError
        As :func:`opened`, and when it is too large to be parsed as a whole.
    OSError
        When it cannot be read.
    """
    pieces, held = [], 0
    with opened(path) as stream:
        while piece := stream.read(_PIECE):
            pieces.append(piece)
            held += len(piece)
            if held > _MOST_TEXT:
                raise DataError(
                    f"{path}: more than {_MOST_TEXT:,} bytes of a foreign format; split it by time, convert "
                    "the parts with kforecast-fetch output=PART.parquet, and give the folder of the parts"
                )
    return b"".join(pieces).removeprefix(codecs.BOM_UTF8)


def _raw(path: Path, codec: str | None) -> Any:
    return pa.input_stream(str(path), compression=None) if codec is None else Decompressed(path, codec)


class _Recoded(io.RawIOBase):
    """A UTF-16 stream as UTF-8."""

    def __init__(self, stream: Any, encoding: str, path: Path) -> None:
        super().__init__()
        self._stream, self._path = stream, path
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._rest = b""
        stream.read(2)  # the byte order mark

    def readable(self) -> bool:
        """Always true."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read the next bytes; raises DataError when they are not UTF-16."""
        if size < 0:
            return b"".join(iter(lambda: self.read(_PIECE), b""))
        while len(self._rest) < size:
            piece = self._stream.read(_PIECE)
            try:
                self._rest += self._decoder.decode(piece, final=not piece).encode()
            except (UnicodeDecodeError, UnicodeEncodeError) as error:
                raise DataError(f"{self._path}: is damaged UTF-16 text; save it as UTF-8") from error
            if not piece:
                break
        content, self._rest = self._rest[:size], self._rest[size:]
        return content

    def close(self) -> None:
        """Close the stream."""
        if not self.closed:
            self._stream.close()
        super().close()
