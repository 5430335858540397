"""Compiled loops that search postings: dictionary look-up, BM25 with exact pruning, top k.

Imported only when a search runs (``rag.compiled``). The file stands alone: no kernel of another
file is called.

Passing an array to a kernel counts a reference, an atomic operation, and ``index`` holds twelve:
inner loops therefore call with scalars alone, and take the arrays they read out of ``index`` first.
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
ESCAPE = 255
DENSE = 8192
"""From so many postings on, scanning a window beats keeping a list of the rows touched."""
FEW = 8
"""Where at most one row in so many is kept, the kept rows lead and not the postings."""
PROBE = 24
"""A run at most so many times as long as the list of kept rows is read whole, not searched."""
SCAN = 48
"""A run at most so many times as long as the list of rows is read whole instead of searched."""
BAD_OFFSETS, BAD_RUNS, BAD_STARTS, BAD_WINDOWS, BAD_ROWS = -2, -3, -4, -5, -6
"""In place of a term's number: which array does not say where in the index the term's postings lie.

Kernels trust the arrays they are given, so what a search is about to use is checked first: a few
comparisons a term and window, and one pass over the postings of the last window.
"""


@kernel
def _fault(
    windows: Arrays, starts: Arrays, rows: Arrays, run: Number, end: Number, size: Number
) -> Number:
    """Which array is wrong about the runs from ``run`` to ``end`` of a term; 0 if none is.

    Runs are not empty, stand by ascending window, and name rows below ``size``, the segment's.
    """
    if run >= end or end > len(windows):
        return BAD_RUNS
    for at in range(run, end):
        if starts[at] >= starts[at + 1] or starts[at + 1] > len(rows):
            return BAD_STARTS
        if at > run and windows[at] <= windows[at - 1]:
            return BAD_WINDOWS
    last = np.int64(windows[end - 1]) << WINDOW_BITS
    if last >= size:
        return BAD_WINDOWS
    if size - last < 1 << WINDOW_BITS:
        highest = np.int64(0)
        for at in range(starts[end - 1], starts[end]):
            highest = max(highest, np.int64(rows[at]))
        if last + highest >= size:
            return BAD_ROWS
    return 0


@kernel
def lookup(index: Any, texts: Arrays, offsets: Arrays, found: Arrays, postings: Arrays) -> None:
    """Find terms in one segment's dictionary by binary search over its bytes.

    Args:
        index: the segment's Postings.
        texts: uint8, the wanted terms' UTF-8, end to end.
        offsets: (t + 1,) int64 where each lies.
        found: (t,) int64, written: its number, -1 where the segment lacks it, or one of the
            ``BAD_`` numbers where the index is damaged.
        postings: (t,) int64, added to: how many rows hold it.
    """
    for i in range(len(offsets) - 1):
        size = offsets[i + 1] - offsets[i]
        low, high = np.int64(0), np.int64(len(index.term_offsets) - 1)
        found[i] = -1
        while low < high:
            middle = (low + high) >> 1
            start = np.int64(index.term_offsets[middle])
            other = np.int64(index.term_offsets[middle + 1]) - start
            if other < 0 or start + other > len(index.terms):
                found[i] = BAD_OFFSETS
                break
            order = size - other
            for j in range(min(size, other)):
                if texts[offsets[i] + j] != index.terms[start + j]:
                    order = np.int64(texts[offsets[i] + j]) - np.int64(index.terms[start + j])
                    break
            if order == 0:
                run, end = np.int64(index.term_runs[middle]), np.int64(index.term_runs[middle + 1])
                fault = _fault(index.run_windows, index.run_starts, index.rows, run, end,
                               len(index.lengths))  # fmt: skip
                found[i] = fault if fault < 0 else middle
                if fault == 0:
                    postings[i] += np.int64(index.run_starts[end]) - index.run_starts[run]
                break
            if order > 0:
                low = middle + 1
            else:
                high = middle


@kernel
def plan(ends: Arrays, ids: Arrays, rows: Number, holding: Arrays) -> tuple[Arrays, Arrays, Arrays]:
    """Weigh each query's distinct terms, and order them by falling weight, then by place.

    Args:
        ends: (q + 1,) int64 where each query's terms lie.
        ids: (m,) int32 terms, with repetitions.
        rows: N, the rows of all segments.
        holding: (t,) int64 df, the rows that hold each term.

    Returns:
        (q + 1,) int64 where each query's distinct terms lie; (d,) int64 the terms; (d,) float32
        their weights, n(t, q) idf(t).
    """
    bounds = np.zeros(len(ends), np.int64)
    terms = np.empty(len(ids), np.int64)
    weights = np.empty(len(ids), np.float32)
    times = np.zeros(len(holding), np.int64)
    places = np.zeros(len(holding), np.int64)
    size = 0
    for q in range(len(ends) - 1):
        start = size
        for i in range(ends[q], ends[q + 1]):
            if times[ids[i]] == 0:
                places[ids[i]] = i
                terms[size] = ids[i]
                size += 1
            times[ids[i]] += 1
        for i in range(start, size):
            df = float(holding[terms[i]])
            weights[i] = times[terms[i]] * np.log1p((rows - df + 0.5) / (df + 0.5))
            times[terms[i]] = 0
        gap = 1
        while gap < size - start:
            gap = 3 * gap + 1
        while gap > 0:  # Shell's sort: short for the usual few terms, quick enough for thousands
            for i in range(start + gap, size):
                term, weight = terms[i], weights[i]
                j = i - gap
                while j >= start and (
                    weights[j] < weight
                    or (weights[j] == weight and places[terms[j]] > places[term])
                ):
                    terms[j + gap], weights[j + gap] = terms[j], weights[j]
                    j -= gap
                terms[j + gap], weights[j + gap] = term, weight
            gap //= 3
        bounds[q + 1] = size
    return bounds, terms[:size].copy(), weights[:size].copy()


@kernel
def _part(count: Number, length: Number, flat: Number, slope: Number) -> Number:
    """The part tf / (tf + k1 (1 - b + b dl / avgdl)): flat = k1 (1 - b), slope = k1 b / avgdl."""
    tf = np.float32(count)
    return tf / (tf + (flat + slope * np.float32(length)))


@kernel
def _large(positions: Arrays, counts: Arrays, at: Number) -> Number:
    """The count, beyond 254, of posting ``at``."""
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
    return score < other or (score == other and row > other_row)


@kernel
def _sift(scores: Arrays, rows: Arrays, size: Number, score: Number, row: Number) -> None:
    """Put (score, row) at the root of a heap whose root is the worst, and let it sink."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _worse(
            scores[child + 1], rows[child + 1], scores[child], rows[child]
        ):
            child += 1
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
def _scatter(
    index: Any,
    lengths: Arrays,
    low: Number,
    high: Number,
    weight: Number,
    flat: Number,
    slope: Number,
    need: Number,
    sums: Arrays,
    touched: Arrays,
    size: Number,
    listed: Number,
) -> Number:
    """Add a run's scores to ``sums``; blocks that cannot bring a row to ``need`` are left out.

    Where ``listed``, rows whose sum was 0 are appended to ``touched``; returns its size.
    """
    rows, counts = index.rows, index.counts
    most, least = index.block_counts, index.block_lengths
    for block in range(low >> BLOCK_BITS, ((high - 1) >> BLOCK_BITS) + 1):
        if need > 0 and weight * _bound(most[block], least[block], flat, slope) < need:
            continue
        start = max(low, block << BLOCK_BITS)
        stop = min(high, (block + 1) << BLOCK_BITS)
        if listed or most[block] == ESCAPE:
            for at in range(start, stop):
                row = rows[at]
                before = sums[row]
                if listed:
                    touched[size] = row
                    size += before == 0
                count = np.int64(counts[at])
                if count == ESCAPE:
                    count = _large(index.large_positions, index.large_counts, at)
                sums[row] = before + weight * _part(count, lengths[row], flat, slope)
        else:
            for at in range(start, stop):
                row = rows[at]
                sums[row] += weight * _part(counts[at], lengths[row], flat, slope)
    return size


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
    weight: Number,
    flat: Number,
    slope: Number,
    sums: Arrays,
    touched: Arrays,
    size: Number,
) -> None:
    """Add a run's scores to the rows in ``touched`` alone."""
    rows, counts = index.rows, index.counts
    scan = SCAN * size > high - low
    for i in range(high - low if scan else size):
        if scan:
            at = low + i
            row = rows[at]
            if sums[row] == 0:
                continue
        else:
            row = touched[i]
            at, left = low, high - low
            while left > 1:
                half = left >> 1
                # Where rows[at + half] <= row the difference is negative, its sign all ones: a
                # branch here could not be predicted, and costs three times as much.
                at += half & ((np.int64(rows[at + half]) - np.int64(row) - 1) >> 63)
                left -= half
            if rows[at] != row:
                continue
        count = np.int64(counts[at])
        if count == ESCAPE:
            count = _large(index.large_positions, index.large_counts, at)
        sums[row] += weight * _part(count, lengths[row], flat, slope)


