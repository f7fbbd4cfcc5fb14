"""ForecastDataModule and ForecastModule with a plain Trainer: fit, test, predict, checkpoints, fetching."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from conftest import HANG, composed
from kforecast.config.checks import built
from kforecast.data.datamodule import ForecastDataModule
from kforecast.data.history import HISTORY
from kforecast.data.panel import Panel
from kforecast.errors import ConfigError
from kforecast.evaluation.backtest import BacktestSettings, Span
from kforecast.evaluation.scoreboard import judge
from kforecast.forecaster import Forecaster
from kforecast.models import NETWORKS
from kforecast.simulation.capacity import Capacity
from kforecast.training.module import ForecastModule
from kforecast.window import Window

# Lightning's advice on small data and folders that are there.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
WINDOW = Window("1h", 6, 3)
SOURCE = built(
    composed("source=synthetic", "source.workloads=3", "source.days=21", "source.step=3600").source, "source"
)
FRAME = SOURCE.fetch()
SMALL = {"Fcnet": {"shared_embedding": True}, "SeasonalMLP": {"members": 1, "hidden": 8}}


def trainer(folder: Path, epochs: int = 2) -> pl.Trainer:
    best = ModelCheckpoint(folder, monitor="validation/loss")
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return pl.Trainer(accelerator="cpu", max_epochs=epochs, callbacks=[best], **quiet)


@pytest.fixture(scope="module", params=("Fcnet", "SeasonalMLP"))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A trained network, its data and its trainer, and the forecaster that serves the same weights."""
    torch.manual_seed(0)
    data = ForecastDataModule(FRAME, WINDOW)
    data.setup()
    net = NETWORKS[request.param](WINDOW, data.panel.num_series, **SMALL[request.param])
    module, fitter = ForecastModule(net), trainer(tmp_path_factory.mktemp("checkpoints"))
    fitter.fit(module, datamodule=data)
    best = fitter.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    (scores,) = fitter.test(module, datamodule=data, ckpt_path="best", verbose=False)
    forecaster = Forecaster(WINDOW, data.panel.item_ids, data.fill, net.eval(), calendar=data.calendar)
    return SimpleNamespace(
        data=data, module=module, trainer=fitter, best=best, scores=scores, forecaster=forecaster
    )


def test_the_test_scores_are_those_of_an_evaluation(trained: SimpleNamespace) -> None:
    split, panel = trained.data.split, trained.data.panel
    span = Span(split.validation_end, split.end)
    board = judge(trained.forecaster, panel, span, BacktestSettings(), Capacity(), seed=0)
    expected = {f"test/{name}": value for name, value in board.model.items()}
    assert trained.scores.keys() == {*expected, "test/loss"}
    for name, value in expected.items():
        assert trained.scores[name] == pytest.approx(value, rel=1e-5), name
    assert trained.scores["test/targets"] > 100


def test_predictions_are_the_forecasts_of_the_artifact(trained: SimpleNamespace) -> None:
    made = trained.trainer.predict(trained.module, datamodule=trained.data)
    frame = trained.data.forecast_frame(made)
    expected = trained.forecaster.forecast(FRAME)
    pd.testing.assert_frame_equal(frame, expected, rtol=1e-5)
    assert len(frame) == 3 * 3


def test_predictions_and_test_scores_are_not_of_values_below_zero(trained: SimpleNamespace) -> None:
    weights = {name: value.clone() for name, value in trained.module.net.state_dict().items()}
    try:
        with torch.no_grad():
            for name, value in trained.module.net.named_parameters():
                value.sub_(50 * name.endswith(("lc.bias", "last_bias", "last.bias")))
        made = trained.trainer.predict(trained.module, datamodule=trained.data)
        assert (trained.data.forecast_frame(made)["value"] == 0).all()
        (scores,) = trained.trainer.test(trained.module, datamodule=trained.data, verbose=False)
    finally:
        trained.module.net.load_state_dict(weights)
    assert scores["test/wape"] == pytest.approx(1)


def test_a_checkpoint_is_loaded_from_plain_values_alone(trained: SimpleNamespace) -> None:
    loaded = ForecastModule.load_from_checkpoint(trained.best, weights_only=True, map_location="cpu")
    assert type(loaded.net) is type(trained.module.net)
    assert loaded.hparams == trained.module.hparams
    state = torch.load(trained.best, weights_only=True)["state_dict"]
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())


def test_training_goes_on_where_a_checkpoint_ends(tmp_path: Path) -> None:
    def fitted(epochs: int, ckpt_path: str | None = None) -> tuple[list[torch.Tensor], pl.Trainer]:
        torch.manual_seed(0)
        data = ForecastDataModule(FRAME, WINDOW)
        data.setup()
        module = ForecastModule(NETWORKS["Fcnet"](WINDOW, 3, shared_embedding=True), average_windows=500)
        fitter = trainer(tmp_path / str(epochs), epochs)
        fitter.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
        return list(module.state_dict().values()), fitter

    whole, _ = fitted(4)
    _, half = fitted(2)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fitted(4, str(tmp_path / "half.ckpt"))
    assert all(torch.equal(one, other) for one, other in zip(whole, resumed, strict=True))


