"""From ranked passages to an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.lazy import lazy

if TYPE_CHECKING:
    from rag.readers.extract import Extract as Extract
    from rag.readers.generate import Generate as Generate
    from rag.readers.reorder import Reorder as Reorder

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Extract": "extract",
        "Generate": "generate",
        "Reorder": "reorder",
    },
)
