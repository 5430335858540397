"""Compiled loops that read an FM-index: ranges, next tokens, exact top k.

Imported only when an index is asked (``rag.compiled``). ``files`` says what the arrays hold.

A level of the matrix is a run of blocks of eight words: one of counts, then 448 bits. One rank so
touches one cache line. Loops go level by level over many ranges, not range by range over levels,
so that their cache misses overlap.

What a damaged file holds may be anything, so a kernel never reads or writes outside its arrays: row
numbers are cut to the index's size, lists to their arrays, and ``DAMAGED`` says that it happened.
Numbers are uint64, for numba makes a float of a uint64 and an int64. The file is long because a
kernel calls only those of its own file, and all of these need ``_rank``.
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

GROUP = 128
"""N-grams whose ranges are narrowed together."""
TREE_BITS = 5
"""A leaf of the tree of bounds covers so many bits of a symbol."""
WIDE = 16_384
"""From so many rows on, the best next tokens are searched for, not chosen from all."""
LISTED = 8192
"""At most so many stored successors are all looked at."""
NAMED = 16
"""From so many rows on it is asked whether they are those of one symbol."""
MOST_NODES = 1 << 20
AHEAD = 12
"""Cache lines are asked for so many nodes before they are read."""
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
def _fetch(typing: Any, words: Any, at: Any) -> Any:
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
def _rank(words: Arrays, base: Number, at: Number) -> Number:
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
def _line(base: Number, at: Number) -> Number:
    """Where the block begins that ``_rank`` reads."""
    return base + ((at >> U6) // U7) * U8


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
def _symbol_of_rows(order: Arrays, spans: Arrays, low: Number, high: Number) -> Number:
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
                _fetch(words, _line(base, min(pending[i + AHEAD, 0], most)))
                _fetch(words, _line(base, min(pending[i + AHEAD, 1], most)))
            low, high = min(pending[i, 0], most), min(pending[i, 1], most)
            low1, high1 = _rank(words, base, low), _rank(words, base, high)
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
def _store(pending: Arrays, j: Number, size: Number, out: Arrays, i: Number) -> Number:
    """Put a grown range where it belongs, if it holds rows; False if it lies outside the index."""
    low, high = np.int64(pending[j, 0]), np.int64(pending[j, 1])
    if low < high:
        if low < 0 or high > size:
            return False
        out[i, 0], out[i, 1] = low, high
    return True


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


@kernel
def _spread(
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
                _fetch(words, _line(base, min(np.uint64(nodes[ahead]), most)))
                _fetch(words, _line(base, min(np.uint64(nodes[ahead + U1]), most)))
            low, high = min(np.uint64(nodes[at]), most), min(np.uint64(nodes[at + U1]), most)
            bits, owner = nodes[at + U2], nodes[at + U3]
            at += U4
            low1, high1 = _rank(words, base, low), _rank(words, base, high)
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
            listed[i] = _symbol_of_rows(order, spans, low, high)
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
        at, used = _spread(words, zeros, size, stride, nodes, capacity, used, 0)
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


@kernel
def _is_worse(score: Number, symbol: Number, other_score: Number, other_symbol: Number) -> Number:
    """Whether the first comes after the second: a lower score, or the same and a larger symbol."""
    return score < other_score or (score == other_score and symbol > other_symbol)


@kernel
def _offer(
    scores: Arrays,
    chosen: Arrays,
    used: Number,
    k: Number,
    score: Number,
    symbol: Number,
    low: Number,
    high: Number,
) -> Number:
    """Put a candidate among the best k; how many there are. ``scores`` is a heap, worst first."""
    if used == k:
        if not _is_worse(scores[0], chosen[0, 0], score, symbol):
            return used
        _sift(scores, chosen, used, score, symbol, low, high)
        return used
    at = used
    while at > 0:
        above = (at - 1) >> 1
        if not _is_worse(score, symbol, scores[above], chosen[above, 0]):
            break
        scores[at] = scores[above]
        chosen[at, 0], chosen[at, 1] = chosen[above, 0], chosen[above, 1]
        chosen[at, 2] = chosen[above, 2]
        at = above
    scores[at] = score
    chosen[at, 0], chosen[at, 1], chosen[at, 2] = symbol, low, high
    return used + 1


@kernel
def _sift(
    scores: Arrays,
    chosen: Arrays,
    used: Number,
    score: Number,
    symbol: Number,
    low: Number,
    high: Number,
) -> None:
    """Put a candidate in the place of the heap's worst."""
    at = 0
    while True:
        below = 2 * at + 1
        if below >= used:
            break
        if below + 1 < used and _is_worse(
            scores[below + 1], chosen[below + 1, 0], scores[below], chosen[below, 0]
        ):
            below += 1
        if not _is_worse(scores[below], chosen[below, 0], score, symbol):
            break
        scores[at] = scores[below]
        chosen[at, 0], chosen[at, 1] = chosen[below, 0], chosen[below, 1]
        chosen[at, 2] = chosen[below, 2]
        at = below
    scores[at] = score
    chosen[at, 0], chosen[at, 1], chosen[at, 2] = symbol, low, high


