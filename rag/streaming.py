"""Pipelines in threads: events as they happen, and the async forms."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from rag.run import Cancel

if TYPE_CHECKING:
    from rag.batch import Batch
    from rag.pipeline import Pipeline

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Event:
    """What happened while a question was answered.

    ``kind`` is ``passages`` (``value``: a tuple of ``Hit``), ``token`` (a text), ``answer`` (an
    ``Answer``; the last event), or what else a stage emits. ``row`` is the row of the batch.
    """

    kind: str
    value: Any
    row: int = 0


def streamed(
    pipeline: Pipeline, question: str, *, seed: int, timeout: float | None
) -> Generator[Event, None, None]:
    """The events of one question; see ``Pipeline.stream``."""
    cancel = Cancel()
    events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
    work = _answering(pipeline, question, events.put, cancel, seed=seed, timeout=timeout)
    future = _started(work)
    future.add_done_callback(lambda _: events.put(None))
    try:
        while (event := events.get()) is not None:
            yield event
    finally:
        cancel.all()
        future.exception()  # waits: nothing of the call is left when the generator is closed
    yield future.result()


async def astreamed(
    pipeline: Pipeline, question: str, *, seed: int, timeout: float | None
) -> AsyncGenerator[Event, None]:
    """The events of one question; see ``Pipeline.astream``."""
    cancel = Cancel()
    events: asyncio.Queue[Event | None] = asyncio.Queue()
    put = _from_threads(asyncio.get_running_loop(), events.put_nowait)
    work = _answering(pipeline, question, put, cancel, seed=seed, timeout=timeout)
    future = _started(work)
    future.add_done_callback(lambda _: put(None))
    try:
        while (event := await events.get()) is not None:
            yield event
    finally:
        cancel.all()
    yield future.result()


async def aran(
    pipeline: Pipeline, questions: Sequence[str] | Batch, *, seed: int, timeout: float | None
) -> Batch:
    """All questions, in a thread; see ``Pipeline.arun``."""
    cancel = Cancel()
    future = _started(lambda: pipeline.run(questions, seed=seed, timeout=timeout, cancel=cancel))
    try:
        return await asyncio.wrap_future(future)
    finally:
        cancel.all()


def _answering(
    pipeline: Pipeline,
    question: str,
    tell: Callable[[Event], object],
    cancel: Cancel,
    **options: Any,
) -> Callable[[], Event]:
    """The work of one question, which returns the last event."""
    from rag.pipeline import answer_of

    def listener(row: int, kind: str, value: Any) -> None:
        tell(Event(kind, value, row))

    def work() -> Event:
        batch = pipeline.run([question], listener=listener, cancel=cancel, **options)
        return Event("answer", answer_of(batch))

    return work


def _started(work: Callable[[], Result]) -> Future[Result]:
    """Run ``work`` in a thread of its own: a pool would make one call wait for another."""
    future: Future[Result] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name="rag-pipeline", daemon=True).start()
    return future


def _from_threads(
    loop: asyncio.AbstractEventLoop, put: Callable[[Event | None], object]
) -> Callable[[Event | None], object]:
    """``put`` for other threads; what comes when the loop is closed is for nobody."""

    def call(event: Event | None) -> None:
        try:
            loop.call_soon_threadsafe(put, event)
        except RuntimeError:  # the loop is closed, and with it who listened
            if not loop.is_closed():
                raise

    return call
