"""Runs commands in forks of a process that has already loaded their libraries.

Run as a script, this module is that process: it reads one request per line from standard input and writes
one answer per line to standard output. Loading Python, torch and Lightning costs a command several seconds
of CPU. A fork runs the same code in a process of its own, with its own folder, environment, output and exit
code. Tests of signals, kills and startup use new processes instead.
"""

import gc
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from functools import wraps
from pathlib import Path
from typing import Any

COMMANDS = {
    "kforecast-train": "kforecast.commands.train",
    "kforecast-fetch": "kforecast.commands.fetch",
    "kforecast-evaluate": "kforecast.commands.evaluate",
    "kforecast-forecast": "kforecast.commands.forecast",
    "kforecast-leaderboard": "kforecast.commands.leaderboard",
    "kforecast-serve": "kforecast.commands.serve",
    "kforecast-serve-metrics": "kforecast.commands.serve_metrics",
    "kforecast-scale": "kforecast.commands.scale",
    "kforecast-replay": "kforecast.commands.replay",
    "kforecast-retrain": "kforecast.commands.retrain",
    "kforecast-export": "kforecast.commands.export",
}
# Modules that some command loads at some time; importing them starts no thread.
LIBRARIES = [
    *("lightning.pytorch", "torch.utils.tensorboard", "pandas", "pyarrow.parquet", "holidays"),
    *("kforecast.training.assemble", "kforecast.training.outcome", "kforecast.training.artifact_maker"),
    *("kforecast.evaluation.report.files", "kforecast.forecaster", "kforecast.data.reading"),
    *("kforecast.metrics.kapacity", "kforecast.metrics.prometheus", "kforecast.metrics.synthetic"),
    *("kforecast.training.sweeps.ranking", "kforecast.models.seasonal_mlp", "kforecast.data.quality"),
    *("kforecast.training.run", "kforecast.training.publisher", "kforecast.training.teacher"),
    *("kforecast.training.distributed.threads", "kforecast.training.lightning_warnings"),
    *("kforecast.data.summary", "pandas.io.formats.csvs", "pyarrow.pandas_compat", "rich._emoji_codes"),
]
# In the environment of a command: draw its figures, and replay the whole span.
DRAWN = "KFORECAST_TESTS_DRAW"


def judge_briefly() -> None:
    """Leave figures empty, and replay the newest day alone: both are half the work of a small training.

    The fixture ``drawn`` in conftest.py is for the tests of reports.
    """
    from matplotlib.figure import Figure

    from kforecast.evaluation import capacity

    Figure.draw = lambda self, renderer: None  # type: ignore[method-assign]
    capacity.MOST_DAYS = 1


def compose_quickly() -> None:
    """Let Hydra read each file of a configuration once, and keep coverage out of it."""
    import copy

    import yaml
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.hydra import Hydra

    load = yaml.load
    known: dict[str, Any] = {}

    def remembered(stream: Any, Loader: Any) -> Any:  # noqa: N803
        if Loader.__name__ != "OmegaConfLoader" or not hasattr(stream, "read"):
            return load(stream, Loader)
        text = stream.read()
        if text not in known:
            stream.seek(0)
            known[text] = load(stream, Loader)
        return copy.deepcopy(known[text])

    def untraced(work: Any) -> Any:
        @wraps(work)
        def done(*arguments: Any, **options: Any) -> Any:
            tracer = sys.gettrace()
            sys.settrace(None)
            try:
                return work(*arguments, **options)
            finally:
                sys.settrace(tracer)

        return done

    yaml.load = remembered
    ConfigLoaderImpl.load_configuration = untraced(ConfigLoaderImpl.load_configuration)  # type: ignore[method-assign]
    Hydra.app_help = untraced(Hydra.app_help)  # type: ignore[method-assign]


class Forking:
    """The process to fork from; it starts with the first command."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._one_at_a_time = threading.Lock()

    def run(
        self, command: list[str], *, cwd: Path, env: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a command line, whose first word is the path of an installed command."""
        with self._one_at_a_time, tempfile.TemporaryDirectory() as folder:
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            said = [Path(folder, stream) for stream in ("stdout", "stderr")]
            request = [command, str(cwd), dict(env), *map(str, said), timeout]
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            code = json.loads(self._process.stdout.readline())
            texts = [path.read_text(encoding="utf-8", errors="backslashreplace") for path in said]
        if code is None:
            raise subprocess.TimeoutExpired(command, timeout, *texts)
        return subprocess.CompletedProcess(command, code, *texts)

    def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            self._process = None


def _serve() -> None:
    # With logging configured, Lightning adds no handler of its own; Hydra reconfigures it in each fork.
    import importlib
    import logging

    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    for module in [*COMMANDS.values(), *LIBRARIES]:
        importlib.import_module(module)
    root.removeHandler(handler)
    compose_quickly()
    _warm_up()
    if "coverage" in sys.modules and (measured := sys.modules["coverage"].Coverage.current()):
        measured.save()  # once, instead of by each fork
    gc.freeze()
    for line in sys.stdin:
        command, cwd, env, stdout, stderr, timeout = json.loads(line)
        child = os.fork()
        if not child:
            _become(command, cwd, env, stdout, stderr)
        print(json.dumps(ended(child, timeout)), flush=True)


def _warm_up() -> None:
    """Do once the work that each command would repeat: find Hydra's plugins, parse overrides, load fonts."""
    import io

    from hydra.core.plugins import Plugins
    from matplotlib.figure import Figure

    from kforecast.config.compose import composed

    Plugins.instance()
    # The parsers of overrides and interpolations remember the decisions that they have made.
    composed("train", ["source=synthetic", "+a.b=['c d', 1, 2.5e-3]", "hydra.job.name=a_b"], output_dir="run")
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 2], label="a")
    axes.legend()
    for form in ("png", "svg"):
        figure.savefig(io.BytesIO(), format=form)


def ended(child: int, timeout: float) -> int | None:
    """Wait for a fork to end; its exit code, or None when it hung and was killed."""
    descriptor = os.pidfd_open(child)
    try:
        if not select.select([descriptor], [], [], timeout)[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        os.close(descriptor)


def _become(command: list[str], cwd: str, env: dict[str, str], stdout: str, stderr: str) -> None:
    """Run the command in this process, and exit with its code."""
    code: object = 70
    try:
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        if DRAWN not in env:
            judge_briefly()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, path in ((1, stdout), (2, stderr)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv[:] = command
        sys.orig_argv[:] = [sys.executable, *command]
        sys.modules[COMMANDS[Path(command[0]).name]].main()  # type: ignore[attr-defined]
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
