"""Compiled loops that make an index: tokens from text, postings from tokens, bounds of blocks.

Imported only when one is needed (``rag.compiled``). The searching half is ``_kernels_terms``,
``_kernels_kept`` and ``_kernels_search``.
Passing an array counts a reference, an atomic operation: no kernel is called for each byte with
arrays, and loops do not rebind the arrays that they use.
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
BLOCK_BITS = 7
ESCAPE = 15
FNV = np.uint64(1099511628211)
FNV_START = np.uint64(14695981039346656037)
MIX = np.uint64(0x9E3779B97F4A7C15)


@kernel
def _decode(data: Arrays, at: Number, stop: Number) -> tuple[Number, Number]:
    """The code point at ``data[at]`` and its size in bytes; U+FFFD where bytes are missing."""
    lead = np.int64(data[at])
    if lead < 0x80:
        return lead, 1
    size = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    if at + size > stop:
        return 0xFFFD, stop - at
    point = lead & (0x7F >> size)
    for i in range(1, size):
        point = (point << 6) | (np.int64(data[at + i]) & 0x3F)
    return (point if point < 0x110000 else 0xFFFD), size


@kernel
def _encode(point: Number, out: Arrays, at: Number) -> Number:
    """Write the UTF-8 of ``point`` to ``out[at:]``; the position after it."""
    if point < 0x80:
        out[at] = point
        return at + 1
    if point < 0x800:
        out[at] = 0xC0 | (point >> 6)
        out[at + 1] = 0x80 | (point & 0x3F)
        return at + 2
    if point < 0x10000:
        out[at] = 0xE0 | (point >> 12)
        out[at + 1] = 0x80 | ((point >> 6) & 0x3F)
        out[at + 2] = 0x80 | (point & 0x3F)
        return at + 3
    out[at] = 0xF0 | (point >> 18)
    out[at + 1] = 0x80 | ((point >> 12) & 0x3F)
    out[at + 2] = 0x80 | ((point >> 6) & 0x3F)
    out[at + 3] = 0x80 | (point & 0x3F)
    return at + 4


@kernel
def _final(
    data: Arrays, start: Number, at: Number, stop: Number, pages: Arrays, flags: Arrays
) -> bool:
    """Unicode's Final_Sigma for the sigma at ``data[at]``, a character of two bytes.

    A cased character stands before it and none after it, looking past case-ignorable ones.
    """
    kind = 0
    i = at
    while i > start:
        i -= 1
        while i > start and data[i] & 0xC0 == 0x80:
            i -= 1
        point, _ = _decode(data, i, stop)
        kind = flags[pages[point >> 8], point & 255]
        if not kind & 4:
            break
    if not kind & 2:
        return False
    i = at + 2
    while i < stop:
        point, size = _decode(data, i, stop)
        kind = flags[pages[point >> 8], point & 255]
        if not kind & 4:
            return not kind & 2
        i += size
    return True


@kernel
def _grown(array: Arrays, size: Number) -> Arrays:
    """A copy of ``array`` with room for ``size`` values at least."""
    out = np.empty(max(size, 2 * len(array)), array.dtype)
    for i in range(len(array)):  # a slice would compile numpy's error messages too, for seconds
        out[i] = array[i]
    return out


@kernel
def _rehash(hashes: Arrays, count: Number, most: Number) -> Arrays:
    """A hash table with room for ``most`` terms: slots of term id + 1, 0 where free."""
    size = 1024
    while size < 4 * most:
        size *= 2
    slots = np.zeros(size, np.int32)
    for term in range(count):
        at = np.int64(hashes[term] & np.uint64(size - 1))
        while slots[at]:
            at = (at + 1) & (size - 1)
        slots[at] = term + 1
    return slots


@kernel
def _find(
    slots: Arrays,
    hashes: Arrays,
    ends: Arrays,
    buffer: Arrays,
    tail: Number,
    stop: Number,
    code: Number,
) -> Number:
    """The slot of the term ``buffer[tail:stop]``, or the free slot where it belongs."""
    mask = len(slots) - 1
    at = np.int64(code & np.uint64(mask))
    while slots[at]:
        term = slots[at] - 1
        start = ends[term]
        if hashes[term] == code and ends[term + 1] - start == stop - tail:
            same = True
            for i in range(stop - tail):
                if buffer[start + i] != buffer[tail + i]:
                    same = False
                    break
            if same:
                break
        at = (at + 1) & mask
    return at


@kernel
def _row(
    data: Arrays,
    start: Number,
    stop: Number,
    fold: Arrays,
    delta_pages: Arrays,
    deltas: Arrays,
    flag_pages: Arrays,
    flags: Arrays,
    slots: Arrays,
    hashes: Arrays,
    ends: Arrays,
    buffer: Arrays,
    terms: Number,
    ids: Arrays,
    count: Number,
) -> tuple[Number, Number]:
    """Tokenize ``data[start:stop]`` for ``tokenize``, whose arrays have room enough.

    A token's lower case is written behind the last term's text, and stays there if it is new.
    Returns how many terms and tokens there are then.
    """
    tail: Number = ends[terms]
    at, write, chars, code = start, tail, 0, FNV_START
    ended = False
    while not ended:
        if at >= stop:
            ended = True
        elif data[at] < 128:
            lower = fold[data[at]]
            at += 1
            if lower:
                buffer[write] = lower
                write += 1
                chars += 1
                code = (code ^ np.uint64(lower)) * FNV
                continue
        else:
            point, size = _decode(data, at, stop)
            before = write
            if point == 0x130:  # its lower case is "i" and a mark that is no word character
                write = _encode(105, buffer, write)
            else:
                if point == 0x3A3:
                    final = _final(data, start, at, stop, flag_pages, flags)
                    point = np.int64(0x3C2 if final else 0x3C3)
                else:
                    point += deltas[delta_pages[point >> 8], point & 255]
                if flags[flag_pages[point >> 8], point & 255] & 1:
                    write = _encode(point, buffer, write)
            at += size
            chars += write > before
            for i in range(before, write):
                code = (code ^ np.uint64(buffer[i])) * FNV
            if write > before and point != 0x130:
                continue
        if chars >= 2:
            code = (code ^ (code >> np.uint64(32))) * MIX
            code ^= code >> np.uint64(29)
            slot = _find(slots, hashes, ends, buffer, tail, write, code)
            if slots[slot] == 0:
                hashes[terms] = code
                terms += 1
                ends[terms] = tail = write
                slots[slot] = terms
            ids[count] = slots[slot] - 1
            count += 1
        write, chars, code = tail, 0, FNV_START
    return terms, count


@kernel
def tokenize(
    offsets: Arrays,
    data: Arrays,
    fold: Arrays,
    delta_pages: Arrays,
    deltas: Arrays,
    flag_pages: Arrays,
    flags: Arrays,
) -> tuple[Arrays, Arrays, Arrays, Arrays]:
    r"""``re.findall(r"(?u)\b\w\w+\b", text.lower())`` for every row of an Arrow column.

    Args:
        offsets: (n + 1,) int64, where each row's text lies in ``data``.
        data: uint8, UTF-8.
        fold: (128,) uint8, the lower case of an ASCII word character, else 0.
        delta_pages: see ``make_unicode``, as the other three.
        deltas: (pages, 256) int32.
        flag_pages: (4352,) uint8.
        flags: (pages, 256) uint8.

    Returns:
        (n + 1,) int64 where each row's tokens lie; (m,) int32 the tokens, as numbers of terms in
        the order of their first appearance; (t + 1,) int64 and uint8, the terms' text.
    """
    n = len(offsets) - 1
    # A token takes two characters and one between, so three bytes.
    ids = np.empty((offsets[n] - offsets[0]) // 3 + n + 1, np.int32)
    rows = np.zeros(n + 1, np.int64)
    ends = np.zeros(512, np.int64)
    hashes = np.empty(512, np.uint64)
    slots = np.zeros(1024, np.int32)
    buffer = np.empty(4096, np.uint8)
    count = terms = np.int64(0)
    for row in range(n):
        size = offsets[row + 1] - offsets[row]
        most = terms + size // 3 + 1
        if most + 1 > len(ends):
            ends, hashes = _grown(ends, most + 1), _grown(hashes, most + 1)
        if 2 * most > len(slots):
            slots = _rehash(hashes, terms, most)
        # Lower case takes at most half as many bytes again (U+023A: two, its lower case three).
        if ends[terms] + 2 * size + 8 > len(buffer):
            buffer = _grown(buffer, ends[terms] + 2 * size + 8)
        terms, count = _row(
            data, offsets[row], offsets[row + 1], fold, delta_pages, deltas, flag_pages, flags,
            slots, hashes, ends, buffer, terms, ids, count,
        )  # fmt: skip
        rows[row + 1] = count
    return rows, ids[:count].copy(), ends[: terms + 1].copy(), buffer[: ends[terms]].copy()


@kernel
def renumber(ends: Arrays, ids: Arrays, numbers: Arrays) -> Number:
    """Give tokens the numbers of their terms, and close the gaps of those that have none.

    Args:
        ends: (n + 1,) int64, where each row's tokens lie; moved to where its terms lie.
        ids: (m,) int32 words, overwritten by terms.
        numbers: (w,) int32, of each word its term, or -1.

    Returns:
        How many of ``ids`` are terms.
    """
    size, at = 0, ends[0]
    for row in range(len(ends) - 1):
        stop = ends[row + 1]
        while at < stop:
            number = numbers[ids[at]]
            ids[size] = number
            size += number >= 0
            at += 1
        ends[row + 1] = size
    return size


@kernel
def count_tokens(ends: Arrays, ids: Arrays, postings: Arrays, runs: Arrays) -> None:
    """Count each term's postings and runs (windows that hold it).

    Args:
        ends: (n + 1,) int64, where each row's tokens lie.
        ids: (m,) int32 term of each token.
        postings: (t,) int64, added to.
        runs: (t,) int64, added to.
    """
    last = np.full(len(postings), -1, np.int64)
    for row in range(len(ends) - 1):
        for i in range(ends[row], ends[row + 1]):
            term = ids[i]
            seen = last[term]
            if seen != row:
                postings[term] += 1
                if seen < 0 or seen >> WINDOW_BITS != row >> WINDOW_BITS:
                    runs[term] += 1
                last[term] = row


@kernel
def fill_tokens(
    ends: Arrays,
    ids: Arrays,
    next_posting: Arrays,
    next_run: Arrays,
    rows: Arrays,
    counts: Arrays,
    run_windows: Arrays,
    run_starts: Arrays,
) -> tuple[Arrays, Arrays]:
    """Write the postings of the tokens, by term and then by row.

    Args:
        ends: (n + 1,) int64, where each row's tokens lie.
        ids: (m,) int32 term of each token.
        next_posting: (t,) int64, where each term's postings go; moved on.
        next_run: (t,) int64, where each term's runs go; moved on.
        rows: (p,) uint16, written: rows inside their window.
        counts: (p,) uint8, written: 15 stands for more than 14.
        run_windows: (r,) uint16, written.
        run_starts: (r + 1,) uint32, written but for the last.

    Returns:
        (e,) int64 positions and counts of the postings with 15, in no order.
    """
    last = np.full(len(next_posting), -1, np.int64)
    positions = np.empty(16, np.int64)
    larges = np.empty(16, np.int64)
    size = 0
    for row in range(len(ends) - 1):
        first = size  # of the large counts of this row
        for i in range(ends[row], ends[row + 1]):
            term = ids[i]
            seen = last[term]
            if seen != row:
                at = next_posting[term]
                next_posting[term] = at + 1
                rows[at] = row & ((1 << WINDOW_BITS) - 1)
                counts[at] = 1
                if seen < 0 or seen >> WINDOW_BITS != row >> WINDOW_BITS:
                    run_windows[next_run[term]] = row >> WINDOW_BITS
                    run_starts[next_run[term]] = at
                    next_run[term] += 1
                last[term] = row
                continue
            at = next_posting[term] - 1
            if counts[at] < ESCAPE - 1:
                counts[at] += 1
            elif counts[at] == ESCAPE - 1:
                counts[at] = ESCAPE
                if size == len(positions):
                    positions, larges = _grown(positions, 0), _grown(larges, 0)
                positions[size], larges[size] = at, ESCAPE
                size += 1
            else:
                for j in range(first, size):
                    if positions[j] == at:
                        larges[j] += 1
    return positions[:size].copy(), larges[:size].copy()


@kernel
def count_part(
    term_runs: Arrays,
    run_windows: Arrays,
    run_starts: Arrays,
    part_rows: Arrays,
    terms: Arrays,
    moved: Arrays,
    postings: Arrays,
    runs: Arrays,
    last: Arrays,
) -> None:
    """Count what a part adds to a merge, as ``count_tokens`` does for tokens.

    Args:
        term_runs: (t + 1,) uint32 of the part, as the next three.
        run_windows: (r,) uint16.
        run_starts: (r + 1,) uint32.
        part_rows: (p,) uint16.
        terms: (t,) int64, the merged number of each of the part's terms.
        moved: (n,) int64, the merged row of each of the part's rows, -1 for one that is dropped.
        postings: (merged terms,) int64, added to.
        runs: (merged terms,) int64, added to.
        last: (merged terms,) int64, window last seen or -1; kept from part to part.
    """
    for term in range(len(terms)):
        out = terms[term]
        for run in range(term_runs[term], term_runs[term + 1]):
            base = np.int64(run_windows[run]) << WINDOW_BITS
            for i in range(run_starts[run], run_starts[run + 1]):
                row = moved[base + np.int64(part_rows[i])]
                if row >= 0:
                    postings[out] += 1
                    if row >> WINDOW_BITS != last[out]:
                        runs[out] += 1
                        last[out] = row >> WINDOW_BITS


@kernel
def fill_part(
    term_runs: Arrays,
    run_windows: Arrays,
    run_starts: Arrays,
    part_rows: Arrays,
    part_counts: Arrays,
    terms: Arrays,
    moved: Arrays,
    next_posting: Arrays,
    next_run: Arrays,
    last: Arrays,
    rows: Arrays,
    counts: Arrays,
    out_windows: Arrays,
    out_starts: Arrays,
) -> tuple[Arrays, Arrays]:
    """Write a part's postings into a merge; the arguments are those of the functions above.

    Returns:
        (e,) int64 old and new positions of the postings whose count is 15.
    """
    old = np.empty(16, np.int64)
    new = np.empty(16, np.int64)
    size = 0
    for term in range(len(terms)):
        out = terms[term]
        for run in range(term_runs[term], term_runs[term + 1]):
            base = np.int64(run_windows[run]) << WINDOW_BITS
            for i in range(run_starts[run], run_starts[run + 1]):
                row = moved[base + np.int64(part_rows[i])]
                if row < 0:
                    continue
                at = next_posting[out]
                next_posting[out] = at + 1
                rows[at] = row & ((1 << WINDOW_BITS) - 1)
                counts[at] = part_counts[i]
                if row >> WINDOW_BITS != last[out]:
                    last[out] = row >> WINDOW_BITS
                    out_windows[next_run[out]] = last[out]
                    out_starts[next_run[out]] = at
                    next_run[out] += 1
                if part_counts[i] == ESCAPE:
                    if size == len(old):
                        old, new = _grown(old, 0), _grown(new, 0)
                    old[size], new[size] = i, at
                    size += 1
    return old[:size].copy(), new[:size].copy()


@kernel
def bound_blocks(
    run_windows: Arrays, run_starts: Arrays, rows: Arrays, counts: Arrays, lengths: Arrays
) -> tuple[Arrays, Arrays]:
    """The largest count and the smallest length in each 128 postings in a row.

    Blocks are cut at multiples of 128 of the whole array, not of a run, so that they need no
    index; one that holds the end of a run and the start of the next bounds both.

    Returns:
        (ceil(p / 128),) uint8 and uint16; a length beyond 65,535 is given as 65,535.
    """
    blocks = (len(rows) + (1 << BLOCK_BITS) - 1) >> BLOCK_BITS
    most = np.zeros(blocks, np.uint8)
    least = np.full(blocks, 65535, np.uint16)
    for run in range(len(run_windows)):
        base = np.int64(run_windows[run]) << WINDOW_BITS
        for i in range(run_starts[run], run_starts[run + 1]):
            block = i >> BLOCK_BITS
            most[block] = max(most[block], counts[i])
            length = np.int64(lengths[base + np.int64(rows[i])])
            least[block] = min(least[block], length)
    return most, least
