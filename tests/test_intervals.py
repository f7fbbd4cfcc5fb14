"""Intervals: ranks by hand, coverage on known distributions, and damaged files."""

import json
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.intervals import (
    FEWEST_WINDOWS,
    LEVELS,
    OWN_WINDOWS,
    Intervals,
    SeriesIntervals,
    calibrate,
    check_levels,
    column,
    missing,
)

NAN = float("nan")
SHA = "0" * 64
ANY_LEVEL = st.floats(LEVELS[0], LEVELS[-1])


def _of_one(error, level=1.0, mean_level=1.0, nonnegative=False, peak=math.inf):
    """Intervals of a single series ``a`` from its errors ``[windows, horizon]``."""
    error = np.asarray(error, dtype=np.float64)
    levels = np.broadcast_to(np.asarray(level, dtype=np.float32), len(error))
    series = np.zeros(len(error), np.int64)
    about = (np.array([mean_level]), np.array([nonnegative]), np.array([peak]))
    return calibrate(error, levels[:, None], ["a"], series, *about)


def _quantiles(intervals, levels, forecast=0.0, level=1.0, key="a", peak=0.0):
    """Quantiles of one window, ``[horizon, level]``."""
    horizon = len(intervals.pooled)
    made = np.broadcast_to(np.asarray(forecast, dtype=np.float32), (1, horizon))
    found = intervals.quantiles(made, np.float32([[level]]), [key], np.array([0]), levels, np.array([peak]))
    assert found.dtype == np.float32
    assert found.shape == (1, horizon, len(levels))
    return found[0]


def _offsets(intervals, levels):
    """Offsets at stored levels, ``[horizon, level]``."""
    return intervals.pooled[:, [LEVELS.index(level) for level in levels]]


def _rank(level, count):
    """Rank of the sorted error; levels are the decimals as written."""
    exact = Fraction(str(level)) * (count + 1)
    rank = math.floor(exact) if level < 0.5 else math.ceil(exact)
    return min(max(rank, 1), count)


# Ranks


@pytest.mark.parametrize("count", [20, 21, 39, 99, 100, 199, 299, 1000])
def test_an_offset_is_the_error_of_its_rank(count):
    errors = np.random.default_rng(0).permutation(123_000.0 + np.arange(1, count + 1))[:, None]
    found = _offsets(_of_one(errors), LEVELS)
    assert found[0].tolist() == [123_000 + _rank(level, count) for level in LEVELS]


def test_ranks_by_hand():
    errors = np.arange(1.0, 40)[:, None]  # 39 errors, so the rank is 40 times the level
    found = _offsets(_of_one(errors), [0.025, 0.1, 0.5, 0.9, 0.975, 0.99, 0.005])
    # Ranks 39.6 and 0.2 are beyond the errors.
    assert found.tolist() == [[1, 4, 20, 36, 39, 39, 1]]
    found = _offsets(_of_one(np.arange(1.0, 51)[:, None]), [0.1, 0.5, 0.9])
    # Ranks 5.1, 25.5 and 45.9 are rounded outwards, the middle one upwards.
    assert found.tolist() == [[5, 26, 46]]


def test_each_step_has_ranks_of_its_own_and_only_of_observed_targets():
    errors = np.stack([np.arange(1.0, 61), -np.arange(1.0, 61)], axis=1)
    errors[40:, 1] = NAN
    found = _offsets(_of_one(errors), [0.1, 0.9])
    assert found.tolist() == [[_rank(0.1, 60), _rank(0.9, 60)], [-37, -4]]
    assert (_rank(0.1, 40), _rank(0.9, 40)) == (4, 37)


@given(st.lists(st.floats(-1e6, 1e6), min_size=FEWEST_WINDOWS, max_size=60), st.randoms())
@settings(deadline=None, max_examples=60)
def test_the_order_of_windows_changes_nothing(errors, random):
    one = _of_one(np.array(errors)[:, None])
    random.shuffle(errors)
    np.testing.assert_array_equal(one.pooled, _of_one(np.array(errors)[:, None]).pooled)


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng, shape: rng.normal(1, 2, shape),
        lambda rng, shape: rng.exponential(5, shape) - 3,
        lambda rng, shape: rng.standard_t(3, shape),
    ],
    ids=["normal", "skewed", "heavy tails"],
)
def test_new_errors_lie_inside_as_often_as_said(draw):
    rng = np.random.default_rng(7)
    intervals = _of_one(draw(rng, (20_000, 2)))
    new = draw(rng, (20_000, 2))
    for share in (0.8, 0.9, 0.95):
        low, high = _quantiles(intervals, [(1 - share) / 2, (1 + share) / 2]).T
        inside = (low <= new) & (new <= high)
        assert inside.mean(axis=0) == pytest.approx([share, share], abs=0.01)
        assert (new < low).mean() == pytest.approx((1 - share) / 2, abs=0.01)


