"""Folders that never change: written aside, checked by sha256, renamed into place.

A folder is called ``<key>-<digest>``: the key says what it was built from, the digest what it
holds (the sha256 of its ``checksums.json``). So a manifest that names a folder names its bytes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rag.errors import Damaged

CHECKSUMS = "checksums.json"
KEY_LENGTH = 24
DIGEST_LENGTH = 16


def canonical(value: Any) -> bytes:
    """The one JSON spelling of a value that we hash: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def key_of(*parts: Any) -> str:
    """The key of what is built from these JSON values, 24 hexadecimal digits."""
    return hashlib.sha256(canonical(list(parts))).hexdigest()[:KEY_LENGTH]


def file_hash(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksums(folder: Path) -> bytes:
    """The text of ``checksums.json`` for the other files of a folder: their sizes and sha256."""
    paths = sorted(path for path in folder.iterdir() if path.name != CHECKSUMS)
    sums = {p.name: {"bytes": p.stat().st_size, "sha256": file_hash(p)} for p in paths}
    return canonical({"files": sums}) + b"\n"


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:DIGEST_LENGTH]


def publish(folder: Path, parent: Path, key: str) -> str:
    """Checksum and sync what stands in ``folder`` and rename it to ``parent/<key>-<digest>``.

    A folder of that name that is already there is the same, since the digest is; then ``folder``
    is removed. One that is damaged gives way, to one job at a time.

    Returns:
        The name ``<key>-<digest>``.
    """
    text = checksums(folder)
    (folder / CHECKSUMS).write_bytes(text)
    name = f"{key}-{_digest(text)}"
    target = parent / name
    if os.path.lexists(target) and not any(damage(target)):
        shutil.rmtree(folder)
        return name
    for path in folder.iterdir():
        sync(path)
    sync(folder)
    parent.mkdir(parents=True, exist_ok=True)
    with _repairing(folder.parent) if os.path.lexists(target) else nullcontext():
        # Another job may have repaired it meanwhile, and its manifest may name it by now.
        if os.path.lexists(target) and any(damage(target)):
            target.rename(folder.with_name(f"{folder.name}-damaged"))
        _place(folder, target)
    sync(parent)
    return name


def _place(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError as error:
        # A worker whose job was killed may finish the same folder at the same moment.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        shutil.rmtree(folder)


@contextmanager
def _repairing(work: Path) -> Iterator[None]:
    """Replace a damaged folder, one job at a time; ``work`` is where jobs of a collection write."""
    with (work / "repair.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def published(collection: Path) -> list[Path]:
    """Everything that lies where folders are published, sorted; also what is not ours."""
    patterns = ("segments/*", "indexes/*/*", "vectors/*", "trained/*")
    return [path for pattern in patterns for path in sorted(collection.glob(pattern))]


def find(parent: Path, key: str) -> str | None:
    """The name of a published folder that was built from ``key`` and is whole, or None."""
    for path in sorted(parent.glob(f"{key}-*")):
        if not any(damage(path)):
            return path.name
    return None


def whole(folder: Path) -> bool:
    """Whether a published folder holds its files in their sizes; reads no more than the sums."""
    try:
        text = (folder / CHECKSUMS).read_bytes()
        if _digest(text) != folder.name.rpartition("-")[2]:
            return False
        sums = json.loads(text)["files"]
        return all((folder / name).stat().st_size == sums[name]["bytes"] for name in sums)
    except OSError:
        return False


def damage(folder: Path) -> Iterator[Damaged]:
    """What is wrong with a published folder, one error a file; reads every byte.

    The message begins with the path of the file, so that ``rag verify`` names it.
    """
    sums_path = folder / CHECKSUMS
    if not folder.is_dir():
        yield Damaged(f"{folder}: is not a folder, and no part of a collection")
        return
    try:
        text = sums_path.read_bytes()
    except OSError as error:
        yield Damaged(f"{sums_path}: {error.strerror or error}; the folder cannot be checked")
        return
    if _digest(text) != folder.name.rpartition("-")[2]:
        yield Damaged(f"{sums_path}: is not what the digest in the folder's name says")
        if _only_sums_differ(folder):
            return
    try:
        sums = dict(json.loads(text)["files"])
    except (ValueError, TypeError, KeyError):
        for path in sorted(folder.iterdir()):
            if path.name != CHECKSUMS:
                yield Damaged(f"{path}: cannot be told from a damaged one without {CHECKSUMS}")
        return
    for name, expected in sums.items():
        yield from _file_damage(folder / name, expected)
    for path in sorted(folder.iterdir()):
        if path.name not in sums and path.name != CHECKSUMS:
            yield Damaged(f"{path}: is not one of the folder's files")


def _only_sums_differ(folder: Path) -> bool:
    """Whether the files are as the digest says, whatever stands in ``checksums.json``."""
    try:
        return _digest(checksums(folder)) == folder.name.rpartition("-")[2]
    except OSError:
        return False


def _file_damage(path: Path, expected: dict[str, Any]) -> Iterator[Damaged]:
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            yield Damaged(f"{path}: has {size} bytes, not {expected['bytes']}")
        elif (found := file_hash(path)) != expected["sha256"]:
            yield Damaged(f"{path}: sha256 is {found[:16]}…, not {expected['sha256'][:16]}…")
    except OSError as error:
        yield Damaged(f"{path}: {error.strerror or error}")
    except (KeyError, TypeError):
        yield Damaged(f"{path}: cannot be told from a damaged one without {CHECKSUMS}")
