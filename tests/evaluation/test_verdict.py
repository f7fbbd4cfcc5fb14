"""The verdict and the gate, on forecasters made by hand for traffic of which everything is known."""

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.data.panel import Panel
from kforecast.evaluation import capacity as short_form
from kforecast.evaluation.backtest import BacktestSettings, Span
from kforecast.evaluation.capacity import JUDGED
from kforecast.evaluation.champion import Champion
from kforecast.evaluation.report.files import publish
from kforecast.evaluation.report.words import summary
from kforecast.evaluation.scoreboard import QUANTILES, Scoreboard, judge
from kforecast.evaluation.skill import Skill, saving
from kforecast.evaluation.verdict import (
    better_naive,
    caveats,
    champion_shortfall,
    shortfall,
    unfit,
    verdict,
)
from kforecast.following import WindowForecasts
from kforecast.models.fcnet import Fcnet
from kforecast.predictor import Predictor
from kforecast.simulation.capacity import Capacity
from kforecast.simulation.drivers import REACTIVE
from kforecast.window import Frequency, Window

NAN = float("nan")
HOUR = Frequency.parse("1H")
WINDOW = Window(HOUR, 6, 3)
START = 1_699_833_600  # a Monday
DAY = 24
# Four weeks, of which the third calibrates intervals and the last is judged.
BINS, CALIBRATED, BEGIN = 28 * DAY, 14 * DAY, 21 * DAY
TIME_OF_DAY = np.arange(BINS) % DAY
# With pods that start in minutes, a reactive rule serves traffic that changes by the hour as well.
LEAD = 3600
DENSITIES = (0.01, 0.03, 0.1, 0.3)


@pytest.fixture(scope="module", autouse=True)
def few_days():
    """Replicas of the newest days alone: a simulation of the whole span takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(short_form, "MOST_DAYS", 3)
        yield


@dataclass(frozen=True, repr=False)
class Handmade(Predictor):
    """Forecasts are read from a table ``says`` with one value for each bin."""

    says: np.ndarray | None = None
    spread: float = 1.0

    def forecast_windows(self, panel, series, origin, **_):
        assert self.says is not None
        at = np.minimum(origin[:, None] + np.arange(WINDOW.prediction_length), self.says.shape[1] - 1)
        values = self.says[series[:, None], at].astype(np.float32)
        seen = np.arange(panel.num_bins) < origin[:, None]
        peak = np.abs(panel.values[series]).max(axis=1, where=seen, initial=0.0)
        return WindowForecasts(values, np.full_like(values, self.spread), {}, peak)


def panel_of(values: np.ndarray) -> Panel:
    names = tuple((f"fn/{row}", "qps") for row in range(len(values)))
    return Panel(values.astype(np.float32), np.ones(values.shape, bool), START, HOUR, names)


def handmade(panel: Panel, says: np.ndarray, intervals: bool = True) -> Handmade:
    net = Fcnet(WINDOW, panel.num_series).eval()
    made = Handmade(WINDOW, panel.item_ids, "zero", net, says=np.broadcast_to(says, panel.values.shape))
    return made.calibrated(panel, CALIBRATED, BEGIN) if intervals else made


def judged(values: np.ndarray, says: np.ndarray, intervals: bool = True, **capacity: object) -> Scoreboard:
    panel = panel_of(values)
    return judge(
        handmade(panel, says, intervals),
        panel,
        Span(BEGIN, BINS),
        BacktestSettings(levels=QUANTILES),
        Capacity(**{"lead_time": LEAD} | capacity),
    )


def bursts(density: float, seed: int = 0, series: int = 2) -> np.ndarray:
    """Services that are scaled to zero between bursts at random moments."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random((series, BINS)) < density, rng.exponential(50, (series, BINS)), 0.0)


