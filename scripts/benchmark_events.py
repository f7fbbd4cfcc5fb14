"""Measure what known events are worth: unserved load during a promotion that was seen three times before.

Every series has a promotion with three times the traffic for two hours, three times in the history and once
after it. Two forecasters are trained, with and without the file of events, and order capacity for the days
after the history.

    python scripts/benchmark_events.py
"""

import argparse
import logging
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import kforecast
from kforecast.data.events.known import KnownEvents
from kforecast.data.panel import Panel
from kforecast.metrics.synthetic import SyntheticSource
from kforecast.window import Window

_DAY, _START = 86_400, 1_704_067_200
_FACTOR, _HOURS = 3.0, 2


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--series", type=int, default=8)
    parser.add_argument("--days", type=int, default=42, help="of history; as many as 7 follow")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--quantile", type=float, default=0.9, help="the forecast that orders capacity")
    parser.add_argument("--given", type=float, help="a factor in the file; default: none, it is learned")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    logging.getLogger("kforecast").setLevel(logging.ERROR)
    rng = np.random.default_rng(asked.seed)
    days = [*np.sort(rng.choice(np.arange(8, asked.days - 5), 3, replace=False)).tolist(), asked.days + 3]
    begins = [_START + day * _DAY + int(rng.integers(9, 20)) * 3600 for day in days]
    frame = with_promotions(traffic(asked), begins)
    stop = _START + asked.days * _DAY
    window = Window("10min", 12, 6)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "events.csv")
        factor = "" if asked.given is None else f"{asked.given:g}"
        rows = [f"{begin},{begin + _HOURS * 3600},*,promotion,{factor}" for begin in begins]
        file.write_text("start,end,workload,name,factor\n" + "\n".join(rows) + "\n")
        unserved, wape = {}, {}
        for name, overrides in (("without", []), ("with", [f"data.events={file}"])):
            past = frame[frame["timestamp"] < stop]
            made = kforecast.train(
                past,
                window,
                model=asked.model,
                max_epochs=asked.epochs,
                refit=False,
                verbose=False,
                overrides=overrides,
            )
            if overrides:
                made = made.knowing(KnownEvents.read(file))
                print("effect:", made.plan.effects.words())
            unserved[name], wape[name] = judged(made, frame, stop, begins[-1], asked.quantile)
    for when in ("promotion", "ordinary days"):
        least, most = unserved["with"][when], unserved["without"][when]
        print(f"unserved load, {when}: {most:.4g} without, {least:.4g} with, {least / most:.3f} x")
    change = wape["with"] / wape["without"] - 1
    print(f"WAPE on ordinary days: {wape['without']:.4f} without, {wape['with']:.4f} with ({change:+.2%})")


def traffic(asked: argparse.Namespace) -> pd.DataFrame:
    """Built-in traffic without surprises."""
    source = SyntheticSource(
        workloads=asked.series,
        days=asked.days + 7,
        step=300,
        start=_START,
        hourly=0.2,
        weekend=0.7,
        trend=0.1,
        noise=0.08,
        spikes=0.0,
        gaps=0.0,
        seed=asked.seed,
    )
    return source.fetch()


def with_promotions(frame: pd.DataFrame, begins: list[int]) -> pd.DataFrame:
    """The rows with more traffic during promotions."""
    during = np.zeros(len(frame), bool)
    for begin in begins:
        during |= ((frame["timestamp"] >= begin) & (frame["timestamp"] < begin + _HOURS * 3600)).to_numpy()
    return frame.assign(value=frame["value"] * np.where(during, _FACTOR, 1.0))


def judged(
    made: kforecast.Forecaster, frame: pd.DataFrame, stop: int, begin: int, quantile: float
) -> tuple[dict[str, float], float]:
    """Unserved load if forecasts of half an hour ahead order capacity, and the error on ordinary days."""
    panel = Panel.from_frame(frame, made.window.frequency)
    first = panel.bin_at(stop)
    origin = np.arange(first, panel.num_bins - 6)
    rows = np.repeat(np.arange(panel.num_series), len(origin))
    origins = np.tile(origin, panel.num_series)
    forecasts = made.forecast_windows(panel, rows, origins)
    ordered = made.quantiles(panel, rows, forecasts, [quantile])[:, 2, 0]
    actual = panel.values[rows, origins + 2]
    seconds = panel.seconds(origins + 2)
    during = (seconds >= begin) & (seconds < begin + _HOURS * 3600)
    # Networks look back at yesterday: the day after a promotion is no ordinary one without the file.
    ordinary = (seconds < begin) | (seconds >= begin + _DAY + 2 * _HOURS * 3600)
    short = np.maximum(actual - ordered, 0)
    wape = np.abs(actual - forecasts.values[:, 2])[ordinary].sum() / actual[ordinary].sum()
    return {
        "promotion": float(short[during].sum() / actual[during].sum()),
        "ordinary days": float(short[ordinary].sum() / actual[ordinary].sum()),
    }, float(wape)


if __name__ == "__main__":
    main()
