"""Rows from series that a parser found: one table of contract 3."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kforecast.errors import DataError
from kforecast.metrics.formats.names import Shape
from kforecast.metrics.source import COLUMNS

NAME = pa.dictionary(pa.int32(), pa.string())
TYPES = {"timestamp": pa.float64(), "value": pa.float64(), "workload": NAME, "metric": NAME}


def rows_of(
    names: Sequence[tuple[str, str]], lengths: Sequence[int], timestamp: pa.Array, value: np.ndarray
) -> pa.Table:
    """A table of series that stand one below the other.

    Parameters
    ----------
    names:
        Workload and metric of each series, ``[series]``.
    lengths:
        Rows of each series, ``[series]``.
    timestamp, value:
        Of all rows, ``[rows]``; timestamps in unix seconds, or as text.
    """
    codes = np.repeat(np.arange(len(names), dtype=np.int32), lengths)
    return table_of(
        timestamp, value, coded(codes, [w for w, _ in names]), coded(codes, [m for _, m in names])
    )


def table_of(timestamp: pa.Array, value: np.ndarray, workload: pa.Array, metric: pa.Array) -> pa.Table:
    """A table of the four columns of contract 3."""
    values = pa.array(value, pa.float64())
    return pa.table({"timestamp": timestamp, "value": values, "workload": workload, "metric": metric})


def coded(codes: np.ndarray, names: Sequence[str]) -> pa.Array:
    """A dictionary-encoded column: ``codes`` (``[rows]``) index ``names``, which may repeat."""
    different = list(dict.fromkeys(names))
    number = {name: at for at, name in enumerate(different)}
    renumbered = np.array([number[name] for name in names] or [0], np.int32)
    return pa.DictionaryArray.from_arrays(
        pa.array(renumbered[codes] if len(codes) else codes.astype(np.int32)),
        pa.array(different, pa.string()),
    )


def constant(name: str, rows: int) -> pa.Array:
    """A dictionary-encoded column of one name."""
    return coded(np.zeros(rows, np.int32), [name])


def check_common_moments(
    rows: pa.Table, codes: np.ndarray, names: Sequence[tuple[str, str]], path: object
) -> None:
    """Refuse to add up series that have moments of their own: bins would hold their mean.

    Parameters
    ----------
    rows:
        Timestamps in unix seconds.
    codes:
        The series of each row, int ``[rows]``: an index of ``names``, in which series to add up are equal.

    Raises
    ------
    DataError
        For series of one name that come in turn.
    """
    name, count = Counter(names).most_common(1)[0]
    if count == 1:
        return
    chosen = np.isin(codes, [at for at, one in enumerate(names) if one == name])
    second = np.floor(rows.column("timestamp").to_numpy()[chosen])
    order = np.argsort(second, kind="stable")
    second, series = second[order], codes[chosen][order]
    turns = np.count_nonzero(np.diff(series))
    if 2 * turns > len(series) and 2 * np.count_nonzero(np.diff(second) == 0) < len(second) / 2:
        raise DataError(
            f"{path}: the {count:,} series called {' '.join(name)[:200]} have moments of their own; add them "
            "up at common moments first, in the query, or average them: source.on_multiple=mean"
        )


def series_of(table: pa.Table) -> np.ndarray:
    """Numbers of the series of all rows of a table with unified dictionaries, int64 ``[rows]``."""
    numbers = np.zeros(table.num_rows, np.int64)
    for name in ("workload", "metric"):
        column = table.column(name).combine_chunks()
        width = len(column.dictionary) + 1
        numbers = numbers * width + column.indices.fill_null(width - 1).to_numpy(zero_copy_only=False)
    return numbers


def renamed(
    table: pa.Table, shape: Shape, header: Sequence[str], columns: Sequence[str] = COLUMNS
) -> pa.Table:
    """Some columns of contract 3, of a table that has those of the file."""
    found, fields = [], []
    for column in columns:
        places = [table.schema.get_field_index(header[at]) for at in shape.positions((column,))]
        if column in shape.constants:
            found.append(constant(shape.constants[column], table.num_rows))
            fields.append(pa.field(column, NAME))
        elif len(places) > 1:
            parts = (table.column(place).cast(pa.string()) for place in places)
            found.append(pc.binary_join_element_wise(*parts, "/").dictionary_encode())
            fields.append(pa.field(column, NAME))
        else:
            found.append(table.column(places[0]))
            fields.append(table.schema.field(places[0]).with_name(column))
    return pa.table(found, schema=pa.schema(fields))
