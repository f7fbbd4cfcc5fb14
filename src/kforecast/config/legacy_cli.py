"""Translate Kapacity's flags and its train-config.yaml into a Hydra layer (contracts 1, 2 and 7).

Only this module knows either of them. Flags become overrides; the file becomes the option ``from_file`` of
the config group ``train_config``. Both come before the user's own overrides, which therefore win.
"""

import argparse
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

from hydra.core.config_store import ConfigStore
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from kforecast.config.overrides import _insert, literal, quote
from kforecast.errors import ConfigError
from kforecast.files.untrusted import parse_yaml
from kforecast.metrics.spec import Targets
from kforecast.validation import validate
from kforecast.window import canonical_frequency

FLAGS = {
    "--config-file": "the train-config.yaml: targets, window and hyper-parameters",
    "--dataset-file": "history as CSV, Parquet or a tool's export; takes precedence over a metrics server",
    "--metrics-server-addr": "HOST:PORT of the gRPC metrics provider",
    "--model-save-path": "directory for the artifact; created if missing",
    "--dataloader-num-workers": "worker processes of the data loader (0)",
}

# The flags of Kapacity's predictive job: each with the key that it sets, or None if kforecast-scale needs no
# such number, and its meaning.
JOB_FLAGS = {
    "--kubeconfig": ("scale.kubeconfig", "the cluster, when it is not the one around this pod"),
    "--tsf-model-path": ("artifact_dir", "the artifact"),
    "--tsf-dataloader-num-workers": (None, "accepted, without effect"),
    "--re-history-len": ("scale.history", "history to learn replicas from, like 24H or 7D"),
    "--re-time-delta-hours": (None, "accepted, without effect"),
    "--re-test-dataset-size-in-seconds": ("scale.test_seconds", "newest part of it, which judges (86400)"),
    "--re-min-correlation-allowed": ("scale.min_correlation", "lowest correlation there (0.9)"),
    "--re-max-mse-allowed": ("scale.max_mse", "greatest mean squared error there, on 0..100 (10.0)"),
    "--scaling-freq": ("scale.freq", "distance of the points, like 10min"),
    "--scale-up-ahead-seconds": ("scale.lead_seconds", "how much earlier replicas rise (0)"),
}
_JOB_NUMBERS = ("scale.test_seconds", "scale.min_correlation", "scale.max_mse", "scale.lead_seconds")


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"{value} is a boolean, not a number")
    return value


# YAML 1.1 reads 1e-3 as text, so numbers in text are accepted; true and false are not 1 and 0.
Int = Annotated[int, BeforeValidator(_not_bool), Field(ge=1)]
Float = Annotated[float, BeforeValidator(_not_bool), Field(gt=0, allow_inf_nan=False)]


class _Words(BaseModel):
    model_config = ConfigDict(extra="forbid")


class HyperParams(_Words):
    """``hyperParams``, with the defaults of Kapacity's script."""

    learningRate: Float = 0.001  # noqa: N815
    epochs: Int = 100
    batchSize: Int = 32  # noqa: N815


class TrainConfigFile(_Words):
    """The whole train-config.yaml, both generations."""

    targets: Targets = []
    freq: Annotated[str, AfterValidator(canonical_frequency)]
    predictionLength: Annotated[Int, Field(le=10_000)]  # noqa: N815
    contextLength: Annotated[Int, Field(le=10_000)]  # noqa: N815
    hyperParams: HyperParams = HyperParams()  # noqa: N815


# A file with ten thousand targets has about 5 MB and 300,000 values.
_MOST_BYTES = 16 * 2**20
_MOST_VALUES = 2_000_000

# Sections of our own configuration that each command takes from the config file; those that read an artifact
# take the window too if it has none.
SECTIONS = {
    "train": ("window", "data", "optimizer", "trainer", "source"),
    "fetch": ("window", "source"),
    "forecast": ("source",),
    "evaluate": ("source",),
    "replay": ("source",),
    "serve": ("source",),
    "serve_metrics": ("serve",),
}
_ASKING = ("forecast", "evaluate", "serve")
_WITHOUT_ARTIFACT = "artifact_dir=pretrained"


