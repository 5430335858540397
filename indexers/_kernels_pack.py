"""Compiled loops between postings as they are made and as they are stored (see ``postings``).

Imported only when an index is built or merged (``rag.compiled``).
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.compiled import kernel

Arrays: TypeAlias = NDArray[Any]
Number: TypeAlias = Any
"""A scalar; numba gives it its machine type."""

GROUP = 16
"""So many terms stand behind a whole one."""
NIBBLE = 15
LONG = 1024
"""A run of more postings is stored by 256 counts of high bytes and a low byte for each posting."""


@kernel
def _put(out: Arrays, at: Number, value: Number) -> Number:
    """Write ``value`` in groups of seven bits, low ones first; the position after it."""
    while value >= 128:
        out[at] = 128 | (value & 127)
        value >>= 7
        at += 1
    out[at] = value
    return at + 1


@kernel
def pack_terms(texts: Arrays, offsets: Arrays, term_runs: Arrays) -> tuple[Arrays, Arrays, Arrays]:
    """The dictionary, each term but the first of a group without what it shares with the last one.

    Args:
        texts: uint8, the terms' UTF-8, end to end, sorted.
        offsets: (t + 1,) int64 where each lies.
        term_runs: (t + 1,) int64 where the runs of each lie.

    Returns:
        ``terms``, ``group_texts`` and ``group_runs`` of ``Postings``.
    """
    terms = len(offsets) - 1
    out = np.empty(len(texts) + 12 * terms, np.uint8)
    groups = (terms + GROUP - 1) // GROUP
    starts, runs = np.zeros(groups + 1, np.uint32), np.zeros(groups + 1, np.uint32)
    at = np.int64(0)
    for term in range(terms):
        first, size = offsets[term], offsets[term + 1] - offsets[term]
        shared = np.int64(0)
        if term % GROUP == 0:
            starts[term // GROUP], runs[term // GROUP] = at, term_runs[term]
        else:
            before = offsets[term - 1]
            most = min(NIBBLE, size, first - before)
            while shared < most and texts[before + shared] == texts[first + shared]:
                shared += 1
        rest = size - shared
        out[at] = shared << 4 | min(rest, NIBBLE)
        at += 1
        if rest >= NIBBLE:
            at = _put(out, at, rest - NIBBLE)
        at = _put(out, at, np.int64(term_runs[term + 1]) - np.int64(term_runs[term]))
        for i in range(first + shared, first + size):
            out[at] = texts[i]
            at += 1
    starts[groups], runs[groups] = at, term_runs[terms]
    return out[:at].copy(), starts, runs


@kernel
def unpack_terms(
    terms: Arrays, group_texts: Arrays, group_runs: Arrays
) -> tuple[Arrays, Arrays, Arrays, Any]:
    """What ``pack_terms`` was given, and whether the arrays make sense."""
    groups = len(group_texts) - 1
    offsets, runs = np.zeros(GROUP * groups + 1, np.int64), np.zeros(GROUP * groups + 1, np.int64)
    count = size = before = np.int64(0)
    for write in range(2):  # the first time only to know the size of the text
        out = np.empty(size if write else 0, np.uint8)
        count = size = before = np.int64(0)
        for group in range(groups):
            at, end = np.int64(group_texts[group]), np.int64(group_texts[group + 1])
            if at > end or end > len(terms) or runs[count] != group_runs[group]:
                return out, offsets, runs, False
            inside = np.int64(0)
            while at < end and inside < GROUP:
                shared, rest = np.int64(terms[at] >> 4), np.int64(terms[at] & NIBBLE)
                at += 1
                held = np.int64(0)
                for part in range(0 if rest == NIBBLE else 1, 2):
                    value, shift = np.int64(0), 0
                    while at < end and terms[at] >= 128 and shift < 35:
                        value |= np.int64(terms[at] & 127) << shift
                        shift += 7
                        at += 1
                    if at < end:
                        value |= np.int64(terms[at]) << shift
                        at += 1
                    if part == 0:
                        rest += value
                    else:
                        held = value
                if at + rest > end or shared > (size - before if inside else 0):
                    return out, offsets, runs, False
                if write:
                    for i in range(shared):
                        out[size + i] = out[before + i]
                    for i in range(rest):
                        out[size + shared + i] = terms[at + i]
                at += rest
                before = size
                size += shared + rest
                count += 1
                inside += 1
                offsets[count], runs[count] = size, runs[count - 1] + held
            if at != end or (inside < GROUP and group < groups - 1):
                return out, offsets, runs, False
    good = runs[count] == group_runs[groups]
    return out, offsets[: count + 1].copy(), runs[: count + 1].copy(), good


@kernel
def pack_rows(run_starts: Arrays, rows: Arrays) -> tuple[Arrays, Arrays, Arrays, Arrays, Arrays]:
    """The rows of short runs as they are, those of long ones cut into high and low bytes.

    Args:
        run_starts: (r + 1,) where the postings of each run lie.
        rows: (p,) uint16.

    Returns:
        ``rows``, ``long_runs``, ``long_starts``, ``long_highs`` and ``long_lows`` of ``Postings``.
    """
    count = total = np.int64(0)
    for run in range(len(run_starts) - 1):
        size = np.int64(run_starts[run + 1]) - np.int64(run_starts[run])
        if size > LONG:
            count += 1
            total += size
    short = np.empty(len(rows) - total, np.uint16)
    runs, starts = np.empty(count, np.uint32), np.zeros(count + 1, np.uint32)
    highs, lows = np.zeros(256 * count, np.uint16), np.empty(total, np.uint8)
    slot = low = at = np.int64(0)
    for run in range(len(run_starts) - 1):
        first, last = np.int64(run_starts[run]), np.int64(run_starts[run + 1])
        if last - first <= LONG:
            for i in range(first, last):
                short[at] = rows[i]
                at += 1
            continue
        runs[slot] = run
        high = np.int64(0)
        for i in range(first, last):
            while high < np.int64(rows[i]) >> 8:
                high += 1
                highs[256 * slot + high] = i - first
            lows[low] = rows[i] & 255
            low += 1
        while high < 255:
            high += 1
            # 65,536 would not fit, but a run of so many has rows with every high byte.
            highs[256 * slot + high] = last - first
        slot += 1
        starts[slot] = low
    return short, runs, starts, highs, lows


@kernel
def unpack_rows(
    run_starts: Arrays,
    short: Arrays,
    long_runs: Arrays,
    long_starts: Arrays,
    highs: Arrays,
    lows: Arrays,
) -> tuple[Arrays, Any]:
    """What ``pack_rows`` was given, and whether the arrays make sense."""
    total = len(short) + len(lows)
    rows = np.zeros(total, np.uint16)
    slot = at = np.int64(0)
    for run in range(len(run_starts) - 1):
        first, last = np.int64(run_starts[run]), np.int64(run_starts[run + 1])
        if first > last or last > total:
            return rows, False
        size = last - first
        if size <= LONG:
            if at + size > len(short):
                return rows, False
            for i in range(size):
                rows[first + i] = short[at + i]
            at += size
            continue
        if slot == len(long_runs) or long_runs[slot] != run:
            return rows, False
        low = np.int64(long_starts[slot])
        if low + size != long_starts[slot + 1] or low + size > len(lows):
            return rows, False
        for high in range(256):
            here = np.int64(highs[256 * slot + high])
            after = np.int64(highs[256 * slot + high + 1]) if high < 255 else size
            if here > after or after > size or (high == 0 and here > 0):
                return rows, False
            for i in range(here, after):
                rows[first + i] = high << 8 | np.int64(lows[low + i])
        slot += 1
    return rows, slot == len(long_runs)


@kernel
def pack_counts(counts: Arrays) -> Arrays:
    """Two counts of at most 15 a byte, the first of them low."""
    out = np.zeros((len(counts) + 1) >> 1, np.uint8)
    for i in range(len(counts)):
        out[i >> 1] |= counts[i] << np.uint8((i & 1) << 2)
    return out


@kernel
def unpack_counts(packed: Arrays, size: Number) -> Arrays:
    """The ``size`` counts that ``pack_counts`` was given."""
    out = np.empty(size, np.uint8)
    for i in range(size):
        out[i] = (packed[i >> 1] >> np.uint8((i & 1) << 2)) & np.uint8(15)
    return out
