"""The weights of the package: forecasts of series that they have never seen, and their care."""

from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import kforecast
from kforecast.errors import ArtifactError, ConfigError
from kforecast.intervals import LEVELS
from kforecast.models.aligned import asinh
from kforecast.models.pretrained import WEIGHTS, Pretrained, delivered_offsets, weights_in
from kforecast.pretraining.traffic import traffic

TEN_MINUTES = kforecast.Window("10min", 12, 6)
# A Thursday.
START = 1_600_300_800 // 604_800 * 604_800


def frame(values: np.ndarray, step: int = 600) -> pd.DataFrame:
    """Series ``[count, bins]`` without their gaps."""
    rows = [
        pd.DataFrame(
            {"timestamp": START + step * np.arange(len(one)), "value": one, "workload": f"w{number}"}
        )
        for number, one in enumerate(np.atleast_2d(values))
    ]
    return pd.concat(rows).dropna().assign(metric="qps")


def rhythm(bins: int, seed: int = 0) -> np.ndarray:
    """A daily rhythm with noise, float64 ``[bins]``."""
    time = np.arange(bins) / 144
    noise = np.random.default_rng(seed).normal(0, 0.03, bins)
    return 100 * (1.2 + np.sin(2 * np.pi * time)) * (1 + noise)


@given(st.lists(st.floats(-1e15, 1e15, width=32), min_size=1))
def test_the_fast_asinh_is_exact(values: list[float]) -> None:
    exact = np.arcsinh(np.array(values, np.float64))
    np.testing.assert_allclose(asinh(torch.tensor(values)).numpy(), exact, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def forecaster() -> kforecast.Forecaster:
    return kforecast.Forecaster.pretrained(TEN_MINUTES)


def test_one_hour_of_history_is_enough(forecaster: kforecast.Forecaster) -> None:
    made = forecaster.forecast(frame(rhythm(6)), quantiles=[0.05, 0.95])
    assert len(made) == 6
    assert np.isfinite(made[["value", "q0.05", "q0.95"]]).all(axis=None)
    assert (made["q0.05"] < made["value"]).all()
    assert (made["value"] < made["q0.95"]).all()


def test_days_of_history_make_it_better() -> None:
    forecaster = kforecast.Forecaster.pretrained(kforecast.Window("10min", 12, 72))
    values, bins = rhythm(144 * 15), 144 * 14
    rows, actual = frame(values[:bins]), values[bins : bins + 72]
    short, long = (
        np.abs(forecaster.forecast(rows.tail(newest))["value"] - actual).mean() for newest in (12, bins)
    )
    assert long < 0.5 * short


@settings(deadline=None, max_examples=10)
@given(st.floats(-9, 9), st.integers(0, 3), st.sampled_from([3, 60, 1500]))
def test_the_unit_of_a_series_makes_no_difference(power: float, seed: int, bins: int) -> None:
    forecaster, values = kforecast.Forecaster.pretrained(TEN_MINUTES), rhythm(bins, seed)
    made, other = (
        forecaster.forecast(frame(values * scale), quantiles=[0.9]) for scale in (1.0, 10.0**power)
    )
    for name in ("value", "q0.9"):
        np.testing.assert_allclose(other[name] / 10.0**power, made[name], rtol=1e-3, atol=1e-3 * values.max())


def test_a_forecast_is_the_same_again_and_beside_others(forecaster: kforecast.Forecaster) -> None:
    values = np.stack([rhythm(1500, 1), rhythm(1500, 2) * 1000])
    again = kforecast.Forecaster.pretrained(TEN_MINUTES)
    made = forecaster.forecast(frame(values))
    pd.testing.assert_frame_equal(made, again.forecast(frame(values)))
    alone = forecaster.forecast(frame(values[:1]))
    np.testing.assert_allclose(alone["value"], made["value"][:6], rtol=1e-4)


@pytest.mark.parametrize("value", [0.0, 7.0, 1e30, 1e-30])
def test_a_series_that_never_moved_stays(forecaster: kforecast.Forecaster, value: float) -> None:
    made = forecaster.forecast(frame(np.full(300, value)))
    np.testing.assert_allclose(made["value"], value, rtol=1e-2)


def test_it_never_forecasts_below_zero_what_never_was(forecaster: kforecast.Forecaster) -> None:
    falling = np.maximum(np.linspace(50, 0, 100), 0)
    made = forecaster.forecast(frame(falling), quantiles=[0.05])
    assert (made[["value", "q0.05"]] >= 0).all(axis=None)


@pytest.mark.parametrize("freq, step, days", [("10min", 600, 21), ("1H", 3600, 40)])
def test_it_beats_every_naive_forecast_on_generated_traffic(freq: str, step: int, days: int) -> None:
    forecaster = kforecast.Forecaster.pretrained(kforecast.Window(freq, 12, 6))
    values = traffic(2_000_000, 12, days * 86_400 // step, step)
    known = np.isfinite(values).mean(axis=1) > 0.9
    found = forecaster.evaluate(frame(values[known], step), stride=5)
    assert found.skill.value > 0.1
    assert found.warnings == ()


@pytest.mark.parametrize(
    "window, words",
    [
        (kforecast.Window("30s", 12, 6), "bins of 30s are finer than the pre-trained weights know"),
        (kforecast.Window("10min", 12, 97), "prediction_length is 97; the pre-trained weights know 96"),
    ],
)
def test_windows_beyond_the_weights_are_refused(window: kforecast.Window, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        kforecast.Forecaster.pretrained(window)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("horizon", [1, 96])
@pytest.mark.parametrize("freq", ["1min", "7200s", "1D"])
def test_any_window_within_them_is_forecast(freq: str, horizon: int) -> None:
    window = kforecast.Window("2H" if freq == "7200s" else freq, 5, horizon)
    made = kforecast.Forecaster.pretrained(window).forecast(frame(rhythm(200), window.frequency.step))
    assert len(made) == horizon
    assert np.isfinite(made["value"]).all()


@pytest.mark.parametrize("place", [0, 5000, -1])
def test_damaged_weights_are_refused(place: int) -> None:
    content = bytearray(files("kforecast.models").joinpath(WEIGHTS).read_bytes())
    assert {*weights_in(bytes(content))}
    content[place] ^= 1
    with pytest.raises(ArtifactError, match=f"{WEIGHTS} in the package is damaged"):
        weights_in(bytes(content))


def test_the_weights_are_small_and_their_intervals_ascend() -> None:
    assert len(files("kforecast.models").joinpath(WEIGHTS).read_bytes()) < 2 << 20
    offsets = delivered_offsets().numpy()
    assert offsets.shape == (len(LEVELS),)
    assert (np.diff(offsets) > 0).all()
    assert 0.6 < -offsets[LEVELS.index(0.05)] < 1.4
    assert 0.6 < offsets[LEVELS.index(0.95)] < 1.4


def test_an_artifact_has_weights_of_its_own(
    forecaster: kforecast.Forecaster, tmp_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = frame(rhythm(600))
    forecaster.save(tmp_path)

    def gone(_: bytes) -> None:
        raise AssertionError("the package's weights were read")

    monkeypatch.setattr("kforecast.models.pretrained.read_tensors", gone)
    monkeypatch.setattr("kforecast.models.pretrained._delivered", lambda: gone(b""))
    loaded = kforecast.Forecaster.load(tmp_path)
    asked = {"quantiles": [0.1, 0.9]}
    pd.testing.assert_frame_equal(loaded.forecast(rows, **asked), forecaster.forecast(rows, **asked))


@pytest.mark.parametrize("sizes", [{"members": 0}, {"hidden": 1 << 40}, {"width": 3}, {"layers": True}, 5])
def test_wrong_sizes_are_refused(sizes: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        Pretrained(TEN_MINUTES, 1, sizes=sizes)  # type: ignore[arg-type]
