"""Question to ranked passages."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag.retrievers.bm25 import BM25 as BM25

_EXPORTS = {"BM25": "rag.retrievers.bm25"}

__all__ = sorted(_EXPORTS)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Load a public name from the module that defines it."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'rag.retrievers' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
