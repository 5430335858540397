"""The index kind ``dense``: vectors of an encoder, searched exactly or by FAISS.

``build`` encodes a partition, which is the costly step; ``gather`` copies the vectors of a segment
together. ``train`` has FAISS learn what ``factory`` needs, over a sample of the collection, and
``index`` writes the FAISS index of a segment. For ``Flat`` there is none: exact search needs the
vectors only, which all dense indexes of one encoder share.

Where the encoder compares by cosine, vectors are brought to the length 1, and scores are cosines;
else they are inner products. For given vectors the bytes do not depend on how rows are cut; the
vectors of an encoder itself agree to about 1e-6 from machine to machine and batch to batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from rag.errors import Damaged, InvalidInput
from rag.indexers import dense_faiss
from rag.indexers.dense_index import DenseIndex, Segment
from rag.indexers.head import AGAIN, check_counts, read_head, write_head

if TYPE_CHECKING:
    from rag.encoders import Encoder

AT_ONCE = 65_536
"""Rows that are copied at a time."""
SEED = 1
"""Of FAISS, where it draws points to begin with."""
_VECTORS = 1
"""The format of the files of vectors."""
_opened: dict[tuple[str, str], Encoder] = {}


class Dense(BaseModel, frozen=True, extra="forbid"):
    """Settings of a dense index; a passage is encoded as its title, a space and its text."""

    kind: ClassVar[str] = "dense"
    format: ClassVar[int] = 2

    encoder: str = Field(min_length=1)
    """An encoder: a folder, a name at Hugging Face, or minilm (``rag.encoders.load_encoder``)."""
    factory: str = Field("Flat", min_length=1)
    """``Flat`` searches exactly; others are FAISS's names of indexes."""
    hash: str = Field("", pattern="^([0-9a-f]{64})?$")
    """The hash of the encoder; filled in when the index is built, as what follows."""
    dimensions: int = Field(0, ge=0)
    """d, of a vector."""
    similarity: Literal["cosine", "dot"] = "cosine"
    """How vectors are compared."""

    def pinned(self) -> Self:
        """These settings with what the encoder is now.

        Raises what ``rag.encoders.load_encoder`` raises, and InvalidInput where another hash is
        set, it is no dense encoder, or ``factory`` cannot be built.
        """
        encoder = self._encoder()
        if self.factory != "Flat":
            dense_faiss.check(self.factory, encoder.dimensions, encoder.similarity)
        return self.model_copy(
            update={
                "hash": encoder.hash,
                "dimensions": encoder.dimensions,
                "similarity": encoder.similarity,
            }
        )

    def encoding(self) -> dict[str, Any]:
        """What vectors depend on: the encoder, which text it reads, and the format of the file."""
        return {"files": "dense", "format": _VECTORS, "hash": self.hash, "text": "title text"}

    def build(self, passages: pa.Table, out: Path) -> None:
        """Write the vectors of ``passages`` into the empty folder ``out``.

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
        self._write_vectors_head(out, len(texts))

    def gather(
        self, parts: Sequence[Path], keep: Sequence[NDArray[np.bool_] | None], out: Path
    ) -> None:
        """Write the vectors of the kept rows of ``parts``, in order; nothing is encoded."""
        read = [self._vectors(part) for part in parts]
        rows = sum(
            len(part) if mask is None else int(mask.sum())
            for part, mask in zip(read, keep, strict=True)
        )
        _copy(read, keep, (rows, self.dimensions), out / "vectors.npy")
        self._write_vectors_head(out, rows)

    def training_rows(self) -> int:
        """On how many rows FAISS trains at most; 0 where ``factory`` needs no training."""
        if self.factory == "Flat":
            return 0
        return dense_faiss.training_rows(self.factory, self.dimensions, self.similarity)

    def train(self, vectors: Path, out: Path) -> None:
        """Have FAISS learn from a sample of vectors; it writes an empty index into ``out``.

        Raises:
            InvalidInput: there are too few; it says how many are needed.
            MissingExtra: FAISS is not installed.
        """
        rows = self._vectors(vectors)
        file = out / "trained.faiss"
        dense_faiss.train(rows, self.factory, self.similarity, SEED, file)

    def index(self, vectors: Path, trained: Path | None, out: Path) -> None:
        """Write the index of a segment with these ``vectors``.

        Raises:
            MissingExtra: ``factory`` needs FAISS, which is not installed.
        """
        rows = self._vectors(vectors)
        head = {"factory": self.factory, "format": self.format, "kind": self.kind}
        write_head(out / "index.json", {**head, "rows": len(rows)})
        if self.factory != "Flat":
            learnt = None if trained is None else trained / "trained.faiss"
            file = out / "index.faiss"
            dense_faiss.write(rows, self.factory, self.similarity, file, trained=learnt)

    def open(
        self, folders: Sequence[Path], vectors: Sequence[Path], trained: Path | None
    ) -> DenseIndex:
        """A searcher over the ``folders`` and ``vectors``, in this order, as one index."""
        return self._opened(folders, vectors, faiss=self.factory != "Flat")

    def open_spread(self, folders: Sequence[Path], vectors: Sequence[Path]) -> DenseIndex:
        """As ``open``, without what FAISS wrote, of which not all can be mapped.

        For ``rag.collection.spread``: what shards search need not be read where they are asked.
        """
        return self._opened(folders, vectors, faiss=False)

    def _opened(
        self, folders: Sequence[Path], vectors: Sequence[Path], *, faiss: bool
    ) -> DenseIndex:
        wanted = {"factory": self.factory, "format": self.format, "kind": self.kind}
        parts = []
        for folder, place in zip(folders, vectors, strict=True):
            file = folder / "index.json"
            head = read_head(file, wanted)
            rows = self._vectors(place)
            check_counts(file, head, {"rows": len(rows)}, str(place / "vectors.npy"))
            index = None
            if faiss:
                index = dense_faiss.read(folder / "index.faiss", rows.shape)
            parts.append(Segment(rows, self.similarity, index))
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

    def _write_vectors_head(self, out: Path, rows: int) -> None:
        head = {**self.encoding(), "dimensions": self.dimensions, "rows": rows}
        write_head(out / "vectors.json", {**head, "similarity": self.similarity})

    def _vectors(self, folder: Path) -> NDArray[np.float32]:
        """The vectors in a folder, mapped, after checking that they are of this encoder."""
        file = folder / "vectors.json"
        wanted = {"dimensions": self.dimensions, "similarity": self.similarity}
        head = read_head(file, {**self.encoding(), **wanted})
        vectors = _mapped(folder / "vectors.npy")
        shape = (head.get("rows"), self.dimensions)
        if vectors.shape != shape or vectors.dtype != np.float32:
            raise Damaged(
                f"{folder} is damaged: vectors.json says {shape} float32, vectors.npy holds "
                f"{vectors.shape} {vectors.dtype}; {AGAIN}"
            )
        return vectors


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
    if encoder.kind == "unified":
        raise InvalidInput(
            f"{encoder.name} gives DupMAE's vectors of two parts; use --index dupmae"
        )
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
    parts: Sequence[NDArray[np.float32]],
    keep: Sequence[NDArray[np.bool_] | None],
    shape: tuple[int, int],
    file: Path,
) -> None:
    """Write the kept rows of the parts as one array, a few at a time."""
    with file.open("wb") as out:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, header)
        for part, mask in zip(parts, keep, strict=True):
            for start in range(0, len(part), AT_ONCE):
                some = slice(start, start + AT_ONCE)
                rows = part[some]
                out.write(np.ascontiguousarray(rows if mask is None else rows[mask[some]]).data)


def _mapped(file: Path) -> NDArray[np.float32]:
    try:
        found: NDArray[np.float32] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, FileNotFoundError) as error:
        # An array without rows cannot be mapped.
        try:
            found = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, FileNotFoundError):
            raise Damaged(f"{file}: is damaged: {error}; {AGAIN}") from None
    return found
