"""Simulated replicas, computed by hand and by a loop over bins and decisions."""

import math

import numpy as np
import pandas as pd
import pytest
import yaml
from examples import checked
from hypothesis import strategies as st

from kforecast.config.checks import CONF_DIR
from kforecast.errors import ConfigError
from kforecast.evaluation.capacity import Capacity, Timeline, headroom_curve, per_replica, simulate
from kforecast.validation import validate

NAN = float("nan")
COLUMNS = [
    "under_minutes",
    "unserved",
    "unserved_share",
    "replica_hours",
    "idle",
    "over_share",
    "scalings",
    "cost",
]
PLAIN = {
    "per_replica": None,
    "mean_replicas": 10,
    "min_replicas": 1,
    "max_replicas": 100,
    "lead_time": 300,
    "interval": None,
    "headroom": 0.0,
    "cost_under": 10.0,
    "cost_over": 1.0,
}
# The same examples in every run.
FEW = {"few": 12, "many": 60, "derandomize": True}


def _settings(**changes):
    return Capacity(**(PLAIN | changes))


def _last(load, before=NAN):
    """The newest observed value before each bin; ``before`` if the span has none."""
    held = pd.DataFrame(load).T.ffill().shift(1).T.to_numpy()
    return np.where(np.isnan(held), np.reshape(before, (-1, 1)), held)


def _timeline(load, serves=1.0, step=600, stride=1, before=NAN):
    load = np.asarray(load, dtype=np.float64)
    serves = np.broadcast_to(np.asarray(serves, dtype=np.float64), load.shape[:1])
    return Timeline(load, _last(load, before), serves, step, stride)


def _knowing(load, horizon):
    """A forecast that is exact for observed bins, and 0 elsewhere."""
    ahead = np.pad(load, ((0, 0), (0, horizon)), constant_values=NAN)
    return np.nan_to_num(np.stack([ahead[:, h : h + load.shape[1]] for h in range(horizon)], axis=2))


# The case computed by hand.
# 900 s are 2 bins of lead. Every 1200 s, in bins 0, 2, 4 (and 6, too late), a decision orders for the bins
# 2-3, 4-5, 6-7. Only steps 2 and 3 of a forecast matter.
HAND = {
    "min_replicas": 1,
    "max_replicas": 5,
    "lead_time": 900,
    "interval": 1200,
    "headroom": 0.25,
    "cost_under": 10,
    "cost_over": 1,
}


def _hand():
    load = [[12, 18, 25, 31, NAN, 40, 70, 20], [2, 2, 2, 2, 4, 4, 4, NAN]]
    timeline = _timeline(load, serves=[10, 2], before=[8, NAN])
    forecast = np.full((2, 8, 4), NAN)
    forecast[0, 0] = [99, 99, 20, 16]  # 20 plus a quarter: 2.5 replicas, so 3
    forecast[0, 4] = [99, 99, 30, 44]  # 55 needs 6, limited to 5; decision 2 repeats 3
    forecast[0, 6] = [99, 99, 99, 99]  # too late
    forecast[1, 2] = [9, 9, 3, 3.2]  # exactly 2; decision 0 orders nothing
    forecast[1, 4] = [9, 9, 0, 0]  # the minimum, 1
    return timeline, forecast


