"""Which columns or labels of a foreign file make the four columns of contract 3."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kforecast.errors import ConfigError, DataError, few
from kforecast.metrics.source import COLUMNS

# Names that a column of this meaning often has; they are suggested, and taken only where nothing else fits.
_TIME = (
    "timestamp",
    "time",
    "ts",
    "date",
    "datetime",
    "date_time",
    "_time",
    "epoch",
    "unix",
    "unixtime",
    "ds",
)
_ALIASES = {
    "timestamp": _TIME,
    "value": (
        *("value", "_value", "val", "y", "count", "rps", "qps", "requests", "average", "avg", "mean", "sum"),
        *("maximum", "minimum", "samplecount"),
    ),
    "workload": (
        *(
            "workload",
            "series",
            "service",
            "deployment",
            "app",
            "application",
            "unique_id",
            "item_id",
            "name",
        ),
        *("label", "host"),
    ),
    "metric": ("metric", "metric_name", "__name__", "measurement", "_measurement", "field", "_field"),
}
# Labels that name a workload, the most telling first, and those that name its namespace.
_NAMESPACES = ("namespace", "kubernetes_namespace", "exported_namespace", "k8s_namespace_name")
_WORKLOADS = (
    *("workload", "deployment", "statefulset", "daemonset", "app", "app_kubernetes_io_name", "application"),
    *("service", "service_name", "job"),
)
_METRIC = "__name__"
_MARKS = {"point": ".", "comma": ","}
# The name of the metric where a file has none.
UNNAMED = "value"
_LABELLED = re.compile(r"^\s*([A-Za-z_:][\w:.]*)?\s*\{(.*)\}\s*$", re.DOTALL)
_LABEL = re.compile(r'\s*([A-Za-z_][\w.]*)\s*[=:]~?\s*(?:"((?:[^"\\]|\\.)*)"|([^",}]*))\s*(?:,|$)')


@dataclass(frozen=True)
class Naming:
    """What the configuration says about the columns and names of a file.

    Raises
    ------
    ConfigError
        When a key has a wrong value, or two of them contradict each other.
    """

    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of contract 3's columns, the names they have in the file; several are joined by a slash."""
    workload: str | None = None
    metric: str | None = None
    """The name for all series of the file."""
    decimal: str | None = None
    """The decimal mark, ``.`` or ``,``."""
    on_multiple: str | None = field(default=None, compare=False)
    """With ``sum`` and ``mean``, several series may have the same names."""

    @classmethod
    def checked(cls, columns: Any, workload: Any, metric: Any, decimal: Any) -> "Naming":
        """Check the keys ``columns``, ``workload``, ``metric`` and ``decimal`` of the source."""
        if columns is not None and not isinstance(columns, Mapping):
            raise ConfigError(
                f"source.columns: {columns!r} is wrong; write 'source.columns={{timestamp: ts, value: rps}}'"
            )
        mapped: dict[str, tuple[str, ...]] = {}
        for name, given in (columns or {}).items():
            if name not in COLUMNS:
                raise ConfigError(f"source.columns: {name!r} is unknown; it maps {', '.join(COLUMNS)}")
            many = [given] if isinstance(given, str | int) and not isinstance(given, bool) else given
            if name in ("timestamp", "value") and not isinstance(given, str | int):
                many = None
            if (
                not isinstance(many, Collection)
                or not many
                or not all(isinstance(n, str | int) for n in many)
            ):
                raise ConfigError(f"source.columns.{name}: {given!r} is not the name of a column")
            mapped[name] = tuple(str(one) for one in many)
        for key, text in (("workload", workload), ("metric", metric)):
            if text is None:
                continue
            if isinstance(text, bool) or not isinstance(text, str | int | float) or not str(text).strip():
                raise ConfigError(f"source.{key}: {text!r} is not a name")
            if key in mapped:
                raise ConfigError(f"source.{key}: source.columns.{key} is given, too; leave out one of them")
        if decimal not in (None, *_MARKS):
            raise ConfigError(f"source.decimal: {decimal!r} is wrong; use point or comma")
        workload, metric = (None if text is None else str(text).strip() for text in (workload, metric))
        return cls(mapped, workload, metric, None if decimal is None else _MARKS[decimal])

    @property
    def constants(self) -> dict[str, str]:
        """The given names, by column."""
        return {
            column: name
            for column, name in (("workload", self.workload), ("metric", self.metric))
            if name is not None
        }


