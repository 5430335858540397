"""Compiled loops over scores of dense vectors (``rag.compiled``).

Products of matrices round a score differently from block to block, by ``slack`` at most. They only
choose rows: what is kept is scored by ``_product``, which gives a row one score wherever it lies.
So the best rows are those of brute force, with its ties. ``best``, ``rows`` and ``sizes`` are the
heaps of all queries, (q, k), (q, k) and (q,).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.compiled import kernel
from rag.indexers._kernels_heap import push

Arrays: TypeAlias = NDArray[Any]
Number: TypeAlias = Any
"""A scalar; numba gives it its machine type."""


@kernel
def _product(query: Arrays, vector: Arrays) -> Number:
    """The inner product of a float64 query and a float32 vector, rounded to float32.

    Products are exact in float64, and their sum has one order.
    """
    # Unsigned, as numba would look at the sign of each index; four sums, as one would wait for
    # itself.
    one, two, three, four = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    length = np.uint64(len(query))
    whole = length - length % four
    a = b = c = d = 0.0
    for j in range(np.uint64(0), whole, four):
        a += query[j] * np.float64(vector[j])
        b += query[j + one] * np.float64(vector[j + one])
        c += query[j + two] * np.float64(vector[j + two])
        d += query[j + three] * np.float64(vector[j + three])
    for j in range(whole, length):
        a += query[j] * np.float64(vector[j])
    return np.float32((a + c) + (b + d))


@kernel
def _pick(scores: Arrays, keep: Arrays, floor: Number, picked: Arrays) -> Any:
    """Write the places of the kept scores that are not below ``floor``; their number."""
    count = 0
    for j in range(len(scores)):
        if scores[j] >= floor and (len(keep) == 0 or keep[j]):
            picked[count] = j
            count += 1
    return count


@kernel
def offer_by_query(
    scores: Arrays, keep: Arrays, queries: Arrays, vectors: Arrays, numbers: Arrays,
    slack: Arrays, best: Arrays, rows: Arrays, sizes: Arrays,
) -> None:  # fmt: skip
    """Offer the rows of a block to the heaps, whether these are full or not.

    Args:
        scores: (q, m) float32, rounded.
        keep: (m,) bool, or without elements for all.
        queries: (q, d) float64.
        vectors: (m, d) float32.
        numbers: (m,) int64, those of the rows.
        slack: (q,) float32, how far off a score may be.
        best: the scores of the heaps.
        rows: their rows.
        sizes: how many each has.
    """
    k = best.shape[1]
    picked = np.empty(len(numbers), np.int64)
    for q in range(len(scores)):
        size = sizes[q]
        floor = np.float32(-np.inf)
        if size == k:
            floor = best[q, 0] - slack[q]
        count = _pick(scores[q], keep, floor, picked)
        if count > k:
            # The k best of the block alone push the rest out, before it is scored.
            some = scores[q][picked[:count]]
            floor = max(floor, np.partition(some, count - k)[count - k] - 2 * slack[q])
        for i in range(count):
            j = picked[i]
            if scores[q, j] >= floor:
                score = _product(queries[q], vectors[j])
                size = push(best[q], rows[q], size, score, numbers[j])
        sizes[q] = size


@kernel
def offer_by_row(
    scores: Arrays, keep: Arrays, queries: Arrays, vectors: Arrays, numbers: Arrays,
    slack: Arrays, best: Arrays, rows: Arrays, sizes: Arrays,
) -> None:  # fmt: skip
    """As ``offer_by_query``, for full heaps and ``scores`` of (m, q)."""
    floors = best[:, 0] - slack
    for j in range(len(scores)):
        if len(keep) and not keep[j]:
            continue
        for q in range(scores.shape[1]):
            if scores[j, q] >= floors[q]:
                score = _product(queries[q], vectors[j])
                push(best[q], rows[q], sizes[q], score, numbers[j])
                floors[q] = best[q, 0] - slack[q]


@kernel
def offer_found(
    found: Arrays, queries: Arrays, vectors: Arrays, first: Number, best: Arrays, rows: Arrays,
    sizes: Arrays,
) -> None:  # fmt: skip
    """Offer rows that were ``found``, (q, c) int64, -1 for none, of a segment from ``first`` on."""
    for q in range(len(found)):
        size = sizes[q]
        for i in range(found.shape[1]):
            row = found[q, i]
            if row >= 0:
                score = _product(queries[q], vectors[row])
                size = push(best[q], rows[q], size, score, first + row)
        sizes[q] = size
