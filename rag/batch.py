"""The one unit that stages pass on: named columns, one row a question."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa

from rag.errors import InvalidInput, MissingColumn
from rag.ranking import Hit, Ranking, Snapshot

__all__ = ["Batch", "Citation", "Hit", "Ranking", "Snapshot"]

TYPES = ("str", "float", "bool", "texts", "citations", "struct", "ranking", "null")
"""The column types; every one may be null in a row, and a column of nulls alone is ``null``."""


@dataclass(frozen=True, slots=True)
class Citation:
    """A passage that an answer cites, and the sentence of it that supports the answer.

    ``text`` is the passage's stored text at ``start:end`` (code points), so a reader of the
    collection finds it again; ``marker`` is the n of ``[n]`` in the answer, 1-based.
    """

    marker: int
    id: str
    title: str
    start: int
    end: int
    text: str


Value = str | float | bool | tuple[str, ...] | tuple[Citation, ...] | Mapping[str, Any] | None
Column = tuple[Value, ...] | Ranking


class Batch:
    """Immutable named columns over unique string ids; make one with ``Batch.of``.

    A column is a tuple with one value a row, or a ``Ranking``. The types are closed: ``str``,
    ``float`` (kept at float32), ``bool``, ``texts`` (list[str]), ``citations``
    (list[Citation]), ``struct`` (a JSON object) and ``ranking``.
    """

    __slots__ = ("_columns", "_types", "ids")

    def __init__(self, ids: Sequence[str], columns: Mapping[str, Column]) -> None:
        """Check the ``ids`` and the ``columns``; ``InvalidInput`` says what does not fit."""
        self.ids = tuple(ids)
        for row, name in enumerate(self.ids):
            if not isinstance(name, str) or not name:
                raise InvalidInput(f"batch: row {row}: the id is {name!r}, not a non-empty text")
        if len(set(self.ids)) != len(self.ids):
            twice = Counter(self.ids).most_common(1)[0][0]
            raise InvalidInput(f"batch: the id {twice!r} stands in two rows")
        checked = {name: _column(name, column) for name, column in columns.items()}
        self._columns = {name: column for name, (column, _) in checked.items()}
        self._types = {name: kind for name, (_, kind) in checked.items()}
        for name, column in self._columns.items():
            if len(column) != len(self.ids):
                raise InvalidInput(
                    f"batch: column {name!r} has {len(column)} values for {len(self.ids)} rows"
                )

    @classmethod
    def of(cls, questions: Sequence[str], ids: Sequence[str] | None = None) -> Batch:
        """A batch of ``questions``; ids default to "0", "1", ... and ``query`` to [question]."""
        if isinstance(questions, str):
            raise InvalidInput("Batch.of takes a list of questions; write Batch.of([question])")
        names = [str(row) for row in range(len(questions))] if ids is None else ids
        for row, question in enumerate(questions):
            if not isinstance(question, str):
                raise InvalidInput(f"batch: question {row} is {question!r}, not a text")
        queries = tuple((question,) for question in questions)
        return cls(names, {"question": tuple(questions), "query": queries})

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.ids)

    def __contains__(self, name: object) -> bool:
        """Whether there is a column of this name."""
        return name == "id" or name in self._columns

    def __getitem__(self, name: str) -> Any:
        """The values of a column, one a row (a tuple), or its ``Ranking``.

        Raises:
            MissingColumn: there is no such column; the message lists those there are.
        """
        if name == "id":
            return self.ids
        try:
            return self._columns[name]
        except KeyError:
            have = ", ".join(["id", *self._columns])
            raise MissingColumn(f"no column {name!r} in the batch; it has: {have}") from None

    def __eq__(self, other: object) -> bool:
        """Equal ids, columns, types and values; NaN equals NaN."""
        if not isinstance(other, Batch):
            return NotImplemented
        return (
            self.ids == other.ids
            and self._types == other._types
            and all(_same(self._columns[name], other._columns[name]) for name in self._columns)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """The rows and the columns with their types."""
        columns = ", ".join(f"{name}: {kind}" for name, kind in self._types.items())
        return f"<Batch: {len(self)} rows; {columns}>"

    @property
    def columns(self) -> Mapping[str, str]:
        """Column name to type, ``id`` apart."""
        return MappingProxyType(self._types)

    def put(self, **columns: Column | Sequence[Any]) -> Batch:
        """A batch with these columns added or replaced.

        Raises:
            InvalidInput: a value has no column type, or the column is ``id`` or ``question``,
                which are never overwritten.
        """
        for name in columns:
            if name == "id" or (name == "question" and name in self._columns):
                raise InvalidInput(f"batch: column {name!r} is never overwritten")
        new = object.__new__(Batch)
        new.ids, new._columns, new._types = self.ids, dict(self._columns), dict(self._types)
        for name, values in columns.items():
            column, kind = _column(name, values)
            if len(column) != len(self.ids):
                raise InvalidInput(
                    f"batch: column {name!r} has {len(column)} values for {len(self.ids)} rows"
                )
            new._columns[name], new._types[name] = column, kind
        return new

    def take(self, rows: Sequence[int] | np.ndarray[Any, Any]) -> Batch:
        """The given rows in the given order; a row may stand once, since ids are unique."""
        chosen = np.asarray(rows, np.int64).tolist()
        return Batch(
            [self.ids[row] for row in chosen],
            {
                name: column.take(chosen)
                if isinstance(column, Ranking)
                else tuple(column[row] for row in chosen)
                for name, column in self._columns.items()
            },
        )

    def row(self, index: int) -> dict[str, Any]:
        """One row as a person reads it: column to value, a ranking as its hits."""
        values: dict[str, Any] = {"id": self.ids[index]}
        return values | {name: column[index] for name, column in self._columns.items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows, one after another, as ``row`` gives them."""
        return (self.row(index) for index in range(len(self)))

    def to_arrow(self) -> pa.Table:
        """The batch as an Arrow table; ``from_arrow`` gives the same batch back."""
        from rag.batch_arrow import to_arrow

        return to_arrow(self)

    @staticmethod
    def from_arrow(table: pa.Table, snapshot: Snapshot | None = None) -> Batch:
        """The batch that ``to_arrow`` wrote; ``snapshot`` holds the passages of its rankings."""
        from rag.batch_arrow import from_arrow

        return from_arrow(table, snapshot)

    @staticmethod
    def concat(batches: Sequence[Batch]) -> Batch:
        """The rows of all ``batches``; a column that one lacks is null in its rows.

        Raises:
            InvalidInput: there is no batch, an id stands twice, or a column has two types.
        """
        if not batches:
            raise InvalidInput("batch: nothing to concatenate")
        names = list(dict.fromkeys(name for batch in batches for name in batch._columns))
        ids = [name for batch in batches for name in batch.ids]
        return Batch(ids, {name: _joined(name, batches) for name in names})


