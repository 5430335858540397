"""An encoded and trained index kind of a few lines: a passage's vector is a number of its text."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel

from rag.errors import InvalidInput


class Toy(BaseModel, frozen=True, extra="forbid"):
    """It learns the mean of a sample, and its index tells which vectors are above it."""

    kind: ClassVar[str] = "toy"
    format: ClassVar[int] = 1
    encoded: ClassVar[list[str]] = []
    """The texts that were encoded; empty it, and look at it afterwards."""

    encoder: str = "one"
    factory: str = "plain"
    sample: int = 0
    """On how many rows it trains; 0 for no training."""
    least: int = 1

    def encoding(self) -> dict[str, Any]:
        """Only the encoder."""
        return {"toy": self.encoder}

    def build(self, passages: pa.Table, out: Path) -> None:
        """Encode."""
        texts = passages["text"].to_pylist()
        self.encoded.extend(texts)
        np.save(out / "vectors.npy", np.array([self.vector(text) for text in texts], np.uint32))

    def vector(self, text: str) -> int:
        """That of a text."""
        return zlib.crc32(f"{self.encoder} {text}".encode())

    def gather(
        self, parts: Sequence[Path], keep: Sequence[NDArray[np.bool_] | None], out: Path
    ) -> None:
        """Put together."""
        read = [np.load(part / "vectors.npy") for part in parts]
        kept = [v if mask is None else v[mask] for v, mask in zip(read, keep, strict=True)]
        np.save(out / "vectors.npy", np.concatenate([np.empty(0, np.uint32), *kept]))

    def training_rows(self) -> int:
        """As set."""
        return self.sample

    def train(self, vectors: Path, out: Path) -> None:
        """Learn the mean."""
        found = np.load(vectors / "vectors.npy")
        if len(found) < self.least:
            raise InvalidInput(f"factory {self.factory}: needs {self.least} passages to learn from")
        np.save(out / "mean.npy", found.mean())

    def index(self, vectors: Path, trained: Path | None, out: Path) -> None:
        """Which are above the mean."""
        mean = 0 if trained is None else np.load(trained / "mean.npy")
        np.save(out / "above.npy", np.load(vectors / "vectors.npy") > mean)

    def open(self, folders: Sequence[Path], vectors: Sequence[Path], trained: Path | None) -> Any:
        """Vectors and what the index tells of them, of all rows."""
        return (
            np.concatenate([np.load(folder / "vectors.npy") for folder in vectors]),
            np.concatenate([np.load(folder / "above.npy") for folder in folders]),
            None if trained is None else float(np.load(trained / "mean.npy")),
        )
