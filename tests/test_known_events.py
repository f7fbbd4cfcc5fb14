"""Known events in the commands: learned by a training, kept by its artifact, put into forecasts."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import kforecast
from conftest import START, run_command
from kforecast.artifact import METADATA, TRIO, Artifact
from kforecast.data.events.known import KnownEvents
from kforecast.errors import ArtifactError
from kforecast.forecaster import Forecaster

DAYS, HOUR = 28, 3600
TRAIN = ("source=csv", "source.path=traffic.csv", "window=1h", "trainer.max_epochs=1", "logger=none")
FACTOR = 3.0


def hours(day: int, hour: int) -> int:
    return START + day * 24 * HOUR + hour * HOUR


PAST = [(hours(9, 12), hours(9, 15)), (hours(15, 9), hours(15, 12)), (hours(20, 17), hours(20, 20))]
NEXT = (hours(DAYS, 0), hours(DAYS, 6))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with traffic, events and an artifact that has learned them."""
    folder = tmp_path_factory.mktemp("events")
    second = START + HOUR * np.arange(DAYS * 24)
    value = 100 * (1.4 + np.sin(2 * np.pi * second / 86_400))
    for begin, end in PAST:
        value[(second >= begin) & (second < end)] *= FACTOR
    frame = pd.DataFrame({"timestamp": second, "value": value, "workload": "shop/web", "metric": "qps"})
    frame.to_csv(folder / "traffic.csv", index=False)
    rows = [f"{begin},{end},shop/web,sale" for begin, end in (*PAST, NEXT)]
    (folder / "events.csv").write_text("start,end,workload,name\n" + "\n".join(rows) + "\n")
    done = run_command("kforecast-train", *TRAIN, "data.events=events.csv", "artifact_dir=model", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Event sale: x3" in done.stdout + done.stderr
    assert "Kapacity's job knows no events" in done.stdout + done.stderr
    assert (done.stdout + done.stderr).rstrip().endswith("data.events=events.csv"), "the next command"
    return folder


def forecasts(folder: Path, *arguments: str) -> tuple[np.ndarray, str]:
    command = ("artifact_dir=model", "source=csv", "source.path=traffic.csv", *arguments)
    done = run_command("kforecast-forecast", *command, cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "out.csv").write_text(done.stdout)
    return pd.read_csv(folder / "out.csv")["value"].to_numpy(), done.stderr


def test_a_future_event_raises_the_forecast_by_its_effect(trained: Path) -> None:
    without, _ = forecasts(trained)
    found, said = forecasts(trained, "data.events=events.csv")
    np.testing.assert_allclose(found / without, FACTOR, rtol=0.05)
    assert "WARNING" not in said
    consumed, said = forecasts(trained, "data.events=events.csv", "forecast.as_consumed=true")
    np.testing.assert_allclose(consumed, without, rtol=0.05)
    assert "Kapacity's job knows no events" in said


def test_the_artifact_keeps_the_effect_and_the_three_files_as_they_are(trained: Path) -> None:
    metadata = json.loads((trained / "model" / METADATA).read_text())
    assert metadata["effects"]["sale"]["count"] == 3
    artifact = Artifact.load(trained / "model")
    assert "effects" not in artifact.config.to_yaml()
    assert {path.name for path in (trained / "model").iterdir()} >= {*TRIO}


def test_intervals_widen_with_the_effect(trained: Path) -> None:
    frame = pd.read_csv(trained / "traffic.csv")
    made = Forecaster.load(trained / "model")
    usual = made.forecast(frame, quantiles=[0.9])
    found = made.knowing(KnownEvents.read(trained / "events.csv")).forecast(frame, quantiles=[0.9])
    ratio = (found["q0.9"] - found["value"]) / (usual["q0.9"] - usual["value"])
    np.testing.assert_allclose(ratio, FACTOR, rtol=0.1)


def test_an_evaluation_knows_them(trained: Path) -> None:
    # An event in the judged span: the artifact forecasts it only if it is told.
    frame = pd.read_csv(trained / "traffic.csv")
    judged = (hours(26, 10), hours(26, 14))
    frame.loc[frame["timestamp"].between(judged[0], judged[1] - 1), "value"] *= FACTOR
    frame.to_csv(trained / "more.csv", index=False)
    rows = [f"{begin},{end},shop/web,sale" for begin, end in (*PAST, judged)]
    (trained / "more-events.csv").write_text("start,end,workload,name\n" + "\n".join(rows) + "\n")
    errors = []
    for number, more in enumerate(([], ["data.events=more-events.csv"])):
        command = ("artifact_dir=model", "source=csv", "source.path=more.csv", f"hydra.run.dir=run{number}")
        done = run_command("kforecast-evaluate", *command, *more, cwd=trained)
        assert done.returncode == 0, done.stderr
        report = json.loads((trained / f"run{number}" / "report.json").read_text())
        errors.append(report["overall"]["wape"])
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("command", ["kforecast-train", "kforecast-forecast", "kforecast-evaluate"])
def test_a_wrong_file_is_refused_before_anything_else(trained: Path, command: str) -> None:
    (trained / "wrong.csv").write_text("start,end,workload,name\n1,2,web,\n2024-01-01,2024-01-02,web,x\n")
    arguments = ["artifact_dir=model", "source=csv", "source.path=traffic.csv", "data.events=wrong.csv"]
    if command != "kforecast-forecast":
        arguments.append("hydra.run.dir=refused")
    done = run_command(command, *arguments, cwd=trained)
    assert done.returncode == 2
    assert "data.events: wrong.csv has" in done.stderr
    assert "line 2: no name" in done.stderr
    assert "line 3: start is 2024-01-01 00:00:00, without a time zone" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (trained / "refused").exists()


def test_incidents_are_suggested_and_left_out(trained: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(trained / "traffic.csv")
    down = frame["timestamp"].between(hours(12, 8), hours(12, 13) - 1)
    frame.loc[down, "value"] = 0
    frame.to_csv(tmp_path / "traffic.csv", index=False)
    command = ("source=csv", "source.path=traffic.csv", "window=1h", "--suggest-events")
    done = run_command("kforecast-fetch", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "shop/web qps: outage from 2024-01-13 08:00 UTC: exactly 0 for 5 h" in done.stdout
    known = KnownEvents.read(tmp_path / "events.csv")
    assert (hours(12, 8), hours(12, 13)) in [(row.begin, row.end) for row in known.incidents]
    again = run_command("kforecast-fetch", *command, cwd=tmp_path)
    assert again.returncode == 2
    assert "events.csv exists, and may have been edited" in again.stderr
    named = run_command("kforecast-fetch", *command[:-1], "--suggest-events=other.csv", cwd=tmp_path)
    assert named.returncode == 0, named.stderr
    assert (tmp_path / "other.csv").read_text() == (tmp_path / "events.csv").read_text()
    for number, choice in enumerate(("data.events=events.csv", "data.incidents=auto")):
        where = (f"artifact_dir=model{number}", f"hydra.run.dir=run{number}")
        done = run_command("kforecast-train", *TRAIN, choice, *where, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        summary = pd.read_csv(tmp_path / f"run{number}" / "data_summary.csv")
        assert summary["missing"].iloc[0] >= 5 / (DAYS * 24) * 0.99


def test_damaged_effects_are_refused_when_they_are_needed(trained: Path, tmp_path: Path) -> None:
    artifact = Artifact.load(trained / "model")
    assert artifact.metadata is not None
    artifact.metadata["effects"] = {"sale": {"count": "many"}}
    artifact.save(tmp_path / "model")
    made = kforecast.Forecaster.load(tmp_path / "model")
    with pytest.raises(ArtifactError, match=r"effects in metadata\.json: the effect of"):
        made.knowing(KnownEvents(()))
