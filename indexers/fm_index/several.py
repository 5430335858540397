"""Several FM-indexes that answer as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rag.errors import InvalidInput
from rag.indexers.fm_index.index import I64, FMIndex, NextTokens, TopTokens, flat

Places: TypeAlias = tuple[I64, I64, I64]
"""Offsets, documents and positions, as ``FMIndexes.locate`` returns them."""


class Found(NamedTuple):
    """N-grams that were looked up, n of them."""

    ranges: I64
    """(n, S, 2) their rows"""
    locate: Callable[[I64], Places]
    """Where those with given numbers are; nowhere, where they occur too often."""


class Top(NamedTuple):
    """The best next tokens of n-grams, as ``TopTokens``, and what follows some of those."""

    tokens: I64
    scores: NDArray[np.float32]
    ranges: I64
    once: I64
    """Which of the n * k n-grams occur once."""
    offsets: I64
    following: NDArray[np.int32]
    """What follows them, as ``FMIndexes.following`` gives it."""


class FMIndexes:
    """The n-grams of S indexes, S at least 1: counts, next tokens and top k equal one index's.

    An n-gram has a range of rows in each part: (S, 2). Documents are numbered over all parts, in
    their order.
    """

    def __init__(self, parts: Sequence[FMIndex]) -> None:
        """Take opened indexes."""
        if not parts:
            raise InvalidInput("there are no indexes; at least one is needed")
        self.parts = tuple(parts)
        self.first: I64 = np.cumsum([0, *(part.documents for part in parts)], dtype=np.int64)
        """(S + 1,) the number of each part's first document; then that of all."""
        self.tokens = sum(part.tokens for part in parts)
        """Tokens of all parts, without the documents' ends."""
        self.limit = max(part.limit for part in parts)
        """The largest token id + 1; 0 where there are no tokens."""
        self.full = all(part.full for part in parts)
        """Whether the place of every row is stored: then locating is quick."""
        self._whole = np.array([(0, len(part)) for part in parts], np.int64)
        self._root: NextTokens | None = None

    def __len__(self) -> int:
        """Rows of all parts: one a token and one a document."""
        return int(self._whole.sum())

    def whole(self) -> I64:
        """The rows of everything, those of []: (S, 2)."""
        return self._whole.copy()

    def starts(self) -> I64:
        """The rows of the documents' starts: (S, 2)."""
        return np.array([part.starts() for part in self.parts], np.int64)

    def count(self, ngrams: Sequence[Sequence[int] | NDArray[Any]]) -> I64:
        """How often each n-gram occurs: (n,)."""
        return self.widths(self.find(ngrams))

    def find(self, ngrams: Sequence[Sequence[int] | NDArray[Any]]) -> I64:
        """The rows of many n-grams: (n, S, 2), (0, 0) where absent; [] is everything."""
        return self.find_flat(*flat(ngrams))

    def find_flat(self, offsets: I64, tokens: NDArray[Any]) -> I64:
        """``find`` of n-grams laid end to end: n-gram i is ``tokens[offsets[i]:offsets[i+1]]``."""
        return np.stack([part.find_flat(offsets, tokens) for part in self.parts], axis=1)

    def extend(self, ranges: ArrayLike, tokens: ArrayLike) -> I64:
        """The rows of each n-gram with a token after it: (n, S, 2) from (n, S, 2) and (n,)."""
        ranges = self._ranges(ranges)
        return np.stack(
            [part.extend(ranges[:, s], tokens) for s, part in enumerate(self.parts)], axis=1
        )

    def widths(self, ranges: ArrayLike) -> I64:
        """How often n-grams occur in all parts: (n,) from ranges (n, S, 2)."""
        ranges = self._ranges(ranges)
        return (ranges[..., 1] - ranges[..., 0]).sum(axis=1)  # type: ignore[no-any-return]

    def next_tokens(self, range: ArrayLike) -> NextTokens:
        """All tokens that follow an n-gram with rows (S, 2): ids ascending, counts summed.

        Ranges are (m, S, 2). Those of everything are kept and read-only.
        """
        rows = self._ranges(np.asarray(range, np.int64)[None])[0]
        if (rows == self._whole).all():
            if self._root is None:
                self._root = self._next(rows)
                for made in self._root:
                    made.flags.writeable = False
            return self._root
        return self._next(rows)

    def _next(self, rows: I64) -> NextTokens:
        found = [part.next_tokens(rows[s]) for s, part in enumerate(self.parts)]
        if len(found) == 1:
            tokens, counts, ranges = found[0]
            return NextTokens(tokens, counts, ranges[:, None])
        tokens = np.unique(np.concatenate([part.tokens for part in found]))
        counts = np.zeros(len(tokens), np.int64)
        ranges = np.zeros((len(tokens), len(found), 2), np.int64)
        for s, part in enumerate(found):
            at = np.searchsorted(tokens, part.tokens)
            counts[at] += part.counts
            ranges[at, s] = part.ranges
        return NextTokens(tokens, counts, ranges)

    def top_k(self, ranges: ArrayLike, log_probs: ArrayLike, k: int) -> TopTokens:
        """The k best next tokens of each n-gram, exactly; see ``FMIndex.top_k``.

        Args:
            ranges: (n, S, 2) rows.
            log_probs: (n, V) float32, V at least ``limit``.
            k: how many.
        """
        ranges = self._ranges(ranges)
        log_probs = np.ascontiguousarray(log_probs, np.float32)
        found = [part.top_k(ranges[:, s], log_probs, k) for s, part in enumerate(self.parts)]
        if len(found) == 1:
            tokens, scores, rows = found[0]
            return TopTokens(tokens, scores, rows[:, :, None])
        from rag.indexers.fm_index import _kernels_several

        out = TopTokens(
            np.empty((len(ranges), k), np.int64),
            np.empty((len(ranges), k), np.float32),
            np.empty((len(ranges), k, len(found), 2), np.int64),
        )
        tokens, scores, rows = (np.stack(parts) for parts in zip(*found, strict=True))
        _kernels_several.merge_top(tokens, scores, rows, *out)
        return out

    def locate(self, ranges: ArrayLike) -> Places:
        """Where n-grams with rows (n, S, 2) occur.

        Returns:
            offsets: (n + 1,) where the occurrences of each n-gram begin in the next two.
            documents: numbers over all parts, ascending within an n-gram.
            positions: the offset of the n-gram's last token in its document, ascending within it.
        """
        ranges = self._ranges(ranges)
        widths = np.maximum(ranges[..., 1] - ranges[..., 0], 0)
        ends = np.cumsum(widths).reshape(widths.shape) if widths.size else widths
        targets = ends - widths
        offsets = np.zeros(len(ranges) + 1, np.int64)
        if len(ranges):
            offsets[1:] = ends[:, -1]
        documents, positions = np.empty((2, int(offsets[-1])), np.int64)
        for s, part in enumerate(self.parts):
            part.locate_into(
                np.ascontiguousarray(ranges[:, s]),
                np.ascontiguousarray(targets[:, s]),
                int(self.first[s]),
                documents,
                positions,
                ordered=True,
            )
        return offsets, documents, positions

    def occurrences(
        self, offsets: I64, tokens: NDArray[Any], at_start: NDArray[np.bool_], most: int
    ) -> Found:
        """The rows of n-grams, as ``find_flat`` takes them, and a way to where they are.

        Args:
            offsets: (n + 1,)
            tokens: (offsets[-1],)
            at_start: (n,) bool, which n-grams are looked for at the start of documents only.
            most: an n-gram that occurs more often is not located.
        """
        return self._found(self._rows_of(offsets, tokens, at_start), most)

    def _found(self, ranges: I64, most: int) -> Found:
        def locate(which: I64) -> Places:
            rare = self.widths(ranges[which]) <= most
            return self.locate(np.where(rare[:, None, None], ranges[which], 0))

        return Found(ranges, locate)

    def _rows_of(self, offsets: I64, tokens: NDArray[Any], at_start: NDArray[np.bool_]) -> I64:
        ranges = self.find_flat(offsets, tokens)
        which = np.flatnonzero(at_start)
        if len(which):
            anchored = np.repeat(self.starts()[None], len(which), axis=0)
            lengths = offsets[which + 1] - offsets[which]
            for i in range(int(lengths.max())):
                live = np.flatnonzero(lengths > i)
                anchored[live] = self.extend(anchored[live], tokens[offsets[which[live]] + i])
            ranges[which] = anchored
        return ranges

    def looked_up(
        self, offsets: I64, tokens: NDArray[Any], at_start: NDArray[np.bool_], most: int
    ) -> tuple[I64, Places]:
        """What ``occurrences`` finds, all of it: for whoever asks from elsewhere, in one call.

        No places where only some are stored: locating more than is needed would take long.
        """
        found = self.occurrences(offsets, tokens, at_start, most if self.full else 0)
        return found.ranges, found.locate(np.arange(len(offsets) - 1))

    def top_following(self, ranges: ArrayLike, log_probs: ArrayLike, k: int, most: int) -> Top:
        """``top_k``, and what ``following`` will be asked of it: at most ``most`` tokens each.

        Nothing follows where only some places are stored, as with ``looked_up``.
        """
        top = self.top_k(ranges, log_probs, k)
        flat = top.ranges.reshape(-1, len(self.parts), 2)
        once = np.flatnonzero(self.widths(flat) == 1) if self.full else np.zeros(0, np.int64)
        return Top(*top, once, *self.following(flat[once], most))

    def following(self, ranges: ArrayLike, most: ArrayLike) -> tuple[I64, NDArray[np.int32]]:
        """What follows n-grams that occur once, up to the end of their documents.

        Args:
            ranges: (n, S, 2) their rows, one of each n-gram.
            most: (n,) the most tokens of each.

        Returns:
            (n + 1,) offsets, and the tokens end to end.
        """
        _, documents, positions = self.locate(ranges)
        offsets, tokens = self.documents(documents)
        first = np.minimum(offsets[:-1] + positions + 1, offsets[1:])
        lengths = np.minimum(offsets[1:] - first, most)
        ends = np.concatenate(([0], np.cumsum(lengths)))
        return ends, tokens[np.repeat(first - ends[:-1], lengths) + np.arange(ends[-1])]

    def document(self, number: int) -> NDArray[np.int32]:
        """The tokens of a document, by its number over all parts."""
        return self.documents([number])[1]

    def documents(self, numbers: ArrayLike) -> tuple[I64, NDArray[np.int32]]:
        """The tokens of documents: (m + 1,) offsets, and the tokens end to end."""
        numbers = self._numbers(numbers)
        if len(self.parts) == 1:
            return self.parts[0].documents_flat(numbers)
        part_of = np.searchsorted(self.first, numbers, "right") - 1
        found = []
        for s, part in enumerate(self.parts):
            mine = np.flatnonzero(part_of == s)
            found.append((mine, *part.documents_flat(numbers[mine] - self.first[s])))
        return self._gathered(len(numbers), found)

    def _numbers(self, given: ArrayLike) -> I64:
        numbers = np.atleast_1d(np.asarray(given, np.int64))
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= self.first[-1]):
            raise InvalidInput(
                f"documents {numbers.min():,} to {numbers.max():,} are asked for; the indexes hold "
                f"{self.first[-1]:,}, numbered from 0"
            )
        return numbers

    @staticmethod
    def _gathered(
        count: int, found: Sequence[tuple[I64, I64, NDArray[np.int32]]]
    ) -> tuple[I64, NDArray[np.int32]]:
        """The tokens of ``count`` documents from parts of them: which, offsets and tokens."""
        lengths = np.zeros(count, np.int64)
        for mine, ends, _ in found:
            lengths[mine] = np.diff(ends)
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        out = np.empty(int(offsets[-1]), np.int32)
        for mine, ends, tokens in found:
            move = np.repeat(offsets[mine] - ends[:-1], np.diff(ends))
            out[np.arange(len(tokens)) + move] = tokens
        return offsets, out

    def _ranges(self, given: ArrayLike) -> I64:
        ranges = np.asarray(given, np.int64)
        if ranges.ndim != 3 or ranges.shape[1:] != (len(self.parts), 2):
            raise InvalidInput(
                f"ranges have shape {ranges.shape}; there are {len(self.parts)} indexes, so that "
                f"n of them have shape (n, {len(self.parts)}, 2)"
            )
        return ranges
