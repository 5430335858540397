"""Compiled loops over the terms of queries: their places in a dictionary, their weights and order.

Imported only when a search runs (``rag.compiled``). ``_kernels_search`` goes on with what is found.
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
def _start(text: Arrays, first: Number, last: Number) -> Number:
    """The first eight bytes of ``text[first:last]`` as a number; zeros after a shorter one's end.

    Of two texts the smaller one never has the larger number.
    """
    number = np.uint64(0)
    for at in range(first, first + 8):
        number <<= np.uint64(8)
        if at < last:
            number |= np.uint64(text[at])
    return number


@kernel
def fences(offsets: Arrays, texts: Arrays, step: Number) -> Arrays:
    """How every ``step``-th term of a dictionary begins, so that a search starts close by.

    A binary search over the dictionary itself waits for memory at each of its steps.

    Args:
        offsets: (t + 1,) uint32 where each term lies.
        texts: uint8, the terms' UTF-8, end to end.
        step: 1 or more.

    Returns:
        (ceil(t / step),) uint64; of length 0 if the dictionary is damaged: a search comes upon that
        itself.
    """
    out = np.empty((len(offsets) + step - 2) // step, np.uint64)
    for i in range(len(out)):
        first, last = np.int64(offsets[i * step]), np.int64(offsets[i * step + 1])
        if first > last or last > len(texts):
            return out[:0].copy()
        out[i] = _start(texts, first, last)
        if i > 0 and out[i] < out[i - 1]:
            return out[:0].copy()
    return out


@kernel
def _between(marks: Arrays, step: Number, end: Number, wanted: Number) -> tuple[Number, Number]:
    """Between which terms that one stands, if any does, which begins as ``wanted`` says.

    ``marks`` is what ``fences`` says of every ``step``-th of ``end`` terms.
    """
    low, high = np.int64(0), np.int64(len(marks))
    while low < high:
        middle = (low + high) >> 1
        if marks[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    first, high = max(low - 1, 0), np.int64(len(marks))
    if low < high and marks[low] > wanted:
        high = low
    while low < high:
        middle = (low + high) >> 1
        if marks[middle] <= wanted:
            low = middle + 1
        else:
            high = middle
    return first * step, min(low * step, end)


@kernel
def lookup(
    index: Any,
    marks: Arrays,
    step: Number,
    texts: Arrays,
    offsets: Arrays,
    found: Arrays,
    postings: Arrays,
) -> Number:
    """Find terms in one segment's dictionary by binary search over its bytes.

    Args:
        index: the segment's Postings.
        marks: what ``fences`` says of the dictionary.
        step: with this step.
        texts: uint8, the wanted terms' UTF-8, end to end.
        offsets: (t + 1,) int64 where each lies.
        found: (t,) int64, written: its number, -1 where the segment lacks it, or one of the
            ``BAD_`` numbers where the index is damaged.
        postings: (t,) int64, added to: how many rows hold it.

    Returns:
        The least number that was written; below -1 the index is damaged.
    """
    worst = np.int64(0)
    for i in range(len(offsets) - 1):
        size = offsets[i + 1] - offsets[i]
        low, high = np.int64(0), np.int64(len(index.term_offsets) - 1)
        if len(marks):
            wanted = _start(texts, offsets[i], offsets[i + 1])
            low, high = _between(marks, step, high, wanted)
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
        worst = min(worst, found[i])
    return worst


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