def office_hours(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Services that sleep at night, and their expected traffic."""
    rng = np.random.default_rng(seed)
    day = np.where((TIME_OF_DAY > 8) & (TIME_OF_DAY < 18), np.sin((TIME_OF_DAY - 8) / 10 * np.pi), 0)
    expected = np.stack([100 * day, 30 * day])
    return expected * np.exp(0.1 * rng.standard_normal(expected.shape)), expected


def random_walk(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return 100 * np.exp(np.cumsum(0.02 * rng.standard_normal((2, BINS)), axis=1))


def shifted(values: np.ndarray, bins: int) -> np.ndarray:
    """The value some bins earlier."""
    return np.concatenate([np.repeat(values[:, :1], bins, axis=1), values[:, :-bins]], axis=1)


@pytest.fixture(scope="module")
def good() -> Scoreboard:
    """Of office hours, by a forecaster that knows their expectation."""
    return judged(*office_hours())


def is_blocked(board: Scoreboard) -> bool:
    """Whether a model is blocked, after a check that words and gate agree."""
    found, reason = verdict(board), shortfall(board, 0.0)
    assert (found.tone == "good") == found.words.startswith("Worth scaling on") == (reason is None)
    assert found.words in summary(board)
    return reason is not None


@pytest.mark.parametrize("intervals", [True, False])
@pytest.mark.parametrize("density", DENSITIES)
def test_a_forecast_of_no_traffic_is_blocked_and_called_so(density: float, intervals: bool) -> None:
    board = judged(bursts(density), np.zeros((1, 1)), intervals)
    assert is_blocked(board)
    assert board.skill.best_baseline == "always zero"
    words = verdict(board).words
    assert words.startswith("Do not scale on it: it forecasts no traffic at all (bias -100.0%)")
    assert "leaves" in words
    assert "of the load unserved (a reactive scaler" in words
    assert unfit(board) in words
    assert unfit(board) == shortfall(board, 0.0) == shortfall(board, -9.0)


def test_the_report_says_it_in_every_file(tmp_path: Path) -> None:
    board = judged(bursts(0.05), np.zeros((1, 1)))
    publish(board, tmp_path, artifact="model", source="a test", seed=0)
    found = verdict(board)
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["verdict"] == {"tone": "bad", "words": found.words, "unfit": unfit(board)}
    table = board.orders.simulation.table
    assert document["capacity"]["policies"][JUDGED] == table.loc[JUDGED].to_dict()
    page = (tmp_path / "report.html").read_text()
    assert found.words in page
    assert "kforecast-replay artifact_dir=... policy.manifest=hpa.yaml" in page
    models = pd.read_csv(tmp_path / "scores.csv")["model"].unique().tolist()
    assert models[-2:] == ["training mean", "always zero"]


def test_a_naive_forecast_that_would_serve_better_is_named_with_both_errors(good: Scoreboard) -> None:
    assert better_naive(good) is None
    # A daily cycle that grows, at a level that rises: the model repeats the day before.
    days = np.arange(BINS) / DAY
    values = np.stack([100 + 20 * days + (50 + days) * np.sin(2 * np.pi * days)])
    board = judged(values, shifted(values, DAY))
    words = better_naive(board)
    assert board.skill.best_baseline == "last value plus daily difference"
    assert words is not None
    assert words.startswith("'last value plus daily difference', which needs no training, would serve")
    errors = board.scores[(board.scores["step"] == "all") & (board.scores["workload"] == "*")]
    wape = errors.set_index("model")["wape"]
    assert words.endswith(f"is {wape[board.skill.best_baseline]:.2%}, the model's {board.model['wape']:.2%}")
    assert "(last value plus daily difference)" in verdict(board).words


def test_no_baseline_without_a_forecast_is_advised() -> None:
    # 'always zero' is best here, and no autoscaler could use it.
    board = judged(bursts(0.01), np.zeros((1, 1)))
    assert board.skill.best_baseline == "always zero"
    assert better_naive(board) is None


@pytest.mark.parametrize("density", DENSITIES)
def test_forecasts_of_what_nobody_can_know_are_blocked(density: float) -> None:
    values = bursts(density)
    for says in (values.mean(axis=1, keepdims=True), np.full((1, 1), 0.01), shifted(values, 1)):
        assert is_blocked(judged(values, says))


def test_bursts_at_known_moments_pass() -> None:
    rng = np.random.default_rng(1)
    expected = np.where(rng.random((2, BINS)) < 0.1, 50.0, 0.0)
    values = expected * rng.uniform(0.8, 1.2, (2, BINS))
    assert not is_blocked(judged(values, expected))


def test_office_hours_pass_with_a_forecast_of_their_expectation_alone(good: Scoreboard) -> None:
    assert not is_blocked(good)
    assert unfit(good) is None
    words = verdict(good).words
    assert "Max(reactive, forecast) at quantile 0.909 costs" in words
    assert "less than reactive alone (95% interval of the saving" in words
    values, expected = office_hours()
    for says in (np.zeros((1, 1)), values.mean(axis=1, keepdims=True), expected * 0.3):
        assert is_blocked(judged(values, says))


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=[pytest.mark.slow] if seed > 2 else []) for seed in range(5)]
)
def test_random_walks_are_blocked_and_seasonal_traffic_passes(seed: int) -> None:
    walk = random_walk(seed)
    # Nobody knows values that are younger than the horizon.
    for says in (shifted(walk, 3), (shifted(walk, 3) + shifted(walk, 4)) / 2):
        assert is_blocked(judged(walk, says))
    rng = np.random.default_rng(seed)
    growth = 1 + np.arange(BINS) / BINS
    expected = growth * (50 + 30 * np.sin(2 * np.pi * np.arange(BINS) / DAY) * [[1.0], [0.5]])
    assert not is_blocked(judged(expected * (1 + 0.1 * rng.standard_normal((2, BINS))), expected))


def test_a_low_error_with_orders_that_cost_more_is_blocked() -> None:
    values, expected = office_hours()
    # Unserved load costs next to nothing, so that more pods than the newest load needs do not pay.
    board = judged(values, expected, intervals=False, cost_under=0.1)
    assert board.skill.low > 0
    assert board.saving.high < 0
    assert is_blocked(board)
    words = verdict(board).words
    assert words.startswith("Do not scale on it: its error is")
    assert "but max(reactive, forecast) at the point forecast costs" in words
    assert "more than reactive alone" in shortfall(board, 0.0)
    # Pods that start at once need no forecast either.
    quick = judged(values, expected, lead_time=0)
    assert is_blocked(quick)
    assert "kforecast-replay searches the target and the quantile that would pay" in verdict(quick).words


def test_where_every_policy_orders_the_same_nothing_is_proven() -> None:
    values, expected = office_hours()
    board = judged(values, expected, per_replica=1e6)
    assert board.saving.value == board.saving.high == 0
    assert is_blocked(board)
    words = verdict(board).words
    assert words.startswith("Not proven: its error is")
    assert "costs exactly as much as reactive alone" in words
    assert "chance" not in words


def test_without_an_order_in_the_span_nothing_is_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    values, expected = office_hours()
    monkeypatch.setattr(short_form, "MOST_DAYS", 1)
    board = judged(values, expected, lead_time=86_400)
    assert board.orders.simulation is None
    assert is_blocked(board)
    assert "no order takes effect within the judged span" in verdict(board).words
    assert "capacity.lead_time" in shortfall(board, 0.0)


def test_series_without_traffic_before_the_span_are_sized_by_the_span_and_a_note_says_so() -> None:
    values, expected = office_hours()
    values[:, :BEGIN] = 0
    # Calibrated on silence: the forecast itself is ordered.
    board = judged(values, expected, intervals=False)
    assert any("2 of 2 series have no traffic before the span" in note for note in caveats(board))
    assert not is_blocked(board)


def test_useless_forecasts_of_a_few_series_are_named() -> None:
    values = np.concatenate([office_hours(0)[0], office_hours(1)[0], bursts(0.05, series=1)])
    says = np.concatenate([office_hours()[1], office_hours()[1], np.zeros((1, BINS))])
    board = judged(values, says)
    assert not is_blocked(board)
    assert "Note: For 1 of 5 series it forecasts less than half of the traffic" in summary(board)
    assert caveats(board)[0].endswith(": fn/4 qps.")
    half = judged(values[1:5:3], says[1:5:3])
    assert is_blocked(half)
    assert "no traffic at all for 1 of 2 series" in verdict(half).words


def test_a_doubt_about_the_history_blocks_a_good_model(good: Scoreboard) -> None:
    doubtful = replace(good, doubts=("fn/0 qps looks like a raw counter: use rate(...)",))
    assert is_blocked(doubtful)
    assert verdict(doubtful).words == "Do not scale on it: fn/0 qps looks like a raw counter: use rate(...)."
    assert verdict(doubtful).unfit == shortfall(doubtful, 0.0) == doubtful.doubts[0]
    # It is said first, because scores on such a history mean nothing.
    bad = replace(judged(bursts(0.1), np.zeros((1, 1))), doubts=doubtful.doubts)
    assert verdict(bad).words == verdict(doubtful).words


def test_a_champion_is_not_replaced_by_a_forecast_of_no_traffic() -> None:
    values = bursts(0.05)
    panel = panel_of(values)
    champion = handmade(panel, values.mean(axis=1, keepdims=True))
    span, rules = Span(BEGIN, BINS), Capacity()
    boards = [
        judge(handmade(panel, says), panel, span, BacktestSettings(), rules, champion=Champion(champion))
        for says in (np.zeros((1, 1)), 0.9 * values)
    ]
    assert all(board.comparison.skill.low > 0.01 for board in boards)
    assert "it forecasts no traffic at all" in champion_shortfall(boards[0], 0.01)
    assert champion_shortfall(boards[1], 0.01) is None


def test_implausible_quantiles_are_not_advised(good: Scoreboard) -> None:
    values, expected = office_hours()
    panel = panel_of(values)
    wide = replace(handmade(panel, expected), spread=40.0)
    # Intervals of earlier versions have no limit.
    unlimited = {key: replace(own, peak=np.inf) for key, own in wide.intervals.series.items()}
    wide = replace(wide, intervals=replace(wide.intervals, series=unlimited))
    board = judge(
        wide, panel, Span(BEGIN, BINS), BacktestSettings(levels=QUANTILES), Capacity(cost_under=999.0)
    )
    at_the_top = board.backtest.quantiles_at([0.99])
    assert at_the_top.max() > 2 * values.max()
    assert "exceed twice the largest value ever seen: do not scale on it." in summary(board)
    assert "exceed twice" not in summary(good)


def test_a_trace_of_a_forecast_where_there_is_no_traffic_is_no_implausible_quantile() -> None:
    """Fcnet forecasts about 1e-11 for a context of zeros."""
    values, expected = office_hours()
    board = judged(np.vstack([values, 0 * values[:1]]), np.vstack([expected, np.full((1, BINS), 1e-11)]))
    assert "exceed twice" not in summary(board)


@given(
    st.tuples(*[st.floats(-2, 1) | st.just(NAN)] * 3),
    st.tuples(*[st.floats(-2, 1) | st.just(NAN)] * 3),
    st.booleans(),
    st.lists(st.sampled_from([-0.5, 0.0, 0.1, 0.9]), min_size=1),
)
@settings(deadline=None, max_examples=50)
def test_words_and_gate_agree_whatever_the_numbers(
    good: Scoreboard,
    skill: tuple[float, ...],
    saved: tuple[float, ...],
    doubtful: bool,
    required: list[float],
) -> None:
    board = replace(
        good,
        skill=Skill(*skill, "last value", 144, 9),
        saving=Skill(*saved, REACTIVE, 144, 9),
        doubts=("the history is odd",) * doubtful,
    )
    passes = shortfall(board, 0.0) is None
    assert passes == (verdict(board).tone == "good")
    assert passes == (skill[1] > 0 and saved[1] > 0 and not math.isnan(skill[0]) and not doubtful)
    reached = [level for level in required if shortfall(board, level) is None]
    # Whoever passes a gate passes all lower ones.
    assert all(shortfall(board, level) is None for level in required if reached and level < max(reached))


def test_the_saving_by_hand() -> None:
    cost, rival = np.array([1.0, 2, 9, 3]), np.array([2.0, 8, 9, 2])
    found = saving(cost, rival, np.array([True, True, False, True]), block=2)
    assert found.value == pytest.approx(1 - 6 / 12)
    assert (found.best_baseline, found.blocks) == (REACTIVE, 2)
    assert math.isnan(found.low)
    assert math.isnan(saving(cost, np.zeros(4), np.ones(4, bool), block=1).value)


def test_the_saving_is_that_of_the_simulated_costs(good: Scoreboard) -> None:
    cost = good.orders.simulation.table["cost"]
    assert good.orders.quantile_words == "quantile 0.909"
    assert good.saving.value == pytest.approx(1 - cost[JUDGED] / cost[REACTIVE])
    assert good.saving.low < good.saving.value < good.saving.high
    assert good.as_dict()["capacity"]["saving"]["value"] == good.saving.value


def test_without_any_board_nothing_passes() -> None:
    assert shortfall(None, -9.0) == "nothing to judge the model on"
    assert champion_shortfall(None, 0.0) == "nothing to compare the candidate and the champion on"
