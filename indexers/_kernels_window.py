"""Compiled loops that search one window of postings (see ``_kernels_runs``)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.compiled import kernel
from rag.indexers._kernels_runs import (
    AHEAD,
    BELOW,
    BLOCK_BITS,
    ESCAPE,
    WINDOW_BITS,
    count_of,
    decode,
    most_part,
    read_times,
    tf_part,
)
from rag.indexers._kernels_seed import raised

Arrays: TypeAlias = NDArray[Any]
Number: TypeAlias = Any
"""A scalar; numba gives it its machine type."""

DENSE = 40_000
"""From so many postings on, scanning a window beats keeping a list of the rows touched."""
PROBE = 24
"""A run at most so many times as long as the list of kept rows is read whole, not searched."""
SCAN = 48


@kernel
def _scatter(
    index: Any,
    lengths: Arrays,
    low: Number,
    high: Number,
    slot: Number,
    origin: Number,
    weight: Number,
    flat: Number,
    slope: Number,
    need: Number,
    sums: Arrays,
    touched: Arrays,
    size: Number,
    listed: Number,
    ids: Arrays,
    times: Arrays,
) -> Number:
    """Add a run's scores to ``sums``; blocks that cannot bring a row to ``need`` are left out.

    Where ``listed``, rows whose sum was 0 are appended to ``touched``; returns its size.
    """
    rows, highs, lows, counts = index.rows, index.long_highs, index.long_lows, index.counts
    most, least = index.block_counts, index.block_lengths
    base = np.int64(index.long_starts[slot]) if slot >= 0 else np.int64(0)
    end = np.uint64(size)
    block, beyond = low >> BLOCK_BITS, ((high - 1) >> BLOCK_BITS) + 1
    while block < beyond:
        if need > 0 and weight * most_part(most[block], least[block], flat, slope) < need:
            block += 1
            continue
        until = block + 1
        while until < min(beyond, block + AHEAD) and not (
            need > 0 and weight * most_part(most[until], least[until], flat, slope) < need
        ):
            until += 1
        # Without a sign an index costs less: numba asks of others whether they count from the end.
        begin = np.uint64(max(low, block << BLOCK_BITS))
        done, even = min(high, until << BLOCK_BITS), begin & ~np.uint64(1)
        decode(rows, highs, lows, base, np.int64(begin), done, slot, origin, ids)
        read_times(counts, np.int64(begin), done, times)
        while block < until:
            start = np.uint64(max(low, block << BLOCK_BITS))
            stop = np.uint64(min(high, (block + 1) << BLOCK_BITS))
            if listed and most[block] < ESCAPE:
                for at in range(start, stop):
                    row = ids[at - begin]
                    before = sums[row]
                    touched[end] = row
                    end += np.uint64(before == 0)
                    count = times[at - even]
                    sums[row] = before + weight * tf_part(count, lengths[row], flat, slope)
            elif listed or most[block] == ESCAPE:
                for at in range(start, stop):
                    row = ids[at - begin]
                    before = sums[row]
                    if listed:
                        touched[end] = row
                        end += np.uint64(before == 0)
                    count = np.int64(times[at - even])
                    if count == ESCAPE:
                        count = np.int64(count_of(index.large_positions, index.large_counts, at))
                    sums[row] = before + weight * tf_part(count, lengths[row], flat, slope)
            else:
                for at in range(start, stop):
                    row = ids[at - begin]
                    count = times[at - even]
                    sums[row] += weight * tf_part(count, lengths[row], flat, slope)
            block += 1
    return np.int64(end)


@kernel
def _gather(sums: Arrays, size: Number, need: Any, touched: Arrays) -> Number:
    """Write the rows below ``size`` whose sum is at least ``need`` > 0 to ``touched``."""
    bits = sums.view(np.int32)  # floats that are not negative compare as their bits do
    one = np.empty(1, np.float32)
    one[0] = need
    least = one.view(np.int32)[0]
    found = np.int64(0)
    for start in range(0, size, 64):
        stop = min(start + 64, size)
        hits = np.int32(0)
        for row in range(start, stop):
            hits |= np.int32(bits[row] >= least)
        if hits:
            for row in range(start, stop):
                touched[found] = row
                found += bits[row] >= least
    return found


@kernel
def _complete(
    index: Any,
    lengths: Arrays,
    low: Number,
    high: Number,
    slot: Number,
    origin: Number,
    weight: Number,
    flat: Number,
    slope: Number,
    sums: Arrays,
    touched: Arrays,
    size: Number,
    ids: Arrays,
) -> None:
    """Add a run's scores to the rows in ``touched`` alone."""
    rows, highs, lows, counts = index.rows, index.long_highs, index.long_lows, index.counts
    base = np.int64(index.long_starts[slot]) if slot >= 0 else np.int64(0)
    one, two, nibble = np.uint64(1), np.uint64(2), np.uint64(15)
    if SCAN * size > high - low:
        for begin in range(low, high, AHEAD << BLOCK_BITS):
            until = min(begin + (AHEAD << BLOCK_BITS), high)
            decode(rows, highs, lows, base, begin, until, slot, origin, ids)
            for i in range(np.uint64(until - begin)):
                row = ids[i]
                before = sums[row]
                if before > 0:
                    at = np.uint64(begin) + i
                    count = np.uint64(counts[at >> one]) >> ((at & one) << two) & nibble
                    if count == nibble:
                        count = np.uint64(count_of(index.large_positions, index.large_counts, at))
                    sums[row] = before + weight * tf_part(count, lengths[row], flat, slope)
        return
    if slot >= 0:
        table, run_end = slot << 8, np.int64(index.long_starts[slot + 1])
        for i in range(size):
            row = touched[i]
            high_byte = np.int64(row) >> 8
            here = base + np.int64(highs[table + high_byte])
            after = base + np.int64(highs[table + high_byte + 1]) if high_byte < 255 else run_end
            left = after - here
            if left == 0:
                continue
            wanted = np.int64(row) & 255
            while left > 1:
                half = left >> 1
                # Where the low byte at here + half <= wanted the difference is negative, its sign
                # all ones: a branch here could not be predicted, and costs three times as much.
                here += half & ((np.int64(lows[here + half]) - wanted - 1) >> 63)
                left -= half
            if np.int64(lows[here]) != wanted:
                continue
            at = np.uint64(here + origin)
            count = np.uint64(counts[at >> one]) >> ((at & one) << two) & nibble
            if count == nibble:
                count = np.uint64(count_of(index.large_positions, index.large_counts, at))
            sums[row] += weight * tf_part(count, lengths[row], flat, slope)
        return
    for i in range(size):
        row = touched[i]
        here, left = low - origin, high - low
        while left > 1:
            half = left >> 1
            here += half & ((np.int64(rows[here + half]) - np.int64(row) - 1) >> 63)  # as above
            left -= half
        if rows[here] != row:
            continue
        at = np.uint64(here + origin)
        count = np.uint64(counts[at >> one]) >> ((at & one) << two) & nibble
        if count == nibble:
            count = np.uint64(count_of(index.large_positions, index.large_counts, at))
        sums[row] += weight * tf_part(count, lengths[row], flat, slope)


