"""How many of the nearest rows a dense index finds: its recall against exact search."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

COUNT = 200
"""How many of an index's own vectors are searched with."""
SEED = 1


def recall(
    index: Any,
    ks: Sequence[int] = (10, 100),
    *,
    queries: NDArray[np.float32] | None = None,
    keep: NDArray[np.bool_] | None = None,
) -> tuple[int, dict[int, float]]:
    """The mean share of the k nearest rows, found by exact search, that the index finds too.

    Args:
        index: a searcher with ``vectors`` and ``search(…, exact=…)``, such as a ``DenseIndex``.
        ks: how many rows are looked for.
        queries: (q, d) float32. Default: ``COUNT`` vectors of the index, drawn at random but always
            the same, each without its own row among what is found. Passages are easier to search
            with than questions are: recall for questions is lower as a rule.
        keep: (rows,) bool, the rows that are searched; None for all.

    Returns:
        How many queries there were, and recall by k; 1 where there is nothing to find.
    """
    own = None
    if queries is None:
        rows = np.arange(index.rows) if keep is None else np.flatnonzero(keep)
        drawn = np.random.default_rng(SEED).permutation(len(rows))[:COUNT]
        own = np.sort(rows[drawn])
        queries = index.vectors(own)
    values = {}
    for k in ks:  # each by itself: who looks for more rows looks at more candidates
        found, wanted = (
            _lists(index.search(queries, k + (own is not None), keep=keep, exact=exact), own)
            for exact in (False, True)
        )
        shares = [
            len(np.intersect1d(mine[:k], best[:k])) / len(best[:k])
            for mine, best in zip(found, wanted, strict=True)
            if len(best)
        ]
        values[k] = float(np.mean(shares)) if shares else 1.0
    return len(queries), values


def _lists(found: Any, own: NDArray[np.int64] | None) -> list[NDArray[np.int64]]:
    """The rows of each query, best first, without its own."""
    offsets, rows, _ = found
    lists = [rows[a:b] for a, b in pairwise(offsets.tolist())]
    if own is None:
        return lists
    return [some[some != row] for some, row in zip(lists, own.tolist(), strict=True)]
