"""The index kind ``dupmae``: DupMAE's vectors of two parts, and one exact search over both.

``build`` encodes a partition; a segment's vectors are a forward store (``rag.encoders.dupmae``):
for each passage h' of (d,) and the k tokens that weigh most, with their weights. They are searched
themselves, mapped, so that ``index`` writes nothing but a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from rag.encoders.dupmae.store import ForwardStore
from rag.errors import Damaged, InvalidInput, NotFound
from rag.indexers.dupmae_index import DupMAEIndex
from rag.indexers.head import AGAIN, check_counts, read_head, write_head
from rag.indexers.sparse import texts_of

_VECTORS = 1
"""The format of the files of vectors."""
_opened: dict[str, Any] = {}


class DupMAE(BaseModel, frozen=True, extra="forbid"):
    """Settings of an index of DupMAE; a passage is encoded as its title, a space and its text."""

    kind: ClassVar[str] = "dupmae"
    format: ClassVar[int] = 1

    encoder: str = Field(min_length=1)
    """A DupMAE model of two parts, as ``rag.encoders.load_encoder`` takes it."""
    hash: str = Field("", pattern="^([0-9a-f]{64})?$")
    """The hash of the encoder; filled in when the index is built, as what follows."""
    dimensions: int = Field(0, ge=0)
    """d of h'."""
    kept: int = Field(0, ge=0)
    """k, the tokens that a passage keeps."""
    vocabulary: int = Field(0, ge=0)
    """V, how many tokens there are."""

    def pinned(self) -> Self:
        """These settings with what the encoder is now.

        Raises what ``load_encoder`` raises, and InvalidInput where it is no DupMAE model of two
        parts, or another hash is set.
        """
        encoder = self._encoder()
        d, kept = encoder.parts
        sizes = {"dimensions": d, "kept": kept, "vocabulary": encoder.dimensions - d}
        return self.model_copy(update={"hash": encoder.hash, **sizes})

    def encoding(self) -> dict[str, Any]:
        """What vectors depend on: the encoder, its sizes, and the format of the files."""
        return {
            "dimensions": self.dimensions,
            "files": "dupmae",
            "format": _VECTORS,
            "hash": self.hash,
            "kept": self.kept,
            "vocabulary": self.vocabulary,
        }

    def build(self, passages: pa.Table, out: Path) -> None:
        """Write the vectors of ``passages`` into the empty folder ``out``.

        Raises:
            InvalidInput: the encoder is not the one that the index was built with, or a vector has
                a component that is no finite number.
            BackendFailed: it fails.
        """
        encoder = self._encoder()
        texts = texts_of(passages, " ")
        found = encoder.encode(texts, kind="document")
        bad = np.flatnonzero(~np.isfinite(found.data))
        if len(bad):
            text = texts[int(np.searchsorted(found.indptr, bad[0], "right")) - 1][:60]
            raise InvalidInput(
                f"{self.encoder} gives passage {text!r} a vector with a component that is no "
                "finite number; use another encoder"
            )
        _store(found, *encoder.parts).save(out)
        self._write_head(out, len(texts))

    def gather(
        self, parts: Sequence[Path], keep: Sequence[NDArray[np.bool_] | None], out: Path
    ) -> None:
        """Write the vectors of the kept rows of ``parts``, in order; nothing is encoded."""
        read = [self._vectors(part) for part in parts]
        self._write_head(out, ForwardStore.join(read, keep, out))

    def index(self, vectors: Path, trained: Path | None, out: Path) -> None:
        """Write a head: the vectors are searched themselves, and nothing is trained."""
        rows = len(self._vectors(vectors))
        write_head(out / "index.json", {"format": self.format, "kind": self.kind, "rows": rows})

    def open(
        self, folders: Sequence[Path], vectors: Sequence[Path], trained: Path | None
    ) -> DupMAEIndex:
        """A searcher over the ``folders`` and ``vectors``, in this order, as one index."""
        parts = []
        for folder, place in zip(folders, vectors, strict=True):
            head = read_head(folder / "index.json", {"format": self.format, "kind": self.kind})
            parts.append(self._vectors(place))
            found = {"rows": len(parts[-1])}
            check_counts(folder / "index.json", head, found, str(place / "dense.npy"))
        return DupMAEIndex(parts, vectors, self)

    def check(self, encoder: Any, name: str) -> None:
        """Raise InvalidInput unless an encoder is of DupMAE, and the one of the index."""
        if encoder.kind != "unified":
            raise InvalidInput(
                f"{name} gives {encoder.kind} vectors, and an index of the type dupmae holds those "
                "of a DupMAE model of two parts (rag.encoders.dupmae.Unified); use the type "
                f"{'sparse' if encoder.kind == 'vocabulary' else 'dense'}"
            )
        if self.hash and encoder.hash != self.hash:
            raise InvalidInput(
                f"the encoder {name} has the hash {encoder.hash[:16]}…, and the index was built "
                f"with {self.hash[:16]}…; give back the encoder that built it, or run `rag index` "
                "from the source again"
            )

    def _encoder(self) -> Any:
        """What encodes passages; InvalidInput where it is another than the pinned one."""
        from rag.encoders.load import encoder_hash, load_encoder

        found = encoder_hash(self.encoder)
        if found not in _opened:
            _opened.clear()  # one at a time: they are large
            _opened[found] = load_encoder(self.encoder)
        self.check(_opened[found], self.encoder)
        return _opened[found]

    def _write_head(self, out: Path, rows: int) -> None:
        write_head(out / "vectors.json", {**self.encoding(), "rows": rows})

    def _vectors(self, folder: Path) -> ForwardStore:
        """The vectors in a folder, mapped, after checking that they are of this encoder."""
        file = folder / "vectors.json"
        head = read_head(file, self.encoding())
        try:
            store = ForwardStore.open(folder)
        except (InvalidInput, NotFound) as error:
            raise Damaged(f"{folder} is damaged: {error}; {AGAIN}") from error
        check_counts(file, head, {"rows": len(store)}, "dense.npy")
        shapes = store.dense.shape[1], store.ids.shape[1]
        if shapes != (self.dimensions, self.kept):
            raise Damaged(
                f"{folder} is damaged: rows of {shapes} numbers, expected "
                f"{(self.dimensions, self.kept)}; {AGAIN}"
            )
        return store


def _store(vectors: Any, d: int, kept: int) -> ForwardStore:
    """The forward store of documents as ``load_encoder`` gives them: CSR, (n, d + V) float32."""
    n = vectors.shape[0]
    dense = vectors[:, :d].toarray()
    tokens = vectors[:, d:].tocsr()
    tokens.sort_indices()
    ids, values = np.zeros((n, kept), np.int32), np.zeros((n, kept), np.float32)
    rows = np.repeat(np.arange(n), np.diff(tokens.indptr))
    places = np.arange(len(rows)) - tokens.indptr[rows]
    # What was exactly 0 is not there: 0 of token 0 stands in its place.
    ids[rows, places], values[rows, places] = tokens.indices, tokens.data
    return ForwardStore(np.ascontiguousarray(dense, np.float32), ids, values)
