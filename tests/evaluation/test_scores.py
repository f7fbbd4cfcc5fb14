"""Scores, computed by hand and by a library of losses."""

import math

import numpy as np
import pandas as pd
import pytest
from examples import checked
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from utilsforecast import losses

from kforecast.data.panel import Panel
from kforecast.evaluation.backtest import Backtest
from kforecast.evaluation.scores import central_intervals, overall, score, seasonal_error
from kforecast.window import Frequency

NAN = float("nan")
DAY = Frequency.parse("1D")
SEASON = 7
COLUMNS = ["mae", "rmse", "wape", "mase", "bias", "relative_bias"]
LEVELS = (0.5, 0.9, 0.025, 0.1, 0.975)


class _Quantiles:
    """A predictor that only provides quantiles."""

    def __init__(self, values):
        self.values = values

    def quantiles(self, panel, series, made, levels):
        assert made is None
        assert self.values.shape[-1] == len(levels)
        return self.values


def _panel(values, frequency=DAY):
    """A panel from an array with NaN for unobserved bins; the values put there must not matter."""
    values = np.asarray(values, dtype=np.float32)
    observed = ~np.isnan(values)
    series = tuple((f"w{row}", "m") for row in range(len(values)))
    return Panel(np.where(observed, values, np.float32(1e9)), observed, 0, frequency, series)


def _backtest(history, actual, forecasts, series=None, quantiles=None, levels=()):
    """Adjacent windows: the horizons of a series are the rows of ``actual``, one after the other.

    Parameters
    ----------
    history:
        ``[series, bins]`` before the judged span.
    actual:
        ``[windows, horizon]``, NaN where unobserved.
    forecasts:
        By name, the evaluated one first.
    series:
        The series of each window, ascending; all the first one by default.
    """
    actual = np.asarray(actual, dtype=np.float32)
    history = np.asarray(history, dtype=np.float32)
    windows, horizon = actual.shape
    series = np.zeros(windows, np.int64) if series is None else np.array(series)
    begin = history.shape[1]
    place = np.array([int((series[:number] == row).sum()) for number, row in enumerate(series)])
    values = np.full((len(history), begin + horizon * (int(place.max()) + 1)), NAN, np.float32)
    values[:, :begin] = history
    origin = begin + horizon * place
    values[series[:, None], origin[:, None] + np.arange(horizon)] = actual
    panel = _panel(values)
    return Backtest(
        panel=panel,
        begin=begin,
        stop=panel.num_bins,
        stride=horizon,
        cells=series * panel.num_bins + origin,
        forecasts={name: np.asarray(made, dtype=np.float32) for name, made in forecasts.items()},
        models=1,
        predictor=_Quantiles(quantiles),
        made=None,
        levels=levels,
    )


def _scores(*arguments, **named):
    return score(_backtest(*arguments, **named))


def _row(scores, workload="*", step="all", model="kforecast"):
    found = scores[(scores["model"] == model) & (scores["workload"] == workload) & (scores["step"] == step)]
    assert found["metric"].tolist() == ["*" if workload == "*" else "m"]
    return found.iloc[0]


NO_HISTORY = [[0.0]] * 3


def test_one_series_by_hand():
    history = [[1, 2, 3, 4, 5, 6, 7, 3, 4, NAN, 8]]  # a week later: 2, 2, -, 4, whose mean is 8 / 3
    scores = _scores(history, [[2, 4], [3, -5]], {"kforecast": [[1, 2], [5, -1]]})
    expected = {
        "mae": (1 + 2 + 2 + 4) / 4,
        "rmse": math.sqrt((1 + 4 + 4 + 16) / 4),
        "wape": 9 / 14,
        "mase": 9 / 4 / (8 / 3),
        "bias": (-1 - 2 + 2 + 4) / 4,
        "relative_bias": 3 / 14,
        "targets": 4,
    }
    for workload in ("w0", "*"):
        row = _row(scores, workload)
        assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert overall(scores, "kforecast") == pytest.approx(expected)
    first, second = (_row(scores, "w0", step) for step in ("1", "2"))
    assert [*first[4:]] == pytest.approx([1.5, math.sqrt(2.5), 3 / 5, 4.5 / 8, 0.5, 1 / 5, 2])
    assert [*second[4:]] == pytest.approx([3, math.sqrt(10), 6 / 9, 9 / 8, 1, 2 / 9, 2])


