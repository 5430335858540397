"""Compiled loops that search postings: BM25 with exact pruning, top k.

Imported only when a search runs (``rag.compiled``). The file stands alone: no kernel of another
file is called.

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
DENSE = 40_000
"""From so many postings on, scanning a window beats keeping a list of the rows touched."""
PROBE = 24
"""A run at most so many times as long as the list of kept rows is read whole, not searched."""
LONG = 1024
AHEAD = 16
"""So many blocks of rows are decoded at once where all of them are needed."""
WIDE = 7
"""Runs are cut down to where rows are kept if that is at most so many eighths of a window."""
BELOW = 1 - 1e-7
"""A float64 times this, rounded to float32, is no greater than it was."""
SCAN = 48
"""A run at most so many times as long as the list of rows is read whole instead of searched."""


@kernel
def _part(count: Number, length: Number, flat: Number, slope: Number) -> Number:
    """The part tf / (tf + k1 (1 - b + b dl / avgdl)): flat = k1 (1 - b), slope = k1 b / avgdl."""
    tf = np.float32(count)
    return tf / (tf + (flat + slope * np.float32(length)))


@kernel
def _large(positions: Arrays, counts: Arrays, at: Number) -> Number:
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
def _bound(most: Number, least: Number, flat: Number, slope: Number) -> Number:
    """The most that ``_part`` can be in a block with these bounds."""
    if most == ESCAPE:
        return np.float32(1)
    return _part(most, least, flat, slope)


@kernel
def _worse(score: Number, row: Number, other: Number, other_row: Number) -> Any:
    """Whether (score, row) ranks after (other, other_row): lower, or equal and a later row."""
    # Without a branch, as in all of a heap: which way one goes could not be predicted.
    return (score < other) | ((score == other) & (row > other_row))


@kernel
def _sift(scores: Arrays, rows: Arrays, size: Number, score: Number, row: Number) -> None:
    """Put (score, row) at the root of a heap whose root is the worst, and let it sink."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size:
            child += _worse(scores[child + 1], rows[child + 1], scores[child], rows[child])
        if not _worse(scores[child], rows[child], score, row):
            break
        scores[at], rows[at] = scores[child], rows[child]
        at = child
    scores[at], rows[at] = score, row


@kernel
def _push(scores: Arrays, rows: Arrays, size: Number, score: Number, row: Number) -> Number:
    """Offer (score, row) to a heap of the best ``len(scores)``; its size after that."""
    if size == len(scores):
        if _worse(scores[0], rows[0], score, row):
            _sift(scores, rows, size, score, row)
        return size
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if not _worse(score, row, scores[above], rows[above]):
            break
        scores[at], rows[at] = scores[above], rows[above]
        at = above
    scores[at], rows[at] = score, row
    return size + 1


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
def _run(long_runs: Arrays, long_starts: Arrays, run: Number, low: Number, long: Number) -> Any:
    """``slot`` and ``origin`` of a run with first posting ``low``; ``long``: it is a long one."""
    slot = _slot(long_runs, run)
    before = np.int64(long_starts[slot])
    return (slot, low - before) if long else (np.int64(-1), before)


