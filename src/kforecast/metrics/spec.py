"""The targets and metrics of a train-config.yaml (contract 2), validated field by field."""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from kforecast.metrics.names import trimmed
from kforecast.window import parse_duration


def _check_duration(text: str) -> str:
    parse_duration(text)
    return text


def _name(text: str) -> str:
    if not (name := trimmed(text)):
        raise ValueError(f"{text!r} is no name, but blanks")
    return name


Name = Annotated[str, Field(min_length=1), AfterValidator(_name)]
Duration = Annotated[str, AfterValidator(_check_duration)]


def api_group(api_version: str) -> str:
    """The group of an API version: the part before the slash, empty for the core group."""
    group, slash, _ = api_version.partition("/")
    return group if slash else ""


class _StrictModel(BaseModel):
    """Keys in the user's spelling; unknown keys are errors, so that typos do not pass."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WorkloadRef(_StrictModel):
    """The workload's API object, for queries by group and kind."""

    apiVersion: Name  # noqa: N815
    kind: Name
    name: Name


class LabelSelectorRequirement(_StrictModel):
    """One expression of a Kubernetes LabelSelector."""

    key: Name
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[str] = []

    @model_validator(mode="after")
    def _values_fit_operator(self) -> "LabelSelectorRequirement":
        if self.operator in ("In", "NotIn") and not self.values:
            raise ValueError(f"operator {self.operator} needs values")
        if self.operator in ("Exists", "DoesNotExist") and self.values:
            raise ValueError(f"operator {self.operator} takes no values")
        return self


class LabelSelector(_StrictModel):
    """A Kubernetes LabelSelector."""

    matchLabels: dict[str, str] = {}  # noqa: N815
    matchExpressions: list[LabelSelectorRequirement] = []  # noqa: N815


class MetricIdentifier(_StrictModel):
    """The name of a metric and, optionally, a selector for its series."""

    name: Name
    selector: LabelSelector | None = None


class ObjectReference(_StrictModel):
    """The Kubernetes object that a metric describes."""

    apiVersion: str = ""  # noqa: N815
    kind: Name
    name: Name


class _MetricBlock(_StrictModel):
    # The target value of an autoscaler; irrelevant for history, so any content is accepted.
    target: Any = Field(default=None, exclude=True)


class ObjectMetric(_MetricBlock):
    """A metric of one Kubernetes object."""

    metric: MetricIdentifier
    describedObject: ObjectReference  # noqa: N815


class IdentifiedMetric(_MetricBlock):
    """A metric given by its identifier alone: the ``external`` and ``pods`` blocks."""

    metric: MetricIdentifier


class ResourceMetric(_MetricBlock):
    """A resource of the workload's pods, over all their containers."""

    name: Name


class ContainerResourceMetric(_MetricBlock):
    """A resource of one container of the workload's pods."""

    name: Name
    container: Name


class MetricSpec(_StrictModel):
    """One metric: the MetricSpec of Kubernetes ``autoscaling/v2``, plus ``name``."""

    BLOCKS: ClassVar[dict[str, str]] = {
        "Object": "object",
        "External": "external",
        "Pods": "pods",
        "Resource": "resource",
        "ContainerResource": "containerResource",
    }

    name: Name | None = None
    type: Literal["Object", "External", "Pods", "Resource", "ContainerResource"]
    object: ObjectMetric | None = None
    external: IdentifiedMetric | None = None
    pods: IdentifiedMetric | None = None
    resource: ResourceMetric | None = None
    containerResource: ContainerResourceMetric | None = None  # noqa: N815

    @model_validator(mode="after")
    def _has_the_block_of_its_type(self) -> "MetricSpec":
        block = self.BLOCKS[self.type]
        if getattr(self, block) is None:
            raise ValueError(f"type {self.type} needs the block {block!r}")
        return self

    @property
    def series_name(self) -> str:
        """The metric in the series' identity: ``name``, or else the name of the queried metric."""
        if self.name is not None:
            return self.name
        block = getattr(self, self.BLOCKS[self.type])
        name: str = block.name if hasattr(block, "name") else block.metric.name
        return name


class Target(_StrictModel):
    """One workload and its metrics; generation 1 has ``workloadName``, generation 2 ``workloadRef``."""

    workloadNamespace: Name  # noqa: N815
    workloadName: Name | None = None  # noqa: N815
    workloadRef: WorkloadRef | None = None  # noqa: N815
    historyLength: Duration  # noqa: N815
    metrics: Annotated[list[MetricSpec], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_a_workload(self) -> "Target":
        if self.workloadName is None and self.workloadRef is None:
            raise ValueError("name the workload: workloadRef (apiVersion, kind, name) or workloadName")
        for number, metric in enumerate(self.metrics):
            if self.workloadRef is None and metric.type in ("Pods", "Resource", "ContainerResource"):
                raise ValueError(
                    f"metrics[{number}] of type {metric.type} needs workloadRef (apiVersion, kind, name)"
                )
        return self

    @property
    def workload(self) -> str:
        """The workload in the series' identity: ``<namespace>/<name>``."""
        name = self.workloadRef.name if self.workloadRef is not None else self.workloadName
        return f"{self.workloadNamespace}/{name}"


def check_keys_differ(series: Iterable[tuple[str, str, str]]) -> None:
    """Refuse two series with the same item key in an artifact (contract 5).

    Parameters
    ----------
    series:
        Where in the configuration each series is, its workload and its metric.

    Raises
    ------
    ValueError
        When two keys are equal; the message names both places.
    """
    seen: dict[str, str] = {}
    for place, workload, metric in series:
        key = workload + metric
        if key in seen:
            raise ValueError(
                f"{seen[key]} and {place} have the same series key {key!r}; give one another name"
            )
        seen[key] = place


def _check_targets(targets: list[Target]) -> list[Target]:
    check_keys_differ(
        (f"targets[{i}].metrics[{j}]", target.workload, metric.series_name)
        for i, target in enumerate(targets)
        for j, metric in enumerate(target.metrics)
    )
    return targets


Targets = Annotated[list[Target], AfterValidator(_check_targets)]