@dataclass(frozen=True)
class Shape:
    """Which columns of a table are the four of contract 3, by position."""

    timestamp: int
    value: int | None
    """None for a wide table, which has a column a series."""
    names: Mapping[str, tuple[int, ...]]
    """Columns of ``workload`` and ``metric``; several are joined by a slash."""
    constants: Mapping[str, str]
    """Names for all rows."""
    series: tuple[int, ...] = ()
    """The columns of a wide table that are series."""
    labels: tuple[int, ...] = ()
    """Columns that are labels, from which :func:`series_names` makes the names."""

    @property
    def used(self) -> list[int]:
        """All positions that are read."""
        value = () if self.value is None else (self.value,)
        named = [one for many in self.names.values() for one in many]
        return sorted({self.timestamp, *value, *named, *self.series, *self.labels})

    def positions(self, columns: Sequence[str]) -> list[int]:
        """The positions to read for some columns of contract 3, in their order."""
        places = {
            "timestamp": (self.timestamp,),
            "value": self.series if self.value is None else (self.value,),
            **self.names,
        }
        return [at for column in columns for at in places.get(column, ())]


def shape_of(header: Sequence[str], naming: Naming, path: object, *, grafana: bool = False) -> Shape:
    """Find the columns of contract 3 in a header.

    A name is found exactly, else without regard to case and surrounding blanks. A single column whose name
    means time is the timestamp. A table without a column of values is wide.

    Parameters
    ----------
    grafana:
        Whether the file is known to be Grafana's; then columns without names are labels or series.

    Raises
    ------
    DataError
        When a column is missing, twice there, or named twice; the message has the remedy.
    """
    found: dict[str, tuple[int, ...]] = {}
    series = [name for name in header if name.strip().lower() not in _TIME]
    labelled = bool(series) and all(_LABELLED.match(name) for name in series)
    for column, wanted in naming.columns.items():
        if labelled and column in ("workload", "metric"):
            continue  # they name labels, which wide_names() reads
        found[column] = tuple(_mapped(header, one, column, path) for one in wanted)
    mapped = {at for many in found.values() for at in many}
    for column in COLUMNS:
        at = None if column in found else _position(header, column, path)
        if at is not None and at not in mapped:
            if column in naming.constants:
                raise DataError(
                    f"{path}: source.{column} names all series, but the file has a column {column}; "
                    f"leave out source.{column}, or rename the column"
                )
            found[column] = (at,)
    if "timestamp" not in found:
        times = [at for at, name in enumerate(header) if name.strip().lower() in _TIME]
        if not times and header and header[0].strip() == "":
            times = [0]  # pandas' index without a name
        if len(times) == 1:
            found["timestamp"] = (times[0],)
    if grafana and "value" not in found:  # queries of a table have letters
        values = [at for at, name in enumerate(header) if re.fullmatch(r"Value #\w+", name.strip())]
        if len(values) > 1:
            raise DataError(
                f"{path}: several columns of values, {shortened_list([header[at] for at in values])}; choose "
                f"one, like 'source.columns={{value: {quoted(header[values[0]].strip())}}}'"
            )
        found |= {"value": tuple(values)} if values else {}
    taken = {at for many in found.values() for at in many}
    rest = [at for at in range(len(header)) if at not in taken and header[at].strip()]
    named = {column: at for column, at in found.items() if column in ("workload", "metric")}
    constants = naming.constants
    missing = [column for column in COLUMNS if column not in found and column not in constants]
    if "timestamp" not in found:
        raise _lacking(header, missing, found, path)
    timestamp = found["timestamp"][0]
    if "value" in found:
        value = found["value"][0]
        if not missing:
            return Shape(timestamp, value, named, constants)
        if grafana:  # series_names() takes the labels that the configuration names
            labels = sorted({*rest, *(at for many in named.values() for at in many)})
            return Shape(timestamp, value, {}, constants, labels=tuple(labels))
        raise _lacking(header, missing, found, path)
    if {"workload", "metric"} <= {*found, *constants}:
        rows = [at for at in rest if header[at].strip().lower() != "unit"]
        if len(rows) == 1:
            return Shape(timestamp, rows[0], named, constants)
    elif rest and not named and (constants or grafana):
        return Shape(timestamp, None, {}, constants, series=tuple(rest))
    raise _lacking(header, missing, found, path)


