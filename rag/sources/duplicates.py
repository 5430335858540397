"""Which ids have been seen before: 24 bytes an id, whatever its length."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class _Run(NamedTuple):
    """Sorted 128-bit hashes as two columns, and the line of each. All have shape ``(n,)``."""

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    line: NDArray[np.int64]


class Seen:
    """The ids seen so far, as hashes in sorted runs whose sizes at least double.

    Two different ids are taken for one only if their 128-bit hashes agree: for a billion ids the
    probability is below 1e-20. Adding ``n`` ids costs O(n log n) in all.
    """

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def add(self, ids: Sequence[str], lines: Sequence[int]) -> list[int]:
        """Add ids with their lines; the line of the first occurrence of each, 0 where new.

        Args:
            ids: ``n`` ids, which may repeat.
            lines: Their ``n`` lines, from 1.
        """
        run = _hash(ids, lines)
        first: list[int] = self._find(run).tolist()
        new: dict[str, int] = {}
        fresh: list[int] = []  # positions
        for position, name in enumerate(ids):
            if not first[position]:
                first[position] = new.get(name, 0)
                if not first[position]:
                    new[name] = lines[position]
                    fresh.append(position)
        if fresh:
            self._insert(_Run(run.high[fresh], run.low[fresh], run.line[fresh]))
        return first

    def _find(self, asked: _Run) -> NDArray[np.int64]:
        """The lines of the hashes ``asked`` for, 0 where none of the runs has one."""
        found = np.zeros(len(asked.high), dtype=np.int64)
        for run in self._runs:
            at = np.searchsorted(run.high, asked.high)
            inside = np.minimum(at, len(run.high) - 1)
            # Equal high halves are almost always equal ids, but only the low half settles it.
            for ask in np.flatnonzero(run.high[inside] == asked.high):
                place = int(at[ask])
                while place < len(run.high) and run.high[place] == asked.high[ask]:
                    if run.low[place] == asked.low[ask]:
                        found[ask] = run.line[place]
                    place += 1
        return found

    def _insert(self, run: _Run) -> None:
        self._runs.append(_sorted(run))
        while len(self._runs) > 1 and len(self._runs[-2].high) < 2 * len(self._runs[-1].high):
            last, before = self._runs.pop(), self._runs.pop()
            both = _Run(
                np.concatenate([before.high, last.high]),
                np.concatenate([before.low, last.low]),
                np.concatenate([before.line, last.line]),
            )
            self._runs.append(_sorted(both))


def _hash(ids: Sequence[str], lines: Sequence[int]) -> _Run:
    digests = b"".join([blake2b(name.encode(), digest_size=16).digest() for name in ids])
    halves = np.frombuffer(digests, dtype="<u8").astype(np.uint64).reshape(-1, 2)
    return _Run(halves[:, 0], halves[:, 1], np.asarray(lines, dtype=np.int64))


def _sorted(run: _Run) -> _Run:
    # The stable sort merges runs that are already sorted, in time linear in their length.
    order = np.argsort(run.high, kind="stable")
    return _Run(run.high[order], run.low[order], run.line[order])
