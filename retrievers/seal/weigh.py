"""How much a key counts for the documents that hold it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rag.errors import InvalidInput
from rag.retrievers.seal.keys import TITLE, Keys

if TYPE_CHECKING:
    from rag.indexers.fm_index import FMIndexes

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
CERTAIN = 1e-10
"""Taken off a log-probability, as SEAL does, so that what is held for certain has finite odds."""


@dataclass(frozen=True)
class Scoring:
    """How keys become scores; the defaults are those of SEAL (Bevilacqua et al., NeurIPS 2022).

    weights: "count" compares log p(n-gram | question) with how often the n-gram occurs; "pmi"
        with log p(n-gram | no question), which Keys then hold.
    alpha: the power that the weights of n-grams are raised to.
    smoothing: added to an n-gram's count and to the number of tokens ("count" only).
    beta: 0 to 1, how much of a key's weight is lost where all its tokens stood in better keys.
    max_hits: keys that occur more often find no document, but count in those that others find.
    fully_score: so many documents, the best by the keys that find, are read in full.
    single_key: 0 to 1, the part of the score that is the weight of the best key alone.
    unigram_top: so many single tokens, the likeliest, have a weight.
    top_k: so many documents are returned.
    """

    weights: Literal["count", "pmi"] = "count"
    alpha: float = 2.0
    smoothing: float = 5.0
    beta: float = 0.8
    max_hits: int = 1500
    fully_score: int = 1500
    single_key: float = 0.0
    unigram_top: int = 5000
    top_k: int = 10


def key_weights(keys: Keys, counts: I64, rows: int, how: Scoring) -> F64:
    """The weights of n-grams, at least 0: (n,), and 0 for one that does not occur.

    With p = p(n-gram | question) and the prior P = (count + smoothing) / (rows + smoothing)

        count:  max(0, log [p (1 - P) / (P (1 - p))]) ^ alpha
        pmi:    max(0, log p - log p(n-gram | no question)) ^ alpha

    Args:
        keys: the n-grams.
        counts: (n,) how often each occurs in the whole collection.
        rows: tokens of the collection, each document's end counted as one.
        how: the settings.

    Raises:
        InvalidInput: "pmi" is asked for, and the keys hold no ``base``.
    """
    occur = np.flatnonzero(counts)
    log_probs = keys.log_probs[occur]
    if how.weights == "pmi":
        odds = log_probs - _given(keys.base, "base")[occur]
    else:
        odds = _odds(log_probs - CERTAIN, counts[occur], rows, how.smoothing)
    weights = np.zeros(len(keys))
    weights[occur] = np.maximum(odds, 0.0) ** how.alpha
    return weights


def unigram_weights(keys: Keys, index: FMIndexes, how: Scoring) -> F64:
    """The weights of single tokens, by id: (index.limit,); all 0 where the keys hold none.

    The formulas are those of n-grams without the power. A token outside the ``unigram_top``
    likeliest (of equal ones the lower ids are likelier), one that does not occur, and one that is
    itself a key, has the weight 0.

    Raises:
        InvalidInput: "pmi" is asked for, and the keys hold no ``base_unigrams``.
    """
    weights = np.zeros(index.limit)
    if keys.unigrams is None:
        return weights
    tokens, counts, _ = index.next_tokens(index.whole())
    likely = np.zeros(max(index.limit, len(keys.unigrams)), bool)
    likely[best(keys.unigrams, how.unigram_top)] = True
    single = (np.diff(keys.offsets) == 1) & (keys.kinds != TITLE)
    known = keys.tokens[keys.offsets[:-1][single]]
    likely[known[(known >= 0) & (known < len(likely))]] = False
    chosen = likely[tokens]
    tokens, counts = tokens[chosen], counts[chosen]
    log_probs = keys.unigrams[tokens].astype(np.float64)
    if how.weights == "pmi":
        odds = log_probs - _given(keys.base_unigrams, "base_unigrams")[tokens]
    else:
        odds = _odds(log_probs, counts, len(index), how.smoothing)
    weights[tokens] = np.maximum(odds, 0.0)
    return weights


def best(scores: NDArray[Any], k: int) -> I64:
    """Which are the ``k`` highest, ascending; of equal ones the first: at most k int64."""
    if k >= len(scores):
        return np.arange(len(scores))
    if k <= 0:
        return np.empty(0, np.int64)
    least = np.partition(scores, len(scores) - k)[len(scores) - k]
    above = scores > least
    ties = np.flatnonzero(scores == least)[: k - int(above.sum())]
    above[ties] = True
    return np.flatnonzero(above)


def _odds(log_probs: F64, counts: I64, rows: int, smoothing: float) -> F64:
    log_probs = np.minimum(log_probs, -CERTAIN)
    prior = np.log((counts + smoothing) / (rows + smoothing))
    odds: F64 = (log_probs + np.log(-np.expm1(prior))) - (prior + np.log(-np.expm1(log_probs)))
    return odds


def _given(base: NDArray[Any] | None, name: str) -> NDArray[Any]:
    if base is None:
        raise InvalidInput(
            f"the weights are 'pmi', but the keys hold no {name}: the decoder must be told to "
            "score them without a question too, or the weights be 'count'"
        )
    return base
