"""The manifest: one small file that says what a collection is at one moment.

``manifest/000007.json`` with the newest number is the state. A manifest is committed whole or not
at all, carries its own checksum, and is never changed or replaced.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rag.collection.folders import canonical, sync
from rag.errors import Conflict, Damaged, InvalidInput, NotFound

FORMAT = 2
_NAME = re.compile(r"(\d{6,})\.json")
_RENAME_NOREPLACE = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SegmentEntry(_Part):
    """One segment: its folder under ``segments/``, its size, and the source it covers."""

    folder: str
    rows: int
    characters: int
    covers: tuple[tuple[str, int], ...]
    """(partition key, rows) of each record batch; compaction keeps those that it does not touch."""

    @property
    def key(self) -> str:
        """The key that the folder was built from."""
        return self.folder.rpartition("-")[0]


class IndexEntry(_Part):
    """One index: its type and settings, and its folder for each segment, in their order."""

    type: str
    settings: dict[str, Any]
    folders: tuple[str, ...]
    vectors: tuple[str, ...] = ()
    """For an encoded kind the folder of each segment's vectors; indexes may share them."""
    trained: str | None = None
    """The folder of what it has learnt from the collection, if its kind does."""


class DeletedEntry(_Part):
    """The hidden rows of one segment: a file under ``deleted/``, its sha256 and their number."""

    file: str
    sha256: str
    rows: int


class Manifest(_Part):
    """The state of a collection; ``number`` is the file's name and not part of its content."""

    fields: dict[str, Literal["str", "int", "float", "bool"]] = {}
    split: dict[str, Any] | None = None
    mapping: dict[str, str] = {}
    """Our column to the source's key, as the first source had them; ``add`` uses it again."""
    segments: tuple[SegmentEntry, ...] = ()
    indexes: dict[str, IndexEntry] = {}
    deleted: dict[str, DeletedEntry] = {}
    pipeline: str | None = None
    number: int = 0

    def content(self) -> dict[str, Any]:
        """What is written and checksummed."""
        return {"format": FORMAT, **self.model_dump(mode="json", exclude={"number"})}

    @property
    def checksum(self) -> str:
        """The sha256 of the content, in hexadecimal."""
        return _sum(self.content())

    def folders(self) -> list[str]:
        """All folders that it names, as paths inside the collection, each once."""
        names = [f"segments/{entry.folder}" for entry in self.segments]
        for name, index in self.indexes.items():
            names += [f"indexes/{name}/{folder}" for folder in index.folders]
            names += [f"vectors/{folder}" for folder in index.vectors]
            names += [f"trained/{index.trained}"] if index.trained is not None else []
        return list(dict.fromkeys(names))

    @property
    def rows(self) -> int:
        """Rows of all segments, deleted ones included."""
        return sum(segment.rows for segment in self.segments)

    @property
    def live(self) -> int:
        """Rows that results can show."""
        return self.rows - sum(entry.rows for entry in self.deleted.values())


def numbers(collection: Path) -> list[int]:
    """The numbers of the manifests of a collection, ascending."""
    try:
        names = os.listdir(collection / "manifest")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))


def path_of(collection: Path, number: int) -> Path:
    """The file of manifest ``number``."""
    return collection / "manifest" / f"{number:06d}.json"


def read(collection: Path, number: int | None = None) -> Manifest:
    """The newest manifest of a collection, or the one with this ``number``.

    Raises:
        NotFound: the folder is no collection, or has no manifest of this number.
        Damaged: the file does not hold what was committed. An older one is never taken instead;
            the message says how to open it by name.
    """
    known = numbers(collection)
    if not known:
        raise NotFound(_no_manifest(collection))
    if number is None:
        number = known[-1]
    elif number not in known:
        listed = ", ".join(str(known_number) for known_number in known)
        raise NotFound(f"{collection}: there is no manifest {number}; there are: {listed}")
    path = path_of(collection, number)
    older = [known_number for known_number in known if known_number < number]
    advice = (
        f"; 'rag info {collection} --manifest {older[-1]}' opens an older one"
        if older
        else "; 'rag index' from the source into a new folder makes the collection again"
    )
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise NotFound(f"{path}: was removed ('rag clean') just now; run it again") from None
    except IsADirectoryError:
        raise Damaged(f"{path}: the manifest is damaged: it is a folder{advice}") from None
    return parse(text, path, advice).model_copy(update={"number": number})


