"""Forecaster: artifacts made elsewhere, our own, and histories of every kind."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kforecast.artifact import METADATA, Artifact, EstimatorConfig
from kforecast.errors import ArtifactError, DataError
from kforecast.forecaster import Forecaster
from kforecast.models.fcnet import Fcnet

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[2] / "shared" / "golden"
TRIOS = sorted({path.name: path for folder in (SHARED, GOLDEN) for path in folder.glob("trio_*")}.values())


def saved(
    directory: Path, series: tuple[str, ...] = ("ns/aqps", "ns/bqps"), fill: str = "interpolate"
) -> Path:
    config = EstimatorConfig(freq="10min", prediction_length=3, context_length=4, num_series=len(series))
    state = Fcnet(config.window, len(series)).artifact_state()
    item_ids = {key: number for number, key in enumerate(series)}
    Artifact(config, item_ids, state, {"fill": fill}).save(directory)
    return directory


def history(values: list[float], workload: str = "ns/a", start: int = 0) -> pd.DataFrame:
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


def test_a_short_history_is_extended_by_the_policy(tmp_path: Path) -> None:
    for fill, whole in (("interpolate", [5, 5, 5, 4]), ("zero", [0, 0, 5, 4])):
        forecaster = Forecaster.load(saved(tmp_path / fill, fill=fill))
        short = forecaster.forecast(history([5, 4], start=1200))
        pd.testing.assert_frame_equal(short, forecaster.forecast(history(whole)))


def test_each_series_is_forecast_from_its_own_newest_bin(tmp_path: Path) -> None:
    forecaster = Forecaster.load(saved(tmp_path / "model"))
    late, early = history([1, 2, 3, 4], "ns/a", start=6000), history([5, 6, 7, 8], "ns/b")
    both = forecaster.forecast(pd.concat([early, late]))
    assert both["timestamp"].tolist() == [8400, 9000, 9600, 2400, 3000, 3600]
    alone = forecaster.forecast(early)
    np.testing.assert_allclose(both["value"][3:], alone["value"], rtol=1e-6)


def test_finer_rows_are_averaged_and_an_unfinished_bin_is_left_out(tmp_path: Path) -> None:
    forecaster = Forecaster.load(saved(tmp_path / "model"))
    coarse = history([4, 5, 6, 7])
    fine = pd.concat([coarse.assign(timestamp=coarse["timestamp"] + 60 * i) for i in range(10)])
    unfinished = pd.DataFrame({"timestamp": [2400], "value": [999.0], "workload": "ns/a", "metric": "qps"})
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
    pd.testing.assert_frame_equal(forecaster.forecast(gap, as_consumed=True), forecaster.forecast(zeros))


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
