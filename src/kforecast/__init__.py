"""kforecast: trains small traffic forecasters for autoscaling.

>>> forecaster = kforecast.train(frame, kforecast.Window("10min", context_length=7, prediction_length=3))
>>> forecaster.forecast(frame)

See docs/python.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kforecast.errors import (
        ArtifactError,
        ConfigError,
        DataError,
        KforecastError,
        OutputError,
        StaleError,
        TrainingError,
    )
    from kforecast.evaluation.evaluation import Evaluation
    from kforecast.forecaster import Forecaster
    from kforecast.training.from_frame import train
    from kforecast.window import Window

from kforecast.version import __version__ as __version__

__all__ = [
    "ArtifactError",
    "ConfigError",
    "DataError",
    "Evaluation",
    "Forecaster",
    "KforecastError",
    "OutputError",
    "StaleError",
    "TrainingError",
    "Window",
    "train",
]

# Imported on first access, so that commands answer --help without torch.
_HOMES = {
    "Evaluation": "kforecast.evaluation.evaluation",
    "Forecaster": "kforecast.forecaster",
    "Window": "kforecast.window",
    "train": "kforecast.training.from_frame",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_HOMES.get(name, "kforecast.errors")), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
