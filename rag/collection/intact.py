"""What a manifest names that is whole on the disk, and so need not be built again."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rag.collection import folders
from rag.collection.build import Range, key_in, kind_of, vectors_key
from rag.collection.kinds import EncodedKind
from rag.collection.manifest import IndexEntry, Manifest


@dataclass(frozen=True)
class Intact:
    """What is there of a manifest.

    manifest: without what is missing or damaged; None where there is no manifest.
    indexes: the folder of an index by its name and its key.
    vectors: the folder of a segment's vectors by its key.
    ranges: where the vectors of a piece lie, by their key; also where its segment is damaged.
    """

    manifest: Manifest | None = None
    indexes: Mapping[tuple[str, str], str] = field(default_factory=dict)
    vectors: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, Range] = field(default_factory=dict)


NOTHING = Intact()


def intact(collection: Path, old: Manifest) -> Intact:
    """What is there of ``old``. It reads every byte, which costs little beside a source."""

    @functools.cache
    def there(folder: str) -> bool:
        return not any(folders.damage(collection / folder))

    places = [n for n, entry in enumerate(old.segments) if there(f"segments/{entry.folder}")]

    def whole(name: str, entry: IndexEntry) -> IndexEntry:
        def kept(parent: str, names: tuple[str, ...]) -> tuple[str, ...]:
            chosen = [names[place] for place in places] if names else []
            return tuple(name if there(f"{parent}/{name}") else "" for name in chosen)

        trained = entry.trained
        return entry.model_copy(
            update={
                "folders": kept(f"indexes/{name}", entry.folders),
                "vectors": kept("vectors", entry.vectors),
                "trained": trained if trained and there(f"trained/{trained}") else None,
            }
        )

    indexes = {name: whole(name, entry) for name, entry in old.indexes.items()}
    segments = tuple(old.segments[place] for place in places)
    ranges = dict(_ranges(old))
    return Intact(
        old.model_copy(update={"segments": segments, "indexes": indexes}),
        {
            (name, key_in(folder)): folder
            for name, entry in old.indexes.items()
            for folder in entry.folders
            if there(f"indexes/{name}/{folder}")
        },
        {
            key_in(folder): folder
            for entry in old.indexes.values()
            for folder in entry.vectors
            if there(f"vectors/{folder}")
        },
        {key: place for key, place in ranges.items() if there(f"vectors/{place.folder}")},
    )


def _ranges(old: Manifest) -> Iterator[tuple[str, Range]]:
    """The key of each piece's vectors and where they lie."""
    for entry in old.indexes.values():
        if not entry.vectors:
            continue
        kind = kind_of(entry.type, entry.settings)
        assert isinstance(kind, EncodedKind)  # no other kind has vectors
        for segment, folder in zip(old.segments, entry.vectors, strict=True):
            start = 0
            for piece, rows in segment.covers:
                key = vectors_key(piece, kind)
                yield key, Range(folder, start, start + rows, segment.rows)
                start += rows
