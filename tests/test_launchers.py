"""Sweeps with jobs in other processes: joblib, submitit, Ray."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from omegaconf import OmegaConf

from conftest import HANG, run_command, run_process, started, wait_for
from kforecast.artifact import TRIO
from kforecast.config.explain import EXTRAS
from kforecast.training.sweeps.ranking import SweepResults

QUICK = ["experiment=smoke", "trainer=cpu", "logger=none"]
NOTHING_HELD_OUT = ["data.validation=0", "data.test=0", "monitor=train/loss"]  # so there is no report


def installed(plugin: str) -> pytest.MarkDecorator:
    found = importlib.util.find_spec("hydra_plugins") and importlib.util.find_spec(f"hydra_plugins.{plugin}")
    return pytest.mark.skipif(not found, reason=f"{plugin} is not installed")


needs_joblib = installed("hydra_joblib_launcher")
needs_submitit = installed("hydra_submitit_launcher")
needs_ray = installed("hydra_ray_launcher")


def sweep(
    cwd: Path, launcher: list[str], *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A sweep with all flags that take a path; no worker has read the config file."""
    config = cwd / "train-config.yaml"
    config.write_text("freq: 10min\npredictionLength: 2\ncontextLength: 5\nhyperParams: {batchSize: 19}\n")
    flags = ["--config-file=train-config.yaml", "--dataset-file=traffic.csv", "--model-save-path=Mia's ${m}"]
    command = ["-m", *launcher, *flags, *QUICK, *arguments]
    # Ray and submitit start workers with the command line of this process, which must not be a fork's.
    run = run_command if launcher == JOBLIB else run_process
    return run("kforecast-train", *command, cwd=cwd, env=env)


def check_jobs(cwd: Path, done: subprocess.CompletedProcess[str], statuses: list[str]) -> None:
    """Check the files of a sweep, for any launcher."""
    assert done.stdout.count("Sweep, best first") == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    # All jobs share one folder, named after the start of the sweep.
    (folder,) = (cwd / "outputs" / "sweeps").glob("*/*")
    results = pd.read_csv(folder / "results.csv").sort_values("job", ignore_index=True)
    assert list(results["job"]) == list(range(len(statuses)))
    assert list(results["status"]) == statuses
    for job, status in enumerate(statuses):
        log = (folder / str(job) / "train.log").read_text(encoding="utf-8")
        assert not re.search(r"^#\d", log, flags=re.MULTILINE)
        artifact = cwd / "Mia's ${m}" / str(job)
        assert artifact.exists() == (status == "done")
        if status == "done":
            seed = results["seed"][job]
            assert re.findall(r"INFO: Seed (\d+);", log) == [str(seed)]
            assert {path.name for path in artifact.iterdir()} >= set(TRIO)
            config = yaml.safe_load((artifact / "estimator_config.yaml").read_text())
            assert (config["context_length"], config["batch_size"]) == (5, 19)
        else:
            assert f"job {status}: " in log


JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]


