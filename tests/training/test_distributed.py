"""Training in several processes: result, output, files and fetches are those of one process."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml
from hydra.core.global_hydra import GlobalHydra
from lightning.fabric.utilities.rank_zero import rank_zero_only
from provider import Provider

import kforecast.data.datamodule as datamodule
from conftest import BIN, HANG, composed, free_port, run_command, started, traffic_rows, wait_for
from kforecast.artifact import Artifact
from kforecast.config.checks import check_train_settings
from kforecast.errors import ConfigError
from kforecast.training.distributed import launch
from kforecast.training.distributed.process_group import check_devices
from kforecast.training.distributed.processes import STARTED_BY, Process, this_process
from prepared import Prepared, become, exit_code, fork, run_prepared

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")

CONFIG = {
    "targets": [
        {
            "workloadNamespace": "shop",
            "workloadRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "historyLength": "3D",
            "metrics": [{"type": "Resource", "resource": {"name": "cpu"}}],
        }
        for name in ("a", "b")
    ],
    "freq": "10min",
    "predictionLength": 3,
    "contextLength": 7,
    "hyperParams": {"learningRate": 0.003, "epochs": 2, "batchSize": 64},
}
ENDLESS = ["trainer.max_epochs=1000000", "callbacks.early_stopping=null", "logger=none", "trainer=ddp"]
MODULE = ["-m", "kforecast.training.train"]
HOW = ["forks", pytest.param("processes", marks=pytest.mark.slow)]


def in_forks(count: int, module: str, arguments: Sequence[str]) -> int:
    """Replaces ``processes.start``: the same command lines, in forks with loaded libraries."""
    assert module == MODULE[1]
    port = str(free_port())

    def work(number: int) -> None:
        shape = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ.update({name: str(value) for name, value in shape.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        rank_zero_only.rank = number  # as Lightning sets it on import
        GlobalHydra.instance().clear()  # the state of the launching process
        become("kforecast-train", *arguments)

    os.environ[STARTED_BY] = str(os.getpid())
    children = [fork(lambda number=number: work(number)) for number in range(count)]
    return max(exit_code(child) for child in children)


def train(how: str, *arguments: object, cwd: Path, reads: Path | None = None) -> CompletedProcess[str]:
    """Train with ``trainer=ddp``, in forks or in real processes.

    Parameters
    ----------
    reads:
        A file that gets a line whenever a fork reads its data.
    """
    if how == "processes":
        return run_command("kforecast-train", *arguments, cwd=cwd)

    def prepare() -> None:
        launch.start = in_forks
        read = datamodule.read_panel

        def counted(*given: Any) -> Any:
            if reads is not None:
                with reads.open("a") as file:
                    file.write(f"{os.getpid()}\n")
            return read(*given)

        datamodule.read_panel = counted

    return run_prepared(prepare, "kforecast-train", *arguments, cwd=cwd)


def processes_of(folder: Path) -> list[int]:
    """Ids of the processes whose command line contains a folder."""
    found = []
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdecimal() and str(folder).encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:  # the process has exited
            continue
    return found


def files(folder: Path) -> set[str]:
    """All files below a folder, by relative path."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A traffic file, and a configuration for it."""
    folder = tmp_path_factory.mktemp("given")
    config, data = folder / "train-config.yaml", folder / "traffic.csv"
    config.write_text(yaml.safe_dump(CONFIG))
    data.write_text("\n".join(["timestamp,value,workload,metric", *traffic_rows(2, 432)]) + "\n")
    return SimpleNamespace(config=config, data=data)


