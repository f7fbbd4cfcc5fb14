"""How every command runs: our own flags before Hydra, an exit code after it."""

import argparse
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import env_override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from kforecast.commands.check_first import Check, Command, running
from kforecast.commands.ending import exit_code_of
from kforecast.commands.streams import data_output
from kforecast.config.conf_dir import CONF_DIR
from kforecast.config.explain import config_groups, explain
from kforecast.config.job import runs_beside_others
from kforecast.config.legacy_cli import FLAGS, translate, without_flags
from kforecast.config.overrides import append, is_sweep
from kforecast.config.secrets import check_arguments
from kforecast.console import ConsoleHandler
from kforecast.errors import BAD_INPUT, ConfigError, KforecastError, ours
from kforecast.training.distributed.processes import (
    TERMINATED,
    Process,
    end_with_launcher,
    started_by,
    this_process,
)
from kforecast.validation import nearest

_SWITCH = {"action": "store_true"}
# Hydra's command line, as its manual lists it ("Hydra's command line flags").
HYDRA_FLAGS: dict[tuple[str, ...], dict[str, Any]] = {
    ("--help", "-h"): _SWITCH,
    ("--hydra-help",): _SWITCH,
    ("--version",): _SWITCH,
    ("--cfg", "-c"): {"choices": ["job", "hydra", "all"]},
    ("--resolve",): _SWITCH,
    ("--package", "-p"): {},
    ("--run", "-r"): _SWITCH,
    ("--multirun", "-m"): _SWITCH,
    ("--shell-completion", "-sc"): _SWITCH,
    ("--config-path", "-cp"): {},
    ("--config-name", "-cn"): {},
    ("--config-dir", "-cd"): {},
    ("--experimental-rerun",): {},
    ("--info", "-i"): {
        "nargs": "?",
        "const": "all",
        "choices": ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"],
    },
}


def run(
    task: Callable[[DictConfig], object],
    config_name: str,
    flags: Collection[str] = tuple(FLAGS),
    together: bool = False,
    prepare: Callable[[list[str]], tuple[list[str], str]] | None = None,
    check: Check | None = None,
) -> int:
    """Run a command as a whole, from ``sys.argv`` to the exit code, in a process of its own.

    A command that is refused for its input leaves nothing on disk.

    Parameters
    ----------
    task:
        The verb, called with the composed configuration.
    config_name:
        The name of its primary config in ``conf/``.
    flags:
        The flags of :mod:`kforecast.config.legacy_cli` that it takes.
    together:
        Whether the processes that a launcher starts are one run. All but the first then print and write
        nothing, except that one process on each further machine prints errors.
    prepare:
        Changes the command line before anything else; returns it with the name of the primary config.
    check:
        Checks the composed configuration as far as that needs no data, before anything is written.
    """
    _own_the_process()
    command = Command(check)
    code: object = None
    try:
        code = exit_code_of(
            lambda: _run(command, task, config_name, flags, together, prepare),
            this_process if together else Process,
        )
    except SystemExit as ended:
        code = ended.code
        raise
    finally:
        if code == BAD_INPUT:
            command.leave_nothing()
        if command.folder is not None:
            command.folder.release()
    return code


def _own_the_process() -> None:
    """Change the process for the rest of its life, which only a command may do."""
    signal.signal(signal.SIGTERM, _terminate)
    # Threads that spin while they wait for each other slow each other down on a busy machine, or under a CPU
    # quota. Torch's OpenMP library reads the variable when it is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # In names of series: figures show a box there, text has the character.
    warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise SystemExit(TERMINATED)


def _run(
    command: Command,
    task: Callable[[DictConfig], object],
    config_name: str,
    flags: Collection[str],
    together: bool,
    prepare: Callable[[list[str]], tuple[list[str], str]] | None,
) -> None:
    with ExitStack() as stack:
        process = Process()
        if together:
            end_with_launcher()
            process = this_process()
        if not process.first:
            stack.enter_context(_silent())
        arguments, primary = sys.argv[1:], config_name
        if prepare is not None:
            arguments, primary = prepare(arguments)
        # Another process of the run has printed the same warnings.
        warned = not process.first or started_by() is not None
        with redirect_stderr(StringIO()) if warned else nullcontext():
            arguments = translate(arguments, flags, config_name)
        check_arguments(arguments)
        _check_flags(arguments, flags)
        if any(argument.partition("=")[0] in ("--cfg", "-c") for argument in arguments):
            data_output()
        if process.count > 1:
            arguments = _for_one_of_many(arguments, process)
        with running(command):
            failure = _run_hydra(command, task, primary, arguments)
        if isinstance(failure, HydraException | OmegaConfBaseException):
            if (found := ours(failure)) is None:
                raise explain(failure, config_name, arguments) from failure
            failure = found
        if failure is not None:
            raise failure


