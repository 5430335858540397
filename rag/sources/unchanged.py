"""Noticing that somebody writes to the files of a source while they are read."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rag.errors import Conflict, InvalidInput


class _State(NamedTuple):
    size: int
    time: int
    inode: int


class Unchanged:
    """Remembers the size, time and inode of ``files``; ``check`` raises if one has changed.

    Half of an old file and half of a new one would be indexed as if it were the source.

    Raises:
        InvalidInput: a file is a pipe or a device, which cannot be read twice, and may never end.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Look at the files, before they are read."""
        self._before = {path: _state(path) for path in files}

    def check(self) -> None:
        """``Conflict`` if a file is not what it was; it is named, and what became of it."""
        for path, before in self._before.items():
            after = _state(path)
            if before == after:
                continue
            if before is None or after is None:
                what = "appeared" if before is None else "was removed"
            elif before.inode != after.inode:
                what = "was replaced by another file"
            elif before.size != after.size:
                what = f"changed from {before.size:,} to {after.size:,} bytes"
            else:
                what = "was written to"
            raise Conflict(
                f"{path}: {what} while it was read; nothing was committed: "
                "wait until it is complete and run the command again"
            )


def _state(path: Path) -> _State | None:
    """What a file is now; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise InvalidInput(
            f"{path}: is no regular file (a pipe, a device or a folder); "
            "save what it yields as a file and name that"
        )
    return _State(found.st_size, found.st_mtime_ns, found.st_ino)
