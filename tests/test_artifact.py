"""The artifact directory: its format, its verification, and its atomic replacement."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from conftest import HANG
from kforecast.artifact import (
    INTERVALS,
    METADATA,
    TRIO,
    Artifact,
    EstimatorConfig,
    checkpoint_bytes,
    discard,
    folder_name,
)
from kforecast.errors import ArtifactError, ConfigError, OutputError
from kforecast.files.directory import check_writable, replace_directory
from kforecast.models.fcnet import Fcnet

# From contract 5, verbatim.
KEYS = {
    "freq",
    "target_col",
    "time_col",
    "series_cols",
    "prediction_length",
    "context_length",
    "learning_rate",
    "epochs",
    "batch_size",
    "model_path",
    "model",
    "loss",
    "num_workers",
    "patience",
    "use_validation",
    "val_num",
    "num_series",
}


def make_artifact(fill: float = 0.5, series: int = 2) -> Artifact:
    config = EstimatorConfig(freq="10min", prediction_length=3, context_length=7, num_series=series)
    state = {name: value.fill_(fill) for name, value in Fcnet(config.window, series).artifact_state().items()}
    item_ids = {f"ns/app{number}qps": number for number in range(series)}
    return Artifact(config, item_ids, state, {"fill": "interpolate"})


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_round_trip(tmp_path: Path) -> None:
    artifact = make_artifact()
    artifact.save(tmp_path / "model")
    loaded = Artifact.load(tmp_path / "model")
    assert loaded.config == artifact.config
    assert loaded.item_ids == artifact.item_ids
    assert loaded.state.keys() == artifact.state.keys()
    assert all(torch.equal(loaded.state[name], artifact.state[name]) for name in artifact.state)


def test_files_are_those_of_the_contract(tmp_path: Path) -> None:
    make_artifact().save(tmp_path / "model")
    assert names_in(tmp_path / "model") == sorted([*TRIO, METADATA])
    config = yaml.safe_load((tmp_path / "model" / "estimator_config.yaml").read_text())
    assert set(config) == KEYS
    assert config["model"] == "Fcnet"
    assert config["series_cols"] == ["workload", "metric"]
    assert (config["target_col"], config["time_col"]) == ("value", "timestamp")
    assert json.loads((tmp_path / "model" / "item2id.json").read_text()) == {"ns/app0qps": 0, "ns/app1qps": 1}


def test_checkpoint_holds_plain_cpu_float32_tensors_and_no_slack(tmp_path: Path) -> None:
    make_artifact(series=1).save(tmp_path / "model")
    path = tmp_path / "model" / "checkpoint.pth"
    state = torch.load(path, weights_only=True)
    assert type(state) is dict
    assert {(value.dtype, value.device.type) for value in state.values()} == {(torch.float32, "cpu")}
    # About 317 KiB for 10min, context 7, horizon 3, one series (contract 5).
    assert 310 < path.stat().st_size / 1024 < 325
    assert len(checkpoint_bytes(state)) == path.stat().st_size


@pytest.mark.parametrize("name", TRIO)
def test_a_file_of_another_run_is_refused(tmp_path: Path, name: str) -> None:
    make_artifact(0.5).save(tmp_path / "one")
    make_artifact(0.7, series=3).save(tmp_path / "other")
    (tmp_path / "other" / name).replace(tmp_path / "one" / name)
    with pytest.raises(ArtifactError, match="sha256"):
        Artifact.load(tmp_path / "one")


@pytest.mark.parametrize("name", TRIO)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    make_artifact().save(tmp_path / "model")
    (tmp_path / "model" / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        Artifact.load(tmp_path / "model")


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="model: no such artifact directory"):
        Artifact.load(tmp_path / "model")


@pytest.mark.parametrize(
    "content, words",
    [
        (b"{", "metadata.json: cannot be read"),
        (b"[]", "metadata.json: not a JSON object"),
        (b'{"sha256": "abc"}', "metadata.json: sha256 of the files is missing"),
    ],
)
def test_metadata_that_does_not_vouch_for_the_files_is_refused(
    tmp_path: Path, content: bytes, words: str
) -> None:
    make_artifact().save(tmp_path / "model")
    (tmp_path / "model" / METADATA).write_bytes(content)
    with pytest.raises(ArtifactError, match=words):
        Artifact.load(tmp_path / "model")


class _Evil:
    def __reduce__(self) -> tuple:
        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    "name, content",
    [
        ("checkpoint.pth", b"rubbish"),
        ("checkpoint.pth", pickle.dumps(_Evil())),
        ("checkpoint.pth", pickle.dumps({"lc.weight": 1.0})),
        ("estimator_config.yaml", b"!!python/object/apply:os.system ['touch executed']"),
        ("estimator_config.yaml", b"- a list"),
        ("estimator_config.yaml", b"freq: 2h\ncontext_length: 0\nprediction_length: 3"),
        ("item2id.json", b"[1, 2]"),
        ("item2id.json", b'{"a": "b"}'),
        ("item2id.json", b"{"),
    ],
)
def test_damaged_or_hostile_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    # With this variable torch runs code in checkpoints unless the caller forbids it.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    make_artifact().save(tmp_path / "model")
    (tmp_path / "model" / METADATA).unlink()
    (tmp_path / "model" / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=name):
        Artifact.load(tmp_path / "model")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "entry", [{3: torch.zeros(2)}, {"a": torch.eye(2).to_sparse()}, {"a": torch.zeros(2, dtype=torch.cfloat)}]
)
def test_a_checkpoint_of_anything_but_named_plain_tensors_is_refused(tmp_path: Path, entry: dict) -> None:
    artifact = make_artifact()
    replace(artifact, state={**artifact.state, **entry}).save(tmp_path / "model")
    with pytest.raises(ArtifactError, match="not a state dict of tensors"):
        Artifact.load(tmp_path / "model")


def test_config_problems_are_all_named() -> None:
    with pytest.raises(ValueError, match=r"num_series is missing.*context_length is 0.*freq: bins of '7H' do not"):
        EstimatorConfig.from_yaml("freq: 7H\ncontext_length: 0\nprediction_length: 3")


def config_text(**changes: str) -> str:
    content = {"freq": "10min", "prediction_length": 3, "context_length": 7, "num_series": 2} | changes
    return "\n".join(f"{name}: {value}" for name, value in content.items())


def test_a_configuration_may_hold_the_least_or_other_names_of_columns() -> None:
    least = EstimatorConfig("10min", 3, 7, 2)
    assert EstimatorConfig.from_yaml(config_text()) == least
    other = EstimatorConfig.from_yaml(config_text(series_cols="[app, kind]"))
    assert other == replace(least, series_cols=("app", "kind"))


@pytest.mark.parametrize("name", ["prediction_length", "context_length", "num_series"])
@pytest.mark.parametrize("value", ["0", "true", "1.5", "'7'"])
def test_a_length_is_a_positive_integer(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is .*, not a positive integer$"):
        EstimatorConfig.from_yaml(config_text(**{name: value}))


@pytest.mark.parametrize("name", ["freq", "prediction_length", "context_length", "num_series"])
def test_what_a_configuration_lacks_is_said_once(name: str) -> None:
    text = "\n".join(line for line in config_text().splitlines() if not line.startswith(name))
    with pytest.raises(ValueError, match=f"^{name} is missing$"):
        EstimatorConfig.from_yaml(text)


@pytest.mark.parametrize(
    "text, words", [("freq: [", "not YAML"), ("- freq", "not a mapping"), ("", "not a map")]
)
def test_what_is_no_configuration_at_all_is_said(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EstimatorConfig.from_yaml(text)


def test_saving_replaces_an_artifact_and_its_parts_as_a_whole(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    make_artifact(0.1).save(directory, {"0-ns-app0-qps": make_artifact(0.1, series=1)})
    assert Artifact.load(directory / "per_series" / "0-ns-app0-qps").config.num_series == 1
    assert Artifact.load(directory).config.num_series == 2
    make_artifact(0.2).save(directory)
    assert names_in(directory) == sorted([*TRIO, METADATA])
    assert names_in(tmp_path) == ["model"]


def test_files_of_others_stay(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "notes.txt").write_text("mine")
    make_artifact(0.1).save(directory, {"0-a": make_artifact(0.1, series=1)})
    make_artifact(0.2).save(directory)
    assert (directory / "notes.txt").read_text() == "mine"
    assert Artifact.load(directory).state["lc.bias"][0] == pytest.approx(0.2)
    assert not (directory / "per_series" / "0-a" / "checkpoint.pth").exists()
    assert not [name for name in names_in(directory) if name.startswith(".")]


def test_a_folder_of_others_called_per_series_stays(tmp_path: Path) -> None:
    notes = tmp_path / "model" / "per_series" / "notes.txt"
    notes.parent.mkdir(parents=True)
    notes.write_text("mine")
    make_artifact().save(tmp_path / "model")
    make_artifact().save(tmp_path / "model", {"0-a": make_artifact(series=1)})
    assert notes.read_text() == "mine"
    assert Artifact.load(tmp_path / "model" / "per_series" / "0-a").config.num_series == 1


def test_the_current_directory_can_be_the_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_artifact(0.1).save(Path())
    make_artifact(0.2).save(Path())
    assert Artifact.load(Path()).state["lc.bias"][0] == pytest.approx(0.2)


def _write_for_ever(directory: Path, artifacts: list[Artifact]) -> None:
    while True:
        for artifact in artifacts:
            artifact.save(directory)


def test_a_reader_never_meets_a_torn_artifact_even_when_the_writer_is_killed(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    make_artifact(0.1).save(directory)
    context = multiprocessing.get_context("fork")  # a spawned process would load torch first
    artifacts = [make_artifact(fill) for fill in (0.1, 0.2)]
    until = time.monotonic() + HANG
    for _ in range(2):
        before = directory.stat().st_ino
        writer = context.Process(target=_write_for_ever, args=(directory, artifacts))
        writer.start()
        seen: list[float] = []
        while directory.stat().st_ino == before:
            time.sleep(0.01)
        while len(seen) < 40 or len({*seen}) < 2:
            assert time.monotonic() < until, seen
            # Opened through one directory handle: a reader continues with the files that it started with.
            handle = os.open(directory, os.O_RDONLY)
            try:
                files = {}
                for name in (*TRIO, METADATA):
                    try:
                        with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=handle), "rb") as file:
                            files[name] = file.read()
                    except FileNotFoundError:
                        break  # replaced and removed meanwhile: try again with the new one
            finally:
                os.close(handle)
            if len(files) == 4:
                copy = tmp_path / "copy"
                replace_directory(copy, files, owned=files)
                seen.append(float(Artifact.load(copy).state["lc.bias"][0]))
        writer.kill()
        writer.join()
        Artifact.load(directory)
        assert {*seen} == {float(artifact.state["lc.bias"][0]) for artifact in artifacts}


@pytest.mark.parametrize("at", ["a", "a/b/c"])
def test_check_writable_refuses_a_file(tmp_path: Path, at: str) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        check_writable(tmp_path / at)
    check_writable(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()


def test_a_failing_write_leaves_the_earlier_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "model"
    make_artifact(0.1).save(directory)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=f"{directory}: cannot be written: No space"):
        make_artifact(0.2).save(directory)
    assert Artifact.load(directory).state["lc.bias"][0] == pytest.approx(0.1)
    assert names_in(tmp_path) == ["model"]


@pytest.mark.parametrize("module, step", [(tempfile, "mkdtemp"), (os, "fsync"), (shutil, "rmtree")])
@pytest.mark.parametrize("others", [False, True])
def test_ctrl_c_amid_a_replacement_takes_effect_after_it(
    module: object, step: str, others: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "model"
    make_artifact(0.1).save(directory)
    if others:  # the files are renamed one by one
        (directory / "notes.txt").write_text("of others")
    before = names_in(directory)
    done: Callable[..., object] = getattr(module, step)

    def interrupted(*arguments: object, **options: object) -> object:
        signal.raise_signal(signal.SIGINT)
        made = done(*arguments, **options)
        signal.raise_signal(signal.SIGINT)
        return made

    monkeypatch.setattr(module, step, interrupted)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        make_artifact(0.2).save(directory)
    assert signal.getsignal(signal.SIGINT) is handler
    assert Artifact.load(directory).state["lc.bias"][0] == pytest.approx(0.2)
    assert (names_in(tmp_path), names_in(directory)) == (["model"], before)


@pytest.mark.parametrize(
    "workload, metric, name",
    [
        ("ns/app", "qps", "3-ns-app-qps"),
        ("Shop/Cart_v1.2", "p99.", "3-Shop-Cart_v1.2-p99"),
        ("../../etc", "passwd", "3-etc-passwd"),
        ("命名/服务", "请求", "3"),
        ("", "", "3"),
        ("X" * 100, "qps", "3-" + "X" * 80),
        ("a" * 79, "qps", "3-" + "a" * 79),  # no dash remains at the cut
    ],
)
def test_folder_names_are_plain_and_short(workload: str, metric: str, name: str) -> None:
    assert folder_name(3, workload, metric) == name


def test_discarding_removes_an_artifact_and_nothing_of_others(tmp_path: Path) -> None:
    directory = tmp_path / "model"
    make_artifact().save(directory, {"0-a": make_artifact(series=1)})
    (directory / INTERVALS).write_text("{}")
    discard(directory)
    assert not directory.exists()
    discard(directory)  # a missing directory is fine

    make_artifact().save(directory)
    notes = directory / "per_series" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    discard(directory)
    assert names_in(directory) == ["per_series"]
    assert notes.read_text() == "mine"
