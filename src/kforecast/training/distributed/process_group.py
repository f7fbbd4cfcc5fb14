"""The processes of one training as a group: joined early, so that only the first one reads and writes."""

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
# How long one process may be busy alone (a long fetch, judging) before the others give up.
_PATIENCE = timedelta(hours=1)
_FAREWELL = timedelta(seconds=10)


def check_devices(trainer: TrainerSection) -> None:
    """Refuse GPUs that this machine does not have.

    Raises
    ------
    ConfigError
        Naming the number asked for and that found.
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
    """Meet the other processes of the run; returns what Lightning needs to know of the launcher.

    None when there is but one process. Host tensors travel by gloo, those on GPUs by NCCL.

    Raises
    ------
    ConfigError
        When the launcher has not said what is needed.
    TrainingError
        When the others cannot be met.
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
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address, str(port)
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(process.local % torch.cuda.device_count())
    log.info("%d processes work together; waiting for all of them at %s:%d", process.count, address, port)
    try:
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
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
        return KubeflowEnvironment()  # one process a pod
    try:
        return SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:
        raise ConfigError(f"srun: {' '.join(str(error).split())}") from error


def first(make: Callable[[], T]) -> T:
    """Call ``make`` in the first process only; all get what it returned, by pickle.

    When it raises, the other processes end without a word, with the exit code of that error.
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
    """End a process that is not the first, after an error: without a word when the first ends as well.

    Returns for an error that nobody foresaw, to be raised.

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
    """The error itself, or one in plain words when it only says that another process has ended."""
    if not _lost(error):
        return error
    said = TrainingError("another process of the run has ended; what it has said tells why")
    said.__cause__ = error
    return said


def end_at_once(code: object, alone: bool) -> None:
    """End a training that failed or was told to end; returns in all other cases.

    Python's own way out destroys a group of processes, which waits for exchanges that will never be finished,
    or aborts. Behind torch it takes a second on a busy machine, which someone may be waiting for.

    Parameters
    ----------
    alone:
        Whether no jobs of a sweep run in processes that this one has started.
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
    """Wait until the first process has ended, whose exit code counts; False when it goes on."""
    import torch

    try:
        # It sends nothing: this ends with its connection.
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
