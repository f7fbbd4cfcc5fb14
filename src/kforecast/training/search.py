"""A search that survives: what is in its storage is not repeated, what was interrupted is taken up again.

The job of a trial has the trial's number. Each trial has a seed of its own, so that what is proposed depends
on the results alone and not on where the search was interrupted.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from kforecast.console import short_path
from kforecast.directory import has_writer, make_directories, sole_writer
from kforecast.errors import ConfigError, OutputError, TrainingError, few
from kforecast.secrets import without_secrets
from kforecast.training.launch import read_result, values_of

try:
    import optuna
    from hydra_plugins.hydra_optuna_sweeper._impl import (
        OptunaSweeperImpl,
        create_optuna_distribution_from_override,
    )
    from optuna.distributions import BaseDistribution
    from optuna.trial import TrialState
except ImportError as error:
    raise ConfigError("searches need a package: pip install 'kforecast[optuna]'") from error

_SETTINGS, _SPACE = "settings", "space"
# What may differ from start to start: it decides on no result.
_FREE = ("resume", "repeat", "threads", "checkpoint_seconds", "data.num_workers", "logger")
_TRIED = 8


class Search(OptunaSweeperImpl):
    """Hydra's Optuna sweeper, but ``n_trials`` are those of the study in all, and each is finished."""

    config: DictConfig
    launcher: Launcher

    def sweep(self, arguments: list[str]) -> None:
        """Go on with the study until it has ``n_trials`` trials.

        Raises
        ------
        ConfigError
            When the study was begun with other settings.
        OutputError
            When another process is at work on it, or its storage cannot be used.
        """
        folder = Path(self.config.hydra.sweep.dir)
        space, fixed = space_of(self.config, arguments)
        optuna.logging.set_verbosity(logging.WARNING)
        if self._grid(space):
            self.n_trials = min(self.n_trials, math.prod(map(len, self._grid(space).values())))
        with sole_writer(folder, f"the search (process {os.getpid()})"):
            make_directories(folder)
            study = self._open(folder, space)
            try:
                self._complete(study, folder, space, fixed)
            except (KeyboardInterrupt, SystemExit):
                where = short_path(folder)
                print(f"The search in {where} is interrupted; to go on, give the same command again")
                raise
            _write_best(study, folder)

    def _open(self, folder: Path, space: dict[str, BaseDistribution]) -> optuna.Study:
        directions = self._get_directions()
        try:
            study = optuna.create_study(
                study_name=self.study_name,
                storage=self.storage,
                directions=directions,
                load_if_exists=True,
            )
            attributes, begun = study.user_attrs, study.trials
        except Exception as error:  # of optuna, of SQLAlchemy and of the database's driver
            said = without_secrets(f"{self.storage} cannot be used: {str(error).splitlines()[0]}")
            raise OutputError(f"hydra.sweeper.storage: {said}") from error
        now = {
            _SETTINGS: _settings(self.config, space),
            _SPACE: {name: str(one) for name, one in space.items()},
            "direction": directions,
        }
        then = attributes | {"direction": [direction.name.lower() for direction in study.directions]}
        if _SETTINGS not in attributes:
            jobs = [path for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()]
            if jobs or begun:
                what = "a study that kforecast has not begun" if begun else "jobs of another sweep"
                raise ConfigError(
                    f"{short_path(folder)}: holds {what}; name another study: hydra.sweeper.study_name=NAME"
                )
            for name, value in now.items():
                study.set_user_attr(name, value)
        elif differing := list(_differences(now, then)):
            listed = "".join(f"\n  {line}" for line in differing)
            raise ConfigError(
                f"the study {self.study_name} in {short_path(folder)} was begun with other settings; give "
                f"the same again, or begin another study: hydra.sweeper.study_name=NAME{listed}"
            )
        return study

    def _complete(
        self, study: optuna.Study, folder: Path, space: dict[str, BaseDistribution], fixed: list[str]
    ) -> None:
        trials = study.get_trials(deepcopy=False)
        left = [trial for trial in trials if trial.state == TrialState.RUNNING]
        if trials:
            self._say_state(len(trials), [trial.number for trial in left], folder)
        interrupted = []
        for frozen in left:
            trial = self._suggest(study, optuna.Trial(study, frozen._trial_id), space)
            _wait_for(folder / str(frozen.number))
            result = read_result(folder / str(frozen.number))
            # The search was killed after the trial's end and before it was told.
            if result.get("status") in ("done", "rejected", "failed"):
                self._tell(study, trial, values_of(result))
            else:
                interrupted.append(trial)
        for trials_of_one_call in _in_rows(interrupted, self.n_jobs):
            self._run(study, trials_of_one_call, [*fixed, "resume=auto"])
        while (number := len(study.get_trials(deepcopy=False))) < self.n_trials:
            # As an uninterrupted search would have done it: the same trials at a time.
            size = min(self.n_trials - number, self.n_jobs - number % self.n_jobs)
            asked = [self._ask(study, number + more, space) for more in range(size)]
            self._run(study, asked, fixed)

    def _say_state(self, count: int, left: list[int], folder: Path) -> None:
        name, where = self.study_name, short_path(folder)
        if not left and count >= self.n_trials:
            print(
                f"The study {name} in {where} is complete: {count} trials; for ten more: "
                f"hydra.sweeper.n_trials={count + 10}"
            )
            return
        said = f"Going on with the study {name} in {where}: {count - len(left)} trials are finished"
        print(said + (f", interrupted: {few([str(number) for number in left])}" if left else ""))

    def _ask(self, study: optuna.Study, number: int, space: dict[str, BaseDistribution]) -> optuna.Trial:
        study.sampler = self._sampler(number, space)
        return self._suggest(study, study.ask(), space)

    def _suggest(
        self, study: optuna.Study, trial: optuna.Trial, space: dict[str, BaseDistribution]
    ) -> optuna.Trial:
        study.sampler = self._sampler(trial.number, space)
        for name, distribution in space.items():
            trial._suggest(name, distribution)  # what it has already stays
        return trial

    def _sampler(self, number: int, space: dict[str, BaseDistribution]) -> Any:
        node = self.config.hydra.sweeper.sampler
        if grid := self._grid(space):
            return self.sampler(grid)
        if (seed := node.get("seed")) is None:
            return self.sampler
        own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        return instantiate(node, seed=own)

    def _grid(self, space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """The values of each parameter; empty for samplers that do not go through a grid."""
        if not isinstance(self.sampler, partial):
            return {}
        try:
            return {name: list(self._to_grid_sampler_choices(one)) for name, one in space.items()}
        except ValueError as error:
            raise ConfigError(f"hydra/sweeper/sampler=grid: {error}") from error

    def _run(self, study: optuna.Study, trials: Sequence[optuna.Trial], fixed: list[str]) -> None:
        jobs = [(*(f"{name}={value}" for name, value in trial.params.items()), *fixed) for trial in trials]
        returned = self.launcher.launch(jobs, initial_job_idx=trials[0].number)
        failed = 0
        for trial, job in zip(trials, returned, strict=True):
            failed += not self._tell(study, trial, _values(job))
        if failed / len(trials) > self.max_failure_rate:
            raise TrainingError(
                f"{failed} of {len(trials)} trials failed (hydra.sweeper.max_failure_rate="
                f"{self.max_failure_rate}); see their logs in {self.config.hydra.sweep.dir}"
            )

    def _tell(self, study: optuna.Study, trial: optuna.Trial, values: list[float]) -> bool:
        """Put into the storage what a trial came to; whether it is a result."""
        good = len(values) == len(study.directions) and all(map(math.isfinite, values))
        try:
            study.tell(trial, values if good else None, TrialState.COMPLETE if good else TrialState.FAIL)
        except RuntimeError as error:
            if "Study.stop" not in str(error):  # what a grid says when it is through
                raise
        return good


def space_of(config: DictConfig, arguments: Sequence[str]) -> tuple[dict[str, BaseDistribution], list[str]]:
    """The search space by parameter, and the other overrides as typed.

    Raises
    ------
    ConfigError
        When it cannot be read, or there is nothing to search over.
    """
    sweeper = config.hydra.sweeper
    if sweeper.search_space or sweeper.custom_search_space:
        raise ConfigError("give the search space as hydra.sweeper.params={key: interval(low, high), ...}")
    if not str(sweeper.sampler.get("_target_")).startswith("optuna.samplers."):
        raise ConfigError(f"hydra.sweeper.sampler: {sweeper.sampler.get('_target_')!r} is none of Optuna's")
    if sweeper.storage is None or sweeper.study_name is None:
        raise ConfigError("hydra.sweeper.storage and hydra.sweeper.study_name: a search needs both to go on")
    directions = sweeper.direction if OmegaConf.is_list(sweeper.direction) else [sweeper.direction]
    aims = names_of(config.objective)
    if len(directions) != len(aims):
        raise ConfigError(
            f"hydra.sweeper.direction: {len(directions)} for {len(aims)} aims (objective={','.join(aims)}); "
            "one for each"
        )
    given = [f"{name}={value}" for name, value in (sweeper.params or {}).items()] + [*arguments]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    space: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    for text in given:
        try:
            override = parser.parse_override(text)
            name = override.get_key_element()
            space.pop(name, None)
            fixed.pop(name, None)
            if override.is_sweep_override():
                space[name] = create_optuna_distribution_from_override(override)
            else:
                fixed[name] = text
        except (HydraException, AssertionError, NotImplementedError, TypeError, ValueError) as error:
            said = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
            raise ConfigError(f"the search space: cannot read {text}: {said}") from error
    if not space:
        raise ConfigError(
            "there is nothing to search over: give ranges in hydra.sweeper.params, or as "
            "key=interval(low,high)"
        )
    return space, list(fixed.values())


def names_of(objective: Any) -> list[str]:
    """The aims of a configuration, which may name only one."""
    return [objective] if isinstance(objective, str) else [str(name) for name in objective]


def possible_jobs(config: DictConfig, arguments: Sequence[str]) -> list[list[str]]:
    """The overrides of a few jobs that a search could run, drawn at random."""
    space, fixed = space_of(config, arguments)
    optuna.logging.set_verbosity(logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = (study.ask(space).params for _ in range(_TRIED))
    return [[*(f"{name}={value}" for name, value in params.items()), *fixed] for params in trials]


def _wait_for(job: Path) -> None:
    """Let a job end that has outlived the search: a launcher's workers may, a cluster's do."""
    for waited in count():
        if not has_writer(job / "artifact"):
            return
        if not waited:
            print(f"Waiting for the job in {short_path(job)}, which is still at work")
        time.sleep(1)


def _values(job: Any) -> list[float]:
    """What a job returned; nothing of a job that failed, which has said why."""
    try:
        found = job.return_value
        return [float(value) for value in (found if isinstance(found, list | tuple) else [found])]
    except Exception:
        return []


def _settings(config: DictConfig, space: dict[str, BaseDistribution]) -> dict[str, Any]:
    """What all trials have in common, by key, as it is written: what comes from elsewhere only named."""
    plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    with open_dict(plain):
        for name in _FREE:
            OmegaConf.update(plain, name, None, force_add=True)
    written = OmegaConf.to_container(plain, resolve=False)
    flat = dict(_flat(written))
    return {name: value for name, value in flat.items() if name not in space}


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _differences(now: dict[str, Any], then: dict[str, Any]) -> Iterator[str]:
    for part in (_SETTINGS, _SPACE):
        for name in sorted(now[part].keys() | then[part].keys()):
            values = [json.dumps(content[part].get(name), ensure_ascii=False) for content in (now, then)]
            if values[0] != values[1]:
                where = f"the range of {name}" if part == _SPACE else name
                yield f"{where}: {values[0]} now, {values[1]} in the study"
    if now["direction"] != then["direction"]:
        yield f"hydra.sweeper.direction: {now['direction']} now, {then['direction']} in the study"


def _in_rows(trials: list[optuna.Trial], size: int) -> Iterator[list[optuna.Trial]]:
    """Trials whose numbers follow each other, at most so many at a time: a launcher counts its jobs so."""
    rest = iter(trials)
    row = list(islice(rest, 1))
    for trial in rest:
        if trial.number != row[-1].number + 1 or len(row) == size:
            yield row
            row = []
        row.append(trial)
    if row:
        yield row


def _write_best(study: optuna.Study, folder: Path) -> None:
    """Keep the best in ``optimization_results.yaml``, as Hydra's own sweeper does."""
    complete = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    if not complete:
        return
    content: dict[str, Any]
    if len(study.directions) == 1:
        best = study.best_trial
        content = {"name": "optuna", "best_params": best.params, "best_value": best.value}
    else:
        found = [{"params": trial.params, "values": trial.values} for trial in study.best_trials]
        content = {"name": "optuna", "solutions": found}
    OmegaConf.save(OmegaConf.create(content), folder / "optimization_results.yaml")
