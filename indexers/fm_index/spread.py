"""Several FM-indexes that lie at shards (``rag.collection.spread``) and answer as one.

A step of constrained decoding is one round: the shards choose the best next tokens, and say of
those n-grams that occur once what follows them, which the decoder asks for next. Looking n-grams up
and locating them is one round too. Counts are summed over all segments, so they are exact.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rag.indexers.fm_index.index import I64, TopTokens
from rag.indexers.fm_index.several import FMIndexes, Found, Places, Top

if TYPE_CHECKING:
    from rag.collection.spread import Ask

FOLLOWING = 16
"""So many tokens behind an n-gram come along with it; a generated n-gram is seldom longer."""


class SpreadFMIndexes(FMIndexes):
    """``FMIndexes`` whose parts are asked at shards; they are mapped here too.

    What single tokens occur, and how often, is read here, once.
    """

    def __init__(self, index: FMIndexes, ask: Ask) -> None:
        """Take the indexes of all segments, opened here, and what asks the shards."""
        super().__init__(index.parts)
        self._ask = ask
        self._runs = ask.segments
        self._came = threading.local()  # what came along with the last ``top_k`` of the thread

    def find_flat(self, offsets: I64, tokens: NDArray[Any]) -> I64:
        """As ``FMIndexes.find_flat``, in one round."""
        found = self._ask("index.find_flat", self._to_all(offsets, tokens))
        return self._side_by_side(len(offsets) - 1, found)

    def extend(self, ranges: ArrayLike, tokens: ArrayLike) -> I64:
        """As ``FMIndexes.extend``, in one round."""
        ranges = self._ranges(ranges)
        return self._side_by_side(
            len(ranges), self._ask("index.extend", self._to_each(ranges, np.asarray(tokens)))
        )

    def top_k(self, ranges: ArrayLike, log_probs: ArrayLike, k: int) -> TopTokens:
        """As ``FMIndexes.top_k``, in one round."""
        from rag.indexers.fm_index import _kernels_several

        ranges = self._ranges(ranges)
        log_probs = np.ascontiguousarray(log_probs, np.float32)
        found: dict[int, Top] = self._ask(
            "index.top_following", self._to_each(ranges, log_probs, k, FOLLOWING)
        )
        out = TopTokens(
            np.full((len(ranges), k), -1, np.int64),
            np.full((len(ranges), k), -np.inf, np.float32),
            np.zeros((len(ranges), k, len(self.parts), 2), np.int64),
        )
        if not found or not len(ranges) or not k:
            return out
        # The kernel merges one range a shard. It is given the place in the shard's own answer.
        places = np.empty((len(found), len(ranges), k, 2), np.int64)
        places[..., 0], places[..., 1] = np.arange(k), 1
        merged = np.empty((len(ranges), k, len(found), 2), np.int64)
        _kernels_several.merge_top(
            np.stack([top.tokens for top in found.values()]),
            np.stack([top.scores for top in found.values()]),
            places, out.tokens, out.scores, merged,
        )  # fmt: skip
        for at, (shard, top) in enumerate(found.items()):
            first, last = self._runs[shard]
            rows = np.take_along_axis(top.ranges, merged[:, :, at, 0, None, None], axis=1)
            out.ranges[:, :, first:last] = rows * merged[:, :, at, 1, None, None]
        self._came.following = found
        return out

    def following(self, ranges: ArrayLike, most: ArrayLike) -> tuple[I64, NDArray[np.int32]]:
        """As ``FMIndexes.following``: no round, where it came along with ``top_k``."""
        ranges = self._ranges(ranges)
        most = np.broadcast_to(np.asarray(most, np.int64), len(ranges))
        whose = self._shard_of((ranges[..., 1] - ranges[..., 0]).argmax(axis=1))
        came = getattr(self._came, "following", {})
        known = {shard: _by_range(top) for shard, top in came.items()}
        tails: list[NDArray[np.int32] | None] = [None] * len(ranges)
        lacking: dict[int, list[int]] = {}
        for at, shard in enumerate(whose.tolist()):
            first, last = self._runs[shard]
            tail = known.get(shard, {}).get(ranges[at, first:last].tobytes())
            if tail is None or most[at] > FOLLOWING:
                lacking.setdefault(shard, []).append(at)
            else:
                tails[at] = tail[: most[at]]
        calls = {
            shard: (ranges[rows, slice(*self._runs[shard])], most[rows])
            for shard, rows in lacking.items()
        }
        for shard, (offsets, tokens) in self._ask("index.following", calls).items():
            for at, begin, end in zip(lacking[shard], offsets, offsets[1:], strict=False):
                tails[at] = tokens[begin:end]
        none = np.zeros(0, np.int32)
        each = [none if tail is None else tail for tail in tails]
        return np.cumsum([0, *map(len, each)]), np.concatenate([none, *each])

    def locate(self, ranges: ArrayLike) -> Places:
        """As ``FMIndexes.locate``, in one round."""
        ranges = self._ranges(ranges)
        found = self._ask("index.locate", self._to_each(ranges))
        return self._one_after_another(len(ranges), found)

    def occurrences(
        self, offsets: I64, tokens: NDArray[Any], at_start: NDArray[np.bool_], most: int
    ) -> Found:
        """As ``FMIndexes.occurrences``, in one round; in two, if places are only sampled."""
        calls = self._to_all(offsets, tokens, at_start, most)
        found: dict[int, tuple[I64, Places]] = self._ask("index.looked_up", calls)
        count = len(offsets) - 1
        ranges = self._side_by_side(count, {shard: rows for shard, (rows, _) in found.items()})
        if not self.full:
            return self._found(ranges, most)
        rare = self.widths(ranges) <= most
        places = self._one_after_another(count, {shard: its for shard, (_, its) in found.items()})

        def locate(which: I64) -> Places:
            lengths = np.where(rare[which], np.diff(places[0])[which], 0)
            ends = np.concatenate(([0], np.cumsum(lengths)))
            entries = np.repeat(places[0][which] - ends[:-1], lengths) + np.arange(ends[-1])
            return ends, places[1][entries], places[2][entries]

        return Found(ranges, locate)

    def documents(self, numbers: ArrayLike) -> tuple[I64, NDArray[np.int32]]:
        """As ``FMIndexes.documents``, in one round; none of a shard that is away has tokens."""
        numbers = self._numbers(numbers)
        part_of = np.searchsorted(self.first, numbers, "right") - 1
        whose = self._shard_of(part_of)
        mine = {shard: np.flatnonzero(whose == shard) for shard in np.unique(whose).tolist()}
        calls = {shard: (numbers[at] - self._first(shard),) for shard, at in mine.items()}
        answers = self._ask("index.documents", calls)
        return self._gathered(
            len(numbers), [(mine[shard], *each) for shard, each in answers.items()]
        )

    def _to_all(self, *arguments: Any) -> dict[int, tuple[Any, ...]]:
        return dict.fromkeys(range(len(self._runs)), arguments)

    def _to_each(self, ranges: I64, *arguments: Any) -> dict[int, tuple[Any, ...]]:
        """Each shard's own ranges, and the arguments; none for a shard that holds none of them."""
        calls = {}
        for shard, (first, last) in enumerate(self._runs):
            own = ranges[:, first:last]
            if (own[..., 1] > own[..., 0]).any():
                calls[shard] = (np.ascontiguousarray(own), *arguments)
        return calls

    def _shard_of(self, parts: I64) -> I64:
        firsts = np.array([first for first, _ in self._runs])
        return np.searchsorted(firsts, parts, "right") - 1

    def _first(self, shard: int) -> int:
        """The number of a shard's first document."""
        return int(self.first[self._runs[shard][0]])

    def _side_by_side(self, count: int, found: Mapping[int, I64]) -> I64:
        """Rows (n, S, 2) from those of shards; (0, 0) in the parts of one that said nothing."""
        ranges = np.zeros((count, len(self.parts), 2), np.int64)
        for shard, own in found.items():
            ranges[:, slice(*self._runs[shard])] = own
        return ranges

    def _one_after_another(self, count: int, found: Mapping[int, Places]) -> Places:
        """The places of each n-gram, those of the first shard first."""
        lengths = [np.diff(offsets) for offsets, _, _ in found.values()]
        counts = np.stack([*lengths, np.zeros(count, np.int64)])
        ends = np.cumsum(counts.T).reshape(count, len(counts)) if count else counts.T
        offsets = np.concatenate(([0], ends[:, -1])) if count else np.zeros(1, np.int64)
        documents, positions = np.empty((2, int(offsets[-1])), np.int64)
        for at, (shard, (own, its, where)) in enumerate(found.items()):
            start = ends[:, at] - counts[at]
            entries = np.repeat(start - own[:-1], counts[at]) + np.arange(len(its))
            documents[entries] = its + self._first(shard)
            positions[entries] = where
        return offsets, documents, positions


def _by_range(top: Top) -> dict[bytes, NDArray[np.int32]]:
    """What follows each n-gram that occurs once at a shard, by its ranges there."""
    flat = top.ranges.reshape(-1, *top.ranges.shape[2:])[top.once]
    ends = top.offsets.tolist()
    return {
        rows.tobytes(): top.following[begin:end]
        for rows, begin, end in zip(flat, ends, ends[1:], strict=False)
    }
