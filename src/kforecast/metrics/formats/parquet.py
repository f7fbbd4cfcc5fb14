"""Parquet files: where their columns are, and their rows in batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from kforecast.errors import DataError
from kforecast.metrics.decompression import check_parquet
from kforecast.metrics.formats.names import Naming, Shape, shape_of
from kforecast.metrics.formats.series import TYPES, constant, renamed
from kforecast.metrics.moments import NotAMoment, is_number, read_arrow, shown

# Bytes of a column read at once, and rows decoded at once.
_BUFFER = 4 << 20
_BATCH_ROWS = 1 << 19


@dataclass(frozen=True)
class ParquetLayout:
    """A Parquet file and where its columns of contract 3 are."""

    path: Path
    schema: pa.Schema
    """Of the file, and the columns that its folders say."""
    header: tuple[str, ...]
    shape: Shape
    said: Mapping[str, str]

    @classmethod
    def of(cls, path: Path, said: Mapping[str, str], naming: Naming) -> "ParquetLayout":
        """Find the columns of a Parquet file, and check their types.

        Parameters
        ----------
        said:
            The columns that its folders say, with their values.

        Raises
        ------
        DataError
            When a column is missing, twice there, or of a type that contract 3 does not have.
        OSError, ArrowException
            When the file cannot be read.
        """
        schema = pa.parquet.read_schema(path)
        if both := {*schema.names} & {*said}:
            raise DataError(f"{path}: the column {min(both)} is in the file, and in the names of its folders")
        for name in said:
            schema = schema.append(pa.field(name, pa.string()))
        # An index that pandas kept is no series, unless it is a time.
        shown_names = [
            "" if name.startswith("__index_level_") and is_number(schema.field(at).type) else name
            for at, name in enumerate(schema.names)
        ]
        times = [field.name for field in schema if pa.types.is_temporal(field.type)]
        if len(times) == 1 and "timestamp" not in naming.columns and "timestamp" not in schema.names:
            naming = replace(naming, columns={**naming.columns, "timestamp": (times[0],)})
        shape = shape_of(shown_names, naming, path)
        header = tuple(schema.names)
        check_parquet(path, tuple(header[at] for at in shape.used))
        timestamp = schema.field(shape.timestamp)
        try:
            read_arrow(pa.array([], timestamp.type), timestamp)
        except NotAMoment as error:
            raise DataError(f"{path}: {error.words(0)}") from error
        for at in shape.series if shape.value is None else (shape.value,):
            kind = schema.field(at).type
            if not is_number(kind.value_type if pa.types.is_dictionary(kind) else kind):
                name = "value" if shape.value is not None else f"the column {header[at][:100]}"
                raise DataError(f"{path}: {name} has the type {shown(kind, str)}; numbers are expected")
        for column, places in shape.names.items():
            for at in places:
                kind = schema.field(at).type
                number = pa.types.is_primitive(kind) and not pa.types.is_integer(kind)
                if pa.types.is_nested(kind) or number:
                    raise DataError(f"{path}: {column} has the type {shown(kind, str)}; text is expected")
        return cls(path, schema, header, shape, said)

    @property
    def moments(self) -> pa.Field:
        """The column of timestamps."""
        return self.schema.field(self.shape.timestamp)

    def batches(self, columns: tuple[str, ...], others: Sequence[str] = ()) -> Iterator[pa.Table]:
        """Some columns of contract 3, and others as they are, a batch at a time."""
        chosen = [self.header[at] for at in self.shape.positions(columns)] + [*others]
        chosen = [name for name in chosen if name not in self.said]
        # As dictionaries: each name is held once, however long it is.
        names = [self.header[at] for many in self.shape.names.values() for at in many]
        if pa.types.is_string(self.moments.type):
            names.append(self.header[self.shape.timestamp])
        names = [name for name in names if name not in self.said]
        with pa.parquet.ParquetFile(self.path, read_dictionary=names, buffer_size=_BUFFER) as file:
            # A few row groups at a time: an iteration over all of them would keep the buffers of each.
            groups: list[int] = []
            rows = 0
            for group in range(file.num_row_groups):
                groups.append(group)
                rows += file.metadata.row_group(group).num_rows
                if rows < _BATCH_ROWS and group + 1 < file.num_row_groups:
                    continue
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=chosen):
                    table = pa.Table.from_batches([batch])
                    for column, name in self.said.items():
                        table = table.append_column(column, constant(name, batch.num_rows))
                    found = _typed(renamed(table, self.shape, self.header, columns))
                    for name in others:
                        found = found.append_column(name, table.column(name))
                    yield found
                groups, rows = [], 0

    def whole(self) -> pa.Table:
        """All columns that are read."""
        names = [self.header[at] for at in self.shape.used]
        return pa.parquet.read_table(self.path, columns=names, partitioning=None)


def _typed(table: pa.Table) -> pa.Table:
    """Cast values and names of a Parquet file to our types."""
    for place, field in enumerate(table.schema):
        if field.name != "timestamp" and field.type != TYPES[field.name]:
            column = table.column(place)
            numbers = pa.types.is_dictionary(field.type) and pa.types.is_integer(field.type.value_type)
            if numbers or (pa.types.is_dictionary(field.type) and field.name == "value"):
                column = column.cast(field.type.value_type)
            if field.name != "value" and pa.types.is_integer(column.type):  # the numbers of services
                column = column.cast(pa.string())
            safe = field.name != "value"
            table = table.set_column(place, field.name, column.cast(TYPES[field.name], safe=safe))
    return table
