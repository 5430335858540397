"""The reader: a source as a stream of record batches of passages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from rag.errors import BadRow, InvalidInput, RagError
from rag.passages import FieldType, passage_schema
from rag.sources.documents import Document, Documents
from rag.sources.duplicates import Seen
from rag.sources.lines import Lines
from rag.sources.rows import Row, csv_rows, json_rows, tsv_rows
from rag.sources.settings import Source, Split
from rag.sources.skipped import Skipped
from rag.sources.split import pieces

BATCH = 2000
"""The most passages in a batch, and the most documents held at a time."""

BLOCK_BYTES = 1 << 24
"""A batch has fewer passages, and fewer documents are held, where they reach this size."""

_Item = tuple[Row, Document | BadRow]


class Reader:
    """Iterate it to read a source: yields record batches of ``passage_schema(fields)``.

    Each batch holds at most 2,000 passages (fewer where texts are long), in the order of the
    file; no batch is empty. Without ``split`` a document is one passage with its id; with it,
    passages are cut as ``Split`` says and have the id ``{document}#{part}`` (why these never
    collide: ``rag.sources.split``). Keys of a row that are neither mapped nor declared go to
    ``meta``. What a row must hold, and what is made of integers as ids, of nulls and of empty
    cells: ``rag.sources.documents.Documents``.

    A row is bad if it cannot be decoded or parsed, if a column is absent, empty or of another
    type, or if its id stands in an earlier row that is not bad itself. It stops the reading or is
    skipped, as ``source.on_bad`` says. What is wrong with a whole file (UTF-16, a header without
    a needed column, compressed data that end early) is raised in either case: skipping it would
    pass off part of a corpus as the whole.

    Memory is bounded by a few times 2,000 documents or 16 MB of rows (one document, if that is
    longer), and by 24 bytes a document to find duplicates. Iterating again reads again from
    the start.

    Args:
        source: What to read.
        fields: The declared fields, name to type, which become columns.
        split: How to cut documents; None keeps them whole.
        skipped: The file for skipped rows; needed if ``source.on_bad`` is ``skip``. It is made
            only if there is a bad row; one of an earlier run is removed when reading starts.

    Attributes:
        rows: Documents read so far.
        bad: Rows skipped so far.
        bytes_read: Position in the file as stored, for a progress bar.
        bytes_total: Size of the file as stored.

    Raises:
        NotFound: The source does not exist.
        InvalidInput: The settings do not fit one another or the file.
        BadRow: While iterating: a row is bad and ``source.on_bad`` is ``stop``.
        Damaged: While iterating: compressed data end early or are damaged.
    """

    def __init__(
        self,
        source: Source,
        *,
        fields: Mapping[str, FieldType] = MappingProxyType({}),
        split: Split | None = None,
        skipped: Path | None = None,
    ) -> None:
        (self._file,) = source.files()
        # As the user wrote it: Path drops a leading ./ and doubled slashes.
        beir = source.type == "beir"
        self._name = f"{source.path.rstrip('/')}/{self._file.name}" if beir else source.path
        self._source, self._split = source, split
        self._documents = Documents(source, self._name, fields)
        self._schema = passage_schema(fields)
        self._skipped = _skip_file(source, self._file, skipped)
        self._lines = Lines(self._file, self._name)
        self.rows = 0
        self.bad = 0

    @property
    def bytes_read(self) -> int:
        """How many bytes of the file, as stored, have been read."""
        return self._lines.position

    @property
    def bytes_total(self) -> int:
        """The size of the file as stored."""
        return self._lines.total

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        self.rows = self.bad = 0
        self._lines = Lines(self._file, self._name)
        log = Skipped(self._skipped) if self._skipped is not None else None
        columns = _Columns(self._schema, self._split)
        try:
            for document in self._good(log):
                self.rows += 1
                yield from columns.add(document)
            yield from columns.rest()
        finally:
            if log is not None:
                log.close()

    def _good(self, log: Skipped | None) -> Iterator[Document]:
        """The documents that are not bad; the bad are raised or written to ``log``."""
        seen = Seen()
        for block in _blocks(self._items()):
            documents = [item for _, item in block if isinstance(item, Document)]
            first = iter(seen.add([d.id for d in documents], [d.line for d in documents]))
            for row, item in block:
                if isinstance(item, Document):
                    line = next(first)
                    if not line:
                        yield item
                        continue
                    item = self._duplicate(item, line)
                if log is None:
                    raise item
                self.bad += 1
                log.add(item, row.raw)

    def _items(self) -> Iterator[_Item]:
        """Every row with its document, or with what is wrong with it."""
        for row in self._rows():
            try:
                yield row, self._documents(row)
            except BadRow as bad:
                yield row, bad

    def _rows(self) -> Iterator[Row]:
        if self._source.type == "csv":
            return csv_rows(self._name, self._lines, self._documents.check_header)
        if self._source.type == "tsv":
            return tsv_rows(self._name, self._lines, self._documents.check_header)
        return json_rows(self._name, self._lines)

    def _duplicate(self, document: Document, first: int) -> BadRow:
        found = f"{document.id[:100]!r} is the id of line {first} too"
        fix = "give each document its own id, or remove one of the two"
        return BadRow(self._name, document.line, "id", found, fix)


def _skip_file(source: Source, file: Path, skipped: Path | None) -> Path | None:
    """Where skipped rows go; None if none are skipped."""
    if source.on_bad == "stop":
        return None
    if skipped is None:
        raise InvalidInput("source.on_bad is 'skip', but no file for the skipped rows is given")
    if skipped.exists() and skipped.samefile(file):
        raise InvalidInput(f"{skipped}: the file for the skipped rows is the source itself")
    return skipped


def _blocks(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Lists of items, bounded in number and size. An error comes after the items before it."""
    block: list[_Item] = []
    size = 0
    try:
        for item in items:
            block.append(item)
            size += len(item[0].raw)
            if len(block) == BATCH or size >= BLOCK_BYTES:
                yield block
                block, size = [], 0
    except RagError:
        yield block
        raise
    yield block


class _Columns:
    """Collects passages column by column and turns them into batches."""

    def __init__(self, schema: pa.Schema, split: Split | None) -> None:
        self._schema, self._split = schema, split
        self._lists: list[list[Any]] = [[] for _ in schema]
        self._size = 0  # characters of text

    def add(self, document: Document) -> Iterator[pa.RecordBatch]:
        """Add the passages of a document; yields the batches that this fills."""
        name, text = document.id, document.text
        if self._split is None:
            spans = [(0, len(text))]
        else:
            spans = pieces(text, self._split)
        for part, (start, end) in enumerate(spans):
            row = (
                name if self._split is None else f"{name}#{part}",
                name,
                part,
                start,
                end,
                document.title,
                text[start:end],
                *document.values,
                document.meta,
            )
            for column, value in zip(self._lists, row, strict=True):
                column.append(value)
            self._size += end - start
            if len(self._lists[0]) == BATCH or self._size >= BLOCK_BYTES:
                yield from self.rest()

    def rest(self) -> Iterator[pa.RecordBatch]:
        """Yields what has been added since the last batch, if anything."""
        if self._lists[0]:
            columns = zip(self._lists, self._schema, strict=True)
            arrays = [pa.array(values, type=field.type) for values, field in columns]
            self._lists = [[] for _ in self._schema]
            self._size = 0
            yield pa.RecordBatch.from_arrays(arrays, schema=self._schema)
