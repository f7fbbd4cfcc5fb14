"""Forecasts of all series begin at one origin; old series are named, bridged or refused."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import START, run_command
from kforecast.artifact import Artifact, EstimatorConfig
from kforecast.data.datamodule import ForecastDataModule
from kforecast.errors import ConfigError, DataError, StaleError
from kforecast.forecaster import Forecaster
from kforecast.models import Fcnet, SeasonalMLP
from kforecast.window import Window

STEP = 600
WINDOW = Window("10min", 6, 3)
COLUMNS = ["timestamp", "value", "workload", "metric"]


def fcnet(fill: Any = "interpolate") -> Forecaster:
    torch.manual_seed(0)
    return Forecaster(WINDOW, {}, fill, Fcnet(WINDOW, 1, shared_embedding=True).eval())


def seasonal() -> Forecaster:
    torch.manual_seed(0)
    net = SeasonalMLP(WINDOW, 1, members=1, hidden=8, layers=1, dropout=0).eval()
    return Forecaster(WINDOW, {}, "interpolate", net)


def rows(workload: str, bins: Any, level: float = 10.0) -> pd.DataFrame:
    """One row a bin, with a daily cycle."""
    bins = np.asarray(bins)
    value = level * (2 + np.sin(2 * np.pi * bins / 144))
    return pd.DataFrame(
        {"timestamp": START + STEP * bins, "value": value, "workload": workload, "metric": "qps"}
    )


def of(made: pd.DataFrame, workload: str) -> pd.DataFrame:
    return made[made["workload"] == workload].reset_index(drop=True)


# One origin


@given(
    st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=4).filter(
        lambda masks: all(any(mask) for mask in masks)
    )
)
@settings(max_examples=60)
def test_series_of_any_gaps_share_their_timestamps_and_know_their_age(masks: list[list[bool]]) -> None:
    history = pd.concat([rows(f"w{number}", np.flatnonzero(mask)) for number, mask in enumerate(masks)])
    newest = [int(np.flatnonzero(mask)[-1]) for mask in masks]
    end = max(newest) + 1
    if min(newest) < end - WINDOW.context_length:
        with pytest.raises(DataError, match="too old to forecast: w"):
            fcnet().forecast(history)
        return
    made = fcnet().forecast(history)
    assert list(made.columns) == ["timestamp", "workload", "metric", "value", "age"]
    for number, last in enumerate(newest):
        own = of(made, f"w{number}")
        assert own["timestamp"].tolist() == [START + STEP * (end + step) for step in range(3)]
        assert own["age"].tolist() == [STEP * (end - 1 - last)] * 3
    assert np.isfinite(made["value"]).all()


def test_a_history_that_is_up_to_date_is_forecast_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    both = fcnet().forecast(pd.concat([rows("a", range(20)), rows("b", range(5, 20))]))
    assert both["age"].eq(0).all()
    alone = fcnet().forecast(rows("a", range(20)))
    pd.testing.assert_frame_equal(of(both, "a"), alone, rtol=1e-6)
    assert not caplog.records


def test_a_stale_series_is_bridged_by_past_days_and_named(caplog: pytest.LogCaptureFixture) -> None:
    days = 10 * 144
    history = pd.concat(
        [rows("dead", range(days - 3 * 144)), rows("nan", range(days - 36)), rows("ok", range(days))]
    )
    made = seasonal().forecast(history)
    (record,) = caplog.records
    assert record.getMessage() == (
        "stale: dead qps (newest value 3 d old), nan qps (newest value 6 h old); forecast from what is "
        "known: see column age"
    )
    for workload, age in (("dead", 259_200), ("nan", 21_600), ("ok", 0)):
        own = of(made, workload)
        assert own["timestamp"].tolist() == [START + STEP * (days + step) for step in range(3)]
        assert own["age"].tolist() == [age] * 3
        assert (own["value"] > 5).all()


def test_a_series_without_a_value_that_the_model_reads_is_refused() -> None:
    # It lived for two hours only; the same time of its past days was never seen.
    history = pd.concat([rows("brief", range(12)), rows("ok", range(72))])
    with pytest.raises(DataError, match=r"brief qps \(newest value 10 h old\). The model reads at most 28"):
        seasonal().forecast(history)


def test_zeros_fill_gaps_but_not_the_time_since_the_newest_value() -> None:
    late, ok = rows("late", [0, 1, 2, 4]), rows("ok", range(6))
    made = of(fcnet("zero").forecast(pd.concat([late, ok])), "late")
    held = rows("late", range(6)).assign(value=[*late["value"][:3], 0.0, *[late["value"].iloc[-1]] * 2])
    np.testing.assert_allclose(made["value"], fcnet("zero").forecast(held)["value"], rtol=1e-6)


@pytest.mark.parametrize("known, bridged", [([59], [20] * 6), ([40, 59], np.linspace(10, 20, 20)[-6:])])
def test_a_silence_longer_than_the_context_is_never_forecast_as_no_traffic(known: Any, bridged: Any) -> None:
    """A new series has only its newest bin, another one has come back after a long silence."""
    level = {40: 10.0, 59: 20.0}
    few = rows("few", known).assign(value=[level[at] for at in known])
    made = of(fcnet("zero").forecast(pd.concat([few, rows("ok", range(60))])), "few")
    whole = rows("few", range(54, 60)).assign(value=bridged)
    np.testing.assert_allclose(made["value"], fcnet("zero").forecast(whole)["value"], rtol=1e-5)


def test_many_stale_series_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    old = [rows(f"w{number}", range(144)) for number in range(8)]
    seasonal().forecast(pd.concat([*old, rows("ok", range(160))]))
    (record,) = caplog.records
    assert record.getMessage().count("newest value") == 5
    assert " ...;" in record.getMessage()


def test_a_series_that_came_back_is_named_with_its_silence(caplog: pytest.LogCaptureFixture) -> None:
    made = fcnet().forecast(pd.concat([rows("back", [*range(20), 140]), rows("ok", range(141))]))
    (record,) = caplog.records
    for words in ("context of back qps is missing", "silent for up to 20 h"):
        assert words in record.getMessage()
    assert of(made, "back")["age"].tolist() == [0, 0, 0]


# Rules and moments


def test_max_age_and_on_stale() -> None:
    history = pd.concat([rows("late", range(17)), rows("ok", range(20))])
    assert of(fcnet().forecast(history, on_stale="error"), "late")["age"].tolist() == [1800] * 3
    fcnet().forecast(history, max_age="30min", on_stale="error")
    with pytest.raises(StaleError, match=r"late qps \(newest value 30 min old\)") as caught:
        fcnet().forecast(history, max_age="20min", on_stale="error")
    assert caught.value.exit_code == 3
    assert "ok qps" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"max_age": 60}, ["max_age is 60", "6H"]),
        ({"max_age": "soon"}, ["max_age is 'soon'"]),
        ({"on_stale": "ignore"}, ["on_stale is 'ignore'", "warn or error"]),
        ({"at": "soon"}, ["at: 'soon' is not a time"]),
        ({"at": True}, ["at: True is not a time"]),
        ({"at": (START + 20) * 1000.0}, ["not in unix seconds"]),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        fcnet().forecast(rows("a", range(20)), **arguments)
    assert all(word in str(caught.value) for word in words)


MOMENT = START + 20 * STEP + 123


@pytest.mark.parametrize(
    "at",
    [
        MOMENT,
        str(MOMENT),
        np.int64(MOMENT),
        datetime.fromtimestamp(MOMENT, UTC),
        datetime.fromtimestamp(MOMENT, UTC).isoformat(),
        pd.Timestamp(MOMENT, unit="s", tz="Asia/Tokyo"),
    ],
)
def test_the_first_forecast_bin_holds_the_moment(at: Any) -> None:
    history = rows("a", range(40))
    made = fcnet().forecast(history, at=at)
    past = history[history["timestamp"] < START + 20 * STEP]
    pd.testing.assert_frame_equal(made, fcnet().forecast(past))
    assert made["timestamp"][0] == START + 20 * STEP


def test_what_is_known_only_later_does_not_matter() -> None:
    history = rows("a", range(40))
    changed = history.assign(value=history["value"].where(history["timestamp"] < START + 20 * STEP, -99.0))
    pd.testing.assert_frame_equal(
        fcnet().forecast(history, at=MOMENT), fcnet().forecast(changed, at=MOMENT), check_exact=True
    )


def test_now_is_the_clock() -> None:
    now = int(datetime.now(UTC).timestamp())
    bins = np.arange(30)
    history = rows("a", bins).assign(timestamp=now - STEP * bins[::-1])
    made = fcnet().forecast(history, at="now")
    assert abs(made["timestamp"][0] - now // STEP * STEP) <= STEP
    assert made["age"][0] <= STEP
    ahead = history.assign(timestamp=history["timestamp"] + 5 * STEP)
    pd.testing.assert_series_equal(
        fcnet().forecast(ahead, at=now)["timestamp"], fcnet().forecast(history, at=now)["timestamp"]
    )


def test_values_of_the_future_are_said(caplog: pytest.LogCaptureFixture) -> None:
    now = int(datetime.now(UTC).timestamp()) // STEP * STEP
    history = rows("a", range(20))
    history["timestamp"] += now - history["timestamp"].max()
    fcnet().forecast(history)
    assert not caplog.records
    history["timestamp"] += 5 * 86_400
    fcnet().forecast(history)
    assert "the newest bin of the history begins 5 d after now: are clock and time zone" in caplog.text


@pytest.mark.parametrize(
    "at, words",
    [
        (START, "no value is known before 2024-01-01 00:00:00"),
        (START - 7 * 86_400, "no value is known before 2023-12-25"),
        (START + 40 * 365 * 86_400, r"too old to forecast: a qps \(newest value 14599.9 d old\)"),
        (START + 27 * STEP, r"too old to forecast: a qps \(newest value 70 min old\)"),
    ],
)
def test_a_moment_without_a_history_is_refused(at: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        fcnet().forecast(rows("a", range(20)), at=at)


def test_after_the_newest_bin_all_series_are_old(caplog: pytest.LogCaptureFixture) -> None:
    history = pd.concat([rows("a", range(20)), rows("b", range(20))])
    made = fcnet().forecast(history, at=START + 23 * STEP, max_age="10min")
    assert made["timestamp"].tolist() == [START + STEP * (23 + step) for step in range(3)] * 2
    assert made["age"].eq(1800).all()
    assert "a qps (newest value 30 min old), b qps (newest value 30 min old)" in caplog.text


def test_a_plain_trainer_predicts_the_same(caplog: pytest.LogCaptureFixture) -> None:
    history = pd.concat([rows("dead", range(700)), rows("ok", range(1000))])
    forecaster = seasonal()
    data = ForecastDataModule(history, WINDOW, lookback=forecaster.net.lookback, fill="zero")
    data.setup()
    with torch.inference_mode():
        made = [forecaster.net.forecast(batch).values for batch in data.predict_dataloader()]
    assert "stale: dead qps (newest value 2.1 d old)" in caplog.text
    served = Forecaster(WINDOW, data.panel.item_ids, "zero", forecaster.net)
    pd.testing.assert_frame_equal(data.forecast_frame(made), served.forecast(history), rtol=1e-6)


# The command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service that is up to date, one that ended, one of NaN, and one that came back with a fresh bin."""
    folder = tmp_path_factory.mktemp("stale")
    bins = np.arange(3 * 144)
    silent = rows("shop/nan", bins)
    silent.loc[silent.index[-36:], "value"] = np.nan
    back = rows("shop/gap", bins[(bins < 300) | (bins == bins[-1])])
    history = [rows("shop/ok", bins), rows("shop/dead", bins[:-144]), silent, back]
    pd.concat(history).to_csv(folder / "traffic.csv", index=False)
    torch.manual_seed(0)
    state = Fcnet(WINDOW, 4).artifact_state()
    config = EstimatorConfig(freq="10min", prediction_length=3, context_length=6, num_series=4)
    names = {f"shop/{name}qps": number for number, name in enumerate(("dead", "gap", "nan", "ok"))}
    Artifact(config, names, state, {"fill": "zero"}).save(folder / "model")
    return folder


