"""kforecast.train and Forecaster as used in a notebook: frames in, frames out, no side effects."""

import _thread
import logging
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import kforecast
from conftest import START, run_command
from kforecast.artifact import METADATA, TRIO, Artifact
from kforecast.config.checks import CONF_DIR
from kforecast.errors import ArtifactError, ConfigError, DataError

WINDOW = kforecast.Window(freq="10min", context_length=7, prediction_length=3)
EPOCHS = 3


def traffic(days: int = 8) -> pd.DataFrame:
    """Two services with a daily cycle and a gap; the numbers survive a CSV file unchanged."""
    rng, count = np.random.default_rng(0), days * 144
    time = START + 600 * np.arange(count)
    frames = []
    for name, level in (("search", 400), ("cart", 50)):
        value = level * (1.5 + np.sin(2 * np.pi * time / 86_400) + 0.1 * rng.standard_normal(count))
        rows = pd.DataFrame({"timestamp": time, "value": value.round(3)})
        frames.append(rows.assign(workload=f"shop/{name}", metric="qps")[rng.random(count) > 0.02])
    return pd.concat(frames)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One training in this process, and its output."""
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("notebook"))
        patch.setattr("builtins.print", lambda line, **_: said.append(line))
        train = kforecast.train  # side effects of imports do not count
        before = state()
        forecaster = train(traffic(), WINDOW, max_epochs=EPOCHS)
        return SimpleNamespace(
            forecaster=forecaster, said=said, before=before, after=state(), left=list(Path.cwd().iterdir())
        )


def state() -> dict[str, object]:
    """The process state that a library must not change."""
    return {
        "hydra": GlobalHydra.instance().is_initialized(),
        "resolvers": {name: OmegaConf.has_resolver(name) for name in ("hydra", "now")},
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "environment": dict(os.environ),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)],
        "thread failures": threading.excepthook,
        "levels": [logging.getLogger(name).level for name in ("", "lightning.pytorch", "kforecast")],
    }


def test_importing_it_is_cheap() -> None:
    script = "import sys, kforecast; kforecast.Window('1h', 2, 1); print({'torch', 'hydra'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    assert set(kforecast.__all__) <= set(dir(kforecast))
    assert all(getattr(kforecast, name) is not None for name in kforecast.__all__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = kforecast.trian


def test_a_frequency_in_any_spelling_makes_a_window() -> None:
    assert kforecast.Window("1h", 24, 6) == kforecast.Window(freq="H", context_length=24, prediction_length=6)
    with pytest.raises(ValueError, match="bins of '7min' do not divide a day; use 6min or 8min"):
        kforecast.Window("7min", 7, 3)
    with pytest.raises(ValueError, match="context_length is 0; use a positive integer"):
        kforecast.Window("10min", 0, 3)


def test_training_says_how_it_goes_and_what_came_of_it(made: SimpleNamespace) -> None:
    assert made.said[0].startswith("Training Fcnet on 2 series, ")
    assert made.said[1].startswith("epoch 1: train loss ")
    assert any(line.startswith(f"epoch {EPOCHS}: ") and "(best " in line for line in made.said)
    assert made.said[-1].startswith("Done in ")
    assert "WAPE" in made.said[-1]
    assert repr(made.forecaster) == "Forecaster(Fcnet, context 7 + horizon 3 at 10min, 2 series)"


def test_training_leaves_the_process_and_the_folder_as_they_were(made: SimpleNamespace) -> None:
    assert made.left == []
    for name, before in made.before.items():
        assert made.after[name] == before, name


def test_the_command_comes_to_the_same_artifact(made: SimpleNamespace, tmp_path: Path) -> None:
    traffic().to_csv(tmp_path / "traffic.csv", index=False)
    done = run_command(
        "kforecast-train",
        *("--dataset-file=traffic.csv", "artifact_dir=command", f"trainer.max_epochs={EPOCHS}"),
        "logger=none",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    made.forecaster.save(tmp_path / "notebook")
    for name in (*TRIO, "intervals.json"):
        assert (tmp_path / "notebook" / name).read_bytes() == (tmp_path / "command" / name).read_bytes(), name
    ours, theirs = (Artifact.load(tmp_path / name).metadata or {} for name in ("notebook", "command"))
    assert {*ours} == {*theirs}
    for name in {*ours} - {"config"}:
        assert ours[name] == theirs[name], name
    for name in {*ours["config"]} - {"source", "artifact_dir", "callbacks", "trainer"}:
        assert ours["config"][name] == theirs["config"][name], name

    forecast = run_command(
        *("kforecast-forecast", "artifact_dir=notebook", "--dataset-file=traffic.csv"), cwd=tmp_path
    )
    assert forecast.returncode == 0, forecast.stderr
    assert forecast.stdout.count("\n") == 1 + 2 * 3

    judged = run_command(
        *("kforecast-evaluate", "artifact_dir=command", "--dataset-file=traffic.csv"),
        "hydra.run.dir=judged",
        cwd=tmp_path,
    )
    assert judged.returncode == 0, judged.stderr
    found = made.forecaster.evaluate(traffic())
    assert judged.stdout.startswith(str(found))
    written = pd.read_csv(tmp_path / "judged" / "scores.csv")
    whole = written[written["step"] == "all"].drop(columns="step").reset_index(drop=True)
    pd.testing.assert_frame_equal(found.scores, whole, check_dtype=False, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings, arguments",
    [
        (
            {"model": "auto", "max_epochs": 2, "timezone": {"default": "UTC", "shop/cart": "Asia/Tokyo"}},
            ["model=auto", "trainer.max_epochs=2", "data.timezone={default: UTC, shop/cart: Asia/Tokyo}"],
        ),
        (
            {"overrides": ["experiment=kapacity"], "max_epochs": 2, "learning_rate": 0.002, "seed": 7},
            ["experiment=kapacity", "trainer.max_epochs=2", "optimizer.lr=0.002", "seed=7"],
        ),
        (
            {"validation": 0, "test": 0, "max_epochs": 2, "overrides": ["callbacks=none"]},
            ["data.validation=0", "data.test=0", "trainer.max_epochs=2", "callbacks=none"],
        ),
    ],
    ids=["auto", "kapacity", "all of it"],
)
def test_the_command_comes_to_the_same_with_other_recipes(
    settings: dict[str, Any], arguments: list[str], tmp_path: Path
) -> None:
    traffic().to_csv(tmp_path / "traffic.csv", index=False)
    if "callbacks=none" in arguments:
        arguments = [*arguments, "monitor=train/loss"]
    given = ("--dataset-file=traffic.csv", "artifact_dir=command", "logger=none")
    done = run_command("kforecast-train", *given, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    kforecast.train(traffic(), WINDOW, **settings, verbose=False).save(tmp_path / "notebook")
    for name in TRIO:
        assert (tmp_path / "notebook" / name).read_bytes() == (tmp_path / "command" / name).read_bytes(), name


def test_again_in_a_thread_of_another_hydra_application_it_is_the_same(made: SimpleNamespace) -> None:
    result: list[kforecast.Forecaster] = []
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        theirs = GlobalHydra.instance().hydra
        work = threading.Thread(
            target=lambda: result.append(kforecast.train(traffic(), WINDOW, max_epochs=EPOCHS, verbose=False))
        )
        work.start()
        work.join()
        assert GlobalHydra.instance().hydra is theirs
        assert compose("train", ["source=synthetic"]).seed == 42
    assert result, "it failed"
    for name, value in made.forecaster.net.state_dict().items():
        torch.testing.assert_close(result[0].net.state_dict()[name], value, rtol=0, atol=0)


def test_ctrl_c_is_a_keyboard_interrupt_and_no_more(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class InterruptInSecondEpoch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("Epoch: 2 "):
                _thread.interrupt_main()

    monkeypatch.chdir(tmp_path)
    handler, logger = InterruptInSecondEpoch(), logging.getLogger("kforecast.training.callbacks")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    before = state()
    try:
        with pytest.raises(KeyboardInterrupt):
            kforecast.train(traffic(), WINDOW, max_epochs=10_000, patience=10_000, verbose=False)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert state()["signals"] == before["signals"]
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, words",
    [
        (
            {"model": "fcnt"},
            "model is 'fcnt'; did you mean fcnet?; use one of auto, fcnet, lightgbm, pretrained, "
            "seasonal_mlp",
        ),
        ({"learning_rate": -1.0}, "optimizer.lr: -1.0"),
        ({"max_epochs": 0}, "trainer.max_epochs: 0"),
        ({"batch_size": "many"}, "data.batch_size: 'many'"),
        ({"timezone": "Europe/Berln"}, "data.timezone: "),
        ({"patience": 3, "overrides": ["callbacks=none"]}, "callbacks.early_stopping"),
        ({"validation": 0.6, "test": 0.4}, "leave nothing to train on"),
        ({"learning_rate": [1e-3]}, "learning_rate is [0.001], of the type list"),
        ({"overrides": ["optimizer.lrr=1"]}, "unknown key optimizer.lrr; did you mean optimizer.lr?"),
        ({"overrides": ["optimizer=adan"]}, "unknown option 'adan' of the group optimizer"),
        ({"overrides": ["data.fill"]}, "overrides: 'data.fill' is not of the form key=value"),
        ({"overrides": ["window=1h"]}, "overrides: window=1h: give it as the argument window"),
        ({"overrides": ["window.freq=1H"]}, "overrides: window.freq=1H: give it as the argument window"),
        ({"overrides": ["source.path=a.csv"]}, "overrides: source.path=a.csv: give it as the argument frame"),
        ({"overrides": ["model=auto"]}, "overrides: model=auto: give it as the argument model"),
        ({"overrides": ["gate.require_skill=0"]}, "gate is for kforecast-train, not for train()"),
        ({"overrides": ["trainer=ddp"]}, "trainer.devices: 2 processes; train() works in one"),
        ({"overrides": ["+trainer.gradient_clip=1"]}, "trainer.gradient_clip: unknown key"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_said_before_anything_is_trained(
    arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        kforecast.train(traffic(), WINDOW, **arguments)  # type: ignore[arg-type]
    assert words in str(raised.value)


def test_what_is_no_window_and_what_is_no_frame_is_said() -> None:
    with pytest.raises(ConfigError, match=r"window is of the type str; give Window\(freq="):
        kforecast.train(traffic(), "10min")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="the frame has no column workload, but timestamp, value, metric;"):
        kforecast.train(traffic().drop(columns="workload"), WINDOW, verbose=False)
    with pytest.raises(DataError, match="no window to train on"):
        kforecast.train(traffic().head(9), WINDOW, verbose=False)


def test_it_forecasts_from_datetimes_and_knows_its_quantiles(made: SimpleNamespace) -> None:
    history = traffic()
    forecast = made.forecaster.forecast(history, quantiles=[0.1, 0.9])
    assert list(forecast) == ["timestamp", "workload", "metric", "value", "q0.1", "q0.9", "age"]
    assert len(forecast) == 6
    assert (forecast["q0.1"] < forecast["q0.9"]).all()
    moments = history.assign(timestamp=pd.to_datetime(history["timestamp"], unit="s", utc=True))
    local = moments.assign(timestamp=moments["timestamp"].dt.tz_convert("Asia/Shanghai"))
    for same in (moments, local):
        pd.testing.assert_frame_equal(made.forecaster.forecast(same, quantiles=[0.1, 0.9]), forecast)


def test_saved_and_loaded_it_forecasts_the_same(made: SimpleNamespace, tmp_path: Path) -> None:
    made.forecaster.save(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {*TRIO, METADATA, "intervals.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    loaded = kforecast.Forecaster.load(tmp_path / "model")
    for levels in ([], [0.05, 0.5]):
        pd.testing.assert_frame_equal(
            loaded.forecast(traffic(), quantiles=levels),
            made.forecaster.forecast(traffic(), quantiles=levels),
        )
    loaded.save(tmp_path / "model")  # overwrites itself
    loaded.save(str(tmp_path / "copy"))
    for name in TRIO:
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
    text = Artifact.load(tmp_path / "model").metadata
    assert "kforecast-" not in str((text or {})["config"])  # a removed temporary folder


def test_what_cannot_be_saved_is_said(made: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")
    with pytest.raises(ConfigError, match="is a file, not a directory"):
        made.forecaster.save(tmp_path / "model")
    alone = kforecast.Forecaster(WINDOW, {}, "zero", made.forecaster.net)
    with pytest.raises(ArtifactError, match="nothing to save"):
        alone.save(tmp_path / "other")


def test_an_evaluation_is_frames_figures_and_a_report(made: SimpleNamespace, tmp_path: Path) -> None:
    found = made.forecaster.evaluate(
        traffic(), capacity={"lead_time": 60}, quantiles=[0.1, 0.5, 0.9], stride=2
    )
    assert found.board.orders.settings.lead_time == 60
    assert found.scores["model"].iloc[0] == "kforecast"
    assert set(found.scores["workload"]) == {"shop/cart", "shop/search", "*"}
    assert set(found.steps["step"]) == {1, 2, 3}
    assert found.skill.low <= found.skill.value <= found.skill.high
    assert {"origin", "step", "value", "actual", "q0.1", "q0.5", "q0.9"} <= set(found.forecasts)
    used = (made.forecaster.artifact.metadata or {})["data"]["validation_end"]
    assert found.forecasts["timestamp"].min() == used
    assert found.verdict in repr(found)
    page = found.report(tmp_path / "report")
    assert page == tmp_path / "report" / "report.html"
    assert "the trained model" in page.read_text(encoding="utf-8")
    assert set(found.figures()) == {path.stem for path in (tmp_path / "report" / "figures").iterdir()}


@pytest.mark.parametrize(
    "arguments, kind, words",
    [
        ({"start": "yesterday"}, ConfigError, "'yesterday' is not a time"),
        ({"start": START + 600, "end": START}, ConfigError, "is before the start"),
        ({"start": "2030-01-01"}, DataError, "nothing to judge"),
        ({"stride": 0}, ConfigError, "stride is 0; use a positive integer"),
        ({"quantiles": [2.0]}, ConfigError, "evaluate(): "),
        ({"capacity": {"leadtime": 60}}, ConfigError, "capacity.leadtime"),
        ({"capacity": {"lead_time": -1}}, ConfigError, "capacity.lead_time"),
    ],
    ids=str,
)
def test_a_wrong_question_is_said(
    arguments: dict[str, object], kind: type[Exception], words: str, made: SimpleNamespace
) -> None:
    with pytest.raises(kind) as raised:
        made.forecaster.evaluate(traffic(), **arguments)
    assert words in str(raised.value)
