"""Single look-ups in the postings of one segment, for what is asked once and not in a loop.

The mapped dictionary is sorted by bytes, so a term is a binary search over groups of terms, and a
prefix is two. A query needs no more than that for phrases, prefixes and explanations; scoring has
compiled loops of its own (``_kernels_terms``, ``_kernels_search``).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.indexers import faults
from rag.indexers.postings import ESCAPE, LONG, WINDOW, Postings

GROUP = 16


class Term(NamedTuple):
    """A term of the dictionary."""

    text: bytes
    first: int
    """Its first run."""
    last: int
    """The run after its last one."""


def size(part: Postings) -> int:
    """How many terms a segment has.

    Raises:
        Damaged: the index is damaged there, as all functions of this module say.
    """
    groups = len(part.group_texts) - 1
    return GROUP * (groups - 1) + len(_group(part, groups - 1)) if groups else 0


def terms(part: Postings, numbers: range) -> list[bytes]:
    """The texts of the terms with these numbers, ascending ones."""
    if not numbers:
        return []
    first = numbers.start // GROUP
    groups = range(first, (numbers.stop - 1) // GROUP + 1)
    texts = [term.text for group in groups for term in _group(part, group)]
    return texts[numbers.start - GROUP * first : numbers.stop - GROUP * first]


def beginning(part: Postings, prefix: bytes) -> range:
    """The numbers of the terms that begin with ``prefix``; with an empty one, of all."""
    width = len(prefix)
    first = _number(part, bisect_left, prefix, lambda text: text)
    return range(first, _number(part, bisect_right, prefix, lambda text: text[:width]))


def find(part: Postings, text: bytes) -> tuple[int, int]:
    """The first run of a term and the one after its last; (-1, -1) where the segment lacks it."""
    groups = range(len(part.group_texts) - 1)
    at = bisect_right(groups, text, key=lambda group: _group(part, group, 1)[0].text) - 1
    found = [term for term in _group(part, at) if term.text == text] if at >= 0 else []
    return (found[0].first, found[0].last) if found else (-1, -1)


def rows(part: Postings, runs: Sequence[int]) -> NDArray[np.int64]:
    """The rows that hold a term with these runs, as ``find`` gives them, ascending."""
    first, last = runs
    found = [np.zeros(0, np.int64)]
    for run in range(first, last) if first >= 0 else ():
        window = int(part.run_windows[run])
        if window * WINDOW >= len(part.lengths):
            raise faults.outside(part, "run_windows")
        found.append(window * WINDOW + _rows(part, run).astype(np.int64))
    every = np.concatenate(found)
    if len(every) and every.max() >= len(part.lengths):
        raise faults.outside(part, *faults.ROWS)
    return every


def holding_all(part: Postings, texts: Sequence[bytes]) -> NDArray[np.bool_]:
    """Which rows hold all of the distinct terms ``texts``: (n,) bool."""
    runs = [find(part, text) for text in texts]
    if (-1, -1) in runs:
        return np.zeros(len(part.lengths), np.bool_)
    times = np.zeros(len(part.lengths), np.int32)
    for each in runs:
        times[rows(part, each)] += 1
    held: NDArray[np.bool_] = times == len(texts)
    return held


def count(part: Postings, runs: Sequence[int], row: int) -> int:
    """How often a term with these runs, as ``find`` gives them, stands in a row."""
    first, last = runs
    if first < 0:
        return 0
    run = first + int(np.searchsorted(part.run_windows[first:last], row // WINDOW))
    if run == last or part.run_windows[run] != row // WINDOW:
        return 0
    held = _rows(part, run)
    place = int(np.searchsorted(held, np.uint16(row % WINDOW)))
    if place == len(held) or held[place] != row % WINDOW:
        return 0
    at = int(part.run_starts[run]) + place
    times = int(part.counts[at >> 1]) >> 4 * (at & 1) & 15
    if times < ESCAPE:
        return times
    place = int(np.searchsorted(part.large_positions, at))
    if place == len(part.large_counts) or part.large_positions[place] != at:
        raise faults.outside(part, "large_positions", "counts")
    return int(part.large_counts[place])


def _number(
    part: Postings,
    bisect: Callable[..., int],
    text: bytes,
    key: Callable[[bytes], bytes],
) -> int:
    """How many terms stand before ``text``, or up to it, as ``bisect`` counts."""
    groups = range(len(part.group_texts) - 1)
    at = bisect(groups, text, key=lambda group: key(_group(part, group, 1)[0].text)) - 1
    if at < 0:
        return 0
    return GROUP * at + bisect(_group(part, at), text, key=lambda term: key(term.text))


def _group(part: Postings, number: int, most: int = GROUP) -> list[Term]:
    """The terms of a group, the first ``most`` of them; at least one."""
    at, end = int(part.group_texts[number]), int(part.group_texts[number + 1])
    run, last = int(part.group_runs[number]), int(part.group_runs[number + 1])
    if not at < end <= len(part.terms):
        raise faults.outside(part, "terms", "group_texts")
    data, at = part.terms[at:end].tobytes(), 0
    text, made = b"", list[Term]()
    while at < len(data) and len(made) < most:
        shared, rest = data[at] >> 4, data[at] & 15
        at += 1
        if rest == 15:
            more, at = _field(data, at)
            rest += more
        held, at = _field(data, at)
        if shared > len(text) or at + rest > len(data):
            raise faults.outside(part, "terms", "group_texts")
        text = text[:shared] + data[at : at + rest]
        at += rest
        if held < 1 or run + held > min(last, len(part.run_windows)):
            raise faults.outside(part, "group_runs", "terms")
        made.append(Term(text, run, run + held))
        run += held
    if most == GROUP and at < len(data):
        raise faults.outside(part, "terms", "group_texts")
    return made


def _field(data: bytes, at: int) -> tuple[int, int]:
    """The number that stands at ``at``, in groups of seven bits, and the position after it."""
    value = shift = 0
    while at < len(data) and data[at] >= 128 and shift < 35:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
    return (value | data[at] << shift if at < len(data) else value), at + 1


def _rows(part: Postings, run: int) -> NDArray[np.uint16]:
    """The rows of a run, inside its window."""
    first, last = int(part.run_starts[run]), int(part.run_starts[run + 1])
    if not 0 < last - first <= WINDOW or last > part.size:
        raise faults.outside(part, "run_starts")
    slot = int(np.searchsorted(part.long_runs, run))
    base = int(part.long_starts[slot])
    if last - first <= LONG:
        if not 0 <= first - base <= last - base <= len(part.rows):
            raise faults.outside(part, "run_starts", "long_starts")
        return part.rows[first - base : last - base]
    if slot == len(part.long_runs) or part.long_runs[slot] != run:
        raise faults.outside(part, "run_starts", *faults.ROWS)
    lows = part.long_lows[base : int(part.long_starts[slot + 1])]
    ends = np.append(part.long_highs[256 * slot + 1 : 256 * slot + 256].astype(np.int64), len(lows))
    sizes = np.diff(ends, prepend=0)
    if len(lows) != last - first or sizes.min() < 0:
        raise faults.outside(part, "run_starts", *faults.ROWS)
    return np.repeat(np.arange(256, dtype=np.uint16) << 8, sizes) | lows
