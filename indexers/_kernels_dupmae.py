"""Compiled scan of the rows of DupMAE's two parts (``rag.compiled``)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.compiled import kernel
from rag.indexers._kernels_heap import push

Arrays: TypeAlias = NDArray[Any]
Number: TypeAlias = Any
"""A scalar; numba gives it its machine type."""

BLOCK = 256
"""Rows that stay in a core's cache while all queries read them."""


@kernel
def scan(
    queries: Arrays, weights: Arrays, vectors: Arrays, ids: Arrays, values: Arrays, keep: Arrays,
    first: Number, best: Arrays, rows: Arrays, sizes: Arrays,
) -> Number:  # fmt: skip
    """Offer the rows of a segment to the heaps of all queries.

    A score is the product of two vectors plus that of a row's values with the query's weights of
    their tokens, summed in float64 in the order of the arrays.

    Args:
        queries: (q, d) float32.
        weights: (q, V) float32.
        vectors: (n, d) float32.
        ids: (n, k) int32.
        values: (n, k) float32.
        keep: (n,) bool, or without elements for all.
        first: the number of the first row.
        best: (q, m) float32, the scores of the heaps.
        rows: (q, m) int64, their rows.
        sizes: (q,) int64, how many each has.

    Returns:
        1 where an id lies outside the vocabulary, else 0.
    """
    for row in range(len(ids)):
        for i in range(ids.shape[1]):
            if ids[row, i] < 0 or ids[row, i] >= weights.shape[1]:
                return 1
    for start in range(0, len(vectors), BLOCK):
        for q in range(len(queries)):
            size = sizes[q]
            for row in range(start, min(start + BLOCK, len(vectors))):
                if len(keep) and not keep[row]:
                    continue
                score = 0.0
                for j in range(vectors.shape[1]):
                    score += np.float64(queries[q, j]) * np.float64(vectors[row, j])
                for i in range(ids.shape[1]):
                    score += np.float64(weights[q, ids[row, i]]) * np.float64(values[row, i])
                size = push(best[q], rows[q], size, np.float32(score), first + row)
            sizes[q] = size
    return 0
