"""The median stopping rule: which jobs are stopped, when, and because of which others."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import run_command
from kforecast.training.median_stopping import PROGRESS, MedianStopping


def trainer() -> Any:
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    return SimpleNamespace(callback_metrics={}, should_stop=False, is_global_zero=True, strategy=strategy)


def job(sweep: Path, number: int, warmup: int = 2, min_jobs: int = 3) -> MedianStopping:
    (sweep / str(number)).mkdir(exist_ok=True)
    return MedianStopping("validation/loss", str(sweep / str(number)), str(sweep), warmup, min_jobs)


def run(callback: MedianStopping, losses: list[float], end: bool = True) -> int:
    """Train with the given losses; the number of epochs trained."""
    at_work, module = trainer(), SimpleNamespace()
    callback.on_train_start(at_work, module)  # type: ignore[arg-type]
    epochs = 0
    for loss in losses:
        if at_work.should_stop:
            break
        at_work.callback_metrics["validation/loss"] = loss
        callback.on_train_epoch_end(at_work, module)  # type: ignore[arg-type]
        epochs += 1
    if end or at_work.should_stop:
        callback.on_train_end(at_work, module)  # type: ignore[arg-type]
    return epochs


def test_worse_than_half_of_the_others_is_stopped(tmp_path: Path) -> None:
    for number, level in enumerate((1.0, 2.0, 3.0)):
        assert run(job(tmp_path, number), [level] * 5) == 5  # too few other jobs
    good, bad, equal = job(tmp_path, 3), job(tmp_path, 4), job(tmp_path, 5)
    assert run(good, [5.0, 1.5, 9.0, 9.0]) == 4  # the best so far counts
    assert run(bad, [2.5] * 5) == 2
    assert bad.reason is not None
    assert bad.reason.startswith("median stopping: the best validation/loss by epoch 2, 2.5, is worse")
    assert "median of 4 other jobs, 1.75" in bad.reason
    assert run(equal, [2.0] * 5) == 5  # not worse than the median
    assert (good.reason, equal.reason) == (None, None)


def test_others_count_as_far_as_they_have_come(tmp_path: Path) -> None:
    run(job(tmp_path, 0), [5.0, 4.0, 3.0, 0.1])  # 4.0 by the second epoch
    run(job(tmp_path, 1), [1.0])  # ended early, so its best stays
    run(job(tmp_path, 2), [4.0, 4.0])
    run(job(tmp_path, 3), [1.0], end=False)  # running, in its second epoch
    assert run(job(tmp_path, 4), [4.5, 3.9, 3.8]) == 3
    assert run(job(tmp_path, 5), [4.5, 4.1, 4.0]) == 2


def test_a_plain_run_and_damaged_files_stop_nothing(tmp_path: Path) -> None:
    alone = MedianStopping("validation/loss", str(tmp_path), str(tmp_path / "none"), 1, 1)
    assert run(alone, [9.0, 9.0]) == 2
    for number, text in enumerate(("", "[]", '{"best": "x", "ended": true}', '{"best": [null], "ended": 1}')):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / PROGRESS).write_text(text)
    assert run(job(tmp_path, 9, warmup=1, min_jobs=1), [9.0, 9.0]) == 2


def test_a_stopped_training_stays_stopped_when_it_is_resumed(tmp_path: Path) -> None:
    for number in range(3):
        run(job(tmp_path, number), [1.0] * 3)
    stopped = job(tmp_path, 3)
    run(stopped, [2.0] * 3)
    again = job(tmp_path, 3)
    again.load_state_dict(stopped.state_dict())
    assert run(again, [2.0] * 3) == 0
    assert again.reason == stopped.reason
    assert json.loads((tmp_path / "3" / PROGRESS).read_text()) == {"best": [2.0, 2.0], "ended": True}


@pytest.mark.parametrize("name", ["warmup_epochs", "min_jobs"])
def test_wrong_settings(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        MedianStopping("validation/loss", str(tmp_path), str(tmp_path), **{name: 0})


def test_a_hopeless_job_of_a_grid_does_not_train_again(
    tmp_path: Path, traffic_csv: Callable[..., Path]
) -> None:
    rule = [f"callbacks.median_stopping.{name}=1" for name in ("warmup_epochs", "min_jobs")]
    grid = ["-m", "optimizer.lr=0.01,1e-7", "callbacks=median", *rule, "hydra.sweep.dir=sweep"]
    quick = ["trainer.max_epochs=4", "+trainer.limit_train_batches=4", "trainer=cpu"]
    quick.append("callbacks.forecast_figures=null")
    data = f"--dataset-file={traffic_csv()}"
    done = run_command("kforecast-train", *grid, *quick, data, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    good, bad = (json.loads((tmp_path / "sweep" / job / "result.json").read_text()) for job in "01")
    assert (good["epochs"], good["stopped_by"]) == (4, "trainer.max_epochs=4")
    assert (bad["status"], bad["epochs"]) == ("done", 1)
    assert bad["stopped_by"].startswith("median stopping: ")
    assert bad["score"] > good["score"]
    logs = [(tmp_path / "sweep" / job / "train.log").read_text() for job in "01"]
    assert ["(refit)" in log for log in logs] == [True, False]
    # Both are in TensorBoard's summary of the sweep, only with the varied settings.
    (events,) = (tmp_path / "sweep").glob("events.out.tfevents.*")
    content = events.read_bytes()
    assert b"optimizer.lr" in content
    assert b"score/wape" in content
    assert b"trainer.max_epochs" not in content
    assert b"best job/forecasts" in content
