"""Workers that come and go with the tasks: what processes and Ray actors share.

Each worker has one task at a time, so it is known which one it died of. Tasks are read ahead by as
many as may be at work, no more. A worker that dies is replaced, and its task is done again when all
others are done; a task that ends its worker ``TRIES`` times, the last time with nothing beside it,
is left out and named at the end.
"""

from __future__ import annotations

import copy
import logging
import time
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from rag.errors import BackendFailed
from rag.jobs import TRIES, Lost, Progress, TasksLost, label, silent

Task = TypeVar("Task")
Receipt = TypeVar("Receipt")

STARTS = 3
"""How many workers in a row may fail to start before the job gives up."""

MOVES = 10
"""How often a task may lose its worker for reasons that are none of its own (a node that went)."""

HOPELESS = 3
"""Where no task was ever done and so many are lost, the others are not tried."""

IDLE = 30.0
"""Seconds after which a worker that has nothing to do is given back."""

READY = object()
"""What a worker says first."""

log = logging.getLogger("rag.jobs")


class Died(Exception):
    """A worker ended, and its task with it: ``why``, and whether the task may be to blame."""

    def __init__(self, why: str, *, blame: bool = True, error: Exception | None = None) -> None:
        """Say ``why``; ``error`` is what to raise where no worker does better."""
        super().__init__(why)
        self.why, self.blame, self.error = why, blame, error


class There(Exception):
    """The traceback of an error in another process, as its cause."""


class Worker(ABC):
    """One process or actor; it has one task at a time."""

    name: str
    """For reports: which process, and where."""

    @abstractmethod
    def give(self, work: Callable[[Any], Any], task: Any) -> None:
        """Have it do a task. Raises ``Died`` if it is gone."""

    @abstractmethod
    def take(self) -> Any:
        """What it has: ``READY`` at first, then receipts. Raises what the task raised, or Died."""

    @abstractmethod
    def end(self) -> None:
        """End it, whatever it does."""


@dataclass
class _Turn:
    """A task and how often its worker ended."""

    task: Any
    tries: int = 0
    moves: int = 0


