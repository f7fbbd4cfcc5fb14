"""The artifact directory: Kapacity's three files (contract 5), metadata.json and intervals.json.

:class:`Artifact` reads and writes the directory as a whole (:mod:`kforecast.files.directory`). The functions
after it make the parts of a :class:`kforecast.predictor.Predictor` from an artifact, and handle directories.
"""

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from kforecast.data.calendar import Calendar
from kforecast.data.events.effects import Effects
from kforecast.errors import ArtifactError, ConfigError
from kforecast.files.directory import replace_directory
from kforecast.files.output import replace_file
from kforecast.files.torch_file import read_tensors
from kforecast.files.untrusted import parse_json, parse_yaml, read_file, shortened
from kforecast.intervals import Intervals
from kforecast.localtime import check_time_zone
from kforecast.models import NETWORKS, Network
from kforecast.models.combination import Combination
from kforecast.models.naive import NAIVE
from kforecast.models.online import Online
from kforecast.models.pretrained import Pretrained, as_float, beyond, delivered_offsets, delivered_state
from kforecast.models.without_values import WithoutValues
from kforecast.version import __version__
from kforecast.window import Frequency, Window

CHECKPOINT = "checkpoint.pth"
CONFIG = "estimator_config.yaml"
ITEM_IDS = "item2id.json"
METADATA = "metadata.json"
INTERVALS = "intervals.json"
TRIO = (CHECKPOINT, CONFIG, ITEM_IDS)
PER_SERIES = "per_series"
# Key of metadata.json: what was learned about known events.
EFFECTS = "effects"

# Size limit of a ConfigMap in bytes; Kapacity's quick start ships the artifact in one.
CONFIG_MAP_LIMIT = 1 << 20

# The year 5138 in unix seconds: later times were written in milliseconds.
_LATEST = 10**11

# Size limit of each file in bytes, several times the size for a million series.
_MOST_BYTES = {
    CHECKPOINT: 2 << 30,
    CONFIG: 4 << 20,
    ITEM_IDS: 256 << 20,
    METADATA: 64 << 20,
    INTERVALS: 512 << 20,
}
# Limit of the number of values in a file. It allows millions of series with commas in their names, and a
# hundred thousand workloads with time zones of their own.
_MOST_VALUES = {CONFIG: 200_000, ITEM_IDS: 8_000_000, METADATA: 2_000_000}

# Keys of estimator_config.yaml that contract 5 requires, and keys of ours, written only if they are set.
_REQUIRED = ("freq", "prediction_length", "context_length", "num_series")
_OURS = (
    "network",
    "calendar",
    "combination",
    "history_length",
    "bin_zone",
    "events",
    "online",
    "prior",
)


