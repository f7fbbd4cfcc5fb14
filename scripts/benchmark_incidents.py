"""Measure the search for incidents: how many are found and how many are false, and the error without them.

Eight kinds of incidents are put into series of traffic, one of each kind into every series. Without a file
the traffic is built-in; with one, the figures of its own incidents are among the false ones.

    python scripts/benchmark_incidents.py
    python scripts/benchmark_incidents.py --file traffic.csv --no-training
"""

import argparse
import logging
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from kforecast.data.events.effects import Plan
from kforecast.data.events.incidents import found_incidents
from kforecast.data.events.known import KnownEvents
from kforecast.data.panel import Panel
from kforecast.data.reading import read_panel
from kforecast.metrics.csv import CsvSource
from kforecast.metrics.synthetic import SyntheticSource
from kforecast.window import Frequency, Window

KINDS = (
    *("outage", "flat line", "burst", "spike"),
    *("double counting", "partial loss", "wrong unit", "late rows"),
)
# Days at both ends without incidents: before them there is nothing to compare with, and the last ones judge.
_FIRST, _LAST = 3, 9


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--file", type=Path, help="traffic in a file, in the place of the built-in")
    parser.add_argument("--series", type=int, default=20)
    parser.add_argument("--days", type=int, default=49, help="of the built-in traffic")
    parser.add_argument("--freq", default="10min", help="bin width")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3, help="of each training")
    parser.add_argument("--no-training", action="store_true", help="only search")
    parser.add_argument("--any-time", action="store_true", help="accept timestamps before 2000")
    parser.add_argument("--show", action="store_true", help="list what is missed, and what is false")
    asked = parser.parse_args()
    logging.getLogger("kforecast").setLevel(logging.ERROR)
    clean = panel_of(asked)
    broken, injected = with_incidents(clean, np.random.default_rng(asked.seed))
    report(clean, broken, injected, asked.show)
    if not asked.no_training:
        wapes(clean, broken, asked.epochs)


def panel_of(asked: argparse.Namespace) -> Panel:
    """The traffic to put incidents into."""
    frequency = Frequency.parse(asked.freq)
    if asked.file is not None:
        panel = read_panel(CsvSource(asked.file, memory_map=False, any_time=asked.any_time), frequency)
        return panel.rows(range(min(asked.series, panel.num_series)))
    source = SyntheticSource(
        workloads=asked.series,
        days=asked.days,
        step=frequency.step if frequency.step < 300 else 300,
        start=1_704_067_200,
        hourly=0.2,
        weekend=0.7,
        trend=0.1,
        noise=0.08,
        spikes=0.0,
        gaps=0.5,
        seed=asked.seed,
    )
    return Panel.from_frame(source.fetch(), frequency)


