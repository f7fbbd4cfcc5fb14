"""Very many answers while source, artifact and clock fail: none is stale, torn or wrong.

Each answer is compared with :meth:`Forecaster.forecast`, for the artifact and origin that the answer names,
on the rows that the source had told the server by then.
"""

import asyncio
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from urllib.parse import urlencode

import grpc
import grpc.aio
import numpy as np
import pandas as pd
import pytest
from hand_made import Clock
from standin import BROKEN, OTHER_ROWS, WITHOUT_ROWS, Prometheus, rows_of
from untrained import HOUR, SERIES, START, WINDOW, save

from conftest import HANG
from kforecast.artifact import Artifact
from kforecast.errors import ArtifactError
from kforecast.forecaster import Forecaster
from kforecast.metrics import fetching
from kforecast.metrics.frame import FrameSource
from kforecast.metrics.prometheus import PrometheusSource
from kforecast.serving import external_scaler, http
from kforecast.serving.board import AskDefaults, Board
from kforecast.serving.engine import Engine
from kforecast.serving.exposition import Exposition
from kforecast.serving.feed import Feed
from kforecast.serving.model import Model
from kforecast.serving.proto import externalscaler_pb2 as pb
from kforecast.serving.proto import externalscaler_pb2_grpc as pb_grpc
from kforecast.window import Window

SETTLE, HORIZON = 15.0, WINDOW.prediction_length * HOUR
# The last two are not made in advance, but when an answer needs them.
LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9, 0.8, 0.99)
PREPARED = LEVELS[:5]
SPANS = [1200 * number for number in range(13)]
GOOD, BAD = 4, ("damaged", "half", "missing", "window", "empty")


