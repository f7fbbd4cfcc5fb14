"""Forecast without torch and without kforecast: numpy and onnxruntime.

kforecast-export artifact_dir=model format=onnx output=model.onnx
python forecast_onnx.py model.onnx traffic.csv
"""

import csv
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import onnxruntime

DAY = 86_400


def main(model: str, dataset: str) -> int:
    session = onnxruntime.InferenceSession(model)
    about = read_metadata(session)
    if about["naive"]:
        print(f"error: naive forecasts take part in it: {', '.join(about['naive'])}", file=sys.stderr)
        return 2
    if about.get("events"):
        print(
            "error: it sees usual values in place of past events, which this example does not",
            file=sys.stderr,
        )
        return 2
    if about["bin_zone"] != "UTC":
        print(f"error: its bins follow the local time of {about['bin_zone']}, not UTC", file=sys.stderr)
        return 2
    wanted = {argument.name: argument.type for argument in session.get_inputs()}
    step, horizon = about["step"], about["prediction_length"]
    series = {pair: average(rows, step) for pair, rows in read(dataset).items()}
    ids = {pair: about["item2id"].get("".join(pair), about["unknown_series"]) for pair in series}
    known = sorted((pair for pair in series if ids[pair] is not None), key="".join)
    # The history starts at the oldest bin of all series, and ends at the newest.
    end = max((bins.max() for bins, _ in series.values()), default=0) + 1
    start = min((series[pair][0].min() for pair in known), default=0) - about["context_length"]
    fresh = [pair for pair in known if series[pair][0].max() >= end - about["history_length"]]
    print("timestamp,workload,metric,value")
    for pair in fresh:
        bins, values = series[pair]
        history = np.full(end - start, np.nan, np.float32)
        history[bins - start] = values
        made = inputs(about, history, int(start), pair[0]) | {"series": ids[pair]}
        made = {name: np.array(made[name])[None].astype(NUMPY[kind]) for name, kind in wanted.items()}
        (forecast,) = session.run(None, made)
        writer = csv.writer(sys.stdout, lineterminator="\n")
        for number, value in enumerate(forecast[0, :horizon]):
            writer.writerow([(end + number) * step, *pair, value])
    problems = {
        "not in the model": [" ".join(pair) for pair in series if ids[pair] is None],
        "no value that the model reads": [" ".join(pair) for pair in known if pair not in fresh],
    }
    for problem, names in problems.items():
        if names:
            print(f"error: {problem}: {', '.join(names)}", file=sys.stderr)
    return 2 if any(problems.values()) else 0


NUMPY = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}


def read_metadata(session):
    text = session.get_modelmeta().custom_metadata_map
    plain = ("kforecast", "torch", "checkpoint_sha256", "model", "freq", "fill", "bin_zone")
    return {name: value if name in plain else json.loads(value) for name, value in text.items()}


def read(dataset):
    """Return seconds and values of each series, for rows with a value."""
    series = {}
    with Path(dataset).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["value"].strip().lower() not in ("", "nan"):
                rows = series.setdefault((row["workload"], row["metric"]), [])
                rows.append((float(row["timestamp"]), float(row["value"])))
    return {pair: np.array(rows) for pair, rows in series.items()}


