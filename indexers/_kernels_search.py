"""Compiled loops that search postings: dictionary look-up, BM25 with exact pruning, top k.

Imported only when a search runs (``rag.compiled``). The file stands alone: no kernel of another
file is called.
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


@kernel
def lookup(index: Any, texts: Arrays, offsets: Arrays, found: Arrays, postings: Arrays) -> None:
    """Find terms in one segment's dictionary by binary search over its bytes.

    Args:
        index: the segment's Postings.
        texts: uint8, the wanted terms' UTF-8, end to end.
        offsets: (t + 1,) int64 where each lies.
        found: (t,) int64, written: its number, or -1 where the segment lacks it.
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
            order = size - other
            for j in range(min(size, other)):
                if texts[offsets[i] + j] != index.terms[start + j]:
                    order = np.int64(texts[offsets[i] + j]) - np.int64(index.terms[start + j])
                    break
            if order == 0:
                found[i] = middle
                first = index.run_starts[index.term_runs[middle]]
                postings[i] += np.int64(index.run_starts[index.term_runs[middle + 1]]) - first
                break
            if order > 0:
                low = middle + 1
            else:
                high = middle


@kernel
def _part(count: Number, length: Number, flat: Number, slope: Number) -> Number:
    """The part tf / (tf + k1 (1 - b + b dl / avgdl)): flat = k1 (1 - b), slope = k1 b / avgdl."""
    tf = np.float32(count)
    return tf / (tf + (flat + slope * np.float32(length)))


@kernel
def _count(index: Any, at: Number) -> Number:
    """How often the term of posting ``at`` stands in its row."""
    count = np.int64(index.counts[at])
    if count < ESCAPE:
        return count
    low, high = np.int64(0), np.int64(len(index.large_positions))
    while low < high:
        middle = (low + high) >> 1
        if index.large_positions[middle] < at:
            low = middle + 1
        else:
            high = middle
    return np.int64(index.large_counts[low])


@kernel
def _block_bound(index: Any, block: Number, flat: Number, slope: Number) -> Number:
    """The most that ``_part`` can be in a block of postings."""
    count = index.block_counts[block]
    if count == ESCAPE:
        return np.float32(1)
    return _part(count, index.block_lengths[block], flat, slope)


@kernel
def _run_bound(index: Any, low: Number, high: Number, flat: Number, slope: Number) -> Number:
    """The most that ``_part`` can be in a run of postings."""
    best = np.float32(0)
    for block in range(low >> BLOCK_BITS, ((high - 1) >> BLOCK_BITS) + 1):
        best = max(best, _block_bound(index, block, flat, slope))
    return best


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
    listed: bool,
) -> Number:
    """Add a run's scores to ``sums``; blocks that cannot bring a row to ``need`` are left out.

    Where ``listed``, rows whose sum was 0 are appended to ``touched``; returns its size.
    """
    for block in range(low >> BLOCK_BITS, ((high - 1) >> BLOCK_BITS) + 1):
        if need > 0 and weight * _block_bound(index, block, flat, slope) < need:
            continue
        start = max(low, block << BLOCK_BITS)
        stop = min(high, (block + 1) << BLOCK_BITS)
        if index.block_counts[block] == ESCAPE:
            for at in range(start, stop):
                row = index.rows[at]
                if listed:
                    touched[size] = row
                    size += sums[row] == 0
                sums[row] += weight * _part(_count(index, at), lengths[row], flat, slope)
        elif listed:
            for at in range(start, stop):
                row = index.rows[at]
                before = sums[row]
                touched[size] = row
                size += before == 0
                sums[row] = before + weight * _part(index.counts[at], lengths[row], flat, slope)
        else:
            for at in range(start, stop):
                row = index.rows[at]
                sums[row] += weight * _part(index.counts[at], lengths[row], flat, slope)
    return size


