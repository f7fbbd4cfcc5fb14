"""Runs installed commands in forks of the test process, where a test can change something first.

The test can interrupt a fork at a given step of its training, limit its resources or count its calls,
independent of the speed of the machine. The libraries are already loaded, so a fork costs only its own work.
"""

import importlib
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from conftest import BIN, HANG
from forking import COMMANDS, ended

# Loaded once here instead of in each fork.
LIBRARIES = [
    *("lightning.pytorch", "torch.utils.tensorboard", "pandas", "kforecast.evaluation.report.files"),
    *("kforecast.training.assemble", "kforecast.training.outcome", "kforecast.training.artifact_maker"),
]


def fork(work: Callable[[], object]) -> int:
    """Call ``work`` in a fork of this process, which exits as Python would; return its process id."""
    child = os.fork()
    if child:
        return child
    code: object = 0
    try:
        work()
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def exit_code(child: int) -> int:
    """Wait for a fork to end."""
    code = ended(child, HANG)
    assert code is not None, "the fork hangs"
    return code


def become(name: str, *arguments: object) -> None:
    """Run an installed command in this fork."""
    sys.argv[:] = [str(BIN / name), *map(str, arguments)]
    sys.orig_argv[:] = [sys.executable, *sys.argv]
    sys.modules[COMMANDS[name]].main()  # type: ignore[attr-defined]


class Prepared:
    """A command running in a fork of this process, after a call of ``prepare``."""

    def __init__(self, prepare: Callable[[], object], name: str, *arguments: object, cwd: Path) -> None:
        for module in [COMMANDS[name], *LIBRARIES]:
            importlib.import_module(module)
        self._folder = tempfile.TemporaryDirectory()
        self._said = [Path(self._folder.name, stream) for stream in ("stdout", "stderr")]

        def work() -> None:
            os.chdir(cwd)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            for number, path in zip((1, 2), self._said, strict=True):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
            # Because pytest has replaced them.
            sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
            prepare()
            become(name, *arguments)

        self.pid = fork(work)

    def ended(self) -> "subprocess.CompletedProcess[str]":
        """Wait for the command to end."""
        code = exit_code(self.pid)
        texts = [path.read_text(encoding="utf-8", errors="backslashreplace") for path in self._said]
        self._folder.cleanup()
        return subprocess.CompletedProcess([], code, *texts)


def run_prepared(
    prepare: Callable[[], object], name: str, *arguments: object, cwd: Path
) -> "subprocess.CompletedProcess[str]":
    """Run an installed command in a fork of this process, after a call of ``prepare``."""
    return Prepared(prepare, name, *arguments, cwd=cwd).ended()
