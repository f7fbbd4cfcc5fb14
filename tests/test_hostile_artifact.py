"""Hostile artifacts: refused in one line, without executing anything, in bounded memory."""

import io
import json
import os
import pickle
import resource
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from conftest import run_command, run_process
from kforecast.artifact import (
    CHECKPOINT,
    CONFIG,
    INTERVALS,
    ITEM_IDS,
    METADATA,
    TRIO,
    Artifact,
    EstimatorConfig,
)
from kforecast.errors import ArtifactError, ConfigError
from kforecast.files.torch_file import read_tensors
from kforecast.forecaster import Forecaster
from kforecast.models.fcnet import Fcnet
from kforecast.training.teacher import Teacher
from kforecast.window import Frequency, Window

CONFIG_OF = EstimatorConfig(freq="10min", prediction_length=3, context_length=7, num_series=2)


@pytest.fixture
def trio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An artifact made elsewhere: without hashes, so that any content is possible."""
    monkeypatch.chdir(tmp_path)
    state = Fcnet(CONFIG_OF.window, 2).artifact_state()
    Artifact(CONFIG_OF, {"shop/web-0qps": 0, "shop/web-1qps": 1}, state).save(tmp_path / "model")
    (tmp_path / "model" / METADATA).unlink()
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def bounded(request: pytest.FixtureRequest) -> Any:
    """Limit memory: the system refuses more than 3 GB beyond what is in use now."""
    with Path("/proc/self/statm").open() as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**30, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def refused(directory: Path, words: str = ".") -> str:
    with pytest.raises(ArtifactError, match=words) as caught:
        Forecaster.load(directory)
    assert not Path("executed").exists()
    message = str(caught.value)
    assert len(message) < 1000
    assert message.isprintable()
    return message


class Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("touch executed",)


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def zipped(pickled: bytes, compression: int = zipfile.ZIP_STORED, **records: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in records.items():
            archive.writestr(f"archive/data/{name.removeprefix('_')}", content)
        archive.writestr("archive/version", b"3\n")
    return made.getvalue()


class _Saver(pickle.Pickler):
    """Pickles like torch, with storages of any claimed size."""

    def persistent_id(self, thing: Any) -> Any:
        return thing.identity if isinstance(thing, Claimed) else None


class Claimed:
    """A storage that claims to have so many numbers."""

    def __init__(self, count: Any, key: Any = "0", kind: Any = torch.FloatStorage) -> None:
        self.identity = ("storage", kind, key, "cpu", count)


def tensor(storage: Any, size: Any, stride: Any = (1,), offset: Any = 0) -> Calls:
    return Calls(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())


def pickled(content: Any) -> bytes:
    made = io.BytesIO()
    _Saver(made, protocol=2).dump(content)
    return made.getvalue()


def legacy(content: Any) -> bytes:
    made = io.BytesIO()
    torch.save(content, made, _use_new_zipfile_serialization=False)
    return made.getvalue()


def tar_of(content: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return made.getvalue()


def saved(content: Any) -> bytes:
    made = io.BytesIO()
    torch.save(content, made)
    return made.getvalue()


FOUR = b"\0" * 16
SMALL = Claimed(4)
# Each attack, and its effect on a reader that trusts it.
CHECKPOINTS: dict[str, Callable[[], bytes]] = {
    "a pickle": lambda: pickle.dumps(Evil()),
    "a pickle in a zip": lambda: zipped(pickle.dumps({"lc.bias": Evil()}, 2)),
    "a pickle as torch once saved": lambda: legacy({"lc.bias": Evil()}),
    "a tar as torch once saved": lambda: tar_of(pickle.dumps(Evil(), 2)),
    "a whole module": lambda: saved(torch.nn.Linear(2, 2)),
    "a pickle of a newer protocol": lambda: zipped(pickle.dumps({}, 4)),
    "bytes that are only stated": lambda: zipped(b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"."),
    "a call that takes memory": lambda: zipped(pickled({"a": Calls(bytearray, 10**11)})),
    "a tensor made by its size": lambda: zipped(pickled({"a": Calls(torch.Tensor, 10**11)})),
    "attributes of a tensor": lambda: zipped(pickled({"a": Calls(getattr, torch.zeros, "__globals__")})),
    "a storage larger than the file": lambda: zipped(
        pickled({"a": tensor(Claimed(10**11), (10**11,))}), _0=FOUR
    ),
    "a shape larger than its storage": lambda: zipped(pickled({"a": tensor(SMALL, (10**11,))}), _0=FOUR),
    "an expanded tensor": lambda: zipped(pickled({"a": tensor(SMALL, (10**11,), (0,))}), _0=FOUR),
    "an expanded tensor, saved": lambda: saved({"lc.bias": torch.zeros(1).expand(10**11)}),
    "a view beyond its storage": lambda: zipped(pickled({"a": tensor(SMALL, (2,), (3,), 1)}), _0=FOUR),
    "a view before its storage": lambda: zipped(pickled({"a": tensor(SMALL, (2,), (-1,), 0)}), _0=FOUR),
    "a shape of too many numbers": lambda: zipped(pickled({"a": tensor(SMALL, (2**62, 4), (0, 0))}), _0=FOUR),
    "a shape that is no number": lambda: zipped(pickled({"a": tensor(SMALL, ("4",))}), _0=FOUR),
    "a thousand views of one storage": lambda: zipped(
        pickled({str(number): tensor(SMALL, (4,)) for number in range(1000)}), _0=FOUR
    ),
    "a record that is not there": lambda: zipped(pickled({"a": tensor(Claimed(4, "../1"), (4,))}), _0=FOUR),
    "a storage of another kind": lambda: zipped(
        pickled({"a": tensor(Claimed(4, kind=OrderedDict), (4,))}), _0=FOUR
    ),
    "a copy of a copy": lambda: zipped(pickled({"a": Calls(OrderedDict, {"b": 1})})),
    "itself": lambda: zipped(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."),
    "a list": lambda: zipped(pickled([1, 2])),
    "a key that is a deeply nested tuple": lambda: zipped(b"\x80\x02}N" + b"\x85" * 900_000 + b"K\x01s."),
    "a memo of a stated size": lambda: zipped(b"\x80\x02K\x01r\xff\xff\xff\x7f."),
    "a mark that is missing": lambda: zipped(b"\x80\x02}u."),
    "a zip bomb in its pickle": lambda: zipped(b"\x80\x02" + b"N" * 2**26, zipfile.ZIP_DEFLATED),
    "a zip bomb in its numbers": lambda: zipped(
        pickled({"a": tensor(Claimed(2**26), (2**26,))}), zipfile.ZIP_DEFLATED, _0=b"\0" * 2**28
    ),
    "a zip without a pickle": lambda: saved({}).replace(b"data.pkl", b"data.bin"),
    "a zip that ends early": lambda: saved({"a": torch.zeros(100)})[:-50],
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("what", CHECKPOINTS)
def test_checkpoints(trio: Path, what: str) -> None:
    (trio / CHECKPOINT).write_bytes(CHECKPOINTS[what]())
    refused(trio, rf"{CHECKPOINT}: not a state dict of tensors")


def test_what_overlaps_in_a_zip_is_refused(trio: Path) -> None:
    """A zip whose many entries share the same bytes: quadratic if each is read."""
    content = bytearray(zipped(pickled({}), _0=b"\0" * 1000, _1=b"\0" * 1000))
    archive = zipfile.ZipFile(io.BytesIO(bytes(content)))
    entry = archive.getinfo("archive/data/0")
    directory = archive.start_dir  # type: ignore[attr-defined]
    # The entry of data/0 in the central directory; both sizes are at offset 20.
    at = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02", directory) + 1)
    assert entry.file_size == 1000
    for place in (at + 20, at + 24):
        content[place : place + 4] = (100_000).to_bytes(4, "little")
    (trio / CHECKPOINT).write_bytes(bytes(content))
    refused(trio, "sizes larger than the file")


def test_a_pickle_changes_nothing_in_the_reader() -> None:
    """BUILD sets attributes of the object before it; on a function, these could be its defaults."""
    for name in (
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch\nFloatStorage\n",
        b"ccollections\nOrderedDict\n",
    ):
        attributes = b"N}X\x08\x00\x00\x00functionNs\x86b"
        with pytest.raises(ValueError, match="something else"):
            read_tensors(zipped(b"\x80\x02" + name + attributes + b"."))
    state = {"a": torch.arange(6.0).view(2, 3)}
    assert torch.equal(read_tensors(saved(state))["a"], state["a"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_state_dicts_as_people_save_them_are_read(dtype: torch.dtype) -> None:
    whole = torch.ones(3, 4, dtype=dtype)
    state = OrderedDict(whole=whole, turned=whole.t(), scalar=whole[0, 0].clone(), none=whole[:0].clone())
    state["parameter"] = torch.nn.Parameter(torch.ones(2))
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    # A view keeps its whole storage.
    state["turned"] = torch.ones(5, 4, dtype=dtype)[1:4].t()
    found = read_tensors(saved(state))
    assert list(found) == list(state)
    for name, value in state.items():
        assert torch.equal(found[name], value)
        assert found[name].dtype == value.dtype


LONG = 10**7
CONFIGS = {
    "a tag": "!!python/object/apply:os.system ['touch executed']",
    "a tag of a module": "freq: !!python/module:antigravity",
    "a tag of a name": "freq: !!python/name:os.system",
    "aliases": "a: &a [x, x]\n"
    + "".join(f"a{n}: &a{n} [*a{n - 1 or ''}, *a{n - 1 or ''}]\n" for n in range(1, 60))
    + "num_series: *a59",
    "merges": "a: &a {x: 1}\nb: {<<: [*a, *a]}",
    "a key twice": "freq: 1min\nfreq: 1min",
    "depth": "freq: " + "[" * 10_000,
    "depth without end": "freq: " + "{a: " * 3000 + "1" + "}" * 3000,
    "many values": "freq: [" + "1," * 300_000 + "1]",
    "a long number": "num_series: " + "9" * 5000,
    "a number of minutes": "num_series: 1" + ":59" * 100_000,
    "a number in hex": "num_series: 0x" + "f" * 4000,
    "a date that is none": "freq: 2024-99-99",
    "a long text": "freq: " + "x" * 100_000,
    "a file that is too large": "# " + "x" * (5 << 20),
    "control characters": 'model: "\\e[2J"\nfreq: "\\e[31m"',
    "no text": b"\xff\xfe\x00",
    "a mapping as a key": "{[1, 2]: 3}",
    "a list of fields": "freq: []\nnum_series: {}\nmodel: []\nnetwork: []\ncalendar: 3\ncombination: x",
}


@pytest.mark.parametrize("what", CONFIGS)
def test_configs(trio: Path, what: str) -> None:
    content = CONFIGS[what]
    (trio / CONFIG).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(trio, CONFIG)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_series": 10**12},
        {"num_series": 10**30},
        {"context_length": 10**9},
        {"prediction_length": 10**12},
        {"model": "SeasonalMLP", "num_series": 10**12},
        {"model": "SeasonalMLP", "prediction_length": 10**15},
        {"model": "SeasonalMLP", "context_length": 10**15},
        {"model": "SeasonalMLP", "network": {"members": 10**6, "layers": 60}},
        {"model": "SeasonalMLP", "network": {"hidden": 10**12}},
        {"model": "SeasonalMLP", "network": {"embedding": 10**12}},
        {"model": "SeasonalMLP", "network": {"layers": 10**9}},
        {"model": "SeasonalMLP", "network": {"layers": float("nan")}},
        {"model": "SeasonalMLP", "network": {"window": 3}},
        {"model": "os.system"},
        {"network": {3: 4}},
        {"network": {"shared_embedding": [1], "num_series": 3}},
        {"calendar": {"timezone": "../../etc/passwd", "holidays": None}},
        {"calendar": {"timezone": "Europe/Berlin\0", "holidays": None}},
        {"calendar": {"timezone": {"a": 3}, "holidays": None}},
        {"calendar": {"timezone": "UTC", "holidays": "../os"}},
        {"calendar": {"timezone": "UTC", "holidays": ["DE"]}},
        {"combination": {"network": [float("nan")] * 3}},
        {"combination": {"network": [[1, 1, 1]] * 3}},
        {"combination": {"os": [1.0] * 3}},
        {"combination": {"network": [10**400] * 3}},
    ],
    ids=str,
)
def test_what_a_config_asks_for_is_not_built_before_it_is_checked(
    trio: Path, changes: dict[str, Any]
) -> None:
    config = yaml.safe_load((trio / CONFIG).read_text()) | changes
    (trio / CONFIG).write_text(yaml.safe_dump(config))
    refused(trio)


def test_a_series_more_than_the_checkpoint_has_is_refused(trio: Path) -> None:
    config = yaml.safe_load((trio / CONFIG).read_text()) | {"num_series": 3}
    (trio / CONFIG).write_text(yaml.safe_dump(config))
    refused(trio, "size mismatch")


JSONS = {
    "depth": b"[" * 100_000,
    "depth in an object": b'{"a":' * 100_000,
    "a number of a million digits": b'{"a": ' + b"9" * 1_000_000 + b"}",
    "not a number": b'{"a": NaN}',
    "a list": b"[1, 2]",
    "text": b'"a"',
    "nothing": b"",
    "no UTF-8": b'{"\xff": 1}',
    "many values": b'{"a": [' + b"[]," * 9_000_000 + b"0]}",
    "null": b"null",
}
IDS = {
    "a fraction": b'{"a": 0.0}',
    "truth": b'{"a": true}',
    "a key twice": b'{"a": 0, "a": 1}',
    "an id twice": b'{"a": 0, "b": 0}',
    "below zero": b'{"a": -1}',
    "beyond": b'{"a": 2}',
    "far beyond": b'{"a": 100000000000000000000000000000}',
    "a list for an id": b'{"a": [0]}',
    "a long key twice": b'{"%b": 0, "%b": 1}' % ((b"\\u001b" * 100_000,) * 2),
    "control characters": b'{"\\u001b[2J\\n": 7}',
}


@pytest.mark.parametrize(
    "name, what",
    # Intervals of thousands of series have many values.
    [pair for pair in product((ITEM_IDS, METADATA, INTERVALS), JSONS) if pair != (INTERVALS, "many values")],
)
def test_json(trio: Path, name: str, what: str) -> None:
    content = JSONS[what]
    (trio / name).write_bytes(content)
    refused(trio, name)


@pytest.mark.parametrize("what", IDS)
def test_item_ids(trio: Path, what: str) -> None:
    (trio / ITEM_IDS).write_bytes(IDS[what])
    refused(trio)


@pytest.mark.parametrize(
    "changes",
    [
        {"sha256": None},
        {"sha256": []},
        {"sha256": dict.fromkeys(TRIO, 3)},
        {"fill": []},
        {"fill": {"a": 1}},
        {"fill": "os"},
        {"fill": "x" * 10_000},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_metadata(tmp_path: Path, trio: Path, changes: dict[str, Any]) -> None:
    Artifact.load(trio).save(tmp_path / "ours")
    known = json.loads((tmp_path / "ours" / METADATA).read_text())
    (tmp_path / "ours" / METADATA).write_text(json.dumps(known | changes))
    refused(tmp_path / "ours")


@pytest.mark.parametrize("end", [10**30, -1, "x", [1], True, 1e300, {"a": 1}, -(10**12), 10**15])
def test_an_end_of_training_that_is_no_moment_is_not_known(tmp_path: Path, trio: Path, end: Any) -> None:
    artifact = Artifact.load(trio)
    metadata = {"data": {"train_end": end, "validation_end": end}}
    Artifact(artifact.config, artifact.item_ids, artifact.state, metadata).save(tmp_path / "ours")
    assert Artifact.load(tmp_path / "ours").training_span == (None, None)


@pytest.mark.parametrize("name", [*TRIO, METADATA, INTERVALS])
def test_files_without_end(trio: Path, name: str) -> None:
    file = trio / name
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    refused(trio, name)
    for device in ("/dev/zero", "/proc/self/pagemap"):
        file.unlink()
        file.symlink_to(device)
        refused(trio, name)
    file.unlink()
    file.mkdir()
    refused(trio, name)
    file.rmdir()
    with file.open("wb") as sparse:
        sparse.truncate(10 << 30)
    refused(trio, f"{name}.*bytes")


def test_links_to_files_are_followed(tmp_path: Path, trio: Path) -> None:
    """A ConfigMap as Kubernetes mounts it: every file is a link."""
    trio.rename(tmp_path / "..data")
    trio.mkdir()
    for name in TRIO:
        (trio / name).symlink_to(f"../..data/{name}")
    assert Forecaster.load(trio).item_ids == {"shop/web-0qps": 0, "shop/web-1qps": 1}


@pytest.mark.parametrize("count", [10**4, pytest.param(10**6, marks=pytest.mark.slow)])
def test_a_million_series_are_read(count: int, trio: Path) -> None:
    names = {
        f"shop-{number:07}/service-with-a-long-name, and a commahttp_requests": number
        for number in range(count)
    }
    (trio / ITEM_IDS).write_text(json.dumps(names, indent=1))
    assert len(Artifact.load(trio).item_ids) == count


def test_a_teacher_is_an_artifact_like_any_other(trio: Path) -> None:
    (trio / CHECKPOINT).write_bytes(zipped(pickle.dumps(Evil(), 2)))
    window = Window(Frequency.parse("10min"), 7, 3)
    with pytest.raises(ArtifactError, match=r"posix\.system"):
        Teacher.load(trio, window)
    with pytest.raises((ArtifactError, ConfigError)):
        Teacher.load(trio / CHECKPOINT, window)
    assert not Path("executed").exists()


@pytest.mark.parametrize("name", TRIO)
def test_files_of_two_runs_do_not_load(tmp_path: Path, trio: Path, name: str) -> None:
    artifact = Artifact.load(trio)
    artifact.save(tmp_path / "one")
    other = {key: value + 1 for key, value in artifact.state.items()}
    config = EstimatorConfig(freq="10min", prediction_length=3, context_length=7, num_series=2, epochs=3)
    Artifact(config, {"shop/web-0qps": 1, "shop/web-1qps": 0}, other).save(tmp_path / "other")
    (tmp_path / "other" / name).replace(tmp_path / "one" / name)
    refused(tmp_path / "one", rf"{name} does not belong")


def test_a_process_of_its_own_refuses_what_is_not_there(tmp_path: Path) -> None:
    done = run_process("kforecast-forecast", "artifact_dir=nowhere", "source=synthetic", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith("error: ")
    assert "nowhere" in done.stderr


def test_the_command_refuses_in_one_line(
    tmp_path: Path, trio: Path, traffic_csv: Callable[..., Path]
) -> None:
    """Files of two runs, malicious files, and the single warning for a trio without metadata."""
    traffic_csv(series=2, points=200)
    arguments = ["--dataset-file=traffic.csv", "artifact_dir=ours"]
    done = run_command("kforecast-forecast", arguments[0], "artifact_dir=model", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert "not verified" in done.stderr
    artifact = Artifact.load(trio)
    for content, words in ((artifact, "sha256 differs"), (None, "posix.system")):
        artifact.save(tmp_path / "ours")
        if content is not None:
            other = {key: value + 1 for key, value in artifact.state.items()}
            Artifact(artifact.config, artifact.item_ids, other).save(tmp_path / "other")
            (tmp_path / "other" / CHECKPOINT).replace(tmp_path / "ours" / CHECKPOINT)
        else:
            (tmp_path / "ours" / CHECKPOINT).write_bytes(zipped(pickle.dumps(Evil(), 2)))
            (tmp_path / "ours" / METADATA).unlink()
        done = run_command("kforecast-forecast", *arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert words in done.stderr
    assert not (tmp_path / "executed").exists()
