"""From a frame to forecasts with local days, and with bins that Kapacity's network does not know."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import kforecast
from kforecast.artifact import CONFIG
from kforecast.errors import ArtifactError, ConfigError, DataError

DAYS = kforecast.Window("1D", 7, 3)
HOURS = kforecast.Window("1H", 7, 3)


def days(zone: str = "Europe/Berlin") -> pd.DataFrame:
    """A year of local days up to Sunday, 30 June 2024: 100 on weekdays, 20 on weekends."""
    day = pd.date_range("2023-07-01", "2024-06-30", freq="D", tz=zone)
    value = np.where(day.day_of_week >= 5, 20, 100) + np.random.default_rng(0).normal(0, 2, len(day))
    seconds = day.tz_convert("UTC").as_unit("s").astype("int64")
    return pd.DataFrame({"timestamp": seconds, "value": value, "workload": "shop/web", "metric": "orders"})


def traffic(start: int, count: int, step: int) -> pd.DataFrame:
    """Traffic with a daily cycle."""
    seconds = start + step * np.arange(count)
    value = 10 + 5 * np.sin(2 * np.pi * seconds / 86_400)
    return pd.DataFrame({"timestamp": seconds, "value": value, "workload": "shop/web", "metric": "qps"})


def moments(forecast: pd.DataFrame, zone: str) -> list[str]:
    stamps = pd.to_datetime(forecast["timestamp"], unit="s", utc=True).dt.tz_convert(zone)
    return stamps.dt.strftime("%a %Y-%m-%d %H:%M").tolist()


@pytest.fixture(scope="module")
def of_days() -> kforecast.Forecaster:
    return kforecast.train(days(), DAYS, model="auto", timezone="Europe/Berlin", max_epochs=2, verbose=False)


def test_the_first_forecast_is_for_the_day_after_the_last_one(
    of_days: kforecast.Forecaster, tmp_path: Path
) -> None:
    of_days.save(tmp_path / "model")
    loaded = kforecast.Forecaster.load(tmp_path / "model")
    assert loaded.zone == "Europe/Berlin"
    forecast = loaded.forecast(days())
    expected = ["Mon 2024-07-01 00:00", "Tue 2024-07-02 00:00", "Wed 2024-07-03 00:00"]
    assert moments(forecast, "Europe/Berlin") == expected
    assert forecast["value"].tolist() == pytest.approx([100, 100, 100], abs=30)
    # Over the weekend when clocks were set forward, from rows of an hour each.
    until = int(pd.Timestamp("2024-03-30", tz="Europe/Berlin").timestamp())
    rows = traffic(until - 60 * 86_400, 60 * 24, 3600).assign(metric="orders")
    forecast = loaded.forecast(rows)
    assert moments(forecast, "Europe/Berlin") == [
        "Sat 2024-03-30 00:00",
        "Sun 2024-03-31 00:00",
        "Mon 2024-04-01 00:00",
    ]
    assert np.diff(forecast["timestamp"]).tolist() == [86_400, 82_800]
    found = loaded.evaluate(days(), start="2024-05-01T00:00:00+02:00")
    assert set(moments(found.forecasts, "Europe/Berlin")) <= set(moments(days(), "Europe/Berlin"))


def test_a_damaged_zone_of_the_bins_is_an_error(of_days: kforecast.Forecaster, tmp_path: Path) -> None:
    for number, wrong in enumerate(["Europe/Atlantis", "[1]"]):
        folder = tmp_path / str(number)
        of_days.save(folder)
        (folder / "metadata.json").unlink()
        (folder / "intervals.json").unlink(missing_ok=True)
        text = (folder / CONFIG).read_text()
        (folder / CONFIG).write_text(text.replace("bin_zone: Europe/Berlin", f"bin_zone: {wrong}"))
        with pytest.raises(ArtifactError, match="bin_zone"):
            kforecast.Forecaster.load(folder)


@pytest.mark.parametrize("model", ["fcnet", "seasonal_mlp"])
def test_local_days_without_their_zone_are_refused(model: str) -> None:
    with pytest.raises(DataError, match=r"rows come at 22:00 and 23:00 UTC.*data\.timezone=Europe/Berlin"):
        kforecast.train(days(), DAYS, model=model, max_epochs=1, verbose=False)


def test_kapacitys_network_keeps_days_of_utc() -> None:
    rows = traffic(19_700 * 86_400, 60 * 24, 3600)
    made = kforecast.train(rows, DAYS, timezone="Europe/Berlin", max_epochs=1, test=0, verbose=False)
    assert made.zone == "UTC"
    assert (made.forecast(rows)["timestamp"] % 86_400 == 0).all()


@pytest.mark.parametrize(
    ("freq", "step"),
    [
        ("15min", 300),
        ("30s", 30),
        *(pytest.param(*more, marks=pytest.mark.slow) for more in (("5min", 60), ("2H", 3600))),
    ],
)
def test_any_bin_width_trains_forecasts_and_is_judged(freq: str, step: int) -> None:
    window = kforecast.Window(freq, 12, 4)
    width = window.frequency.step
    count = (3 * 86_400 if width < 600 else 12 * 86_400) // step
    rows = traffic(19_700 * 86_400, count, step)
    made = kforecast.train(rows, window, model="auto", max_epochs=1, verbose=False)
    forecast = made.forecast(rows)
    end = 19_700 * 86_400 + count * step
    assert forecast["timestamp"].tolist() == [end + width * number for number in range(4)]
    assert np.isfinite(forecast["value"]).all()
    assert made.evaluate(rows).scores["wape"].notna().all()


def test_kapacitys_network_names_its_bins_and_the_models_for_others() -> None:
    rows = traffic(19_700 * 86_400, 1000, 60)
    with pytest.raises(ConfigError, match="1min, 10min, 1H, 1D only; for 5min add model=auto"):
        kforecast.train(rows, kforecast.Window("5min", 12, 6), verbose=False)


def test_half_past_is_the_hour_of_india() -> None:
    rows = traffic(19_700 * 86_400 + 1800, 24 * 20, 3600)
    with pytest.raises(DataError, match=r"rows come 00:30 after whole 1H in UTC.*Asia/Kolkata"):
        kforecast.train(rows, HOURS, max_epochs=1, verbose=False)
    made = kforecast.train(
        rows, HOURS, model="seasonal_mlp", timezone="Asia/Kolkata", max_epochs=1, test=0, verbose=False
    )
    first = int(rows["timestamp"].iloc[-1])
    assert made.forecast(rows)["timestamp"].tolist() == [first + 3600 * n for n in (1, 2, 3)]
