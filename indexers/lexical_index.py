"""The searcher of the index kind ``lexical``: best rows, prefixes, and why a row has its score."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.errors import InvalidInput
from rag.indexers import dictionary, faults, postings
from rag.indexers.tokenizer import Terms, Tokenizer, frozen, packed

if TYPE_CHECKING:
    from rag.collection.spread import Ask
    from rag.indexers.spread import SpreadLexical

_Hits: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]


class TermScore(NamedTuple):
    """What one term of a query adds to the score of one row (the formula is in ``lexical``)."""

    term: str
    in_query: int
    """n(t, q): how often it stands in the query."""
    tf: int
    """How often it stands in the row; 0 where it does not, and then it adds nothing."""
    df: int
    """How many rows hold it, hidden ones included."""
    idf: float
    length: int
    """The terms of the row, |d|."""
    mean_length: float
    """avgdl."""
    score: float
    """As float32 has it."""


class Plan(NamedTuple):
    """What to look for: the terms of q queries, with the statistics of all segments."""

    bounds: NDArray[np.int64]
    """(q + 1,) where each query's terms lie."""
    terms: NDArray[np.int64]
    """(m,) numbers into ``names``, by falling weight in each query."""
    weights: NDArray[np.float32]
    """(m,)"""
    found: list[NDArray[np.int64]]
    """For each folder (t, 2), the runs of the distinct terms in it, -1 where it lacks one."""
    names: list[str]
    """(t,) the distinct terms of all queries."""
    holding: NDArray[np.int64]
    """(t,) df, the rows that hold each."""
    mean: float
    """avgdl, |d| on average."""


class _Kept(NamedTuple):
    """What the kernel ``kept_rows`` says of the rows of one folder that may be found."""

    starts: NDArray[np.int64]
    rows: NDArray[np.uint16]
    spans: NDArray[np.int64]
    few: bool


FENCES = 4096
"""So many groups of terms of a segment are noted down, evenly spread: terms are found near them."""

_ALL = frozen(np.zeros(0, np.bool_))
_NOT_ASKED = _Kept(
    frozen(np.zeros(0, np.int64)),
    frozen(np.zeros(0, np.uint16)),
    frozen(np.zeros((0, 2), np.int64)),
    few=False,
)


_Filters: TypeAlias = Sequence[tuple[NDArray[np.bool_], _Kept]]


def _kept(keep: NDArray[np.bool_]) -> _Kept:
    from rag.indexers import _kernels_kept

    starts, kept, spans, few = _kernels_kept.kept_rows(keep)
    return _Kept(frozen(starts), frozen(kept), frozen(spans), bool(few))


