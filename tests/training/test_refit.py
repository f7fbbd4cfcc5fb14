"""``model=seasonal_mlp`` as a user runs it: trained, evaluated, and retrained with the validation part."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from conftest import composed, run_command
from kforecast.artifact import Artifact
from kforecast.config.checks import built
from kforecast.data.panel import Panel
from kforecast.forecaster import Forecaster
from kforecast.window import Frequency

SOURCE = ["source=synthetic", "source.workloads=2", "source.days=42", "source.step=3600", "window=1h"]
SMALL = ["model=seasonal_mlp", "model.members=2", "model.hidden=8", "logger=none"]


def train(folder: Path, *arguments: str, source: list[str] = SOURCE) -> Any:
    return run_command("kforecast-train", *source, *SMALL, "hydra.run.dir=run", *arguments, cwd=folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One training with a time zone, long enough for intervals."""
    folder = tmp_path_factory.mktemp("run")
    done = train(folder, "trainer.max_epochs=3", "data.timezone=Europe/Berlin")
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(done=done, folder=folder, run=folder / "run", model=folder / "run" / "artifact")


def panel() -> Panel:
    source = built(composed(*SOURCE).source, "source")
    return Panel.from_frame(source.fetch(), Frequency.parse("1H"))


def before_refit(run: SimpleNamespace) -> Forecaster:
    """The network that was trained without the validation part."""
    best = torch.load(run.run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    artifact = Artifact.load(run.model)
    state = {name.removeprefix("net."): value for name, value in best.items()}
    return Forecaster.of(Artifact(artifact.config, artifact.item_ids, state, artifact.metadata), "before")


def test_says_that_it_trains_again_and_for_how_long(run: SimpleNamespace) -> None:
    result = json.loads((run.run / "result.json").read_text())
    log = (run.run / "train.log").read_text()
    said = f"Training again, with the validation part, for {result['best_epoch']} epochs (refit)"
    first, second = log.split(said)
    assert len(re.findall(r"Epoch: \d, Steps", first)) == result["epochs"] == 3
    assert len(re.findall(r"Epoch: \d, Steps", second)) == result["best_epoch"]
    assert "Validation Loss" in first
    assert "Validation Loss" not in second
    assert (result["status"], run.done.stderr) == ("done", "")
    loss = float(re.findall(r"Validation Loss: ([\d.]+)", first)[result["best_epoch"] - 1])
    assert result["score"] == pytest.approx(loss, rel=1e-5)


def test_the_artifact_is_of_the_second_training(run: SimpleNamespace) -> None:
    artifact = Artifact.load(run.model)
    data = artifact.metadata["data"]
    assert data["train_end"] == data["validation_end"] < data["last"]
    assert artifact.config.model == "SeasonalMLP"
    assert artifact.config.network == {
        "members": 2,
        "hidden": 8,
        "layers": 2,
        "dropout": 0.1,
        "embedding": 8,
        "series_dropout": 0.2,
        "history_dropout": 0.2,
    }
    assert artifact.config.calendar == {"timezone": "Europe/Berlin", "holidays": None}
    assert artifact.config.history_length == Forecaster.load(run.model).history_length
    trained = before_refit(run).net.state_dict()
    assert trained.keys() == artifact.state.keys()
    assert all(not torch.equal(trained[name], value) for name, value in artifact.state.items())


def test_intervals_are_calibrated_on_what_the_first_network_had_not_seen(run: SimpleNamespace) -> None:
    history = panel()
    first, served = before_refit(run), Forecaster.load(run.model)
    assert served.intervals is not None
    config = yaml.safe_load((run.run / ".hydra" / "config.yaml").read_text())
    begin = history.num_bins - 2 * round(config["data"]["validation"] * history.num_bins)
    stop = history.num_bins - round(config["data"]["test"] * history.num_bins)
    expected = first.calibrated(history, begin, stop).intervals
    assert expected is not None
    np.testing.assert_allclose(served.intervals.pooled, expected.pooled, rtol=1e-3, atol=1e-3)


def test_the_score_is_that_of_the_served_network_on_the_test_span(run: SimpleNamespace) -> None:
    assert "on the test span: 2 series" in run.done.stdout
    table = pd.read_csv(run.run / "evaluation" / "forecasts.csv")
    history, served = panel(), Forecaster.load(run.model)
    rows = table[table["workload"] == history.series[0][0]].sort_values(["origin", "step"])
    origin = (rows.loc[rows["step"] == 1, "timestamp"].to_numpy() - history.start) // 3600
    made = served.forecast_windows(history, np.zeros(len(origin), np.int64), origin).values
    np.testing.assert_allclose(rows["value"], made.reshape(-1), rtol=1e-4)


def test_without_a_test_part_the_first_network_is_judged_and_the_table_says_so(tmp_path: Path) -> None:
    done = train(tmp_path, "trainer.max_epochs=2", "data.test=0")
    assert done.returncode == 0, done.stderr
    said = "on the validation span, which also chose the best epoch (by the network before it was trained on"
    assert said in " ".join(done.stdout.split())
    assert done.stdout.count("Training again") == 1
    data = Artifact.load(tmp_path / "run" / "artifact").metadata["data"]
    assert data["train_end"] == data["validation_end"] == data["last"] + 3600


def test_without_a_validation_part_nothing_is_trained_again(tmp_path: Path) -> None:
    nothing = ["data.validation=0", "data.test=0", "monitor=train/loss"]
    done = train(tmp_path, "trainer.max_epochs=2", "refit=true", *nothing)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Training again" not in done.stdout
    artifact = Artifact.load(tmp_path / "run" / "artifact")
    data = artifact.metadata["data"]
    assert data["train_end"] == data["validation_end"]
    assert artifact.intervals is None
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(best[f"net.{name}"], value) for name, value in artifact.state.items())


