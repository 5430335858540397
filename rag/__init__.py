"""Ragstone: retrieval and question answering whose pipelines are written in YAML.

The public names are loaded when they are first used, so that ``import rag`` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.lazy import lazy

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

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Answer": "pipeline",
        "Batch": "batch",
        "Citation": "batch",
        "Collection": "collection",
        "Columns": "stage",
        "Context": "stage",
        "Hit": "batch",
        "Pipeline": "pipeline",
        "RagError": "errors",
        "Ranking": "batch",
        "Run": "stage",
        "Stage": "stage",
    },
)
__version__ = "0.1.0"
