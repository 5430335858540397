"""Several rankings of one row become one: those of its queries, or those of several stages."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Merge = Literal["rrf", "max"]

RRF_K = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009)."""


RRF_DEPTH = 100
"""How deep each of several queries is searched at least, before their ranks are fused."""


def depth(k: int, how: Merge) -> int:
    """How many hits each of several queries needs, so that the ``k`` best of them are found.

    The best score of a passage that is among the k best of a row is among the k best of a query.
    Ranks are another thing: a passage that is tenth for two queries (2 / 70) goes before the first
    of one (1 / 61), so lists as short as k would fuse into something else.
    """
    return max(k, RRF_DEPTH) if how == "rrf" else k


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
        values = np.where(alone, values, reciprocal(ranks))
    return united(row_of, docs, values, n=n, k=k, how="max" if how == "max" else "sum")


def reciprocal(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """1 / (60 + rank), what reciprocal rank fusion gives a passage at a ``rank`` counted from 1."""
    return 1.0 / (RRF_K + ranks)


def united(
    row_of: NDArray[np.int64],
    docs: NDArray[np.int64],
    values: NDArray[np.float64],
    *,
    n: int,
    k: int,
    how: Literal["sum", "max"],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Unite the entries of each row that are one passage, and keep the ``k`` best passages.

    Args:
        row_of: (m,) int64, the row of each entry.
        docs: (m,) int64 passage numbers.
        values: (m,) float64.
        n: the number of rows.
        k: the most passages of a row.
        how: a passage gets the ``sum`` of its values, or their ``max``.

    Returns:
        Offsets (n + 1,), docs and scores (float32) of the rows, best first, ties by ascending
        number.
    """
    width = int(docs.max(initial=0)) + 1
    # One number a pair; a pair is sorted many times slower.
    pairs, place = np.unique(row_of * width + docs, return_inverse=True)
    rows, numbers = np.divmod(pairs, width)
    best = np.zeros(len(pairs)) if how == "sum" else np.full(len(pairs), -np.inf)
    # Added from the smallest up, so that the same values in another order give the same sum.
    rising = np.argsort(values, kind="stable")
    (np.add if how == "sum" else np.maximum).at(best, place[rising], values[rising])
    shown = best.astype(np.float32)
    order = np.lexsort((numbers, -shown, rows))
    found = np.bincount(rows, minlength=n)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(found) - found, found)
    kept = order[rank < k]
    ends = np.concatenate(([0], np.cumsum(np.minimum(found, k))))
    return ends, numbers[kept], shown[kept]
