"""A replay as a whole: small cases by hand, conservation, order of the drivers, determinism."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kforecast.autoscaling.hpa import HpaPolicy
from kforecast.autoscaling.kapacity import KapacityPolicy
from kforecast.autoscaling.keda import KedaPolicy
from kforecast.replay.recommend import Aim
from kforecast.simulation.drivers import BOTH, PERFECT, REACTIVE, Driver, Served, usual_drivers
from kforecast.simulation.load import Load
from kforecast.simulation.outcomes import Outcomes, Prices
from kforecast.simulation.perfect import worthwhile
from kforecast.simulation.service import LATE, PODS, SERVED, UNSERVED, Service
from kforecast.simulation.simulation import Services, Setting, Signal, simulate

START = 1_704_067_200
DAY = 1440  # bins of a minute


def services(values: np.ndarray, *, share: float = 0.5, forecast: np.ndarray | None = None) -> Services:
    """Services whose pods serve 10 at most, with bins of a minute."""
    values = np.atleast_2d(values).astype(np.float32)
    count = len(values)
    load = Load(values, np.ones(values.shape, bool), START, 60, 0.0, 0, np.arange(count))
    known = values if forecast is None else np.atleast_2d(forecast).astype(np.float32)
    served = Served(np.ascontiguousarray(known.T)[None], np.zeros(4, np.int64), START, 60, 15)
    ones = np.ones((1, count), np.int64)
    capacity = np.full(count, 10.0)
    return Services(load, capacity, np.full(count, share), ones, capacity, [served])


def setting(drivers: list[Driver], **changes: Any) -> Setting:
    usual = {
        "policy": HpaPolicy(),
        "kind": "value_per_pod_total",
        "service": Service(start=60, drain=0),
        "signal": Signal(delay=30, window=30),
        "lead": 75,
        "prices": Prices(),
    }
    return Setting(drivers=drivers, **(usual | changes))


def test_a_step_of_load_by_hand() -> None:
    # Load 10 needs 2 pods at half use; 40 from minute 2 on needs 8. The reactive rule sees the mean of 30 s,
    # 30 s late: of the step at 120 s it sees half at 165 s and all at 180 s.
    load = np.array([10, 10, 40, 40, 40, 40, 40, 40])
    found = simulate(setting([Driver(REACTIVE)]), services(load), 0, 8)
    counts = found.counts[0, :, 0, 0]
    # 165 s: mean 25, so 5 pods, but the controller goes to 4 at most, which serve from 225 s on; 180 s: 8.
    # Until then 2 pods serve 2 of the 4 that arrive (in pods); from 225 s on 4 pods serve all.
    assert counts[UNSERVED] == 7 * 2
    assert counts[SERVED] == 8 * 1 + 7 * 2 + 17 * 4
    # 2 pods until 165 s (11 steps), 4 for a step, then 8.
    assert counts[PODS] == 11 * 2 + 4 + 20 * 8


def test_a_forecast_that_knows_the_step_orders_in_time() -> None:
    load = np.array([10, 10, 10, 40, 40, 40, 40, 40])
    # The answer of a window of two minutes: the larger of this bin and the next two.
    ahead = np.array([10, 40, 40, 40, 40, 40, 40, 40])
    found = simulate(setting([Driver(BOTH, "forecast")]), services(load, forecast=ahead), 0, 8)
    assert found.counts[0, UNSERVED, 0, 0] == 0
    # 4 pods at 60 s, the most that the controller adds at once, and 8 at 75 s.
    assert found.counts[0, PODS, 0, 0] == 4 * 2 + 4 + 27 * 8


def test_perfect_knowledge_starts_pods_just_in_time_and_ends_them_at_once() -> None:
    load = np.array([10, 10, 10, 40, 40, 10, 10, 10])
    found = simulate(setting([Driver(PERFECT, "perfect", reactive=False)]), services(load), 0, 8)
    counts = found.counts[0, :, 0, 0]
    assert counts[UNSERVED] == 0
    # The fleet begins with the 2 pods of today's target; then 1 pod for 10, and 4 for 40, ordered 60 s ahead.
    assert counts[PODS] == (32 - 12) * 1 + (8 + 4) * 4


def test_the_mean_utilization_counts_pods_that_serve_and_sees_served_load_alone() -> None:
    policy = HpaPolicy(max_replicas=20)
    load = np.repeat([10.0, 100.0], [5, 20])
    by_total, by_mean = (
        simulate(setting([Driver(REACTIVE)], policy=policy, kind=kind), services(load), 0, 25)
        for kind in ("value_per_pod_total", "utilization")
    )
    # Demand shows how much is missing at once; utilisation is at most 100 %, so it takes several rounds.
    assert by_mean.counts[0, UNSERVED].sum() > by_total.counts[0, UNSERVED].sum() > 0
    last = by_mean.counts[0, PODS].sum() / by_total.counts[0, PODS].sum()
    assert 0.5 < last < 1.1


def test_a_gap_counts_nowhere_and_stops_scaling_down() -> None:
    load = np.repeat([100.0, 10.0], [10, 50])
    some = services(load)
    gap = np.ones((1, 60), bool)
    gap[0, 10:] = False
    held = Load(some.load.values, gap, START, 60, 0.0, 0, np.arange(1))
    missing = Services(held, some.capacity, some.share, some.floors, some.units, some.forecasts)
    found = simulate(setting([Driver(REACTIVE)]), missing, 0, 60)
    assert found.seconds.sum() == 10 * 60
    assert found.load.sum() == pytest.approx(10 * 10 * 4)
    quick = HpaPolicy(downscale_stabilization=0)
    seen, unseen = (
        simulate(setting([Driver(REACTIVE)], policy=quick, trace=True), one, 0, 60) for one in (some, missing)
    )
    assert seen.worst[0].capacity[59] == 2
    assert unseen.worst[0].capacity[59] == 20


def test_a_forecast_that_is_unknown_stops_scaling_down_and_never_counts_as_zero() -> None:
    load = np.repeat([100.0, 10.0], [10, 50])
    nothing = np.full(60, np.nan)
    drivers = [Driver(BOTH, "forecast"), Driver(REACTIVE)]
    quick = HpaPolicy(downscale_stabilization=0)
    found = simulate(setting(drivers, policy=quick, trace=True), services(load, forecast=nothing), 0, 60)
    assert found.worst[0].capacity[59] == 20
    assert found.worst[1].capacity[59] == 2


policies = st.sampled_from(
    [
        HpaPolicy(),
        HpaPolicy(min_replicas=2, max_replicas=7, downscale_stabilization=0),
        KedaPolicy(cooldown_period=60),
        KapacityPolicy(),
    ]
)


@settings(max_examples=12)
@given(
    policies,
    st.sampled_from(["value_per_pod_total", "utilization", "value_per_pod"]),
    st.sampled_from(["drop", "queue"]),
    st.integers(0, 1000),
)
def test_load_is_conserved_and_any_split_of_the_services_gives_the_same(
    policy: Any, kind: Any, unserved: Any, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    some = services(rng.gamma(2.0, 20.0, (3, 40)))
    rough = Load(some.load.values, some.load.observed, START, 60, 0.3, seed, np.arange(3))
    some = Services(rough, some.capacity, some.share, some.floors, some.units, some.forecasts)
    service = Service(start=45, start_spread=0.5, unserved=unserved)
    chosen = setting(usual_drivers(), policy=policy, kind=kind, service=service, seed=seed)
    whole = simulate(chosen, some, 10, 40)
    counts, load = whole.counts.sum(axis=0), whole.load.sum(axis=0)
    np.testing.assert_allclose(counts[SERVED] + counts[UNSERVED] + whole.queued, np.tile(load, (6, 1)))
    assert (counts[PODS] >= counts[SERVED] - 1e-9).all()
    assert (counts[LATE] >= 0).all()
    parts = Outcomes.joined([simulate(chosen, some.of(np.array(rows)), 10, 40) for rows in ([0], [1, 2])])
    np.testing.assert_allclose(parts.counts, whole.counts, rtol=1e-12)


@settings(max_examples=15)
@given(st.integers(0, 1000), st.integers(15, 240), st.floats(0.3, 0.9))
def test_no_driver_costs_less_than_perfect_knowledge(seed: int, start: int, share: float) -> None:
    # Loads that stay for longer than a pod takes to start, so that each pod is worth its price.
    rng = np.random.default_rng(seed)
    load = np.repeat(rng.integers(1, 12, (2, 8)) * 10.0, 15, axis=1)
    some = services(load, share=share, forecast=np.roll(load, -3, axis=1))
    found = simulate(setting(usual_drivers(), service=Service(start=start, drain=30)), some, 15, 120)
    cost = found.of_drivers(Prices()).set_index("driver")["cost"]
    assert (cost[PERFECT] <= cost + 0.35).all(), cost


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from([0.0, 0.05, 0.3, 0.7, 1.0, 1.4, 2.0]), min_size=1, max_size=9),
    st.integers(0, 2),
    st.sampled_from([1.0, 3.0, 10.0]),
    st.integers(0, 4),
)
def test_perfect_knowledge_is_the_best_of_all_sequences(
    load: list[float], serving: int, under: float, change: int
) -> None:
    demand = np.array(load)

    def cost(pods: tuple[int, ...]) -> float:
        count = np.array(pods)
        begun = np.maximum(np.diff(np.append(serving, count)), 0).sum()
        short, idle = np.maximum(demand - count, 0).sum(), np.maximum(count - demand, 0).sum()
        return float(under * short + idle + change * begun)

    best = min(map(cost, product(range(3), repeat=len(load))))
    found = worthwhile(demand[:, None], np.array([serving]), (under, 1.0), change)[:, 0]
    assert cost(tuple(found)) == pytest.approx(best, abs=1e-4)


def test_without_a_setting_within_the_limits_the_nearest_one_is_chosen() -> None:
    counts = np.zeros((max(PODS, UNSERVED, LATE, SERVED) + 1, 3))
    counts[PODS], counts[UNSERVED] = [100.0, 90.0, 120.0], [2.0, 8.0, 1.0]
    prices = Prices(10.0, 1.0)

    def best(unserved: float | None, replica_hours: float | None) -> tuple[int, bool]:
        return Aim(unserved, replica_hours).best(counts, np.float64(100.0), prices, 15)

    assert best(0.05, 0.1) == (0, False)  # the fewest replicas that leave little enough unserved
    assert best(0.001, None) == (2, False)
    assert best(0.001, 0.5) == (2, False)
    assert best(None, 0.5) == (1, False)
    assert best(0.05, 1.0)[1]
