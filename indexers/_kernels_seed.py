"""The compiled first guess of the score that a hit needs (see ``_kernels_runs``)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.compiled import kernel
from rag.indexers._kernels_runs import (
    BELOW,
    BLOCK_BITS,
    LONG,
    WIDE,
    WINDOW_BITS,
    decode,
    lower_bound,
    most_part,
    read_times,
    run_of,
    tf_part,
)

Arrays: TypeAlias = NDArray[Any]
Number: TypeAlias = Any
"""A scalar; numba gives it its machine type."""


@kernel
def _sink(heap: Arrays, at: Number, value: Number) -> None:
    """Put ``value`` at ``heap[at]``, and let it sink below smaller ones."""
    while True:
        child = 2 * at + 1
        if child >= len(heap):
            break
        if child + 1 < len(heap):
            child += heap[child + 1] < heap[child]
        if value <= heap[child]:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = value


@kernel
def _heaped(heap: Arrays) -> None:
    """Order values as a heap whose root is the least."""
    for at in range((len(heap) >> 1) - 1, -1, -1):
        _sink(heap, at, heap[at])


@kernel
def raised(
    level: Number, slack: Number, sums: Arrays, touched: Arrays, size: Number, heap: Arrays
) -> Number:
    """The greater of ``level`` and the k-th best sum of the rows in ``touched``, less ``slack``.

    ``heap`` has room for k. Smaller sums than ``level`` change nothing, and most are smaller.
    """
    heap[:] = np.float32(level * BELOW)
    for i in range(size):
        if sums[touched[i]] > heap[0]:
            _sink(heap, 0, sums[touched[i]])
    return max(level, slack * float(heap[0]))


@kernel
def place_of(
    index: Any, low: Number, high: Number, slot: Number, origin: Number, row: Number
) -> Number:
    """Where the first posting of a run stands whose row is at least ``row``; ``high`` for none.

    ``low`` and ``high`` are those of the whole run, or rows below ``row`` stand before ``low``.
    """
    if slot < 0:
        return lower_bound(index.rows, low - origin, high - origin, row) + origin
    if row >= 1 << WINDOW_BITS:
        return high
    base, byte = np.int64(index.long_starts[slot]), row >> 8
    here = base + np.int64(index.long_highs[(slot << 8) + byte])
    after = np.int64(index.long_starts[slot + 1])
    if byte < 255:
        after = base + np.int64(index.long_highs[(slot << 8) + byte + 1])
    return min(lower_bound(index.long_lows, here, after, row & 255) + origin, high)


@kernel
def first_guess(
    index: Any,
    first: Number,
    last: Number,
    weight: Number,
    flat: Number,
    slope: Number,
    keep: Arrays,
    starts: Arrays,
    spans: Arrays,
    heap: Arrays,
) -> Number:
    """The k-th best score by one term alone: no row below it is among the k best. 0 if fewer.

    Windows whose kept rows are few are left out.
    """
    lengths, counts = index.lengths, index.counts
    rows, highs, lows = index.rows, index.long_highs, index.long_lows
    most, least = index.block_counts, index.block_lengths
    one = np.uint64(1)
    ids = np.empty(1 << BLOCK_BITS, np.uint16)
    times = np.empty((1 << BLOCK_BITS) + 2, np.uint8)
    size, k = np.int64(0), len(heap)
    for run in range(first, last):
        window = np.int64(index.run_windows[run])
        low: Number = np.int64(index.run_starts[run])
        high: Number = np.int64(index.run_starts[run + 1])
        slot, origin = run_of(index.long_runs, index.long_starts, run, low, high - low > LONG)
        lie = np.int64(index.long_starts[slot]) if slot >= 0 else np.int64(0)
        if len(keep):
            if starts[window] >= 0:
                continue
            if (spans[window, 1] - spans[window, 0]) << 3 <= WIDE << WINDOW_BITS:
                low = place_of(index, low, high, slot, origin, spans[window, 0])
                high = place_of(index, low, high, slot, origin, spans[window, 1])
        base = window << WINDOW_BITS
        for block in range(low >> BLOCK_BITS, ((high - 1) >> BLOCK_BITS) + 1):
            bound = weight * most_part(most[block], least[block], flat, slope)
            if size == k and bound <= heap[0]:
                continue
            start = np.uint64(max(low, block << BLOCK_BITS))
            stop = np.uint64(min(high, (block + 1) << BLOCK_BITS))
            decode(rows, highs, lows, lie, np.int64(start), np.int64(stop), slot, origin, ids)
            read_times(counts, np.int64(start), np.int64(stop), times)
            even = start & ~one
            for at in range(start, stop):
                row = base + np.int64(ids[at - start])
                # An escaped count, 15, is at most the real one, and the seed but a lower bound.
                score = weight * tf_part(times[at - even], lengths[row], flat, slope)
                # Few scores pass: asking for them alone keeps the branch predictable.
                if size == k:
                    if score > heap[0] and (len(keep) == 0 or keep[row]):
                        _sink(heap, 0, score)
                elif len(keep) == 0 or keep[row]:
                    heap[size] = score
                    size += 1
                    if size == k:
                        _heaped(heap)
    return float(heap[0]) if size == k else 0.0
