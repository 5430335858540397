"""The index job: make a collection equal a source, or add an index to it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from rag.collection import build, folders, manifest
from rag.collection.build import (
    Built,
    IndexSpec,
    IndexTask,
    Piece,
    PieceTask,
    SegmentTask,
    Settings,
)
from rag.collection.intact import NOTHING, Intact, intact
from rag.collection.kinds import EncodedKind
from rag.collection.manifest import IndexEntry, Manifest, SegmentEntry
from rag.collection.partitions import PARTITION_ROWS, partition_key, partitions, runs
from rag.collection.segments import PASSAGES
from rag.collection.snapshot import read_deleted
from rag.collection.training import trained
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

    ``wanted`` has the fields, split, mapping, pipeline and indexes (without folders) to reach. An
    index that is trained is trained anew, unless it was trained on these very passages.
    """
    old = manifest.read(collection) if manifest.numbers(collection) else None
    found = intact(collection, old) if old is not None else NOTHING
    there = found.manifest
    kept = _pieces(collection, there)
    wanted = _with_trained(wanted, there)
    plan = read_pieces(collection, reader, reader, kept, wanted, job, found)
    covers = [(piece.key, piece.rows) for piece in plan]
    if there is not None and not there.deleted and _covers(there) == covers:
        # However it is cut into segments, by additions or compaction: it holds the source.
        tasks = [_task_of(collection, entry, wanted) for entry in there.segments]
    else:
        tasks = segment_tasks(collection, plan, wanted, there, job)
    fresh = {piece.key for piece in plan if piece.key not in kept}
    new = manifest_of(wanted, *build_all(tasks, found, job, fresh, wanted.indexes))
    if old is not None and old.model_copy(update={"number": 0}) == new:
        return Done(old, unchanged=there == old)
    committed = commit_after(collection, old, lambda _: new)
    if old is None:
        return Done(committed, added=committed.rows)
    same = _shown(collection, old, {piece.key for piece in plan})
    return Done(committed, added=committed.rows - same, deleted=old.live - same)


def add_indexes(
    collection: Path, wanted: Mapping[str, IndexEntry], job: Job, *, retrain: bool = False
) -> Done:
    """Build further indexes of the passages that are there.

    ``retrain`` trains those of them anew that are there already and were trained on others.
    """
    old = manifest.read(collection)
    found = intact(collection, old)
    there = found.manifest
    assert there is not None  # since there is an old one
    if len(there.segments) < len(old.segments):
        kept = {entry.folder for entry in there.segments}
        lost = next(entry.folder for entry in old.segments if entry.folder not in kept)
        error = next(folders.damage(collection / "segments" / lost))
        raise Damaged(f"{error}; 'rag index' from the source repairs it")
    goal = old.model_copy(update={"indexes": {**old.indexes, **wanted}})
    goal = _with_trained(goal, there)
    tasks = [_task_of(collection, entry, goal) for entry in old.segments]
    built, learnt = build_all(tasks, found, job, anew=wanted if retrain else ())
    indexes = index_entries(goal, built, learnt)
    if indexes == old.indexes:
        return Done(old, unchanged=there == old)

    def change(current: Manifest) -> Manifest:
        # Rows that were hidden meanwhile do not matter to an index.
        if (current.segments, current.indexes) != (old.segments, old.indexes):
            raise Conflict(f"{collection}: changed while the job ran; run the command again")
        return current.model_copy(update={"indexes": indexes})

    return Done(manifest.commit(collection, change))