@dataclass(frozen=True)
class EstimatorConfig:
    """``estimator_config.yaml``: one mapping with every key of contract 5.

    Networks other than Kapacity's need further keys: ``network`` (arguments of its class), ``calendar`` (time
    zones and holidays), ``combination`` (weights of the network's parts and of naive forecasts),
    ``history_length`` (bins that a forecast can use), ``bin_zone`` (time zone whose local time the bins
    follow, if that is not UTC), ``events`` (whether past events are replaced by usual values), ``online``
    (how weights and intervals follow the newest errors) and ``prior`` (the share of the pre-trained weights
    in a forecast, and the width of intervals with it).
    """

    freq: str
    prediction_length: int
    context_length: int
    num_series: int
    learning_rate: float = 0.001
    epochs: int = 100
    batch_size: int = 32
    patience: int = 15
    num_workers: int = 0
    model: str = "Fcnet"
    loss: str = "MAE"
    model_path: str = "model"
    target_col: str = "value"
    time_col: str = "timestamp"
    series_cols: tuple[str, ...] = ("workload", "metric")
    use_validation: bool = False
    val_num: int = 0
    network: Mapping[str, Any] = field(default_factory=dict)
    calendar: Mapping[str, Any] = field(default_factory=dict)
    combination: Mapping[str, Any] = field(default_factory=dict)
    history_length: int = 0
    bin_zone: str = ""
    events: bool = False
    online: Mapping[str, Any] = field(default_factory=dict)
    prior: Mapping[str, Any] = field(default_factory=dict)

    @property
    def window(self) -> Window:
        """Frequency, context length and horizon as a :class:`~kforecast.window.Window`."""
        return Window(Frequency.parse(self.freq), self.context_length, self.prediction_length)

    def to_yaml(self) -> str:
        """The text of the file."""
        content = asdict(self) | {"series_cols": list(self.series_cols)}
        return yaml.safe_dump(
            {name: value for name, value in content.items() if value or name not in _OURS}, sort_keys=True
        )

    @classmethod
    def from_yaml(cls, text: str) -> "EstimatorConfig":
        """Read the text of the file; unknown keys are ignored, as Kapacity's job ignores them.

        Raises
        ------
        ValueError
            When keys are missing or values are wrong; the message lists all of them.
        """
        content = parse_yaml(text, _MOST_VALUES[CONFIG])
        if not isinstance(content, dict):
            raise ValueError("it is not a mapping")
        known = {f.name: f for f in fields(cls)}
        problems = [f"{name} is missing" for name in _REQUIRED if name not in content]
        for name in ("prediction_length", "context_length", "num_series"):
            value = content.get(name, 1)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                problems.append(f"{name} is {shortened(value)}, not a positive integer")
        if "freq" in content:
            try:
                Frequency.parse(shortened(content["freq"]))
            except ValueError as error:
                problems.append(f"freq: {error}")
        for name, kind, what in (
            ("model", str, "a name"),
            ("bin_zone", str, "a name"),
            ("series_cols", list, "a list"),
        ):
            if not isinstance(content.get(name, kind()), kind):
                problems.append(f"{name} is {shortened(content[name])}, not {what}")
        if not isinstance(content.get("events", False), bool):
            problems.append(f"events is {shortened(content['events'])}, not true or false")
        length = content.get("history_length", 0)
        if isinstance(length, bool) or not isinstance(length, int) or length < 0:
            problems.append(f"history_length is {shortened(length)}, not a number of bins")
        for name in ("network", "calendar", "combination", "online", "prior"):
            if not isinstance(content.get(name, {}), dict):
                problems.append(f"{name} is {shortened(content[name])}, not a mapping")
        if problems:
            raise ValueError("; ".join(problems))
        values = {name: value for name, value in content.items() if name in known}
        values["series_cols"] = tuple(values.get("series_cols", cls.series_cols))
        return cls(**values)


