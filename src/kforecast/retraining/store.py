"""The directory of champions and candidates.

Each ``versions/<n>/`` is an artifact directory that never changes. ``champion`` and ``candidate`` are
symbolic links to two of them. ``state.json`` records every cycle; it is replaced atomically, and the links
follow it.
"""

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kforecast.errors import ArtifactError, ConfigError
from kforecast.files.directory import check_writable, make_directories, signals_wait, writing
from kforecast.files.lock import sole_writer
from kforecast.files.output import replace_file, write_json
from kforecast.files.untrusted import read_file
from kforecast.validation import list_problems, problems_of

CHAMPION, CANDIDATE, VERSIONS, STATE = "champion", "candidate", "versions", "state.json"
HISTORY = "history.csv"
_MOST_BYTES = 64 << 20

Version = Annotated[int, Field(ge=1)]
Decision = Literal["first", "promoted", "kept", "rejected", "rolled back"]


class _Written(BaseModel):
    """A part of ``state.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Cycle(_Written):
    """The outcome of one retraining run, or of one rollback."""

    time: str
    """Time of the decision, ISO 8601."""
    decision: Decision
    """``kept``: the champion stays; ``rejected``: a gate refused the first candidate."""
    champion: Version | None
    """The version that serves after the decision."""
    candidate: Version | None = None
    reason: str = ""
    """The reason for the decision, in words."""
    span_start: int | None = None
    """Unix seconds of the first bin on which both were judged."""
    span_end: int | None = None
    """Unix seconds of the last such bin."""
    candidate_wape: float | None = None
    champion_wape: float | None = None
    baseline_wape: float | None = None
    """WAPE of the best baseline."""
    skill: float | None = None
    """Skill of the candidate over the champion."""
    low: float | None = None
    """Lower bound of the 95 % interval of the skill."""
    high: float | None = None
    """Upper bound of that interval."""
    champion_wape_then: float | None = None
    """WAPE of the champion on the test span of its own training."""
    drift: float | None = None
    """Relative growth of the champion's error, as a multiple of the best baseline's, since its training."""
    seconds: float | None = None
    run: str | None = None
    """The run folder of the training."""


class State(_Written):
    """``state.json``."""

    champion: Version | None = None
    candidate: Version | None = None
    former: tuple[Version, ...] = ()
    """Earlier champions available for a rollback, oldest first."""
    sha256: dict[Version, dict[str, str]] = {}
    """The hash of every file, by kept version and file name."""
    cycles: tuple[Cycle, ...] = ()

    @property
    def newest(self) -> int:
        """The highest version number used so far; 0 if there is none."""
        used = [cycle.candidate for cycle in self.cycles if cycle.candidate is not None]
        return max([*used, *self.sha256, 0])


class Store:
    """The directory of champions and candidates, and its recorded state.

    Parameters
    ----------
    root:
        The directory; created by the first write.

    Raises
    ------
    ConfigError
        When the directory cannot be written or belongs to something else, or its state.json is invalid.
    """

    def __init__(self, root: Path) -> None:
        check_writable(root)
        self.root = root
        self.state = self._read()

    @property
    def champion(self) -> Path | None:
        """Path of the link to the serving artifact; None before the first champion."""
        return None if self.state.champion is None else self.root / CHAMPION

    def version(self, number: int) -> Path:
        """Path of a version's artifact."""
        return self.root / VERSIONS / str(number)

    @contextmanager
    def writing(self, name: str) -> Iterator[Self]:
        """Hold the write lock of the directory; first finish what a killed process left undone.

        Parameters
        ----------
        name:
            Names this process to others that find the lock taken.

        Raises
        ------
        OutputError
            When another process is writing, or the file system refuses.
        """
        with sole_writer(self.root, name), writing(self.root):
            self.state = self._read()
            make_directories(self.root / VERSIONS)
            self._tidy()
            yield self

    def decide(self, cycle: Cycle, former: tuple[int, ...], keep: int) -> None:
        """Record a cycle, update the links, and remove versions that are no longer needed.

        Parameters
        ----------
        former:
            Earlier champions, oldest first.
        keep:
            How many of them stay available for a rollback; the oldest are removed first.
        """
        former = former[max(0, len(former) - keep) :]
        candidate = self.state.candidate if cycle.candidate is None else cycle.candidate
        needed = {number for number in (cycle.champion, candidate, *former) if number is not None}
        known = self.state.sha256
        self.state = State(
            champion=cycle.champion,
            candidate=candidate,
            former=former,
            sha256={number: known.get(number) or _hashes(self.version(number)) for number in sorted(needed)},
            cycles=(*self.state.cycles, cycle),
        )
        with signals_wait(), writing(self.root):
            write_json(self.state.model_dump(mode="json"), self.root / STATE)
            self._tidy()

    def check(self, number: int) -> None:
        """Verify that a version is unchanged.

        Raises
        ------
        ArtifactError
            When one of its files is missing or has changed.
        """
        folder = self.version(number)
        if not folder.is_dir() or _hashes(folder) != self.state.sha256.get(number):
            raise ArtifactError(
                f"{folder}: is not what it was when it was the champion (sha256 differs): restore it from a "
                "backup, or train again"
            )

    def write_history(self) -> None:
        """Write ``history.csv`` with one row per cycle."""
        import pandas as pd

        frame = pd.DataFrame([cycle.model_dump() for cycle in self.state.cycles])
        with writing(self.root / HISTORY):
            replace_file(self.root / HISTORY, lambda path: frame.to_csv(path, index=False))

    def _tidy(self) -> None:
        """Make links and versions agree with state.json."""
        for name, number in ((CHAMPION, self.state.champion), (CANDIDATE, self.state.candidate)):
            _link(self.root / name, number)
        for path in (self.root / VERSIONS).iterdir():
            # Remove only artifact directories: finished ones, and staging directories of interrupted writes.
            ours = re.fullmatch(r"(\d+)|\.\d+\.[a-z0-9_]{8}", path.name)
            if ours and (ours[1] is None or int(ours[1]) not in self.state.sha256):
                shutil.rmtree(path, ignore_errors=True)

    def _read(self) -> State:
        path = self.root / STATE
        try:
            return State.model_validate_json(read_file(path, _MOST_BYTES))
        except FileNotFoundError:
            if self.root.is_dir() and (foreign := _foreign(self.root)):
                raise ConfigError(
                    f"retrain.dir: {self.root} holds {foreign} but no {STATE}: name a directory of its own"
                ) from None
            return State()
        except ValidationError as error:
            raise ConfigError(list_problems(str(path), problems_of(error))) from error
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read: {error}") from error