def forecast(folder: Path, *arguments: str) -> Any:
    given = ["artifact_dir=model", "--dataset-file=traffic.csv", *arguments]
    return run_command("kforecast-forecast", *given, cwd=folder)


END = START + 3 * 144 * STEP


def test_the_command_forecasts_what_it_can_and_names_the_others(folder: Path) -> None:
    done = forecast(folder)
    assert done.returncode == 2
    header, *lines = done.stdout.splitlines()
    assert header == "timestamp,workload,metric,value,age"
    assert {tuple(line.split(",")[:2]) for line in lines} == {
        (str(END + STEP * step), name) for step in range(3) for name in ("shop/gap", "shop/ok")
    }
    warning, error = done.stderr.splitlines()
    assert "shop/gap qps is missing" in warning
    assert "silent for up to 21.8 h" in warning
    assert error == (
        "error: 2 of 4 series cannot be forecast: shop/dead qps (too old: newest value 24 h old), shop/nan "
        "qps (too old: newest value 6 h old); the others are. The model reads at most 60 min back: give "
        "newer values, or an earlier moment (forecast.at, in Python at), or leave these series out"
    )


def test_the_command_refuses_stale_series_on_request(folder: Path) -> None:
    done = forecast(folder, "forecast.on_stale=error", "output=next.parquet")
    assert done.returncode == 3
    assert "shop/dead qps (stale: newest value 24 h old), shop/nan qps (stale: " in done.stderr
    made = pd.read_parquet(folder / "next.parquet")
    assert made["workload"].unique().tolist() == ["shop/gap", "shop/ok"]
    assert made["age"].tolist() == [0] * 6


