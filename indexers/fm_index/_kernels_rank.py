"""The compiled rank of a wavelet matrix, on which all that reads an FM-index rests.

Imported only when an index is asked (``rag.compiled``). ``files`` says what the arrays hold.

A level of the matrix is a run of blocks of eight words: one of counts, then 448 bits. One rank so
touches one cache line. Loops go level by level over many ranges, not range by range over levels,
so that their cache misses overlap.

What a damaged file holds may be anything, so a kernel never reads or writes outside its arrays: row
numbers are cut to the index's size, lists to their arrays, and ``DAMAGED`` says that it happened.
Numbers are uint64, for numba makes a float of a uint64 and an int64.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from rag.compiled import kernel

Arrays: TypeAlias = NDArray[Any]
Number: TypeAlias = Any
"""A scalar; numba gives it its machine type."""

AHEAD = 12
"""Cache lines are asked for so many nodes before they are read."""
NAMED = 16
"""From so many rows on it is asked whether they are those of one symbol."""
MOST_NODES = 1 << 20
DAMAGED = -1
BAD_RANGE = -2
BAD_OFFSETS = -3

U0, U1, U2, U3, U4, U6, U7, U8 = (np.uint64(i) for i in (0, 1, 2, 3, 4, 6, 7, 8))
U10, U32, U63 = (np.uint64(i) for i in (10, 32, 63))
LOW = np.uint64(0xFFFFFFFF)
TEN = np.uint64(1023)


@intrinsic
def _ones(typing: Any, word: Any) -> Any:
    """How many bits of a uint64 are set, by the machine's instruction."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.ctpop(values[0])

    return types.uint64(types.uint64), code


@intrinsic
def fetch(typing: Any, words: Any, at: Any) -> Any:
    """Ask for the cache line of ``words[at]`` without waiting; a wrong address does no harm."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = context.make_array(signature.args[0])(context, builder, values[0])
        pointer = builder.gep(place.data, [values[1]])
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, *[ir.IntType(32)] * 3])
        call = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        builder.call(call, [pointer, *(ir.IntType(32)(i) for i in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(words, types.uint64), code


@kernel
def rank(words: Arrays, base: Number, at: Number) -> Number:
    """The ones before bit ``at`` of the level that begins at ``words[base]``; all uint64."""
    word = at >> U6
    block = word // U7
    word -= block * U7
    head_at = base + block * U8
    head = words[head_at]
    inside = (U1 << (at & U63)) - U1
    whole = U0 - (word & U1)  # all bits, where the first word of the pair lies before ``at``
    pair = word & ~U1
    first = head_at + U1 + pair
    before = (((head >> U32) << U10) >> ((pair >> U1) * U10)) & TEN
    return (
        (head & LOW)
        + before
        + _ones(words[first] & (inside | whole))
        + _ones(words[first + U1] & inside & whole)
    )


@kernel
def line(base: Number, at: Number) -> Number:
    """Where the block begins that ``rank`` reads."""
    return base + ((at >> U6) // U7) * U8
