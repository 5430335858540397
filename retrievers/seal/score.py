"""Score documents by the keys of one question: which hold them, and how much that counts.

The steps are those of SEAL (Bevilacqua et al., NeurIPS 2022, section 3.2 and its code):

1. the keys that are rare enough are located, and each document is scored by those found in it;
2. the best of these documents are read, and scored by all keys and by single tokens.

In both, keys are taken by falling weight. A key counts where none of its tokens stands in a better
key, once for each document, times 1 - beta + beta * (its distinct tokens that no better key of the
document holds) / (its distinct tokens). Keys of equal weight are taken by ascending token ids,
titles first; the places of a key from the left. Counts are those of the whole collection, so the
scores do not depend on how it is cut into segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.errors import InvalidInput
from rag.retrievers.seal.keys import TITLE, Keys
from rag.retrievers.seal.weigh import F64, I64, Scoring, best, key_weights, unigram_weights

if TYPE_CHECKING:
    from rag.indexers.fm_index import FMIndexes


@dataclass(frozen=True, eq=False)
class Scored:
    """Documents by falling score, of equal scores the lower number first; m of them.

    documents (m,) int64, scores (m,) float32, above 0.
    offsets (m + 1,) int64: where the evidence of each document begins in the arrays below, and
        where the last ends. Keys come by falling weight, then single tokens from the left.
    keys int32: the number of an n-gram among the Keys; -1 for a single token that is none of them.
    tokens int32: that single token; -1 for an n-gram.
    weights float32: what it adds. With ``single_key`` 0 the weights of a document add up to its
        score.
    positions int32: the offset, in the document's tokens, of the last token of the first place
        that counts.
    """

    documents: I64
    scores: NDArray[np.float32]
    offsets: I64
    keys: NDArray[np.int32]
    tokens: NDArray[np.int32]
    weights: NDArray[np.float32]
    positions: NDArray[np.int32]


class _Ranked(NamedTuple):
    """The n-grams that have a weight, by falling weight; single tokens that act as keys too."""

    numbers: I64  # among the Keys; -1 for a single token
    offsets: I64
    tokens: NDArray[np.int32]
    titles: NDArray[np.bool_]
    weights: F64
    places: tuple[I64, I64, I64]
    """Where those that are rare enough are: offsets, documents and positions."""
    lengths: I64
    unique_offsets: I64
    unique: NDArray[np.int32]  # the tokens of each without repeats


def score(
    keys: Keys, index: FMIndexes, how: Scoring, *, keep: NDArray[np.bool_] | None = None
) -> Scored:
    """The best documents for ``keys``, with their evidence.

    Args:
        keys: the n-grams of one question; those that do not occur count nothing.
        index: the collection.
        how: the settings.
        keep: (documents,) bool, which may be returned; all by default. The others count in the
            statistics alone.

    Returns:
        At most ``how.top_k`` documents; none where no key occurs or all occur too often.

    Raises:
        InvalidInput: ``keep`` is not such an array, or a log-probability that ``how.weights``
            needs is absent.
    """
    documents = int(index.first[-1])
    if keep is not None and (keep.shape != (documents,) or keep.dtype != np.bool_):
        raise InvalidInput(
            f"keep is {keep.dtype} of the shape {keep.shape}, but the index holds {documents:,} "
            f"documents: expected bool of the shape ({documents},)"
        )
    unigrams = unigram_weights(keys, index, how)
    ranked = _rank(keys, unigrams, index, how)
    candidates = _find(ranked, index, how, keep)
    return _read(ranked, unigrams, candidates, index, how)


def _rank(keys: Keys, unigrams: F64, index: FMIndexes, how: Scoring) -> _Ranked:
    from rag.retrievers.seal import _kernels

    # SEAL lets as many of the best single tokens as there are keys act as keys.
    chosen = np.flatnonzero(unigrams)
    chosen = chosen[best(unigrams[chosen], len(keys))]
    offsets = np.concatenate((keys.offsets, keys.offsets[-1] + 1 + np.arange(len(chosen))))
    tokens = np.concatenate((keys.tokens, chosen.astype(np.int32)))
    titles = np.concatenate((keys.kinds == TITLE, np.zeros(len(chosen), bool)))
    found = index.occurrences(offsets, tokens, titles, how.max_hits)
    counts = index.widths(found.ranges)
    weights = np.concatenate(
        (key_weights(keys, counts[: len(keys)], len(index), how), unigrams[chosen])
    )
    order = _order(offsets, tokens, titles, weights)
    order = order[weights[order] > 0]
    numbers = np.where(order < len(keys), order, -1)
    offsets, tokens = _take(offsets, tokens, order)
    unique_offsets, unique = np.zeros_like(offsets), np.empty_like(tokens)
    _kernels.distinct(offsets, tokens, unique_offsets, unique)
    return _Ranked(
        numbers,
        offsets,
        tokens,
        titles[order],
        weights[order],
        found.locate(order),
        np.diff(offsets),
        unique_offsets,
        unique,
    )


def _order(offsets: I64, tokens: NDArray[np.int32], titles: NDArray[np.bool_], weights: F64) -> I64:
    """By falling weight; of equal ones titles first, then by ascending token ids."""
    lengths = np.diff(offsets)
    table = np.full((len(lengths), int(lengths.max(initial=0))), -1, np.int32)
    table[np.arange(table.shape[1]) < lengths[:, None]] = tokens
    return np.lexsort((*table.T[::-1], ~titles, -weights))


def _take(offsets: I64, tokens: NDArray[np.int32], order: I64) -> tuple[I64, NDArray[np.int32]]:
    """The n-grams in another order."""
    lengths = np.diff(offsets)[order]
    ends = np.concatenate(([0], np.cumsum(lengths)))
    return ends, tokens[np.repeat(offsets[order] - ends[:-1], lengths) + np.arange(ends[-1])]


def _find(ranked: _Ranked, index: FMIndexes, how: Scoring, keep: NDArray[np.bool_] | None) -> I64:
    """The ``fully_score`` best documents by the keys that are rare enough: ascending."""
    from rag.retrievers.seal import _kernels

    offsets, documents, positions = ranked.places
    ranks = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    if keep is not None:
        kept = keep[documents]
        ranks, documents, positions = ranks[kept], documents[kept], positions[kept]
    numbers = np.empty(min(len(documents), len(index)), np.int64)
    many, one = np.empty((2, len(numbers)))
    count = _kernels.found(
        _kernels.by_document(documents),
        ranks,
        documents,
        positions,
        ranked.lengths,
        ranked.unique_offsets,
        ranked.unique,
        ranked.titles,
        ranked.weights,
        how.beta,
        np.zeros(index.limit, np.int32),
        numbers,
        many,
        one,
    )
    return numbers[best(_blend(many[:count], one[:count], how), how.fully_score)]


def _blend(many: F64, one: F64, how: Scoring) -> F64:
    return (1.0 - how.single_key) * many + how.single_key * one


def _read(
    ranked: _Ranked, unigrams: F64, candidates: I64, index: FMIndexes, how: Scoring
) -> Scored:
    """Score the candidates by their text, and say what counted in the best ``top_k``."""
    from rag.retrievers.seal import _kernels

    size = 1 << max(4, int(2 * len(ranked.tokens)).bit_length())
    root, pairs = np.full(index.limit, -1, np.int32), np.full(size, -1, np.int64)
    children = np.full(size, -1, np.int32)
    inner = np.zeros(len(ranked.tokens), bool)
    anywhere, at_start = np.full((2, len(ranked.tokens)), -1, np.int32)
    nodes = root, pairs, children, inner, anywhere, at_start
    _kernels.trie(ranked.offsets, ranked.tokens, ranked.titles, *nodes)
    keys = ranked.lengths, ranked.unique_offsets, ranked.unique, ranked.titles, ranked.weights
    if not unigrams.any():
        unigrams = np.empty(0)
    text = index.documents(candidates)

    many, one = np.empty((2, len(candidates)))
    counts = np.empty(len(candidates), np.int64)
    no, none = np.empty(0, np.int64), np.empty(0, np.int32)
    unwritten = no, none, none, np.empty(0, np.float32), none
    which = np.arange(len(candidates))
    _kernels.read(which, *text, *nodes, *keys, unigrams, how.beta, many, one, counts, *unwritten)
    scores = _blend(many, one, how).astype(np.float32)
    # The candidates ascend, so a stable sort leaves equal scores by number.
    which = np.argsort(-scores, kind="stable")[: how.top_k]
    which = which[scores[which] > 0]  # the text of one is away with its shard

    offsets = np.concatenate(([0], np.cumsum(counts[which])))
    total = int(offsets[-1])
    ranks, tokens, positions = np.empty((3, total), np.int32)
    weights = np.empty(total, np.float32)
    written = offsets, ranks, tokens, weights, positions
    _kernels.read(which, *text, *nodes, *keys, unigrams, how.beta, many, one, counts, *written)
    # A single token that acts as a key stands in the evidence as the token that it is.
    first = ranked.tokens[ranked.offsets[:-1]]
    numbers = np.where(ranks < 0, -1, ranked.numbers[ranks] if total else ranks).astype(np.int32)
    acting = (ranks >= 0) & (numbers < 0)
    tokens[acting] = first[ranks[acting]]
    return Scored(candidates[which], scores[which], offsets, numbers, tokens, weights, positions)