@kernel
def _drop(sums: Arrays, touched: Arrays, size: Number, keep: Arrays) -> Number:
    """Take the rows that are not kept out of ``touched``, and zero their sums; its size then."""
    kept = np.int64(0)
    for i in range(size):  # without a branch: which rows are kept cannot be predicted
        row = touched[i]
        touched[kept] = row
        kept += keep[row]
        sums[row] *= keep[row]
    return kept


@kernel
def _shared(
    index: Any,
    low: Number,
    high: Number,
    slot: Number,
    origin: Number,
    kept: Arrays,
    keep: Arrays,
    at: Arrays,
    held: Arrays,
    ids: Arrays,
) -> Number:
    """Write the positions of the postings of kept rows to ``at``, these rows to ``held``; how many.

    ``kept`` holds the rows of a window, and ``keep`` says of each row of it whether it is kept.
    """
    rows, highs, lows = index.rows, index.long_highs, index.long_lows
    base = np.int64(index.long_starts[slot]) if slot >= 0 else np.int64(0)
    found = np.int64(0)
    if high - low <= PROBE * len(kept):
        for begin in range(low, high, AHEAD << BLOCK_BITS):
            until = min(begin + (AHEAD << BLOCK_BITS), high)
            decode(rows, highs, lows, base, begin, until, slot, origin, ids)
            for i in range(np.uint64(until - begin)):
                at[found], held[found] = begin + np.int64(i), ids[i]
                found += keep[ids[i]]
        return found
    if slot >= 0:
        table, run_end = slot << 8, np.int64(index.long_starts[slot + 1])
        for i in range(len(kept)):
            row = np.int64(kept[i])
            byte, wanted = row >> 8, row & 255
            here = base + np.int64(highs[table + byte])
            left = (base + np.int64(highs[table + byte + 1]) if byte < 255 else run_end) - here
            if left == 0:
                continue
            while left > 1:
                half = left >> 1
                here += half & ((np.int64(lows[here + half]) - wanted - 1) >> 63)  # as in _complete
                left -= half
            at[found], held[found] = here + origin, row
            found += np.int64(lows[here]) == wanted
        return found
    for i in range(len(kept)):
        row = np.int64(kept[i])
        here, left = low - origin, high - low
        while left > 1:
            half = left >> 1
            here += half & ((np.int64(rows[here + half]) - row - 1) >> 63)  # as in _complete
            left -= half
        at[found], held[found] = here + origin, row
        found += np.int64(rows[here]) == row
    return found


