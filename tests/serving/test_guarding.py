"""A server with a guard: what it withdraws, how it says so, and that a restart knows it too."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from untrained import HOUR, SERIES, START, rows_of, save

from kforecast.artifact import Artifact, EstimatorConfig
from kforecast.intervals import LEVELS, Intervals
from kforecast.metrics.frame import FrameSource
from kforecast.models import Fcnet
from kforecast.serving.board import AskDefaults, Board
from kforecast.serving.engine import Engine
from kforecast.serving.exposition import Exposition
from kforecast.serving.feed import Feed
from kforecast.serving.model import Model
from kforecast.serving.page import page
from kforecast.serving.snapshot import NothingHonestError
from kforecast.shadow import GuardSettings

SETTLE = 15.0
NOW = START + 40 * 86_400 + 12 * HOUR + 60.0
BAD, GOOD = SERIES


class Shop:
    """A server at a moment. Its forecasts are judged as they are served."""

    def __init__(
        self,
        folder: Path,
        rows: pd.DataFrame,
        now: float = NOW,
        *,
        guard: bool = True,
        events: Path | None = None,
    ) -> None:
        self.now, self.rows = now, rows
        self.board = Board(AskDefaults("forecast", 0.9, None), lambda: self.now)
        settings = GuardSettings("forecast", 0.9) if guard else None
        feed = Feed(FrameSource(rows, any_time=True))
        self.engine = Engine(self.board, Model(folder, events=events), feed, SETTLE, [0.9], settings)
        self.step()

    def step(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.engine.next_attempt = 0.0
        self.engine.step()
        assert self.board.snapshot is not None, self.board.reason

    @property
    def withdrawn(self) -> dict[tuple[str, str], str]:
        snapshot = self.board.snapshot
        assert snapshot is not None
        assert snapshot.withdrawn is not None
        return {snapshot.series[row]: cause for row, cause in snapshot.withdrawn.items()}

    def refusal(self) -> str:
        with pytest.raises(NothingHonestError) as caught:
            self.board.ask(*BAD)
        return str(caught.value)

    def metrics(self) -> list[str]:
        exposition = Exposition(self.board, [0.9])
        return asyncio.run(exposition.render()).decode().splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "model", origins=120)


@pytest.fixture(scope="module")
def dear(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact whose quantiles are far too high, for one of the series alone."""
    model = Artifact.load(folder)
    assert model.intervals is not None
    key = "".join(BAD)
    offsets = np.tile(np.linspace(-1, 40, model.intervals.pooled.shape[1]), (4, 1))
    series = dict(model.intervals.series)
    series[key] = replace(series[key], floor=100.0, offsets=offsets, peak=1e6)
    found = tmp_path_factory.mktemp("dear") / "model"
    replace(model, intervals=replace(model.intervals, series=series)).save(found)
    return found


def test_a_forecast_that_helps_is_served(folder: Path) -> None:
    shop = Shop(folder, rows_of(100.0, 0))
    assert shop.withdrawn == {}
    assert shop.board.ask(*BAD).value > 0
    assert 'kforecast_guard{metric="qps",state="served",workload="shop/a"} 1.0' in shop.metrics()


def test_a_forecast_that_costs_too_much_is_withdrawn_everywhere(dear: Path) -> None:
    shop = Shop(dear, rows_of(100.0, 0))
    assert shop.withdrawn == {BAD: "worse"}
    assert shop.board.ask(*GOOD).value > 0, "each series has its own evidence"
    assert "withdrawn by the guard since 2024-02-" in shop.refusal()
    assert "costs more than scaling on the newest observation" in shop.refusal()
    lines = shop.metrics()
    assert 'kforecast_guard{metric="qps",state="worse",workload="shop/a"} 1.0' in lines
    assert 'kforecast_guard{metric="qps",state="served",workload="shop/b"} 1.0' in lines
    forecasts = [line for line in lines if line.startswith("kforecast_forecast{")]
    assert forecasts
    assert not any('workload="shop/a"' in line for line in forecasts), "absent, so that ?? goes on"
    text = page(shop.board)
    assert "The guard has withdrawn the forecasts of 1 series." in text
    assert "withdrawn by the guard since" in text


def test_a_restart_knows_the_same_withdrawals(dear: Path) -> None:
    rows = rows_of(100.0, 0)
    running = Shop(dear, rows, NOW - 30 * HOUR)
    for _ in range(30):
        running.step(HOUR)
    restarted = Shop(dear, rows)
    assert running.withdrawn == restarted.withdrawn == {BAD: "worse"}


def test_without_a_guard_all_is_as_before(dear: Path) -> None:
    shop = Shop(dear, rows_of(100.0, 0), guard=False)
    assert shop.board.snapshot is not None
    assert shop.board.snapshot.withdrawn is None
    assert shop.board.ask(*BAD).value > 0
    assert not any("kforecast_guard" in line for line in shop.metrics())


