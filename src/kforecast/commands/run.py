"""How every command runs: our flags in front of Hydra, one line and an exit code behind it."""

import argparse
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Collection
from contextlib import nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from types import FrameType

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from kforecast.commands.check_first import Check, Refused, begin, leave_nothing
from kforecast.config.checks import CONF_DIR
from kforecast.config.explain import _groups, explain
from kforecast.config.job import runs_beside_others
from kforecast.config.legacy_cli import FLAGS, translate, without_flags
from kforecast.config.overrides import append, is_sweep
from kforecast.config.secrets import check_arguments
from kforecast.console import ConsoleHandler
from kforecast.errors import BAD_INPUT, ConfigError, KforecastError, ours
from kforecast.training.distributed.processes import (
    INTERRUPTED,
    STARTED_BY,
    TERMINATED,
    Process,
    end_with_launcher,
    this_process,
)
from kforecast.validation import nearest

# Characters of a line of an error; what is longer quotes something that is of no use to anyone.
_WIDEST = 4000


def run(
    task: Callable[[DictConfig], object],
    config_name: str,
    flags: Collection[str] = tuple(FLAGS),
    together: bool = False,
    prepare: Callable[[list[str]], tuple[list[str], str]] | None = None,
    check: Check | None = None,
) -> int:
    """Run a command as a whole: ``sys.argv`` in, exit code out.

    One that is refused for its input leaves nothing behind.

    Parameters
    ----------
    task:
        The verb, given the composed configuration.
    config_name:
        Its primary config in ``conf/``.
    flags:
        The flags of :data:`kforecast.config.legacy_cli.FLAGS` that it takes.
    together:
        Whether the processes that a launcher starts are one run: all but the first then print and write
        nothing. Of a machine without the first one, one process still says its errors.
    prepare:
        Changes the command line before anything else, and says which primary config is to be composed.
    check:
        What the verb can check without data, given the composed configuration: before anything is written.
    """
    begin(check)
    code: object = None
    try:
        code = _run(task, config_name, flags, together, prepare)
    except SystemExit as ended:
        code = ended.code
        raise
    finally:
        if code == BAD_INPUT:
            leave_nothing()
    return code


