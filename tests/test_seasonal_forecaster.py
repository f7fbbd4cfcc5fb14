"""Artifacts of SeasonalMLP: equal forecasts after loading, unknown series, short histories, damage."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from conftest import run_command
from kforecast.artifact import CONFIG, METADATA, Artifact, EstimatorConfig
from kforecast.data.calendar import Calendar
from kforecast.data.panel import Panel
from kforecast.errors import ArtifactError, DataError
from kforecast.forecaster import Forecaster
from kforecast.models import Fcnet, Network, SeasonalMLP
from kforecast.window import Frequency, Window

WINDOW = Window(Frequency.parse("1H"), 6, 3)
START = 1_711_000_800  # 2024-03-21, ten days before the clock change in Europe
KEYS = {"shop/aqps": 0, "shop/bqps": 1}


def network(num_series: int = 2, **settings: Any) -> SeasonalMLP:
    """A network with weights like a trained one."""
    torch.manual_seed(0)
    net = SeasonalMLP(WINDOW, num_series, **({"members": 2, "hidden": 8, "embedding": 4} | settings))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net.eval()


def forecaster_of(net: Network) -> Forecaster:
    calendar = Calendar.of({"shop/a": "Europe/Berlin", "default": "Asia/Tokyo"})
    return Forecaster(WINDOW, KEYS, "interpolate", net, calendar=calendar)


def saved(directory: Path, net: Network | None = None, **changes: Any) -> Path:
    net = net or network()
    config = EstimatorConfig(
        freq="1H",
        prediction_length=3,
        context_length=6,
        num_series=2,
        model=type(net).__name__,
        network=net.settings(),
        calendar=forecaster_of(net).calendar.as_dict(),
    )
    Artifact(replace(config, **changes), KEYS, net.artifact_state(), {"fill": "interpolate"}).save(directory)
    return directory


def history(
    bins: int = 900, workloads: tuple[str, ...] = ("shop/a", "shop/b"), gaps: float = 0.1
) -> pd.DataFrame:
    rng, frames = np.random.default_rng(1), []
    for number, workload in enumerate(workloads):
        value = 20 * (1.5 + np.sin(np.arange(bins) * 2 * np.pi / 24 + number)) + rng.random(bins)
        rows = pd.DataFrame({"timestamp": START + 3600 * np.arange(bins), "value": value})
        seen = (rng.random(bins) >= gaps) | (np.arange(bins) == bins - 1)
        frames.append(rows[seen].assign(workload=workload, metric="qps"))
    return pd.concat(frames, ignore_index=True)


def test_an_artifact_forecasts_as_the_network_in_memory(tmp_path: Path) -> None:
    expected = forecaster_of(network())
    loaded = Forecaster.load(saved(tmp_path / "model"))
    assert isinstance(loaded.net, SeasonalMLP)
    assert loaded.net.settings() == network().settings()
    assert loaded.calendar == expected.calendar
    pd.testing.assert_frame_equal(loaded.forecast(history()), expected.forecast(history()), check_exact=True)


def test_local_time_is_that_of_each_workload() -> None:
    net = network()
    in_utc = Forecaster(WINDOW, KEYS, "interpolate", net)
    one, other = forecaster_of(net).forecast(history()), in_utc.forecast(history())
    assert not np.isclose(one["value"], other["value"]).any()
    calendar = Calendar.of({"shop/b": "Asia/Tokyo"})
    mixed = replace(in_utc, calendar=calendar).forecast(history())
    np.testing.assert_array_equal(mixed["value"][:3], other["value"][:3])
    np.testing.assert_array_equal(mixed["value"][3:], one["value"][3:])


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
def test_a_history_of_history_length_is_enough(zone: str) -> None:
    forecaster = replace(forecaster_of(network()), calendar=Calendar.of(zone))
    assert forecaster.history_length == 28 * 24 + 6 + 1
    for start in (START, 1_727_697_600):  # clocks go forward or back in the last weeks
        whole = history().assign(timestamp=lambda rows: rows["timestamp"] - START + start)  # noqa: B023
        end = whole["timestamp"].max() + 3600
        enough = whole[whole["timestamp"] >= end - 3600 * forecaster.history_length]
        frames = forecaster.forecast(whole), forecaster.forecast(enough)
        pd.testing.assert_frame_equal(*frames, rtol=1e-5)


def test_many_windows_are_those_of_one_by_one() -> None:
    forecaster = forecaster_of(network())
    panel = Panel.from_frame(history(), WINDOW.frequency)
    origin = np.array([1, 2, 5, 30, 400, panel.num_bins])
    origin = origin[panel.observed[0, origin - 1]]
    made = forecaster.forecast_windows(panel, np.zeros(len(origin), np.int64), origin)
    for number, one in enumerate(origin):
        rows = history()
        past = rows[(rows["workload"] == "shop/a") & (rows["timestamp"] < panel.start + one * 3600)]
        np.testing.assert_allclose(made.values[number], forecaster.forecast(past)["value"], rtol=1e-5)


@pytest.mark.parametrize("bins", [1, 2, 3, 20])
def test_a_short_history_is_forecast_with_one_warning(
    bins: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    forecaster = Forecaster.load(saved(tmp_path / "model"))
    rows = [(START + 3600 * number, 5.0 + number, "shop/a", "qps") for number in range(bins)]
    made = forecaster.forecast(pd.DataFrame(rows, columns=["timestamp", "value", "workload", "metric"]))
    assert made["timestamp"].tolist() == [START + 3600 * (bins + step) for step in range(3)]
    assert (made["value"] >= 0).all()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * (bins < 3)
    assert all("context of shop/a qps is missing" in record.getMessage() for record in caplog.records)


def test_a_window_of_one_bin_and_a_history_of_one(caplog: pytest.LogCaptureFixture) -> None:
    window = Window(WINDOW.frequency, 1, 1)
    forecaster = Forecaster(window, {}, "interpolate", SeasonalMLP(window, 1).eval())
    rows = pd.DataFrame({"timestamp": [START], "value": [4.0], "workload": "a", "metric": "m"})
    assert forecaster.forecast(rows)["value"].tolist() == [4.0]
    assert not caplog.records


# Unknown series


def strangers() -> pd.DataFrame:
    return history(workloads=("shop/a", "shop/b", "shop/new"))


@pytest.mark.parametrize("make", [network, lambda: Fcnet(WINDOW, 2, shared_embedding=True)])
def test_a_series_it_was_not_trained_on_is_forecast(make: Any, tmp_path: Path) -> None:
    forecaster = Forecaster.load(saved(tmp_path / "model", make()))
    rows = strangers()
    assert forecaster.unknown([("shop/new", "qps")]) == []
    made = forecaster.forecast(rows)
    assert made["workload"].unique().tolist() == ["shop/a", "shop/b", "shop/new"]
    assert np.isfinite(made["value"]).all()
    # Alone or with others, under any name.
    alone = rows[rows["workload"] == "shop/new"].assign(workload="else/where")
    np.testing.assert_allclose(forecaster.forecast(alone)["value"], made["value"][6:], rtol=1e-5)
    # Under its own name, a series is forecast with its own embedding.
    known = forecaster.forecast(alone.assign(workload="shop/b"))["value"]
    differs = not np.allclose(known, made["value"][6:])
    assert differs == isinstance(forecaster.net, SeasonalMLP)


def test_with_individual_embeddings_kapacitys_network_refuses_strangers(tmp_path: Path) -> None:
    forecaster = Forecaster.load(saved(tmp_path / "model", Fcnet(WINDOW, 2)))
    with pytest.raises(DataError, match="shop/new qps"):
        forecaster.forecast(strangers())


def calibrated(directory: Path, net: Network) -> Path:
    """An artifact with intervals; its directory."""
    artifact = Artifact.load(saved(directory, net))
    panel = Panel.from_frame(history(), WINDOW.frequency)
    forecaster = Forecaster.of(artifact, "model").calibrated(panel, 100, panel.num_bins)
    assert forecaster.intervals is not None
    replace(artifact, intervals=forecaster.intervals).save(directory)
    return directory


@pytest.mark.parametrize("make", [network, lambda: Fcnet(WINDOW, 2, shared_embedding=True)])
def test_the_command_forecasts_strangers_with_quantiles(make: Any, tmp_path: Path) -> None:
    forecaster = Forecaster.load(calibrated(tmp_path / "model", make()))
    strangers().to_csv(tmp_path / "history.csv", index=False)
    done = run_command(
        "kforecast-forecast",
        "artifact_dir=model",
        "--dataset-file=history.csv",
        "forecast.quantiles=[0.1,0.9]",
        "output=next.csv",
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    expected = forecaster.forecast(pd.read_csv(tmp_path / "history.csv"), quantiles=[0.1, 0.9])
    found = pd.read_csv(tmp_path / "next.csv")
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-5)
    assert (found["q0.1"] < found["q0.9"]).all()


def test_the_command_names_strangers_that_individual_embeddings_cannot_forecast(tmp_path: Path) -> None:
    saved(tmp_path / "model", Fcnet(WINDOW, 2))
    strangers().to_csv(tmp_path / "history.csv", index=False)
    done = run_command("kforecast-forecast", "artifact_dir=model", "--dataset-file=history.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert "shop/new qps (not in the artifact" in done.stderr
    assert {line.split(",")[1] for line in done.stdout.splitlines()[1:]} == {"shop/a", "shop/b"}


# Damage


def damaged(directory: Path, **changes: Any) -> Path:
    """An artifact with a changed estimator_config.yaml; made elsewhere, so without hashes."""
    saved(directory)
    (directory / METADATA).unlink()
    content = yaml.safe_load((directory / CONFIG).read_text())
    (directory / CONFIG).write_text(yaml.safe_dump(content | changes))
    return directory


NETWORK = {"members": 2, "hidden": 8, "layers": 2, "dropout": 0.1, "embedding": 4, "series_dropout": 0.2}
DAMAGES: list[tuple[dict[str, Any], list[str]]] = [
    ({"network": NETWORK | {"hidden": 1e9}}, ["hidden"]),
    ({"network": NETWORK | {"hidden": 10**9}}, ["GiB"]),
    ({"network": NETWORK | {"hidden": 16}}, ["first_weight"]),
    ({"network": NETWORK | {"layers": 10**9}}, ["layers"]),
    ({"network": NETWORK | {"layers": 3}}, ["weight.1"]),
    ({"network": NETWORK | {"members": "2"}}, ["members", "'2'"]),
    ({"network": NETWORK | {"members": None}}, ["members", "None"]),
    ({"network": NETWORK | {"dropout": "much"}}, ["dropout", "'much'"]),
    ({"network": NETWORK | {"dropout": 2.0}}, ["dropout", "2.0"]),
    ({"network": NETWORK | {"series_dropout": []}}, ["series_dropout"]),
    ({"network": NETWORK | {"color": "red"}}, ["color"]),
    ({"network": NETWORK | {"window": 3}}, ["window"]),
    ({"network": {1: 2}}, []),
    ({"network": [1]}, ["network is [1], not a mapping"]),
    ({"network": None}, ["network is None, not a mapping"]),
    ({"calendar": {"timezone": "Nowhere"}}, ["calendar"]),
    ({"calendar": {"timezone": "Nowhere", "holidays": None}}, ["calendar", "'Nowhere' is not a time zone"]),
    ({"calendar": {"timezone": 5, "holidays": None}}, ["calendar", "5"]),
    ({"calendar": {"timezone": {"a": ["UTC"]}, "holidays": None}}, ["calendar", "a: "]),
    ({"calendar": {"timezone": "UTC", "holidays": "Mars"}}, ["calendar", "'Mars'"]),
    ({"calendar": "UTC"}, ["calendar is UTC, not a mapping"]),
    ({"history_length": "long"}, ["history_length is long"]),
    ({"model": "Other"}, ["unknown model 'Other'"]),
    ({"model": ["SeasonalMLP"]}, ["model"]),
    ({"model": "Fcnet"}, ["argument"]),
    ({"series_cols": 3}, ["series_cols", "3"]),
    ({"num_series": 10**12}, ["series"]),
    ({"num_series": 3}, ["series"]),
    ({"context_length": 10**15}, ["GiB"]),
    ({"prediction_length": 10**9}, ["GiB"]),
    ({"prediction_length": 4}, ["last_weight"]),
]


@pytest.mark.parametrize("changes, words", DAMAGES, ids=lambda value: str(value)[:60])
def test_a_damaged_configuration_is_refused_in_one_line(
    changes: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError) as refusal:
        Forecaster.load(damaged(tmp_path / "model", **changes))
    message = str(refusal.value)
    assert "\n" not in message
    for word in [str(tmp_path / "model"), *words]:
        assert word in message


def test_a_checkpoint_of_other_shapes_is_refused_in_one_line(tmp_path: Path) -> None:
    other = network(hidden=16)
    directory = saved(tmp_path / "model", other, network=network().settings())
    with pytest.raises(ArtifactError, match=r"does not fit.*first_weight") as refusal:
        Forecaster.load(directory)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("changes", [DAMAGES[1][0], DAMAGES[3][0], DAMAGES[16][0]], ids=str)
def test_the_command_ends_with_two_and_one_line(changes: dict[str, Any], tmp_path: Path) -> None:
    damaged(tmp_path / "model", **changes)
    history().to_csv(tmp_path / "history.csv", index=False)
    done = run_command("kforecast-forecast", "artifact_dir=model", "--dataset-file=history.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if METADATA not in line]
    assert len(errors) == 1, done.stderr


def test_a_combination_is_the_weighted_mean_of_network_and_naive_forecasts(tmp_path: Path) -> None:
    weights = {"past days": [0.8, 0.4, 0.0], "context": [0.2, 0.1, 0.0], "last value": [0.0, 0.5, 1.0]}
    directory = saved(tmp_path / "model", combination=weights)
    panel = Panel.from_frame(history(gaps=0.0), WINDOW.frequency)
    series, origin = np.repeat([0, 1], 5), np.tile(np.arange(700, 705), 2)
    forecaster = Forecaster.load(directory)
    made = forecaster.forecast_windows(panel, series, origin).values
    alone = replace(forecaster, combination=None).forecast_windows(panel, series, origin).values
    last = panel.values[series, origin - 1]
    np.testing.assert_allclose(made[:, 0], alone[:, 0], rtol=1e-6)
    np.testing.assert_allclose(made[:, 1], (alone[:, 1] + last) / 2, rtol=1e-6)
    np.testing.assert_allclose(made[:, 2], last)


def test_a_combination_forecasts_behind_the_end_of_a_history_and_from_a_short_one(tmp_path: Path) -> None:
    directory = saved(tmp_path / "model", combination={"same time yesterday": [1.0, 1.0, 1.0]})
    frame = history(bins=30, gaps=0.0)
    made = Forecaster.load(directory).forecast(frame)
    values = frame[frame["workload"] == "shop/b"]["value"].to_numpy()
    np.testing.assert_allclose(made[made["workload"] == "shop/b"]["value"], values[-24:-21], rtol=1e-6)
    assert np.isfinite(Forecaster.load(directory).forecast(history(bins=2))["value"]).all()


@pytest.mark.parametrize(
    "combination, said",
    [
        ({"past days": [1.0, 1.0]}, "3 steps"),
        ({"context": [0.5, 0.5, 0.5]}, "add up to 1"),
        ({"an oracle": [1.0, 1.0, 1.0]}, "unknown forecaster 'an oracle'"),
        ("all", "not a mapping"),
    ],
)
def test_a_damaged_combination_is_refused(combination: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=said):
        Forecaster.load(saved(tmp_path / "model", combination=combination))


def test_what_kapacity_cannot_load_is_not_forecast_as_it_does(tmp_path: Path) -> None:
    directory = saved(tmp_path / "model")
    with pytest.raises(ArtifactError, match="cannot load a SeasonalMLP; leave out as_consumed"):
        Forecaster.load(directory).forecast(history(), as_consumed=True)


def test_no_quantile_of_a_stranger_that_was_never_below_zero_is(tmp_path: Path) -> None:
    panel = Panel.from_frame(history(), WINDOW.frequency)
    forecaster = forecaster_of(network()).calibrated(panel, 700, panel.num_bins)
    assert forecaster.intervals is not None
    frame = history(workloads=("shop/new",))
    small = frame.assign(value=frame["value"].where(frame.index % 2 == 0, 0.0))
    made = forecaster.forecast(small, quantiles=[0.005, 0.995])
    assert (made["q0.005"] >= 0).all()
    assert (made["q0.995"] > made["value"]).all()
    below = forecaster.forecast(small.assign(value=small["value"] - 10), quantiles=[0.005])
    assert (below["q0.005"] < 0).all()
