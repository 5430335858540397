"""Adding documents, also while others write: what is built is fitted to the state it meets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag.collection import manifest
from rag.collection.build import Built, Piece, SegmentTask
from rag.collection.existing import Existing, OnExisting
from rag.collection.index_job import build_all, read_pieces, segment_tasks
from rag.collection.intact import NOTHING
from rag.collection.manifest import Manifest
from rag.collection.segments import Segment
from rag.collection.snapshot import Snapshot
from rag.collection.writing import (
    Done,
    Job,
    appended,
    per_segment,
    settings_of,
    with_deleted,
)
from rag.errors import Conflict
from rag.sources import Reader

Rows = Mapping[str, NDArray[np.int64]]
"""Rows by the folder of their segment."""


@dataclass(frozen=True)
class _Fitted:
    """The addition to one state: new segments, rows to hide in old ones and in the new.

    ``trained`` are the folders of what indexes have learnt, by name. ``skipped`` of the new
    segments' passages are there already: they are hidden, or their segment is left out.
    """

    built: Sequence[Built]
    trained: Mapping[str, str]
    replaced: Rows
    hidden: Rows
    skipped: int = 0

    @property
    def added(self) -> int:
        """The passages that show."""
        return sum(r.entry.rows for r in self.built) - sum(map(len, self.hidden.values()))

    @property
    def deleted(self) -> int:
        """The old passages that give way."""
        return sum(map(len, self.replaced.values()))


def add(collection: Path, reader: Reader, on_existing: OnExisting, job: Job) -> Done:
    """Add the passages of ``reader`` as new segments; one commit for additions and deletions.

    Documents that another writer adds meanwhile are looked at again before the commit, and
    ``on_existing`` decides on them as on those that were there before.

    Raises:
        InvalidInput: a document is there already and ``on_existing`` is ``fail``.
        Conflict: the fields or the splitting were changed meanwhile.
    """
    base = Snapshot(collection, manifest.read(collection))
    chosen = Existing(base, on_existing)
    plan = read_pieces(collection, reader, chosen.filter(reader), {}, base.manifest, job)
    built = _segments(collection, plan, base.manifest, job, {piece.key for piece in plan})
    fitted = _Fitted(*built, per_segment(base, chosen.replaced()), {})

    def change(current: Manifest) -> Manifest:
        nonlocal fitted
        if current.number != base.manifest.number:
            ours = _rebuilt(collection, plan, built, (base.manifest, current), job)
            fitted = _fitted(Snapshot(collection, current), *ours, on_existing)
        if not fitted.built and not fitted.replaced:
            return current
        grown = appended(current, fitted.built, fitted.trained)
        return with_deleted(collection, grown, {**fitted.replaced, **fitted.hidden})

    committed = manifest.commit(collection, change)
    return Done(
        committed,
        added=fitted.added,
        deleted=fitted.deleted,
        skipped=chosen.skipped + fitted.skipped,
        unchanged=not fitted.built and not fitted.replaced,
    )


def _segments(
    collection: Path, plan: Sequence[Piece], state: Manifest, job: Job, fresh: set[str]
) -> tuple[list[Built], dict[str, str]]:
    tasks = segment_tasks(collection, plan, state, None, job)
    return build_all([_apart(task, state) for task in tasks], NOTHING, job, fresh)


def _apart(task: SegmentTask, state: Manifest) -> SegmentTask:
    """The task under a key that no segment of ``state`` has.

    The same passages may have been added before and deleted since; then one folder would stand
    for both, and its deleted rows would hide the new ones.
    """
    taken = {entry.key for entry in state.segments}
    while task.key in taken:
        task = replace(task, copy=task.copy + 1)
    return task


def _rebuilt(
    collection: Path,
    plan: Sequence[Piece],
    built: tuple[list[Built], dict[str, str]],
    states: tuple[Manifest, Manifest],
    job: Job,
) -> tuple[list[Built], dict[str, str]]:
    """What was ``built`` for the first of two ``states``, for the second."""
    base, current = states
    if (base.fields, base.split) != (current.fields, current.split):
        raise Conflict(
            f"{collection}: another job changed the fields or the splitting while this one ran; "
            "run the command again"
        )
    taken = {entry.key for entry in current.segments}
    clash = any(receipt.entry.key in taken for receipt in built[0])
    if not clash and settings_of(base) == settings_of(current):
        return built
    return _segments(collection, plan, current, job, set())


def _fitted(
    state: Snapshot, built: Sequence[Built], trained: Mapping[str, str], on_existing: OnExisting
) -> _Fitted:
    """The addition of what is ``built`` to a ``state`` that was not known when it was read."""
    existing = Existing(state, on_existing)
    kept: list[Built] = []
    hidden: dict[str, NDArray[np.int64]] = {}
    skipped = 0
    for receipt in built:
        folder = state.path / "segments" / receipt.entry.folder
        batches = Segment(folder, receipt.entry.rows).batches
        there = np.concatenate([existing.refused(batch) for batch in batches])
        skipped += int(there.sum())
        if there.all():
            continue
        kept.append(receipt)
        if there.any():
            hidden[receipt.entry.folder] = np.flatnonzero(there)
    return _Fitted(kept, trained, per_segment(state, existing.replaced()), hidden, skipped)