def test_with_few_windows_new_errors_lie_inside_as_often_as_said_too():
    """The coverage holds on average over calibrations, thanks to ranks of n + 1."""
    rng = np.random.default_rng(8)
    inside = []
    for _ in range(400):
        intervals = _of_one(rng.normal(0, 1, (39, 1)))
        low, high = _quantiles(intervals, [0.025, 0.975])[0]
        new = rng.normal(0, 1, 100)
        inside.append(((low <= new) & (new <= high)).mean())
    # Sample quantiles would give 0.92.
    assert np.mean(inside) == pytest.approx(0.95, abs=0.006)


# Levels and scale


@given(
    st.lists(st.lists(st.floats(-1e3, 1e3), min_size=20, max_size=40), min_size=1, max_size=2),
    st.lists(ANY_LEVEL | st.sampled_from(LEVELS), min_size=1, max_size=12, unique=True),
    st.floats(-1e3, 1e3, width=32),
    st.floats(0, 1e3, width=32),
    st.booleans(),
)
@settings(deadline=None, max_examples=120)
def test_quantiles_never_cross_and_are_never_negative_for_a_series_that_never_was(
    errors, levels, forecast, level, nonnegative
):
    count = min(map(len, errors))
    intervals = _of_one(np.array([row[:count] for row in errors]).T, 1.0, 2.0, nonnegative)
    found = _quantiles(intervals, levels, forecast, level)
    assert (np.diff(found[:, np.argsort(levels)], axis=1) >= 0).all()
    low, high = np.array(levels) < 0.5, np.array(levels) > 0.5
    assert (found[:, low] <= forecast).all()
    assert (found[:, high] >= forecast).all()
    if nonnegative:
        assert (found >= min(forecast, 0)).all()


def test_quantiles_do_not_cross_at_a_level_beside_a_far_one():
    offsets = np.full((1, len(LEVELS)), 1e-6)
    offsets[0, : LEVELS.index(0.5)] = -1e10
    found = _quantiles(Intervals(offsets, {}), [0.4, 0.5, 0.5001, 0.6])
    assert found[0].tolist() == [np.float32(-1e10), *[np.float32(1e-6)] * 3]


@given(
    st.lists(st.floats(-10, 10), min_size=len(LEVELS), max_size=len(LEVELS)),
    st.tuples(st.floats(0.5, 16), st.floats(0.5, 16)),
)
@settings(deadline=None, max_examples=60)
def test_quantiles_do_not_cross_where_one_side_is_much_wider(offsets, widths):
    table = np.sort(offsets)[None]
    found = Intervals(table, {}).quantiles(
        np.zeros((1, 1), np.float32),
        np.ones((1, 1), np.float32),
        ["a"],
        np.zeros(1, np.int64),
        LEVELS,
        np.full(1, 1e6),
        np.array(widths).reshape(1, 1, 2),
    )
    assert (np.diff(found[0, 0]) >= 0).all()


def test_a_series_that_was_negative_may_be_again():
    errors = np.linspace(-10, 10, 41)[:, None]
    assert _quantiles(_of_one(errors, nonnegative=False), [0.1], forecast=2)[0] < 0
    assert _quantiles(_of_one(errors, nonnegative=True), [0.1], forecast=2)[0] == 0
    # Even if the forecast itself is negative.
    assert _quantiles(_of_one(errors, nonnegative=True), [0.9], forecast=-50)[0] == 0


def test_between_its_levels_a_quantile_is_interpolated():
    intervals = _of_one(np.random.default_rng(1).normal(0, 1, (500, 3)))
    known = intervals.pooled
    for low, high in zip(range(len(LEVELS) - 1), range(1, len(LEVELS)), strict=True):
        for share in (0, 0.25, 0.5):
            level = (1 - share) * LEVELS[low] + share * LEVELS[high]
            between = (1 - share) * known[:, low] + share * known[:, high]
            # Those below the median are at most the forecast, those above at least.
            between = between.clip(0 if level > 0.5 else None, 0 if level < 0.5 else None)
            np.testing.assert_allclose(_quantiles(intervals, [level])[:, 0], between, rtol=1e-5, atol=1e-6)


