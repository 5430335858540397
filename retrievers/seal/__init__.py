"""Retrieval by n-grams that a language model generates and the collection contains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.lazy import lazy

if TYPE_CHECKING:
    from rag.retrievers.seal.decode import Decoding as Decoding
    from rag.retrievers.seal.keys import Keys as Keys
    from rag.retrievers.seal.model import SealModel as SealModel
    from rag.retrievers.seal.stage import Seal as Seal
    from rag.retrievers.seal.weigh import Scoring as Scoring

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        "Decoding": "decode",
        "Keys": "keys",
        "Scoring": "weigh",
        "Seal": "stage",
        "SealModel": "model",
    },
)