def test_the_command_takes_a_moment_and_an_age(folder: Path) -> None:
    moment = END - 34 * STEP  # shop/nan ended two bins before
    arguments = [f"forecast.at={moment}", "forecast.max_age=10min", "output=then.json"]
    done = forecast(folder, *arguments)
    assert done.returncode == 2  # shop/dead and shop/gap are too old
    assert (
        "WARNING: stale: shop/nan qps (newest value 20 min old); forecast from what is known" in done.stderr
    )
    made = pd.DataFrame(json.loads((folder / "then.json").read_text()))
    assert made["timestamp"].tolist() == [moment + STEP * step for step in range(3)] * 2
    assert made["age"].tolist() == [1200] * 3 + [0] * 3
    assert forecast(folder, "forecast.at=now").returncode == 2


def test_a_stranger_that_is_newer_makes_the_others_old(folder: Path) -> None:
    newer = rows("shop/stranger", range(435))
    pd.concat([pd.read_csv(folder / "traffic.csv"), newer]).to_csv(folder / "newer.csv", index=False)
    done = run_command("kforecast-forecast", "artifact_dir=model", "--dataset-file=newer.csv", cwd=folder)
    assert "shop/stranger qps (not in the artifact" in done.stderr
    ok = [line.split(",") for line in done.stdout.splitlines() if ",shop/ok," in line]
    assert [(int(line[0]), int(line[-1])) for line in ok] == [
        (END + STEP * (3 + step), 1800) for step in range(3)
    ]


