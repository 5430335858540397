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
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, field_validator

from rag.errors import Damaged, InvalidInput, NotFound
from rag.indexers import postings
from rag.indexers.tokenizer import Tokenizer, frozen, packed, stemmers, unicode_version

SAMPLES = (
    "The quick brown foxes were jumping over 12 lazy dogs' beds, weren't they?",
    "Relational databases generalise conditional operations; universities run, running, ran.",
    "ΟΔΥΣΣΕΥΣ, İstanbul, Straße, naïve café, ÅNGSTRÖM: 東京大学 and Москва_1 in 1998!",
)
"""Texts whose terms stand in ``index.json``, so that a changed stemmer or table is noticed."""


class Lexical(BaseModel, frozen=True, extra="forbid"):
    """Settings of a BM25 index; ``title`` and ``text`` of a passage are indexed as one text."""

    kind: ClassVar[str] = "lexical"
    format: ClassVar[int] = 1

    stemmer: str = "porter"
    """A Snowball stemmer by name ("porter", "english", "german", …), or "none"."""
    stopwords: Literal["english", "none"] = "english"
    """Words that are left out: 33 English ones, or none."""

    @field_validator("stemmer")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in stemmers():
            raise ValueError(f"no stemmer is called {name!r}; there are {', '.join(stemmers())}")
        return name

    def build(self, passages: pa.Table, out: Path) -> None:
        """Write the index of ``passages`` into the empty folder ``out``."""
        columns = [
            pc.fill_null(passages[name].combine_chunks().cast(pa.large_string()), "")
            for name in ("title", "text")
        ]
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
        tokens = sum(int(_read_head(folder)["tokens"]) for folder in folders)
        return LexicalIndex(_tokenizer(self), parts, tokens)

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
            "postings": len(arrays.rows),
            "rows": len(arrays.lengths),
            "terms": len(arrays.term_runs) - 1,
            "tokens": int(arrays.lengths.sum(dtype=np.int64)),
        }
        text = json.dumps(head, sort_keys=True, indent=1, ensure_ascii=True)
        (out / "index.json").write_text(text + "\n", encoding="ascii")

    def _read(self, folder: Path) -> postings.Postings:
        """The arrays of ``folder``, after checking that it was written with these settings."""
        head = _read_head(folder)
        for key, value in _head(self).items():
            if head.get(key) != value:
                raise InvalidInput(_differs(folder, key, head.get(key), value))
        arrays = postings.mapped(folder)
        if (len(arrays.lengths), len(arrays.rows)) != (head.get("rows"), head.get("postings")):
            raise Damaged(
                f"{folder} is damaged: index.json counts {head.get('rows')} rows and "
                f"{head.get('postings')} postings, the arrays {len(arrays.lengths)} and "
                f"{len(arrays.rows)}; run `rag verify`, then `rag index` again"
            )
        return arrays


@functools.lru_cache(maxsize=32)
def _tokenizer(settings: Lexical) -> Tokenizer:
    return Tokenizer(settings.stemmer, settings.stopwords)


@functools.lru_cache(maxsize=32)
def _head(settings: Lexical) -> dict[str, Any]:
    return settings._head()


def _read_head(folder: Path) -> dict[str, Any]:
    file = folder / "index.json"
    try:
        head = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(f"{file} is missing: run `rag verify`, then `rag index` again") from None
    except (OSError, ValueError) as error:
        raise Damaged(
            f"{file} is damaged: {error}; run `rag verify`, then `rag index` again"
        ) from error
    if not isinstance(head, dict):
        raise Damaged(f"{file} is damaged: it holds no object; run `rag index` again")
    return head


def _differs(folder: Path, key: str, found: object, expected: object) -> str:
    if key == "samples":
        return (
            f"{folder}: the installed PyStemmer makes other terms than the index was built with; "
            "install the version that built it, or run `rag index` again"
        )
    return f"{folder}: {key} is {found!r}, expected {expected!r}; run `rag index` again"


class _Plan(NamedTuple):
    """What to look for: the terms of q queries."""

    bounds: NDArray[np.int64]
    """(q + 1,) where each query's terms lie."""
    terms: NDArray[np.int64]
    """(m,) numbers into ``names``, by falling weight in each query."""
    weights: NDArray[np.float32]
    """(m,)"""
    found: list[NDArray[np.int64]]
    """For each folder (t,), the numbers of the distinct terms in it, -1 where it lacks one."""


