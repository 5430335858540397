"""Compiled loops that find the rows of n-grams in an FM-index (see ``_kernels_rank``)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.compiled import kernel
from rag.indexers.fm_index._kernels_rank import (
    AHEAD,
    BAD_OFFSETS,
    BAD_RANGE,
    DAMAGED,
    U1,
    fetch,
    line,
    rank,
)

Arrays: TypeAlias = NDArray[Any]
Number: TypeAlias = Any
"""A scalar; numba gives it its machine type."""

GROUP = 128
"""N-grams whose ranges are narrowed together."""


@kernel
def _symbol(alphabet: Arrays, token: Number) -> Number:
    """The symbol of a token id; 0 where it does not occur."""
    low, high = 1, len(alphabet)
    while low < high:
        middle = (low + high) >> 1
        if alphabet[middle] < token:
            low = middle + 1
        else:
            high = middle
    return low if low < len(alphabet) and alphabet[low] == token else 0


@kernel
def _successor(successors: Arrays, begin: Number, end: Number, symbol: Number) -> Number:
    """Where ``symbol`` stands in ``begin .. end`` of the successors, else -1."""
    low, high = begin, end
    while low < high:
        middle = (low + high) >> 1
        if successors[middle] < symbol:
            low = middle + 1
        else:
            high = middle
    return low if low < end and successors[low] == symbol else -1


@kernel
def _narrow(
    words: Arrays,
    zeros: Arrays,
    leaves: Arrays,
    size: Number,
    stride: Number,
    pending: Arrays,
    used: Number,
) -> None:
    """Grow ``pending[:used]``, rows of (low, high, symbol), by their symbols."""
    levels = len(zeros)
    most = np.uint64(size)
    for level in range(levels):
        base = np.uint64(level * stride)
        zero = np.uint64(zeros[level])
        shift = np.uint64(levels - 1 - level)
        for i in range(used):
            if i + AHEAD < used:
                fetch(words, line(base, min(pending[i + AHEAD, 0], most)))
                fetch(words, line(base, min(pending[i + AHEAD, 1], most)))
            low, high = min(pending[i, 0], most), min(pending[i, 1], most)
            low1, high1 = rank(words, base, low), rank(words, base, high)
            if (pending[i, 2] >> shift) & U1:
                pending[i, 0], pending[i, 1] = zero + low1, zero + high1
            else:
                pending[i, 0], pending[i, 1] = low - low1, high - high1
    for i in range(used):
        if pending[i, 0] < pending[i, 1]:
            move = np.uint64(leaves[np.int64(pending[i, 2])])
            pending[i, 0] += move
            pending[i, 1] += move


@kernel
def _store(pending: Arrays, j: Number, size: Number, out: Arrays, i: Number) -> Number:
    """Put a grown range where it belongs, if it holds rows; False if it lies outside the index."""
    low, high = np.int64(pending[j, 0]), np.int64(pending[j, 1])
    if low < high:
        if low < 0 or high > size:
            return False
        out[i, 0], out[i, 1] = low, high
    return True


@kernel
def extend(
    words: Arrays,
    zeros: Arrays,
    leaves: Arrays,
    alphabet: Arrays,
    size: Number,
    stride: Number,
    ranges: Arrays,
    tokens: Arrays,
    out: Arrays,
) -> Number:
    """``out[i]`` the rows of ``ranges[i]``'s n-gram with ``tokens[i]`` after it, (0, 0) if none."""
    pending = np.empty((GROUP, 3), np.uint64)
    owners = np.empty(GROUP, np.int64)
    for begin in range(0, len(ranges), GROUP):
        used = 0
        for i in range(begin, min(begin + GROUP, len(ranges))):
            low, high = ranges[i, 0], ranges[i, 1]
            if low < 0 or high > size or low > high:
                return BAD_RANGE
            out[i, 0] = out[i, 1] = 0
            symbol = _symbol(alphabet, tokens[i]) if low < high else 0
            if symbol:
                pending[used, 0], pending[used, 1], pending[used, 2] = low, high, symbol
                owners[used] = i
                used += 1
        _narrow(words, zeros, leaves, size, stride, pending, used)
        for j in range(used):
            if not _store(pending, j, size, out, owners[j]):
                return DAMAGED
    return 0


@kernel
def find(
    words: Arrays,
    zeros: Arrays,
    leaves: Arrays,
    alphabet: Arrays,
    order: Arrays,
    spans: Arrays,
    successor_symbols: Arrays,
    successor_rows: Arrays,
    size: Number,
    stride: Number,
    offsets: Arrays,
    tokens: Arrays,
    out: Arrays,
) -> Number:
    """``out[i]`` the rows of the n-gram ``tokens[offsets[i] : offsets[i + 1]]``, (0, 0) if none.

    The first two tokens are looked up, in ``spans`` and in the table of successors.
    """
    pending = np.empty((GROUP, 3), np.uint64)
    owners = np.empty(GROUP, np.int64)
    count = len(offsets) - 1
    for begin in range(0, count, GROUP):
        end = min(begin + GROUP, count)
        longest = 0
        for i in range(begin, end):
            length = offsets[i + 1] - offsets[i]
            if length < 0 or offsets[i] < 0 or offsets[i + 1] > len(tokens):
                return BAD_OFFSETS
            longest = max(longest, length)
            out[i, 0], out[i, 1] = 0, size
            if length == 0:
                continue
            out[i, 1] = 0
            symbol = _symbol(alphabet, tokens[offsets[i]])
            if symbol == 0:
                continue
            if length == 1:
                low, high = spans[symbol, 0], spans[symbol, 1]
            else:
                after = _symbol(alphabet, tokens[offsets[i] + 1])
                first = max(np.int64(0), spans[symbol, 2])
                last = min(np.int64(len(successor_rows)), spans[symbol, 3])
                at = _successor(successor_symbols, first, last, after)
                if after == 0 or at < 0:
                    continue
                low, high = np.int64(successor_rows[at, 0]), np.int64(successor_rows[at, 1])
            if low < 0 or high > size or low > high:
                return DAMAGED
            out[i, 0], out[i, 1] = low, high
        for step in range(2, longest):
            used = 0
            for i in range(begin, end):
                at = offsets[i] + step
                low, high = out[i, 0], out[i, 1]
                if at >= offsets[i + 1] or low >= high:
                    continue
                out[i, 0] = out[i, 1] = 0
                symbol = _symbol(alphabet, tokens[at])
                if symbol:
                    pending[used, 0], pending[used, 1], pending[used, 2] = low, high, symbol
                    owners[used] = i
                    used += 1
            if used == 0:
                break
            _narrow(words, zeros, leaves, size, stride, pending, used)
            for j in range(used):
                if not _store(pending, j, size, out, owners[j]):
                    return DAMAGED
    return 0
