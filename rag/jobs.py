"""A job maps a pure function over tasks, in this process or on several.

A task is small and picklable (paths, keys, settings); the work goes from file to file, and what
comes back is a small receipt. So the result is the same on any executor.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, TypeVar

from rag.errors import BackendFailed, InvalidInput

Task = TypeVar("Task")
Receipt = TypeVar("Receipt")

Progress = Callable[[str, int, int | None], None]
"""Called as work goes on: what is being done, how much is done, and of how much (if known)."""

RESTARTS = 3
"""How often killed workers are replaced before a job gives up."""


def silent(what: str, done: int, total: int | None) -> None:
    """The progress of a job that nobody watches."""


class Executor(Protocol):
    """Runs the tasks of a job."""

    def map(
        self, work: Callable[[Task], Receipt], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Receipt]]:
        """Each task with its receipt, in the order in which they are done.

        ``tasks`` is read as fast as the work is done, so it may be long. The first error stops
        the job and is raised here.
        """


class Local:
    """One task after another, in this process."""

    def map(
        self, work: Callable[[Task], Receipt], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Receipt]]:
        """Each task with its receipt, in order."""
        for task in tasks:
            yield task, work(task)


class Processes:
    """Tasks on ``workers`` processes of this machine; a killed worker is replaced.

    Processes are started afresh (``spawn``), never forked, since threads of numpy and Arrow may
    run here. A script that uses them guards its own start with ``if __name__ == "__main__":``.

    Raises:
        BackendFailed: workers die again and again (killed for memory, most often).
    """

    def __init__(self, workers: int) -> None:
        """Remember the number of ``workers``; they start with the first task."""
        self.workers = workers

    def map(
        self, work: Callable[[Task], Receipt], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Receipt]]:
        """Each task with its receipt, in the order in which they are done."""
        source = iter(tasks)
        again: list[Task] = []
        for attempt in range(RESTARTS + 1):
            running: dict[Future[Receipt], Task] = {}
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(self.workers, context, initializer=_end_with_parent)
            try:
                waiting, again = again, []
                while True:
                    while len(running) < 2 * self.workers:
                        task = waiting.pop() if waiting else next(source, None)
                        if task is None:
                            break
                        # Kept before it is handed over: a pool that breaks here must not lose it.
                        again.append(task)
                        running[pool.submit(work, task)] = task
                        again.pop()
                    if not running:
                        return
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        receipt = future.result()
                        yield running.pop(future), receipt
            except BrokenProcessPool:
                again += [*waiting, *running.values()]
                if attempt == RESTARTS:
                    raise BackendFailed(
                        f"{work.__name__.replace('_', ' ')}: worker processes were killed "
                        f"{RESTARTS + 1} times (out of memory?); use fewer --workers; run the same "
                        "command again to go on"
                    ) from None
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """In a worker: end when the process that started it is gone, killed or not.

    Workers wait on a pipe that their siblings hold open, so they would wait for ever.
    """

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def executor(workers: int = 1) -> Executor:
    """The executor for so many ``workers``: this process for one, processes for more."""
    if workers < 1:
        raise InvalidInput(f"workers: found {workers}, expected 1 or more")
    return Local() if workers == 1 else Processes(workers)
