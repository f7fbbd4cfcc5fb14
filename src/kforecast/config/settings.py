"""Schema of a composed configuration: the keys that this project owns."""

from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from kforecast.data.calendar import Calendar
from kforecast.data.fill import Fill
from kforecast.intervals import check_levels
from kforecast.validation import short
from kforecast.window import canonical_frequency, parse_duration, parse_instant


def _instant(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is not a time")
    return parse_instant(value)


def _moment(value: object) -> int | Literal["now"] | None:
    try:
        return "now" if value == "now" else _instant(value)
    except ValueError as error:
        raise ValueError(f"{error} (or now)") from error


def _duration(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a duration; write a text like 6H or 30min")
    return parse_duration(value)


def _timezone(value: Any) -> Any:
    Calendar.of(value)
    return value


def _holidays(value: Any) -> Any:
    Calendar(holidays=value)
    return value


def _threads(value: Any) -> Any:
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1024):
        raise ValueError(f"{value!r} is wrong; use auto, or a number from 1 to 1024")
    return value


def _or_word(word: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if not isinstance(value, bool) and value != word:
            raise ValueError(f"{short(value)} is wrong; use true, false or {word}")
        return value

    return BeforeValidator(check)


def _no_accumulation(number: int) -> int:
    if number != 1:
        raise ValueError("data.batch_size sets the windows of a step: change that instead")
    return number


def _float32(precision: int | str | None) -> int | str | None:
    if precision not in (None, 32, "32", "32-true"):
        raise ValueError("networks are trained in float32, as artifacts are; leave it out")
    return precision


Count = Annotated[int, Field(ge=1, lt=2**31)]
Betas = Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
Threads = Annotated[Literal["auto"] | int, BeforeValidator(_threads)]
Instant = Annotated[int | None, BeforeValidator(_instant)]
Moment = Annotated[int | Literal["now"] | None, BeforeValidator(_moment)]
TimeZone = Annotated[str | dict[str, str], BeforeValidator(_timezone)]
EventsFile = Annotated[str, Field(min_length=1)] | None
Duration = Annotated[int | None, BeforeValidator(_duration)]
"""Seconds."""
# No model has a skill of 1: its error would be 0.
RequiredSkill = Annotated[float, Field(lt=1, allow_inf_nan=False)] | None


class _Section(BaseModel):
    # Libraries check their own keys of a section (trainer, optimizer, ...).
    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class _OwnSection(_Section):
    # No library reads these sections.
    model_config = ConfigDict(extra="forbid")


class WindowSection(_OwnSection):
    """``window``: frequency and lengths."""

    freq: Annotated[str, AfterValidator(canonical_frequency)]
    context_length: Annotated[int, Field(ge=1, le=10_000)]
    prediction_length: Annotated[int, Field(ge=1, le=10_000)]


class AskedWindow(_OwnSection):
    """``window`` of ``artifact_dir=pretrained``; None for the default."""

    freq: Annotated[str, AfterValidator(canonical_frequency)] | None
    context_length: Annotated[int, Field(ge=1, le=10_000)] | None
    prediction_length: Annotated[int, Field(ge=1, le=10_000)] | None


class DataSection(_Section):
    """``data``: selection of windows, and batches."""

    batch_size: Count
    windows_per_epoch: Count | None
    validation_windows: Count | None
    num_workers: Annotated[int, Field(ge=0, le=256)]
    fill: Fill
    mask_gaps: bool
    validation: Annotated[float, Field(ge=0, lt=1)]
    test: Annotated[float, Field(ge=0, lt=1)]
    max_missing: Annotated[float, Field(ge=0, le=1)]
    skip_zero_context: bool
    skip_newest_window: bool
    timezone: TimeZone
    holidays: Annotated[str | None, BeforeValidator(_holidays)]
    # Recorded configurations of earlier versions lack these.
    strict: bool = False
    events: EventsFile = None
    incidents: Literal["auto"] | None = None

    @property
    def split_arguments(self) -> dict[str, Any]:
        """Arguments of :class:`kforecast.data.split.SplitSettings`."""
        names = ("validation", "test", "max_missing", "mask_gaps", "skip_zero_context", "skip_newest_window")
        return self.model_dump(include=set(names))


class OptimizerSection(_Section):
    """``optimizer``: common keys; the optimizer checks the rest."""

    partial: Annotated[Literal[True], Field(alias="_partial_")]
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    betas: Betas | None = None


class TrainerSection(_Section):
    """``trainer``: numbers of epochs and processes, and unsupported keys; Lightning checks the rest."""

    max_epochs: Annotated[int, Field(ge=0)]
    log_every_n_steps: Annotated[int, Field(ge=1)]
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    devices: Annotated[int, Field(ge=1)]
    num_nodes: Annotated[int, Field(ge=1)] = 1
    strategy: Literal["auto", "ddp"] = "auto"
    use_distributed_sampler: bool = True
    gradient_clip_val: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    gradient_clip_algorithm: Literal["norm"] | None = None
    accumulate_grad_batches: Annotated[int, AfterValidator(_no_accumulation)] = 1
    precision: Annotated[int | str | None, AfterValidator(_float32)] = None

    @property
    def processes(self) -> int:
        """Number of processes on all machines."""
        return self.devices * self.num_nodes


class ModelSection(_Section):
    """``model``: the network checks the rest."""

    target: Annotated[str, Field(alias="_target_")]
    shared_embedding: bool | None = None
    # Networks take sizes of pre-trained weights too, in artifacts.
    prior: bool = False
    sizes: None = None

    @property
    def name(self) -> str:
        """Name of its class."""
        return self.target.rpartition(".")[2]


# Objectives of a sweep: those of every training, and those measured on the test part.
AIMS_WITHOUT_TEST = ("score", "artifact_kib", "training_seconds")
_AIMS = (*AIMS_WITHOUT_TEST, "wape", "mae", "rmse", "mase", "skill", "capacity_cost")


def _objective(value: Any) -> list[str]:
    aims = value if isinstance(value, list) else [value]
    unknown = [str(name) for name in aims if name not in _AIMS]
    if unknown or not aims or len({*aims}) < len(aims):
        raise ValueError(f"{value!r} is wrong; use one of {', '.join(_AIMS)}, or a list of several")
    return aims


Objective = Annotated[list[str], BeforeValidator(_objective)]
Watched = Literal["validation/loss", "train/loss"]


class EarlyStoppingSection(_Section):
    """``callbacks.early_stopping``: the monitored loss and the thresholds; Lightning checks the rest."""

    monitor: Watched
    patience: Annotated[int, Field(ge=1)]
    mode: Literal["min"] = "min"
    min_delta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    stopping_threshold: float | None = None
    divergence_threshold: float | None = None


class ModelCheckpointSection(_Section):
    """``callbacks.model_checkpoint``: the monitored loss and the numbers; Lightning checks the rest."""

    monitor: Watched | None = None
    mode: Literal["min"] = "min"
    save_top_k: Annotated[int, Field(ge=-1)] = 1
    every_n_epochs: Annotated[int, Field(ge=1)] | None = None


class ForecastFiguresSection(_Section):
    """``callbacks.forecast_figures``."""

    every_n_epochs: Annotated[int, Field(ge=1)]
    num_windows: Annotated[int, Field(ge=1)]


class WindowBudgetSection(_Section):
    """``callbacks.window_budget``."""

    windows: Count


class CallbacksSection(_Section):
    """``callbacks``: those with keys that we check; each is optional."""

    early_stopping: EarlyStoppingSection | None = None
    model_checkpoint: ModelCheckpointSection | None = None
    forecast_figures: ForecastFiguresSection | None = None
    window_budget: WindowBudgetSection | None = None


class ArtifactSection(_OwnSection):
    """``artifact``: outputs besides the three files."""

    per_series: bool


class GateSection(_OwnSection):
    """``gate``: the quality that a model needs to become the artifact."""

    require_skill: RequiredSkill
    champion: Annotated[str, Field(min_length=1)] | None
    require_gain: Annotated[float, Field(lt=1, allow_inf_nan=False)]


class SamplerSection(_Section):
    """``hydra.sweeper.sampler``: Optuna checks the rest."""

    seed: Annotated[int, Field(ge=0)] | None = None


class SweeperSection(_Section):
    """``hydra.sweeper`` of a search, without its space."""

    sampler: SamplerSection
    direction: Annotated[
        list[Literal["minimize", "maximize"]],
        BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
    ]
    storage: Annotated[str, Field(min_length=1)]
    study_name: Annotated[str, BeforeValidator(str)]  # 2024
    n_trials: Count
    n_jobs: Count
    max_failure_rate: Annotated[float, Field(ge=0, le=1)]


class EventsSection(_OwnSection):
    """``data`` of the commands that do not train."""

    events: EventsFile


class EvaluateSection(_OwnSection):
    """``evaluate``: span and kind of an evaluation."""

    start: Instant
    end: Instant
    stride: Annotated[int, Field(ge=1)]
    as_consumed: bool
    quantiles: Annotated[list[float], BeforeValidator(check_levels)]
    save_intervals: bool
    require_skill: RequiredSkill


class EvaluateSettings(_Section):
    """Our parts of ``evaluate.yaml``."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    artifact_dir: Annotated[str, Field(min_length=1)]
    data: EventsSection
    window: AskedWindow
    evaluate: EvaluateSection


class ForecastSection(_OwnSection):
    """``forecast``: columns, origin and the treatment of stale series."""

    quantiles: Annotated[list[float], BeforeValidator(check_levels)]
    as_consumed: bool
    at: Moment
    max_age: Duration
    on_stale: Literal["warn", "error"]


class ForecastSettings(_Section):
    """Our parts of ``forecast.yaml``."""

    artifact_dir: Annotated[str, BeforeValidator(str)]
    output: Any
    data: EventsSection
    window: AskedWindow
    forecast: ForecastSection


class TrainSettings(_Section):
    """Our parts of ``train.yaml``."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    threads: Threads
    artifact_dir: Annotated[str, Field(min_length=1)]
    monitor: Watched
    objective: Objective
    average_windows: Annotated[int, Field(ge=1)] | None
    schedule: Literal["constant", "cosine"]
    refit: Annotated[bool | Literal["continue"], _or_word("continue")]
    combine: Annotated[bool | Literal["online"], _or_word("online")]
    trees: bool | None = False  # recorded configurations of earlier versions lack it
    teacher: Annotated[str, Field(min_length=1)] | None
    warm_start: Annotated[str, Field(min_length=1)] | None
    resume: Annotated[str, Field(min_length=1)] | None
    repeat: Annotated[str, Field(min_length=1)] | None
    checkpoint_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    window: WindowSection
    data: DataSection
    model: ModelSection
    optimizer: OptimizerSection
    trainer: TrainerSection
    callbacks: CallbacksSection
    artifact: ArtifactSection
    gate: GateSection
    logger: dict[str, Any]

    @property
    def with_trees(self) -> bool:
        """Whether boosted trees are grown beside the network."""
        return find_spec("lightgbm") is not None if self.trees is None else self.trees

    @property
    def trains_teacher(self) -> bool:
        """Whether a teacher is trained first, instead of loaded from an artifact."""
        return self.teacher == "auto"

    @property
    def logger_classes(self) -> list[tuple[str, str]]:
        """Key and class of each logger."""
        nodes = ((name, node) for name, node in self.logger.items() if isinstance(node, dict))
        return [(name, str(node.get("_target_"))) for name, node in nodes]