def _run_hydra(
    command: Command, task: Callable[[DictConfig], object], config_name: str, arguments: list[str]
) -> Exception | None:
    """Run the task under Hydra; the error is returned, because Hydra prints around one that is raised."""
    failures: list[Exception] = []
    said = {"HYDRA_FULL_ERROR": os.environ.get("HYDRA_FULL_ERROR", "0")}

    def guarded(cfg: DictConfig) -> object:  # launchers pickle it to run it in other processes
        if runs_beside_others():
            _mark_console_lines()
        try:
            with env_override(said):  # processes that the task starts see what the user has set
                return task(cfg)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            failures.append(error)
            return None

    try:
        with _read_by_hydra(arguments):
            hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name)(guarded)()
    except SystemExit:
        if command.refusal is None:
            raise
        return command.refusal
    except Exception as error:
        return _launch_error(error, arguments)
    return failures[0] if failures else None


@contextmanager
def _read_by_hydra(arguments: Sequence[str]) -> Iterator[None]:
    """Set what ``hydra.main`` reads from the process, its command line and two variables; restore them."""
    variables = {"HYDRA_FULL_ERROR": "1"}  # raise errors instead of printing them
    if "COMP_LINE" in os.environ:  # the shell asks for completions of this line
        variables["COMP_LINE"] = without_flags(os.environ["COMP_LINE"])
    before = sys.argv
    sys.argv = [before[0], *arguments]
    try:
        with env_override(variables):
            yield
    finally:
        sys.argv = before


def _launch_error(error: Exception, arguments: Sequence[str]) -> Exception:
    """The error as one of ours, if it concerns the launching of jobs; else the error itself."""
    found: Exception = error
    if _came_through_a_launcher(error):
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        found = KforecastError(
            f"the launcher of the sweep failed ({type(error).__name__}: {said}); finished jobs are "
            "in their folders"
        )
    elif isinstance(error, ValueError):  # Hydra raises it for window=10, or --cfg beside -m
        said = str(error).splitlines()[0]
        if "group override" in said:
            groups = [argument for argument in arguments if argument.partition("=")[0] in config_groups()]
            said += f": one of {', '.join(groups)}" if groups else ""
        found = ConfigError(said)
    if found is not error:
        found.__cause__ = error
    return found


def _came_through_a_launcher(error: Exception) -> bool:
    """Whether a launcher's plugin raised it: a lost worker, no cluster. Errors of jobs come another way."""
    frames = traceback.walk_tb(error.__traceback__)
    # Only launchers: a sweeper's error is not a worker's.
    return any(
        re.match(r"hydra_plugins\.\w*_launcher\b", frame.f_globals.get("__name__", "")) for frame, _ in frames
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Print nothing, in a process that is not the first of its run."""
    root, handler = logging.getLogger(), logging.NullHandler()
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nothing,
        redirect_stdout(nothing),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        warnings.showwarning = lambda *_, **__: None  # whatever filters a library adds
        root.addHandler(handler)  # without any, logging prints warnings on standard error
        try:
            yield
        finally:
            root.removeHandler(handler)


def _for_one_of_many(arguments: list[str], process: Process) -> list[str]:
    """The command line of a process that a launcher started; only the first may make folders and files."""
    if is_sweep(arguments):
        raise ConfigError("-m starts the processes of each job itself: run a sweep without a launcher")
    if process.first:
        return arguments
    # The folder "." exists already, and a log configuration without handlers opens no file.
    folder = ["hydra.run.dir=.", "hydra.callbacks.check_first.own_folder=false", "hydra.output_subdir=null"]
    return append(arguments, [*folder, "hydra/job_logging=none"])


def _mark_console_lines() -> None:
    """Begin each line on the console with the number of its job; the log files of jobs need no mark."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, ConsoleHandler):
            handler.mark = f"#{HydraConfig.get().job.num} "


def _check_flags(arguments: list[str], flags: Collection[str]) -> None:
    """Refuse unknown flags here: Hydra's own parser would print its usage, which lacks our flags."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("overrides", nargs="*")
    for names, how in HYDRA_FLAGS.items():
        parser.add_argument(*names, **how)
    try:
        _, unknown = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ConfigError(str(error)) from error
    if not unknown:
        return
    if not unknown[0].startswith("-"):
        raise ConfigError(f"{unknown[0]}: all overrides must stand on one side of -m and other flags")
    flag = unknown[0].partition("=")[0]
    known = [*flags, *(name for names in HYDRA_FLAGS for name in names)]
    raise ConfigError(f"unknown flag {flag}{nearest(flag, known)} (--help shows all flags)")
