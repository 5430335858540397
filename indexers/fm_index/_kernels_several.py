"""Compiled loops that merge what several FM-indexes answer (``rag.compiled``)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.compiled import kernel

Arrays: TypeAlias = NDArray[Any]


@kernel
def merge_top(
    tokens: Arrays,
    scores: Arrays,
    ranges: Arrays,
    out_tokens: Arrays,
    out_scores: Arrays,
    out_ranges: Arrays,
) -> None:
    """The best k of the best k of each part: (S, n, k) and ranges (S, n, k, 2).

    Equal to one index's: a token among the best k of all is among the best k of every part that
    holds it, so its rows in all parts are here.
    """
    parts, count, k = tokens.shape
    for i in range(count):
        at = np.zeros(parts, np.int64)
        for j in range(k):
            best, token = np.float32(-np.inf), np.int64(-1)
            for part in range(parts):
                if at[part] < k:
                    score, other = scores[part, i, at[part]], tokens[part, i, at[part]]
                    if other >= 0 and (
                        token < 0 or score > best or (score == best and other < token)
                    ):
                        best, token = score, other
            out_tokens[i, j], out_scores[i, j] = token, best
            for part in range(parts):
                out_ranges[i, j, part, 0] = out_ranges[i, j, part, 1] = 0
                if token >= 0 and at[part] < k and tokens[part, i, at[part]] == token:
                    out_ranges[i, j, part, 0] = ranges[part, i, at[part], 0]
                    out_ranges[i, j, part, 1] = ranges[part, i, at[part], 1]
                    at[part] += 1
