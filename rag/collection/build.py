"""The work of an index job: pieces from partitions, segments from pieces, indexes from vectors.

These are the functions that executors run. A task holds paths, keys and settings; what a
function makes is written aside, synced and renamed, and found again by its key, so a job that is
run again does only what is missing.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rag import registry
from rag.collection import folders
from rag.collection.kinds import EncodedKind, Pinned, PlainKind
from rag.collection.manifest import SegmentEntry
from rag.collection.partitions import partition_key
from rag.collection.segments import FORMAT, write_segment
from rag.errors import Damaged
from rag.passages import FieldType, passage_schema

WORK = ".work"


@dataclass(frozen=True)
class IndexSpec:
    """One index to build: its name, its type and settings, and the folder of what is trained."""

    name: str
    type: str
    settings: dict[str, Any]
    trained: str | None = None

    @property
    def kind(self) -> PlainKind | EncodedKind:
        """The index kind with these settings."""
        return kind_of(self.type, self.settings)


Settings = tuple[IndexSpec, ...]


@dataclass(frozen=True)
class Piece:
    """One partition: record batch ``batch`` of an Arrow ``file`` of passages."""

    key: str
    rows: int
    file: Path
    batch: int = 0

    def read(self) -> pa.RecordBatch:
        """The passages, checked against the key; ``Damaged`` if they differ."""
        try:
            with pa.memory_map(str(self.file)) as source:
                batch = pa.ipc.open_file(source).get_batch(self.batch)
                if partition_key(batch) == self.key:
                    return batch
        except (pa.ArrowException, OSError) as error:
            raise Damaged(f"{self.file}: {error}; 'rag verify' names all damage") from None
        raise Damaged(f"{self.file}: partition {self.batch} is not what was written there")


@dataclass(frozen=True)
class Range:
    """Where the vectors of a piece lie: rows ``start`` to ``stop`` of a folder of ``rows``."""

    folder: str
    start: int
    stop: int
    rows: int


class InCollection:
    """What executors ask of a task (``rag.jobs``): the folder that workers must see."""

    collection: Path

    @property
    def shared(self) -> Path:
        """Where unfinished work lies."""
        return self.collection / WORK


@dataclass(frozen=True)
class PieceTask(InCollection):
    """Build of one partition what these indexes need."""

    collection: Path
    piece: Piece
    indexes: Settings

    @property
    def label(self) -> str:
        """Which passages, by their ids."""
        try:
            ids = self.piece.read()["id"]
        except Damaged:
            return f"partition {self.piece.key}"
        if len(ids) == 1:
            return f"passage {ids[0].as_py()!r}"
        return f"{len(ids):,} passages, {ids[0].as_py()!r} to {ids[-1].as_py()!r}"

    def check(self) -> None:
        """Raise where this machine lacks a package or a model that building needs."""
        for index in self.indexes:
            if isinstance(kind := index.kind, Pinned):
                kind.pinned()


@dataclass(frozen=True)
class SegmentTask(InCollection):
    """Build a segment of these pieces in the ``collection``, its plain indexes and its vectors.

    ``folder`` names the segment where it is there already and only indexes are missing. ``copy``
    tells a segment from an earlier one of the same passages, whose rows are deleted. ``vectors``
    are folders that are there, by key, and ``ranges`` say where the vectors of pieces are, by key.
    """

    collection: Path
    pieces: tuple[Piece, ...]
    fields: Mapping[str, FieldType]
    indexes: Settings
    folder: str | None = None
    copy: int = 0
    vectors: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, Range] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The key of the segment that these pieces make."""
        if self.folder is not None:
            return key_in(self.folder)
        return segment_key(self.pieces, self.copy)

    @property
    def label(self) -> str:
        """How large."""
        return f"a segment of {sum(piece.rows for piece in self.pieces):,} passages"


@dataclass(frozen=True)
class IndexTask(InCollection):
    """Build an encoded index of a segment from the folder of its ``vectors``."""

    collection: Path
    index: IndexSpec
    vectors: str

    @property
    def key(self) -> str:
        """The key of the index."""
        return encoded_key(self.index, self.vectors)

    @property
    def label(self) -> str:
        """Which index, over which vectors."""
        return f"index {self.index.name} over {self.vectors}"


@dataclass(frozen=True)
class Built:
    """The receipt of a segment: its entry, and the folders of indexes and vectors by index name."""

    entry: SegmentEntry
    indexes: dict[str, str]
    vectors: dict[str, str]


def kind_of(type: str, settings: Mapping[str, Any]) -> PlainKind | EncodedKind:
    """The index kind of a ``type`` with these settings."""
    kind: PlainKind | EncodedKind = registry.find("indexes", type).model_validate(settings)
    return kind


def key_in(folder: str) -> str:
    """The key in a folder's name."""
    return folder.rpartition("-")[0]


def index_key(of: str, index: IndexSpec) -> str:
    """The key of a plain index ``of`` a segment or a piece (its key)."""
    return folders.key_of("index", of, index.type, index.kind.format, dict(index.settings))


def vectors_key(of: str, kind: EncodedKind) -> str:
    """The key of the vectors ``of`` a segment or a piece (its key)."""
    return folders.key_of("vectors", of, kind.encoding())


def encoded_key(index: IndexSpec, vectors: str) -> str:
    """The key of an encoded index over a folder of ``vectors``, which it may quote."""
    settings = [index.type, index.kind.format, dict(index.settings)]
    return folders.key_of("encoded", vectors, *settings, index.trained)


def segment_key(pieces: tuple[Piece, ...], copy: int = 0) -> str:
    """The key of the segment that is made of these pieces, and of its later copies."""
    return folders.key_of("segment", FORMAT, [piece.key for piece in pieces], copy)


