"""The searcher of the index kind ``dupmae``: the best rows of all segments, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import Damaged, InvalidInput
from rag.indexers.head import AGAIN

if TYPE_CHECKING:
    from rag.collection.spread import Ask
    from rag.encoders.dupmae.store import ForwardStore
    from rag.indexers.dupmae import DupMAE
    from rag.indexers.spread import SpreadIndex

QUERIES = 64
"""Queries that are searched at a time: their weights take 8 MB where V is 30,522."""
_ALL = np.zeros(0, np.bool_)


class DupMAEIndex:
    """Searches the segments of one index of DupMAE; may be shared by threads.

    rows: of all segments.
    dimensions: d + V, of a query.
    settings: of the index.
    """

    def __init__(
        self, parts: Sequence[ForwardStore], places: Sequence[Path], settings: DupMAE
    ) -> None:
        """Take the segments in order, and their folders for errors."""
        self._parts, self._places, self.settings = list(parts), list(places), settings
        self._firsts = np.cumsum([0, *(len(part) for part in parts)])
        self.rows = int(self._firsts[-1])
        self.dimensions = settings.dimensions + settings.vocabulary

    def search(
        self, queries: Any, k: int, *, keep: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """The ``k`` best rows of each query, by both parts at once.

            s(q, d) = h'_q . h'_d + sum over the ids i that d keeps of mu_q[i] mu_d[i]

        Args:
            queries: (q, dimensions) CSR or array of float32, h' and then mu, which is not cut.
            k: the most hits of a query.
            keep: (rows,) bool, the rows that may be found; None for all.

        Returns:
            Offsets (q + 1,) int64, rows (m,) int64 and scores (m,) float32; best first, ties by
            ascending row.

        Raises:
            InvalidInput: k is below 1, queries or ``keep`` have another shape, or a query has a
                component that is no finite number.
            Damaged: a segment holds a token that the vocabulary has not.
        """
        self._check(queries, k, keep)
        found = [
            self._some(queries[start : start + QUERIES], k, keep)
            for start in range(0, queries.shape[0], QUERIES)
        ]
        sizes = [np.diff(offsets) for offsets, _, _ in found]
        offsets = np.cumsum(np.concatenate([np.zeros(1, np.int64), *sizes]))
        rows = np.concatenate([np.zeros(0, np.int64), *(rows for _, rows, _ in found)])
        scores = np.concatenate([np.zeros(0, np.float32), *(scores for _, _, scores in found)])
        return offsets, rows, scores

    def spread(self, ask: Ask) -> SpreadIndex:
        """This index with its segments searched by the shards that ``ask`` asks."""
        from rag.indexers.spread import SpreadIndex

        return SpreadIndex(self, ask)

    def _some(self, queries: Any, k: int, keep: NDArray[np.bool_] | None) -> Any:
        from rag.indexers import _kernels_dupmae, _kernels_heap

        wide = queries if isinstance(queries, np.ndarray) else queries.toarray()
        d = self.settings.dimensions
        dense = np.ascontiguousarray(wide[:, :d], np.float32)
        weights = np.ascontiguousarray(wide[:, d:], np.float32)
        room = min(k, self.rows)
        best = np.full((len(wide), room), -np.inf, np.float32)
        rows, sizes = np.full(best.shape, -1, np.int64), np.zeros(len(wide), np.int64)
        segments = zip(self._parts, self._places, self._firsts[:-1].tolist(), strict=True)
        for part, place, first in segments:
            own = _ALL if keep is None else np.ascontiguousarray(keep[first : first + len(part)])
            if (len(own) and not own.any()) or not room:
                continue
            if _kernels_dupmae.scan(
                dense, weights, part.dense, part.ids, part.values, own, first, best, rows, sizes
            ):
                raise Damaged(
                    f"{place} is damaged: ids.npy holds a token outside the vocabulary; {AGAIN}"
                )
        return _kernels_heap.sorted_hits(best, rows, sizes)

    def _check(self, queries: Any, k: int, keep: NDArray[np.bool_] | None) -> None:
        if k < 1:
            raise InvalidInput(f"k is {k}; expected at least 1")
        if len(queries.shape) != 2 or queries.shape[1] != self.dimensions:
            raise InvalidInput(
                f"queries have the shape {tuple(queries.shape)}; the index was built with "
                f"{self.dimensions} dimensions: use the encoder that built it, "
                f"{self.settings.encoder}"
            )
        numbers = queries if isinstance(queries, np.ndarray) else queries.data
        if not np.isfinite(numbers).all():
            raise InvalidInput("a query has a component that is no finite number")
        if keep is not None and (keep.shape != (self.rows,) or keep.dtype != np.bool_):
            raise InvalidInput(
                f"keep has shape {keep.shape} and type {keep.dtype}; expected {(self.rows,)}, bool"
            )