@kernel
def _bounds(
    bits: Arrays,
    alphabet: Arrays,
    leaf: Number,
    levels: Number,
    tree: Arrays,
    tree_bits: Arrays,
) -> None:
    """``tree[2^d + v]``: an upper bound of the scores of the symbols that begin with the d bits v.

    ``bits`` are the scores' bits as int32. Of floats below 0 the largest has the least bits, of
    the others the largest: two whole-number reductions, which the compiler makes vectors of; the
    result is written to ``tree_bits``, the same memory as ``tree``. Ids between those of a leaf's
    symbols count too, which keeps it a bound.
    """
    groups = 1 << (levels - leaf)
    symbols = len(alphabet)
    for group in range(groups):
        begin = max(1, group << leaf)
        end = min(symbols, (group + 1) << leaf)
        tree[groups + group] = -np.inf
        if begin < end:
            high = np.int32(-(2**31))
            low = np.int32(2**31 - 1)
            part = bits[np.int64(alphabet[begin]) : np.int64(alphabet[end - 1]) + 1]
            for i in range(len(part)):
                high = max(high, part[i])
                low = min(low, part[i])
            tree_bits[groups + group] = high if high >= 0 else low
            if np.isnan(tree[groups + group]):
                tree[groups + group] = np.inf
    for node in range(groups - 1, 0, -1):
        tree[node] = max(tree[2 * node], tree[2 * node + 1])


@kernel
def _push(
    keys: Arrays,
    heap: Arrays,
    used: Number,
    key: Number,
    begin: Number,
    low: Number,
    high: Number,
    node: Number,
    depth: Number,
) -> Number:
    """Put a node on the heap of bounds, best first, ties by its first symbol; the new size."""
    at = used
    while at > 0:
        above = (at - 1) >> 1
        if not _is_worse(keys[above], heap[above, 0], key, begin):
            break
        keys[at] = keys[above]
        for j in range(5):
            heap[at, j] = heap[above, j]
        at = above
    keys[at] = key
    heap[at, 0], heap[at, 1], heap[at, 2], heap[at, 3] = begin, low, high, node
    heap[at, 4] = depth
    return used + 1


@kernel
def _pop(keys: Arrays, heap: Arrays, used: Number) -> Number:
    """Take the best node off the heap of bounds; the new size."""
    used -= 1
    at = 0
    while True:
        below = 2 * at + 1
        if below >= used:
            break
        if below + 1 < used and _is_worse(
            keys[below], heap[below, 0], keys[below + 1], heap[below + 1, 0]
        ):
            below += 1
        if not _is_worse(keys[used], heap[used, 0], keys[below], heap[below, 0]):
            break
        keys[at] = keys[below]
        for j in range(5):
            heap[at, j] = heap[below, j]
        at = below
    keys[at] = keys[used]
    for j in range(5):
        heap[at, j] = heap[used, j]
    return used


@kernel
def _fill_leaf(
    log_probs: Arrays, alphabet: Arrays, begin: Number, leaf: Number, levels: Number, tree: Arrays
) -> None:
    """Below the tree's leaf that begins with the symbol ``begin``: exact scores, and their maxima.

    What is never returned has -inf: symbol 0, what is no symbol, and a score that is no number.
    """
    bottom = (1 << levels) + begin
    for i in range(1 << leaf):
        score = np.float32(-np.inf)
        if 0 < begin + i < len(alphabet):
            given = log_probs[alphabet[begin + i]]
            if given > score:  # noqa: PLR1730 (what max makes of a NaN is not defined)
                score = given
        tree[bottom + i] = score
    for up in range(1, leaf):
        first = bottom >> up
        for node in range(first, first + (1 << (leaf - up))):
            tree[node] = max(tree[2 * node], tree[2 * node + 1])


