"""Compiled loops that read runs of postings and score them by BM25 (``rag.compiled``).

Passing an array to a kernel counts a reference, an atomic operation, and ``index`` holds sixteen:
inner loops therefore call with scalars alone, and take the arrays they read out of ``index`` first.

A run is told by four numbers: ``low`` and ``high``, between which its postings lie, or those asked
of them; ``slot``, its place among the long runs or -1; and ``origin``, so that the row of posting
``at`` stands in ``rows``, or its low byte in ``long_lows``, at ``at - origin``.
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
BLOCK_BITS = 7
ESCAPE = 15
LONG = 1024
AHEAD = 16
"""So many blocks of rows are decoded at once where all of them are needed."""
WIDE = 7
"""Runs are cut down to where rows are kept if that is at most so many eighths of a window."""
BELOW = 1 - 1e-7
"""A float64 times this, rounded to float32, is no greater than it was."""


@kernel
def tf_part(count: Number, length: Number, flat: Number, slope: Number) -> Number:
    """The part tf / (tf + k1 (1 - b + b dl / avgdl)): flat = k1 (1 - b), slope = k1 b / avgdl."""
    tf = np.float32(count)
    return tf / (tf + (flat + slope * np.float32(length)))


@kernel
def count_of(positions: Arrays, counts: Arrays, at: Number) -> Number:
    """The count, beyond 14, of posting ``at``."""
    low, high = np.int64(0), np.int64(len(positions))
    while low < high:
        middle = (low + high) >> 1
        if positions[middle] < at:
            low = middle + 1
        else:
            high = middle
    return np.int64(counts[low]) if low < len(counts) else np.int64(ESCAPE)


@kernel
def most_part(most: Number, least: Number, flat: Number, slope: Number) -> Number:
    """The most that ``tf_part`` can be in a block with these bounds."""
    if most == ESCAPE:
        return np.float32(1)
    return tf_part(most, least, flat, slope)


@kernel
def _slot(long_runs: Arrays, run: Number) -> Number:
    """How many long runs stand before ``run``."""
    low, high = np.int64(0), np.int64(len(long_runs))
    while low < high:
        middle = (low + high) >> 1
        if np.int64(long_runs[middle]) < run:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def run_of(long_runs: Arrays, long_starts: Arrays, run: Number, low: Number, long: Number) -> Any:
    """``slot`` and ``origin`` of a run with first posting ``low``; ``long``: it is a long one."""
    slot = _slot(long_runs, run)
    before = np.int64(long_starts[slot])
    return (slot, low - before) if long else (np.int64(-1), before)


@kernel
def decode(
    rows: Arrays,
    highs: Arrays,
    lows: Arrays,
    base: Number,
    start: Number,
    stop: Number,
    slot: Number,
    origin: Number,
    ids: Arrays,
) -> None:
    """Write the rows of postings ``start`` to ``stop``, 2,048 of one run at most, to ``ids``.

    ``base`` is where the low bytes of a long run lie.
    """
    size = np.uint64(stop - start)
    here = np.uint64(start - origin)
    if slot < 0:
        for i in range(size):
            ids[i] = rows[here + i]
        return
    place = start - origin - base
    table = slot << 8
    high = np.int64(0)
    for bit in (128, 64, 32, 16, 8, 4, 2, 1):
        high += bit & ~((place - np.int64(highs[table + high + bit])) >> 63)
    for i in range(size):
        ids[i] = 0
    # Marks where the high byte grows, then sums: a loop over each high byte's postings is short
    # and its end cannot be predicted.
    for after in range(np.uint64(table + high + 1), np.uint64(table + 256)):
        gap = np.uint64(highs[after]) - np.uint64(place)
        if gap >= size:
            break
        ids[gap] += np.uint16(256)
    row = np.uint16(high << 8)
    for i in range(size):
        row += ids[i]
        ids[i] = row | np.uint16(lows[here + i])


@kernel
def read_times(counts: Arrays, start: Number, stop: Number, times: Arrays) -> None:
    """Write the counts of the postings from ``start``, less 1 if it is odd, to ``stop``."""
    first = np.uint64(start >> 1)
    for i in range(np.uint64((stop + 1) >> 1) - first):
        both = counts[first + i]
        times[np.uint64(2) * i] = both & np.uint8(15)
        times[np.uint64(2) * i + np.uint64(1)] = both >> np.uint8(4)


@kernel
def lower_bound(values: Arrays, low: Number, high: Number, wanted: Number) -> Number:
    """Where the first of the ascending ``values[low:high]`` stands that is at least ``wanted``."""
    while low < high:
        middle = (low + high) >> 1
        if np.int64(values[middle]) < wanted:
            low = middle + 1
        else:
            high = middle
    return low