def test_a_case_by_hand():
    timeline, forecast = _hand()
    result = simulate(_settings(**HAND), timeline, {"model": forecast})

    none = -1
    assert result.replicas["model"].tolist() == [
        [none, none, 3, 3, 3, 3, 5, 5],
        [none, none, none, none, 2, 2, 1, 1],
    ]
    assert result.replicas["reactive"].tolist() == [
        [none, none, 1, 1, 3, 3, 4, 4],  # from 8, 18, 31: 1, 2.25, 3.875 with headroom
        [none, none, none, none, 2, 2, 2, 2],  # from nothing, 2, 2: 1.25
    ]
    assert result.replicas["perfect"].tolist() == [
        [none, none, 4, 4, 4, 4, 5, 5],  # from 31, 40, 70: 3.1, 4, 7
        [none, none, 1, 1, 2, 2, 2, 2],
    ]
    # Without bin 4 of the first, which is not observed, and bins 2 and 3 of the second, without an order.
    assert np.argwhere(result.counted).tolist() == [
        *([0, bin_] for bin_ in (2, 3, 5, 6, 7)),
        *([1, bin_] for bin_ in (4, 5, 6)),
    ]

    # Load in replicas: 2.5, 3.1, 4, 7, 2 (18.6 in total) and 2, 2, 2; a bin is a sixth of an hour.
    series = pd.DataFrame(
        [
            # 3, 3, 3, 5, 5: misses 0.1, 1 and 2, idles 0.5 and 3.
            ("model", 0, 30, 3.1 / 6, 3.1 / 18.6, 19 / 6, 3.5 / 6, 3.5 / 19, 1, 10 * 3.1 / 6 + 3.5 / 6),
            # 2, 2, 1: misses 1.
            ("model", 1, 10, 1 / 6, 1 / 6, 5 / 6, 0, 0, 1, 10 / 6),
            # 1, 1, 3, 4, 4: misses 1.5, 2.1, 1, 3, idles 2.
            ("reactive", 0, 40, 7.6 / 6, 7.6 / 18.6, 13 / 6, 2 / 6, 2 / 13, 2, 13),
            # 2, 2, 2.
            ("reactive", 1, 0, 0, 0, 1, 0, 0, 0, 0),
            # 4, 4, 4, 5, 5: misses 2, idles 1.5, 0.9, 3.
            ("perfect", 0, 10, 2 / 6, 2 / 18.6, 22 / 6, 5.4 / 6, 5.4 / 22, 1, 25.4 / 6),
            ("perfect", 1, 0, 0, 0, 1, 0, 0, 0, 0),
        ],
        columns=["policy", "series", *COLUMNS],
    )
    _assert_close(result.series, series)
    outcomes = pd.DataFrame(
        [
            (40, 4.1 / 6, 4.1 / 24.6, 24 / 6, 3.5 / 6, 3.5 / 24, 2, 41 / 6 + 3.5 / 6),
            (40, 7.6 / 6, 7.6 / 24.6, 19 / 6, 2 / 6, 2 / 19, 2, 13),
            (10, 2 / 6, 2 / 24.6, 28 / 6, 5.4 / 6, 5.4 / 28, 1, 25.4 / 6),
        ],
        columns=COLUMNS,
        index=pd.Index(["model", "reactive", "perfect"], name="policy"),
    )
    _assert_close(result.outcomes, outcomes)


def _assert_close(result, expected):
    pd.testing.assert_frame_equal(result, expected, check_dtype=False, rtol=1e-9, atol=1e-12)


# The same with loops.
def _order(capacity, load, serves, headroom):
    replicas = math.ceil(load * (1 + headroom) / serves - 1e-9)
    return min(max(replicas, capacity.min_replicas), capacity.max_replicas)


def _loop(capacity, timeline, wanted, first=-1):
    """Replicas in each bin; ``wanted(series, decision, from, to)`` is what a decision orders, or None."""
    lead = math.ceil(capacity.lead_time / timeline.step)
    between = timeline.step if capacity.interval is None else capacity.interval
    interval = timeline.stride * max(1, math.ceil(between / (timeline.stride * timeline.step)))
    num_series, num_bins = timeline.load.shape
    replicas = np.full(timeline.load.shape, -1)
    for series in range(num_series):
        starts = range(lead, num_bins, interval)
        new = [wanted(series, start - lead, start, start + interval) for start in starts]
        if first != -1 and new and new[0] is None:
            new[0] = first
        # After the last decision no order is in force.
        while new and new[-1] is None:
            new.pop()
        order = -1
        for start, count in zip(starts, new, strict=False):
            order = order if count is None else count
            for bin_ in range(start, min(start + interval, num_bins)):
                replicas[series, bin_] = order
    return replicas


