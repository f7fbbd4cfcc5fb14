"""Artifacts that a training is given: a teacher, a champion, weights to begin from."""

from pathlib import Path

from kforecast.artifact import Artifact
from kforecast.errors import ConfigError
from kforecast.window import Window


def load_for(key: str, directory: Path, window: Window) -> Artifact:
    """Load an artifact that forecasts what training is for.

    Parameters
    ----------
    key:
        The key that names the directory.

    Raises
    ------
    ArtifactError
        When the directory does not hold an artifact that belongs together.
    ConfigError
        When it is missing, or forecasts something else.
    """
    if not directory.is_dir():
        raise ConfigError(f"{key}: {directory}: no such directory")
    artifact = Artifact.load(directory)
    its = artifact.config.window
    if (its.frequency, its.prediction_length) != (window.frequency, window.prediction_length):
        raise ConfigError(
            f"{key}: {directory} forecasts {its.prediction_length} steps of {its.frequency.name}, but "
            f"training is for {window.prediction_length} steps of {window.frequency.name}; name an "
            "artifact of the same window.freq and window.prediction_length"
        )
    return artifact