def test_quantiles_come_in_the_order_of_the_levels():
    intervals = _of_one(np.random.default_rng(1).normal(0, 1, (50, 3)))
    found = _quantiles(intervals, [0.9, 0.33, 0.1])
    for number, level in enumerate([0.9, 0.33, 0.1]):
        np.testing.assert_array_equal(found[:, number], _quantiles(intervals, [level])[:, 0])


@pytest.mark.parametrize("level", [0.5, 3.0, 1000.0])
def test_twice_the_traffic_has_twice_the_width(level):
    intervals = _of_one(np.random.default_rng(1).normal(0, 1, (50, 2)), mean_level=1.0)

    def width(level):
        low, high = _quantiles(intervals, [0.1, 0.9], forecast=7, level=level).T
        return high - low

    np.testing.assert_allclose(width(2 * level), 2 * width(level), rtol=1e-4)
    assert (width(level) > 0).all()


def test_errors_are_relative_to_the_level_of_their_window():
    base = np.random.default_rng(1).normal(0, 1, (60, 2))
    levels = np.random.default_rng(2).uniform(1, 100, 60).astype(np.float32)
    scaled = _of_one(base * levels[:, None], level=levels, mean_level=5)
    np.testing.assert_allclose(scaled.pooled, _of_one(base, mean_level=5).pooled, rtol=1e-5)


def test_a_level_counts_as_at_least_a_tenth_of_the_mean():
    base = np.random.default_rng(1).normal(0, 1, (60, 1))
    quiet = _of_one(base, level=0.3, mean_level=50)  # counts as 5
    np.testing.assert_allclose(quiet.pooled, _of_one(base, level=5, mean_level=50).pooled, rtol=1e-5)
    assert quiet.series["a"].floor == 5
    at_night, silent, at_floor, busy = (
        _quantiles(quiet, [0.9], level=level)[0, 0] for level in (0.3, 0, 5, 10)
    )
    assert at_night == silent == at_floor
    assert busy == pytest.approx(2 * at_floor, rel=1e-6)


@pytest.mark.parametrize("mean_level", [0.0, NAN])
def test_a_series_without_traffic_does_not_narrow_the_intervals_of_others(mean_level):
    rng, series = np.random.default_rng(1), np.repeat([0, 1], [400, 400])
    error = np.where(series == 0, rng.normal(0, 1, 800), 0.0)[:, None]
    level = np.where(series == 0, 1.0, 0.0)
    both = calibrate(
        error,
        level[:, None],
        "ab",
        series,
        np.array([1.0, mean_level]),
        np.array([False, True]),
        np.array([9.0, 0.0]),
    )
    np.testing.assert_array_equal(both.pooled, _of_one(error[:400]).pooled)
    assert both.series["b"].offsets is None
    # Without traffic, none is expected.
    quiet = both.quantiles(np.zeros((1, 1)), np.zeros((1, 1)), "ab", np.array([1]), [0.1, 0.9], np.zeros(1))
    assert (np.abs(quiet) < 1e-9).all()
    assert _of_one(np.zeros((40, 1)), level=0, mean_level=mean_level) is None


# Series


def _of_two(count_a, count_b, nan_b=0):
    """A calm series ``a``, and ``b`` with errors ten times as large, windows mixed."""
    rng = np.random.default_rng(4)
    series = rng.permutation(np.repeat([0, 1], [count_a, count_b]))
    error = rng.normal(0, 1, (len(series), 2)) * np.where(series == 0, 1.0, 10.0)[:, None]
    error[np.flatnonzero(series == 1)[:nan_b], 1] = NAN
    level = np.ones((len(series), 1), np.float32)
    about = (np.array([1.0, 3.0]), np.array([False, True]), np.full(2, math.inf))
    found = calibrate(error, level, ["a", "b"], series, *about)
    return found, error, series


def test_with_300_windows_a_series_has_offsets_of_its_own():
    intervals, error, series = _of_two(OWN_WINDOWS, OWN_WINDOWS - 1)
    assert OWN_WINDOWS == 300
    own, pooled = intervals.series["a"], intervals.series["b"]
    assert (own.windows, pooled.windows) == (300, 299)
    assert pooled.offsets is None
    np.testing.assert_array_equal(own.offsets, _of_one(error[series == 0]).pooled)
    np.testing.assert_array_equal(intervals.pooled, _of_one(error).pooled)
    calm, wild = (_quantiles(intervals, [0.1, 0.9], key=key, forecast=99) for key in "ab")
    assert (np.diff(wild) > 2 * np.diff(calm)).all()
    assert (own.nonnegative, pooled.nonnegative) == (False, True)
    assert (own.floor, pooled.floor) == (pytest.approx(0.1), pytest.approx(0.3))


