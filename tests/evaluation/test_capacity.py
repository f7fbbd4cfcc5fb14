"""The short form of a replay: the same simulation with the forecasts of a backtest, capped and said."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

from kforecast.autoscaling.hpa import HpaPolicy
from kforecast.config.checks import CONF_DIR
from kforecast.data.panel import Panel
from kforecast.evaluation import capacity as short_form
from kforecast.evaluation.backtest import BacktestSettings, Span, backtest
from kforecast.evaluation.capacity import JUDGED, order
from kforecast.evaluation.report.words import capacity_words, summary
from kforecast.evaluation.scoreboard import QUANTILES, judge
from kforecast.evaluation.verdict import shortfall, verdict
from kforecast.following import WindowForecasts
from kforecast.models.fcnet import Fcnet
from kforecast.predictor import Predictor
from kforecast.replay.recommend import Aim, Grid
from kforecast.replay.study import Model, Part, Plan, outcomes_of
from kforecast.simulation import simulation as simulation_module
from kforecast.simulation.capacity import Capacity
from kforecast.simulation.drivers import usual_drivers
from kforecast.simulation.load import Load
from kforecast.simulation.outcomes import Prices
from kforecast.simulation.service import Service
from kforecast.simulation.simulation import Signal
from kforecast.window import Frequency, Window

pytestmark = pytest.mark.usefixtures("drawn")
START = 1_699_833_600  # a Monday
COLUMNS = [
    *("under_minutes", "unserved", "unserved_share", "busy_minutes", "replica_hours", "idle", "over_share"),
    *("scalings", "cost"),
]


class Knowing(Predictor):
    """Forecasts the traffic that comes, a little wrong; each step and each origin is wrong in its own way."""

    def forecast_windows(self, panel, series, origin, **_):
        at = origin[:, None] + np.arange(self.window.prediction_length)
        wrong = 1 + 0.05 * np.sin(at * 1.7 + origin[:, None])
        known = panel.values[series[:, None], np.minimum(at, panel.num_bins - 1)]
        values = (known * wrong).astype(np.float32)
        return WindowForecasts(values, np.maximum(values, 1), {}, np.full(len(series), np.inf, np.float32))


def made(series=2, days=9, freq="10min", horizon=3, intervals=True, gaps=False):
    """Traffic with a daily cycle, and a predictor that is calibrated on all days but the newest two."""
    frequency = Frequency.parse(freq)
    day = 86_400 // frequency.step
    bins = days * day
    rng = np.random.default_rng(4)
    level = rng.uniform(50, 200, (series, 1))
    values = level * (1 + 0.6 * np.sin(2 * np.pi * np.arange(bins) / max(day, 7)))
    values = (values * rng.lognormal(0, 0.1, values.shape)).astype(np.float32)
    observed = np.ones(values.shape, bool)
    if gaps:
        observed[0, -day // 2 : 2 - day // 2] = False  # no context is lost
    names = tuple((f"w{row:03}", "qps") for row in range(series))
    panel = Panel(values, observed, START, frequency, names)
    window = Window(frequency, 6, horizon)
    knowing = Knowing(window, panel.item_ids, "zero", Fcnet(window, series).eval())
    begin = bins - 2 * day
    return panel, knowing.calibrated(panel, 10, begin) if intervals else knowing, Span(begin, bins)


def backtested(stride=1, **changes):
    panel, predictor, span = made(**changes)
    return backtest(predictor, panel, span, BacktestSettings(stride, levels=QUANTILES))


def judged(capacity=None, levels=QUANTILES, **changes):
    panel, predictor, span = made(**changes)
    return judge(predictor, panel, span, BacktestSettings(levels=levels), capacity or Capacity())


@pytest.fixture(scope="module")
def board():
    return judged()


@pytest.mark.parametrize("intervals", [True, False])
def test_it_is_the_simulation_of_kforecast_replay(monkeypatch, intervals):
    monkeypatch.setattr(short_form, "MOST_DAYS", 1)
    limits = {"min_replicas": 2, "max_replicas": 14}
    capacity = Capacity(lead_time=420, interval=30, headroom=0.25, cost_under=4.0, **limits)
    found = backtested(intervals=intervals, gaps=True)
    mine = order(found, capacity, seed=7).simulation
    panel = found.panel
    begin, stop = mine.begin, mine.stop
    assert (begin, stop) == (panel.num_bins - 146, panel.num_bins - 2)

    each = panel.values[:, : found.begin].mean(axis=1, dtype=np.float64) / 10
    held = panel.values.copy()
    gap = ~panel.observed[0]
    held[0, gap] = held[0, np.flatnonzero(gap)[0] - 1]
    load = Load(held, panel.observed, panel.start, 600, 0.1, 7, np.arange(2))
    plan = Plan(
        models=[Model("model", found.predictor, panel)],
        load=load,
        capacity=each,
        share=np.full(2, 1 / 1.25),
        policy=HpaPolicy(interval=30, **limits),
        kind="value_per_pod_total",
        metric="load",
        units=np.full(2, 1000.0),
        service=Service(start=420),
        signal=Signal(),
        prices=Prices(4.0, 1.0),
        settle=15,
        grid=Grid(1, [], [1.0], [None]),
        aim=Aim(),
        bounds=(panel.seconds(begin), panel.seconds(begin), panel.seconds(stop)),
        seed=7,
    )
    question = short_form.Question(0.8 if intervals else None, 450)
    part = Part(usual_drivers(), [question], begin, stop, "")
    theirs = outcomes_of(plan, part, np.arange(2))
    np.testing.assert_array_equal(mine.outcomes.counts, theirs.counts)
    np.testing.assert_array_equal(mine.outcomes.load, theirs.load)
    of_drivers = theirs.of_drivers(plan.prices).set_index("driver")
    assert mine.table["cost"].to_dict() == of_drivers["cost"].to_dict()
    assert mine.table["over_share"].to_dict() == of_drivers["idle_share"].to_dict()


def test_its_assumptions_are_the_defaults_of_kforecast_replay():
    content = yaml.safe_load((CONF_DIR / "replay.yaml").read_text(encoding="utf-8"))["replay"]
    assert (content["variability"], content["settle"]) == (short_form.VARIABILITY, short_form.SETTLE)
    assert Signal() == Signal(delay=content["delay"], window=content["average"])
    names = ("start_spread", "drain", "unserved", "queue_seconds", "busy")
    assert Service() == Service(**{name: content[name] for name in names})


def test_the_table_the_series_and_the_bins_add_up(board):
    simulation = board.orders.simulation
    table, series = simulation.table, simulation.by_series
    assert list(table.columns) == COLUMNS
    assert list(table.index) == [driver.name for driver in usual_drivers()]
    sums = series.groupby("policy", sort=False)[["unserved", "replica_hours", "scalings", "cost"]].sum()
    pd.testing.assert_frame_equal(sums, table[sums.columns], check_names=False, check_dtype=False)
    np.testing.assert_allclose(simulation.cost.sum(axis=0), table["cost"])
    # The drawn service's mean pods per bin lie within its limits.
    assert (simulation.bins.serving >= 1).all()
    hours = simulation.bins.serving.sum(axis=0) * 600 / 3600
    drawn = series[series["series"] == simulation.rows[simulation.drawn]]["replica_hours"].to_numpy()
    # Pods that start or drain are paid for, and do not serve.
    assert (hours <= drawn).all()
    np.testing.assert_allclose(hours, drawn, rtol=0.1)
    assert table["cost"].idxmin() == "perfect knowledge"


def test_the_saving_is_that_of_the_table(board):
    cost = board.orders.simulation.table["cost"]
    assert board.saving.value == pytest.approx(1 - cost[JUDGED] / cost["reactive"])
    assert board.saving.low < board.saving.value < board.saving.high
    assert f"{abs(board.saving.value):.1%}" in verdict(board).words


def test_the_load_moves_inside_bins_by_the_seed():
    found = backtested()
    one, same, other = (order(found, Capacity(), seed).simulation.table for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, same)
    assert not one.equals(other)


def test_a_forecast_counts_until_the_next_one_is_made():
    found = backtested(stride=2, intervals=False, horizon=3)
    simulation = order(found, Capacity(lead_time=600)).simulation
    (served,) = simulation.services.forecasts
    panel, begin = found.panel, found.begin
    made = {
        (row, bin_): values
        for row, bin_, values in zip(found.series, found.origin, found.forecasts["kforecast"], strict=True)
    }
    # A minute into a bin the newest forecast is ready; the lead, 615 s, reaches into the next bin.
    for bin_, steps in ((begin, slice(0, 2)), (begin + 1, slice(1, 3)), (begin + 2, slice(0, 2))):
        origin = bin_ - steps.start
        answer = served.at(np.array([panel.seconds(bin_) + 60]))[0]
        expected = [made[row, origin][steps].max() for row in range(2)]
        np.testing.assert_array_equal(answer, expected)


def test_beyond_the_horizon_there_is_a_note():
    (note,) = order(backtested(stride=5), Capacity()).notes
    assert note.startswith("Pods that are ordered now serve up to 2,715 s later")
    assert "forecasts reach 1,800 s" in note
    (note,) = order(backtested(horizon=1), Capacity(lead_time=900)).notes
    assert "forecasts reach 600 s" in note
    assert order(backtested(), Capacity()).notes == ()


def test_a_forecast_of_one_step_says_nothing_until_the_next_one_is_ready():
    found = backtested(horizon=1)
    (served,) = order(found, Capacity()).simulation.services.forecasts
    begins = found.panel.seconds(found.begin + 9)
    assert np.isnan(served.at(np.array([begins]))).all()
    assert np.isfinite(served.at(np.array([begins + 15]))).all()


def test_headroom_is_room_above_the_load_for_every_driver_that_follows_it():
    found = backtested()
    plain, more = (order(found, Capacity(headroom=headroom)).simulation.table for headroom in (0.0, 0.5))
    ratio = more["replica_hours"] / plain["replica_hours"]
    for driver in ("reactive", "forecast alone", JUDGED):
        assert ratio[driver] == pytest.approx(1.5, rel=0.05)
        assert more["unserved"][driver] < plain["unserved"][driver]
    assert ratio["perfect knowledge"] == pytest.approx(1, rel=1e-3)  # it begins with other pods


def test_an_interval_makes_fewer_decisions():
    found = backtested()
    simulation = order(found, Capacity(interval=3600)).simulation
    hours = (simulation.stop - simulation.begin) / 6
    scalings = simulation.table["scalings"].drop("perfect knowledge")
    assert (scalings <= 2 * hours).all()
    assert (order(found, Capacity()).simulation.table["scalings"][scalings.index] > scalings).all()


def test_a_load_far_above_the_limit_takes_no_more_memory(monkeypatch):
    # Perfect knowledge has a lane for every pod that can be ordered, not for every pod that the load needs.
    lanes = []
    real = simulation_module.worthwhile

    def counted(demand, *rest):
        lanes.append(demand.max())
        return real(demand, *rest)

    monkeypatch.setattr(simulation_module, "worthwhile", counted)
    monkeypatch.setattr(short_form, "MOST_DAYS", 1)
    table = order(backtested(), Capacity(per_replica=0.01, max_replicas=50)).simulation.table
    assert max(lanes) <= 50
    assert (table["unserved_share"] > 0.99).all()


def test_large_fleets_and_long_spans_are_shown_in_part(monkeypatch):
    monkeypatch.setattr(short_form, "MOST_SERIES", 3)
    monkeypatch.setattr(short_form, "MOST_DAYS", 1)
    board = judged(series=9)
    simulation = board.orders.simulation
    assert simulation.rows.tolist() == [1, 4, 7]
    assert simulation.stop - simulation.begin == 144
    assert "3 of 9 series, 2023-11-20 23:40 to 2023-11-21 23:30 UTC, in steps of 15 s" in summary(board)
    assert len(board.as_dict()["capacity"]["series"]) == 3 * len(usual_drivers())


def test_days_are_not_simulated_and_that_is_said_once():
    board = judged(freq="1D", days=80, horizon=1)
    assert board.orders.simulation is None
    assert capacity_words(board) == (
        "Replicas: bins of 1D are longer than 1H, so replicas are not simulated."
    )
    assert "scales on" not in summary(board)
    content = board.as_dict()["capacity"]
    assert (content["policies"], content["series"]) == ({}, [])
    assert content["lacking"] == "bins of 1D are longer than 1H, so replicas are not simulated"
    # The verdict rests on the error alone, and says so.
    good = replace(board, skill=replace(board.skill, value=0.5, low=0.4, high=0.6))
    assert shortfall(good, 0.0) is None
    assert verdict(good).words.endswith("Bins of 1D are longer than 1H, so replicas are not simulated.")


def test_a_span_within_the_lead_proves_nothing():
    short = order(backtested(days=3, horizon=150), Capacity(lead_time=86_400))
    assert short.simulation is None
    assert short.possible
    assert "lower capacity.lead_time" in short.lacking


def test_without_quantiles_the_point_forecast_is_scaled_on(board):
    assert board.orders.question.level == pytest.approx(10 / 11)
    plain = judged(levels=())
    assert plain.orders.question.level is None
    assert "The forecast is the point forecast over the next 315 s" in capacity_words(plain)
    assert "The forecast is quantile 0.909 over the next 315 s" in capacity_words(board)
    assert "kforecast-replay artifact_dir=... policy.manifest=hpa.yaml" in capacity_words(board)
