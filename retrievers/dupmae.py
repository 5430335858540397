"""The stage ``dupmae``: retrieval by DupMAE's vectors of two parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from rag.retrievers.encoded import DEVICE, opened, searching
from rag.retrievers.merge import Merge
from rag.stage import Columns, Context, Stage, Step
from rag.where import Where

if TYPE_CHECKING:
    from rag.indexers.dupmae_index import DupMAEIndex


class DupMAE(Stage, name="dupmae"):
    """Rank passages by the score of DupMAE: the vectors of [CLS] and the weights of tokens at once.

    The search is exact.
    """

    of: str = Field("query", description="The column of queries.")
    into: str = Field("documents", description="The column that the ranking is written to.")
    top_k: int = Field(100, gt=0, description="The most passages of a question.")
    index: str | None = Field(
        None, description="The dupmae index to search; default: the only one there is."
    )
    encoder: str | None = Field(
        None,
        min_length=1,
        description="Where the encoder of the index lies now: a folder or a name at Hugging Face; "
        "default: the one that the index names.",
    )
    device: str = Field(
        "auto",
        pattern=DEVICE,
        description="Where queries are encoded: auto (cuda where there is one, else cpu), cpu, "
        "cuda, cuda:1, cuda:all, mps or openvino.",
    )
    merge: Merge = Field("rrf", description="How several queries of one question are merged.")
    where: Where | None = Field(
        None, description="A condition that passages fulfil: {year: {gte: 1990}, lang: en}."
    )

    def columns(self, have: Columns) -> Columns:
        """Needs the queries, writes a ranking."""
        return have.need(self.of).put(**{self.into: "ranking"})

    def files(self) -> list[Path]:
        """The files of ``encoder``; that of the index is part of the collection's state."""
        if self.encoder is None:
            return []
        from rag.encoders.load import files_of_encoder

        return files_of_encoder(self.encoder)

    def open(self, context: Context) -> Step:
        """Open the index and the encoder, or share it with whoever has it open.

        Raises:
            MissingExtra: sentence-transformers is not installed.
            NotFound: the collection has no dupmae index, or there is no such encoder.
            InvalidInput: it is not the encoder that built the index, or ``where`` does not fit.
            BackendFailed: it cannot be loaded.
        """
        snapshot = context.snapshot(self.collection)
        searcher: DupMAEIndex = snapshot.index(snapshot.index_name("dupmae", self.index))
        keep = snapshot.matching(self.where)
        name = self.encoder or searcher.settings.encoder
        encoder: Any = opened(context, name, self.device)
        searcher.settings.check(encoder, name)
        return searching(self, encoder, searcher, keep, snapshot)
