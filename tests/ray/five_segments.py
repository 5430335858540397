"""A collection of five segments with an index of every kind, and encoders that need no model."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag import Collection
from rag.batch import Batch
from rag.indexers import Dense, Lexical, NGrams, Sparse, dense, sparse
from rag.pipeline import Pipeline
from rag.ranking import Ranking
from rag.stage import Stage
from tests.retrievers.seal.tiny_seal import CAPITALS, WORDS, network, tokenizer

ROWS, SEGMENT = 150, 30


def _drawn(text: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


class DenseEncoder:
    """Gives a text the vector that its bytes seed."""

    kind, dimensions, similarity, name, hash = "dense", 16, "cosine", "drawn", "f" * 64

    def encode(self, texts: Sequence[str], kind: str = "query") -> Any:
        drawn = [_drawn(text).standard_normal(self.dimensions) for text in texts]
        return np.array(drawn, np.float32).reshape(len(texts), self.dimensions)


class SparseEncoder:
    """Gives a text weights of columns that its words seed, so that texts share some."""

    kind, dimensions, name, hash = "vocabulary", 60, "words", "e" * 64

    def encode(self, texts: Sequence[str], kind: str = "query") -> Any:
        from scipy.sparse import csr_matrix

        rows, columns, values = [], [], []
        for row, text in enumerate(texts):
            for word in dict.fromkeys(text.split()):
                draw = _drawn(word)
                rows.append(row)
                columns.append(int(draw.integers(self.dimensions)))
                values.append(float(draw.random()) + 0.1)
        made = csr_matrix((values, (rows, columns)), (len(texts), self.dimensions), np.float32)
        made.sum_duplicates()
        return made


def patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the encoders above loaded by their names."""
    from rag.encoders import load

    def given(name: str, device: str = "auto") -> Any:
        return SparseEncoder() if name == "words" else DenseEncoder()

    monkeypatch.setattr(load, "load_encoder", given)
    monkeypatch.setattr(load, "encoder_hash", lambda name: DenseEncoder.hash)
    dense._opened.clear()
    sparse._opened.clear()


def passages(count: int = ROWS, seed: int = 0) -> list[dict[str, Any]]:
    """Passages of a few words, some of them alike, three to a document."""
    draw = random.Random(seed)
    words = WORDS + CAPITALS
    texts = [" ".join(draw.choices(words, k=draw.randint(1, 12))) for _ in range(count)]
    for at in range(0, count, 10):  # equal scores in several segments
        texts[at] = texts[0]
    return [
        {"id": f"p{at}", "title": " ".join(draw.choices(words, k=at % 3)), "text": text,
         "even": at % 2 == 0, "year": 1900 + at}
        for at, text in enumerate(texts)
    ]  # fmt: skip


def build(folder: Path) -> Collection:
    """The collection, with deleted passages; ``patch`` must hold."""
    network("llama").save_pretrained(folder / "model")
    tokenizer().save_pretrained(folder / "model")
    indexes: dict[str, Any] = {
        "lexical": Lexical(stemmer="none", stopwords="none"),
        "flat": Dense(encoder="drawn"),
        "hnsw": Dense(encoder="drawn", factory="HNSW8"),
        "ivf": Dense(encoder="drawn", factory="IVF4,PQ4x4"),
        "words": Sparse(encoder="words"),
        "ngrams": NGrams(model=str(folder / "model")),
    }
    made, _ = Collection.build(
        passages(),
        folder / "c",
        indexes=indexes,
        fields={"even": "bool", "year": "int"},
        segment_rows=SEGMENT,
    )
    made.delete(["p3", "p40", "p41", "p149"])
    assert len(made.snapshot().manifest.segments) >= 5
    return made


def asked(count: int = 6, seed: int = 1) -> list[str]:
    """Questions of one to five words."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS + CAPITALS, k=draw.randint(1, 5))) for _ in range(count)]


def ranked(stage: Stage, collection: Any, questions: Sequence[str]) -> Ranking:
    """What a stage finds."""
    with Pipeline([stage], collection) as pipeline:
        batch: Batch = pipeline.run(list(questions))
    errors = [error for error in batch["error"] if error is not None]
    assert errors == [], errors
    assert "partial" not in batch
    found: Ranking = batch["documents"]
    return found