@contextmanager
def aside(collection: Path) -> Iterator[Path]:
    """A new empty folder in the collection's work folder; gone afterwards, published or not."""
    folder = collection / WORK / f"tmp-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(folder.with_name(f"{folder.name}-damaged"), ignore_errors=True)


def keep_piece(collection: Path, batch: pa.RecordBatch, key: str) -> Piece:
    """The partition as a file of the work folder; written unless it is there."""
    path = collection / WORK / "passages" / f"{key}.arrow"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside(collection) as folder:
            file = folder / path.name
            with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
                writer.write_batch(batch)
            folders.sync(file)
            file.rename(path)
            folders.sync(path.parent)
    return Piece(key, batch.num_rows, path)


def build_piece(task: PieceTask) -> int:
    """Build what indexes need of a partition in the work folder; returns its number of rows."""
    batch = None
    done = set()
    for index in task.indexes:
        kind = index.kind
        parent, key = piece_place(task.collection, index, kind, task.piece.key)
        if key not in done and folders.find(parent, key) is None:
            batch = task.piece.read() if batch is None else batch
            with aside(task.collection) as out:
                kind.build(pa.Table.from_batches([batch]), out)
                folders.publish(out, parent, key)
        done.add(key)
    return task.piece.rows


@dataclass(frozen=True)
class ProbeTask(InCollection):
    """Try to build rows ``start`` to ``stop`` of a partition."""

    collection: Path
    piece: Piece
    indexes: Settings
    start: int
    stop: int

    @property
    def label(self) -> str:
        """How many rows are tried."""
        return f"a trial of {self.stop - self.start:,} passages"


def probe_piece(task: ProbeTask) -> None:
    """Build what indexes need of these rows, and keep nothing of it."""
    rows = pa.Table.from_batches([task.piece.read()]).slice(task.start, task.stop - task.start)
    for index in task.indexes:
        with aside(task.collection) as out:
            index.kind.build(rows, out)


def piece_place(
    collection: Path, index: IndexSpec, kind: PlainKind | EncodedKind, piece: str
) -> tuple[Path, str]:
    """The folder in which an index's part of a piece (its key) lies, and the part's key."""
    if isinstance(kind, EncodedKind):
        return collection / WORK / "vectors", vectors_key(piece, kind)
    return collection / WORK / "indexes" / index.name, index_key(piece, index)


def build_segment(task: SegmentTask) -> Built:
    """Build a segment, its plain indexes and its vectors from pieces that are built."""
    key = task.key
    rows = sum(piece.rows for piece in task.pieces)
    if task.folder is not None:
        name, characters = task.folder, 0
    else:
        with aside(task.collection) as out:
            batches = (piece.read() for piece in task.pieces)
            rows, characters = write_segment(batches, passage_schema(task.fields), out)
            name = folders.publish(out, task.collection / "segments", key)
    indexes: dict[str, str] = {}
    vectors: dict[str, str] = {}
    there = dict(task.vectors)
    for index in task.indexes:
        kind = index.kind
        if isinstance(kind, EncodedKind):
            whole = vectors_key(key, kind)
            if whole not in there:
                there[whole] = _gathered(task, index, kind, whole)
            vectors[index.name] = there[whole]
            continue
        parts = [_part(task, index, kind, piece) for piece in task.pieces]
        with aside(task.collection) as out:
            kind.merge(parts, [None] * len(parts), out)
            target = task.collection / "indexes" / index.name
            indexes[index.name] = folders.publish(out, target, index_key(key, index))
    covers = tuple((piece.key, piece.rows) for piece in task.pieces)
    entry = SegmentEntry(folder=name, rows=rows, characters=characters, covers=covers)
    return Built(entry, indexes, vectors)


def _gathered(task: SegmentTask, index: IndexSpec, kind: EncodedKind, key: str) -> str:
    """Put the vectors of a segment together; the name of their folder."""
    parts: list[Path] = []
    keep: list[NDArray[np.bool_] | None] = []
    for piece in task.pieces:
        place = task.ranges.get(vectors_key(piece.key, kind))
        if place is None:
            parts.append(_part(task, index, kind, piece))
            keep.append(None)
            continue
        folder = task.collection / "vectors" / place.folder
        mask = keep[-1] if parts and parts[-1] == folder else None
        if mask is None or mask[place.start :].any():  # rows come in the order in which they lie
            mask = np.zeros(place.rows, np.bool_)
            parts.append(folder)
            keep.append(mask)
        mask[place.start : place.stop] = True
    with aside(task.collection) as out:
        kind.gather(parts, keep, out)
        return folders.publish(out, task.collection / "vectors", key)


def _part(task: SegmentTask, index: IndexSpec, kind: PlainKind | EncodedKind, piece: Piece) -> Path:
    """The folder of what an index needs of a piece, which another task has built."""
    parent, key = piece_place(task.collection, index, kind, piece.key)
    name = folders.find(parent, key)
    if name is None:
        raise Damaged(f"{parent}: the piece {key} is missing or damaged; run the command again")
    return parent / name


def build_index(task: IndexTask) -> str:
    """Build an encoded index of a segment; returns the name of its folder."""
    kind = task.index.kind
    assert isinstance(kind, EncodedKind)  # no other kind has such a task
    root, trained = task.collection, task.index.trained
    with aside(root) as out:
        kind.index(root / "vectors" / task.vectors, trained_path(root, trained), out)
        return folders.publish(out, root / "indexes" / task.index.name, task.key)


def trained_path(collection: Path, trained: str | None) -> Path | None:
    """The folder of what an index has learnt."""
    return collection / "trained" / trained if trained is not None else None
