"""The index kind ``sparse``: passages as weights of a vocabulary's terms, for the stage ``sparse``.

A row's score is the product of its vector with the query's, both from an encoder that gives
weights of vocabulary terms (VDR, SPLADE; ``rag.encoders``). With ``vectors: bag`` a passage's
vector is 1 at the tokens that stand in it and 0 elsewhere, which asks for no model when the index
is built: VDR expands the question, and finds passages that were never encoded (the "beta search"
of SVDR, Zhou et al., arXiv 2405.01924).

Search is exact: postings with one byte an impact exclude rows, and those left are scored with the
float32 weights (``rag.indexers.sparse_vectors``). Nothing is lost to quantisation.

``build`` encodes a partition and keeps the vectors; ``merge`` puts those of a segment together and
turns them into postings, so that compaction never encodes again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from rag.errors import REFUSED, Damaged, InvalidInput, NotFound
from rag.indexers import sparse_vectors
from rag.indexers.sparse_index import SparseIndex

_AGAIN = "run `rag verify`, then `rag index` again"
_opened: dict[str, Any] = {}
"""The encoder that built last, by its hash: partitions of one job share it."""


class Sparse(BaseModel, frozen=True, extra="forbid"):
    """Settings of a sparse index."""

    kind: ClassVar[str] = "sparse"
    format: ClassVar[int] = 1

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

    def build(self, passages: pa.Table, out: Path) -> None:
        """Write the vectors of ``passages`` into the empty folder ``out``, for ``merge``.

        Raises:
            InvalidInput: the encoder is not the one that the index was built with, or gives values
                that are below 0, above 1e15 or no numbers.
        """
        encoder = self._encoder()
        texts = texts_of(passages, getattr(encoder, "joint", " "))
        found = encoder.encode(texts, kind="document")
        entries = sparse_vectors.checked(found, len(texts), encoder.dimensions, self.encoder)
        self._write_head(out, len(texts), sparse_vectors.write(out, encoder.dimensions, [entries]))

    def merge(
        self, parts: Sequence[Path], keep: Sequence[NDArray[np.bool_] | None], out: Path
    ) -> None:
        """Write the index of the kept rows of ``parts``, in order.

        The parts are what ``build`` wrote, or indexes; one or the other, the bytes are the same.
        """
        if len(parts) != len(keep):
            raise InvalidInput(f"{len(parts)} parts, but {len(keep)} masks of kept rows")
        found = []
        for part, mask in zip(parts, keep, strict=True):
            head = self._head(part)
            entries = sparse_vectors.vectors(part, self.dimensions)
            _check(part, head, entries)
            found.append(sparse_vectors.kept(entries, mask))
        count = sparse_vectors.write(out, self.dimensions, found)
        sparse_vectors.invert(out, self.dimensions)
        self._write_head(out, sum(len(part[0]) - 1 for part in found), count)

    def open(self, folders: Sequence[Path]) -> SparseIndex:
        """A searcher over the ``folders``, in this order, as one index."""
        parts = []
        for folder in folders:
            head = self._head(folder)
            parts.append(sparse_vectors.segment(folder, self.dimensions))
            _check(folder, head, parts[-1])
        return SparseIndex(parts, folders, self.dimensions, self)

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

    def _write_head(self, out: Path, rows: int, entries: int) -> None:
        head = {
            "dimensions": self.dimensions,
            "entries": entries,
            "format": self.format,
            "hash": self.hash,
            "kind": self.kind,
            "rows": rows,
            "vectors": self.vectors,
        }
        text = json.dumps(head, sort_keys=True, indent=1, ensure_ascii=True)
        (out / "index.json").write_text(text + "\n", encoding="ascii")

    def _head(self, folder: Path) -> dict[str, Any]:
        """What ``index.json`` of a folder says, after checking that these settings wrote it."""
        file = folder / "index.json"
        try:
            head = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise NotFound(f"{file} is missing: {_AGAIN}") from None
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in REFUSED:
                raise
            raise Damaged(f"{file} is damaged: {error}; {_AGAIN}") from error
        if not isinstance(head, dict):
            raise Damaged(f"{file} is damaged: it holds no object; {_AGAIN}")
        for key in ("format", "kind", "vectors", "hash", "dimensions"):
            if head.get(key) != getattr(self, key):
                raise InvalidInput(
                    f"{file}: {key} is {head.get(key)!r}, expected {getattr(self, key)!r}; "
                    "run `rag index` again"
                )
        return head


def texts_of(passages: pa.Table, joint: str) -> list[str]:
    """Title, ``joint`` and text of each passage; the text alone where it has no title."""
    pairs = zip(passages["title"].to_pylist(), passages["text"].to_pylist(), strict=True)
    return [f"{title}{joint}{text or ''}" if title else text or "" for title, text in pairs]


def _check(folder: Path, head: dict[str, Any], arrays: Sequence[Any]) -> None:
    found = {"rows": len(arrays[0]) - 1, "entries": len(arrays[1])}
    for key, value in found.items():
        if head.get(key) != value:
            raise Damaged(
                f"{folder}: is damaged: index.json counts {head.get(key)} {key}, the arrays hold "
                f"{value}; {_AGAIN}"
            )
