"""The compiled best-first search for the best next tokens of a wide range (see ``_kernels_rank``).

Exact: a tree of upper bounds over the symbols says where the best may lie.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.compiled import kernel
from rag.indexers.fm_index._kernels_rank import DAMAGED, rank

Arrays: TypeAlias = NDArray[Any]
Number: TypeAlias = Any
"""A scalar; numba gives it its machine type."""


@kernel
def is_worse(score: Number, symbol: Number, other_score: Number, other_symbol: Number) -> Number:
    """Whether the first comes after the second: a lower score, or the same and a larger symbol."""
    return score < other_score or (score == other_score and symbol > other_symbol)


@kernel
def bounds(
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
        if not is_worse(keys[above], heap[above, 0], key, begin):
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
        if below + 1 < used and is_worse(
            keys[below], heap[below, 0], keys[below + 1], heap[below + 1, 0]
        ):
            below += 1
        if not is_worse(keys[used], heap[used, 0], keys[below], heap[below, 0]):
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
def search(
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
            a1, b1 = rank(words, base, a), rank(words, base, b)
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
            if open_nodes and is_worse(key, begin, keys[0], heap[0, 0]):
                open_nodes = _push(keys, heap, open_nodes, key, begin, a, b, node, depth)
                break
    return used