@kernel
def _decode(
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
def _times(counts: Arrays, start: Number, stop: Number, times: Arrays) -> None:
    """Write the counts of the postings from ``start``, less 1 if it is odd, to ``stop``."""
    first = np.uint64(start >> 1)
    for i in range(np.uint64((stop + 1) >> 1) - first):
        both = counts[first + i]
        times[np.uint64(2) * i] = both & np.uint8(15)
        times[np.uint64(2) * i + np.uint64(1)] = both >> np.uint8(4)


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
        if need > 0 and weight * _bound(most[block], least[block], flat, slope) < need:
            block += 1
            continue
        until = block + 1
        while until < min(beyond, block + AHEAD) and not (
            need > 0 and weight * _bound(most[until], least[until], flat, slope) < need
        ):
            until += 1
        # Without a sign an index costs less: numba asks of others whether they count from the end.
        begin = np.uint64(max(low, block << BLOCK_BITS))
        done, even = min(high, until << BLOCK_BITS), begin & ~np.uint64(1)
        _decode(rows, highs, lows, base, np.int64(begin), done, slot, origin, ids)
        _times(counts, np.int64(begin), done, times)
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
                    sums[row] = before + weight * _part(count, lengths[row], flat, slope)
            elif listed or most[block] == ESCAPE:
                for at in range(start, stop):
                    row = ids[at - begin]
                    before = sums[row]
                    if listed:
                        touched[end] = row
                        end += np.uint64(before == 0)
                    count = np.int64(times[at - even])
                    if count == ESCAPE:
                        count = np.int64(_large(index.large_positions, index.large_counts, at))
                    sums[row] = before + weight * _part(count, lengths[row], flat, slope)
            else:
                for at in range(start, stop):
                    row = ids[at - begin]
                    count = times[at - even]
                    sums[row] += weight * _part(count, lengths[row], flat, slope)
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
            _decode(rows, highs, lows, base, begin, until, slot, origin, ids)
            for i in range(np.uint64(until - begin)):
                row = ids[i]
                before = sums[row]
                if before > 0:
                    at = np.uint64(begin) + i
                    count = np.uint64(counts[at >> one]) >> ((at & one) << two) & nibble
                    if count == nibble:
                        count = np.uint64(_large(index.large_positions, index.large_counts, at))
                    sums[row] = before + weight * _part(count, lengths[row], flat, slope)
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
                count = np.uint64(_large(index.large_positions, index.large_counts, at))
            sums[row] += weight * _part(count, lengths[row], flat, slope)
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
            count = np.uint64(_large(index.large_positions, index.large_counts, at))
        sums[row] += weight * _part(count, lengths[row], flat, slope)


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
def _raised(
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
def _lower(values: Arrays, low: Number, high: Number, wanted: Number) -> Number:
    """Where the first of the ascending ``values[low:high]`` stands that is at least ``wanted``."""
    while low < high:
        middle = (low + high) >> 1
        if np.int64(values[middle]) < wanted:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _place(
    index: Any, low: Number, high: Number, slot: Number, origin: Number, row: Number
) -> Number:
    """Where the first posting of a run stands whose row is at least ``row``; ``high`` for none.

    ``low`` and ``high`` are those of the whole run, or rows below ``row`` stand before ``low``.
    """
    if slot < 0:
        return _lower(index.rows, low - origin, high - origin, row) + origin
    if row >= 1 << WINDOW_BITS:
        return high
    base, byte = np.int64(index.long_starts[slot]), row >> 8
    here = base + np.int64(index.long_highs[(slot << 8) + byte])
    after = np.int64(index.long_starts[slot + 1])
    if byte < 255:
        after = base + np.int64(index.long_highs[(slot << 8) + byte + 1])
    return min(_lower(index.long_lows, here, after, row & 255) + origin, high)


@kernel
def _seed(
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
        slot, origin = _run(index.long_runs, index.long_starts, run, low, high - low > LONG)
        lie = np.int64(index.long_starts[slot]) if slot >= 0 else np.int64(0)
        if len(keep):
            if starts[window] >= 0:
                continue
            if (spans[window, 1] - spans[window, 0]) << 3 <= WIDE << WINDOW_BITS:
                low = _place(index, low, high, slot, origin, spans[window, 0])
                high = _place(index, low, high, slot, origin, spans[window, 1])
        base = window << WINDOW_BITS
        for block in range(low >> BLOCK_BITS, ((high - 1) >> BLOCK_BITS) + 1):
            bound = weight * _bound(most[block], least[block], flat, slope)
            if size == k and bound <= heap[0]:
                continue
            start = np.uint64(max(low, block << BLOCK_BITS))
            stop = np.uint64(min(high, (block + 1) << BLOCK_BITS))
            _decode(rows, highs, lows, lie, np.int64(start), np.int64(stop), slot, origin, ids)
            _times(counts, np.int64(start), np.int64(stop), times)
            even = start & ~one
            for at in range(start, stop):
                row = base + np.int64(ids[at - start])
                # An escaped count, 15, is at most the real one, and the seed but a lower bound.
                score = weight * _part(times[at - even], lengths[row], flat, slope)
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
            _decode(rows, highs, lows, base, begin, until, slot, origin, ids)
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
def _few(
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
    """What ``_window`` does, for a window whose ``kept`` rows are few; none of the others is met.

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
                times = _large(index.large_positions, index.large_counts, at[i])
            sums[row] = before + weight * _part(times, lengths[row], flat, slope)
        first += 1
        if first < count and size > len(heap) > 0:
            level = _raised(level, slack, sums, touched, size, heap)
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
def _window(
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
        level = _raised(level, slack, sums, touched, size, heap)
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


@kernel
def _query(
    index: Any,
    base: Number,
    cursors: Arrays,
    ends: Arrays,
    weights: Arrays,
    flat: Number,
    slope: Number,
    seed: Number,
    keep: Arrays,
    starts: Arrays,
    kept: Arrays,
    spans: Arrays,
    sums: Arrays,
    touched: Arrays,
    scores: Arrays,
    rows: Arrays,
    found: Number,
) -> Number:
    """Add one segment's rows to the heap of one query, which holds ``found``; its size then.

    ``cursors`` and ``ends`` bound the runs of each term, and ``seed`` is a score below which no
    row is wanted. The other arguments are those of ``search``.
    """
    count, k = len(cursors), len(scores)
    lows, highs = np.empty(count, np.int64), np.empty(count, np.int64)
    slots, origins = np.empty(count, np.int64), np.empty(count, np.int64)
    ids = np.empty(AHEAD << BLOCK_BITS, np.uint16)
    times = np.empty((AHEAD << BLOCK_BITS) + 2, np.uint8)
    here, rests = np.empty(count, np.float32), np.empty(count + 1, np.float64)
    most, least = index.block_counts, index.block_lengths
    # Sums are rounded n times, so a row may exceed the sum of its bounds by that much.
    slack = 1 - 1.2e-7 * (count + 8)
    for window in range((len(index.lengths) + (1 << WINDOW_BITS) - 1) >> WINDOW_BITS):
        few = len(keep) > 0 and starts[window] >= 0
        start, end = np.int64(0), np.int64(1 << WINDOW_BITS)
        if len(keep):
            start, end = spans[window, 0], spans[window, 1]
        cut = not few and (end - start) << 3 <= WIDE << WINDOW_BITS
        present = np.int64(0)
        for i in range(count):
            run = cursors[i]
            if run == ends[i] or index.run_windows[run] != window:
                continue
            cursors[i] = run + 1
            low, high = np.int64(index.run_starts[run]), np.int64(index.run_starts[run + 1])
            slot, origin = _run(index.long_runs, index.long_starts, run, low, high - low > LONG)
            if cut:
                low = _place(index, low, high, slot, origin, start)
                high = _place(index, low, high, slot, origin, end)
            if low < high:
                lows[present], highs[present], here[present] = low, high, weights[i]
                slots[present], origins[present] = slot, origin
                present += 1
        if start == end:
            continue
        if few:
            after = starts[window + 1]
            own = kept[starts[window] : after if after >= 0 else -1 - after]
        rests[present] = 0
        for j in range(present - 1, -1, -1):
            part = np.float32(0)
            for block in range(lows[j] >> BLOCK_BITS, ((highs[j] - 1) >> BLOCK_BITS) + 1):
                part = max(part, _bound(most[block], least[block], flat, slope))
            rests[j] = rests[j + 1] + here[j] * part
        level = slack * max(seed, float(scores[0]) if found == k else 0.0)
        if present == 0 or rests[0] < level:
            continue
        spare = k if found == 0 else 0
        if few:
            size = _few(
                index, window, present, lows, highs, slots, origins, here, rests, flat, slope,
                level, slack, own, keep, sums, touched, scores[:spare], ids,
            )  # fmt: skip
        else:
            size = _window(
                index, window, present, lows, highs, slots, origins, here, rests, flat, slope,
                level, slack, keep, sums, touched, scores[:spare], ids, times,
            )  # fmt: skip
        dense = size < 0
        first = window << WINDOW_BITS
        for i in range(-size - 1 if dense else size):
            row = np.int64(touched[i])
            score = sums[row]
            if not dense:
                sums[row] = 0
            if score < level:
                continue
            if found < k or score >= scores[0]:
                found = _push(scores, rows, found, score, base + first + row)
        if dense:
            sums[:] = 0
    return found


@kernel
def search(
    index: Any,
    base: Number,
    bounds: Arrays,
    terms: Arrays,
    weights: Arrays,
    numbers: Arrays,
    begin: Number,
    flat: Number,
    slope: Number,
    keep: Arrays,
    starts: Arrays,
    kept: Arrays,
    spans: Arrays,
    few: Number,
    sums: Arrays,
    touched: Arrays,
    scores: Arrays,
    rows: Arrays,
    sizes: Arrays,
) -> None:
    """Add one segment's rows to the best of each of q queries, of those from number ``begin`` on.

    Args:
        index: the segment's Postings.
        base: number of the segment's first row.
        bounds: (n + 1,) int64 where each query's terms lie, of all n.
        terms: (m,) int64 the terms.
        weights: (m,) float32, idf times the count in the query, falling within a query.
        numbers: (t, 2) int64 of each term its first run in the segment, -1 for one that it lacks,
            and the run after its last.
        begin: the first query to answer.
        flat: float32 k1 (1 - b).
        slope: float32 k1 b / avgdl.
        keep: (n,) bool, rows that may be found; of length 0 where all may.
        starts: what the kernel ``kept_rows`` says of ``keep``, as the next three.
        kept: (m,) uint16.
        spans: (w, 2) int64.
        few: bool.
        sums: (65,536,) float32, zeros; zeros again at the end.
        touched: (65,537,) uint16 to work in.
        scores: (q, k) float32, a heap for each query with the worst at the root.
        rows: (q, k) int64, the rows of ``scores``.
        sizes: (q,) int64, how full each heap is.
    """
    for q in range(len(sizes)):
        low, high = bounds[begin + q], bounds[begin + q + 1]
        first, last = np.empty(high - low, np.int64), np.empty(high - low, np.int64)
        own = np.empty(high - low, np.float32)
        count, seed = np.int64(0), 0.0
        for i in range(low, high):
            if numbers[terms[i], 0] < 0:
                continue
            first[count], last[count] = numbers[terms[i], 0], numbers[terms[i], 1]
            own[count] = weights[i]
            held = np.int64(index.run_starts[last[count]]) - index.run_starts[first[count]]
            if sizes[q] == 0 and seed == 0 and held >= scores.shape[1] and not few:
                seed = _seed(
                    index, first[count], last[count], own[count], flat, slope, keep, starts,
                    spans, scores[q],
                )  # fmt: skip
            count += 1
        sizes[q] = _query(
            index, base, first[:count], last[:count], own, flat, slope, seed, keep, starts, kept,
            spans, sums, touched, scores[q], rows[q], sizes[q],
        )  # fmt: skip


@kernel
def sorted_hits(scores: Arrays, rows: Arrays, sizes: Arrays) -> tuple[Arrays, Arrays, Arrays]:
    """The heaps of ``search`` as flat arrays, each query's best first; empties the heaps.

    Returns:
        (q + 1,) int64 where each query's hits lie; their rows and their scores.
    """
    offsets = np.zeros(len(sizes) + 1, np.int64)
    for q in range(len(sizes)):
        offsets[q + 1] = offsets[q] + sizes[q]
    out_rows = np.empty(offsets[-1], np.int64)
    out_scores = np.empty(offsets[-1], np.float32)
    for q in range(len(sizes)):
        end = offsets[q + 1]
        for i in range(sizes[q]):
            out_rows[end - 1 - i] = rows[q, 0]
            out_scores[end - 1 - i] = scores[q, 0]
            size = sizes[q] - 1 - i
            _sift(scores[q], rows[q], size, scores[q, size], rows[q, size])
    return offsets, out_rows, out_scores
