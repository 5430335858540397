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
    from rag.flow import Branch as Branch
    from rag.flow import Repeat as Repeat
    from rag.flow import Unless as Unless
    from rag.pipeline import Answer as Answer
    from rag.pipeline import Pipeline as Pipeline
    from rag.run import Cancel as Cancel
    from rag.stage import Columns as Columns
    from rag.stage import Context as Context
    from rag.stage import Run as Run
    from rag.stage import Stage as Stage
    from rag.streaming import Event as Event
    from rag.where import Where as Where

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Answer": "pipeline",
        "Batch": "batch",
        "Branch": "flow",
        "Cancel": "run",
        "Citation": "batch",
        "Collection": "collection",
        "Columns": "stage",
        "Context": "stage",
        "Event": "streaming",
        "Hit": "batch",
        "Pipeline": "pipeline",
        "RagError": "errors",
        "Ranking": "batch",
        "Repeat": "flow",
        "Run": "stage",
        "Stage": "stage",
        "Unless": "flow",
        "Where": "where",
    },
)
__version__ = "0.1.0"
