"""KEDA's formula in a replay: drivers speak for the triggers with the newest load and with the forecast."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import START, run_command
from kforecast.autoscaling.keda import Fallback, KedaPolicy, Modifiers, Trigger
from kforecast.errors import ConfigError
from kforecast.replay.others import roles_of
from kforecast.simulation.drivers import BOTH, FORECAST, REACTIVE, Driver, Served
from kforecast.simulation.load import Load
from kforecast.simulation.outcomes import Outcomes, Prices
from kforecast.simulation.seen import Other
from kforecast.simulation.service import PODS, Service
from kforecast.simulation.simulation import Services, Setting, Signal, simulate

GOLDEN = Path(__file__).parents[1] / "golden" / "trio_1min" / "model"
DAY = 1440
DRIVERS = [
    Driver(REACTIVE),
    Driver(FORECAST, "forecast", reactive=False),
    Driver(BOTH, "forecast"),
    Driver("mimir", "mimir"),
    Driver("schedule", "schedule"),
    Driver("perfect", "perfect", reactive=False),
]


def load_of(values: np.ndarray) -> Load:
    values = np.atleast_2d(values).astype(np.float32)
    return Load(values, np.ones(values.shape, bool), START, 60, 0.0, 0, np.arange(len(values)))


def policy(formula: str | None, fallback: Fallback | None = None) -> KedaPolicy:
    modifiers = None if formula is None else Modifiers(formula=formula, target=5.0)
    return KedaPolicy(min_replicas=1, modifiers=modifiers, fallback=fallback, downscale_stabilization=0)


def replayed(
    formula: str | None,
    load: np.ndarray,
    forecast: np.ndarray,
    fallback: Fallback | None = None,
    others: list[Other] | None = None,
) -> Outcomes:
    some = load_of(load)
    count = len(some.values)
    known = np.atleast_2d(forecast).astype(np.float32)
    served = Served(np.ascontiguousarray(known.T)[None], np.zeros(4, np.int64), START, 60, 15)
    capacity, ones = np.full(count, 10.0), np.ones((1, count), np.int64)
    services = Services(some, capacity, np.full(count, 0.5), ones, capacity, [served], others or [])
    setting = Setting(
        policy=policy(formula, fallback), kind="value_per_pod_total", service=Service(start=60),
        signal=Signal(), drivers=DRIVERS, lead=75, prices=Prices(),
        triggers=None if formula is None else ("load", "ahead"),
    )  # fmt: skip
    return simulate(setting, services, 0, some.values.shape[1])


def pods(found: Outcomes) -> np.ndarray:
    """Pod-steps of each driver."""
    summed: np.ndarray = found.counts[0, PODS].sum(axis=1)
    return summed


@given(seed=st.integers(0, 99))
@settings(max_examples=5, deadline=None)
def test_the_largest_of_both_is_what_two_triggers_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    load = 100 + np.cumsum(rng.normal(0, 5, (2, 120)), axis=1)
    forecast = load + rng.normal(0, 20, load.shape)
    by_formula, by_triggers = (replayed(one, load, forecast) for one in ("max(load, ahead)", None))
    np.testing.assert_allclose(by_formula.counts, by_triggers.counts)


def test_without_a_forecast_its_trigger_says_the_newest_load() -> None:
    load = np.repeat([50.0, 100.0, 50.0], 60)
    mean, plain = (replayed(one, load, 3 * load) for one in ("0.5 * load + 0.5 * ahead", None))
    names = [driver.name for driver in DRIVERS]
    reactive, alone, both = (names.index(name) for name in (REACTIVE, FORECAST, BOTH))
    np.testing.assert_allclose(mean.counts[:, :, reactive], plain.counts[:, :, reactive])
    np.testing.assert_allclose(mean.counts[:, :, alone], plain.counts[:, :, alone])
    assert pods(mean)[both] == pytest.approx(2 * pods(mean)[reactive], rel=0.05)


def test_an_absent_forecast_is_nil_and_the_formula_goes_on_with_the_load() -> None:
    load, gone = np.repeat([100.0, 10.0], [20, 100]), np.full(120, np.nan)
    nil = Fallback(failureThreshold=2, replicas=7, behavior="scalingModifiers")
    both = [driver.name for driver in DRIVERS].index(BOTH)
    with_nil = replayed("ahead ?? load", load, gone, nil)
    # The reactive rule from the third failure on.
    assert pods(with_nil)[both] == pytest.approx(pods(with_nil)[0], rel=0.02)
    # Without that behaviour, the whole formula fails: nothing is scaled, or the fallback's replicas are.
    assert pods(replayed("ahead ?? load", load, gone))[both] == pytest.approx(120 * 4 * 20, rel=0.02)
    static = Fallback(failureThreshold=2, replicas=7)
    assert pods(replayed("ahead ?? load", load, gone, static))[both] == pytest.approx(120 * 4 * 7, rel=0.1)
    # Two triggers never scale down meanwhile.
    assert pods(replayed(None, load, gone))[both] == pytest.approx(120 * 4 * 20, rel=0.02)


def test_a_third_trigger_comes_from_the_history() -> None:
    load = np.full(120, 50.0)
    queue = Other("queue", "value_per_pod_total", 1.0, load_of(np.full(120, 50.0)), np.ones(1, bool))
    found, without = (
        replayed(f"max(load, ahead) + {queue_}", load, load, others=others)
        for queue_, others in (("queue", [queue]), ("50", []))
    )
    np.testing.assert_allclose(found.counts, without.counts)


A, B, C = (Trigger(name=name, kind="value_per_pod_total", target=5.0) for name in ("load", "ahead", "queue"))
MARKED = B.model_copy(update={"forecast": True})


@pytest.mark.parametrize(
    ("formula", "triggers", "given_names", "expected"),
    [
        ("max(load, ahead)", [A, MARKED], (None, None), ("load", "ahead")),
        ("max(load, ahead)", [A, B], (None, "ahead"), ("load", "ahead")),
        ("max(load, ahead)", [A, MARKED], (None, "load"), ("ahead", "load")),
        ("max(load, ahead) + queue", [A, MARKED, C], ("load", None), ("load", "ahead")),
        ("max(load, ahead)", [A, B], (None, None), "replay.triggers.forecast=NAME, one of ahead, load"),
        ("max(load, ahead) + queue", [A, MARKED, C], (None, None), "replay.triggers.traffic=NAME"),
        ("7", [A, B], (None, None), "replay.triggers.forecast=NAME, one of none"),
        ("max(load, ahead)", [A, MARKED], ("ahead", None), "cannot be both"),
        ("max(load, ahead)", [A, MARKED], ("queue", None), "queue is not in the formula"),
        (None, [A, MARKED], ("load", None), "the policy has no scalingModifiers"),
        ("load/(ahead-ahead)", [A, MARKED], (None, None), "gives no number, whether ahead is below"),
        ("load/(ahead-load)", [A, MARKED], (None, None), ("load", "ahead")),
        (None, [A, MARKED], (None, None), None),
    ],
)
def test_which_trigger_is_which(
    formula: str | None, triggers: list[Trigger], given_names: tuple[str | None, str | None], expected: object
) -> None:
    some = policy(formula).model_copy(update={"triggers": triggers})
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=expected):
            roles_of(some, *given_names)
        return
    roles = roles_of(some, *given_names)
    assert (roles and (roles.traffic, roles.forecast)) == expected


KEDA = """\
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata: {name: web}
spec:
  scaleTargetRef: {name: web}
  minReplicaCount: 1
  maxReplicaCount: 50
  fallback: {failureThreshold: 3, replicas: 10, behavior: scalingModifiers}
  advanced:
    scalingModifiers: {formula: "max(now, ahead ?? 0)", target: "20"}
  triggers:
  - {type: prometheus, name: now, metadata: {query: "sum(rate(requests[1m]))", threshold: "1"}}
  - type: metrics-api
    name: ahead
    metadata: {url: "http://kforecast-serve:8080/forecast?workload=web", targetValue: "1"}