@kernel
def search_few(
    index: Any,
    window: Number,
    count: Number,
    lows: Arrays,
    highs: Arrays,
    slots: Arrays,
    origins: Arrays,
    weights: Arrays,
    rests: Arrays,
    flat: Number,
    slope: Number,
    level: Number,
    slack: Number,
    kept: Arrays,
    keep: Arrays,
    sums: Arrays,
    touched: Arrays,
    heap: Arrays,
    ids: Arrays,
) -> Number:
    """What ``search_window`` does where few rows are ``kept``; none of the others is met.

    Terms are added for all kept rows until the others cannot bring a new row to the k-th best sum.
    """
    base = window << WINDOW_BITS
    lengths = index.lengths[base : base + (1 << WINDOW_BITS)]
    here = keep[base : base + len(lengths)]
    counts = index.counts
    at, held = np.empty(len(kept) + 1, np.int64), np.empty(len(kept) + 1, np.uint16)
    size = first = np.int64(0)
    while first < count and (level <= 0 or rests[first] >= level):
        weight = weights[first]
        found = _shared(
            index, lows[first], highs[first], slots[first], origins[first], kept, here, at, held,
            ids,
        )  # fmt: skip
        for i in range(found):
            row = held[i]
            before = sums[row]
            touched[size] = row
            size += before == 0
            times = np.int64(counts[at[i] >> 1]) >> ((at[i] & 1) << 2) & 15
            if times == ESCAPE:
                times = count_of(index.large_positions, index.large_counts, at[i])
            sums[row] = before + weight * tf_part(times, lengths[row], flat, slope)
        first += 1
        if first < count and size > len(heap) > 0:
            level = raised(level, slack, sums, touched, size, heap)
    for j in range(first, count):
        left = np.int64(0)
        for i in range(size):
            row = touched[i]
            touched[left] = row
            if sums[row] + rests[j] >= level:
                left += 1
            else:
                sums[row] = 0
        size = left
        _complete(
            index, lengths, lows[j], highs[j], slots[j], origins[j], weights[j], flat, slope, sums,
            touched, size, ids,
        )  # fmt: skip
    return size


@kernel
def search_window(
    index: Any,
    window: Number,
    count: Number,
    lows: Arrays,
    highs: Arrays,
    slots: Arrays,
    origins: Arrays,
    weights: Arrays,
    rests: Arrays,
    flat: Number,
    slope: Number,
    level: Number,
    slack: Number,
    keep: Arrays,
    sums: Arrays,
    touched: Arrays,
    heap: Arrays,
    ids: Arrays,
    times: Arrays,
) -> Number:
    """Sum the scores of one window's rows; the rows that may reach ``level`` go to ``touched``.

    Terms come by falling weight. ``rests[j]`` bounds what terms j, j + 1, … add together. The
    first p terms, up to where the rest can no longer reach ``level`` alone, are added for all
    rows; the others only for rows that can still reach it (MaxScore, Turtle and Flood 1995).
    Where ``heap`` has room for k values, the k-th best of the sums after the first p terms raises
    ``level``. Returns the number of rows, n; as -n - 1 where the sums of other rows are not zero.
    """
    base = window << WINDOW_BITS
    lengths = index.lengths[base : base + (1 << WINDOW_BITS)]
    first = postings = np.int64(0)
    while first < count and (level <= 0 or rests[first] >= level):
        postings += highs[first] - lows[first]
        first += 1
    listed = postings < DENSE
    size = np.int64(0)
    for j in range(first):
        need = level - (rests[0] - (rests[j] - rests[j + 1]))
        size = _scatter(
            index, lengths, lows[j], highs[j], slots[j], origins[j], weights[j], flat, slope, need,
            sums, touched, size, listed, ids, times,
        )  # fmt: skip
    if not listed:
        least = np.float32(max(level - rests[first], 1e-38))
        size = _gather(sums, len(lengths), least, touched)
    if len(keep):
        size = _drop(sums, touched, size, keep[base : base + len(lengths)])
    if first < count and size > len(heap) > 0:
        level = raised(level, slack, sums, touched, size, heap)
    for j in range(first, count):
        kept = np.int64(0)
        least = np.float32(level * BELOW - rests[j])
        for i in range(size):
            row = touched[i]
            touched[kept] = row
            stays = sums[row] >= least
            kept += stays
            sums[row] *= stays
        size = kept
        _complete(
            index, lengths, lows[j], highs[j], slots[j], origins[j], weights[j], flat, slope, sums,
            touched, size, ids,
        )  # fmt: skip
    return size if listed else -size - 1
