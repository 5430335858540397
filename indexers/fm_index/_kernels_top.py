"""Compiled loops that choose the k best next tokens of ranges (see ``_kernels_rank``)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.compiled import kernel
from rag.indexers.fm_index._kernels_best import bounds, is_worse, search
from rag.indexers.fm_index._kernels_next import spread, symbol_of_rows
from rag.indexers.fm_index._kernels_rank import BAD_RANGE, DAMAGED, MOST_NODES, NAMED

Arrays: TypeAlias = NDArray[Any]
Number: TypeAlias = Any
"""A scalar; numba gives it its machine type."""

TREE_BITS = 5
"""A leaf of the tree of bounds covers so many bits of a symbol."""
WIDE = 16_384
"""From so many rows on, the best next tokens are searched for, not chosen from all."""
LISTED = 8192
"""At most so many stored successors are all looked at."""


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
        if not is_worse(scores[0], chosen[0, 0], score, symbol):
            return used
        _sift(scores, chosen, used, score, symbol, low, high)
        return used
    at = used
    while at > 0:
        above = (at - 1) >> 1
        if not is_worse(score, symbol, scores[above], chosen[above, 0]):
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
        if below + 1 < used and is_worse(
            scores[below + 1], chosen[below + 1, 0], scores[below], chosen[below, 0]
        ):
            below += 1
        if not is_worse(scores[below], chosen[below, 0], score, symbol):
            break
        scores[at] = scores[below]
        chosen[at, 0], chosen[at, 1] = chosen[below, 0], chosen[below, 1]
        chosen[at, 2] = chosen[below, 2]
        at = below
    scores[at] = score
    chosen[at, 0], chosen[at, 1], chosen[at, 2] = symbol, low, high


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
    ``search``. Narrow ones are spread to all their symbols, many ranges at once.
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
            c = symbol_of_rows(order, spans, low, high)
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
            bounds(bits[i], alphabet, leaf, levels, tree, tree_bits)
            found = search(
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
        at, found = spread(words, zeros, size, stride, nodes, capacity, filled, 0)
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
