"""Measure the guard: traffic that changes, and what scaling on the forecast then leaves unserved.

python scripts/benchmark_guard.py --bench ../shared/bench
python scripts/benchmark_guard.py --bench ../shared/bench --task nasa_http_10min_C12_P12 --rule forecast

Each task is trained with model=auto once. Its test part is then changed for two days, in six ways, and
forecast bin by bin as a server would, with and without the guard. Replicas are ordered bin by bin for the
forecast of the bin in which they serve, without an upper limit. Two forecasts are judged: the trained model,
which follows its errors, and a frozen one, which repeats the quantiles of the same time of the last three
weeks and follows nothing. The frozen one shows the guard at work, because the model needs it rarely.

unserved: that of the guarded forecast, as a multiple of the reactive rule's, in the worst 24 hours from a day
before the change to a day after it, summed over the series in units of replicas.
"""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from benchmark_stages.commands import Commands

from kforecast.data.panel import Panel
from kforecast.forecaster import Forecaster
from kforecast.guard import SERVED, GuardRules, Numbers, newest_before, watch
from kforecast.simulation.capacity import Capacity, per_replica
from kforecast.simulation.drivers import REACTIVE

BIN, ROOT = Path(sys.executable).parent, Path(__file__).resolve().parents[1]
CHANGES = ("none", "level x 3", "level x 0.3", "new rhythm", "outage", "noise x 4", "clock + 3 h")
TASKS = (
    *("wsd_requests_10min_C12_P12", "nasa_http_10min_C12_P12", "twitter_stream_10min_C12_P12"),
    *("wsd_kpi_10min_C12_P12", "csirtmu_web_1H_C24_P6", "wsd_requests_1min_C12_P12"),
)
LEVELS = (0.005, 0.9, 0.995)
# The newest days of a task at 1min, whose test part is long.
_MOST_DAYS = 8


@dataclass
class Case:
    """A changed recording from some days before its test part on, and quantiles forecast in the test part.

    ``value`` and ``last``, the newest observation, are ``[series, bins]``; ``made`` is ``[series, bins after
    begin, horizon, LEVELS]``; ``change`` are its first bin and its end, counted from ``begin``.
    """

    panel: Panel
    begin: int
    change: tuple[int, int]
    value: np.ndarray
    last: np.ndarray
    made: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bench", type=Path, default=ROOT.parent / "shared" / "bench", help="the protocol")
    parser.add_argument("--task", action="append", help="all but the short contexts when not given")
    parser.add_argument("--rule", choices=["max", "forecast"], default="max", help="serve.value")
    parser.add_argument("--out", type=Path, default=Path("outputs/guard"), help="where runs and figures go")
    given = parser.parse_args()
    if not (given.bench / "protocol.py").is_file():
        parser.error(f"{given.bench}: no protocol.py there; name its folder with --bench")
    warnings.simplefilter("ignore", RuntimeWarning)  # means of series without a value
    rows: list[dict[str, object]] = []
    for task in given.task or TASKS:
        folder = given.out / task
        if not (folder / "model" / "metadata.json").is_file():
            train(given.bench, task, folder)
        for change in CHANGES:
            for name, case in cases(folder, change):
                found: dict[str, object] = {"task": task, "forecast": name, "change": change}
                found |= judged(case, given.rule)
                rows.append(found)
                print("  ".join(f"{key} {value}" for key, value in found.items()), flush=True)
    table = pd.DataFrame(rows)
    for title, mine in table.groupby("forecast", sort=False):
        plain, changed = mine[mine["change"] == "none"], mine[mine["change"] != "none"]
        weeks, false = plain["weeks"].sum(), plain["withdrawals"].sum()
        print(f"\n{title}, serve.value={given.rule}")
        print(
            f"  without a change: {false} withdrawals in {weeks:.1f} series-weeks, "
            f"{100 * false / weeks:.2f} in 100"
        )
        for key in ("unserved", "unguarded"):
            worst, good = changed[key].max(), (changed[key] <= 1.05).sum()
            print(f"  {key} x reactive: at most 1.05 in {good} of {len(changed)} cells, at most {worst:.2f}")
        away, late = changed["away at the end"].sum(), changed["later than 24 h"].sum()
        by, those = changed["by the change"].sum(), changed["of those later"].sum()
        print(
            f"  withdrawn when the change ends: {away} series; {late} of them not back within 24 hours of "
            f"traffic\n  of them served when the change began: {by}; {those} not back within 24 hours"
        )
    given.out.mkdir(parents=True, exist_ok=True)
    table.to_json(given.out / f"{given.rule}.json", orient="records", indent=1)