def _foreign(root: Path) -> str | None:
    """A file in the directory that a store does not write; None if there is none.

    A first run that was killed may have left ``versions`` and ``history.csv``.
    """
    names = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    return next((name for name in names if name not in (VERSIONS, HISTORY)), None)


def _link(path: Path, number: int | None) -> None:
    """Point a link at a version, atomically; None removes the link."""
    if number is None:
        with suppress(FileNotFoundError):
            path.unlink()
        return
    target = Path(VERSIONS, str(number))
    if path.is_symlink() and path.readlink() == target:
        return
    staged = path.with_name(f".{path.name}.new")
    staged.unlink(missing_ok=True)
    staged.symlink_to(target, target_is_directory=True)
    staged.replace(path)


def _hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every file in a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def facts_of(document: dict[str, Any] | None) -> dict[str, Any]:
    """The scores of a candidate and the champion in a report.json, by field of :class:`Cycle`."""
    if document is None:
        return {}
    found = document["champion"] or {}
    over = found.get("skill") or {}
    best = document["skill"]["best_baseline"]
    return {
        "span_start": document["span"]["start"],
        "span_end": document["span"]["end"],
        "candidate_wape": document["overall"]["wape"],
        "baseline_wape": document["baselines"][best]["wape"],
        "champion_wape": found.get("wape"),
        "champion_wape_then": found.get("wape_then"),
        "drift": found.get("drift"),
        "skill": over.get("value"),
        "low": over.get("low"),
        "high": over.get("high"),
    }
