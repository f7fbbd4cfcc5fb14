"""Capacity learned from history, or refused in words."""

import numpy as np
import pandas as pd
import pytest

from kforecast.errors import DataError
from kforecast.replay.capacity import Teaching, learned

START, MINUTES = 1_704_067_200, 7 * 1440


def history(replicas: np.ndarray, load: np.ndarray, resource: np.ndarray | None = None) -> pd.DataFrame:
    at = START + 60 * np.arange(len(load))
    columns = {"qps": load, "pods": replicas} | ({} if resource is None else {"cpu": resource})
    parts = [
        pd.DataFrame({"timestamp": at, "value": value, "workload": "shop/web", "metric": name})
        for name, value in columns.items()
    ]
    return pd.concat(parts, ignore_index=True)


def load() -> np.ndarray:
    rng = np.random.default_rng(0)
    wave = 1000 + 600 * np.sin(2 * np.pi * np.arange(MINUTES) / 1440)
    return wave * (1 + 0.02 * rng.standard_normal(MINUTES))


def test_the_traffic_per_replica_at_the_target_of_a_resource() -> None:
    traffic = load()
    replicas = np.ceil(traffic / 80)
    # One replica needs half a core for 100 requests a second.
    found = learned(history(replicas, traffic, traffic / 200), "qps", Teaching("pods", "cpu", 0.4), "web")
    assert found.low <= 80 <= found.high
    assert found.value == pytest.approx(80, rel=0.01)
    assert found.high - found.low < 2


def test_the_traffic_per_replica_that_an_autoscaler_kept() -> None:
    traffic = load()
    found = learned(history(np.ceil(traffic / 80), traffic), "qps", Teaching("pods"), "web")
    assert 74 < found.low <= found.value <= found.high <= 80


@pytest.mark.parametrize(
    ("replicas", "words"),
    [
        (np.full(MINUTES, 5.0), "pods is 5 all the time"),
        (np.random.default_rng(1).integers(3, 9, MINUTES // 60).repeat(60).astype(float), "does not follow"),
    ],
)
def test_replicas_that_say_nothing_are_refused(replicas: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words) as refused:
        learned(history(replicas, load()), "qps", Teaching("pods"), "shop/web qps")
    assert "capacity.per_replica=NUMBER" in str(refused.value)


def test_a_resource_that_is_never_near_its_target_is_refused() -> None:
    traffic = load()
    with pytest.raises(DataError, match="near its target, 2, at only 0 of 2,016 moments"):
        learned(
            history(np.ceil(traffic / 80), traffic, traffic / 200), "qps", Teaching("pods", "cpu", 2.0), "web"
        )


def test_a_short_history_is_refused() -> None:
    traffic = load()[:1440]
    with pytest.raises(DataError, match="on 1 days"):
        learned(history(np.ceil(traffic / 80), traffic), "qps", Teaching("pods"), "web")
