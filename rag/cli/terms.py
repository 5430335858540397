"""How the evidence of ``sparse`` is shown: vocabulary terms, and what each adds to a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag.batch import Batch, Hit

LISTED = 12
"""How many terms of a passage a table lists."""


@dataclass(frozen=True)
class Terms:
    """The terms of the hits of one question: for each hit what ``rag.retrievers.sparse`` says."""

    found: list[list[dict[str, Any]]]

    @classmethod
    def of(cls, batch: Batch, count: int) -> Terms | None:
        """Of the first ``count`` hits of the first row; None where there is no such evidence."""
        from rag.ranking import Ranking

        if "documents" not in batch:
            return None
        ranking = batch["documents"]
        if not isinstance(ranking, Ranking) or "terms" not in ranking.evidence:
            return None
        return cls([entries or [] for entries in ranking.evidence["terms"][:count]])

    def table(self, rank: int, hit: Hit) -> Any:
        """What the best terms of a hit add to its score, and the others together."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(
            "term", "in query", "in passage", "score",
            title=escape(f"{rank}. {hit.id}: terms of {hit.title or 'the passage'}"),
            title_justify="left",
        )  # fmt: skip
        found = self.found[rank - 1]
        for entry in found[:LISTED]:
            weights = (f"{entry[key]:.3f}" for key in ("query_weight", "passage_weight", "score"))
            table.add_row(escape(entry["term"]), *weights)
        if rest := found[LISTED:]:
            score = sum(entry["score"] for entry in rest)
            table.add_row(f"{len(rest)} more", "", "", f"{score:.3f}", style="dim")
        return table