class LexicalIndex:
    """Searches the segments of one lexical index; may be shared by threads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        parts: Sequence[postings.Postings],
        tokens: int,
        *,
        titles: bool = True,
    ) -> None:
        """Take the mapped arrays of the segments, in order, and their tokens in all.

        ``titles`` says whether the titles of passages are indexed.
        """
        self.tokenizer = tokenizer
        self.titles = titles
        self._parts = list(parts)
        self._firsts = np.cumsum([0, *(len(part.lengths) for part in parts)])
        self.rows = int(self._firsts[-1])
        self._mean = max(tokens / max(self.rows, 1), 1e-9)  # |d| on average
        self._unfiltered = [(_ALL, _NOT_ASKED)] * len(self._parts)
        self._known: dict[int, tuple[weakref.ref[Any], Sequence[_Kept]]] = {}
        self._fences: list[tuple[NDArray[np.uint64], int]] = []  # made by the first search
        self._spare: list[tuple[NDArray[np.float32], NDArray[np.uint16]]] = []

    def tokens(self, text: str) -> list[str]:
        """The terms of ``text``, in reading order."""
        return self.tokenizer.tokens([text])[0]

    def search(
        self,
        queries: Sequence[str] | Terms,
        k: int,
        *,
        k1: float = 0.9,
        b: float = 0.4,
        keep: NDArray[np.bool_] | None = None,
        threads: int = 1,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """The best ``k`` rows of each query that hold one of its terms.

        Args:
            queries: q texts, or their terms (``Terms.of``).
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
        return self.search_planned(self.plan(queries), k, k1=k1, b=b, keep=keep, threads=threads)

    def search_planned(
        self,
        plan: Plan,
        k: int,
        *,
        k1: float = 0.9,
        b: float = 0.4,
        keep: NDArray[np.bool_] | None = None,
        threads: int = 1,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """``search`` by what ``plan`` made, here or, for these segments and more, elsewhere."""
        _check(k, k1, b, keep, self.rows)
        k = min(k, max(self.rows, 1))
        count = len(plan.bounds) - 1
        filters = self._filters(keep)
        factors = np.float32(k1 * (1 - b)), np.float32(k1 * b / plan.mean)
        step = max(1, min(-(-count // max(threads, 1)), 4_000_000 // k))
        if 0 < count <= step:
            return self._run(plan, (0, count), k, factors, filters)
        spans = [(i, min(i + step, count)) for i in range(0, count, step)]

        def run(span: tuple[int, int]) -> _Hits:
            return self._run(plan, span, k, factors, filters)

        if threads > 1 and len(spans) > 1:
            with ThreadPoolExecutor(threads) as pool:
                found = list(pool.map(run, spans))
        else:
            found = [run(span) for span in spans]
        found.insert(0, (np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)))
        before = np.cumsum([len(rows) for _, rows, _ in found[:-1]])
        offsets = [part[1:] + first for (part, _, _), first in zip(found[1:], before, strict=True)]
        return (
            np.concatenate([found[0][0], *offsets]),
            np.concatenate([rows for _, rows, _ in found]),
            np.concatenate([scores for _, _, scores in found]),
        )

    def explain(
        self, query: str | Sequence[str], row: int, *, k1: float = 0.9, b: float = 0.4
    ) -> list[TermScore]:
        """What each distinct term of ``query`` (a text, or terms) adds to the score of ``row``.

        Returns:
            By falling weight, the order in which ``search`` adds; the sum is its score.
        """
        _check(1, k1, b, None, self.rows)
        if not 0 <= row < self.rows:
            raise InvalidInput(f"row {row} is not in the index, which has {self.rows:,} rows")
        texts = self.tokenizer.terms([query]) if isinstance(query, str) else Terms.of([query])
        plan = self.plan(texts)
        times = np.bincount(texts.ids, minlength=len(texts.names))
        place = int(np.searchsorted(self._firsts, row, "right")) - 1
        part, local = self._parts[place], row - int(self._firsts[place])
        length = int(part.lengths[local])
        flat, slope = np.float32(k1 * (1 - b)), np.float32(k1 * b / self._mean)
        made = []
        for number, weight in zip(plan.terms.tolist(), plan.weights, strict=True):
            df = int(plan.holding[number])
            tf = dictionary.count(part, plan.found[place][number].tolist(), local)
            share = np.float32(tf) / (np.float32(tf) + (flat + slope * np.float32(length)))
            made.append(
                TermScore(
                    term=plan.names[number],
                    in_query=int(times[number]),
                    tf=tf,
                    df=df,
                    idf=float(np.log1p((self.rows - df + 0.5) / (df + 0.5))),
                    length=length,
                    mean_length=self._mean,
                    score=float(weight * share) if tf else 0.0,
                )
            )
        return made

    def spread(self, ask: Ask) -> SpreadLexical:
        """This index with its segments searched by the shards that ``ask`` asks."""
        from rag.indexers.spread import SpreadLexical

        return SpreadLexical(self, ask)

    def expand(self, prefix: str, *, most: int) -> list[str]:
        """The terms of the index that begin with ``prefix`` (lower case), sorted.

        Raises:
            InvalidInput: there are more than ``most``.
        """
        start = prefix.encode("utf-8", "replace")
        ranges = [dictionary.beginning(part, start) for part in self._parts]
        largest = max((len(numbers) for numbers in ranges), default=0)
        found = {
            term
            for part, numbers in zip(self._parts, ranges, strict=True)
            for term in (dictionary.terms(part, numbers) if largest <= most else ())
        }
        if max(largest, len(found)) > most:
            raise InvalidInput(
                f"{prefix}* stands for {max(largest, len(found)):,} or more terms of the index, at "
                f"most {most:,} can be searched: write a longer beginning"
            )
        return sorted(term.decode("utf-8", "replace") for term in found)

    def rows_with(self, terms: Sequence[str]) -> NDArray[np.bool_]:
        """Which rows hold all of the ``terms``: (rows,) bool."""
        texts = sorted({term.encode("utf-8", "replace") for term in terms})
        held = np.zeros(self.rows, np.bool_)
        for part, first in zip(self._parts, self._firsts, strict=False):
            held[first : first + len(part.lengths)] = dictionary.holding_all(part, texts)
        return held

    def plan(self, queries: Sequence[str] | Terms) -> Plan:
        """Sum the statistics of the terms of queries over the segments, weigh and order them."""
        from rag.indexers import _kernels_terms

        ends, ids, names = queries if isinstance(queries, Terms) else self.tokenizer.terms(queries)
        offsets, text = packed([name.encode() for name in names])
        holding = np.zeros(len(names), np.int64)
        found = []
        if not self._fences:
            self._fences = [_fences(part) for part in self._parts]
        for part, fences in zip(self._parts, self._fences, strict=True):
            found.append(np.empty((len(names), 2), np.int64))
            worst = _kernels_terms.lookup(part, *fences, text, offsets, found[-1], holding)
            if worst < -1:
                raise faults.damaged(part, worst)
        planned = _kernels_terms.plan(ends, ids, self.rows, holding)
        return Plan(*planned, found, names, holding, self._mean)

    def _filters(self, keep: NDArray[np.bool_] | None) -> _Filters:
        """What the kernel needs of ``keep`` for each folder; remembered as long as ``keep`` lives.

        Only of a read-only array, as a snapshot's are: another might change between two calls.
        """
        if keep is None:
            return self._unfiltered
        whole = frozen(np.ascontiguousarray(keep).view())
        masks = [whole[first:last] for first, last in pairwise(self._firsts.tolist())]
        known = self._known.get(id(keep))
        if known is not None and known[0]() is keep:
            return list(zip(masks, known[1], strict=True))
        made = [_kept(mask) for mask in masks]
        if not keep.flags.writeable:
            key = id(keep)
            self._known[key] = weakref.ref(keep, lambda _: self._known.pop(key, None)), made
        return list(zip(masks, made, strict=True))

    def _run(
        self,
        plan: Plan,
        span: tuple[int, int],
        k: int,
        factors: tuple[np.float32, np.float32],
        filters: _Filters,
    ) -> _Hits:
        """The hits of the queries from ``span``, as ``search`` gives them."""
        from rag.indexers import _kernels_heap, _kernels_search

        size = span[1] - span[0]
        scores, rows = np.empty((size, k), np.float32), np.empty((size, k), np.int64)
        sizes = np.zeros(size, np.int64)
        # Zeroing the sums of a window is dear for one query, and a kernel leaves them zero.
        try:
            room = self._spare.pop()
        except IndexError:
            sums = np.zeros(postings.WINDOW, np.float32)
            room = sums, np.empty(postings.WINDOW + 1, np.uint16)
        for part, numbers, first, (keep, kept) in zip(
            self._parts, plan.found, self._firsts, filters, strict=False
        ):
            _kernels_search.search(
                part, first, plan.bounds, plan.terms, plan.weights, numbers, span[0], *factors,
                keep, kept.starts, kept.rows, kept.spans, kept.few, *room, scores, rows, sizes,
            )  # fmt: skip
        self._spare.append(room)
        return _kernels_heap.sorted_hits(scores, rows, sizes)


def _fences(part: postings.Postings) -> tuple[NDArray[np.uint64], int]:
    """What the kernel ``fences`` says of a segment, and every how manieth group it notes down."""
    from rag.indexers import _kernels_terms

    step = (len(part.group_texts) - 1) // FENCES + 1
    return frozen(_kernels_terms.fences(part.group_texts, part.terms, step)), step


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
