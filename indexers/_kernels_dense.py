"""Compiled loops over scores of dense vectors (``rag.compiled``).

Products of matrices round a score differently from block to block, by ``slack`` at most. They only
choose rows: what is kept is scored by ``_product``, which gives a row one score wherever it lies.
So the best rows are those of brute force, with its ties. ``best``, ``rows`` and ``sizes`` are the
heaps of all queries, (q, k), (q, k) and (q,).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from rag.compiled import kernel
from rag.indexers._kernels_heap import push

Arrays: TypeAlias = NDArray[Any]
Number: TypeAlias = Any
"""A scalar; numba gives it its machine type."""
LANES = 16
"""Sums of a product."""
AHEAD = 2
"""How many rows ahead the next one is asked for, as rows that were found lie far apart."""
LINE = 64
"""Bytes of a line of the cache; where it has more, lines are asked for twice."""


@intrinsic
def _lanes(typing: Any, query: Any, vector: Any, blocks: Any) -> Any:
    """The inner product of ``blocks`` times 16 float64 and float32 at two addresses, in 16 sums.

    Written for LLVM, which keeps the order of a sum and so makes no vectors of a loop over one.
    """

    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        wide = ir.VectorType(ir.DoubleType(), LANES)
        narrow = ir.VectorType(ir.FloatType(), LANES)
        left = builder.inttoptr(given[0], wide.as_pointer())
        right = builder.inttoptr(given[1], narrow.as_pointer())
        sums = cgutils.alloca_once_value(builder, ir.Constant(wide, [0.0] * LANES))
        with cgutils.for_range(builder, given[2]) as loop:
            ours = builder.load(builder.gep(left, [loop.index]), align=8)
            theirs = builder.load(builder.gep(right, [loop.index]), align=4)
            product = builder.fmul(ours, builder.fpext(theirs, wide))
            builder.store(builder.fadd(builder.load(sums), product), sums)
        found, width = builder.load(sums), LANES
        while width > 1:
            width //= 2
            numbers = ir.VectorType(ir.IntType(32), width)
            halves = [
                builder.shuffle_vector(
                    found, found, ir.Constant(numbers, list(range(start, start + width)))
                )
                for start in (0, width)
            ]
            found = builder.fadd(*halves)
        return builder.extract_element(found, ir.Constant(ir.IntType(32), 0))

    return types.float64(types.intp, types.intp, types.intp), emit


@intrinsic
def _prefetch(typing: Any, address: Any) -> Any:
    """Ask for what lies at an address, which is read soon."""

    def emit(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        how = [ir.Constant(number, value) for value in (0, 3, 1)]  # to read, often, as data
        builder.call(ask, [builder.inttoptr(given[0], byte), *how])
        return context.get_dummy_value()

    return types.void(types.intp), emit


@kernel
def _product(query: Arrays, vector: Arrays) -> Number:
    """The inner product of a float64 query and a float32 vector, rounded to float32.

    Products are exact in float64, and their sum has one order.
    """
    blocks = len(query) // LANES
    total = _lanes(query.ctypes.data, vector.ctypes.data, blocks)
    for j in range(blocks * LANES, len(query)):
        total += query[j] * np.float64(vector[j])
    return np.float32(total)


@kernel
def _pick(scores: Arrays, keep: Arrays, floor: Number, picked: Arrays) -> Any:
    """Write the places of the kept scores that are not below ``floor``; their number."""
    count = 0
    for j in range(len(scores)):
        if scores[j] >= floor and (len(keep) == 0 or keep[j]):
            picked[count] = j
            count += 1
    return count


@kernel
def offer_by_query(
    scores: Arrays, keep: Arrays, queries: Arrays, vectors: Arrays, numbers: Arrays,
    slack: Arrays, best: Arrays, rows: Arrays, sizes: Arrays,
) -> None:  # fmt: skip
    """Offer the rows of a block to the heaps, whether these are full or not.

    Args:
        scores: (q, m) float32, rounded.
        keep: (m,) bool, or without elements for all.
        queries: (q, d) float64.
        vectors: (m, d) float32.
        numbers: (m,) int64, those of the rows.
        slack: (q,) float32, how far off a score may be.
        best: the scores of the heaps.
        rows: their rows.
        sizes: how many each has.
    """
    k = best.shape[1]
    picked = np.empty(len(numbers), np.int64)
    for q in range(len(scores)):
        size = sizes[q]
        floor = np.float32(-np.inf)
        if size == k:
            floor = best[q, 0] - slack[q]
        count = _pick(scores[q], keep, floor, picked)
        if count > k:
            # The k best of the block alone push the rest out, before it is scored.
            some = scores[q][picked[:count]]
            floor = max(floor, np.partition(some, count - k)[count - k] - 2 * slack[q])
        for i in range(count):
            j = picked[i]
            if scores[q, j] >= floor:
                score = _product(queries[q], vectors[j])
                size = push(best[q], rows[q], size, score, numbers[j])
        sizes[q] = size


@kernel
def offer_by_row(
    scores: Arrays, keep: Arrays, queries: Arrays, vectors: Arrays, numbers: Arrays,
    slack: Arrays, best: Arrays, rows: Arrays, sizes: Arrays,
) -> None:  # fmt: skip
    """As ``offer_by_query``, for full heaps and ``scores`` of (m, q)."""
    floors = best[:, 0] - slack
    for j in range(len(scores)):
        if len(keep) and not keep[j]:
            continue
        for q in range(scores.shape[1]):
            if scores[j, q] >= floors[q]:
                score = _product(queries[q], vectors[j])
                push(best[q], rows[q], sizes[q], score, numbers[j])
                floors[q] = best[q, 0] - slack[q]


@kernel
def offer_found(
    found: Arrays, queries: Arrays, vectors: Arrays, first: Number, best: Arrays, rows: Arrays,
    sizes: Arrays,
) -> None:  # fmt: skip
    """Offer rows that were ``found``, (q, c) int64, -1 for none, of a segment from ``first`` on."""
    start = np.int64(vectors.ctypes.data)
    length = 4 * vectors.shape[1]
    for q in range(len(found)):
        size = sizes[q]
        for i in range(found.shape[1]):
            row = found[q, i]
            if i + AHEAD < found.shape[1] and found[q, i + AHEAD] >= 0:
                next_ = start + found[q, i + AHEAD] * length
                for at in range(next_, next_ + length, LINE):
                    _prefetch(at)
            if row >= 0:
                score = _product(queries[q], vectors[row])
                size = push(best[q], rows[q], size, score, first + row)
        sizes[q] = size
