"""Compiled loops that build an FM-index: alphabet, text, rows, wavelet matrix, successors.

Imported only when an index is built (``rag.compiled``). ``files`` says what the arrays hold; the
bits of one level of the matrix lie in blocks as ``_kernels`` reads them.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from rag.compiled import kernel

Arrays: TypeAlias = NDArray[Any]
Number: TypeAlias = Any
"""A scalar; numba gives it its machine type."""

BLOCK = 448
"""Bits of a block: seven words of 64, after one word of counts."""
ONE = np.uint64(1)


@intrinsic
def _ones(typing: Any, word: Any) -> Any:
    """How many bits of a uint64 are set, by the machine's instruction; numpy has none here."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.ctpop(values[0])

    return types.int64(types.uint64), code


@kernel
def mark_ids(tokens: Arrays, seen: Arrays) -> None:
    """Set bit ``id & 63`` of ``seen[id >> 6]`` for each id of ``tokens``."""
    for i in range(len(tokens)):
        token = np.int64(tokens[i])
        seen[token >> 6] |= ONE << np.uint64(token & 63)


@kernel
def list_ids(seen: Arrays, before: Arrays, out: Arrays) -> Number:
    """The ids marked in ``seen``, ascending, into ``out``; ``before[w]``: marks before word w.

    Returns how many there are, also where ``out`` is too short for them (it may be empty).
    """
    found = 0
    for w in range(len(seen)):
        before[w] = found
        word = seen[w]
        while word != np.uint64(0):
            if found < len(out):
                bit = 0
                while not (word >> np.uint64(bit)) & ONE:
                    bit += 1
                out[found] = w * 64 + bit
            found += 1
            word &= word - ONE
    return found


@kernel
def fill_text(
    tokens: Arrays, lengths: Arrays, seen: Arrays, before: Arrays, text: Arrays, counts: Arrays
) -> None:
    """Write ``text``: for each document a 0 and then its tokens as symbols; count the symbols.

    The symbol of an id is 1 + the number of smaller ids that occur: a rank in the bits ``seen``.
    """
    source, target = 0, 0
    for document in range(len(lengths)):
        text[target] = 0
        target += 1
        for _ in range(lengths[document]):
            token = np.int64(tokens[source])
            below = seen[token >> 6] & ((ONE << np.uint64(token & 63)) - ONE)
            symbol = np.int64(before[token >> 6]) + 1 + _ones(below)
            text[target] = symbol
            counts[symbol] += 1
            source += 1
            target += 1
    counts[0] += len(lengths)


@kernel
def write_codes(text: Arrays, codes: Arrays, widths: Arrays, out: Arrays, starts: Arrays) -> None:
    """The codes of the symbols from last to first, each of its width, the highest byte first.

    ``starts`` has a pair of uint32 for 32 bytes of ``out``: the codes that begin before them, and
    a bit for each byte that begins a code.
    """
    at: Number = 0
    for i in range(len(text) - 1, -1, -1):
        symbol = text[i]
        code, width = np.int64(codes[symbol]), np.int64(widths[symbol])
        starts[at >> 5, 1] |= np.uint32(1 << (at & 31))
        for b in range(width):
            out[at + b] = (code >> (8 * (width - 1 - b))) & 255
        at += width
    total = 0
    for i in range(len(starts)):
        starts[i, 0] = total
        total += _ones(np.uint64(starts[i, 1]))


@kernel
def keep_symbols(suffixes: Arrays, starts: Arrays, size: Number) -> Number:
    """Of the sorted suffixes of ``write_codes`` keep those at a code; how many there are.

    They move to the front, as the text's position of their first symbol.
    """
    kept: Number = 0
    for i in range(len(suffixes)):
        at = np.int64(suffixes[i])
        word = np.uint64(starts[at >> 5, 1])
        bit = np.uint64(at & 31)
        before = np.int64(starts[at >> 5, 0]) + _ones(word & ((ONE << bit) - ONE))
        suffixes[kept] = size - 1 - before  # no branch: what is not kept is written over
        kept += np.int64((word >> bit) & ONE)
    return kept


@kernel
def next_symbols(text: Arrays, positions: Arrays, out: Arrays) -> None:
    """The symbol after each row's position; after the last of all comes a document's end, 0."""
    size = len(text)
    for row in range(size):
        after = np.int64(positions[row]) + 1
        out[row] = text[after] if after < size else 0


