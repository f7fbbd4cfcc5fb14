"""Searches (``hparams_search=optuna``): killed and started again, failing trials, several aims."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from conftest import run_command, started
from kforecast.config import CONF_DIR
from kforecast.directory import has_writer
from kforecast.errors import ConfigError
from kforecast.training.search import _in_rows, _wait_for, space_of
from kforecast.training.sweep import front

QUICK = ["+trainer.limit_train_batches=2", "trainer=cpu", "logger=none", "refit=false"]
SPACE = [
    "hydra.sweeper.params=null",
    "optimizer.lr=tag(log,interval(0.001,0.1))",
    "window.context_length=4,7,9",
]


def search(data: Path, *more: str, name: str = "optuna") -> list[str]:
    return [f"hparams_search={name}", f"--dataset-file={data}", *QUICK, *SPACE, *more]


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder}/study.db").trials


def kill_in(job: Path, command: list[str], cwd: Path, number: int = signal.SIGKILL) -> str:
    """Start a search, and end it when a job has written a checkpoint; what it has printed."""
    process = started("kforecast-train", *command, cwd=cwd)
    until = time.monotonic() + 300
    while not (job / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    return printed


def outcomes(folder: Path) -> list[tuple[Any, ...]]:
    return [(trial.state.name, trial.params, trial.value) for trial in trials_of(folder)]


def kill_and_restart(
    tmp_path: Path, data: Path, trials: int, killed: int
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A search that is killed in one trial and started again; checks all that must hold in between."""
    command = search(
        data, f"hydra.sweeper.n_trials={trials}", "trainer.max_epochs=25", "checkpoint_seconds=0"
    )
    folder = tmp_path / "outputs" / "sweeps" / "search"
    kill_in(folder / str(killed), command, tmp_path)
    before = trials_of(folder)
    assert [trial.state.name for trial in before] == ["COMPLETE"] * killed + ["RUNNING"]
    assert json.loads((folder / str(killed) / "result.json").read_text())["status"] == "running"
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    del kept[folder / str(killed) / "result.json"]

    done = run_command("kforecast-train", *command, cwd=tmp_path, timeout=900)
    assert done.returncode == 0, done.stderr
    assert f"search: {killed} trials are finished, interrupted: {killed}\n" in done.stdout
    after = trials_of(folder)
    assert [trial.state.name for trial in after] == ["COMPLETE"] * trials
    assert [trial.params for trial in after[: killed + 1]] == [trial.params for trial in before]
    assert {path.name for path in folder.iterdir() if path.is_dir()} == set(map(str, range(trials)))
    for path, written in kept.items():  # what was finished is not done again
        assert path.stat().st_mtime_ns == written
    # The trial that was running has gone on from its checkpoint.
    log = (folder / str(killed) / "train.log").read_text()
    assert "Going on in epoch" in log
    assert log.count("Epoch: 1 cost time") == 1
    results = pd.read_csv(folder / "results.csv")
    assert sorted(results["job"]) == list(range(trials))
    assert "resume" not in results.columns
    for job, trial in zip(results.sort_values("job").to_dict("records"), after, strict=True):
        assert job["score"] == pytest.approx(trial.value)
        assert job["window.context_length"] == trial.params["window.context_length"]
        overrides = yaml.safe_load((folder / str(job["job"]) / ".hydra" / "overrides.yaml").read_text())
        assert f"optimizer.lr={trial.params['optimizer.lr']}" in overrides
    return folder, done