@kernel
def _search(
    words: Arrays,
    zeros: Arrays,
    leaves: Arrays,
    alphabet: Arrays,
    size: Number,
    stride: Number,
    low: Number,
    high: Number,
    log_probs: Arrays,
    tree: Arrays,
    leaf: Number,
    keys: Arrays,
    heap: Arrays,
    out_tokens: Arrays,
    out_scores: Arrays,
    out_ranges: Arrays,
) -> Number:
    """The best symbols of one wide range, written best first; how many there are.

    A node is a prefix of a symbol's bits and its rows. From the node with the largest bound the
    search goes down to the better child while no other node is better, and keeps the other child.
    """
    levels = len(zeros)
    most = np.uint64(size)
    used = 0
    open_nodes = 0
    if tree[1] > -np.inf:
        open_nodes = _push(keys, heap, 0, tree[1], 0, low, high, 1, 0)
    while open_nodes and used < len(out_tokens):
        begin, node, depth = heap[0, 0], heap[0, 3], heap[0, 4]
        a, b = np.uint64(heap[0, 1]), np.uint64(heap[0, 2])
        open_nodes = _pop(keys, heap, open_nodes)
        while True:
            if depth == levels:
                if begin >= len(alphabet):
                    return DAMAGED
                move = leaves[begin]
                out_tokens[used], out_scores[used] = alphabet[begin], tree[node]
                out_ranges[used, 0], out_ranges[used, 1] = np.int64(a) + move, np.int64(b) + move
                used += 1
                break
            if depth == levels - leaf:
                _fill_leaf(log_probs, alphabet, begin, leaf, levels, tree)
            base = np.uint64(depth * stride)
            zero = np.uint64(zeros[depth])
            a, b = min(a, most), min(b, most)
            a1, b1 = _rank(words, base, a), _rank(words, base, b)
            left, right = tree[2 * node], tree[2 * node + 1]
            has_left = b - b1 > a - a1 and left > -np.inf
            has_right = b1 > a1 and right > -np.inf
            middle = begin + (np.int64(1) << (levels - 1 - depth))
            node *= 2
            depth += 1
            if open_nodes + 2 > len(keys):
                return DAMAGED
            if has_right and (not has_left or right > left):
                if has_left:
                    open_nodes = _push(
                        keys, heap, open_nodes, left, begin, a - a1, b - b1, node, depth
                    )
                a, b, begin, node = zero + a1, zero + b1, middle, node + 1
            elif has_left:
                if has_right:
                    open_nodes = _push(
                        keys,
                        heap,
                        open_nodes,
                        right,
                        middle,
                        zero + a1,
                        zero + b1,
                        node + 1,
                        depth,
                    )
                a, b = a - a1, b - b1
            else:
                break
            key = tree[node]
            if open_nodes and _is_worse(key, begin, keys[0], heap[0, 0]):
                open_nodes = _push(keys, heap, open_nodes, key, begin, a, b, node, depth)
                break
    return used


@kernel
def _clear(used: Number, out_tokens: Arrays, out_scores: Arrays, out_ranges: Arrays) -> None:
    """-1, -inf and (0, 0) where there are no more tokens."""
    for j in range(used, len(out_tokens)):
        out_tokens[j], out_scores[j] = -1, -np.inf
        out_ranges[j, 0] = out_ranges[j, 1] = 0


@kernel
def _finish(
    scores: Arrays,
    chosen: Arrays,
    used: Number,
    alphabet: Arrays,
    out_tokens: Arrays,
    out_scores: Arrays,
    out_ranges: Arrays,
) -> None:
    """Write the chosen, best first."""
    _clear(used, out_tokens, out_scores, out_ranges)
    while used:
        used -= 1
        out_tokens[used] = alphabet[chosen[0, 0]]
        out_scores[used] = scores[0]
        out_ranges[used, 0], out_ranges[used, 1] = chosen[0, 1], chosen[0, 2]
        if used:
            _sift(
                scores,
                chosen,
                used,
                scores[used],
                chosen[used, 0],
                chosen[used, 1],
                chosen[used, 2],
            )


