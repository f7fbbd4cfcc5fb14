"""A refused command leaves nothing behind.

What needs no data is checked before Hydra makes or writes anything. The folder of a run whose data turns out
to be bad is taken away again.
"""

import copy
import os
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import env_override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from kforecast.errors import KforecastError, ours
from kforecast.files.run_folder import RunFolder

Check = Callable[[DictConfig], object]

# Of a sweep without a good job among the first so many, the others are left to the sweep.
_MOST_JOBS = 32
# What a run writes before there is anything of worth: no history that was fetched, no report, no model.
_PREPARATIONS = ("result.json", "data_summary.csv", "tensorboard", "csv")


class Refused(BaseException):
    """Carries an error past Hydra, which only warns of what a callback raises."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Command:
    """The command that this process runs."""

    def __init__(self) -> None:
        self.check: Check | None = None
        self.folder: RunFolder | None = None
        self.preparations: set[str] = set()


_command = _Command()


def begin(check: Check | None) -> None:
    """Say what to check of the command that begins."""
    _command.check, _command.folder = check, None


def leave_nothing() -> None:
    """Take away the run folder that this command has made, if it holds nothing of worth."""
    if _command.folder is not None:
        _command.folder.remove(_command.preparations)


class CheckFirst(Callback):
    """Hydra's callback (``hydra.callbacks`` of every verb) that checks before a folder is made."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Check, then make the run folder.

        Raises
        ------
        Refused
            With what the check has raised.
        """
        try:
            # As Hydra does it when it starts the run, so that everything resolves to the same values.
            folder = RunFolder(_place(config, "hydra.run.dir"))
            folder.check()
            if _command.check is not None and not config.hydra.job.chdir:
                _check(_command.check, config)
            _command.preparations = {f"{config.hydra.job.name}.log", *_PREPARATIONS}
            if config.hydra.output_subdir is not None:
                _command.preparations.add(str(config.hydra.output_subdir))
            folder.make()
            _command.folder = folder
        except Exception as error:
            raise Refused(error) from error

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Check that there is a job that could start; a bad one among good ones only fails in the table.

        Raises
        ------
        Refused
            When there is none, with what is wrong with the first.
        """
        if _command.check is None:
            return
        problem: Exception | None = None
        sweeper = str(config.hydra.sweeper._target_)
        searches = sweeper.endswith("_search.Search")
        if not searches and not sweeper.endswith(".BasicSweeper"):
            return  # only the sweeper itself knows what its jobs will be
        try:
            jobs = _points(config) if searches else _jobs(config)
        except KforecastError as error:
            raise Refused(error) from error
        before = HydraConfig.instance().cfg
        for number, overrides in enumerate(islice(jobs, _MOST_JOBS)):
            try:
                job = GlobalHydra.instance().config_loader().load_sweep_config(config, list(overrides))
                with open_dict(job):
                    job.hydra.job.id, job.hydra.job.num = str(number), number
                _place(job, "hydra.sweep.dir", "hydra.sweep.subdir")
                if not job.hydra.job.chdir:
                    _check(_command.check, job)
            except Exception as error:
                if ours(error) is None:
                    raise Refused(error) from error
                problem = problem or error
            else:
                return
            finally:
                HydraConfig.instance().cfg = before
        if problem is not None and len(jobs) <= _MOST_JOBS:
            tried = f"{len(jobs)} points of the search space" if searches else f"{len(jobs)} jobs"
            raise Refused(_of_all(problem, len(jobs), tried))


def _place(config: DictConfig, *keys: str) -> Path:
    """The folder of a run or job, which Hydra's own configuration then knows."""
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
    # Unresolved: a user's text may hold what looks like an interpolation.
    given += cast(list[str], OmegaConf.to_container(config.hydra.overrides.task, resolve=False))
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    jobs: list[list[str]] = BasicSweeper.split_arguments(parser.parse_overrides(given), None)[0]
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