def translate(
    arguments: list[str], flags: Collection[str] = (*FLAGS, *JOB_FLAGS), verb: str = "train"
) -> list[str]:
    """Translate a command line with Kapacity's flags into one that Hydra understands.

    Parameters
    ----------
    arguments:
        Arguments as typed, without the name of the program.
    flags:
        The part of :data:`FLAGS` and :data:`JOB_FLAGS` that the command accepts.
    verb:
        Name of the command's primary config, a key of :data:`SECTIONS`.

    Raises
    ------
    ConfigError
        When a flag has no value, or the config file is wrong.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in flags:
        parser.add_argument(flag)
    try:
        given, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ConfigError(str(error)) from error
    # argparse turns the value "--" into an empty list.
    values = {name: "--" if value == [] else value for name, value in vars(given).items()}
    given = argparse.Namespace(**{flag[2:].replace("-", "_"): None for flag in FLAGS} | values)
    overrides = _of_job({flag: values.get(flag[2:].replace("-", "_")) for flag in JOB_FLAGS})
    if given.config_file is not None:
        content = read_train_config(Path(given.config_file))
        chosen = [argument.partition("=")[2] for argument in rest if argument.startswith("source=")]
        from_server = given.metrics_server_addr is not None and given.dataset_file is None
        with_targets = (chosen or ["kapacity" if from_server else ""])[-1] == "kapacity"
        tree = file_tree(content)
        sections = SECTIONS[verb]
        if verb in _ASKING and _WITHOUT_ARTIFACT in rest and not Path("pretrained").is_dir():
            sections = ("window", *sections)
        layer = {name: tree[name] for name in sections if name != "source" or with_targets}
        group = next((argument for argument in rest if argument.startswith("window=")), None)
        if group is not None and "window" in sections:
            print(
                f"warning: {group} is without effect: {given.config_file} sets the whole window; change "
                "window.freq, window.context_length and window.prediction_length instead",
                file=sys.stderr,
            )
        model = next((argument for argument in reversed(rest) if argument.startswith("model=")), None)
        if content.hyperParams.model_fields_set and model not in (None, "model=fcnet") and verb == "train":
            print(
                f"warning: the hyperParams of {given.config_file} are Fcnet's; {model} has a recipe of its "
                "own: change optimizer.lr, trainer.max_epochs and data.batch_size instead",
                file=sys.stderr,
            )
        ConfigStore.instance().store(
            group="train_config", name="from_file", node=layer, package="_global_", provider=given.config_file
        )
        overrides.append("train_config=from_file")
    if given.dataset_file is not None:
        overrides += ["source=csv", f"source.path={quote(given.dataset_file)}"]
    elif given.metrics_server_addr is not None:
        overrides += ["source=kapacity", f"source.address={quote(given.metrics_server_addr)}"]
    if given.model_save_path is not None:
        overrides.append(f"artifact_dir={quote(given.model_save_path)}")
    if given.dataloader_num_workers is not None:
        overrides.append(f"data.num_workers={quote(given.dataloader_num_workers, number=True)}")
    return _insert(rest, overrides)


def _of_job(values: dict[str, str | None]) -> list[str]:
    """The overrides that the flags of Kapacity's job stand for; None is the value of a flag not given."""
    overrides = []
    for flag, value in values.items():
        key = JOB_FLAGS[flag][0]
        if value is not None and key is not None:
            number = key in _JOB_NUMBERS and re.fullmatch(r"[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?", value)
            overrides.append(f"{key}={value if number else quote(value)}")
        elif value is not None and re.fullmatch(r"[+-]?[0-9]+", value) is None:
            raise ConfigError(f"{flag}: {value!r} is not a whole number")
    return overrides


def without_flags(line: str) -> str:
    """A line to complete, without our flags and unfinished flags, which Hydra's completion cannot parse."""
    line = re.sub(rf"\s(?:{'|'.join((*FLAGS, *JOB_FLAGS))})(?:=\S*|\s+\S+)?(?=\s|$)", "", line)
    return re.sub(r"\s-\S*$", " ", line)


def flags_for_hydra(arguments: list[str]) -> list[str]:
    """The flags that name configuration files and folders, as typed: a composed configuration lacks these."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config-file")
    parser.add_argument("--repeat")
    parser.add_argument("--config-path", "-cp")
    parser.add_argument("--config-name", "-cn")
    parser.add_argument("--config-dir", "-cd")
    given = vars(parser.parse_known_args(arguments)[0])
    return [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]


def read_train_config(path: Path) -> TrainConfigFile:
    """Read and validate a train-config.yaml.

    Raises
    ------
    ConfigError
        Listing all problems, each with the path of its field.
    """
    try:
        content = parse_yaml(_text_of(path), _MOST_VALUES, aliases=True)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    if content is None:
        raise ConfigError(f"{path}: the file is empty; freq, predictionLength and contextLength are needed")
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a mapping of keys to values but a {type(content).__name__}")
    # A bare "hyperParams:" is an absent block too.
    return validate(TrainConfigFile, {k: v for k, v in content.items() if v is not None}, str(path))


def _text_of(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{path}: too large for a config file: more than {_MOST_BYTES // 2**20} MiB")
    return content.decode("utf-8")


def file_tree(content: TrainConfigFile) -> dict[str, dict[str, Any]]:
    """The file's content by section of our own configuration: the only table from its names to ours.

    Targets stay as the user wrote them.
    """
    hyper = content.hyperParams
    targets = [target.model_dump(exclude_none=True, exclude_unset=True) for target in content.targets]
    return {
        "window": {
            "freq": content.freq,
            "context_length": content.contextLength,
            "prediction_length": content.predictionLength,
        },
        "data": {"batch_size": hyper.batchSize},
        "optimizer": {"lr": hyper.learningRate},
        "trainer": {"max_epochs": hyper.epochs},
        "source": {"targets": _escape(targets)},
        "serve": {"targets": _escape(targets)},
    }


def _escape(value: Any) -> Any:
    if isinstance(value, str):
        return literal(value)
    if isinstance(value, list):
        return [_escape(item) for item in value]
    if isinstance(value, dict):
        return {key: _escape(item) for key, item in value.items()}
    return value
