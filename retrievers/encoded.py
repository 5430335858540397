"""Searching an index with encoded queries: what ``dense``, ``sparse`` and ``dupmae`` share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from rag.errors import InvalidInput, RagError
from rag.retrievers.merge import depth, merged

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rag.batch import Batch
    from rag.retrievers.dense import Dense
    from rag.retrievers.dupmae import DupMAE
    from rag.retrievers.sparse import Sparse
    from rag.stage import Context, Run, Step

DEVICE = r"^(auto|cpu|mps|openvino|cuda(:(\d+|all))?)$"
"""Where an encoder computes, as ``rag.encoders.load_encoder`` takes it."""


def opened(context: Context, name: str, device: str) -> Any:
    """An encoder, shared by all stages that have the same one open on the same device.

    It raises what ``rag.encoders.load_encoder`` raises.
    """
    from rag.encoders.load import encoder_hash, load_encoder

    key = ("encoder", name, encoder_hash(name), device)  # what lies in a folder can change
    return context.get(key, lambda: load_encoder(name, device))


def searching(
    stage: Dense | DupMAE | Sparse,
    encoder: Any,
    searcher: Any,
    keep: NDArray[np.bool_] | None,
    snapshot: Any,
    explain: Callable[[str, Any, int], list[dict[str, Any]]] | None = None,
    **settings: Any,
) -> Step:
    """A step that encodes all queries of a batch at once, and merges those of each row.

    A query that no tokenizer reads fails its row; what the search refuses fails all rows.

    ``explain`` says of a query, its vector (one row) and a passage's number what counted; that of
    all queries of a row is the evidence ``terms`` of its passages. ``settings`` are of the search.
    """
    from rag.ranking import Ranking

    def step(batch: Batch, run: Run) -> Batch:
        column = [[v] if isinstance(v, str) else list(v or ()) for v in batch[stage.of]]
        for row, queries in enumerate(column):
            if any(broken(query) for query in queries):
                run.fail(row, InvalidInput("a query has an unpaired surrogate"))
                column[row] = []
        flat = [query for row in column for query in row]
        rows = np.repeat(np.arange(len(column)), [len(row) for row in column])
        several = any(len(row) > 1 for row in column)
        k = depth(stage.top_k, stage.merge) if several else stage.top_k
        try:
            vectors = encoder.encode(flat, kind="query")
            found = searcher.search(vectors, k, keep=keep, **settings)
        except RagError as error:
            for row in np.unique(rows).tolist():
                run.fail(row, error)
            none = np.zeros(len(flat) + 1, np.int64)
            found = none, np.zeros(0, np.int64), np.zeros(0, np.float32)
        if any(len(row) != 1 for row in column):
            found = merged(rows, *found, n=len(column), k=stage.top_k, how=stage.merge)
        offsets, docs, scores = found
        evidence = None
        if explain is not None:
            row_of = np.repeat(np.arange(len(column)), np.diff(offsets)).tolist()
            asked = [np.flatnonzero(rows == row).tolist() for row in range(len(column))]
            said = [
                [entry for n in asked[row] for entry in explain(flat[n], vectors[[n]], doc)]
                for row, doc in zip(row_of, docs.tolist(), strict=True)
            ]
            evidence = {"terms": said}
        ranking = Ranking(offsets, docs, scores, snapshot, evidence=evidence)
        return batch.put(**{stage.into: ranking})

    return step


def broken(text: str) -> bool:
    """Whether no tokenizer reads a text: it has an unpaired surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
