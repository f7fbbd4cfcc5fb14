"""MLflow and Weights & Biases: values they receive from a run, and secrets they must not receive."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import composed, run_command
from kforecast.config.checks import check_train_settings
from kforecast.errors import ConfigError
from kforecast.training.plan import Component
from kforecast.training.trackers import loggers_of

QUICK = ["trainer.max_epochs=2", "+trainer.limit_train_batches=2", "trainer=cpu", "refit=false"]


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_mlflow_has_each_job_of_a_sweep(tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    pytest.importorskip("mlflow")
    data = f"--dataset-file={traffic_csv()}"
    done = run_command(
        "kforecast-train", "-m", "logger=mlflow", "optimizer.lr=0.01,0.001", data, *QUICK, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "INFO mlflow" not in done.stdout + done.stderr
    store = sqlite3.connect(tmp_path / "outputs" / "mlflow.db")
    rows = store.execute("select run_uuid, name, status, artifact_uri from runs order by name").fetchall()
    assert [(name.rpartition("/")[2], status) for _, name, status, _ in rows] == [
        ("0", "FINISHED"),
        ("1", "FINISHED"),
    ]
    for (run, name, _, uri), rate in zip(rows, ("0.01", "0.001"), strict=True):
        parameters = dict(
            store.execute("select key, value from params where run_uuid = ?", (run,)).fetchall()
        )
        assert (parameters["optimizer.lr"], parameters["model"]) == (rate, "Fcnet")
        metrics = dict(
            store.execute("select key, count(*) from metrics where run_uuid = ? group by key", (run,))
        )
        assert metrics["validation/loss"] == metrics["epoch/seconds"] == 2
        assert {"score/validation_loss", "score/wape", "score/skill", "score/seconds"} <= set(metrics)
        kept = Path(uri.removeprefix("file://"))
        assert files_in(kept / "artifact") == files_in(tmp_path / name / "artifact")
        assert (kept / "evaluation" / "report.html").is_file()


@pytest.mark.slow
def test_wandb_offline(tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    pytest.importorskip("wandb")
    data = f"--dataset-file={traffic_csv()}"
    done = run_command(
        "kforecast-train",
        "logger=wandb",
        "logger.wandb.offline=true",
        "hydra.run.dir=run",
        data,
        *QUICK,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "wandb:" not in done.stdout + done.stderr
    (kept,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    content = kept.read_bytes()
    for name in (b"score/wape", b"validation/loss", b"batch_size", b"estimator_config.yaml"):
        assert name in content


ADDRESS = "http://mia:s3cret@127.0.0.1:9"


def test_a_password_of_a_tracker_in_plain_text_is_refused(
    tmp_path: Path, traffic_csv: Callable[..., Path]
) -> None:
    command = ["logger=mlflow", f"--dataset-file={traffic_csv()}", "hydra.run.dir=run", *QUICK]
    refused = run_command("kforecast-train", f"logger.mlflow.tracking_uri={ADDRESS}", *command, cwd=tmp_path)
    assert refused.returncode == 2
    assert "logger.mlflow.tracking_uri: a secret in plain text" in refused.stderr
    assert "s3cret" not in refused.stdout + refused.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_password_of_a_tracker_is_kept_nowhere(tmp_path: Path, traffic_csv: Callable[..., Path]) -> None:
    pytest.importorskip("mlflow")
    command = ["logger=mlflow", f"--dataset-file={traffic_csv()}", "hydra.run.dir=run", *QUICK]
    # By the environment it may be given; nobody answers there.
    env = {"MLFLOW_TRACKING_URI": ADDRESS, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    failed = run_command("kforecast-train", *command, cwd=tmp_path, env=env)
    assert failed.returncode == 3, failed.stderr
    assert failed.stderr.startswith("error: logger.mlflow: ")
    assert "s3cret" not in failed.stdout + failed.stderr
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"s3cret" in path.read_bytes()]


@pytest.mark.parametrize("name, module", [("mlflow", "mlflow"), ("wandb", "wandb")])
def test_a_missing_extra_is_one_line(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.util import find_spec

    monkeypatch.setattr(
        "kforecast.config.checks.find_spec", lambda asked: None if asked == module else find_spec(asked)
    )
    with pytest.raises(ConfigError) as refusal:
        check_train_settings(composed("source=synthetic", f"logger={name}"))
    said = f"configuration: logger.{name}: needs a package: pip install 'kforecast[{name}]'"
    assert str(refusal.value) == said


NAMED = {"run_name": "runs/7"}
LOCAL = {"artifact_location": Path("outputs", "mlartifacts").resolve().as_uri()}


@pytest.mark.parametrize(
    "given, expected",
    [
        (["logger=tensorboard"], {}),
        (["logger=wandb"], {"name": "runs/7", "settings": {"console": "off", "silent": True}}),
        (["logger=wandb", "logger.wandb.name=mine", "+logger.wandb.settings={silent: false}"], {}),
        (["logger=mlflow"], NAMED | LOCAL),
        (["logger=mlflow", "logger.mlflow.run_name=mine", "logger.mlflow.artifact_location=s3://a"], {}),
        (["logger=mlflow", "logger.mlflow.tracking_uri=https://h"], NAMED),
        (["logger=mlflow", "logger.mlflow.tracking_uri=null"], NAMED | LOCAL),
    ],
)
def test_a_tracker_gets_only_the_settings_that_are_left_open(
    given: list[str], expected: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kforecast.training.plan.built", lambda node, key, **arguments: arguments)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    nodes = composed("source=synthetic", *given).logger
    components = {str(name): Component(f"logger.{name}", node) for name, node in nodes.items()}
    assert loggers_of(components, "runs/7") == [expected]
