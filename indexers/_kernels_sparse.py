"""The compiled loops of the index kind ``sparse``: turning vectors into postings, and searching.

Imported only when a kernel is needed (``rag.compiled``).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.compiled import kernel
from rag.indexers._kernels_heap import push

Arrays: TypeAlias = NDArray[Any]
Number: TypeAlias = Any
"""A scalar; numba gives it its machine type."""

WINDOW_BITS = 16
LISTED = 4096
"""Up to so many postings of a window, the rows they touch are noted down instead of looked for."""
BLOCK = 64
FEW = 10
"""The first look at the sums comes once the terms that are left are worth but a tenth."""
PER_ROW = 200
"""Scoring one row exactly takes about as long as adding so many postings."""
SCORED = np.float32(-np.inf)
"""The sum of a row that has its exact score already; no posting lifts it."""
LEAST = np.float32(1e-37)
BAD_STARTS, BAD_VECTORS = -1, -2
"""What ``search`` returns for damage that it meets; nothing outside the arrays is read."""


@kernel
def invert(
    offsets: Arrays, columns: Arrays, values: Arrays, starts: Arrays, scales: Arrays,
    rows: Arrays, codes: Arrays,
) -> None:  # fmt: skip
    """Turn the vectors of one window into postings by column, then by row.

    A code is the least byte with ``code * scales[column] >= value``, so that sums of codes bound
    scores from above.

    Args:
        offsets: (n + 1,) int64 where each row's entries lie in the next two; n <= 65,536.
        columns: unsigned, the column of each entry.
        values: float32 above 0.
        starts: (v + 1,) uint32 to write, zeros: where each column's postings lie.
        scales: (v,) float32 to write, zeros: what a unit of its codes is worth.
        rows: (p,) uint16 to write.
        codes: (p,) uint8 to write.
    """
    for at in range(offsets[0], offsets[-1]):
        column = columns[at]
        starts[column + 1] += 1
        scales[column] = max(scales[column], values[at])
    for column in range(len(scales)):
        starts[column + 1] += starts[column]
        most = scales[column]
        if most > 0:
            scale = max(np.float32(most / np.float32(255)), LEAST)
            while np.float32(scale * np.float32(255)) < most:
                scale = np.nextafter(scale, np.float32(np.inf))
            scales[column] = scale
    room = starts[:-1].copy()
    for row in range(len(offsets) - 1):
        for at in range(offsets[row], offsets[row + 1]):
            column, value = columns[at], values[at]
            code = min(np.int64(np.ceil(value / scales[column])), np.int64(255))
            if np.float32(scales[column] * np.float32(code)) < value:
                code += 1
            rows[room[column]] = row
            codes[room[column]] = code
            room[column] += 1


@kernel
def _score(query: Arrays, part: Any, row: Number) -> Number:
    """The product of a dense query with one row; four sums, always in the same order.

    NaN where the row's entries lie outside the arrays. ``query`` has a place for every uint16.
    """
    columns, values = part.columns, part.values
    first, last = part.offsets[row], part.offsets[row + 1]
    if first < 0 or last < first or last > len(columns):
        return np.float32(np.nan)
    if len(query) > 1 << 16:
        for at in range(first, last):
            if columns[at] >= len(query):
                return np.float32(np.nan)
    a = b = c = d = 0.0
    place: Any = np.uint64(first)  # unsigned, so that no negative index is looked for
    end = np.uint64(first + ((last - first) & ~3))
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    while place < end:
        a += query[columns[place]] * values[place]
        b += query[columns[place + one]] * values[place + one]
        c += query[columns[place + two]] * values[place + two]
        d += query[columns[place + three]] * values[place + three]
        place += np.uint64(4)
    while place < np.uint64(last):
        a += query[columns[place]] * values[place]
        place += one
    return np.float32((a + b) + (c + d))


@kernel
def _any(sums: Arrays, least: Number) -> Number:
    """Whether one of the sums is at least ``least``; without a branch, many at a time."""
    some = np.int32(0)
    for i in range(len(sums)):
        some |= np.int32(sums[i] >= least)
    return some


@kernel
def _largest(
    sums: Arrays, n: Number, keep: Arrays, seen: Arrays, noted: Number, best: Arrays,
    rows: Arrays,
) -> Number:  # fmt: skip
    """Put the kept rows with the largest sums above 0 into a heap, as ``_push`` does; its size.

    They are looked for among the first ``noted`` rows of ``seen``, or among all n if it is -1.
    """
    size: Any = np.int64(0)
    if noted >= 0:
        for i in range(noted):
            row: Any = np.int64(seen[i])
            if sums[row] > 0 and row < n and (len(keep) == 0 or keep[row]):
                size = push(best, rows, size, sums[row], row)
        return size
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        least = best[0] if size == len(best) else LEAST
        if _any(sums[start:stop], least):
            for row in range(start, stop):
                if sums[row] >= least and (len(keep) == 0 or keep[row]):
                    size = push(best, rows, size, sums[row], row)
    return size


@kernel
def _reaching(
    sums: Arrays, n: Number, least: Number, keep: Arrays, seen: Arrays, noted: Number,
    touched: Arrays,
) -> Number:  # fmt: skip
    """Write the kept rows whose sum is at least ``least`` to ``touched``; how many they are.

    They are looked for among the first ``noted`` rows of ``seen``, or among all n if it is -1.
    """
    size: Any = np.int64(0)
    if noted >= 0:
        for i in range(noted):
            row: Any = np.int64(seen[i])
            if sums[row] >= least and row < n and (len(keep) == 0 or keep[row]):
                touched[size] = row
                size += 1
        return size
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        if _any(sums[start:stop], least):
            for row in range(start, stop):
                if sums[row] >= least and (len(keep) == 0 or keep[row]):
                    touched[size] = row
                    size += 1
    return size


@kernel
def _exact(
    part: Any, first: Number, base: Number, query: Arrays, sums: Arrays, touched: Arrays,
    size: Number, rest: Number, slack: Number, scores: Arrays, rows: Arrays, found: Number,
) -> Number:  # fmt: skip
    """Score the rows of ``touched`` that may reach the worst hit, and mark them; the heap's size.

    ``rest`` is what terms that were not added to the sums may be worth.
    """
    for i in range(size):
        row = np.int64(touched[i])
        if found == len(scores) and (sums[row] + rest) * slack < scores[0]:
            continue
        score = _score(query, part, first + row)
        if np.isnan(score):
            return np.int64(BAD_VECTORS)
        if score > 0:
            found = push(scores, rows, found, score, base + first + row)
        sums[row] = SCORED
    return found


@kernel
def _window(
    part: Any, window: Number, base: Number, terms: Arrays, weights: Arrays, query: Arrays,
    keep: Arrays, kept: Number, sums: Arrays, seen: Arrays, touched: Arrays, scores: Arrays,
    rows: Arrays, found: Number,
) -> Number:  # fmt: skip
    """Add one window's rows to the heap of one query, which holds ``found``; its size then."""
    first = window << WINDOW_BITS
    n = min(len(part.offsets) - 1 - first, 1 << WINDOW_BITS)
    starts, scales = part.starts[window], part.scales[window]
    origin = part.offsets[first]
    if origin < 0:
        return np.int64(BAD_VECTORS)
    count, total, rest = np.int64(0), np.int64(0), 0.0
    own = np.empty(len(terms), np.int64)
    gain = np.empty(len(terms), np.float64)
    for i in range(len(terms)):
        begin, end = np.int64(starts[terms[i]]), np.int64(starts[terms[i] + 1])
        length = end - begin
        if length < 0 or origin + end > len(part.rows):
            return np.int64(BAD_STARTS)
        if length > 0:
            own[count] = i
            bound = float(weights[i]) * scales[terms[i]] * 255
            gain[count] = -bound / length
            rest += bound
            total += length
            count += 1
    # Sums of float32 are rounded at every addition, so a bound may be short by that much.
    slack = 1 + 2.4e-7 * (count + 8)
    k = len(scores)
    if count == 0 or (found == k and rest * slack < scores[0]):
        return found
    if len(keep) and kept * PER_ROW < total:
        for row in range(n):
            if keep[row]:
                score = _score(query, part, first + row)
                if np.isnan(score):
                    return np.int64(BAD_VECTORS)
                if score > 0:
                    found = push(scores, rows, found, score, base + first + row)
        return found
    order = own[np.argsort(gain[:count])]  # what is worth most for each posting comes first
    noted = np.int64(0) if total <= LISTED else np.int64(-1)
    left, check, whole = total, total >> 1, rest
    for j in range(count):
        term = terms[order[j]]
        low, high = origin + np.int64(starts[term]), origin + np.int64(starts[term + 1])
        # Never 0, because a sum of 0 says that the row was not met yet.
        unit = max(np.float32(weights[order[j]] * scales[term]), LEAST)
        if noted >= 0:
            for at in range(np.uint64(low), np.uint64(high)):
                row = part.rows[at]
                seen[noted] = row
                noted += sums[row] == 0
                sums[row] += unit * np.float32(part.codes[at])
        else:
            for at in range(np.uint64(low), np.uint64(high)):
                sums[part.rows[at]] += unit * np.float32(part.codes[at])
        left -= high - low
        rest -= float(weights[order[j]]) * scales[term] * 255
        if left > check and (check << 1 < total or rest * FEW > whole):
            continue
        check = min(left, check) >> 1 if left << 3 >= total else np.int64(0)
        over = max(rest, 0.0) + 1e-9 * (1 + whole)
        if found < k:
            best, theirs = np.empty(k, np.float32), np.empty(k, np.int64)
            size = _largest(sums, n, keep, seen, noted, best, theirs)
            found = _exact(
                part, first, base, query, sums, theirs, size, over, slack, scores, rows, found
            )  # fmt: skip
            if found < 0:
                break
        least = LEAST
        if found == k:
            least = max(least, np.float32((scores[0] / slack - over) * (1 - 1e-6)))
        elif left > 0:
            continue
        # A row that no term has met yet reaches the worst hit only if the rest alone does.
        if left > 0 and over * slack >= scores[0]:
            continue
        size = _reaching(sums, n, least, keep, seen, noted, touched)
        if left == 0 or size * PER_ROW < left:
            found = _exact(
                part, first, base, query, sums, touched, size, over, slack, scores, rows, found
            )  # fmt: skip
            break
    if noted >= 0:
        for i in range(noted):
            sums[seen[i]] = 0
    else:
        sums[:] = 0
    return found


