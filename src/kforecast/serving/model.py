"""Model: the artifact that a server forecasts with, and the events that it knows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kforecast.artifact import Artifact
from kforecast.data.events.known import KnownEvents
from kforecast.forecaster import Forecaster
from kforecast.window import Window


@dataclass(frozen=True)
class Model:
    """Files that are read again when they change.

    Attributes
    ----------
    directory:
        The artifact's directory, or a link to one.
    check:
        Refuses an artifact that does not fit the settings, with one of our errors.
    events:
        The file of known events; None without one.
    zone:
        Time zone of its times without one; None for UTC.
    window:
        Of the package's weights, which then serve in the place of an artifact's directory.
    """

    directory: Path
    check: Callable[[Forecaster], None] | None = None
    events: Path | None = None
    zone: str | None = None
    window: Window | None = None

    def load(self) -> Artifact:
        """The artifact.

        Raises
        ------
        ArtifactError
            When there is no usable artifact.
        """
        return Artifact.load(self.directory) if self.window is None else Artifact.pretrained(self.window)

    def known_events(self) -> KnownEvents | None:
        """The events of the file; None without one.

        Raises
        ------
        ConfigError
            When the file is wrong, or cannot be read.
        """
        return None if self.events is None else KnownEvents.read(self.events, self.zone)

    def forecaster(self, artifact: Artifact, events: KnownEvents | None) -> Forecaster:
        """A forecaster that knows the events, checked against the settings.

        Raises
        ------
        ArtifactError, ConfigError
            When the artifact does not fit the settings, or its effects of events are damaged.
        """
        found = Forecaster.of(artifact, str(self.directory)).knowing(events)
        if self.check is not None:
            self.check(found)
        return found

    def signature(self) -> tuple[object, ...]:
        """Changes when a file, or a link to one, is replaced."""
        found: list[object] = []
        if self.window is None:
            try:
                real = self.directory.resolve()
                found += [str(real), *(_state(file) for file in sorted(real.iterdir()))]
            except (OSError, RuntimeError) as error:  # Python before 3.13 has no OSError for a link to itself
                found.append(repr(error))
        if self.events is not None:
            try:
                found.append(_state(self.events))
            except OSError as error:
                found.append(repr(error))
        return tuple(found)


def _state(file: Path) -> tuple[object, ...]:
    state = file.stat()
    return file.name, state.st_ino, state.st_size, state.st_mtime_ns
