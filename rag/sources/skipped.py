"""The file that keeps the rows that could not be read, each with its reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TextIO

from rag.errors import BadRow


class Skipped:
    r"""Writes bad rows to ``path`` as JSON lines; the file comes into being with the first one.

    Each line has the keys of ``BadRow`` (``file``, ``line``, ``field``, ``found``, ``fix``) and
    ``row``, the row as it stands in the source; a byte that is not UTF-8 is written ``\xff``.
    A file that an earlier run left at ``path`` is removed at once, so that what is there
    afterwards is of this run.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None
        path.unlink(missing_ok=True)

    def add(self, bad: BadRow, raw: bytes) -> None:
        """Write one row."""
        if self._file is None:
            self._file = self._path.open("w", encoding="utf-8")
        entry = {key: getattr(bad, key) for key in ("file", "line", "field", "found", "fix")}
        entry["row"] = raw.decode(errors="backslashreplace")
        self._file.write(json.dumps(entry) + "\n")

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._file is not None:
            self._file.close()
