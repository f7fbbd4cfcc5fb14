"""The report on a history: its measures, and a finding for every problem."""

import numpy as np
import pandas as pd
import pytest

from kforecast.data.findings import Finding
from kforecast.data.quality import examine, findings_text, quality_table
from kforecast.window import Frequency, Window

START = 1_704_067_200
DAY = 86_400
WINDOW = Window(Frequency.parse("10min"), 7, 3)


def healthy(name: str = "web", days: int = 14, step: int = 60, seed: int = 0) -> pd.DataFrame:
    """Two weeks of a noisy daily cycle."""
    seconds = np.arange(START, START + days * DAY, step)
    noise = np.random.default_rng(seed).normal(0, 2, len(seconds))
    value = 100 + 40 * np.sin(2 * np.pi * seconds / DAY) + noise
    columns = {
        "timestamp": seconds.astype(float),
        "value": value,
        "workload": f"shop/{name}",
        "metric": "qps",
    }
    return pd.DataFrame(columns)


def kinds(findings: list[Finding]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for finding in findings:
        found.setdefault(finding.workload.removeprefix("shop/"), []).append(finding.kind)
    return found


def one(frame: pd.DataFrame, window: Window = WINDOW) -> tuple[dict[str, object], list[str]]:
    table, findings = examine(frame, window)
    assert len(table) == 1
    return table.iloc[0].to_dict(), [finding.kind for finding in findings]


def test_eight_seeded_faults_are_each_named() -> None:
    empty = healthy("empty").assign(value=np.nan)
    gap = healthy("gap").drop(range(5000, 6000))
    duplicate = healthy("duplicate")
    duplicate = pd.concat([duplicate, duplicate.iloc[300:350]])
    counter = healthy("counter")
    counted = counter["value"].cumsum()
    counter["value"] = np.where(counter.index < 9000, counted, counted - counted[9000])
    late = healthy("late")
    late["timestamp"] += 1
    constant = healthy("constant").assign(value=7.0)
    short = healthy("short").tail(600)
    milliseconds = healthy("milliseconds")
    milliseconds["timestamp"] *= 1000
    faulty = [empty, gap, duplicate, counter, late, constant, short, milliseconds]
    fine = [healthy(f"fine-{seed}", seed=seed) for seed in range(3)]
    table, findings = examine(pd.concat([*faulty, *fine], ignore_index=True), WINDOW)
    assert len(table) == 11
    assert kinds(findings) == {
        "empty": ["empty"],
        "gap": ["gaps"],
        "duplicate": ["duplicates"],
        "counter": ["counter"],
        "late": ["misaligned"],
        "constant": ["constant"],
        "short": ["too_short"],
        "milliseconds": ["time_unit"],
    }
    assert all(len(finding.message) > 20 and "\n" not in finding.message for finding in findings)


def test_a_healthy_series_has_no_finding() -> None:
    row, found = one(healthy())
    assert found == []
    assert (row["points"], row["step"], row["missing"], row["longest_gap"]) == (14 * 1440, 60, 0, 0)
    assert (row["first"], row["last"]) == (START, START + 14 * DAY - 60)
    assert (row["duplicates"], row["nan"], row["negative"], row["counter"], row["offset"]) == (
        0,
        0,
        0,
        False,
        0,
    )
    assert row["bins"] == 14 * 144
    assert row["daily"] > 0.95
    assert findings_text([]) == "Nothing to complain about."


def test_a_gap_is_measured() -> None:
    frame = healthy().drop(range(1000, 1120))
    row, _ = one(frame)
    assert row["longest_gap"] == 121 * 60
    assert row["missing"] == pytest.approx(120 / (14 * 1440))


def test_nan_negative_and_infinite_rows_are_counted() -> None:
    frame = healthy()
    frame.loc[:999, "value"] = np.nan
    frame.loc[2000:2004, "value"] = -1.0
    frame.loc[3000, "value"] = np.inf
    row, found = one(frame)
    assert (row["nan"], row["negative"]) == (1000, 5)
    assert found == ["infinite", "missing_values", "negative"]


def test_a_stretch_of_one_value_is_found_where_it_is_long() -> None:
    frame = healthy()
    frame.loc[2000 : 2000 + 2 * 1440, "value"] = 5.0
    row, found = one(frame)
    assert row["constant"] == 2 * 1440 + 1
    assert found == ["constant"]
    frame = healthy()
    frame.loc[2000:2300, "value"] = 0.0
    assert one(frame)[1] == []


def test_noise_has_no_season_and_a_cycle_has() -> None:
    frame = healthy(days=3)
    frame["value"] = np.random.default_rng(1).normal(100, 10, len(frame))
    noise, _ = one(frame)
    assert noise["daily"] < 0.2
    assert np.isnan(noise["weekly"])
    weekly = healthy(days=28)
    weekly["value"] = 100.0 + 50 * ((weekly["timestamp"] // DAY) % 7 == 0)
    assert one(weekly)[0]["weekly"] > 0.9


@pytest.mark.parametrize(
    "per_second, unit",
    [(1000, "milliseconds"), (1e6, "microseconds"), (1 / 60, "minutes"), (1 / DAY, "days")],
)
def test_units_of_time(per_second: float, unit: str) -> None:
    frame = healthy(step=DAY, days=60)
    frame["timestamp"] = (frame["timestamp"] * per_second).round()
    _, findings = examine(frame, Window(Frequency.parse("1D"), 7, 3))
    assert [finding.kind for finding in findings] == ["time_unit"]
    assert f"look like {unit};" in findings[0].message


def test_rows_coarser_than_the_bins() -> None:
    assert "coarse_step" in one(healthy(step=3600))[1]
    assert one(healthy(step=3600), Window(Frequency.parse("1H"), 7, 3))[1] == []


@pytest.mark.parametrize("length", [1, 2, 9])
def test_the_shortest_series(length: int) -> None:
    row, found = one(healthy().head(length))
    assert row["points"] == length
    assert "too_short" in found


def test_timestamps_that_are_missing_and_no_rows_at_all() -> None:
    frame = healthy()
    frame.loc[5, "timestamp"] = np.nan
    assert one(frame)[0]["points"] == 14 * 1440 - 1
    table, findings = examine(healthy().head(0), WINDOW)
    assert table.empty
    assert findings == []


def test_tables_of_many_series_show_the_worst() -> None:
    frames = [healthy(f"web-{n}", days=3, seed=n).iloc[: 4000 - 10 * n] for n in range(15)]
    frames[12] = frames[12].drop(frames[12].index[100:200])
    table, findings = examine(pd.concat(frames, ignore_index=True), WINDOW)
    text = quality_table(table, WINDOW)
    assert "15 series; the 10 with the most missing" in text
    assert "shop/web-12" in text
    assert "shop/web-12 qps" in findings_text(findings)
