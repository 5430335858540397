"""Question to ranked passages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.lazy import lazy

if TYPE_CHECKING:
    from rag.retrievers.bm25 import BM25 as BM25
    from rag.retrievers.collapse import Collapse as Collapse
    from rag.retrievers.dense import Dense as Dense
    from rag.retrievers.dupmae import DupMAE as DupMAE
    from rag.retrievers.expand import Expand as Expand
    from rag.retrievers.fuse import Fuse as Fuse
    from rag.retrievers.rerank import Rerank as Rerank
    from rag.retrievers.rewrite import Rewrite as Rewrite
    from rag.retrievers.seal.stage import Seal as Seal
    from rag.retrievers.sparse import Sparse as Sparse

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "BM25": "bm25",
        "Collapse": "collapse",
        "Dense": "dense",
        "DupMAE": "dupmae",
        "Expand": "expand",
        "Fuse": "fuse",
        "Rerank": "rerank",
        "Rewrite": "rewrite",
        "Seal": "seal.stage",
        "Sparse": "sparse",
    },
)
