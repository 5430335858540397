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

        def step(batch: Batch, run: Run) -> Batch:
            ranking = batch[self.of]
            # A column of nulls alone has no ranking to reorder.
            return batch.put(**{self.into: both_ends(ranking) if any_ranking(ranking) else ranking})

        return step


def any_ranking(column: object) -> bool:
    """Whether a column holds rankings at all, and not nulls alone."""
    from rag.ranking import Ranking

    return isinstance(column, Ranking)


def both_ends(ranking: Ranking) -> Ranking:
    """Each row with its odd ranks (1-based) ascending, then its even ranks descending."""
    rank = ranking.rank_of  # (m,), 0-based: even here is odd there
    odd = rank % 2 == 0
    return ranking.reorder(np.lexsort((np.where(odd, rank, -rank), ~odd, ranking.row_of)))