class Pool(ABC):
    """Runs tasks on up to ``workers`` workers; see the module's docstring."""

    def __init__(self, workers: int, progress: Progress = silent) -> None:
        """Remember the numbers; workers start when there are tasks for them."""
        self.workers, self.progress = workers, progress
        self.failures: list[str] = []
        self.tries = TRIES
        self._idle: list[tuple[Worker, float]] = []
        self._starting: list[Worker] = []
        self._busy: dict[Worker, _Turn] = {}
        self._bad_starts = 0

    @abstractmethod
    def start(self) -> Worker:
        """A new worker; it says ``READY`` when it is."""

    @abstractmethod
    def wait(self, workers: Sequence[Worker], seconds: float) -> list[Worker]:
        """Those that have something to say, after at most so many seconds."""

    @abstractmethod
    def begin(self, work: Callable[[Any], Any], task: Any) -> None:
        """Called with the first task of a map, before it is handed out."""

    def map(
        self,
        work: Callable[[Task], Receipt],
        tasks: Iterable[Task],
    ) -> Iterator[tuple[Task, Receipt]]:
        """Each task with its receipt, in the order in which they are done."""
        source, waiting, again = iter(tasks), deque[_Turn](), deque[_Turn]()
        lost: list[Lost] = []
        more, done, begun = True, 0, False
        try:
            while True:
                if more and len(waiting) < self.workers:
                    try:
                        waiting.append(_Turn(next(source)))
                    except StopIteration:
                        more = False
                    else:
                        if not begun:
                            self.begin(work, waiting[0].task)
                            begun = True
                # While nothing was ever done, it is soon known whether anything can be.
                self._hand_out(work, waiting, again, last=bool(done) and (more or bool(waiting)))
                if not (more or waiting or again or self._busy):
                    break
                self._grow(len(waiting) + len(again))
                ahead = more and len(waiting) < self.workers
                for worker in self.wait([*self._starting, *self._busy], 0 if ahead else 1.0):
                    for turn, receipt in self._taken(worker, again, lost):
                        done += 1
                        yield turn.task, receipt
                if len(lost) >= HOPELESS and not done:
                    break
                self._shrink()
        finally:
            self.finish()
        if lost:
            what = work.__name__.replace("_", " ")
            gave_up = not done and (more or bool(waiting))
            raise TasksLost(what, tuple(lost), done, gave_up=gave_up)

    def finish(self) -> None:
        """End all workers; called at the end of a map, however it ends."""
        for worker in self._crew:
            worker.end()
        self._idle, self._starting, self._busy = [], [], {}

    @abstractmethod
    def close(self) -> None:
        """Give back what is held between two maps."""

    @property
    def _crew(self) -> list[Worker]:
        return [*(worker for worker, _ in self._idle), *self._starting, *self._busy]

    def _hand_out(
        self,
        work: Callable[[Any], Any],
        waiting: deque[_Turn],
        again: deque[_Turn],
        *,
        last: bool,
    ) -> None:
        """Give tasks to workers; those to do ``again`` come ``last``, or else first."""
        while self._idle:
            if again and not last:
                if again[0].tries == self.tries - 1 and self._busy:
                    return
                queue = again
            elif waiting:
                queue = waiting
            else:
                return
            worker, _ = self._idle.pop()
            turn = queue.popleft()
            try:
                worker.give(work, turn.task)
            except Died as died:  # it ended while it had nothing to do
                self._replace(worker, died, None)
                queue.appendleft(turn)
                continue
            self._busy[worker] = turn

    def _grow(self, waiting: int) -> None:
        wanted = min(
            waiting - len(self._starting) - len(self._idle), self.workers - len(self._crew)
        )
        for _ in range(wanted):
            self._starting.append(self.start())

    def _shrink(self) -> None:
        now = time.monotonic()
        for worker, since in self._idle:
            if now - since > IDLE:
                worker.end()
        kept = [(worker, since) for worker, since in self._idle if now - since <= IDLE]
        if len(kept) < len(self._idle):
            self._idle = kept
            self._tell_workers()

    def _tell_workers(self) -> None:
        self.progress("workers", len(self._idle) + len(self._busy), self.workers)

    def _taken(
        self, worker: Worker, again: deque[_Turn], lost: list[Lost]
    ) -> Iterator[tuple[_Turn, Any]]:
        """What a worker said: a receipt, or that it is ready, or that it has died."""
        turn = self._busy.pop(worker, None)
        if turn is None:
            self._starting.remove(worker)
        try:
            said = worker.take()
        except Died as died:
            self._replace(worker, died, turn)
            if turn is None:
                self._not_started(died)
                return
            turn.tries, turn.moves = turn.tries + died.blame, turn.moves + (not died.blame)
            if turn.moves > MOVES and died.error is not None:
                raise died.error from None
            if turn.tries < self.tries and turn.moves <= MOVES:
                again.append(turn)
            else:
                lost.append(Lost(turn.task, turn.tries + turn.moves, died.why))
            return
        except BaseException:
            self._idle.append((worker, time.monotonic()))
            raise
        self._bad_starts = 0
        self._idle.append((worker, time.monotonic()))
        if turn is None:
            self._tell_workers()
        if turn is not None:
            yield turn, said

    def _replace(self, worker: Worker, died: Died, turn: _Turn | None) -> None:
        """Note that a worker is gone; another starts when it is needed."""
        doing = f"while it did {label(turn.task)}" if turn is not None else "while it had no task"
        tried = ""
        if turn is not None and died.blame:
            tried = f" (try {turn.tries + 1} of {self.tries})"
        said = f"{worker.name} ended {doing}{tried}: {died.why}"
        self.failures.append(said)
        log.warning("%s", said)
        self.progress("failures", len(self.failures), None)
        with suppress(Exception):  # it is gone, or about to be
            worker.end()

    def _not_started(self, died: Died) -> None:
        self._bad_starts += 1
        if died.error is not None and self._bad_starts >= STARTS:
            raise died.error from None
        if self._bad_starts >= STARTS:
            raise BackendFailed(
                f"workers do not start: {died.why}; a script that uses them needs "
                "'if __name__ == \"__main__\":' around what it does"
            )


Said = tuple[bool, Any, str]
"""Whether a task was done, its receipt or its error, and the traceback of the error."""


def said(work: Callable[[Any], Any], task: Any) -> Said:
    """In a worker: do a task; what comes of it can be sent."""
    try:
        return True, work(task), ""
    except Exception as error:  # noqa: BLE001  (it is raised where the job is)
        return False, sendable(error), traceback.format_exc()


def sendable(error: Exception) -> Exception:
    """The error itself, or what can be said of one that is not made anew from its arguments."""
    try:
        if str(copy.copy(error)) == str(error):
            return error
    except Exception:  # noqa: BLE001  (whatever its class raises)
        return BackendFailed(_said(error))
    return BackendFailed(_said(error))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def unpacked(outcome: Said) -> Any:
    """The receipt of what ``said`` gave; raises its error."""
    done, value, trace = outcome
    if done:
        return value
    value.__cause__ = There(f"\n{trace}")
    raise value
