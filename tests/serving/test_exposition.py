"""The text of GET /metrics, read back by Prometheus' own parser."""

import asyncio
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hand_made import ORIGIN, STEP, Shown, snapshot
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from kforecast.serving.board import Board
from kforecast.serving.exposition import Exposition
from kforecast.serving.snapshot import NothingHonestError
from kforecast.version import __version__

FORECASTS = ("kforecast_forecast", "kforecast_forecast_max")
Found = dict[tuple[str, frozenset[tuple[str, str]]], float]


def text_of(board: Board, quantiles: Sequence[float] = (0.5, 0.9), **spans: Any) -> str:
    return asyncio.run(Exposition(board, quantiles, **spans).render()).decode()


def parsed(text: str) -> Found:
    found: Found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            assert np.isfinite(sample.value)
            found[key] = sample.value
    return found


def samples(found: Found, *names: str) -> dict[tuple[str, ...], float]:
    """Samples of some metrics, by the values of their labels in the order of the labels' names."""
    return {
        tuple(value for _, value in sorted(labels)): value
        for (name, labels), value in found.items()
        if name in names
    }


@pytest.mark.parametrize("moment", [0, 1, STEP - 1, STEP, 2 * STEP + 5])
def test_forecasts_are_those_of_the_snapshot(moment: int) -> None:
    shown = Shown()
    shown.clock.now += moment
    found = parsed(text_of(shown.board))
    current = shown.board.snapshot
    assert current is not None
    expected = {}
    for row, (workload, metric) in enumerate(current.series):
        for level in (0.5, 0.9):
            for lead in (0, 600, 1200):
                try:
                    answer = current.answer(row, shown.clock.now, quantile=level, lead=lead)
                except NothingHonestError:
                    continue
                expected[(str(lead), metric, str(level), workload)] = answer.forecast
    assert samples(found, "kforecast_forecast") == expected
    assert len(expected) == 2 * 2 * (3 - moment // STEP)
    maxima = {
        (metric, str(level), "1800", workload): current.answer(
            row, shown.clock.now, quantile=level, window=1800
        ).forecast
        for row, (workload, metric) in enumerate(current.series[:2])
        for level in (0.5, 0.9)
    }
    assert samples(found, "kforecast_forecast_max") == maxima


def test_leads_and_windows_can_be_chosen() -> None:
    found = parsed(text_of(Shown().board, (0.5,), leads=(0, 601.5, 9999), windows=(600, 1200, 1e9)))
    web = {labels[0]: value for labels, value in samples(found, FORECASTS[0]).items() if "shop/web" in labels}
    assert web == {"0": 10, "601.5": 20}
    largest = {
        labels[2]: value for labels, value in samples(found, FORECASTS[1]).items() if "shop/web" in labels
    }
    assert largest == {"600": 10, "1200": 20}


def test_without_intervals_the_point_forecast_is_shown() -> None:
    shown = Shown()
    shown.board.snapshot = snapshot(quantiles_of=None)
    found = samples(parsed(text_of(shown.board, leads=(0,))), "kforecast_forecast")
    assert found == {("0", "qps", "point", "shop/web"): 10, ("0", "qps", "point", "shop/cart"): 0}


@pytest.mark.parametrize(
    "moment, row, shown_forecasts, shown_observed",
    [
        (0, {}, True, True),
        (3 * STEP, {}, False, True),  # the last bin has ended
        (3 * STEP + 1, {}, False, False),  # and the newest value is older than the horizon
        (-1, {}, False, False),
        (0, {"observed_end": np.array([ORIGIN - 3 * STEP - 1, ORIGIN, 0])}, False, False),
        (0, {"missing": {0: "refused"}}, False, True),
        (0, {"values": np.full((3, 3), np.nan, np.float32)}, False, True),
        (0, {"observed": np.full(3, np.inf)}, True, False),
    ],
)
def test_what_is_stale_or_missing_is_absent(
    moment: int, row: dict[str, Any], shown_forecasts: bool, shown_observed: bool
) -> None:
    shown = Shown()
    shown.clock.now += moment
    shown.board.snapshot = snapshot(**row)
    found = parsed(text_of(shown.board))
    for names, expected in ((FORECASTS, shown_forecasts), (("kforecast_observed",), shown_observed)):
        assert any("shop/web" in labels for labels in samples(found, *names)) is expected
    age = shown.clock.now - shown.board.snapshot.observed_end[0]
    assert samples(found, "kforecast_forecast_age_seconds")[("qps", "shop/web")] == age
    assert ("qps", "shop/new") not in samples(found, *FORECASTS, "kforecast_forecast_age_seconds")


def test_a_later_text_is_that_of_its_moment_and_snapshot() -> None:
    shown = Shown()
    exposition = Exposition(shown.board, (0.5,), leads=(0,))

    def web() -> float | None:
        found = samples(parsed(asyncio.run(exposition.render()).decode()), "kforecast_forecast")
        return found.get(("0", "qps", "0.5", "shop/web"))

    assert [web(), web()] == [10, 10]
    shown.clock.now += STEP
    assert web() == 20
    shown.board.snapshot = snapshot(values=np.full((3, 3), 7, np.float32))
    assert web() == 7
    shown.clock.now += 2 * STEP
    assert web() is None
    shown.clock.now = ORIGIN
    assert web() == 7
    shown.board.snapshot = None
    assert web() is None


def test_how_the_server_fares() -> None:
    shown = Shown()
    board = shown.board
    shown.clock.now += 60
    board.failed("fetch", RuntimeError())
    board.fetches, board.forecasts = [3, 1.5, 0.5], [2, 0.25, 0.125]
    board.refused_artifact = "damaged"
    found = parsed(text_of(board))
    expected = {
        "kforecast_ready": {(): 1},
        "kforecast_artifact_refused": {(): 1},
        "kforecast_artifact_info": {("ab" * 32, __version__): 1},
        "kforecast_events_refused": {(): 0},
        "kforecast_failures_total": {
            (cause,): float(cause == "fetch") for cause in ("fetch", "data", "artifact", "events", "forecast")
        },
        "kforecast_fetches_total": {(): 3},
        "kforecast_fetch_seconds_count": {(): 3},
        "kforecast_fetch_seconds_sum": {(): 1.5},
        "kforecast_forecasts_total": {(): 2},
        "kforecast_forecast_seconds_sum": {(): 0.25},
        "kforecast_origin_timestamp_seconds": {(): ORIGIN},
        "kforecast_series": {("forecast",): 2, ("missing",): 1},
        "kforecast_observed": {("qps", "shop/web"): 12, ("qps", "shop/cart"): 0},
        "kforecast_forecast_age_seconds": {("qps", "shop/web"): 60, ("qps", "shop/cart"): 60},
        "kforecast_newest_point_timestamp_seconds": {
            ("qps", "shop/web"): ORIGIN,
            ("qps", "shop/cart"): ORIGIN,
        },
    }
    assert {name: samples(found, name) for name in expected} == expected
    assert samples(found, "process_resident_memory_bytes")[()] > 0


def test_before_a_first_forecast_there_are_only_the_metrics_of_the_server() -> None:
    found = parsed(text_of(Board()))
    assert samples(found, "kforecast_ready") == {(): 0}
    assert samples(found, *FORECASTS, "kforecast_series", "kforecast_observed") == {}


def many(names: Sequence[str]) -> Shown:
    """A board of a series for each name."""
    shown, count = Shown(), len(names)
    shown.board.snapshot = snapshot(
        series=tuple((name, "qps") for name in names),
        values=np.arange(3 * count, dtype=np.float32).reshape(count, 3),
        observed=np.arange(count, dtype=np.float64),
        observed_end=np.full(count, ORIGIN),
        missing={},
    )
    return shown


@given(st.lists(st.text(st.sampled_from('ab"\\\n{},= é'), min_size=1, max_size=6), unique=True, max_size=5))
def test_any_name_comes_back(names: list[str]) -> None:
    found = samples(parsed(text_of(many(names).board, (0.5,))), "kforecast_observed")
    assert found == {("qps", name): row for row, name in enumerate(names)}


def test_others_have_their_turn_while_many_series_are_written() -> None:
    shown, turns = many([f"shop/{number}" for number in range(1000)]), 0

    async def both() -> bytes:
        nonlocal turns
        rendering = asyncio.create_task(Exposition(shown.board, (0.5, 0.9)).render())
        while not rendering.done():
            await asyncio.sleep(0)
            turns += 1
        return await rendering

    text = asyncio.run(both()).decode()
    # No more than a few hundred of 11,000 samples between two turns.
    assert turns > 40
    found = samples(parsed(text), *FORECASTS)
    assert len(found) == 1000 * 2 * 4
    assert found[("1200", "qps", "0.5", "shop/999")] == 2999
    assert text.count("# TYPE kforecast_forecast gauge\n") == 1


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("board", [Shown().board, Board()], ids=["forecast", "empty"])
def test_promtool_finds_only_the_label_that_is_meant(board: Board) -> None:
    """It wants the label quantile for summaries alone; a forecast at a quantile has no better name for it."""
    command = ["promtool", "check", "metrics"]
    checked = subprocess.run(command, input=text_of(board), capture_output=True, text=True)
    meant = {f'{name} non-summary metrics should not have "quantile" label' for name in FORECASTS}
    said = {*(checked.stdout + checked.stderr).splitlines()}
    assert said == (meant if board.snapshot is not None else set())
    assert checked.returncode == (3 if said else 0)


def test_a_level_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.5"):
        Exposition(Board(), (0.5, 1.5))
