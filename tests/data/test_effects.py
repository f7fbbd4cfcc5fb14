"""Effects of known events: learned from hand-made occurrences, taken out of history, put into forecasts."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_events import HOUR, MONDAY, panel_of, traffic

from kforecast.data.events.effects import Effect, Effects, Plan, learned
from kforecast.data.events.known import KnownEvent, KnownEvents
from kforecast.data.panel import Panel
from kforecast.window import Frequency

FINE = Frequency.parse("10min")
DAY = 144


def sale(day: int, hour: float = 12, hours: float = 2, workload: str = "*", **others) -> KnownEvent:
    begin = MONDAY + day * 86_400 + round(hour * 3600)
    return KnownEvent(begin, begin + round(hours * 3600), workload, "sale", **others)


def with_events(values: np.ndarray, events: list[KnownEvent], factor: float = 3.0) -> np.ndarray:
    values = np.atleast_2d(values).copy()
    for event in events:
        begin, end = ((second - MONDAY) // 600 for second in (event.begin, event.end))
        values[:, begin:end] *= factor
    return values


THREE = [sale(9), sale(17, 18), sale(25, 9)]


def history(factor: float = 3.0, noise: float = 0.05, series: int = 2, days: int = 35) -> Panel:
    values = np.stack([traffic(days, DAY, seed, noise) for seed in range(series)])
    return panel_of(with_events(values, THREE, factor), FINE)


@pytest.mark.parametrize("factor", [0.3, 1.5, 3.0, 8.0])
def test_an_effect_is_learned_from_earlier_occurrences(factor: float) -> None:
    effect = learned(history(factor), KnownEvents((*THREE, sale(40)))).by_name["sale"]
    assert effect.count == 3
    assert effect.factor == pytest.approx(factor, rel=0.03)
    assert {key: count for key, (count, _) in effect.series.items()} == {"w0m": 3, "w1m": 3}


def test_history_becomes_ordinary_and_forecasts_do_not_stay_so() -> None:
    known = KnownEvents((*THREE, sale(40)))
    panel, usual = history(), history(factor=1.0)
    plan = Plan(known, learned(panel, known))
    ordinary = plan.ordinary(panel)
    np.testing.assert_allclose(ordinary.values, usual.values, rtol=0.06)
    outside = panel.values == usual.values
    np.testing.assert_array_equal(ordinary.values[outside], usual.values[outside])
    bins = np.arange(40 * DAY, 41 * DAY)  # beyond the panel
    factors = plan.factors(panel, np.array([[0], [1]]), bins)
    during = (bins >= 40 * DAY + 72) & (bins < 40 * DAY + 84)
    np.testing.assert_allclose(factors[:, during], 3.0, rtol=0.1)
    np.testing.assert_array_equal(factors[:, ~during], 1)
    assert plan.factors(panel, np.array([0]), np.arange(100)) is None


def test_a_part_of_a_bin_has_a_part_of_the_effect() -> None:
    event = sale(1, 12, 0.25, factor=3.0)  # a quarter of an hour
    factors = Plan(KnownEvents((event,))).factors(history(), np.array([0]), DAY + 72 + np.arange(3))
    np.testing.assert_allclose(factors, [3, 2, 1])
    hourly = panel_of(traffic(), HOUR)
    assert Plan(KnownEvents((event,))).factors(hourly, np.array([0]), np.array([36])) == pytest.approx(1.5)


def test_a_given_factor_counts_as_one_more_occurrence() -> None:
    once = KnownEvents((THREE[0], sale(40, factor=2.0)))
    panel = panel_of(with_events(traffic(35, DAY), [THREE[0]], 8.0), FINE)
    plan = Plan(once, learned(panel, once))
    found = plan.factors(panel, np.array([0]), np.array([40 * DAY + 75]))
    assert 2 < found < 8
    unknown = Plan(once).factors(panel, np.array([0]), np.array([40 * DAY + 75]))
    assert unknown == pytest.approx(2.0)


def test_series_differ_and_a_new_one_has_the_mean() -> None:
    values = np.stack([traffic(35, DAY, seed) for seed in range(2)])
    panel = panel_of(
        np.stack([with_events(values[0], THREE, 4.0)[0], with_events(values[1], THREE, 1.0)[0]]), FINE
    )
    known = KnownEvents((*THREE, sale(40)))
    plan = Plan(known, learned(panel, known))
    other = replace(panel, series=(("w0", "m"), ("x", "m")))
    bins = np.array([[40 * DAY + 75]])
    first, second = plan.factors(panel, np.array([[0], [1]]), bins).ravel()
    assert first > 3
    assert second < 1.3
    assert plan.factors(other, np.array([[1]]), bins).item() == pytest.approx(2.0, rel=0.05)


def test_a_course_over_the_duration_is_learned_when_occurrences_agree() -> None:
    values = traffic(35, DAY, noise=0.02)
    for event in THREE:
        begin = (event.begin - MONDAY) // 600
        values[begin : begin + 12] *= np.repeat([4.0, 3.0, 2.0, 1.5], 3)
    panel = panel_of(values, FINE)
    known = KnownEvents((*THREE, sale(40)))
    plan = Plan(known, learned(panel, known))
    found = plan.factors(panel, np.array([0]), 40 * DAY + 72 + np.arange(12))
    np.testing.assert_allclose(found, np.repeat([4.0, 3.0, 2.0, 1.5], 3), rtol=0.15)


def test_incidents_become_missing_and_teach_nothing() -> None:
    clean = history()
    outage = replace(sale(16, 18), name="down", incident=True)  # the day before an occurrence
    values = clean.values.copy()
    values[:, 16 * DAY + 108 : 16 * DAY + 120] = 0
    panel = replace(clean, values=values)
    known = KnownEvents((*THREE,)).and_those([outage])
    plan = Plan(known, learned(panel, known))
    ordinary = plan.ordinary(panel)
    assert (~ordinary.observed).sum() == 2 * 12
    assert not ordinary.observed[:, 16 * DAY + 108 : 16 * DAY + 120].any()
    assert plan.effects.by_name["sale"].factor == pytest.approx(3.0, rel=0.03)
    assert panel.observed.all(), "unchanged"


def test_what_is_not_known_is_said() -> None:
    panel = history()
    future = KnownEvents((sale(40), replace(sale(41, workload="w9"), factor=2.0)), "events.csv")
    strange, idle = Plan(future, learned(panel, future)).warnings(panel)
    assert strange.startswith("events.csv names workloads that the data does not have: w9")
    assert "nothing was learned about sale: rows without a factor have no effect" in idle
    assert Plan(KnownEvents((sale(40, factor=2.0),))).warnings(panel) == []


def test_an_occurrence_after_the_stop_teaches_nothing() -> None:
    known = KnownEvents((*THREE,))
    assert learned(history(), known, 20 * DAY).by_name["sale"].count == 2


def test_effects_are_read_as_they_were_written() -> None:
    effects = learned(history(), KnownEvents((*THREE,)))
    again = Effects.from_dict(json.loads(json.dumps(effects.as_dict())))
    assert again.as_dict() == effects.as_dict()


@given(
    content=st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["count", "log", "series", "profile", "x"]), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_damaged_effects_are_refused(content: object) -> None:
    try:
        found = Effects.from_dict(content)
    except ValueError:
        return
    for effect in found.by_name.values():
        assert isinstance(effect, Effect)
        assert math.isfinite(effect.log)


def test_an_incident_during_an_occurrence_is_left_out_of_its_effect() -> None:
    panel = history()
    values = panel.values.copy()
    begin = (THREE[0].begin - MONDAY) // 600
    values[:, begin + 8 : begin + 12] = 0
    outage = replace(sale(9, 12 + 8 / 6, 4 / 6), name="down", incident=True)
    known = KnownEvents((*THREE,)).and_those([outage])
    effect = learned(replace(panel, values=values), known).by_name["sale"]
    assert effect.factor == pytest.approx(3.0, rel=0.03)


def test_the_product_of_many_events_has_the_limits_of_one() -> None:
    panel = history(factor=1.0)
    for factor, expected in ((100.0, 100.0), (0.2, 0.01)):
        known = (replace(sale(20, factor=factor), name=f"sale {number}") for number in range(50))
        plan = Plan(KnownEvents(tuple(known)))
        ordinary = plan.ordinary(panel)
        at = 20 * DAY + 72
        assert plan.factors(panel, np.array([0]), np.array([at])) == pytest.approx(expected)
        assert np.isfinite(ordinary.values).all()
        if factor > 1:
            np.testing.assert_allclose(ordinary.values[:, at], panel.values[:, at] / 100, rtol=1e-5)
        else:
            assert not ordinary.observed[:, at].any()  # too little is left to divide by
