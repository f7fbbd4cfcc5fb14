"""The scaling rules of conf/capacity: defaults, limits, and the load that one replica serves."""

import numpy as np
import pytest
import yaml
from hydra.utils import instantiate

from kforecast.config.checks import CONF_DIR
from kforecast.errors import ConfigError
from kforecast.simulation.capacity import Capacity, per_replica, unfit
from kforecast.validation import validate
from kforecast.window import Frequency

NAN = float("nan")
PLAIN = {
    "per_replica": None,
    "mean_replicas": 10,
    "min_replicas": 1,
    "max_replicas": 100,
    "lead_time": 300,
    "interval": None,
    "headroom": 0.0,
    "cost_under": 10.0,
    "cost_over": 1.0,
}


def _settings(**changes):
    return Capacity(**(PLAIN | changes))


def test_what_a_replica_serves():
    means = np.array([50.0, 0.0, NAN, 2.0], dtype=np.float32)
    assert per_replica(_settings(), means).tolist() == [5, 1, 1, 0.2]
    assert per_replica(_settings(per_replica=3), means).tolist() == [3, 3, 3, 3]
    assert per_replica(_settings(), means).dtype == np.float64


def test_the_best_quantile():
    assert _settings(cost_under=9, cost_over=1).best_quantile == pytest.approx(0.9)
    assert _settings(cost_under=0).best_quantile == 0


def test_the_default_settings_are_right():
    content = yaml.safe_load((CONF_DIR / "capacity" / "default.yaml").read_text())
    assert content.pop("_target_") == "kforecast.simulation.capacity.Capacity"
    assert content.keys() == Capacity.model_fields.keys()
    assert validate(Capacity, content, "capacity") == _settings() == Capacity()


@pytest.mark.parametrize(
    "key, value",
    [
        ("per_replica", 0),
        ("per_replica", "10"),
        ("mean_replicas", 0),
        ("mean_replicas", float("inf")),
        ("min_replicas", -1),
        ("min_replicas", 1.5),
        ("max_replicas", 0),
        ("max_replicas", 2**31),
        ("lead_time", -1),
        ("lead_time", 86_401),
        ("interval", 0),
        ("interval", 86_401),
        ("headroom", -0.1),
        ("headroom", NAN),
        ("cost_under", -1),
        ("cost_under", float("inf")),
        ("cost_over", 0),
        ("leadtime", 3),
    ],
)
def test_wrong_settings_are_refused(key, value):
    with pytest.raises(ConfigError, match=key):
        validate(Capacity, PLAIN | {key: value}, "capacity")


def test_fewer_replicas_at_most_than_at_least_are_refused():
    with pytest.raises(ConfigError, match=r"max_replicas \(3\) is less than min_replicas \(4\)"):
        validate(Capacity, PLAIN | {"min_replicas": 4, "max_replicas": 3}, "capacity")


def test_the_name_that_earlier_configurations_have_still_works():
    assert instantiate({"_target_": "kforecast.evaluation.capacity.Capacity"}) == Capacity()


@pytest.mark.parametrize(
    "freq, said", [("15s", ""), ("10min", ""), ("1H", ""), ("2H", "longer than 1H"), ("12s", "bins of 12 s")]
)
def test_which_bins_can_be_simulated(freq, said):
    assert (unfit(Frequency.parse(freq)) == "") == (said == "")
    assert said in unfit(Frequency.parse(freq))
