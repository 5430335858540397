"""Hiding passages: rows of segments that results do not show any more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag.collection import manifest
from rag.collection.manifest import Manifest
from rag.collection.snapshot import Snapshot
from rag.collection.writing import Done, per_segment, with_deleted
from rag.errors import NotFound


def delete(collection: Path, ids: Sequence[str]) -> Done:
    """Hide the passages with these ids, or all of the documents with them.

    What another writer commits meanwhile is looked at again: an id that it has deleted too is
    deleted, and one that it has compacted is hidden where it lies now.

    Raises:
        NotFound: an id is neither; all that are missing are named, and nothing is deleted.
    """
    base = Snapshot(collection, manifest.read(collection))
    numbers, missing = _found(base, ids)
    if missing:
        shown = ", ".join(missing[:10]) + (", …" if len(missing) > 10 else "")
        raise NotFound(
            f"{collection}: no passage or document has the id {shown}; nothing was deleted: "
            "leave it out or correct it"
        )
    hidden = 0

    def change(current: Manifest) -> Manifest:
        nonlocal hidden
        state, rows = base, numbers
        if current.number != base.manifest.number:
            state = Snapshot(collection, current)
            rows, _ = _found(state, ids)
        hidden = len(rows)
        return with_deleted(collection, current, per_segment(state, rows)) if hidden else current

    committed = manifest.commit(collection, change)
    return Done(committed, deleted=hidden, unchanged=not hidden)


def _found(snapshot: Snapshot, ids: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """The numbers of the passages that are meant, ascending, and the ids that mean none."""
    found = snapshot.find(ids)
    absent = [name for name, number in zip(ids, found.tolist(), strict=True) if number < 0]
    documents = snapshot.find_documents(absent)
    missing = [name for place, name in enumerate(absent) if place not in documents]
    return np.unique(np.concatenate([found[found >= 0], *documents.values()])), missing
