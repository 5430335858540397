"""Questions that end the process that answers them: found one by one, the others are answered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rag.batch import Batch
from rag.collection.folders import key_of
from rag.jobs import Executor, TasksLost
from rag.pipelines import run_parts
from rag.pipelines.run_rows import Part
from rag.pipelines.run_work import Task, lines, work

STAGE, KIND = "worker", "WorkerLost"
"""What ``error`` of a row says that no worker survived."""


def rescued(parts: TasksLost, run: Executor) -> Iterator[tuple[Task, str]]:
    """The lost parts again, a question at a time; those that are lost again get an ``error``.

    Yields:
        Each part with the name of its file.

    Raises:
        TasksLost: nothing could be done at all.
    """
    if parts.gave_up:
        raise parts
    for part in parts.lost:
        task: Task = part.task
        singles = [
            replace(task, key=key_of(task.key, row), part=Part((name,), (question,)))
            for row, (name, question) in enumerate(zip(*task.part, strict=True))
        ]
        made, why = dict[str, str](), part.why
        if len(singles) > 1:
            try:
                made |= ((single.key, name) for single, name in run.map(work, singles))
            except TasksLost as error:
                why = error.lost[0].why
        whole = [
            (task.folder / made[single.key]).read_bytes()
            if single.key in made
            else _line(single, why)
            for single in singles
        ]
        yield task, run_parts.publish(task.folder, task.key, b"".join(whole))
        _forget(task.folder, made)


def _line(single: Task, why: str) -> bytes:
    """The line of a question that was lost."""
    message = f"the process that answered it ended each time: {why}"
    error = {"stage": STAGE, "kind": KIND, "message": message}
    batch = Batch.of(single.part.questions, single.part.ids).put(error=[error])
    return b"".join(lines(single.spec, batch))


def _forget(folder: Path, made: dict[str, str]) -> None:
    for name in made.values():
        (folder / name).unlink(missing_ok=True)
