"""What a collection holds, in plain values."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag.collection.collection import Collection


def describe(collection: Collection, number: int | None = None) -> dict[str, Any]:
    """The facts of the newest manifest, or of the one with this ``number``."""
    state = collection.snapshot(number).manifest
    path = collection.path
    indexes = {
        name: {
            "type": entry.type,
            "settings": entry.settings,
            "bytes": sum(_bytes(path / "indexes" / name / folder) for folder in entry.folders),
            "vectors_bytes": sum(_bytes(path / "vectors" / folder) for folder in entry.vectors),
            "trained_bytes": _bytes(path / "trained" / entry.trained) if entry.trained else 0,
        }
        for name, entry in state.indexes.items()
    }
    segments = [
        {
            "folder": entry.folder,
            "rows": entry.rows,
            "deleted": state.deleted[entry.folder].rows if entry.folder in state.deleted else 0,
        }
        for entry in state.segments
    ]
    return {
        "collection": str(path),
        "manifest": state.number,
        "passages": state.live,
        "deleted": state.rows - state.live,
        "characters": sum(entry.characters for entry in state.segments),
        # Indexes may share vectors: a folder counts once.
        "bytes": sum(_bytes(path / folder) for folder in state.folders()),
        "pipeline": state.pipeline,
        "split": state.split,
        "fields": dict(state.fields),
        "indexes": indexes,
        "segments": segments,
    }


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else 0
