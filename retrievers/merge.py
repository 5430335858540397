"""Several queries of one row become one ranking."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Merge = Literal["rrf", "max"]

RRF_K = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009)."""


def merged(
    rows: NDArray[np.int64],
    offsets: NDArray[np.int64],
    docs: NDArray[np.int64],
    scores: NDArray[np.float32],
    *,
    n: int,
    k: int,
    how: Merge,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Merge the hits of q queries into the ``k`` best of each of ``n`` rows.

    Args:
        rows: (q,) int64, the row of each query.
        offsets: (q + 1,) int64 into ``docs`` and ``scores``, best first.
        docs: (m,) int64 passage numbers.
        scores: (m,) float32.
        n: the number of rows.
        k: the most passages of a row.
        how: ``rrf`` scores a passage with the sum over queries of 1 / (60 + rank), rank from 1;
            ``max`` with its best score. A row with one query keeps its scores in either case,
            so that what it gets does not depend on the rows beside it.

    Returns:
        Offsets (n + 1,), docs and scores of the rows, best first, ties by ascending number.
    """
    counts = np.diff(offsets)
    row_of = np.repeat(rows, counts)
    values = scores.astype(np.float64)
    if how == "rrf":
        ranks = np.arange(1, len(docs) + 1) - np.repeat(offsets[:-1], counts)
        alone = np.bincount(rows, minlength=n)[row_of] == 1
        values = np.where(alone, values, 1.0 / (RRF_K + ranks))
    pairs, place = np.unique(np.stack((row_of, docs)), axis=1, return_inverse=True)
    best = np.zeros(pairs.shape[1]) if how == "rrf" else np.full(pairs.shape[1], -np.inf)
    # Added from the smallest up, so that the same ranks in other queries give the same sum.
    rising = np.argsort(values, kind="stable")
    (np.add if how == "rrf" else np.maximum).at(best, place.reshape(-1)[rising], values[rising])
    shown = best.astype(np.float32)
    order = np.lexsort((pairs[1], -shown, pairs[0]))
    found = np.bincount(pairs[0], minlength=n)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(found) - found, found)
    kept = order[rank < k]
    ends = np.concatenate(([0], np.cumsum(np.minimum(found, k))))
    return ends, pairs[1][kept], shown[kept]