@kernel
def _seed(
    index: Any,
    first: Number,
    last: Number,
    weight: Number,
    flat: Number,
    slope: Number,
    keep: Arrays,
    scores: Arrays,
    rows: Arrays,
) -> Number:
    """The k-th best score by one term alone: no row below it is among the k best. 0 if fewer."""
    lengths, ids, counts = index.lengths, index.rows, index.counts
    size, k = np.int64(0), len(scores)
    for run in range(first, last):
        base = np.int64(index.run_windows[run]) << WINDOW_BITS
        for at in range(index.run_starts[run], index.run_starts[run + 1]):
            row = base + np.int64(ids[at])
            # An escaped count, 255, is at most the real one, and the seed but a lower bound.
            score = weight * _part(counts[at], lengths[row], flat, slope)
            # Few scores pass: asking for them alone keeps the branch predictable.
            if (size < k or score > scores[0]) and (len(keep) == 0 or keep[row]):
                size = _push(scores, rows, size, score, row)
    return float(scores[0]) if size == k else 0.0


@kernel
def _kth(sums: Arrays, touched: Arrays, size: Number, heap: Arrays) -> Number:
    """The k-th best sum of the rows in ``touched``, where ``heap`` has room for k; 0 if fewer."""
    rows = np.empty(len(heap), np.int64)
    filled, k = np.int64(0), len(heap)
    for i in range(size):
        row = np.int64(touched[i])
        if filled < k or sums[row] > heap[0]:
            filled = _push(heap, rows, filled, sums[row], row)
    return float(heap[0]) if filled == k else 0.0


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
def kept_rows(keep: Arrays) -> tuple[Arrays, Arrays, Any]:
    """The kept rows of each window in which they are few, at most one in ``FEW``.

    Args:
        keep: (n,) bool.

    Returns:
        (w + 1,) int64 where each window's rows lie, -1 - where for one with too many, which has
        none; (m,) uint16 the rows inside their windows, ascending; whether they are few in all.
    """
    windows = (len(keep) + (1 << WINDOW_BITS) - 1) >> WINDOW_BITS
    starts = np.zeros(windows + 1, np.int64)
    total = every = np.int64(0)
    for window in range(windows):
        first = window << WINDOW_BITS
        last = min(first + (1 << WINDOW_BITS), len(keep))
        here = np.int64(0)
        for start in range(first, last, 128):  # so short that sums of bytes do not overflow
            part = np.uint8(0)
            for row in range(start, min(start + 128, last)):
                part += np.uint8(keep[row])
            here += np.int64(part)
        few = here * FEW <= last - first
        every += here
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
    return starts, rows[:total].copy(), every * FEW <= len(keep)


