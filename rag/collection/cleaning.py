"""Cleaning: removing what no manifest that is kept names."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rag.collection import folders, leases, manifest
from rag.collection.build import WORK, aside
from rag.errors import InvalidInput

DAY = 86_400.0
_FOLDER = re.compile(r"[0-9a-f]{24}-[0-9a-f]{16}")
_ROWS = re.compile(r"[0-9a-f]{24}-[0-9a-f]{16}-\d{6,}(-\d+)?\.npy")
_LOG = re.compile(r"(?:skipped-)?(\d{6,})\.jsonl?")


@dataclass(frozen=True)
class Cleaned:
    """What ``clean`` removed: so many manifests, folders and files, of so many bytes in all.

    ``read`` are the manifests that it kept because somebody is reading by them.
    """

    manifests: int = 0
    folders: int = 0
    files: int = 0
    bytes: int = 0
    read: tuple[int, ...] = ()


def clean(collection: Path, keep: int = 1, older_than: float = DAY) -> Cleaned:
    """Remove what the newest ``keep`` manifests do not name.

    These are older manifests, folders, hidden rows and log entries, and the pieces of jobs that
    were killed. A manifest that a reader holds is kept with all that it names, and so is whatever
    is younger than ``older_than`` seconds. Files that are not the collection's stay.

    Raises:
        Conflict: a job is writing.
        Damaged: a manifest that is kept is damaged: nobody knows what it names.
    """
    if keep < 1:
        raise InvalidInput(f"clean: found keep = {keep}, expected 1 or more")
    if not older_than >= 0:
        raise InvalidInput(f"clean: found older than {older_than} s, expected 0 or more")
    manifest.read(collection)
    with leases.cleaning(collection):
        before = time.time() - older_than
        for number in manifest.numbers(collection)[-keep:]:
            manifest.read(collection, number)
        # First what names, then what is named: killed in between, no manifest names what is gone.
        manifests, read, size = _clean_manifests(collection, keep, before)
        kept = manifest.numbers(collection)
        states = [manifest.read(collection, number) for number in kept]
        named = {path for state in states for path in _named(collection, state)}
        doomed = list(_unnamed(collection, named, kept, before))
        removed = sum(path.is_dir() for path in doomed)
        size += sum(_remove(collection, path) for path in doomed)
        with suppress(OSError):  # the pieces of a job that was killed are still young
            (collection / WORK).rmdir()
        return Cleaned(manifests, removed, len(doomed) - removed, size, read)


def _clean_manifests(
    collection: Path, keep: int, before: float
) -> tuple[int, tuple[int, ...], int]:
    """Remove old manifests; returns how many, the numbers of those that are read, and bytes."""
    read: list[int] = []
    gone = size = 0
    for number in manifest.numbers(collection)[:-keep]:
        path = manifest.path_of(collection, number)
        if path.stat().st_mtime > before:
            continue
        with leases.unread(path) as free:
            if free:
                gone, size = gone + 1, size + _remove(collection, path)
            else:
                read.append(number)
    return gone, tuple(read), size


def _named(collection: Path, state: manifest.Manifest) -> Iterator[Path]:
    yield from (collection / folder for folder in state.folders())
    yield from (collection / "deleted" / entry.file for entry in state.deleted.values())


def _unnamed(collection: Path, named: set[Path], kept: list[int], before: float) -> Iterator[Path]:
    """What is old enough, ours, and named by no manifest that is kept."""
    for path in _ours(collection, kept):
        if path not in named and path.stat().st_mtime <= before:
            yield path


def _ours(collection: Path, kept: list[int]) -> Iterator[Path]:
    yield from (path for path in folders.published(collection) if _FOLDER.fullmatch(path.name))
    yield from (p for p in collection.glob("deleted/*") if _ROWS.fullmatch(p.name))
    for path in collection.glob("log/*"):
        found = _LOG.fullmatch(path.name)
        if found and int(found[1]) not in kept:
            yield path
    yield from collection.glob(f"{WORK}/passages/*")
    yield from collection.glob(f"{WORK}/indexes/*/*")
    yield from collection.glob(f"{WORK}/vectors/*")


def _remove(collection: Path, path: Path) -> int:
    """Remove a file or a folder; returns its bytes."""
    if not path.is_dir():
        size = path.stat().st_size
        path.unlink()
        return size
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    # Killed in the midst, half a folder would look damaged; what lies aside the next job removes.
    with aside(collection) as doomed:
        path.rename(doomed / path.name)
    return size
