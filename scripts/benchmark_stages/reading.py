"""From a file to a panel, each in its own process."""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from benchmark_stages.rows import Row

SERIES, BINS = 100, 100_000
ROUNDS = 3
OURS_READ = "from kforecast.metrics.csv import CsvSource\nwork = lambda: CsvSource(file).fetch()"
PLAIN_READ = "import pandas\nwork = lambda: pandas.read_csv(file)"
OURS = """
from kforecast.data.reading import read_panel
from kforecast.metrics.csv import CsvSource
from kforecast.window import Frequency
work = lambda: read_panel(CsvSource(file), Frequency.parse("1min"))
"""
PLAIN = """
import pandas
def work():
    frame = pandas.read_csv(file)
    return frame.pivot_table(index="timestamp", columns=["workload", "metric"], values="value")
"""
MEASURED = """
import json, sys, time
sys.path.insert(0, sys.argv[2])
from benchmark_stages.rows import peak_megabytes
file = sys.argv[1]
{work}
begun = time.perf_counter()
made = work()
print(json.dumps([time.perf_counter() - begun, peak_megabytes()]))
"""


def csv() -> list[Row]:
    """10 million rows of 100 series, sorted by time and sorted by series."""
    rows = []
    for order in ("time", "series"):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "traffic.csv"
            _write(file, order)
            read, panel = _in_turns(file, OURS_READ, PLAIN_READ), _in_turns(file, OURS, PLAIN)
        for what, (ours, plain), target in (
            ("CSV read", read, ""),
            ("panel from a CSV", panel, f">= 5 x; <= {3 * 4 * SERIES * BINS / 1e6 + 500:.0f} MB"),
        ):
            rows.append(
                Row(
                    f"{what}, 10 million rows in order of {order}",
                    f"{ours[0]:.2f} s, {ours[1]:,.0f} MB at most",
                    f"{plain[0]:.2f} s, {plain[1]:,.0f} MB",
                    f"{plain[0] / ours[0]:.1f} x",
                    target,
                )
            )
    return rows


def _in_turns(file: Path, *works: str) -> list[tuple[float, float]]:
    """Return median seconds and peak megabytes of each."""
    found: list[list[list[float]]] = [[] for _ in works]
    for _ in range(ROUNDS):
        for number, work in enumerate(works):
            command = [sys.executable, "-c", MEASURED.format(work=work), file, Path(__file__).parents[1]]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[number].append(json.loads(done.stdout))
    return [
        (statistics.median(seconds for seconds, _ in runs), max(peak for _, peak in runs)) for runs in found
    ]


def _write(file: Path, order: str) -> None:
    cell = np.arange(SERIES * BINS)
    series, minute = (cell % SERIES, cell // SERIES) if order == "time" else (cell // BINS, cell % BINS)
    value = np.random.default_rng(0).gamma(20, 5, len(cell)).round(3)
    names = pa.array([f"shop/web-{number}" for number in range(SERIES)])
    columns = {
        "timestamp": 1_704_067_200 + 60 * minute,
        "value": value,
        "workload": pa.DictionaryArray.from_arrays(series.astype(np.int32), names).cast(pa.string()),
        "metric": pa.DictionaryArray.from_arrays(np.zeros(len(cell), np.int32), ["qps"]).cast(pa.string()),
    }
    pa.csv.write_csv(pa.table(columns), file)
