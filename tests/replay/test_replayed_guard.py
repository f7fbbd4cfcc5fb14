"""The guard of a server, in a replay: the same withdrawals, and what the autoscaler makes of them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import START, run_command
from kforecast.data.panel import Panel
from kforecast.forecaster import Forecaster
from kforecast.guard import SERVED, GuardRules
from kforecast.shadow import GuardSettings, withdrawn
from kforecast.simulation.forecasts import Guarding, Question, answers

GOLDEN = Path(__file__).parents[1] / "golden" / "trio_1min" / "model"
DAY = 1440
CHANGE = slice(4 * DAY + 300, 4 * DAY + 600)


def frame(spikes: bool) -> pd.DataFrame:
    """Five days of a smooth rhythm at a minute; from minute 300 of the last day, every seventh is a burst."""
    key = next(iter(json.loads((GOLDEN / "item2id.json").read_text())))
    minutes = np.arange(5 * DAY)
    noise = np.random.default_rng(0).normal(0, 2, len(minutes))
    load = 100 + 60 * np.sin(2 * math.pi * minutes / 720) + noise
    if spikes:
        load[CHANGE] = np.where(minutes[CHANGE] % 7 == 0, 400, load[CHANGE])
    return pd.DataFrame(
        {"timestamp": START + 60 * minutes, "value": load, "workload": key[:-3], "metric": key[-3:]}
    )


@pytest.fixture(scope="module")
def guarded() -> tuple[Forecaster, Panel, Guarding]:
    forecaster = Forecaster.load(GOLDEN)
    panel = Panel.from_frame(frame(spikes=True), forecaster.window.frequency, forecaster.bin_calendar)
    rules = GuardRules.of(60, DAY, forecaster.window.prediction_length, 60, 10 / 11)
    return forecaster.calibrated(panel, DAY, 3 * DAY), panel, Guarding(rules, 4 * DAY - 288)


def test_a_withdrawn_forecast_is_no_answer_and_all_others_are_as_without_a_guard(
    guarded: tuple[Forecaster, Panel, Guarding],
) -> None:
    forecaster, panel, guarding = guarded
    questions = [Question(0.9, 60), Question(0.5, 180), Question(0.9, 180)]
    given = (forecaster, panel, (4 * DAY, 5 * DAY), questions, 15, 15)
    with_guard, without = answers(*given, guarding), answers(*given)
    seconds = START + 4 * 86_400 + 15 * np.arange(4 * DAY)
    for one, other in zip(with_guard, without, strict=True):
        assert one.states is not None
        assert other.states is None
        away = one.states[0] != SERVED
        assert 100 < away.sum() < 800
        assert not away[:300].any()
        # In the first 15 s of a bin the answer is from the bin before it.
        gone = np.repeat(away, 4)
        gone[::4] = np.concatenate([[False], away[:-1]])
        expected = np.where(gone, np.nan, other.at(seconds)[:, 0])
        np.testing.assert_array_equal(one.at(seconds)[:, 0], expected)
    # Another window asks for the same forecasts; another quantile is judged for itself.
    np.testing.assert_array_equal(with_guard[0].states, with_guard[2].states)


@pytest.mark.parametrize("minute", [200, 305, 500, 700])
def test_a_server_that_starts_at_a_moment_finds_the_same(
    minute: int, guarded: tuple[Forecaster, Panel, Guarding]
) -> None:
    forecaster, panel, guarding = guarded
    end = 4 * DAY + minute
    (served,) = answers(forecaster, panel, (4 * DAY, 5 * DAY), [Question(0.9, 60)], 15, 15, guarding)
    until = replace(panel, values=panel.values[:, :end], observed=panel.observed[:, :end])
    found = withdrawn(forecaster, until, GuardSettings("max", 0.9, 60, 10))
    assert served.states is not None
    assert bool(found) == bool(served.states[0, minute] != SERVED)
    if found:
        assert found[0].cause == served.states[0, minute]


def arguments(*more: str) -> list[str]:
    return [
        f"artifact_dir={GOLDEN}", "source.path=traffic.csv", f"replay.start={START + 3 * 86_400}",
        "hydra.run.dir=run", "replay.quantiles=[0.9]", "replay.windows=[120]", "replay.targets=[1.0]",
        "replay.floors=[null]", "replay.processes=1", "capacity.lead_time=60", *more,
    ]  # fmt: skip


@pytest.mark.parametrize("spikes", [True, False])
def test_the_command_says_how_often_and_how_long(spikes: bool, tmp_path: Path) -> None:
    frame(spikes).to_csv(tmp_path / "traffic.csv", index=False)
    done = run_command("kforecast-replay", *arguments(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "run" / "replay.json").read_text(encoding="utf-8"))
    (guard,) = content["guard"]
    line = next(one for one in done.stdout.splitlines() if one.startswith("Guard: "))
    assert line in (tmp_path / "run" / "replay.html").read_text(encoding="utf-8")
    (service,) = content["series"]
    assert service["guard"] == [{key: guard[key] for key in ("withdrawals", "hours", "causes")}]
    if not spikes:
        assert line == "Guard: the forecast would never have been withdrawn"
        return
    assert line.startswith("Guard: the forecast would have been withdrawn once, for ")
    assert guard["causes"]["above"] == guard["withdrawals"] == 1
    done = run_command("kforecast-replay", *arguments("replay.guard=false"), cwd=tmp_path)
    other = json.loads(sorted(tmp_path.glob("run*/replay.json"))[-1].read_text(encoding="utf-8"))
    assert "Guard: " not in done.stdout
    assert other["guard"] == []
    by_driver = [{one["driver"]: one for one in found["drivers"]} for found in (content, other)]
    for driver, same in (("reactive", True), ("forecast alone", False)):
        assert (by_driver[0][driver] == by_driver[1][driver]) == same
