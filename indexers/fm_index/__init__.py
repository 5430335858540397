"""An FM-index over token ids: which n-grams does a collection hold, where, and what comes next?

``FMIndex`` is one index in a folder, ``FMIndexes`` several that answer as one. Names are loaded
when first used, so that importing the package loads neither numpy nor numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.lazy import lazy

if TYPE_CHECKING:
    from rag.indexers.fm_index.index import FMIndex as FMIndex
    from rag.indexers.fm_index.several import FMIndexes as FMIndexes

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "FMIndex": "index",
        "FMIndexes": "several",
    },
)
