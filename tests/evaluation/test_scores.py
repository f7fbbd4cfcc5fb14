"""Scores, computed by hand."""

import math

import numpy as np
import pytest

from kforecast.evaluation.scores import Scores, score


def _score(forecast, actual, observed=None, series=None):
    actual = np.array(actual, dtype=np.float32)
    observed = np.ones(actual.shape, bool) if observed is None else np.array(observed, dtype=bool)
    series = np.zeros(len(actual), int) if series is None else np.array(series)
    return score(np.array(forecast, dtype=np.float32), actual, observed, series)


def test_one_series():
    scores = _score([[1, 2], [5, 5]], [[2, 4], [3, 5]])
    assert scores.mae == pytest.approx((1 + 2 + 2 + 0) / 4)
    assert scores.wape == pytest.approx((1 + 2 + 2 + 0) / (2 + 4 + 3 + 5))


def test_a_right_forecast_has_no_error():
    assert _score([[1, 2]], [[1, 2]]) == Scores(mae=0.0, wape=0.0)


def test_each_series_counts_the_same_however_big_and_however_many_windows():
    scores = _score(
        [[900, 1100], [1000, 1000], [1, 4]],
        [[1000, 1000], [1000, 1000], [2, 2]],
        series=[4, 4, 9],
    )
    assert scores.mae == pytest.approx((200 / 4 + 3 / 2) / 2)
    assert scores.wape == pytest.approx((200 / 4000 + 3 / 4) / 2)


def test_unobserved_targets_do_not_count_whatever_stands_there():
    scores = _score([[1, np.nan], [5, 1e9]], [[2, 7], [3, np.inf]], [[1, 0], [1, 0]])
    assert scores == _score([[1], [5]], [[2], [3]])
    assert scores.mae == pytest.approx(1.5)


def test_a_series_without_observed_targets_is_left_out():
    scores = _score([[1], [50]], [[2], [0]], [[1], [0]], series=[0, 1])
    assert scores == Scores(mae=1.0, wape=0.5)


def test_a_series_without_traffic_has_an_error_but_no_share():
    scores = _score([[1], [3]], [[2], [0]], series=[0, 1])
    assert scores.mae == pytest.approx((1 + 3) / 2)
    assert scores.wape == pytest.approx(1 / 2)


def test_without_any_traffic_there_is_no_wape():
    scores = _score([[3]], [[0]])
    assert scores.mae == 3
    assert math.isnan(scores.wape)


def test_negative_values_weigh_by_their_size():
    assert _score([[0, 0]], [[-2, 2]]).wape == 1.0


def test_many_small_errors_do_not_drown_in_float32():
    actual = np.full((1, 200_000), 16_777_216.0)
    assert _score(actual + 2, actual).mae == pytest.approx(2.0, rel=1e-12)


def test_nothing_observed_is_refused():
    with pytest.raises(ValueError, match="no target is observed"):
        _score([[1]], [[1]], [[0]])
