"""Index kinds of a plugin: encoders without a model, and an index that fails as it is told.

``conftest`` installs a copy of this file, so that workers find it.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from rag.indexers import Dense, Lexical, Sparse


def _drawn(text: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


class DenseEncoder:
    """Gives a text the vector that its bytes seed."""

    kind, dimensions, similarity, name, hash = "dense", 16, "cosine", "drawn", "a" * 64

    def encode(self, texts: Sequence[str], kind: str = "query") -> Any:
        drawn = [_drawn(text).standard_normal(self.dimensions) for text in texts]
        return np.array(drawn, np.float32).reshape(len(texts), self.dimensions)


class SparseEncoder:
    """Gives a text weights of columns that its words seed."""

    kind, dimensions, name, hash = "vocabulary", 60, "words", "b" * 64

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


class DrawnDense(Dense, frozen=True, extra="forbid"):
    """Vectors of ``DenseEncoder``; on a machine where a file ``absent`` lies it has no encoder."""

    kind: ClassVar[str] = "drawn_dense"
    encoder: str = "drawn"

    def _encoder(self) -> Any:
        return DenseEncoder()


class DrawnSparse(Sparse, frozen=True, extra="forbid"):
    """Weights of ``SparseEncoder``."""

    kind: ClassVar[str] = "drawn_sparse"
    encoder: str = "words"

    def _encoder(self) -> Any:
        return SparseEncoder()


def mark(folder: str, first: str) -> str:
    """Leave a mark of which process on which node began to work; returns the node."""
    import ray

    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
    path = Path(folder) / f"{time.time_ns()}-{os.getpid()}"
    path.with_suffix(".part").write_text(
        json.dumps({"pid": os.getpid(), "node": node, "first": first})
    )
    path.with_suffix(".part").rename(path.with_suffix(".json"))
    return str(node)


class Faulty(Lexical, frozen=True, extra="forbid"):
    """An index of words that marks where it works, waits, and fails as it is told.

    A row whose id is ``poison`` kills the process. The disk is full on the node whose id stands in
    the file ``full``. A node whose id stands in the file ``lacking`` lacks a model.
    """

    kind: ClassVar[str] = "faulty"
    marks: str
    pause: float = 0.0
    poison: str = ""
    full: str = ""
    lacking: str = ""

    def pinned(self) -> Faulty:
        """It has a model where it is told that it has none."""
        import ray

        if self.lacking and ray.is_initialized():
            node = ray.get_runtime_context().get_node_id()
            if Path(self.lacking).exists() and node == Path(self.lacking).read_text():
                from rag.errors import NotFound

                raise NotFound("model tiny: no such folder")
        return self

    def build(self, passages: pa.Table, out: Path) -> None:
        ids = passages["id"].to_pylist()
        node = mark(self.marks, ids[0])
        if self.poison in ids:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.full and Path(self.full).exists() and Path(self.full).read_text() == node:
            (out / "half").write_text("half")
            raise OSError(28, "No space left on device", str(out))
        time.sleep(self.pause)
        super().build(passages, out)