def test_a_right_forecast_has_no_error():
    row = _row(_scores([[*range(7), 9]], [[1, 2]], {"kforecast": [[1, 2]]}))
    assert [row[name] for name in COLUMNS] == [0] * 6


def test_the_table_has_a_row_for_every_forecaster_series_and_step_and_then_for_their_mean():
    actual = [[1, 2], [3, 4], [5, 6]]
    scores = _scores(NO_HISTORY, actual, {"kforecast": actual, "other": actual}, series=[0, 0, 2])
    assert list(scores.columns) == ["model", "workload", "metric", "step", *COLUMNS, "targets"]
    assert scores.index.tolist() == list(range(18))
    assert scores[["model", "workload", "metric", "step"]].to_numpy().tolist() == [
        [model, workload, metric, step]
        for model in ("kforecast", "other")
        for workload, metric in (("w0", "m"), ("w2", "m"), ("*", "*"))
        for step in ("1", "2", "all")
    ]
    assert scores["targets"].dtype == np.int64
    assert scores["targets"].tolist() == [2, 2, 4, 1, 1, 2, 3, 3, 6] * 2


def test_each_series_counts_the_same_however_big_and_however_many_windows():
    actual = [[1000, 1000], [1000, 1000], [2, 2]]
    made = [[900, 1100], [1000, 1000], [1, 4]]
    row = _row(_scores(NO_HISTORY, actual, {"kforecast": made}, series=[0, 0, 2]))
    assert row["mae"] == pytest.approx((200 / 4 + 3 / 2) / 2)
    assert row["wape"] == pytest.approx((200 / 4000 + 3 / 4) / 2)
    assert row["relative_bias"] == pytest.approx((0 / 4000 + 1 / 4) / 2)


def test_a_big_service_does_not_decide_which_forecast_has_the_lower_wape():
    actual = [[1e6, 1e6], [10, 10], [10, 10]]
    good_for_small = [[1.1e6, 1.1e6], [10, 10], [10, 10]]
    good_for_big = [[1e6, 1e6], [14, 14], [14, 14]]
    scores = _scores(
        NO_HISTORY, actual, {"kforecast": good_for_small, "other": good_for_big}, series=[0, 1, 2]
    )
    assert _row(scores)["wape"] == pytest.approx(0.1 / 3)
    assert _row(scores, model="other")["wape"] == pytest.approx(0.8 / 3)
    assert overall(scores, "other")["wape"] == pytest.approx(0.8 / 3)
    # In the unit of the metric it changes.
    assert _row(scores)["mae"] > _row(scores, model="other")["mae"]


def test_unobserved_targets_do_not_count_whatever_is_forecast_for_them():
    def scores(ignored):
        actual, made = [[2, NAN], [3, NAN], [NAN, 8]], [[1, ignored], [5, ignored], [ignored, 4]]
        return _scores([[*range(7), 9]], actual, {"kforecast": made})

    found = scores(1e9)
    pd.testing.assert_frame_equal(found, scores(NAN))
    assert _row(found, "w0")["mae"] == pytest.approx((1 + 2 + 4) / 3)
    assert found.query("workload == '*'")["targets"].tolist() == [2, 1, 3]


