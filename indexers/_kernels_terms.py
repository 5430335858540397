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
GROUP = 16
NIBBLE = 15
LONG = 1024
BAD_TERMS, BAD_RUNS, BAD_STARTS, BAD_WINDOWS, BAD_ROWS = -2, -3, -4, -5, -6
"""In place of a term's runs: which array does not say where in the index the term's postings lie.

Kernels trust the arrays they are given, so what a search is about to use is checked first: a few
comparisons a term and window, the 256 counts of a long run, and one pass over the postings of the
last window.
"""


@kernel
def _fault(
    windows: Arrays,
    starts: Arrays,
    rows: Arrays,
    long_runs: Arrays,
    long_starts: Arrays,
    highs: Arrays,
    lows: Arrays,
    run: Number,
    end: Number,
    size: Number,
) -> Number:
    """Which array is wrong about the runs from ``run`` to ``end`` of a term; 0 if none is.

    Runs are not empty, stand by ascending window, and name rows below ``size``, the segment's.
    """
    if run >= end or end > len(windows):
        return BAD_RUNS
    slot, stop = np.int64(0), np.int64(len(long_runs))
    while slot < stop:
        middle = (slot + stop) >> 1
        if np.int64(long_runs[middle]) < run:
            slot = middle + 1
        else:
            stop = middle
    for at in range(run, end):
        first, last = np.int64(starts[at]), np.int64(starts[at + 1])
        if first >= last or last > len(rows) + len(lows) or last - first > 1 << WINDOW_BITS:
            return BAD_STARTS
        if at > run and windows[at] <= windows[at - 1]:
            return BAD_WINDOWS
        base = np.int64(windows[at]) << WINDOW_BITS
        if base >= size:
            return BAD_WINDOWS
        ends = size - base < 1 << WINDOW_BITS
        highest = np.int64(0)
        low = np.int64(long_starts[slot])
        if last - first <= LONG:
            if first < low or last - low > len(rows):
                return BAD_STARTS
            if ends:
                for i in range(first - low, last - low):
                    highest = max(highest, np.int64(rows[i]))
        else:
            if slot == len(long_runs) or np.int64(long_runs[slot]) != at:
                return BAD_ROWS
            if low + last - first != np.int64(long_starts[slot + 1]) or first < low:
                return BAD_ROWS
            if low + last - first > len(lows) or highs[slot << 8] != 0:
                return BAD_ROWS
            table = np.uint64(slot << 8)
            falls = np.uint8(0)
            for high in range(np.uint64(255)):  # without a branch, so that it takes few steps
                falls |= np.uint8(highs[table + high] > highs[table + high + np.uint64(1)])
            if falls or np.int64(highs[(slot << 8) + 255]) > last - first:
                return BAD_ROWS
            if ends:
                top, here = np.int64(255), last - first
                while top > 0 and np.int64(highs[(slot << 8) + top]) == here:
                    top -= 1
                for i in range(np.int64(highs[(slot << 8) + top]), here):
                    highest = max(highest, (top << 8) | np.int64(lows[low + i]))
            slot += 1
        if base + highest >= size:
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
def _field(terms: Arrays, at: Number, end: Number) -> tuple[Number, Number]:
    """The number, in groups of seven bits, that stands at ``at``, and the position after it."""
    value, shift = np.int64(0), 0
    while at < end and terms[at] >= 128 and shift < 35:
        value |= np.int64(terms[at] & 127) << shift
        shift += 7
        at += 1
    if at < end:
        value |= np.int64(terms[at]) << shift
    return value, at + 1


@kernel
def _head(terms: Arrays, at: Number, end: Number) -> tuple[Number, Number]:
    """Where the first term of the group in ``terms[at:end]`` lies; (1, 0) if it is damaged."""
    if at >= end or end > len(terms) or terms[at] > NIBBLE:
        return 1, 0
    size = np.int64(terms[at])
    at += 1
    if size == NIBBLE:
        more, at = _field(terms, at, end)
        size += more
    _, at = _field(terms, at, end)
    return (at, at + size) if at + size <= end else (1, 0)


