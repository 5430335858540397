"""What one call of a step is given beside its batch: whom to tell, and when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

Listener = Callable[[int, str, Any], None]
"""Called with a row, the kind of the event and its value, in the thread of the step."""

_NONE: frozenset[int] = frozenset()


class Cancel:
    """Rows of a running call that nobody waits for any more; any thread may add to it."""

    def __init__(self) -> None:
        """Nothing is cancelled yet."""
        self._all = False
        self._rows: set[int] = set()

    def all(self) -> None:
        """Cancel every row."""
        self._all = True

    def row(self, row: int) -> None:
        """Cancel one row, counted in the batch that the pipeline was given."""
        self._rows.add(row)

    def has(self, row: int) -> bool:
        """Whether a row, counted in the batch that the pipeline was given, is cancelled."""
        return self._all or row in self._rows

    def among(self, rows: Sequence[int]) -> frozenset[int]:
        """The positions in ``rows`` of those that are cancelled."""
        if self._all:
            return frozenset(range(len(rows)))
        if not self._rows:
            return _NONE
        return frozenset(place for place, row in enumerate(rows) if row in self._rows)


@dataclass(slots=True)
class Run:
    """What one call of a step needs; rows are counted in the batch that the step was given.

    Args:
        seed: what whoever draws at random starts from.
        listener: is told of events, with rows counted in the batch that the pipeline was given.
        deadline: ``time.monotonic()`` seconds, or None. A pipeline fails the rows that are left
            at the first stage boundary after it; a stage that takes long may look at it itself.
        cancel: the rows that nobody waits for.
        stop: the first row that fails raises, as ``on_error: stop`` has it.
        progress: told the label of each stage and its rows as it starts.
        rows: for each row of the step's batch its row in the batch that the pipeline was given;
            default: the same.
    """

    seed: int = 0
    listener: Listener | None = None
    failed: dict[int, Exception] = field(default_factory=dict)
    deadline: float | None = None
    cancel: Cancel | None = None
    stop: bool = False
    progress: Callable[[str, int], None] | None = None
    rows: Sequence[int] | None = None
    stages: dict[int, str] = field(default_factory=dict)
    """The stage inside the stage at hand in which a row failed, where it holds stages."""
    partial: dict[int, list[str]] = field(default_factory=dict)
    """What was not searched for a row of the batch that the pipeline was given."""

    def fail(self, row: int, error: Exception, *, stage: str | None = None) -> None:
        """The row could not be done; the first error of a row is kept.

        ``stage`` names the stage that failed, where a stage that holds others passes it on.
        """
        if row not in self.failed:
            self.failed[row] = error
            if stage is not None:
                self.stages[row] = stage

    def lacks(self, what: str) -> None:
        """A part of the collection was not searched for the rows at hand; ``what`` says which.

        They go on, and their column ``partial`` says so.
        """
        for row in self.rows or ():
            said = self.partial.setdefault(row, [])
            if what not in said:
                said.append(what)

    def emit(self, row: int, kind: str, value: Any) -> None:
        """Tell whoever listens what happened in a row.

        A pipeline emits ``passages`` (the hits, as a tuple) after each stage that changes a
        ranking; a reader whose backend streams emits ``token`` (a text) for each piece.
        """
        if self.listener is not None:
            self.listener(row if self.rows is None else self.rows[row], kind, value)

    def cancelled(self) -> frozenset[int]:
        """The rows that nobody waits for; a step may ask often, and may leave them undone.

        Whatever it writes for them is dropped: the pipeline fails them at the next boundary.
        """
        if self.cancel is None or self.rows is None:
            return _NONE
        return self.cancel.among(self.rows)

    def waits(self, row: int) -> bool:
        """Whether somebody still waits for a row: it is not cancelled, and there is time left."""
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return False
        return self.cancel is None or self.rows is None or not self.cancel.has(self.rows[row])

    def below(self, rows: Sequence[int]) -> Run:
        """The run of a step on these rows of the batch at hand, ascending; none has failed yet."""
        if self.rows is None:
            outer = rows
        elif len(rows) == len(self.rows):
            outer = self.rows
        else:
            outer = [self.rows[row] for row in rows]
        return Run(
            self.seed,
            self.listener,
            deadline=self.deadline,
            cancel=self.cancel,
            stop=self.stop,
            progress=self.progress,
            rows=outer,
            partial=self.partial,
        )


_at_hand: ContextVar[Run | None] = ContextVar("run", default=None)


def at_hand() -> Run | None:
    """The run of the step that is called in this thread, the innermost; None where there is none.

    For what a step calls and hands no run to: the searcher of an index.
    """
    return _at_hand.get()


@contextmanager
def calling(run: Run) -> Iterator[None]:
    """A step is called with ``run``, until the block ends."""
    before = _at_hand.set(run)
    try:
        yield
    finally:
        _at_hand.reset(before)