@pytest.fixture(scope="module", params=HOW)
def runs(
    given: SimpleNamespace, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """Train in two processes, then in one on the same data; real processes fetch it from a server."""
    folder, provider = tmp_path_factory.mktemp("runs"), Provider()
    shutil.copy(given.config, folder)
    common = ["--config-file=train-config.yaml", "trainer=ddp", "window=1h"]  # no effect, one warning
    if request.param == "forks":
        data, kept = [f"--dataset-file={given.data}"], given.data
        two = train("forks", *common, *data, cwd=folder, reads=folder.parent / "reads")
    else:
        with provider.serve() as address:
            data = [f"--metrics-server-addr={address}", f"source.end={1_704_500_000 // 60 * 60}"]
            two = train("processes", *common, *data, cwd=folder)
    assert two.returncode == 0, two.stderr
    (run,) = (folder / "outputs").glob("*/*")
    if request.param == "processes":
        kept = run / "history.parquet"
    alone = ["--config-file=train-config.yaml", f"--dataset-file={kept}", "hydra.run.dir=one"]
    one = run_command("kforecast-train", *alone, cwd=folder)
    assert one.returncode == 0, one.stderr
    return SimpleNamespace(
        how=request.param,
        folder=folder,
        two=two,
        run=run,
        one=folder / "one",
        asked=[message.SerializeToString() for message in provider.requests],
        reads=folder.parent / "reads",
    )


def result(run: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((run / "result.json").read_text())
    return content


def test_the_same_loss_as_one_process(runs: SimpleNamespace) -> None:
    assert runs.two.returncode == 0, runs.two.stderr
    alone, together = result(runs.one), result(runs.run)
    assert together["status"] == "done"
    assert together["score"] == pytest.approx(alone["score"], rel=1e-4)
    names = {"forks": ("shop/web-0qps", "shop/web-1qps"), "processes": ("shop/acpu", "shop/bcpu")}[runs.how]
    assert [*Artifact.load(runs.run / "artifact").item_ids] == [*names]


def test_every_line_is_said_once_and_logged_once(runs: SimpleNamespace) -> None:
    log = (runs.run / "train.log").read_text()
    assert log.strip() == runs.two.stdout.strip()
    first, again = log.split("Training again")
    for epoch in (1, 2):
        assert len(re.findall(rf"Epoch: {epoch}, Steps", first)) == 1
    assert len(re.findall(r"Epoch: 1, Steps", again)) == 1
    assert log.count("Training is done") == 1
    assert runs.two.stderr.count("window=1h is without effect") == 1
    assert len(runs.two.stderr.splitlines()) == 1


def test_one_folder_with_the_files_of_one_process(runs: SimpleNamespace) -> None:
    assert {path.name for path in runs.folder.iterdir()} == {"train-config.yaml", "outputs", "one"}
    events = re.compile(r"events\.out\..*")
    two, one = ({events.sub("events", name) for name in files(run)} for run in (runs.run, runs.one))
    # Several processes write checkpoints at the end of every epoch.
    more = {"checkpoints/previous.ckpt", "checkpoints/refit/previous.ckpt"}
    assert two - one == more | ({"history.parquet"} if runs.how == "processes" else set())
    assert one - two == set()
    assert len(list((runs.run / "tensorboard").iterdir())) == len(list((runs.one / "tensorboard").iterdir()))


def test_a_server_is_asked_and_a_file_is_read_once(runs: SimpleNamespace) -> None:
    if runs.how == "forks":
        assert len(runs.reads.read_text().splitlines()) == 1
    else:
        assert runs.asked
        assert len(runs.asked) == len(set(runs.asked))


@pytest.mark.parametrize("how", HOW)
def test_bad_data_is_said_once(how: str, tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    data = traffic_csv(points=9)
    run = f"hydra.run.dir={tmp_path / 'run'}"
    done = train(how, f"--dataset-file={data}", "trainer=ddp", run, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: no window to train on")
    assert list(tmp_path.iterdir()) == [data]
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["trainer.devices=2"], "add trainer=ddp trainer.devices=2"),
        (["trainer=ddp", "trainer.devices=0"], "trainer.devices: 0 is wrong"),
        (["trainer=ddp", "trainer.devices=8", "data.batch_size=7"], "7 windows cannot be shared out to 8"),
    ],
)
def test_what_cannot_be_shared_out(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_train_settings(composed("source=synthetic", *arguments))


@pytest.mark.parametrize(
    "arguments, found, message",
    [
        (["trainer=gpu"], 0, "trainer.accelerator: gpu, but torch finds no GPU on this machine"),
        (["trainer=ddp"], 0, None),
        (["trainer=ddp"], 1, "trainer.devices: 2 processes want a GPU each, and this machine has 1"),
        (["trainer=ddp"], 2, None),
        (["trainer=ddp", "trainer.accelerator=cpu"], 1, None),
        (["trainer=gpu"], 1, None),
    ],
)
def test_as_many_gpus_as_the_machine_has(
    arguments: list[str], found: int, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: found)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    trainer = check_train_settings(composed("source=synthetic", *arguments)).trainer
    with nullcontext() if message is None else pytest.raises(ConfigError, match=message):
        check_devices(trainer)


def test_a_bad_configuration_starts_nothing(tmp_path: Path) -> None:
    refused = run_command("kforecast-train", "source=synthetic", *TWO_MACHINES, cwd=tmp_path)
    check_refused(refused)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_bad_configuration_does_not_even_load_torch(tmp_path: Path) -> None:
    script = "import sys\nfrom kforecast.commands.train import main\ntry:\n    main()\nfinally:\n"
    script += "    assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", script, "source=synthetic", *TWO_MACHINES]
    check_refused(
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG, check=False)
    )