class LexicalIndex:
    """Searches the segments of one lexical index; may be shared by threads."""

    def __init__(
        self, tokenizer: Tokenizer, parts: Sequence[postings.Postings], tokens: int
    ) -> None:
        """Take the mapped arrays of the segments, in order, and their tokens in all."""
        self._tokenizer = tokenizer
        self._parts = list(parts)
        self._firsts = np.cumsum([0, *(len(part.lengths) for part in parts)])
        self.rows = int(self._firsts[-1])
        self._mean = max(tokens / max(self.rows, 1), 1e-9)  # |d| on average
        self._spare: list[tuple[NDArray[np.float32], NDArray[np.uint16]]] = []

    def tokens(self, text: str) -> list[str]:
        """The terms of ``text``, in reading order."""
        return self._tokenizer.tokens([text])[0]

    def search(
        self,
        queries: Sequence[str],
        k: int,
        *,
        k1: float = 0.9,
        b: float = 0.4,
        keep: NDArray[np.bool_] | None = None,
        threads: int = 1,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """The best ``k`` rows of each query that hold one of its terms.

        Args:
            queries: q texts.
            k: how many rows to find at most.
            k1: how slowly a term's repetitions saturate, 0 or more.
            b: how far long rows are held back, 0 to 1.
            keep: (rows,) which rows may be found; None for all.
            threads: over how many threads to spread the queries; the result is the same.

        Returns:
            (q + 1,) int64 where each query's hits lie; (m,) int64 their rows; (m,) float32 their
            scores, best first and equal ones by ascending row.
        """
        _check(k, k1, b, keep, self.rows)
        k = min(k, max(self.rows, 1))
        plan = self._plan(queries)
        kept = np.zeros(0, np.bool_) if keep is None else np.ascontiguousarray(keep)
        factors = np.float32(k1 * (1 - b)), np.float32(k1 * b / self._mean)
        step = max(1, min(-(-len(queries) // max(threads, 1)), 4_000_000 // k))
        spans = [(i, min(i + step, len(queries))) for i in range(0, len(queries), step)]

        def run(span: tuple[int, int]) -> tuple[NDArray[Any], ...]:
            return self._run(plan, span, k, factors, frozen(kept.view()))

        if threads > 1 and len(spans) > 1:
            with ThreadPoolExecutor(threads) as pool:
                found = list(pool.map(run, spans))
        else:
            found = [run(span) for span in spans]
        if len(found) == 1:
            sizes, rows, scores = found[0]
        else:
            found.append((np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)))
            sizes, rows, scores = map(np.concatenate, zip(*found, strict=True))
        offsets = np.zeros(len(queries) + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        return offsets, rows, scores

    def _plan(self, queries: Sequence[str]) -> _Plan:
        """Tokenize the queries, sum the statistics of their terms, weigh and order them."""
        from rag.indexers import _kernels_search

        ends, ids, names = self._tokenizer.terms(queries)
        offsets, text = packed([name.encode() for name in names])
        holding = np.zeros(len(names), np.int64)
        found = []
        for part in self._parts:
            found.append(np.empty(len(names), np.int64))
            _kernels_search.lookup(part, text, offsets, found[-1], holding)
        return _Plan(*_kernels_search.plan(ends, ids, self.rows, holding), found)

    def _run(
        self,
        plan: _Plan,
        span: tuple[int, int],
        k: int,
        factors: tuple[np.float32, np.float32],
        keep: NDArray[np.bool_],
    ) -> tuple[NDArray[Any], ...]:
        """Hits per query (q,), rows (m,) and scores (m,) of the queries from ``span``."""
        from rag.indexers import _kernels_search

        bounds = plan.bounds[span[0] : span[1] + 1]
        terms, weights = (x[bounds[0] : bounds[-1]] for x in (plan.terms, plan.weights))
        size = span[1] - span[0]
        scores, rows = np.empty((size, k), np.float32), np.empty((size, k), np.int64)
        sizes = np.zeros(size, np.int64)
        # Zeroing the sums of a window is dear for one query, and a kernel leaves them zero.
        try:
            room = self._spare.pop()
        except IndexError:
            sums = np.zeros(postings.WINDOW, np.float32)
            room = sums, np.empty(postings.WINDOW + 1, np.uint16)
        for part, found, first in zip(self._parts, plan.found, self._firsts, strict=False):
            here = keep[first : first + len(part.lengths)]
            local = found[terms]
            _kernels_search.search(
                part, first, bounds - bounds[0], local, weights, *factors, here, *room,
                scores, rows, sizes,
            )  # fmt: skip
        self._spare.append(room)
        return (sizes, *_kernels_search.sorted_hits(scores, rows, sizes))


def _check(k: int, k1: float, b: float, keep: NDArray[np.bool_] | None, rows: int) -> None:
    if k < 1:
        raise InvalidInput(f"k is {k}; it must be 1 or more")
    if not (0 <= k1 < float("inf") and 0 <= b <= 1):
        raise InvalidInput(f"k1 is {k1} and b is {b}; k1 must be 0 or more, b between 0 and 1")
    if keep is not None and (keep.shape != (rows,) or keep.dtype != np.bool_):
        raise InvalidInput(
            f"keep has shape {keep.shape} and type {keep.dtype}; the index has {rows:,} rows, "
            "each kept or not (bool)"
        )
