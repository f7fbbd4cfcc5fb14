"""From windows to a trained network, against the plain reference."""

import functools
import math
import statistics
import tempfile
import time
from collections.abc import Callable

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmark_stages.reference import PlainWindows, held_out_error, plain_rate, plain_step
from benchmark_stages.rows import Row, alternately, median_seconds, seconds
from kforecast.data.datamodule import ForecastDataModule
from kforecast.data.loader import BatchOrder
from kforecast.data.panel import Panel
from kforecast.data.windows import WindowBatch, WindowDataset
from kforecast.metrics.synthetic import SyntheticSource
from kforecast.models.fcnet import Fcnet
from kforecast.training.distributed.threads import choose_threads
from kforecast.training.gradients.automatic import Chunk, FlatParameters
from kforecast.training.gradients.fcnet import FcnetGradient
from kforecast.training.module import ForecastModule
from kforecast.window import Frequency, Window

WINDOW = Window(Frequency.parse("10min"), context_length=7, prediction_length=3)
BATCH_SIZES = (32, 1024, 16_384)
CORES = torch.get_num_threads()
TRAFFIC = {"days": 14, "step": 60, "start": 1_704_067_200, "seed": 0, "hourly": 0.25, "weekend": 0.6}
TRAFFIC |= {"trend": 0.2, "noise": 0.08, "spikes": 1.5, "gaps": 0.0}
SPLIT = {"fill": "interpolate", "mask_gaps": True, "test": 0.0, "max_missing": 0.5}
SPLIT |= {"skip_zero_context": True, "skip_newest_window": False}


def traffic(series: int) -> Panel:
    """Two weeks of built-in traffic at 10min, without gaps."""
    return Panel.from_frame(SyntheticSource(workloads=series, **TRAFFIC).fetch(), WINDOW.frequency)


def every_window(panel: Panel, validation: float = 0.0) -> ForecastDataModule:
    data = ForecastDataModule(panel, WINDOW, batch_size=32, validation=validation, seed=0, **SPLIT)
    data.setup("fit")
    return data


def windows() -> list[Row]:
    """Windows per second of the window engine, on one core."""
    torch.set_num_threads(1)
    rows = []
    for name, gaps in (("without gaps", 0.0), ("1 % of the bins missing", 0.01)):
        panel = random_panel(20, 2016, gaps)
        data = every_window(panel)
        order = BatchOrder(data.split.train, 4096, seed=0)
        plain = DataLoader(PlainWindows(panel, WINDOW, 0, panel.num_bins), 4096, shuffle=True)

        def ours(order: BatchOrder = order, windows: WindowDataset = data.windows) -> int:
            return sum(len(windows[cells].context) for cells in order)

        def one_by_one(plain: DataLoader = plain) -> int:
            return sum(len(batch["context"]) for batch in plain)

        rate = len(data.split.train) / median_seconds(ours, repeats=20)
        other = len(plain.dataset) / median_seconds(one_by_one, repeats=3, warm_up=0)
        rows.append(
            Row(
                f"window engine, batches of 4,096, one core, {name}",
                f"{rate / 1e6:.1f} million windows/s",
                f"{other / 1e6:.3f} million",
                f"{rate / other:.0f} x",
                ">= 5 million" if not gaps else "",
            )
        )
    return rows


