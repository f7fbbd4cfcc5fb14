"""``kforecast-scale``: forecast and replicas in the place of Kapacity's predictive job (contract 7)."""

from __future__ import annotations

import logging
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from omegaconf import DictConfig
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from kforecast.commands.run import run
from kforecast.commands.zero_shot import chosen_artifact, window_without_artifact
from kforecast.config.checks import built, check_step, events_of, plain
from kforecast.config.legacy_cli import JOB_FLAGS
from kforecast.config.settings import AskedWindow, EventsSection
from kforecast.errors import ConfigError, DataError, StaleError, WithdrawnError, few
from kforecast.files.untrusted import finite
from kforecast.intervals import check_levels, column, missing
from kforecast.metrics.timerange import utc
from kforecast.validation import short, validate
from kforecast.window import Frequency, parse_duration

if TYPE_CHECKING:
    import pandas as pd

    from kforecast.forecaster import Forecaster
    from kforecast.metrics.kapacity import KapacitySource
    from kforecast.scaling.portrait import Portrait
    from kforecast.scaling.replicas import Rule
    from kforecast.shadow import GuardSettings

log = logging.getLogger(__name__)

# Seconds whose traffic per replica counts as the newest one (scale.replicas=ratio).
_NEWEST = 600


def main() -> None:
    """Run the command."""
    sys.exit(run(scale, config_name="scale", flags=tuple(JOB_FLAGS)))


def _duration(text: str) -> str:
    parse_duration(text)
    return text


def _frequency(text: object) -> int | None:
    if text is None:
        return None
    # Older versions of pandas write T for minutes and S for seconds.
    return Frequency.parse(re.sub("T$", "min", re.sub("S$", "s", str(text)))).step


def _level(value: Any) -> Any:
    return None if value is None else check_levels([value])[0]


def _per_replica(value: Any) -> Any:
    numbers = [] if value is None else [*value.values()] if isinstance(value, dict) else [value]
    for number in numbers:
        if (found := finite(number)) is None or found <= 0:
            raise ValueError(f"{short(number)} is not a number above 0; write NUMBER or {{TRAFFIC: NUMBER}}")
    return value


Duration = Annotated[str, AfterValidator(_duration)]


class ScaleSection(BaseModel):
    """``scale``: whose replicas, how they follow from traffic, and the points of the result."""

    model_config = ConfigDict(extra="forbid", strict=True)

    namespace: Annotated[str, Field(min_length=1)]
    name: Annotated[str, Field(min_length=1)]
    kubeconfig: Annotated[str, Field(min_length=1)] | None
    replicas: Literal["learned", "per_replica", "ratio"]
    per_replica: Annotated[float | dict[str, float] | None, BeforeValidator(_per_replica)]
    history: Duration
    test_seconds: Annotated[int, Field(ge=1)]
    min_correlation: Annotated[float, Field(ge=-1, le=1)]
    max_mse: Annotated[float, Field(ge=0)]
    quantile: Annotated[float | None, BeforeValidator(_level)]
    max_age: Duration | None
    guard: bool
    guard_lead: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    guard_cost: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    freq: Annotated[int | None, BeforeValidator(_frequency)]
    lead_seconds: Annotated[int, Field(ge=0, le=86_400)]

    @property
    def learns(self) -> bool:
        """Whether replicas follow from the history of replicas."""
        return self.per_replica is None

    @property
    def learns_resource(self) -> bool:
        """Whether replicas follow from the resource and its target, too."""
        return self.learns and self.replicas != "ratio"


class _Settings(BaseModel):
    artifact_dir: Annotated[str, BeforeValidator(str)]
    data: EventsSection
    window: AskedWindow
    scale: ScaleSection


