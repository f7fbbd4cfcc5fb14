"""A refused command leaves nothing on disk.

Everything that needs no data is checked before Hydra creates or writes anything. When the data turns out to
be bad, the run folder is removed again.
"""

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal, NoReturn, cast

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import env_override
from hydra.experimental.callback import Callback
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from kforecast.config.compose import hydra_config_kept
from kforecast.config.overrides import quote
from kforecast.errors import KforecastError, OutputError, exit_code, ours
from kforecast.files.run_folder import RunFolder

Check = Callable[[DictConfig], object]

# Jobs of a sweep that are checked at most; a sweep of more jobs starts even if none of them can.
_MOST_JOBS = 32
# Written before the first result of a run. A fetched history, a report or a model keeps the folder.
_PREPARATIONS = ("result.json", "data_summary.csv", "tensorboard", "csv")


@dataclass
class Command:
    """The command that this process runs.

    Attributes
    ----------
    check:
        Checks the composed configuration as far as that needs no data.
    folder:
        The run folder that the command has made.
    preparations:
        Names in that folder that are worth nothing without a result.
    refusal:
        The error for which Hydra was stopped before it wrote anything.
    """

    check: Check | None = None
    folder: RunFolder | None = None
    preparations: frozenset[str] = frozenset()
    refusal: Exception | None = None

    def refuse(self, error: Exception) -> NoReturn:
        """Stop Hydra from inside a callback.

        Raises
        ------
        SystemExit
            Always: Hydra turns any other exception of a callback into a warning.
        """
        self.refusal = error
        raise SystemExit(exit_code(error)) from error

    def leave_nothing(self) -> None:
        """Remove the run folder that this command has made, unless it holds a result."""
        if self.folder is not None:
            self.folder.remove(self.preparations)


# Hydra creates its callbacks by itself and passes them only the configuration: CheckFirst finds the command
# here, and nothing else reads it.
_running: ContextVar[Command] = ContextVar("_running")


@contextmanager
def running(command: Command) -> Iterator[None]:
    """Let :class:`CheckFirst` serve this command inside the block."""
    token = _running.set(command)
    try:
        yield
    finally:
        _running.reset(token)


class CheckFirst(Callback):
    """Hydra's callback (``hydra.callbacks`` of every verb) that checks before a folder is made.

    Parameters
    ----------
    own_folder:
        Whether a run or a sweep needs a folder of its own. One whose name is the time gets a number behind
        it when another command has started in the same second.
    """

    def __init__(self, own_folder: bool = False) -> None:
        self._own_folder = own_folder

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Check, then make the run folder.

        Raises
        ------
        SystemExit
            When the check fails; :attr:`Command.refusal` is its error.
        """
        command = _running.get(Command())
        try:
            # Resolved as Hydra will when it starts the run, so that everything gets the same values.
            folder = RunFolder(_place(config, "hydra.run.dir"))
            folder.check()
            if command.check is not None and not config.hydra.job.chdir:
                _check(command.check, config)
            preparations = {f"{config.hydra.job.name}.log", *_PREPARATIONS}
            if config.hydra.output_subdir is not None:
                preparations.add(str(config.hydra.output_subdir))
            command.preparations = frozenset(preparations)
            if self._own_folder:
                folder = _taken(config, "run")
            else:
                folder.share()
            command.folder = folder
        except Exception as error:
            command.refuse(error)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Check that at least one job of a sweep can start; a bad job among good ones fails on its own.

        Raises
        ------
        SystemExit
            When no job can start, or another sweep uses the folder; :attr:`Command.refusal` is the error.
        """
        command, sweeper = _running.get(Command()), str(config.hydra.sweeper._target_)
        searches = sweeper.endswith("_search.Search")
        # Only the sweeper itself knows the jobs of another plugin.
        if command.check is not None and (searches or sweeper.endswith(".BasicSweeper")):
            self._check_jobs(command, command.check, config, searches)
        if self._own_folder and not searches:  # a search locks its folder itself
            try:
                command.folder = _taken(config, "sweep")
            except Exception as error:
                command.refuse(error)

    @staticmethod
    def _check_jobs(command: Command, check: Check, config: DictConfig, searches: bool) -> None:
        problem: Exception | None = None
        try:
            jobs = _points(config) if searches else _jobs(config)
        except KforecastError as error:
            command.refuse(error)
        for number, overrides in enumerate(islice(jobs, _MOST_JOBS)):
            try:
                with hydra_config_kept():
                    _check_job(check, config, number, overrides)
            except Exception as error:
                if ours(error) is None:
                    command.refuse(error)
                problem = problem or error
            else:
                return
        if problem is not None and len(jobs) <= _MOST_JOBS:
            tried = f"{len(jobs)} points of the search space" if searches else f"{len(jobs)} jobs"
            command.refuse(_of_all(problem, len(jobs), tried))


