"""The evaluate command, and the gate of the train command, run as a user does."""

import json
import logging
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import START, run_command, run_process
from kforecast.artifact import INTERVALS, METADATA, TRIO, Artifact
from kforecast.data.panel import Panel
from kforecast.data.split import cells_between
from kforecast.errors import DataError
from kforecast.forecaster import Forecaster
from kforecast.metrics.synthetic import SyntheticSource
from kforecast.metrics.timerange import utc

GOLDEN = Path(__file__).parents[1] / "golden"
STEP = 600
# The smallest data from which a model learns enough to pass its gate, and the size of the long tests.
DAYS, ALL_DAYS = 8, 28
ALWAYS = ["optimizer.lr=0.005", "logger=none"]
QUICK = [*ALWAYS, "trainer.max_epochs=8", "refit=false", "callbacks.forecast_figures=null"]
LONG = [*ALWAYS, "trainer.max_epochs=20"]
# Number of judged bins, all after the data used by training.
JUDGED = 99


def seasonal(seed: int, days: int = DAYS) -> pd.DataFrame:
    """Two growing services with a daily and an hourly rhythm and a random walk of the level."""
    weeks = days > 14  # a weekend that was not seen before is no rhythm
    # The last value plus a difference has the noise of three bins; with little, a week cannot beat it.
    shape = {"hourly": 0.25, "trend": 0.2, "noise": 0.08 if weeks else 0.12, "spikes": 0.0, "gaps": 0.0}
    shape |= {"weekend": 0.6 if weeks else 1.0, "step": 60 if weeks else 300}
    return SyntheticSource(workloads=2, days=days, start=START, seed=seed, **shape).fetch()


def random_walks(seed: int, days: int = DAYS) -> pd.DataFrame:
    """Two services that nobody can forecast.

    One row per bin, because bin means of a finer random walk are not a random walk.
    """
    rng, count = np.random.default_rng(seed), days * 86_400 // STEP
    rows = {"timestamp": START + STEP * np.arange(count), "metric": "qps"}
    walks = {
        name: 100 * np.exp(np.cumsum(0.02 * rng.standard_normal(count))) for name in ("cart", "checkout")
    }
    return pd.concat([pd.DataFrame(rows | {"value": w, "workload": f"shop/{n}"}) for n, w in walks.items()])


def train(folder: Path, rows: pd.DataFrame, *arguments: str) -> subprocess.CompletedProcess[str]:
    rows.to_csv(folder / "traffic.csv", index=False)
    return run_command("kforecast-train", "--dataset-file=traffic.csv", *arguments, cwd=folder)


