"""Searches (``hparams_search=optuna``): killed and restarted, failing trials, several objectives."""

import json
import math
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from conftest import HANG, run_command
from kforecast.config.checks import CONF_DIR
from kforecast.errors import ConfigError, TrainingError
from kforecast.files.lock import has_writer
from kforecast.training.sweeps import search as searches
from kforecast.training.sweeps.ranking import front
from kforecast.training.sweeps.search import Search, first_row
from kforecast.training.sweeps.space import grid_of

QUICK = ["+trainer.limit_train_batches=2", "trainer=cpu", "logger=none", "refit=false"]
# Without held-out data, no report is written.
QUICK += ["data.validation=0", "data.test=0", "monitor=train/loss"]
SPACE = [
    "hydra.sweeper.params=null",
    "optimizer.lr=tag(log,interval(0.001,0.1))",
    "window.context_length=4,7,9",
]
# The command runs with this hook and sends itself a signal in one job, before its third checkpoint is
# complete.
SIGNALLED = """
import os, sys
job, number, seen = sys.argv.pop(1), int(sys.argv.pop(1)), []
def hook(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith(f"/{job}/checkpoints/last.ckpt"):
        seen.append(arguments)
        if len(seen) == 3:
            os.kill(os.getpid(), number)
sys.addaudithook(hook)
from kforecast.commands.train import main
main()
"""


def search(data: Path, *more: str, name: str = "optuna") -> list[str]:
    return [f"hparams_search={name}", f"--dataset-file={data}", *QUICK, *SPACE, *more]


def trials_of(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder}/study.db").trials


def signalled(
    job: int, command: list[str], cwd: Path, number: int = signal.SIGKILL
) -> subprocess.CompletedProcess[str]:
    """A search that gets a signal while one of its jobs trains."""
    arguments = [sys.executable, "-W", "ignore", "-c", SIGNALLED, str(job), str(int(number)), *command]
    return subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, timeout=HANG, check=False)


def outcomes(folder: Path) -> list[tuple[Any, ...]]:
    return [(trial.state.name, trial.params, trial.values) for trial in trials_of(folder)]


