"""A server goes on, with the right numbers, when its source or its artifact misbehaves."""

import shutil
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hand_made import Clock

from kforecast.artifact import Artifact, EstimatorConfig
from kforecast.commands.serve import ServeSection
from kforecast.errors import ArtifactError, SourceError
from kforecast.forecaster import Forecaster
from kforecast.metrics.frame import FrameSource
from kforecast.models.fcnet import Fcnet
from kforecast.serving.board import Board
from kforecast.serving.engine import Engine
from kforecast.serving.feed import Feed, Pair

STEP, BEGIN = 600, 1_704_067_200
NOW = BEGIN + 40 * STEP
WEB, CART = ("ns/app0", "qps"), ("ns/app1", "qps")


def save(directory: Path, fill: float = 0.5, names: tuple[str, ...] = ("ns/app0qps", "ns/app1qps")) -> None:
    config = EstimatorConfig(freq="10min", prediction_length=3, context_length=7, num_series=len(names))
    state = {
        one: value.fill_(fill) for one, value in Fcnet(config.window, len(names)).artifact_state().items()
    }
    # Series with equal rows in the table would stand for any other series.
    for value in state.values():
        if value.ndim == 2 and len(value) == len(names) > 1:
            value += torch.arange(len(names))[:, None]
    ids = {name: number for number, name in enumerate(names)}
    Artifact(config, ids, state, {"fill": "interpolate"}).save(directory)


def rows(*pairs: Pair, bins: int = 60) -> pd.DataFrame:
    parts = [
        pd.DataFrame(
            {
                "timestamp": BEGIN + STEP * np.arange(bins),
                "value": 50.0 + 10 * number + np.arange(bins) % 7,
                "workload": workload,
                "metric": metric,
            }
        )
        for number, (workload, metric) in enumerate(pairs)
    ]
    return pd.concat(parts, ignore_index=True)


@dataclass
class Server(Feed):
    """A server whose answers a test chooses; ``breaks`` holds series that fail at the next reads."""

    frame: pd.DataFrame
    breaks: list[set[Pair]] = field(default_factory=list)
    away: bool = False
    step = 60

    def series(self) -> list[Pair]:
        return [WEB, CART]

    def read(
        self, start: int, end: int, only: Collection[Pair] | None = None
    ) -> tuple[pd.DataFrame, dict[Pair, str]]:
        if self.away:
            raise SourceError("away")
        failing = self.breaks.pop(0) if self.breaks else set()
        frame = self.frame[(self.frame["timestamp"] >= start) & (self.frame["timestamp"] < end)]
        pairs = [*zip(frame["workload"], frame["metric"], strict=True)]
        kept = [pair not in failing and (only is None or pair in only) for pair in pairs]
        return frame[np.array(kept, bool)], dict.fromkeys(failing, "refused")


@dataclass
class Running:
    """An engine at a moment, without pauses."""

    directory: Path
    feed: Feed
    clock: Clock = field(default_factory=lambda: Clock(NOW))

    def __post_init__(self) -> None:
        self.board = Board(clock=self.clock)
        self.engine = Engine(self.board, self.directory, self.feed, 0.0)

    def at(self, bins: int) -> "Running":
        """Two steps when so many bins are over."""
        self.clock.now = float(BEGIN + bins * STEP)
        self.engine.next_attempt = self.engine.next_artifact = 0.0
        for _ in range(2):
            self.engine.step()
        return self

    def served(self, pair: Pair) -> np.ndarray:
        """The point forecasts of a series."""
        snapshot = self.board.snapshot
        assert snapshot is not None
        row = snapshot.rows[pair]
        assert snapshot.refusal(row, self.clock.now) is None
        return snapshot.values[row]

    def refusal(self, pair: Pair) -> str | None:
        snapshot = self.board.snapshot
        assert snapshot is not None
        return snapshot.refusal(snapshot.rows[pair], self.clock.now)


def expected(directory: Path, frame: pd.DataFrame, pair: Pair, now: float) -> np.ndarray:
    made = Forecaster.load(directory).forecast(FrameSource(frame[frame["timestamp"] < now]), at=int(now))
    mine = made[(made["workload"] == pair[0]) & (made["metric"] == pair[1])].sort_values("timestamp")
    return mine["value"].to_numpy()