@kernel
def _shared(
    rows: Arrays, low: Number, high: Number, kept: Arrays, keep: Arrays, at: Arrays
) -> Number:
    """Write the positions of the postings of kept rows to ``at``; how many they are.

    ``kept`` holds the rows of a window, and ``keep`` says of each row of it whether it is kept.
    """
    found = np.int64(0)
    if high - low <= PROBE * len(kept):
        for i in range(low, high):
            at[found] = i
            found += keep[rows[i]]
        return found
    for i in range(len(kept)):
        row = np.int64(kept[i])
        here, left = low, high - low
        while left > 1:
            half = left >> 1
            here += half & ((np.int64(rows[here + half]) - row - 1) >> 63)  # as in _complete
            left -= half
        at[found] = here
        found += np.int64(rows[here]) == row
    return found


@kernel
def _few(
    index: Any,
    window: Number,
    count: Number,
    lows: Arrays,
    highs: Arrays,
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
) -> Number:
    """What ``_window`` does, for a window whose ``kept`` rows are few; none of the others is met.

    Terms are added for all kept rows until the others cannot bring a new row to the k-th best sum.
    """
    base = window << WINDOW_BITS
    lengths = index.lengths[base : base + (1 << WINDOW_BITS)]
    here = keep[base : base + len(lengths)]
    rows, counts = index.rows, index.counts
    at = np.empty(len(kept) + 1, np.int64)
    size = first = np.int64(0)
    while first < count and (level <= 0 or rests[first] >= level):
        weight = weights[first]
        for i in range(_shared(rows, lows[first], highs[first], kept, here, at)):
            row = rows[at[i]]
            before = sums[row]
            touched[size] = row
            size += before == 0
            times = np.int64(counts[at[i]])
            if times == ESCAPE:
                times = _large(index.large_positions, index.large_counts, at[i])
            sums[row] = before + weight * _part(times, lengths[row], flat, slope)
        first += 1
        if first < count and size > len(heap) > 0:
            level = max(level, slack * _kth(sums, touched, size, heap))
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
            index, lengths, lows[j], highs[j], weights[j], flat, slope, sums, touched, size
        )  # fmt: skip
    return size


