"""What ``add`` does with a document that the collection has already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rag.collection.snapshot import Snapshot
from rag.errors import InvalidInput

OnExisting = Literal["fail", "skip", "replace"]


class Existing:
    """Compares what is added with a snapshot; ``skipped`` counts passages left out.

    ``fail`` raises at the first document that is there, ``skip`` keeps the one that is there, and
    ``replace`` hides all its passages in favour of the new ones.
    """

    def __init__(self, snapshot: Snapshot, on_existing: OnExisting) -> None:
        """Compare with ``snapshot``."""
        self._snapshot, self._on_existing = snapshot, on_existing
        self._gone: list[NDArray[np.int64]] = []
        self.skipped = 0

    def filter(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The batches without what is skipped; ``InvalidInput`` where that is not allowed."""
        for batch in batches:
            refused = self.refused(batch)
            if not refused.any():
                yield batch
            else:
                self.skipped += int(refused.sum())
                if not refused.all():
                    yield batch.filter(pa.array(~refused))

    def refused(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        """(rows,) bool: which passages are skipped; none are where new ones replace.

        Raises:
            InvalidInput: one is there already, and that is not allowed.
        """
        there = self._there(batch)
        if self._on_existing == "replace":
            return np.zeros(len(there), np.bool_)
        if there.any() and self._on_existing == "fail":
            name = batch["document"][int(np.argmax(there))].as_py()
            raise InvalidInput(
                f"{self._snapshot.path}: has the document {name!r} already; add with "
                "--on-existing skip to keep it or --on-existing replace to replace it"
            )
        return there

    def replaced(self) -> NDArray[np.int64]:
        """The numbers of the passages that new ones replace, ascending int64."""
        return np.unique(np.concatenate([np.empty(0, np.int64), *self._gone]))

    def _there(self, batch: pa.RecordBatch) -> NDArray[np.bool_]:
        """(rows,) bool: whether the collection has the passage's document or its id."""
        column = batch["document"].dictionary_encode()
        documents = column.dictionary.to_pylist()
        found = self._snapshot.find_documents(documents)
        known = np.zeros(len(documents), np.bool_)
        known[list(found)] = True
        numbers = self._snapshot.find(batch["id"].to_pylist())
        if self._on_existing == "replace":
            self._gone += [*found.values(), numbers[numbers >= 0]]
        there: NDArray[np.bool_] = known[column.indices.to_numpy()] | (numbers >= 0)
        return there
