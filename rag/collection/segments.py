"""A segment: an immutable run of passages, mapped, with a sorted table from id to row."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rag.errors import REFUSED, Damaged
from rag.sources.ids import hash_ids

FORMAT = 1
PASSAGES = "passages.arrow"
IDS = "ids.arrow"


def write_segment(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, out: Path
) -> tuple[int, int]:
    """Write the passages into the folder ``out``, batch by batch.

    Returns:
        The number of rows and of characters of text.
    """
    ids: list[NDArray[np.uint64]] = []
    documents: list[NDArray[np.uint64]] = []
    rows = characters = 0
    with pa.OSFile(str(out / PASSAGES), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            ids.append(hash_ids(batch["id"]))
            documents.append(hash_ids(batch["document"]))
            rows += batch.num_rows
            characters += pc.sum(pc.utf8_length(batch["text"])).as_py() or 0
    empty = [np.empty(0, np.uint64)]
    _write_ids(np.concatenate(ids or empty), np.concatenate(documents or empty), out / IDS)
    return rows, characters


def _write_ids(ids: NDArray[np.uint64], documents: NDArray[np.uint64], path: Path) -> None:
    """Two tables in one file: every id, and the first row of every run of one document."""
    first = np.flatnonzero(np.concatenate(([True], documents[1:] != documents[:-1])))
    first = first[: len(documents)]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _IDS_SCHEMA) as writer:
        for hashes, rows in ((ids, np.arange(len(ids))), (documents[first], first)):
            order = np.argsort(hashes, kind="stable")
            arrays = [pa.array(hashes[order]), pa.array(rows[order].astype(np.uint32))]
            writer.write_batch(pa.record_batch(arrays, schema=_IDS_SCHEMA))


_IDS_SCHEMA = pa.schema([("hash", pa.uint64()), ("row", pa.uint32())])


class Segment:
    """A mapped segment; rows are counted from 0 in it.

    Raises:
        Damaged: a file is missing.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        """Map the files; nothing is read yet."""
        self.folder, self.rows = folder, rows
        self._maps = {name: self._map(name) for name in (PASSAGES, IDS)}

    def _map(self, name: str) -> pa.MemoryMappedFile:
        try:
            return pa.memory_map(str(self.folder / name))
        except OSError as error:
            path = self.folder / name
            if error.errno in REFUSED:
                raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
            what = os.strerror(error.errno) if error.errno else str(error)
            raise self._damaged(name, what) from None

    def _read(self, name: str) -> list[pa.RecordBatch]:
        """The record batches of a file, mapped, their buffers in bounds."""
        try:
            reader = pa.ipc.open_file(self._maps[name])
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
            for batch in batches:
                batch.validate()
            return batches
        except (pa.ArrowException, OSError) as error:
            raise self._damaged(name, error) from None

    @cached_property
    def batches(self) -> list[pa.RecordBatch]:
        """The passages in order, mapped; what their buffers hold is not checked."""
        batches = self._read(PASSAGES)
        rows = sum(batch.num_rows for batch in batches)
        if rows != self.rows:
            raise self._damaged(PASSAGES, f"it has {rows} rows, the manifest says {self.rows}")
        return batches

    def whole_batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The passages in order, all or these ``columns``; ``Damaged`` where text is no UTF-8."""
        for batch in self.batches:
            with self._checking():
                if columns is not None:
                    batch = batch.select(list(columns))
                batch.validate(full=True)
            yield batch

    def _damaged(self, name: str, what: object) -> Damaged:
        return Damaged(
            f"{self.folder / name}: is damaged ({what}); 'rag verify' names all damage, and "
            "'rag index' from the source repairs it"
        )

    @contextmanager
    def _checking(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, KeyError) as error:
            raise self._damaged(PASSAGES, error) from None

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(batches + 1,) int64: the first row of each batch, and the end."""
        return np.cumsum([0, *(batch.num_rows for batch in self.batches)], dtype=np.int64)

    @cached_property
    def _ids(self) -> list[tuple[NDArray[np.uint64], NDArray[np.uint32]]]:
        tables = self._read(IDS)
        if [part.schema for part in tables] != [_IDS_SCHEMA] * 2:
            raise self._damaged(IDS, "it does not hold the two tables from hash to row")
        if tables[0].num_rows != self.rows:
            raise self._damaged(IDS, f"it has {tables[0].num_rows} ids of {self.rows} rows")
        return [(part["hash"].to_numpy(), part["row"].to_numpy()) for part in tables]

    def rows_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The row of each passage id, (n,) int64, -1 where the segment has none."""
        return self._find(ids, 0, "id")

    def document_rows(self, documents: Sequence[str]) -> dict[int, NDArray[np.int64]]:
        """Place in ``documents`` to all rows of that document, for those that the segment has."""
        first = self._find(documents, 1, "document")
        places = np.flatnonzero(first >= 0).tolist()
        return {place: self._run(int(first[place]), documents[place]) for place in places}

    def _run(self, row: int, document: str) -> NDArray[np.int64]:
        end, step = row + 1, 64
        while end < self.rows:
            ahead = np.arange(end, min(end + step, self.rows))
            names = self.take(ahead, ("document",))["document"].to_pylist()
            same = next((n for n, name in enumerate(names) if name != document), len(names))
            end += same
            if same < len(names):
                break
        return np.arange(row, end)

    def _find(self, names: Sequence[str], table: int, column: str) -> NDArray[np.int64]:
        hashes, rows = self._ids[table]
        wanted = hash_ids(list(names))
        low = np.searchsorted(hashes, wanted, "left")
        high = np.searchsorted(hashes, wanted, "right")
        found = np.full(len(wanted), -1, np.int64)
        hits = np.flatnonzero(high > low)
        if not len(hits):
            return found
        # A hash may stand for two ids, so the ids themselves decide.
        candidates = np.concatenate([rows[low[hit] : high[hit]] for hit in hits]).astype(np.int64)
        owners = np.repeat(hits, (high - low)[hits])
        if candidates.max() >= self.rows:
            raise self._damaged(IDS, f"it names row {candidates.max()} of {self.rows}")
        texts = self.take(candidates, (column,))[column].to_pylist()
        for owner, row, text in zip(owners.tolist(), candidates.tolist(), texts, strict=True):
            if text == names[owner] and found[owner] < 0:
                found[owner] = row
        return found

    def take(self, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """The ``columns`` of these rows, in this order."""
        unique, inverse = np.unique(rows, return_inverse=True)
        places = np.searchsorted(self.starts, unique, "right") - 1
        tables = []
        for place in np.unique(places).tolist():
            local = unique[places == place] - self.starts[place]
            with self._checking():
                batch = self.batches[place].select(list(columns))
                tables.append(pa.Table.from_batches([_taken(batch, local)]))
        if not tables:
            return pa.Table.from_batches([self.batches[0].slice(0, 0).select(list(columns))])
        table = pa.concat_tables(tables).combine_chunks()
        return table.take(pa.array(inverse))


def _taken(batch: pa.RecordBatch, rows: NDArray[np.int64]) -> pa.RecordBatch:
    """These rows of a mapped batch; ``ArrowInvalid`` where they do not hold valid text.

    ``take`` trusts the offsets of strings, and damaged ones would have it read anywhere. Checking
    those of the wanted rows alone costs what they cost, however large the segment is.
    """
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_string(column.type):
            _, marks, text = column.buffers()
            offsets = np.frombuffer(marks, np.int32)[column.offset :]
            starts, ends = offsets[rows], offsets[rows + 1]
            size = text.size if text is not None else 0
            if (starts < 0).any() or (ends < starts).any() or (ends > size).any():
                raise pa.ArrowInvalid(f"column {name!r}: a text lies outside the file")
    taken = batch.take(pa.array(rows))
    taken.validate(full=True)
    return taken
