"""From documents to the index of one segment.

Each kind fulfils the contract of ``rag.collection.kinds``. Names are loaded when first used, so
that importing the package loads neither numpy nor numba.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag.indexers.lexical import Lexical as Lexical

_exports = {"Lexical": "lexical"}

__all__ = ["Lexical"]


def __getattr__(name: str) -> Any:
    if name in _exports:
        return getattr(import_module(f"{__name__}.{_exports[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_exports])
