"""SeasonalMLP trained for seconds on synthetic traffic: skill, unknown series, clock changes."""

import functools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from conftest import run_command, tensors_of
from kforecast.data.datamodule import ForecastDataModule
from kforecast.data.loader import BatchOrder, window_loader
from kforecast.data.origins import Cells
from kforecast.data.panel import Panel
from kforecast.data.windows import Past, WindowBatch, WindowDataset
from kforecast.forecaster import Forecaster
from kforecast.metrics.synthetic import SyntheticSource
from kforecast.models import SeasonalMLP
from kforecast.training.gradients.automatic import AutomaticGradient, Chunk, FlatParameters
from kforecast.training.module import ForecastModule
from kforecast.window import Frequency, Window

WINDOW = Window(Frequency.parse("1H"), 12, 6)
START = 1_704_067_200  # 2024-01-01
Maker = Callable[[Panel, np.ndarray, np.ndarray], np.ndarray]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """One thread, because synchronization slows down tiny networks on busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def traffic(
    workloads: int, days: int, start: int = START, noise: float = 0.08, timezone: str = "UTC"
) -> Panel:
    source = SyntheticSource(
        workloads=workloads,
        days=days,
        step=3600,
        start=start,
        hourly=0.25,
        weekend=0.6,
        trend=0.2,
        noise=noise,
        spikes=0.3 if noise > 0.05 else 0.0,
        gaps=0.0,
        seed=0,
        timezone=timezone,
    )
    return Panel.from_frame(source.fetch(), WINDOW.frequency)


def network(num_series: int, **settings: float) -> SeasonalMLP:
    torch.manual_seed(0)
    return SeasonalMLP(WINDOW, num_series, **({"members": 2, "hidden": 32} | settings))


def trainer(epochs: int, *callbacks: pl.Callback, **settings: object) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def trained(
    panel: Panel, test: float, epochs: int = 5, most: int | None = None, timezone: str = "UTC"
) -> tuple[Forecaster, int]:
    """A forecaster, and the bin where its training data end."""
    net = network(panel.num_series)
    data = ForecastDataModule(
        panel,
        WINDOW,
        batch_size=128,
        num_workers=0,
        fill="interpolate",
        mask_gaps=True,
        validation=0.0,
        test=test,
        max_missing=0.5,
        skip_zero_context=True,
        skip_newest_window=False,
        windows_per_epoch=most,
        timezone=timezone,
        lookback=net.lookback,
    )
    optimizer = functools.partial(torch.optim.AdamW, lr=0.004, weight_decay=0.001)
    trainer(epochs).fit(ForecastModule(net, optimizer, 128, 0.5, schedule="cosine"), data)
    forecaster = Forecaster(WINDOW, panel.item_ids, "interpolate", net.eval(), calendar=data.calendar)
    return forecaster, data.split.train_end


def errors(make: Maker, panel: Panel, begin: int, stop: int) -> np.ndarray:
    """The mean error of the forecasts from each origin over all series, relative to their means."""
    origin = np.arange(begin, stop - WINDOW.prediction_length + 1)
    at = origin[:, None] + np.arange(WINDOW.prediction_length)
    found = []
    for row, values in enumerate(panel.values):
        error = np.abs(make(panel, np.full(len(origin), row), origin) - values[at])
        found.append(error.mean(axis=1) / values.mean())
    result: np.ndarray = np.mean(found, axis=0)
    return result


def forecasts(forecaster: Forecaster) -> Maker:
    return lambda panel, series, origin: forecaster.forecast_windows(panel, series, origin).values


def last_value(panel: Panel, series: np.ndarray, origin: np.ndarray) -> np.ndarray:
    value: np.ndarray = panel.values[series, origin - 1][:, None]
    return value


def yesterday(panel: Panel, series: np.ndarray, origin: np.ndarray) -> np.ndarray:
    value: np.ndarray = panel.values[
        series[:, None], origin[:, None] + np.arange(WINDOW.prediction_length) - 24
    ]
    return value


def test_seconds_of_training_are_better_than_any_simple_forecast() -> None:
    panel = traffic(3, 56)
    forecaster, end = trained(panel, test=0.2)
    own, last, day = (
        errors(make, panel, end, panel.num_bins).mean()
        for make in (forecasts(forecaster), last_value, yesterday)
    )
    assert own < 0.3 * last
    assert own < 0.6 * day


@pytest.mark.parametrize(
    "left_out", [pytest.param(0, marks=pytest.mark.slow), 2, pytest.param(5, marks=pytest.mark.slow)]
)
def test_a_workload_that_was_left_out_is_forecast_nearly_as_well(left_out: int) -> None:
    panel = traffic(6, 56)
    rest, alone = panel.rows([row for row in range(6) if row != left_out]), panel.rows([left_out])
    whole, end = trained(panel, test=0.2)
    partly, _ = trained(rest, test=0.2)
    assert alone.series[0] not in rest.series
    known, unknown, day = (
        errors(make, alone, end, panel.num_bins).mean()
        for make in (forecasts(whole), forecasts(partly), yesterday)
    )
    assert unknown < 1.3 * known
    assert unknown < day


CHANGES = {
    "clocks go back": (START, 0.25, 1_729_990_800),  # 2024-10-27 01:00 UTC
    "clocks go forward": (1_688_169_600, 0.4, 1_711_846_800),  # 2024-03-31 01:00 UTC
}


@pytest.mark.slow
@pytest.mark.parametrize("start, test, change", CHANGES.values(), ids=CHANGES)
def test_the_week_in_which_clocks_change_is_like_any_other_where_the_time_zone_is_known(
    start: int, test: float, change: int
) -> None:
    """The peaks follow local time, which the network learns from the half year before."""
    panel = traffic(3, 366, start, noise=0.04, timezone="Europe/Berlin")
    ratio = {}
    for timezone in ("Europe/Berlin", "UTC"):
        forecaster, end = trained(panel, test, epochs=4, most=10_000, timezone=timezone)
        error = errors(forecasts(forecaster), panel, end, panel.num_bins)
        first = (change - start) // 3600 - end
        weeks = {week: error[first + 168 * week :][:168].mean() for week in range(-3, 9)}
        others = [value for week, value in weeks.items() if week != 0]
        ratio[timezone] = weeks[0] / np.mean(others)
    assert ratio["Europe/Berlin"] < 1.1
    assert ratio["UTC"] > 1.3


@pytest.mark.parametrize("timezone, low, high", [("Europe/Berlin", 0.0, 1.15), ("UTC", 1.3, 9.0)])
def test_the_week_in_which_clocks_go_forward_shows_whether_the_time_zone_is_known(
    timezone: str, low: float, high: float
) -> None:
    """The same on a small scale: eight weeks of training, and the six weeks after."""
    change = CHANGES["clocks go forward"][2]
    start = change - 3600 - 56 * 86_400
    panel = traffic(2, 98, start, noise=0.02, timezone="Europe/Berlin")
    forecaster, end = trained(panel, 0.4286, epochs=5, most=4_000, timezone=timezone)
    error = errors(forecasts(forecaster), panel, end, panel.num_bins)
    first = (change - start) // 3600 - end
    weeks = [error[first + 168 * week :][:168].mean() for week in range(5)]
    assert low < weeks[0] / np.mean(weeks[1:]) < high


# Gradient and schedule


def part_of(batch: WindowBatch, begin: int, stop: int) -> WindowBatch:
    *parts, r, ro, s, so, a, m = (part[begin:stop] for part in tensors_of(batch))
    return WindowBatch(*parts, Past(r, ro, s, so, a, m))


def windows_of(panel: Panel, net: SeasonalMLP) -> tuple[WindowDataset, torch.Tensor]:
    origins = torch.arange(12, panel.num_bins - 6 + 1)
    cells = (torch.arange(panel.num_series)[:, None] * panel.num_bins + origins).flatten()
    return WindowDataset(panel, WINDOW, "zero", lookback=net.lookback), cells


@pytest.mark.parametrize("size", [1, 7, 32, 1000])
def test_the_gradient_of_every_batch_is_that_of_its_loss(size: int) -> None:
    panel = traffic(2, 20)
    panel.observed[:, 100:150:3] = False
    panel.values[1, :200] = 0  # these windows have no scale
    net = network(2)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    windows, cells = windows_of(panel, net)
    batch = windows[cells[torch.randperm(len(cells))[:50]]]
    module = ForecastModule(net.eval(), functools.partial(torch.optim.SGD, lr=0.0), size)
    parameters = FlatParameters(net)
    gradient, chunk = AutomaticGradient(net), Chunk(net, batch, size)
    gradient.begin(chunk)
    found = []
    for begin, stop in chunk.bounds:
        parameters.gradient.zero_()
        gradient.add(begin, stop)
        found.append(parameters.gradient.clone())
    for number, (begin, stop) in enumerate(chunk.bounds):
        loss = module.loss(part_of(batch, begin, stop))
        expected = torch.autograd.grad(loss, list(net.parameters()))
        flat = torch.cat([one.flatten() for one in expected])
        torch.testing.assert_close(found[number], flat, rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(chunk.losses()[number], loss.detach(), rtol=1e-5, atol=1e-6)
    assert len(found) == -(-50 // size)


class Rates(pl.Callback):
    """Records the learning rate at the last step of each iteration of Lightning's loop."""

    def __init__(self) -> None:
        self.seen: dict[int, float] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        self.seen[trainer.global_step - 1] = trainer.optimizers[0].param_groups[0]["lr"]


