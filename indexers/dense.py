"""The index kind ``dense``: vectors of an encoder, searched exactly or by FAISS.

``build`` encodes a partition, which is the costly step, and keeps its vectors. ``merge`` writes the
vectors of a segment, copied as they are, and beside them the FAISS index that ``factory`` names,
unless that is ``Flat``: exact search needs the vectors only. So compaction encodes nothing.

Where the encoder compares by cosine, vectors are brought to the length 1, and scores are cosines;
else they are inner products. For given vectors the bytes do not depend on how rows are cut; the
vectors of an encoder itself agree to about 1e-6 from machine to machine and batch to batch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from rag.errors import REFUSED, Damaged, InvalidInput, NotFound
from rag.indexers import dense_faiss
from rag.indexers.dense_index import DenseIndex, Segment

if TYPE_CHECKING:
    from rag.encoders import Encoder

AT_ONCE = 65_536
"""Rows that are copied at a time."""
_AGAIN = "run `rag verify`, then `rag index` again"
_opened: dict[tuple[str, str], Encoder] = {}


class Dense(BaseModel, frozen=True, extra="forbid"):
    """Settings of a dense index; a passage is encoded as its title, a space and its text."""

    kind: ClassVar[str] = "dense"
    format: ClassVar[int] = 1

    encoder: str = Field(min_length=1)
    """An encoder: a folder, a name at Hugging Face, or minilm (``rag.encoders.load_encoder``)."""
    factory: str = Field("Flat", min_length=1)
    """``Flat`` searches exactly; others are FAISS's names of indexes that need no training."""
    hash: str = Field("", pattern="^([0-9a-f]{64})?$")
    """The hash of the encoder; filled in when the index is built."""

    def pinned(self) -> Self:
        """These settings with the hash that the encoder has now.

        Raises what ``rag.encoders.load_encoder`` raises, and InvalidInput where another hash is
        set, it is no dense encoder, or ``factory`` cannot be built.
        """
        encoder = self._encoder()
        if self.factory != "Flat":
            dense_faiss.check(self.factory, encoder.dimensions, encoder.similarity)
        return self.model_copy(update={"hash": encoder.hash})

    def build(self, passages: pa.Table, out: Path) -> None:
        """Write the vectors of ``passages`` into the empty folder ``out``, for ``merge``.

        Raises:
            InvalidInput: the encoder is not the one that the index was built with.
            BackendFailed: it fails.
            InvalidInput: a vector has a component that is no number.
        """
        encoder = self._encoder()
        columns = [
            pc.fill_null(passages[name].combine_chunks().cast(pa.large_string()), "")
            for name in ("title", "text")
        ]
        joined = pc.binary_join_element_wise(*columns, pa.scalar(" ", pa.large_string()))
        texts = pc.utf8_trim_whitespace(joined).to_pylist()
        vectors = encoder.encode(texts, kind="document")
        if vectors.shape != (len(texts), encoder.dimensions):
            raise InvalidInput(
                f"{self.encoder} gives vectors of the shape {vectors.shape}; expected "
                f"{(len(texts), encoder.dimensions)}"
            )
        bad = np.flatnonzero(~np.isfinite(vectors).all(1))
        if len(bad):
            text = texts[int(bad[0])][:60]
            raise InvalidInput(
                f"{self.encoder} gives passage {text!r} a vector with a component that is no "
                f"finite number ({len(bad)} of {len(texts)} passages); use another encoder"
            )
        if encoder.similarity == "cosine":
            vectors = unit(vectors)
        np.save(out / "vectors.npy", np.ascontiguousarray(vectors, np.float32))
        self._write_head(out, len(texts), encoder.dimensions, encoder.similarity)

    def merge(
        self, parts: Sequence[Path], keep: Sequence[NDArray[np.bool_] | None], out: Path
    ) -> None:
        """Write the index of the kept rows of ``parts``, in order; nothing is encoded.

        Raises:
            InvalidInput: the parts have vectors of several widths.
            MissingExtra: ``factory`` needs FAISS, which is not installed.
        """
        if len(parts) != len(keep):
            raise InvalidInput(f"{len(parts)} parts, but {len(keep)} masks of kept rows")
        read = [self._read(part) for part in parts]
        shapes = {(part.vectors.shape[1], part.similarity) for part in read}
        if len(shapes) != 1:
            raise InvalidInput(f"{out}: parts of {len(shapes)} kinds of vectors: {sorted(shapes)}")
        ((width, similarity),) = shapes
        rows = sum(
            len(part.vectors) if mask is None else int(mask.sum())
            for part, mask in zip(read, keep, strict=True)
        )
        _copy(read, keep, (rows, width), out / "vectors.npy")
        self._write_head(out, rows, width, similarity)
        if self.factory != "Flat":
            vectors = np.load(out / "vectors.npy", mmap_mode="r", allow_pickle=False)
            dense_faiss.write(vectors, self.factory, similarity, out / "index.faiss")

    def open(self, folders: Sequence[Path]) -> DenseIndex:
        """A searcher over the ``folders``, in this order, as one index."""
        parts = []
        for folder in folders:
            part = self._read(folder)
            if self.factory != "Flat":
                index = dense_faiss.read(folder / "index.faiss", part.vectors.shape)
                part = part._replace(index=index)
            parts.append(part)
        return DenseIndex(parts, self.encoder, self.hash)

    def _encoder(self) -> Encoder:
        """The encoder, opened once; InvalidInput where it is another than the pinned one."""
        from rag.encoders import load_encoder
        from rag.encoders.load import encoder_hash

        key = (self.encoder, encoder_hash(self.encoder))
        check_hash(self.encoder, key[1], self.hash)
        if key not in _opened:
            _opened.clear()  # one at a time: they are large
            _opened[key] = load_encoder(self.encoder)
        check_kind(_opened[key])
        return _opened[key]

    def _write_head(self, out: Path, rows: int, dimensions: int, similarity: str) -> None:
        head = {
            "dimensions": dimensions,
            "format": self.format,
            "hash": self.hash,
            "kind": self.kind,
            "rows": rows,
            "similarity": similarity,
        }
        text = json.dumps(head, sort_keys=True, indent=1, ensure_ascii=True)
        (out / "index.json").write_text(text + "\n", encoding="ascii")

    def _read(self, folder: Path) -> Segment:
        """The vectors of a folder, after checking that these settings wrote it."""
        file = folder / "index.json"
        try:
            head = json.loads(file.read_text(encoding="utf-8"))
            wanted = {"format": self.format, "kind": self.kind, "hash": self.hash}
            found = {key: head.get(key) for key in wanted}
            shape, similarity = (head["rows"], head["dimensions"]), head["similarity"]
        except FileNotFoundError:
            raise NotFound(f"{file} is missing: {_AGAIN}") from None
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            if isinstance(error, OSError) and error.errno in REFUSED:
                raise
            raise Damaged(f"{file} is damaged: {error!r}; {_AGAIN}") from error
        if found != wanted:
            raise InvalidInput(f"{file}: found {found}, expected {wanted}; run `rag index` again")
        vectors = _mapped(folder / "vectors.npy")
        if vectors.shape != shape or vectors.dtype != np.float32:
            raise Damaged(
                f"{folder} is damaged: index.json says {shape} float32, vectors.npy holds "
                f"{vectors.shape} {vectors.dtype}; {_AGAIN}"
            )
        return Segment(vectors, similarity, None)


