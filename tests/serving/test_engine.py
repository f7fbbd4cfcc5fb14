"""The engine: new bins in, honest snapshots out, whatever the source, the artifact and the clock do."""

import shutil
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from untrained import HOUR, SERIES, START, rows_of, save

from kforecast.errors import SourceError
from kforecast.forecaster import Forecaster
from kforecast.serving.board import AskDefaults, Board
from kforecast.serving.engine import Engine
from kforecast.serving.feed import Feed, Shard
from kforecast.serving.model import Model
from kforecast.serving.snapshot import NothingHonestError, UnknownSeriesError
from kforecast.window import Window

SETTLE = 15.0


@dataclass
class Source:
    """Rows that arrive as time goes, and failures on demand."""

    rows: pd.DataFrame
    failing: str = ""
    repeatable: bool = True
    reads: list[tuple[int, int]] = field(default_factory=list)

    def fetch(self) -> pd.DataFrame:
        if self.failing:
            raise SourceError(self.failing)
        return self.rows


class Reads(Feed):
    """A feed that remembers the ranges."""

    def read(
        self, start: int, end: int, only: Collection[tuple[str, str]] | None = None
    ) -> tuple[pd.DataFrame, dict[tuple[str, str], str]]:
        self.source.reads.append((start, end))
        return super().read(start, end, only)


@dataclass
class Clock:
    now: float

    def __call__(self) -> float:
        return self.now


@dataclass
class Shop:
    """An engine at noon of the fortieth day."""

    folder: Path
    rows: pd.DataFrame = field(default_factory=lambda: rows_of(100.0, 0))
    shard: Shard | None = None

    def __post_init__(self) -> None:
        self.clock = Clock(START + 40 * 86_400 + 12 * HOUR + 60.0)
        self.source = Source(self.rows)
        self.board = Board(AskDefaults("max", 0.9, None), self.clock)
        self.engine = Engine(self.board, Model(self.folder), Reads(self.source, self.shard), SETTLE, [0.9])

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.step()

    def step(self) -> None:
        self.engine.next_attempt = self.engine.next_artifact = 0.0
        self.engine.step()

    def expected(self) -> pd.DataFrame:
        """The same forecast by other means: from a frame, at the moment of the clock."""
        settled = (self.clock.now - SETTLE) // HOUR * HOUR
        known = self.source.rows[self.source.rows["timestamp"] < settled]
        return Forecaster.load(self.folder).forecast(known, at=settled, quantiles=[0.9])

    def check(self) -> None:
        expected = self.expected()
        snapshot = self.board.snapshot
        assert snapshot is not None
        assert snapshot.origin == expected["timestamp"].min()
        for workload, metric in SERIES:
            answer = self.board.ask(workload, metric)
            mine = expected[expected["workload"] == workload]
            np.testing.assert_allclose(answer.forecast, mine["q0.9"].max(), rtol=1e-6)
            assert answer.value == max(answer.forecast, answer.observed)
            assert answer.artifact == snapshot.artifact


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    made = Shop(save(tmp_path / "model"))
    made.step()
    return made


def test_each_new_bin_gives_the_numbers_of_an_independent_forecast(shop: Shop) -> None:
    shop.check()
    for _ in range(5):
        shop.pass_time(HOUR)
        shop.check()
    first, *later = shop.source.reads
    assert first[1] - first[0] > 20 * 86_400, "all history once"
    assert all(end - start <= 8 * HOUR for start, end in later), "then only what is new"


def test_a_restart_gives_the_same_numbers(shop: Shop) -> None:
    for _ in range(3):
        shop.pass_time(HOUR)
    other = Shop(shop.folder)
    other.clock.now = shop.clock.now
    other.step()
    for pair in SERIES:
        np.testing.assert_allclose(other.board.ask(*pair).value, shop.board.ask(*pair).value, rtol=1e-6)


def test_within_a_bin_nothing_is_read(shop: Shop) -> None:
    count = len(shop.source.reads)
    shop.pass_time(HOUR / 2)
    assert len(shop.source.reads) == count
    shop.check()


def test_late_rows_and_gaps_change_forecasts_as_a_restart_would(shop: Shop) -> None:
    now = int(shop.clock.now) // HOUR * HOUR
    whole = shop.source.rows
    late = (whole["workload"] == "shop/a") & (whole["timestamp"] >= now) & (whole["timestamp"] < now + HOUR)
    shop.source.rows = whole[~late]
    shop.pass_time(HOUR)
    assert shop.board.ask("shop/a", "qps").observed_end == now
    assert shop.board.ask("shop/b", "qps").observed_end == now + HOUR
    shop.check()
    shop.source.rows = whole
    shop.pass_time(HOUR)
    shop.check()


