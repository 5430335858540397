"""Collections: a manifest over immutable segments and immutable indexes of those segments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.lazy import lazy

if TYPE_CHECKING:
    from rag.collection.cleaning import Cleaned as Cleaned
    from rag.collection.collection import Collection as Collection
    from rag.collection.snapshot import Snapshot as Snapshot
    from rag.collection.writing import Done as Done

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Cleaned": "cleaning",
        "Collection": "collection",
        "Done": "writing",
        "Snapshot": "snapshot",
    },
)