def test_a_source_that_goes_away_and_returns_gives_the_same_numbers(tmp_path: Path) -> None:
    save(tmp_path / "model")
    feed = Server(rows(WEB, CART), away=True)
    running = Running(tmp_path / "model", feed).at(40)
    assert running.board.snapshot is None
    assert running.board.reason == "fetch: away"
    for bins, away in ((40, False), (41, True), (43, False), (49, True), (55, False), (48, False)):
        feed.away = away
        running.at(bins)
        if not away:
            wanted = expected(tmp_path / "model", feed.frame, CART, running.clock.now)
            np.testing.assert_allclose(running.served(CART), wanted, rtol=1e-5)


def test_a_new_artifact_that_cannot_forecast_does_not_stop_the_old_one(tmp_path: Path) -> None:
    save(tmp_path / "model")
    feed = Server(rows(WEB, CART))
    running = Running(tmp_path / "model", feed).at(40)
    old = running.engine.live.identity
    save(tmp_path / "model", fill=0.6, names=("other/aqps", "other/bqps"))
    for bins in (41, 42, 43, 44):
        running.at(bins).served(WEB)
        assert running.board.snapshot is not None
        assert running.board.snapshot.artifact == old
        assert "knows none" in running.board.refused_artifact
    save(tmp_path / "model", fill=0.7)
    running.at(45)
    assert not running.board.refused_artifact
    np.testing.assert_allclose(
        running.served(WEB), expected(tmp_path / "model", feed.frame, WEB, running.clock.now), rtol=1e-5
    )


def test_a_directory_that_is_away_for_a_moment_is_not_a_refused_artifact_for_ever(tmp_path: Path) -> None:
    save(tmp_path / "model")
    running = Running(tmp_path / "model", Server(rows(WEB, CART))).at(40)
    shutil.move(tmp_path / "model", tmp_path / "away")
    assert running.at(41).board.refused_artifact
    shutil.move(tmp_path / "away", tmp_path / "model")
    assert not running.at(42).board.refused_artifact
    running.served(WEB)


def test_a_failed_forecast_is_tried_again_in_the_same_bin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "model")
    running = Running(tmp_path / "model", Server(rows(WEB, CART)))
    with monkeypatch.context() as patch:

        def fails(*_: object) -> None:
            raise ArtifactError("no")

        patch.setattr(Forecaster, "forecast_next", fails)
        running.at(40)
    assert running.board.snapshot is None
    running.at(40).served(WEB)


def test_a_series_that_returns_is_read_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    save(tmp_path / "model")
    feed = Server(rows(WEB, CART), [{CART}])
    running = Running(tmp_path / "model", feed).at(40)
    assert running.refusal(CART) is not None
    # The newest bins can be read, the older ones not.
    feed.breaks = [set(), {CART}]
    running.at(41)
    assert running.refusal(CART) is not None
    running.at(42)
    wanted = expected(tmp_path / "model", feed.frame, CART, running.clock.now)
    np.testing.assert_allclose(running.served(CART), wanted, rtol=1e-5)


def test_a_new_series_of_a_file_is_served(tmp_path: Path) -> None:
    save(tmp_path / "model")

    class File:
        repeatable = True
        frame = rows(WEB)

        def fetch(self) -> pd.DataFrame:
            return self.frame

    file = File()
    running = Running(tmp_path / "model", Feed(file)).at(40)
    file.frame = rows(WEB, CART)
    running.at(41)
    for pair in (WEB, CART):
        wanted = expected(tmp_path / "model", file.frame, pair, running.clock.now)
        np.testing.assert_allclose(running.served(pair), wanted, rtol=1e-5)


@pytest.mark.parametrize("name", ["address", "grpc"])
def test_a_port_beyond_the_last_one_is_refused(name: str) -> None:
    given = {"address": "localhost:1", "grpc": None} | {name: "localhost:99999"}
    with pytest.raises(ValueError, match="99999: a port is at most 65535"):
        ServeSection.model_validate(given)


def test_wrong_values_of_a_while_leave_no_trace(tmp_path: Path) -> None:
    save(tmp_path / "model")
    right = rows(WEB, CART)
    wrong = right.assign(value=right["value"].where(right["workload"] == WEB[0], 1000 * right["value"]))
    lost = right[(right["workload"] == WEB[0]) | (right["timestamp"] >= BEGIN + 40 * STEP)]
    feed = Server(right)
    running = Running(tmp_path / "model", feed).at(40)
    for bins, frame in ((41, wrong), (42, wrong), (43, right), (44, lost), (45, right), (46, right)):
        feed.frame = frame
        running.at(bins)
        for pair in (WEB, CART):
            wanted = expected(tmp_path / "model", frame, pair, running.clock.now)
            np.testing.assert_allclose(running.served(pair), wanted, rtol=1e-5)
    restarted = Running(tmp_path / "model", feed).at(46).engine.live.history.panel
    panel = running.engine.live.history.panel
    assert panel is not None
    assert restarted is not None
    np.testing.assert_array_equal(panel.values, restarted.values)
    np.testing.assert_array_equal(panel.observed, restarted.observed)


