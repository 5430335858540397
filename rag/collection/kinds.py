"""What a collection asks of an index kind. This docstring is the contract, and it rules.

An index kind is a frozen pydantic model of settings (``Lexical(stemmer="porter")``) with three
methods. The collection writes ``checksums.json``, syncs and renames; a kind only fills a folder.

- ``build(passages, out)`` writes the index of a table of passages (``rag.passages``) into the
  empty folder ``out``. The same settings and passages give the same bytes on any machine.
- ``merge(parts, keep, out)`` writes into ``out`` what ``build`` would have written for the kept
  rows of the parts in order, byte for byte. So a segment can be built in pieces by many workers,
  and compaction needs no text.
- ``open(folders)`` gives a searcher over those folders as one index: row numbers run on from
  folder to folder, and statistics are summed.

``format`` is raised whenever the bytes written change; it is part of every key. No time, host,
path or version of a library may stand in what ``build`` and ``merge`` write.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

INDEX_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What an index may be called: its name is a folder's."""


@runtime_checkable
class IndexKind(Protocol):
    """Settings of one index; see the module's docstring."""

    kind: ClassVar[str]
    format: ClassVar[int]

    def build(self, passages: pa.Table, out: Path) -> None:
        """Write the index of ``passages`` into the empty folder ``out``."""

    def merge(
        self, parts: Sequence[Path], keep: Sequence[NDArray[np.bool_] | None], out: Path
    ) -> None:
        """Write the index of the kept rows of ``parts`` (None keeps all) into ``out``."""

    def open(self, folders: Sequence[Path]) -> Any:
        """A searcher over the ``folders``, in this order, as one index."""

    def model_dump(self, *, mode: str = ...) -> dict[str, Any]:
        """The settings as plain values; they are part of the index's key."""