@kernel
def search(
    part: Any, base: Number, indptr: Arrays, terms: Arrays, weights: Arrays,
    keep: Arrays, kept: Arrays, query: Arrays, sums: Arrays, seen: Arrays, touched: Arrays,
    scores: Arrays, rows: Arrays, sizes: Arrays,
) -> Number:  # fmt: skip
    """Add one segment's rows to the best of each of q queries.

    Args:
        part: the segment's Vectors and Inverted arrays (``rag.indexers.sparse_vectors.Segment``).
        base: number of the segment's first row.
        indptr: (q + 1,) int64 where each query's terms lie.
        terms: (m,) int64 columns.
        weights: (m,) float32.
        keep: (rows,) bool, rows that may be found; of length 0 where all may.
        kept: (windows,) int64, how many of each window are kept.
        query: (max(v, 65,536),) float32 zeros; zeros again at the end.
        sums: (65,536,) float32 zeros; zeros again at the end.
        seen: (65,537,) uint16 to work in, as the next.
        touched: (65,537,) uint16.
        scores: (q, k) float32, a heap for each query with the worst at the root.
        rows: (q, k) int64, the rows of ``scores``.
        sizes: (q,) int64, how full each heap is.

    Returns:
        0, or one of the ``BAD_`` numbers.
    """
    n = len(part.offsets) - 1
    for q in range(len(sizes)):
        low, high = indptr[q], indptr[q + 1]
        some, own = np.empty(high - low, np.int64), np.empty(high - low, np.float32)
        count = np.int64(0)
        for i in range(low, high):
            query[terms[i]] = weights[i]
            if weights[i] > 0:  # the others lower scores, and bounds need not know
                some[count], own[count] = terms[i], weights[i]
                count += 1
        for window in range((n + (1 << WINDOW_BITS) - 1) >> WINDOW_BITS):
            here, few = keep, np.int64(0)
            if len(keep):
                here, few = keep[window << WINDOW_BITS : (window + 1) << WINDOW_BITS], kept[window]
                if few == 0:
                    continue
            size = _window(
                part, window, base, some[:count], own[:count], query, here, few, sums, seen,
                touched, scores[q], rows[q], sizes[q],
            )  # fmt: skip
            if size < 0:
                return size
            sizes[q] = size
        for i in range(low, high):
            query[terms[i]] = 0
    return np.int64(0)