def test_a_series_without_observed_targets_has_no_rows():
    scores = _scores(NO_HISTORY, [[2], [NAN], [6]], {"kforecast": [[1], [50], [8]]}, series=[0, 1, 2])
    assert set(scores["workload"]) == {"w0", "w2", "*"}
    assert _row(scores)["mae"] == pytest.approx(1.5)
    assert _row(scores)["wape"] == pytest.approx((1 / 2 + 2 / 6) / 2)
    assert _row(scores)["targets"] == 2


def test_a_step_without_observed_targets_has_no_scores():
    scores = _scores([[*range(7), 9]], [[2, NAN], [3, NAN]], {"kforecast": [[1, 2], [5, 6]]}, quantiles=None)
    for workload in ("w0", "*"):
        row = _row(scores, workload, "2")
        assert row[COLUMNS].isna().all()
        assert row["targets"] == 0
        assert _row(scores, workload, "1")[COLUMNS].notna().all()


def test_a_series_without_traffic_has_an_error_but_no_share():
    scores = _scores(NO_HISTORY, [[2], [0]], {"kforecast": [[1], [3]]}, series=[0, 1])
    assert _row(scores, "w1")["mae"] == 3
    assert math.isnan(_row(scores, "w1")["wape"])
    assert math.isnan(_row(scores, "w1")["relative_bias"])
    assert _row(scores)["mae"] == pytest.approx((1 + 3) / 2)
    assert _row(scores)["wape"] == pytest.approx(1 / 2)
    assert _row(scores)["relative_bias"] == pytest.approx(-1 / 2)


def test_without_any_traffic_there_is_no_wape():
    row = _row(_scores(NO_HISTORY, [[0]], {"kforecast": [[3]]}))
    assert row["mae"] == 3
    assert math.isnan(row["wape"])


def test_a_series_without_a_seasonal_error_is_left_out_of_mase():
    history = [[*range(7), 4], [5] * 8]  # the second is constant
    scores = _scores(history, [[2], [5]], {"kforecast": [[1], [6]]}, series=[0, 1])
    assert math.isnan(_row(scores, "w1")["mase"])
    assert _row(scores)["mase"] == pytest.approx(1 / 4)


def test_negative_values_weigh_by_their_size():
    assert _row(_scores(NO_HISTORY, [[-2, 2]], {"kforecast": [[0, 0]]}))["wape"] == 1.0


def test_many_small_errors_do_not_drown_in_float32():
    actual = np.full((1, 200_000), 16_777_216.0)
    row = _row(_scores(NO_HISTORY, actual, {"kforecast": actual + 2}))
    assert row["mae"] == pytest.approx(2.0, rel=1e-12)
    assert row["bias"] == pytest.approx(2.0, rel=1e-12)


def test_quantiles_by_hand():
    # At levels 0.1, 0.5, 0.9: the weight is the level where the forecast is too low, else 1 - level.
    quantiles = [[[1, 2, 3], [6, 7, 8]], [[1, 2, 3], [0, 0, 0]]]
    scores = _scores(
        NO_HISTORY,
        [[3, 5], [0, NAN]],
        {"kforecast": [[2, 7], [2, 0]], "other": [[2, 7], [2, 0]]},
        quantiles=np.array(quantiles, dtype=np.float32),
        levels=(0.1, 0.5, 0.9),
    )
    first = (0.1 * 2 + 0.5 * 1 + 0) / 3
    second = (0.9 * 1 + 0.5 * 2 + 0.1 * 3) / 3
    third = (0.9 * 1 + 0.5 * 2 + 0.1 * 3) / 3
    row = _row(scores, "w0")
    assert row["pinball"] == pytest.approx((first + second + third) / 3)
    assert row["coverage_80"] == pytest.approx(1 / 3)  # 3 is on the edge, which counts as inside
    assert _row(scores, "w0", "1")["pinball"] == pytest.approx((first + third) / 2)
    assert _row(scores, "w0", "1")["coverage_80"] == pytest.approx(1 / 2)
    assert _row(scores, "w0", "2")["coverage_80"] == 0
    assert scores.columns[-1] == "targets"
    assert scores.query("model == 'other'")[["pinball", "coverage_80"]].isna().all(axis=None)


