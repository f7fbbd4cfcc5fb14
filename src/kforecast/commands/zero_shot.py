"""``artifact_dir=pretrained``: the weights that come with the package, in place of an artifact."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from kforecast.errors import ConfigError
from kforecast.window import Frequency, Window

if TYPE_CHECKING:
    from kforecast.artifact import Artifact
    from kforecast.config.settings import AskedWindow

log = logging.getLogger(__name__)

PRETRAINED = "pretrained"
_FREQUENCY, _CONTEXT, _HORIZON = "10min", 12, 6


def window_without_artifact(directory: Path, asked: AskedWindow) -> Window | None:
    """The window of ``artifact_dir=pretrained``; None if the directory is there and has its own.

    Raises
    ------
    ConfigError
        When there is no such directory, when a window is asked of an artifact that has its own, or when the
        weights of the package are not for the window.
    """
    if directory.is_dir():
        given = [f"window.{name}" for name, value in asked.model_dump().items() if value is not None]
        if given:
            raise ConfigError(
                f"{', '.join(given)}: for artifact_dir={PRETRAINED} alone; the artifact in {directory} has "
                "its own window, so leave it out"
            )
        return None
    if str(directory) != PRETRAINED:
        raise ConfigError(f"artifact_dir: {directory}: no such directory")

    from kforecast.models.pretrained import beyond

    frequency = Frequency.parse(asked.freq or _FREQUENCY)
    window = Window(frequency, asked.context_length or _CONTEXT, asked.prediction_length or _HORIZON)
    if reason := beyond(window):
        raise ConfigError(f"window: {reason}")
    return window


def chosen_artifact(directory: Path, window: Window | None) -> Artifact:
    """The artifact in a directory, or the weights of the package for a window.

    Raises
    ------
    ArtifactError
        When the directory does not hold a consistent artifact.
    """
    from kforecast.artifact import Artifact

    if window is not None:
        log.info("Forecasts without training (artifact_dir=%s): %s", PRETRAINED, window)
        return Artifact.pretrained(window)
    if str(directory) == PRETRAINED:
        log.warning(
            "artifact_dir=%s is a directory here, and its artifact is used, not the package's weights; run "
            "the command elsewhere to use those",
            PRETRAINED,
        )
    return Artifact.load(directory)
