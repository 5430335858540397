"""The stage ``bm25``: lexical retrieval."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from rag.errors import InvalidInput
from rag.retrievers.lexical_query import Syntax, read
from rag.retrievers.merge import Merge, depth, merged
from rag.stage import Columns, Context, Run, Stage, Step
from rag.where import Where

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rag.batch import Batch
    from rag.collection import Snapshot

    Flat = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


class BM25(Stage, name="bm25"):
    """Rank passages by BM25 (Lucene's formula; see ``rag.indexers.lexical``)."""

    of: str = Field("query", description="The column of queries.")
    into: str = Field("documents", description="The column that the ranking is written to.")
    top_k: int = Field(100, gt=0, description="The most passages of a question.")
    index: str | None = Field(
        None, description="The lexical index to search; default: the only one there is."
    )
    k1: float = Field(
        0.9, ge=0, allow_inf_nan=False, description="How slowly repeated words stop counting."
    )
    b: float = Field(0.4, ge=0, le=1, description="How much long passages are marked down.")
    merge: Merge = Field("rrf", description="How several queries of one question are merged.")
    syntax: Syntax = Field(
        "plain",
        description='What quotes and stars mean: nothing, or phrases ("exact words") and '
        "prefixes (begin*).",
    )
    where: Where | None = Field(
        None, description="A condition that passages fulfil: {year: {gte: 1990}, lang: en}."
    )

    def columns(self, have: Columns) -> Columns:
        """Needs the queries, writes a ranking."""
        return have.need(self.of).put(**{self.into: "ranking"})

    def open(self, context: Context) -> Step:
        """Open the index of the snapshot; ``InvalidInput`` if ``where`` does not fit its fields."""
        from rag.ranking import Ranking

        snapshot = context.snapshot(self.collection)
        searcher = snapshot.index(snapshot.index_name("lexical", self.index))
        keep = snapshot.matching(self.where)

        def step(batch: Batch, run: Run) -> Batch:
            column = [[v] if isinstance(v, str) else v or () for v in batch[self.of]]
            queries = [query for row in column for query in row]
            rows = np.repeat(np.arange(len(column)), [len(row) for row in column])
            several = any(len(row) > 1 for row in column)
            k = depth(self.top_k, self.merge) if several else self.top_k
            if self.syntax == "plain":
                found: Flat = searcher.search(queries, k, k1=self.k1, b=self.b, keep=keep)
            else:
                found = self._phrases(queries, rows, k, searcher, snapshot, keep, run)
            if any(len(row) != 1 for row in column):
                found = merged(rows, *found, n=len(column), k=self.top_k, how=self.merge)
            offsets, docs, scores = found
            return batch.put(**{self.into: Ranking(offsets, docs, scores, snapshot)})

        return step

    def _phrases(
        self,
        queries: list[str],
        rows: NDArray[np.int64],
        k: int,
        index: Any,
        snapshot: Snapshot,
        keep: NDArray[np.bool_] | None,
        run: Run,
    ) -> Flat:
        """Hits of each query, as ``LexicalIndex.search`` gives them; a wrong one fails its row."""
        from rag.retrievers import phrases

        docs, scores = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        counts = np.zeros(len(queries) + 1, np.int64)
        for number, (row, text) in enumerate(zip(rows.tolist(), queries, strict=True), 1):
            try:
                query = read(text, index, self.syntax)
            except InvalidInput as error:
                run.fail(row, error)
                continue
            hits = phrases.search(query, index, snapshot, k, k1=self.k1, b=self.b, keep=keep)
            docs.append(hits[0])
            scores.append(hits[1])
            counts[number] = len(hits[0])
        return np.cumsum(counts), np.concatenate(docs), np.concatenate(scores)
