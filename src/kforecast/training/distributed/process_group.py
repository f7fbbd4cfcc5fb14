"""The process group of one training, joined early so that only the first process reads and writes."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, cast

from kforecast.errors import ConfigError, TrainingError, exit_code, ours
from kforecast.training.distributed.processes import this_process

if TYPE_CHECKING:
    from lightning.fabric.plugins import ClusterEnvironment

    from kforecast.config.settings import TrainerSection

log = logging.getLogger(__name__)

T = TypeVar("T")
# How long the others wait for a process that works alone (a long fetch, the evaluation).
_PATIENCE = timedelta(hours=1)
_FAREWELL = timedelta(seconds=10)


def check_devices(trainer: TrainerSection) -> None:
    """Check that this machine has the GPUs that the settings ask for.

    Raises
    ------
    ConfigError
        When it has fewer.
    """
    wanted = trainer.accelerator in ("gpu", "cuda", "mps")
    if not wanted and (trainer.accelerator != "auto" or trainer.devices == 1):
        return  # without importing torch
    import torch

    found = torch.cuda.device_count() or int(torch.backends.mps.is_available())
    if wanted and not found:
        raise ConfigError(
            f"trainer.accelerator: {trainer.accelerator}, but torch finds no GPU on this machine; use auto, "
            "which takes one when there is one, or cpu"
        )
    if 0 < found < trainer.devices:
        raise ConfigError(
            f"trainer.devices: {trainer.devices} processes want a GPU each, and this machine has {found}; "
            f"set trainer.devices={found}, or trainer.accelerator=cpu"
        )


def join(accelerator: str) -> ClusterEnvironment | None:
    """Join the process group of the run: gloo for tensors on the host, NCCL for those on GPUs.

    Returns
    -------
    The launcher's environment, for Lightning; None when the run has only one process.

    Raises
    ------
    ConfigError
        When the launcher's environment variables are incomplete.
    TrainingError
        When the other processes cannot be reached.
    """
    process = this_process()
    if process.count == 1:
        return None
    import torch

    environment = _environment()
    try:
        address, port = environment.main_address, environment.main_port
    except KeyError as error:
        raise ConfigError(f"{error.args[0]} is not in the environment; launchers put it there") from error
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(process.local % torch.cuda.device_count())
    log.info("%d processes work together; waiting for all of them at %s:%d", process.count, address, port)
    try:
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            init_method=f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}",
            rank=process.number,
            world_size=process.count,
            timeout=_PATIENCE,
        )
    except (RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise TrainingError(f"the other processes cannot be met at {address}:{port}: {said}") from error
    return environment


def _environment() -> ClusterEnvironment:
    from lightning.fabric.plugins.environments.kubeflow import KubeflowEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if "LOCAL_RANK" in os.environ:
        return TorchElasticEnvironment()
    if "RANK" in os.environ:
        return KubeflowEnvironment()  # one process per pod
    try:
        return SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:
        raise ConfigError(f"srun: {' '.join(str(error).split())}") from error


def first(make: Callable[[], T]) -> T:
    """Call ``make`` in the first process only; all processes get its result, pickled.

    Raises
    ------
    SystemExit
        In the other processes, when ``make`` raises: with the exit code of its error.
    """
    process = this_process()
    if process.count == 1:
        return make()
    if process.first:
        try:
            made = make()
        except Exception as error:
            _share((None, exit_code(error)))
            raise
        _share((made, None))
        return made
    content, code = _share(None)
    if code is not None:
        _outlive_first()
        raise SystemExit(code)
    return cast(T, content)


def _share(content: tuple[object, int | None] | None) -> tuple[object, int | None]:
    import torch

    box = [content]
    torch.distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    assert box[0] is not None
    return box[0]


def leave(error: Exception) -> None:
    """End a process that is not the first, after an error; print it only if the first does not end as well.

    Returns when the error is unforeseen, so that the caller raises it.

    Raises
    ------
    SystemExit
        With the error's exit code.
    """
    ended_elsewhere = _lost(error)
    code = TrainingError.exit_code if ended_elsewhere else exit_code(error)
    if not _joined() or code == 1:
        return
    if not _outlive_first():
        said = "another process of the run has ended" if ended_elsewhere else str(ours(error) or error)
        print(f"error: process {this_process().number}: {said}", file=sys.stderr)
    raise SystemExit(code)


def explained(error: Exception) -> Exception:
    """The error itself; a plain one instead if it only reports a lost connection to another process."""
    if not _lost(error):
        return error
    said = TrainingError("another process of the run has ended; what it has said tells why")
    said.__cause__ = error
    return said


def end_at_once(code: object, alone: bool) -> None:
    """End this process now if its training failed or was terminated; return otherwise.

    Python's own exit destroys the process group, which waits for exchanges that never finish, or aborts. With
    torch loaded it takes a second on a busy machine, while the user waits.

    Parameters
    ----------
    code:
        The exit code; 0 and None stand for success.
    alone:
        Whether this process has started no processes for jobs of a sweep.
    """
    if isinstance(code, int) and code and "torch" in sys.modules and (alone or _joined()):
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _joined() -> bool:
    if this_process().count == 1:
        return False
    import torch

    return torch.distributed.is_initialized()


def _outlive_first() -> bool:
    """Wait until the first process has ended, because its exit code counts; False if it continues."""
    import torch

    try:
        # The first process never sends: this returns when its connection closes.
        farewell = torch.distributed.irecv(torch.zeros(1), src=0)
        assert farewell is not None
        farewell.wait(timeout=_FAREWELL)
    except RuntimeError as error:
        return "timed out" not in str(error).lower()
    return False


def _lost(error: Exception) -> bool:
    if not isinstance(error, RuntimeError) or not _joined():
        return False
    import torch

    return isinstance(error, torch.distributed.DistError) or any(n in str(error) for n in ("gloo", "NCCL"))