def _loop_all(capacity, timeline, forecasts):
    """The replicas of every policy, and the counted bins."""

    def by_forecast(forecast):
        def wanted(series, decision, start, end):
            steps = [min(bin_ - decision, forecast.shape[2] - 1) for bin_ in range(start, end)]
            loads = [forecast[series, decision, step] for step in steps]
            if any(np.isnan(loads)):
                return None
            return _order(capacity, float(max(loads)), timeline.per_replica[series], capacity.headroom)

        return wanted

    def by_last(series, decision, start, end):
        load = timeline.last[series, decision]
        serves = timeline.per_replica[series]
        return None if np.isnan(load) else _order(capacity, load, serves, capacity.headroom)

    def by_actual(series, decision, start, end):
        loads = [load for load in timeline.load[series, start:end] if not np.isnan(load)]
        return _order(capacity, max(loads), timeline.per_replica[series], 0) if loads else None

    replicas = {name: _loop(capacity, timeline, by_forecast(each)) for name, each in forecasts.items()}
    replicas["reactive"] = _loop(capacity, timeline, by_last)
    counted = np.zeros(timeline.load.shape, dtype=bool)
    for cell in np.ndindex(*counted.shape):
        ordered = all(count[cell] != -1 for count in replicas.values())
        counted[cell] = ordered and not np.isnan(timeline.load[cell])
    replicas["perfect"] = _loop(capacity, timeline, by_actual, first=capacity.min_replicas)
    return replicas, counted


def _loop_outcome(capacity, timeline, replicas, counted, rows):
    """The results of one policy for some series."""
    under = unserved = load_hours = hours = idle = scalings = 0
    for series in rows:
        before = None
        for bin_ in np.flatnonzero(counted[series]):
            count = replicas[series, bin_]
            load, serves = timeline.load[series, bin_], timeline.per_replica[series]
            if load > count * serves * (1 + 1e-9):
                under += timeline.step / 60
            unserved += max(0, load / serves - count) * timeline.step / 3600
            idle += max(0, count - load / serves) * timeline.step / 3600
            hours += count * timeline.step / 3600
            load_hours += load / serves * timeline.step / 3600
            scalings += before is not None and before != count
            before = count
    cost = capacity.cost_under * unserved + capacity.cost_over * idle
    unserved_share = unserved / load_hours if load_hours > 0 else NAN
    over_share = idle / hours if hours > 0 else NAN
    return (under, unserved, unserved_share, hours, idle, over_share, scalings, cost)


