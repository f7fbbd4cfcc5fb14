"""The tensors in a file that ``torch.save`` wrote, read without trusting it.

``torch.load(weights_only=True)`` executes nothing, but believes the sizes that a file states: a kilobyte can
make it take all memory there is. This reader takes less: the zip files of torch 1.6 and later, and in them
nothing but a dictionary of tensors, each of which has all its numbers in the file.
"""

import io
import math
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kforecast.files.untrusted import shortened

# The part that says which tensors there are; a network of a hundred tensors needs 20 KB.
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
# What pickle's protocol 2 writes a state dict with. Others could ask for memory before there is content.
_OPCODES = (
    *(pickle.PROTO, pickle.STOP, pickle.GLOBAL, pickle.REDUCE, pickle.BUILD, pickle.BINPERSID, pickle.MARK),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.BINGET, pickle.LONG_BINGET),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BININT, pickle.BININT1, pickle.BININT2),
    *(pickle.LONG1, pickle.BINFLOAT, pickle.BINUNICODE),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS),
    *(pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
)


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """The state dict in the bytes of a file; its tensors lie in memory of their own.

    Raises
    ------
    ValueError
        When it is anything but a dictionary of names and tensors of real numbers that torch wrote.
    """
    try:
        records = _records(content)
        state = _Unpickler(records["data.pkl"]).load()
    except ValueError:
        raise
    except Exception as error:  # a damaged or hostile pickle ends in any of many types
        raise ValueError(f"it cannot be read ({type(error).__name__})") from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(view, _View) for name, view in state.items()
    ):
        raise ValueError("it holds something else")
    # Many views of one storage would each become a copy when they are converted.
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
    """The files in the zip, without the folder that holds them all."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError("it is not a zip file that torch.save wrote (torch 1.6 or later)") from error
    entries = archive.infolist()
    # torch never compresses, so that what is inside cannot be larger than the file, unless parts overlap.
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
    """What a pickle means by one of torch's storage classes."""

    name: str


class _Storage(NamedTuple):
    """Numbers in a record of the file."""

    kind: str
    key: str
    length: int


class _View(NamedTuple):
    """A tensor: how numbers of a storage are arranged."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Call(NamedTuple):
    """Stands for a function that a pickle names; unlike a function it has nothing that could be changed."""

    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def _empty(*arguments: Any) -> OrderedDict[Any, Any]:
    # With arguments it would copy them, and a pickle can have that done again and again.
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


_KNOWN: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): _Call(_empty),
    ("torch._utils", "_rebuild_tensor_v2"): _Call(_view),
    ("torch._utils", "_rebuild_parameter"): _Call(_parameter),
    **{("torch", name): _StorageKind(name) for name in _DTYPES},
}


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler in Python, which can be told what not to understand.

    What it makes are dictionaries, lists, plain values and tuples that describe tensors: nothing that
    executes or takes memory of its own.
    """

    dispatch = {code[0]: pickle._Unpickler.dispatch[code[0]] for code in _OPCODES}  # noqa: RUF012

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))

    def find_class(self, module: str, name: str) -> object:
        """What a name stands for."""
        if (module, name) not in _KNOWN:
            raise ValueError(f"it names {shortened(f'{module}.{name}', 80)}, which is not read")
        return _KNOWN[module, name]

    def persistent_load(self, identity: Any) -> _Storage:
        """What the pickle refers to: numbers, which lie in records of their own."""
        what, kind, key, _location, count = identity
        if (
            what != "storage"
            or not isinstance(kind, _StorageKind)
            or type(key) is not str
            or not _counts(count)
        ):
            raise ValueError("it refers to something other than numbers")
        return _Storage(kind.name, key, count)

    def load_build(self) -> None:
        """Forget what a state dict says about itself besides its content: the versions of modules."""
        self.stack.pop()  # type: ignore[attr-defined]

    dispatch[pickle.BUILD[0]] = load_build  # type: ignore[assignment]