@kernel
def top_k(
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
    log_probs: Arrays,
    bits: Arrays,
    out_tokens: Arrays,
    out_scores: Arrays,
    out_ranges: Arrays,
) -> Number:
    """The k best next tokens of each range; ``bits`` is ``log_probs`` as int32.

    The rows of one symbol with not too many successors: all that are stored. Wide ranges:
    ``_search``. Narrow ones are spread to all their symbols, many ranges at once.
    """
    count, wanted = out_tokens.shape
    symbols = len(alphabet)
    levels = len(zeros)
    k = min(wanted, symbols)
    scores = np.empty(k + 1, np.float32)
    chosen = np.empty((k + 1, 3), np.int64)
    leaf = min(TREE_BITS, levels)
    tree_bits, keys = np.empty(0, np.int32), np.empty(0, np.float32)
    tree = tree_bits.view(np.float32)
    heap = np.empty((0, 5), np.int64)
    narrow = np.zeros(count, np.bool_)
    room = 1
    for i in range(count):
        low, high = ranges[i, 0], ranges[i, 1]
        if low < 0 or high > size or low > high:
            return BAD_RANGE
        width = high - low
        c = np.int64(-1)
        begin = end = np.int64(0)
        if width >= NAMED:
            c = _symbol_of_rows(order, spans, low, high)
            if c >= 0:
                begin = max(np.int64(0), spans[c, 2])
                end = min(np.int64(len(successor_rows)), spans[c, 3])
        used = 0
        if c >= 0 and end - begin <= LISTED and k:
            given = log_probs[i]
            worst = np.float32(-np.inf)
            for j in range(begin, end):
                symbol = successor_symbols[j]
                if symbol >= symbols:
                    return DAMAGED
                score = given[alphabet[symbol]]
                if score > worst:
                    used = _offer(
                        scores,
                        chosen,
                        used,
                        k,
                        score,
                        symbol,
                        successor_rows[j, 0],
                        successor_rows[j, 1],
                    )
                    if used == k:
                        worst = scores[0]
        elif width < WIDE:
            narrow[i] = width > 0
            room += min(width, symbols)
            if width:
                continue
        elif k:
            if len(tree) == 0:
                tree_bits = np.empty(2 << levels, np.int32)
                tree = tree_bits.view(np.float32)
                keys, heap = np.empty(symbols + 3, np.float32), np.empty((symbols + 3, 5), np.int64)
            _bounds(bits[i], alphabet, leaf, levels, tree, tree_bits)
            found = _search(
                words,
                zeros,
                leaves,
                alphabet,
                size,
                stride,
                low,
                high,
                log_probs[i],
                tree,
                leaf,
                keys,
                heap,
                out_tokens[i, :k],
                out_scores[i],
                out_ranges[i],
            )
            if found < 0:
                return DAMAGED
            _clear(found, out_tokens[i], out_scores[i], out_ranges[i])
            continue
        _finish(scores, chosen, used, alphabet, out_tokens[i], out_scores[i], out_ranges[i])

    nodes = np.empty(8 * (min(room, MOST_NODES + symbols) + 1), np.uint32)
    capacity = len(nodes) >> 3
    i = 0
    while i < count:
        group, filled, needed = i, 0, 0
        while i < count:
            if narrow[i]:
                width = min(ranges[i, 1] - ranges[i, 0], symbols)
                if needed and needed + width > capacity:
                    break
                nodes[4 * filled], nodes[4 * filled + 1] = ranges[i, 0], ranges[i, 1]
                nodes[4 * filled + 2], nodes[4 * filled + 3] = 0, i
                needed += width
                filled += 1
            i += 1
        at, found = _spread(words, zeros, size, stride, nodes, capacity, filled, 0)
        if found < 0:
            return DAMAGED
        stop = at + 4 * found
        for owner in range(group, i):
            if not narrow[owner]:
                continue
            used = 0
            given = log_probs[owner]
            worst = np.float32(-np.inf)
            while at < stop and nodes[at + 3] == owner:
                symbol = nodes[at + 2]
                if symbol >= symbols:
                    return DAMAGED
                if symbol and k:
                    score = given[alphabet[symbol]]
                    if score > worst:
                        move = leaves[symbol]
                        used = _offer(
                            scores,
                            chosen,
                            used,
                            k,
                            score,
                            symbol,
                            nodes[at] + move,
                            nodes[at + 1] + move,
                        )
                        if used == k:
                            worst = scores[0]
                at += 4
            _finish(
                scores,
                chosen,
                used,
                alphabet,
                out_tokens[owner],
                out_scores[owner],
                out_ranges[owner],
            )
    return 0
