"""Which process of a run this is, and how a run on one machine starts its processes.

This module imports Hydra and torch only to start processes.
"""

import ctypes
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from kforecast.console import no_log_lines
from kforecast.errors import ConfigError, KforecastError

# Tells a process the id of the kforecast-train that started it: torch's launcher has no other channel.
STARTED_BY = "KFORECAST_STARTED_BY"
INTERRUPTED, TERMINATED = 130, 143


@dataclass(frozen=True)
class Process:
    """One process of a run.

    Attributes
    ----------
    number:
        The rank, counted from 0 over all machines; process 0 reads, reports and writes for all.
    count:
        The processes of all machines; 1 without a launcher.
    local:
        The rank on its machine, counted from 0.
    """

    number: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether it reports and writes for all."""
        return self.number == 0


def this_process() -> Process:
    """This process, as torchrun, Kubeflow (RANK, WORLD_SIZE, LOCAL_RANK) or srun (SLURM_PROCID, ...) sets it.

    Raises
    ------
    ConfigError
        When a variable is not a number.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    # A command that a batch script or an interactive shell of SLURM starts without srun runs alone.
    by_srun = "SLURM_STEP_ID" in os.environ
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")
    if "RANK" not in os.environ and "SLURM_PROCID" in os.environ and by_srun and not interactive:
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    number, count, local = (_number(name, default) for name, default in zip(names, (0, 1, 0), strict=True))
    return Process(number, count, local) if count > 1 else Process()


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise ConfigError(f"{variable}={text} in the environment, where launchers put a number; unset it")
    return int(text)


def started_by() -> str | None:
    """The process id of the kforecast-train that started this process; None if the user started it."""
    return os.environ.get(STARTED_BY)


def end_with_launcher() -> None:
    """Let the kernel terminate this process when the kforecast-train that started it dies (Linux only).

    Raises
    ------
    SystemExit
        When it has died already.
    """
    starter = started_by()
    if starter is None or not sys.platform.startswith("linux"):
        return
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG, see prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if str(os.getppid()) != starter:  # it died before we asked
        raise SystemExit(TERMINATED)


def start(count: int, module: str, arguments: Sequence[str]) -> int:
    """Start ``count`` processes ``python -m module arguments`` on this machine and wait for them.

    When one fails, the others are terminated. When this process is interrupted or terminated, all are.

    Returns
    -------
    The exit code of the first process if it failed, else that of another.

    Raises
    ------
    KeyboardInterrupt, SystemExit
        When a signal came; all processes have ended then.
    """
    from hydra.core.utils import env_override
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any free port
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        # Ctrl-C stays KeyboardInterrupt here. The processes then get SIGTERM, on which they end at any time
        # without a traceback.
        signals_to_handle="SIGTERM,SIGHUP",
    )
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        # The processes report for themselves; the launcher's own log repeats it.
        with env_override({STARTED_BY: str(os.getpid())}), no_log_lines():
            elastic_launch(config, sys.executable)("-m", module, *arguments)
    except ChildFailedError as error:
        return _exit_code({number: failure.exitcode for number, failure in error.failures.items()})
    except SignalException as error:
        raise SystemExit(128 + error.sigval) from error
    finally:
        for number, handler in handlers.items():  # which the launcher has replaced
            signal.signal(number, handler)
    return 0


def _exit_code(codes: dict[int, int]) -> int:
    """The exit code of a run whose processes failed with these; terminated processes count last."""
    by_signal = {number: code for number, code in codes.items() if code < 0 or code == TERMINATED}
    own = {number: code for number, code in codes.items() if number not in by_signal}
    if own:
        return own[min(own)]
    number, code = min(
        by_signal.items(), key=lambda item: (item[1] in (TERMINATED, -signal.SIGTERM), item[0])
    )
    if code in (TERMINATED, -signal.SIGTERM):
        return TERMINATED
    name = signal.Signals(-code).name
    why = "; was memory short?" if name == "SIGKILL" else ""
    print(f"error: process {number} of the run was ended by {name}{why}", file=sys.stderr)
    return KforecastError.exit_code