def evaluate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command("kforecast-evaluate", *arguments, cwd=folder)


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A model of seasonal traffic that passed its gate, and the folder of all files."""
    folder = tmp_path_factory.mktemp("trained")
    gate = ["gate.require_skill=0.0", "artifact_dir=model", "hydra.run.dir=run"]
    done = train(folder, seasonal(0), *QUICK, *gate)
    return SimpleNamespace(folder=folder, done=done)


def copied_model(trained: SimpleNamespace, folder: Path) -> Path:
    """A copy of that model, to be changed."""
    return Path(shutil.copytree(trained.folder / "model", folder / "model"))


def test_seasonal_traffic_passes_the_gate(trained: SimpleNamespace) -> None:
    assert trained.done.returncode == 0, trained.done.stdout + trained.done.stderr
    assert "Worth scaling on" in trained.done.stdout
    assert {path.name for path in (trained.folder / "model").iterdir()} == {*TRIO, METADATA, INTERVALS}
    assert not (trained.folder / "run" / "candidate").exists()
    result = json.loads((trained.folder / "run" / "result.json").read_text())
    assert (result["status"], result["artifact_dir"], result["rejected"]) == ("done", "model", None)


def test_a_random_walk_does_not_and_the_earlier_artifact_stays(
    tmp_path: Path, trained: SimpleNamespace
) -> None:
    model = copied_model(trained, tmp_path)
    before = files(model)
    gate = ["gate.require_skill=0.0", "artifact_dir=model", "hydra.run.dir=run"]
    done = train(tmp_path, random_walks(0), *QUICK, *gate)
    assert done.returncode == 4, done.stdout + done.stderr
    assert done.stderr.startswith("error: gate not passed (gate.require_skill=0): the skill over")
    assert len(done.stderr.splitlines()) == 1
    assert "model is left as it was, the model is in run/candidate" in done.stderr
    assert files(model) == before
    assert Forecaster.load(tmp_path / "run" / "candidate").item_ids == {
        "shop/cartqps": 0,
        "shop/checkoutqps": 1,
    }
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == "rejected"
    assert Path(result["artifact_dir"]) == tmp_path / "run" / "candidate"


def bursts(seed: int, density: float) -> pd.DataFrame:
    """Two services that are scaled to zero between bursts at random moments."""
    rng, count = np.random.default_rng(seed), 144 * 14
    rows = {"timestamp": START + STEP * np.arange(count), "metric": "qps"}
    values = np.where(rng.random((2, count)) < density, rng.exponential(50, (2, count)), 0.0)
    return pd.concat(
        [pd.DataFrame(rows | {"value": v, "workload": f"fn/{n}"}) for n, v in zip("ab", values, strict=True)]
    )


@pytest.mark.parametrize(
    "density", [0.03, *(pytest.param(density, marks=pytest.mark.slow) for density in (0.01, 0.1, 0.3))]
)
def test_scale_to_zero_traffic_is_blocked_in_words_and_by_the_gate(density: float, tmp_path: Path) -> None:
    gate = ["gate.require_skill=0.1", "artifact_dir=model", "hydra.run.dir=run"]
    done = train(tmp_path, bursts(1, density), *QUICK, *gate)
    assert done.returncode == 4, done.stdout + done.stderr
    reason = json.loads((tmp_path / "run" / "evaluation" / "report.json").read_text())["verdict"]["unfit"]
    assert "traffic" in reason
    assert f"Do not scale on it: {reason}." in done.stdout
    assert done.stderr.startswith(
        f"error: gate not passed (gate.require_skill=0.1): {reason}; nothing is published"
    )
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_the_gate_tells_random_walks_from_seasonal_traffic(seed: int, tmp_path: Path) -> None:
    for make, code in ((random_walks, 4), (seasonal, 0)):
        folder = tmp_path / make.__name__
        folder.mkdir()
        gate = ["gate.require_skill=0.0", "artifact_dir=model", f"seed={seed}"]
        done = train(folder, make(seed, ALL_DAYS), *LONG, *gate)
        assert done.returncode == code, done.stdout + done.stderr
        assert (folder / "model").exists() == (code == 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_intervals_hold_what_they_promise_on_stationary_traffic(seed: int, tmp_path: Path) -> None:
    stationary = ["source.days=56", "source.trend=0", "source.weekend=1", "source.spikes=0"]
    done = run_command(
        *("kforecast-train", "source=synthetic", f"source.seed={seed}", *stationary, "logger=none"),
        "hydra.run.dir=run",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    overall = json.loads((tmp_path / "run" / "evaluation" / "report.json").read_text())["overall"]
    for promised in (80, 90, 95):
        assert overall[f"coverage_{promised}"] == pytest.approx(promised / 100, abs=0.03)


@pytest.mark.parametrize("seeds", ["1", pytest.param("1,2", marks=pytest.mark.slow)])
def test_a_rejected_job_of_a_sweep_is_in_the_table(seeds: str, tmp_path: Path) -> None:
    count = len(seeds.split(","))
    overrides = [f"seed={seeds}", "gate.require_skill=0.0", "artifact_dir=model", "hydra.sweep.dir=sweep"]
    done = train(tmp_path, random_walks(1, days=3), "-m", *QUICK, "experiment=smoke", *overrides)
    assert done.returncode == 3, done.stdout + done.stderr
    results = pd.read_csv(tmp_path / "sweep" / "results.csv")
    assert list(results["status"]) == ["rejected"] * count
    assert results["score"].notna().all()
    assert "rejected" in done.stdout
    assert not (tmp_path / "model").exists()


@pytest.fixture(scope="module")
def judged(trained: SimpleNamespace) -> SimpleNamespace:
    """That model judged on every third of the newest bins."""
    start = START + STEP * (144 * DAYS - JUDGED)
    before = files(trained.folder / "model")
    done = evaluate(
        trained.folder,
        "artifact_dir=model",
        "--dataset-file=traffic.csv",
        f"evaluate.start={start}",
        "evaluate.stride=3",
        "evaluate.require_skill=0.0",
        "hydra.run.dir=judged",
    )
    out = trained.folder / "judged"
    return SimpleNamespace(folder=trained.folder, out=out, done=done, start=start, before=before)


def test_the_summary_fits_one_screen_and_the_verdict_is_clear(judged: SimpleNamespace) -> None:
    assert judged.done.returncode == 0, judged.done.stderr
    lines = judged.done.stdout.splitlines()
    assert len(lines) <= 25
    assert "Worth scaling on" in judged.done.stdout
    assert lines[-1] == "report: judged/report.html"


def test_the_artifact_stays_as_it_is(judged: SimpleNamespace) -> None:
    assert files(judged.folder / "model") == judged.before


def test_every_file_is_there(judged: SimpleNamespace) -> None:
    names = {path.relative_to(judged.out).as_posix() for path in judged.out.rglob("*") if path.is_file()}
    pictures = {"forecasts", "steps", "baselines", "replicas", "cost", "calibration"}
    expected = {"report.html", "report.json", "scores.csv", "forecasts.csv", ".hydra/config.yaml"}
    assert expected | {f"figures/{name}.png" for name in pictures} <= names
    events = EventAccumulator(str(judged.out / "tensorboard"))
    events.Reload()
    assert {f"evaluation/{name}" for name in pictures} <= set(events.Tags()["images"])


def test_forecasts_are_those_of_the_origins_asked_for(judged: SimpleNamespace) -> None:
    frame = pd.read_csv(judged.out / "forecasts.csv")
    quantiles = [f"q{level:g}" for level in (0.025, 0.05, 0.1, 0.5, 0.9, 0.95, 0.975)]
    assert list(frame.columns) == [
        *("workload", "metric", "origin", "step", "timestamp", "value", "actual"),
        *quantiles,
    ]
    # All targets are in the span; the recorded origin is the bin just before the first target.
    last = START + STEP * (144 * DAYS - 1)
    origins = np.arange(judged.start - STEP, last - 3 * STEP + 1, 3 * STEP)
    assert sorted(frame["origin"].unique()) == origins.tolist()
    assert (frame["timestamp"] == frame["origin"] + STEP * frame["step"]).all()
    assert len(frame) == 2 * 3 * len(origins)
    assert (np.diff(frame[quantiles], axis=1) >= 0).all()
    assert (frame[quantiles] >= 0).all(axis=None)
    history = pd.read_csv(judged.folder / "traffic.csv")
    bins = history.assign(timestamp=history["timestamp"] // STEP * STEP)
    seen = bins.groupby(["workload", "metric", "timestamp"])["value"].mean().rename("seen").reset_index()
    both = frame.merge(seen, on=["workload", "metric", "timestamp"])
    assert len(both) == len(frame)
    np.testing.assert_allclose(both["actual"], both["seen"], rtol=1e-5)
    # One forecast computed by hand.
    origin = origins[7]
    alone = Forecaster.load(judged.folder / "model").forecast(history[history["timestamp"] < origin + STEP])
    chosen = frame[frame["origin"] == origin]
    np.testing.assert_allclose(chosen["value"], alone["value"], rtol=1e-5)


def test_report_json_and_scores_agree_with_the_forecasts(judged: SimpleNamespace) -> None:
    report = json.loads((judged.out / "report.json").read_text())
    frame = pd.read_csv(judged.out / "forecasts.csv")
    error = (frame["value"] - frame["actual"]).abs()
    by_series = error.groupby(frame["workload"]).sum() / frame["actual"].groupby(frame["workload"]).sum()
    assert report["overall"]["wape"] == pytest.approx(by_series.mean(), rel=1e-5)
    assert {row["workload"]: row["wape"] for row in report["series"]} == pytest.approx(
        by_series.to_dict(), rel=1e-5
    )
    scores = pd.read_csv(judged.out / "scores.csv")
    assert list(scores.columns[:9]) == [
        *("model", "workload", "metric", "step", "mae", "rmse", "wape", "mase", "bias"),
    ]
    row = scores[(scores["model"] == "kforecast") & (scores["workload"] == "*") & (scores["step"] == "all")]
    assert row["wape"].item() == pytest.approx(report["overall"]["wape"])
    assert report["skill"]["low"] > 0
    assert report["verdict"]["tone"] == "good"
    assert report["span"]["stride"] == 3
    cost = {name: policy["cost"] for name, policy in report["capacity"]["policies"].items()}
    assert cost["perfect"] <= cost["max(reactive, forecast)"] < cost["reactive"]


@pytest.fixture(scope="module")
def demanding(trained: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """That model on one of its series, without a start; the gate is too strict, and intervals are saved."""
    folder = tmp_path_factory.mktemp("demanding")
    model = copied_model(trained, folder)
    history = pd.read_csv(trained.folder / "traffic.csv")
    history[history["workload"] == "shop/cart"].to_csv(folder / "one.csv", index=False)
    more = ["evaluate.require_skill=0.95", "evaluate.save_intervals=true", "hydra.run.dir=run"]
    done = evaluate(folder, "artifact_dir=model", "--dataset-file=one.csv", *more)
    return SimpleNamespace(folder=folder, model=model, done=done)


def test_too_high_a_demand_is_exit_code_4_and_the_report_is_there(demanding: SimpleNamespace) -> None:
    assert demanding.done.returncode == 4, demanding.done.stderr
    last = demanding.done.stderr.splitlines()[-1]
    assert last.startswith("error: gate not passed (evaluate.require_skill=0.95)")
    assert (demanding.folder / "run" / "report.html").exists()


def test_without_a_start_the_span_begins_after_what_training_used(demanding: SimpleNamespace) -> None:
    metadata = Artifact.load(demanding.model).metadata
    assert metadata is not None
    report = json.loads((demanding.folder / "run" / "report.json").read_text())
    assert report["span"]["start"] == metadata["data"]["validation_end"]
    assert report["age"]["counted_from"] == "the end of the training data"
    assert "used in training: the scores" not in demanding.done.stderr


def test_newer_intervals_of_one_series_leave_those_of_the_others(
    demanding: SimpleNamespace, trained: SimpleNamespace
) -> None:
    before = Artifact.load(trained.folder / "model").intervals
    after = Artifact.load(demanding.model).intervals
    assert before is not None
    assert after is not None
    assert set(after.series) == {"shop/cartqps", "shop/checkoutqps"}
    assert after.series["shop/cartqps"].windows != before.series["shop/cartqps"].windows
    np.testing.assert_array_equal(after.pooled, before.pooled)
    levels = [0.1, 0.9]
    history = pd.read_csv(trained.folder / "traffic.csv")
    checkout = history[history["workload"] == "shop/checkout"]
    newer, older = (
        Forecaster.load(folder).forecast(checkout, quantiles=levels)
        for folder in (demanding.model, trained.folder / "model")
    )
    pd.testing.assert_frame_equal(newer, older)


def with_strangers(trained: SimpleNamespace) -> pd.DataFrame:
    """The series, and each of them again under a name that the artifact does not know."""
    known = pd.read_csv(trained.folder / "traffic.csv")
    return pd.concat([known, known.assign(workload=known["workload"].astype(str) + ", new café")])


@pytest.fixture(scope="module")
def flattered(trained: SimpleNamespace) -> SimpleNamespace:
    """That model on a day of its training data, with its series and as many unknown ones."""
    with_strangers(trained).to_csv(trained.folder / "all.csv", index=False)
    done = evaluate(
        trained.folder,
        "artifact_dir=model",
        "--dataset-file=all.csv",
        "evaluate.start=2024-01-04",
        "evaluate.end=2024-01-04T23:50:00Z",
        "hydra.run.dir=flattered",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((trained.folder / "flattered" / "report.json").read_text())
    return SimpleNamespace(done=done, report=report)


def test_a_span_that_was_trained_on_is_said(flattered: SimpleNamespace) -> None:
    assert "used in training" in flattered.done.stderr
    assert flattered.report["span"]["start"] == START + 3 * 86_400
    assert flattered.report["span"]["end"] == START + 4 * 86_400 - STEP


def test_series_that_were_not_trained_on_are_judged_where_all_share_an_embedding(
    flattered: SimpleNamespace,
) -> None:
    wape = {row["workload"]: row["wape"] for row in flattered.report["series"]}
    assert len(wape) == 4
    assert wape["shop/cart, new café"] == pytest.approx(wape["shop/cart"], rel=1e-4)


NEWEST = f"2024-01-{DAYS:02} 23:50:00"


@pytest.mark.parametrize(
    "span, words",
    [
        ({"start": "2030-01-01"}, ["evaluate.start is 2030-01-01 00:00:00", NEWEST]),
        ({"end": "2020-01-01"}, ["evaluate.end is 2020-01-01 00:00:00"]),
        ({"start": NEWEST[:-4] + "0"}, ["1 bins", "less than a horizon of 3"]),
    ],
)
def test_an_empty_span_is_bad_input(span: dict[str, str], words: list[str], trained: SimpleNamespace) -> None:
    forecaster = Forecaster.load(trained.folder / "model")
    with pytest.raises(DataError) as caught:
        forecaster.evaluate(pd.read_csv(trained.folder / "traffic.csv"), **span)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_an_empty_span_is_bad_input_of_the_command(trained: SimpleNamespace) -> None:
    empty = ["evaluate.start=2030-01-01", "hydra.run.dir=empty"]
    done = evaluate(trained.folder, "artifact_dir=model", "--dataset-file=traffic.csv", *empty)
    assert done.returncode == 2, done.stderr
    assert "error: nothing to judge: evaluate.start is 2030-01-01 00:00:00" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_directory_that_is_not_there_is_said_by_a_process_of_its_own(tmp_path: Path) -> None:
    done = run_process("kforecast-evaluate", "artifact_dir=nowhere", "source=synthetic", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: artifact_dir: nowhere: no such directory\n"
    assert list(tmp_path.iterdir()) == []


def test_series_that_the_artifact_does_not_know_are_left_out_and_said(
    trained: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    model = copied_model(trained, tmp_path)
    artifact = Artifact.load(model)
    artifact.state["static_embeddings.0.weight"][1] += 0.1  # makes the embeddings differ
    artifact.save(model)
    forecaster, more = Forecaster.load(model), with_strangers(trained)
    found = forecaster.evaluate(more)
    assert "2 of 4 series are not in the artifact: shop/cart, new café qps" in caplog.text
    assert [row["workload"] for row in found.board.as_dict()["series"]] == ["shop/cart", "shop/checkout"]
    with pytest.raises(DataError, match="none of the series is in the artifact"):
        forecaster.evaluate(more[more["workload"].str.contains("new")])


def made_elsewhere(folder: Path) -> tuple[Path, Path]:
    """A trio without metadata, and a history of its series long enough for an evaluation."""
    model = folder / "model"
    model.mkdir(parents=True)
    for name in TRIO:
        (model / name).write_bytes((GOLDEN / "trio_1min" / "model" / name).read_bytes())
    pairs = pd.read_csv(GOLDEN / "trio_1min" / "history.csv")[["workload", "metric"]].drop_duplicates()
    rng, time = np.random.default_rng(3), np.arange(2000)
    frames = [
        pd.DataFrame({"timestamp": START + 60 * time, "value": 100 + rng.normal(0, 10, 2000)}).assign(
            workload=pair.workload, metric=pair.metric
        )
        for pair in pairs.itertuples()
    ]
    history = folder / "history.csv"
    pd.concat(frames).to_csv(history, index=False)
    return model, history


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A trio made elsewhere, evaluated as Kapacity's job serves it."""
    folder = tmp_path_factory.mktemp("elsewhere")
    model, history = made_elsewhere(folder)
    before = files(model)
    arguments = ["artifact_dir=model", "source=csv", f"source.path={history}", "hydra.run.dir=consumed"]
    done = evaluate(folder, *arguments, "evaluate.as_consumed=true")
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(folder=folder, model=model, history=history, before=before, done=done)


