"""From ranked passages to an answer."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag.readers.extract import Extract as Extract
    from rag.readers.generate import Generate as Generate
    from rag.readers.reorder import Reorder as Reorder

_EXPORTS = {
    "Extract": "rag.readers.extract",
    "Generate": "rag.readers.generate",
    "Reorder": "rag.readers.reorder",
}

__all__ = sorted(_EXPORTS)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Load a public name from the module that defines it."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'rag.readers' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*globals(), *__all__])
