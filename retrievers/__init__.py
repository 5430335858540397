"""Question to ranked passages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.lazy import lazy

if TYPE_CHECKING:
    from rag.retrievers.bm25 import BM25 as BM25
    from rag.retrievers.fuse import Fuse as Fuse

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "BM25": "bm25",
        "Fuse": "fuse",
    },
)