def _run(
    task: Callable[[DictConfig], object],
    config_name: str,
    flags: Collection[str],
    together: bool,
    prepare: Callable[[list[str]], tuple[list[str], str]] | None,
) -> int:
    process = Process()
    signal.signal(signal.SIGTERM, _terminate)
    # Threads that spin for long while they wait for each other slow each other down on a busy machine, or one
    # with a CPU quota. Torch's library reads this when it is loaded.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Kept for processes that this one may start, which see what we set here for ourselves.
    said = os.environ.setdefault("KFORECAST_FULL_ERROR", os.environ.get("HYDRA_FULL_ERROR", "0"))
    wants_traceback = said == "1"
    # Makes Hydra hand errors on instead of printing them: they become our message and our exit code.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    if "COMP_LINE" in os.environ:  # the shell asks for completions of it
        os.environ["COMP_LINE"] = without_flags(os.environ["COMP_LINE"])
    try:
        if together:
            end_with_launcher()
            process = this_process()
        if not process.first:
            _be_silent()
        # Whoever started this process has had its warnings already.
        repeated = not process.first or STARTED_BY in os.environ
        primary = config_name
        if prepare is not None:
            sys.argv[1:], primary = prepare(sys.argv[1:])
        with redirect_stderr(StringIO()) if repeated else nullcontext():
            sys.argv[1:] = translate(sys.argv[1:], flags, config_name)
        check_arguments(sys.argv[1:])
        _check_flags(sys.argv[1:], flags)
        if process.count > 1:
            sys.argv[1:] = _for_one_of_many(sys.argv[1:], process)
        failure = _run_hydra(task, primary)
        if failure is not None:
            raise failure
    except (KforecastError, HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        found = ours(error) or explain(error, config_name)
        if process.first or process.local == 0:
            print(_printable(f"error: {found}"), file=sys.stderr)
        return found.exit_code
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return KforecastError.exit_code
    except OSError as error:
        if wants_traceback:
            raise
        print(_printable(f"error: {error}"), file=sys.stderr)
        return KforecastError.exit_code
    except KeyboardInterrupt:
        if process.first:
            print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _printable(message: str) -> str:
    """A message that may quote anything, fit for a terminal: no control characters, no endless lines."""
    lines = (
        "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line[: _WIDEST + 1])
        for line in message.split("\n")
    )
    return "\n".join(line if len(line) <= _WIDEST else f"{line[:_WIDEST]} ..." for line in lines)


def _run_hydra(task: Callable[[DictConfig], object], config_name: str) -> Exception | None:
    """Run the task under Hydra; its error is returned: Hydra prints words of its own over a raised one."""
    failures: list[Exception] = []

    def guarded(cfg: DictConfig) -> object:  # a launcher pickles it, so that it may run in another process
        if runs_beside_others():
            _mark_console_lines()
        try:
            return task(cfg)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise
            failures.append(error)
            return None

    try:
        hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=config_name)(guarded)()
    except Refused as refused:
        return refused.error
    except Exception as error:
        if _came_through_a_launcher(error):
            said = next((line.strip() for line in str(error).splitlines() if line.strip()), "no word why")
            raise KforecastError(
                f"the launcher of the sweep failed ({type(error).__name__}: {said}); what is finished is in "
                "the folders of the jobs"
            ) from error
        if isinstance(error, ValueError):  # what Hydra raises for window=10 or --cfg beside -m
            said = str(error).splitlines()[0]
            if "group override" in said:
                groups = [argument for argument in sys.argv[1:] if argument.partition("=")[0] in _groups()]
                said += f": one of {', '.join(groups)}" if groups else ""
            raise ConfigError(said) from error
        raise
    return failures[0] if failures else None


def _be_silent() -> None:
    """Print nothing, in a process that is not the first of its run."""
    sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
    logging.getLogger().addHandler(logging.NullHandler())
    warnings.simplefilter("ignore")
    warnings.showwarning = lambda *_, **__: None


def _for_one_of_many(arguments: list[str], process: Process) -> list[str]:
    """The command line of a process that a launcher started; only the first may make folders and files."""
    if is_sweep(arguments):
        raise ConfigError("-m starts the processes of each job itself: run a sweep without a launcher")
    if process.first:
        return arguments
    # "." is there already. The log's configuration without handlers opens no file.
    return append(arguments, ["hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none"])


def _came_through_a_launcher(error: Exception) -> bool:
    """Whether a launcher's plugin raised it: a lost worker, no cluster. A job's own comes another way."""
    frames = traceback.walk_tb(error.__traceback__)
    # Of plugins, launchers alone: a sweeper's error is not a worker's.
    return any(
        re.match(r"hydra_plugins\.\w*_launcher\b", frame.f_globals.get("__name__", "")) for frame, _ in frames
    )


def _mark_console_lines() -> None:
    """Say in every line on the console which job it is of; their log files need no mark."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, ConsoleHandler):
            handler.mark = f"#{HydraConfig.get().job.num} "


def _check_flags(arguments: list[str], flags: Collection[str]) -> None:
    """Refuse what Hydra's own parser would, which prints its usage (without our flags) instead of a line."""
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        _, unknown = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ConfigError(str(error)) from error
    if not unknown:
        return
    if not unknown[0].startswith("-"):
        raise ConfigError(f"{unknown[0]}: all overrides must stand on one side of -m and other flags")
    flag = unknown[0].partition("=")[0]
    known = [*flags, *(option for action in parser._actions for option in action.option_strings)]
    raise ConfigError(f"unknown flag {flag}{nearest(flag, known)} (--help shows all flags)")


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise SystemExit(TERMINATED)