def test_windows_are_counted_at_the_step_with_the_fewest():
    intervals, *_ = _of_two(300, 300, nan_b=1)
    assert intervals.series["b"].windows == 299
    assert intervals.series["b"].offsets is None
    assert intervals.series["a"].offsets is not None


def test_windows_of_many_series_at_once():
    intervals, *_ = _of_two(300, 40)
    series = np.array([1, 0, 1, 2])
    forecast = np.arange(8, dtype=np.float32).reshape(4, 2)
    level = np.array([[1], [2], [0], [4]], np.float32)
    found = intervals.quantiles(forecast, level, ["a", "b", "new"], series, [0.9, 0.2], np.zeros(4))
    for window, row in enumerate(series):
        alone = _quantiles(intervals, [0.9, 0.2], forecast[window], level[window, 0], ["a", "b", "new"][row])
        np.testing.assert_array_equal(found[window], alone)


def test_a_series_that_was_not_calibrated_has_the_offsets_of_all():
    intervals, *_ = _of_two(300, 40)
    found = _quantiles(intervals, LEVELS, forecast=1.5, level=2, key="new")
    np.testing.assert_allclose(found, 1.5 + 2 * intervals.pooled, rtol=1e-6)
    assert (found[:, 0] < 0).all()


def test_a_series_without_windows_has_the_offsets_of_all_too():
    intervals, *_ = _of_two(60, 0)
    assert list(intervals.series) == ["a"]
    found = _quantiles(intervals, [0.6, 0.9], level=2, forecast=50, key="b")
    np.testing.assert_array_equal(found, _quantiles(intervals, [0.6, 0.9], level=2, forecast=50, key="new"))


