"""Forecaster with artifacts made elsewhere, our own, and histories of every kind."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from kforecast.artifact import INTERVALS, METADATA, TRIO, Artifact, EstimatorConfig, save_intervals
from kforecast.data.panel import Panel
from kforecast.errors import ArtifactError, DataError
from kforecast.forecaster import Forecaster
from kforecast.intervals import calibrate
from kforecast.models.fcnet import Fcnet
from kforecast.window import Frequency

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[2] / "shared" / "golden"
TRIOS = sorted({path.name: path for folder in (SHARED, GOLDEN) for path in folder.glob("trio_*")}.values())


@pytest.fixture(autouse=True)
def same_weights() -> None:
    """Seed the random networks of a test."""
    torch.manual_seed(0)


START = 1_704_067_200


def saved(
    directory: Path, series: tuple[str, ...] = ("ns/aqps", "ns/bqps"), fill: str = "interpolate"
) -> Path:
    config = EstimatorConfig(freq="10min", prediction_length=3, context_length=4, num_series=len(series))
    state = Fcnet(config.window, len(series)).artifact_state()
    item_ids = {key: number for number, key in enumerate(series)}
    Artifact(config, item_ids, state, {"fill": fill}).save(directory)
    return directory


def history(values: list[float], workload: str = "ns/a", start: int = START) -> pd.DataFrame:
    rows = pd.DataFrame({"timestamp": start + 600 * np.arange(len(values)), "value": values})
    return rows.dropna().assign(workload=workload, metric="qps")


@pytest.mark.parametrize("trio", TRIOS, ids=lambda path: path.name)
@pytest.mark.parametrize("as_consumed", [False, True])
def test_trios_made_elsewhere(trio: Path, as_consumed: bool, caplog: pytest.LogCaptureFixture) -> None:
    forecaster = Forecaster.load(trio / "model")
    assert METADATA in caplog.text
    expected = pd.read_csv(trio / "expected_forecast.csv")
    column = "value_with_series_0_embedding" if as_consumed else "value"
    found = forecaster.forecast(pd.read_csv(trio / "history.csv"), as_consumed=as_consumed)
    keys = ["timestamp", "workload", "metric"]
    both = expected[[*keys, column]].rename(columns={column: "expected"}).merge(found, on=keys)
    assert len(both) == len(expected) == len(found)
    np.testing.assert_allclose(both["value"], both["expected"], rtol=1e-4)


def test_missing_bins_are_filled_by_the_artifacts_policy(tmp_path: Path) -> None:
    gap = history([5, 8, np.nan, 4])
    for fill, whole in (("interpolate", [5, 8, 6, 4]), ("zero", [5, 8, 0, 4]), ("ffill", [5, 8, 8, 4])):
        forecaster = Forecaster.load(saved(tmp_path / fill, fill=fill))
        pd.testing.assert_frame_equal(forecaster.forecast(gap), forecaster.forecast(history(whole)))


def test_a_short_history_is_extended_by_its_first_value(tmp_path: Path) -> None:
    """With ``zero`` too: zeros there would be forecast as the beginning of the traffic."""
    for fill in ("interpolate", "zero"):
        forecaster = Forecaster.load(saved(tmp_path / fill, fill=fill))
        short = forecaster.forecast(history([5, 4], start=START + 1200))
        pd.testing.assert_frame_equal(short, forecaster.forecast(history([5, 5, 5, 4])))


def test_all_series_are_forecast_from_one_origin(tmp_path: Path) -> None:
    forecaster = Forecaster.load(saved(tmp_path / "model"))
    late, early = history([1, 2, 3, 4], "ns/a", start=START + 1800), history([5, 6, 7, 8], "ns/b")
    both = forecaster.forecast(pd.concat([early, late]))
    assert (both["timestamp"] - START).tolist() == [4200, 4800, 5400] * 2
    assert both["age"].tolist() == [0, 0, 0, 1800, 1800, 1800]
    held = forecaster.forecast(history([8, 8, 8, 8], "ns/b", start=START + 1800))
    np.testing.assert_allclose(both["value"][3:], held["value"], rtol=1e-6)


def test_finer_rows_are_averaged_and_an_unfinished_bin_is_left_out(tmp_path: Path) -> None:
    forecaster = Forecaster.load(saved(tmp_path / "model"))
    coarse = history([4, 5, 6, 7])
    fine = pd.concat([coarse.assign(timestamp=coarse["timestamp"] + 60 * i) for i in range(10)])
    unfinished = pd.DataFrame(
        {"timestamp": [START + 2400], "value": 999.0, "workload": "ns/a", "metric": "qps"}
    )
    pd.testing.assert_frame_equal(
        forecaster.forecast(pd.concat([fine, unfinished])), forecaster.forecast(coarse)
    )


def test_a_series_it_does_not_know_is_named(tmp_path: Path) -> None:
    forecaster = Forecaster.load(saved(tmp_path / "model"))
    with pytest.raises(DataError, match="ns/stranger qps"):
        forecaster.forecast(history([1, 2, 3, 4], "ns/stranger"))


@pytest.mark.parametrize(
    "change, word",
    [
        ({"context_length": 5}, "does not fit"),
        ({"num_series": 3}, "does not fit"),
        ({"prediction_length": 4}, "does not fit"),
        ({"freq": "1H"}, "does not fit"),
        ({"model": "Other"}, "unknown model 'Other'"),
    ],
)
def test_a_checkpoint_that_does_not_fit_its_config_is_refused(
    tmp_path: Path, change: dict[str, object], word: str
) -> None:
    artifact = Artifact.load(saved(tmp_path / "model"))
    config = EstimatorConfig(**(vars(artifact.config) | change))
    Artifact(config, artifact.item_ids, artifact.state, {}).save(tmp_path / "model")
    with pytest.raises(ArtifactError, match=word):
        Forecaster.load(tmp_path / "model")


def test_an_id_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    artifact = Artifact.load(saved(tmp_path / "model"))
    Artifact(artifact.config, {"ns/aqps": 2}, artifact.state, {}).save(tmp_path / "model")
    with pytest.raises(ArtifactError, match="num_series"):
        Forecaster.load(tmp_path / "model")


def test_as_consumed_fills_with_zeros_as_the_job_does(tmp_path: Path) -> None:
    forecaster = Forecaster.load(saved(tmp_path / "model", fill="interpolate"))
    gap, zeros = history([5, 8, np.nan, 4]), history([5, 8, 0, 4])
    served = forecaster.forecast(gap, as_consumed=True)
    pd.testing.assert_frame_equal(served, forecaster.forecast(zeros, as_consumed=True))
    # Our own forecasts differ only below zero, which the job does not know of.
    assert (served["value"] < 0).any()
    np.testing.assert_array_equal(forecaster.forecast(zeros)["value"], served["value"].clip(lower=0))


def test_a_series_without_any_value_is_refused(tmp_path: Path) -> None:
    forecaster = Forecaster.load(saved(tmp_path / "model"))
    silent = history([1, 2, 3], "ns/b").assign(value=np.nan)
    with pytest.raises(DataError, match="no value is known of ns/b qps"):
        forecaster.forecast(pd.concat([history([1, 2, 3, 4]), silent]))


def test_a_mostly_missing_context_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    forecaster = Forecaster.load(saved(tmp_path / "model"))
    forecaster.forecast(history([1, 2, np.nan, 4]))
    assert "guess" not in caplog.text
    forecaster.forecast(pd.concat([history([1, 2, 3, 4]), history([7], "ns/b")]))
    assert "context of ns/b qps is missing" in caplog.text


# Many origins at once


def traffic(bins: int = 120, gaps: float = 0.2, seed: int = 3) -> Panel:
    """Two series known to the artifact of :func:`saved`."""
    rng = np.random.default_rng(seed)
    observed = rng.random((2, bins)) >= gaps
    observed[:, [0, -1]] = True
    values = np.where(observed, rng.uniform(1, 9, (2, bins)), 0).astype(np.float32)
    return Panel(values, observed, START, Frequency.parse("10min"), (("ns/a", "qps"), ("ns/b", "qps")))


def until(panel: Panel, bins: int) -> Panel:
    return replace(panel, values=panel.values[:, :bins], observed=panel.observed[:, :bins])


def frame_of(panel: Panel) -> pd.DataFrame:
    """One row per observed bin."""
    values = np.where(panel.observed, panel.values, np.nan)
    return pd.concat(
        history(row.tolist(), workload, panel.start)
        for row, (workload, _) in zip(values, panel.series, strict=True)
    )


@pytest.mark.parametrize("fill", ["interpolate", "zero", "ffill"])
@pytest.mark.parametrize("as_consumed", [False, True])
def test_a_window_may_reach_before_the_panel_and_start_behind_its_last_bin(
    tmp_path: Path, fill: str, as_consumed: bool
) -> None:
    forecaster = Forecaster.load(saved(tmp_path / "model", fill=fill))
    panel = traffic(12)
    # The context is 4 bins long.
    for origin in (1, 2, 3, 4, 8, panel.num_bins):
        row = np.flatnonzero(panel.observed[:, origin - 1])
        made = forecaster.forecast_windows(
            panel, row, np.full(len(row), origin), as_consumed=as_consumed, hold_newest=not as_consumed
        )
        expected = forecaster.forecast(frame_of(until(panel, origin)), as_consumed=as_consumed)
        assert made.values.shape == (len(row), 3)
        for number, one in enumerate(row):
            own = expected[expected["workload"] == panel.series[one][0]]
            assert own["timestamp"].tolist() == [START + 600 * (origin + step) for step in range(3)]
            np.testing.assert_allclose(made.values[number], own["value"], rtol=1e-6, atol=1e-6)


def test_many_windows_come_in_the_order_asked_for_whatever_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forecaster = Forecaster.load(saved(tmp_path / "model"))
    panel = traffic()
    rng = np.random.default_rng(1)
    series, origin = rng.integers(0, 2, 50), rng.integers(1, 121, 50)
    found = forecaster.forecast_windows(panel, series, origin)
    assert (found.values.dtype, found.level.dtype) == (np.float32, np.float32)
    monkeypatch.setattr("kforecast.data.windows._EVALUATION_WINDOWS", 7)
    small = forecaster.forecast_windows(panel, series, origin)
    np.testing.assert_allclose(small.values, found.values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(small.level, found.level, rtol=1e-6)
    for number in range(50):
        alone = forecaster.forecast_windows(panel, series[[number]], origin[[number]])
        np.testing.assert_allclose(found.values[[number]], alone.values, rtol=1e-5, atol=1e-6)


def test_the_level_of_a_window_is_the_mean_size_of_its_filled_context(tmp_path: Path) -> None:
    forecaster = Forecaster.load(saved(tmp_path / "model", fill="zero"))
    panel = Panel.from_frame(history([-2, 6, np.nan, 4, 5]), Frequency.parse("10min"))
    origin = np.array([1, 4, 5])
    made = forecaster.forecast_windows(panel, np.zeros(3, np.int64), origin)
    assert made.level.tolist() == [[0.5], [3.0], [3.75]]
    # Without anything to scale by, nothing is divided by zero.
    silent = replace(panel, values=0 * panel.values)
    assert np.isfinite(forecaster.forecast_windows(silent, np.zeros(3, np.int64), origin).values).all()


# Quantiles


def test_quantiles_are_columns_in_the_order_asked_for(tmp_path: Path) -> None:
    panel = traffic()
    forecaster = Forecaster.load(saved(tmp_path / "model")).calibrated(panel, 4, 100)
    frame = frame_of(panel)
    found = forecaster.forecast(frame, quantiles=[0.9, 0.1, 0.5, 0.025])
    assert list(found.columns) == [
        *("timestamp", "workload", "metric", "value"),
        *("q0.9", "q0.1", "q0.5", "q0.025", "age"),
    ]
    plain = forecaster.forecast(frame)
    pd.testing.assert_frame_equal(found[plain.columns], plain)
    ordered = found[["q0.025", "q0.1", "q0.5", "q0.9"]].to_numpy()
    assert (np.diff(ordered, axis=1) >= 0).all()
    assert (ordered >= 0).all()
    assert (ordered[:, 0] < ordered[:, -1]).all()

    series, origin = np.array([0, 1]), np.array([120, 120])
    made = forecaster.forecast_windows(panel, series, origin)
    expected = forecaster.quantiles(panel, series, made, [0.9, 0.1])
    np.testing.assert_allclose(found[["q0.9", "q0.1"]], expected.reshape(6, 2), rtol=1e-6)


def test_without_intervals_quantiles_are_refused_with_the_remedy(tmp_path: Path) -> None:
    forecaster = Forecaster.load(saved(tmp_path / "model"))
    assert forecaster.intervals is None
    with pytest.raises(ArtifactError) as caught:
        forecaster.forecast(history([1, 2, 3, 4]), quantiles=[0.9])
    message = str(caught.value)
    for word in (str(tmp_path / "model"), INTERVALS, "data.validation", "evaluate.save_intervals=true"):
        assert word in message


@pytest.mark.parametrize("levels, word", [([0.5, 1.0], "1.0"), ([True], "True"), ([0.5, 0.5], "twice")])
def test_a_level_that_cannot_be_served_is_a_value_error(
    tmp_path: Path, levels: list[float], word: str
) -> None:
    panel = traffic()
    plain = Forecaster.load(saved(tmp_path / "model"))
    for forecaster in (plain, plain.calibrated(panel, 4, 100)):
        with pytest.raises(ValueError, match=f"{word}.*between 0.005 and 0.995"):
            forecaster.forecast(frame_of(panel), quantiles=levels)


@pytest.mark.parametrize("as_consumed", [False, True])
def test_intervals_are_made_of_the_errors_in_the_span(tmp_path: Path, as_consumed: bool) -> None:
    panel = traffic()
    plain = Forecaster.load(saved(tmp_path / "model"))
    begin, stop = 30, 90
    found = plain.calibrated(panel, begin, stop, as_consumed=as_consumed)
    assert plain.intervals is None
    assert (found.net, found.item_ids, found.fill) == (plain.net, plain.item_ids, plain.fill)

    rows, error, level = [], [], []
    for row in range(2):
        for origin in range(begin, stop - 2):
            if panel.observed[row, origin - 4 : origin].sum() < 2:
                continue
            made = plain.forecast_windows(panel, np.array([row]), np.array([origin]), as_consumed=as_consumed)
            at = slice(origin, origin + 3)
            error.append(np.where(panel.observed[row, at], panel.values[row, at] - made.values[0], np.nan))
            level.append(made.level[0])
            rows.append(row)
    rows_of = [[number for number, row in enumerate(rows) if row == one] for one in range(2)]
    expected = calibrate(
        np.array(error),
        np.array(level),
        ["ns/aqps", "ns/bqps"],
        np.array(rows),
        np.array([np.mean([level[number] for number in own]) for own in rows_of]),
        np.array([True, True]),
        panel.values[:, :stop].max(axis=1),
    )
    np.testing.assert_allclose(found.intervals.pooled, expected.pooled, rtol=1e-4, atol=1e-4)
    assert list(found.intervals.series) == list(expected.series)
    for key, own in expected.series.items():
        assert found.intervals.series[key].windows == own.windows
        assert found.intervals.series[key].nonnegative
        assert found.intervals.series[key].floor == pytest.approx(own.floor, rel=1e-4)


def test_nothing_behind_the_span_matters_to_intervals(tmp_path: Path) -> None:
    panel = traffic()
    plain = Forecaster.load(saved(tmp_path / "model"))
    found = plain.calibrated(panel, 30, 90)
    changed = replace(panel, values=panel.values.copy(), observed=panel.observed.copy())
    changed.values[:, 90:] = -1000
    changed.observed[:, 90:] = True
    assert plain.calibrated(changed, 30, 90).intervals.to_json("") == found.intervals.to_json("")
    changed.values[0, 89] = -1000
    changed.observed[0, 89] = True
    other = plain.calibrated(changed, 30, 90).intervals
    assert not np.array_equal(other.pooled, found.intervals.pooled)
    assert [own.nonnegative for own in other.series.values()] == [False, True]


def test_without_enough_windows_there_are_no_intervals(tmp_path: Path) -> None:
    panel = traffic(gaps=0)
    calibrated = Forecaster.load(saved(tmp_path / "model")).calibrated(panel, 4, 100)
    assert calibrated.intervals is not None
    assert calibrated.calibrated(panel, 50, 62).intervals is not None  # 10 origins of 2 series
    assert calibrated.calibrated(panel, 50, 61).intervals is None
    assert calibrated.calibrated(panel, 50, 52).intervals is None  # shorter than the horizon


# Intervals in an artifact


def with_intervals(directory: Path) -> Forecaster:
    """An artifact with intervals.json, and the forecaster that saved it."""
    artifact = Artifact.load(saved(directory))
    intervals = Forecaster.of(artifact, "model").calibrated(traffic(), 4, 100).intervals
    artifact = replace(artifact, intervals=intervals)
    artifact.save(directory)
    return Forecaster.of(artifact, "model")


def test_an_artifact_keeps_its_intervals(tmp_path: Path) -> None:
    expected = with_intervals(tmp_path / "model")
    loaded = Forecaster.load(tmp_path / "model")
    levels = [0.005, 0.1, 0.33, 0.5, 0.9, 0.995]
    pd.testing.assert_frame_equal(
        loaded.forecast(frame_of(traffic()), quantiles=levels),
        expected.forecast(frame_of(traffic()), quantiles=levels),
        check_exact=True,
    )
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted(
        [*TRIO, METADATA, INTERVALS]
    )
    size = (tmp_path / "model" / INTERVALS).stat().st_size
    assert Artifact.load(tmp_path / "model").sizes()[INTERVALS] == size


def test_intervals_can_be_put_beside_an_artifact(tmp_path: Path) -> None:
    directory = saved(tmp_path / "model")
    before = {name: (directory / name).read_bytes() for name in (*TRIO, METADATA)}
    calibrated = Forecaster.load(directory).calibrated(traffic(), 4, 100)
    assert save_intervals(directory, calibrated.intervals) == directory / INTERVALS
    assert {name: (directory / name).read_bytes() for name in before} == before
    pd.testing.assert_frame_equal(
        Forecaster.load(directory).forecast(frame_of(traffic()), quantiles=[0.1, 0.9]),
        calibrated.forecast(frame_of(traffic()), quantiles=[0.1, 0.9]),
        check_exact=True,
    )
    # The files are still verified.
    (directory / TRIO[2]).write_text('{"ns/aqps": 1, "ns/bqps": 0}')
    with pytest.raises(ArtifactError, match="sha256"):
        Forecaster.load(directory)


@pytest.mark.parametrize("trio", TRIOS, ids=lambda path: path.name)
def test_intervals_can_be_put_beside_a_trio_made_elsewhere(trio: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(trio / "model", directory)
    plain = Forecaster.load(directory)
    frequency = plain.window.frequency
    values = np.random.default_rng(0).uniform(1, 9, (1, plain.window.length + 40)).astype(np.float32)
    panel = Panel(values, np.ones(values.shape, bool), 0, frequency, (("shop/cart", "qps"),))
    calibrated = plain.calibrated(panel, plain.window.context_length, panel.num_bins)
    save_intervals(directory, calibrated.intervals)
    past = pd.read_csv(trio / "history.csv").query("workload == 'shop/cart'")
    found = Forecaster.load(directory).forecast(past, quantiles=[0.1, 0.9])
    pd.testing.assert_frame_equal(found.drop(columns=["q0.1", "q0.9"]), plain.forecast(past))
    assert (found["q0.1"] < found["q0.9"]).all()
    pd.testing.assert_frame_equal(found, calibrated.forecast(past, quantiles=[0.1, 0.9]), check_exact=True)


def test_intervals_of_another_checkpoint_are_refused(tmp_path: Path) -> None:
    with_intervals(tmp_path / "one")
    other = saved(tmp_path / "other")  # with different random weights
    shutil.copy(tmp_path / "one" / INTERVALS, other)
    with pytest.raises(ArtifactError, match="calibrated for another checkpoint") as caught:
        Forecaster.load(other)
    assert str(other / INTERVALS) in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"levels": [0.5]}'])
def test_damaged_intervals_are_refused(tmp_path: Path, content: str) -> None:
    (saved(tmp_path / "model") / INTERVALS).write_text(content)
    with pytest.raises(ArtifactError) as caught:
        Forecaster.load(tmp_path / "model")
    assert str(tmp_path / "model" / INTERVALS) in str(caught.value)


@pytest.mark.parametrize("notes", [False, True])
def test_an_artifact_without_intervals_takes_away_those_of_the_one_before(
    tmp_path: Path, notes: bool
) -> None:
    directory = tmp_path / "model"
    with_intervals(directory)
    if notes:  # a directory with foreign files is not swapped
        (directory / "notes.txt").write_text("mine")
    replace(Artifact.load(directory), intervals=None).save(directory)
    assert sorted(path.name for path in directory.iterdir()) == sorted(
        [*TRIO, METADATA, *["notes.txt"] * notes]
    )
    assert Forecaster.load(directory).intervals is None