def rates(
    epochs: int,
    batches: int,
    at_once: int = 1,
    schedule: str = "cosine",
    whole: int | None = None,
    **limits: int,
) -> dict[int, float]:
    """Learning rates by step in a training with batches of 2 windows."""
    net, panel = network(1, members=1, hidden=2), traffic(1, 12)
    windows, cells = windows_of(panel, net)
    order = BatchOrder(
        Cells(cells[: 2 * batches].numpy(), np.ones(2 * batches, np.int64)), 2, 0, at_once=at_once
    )
    loader: DataLoader[WindowBatch] = window_loader(windows, order)
    kept = Rates()
    module = ForecastModule(
        net, functools.partial(torch.optim.SGD, lr=0.5), 2, schedule=schedule, schedule_epochs=whole
    )
    trainer(epochs, kept, **limits).fit(module, loader)
    return kept.seen


def cosine(step: int, steps: int) -> float:
    return 0.5 * (0.5 + 0.5 * math.cos(math.pi * step / steps)) * min(1.0, (step + 1) / 100)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("at_once, limits", [(1, {}), (3, {}), (1, {"limit_train_batches": 70})])
def test_the_rate_goes_up_for_a_hundred_steps_and_down_to_nothing(
    at_once: int, limits: dict[str, int]
) -> None:
    batches, epochs = 100, 3
    seen = rates(epochs, batches, at_once, **limits)
    steps = epochs * limits.get("limit_train_batches", batches)
    assert max(seen) == steps - 1
    assert seen == pytest.approx({step: cosine(step, steps) for step in seen})
    assert len(seen) == (steps if at_once == 1 else 34 * epochs)
    assert seen[min(seen)] <= 0.5 * at_once / 100
    assert seen[steps - 1] < 0.5 * 0.0001
    if at_once == 1:
        assert max(seen, key=seen.__getitem__) == pytest.approx(99, abs=15)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_linear_rate_falls_by_the_same_amount_at_every_step() -> None:
    seen = rates(3, 100, schedule="linear")
    assert seen == pytest.approx({step: 0.5 * (1 - step / 300) for step in range(300)})


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_training_that_stops_earlier_keeps_to_the_schedule_of_the_whole() -> None:
    whole, part = rates(4, 50), rates(2, 50, whole=4)
    assert part == {step: whole[step] for step in range(100)}
    assert part[99] > 0.2


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_without_a_schedule_the_rate_stays() -> None:
    assert set(rates(2, 10, schedule="constant").values()) == {0.5}


def test_auto_leaves_traffic_that_nothing_predicts_to_the_naive_forecasts(tmp_path: Path) -> None:
    """A random walk: nothing beats the last value, and model=auto must not be worse."""
    random = np.random.default_rng(5)
    rows = [
        (START + 3600 * n, max(float(value), 0.0), f"walk-{number}", "qps")
        for number in range(3)
        for n, value in enumerate(1000 + np.cumsum(random.normal(size=900)))
    ]
    file = tmp_path / "walks.csv"
    pd.DataFrame(rows, columns=["timestamp", "value", "workload", "metric"]).to_csv(file, index=False)
    done = run_command(
        "kforecast-train",
        f"--dataset-file={file}",
        *("model=auto", "window=1h", "logger=none", "trainer.max_epochs=3", "refit=false"),
        *("model.hidden=8", "model.members=1", "artifact_dir=model", "hydra.run.dir=run"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "run" / "evaluation" / "report.json").read_text())
    best = min(scores["mae"] for scores in report["baselines"].values())
    assert report["overall"]["mae"] <= 1.02 * best
