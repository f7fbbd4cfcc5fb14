"""Where conf/ is, and the checks of a composed configuration that need neither data nor torch."""

from pathlib import Path
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from kforecast.data.fill import Fill
from kforecast.errors import ConfigError
from kforecast.validation import list_problems, validate
from kforecast.window import Frequency, Window

_PACKAGE = Path(__file__).resolve().parent
# Inside the package in a wheel, at the top of the repository in a checkout.
CONF_DIR = next(
    (d for d in (_PACKAGE / "conf", _PACKAGE.parents[1] / "conf") if d.is_dir()), _PACKAGE / "conf"
)

NO_SOURCE = """no source of traffic is given; name one of:
  --dataset-file=FILE  or  source=csv source.path=FILE     a CSV, .csv.gz or Parquet file
  --metrics-server-addr=HOST:PORT with --config-file=FILE  Kapacity's metrics provider
  source=synthetic                                         built-in traffic, to try things out"""


def _canonical_frequency(text: str) -> str:
    return Frequency.parse(text).name


class _Section(BaseModel):
    # Keys of a section that libraries own (trainer, optimizer, ...) are theirs to check.
    model_config = ConfigDict(extra="allow", strict=True)


class WindowSection(_Section):
    """``window``: grid and shape."""

    freq: Annotated[str, AfterValidator(_canonical_frequency)]
    context_length: Annotated[int, Field(ge=1, le=10_000)]
    prediction_length: Annotated[int, Field(ge=1, le=10_000)]


class DataSection(_Section):
    """``data``: which windows, in which batches."""

    batch_size: Annotated[int, Field(ge=1)]
    num_workers: Annotated[int, Field(ge=0, le=256)]
    fill: Fill
    mask_gaps: bool
    validation: Annotated[float, Field(ge=0, lt=1)]
    test: Annotated[float, Field(ge=0, lt=1)]
    max_missing: Annotated[float, Field(ge=0, le=1)]
    skip_zero_context: bool
    skip_newest_window: bool


class OptimizerSection(_Section):
    """``optimizer``: the step size is checked, the rest is the optimizer's."""

    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TrainerSection(_Section):
    """``trainer``: the number of epochs is checked, the rest is Lightning's."""

    max_epochs: Annotated[int, Field(ge=1)]


class ArtifactSection(_Section):
    """``artifact``: what is written besides the trio."""

    per_series: bool


class TrainSettings(_Section):
    """The parts of ``train.yaml`` that we own."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    threads: Annotated[int, Field(ge=1, le=1024)]
    artifact_dir: Annotated[str, Field(min_length=1)]
    window: WindowSection
    data: DataSection
    optimizer: OptimizerSection
    trainer: TrainerSection
    artifact: ArtifactSection


def check_train_settings(cfg: DictConfig) -> TrainSettings:
    """Check a composed train configuration.

    Raises
    ------
    ConfigError
        All problems at once.
    """
    settings = validate(TrainSettings, plain(cfg), "configuration")
    problems = []
    if settings.data.validation + settings.data.test >= 1:
        problems.append(
            f"data.validation + data.test: {settings.data.validation:g} + {settings.data.test:g} leave "
            "nothing to train on; their sum must be below 1"
        )
    if not settings.data.validation and OmegaConf.select(cfg, "monitor") == "validation/loss":
        problems.append("data.validation: 0 leaves no validation loss to watch; add monitor=train/loss")
    if problems:
        raise ConfigError(list_problems("configuration", problems))
    return settings


def window_of(section: WindowSection) -> Window:
    """The window a configuration describes."""
    return Window(Frequency.parse(section.freq), section.context_length, section.prediction_length)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, interpolations resolved.

    Raises
    ------
    ConfigError
        When a value is missing or an interpolation leads nowhere.
    """
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing == ["source.path"]:
        raise ConfigError(NO_SOURCE)
    if missing:
        raise ConfigError(f"no value for {', '.join(missing)}; give it on the command line: {missing[0]}=...")
    try:
        content = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}
