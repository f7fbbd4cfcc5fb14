"""Simulations in several processes."""

import numpy as np

from kforecast.autoscaling.hpa import HpaPolicy
from kforecast.replay.jobs import Job, run_all
from kforecast.simulation.drivers import REACTIVE, Driver
from kforecast.simulation.load import Load
from kforecast.simulation.outcomes import Prices
from kforecast.simulation.service import Service
from kforecast.simulation.simulation import Services, Setting, Signal

SETTING = Setting(
    HpaPolicy(), "value_per_pod_total", Service(start=30), Signal(), [Driver(REACTIVE)], 45, Prices()
)


def job(seed: int, bins: int) -> Job:
    values = np.tile(np.random.default_rng(seed).gamma(2, 20, (2, 60)), bins // 60).astype(np.float32)
    load = Load(values, np.ones(values.shape, bool), 0, 60, 0.1, seed, np.arange(2))
    each = np.full(2, 10.0)
    services = Services(load, each, np.full(2, 0.5), np.ones((1, 2), np.int64), each)
    return Job(SETTING, services, 0, bins)


def test_two_processes_find_what_one_finds_and_stop_when_nobody_listens() -> None:
    jobs = [job(1, 60), job(2, 60)]
    # The last one would take many minutes; closing the results ends it.
    results = run_all([*jobs, job(3, 3_000_000)], 2)
    for alone in jobs:
        np.testing.assert_array_equal(next(results).counts, alone.run().counts)
    results.close()
