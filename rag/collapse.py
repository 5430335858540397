"""Rankings without repetition: one passage a document, or one of several near-equal texts."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rag.errors import InvalidInput
from rag.ranking import Ranking

SHINGLE = 5
"""Words of a shingle, as Broder et al. have it (Syntactic clustering of the web, 1997)."""

_WORD = re.compile(r"\w+")


def by_document(ranking: Ranking) -> Ranking:
    """The best passage of each document in each row; those that stay keep their order.

    The best has the highest score (NaN is below every score); of equal ones the first stays.
    """
    documents = ranking.snapshot.rows(ranking.docs, ("document",))["document"].combine_chunks()
    codes = documents.dictionary_encode().indices.to_numpy()
    scores = np.where(np.isnan(ranking.scores), -np.inf, ranking.scores)
    order = np.lexsort((-scores, codes, ranking.row_of))  # stable: the first of equals leads
    new = np.ones(len(order), np.bool_)
    new[1:] = (np.diff(ranking.row_of[order]) != 0) | (np.diff(codes[order]) != 0)
    kept = np.zeros(len(order), np.bool_)
    kept[order[new]] = True
    return ranking.keep(kept)


def near_duplicates(ranking: Ranking, threshold: float = 0.9) -> Ranking:
    """Each row without the passages whose text is nearly that of one before them.

    Two texts are near-equal where the Jaccard similarity of their sets of 5-word shingles is at
    least ``threshold``: shared shingles / shingles of either, counted exactly. Words are runs of
    letters, digits and ``_``, in any case; a text of fewer than 5 words is one shingle. Texts are
    as the ranking has them, cut and rewritten. Rows are read from their beginning, and a passage
    is compared with those that stay.

    Raises:
        InvalidInput: the ``threshold`` is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise InvalidInput(f"near_duplicates: found threshold = {threshold}, expected 0 < t <= 1")
    kept = [
        _first_of_each([hit.text for hit in ranking[n]], threshold) for n in range(len(ranking))
    ]
    return ranking.keep(np.concatenate([np.empty(0, np.bool_), *kept]))


def _first_of_each(texts: Sequence[str], threshold: float) -> NDArray[np.bool_]:
    """(texts,) bool: which texts are near-equal to none that stays before them."""
    kept = np.zeros(len(texts), np.bool_)
    sizes = np.zeros(len(texts), np.int64)
    holders: dict[tuple[str, ...], list[int]] = {}
    for place, text in enumerate(texts):
        own = shingles(text)
        held = [holders.get(shingle, []) for shingle in own]
        shared = np.bincount([n for places in held for n in places], minlength=len(texts))
        # shared / (own + theirs - shared), without a division
        near = shared >= threshold * (len(own) + sizes - shared)
        if (near & (shared > 0)).any():
            continue
        kept[place], sizes[place] = True, len(own)
        for shingle in own:
            holders.setdefault(shingle, []).append(place)
    return kept


def shingles(text: str) -> set[tuple[str, ...]]:
    """The runs of 5 words of a text; all of its words where they are fewer."""
    words = _WORD.findall(text.casefold())
    count = max(1, len(words) - SHINGLE + 1)
    return {tuple(words[first : first + SHINGLE]) for first in range(count)}