def _check_job(check: Check, config: DictConfig, number: int, overrides: Sequence[str]) -> None:
    job = GlobalHydra.instance().config_loader().load_sweep_config(config, list(overrides))
    with open_dict(job):
        job.hydra.job.id, job.hydra.job.num = str(number), number
    _place(job, "hydra.sweep.dir", "hydra.sweep.subdir")
    if not job.hydra.job.chdir:
        _check(check, job)


def _taken(config: DictConfig, kind: Literal["run", "sweep"]) -> RunFolder:
    """Take the folder of ``hydra.run.dir`` or ``hydra.sweep.dir``, and make a new name known to Hydra.

    Raises
    ------
    OutputError
        When another run uses the folder.
    """
    key = f"hydra.{kind}.dir"
    of_kind = cast(dict[str, Any], OmegaConf.to_container(config.hydra[kind], resolve=False))
    by_clock = "${now:" in str(of_kind["dir"])
    given = any(override.startswith(f"{key}=") for override in config.hydra.overrides.hydra)
    named = str(OmegaConf.select(config, key))
    for number in count(1):
        place = named if number == 1 else f"{named.rstrip('/')}-{number}"
        folder = RunFolder(Path(os.path.abspath(place)))  # noqa: PTH100
        if folder.take(new=by_clock and not given):
            break
        if not by_clock:
            raise OutputError(f"{key}: another run is using {place}; wait for it, or name another folder")
    if place != named:
        with read_write(config.hydra):
            OmegaConf.update(config, key, place)
            # Jobs of a sweep are composed again, from the overrides.
            config.hydra.overrides.hydra.append(f"{key}={quote(place)}")
        if kind == "run":
            _place(config, key)
    return folder


def _place(config: DictConfig, *keys: str) -> Path:
    """The folder of a run or job, made known to Hydra's own configuration."""
    HydraConfig.instance().set_config(config)
    folder = Path(os.path.abspath(Path(*(str(OmegaConf.select(config, key)) for key in keys))))  # noqa: PTH100
    with read_write(config.hydra.runtime), open_dict(config.hydra.runtime):
        config.hydra.runtime.output_dir = str(folder)
    HydraConfig.instance().set_config(config)
    return folder


def _check(check: Check, config: DictConfig) -> None:
    cfg = copy.deepcopy(config)
    with read_write(cfg), open_dict(cfg):
        del cfg["hydra"]
    with env_override(config.hydra.job.env_set):
        check(cfg)


def _jobs(config: DictConfig) -> Sequence[Sequence[str]]:
    """The overrides of each job of a sweep."""
    given = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    # Unresolved: the user's text may contain something that looks like an interpolation.
    given += cast(list[str], OmegaConf.to_container(config.hydra.overrides.task, resolve=False))
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    sweeper: Any = get_class(config.hydra.sweeper._target_)
    jobs: list[list[str]] = sweeper.split_arguments(parser.parse_overrides(given), None)[0]
    return jobs


def _points(config: DictConfig) -> Sequence[Sequence[str]]:
    """The overrides of some jobs that a search could run."""
    from kforecast.training.sweeps.search import Search

    given = cast(list[str], OmegaConf.to_container(config.hydra.overrides.task, resolve=False))
    return Search(config, given).possible_jobs()


def _of_all(problem: Exception, count: int, tried: str) -> Exception:
    found = ours(problem)
    if found is None or count == 1:
        return problem
    said: KforecastError = type(found)(f"none of the {tried} can start; the first: {found}")
    said.__cause__ = problem
    return said