@dataclass(frozen=True)
class Artifact:
    """The contents of an artifact directory.

    Attributes
    ----------
    config:
        ``estimator_config.yaml``.
    item_ids:
        ``item2id.json``: item key to series id.
    state:
        ``checkpoint.pth``: the network's state dict, CPU float32.
    metadata:
        ``metadata.json``; None for an artifact made elsewhere. Saving adds the ``sha256`` of the three files.
    intervals:
        ``intervals.json``: calibrated intervals of the forecasts; None without calibration.
    """

    config: EstimatorConfig
    item_ids: Mapping[str, int]
    state: Mapping[str, Tensor]
    metadata: dict[str, Any] | None = field(default=None, compare=False)
    intervals: Intervals | None = field(default=None, compare=False)

    @classmethod
    def pretrained(cls, window: Window) -> "Artifact":
        """The artifact of the package's weights, which need no training (docs/pretrained.md).

        Its intervals follow the errors at the newest origins.

        Raises
        ------
        ConfigError
            When the weights are not for this window.
        """
        if reason := beyond(window):
            raise ConfigError(reason)
        net, horizon = Pretrained(window, num_series=1, fine_tune=False), window.prediction_length
        online = Online(trained_until=0, optimism=np.full(horizon, np.nan))
        config = EstimatorConfig(
            window.frequency.name,
            horizon,
            window.context_length,
            num_series=1,
            model=type(net).__name__,
            loss="quantile",
            network=net.settings(),
            history_length=window.history_length(net.lookback) + online.reach(horizon),
            online=online.as_dict(),
        )
        intervals = Intervals(np.tile(delivered_offsets().numpy(), (horizon, 1)), {})
        metadata = {"kforecast": __version__, "fill": "interpolate"}
        return cls(config, {}, delivered_state(), metadata, intervals)

    @property
    def training_span(self) -> tuple[int | None, int | None]:
        """Unix seconds of the end of the data that the weights were fitted to, and of all data training used.

        Each is None if the metadata lacks it or has something else in its place.
        """
        data = (self.metadata or {}).get("data")
        ends = ("train_end", "validation_end")
        found = [data.get(name) if isinstance(data, dict) else None for name in ends]
        fitted, used = (second if type(second) is int and 0 <= second < _LATEST else None for second in found)
        return fitted, used

    @property
    def identity(self) -> str:
        """SHA-256 over the files' contents, and what of the metadata changes forecasts."""
        metadata = self.metadata or {}
        data = metadata.get("data")
        below_zero = data.get("below_zero") if isinstance(data, dict) else None
        said = [metadata.get("fill"), below_zero, metadata.get(EFFECTS)]
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
        for name, content in sorted(self._files().items()):
            if name != METADATA:
                digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
        return digest.hexdigest()

    def save(self, directory: Path, parts: Mapping[str, "Artifact"] | None = None) -> None:
        """Write this artifact to a directory; an existing artifact is replaced as a whole.

        Parameters
        ----------
        directory:
            Created if missing.
        parts:
            Further artifacts by name, each written to a folder ``per_series/<name>``.

        Raises
        ------
        OSError
            When the file system refuses; an existing artifact then stays.
        """
        contents = self._files()
        for name, part in (parts or {}).items():
            contents |= {f"{PER_SERIES}/{name}/{file}": data for file, data in part._files().items()}
        owned = [*TRIO, METADATA, INTERVALS]
        if _only_artifacts(directory / PER_SERIES):
            owned.append(PER_SERIES)
        replace_directory(directory, contents, owned)

    def sizes(self) -> dict[str, int]:
        """Size of each file in bytes; their sum must fit a ConfigMap to be shipped in one."""
        return {name: len(content) for name, content in self._files().items()}

    def _files(self) -> dict[str, bytes]:
        """The contents of each file."""
        contents = {
            CHECKPOINT: checkpoint_bytes(self.state),
            CONFIG: self.config.to_yaml().encode(),
            ITEM_IDS: json.dumps(dict(self.item_ids), ensure_ascii=False, indent=1).encode(),
        }
        sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        metadata = dict(self.metadata or {}) | {"sha256": sha256}
        contents[METADATA] = json.dumps(metadata, ensure_ascii=False, indent=1).encode()
        if self.intervals is not None:
            contents[INTERVALS] = self.intervals.to_json(sha256[CHECKPOINT]).encode()
        return contents

    @classmethod
    def load(cls, directory: Path | str) -> "Artifact":
        """Read and verify an artifact directory, ours or one made elsewhere.

        Nothing in it is executed, and memory use is limited to a small multiple of the size of its files.

        Raises
        ------
        ArtifactError
            When a file is missing, damaged or does not match the others; the message names it.
        """
        directory = Path(directory)
        if not directory.is_dir():
            raise ArtifactError(f"{directory}: no such artifact directory")
        absent = [name for name in TRIO if not (directory / name).is_file()]
        if absent:
            raise ArtifactError(f"{directory}: not an artifact: {', '.join(absent)} is missing")
        contents = {name: _read(directory / name) for name in TRIO}
        # lexists, not is_file: a directory or a broken link of that name is an error, not a missing file.
        metadata_file, intervals_file = directory / METADATA, directory / INTERVALS
        metadata, intervals = None, None
        if os.path.lexists(metadata_file):
            metadata = _parse(metadata_file, _read(metadata_file))
        if os.path.lexists(intervals_file):
            intervals = _read(intervals_file)
        _check_hashes(directory, contents, metadata)

        try:
            config = EstimatorConfig.from_yaml(contents[CONFIG].decode())
        except ValueError as error:
            raise ArtifactError(f"{directory / CONFIG}: {error}") from error
        return cls(
            config,
            _read_item_ids(directory, contents),
            _read_state(directory, contents),
            metadata,
            _read_intervals(intervals_file, intervals, contents, config),
        )