def test_a_series_that_comes_back_after_days_is_read_as_a_whole(shop: Shop) -> None:
    now = int(shop.clock.now) // HOUR * HOUR
    whole = shop.source.rows
    away = (whole["workload"] == "shop/a") & (whole["timestamp"] >= now + 600)
    shop.source.rows = whole[~away]
    for _ in range(12):
        shop.pass_time(HOUR)
    with pytest.raises(NothingHonestError, match="stale"):
        shop.board.ask("shop/a", "qps")
    shop.board.ask("shop/b", "qps")
    back = now + 12 * HOUR
    shop.source.rows = whole[~(away & (whole["timestamp"] < back))]
    shop.pass_time(HOUR)
    shop.check()


def test_a_source_that_fails_leaves_the_last_forecast_until_it_is_stale(shop: Shop) -> None:
    before = shop.board.snapshot
    shop.source.failing = "connection refused"
    shop.pass_time(HOUR)
    assert shop.board.snapshot is before
    assert shop.board.failures["fetch"] == 1
    assert "connection refused" in shop.board.reason
    assert shop.board.ask("shop/a", "qps").begin == before.starts[1]
    shop.pass_time(4 * HOUR)
    with pytest.raises(NothingHonestError, match="stale"):
        shop.board.ask("shop/a", "qps")
    shop.source.failing = ""
    shop.pass_time(0)
    shop.check()


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_moves(shop: Shop, hours: int) -> None:
    shop.pass_time(HOUR)
    shop.clock.now += hours * HOUR
    if hours < 0:
        with pytest.raises(NothingHonestError, match="clock"):
            shop.board.ask("shop/a", "qps")
    shop.step()
    shop.check()
    shop.pass_time(-hours * HOUR)
    shop.check()


def test_a_new_artifact_serves_after_it_was_checked(shop: Shop, tmp_path: Path) -> None:
    old = shop.board.snapshot
    assert old is not None
    shutil.rmtree(shop.folder)
    save(shop.folder, seed=1)
    shop.pass_time(1)
    new = shop.board.snapshot
    assert new is not None
    assert new.artifact != old.artifact
    shop.check()
    shutil.rmtree(shop.folder)
    save(shop.folder, 2, Window("1H", 8, 3))
    shop.pass_time(1)
    assert shop.board.snapshot is not None
    assert shop.board.snapshot.horizon == 3 * HOUR
    shop.check()


@pytest.mark.parametrize("damage", ["checkpoint", "gone", "other series"])
def test_a_bad_artifact_is_refused_and_the_old_one_stays(shop: Shop, damage: str) -> None:
    old = shop.board.ask("shop/a", "qps").artifact
    if damage == "gone":
        shutil.rmtree(shop.folder)
    elif damage == "checkpoint":
        (shop.folder / "checkpoint.pth").write_bytes(b"no weights")
    else:
        (shop.folder / "item2id.json").write_text("{}")
    shop.pass_time(1)
    assert shop.board.refused_artifact
    assert shop.board.ask("shop/a", "qps").artifact == old
    shop.pass_time(HOUR)
    assert shop.board.ask("shop/a", "qps").artifact == old
    assert shop.board.ask("shop/a", "qps").begin == shop.clock.now // HOUR * HOUR
    save(shop.folder, seed=3)
    shop.pass_time(1)
    assert not shop.board.refused_artifact
    assert shop.board.ask("shop/a", "qps").artifact != old
    shop.check()


