"""Fixtures and functions shared by several test files."""

import atexit
import copy
import gc
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hypothesis import HealthCheck, settings
from omegaconf import DictConfig, open_dict

from forking import DRAWN, Forking, compose_quickly, judge_briefly
from kforecast.config.checks import CONF_DIR
from kforecast.config.legacy_cli import translate

if TYPE_CHECKING:
    from torch import Tensor

    from kforecast.data.windows import WindowBatch

BIN = Path(sys.executable).parent
# Tests share few cores, where threads of torch would slow each other down. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Results are bit-identical on machines with a GPU, too.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Background jobs of a shell ignore Ctrl-C, and commands started here would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
START = 1_704_067_200  # 2024-01-01 00:00 UTC, a Monday


# No deadline per example, because no test may depend on the speed of the machine.
settings.register_profile("calm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("calm")


def pytest_collection_finish() -> None:
    """Exempt loaded modules from garbage collection, which would take half the time of a small test."""
    gc.collect()
    gc.freeze()


# Seconds after which a process counts as hanging; no test depends on the speed of the machine.
HANG = 600
compose_quickly()
_forking = Forking()
atexit.register(_forking.close)


def run_command(
    name: str, *arguments: object, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run an installed console script in a folder, forked from a process that has loaded all libraries."""
    command = [str(BIN / name), *map(str, arguments)]
    return _forking.run(command, cwd=cwd, env=os.environ | (env or {}), timeout=HANG)


def run_process(
    name: str, *arguments: object, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run an installed console script in a new process, as a user does."""
    return subprocess.run(
        [str(BIN / name), *map(str, arguments)],
        cwd=cwd,
        env=os.environ | (env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=HANG,
        check=False,
    )


def started(name: str, *arguments: str, cwd: Path, **options: Any) -> subprocess.Popen[str]:
    """Start an installed console script, for instance to interrupt it."""
    return subprocess.Popen(
        [str(BIN / name), *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for(text: str, file: Path, process: subprocess.Popen[str]) -> None:
    """Wait until a process has written a text to a file."""
    until = time.monotonic() + HANG
    while not (file.exists() and text in file.read_text(encoding="utf-8")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, f"no {text!r} in {file.name}"
        time.sleep(0.05)


def free_port() -> int:
    """A free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(*arguments: str, address: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """Run ``kforecast-serve-metrics`` in its own process, and wait until it is ready."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    command = [str(BIN / "kforecast-serve-metrics"), *arguments]
    with (cwd / "provider.log").open("w") as log:
        process = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log, text=True)
    try:
        with grpc.insecure_channel(address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service="io.kapacitystack.metric.ProviderService")
            while True:
                assert process.poll() is None, (cwd / "provider.log").read_text()
                try:
                    assert stub.Check(request, timeout=HANG).status == health_pb2.HealthCheckResponse.SERVING
                    break
                except grpc.RpcError:
                    time.sleep(0.1)
        yield process
    finally:
        process.terminate()
        process.wait(timeout=HANG)


def composed(*arguments: str, name: str = "train", conf: Path = CONF_DIR) -> DictConfig:
    """The configuration of a command line with flags; interpolations can be resolved."""
    overrides = [argument for argument in translate(list(arguments), verb=name) if argument != "-m"]
    with initialize_config_dir(str(conf), version_base="1.3"):
        cfg = compose(name, overrides, return_hydra_config=True)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = "run"
        HydraConfig.instance().set_config(cfg)
    task = copy.deepcopy(cfg)  # as Hydra does: cfg.hydra keeps its reference to the whole configuration
    with open_dict(task):
        del task.hydra
    return task


def tensors_of(batch: "WindowBatch") -> list["Tensor"]:
    """All tensors of a batch, those of its past last."""
    return [
        *(batch.context, batch.calendar, batch.series, batch.target, batch.observed),
        *(batch.past or ()),
    ]


def traffic_rows(series: int, points: int, step: int = 600) -> list[str]:
    """CSV rows with a daily cycle: ``points`` rows for each of ``series`` series."""

    def value(i: int, n: int) -> float:
        return 10 + n + 5 * math.sin(2 * math.pi * i * step / 86_400 + n)

    numbers = [(n, i) for n in range(series) for i in range(points)]
    return [f"{START + i * step},{value(i, n):.4f},shop/web-{n},qps" for n, i in numbers]


@pytest.fixture(scope="module")
def unmeasured() -> Iterator[None]:
    """Tests that read the source and run none of it: measuring their coverage would double their time."""
    tracer = sys.gettrace()
    sys.settrace(None)
    yield
    sys.settrace(tracer)


@pytest.fixture(autouse=True, scope="session")
def _whole() -> tuple[Callable[..., None], int]:
    """The method of figures that draws them, and the days that are replayed; from now on neither counts."""
    from matplotlib.figure import Figure

    from kforecast.evaluation import capacity

    whole = Figure.draw, capacity.MOST_DAYS
    judge_briefly()
    return whole


@pytest.fixture(scope="module")
def drawn(_whole: tuple[Callable[..., None], int]) -> Iterator[None]:
    """Figures are drawn, and replays whole, in the tests of a file and in the commands that it runs."""
    from matplotlib.figure import Figure

    from kforecast.evaluation import capacity

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "draw", _whole[0])
        patch.setattr(capacity, "MOST_DAYS", _whole[1])
        patch.setenv(DRAWN, "1")
        yield


@pytest.fixture
def traffic_csv(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a dataset file (contract 3)."""

    def make(series: int = 1, points: int = 432, name: str = "traffic.csv") -> Path:
        path = tmp_path / name
        rows = ["timestamp,value,workload,metric", *traffic_rows(series, points)]
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        return path

    return make
