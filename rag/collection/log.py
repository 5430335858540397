"""``log/``: what is not reproducible. It speeds up and explains; nothing depends on it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rag.collection.folders import key_of


def listing(files: Sequence[Path], settings: Any) -> str:
    """A hash of the files' paths, sizes, times and inodes, and of the settings of a job."""
    return key_of([_stat(path) for path in files], settings)


def _stat(path: Path) -> list[str | int]:
    try:
        stat = path.stat()
    except OSError as error:  # a link that leads nowhere: reading the source says what is wrong
        return [ascii(str(path.absolute())), str(error.errno)]
    name = os.fsencode(path.absolute()).decode(errors="backslashreplace")
    return [name, stat.st_size, stat.st_mtime_ns, stat.st_ino]


def record(collection: Path, number: int, **entry: Any) -> None:
    """Write the log entry of manifest ``number``; a log that cannot be written is no error."""
    entry |= {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("numpy", "pyarrow", "numba", "PyStemmer")},
    }
    _write(collection, number, entry)


def _write(collection: Path, number: int, entry: dict[str, Any]) -> None:
    try:
        path = collection / "log" / f"{number:06d}.json"
        path.write_text(json.dumps(entry, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    except OSError:
        return


def forget_listing(collection: Path, number: int) -> None:
    """Have the next job look at the collection, even if its source has not changed."""
    known = entry(collection, number)
    if known.pop("listing", None) is not None:
        _write(collection, number, known)


def entry(collection: Path, number: int) -> dict[str, Any]:
    """The log entry of a manifest; empty where there is none."""
    try:
        text = (collection / "log" / f"{number:06d}.json").read_text(encoding="utf-8")
        value = json.loads(text)
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
