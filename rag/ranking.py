"""The ranked passages of all rows of a batch, as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from rag.errors import InvalidInput


class Snapshot(Protocol):
    """What a ranking needs of a collection: one manifest, read-only, with its files open."""

    @property
    def identity(self) -> str:
        """Which collection and which manifest; equal only for equal passages and numbers."""

    def rows(self, numbers: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """The ``columns`` of the passages with these ``numbers``, in this order."""

    def numbers(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The number of each id, (n,) int64; ``NotFound`` names an id that is absent."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One ranked passage as a person reads it."""

    id: str
    title: str
    text: str
    score: float


class Ranking:
    """Ranked passages for n rows, m in all, in reading order (scores need not fall).

    Args:
        offsets: (n + 1,) int64; row i holds the entries ``offsets[i]:offsets[i + 1]``.
        docs: (m,) int64, passage numbers of the snapshot.
        scores: (m,) float32.
        snapshot: the collection that the numbers belong to. Mixing two is an error.
        spans: (m, 2) int32 or None; the kept character range of each passage's text.
        texts: m texts that stand in for the passages' own, or None.
        evidence: name to m JSON values (matched n-grams, terms, ...).
        valid: (n,) bool or None; False where the row has no ranking at all (null), which is not
            the same as a ranking of no passages.

    Raises:
        InvalidInput: the arrays do not fit together.
    """

    __slots__ = ("docs", "evidence", "offsets", "scores", "snapshot", "spans", "texts", "valid")

    def __init__(
        self,
        offsets: ArrayLike,
        docs: ArrayLike,
        scores: ArrayLike,
        snapshot: Snapshot,
        *,
        spans: ArrayLike | None = None,
        texts: Sequence[str | None] | None = None,
        evidence: Mapping[str, Sequence[Any]] | None = None,
        valid: ArrayLike | None = None,
    ) -> None:
        """Hold the arrays, read-only."""
        self.offsets = _frozen(offsets, np.int64)
        self.docs = _frozen(docs, np.int64)
        self.scores = _frozen(scores, np.float32)
        self.snapshot = snapshot
        self.spans = None if spans is None else _frozen(spans, np.int32)
        self.texts = None if texts is None else tuple(texts)
        self.evidence = {name: tuple(values) for name, values in (evidence or {}).items()}
        self.valid = None if valid is None else _frozen(valid, np.bool_)
        self._check()

    def _check(self) -> None:
        entries, offsets = len(self.docs), self.offsets
        lengths = {"scores": len(self.scores)}
        lengths |= {} if self.spans is None else {"spans": len(self.spans)}
        lengths |= {} if self.texts is None else {"texts": len(self.texts)}
        lengths |= {name: len(values) for name, values in self.evidence.items()}
        for name, length in lengths.items():
            if length != entries:
                raise InvalidInput(f"ranking: {length} {name} for {entries} passages")
        if self.spans is not None and self.spans.shape != (entries, 2):
            raise InvalidInput(f"ranking: spans have shape {self.spans.shape}, not ({entries}, 2)")
        if not len(offsets) or offsets[0] != 0 or offsets[-1] != entries:
            raise InvalidInput(f"ranking: offsets must run from 0 to {entries}")
        if (np.diff(offsets) < 0).any():
            raise InvalidInput("ranking: offsets fall")
        if self.valid is not None and len(self.valid) != len(self):
            raise InvalidInput(f"ranking: {len(self.valid)} valid flags for {len(self)} rows")
        if self.valid is not None and self.counts[~self.valid].any():
            raise InvalidInput("ranking: a row without a ranking holds passages")

    @classmethod
    def of(cls, rows: Iterable[Sequence[tuple[int, float]] | None], snapshot: Snapshot) -> Ranking:
        """A ranking from lists of (passage number, score), None where a row has none."""
        rows = list(rows)
        flat = [entry for row in rows for entry in row or ()]
        return cls(
            np.cumsum([0, *(len(row or ()) for row in rows)]),
            [doc for doc, _ in flat],
            [score for _, score in flat],
            snapshot,
            valid=[row is not None for row in rows] if None in rows else None,
        )

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> list[Hit]:
        """The hits of one row; empty for a row without a ranking."""
        row = range(len(self))[row]
        part = slice(int(self.offsets[row]), int(self.offsets[row + 1]))
        table = self.snapshot.rows(self.docs[part], ("id", "title", "text"))
        texts = self._cut(table["text"].to_pylist(), part)
        columns = zip(table["id"].to_pylist(), table["title"].to_pylist(), texts, strict=True)
        scores = self.scores[part].tolist()
        return [Hit(*columns_, score) for columns_, score in zip(columns, scores, strict=True)]

    def _cut(self, texts: list[str], part: slice) -> list[str]:
        if self.spans is not None:
            spans = self.spans[part].tolist()
            texts = [text[a:b] for text, (a, b) in zip(texts, spans, strict=True)]
        if self.texts is not None:
            new = self.texts[part]
            texts = [a if b is None else b for a, b in zip(texts, new, strict=True)]
        return texts

    def __eq__(self, other: object) -> bool:
        """Equal arrays over equal snapshots."""
        if not isinstance(other, Ranking):
            return NotImplemented
        return (
            self.snapshot.identity == other.snapshot.identity
            and np.array_equal(self.offsets, other.offsets)
            and np.array_equal(self.docs, other.docs)
            and np.array_equal(self.scores, other.scores, equal_nan=True)
            and np.array_equal(self.is_valid, other.is_valid)
            and (self.spans is None) == (other.spans is None)
            and (self.spans is None or np.array_equal(self.spans, other.spans))  # type: ignore[arg-type]
            and self.texts == other.texts
            and self.evidence == other.evidence
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """The size and the collection."""
        return (
            f"<Ranking: {len(self.docs)} passages for {len(self)} rows of {self.snapshot.identity}>"
        )

    @property
    def counts(self) -> NDArray[np.int64]:
        """(n,) int64: passages of each row."""
        counts: NDArray[np.int64] = np.diff(self.offsets)
        return counts

    @property
    def row_of(self) -> NDArray[np.int64]:
        """(m,) int64: the row of each entry."""
        rows: NDArray[np.int64] = np.repeat(np.arange(len(self)), self.counts)
        return rows

    @property
    def rank_of(self) -> NDArray[np.int64]:
        """(m,) int64: the 0-based rank of each entry in its row."""
        starts = np.repeat(self.offsets[:-1], self.counts)
        ranks: NDArray[np.int64] = np.arange(len(self.docs)) - starts
        return ranks

    @property
    def is_valid(self) -> NDArray[np.bool_]:
        """(n,) bool: False where the row has no ranking (null)."""
        return np.ones(len(self), np.bool_) if self.valid is None else self.valid

    def take(self, rows: ArrayLike) -> Ranking:
        """The given rows, in the given order; a row may be taken twice."""
        # A negative row counts from the end, and one that is not there is an IndexError.
        chosen = np.arange(len(self))[np.asarray(rows, np.int64).reshape(-1)]
        counts = self.counts[chosen]
        offsets = np.concatenate(([0], np.cumsum(counts)))
        entries = np.repeat(self.offsets[chosen] - offsets[:-1], counts) + np.arange(offsets[-1])
        return self._gather(entries, offsets, None if self.valid is None else self.valid[chosen])

    def keep(self, entries: NDArray[np.bool_]) -> Ranking:
        """The entries for which the (m,) mask holds."""
        before = np.concatenate(([0], np.cumsum(entries)))
        return self._gather(np.flatnonzero(entries), before[self.offsets], self.valid)

    def top(self, k: int) -> Ranking:
        """The first ``k`` of each row."""
        return self.keep(self.rank_of < k)

    def reorder(self, entries: NDArray[np.int64]) -> Ranking:
        """The entries in a new order; ``entries`` (m,) int64 must stay inside each row.

        Raises:
            InvalidInput: an entry is missing, stands twice or moves to another row.
        """
        if not np.array_equal(np.sort(entries), np.arange(len(self.docs))):
            raise InvalidInput("ranking: a new order must name each passage once")
        if not np.array_equal(self.row_of[entries], self.row_of):
            raise InvalidInput("ranking: a new order moves a passage to another row")
        return self._gather(entries, self.offsets, self.valid)

    def by_score(self) -> Ranking:
        """Each row by falling score; ties by ascending passage number."""
        return self.reorder(np.lexsort((self.docs, -self.scores, self.row_of)))

    def put(self, **arrays: Any) -> Ranking:
        """The same ranking with other ``scores``, ``spans``, ``texts`` or ``evidence``."""
        parts: dict[str, Any] = {
            "spans": self.spans,
            "texts": self.texts,
            "evidence": self.evidence,
        }
        scores = arrays.pop("scores", self.scores)
        parts |= arrays
        return Ranking(self.offsets, self.docs, scores, self.snapshot, valid=self.valid, **parts)

    def _gather(
        self,
        entries: NDArray[np.int64],
        offsets: NDArray[np.int64],
        valid: NDArray[np.bool_] | None,
    ) -> Ranking:
        listed = entries.tolist() if self.texts is not None or self.evidence else []
        return Ranking(
            offsets,
            self.docs[entries],
            self.scores[entries],
            self.snapshot,
            spans=None if self.spans is None else self.spans[entries],
            texts=None if self.texts is None else [self.texts[entry] for entry in listed],
            evidence={k: [v[entry] for entry in listed] for k, v in self.evidence.items()},
            valid=valid,
        )

    @classmethod
    def concat(cls, rankings: Sequence[Ranking]) -> Ranking:
        """The rows of all rankings, one after another.

        Raises:
            InvalidInput: they come from different snapshots, or there is none.
        """
        if not rankings:
            raise InvalidInput("ranking: nothing to concatenate")
        first = rankings[0]
        for other in rankings[1:]:
            if other.snapshot.identity != first.snapshot.identity:
                raise InvalidInput(
                    f"two collections are mixed in one ranking: {first.snapshot.identity} and "
                    f"{other.snapshot.identity}; write them into two columns (into: ...)"
                )
        starts = np.cumsum([0, *(len(r.docs) for r in rankings)])
        parts = [r.offsets[1:] + start for r, start in zip(rankings, starts, strict=False)]
        evidence = {name for r in rankings for name in r.evidence}
        some_spans = any(r.spans is not None for r in rankings)
        some_texts = any(r.texts is not None for r in rankings)
        return cls(
            np.concatenate([np.zeros(1, np.int64), *parts]),
            np.concatenate([r.docs for r in rankings]),
            np.concatenate([r.scores for r in rankings]),
            first.snapshot,
            spans=np.concatenate([_spans(r) for r in rankings]) if some_spans else None,
            texts=[t for r in rankings for t in _or_none(r.texts, r)] if some_texts else None,
            evidence={
                name: [v for r in rankings for v in _or_none(r.evidence.get(name), r)]
                for name in sorted(evidence)
            },
            valid=None
            if all(r.valid is None for r in rankings)
            else np.concatenate([r.is_valid for r in rankings]),
        )

    @classmethod
    def union(cls, rankings: Sequence[Ranking]) -> Ranking:
        """Row by row the passages of all ``rankings``, by falling score.

        A passage that stands in several keeps its best score, with the span, text and evidence of
        that entry; of equal ones the first is kept, and NaN is below every score. Ties break by
        ascending passage number. A row without a ranking adds nothing.

        Raises:
            InvalidInput: they have different numbers of rows or different snapshots.
        """
        count = len(rankings[0]) if rankings else 0
        if any(len(ranking) != count for ranking in rankings):
            raise InvalidInput("ranking: those to unite have different numbers of rows")
        every = cls.concat(rankings)
        rows = every.row_of % max(count, 1)
        order = np.lexsort((-every.scores, every.docs, rows))  # stable: the first of equals leads
        new = np.ones(len(order), np.bool_)
        new[1:] = (np.diff(rows[order]) != 0) | (np.diff(every.docs[order]) != 0)
        best = order[new]
        best = best[np.lexsort((every.docs[best], -every.scores[best], rows[best]))]
        valid: NDArray[np.bool_] = np.logical_or.reduce([r.is_valid for r in rankings])
        offsets = np.concatenate(([0], np.cumsum(np.bincount(rows[best], minlength=count))))
        return every._gather(best, offsets, None if valid.all() else valid)


def _or_none(values: Sequence[Any] | None, ranking: Ranking) -> Sequence[Any]:
    return [None] * len(ranking.docs) if values is None else values


def _spans(ranking: Ranking) -> NDArray[np.int32]:
    """The spans of a ranking; whole texts where it has none (Python cuts at the text's end)."""
    if ranking.spans is not None:
        return ranking.spans
    whole = np.array([[0, np.iinfo(np.int32).max]], np.int32)
    return np.repeat(whole, len(ranking.docs), axis=0)


def _frozen(values: ArrayLike, dtype: type[np.generic]) -> NDArray[Any]:
    array = np.asarray(values, dtype)
    if array.flags.writeable:
        array = array.view()
        array.flags.writeable = False
    return array