@kernel
def _gather(sums: Arrays, size: Number, need: Any, touched: Arrays) -> Number:
    """Write the rows below ``size`` whose sum is at least ``need`` > 0 to ``touched``."""
    bits = sums.view(np.int32)  # floats that are not negative compare as their bits do
    least = np.array([need], np.float32).view(np.int32)[0]
    found = 0
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
    """Add a run's scores to the rows in ``touched`` alone, by galloping search in the run."""
    at = low
    for i in range(size):
        row = touched[i]
        if at >= high or index.rows[at] > row:
            at = low  # rows ascend but for the lists of several terms end to end
        step = 1
        while at + step < high and index.rows[at + step] <= row:
            at += step
            step *= 2
        while step > 0:
            if at + step < high and index.rows[at + step] <= row:
                at += step
            step >>= 1
        if index.rows[at] == row:
            sums[row] += weight * _part(_count(index, at), lengths[row], flat, slope)


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
    size = 0
    for run in range(first, last):
        base = np.int64(index.run_windows[run]) << WINDOW_BITS
        for at in range(index.run_starts[run], index.run_starts[run + 1]):
            row = base + np.int64(index.rows[at])
            if len(keep) and not keep[row]:
                continue
            score = weight * _part(_count(index, at), index.lengths[row], flat, slope)
            size = _push(scores, rows, size, score, row)
    return float(scores[0]) if size == len(scores) else 0.0


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
    sums: Arrays,
    touched: Arrays,
) -> Number:
    """Sum the scores of one window's rows; the rows that may reach ``level`` go to ``touched``.

    Terms come by falling weight. ``rests[j]`` bounds what terms j, j + 1, … add together. The
    first p terms, up to where the rest can no longer reach ``level`` alone, are added for all
    rows; the others only for rows that can still reach it (MaxScore, Turtle and Flood 1995).
    Returns the number of rows; the caller clears their sums.
    """
    base = window << WINDOW_BITS
    lengths = index.lengths[base : base + (1 << WINDOW_BITS)]
    first = 0
    postings = 0
    while first < count and (level <= 0 or rests[first] >= level):
        postings += highs[first] - lows[first]
        first += 1
    listed = postings < DENSE
    size = 0
    for j in range(first):
        need = level - (rests[0] - (rests[j] - rests[j + 1]))
        size = _scatter(
            index, lengths, lows[j], highs[j], weights[j], flat, slope, need,
            sums, touched, size, listed,
        )  # fmt: skip
    if not listed:
        need = np.float32(max(level - rests[first], 1e-38))
        size = _gather(sums, len(lengths), need, touched)
    for j in range(first, count):
        kept = 0
        for i in range(size):
            row = touched[i]
            touched[kept] = row
            if sums[row] + rests[j] >= level:
                kept += 1
            elif listed:
                sums[row] = 0
        size = kept
        _complete(index, lengths, lows[j], highs[j], weights[j], flat, slope, sums, touched, size)
    return size if listed else -size - 1


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
        sums: (65,536,) float32, zeros; zeros again at the end.
        touched: (65,537,) uint16 to work in.
        scores: (q, k) float32, a heap for each query with the worst at the root.
        rows: (q, k) int64, the rows of ``scores``.
        sizes: (q,) int64, how full each heap is.
    """
    widest = 1
    for q in range(len(sizes)):
        widest = max(widest, bounds[q + 1] - bounds[q])
    cursors, ends = np.empty(widest, np.int64), np.empty(widest, np.int64)
    lows, highs = np.empty(widest, np.int64), np.empty(widest, np.int64)
    rests = np.empty(widest + 1, np.float64)
    own, here = np.empty(widest, np.float32), np.empty(widest, np.float32)
    k = scores.shape[1]
    windows = (len(index.lengths) + (1 << WINDOW_BITS) - 1) >> WINDOW_BITS
    for q in range(len(sizes)):
        count = 0
        seed = 0.0
        for i in range(bounds[q], bounds[q + 1]):
            term = terms[i]
            if term < 0:
                continue
            cursors[count] = index.term_runs[term]
            ends[count] = index.term_runs[term + 1]
            own[count] = weights[i]
            held = np.int64(index.run_starts[ends[count]]) - index.run_starts[cursors[count]]
            if sizes[q] < k and seed == 0 and held >= k and sizes[q] == 0:
                seed = _seed(
                    index, cursors[count], ends[count], weights[i], flat, slope, keep,
                    scores[q], rows[q],
                )  # fmt: skip
            count += 1
        # Sums are rounded n times, so a row may exceed the sum of its bounds by that much.
        slack = 1 - 1.2e-7 * (count + 8)
        for window in range(windows):
            present = 0
            for i in range(count):
                run = cursors[i]
                if run < ends[i] and index.run_windows[run] == window:
                    lows[present] = index.run_starts[run]
                    highs[present] = index.run_starts[run + 1]
                    here[present] = own[i]
                    cursors[i] = run + 1
                    present += 1
            if present == 0:
                continue
            full = sizes[q] == k
            level = max(seed, float(scores[q, 0]) if full else 0.0) * slack
            rests[present] = 0
            for j in range(present - 1, -1, -1):
                bound = _run_bound(index, lows[j], highs[j], flat, slope)
                rests[j] = rests[j + 1] + here[j] * bound
            if rests[0] < level:
                continue
            size = _window(
                index, window, present, lows, highs, here, rests, flat, slope, level,
                sums, touched,
            )  # fmt: skip
            dense = size < 0
            if dense:
                size = -size - 1
            first = base + (window << WINDOW_BITS)
            for i in range(size):
                row = np.int64(touched[i])
                score = sums[row]
                if not dense:
                    sums[row] = 0
                if score < level:
                    continue
                if len(keep) and not keep[(window << WINDOW_BITS) + row]:
                    continue
                sizes[q] = _push(scores[q], rows[q], sizes[q], score, first + row)
            if dense:
                sums[:] = 0


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
