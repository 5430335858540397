"""The index job: make a collection equal a source, or add an index to it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from rag.collection import build, folders, manifest
from rag.collection.build import Built, Piece, PieceTask, SegmentTask
from rag.collection.manifest import IndexEntry, Manifest, SegmentEntry
from rag.collection.partitions import PARTITION_ROWS, partition_key, partitions, runs
from rag.collection.segments import PASSAGES
from rag.collection.snapshot import read_deleted
from rag.collection.writing import (
    Done,
    Job,
    commit_after,
    index_entries,
    manifest_of,
    settings_of,
)
from rag.errors import Conflict, Damaged
from rag.sources import Reader


def mirror(collection: Path, reader: Reader, wanted: Manifest, job: Job) -> Done:
    """Make the collection equal what ``reader`` yields; parts that are the same are kept.

    ``wanted`` has the fields, split, mapping, pipeline and indexes (without folders) to reach.
    """
    old = manifest.read(collection) if manifest.numbers(collection) else None
    there = _intact(collection, old) if old is not None else None
    kept = _pieces(collection, there)
    plan = read_pieces(collection, reader, reader, kept, wanted, job)
    covers = [(piece.key, piece.rows) for piece in plan]
    if there is not None and not there.deleted and _covers(there) == covers:
        # However it is cut into segments, by additions or compaction: it holds the source.
        tasks = [_task_of(collection, there, entry, wanted) for entry in there.segments]
    else:
        tasks = segment_tasks(collection, plan, wanted, there, job)
    fresh = {piece.key for piece in plan if piece.key not in kept}
    new = manifest_of(wanted, build_all(tasks, there, job, fresh))
    if old is not None and old.model_copy(update={"number": 0}) == new:
        return Done(old, unchanged=there == old)
    committed = commit_after(collection, old, lambda _: new)
    if old is None:
        return Done(committed, added=committed.rows)
    same = _shown(collection, old, {piece.key for piece in plan})
    return Done(committed, added=committed.rows - same, deleted=old.live - same)


def add_indexes(collection: Path, wanted: Mapping[str, IndexEntry], job: Job) -> Done:
    """Build further indexes of the passages that are there."""
    old = manifest.read(collection)
    there = _intact(collection, old)
    if len(there.segments) < len(old.segments):
        kept = {entry.folder for entry in there.segments}
        lost = next(entry.folder for entry in old.segments if entry.folder not in kept)
        error = next(folders.damage(collection / "segments" / lost))
        raise Damaged(f"{error}; 'rag index' from the source repairs it")
    goal = old.model_copy(update={"indexes": {**old.indexes, **wanted}})
    tasks = [_task_of(collection, old, entry, goal) for entry in old.segments]
    built = build_all(tasks, old.model_copy(update={"indexes": there.indexes}), job)
    indexes = index_entries(goal, [receipt.indexes for receipt in built])
    if indexes == old.indexes:
        return Done(old, unchanged=there == old)

    def change(current: Manifest) -> Manifest:
        # Rows that were hidden meanwhile do not matter to an index.
        if (current.segments, current.indexes) != (old.segments, old.indexes):
            raise Conflict(f"{collection}: changed while the job ran; run the command again")
        return current.model_copy(update={"indexes": indexes})

    return Done(manifest.commit(collection, change))


def _intact(collection: Path, old: Manifest) -> Manifest:
    """``old`` without what is missing or damaged on the disk, which is so built again.

    It reads every byte, which costs little beside reading the source.
    """

    def there(folder: str) -> bool:
        return not any(folders.damage(collection / folder))

    places = [n for n, entry in enumerate(old.segments) if there(f"segments/{entry.folder}")]
    indexes = {
        name: entry.model_copy(
            update={
                "folders": tuple(
                    folder if there(f"indexes/{name}/{folder}") else ""
                    for folder in (entry.folders[place] for place in places)
                )
            }
        )
        for name, entry in old.indexes.items()
    }
    segments = tuple(old.segments[place] for place in places)
    return old.model_copy(update={"segments": segments, "indexes": indexes})


def _covers(old: Manifest) -> list[tuple[str, int]]:
    return [part for entry in old.segments for part in entry.covers]


def _shown(collection: Path, old: Manifest, keys: set[str]) -> int:
    """How many passages of the partitions with these keys ``old`` shows."""
    shown = 0
    for entry in old.segments:
        hidden = np.empty(0, np.uint32)
        if entry.folder in old.deleted:
            with suppress(Damaged):  # then nobody knows which; it is a count for the report
                hidden = read_deleted(collection, old.deleted[entry.folder])
        ends = np.cumsum([0, *(rows for _, rows in entry.covers)])
        gone = np.diff(np.searchsorted(hidden, ends))
        live = [rows - less for (_, rows), less in zip(entry.covers, gone.tolist(), strict=True)]
        shown += sum(n for n, (key, _) in zip(live, entry.covers, strict=True) if key in keys)
    return shown


def _pieces(collection: Path, old: Manifest | None) -> dict[str, Piece]:
    """The partitions that the segments of a manifest hold, by key."""
    return {
        key: Piece(key, rows, collection / "segments" / entry.folder / PASSAGES, number)
        for entry in (old.segments if old is not None else ())
        for number, (key, rows) in enumerate(entry.covers)
    }


def read_pieces(
    collection: Path,
    reader: Reader,
    batches: Iterable[pa.RecordBatch],
    kept: Mapping[str, Piece],
    wanted: Manifest,
    job: Job,
) -> list[Piece]:
    """Cut ``batches`` into pieces, and build the indexes of those that are not ``kept``.

    ``reader`` is where the batches come from, and says how far it has read.
    """
    plan: list[Piece] = []
    indexes = settings_of(wanted)

    def tasks() -> Iterator[PieceTask]:
        for batch in partitions(batches, min(PARTITION_ROWS, job.segment_rows)):
            key = partition_key(batch)
            piece = kept.get(key) or build.keep_piece(collection, batch, key)
            plan.append(piece)
            job.progress("read", reader.bytes_read, reader.bytes_total)
            if key not in kept:
                yield PieceTask(collection, piece, indexes)

    job.progress("read", 0, reader.bytes_total)
    for _ in job.executor.map(build.build_piece, tasks()):
        job.progress("read", reader.bytes_read, reader.bytes_total)
    job.progress("read", reader.bytes_total, reader.bytes_total)
    return plan


def segment_tasks(
    collection: Path, plan: Sequence[Piece], wanted: Manifest, old: Manifest | None, job: Job
) -> list[SegmentTask]:
    """The segments that the pieces make, in order; those of ``old`` that are among them kept."""
    known = {entry.key: entry.folder for entry in (old.segments if old is not None else ())}
    by_key = {piece.key: piece for piece in plan}
    tasks = []
    for run in runs([(piece.key, piece.rows) for piece in plan], job.segment_rows):
        pieces = tuple(by_key[key] for key, _ in run)
        folder = known.get(build.segment_key(pieces))
        tasks.append(SegmentTask(collection, pieces, wanted.fields, settings_of(wanted), folder))
    return tasks


def _task_of(collection: Path, old: Manifest, entry: SegmentEntry, wanted: Manifest) -> SegmentTask:
    """The task of a segment that is there, for the indexes that it lacks."""
    file = collection / "segments" / entry.folder / PASSAGES
    pieces = [Piece(key, rows, file, number) for number, (key, rows) in enumerate(entry.covers)]
    return SegmentTask(collection, tuple(pieces), wanted.fields, settings_of(wanted), entry.folder)


def build_all(
    tasks: Sequence[SegmentTask], old: Manifest | None, job: Job, fresh: Collection[str] = ()
) -> list[Built]:
    """Build the segments and indexes that ``old`` does not have; receipts in order.

    ``fresh`` are the keys of the pieces whose indexes this job has just built.
    """
    entries = {entry.folder: entry for entry in (old.segments if old is not None else ())}
    receipts: dict[str, Built] = {}
    todo: list[SegmentTask] = []
    for task in tasks:
        there = _there(task, old)
        missing = tuple(part for part in task.indexes if part[0] not in there)
        if task.folder is not None:
            receipts[task.key] = Built(entries[task.folder], there)
        if task.folder is None or missing:
            todo.append(replace(task, indexes=missing))
    pieces = {
        piece.key: PieceTask(task.collection, piece, task.indexes)
        for task in todo
        for piece in task.pieces
        if piece.key not in fresh
    }
    job.progress("index", 0, len(pieces))
    for done, _ in enumerate(job.executor.map(build.build_piece, pieces.values()), 1):
        job.progress("index", done, len(pieces))
    job.progress("merge", 0, len(todo))
    for done, (task, built) in enumerate(job.executor.map(build.build_segment, todo), 1):
        before = receipts.get(task.key)
        if before is not None:
            built = Built(before.entry, {**before.indexes, **built.indexes})
        receipts[task.key] = built
        job.progress("merge", done, len(todo))
    return [receipts[task.key] for task in tasks]


def _there(task: SegmentTask, old: Manifest | None) -> dict[str, str]:
    """The folders of the indexes of a segment that are there with the settings of the task."""
    if task.folder is None or old is None:
        return {}
    place = [entry.folder for entry in old.segments].index(task.folder)
    key = task.folder.rpartition("-")[0]
    return {
        name: old.indexes[name].folders[place]
        for name, type_, settings in task.indexes
        if name in old.indexes
        and old.indexes[name].folders[place].rpartition("-")[0]
        == build.index_key(key, type_, settings)
    }
