"""Compiled heaps of the best rows of a query; ties go to the lower row (``rag.compiled``)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.compiled import kernel

Arrays: TypeAlias = NDArray[Any]
Number: TypeAlias = Any
"""A scalar; numba gives it its machine type."""


@kernel
def _worse(score: Number, row: Number, other: Number, other_row: Number) -> Any:
    """Whether (score, row) ranks after (other, other_row): lower, or equal and a later row."""
    # Without a branch, as in all of a heap: which way one goes could not be predicted.
    return (score < other) | ((score == other) & (row > other_row))


@kernel
def _sift(scores: Arrays, rows: Arrays, size: Number, score: Number, row: Number) -> None:
    """Put (score, row) at the root of a heap whose root is the worst, and let it sink."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size:
            child += _worse(scores[child + 1], rows[child + 1], scores[child], rows[child])
        if not _worse(scores[child], rows[child], score, row):
            break
        scores[at], rows[at] = scores[child], rows[child]
        at = child
    scores[at], rows[at] = score, row


@kernel
def push(scores: Arrays, rows: Arrays, size: Number, score: Number, row: Number) -> Number:
    """Offer (score, row) to a heap of the best ``len(scores)``; its size after that."""
    if size == len(scores):
        if _worse(scores[0], rows[0], score, row):
            _sift(scores, rows, size, score, row)
        return size
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if not _worse(score, row, scores[above], rows[above]):
            break
        scores[at], rows[at] = scores[above], rows[above]
        at = above
    scores[at], rows[at] = score, row
    return size + 1


@kernel
def sorted_hits(scores: Arrays, rows: Arrays, sizes: Arrays) -> tuple[Arrays, Arrays, Arrays]:
    """The heaps of ``search`` as flat arrays, each query's best first; empties the heaps.

    Returns:
        (q + 1,) int64 where each query's hits lie; their rows and their scores.
    """
    offsets = np.zeros(len(sizes) + 1, np.int64)
    for q in range(len(sizes)):
        offsets[q + 1] = offsets[q] + sizes[q]
    out_rows = np.empty(offsets[-1], np.int64)
    out_scores = np.empty(offsets[-1], np.float32)
    for q in range(len(sizes)):
        end = offsets[q + 1]
        for i in range(sizes[q]):
            out_rows[end - 1 - i] = rows[q, 0]
            out_scores[end - 1 - i] = scores[q, 0]
            size = sizes[q] - 1 - i
            _sift(scores[q], rows[q], size, scores[q, size], rows[q, size])
    return offsets, out_rows, out_scores
