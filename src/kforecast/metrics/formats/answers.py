"""JSON that monitoring systems answer or export: Prometheus, VictoriaMetrics, CloudWatch, Datadog."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from kforecast.errors import DataError
from kforecast.files.untrusted import inside, parse_json, parse_jsons, shortened
from kforecast.metrics.formats.names import Naming, rule_of, series_names, wide_names
from kforecast.metrics.formats.series import check_common_moments, rows_of
from kforecast.metrics.formats.tables import Seconds, in_seconds

# About four million samples, which take a gigabyte while they are parsed.
_MOST_VALUES = 12_000_000
_STATISTICS = ("Average", "Sum", "Maximum", "Minimum", "SampleCount")


class Answer(NamedTuple):
    """A parsed file: what wrote it, its series, and notes for the user."""

    tool: str
    names: list[tuple[str, str]]
    rule: str
    """How they are named."""
    moments: Sequence[Any]
    """Of each series, in unix seconds or as text."""
    values: Sequence[Any]
    notes: list[str]


def read_json(content: bytes, path: Path, naming: Naming, seconds: Seconds) -> tuple[pa.Table, list[str]]:
    """Read a JSON file; returns the rows, and notes for the user, of which the first says what wrote it.

    Raises
    ------
    DataError
        When its shape is unknown, or it does not hold series over time.
    """
    try:
        answer = _lines(content, path, naming) if b'"timestamps"' in content[: 1 << 16] else None
        if answer is None:
            answer = _answer(parse_jsons(content, _MOST_VALUES), path, naming)
        if not answer.names:
            raise DataError(f"{path}: {answer.tool} without any series; does the query match something?")
        values = np.concatenate([_floats(one) for one in answer.values])
        if any(isinstance(one[0], str) for one in answer.moments if len(one)):
            moments = pa.array([str(moment) for one in answer.moments for moment in one], pa.string())
        else:
            moments = pa.array(np.concatenate([_floats(one) for one in answer.moments]))
    except DataError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{path}: cannot be read as JSON of a known shape: {shortened(error, 100)}"
        ) from error
    lengths = [len(one) for one in answer.moments]
    rows = in_seconds(rows_of(answer.names, lengths, moments, values), seconds, 1)
    if naming.on_multiple == "sum":
        check_common_moments(rows, np.repeat(np.arange(len(lengths)), lengths), answer.names, path)
    return rows, [answer.tool, answer.rule, *answer.notes]


def _answer(contents: list[Any], path: Path, naming: Naming) -> Answer:
    for content in contents:
        if isinstance(content, dict) and content.get("status") == "error":
            raise DataError(f"{path}: is the server's error: {shortened(content.get('error', 'unknown'))}")
    ranges = [_range(content) for content in contents]
    if all(found is not None for found in ranges):
        notes = [
            f"the server warns: {shortened(one)}"
            for content in contents
            for one in inside(content, "warnings") or []
        ]
        return _matrix([one for found in ranges for one in found or []], notes, path, naming)
    content = contents[0] if len(contents) == 1 else {}
    if (kind := inside(content, "data", "resultType")) is not None:
        instant = "an instant answer" if kind in ("vector", "scalar") else "an answer"
        raise DataError(
            f"{path}: is {instant} of Prometheus ({shortened(kind, 40)}), not a range; "
            "ask /api/v1/query_range, or fetch with source=prometheus"
        )
    if inside(content, "MetricDataResults") is not None:
        return _metric_data(content, path, naming)
    if inside(content, "Datapoints") is not None:
        return _statistics(content, path, naming)
    if inside(content, "data", "attributes", "series") is not None:
        return _datadog(content["data"]["attributes"], path, naming)
    if isinstance(series := inside(content, "series"), list) and all("pointlist" in one for one in series):
        return _pointlists(series, path, naming)
    raise DataError(
        f"{path}: is JSON of an unknown shape; range answers of Prometheus, CloudWatch and Datadog and "
        "exports of VictoriaMetrics are read; write other rows as CSV with the columns timestamp, value, "
        "workload, metric"
    )


def _range(content: Any) -> list[Any] | None:
    """The series of a range answer of Prometheus, or of a part that ``promtool`` or ``jq`` prints."""
    for answer in (inside(content, "data"), content):
        if inside(answer, "resultType") == "matrix":
            return list(answer["result"])
    if inside(content, "metric") is not None and inside(content, "values") is not None:
        return [content]
    if isinstance(content, list) and content and inside(content[0], "values") is not None:
        return content
    return None


def _matrix(result: Any, notes: list[str], path: Path, naming: Naming) -> Answer:
    """Prometheus: samples ``[seconds, "value"]``."""
    for one in result:
        if "histograms" in one:
            raise DataError(
                f"{path}: holds native histograms; ask for a number, with histogram_quantile(...) or "
                "histogram_count(rate(...))"
            )
    moments, values = _pairs([one["values"] for one in result])
    labels, moments, values = _joined([_labels(one) for one in result], moments, values)
    return Answer("a range answer of Prometheus", *_named(labels, path, naming), moments, values, notes)


def _lines(content: bytes, path: Path, naming: Naming) -> Answer | None:
    """VictoriaMetrics: a line a block of a series, with timestamps in milliseconds."""
    lines = [line for line in content.splitlines() if line.strip()]
    if not lines[0].lstrip().startswith(b"{"):
        return None
    found = []
    for number, line in enumerate(lines, 1):
        try:
            one = parse_json(line, _MOST_VALUES)
        except ValueError as error:
            if len(lines) == 1 or number == 1:
                return None
            raise DataError(f"{path}: line {number} is not JSON: {shortened(error, 100)}") from error
        if inside(one, "values") is None or inside(one, "timestamps") is None:
            if number == 1:
                return None
            raise DataError(f"{path}: line {number} is not a series of VictoriaMetrics' export")
        if len(one["values"]) != len(one["timestamps"]):
            raise DataError(
                f"{path}: line {number} has {len(one['timestamps'])} timestamps, {len(one['values'])} values"
            )
        found.append(one)
    labels, moments, values = _joined(
        [_labels(one) for one in found],
        [_floats(one["timestamps"]) / 1000 for one in found],
        [_floats(one["values"]) for one in found],
    )
    names, rule = _named(labels, path, naming)
    return Answer("an export of VictoriaMetrics", names, rule, moments, values, [])


def _metric_data(content: Any, path: Path, naming: Naming) -> Answer:
    """CloudWatch: the answer of get-metric-data."""
    results = content["MetricDataResults"]
    if content.get("NextToken") or any(one.get("StatusCode", "Complete") != "Complete" for one in results):
        raise DataError(
            f"{path}: is a part of CloudWatch's answer; ask for all of it (no NextToken, StatusCode Complete)"
        )
    return Answer(
        "an answer of CloudWatch",
        wide_names([str(one["Label"]) for one in results], naming, path) if results else [],
        f"{len(results):,} series",
        [one["Timestamps"] for one in results],
        [one["Values"] for one in results],
        [],
    )


def _statistics(content: Any, path: Path, naming: Naming) -> Answer:
    """CloudWatch: the answer of get-metric-statistics, which does not say what it was asked for."""
    points = content["Datapoints"]
    there = [name for name in _STATISTICS if all(name in one for one in points)]
    (chosen,) = naming.columns.get("value", there if len(there) == 1 else (None,))
    if chosen is None or chosen not in there:
        raise DataError(
            f"{path}: CloudWatch's datapoints have {', '.join(there) or 'no statistic'}; choose one, like "
            "'source.columns={value: Sum}'"
        )
    units = {str(one.get("Unit")) for one in points}
    if len(units) > 1:
        raise DataError(f"{path}: CloudWatch's datapoints have several units: {', '.join(sorted(units))}")
    if naming.workload is None:
        raise DataError(f"{path}: CloudWatch's answer does not name the workload; source.workload=NAME does")
    metric = naming.metric or str(content.get("Label") or chosen)
    moments, values = [one["Timestamp"] for one in points], [one[chosen] for one in points]
    return Answer(
        "an answer of CloudWatch", [(naming.workload, metric)], "one series", [moments], [values], []
    )


def _pointlists(series: Any, path: Path, naming: Naming) -> Answer:
    """Datadog, version 1: points ``[milliseconds, value]``."""
    labels = []
    for one in series:
        tags = one.get("tag_set") or [tag for tag in str(one.get("scope", "")).split(",") if ":" in tag]
        labels.append(_tags(tags) | ({"__name__": str(one["metric"])} if one.get("metric") else {}))
    moments, values = _pairs([one["pointlist"] for one in series])
    seconds = [one / 1000 for one in moments]
    return Answer("an answer of Datadog", *_named(labels, path, naming), seconds, values, [])


def _datadog(answer: Any, path: Path, naming: Naming) -> Answer:
    """Datadog, version 2: one list of moments in milliseconds for all series."""
    moments = _floats(answer["times"]) / 1000
    series, values = answer["series"], answer["values"]
    if len(series) != len(values) or any(len(one) != len(moments) for one in values):
        raise ValueError("series, times and values differ in length")
    labels = [_tags(one.get("group_tags") or []) for one in series]
    return Answer("an answer of Datadog", *_named(labels, path, naming), [moments] * len(series), values, [])


def _joined(
    labels: list[dict[str, str]], moments: list[np.ndarray], values: list[np.ndarray]
) -> tuple[list[dict[str, str]], list[np.ndarray], list[np.ndarray]]:
    """Join the pieces of each series; samples that two pieces share count once."""
    pieces: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for at, one in enumerate(labels):
        pieces.setdefault(tuple(sorted(one.items())), []).append(at)
    if len(pieces) == len(labels):
        return labels, moments, values
    joined = []
    for places in pieces.values():
        moment, value = (np.concatenate([column[at] for at in places]) for column in (moments, values))
        order = np.lexsort((value, moment))
        moment, value = moment[order], value[order]
        copy = np.r_[False, (np.diff(moment) == 0) & (value[1:] == value[:-1])] if len(moment) else []
        joined.append((moment[~np.asarray(copy, bool)], value[~np.asarray(copy, bool)]))
    return [dict(one) for one in pieces], [m for m, _ in joined], [v for _, v in joined]


def _named(labels: list[dict[str, str]], path: Path, naming: Naming) -> tuple[list[tuple[str, str]], str]:
    """The names of series by their labels, and the rule."""
    return (series_names(labels, naming, path), rule_of(labels, naming)) if labels else ([], "")


def _pairs(series: Sequence[Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Moments and values of series of pairs."""
    moments, values = [], []
    for one in series:
        pairs = np.empty((0, 2), object) if not one else np.array(one, dtype=object)
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise ValueError("a sample is not a moment and a value")
        moments.append(_floats(pairs[:, 0]))
        values.append(_floats(pairs[:, 1]))
    return moments, values


def _labels(series: Any) -> dict[str, str]:
    return {str(key): str(name) for key, name in series["metric"].items()}


def _tags(tags: Any) -> dict[str, str]:
    pairs = (str(tag).partition(":") for tag in tags)
    return {key: name for key, _, name in pairs}


def _floats(values: Any) -> np.ndarray:
    """Numbers, or their text, as float64; null is NaN."""
    if bool in set(map(type, values)):
        raise ValueError("a value is true or false, not a number")
    return np.asarray(values, dtype=object).astype(np.float64)
