"""Forecasts after an outage in the history, against forecasts without it.

Six hours of the history are multiplied by 0.05, by 0 or by 3: a day before the forecast hours, a week before
them, or both. Targets are never changed. scripts/benchmark_accuracy.py starts this as a command of its own.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from kforecast.data.panel import Panel
from kforecast.forecaster import Forecaster

HOURS = 6
FACTORS = (0.05, 0.0, 3.0)
WHEN = {"yesterday": ("day",), "a week ago": ("week",), "both": ("day", "week")}
# A series takes part at an origin if this share of its context and of the hours to be injected is observed.
_LEAST_OBSERVED = 0.8


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("history", type=Path, help="long CSV with unix seconds")
    parser.add_argument("start", type=int, help="unix seconds of the first origin")
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--origins", type=int, default=20)
    given = parser.parse_args()
    forecaster = Forecaster.load(given.artifact)
    rows = pd.read_csv(given.history, dtype={"workload": str, "metric": str})
    panel = Panel.from_frame(rows, forecaster.window.frequency, forecaster.bin_calendar)
    unknown = {*forecaster.unknown(panel.series)}
    panel = panel.rows([row for row, pair in enumerate(panel.series) if pair not in unknown])
    begin = (given.start - panel.start) // panel.frequency.step
    found = measured(forecaster, panel, begin, given.origins)
    given.out.write_text(json.dumps(found, indent=1), encoding="utf-8")


def measured(forecaster: Forecaster, panel: Panel, begin: int, count: int) -> dict[str, dict[str, float]]:
    """Forecast from evenly spaced origins with each outage, and without any.

    Parameters
    ----------
    begin:
        The first bin that may be an origin.
    count:
        Number of origins.

    Returns
    -------
    By case, as ``both x 0.05``: ``ratio``, the sum of a series' forecasts divided by that without the outage,
    mean over the series; ``off``, the same of the absolute differences. Empty where nothing can be measured.
    """
    horizon = forecaster.window.prediction_length
    candidates = np.unique(np.linspace(begin, panel.num_bins - horizon, 50 * count).astype(int))
    usable = np.stack([_usable(panel, forecaster, origin) for origin in candidates.tolist()], axis=1)
    chosen = np.flatnonzero(usable.any(axis=0))
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(count, len(chosen))).astype(int)]
    cases = [(when, factor) for when in WHEN for factor in FACTORS]
    plain = np.zeros(panel.num_series)
    total, off = np.zeros((len(cases), panel.num_series)), np.zeros((len(cases), panel.num_series))
    for number in chosen.tolist():
        rows, origin = np.flatnonzero(usable[:, number]), int(candidates[number])
        known = replace(panel, values=panel.values[:, :origin], observed=panel.observed[:, :origin])
        without = _forecast(forecaster, known, rows)
        plain[rows] += without.sum(axis=1)
        for case, (when, factor) in enumerate(cases):
            values = known.values.copy()
            for hours in _hours(panel, horizon, origin, when):
                values[:, hours] *= np.float32(factor)
            made = _forecast(forecaster, replace(known, values=values), rows)
            total[case, rows] += made.sum(axis=1)
            off[case, rows] += np.abs(made - without).sum(axis=1)
    judged = plain > 0
    if not judged.any():
        return {}
    total, off, plain = total[:, judged], off[:, judged], plain[judged]
    return {
        f"{when} x {factor:g}": {
            "ratio": float((total[case] / plain).mean()),
            "off": float((off[case] / plain).mean()),
        }
        for case, (when, factor) in enumerate(cases)
    }


def _hours(panel: Panel, horizon: int, origin: int, when: str) -> list[slice]:
    """The bins to inject, with the forecast hours a season ago in their middle."""
    length = HOURS * 3600 // panel.frequency.step
    seasons = [getattr(panel.frequency, name) for name in WHEN[when]]
    starts = [origin + (horizon - length) // 2 - season for season in seasons]
    return [slice(max(start, 0), min(start + length, origin)) for start in starts]


def _usable(panel: Panel, forecaster: Forecaster, origin: int) -> np.ndarray:
    """Which series are observed in the context and in the hours to be injected, bool ``[series]``."""
    window = forecaster.window
    spans = [*_hours(panel, window.prediction_length, origin, "both")]
    spans.append(slice(max(origin - window.context_length, 0), origin))
    if any(span.stop <= span.start for span in spans):
        return np.zeros(panel.num_series, bool)
    shares = [panel.observed[:, span].mean(axis=1) for span in spans]
    usable: np.ndarray = np.min(shares, axis=0) >= _LEAST_OBSERVED
    return usable


def _forecast(forecaster: Forecaster, known: Panel, rows: np.ndarray) -> np.ndarray:
    """Forecasts of some series from the end of a history, float64 ``[series, horizon]``."""
    origin = np.full(len(rows), known.num_bins)
    return forecaster.forecast_windows(known, rows, origin).values.astype(np.float64)


if __name__ == "__main__":
    main()
