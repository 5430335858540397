"""The index kind ``lexical``: BM25 over words.

A row's score for a query, with Lucene's formula (Kamphuis et al., ECIR 2020, which is also
``method="lucene"`` of bm25s; Lucene's own constant factor k1 + 1 is left out there as here):

    score(d, q) = sum over terms t of q: n(t, q) idf(t) tf / (tf + k1 (1 - b + b |d| / avgdl))
    idf(t)      = ln(1 + (N - df(t) + 0.5) / (df(t) + 0.5))

where n(t, q) is how often t stands in the query. N, df and avgdl are sums over all segments and
count hidden rows too. Scores are float32, added by falling n(t, q) idf(t), which no segment can
change: cut one way or another, a collection gives the same scores.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

from rag.errors import InvalidInput
from rag.indexers import dictionary, postings
from rag.indexers.head import check_counts, read_head, write_head
from rag.indexers.lexical_index import LexicalIndex
from rag.indexers.tokenizer import Tokenizer, stemmers, unicode_version

SAMPLES = (
    "The quick brown foxes were jumping over 12 lazy dogs' beds, weren't they?",
    "Relational databases generalise conditional operations; universities run, running, ran.",
    "ΟΔΥΣΣΕΥΣ, İstanbul, Straße, naïve café, ÅNGSTRÖM: 東京大学 and Москва_1 in 1998!",
)
"""Texts whose terms stand in ``index.json``, so that a changed stemmer or table is noticed."""


class Lexical(BaseModel, frozen=True, extra="forbid"):
    """Settings of a BM25 index; ``title`` and ``text`` of a passage are indexed as one text.

    A title that counts n times is indexed as if it stood n times before the text, as a repeated
    field is in Lucene: its words' frequencies and the passage's length grow alike. The weight is
    part of the index, because one frequency is kept of each word, not one of each field.
    """

    kind: ClassVar[str] = "lexical"
    format: ClassVar[int] = 2

    stemmer: str = "porter"
    """A Snowball stemmer by name ("porter", "english", "german", …), or "none"."""
    stopwords: Literal["english", "none"] = "english"
    """Words that are left out: 33 English ones, or none."""
    title_weight: int = Field(1, ge=0, le=100)
    """How often a word of the title counts; 0 leaves titles out."""

    @model_serializer(mode="wrap")
    def _settings(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The settings as they are stored, without the weight where it changes nothing.

        An index built before there were weights so keeps its key and its bytes.
        """
        settings: dict[str, Any] = plain(self)
        if self.title_weight == 1:
            del settings["title_weight"]
        return settings

    @field_validator("stemmer")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in stemmers():
            raise ValueError(f"no stemmer is called {name!r}; there are {', '.join(stemmers())}")
        return name

    def build(self, passages: pa.Table, out: Path) -> None:
        """Write the index of ``passages`` into the empty folder ``out``."""
        title, text = (
            pc.fill_null(passages[name].combine_chunks().cast(pa.large_string()), "")
            for name in ("title", "text")
        )
        columns = [title] * self.title_weight + [text]
        # A title is a text of its own to the tokenizer, as long as a space stands after it.
        texts = pc.binary_join_element_wise(*columns, pa.scalar(" ", pa.large_string()))
        self._write(postings.of_terms(_tokenizer(self).terms(texts)), out)

    def merge(
        self, parts: Sequence[Path], keep: Sequence[NDArray[np.bool_] | None], out: Path
    ) -> None:
        """Write what ``build`` would have written for the kept rows of ``parts``, in order."""
        if len(parts) != len(keep):
            raise InvalidInput(f"{len(parts)} parts, but {len(keep)} masks of kept rows")
        arrays = [self._read(part) for part in parts]
        self._write(postings.merged(arrays, keep), out)

    def open(self, folders: Sequence[Path]) -> LexicalIndex:
        """A searcher over the ``folders``, in this order, as one index."""
        parts = [self._read(folder) for folder in folders]
        tokens = sum(int(read_head(folder / "index.json", {})["tokens"]) for folder in folders)
        return LexicalIndex(_tokenizer(self), parts, tokens, titles=self.title_weight > 0)

    def _head(self) -> dict[str, Any]:
        """What ``index.json`` says about every index with these settings."""
        return {
            "format": self.format,
            "kind": self.kind,
            "samples": dict(zip(SAMPLES, _tokenizer(self).tokens(SAMPLES), strict=True)),
            "settings": self.model_dump(mode="json"),
            "unicode": unicode_version(),
        }

    def _write(self, arrays: postings.Postings, out: Path) -> None:
        arrays.save(out)
        head = {
            **_head(self),
            "postings": arrays.size,
            "rows": len(arrays.lengths),
            "terms": dictionary.size(arrays),
            "tokens": int(arrays.lengths.sum(dtype=np.int64)),
        }
        write_head(out / "index.json", head)

    def _read(self, folder: Path) -> postings.Postings:
        """The arrays of ``folder``, after checking that it was written with these settings."""
        wanted = dict(_head(self))
        samples = wanted.pop("samples")
        file = folder / "index.json"
        head = read_head(file, wanted)
        if head.get("samples") != samples:
            raise InvalidInput(
                f"{folder}: the installed PyStemmer makes other terms than the index was built "
                "with; install the version that built it, or run `rag index` again"
            )
        arrays = postings.mapped(folder)
        found = {"rows": len(arrays.lengths), "postings": arrays.size}
        check_counts(file, head, found, "lengths.npy, rows.npy and long_lows.npy")
        return arrays


@functools.lru_cache(maxsize=32)
def _tokenizer(settings: Lexical) -> Tokenizer:
    return Tokenizer(settings.stemmer, settings.stopwords)


@functools.lru_cache(maxsize=32)
def _head(settings: Lexical) -> dict[str, Any]:
    return settings._head()
