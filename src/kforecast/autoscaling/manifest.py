"""A cluster's own YAML as a policy: HorizontalPodAutoscaler, ScaledObject, or Kapacity's autoscaler.

Fields that say how replicas follow from metrics are read. Fields that say where a metric comes from
(selectors, queries, credentials) are left aside. Every other field is refused by name.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from kforecast.autoscaling.behavior import Behavior
from kforecast.autoscaling.quantity import quantity
from kforecast.errors import ConfigError
from kforecast.files.untrusted import inside, parse_yaml, read_file, shortened
from kforecast.validation import list_problems, validate

_CONFIG = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
_MOST_BYTES = 1024 * 1024
_MOST_VALUES = 10_000
_SEPARATOR = re.compile(r"^(?:---|\.\.\.)(?=\s|$)", re.MULTILINE)
_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def _positive(value: object) -> float:
    found = quantity(value)
    if not found > 0:
        raise ValueError(f"{shortened(value)!r} must be above 0")
    return found


def _seconds(value: object) -> int:
    """A duration of Go like ``1m30s``."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
    if match is None:
        raise ValueError(f"{shortened(value)!r} is not a duration like 15s or 1m30s")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


Quantity = Annotated[float, BeforeValidator(_positive)]
Level = Annotated[float, BeforeValidator(quantity)]
Seconds = Annotated[int, BeforeValidator(_seconds), Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Aside = Any  # accepted, and left aside


class _Part(BaseModel):
    model_config = _CONFIG


# HorizontalPodAutoscaler, https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/


class _Target(_Part):
    type: Literal["Utilization", "AverageValue", "Value"]
    averageUtilization: Annotated[int, Field(ge=1)] | None = None  # noqa: N815
    averageValue: Quantity | None = None  # noqa: N815
    value: Quantity | None = None

    @model_validator(mode="after")
    def _has_its_value(self) -> Self:
        given = {
            "Utilization": self.averageUtilization,
            "AverageValue": self.averageValue,
            "Value": self.value,
        }
        wrong = [kind for kind, value in given.items() if (value is None) == (kind == self.type)]
        if wrong:
            names = {"Utilization": "averageUtilization", "AverageValue": "averageValue", "Value": "value"}
            raise ValueError(f"type {self.type} needs {names[self.type]}, and nothing else")
        return self

    def number(self) -> float:
        return float(self.averageUtilization or self.averageValue or self.value or 0)


class _Named(_Part):
    name: Annotated[str, Field(min_length=1)]
    selector: Aside = None


class _Resource(_Part):
    name: Annotated[str, Field(min_length=1)]
    target: _Target
    container: Aside = None


class _Custom(_Part):
    metric: _Named
    target: _Target
    describedObject: Aside = None  # noqa: N815


# Which kinds of readings the targets of a metric type are.
_OF_PODS = {"Utilization": "utilization", "AverageValue": "value_per_pod"}
_OF_SERVICE = {"AverageValue": "value_per_pod_total", "Value": "value"}
_TYPES: dict[str, tuple[str, dict[str, str]]] = {
    "Resource": ("resource", _OF_PODS),
    "ContainerResource": ("containerResource", _OF_PODS),
    "Pods": ("pods", {"AverageValue": "value_per_pod"}),
    "Object": ("object", _OF_SERVICE),
    "External": ("external", _OF_SERVICE),
}


class _Metric(_Part):
    type: Literal["Resource", "ContainerResource", "Pods", "Object", "External"]
    resource: _Resource | None = None
    containerResource: _Resource | None = None  # noqa: N815
    pods: _Custom | None = None
    object: _Custom | None = None
    external: _Custom | None = None
    name: str | None = None  # Kapacity's

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        key, kinds = _TYPES[self.type]
        given = {name for name, _ in _TYPES.values() if getattr(self, name) is not None}
        if given != {key}:
            raise ValueError(f"type {self.type} needs {key}, and nothing else")
        if self._target.type not in kinds:
            raise ValueError(
                f"{key}.target.type: {self._target.type} does not fit {self.type}; it is {' or '.join(kinds)}"
            )
        return self

    @property
    def _target(self) -> _Target:
        found: _Resource | _Custom = getattr(self, _TYPES[self.type][0])
        return found.target

    def plain(self) -> dict[str, Any]:
        """As keys of :class:`~kforecast.autoscaling.hpa.Metric`."""
        key, kinds = _TYPES[self.type]
        found = getattr(self, key)
        named = found.name if isinstance(found, _Resource) else found.metric.name
        return {"name": self.name or named, "kind": kinds[found.target.type], "target": found.target.number()}


class _HpaSpec(_Part):
    scaleTargetRef: Aside  # noqa: N815
    minReplicas: Count | None = None  # noqa: N815
    maxReplicas: Annotated[int, Field(ge=1)]  # noqa: N815
    metrics: list[_Metric] | None = None
    behavior: Behavior | None = None


def _hpa(spec: Any, name: str) -> dict[str, Any]:
    found = validate(_HpaSpec, spec, name)
    # Kubernetes puts the utilisation of the CPU, 80 %, in the place of no metrics.
    cpu = {"name": "cpu", "kind": "utilization", "target": 80.0}
    return {
        "min_replicas": found.minReplicas,
        "max_replicas": found.maxReplicas,
        "metrics": [metric.plain() for metric in found.metrics or ()] or [cpu],
        "behavior": _given(found.behavior),
    }


# ScaledObject, https://keda.sh/docs/2.20/reference/scaledobject-spec/

# The keys of a trigger's target and activation value in its metadata.
_TRIGGERS = {
    "metrics-api": ("targetValue", "activationTargetValue"),
    "prometheus": ("threshold", "activationThreshold"),
    "external": ("target", "activation"),  # kforecast-serve's; other servers may have others
    "external-push": ("target", "activation"),
    "kafka": ("lagThreshold", "activationLagThreshold"),
    "rabbitmq": ("value", "activationValue"),
    "aws-sqs-queue": ("queueLength", "activationQueueLength"),
    "redis": ("listLength", "activationListLength"),
    "cpu": ("value", ""),
    "memory": ("value", ""),
}
_DEFAULT_TARGETS = {"kafka": 10, "aws-sqs-queue": 5, "redis": 5}


class _Trigger(_Part):
    type: str
    name: Annotated[str, Field(min_length=1)] | None = None
    metadata: dict[str, Any]
    metricType: Literal["AverageValue", "Value", "Utilization"] | None = None  # noqa: N815
    authenticationRef: Aside = None  # noqa: N815
    useCachedMetrics: Literal[False] = False  # noqa: N815

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.type not in _TRIGGERS:
            raise ValueError(
                f"type: {shortened(self.type)} is not simulated; known: {', '.join(_TRIGGERS)} (give "
                "others as policy.triggers, without a manifest)"
            )
        target, activation = _TRIGGERS[self.type]
        if target not in self.metadata and self.type not in _DEFAULT_TARGETS:
            raise ValueError(f"metadata.{target}: missing; it is the trigger's target")
        for key in (target, activation):
            if key in self.metadata:
                try:
                    number = quantity(self.metadata[key])
                except ValueError as error:
                    raise ValueError(f"metadata.{key}: {error}") from error
                if key == target and not number > 0:
                    raise ValueError(f"metadata.{key}: {shortened(self.metadata[key])!r} must be above 0")
        if self._kind is None:
            raise ValueError(f"metricType: {self.metricType} does not fit the type {self.type}")
        return self

    @property
    def _kind(self) -> str | None:
        if self.type in ("cpu", "memory"):
            given = self.metricType or self.metadata.get("type", "Utilization")
            return _OF_PODS.get(given) if isinstance(given, str) else None
        return _OF_SERVICE.get(self.metricType or "AverageValue")

    def plain(self, number: int) -> dict[str, Any]:
        """As keys of :class:`~kforecast.autoscaling.keda.Trigger`."""
        target, activation = _TRIGGERS[self.type]
        return {
            "name": self.name or f"s{number}-{self.type}",
            "kind": self._kind,
            "target": quantity(self.metadata.get(target, _DEFAULT_TARGETS.get(self.type))),
            "activation": quantity(self.metadata.get(activation, 0)),
            "forecast": any("kforecast" in str(value).lower() for value in self.metadata.values()),
        }


class _Modifiers(_Part):
    formula: Annotated[str, Field(min_length=1)]
    target: Quantity
    activationTarget: Level = 0.0  # noqa: N815
    metricType: Literal["AverageValue", "Value"] = "AverageValue"  # noqa: N815


class _HpaConfig(_Part):
    name: Aside = None
    behavior: Behavior | None = None


class _Advanced(_Part):
    restoreToOriginalReplicaCount: Aside = None  # noqa: N815
    horizontalPodAutoscalerConfig: _HpaConfig | None = None  # noqa: N815
    scalingModifiers: _Modifiers | None = None  # noqa: N815


class _Fallback(_Part):
    failureThreshold: Count  # noqa: N815
    replicas: Count
    behavior: str = "static"


class _KedaSpec(_Part):
    scaleTargetRef: Aside  # noqa: N815
    pollingInterval: Annotated[int, Field(ge=1)] | None = None  # noqa: N815
    initialCooldownPeriod: Count | None = None  # noqa: N815
    cooldownPeriod: Count | None = None  # noqa: N815
    idleReplicaCount: Literal[0] | None = None  # noqa: N815
    minReplicaCount: Count | None = None  # noqa: N815
    maxReplicaCount: Annotated[int, Field(ge=1)] | None = None  # noqa: N815
    fallback: _Fallback | None = None
    advanced: _Advanced = _Advanced()
    triggers: Annotated[list[_Trigger], Field(min_length=1)]


def _keda(spec: Any, name: str) -> dict[str, Any]:
    found = validate(_KedaSpec, spec, name)
    modifiers, config = found.advanced.scalingModifiers, found.advanced.horizontalPodAutoscalerConfig
    return {
        "min_replicas": found.minReplicaCount,
        "max_replicas": found.maxReplicaCount,
        "idle_replicas": found.idleReplicaCount,
        "polling_interval": found.pollingInterval,
        "cooldown_period": found.cooldownPeriod,
        "initial_cooldown_period": found.initialCooldownPeriod,
        "triggers": [trigger.plain(number) for number, trigger in enumerate(found.triggers)],
        "modifiers": modifiers
        and {
            "formula": modifiers.formula,
            "target": modifiers.target,
            "activation": modifiers.activationTarget,
            "kind": _OF_SERVICE[modifiers.metricType],
        },
        "fallback": found.fallback and found.fallback.model_dump(),
        "behavior": _given(config.behavior) if config is not None else None,
    }


# IntelligentHorizontalPodAutoscaler and HorizontalPortrait, apis/autoscaling/v1alpha1 of Kapacity


class _KubeHpa(_Part):
    syncPeriod: Seconds | None = None  # noqa: N815
    tolerance: Level | None = None
    cpuInitializationPeriod: Aside = None  # noqa: N815
    initialReadinessDelay: Aside = None  # noqa: N815


class _Algorithm(_Part):
    type: Literal["KubeHPA", "ExternalJob"]
    kubeHPA: _KubeHpa | None = None  # noqa: N815
    externalJob: Aside = None  # noqa: N815


class _PortraitSpec(_Part):
    portraitType: Literal["Predictive", "Reactive"]  # noqa: N815
    metrics: list[Any] = []
    algorithm: _Algorithm

    @model_validator(mode="after")
    def _is_computed_as_known(self) -> Self:
        expected = "KubeHPA" if self.portraitType == "Reactive" else "ExternalJob"
        if self.algorithm.type != expected:
            raise ValueError(
                f"algorithm.type: {self.algorithm.type} for a {self.portraitType} portrait is not simulated; "
                f"{expected} is"
            )
        return self

    def plain(self, name: str) -> dict[str, Any]:
        """Keys of KapacityPolicy for a reactive portrait."""
        if self.portraitType == "Predictive":
            return {}
        metrics = validate(_Metrics, {"metrics": self.metrics}, name).metrics
        algorithm = self.algorithm.kubeHPA or _KubeHpa()
        return {
            "metrics": [metric.plain() for metric in metrics],
            "tolerance": algorithm.tolerance,
            "interval": algorithm.syncPeriod,
        }


class _Metrics(_Part):
    """The metrics of a reactive portrait; those of a predictive one are the job's own."""

    metrics: list[_Metric]


class _Portrait(_PortraitSpec):
    scaleTargetRef: Aside  # noqa: N815


class _Static(_Part):
    replicas: Count


class _Provider(_Part):
    type: Literal["Static", "Dynamic"]
    priority: int
    static: _Static | None = None
    dynamic: _PortraitSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_simulated(cls, given: Any) -> Any:
        if inside(given, "type") == "Cron":
            raise ValueError("type: Cron is not simulated; the scheduled driver of the replay stands for it")
        return given

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        if (self.static is None) == (self.type == "Static") or (self.dynamic is None) == (
            self.type == "Dynamic"
        ):
            raise ValueError(f"type {self.type} needs {self.type.lower()}, and nothing else")
        return self

    def plain(self) -> dict[str, Any]:
        """As keys of :class:`~kforecast.autoscaling.kapacity.Portrait`."""
        kind = "Static" if self.dynamic is None else self.dynamic.portraitType
        return {
            "type": kind,
            "priority": self.priority,
            "replicas": None if self.static is None else self.static.replicas,
        }


class _GrayStrategy(_Part):
    grayState: Literal["Online", "Deleted"]  # noqa: N815
    changeIntervalSeconds: Annotated[int, Field(ge=1)]  # noqa: N815
    changePercent: Annotated[int, Field(ge=1, le=100)]  # noqa: N815
    observationSeconds: Aside = None  # noqa: N815

    def plain(self) -> dict[str, Any]:
        """As keys of :class:`~kforecast.autoscaling.kapacity.Gray`."""
        return self.model_dump(include={"changeIntervalSeconds", "changePercent"})


class _Scaling(_Part):
    grayStrategy: _GrayStrategy | None = None  # noqa: N815


class _KapacityBehavior(_Part):
    scaleUp: _Scaling = _Scaling()  # noqa: N815
    scaleDown: _Scaling = _Scaling()  # noqa: N815
    replicaProfile: Aside = None  # noqa: N815


class _KapacitySpec(_Part):
    scaleTargetRef: Aside  # noqa: N815
    paused: Literal[False] = False
    minReplicas: Count  # noqa: N815
    maxReplicas: Annotated[int, Field(ge=1)]  # noqa: N815
    scaleMode: Literal["Auto"] = "Auto"  # noqa: N815
    portraitProviders: Annotated[list[_Provider], Field(min_length=1)]  # noqa: N815
    behavior: _KapacityBehavior = _KapacityBehavior()


def _kapacity(spec: Any, name: str) -> dict[str, Any]:
    found = validate(_KapacitySpec, spec, name)
    settings: dict[str, Any] = {
        "min_replicas": found.minReplicas,
        "max_replicas": found.maxReplicas,
        "portraits": [provider.plain() for provider in found.portraitProviders],
    }
    for number, provider in enumerate(found.portraitProviders):
        if provider.dynamic is not None:
            settings |= provider.dynamic.plain(f"{name}.portraitProviders[{number}].dynamic")
    for key, scaling in (("scale_up", found.behavior.scaleUp), ("scale_down", found.behavior.scaleDown)):
        settings[key] = scaling.grayStrategy and scaling.grayStrategy.plain()
    return settings


def _portrait(spec: Any, name: str) -> dict[str, Any]:
    found = validate(_Portrait, spec, name)
    return {"portraits": [{"type": found.portraitType}]} | found.plain(name)


@dataclass(frozen=True)
class Kind:
    """A kind of object that a policy is read from: its name, its version, and the policy's option."""

    name: str
    version: str
    option: str
    read: Callable[[Any, str], dict[str, Any]]


HPA = (Kind("HorizontalPodAutoscaler", "autoscaling/v2", "hpa", _hpa),)
KEDA = (Kind("ScaledObject", "keda.sh/v1alpha1", "keda", _keda),)
_GROUP = "autoscaling.kapacitystack.io/v1alpha1"
# The first one in a file counts: the IHPA makes its portraits itself.
KAPACITY = (
    Kind("IntelligentHorizontalPodAutoscaler", _GROUP, "kapacity", _kapacity),
    Kind("HorizontalPortrait", _GROUP, "kapacity", _portrait),
)


def from_manifest(given: Any, kinds: tuple[Kind, ...]) -> Any:
    """The arguments of a policy, with those of its manifest in the place of None.

    Parameters
    ----------
    given:
        The arguments; ``manifest`` is the path of a file, or None.
    kinds:
        The kinds of objects that the policy can be, in the order of preference.

    Raises
    ------
    ConfigError
        When the file cannot be read, holds no such object or several, or has fields that are wrong or not
        simulated.
    """
    if not isinstance(given, dict):
        return given
    given = {key: value for key, value in given.items() if value is not None}
    file = given.get("manifest")
    if not isinstance(file, str):
        return given
    settings = {key: value for key, value in _read(file, kinds).items() if value is not None}
    return settings | given


def _read(file: str, kinds: tuple[Kind, ...]) -> dict[str, Any]:
    try:
        text = read_file(Path(file), _MOST_BYTES).decode("utf-8")
        objects = list(_objects(text))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"manifest {file}: {reason}") from error
    for kind in kinds:
        found = [one for one in objects if inside(one, "kind") == kind.name]
        if len(found) > 1:
            names = ", ".join(map(_name, found))
            raise ConfigError(f"manifest {file}: {len(found)} objects are a {kind.name} ({names}); keep one")
        if found:
            return _settings(file, kind, found[0])
    raise ConfigError(f"manifest {file}: {_without(objects, kinds)}")