@kernel
def fill_successors(
    bwt: Arrays, order: Arrays, spans: Arrays, symbols: Arrays, rows: Arrays
) -> Number:
    """The table of what follows one symbol, and where each symbol's part is; its length.

    A pass over ``bwt`` in the order of rows: the rows of "c v" begin at the first of v + how often
    v stood in ``bwt`` before the rows of c.
    """
    size = len(order)
    seen = np.zeros(size, np.int64)
    inside = np.zeros(size, np.int64)
    filled = 0
    for rank in range(size):
        c = order[rank]
        begin = filled
        for row in range(spans[c, 0], spans[c, 1]):
            v = bwt[row]
            if v == 0:
                continue
            if inside[v] == 0:
                symbols[filled] = v
                filled += 1
            inside[v] += 1
        found = filled - begin
        if found > 1 and found * 8 > size:  # a scan of the alphabet is cheaper than sorting
            at = begin
            for v in range(1, size):
                if inside[v]:
                    symbols[at] = v
                    at += 1
        elif found > 1:
            symbols[begin:filled].sort()
        for at in range(begin, filled):
            v = symbols[at]
            row = spans[v, 0] + seen[v]
            rows[at, 0], rows[at, 1] = row, row + inside[v]
            seen[v] += inside[v]
            inside[v] = 0
        spans[c, 2], spans[c, 3] = begin, filled
    return filled


@kernel
def _count_ones(words: Arrays, size: Number) -> None:
    """Write the counts of blocks whose ``size`` bits are set, as ``_split`` does."""
    ones = 0
    for block in range(size // BLOCK + 1):
        head, inside = np.uint64(ones), 0
        for w in range(7):
            if w == 2 or w == 4 or w == 6:
                head |= np.uint64(inside) << np.uint64(22 + 5 * w)
            inside += _ones(words[8 * block + 1 + w])
        words[8 * block] = head
        ones += inside


@kernel
def _split(
    source: Arrays, target: Arrays, shift: Number, zeros: Number, words: Arrays, base: Number
) -> None:
    """One level: the bits ``shift`` of ``source``, and ``target``: those with 0, then with 1.

    The first word of a block has in its low half the ones before the block, and above it, in ten
    bits each, the ones before the block's third, fifth and seventh word.
    """
    size = len(source)
    shift = np.uint64(shift)
    at0, at1 = np.uint64(0), np.uint64(zeros)  # unsigned: indices are then not looked at
    ones = np.uint64(0)
    for block in range(size // BLOCK + 1):
        at = np.uint64(base + 8 * block)
        head, inside = ones, np.uint64(0)
        for w in range(7):
            if w == 2 or w == 4 or w == 6:
                head |= inside << np.uint64(22 + 5 * w)
            begin = min(size, block * BLOCK + w * 64)
            stop = min(size, begin + 64)
            word, place = np.uint64(0), np.uint64(0)
            for i in range(np.uint64(begin), np.uint64(stop)):
                symbol = source[i]
                bit = (np.uint64(symbol) >> shift) & ONE
                word |= bit << place
                place += ONE
                target[at1 if bit else at0] = symbol
                at1 += bit
                at0 += ONE - bit
            inside += np.uint64(_ones(word))
            words[at + np.uint64(1 + w)] = word
        words[at] = head
        ones += inside


@kernel
def fill_matrix(bwt: Arrays, spare: Arrays, levels: Number, zeros: Arrays, words: Arrays) -> None:
    """The wavelet matrix of ``bwt``, which is used up, as ``spare`` is; ``zeros`` are given."""
    stride = 8 * (len(bwt) // BLOCK + 1)
    for level in range(levels):
        shift = levels - 1 - level
        if level % 2 == 0:
            _split(bwt, spare, shift, zeros[level], words, level * stride)
        else:
            _split(spare, bwt, shift, zeros[level], words, level * stride)


@kernel
def fill_samples(
    positions: Arrays, text: Arrays, step: Number, words: Arrays, samples: Arrays
) -> Number:
    """Mark the rows whose position is a multiple of ``step`` or a document's last; how many.

    ``words`` are blocks as those of a level, ``samples`` the marked rows' positions in order (it
    may be empty, to count only). From a row without mark, the next token is never an end.
    """
    size = len(positions)
    found = 0
    for row in range(size):
        at = np.int64(positions[row])
        if at % step == 0 or at + 1 == size or text[at + 1] == 0:
            if found < len(samples):
                samples[found] = at
                block = row // BLOCK
                bit = row - block * BLOCK
                words[8 * block + 1 + (bit >> 6)] |= ONE << np.uint64(bit & 63)
            found += 1
    if len(samples):
        _count_ones(words, size)
    return found