@kernel
def _window(
    index: Any,
    window: Number,
    count: Number,
    lows: Arrays,
    highs: Arrays,
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
            index, lengths, lows[j], highs[j], weights[j], flat, slope, need,
            sums, touched, size, listed,
        )  # fmt: skip
    if not listed:
        least = np.float32(max(level - rests[first], 1e-38))
        size = _gather(sums, len(lengths), least, touched)
    if len(keep):
        size = _drop(sums, touched, size, keep[base : base + len(lengths)])
    if first < count and size > len(heap) > 0:
        level = max(level, slack * _kth(sums, touched, size, heap))
    for j in range(first, count):
        kept = np.int64(0)
        for i in range(size):
            row = touched[i]
            touched[kept] = row
            if sums[row] + rests[j] >= level:
                kept += 1
            elif listed:
                sums[row] = 0
        size = kept
        _complete(
            index, lengths, lows[j], highs[j], weights[j], flat, slope, sums, touched, size
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
    here, rests = np.empty(count, np.float32), np.empty(count + 1, np.float64)
    most, least = index.block_counts, index.block_lengths
    # Sums are rounded n times, so a row may exceed the sum of its bounds by that much.
    slack = 1 - 1.2e-7 * (count + 8)
    for window in range((len(index.lengths) + (1 << WINDOW_BITS) - 1) >> WINDOW_BITS):
        present = np.int64(0)
        for i in range(count):
            run = cursors[i]
            if run < ends[i] and index.run_windows[run] == window:
                lows[present] = index.run_starts[run]
                highs[present] = index.run_starts[run + 1]
                here[present] = weights[i]
                cursors[i] = run + 1
                present += 1
        few = len(keep) > 0 and starts[window] >= 0
        if few:
            after = starts[window + 1]
            own = kept[starts[window] : after if after >= 0 else -1 - after]
            if len(own) == 0:
                continue
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
                index, window, present, lows, highs, here, rests, flat, slope, level, slack,
                own, keep, sums, touched, scores[:spare],
            )  # fmt: skip
        else:
            size = _window(
                index, window, present, lows, highs, here, rests, flat, slope, level, slack, keep,
                sums, touched, scores[:spare],
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
    flat: Number,
    slope: Number,
    keep: Arrays,
    starts: Arrays,
    kept: Arrays,
    few: Number,
    sums: Arrays,
    touched: Arrays,
    scores: Arrays,
    rows: Arrays,
    sizes: Arrays,
) -> None:
    """Add one segment's rows to the best of each query.

    Args:
        index: the segment's Postings.
        base: number of the segment's first row.
        bounds: (q + 1,) int64 where each query's terms lie.
        terms: (m,) int64 numbers in the segment's dictionary, -1 for a term that it lacks.
        weights: (m,) float32, idf times the count in the query, falling within a query.
        flat: float32 k1 (1 - b).
        slope: float32 k1 b / avgdl.
        keep: (n,) bool, rows that may be found; of length 0 where all may.
        starts: what ``kept_rows`` says of ``keep``, as the next two.
        kept: (m,) uint16.
        few: bool.
        sums: (65,536,) float32, zeros; zeros again at the end.
        touched: (65,537,) uint16 to work in.
        scores: (q, k) float32, a heap for each query with the worst at the root.
        rows: (q, k) int64, the rows of ``scores``.
        sizes: (q,) int64, how full each heap is.
    """
    for q in range(len(sizes)):
        widest = bounds[q + 1] - bounds[q]
        first, last = np.empty(widest, np.int64), np.empty(widest, np.int64)
        own = np.empty(widest, np.float32)
        count, seed = np.int64(0), 0.0
        for i in range(bounds[q], bounds[q + 1]):
            if terms[i] < 0:
                continue
            first[count] = index.term_runs[terms[i]]
            last[count] = index.term_runs[terms[i] + 1]
            own[count] = weights[i]
            held = np.int64(index.run_starts[last[count]]) - index.run_starts[first[count]]
            if sizes[q] == 0 and seed == 0 and held >= scores.shape[1] and not few:
                seed = _seed(
                    index, first[count], last[count], own[count], flat, slope, keep,
                    scores[q], rows[q],
                )  # fmt: skip
            count += 1
        sizes[q] = _query(
            index, base, first[:count], last[:count], own, flat, slope, seed, keep,
            starts, kept, sums, touched, scores[q], rows[q], sizes[q],
        )  # fmt: skip


@kernel
def sorted_hits(scores: Arrays, rows: Arrays, sizes: Arrays) -> tuple[Arrays, Arrays]:
    """The heaps of ``search`` as two flat arrays, each query's best first; empties the heaps."""
    total = sizes.sum()
    out_rows = np.empty(total, np.int64)
    out_scores = np.empty(total, np.float32)
    end = 0
    for q in range(len(sizes)):
        end += sizes[q]
        for i in range(sizes[q]):
            out_rows[end - 1 - i] = rows[q, 0]
            out_scores[end - 1 - i] = scores[q, 0]
            size = sizes[q] - 1 - i
            _sift(scores[q], rows[q], size, scores[q, size], rows[q, size])
    return out_rows, out_scores