def wide_names(columns: Sequence[str], naming: Naming, path: object) -> list[tuple[str, str]]:
    """Workload and metric of each column of a wide table.

    Columns named like ``qps{app="web"}`` have the names that :func:`series_names` makes of the labels. Of
    other columns the name is the workload; with ``source.workload`` it is the metric.

    Raises
    ------
    DataError
        When two columns would get the same names.
    """
    labelled = [_LABELLED.match(column) for column in columns]
    if all(labelled) and naming.workload is None:
        labels = []
        for match, column in zip(labelled, columns, strict=True):
            assert match is not None
            pairs = {name: quoted or bare for name, quoted, bare in _LABEL.findall(match[2])}
            if len(pairs) != len(_LABEL.findall(match[2])):
                raise DataError(f"{path}: a label appears twice in the column {column[:100]!r}")
            labels.append(pairs | ({_METRIC: match[1]} if match[1] else {}))
        return series_names(labels, naming, path)
    if naming.workload is not None:
        names = [(naming.workload, column.strip()) for column in columns]
    else:
        names = [(column.strip(), naming.metric or UNNAMED) for column in columns]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: two columns are the series {' '.join(twice)[:200]}; rename one of them")
    return names


def series_names(labels: Sequence[Mapping[str, str]], naming: Naming, path: object) -> list[tuple[str, str]]:
    """Workload and metric of series that are told apart by labels.

    The metric is ``__name__``. The workload is ``namespace/deployment`` (or another label of workloads,
    without the namespace where there is none), else the only label that tells the series apart. The
    configuration decides first.

    Raises
    ------
    DataError
        When the labels do not name a workload, or two series would get the same names.
    """
    metrics = [
        naming.metric or _joined(one, naming.columns.get("metric"), path) or one.get(_METRIC) or UNNAMED
        for one in labels
    ]
    workloads = _workloads(labels, naming, path)
    names = list(zip(workloads, metrics, strict=True))
    if len(set(names)) < len(names) and naming.on_multiple not in ("sum", "mean"):
        seen: dict[tuple[str, str], int] = {}
        for at, name in enumerate(names):
            if name in seen:
                one, other = labels[seen[name]], labels[at]
                differ = [key for key in sorted({*one, *other}) if one.get(key) != other.get(key)]
                telling = _listed([*_used(labels, naming), *differ][:4])
                raise DataError(
                    f"{path}: several series would be called {' '.join(name)[:200]}; they differ in "
                    f"{few(differ) or 'nothing'}: add them up with source.on_multiple=sum, or name the "
                    f"labels, like 'source.columns={{workload: {telling}}}'"
                )
            seen[name] = at
    return names


def rule_of(labels: Sequence[Mapping[str, str]], naming: Naming) -> str:
    """How :func:`series_names` names these series, for a note."""
    used = [] if naming.workload is not None else _used(labels, naming)
    return f"workload is the label {'/'.join(used)}" if used else f"{len(labels):,} series"


def _workloads(labels: Sequence[Mapping[str, str]], naming: Naming, path: object) -> list[str]:
    if naming.workload is not None:
        return [naming.workload] * len(labels)
    if used := _used(labels, naming):
        return [_joined(one, tuple(used), path) for one in labels]
    everywhere = [key for key in labels[0] if key != _METRIC and all(one.get(key) for one in labels)]
    metric = naming.columns.get("metric", ())
    telling = [key for key in everywhere if key not in metric and len({one[key] for one in labels}) > 1]
    differing = {key for one in labels for key in one if one[key] != labels[0].get(key)} - {_METRIC, *metric}
    if len(telling) == 1 and differing == {*telling}:
        return [one[telling[0]] for one in labels]
    if not differing and len(everywhere) == 1:
        return [one[everywhere[0]] for one in labels]
    if differing:
        raise DataError(
            f"{path}: the series differ in the labels {few(sorted(differing))}; say which of them name "
            f"a workload, like 'source.columns={{workload: {_listed(sorted(differing)[:2])}}}'"
        )
    raise DataError(f"{path}: no label names the workload; source.workload=NAME does")