def _with_trained(goal: Manifest, there: Manifest | None) -> Manifest:
    """``goal`` with what its indexes have learnt where they are ``there`` with these settings."""
    indexes = {}
    for name, entry in goal.indexes.items():
        before = there.indexes.get(name) if there is not None else None
        same = before is not None and (before.type, before.settings) == (entry.type, entry.settings)
        learnt = before.trained if before is not None and same else None
        indexes[name] = entry.model_copy(update={"trained": learnt})
    return goal.model_copy(update={"indexes": indexes})


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
    found: Intact = NOTHING,
) -> list[Piece]:
    """Cut ``batches`` into pieces, and build what indexes need of those that are not ``kept``.

    ``reader`` is where the batches come from, and says how far it has read. Vectors that ``found``
    has are not built.
    """
    plan: list[Piece] = []
    indexes = settings_of(wanted)
    made = kept_rows = planned = 0

    def tell() -> None:
        done = made + kept_rows
        job.progress("read", reader.bytes_read * done // max(planned, 1), reader.bytes_total)
        job.progress("rows", made, None)

    def tasks() -> Iterator[PieceTask]:
        nonlocal kept_rows, planned
        for batch in partitions(batches, min(PARTITION_ROWS, job.segment_rows)):
            key = partition_key(batch)
            piece = kept.get(key) or build.keep_piece(collection, batch, key)
            plan.append(piece)
            planned += piece.rows
            kept_rows += piece.rows if key in kept else 0
            tell()
            if key not in kept:
                yield PieceTask(collection, piece, _lacking(indexes, piece, found))

    job.progress("read", 0, reader.bytes_total)
    for _, rows in job.executor.map(build.build_piece, tasks()):
        made += rows
        tell()
    job.progress("read", reader.bytes_total, reader.bytes_total)
    return plan


def _lacking(indexes: Settings, piece: Piece, found: Intact) -> Settings:
    """The indexes without those whose vectors of a piece are there."""

    def lacks(index: IndexSpec) -> bool:
        kind = index.kind
        if not isinstance(kind, EncodedKind):
            return True
        return build.vectors_key(piece.key, kind) not in found.ranges

    return tuple(index for index in indexes if lacks(index))


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


def _task_of(collection: Path, entry: SegmentEntry, wanted: Manifest) -> SegmentTask:
    """The task of a segment that is there, for the indexes that it lacks."""
    file = collection / "segments" / entry.folder / PASSAGES
    pieces = [Piece(key, rows, file, number) for number, (key, rows) in enumerate(entry.covers)]
    return SegmentTask(collection, tuple(pieces), wanted.fields, settings_of(wanted), entry.folder)


def build_all(
    tasks: Sequence[SegmentTask],
    found: Intact,
    job: Job,
    fresh: Collection[str] = (),
    anew: Collection[str] = (),
) -> tuple[list[Built], dict[str, str]]:
    """Build the segments and indexes that are not ``found``, in three steps.

    First segments with their plain indexes and their vectors, then what indexes learn from the
    vectors of all these segments, then encoded indexes.

    Args:
        tasks: one for each segment; all have the same indexes.
        found: what is there and whole.
        job: how it runs.
        fresh: the keys of the pieces that this job has just built.
        anew: the names of indexes that learn anew, if they have learnt from other passages.

    Returns:
        Receipts in order, and the folder of what is trained by index name.
    """
    if not tasks:
        return [], {}
    built = _build_segments([_filled(task, found) for task in tasks], found, job, fresh)
    learnt = trained(tasks, built, job, anew)
    indexes = [replace(index, trained=learnt.get(index.name)) for index in tasks[0].indexes]
    return _build_encoded(tasks[0].collection, indexes, built, found, job), learnt


def _filled(task: SegmentTask, found: Intact) -> SegmentTask:
    """The task with the vectors that it can take from what is there."""
    kinds = [kind for index in task.indexes if isinstance(kind := index.kind, EncodedKind)]
    wholes = {build.vectors_key(task.key, kind) for kind in kinds}
    parts = {build.vectors_key(piece.key, kind) for kind in kinds for piece in task.pieces}
    return replace(
        task,
        vectors={key: found.vectors[key] for key in wholes if key in found.vectors},
        ranges={key: found.ranges[key] for key in parts if key in found.ranges},
    )


def _build_segments(
    tasks: Sequence[SegmentTask], found: Intact, job: Job, fresh: Collection[str]
) -> list[Built]:
    """Build segments, plain indexes and vectors; receipts in order."""
    segments = found.manifest.segments if found.manifest is not None else ()
    entries = {entry.folder: entry for entry in segments}
    there = [_there(task, found) for task in tasks]
    todo: list[SegmentTask] = []
    for task, (indexes, vectors) in zip(tasks, there, strict=True):
        missing = [i for i in task.indexes if i.name not in indexes and i.name not in vectors]
        if task.folder is None or missing:
            todo.append(replace(task, indexes=tuple(missing)))
    pieces = {
        piece.key: PieceTask(task.collection, piece, lacking)
        for task in todo
        for piece in task.pieces
        if piece.key not in fresh and (lacking := _lacking(task.indexes, piece, found))
    }
    job.progress("index", 0, len(pieces))
    for done, _ in enumerate(job.executor.map(build.build_piece, pieces.values()), 1):
        job.progress("index", done, len(pieces))
    made: dict[str, Built] = {}
    job.progress("merge", 0, len(todo))
    for done, (task, one) in enumerate(job.executor.map(build.build_segment, todo), 1):
        made[task.key] = one
        job.progress("merge", done, len(todo))
    receipts = []
    for task, (indexes, vectors) in zip(tasks, there, strict=True):
        new = made.get(task.key)
        entry = entries[task.folder] if task.folder is not None else made[task.key].entry
        if new is not None:
            indexes, vectors = {**indexes, **new.indexes}, {**vectors, **new.vectors}
        receipts.append(Built(entry, indexes, vectors))
    return receipts


def _there(task: SegmentTask, found: Intact) -> tuple[dict[str, str], dict[str, str]]:
    """The folders of plain indexes, and of vectors, that a segment has, by index name."""
    indexes: dict[str, str] = {}
    vectors: dict[str, str] = {}
    for index in task.indexes:
        kind = index.kind
        if isinstance(kind, EncodedKind):
            folder = task.vectors.get(build.vectors_key(task.key, kind))
            known = vectors
        else:
            folder = found.indexes.get((index.name, build.index_key(task.key, index)))
            known = indexes
        if folder is not None:
            known[index.name] = folder
    return indexes, vectors


def _build_encoded(
    collection: Path, indexes: Sequence[IndexSpec], built: Sequence[Built], found: Intact, job: Job
) -> list[Built]:
    """Build the encoded indexes of all segments; the receipts with them."""
    made: dict[tuple[str, str], str] = {}
    todo: list[IndexTask] = []
    for index in indexes:
        for one in built if isinstance(index.kind, EncodedKind) else ():
            task = IndexTask(collection, index, one.vectors[index.name])
            folder = found.indexes.get((index.name, task.key))
            if folder is None:
                todo.append(task)
            else:
                made[index.name, task.vectors] = folder
    if todo:
        job.progress("build", 0, len(todo))
    for done, (task, folder) in enumerate(job.executor.map(build.build_index, todo), 1):
        made[task.index.name, task.vectors] = folder
        job.progress("build", done, len(todo))
    return [
        replace(one, indexes={**one.indexes, **{n: made[n, v] for n, v in one.vectors.items()}})
        for one in built
    ]