@dataclass
class Version:
    """The numbers of an artifact at an origin, computed from the rows that the source has told."""

    artifact: str
    origin: int
    quantiles: np.ndarray
    """``[series, steps, levels]``; NaN for a series without rows."""
    observed: np.ndarray
    observed_end: np.ndarray

    @classmethod
    def of(
        cls, forecaster: Forecaster, artifact: str, origin: int, rows: Sequence[pd.DataFrame]
    ) -> "Version":
        count = len(SERIES)
        quantiles = np.full((count, WINDOW.prediction_length, len(LEVELS)), np.nan)
        observed, observed_end = np.full(count, np.nan), np.zeros(count)
        known = {number: part.dropna() for number, part in enumerate(rows)}
        known = {number: part for number, part in known.items() if len(part)}
        made = forecaster.forecast(
            FrameSource(pd.concat(known.values(), ignore_index=True)), at=origin, quantiles=LEVELS
        )
        for number, part in known.items():
            mine = made[made["workload"] == SERIES[number][0]].sort_values("timestamp")
            assert mine["timestamp"].tolist() == [origin + HOUR * step for step in range(len(mine))]
            quantiles[number] = mine[[f"q{level}" for level in LEVELS]]
            bins = part.groupby(part["timestamp"] // HOUR)["value"].mean()
            observed[number], observed_end[number] = bins.iloc[-1], HOUR * (bins.index[-1] + 1)
        return cls(artifact, origin, quantiles, observed, observed_end)

    def served(self, now: float) -> np.ndarray:
        """Which series have an honest number."""
        inside = self.origin <= now < self.origin + HORIZON
        return np.isfinite(self.quantiles[:, 0, 0]) & (now - self.observed_end <= HORIZON) & inside

    def forecasts(self, questions: "Questions", now: float) -> np.ndarray:
        """The answers; NaN where there is none."""
        step = np.arange(WINDOW.prediction_length)
        begin = self.origin + HOUR * step
        until = now + questions.seconds[:, None]
        under_way = (begin <= now) & (now < begin + HOUR)
        lead = (begin <= until) & (until < begin + HOUR)
        # A window counts the bin under way, and those that begin within it.
        window = under_way | ((begin > now) & (begin < until))
        counts = np.where(questions.leads[:, None], lead, window)
        chosen = self.quantiles[questions.series, :, questions.level]
        found = np.where(counts, chosen, -np.inf).max(axis=1)
        honest = self.served(now)[questions.series] & counts.any(axis=1)
        return np.where(honest, found, np.nan)


@dataclass
class Questions:
    """Series, level, kind and seconds of many questions."""

    series: np.ndarray
    level: np.ndarray
    leads: np.ndarray
    seconds: np.ndarray

    @classmethod
    def random(cls, random: np.random.Generator, count: int) -> "Questions":
        return cls(
            random.integers(len(SERIES), size=count),
            random.integers(len(LEVELS), size=count),
            random.random(count) < 0.5,
            random.choice(SPANS, count),
        )

    def parameters(self, number: int) -> dict[str, str]:
        workload, metric = SERIES[self.series[number]]
        kind = "lead" if self.leads[number] else "window"
        asked = {"workload": workload, "metric": metric, kind: str(self.seconds[number])}
        return asked | {"quantile": str(LEVELS[self.level[number]])}


@dataclass
class Soak:
    """A server with faults, and what it has to answer."""

    folder: Path
    rounds: int
    asked: int
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.clock = Clock(START + 40 * 86_400 + 12 * HOUR + 60.0)
        self.standin = Prometheus()
        self.link = self.folder / "champion"
        self.forecasters: dict[str, Forecaster] = {}
        for seed in range(GOOD):
            save(self.folder / f"good{seed}", seed)
            identity = Artifact.load(self.folder / f"good{seed}").identity
            self.forecasters[identity] = Forecaster.load(self.folder / f"good{seed}")
        assert len(self.forecasters) == GOOD
        self.publish("good0")
        self.current, self.left = "", 0
        self.faults: dict[int, str] = {}
        names = [*WITHOUT_ROWS, *OTHER_ROWS, "slow"]
        self.names = cycle(self.random.permutation(names).tolist())
        self.version: Version | None = None
        self.told: dict[int, tuple[str, int]] = {}
        # Which rounds publish an artifact, and which of those a bad one.
        swaps = self.random.choice(np.arange(2, self.rounds), 50, replace=False)
        self.swaps = dict(zip(swaps.tolist(), [*BAD, *BAD, *[""] * 40], strict=True))

    def publish(self, name: str) -> None:
        """Move the link."""
        new = self.folder / "next"
        new.symlink_to(name)
        new.replace(self.link)

    def bad(self, kind: str) -> str:
        """An artifact that must be refused."""
        made = self.folder / f"bad{len([*self.folder.iterdir()])}"
        if kind == "window":
            save(made, 9, Window("1H", 8, 3))
        elif kind == "empty":
            made.mkdir()
        else:
            shutil.copytree(self.folder / "good3", made)
            file = made / "checkpoint.pth"
            whole = file.read_bytes()
            if kind == "missing":
                (made / "estimator_config.yaml").unlink()
            else:
                half = len(whole) // 2
                file.write_bytes(whole[:half] if kind == "half" else whole[:half] + b"!" + whole[half + 1 :])
        return made.name

    async def run(self, url: str) -> None:
        source = PrometheusSource(url=url, deadline=HANG, attempts=1, **self.standin.arguments)
        board = Board(AskDefaults("max", 0.9, None), self.clock)

        def check(forecaster: Forecaster) -> None:
            if forecaster.window != WINDOW:
                raise ArtifactError("another window")

        self.board, self.engine = (
            board,
            Engine(board, Model(self.link, check), Feed(source), SETTLE, PREPARED),
        )
        application = http.application(board, Exposition(board, PREPARED, SPANS, SPANS))
        async with AsyncExitStack() as stack:
            port = await stack.enter_async_context(http.serving(application, "127.0.0.1:0", None))
            grpc_port = await stack.enter_async_context(external_scaler.serving(board, "127.0.0.1:0"))
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}"))
            self.scaler = pb_grpc.ExternalScalerStub(channel)
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
            for number in range(self.rounds):
                await self.round(number)
            self.writer.close()

    def restart(self) -> None:
        """After all that, a new server says the same."""
        self.publish(f"good{[*self.forecasters].index(self.current)}")
        self.standin.faults = {}
        self.clock.now += HOUR
        self.steps()
        board = Board(clock=self.clock)
        assert Engine(board, Model(self.link), self.engine.feed, SETTLE).step()
        old, new = self.board.snapshot, board.snapshot
        assert old is not None
        assert new is not None
        assert (old.artifact, old.origin) == (new.artifact, new.origin)
        for level in (None, *LEVELS):
            np.testing.assert_allclose(old.at_level(level), new.at_level(level), rtol=1e-6)

    async def round(self, number: int) -> None:
        """Time passes and something fails; questions meanwhile and afterwards."""
        faults = self.faults = self.choose(number)
        swapped = self.swaps.get(number)
        if swapped is not None:
            self.counts["swaps"] += 1
            self.publish(self.bad(swapped) if swapped else f"good{self.random.integers(GOOD)}")
        before, self.standin.asked = self.version, []
        self.standin.faults = faults
        slow = "slow" in faults.values()
        (self.standin.released.clear if slow else self.standin.released.set)()
        working = asyncio.get_running_loop().run_in_executor(None, self.steps)
        meanwhile = await self.answers(self.asked // 2)
        text = await self.get("/metrics")
        self.standin.released.set()
        await working
        self.follow(faults)
        now = self.clock.now
        for answers in (meanwhile, await self.answers(self.asked - self.asked // 2)):
            possible = [self.version] if answers is not meanwhile else [before, self.version]
            self.check(*answers, possible, now)
        self.check_text(text, [before, self.version], now)
        self.check_text(await self.get("/metrics"), [self.version], now)
        await self.check_scaler(now)

    def choose(self, number: int) -> dict[int, str]:
        """Move the clock; the fault of each service."""
        if number == 0:
            return {}
        jump = self.random.choice([0, 0, 0, 0, 0, 0, -HOUR, HOUR])
        self.counts[f"clock {int(jump):+d}"] += 1
        self.clock.now += float(self.random.integers(900, 5000) + jump)
        self.left -= 1
        if self.left > 0:
            return self.faults
        if self.faults and self.random.random() < 0.5:
            return {}
        # The horizon is four hours: after that, there is nothing honest to say.
        self.left = int(self.random.choice([1, 1, 2, 3, 6]))
        name = next(self.names)
        self.counts[name] += 1
        one = name == "infinite" or self.random.random() < 0.3
        return {int(self.random.integers(2)): name} if one else {0: name, 1: name}

    def steps(self) -> None:
        """What the server's thread does, without the pauses."""
        self.engine.next_attempt = self.engine.next_artifact = 0.0
        self.engine.step()
        self.engine.next_artifact = math.inf
        self.engine.next_attempt = 0.0
        self.engine.step()

    def follow(self, faults: dict[int, str]) -> None:
        """What the server must know now, from what the source has told it in this round."""
        published = self.link.resolve()
        refused = published.name.startswith("bad")
        assert bool(self.board.refused_artifact) == refused, self.board.refused_artifact
        if not self.standin.asked:
            return
        silent = {number for number, fault in faults.items() if fault in WITHOUT_ROWS}
        if len(silent) == len(SERIES):
            return
        for number, fault, start, stop in self.standin.asked:
            if number not in silent:
                self.told[number] = fault, stop
            elif stop - start > 10 * 86_400:
                self.told.pop(number, None)  # of the whole history, nothing could be read
        origin = int((self.clock.now - SETTLE) // HOUR * HOUR)
        if not self.told:
            return
        if not refused:
            self.current = Artifact.load(published).identity
        rows = [
            rows_of(number, START, *self.told[number][::-1]) if number in self.told else rows_of(0, 0, 0)
            for number in range(len(SERIES))
        ]
        self.version = Version.of(self.forecasters[self.current], self.current, origin, rows)
        self.counts["versions"] += 1

    async def answers(self, count: int) -> tuple[Questions, list[tuple[int, dict[str, object]]]]:
        """Ask over one connection, without waiting for each answer."""
        questions = Questions.random(self.random, count)
        paths = [f"/forecast?{urlencode(questions.parameters(number))}" for number in range(count)]
        self.writer.write("".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths).encode())
        return questions, [(status, json.loads(body)) for status, body in [await self.read() for _ in paths]]

    async def get(self, path: str) -> str:
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        status, body = await self.read()
        assert status == 200
        return body.decode()

    async def read(self) -> tuple[int, bytes]:
        """The next answer."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: ([0-9]+)", head)
        assert length is not None
        return int(head[9:12]), await self.reader.readexactly(int(length[1]))

    def check(
        self,
        questions: Questions,
        answers: list[tuple[int, dict[str, object]]],
        versions: Sequence[Version | None],
        now: float,
    ) -> None:
        """Each answer is that of one of the versions, the one it names."""
        known = [version for version in versions if version is not None]
        status = np.array([status for status, _ in answers])
        assert np.isin(status, [200, 503]).all(), answers
        names = [(body.get("artifact"), body.get("origin"), body.get("at")) for _, body in answers]
        found = {
            name: np.array([body.get(name, math.nan) for _, body in answers], float)
            for name in ("value", "forecast", "observed", "observed_end")
        }
        right = np.zeros(len(answers), bool)
        if None in versions:
            right |= status == 503
        for version in known:
            forecasts = version.forecasts(questions, now)
            observed = version.observed[questions.series]
            named = np.array([name == (version.artifact, version.origin, now) for name in names], bool)
            right |= (status == 503) & np.isnan(forecasts)
            right |= (
                named
                & np.isclose(found["forecast"], forecasts, rtol=1e-5, atol=1e-3)
                & np.isclose(found["observed"], observed, rtol=1e-5)
                & np.isclose(found["value"], np.fmax(forecasts, observed), rtol=1e-5, atol=1e-3)
                & (found["observed_end"] == version.observed_end[questions.series])
            )
        wrong = [(questions.parameters(number), answers[number]) for number in np.flatnonzero(~right)]
        assert not wrong, (len(wrong), wrong[0], now, versions, self.faults)
        self.counts["answers"] += len(answers)
        self.counts["numbers"] += int((status == 200).sum())

    def check_text(self, text: str, versions: Sequence[Version | None], now: float) -> None:
        """A text of Prometheus is whole, and that of one of the versions."""
        artifact = re.search(r'kforecast_artifact_info\{sha256="([0-9a-f]+)"', text)
        origin = re.search(r"^kforecast_origin_timestamp_seconds (\S+)$", text, re.MULTILINE)
        samples = re.findall(
            r'^kforecast_forecast(?:_max)?\{(lead)?(?:="([0-9]+)",)?metric="qps",quantile="([0-9.]+)"'
            r'(?:,window="([0-9]+)")?,workload="(.+?)"(?:,window="([0-9]+)")?\} (\S+)$',
            text,
            re.MULTILINE,
        )
        if origin is None:
            assert None in versions
            assert not samples
            return
        assert artifact is not None
        workloads = [workload for workload, _ in SERIES]
        questions = Questions(
            np.array([workloads.index(sample[4]) for sample in samples], int),
            np.array([LEVELS.index(float(sample[2])) for sample in samples], int),
            np.array([sample[0] == "lead" for sample in samples], bool),
            np.array([int(sample[1] or sample[3] or sample[5]) for sample in samples], int),
        )
        values = np.array([float(sample[6]) for sample in samples])
        every = [np.ravel(part) for part in np.meshgrid(*map(np.arange, (2, 5, 2)), SPANS, indexing="ij")]
        possible = Questions(every[0], every[1], every[2] == 1, every[3])
        right = []
        for version in versions:
            if version is None or (artifact[1], float(origin[1])) != (version.artifact, version.origin):
                continue
            count = np.isfinite(version.forecasts(possible, now)).sum()
            close = np.isclose(values, version.forecasts(questions, now), rtol=1e-5, atol=1e-3)
            right.append(len(values) == count and close.all())
        assert any(right), (text, now, versions)
        assert text.count("\nkforecast_forecast{") + text.count("\nkforecast_forecast_max{") == len(samples)
        self.counts["answers"] += len(samples)
        self.counts["numbers"] += len(samples)

    async def check_scaler(self, now: float) -> None:
        """KEDA's calls, which name neither artifact nor origin: the clock and the snapshot stand still."""
        questions = Questions.random(self.random, max(4, self.asked // 10))
        expected = np.full(len(questions.series), math.nan)
        if self.version is not None:
            observed = self.version.observed[questions.series]
            forecasts = self.version.forecasts(questions, now)
            expected = np.where(np.isnan(forecasts), np.nan, np.fmax(forecasts, observed))

        async def value(number: int) -> float:
            metadata = questions.parameters(number) | {"target": "10"}
            request = pb.GetMetricsRequest(scaledObjectRef=pb.ScaledObjectRef(scalerMetadata=metadata))
            try:
                answer = await self.scaler.GetMetrics(request, timeout=HANG)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                return math.nan
            return float(answer.metricValues[0].metricValueFloat)

        found = await asyncio.gather(*map(value, range(len(expected))))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
        self.counts["answers"] += len(found)
        self.counts["numbers"] += int(np.isfinite(found).sum())


@pytest.mark.parametrize(
    "rounds, asked, answers",
    [
        pytest.param(140, 15, 18_000, id="18,000"),
        pytest.param(2_000, 200, 1_000_000, id="1,000,000", marks=pytest.mark.slow),
    ],
)
def test_no_answer_is_stale_torn_or_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int, asked: int, answers: int
) -> None:
    monkeypatch.setattr(fetching, "FIRST_PAUSE", 0.001)
    soak = Soak(tmp_path, rounds, asked)
    with soak.standin.serve() as url:
        asyncio.run(soak.run(url))
        soak.restart()
    counts = soak.counts
    print(dict(counts), soak.board.failures)
    assert counts["answers"] >= answers
    assert counts["numbers"] > 0.8 * counts["answers"]
    assert counts["answers"] > counts["numbers"] + answers // 50
    assert counts["swaps"] == 50
    assert min(counts[name] for name in (*BROKEN, *WITHOUT_ROWS, *OTHER_ROWS, "slow")) > 0
    assert counts[f"clock {HOUR:+d}"] > 5
    assert counts[f"clock {-HOUR:+d}"] > 5
    assert soak.board.failures["artifact"] >= 10
