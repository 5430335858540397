"""The stage ``bm25``: lexical retrieval."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from rag.retrievers.merge import Merge, merged
from rag.stage import Columns, Context, Run, Stage, Step

if TYPE_CHECKING:
    from rag.batch import Batch


class BM25(Stage, name="bm25"):
    """Rank passages by BM25 (Lucene's formula; see ``rag.indexers.lexical``)."""

    of: str = Field("query", description="The column of queries.")
    into: str = Field("documents", description="The column that the ranking is written to.")
    top_k: int = Field(100, gt=0, description="The most passages of a question.")
    index: str | None = Field(
        None, description="The lexical index to search; default: the only one there is."
    )
    k1: float = Field(0.9, ge=0, description="How slowly repeated words stop counting.")
    b: float = Field(0.4, ge=0, le=1, description="How much long passages are marked down.")
    merge: Merge = Field("rrf", description="How several queries of one question are merged.")

    def columns(self, have: Columns) -> Columns:
        """Needs the queries, writes a ranking."""
        return have.need(self.of).put(**{self.into: "ranking"})

    def open(self, context: Context) -> Step:
        """Open the index of the snapshot."""
        from rag.ranking import Ranking

        snapshot = context.snapshot(self.collection)
        searcher = snapshot.index(snapshot.index_name("lexical", self.index))

        def step(batch: Batch, run: Run) -> Batch:
            column = [[v] if isinstance(v, str) else v or () for v in batch[self.of]]
            queries = [query for row in column for query in row]
            offsets, docs, scores = searcher.search(
                queries, self.top_k, k1=self.k1, b=self.b, keep=snapshot.keep
            )
            if any(len(row) != 1 for row in column):
                rows = np.repeat(np.arange(len(column)), [len(row) for row in column])
                offsets, docs, scores = merged(
                    rows, offsets, docs, scores, n=len(column), k=self.top_k, how=self.merge
                )
            return batch.put(**{self.into: Ranking(offsets, docs, scores, snapshot)})

        return step