def check_hash(name: str, found: str, expected: str) -> None:
    """Raise InvalidInput unless an encoder has the hash that an index was built with."""
    if expected and found != expected:
        raise InvalidInput(
            f"the encoder {name} has the hash {found[:16]}…, and the index was built with "
            f"{expected[:16]}…; give back the encoder that built it, or run `rag index` from the "
            "source again"
        )


def check_kind(encoder: Encoder) -> None:
    """Raise InvalidInput unless an encoder is dense."""
    if encoder.kind != "dense":
        raise InvalidInput(
            f"{encoder.name} gives weights of {encoder.dimensions:,} tokens, not dense vectors; "
            "use --index sparse, or a dense encoder"
        )


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows brought to the length 1, (n, d) float32; a row of zeros stays."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    lengths[lengths == 0] = 1
    found: NDArray[np.float32] = (vectors / lengths[:, None]).astype(np.float32)
    return found


def _copy(
    parts: Sequence[Segment],
    keep: Sequence[NDArray[np.bool_] | None],
    shape: tuple[int, int],
    file: Path,
) -> None:
    """Write the kept rows of the parts as one array, a few at a time."""
    with file.open("wb") as out:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, header)
        for part, mask in zip(parts, keep, strict=True):
            for start in range(0, len(part.vectors), AT_ONCE):
                some = slice(start, start + AT_ONCE)
                rows = part.vectors[some]
                out.write(np.ascontiguousarray(rows if mask is None else rows[mask[some]]).data)


def _mapped(file: Path) -> NDArray[np.float32]:
    try:
        found: NDArray[np.float32] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, FileNotFoundError) as error:
        # An array without rows cannot be mapped.
        try:
            found = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, FileNotFoundError):
            raise Damaged(f"{file}: is damaged: {error}; {_AGAIN}") from None
    return found
