"""The points of a result: resampled by maximum, rises earlier, read by the controller."""

import json
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kforecast.errors import ConfigError
from kforecast.scaling.result import Points

START = 1_704_067_200


def points(*replicas: int, step: int = 600) -> Points:
    moments = START + step * np.arange(len(replicas))
    return Points(moments, np.array(replicas), START + step * len(replicas))


def at(points: Points, moment: int) -> int:
    """The replicas that the controller reads at a moment."""
    return int(points.replicas[points.moments <= moment][-1])


def listed(points: Points) -> dict[int, int]:
    return {int(t - START): int(n) for t, n in zip(points.moments, points.replicas, strict=True)}


def test_coarser_points_take_the_maximum_and_finer_ones_hold() -> None:
    assert listed(points(1, 5, 2, 2, 3).every(1200)) == {0: 5, 1200: 2, 2400: 3}
    assert listed(points(1, 5).every(300)) == {0: 1, 300: 1, 600: 5, 900: 5}
    assert listed(points(1, 5).every(600)) == {0: 1, 600: 5}


def test_a_bin_counts_in_every_point_that_it_meets() -> None:
    assert listed(points(1, 5, 2).every(900)) == {0: 5, 900: 5}


def test_points_begin_at_or_before_the_first_bin() -> None:
    late = Points(np.array([START + 600, START + 1200]), np.array([3, 4]), START + 1800)
    assert listed(late.every(3600)) == {0: 4}


def test_a_rise_is_moved_earlier_and_a_fall_stays() -> None:
    assert listed(points(2, 4, 1).ahead(120)) == {0: 2, 480: 4, 600: 4, 1200: 1}
    assert listed(points(2, 4, 1).ahead(0)) == {0: 2, 600: 4, 1200: 1}


def test_a_lead_longer_than_a_bin_brings_the_later_peak_first() -> None:
    """Moving each point for itself would put the low 3 after the early 10."""
    assert listed(points(2, 3, 10, 1).ahead(900)) == {0: 3, 300: 10, 600: 10, 1200: 10, 1800: 1}


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.sampled_from([10, 60, 300, 600, 900, 1200, 3600]),
    st.sampled_from([0, 1, 120, 600, 601, 1800, 86_400]),
)
def test_the_controller_reads_the_most_of_the_lead(replicas: list[int], freq: int, lead: int) -> None:
    bins = points(*replicas)
    coarse = bins.every(freq)
    made = coarse.ahead(lead)
    assert (np.diff(made.moments) > 0).all()
    for moment in range(START, bins.end, 60):
        assert at(coarse, moment) >= at(bins, moment)
        needed = max(at(coarse, t) for t in {moment, *coarse.moments} if moment <= t <= moment + lead)
        assert at(made, moment) == needed


def test_too_many_points_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"--scaling-freq: 10 s make 86,400 points"):
        points(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, step=86_400).every(10)


def test_the_data_is_text_with_integers() -> None:
    data = points(2, 3).data()
    assert data["type"] == "TimeSeries"
    assert datetime.fromisoformat(data["expireTime"]).timestamp() == START + 1200
    assert data["timeSeries"] == json.dumps({str(START): 2, str(START + 600): 3})