def test_a_coverage_is_named_by_its_share():
    quantiles = np.zeros((1, 1, 4), dtype=np.float32)
    levels = (0.0005, 0.1, 0.9, 0.9995)
    scores = _scores(NO_HISTORY, [[0]], {"kforecast": [[0]]}, quantiles=quantiles, levels=levels)
    assert [name for name in scores if name.startswith("coverage")] == ["coverage_80", "coverage_99.9"]


def test_the_central_intervals_of_levels_come_narrowest_first():
    assert central_intervals((0.5, 0.9, 0.025, 0.1, 0.975)) == [(3, 1), (2, 4)]
    assert central_intervals((0.95, 0.3, 0.05, 0.7)) == [(1, 3), (2, 0)]
    assert central_intervals((0.1, 0.5, 0.8)) == []
    assert central_intervals(()) == []


@st.composite
def _windows(draw):
    """Random data of a few series with gaps: history, actual, forecast, quantiles at LEVELS and series."""
    count = [draw(st.integers(1, 4)) for _ in range(draw(st.integers(1, 3)))]
    horizon, bins = draw(st.integers(1, 4)), draw(st.integers(1, 3 * SEASON))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    seen = draw(st.sampled_from([1.0, 0.8, 0.4]))
    center, spread = draw(st.sampled_from([0.0, 20.0])), draw(st.sampled_from([1.0, 1e4]))

    def random(*shape):
        values = (rng.normal(center, 1, shape) * spread).astype(np.float32)
        return np.round(values) if draw(st.booleans()) else values

    def with_gaps(values):
        return np.where(rng.random(values.shape) < seen, values, np.float32(NAN))

    series = np.repeat(np.arange(len(count)), count)
    quantiles = np.sort(random(len(series), horizon, len(LEVELS)), axis=-1)
    # In the order of LEVELS, which is not ascending.
    quantiles = quantiles[..., np.argsort(np.argsort(LEVELS))]
    return (
        with_gaps(random(len(count), bins)),
        with_gaps(random(len(series), horizon)),
        random(len(series), horizon),
        quantiles,
        series,
    )


def _library(history, actual, made, quantiles, series):
    """Scores of each (series, step) by the library, which cannot handle gaps: they are dropped first.

    To the library, each step and all steps together are a series, with the history of its series.
    """
    windows, horizon = actual.shape
    table = pd.DataFrame(
        {"row": np.repeat(series, horizon), "step": np.tile(np.arange(1, horizon + 1), windows)}
    )
    table["y"], table["model"] = actual.reshape(-1).astype(float), made.reshape(-1).astype(float)
    for number, level in enumerate(LEVELS):
        table[f"q{level}"] = quantiles[..., number].reshape(-1).astype(float)
    for low, high, share in ((0.1, 0.9, 80), (0.025, 0.975, 95)):
        table[f"model-lo-{share}"], table[f"model-hi-{share}"] = table[f"q{low}"], table[f"q{high}"]
    frame = pd.concat([table.assign(step=table["step"].astype(str)), table.assign(step="all")]).dropna()
    frame["unique_id"] = "w" + frame["row"].astype(str) + " " + frame["step"]
    # Gaps are kept here, so that a season is 7 rows; differences with a gap are NaN and left out.
    train = pd.concat(
        [
            pd.DataFrame(
                {"unique_id": f"w{row} {step}", "ds": np.arange(len(values)), "y": values.astype(float)}
            )
            for row, values in enumerate(history)
            for step in ["all", *range(1, horizon + 1)]
        ]
    )
    found = {
        "mae": losses.mae(frame, ["model"]),
        "rmse": losses.rmse(frame, ["model"]),
        "wape": losses.nd(frame, ["model"]),
        "mase": losses.mase(frame, ["model"], SEASON, train),
        "bias": losses.bias(frame, ["model"]),  # prediction - actual, as here
        "coverage_80": losses.coverage(frame, ["model"], 80),
        "coverage_95": losses.coverage(frame, ["model"], 95),
    }
    of_level = [losses.quantile_loss(frame, {"model": f"q{level}"}, level) for level in LEVELS]
    scores = pd.DataFrame({name: one.set_index("unique_id")["model"] for name, one in found.items()})
    scores["pinball"] = sum(one.set_index("unique_id")["model"] for one in of_level) / len(LEVELS)
    scores["targets"] = frame.groupby("unique_id").size()
    # The library takes a share of nothing as infinite; here it is NaN.
    return scores.replace(np.inf, NAN)