@st.composite
def cases(draw):
    """Random settings, a timeline and two forecasts."""
    num_series, num_bins, horizon = draw(st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 6)))
    step, stride = draw(st.sampled_from([1, 60, 600])), draw(st.integers(1, 4))
    fewest = draw(st.integers(0, 4))
    capacity = _settings(
        min_replicas=fewest,
        max_replicas=draw(st.integers(max(1, fewest), 30)),
        lead_time=draw(st.integers(0, 6 * step)),
        interval=draw(st.none() | st.integers(1, 7 * step)),
        headroom=draw(st.sampled_from([0.0, 0.25, 0.1, 1.5])),
        cost_under=draw(st.sampled_from([0, 1, 7.5])),
        cost_over=draw(st.sampled_from([0.5, 1])),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (num_series, num_bins)

    def loads(shape):
        # Eighths: either exactly the load of a number of replicas, or not close to one.
        return rng.integers(0, draw(st.sampled_from([40, 400])), size=shape, endpoint=True) / 8

    def missing(shape):
        return rng.random(shape) < draw(st.sampled_from([0, 0, 0.1, 0.6]))

    load = np.where(missing(shape), NAN, loads(shape))
    before = np.where(missing(num_series), NAN, loads(num_series))
    serves = rng.choice([0.5, 1.0, 3.0, 7.0], size=num_series)
    forecasts = {}
    for name in ("model", "other"):
        forecasts[name] = (loads((*shape, horizon)) - 1).astype(np.float32)
        forecasts[name][missing(shape)] = NAN
        forecasts[name][:, np.arange(num_bins) % stride != 0] = NAN
    return capacity, _timeline(load, serves, step, stride, before), forecasts


@checked(cases(), few=40, many=300, derandomize=True)
def test_it_is_what_a_loop_over_bins_and_decisions_does(case):
    capacity, timeline, forecasts = case
    result = simulate(capacity, timeline, forecasts)
    replicas, counted = _loop_all(capacity, timeline, forecasts)
    assert list(result.replicas) == ["model", "other", "reactive", "perfect"]
    for name, expected in replicas.items():
        np.testing.assert_array_equal(result.replicas[name], expected)
        assert result.replicas[name].dtype == np.int64
    np.testing.assert_array_equal(result.counted, counted)

    everyone = range(len(timeline.load))
    rows = [
        (name, number, *_loop_outcome(capacity, timeline, count, counted, [number]))
        for name, count in replicas.items()
        for number in everyone
    ]
    _assert_close(result.series, pd.DataFrame(rows, columns=["policy", "series", *COLUMNS]))
    totals = {
        name: _loop_outcome(capacity, timeline, count, counted, everyone) for name, count in replicas.items()
    }
    expected = pd.DataFrame.from_dict(totals, orient="index", columns=COLUMNS).rename_axis("policy")
    _assert_close(result.outcomes, expected)


@checked(cases(), st.lists(st.floats(0, 3), max_size=4), **FEW)
def test_the_curve_of_headrooms_is_one_simulation_at_each(case, headrooms):
    capacity, timeline, forecasts = case
    model = {"model": forecasts["model"]}
    alone = headroom_curve(capacity, timeline, forecasts["model"], headrooms)
    counted = simulate(capacity, timeline, forecasts).counted
    beside = headroom_curve(capacity, timeline, forecasts["model"], headrooms, counted)
    assert alone.dtype == beside.dtype == np.float64
    assert alone.shape == beside.shape == (len(headrooms),)
    for number, headroom in enumerate(headrooms):
        changed = capacity.model_copy(update={"headroom": headroom})
        for curve, policies in ((alone, model), (beside, forecasts)):
            cost = simulate(changed, timeline, policies).outcomes.loc["model", "cost"]
            assert curve[number] == pytest.approx(cost, rel=1e-12, abs=1e-12)


@checked(cases(), **FEW)
def test_reactive_is_a_last_value_forecast(case):
    capacity, timeline, _ = case
    forecast = np.repeat(timeline.last[:, :, None], 3, axis=2)
    result = simulate(capacity, timeline, {"last value": forecast})
    np.testing.assert_array_equal(result.replicas["last value"], result.replicas["reactive"])
    assert result.outcomes.loc["last value"].equals(result.outcomes.loc["reactive"])


@checked(cases(), **FEW)
def test_only_forecasts_at_decisions_matter_and_none_does_to_the_others(case):
    capacity, timeline, forecasts = case
    model = forecasts["model"]
    interval = timeline.stride * max(
        1, math.ceil((capacity.interval or 1) / (timeline.stride * timeline.step))
    )
    decided = model.copy()
    decided[:, np.arange(model.shape[1]) % interval != 0] = NAN
    before = simulate(capacity, timeline, forecasts)
    after = simulate(capacity, timeline, forecasts | {"model": decided})
    pd.testing.assert_frame_equal(before.outcomes, after.outcomes)
    alone = simulate(capacity, timeline, {})
    for name in ("reactive", "perfect"):
        np.testing.assert_array_equal(before.replicas[name], alone.replicas[name])


@checked(cases(), **FEW)
def test_perfect_serves_everything_when_there_may_be_enough_replicas(case):
    capacity, timeline, forecasts = case
    result = simulate(capacity.model_copy(update={"max_replicas": 1000}), timeline, forecasts)
    perfect = result.outcomes.loc["perfect"]
    assert perfect["under_minutes"] == 0
    assert perfect["unserved"] == pytest.approx(0, abs=1e-6)


@checked(cases(), **FEW)
def test_who_serves_everything_has_no_fewer_replicas_than_perfect(case):
    capacity, timeline, forecasts = case
    capacity = capacity.model_copy(update={"max_replicas": 1000, "interval": None})
    timeline = Timeline(timeline.load, timeline.last, timeline.per_replica, timeline.step, stride=1)
    lead = math.ceil(capacity.lead_time / timeline.step)
    # One policy that serves everything, and others that may.
    result = simulate(capacity, timeline, {"knowing": _knowing(timeline.load, lead + 1), **forecasts})
    perfect = result.outcomes.loc["perfect"]
    serving = result.outcomes[result.outcomes["under_minutes"] == 0]
    assert {"knowing", "perfect"} <= set(serving.index)
    assert (serving["replica_hours"] >= perfect["replica_hours"] - 1e-9).all()
    if capacity.headroom == 0:
        observed = result.counted
        np.testing.assert_array_equal(
            result.replicas["knowing"][observed], result.replicas["perfect"][observed]
        )


def test_many_series_are_the_sum_of_each_alone():
    rng = np.random.default_rng(0)
    load = rng.gamma(4, 25, size=(20, 3000))
    load[rng.random(load.shape) < 0.05] = NAN
    forecast = _knowing(load, 6) * rng.uniform(0.7, 1.3, size=(20, 3000, 6))
    forecast[:, np.arange(3000) % 2 != 0] = NAN
    serves = per_replica(_settings(), np.nanmean(load, axis=1))
    capacity = _settings(lead_time=700, interval=1500, headroom=0.1)
    timeline = _timeline(load, serves, step=300, stride=2)
    result = simulate(capacity, timeline, {"model": forecast})
    parts = []
    for number in range(20):
        alone = _timeline(load[[number]], serves[[number]], step=300, stride=2)
        parts.append(simulate(capacity, alone, {"model": forecast[[number]]}).series)
    by_number = pd.concat(parts, keys=range(20)).reset_index(level=0, names="number")
    by_number["series"] = by_number.pop("number")
    keys = ["policy", "series"]
    _assert_close(
        result.series.sort_values(keys, ignore_index=True), by_number.sort_values(keys, ignore_index=True)
    )
    added = ["under_minutes", "unserved", "replica_hours", "idle", "scalings", "cost"]
    sums = by_number.groupby("policy", sort=False)[added].sum()
    _assert_close(result.outcomes[added], sums)
    assert result.counted.sum() > 0.9 * load.size
    assert (result.outcomes[["idle", "scalings"]] > 0).all(axis=None)


def test_the_last_step_stands_in_beyond_the_horizon():
    timeline = _timeline([[5.0] * 8], before=1)
    forecast = np.full((1, 8, 2), [9.0, 3.0])
    result = simulate(_settings(lead_time=1800, interval=1200), timeline, {"model": forecast})
    assert result.replicas["model"].tolist() == [[-1, -1, -1, 3, 3, 3, 3, 3]]


def test_decisions_are_whole_strides_apart():
    timeline = _timeline([[5.0] * 9], stride=2, before=1)
    forecast = np.arange(1.0, 10).reshape(1, 9, 1)
    # 1500 s are two and a half bins, so two strides.
    result = simulate(_settings(lead_time=0, interval=1500), timeline, {"model": forecast})
    assert result.replicas["model"].tolist() == [[1, 1, 1, 1, 5, 5, 5, 5, 9]]


def test_a_lead_beyond_the_span_counts_nothing():
    timeline = _timeline([[5.0, 6.0]], before=1)
    result = simulate(_settings(lead_time=6000), timeline, {"model": np.ones((1, 2, 3))})
    assert not result.counted.any()
    assert (result.replicas["model"] == -1).all()
    assert result.outcomes["cost"].tolist() == [0, 0, 0]
    assert result.outcomes["over_share"].isna().all()


def test_changes_in_bins_that_do_not_count_are_no_scalings():
    timeline = _timeline([[1.0, NAN, 1.0, 2.0, NAN, 3.0]], before=1)
    forecast = np.array([1.0, 9, 1, 2, 9, 3]).reshape(1, 6, 1)
    result = simulate(_settings(lead_time=0), timeline, {"model": forecast})
    assert result.outcomes.loc["model", "scalings"] == 2


def test_no_load_on_no_replicas_has_no_shares():
    timeline = _timeline([[0.0, 0.0]], before=0)
    outcomes = simulate(_settings(min_replicas=0, lead_time=0), timeline, {}).outcomes
    assert outcomes[["unserved_share", "over_share"]].isna().all(axis=None)
    assert (outcomes[["under_minutes", "unserved", "replica_hours", "idle", "cost"]] == 0).all(axis=None)


def test_what_a_replica_serves():
    means = np.array([50.0, 0.0, NAN, 2.0], dtype=np.float32)
    assert per_replica(_settings(), means).tolist() == [5, 1, 1, 0.2]
    assert per_replica(_settings(per_replica=3), means).tolist() == [3, 3, 3, 3]
    assert per_replica(_settings(), means).dtype == np.float64


def test_the_best_quantile():
    assert _settings(cost_under=9, cost_over=1).best_quantile == pytest.approx(0.9)
    assert _settings(cost_under=0).best_quantile == 0


def test_the_default_settings_are_right():
    content = yaml.safe_load((CONF_DIR / "capacity" / "default.yaml").read_text())
    assert content.pop("_target_") == "kforecast.evaluation.capacity.Capacity"
    assert content.keys() == Capacity.model_fields.keys()
    assert validate(Capacity, content, "capacity") == _settings() == Capacity()


@pytest.mark.parametrize(
    "key, value",
    [
        ("per_replica", 0),
        ("per_replica", "10"),
        ("mean_replicas", 0),
        ("mean_replicas", float("inf")),
        ("min_replicas", -1),
        ("min_replicas", 1.5),
        ("max_replicas", 0),
        ("lead_time", -1),
        ("interval", 0),
        ("headroom", -0.1),
        ("headroom", NAN),
        ("cost_under", -1),
        ("cost_under", float("inf")),
        ("cost_over", 0),
        ("leadtime", 3),
    ],
)
def test_wrong_settings_are_refused(key, value):
    with pytest.raises(ConfigError, match=key):
        validate(Capacity, PLAIN | {key: value}, "capacity")


def test_fewer_replicas_at_most_than_at_least_are_refused():
    with pytest.raises(ConfigError, match=r"max_replicas \(3\) is less than min_replicas \(4\)"):
        validate(Capacity, PLAIN | {"min_replicas": 4, "max_replicas": 3}, "capacity")


@pytest.mark.parametrize("change", [{"step": 0}, {"stride": 0}, {"serves": 0}, {"serves": NAN}])
def test_a_wrong_timeline_is_refused(change):
    with pytest.raises(ValueError, match=r"at least 1|above 0"):
        _timeline([[1.0, 2.0]], **change)


def test_arrays_of_other_shapes_are_refused():
    load = np.ones((2, 3))
    with pytest.raises(ValueError, match="must be"):
        Timeline(load, np.ones((2, 4)), np.ones(2), 60, 1)
    with pytest.raises(ValueError, match="each series"):
        Timeline(load, load, np.ones(3), 60, 1)
    for shape in [(2, 3), (2, 4, 1), (2, 3, 0)]:
        with pytest.raises(ValueError, match="is not"):
            simulate(_settings(), _timeline(load), {"model": np.ones(shape)})


def test_a_forecast_cannot_have_the_name_of_another_policy():
    with pytest.raises(ValueError, match="perfect"):
        simulate(_settings(), _timeline([[1.0]]), {"perfect": np.ones((1, 1, 1))})