"""


def test_the_command_replays_the_users_formula(tmp_path: Path) -> None:
    key = next(iter(json.loads((GOLDEN / "item2id.json").read_text())))
    minutes = np.arange(5 * DAY)
    load = 100 + 60 * np.sin(2 * np.pi * minutes / 720)
    pd.DataFrame(
        {"timestamp": START + 60 * minutes, "value": load, "workload": key[:-3], "metric": key[-3:]}
    ).to_csv(tmp_path / "traffic.csv", index=False)
    (tmp_path / "keda.yaml").write_text(KEDA, encoding="utf-8")
    arguments = [
        f"artifact_dir={GOLDEN}", "source.path=traffic.csv", f"replay.start={START + 3 * 86_400}",
        "policy=keda", "policy.manifest=keda.yaml", "replay.quantiles=[0.9]", "replay.windows=[120]",
        "replay.floors=[null]", "replay.processes=1", "capacity.lead_time=60", "hydra.run.dir=run",
        # An autoscaler that sees the load an hour late needs the forecast.
        "replay.delay=3600", "replay.max_unserved=null", "capacity.cost_under=1000",
    ]  # fmt: skip
    done = run_command("kforecast-replay", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert "the trigger ahead to kforecast-serve (quantile=0.9&window=120)" in last
    (service,) = json.loads((tmp_path / "run" / "replay.json").read_text(encoding="utf-8"))["series"]
    assert service["capacity"] == pytest.approx(20 / 0.7)
    (tmp_path / "keda.yaml").write_text(KEDA.replace("kforecast-serve", "ours"), encoding="utf-8")
    refused = run_command("kforecast-replay", *arguments, cwd=tmp_path)
    assert refused.returncode == 2
    assert "give replay.triggers.forecast=NAME, one of ahead, now" in refused.stderr
    named = run_command("kforecast-replay", *arguments, "replay.triggers.forecast=ahead", cwd=tmp_path)
    assert named.stdout.strip().splitlines()[-1] == last
