"""What indexes learn from a sample of the whole collection, before they are built."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag.collection import folders
from rag.collection.build import Built, InCollection, IndexSpec, SegmentTask, aside, key_in
from rag.collection.kinds import TrainedKind
from rag.collection.writing import Job
from rag.errors import Damaged

SEED = 1
"""Of the sample that is drawn."""


@dataclass(frozen=True)
class TrainTask(InCollection):
    """Train an index on a sample of the vectors of all segments: their folders and rows."""

    collection: Path
    index: IndexSpec
    key: str
    vectors: tuple[tuple[str, int], ...]

    @property
    def label(self) -> str:
        """Which index."""
        return f"what index {self.index.name} learns"


def trained(
    tasks: Sequence[SegmentTask], built: Sequence[Built], job: Job, anew: Collection[str]
) -> dict[str, str]:
    """The folder of what each index that needs training has learnt, by its name.

    What an index has learnt before is kept, but for those whose names are in ``anew``, unless they
    have learnt it from these very passages.

    Raises:
        Damaged: what is kept was damaged meanwhile.
        InvalidInput: there are too few passages to learn from.
    """
    collection = tasks[0].collection
    passages = [piece.key for task in tasks for piece in task.pieces]
    learnt: dict[str, str] = {}
    todo: list[TrainTask] = []
    for index in tasks[0].indexes:
        kind = index.kind
        if not isinstance(kind, TrainedKind):
            continue
        key = folders.key_of(
            "trained", index.type, kind.format, dict(index.settings), SEED, passages
        )
        before = index.trained
        if before is not None and (index.name not in anew or key_in(before) == key):
            for error in folders.damage(collection / "trained" / before):
                raise Damaged(f"{error}; 'rag index' from the source repairs it")
            learnt[index.name] = before
            continue
        if not kind.training_rows():
            continue
        parts = tuple((one.vectors[index.name], one.entry.rows) for one in built)
        todo.append(TrainTask(collection, index, key, parts))
    if todo:
        job.progress("train", 0, len(todo))
    for done, (task, folder) in enumerate(job.executor.map(train, todo), 1):
        job.progress("train", done, len(todo))
        learnt[task.index.name] = folder
    return learnt


def train(task: TrainTask) -> str:
    """Train an index; returns the name of the folder of what it has learnt."""
    kind = task.index.kind
    assert isinstance(kind, TrainedKind)  # no other kind has such a task
    parts = [task.collection / "vectors" / folder for folder, _ in task.vectors]
    keep = sample([rows for _, rows in task.vectors], kind.training_rows())
    with aside(task.collection) as drawn, aside(task.collection) as out:
        kind.gather(parts, keep, drawn)
        kind.train(drawn, out)
        return folders.publish(out, task.collection / "trained", task.key)


def sample(rows: Sequence[int], most: int) -> list[NDArray[np.bool_] | None]:
    """Which of the ``rows`` of each part are drawn, at most so many of all; None for every one.

    The rows of all parts count through, so that it does not matter how they are cut into parts.
    """
    total = sum(rows)
    if total <= most:
        return [None] * len(rows)
    mask = np.zeros(total, np.bool_)
    mask[np.random.default_rng(SEED).choice(total, most, replace=False, shuffle=False)] = True
    return list(np.split(mask, np.cumsum(rows)[:-1]))