TWO_MACHINES = ["trainer=ddp", "trainer.num_nodes=2"]


def check_refused(done: CompletedProcess[str]) -> None:
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: trainer.num_nodes: 2 machines need a launcher")
    assert len(done.stderr.splitlines()) == 1


WAITING = """
import os, sys, time
from kforecast.training.distributed.processes import end_with_launcher
end_with_launcher()
with open(os.path.join(os.path.dirname(__file__), "begun"), "a") as file:
    file.write("begun\\n")
while True:
    time.sleep(60)
"""


def endless(how: str, folder: Path, data: Path) -> Prepared | subprocess.Popen[str]:
    """A running training in two processes; real ones have written their first artifact.

    In a fork, it starts processes that only wait.
    """
    arguments = [f"--dataset-file={data}", *ENDLESS, f"hydra.run.dir={folder / 'run'}"]
    if how == "processes":
        process = started("kforecast-train", *arguments, cwd=folder)
        wait_for("Epoch: 2", folder / "run" / "train.log", process)
        assert len(processes_of(folder)) == 3
        return process

    (folder / "waiting.py").write_text(WAITING)
    start = launch.start

    def prepare() -> None:
        launch.start = lambda count, _, arguments: start(count, "waiting", arguments)

    launcher = Prepared(prepare, "kforecast-train", *arguments, cwd=folder)
    until = time.monotonic() + HANG
    while not ((folder / "begun").exists() and (folder / "begun").read_text().count("begun") == 2):
        assert time.monotonic() < until
        time.sleep(0.02)
    assert len(processes_of(folder)) == 2
    return launcher


