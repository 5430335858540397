"""The searcher of the index kind ``dense``: the nearest rows of all segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.errors import InvalidInput

if TYPE_CHECKING:
    from rag.collection.spread import Ask
    from rag.indexers.spread import SpreadIndex

ROWS = 16_384
"""Rows of a block of the exact search."""
QUERIES = 256
"""Queries of a block of it: a block of scores takes 16 MB."""


class Segment(NamedTuple):
    """What is open of one segment."""

    vectors: NDArray[np.float32]
    """(n, d), mapped."""
    similarity: str
    """``cosine``, where vectors have the length 1, or ``dot``."""
    index: Any
    """Of FAISS; None where the search is exact."""


class DenseIndex:
    """Searches the segments of one dense index; may be shared by threads.

    rows: of all segments.
    dimensions: d, 0 where there are no segments.
    encoder, hash: of the encoder that gave the vectors.
    """

    def __init__(self, parts: Sequence[Segment], encoder: str, hash: str) -> None:
        """Take the segments in order; InvalidInput where their vectors have several widths."""
        self.encoder, self.hash = encoder, hash
        self._parts = list(parts)
        self._firsts = np.cumsum([0, *(len(part.vectors) for part in parts)])
        self.rows = int(self._firsts[-1])
        kinds = {(part.vectors.shape[1], part.similarity) for part in parts}
        if len(kinds) > 1:
            raise InvalidInput(f"segments with several kinds of vectors: {sorted(kinds)}")
        self.dimensions = parts[0].vectors.shape[1] if parts else 0
        self.similarity = parts[0].similarity if parts else "cosine"

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        keep: NDArray[np.bool_] | None = None,
        exact: bool = False,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """The ``k`` nearest rows of each query.

        An index without FAISS is searched exactly. With FAISS the rows it finds are scored anew by
        their vectors; a segment whose filter leaves it too few is searched exactly, so that a
        filter never costs hits.

        Args:
            queries: (q, dimensions) float32; their length does not matter where vectors are
                compared by cosine.
            k: the most hits of a query.
            keep: (rows,) bool, the rows that may be found; None for all.
            exact: search exactly in any case.

        Returns:
            Offsets (q + 1,) int64, rows (m,) int64 and scores (m,) float32; best first, ties by
            ascending row.

        Raises:
            InvalidInput: k is below 1, queries or ``keep`` have another shape, or a query has a
                component that is no finite number.
        """
        self._check(queries, k, keep)
        number = len(queries)
        if not number or not self.rows:
            return np.zeros(number + 1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
        if self.similarity == "cosine":
            lengths = np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
            queries = (queries / np.where(lengths == 0, 1, lengths)).astype(np.float32)
        queries = np.ascontiguousarray(queries)
        best = _Best(number, min(k, self.rows))
        for part, first in zip(self._parts, self._firsts[:-1].tolist(), strict=True):
            own = None if keep is None else keep[first : first + len(part.vectors)]
            if own is not None and own.all():
                own = None
            if part.index is None or exact:
                _exact(part.vectors, queries, own, first, best)
            else:
                self._by_faiss(part, queries, own, first, best)
        return best.hits(self._score, queries)

    def spread(self, ask: Ask) -> SpreadIndex:
        """This index with its segments searched by the shards that ``ask`` asks."""
        from rag.indexers.spread import SpreadIndex

        return SpreadIndex(self, ask)

    def _check(self, queries: Any, k: int, keep: NDArray[np.bool_] | None) -> None:
        if k < 1:
            raise InvalidInput(f"k is {k}; expected at least 1")
        if self._parts and (queries.ndim != 2 or queries.shape[1] != self.dimensions):
            raise InvalidInput(
                f"queries have the shape {queries.shape}; the index was built with "
                f"{self.dimensions} dimensions: use the encoder that built it, {self.encoder}"
            )
        if not np.isfinite(queries).all():
            raise InvalidInput("a query has a component that is no finite number")
        if keep is not None and (keep.shape != (self.rows,) or keep.dtype != np.bool_):
            raise InvalidInput(
                f"keep has shape {keep.shape} and type {keep.dtype}; expected {(self.rows,)}, bool"
            )

    def _by_faiss(
        self,
        part: Segment,
        queries: NDArray[np.float32],
        keep: NDArray[np.bool_] | None,
        first: int,
        best: _Best,
    ) -> None:
        from rag.indexers import dense_faiss

        there = len(part.vectors) if keep is None else int(keep.sum())
        k = min(best.k, there)
        if not k:
            return
        if there < len(part.vectors) // 20:  # a graph would mostly walk over rows that are hidden
            return _exact(part.vectors, queries, keep, first, best)
        rows = dense_faiss.search(part.index, queries, k, keep)
        lacking = (rows < 0).any(1)
        found = np.flatnonzero(~lacking)
        if len(found):
            own = rows[found]
            scores = np.einsum("qd,qkd->qk", queries[found], part.vectors[own])
            best.add(found, own + first, scores)
        if lacking.any():
            _exact(part.vectors, queries, keep, first, best, np.flatnonzero(lacking))
        return None

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of these rows, (n, dimensions) float32; any order."""
        vectors = np.empty((len(rows), self.dimensions), np.float32)
        places = np.searchsorted(self._firsts, rows, "right") - 1
        for place in np.unique(places).tolist():
            mine = places == place
            vectors[mine] = self._parts[place].vectors[rows[mine] - self._firsts[place]]
        return vectors

    def _score(self, query: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The products of one query with rows, each summed by itself in float64."""
        products = self.vectors(rows).astype(np.float64) * query
        found: NDArray[np.float32] = products.sum(1).astype(np.float32)
        return found


class _Best:
    """The best rows of each query so far, a few more than are asked for.

    A matrix product rounds a row's score differently from block to block. What is returned is
    scored anew, one row like any other, so that it does not depend on the segments; the few more
    are for rows that change places by that.
    """

    def __init__(self, queries: int, k: int) -> None:
        self.k, self.room = k, k + 8
        self.scores = np.full((queries, self.room), -np.inf, np.float32)
        self.rows = np.full((queries, self.room), -1, np.int64)

    def add(
        self, queries: NDArray[np.int64], rows: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> None:
        """Take further rows, (q, m), of the ``queries`` with these numbers."""
        scores = np.concatenate([self.scores[queries], scores], axis=1)
        rows = np.concatenate([self.rows[queries], rows], axis=1)
        order = np.argpartition(-scores, self.room - 1, axis=1)[:, : self.room]
        self.scores[queries] = np.take_along_axis(scores, order, 1)
        self.rows[queries] = np.take_along_axis(rows, order, 1)

    def hits(
        self, score: Any, queries: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        sizes = np.zeros(len(queries) + 1, np.int64)
        rows, scores = [], []
        for number, query in enumerate(queries):
            mine = self.rows[number]
            mine = np.sort(mine[mine >= 0])
            exact = score(query, mine)
            order = np.lexsort((mine, -exact))[: self.k]
            rows.append(mine[order])
            scores.append(exact[order])
            sizes[number + 1] = len(order)
        return np.cumsum(sizes), np.concatenate(rows), np.concatenate(scores)


def _exact(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    keep: NDArray[np.bool_] | None,
    first: int,
    best: _Best,
    only: NDArray[np.int64] | None = None,
) -> None:
    """Offer ``best`` the nearest kept rows of a segment whose rows begin at ``first``.

    ``only``: the numbers of the queries that are searched; None for all.
    """
    numbers = np.arange(len(queries)) if only is None else only
    chosen = None if keep is None else np.flatnonzero(keep)
    count = len(vectors) if chosen is None else len(chosen)
    for start in range(0, count, ROWS):
        stop = min(start + ROWS, count)
        rows = np.arange(start, stop) if chosen is None else chosen[start:stop]
        block = vectors[start:stop] if chosen is None else vectors[rows]
        for begin in range(0, len(numbers), QUERIES):
            some = numbers[begin : begin + QUERIES]
            scores = queries[some] @ block.T
            if scores.shape[1] > best.room:
                places = np.argpartition(-scores, best.room - 1, axis=1)[:, : best.room]
                best.add(some, rows[places] + first, np.take_along_axis(scores, places, 1))
            else:
                wide = np.broadcast_to(rows + first, scores.shape)
                best.add(some, wide, scores)
