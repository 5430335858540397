"""The work of an index job: pieces from partitions, segments from pieces.

These are the functions that executors run. A task holds paths, keys and settings; what a
function makes is written aside, synced and renamed, and found again by its key, so a job that is
run again does only what is missing.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from rag import registry
from rag.collection import folders
from rag.collection.kinds import PlainKind
from rag.collection.manifest import SegmentEntry
from rag.collection.partitions import partition_key
from rag.collection.segments import FORMAT, write_segment
from rag.errors import Damaged
from rag.passages import FieldType, passage_schema

WORK = ".work"

Settings = tuple[tuple[str, str, dict[str, Any]], ...]
"""(name, type, settings) of each index to build."""


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
class PieceTask:
    """Build the indexes of one partition."""

    collection: Path
    piece: Piece
    indexes: Settings


@dataclass(frozen=True)
class SegmentTask:
    """Build a segment of these pieces, and its indexes, in the ``collection``.

    ``folder`` names the segment where it is there already and only indexes are missing. ``copy``
    tells a segment from an earlier one of the same passages, whose rows are deleted.
    """

    collection: Path
    pieces: tuple[Piece, ...]
    fields: Mapping[str, FieldType]
    indexes: Settings
    folder: str | None = None
    copy: int = 0

    @property
    def key(self) -> str:
        """The key of the segment that these pieces make."""
        if self.folder is not None:
            return self.folder.rpartition("-")[0]
        return segment_key(self.pieces, self.copy)


@dataclass(frozen=True)
class Built:
    """The receipt of a segment: its entry, and the folder of each index by name."""

    entry: SegmentEntry
    indexes: dict[str, str]


def kind_of(type: str, settings: Mapping[str, Any]) -> PlainKind:
    """The index kind of a ``type`` with these settings."""
    kind: PlainKind = registry.find("indexes", type).model_validate(settings)
    return kind


def index_key(of: str, type: str, settings: Mapping[str, Any]) -> str:
    """The key of an index ``of`` a segment or a piece (its key)."""
    return folders.key_of("index", of, type, kind_of(type, settings).format, dict(settings))


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
    """Build the indexes of a partition in the work folder; returns its number of rows."""
    batch = None
    for name, type_, settings in task.indexes:
        key = index_key(task.piece.key, type_, settings)
        parent = task.collection / WORK / "indexes" / name
        if folders.find(parent, key) is None:
            batch = task.piece.read() if batch is None else batch
            with aside(task.collection) as out:
                kind_of(type_, settings).build(pa.Table.from_batches([batch]), out)
                folders.publish(out, parent, key)
    return task.piece.rows


def build_segment(task: SegmentTask) -> Built:
    """Build a segment and its indexes from pieces whose indexes are built."""
    key = task.key
    rows = sum(piece.rows for piece in task.pieces)
    if task.folder is not None:
        name, characters = task.folder, 0
    else:
        with aside(task.collection) as out:
            batches = (piece.read() for piece in task.pieces)
            rows, characters = write_segment(batches, passage_schema(task.fields), out)
            name = folders.publish(out, task.collection / "segments", key)
    built = {}
    for index, type_, settings in task.indexes:
        work = task.collection / WORK / "indexes" / index
        keys = [index_key(piece.key, type_, settings) for piece in task.pieces]
        parts = [work / _found(work, part) for part in keys]
        target = task.collection / "indexes" / index
        with aside(task.collection) as out:
            kind_of(type_, settings).merge(parts, [None] * len(parts), out)
            built[index] = folders.publish(out, target, index_key(key, type_, settings))
    covers = tuple((piece.key, piece.rows) for piece in task.pieces)
    return Built(SegmentEntry(folder=name, rows=rows, characters=characters, covers=covers), built)


def _found(parent: Path, key: str) -> str:
    name = folders.find(parent, key)
    if name is None:
        raise Damaged(f"{parent}: the piece {key} is missing or damaged; run the command again")
    return name
