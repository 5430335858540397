"""Texts to vectors: one small interface over the models of sentence-transformers.

Names are loaded when first used, so that importing the package loads neither numpy nor torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rag.lazy import lazy

if TYPE_CHECKING:
    from rag.encoders.encode import Encoder as Encoder
    from rag.encoders.load import load_encoder as load_encoder

__getattr__, __dir__, __all__ = lazy(__name__, {"Encoder": "encode", "load_encoder": "load"})