@kernel
def fences(group_texts: Arrays, terms: Arrays, step: Number) -> Arrays:
    """How every ``step``-th group of a dictionary begins, so that a search starts close by.

    A binary search over the dictionary itself waits for memory at each of its steps.

    Args:
        group_texts: (g + 1,) uint32 where each group lies.
        terms: uint8, the dictionary.
        step: 1 or more.

    Returns:
        (ceil(g / step),) uint64; of length 0 if the dictionary is damaged: a search comes upon that
        itself.
    """
    out = np.empty((len(group_texts) + step - 2) // step, np.uint64)
    for i in range(len(out)):
        at, end = np.int64(group_texts[i * step]), np.int64(group_texts[i * step + 1])
        first, last = _head(terms, at, end)
        if first > last:
            return out[:0].copy()
        out[i] = _start(terms, first, last)
        if i > 0 and out[i] < out[i - 1]:
            return out[:0].copy()
    return out


@kernel
def _between(marks: Arrays, step: Number, end: Number, wanted: Number) -> tuple[Number, Number]:
    """Between which groups that term stands, if it does, which begins as ``wanted`` says.

    ``marks`` is what ``fences`` says of every ``step``-th of ``end`` groups.
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
def _group(
    texts: Arrays, first: Number, size: Number, group_texts: Arrays, terms: Arrays, low: Number,
    high: Number,
) -> Number:  # fmt: skip
    """Which of the groups from ``low`` to ``high`` the term ``texts[first : first + size]`` is in.

    The last whose first term is not greater; ``BAD_TERMS`` where the dictionary is damaged.
    """
    while high - low > 1:
        middle = (low + high) >> 1
        begin, end = _head(
            terms, np.int64(group_texts[middle]), np.int64(group_texts[middle + 1])
        )  # fmt: skip
        if begin > end:
            return np.int64(BAD_TERMS)
        order = size - (end - begin)
        for j in range(min(size, end - begin)):
            if texts[first + j] != terms[begin + j]:
                order = np.int64(texts[first + j]) - np.int64(terms[begin + j])
                break
        if order >= 0:
            low = middle
        else:
            high = middle
    return low


@kernel
def _inside(
    texts: Arrays, first: Number, size: Number, terms: Arrays, at: Number, end: Number, run: Number
) -> tuple[Number, Number]:
    """The runs, those of the group starting with ``run``, of a term in ``terms[at:end]``.

    (-1, -1) if the term is not there, ``BAD_TERMS`` for -1 where the dictionary is damaged.
    """
    if at > end or end > len(terms):
        return np.int64(BAD_TERMS), np.int64(-1)
    same = np.int64(0)  # so many bytes the term before, which is smaller, shares with the wanted
    while at < end:
        shared, rest = np.int64(terms[at] >> 4), np.int64(terms[at] & NIBBLE)
        at += 1
        if rest == NIBBLE:
            more, at = _field(terms, at, end)
            rest += more
        held, at = _field(terms, at, end)
        if at + rest > end:
            return np.int64(BAD_TERMS), np.int64(-1)
        if shared <= same:  # else it differs where the one before did
            j = np.int64(0)
            most = min(rest, size - shared)
            while j < most and terms[at + j] == texts[first + shared + j]:
                j += 1
            if j == rest and shared + j == size:
                return run, run + held
            if j < rest and (shared + j == size or terms[at + j] > texts[first + shared + j]):
                break
            same = shared + j
        at += rest
        run += held
    return np.int64(-1), np.int64(-1)


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
    """Find terms in one segment's dictionary by binary search over its groups.

    Args:
        index: the segment's Postings.
        marks: what ``fences`` says of the dictionary.
        step: with this step.
        texts: uint8, the wanted terms' UTF-8, end to end.
        offsets: (t + 1,) int64 where each lies.
        found: (t, 2) int64, written: its first run and the one after its last, the former -1 where
            the segment lacks it, or one of the ``BAD_`` numbers where the index is damaged.
        postings: (t,) int64, added to: how many rows hold it.

    Returns:
        The least number that was written to ``found[:, 0]``; below -1 the index is damaged.
    """
    worst = np.int64(0)
    for i in range(len(offsets) - 1):
        size = offsets[i + 1] - offsets[i]
        low, high = np.int64(0), np.int64(len(index.group_texts) - 1)
        if len(marks):
            wanted = _start(texts, offsets[i], offsets[i + 1])
            low, high = _between(marks, step, high, wanted)
        found[i, 0] = found[i, 1] = -1
        if low < high:
            group = _group(texts, offsets[i], size, index.group_texts, index.terms, low, high)
            first, last = group, group
            if group >= 0:
                at, end = np.int64(index.group_texts[group]), np.int64(index.group_texts[group + 1])
                first, last = _inside(
                    texts, offsets[i], size, index.terms, at, end, np.int64(index.group_runs[group])
                )
            if first >= 0:
                fault = _fault(
                    index.run_windows, index.run_starts, index.rows, index.long_runs,
                    index.long_starts, index.long_highs, index.long_lows, first, last,
                    len(index.lengths),
                )  # fmt: skip
                if fault < 0:
                    first = np.int64(fault)
                else:
                    postings[i] += np.int64(index.run_starts[last]) - index.run_starts[first]
            found[i, 0], found[i, 1] = first, last
        worst = min(worst, found[i, 0])
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
