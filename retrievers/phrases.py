"""Search with phrases, exactly: postings hold no positions, the stored text does.

Passages that hold all words of the phrases are found by postings; they are ranked by BM25, and the
phrases are looked for in their text, best first, until enough have them or none is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rag.collection import Snapshot
    from rag.indexers.lexical_index import LexicalIndex
    from rag.indexers.tokenizer import Tokenizer
    from rag.retrievers.lexical_query import LexicalQuery

Hits = tuple[NDArray[np.int64], NDArray[np.float32]]


def search(
    query: LexicalQuery,
    index: LexicalIndex,
    snapshot: Snapshot,
    k: int,
    *,
    k1: float,
    b: float,
    keep: NDArray[np.bool_] | None,
) -> Hits:
    """The best ``k`` passages that hold all phrases of ``query``; all there are, if fewer.

    Args:
        query: what was read of a query.
        index: the index of ``snapshot``.
        snapshot: whose passages they are.
        k: how many to find at most.
        k1: as for ``LexicalIndex.search``, and so ``b``.
        b: see there.
        keep: (rows,) which passages may be found; None for all.

    Returns:
        (m,) int64 passage numbers and (m,) float32 scores, best first, ties by ascending number.
    """
    from rag.indexers.tokenizer import Terms

    terms = Terms.of([query.terms])
    if not query.phrases:
        _, rows, scores = index.search(terms, k, k1=k1, b=b, keep=keep)
        return rows, scores
    candidates = index.rows_with([t for phrase in query.phrases for t in index.tokens(phrase)])
    if keep is not None:
        candidates &= keep
    candidates.flags.writeable = False
    total, fetch = int(candidates.sum()), 2 * k + 64
    held = np.zeros(0, np.bool_)
    while True:
        _, rows, scores = index.search(
            terms, max(1, min(fetch, total)), k1=k1, b=b, keep=candidates
        )
        # The first hits of a deeper search are those of the one before: they are known.
        held = np.concatenate((held, _held(query.phrases, index, snapshot, rows[len(held) :])))
        if held.sum() >= k or len(rows) >= total:
            best = np.flatnonzero(held)[:k]
            return rows[best], scores[best]
        fetch *= 4


def _held(
    phrases: list[str], index: LexicalIndex, snapshot: Snapshot, rows: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """(n,) bool: which passages hold all phrases, each in the title or in the text."""
    names = ("title", "text") if index.titles else ("text",)
    table = snapshot.rows(rows, names)
    tokenizer = index.tokenizer.with_stop_words()
    held = np.ones(len(rows), np.bool_)
    columns = [table[name].combine_chunks().cast(pa.large_string()) for name in names]
    for phrase in phrases:
        held &= np.logical_or.reduce([standing(phrase, texts, tokenizer) for texts in columns])
    return held


def standing(phrase: str, texts: pa.LargeStringArray, tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """(n,) bool: in which of n ``texts`` the terms of ``phrase`` stand one after another."""
    ends, ids, names = tokenizer.terms(texts)
    number = {name: i for i, name in enumerate(names)}
    wanted = [number.get(term, -1) for term in tokenizer.tokens([phrase])[0]]
    found = np.zeros(len(texts), np.bool_)
    places = len(ids) - len(wanted) + 1
    if places < 1 or -1 in wanted:
        return found
    same = np.ones(places, np.bool_)
    for i, term in enumerate(wanted):
        same &= ids[i : i + places] == term
    first = np.flatnonzero(same)
    row = np.searchsorted(ends, first, "right") - 1
    found[row[first + len(wanted) <= ends[row + 1]]] = True
    return found
