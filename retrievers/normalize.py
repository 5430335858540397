"""Scores of several rankings on one scale, so that they can be added."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Normalize = Literal["none", "minmax", "zscore", "rank"]


def normalized(
    list_of: NDArray[np.int64],
    ranks: NDArray[np.int64],
    scores: NDArray[np.float64],
    how: Normalize,
) -> NDArray[np.float64]:
    """The scores of each list on the scale of ``how``.

    Lowest, highest, mean and deviation are those of the list. Except for ``none``, nothing is
    below 0, which is what a passage counts in a list that does not hold it.

    Args:
        list_of: (m,) int64, the list of each entry: one ranking of one row.
        ranks: (m,) int64, the rank of each entry in its list, from 1.
        scores: (m,) float64, finite.
        how: ``none`` gives the score as it is; ``minmax`` (s - lowest) / (highest - lowest), and 1
            where all are equal; ``zscore`` (z + 3) / 6 where z = (s - mean) / deviation of the
            whole list, so that three deviations to both sides become 0 to 1 (distribution-based
            score fusion, Mazzeschi 2023), less than 0 becomes 0, more than 1 stays, and all equal
            are 0.5; ``rank`` 1 - (rank - 1) / length (Renda and Straccia, SAC 2003).

    Returns:
        (m,) float64.
    """
    if how == "none" or not len(scores):
        return scores
    lengths = np.bincount(list_of)
    if how == "rank":
        return 1.0 - (ranks - 1) / lengths[list_of]
    low, high = np.full(len(lengths), np.inf), np.full(len(lengths), -np.inf)
    np.minimum.at(low, list_of, scores)
    np.maximum.at(high, list_of, scores)
    # Asked of the scores themselves: the rounding of a mean can make equal scores deviate.
    equal = (low == high)[list_of]
    if how == "minmax":
        width = np.where(equal, 1.0, (high - low)[list_of])
        return np.where(equal, 1.0, (scores - low[list_of]) / width)
    mean = np.bincount(list_of, scores) / np.maximum(lengths, 1)
    off = scores - mean[list_of]
    deviation = np.sqrt(np.bincount(list_of, off**2) / np.maximum(lengths, 1))[list_of]
    z = off / np.where(equal, 1.0, deviation)
    return np.where(equal, 0.5, np.maximum((z + 3.0) / 6.0, 0.0))
