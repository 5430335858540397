"""The index kind ``sparse``: passages as weights of a vocabulary's terms, for the stage ``sparse``.

A row's score is the product of its vector with the query's, both from an encoder that gives
weights of vocabulary terms (VDR, SPLADE; ``rag.encoders``). With ``vectors: bag`` a passage's
vector is 1 at the tokens that stand in it and 0 elsewhere, which asks for no model when the index
is built: VDR expands the question, and finds passages that were never encoded (the "beta search"
of SVDR, Zhou et al., arXiv 2405.01924).

Search is exact: postings with one byte an impact exclude rows, and those left are scored with the
float32 weights (``rag.indexers.sparse_vectors``). Nothing is lost to quantisation.

``build`` encodes a partition, ``gather`` puts the vectors of a segment together, and ``index``
turns them into postings.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from rag.errors import InvalidInput
from rag.indexers import sparse_vectors
from rag.indexers.head import check_counts, read_head, write_head
from rag.indexers.sparse_index import SparseIndex

_VECTORS = 1
"""The format of the files of vectors."""
_opened: dict[str, Any] = {}
"""The encoder that built last, by its hash: partitions of one job share it."""


class Sparse(BaseModel, frozen=True, extra="forbid"):
    """Settings of a sparse index."""

    kind: ClassVar[str] = "sparse"
    format: ClassVar[int] = 2

    encoder: str = Field(min_length=1)
    """A model that gives weights of vocabulary terms, as ``rag.encoders.load_encoder`` takes it."""
    vectors: Literal["encoder", "bag"] = "encoder"
    """The encoder's weights, or which tokens a passage has: then only its tokenizer is read."""
    hash: str = Field("", pattern="^([0-9a-f]{64})?$")
    """The encoder's hash, or that of the tokenizer for ``bag``; filled in when it is built."""
    dimensions: int = Field(0, ge=0)
    """How many columns vectors have; filled in when it is built."""

    def pinned(self) -> Self:
        """These settings with the hash and the dimensions that the encoder has now.

        Raises what ``load_encoder`` raises, and InvalidInput where the encoder gives no weights of
        a vocabulary or is not the one that is set.
        """
        encoder = self._encoder()
        return self.model_copy(update={"hash": encoder.hash, "dimensions": encoder.dimensions})

    def encoding(self) -> dict[str, Any]:
        """What vectors depend on: the encoder, or its tokenizer, and the format of the files."""
        return {
            "dimensions": self.dimensions,
            "files": "sparse",
            "format": _VECTORS,
            "hash": self.hash,
            "vectors": self.vectors,
        }

    def build(self, passages: pa.Table, out: Path) -> None:
        """Write the vectors of ``passages`` into the empty folder ``out``.

        Raises:
            InvalidInput: the encoder is not the one that the index was built with, or gives values
                that are below 0, above 1e15 or no numbers.
        """
        encoder = self._encoder()
        texts = texts_of(passages, getattr(encoder, "joint", " "))
        found = encoder.encode(texts, kind="document")
        entries = sparse_vectors.checked(found, len(texts), encoder.dimensions, self.encoder)
        self._write_vectors([entries], [None], out)

    def gather(
        self, parts: Sequence[Path], keep: Sequence[NDArray[np.bool_] | None], out: Path
    ) -> None:
        """Write the vectors of the kept rows of ``parts``, in order; nothing is encoded."""
        found = []
        for part in parts:
            found.append(sparse_vectors.vectors(part, self.dimensions))
            self._check_vectors(part, found[-1])
        self._write_vectors(found, keep, out)

    def index(self, vectors: Path, trained: Path | None, out: Path) -> None:
        """Write the postings of a segment with these ``vectors``; nothing is trained."""
        entries = sparse_vectors.vectors(vectors, self.dimensions)
        self._check_vectors(vectors, entries)
        sparse_vectors.invert(entries, self.dimensions, out)
        counts = {"entries": len(entries[1]), "rows": len(entries[0]) - 1}
        write_head(out / "index.json", {**self._head(), **counts})

    def open(
        self, folders: Sequence[Path], vectors: Sequence[Path], trained: Path | None
    ) -> SparseIndex:
        """A searcher over the ``folders`` and ``vectors``, in this order, as one index."""
        places = list(zip(folders, vectors, strict=True))
        parts = []
        for folder, place in places:
            file = folder / "index.json"
            head = read_head(file, self._head())
            part = sparse_vectors.segment(folder, place, self.dimensions)
            self._check_vectors(place, part)
            found = {"rows": len(part.offsets) - 1, "entries": len(part.rows)}
            check_counts(file, head, found, f"rows.npy and {place / 'offsets.npy'}")
            parts.append(part)
        return SparseIndex(parts, places, self.dimensions, self)

    def check(self, encoder: Any, name: str) -> None:
        """Raise InvalidInput unless queries of an encoder fit the index.

        Its hash must be that of the index; for ``bag`` its vocabulary is compared by its size, and
        the tokenizer's hash where the encoder has one (``bag_hash``).
        """
        if encoder.kind != "vocabulary":
            raise InvalidInput(
                f"{name} gives {encoder.kind} vectors, not weights of a vocabulary, which an index "
                "of the type sparse holds; use a VDR or SPLADE model, or the type dense"
            )
        found = encoder.hash if self.vectors == "encoder" else getattr(encoder, "bag_hash", "")
        if (found and self.hash and found != self.hash) or (
            self.dimensions and encoder.dimensions != self.dimensions
        ):
            raise InvalidInput(
                f"the encoder {name} has the hash {found[:16]}… and {encoder.dimensions} "
                f"dimensions, and the index was built by {self.encoder} with {self.hash[:16]}… and "
                f"{self.dimensions}; give back the encoder that built it, or run `rag index` again"
            )

    def _encoder(self) -> Any:
        """What encodes passages; InvalidInput where it is another than the pinned one."""
        encoder: Any
        if self.vectors == "bag":
            from rag.encoders.vdr import Bags

            encoder = Bags.load(self.encoder)
            if self.hash and encoder.hash != self.hash:
                raise InvalidInput(
                    f"the tokenizer of {self.encoder} has the hash {encoder.hash[:16]}…, and the "
                    f"index was built with {self.hash[:16]}…; give back the model that built it, "
                    "or run `rag index` from the source again"
                )
            return encoder
        from rag.encoders import load_encoder

        # Kept only where it is known which one is wanted: what lies in a folder can change.
        if self.hash not in _opened:
            encoder = load_encoder(self.encoder)
            self.check(encoder, self.encoder)
            _opened.clear()
            if not self.hash:
                return encoder
            _opened[self.hash] = encoder
        return _opened[self.hash]

    def _head(self) -> dict[str, Any]:
        """What ``index.json`` says about every index with these settings."""
        return {"dimensions": self.dimensions, "format": self.format, "kind": self.kind}

    def _write_vectors(
        self, parts: Sequence[Any], keep: Sequence[NDArray[np.bool_] | None], out: Path
    ) -> None:
        rows, entries = sparse_vectors.write(out, self.dimensions, parts, keep)
        head = {**self.encoding(), "entries": entries, "rows": rows}
        write_head(out / "vectors.json", head)

    def _check_vectors(self, folder: Path, arrays: Sequence[Any]) -> None:
        """Raise unless these settings wrote a folder of vectors, and its arrays are as counted."""
        file = folder / "vectors.json"
        found = {"rows": len(arrays[0]) - 1, "entries": len(arrays[1])}
        check_counts(file, read_head(file, self.encoding()), found, "offsets.npy and columns.npy")


def texts_of(passages: pa.Table, joint: str) -> list[str]:
    """Title, ``joint`` and text of each passage; the text alone where it has no title."""
    pairs = zip(passages["title"].to_pylist(), passages["text"].to_pylist(), strict=True)
    return [f"{title}{joint}{text or ''}" if title else text or "" for title, text in pairs]
