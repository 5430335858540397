"""Encoders that draw a vector from a text: ``drawn`` is dense, ``terms`` has a vocabulary."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

V = 300


class Drawn:
    """Texts with words in common have vectors that are alike; counts what is encoded."""

    encoded: ClassVar[list[str]] = []

    def __init__(self, name: str) -> None:
        """``drawn`` or ``terms``; a number after it makes another encoder."""
        self.name = name
        self.kind = "vocabulary" if name.startswith("terms") else "dense"
        self.dimensions = V if self.kind == "vocabulary" else 24
        self.similarity = "dot" if self.kind == "vocabulary" else "cosine"
        self.hash = hash_of(name)

    def encode(self, texts: Sequence[str], kind: str = "query") -> Any:
        """The vectors of texts."""
        if kind == "document":
            self.encoded.extend(texts)
        rows = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.split():
                row += _drawn(self.name, word, self.kind, self.dimensions)
        if self.kind == "dense":
            return rows
        from scipy import sparse

        return sparse.csr_array(rows)

    def tokenizer_tokens(self, ids: Sequence[int]) -> list[str]:
        """What columns are called."""
        return [f"term{number}" for number in ids]


@functools.cache
def _drawn(name: str, word: str, kind: str, dimensions: int) -> Any:
    """The vector of a word."""
    rng = np.random.default_rng(zlib.crc32(f"{name} {word}".encode()))
    if kind == "dense":
        return rng.standard_normal(dimensions).astype(np.float32)
    row = np.zeros(dimensions, np.float32)
    row[(rng.random(8) ** 2 * dimensions).astype(int)] = rng.gamma(2.0, 0.4, 8)
    return row


def hash_of(name: str) -> str:
    """The hash of an encoder."""
    return f"{zlib.crc32(name.encode()):064x}"


def install(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have every encoder drawn; returns the texts that are encoded from now on."""

    def load(name: str, device: str = "auto") -> Drawn:
        return Drawn(name)

    monkeypatch.setattr("rag.encoders.load.load_encoder", load)
    monkeypatch.setattr("rag.encoders.load.encoder_hash", hash_of)
    monkeypatch.setattr("rag.indexers.dense._opened", {})
    monkeypatch.setattr("rag.indexers.sparse._opened", {})
    monkeypatch.setattr(Drawn, "encoded", [])
    return Drawn.encoded
