"""Cutting a stream of passages into partitions, and partitions into segments.

Cuts are chosen by content: among the last quarter of the largest allowed size, before the row
(or partition) whose hash is smallest. So an inserted row changes the partition that it falls in
and perhaps the next, and all later ones keep their keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rag.collection.folders import KEY_LENGTH
from rag.sources.ids import hash_ids

PARTITION_ROWS = 10_000
SEGMENT_ROWS = 1_000_000


def partitions(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The same passages in partitions of at most ``rows``, each one record batch.

    Where the batches were cut does not matter: the same rows give the same partitions.
    """
    waiting: list[pa.RecordBatch] = []
    held = 0
    for batch in batches:
        waiting.append(batch)
        held += batch.num_rows
        while held > rows:
            table = pa.Table.from_batches(waiting)
            cut = _cut(table, rows)
            yield _one_batch(table.slice(0, cut))
            waiting, held = table.slice(cut).to_batches(), held - cut
    if held:
        yield _one_batch(pa.Table.from_batches(waiting))


def _cut(table: pa.Table, rows: int) -> int:
    """The row before which to cut: one of the last quarter of ``rows``, or ``rows`` itself."""
    first = max(1, rows - rows // 4)
    ids = table["id"].slice(first, rows - first + 1)
    return first + int(np.argmin(hash_ids(ids.combine_chunks())))


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    (batch,) = table.combine_chunks().to_batches()
    return compacted(batch, np.arange(batch.num_rows))


def compacted(batch: pa.RecordBatch, rows: NDArray[np.int64]) -> pa.RecordBatch:
    """These rows of a batch in buffers of their own.

    A slice or a filter may keep bits of rows that it dropped, which would be hashed and written;
    what is taken holds its own rows and zeros.
    """
    return batch.take(pa.array(rows))


def partition_key(batch: pa.RecordBatch) -> str:
    """The key of a partition: a hash of everything that its passages hold."""
    digest = hashlib.sha256(batch.schema.serialize())
    digest.update(batch.serialize())
    return digest.hexdigest()[:KEY_LENGTH]


def runs(parts: Sequence[tuple[str, int]], rows: int) -> Iterator[list[tuple[str, int]]]:
    """Runs of (partition key, rows) that make a segment of at most ``rows`` rows each."""
    start = 0
    while start < len(parts):
        ends = np.cumsum([count for _, count in parts[start:]])
        fitting = int(np.searchsorted(ends, rows, "right"))
        if fitting == len(ends):
            yield list(parts[start:])
            return
        allowed = [n for n in range(1, fitting + 1) if ends[n - 1] >= rows - rows // 4]
        size = min(allowed, key=lambda n: parts[start + n][0]) if allowed else max(1, fitting)
        yield list(parts[start : start + size])
        start += size
