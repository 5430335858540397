"""What a collection asks of an index kind. This docstring is the contract, and it rules.

An index kind is a frozen pydantic model of settings (``Lexical(stemmer="porter")``). The collection
writes ``checksums.json``, syncs and renames; a kind only fills folders that are empty. There are
two sorts of kinds.

**A plain kind** (``PlainKind``; lexical, ngrams) makes an index of the passages' text:

- ``build(passages, out)`` writes what ``merge`` needs of a table of passages (``rag.passages``), a
  partition, into the empty folder ``out``: an index of it, or less where that suffices.
- ``merge(parts, keep, out)`` writes into ``out`` the index of the kept rows of the parts in order,
  which are what ``build`` wrote, or indexes. However the rows are cut into parts, the bytes are the
  same. So a segment can be built in pieces by many workers, and compaction needs no text.
- ``open(folders)`` gives a searcher over those folders as one index: row numbers run on from
  folder to folder, and statistics are summed.

**An encoded kind** (``EncodedKind``; dense, sparse) makes one of what a model gives for each
passage, its *vectors*. Encoding costs most, so vectors lie apart from indexes, in
``vectors/<key>-<digest>/``, one folder for a segment and an encoding:

- ``encoding()`` says, in plain JSON values, all that vectors depend on besides the passages: the
  hash of the encoder, which texts are encoded, the format of the files; nothing that only the index
  depends on (``factory``). Kinds and indexes that return equal values share their vectors.
- ``build(passages, out)`` writes the vectors of a partition into ``out``. Only this encodes.
- ``gather(parts, keep, out)`` writes the vectors of the kept rows of ``parts``, in order, into
  ``out``. Parts are what ``build`` or ``gather`` wrote; however rows are cut, the bytes are the
  same. The collection gathers the partitions of a segment, the rows that a segment shares with an
  earlier one, the segments that a compaction merges, and a sample for training.
- ``index(vectors, trained, out)`` writes the index of one segment from the folder of its vectors;
  little or nothing where the vectors are searched themselves.
- ``open(folders, vectors, trained)`` gives a searcher, as above; ``vectors`` are the folders of the
  same segments, in the same order.

**Training** (``TrainedKind``). An encoded kind may learn something from a sample of the whole
collection before it makes indexes (the centroids of IVF, the codes of PQ), for ``index`` and
``open``; it is None where nothing was trained. It lies in ``trained/<key>-<digest>/``, one folder
for an index of the collection, so that all its segments can be searched and merged as one:

- ``training_rows()`` says on how many rows at most it trains; 0 where these settings need no
  training, or one that ``index`` can do without.
- ``train(vectors, out)`` learns from a folder that ``gather`` wrote and writes it into ``out``. The
  sample is drawn by the collection, the same for the same passages; rows stand in their order. Too
  few rows are an InvalidInput that names the number that is needed. The same vectors give the same
  bytes, for the same versions of libraries and one thread.

A searcher that has a method ``spread(ask)`` can have its segments searched elsewhere; see
``rag.collection.spread``.

An index is trained when it is first built, or asked to be trained anew; adding passages and
compaction use what is there.

The same settings and passages give the same bytes on any machine (vectors and what is trained: for
the same versions and device). A kind whose settings name something that can change, such as a
model, has another method, ``pinned()``: these settings with the hash of what they name now. It is
called once, when an index is asked for; later jobs get the pinned settings, and ``build`` refuses
where the hash differs. Only ``pinned`` and ``build`` may need the model.

``format`` is raised whenever the bytes written by ``build``, ``merge``, ``index`` or ``train``
change; it is part of every key but that of vectors, whose own format stands in ``encoding()``. No
time, host, path or version of a library may stand in what a kind writes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

INDEX_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""What an index may be called: its name is a folder's."""

Keep: TypeAlias = Sequence[NDArray[np.bool_] | None]
"""Which rows of each part are kept, (rows,) bool; None keeps all."""


@runtime_checkable
class IndexKind(Protocol):
    """Settings of one index: what plain and encoded kinds share. See the module's docstring."""

    kind: ClassVar[str]
    format: ClassVar[int]

    def build(self, passages: pa.Table, out: Path) -> None:
        """Write what is made of the partition ``passages`` into the empty folder ``out``."""

    def model_dump(self, *, mode: str = ...) -> dict[str, Any]:
        """The settings as plain values; they are part of the index's key."""


@runtime_checkable
class PlainKind(IndexKind, Protocol):
    """An index kind that makes an index of text; see the module's docstring."""

    def merge(self, parts: Sequence[Path], keep: Keep, out: Path) -> None:
        """Write the index of the kept rows of ``parts`` into ``out``."""

    def open(self, folders: Sequence[Path]) -> Any:
        """A searcher over the ``folders``, in this order, as one index."""


@runtime_checkable
class EncodedKind(IndexKind, Protocol):
    """An index kind that makes an index of vectors; see the module's docstring."""

    def encoding(self) -> dict[str, Any]:
        """All that vectors depend on besides the passages, as plain JSON values."""

    def gather(self, parts: Sequence[Path], keep: Keep, out: Path) -> None:
        """Write the vectors of the kept rows of ``parts``, in order, into ``out``."""

    def index(self, vectors: Path, trained: Path | None, out: Path) -> None:
        """Write the index of a segment with these ``vectors`` into ``out``."""

    def open(self, folders: Sequence[Path], vectors: Sequence[Path], trained: Path | None) -> Any:
        """A searcher over the ``folders`` and their ``vectors``, in this order, as one index."""


@runtime_checkable
class TrainedKind(EncodedKind, Protocol):
    """An encoded kind that may learn from a sample first; see the module's docstring."""

    def training_rows(self) -> int:
        """On how many rows it trains at most; 0 for no training."""

    def train(self, vectors: Path, out: Path) -> None:
        """Learn from the sample in the folder ``vectors``; write it into ``out``."""


@runtime_checkable
class Pinned(Protocol):
    """An index kind whose settings name something that can change; see the module's docstring."""

    def pinned(self) -> IndexKind:
        """These settings with the hash of what they name now."""
