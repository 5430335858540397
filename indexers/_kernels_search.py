"""The compiled search of postings: BM25 with exact pruning, top k (see ``_kernels_runs``)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.compiled import kernel
from rag.indexers._kernels_heap import push
from rag.indexers._kernels_runs import AHEAD, BLOCK_BITS, LONG, WIDE, WINDOW_BITS, most_part, run_of
from rag.indexers._kernels_seed import first_guess, place_of
from rag.indexers._kernels_window import search_few, search_window

Arrays: TypeAlias = NDArray[Any]
Number: TypeAlias = Any
"""A scalar; numba gives it its machine type."""


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
            slot, origin = run_of(index.long_runs, index.long_starts, run, low, high - low > LONG)
            if cut:
                low = place_of(index, low, high, slot, origin, start)
                high = place_of(index, low, high, slot, origin, end)
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
                part = max(part, most_part(most[block], least[block], flat, slope))
            rests[j] = rests[j + 1] + here[j] * part
        level = slack * max(seed, float(scores[0]) if found == k else 0.0)
        if present == 0 or rests[0] < level:
            continue
        spare = k if found == 0 else 0
        if few:
            size = search_few(
                index, window, present, lows, highs, slots, origins, here, rests, flat, slope,
                level, slack, own, keep, sums, touched, scores[:spare], ids,
            )  # fmt: skip
        else:
            size = search_window(
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
                found = push(scores, rows, found, score, base + first + row)
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
                seed = first_guess(
                    index, first[count], last[count], own[count], flat, slope, keep, starts,
                    spans, scores[q],
                )  # fmt: skip
            count += 1
        sizes[q] = _query(
            index, base, first[:count], last[:count], own, flat, slope, seed, keep, starts, kept,
            spans, sums, touched, scores[q], rows[q], sizes[q],
        )  # fmt: skip
