"""The scoreboard: its parts agree with each other, and it consists of plain values."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from kforecast.config.checks import CONF_DIR
from kforecast.data.panel import Panel
from kforecast.errors import DataError
from kforecast.evaluation import capacity as short_form
from kforecast.evaluation.backtest import AS_CONSUMED, MODEL, BacktestSettings, Span
from kforecast.evaluation.capacity import JUDGED, order
from kforecast.evaluation.scoreboard import QUANTILES, Scoreboard, judge
from kforecast.evaluation.scores import score
from kforecast.evaluation.skill import aged_at, skill
from kforecast.forecaster import Forecaster
from kforecast.models.fcnet import Fcnet
from kforecast.simulation.capacity import Capacity
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
DRIVERS = [
    *("reactive", "forecast alone", JUDGED, "last week and yesterday", "schedule", "perfect"),
]


@pytest.fixture(scope="module", autouse=True)
def one_day():
    """Replicas of the newest day alone: a simulation of the whole span takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(short_form, "MOST_DAYS", 1)
        yield


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
    assert content["capacity"]["policies"]["reactive"]["unserved_share"] is None


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
    sizes, plain_sizes = (one.orders.simulation.services.capacity for one in (board, plain))
    came = panel.values[1, BEGIN:STOP].astype(float)[panel.observed[1, BEGIN:STOP]]
    assert sizes[1] == pytest.approx(came.mean() / 10)
    assert sizes[0] == pytest.approx(plain_sizes[0])
    (note,) = board.orders.notes
    assert note.startswith("1 of 3 series have no traffic before the span")
    assert _judge(panel, capacity=_capacity(per_replica=5)).orders.notes == ()


def test_coverage_is_told_by_share(plain, board):
    assert plain.coverages() == {}
    assert set(board.coverages()) == {"80", "90", "95"}
    assert board.coverages()["90"] == board.model["coverage_90"]
    # Calibrated on the bins before the span.
    assert board.coverages() == pytest.approx({"80": 0.8, "90": 0.9, "95": 0.95}, abs=0.1)
    assert board.backtest.levels == QUANTILES


def test_quantiles_are_scaled_on_only_with_intervals(plain, board):
    content = _strict(plain)["capacity"]
    assert list(content["policies"]) == DRIVERS
    assert content["quantile"] == {"level": None, "window": 315, "newsvendor": 10 / 11}
    content = _strict(board)["capacity"]
    assert list(content["policies"]) == DRIVERS
    assert content["quantile"] == {"level": 10 / 11, "window": 315, "newsvendor": 10 / 11}
    # Drivers are no forecasts, so they have no scores.
    assert not {*DRIVERS} & {*board.scores["model"]}


def test_a_quantile_beyond_the_stored_levels_is_the_outermost_one(board):
    extreme = order(board.backtest, _capacity(cost_under=1e9))
    assert extreme.question.level == 0.995
    assert extreme.quantile_words == "quantile 0.995"


def test_what_a_replica_serves_comes_from_before_the_span():
    panel = _panel(gaps=0.1)
    sizes = _judge(panel).orders.simulation.services.capacity
    seen = [panel.values[row, :BEGIN][panel.observed[row, :BEGIN]] for row in range(3)]
    np.testing.assert_allclose(sizes, [one.mean() / 10 for one in seen], rtol=1e-6)
    fixed = _judge(panel, capacity=_capacity(per_replica=7.0)).orders.simulation.services.capacity
    assert fixed.tolist() == [7, 7, 7]


def test_the_load_is_what_came_and_gaps_do_not_count():
    panel = _panel(gaps=0.3)
    simulation = _judge(panel).orders.simulation
    load = simulation.services.load
    np.testing.assert_array_equal(load.observed, panel.observed)
    np.testing.assert_array_equal(load.values[panel.observed], panel.values[panel.observed])
    # In a gap the load stays as it was: nothing of the large values there.
    assert load.values.max() == panel.values[panel.observed].max()
    seen = panel.observed[:, simulation.begin : simulation.stop].sum(axis=1)
    np.testing.assert_array_equal(simulation.outcomes.seconds.sum(axis=0), 3600 * seen)


def test_the_cost_of_each_series_adds_up(board):
    content = _strict(board)["capacity"]
    assert content["settings"] == _capacity().model_dump()
    for policy, outcome in content["policies"].items():
        mine = [one for one in content["series"] if one["policy"] == policy]
        assert [one["workload"] for one in mine] == ["w0", "w1", "w2"]
        assert sum(one["cost"] for one in mine) == pytest.approx(outcome["cost"])
    assert content["policies"]["perfect"]["cost"] == min(one["cost"] for one in content["policies"].values())
    assert content["lacking"] is None
    assert content["span"]["series"] == 3


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
    assert content["capacity"] == alone["capacity"]
    assert [*board.backtest.forecasts][:2] == [MODEL, AS_CONSUMED]
    consumed = board.series_scores(AS_CONSUMED)
    assert consumed["mae"].tolist() == _judge(as_consumed=True).series_scores()["mae"].tolist()
    assert board.step_scores(AS_CONSUMED)["step"].tolist() == ["1", "2", "3"]


def test_nothing_to_score_is_refused():
    panel = _panel()
    panel.observed[:, BEGIN:] = False
    with pytest.raises(DataError, match="nothing to score"):
        _judge(panel)
