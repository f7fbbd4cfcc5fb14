"""A HorizontalPortrait, read and checked."""

import math
from typing import Any

import pytest
from api_server import PORTRAIT, Manifest, portrait

from kforecast.errors import ConfigError, DataError
from kforecast.scaling.kubernetes import Kubernetes, StatusError
from kforecast.scaling.portrait import Portrait, quantity


class Objects(Kubernetes):
    """An API server of a few objects."""

    def __init__(self, objects: dict[str, Manifest]) -> None:
        self.objects = objects

    def get(self, path: str, **query: str) -> Manifest:
        if path not in self.objects:
            raise StatusError(f"GET {path}: status 404", 404)
        return self.objects[path]


def read(manifest: Manifest) -> Portrait:
    return Portrait.read(Objects({PORTRAIT: manifest}), "shop", "web-predictive")


@pytest.mark.parametrize(
    "text, number",
    [
        *(("500m", 0.5), ("2", 2), (3, 3), (0.25, 0.25), ("1.5", 1.5), (".5", 0.5), ("5.", 5), ("+1", 1)),
        *(("1Ki", 1024), ("1.5Mi", 1.5 * 2**20), ("2Gi", 2**31), ("1Ei", 2.0**60), ("3k", 3000)),
        *(("1E", 1e18), ("1E3", 1000), ("12e-1", 1.2), ("100u", 1e-4), ("7n", 7e-9), ("1T", 1e12)),
    ],
)
def test_quantities(text: object, number: float) -> None:
    assert math.isclose(quantity(text), number)


@pytest.mark.parametrize("text", ["", "m", "1K", "1 Gi", "five", None, True, "1e", "0x1", "1mi", "1e9999"])
def test_what_is_no_quantity(text: object) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        quantity(text)


def test_a_portrait() -> None:
    found = read(portrait())
    assert (found.workload_key, found.traffics, found.uid) == ("shop/web", ["qps"], "a-b-c")
    assert found.target(Objects({})) == 0.5


@pytest.mark.parametrize(
    "change, said",
    [
        ({0: {"type": "External", "external": {"metric": {"name": "a"}}}}, r"metrics\[0\].type: External is"),
        ({1: {"type": "Resource", "resource": {"name": "a"}}}, r"metrics\[1\].type: Resource is not Pods"),
        ({2: {"type": "External", "external": {"metric": {"name": "a"}}}}, r"metrics\[2\].name: missing"),
        ({2: {"type": "Object"}}, r"spec.metrics\[2\]: type Object needs the block 'object'"),
        (
            {2: {"type": "External", "name": "cpu", "external": {"metric": {"name": "a"}}}},
            r"metrics\[0\] and spec.metrics\[2\] have the same series key 'cpu'",
        ),
    ],
)
def test_metrics_are_those_of_the_contract(change: dict[int, Any], said: str) -> None:
    manifest = portrait()
    for number, metric in change.items():
        manifest["spec"]["metrics"][number] = metric
    with pytest.raises(ConfigError, match=said):
        read(manifest)


def test_a_container_resource_counts_the_requests_of_its_container() -> None:
    manifest = portrait()
    target = {"type": "Utilization", "averageUtilization": 50}
    manifest["spec"]["metrics"][0] = {
        "type": "ContainerResource",
        "containerResource": {"name": "memory", "container": "app", "target": target},
    }
    containers = [
        {"name": "sidecar", "resources": {}},
        {"name": "app", "resources": {"requests": {"memory": "1Gi"}}},
    ]
    pods = {"items": [{"metadata": {"name": "a"}, "spec": {"containers": containers}}]}
    objects = {
        "/apis/apps/v1/namespaces/shop/deployments/web/scale": {"status": {"selector": "app=web"}},
        "/api/v1/namespaces/shop/pods": pods,
    }
    assert read(manifest).target(Objects(objects)) == 2**29
    del manifest["spec"]["metrics"][0]["containerResource"]["container"]
    manifest["spec"]["metrics"][0] = portrait(**target)["spec"]["metrics"][0]
    with pytest.raises(DataError, match="not every container of pod a requests cpu"):
        read(manifest).target(Objects(objects))
    pods["items"] = []
    with pytest.raises(DataError, match="no pod matches app=web"):
        read(manifest).target(Objects(objects))
