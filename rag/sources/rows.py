"""From physical lines to rows: the keys and values of one document, not yet checked."""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, NoReturn

from rag.errors import BadRow

CELL_LIMIT = 1 << 26
"""Characters in a CSV cell. It bounds what an unclosed quotation mark can swallow."""

Header = Callable[[list[str], int], None]
"""Checks the names of a header line (and its number); raises ``BadRow``."""


class Row(NamedTuple):
    """One row: the number of its first line, its bytes, and its values or what is wrong.

    A row that is no line of text has no ``raw`` bytes, and says with ``size`` about how many it
    takes.
    """

    line: int
    raw: bytes
    values: dict[str, Any] | BadRow
    size: int = 0


def json_rows(file: str, lines: Iterable[tuple[int, bytes]]) -> Iterator[Row]:
    """One JSON object a line. Blank lines are passed over; of a repeated key the last counts."""
    decode = json.JSONDecoder(parse_constant=_no_constant).decode
    for number, raw in lines:
        if not raw or raw.isspace():
            continue
        values: Any
        try:
            values = decode(raw.decode())
            if type(values) is not dict:
                values = _no_object(file, number, raw, f"a JSON {_KINDS[type(values)]}")
        except UnicodeDecodeError as error:
            values = _not_utf8(file, number, error)
        except json.JSONDecodeError as error:
            found = f"no JSON: {error.msg} at character {error.pos + 1}"
            values = _no_object(file, number, raw, found)
        except (ValueError, RecursionError) as error:  # a constant, a huge number, deep nesting
            values = _no_object(file, number, raw, f"no usable JSON: {error}")
        yield Row(number, raw, values)


def tsv_rows(file: str, lines: Iterable[tuple[int, bytes]], check: Header) -> Iterator[Row]:
    """A header line, then cells between tabs. Quotation marks are text; blank lines are passed."""
    header: list[str] | None = None
    for number, cells, raw in _cells(file, lines):
        if header is not None:
            values = cells if isinstance(cells, BadRow) else _named(file, number, header, cells)
            yield Row(number, raw, values)
        elif isinstance(cells, BadRow):
            raise cells
        else:
            check(cells, number)
            header = cells
    if header is None:
        _no_header(file)


def column_rows(
    file: str, lines: Iterable[tuple[int, bytes]], columns: tuple[str, ...], *, rest: bool
) -> Iterator[Row]:
    """Cells between tabs under ``columns``, without a header line. Quotation marks are text.

    With ``rest`` the last column takes all that follows, tabs included.
    """
    for number, cells, raw in _cells(file, lines, len(columns) - 1 if rest else -1):
        values: dict[str, Any] | BadRow
        if isinstance(cells, BadRow):
            values = cells
        elif len(cells) == len(columns):
            values = dict(zip(columns, cells, strict=True))
        else:
            found = f"{len(cells)} cells between tabs, not {len(columns)}"
            fix = f"write {', '.join(columns)}, or give the source the type of its file"
            values = BadRow(file, number, "row", found, fix)
        yield Row(number, raw, values)


def _cells(
    file: str, lines: Iterable[tuple[int, bytes]], most: int = -1
) -> Iterator[tuple[int, list[str] | BadRow, bytes]]:
    for number, raw in lines:
        raw = raw.removesuffix(b"\r")
        if not raw:
            continue
        try:
            yield number, raw.decode().split("\t", most), raw
        except UnicodeDecodeError as error:
            yield number, _not_utf8(file, number, error), raw


