"""The stage ``sparse``: retrieval by weights of a vocabulary's terms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from rag.retrievers.encoded import DEVICE, opened, searching
from rag.retrievers.merge import Merge
from rag.stage import Columns, Context, Stage, Step
from rag.where import Where

if TYPE_CHECKING:
    from rag.indexers.sparse_index import SparseIndex


class Sparse(Stage, name="sparse"):
    """Rank passages by the weights of vocabulary terms that an encoder gives (VDR, SPLADE).

    The search is exact. Of an index with ``vectors: bag`` only the question is encoded.
    """

    of: str = Field("query", description="The column of queries.")
    into: str = Field("documents", description="The column that the ranking is written to.")
    top_k: int = Field(100, gt=0, description="The most passages of a question.")
    index: str | None = Field(
        None, description="The sparse index to search; default: the only one there is."
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

    explain: bool = Field(
        False,
        description="Record which terms counted, as the evidence `terms` of each passage.",
    )

    def columns(self, have: Columns) -> Columns:
        """Needs the queries, writes a ranking."""
        return have.need(self.of).put(**{self.into: "ranking"})

    def files(self) -> list[Path]:
        """The files of ``encoder``; that of the index is part of the collection's state."""
        if self.encoder is None:
            return []
        from rag.encoders.load import folder_of_encoder

        folder = folder_of_encoder(self.encoder)
        return sorted(path for path in folder.rglob("*") if path.is_file())

    def open(self, context: Context) -> Step:
        """Open the index and the encoder, or share it with whoever has it open.

        Raises:
            MissingExtra: sentence-transformers is not installed.
            NotFound: the collection has no sparse index, or there is no such encoder.
            InvalidInput: it is not the encoder that built the index, or ``where`` does not fit.
            BackendFailed: it cannot be loaded.
        """
        snapshot = context.snapshot(self.collection)
        searcher: SparseIndex = snapshot.index(snapshot.index_name("sparse", self.index))
        settings = searcher.settings
        assert settings is not None  # an opened index has them
        keep = snapshot.matching(self.where)
        name = self.encoder or settings.encoder
        encoder: Any = opened(context, name, self.device)
        settings.check(encoder, name)

        def terms(query: str, vector: Any, number: int) -> list[dict[str, Any]]:
            """What each term that they share adds to the score of a passage, most first."""
            found = searcher.explain(vector, number)
            names = encoder.tokenizer_tokens([one.column for one in found])
            return [
                {
                    "query": query,
                    "term": name,
                    "query_weight": one.query,
                    "passage_weight": one.passage,
                    "score": one.score,
                }
                for name, one in zip(names, found, strict=True)
            ]

        explain = terms if self.explain else None
        return searching(self, encoder, searcher, keep, snapshot, explain)