def test_shards_share_out_the_series(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    served = []
    for number in range(3):
        part = Shop(folder, shard=Shard(number, 3))
        part.step()
        for pair in SERIES:
            try:
                served.append((pair, part.board.ask(*pair).value))
            except (UnknownSeriesError, NothingHonestError):
                continue
    whole = Shop(folder)
    whole.step()
    assert sorted(pair for pair, _ in served) == [*SERIES]
    for pair, value in served:
        np.testing.assert_allclose(value, whole.board.ask(*pair).value, rtol=1e-6)


def test_known_events_are_forecast_and_a_changed_file_is_read_again(shop: Shop) -> None:
    file = shop.folder.parent / "events.csv"
    begin = int(shop.clock.now) // HOUR * HOUR
    head = "start,end,workload,name,factor\n"
    file.write_text(f"{head}{begin},{begin + 4 * HOUR},shop/a,sale,3\n")
    usual = [shop.board.ask(*pair).forecast for pair in SERIES]
    shop.engine = Engine(shop.board, Model(shop.folder, events=file), Reads(shop.source), SETTLE, [0.9])
    shop.step()
    np.testing.assert_allclose(
        [shop.board.ask(*pair).forecast for pair in SERIES], np.multiply(usual, [3, 1])
    )
    file.write_text(f"{head}{begin},{begin + 4 * HOUR},*,sale,2\n")
    shop.step()
    np.testing.assert_allclose([shop.board.ask(*pair).forecast for pair in SERIES], np.multiply(usual, 2))
    file.write_text("start,end\n")
    shop.step()
    np.testing.assert_allclose([shop.board.ask(*pair).forecast for pair in SERIES], np.multiply(usual, 2))
    assert "no column workload" in shop.board.refused_events
    assert shop.board.failures["events"] == 1
    assert not shop.board.refused_artifact


def test_the_weights_of_the_package_serve_without_an_artifact(shop: Shop, tmp_path: Path) -> None:
    window, file = Window("1H", 12, 4), tmp_path / "events.csv"
    begin = int(shop.clock.now) // HOUR * HOUR
    file.write_text(f"start,end,workload,name,factor\n{begin},{begin + 4 * HOUR},shop/a,sale,3\n")
    model = Model(tmp_path / "none", events=file, window=window)
    shop.engine = Engine(shop.board, model, Reads(shop.source), SETTLE, [0.9])
    for _ in range(2):
        shop.step()
        settled = (shop.clock.now - SETTLE) // HOUR * HOUR
        known = shop.source.rows[shop.source.rows["timestamp"] < settled]
        made = Forecaster.pretrained(window).knowing(file).forecast(known, at=settled, quantiles=[0.9])
        for workload, metric in SERIES:
            mine = made[made["workload"] == workload]["q0.9"].max()
            np.testing.assert_allclose(shop.board.ask(workload, metric).forecast, mine, rtol=1e-5)
        shop.clock.now += HOUR


@pytest.mark.parametrize("broken", ["start,end\n", None])
def test_a_new_artifact_serves_whatever_becomes_of_the_events(shop: Shop, broken: str | None) -> None:
    file = shop.folder.parent / "events.csv"
    begin = int(shop.clock.now) // HOUR * HOUR
    file.write_text(f"start,end,workload,name,factor\n{begin},{begin + 4 * HOUR},*,sale,3\n")
    shop.engine = Engine(shop.board, Model(shop.folder, events=file), Reads(shop.source), SETTLE, [0.9])
    shop.step()
    before = shop.board.snapshot
    assert before is not None
    file.unlink() if broken is None else file.write_text(broken)
    shutil.rmtree(shop.folder)
    save(shop.folder, seed=7)
    shop.step()
    after = shop.board.snapshot
    assert after is not None
    assert after.artifact != before.artifact
    assert shop.board.refused_events
    assert not shop.board.refused_artifact
    now, without = shop.board.ask(*SERIES[0], lead=0.0).forecast, Shop(shop.folder)
    without.step()
    np.testing.assert_allclose(now, 3 * without.board.ask(*SERIES[0], lead=0.0).forecast, rtol=1e-6)


def test_history_with_past_events_gives_the_numbers_of_an_independent_forecast(shop: Shop) -> None:
    file = shop.folder.parent / "events.csv"
    now = int(shop.clock.now) // HOUR * HOUR
    past, coming = (now - 3 * HOUR, now - HOUR), (now + 2 * HOUR, now + 5 * HOUR)
    rows = [f"{begin},{end},*,sale,2" for begin, end in (past, coming)]
    file.write_text("start,end,workload,name,factor\n" + "\n".join(rows) + "\n")
    shop.engine = Engine(shop.board, Model(shop.folder, events=file), Reads(shop.source), SETTLE, [0.9])
    shop.step()
    for _ in range(4):
        settled = (shop.clock.now - SETTLE) // HOUR * HOUR
        known = shop.source.rows[shop.source.rows["timestamp"] < settled]
        made = Forecaster.load(shop.folder).knowing(file)
        expected = made.forecast(known, at=settled, quantiles=[0.9])
        for workload, metric in SERIES:
            mine = expected[expected["workload"] == workload]["q0.9"].max()
            np.testing.assert_allclose(shop.board.ask(workload, metric).forecast, mine, rtol=1e-6)
        shop.pass_time(HOUR)