def _joined(name: str, batches: Sequence[Batch]) -> Column:
    kinds = {_kind(name, batch) for batch in batches if len(batch)} - {"null", "empty"}
    if len(kinds) > 1:
        raise InvalidInput(f"batch: column {name!r} is {' here and '.join(sorted(kinds))} there")
    columns = [batch._columns.get(name, (None,) * len(batch)) for batch in batches]
    rankings = [column for column in columns if isinstance(column, Ranking)]
    if not rankings or kinds - {"ranking"}:
        plain = [column for column in columns if not isinstance(column, Ranking)]
        return tuple(value for column in plain for value in column)
    snapshot = rankings[0].snapshot
    parts = [c if isinstance(c, Ranking) else Ranking.of(c, snapshot) for c in columns]  # type: ignore[arg-type]
    return Ranking.concat(parts)


def _kind(name: str, batch: Batch) -> str:
    """The type of a column; "empty" where it holds empty lists, which have no type of their own."""
    kind = batch._types.get(name, "null")
    lists: Any = batch._columns.get(name)
    return "empty" if kind == "texts" and not any(lists) else kind


def _column(name: str, values: Column | Sequence[Any]) -> tuple[Column, str]:
    if isinstance(values, Ranking):
        return values, "ranking"
    if isinstance(values, str | Mapping):
        raise InvalidInput(f"batch: column {name!r} must be a list with one value a row")
    if isinstance(values, tuple) and values.count(None) == len(values):
        return values, "null"
    kind = "null"
    column: list[Value] = []
    for row, value in enumerate(values):
        kept, its_kind = _value(value)
        # An empty list is a list of texts and of citations alike.
        if its_kind == "empty":
            its_kind = kind if kind in ("texts", "citations") else "empty"
        if kind == "empty" and its_kind in ("texts", "citations"):
            kind = its_kind
        if its_kind not in ("", "null") and kind not in ("null", its_kind):
            raise InvalidInput(f"batch: column {name!r} row {row}: {its_kind} after rows of {kind}")
        if not its_kind:
            raise InvalidInput(
                f"batch: column {name!r} row {row}: {type(value).__name__} is no column type; "
                f"expected one of {', '.join(TYPES[:-1])}"
            )
        kind = kind if its_kind == "null" else its_kind
        column.append(kept)
    return tuple(column), "texts" if kind == "empty" else kind


def _value(value: Any) -> tuple[Value, str]:
    """The value as it is kept, and its type ("" where it has none)."""
    if value is None:
        return None, "null"
    if isinstance(value, str):
        return value, "str"
    if isinstance(value, bool | np.bool_):
        return bool(value), "bool"
    if isinstance(value, int | float | np.integer | np.floating):
        try:
            with np.errstate(over="ignore"):  # beyond float32 is infinite, as in any float32
                return float(np.float32(float(value))), "float"
        except OverflowError:
            return None, ""
    if isinstance(value, list | tuple):
        if not value:
            return (), "empty"
        if all(isinstance(part, str) for part in value):
            return tuple(value), "texts"
        if all(isinstance(part, Citation) for part in value):
            return tuple(value), "citations"
    if isinstance(value, Mapping):
        try:
            return MappingProxyType(json.loads(json.dumps(dict(value)))), "struct"
        except (TypeError, ValueError):
            return None, ""
    return None, ""


def _same(left: Column, right: Column) -> bool:
    if isinstance(left, Ranking) or isinstance(right, Ranking):
        return left == right
    return all(map(_equal, left, right))


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        # As JSON, so that a NaN inside equals a NaN, and true is not 1.
        return json.dumps(dict(left), sort_keys=True) == json.dumps(dict(right), sort_keys=True)
    return bool(left == right) or (_nan(left) and _nan(right))


def _nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def as_json(value: Any) -> Any:
    """A value of a row as plain JSON values: hits and citations as objects, NaN as null."""
    if isinstance(value, Hit | Citation):
        return as_json(asdict(value))
    if isinstance(value, Mapping):
        return {key: as_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(part) for part in value]
    return None if _nan(value) else value
