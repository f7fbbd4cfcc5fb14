"""Read the tensors in an untrusted file of ``torch.save``.

``torch.load(weights_only=True)`` executes nothing, but believes the sizes that a file states: a kilobyte can
make it take all memory. This reader accepts less: zip files of torch 1.6 and later with a dictionary of
tensors, each of which has all its numbers in the file.
"""

import io
import math
import pickletools
import sys
import zipfile
from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kforecast.files.untrusted import shortened

# Limit of data.pkl, which describes the tensors; a hundred tensors need 20 KB.
_MOST_PICKLE_BYTES = 1 << 20
_MOST_DIMENSIONS = 8

_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """Read the state dict in the bytes of a file; its tensors own their memory.

    Raises
    ------
    ValueError
        When it is not a dictionary of names and real tensors that torch wrote.
    """
    try:
        records = _records(content)
        state = _unpickled(records["data.pkl"])
    except ValueError:
        raise
    except Exception as error:  # a damaged or hostile pickle raises many types
        raise ValueError(f"it cannot be read ({type(error).__name__})") from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(view, _View) for name, view in state.items()
    ):
        raise ValueError("it holds something else")
    # Each of many views of one storage would become a copy when converted.
    there = sum(len(numbers) for name, numbers in records.items() if name.startswith("data/"))
    if sum(math.prod(view.size) * _DTYPES[view.storage.kind].itemsize for view in state.values()) > there:
        raise ValueError("its tensors are larger than the numbers in it")
    storages: dict[_Storage, Tensor] = {}
    for view in state.values():
        if view.storage not in storages:
            storages[view.storage] = _numbers(view.storage, records)
    return {
        name: _tensor(storages[view.storage], view.offset, view.size, view.stride)
        for name, view in state.items()
    }


def _records(content: bytes) -> dict[str, bytes]:
    """The files in the zip by name, without their common folder."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError("it is not a zip file that torch.save wrote (torch 1.6 or later)") from error
    entries = archive.infolist()
    # torch never compresses: the content cannot be larger than the file, unless entries overlap.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("it is compressed, which torch.save never does")
    if sum(entry.file_size for entry in entries) > len(content):
        raise ValueError("it states sizes larger than the file")
    inside = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(inside) != 1:
        raise ValueError("it is not a zip file that torch.save wrote (torch 1.6 or later)")
    if inside[0].file_size > _MOST_PICKLE_BYTES:
        raise ValueError("its data.pkl is too large for a state dict")
    folder = inside[0].filename.removesuffix("data.pkl")
    records = {entry.filename.removeprefix(folder): archive.read(entry) for entry in entries}
    if records.get("byteorder", b"little").decode(errors="replace") != sys.byteorder:
        raise ValueError("it was written on a machine of another byte order")
    return records


def _numbers(storage: "_Storage", records: dict[str, bytes]) -> Tensor:
    dtype, content = _DTYPES[storage.kind], records.get(f"data/{storage.key}", b"")
    if storage.length * dtype.itemsize != len(content):
        raise ValueError("it states more or fewer numbers than it has")
    # torch.frombuffer refuses an empty buffer.
    return torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _tensor(numbers: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else 0
    # An expanded tensor has more elements than there are numbers: a few bytes would stand for gigabytes.
    if count > len(numbers) or last >= max(len(numbers), 1):
        raise ValueError("the shape of a tensor in it asks for more numbers than it has")
    return numbers.as_strided(size, stride, offset)


class _StorageKind(NamedTuple):
    """Stands for one of torch's storage classes in a pickle."""

    name: str


class _Storage(NamedTuple):
    """Numbers in a record of the file."""

    kind: str
    key: str
    length: int


class _View(NamedTuple):
    """A tensor: an arrangement of the numbers of a storage."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _empty(*arguments: Any) -> OrderedDict[Any, Any]:
    # With arguments it would copy them, and a pickle can repeat that.
    if arguments:
        raise ValueError("its state dict is not one that torch.save wrote")
    return OrderedDict()


def _view(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _View:
    shaped = type(size) is tuple and type(stride) is tuple and len(size) == len(stride) <= _MOST_DIMENSIONS
    if not isinstance(storage, _Storage) or not shaped or not all(map(_counts, (offset, *size, *stride))):
        raise ValueError("a tensor in it is not a plain one")
    return _View(storage, offset, size, stride)


def _parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _counts(number: object) -> bool:
    return type(number) is int and 0 <= number < 2**48


def _storage(identity: Any) -> _Storage:
    what, kind, key, _location, count = identity
    if what != "storage" or not isinstance(kind, _StorageKind) or type(key) is not str or not _counts(count):
        raise ValueError("it refers to something other than numbers")
    return _Storage(kind.name, key, count)


# Module and name, as pickletools returns them.
_KNOWN: dict[str, Any] = {
    "collections OrderedDict": _empty,
    "torch._utils _rebuild_tensor_v2": _view,
    "torch._utils _rebuild_parameter": _parameter,
    **{f"torch {name}": _StorageKind(name) for name in _DTYPES},
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_MARK = object()


def _unpickled(content: bytes) -> Any:
    """Evaluate a pickle that has only the opcodes of a state dict (protocol 2).

    The result consists of dictionaries, tuples, plain values and descriptions of tensors. Python's own
    unpickler takes memory as stated for some opcodes, and crashes on keys of deeply nested tuples.
    """
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(content):
        match opcode.name:
            case "PROTO" if 0 < int(argument or 0) <= 5:
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                stack.append(_CONSTANTS[opcode.name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(argument)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                if argument not in _KNOWN:
                    raise ValueError(
                        f"it names {shortened(str(argument).replace(' ', '.'), 80)}, which is not allowed"
                    )
                stack.append(_KNOWN[str(argument)])
            case "MARK":
                stack.append(_MARK)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(opcode.name[-1]))]
                stack.append(tuple(items[::-1]))
            case "TUPLE":
                stack.append(tuple(_since_mark(stack)))
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM" | "SETITEMS":
                items = _since_mark(stack) if opcode.name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                for key, value in zip(items[::2], items[1::2], strict=True):
                    if type(key) is not str:
                        raise ValueError("a key in it is not text")
                    stack[-1][key] = value
            case "REDUCE":
                arguments = stack.pop()
                stack.append(stack.pop()(*arguments))
            case "BUILD":  # versions of the modules, which a state dict keeps as an attribute
                stack.pop()
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "STOP":
                return stack.pop()
            case _:
                raise ValueError(f"its pickle has the opcode {opcode.name}, which torch.save does not write")
    return None


def _since_mark(stack: list[Any]) -> list[Any]:
    """Remove the values above the last mark, and the mark."""
    items: list[Any] = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]
