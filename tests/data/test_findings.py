"""Training, evaluation and forecasts say of a history what kforecast-fetch says of it."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kforecast
from conftest import run_command
from kforecast.data import mapped
from kforecast.data.datamodule import ForecastDataModule
from kforecast.data.findings import TOLD, panel_findings, refuse_coarse, warnings_of
from kforecast.data.panel import Panel
from kforecast.data.quality import examine
from kforecast.data.reading import read_panel
from kforecast.errors import ConfigError, DataError
from kforecast.metrics.csv import CsvSource
from kforecast.metrics.frame import FrameSource
from kforecast.window import Window

START = 1_704_067_200
DAY = 86_400
WINDOW = Window("10min", 7, 3)


def rows_of(
    value: np.ndarray, name: str = "web", step: int = 600, second: np.ndarray | None = None
) -> pd.DataFrame:
    """A series with a row every ``step`` seconds, or at the given ones."""
    moments = START + step * np.arange(len(value)) if second is None else second
    columns = {"timestamp": moments, "value": value, "workload": f"shop/{name}", "metric": "qps"}
    return pd.DataFrame(columns)


def traffic(size: int = 2016, seed: int = 0, step: int = 600) -> np.ndarray:
    """A noisy daily cycle."""
    noise = np.random.default_rng(seed).normal(0, 4, size)
    return 100 + 60 * np.sin(2 * np.pi * step * np.arange(size) / DAY) + noise


def kinds(frame: pd.DataFrame, window: Window = WINDOW) -> set[str]:
    return {finding.kind for finding in examine(frame, window)[1]}


def counted(rate: np.ndarray, resets: list[int] | np.ndarray = ()) -> np.ndarray:  # type: ignore[assignment]
    """The counter of a rate; it begins at 0 again at some rows."""
    total = np.cumsum(600 * np.maximum(rate, 0))
    for at in sorted(resets):
        total[at:] -= total[at]
    return total


@pytest.mark.parametrize("seed", range(3))
def test_counters_are_recognised(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rate = traffic(seed=seed)
    pods = sum(counted(rate / 10 * rng.uniform(0.5, 1.5), rng.integers(9, 2000, 3)) for _ in range(10))
    counters = {
        "plain": counted(rate),
        "reset": counted(rate, rng.integers(9, 2000, 12)),
        "long running": 1e12 + counted(rate),
        "of pods": np.asarray(pods),
        "rare events": np.cumsum(rng.random(2016) < 0.03).astype(float),
        "idle at night": counted(np.where(rate > 100, rate, 0)),
        "requests": np.cumsum(rng.poisson(3, 2016)).astype(float),
    }
    for name, value in counters.items():
        frame = rows_of(value)
        assert "counter" in kinds(frame), name
        assert "counter" in kinds(frame[rng.random(len(frame)) > 0.3]), f"{name}, rows missing"
    assert "counter" in kinds(rows_of(counted(rate)[::24], step=4 * 3600))


@pytest.mark.parametrize("seed", range(3))
def test_growing_gauges_are_no_counters(seed: int) -> None:
    rng = np.random.default_rng(seed)
    row = np.arange(2016)
    gauges = {
        "trend": 100 + row + rng.normal(0, 20, 2016),
        "steep trend": 1000 + 5 * row + rng.normal(0, 1, 2016),
        "trend and cycle": 0.1 * row + traffic(seed=seed),
        "random walk": 1000 + np.cumsum(rng.normal(0.5, 1, 2016)),
        "bursts": np.where(rng.random(2016) < 0.05, rng.gamma(2, 50, 2016), 0),
        "office hours": np.where((row // 6) % 24 < 10, traffic(seed=seed), 0),
        "few users": rng.poisson(5, 2016).astype(float),
        "replicas": np.repeat(rng.integers(1, 10, 42), 48).astype(float),
    }
    for name, value in gauges.items():
        frame = rows_of(value)
        assert "counter" not in kinds(frame), name
        assert "counter" not in kinds(frame[rng.random(len(frame)) > 0.3]), f"{name}, rows missing"


def test_a_counter_is_not_worth_scaling_on(caplog: pytest.LogCaptureFixture) -> None:
    said: list[str] = []
    frame = pd.concat([rows_of(traffic()), rows_of(counted(traffic()), "total")], ignore_index=True)
    forecaster = kforecast.train(frame, WINDOW, max_epochs=1, verbose=False)
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    [told] = [line for line in said if line.startswith("counter: ")]
    assert "shop/total qps" in told
    assert "rate(...[5m])" in told
    evaluation = forecaster.evaluate(frame)
    assert "values only grow like a counter in shop/total qps: train on the rate" in evaluation.verdict
    assert "Worth scaling on" not in str(evaluation)
    assert any("counter: shop/total qps" in warning for warning in evaluation.warnings)


def defects(rng: np.random.Generator, frame: pd.DataFrame) -> pd.DataFrame:
    """A series with random defects of all kinds."""
    frame = frame.copy()
    size = len(frame)
    for kind in rng.choice(9, rng.integers(0, 4), replace=False):
        begin = int(rng.integers(0, size // 2))
        stretch = frame.index[begin : begin + int(rng.integers(5, size // 2))]
        if kind == 0:
            frame = frame.drop(stretch.intersection(frame.index))
        elif kind == 1:
            frame = pd.concat([frame, frame.iloc[: int(rng.integers(1, 60))]], ignore_index=True)
        elif kind == 2:
            frame = pd.concat([frame, frame.head(200).assign(value=1.5)], ignore_index=True)
        elif kind == 3:
            frame["value"] = frame["value"].cumsum()
        elif kind == 4:
            frame["value"] -= frame["value"].mean()
        elif kind == 5:
            frame.loc[stretch.intersection(frame.index), "value"] = 7.0
        elif kind == 6:
            frame["timestamp"] += int(rng.integers(1, 50))
        elif kind == 7:
            frame.loc[stretch.intersection(frame.index), "value"] = np.nan
        else:
            frame = frame.iloc[:: int(rng.integers(2, 30))]
    return frame.sample(frac=1.0, random_state=int(rng.integers(1 << 31))).reset_index(drop=True)


@given(st.integers(0, 10**9))
@settings(max_examples=15, deadline=None)
def test_training_finds_what_fetch_finds(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = ("web", "Web", "cart", "db", "mail")
    parts = [rows_of(traffic(600, seed + n), name) for n, name in enumerate(names)]
    frame = pd.concat([defects(rng, part) for part in parts]).sample(frac=1.0, random_state=seed % 2**32)
    frame = frame.reset_index(drop=True)
    expected = examine(frame, WINDOW)[1]
    folder = tmp_path_factory.mktemp("history")
    frame.to_csv(folder / "history.csv", index=False)
    frame.to_parquet(folder / "history.parquet")
    read = CsvSource(folder / "history.csv")
    held = CsvSource(folder / "history.parquet", memory_map=True, cache_dir=folder / "cache")
    for _ in range(2):  # the second time from the cache
        panels = [read_panel(FrameSource(frame), WINDOW.frequency), read_panel(read, WINDOW.frequency)]
        panels.append(mapped.mapped_panel(held, WINDOW.frequency))
        for panel in panels:
            found = panel_findings(panel, WINDOW)
            assert sorted(map(str, found)) == sorted(map(str, expected))


def test_a_healthy_history_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    own_seconds = START + 15 * np.arange(80_640) + rng.integers(0, 5, 80_640)
    jittery = rows_of(traffic(80_640, step=15), "jittery", second=own_seconds)
    office = np.where((np.arange(2016) // 144) % 7 < 5, traffic(), 0.0)
    parts = [rows_of(traffic(seed=n), f"web-{n}") for n in range(3)] + [jittery, rows_of(office, "office")]
    data = ForecastDataModule(pd.concat(parts, ignore_index=True), WINDOW, strict=True)
    data.setup()
    assert caplog.records == []


def test_strict_refuses_all_findings_at_once() -> None:
    frame = pd.concat([rows_of(traffic() - 100), rows_of(counted(traffic()), "total")], ignore_index=True)
    with pytest.raises(DataError, match=r"data\.strict=true") as error:
        ForecastDataModule(frame, WINDOW, strict=True).setup()
    lines = str(error.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == ["counter", "negative"]


def test_many_series_make_few_lines() -> None:
    parts = [rows_of(traffic(300, n) - 100, f"web-{n}") for n in range(60)]
    panel = read_panel(FrameSource(pd.concat(parts, ignore_index=True)), WINDOW.frequency)
    lines = [line for line in warnings_of(panel_findings(panel, WINDOW)) if line.startswith("negative: ")]
    assert len(lines) == 4
    assert lines[-1].startswith("negative: 57 more series")


def test_a_series_that_ended_is_stale() -> None:
    frame = pd.concat([rows_of(traffic()), rows_of(traffic()[:1900], "gone")], ignore_index=True)
    [stale] = [finding for finding in examine(frame, WINDOW)[1] if finding.kind == "stale"]
    assert stale.workload == "shop/gone"
    assert "19.3 h older" in stale.message
    assert "stale" not in kinds(pd.concat([rows_of(traffic()), rows_of(traffic()[:2010], "late")]))


def test_a_history_of_the_future_is_named() -> None:
    frame = rows_of(traffic())
    ahead = time.time() - frame["timestamp"].max()
    found = examine(frame.assign(timestamp=frame["timestamp"] + ahead + 3 * 86_400), WINDOW)[1]
    assert [finding.kind for finding in found] == ["future"]
    assert "3 d after now" in found[0].message
    assert not examine(frame.assign(timestamp=frame["timestamp"] + ahead), WINDOW)[1]


def test_a_long_weekend_without_traffic_is_not_constant() -> None:
    value = traffic()
    value[:450] = 0.0  # three days
    assert "constant" not in kinds(rows_of(value))
    value[:700] = 0.0
    assert "constant" in kinds(rows_of(value))


# Several rows at one moment.


def per_pod(minutes: int = 3000, pods: tuple[int, int] = (2, 8), step: int = 60) -> pd.DataFrame:
    """A service of 100 qps, on few pods by day and on many by night: a row for each pod."""
    row = np.arange(minutes)
    count = np.where((row // 60) % 24 < 12, *pods)
    moment = np.repeat(row, count)
    pod = np.arange(len(moment)) - np.repeat(np.cumsum(count) - count, count)
    frame = rows_of(100 / count[moment], step=step, second=START + step * moment)
    return frame.assign(pod=[f"pod-{number}" for number in pod])


def sources(frame: pd.DataFrame, folder: Path, **keys: object) -> dict[str, FrameSource | CsvSource]:
    frame.to_csv(folder / "pods.csv", index=False)
    frame.to_parquet(folder / "pods.parquet")
    cache = folder / "cache"
    return {
        "frame": FrameSource(frame, **keys),  # type: ignore[arg-type]
        "csv": CsvSource(folder / "pods.csv", **keys),  # type: ignore[arg-type]
        "parquet": CsvSource(folder / "pods.parquet", **keys),  # type: ignore[arg-type]
        "mapped": CsvSource(folder / "pods.parquet", memory_map=True, cache_dir=cache, **keys),  # type: ignore[arg-type]
    }


@pytest.mark.parametrize("order", ["by moment", "by pod"])
def test_pods_are_told_apart(tmp_path: Path, order: str) -> None:
    frame = per_pod()
    if order == "by pod":
        frame = frame.sort_values(["pod", "timestamp"])
    for name, source in sources(frame, tmp_path).items():
        for read in (lambda source=source: read_panel(source, WINDOW.frequency), source.fetch):
            with pytest.raises(DataError) as error:
                read()
            said = str(error.value)
            assert "2 rows of shop/web qps at 2024-01-01 00:00: column pod tells them apart" in said, name
            assert "on_multiple=sum" in said


@pytest.mark.parametrize("how, least, most", [("sum", 100, 100), ("mean", 12.5, 50)])
def test_pods_are_combined_as_wanted(tmp_path: Path, how: str, least: float, most: float) -> None:
    for name, source in sources(per_pod(), tmp_path, on_multiple=how).items():
        panel = read_panel(source, WINDOW.frequency)
        value = panel.values[panel.observed]
        assert (value.min(), value.max()) == pytest.approx((least, most)), name
        assert not {"duplicates", "rows_per_moment"} & {f.kind for f in panel_findings(panel, WINDOW)}
        again = Panel.from_frame(source.fetch(), WINDOW.frequency)
        np.testing.assert_array_equal(again.values, panel.values, name)


def test_a_time_in_a_column_of_its_own_is_no_pod(tmp_path: Path) -> None:
    hour = np.arange(24 * 20)
    frame = rows_of(traffic()[: len(hour)], second=START + hour // 24 * DAY).assign(Hour=hour % 24)
    for source in sources(frame, tmp_path).values():
        with pytest.raises(
            DataError, match="column Hour holds their time; join it to the date in one column"
        ):
            read_panel(source, WINDOW.frequency)


def test_copies_of_the_rows_of_pods_are_not_added_up(tmp_path: Path) -> None:
    """Two exports that overlap, joined in one file."""
    frame = per_pod(1000)
    frame = pd.concat([frame, frame[2000:]], ignore_index=True)
    for name, source in sources(frame, tmp_path, on_multiple="sum").items():
        for panel in (
            read_panel(source, WINDOW.frequency),
            Panel.from_frame(source.fetch(), WINDOW.frequency),
        ):
            np.testing.assert_allclose(panel.values[panel.observed], 100, rtol=1e-6, err_msg=name)
    # Pods without a name may have equal values.
    for source in sources(
        rows_of(np.full(3000, 5.0)).iloc[np.repeat(np.arange(3000), 2)], tmp_path, on_multiple="sum"
    ).values():
        panel = read_panel(source, WINDOW.frequency)
        assert set(panel.values[panel.observed]) == {10.0}


def test_on_multiple_error_refuses_a_single_repeat(tmp_path: Path) -> None:
    frame = rows_of(traffic())
    frame = pd.concat([frame, frame.iloc[[5]]], ignore_index=True)
    for source in sources(frame, tmp_path, on_multiple="error").values():
        with pytest.raises(
            DataError, match=r"2 rows of shop/web qps at 2024-01-01 00:50, and .*on_multiple=error"
        ):
            read_panel(source, WINDOW.frequency)


def test_copies_of_rows_are_harmless(tmp_path: Path) -> None:
    whole = rows_of(traffic()).assign(pod="pod-1", row=np.arange(2016), latency=0.5)
    twice = pd.concat([whole, whole.tail(1000)], ignore_index=True)
    twice["row"] = np.arange(len(twice))
    expected = read_panel(FrameSource(whole), WINDOW.frequency)
    for source in sources(twice, tmp_path).values():
        panel = read_panel(source, WINDOW.frequency)
        np.testing.assert_array_equal(panel.values, expected.values)
        assert [finding.kind for finding in panel_findings(panel, WINDOW)] == ["duplicates"]


def test_different_values_without_a_column_are_averaged_and_said(tmp_path: Path) -> None:
    for name, source in sources(per_pod(pods=(2, 5)).drop(columns="pod"), tmp_path).items():
        panel = read_panel(source, WINDOW.frequency)
        assert "duplicates" in {finding.kind for finding in panel_findings(panel, WINDOW)}, name
    frame = per_pod()
    frame["value"] += np.arange(len(frame)) % 3
    for source in sources(frame.drop(columns="pod"), tmp_path).values():
        found = panel_findings(read_panel(source, WINDOW.frequency), WINDOW)
        [line] = warnings_of(found)[:1]
        assert line.startswith("rows_per_moment: shop/web qps: ")
        assert "source.on_multiple=sum" in line
    few = pd.concat([rows_of(traffic()), rows_of(traffic()).head(5).assign(value=1.0)], ignore_index=True)
    assert warnings_of(panel_findings(read_panel(FrameSource(few), WINDOW.frequency), WINDOW)) == []


def test_a_short_history_of_pods_is_refused_too() -> None:
    with pytest.raises(DataError, match=r"column pod tells them apart.*argument of .*FrameSource"):
        read_panel(FrameSource(per_pod(5, step=600)), WINDOW.frequency)


@pytest.mark.parametrize("how", [None, "sum"])
def test_pods_with_moments_of_their_own_are_refused(tmp_path: Path, how: str | None) -> None:
    frame = per_pod(pods=(3, 3))
    frame["timestamp"] += 7 * frame["pod"].str[-1].astype(int)
    for source in sources(frame, tmp_path, on_multiple=how).values():
        with pytest.raises(DataError, match="come in turn from several values of the column pod"):
            read_panel(source, WINDOW.frequency)
    for source in sources(frame, tmp_path, on_multiple="mean").values():
        read_panel(source, WINDOW.frequency)
    # A pod that replaces another one is no part of a whole.
    one = rows_of(traffic()).assign(pod=np.where(np.arange(2016) < 1000, "pod-1", "pod-2"))
    for source in sources(one, tmp_path, on_multiple=how).values():
        read_panel(source, WINDOW.frequency)


@pytest.mark.parametrize("value", ["max", 1, True])
def test_an_unknown_on_multiple_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="on_multiple"):
        FrameSource(rows_of(traffic()), on_multiple=value)  # type: ignore[arg-type]


# Names.

BLANKS = st.text(st.sampled_from(" \t\u00a0\u2007\u3000\u200b\ufeff"), max_size=3)
NAMES = st.text(st.sampled_from("abc/_-\u00e9 "), min_size=1, max_size=6).filter(lambda name: name.strip())


@given(NAMES, NAMES, st.lists(st.tuples(BLANKS, BLANKS, BLANKS, BLANKS), min_size=6, max_size=6))
@settings(max_examples=50, deadline=None)
def test_blanks_around_names_do_not_count(
    tmp_path_factory: pytest.TempPathFactory, workload: str, metric: str, blanks: list[tuple[str, ...]]
) -> None:
    workload, metric = workload.strip(), metric.strip()
    frame = rows_of(traffic(6))
    frame["workload"] = [a + workload + b for a, b, _, _ in blanks]
    frame["metric"] = [c + metric + d for *_, c, d in blanks]
    for source in sources(frame, tmp_path_factory.mktemp("names")).values():
        panel = read_panel(source, WINDOW.frequency)
        assert panel.series == ((workload, metric),)
        assert panel.observed.all()
        fetched = source.fetch()
        assert {*zip(fetched["workload"], fetched["metric"], strict=True)} == {(workload, metric)}


def test_a_name_of_blanks_is_missing(tmp_path: Path) -> None:
    frame = rows_of(traffic(6)).assign(workload=" \u00a0")
    for source in sources(frame, tmp_path).values():
        with pytest.raises(DataError, match="workload is empty in 6 rows"):
            read_panel(source, WINDOW.frequency)


def test_names_that_differ_in_blanks_or_capitals_are_a_finding() -> None:
    names = ("web", "Web", "we b", "cart", "caf\u00e9", "cafe\u0301")
    frame = pd.concat([rows_of(traffic(seed=n), name) for n, name in enumerate(names)], ignore_index=True)
    found = [finding for finding in examine(frame, WINDOW)[1] if finding.kind == "names"]
    assert {finding.workload for finding in found} == {f"shop/{name}" for name in names if name != "cart"}
    assert "names" in TOLD


# Rows coarser than the bins.


@pytest.mark.parametrize(
    "step, window, remedy",
    [
        (3600, "10min", "a row every 1 h, but bins of 10min: give window=1h"),
        (1200, "10min", "a row every 20 min, but bins of 10min: give window.freq=20min"),
        (DAY, "1H", "a row every 1 d, but bins of 1H: give window=1d"),
        (3600, "1min", "a row every 1 h, but bins of 1min: give window=1h"),
        (600, "1min", "a row every 10 min, but bins of 1min: give window=10min"),
    ],
)
@pytest.mark.parametrize("defect", ["none", "jitter", "missing"])
def test_coarse_rows_name_their_window(step: int, window: str, remedy: str, defect: str) -> None:
    rng = np.random.default_rng(0)
    frame = rows_of(traffic(500, step=step), step=step)
    if defect == "jitter":
        frame["timestamp"] += rng.integers(-20, 20, len(frame))
    elif defect == "missing":
        frame = frame[rng.random(len(frame)) > 0.5]
    with pytest.raises(DataError) as error:
        ForecastDataModule(frame, Window(window, 7, 3)).setup()
    assert str(error.value) == remedy


@pytest.mark.parametrize(
    "second",
    [
        600 * np.arange(2000) + np.random.default_rng(0).integers(-20, 20, 2000),
        np.cumsum(np.random.default_rng(0).exponential(3000, 1000)).astype(int),
        60 * np.flatnonzero(np.random.default_rng(0).random(40_000) < 0.02),
        np.r_[3600 * np.arange(2000), 3600 * 2000 + 60 * np.arange(20_000)],
    ],
    ids=["jitter", "events", "events on minutes", "scraped more often since"],
)
def test_rows_that_are_not_coarse(second: np.ndarray) -> None:
    frame = rows_of(traffic(len(second)), second=START + second)
    assert "coarse_step" not in kinds(frame)
    refuse_coarse(read_panel(FrameSource(frame), WINDOW.frequency))


def test_some_coarse_series_are_a_finding() -> None:
    frame = pd.concat([rows_of(traffic()), rows_of(traffic(300), "slow", step=3600)], ignore_index=True)
    panel = read_panel(FrameSource(frame), WINDOW.frequency)
    refuse_coarse(panel)
    found = [finding for finding in panel_findings(panel, WINDOW) if finding.kind == "coarse_step"]
    assert [finding.workload for finding in found] == ["shop/slow"]


def test_a_model_refuses_coarser_rows() -> None:
    forecaster = kforecast.train(rows_of(traffic()), WINDOW, max_epochs=1, verbose=False)
    hourly = rows_of(traffic(300, step=3600), step=3600)
    for use in (forecaster.forecast, forecaster.evaluate):
        with pytest.raises(DataError, match=r"a row every 1 h, but the bins of .* are 10min") as error:
            use(hourly)
        assert "window=1h" in str(error.value)


def test_the_command_warns_or_refuses(tmp_path: Path) -> None:
    rows_of(counted(traffic())).to_csv(tmp_path / "counter.csv", index=False)
    command = ("kforecast-train", "--dataset-file=counter.csv", "trainer.max_epochs=1", "logger=none")
    done = run_command(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert said.count("WARNING: counter: shop/web qps: it only grows") == 1
    assert "Worth scaling on" not in said
    done = run_command(*command, "data.strict=true", "artifact_dir=other", cwd=tmp_path)
    assert done.returncode == 2
    assert "data.strict=true, but the history has findings:\n  counter: shop/web qps" in done.stderr
    assert not (tmp_path / "other").exists()
    done = run_command(*command, "gate.require_skill=0", "artifact_dir=gated", cwd=tmp_path)
    assert done.returncode == 4
    assert not (tmp_path / "gated").exists()
