"""The HorizontalPortrait that a job serves: its workload, its metrics and the target of its resource."""

from typing import Annotated, Any, Self
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from kforecast.autoscaling.quantity import quantity
from kforecast.errors import ConfigError, DataError
from kforecast.files.untrusted import inside, shortened
from kforecast.metrics.spec import MetricSpec, Target, WorkloadRef, check_keys_differ
from kforecast.scaling.kubernetes import Kubernetes, Manifest, StatusError
from kforecast.validation import validate

API_VERSION = "autoscaling.kapacitystack.io/v1alpha1"
KIND = "HorizontalPortrait"

# The types of the metrics at positions 0, 1, and 2 and later (contract 7). Releases before 0.2 wrote the
# replicas as External.
_RESOURCE = ("Resource", "ContainerResource")
_REPLICAS = ("Pods", "External")
_TRAFFIC = ("Pods", "Object", "External")

# Resources of the kinds that every cluster has; the others are looked up in the API server.
_PLURALS = {
    ("apps/v1", "Deployment"): "deployments",
    ("apps/v1", "StatefulSet"): "statefulsets",
    ("apps/v1", "ReplicaSet"): "replicasets",
}


class _Metadata(BaseModel):
    uid: Annotated[str, Field(min_length=1)]


class _Spec(BaseModel):
    scaleTargetRef: WorkloadRef  # noqa: N815
    metrics: list[MetricSpec]


class _Object(BaseModel):
    metadata: _Metadata
    spec: _Spec