@pytest.fixture(scope="module")
def mean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact of a network that forecasts the mean of the context, within a quarter."""
    config = EstimatorConfig("1H", 4, 6, 2)
    net = Fcnet(config.window, 2)
    with torch.no_grad():
        net.lc.weight.zero_()
        net.lc.bias.fill_(1.0)
    ids = {"".join(pair): number for number, pair in enumerate(SERIES)}
    intervals = Intervals(np.tile(np.linspace(-0.25, 0.25, len(LEVELS)), (4, 1)), {})
    found = tmp_path_factory.mktemp("mean") / "model"
    Artifact(config, ids, net.artifact_state(), {"fill": "zero"}, intervals).save(found)
    return found


def test_a_value_out_of_every_range_withdraws_at_once_and_proof_brings_it_back(mean: Path) -> None:
    rows = rows_of(100.0, 0)
    hours = rows["timestamp"] // HOUR
    # Each hour is around 100 anew: the mean of some hours helps.
    noise = np.random.default_rng(5).normal(0, 8, int(hours.max() - hours.min()) + 1)
    rows["value"] = 100 + noise[hours - hours.min()]
    settled = (NOW - SETTLE) // HOUR * HOUR
    mine = (rows["workload"] == BAD[0]) & rows["timestamp"].between(settled - HOUR, settled - 1)
    rows.loc[mine, "value"] *= 20
    shop = Shop(mean, rows, NOW - HOUR)
    assert shop.withdrawn == {}
    shop.step(HOUR)
    assert shop.withdrawn == {BAD: "above"}
    assert "left the range that any forecast allowed for" in shop.refusal()
    assert Shop(mean, rows).withdrawn == shop.withdrawn
    for _ in range(8):
        shop.step(6 * HOUR)
        if not shop.withdrawn:
            break
    assert shop.withdrawn == {}
    assert shop.board.ask(*BAD).value > 0


def test_a_withdrawal_outlives_the_forecasts_that_are_judged(dear: Path) -> None:
    shop = Shop(dear, rows_of(100.0, 0))
    since = shop.engine.live.withdrawn[BAD].since
    # Silence is no proof, however long it lasts.
    shop.rows.loc[
        (shop.rows["workload"] == BAD[0]) & (shop.rows["timestamp"] >= shop.now - HOUR), "value"
    ] = np.nan
    shop.engine.live.withdrawn[BAD] = replace(shop.engine.live.withdrawn[BAD], since=since - 1000 * HOUR)
    shop.step(HOUR)
    assert shop.engine.live.withdrawn[BAD].since == since - 1000 * HOUR


def test_forecasts_from_sparse_contexts_are_no_evidence(dear: Path) -> None:
    rows = rows_of(100.0, 0)
    # One hour in five is known: no context is known by half.
    rows.loc[(rows["workload"] == BAD[0]) & (rows["timestamp"] // HOUR % 5 > 0), "value"] = np.nan
    assert Shop(dear, rows).withdrawn == {}


def test_a_known_event_is_no_reason_and_a_restart_within_it_changes_nothing(
    mean: Path, tmp_path: Path
) -> None:
    rows, file = rows_of(100.0, 0), tmp_path / "events.csv"
    hours = rows["timestamp"] // HOUR
    noise = np.random.default_rng(5).normal(0, 8, int(hours.max() - hours.min()) + 1)
    rows["value"] = 100 + noise[hours - hours.min()]
    settled = int((NOW - SETTLE) // HOUR * HOUR)
    begin, end = settled - 6 * HOUR, settled + 3 * HOUR
    rows.loc[(rows["workload"] == BAD[0]) & rows["timestamp"].between(begin, end - 1), "value"] *= 20
    head = "start,end,workload,name,factor\n"
    event = f"{begin},{end},{BAD[0]},sale,20\n"
    file.write_text(head + event)
    shop = Shop(mean, rows, NOW - 12 * HOUR, events=file)
    served = {}
    for _ in range(20):
        shop.step(HOUR)
        assert shop.withdrawn == {}
        answer = shop.board.ask(*BAD, lead=0.0)
        served[answer.begin] = answer.forecast
        again = Shop(mean, rows, shop.now, events=file)
        assert again.withdrawn == {}
        assert again.board.ask(*BAD, lead=0.0).forecast == pytest.approx(answer.forecast, rel=1e-6)
    for second, forecast in served.items():
        assert 60 < forecast / (20 if begin <= second < end else 1) < 150
    for broken in ("no events", None):
        file.unlink() if broken is None else file.write_text(broken)
        shop.engine.next_artifact = 0.0
        shop.step(HOUR)
        assert shop.board.refused_events
        assert shop.withdrawn == {}
        assert shop.board.ask(*BAD).value < 200
    soon = answer.origin + 3 * HOUR
    file.write_text(f"{head}{event}{soon},{soon + HOUR},{BAD[0]},flash,10\n")
    shop.engine.next_artifact = 0.0
    shop.step(HOUR)
    assert not shop.board.refused_events
    assert shop.board.ask(*BAD).value > 800
    assert shop.board.ask(*GOOD).value < 200
