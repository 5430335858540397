"""Single look-ups in the postings of one segment, for what is asked once and not in a loop.

The mapped dictionary is sorted by bytes, so a term is a binary search and a prefix is two. A query
needs no more than that for phrases, prefixes and explanations; scoring has compiled loops of its
own (``_kernels_terms``, ``_kernels_search``).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rag.indexers.postings import ESCAPE, WINDOW, Postings


def term(part: Postings, number: int) -> bytes:
    """The text of the term with this number."""
    return part.terms[part.term_offsets[number] : part.term_offsets[number + 1]].tobytes()


def beginning(part: Postings, prefix: bytes) -> range:
    """The numbers of the terms that begin with ``prefix``; with an empty one, of all."""
    numbers = range(len(part.term_offsets) - 1)
    first = bisect_left(numbers, prefix, key=lambda number: term(part, number))
    size = len(prefix)
    last = bisect_right(numbers, prefix, first, key=lambda number: term(part, number)[:size])
    return range(first, last)


def find(part: Postings, text: bytes) -> int:
    """The number of a term; -1 where the segment lacks it."""
    numbers = range(len(part.term_offsets) - 1)
    at = bisect_left(numbers, text, key=lambda number: term(part, number))
    return at if at < len(numbers) and term(part, at) == text else -1


def rows(part: Postings, number: int) -> NDArray[np.int64]:
    """The rows that hold a term, ascending; none for -1."""
    if number < 0:
        return np.zeros(0, np.int64)
    runs = slice(int(part.term_runs[number]), int(part.term_runs[number + 1]))
    starts = part.run_starts[runs.start : runs.stop + 1].astype(np.int64)
    bases = np.repeat(part.run_windows[runs].astype(np.int64) * WINDOW, np.diff(starts))
    return bases + part.rows[starts[0] : starts[-1]]


def holding_all(part: Postings, texts: Sequence[bytes]) -> NDArray[np.bool_]:
    """Which rows hold all of the distinct terms ``texts``: (n,) bool."""
    numbers = [find(part, text) for text in texts]
    if -1 in numbers:
        return np.zeros(len(part.lengths), np.bool_)
    times = np.zeros(len(part.lengths), np.int32)
    for number in numbers:
        times[rows(part, number)] += 1
    held: NDArray[np.bool_] = times == len(texts)
    return held


def count(part: Postings, number: int, row: int) -> int:
    """How often a term stands in a row; 0 for the number -1."""
    if number < 0:
        return 0
    first, last = int(part.term_runs[number]), int(part.term_runs[number + 1])
    run = first + int(np.searchsorted(part.run_windows[first:last], row // WINDOW))
    if run == last or part.run_windows[run] != row // WINDOW:
        return 0
    low, high = int(part.run_starts[run]), int(part.run_starts[run + 1])
    at = low + int(np.searchsorted(part.rows[low:high], np.uint16(row % WINDOW)))
    if at == high or part.rows[at] != row % WINDOW:
        return 0
    if part.counts[at] < ESCAPE:
        return int(part.counts[at])
    return int(part.large_counts[np.searchsorted(part.large_positions, at)])
