"""The simulated services: starting, serving, draining, queueing, by hand and by conservation."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kforecast.simulation.service import BUSY, LATE, PODS, SCALINGS, SERVED, SHORT, UNSERVED, Fleet, Service


def fleet(service: Service, replicas: int = 2) -> Fleet:
    return Fleet(service, np.array([[replicas]]), 15, 0, np.arange(1))


def run(fleet: Fleet, demand: list[float], orders: dict[int, int]) -> np.ndarray:
    for step, load in enumerate(demand):
        fleet.begin_step()
        if step in orders:
            fleet.order(np.array([[orders[step]]]))
        fleet.serve(np.array([load]))
    return fleet.taken()[:, 0, 0]


def test_pods_serve_when_their_start_has_passed() -> None:
    # 4 pods are needed from step 2 on, ordered there, and serve 30 s (2 steps) later.
    counts = run(fleet(Service(start=30)), [2, 2, 4, 4, 4, 4], {2: 4})
    assert counts[SERVED] == 2 + 2 + 2 + 2 + 4 + 4
    assert counts[UNSERVED] == 4
    assert counts[SHORT] == 2
    # Pods cost from the order on.
    assert counts[PODS] == 2 + 2 + 4 * 4
    assert counts[BUSY] == 6
    assert counts[SCALINGS] == 1


def test_a_pod_without_a_starting_time_serves_at_once() -> None:
    counts = run(fleet(Service(start=0)), [2, 4], {1: 4})
    assert counts[UNSERVED] == 0
    assert counts[PODS] == 6


def test_a_pod_that_ends_serves_no_new_load_but_costs_until_it_has_drained() -> None:
    counts = run(fleet(Service(drain=30)), [2, 2, 2, 2, 2], {1: 1})
    assert counts[SERVED] == 2 + 1 + 1 + 1 + 1
    # The pod that ends at step 1 lives through steps 1 and 2.
    assert counts[PODS] == 2 + 2 + 2 + 1 + 1


def test_pods_that_do_not_serve_yet_end_first_and_the_latest_of_them() -> None:
    pods = fleet(Service(start=45, drain=0))
    # 2 more are ordered at step 0 and 3 more at step 1; at step 2 four of these five are called off.
    counts = run(pods, [2, 2, 2, 9, 9], {0: 4, 1: 7, 2: 3})
    assert pods.ready.item() == 3
    assert pods.starting.item() == 0
    # The one that is left was ordered first, and serves from step 3 on.
    assert counts[SERVED] == 2 + 2 + 2 + 3 + 3


def test_a_queue_holds_the_load_until_pods_serve_it() -> None:
    service = Service(start=15, unserved="queue", queue_seconds=150)
    counts = run(fleet(service), [4, 2, 0, 0], {0: 4})
    # Of the first step's load 2 wait; 4 pods serve all of it in the second.
    assert counts[SERVED] == 6
    assert counts[UNSERVED] == 0
    assert counts[LATE] == 2


def test_a_queue_that_is_full_loses_the_rest() -> None:
    counts = run(fleet(Service(unserved="queue", queue_seconds=15)), [10, 0], {})
    # 2 are served, 2 wait (one step of two pods), 6 are lost.
    assert counts[UNSERVED] == 6
    assert counts[LATE] == 2
    assert counts[SERVED] == 4


loads = st.lists(st.floats(0, 20, allow_nan=False), min_size=1, max_size=40)
services = st.builds(
    Service,
    start=st.integers(0, 90),
    start_spread=st.sampled_from([0.0, 0.5, 2.0]),
    drain=st.integers(0, 60),
    unserved=st.sampled_from(["drop", "queue"]),
    queue_seconds=st.integers(0, 120),
)


@given(services, loads, st.data())
def test_load_is_served_or_lost_or_waits_and_pods_are_never_lost(
    service: Service, demand: list[float], data: st.DataObject
) -> None:
    orders = data.draw(st.dictionaries(st.integers(0, len(demand) - 1), st.integers(0, 12)))
    pods = fleet(service)
    counts = run(pods, demand, orders)
    total = counts[SERVED] + counts[UNSERVED] + pods.queue.item()
    np.testing.assert_allclose(total, sum(demand), atol=1e-9)
    assert pods.spec.item() == (sorted(orders.items())[-1][1] if orders else 2)
    assert pods.ready.item() + pods.starting.item() == pods.spec.item()
    assert min(pods.ready.item(), pods.starting.item(), pods.draining.item()) >= 0
    assert counts[LATE] <= sum(demand) + 1e-9
    assert counts[PODS] >= counts[SERVED] - 1e-9


@given(st.integers(0, 2**32), st.permutations(range(4)))
def test_random_starting_times_depend_on_the_service_alone(seed: int, order: list[int]) -> None:
    def ready(rows: np.ndarray) -> np.ndarray:
        pods = Fleet(Service(start=60, start_spread=0.7, drain=0), np.ones((2, len(rows))), 15, seed, rows)
        pods.begin_step()
        pods.order(np.full((2, len(rows)), 6))
        seen = []
        for _ in range(12):
            pods.serve(np.zeros(len(rows)))
            pods.begin_step()
            seen.append(pods.ready.copy())
        return np.array(seen)

    together, moved = ready(np.arange(4)), ready(np.array(order))
    np.testing.assert_array_equal(together[:, :, order], moved)
    np.testing.assert_array_equal(together[:, 0], together[:, 1])