def with_incidents(panel: Panel, rng: np.random.Generator) -> tuple[Panel, list[tuple[int, str, int, int]]]:
    """The panel with one incident of each kind in every series; each as row, kind, begin and end."""
    day = panel.frequency.day
    values, observed = panel.values.copy(), panel.observed.copy()
    injected = []
    for row in range(panel.num_series):
        taken = np.zeros(panel.num_bins, bool)
        for kind in rng.permutation(KINDS).tolist():
            for _ in range(200):
                length = max(4, round(rng.uniform(*_HOURS[kind]) * day / 24)) if kind != "spike" else 1
                begin = int(rng.integers(_FIRST * day, panel.num_bins - _LAST * day - length))
                end = begin + length
                near = slice(max(begin - day // 4, 0), end + day // 4)
                traffic = values[row, begin:end]
                if not taken[near].any() and observed[row, near].all() and traffic.mean() > 0:
                    break
            else:
                continue
            taken[near] = True
            inject(kind, values[row], observed[row], begin, end, rng)
            injected.append((row, kind, begin, end))
    return replace(panel, values=values, observed=observed), injected


_HOURS = {
    "outage": (1, 6),
    "flat line": (2, 12),
    "burst": (1, 3),
    "spike": (0, 0),
    "double counting": (3, 24),
    "partial loss": (3, 24),
    "wrong unit": (1, 6),
    "late rows": (1, 3),
}


def inject(
    kind: str, values: np.ndarray, observed: np.ndarray, begin: int, end: int, rng: np.random.Generator
) -> None:
    """Put an incident into a series ``[time]``, in place."""
    inside = values[begin:end]
    if kind == "outage":
        inside[:] = 0
    elif kind == "flat line":
        inside[:] = values[begin - 1]
    elif kind == "burst":
        along = np.sin(np.pi * (np.arange(len(inside)) + 0.5) / len(inside))
        inside *= 1 + rng.uniform(4, 9) * along
    elif kind == "spike":
        inside *= rng.uniform(6, 20)
    elif kind == "double counting":
        inside *= 2
    elif kind == "partial loss":
        inside *= rng.uniform(0.3, 0.55)
    elif kind == "wrong unit":
        inside *= rng.choice([60.0, 1000.0, 1 / 60])
    else:
        inside[-1] = inside.sum()
        inside[:-1], observed[begin : end - 1] = 0, False


def report(clean: Panel, broken: Panel, injected: list[tuple[int, str, int, int]], show: bool) -> None:
    """Print how many incidents are found, and how many are false."""
    begun = time.process_time()
    found = found_incidents(broken)
    seconds = time.process_time() - begun
    spans = [
        (one.row, broken.bin_at(one.known.begin), broken.bin_at(one.known.end - 1) + 1, one) for one in found
    ]
    rows = []
    used = set()
    for kind in KINDS:
        mine = [each for each in injected if each[1] == kind]
        hits = named = 0
        for row, _, begin, end in mine:
            over = [
                (number, one)
                for number, (other, first, last, one) in enumerate(spans)
                if other == row and first < end and begin < last
            ]
            used |= {number for number, _ in over}
            known = broken.observed[row, begin:end]
            covered = np.zeros(end - begin, bool)
            for number, _ in over:
                _, first, last, _ = spans[number]
                covered[max(first - begin, 0) : max(last - begin, 0)] = True
            hit = (covered & known).sum() >= 0.5 * known.sum()
            hits += hit
            named += hit and any(one.kind == kind for _, one in over)
            if show and not hit:
                print("missed", broken.series[row], kind, begin, end, clean.values[row, begin:end][:5])
        rows.append((kind, len(mine), hits, named))
    false = [one for number, one in enumerate(found) if number not in used]
    days = broken.num_series * broken.num_bins / broken.frequency.day
    alone = found_incidents(clean)
    if show:
        for one in [*false, *alone]:
            print("false", broken.series[one.row], one.kind, one.known.begin, one.evidence)
    print(pd.DataFrame(rows, columns=["kind", "injected", "found", "named so"]).to_string(index=False))
    hits, count = sum(row[2] for row in rows), len(injected)
    print(f"found {hits} of {count} ({hits / max(count, 1):.1%})")
    for name, several in (("false", false), ("found without any injected", alone)):
        print(f"{name}: {len(several)} in {days:,.0f} series-days, {100 * len(several) / days:.2f} in 100")
    print(f"search: {seconds:.1f} s of CPU")


def wapes(clean: Panel, broken: Panel, epochs: int) -> None:
    """Print the errors on clean days after trainings on clean, broken and masked history."""
    import kforecast

    window = Window(clean.frequency, 12, 6)
    found = KnownEvents(tuple(one.known for one in found_incidents(broken)))
    histories = {
        "clean": clean,
        "broken": broken,
        "masked": Plan(found).without_incidents(broken),
    }
    errors = {}
    stop = clean.num_bins - (_LAST - 2) * clean.frequency.day
    for name, history in histories.items():
        part = replace(history, values=history.values[:, :stop], observed=history.observed[:, :stop])
        forecaster = kforecast.train(
            frame_of(part), window, model="auto", max_epochs=epochs, refit=False, verbose=False
        )
        judged = forecaster.evaluate(frame_of(history), start=clean.seconds(stop), stride=3)
        errors[name] = float(judged.scores.query("workload == '*'")["wape"].iloc[0])
        print(f"WAPE on clean days after training on {name} history: {errors[name]:.4f}")
    for name in ("broken", "masked"):
        print(f"{name} / clean: {errors[name] / errors['clean']:.3f}")


def frame_of(panel: Panel) -> pd.DataFrame:
    """The bins of a panel as rows."""
    row, column = np.nonzero(panel.observed)
    return pd.DataFrame(
        {
            "timestamp": panel.timestamps[column],
            "value": panel.values[row, column].astype(float),
            "workload": np.array([workload for workload, _ in panel.series])[row],
            "metric": np.array([metric for _, metric in panel.series])[row],
        }
    )


if __name__ == "__main__":
    main()
