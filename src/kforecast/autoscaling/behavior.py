"""``spec.behavior`` of a HorizontalPodAutoscaler: how fast it may scale, in Kubernetes' own names."""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from kforecast.autoscaling.quantity import quantity

_CONFIG = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Rate(BaseModel):
    """One policy: the largest change within a period."""

    model_config = _CONFIG

    type: Literal["Pods", "Percent"]
    value: Annotated[int, Field(gt=0)]
    periodSeconds: Annotated[int, Field(ge=1, le=1800)]  # noqa: N815


class Rules(BaseModel):
    """The rules of one direction; None stands for Kubernetes' default."""

    model_config = _CONFIG

    stabilizationWindowSeconds: Annotated[int, Field(ge=0, le=3600)] | None = None  # noqa: N815
    selectPolicy: Literal["Max", "Min", "Disabled"] | None = None  # noqa: N815
    policies: Annotated[list[Rate], Field(min_length=1)] | None = None
    tolerance: Annotated[float, Field(ge=0), BeforeValidator(quantity)] | None = None

    @property
    def longest(self) -> int:
        """The longest period in seconds."""
        return max(rate.periodSeconds for rate in self.policies or ())


class Behavior(BaseModel):
    """The rules of both directions, as far as they are given."""

    model_config = _CONFIG

    scaleUp: Rules | None = None  # noqa: N815
    scaleDown: Rules | None = None  # noqa: N815

    def completed(self, stabilization: int) -> tuple[Rules, Rules]:
        """The rules up and down with Kubernetes' defaults in the place of None.

        Parameters
        ----------
        stabilization:
            The window of scaling down, in seconds, where none is given.
        """
        all_in_15_s = Rate(type="Percent", value=100, periodSeconds=15)
        up = Rules(
            stabilizationWindowSeconds=0,
            selectPolicy="Max",
            policies=[Rate(type="Pods", value=4, periodSeconds=15), all_in_15_s],
        )
        down = Rules(stabilizationWindowSeconds=stabilization, selectPolicy="Max", policies=[all_in_15_s])
        return _over(up, self.scaleUp), _over(down, self.scaleDown)


def _over(defaults: Rules, given: Rules | None) -> Rules:
    return defaults if given is None else defaults.model_copy(update=dict(_given(given)))


def _given(rules: Rules) -> list[tuple[str, object]]:
    return [(name, value) for name, value in rules if value is not None]
