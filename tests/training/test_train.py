"""kforecast-train as a user runs it: one real training, with all its results checked."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import run_command
from kforecast.artifact import Artifact
from kforecast.forecaster import Forecaster

CONFIG = """
targets:
- workloadNamespace: shop
  workloadName: cart
  historyLength: 48H
  metrics:
  - name: qps
    type: Object
    object:
      metric: {name: requests}
      describedObject: {apiVersion: networking.k8s.io/v1, kind: Ingress, name: shop}
freq: 10min
predictionLength: 3
contextLength: 7
hyperParams: {learningRate: 0.002, epochs: 3, batchSize: 64}
"""

NOTHING_HELD_OUT = ["data.validation=0", "data.test=0", "monitor=train/loss"]  # so there is no report
BASELINES = {
    *("last value", "moving average", "same time yesterday", "same time last week", "mean by time of week"),
    *("last value plus daily difference", "last value plus weekly difference"),
    *("training mean", "always zero"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One training with the documented command line and a few overrides."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "train-config.yaml").write_text(CONFIG)
    # Services at different levels; one has gaps, one starts late.
    rng = np.random.default_rng(0)
    time = np.arange(500)
    frames = []
    for name, level, seen in (("cart", 50, rng.random(500) > 0.05), ("search", 400, time > 40)):
        value = level * (1.5 + np.sin(time / 23) + 0.1 * rng.standard_normal(500))
        rows = pd.DataFrame({"timestamp": 1_700_000_400 + 600 * time, "value": value})[seen]
        frames.append(rows.assign(workload=f"shop/{name}", metric="qps"))
    pd.concat(frames).to_csv(folder / "traffic.csv", index=False)
    done = run_command(
        "kforecast-train",
        "--config-file=train-config.yaml",
        "--dataset-file",
        "traffic.csv",
        "--model-save-path=model",
        "trainer.max_epochs=4",
        "artifact.per_series=true",
        "refit=false",  # so that the artifact has the weights of best.ckpt
        "hydra.run.dir=run",
        cwd=folder,
    )
    return SimpleNamespace(done=done, folder=folder, run=folder / "run", model=folder / "model")


def test_succeeds_and_says_what_it_did(run: SimpleNamespace) -> None:
    assert run.done.returncode == 0, run.done.stderr
    for words in (
        "shop/cart",
        "last value",
        "same time yesterday",
        "perfect knowledge",
        "Intervals: coverage",
        "best epoch",
        "kforecast-forecast",
        "Seed 42",
    ):
        assert words in run.done.stdout
    size = (run.model / "checkpoint.pth").stat().st_size
    assert f"The checkpoint will have {size / 1024:.0f} KiB" in run.done.stdout
    assert run.done.stderr == ""


def test_log_file_holds_the_lines_users_look_for(run: SimpleNamespace) -> None:
    log = (run.run / "train.log").read_text()
    line = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - INFO: "
    assert pd.Series(log.splitlines()).str.match(line + r"Epoch: 1 cost time: [\d.]+").any()
    assert (
        pd.Series(log.splitlines())
        .str.match(line + r"Epoch: 1, Steps: \d+ \| Train Loss: [\d.]+ Validation Loss: [\d.]+")
        .any()
    )
    assert "Validation loss decreased (inf --> " in log
    assert "best epoch" in log


def test_the_file_is_one_layer_of_the_composed_config(run: SimpleNamespace) -> None:
    config = yaml.safe_load((run.run / ".hydra" / "config.yaml").read_text())
    assert config["optimizer"]["lr"] == 0.002
    assert config["data"]["batch_size"] == 64
    assert config["trainer"]["max_epochs"] == 4  # the command line wins


def test_artifact_holds_the_best_checkpoint(run: SimpleNamespace) -> None:
    artifact = Artifact.load(run.model)
    best = torch.load(run.run / "checkpoints" / "best.ckpt", weights_only=True)
    result = json.loads((run.run / "result.json").read_text())
    assert (result["status"], result["best_epoch"]) == ("done", best["epoch"] + 1)
    for name, value in artifact.state.items():
        trained = best["state_dict"][f"net.{name}"]
        if name == "dynamic_embeddings.3.weight":  # all days of the month share one row
            trained = trained[:1]
        torch.testing.assert_close(value, trained.expand_as(value), rtol=0, atol=0)
    assert artifact.item_ids == {"shop/cartqps": 0, "shop/searchqps": 1}
    assert artifact.config.num_series == 2
    assert (artifact.config.learning_rate, artifact.config.epochs, artifact.config.batch_size) == (
        0.002,
        4,
        64,
    )


def test_metadata_tells_how_it_was_made(run: SimpleNamespace) -> None:
    metadata = Artifact.load(run.model).metadata
    assert metadata is not None
    assert metadata["seed"] == 42
    assert metadata["config"]["window"] == {"freq": "10min", "context_length": 7, "prediction_length": 3}
    assert metadata["libraries"]["torch"] == torch.__version__
    assert len(metadata["data"]["fingerprint"]) == 64
    scoreboard = metadata["scores"]["scoreboard"]
    assert set(scoreboard["baselines"]) == BASELINES
    assert 0 < scoreboard["overall"]["wape"] < 10
    assert scoreboard["skill"]["best_baseline"] in BASELINES
    assert set(metadata["sha256"]) == {"checkpoint.pth", "estimator_config.yaml", "item2id.json"}


def test_kapacity_serves_every_series_as_we_forecast_it(run: SimpleNamespace) -> None:
    forecaster, history = Forecaster.load(run.model), pd.read_csv(run.folder / "traffic.csv")
    pd.testing.assert_frame_equal(
        forecaster.forecast(history), forecaster.forecast(history, as_consumed=True), rtol=1e-6
    )


def test_per_series_trios_have_embeddings_of_their_own(run: SimpleNamespace) -> None:
    history = pd.read_csv(run.folder / "traffic.csv")
    rows = {}
    for number, name in enumerate(("cart", "search")):
        directory = run.model / "per_series" / f"{number}-shop-{name}-qps"
        artifact = Artifact.load(directory)
        assert artifact.config.num_series == 1
        assert dict(artifact.item_ids) == {f"shop/{name}qps": 0}
        rows[name] = artifact.state["static_embeddings.0.weight"]
        alone = history[history["workload"] == f"shop/{name}"]
        assert len(Forecaster.load(directory).forecast(alone)) == 3
    assert not torch.equal(rows["cart"], rows["search"])


def test_the_scoreboard_is_that_of_the_evaluate_command(run: SimpleNamespace) -> None:
    """Same origins, same numbers: one evaluates the network in memory, the other the artifact."""
    data = Artifact.load(run.model).metadata["data"]
    done = run_command(
        "kforecast-evaluate",
        "artifact_dir=model",
        "--dataset-file=traffic.csv",
        f"evaluate.start={data['validation_end']}",
        "hydra.run.dir=judged",
        cwd=run.folder,
    )
    assert done.returncode == 0, done.stderr
    for name in ("scores.csv", "forecasts.csv"):
        trained = pd.read_csv(run.run / "evaluation" / name)
        pd.testing.assert_frame_equal(trained, pd.read_csv(run.folder / "judged" / name), rtol=1e-4)
    of_train, of_evaluate = (
        json.loads((folder / "report.json").read_text())
        for folder in (run.run / "evaluation", run.folder / "judged")
    )
    assert of_train["overall"] == pytest.approx(of_evaluate["overall"], rel=1e-4)
    assert of_train["skill"]["low"] == pytest.approx(of_evaluate["skill"]["low"], rel=1e-3)


def test_intervals_are_calibrated_for_the_whole_and_for_each_series(run: SimpleNamespace) -> None:
    history = pd.read_csv(run.folder / "traffic.csv")
    levels = [0.05, 0.5, 0.95]
    whole = Forecaster.load(run.model).forecast(history, quantiles=levels)
    assert (whole["q0.05"] < whole["q0.95"]).all()
    alone = Forecaster.load(run.model / "per_series" / "0-shop-cart-qps")
    cart = alone.forecast(history[history["workload"] == "shop/cart"], quantiles=levels)
    assert (cart["q0.05"] < cart["q0.95"]).all()


def test_forecast_command_with_quantiles(run: SimpleNamespace) -> None:
    done = run_command(
        "kforecast-forecast",
        "artifact_dir=model",
        "--dataset-file=traffic.csv",
        "forecast.quantiles=[0.9,0.1]",
        cwd=run.folder,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "timestamp,workload,metric,value,q0.9,q0.1,age"


def test_data_summary_counts_what_is_there(run: SimpleNamespace) -> None:
    summary = pd.read_csv(run.run / "data_summary.csv").set_index("workload")
    history = pd.read_csv(run.folder / "traffic.csv")
    assert summary["points"].to_dict() == history.groupby("workload").size().to_dict()
    assert summary.loc["shop/search", "missing"] == 0  # it starts late, but has no gaps
    assert summary.loc["shop/cart", "missing"] > 0
    assert (summary[["train", "validation", "test"]] > 0).all(axis=None)


def test_tensorboard_has_curves_figure_and_the_real_score(run: SimpleNamespace) -> None:
    events = EventAccumulator(str(run.run / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {
        "train/loss",
        "validation/loss",
        "epoch/learning_rate",
        "epoch/seconds",
        "epoch/windows_per_second",
        "score/validation_loss",
    } <= set(tags["scalars"])
    assert len(events.Scalars("validation/loss")) == 4
    pictures = {"forecasts", "steps", "baselines", "replicas", "cost", "calibration"}
    assert {"forecast/validation", *(f"evaluation/{name}" for name in pictures)} <= set(tags["images"])
    score = json.loads((run.run / "result.json").read_text())["score"]
    assert events.Scalars("score/validation_loss")[0].value == pytest.approx(score)
    assert score == pytest.approx(min(event.value for event in events.Scalars("validation/loss")))
    assert "_hparams_/session_start_info" in events.summary_metadata
    assert "hp_metric" not in tags["scalars"]


def test_forecast_command(run: SimpleNamespace) -> None:
    done = run_command(
        "kforecast-forecast", "artifact_dir=model", "source=csv", "source.path=traffic.csv", cwd=run.folder
    )
    assert done.returncode == 0, done.stderr
    header, *rows = done.stdout.splitlines()
    assert header == "timestamp,workload,metric,value,age"
    expected = Forecaster.load(run.model).forecast(pd.read_csv(run.folder / "traffic.csv"))
    assert [row.split(",")[1] for row in rows] == expected["workload"].tolist()
    np.testing.assert_allclose([float(row.split(",")[3]) for row in rows], expected["value"], rtol=1e-6)


def test_forecast_serves_series_that_were_not_trained_on(run: SimpleNamespace) -> None:
    history = pd.read_csv(run.folder / "traffic.csv")
    stranger = history[history["workload"] == "shop/cart"].assign(workload="shop/new, café")
    pd.concat([history, stranger]).to_csv(run.folder / "more.csv", index=False)
    done = run_command(
        "kforecast-forecast",
        "artifact_dir=model",
        "--dataset-file=more.csv",
        "output=next.csv",
        cwd=run.folder,
    )
    assert (done.returncode, done.stderr) == (0, "")
    made = pd.read_csv(run.folder / "next.csv").set_index("workload")
    assert made.index.unique().tolist() == ["shop/cart", "shop/new, café", "shop/search"]
    np.testing.assert_allclose(made.loc["shop/new, café", "value"], made.loc["shop/cart", "value"], rtol=1e-5)


def test_forecast_names_a_series_without_values(run: SimpleNamespace) -> None:
    history = pd.read_csv(run.folder / "traffic.csv")
    history.loc[history["workload"] == "shop/search", "value"] = np.nan
    history.to_csv(run.folder / "silent.csv", index=False)
    done = run_command(
        "kforecast-forecast",
        "artifact_dir=model",
        "--dataset-file=silent.csv",
        "output=a/b.csv",
        cwd=run.folder,
    )
    assert done.returncode == 2
    assert "shop/search qps (no value is known)" in done.stderr
    assert pd.read_csv(run.folder / "a" / "b.csv")["workload"].unique().tolist() == ["shop/cart"]


def test_the_same_seed_gives_the_same_weights(run: SimpleNamespace) -> None:
    states = []
    for workers in (0, 2):
        done = run_command(
            "kforecast-train",
            "--dataset-file=traffic.csv",
            f"--dataloader-num-workers={workers}",
            f"--model-save-path=again{workers}",
            *("trainer.max_epochs=1", "logger=none", *NOTHING_HELD_OUT),
            cwd=run.folder,
        )
        assert done.returncode == 0, done.stderr
        states.append(Artifact.load(run.folder / f"again{workers}").state)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_large_checkpoint_and_daily_bins_are_warned_of(run: SimpleNamespace) -> None:
    daily = pd.read_csv(run.folder / "traffic.csv")
    first = daily["timestamp"].min() // 86_400
    daily["timestamp"] = (first + (daily["timestamp"] - daily["timestamp"].min()) // 600) * 86_400
    daily.to_csv(run.folder / "daily.csv", index=False)
    done = run_command(
        "kforecast-train",
        "--dataset-file=daily.csv",
        "window=1d",
        "window.context_length=32",
        *("experiment=smoke", "logger=none", *NOTHING_HELD_OUT),
        cwd=run.folder,
    )
    assert done.returncode == 0, done.stderr
    assert "will not fit a ConfigMap" in done.stdout
    assert "ten hours apart" in done.stdout