@pytest.mark.parametrize("windows, some", [(0, False), (19, False), (20, True)])
def test_too_few_windows_say_nothing(windows, some):
    errors = np.zeros((windows, 2))
    assert (_of_one(errors) is not None) == some
    more = np.zeros((windows + 5, 2))
    more[:5, 1] = NAN
    assert (_of_one(more) is not None) == some
    mixed, *_ = _of_two(windows // 2, windows - windows // 2)
    assert (mixed is not None) == some


def test_only_one_series():
    intervals, *_ = _of_two(300, 40)
    alone = intervals.only("a")
    assert list(alone.series) == ["a"]
    assert intervals.only("c").series == {}
    np.testing.assert_array_equal(_quantiles(alone, LEVELS, level=3), _quantiles(intervals, LEVELS, level=3))
    np.testing.assert_array_equal(
        _quantiles(alone, LEVELS, key="b", forecast=99), _quantiles(intervals, LEVELS, key="new", forecast=99)
    )


def test_newer_ones_of_some_series_leave_those_of_the_others():
    older, *_ = _of_two(300, 300)
    newer = Intervals(2 * older.pooled, {"a": replace(older.series["a"], floor=7.0)})
    mixed = older.updated(newer)
    assert (mixed.series["a"].floor, mixed.series["b"]) == (7.0, older.series["b"])
    np.testing.assert_array_equal(mixed.pooled, older.pooled)
    assert newer.updated(older) is older


# The file


@given(st.integers(0, 10**6), st.floats(1e-6, 1e9), st.lists(ANY_LEVEL, min_size=1, max_size=5, unique=True))
@settings(deadline=None, max_examples=40)
def test_what_is_written_is_read_bit_for_bit(seed, spread, levels):
    rng = np.random.default_rng(seed)
    series = np.repeat([0, 1], [310, 25])
    error = rng.standard_cauchy((335, 3)) * spread
    level = rng.exponential(spread, (335, 1)).astype(np.float32)
    keys = ["ns/aqps", "命名/服务请求"]
    mean = rng.exponential(spread, 2)
    intervals = calibrate(error, level, keys, series, mean, np.array([True, False]), np.array([spread, 0.0]))
    read = Intervals.from_json(intervals.to_json(SHA), SHA, 3)
    assert read.to_json(SHA) == intervals.to_json(SHA)
    np.testing.assert_array_equal(read.pooled, intervals.pooled)
    for key in keys:
        one, other = read.series[key], intervals.series[key]
        assert replace(one, offsets=None) == replace(other, offsets=None)
        np.testing.assert_array_equal(one.offsets, other.offsets)
    forecast = rng.normal(0, spread, (335, 3)).astype(np.float32)
    np.testing.assert_array_equal(
        read.quantiles(forecast, level, keys, series, levels, level[:, 0]),
        intervals.quantiles(forecast, level, keys, series, levels, level[:, 0]),
    )


def test_the_file_may_be_read_from_bytes():
    intervals, *_ = _of_two(300, 40)
    read = Intervals.from_json(intervals.to_json(SHA).encode(), SHA, 2)
    np.testing.assert_array_equal(read.pooled, intervals.pooled)


def test_the_file_is_small_and_plain():
    intervals, *_ = _of_two(300, 40)
    content = json.loads(intervals.to_json(SHA))
    assert set(content) == {"checkpoint_sha256", "levels", "offsets", "series"}
    assert content["checkpoint_sha256"] == SHA
    assert content["levels"] == list(LEVELS)
    assert content["series"]["b"] == {
        "floor": pytest.approx(0.3),
        "nonnegative": True,
        "windows": 40,
        "offsets": None,
        "peak": None,
    }
    assert json.loads(_of_one(np.zeros((40, 1)), peak=7.5).to_json(SHA))["series"]["a"]["peak"] == 7.5
    # Six digits are enough.
    assert all(
        len(f"{abs(value):.12g}".replace(".", "").strip("0")) <= 6
        for row in content["offsets"]
        for value in row
    )


def test_a_file_of_an_earlier_version_is_read_and_limits_nothing():
    intervals, *_ = _of_two(300, 40)
    content = json.loads(replace_peaks(intervals, 3.0).to_json(SHA))
    for own in content["series"].values():
        del own["peak"]
    read = Intervals.from_json(json.dumps(content), SHA, 2)
    assert {own.peak for own in read.series.values()} == {math.inf}
    np.testing.assert_array_equal(
        _quantiles(read, LEVELS, level=100), _quantiles(intervals, LEVELS, level=100)
    )


def replace_peaks(intervals, peak):
    return replace(intervals, series={key: replace(own, peak=peak) for key, own in intervals.series.items()})


def _set(*path):
    """Change the content at a path; the last argument is the new value."""

    def change(content):
        *keys, last, value = path
        for key in keys:
            content = content[key]
        content[last] = value

    return change


def _drop(*path):
    def change(content):
        *keys, last = path
        for key in keys:
            content = content[key]
        del content[last]

    return change


RISING = list(np.linspace(-1, 1, len(LEVELS)))


@pytest.mark.parametrize(
    "change, words",
    [
        (_set("checkpoint_sha256", "1" * 64), "calibrated for another checkpoint"),
        (_set("checkpoint_sha256", None), "calibrated for another checkpoint"),
        (_set("levels", [0.1, 0.5, 0.9]), "levels"),
        (_set("levels", [*LEVELS[:-1], 0.999]), "levels"),
        (_set("levels", 5), "unexpected structure"),
        (_set("offsets", [RISING]), r"shape \(1, 17\), not \(2, 17\)"),
        (_set("offsets", [RISING[1:], RISING[1:]]), r"shape \(2, 16\), not \(2, 17\)"),
        (_set("offsets", RISING), r"shape \(17,\)"),
        (_set("offsets", [RISING, RISING[1:]]), "not a table of numbers"),
        (_set("offsets", [RISING, RISING[::-1]]), "not finite and ascending"),
        (_set("offsets", [RISING, [*RISING[:-1], NAN]]), "not finite and ascending"),
        (_set("offsets", [RISING, [*RISING[:-1], math.inf]]), "not finite and ascending"),
        (_set("offsets", [RISING, [*RISING[:-1], None]]), "not finite and ascending"),
        (_set("offsets", [RISING, [*RISING[:-1], "high"]]), "not a table of numbers"),
        (_set("offsets", None), "shape"),
        (_set("series", "a", "offsets", [RISING]), "shape"),
        (_set("series", "a", "offsets", [RISING, RISING[::-1]]), "not finite and ascending"),
        (_set("series", "a", "floor", NAN), "floor"),
        (_set("series", "a", "floor", math.inf), "floor"),
        (_set("series", "a", "floor", 0), "floor"),
        (_set("series", "a", "floor", -1.0), "floor"),
        (_set("series", "a", "floor", None), "unexpected structure"),
        (_set("series", "a", "windows", None), "unexpected structure"),
        (_set("series", "a", "windows", NAN), "NaN"),
        (_set("series", "a", "windows", math.inf), "infinity"),
        (_set("series", "a", "floor", 10**400), "too large"),
        (_set("series", "a", "peak", -1.0), "peak"),
        (_set("series", "a", "peak", NAN), "peak"),
        (_set("series", "a", "peak", "high"), "high"),
        (_set("series", "a", "peak", [1]), "unexpected structure"),
        (_set("series", "a", [1, 2]), "unexpected structure"),
        (_set("series", [1, 2]), "unexpected structure"),
        (_set("series", None), "unexpected structure"),
        *((_drop(key), f"unexpected structure.*{key}") for key in ("checkpoint_sha256", "levels", "series")),
        (_drop("offsets"), "unexpected structure.*offsets"),
        *(
            (_drop("series", "a", key), f"unexpected structure.*{key}")
            for key in ("floor", "nonnegative", "windows", "offsets")
        ),
    ],
)
def test_a_file_that_is_damaged_or_of_another_checkpoint_is_refused(change, words):
    intervals, *_ = _of_two(300, 40)
    content = json.loads(intervals.to_json(SHA))
    Intervals.from_json(json.dumps(content), SHA, 2)
    change(content)
    with pytest.raises(ValueError, match=words):
        Intervals.from_json(json.dumps(content), SHA, 2)


@pytest.mark.parametrize(
    "text, words",
    [
        *((text, "unexpected structure") for text in ("[]", "[1, 2]", "null", "3", '"text"', "{}")),
        ("", "Expecting value"),
        ("{", "Expecting property name"),
        (b"\xff\xff\xff", "utf-8"),
    ],
)
def test_a_file_that_is_no_object_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        Intervals.from_json(text, SHA, 2)


def test_a_file_for_another_horizon_is_refused():
    intervals, *_ = _of_two(300, 40)
    with pytest.raises(ValueError, match=r"shape \(2, 17\), not \(3, 17\)"):
        Intervals.from_json(intervals.to_json(SHA), SHA, 3)


def test_numbers_that_json_does_not_know_are_not_written():
    series = {"a": SeriesIntervals(floor=NAN, nonnegative=True, windows=1, offsets=None)}
    with pytest.raises(ValueError, match="JSON"):
        Intervals(np.zeros((1, len(LEVELS))), series).to_json(SHA)


# Levels


@pytest.mark.parametrize(
    "levels", [[], [0.5], [0.9, 0.1, 0.025], [0.005, 0.995], (0.3, 0.2), [np.float64(0.25)]]
)
def test_levels_that_can_be_served(levels):
    found = check_levels(levels)
    assert found == list(levels)
    assert all(type(level) is float for level in found)


@pytest.mark.parametrize(
    "level", [0, 1, 0.0, 1.0, 0.004, 0.996, -0.5, 80, True, False, "0.5", "q", None, NAN, math.inf, [0.5], {}]
)
def test_a_level_that_cannot_be_served_is_named(level):
    with pytest.raises(ValueError, match=r"between 0\.005 and 0\.995") as caught:
        check_levels([0.5, level, 0.9])
    assert str(caught.value).startswith(f"{level}: ")


def test_all_levels_that_cannot_be_served_are_named():
    with pytest.raises(ValueError, match=r"^0, 1\.5, x: "):
        check_levels([0, 0.5, 1.5, "x"])


def test_a_level_that_stands_twice_is_refused():
    with pytest.raises(ValueError, match="a level is given twice: quantiles are different numbers"):
        check_levels([0.5, 0.9, 0.5])


@pytest.mark.parametrize("level, name", [(0.9, "q0.9"), (0.5, "q0.5"), (0.025, "q0.025"), (0.005, "q0.005")])
def test_a_column_is_named_by_its_level(level, name):
    assert column(level) == name


@given(st.lists(ANY_LEVEL | st.sampled_from([0.9, 0.9 + 1e-9]), min_size=2, max_size=4))
@settings(deadline=None, max_examples=100)
def test_levels_that_can_be_served_have_columns_of_their_own(levels):
    try:
        found = check_levels(levels)
    except ValueError:
        return
    assert len({column(level) for level in found}) == len(levels)


def test_what_is_missing_is_said_with_the_remedy():
    message = str(missing("model"))
    for word in ("model", "intervals.json", "data.validation", "evaluate.save_intervals=true"):
        assert word in message
