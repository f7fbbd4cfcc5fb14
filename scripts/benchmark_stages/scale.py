"""Many series: the cost of a window, and the memory of a fleet."""

import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from benchmark_stages.rows import Row, alternately, peak_of_command
from benchmark_stages.training import every_window, random_panel, train_epoch
from kforecast.training.distributed.threads import choose_threads

SECONDS_A_DAY = 86_400


def growth() -> list[Row]:
    """Training time per window, from 10 to 10,000 series: 200,000 windows of an epoch, batch 1,024."""
    threads = choose_threads("auto", 1024)
    works = {}
    for series in (10, 100, 1000, 10_000):
        data = every_window(random_panel(series, 24_192 if series == 10 else 2016, gaps=0.01))
        data.batch_size, data.windows_per_epoch = 1024, 200_000

        def work(data: object = data) -> None:
            train_epoch(data)

        works[str(series)] = work
    times = alternately(works, repeats=5)
    return [
        Row(
            f"training time a window, {int(series):,} series, threads {threads}",
            f"{1e6 * seconds / 200_000:.2f} us",
            f"{1e6 * times['10'] / 200_000:.2f} us with 10 series",
            f"{seconds / times['10']:.2f} x",
            "within 20 %",
        )
        for series, seconds in times.items()
    ]


def fleet() -> list[Row]:
    """1,000 series x 14 days at 1 min, 1 % missing, from Parquet: one epoch of sampled windows."""
    return _train_from_parquet(1000, 14, "<= 3 GB", ["trainer.max_epochs=1"], ["one run"])


def huge() -> list[Row]:
    """10,000 series x 30 days at 1 min, 1 % missing, from Parquet: a run to its artifact."""
    runs = ["first run, which converts the file", "second run, which maps it"]
    return _train_from_parquet(10_000, 30, "<= 6 GB", ["trainer.max_epochs=2"], runs)


def _train_from_parquet(
    series: int, days: int, target: str, overrides: list[str], runs: list[str]
) -> list[Row]:
    program = Path(sys.executable).with_name("kforecast-train")
    name = f"{series:,} series x {days} days at 1 min"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fleet.parquet"
        write_fleet(file, series, days * SECONDS_A_DAY // 60)
        for what in runs:
            command = [program, "window=1min", "source=csv", f"source.path={file}", *overrides]
            done = peak_of_command([*command, f"hydra.run.dir={folder}/run"], cwd=Path(folder))
            trained = re.search(r"trained in +([\d.]+) s", done.output)
            if done.code or trained is None:
                raise SystemExit(f"{' '.join(map(str, command))} ended with {done.code}:\n{done.output}")
            rows.append(
                Row(
                    f"{name} ({series * days * 1440:,} points): {what}, {' '.join(overrides)}",
                    f"{done.megabytes:,.0f} MB at most; {done.seconds:.0f} s, of which training {trained[1]}",
                    "",
                    "",
                    target,
                )
            )
    return rows


def write_fleet(file: Path, series: int, bins: int) -> None:
    """Write a big Parquet file, series by series, with 1 % of the rows missing."""
    random = np.random.default_rng(0)
    minute = np.arange(bins)
    daily = 2 + np.sin(2 * np.pi * minute / 1440)
    noise = random.gamma(20, 1 / 20, 1 << 20)
    names = pa.array([f"shop/web-{number:05}" for number in range(series)])
    metrics = pa.array(["qps"])
    together = max(1, 1_000_000 // bins)
    name = pa.dictionary(pa.int32(), pa.string())
    fields = [("timestamp", pa.int64()), ("value", pa.float64()), ("workload", name), ("metric", name)]
    with pa.parquet.ParquetWriter(file, pa.schema(fields), compression="zstd") as writer:
        for first in range(0, series, together):
            numbers = np.arange(first, min(first + together, series))
            keep = random.random((len(numbers), bins)) >= 0.01
            start = random.integers(0, len(noise) - bins, len(numbers))
            level = 10 * 1.001 ** (numbers % 5000)
            value = np.stack(
                [at * daily * noise[s : s + bins] for at, s in zip(level, start, strict=True)]
            ).round(1)
            codes = np.repeat(numbers.astype(np.int32)[:, None], bins, axis=1)[keep]
            seconds = np.broadcast_to(1_704_067_200 + 60 * minute, keep.shape)[keep]
            columns = [
                pa.array(seconds),
                pa.array(value[keep]),
                pa.DictionaryArray.from_arrays(codes, names),
                pa.DictionaryArray.from_arrays(np.zeros(len(codes), np.int32), metrics),
            ]
            writer.write_table(pa.table(columns, schema=pa.schema(fields)))
