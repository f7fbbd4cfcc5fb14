"""``kforecast-replay`` as a user runs it."""

import json
import math
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pandas as pd
import pytest

from conftest import START, run_command
from kforecast.serving.external_scaler import Trigger

pytestmark = pytest.mark.usefixtures("drawn")

GOLDEN = Path(__file__).parents[1] / "golden" / "trio_1min" / "model"
DAYS = 5
HPA = """\
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  minReplicas: 2
  maxReplicas: 50
  metrics:
  - type: External
    external:
      metric: {name: requests}
      target: {type: AverageValue, averageValue: "20"}
"""
# Few settings, so that the test is quick.
FEW = [
    "replay.quantiles=[0.5,0.9]",
    "replay.windows=[120]",
    "replay.targets=[1.0,1.2]",
    "replay.floors=[null]",
    "replay.processes=1",
    "capacity.lead_time=60",
]


@pytest.fixture
def traffic(tmp_path: Path) -> Path:
    """A day of two peaks, five times, for the series of the artifact; and a manifest."""
    workload, metric = series()
    minutes = np.arange(DAYS * 1440)
    load = 100 + 60 * np.sin(2 * math.pi * minutes / 720)
    frame = pd.DataFrame(
        {"timestamp": START + 60 * minutes, "value": load, "workload": workload, "metric": metric}
    )
    frame.to_csv(tmp_path / "traffic.csv", index=False)
    (tmp_path / "hpa.yaml").write_text(HPA, encoding="utf-8")
    return tmp_path


def series() -> tuple[str, str]:
    key = next(iter(json.loads((GOLDEN / "item2id.json").read_text())))
    return key[:-3], key[-3:]


def arguments(*more: str) -> list[str]:
    start = START + 3 * 86_400
    given = [f"artifact_dir={GOLDEN}", "source.path=traffic.csv", f"replay.start={start}"]
    return [*given, "hydra.run.dir=run", *FEW, *more]


def test_from_the_users_manifest_to_the_line_that_says_what_to_change(traffic: Path) -> None:
    done = run_command("kforecast-replay", *arguments("policy.manifest=hpa.yaml"), cwd=traffic)
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("Recommended: ")
    for driver in ("reactive", "forecast alone", "last week and yesterday", "schedule", "perfect knowledge"):
        assert driver in done.stdout
    content = json.loads((traffic / "run" / "replay.json").read_text(encoding="utf-8"))
    assert content["recommended"]["words"] == last
    assert [one["driver"] for one in content["worst_days"]] == [one["driver"] for one in content["drivers"]]
    assert content["newest_part"] == [START + 4 * 86_400, START + 5 * 86_400]
    (service,) = content["series"]
    assert service["capacity"] == pytest.approx(20 / 0.7)
    # 100 need 5 pods at the target, and twice as much time passes at 2 pods or more.
    reactive = content["drivers"][0]
    assert 24 * 100 / 20 < reactive["replica_hours"] < 24 * 100 / 20 * 1.4
    page = (traffic / "run" / "replay.html").read_text(encoding="utf-8")
    assert page.count("<svg") == len(content["drivers"])
    again = run_command("kforecast-replay", *arguments("policy.manifest=hpa.yaml"), cwd=traffic)
    assert again.stdout.replace("run_1", "run") == done.stdout


def test_forecasts_know_the_events_of_a_file(traffic: Path) -> None:
    (traffic / "events.csv").write_text(
        f"start,end,workload,name,factor\n{START + 4 * 86_400},{START + 5 * 86_400},*,maintenance,0.01\n"
    )
    hours = []
    for given in ("null", "events.csv"):
        done = run_command("kforecast-replay", *arguments(f"data.events={given}"), cwd=traffic)
        assert done.returncode == 0, done.stderr
        content = json.loads((sorted(traffic.glob("run*"))[-1] / "replay.json").read_text(encoding="utf-8"))
        (alone,) = [one for one in content["drivers"] if one["driver"] == "forecast alone"]
        hours.append(alone["replica_hours"])
    # The expected lull does not come; the forecast orders for it all the same.
    assert hours[1] < 0.7 * hours[0]


BAD = {
    "data.events=none.csv": "none.csv",
    "capacity.min_replicas=3": "capacity.min_replicas: not for a replay",
    "policy.manifest=none.yaml": "none.yaml",
    "replay.start=2024-01-05T12:00": "less than two days",
    "replay.windows=[100000]": "beyond the horizon",
    "replay.learn.resource=cpu": "resource and target go together",
    "replay.quantiles=[2]": "replay.quantiles",
    "artifact_dir=[]": "artifact_dir",
    "artifact_dir=pretrained": "no such directory; write the weights of the package into one",
    f"artifact_dir={GOLDEN.parents[1] / 'trio_1D' / 'model'}": "replay an artifact with bins of at most 12H",
    "replay.requests={cpu:0}": "replay.requests",
    "replay.triggers.traffic=now": "the policy has no scalingModifiers",
    "replay.max_unserved=-1": "replay.max_unserved: give a share of the load from 0 to 1, today, or null",
    "replay.max_unserved=tomorrow": "replay.max_unserved: give a share",
    "policy.max_replicas=99999999999999999999": "policy.max_replicas",
    "policy.interval=1000000000": "policy.interval",
    "policy.downscale_stabilization=9999": "policy.downscale_stabilization",
    "replay.learn.replicas=pods": "cannot be learned",
}


@pytest.mark.parametrize(
    ("policy", "words"), [("keda", "a second trigger, metrics-api"), ("kapacity", "scale.lead_seconds=120")]
)
def test_what_to_change_is_in_the_words_of_the_autoscaler(policy: str, words: str, traffic: Path) -> None:
    # An autoscaler that sees the load an hour late needs the forecast.
    more = [f"policy={policy}", "replay.delay=3600", "replay.max_unserved=null", "capacity.cost_under=1000"]
    done = run_command("kforecast-replay", *arguments(*more), cwd=traffic)
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert words in last
    if policy == "keda":
        asked = dict(parse_qsl(last.partition("kforecast-serve (")[2].partition(")")[0]))
        trigger = Trigger.of({**asked, "workload": "w", "metric": "m", "target": "1"})  # knows every key
        assert trigger.window == 120


@pytest.mark.parametrize("argument", BAD)
def test_bad_input_is_refused_in_one_line(argument: str, traffic: Path) -> None:
    done = run_command("kforecast-replay", *arguments(argument), cwd=traffic)
    assert done.returncode == 2
    assert BAD[argument] in done.stderr
    assert done.stderr.count("replay.max_unserved") <= 1
    assert "Traceback" not in done.stderr
    assert not (traffic / "run").exists()


def test_a_target_above_what_a_pod_can_serve_is_refused(traffic: Path) -> None:
    done = run_command(
        "kforecast-replay", *arguments("policy.manifest=hpa.yaml", "capacity.per_replica=15"), cwd=traffic
    )
    assert done.returncode == 2
    assert "is not below what one pod serves at most" in done.stderr
