"""Searchers whose segments lie at shards (``rag.collection.spread``): they ask, and merge.

The index itself is open here too, mapped: it plans, explains and says what it is. Only ``search``
is done by shards, in one round; in two, for what FAISS finds too little of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rag.collection.spread import Ask
    from rag.indexers.dense_index import DenseIndex
    from rag.indexers.lexical_index import LexicalIndex
    from rag.indexers.tokenizer import Terms

Hits = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""Offsets (q + 1,), rows (m,) and scores (m,); best first, ties by ascending row."""


class SpreadIndex:
    """An index whose hits of a segment hang on nothing but the segment: sparse.

    Everything but ``search`` is that of the index.
    """

    def __init__(self, index: Any, ask: Ask) -> None:
        """Take the index of all segments, opened here, and what asks the shards."""
        self._index, self._ask = index, ask

    def __getattr__(self, name: str) -> Any:
        """What the index has."""
        return getattr(self._index, name)

    def search(
        self, queries: Any, k: int, *, keep: NDArray[np.bool_] | None = None, **settings: Any
    ) -> Hits:
        """As the index's own ``search``."""
        calls = {shard: (queries, k) for shard in range(len(self._ask.rows))}
        found = self._ask("search", calls, keep=keep, **settings)
        return merged(found, self._ask.rows, queries.shape[0], k)


class SpreadDense:
    """A dense index: how much FAISS looks at hangs on the rows of all segments.

    Everything but ``search`` is that of the index.
    """

    def __init__(self, index: DenseIndex, ask: Ask) -> None:
        """Take the index of all segments, opened here, and what asks the shards."""
        self._index, self._ask = index, ask

    def __getattr__(self, name: str) -> Any:
        """What the index has."""
        return getattr(self._index, name)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        keep: NDArray[np.bool_] | None = None,
        exact: bool = False,
        effort: float = 1,
    ) -> Hits:
        """As ``DenseIndex.search``."""
        exact, k, among = self._index.planned(queries, k, keep, exact, effort)
        settings = {"effort": effort, "among": among, "keep": keep}
        hits, counts = self._round(queries, k, exact=exact, **settings)
        if counts is None:
            return hits
        lacking = np.flatnonzero(counts < min(k, among))
        if not len(lacking):
            return hits
        others = np.ones(len(queries), np.bool_)
        others[lacking] = False
        anew, _ = self._round(queries[lacking], k, exact=True, **settings)
        of = _query_of(hits)
        good = others[of]
        of = np.concatenate((of[good], lacking[_query_of(anew)]))
        order = np.argsort(of, kind="stable")
        offsets = np.concatenate(([0], np.cumsum(np.bincount(of, minlength=len(queries)))))
        rows = np.concatenate((hits[1][good], anew[1]))[order]
        return offsets, rows, np.concatenate((hits[2][good], anew[2]))[order]

    def _round(
        self, queries: NDArray[np.float32], k: int, **settings: Any
    ) -> tuple[Hits, NDArray[np.int64] | None]:
        """The hits of all shards, and how many rows FAISS found of each query, if it was asked."""
        calls = {shard: (queries, k) for shard in range(len(self._ask.rows))}
        found = self._ask("search_among", calls, **settings)
        counts = [each[3] for each in found.values() if each[3] is not None]
        hits = {shard: each[:3] for shard, each in found.items()}
        total = np.sum(counts, axis=0) if counts else None
        return merged(hits, self._ask.rows, len(queries), k), total


class SpreadLexical:
    """A lexical index: terms are looked up here in all segments, and their weights sent along.

    Everything but ``search`` is that of the index.
    """

    def __init__(self, index: LexicalIndex, ask: Ask) -> None:
        """Take the index of all segments, opened here, and what asks the shards."""
        self._index, self._ask = index, ask

    def __getattr__(self, name: str) -> Any:
        """What the index has."""
        return getattr(self._index, name)

    def search(
        self,
        queries: Sequence[str] | Terms,
        k: int,
        *,
        keep: NDArray[np.bool_] | None = None,
        **settings: Any,
    ) -> Hits:
        """As ``LexicalIndex.search``."""
        plan = self._index.plan(queries)
        # A shard has its own segments, and needs no names: only where their postings begin.
        sent = plan._replace(names=[], holding=plan.holding[:0])
        calls = {
            shard: (sent._replace(found=plan.found[first:last]), k)
            for shard, (first, last) in enumerate(self._ask.segments)
        }
        found = self._ask("search_planned", calls, keep=keep, **settings)
        return merged(found, self._ask.rows, len(plan.bounds) - 1, k)


def merged(
    found: Mapping[int, Hits], rows: Sequence[tuple[int, int]], queries: int, k: int
) -> Hits:
    """The best ``k`` hits of each of so many ``queries``, from those of shards.

    Args:
        found: what each shard found, with rows counted from its own first one.
        rows: for each shard its first row, and the one after its last.
        queries: how many there are.
        k: the most hits of a query.
    """
    of = np.concatenate([np.zeros(0, np.int64), *map(_query_of, found.values())])
    numbers = [docs + rows[shard][0] for shard, (_, docs, _) in found.items()]
    docs = np.concatenate([np.zeros(0, np.int64), *numbers])
    scores = np.concatenate([np.zeros(0, np.float32), *(hits[2] for hits in found.values())])
    order = np.lexsort((docs, -scores, of))
    counts = np.bincount(of, minlength=queries)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = order[rank < k]
    offsets = np.concatenate(([0], np.cumsum(np.minimum(counts, k))))
    return offsets, docs[kept], scores[kept]


def _query_of(hits: Hits) -> NDArray[np.int64]:
    """The query of each hit."""
    return np.repeat(np.arange(len(hits[0]) - 1), np.diff(hits[0]))
