"""Forecasts without training on the command line, and training that begins with the package's weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import kforecast
from conftest import run_command
from kforecast.artifact import Artifact, EstimatorConfig
from kforecast.data.panel import Panel
from kforecast.errors import ArtifactError, ConfigError
from kforecast.models import Pretrained, SeasonalMLP
from kforecast.models.pretrained import fixed_net
from kforecast.predictor import Predictor

HOURS = kforecast.Window("1H", 12, 6)
START = 1_600_300_800 // 604_800 * 604_800


def traffic(days: int = 30) -> pd.DataFrame:
    hours = np.arange(24 * days)
    noise = np.random.default_rng(0).normal(1, 0.05, (2, len(hours)))
    values = np.array([[100], [5]]) * (1.2 + np.sin(2 * np.pi * hours / 24)) * noise
    rows = {"timestamp": np.tile(START + 3600 * hours, 2), "value": values.ravel()}
    return pd.DataFrame(rows).assign(workload=np.repeat(["shop", "search"], len(hours)), metric="qps")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("zero-shot")
    traffic().to_csv(made / "traffic.csv", index=False)
    return made


GIVEN = ("artifact_dir=pretrained", "source.path=traffic.csv")


def test_a_command_forecasts_without_training(folder: Path) -> None:
    asked = [*GIVEN, "window=1h", "output=made.csv", "forecast.quantiles=[0.1,0.9]"]
    done = run_command("kforecast-forecast", *asked, cwd=folder)
    assert (done.returncode, done.stdout) == (0, "")
    made = pd.read_csv(folder / "made.csv")
    expected = kforecast.Forecaster.pretrained(HOURS).forecast(traffic(), quantiles=[0.1, 0.9])
    pd.testing.assert_frame_equal(made, expected, check_dtype=False, rtol=1e-4)


def test_a_command_judges_it_without_a_warning(folder: Path) -> None:
    asked = [*GIVEN, "window=1h", "evaluate.stride=5", "hydra.run.dir=judged"]
    done = run_command("kforecast-evaluate", *asked, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Intervals: coverage" in done.stdout
    assert "training data of the model is not known" not in done.stderr


@pytest.mark.parametrize(
    "command, arguments, words",
    [
        ("forecast", [*GIVEN, "window.freq=10s"], "bins of 10s are finer than the pre-trained weights know"),
        ("evaluate", [*GIVEN, "window=1h", "window.prediction_length=97"], "prediction_length is 97"),
        ("forecast", [*GIVEN, "window.freq=7min"], "window.freq: bins of '7min' do not"),
        ("forecast", ["artifact_dir=missing", GIVEN[1]], "missing: no such directory"),
        ("evaluate", [*GIVEN, "window=1h", "evaluate.save_intervals=true"], "evaluate.save_intervals: "),
    ],
)
def test_it_is_refused_in_one_line(folder: Path, command: str, arguments: list[str], words: str) -> None:
    done = run_command(f"kforecast-{command}", *arguments, cwd=folder)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_directory_of_that_name_is_used_and_has_its_own_window(folder: Path, tmp_path: Path) -> None:
    kforecast.Forecaster.pretrained(kforecast.Window("1H", 12, 2)).save(tmp_path / "pretrained")
    given = ["artifact_dir=pretrained", f"source.path={folder / 'traffic.csv'}"]
    done = run_command("kforecast-forecast", *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1 + 2 * 2
    assert "artifact_dir=pretrained is a directory here" in done.stderr
    done = run_command("kforecast-forecast", *given, "window=1h", cwd=tmp_path)
    assert done.returncode == 2
    assert "the artifact in pretrained has its own window" in done.stderr


def test_no_epochs_make_an_artifact_of_the_delivered_weights(tmp_path: Path) -> None:
    made = kforecast.train(traffic(), HOURS, model="pretrained", max_epochs=0, test=0, verbose=False)
    assert isinstance(made.net, Pretrained)
    assert made.net.parts == ("as delivered",)
    assert same(made.net.delivered, fixed_net())
    assert made.intervals is not None
    made.save(tmp_path)
    loaded = kforecast.Forecaster.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.forecast(traffic()), made.forecast(traffic()))


def test_training_changes_one_part_alone(tmp_path: Path) -> None:
    asked = {"model": "pretrained", "max_epochs": 1, "refit": False, "verbose": False}
    made = kforecast.train(traffic(), HOURS, **asked, overrides=["optimizer.lr=0.01"])
    assert isinstance(made.net, Pretrained)
    assert made.net.parts == ("as delivered", "fine-tuned")
    assert same(made.net.delivered, fixed_net())
    assert not same(made.net.tuned, fixed_net())
    made.save(tmp_path)
    again = kforecast.train(
        traffic().query("workload == 'shop'"),
        HOURS,
        **asked,
        overrides=[f"warm_start={tmp_path}", "optimizer.lr=1e-12"],
    )
    assert same(again.net.tuned, made.net.tuned, 1e-4)
    assert not same(again.net.tuned, fixed_net(), 1e-4)


def test_the_prior_of_auto_is_never_trained_and_comes_with_the_artifact(tmp_path: Path) -> None:
    asked = {"model": "auto", "max_epochs": 1, "test": 0, "refit": "continue", "verbose": False}
    made = kforecast.train(traffic(), HOURS, **asked, overrides=["trees=false"])
    assert isinstance(made.net, SeasonalMLP)
    assert same(made.net.prior, fixed_net(members=1))
    made.save(tmp_path)
    assert Artifact.load(tmp_path).state["prior.linear"].dtype == torch.float16
    loaded = kforecast.Forecaster.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.forecast(traffic()), made.forecast(traffic()))
    # The share lies between the forecasts of both.
    found = [
        replace(loaded, prior_share=share).forecast(traffic())["value"].to_numpy()
        for share in (0.0, 0.5, 1.0)
    ]
    assert not np.allclose(found[0], found[2], rtol=0.01)
    np.testing.assert_allclose(found[1], (found[0] + found[2]) / 2, rtol=1e-4)
    # A server, which keeps earlier forecasts, serves the same numbers.
    panel = Panel.from_frame(traffic(), HOURS.frequency)
    row, end = np.arange(2), np.full(2, panel.num_bins)
    served, kept = loaded.forecast_next(panel)
    np.testing.assert_allclose(served.values, loaded.forecast_windows(panel, row, end).values, rtol=1e-5)
    _, without = replace(loaded, prior_share=0.0).forecast_next(panel)
    np.testing.assert_array_equal(kept.values, without.values)
    # An artifact of an earlier version has no prior, and can be gone on from.
    without = ["trees=false", "model.prior=false"]
    kforecast.train(traffic(), HOURS, **asked, overrides=without).save(tmp_path)
    assert not kforecast.Forecaster.load(tmp_path).net.with_prior
    warm = ["trees=false", f"warm_start={tmp_path}"]
    assert kforecast.train(traffic(), HOURS, **asked, overrides=warm).net.with_prior


@pytest.mark.parametrize("factor, share", [(1.0, 1.0), (100.0, 0.0)])
def test_the_share_of_the_prior_is_what_held_out_errors_say(
    factor: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"model": "auto", "max_epochs": 1, "refit": False, "verbose": False}
    made = kforecast.train(traffic(), HOURS, **asked, overrides=["trees=false"])
    assert 0 <= made.prior_share <= 1
    panel = Panel.from_frame(traffic(), HOURS.frequency)
    # The truth, and far from it.
    monkeypatch.setattr(made.net, "prior_forecast", lambda batch: batch.target * factor)
    assert made.sharing(panel, panel.num_bins - 72, panel.num_bins).prior_share == share


@pytest.mark.parametrize("wrong", ["2", "-0.1", ".nan", "true", "much", "null"])
def test_only_a_share_can_be_the_share_of_the_prior(wrong: str, tmp_path: Path) -> None:
    net = SeasonalMLP(HOURS, 1, members=1, hidden=4, prior=True)
    config = EstimatorConfig(
        "1H", 6, 12, 1, model="SeasonalMLP", network=net.settings(), prior={"share": 0.3, "width": 0.9}
    )
    assert EstimatorConfig.from_yaml(config.to_yaml()) == config
    artifact = Artifact(config, {"shopqps": 0}, net.artifact_state(), {})
    made = Predictor.of(artifact, "it")
    assert (made.prior_share, made.prior_width) == (0.3, 0.9)
    for key in ("share", "width"):
        value = yaml.safe_load(wrong)
        spoiled = replace(artifact, config=replace(config, prior=config.prior | {key: value}))
        with pytest.raises(ArtifactError, match=f"it: {key} of prior"):
            Predictor.of(spoiled, "it")


def test_auto_does_without_a_prior_where_the_weights_do_not_know_the_window() -> None:
    net = SeasonalMLP(kforecast.Window("30s", 12, 6), 1, prior=True)
    assert not net.with_prior
    assert "prior" not in net.settings()


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"model": "seasonal_mlp", "max_epochs": 0}, "only model=pretrained forecasts without training"),
        ({"model": "pretrained", "overrides": ["model.fine_tune=false"]}, "leaves nothing to train"),
        ({"model": "auto", "overrides": ["+model.sizes=3"]}, "sizes"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        kforecast.train(traffic(), HOURS, verbose=False, **arguments)


def same(one: torch.nn.Module, other: torch.nn.Module, tolerance: float = 0.0) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.allclose(*pair, rtol=0, atol=tolerance) for pair in pairs)