def load_for(key: str, directory: Path, window: Window) -> Artifact:
    """Load an artifact with the frequency and horizon of a training, such as its teacher.

    Parameters
    ----------
    key:
        The configuration key that names the directory, for messages.
    window:
        The window that training is for; its context length may differ.

    Raises
    ------
    ArtifactError
        When the directory does not hold a consistent artifact.
    ConfigError
        When the directory is missing, or the artifact has another frequency or horizon.
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


def network_of(artifact: Artifact, name: str) -> Network:
    """The network of an artifact, in evaluation mode; ``name`` is the artifact's name in messages.

    Raises
    ------
    ArtifactError
        When the model is unknown, or the files do not match.
    """
    config = artifact.config
    if config.model not in NETWORKS:
        raise ArtifactError(
            f"{name}: unknown model {shortened(config.model)!r}; known: {', '.join(NETWORKS)}"
        )
    outside = [key for key, number in artifact.item_ids.items() if not 0 <= number < config.num_series]
    if outside:
        raise ArtifactError(
            f"{name}: the id of {shortened(outside[0])!r} is not below num_series {config.num_series}"
        )
    try:
        # On ``meta`` the network takes no memory: the checkpoint's shapes are checked before the sizes that
        # the config claims are believed.
        with torch.device("meta"), WithoutValues():
            net = NETWORKS[config.model](config.window, config.num_series, **config.network)
        net.load_state_dict({key: as_float(value) for key, value in artifact.state.items()}, assign=True)
    except (RuntimeError, TypeError, ValueError) as error:
        said = shortened(" ".join(str(error).split()), 500)
        raise ArtifactError(f"{name}: the checkpoint does not fit estimator_config.yaml: {said}") from error
    return net.eval()


def calendar_of(artifact: Artifact, name: str) -> Calendar:
    """The local time and holidays of an artifact's series.

    Raises
    ------
    ArtifactError
        When ``calendar`` in the config is invalid.
    """
    config = artifact.config
    try:
        return Calendar.from_dict(config.calendar) if config.calendar else Calendar()
    except ValueError as error:
        raise ArtifactError(f"{name}: calendar in estimator_config.yaml: {shortened(error)}") from error


def bin_zone_of(artifact: Artifact, name: str) -> str:
    """The time zone whose local time the bins follow.

    Raises
    ------
    ArtifactError
        When ``bin_zone`` in the config is no time zone.
    """
    try:
        return check_time_zone(artifact.config.bin_zone or "UTC")
    except ValueError as error:
        raise ArtifactError(f"{name}: bin_zone in estimator_config.yaml: {shortened(error)}") from error


def combination_of(artifact: Artifact, net: Network, name: str) -> Combination | None:
    """The weights of the network's parts and of naive forecasts; None if there are none.

    Raises
    ------
    ArtifactError
        When ``combination`` in the config is invalid.
    """
    config = artifact.config
    if not config.combination:
        return None
    try:
        found = Combination.from_dict(config.combination, config.prediction_length)
        if unknown := [part for part in found.weights if part not in (*net.parts, *NAIVE)]:
            raise ValueError(f"unknown forecaster {unknown[0]!r}")
    except ValueError as error:
        raise ArtifactError(f"{name}: combination in estimator_config.yaml: {shortened(error)}") from error
    return found


def online_of(artifact: Artifact, name: str) -> Online | None:
    """How weights and intervals follow the newest errors; None if they are fixed.

    Raises
    ------
    ArtifactError
        When ``online`` in the config is invalid.
    """
    config = artifact.config
    try:
        return Online.from_dict(config.online, config.prediction_length) if config.online else None
    except ValueError as error:
        raise ArtifactError(f"{name}: online in estimator_config.yaml: {shortened(error)}") from error


def prior_of(artifact: Artifact, net: Network, name: str) -> tuple[float, float]:
    """The share of the pre-trained weights in a forecast, and the width of intervals with it; 0 without any.

    Raises
    ------
    ArtifactError
        When ``prior`` in the config is invalid.
    """
    if not net.with_prior or not artifact.config.prior:
        return 0.0, 1.0
    found = []
    for key in ("share", "width"):
        value = artifact.config.prior.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ArtifactError(
                f"{name}: {key} of prior in estimator_config.yaml is {shortened(value)}, not from 0 to 1"
            )
        found.append(float(value))
    return found[0], found[1]


def effects_of(artifact: Artifact, name: str) -> Effects:
    """The effects of known events that training has learned; none if it knew no events.

    Raises
    ------
    ArtifactError
        When ``effects`` in the metadata is invalid.
    """
    try:
        return Effects.from_dict((artifact.metadata or {}).get(EFFECTS, {}))
    except ValueError as error:
        raise ArtifactError(f"{name}: effects in {METADATA}: {shortened(error)}") from error


def save_intervals(directory: Path, intervals: Intervals) -> Path:
    """Write ``intervals.json`` of an existing artifact; return its path.

    Raises
    ------
    OSError
        When the file system refuses; an existing file then stays.
    """
    text = intervals.to_json(sha256(directory))

    def write(staged: Path) -> None:
        staged.write_text(text, encoding="utf-8")

    replace_file(directory / INTERVALS, write)
    return directory / INTERVALS


def sha256(directory: Path) -> str:
    """The hash of an artifact's checkpoint: equal for equal weights."""
    return hashlib.sha256((directory / CHECKPOINT).read_bytes()).hexdigest()