def test_a_trio_made_elsewhere(elsewhere: SimpleNamespace) -> None:
    assert "made elsewhere" in elsewhere.done.stderr
    assert files(elsewhere.model) == elsewhere.before
    report = Forecaster.load(elsewhere.model).evaluate(pd.read_csv(elsewhere.history)).board.as_dict()
    # The newest fifth; intervals are calibrated on the fifth before it.
    assert report["span"]["start"] == START + 60 * 1600
    assert report["overall"]["coverage_80"] == pytest.approx(0.8, abs=0.06)
    assert report["age"]["counted_from"] == "the start of the span"
    consumed = json.loads((elsewhere.folder / "consumed" / "report.json").read_text())
    assert (consumed["span"], consumed["age"]["counted_from"]) == (
        report["span"],
        "the start of the span",
    )


def test_as_consumed_is_what_the_job_would_serve(elsewhere: SimpleNamespace) -> None:
    forecaster = Forecaster.load(elsewhere.model)
    history = pd.read_csv(elsewhere.history)
    own = forecaster.evaluate(history).forecasts
    consumed = pd.read_csv(elsewhere.folder / "consumed" / "forecasts.csv")
    panel = Panel.from_frame(history, forecaster.window.frequency)
    cells = cells_between(panel, forecaster.window, 1600, 2000)
    series, origin = np.divmod(cells, panel.num_bins)
    served = forecaster.forecast_windows(panel, series, origin, as_consumed=True)
    np.testing.assert_allclose(consumed["value"], served.values.reshape(-1), rtol=1e-5)
    # Only series 0 is served with its own embedding.
    keys = own["workload"].astype(str) + own["metric"].astype(str)
    first = keys == next(key for key, n in forecaster.item_ids.items() if n == 0)
    np.testing.assert_allclose(consumed["value"][first], own["value"][first], rtol=1e-5)
    if not first.all():
        assert not np.allclose(consumed["value"][~first], own["value"][~first], rtol=1e-3)


