"""Tasks on processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from rag.errors import BackendFailed
from rag.jobs_pool import READY, Died, Pool, Said, Worker, said, unpacked

PATIENCE = 10.0
"""Seconds that a worker has to put away what it was writing."""


class Processes(Pool):
    """Tasks on ``workers`` processes of this machine; a killed worker is replaced.

    Processes are started afresh (``spawn``), never forked, since threads of numpy and Arrow may
    run here. A script that uses them guards its own start with ``if __name__ == "__main__":``.
    """

    def begin(self, work: Callable[[Any], Any], task: Any) -> None:
        """Nothing is asked of this machine."""

    def close(self) -> None:
        """Processes end with each step."""

    def start(self) -> Worker:
        """A new process."""
        return Process()

    def wait(self, workers: Sequence[Worker], seconds: float) -> list[Worker]:
        """Those that have sent something, or ended."""
        pipes = {worker.pipe: worker for worker in workers if isinstance(worker, Process)}
        return [pipes[pipe] for pipe in wait(list(pipes), seconds) if isinstance(pipe, Connection)]


class Process(Worker):
    """One process and the pipe to it."""

    def __init__(self) -> None:
        """Start it."""
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there,))
        self._process.start()
        there.close()
        self.name = f"worker process {self._process.pid}"
        self._fresh = True

    def give(self, work: Callable[[Any], Any], task: Any) -> None:
        """Send it a task."""
        try:
            self.pipe.send((work, task))
        except OSError:
            raise Died(self._exit()) from None

    def take(self) -> Any:
        """What it sent."""
        try:
            outcome: Said = self.pipe.recv()
        except (EOFError, OSError):
            raise Died(self._exit()) from None
        if self._fresh:
            self._fresh = False
            return READY
        return unpacked(outcome)

    def end(self) -> None:
        """Have it stop, and see that it does."""
        self.pipe.close()
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()

    def _exit(self) -> str:
        """How it ended."""
        self._process.join(PATIENCE)
        code = self._process.exitcode
        if code is not None and code < 0:
            with suppress(ValueError):
                return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"


def _serve(pipe: Connection) -> None:
    """In a worker: do the tasks that come, until none comes any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the job ends its workers itself
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipe.send((True, None, ""))
    while True:
        try:
            work, task = pipe.recv()
        except (EOFError, OSError):
            return
        except Exception as error:  # noqa: BLE001  (what came is not found here)
            pipe.send((False, _unsent(error), ""))
            continue
        outcome = said(work, task)
        try:
            pipe.send(outcome)
        except OSError:
            return
        except Exception as error:  # noqa: BLE001  (a receipt that cannot be sent)
            pipe.send((False, _unsent(error), outcome[2]))


def _unsent(error: Exception) -> BackendFailed:
    return BackendFailed(f"between processes: {type(error).__name__}: {error}")


def _end(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    """End when the process that started this one is gone, killed or not."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
