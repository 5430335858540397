"""The stage ``reorder``: the best passages to both ends of what the model reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from rag.stage import Columns, Context, Run, Stage, Step

if TYPE_CHECKING:
    from rag.batch import Batch, Ranking


class Reorder(Stage, name="reorder"):
    """Put the best passages first and last, where language models read best.

    Odd ranks ascending, then even ranks descending: of six passages 1 3 5 6 4 2. This is the
    retrieval reordering of Jin et al., "Long-Context LLMs Meet RAG" (2024, arXiv 2410.05983). The
    passages and their scores stay as they are; only the reading order changes.
    """

    of: str = Field("documents", description="The ranking to reorder.")
    into: str = Field("documents", description="The column that the new order is written to.")

    def columns(self, have: Columns) -> Columns:
        """Needs a ranking, writes a ranking."""
        return have.need(self.of, type="ranking").put(**{self.into: "ranking"})

    def open(self, context: Context) -> Step:
        """Nothing to open."""
        from rag.ranking import Ranking

        def step(batch: Batch, run: Run) -> Batch:
            column = batch[self.of]
            # A column of nulls alone has nothing to reorder.
            made = both_ends(column) if isinstance(column, Ranking) else column
            return batch.put(**{self.into: made})

        return step


def both_ends(ranking: Ranking) -> Ranking:
    """Each row with its odd ranks (1-based) ascending, then its even ranks descending."""
    rank = ranking.rank_of  # (m,), 0-based: even here is odd there
    odd = rank % 2 == 0
    return ranking.reorder(np.lexsort((np.where(odd, rank, -rank), ~odd, ranking.row_of)))
