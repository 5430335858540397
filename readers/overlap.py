"""The sentence that shares most with the question: a reader without a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from rag.readers.passages import Found, Passage, sentences
from rag.readers.words import keywords


class OverlapReader:
    """Finds the sentence whose words weigh most among those of the question.

    With q the keywords of the question (``rag.readers.words.keywords``), N the number of sentences
    in the given passages and df(t) how many of them have the word t::

        weight(t)   = ln(1 + (N - df(t) + 0.5) / (df(t) + 0.5))
        score(s)    = sum of weight(t) for t in q and in s
        confidence  = score(s) / sum of weight(t) for t in q

    The weight is the inverse document frequency of BM25, in Lucene's form. Ties go to the better
    passage, then to the earlier sentence.
    """

    label = "sentence overlap (no reader model)"

    def __init__(self) -> None:
        """Remember the sentences of passages, which are read for many questions."""
        self._candidates = lru_cache(maxsize=4096)(_candidates)

    def read(self, question: str, given: Sequence[Passage]) -> Found | None:
        """The sentence, or None where none has a keyword of the question."""
        candidates = [
            (passage, *sentence)
            for passage in sorted(given, key=lambda passage: (-passage.score, passage.rank))
            for sentence in self._candidates(passage.stored, passage.start, passage.end)
        ]
        asked = keywords(question)
        weights = {
            word: _weight(len(candidates), sum(word in words for *_, words in candidates))
            for word in asked
        }
        # fsum is exact, so that the order of a set does not show.
        scores = [math.fsum(weights[word] for word in asked & words) for *_, words in candidates]
        if not any(scores):
            return None
        best = max(range(len(candidates)), key=scores.__getitem__)
        passage, start, end, _ = candidates[best]
        return Found(passage, start, end, scores[best] / math.fsum(weights.values()))


def _candidates(stored: str, start: int, end: int) -> list[tuple[int, int, frozenset[str]]]:
    return [(a, b, keywords(stored[a:b])) for a, b in sentences(stored, start, end)]


def _weight(n: int, df: int) -> float:
    return math.log(1 + (n - df + 0.5) / (df + 0.5))