@checked(_windows(), few=6, many=30)
def test_scores_of_each_series_are_those_of_a_library(windows):
    history, actual, made, quantiles, series = windows
    if np.isnan(actual).all():
        actual[0, 0] = 1
    scores = _scores(history, actual, {"kforecast": made}, series, quantiles, LEVELS)
    ours = scores[(scores["workload"] != "*") & (scores["targets"] > 0)]
    ours = ours.set_index(ours["workload"] + " " + ours["step"])
    expected = _library(history, actual, made, quantiles, series)
    assert set(ours.index) == set(expected.index)
    pd.testing.assert_frame_equal(
        ours.loc[expected.index, expected.columns],
        expected,
        rtol=1e-6,
        atol=1e-9,
        check_dtype=False,
        check_names=False,
    )


@checked(_windows(), few=6, many=30)
def test_the_rows_of_all_series_are_the_means_of_the_series_scores(windows):
    history, actual, made, quantiles, series = windows
    if np.isnan(actual).all():
        actual[0, 0] = 1
    scores = _scores(history, actual, {"kforecast": made, "other": -made}, series, quantiles, LEVELS)
    for (_, step), mine in scores.groupby(["model", "step"]):
        of_series, mean = mine[mine["workload"] != "*"], mine[mine["workload"] == "*"]
        assert len(mean) == 1
        for name in scores.columns[4:-1]:
            known = [value for value in of_series[name] if not math.isnan(value)]
            expected = sum(known) / len(known) if known else NAN
            assert mean[name].item() == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True), (
                name,
                step,
            )
        assert mean["targets"].item() == of_series["targets"].sum()


@given(
    npst.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 40)),
        elements=st.sampled_from([0.0, 1.0, -3.0, 2.5, NAN]),
    ),
    st.integers(0, 45),
    st.sampled_from([("12H", 2), ("1D", 7)]),
)
@settings(deadline=None, max_examples=150)
def test_the_seasonal_error_is_that_of_a_loop(values, stop, shape):
    name, season = shape
    frequency = Frequency(name, {"12H": 43_200, "1D": 86_400}[name], ("day_of_week",))
    expected = []
    for row in values:
        changes = [
            abs(float(row[bin_]) - float(row[bin_ - season]))
            for bin_ in range(season, min(stop, len(row)))
            if not math.isnan(row[bin_]) and not math.isnan(row[bin_ - season])
        ]
        expected.append(sum(changes) / len(changes) if sum(changes) else NAN)
    np.testing.assert_allclose(seasonal_error(_panel(values, frequency), stop), expected, rtol=1e-12)


@pytest.mark.parametrize("name, season", [("1min", 1440), ("10min", 144), ("1H", 24), ("1D", 7)])
def test_errors_are_scaled_by_a_day_or_by_a_week_of_days(name, season):
    values = np.zeros((1, season + 2), np.float32)
    values[0, season] = 6
    frequency = Frequency.parse(name)
    assert seasonal_error(_panel(values, frequency), season + 2).tolist() == [3]
    assert np.isnan(seasonal_error(_panel(values, frequency), season)).all()
