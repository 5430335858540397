"""The stage ``dense``: retrieval by the vectors of an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from rag.retrievers.encoded import DEVICE, opened, searching
from rag.retrievers.merge import Merge
from rag.stage import Columns, Context, Stage, Step
from rag.where import Where

if TYPE_CHECKING:
    from rag.encoders import Encoder


class Dense(Stage, name="dense"):
    """Rank passages by the similarity of their vectors to that of the question."""

    of: str = Field("query", description="The column of queries.")
    into: str = Field("documents", description="The column that the ranking is written to.")
    top_k: int = Field(100, gt=0, description="The most passages of a question.")
    index: str | None = Field(
        None, description="The dense index to search; default: the only one there is."
    )
    encoder: str | None = Field(
        None,
        description="Where the encoder of the index lies now: a folder, a name at Hugging Face or "
        "minilm; default: the one that the index names.",
    )
    device: str = Field(
        "auto",
        pattern=DEVICE,
        description="Where queries are encoded and the index is searched: auto (cuda where there "
        "is one, else cpu), openvino (which encodes only).",
    )
    placement: Literal["sharded", "replicated"] | None = Field(
        None,
        description="Over all GPUs: sharded (each has a part of the rows) or replicated (each has "
        "all); default: one GPU.",
    )
    effort: float = Field(
        1,
        gt=0,
        description="Of an index that is not exact: 2 looks at twice as many passages, and finds "
        "more.",
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
            MissingExtra: sentence-transformers, or FAISS where the index needs it, is not
                installed.
            NotFound: the collection has no dense index, or there is no such encoder.
            InvalidInput: it is not the encoder that built the index, ``where`` does not fit, or the
                index cannot be searched on the ``device``.
            BackendFailed: it cannot be loaded, or does not fit into the device's memory.
        """
        from rag.encoders.load import encoder_hash
        from rag.indexers.dense import check_hash, check_kind
        from rag.indexers.dense_index import DenseIndex

        snapshot = context.snapshot(self.collection)
        searcher = snapshot.index(snapshot.index_name("dense", self.index))
        keep = snapshot.matching(self.where)
        name = self.encoder or searcher.encoder
        check_hash(name, encoder_hash(name), searcher.hash)
        encoder: Encoder = opened(context, name, self.device)
        check_kind(encoder)
        if isinstance(searcher, DenseIndex):  # what is spread over shards is searched there
            place = searcher, self.device, self.placement
            searcher = context.get(("dense", *place), lambda: place[0].on(*place[1:]))
        return searching(self, encoder, searcher, keep, snapshot, effort=self.effort)