def discard(directory: Path) -> None:
    """Remove an artifact, and its directory if nothing else is in it."""
    for name in (*TRIO, METADATA, INTERVALS):
        (directory / name).unlink(missing_ok=True)
    if _only_artifacts(directory / PER_SERIES):
        shutil.rmtree(directory / PER_SERIES, ignore_errors=True)
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()


def folder_name(number: int, workload: str, metric: str) -> str:
    """A folder name for one series: its id, and those characters of its names that are safe everywhere."""
    words = re.sub(r"[^A-Za-z0-9._]+", "-", f"{workload}-{metric}").strip("-.")
    return f"{number}-{words[:80]}".rstrip("-.")


def checkpoint_bytes(state: Mapping[str, Tensor]) -> bytes:
    """The bytes of ``checkpoint.pth``."""
    buffer = io.BytesIO()
    # A plain dict of tensors, which weights_only=True and torch 2.0 can read.
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def _only_artifacts(directory: Path) -> bool:
    """Whether a folder holds nothing but artifacts, so that it may be removed."""
    ours = (*TRIO, METADATA, INTERVALS)
    return all(path.is_dir() or path.name in ours for path in directory.rglob("*"))


def _read(file: Path) -> bytes:
    try:
        return read_file(file, _MOST_BYTES[file.name])
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{file}: cannot be read: {error}") from error


def _parse(file: Path, content: bytes) -> dict[str, Any]:
    try:
        found = parse_json(content, _MOST_VALUES[file.name])
    except ValueError as error:
        raise ArtifactError(f"{file}: cannot be read: {shortened(error)}") from error
    if not isinstance(found, dict):
        raise ArtifactError(f"{file}: not a JSON object")
    return found


def _check_hashes(directory: Path, contents: dict[str, bytes], metadata: dict[str, Any] | None) -> None:
    if metadata is None:
        return
    known = metadata.get("sha256")
    if not isinstance(known, dict):
        raise ArtifactError(f"{directory / METADATA}: sha256 of the files is missing")
    wrong = [name for name in TRIO if known.get(name) != hashlib.sha256(contents[name]).hexdigest()]
    if wrong:
        raise ArtifactError(
            f"{directory}: {', '.join(wrong)} does not belong to {METADATA} (sha256 differs): the files come "
            "from different runs or were changed; copy the artifact again as a whole"
        )


def _read_item_ids(directory: Path, contents: dict[str, bytes]) -> dict[str, int]:
    item_ids = _parse(directory / ITEM_IDS, contents[ITEM_IDS])
    if not all(type(number) is int for number in item_ids.values()):
        raise ArtifactError(f"{directory / ITEM_IDS}: not an object from series keys to integer ids")
    if len(set(item_ids.values())) < len(item_ids):
        raise ArtifactError(f"{directory / ITEM_IDS}: two series have the same id")
    return item_ids


def _read_state(directory: Path, contents: dict[str, bytes]) -> dict[str, Tensor]:
    try:
        return read_tensors(contents[CHECKPOINT])
    except ValueError as error:
        raise ArtifactError(f"{directory / CHECKPOINT}: not a state dict of tensors: {error}") from error


def _read_intervals(
    file: Path, text: bytes | None, contents: dict[str, bytes], config: EstimatorConfig
) -> Intervals | None:
    if text is None:
        return None
    checkpoint = hashlib.sha256(contents[CHECKPOINT]).hexdigest()
    try:
        return Intervals.from_json(text, checkpoint, config.prediction_length)
    except ValueError as error:
        raise ArtifactError(f"{file}: {shortened(error)}") from error
