"""Parquet files as rows, a few thousand at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from rag.errors import BadRow, Damaged, RagError
from rag.sources.rows import Header, Row

ROWS = 2000
"""The most rows decoded at a time. Of a row group no more is held than these, and pages."""

BYTES = 1 << 23
"""About how many bytes of values are decoded at a time, where rows are long."""


class ParquetRows:
    """Iterate it once: yields rows whose numbers count from 1 through the file.

    Lists are lists, structs are objects. Dates, times and decimals become their text (ISO 8601),
    for JSON has no such types. Binary columns are refused by name, for the whole file.

    Attributes:
        total: Size of the file in bytes.
        position: How many of them have been read, as the share of the rows.

    Raises:
        Damaged: The file is no parquet file, or a page of it cannot be decoded.
        BadRow: A column is missing (``check`` says so), binary or named twice.
    """

    def __init__(self, path: Path, name: str, check: Header) -> None:
        """Read ``path``; messages call it ``name``, and ``check`` is given the column names."""
        self._path, self._name, self._check = path, name, check
        self.total = path.stat().st_size
        self.position = 0

    def __iter__(self) -> Iterator[Row]:
        number = 1
        for batch in self._batches():
            yield from self._rows(batch, number)
            number += batch.num_rows

    def _batches(self) -> Iterator[pa.RecordBatch]:
        done = 0
        try:
            with self._opened() as file:
                schema, rows = file.schema_arrow, file.metadata.num_rows
                self._check(list(schema.names), 1)
                self._refuse_binary(schema)
                for batch in file.iter_batches(batch_size=_at_a_time(file.metadata)):
                    if batch.num_rows:
                        self.position = self.total * (done + batch.num_rows) // rows
                        yield batch
                        done += batch.num_rows
        except RagError:
            raise
        except (pa.ArrowException, ValueError, OverflowError) as error:
            raise self._damaged(done + 1, error) from error  # a name may be no UTF-8
        except OSError as error:
            if error.errno is not None:
                raise  # the disk failed, not the data
            raise self._damaged(done + 1, error) from error

    def _opened(self) -> pq.ParquetFile:
        # A buffer in place of whole column chunks: a row group may be the whole file.
        return pq.ParquetFile(
            self._path, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
        )

    def _rows(self, batch: pa.RecordBatch, number: int) -> Iterator[Row]:
        size = batch.nbytes // batch.num_rows + 1
        names = batch.schema.names
        columns = [_readable(column) for column in batch.columns]
        try:
            lists = [column.to_pylist() for column in columns]
        except (ValueError, OverflowError):  # a text that is not UTF-8, a date beyond the year 9999
            for row in range(batch.num_rows):
                cells = [column.slice(row, 1) for column in columns]
                yield Row(number + row, b"", self._single(names, cells, number + row), size)
            return
        for row, values in enumerate(zip(*lists, strict=True), number):
            yield Row(row, b"", {k: _plain(v) for k, v in zip(names, values, strict=True)}, size)

    def _single(self, names: list[str], cells: list[Any], number: int) -> dict[str, Any] | BadRow:
        values: dict[str, Any] = {}
        for name, cell in zip(names, cells, strict=True):
            try:
                values[name] = _plain(cell.to_pylist()[0])
            except (ValueError, OverflowError) as error:
                found = f"column {name!r} cannot be read: {error}"
                fix = "write the value again (texts as UTF-8, dates of the years 1 to 9999)"
                return BadRow(self._name, number, "row", found, fix)
        return values

    def _refuse_binary(self, schema: pa.Schema) -> None:
        for field in schema:
            if _holds_binary(field.type):
                found = f"the column {field.name!r} has the type {field.type}, which is not text"
                fix = "leave the column out of the file, or write it as strings"
                raise BadRow(self._name, 1, field.name, found, fix)

    def _damaged(self, number: int, error: Exception) -> Damaged:
        where = f"from row {number} on" if number > 1 else "from its start"
        return Damaged(
            f"{self._name}: cannot be read as parquet {where} ({str(error)[:200]}); "
            "fetch or write the file again"
        )


def _at_a_time(metadata: pq.FileMetaData) -> int:
    """The rows of a batch, from the sizes that the file states for its row groups."""
    groups = range(metadata.num_row_groups)
    size: int = sum(metadata.row_group(group).total_byte_size for group in groups)
    rows: int = metadata.num_rows
    return max(1, min(ROWS, BYTES * rows // max(size, 1)))


def raw_of(values: dict[str, Any]) -> bytes:
    """A row without bytes of its own, as one line of JSON for the file of skipped rows."""
    return json.dumps(values, default=str, ensure_ascii=True).encode()


def _readable(column: pa.Array) -> pa.Array:
    """The column with times as texts: Python's have no nanoseconds."""
    if types.is_timestamp(column.type) or types.is_time(column.type):
        return column.cast(pa.string())
    return column


def _holds_binary(kind: pa.DataType) -> bool:
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return True
    if types.is_dictionary(kind):
        return _holds_binary(kind.value_type)
    return any(_holds_binary(kind.field(place).type) for place in range(kind.num_fields))


def _plain(value: Any) -> Any:
    """The value with nothing in it but what JSON has."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value if isinstance(value, str | int | float | None) else str(value)
