"""Reading every byte of a collection to find what is damaged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rag.collection import folders, log, manifest
from rag.collection.manifest import Manifest
from rag.collection.snapshot import read_deleted
from rag.errors import Damaged, InvalidInput
from rag.jobs import Progress


def verify(collection: Path, progress: Progress) -> list[Damaged]:
    """One error for each file that is damaged, missing or foreign; each begins with its path.

    Raises:
        NotFound: the folder has no manifest.
    """
    numbers = manifest.numbers(collection)
    if not numbers:
        manifest.read(collection)
    found: list[Damaged] = []
    parts = folders.published(collection)
    for done, folder in enumerate(parts):
        progress("verify", done, len(parts))
        found += folders.damage(folder)
    there = {str(folder.relative_to(collection)) for folder in parts}
    for number in numbers:
        try:
            found += _missing(collection, manifest.read(collection, number), there)
        except (Damaged, InvalidInput) as error:
            found.append(Damaged(str(error)))
        except OSError as error:
            file = manifest.path_of(collection, number)
            found.append(Damaged(f"{file}: {error.strerror or error}"))
    progress("verify", len(parts), len(parts))
    if found:
        log.forget_listing(collection, numbers[-1])
    # Several manifests may name one file.
    return list({str(error): error for error in found}.values())


def _missing(path: Path, state: Manifest, there: set[str]) -> Iterator[Damaged]:
    """What a manifest names and the collection does not hold."""
    for name in state.folders():
        if name not in there:
            yield Damaged(f"{path / name}: is missing; a manifest names it")
    for entry in state.deleted.values():
        try:
            read_deleted(path, entry)
        except Damaged as error:
            yield error