@pytest.mark.slow
@needs_joblib
def test_joblib(tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    """Two concurrent jobs; a bad job is found before torch is loaded."""
    traffic_csv()
    done = sweep(tmp_path, JOBLIB, "seed=1,-1", *NOTHING_HELD_OUT)
    check_joblib(tmp_path, done, "of 2 jobs 1 failed", ["done", "failed"])


@needs_joblib
@pytest.mark.slow
def test_joblib_with_rejected_jobs(tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    traffic_csv()
    done = sweep(tmp_path, JOBLIB, "seed=1,-1", "gate.require_skill=null,0.9")
    words = "of 4 jobs 2 failed and 1 did not pass the gate"
    check_joblib(tmp_path, done, words, ["done", "rejected", "failed", "failed"])


def check_joblib(cwd: Path, done: subprocess.CompletedProcess[str], words: str, statuses: list[str]) -> None:
    """Check all output and files of a sweep with joblib."""
    assert done.returncode == 3
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert words in error
    check_jobs(cwd, done, statuses)
    lines = done.stdout[: done.stdout.index("\nSweep, best first")].splitlines()
    marked = re.compile(r"#[0-3] |$|\[\S+ \S+\]\[HYDRA\]")
    assert [line for line in lines if not marked.match(line)] == []


def of_session(session: int) -> list[str]:
    """The command lines of the live processes of a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, its_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found.append((folder / "cmdline").read_text())
        except OSError:
            continue
    return found


# Jobs that do not train need no torch.
WITH_TASK = """
import os, signal, time
from pathlib import Path
from hydra.core.hydra_config import HydraConfig
from kforecast.commands import run as command

def endless(cfg):
    Path(HydraConfig.get().runtime.output_dir, "begun").write_text("begun")
    while True:
        time.sleep(0.1)

def lost(cfg):
    os.kill(os.getpid(), signal.SIGKILL)

raise SystemExit(command.run(TASK, "train"))
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
TWO_JOBS = ["-m", *JOBLIB, "hydra.sweep.dir=sweep", "source=synthetic", "seed=1,2"]


def interrupt(process: subprocess.Popen[str], number: signal.Signals, code: int) -> None:
    """Send a signal to a sweep: it exits with its own code and without a traceback, as do its workers."""
    process.send_signal(number)
    said = "".join(stream or "" for stream in process.communicate(timeout=HANG))
    assert process.returncode == code, said
    assert "Traceback" not in said
    until = time.monotonic() + HANG
    while left := of_session(process.pid):
        assert time.monotonic() < until, left
        time.sleep(0.1)


@pytest.mark.slow
@needs_joblib
@needs_proc
def test_interrupted_joblib_leaves_no_process(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WITH_TASK.replace("TASK", "endless"), *TWO_JOBS],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        for job in ("0", "1"):
            wait_for("begun", tmp_path / "sweep" / job / "begun", process)
        assert len(of_session(process.pid)) >= 3
        interrupt(process, signal.SIGTERM, 143)
    finally:
        process.kill()


@needs_joblib
@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_trainings_by_joblib_leave_no_process(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    endless = ["trainer.max_epochs=1000000", "callbacks.early_stopping=null", "source.days=7"]
    arguments = [*TWO_JOBS, "trainer=cpu", "logger=none", *endless]
    process = started("kforecast-train", *arguments, cwd=tmp_path, start_new_session=True)
    try:
        for job in ("0", "1"):
            wait_for("Epoch: 1", tmp_path / "sweep" / job / "train.log", process)
        interrupt(process, number, code)
    finally:
        process.kill()


@pytest.mark.slow
@needs_joblib
@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_a_lost_worker_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITH_TASK.replace("TASK", "lost"), *TWO_JOBS[:-1], "seed=1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "error: the launcher of the sweep failed (TerminatedWorkerError: " in done.stderr


@needs_submitit
@pytest.mark.slow
def test_submitit_local(tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    traffic_csv()
    done = sweep(tmp_path, ["hydra/launcher=submitit_local"], "seed=1,-1")
    assert done.returncode == 3
    check_jobs(tmp_path, done, ["done", "failed"])


@needs_submitit
@pytest.mark.slow
def test_submitit_slurm_without_slurm_says_so(tmp_path: Path) -> None:
    nowhere = {"PATH": str(tmp_path)}
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=cpu"]
    done = run_process("kforecast-train", "-m", *launcher, "source=synthetic", cwd=tmp_path, env=nowhere)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "error: the launcher of the sweep failed (RuntimeError: Could not detect" in done.stderr


@needs_ray
@pytest.mark.slow
def test_ray(tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    traffic_csv()
    # Ray keeps a token in the home folder.
    env = {"HOME": str(tmp_path), "RAY_USAGE_STATS_ENABLED": "0"}
    settings = ["hydra.launcher.ray.init.address=local", "+hydra.launcher.ray.init.num_cpus=2"]
    done = sweep(tmp_path, ["hydra/launcher=ray", *settings], "seed=1,2", env=env)
    assert done.returncode == 0, done.stderr
    check_jobs(tmp_path, done, ["done", "done"])


def test_jobs_that_wrote_elsewhere_are_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    with pytest.raises(SystemExit) as ended:
        SweepResults().on_multirun_end(config)
    assert ended.value.code == 3
    assert f"error: no job has written to {tmp_path}" in capsys.readouterr().err


def test_a_launcher_that_is_not_installed(tmp_path: Path) -> None:
    script = """
import os, sys
try:
    import hydra_plugins
    hydra_plugins.__path__ = []
except ModuleNotFoundError:
    pass
from kforecast.commands.train import main

launchers = sys.argv[1:]
for launcher in launchers:  # each in a process of its own
    if not (child := os.fork()):
        sys.argv[1:] = ["-m", f"hydra/launcher={launcher}", "source=synthetic", "seed=1,2"]
        main()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *EXTRAS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.stdout.split() == ["2"] * len(EXTRAS)
    assert done.stderr.splitlines() == [
        f"error: the launcher {launcher} is not installed: pip install 'kforecast[{extra}]'"
        for launcher, extra in EXTRAS.items()
    ]
    assert not list(tmp_path.iterdir())
