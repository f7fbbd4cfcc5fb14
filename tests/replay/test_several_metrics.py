"""A policy with several metrics: the largest order wins, also where the others come from the history."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import START, run_command
from kforecast.autoscaling.hpa import HpaPolicy, Metric
from kforecast.autoscaling.kapacity import KapacityPolicy
from kforecast.autoscaling.keda import KedaPolicy
from kforecast.autoscaling.policy import Policy
from kforecast.replay.others import first_metric
from kforecast.simulation.drivers import REACTIVE, Driver
from kforecast.simulation.load import Load
from kforecast.simulation.outcomes import Outcomes, Prices
from kforecast.simulation.seen import Other
from kforecast.simulation.service import Service
from kforecast.simulation.simulation import Services, Setting, Signal, simulate

GOLDEN = Path(__file__).parents[1] / "golden" / "trio_1min" / "model"
DAY = 1440
CAPACITY = 10.0
DRIVERS = [Driver(REACTIVE), Driver("schedule", "schedule"), Driver("perfect", "perfect", reactive=False)]
QUICK = HpaPolicy(downscale_stabilization=0)


def load_of(values: np.ndarray, observed: np.ndarray | None = None) -> Load:
    values = np.atleast_2d(values).astype(np.float32)
    known = np.ones(values.shape, bool) if observed is None else np.atleast_2d(observed)
    return Load(values, known, START, 60, 0.1, 0, np.arange(len(values)))


def replayed(
    load: Load,
    others: list[Other],
    *,
    share: float = 0.5,
    kind: str = "value_per_pod_total",
    policy: Policy = QUICK,
    begin: int = 0,
) -> Outcomes:
    count = len(load.values)
    capacity, share_of = np.full(count, CAPACITY), np.full(count, share)
    units = capacity if kind == "value_per_pod_total" else np.full(count, 1000.0)
    some = Services(load, capacity, share_of, np.ones((1, count), np.int64), units, [], others)
    setting = Setting(
        policy=policy, kind=kind, service=Service(start=60), signal=Signal(), drivers=DRIVERS, lead=75,
        prices=Prices(), portraits=isinstance(policy, KapacityPolicy),
    )  # fmt: skip
    return simulate(setting, some, begin, load.values.shape[1])


def waves(seed: int, bins: int = 240) -> np.ndarray:
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * np.arange(bins) / 120
    return 100 + 80 * np.sin(angle + rng.uniform(0, 6, (3, 1))) + rng.normal(0, 3, (3, bins))


@pytest.mark.parametrize(
    "policy", [QUICK, KedaPolicy(min_replicas=1), KapacityPolicy()], ids=lambda p: type(p)
)
@given(seed=st.integers(0, 99), factor=st.floats(0.5, 2))
@settings(max_examples=4, deadline=None)
def test_the_same_metric_with_another_target_orders_by_the_lower_target(
    policy: Policy, seed: int, factor: float
) -> None:
    load = load_of(waves(seed))
    target = CAPACITY * 0.5 * factor
    other = Other("queue", "value_per_pod_total", target, load, np.ones(3, bool))
    found = replayed(load, [other], policy=policy)
    expected = replayed(load, [], share=0.5 * min(factor, 1), policy=policy)
    # Drivers with a number of their own know the first target alone; under Kapacity, no other metric at all.
    np.testing.assert_allclose(found.counts[:, :, 0], expected.counts[:, :, 0])
    if factor >= 1:
        np.testing.assert_allclose(found.counts, expected.counts)


@pytest.mark.parametrize("unserved", [0, 1])
def test_a_mean_over_pods_follows_the_pods_that_serve(unserved: int) -> None:
    load = load_of(waves(1) * (1 + 4 * unserved))
    # Each pod's use in percent, summed over pods: 100 for a full pod.
    use = replace(load, values=load.values * np.float32(100 / CAPACITY))
    other = Other("cpu", "utilization", 50.0, use, np.ones(3, bool))
    with_other = replayed(load, [other], share=100.0)  # the first metric asks for one pod at most
    alone = replayed(load, [], kind="utilization", begin=0)
    # Whole percents are cut from numbers that differ in their last digits.
    np.testing.assert_allclose(with_other.counts[:, :, 0], alone.counts[:, :, 0], rtol=1e-3)


def test_the_larger_order_counts_at_every_moment() -> None:
    busy = np.repeat([20.0, 100.0, 20.0], 80)
    queue = np.repeat([0.0, 0.0, 40.0], 80)
    other = Other("queue", "value_per_pod_total", 1.0, load_of(queue), np.ones(1, bool))
    load = load_of(busy)
    alone, both = replayed(load, []), replayed(load, [other])
    # 40 in the queue at 1 a pod need 40 pods, for the last 80 minutes; before, both are alike.
    more = (both.counts - alone.counts)[0, 3, 0, 0] / (4 * 80)
    assert 30 < more < 37


@pytest.mark.parametrize("kind", ["value_per_pod_total", "utilization"])
def test_a_metric_with_a_gap_stops_scaling_down_alone(kind: str) -> None:
    load = load_of(np.repeat([100.0, 10.0], [20, 60]))
    observed = np.ones(80, bool)
    observed[10:] = False
    low = load_of(np.full(80, 1.0))
    given = [
        Other("queue", kind, 50.0, one, np.ones(1, bool))
        for one in (low, replace(low, observed=observed[None]))
    ]
    seen, unseen, without = (replayed(load, others) for others in ([given[0]], [given[1]], []))
    pods = [one.counts[0, 3, 0, 0] for one in (seen, unseen, without)]
    assert pods[0] == pods[2]
    assert pods[1] == pytest.approx(80 * 4 * 20, rel=0.05)


def test_a_service_without_the_metric_is_as_if_the_policy_had_none() -> None:
    load = load_of(waves(3))
    known = np.array([True, False, True])
    other = Other("queue", "value_per_pod_total", 1.0, load, known)
    with_other, alone = replayed(load, [other]), replayed(load, [])
    same = (with_other.counts == alone.counts)[:, :, 0].all(axis=(0, 1))
    assert same.tolist() == [False, True, False]


def test_a_metric_of_kforecast_is_left_to_the_drivers() -> None:
    ahead = Metric(name="kforecast_forecast", kind="value_per_pod_total", target=5.0)
    load = Metric(name="requests", kind="value_per_pod_total", target=5.0)
    assert first_metric(HpaPolicy(metrics=[ahead, load]), {"qps"}) == load
    assert first_metric(HpaPolicy(metrics=[ahead]), {"qps"}) is None


def test_drivers_order_by_the_traffic_and_its_total_before_a_mean() -> None:
    names = [("cpu", "utilization"), ("qps", "value_per_pod"), ("other", "value_per_pod_total")]
    metrics = [Metric(name=name, kind=kind, target=5.0) for name, kind in names]
    assert first_metric(HpaPolicy(metrics=metrics), {"rps"}) == metrics[0]
    assert first_metric(HpaPolicy(metrics=metrics), {"qps", "cpu"}) == metrics[0]
    assert first_metric(HpaPolicy(metrics=metrics), {"qps"}) == metrics[1]
    assert first_metric(HpaPolicy(metrics=metrics), {"qps", "cpu", "other"}) == metrics[2]


HPA = """\
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  maxReplicas: 50
  metrics:
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 60}}}
  - {type: External, external: {metric: {name: NAME}, target: {type: AverageValue, averageValue: "20"}}}
  - {type: External, external: {metric: {name: latency}, target: {type: Value, value: "1"}}}
  - {type: External, external: {metric: {name: backlog}, target: {type: AverageValue, averageValue: "1"}}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    key = next(iter(json.loads((GOLDEN / "item2id.json").read_text())))
    minutes = np.arange(5 * DAY)
    load = 100 + 60 * np.sin(2 * np.pi * minutes / 720)
    parts = [
        pd.DataFrame(
            {"timestamp": START + 60 * minutes, "value": value, "workload": key[:-3], "metric": name}
        )
        for name, value in ((key[-3:], load), ("cpu", load / 40), ("latency", load / 100))
    ]
    pd.concat(parts).to_csv(tmp_path / "traffic.csv", index=False)
    (tmp_path / "hpa.yaml").write_text(HPA.replace("NAME", key[-3:]), encoding="utf-8")
    return tmp_path


def test_the_command_reads_what_the_history_has_and_names_the_rest(folder: Path) -> None:
    arguments = [
        f"artifact_dir={GOLDEN}", "source.path=traffic.csv", f"replay.start={START + 3 * 86_400}",
        "policy.manifest=hpa.yaml", "replay.quantiles=[0.9]", "replay.windows=[120]", "replay.targets=[1.0]",
        "replay.floors=[null]", "replay.processes=1", "capacity.lead_time=60", "hydra.run.dir=run",
    ]  # fmt: skip
    hours = []
    for more in ([], ["replay.requests={cpu:0.5}"], ["replay.requests={cpu:0.1}"]):
        done = run_command("kforecast-replay", *arguments, *more, cwd=folder)
        assert done.returncode == 0, done.stderr
        content = json.loads((sorted(folder.glob("run*"))[-1] / "replay.json").read_text(encoding="utf-8"))
        (note,) = [one for one in content["notes"] if one.startswith("The policy has 4 metrics.")]
        assert f"Drivers order by {content['series'][0]['metric']}" in note
        assert "latency (compared with a value as it is)" in note
        assert "backlog (not in the history)" in note
        assert ("cpu is read from the history" in note) == bool(more)
        assert ("cpu (give what a pod requests, replay.requests={cpu:NUMBER})" in note) == (not more)
        hours.append([one["replica_hours"] for one in content["drivers"][:2]])
    # 20 requests a pod use 0.5 of the CPU: with half a CPU a pod the requests decide, with a tenth the CPU.
    assert hours[0][0] < 1.5 * hours[1][0]
    assert hours[2][0] > 4 * hours[0][0]
    # The forecast alone has no CPU.
    assert hours[2][1] == pytest.approx(hours[0][1])
    done = run_command("kforecast-replay", *arguments, "replay.requests={cpu:1e-300}", cwd=folder)
    assert done.returncode == 2
    assert "replay.requests.cpu: 1e-300 makes a utilisation that is no number" in done.stderr
