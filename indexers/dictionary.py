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

from rag.indexers import faults
from rag.indexers.postings import ESCAPE, WINDOW, Postings


def term(part: Postings, number: int) -> bytes:
    """The text of the term with this number.

    Raises:
        Damaged: the index is damaged there, as all functions of this module say.
    """
    first, last = _span(part, "term_offsets", number, len(part.terms))
    return part.terms[first:last].tobytes()


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
    first, last = _span(part, "term_runs", number, len(part.run_windows))
    starts = part.run_starts[first : last + 1].astype(np.int64)
    sizes = np.diff(starts)
    if len(sizes) and (sizes.min() < 0 or sizes.max() > WINDOW or starts[-1] > len(part.rows)):
        raise faults.outside(part, "run_starts")
    windows = part.run_windows[first:last].astype(np.int64)
    if len(windows) and windows.max() * WINDOW >= len(part.lengths):
        raise faults.outside(part, "run_windows")
    bases = np.repeat(windows * WINDOW, sizes)
    found = bases + part.rows[starts[0] : starts[-1]]
    if len(found) and found.max() >= len(part.lengths):
        raise faults.outside(part, "rows")
    return found


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
    first, last = _span(part, "term_runs", number, len(part.run_windows))
    run = first + int(np.searchsorted(part.run_windows[first:last], row // WINDOW))
    if run == last or part.run_windows[run] != row // WINDOW:
        return 0
    low, high = _span(part, "run_starts", run, len(part.rows))
    at = low + int(np.searchsorted(part.rows[low:high], np.uint16(row % WINDOW)))
    if at == high or part.rows[at] != row % WINDOW:
        return 0
    if part.counts[at] < ESCAPE:
        return int(part.counts[at])
    place = int(np.searchsorted(part.large_positions, at))
    if place == len(part.large_counts) or part.large_positions[place] != at:
        raise faults.outside(part, "large_positions", "counts")
    return int(part.large_counts[place])


def _span(part: Postings, name: str, number: int, end: int) -> tuple[int, int]:
    """Where that begins and ends which the array ``name`` says of a number; ``end`` at most."""
    offsets = getattr(part, name)
    first, last = int(offsets[number]), int(offsets[number + 1])
    if not first <= last <= end:
        raise faults.outside(part, name)
    return first, last
