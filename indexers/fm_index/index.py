"""One FM-index: a text of token ids, searched without reading it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rag.errors import Damaged, InvalidInput
from rag.indexers.fm_index import (
    _kernels_locate,
    _kernels_next,
    _kernels_ranges,
    _kernels_rank,
    _kernels_top,
    build,
    files,
)

I64 = NDArray[np.int64]
F32 = NDArray[np.float32]


class NextTokens(NamedTuple):
    """What may follow an n-gram, by ascending token id."""

    tokens: I64
    """(m,)"""
    counts: I64
    """(m,) how often the n-gram with the token occurs"""
    ranges: I64
    """(m, 2) its rows; (m, S, 2) of ``FMIndexes``"""


class TopTokens(NamedTuple):
    """The best next tokens of n n-grams, best first, ties by ascending token id."""

    tokens: I64
    """(n, k); -1 where there are fewer"""
    scores: F32
    """(n, k); -inf where there are fewer"""
    ranges: I64
    """(n, k, 2) rows, (0, 0) where there are fewer; (n, k, S, 2) of ``FMIndexes``"""


class FMIndex:
    """The n-grams of a sequence of documents: how often, where, and what follows them.

    A document is a one-dimensional array of token ids from 0 to 2^31 - 1; n-grams do not cross
    documents. The occurrences of an n-gram are a range of *rows* ``lo .. hi``, which grows with
    ``extend``. Methods may be called from several threads; the compiled loops release the GIL.

    >>> import tempfile
    >>> index = FMIndex.build([[5, 7, 5, 7], [7, 5]], tempfile.mkdtemp())
    >>> index.count([[5], [5, 7], [7, 7]]).tolist()
    [3, 2, 0]
    >>> index.next_tokens(index.find([5])).tokens.tolist()
    [7]
    """

    def __init__(self, folder: Path, shape: files.Shape, arrays: dict[str, NDArray[Any]]) -> None:
        """Use ``FMIndex.open``."""
        self.folder = folder
        self.documents = shape.documents
        self.tokens = shape.tokens
        self._shape = shape
        self._alphabet = arrays["alphabet"]
        self._starts, self._directory = arrays["starts"], arrays["directory"]
        self._text = arrays["text"]
        self.limit = int(self._alphabet[-1]) + 1
        """The largest token id + 1; 0 where there are no tokens."""
        self.full = "positions" in arrays
        """Whether the place of every row is stored: then locating is quick."""
        none = np.empty(0, np.uint32)
        none.flags.writeable = False
        self._stored = arrays.get("positions", none)
        self._samples = arrays.get("samples", none)
        self._marks = arrays.get("marks", none.astype(np.uint64))
        stride = 8 * (shape.rows // files.BLOCK + 1)
        self._matrix = arrays["matrix"], arrays["zeros"], arrays["leaves"]
        self._extending = *self._matrix, self._alphabet, shape.rows, stride
        self._locating = *self._matrix, shape.rows, stride
        self._all = (
            *self._matrix,
            self._alphabet,
            arrays["order"],
            arrays["spans"],
            arrays["successors"],
            arrays["successor_rows"],
            shape.rows,
            stride,
        )
        self._root: NextTokens | None = None

    @staticmethod
    def build(
        sequences: Iterable[ArrayLike],
        folder: str | Path,
        *,
        locate: Literal["full", "sampled"] = "full",
    ) -> FMIndex:
        """Index the ``sequences`` into ``folder``, which is made if it is absent.

        Args:
            sequences: one-dimensional arrays of token ids from 0 to 2^31 - 1, one a document;
                they are read once and may be empty.
            folder: an index that is there already is replaced.
            locate: ``"full"`` stores the position of each row, four bytes a token; ``"sampled"``
                one of 32 and one a document, and locates hundreds of times slower.

        Raises:
            InvalidInput: a document is not such an array, or there are more than 500 million
                tokens: build several, and open them with ``FMIndexes``.
        """
        build.build(sequences, Path(folder), locate)
        return FMIndex.open(folder)

    @staticmethod
    def open(folder: str | Path) -> FMIndex:
        """Open an index; its arrays are mapped, so the time does not grow with it.

        Raises:
            NotFound: there is no index, or a file of it is absent.
            InvalidInput: it was written in another format.
            Damaged: a file is cut short, or is not what ``fm_index.json`` says.
        """
        folder = Path(folder)
        return FMIndex(folder, *files.read(folder))

    def __len__(self) -> int:
        """Rows: one a token and one a document."""
        return self._shape.rows

    def __repr__(self) -> str:
        return (
            f"FMIndex({str(self.folder)!r}: {self.documents:,} documents, {self.tokens:,} tokens)"
        )

    def starts(self) -> tuple[int, int]:
        """The rows of the documents' starts: what is extended from here begins a document."""
        return 0, self.documents

    def find(self, ngram: ArrayLike) -> tuple[int, int]:
        """The rows of an n-gram: ``hi - lo`` is its count, (0, 0) if it is absent; [] is all."""
        tokens = np.atleast_1d(np.asarray(ngram, np.int64))
        low, high = self.find_flat(np.array([0, len(tokens)]), tokens)[0].tolist()
        return low, high

    def find_flat(self, offsets: ArrayLike, tokens: ArrayLike) -> I64:
        """The rows of many n-grams, n-gram i being ``tokens[offsets[i] : offsets[i + 1]]``: (n, 2).

        Any integer may be asked for; a token that does not occur is not found.
        """
        offsets = np.ascontiguousarray(offsets, np.int64)
        tokens = np.ascontiguousarray(tokens, np.int64)
        if offsets.ndim != 1 or tokens.ndim != 1 or not len(offsets):
            raise InvalidInput(
                f"offsets have shape {offsets.shape} and tokens {tokens.shape}; n n-grams are "
                "n + 1 offsets, and one flat array of tokens"
            )
        out = np.empty((len(offsets) - 1, 2), np.int64)
        if code := _kernels_ranges.find(*self._all, offsets, tokens, out):
            self._fail(code)
        return out

    def count(self, ngrams: Sequence[Sequence[int] | NDArray[Any]]) -> I64:
        """How often each n-gram occurs: (n,); that of [] is the number of rows."""
        ranges = self.find_flat(*flat(ngrams))
        return ranges[:, 1] - ranges[:, 0]

    def extend(self, ranges: ArrayLike, tokens: ArrayLike) -> I64:
        """The rows of each range's n-gram with a token after it: (n, 2), (0, 0) if absent.

        Args:
            ranges: (n, 2) rows, as ``find`` or ``starts`` give them.
            tokens: (n,) token ids.
        """
        ranges, tokens = _ranges(ranges), np.ascontiguousarray(tokens, np.int64)
        if tokens.shape != (len(ranges),):
            raise InvalidInput(
                f"there are {len(ranges):,} ranges and tokens of shape {tokens.shape}; "
                "each range takes one token"
            )
        out = np.empty_like(ranges)
        if code := _kernels_ranges.extend(*self._extending, ranges, tokens, out):
            self._fail(code)
        return out

    def next_tokens(self, range: ArrayLike) -> NextTokens:
        """All tokens that follow an n-gram, given by its rows, ascending by id.

        The end of a document is none of them. Those of the whole index are kept and read-only.
        """
        ranges = np.ascontiguousarray(range, np.int64)
        if ranges.shape != (2,):
            raise InvalidInput(f"the range has shape {ranges.shape}; it is a pair of rows")
        if ranges[0] == 0 and ranges[1] == self._shape.rows:
            return self._root_tokens()
        return self.next_tokens_of(ranges[None])[1]

    def next_tokens_of(self, ranges: ArrayLike) -> tuple[I64, NextTokens]:
        """All tokens that follow each of n n-grams: (n + 1,) offsets, and the tokens end to end."""
        ranges = _ranges(ranges)
        offsets = np.zeros(len(ranges) + 1, np.int64)
        found = _kernels_next.successors(*self._all, ranges, offsets)
        if code := offsets[0]:
            self._fail(code)
        return offsets, NextTokens(*found)

    def _root_tokens(self) -> NextTokens:
        if self._root is None:
            rows = self._all[5][1:, :2].copy()
            root = NextTokens(self._alphabet[1:].astype(np.int64), rows[:, 1] - rows[:, 0], rows)
            for made in root:
                made.flags.writeable = False
            self._root = root
        return self._root

    def top_k(self, ranges: ArrayLike, log_probs: ArrayLike, k: int) -> TopTokens:
        """The k best next tokens of each of n n-grams, exactly.

        Args:
            ranges: (n, 2) rows.
            log_probs: (n, V) float32 scores of all token ids, V at least ``limit``. A token whose
                score is -inf or not a number is never returned.
            k: how many, at least 0; there may be fewer.

        Raises:
            InvalidInput: shapes do not fit, or a token id of the index is V or larger: the model
                has a smaller vocabulary than the one that the index was built with.
        """
        ranges = _ranges(ranges)
        log_probs = np.ascontiguousarray(log_probs, np.float32)
        if log_probs.ndim != 2 or len(log_probs) != len(ranges) or k < 0:
            raise InvalidInput(
                f"there are {len(ranges):,} ranges, log_probs of shape {log_probs.shape} and k is "
                f"{k}; log_probs has a row for each range, and k is not negative"
            )
        if log_probs.shape[1] < self.limit:
            raise InvalidInput(
                f"log_probs ends at token {log_probs.shape[1] - 1:,}, and the index holds token "
                f"{self.limit - 1:,}: it was built with another model's tokenizer"
            )
        tokens = np.empty((len(ranges), k), np.int64)
        scores = np.empty((len(ranges), k), np.float32)
        found = np.empty((len(ranges), k, 2), np.int64)
        bits = log_probs.view(np.int32)
        if code := _kernels_top.top_k(*self._all, ranges, log_probs, bits, tokens, scores, found):
            self._fail(code)
        return TopTokens(tokens, scores, found)

    def locate(self, rows: ArrayLike) -> tuple[I64, I64]:
        """Where rows are: (r,) documents, and (r,) offsets of the n-gram's last token in them.

        The offset of a document's start is -1.
        """
        rows = np.atleast_1d(np.asarray(rows, np.int64))
        ranges = np.stack((rows, rows + 1), axis=1)
        return self.locate_ranges(ranges, np.arange(len(rows)), len(rows), ordered=False)

    def locate_ranges(
        self, ranges: I64, targets: I64, total: int, *, ordered: bool = True
    ) -> tuple[I64, I64]:
        """Where the rows of ranges are: (total,) documents and offsets, as ``locate`` gives them.

        Those of range i begin at ``targets[i]``, ``ordered`` by document and offset.
        """
        documents, offsets = np.empty((2, total), np.int64)
        self.locate_into(ranges, targets, 0, documents, offsets, ordered=ordered)
        return documents, offsets

    def locate_into(
        self,
        ranges: I64,
        targets: I64,
        first_document: int,
        documents: I64,
        offsets: I64,
        *,
        ordered: bool,
    ) -> None:
        """``locate_ranges`` into arrays that are there, documents numbered from a given one."""
        if code := _kernels_locate.locate(
            *self._locating,
            self._stored,
            self._marks,
            self._samples,
            self._starts,
            self._directory,
            ranges,
            targets,
            first_document,
            ordered,
            documents,
            offsets,
        ):
            self._fail(code)

    def document(self, number: int) -> NDArray[np.int32]:
        """The tokens of a document, as they were given."""
        return self.documents_flat(np.array([number]))[1]

    def documents_flat(self, numbers: ArrayLike) -> tuple[I64, NDArray[np.int32]]:
        """The tokens of documents: (m + 1,) offsets, and the tokens end to end."""
        numbers = np.atleast_1d(np.asarray(numbers, np.int64))
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= self.documents):
            raise InvalidInput(
                f"documents {numbers.min():,} to {numbers.max():,} are asked for; the index holds "
                f"{self.documents:,}, numbered from 0"
            )
        lengths = self._starts[numbers + 1].astype(np.int64) - self._starts[numbers] - 1
        offsets = np.zeros(len(numbers) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        if len(lengths) and (lengths.min() < 0 or lengths.max() > self.tokens):
            self._fail(_kernels_rank.DAMAGED)
        out = np.empty(int(offsets[-1]), np.int32)
        if code := _kernels_locate.gather(
            self._alphabet, self._text, self._starts, numbers, offsets, out
        ):
            self._fail(code)
        return offsets, out

    def _fail(self, code: int) -> None:
        """Raise what a kernel's negative answer stands for."""
        if code == _kernels_rank.BAD_RANGE:
            raise InvalidInput(
                f"a range of rows is not within 0 .. {len(self):,}, or ends before it begins; "
                "take ranges that this index gave"
            )
        if code == _kernels_rank.BAD_OFFSETS:
            raise InvalidInput("the offsets of n-grams do not ascend within the array of tokens")
        raise Damaged(
            f"{self.folder}: is damaged: its arrays point outside one another; {files.REPAIR}"
        )


def flat(ngrams: Sequence[Sequence[int] | NDArray[Any]]) -> tuple[I64, I64]:
    """Token lists end to end: (n + 1,) offsets, and the tokens."""
    offsets = np.array([0, *accumulate(map(len, ngrams))], np.int64)
    if len(ngrams) and all(isinstance(ngram, np.ndarray) for ngram in ngrams):
        return offsets, np.concatenate(ngrams).astype(np.int64, copy=False)
    return offsets, np.array(list(chain.from_iterable(ngrams)), np.int64)


def _ranges(given: ArrayLike) -> I64:
    ranges = np.ascontiguousarray(given, np.int64)
    if ranges.ndim != 2 or ranges.shape[1] != 2:
        raise InvalidInput(f"ranges have shape {ranges.shape}; they are pairs of rows: (n, 2)")
    return ranges
