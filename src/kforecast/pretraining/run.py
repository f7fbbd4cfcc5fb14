"""``scripts/pretrain.py``: makes the weights from generated traffic and, if wanted, recordings.

It goes on where it was interrupted. At the end it writes pretrained.pth and prints its SHA-256, which
``kforecast.models.pretrained`` names. Recordings are gzip CSV files timestamp,value,workload,metric whose
names end in their frequency (shop_10min.csv.gz); those that are not named by ``--train-on`` judge only.
"""

import argparse
import hashlib
import io
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kforecast.data.panel import Panel
from kforecast.models.pretrained import LONGEST, OFFSETS, WEIGHTS, TrafficNet
from kforecast.pretraining.samples import Samples, generated, samples_of
from kforecast.pretraining.training import VALIDATION_SEED, Pretraining, Schedule, judged, offsets_of
from kforecast.window import Frequency

# Windows of a recording, and its newest days that are used.
_WINDOWS, _DAYS = 30_000, 120
_WINDOWS_TO_JUDGE = 3_000


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description="Make the weights that come with the package.")
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/pretrained"), help="where state, log and weights go"
    )
    parser.add_argument(
        "--shards", type=int, default=100, help="shards of some 310,000 samples; each is seen once"
    )
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--members", type=int, default=2, help="MLPs whose outputs are averaged")
    parser.add_argument("--hidden", type=int, default=192, help="width of their layers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--recordings", type=Path, help="folder of recordings that judge")
    parser.add_argument("--train-on", nargs="*", default=[], help="names of recordings to train on as well")
    parser.add_argument("--share", type=float, default=0.3, help="share of the samples from recordings")
    parser.add_argument("--finish", action="store_true", help="write the weights as they are")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    held_out: list[Samples] = []
    trained_on: list[Samples] = []
    for file in sorted(options.recordings.glob("*.csv.gz")) if options.recordings else []:
        name = file.name.removesuffix(".csv.gz")
        rng = np.random.default_rng([options.seed, 2, len(held_out) + len(trained_on)])
        chosen = name in options.train_on
        panel = recording(file)
        if panel.num_series and panel.num_bins > 2 * LONGEST:
            count = _WINDOWS if chosen else _WINDOWS_TO_JUDGE
            (trained_on if chosen else held_out).extend(samples_of(panel, count, rng))
    validation = generated(VALIDATION_SEED)
    recorded = Samples.joined(held_out) if held_out else None
    net = TrafficNet(options.members, options.hidden)
    schedule = Schedule(options.shards, seed=options.seed)
    extra = Samples.joined(trained_on) if trained_on else None
    print(f"{sum(weight.numel() for weight in net.parameters()):,} weights, {schedule}", flush=True)

    def judge(average: TrafficNet) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, samples in (("validation", validation), ("recorded", recorded)):
            if samples is not None:
                loss, error = judged(average, samples)
                found |= {f"{name}_loss": round(loss, 4), f"{name}_error": round(error, 4)}
        return found

    training = Pretraining(options.out, schedule, net, extra, options.share)
    if not options.finish:
        training.run(judge, lambda line: print(line, flush=True))
    digest = write(training.average, offsets_of(training.average, validation), options.out / WEIGHTS)
    print(f"{options.out / WEIGHTS}: sha256 {digest}, after {training.shard} shards")


def recording(file: Path) -> Panel:
    """A recording as a panel; each series is moved by whole weeks so that all end in the same week."""
    frequency = Frequency.parse(file.name.removesuffix(".csv.gz").rsplit("_", 1)[1])
    rows = pd.read_csv(file)
    rows["bin"] = rows["timestamp"] // frequency.step
    wide = rows.groupby(["workload", "metric", "bin"])["value"].mean().unstack("bin")
    first, last = int(wide.columns.min()), int(wide.columns.max())
    wide = wide.reindex(columns=range(first, last + 1))
    values = wide.to_numpy(np.float32, copy=True)
    for row in values:
        known = np.flatnonzero(np.isfinite(row))
        row[:] = np.roll(row, (len(row) - 1 - known[-1]) // frequency.week * frequency.week)
    newest = min(values.shape[1], max(_DAYS * frequency.day, 3 * 365 if frequency.day == 1 else 0))
    values = values[:, -newest:]
    names = tuple((str(workload), str(metric)) for workload, metric in wide.index)
    start = (last + 1 - newest) * frequency.step
    return Panel(np.nan_to_num(values), np.isfinite(values), start, frequency, names)


def write(net: TrafficNet, offsets: Tensor, file: Path) -> str:
    """Write weights with 16 bits each, and the quantiles of their errors; returns the file's SHA-256."""
    state = {name: value.half().clone() for name, value in net.state_dict().items()}
    buffer = io.BytesIO()
    torch.save(state | {OFFSETS: offsets.float()}, buffer)
    file.write_bytes(buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()