def ended(process: Prepared | subprocess.Popen[str], folder: Path) -> tuple[int, str]:
    """Exit code and standard error of a process, after all its child processes have exited."""
    if isinstance(process, Prepared):
        done = process.ended()
        code, said = done.returncode, done.stderr
    else:
        try:
            _, said = process.communicate(timeout=HANG)
        finally:
            process.kill()
        code = process.returncode
    until = time.monotonic() + HANG
    while left := processes_of(folder):
        assert time.monotonic() < until, left
        time.sleep(0.02)
    return code, said


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(
    "number, code, said",
    [
        (signal.SIGTERM, 143, ""),
        pytest.param(signal.SIGINT, 130, "interrupted\n", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, "", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_all(
    number: signal.Signals, code: int, said: str, how: str, tmp_path: Path, traffic_csv: Callable[..., Path]
) -> None:
    process = endless(how, tmp_path, traffic_csv())
    os.kill(process.pid, number)
    assert ended(process, tmp_path) == (code, said)
    if how == "processes":
        Artifact.load(tmp_path / "run" / "artifact")


@pytest.mark.parametrize("how", HOW)
def test_a_process_that_is_killed_ends_all(
    how: str, tmp_path: Path, traffic_csv: Callable[..., Path]
) -> None:
    process = endless(how, tmp_path, traffic_csv())
    others = set(processes_of(tmp_path)) - {process.pid}
    os.kill(max(others), signal.SIGKILL)
    code, said = ended(process, tmp_path)
    assert code == 3
    assert said.startswith("error: ")
    assert len(said.splitlines()) <= 2
    assert "Traceback" not in said


@pytest.mark.slow
def test_under_torchrun(given: SimpleNamespace, tmp_path: Path) -> None:
    arguments = ["--dataset-file", str(given.data), "trainer=ddp", "trainer.max_epochs=1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*torchrun, *MODULE, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs").glob("*/*")
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    assert done.stdout.count("Epoch: 1, Steps") == 2  # one per training
    assert (run / "train.log").read_text().strip() == done.stdout.strip()
    Artifact.load(run / "artifact")


SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "kforecast",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NNODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
}


def environments(launcher: str) -> list[dict[str, str]]:
    """The environment variables of two processes."""
    met = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    if launcher == "srun":
        return [met | SLURM | {"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)} for n in range(2)]
    return [met | {"RANK": str(n), "WORLD_SIZE": "2"} for n in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher, shape",
    [("srun", "trainer.devices=2"), ("Kubeflow", "trainer.num_nodes=2 trainer.devices=1")],
)
def test_under_a_cluster(launcher: str, shape: str, given: SimpleNamespace, tmp_path: Path) -> None:
    shapes = ["--dataset-file", str(given.data), "trainer=ddp", "trainer.max_epochs=1", *shape.split()]
    both = [
        subprocess.Popen(
            [str(BIN / "kforecast-train"), *shapes],
            cwd=tmp_path,
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for variables in environments(launcher)
    ]
    said = [process.communicate(timeout=HANG) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][1] == ""
    assert said[1] == ("", "")
    (run,) = (tmp_path / "outputs").glob("*/*")
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]
    assert (run / "train.log").read_text().count("Epoch: 1, Steps") == 2
    Artifact.load(run / "artifact")


@pytest.mark.slow
def test_a_sweep_starts_the_processes_of_each_job(given: SimpleNamespace, tmp_path: Path) -> None:
    arguments = ["-m", "--config-file", given.config, f"--dataset-file={given.data}"]
    arguments += ["--model-save-path=models", "trainer=ddp", "trainer.max_epochs=1", "logger=none"]
    sweep = ["optimizer.lr=0.003,-1,0.001", "artifact.per_series=true", "hydra.sweep.dir=sweep"]
    done = run_command("kforecast-train", *arguments, *sweep, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    results = pd.read_csv(tmp_path / "sweep" / "results.csv")
    assert sorted(results["status"]) == ["done", "done", "failed"]
    assert set(results["artifact_dir"].dropna()) == {"models/0", "models/2"}
    for job in ("0", "2"):
        artifact = Artifact.load(tmp_path / "models" / job)
        assert artifact.config.learning_rate in (0.003, 0.001)
        assert artifact.config.context_length == 7
    assert {path.name for path in tmp_path.iterdir()} == {"models", "sweep"}


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, Process()),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Process(3, 4, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Process(1, 2, 0)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, Process()),
        (SLURM | {"SLURM_PROCID": "1", "SLURM_LOCALID": "1"}, Process(1, 2, 1)),
        (SLURM | {"SLURM_PROCID": "0", "SLURM_JOB_NAME": "bash"}, Process()),
        (SLURM | {"RANK": "2", "WORLD_SIZE": "4", "SLURM_PROCID": "0"}, Process(2, 4, 0)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Process()),  # the batch script itself
    ],
)
def test_what_launchers_say(
    variables: dict[str, str], expected: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_")):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert this_process() == expected


def test_a_launcher_that_says_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(ConfigError, match="RANK=first"):
        this_process()


EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def test_the_manifest_for_kubeflow_is_right() -> None:
    job = yaml.safe_load((EXAMPLES / "pytorchjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v1", "PyTorchJob")
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert set(replicas) == {"Master", "Worker"}
    for replica in replicas.values():
        (container,) = replica["template"]["spec"]["containers"]
        assert container["name"] == "pytorch"
        assert container["command"] == ["torchrun", *MODULE]
        arguments = [
            argument.replace("/config/train-config.yaml", str(EXAMPLES / "train-config.yaml"))
            for argument in container["args"]
        ]
        trainer = check_train_settings(composed(*arguments)).trainer
        assert trainer.devices == int(job["spec"]["nprocPerNode"])
        assert trainer.num_nodes == sum(replica["replicas"] for replica in replicas.values())


def test_the_script_for_slurm_is_right(tmp_path: Path) -> None:
    # A fake srun prints the command that it would start.
    (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    text = (EXAMPLES / "slurm.sbatch").read_text()
    shape = dict(re.findall(r"^#SBATCH --(nodes|ntasks-per-node)=(\d+)$", text, flags=re.MULTILINE))
    variables = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_NTASKS_PER_NODE": shape["ntasks-per-node"],
        "SLURM_NNODES": shape["nodes"],
        "SLURM_JOB_ID": "4711",
    }
    command = ["bash", str(EXAMPLES / "slurm.sbatch")]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=HANG, check=True)
    words = done.stdout.split("\n")[:-1]
    trainer = check_train_settings(composed(*words[words.index("kforecast-train") + 1 :])).trainer
    assert (str(trainer.devices), str(trainer.num_nodes)) == (shape["ntasks-per-node"], shape["nodes"])


@pytest.mark.slow
def test_each_process_maps_a_big_file_by_itself(tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    pd.read_csv(traffic_csv(2, 500)).to_parquet(tmp_path / "traffic.parquet")
    settings = ["--dataset-file=traffic.parquet", "trainer.max_epochs=2", "logger=none"]
    one = run_command("kforecast-train", *settings, "hydra.run.dir=one", cwd=tmp_path)
    mapped = [*settings, "source.memory_map=true", "source.cache_dir=cache", "hydra.run.dir=two"]
    two = run_command("kforecast-train", *mapped, "trainer=ddp", cwd=tmp_path)
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert result(tmp_path / "two")["score"] == pytest.approx(result(tmp_path / "one")["score"], rel=1e-4)


@pytest.mark.slow
def test_a_folder_of_own_configurations_reaches_every_process(tmp_path: Path) -> None:
    own = tmp_path / "own" / "experiment" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\nwindow:\n  context_length: 5\n")
    arguments = ["--config-dir", "own", "experiment=mine", "source=synthetic", "source.step=600"]
    few = ["source.days=7", "trainer.max_epochs=1", "trainer=ddp", "artifact_dir=model"]
    done = run_command("kforecast-train", *arguments, *few, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Artifact.load(tmp_path / "model").config.context_length == 5


@pytest.mark.slow
def test_a_model_that_the_gate_rejects_is_recorded_as_rejected(
    given: SimpleNamespace, tmp_path: Path
) -> None:
    arguments = [f"--dataset-file={given.data}", "window=10min", "trainer=ddp", "trainer.devices=2"]
    arguments += ["trainer.max_epochs=1", "logger=none", "gate.require_skill=0.99", "hydra.run.dir=run"]
    done = train("forks", *arguments, cwd=tmp_path)
    assert done.returncode == 4, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert result["status"] == "rejected"
    assert "gate.require_skill" in result["rejected"]
    assert "Interrupted" not in done.stdout
