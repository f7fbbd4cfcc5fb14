"""Synthetic traffic: a seed determines the rows, and every setting has its effect."""

import numpy as np
import pandas as pd
import pytest

from kforecast.metrics.source import COLUMNS
from kforecast.metrics.synthetic import SyntheticSource

MONDAY = 1_704_067_200  # 2024-01-01 00:00 UTC
QUIET = {
    "workloads": 2,
    "days": 14,
    "step": 600,
    "start": MONDAY,
    "hourly": 0.0,
    "weekend": 1.0,
    "trend": 0.0,
    "noise": 0.0,
    "spikes": 0.0,
    "gaps": 0.0,
    "seed": 1,
}
LIVELY = QUIET | {"hourly": 0.2, "weekend": 0.6, "trend": 0.3, "noise": 0.1, "spikes": 3.0, "gaps": 2.0}


def _fetch(settings, **changes):
    return SyntheticSource(**(settings | changes)).fetch()


def _of(frame, workload):
    return frame.loc[frame["workload"] == workload].reset_index(drop=True)


def test_the_frame_is_that_of_every_source():
    frame = _fetch(QUIET)
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 2 * 14 * 144
    assert (frame["value"] > 0).all()
    for _, rows in frame.groupby("workload", observed=True):
        assert rows["timestamp"].tolist() == list(range(MONDAY, MONDAY + 14 * 86_400, 600))


def test_the_same_seed_gives_the_same_rows():
    pd.testing.assert_frame_equal(_fetch(LIVELY), _fetch(LIVELY))


def test_another_seed_gives_other_rows():
    ours, theirs = _fetch(LIVELY, gaps=0.0), _fetch(LIVELY, gaps=0.0, seed=2)
    assert not np.allclose(ours["value"], theirs["value"], rtol=0.01)


def test_adding_workloads_does_not_change_the_others():
    few, many = _fetch(LIVELY, workloads=2), _fetch(LIVELY, workloads=12)
    names = few["workload"].unique()
    assert len(names) == 2
    for name in names:
        ours, theirs = _of(few, name), _of(many, name)
        assert ours["timestamp"].equals(theirs["timestamp"])
        assert ours["value"].equals(theirs["value"])


def test_every_workload_has_a_name_and_traffic_of_its_own():
    frame = _fetch(QUIET, workloads=25, days=1)
    assert frame["workload"].nunique() == 25
    assert frame.groupby("workload", observed=True)["value"].mean().round(3).nunique() == 25


def test_a_gap_leaves_out_whole_rows_for_minutes_to_hours():
    frame = _fetch(LIVELY, workloads=5)
    without = _fetch(LIVELY, workloads=5, gaps=0.0)
    assert len(frame) < len(without) == 5 * 14 * 144
    assert frame["value"].notna().all()
    holes = []
    for _, rows in frame.groupby("workload", observed=True):
        steps = np.diff(rows["timestamp"])
        assert (steps % 600 == 0).all()
        holes += steps[steps > 600].tolist()
    assert holes
    assert max(holes) < 5 * 10_800


def test_weekends_are_at_their_share_of_weekdays():
    plain, quiet = _fetch(QUIET), _fetch(QUIET, weekend=0.5)
    weekday = pd.to_datetime(plain["timestamp"], unit="s").dt.day_of_week
    share = quiet["value"] / plain["value"]
    np.testing.assert_allclose(share[weekday >= 5], 0.5, rtol=1e-3)
    np.testing.assert_allclose(share[weekday < 5], 1.0, rtol=1e-3)


def test_without_noise_a_day_is_like_the_day_before():
    for _, rows in _fetch(QUIET).groupby("workload", observed=True):
        value = rows["value"].to_numpy()
        np.testing.assert_allclose(value[144:], value[:-144], rtol=1e-3)
        assert value.max() > 1.5 * value.min()


def test_jobs_started_by_the_clock_raise_the_first_minutes_of_an_hour():
    share = _fetch(QUIET, hourly=0.5)["value"] / _fetch(QUIET)["value"]
    in_hour = (_fetch(QUIET)["timestamp"] % 3600) // 600
    means = share.groupby(in_hour).mean()
    assert means.iloc[0] == pytest.approx(1.5, rel=1e-3)
    assert means.is_monotonic_decreasing


def test_a_trend_grows_towards_the_end():
    share = _fetch(QUIET, trend=0.4)["value"] / _fetch(QUIET)["value"]
    first, last = share.iloc[0], share.iloc[14 * 144 - 1]
    assert first == pytest.approx(1.0, rel=1e-3)
    assert 1.2 <= last <= 1.6


def test_noise_is_as_strong_as_asked():
    relative = _fetch(QUIET, noise=0.1, workloads=4)["value"] / _fetch(QUIET, workloads=4)["value"] - 1
    assert relative.std() == pytest.approx(0.1, rel=0.2)


def test_spikes_are_two_to_four_times_the_load_and_rare():
    share = (_fetch(QUIET, spikes=5.0, workloads=5)["value"] / _fetch(QUIET, workloads=5)["value"]).to_numpy()
    spiky = share > 1.01
    assert 0 < spiky.mean() < 0.1
    assert share[spiky].min() > 1.99
    np.testing.assert_allclose(share[~spiky], 1.0, rtol=1e-3)


def test_the_source_says_what_it_is():
    assert str(SyntheticSource(**QUIET)) == "synthetic traffic (2 workloads, 14 days, seed 1)"


def test_in_utc_the_traffic_is_what_it_always_was():
    frame = _fetch(LIVELY)
    assert len(frame) == 3971
    assert frame["value"].head(4).tolist() == pytest.approx([98.254, 84.779, 83.185, 69.143], abs=0.002)
    assert frame["value"].tail(3).tolist() == pytest.approx([32.583, 32.915, 32.408], abs=0.002)
    pd.testing.assert_frame_equal(frame, _fetch(LIVELY, timezone="UTC"))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Asia/Kathmandu", "America/New_York"])
def test_cycles_and_weekends_follow_the_local_clock(zone):
    """Also across the clock change in March 2024."""
    settings = QUIET | {"workloads": 1, "weekend": 0.5, "hourly": 0.5, "step": 900}
    march = int(pd.Timestamp("2024-03-05", tz="UTC").timestamp())
    there = _fetch(settings, start=march, days=28, timezone=zone)
    clock = pd.to_datetime(there["timestamp"], unit="s", utc=True).dt.tz_convert(zone).dt.tz_localize(None)
    shown = (clock - pd.Timestamp(0)) // pd.Timedelta(seconds=1)
    in_utc = _fetch(settings, start=march - 86_400, days=30).set_index("timestamp")["value"]
    assert there["value"].tolist() == pytest.approx(in_utc.loc[shown].tolist(), abs=0.002)
    assert (shown - there["timestamp"]).nunique() == (1 if zone == "Asia/Kathmandu" else 2)


def test_a_zone_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"did you mean Europe/Berlin\?"):
        _fetch(QUIET, timezone="Europe/Belin")
