"""From the keys and values of a row to a checked document."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from copy import copy
from typing import Any, NamedTuple

from rag.errors import BadRow, InvalidInput
from rag.passages import ARROW_TYPES, RESERVED, FieldType
from rag.sources.rows import Row
from rag.sources.settings import Source
from rag.sources.values import CELL, JSON, WANTED, either, show, what

ID_KEYS = ("_id", "id", "docid")
TEXT_KEYS = ("text", "contents")
_CELLS = ("csv", "dpr", "msmarco", "seal", "tsv")
_NO_HEADER = (
    "; if the file has no header line, give the source the type 'msmarco' (id, text) "
    "or 'seal' (id, title, text)"
)

_dump = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
).encode


class Document(NamedTuple):
    """A document: where it stands, its columns, its declared fields in order, the rest as JSON."""

    line: int
    raw: bytes
    id: str
    title: str
    text: str
    values: list[Any]
    meta: str


class Documents:
    """Call it with a row to get a ``Document``; it raises ``BadRow`` where that cannot be.

    Ids are strings; a JSON integer is taken by its decimal form (``7`` and ``"7"`` are one id),
    a float, a boolean or null is not. An absent or null title is the empty string. An absent or
    null declared field is null; in CSV, TSV and their kin an empty cell is null unless the field
    is a str.
    An int is not a str, a float without decimals is not an int, but an int is a float.

    A text must hold more than whitespace, with one exception: a BEIR document that has a title,
    because BEIR collections hold and judge such documents.
    """

    def __init__(self, source: Source, file: str, fields: Mapping[str, FieldType]) -> None:
        """Take the mapping of ``source`` for the declared ``fields``; messages name ``file``.

        Raises:
            InvalidInput: A field has a reserved name or an unknown type, or the source maps a
                column that is not declared.
        """
        _check_settings(source, fields)
        keys = source.fields
        kilt = source.type == "kilt"
        self._file = file
        self._type = source.type
        self._id_keys = (keys["id"],) if "id" in keys else ("wikipedia_id",) * kilt + ID_KEYS
        self._text_keys = (keys["text"],) if "text" in keys else TEXT_KEYS
        self._title_key = keys.get("title", "wikipedia_title" if kilt else "title")
        self._title_needed = "title" in keys
        self._declared = [(name, kind, keys.get(name, name)) for name, kind in fields.items()]
        self._used = {self._title_key, *(key for _, _, key in self._declared)}
        self._coerce = CELL if source.type in _CELLS else JSON
        self._titles_suffice = source.type == "beir"

    def of(self, file: str) -> Documents:
        """The same for the rows of another file."""
        other = copy(self)
        other._file = file
        return other

    def check_header(self, names: list[str], line: int) -> None:
        """Raise ``BadRow`` unless the header ``names`` each column once, and all that is read."""
        for name in names:
            if names.count(name) > 1:
                found = f"the header names {show(name)} {names.count(name)} times"
                raise BadRow(self._file, line, name, found, "give each column its own name")
        for column, keys in self._missing(names):
            found = f"the header has no {either(keys)}; it has {show(', '.join(names), 200)}"
            fix = f"add the column, or say in the source's fields which one is the {column}"
            if self._type == "tsv" and column in ("id", "text"):
                fix += _NO_HEADER
            raise BadRow(self._file, line, column, found, fix)

    def check_columns(self, names: tuple[str, ...]) -> None:
        """Raise ``InvalidInput`` unless a type whose columns are ``names`` has all that is read."""
        for column, keys in self._missing(names):
            raise InvalidInput(
                f"source: type {self._type!r} has the columns {', '.join(names)}, and none called "
                f"{either(keys)} for {column!r}; correct the source's fields, or do not declare it"
            )

    def _missing(self, names: Collection[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The columns that are read and not among ``names``, and what they may be called."""
        needed = [("id", self._id_keys), ("text", self._text_keys)]
        if self._title_needed:
            needed.append(("title", (self._title_key,)))
        needed += [(name, (key,)) for name, _, key in self._declared]
        return (each for each in needed if not any(key in names for key in each[1]))

    def __call__(self, row: Row) -> Document:
        """Check one row, and raise what is wrong with it."""
        values = row.values
        if isinstance(values, BadRow):
            raise values
        id_key = self._key(row, "id", self._id_keys, values)
        text_key = self._key(row, "text", self._text_keys, values)
        title = self._title(row, values)
        text = self._text(row, text_key, values, title)
        rest = {
            key: value
            for key, value in values.items()
            if key not in self._used and key != id_key and key != text_key
        }
        document = Document(
            row.line,
            row.raw,
            self._id(row, id_key, values),
            title,
            text,
            [self._value(row, values.get(key), name, kind) for name, kind, key in self._declared],
            self._meta(row, rest) if rest else "{}",
        )
        # In a line of UTF-8 only an escape can bring in half a surrogate pair.
        if not row.raw or b"\\u" in row.raw:
            self._check_unicode(document)
        return document

    def _bad(self, row: Row | Document, field: str, found: str, fix: str) -> BadRow:
        return BadRow(self._file, row.line, field, found, fix)

    def _key(self, row: Row, column: str, keys: tuple[str, ...], values: dict[str, Any]) -> str:
        """The first of ``keys`` that the row has."""
        for key in keys:
            if key in values:
                return key
        found = f"no key {either(keys)}; the row has {show(', '.join(values) or 'none', 200)}"
        fix = f"add it, or say in the source's fields which key is the {column}"
        raise self._bad(row, column, found, fix)

    def _id(self, row: Row, key: str, values: dict[str, Any]) -> str:
        value = values[key]
        if type(value) is int:
            return str(value)
        if type(value) is not str:
            found = f"{show(key)} is {what(value)}"
            raise self._bad(row, "id", found, "write the id as a string or an integer")
        if not value or value.isspace():
            raise self._bad(row, "id", f"{show(key)} is empty", "give the document an id")
        return value

    def _title(self, row: Row, values: dict[str, Any]) -> str:
        value = values.get(self._title_key)
        if value is None:
            return ""
        if type(value) is not str:
            found = f"{show(self._title_key)} is {what(value)}"
            raise self._bad(row, "title", found, "write the title as a string, or leave it out")
        return value

    def _text(self, row: Row, key: str, values: dict[str, Any], title: str) -> str:
        value = values[key]
        if type(value) is not str:
            found = f"{show(key)} is {what(value)}"
            raise self._bad(row, "text", found, "write the text as a string")
        if not value or value.isspace():
            if self._titles_suffice and title and not title.isspace():
                return value
            found = f"{show(key)} is {'only whitespace' if value else 'empty'}"
            raise self._bad(row, "text", found, "give the document a text, or leave out its row")
        return value

    def _value(self, row: Row, value: Any, name: str, kind: FieldType) -> Any:
        if value is None:
            return None
        try:
            return self._coerce[kind](value)
        except (ValueError, OverflowError):
            found = f"{what(value)}, not {WANTED[kind]}"
            fix = f"write {WANTED[kind]}, or declare the field as what it holds"
            raise self._bad(row, name, found, fix) from None

    def _meta(self, row: Row, rest: dict[str, Any]) -> str:
        try:
            return _dump(rest)
        except (ValueError, RecursionError) as error:  # 1e999 is JSON, and reads as infinity
            fix = "leave the key out, or write its value as a string"
            raise self._bad(row, "meta", f"a value that JSON cannot hold ({error})", fix) from None

    def _check_unicode(self, document: Document) -> None:
        columns = [("id", document.id), ("title", document.title), ("text", document.text)]
        columns += zip((name for name, *_ in self._declared), document.values, strict=True)
        for name, value in [*columns, ("meta", document.meta)]:
            try:
                str(value).encode()
            except UnicodeEncodeError as error:
                half = ord(str(value)[error.start])
                found = f"half of a surrogate pair, \\u{half:04x}, at character {error.start + 1}"
                fix = "write the whole pair, or the character itself"
                raise self._bad(document, name, found, fix) from None


def _check_settings(source: Source, fields: Mapping[str, FieldType]) -> None:
    for name, kind in fields.items():
        if name in RESERVED:
            raise InvalidInput(f"fields: {name!r} is a column of every passage; rename the field")
        if kind not in ARROW_TYPES:
            known = ", ".join(ARROW_TYPES)
            raise InvalidInput(f"fields: {name!r} has the type {kind!r}; the types are {known}")
    columns = ["id", "title", "text", *fields]
    for name in source.fields:
        if name not in columns:
            raise InvalidInput(
                f"source.fields: {name!r} is no column; map one of {', '.join(columns)}, "
                "or declare it in fields"
            )