@pytest.mark.parametrize(
    "override, words",
    [
        ("forecast.at=tomorrow", ["forecast.at", "'tomorrow'", "now"]),
        ("forecast.at=true", ["forecast.at", "true is not a time"]),
        ("forecast.max_age=6", ["forecast.max_age", "6H"]),
        ("forecast.max_age=-6H", ["forecast.max_age", "'-6H'"]),
        ("forecast.on_stale=ignore", ["forecast.on_stale", "'ignore'", "'warn' or 'error'"]),
        ("forecast.stale=error", ["forecast.stale"]),
    ],
)
def test_a_wrong_key_is_named(folder: Path, override: str, words: list[str]) -> None:
    done = forecast(folder, override)
    assert (done.returncode, done.stdout) == (2, "")
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr


# Local days


def test_origin_and_age_follow_local_days() -> None:
    window = Window("1D", 5, 2)
    torch.manual_seed(0)
    net = SeasonalMLP(window, 1, members=1, hidden=8, layers=1, dropout=0).eval()
    london = Forecaster(window, {}, "interpolate", net, zone="Europe/London")
    midnights = pd.date_range("2024-10-01", "2024-10-27", freq="D", tz="Europe/London")
    one = pd.DataFrame({"timestamp": midnights, "value": 5.0, "workload": "a", "metric": "qps"})
    late = one[:-1].assign(workload="late")  # clocks go back on the 27th: that day has 25 hours
    made = london.forecast(pd.concat([one, late]))
    expected = [pd.Timestamp(day, tz="Europe/London").timestamp() for day in ("2024-10-28", "2024-10-29")]
    assert made["timestamp"].tolist() == expected * 2
    assert made["age"].tolist() == [0, 0, 90_000, 90_000]
    moment = pd.Timestamp("2024-10-28 23:30", tz="Europe/London")
    assert london.forecast(one, at=moment)["timestamp"].tolist() == expected
