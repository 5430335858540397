"""Cancelling, deadlines and streaming."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from rag import Answer, Batch, Columns, Context, Pipeline, Run, Stage
from rag.errors import StageFailed
from rag.flow import Branch, Unless
from rag.ranking import Hit, Ranking
from rag.run import Cancel
from rag.stage import Step
from rag.testing import MemorySnapshot
from rag.where import Where

WIKI: Any = MemorySnapshot([{"id": "a", "text": "alpha"}, {"id": "b", "text": "beta"}])


class Find(Stage, name="calls_find_test"):
    """Ranks two passages."""

    def columns(self, have: Columns) -> Columns:
        return have.put(documents="ranking")

    def open(self, context: Context) -> Step:
        snapshot = context.snapshot()

        def step(batch: Batch, run: Run) -> Batch:
            return batch.put(documents=Ranking.of([[(0, 2.0), (1, 1.0)]] * len(batch), snapshot))

        return step


class Speak(Stage, name="calls_speak_test"):
    """Emits tokens; without an end it speaks until nobody waits, and fails where it says "bad"."""

    endless: bool = False

    def columns(self, have: Columns) -> Columns:
        return have.put(answer="str")

    def open(self, context: Context) -> Step:
        def step(batch: Batch, run: Run) -> Batch:
            waiting, word = set(range(len(batch))), 0
            while waiting and (self.endless or word < 2):
                for row in waiting:
                    run.emit(row, "token", f"{batch['question'][row]}{word}")
                time.sleep(0.001)
                word += 1
                waiting -= run.cancelled()
                STOPPED.extend(batch.ids[row] for row in run.cancelled())
            for row, question in enumerate(batch["question"]):
                if question == "bad":
                    run.fail(row, ValueError("bad word"))
            return batch.put(answer=list(batch["question"]))

        return step


class Sleep(Stage, name="calls_sleep_test"):
    """Takes its time."""

    def columns(self, have: Columns) -> Columns:
        return have

    def open(self, context: Context) -> Step:
        def step(batch: Batch, run: Run) -> Batch:
            assert run.deadline is not None
            time.sleep(max(0.0, run.deadline - time.monotonic()) + 0.001)
            return batch

        return step


STOPPED: list[str] = []


def threads() -> int:
    return sum(thread.name == "rag-pipeline" for thread in threading.enumerate())


def test_a_stream_tells_of_passages_and_tokens_and_ends_with_the_answer() -> None:
    with Pipeline([Branch(a=[Find()]), Find(), Speak()], WIKI) as pipeline:
        events = list(pipeline.stream("q"))
    assert [event.kind for event in events] == ["passages", "passages", "token", "token", "answer"]
    assert events[0].value == (Hit("a", "", "alpha", 2.0), Hit("b", "", "beta", 1.0))
    assert [event.value for event in events[2:4]] == ["q0", "q1"]
    assert isinstance(events[-1].value, Answer)
    assert events[-1].value.text == "q"


def test_a_stream_raises_what_ask_raises() -> None:
    with pytest.raises(StageFailed, match="stage 'calls_speak_test': ValueError: bad word"):
        list(Pipeline([Speak()]).stream("bad"))


def test_closing_a_stream_cancels_and_leaves_no_thread() -> None:
    STOPPED.clear()
    stream = Pipeline([Speak(endless=True)]).stream("q")
    assert next(stream).value == "q0"
    stream.close()
    assert STOPPED == ["0"]
    assert threads() == 0


def test_rows_are_cancelled_one_by_one_and_none_is_lost() -> None:
    """Row numbers are those of the batch given, although others failed or skipped before."""
    cancel, heard = Cancel(), set[int]()

    def listener(row: int, kind: str, value: Any) -> None:
        heard.add(row)
        cancel.row(row)

    stages = [
        Unless(when=Where({"question": {"in": ["skip"]}}), stages=[Speak(endless=True)]),
        Find(),
    ]
    batch = Batch.of(["skip", "x", "skip", "y"], ["a", "b", "c", "d"])
    batch = batch.put(error=[{"stage": "s", "kind": "k", "message": "m"}, None, None, None])
    after = Pipeline(stages, WIKI).run(batch, cancel=cancel, listener=listener)
    assert heard == {1, 2, 3}  # passages of the row that skips
    assert after.ids == batch.ids
    kinds = [error and error["kind"] for error in after["error"]]
    assert kinds == ["k", "Cancelled", None, "Cancelled"]  # the last stage was done with row 2
    assert after["error"][1]["message"] == "cancelled in stage 'calls_speak_test'"


def test_what_is_cancelled_before_it_starts_does_nothing() -> None:
    cancel = Cancel()
    cancel.all()
    after = Pipeline([Speak(endless=True)]).run(["a", "b"], cancel=cancel)
    assert {error["message"] for error in after["error"]} == {
        "cancelled before stage 'calls_speak_test'"
    }


def test_a_deadline_fails_the_rows_that_are_left_at_the_next_stage() -> None:
    inside = Unless(when=Where({"question": "b"}), stages=[Sleep(), Speak()])
    after = Pipeline([inside, Find()], WIKI).run(["a", "b"], timeout=0.01)
    assert [dict(error) for error in after["error"]] == [
        {
            "stage": stage,
            "kind": "DeadlinePassed",
            "message": f"the time given ended before stage {stage!r} began",
        }
        for stage in ("calls_speak_test", "calls_find_test")
    ]
    with pytest.raises(StageFailed, match="the time given ended"):
        Pipeline([Sleep(), Speak()]).ask("a", timeout=0.01)
    assert Pipeline([Speak()]).run(["a"], timeout=60)["error"] == (None,)


def test_async_forms_do_the_same_and_cancelling_frees_the_slot() -> None:
    async def main() -> None:
        pipeline = Pipeline([Speak()])
        assert (await pipeline.arun(["a", "bad"]))["answer"] == ("a", "bad")
        kinds = [event.kind async for event in pipeline.astream("q")]
        assert kinds == ["token", "token", "answer"]
        with pytest.raises(StageFailed):
            [event async for event in pipeline.astream("bad")]
        endless = Pipeline([Speak(endless=True)])
        task = asyncio.create_task(endless.arun(["q"]))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stream = endless.astream("q")
        assert (await anext(stream)).value == "q0"
        await stream.aclose()

    asyncio.run(main())
    end = time.monotonic() + 10
    while threads() and time.monotonic() < end:
        time.sleep(0.005)
    assert threads() == 0
