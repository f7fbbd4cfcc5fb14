"""A search that survives a kill: it repeats no trial in its storage and resumes interrupted ones.

The job of a trial has the trial's number. Each trial has its own seed, so that the next proposal depends only
on the results so far, not on where the search was interrupted.
"""

import logging
import math
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, open_dict

from kforecast.config.checks import built
from kforecast.config.differences import differences, flat
from kforecast.config.secrets import without_secrets
from kforecast.config.settings import SweeperSection
from kforecast.console import short_path
from kforecast.errors import ConfigError, OutputError, TrainingError, few
from kforecast.files.directory import make_directories
from kforecast.files.lock import has_writer, sole_writer
from kforecast.training.result import read_result, values_of
from kforecast.validation import validate

try:
    import optuna
    from optuna.samplers import BaseSampler, CmaEsSampler, RandomSampler
    from optuna.trial import FrozenTrial, TrialState

    from kforecast.training.sweeps.space import Space, grid_of, read_space
except ImportError as error:
    raise ConfigError("searches need a package: pip install 'kforecast[optuna]'") from error

# Attribute of the study that holds its settings.
_SETTINGS = "settings"
# Settings that may differ between starts, because no result depends on them.
_FREE = ("resume", "repeat", "threads", "checkpoint_seconds", "data.num_workers", "logger")
_TRIED = 8
_ANOTHER = "name another study: hydra.sweeper.study_name=NAME"