def train(bench: Path, task: str, folder: Path) -> None:
    """Export the task, and train on its train part."""
    commands, env = Commands(), dict(os.environ)
    commands.run(
        *(sys.executable, bench / "protocol.py", "export", "--task", task, "--out", folder / "data"), env=env
    )
    facts = json.loads((folder / "data" / "task.json").read_text(encoding="utf-8"))
    window = [f"window.{key}={facts[key]}" for key in ("freq", "context_length", "prediction_length")]
    source = ("source=csv", f"source.path={folder / 'data' / 'train.csv'}", "source.any_time=true")
    where = (f"artifact_dir={folder / 'model'}", f"hydra.run.dir={folder / 'run'}", "logger=none")
    commands.run(BIN / "kforecast-train", *source, *window, "data.test=0", "model=auto", *where, env=env)


def cases(folder: Path, change: str) -> Iterator[tuple[str, Case]]:
    """The changed test part, forecast by the model and by the frozen forecast."""
    forecaster = Forecaster.load(folder / "model")
    facts = json.loads((folder / "data" / "task.json").read_text(encoding="utf-8"))
    rows = pd.read_csv(folder / "data" / "full.csv", dtype={"workload": str, "metric": str})
    whole = Panel.from_frame(rows, forecaster.window.frequency, forecaster.bin_calendar)
    day, horizon = whole.frequency.day, forecaster.window.prediction_length
    begin = whole.bin_at(facts["train_end"])
    stop = min(whole.num_bins, begin + _MOST_DAYS * day) if whole.frequency.step < 600 else whole.num_bins
    first = begin + int(0.35 * (stop - begin))
    last = first + min(2 * day, (stop - begin) // 4)
    before = np.where(whole.observed, whole.values, np.nan).astype(np.float64)[:, :stop]
    value = changed(before, slice(first, last), day, change)
    known = np.isfinite(value)
    panel = replace(whole, values=np.where(known, value, 0).astype(np.float32), observed=known)
    series = np.repeat(np.arange(panel.num_series), stop - begin)
    origin = np.tile(np.arange(begin, stop), panel.num_series)
    made = forecaster.forecast_windows(panel, series, origin, hold_newest=True)
    quantiles = forecaster.quantiles(panel, series, made, LEVELS)
    shape = (panel.num_series, stop - begin, horizon, len(LEVELS))
    newest, span = newest_before(value, horizon), (first - begin, last - begin)
    yield "model=auto", Case(panel, begin, span, value, newest, quantiles.reshape(shape))
    yield "frozen", Case(panel, begin, span, value, newest, frozen(before[:, :begin], day, shape))


def changed(value: np.ndarray, span: slice, day: int, change: str) -> np.ndarray:
    """The values with a change in a span of bins."""
    found, bins = value.copy(), np.arange(span.start, span.stop)
    if change.startswith("level"):
        found[:, span] *= float(change.split()[-1])
    elif change == "new rhythm":  # 5 hours, in the place of a day
        mean = np.nanmean(value[:, span.start - 7 * day : span.start], axis=1)
        noise = np.random.default_rng(1).normal(0, 0.05, (len(value), len(bins)))
        shape = np.maximum(1 + 0.8 * np.sin(2 * np.pi * bins * 24 / day / 5) + noise, 0)
        found[:, span] = np.where(np.isfinite(value[:, span]), mean[:, None] * shape, np.nan)
    elif change == "outage":
        found[:, span.start : span.start + day // 4] *= 0
    elif change == "noise x 4":
        smooth = pd.DataFrame(value.T).rolling(7, center=True, min_periods=1).median().to_numpy().T
        found[:, span] = np.maximum(smooth + 4 * (value - smooth), 0)[:, span]
    elif change == "clock + 3 h":
        found[:, span] = value[:, span.start - day // 8 : span.stop - day // 8]
    return found


def frozen(before: np.ndarray, day: int, shape: tuple[int, ...]) -> np.ndarray:
    """Quantiles of the same time of the week, an hour around it, of the last three weeks."""
    week, hour = 7 * day, max(1, day // 48)
    weeks = [
        before[:, before.shape[1] - (k + 1) * week :][:, :week]
        for k in range(3)
        if before.shape[1] >= (k + 1) * week
    ]
    around = np.stack([np.roll(one, shift, axis=1) for one in weeks for shift in range(-hour, hour + 1)])
    found = np.moveaxis(np.nan_to_num(np.nanquantile(around, LEVELS, axis=0)), 0, -1)
    at = np.arange(shape[1])[:, None] + np.arange(shape[2])
    quantiles: np.ndarray = found[:, at % week].astype(np.float32)
    return quantiles


def judged(case: Case, rule: str) -> dict[str, object]:
    """The figures of one cell."""
    panel, begin, day = case.panel, case.begin, case.panel.frequency.day
    settings = Capacity(max_replicas=1_000_000)
    rules = GuardRules.of(
        panel.frequency.step, day, case.made.shape[2], settings.lead_time, settings.best_quantile
    )
    number, last = case.made[..., 1].astype(np.float64), case.last[:, begin:]
    if rule == "max":
        number = np.fmax(number, last[:, :, None])
    warm = begin - 7 * day
    states = watch(rules, _numbers(case, number, warm, rules), panel.first_bin + warm)[:, begin - warm :]
    before = np.pad(states[:, :-1], ((0, 0), (1, 0)))  # what is known when a bin begins
    mean = np.nan_to_num(np.nanmean(case.value[:, :begin], axis=1))
    load = case.value[:, begin:]
    sizes = per_replica(settings, mean)[:, None]
    lead = -(-settings.lead_time // panel.frequency.step)
    step = min(lead, number.shape[2] - 1)
    guarded = np.where(before != SERVED, last, number[..., step])
    ordered = {"unserved": guarded, "unguarded": number[..., step], REACTIVE: last}
    ordered = {name: replicas(values / sizes, lead) for name, values in ordered.items()}
    counted = np.isfinite(load) & np.isfinite(sum(ordered.values()))
    first, stop = case.change
    span = slice(max(0, first - day), min(stop + day, load.shape[1]))
    unserved = {
        name: np.where(counted, np.maximum(load / sizes - count, 0), 0)[:, span].sum(axis=0)
        for name, count in ordered.items()
    }
    ends = np.flatnonzero(states[:, stop - 1] != SERVED)
    helped = states[ends, first - 1] == SERVED
    traffic = np.isfinite(load[ends, stop:]).cumsum(axis=1)
    back = (states[ends, stop:] == SERVED) & (traffic <= day)
    late, away = ~back.any(axis=1), states != SERVED
    return {
        "weeks": round(float(np.isfinite(load).sum() / (7 * day)), 1),
        "withdrawals": int((away & ~np.pad(away, ((0, 0), (1, 0)))[:, :-1]).sum()),
        "hours": round(float(away.sum() * panel.frequency.step / 3600), 1),
        "away at the end": len(ends),
        "later than 24 h": int(late.sum()),
        "by the change": int(helped.sum()),
        "of those later": int((late & helped).sum()),
        **{name: _worst(unserved[name], unserved[REACTIVE], day) for name in ("unserved", "unguarded")},
    }


def replicas(wanted: np.ndarray, lead: int) -> np.ndarray:
    """Replicas in force, ordered ``lead`` bins before for a load in replicas; NaN before the first order."""
    ordered = np.maximum(np.ceil(pd.DataFrame(wanted).ffill(axis=1).to_numpy() - 1e-9), 1)
    found: np.ndarray = np.pad(ordered, ((0, 0), (lead, 0)), constant_values=np.nan)[:, : wanted.shape[1]]
    return found


def _numbers(case: Case, number: np.ndarray, warm: int, rules: GuardRules) -> Numbers:
    value = case.value[:, warm:]
    served, low, high = (np.full((len(value), value.shape[1] + 1), np.nan) for _ in range(3))
    place = slice(case.begin - warm, value.shape[1])
    served[:, place] = number[:, :, : rules.window].max(axis=2)
    low[:, place], high[:, place] = case.made[:, :, 0, 0], case.made[:, :, 0, 2]
    return Numbers(value, served[:, :-1], case.last[:, warm:], low, high)


def _worst(unserved: np.ndarray, reactive: np.ndarray, day: int) -> float:
    """Unserved load in its worst 24 hours, as a multiple of that of the reactive rule then."""
    sums = [np.convolve(one, np.ones(min(day, len(one))), mode="valid") for one in (unserved, reactive)]
    at = int(np.argmax(sums[0]))
    return round(float(sums[0][at] / max(sums[1][at], 1e-9)), 3) if sums[0][at] > 0 else 0.0


if __name__ == "__main__":
    main()