def csv_rows(
    file: str, lines: Iterable[tuple[int, bytes]], check: Header, *, tabs: bool = False
) -> Iterator[Row]:
    """A header line, then cells between commas, quoted where needed. Blank lines are passed over.

    A row whose quoting is broken is one bad row of one line: reading goes on at the line after
    its first, so that an unclosed quotation mark does not swallow the rows that follow. With
    ``tabs`` they stand between the cells in place of commas.

    The module ``csv`` holds its cell limit for the whole process; it is raised here, never lowered.
    """
    csv.field_size_limit(max(csv.field_size_limit(), CELL_LIMIT))
    feed = _Feed(iter(lines))
    reader = csv.reader(feed, strict=True, delimiter="\t" if tabs else ",")
    fix = _QUOTES + ("; if they are plain text in this file, use type 'tsv'" if tabs else "")
    header: list[str] | None = None
    while True:
        row = _csv_row(file, feed, reader, fix)
        if row is None:
            break
        number, raw, cells = row
        if isinstance(cells, BadRow):
            if header is None:
                raise cells
            yield Row(number, raw, cells)
        elif header is None and cells:
            check(cells, number)
            header = cells
        elif header is not None and cells:
            yield Row(number, raw, _named(file, number, header, cells))
    if header is None:
        _no_header(file)


class _Feed:
    """Lines for the csv module: remembers those of the row in hand, and takes lines back."""

    def __init__(self, lines: Iterator[tuple[int, bytes]]) -> None:
        self._lines = lines
        self._back: deque[tuple[int, bytes]] = deque()
        self.taken: list[tuple[int, bytes]] = []
        self.error: tuple[int, UnicodeDecodeError] | None = None

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        number, raw = self._back.popleft() if self._back else next(self._lines)
        self.taken.append((number, raw))
        try:
            return raw.decode() + "\n"
        except UnicodeDecodeError as error:
            # The separators are ASCII: the row can still be delimited, and is bad as a whole.
            self.error = self.error or (number, error)
            return raw.decode(errors="replace") + "\n"

    def start(self) -> None:
        """Forget the row in hand."""
        self.taken, self.error = [], None

    def keep_first(self) -> None:
        """Take back all lines of the row in hand but the first."""
        self._back.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


def _csv_row(
    file: str, feed: _Feed, reader: Any, fix: str
) -> tuple[int, bytes, list[str] | BadRow] | None:
    """The next row as (first line, bytes, cells or what is wrong); None at the end."""
    feed.start()
    cells: list[str] | BadRow
    try:
        cells = next(reader)
    except StopIteration:
        return None
    except csv.Error as error:
        feed.keep_first()
        cells = BadRow(file, feed.taken[0][0], "row", f"broken CSV quoting: {error}", fix)
    number = feed.taken[0][0]
    if feed.error is not None and not isinstance(cells, BadRow):
        cells = _not_utf8(file, number, feed.error[1], at=feed.error[0])
    return number, b"\n".join([raw for _, raw in feed.taken]), cells


def _named(file: str, number: int, header: list[str], cells: list[str]) -> dict[str, Any] | BadRow:
    if len(cells) == len(header):
        return dict(zip(header, cells, strict=True))
    found = f"{len(cells)} cells where the header has {len(header)}"
    return BadRow(file, number, "row", found, "give each row one cell for each name of the header")


def _not_utf8(file: str, number: int, error: UnicodeDecodeError, *, at: int = 0) -> BadRow:
    where = f"byte {error.start + 1} of the line" if at in (0, number) else f"line {at}"
    found = f"not UTF-8: byte 0x{error.object[error.start]:02x} at {where}"
    return BadRow(file, number, "row", found, "save the file as UTF-8")


def _no_object(file: str, number: int, raw: bytes, found: str) -> BadRow:
    fix = "write one JSON object, {…}, a line"
    if raw.strip() in (b"[", b"{", b"[{") or raw.lstrip().startswith(b"[{"):
        fix += "; this looks like one JSON value over the whole file (jq -c '.[]' turns a list)"
    return BadRow(file, number, "row", found, fix)


def _no_header(file: str) -> NoReturn:
    raise BadRow(file, 1, "row", "no header line", "name the columns in the first line")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; write null")


_QUOTES = "close each quotation mark, and double those inside a quoted cell"

_KINDS = {list: "list", str: "string", int: "number", float: "number", bool: "boolean"}
_KINDS[type(None)] = "null"
