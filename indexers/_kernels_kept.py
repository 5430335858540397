"""The compiled loop that finds out what a filter keeps, window by window.

Imported only when a filtered search runs (``rag.compiled``).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.compiled import kernel

Arrays: TypeAlias = NDArray[Any]
Number: TypeAlias = Any
"""A scalar; numba gives it its machine type."""

WINDOW_BITS = 16
FEW = 8
"""Where at most one row in so many is kept, the kept rows lead and not the postings."""


@kernel
def kept_rows(keep: Arrays) -> tuple[Arrays, Arrays, Arrays, Any]:
    """The kept rows of each window in which they are few, at most one in ``FEW``.

    Args:
        keep: (n,) bool.

    Returns:
        (w + 1,) int64 where each window's rows lie, -1 - where for one with too many, which has
        none; (m,) uint16 the rows inside their windows, ascending; (w, 2) int64 the first kept
        row of each window and the one after the last, inside it; whether they are few in all.
    """
    windows = (len(keep) + (1 << WINDOW_BITS) - 1) >> WINDOW_BITS
    starts = np.zeros(windows + 1, np.int64)
    spans = np.zeros((windows, 2), np.int64)
    total = np.int64(0)
    many = np.int64(0)
    for window in range(windows):
        first = window << WINDOW_BITS
        last = min(first + (1 << WINDOW_BITS), len(keep))
        here = np.int64(0)
        for start in range(first, last, 128):  # so short that sums of bytes do not overflow
            part = np.uint8(0)
            for row in range(start, min(start + 128, last)):
                part += np.uint8(keep[row])
            if part > 0:
                if here == 0:
                    spans[window, 0] = start - first
                spans[window, 1] = min(start + 128, last) - first
            here += np.int64(part)
        if here > 0:
            while not keep[first + spans[window, 0]]:
                spans[window, 0] += 1
            while not keep[first + spans[window, 1] - 1]:
                spans[window, 1] -= 1
        few = here * FEW <= last - first
        many += not few
        starts[window] = total if few else -1 - total
        total += here if few else 0
    starts[windows] = total
    rows = np.empty(total + 1, np.uint16)  # one more: the loop below writes ahead
    at = np.int64(0)
    for window in range(windows):
        if starts[window] < 0:
            continue
        first = window << WINDOW_BITS
        for start in range(first, min(first + (1 << WINDOW_BITS), len(keep)), 64):
            stop = min(start + 64, len(keep))
            some = np.uint8(0)
            for row in range(start, stop):
                some |= np.uint8(keep[row])
            if some:
                for row in range(start, stop):
                    rows[at] = row & ((1 << WINDOW_BITS) - 1)
                    at += keep[row]
    return starts, rows[:total].copy(), spans, many == 0
