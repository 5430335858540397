"""One file of a source, opened as rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from rag.errors import BadRow, InvalidInput
from rag.sources.lines import Lines
from rag.sources.parquet import ParquetRows
from rag.sources.rows import Header, Row, column_rows, csv_rows, json_rows, tsv_rows
from rag.sources.settings import COLUMNS, FILE_ROWS, Source
from rag.sources.texts import file_row
from rag.sources.values import what
from rag.sources.walk import shown_path, trouble


class RowFile(Protocol):
    """Iterate it once for the rows of a file; it says how far that has come."""

    @property
    def position(self) -> int:
        """Bytes of the file, as stored, that have been read."""

    def __iter__(self) -> Iterator[Row]: ...


def open_file(source: Source, path: Path, check: Header) -> RowFile:
    """A file of ``source.files()`` as rows; ``check`` is given the names of a header line.

    Raises:
        InvalidInput: A file below the folder of a source of rows cannot be opened.
    """
    name, root = name_of(source, path), Path(source.path)
    folder = root if root.is_dir() else None
    if source.type in FILE_ROWS:
        return _Single(path, folder, name)
    wrong = trouble(path, folder, inside=False) if folder is not None else None
    if wrong is not None:
        raise InvalidInput(f"{name}: {wrong[0]}; {wrong[1]}")
    if source.type == "parquet":
        return ParquetRows(path, name, check)
    return _Text(source, path, name, check)


def name_of(source: Source, path: Path) -> str:
    """What messages call a file: as the user wrote it (``Path`` drops ``./`` and doubled ``/``)."""
    below = path.relative_to(Path(source.path)).as_posix()
    return shown_path(source.path if below == "." else f"{source.path.rstrip('/')}/{below}")


class _Single:
    """A file that is one row."""

    def __init__(self, path: Path, folder: Path | None, name: str) -> None:
        self._path, self._folder, self._name = path, folder, name
        self.position = 0

    def __iter__(self) -> Iterator[Row]:
        yield file_row(self._path, self._folder, self._name)


class _Text:
    """A file of lines."""

    def __init__(self, source: Source, path: Path, name: str, check: Header) -> None:
        self._lines = Lines(path, name)
        self._source, self._name, self._check = source, name, check

    @property
    def position(self) -> int:
        return self._lines.position

    def __iter__(self) -> Iterator[Row]:
        kind, name, lines = self._source.type, self._name, self._lines
        if kind in ("csv", "dpr"):
            return csv_rows(name, lines, self._check, tabs=kind == "dpr")
        if kind == "tsv":
            return tsv_rows(name, lines, self._check)
        if kind in COLUMNS:
            return column_rows(name, lines, COLUMNS[kind], rest=kind == "seal")
        rows = json_rows(name, lines)
        if kind == "kilt":
            return (_joined(name, row, self._source.fields.get("text", "text")) for row in rows)
        if kind == "flashrag":
            return (_titled(name, row) for row in rows)
        return rows


def _joined(name: str, row: Row, key: str) -> Row:
    """A row of KILT with its paragraphs as one text, between newlines."""
    if isinstance(row.values, BadRow) or not isinstance(row.values.get(key), list):
        return row
    paragraphs: list[Any] = row.values[key]
    for number, paragraph in enumerate(paragraphs, 1):
        if not isinstance(paragraph, str):
            found = f"paragraph {number} is {what(paragraph)}"
            bad = BadRow(name, row.line, "text", found, "write each paragraph as a string")
            return row._replace(values=bad)
    return row._replace(values={**row.values, key: "\n".join(paragraphs)})


def _titled(name: str, row: Row) -> Row:
    """A row of FlashRAG with the first line of its contents as the title."""
    if isinstance(row.values, BadRow):
        return row
    contents = row.values.get("contents")
    if not isinstance(contents, str) or "\n" not in contents:
        found = "'contents' has no line break between a title and a text"
        if not isinstance(contents, str):
            found = f"'contents' is {what(contents)}" if contents is not None else "no 'contents'"
        fix = "write the title, a newline and the text, or use type 'jsonl'"
        return row._replace(values=BadRow(name, row.line, "text", found, fix))
    title, _, text = contents.partition("\n")
    rest = {key: value for key, value in row.values.items() if key != "contents"}
    return row._replace(values={**rest, "title": title, "text": text})