def scale(cfg: DictConfig) -> None:
    """Write the replicas of a HorizontalPortrait as configured; when anything fails, nothing is written.

    Raises
    ------
    ConfigError, ArtifactError
        When a setting, the portrait or its target is wrong, or the artifact cannot be used.
    DataError
        When a series is not in the artifact or cannot be forecast, or no replicas follow from the history.
    StaleError
        When the newest value of a series is too old.
    WithdrawnError
        When the guard has withdrawn the forecast of a series.
    SourceError, OutputError
        When the API server or the metrics provider fails, or others keep changing the ConfigMap.
    """
    settings, source = check_scale_settings(cfg)
    chosen, artifact_dir, now = settings.scale, Path(settings.artifact_dir), int(time.time())
    window = window_without_artifact(artifact_dir, settings.window)
    events = events_of(settings.data.events, source)

    from kforecast.forecaster import Forecaster
    from kforecast.scaling.kubernetes import Cluster, Kubernetes
    from kforecast.scaling.portrait import Portrait
    from kforecast.scaling.result import Points, write

    artifact = chosen_artifact(artifact_dir, window)
    forecaster = Forecaster.of(artifact, str(artifact_dir)).knowing(events)
    if chosen.quantile is not None and forecaster.intervals is None:
        raise missing(artifact_dir)
    check_step(source, forecaster.window)
    api = Kubernetes(Cluster.of(chosen.kubeconfig))
    portrait = Portrait.read(api, chosen.namespace, chosen.name)
    _check_traffics(chosen, portrait, forecaster)
    target = portrait.target(api) if chosen.learns_resource else None
    history = _fetched(chosen, portrait, forecaster, source.model_copy(update={"end": now}))
    moments, traffic = _forecast(chosen, portrait, forecaster, history, now)
    if chosen.guard:
        _check_guard(chosen, portrait, forecaster, history, now)
    replicas = _rule(chosen, portrait, history, target, now - _max_age(chosen, forecaster)).replicas(traffic)
    step = forecaster.window.frequency.step
    points = Points(moments, replicas, int(moments[-1]) + step)
    points = points.every(chosen.freq or step).ahead(chosen.lead_seconds)
    written = write(api, portrait, points)
    log.info(
        "ConfigMap %s: %d points from %s to %s UTC, %d to %d replicas",
        written,
        len(points.moments),
        utc(points.moments[0]),
        utc(points.end),
        points.replicas.min(),
        points.replicas.max(),
    )


def check_scale_settings(cfg: DictConfig) -> tuple[_Settings, KapacitySource]:
    """Check a composed configuration, and build its source.

    Raises
    ------
    ConfigError
        When a setting is wrong, or an environment variable of the job is missing.
    """
    if not str(cfg.source.get("_target_")).endswith(".KapacitySource"):
        raise ConfigError("source: the metrics of a HorizontalPortrait come from source=kapacity alone")
    content = plain(cfg)
    needed = {
        "METRICS_SERVER_ADDR": ("source.address", content["source"]["address"]),
        "HP_NAMESPACE": ("scale.namespace", content["scale"]["namespace"]),
        "HP_NAME": ("scale.name", content["scale"]["name"]),
    }
    unset = [f"{variable} ({key}=...)" for variable, (key, value) in needed.items() if not value]
    if unset:
        raise ConfigError(
            f"not set: {', '.join(unset)}; Kapacity's controller sets these variables in the pod"
        )
    settings = validate(_Settings, content, "configuration")
    if settings.scale.per_replica is not None and settings.scale.replicas != "per_replica":
        raise ConfigError("scale.per_replica is for scale.replicas=per_replica; give both, or neither")

    source: KapacitySource = built(cfg.source, "source")
    if source.on_empty == "skip":
        raise ConfigError("source.on_empty: skip leaves no replicas where a metric is missing; leave it out")
    source.token()
    return settings, source


def _check_traffics(chosen: ScaleSection, portrait: Portrait, forecaster: Forecaster) -> None:
    """Check that the model and ``scale.per_replica`` know the portrait's traffics."""
    from kforecast.data.panel import item_key

    workload, traffics = portrait.workload_key, portrait.traffics
    known = forecaster.item_ids  # empty: the package's weights, for any series
    unknown = [f"{workload} {name}" for name in traffics if item_key(workload, name) not in known]
    if known and unknown:
        raise DataError(
            f"not in the artifact: {', '.join(unknown)}; it knows {few(list(forecaster.item_ids))}. Train it "
            "on the same namespace, workload and metric name"
        )
    given = chosen.per_replica
    if isinstance(given, dict) and {*given} != {*traffics}:
        raise ConfigError(
            f"scale.per_replica: names {few(sorted(given))}, but the traffics of {portrait} are "
            f"{few(traffics)}; give one number for each"
        )
    if isinstance(given, float) and len(traffics) > 1:
        raise ConfigError(
            f"scale.per_replica: {portrait} has several traffics; give {{{traffics[0]}: NUMBER, ...}}"
        )