def average(rows, step):
    """Return the numbers of the bins with rows, counted from 1970, and the mean of each bin."""
    second, place = np.unique(np.floor(rows[:, 0]).astype(np.int64), return_inverse=True)
    value = np.bincount(place, rows[:, 1]) / np.bincount(place)  # rows of the same second count once
    bins, place = np.unique(second // step, return_inverse=True)
    count = np.bincount(place)
    if unfinished(second, step):
        bins = bins[:-1]
    return bins, (np.bincount(place, value) / count)[: len(bins)].astype(np.float32)


def unfinished(second, step):
    """Return whether the rows of the newest bin stop earlier than is usual."""
    left = step - second % step  # seconds from each row to the end of its bin
    newest = np.r_[np.diff(second // step) > 0, True]  # the newest row of each bin
    if len(second) < 3 or newest.sum() < 2:
        return False
    usual = upper_median(np.diff(second))
    late = upper_median(left[newest][:-1]) + usual / 2
    return usual < step and left[-1] > max(1.5 * usual, late)


def upper_median(numbers):
    return np.sort(numbers)[len(numbers) // 2]


def inputs(about, history, start, workload):
    """Return the network's inputs for one series; unobserved bins of the history are NaN."""
    context, seen = about["context_length"], ~np.isnan(history)
    origin = len(history)
    filled = {"context": fill(history, seen, about["fill"])[-context:]}
    if about["lookback"] is None:
        moments = (start + origin + np.arange(about["prediction_length"])) * about["step"]
        return filled | {"calendar": utc_fields(moments, about["calendar_fields"])}
    look, step = about["lookback"], about["step"]
    width = look["before"] + about["prediction_length"] + look["after"]
    season = DAY // step if step < DAY else 7
    clock = Clock(about["calendar"], workload, start, step)
    # The same local time in earlier seasons; if clocks went forward since then, its UTC time was later.
    then = origin - season * np.arange(1, look["seasons"] + 1)
    ahead = np.array([clock.ahead(max(bin, 0)) for bin in then])
    first = then + np.round((clock.ahead(origin) - ahead) / step).astype(int) - look["before"]
    reached = first >= 0  # seasons before the history are left out
    here = origin - look["before"] + np.arange(width)
    there = np.where(reached[:, None], first[:, None] + np.arange(width), here)
    known = reached[:, None] & (there < origin)
    known &= seen[np.minimum(there, origin - 1)]
    values = np.where(seen, history, 0)
    days_off = {bin: clock.day_off(bin) for bin in {*there.flat, *here}}
    day_off = np.vectorize(days_off.get)
    recent = np.arange(origin - look["recent"], origin)
    recent_seen = (recent >= 0) & seen[np.maximum(recent, 0)]
    return filled | {
        "recent": np.where(recent_seen, values[np.maximum(recent, 0)], 0),
        "recent_observed": recent_seen,
        "seasons": np.where(known, values[np.minimum(there, origin - 1)], 0),
        "seasons_observed": known,
        "alike": day_off(there) == day_off(here),
        "moment": clock.moment(origin),
    }


def fill(history, seen, policy):
    """Return the history without gaps."""
    at, known = np.arange(len(history)), np.flatnonzero(seen)
    if policy == "zero":  # but the newest value lasts until the forecast begins
        return np.where(at > known[-1], history[known[-1]], np.where(seen, history, 0))
    if policy == "interpolate":
        return np.interp(at, known, history[known])
    return history[known[np.maximum(np.searchsorted(known, at, side="right") - 1, 0)]]


def utc_fields(seconds, names):
    day, second = np.divmod(seconds, DAY)
    dates = day.astype("datetime64[D]")
    fields = {
        "minute": second // 60 % 60,
        "hour": second // 3600,
        "day_of_week": (day + 3) % 7,  # 1970 began on a Thursday
        "day_of_month": (dates - dates.astype("datetime64[M]")).astype(int) + 1,
    }
    return np.stack([fields[name] for name in names], axis=-1)


class Clock:
    """Local time at the bins of a history."""

    def __init__(self, calendar, workload, start, step):
        zone, country = calendar["timezone"], calendar["holidays"]
        if isinstance(zone, dict):
            zone = zone.get(workload, zone["default"])
        self.zone, self.start, self.step, self.holidays = ZoneInfo(zone), start, step, ()
        if country is not None:
            from holidays import country_holidays

            code, _, part = country.partition("-")
            self.holidays = country_holidays(code, subdiv=part or None)

    def local(self, bin, later=0):
        return datetime.fromtimestamp((self.start + int(bin)) * self.step + later, UTC).astimezone(self.zone)

    def ahead(self, bin):
        return self.local(bin).utcoffset().total_seconds()

    def date(self, bin):
        # In zones behind UTC, a daily bin starts on the evening before.
        return self.local(bin, later=self.step // 2 if self.step == DAY else 0).date()

    def day_off(self, bin):
        date = self.date(bin)
        return date.weekday() >= 5 or date in self.holidays

    def moment(self, bin):
        now = self.local(bin)
        seconds = now.hour * 3600 + now.minute * 60 + now.second
        return [seconds / DAY, self.date(bin).weekday(), self.day_off(bin)]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
