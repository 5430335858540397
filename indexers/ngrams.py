"""The index kind ``ngrams``: which n-grams of tokens the passages hold, for the stage ``seal``.

A passage is the tokens of its title, a token that ends titles, and the tokens of its text, as the
tokenizer of the generating model makes them (``rag.indexers.layout``); the n-grams of all passages
of a segment are searched by one FM-index (``rag.indexers.fm_index``).

``build`` keeps the tokens of a partition only, ``merge`` builds the FM-index over those of a whole
segment: sorting suffixes of partitions first would save nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from rag.errors import Damaged, InvalidInput
from rag.indexers import token_ids
from rag.indexers.fm_index import FMIndex, FMIndexes
from rag.indexers.head import AGAIN, check_counts, read_head, write_head

if TYPE_CHECKING:
    from rag.collection.spread import Ask

AT_ONCE = 1024
"""Passages that are tokenised at a time."""


class NGrams(BaseModel, frozen=True, extra="forbid"):
    """Settings of an n-gram index."""

    kind: ClassVar[str] = "ngrams"
    format: ClassVar[int] = 1

    model: str = Field(min_length=1)
    """Whose tokenizer is used: a model at Hugging Face, a folder, a .gguf file, or smollm2."""
    locate: Literal["full", "sampled"] = "full"
    """``sampled`` saves four bytes a token, and finds where n-grams stand much more slowly."""
    tokenizer: str = Field("", pattern="^([0-9a-f]{64})?$")
    """The fingerprint of the tokenizer (``rag.indexers.token_ids``); filled in when it is built."""

    def pinned(self) -> Self:
        """These settings with the fingerprint that the tokenizer has now.

        Raises what ``token_ids.load`` raises, and InvalidInput where another one is set.
        """
        self._tokenizer()
        return self.model_copy(update={"tokenizer": token_ids.load(self.model).fingerprint})

    def build(self, passages: pa.Table, out: Path) -> None:
        """Write the tokens of ``passages`` into the empty folder ``out``, for ``merge``.

        Raises:
            InvalidInput: the tokenizer is not the one that the index was built with.
        """
        tokenizer = self._tokenizer()
        columns = [
            pc.fill_null(passages[name].combine_chunks().cast(pa.large_string()), "")
            for name in ("title", "text")
        ]
        rows: list[NDArray[np.int32]] = []
        for start in range(0, passages.num_rows, AT_ONCE):
            titles, texts = (column.slice(start, AT_ONCE).to_pylist() for column in columns)
            rows += tokenizer.rows(titles, texts)
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        np.save(out / "offsets.npy", offsets)
        np.save(out / "tokens.npy", np.concatenate([np.empty(0, np.int32), *rows]))
        self._write_head(out, len(rows), int(offsets[-1]))

    def merge(
        self, parts: Sequence[Path], keep: Sequence[NDArray[np.bool_] | None], out: Path
    ) -> None:
        """Write the FM-index of the kept rows of ``parts``, in order.

        The parts are what ``build`` wrote, or indexes; one or the other, the bytes are the same.

        Raises:
            InvalidInput: there are more than 500 million tokens; use smaller segments.
        """
        if len(parts) != len(keep):
            raise InvalidInput(f"{len(parts)} parts, but {len(keep)} masks of kept rows")
        rows = (
            row for part, mask in zip(parts, keep, strict=True) for row in self._rows(part, mask)
        )
        index = FMIndex.build(rows, out, locate=self.locate)
        self._write_head(out, index.documents, index.tokens)

    def open(self, folders: Sequence[Path]) -> NGramIndex:
        """A searcher over the ``folders``, in this order, as one index."""
        parts = []
        for folder in folders:
            head = self._head(folder)
            parts.append(FMIndex.open(folder))
            found = {"rows": parts[-1].documents, "tokens": parts[-1].tokens}
            check_counts(folder / "index.json", head, found, "its arrays")
        return NGramIndex(FMIndexes(parts) if parts else None, self)

    def _rows(self, part: Path, mask: NDArray[np.bool_] | None) -> Iterator[NDArray[np.int32]]:
        """The tokens of the kept rows of a part, passage by passage."""
        head = self._head(part)
        if (part / "fm_index.json").exists():
            index = FMIndex.open(part)
            count = index.documents
            gathered: Iterator[tuple[Any, Any]] = (
                index.documents_flat(np.arange(start, min(start + AT_ONCE, count)))
                for start in range(0, count, AT_ONCE)
            )
        else:
            offsets, tokens = (_array(part, name) for name in ("offsets", "tokens"))
            count = len(offsets) - 1
            if count < 0 or offsets[0] != 0 or (np.diff(offsets) < 0).any():
                raise Damaged(f"{part / 'offsets.npy'}: is damaged: it does not ascend; {AGAIN}")
            check_counts(part / "index.json", head, {"tokens": len(tokens)}, "tokens.npy")
            gathered = iter([(offsets, tokens)])
        check_counts(part / "index.json", head, {"rows": count}, "offsets.npy")
        row = 0
        for offsets, tokens in gathered:
            for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
                if mask is None or mask[row]:
                    yield tokens[begin:end]
                row += 1

    def _tokenizer(self) -> token_ids.TokenIds:
        """The tokenizer; InvalidInput where it is another than the pinned one."""
        found = token_ids.load(self.model)
        if self.tokenizer and found.fingerprint != self.tokenizer:
            raise InvalidInput(
                f"the tokenizer of {self.model} has the fingerprint {found.fingerprint[:16]}…, "
                f"and the index was built with {self.tokenizer[:16]}…; give back the model that "
                "built it, or run `rag index` from the source again"
            )
        return found

    def _write_head(self, out: Path, rows: int, tokens: int) -> None:
        head = {
            "format": self.format,
            "kind": self.kind,
            "rows": rows,
            "tokenizer": self.tokenizer,
            "tokens": tokens,
        }
        write_head(out / "index.json", head)

    def _head(self, folder: Path) -> dict[str, Any]:
        """What ``index.json`` of a folder says, after checking that these settings wrote it."""
        wanted = {"format": self.format, "kind": self.kind, "tokenizer": self.tokenizer}
        return read_head(folder / "index.json", wanted)


class NGramIndex:
    """The searcher of an n-gram index; may be shared by threads.

    index: the FM-index of all segments; its documents are the rows of the snapshot. None where the
        collection is empty.
    settings: what the index was built with.
    """

    def __init__(self, index: FMIndexes | None, settings: NGrams) -> None:
        """Hold an opened index."""
        self.index, self.settings = index, settings

    def check(self, name: str, fingerprint: str) -> None:
        """Raise InvalidInput unless a model's tokenizer (``token_ids``) is that of the index."""
        if fingerprint != self.settings.tokenizer:
            raise InvalidInput(
                f"the model {name} has another tokenizer than {self.settings.model}, with which "
                "the n-gram index was built: their token ids do not mean the same; set 'model' to "
                f"{self.settings.model} or one that shares its tokenizer, or index again with "
                f"--model {name}"
            )

    def spread(self, ask: Ask) -> NGramIndex:
        """This index with its segments searched by the shards that ``ask`` asks."""
        from rag.indexers.fm_index.spread import SpreadFMIndexes

        if self.index is None:
            return self
        return NGramIndex(SpreadFMIndexes(self.index, ask), self.settings)


def _array(part: Path, name: str) -> NDArray[Any]:
    file = part / f"{name}.npy"
    try:
        found: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, FileNotFoundError) as error:
        raise Damaged(f"{file}: is damaged: {error}; {AGAIN}") from None
    return found