class Portrait(BaseModel):
    """A HorizontalPortrait.

    Attributes
    ----------
    namespace, name, uid:
        Its identity.
    workload:
        The scaled workload.
    metrics:
        The resource, the number of replicas, and one or more traffics.
    """

    model_config = ConfigDict(frozen=True)

    namespace: str
    name: str
    uid: str
    workload: WorkloadRef
    metrics: list[MetricSpec]

    @classmethod
    def read(cls, api: Kubernetes, namespace: str, name: str) -> Self:
        """Ask the API server for a portrait.

        Raises
        ------
        ConfigError
            When there is none of this name, or its metrics are not those of the contract.
        SourceError
            When the API server does not answer, or refuses to.
        """
        path = f"/apis/{API_VERSION}/namespaces/{quote(namespace)}/horizontalportraits/{quote(name)}"
        said = f"{KIND} {namespace}/{name}"
        try:
            found = validate(_Object, api.get(path), said)
        except StatusError as error:
            if error.status != 404:
                raise
            raise ConfigError(f"{said}: there is none (HP_NAMESPACE, HP_NAME): {error}") from error
        metrics = found.spec.metrics
        if len(metrics) < 3:
            raise ConfigError(
                f"{said}: spec.metrics has {len(metrics)} metrics; it needs the resource, the number of "
                "replicas and at least one traffic, in this order"
            )
        for number, metric in enumerate(metrics):
            allowed = _RESOURCE if number == 0 else _REPLICAS if number == 1 else _TRAFFIC
            if metric.type not in allowed:
                raise ConfigError(
                    f"{said}: spec.metrics[{number}].type: {metric.type} is not {' or '.join(allowed)}; the "
                    "order is resource, replicas, traffics"
                )
            if number > 1 and metric.name is None:
                raise ConfigError(
                    f"{said}: spec.metrics[{number}].name: missing; it is the metric's name in training"
                )
        try:
            check_keys_differ((f"spec.metrics[{i}]", "", m.series_name) for i, m in enumerate(metrics))
        except ValueError as error:
            raise ConfigError(f"{said}: {error}") from error
        return cls(
            namespace=namespace,
            name=name,
            uid=found.metadata.uid,
            workload=found.spec.scaleTargetRef,
            metrics=metrics,
        )

    def __str__(self) -> str:
        return f"{KIND} {self.namespace}/{self.name}"

    @property
    def workload_key(self) -> str:
        """The workload in the identity of a series: ``NAMESPACE/NAME``."""
        return f"{self.namespace}/{self.workload.name}"

    @property
    def traffics(self) -> list[str]:
        """Names of the traffics, in order."""
        return [metric.series_name for metric in self.metrics[2:]]

    def asked(self, metrics: list[MetricSpec], history: str) -> Target:
        """Some of the metrics as a target of the metrics provider."""
        return Target(
            workloadNamespace=self.namespace,
            workloadRef=self.workload,
            historyLength=history,
            metrics=metrics,
        )

    def target(self, api: Kubernetes) -> float:
        """The greatest resource per replica, in the resource's own unit (cores, bytes).

        Raises
        ------
        ConfigError
            When the target has another type than AverageValue and Utilization, or is no positive number.
        DataError
            When the workload has no pod, or its first pod requests none of the resource.
        SourceError
            When the API server does not answer, or refuses to.
        """
        metric = self.metrics[0]
        block = metric.resource or metric.containerResource
        assert block is not None  # MetricSpec and Portrait.read check this
        kind = inside(block.target, "type")
        where = f"{self}: spec.metrics[0].{metric.BLOCKS[metric.type]}.target"
        if kind == "AverageValue":
            try:
                wanted = quantity(inside(block.target, "averageValue"))
            except ValueError as error:
                raise ConfigError(f"{where}.averageValue: {error}") from error
        elif kind == "Utilization":
            percent = inside(block.target, "averageUtilization")
            if isinstance(percent, bool) or not isinstance(percent, int) or percent < 1:
                raise ConfigError(f"{where}.averageUtilization: {shortened(percent)} is not a percentage")
            wanted = percent / 100 * self._requested(api, block.name, metric)
        else:
            raise ConfigError(f"{where}.type: {shortened(kind)} is not AverageValue or Utilization")
        if not wanted > 0:
            raise ConfigError(f"{where}: {wanted:g} is not above 0")
        return wanted

    def _requested(self, api: Kubernetes, resource: str, metric: MetricSpec) -> float:
        """How much of a resource the containers of the workload's first pod request."""
        scale = api.get(f"{self._collection(api)}/{quote(self.workload.name)}/scale")
        selector = inside(scale, "status", "selector")
        if not selector:
            raise DataError(f"{self}: {self.workload.kind} {self.workload.name} has no selector in its scale")
        pods = api.get(f"/api/v1/namespaces/{quote(self.namespace)}/pods", labelSelector=selector, limit="1")
        items = pods.get("items") or []
        if not items:
            raise DataError(f"{self}: no pod matches {selector}, so nothing says what a pod requests")
        containers: list[Manifest] = inside(items[0], "spec", "containers") or []
        if metric.containerResource is not None:
            containers = [one for one in containers if one.get("name") == metric.containerResource.container]
        requests = [inside(one, "resources", "requests", resource) for one in containers]
        pod = inside(items[0], "metadata", "name")
        if not requests or None in requests:
            raise DataError(
                f"{self}: not every container of pod {pod} requests {resource}, so a utilization says "
                "nothing; set resources.requests, or a target of type AverageValue"
            )
        try:
            return sum(map(quantity, requests))
        except ValueError as error:
            raise DataError(f"{self}: the requests of pod {pod}: {error}") from error

    def _collection(self, api: Kubernetes) -> str:
        """The path of the workload's kind in its namespace."""
        version = self.workload.apiVersion
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        plural: Any = _PLURALS.get((version, self.workload.kind))
        if plural is None:
            listed = [one for one in api.get(root).get("resources") or [] if "/" not in one["name"]]
            plural = next((one["name"] for one in listed if one.get("kind") == self.workload.kind), None)
            if plural is None:
                raise ConfigError(f"{self}: the cluster has no kind {self.workload.kind} in {version}")
        return f"{root}/namespaces/{quote(self.namespace)}/{plural}"
