"""Ragstone: retrieval and question answering whose pipelines are written in YAML.

The public names are loaded when they are first used, so that ``import rag`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rag.batch import Batch as Batch
    from rag.batch import Citation as Citation
    from rag.batch import Hit as Hit
    from rag.batch import Ranking as Ranking
    from rag.collection import Collection as Collection
    from rag.errors import RagError as RagError
    from rag.pipeline import Answer as Answer
    from rag.pipeline import Pipeline as Pipeline
    from rag.stage import Columns as Columns
    from rag.stage import Context as Context
    from rag.stage import Run as Run
    from rag.stage import Stage as Stage

_EXPORTS = {
    "Answer": "rag.pipeline",
    "Batch": "rag.batch",
    "Citation": "rag.batch",
    "Collection": "rag.collection",
    "Columns": "rag.stage",
    "Context": "rag.stage",
    "Hit": "rag.batch",
    "Pipeline": "rag.pipeline",
    "RagError": "rag.errors",
    "Ranking": "rag.batch",
    "Run": "rag.stage",
    "Stage": "rag.stage",
}

__all__ = sorted(_EXPORTS)  # noqa: PLE0605
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Load a public name from the module that defines it."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'rag' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*globals(), *__all__])