def _settings(file: str, kind: Kind, found: dict[str, Any]) -> dict[str, Any]:
    place = f"manifest {file}, {kind.name} {_name(found)}"
    version = found.get("apiVersion")
    if version != kind.version:
        raise ConfigError(f"{place}: apiVersion: {shortened(version)!r} is not read; {kind.version} is")
    unknown = [str(key) for key in found if key not in ("apiVersion", "kind", "metadata", "spec", "status")]
    if unknown:
        raise ConfigError(list_problems(place, [f"{shortened(key)}: unknown key" for key in unknown]))
    notes = inside(found, "metadata", "annotations")
    names = map(str, notes) if isinstance(notes, dict) else ()
    paused = [key for key in names if key.startswith("autoscaling.keda.sh/paused")]
    if paused:
        raise ConfigError(f"{place}: metadata.annotations.{paused[0]}: a paused object does not scale")
    return kind.read(found.get("spec"), f"{place}: spec")


def _objects(text: str) -> Iterator[Any]:
    """The objects of all documents, and those inside a ``List``."""
    starts = [0, *(match.start() for match in _SEPARATOR.finditer(text))]
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        # Lines keep their numbers in messages.
        document = "\n" * text.count("\n", 0, start) + _SEPARATOR.sub("   ", text[start:end], count=1)
        found = parse_yaml(document, _MOST_VALUES + document.count("\n"), aliases=True)
        items = inside(found, "items") if inside(found, "kind") == "List" else None
        yield from items if isinstance(items, list) else [found] if found is not None else []


def _name(one: Any) -> str:
    namespace, name = inside(one, "metadata", "namespace"), inside(one, "metadata", "name")
    return shortened("/".join(str(part) for part in (namespace, name) if part) or "without a name", 100)


def _without(objects: list[Any], kinds: tuple[Kind, ...]) -> str:
    """Why no object fits, and which policy reads those that are there."""
    wanted = " or ".join(kind.name for kind in kinds)
    present = {str(kind) for one in objects if (kind := inside(one, "kind")) is not None}
    if not present:
        return f"no {wanted} is in it, nor any other object of Kubernetes"
    for kind in (*HPA, *KEDA, *KAPACITY):
        if kind.name in present:
            return f"no {wanted} is in it, but a {kind.name}; read it with policy={kind.option}"
    listed = ", ".join(shortened(one, 60) for one in sorted(present)[:5])
    return f"no {wanted} is in it{f' (but: {listed})' if present else ''}"


def _given(behavior: Behavior | None) -> dict[str, Any] | None:
    return None if behavior is None else behavior.model_dump(exclude_none=True)
