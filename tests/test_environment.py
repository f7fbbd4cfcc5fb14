"""Commands in environments that are not a developer's: consoles, closed streams, homes, run folders."""

import datetime
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra.core.utils
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import BIN, HANG, run_command
from kforecast.commands.streams import close_streams, open_streams
from kforecast.errors import OutputError
from kforecast.files.run_folder import RunFolder, in_use
from prepared import Prepared, exit_code, fork, run_prepared

NAME = "shop/café-流"
QUICK = ["trainer=cpu", "trainer.max_epochs=1", "refit=false", "logger=none", "threads=1"]
CONSOLES = {
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


def process(
    name: str, *arguments: str | bytes, cwd: Path, redirect: str = "", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a new process with bytes as output; ``redirect`` as in a shell, like ``>&-``."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG"))}
    command: Sequence[str | bytes] = [str(BIN / name), *arguments]
    if redirect:
        command = ["sh", "-c", f'"$@" {redirect}', "sh", *command]
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=HANG,
        check=False,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a history, ``traffic.csv``, and a model trained on it, ``model``."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [f"{1_704_067_200 + 600 * i},{100 + i % 7},{NAME},qps" for i in range(432)]
    text = "\n".join(["timestamp,value,workload,metric", *rows, ""])
    (folder / "traffic.csv").write_text(text, encoding="utf-8")
    where = ["--dataset-file=traffic.csv", "artifact_dir=model", "hydra.run.dir=run"]
    done = run_command("kforecast-train", *where, *QUICK, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    "console",
    [pytest.param(name, marks=[pytest.mark.slow] if number else []) for number, name in enumerate(CONSOLES)],
)
def test_a_report_on_a_console_without_utf8(console: str, trained: Path, tmp_path: Path) -> None:
    arguments = [f"--dataset-file={trained}/traffic.csv", "report=report.json"]
    done = process("kforecast-fetch", *arguments, cwd=tmp_path, **CONSOLES[console])
    said = done.stdout.decode("latin-1")
    assert done.returncode == 0, done.stderr
    assert done.stderr.decode() == f"INFO: Reading {trained}/traffic.csv\n"
    assert (r"shop/café-\u6d41" if console == "latin-1" else r"shop/caf\xe9-\u6d41") in said
    assert "-----" in said
    assert NAME in (tmp_path / "report.json").read_text(encoding="utf-8")


def test_forecasts_on_standard_output_are_utf8(trained: Path) -> None:
    arguments = ["artifact_dir=model", "--dataset-file=traffic.csv"]
    done = process("kforecast-forecast", *arguments, cwd=trained, PYTHONIOENCODING="latin-1")
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.decode("utf-8").splitlines()
    assert len(lines) == 4
    assert all(f",{NAME},qps," in line for line in lines[1:])