def test_a_search_that_is_killed_and_started_again(tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    data = traffic_csv(series=2)
    folder, _ = kill_and_restart(tmp_path, data, trials=3, killed=1)

    # Complete: nothing is trained, the ranking is there again; and other settings are not mixed in.
    command = search(
        data, "hydra.sweeper.n_trials=3", "trainer.max_epochs=25", "checkpoint_seconds=5", "threads=1"
    )
    again = run_command("kforecast-train", *command, cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert "is complete: 3 trials; for ten more: hydra.sweeper.n_trials=13" in again.stdout
    assert "Sweep, best first" in again.stdout
    assert "cost time" not in again.stdout
    before = outcomes(folder)
    other = search(data, "seed=7", "optimizer.lr=interval(0.1,0.2)", "trainer.max_epochs=25")
    refused = run_command("kforecast-train", *other, cwd=tmp_path)
    assert refused.returncode == 2
    assert "hydra.sweeper.study_name=NAME" in refused.stderr
    assert "\n  seed: 7 now, 42 in the study\n" in refused.stderr
    assert "the range of optimizer.lr" in refused.stderr
    assert outcomes(folder) == before


@pytest.mark.slow
def test_twenty_trials_are_those_of_a_search_that_nobody_killed(
    tmp_path: Path, traffic_csv: Callable[..., Path]
) -> None:
    data = traffic_csv(series=2)
    folder, _ = kill_and_restart(tmp_path, data, trials=20, killed=7)
    whole = tmp_path / "whole"
    whole.mkdir()
    command = search(data, "trainer.max_epochs=25", "checkpoint_seconds=0")
    done = run_command("kforecast-train", *command, cwd=whole, timeout=900)
    assert done.returncode == 0, done.stderr
    # TPE has learned from the same results, and the resumed training has come to the same weights.
    assert outcomes(whole / "outputs" / "sweeps" / "search") == outcomes(folder)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_an_interrupted_search_says_how_to_go_on(
    number: int, code: int, tmp_path: Path, traffic_csv: Callable[..., Path]
) -> None:
    command = search(traffic_csv(), "trainer.max_epochs=200", "checkpoint_seconds=0")
    folder = tmp_path / "outputs" / "sweeps" / "search"
    process = started("kforecast-train", *command, cwd=tmp_path)
    while not (folder / "0" / "checkpoints" / "last.ckpt").exists():
        time.sleep(0.01)
    process.send_signal(number)
    printed, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in printed + said
    assert "search is interrupted; to go on, give the same command again" in printed
    assert [trial.state.name for trial in trials_of(folder)] == ["RUNNING"]


def test_two_aims_and_trials_that_fail(tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    # A context of 400 bins leaves no windows.
    more = ["hydra.sweeper.n_trials=5", "trainer.max_epochs=1", "window.context_length=choice(4,400,9)"]
    command = search(traffic_csv(), *more, name="pareto")
    done = run_command("kforecast-train", *command, cwd=tmp_path, timeout=300)
    assert done.returncode == 3, done.stderr
    folder = tmp_path / "outputs" / "sweeps" / "pareto"
    trials = trials_of(folder)
    failed = [trial.number for trial in trials if trial.params["window.context_length"] == 400]
    assert 0 < len(failed) < 5
    assert [trial.number for trial in trials if trial.state.name == "FAIL"] == failed
    results = pd.read_csv(folder / "results.csv").set_index("job")
    assert sorted(results.index) == list(range(5))
    assert sorted(results.index[results["status"] == "failed"]) == failed
    for trial in trials:
        if trial.values:
            artifact = folder / str(trial.number) / "artifact"
            size = sum(path.stat().st_size for path in artifact.iterdir()) / 1024
            assert trial.values == [results.loc[trial.number, "score"], pytest.approx(size)]
            assert results.loc[trial.number, "artifact_kib"] == pytest.approx(size)
    best = optuna.load_study(study_name="pareto", storage=f"sqlite:///{folder}/study.db").best_trials
    shown = done.stdout[done.stdout.index("Pareto front: ") :]
    assert shown.startswith(f"Pareto front: {len(best)} of {5 - len(failed)} jobs")
    listed = {int(line.split()[0]) for line in shown.splitlines() if line.split()[0].isdecimal()}
    assert listed == {trial.number for trial in best}


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["optimizer.lr=interval(1,"], "cannot read the override optimizer.lr=interval(1,"),
        (["seed=-1"], "none of the 8 points of the search space can start; the first: configuration: seed"),
        (
            ["objective=best"],
            "objective: 'best' is wrong; use one of score, artifact_kib, training_seconds, wape",
        ),
    ],
)
def test_what_is_wrong_is_found_before_anything_runs(
    arguments: list[str], said: str, tmp_path: Path, traffic_csv: Callable[..., Path]
) -> None:
    data = traffic_csv()
    command = ["hparams_search=optuna", f"--dataset-file={data}", *arguments]
    done = run_command("kforecast-train", *command, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["traffic.csv"]


def searching(*overrides: str) -> DictConfig:
    """What a sweeper is given."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", ["hparams_search=optuna", *overrides], return_hydra_config=True)


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["hydra.sweeper.params=null"], "there is nothing to search over"),
        (
            ["hydra.sweeper.params={optimizer.lr: 'interval(1,'}"],
            "the search space: cannot read optimizer.lr=",
        ),
        (["objective=[score,wape]"], "hydra.sweeper.direction: 1 for 2 aims (objective=score,wape)"),
        (["hydra.sweeper.storage=null"], "a search needs both to go on"),
        (["hydra.sweeper.custom_search_space=os.system"], "give the search space as hydra.sweeper.params"),
        (["hydra.sweeper.sampler._target_=os.system"], "is none of Optuna's"),
    ],
)
def test_what_no_search_can_be_made_of(overrides: list[str], said: str) -> None:
    config = searching(*overrides)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"), pytest.raises(ConfigError) as refusal:
        space_of(config, [])
    assert said in str(refusal.value)


def test_a_value_on_the_command_line_is_not_searched_for() -> None:
    config = searching()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        space, fixed = space_of(config, ["data.batch_size=64", "optimizer.lr=1e-3", "seed=1,2"])
    assert set(space) == {"window.context_length", "seed"}
    assert fixed == ["data.batch_size=64", "optimizer.lr=1e-3"]


def test_without_the_extra_one_line_says_what_to_install(
    tmp_path: Path, traffic_csv: Callable[..., Path]
) -> None:
    # As in an environment that lacks it: the plugin's configuration is not found either.
    hidden = """
import sys
sys.modules["hydra_plugins.hydra_optuna_sweeper"] = sys.modules["optuna"] = None
from hydra.core.plugins import Plugins
from kforecast.training.train import main
main()
"""
    command = [sys.executable, "-W", "ignore", "-c", hidden, *search(traffic_csv())]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr == "error: searches need a package: pip install 'kforecast[optuna]'\n"
    assert [path.name for path in tmp_path.iterdir()] == ["traffic.csv"]


def test_jobs_of_another_sweep_are_not_overwritten(tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    data = traffic_csv()
    job = tmp_path / "outputs" / "sweeps" / "search" / "0"
    job.mkdir(parents=True)
    done = run_command("kforecast-train", *search(data), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "holds jobs of another sweep" in done.stderr
    assert list(job.iterdir()) == []


def test_a_job_that_has_outlived_the_search_is_waited_for(tmp_path: Path) -> None:
    job = tmp_path / "3"
    assert not has_writer(job / "artifact")
    hold = """
import sys, time
from pathlib import Path
from kforecast.directory import sole_writer
with sole_writer(Path(sys.argv[1]), "a job"):
    print("held", flush=True)
    time.sleep(1.5)
"""
    command = [sys.executable, "-c", hold, str(job / "artifact")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "held\n"
        assert has_writer(job / "artifact")
        _wait_for(job)
        assert not has_writer(job / "artifact")


def test_rows_of_trials_for_a_launcher() -> None:
    class Numbered:
        def __init__(self, number: int) -> None:
            self.number = number

    def rows(numbers: list[int], size: int) -> list[list[int]]:
        trials: Any = [Numbered(number) for number in numbers]
        return [[trial.number for trial in row] for row in _in_rows(trials, size)]

    assert rows([4, 6, 7, 8, 11], 2) == [[4], [6, 7], [8], [11]]
    assert rows([0, 1, 2], 4) == [[0, 1, 2]]
    assert rows([], 4) == []


def test_the_front_holds_what_no_other_beats() -> None:
    values = np.array([[1, 4], [2, 2], [3, 3], [4, 1], [2, 2], [4, 4]])
    assert list(front(values)) == [True, True, False, True, True, False]