def step() -> list[Row]:
    """A training step, against automatic differentiation and against the matrix products alone."""
    rows = []
    for batch_size in (32, 64, 256, 1024, 4096, 16_384):
        threads = choose_threads("auto", batch_size)
        batch = _random_batch(max(batch_size, 4096))  # as training hands them out
        times = alternately(
            {
                "ours": _our_steps(batch, batch_size),
                "plain": _plain_steps(batch, batch_size),
                "products": _products(batch_size, repeats=max(1, 4096 // batch_size)),
            },
            repeats=9,
        )
        rates = {name: len(batch.context) / found for name, found in times.items()}
        share = rates["ours"] / rates["products"]
        rows.append(
            Row(
                f"training step, batch {batch_size:,}, threads {threads}",
                f"{rates['ours']:,.0f} windows/s",
                f"plain step {rates['plain']:,.0f}; matrix products alone {rates['products']:,.0f}",
                f"{rates['ours'] / rates['plain']:.1f} x; {share:.0%} of the products",
                ">= 60 % of the products" if batch_size >= 1024 else "",
            )
        )
    return rows


def epoch() -> list[Row]:
    """Whole epochs: kforecast through Lightning, the same maths in a bare loop, and the reference."""
    panel = traffic(100)
    rows = []
    for batch_size in BATCH_SIZES:
        torch.set_num_threads(CORES)  # the default of a plain script
        plain = PlainWindows(panel, WINDOW, 0, panel.num_bins)
        other = plain_rate(Fcnet(WINDOW, panel.num_series, True), plain, batch_size, most_seconds=8)
        threads = choose_threads("auto", batch_size)
        data = every_window(panel)
        data.batch_size = batch_size
        bare, ours = [], []
        for _ in range(6):  # in turns
            bare += [_seconds_of_epoch(data), _seconds_of_epoch(data)]
            ours += _lightning_epochs(data, epochs=3)[1:]
        rate = len(data.split.train) / statistics.median(ours)
        bare_rate = len(data.split.train) / statistics.median(bare)
        rows += [
            Row(
                f"training epoch, batch {batch_size:,}, threads {threads}",
                f"{rate:,.0f} windows/s",
                f"{other:,.0f}",
                f"{rate / other:.1f} x",
                ">= 3 x, aim 5 x" if batch_size == 32 else ">= 5 x",
            ),
            Row(
                f"Lightning's share, batch {batch_size:,}: epoch against a bare loop",
                f"{1e6 * batch_size / rate:,.0f} us a step",
                f"{1e6 * batch_size / bare_rate:,.0f} us",
                f"{bare_rate / rate:.3f} x",
                "<= 1.3 x" if batch_size == 32 else "<= 1.05 x",
            ),
        ]
    return rows


def quality() -> list[Row]:
    """Time until the held-out error of the reference's full recipe is reached."""
    panel = traffic(20)
    data = every_window(panel, validation=0.2)
    begin = data.split.train_end
    held_out = _as_dictionary(data.windows[torch.from_numpy(np.asarray(data.split.validation))])
    torch.set_num_threads(CORES)
    torch.manual_seed(0)
    net = Fcnet(WINDOW, panel.num_series, True)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    loader = DataLoader(PlainWindows(panel, WINDOW, 0, begin), 32, shuffle=True)
    best_loss, wait, spent = math.inf, 0, 0.0
    finished, curve = math.nan, []
    for _ in range(100):
        begun = time.perf_counter()
        loss = statistics.fmean(plain_step(net, optimizer, batch) for batch in loader)
        spent += time.perf_counter() - begun
        curve.append((spent, held_out_error(net, held_out)))
        wait = 0 if loss < best_loss else wait + 1
        if loss < best_loss:
            best_loss, finished = loss, curve[-1][1]
        if wait == 15:
            break
    at_best = min(curve, key=lambda point: point[1])
    ours = _our_curve(panel, begin, held_out)
    rows = []
    for name, (took, wanted), target in (
        ("what its full recipe ends with", (spent, finished), ">= 20 x"),
        ("its best epoch, had it watched held-out windows", at_best, ""),
    ):
        reached = next((at for at, error in ours if error <= wanted), math.nan)
        rows.append(
            Row(
                f"time to quality, 20 series x 14 days: to {wanted:.5f}, {name}",
                f"{reached:.1f} s",
                f"{took:.0f} s ({len(curve)} epochs)",
                f"{took / reached:.0f} x",
                target,
            )
        )
    best = min(error for _, error in ours)
    rows.append(Row("the same, best of either", f"{best:.5f} in {ours[-1][0]:.1f} s", f"{at_best[1]:.5f}"))
    return rows


class _Watch(pl.Callback):
    """Return the end of each epoch and its held-out error; the time for this error is not counted."""

    def __init__(self, held_out: dict[str, Tensor]) -> None:
        self.held_out, self.seconds, self.curve = held_out, 0.0, []

    def on_train_start(self, trainer: pl.Trainer, pl_module: ForecastModule) -> None:
        self.begun = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: ForecastModule) -> None:
        self.seconds += time.perf_counter() - self.begun
        self.curve.append((self.seconds, held_out_error(pl_module.net, self.held_out)))
        self.begun = time.perf_counter()


def _our_curve(panel: Panel, begin: int, held_out: dict[str, Tensor]) -> list[tuple[float, float]]:
    """Return seconds and held-out error after each epoch of the default recipe, validation included."""
    from hydra import compose, initialize_config_dir

    from kforecast.config.checks import CONF_DIR, built

    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", ["source=synthetic", "data.validation=0.2", "data.test=0"])
    torch.manual_seed(0)
    data = built(cfg.data, "data", source=panel, window=WINDOW, seed=0)
    data.setup("fit")
    assert data.split.train_end == begin
    choose_threads("auto", data.batch_size)
    watch = _Watch(held_out)
    net = Fcnet(WINDOW, panel.num_series, True)
    module = ForecastModule(
        net, built_partial(cfg.optimizer), data.batch_size, average_windows=cfg.average_windows
    )
    with tempfile.TemporaryDirectory() as folder:
        _trainer(folder, [watch], max_epochs=60).fit(module, datamodule=data)
    return watch.curve


def built_partial(node: object) -> Callable[..., torch.optim.Optimizer]:
    from hydra.utils import instantiate

    made: Callable[..., torch.optim.Optimizer] = instantiate(node)
    return made


class _Ticks(pl.Callback):
    """Records the start of each epoch and the end of the last one."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.moments.append(time.perf_counter())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.moments.append(time.perf_counter())


def _lightning_epochs(data: ForecastDataModule, epochs: int) -> list[float]:
    """Return the seconds of each epoch with the default callbacks and TensorBoard, checkpoints included."""
    ticks = _Ticks()
    torch.manual_seed(0)
    make = functools.partial(torch.optim.Adam, lr=0.001, fused=True)
    module = ForecastModule(Fcnet(WINDOW, data.panel.num_series, True), make, data.batch_size)
    with tempfile.TemporaryDirectory() as folder:
        _trainer(folder, [ticks], max_epochs=epochs).fit(module, datamodule=data)
    return [float(length) for length in np.diff(ticks.moments)]


def _trainer(folder: str, callbacks: list[pl.Callback], max_epochs: int) -> pl.Trainer:
    from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
    from lightning.pytorch.loggers import TensorBoardLogger

    from kforecast.training.callbacks import EpochLog

    callbacks = [
        EarlyStopping("train/loss", patience=15),
        ModelCheckpoint(folder, "best", monitor="train/loss", save_last=True, enable_version_counter=False),
        EpochLog(),
        *callbacks,
    ]
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=max_epochs,
        callbacks=callbacks,
        logger=TensorBoardLogger(folder, ""),
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _seconds_of_epoch(data: ForecastDataModule) -> float:
    return seconds(lambda: train_epoch(data))


def train_epoch(data: ForecastDataModule) -> None:
    """Run an epoch of the same maths over the same window engine, without Lightning."""
    train = _trained_on(data.panel.num_series)
    for cells in data.train_dataloader().sampler:
        train(data.windows[cells], data.batch_size)


def _trained_on(num_series: int) -> Callable[[WindowBatch, int], None]:
    """Trains its own network on windows, in batches of a given size."""
    torch.manual_seed(0)
    net = Fcnet(WINDOW, num_series, True)
    parameters = FlatParameters(net)
    gradient = FcnetGradient(net, parameters)
    optimizer = torch.optim.Adam([parameters.values], lr=0.001, fused=True)

    def train(windows: WindowBatch, batch_size: int) -> None:
        chunk = Chunk(net, windows, batch_size)
        gradient.begin(chunk)
        for begin, stop in chunk.bounds:
            parameters.gradient.zero_()
            gradient.add(begin, stop)
            optimizer.step()
        chunk.losses()

    return train


def _our_steps(batch: WindowBatch, batch_size: int) -> Callable[[], None]:
    train = _trained_on(20)
    return lambda: train(batch, batch_size)


def _plain_steps(batch: WindowBatch, batch_size: int) -> Callable[[], None]:
    net = Fcnet(WINDOW, 20, True)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)
    parts = [
        WindowBatch(*part)._asdict() for part in zip(*(t.split(batch_size) for t in batch[:5]), strict=True)
    ]

    def work() -> None:
        for part in parts:
            plain_step(net, optimizer, part)

    return work


def _products(batch_size: int, repeats: int) -> Callable[[], None]:
    """The matrix products of a step, forwards and backwards, into preallocated tensors."""
    features, horizon = 7 * (4 + 4 * 4), 3
    hidden = features // 2
    z, h = torch.rand(batch_size, features), torch.rand(batch_size, hidden)
    squeeze, excite = torch.rand(hidden, features), torch.rand(features, hidden)
    read_out, error = torch.rand(horizon, features), torch.rand(batch_size, horizon)
    by_z, by_h = torch.empty_like(z), torch.empty_like(h)
    by_squeeze, by_excite = torch.empty_like(squeeze), torch.empty_like(excite)

    def work() -> None:
        for _ in range(repeats):
            for _ in range(4):
                torch.mm(z, squeeze.t(), out=by_h)
                torch.mm(h, excite.t(), out=by_z)
                torch.mm(z.t(), h, out=by_excite)
                torch.mm(z, excite, out=by_h)
                torch.mm(h.t(), z, out=by_squeeze)
                torch.mm(h, squeeze, out=by_z)
            torch.mm(z, read_out.t())
            torch.mm(error.t(), z)
            torch.mm(error, read_out, out=by_z)

    return work


def random_panel(series: int, bins: int, gaps: float) -> Panel:
    rng = np.random.default_rng(0)
    observed = rng.random((series, bins)) >= gaps
    values = np.where(observed, rng.uniform(1, 9, (series, bins)), 0).astype(np.float32)
    names = tuple((f"w{number:05}", "qps") for number in range(series))
    return Panel(values, observed, 1_704_067_200, WINDOW.frequency, names)


def _random_batch(count: int) -> WindowBatch:
    panel = random_panel(20, 2016, 0.0)
    data = every_window(panel)
    chosen = np.random.default_rng(0).integers(0, len(data.split.train), count)
    return data.windows[torch.from_numpy(data.split.train[chosen])]


def _as_dictionary(batch: WindowBatch) -> dict[str, Tensor]:
    return batch._asdict()