def test_the_log_file_is_utf8_and_the_leaderboard_ascii(trained: Path) -> None:
    assert NAME in (trained / "run" / "train.log").read_text(encoding="utf-8")
    done = process("kforecast-leaderboard", "run", cwd=trained, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"-----" in done.stdout


def test_a_configuration_with_any_name_is_shown(tmp_path: Path) -> None:
    arguments = ["--cfg", "job", f"source.path='{NAME}.csv'"]
    done = process("kforecast-fetch", *arguments, cwd=tmp_path, PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert f"path: {NAME}.csv" in done.stdout.decode("utf-8")


@pytest.mark.parametrize("name", [b"caf\xe9", "café".encode()])
def test_names_that_cannot_be_decoded_are_refused(name: bytes, tmp_path: Path) -> None:
    locale = CONSOLES["C"] if name.endswith(b"\xa9") else {"LC_ALL": "C.UTF-8"}
    done = process("kforecast-leaderboard", name, cwd=tmp_path, **locale)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"error: caf\\x")
    assert (b"set LC_ALL=C.UTF-8" in done.stderr) == (locale == CONSOLES["C"])
    assert done.stderr.count(b"\n") == 1


class Stream(io.TextIOWrapper):
    """A console of any encoding."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding, write_through=True)


@given(
    text=st.text(st.characters(exclude_categories=[])), encoding=st.sampled_from(["ascii", "cp1252", "utf-8"])
)
def test_any_text_can_be_printed(text: str, encoding: str) -> None:
    before = sys.stdout, sys.stderr
    out = err = Stream(encoding)
    sys.stdout, sys.stderr = out, err
    try:
        open_streams()
        print(text)
    finally:
        sys.stdout, sys.stderr = before
    written = out.buffer.getvalue()  # type: ignore[attr-defined]
    if encoding == "utf-8" and text.isprintable():
        assert written.decode(encoding) == text + "\n"


class Full(io.StringIO):
    def flush(self) -> None:
        raise OSError(28, "No space left on device")

    def fileno(self) -> int:
        return os.open(os.devnull, os.O_WRONLY)


def test_a_full_disk_behind_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(OutputError, match="standard output: cannot be written: No space left on device"):
        close_streams()


@pytest.mark.parametrize(
    "name, arguments, redirect, code, said",
    [
        ("kforecast-leaderboard", ["--help"], ">&-", 0, b""),
        ("kforecast-leaderboard", ["nowhere"], "2>&-", 2, b""),
        ("kforecast-leaderboard", ["nowhere"], "<&- >&- 2>&-", 2, b""),
        ("kforecast-leaderboard", ["nowhere"], "2>/dev/full", 2, b""),
        ("kforecast-leaderboard", ["--help"], ">/dev/full", 3, b"standard output: cannot be written"),
        ("kforecast-train", ["--help"], ">/dev/full", 3, b"No space left on device"),
        pytest.param("kforecast-train", ["--help"], "| head -n 1", 0, b"", marks=pytest.mark.slow),
        ("kforecast-leaderboard", ["--help"], "| head -n 1", 0, b""),
    ],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_streams_that_take_nothing(
    name: str, arguments: list[str], redirect: str, code: int, said: bytes, tmp_path: Path
) -> None:
    done = process(name, *arguments, cwd=tmp_path, redirect=redirect, PYTHONUNBUFFERED="")
    assert done.returncode == code
    assert said in done.stderr
    assert done.stderr.count(b"\n") == (1 if said else 0)


def without_output() -> None:
    """As Python starts without a standard output."""
    os.close(1)
    sys.stdout = None  # type: ignore[assignment]


def test_a_forecast_needs_a_place_to_go(trained: Path) -> None:
    arguments = ["artifact_dir=model", "--dataset-file=traffic.csv"]
    done = run_prepared(without_output, "kforecast-forecast", *arguments, cwd=trained)
    assert done.returncode == 3
    assert done.stderr == (
        "error: standard output is closed, so the result goes nowhere; name a file: output=FILE\n"
    )


@pytest.mark.slow
def test_no_home_no_terminal_no_temporary_folder(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a b$c{d}é'[x]"
    folder.mkdir()
    nowhere = {"MPLCONFIGDIR": "/dev/null/x", "TMPDIR": "/nonexistent", "HOME": "/dev/null"}
    arguments = [f"artifact_dir={trained}/model", f"--dataset-file={trained}/traffic.csv"]
    done = process("kforecast-evaluate", *arguments, cwd=folder, TERM="dumb", COLUMNS="20", **nowhere)
    assert done.returncode == 0, done.stderr
    assert done.stderr.decode() == f"INFO: Reading {trained}/traffic.csv\n"
    (report,) = folder.glob("outputs/*/*/report.html")
    assert done.stdout.decode().splitlines()[-1] == f"report: {report.relative_to(folder)}"


def test_a_working_directory_that_has_gone(tmp_path: Path) -> None:
    command = ["sh", "-c", f'rmdir "{tmp_path}"; exec "{BIN}/kforecast-leaderboard"']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=HANG, check=False)
    assert done.returncode == 3
    assert done.stderr == b"error: the working directory has been removed; change to another\n"


@pytest.mark.parametrize("name", ["a=b, [x] {y} 流", "a${b}"])
def test_a_working_directory_of_any_name(name: str, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    done = process("kforecast-fetch", f"--dataset-file={trained}/traffic.csv", "output=o.csv", cwd=folder)
    if "${" in name:
        assert done.returncode == 2
        assert "a working directory cannot have ${ in its name" in done.stderr.decode()
        assert done.stderr.count(b"\n") == 1
    else:
        assert done.returncode == 0, done.stderr
        assert (folder / "o.csv").exists()


# Run folders.


def at_noon() -> None:
    """Stop Hydra's clock, so that all commands start in the same second."""

    class Noon(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Noon":
            return cls(2026, 1, 2, 12, 0, 0, tzinfo=tz)

    hydra.core.utils.datetime = Noon  # type: ignore[attr-defined]


def test_runs_of_the_same_second_have_folders_of_their_own(trained: Path, tmp_path: Path) -> None:
    arguments = [f"--dataset-file={trained}/traffic.csv", *QUICK]
    runs = [
        Prepared(at_noon, "kforecast-train", f"seed={seed}", *arguments, cwd=tmp_path) for seed in range(2)
    ]
    done = [run.ended() for run in runs]
    assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
    day = tmp_path / "outputs" / "2026-01-02"
    assert {path.name for path in day.iterdir()} == {"12-00-00", "12-00-00-2"}
    seeds = set()
    for path in day.iterdir():
        assert (path / "train.log").read_text(encoding="utf-8").count("INFO: Done") == 1
        result = json.loads((path / "result.json").read_text(encoding="utf-8"))
        assert result["status"] == "done"
        assert Path(result["artifact_dir"]).resolve() == path / "artifact"
        for made in ("artifact", "evaluation/report.html", ".hydra/config.yaml", "data_summary.csv"):
            assert (path / made).exists()
        config = (path / ".hydra" / "config.yaml").read_text(encoding="utf-8")
        seeds.add(next(line for line in config.splitlines() if line.startswith("seed: ")))
    assert seeds == {"seed: 0", "seed: 1"}


@pytest.mark.slow
def test_evaluations_of_the_same_second_too(trained: Path, tmp_path: Path) -> None:
    arguments = [f"artifact_dir={trained}/model", f"--dataset-file={trained}/traffic.csv"]
    runs = [Prepared(at_noon, "kforecast-evaluate", *arguments, cwd=tmp_path) for _ in range(2)]
    assert [run.ended().returncode for run in runs] == [0, 0]
    reports = (tmp_path / "outputs" / "2026-01-02").glob("*/report.html")
    assert {path.parent.name for path in reports} == {"12-00-00", "12-00-00-2"}


@pytest.mark.slow
def test_sweeps_of_the_same_second_too(trained: Path, tmp_path: Path) -> None:
    arguments = ["-m", f"--dataset-file={trained}/traffic.csv", "seed=1", *QUICK]
    for _ in range(2):  # one after the other, because a folder of that second is never ours
        assert Prepared(at_noon, "kforecast-train", *arguments, cwd=tmp_path).ended().returncode == 0
    sweeps = tmp_path / "outputs" / "sweeps" / "2026-01-02"
    assert {path.name for path in sweeps.iterdir()} == {"12-00-00", "12-00-00-2"}
    for path in sweeps.iterdir():
        assert (path / "multirun.yaml").is_file()
        assert (path / "results.csv").is_file()
        result = json.loads((path / "0" / "result.json").read_text(encoding="utf-8"))
        assert Path(result["artifact_dir"]).resolve() == path / "0" / "artifact"


@pytest.mark.parametrize(
    "command, key",
    [
        (["kforecast-train", *QUICK], "hydra.run.dir"),
        (["kforecast-evaluate", "artifact_dir=model"], "hydra.run.dir"),
        (["kforecast-train", "-m", "seed=1,2", *QUICK], "hydra.sweep.dir"),
    ],
)
def test_a_named_folder_in_use_is_refused(
    command: list[str], key: str, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    other = RunFolder(tmp_path / "mine")
    assert other.take(new=True)
    assert in_use(other.path)
    arguments = [*command, f"--dataset-file={trained}/traffic.csv", f"{key}=mine"]
    done = run_command(arguments[0], *arguments[1:], cwd=tmp_path)
    assert done.returncode == 3
    assert f"error: {key}: another run is using mine; wait for it, or name another folder\n" in done.stderr
    assert list(other.path.iterdir()) == []
    other.release()
    assert not in_use(other.path)


@pytest.mark.parametrize("new", [True, False])
def test_one_of_many_processes_takes_a_folder(new: bool, tmp_path: Path) -> None:
    begin, waiting = os.pipe()
    hold, end = os.pipe()

    def take() -> None:
        os.close(waiting)
        os.close(end)
        os.read(begin, 1)  # all start when the other end is closed
        taken = RunFolder(tmp_path / "a" / "run").take(new)
        os.write(told, b"y" if taken else b"n")
        os.read(hold, 1)

    answers, told = os.pipe()
    children = [fork(take) for _ in range(6)]
    os.close(waiting)
    said = b"".join(os.read(answers, 1) for _ in children)
    os.close(end)
    assert [exit_code(child) for child in children] == [0] * 6
    assert sorted(said) == sorted(b"y" + b"n" * 5)
    # Their locks have gone with them.
    assert RunFolder(tmp_path / "a" / "run").take(new=False)
    for descriptor in (begin, hold, answers, told):
        os.close(descriptor)