@contextmanager
def _silent() -> Iterator[None]:
    """Hide Optuna's warnings about experimental arguments and adjusted ranges."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Search:
    """A study that runs until it has ``n_trials`` finished trials in all.

    Parameters
    ----------
    config:
        The common configuration of all trials, with ``hydra``.
    arguments:
        Overrides of the command; those with several values form the search space.

    Raises
    ------
    ConfigError
        When ``hydra.sweeper`` is wrong, or the search space cannot be read or is empty.
    """

    @_silent()
    def __init__(self, config: DictConfig, arguments: Sequence[str]) -> None:
        optuna.logging.set_verbosity(logging.ERROR)
        node = config.hydra.sweeper
        if node.storage is None or node.study_name is None:
            raise ConfigError("hydra.sweeper.storage, hydra.sweeper.study_name: a search needs both to go on")
        sweeper = validate(SweeperSection, OmegaConf.to_container(node, resolve=True), "hydra.sweeper")
        aims = [config.objective] if isinstance(config.objective, str) else list(map(str, config.objective))
        if len(sweeper.direction) != len(aims):
            raise ConfigError(
                f"hydra.sweeper.direction: {len(sweeper.direction)} for {len(aims)} aims "
                f"(objective={','.join(aims)}); one for each"
            )
        given = [f"{name}={value}" for name, value in (node.params or {}).items()]
        self.space, self.fixed = read_space([*given, *arguments])
        self._config, self._sweeper, self._folder = config, sweeper, Path(config.hydra.sweep.dir)
        grid = str(node.sampler.get("_target_")).endswith(".GridSampler")
        self._grid = grid_of(self.space) if grid else {}
        self._trials = sweeper.n_trials
        if grid:
            self._trials = min(self._trials, math.prod(map(len, self._grid.values())))
        self._sampler(0)

    def possible_jobs(self) -> list[list[str]]:
        """Overrides of a few random jobs that the search could run."""
        study = optuna.create_study(sampler=RandomSampler(seed=0))
        return [self._overrides(study.ask(self.space).params) for _ in range(_TRIED)]

    def run(self, launcher: Launcher) -> None:
        """Start or resume the study, and run it until it is complete.

        Raises
        ------
        ConfigError
            When the study was started with other settings, or by another version of Optuna.
        OutputError
            When another process runs the study, or its storage cannot be used.
        TrainingError
            When more trials fail than ``max_failure_rate`` allows.
        """
        with sole_writer(self._folder, f"the search (process {os.getpid()})"):
            make_directories(self._folder)
            study = self._open()
            try:
                self._complete(study, launcher)
            except (KeyboardInterrupt, SystemExit):
                where = short_path(self._folder)
                print(f"The search in {where} is interrupted; to go on, give the same command again")
                raise

    def _open(self) -> optuna.Study:
        name, storage, directions = self._sweeper.study_name, self._sweeper.storage, self._sweeper.direction
        try:
            study = optuna.create_study(
                study_name=name, storage=storage, directions=directions, load_if_exists=True
            )
            then, begun = study.user_attrs.get(_SETTINGS), study.get_trials(deepcopy=False)
        except RuntimeError as error:
            made = without_secrets(storage)
            raise ConfigError(
                f"hydra.sweeper.storage: another version of Optuna has made {made}; {_ANOTHER}"
            ) from error
        except Exception as error:  # from Optuna, SQLAlchemy or the database's driver
            problem = without_secrets(f"{storage} cannot be used: {str(error).splitlines()[0]}")
            raise OutputError(f"hydra.sweeper.storage: {problem}") from error
        now = _settings(self._config, self.space) | {"hydra.sweeper.direction": directions}
        if then is None:
            jobs = [path for path in self._folder.iterdir() if path.is_dir() and path.name.isdecimal()]
            if jobs or begun:
                what = "a study that kforecast did not start" if begun else "jobs of another sweep"
                raise ConfigError(f"{short_path(self._folder)}: holds {what}; {_ANOTHER}")
            study.set_user_attr(_SETTINGS, now)
        elif listed := differences(now, then, "the study"):
            raise ConfigError(
                f"the study {name} in {short_path(self._folder)} was begun with other settings; give the "
                f"same again, or {_ANOTHER}{listed}"
            )
        return study

    def _complete(self, study: optuna.Study, launcher: Launcher) -> None:
        trials = study.get_trials(deepcopy=False)
        left = [trial for trial in trials if trial.state == TrialState.RUNNING]
        if trials:
            self._say_state(len(trials), [str(trial.number) for trial in left])
        for trial in left:
            _wait_for(self._folder / str(trial.number))
            result = read_result(self._folder / str(trial.number))
            # The search was killed between the end of the trial and its report to the study.
            if result.get("status") in ("done", "rejected", "failed"):
                _tell(study, trial, values_of(result))
        interrupted = {trial.number for trial in left}
        while row := self._next(study):
            resume = [["resume=auto"] if trial.number in interrupted else [] for trial in row]
            jobs = [self._overrides(trial.params) + more for trial, more in zip(row, resume, strict=True)]
            returned = launcher.launch(jobs, initial_job_idx=row[0].number)
            good = [_tell(study, trial, _values(job)) for trial, job in zip(row, returned, strict=True)]
            if good.count(False) / len(row) > self._sweeper.max_failure_rate:
                raise TrainingError(
                    f"{good.count(False)} of {len(row)} trials failed (hydra.sweeper.max_failure_rate="
                    f"{self._sweeper.max_failure_rate}); see their logs in {self._folder}"
                )

    def _say_state(self, number: int, left: list[str]) -> None:
        study = f"the study {self._sweeper.study_name} in {short_path(self._folder)}"
        if left or number < self._trials:
            line = f"Going on with {study}: {number - len(left)} trials are finished"
            print(line + (f", interrupted: {few(left)}" if left else ""))
        else:
            more = "" if self._grid else f"; for ten more: hydra.sweeper.n_trials={number + 10}"
            print(f"T{study[1:]} is complete: {number} trials{more}")

    def _next(self, study: optuna.Study) -> list[FrozenTrial]:
        """The next trials to run, at most ``n_jobs``; none when the study is complete."""
        trials, size = study.get_trials(deepcopy=False), self._sweeper.n_jobs
        # An undisturbed search asks for whole rows of n_jobs trials: complete a row that a kill cut off.
        missing = size - len(trials) % size
        if missing < size or all(trial.state != TrialState.RUNNING for trial in trials):
            for number in range(len(trials), min(len(trials) + missing, self._trials)):
                self._ask(study, number)
        return first_row(study.get_trials(deepcopy=False, states=[TrialState.RUNNING]), size)

    @_silent()
    def _ask(self, study: optuna.Study, number: int) -> None:
        """Add a complete trial to the storage: a kill must not leave one with some of its parameters."""
        draft = optuna.create_study(directions=study.directions, sampler=self._sampler(number))
        draft.add_trials(study.get_trials(deepcopy=False))
        draft.ask(self.space)
        study.add_trial(draft.get_trials(deepcopy=False)[number])

    def _sampler(self, number: int) -> BaseSampler:
        """The sampler of one trial."""
        node, seed = self._config.hydra.sweeper.sampler, self._sweeper.sampler.seed
        arguments: dict[str, Any] = {}
        if self._grid:  # the same order in all trials
            arguments["search_space"] = self._grid
        elif seed is not None:
            arguments["seed"] = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        sampler = built(node, "hydra.sweeper.sampler", **arguments)
        if not isinstance(sampler, BaseSampler):
            raise ConfigError(f"hydra.sweeper.sampler: {node.get('_target_')!r} is not an Optuna sampler")
        if isinstance(sampler, CmaEsSampler) and find_spec("cmaes") is None:
            raise ConfigError("hydra/sweeper/sampler=cmaes needs a package: pip install cmaes")
        return sampler

    def _overrides(self, values: dict[str, Any]) -> list[str]:
        return [*(f"{name}={values[name]}" for name in self.space), *self.fixed]


def first_row(trials: Sequence[FrozenTrial], size: int) -> list[FrozenTrial]:
    """The first trials with consecutive numbers, at most ``size``: a launcher numbers its jobs that way."""
    return [trial for place, trial in enumerate(trials[:size]) if trial.number == trials[0].number + place]


def _wait_for(job: Path) -> None:
    """Wait for a job that has outlived the search, as a launcher's workers may and a cluster's do."""
    for waited in count():
        if not has_writer(job / "artifact"):
            return
        if not waited:
            print(f"Waiting for the job in {short_path(job)}, which is still at work")
        time.sleep(1)


def _values(job: Any) -> list[float]:
    """The returned values of a job; empty for a failed job, which has logged the reason."""
    try:
        found = job.return_value
        return [float(value) for value in (found if isinstance(found, list | tuple) else [found])]
    except Exception:
        return []


def _tell(study: optuna.Study, trial: FrozenTrial, values: list[float]) -> bool:
    """Store the values of a trial; return whether they are a result."""
    good = len(values) == len(study.directions) and all(map(math.isfinite, values))
    study.tell(trial.number, values if good else None, TrialState.COMPLETE if good else TrialState.FAIL)
    return good


def _settings(config: DictConfig, space: Space) -> dict[str, Any]:
    """The settings that the results depend on, by key; interpolations stay unresolved."""
    plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    with open_dict(plain):
        for name in _FREE:
            OmegaConf.update(plain, name, None, force_add=True)
    written = cast(dict[str, Any], OmegaConf.to_container(plain, resolve=False))
    common = {name: value for name, value in flat(written).items() if name not in space}
    return common | {f"the range of {name}": str(values) for name, values in space.items()}
