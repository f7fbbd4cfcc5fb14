"""Skill over the best baseline: by hand, its interval on data with known skill, and ageing."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.data.panel import Panel
from kforecast.evaluation.backtest import Backtest
from kforecast.evaluation.skill import Skill, aged_at, by_age, skill
from kforecast.window import Frequency

NAN = float("nan")
HOUR = Frequency.parse("1H")
START = 1_700_006_400


def _backtest(actual, models, others, *, begin=0, horizon=1, stride=1, origins=None, frequency=HOUR):
    """A backtest of forecasts given as errors added to the actual values.

    Parameters
    ----------
    actual:
        ``[series, bins]``, NaN where unobserved.
    models, others:
        By name, the errors ``[series, bins]`` of the models and of the baselines.
    origins:
        The origins of every series; by default one per ``stride``.
    """
    actual = np.asarray(actual, dtype=np.float64)
    observed = ~np.isnan(actual)
    names = tuple((f"w{row}", "m") for row in range(len(actual)))
    panel = Panel(np.nan_to_num(actual).astype(np.float32), observed, START, frequency, names)
    if origins is None:
        origins = np.arange(begin, panel.num_bins - horizon + 1, stride)
    cells = (np.arange(panel.num_series)[:, None] * panel.num_bins + np.asarray(origins)).reshape(-1)
    at = cells[:, None] + np.arange(horizon)
    forecasts = {
        name: (panel.values + np.asarray(error)).reshape(-1)[at].astype(np.float32)
        for name, error in (models | others).items()
    }
    return Backtest(
        panel, begin, panel.num_bins, stride, cells, forecasts, len(models), predictor=None, made=None
    )


def _noisy(bins=400, model=0.5, series=1, seed=0, level=10.0):
    """A model and two baselines with independent errors; the mean error of the better baseline is 1."""
    rng = np.random.default_rng(seed)
    errors = rng.exponential(1, (3, series, bins))
    return _backtest(
        np.full((series, bins), level),
        {"kforecast": model * errors[0]},
        {"good": errors[1], "bad": 2 * errors[2]},
    )


def test_skill_by_hand():
    # Absolute errors of the model and the two baselines: 2, 5 and 4 of 20 in the first series, and 4, 2 and 7
    # of 10 in the second one.
    found = skill(
        _backtest(
            [[10, 10], [5, 5]],
            {"kforecast": [[1, -1], [-4, 0]]},
            {"one": [[2, 3], [1, 1]], "two": [[-4, 0], [3, -4]]},
        )
    )
    model, one, two = (2 / 20 + 4 / 10) / 2, (5 / 20 + 2 / 10) / 2, (4 / 20 + 7 / 10) / 2
    assert one < two
    assert found.best_baseline == "one"
    assert found.value == pytest.approx(1 - model / one)


@pytest.mark.parametrize("model, expected", [(0.1, 0.5), (0.2, 0.0), (0.3, -0.5), (0.0, 1.0)])
def test_skill_is_the_share_of_the_best_baselines_error_that_is_saved(model, expected):
    found = skill(_backtest([[1, 1]], {"kforecast": model}, {"worse": 0.4, "best": 0.2}))
    assert found.value == pytest.approx(expected, abs=1e-5)  # forecasts are float32
    assert found.best_baseline == "best"


def test_only_observed_targets_count():
    actual, errors = [[10, NAN, 10, 10]], {"kforecast": [[1, 99, 1, 1]]}
    found = skill(_backtest(actual, errors, {"only": [[2, 0, 2, 2]]}))
    assert found.value == pytest.approx(0.5)


def test_a_second_model_is_no_baseline():
    test = _backtest([[1, 1]], {"kforecast": 0.2, "as consumed": 0.1}, {"only": 0.4})
    found = skill(test)
    assert (found.value, found.best_baseline) == (pytest.approx(0.5), "only")


def test_beside_a_baseline_without_error_there_is_no_skill():
    found = skill(_backtest(np.ones((1, 300)), {"kforecast": 0.1}, {"perfect": 0.0, "other": 0.2}))
    assert found.best_baseline == "perfect"
    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert not found.above(-math.inf)


def test_without_traffic_there_is_no_skill():
    found = skill(_backtest(np.zeros((2, 300)), {"kforecast": 0.1}, {"one": 0.2, "two": 0.3}))
    assert math.isnan(found.value)
    assert math.isnan(found.low)
    assert found.best_baseline in ("one", "two")


def test_a_series_without_traffic_is_left_out():
    actual = np.ones((2, 300))
    actual[1] = 0
    errors = np.array([[0.1], [9.0]]) * np.ones((2, 300))
    found = skill(_backtest(actual, {"kforecast": errors}, {"only": 0.2}))
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == (pytest.approx(0.5), pytest.approx(0.5))


@pytest.mark.parametrize("blocks, some", [(4, False), (5, True)])
def test_with_fewer_than_five_blocks_there_is_no_interval(blocks, some):
    found = skill(_noisy(bins=2 * blocks))
    assert (found.block, found.blocks) == (2, blocks)
    assert not math.isnan(found.value)
    assert math.isnan(found.low) == math.isnan(found.high) == (not some)
    if not some:
        assert not found.above(-99)


def test_only_blocks_with_an_origin_count():
    # 3 of 20 blocks of 4 bins have one.
    test = _backtest(np.ones((1, 80)), {"kforecast": 0.1}, {"only": 0.2}, origins=[0, 1, 2, 30, 31, 70])
    found = skill(test)
    assert (found.block, found.blocks) == (4, 3)
    assert math.isnan(found.low)


@pytest.mark.parametrize(
    "frequency, bins, horizon, stride, block",
    [
        ("1H", 2000, 3, 1, 24),  # a season
        ("1H", 240, 3, 1, 12),  # a twentieth of the span
        ("1H", 240, 9, 1, 18),  # two horizons
        ("1H", 240, 3, 30, 30),  # a stride
        ("1D", 600, 2, 1, 7),  # a season of daily bins is a week
        ("10min", 9000, 6, 1, 144),
    ],
)
def test_a_block_is_up_to_a_season_at_least_two_horizons_and_a_stride(
    frequency, bins, horizon, stride, block
):
    begin = 11
    test = _backtest(
        np.ones((1, begin + bins)),
        {"kforecast": 0.1},
        {"only": 0.2},
        begin=begin,
        horizon=horizon,
        stride=stride,
        frequency=Frequency.parse(frequency),
    )
    found = skill(test)
    assert found.block == block
    assert found.blocks == (test.origin.max() - begin) // block + 1


def test_a_plainly_better_model_has_an_interval_around_its_value_and_above_nothing():
    found = skill(_noisy(model=0.5))
    assert 0.3 < found.low < found.value < found.high < 0.7
    assert found.above(0)
    assert found.above(found.low - 1e-9)
    assert not found.above(found.low)
    assert not found.above(found.value)


def test_a_plainly_worse_model_has_an_interval_below_nothing():
    found = skill(_noisy(model=2.0))
    assert found.low < found.value < found.high < 0
    assert not found.above(0)


def test_the_best_baseline_with_noise_of_no_value_is_not_found_better():
    rng = np.random.default_rng(5)
    errors = rng.normal(0, 1, (2, 500))
    noise = rng.normal(0, 0.5, (1, 500))
    for seed in range(5):
        test = _backtest(
            np.full((1, 500), 10.0),
            {"kforecast": errors[:1] + noise},
            {"good": errors[:1], "bad": 2 * errors[1:]},
        )
        found = skill(test, seed)
        assert found.best_baseline == "good"
        assert not found.above(0)


def test_a_model_just_as_good_as_the_baseline_is_seldom_found_better():
    found = [
        skill(_backtest(np.full((1, 300), 10.0), {"kforecast": model}, {"only": baseline}), seed)
        for seed in range(100)
        for model, baseline in [np.random.default_rng(seed).exponential(1, (2, 1, 300))]
    ]
    better = [one.above(0) for one in found]
    worse = [one.high < 0 for one in found]
    assert 0 < sum(better) + sum(worse) <= 14
    assert sum(better) <= 8


def test_the_choice_of_the_best_baseline_is_paid_for():
    """Each draw has its own best baseline, which is better than the one that is best overall."""
    errors = np.random.default_rng(0).exponential(1, (6, 1, 300))
    others = {f"baseline {number}": error for number, error in enumerate(errors[1:])}

    def found(others):
        return skill(_backtest(np.full((1, 300), 10.0), {"kforecast": 0.7 * errors[0]}, others))

    many = found(others)
    one = found({many.best_baseline: others[many.best_baseline]})
    assert many.value == one.value
    assert many.low < one.low - 0.01
    assert many.high < one.high - 0.01


def test_the_interval_of_95_percent_holds_the_true_skill_about_as_often():
    held = [
        found.low <= 0.3 <= found.high
        for found in (skill(_noisy(bins=500, model=0.7, seed=seed), seed) for seed in range(120))
    ]
    assert 0.86 <= np.mean(held) <= 0.99


def test_the_interval_is_not_wider_than_what_is_sure():
    """For independent errors, the width is close to a normal approximation."""
    bins, model = 2000, 0.7
    widths = [
        found.high - found.low
        for found in (skill(_noisy(bins=bins, model=model, seed=seed), seed) for seed in range(20))
    ]
    # A ratio of two means of exponentials, each with a relative variance of 1 / bins.
    assert np.mean(widths) == pytest.approx(2 * 1.96 * model * math.sqrt(2 / bins), rel=0.15)


def test_errors_that_come_together_are_not_taken_for_independent():
    """Errors that last for a day widen the interval, which resampling of single bins would miss."""
    rng = np.random.default_rng(1)
    lasting = np.repeat(rng.exponential(1, (2, 1, 80)), 24, axis=2)
    alone = rng.permuted(lasting, axis=2)
    wide, narrow = (
        skill(_backtest(np.full((1, 80 * 24), 10.0), {"kforecast": 0.5 * model}, {"only": baseline}))
        for model, baseline in (lasting, alone)
    )
    assert wide.value == pytest.approx(narrow.value)
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)


def test_series_that_err_together_are_one_witness_and_not_ten():
    rng = np.random.default_rng(2)
    model, baseline = rng.exponential(1, (2, 1, 400)) * [[[0.5]], [[1.0]]]

    def found(series, model=model, baseline=baseline):
        actual = np.full((series, 400), 10.0)
        return skill(_backtest(actual, {"kforecast": model + 0 * actual}, {"only": baseline + 0 * actual}))

    one, ten = found(1), found(10)
    assert (ten.value, ten.low, ten.high) == pytest.approx((one.value, one.low, one.high), rel=1e-6)
    apart = rng.exponential(1, (2, 10, 400)) * [[[0.5]], [[1.0]]]
    other = found(10, *apart)
    assert other.high - other.low < 0.6 * (one.high - one.low)


def test_the_same_seed_finds_the_same_and_another_one_nearly_so():
    test = _noisy()
    assert skill(test, 3) == skill(test, 3)
    one, other = skill(test, 3), skill(test, 4)
    assert one != other
    assert one.value == other.value
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.02)


@pytest.mark.parametrize("low, required, above", [(0.2, 0.1, True), (0.1, 0.1, False), (NAN, -9, False)])
def test_only_a_whole_interval_above_what_is_required_is_above(low, required, above):
    assert Skill(0.5, low, 0.7, "last value", 24, 20).above(required) is above


def _aging(model, baseline=1.0, *, trained_until=START, origins=None, horizon=1):
    """A backtest of one series with given errors by bin, and its table by age."""
    error = np.atleast_2d(np.asarray(model, dtype=np.float64))
    actual = np.full(error.shape, 10.0)
    test = _backtest(
        actual, {"kforecast": error}, {"only": baseline + 0 * actual}, origins=origins, horizon=horizon
    )
    return by_age(test, trained_until, "only")


def test_error_by_age_by_hand():
    # The training data end an hour before the panel, so the origins have ages of 1 to 12 hours.
    ages = _aging([1, 2, 3, 1, 1, 1, 1, 1, 1, 1, 1, 5], baseline=2.0, trained_until=START - 3600)
    assert list(ages.columns) == ["age", "windows", "wape", "baseline_wape", "relative"]
    # From the first origin; twelve hours are more than ten steps of one hour.
    assert ages["age"].tolist() == [3600, 4 * 3600, 7 * 3600, 10 * 3600]
    assert ages["windows"].tolist() == [3, 3, 3, 3]
    assert ages["wape"].tolist() == pytest.approx([0.2, 0.1, 0.1, 0.7 / 3])
    assert ages["baseline_wape"].tolist() == pytest.approx([0.2] * 4)
    assert ages["relative"].tolist() == pytest.approx([1.0, 0.5, 0.5, 3.5 / 3])


def test_the_error_of_an_age_is_that_of_all_steps_and_the_mean_over_series():
    test = _backtest(
        [[10, 10, 10], [1, 1, 1], [0, 0, 0]],
        {"kforecast": [[1, 2, 4], [0.1, 0.1, 0.1], [5, 5, 5]]},
        {"only": 0.5},
        horizon=2,
    )
    ages = by_age(test, START, "only")
    assert ages["windows"].tolist() == [3, 3]
    assert ages["wape"].tolist() == pytest.approx([(0.15 + 0.1) / 2, (0.3 + 0.1) / 2])
    assert ages["baseline_wape"].tolist() == pytest.approx([(0.05 + 0.5) / 2] * 2)


@pytest.mark.parametrize(
    "bins, before, hours",
    [
        (10, 0, 1),
        (11, 0, 3),
        (10, 1, 1),
        (30, 0, 3),
        (31, 0, 6),
        (60, 0, 6),
        (61, 0, 12),
        (121, 0, 24),
        (241, 0, 48),
        (481, 0, 7 * 24),
        (24 * 70, 0, 7 * 24),
        (24 * 70 + 1, 0, 14 * 24),
        (24, 24 * 300, 3),  # one day of an old model
    ],
)
def test_steps_of_age_are_as_fine_as_ten_of_them_allow(bins, before, hours):
    ages = _aging(np.ones(bins), trained_until=START - 3600 * before)
    width = hours * 3600
    begins = 3600 * before + np.unique(3600 * np.arange(bins) // width) * width
    assert len(begins) <= 10
    assert set(ages["age"]) <= set(begins)
    assert ages["age"].iloc[0] == begins[0]


def test_a_step_is_at_least_a_bin():
    day = Frequency.parse("1D")
    test = _backtest(np.full((1, 3), 10.0), {"kforecast": 1.0}, {"only": 2.0}, frequency=day)
    ages = by_age(test, START - 12 * 3600, "only")
    # Ages of 0.5, 1.5 and 2.5 days; steps of 6 hours would leave empty ones between.
    assert ages["age"].tolist() == [43_200, 43_200 + 86_400, 43_200 + 2 * 86_400]
    assert ages["windows"].tolist() == [1, 1, 1]


def test_an_origin_before_the_end_of_the_training_data_has_an_age_below_nothing():
    ages = _aging(np.ones(6), trained_until=START + 2 * 3600)
    assert ages["age"].tolist() == [-7200, -3600, 0, 3600, 7200, 10800]


def test_a_step_that_was_cut_short_is_dropped():
    # Steps of 3 hours have 3, 3, 3, 3, 3 and 1 windows.
    few = _aging(np.ones(24), origins=[*range(0, 15), 20])
    assert few["age"].tolist() == [0, 10800, 21600, 32400, 43200]
    # Steps of 6 hours have 6, 6, 6, 6, 1 and 1 windows; the last two are left out.
    long = _aging(np.ones(60), origins=[*range(0, 24), 25, 54])
    assert long["age"].tolist() == [0, 6 * 3600, 12 * 3600, 18 * 3600]
    assert long["windows"].tolist() == [6, 6, 6, 6]


def test_without_traffic_an_age_has_no_error():
    test = _backtest(np.zeros((1, 5)), {"kforecast": 1.0}, {"only": 2.0})
    assert by_age(test, START, "only")[["wape", "baseline_wape", "relative"]].isna().all(axis=None)


def _ages(*relative):
    return pd.DataFrame({"age": 100 * np.arange(len(relative)), "relative": relative})


@pytest.mark.parametrize(
    "relative, expected",
    [
        ((0.5, 0.5, 0.5), None),
        ((0.5, 0.5, 0.56, 0.56), 200),
        ((0.5, 0.5, 0.5, 0.9), None),  # one bad step is not enough
        ((0.5, 0.54, 0.54), None),  # a twelfth is not a tenth
        ((0.5, 0.6, 0.7), None),  # nor is one young step
        ((0.5, 0.5, 0.7, 0.6), 200),
        ((0.5, 0.6, 0.5), None),  # one difficult day
        ((0.5, 0.6, 0.6, 0.5), None),
        ((0.5, 0.6, 0.5, 0.6, 0.6), 300),
        ((0.9, 0.5, 0.5, 0.6, 0.6), 300),  # one difficult day while young
        ((0.5, 0.4, 0.3), None),
        ((0.5, 0.4, 0.4, 0.45, 0.45), 300),
        ((0.5, 0.6, NAN), None),  # no later step confirms it
        ((NAN, NAN, NAN), None),
        ((0.5, 0.9), None),
        ((0.5,), None),
        ((), None),
    ],
)
def test_a_model_is_aged_from_when_on_it_stays_a_tenth_worse(relative, expected):
    assert aged_at(_ages(*relative)) == expected


@given(st.lists(st.floats(0.1, 2), max_size=8))
@settings(deadline=None, max_examples=100)
def test_an_aged_model_is_and_stays_worse_than_it_was(relative):
    found = aged_at(_ages(*relative))
    assert aged_at(_ages(*(4 * value for value in relative))) == found
    # As good as ever in the end: it has not aged.
    assert aged_at(_ages(*relative, min(relative, default=1))) is None
    if found is not None:
        young, old = relative[: found // 100], relative[found // 100 :]
        assert len(young) >= 2
        assert len(old) >= 2
        assert min(old) > 1.1 * np.median(young)
    # Constant at first, then permanently worse by a fifth: it has aged.
    assert aged_at(_ages(*[1.0] * (len(relative) + 2), 1.2, 1.2)) == 100 * (len(relative) + 2)
