"""The searcher of the index kind ``dense``: the nearest rows of all segments."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.errors import InvalidInput

if TYPE_CHECKING:
    from rag.collection.spread import Ask
    from rag.indexers.spread import SpreadDense

FIRST = 1024
"""Rows of a block of the exact search while it has not found k rows."""
ROWS = 2048
"""Rows of a block after that: with 384 dimensions they stay in the cache."""
LONG = 8192
"""Rows of a block for few queries, whose time is that of reading the rows."""
QUERIES = 256
"""Queries of a block."""
FEW = 3
"""Up to so many queries, a product of matrices is slower than one vector after another."""
SPARSE = 0.5
"""Where a filter keeps less than this, kept rows are copied together before they are compared."""
RARE = 1 / 20
"""Where it keeps less than this, they are searched exactly, without FAISS."""


class Segment(NamedTuple):
    """What is open of one segment."""

    vectors: NDArray[np.float32]
    """(n, d), mapped."""
    similarity: str
    """``cosine``, where vectors have the length 1, or ``dot``."""
    index: Any
    """Of FAISS; None where the search is exact."""
    place: Any = None
    """What searches it on GPUs (``dense_devices``); None on the CPU."""


class DenseIndex:
    """Searches the segments of one dense index; may be shared by threads.

    rows: of all segments.
    dimensions: d, 0 where there are no segments.
    encoder, hash: of the encoder that gave the vectors.
    """

    def __init__(self, parts: Sequence[Segment], encoder: str, hash: str) -> None:
        """Take the segments in order; InvalidInput where their vectors have several widths."""
        self.encoder, self.hash = encoder, hash
        self._parts = [part._replace(vectors=_fixed(part.vectors)) for part in parts]
        self._firsts = np.cumsum([0, *(len(part.vectors) for part in parts)])
        self._longest: float | None = None
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
        effort: float = 1,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """The ``k`` nearest rows of each query.

        A score is the inner product of query and vector, summed in float64 and rounded to float32:
        it does not depend on the segments. What FAISS finds is scored so too. An index without
        FAISS is searched exactly, as is a segment of which a filter leaves little, or where FAISS
        finds fewer than k rows: a filter never costs hits.

        Args:
            queries: (q, dimensions) float32; their length does not matter where vectors are
                compared by cosine.
            k: the most hits of a query.
            keep: (rows,) bool, the rows that may be found; None for all.
            exact: search exactly in any case.
            effort: of FAISS: twice the effort looks at twice as many rows, and finds more.

        Returns:
            Offsets (q + 1,) int64, rows (m,) int64 and scores (m,) float32; best first, ties by
            ascending row.

        Raises:
            InvalidInput: k is below 1, ``effort`` not above 0, queries or ``keep`` have another
                shape, or a query has a component that is no finite number.
        """
        exact, k, among = self.planned(queries, k, keep, exact, effort)
        best, counts = self._searched(queries, k, keep, exact, effort, among)
        if counts is not None and len(lacking := np.flatnonzero(counts < min(k, among))):
            best.sizes[lacking] = 0
            for part, own, first in self._kept(keep):
                self._exact(part, own, first, best, lacking)
        return best.hits()

    def planned(
        self,
        queries: NDArray[np.float32],
        k: int,
        keep: NDArray[np.bool_] | None,
        exact: bool,
        effort: float,
    ) -> tuple[bool, int, int]:
        """``search``'s arguments checked: whether it is exact, for how many hits, among how many.

        What is looked at hangs on all rows and never on a segment's: however rows are cut into
        segments, the same lists of IVF are searched, and the same queries exactly.
        """
        self._check(queries, k, keep, effort)
        among = self.rows if keep is None else int(keep.sum())
        return exact or among < RARE * self.rows, min(k, max(self.rows, 1)), among

    def search_among(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        exact: bool,
        effort: float,
        among: int,
        keep: NDArray[np.bool_] | None = None,
    ) -> tuple[Any, Any, Any, NDArray[np.int64] | None]:
        """``search`` for whoever has other segments too, in which ``among`` rows are kept in all.

        ``exact`` is then to be decided by him, and ``k`` is at most the rows of all.

        Returns:
            What ``search`` does, and how many rows FAISS found of each query, (q,) int64; None
            where it was not asked. Queries with fewer than k, of all segments, are to be searched
            once more, exactly.
        """
        self._check(queries, k, keep, effort)
        best, counts = self._searched(queries, k, keep, exact, effort, among)
        return *best.hits(), counts

    def _searched(
        self,
        queries: NDArray[np.float32],
        k: int,
        keep: NDArray[np.bool_] | None,
        exact: bool,
        effort: float,
        among: int,
    ) -> tuple[_Best, NDArray[np.int64] | None]:
        queries = queries.astype(np.float64)
        lengths = np.linalg.norm(queries, axis=1)
        if self.similarity == "cosine":
            queries /= np.where(lengths == 0, 1, lengths)[:, None]
            lengths[:] = 1
        best = _Best(queries.astype(np.float32), lengths, k)
        counts = None
        for part, own, first in self._kept(keep) if len(queries) else ():
            if exact or (part.index is None and part.place is None):
                self._exact(part, own, first, best)
            else:
                found = self._by_faiss(part, own, first, best, effort, among)
                counts = found if counts is None else counts + found
        return best, counts

    def _kept(
        self, keep: NDArray[np.bool_] | None
    ) -> Iterator[tuple[Segment, NDArray[np.bool_] | None, int]]:
        """The segments with rows that are kept, which rows those are, and their first rows."""
        for part, first in zip(self._parts, self._firsts[:-1].tolist(), strict=True):
            own = None if keep is None else keep[first : first + len(part.vectors)]
            if own is None or own.all():
                yield part, None, first
            elif own.any():
                yield part, _fixed(own), first

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of these rows, (n, dimensions) float32; any order."""
        vectors = np.empty((len(rows), self.dimensions), np.float32)
        places = np.searchsorted(self._firsts, rows, "right") - 1
        for place in np.unique(places).tolist():
            mine = places == place
            vectors[mine] = self._parts[place].vectors[rows[mine] - self._firsts[place]]
        return vectors

    def on(self, device: str, placement: str | None = None) -> DenseIndex:
        """This index searched on a device; it raises what ``dense_devices.placed`` raises.

        Args:
            device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``: cuda where that can be.
            placement: over several GPUs, ``sharded`` or ``replicated``; None for one.
        """
        from rag.indexers.dense_devices import placed

        parts = [part._replace(place=None) for part in self._parts]
        return DenseIndex(
            placed(parts, device, placement, self._rounding()), self.encoder, self.hash
        )

    def spread(self, ask: Ask) -> SpreadDense:
        """This index with its segments searched by the shards that ``ask`` asks."""
        from rag.indexers.spread import SpreadDense

        return SpreadDense(self, ask)

    def _check(self, queries: Any, k: int, keep: NDArray[np.bool_] | None, effort: float) -> None:
        if k < 1:
            raise InvalidInput(f"k is {k}; expected at least 1")
        if not effort > 0:
            raise InvalidInput(f"effort is {effort}; expected above 0")
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
        keep: NDArray[np.bool_] | None,
        first: int,
        best: _Best,
        effort: float,
        among: int,
    ) -> NDArray[np.int64]:
        """Offer ``best`` what FAISS or a GPU finds in a segment; how many rows, (q,) int64."""
        from rag.indexers import dense_faiss

        if part.place is None:
            found = dense_faiss.search(part.index, best.queries, best.k, keep, effort, among)
        else:
            found = part.place.search(best.queries, best.k, keep, effort, among)
        best.offer_found(found, part.vectors, first)
        counts: NDArray[np.int64] = (found >= 0).sum(1)
        if found.size:
            counts[found[:, 0] < -1] = -(1 << 40)  # too few, whatever other segments have
        return counts

    def _exact(
        self,
        part: Segment,
        keep: NDArray[np.bool_] | None,
        first: int,
        best: _Best,
        only: NDArray[np.int64] | None = None,
    ) -> None:
        """Offer ``best`` the kept rows of a segment, whose rows begin at ``first``.

        ``only``: the numbers of the queries that are searched; None for all.
        """
        slack = best.lengths * self._rounding()
        numbers = np.arange(len(best.queries)) if only is None else only
        rows = None
        if keep is not None and keep.mean() < SPARSE:
            rows, keep = np.flatnonzero(keep), None
        count = len(part.vectors) if rows is None else len(rows)
        stop = 0
        while stop < count:
            full = best.sizes.min() == best.k
            start, most = stop, (LONG if len(numbers) <= FEW else ROWS) if full else FIRST
            stop = min(start + most, count)
            if rows is None:
                block, names = part.vectors[start:stop], np.arange(start, stop)
            else:
                names = rows[start:stop]
                block = _fixed(part.vectors[names])
            own = _ALL if keep is None else keep[start:stop]
            for begin in range(0, len(numbers), QUERIES):
                some = numbers[begin : begin + QUERIES]
                best.offer_block(some, block, own, names + first, slack[some], full)

    def _rounding(self) -> float:
        """How far a product in float32 may be off, for a query of the length 1.

        Higham, *Accuracy and Stability of Numerical Algorithms*, 2002, (3.5): d u |q| |v|, in any
        order of the sum, and u |q| |v| for the score itself; u is 2^-24.
        """
        if self._longest is None:
            self._longest = 1.0001  # as float32 rounds vectors of the length 1
            if self.similarity != "cosine":
                squares = [
                    float(np.einsum("ij,ij->i", block, block, dtype=np.float64).max())
                    for part in self._parts
                    for block in np.array_split(part.vectors, len(part.vectors) // LONG + 1)
                    if len(block)
                ]
                self._longest = math.sqrt(max(squares, default=0))
        return (self.dimensions + 2) * 2.0**-24 * self._longest


class _Best:
    """The best ``k`` rows of each query so far, with their scores."""

    def __init__(self, queries: NDArray[np.float32], lengths: NDArray[np.float64], k: int) -> None:
        """Take the queries, (q, d), and their lengths, (q,)."""
        self.k = k
        self.queries, self.lengths = np.ascontiguousarray(queries), lengths
        self.sizes = np.zeros(len(queries), np.int64)
        self._wide = queries.astype(np.float64)
        self._scores = np.empty((len(queries), k), np.float32)
        self._rows = np.empty((len(queries), k), np.int64)

    def offer_block(
        self,
        some: NDArray[np.int64],
        block: NDArray[np.float32],
        keep: NDArray[np.bool_],
        names: NDArray[np.int64],
        slack: NDArray[np.float64],
        full: bool,
    ) -> None:
        """Offer the queries with the numbers ``some`` the kept rows of a block, (m, d).

        Where there are few queries or heaps are not ``full``, the scores of a query lie together,
        else those of a row, which is how a product of matrices is fastest.
        """
        from rag.indexers import _kernels_dense

        part = slice(int(some[0]), int(some[-1]) + 1)
        together = part.stop - part.start == len(some)
        take: Any = part if together else some
        queries = self.queries[take]
        heaps = self._scores[take], self._rows[take], self.sizes[take]
        by_query = len(some) <= FEW or not full
        if len(some) <= FEW:
            scores = np.einsum("qj,ij->qi", queries, block)
        else:
            scores = block @ queries.T
            if by_query:
                scores = np.ascontiguousarray(scores.T)
        offer = _kernels_dense.offer_by_query if by_query else _kernels_dense.offer_by_row
        offer(scores, keep, self._wide[take], block, names, slack.astype(np.float32), *heaps)
        if not together:
            self._scores[take], self._rows[take], self.sizes[take] = heaps

    def offer_found(
        self, found: NDArray[np.int64], vectors: NDArray[np.float32], first: int
    ) -> None:
        """Offer each query rows of a segment, (q, c), -1 for none, that begins at ``first``."""
        from rag.indexers import _kernels_dense

        _kernels_dense.offer_found(
            found, self._wide, vectors, first, self._scores, self._rows, self.sizes
        )

    def hits(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Offsets (q + 1,), rows and scores; best first, ties by ascending row."""
        from rag.indexers._kernels_heap import sorted_hits

        return sorted_hits(self._scores, self._rows, self.sizes)


def _fixed(array: NDArray[Any]) -> NDArray[Any]:
    """A plain array that cannot be written, so that a kernel is compiled for one type of array."""
    found = np.ascontiguousarray(array).view(np.ndarray)
    found.flags.writeable = False
    return found


_ALL = _fixed(np.zeros(0, np.bool_))
"""No mask: all rows are kept."""
