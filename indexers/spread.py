"""Searchers whose segments lie at shards (``rag.collection.spread``): they ask, and merge.

The index itself is open here too, mapped: it plans, explains and says what it is. Only ``search``
is done by shards, in one round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rag.collection.spread import Ask
    from rag.indexers.lexical_index import LexicalIndex
    from rag.indexers.tokenizer import Terms

Hits = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""Offsets (q + 1,), rows (m,) and scores (m,); best first, ties by ascending row."""


class SpreadIndex:
    """An index whose scores of a row hang on nothing but the row: dense, sparse.

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
    number = [np.repeat(np.arange(queries), np.diff(offsets)) for offsets, _, _ in found.values()]
    of = np.concatenate([np.zeros(0, np.int64), *number])
    numbers = [docs + rows[shard][0] for shard, (_, docs, _) in found.items()]
    docs = np.concatenate([np.zeros(0, np.int64), *numbers])
    scores = np.concatenate([np.zeros(0, np.float32), *(hits[2] for hits in found.values())])
    order = np.lexsort((docs, -scores, of))
    counts = np.bincount(of, minlength=queries)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = order[rank < k]
    offsets = np.concatenate(([0], np.cumsum(np.minimum(counts, k))))
    return offsets, docs[kept], scores[kept]
