"""From documents to the index of one segment.

Each kind fulfils the contract of ``rag.collection.kinds``. Names are loaded when first used, so
that importing the package loads neither numpy nor numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.lazy import lazy

if TYPE_CHECKING:
    from rag.indexers.dense import Dense as Dense
    from rag.indexers.dupmae import DupMAE as DupMAE
    from rag.indexers.lexical import Lexical as Lexical
    from rag.indexers.ngrams import NGrams as NGrams
    from rag.indexers.sparse import Sparse as Sparse

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Dense": "dense",
        "DupMAE": "dupmae",
        "Lexical": "lexical",
        "NGrams": "ngrams",
        "Sparse": "sparse",
    },
)
