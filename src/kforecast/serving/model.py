"""Model: the artifact that a server forecasts with, and the events that it knows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kforecast.artifact import Artifact
from kforecast.data.events.known import KnownEvents
from kforecast.forecaster import Forecaster


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
    """

    directory: Path
    check: Callable[[Forecaster], None] | None = None
    events: Path | None = None
    zone: str | None = None

    def load(self) -> tuple[Forecaster, str]:
        """A forecaster, not checked yet, and the hash of its artifact.

        Raises
        ------
        ArtifactError
            When there is no usable artifact.
        ConfigError
            When the file of events is wrong.
        """
        artifact = Artifact.load(self.directory)
        forecaster = Forecaster.of(artifact, str(self.directory))
        if self.events is not None:
            forecaster = forecaster.knowing(KnownEvents.read(self.events, self.zone))
        return forecaster, artifact.identity

    def signature(self) -> tuple[object, ...]:
        """Changes when a file, or a link to one, is replaced."""
        found: list[object] = []
        try:
            real = self.directory.resolve()
            found.append(str(real))
            for file in [*sorted(real.iterdir()), *([] if self.events is None else [self.events])]:
                state = file.stat()
                found.append((file.name, state.st_ino, state.st_size, state.st_mtime_ns))
        except (OSError, RuntimeError) as error:  # Python before 3.13 has no OSError for a link to itself
            found.append(repr(error))
        return tuple(found)
