"""Incidents in history: each kind is found where it was put, and ordinary traffic has none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_events import panel_of, traffic

from kforecast.data.events.effects import Plan
from kforecast.data.events.incidents import found_incidents, incidents_text
from kforecast.data.events.known import KnownEvents
from kforecast.window import Frequency

FINE = Frequency.parse("10min")
DAY, DAYS = 144, 42
BEGIN = 20 * DAY + 60


def put(kind: str, values: np.ndarray) -> int:
    """Put an incident into a series at ``BEGIN``; return its end."""
    if kind == "outage":
        values[BEGIN : BEGIN + 9] = 0
        return BEGIN + 9
    if kind == "flat line":
        values[BEGIN : BEGIN + 24] = values[BEGIN - 1]
        return BEGIN + 24
    if kind == "burst":
        values[BEGIN : BEGIN + 12] *= 1 + 6 * np.sin(np.pi * (np.arange(12) + 0.5) / 12)
        return BEGIN + 12
    if kind == "spike":
        values[BEGIN] *= 12
        return BEGIN + 1
    if kind == "late rows":
        values[BEGIN + 11] = values[BEGIN : BEGIN + 12].sum()
        values[BEGIN : BEGIN + 11] = np.nan
        return BEGIN + 12
    values[BEGIN : BEGIN + 48] *= {"double counting": 2, "partial loss": 0.4, "wrong unit": 1000}[kind]
    return BEGIN + 48


KINDS = [
    "outage",
    "flat line",
    "burst",
    "spike",
    "double counting",
    "partial loss",
    "wrong unit",
    "late rows",
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_incident_is_found_named_and_left_out(kind: str) -> None:
    values = np.stack([traffic(DAYS, DAY, seed) for seed in range(3)])
    end = put(kind, values[1])
    panel = panel_of(values, FINE)
    (found,) = found_incidents(panel)
    assert (found.row, found.kind, found.known.name) == (1, kind, kind)
    begin, stop = panel.bin_at(found.known.begin), panel.bin_at(found.known.end)
    if kind == "late rows":
        assert (begin, stop) == (end - 1, end)
    else:
        assert abs(begin - BEGIN) <= 2
        assert abs(stop - end) <= 2
    assert f"w1 m: {kind} from 2024-01-21 " in incidents_text(panel, [found])
    masked = Plan(KnownEvents((found.known,))).without_incidents(panel)
    assert panel.observed.sum() - masked.observed.sum() == stop - begin


@given(seed=st.integers(0, 1000), noise=st.floats(0.0, 0.1), weekend=st.sampled_from([0.3, 0.6, 1.0]))
@settings(max_examples=20)
def test_ordinary_traffic_has_none(seed: int, noise: float, weekend: float) -> None:
    assert found_incidents(panel_of(traffic(28, DAY, seed, noise, weekend), FINE)) == []


@pytest.mark.parametrize("factor", [0.3, 2.0, 5.0])
def test_a_new_level_is_none(factor: float) -> None:
    values = traffic(DAYS, DAY)
    values[20 * DAY + 50 :] *= factor
    assert found_incidents(panel_of(values, FINE)) == []


def test_a_habit_is_none() -> None:
    values = traffic(DAYS, DAY)
    for day in range(2, DAYS, 7):
        values[day * DAY + 20 : day * DAY + 26] *= 6
    assert found_incidents(panel_of(values, FINE)) == []


def test_what_is_not_over_is_none() -> None:
    values = traffic(DAYS, DAY)
    put("double counting", values)
    panel = panel_of(values, FINE)
    assert len(found_incidents(panel)) == 1
    assert found_incidents(panel, BEGIN + 24) == []


def test_bins_of_a_day_and_odd_series_are_no_problem() -> None:
    daily = panel_of(100 + np.arange(60.0), Frequency.parse("1D"))
    assert found_incidents(daily) == []
    assert "not in bins of 1D" in incidents_text(daily, [])
    nothing, zeros, negative = np.full(DAYS * DAY, np.nan), np.zeros(DAYS * DAY), -traffic(DAYS, DAY)
    assert found_incidents(panel_of(np.stack([nothing, zeros, negative]), FINE)) == []
