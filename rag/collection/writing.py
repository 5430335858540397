"""What all writers share: how a job runs, what it did, and edits of a manifest."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag.collection import manifest
from rag.collection.build import Built, IndexSpec, Settings
from rag.collection.manifest import DeletedEntry, IndexEntry, Manifest
from rag.collection.snapshot import Snapshot, read_deleted
from rag.errors import Conflict
from rag.jobs import Executor, Progress

Change = Callable[[Manifest], Manifest]


@dataclass(frozen=True)
class Job:
    """How a job runs: on which executor, watched by whom, in segments of how many rows."""

    executor: Executor
    progress: Progress
    segment_rows: int


@dataclass(frozen=True)
class Done:
    """What a writer did.

    ``added``, ``deleted`` and ``skipped`` are passages, and ``bad`` source rows that could not
    be read, which stand in ``bad_file``. ``unchanged`` says that the collection was as asked
    before. ``failures`` says which workers ended before their time.
    """

    manifest: Manifest
    added: int = 0
    deleted: int = 0
    skipped: int = 0
    bad: int = 0
    bad_file: Path | None = None
    unchanged: bool = False
    failures: tuple[str, ...] = ()


def commit_after(collection: Path, base: Manifest | None, change: Change) -> Manifest:
    """Commit ``change`` of ``base``; ``Conflict`` if another manifest was committed since."""
    number = base.number if base is not None else 0

    def checked(current: Manifest) -> Manifest:
        if current.number != number:
            raise Conflict(f"{collection}: changed while the job ran; run the command again")
        return change(current)

    return manifest.commit(collection, checked)


def settings_of(wanted: Manifest) -> Settings:
    """The indexes that a manifest names, as tasks carry them."""
    return tuple(
        IndexSpec(name, entry.type, entry.settings, entry.trained)
        for name, entry in wanted.indexes.items()
    )


def index_entries(
    wanted: Manifest, built: Sequence[Built], trained: Mapping[str, str | None]
) -> dict[str, IndexEntry]:
    """The indexes of ``wanted`` with the folders of each segment, in order, and what is trained."""
    return {
        name: entry.model_copy(
            update={
                "folders": tuple(one.indexes[name] for one in built),
                "vectors": tuple(one.vectors[name] for one in built if name in one.vectors),
                "trained": trained.get(name),
            }
        )
        for name, entry in wanted.indexes.items()
    }


def manifest_of(wanted: Manifest, built: Sequence[Built], trained: Mapping[str, str]) -> Manifest:
    """``wanted`` over exactly these segments, with nothing deleted."""
    return wanted.model_copy(
        update={
            "number": 0,
            "segments": tuple(one.entry for one in built),
            "indexes": index_entries(wanted, built, trained),
            "deleted": {},
        }
    )


def appended(current: Manifest, built: Sequence[Built], trained: Mapping[str, str]) -> Manifest:
    """The manifest with these segments after its own."""
    more = index_entries(current, built, trained)
    return current.model_copy(
        update={
            "segments": (*current.segments, *(one.entry for one in built)),
            "indexes": {
                name: more[name].model_copy(
                    update={
                        "folders": (*entry.folders, *more[name].folders),
                        "vectors": (*entry.vectors, *more[name].vectors),
                    }
                )
                for name, entry in current.indexes.items()
            },
        }
    )


def per_segment(base: Snapshot, numbers: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """The rows of each segment (its folder) that these passage numbers are."""
    numbers = np.unique(numbers)
    places = np.searchsorted(base.starts, numbers, "right") - 1
    return {
        base.manifest.segments[place].folder: numbers[places == place] - base.starts[place]
        for place in np.unique(places).tolist()
    }


def with_deleted(
    collection: Path, current: Manifest, rows: Mapping[str, NDArray[np.int64]]
) -> Manifest:
    """The manifest with these rows hidden too; writes one file of rows a segment."""
    deleted = dict(current.deleted)
    for folder, more in rows.items():
        before = deleted.get(folder)
        gone = np.union1d(read_deleted(collection, before), more) if before else np.unique(more)
        buffer = io.BytesIO()
        np.save(buffer, gone.astype(np.uint32), allow_pickle=False)
        name = f"{folder}-{current.number + 1:06d}"
        name = _write_new(collection / "deleted", name, buffer.getvalue())
        sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
        deleted[folder] = DeletedEntry(file=name, sha256=sha256, rows=len(gone))
    return current.model_copy(update={"deleted": dict(sorted(deleted.items()))})


def _write_new(folder: Path, name: str, data: bytes, copy: int = 0) -> str:
    """Write a file of hidden rows; returns what it is called, ``name.npy`` as a rule.

    A file that is there is never replaced: one of a job that was killed has other rows, and a
    writer that commits first on a file system without locks has its manifest name its file.
    """
    folder.mkdir(exist_ok=True)
    path = folder / (f"{name}-{copy}.npy" if copy else f"{name}.npy")
    if manifest.create(path, data) or path.read_bytes() == data:
        return path.name
    return _write_new(folder, name, data, copy + 1)