def test_a_source_that_has_lost_everything_leaves_the_last_forecast(tmp_path: Path) -> None:
    save(tmp_path / "model")
    feed = Server(rows(WEB, CART))
    running = Running(tmp_path / "model", feed).at(40)
    before, whole = running.board.snapshot, feed.frame
    feed.frame = whole[:0]
    for bins in (41, 42):
        running.at(bins).served(WEB)
        assert running.board.snapshot is before
        assert "no value of any series" in running.board.reason
    assert running.at(43).refusal(WEB) is not None
    feed.frame = whole
    running.at(44)
    wanted = expected(tmp_path / "model", feed.frame, CART, running.clock.now)
    np.testing.assert_allclose(running.served(CART), wanted, rtol=1e-5)


def test_a_series_that_fails_at_the_start_is_asked_again_within_the_bin(tmp_path: Path) -> None:
    save(tmp_path / "model")
    running = Running(tmp_path / "model", Server(rows(WEB, CART), [{CART}]))
    running.engine.step()
    running.clock.now += 1
    assert running.refusal(CART) is not None
    running.engine.next_attempt = 0.0
    running.engine.step()
    running.served(CART)


def test_an_artifact_that_is_copied_file_by_file_serves_when_it_is_whole(tmp_path: Path) -> None:
    old, new, served = tmp_path / "old", tmp_path / "new", tmp_path / "model"
    save(old)
    save(new, fill=0.6)
    shutil.copytree(old, served)
    # A gap is filled in the way that metadata.json says.
    frame = rows(WEB, CART).query(f"timestamp < {BEGIN + 36 * STEP} or timestamp >= {BEGIN + 38 * STEP}")
    running = Running(served, Server(frame)).at(40)
    of = {Artifact.load(one).identity: one for one in (old, new)}

    def check() -> None:
        running.engine.next_attempt = running.engine.next_artifact = 0.0
        running.engine.step()
        running.engine.step()
        assert running.board.snapshot is not None
        wanted = expected(of[running.board.snapshot.artifact], frame, WEB, running.clock.now)
        np.testing.assert_allclose(running.served(WEB), wanted, rtol=1e-5)

    for emptied in (False, True):
        for source in (new, old):
            if emptied:
                shutil.rmtree(served)
                served.mkdir()
                check()
            for file in sorted(source.iterdir()):
                shutil.copy(file, served)
                check()
            assert running.board.snapshot is not None
            assert of[running.board.snapshot.artifact] == source
            assert not running.board.refused_artifact


def test_an_artifact_without_metadata_serves_when_it_stays_so(tmp_path: Path) -> None:
    save(tmp_path / "model")
    running = Running(tmp_path / "model", Server(rows(WEB, CART))).at(40)
    save(tmp_path / "model", fill=0.6)
    (tmp_path / "model" / "metadata.json").unlink()
    old = running.engine.live.identity
    assert "perhaps it is still being copied" in running.at(40).board.refused_artifact
    assert running.engine.live.identity == old
    assert not running.at(40).board.refused_artifact
    assert running.engine.live.identity == Artifact.load(tmp_path / "model").identity
    wanted = expected(tmp_path / "model", running.feed.frame, WEB, running.clock.now)
    np.testing.assert_allclose(running.served(WEB), wanted, rtol=1e-5)


def test_a_link_to_itself_is_a_refused_artifact(tmp_path: Path) -> None:
    save(tmp_path / "1")
    link = tmp_path / "champion"
    link.symlink_to("1")
    running = Running(link, Server(rows(WEB, CART))).at(40)
    link.unlink()
    link.symlink_to("champion")
    assert running.at(41).board.refused_artifact
    running.served(WEB)
    link.unlink()
    link.symlink_to("1")
    assert not running.at(42).board.refused_artifact


def test_a_source_that_is_away_does_not_make_a_new_artifact_bad(tmp_path: Path) -> None:
    save(tmp_path / "model")
    feed = Server(rows(WEB, CART))
    running = Running(tmp_path / "model", feed).at(40)
    feed.away = True
    save(tmp_path / "model", fill=0.6)
    assert not running.at(41).board.refused_artifact
    assert running.board.failures["fetch"] > 0
    feed.away = False
    running.at(42)
    assert running.engine.live.identity == Artifact.load(tmp_path / "model").identity