def parse(text: bytes, path: Path, advice: str = "") -> Manifest:
    """The manifest in the ``text`` of a file.

    Raises:
        Damaged: the checksum does not fit, or it is no manifest.
        InvalidInput: a newer or an older Ragstone wrote it.
    """
    try:
        value = dict(json.loads(text))
        checksum = value.pop("checksum")
        actual = _sum(value)
        if actual != checksum:
            raise ValueError(f"its checksum is {actual[:16]}…, it says {str(checksum)[:16]}…")
        version = value.pop("format")
        if version != FORMAT:
            older = isinstance(version, int) and version < FORMAT
            what = (
                "'rag index' from the source into a new folder makes the collection again"
                if older
                else "upgrade it"
            )
            raise InvalidInput(
                f"{path}: format {version}, and this Ragstone reads format {FORMAT}; {what}"
            )
        found = Manifest.model_validate(value)
        if _text(found) != text:
            raise ValueError("it is not spelt as it was written")
        return found
    except InvalidInput:
        raise
    except (TypeError, ValueError, KeyError, RecursionError, ValidationError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise Damaged(f"{path}: the manifest is damaged: {what}{advice}") from None


def commit(
    collection: Path, change: Callable[[Manifest], Manifest], base: Manifest | None = None
) -> Manifest:
    """Apply ``change`` to the newest manifest and commit the result as the next one.

    When another writer commits first, the newest manifest is read again and the change applied
    to it; ``change`` raises ``Conflict`` where the two cannot both hold. A ``change`` that returns
    the manifest itself has nothing left to do, and nothing is committed. ``base`` is the manifest
    to begin with when there is none yet.
    """
    while True:
        known = numbers(collection)
        current = read(collection) if known else (base or Manifest())
        changed = change(current)
        if changed is current:
            return current
        changed = changed.model_copy(update={"number": current.number + 1})
        if create(path_of(collection, changed.number), _text(changed)):
            return changed


def _text(manifest: Manifest) -> bytes:
    content = manifest.content()
    return canonical({**content, "checksum": _sum(content)}) + b"\n"


def _sum(content: dict[str, Any]) -> str:
    return hashlib.sha256(canonical(content)).hexdigest()


def create(path: Path, text: bytes) -> bool:
    """Create the file whole and synced; False if somebody else created it first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".tmp-{uuid.uuid4().hex}-{path.name}")
    aside.write_bytes(text)
    sync(aside)
    try:
        try:
            os.link(aside, path)
        except FileExistsError:
            # A network file system may repeat a call that had succeeded: then it is our file.
            if not os.path.samefile(aside, path) or aside.stat().st_nlink < 2:
                return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
                raise
            if not _rename_new(aside, path):
                return False
    finally:
        aside.unlink(missing_ok=True)
    sync(path.parent)
    return True


def _rename_new(aside: Path, path: Path) -> bool:
    """Rename without replacing, where there are no hard links; False if ``path`` is there."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise Conflict(
            f"{path.parent}: this file system has no hard links and this system no renameat2; "
            "a manifest cannot be committed safely: keep the collection on a local disk"
        )
    here = -100  # AT_FDCWD
    names = os.fsencode(aside), os.fsencode(path)
    if libc.renameat2(here, names[0], here, names[1], _RENAME_NOREPLACE) == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.EEXIST:
        return False
    raise OSError(code, os.strerror(code), str(path))


def _no_manifest(collection: Path) -> str:
    if not collection.exists():
        return (
            f"{collection}: there is no such folder; 'rag index SOURCE --out {collection}' makes it"
        )
    if (collection / ".work").is_dir() or (collection / "log").is_dir():
        return (
            f"{collection}: has no manifest yet: 'rag index' has not finished here; run it again, "
            "it goes on where it stopped"
        )
    return (
        f"{collection}: is not a collection (no manifest/ in it); "
        f"'rag index SOURCE --out DIR' makes one"
    )