def test_kapacitys_network_can_be_trained_again_too(tmp_path: Path) -> None:
    done = run_command(
        "kforecast-train",
        *(
            "source=synthetic",
            "source.workloads=2",
            "source.days=10",
            "source.step=600",
            "trainer.max_epochs=2",
        ),
        "artifact.per_series=true",
        "callbacks=none",
        "hydra.run.dir=run",
        "logger=none",
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Training again") == 1
    assert re.search(r"trained in +[\d.]+ s, and again in [\d.]+ s", done.stdout)
    artifact = Artifact.load(tmp_path / "run" / "artifact")
    data = artifact.metadata["data"]
    assert data["train_end"] == data["validation_end"]
    # All days of the month are equal, because ten days are too few to learn them.
    days = artifact.state["dynamic_embeddings.3.weight"]
    assert torch.equal(days, days[:1].expand_as(days))
    hours = artifact.state["dynamic_embeddings.1.weight"]
    assert hours.std(dim=0).min() > 0
    # The network with individual embeddings was trained only once.
    for directory in (tmp_path / "run" / "artifact" / "per_series").iterdir():
        alone = Artifact.load(directory).metadata["data"]
        assert alone["train_end"] < alone["validation_end"] == data["validation_end"]


BUILT_IN = ["source=synthetic", "source.workloads=2", "source.days=10", "source.step=600", "logger=none"]


def losses(words: str) -> list[float]:
    """Training losses of the epochs in a log."""
    return [float(loss) for loss in re.findall(r"Epoch: \d+, Steps: \d+ \| Train Loss: ([\d.]+)", words)]


@pytest.mark.parametrize("refit, epochs", [("continue", 2), ("true", 5)])
def test_a_second_training_continues_the_first_or_begins_anew(
    tmp_path: Path, refit: str, epochs: int
) -> None:
    rule = [] if refit == "continue" else [f"refit={refit}"]  # the default of Kapacity's network
    steps = ["trainer.max_epochs=5", "callbacks.early_stopping=null", "callbacks.model_checkpoint=null"]
    done = run_command("kforecast-train", *BUILT_IN, *steps, *rule, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split(
        f"Training again, with the validation part, for {epochs} epochs (refit)"
    )
    before, after = losses(first), losses(second)
    assert (len(before), len(after)) == (5, epochs)
    # Where it began anew, its first epoch is as bad as that of the first training.
    assert (after[0] < 0.9 * before[0]) == (refit == "continue")
    assert min(after) < before[1]


def test_a_training_ends_after_the_epoch_that_uses_up_its_windows(tmp_path: Path) -> None:
    budget = "callbacks.window_budget.windows=5000"  # an epoch has 36 batches of 64: 2,304
    rule = ["trainer.max_epochs=9", "hydra.run.dir=run", budget]
    done = run_command("kforecast-train", *BUILT_IN, *rule, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["epochs"], result["stopped_by"]) == (3, budget)
    assert done.stdout.count("Training again") == 1


@pytest.mark.slow
def test_two_processes_do_what_one_does(tmp_path: Path) -> None:
    """Without dropout, which each process would draw on its own."""
    scores, states = [], []
    for name, more in (("one", []), ("two", ["trainer=ddp", "trainer.devices=2"])):
        done = train(
            tmp_path,
            "trainer.max_epochs=2",
            "model.dropout=0",
            "model.series_dropout=0",
            "model.history_dropout=0",
            "trainer.accelerator=cpu",
            f"hydra.run.dir={name}",
            *more,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Training again") == 1
        scores.append(json.loads((tmp_path / name / "result.json").read_text())["score"])
        states.append(Artifact.load(tmp_path / name / "artifact").state)
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0.01, atol=0.001)


@pytest.mark.slow
def test_two_processes_train_again_for_as_long_as_was_best(tmp_path: Path) -> None:
    """Steps so large that the last epoch is seldom the best one, which only the first process saves."""
    done = train(
        tmp_path,
        "trainer=ddp",
        "trainer.devices=2",
        "trainer.accelerator=cpu",
        "trainer.max_epochs=6",
        "optimizer.lr=0.02",
        "data.batch_size=8",
        "average_windows=null",
        "schedule=constant",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    second = (tmp_path / "run" / "train.log").read_text().split("Training again")[1]
    assert len(re.findall(r"Epoch: \d, Steps", second)) == result["best_epoch"]
    assert len(list(tmp_path.rglob("checkpoint.pth"))) == 1


def test_days_of_the_month_that_training_never_saw_are_served_as_the_mean_of_the_others(
    tmp_path: Path,
) -> None:
    done = run_command(
        "kforecast-train",
        *("source=synthetic", "source.days=10", "experiment=smoke", "logger=none", "artifact_dir=model"),
        *("model.day_of_month=true", "data.validation=0", "data.test=0", "monitor=train/loss"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    # The data start on 2024-01-01.
    days = Artifact.load(tmp_path / "model").state["dynamic_embeddings.3.weight"]
    torch.testing.assert_close(days[11:], days[1:11].mean(dim=0).expand(21, -1))
    assert days[1:11].std(dim=0).min() > 0
