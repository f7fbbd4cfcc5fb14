"""Read the checkpoints that :mod:`kforecast.training.resume.checkpoints` writes."""

from __future__ import annotations

import io
import logging
import zipfile
from pathlib import Path
from typing import Any

import torch

from kforecast.config.differences import differences, flat
from kforecast.errors import ConfigError
from kforecast.files.untrusted import read_file

log = logging.getLogger(__name__)

# The key of RunCheckpoint's state among those of all callbacks.
RUN_CHECKPOINT = "RunCheckpoint"
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
_MOST_BYTES = 8 << 30
# Keys of train.yaml that determine the weights, and keys of trainer that do not.
_DECIDING = (
    *("seed", "window", "model", "optimizer", "monitor", "average_windows", "schedule", "refit", "teacher"),
)
_FREE = (
    *("_target_", "default_root_dir", "accelerator", "log_every_n_steps", "enable_model_summary"),
    *("num_sanity_val_steps", "enable_progress_bar", "profiler"),
)

State = dict[str, Any]


def newest(folder: Path) -> State | None:
    """The newest intact checkpoint in a folder; None without one.

    Paths in it are changed to this folder, from the one where the file was written.
    """
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            return read_checkpoint(path, folder)
        except ConfigError as error:
            log.warning("%s; taking the one before", error)
    return None


def read_checkpoint(path: Path, folder: Path) -> State:
    """Read a checkpoint that :class:`RunCheckpoint` wrote, without executing code from it.

    Raises
    ------
    ConfigError
        When the file is no checkpoint, or damaged.
    """
    try:
        content = read_file(path, _MOST_BYTES)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # torch never compresses, so the content is no larger than the file.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed")
            damaged = archive.testzip()  # torch does not verify the checksums
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for damaged and malicious files
        said = str(error).splitlines()[0] if isinstance(error, OSError | ValueError) else type(error).__name__
        raise ConfigError(f"{path}: not a whole checkpoint ({said})") from error
    if not isinstance(state, dict) or ("finished" not in state and not {"loops", "callbacks"} <= set(state)):
        raise ConfigError(f"{path}: not a checkpoint to resume from; {LAST} of a run's checkpoints/ is one")
    for kept in (state.get("callbacks") or {}).values():
        if isinstance(kept, dict) and "best_k_models" in kept:
            _relocate(kept, folder)
    return state


def _relocate(state: State, folder: Path) -> None:
    def here(path: str) -> str:
        return str(folder.resolve() / Path(path).name) if path else path

    state["dirpath"] = str(folder.resolve())
    for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
        state[name] = here(state[name])
    state["best_k_models"] = {here(path): score for path, score in state["best_k_models"].items()}


def about_of(checkpoint: State) -> State:
    """Configuration and data of a checkpoint's training."""
    about = checkpoint.get("about") or checkpoint["callbacks"][RUN_CHECKPOINT]["about"]
    assert isinstance(about, dict)
    return about


def artifact_of(checkpoint: State) -> State:
    """The artifact without weights; empty for an older checkpoint."""
    kept = checkpoint if "finished" in checkpoint else checkpoint["callbacks"][RUN_CHECKPOINT]
    return dict(kept.get("artifact") or {})


def best_of(checkpoint: State) -> State:
    """The best weights in a checkpoint: ``score``, ``epoch`` (from 1) and ``state_dict``."""
    if "finished" in checkpoint:
        score, epoch = (checkpoint["finished"][name] for name in ("score", "best_epoch"))
        return {"score": score, "epoch": epoch, "state_dict": checkpoint["state_dict"]}
    best: State | None = checkpoint["callbacks"][RUN_CHECKPOINT]["best"]
    scores = [kept.get("best_model_score") for kept in checkpoint["callbacks"].values() if kept]
    score = next((float(found) for found in scores if found is not None), None)
    if best is None or score not in (None, best["score"]):
        # The current weights are the best: ModelCheckpoint has just found so, or no score is watched.
        return {"score": score, "epoch": checkpoint["epoch"] + 1, "state_dict": checkpoint["state_dict"]}
    return best | {"epoch": best["epoch"] + 1}


def epoch_of(checkpoint: State) -> int | None:
    """The epoch that a training resumes in, counted from 1; None after the last."""
    if "finished" in checkpoint:
        return None
    return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]) + 1


def check_same(checkpoint: State, config: State) -> None:
    """Refuse a checkpoint of a training that had other settings.

    Raises
    ------
    ConfigError
        Naming each setting that differs.
    """
    then, now = flat(about_of(checkpoint)["config"]), flat(config)
    if listed := differences(now, then, "the checkpoint"):
        raise ConfigError(
            f"resume: the checkpoint's training had other settings; leave out resume to begin anew{listed}"
        )


def deciding(settings: State) -> State:
    """The part of a recorded configuration that, together with the data, determines the weights."""
    kept = {name: settings[name] for name in _DECIDING}
    kept["data"] = {name: value for name, value in settings["data"].items() if name != "num_workers"}
    kept["trainer"] = {name: value for name, value in settings["trainer"].items() if name not in _FREE}
    kept["early_stopping"] = settings["callbacks"].get("early_stopping")
    return kept
