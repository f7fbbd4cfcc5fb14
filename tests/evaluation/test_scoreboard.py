"""The scoreboard: its parts agree with each other, and it consists of plain values."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from kforecast.config.checks import CONF_DIR
from kforecast.data.panel import Panel
from kforecast.errors import DataError
from kforecast.evaluation.backtest import AS_CONSUMED, MODEL, BacktestSettings, Span
from kforecast.evaluation.capacity import Capacity
from kforecast.evaluation.scoreboard import HEADROOMS, ORDER_LEVELS, QUANTILES, Scoreboard, judge, order
from kforecast.evaluation.scores import score
from kforecast.evaluation.skill import aged_at, skill
from kforecast.forecaster import Forecaster
from kforecast.models.fcnet import Fcnet
from kforecast.models.naive import ALWAYS_ZERO
from kforecast.window import Frequency, Window

HOUR = Frequency.parse("1H")
START = 1_700_006_400
BASELINES = [
    "last value",
    "moving average",
    "same time yesterday",
    "same time last week",
    "mean by time of week",
    "last value plus daily difference",
    "last value plus weekly difference",
    "training mean",
    "always zero",
]
BEGIN, STOP = 200, 300
SPAN = Span(BEGIN, STOP)


def _capacity(**changes):
    content = yaml.safe_load((CONF_DIR / "capacity" / "default.yaml").read_text(encoding="utf-8"))
    del content["_target_"]
    return Capacity(**(content | changes))


def _panel(gaps=0.0, bins=310):
    """Three series with a daily cycle and large values in unobserved bins, which must not matter."""
    rng = np.random.default_rng(2)
    time = np.arange(bins)
    level = np.array([[1.0], [10.0], [100.0]])
    values = level * (4 + 3 * np.sin(2 * np.pi * time / 24) + rng.exponential(1, (3, bins)))
    observed = rng.random((3, bins)) >= gaps
    values = np.where(observed, values, 1e6).astype(np.float32)
    return Panel(values, observed, START, HOUR, tuple((f"w{row}", "m") for row in range(3)))


def _forecaster(horizon=3):
    """An untrained network that forecasts about the level of its context."""
    window = Window(HOUR, 6, horizon)
    torch.manual_seed(1)
    net = Fcnet(window, 3).eval()
    with torch.no_grad():
        net.lc.weight *= 0.3
        net.lc.bias[:] = 1
    return Forecaster(window, {f"w{row}m": row for row in range(3)}, "interpolate", net)


def _judge(
    panel=None, forecaster=None, capacity=None, span=SPAN, seed=0, champion=None, **named
) -> Scoreboard:
    panel = _panel(gaps=0.1) if panel is None else panel
    settings = BacktestSettings(**{"levels": QUANTILES} | named)
    return judge(forecaster or _forecaster(), panel, span, settings, capacity or _capacity(), seed, champion)


@pytest.fixture(scope="module")
def plain():
    return _judge()


@pytest.fixture(scope="module")
def board():
    """The board of a forecaster with intervals."""
    panel = _panel(gaps=0.1)
    return _judge(
        panel, _forecaster().calibrated(panel, 10, BEGIN), span=replace(SPAN, name="the newest bins")
    )


def _strict(board):
    """The board as strict JSON, read back."""
    content = board.as_dict()
    read = json.loads(json.dumps(content, allow_nan=False))
    # Keys are text and values plain without the conversion, too.
    assert read == content
    return read


def test_all_of_it_is_plain_values(plain, board):
    for one in (plain, board):
        content = _strict(one)
        for key in ("overall", "series", "steps", "baselines", "skill", "age", "capacity", "span"):
            assert content[key], key
        assert set(content) == {
            *("overall", "series", "steps", "baselines", "skill", "age", "capacity", "span"),
            *("window", "as_consumed", "champion", "guard"),
        }


def test_what_is_no_number_is_null():
    silent = replace(_panel(), values=np.zeros((3, 310), np.float32))
    content = _strict(_judge(silent))
    assert content["overall"]["wape"] is None
    assert content["overall"]["mae"] >= 0
    assert content["skill"]["value"] is content["skill"]["low"] is content["skill"]["high"] is None
    assert content["age"]["aged_at"] is None
    assert {step["relative"] for step in content["age"]["steps"]} == {None}
    assert content["capacity"]["policies"]["kforecast"]["unserved_share"] is None


def test_overall_is_the_row_of_all_series_and_steps(board):
    content = _strict(board)
    rows = board.scores[(board.scores["workload"] == "*") & (board.scores["step"] == "all")]
    rows = rows.set_index("model")
    assert rows.index.tolist() == [MODEL, *BASELINES]
    names = [*rows.columns[3:]]
    assert list(content["overall"]) == names
    assert content["overall"] == rows.loc[MODEL, names].to_dict()
    assert list(content["baselines"]) == BASELINES
    for name in BASELINES:
        known = rows.loc[name, names].astype(float).dropna()
        assert {key: value for key, value in content["baselines"][name].items() if value is not None} == dict(
            known
        )
    assert board.model == content["overall"]


def test_scores_are_those_of_the_backtest(board):
    expected = score(board.backtest)
    assert board.scores.equals(expected)
    content = _strict(board)
    mine = expected[expected["model"] == MODEL]
    series = mine[(mine["workload"] != "*") & (mine["step"] == "all")]
    assert [one["workload"] for one in content["series"]] == ["w0", "w1", "w2"]
    assert [one["wape"] for one in content["series"]] == series["wape"].tolist()
    steps = mine[(mine["workload"] == "*") & (mine["step"] != "all")]
    assert [one["step"] for one in content["steps"]] == ["1", "2", "3"]
    assert [one["mase"] for one in content["steps"]] == steps["mase"].tolist()
    last = expected[(expected["model"] == "last value") & (expected["workload"] != "*")]
    assert board.series_scores("last value")["mae"].tolist() == last[last["step"] == "all"]["mae"].tolist()


def test_skill_is_that_of_the_backtest(board):
    expected = skill(board.backtest)
    content = _strict(board)["skill"]
    assert (content["value"], content["low"], content["high"]) == (
        expected.value,
        expected.low,
        expected.high,
    )
    assert content["low"] < content["value"] < content["high"]
    assert (content["best_baseline"], content["blocks"]) == (expected.best_baseline, expected.blocks)
    assert (content["block_bins"], content["confidence"], content["score"]) == (6, 0.95, "wape")
    best = min(BASELINES, key=lambda name: _strict(board)["baselines"][name]["wape"])
    assert content["best_baseline"] == best
    assert _judge(seed=1).skill != _judge(seed=2).skill


def test_the_span_is_told(board):
    content = _strict(board)
    assert content["span"] == {
        "part": "the newest bins",
        "start": START + 3600 * BEGIN,
        "end": START + 3600 * (STOP - 1),
        "stride": 1,
        "origins": len(np.unique(board.backtest.origin)),
        "windows": len(board.backtest.cells),
        "series": 3,
    }
    assert content["span"]["origins"] == 98
    assert content["window"] == {"freq": "1H", "context_length": 6, "prediction_length": 3}
    assert content["as_consumed"] is False
    assert _strict(_judge(as_consumed=True))["as_consumed"] is True


def test_a_stride_makes_fewer_origins():
    content = _strict(_judge(_panel(), stride=4))
    assert (content["span"]["stride"], content["span"]["origins"], content["span"]["windows"]) == (4, 25, 75)


def test_age_counts_from_the_end_of_the_training_data_where_it_is_known(plain):
    assert not plain.age_known
    content = _strict(plain)["age"]
    assert content["counted_from"] == "the start of the span"
    assert content["steps"][0]["age"] == 0
    until = START + 3600 * (BEGIN - 24)
    known = _judge(span=replace(SPAN, trained_until=until))
    assert known.age_known
    content = _strict(known)["age"]
    assert content["counted_from"] == "the end of the training data"
    # From 24 to 121 hours, in steps of half a day; the last step has too few origins.
    assert [step["age"] for step in content["steps"]] == [43_200 * half for half in range(2, 10)]
    assert content["aged_at"] == aged_at(known.ages)


def test_inside_its_training_data_a_model_has_no_age():
    board = _judge(span=replace(SPAN, trained_until=START + 3600 * (BEGIN + 10)))
    assert not board.age_known
    assert board.ages["age"].iloc[0] == 0


def test_replicas_of_a_series_without_traffic_before_the_span_are_sized_by_the_span():
    panel = _panel()
    plain = _judge(panel)
    assert plain.orders.notes == ()
    panel = _panel()
    panel.observed[1, :BEGIN] = False
    board = _judge(panel)
    load = board.orders.timeline.load
    assert board.orders.timeline.per_replica[1] == pytest.approx(np.nanmean(np.abs(load[1])) / 10)
    assert board.orders.timeline.per_replica[0] == pytest.approx(plain.orders.timeline.per_replica[0])
    (note,) = board.orders.notes
    assert note.startswith("1 of 3 series have no traffic before the span")
    assert _judge(panel, capacity=_capacity(per_replica=5)).orders.notes == ()


def test_orders_beyond_the_horizon_are_said():
    (note,) = _judge(stride=3).orders.notes
    assert note.startswith("Orders are made for up to 4 bins ahead")
    assert "forecasts reach 3" in note


def test_coverage_is_told_by_share(plain, board):
    assert plain.coverages() == {}
    assert set(board.coverages()) == {"80", "90", "95"}
    assert board.coverages()["90"] == board.model["coverage_90"]
    # Calibrated on the bins before the span.
    assert board.coverages() == pytest.approx({"80": 0.8, "90": 0.9, "95": 0.95}, abs=0.1)
    assert board.backtest.levels == QUANTILES


def test_quantiles_are_ordered_for_only_with_intervals(plain, board):
    assert plain.orders.best_level is None
    assert len(plain.orders.by_quantile) == 0
    content = _strict(plain)["capacity"]
    assert list(content["policies"]) == [MODEL, *BASELINES, "reactive", "perfect"]
    assert content["quantile"] == {"levels": [], "cost": [], "best": None, "newsvendor": 10 / 11}

    content = _strict(board)["capacity"]
    at_quantile = "kforecast at quantile 0.909"
    assert list(content["policies"]) == [MODEL, at_quantile, *BASELINES, "reactive", "perfect"]
    assert content["quantile"]["levels"] == list(ORDER_LEVELS)
    cost = content["quantile"]["cost"]
    assert len(cost) == len(ORDER_LEVELS)
    assert content["quantile"]["best"] == ORDER_LEVELS[cost.index(min(cost))]
    # The policy is not a forecast, so it has no scores and no headroom.
    assert at_quantile not in content["headroom"]["cost"]
    assert at_quantile not in set(board.scores["model"])


def test_ordering_for_a_quantile_costs_what_the_curve_says():
    panel = _panel(gaps=0.1)
    forecaster = _forecaster().calibrated(panel, 10, BEGIN)
    found = _judge(panel, forecaster, _capacity(cost_under=9.0, cost_over=1.0)).orders
    policy = found.simulation.outcomes.loc["kforecast at quantile 0.9", "cost"]
    assert found.by_quantile[ORDER_LEVELS.index(0.9)] == pytest.approx(policy)
    # A quantile beyond the stored levels is the outermost one.
    extreme = _judge(panel, forecaster, _capacity(cost_under=1e9)).orders.simulation
    assert "kforecast at quantile 0.995" in extreme.outcomes.index


@pytest.mark.parametrize("headroom", [0.0, 0.25])
def test_the_headroom_curve_passes_through_what_was_simulated(headroom):
    board = _judge(capacity=_capacity(headroom=headroom))
    at = HEADROOMS.index(headroom)
    outcomes = board.orders.simulation.outcomes
    assert list(board.orders.by_headroom) == [MODEL, *BASELINES]
    for name, cost in board.orders.by_headroom.items():
        assert len(cost) == len(HEADROOMS)
        assert cost[at] == pytest.approx(outcomes.loc[name, "cost"]), name
        assert (cost.min() < cost.max()) == (name != ALWAYS_ZERO), name
        assert board.orders.best_headroom(name) == HEADROOMS[int(np.argmin(cost))]
    content = _strict(board)["capacity"]["headroom"]
    assert content["headrooms"] == list(HEADROOMS)
    assert content["cost"][MODEL] == board.orders.by_headroom[MODEL].tolist()
    assert content["best"] == {name: board.orders.best_headroom(name) for name in board.orders.by_headroom}


@pytest.mark.parametrize(
    "horizon, stride, lead_time, interval",
    [
        (1, 1, 300, None),
        (2, 1, 300, None),
        (3, 1, 300, None),
        (24, 1, 300, None),
        (24, 1, 0, None),
        (24, 1, 7200, 10_800),
        (24, 5, 300, None),
        (3, 4, 300, None),
    ],
)
@pytest.mark.parametrize("gaps", [0.0, 0.3])
def test_the_reactive_rule_is_the_last_value(horizon, stride, lead_time, interval, gaps):
    """Up to the end of the span, even where no horizon ends within it."""
    capacity = _capacity(lead_time=lead_time, interval=interval)
    board = _judge(_panel(gaps), _forecaster(horizon), capacity, stride=stride)
    simulation = board.orders.simulation
    assert simulation.counted.sum() > 100
    np.testing.assert_array_equal(simulation.replicas["last value"], simulation.replicas["reactive"])
    one, other = simulation.outcomes.loc["last value"], simulation.outcomes.loc["reactive"]
    assert one.to_dict() == pytest.approx(other.to_dict())


def test_what_a_replica_serves_comes_from_before_the_span():
    panel = _panel(gaps=0.1)
    timeline = _judge(panel).orders.timeline
    seen = [panel.values[row, :BEGIN][panel.observed[row, :BEGIN]] for row in range(3)]
    np.testing.assert_allclose(timeline.per_replica, [one.mean() / 10 for one in seen], rtol=1e-6)
    fixed = _judge(panel, capacity=_capacity(per_replica=7.0)).orders.timeline
    assert fixed.per_replica.tolist() == [7, 7, 7]


@pytest.mark.parametrize("horizon, lead_time", [(1, 0), (2, 300), (3, 300), (24, 300), (24, 7200)])
def test_a_right_forecast_orders_as_the_perfect_rule_does(horizon, lead_time):
    found = _judge(_panel(), _forecaster(horizon)).backtest
    right = replace(found, forecasts=found.forecasts | {MODEL: found.actual.astype(np.float32)})
    simulation = order(right, _capacity(lead_time=lead_time)).simulation
    counted = simulation.counted
    assert counted.any()
    np.testing.assert_array_equal(
        simulation.replicas[MODEL][counted], simulation.replicas["perfect"][counted]
    )


def test_the_load_is_what_came_and_the_reactive_rule_sees_the_newest_before_each_origin():
    panel = _panel(gaps=0.3)
    panel.observed[1, : BEGIN + 9] = False
    board = _judge(panel)
    timeline = board.orders.timeline
    assert (timeline.step, timeline.stride) == (3600, 1)
    origins = set(zip(board.backtest.series, board.backtest.origin, strict=True))
    for row in range(3):
        for bin_ in range(timeline.load.shape[1]):
            origin = BEGIN + bin_
            came = panel.values[row, origin] if panel.observed[row, origin] else math.nan
            np.testing.assert_equal(timeline.load[row, bin_], float(came))
            known = panel.values[row, :origin][panel.observed[row, :origin]]
            newest = known[-1] if (row, origin) in origins else math.nan
            np.testing.assert_equal(timeline.last[row, bin_], float(newest))


def test_the_cost_of_each_series_adds_up(board):
    content = _strict(board)["capacity"]
    assert content["settings"] == _capacity().model_dump()
    for policy, outcome in content["policies"].items():
        mine = [one for one in content["series"] if one["policy"] == policy]
        assert [one["workload"] for one in mine] == ["w0", "w1", "w2"]
        assert sum(one["cost"] for one in mine) == pytest.approx(outcome["cost"])
    assert content["policies"]["perfect"]["cost"] == min(one["cost"] for one in content["policies"].values())


def test_a_series_without_observed_targets_is_on_no_list():
    panel = _panel()
    panel.observed[1, BEGIN:] = False
    board = _judge(panel)
    content = _strict(board)
    assert content["span"]["series"] == 2
    assert {one["workload"] for one in content["series"]} == {"w0", "w2"}
    assert {one["workload"] for one in content["capacity"]["series"]} == {"w0", "w2"}


def test_what_would_be_served_with_series_id_0_is_a_model_beside_the_judged_one():
    board = _judge(show_as_consumed=True)
    content = _strict(board)
    alone = _strict(_judge())
    assert content["overall"] == alone["overall"]
    assert content["skill"] == alone["skill"]
    assert list(content["baselines"]) == BASELINES
    assert list(content["capacity"]["policies"])[:2] == [MODEL, AS_CONSUMED]
    consumed = board.series_scores(AS_CONSUMED)
    assert consumed["mae"].tolist() == _judge(as_consumed=True).series_scores()["mae"].tolist()
    assert board.step_scores(AS_CONSUMED)["step"].tolist() == ["1", "2", "3"]


def test_nothing_to_score_is_refused():
    panel = _panel()
    panel.observed[:, BEGIN:] = False
    with pytest.raises(DataError, match="nothing to score"):
        _judge(panel)
