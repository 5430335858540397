"""The passages that a reader is given, with the stored text that citations point into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rag.ranking import Ranking
from rag.sources.sentences import sentence_spans

ROWS = 1024
"""Rows whose passages are held in memory at once."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One passage of one row.

    Attributes:
        rank: the 1-based place in the row's reading order.
        stored: the text as the collection holds it.
        start: where the part that the ranking keeps begins in ``stored``; the whole text if an
            earlier stage rewrote it, since what it wrote has no place there.
        end: where that part ends.
        text: what a model is shown: the kept part, or what an earlier stage wrote instead.
    """

    rank: int
    id: str
    title: str
    stored: str
    start: int
    end: int
    text: str
    score: float

    def sentences(self) -> list[tuple[int, int]]:
        """The sentences of the kept part, as offsets into the stored text."""
        return sentences(self.stored, self.start, self.end)


@dataclass(frozen=True, slots=True)
class Found:
    """An answer that stands in a passage, as offsets into its stored text; see ``Extract``."""

    passage: Passage
    start: int
    end: int
    confidence: float

    @property
    def text(self) -> str:
        """The answer."""
        return self.passage.stored[self.start : self.end]


def sentences(stored: str, start: int, end: int) -> list[tuple[int, int]]:
    """The sentences of ``stored[start:end]``, as offsets into ``stored``."""
    return [(a + start, b + start) for a, b in sentence_spans(stored[start:end])]


def passages(column: Ranking | Sequence[None], n: int) -> Iterator[list[Passage]]:
    """For each row its ``n`` best passages by score, in reading order; [] where there are none.

    The best are found by score, since a reordering keeps the scores but not their order; ties go
    to the one that is read first.
    """
    if not isinstance(column, Ranking):
        yield from ([] for _ in column)  # a column of nulls alone
        return
    for first in range(0, len(column), ROWS):
        part = column.take(np.arange(first, min(first + ROWS, len(column))))
        chosen = _best(part, n)
        yield from _rows(part.keep(chosen), part.rank_of[chosen] + 1)


def _best(ranking: Ranking, n: int) -> NDArray[np.bool_]:
    """(m,) bool: the entries among the ``n`` best of their row."""
    falling = np.lexsort((ranking.rank_of, -ranking.scores, ranking.row_of))  # NaN goes last
    mask = np.zeros(len(ranking.docs), np.bool_)
    mask[falling[ranking.rank_of < n]] = True
    return mask


def _rows(ranking: Ranking, ranks: NDArray[np.int64]) -> Iterator[list[Passage]]:
    # A passage stands in many rows: each is fetched once.
    docs, place = np.unique(ranking.docs, return_inverse=True)
    table = ranking.snapshot.rows(docs, ("id", "title", "text")).to_pylist()
    spans = [] if ranking.spans is None else ranking.spans.tolist()
    made = []
    for entry, (at, rank) in enumerate(zip(place.tolist(), ranks.tolist(), strict=True)):
        stored = table[at]["text"]
        rewritten = None if ranking.texts is None else ranking.texts[entry]
        kept = slice(*spans[entry]) if spans and rewritten is None else slice(None)
        start, end, _ = kept.indices(len(stored))
        end = max(start, end)
        text = stored[start:end] if rewritten is None else rewritten
        title, score = table[at]["title"] or "", float(ranking.scores[entry])
        made.append(Passage(rank, table[at]["id"], title, stored, start, end, text, score))
    offsets = ranking.offsets.tolist()
    yield from (made[a:b] for a, b in pairwise(offsets))
