"""Kills, full disks and concurrent runs: existing files stay complete, and failures are reported."""

import gc
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from conftest import HANG, composed, run_command, started, wait_for
from kforecast.artifact import Artifact
from kforecast.errors import OutputError
from kforecast.files.lock import sole_writer
from prepared import run_prepared
from test_artifact import make_artifact

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
TRAIN = [
    *("source=synthetic", "source.days=4", "source.step=600", "trainer=cpu", "hydra.run.dir=run"),
    "--model-save-path=model",
]
ENDLESS = [*TRAIN, "trainer.max_epochs=1000000", "callbacks.early_stopping=null", "checkpoint_seconds=0.1"]


def earlier_artifact(folder: Path) -> bytes:
    """An existing artifact, which must survive."""
    make_artifact(0.25).save(folder)
    return (folder / "checkpoint.pth").read_bytes()


# Disks


@posix
def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    kept = earlier_artifact(tmp_path / "model")

    def quota() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # a checkpoint takes 316 KiB

    done = run_prepared(quota, "kforecast-train", *TRAIN, cwd=tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    assert re.fullmatch(r"error: \S+: cannot be written: File too large\n", done.stderr)
    assert (tmp_path / "model" / "checkpoint.pth").read_bytes() == kept
    assert len(Artifact.load(tmp_path / "model").item_ids) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"run", "model"}
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "failed"


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 16 MiB."""
    folder = tmp_path / "volume"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip("mounting needs more permissions")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> None:
    with (folder / "filled").open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while file.write(b"0" * size):
                    pass
            except OSError:
                continue


def ended(process: subprocess.Popen[str]) -> str:
    """The output of a process when it ends."""
    stdout, stderr = process.communicate(timeout=HANG)
    assert process.returncode == 3, stdout + stderr
    assert "Traceback" not in stdout + stderr
    assert stderr.startswith("error: ")
    return stderr


@pytest.mark.slow
@pytest.mark.parametrize("what", ["run", "model", "run vanishes", "model vanishes"])
def test_a_volume_that_is_full_or_gone(what: str, volume: Path, tmp_path: Path) -> None:
    run, model = tmp_path / "run", tmp_path / "model"
    if what.startswith("run"):
        run = volume / "run"
    else:
        model = volume / "below" / "model"
        kept = earlier_artifact(model)
    other = earlier_artifact(tmp_path / "other")
    arguments = [f"hydra.run.dir={run}", f"--model-save-path={model}"]
    process = started(
        "kforecast-train", *(word for word in ENDLESS if word not in TRAIN[-2:]), *arguments, cwd=tmp_path
    )
    try:
        wait_for("Epoch: 2,", run / "train.log", process)
        if "vanishes" in what:
            shutil.rmtree(volume / ("run" if what.startswith("run") else "below"))
        else:
            fill(volume)
        stderr = ended(process)
    finally:
        process.kill()
    assert str(volume) in stderr
    assert (
        ("has gone" in stderr)
        if "vanishes" in what and "model" in what
        else ("cannot be" in stderr or "gone" in stderr)
    )
    if what == "model":
        assert len(Artifact.load(model).item_ids) in (2, 4)
        assert not list(model.parent.glob(".*"))
        del kept
    assert (tmp_path / "other" / "checkpoint.pth").read_bytes() == other


# Numbers


def test_a_training_that_diverges_stops_at_that_step(tmp_path: Path) -> None:
    kept = earlier_artifact(tmp_path / "model")
    done = run_command("kforecast-train", *TRAIN, "optimizer.lr=1e30", "average_windows=null", cwd=tmp_path)
    assert done.returncode == 3, done.stdout
    said = (
        r"error: the (loss|gradient) of step \d \(epoch 1\) is no number; first to blame: shop/\w+ qps, 2024-"
    )
    assert re.match(said, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "model" / "checkpoint.pth").read_bytes() == kept


# Concurrent runs


def test_a_second_run_into_the_same_artifact_is_told_who_writes_there(tmp_path: Path) -> None:
    kept = earlier_artifact(tmp_path / "new" / "model")
    arguments = [argument for argument in TRAIN if not argument.startswith("--")]
    with sole_writer(tmp_path / "new" / "model", "the run in elsewhere"):
        done = run_command("kforecast-train", *arguments, "--model-save-path=new/model", cwd=tmp_path)
    assert done.returncode == 3
    assert "new/model: the run in elsewhere is writing there" in done.stderr
    assert (tmp_path / "new" / "model" / "checkpoint.pth").read_bytes() == kept
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model"]


def test_a_directory_is_held_until_its_writer_ends_however_it_ends(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "model"
    context = multiprocessing.get_context("fork")
    holds = context.Event()
    holder = context.Process(target=_hold, args=(target, holds))
    holder.start()
    assert holds.wait(HANG)
    with pytest.raises(OutputError, match="somebody is writing there"), sole_writer(target, "me"):
        pass
    # The next run removes the files that the killed one was writing.
    left = target.parent / ".model.abcdefgh"
    left.mkdir()
    holder.kill()
    holder.join()
    with sole_writer(target, "me"):
        assert not left.exists()
        assert (target.parent / ".model.lock").read_text() == "me"
    assert not (tmp_path / "a" / "b" / ".model.lock").exists()


def test_holding_a_directory_leaves_nothing(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "a" / "b" / "model", "me"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []


def _hold(target: Path, holds: threading.Event) -> None:
    with sole_writer(target, "somebody"):
        holds.set()
        signal.pause()


def test_the_root_of_a_volume_is_held_inside_it(volume: Path) -> None:
    """Locked inside, because other mount points of a volume have different siblings."""
    make_artifact(0.1).save(volume)
    with sole_writer(volume, "me"):
        assert (volume / ".lock").read_text() == "me"
        make_artifact(0.2).save(volume)
        assert (volume / ".lock").exists()
    assert not list(volume.glob(".*"))
    assert Artifact.load(volume).state["lc.bias"][0] == pytest.approx(0.2)


# Slow tests


def _write_for_ever(directory: Path, first: int) -> None:
    artifacts = [make_artifact(fill, series=number) for number, fill in ((first, 0.1), (first + 1, 0.2))]
    with sole_writer(directory, "writer"):
        while True:
            for artifact in artifacts:
                artifact.save(directory)


@pytest.mark.slow
@posix
def test_two_hundred_kills_while_artifacts_are_written(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    make_artifact(0.3, series=7).save(directory)
    chance = random.Random(3)
    context = multiprocessing.get_context("fork")  # saves two hundred imports of torch
    seen = set()
    for kill in range(200):
        before = directory.stat().st_ino
        writer = context.Process(target=_write_for_ever, args=(directory, 1 + 2 * (kill % 3)))
        writer.start()
        while directory.stat().st_ino == before:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.05)
        writer.kill()
        writer.join()
        # Complete, and from one run: hashes, number of series and weights match.
        artifact = Artifact.load(directory)
        fill = 0.1 if artifact.config.num_series % 2 else 0.2
        assert len(artifact.item_ids) == artifact.config.num_series
        assert all(bool((value == fill).all()) for value in artifact.state.values())
        seen.add(artifact.config.num_series)
    assert len(seen) > 3
    with sole_writer(directory, "me"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
@posix
def test_twenty_interrupted_runs_end_in_good_order(tmp_path: Path) -> None:
    chance, found = random.Random(5), []
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        told, code = ((signal.SIGTERM, 143), (signal.SIGINT, 130))[number % 2]
        process = started("kforecast-train", *ENDLESS, "checkpoint_seconds=1000", cwd=folder)
        try:
            wait_for("Epoch: 1 cost", folder / "run" / "train.log", process)
            time.sleep(chance.random())
            process.send_signal(told)
            stdout, stderr = process.communicate(timeout=HANG)
        finally:
            process.kill()
        events = list((folder / "run" / "tensorboard").glob("events*"))
        found.append((process.returncode == code, (folder / "run/checkpoints/last.ckpt").exists()))
        assert "Traceback" not in stdout + stderr
        assert last_epoch(events[0]) == last_epoch_said(stdout)
    assert found == [(True, True)] * 20


def last_epoch(events: Path) -> int:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(events))
    board.Reload()
    return len(board.Scalars("epoch/seconds"))


def last_epoch_said(text: str) -> int:
    return max(int(number) for number in re.findall(r"Epoch: (\d+) cost", text))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.filterwarnings("ignore")
def test_memory_files_and_threads_do_not_grow_over_a_hundred_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kforecast.commands.train import train

    monkeypatch.chdir(tmp_path)
    small = ["source=synthetic", "source.workloads=1", "source.days=3", "source.step=600", "trainer=cpu"]
    grown: list[tuple[float, int, int]] = []
    (tmp_path / "run").mkdir()
    for _ in range(100):
        train(composed(*small, "trainer.max_epochs=1"))
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        files, threads = len([*Path("/proc/self/fd").iterdir()]), threading.active_count()
        grown.append((pages * resource.getpagesize() / 2**20, files, threads))
    memory, files, threads = (np.array(column) for column in zip(*grown, strict=True))
    half = len(grown) // 2
    slope = np.polyfit(np.arange(half), memory[-half:], 1)[0]
    print(
        f"{len(grown)} trainings: {memory[0]:.0f} MiB after the first, {memory[half]:.0f} after half, "
        f"{memory[-1]:.0f} at the end, slope {slope:.3f} MiB a training; files {files[0]} to {files[-1]}, "
        f"threads {threads[0]} to {threads[-1]}",
        file=sys.stderr,
    )
    assert slope < 0.1
    assert files[-1] <= files[5]
    assert threads[-1] <= threads[5]