def _fetched(
    chosen: ScaleSection, portrait: Portrait, forecaster: Forecaster, source: KapacitySource
) -> pd.DataFrame:
    """The history of the traffics, and of whatever else the replicas follow from."""
    resource, replicas, *traffics = portrait.metrics
    others = [resource] if chosen.learns_resource else []
    others += [replicas] if chosen.learns else []
    # One more bin, for the one under way.
    bins = _guarded(chosen).bins(forecaster) if chosen.guard else forecaster.history_length
    reads = (bins + 1) * forecaster.window.frequency.step
    minutes = -(-max(reads, parse_duration(chosen.history) if others else 0) // 60)
    targets = [portrait.asked(traffics, f"{minutes}min")]
    targets += [portrait.asked(others, chosen.history)] if others else []
    return source.model_copy(update={"targets": targets}).fetch()


def _forecast(
    chosen: ScaleSection, portrait: Portrait, forecaster: Forecaster, history: pd.DataFrame, now: int
) -> tuple[np.ndarray, np.ndarray]:
    """The bins from the one under way on, and the traffic in them: ``[horizon]``, ``[horizon, traffics]``."""
    levels = [] if chosen.quantile is None else [chosen.quantile]
    made = forecaster.forecast(
        history[history["metric"].isin(portrait.traffics)],
        quantiles=levels,
        at=now,
        max_age=chosen.max_age,
        on_stale="error",
    )
    values = "value" if chosen.quantile is None else column(chosen.quantile)
    wide = made.pivot_table(values, "timestamp", "metric", observed=True)[portrait.traffics]
    return wide.index.to_numpy().astype(np.int64), wide.to_numpy()


def _guarded(chosen: ScaleSection) -> GuardSettings:
    from kforecast.shadow import GuardSettings

    return GuardSettings("forecast", chosen.quantile, chosen.guard_lead, chosen.guard_cost)


def _check_guard(
    chosen: ScaleSection, portrait: Portrait, forecaster: Forecaster, history: pd.DataFrame, now: int
) -> None:
    """Refuse forecasts that have cost more than scaling on the newest value."""
    from kforecast.metrics.frame import FrameSource
    from kforecast.shadow import withdrawn, words

    traffics = history[history["metric"].isin(portrait.traffics)]
    origins = forecaster.origins(FrameSource(traffics, any_time=True), now)
    panel = origins.panel.padded(0, origins.end - origins.panel.num_bins)
    for row, one in withdrawn(forecaster, panel, _guarded(chosen)).items():
        raise WithdrawnError(
            f"{' '.join(panel.series[row])}: {words(one)}. Nothing is written, and an earlier "
            "result counts until it expires; scale.guard=false writes in any case"
        )


def _rule(
    chosen: ScaleSection, portrait: Portrait, history: pd.DataFrame, target: float | None, oldest: int
) -> Rule:
    """The rule from traffic to replicas; ``oldest`` is the first moment that is not stale."""
    from kforecast.scaling.replicas import Limits, Observed, Rule, at_target, learned, ratio

    traffics, given = portrait.traffics, chosen.per_replica
    if given is not None:
        numbers = [given[name] for name in traffics] if isinstance(given, dict) else [given]
        return Rule(1 / np.array(numbers))
    resource, replicas = (metric.series_name for metric in portrait.metrics[:2])
    observed = Observed.of(history, traffics, replicas, resource if target is not None else None)
    if target is None:
        if len(observed.moments) and observed.moments[-1] < oldest:
            raise StaleError(
                f"stale: {replicas} of {portrait} and its traffics have no common value since "
                f"{utc(observed.moments[-1])} UTC; check their exporters, or allow it with scale.max_age=..."
            )
        return ratio(observed, _NEWEST)
    if chosen.replicas == "per_replica":
        return at_target(observed, target)
    return learned(observed, target, Limits(chosen.test_seconds, chosen.min_correlation, chosen.max_mse))


def _max_age(chosen: ScaleSection, forecaster: Forecaster) -> int:
    """The greatest age in seconds of a series that is not stale."""
    window = forecaster.window
    longest = max(window.prediction_length, window.context_length) * window.frequency.step
    return longest if chosen.max_age is None else parse_duration(chosen.max_age)


if __name__ == "__main__":
    main()
