"""Collections: a manifest over immutable segments and immutable indexes of those segments."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag.collection.collection import Collection as Collection
    from rag.collection.snapshot import Snapshot as Snapshot
    from rag.collection.writing import Done as Done

_EXPORTS = {
    "Collection": "rag.collection.collection",
    "Done": "rag.collection.writing",
    "Snapshot": "rag.collection.snapshot",
}

__all__ = sorted(_EXPORTS)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Load a public name from the module that defines it."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'rag.collection' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
