"""Compaction: small segments become one, and deleted rows go."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rag.collection import folders, manifest
from rag.collection.build import (
    Built,
    InCollection,
    IndexTask,
    Settings,
    aside,
    build_index,
    index_key,
    vectors_key,
)
from rag.collection.kinds import EncodedKind
from rag.collection.manifest import Manifest, SegmentEntry
from rag.collection.partitions import compacted, partition_key
from rag.collection.segments import FORMAT, PASSAGES, write_segment
from rag.collection.snapshot import read_deleted
from rag.collection.writing import (
    Done,
    Job,
    index_entries,
    settings_of,
    with_deleted,
)
from rag.errors import Conflict, Damaged
from rag.passages import FieldType, passage_schema


def compact(collection: Path, job: Job) -> Done:
    """Merge neighbouring segments up to the job's rows, and drop deleted rows.

    What others add or delete meanwhile is kept: new segments stay, and newly hidden rows are
    hidden in the merged segments.

    Raises:
        Conflict: another job rewrote the segments meanwhile.
    """
    old = manifest.read(collection)
    tasks = list(_compactions(collection, old, job.segment_rows))
    if not tasks:
        return Done(old, unchanged=True)
    receipts: dict[str, Built] = {}
    for done, (task, built) in enumerate(job.executor.map(build_compacted, tasks), 1):
        receipts[task.folders[0]] = built
        job.progress("merge", done, len(tasks))

    def change(current: Manifest) -> Manifest:
        _check_still(collection, old, current, tasks)
        return _rewritten(collection, current, tasks, receipts)

    committed = manifest.commit(collection, change)
    dropped = sum(sum(task.rows) for task in tasks) - sum(b.entry.rows for b in receipts.values())
    return Done(committed, deleted=dropped)


def _check_still(
    collection: Path, old: Manifest, current: Manifest, tasks: Sequence[CompactTask]
) -> None:
    """Whether what the tasks merged still stands in ``current``, row by row and side by side."""
    names = [entry.folder for entry in current.segments]
    for task in tasks:
        first = names.index(task.folders[0]) if task.folders[0] in names else 0
        if tuple(names[first : first + len(task.folders)]) != task.folders:
            raise Conflict(f"{collection}: was rewritten while the job ran; run the command again")
    if settings_of(old) != settings_of(current):
        raise Conflict(f"{collection}: its indexes changed while the job ran; run it again")


def _rewritten(
    collection: Path,
    current: Manifest,
    tasks: Sequence[CompactTask],
    receipts: Mapping[str, Built],
) -> Manifest:
    """``current`` with each run of a task replaced by what was built from it."""
    inside = {folder for task in tasks for folder in task.folders}
    segments = [built for built in _replaced(current, inside, receipts) if built.entry.rows]
    trained = {name: entry.trained for name, entry in current.indexes.items()}
    new = current.model_copy(
        update={
            "segments": tuple(built.entry for built in segments),
            "indexes": index_entries(current, segments, trained),
            "deleted": {k: rows for k, rows in current.deleted.items() if k not in inside},
        }
    )
    carried = {
        receipts[task.folders[0]].entry.folder: rows
        for task in tasks
        if len(rows := _hidden_since(collection, current, task))
    }
    return with_deleted(collection, new, carried)


def _replaced(
    current: Manifest, inside: Collection[str], receipts: Mapping[str, Built]
) -> Iterator[Built]:
    for place, entry in enumerate(current.segments):
        if entry.folder in receipts:
            yield receipts[entry.folder]
        elif entry.folder not in inside:
            indexes = {name: index.folders[place] for name, index in current.indexes.items()}
            encoded = {n: i.vectors[place] for n, i in current.indexes.items() if i.vectors}
            yield Built(entry, indexes, encoded)


def _hidden_since(collection: Path, current: Manifest, task: CompactTask) -> NDArray[np.int64]:
    """The rows of the merged segment that were hidden after the task was made, ascending."""
    found: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    start = 0
    for folder, rows, gone in zip(task.folders, task.rows, task.deleted, strict=True):
        kept = np.setdiff1d(np.arange(rows), np.array(gone or (), np.int64))
        if folder in current.deleted:
            hidden = read_deleted(collection, current.deleted[folder])
            found.append(start + np.flatnonzero(np.isin(kept, hidden)))
        start += len(kept)
    return np.concatenate(found)


def _compactions(collection: Path, old: Manifest, rows: int) -> Iterator[CompactTask]:
    """Runs of neighbouring segments to rewrite as one: several small ones, or with deletions."""
    run: list[int] = []

    def live(place: int) -> int:
        entry = old.segments[place]
        gone = old.deleted.get(entry.folder)
        return entry.rows - (gone.rows if gone else 0)

    def task() -> Iterator[CompactTask]:
        if len(run) > 1 or any(old.segments[place].folder in old.deleted for place in run):
            yield _compaction(collection, old, run)

    for place in range(len(old.segments)):
        if run and sum(map(live, run)) + live(place) > rows:
            yield from task()
            run = []
        run.append(place)
    yield from task()


def _compaction(collection: Path, old: Manifest, run: Sequence[int]) -> CompactTask:
    entries = [old.segments[place] for place in run]
    gone = [
        tuple(read_deleted(collection, old.deleted[entry.folder]).tolist())
        if entry.folder in old.deleted
        else None
        for entry in entries
    ]
    return CompactTask(
        collection,
        tuple(entry.folder for entry in entries),
        tuple(entry.rows for entry in entries),
        tuple(gone),
        old.fields,
        settings_of(old),
        {name: tuple(entry.folders[p] for p in run) for name, entry in old.indexes.items()},
        {n: tuple(e.vectors[p] for p in run) for n, e in old.indexes.items() if e.vectors},
    )


@dataclass(frozen=True)
class CompactTask(InCollection):
    """Rewrite a run of segments as one, without their deleted rows.

    ``folders`` are the segments' in order, ``deleted`` the hidden rows of each (None for none),
    ``indexes`` are merged; ``index_folders`` and ``vectors`` are the folders of each segment, by
    index name.
    """

    collection: Path
    folders: tuple[str, ...]
    rows: tuple[int, ...]
    deleted: tuple[tuple[int, ...] | None, ...]
    fields: Mapping[str, FieldType]
    indexes: Settings
    index_folders: dict[str, tuple[str, ...]]
    vectors: dict[str, tuple[str, ...]]

    @property
    def label(self) -> str:
        """How much is merged."""
        return f"{len(self.folders)} segments of {sum(self.rows):,} passages"


def build_compacted(task: CompactTask) -> Built:
    """Write the segment of a ``CompactTask`` and its indexes; no text is tokenised or encoded."""
    _check(task)
    keep = [
        None if gone is None else ~np.isin(np.arange(rows), gone)
        for rows, gone in zip(task.rows, task.deleted, strict=True)
    ]
    gone = [None if rows is None else list(rows) for rows in task.deleted]
    key = folders.key_of("compacted", FORMAT, list(task.folders), gone)
    segments = task.collection / "segments"
    covers: list[tuple[str, int]] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for folder, mask in zip(task.folders, keep, strict=True):
            for batch in _kept(segments / folder / PASSAGES, mask):
                covers.append((partition_key(batch), batch.num_rows))
                yield batch

    with aside(task.collection) as out:
        rows, characters = write_segment(batches(), passage_schema(task.fields), out)
        name = folders.publish(out, segments, key)
    entry = SegmentEntry(folder=name, rows=rows, characters=characters, covers=tuple(covers))
    built = Built(entry, {}, {})
    gathered: dict[str, str] = {}
    for index in task.indexes:
        kind = index.kind
        if isinstance(kind, EncodedKind):
            whole = vectors_key(key, kind)
            if whole not in gathered:
                sources = [task.collection / "vectors" / part for part in task.vectors[index.name]]
                with aside(task.collection) as out:
                    kind.gather(sources, keep, out)
                    gathered[whole] = folders.publish(out, task.collection / "vectors", whole)
            built.vectors[index.name] = gathered[whole]
            built.indexes[index.name] = build_index(
                IndexTask(task.collection, index, gathered[whole])
            )
            continue
        target = task.collection / "indexes" / index.name
        parts = [target / folder for folder in task.index_folders[index.name]]
        with aside(task.collection) as out:
            kind.merge(parts, keep, out)
            built.indexes[index.name] = folders.publish(out, target, index_key(key, index))
    return built


def _check(task: CompactTask) -> None:
    """``Damaged`` if a byte of what is merged changed: the new folder's sums would bless it."""
    paths = [task.collection / "segments" / folder for folder in task.folders]
    for name, names in task.index_folders.items():
        paths += [task.collection / "indexes" / name / folder for folder in names]
    vectors = {folder for names in task.vectors.values() for folder in names}
    trained = {index.trained for index in task.indexes if index.trained is not None}
    paths += [task.collection / "vectors" / folder for folder in sorted(vectors)]
    paths += [task.collection / "trained" / folder for folder in sorted(trained)]
    for error in itertools.chain.from_iterable(map(folders.damage, paths)):
        raise Damaged(f"{error}; 'rag index' from the source repairs it")


def _kept(file: Path, mask: np.ndarray[Any, np.dtype[np.bool_]] | None) -> Iterator[pa.RecordBatch]:
    """The batches of a file of passages without the rows that the mask drops."""
    start = 0
    with pa.memory_map(str(file)) as source:
        reader = pa.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            end = start + batch.num_rows
            kept = batch if mask is None else compacted(batch, np.flatnonzero(mask[start:end]))
            start = end
            if kept.num_rows:
                yield kept