def test_intervals_are_kept_beside_a_trio_on_request(elsewhere: SimpleNamespace, tmp_path: Path) -> None:
    model = Path(shutil.copytree(elsewhere.model, tmp_path / "model"))
    arguments = ["artifact_dir=model", f"--dataset-file={elsewhere.history}"]
    asked = [*arguments, "forecast.quantiles=[0.1,0.9]"]
    refused = run_command("kforecast-forecast", *asked, cwd=tmp_path)
    assert refused.returncode == 2
    assert "evaluate.save_intervals=true" in refused.stderr
    done = evaluate(tmp_path, *arguments, "evaluate.save_intervals=true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "intervals: model/intervals.json"
    kept = files(model)
    assert INTERVALS in kept
    del kept[INTERVALS]
    assert kept == elsewhere.before
    served = run_command("kforecast-forecast", *asked, cwd=tmp_path)
    assert served.returncode == 0, served.stderr
    assert served.stdout.splitlines()[0].endswith(",value,q0.1,q0.9,age")


def test_intervals_that_cannot_be_made_are_an_error_behind_the_report(
    tmp_path: Path, trained: SimpleNamespace
) -> None:
    history = pd.read_csv(trained.folder / "traffic.csv")
    start = START + STEP * (144 * DAYS - JUDGED)
    history[history["timestamp"] >= start].to_csv(tmp_path / "new.csv", index=False)
    model = copied_model(trained, tmp_path)
    (model / INTERVALS).unlink()
    arguments = ["--dataset-file=new.csv", "evaluate.save_intervals=true", "hydra.run.dir=run"]
    done = evaluate(tmp_path, "artifact_dir=model", *arguments)
    assert done.returncode == 2
    assert f"error: evaluate.save_intervals: before {utc(start)} there are less than 20" in done.stderr
    assert (tmp_path / "run" / "report.html").exists()
    assert not (model / INTERVALS).exists()
    # Series that begin within the span are sized by the span.
    assert "2 of 2 series have no traffic before the span" in done.stdout
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    hours = JUDGED * STEP / 3600
    assert 0 < report["capacity"]["policies"]["perfect"]["replica_hours"] < 2 * hours * 30


def test_the_gate_judges_per_series_models_too(tmp_path: Path) -> None:
    traffic = ["source.step=600", f"source.days={DAYS}", "source.workloads=8", "source.weekend=1"]
    done = run_command(
        *("kforecast-train", "source=synthetic", *traffic, "source.spikes=0", "logger=none"),
        *("artifact.per_series=true", "artifact_dir=model", "hydra.run.dir=run", "refit=false"),
        # One epoch is enough for the shared embedding, but not for individual ones.
        *("gate.require_skill=0.12", "trainer.max_epochs=1", "average_windows=null"),
        "callbacks.forecast_figures=null",
        cwd=tmp_path,
    )
    assert done.returncode == 4, done.stdout + done.stderr
    assert "Worth scaling on" in done.stdout
    assert "with an embedding for each series the skill over" in done.stderr
    assert "nothing is published" in done.stderr
    assert not (tmp_path / "model").exists()
