"""The reader: a source as a stream of record batches of passages."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from rag.errors import BadRow, InvalidInput, RagError
from rag.passages import FieldType, passage_schema
from rag.sources.documents import Document, Documents
from rag.sources.duplicates import Seen
from rag.sources.files import RowFile, name_of, open_file
from rag.sources.parquet import raw_of
from rag.sources.rows import Row
from rag.sources.settings import COLUMNS, FILE_ROWS, Source, Split
from rag.sources.skipped import Skipped
from rag.sources.split import pieces
from rag.sources.unchanged import Unchanged
from rag.sources.walk import reason

BATCH = 2000
"""The most passages in a batch, and the most documents held at a time."""

BLOCK_BYTES = 1 << 24
"""A batch has fewer passages, and fewer documents are held, where they reach this size."""

_Item = tuple[int, Row, Document | BadRow]
"""The number of a file, a row of it, and the document or what is wrong with the row."""

_FILE = 40
"""Bits of a line's number in the place that ``Seen`` keeps: the file's number stands above."""


class Reader:
    """Iterate it to read a source: yields record batches of ``passage_schema(fields)``.

    Each batch holds at most 2,000 passages (fewer where texts are long), in the order of the
    files and of their rows; no batch is empty. Without ``split`` a document is one passage with
    its id; with it, passages are cut as ``Split`` says and have the id ``{document}#{part}`` (why
    these never collide: ``rag.sources.split``). Keys of a row that are neither mapped nor declared
    go to ``meta``. What a row must hold, and what is made of integers as ids, of nulls and of
    empty cells: ``rag.sources.documents.Documents``.

    A row is bad if it cannot be decoded or parsed, if a column is absent, empty or of another
    type, or if its id stands in an earlier row that is not bad itself. It stops the reading or is
    skipped, as ``source.on_bad`` says. What is wrong with a whole file (UTF-16, a header without
    a needed column, compressed data that end early) is raised in either case: skipping it would
    pass off part of a corpus as the whole. In a source of type ``folder`` or ``haystack`` a file
    is a row, so there a file that cannot be read is a bad row.

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
        bytes_read: Position in the files as stored, for a progress bar.
        bytes_total: Size of the files as stored.

    Raises:
        NotFound: The source does not exist.
        InvalidInput: The settings do not fit one another or the file.
        BadRow: While iterating: a row is bad and ``source.on_bad`` is ``stop``.
        Damaged: While iterating: compressed data end early or are damaged.
        Conflict: While iterating: a file changed meanwhile.
    """

    def __init__(
        self,
        source: Source,
        *,
        fields: Mapping[str, FieldType] = MappingProxyType({}),
        split: Split | None = None,
        skipped: Path | None = None,
    ) -> None:
        self._files = source.files()
        self._sizes = [os.path.getsize(path) if os.path.exists(path) else 0 for path in self._files]
        self._source, self._split = source, split
        self._documents = Documents(source, source.path, fields)
        if source.type in COLUMNS:
            self._documents.check_columns(COLUMNS[source.type])
        self._schema = passage_schema(fields)
        self._skipped = _skip_file(source, self._files, skipped)
        self._open: RowFile | None = None
        self._done = 0  # bytes of the files before the open one
        self.rows = 0
        self.bad = 0

    @property
    def bytes_read(self) -> int:
        """How many bytes of the files, as stored, have been read."""
        return self._done + (self._open.position if self._open is not None else 0)

    @property
    def bytes_total(self) -> int:
        """The size of the files as stored."""
        return sum(self._sizes)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        self.rows = self.bad = self._done = 0
        self._open = None
        log = Skipped(self._skipped) if self._skipped is not None else None
        columns = _Columns(self._schema, self._split)
        unchanged = Unchanged(self._watched())
        try:
            for document in self._good(log):
                self.rows += 1
                yield from columns.add(document)
            yield from columns.rest()
            unchanged.check()
        except RagError:
            unchanged.check()  # half of a row is no mistake of whoever wrote the rest meanwhile
            raise
        finally:
            if log is not None:
                log.close()

    def _watched(self) -> list[Path]:
        """The files that must not change meanwhile. What cannot be a row is said of its own."""
        if self._source.type in FILE_ROWS:
            return [path for path in self._files if os.path.isfile(path)]
        return [p for p in self._files if os.path.exists(p) and not os.path.isdir(p)]

    def _good(self, log: Skipped | None) -> Iterator[Document]:
        """The documents that are not bad; the bad are raised or written to ``log``."""
        seen = Seen()
        for block in _blocks(self._items()):
            good = [(file, item) for file, _, item in block if isinstance(item, Document)]
            places = [file << _FILE | document.line for file, document in good]
            first = iter(seen.add([document.id for _, document in good], places))
            for file, row, item in block:
                if isinstance(item, Document):
                    place = next(first)
                    if not place:
                        yield item
                        continue
                    item = self._duplicate(file, item, place)
                if log is None:
                    raise item
                self.bad += 1
                log.add(item, row.raw or _raw(row))

    def _items(self) -> Iterator[_Item]:
        """Every row of every file with its document, or with what is wrong with it."""
        for file, path in enumerate(self._files):
            name = name_of(self._source, path)
            documents = self._documents.of(name)
            try:
                self._open = open_file(self._source, path, documents.check_header)
                for row in self._open:
                    yield file, row, _document(documents, row)
            except RagError:
                raise
            except OSError as error:
                raise InvalidInput(
                    f"{name}: cannot be read ({reason(error)}); see that it is there "
                    "and that you may read it, and run the job again"
                ) from error
            self._done, self._open = self._done + self._sizes[file], None

    def _duplicate(self, file: int, document: Document, first: int) -> BadRow:
        other, line = first >> _FILE, first & ((1 << _FILE) - 1)
        unit = "row" if self._source.type == "parquet" else "line"
        found = f"{document.id[:100]!r} is the id of {unit} {line} "
        if other != file:
            found += f"of {name_of(self._source, self._files[other])} "
        fix = "give each document its own id, or remove one of the two"
        name = name_of(self._source, self._files[file])
        return BadRow(name, document.line, "id", found + "too", fix)


def _document(documents: Documents, row: Row) -> Document | BadRow:
    try:
        return documents(row)
    except BadRow as bad:
        return bad


def _raw(row: Row) -> bytes:
    return b"" if isinstance(row.values, BadRow) else raw_of(row.values)


def _skip_file(source: Source, files: list[Path], skipped: Path | None) -> Path | None:
    """Where skipped rows go; None if none are skipped."""
    if source.on_bad == "stop":
        return None
    if skipped is None:
        raise InvalidInput("source.on_bad is 'skip', but no file for the skipped rows is given")
    if skipped.exists() and any(skipped.samefile(file) for file in files if os.path.exists(file)):
        raise InvalidInput(f"{skipped}: the file for the skipped rows is the source itself")
    root, named = Path(source.path).resolve(), skipped.name.lower().endswith
    if root.is_dir() and named(source.suffixes()) and skipped.resolve().is_relative_to(root):
        raise InvalidInput(
            f"{skipped}: the file for the skipped rows would be read as one of {source.path}; "
            "put the collection outside of that folder"
        )
    return skipped


def _blocks(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Lists of items, bounded in number and size. An error comes after the items before it."""
    block: list[_Item] = []
    size = 0
    try:
        for item in items:
            block.append(item)
            size += len(item[1].raw) or item[1].size
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