class Once:
    """A source that answers differently each time."""

    repeatable: ClassVar[bool] = False

    def __init__(self) -> None:
        self.asked = 0

    def fetch(self) -> pd.DataFrame:
        self.asked += 1
        return FRAME.assign(value=FRAME["value"] + self.asked)

    def __str__(self) -> str:
        return "the server"


def test_a_source_is_fetched_once_and_kept_for_the_other_processes(tmp_path: Path) -> None:
    source = Once()
    first = ForecastDataModule(source, WINDOW, folder=tmp_path)
    for _ in range(2):
        first.prepare_data()
        first.setup("fit")
    assert source.asked == 1
    assert (tmp_path / HISTORY).is_file()
    other = ForecastDataModule(source, WINDOW, folder=tmp_path)  # in another process
    other.setup("fit")
    assert source.asked == 1
    np.testing.assert_array_equal(other.panel.values, first.panel.values)


def test_the_trainer_fetches(tmp_path: Path) -> None:
    source = Once()
    module = ForecastModule(NETWORKS["Fcnet"](WINDOW, 3, shared_embedding=True))
    trainer(tmp_path, 1).fit(module, datamodule=ForecastDataModule(source, WINDOW))
    assert source.asked == 1


def test_frame_panel_and_source_are_the_same_history() -> None:
    made = []
    for history in (FRAME, Panel.from_frame(FRAME, WINDOW.frequency), SOURCE):
        data = ForecastDataModule(history, WINDOW)
        data.prepare_data()
        data.setup("fit")
        made.append(data.panel.fingerprint())
    assert len({*made}) == 1


def test_another_network_gets_the_windows_it_needs(tmp_path: Path) -> None:
    data = ForecastDataModule(FRAME, WINDOW)
    data.setup()
    for name in ("Fcnet", "SeasonalMLP", "Fcnet"):
        module = ForecastModule(NETWORKS[name](WINDOW, 3, **SMALL[name]))
        trainer(tmp_path, 1).fit(module, datamodule=data)
        assert data.lookback == module.net.lookback


@pytest.mark.slow
def test_several_processes_train_what_one_does(tmp_path: Path) -> None:
    FRAME.to_csv(tmp_path / "traffic.csv", index=False)
    script = """
import sys
import torch
from lightning.pytorch import Trainer
from kforecast.data.datamodule import ForecastDataModule
from kforecast.metrics.csv import CsvSource
from kforecast.models import Fcnet
from kforecast.training.module import ForecastModule
from kforecast.window import Window

window, devices = Window("1h", 6, 3), int(sys.argv[1])
torch.manual_seed(0)
torch.set_num_threads(1)
data = ForecastDataModule(CsvSource("traffic.csv", memory_map=False), window)
module = ForecastModule(Fcnet(window, 3, shared_embedding=True))
quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
how = dict(devices=devices, strategy="ddp") if devices > 1 else {}
trainer = Trainer(accelerator="cpu", max_epochs=2, **quiet, **how)
trainer.fit(module, datamodule=data)
if trainer.is_global_zero:
    print("loss", float(trainer.callback_metrics["validation/loss"]))
"""
    losses = []
    for devices in (1, 2):
        (tmp_path / "script.py").write_text(script)
        command = [sys.executable, "script.py", str(devices)]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG, check=False
        )
        assert done.returncode == 0, done.stderr
        losses.append(float(done.stdout.splitlines()[-1].partition("loss ")[2]))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_without_a_test_part_there_is_nothing_to_test(tmp_path: Path) -> None:
    module = ForecastModule(NETWORKS["Fcnet"](WINDOW, 3, shared_embedding=True))
    tester = trainer(tmp_path)
    assert tester.test(module, datamodule=ForecastDataModule(FRAME, WINDOW, test=0), verbose=False) == []
    tester.save_checkpoint(tmp_path / "untrained.ckpt")
    ForecastModule.load_from_checkpoint(tmp_path / "untrained.ckpt", weights_only=True)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("traffic.csv", WINDOW), "source is of the type str; give a frame"),
        ((FRAME, "1h"), "window is of the type str"),
        ((FRAME, WINDOW, {"batch_size": 0}), "batch_size is 0; at least 1"),
        ((FRAME, WINDOW, {"fill": "mean"}), "fill is 'mean'; use one of interpolate"),
        ((FRAME, WINDOW, {"test": 0.95}), "validation [+] test is 1.05"),
    ],
)
def test_wrong_arguments_of_the_data_module_are_refused(arguments: tuple[Any, ...], said: str) -> None:
    source, window, *others = arguments
    with pytest.raises(ConfigError, match=said):
        ForecastDataModule(source, window, **(others[0] if others else {}))