def _used(labels: Sequence[Mapping[str, str]], naming: Naming) -> list[str]:
    """The labels that make the workload; empty when no usual one is there."""
    if "workload" in naming.columns:
        return [*naming.columns["workload"]]
    taken = naming.columns.get("metric", ())
    workload = next((k for k in _WORKLOADS if k not in taken and all(one.get(k) for one in labels)), None)
    namespace = next((k for k in _NAMESPACES if k not in taken and all(one.get(k) for one in labels)), None)
    return [] if workload is None else [*([namespace] if namespace else []), workload]


def _joined(labels: Mapping[str, str], wanted: tuple[str, ...] | None, path: object) -> str:
    for key in wanted or ():
        if not labels.get(key):
            has = few(sorted(labels)) or "no labels"
            raise DataError(f"{path}: a series has no label {key!r} (source.columns); it has {has}")
    return "/".join(labels[key] for key in wanted or ())


def _position(header: Sequence[str], wanted: str, path: object) -> int | None:
    """The position of a column; None when it is not there."""
    exact = [at for at, name in enumerate(header) if name == wanted]
    close = exact or [at for at, name in enumerate(header) if name.strip().lower() == wanted.strip().lower()]
    if len(close) > 1:
        raise DataError(f"{path}: the column {wanted} appears twice")
    return close[0] if close else None


def _mapped(header: Sequence[str], wanted: str, column: str, path: object) -> int:
    at = _position(header, wanted, path)
    if at is None:
        raise DataError(
            f"{path}: no column {wanted} (source.columns.{column}); the file has: {shortened_list(header)}"
        )
    return at


def _lacking(
    header: Sequence[str], missing: list[str], found: Mapping[str, tuple[int, ...]], path: object
) -> DataError:
    """The error for a header without some columns, with a mapping to copy."""
    said = f"{path}: no column {', '.join(missing)}; the file has: {shortened_list(header)}"
    if header and all(re.fullmatch(r"\s*[-\d.:TZ+ ]*\d[-\d.:TZ+ ]*\s*", name) for name in header[:1]):
        return DataError(said + "; the first line must name the columns")
    taken = {at for many in found.values() for at in many}
    guesses: dict[str, str] = {}
    for column in missing:
        for alias in _ALIASES[column]:
            at = next(
                (n for n, name in enumerate(header) if name.strip().lower() == alias and n not in taken), None
            )
            if at is not None:
                taken.add(at)
                guesses[column] = header[at].strip()
                break
    rest = [name for at, name in enumerate(header) if at not in taken and name.strip()]
    wide = "timestamp" in found and {"value", "workload", "metric"} <= {*missing} and "value" not in guesses
    if wide and len(rest) > 1:
        return DataError(
            f"{said}; if each column is a series, name what they measure: source.metric=NAME (the columns "
            "are workloads), or source.workload=NAME (the columns are metrics)"
        )
    columns = {c: guesses.get(c, "COLUMN") for c in missing if c in guesses or c in ("timestamp", "value")}
    given = [f"source.{c}=NAME" for c in missing if c in ("workload", "metric") and c not in guesses]
    pairs = ", ".join(f"{c}: {quoted(name)}" for c, name in columns.items())
    remedy = " ".join([*([f"'source.columns={{{pairs}}}'"] if pairs else []), *given])
    return DataError(f"{said}; say which they are: {remedy}")


def shortened_list(header: Sequence[str], most: int = 200) -> str:
    """The names of a header for a message."""
    text = ", ".join(name[: most + 1] for name in header[:50]) or "nothing"
    text = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
    return text if len(text) <= most else text[:most] + " ..."


def quoted(name: str) -> str:
    """A name as a value in an override."""
    return name if re.fullmatch(r"[A-Za-z_][\w./@-]*", name) else json.dumps(name, ensure_ascii=False)


def _listed(names: Sequence[str]) -> str:
    return quoted(names[0]) if len(names) == 1 else f"[{', '.join(map(quoted, names))}]"
