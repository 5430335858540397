"""What a collection asks of an index kind. This docstring is the contract, and it rules.

An index kind is a frozen pydantic model of settings (``Lexical(stemmer="porter")``) with three
methods. The collection writes ``checksums.json``, syncs and renames; a kind only fills a folder.

- ``build(passages, out)`` writes what ``merge`` needs of a table of passages (``rag.passages``), a
  partition, into the empty folder ``out``: an index of it, or less where that suffices.
- ``merge(parts, keep, out)`` writes into ``out`` the index of the kept rows of the parts in order,
  which are what ``build`` wrote, or indexes. However the rows are cut into parts, the bytes are the
  same. So a segment can be built in pieces by many workers, and compaction needs no text.
- ``open(folders)`` gives a searcher over those folders as one index: row numbers run on from
  folder to folder, and statistics are summed.

The same settings and passages give the same bytes on any machine. A kind whose settings name
something that can change, such as a model, has a fourth method, ``pinned()``: these settings with
the hash of what they name now. It is called once, when an index is asked for; later jobs get the
pinned settings, and ``build`` refuses where the hash differs.

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
        """Write what ``merge`` needs of ``passages`` into the empty folder ``out``."""

    def merge(
        self, parts: Sequence[Path], keep: Sequence[NDArray[np.bool_] | None], out: Path
    ) -> None:
        """Write the index of the kept rows of ``parts`` (None keeps all) into ``out``."""

    def open(self, folders: Sequence[Path]) -> Any:
        """A searcher over the ``folders``, in this order, as one index."""

    def model_dump(self, *, mode: str = ...) -> dict[str, Any]:
        """The settings as plain values; they are part of the index's key."""


@runtime_checkable
class Pinned(Protocol):
    """An index kind whose settings name something that can change; see the module's docstring."""

    def pinned(self) -> IndexKind:
        """These settings with the hash of what they name now."""
