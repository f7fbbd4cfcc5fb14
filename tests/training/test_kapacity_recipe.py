"""``experiment=kapacity``, compared with the original recipe: reimplemented here, and recorded elsewhere."""

import re
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from conftest import run_command, tensors_of
from kforecast.config.checks import CONF_DIR
from kforecast.data.datamodule import ForecastDataModule
from kforecast.data.panel import Panel
from kforecast.data.windows import WindowBatch
from kforecast.models.fcnet import Fcnet
from kforecast.training.callbacks import EpochLog
from kforecast.training.module import ForecastModule
from kforecast.window import Frequency, Window

SHARED = Path(__file__).parents[3] / "shared"
WINDOW = Window(Frequency.parse("1H"), 5, 2)


def panel_with_gaps() -> Panel:
    rng = np.random.default_rng(1)
    time = np.arange(90)
    frames = []
    for name, level in (("a", 10.0), ("b", 200.0)):
        rows = pd.DataFrame({"timestamp": 3600 * time, "value": level * (1.2 + np.sin(time / 4))})
        frames.append(rows[rng.random(90) > 0.1].assign(workload=name, metric="qps"))
    return Panel.from_frame(pd.concat(frames), WINDOW.frequency)


def test_the_recipe_is_the_original_one_step_by_step(caplog: pytest.LogCaptureFixture) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", ["experiment=kapacity", "source=synthetic"])
    panel = panel_with_gaps()
    data: ForecastDataModule = instantiate(cfg.data, _partial_=True)(source=panel, window=WINDOW, seed=3)
    data.setup("fit")
    make_optimizer = instantiate(cfg.optimizer)
    torch.manual_seed(0)
    net: Fcnet = instantiate(cfg.model, window=WINDOW, num_series=panel.num_series)
    plain_net = Fcnet(WINDOW, panel.num_series)
    plain_net.load_state_dict(net.state_dict())

    # The original: gaps are zeros, and all windows are used except in the newest context + horizon bins.
    series = np.where(panel.observed, panel.values, 0)[:, : panel.num_bins - WINDOW.length]
    starts = [(row, t) for row in range(2) for t in range(series.shape[1] - WINDOW.length + 1)]
    optimizer = torch.optim.Adam(plain_net.parameters(), lr=0.001)
    losses = []
    loader = data.train_dataloader()
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        trained, batch_losses = [], []
        for batch in (part for chunk in loader for part in _batches(chunk, data.batch_size)):
            rows = batch.series.tolist()
            begins = [
                _find(series[row], context) for row, context in zip(rows, batch.context.numpy(), strict=True)
            ]
            trained += list(zip(rows, begins, strict=True))
            windows = np.stack([series[r, b : b + WINDOW.length] for r, b in zip(rows, begins, strict=True)])
            context = torch.from_numpy(windows[:, : WINDOW.context_length]).float()
            target = torch.from_numpy(windows[:, WINDOW.context_length :]).float()
            scale = context.abs().mean(1, keepdim=True).clamp_min(1e-10)
            loss = (plain_net(context / scale, batch.calendar, batch.series) - target / scale).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            batch_losses.append(loss.item())
        assert sorted(trained) == starts
        assert len(batch_losses) == -(-len(starts) // 32)
        losses.append(float(np.mean(batch_losses)))

    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[EpochLog()],
    )
    caplog.set_level("INFO", "kforecast")
    trainer.fit(ForecastModule(net, make_optimizer, data.batch_size), datamodule=data)
    logged = [float(match) for match in re.findall(r"Train Loss: ([\d.]+)", caplog.text)]
    np.testing.assert_allclose(logged, losses, rtol=1e-5)
    for name, value in plain_net.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-4, atol=1e-6)


def _batches(chunk: WindowBatch, size: int) -> list[WindowBatch]:
    """The batches in a chunk of windows."""
    parts = zip(*(part.split(size) for part in tensors_of(chunk)), strict=True)
    return [WindowBatch(*batch) for batch in parts]


def _find(values: np.ndarray, context: np.ndarray) -> int:
    """The position of a context in its series."""
    view = np.lib.stride_tricks.sliding_window_view(values, len(context))
    (begins,) = np.nonzero((view == context).all(axis=1))
    assert len(begins) == 1
    return int(begins[0])


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="the recordings are not part of the project")
@pytest.mark.parametrize(
    "dataset, window, epochs", [("wikipedia_pages_1D", "1d", 12), ("cloudcluster_cpu_10min", "10min", 8)]
)
def test_mean_curve_lies_within_two_percent_of_the_originals(
    tmp_path: Path, dataset: str, window: str, epochs: int
) -> None:
    curves = []
    for seed in range(3):
        done = run_command(
            "kforecast-train",
            "experiment=kapacity",
            f"source.path={SHARED / 'data' / dataset}.csv.gz",
            f"window={window}",
            f"seed={seed}",
            f"trainer.max_epochs={epochs}",
            "logger=none",
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        curves.append([float(loss) for loss in re.findall(r"Train Loss: ([\d.]+)", done.stdout)])
    golden = pd.read_csv(SHARED / "golden" / "training_curves.csv")
    golden = golden[golden["dataset"] == dataset].groupby("epoch")["train_loss"].mean()
    np.testing.assert_allclose(np.mean(curves, axis=0)[2:], golden[2:], rtol=0.02)
