"""The searcher of the index kind ``sparse``: the best rows by a product over a vocabulary."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.errors import InvalidInput
from rag.indexers.sparse_vectors import MOST, WINDOW, Segment, damaged

if TYPE_CHECKING:
    from rag.collection.spread import Ask
    from rag.indexers.sparse import Sparse
    from rag.indexers.spread import SpreadIndex

_ALL = np.zeros(0, np.bool_)
_ALL.flags.writeable = False
_WHOLE = np.zeros(0, np.int64)
_WHOLE.flags.writeable = False


class ColumnScore(NamedTuple):
    """What one column of a query adds to the score of one row."""

    column: int
    query: float
    passage: float
    score: float
    """The product of the two."""


class SparseIndex:
    """Searches the segments of one sparse index; may be shared by threads.

    dimensions: v, the columns of the vocabulary.
    rows: of all segments.
    settings: what the index was built with.
    """

    def __init__(
        self,
        parts: Sequence[Segment],
        places: Sequence[tuple[Path, Path]],
        dimensions: int,
        settings: Sparse | None = None,
    ) -> None:
        """Take the mapped arrays of the segments, in order.

        ``places`` are the folders of their indexes and of their vectors, for errors.
        """
        self.dimensions, self.settings = dimensions, settings
        self._parts, self._places = list(parts), list(places)
        self._firsts = np.cumsum([0, *(len(part.offsets) - 1 for part in parts)])
        self.rows = int(self._firsts[-1])
        self._work = threading.local()

    def search(
        self, queries: Any, k: int, *, keep: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """The ``k`` rows of each query with the largest product, exactly.

        Rows whose product is not above 0 are no hits. The product is summed in float64 and
        rounded to float32, so that it does not depend on the segments.

        Args:
            queries: a scipy CSR matrix, (q, dimensions) float; its weights may be negative.
            k: the most hits of a query.
            keep: (rows,) bool, the rows that may be found; None for all.

        Returns:
            Offsets (q + 1,) int64, rows (m,) int64 and scores (m,) float32; best first, ties by
            ascending row.

        Raises:
            InvalidInput: k is below 1, or queries or ``keep`` have another shape.
            Damaged: what a file says lies outside the index.
        """
        from rag.indexers import _kernels_heap, _kernels_sparse

        if k < 1:
            raise InvalidInput(f"k is {k}; expected at least 1")
        indptr, terms, weights = self._queries(queries)
        if keep is not None and (keep.shape != (self.rows,) or keep.dtype != np.bool_):
            raise InvalidInput(
                f"keep has shape {keep.shape} and type {keep.dtype}; expected {(self.rows,)}, bool"
            )
        number, k = len(indptr) - 1, min(k, max(self.rows, 1))
        sizes = np.zeros(number, np.int64)
        scores, rows = np.empty((number, k), np.float32), np.empty((number, k), np.int64)
        work = self._work.__dict__.pop("room", None) or self._room()
        query, sums, seen, touched = work
        for part, first, place in zip(self._parts, self._firsts[:-1], self._places, strict=True):
            own, kept = _ALL, _WHOLE
            if keep is not None:
                own = np.ascontiguousarray(keep[first : first + len(part.offsets) - 1])
                edges = np.arange(0, len(own), WINDOW)
                kept = np.add.reduceat(own, edges, dtype=np.int64) if len(own) else kept
                if not kept.any():
                    continue
                own.flags.writeable = False
            fault = _kernels_sparse.search(
                part, first, indptr, terms, weights, own, kept, query, sums, seen, touched,
                scores, rows, sizes,
            )  # fmt: skip
            if fault:
                starts = fault == _kernels_sparse.BAD_STARTS
                name = "starts" if starts else "offsets, columns or values"
                raise damaged(place[not starts], f"what {name} says lies outside the index")
        self._work.room = work  # not where a search failed, which leaves it as it was then
        return _kernels_heap.sorted_hits(scores, rows, sizes)

    def spread(self, ask: Ask) -> SpreadIndex:
        """This index with its segments searched by the shards that ``ask`` asks."""
        from rag.indexers.spread import SpreadIndex

        return SpreadIndex(self, ask)

    def _room(self) -> tuple[Any, ...]:
        """What the kernel works in, kept for the next search of the thread: 0.8 MB of zeros."""
        seen, touched = np.empty((2, WINDOW + 1), np.uint16)
        columns = max(self.dimensions, 1 << 16)
        return np.zeros(columns, np.float32), np.zeros(WINDOW, np.float32), seen, touched

    def explain(self, query: Any, row: int) -> list[ColumnScore]:
        """What each column that a query, (1, dimensions) CSR, shares with a row adds; most first.

        Raises:
            InvalidInput: there is no such row, or ``query`` has another shape.
        """
        if not 0 <= row < self.rows:
            raise InvalidInput(f"row {row}: there are {self.rows:,} rows")
        _, terms, weights = self._queries(query)
        place = int(np.searchsorted(self._firsts, row, "right")) - 1
        part, row = self._parts[place], row - int(self._firsts[place])
        own = slice(part.offsets[row], part.offsets[row + 1])
        shared, of_query, of_row = np.intersect1d(
            terms, part.columns[own].astype(np.int64), return_indices=True
        )
        ours, theirs = weights[of_query], part.values[own][of_row]
        products = ours.astype(np.float64) * theirs
        return [
            ColumnScore(int(shared[i]), float(ours[i]), float(theirs[i]), float(products[i]))
            for i in np.lexsort((shared, -products))
        ]

    def _queries(self, queries: Any) -> tuple[Any, Any, Any]:
        """``indptr``, ``indices`` and ``data`` of a CSR matrix, int64, int64 and float32."""
        if len(queries.shape) != 2 or queries.shape[1] != self.dimensions:
            raise InvalidInput(
                f"queries have the shape {tuple(queries.shape)}; the index was built with "
                f"{self.dimensions} columns: use the encoder that built it"
            )
        if not queries.has_canonical_format:
            queries = queries.copy()
            queries.sum_duplicates()
        weights = np.ascontiguousarray(queries.data, np.float32)
        if not (np.abs(weights) <= MOST).all():
            raise InvalidInput(f"a query has a weight that is no number, or beyond {MOST:g}")
        return (
            np.ascontiguousarray(queries.indptr, np.int64),
            np.ascontiguousarray(queries.indices, np.int64),
            weights,
        )