def kill_and_restart(tmp_path: Path, command: list[str], trials: int, killed: int) -> Path:
    """Kill a search in one trial and restart it; check the state in between."""
    folder = tmp_path / "outputs" / "sweeps" / "search"
    assert signalled(killed, command, tmp_path).returncode == -signal.SIGKILL
    before = trials_of(folder)
    assert [trial.state.name for trial in before] == ["COMPLETE"] * killed + ["RUNNING"]
    assert json.loads((folder / str(killed) / "result.json").read_text())["status"] == "running"
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    del kept[folder / str(killed) / "result.json"]

    done = run_command("kforecast-train", *command, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"search: {killed} trials are finished, interrupted: {killed}\n" in done.stdout
    after = trials_of(folder)
    assert [trial.state.name for trial in after] == ["COMPLETE"] * trials
    assert [trial.params for trial in after[: killed + 1]] == [trial.params for trial in before]
    assert {path.name for path in folder.iterdir() if path.is_dir()} == set(map(str, range(trials)))
    for path, written in kept.items():  # finished trials are not repeated
        assert path.stat().st_mtime_ns == written
    # The interrupted trial was resumed from its checkpoint.
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
    return folder


@pytest.mark.slow
def test_a_search_that_is_killed_and_started_again(tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    data = traffic_csv(series=2)
    more = ["hydra.sweeper.n_trials=3", "trainer.max_epochs=4"]
    folder = kill_and_restart(tmp_path, search(data, *more, "checkpoint_seconds=0"), trials=3, killed=1)

    # A complete search trains nothing and writes the ranking again; other settings are refused.
    command = search(data, *more, "checkpoint_seconds=5", "threads=1")
    again = run_command("kforecast-train", *command, cwd=tmp_path)
    assert (again.returncode, again.stderr) == (0, "")
    assert "The study search in " in again.stdout
    assert "is complete: 3 trials; for ten more: hydra.sweeper.n_trials=13" in again.stdout
    assert "Sweep, best first" in again.stdout
    assert "cost time" not in again.stdout
    before = outcomes(folder)
    other = search(data, "seed=7", "optimizer.lr=interval(0.1,0.2)", *more)
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
    # More than 5 epochs, so that hopeless trials are pruned.
    command = search(traffic_csv(series=2), "trainer.max_epochs=8", "checkpoint_seconds=0")
    folder = kill_and_restart(tmp_path, command, trials=20, killed=7)
    whole = tmp_path / "whole"
    whole.mkdir()
    done = run_command("kforecast-train", *command, cwd=whole)
    assert done.returncode == 0, done.stderr
    # TPE learned from the same results, and the resumed training has the same weights.
    assert outcomes(whole / "outputs" / "sweeps" / "search") == outcomes(folder)


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.slow
def test_an_interrupted_search_says_how_to_go_on(
    number: int, code: int, tmp_path: Path, traffic_csv: Callable[..., Path]
) -> None:
    command = search(traffic_csv(), "trainer.max_epochs=4", "checkpoint_seconds=0")
    done = signalled(0, command, tmp_path, number)
    assert done.returncode == code
    assert "Traceback" not in done.stdout + done.stderr
    assert "search is interrupted; to go on, give the same command again" in done.stdout
    folder = tmp_path / "outputs" / "sweeps" / "search"
    assert [trial.state.name for trial in trials_of(folder)] == ["RUNNING"]


def test_two_aims_and_trials_that_fail(tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    # A context of 430 bins leaves no window.
    more = ["hydra.sweeper.n_trials=5", "trainer.max_epochs=1", "window.context_length=choice(4,430,9)"]
    command = search(traffic_csv(), *more, name="pareto")
    done = run_command("kforecast-train", *command, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    folder = tmp_path / "outputs" / "sweeps" / "pareto"
    trials = trials_of(folder)
    failed = [trial.number for trial in trials if trial.params["window.context_length"] == 430]
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
        (["hydra.sweeper.custom_search_space=os.system"], "unknown key hydra.sweeper.custom_search_space"),
    ],
)
def test_what_is_wrong_is_found_before_anything_runs(
    arguments: list[str], said: str, tmp_path: Path, traffic_csv: Callable[..., Path]
) -> None:
    where = tmp_path / "here"
    where.mkdir()
    command = ["hparams_search=optuna", f"--dataset-file={traffic_csv()}", *arguments]
    done = run_command("kforecast-train", *command, cwd=where)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(where.iterdir()) == []


def test_without_the_extra_one_line_says_what_to_install(
    tmp_path: Path, traffic_csv: Callable[..., Path]
) -> None:
    hidden = """
import sys
sys.modules["optuna"] = None
from kforecast.commands.train import main
main()
"""
    command = [sys.executable, "-W", "ignore", "-c", hidden, *search(traffic_csv())]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr == "error: searches need a package: pip install 'kforecast[optuna]'\n"
    assert [path.name for path in tmp_path.iterdir()] == ["traffic.csv"]


def test_jobs_of_another_sweep_are_not_overwritten(tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    job = tmp_path / "outputs" / "sweeps" / "search" / "0"
    job.mkdir(parents=True)
    done = run_command("kforecast-train", *search(traffic_csv()), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "holds jobs of another sweep" in done.stderr
    assert list(job.iterdir()) == []


@pytest.fixture
def searching(tmp_path: Path) -> Iterator[Callable[..., Search]]:
    """Create the search of a command line, in this process."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):

        def make(*overrides: str, arguments: Sequence[str] = (), folder: str = "search") -> Search:
            given = ["hparams_search=optuna", f"hydra.sweep.dir={tmp_path / folder}", *overrides]
            return Search(compose("train", given, return_hydra_config=True), arguments)

        yield make


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["hydra.sweeper.params=null"], "there is nothing to search over"),
        (
            ["hydra.sweeper.params={optimizer.lr: 'interval(1,'}"],
            "the search space: cannot read optimizer.lr=",
        ),
        (["hydra.sweeper.params={optimizer.lr: 'interval(2,1)'}"], "the search space: cannot read optimizer"),
        (["objective=[score,wape]"], "hydra.sweeper.direction: 1 for 2 aims (objective=score,wape)"),
        (["hydra.sweeper.direction=up"], "it should be 'minimize' or 'maximize'"),
        (["hydra.sweeper.storage=null"], "a search needs both to go on"),
        (["hydra.sweeper.n_trials=0"], "hydra.sweeper: n_trials: 0 is wrong"),
        (["hydra.sweeper.max_failure_rate=2"], "hydra.sweeper: max_failure_rate: 2 is wrong"),
        (["hydra.sweeper.sampler=null"], "hydra.sweeper: sampler: None is not a mapping"),
        (["hydra.sweeper.sampler.seed=-1"], "hydra.sweeper: sampler.seed: -1 is wrong"),
        (
            ["hydra.sweeper.sampler._target_=os.system"],
            "hydra.sweeper.sampler._target_: 'os.system' is not a",
        ),
        (
            ["+hydra.sweeper.sampler.weights={_target_: os.system}"],
            "hydra.sweeper.sampler.weights._target_: 'os.system' is not a class",
        ),
        (["hydra.sweeper.sampler={_target_: kforecast.window.Frequency}"], "hydra.sweeper.sampler: "),
        (
            ["hydra/sweeper/sampler=grid"],
            "hydra/sweeper/sampler=grid: optimizer.lr: give its values: a,b,c or range(low,high,step)",
        ),
    ],
)
def test_what_no_search_can_be_made_of(
    searching: Callable[..., Search], overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigError) as refusal:
        searching(*overrides)
    assert said in str(refusal.value)


def test_a_value_on_the_command_line_is_not_searched_for(searching: Callable[..., Search]) -> None:
    found = searching(arguments=["data.batch_size=64", "optimizer.lr=1e-3", "seed=1,2"])
    assert set(found.space) == {"window.context_length", "seed"}
    assert found.fixed == ["data.batch_size=64", "optimizer.lr=1e-3"]


@pytest.mark.parametrize(
    "values, distribution",
    [
        ("interval(1,5)", FloatDistribution(1, 5)),
        ("tag(log,interval(0.1,5))", FloatDistribution(0.1, 5, log=True)),
        ("int(interval(1,5))", IntDistribution(1, 5)),
        ("tag(log,int(interval(1,5)))", IntDistribution(1, 5, log=True)),
        ("range(4,25)", IntDistribution(4, 25)),
        ("range(4,24,5)", IntDistribution(4, 24, step=5)),
        ("range(0,1,0.25)", FloatDistribution(0, 1, step=0.25)),
        ("1,b,2.5", CategoricalDistribution([1, "b", 2.5])),
        ("null,true", CategoricalDistribution(["null", True])),
        ("choice(a,'b c',[1,2])", CategoricalDistribution(["a", "b\\ c", "[1,2]"])),
        ("shuffle(range(4,6))", IntDistribution(4, 6)),
        ("shuffle(3,1,2)", CategoricalDistribution([3, 1, 2])),
    ],
)
def test_what_a_search_space_is_to_optuna(
    searching: Callable[..., Search], values: str, distribution: BaseDistribution
) -> None:
    assert searching("hydra.sweeper.params=null", arguments=[f"seed={values}"]).space == {
        "seed": distribution
    }


def test_the_values_of_a_grid() -> None:
    space = {
        "a": CategoricalDistribution(["x", 2]),
        "b": IntDistribution(4, 8, step=2),
        "c": FloatDistribution(0, 0.3, step=0.1),
    }
    assert grid_of(space) == {"a": ["x", 2], "b": [4, 6, 8], "c": pytest.approx([0, 0.1, 0.2, 0.3])}


class Pretending:
    """A launcher whose jobs do not train; their results follow from their overrides."""

    def __init__(self, failing: str = "none", aims: int = 1) -> None:
        self.launched = list[tuple[int, Sequence[str]]]()
        self._failing, self._aims = failing, aims

    def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        """The interface of a Hydra launcher."""
        self.launched += enumerate(jobs, initial_job_idx)
        return [SimpleNamespace(return_value=self._value(job)) for job in jobs]

    def _value(self, job: Sequence[str]) -> Any:
        given = dict(override.split("=") for override in job)
        if self._failing in job:
            return math.nan
        rate, length = math.log(float(given["optimizer.lr"])), int(given["window.context_length"])
        return ((rate + 5) ** 2 + length, -length)[: self._aims]


def cut_off(patch: pytest.MonkeyPatch, after: int) -> None:
    """Interrupt a search after a number of steps: trials asked for, launched, told."""
    happened: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **more: Any) -> Any:
            if len(happened) == after:
                raise KeyboardInterrupt
            happened.append(name)
            return function(*arguments, **more)

        return counting

    for owner, name in ((Search, "_ask"), (Pretending, "launch"), (searches, "_tell")):
        patch.setattr(owner, name, counted(name, getattr(owner, name)))


@pytest.mark.parametrize(
    "after", [4, 7, *(pytest.param(after, marks=pytest.mark.slow) for after in (5, 6, 8, 9))]
)
def test_wherever_a_search_is_cut_off_it_comes_to_the_same(
    after: int, searching: Callable[..., Search], tmp_path: Path
) -> None:
    # Two trials at a time are asked for, launched and told: 5 steps. TPE has learned from the first pair.
    more = ["hydra.sweeper.n_trials=5", "hydra.sweeper.n_jobs=2", "hydra.sweeper.sampler.n_startup_trials=2"]
    whole, first, second = Pretending(), Pretending(), Pretending()
    searching(*more, folder="whole/search").run(whole)
    with pytest.MonkeyPatch.context() as patch:
        cut_off(patch, after)
        with pytest.raises(KeyboardInterrupt):
            searching(*more, folder="search").run(first)
    assert len(trials_of(tmp_path / "search")) < 5
    searching(*more, folder="search").run(second)
    assert outcomes(tmp_path / "search") == outcomes(tmp_path / "whole" / "search")
    assert [number for number, _ in whole.launched] == [0, 1, 2, 3, 4]
    resumed = [number for number, job in second.launched if job[-1] == "resume=auto"]
    assert resumed == {4: [1], 5: [], 6: [2], 7: [2, 3], 8: [2, 3], 9: [3]}[after]
    jobs = {
        number: [text for text in job if text != "resume=auto"]
        for number, job in first.launched + second.launched
    }
    assert jobs == dict(whole.launched)


@pytest.mark.parametrize(
    "sampler, aims",
    [
        ("tpe", 1),
        ("grid", 2),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("tpe", 2), ("random", 1), ("cmaes", 1), ("nsgaii", 1), ("nsgaii", 2), ("grid", 1))
        ),
    ],
)
def test_every_sampler_goes_on_with_what_it_would_have_proposed(
    sampler: str,
    aims: int,
    searching: Callable[..., Search],
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    more = [f"hydra/sweeper/sampler={sampler}", "hydra.sweeper.n_trials=8", "hydra.sweeper.params=null"]
    more += ["hydra.sweeper.sampler.population_size=3"] * (sampler == "nsgaii")
    more += ["hydra.sweeper.sampler.n_startup_trials=4"] * (sampler == "tpe")
    if aims > 1:
        more += ["objective=[score,wape]", "hydra.sweeper.direction=[minimize,maximize]"]
    rates = "range(0.01,0.02,0.01)" if sampler == "grid" else "interval(0.001,0.1)"
    arguments = [f"optimizer.lr={rates}", "window.context_length=range(4,7)"]

    def run(folder: str) -> None:
        searching(*more, arguments=arguments, folder=folder).run(Pretending(aims=aims))

    run("whole/search")
    with pytest.MonkeyPatch.context() as patch:
        cut_off(patch, 3 * 6 + 1)  # in the 7th trial
        with pytest.raises(KeyboardInterrupt):
            run("search")
    run("search")
    found = outcomes(tmp_path / "search")
    assert found == outcomes(tmp_path / "whole" / "search")
    assert [state for state, _, _ in found] == ["COMPLETE"] * 8
    if sampler == "grid":  # every point once
        assert len({json.dumps(values) for _, values, _ in found}) == 8
    assert not [warning for warning in recwarn if "optuna" in f"{warning.category} {warning.filename}"]


def test_a_grid_that_is_through_is_complete(
    searching: Callable[..., Search], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run() -> Pretending:
        launcher = Pretending()
        more = ["hydra/sweeper/sampler=grid", "hydra.sweeper.params=null", "hydra.sweeper.sampler.seed=7"]
        arguments = ["optimizer.lr=0.1,0.2", "window.context_length=4,7,9"]
        searching(*more, arguments=arguments).run(launcher)
        return launcher

    assert len(run().launched) == 6
    assert run().launched == []
    assert capsys.readouterr().out.endswith(" is complete: 6 trials\n")
    assert len({tuple(values.values()) for _, values, _ in outcomes(tmp_path / "search")}) == 6


def test_more_failures_than_are_allowed_end_a_search(
    searching: Callable[..., Search], tmp_path: Path
) -> None:
    more = ["hydra.sweeper.params=null", "hydra.sweeper.max_failure_rate=0", "hydra.sweeper.n_jobs=2"]
    arguments = ["optimizer.lr=0.1,0.2", "window.context_length=4"]
    failing = Pretending(failing="optimizer.lr=0.1")
    with pytest.raises(TrainingError, match=r"of 2 trials failed \(hydra\.sweeper\.max_failure_rate=0"):
        searching(*more, arguments=arguments).run(failing)
    for state, values, found in outcomes(tmp_path / "search"):
        assert state == ("FAIL" if values["optimizer.lr"] == 0.1 else "COMPLETE")
        assert (found is None) == (state == "FAIL")


def test_a_storage_of_another_version_of_optuna(searching: Callable[..., Search], tmp_path: Path) -> None:
    searching("hydra.sweeper.n_trials=1").run(Pretending())
    with sqlite3.connect(tmp_path / "search" / "study.db") as tables:
        tables.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
    with pytest.raises(ConfigError, match=r"another version of Optuna has made .*hydra\.sweeper\.study_name"):
        searching("hydra.sweeper.n_trials=1").run(Pretending())


def test_a_study_of_someone_else_is_not_gone_on_with(
    searching: Callable[..., Search], tmp_path: Path
) -> None:
    (tmp_path / "search").mkdir()
    study = optuna.create_study(study_name="search", storage=f"sqlite:///{tmp_path}/search/study.db")
    study.ask()
    with pytest.raises(ConfigError, match="holds a study that kforecast did not start"):
        searching().run(Pretending())


def test_a_job_that_has_outlived_the_search_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "3"
    assert not has_writer(job / "artifact")
    hold = """
import sys
from pathlib import Path
from kforecast.files.lock import sole_writer
with sole_writer(Path(sys.argv[1]), "a job"):
    print("held", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", hold, str(job / "artifact")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "held\n"
        assert has_writer(job / "artifact")
        # The search finds the trial running and looks again later, when it has ended.
        slept = SimpleNamespace(sleep=lambda seconds: worker.communicate(timeout=HANG))
        monkeypatch.setattr(searches, "time", slept)
        searches._wait_for(job)
        assert worker.poll() == 0
    assert not has_writer(job / "artifact")
    assert capsys.readouterr().out.count("which is still at work") == 1


def test_rows_of_trials_for_a_launcher() -> None:
    def rows(numbers: list[int], size: int) -> list[list[int]]:
        left: list[Any] = [SimpleNamespace(number=number) for number in numbers]
        found = []
        while row := first_row(left, size):
            found.append([trial.number for trial in row])
            left = left[len(row) :]
        return found

    assert rows([4, 6, 7, 8, 11], 2) == [[4], [6, 7], [8], [11]]
    assert rows([0, 1, 2], 4) == [[0, 1, 2]]
    assert rows([], 4) == []


def test_the_front_holds_what_no_other_beats() -> None:
    values = np.array([[1, 4], [2, 2], [3, 3], [4, 1], [2, 2], [4, 4]])
    assert list(front(values)) == [True, True, False, True, True, False]
