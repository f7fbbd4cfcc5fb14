"""Commands as processes that need not load their libraries: forked from one that has.

Started as a script it is that process: a request a line on standard input, an answer a line on standard
output.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMANDS = {
    "kforecast-train": "kforecast.training.train",
    "kforecast-fetch": "kforecast.fetch",
    "kforecast-evaluate": "kforecast.evaluation.evaluate",
    "kforecast-forecast": "kforecast.forecast",
    "kforecast-serve-metrics": "kforecast.serve_metrics",
    "kforecast-retrain": "kforecast.retraining.retrain",
}
# Loaded by some verb at some time; none of them starts a thread by being loaded.
LIBRARIES = [
    *("lightning.pytorch", "torch.utils.tensorboard", "pandas", "pyarrow.parquet", "holidays"),
    *("kforecast.training.trainings", "kforecast.training.closing", "kforecast.training.artifacts"),
    *("kforecast.evaluation.report", "kforecast.forecaster", "kforecast.data.reading"),
    *("kforecast.metrics.kapacity", "kforecast.metrics.prometheus", "kforecast.metrics.synthetic"),
    *("kforecast.training.sweep", "kforecast.models.seasonal_mlp", "kforecast.data.quality"),
]


class Forking:
    """The process to fork from."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(
        self, name: str, *arguments: object, cwd: Path, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """As ``conftest.run_command``; what the command says goes through files beside ``cwd``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        said = [cwd.parent / f"{cwd.name}.{stream}" for stream in ("stdout", "stderr")]
        request = [name, [*map(str, arguments)], str(cwd), *map(str, said), timeout]
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code = json.loads(self._process.stdout.readline())
        texts = [path.read_text(encoding="utf-8", errors="backslashreplace") for path in said]
        if code is None:
            raise subprocess.TimeoutExpired(name, timeout, *texts)
        return subprocess.CompletedProcess([name, *request[1]], code, *texts)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


@contextmanager
def forking() -> Iterator[Forking]:
    """A process to fork commands from."""
    process = Forking()
    try:
        yield process
    finally:
        process.close()


def _serve() -> None:
    # Where the log is configured Lightning adds no handler of its own; Hydra configures it anew in each fork.
    import importlib
    import logging

    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    for module in [*COMMANDS.values(), *LIBRARIES]:
        importlib.import_module(module)
    root.removeHandler(handler)
    for line in sys.stdin:
        name, arguments, cwd, stdout, stderr, timeout = json.loads(line)
        child = os.fork()
        if not child:
            _become(name, arguments, cwd, stdout, stderr)
        print(json.dumps(_wait(child, timeout)), flush=True)


def _wait(child: int, timeout: float) -> int | None:
    descriptor = os.pidfd_open(child)
    try:
        if not select.select([descriptor], [], [], timeout)[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        os.close(descriptor)


def _become(name: str, arguments: list[str], cwd: str, stdout: str, stderr: str) -> None:
    """Be the command, and end with its exit code."""
    code: object = 70
    try:
        os.chdir(cwd)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in ((1, stdout), (2, stderr)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv[:] = [name, *arguments]
        sys.orig_argv[:] = [sys.executable, *sys.argv]
        sys.modules[COMMANDS[name]].main()  # type: ignore[attr-defined]
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    _serve()
