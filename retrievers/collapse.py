"""The stage ``collapse``: a ranking without repetition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from rag.errors import InvalidInput
from rag.stage import Columns, Context, Run, Stage, Step

if TYPE_CHECKING:
    from rag.batch import Batch

THRESHOLD = 0.9


class Collapse(Stage, name="collapse"):
    """Keep one passage of each document, or one of several passages of nearly the same text.

    By ``document`` the passage with the highest score stays; by ``text`` the first one does, and
    those after it go whose 5-word shingles have a Jaccard similarity of ``threshold`` or more with
    its own (see ``rag.collapse``). What stays keeps its order.
    """

    of: str = Field("documents", description="The ranking to collapse.")
    into: str = Field("documents", description="The column that the ranking is written to.")
    by: Literal["document", "text"] = Field("document", description="What is not to be repeated.")
    threshold: float | None = Field(
        None, gt=0, le=1, description="How alike texts are that collapse; default 0.9. Of 'text'."
    )
    top_k: int | None = Field(
        None, gt=0, description="The most passages that stay; default: no limit."
    )

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.by == "document" and self.threshold is not None:
            raise InvalidInput("threshold: is of 'by: text'; add that, or leave threshold out")
        return self

    def columns(self, have: Columns) -> Columns:
        """Needs a ranking, writes one."""
        return have.need(self.of, type="ranking").put(**{self.into: "ranking"})

    def open(self, context: Context) -> Step:
        """Nothing to open."""
        from rag.collapse import by_document, near_duplicates

        def step(batch: Batch, run: Run) -> Batch:
            ranking = batch[self.of]
            if self.by == "document":
                ranking = by_document(ranking)
            else:
                ranking = near_duplicates(ranking, self.threshold or THRESHOLD)
            return batch.put(**{self.into: ranking.top(self.top_k) if self.top_k else ranking})

        return step
