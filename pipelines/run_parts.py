"""The folder of a running job, ``OUT.parts/``: finished parts, and with what the job began.

``<key>-<digest>.jsonl`` is a finished part (written aside, synced, renamed), ``<job>.json`` the
manifest that a job is pinned to, ``models.json`` the hashes of model files, ``lock`` the lock of
the one job that runs. Parts of a job with other settings stay until one job is joined.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from rag.collection.folders import canonical, sync
from rag.errors import Conflict, Damaged, InvalidInput
from rag.pipelines.run_key import digest
from rag.pipelines.run_rows import failed

_PART = re.compile(r"([0-9a-f]{24})-[0-9a-f]{16}\.jsonl")
_OURS = re.compile(rf"{_PART.pattern}|[0-9a-f]{{24}}\.json|models\.json|\.tmp-[0-9a-f]{{32}}|lock")


def folder_of(out: Path) -> Path:
    """Where the parts of a job that writes ``out`` lie."""
    return out.with_name(f"{out.name}.parts")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the folder, made where it is absent; the lock ends with the process, however it ends.

    A folder in which no part was finished is removed again.

    Raises:
        Conflict: another process holds it.
    """
    if folder.exists() and not folder.is_dir():
        raise InvalidInput(
            f"{folder}: is a file; the parts of the job need this name: move it away"
        )
    with _locked(folder):
        for unborn in folder.glob(".tmp-*"):
            unborn.unlink(missing_ok=True)
        try:
            yield
        finally:
            if folder.is_dir() and not any(map(_PART.fullmatch, os.listdir(folder))):
                remove(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    path = folder / "lock"
    while True:
        folder.mkdir(exist_ok=True)
        try:
            file = path.open("a+")
        except FileNotFoundError:  # the job that held the folder has just ended and removed it
            continue
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise Conflict(
                    f"{folder}: another job is writing here ({file.read().strip() or 'unknown'}); "
                    "wait until it ends and run the command again"
                ) from None
            if not _is(file, path):
                continue
            file.truncate(0)
            file.write(f"process {os.getpid()}")
            file.flush()
            yield
            return


def _is(file: IO[str], path: Path) -> bool:
    """Whether the open file is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def write(path: Path, data: bytes | Iterable[bytes], aside: Path) -> None:
    """Write a file whole or not at all: in the folder ``aside``, synced, then renamed."""
    new = aside / f".tmp-{uuid.uuid4().hex}"
    try:
        with new.open("wb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    sync(path.parent)


def publish(folder: Path, key: str, data: bytes) -> str:
    """Keep a finished part; its file's name, which says what it holds."""
    name = f"{key}-{digest(data)}.jsonl"
    write(folder / name, data, folder)
    return name


def finished(folder: Path, keys: Iterable[str]) -> dict[str, str]:
    """Key to file of the parts that are there and whole; a damaged one is removed."""
    wanted, found = set(keys), {}
    for name in sorted(os.listdir(folder)):
        match = _PART.fullmatch(name)
        if match is None or match[1] not in wanted:
            continue
        if _whole(folder / name) is None:
            (folder / name).unlink()
        else:
            found[match[1]] = name
    return found


def _whole(path: Path) -> bytes | None:
    """What a part holds, or None where that is not what its name says."""
    data = path.read_bytes()
    return data if path.stem.endswith(f"-{digest(data)}") else None


class Joined:
    """Iterate it once: the bytes of all parts in order; it counts as it goes.

    Attributes:
        bytes: how many they are.
        rows: how many rows they hold.
        failed: rows that hold an error.

    Raises:
        Damaged: a part is not what was written; it is removed, so that a re-run makes it again.
    """

    def __init__(self, folder: Path, names: Iterable[str]) -> None:
        """Join the parts ``names`` of ``folder``."""
        self._paths = [folder / name for name in names]
        self._hash = hashlib.sha256()
        self.bytes = self.rows = self.failed = 0

    def __iter__(self) -> Iterator[bytes]:
        for path in self._paths:
            data = _whole(path)
            if data is None:
                path.unlink()
                raise Damaged(f"{path}: is not what was written; run the same command again")
            self._hash.update(data)
            self.bytes += len(data)
            lines = data.splitlines(keepends=True)
            self.rows += len(lines)
            self.failed += sum(map(failed, lines))
            yield data

    @property
    def sha256(self) -> str:
        """The hash of what was read so far, in hexadecimal."""
        return self._hash.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of ours; empty where there is none or it is none."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_json(path: Path, value: dict[str, Any], aside: Path) -> None:
    """Keep an object in a file of ours."""
    write(path, canonical(value) + b"\n", aside)


def remove(folder: Path) -> None:
    """Remove what a job left, the parts first; a file that is not ours stays."""
    names = [name for name in os.listdir(folder) if _OURS.fullmatch(name)]
    # A kill in the midst leaves the pinned manifest, and the lock is ours to the end.
    for name in sorted(names, key=lambda name: (name == "lock", not _PART.fullmatch(name))):
        (folder / name).unlink(missing_ok=True)
    if not os.listdir(folder):
        folder.rmdir()
