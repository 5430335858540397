"""Compiled loops that list the tokens that follow n-grams (see ``_kernels_rank``)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.compiled import kernel
from rag.indexers.fm_index._kernels_rank import (
    AHEAD,
    BAD_RANGE,
    DAMAGED,
    MOST_NODES,
    NAMED,
    U1,
    U2,
    U3,
    U4,
    fetch,
    line,
    rank,
)

Arrays: TypeAlias = NDArray[Any]
Number: TypeAlias = Any
"""A scalar; numba gives it its machine type."""


@kernel
def symbol_of_rows(order: Arrays, spans: Arrays, low: Number, high: Number) -> Number:
    """The symbol whose rows are exactly ``low .. high``, else -1."""
    left, right = 0, len(order)
    while left < right:
        middle = (left + right) >> 1
        symbol = order[middle]
        if symbol < 0 or symbol >= len(spans):
            return -1
        if spans[symbol, 1] < high:
            left = middle + 1
        else:
            right = middle
    if left < len(order):
        symbol = order[left]
        if 0 <= symbol < len(spans) and spans[symbol, 0] == low and spans[symbol, 1] == high:
            return np.int64(symbol)
    return -1


@kernel
def spread(
    words: Arrays,
    zeros: Arrays,
    size: Number,
    stride: Number,
    nodes: Arrays,
    room: Number,
    used: Number,
    level: Number,
) -> tuple[Number, Number]:
    """Split ``nodes`` from ``level`` down to symbols: where they lie then, and how many.

    A node is four uint32: low, high, the bits so far, its owner; ``nodes`` has twice ``room`` of
    them, source and target in turn. The order holds: by owner, then by symbol.
    """
    most = np.uint64(size)
    source, target = np.uint64(0), np.uint64(4 * room)
    for depth in range(level, len(zeros)):
        base = np.uint64(depth * stride)
        zero = np.uint64(zeros[depth])
        out, end = target, target + np.uint64(4 * (room - 1))
        at, stop = source, source + np.uint64(4 * used)
        while at < stop:
            if out > end:
                return 0, DAMAGED
            ahead = at + np.uint64(4 * AHEAD)
            if ahead < stop:
                fetch(words, line(base, min(np.uint64(nodes[ahead]), most)))
                fetch(words, line(base, min(np.uint64(nodes[ahead + U1]), most)))
            low, high = min(np.uint64(nodes[at]), most), min(np.uint64(nodes[at + U1]), most)
            bits, owner = nodes[at + U2], nodes[at + U3]
            at += U4
            low1, high1 = rank(words, base, low), rank(words, base, high)
            low0, high0 = low - low1, high - high1
            # Both children are written, the pointer moves over those that have rows: no branch.
            nodes[out], nodes[out + U1] = low0, high0
            nodes[out + U2], nodes[out + U3] = bits << 1, owner
            out += U4 * np.uint64(high0 > low0)
            if out > end:
                if high1 > low1:
                    return 0, DAMAGED
                continue
            nodes[out], nodes[out + U1] = zero + low1, zero + high1
            nodes[out + U2], nodes[out + U3] = (bits << 1) | 1, owner
            out += U4 * np.uint64(high1 > low1)
        used = np.int64((out - target) >> U2)
        source, target = target, source
    return np.int64(source), used


@kernel
def successors(
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
    ranges: Arrays,
    offsets: Arrays,
) -> tuple[Arrays, Arrays, Arrays]:
    """All next tokens of many ranges: ids, counts and row ranges, end to end; fills ``offsets``.

    ``offsets[0]`` is ``DAMAGED`` or ``BAD_RANGE`` where there is no answer.
    """
    count = len(ranges)
    symbols = len(alphabet)
    room = 1
    total = 0
    listed = np.full(count, -1, np.int64)
    for i in range(count):
        low, high = ranges[i, 0], ranges[i, 1]
        if low < 0 or high > size or low > high:
            offsets[0] = BAD_RANGE
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 2), np.int64)
        width = min(high - low, symbols)
        if high - low >= NAMED:
            listed[i] = symbol_of_rows(order, spans, low, high)
        if listed[i] >= 0:
            c = listed[i]
            begin = max(np.int64(0), spans[c, 2])
            width = max(np.int64(0), min(np.int64(len(successor_rows)), spans[c, 3]) - begin)
        else:
            room += width
        total += width
    tokens, counts = np.empty(total, np.int64), np.empty(total, np.int64)
    found = np.empty((total, 2), np.int64)

    nodes = np.empty(8 * (min(room, MOST_NODES + symbols) + 1), np.uint32)
    capacity = len(nodes) >> 3
    written = 0
    i = 0
    while i < count:
        # As many ranges together as there is room for; a listed one needs none.
        begin, used, needed = i, 0, 0
        while i < count:
            width = min(ranges[i, 1] - ranges[i, 0], symbols)
            if listed[i] < 0 and width > 0:
                if needed and needed + width > capacity:
                    break
                nodes[4 * used], nodes[4 * used + 1] = ranges[i, 0], ranges[i, 1]
                nodes[4 * used + 2], nodes[4 * used + 3] = 0, i
                needed += width
                used += 1
            i += 1
        at, used = spread(words, zeros, size, stride, nodes, capacity, used, 0)
        if used < 0:
            offsets[0] = DAMAGED
            return tokens[:0], counts[:0], found[:0]
        stop = at + 4 * used
        for owner in range(begin, i):
            offsets[owner] = written
            c = listed[owner]
            if c >= 0:
                first = max(np.int64(0), spans[c, 2])
                last = min(np.int64(len(successor_rows)), spans[c, 3])
                for j in range(first, last):
                    if successor_symbols[j] >= symbols:
                        offsets[0] = DAMAGED
                        return tokens[:0], counts[:0], found[:0]
                    low, high = np.int64(successor_rows[j, 0]), np.int64(successor_rows[j, 1])
                    tokens[written] = alphabet[successor_symbols[j]]
                    counts[written] = high - low
                    found[written, 0], found[written, 1] = low, high
                    written += 1
                continue
            while at < stop and nodes[at + 3] == owner:
                symbol = nodes[at + 2]
                if symbol >= symbols or written >= total:
                    offsets[0] = DAMAGED
                    return tokens[:0], counts[:0], found[:0]
                if symbol:
                    move = leaves[symbol]
                    low, high = np.int64(nodes[at]) + move, np.int64(nodes[at + 1]) + move
                    tokens[written] = alphabet[symbol]
                    counts[written] = high - low
                    found[written, 0], found[written, 1] = low, high
                    written += 1
                at += 4
    offsets[count] = written
    return tokens[:written], counts[:written], found[:written]
