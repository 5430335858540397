r"""Text to terms, the same on every machine and Python.

    tokens  re.findall(r"(?u)\b\w\w+\b", text.lower())     as bm25s and scikit-learn do
    terms   tokens that are no stop word, stemmed by Snowball (PyStemmer)

What is a word character and what its lower case come from a frozen Unicode table
(``make_unicode``), not from the running Python. Tokens are found by a compiled loop over the
UTF-8 bytes of a whole Arrow column; stop words and stemming touch each distinct token once.
"""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Collection, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rag.errors import InvalidInput

T = TypeVar("T", bound=np.generic)

# fmt: off
ENGLISH = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it",
    "no", "not", "of", "on", "or", "such", "that", "the", "their", "then", "there", "these",
    "they", "this", "to", "was", "will", "with",
))
# fmt: on
"""Lucene's 33 English stop words, which are also bm25s's ``english``."""

FEW = 1000
"""The terms of at most so many words are remembered; more come from passages, not from queries."""
REMEMBERED = 20_000
"""So many words are remembered, about 3 MB, before all are forgotten."""


class Terms(NamedTuple):
    """The terms of n texts."""

    ends: NDArray[np.int64]
    """(n + 1,) where each text's terms lie in ``ids``."""
    ids: NDArray[np.int32]
    """(m,) numbers into ``names``, in reading order."""
    names: list[str]
    """The distinct terms, sorted by their UTF-8 bytes (which is by code points)."""

    @classmethod
    def of(cls, texts: Sequence[Sequence[str]]) -> Terms:
        """From lists of terms."""
        names = sorted({term for text in texts for term in text})
        number = {name: i for i, name in enumerate(names)}
        ids = [number[term] for text in texts for term in text]
        ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        return cls(frozen(ends), frozen(np.array(ids, np.int32)), names)


class Word(NamedTuple):
    """A token, and where it stands in its text."""

    start: int
    """Code points before it."""
    end: int
    text: str
    """The token: lower case, neither stemmed nor left out."""
    term: str | None
    """What the index knows it by; None for a stop word."""


class _Table(NamedTuple):
    ascii_fold: NDArray[np.uint8]
    delta_pages: NDArray[np.uint8]
    deltas: NDArray[np.int32]
    flag_pages: NDArray[np.uint8]
    flags: NDArray[np.uint8]


@functools.cache
def _table() -> tuple[_Table, str]:
    """The frozen table and its Unicode version."""
    with np.load(Path(__file__).with_name("unicode.npz"), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    fold = np.array(
        [ord(c.lower()) if c.isalnum() or c == "_" else 0 for c in map(chr, range(128))], np.uint8
    )
    version = ".".join(str(number) for number in arrays.pop("version"))
    return _Table(ascii_fold=fold, **arrays), version


def unicode_version() -> str:
    """The version of Unicode that the frozen table holds."""
    return _table()[1]


def stemmers() -> list[str]:
    """The names that ``stemmer`` may have, "none" first."""
    import Stemmer

    return ["none", *sorted(Stemmer.algorithms(aliases=True))]


class Tokenizer:
    """Makes terms with one stemmer and one stop list; may be shared by threads."""

    def __init__(self, stemmer: str, stopwords: str) -> None:
        """Take a name of ``stemmers()`` and "english" or "none"."""
        self._stop = ENGLISH if stopwords == "english" else frozenset[str]()
        self._stemmer = None
        self._lock = threading.Lock()
        self._known: dict[bytes, str] = {}
        if stemmer != "none":
            import Stemmer

            # Each distinct word comes once, so the stemmer's own cache would only be filled.
            self._stemmer = Stemmer.Stemmer(stemmer, 0)

    def with_stop_words(self) -> Tokenizer:
        """The same stemmer, and no word left out."""
        whole = copy.copy(self)
        whole._stop, whole._known = frozenset(), {}
        return whole

    def terms(self, texts: pa.LargeStringArray | Sequence[str]) -> Terms:
        """The terms of every text; a null in an Arrow column is an empty text."""
        from rag.indexers import _kernels

        column = isinstance(texts, pa.LargeStringArray)
        offsets, data = _buffers(texts) if column else packed(_encoded(texts))
        ends, ids, word_ends, words = _kernels.tokenize(offsets, data, *_table()[0])
        names, numbers = self._names(words, word_ends)
        size = _kernels.renumber(ends, ids, numbers)
        return Terms(ends, ids[:size], names)

    def tokens(self, texts: Sequence[str]) -> list[list[str]]:
        """The terms of each text as strings, in reading order."""
        ends, ids, names = self.terms(texts)
        return [[names[i] for i in ids[ends[j] : ends[j + 1]]] for j in range(len(texts))]

    def words(self, text: str) -> list[Word]:
        """The tokens of ``text`` with their places, stop words included, in reading order."""
        from rag.indexers import _kernels

        _, ids, ends, words = _kernels.tokenize(*packed(_encoded([text])), *_table()[0])
        names, numbers = self._names(words, ends)
        data, marks = words.tobytes(), ends.tolist()
        found = [data[i:j].decode() for i, j in pairwise(marks)]
        terms = [names[number] if number >= 0 else None for number in numbers.tolist()]
        places = [(start, end) for start, end in runs(text) if end - start >= 2]
        return [
            Word(*place, found[i], terms[i]) for place, i in zip(places, ids.tolist(), strict=True)
        ]

    def places(
        self, text: str, terms: Collection[str]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the words of ``text`` begin and end, in code points, whose terms are among these.

        Returns:
            (m,) and (m,) int64, ascending.
        """
        from rag.indexers import _kernels

        _, ids, ends, words = _kernels.tokenize(*packed(_encoded([text])), *_table()[0])
        names, numbers = self._names(words, ends)
        asked = np.array([number >= 0 and names[number] in terms for number in numbers], np.bool_)
        starts, stops = _run_bounds(text)
        words_ = stops - starts >= 2
        held = asked[ids]
        return starts[words_][held], stops[words_][held]

    def _names(
        self, words: NDArray[np.uint8], ends: NDArray[np.int64]
    ) -> tuple[list[str], NDArray[np.int32]]:
        """The sorted terms; for each distinct word its term's number, or -1 for a stop word."""
        text, marks = words.tobytes(), ends.tolist()
        found = [text[i:j] for i, j in pairwise(marks)]
        stems = self._stems(found) if len(found) > FEW else self._remembered(found)
        distinct = set(stems)
        distinct.discard("")
        names = sorted(distinct)
        number = {name: i for i, name in enumerate(names)}
        number[""] = -1
        return names, np.array([number[stem] for stem in stems], np.int32)

    def _stems(self, words: Sequence[bytes]) -> list[str]:
        """The term of each word; "" for a stop word."""
        found = [word.decode() for word in words]
        stems: list[str] = found
        if self._stemmer is not None:
            with self._lock:  # a stemmer holds buffers of its own
                stems = self._stemmer.stemWords(found)
        stop = self._stop
        if not stop.isdisjoint(found):
            stems = ["" if word in stop else s for word, s in zip(found, stems, strict=True)]
        return stems

    def _remembered(self, words: Sequence[bytes]) -> list[str]:
        """What ``_stems`` says: queries ask for the same words again and again."""
        known = self._known
        stems = [known.get(word) for word in words]
        if None in stems:
            fresh = [word for word, stem in zip(words, stems, strict=True) if stem is None]
            made = self._stems(fresh)
            if len(known) >= REMEMBERED:  # another thread may still read the old ones
                self._known = known = {}
            known.update(zip(fresh, made, strict=True))
            rest = iter(made)
            return [next(rest) if stem is None else stem for stem in stems]
        return stems  # type: ignore[return-value]


def runs(text: str) -> list[tuple[int, int]]:
    """Where the runs of word characters of ``text`` lie; tokens are those of two or more."""
    starts, ends = _run_bounds(text)
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _run_bounds(text: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Begins and ends of the runs of word characters.

    As in the kernel, a character is judged by its lower case, and "İ" ends its run: its lower case
    is "i" and a mark that is no word character.
    """
    table = _table()[0]
    points = np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32).astype(np.int64)
    lower = points + table.deltas[table.delta_pages[points >> 8], points & 255]
    dotted = points == 0x130
    is_word = (table.flags[table.flag_pages[lower >> 8], lower & 255] & 1).astype(np.bool_) | dotted
    before = np.concatenate(([False], (is_word & ~dotted)[:-1]))[: len(points)]
    after = np.concatenate((is_word[1:], [False]))[: len(points)]
    starts = np.flatnonzero(is_word & ~before)
    ends = np.flatnonzero(is_word & (dotted | ~after)) + 1
    return starts, ends


def _encoded(texts: Sequence[str]) -> list[bytes]:
    """The UTF-8 of each text; half a surrogate pair, which UTF-8 cannot hold, becomes "?"."""
    if isinstance(texts, str):
        raise InvalidInput(f"{texts!r} is one text; give a list of strings")
    try:
        return [text.encode("utf-8", "replace") for text in texts]
    except AttributeError:
        wrong = next(text for text in texts if not isinstance(text, str))
        raise InvalidInput(f"{wrong!r} is no text; give a list of strings") from None


def packed(texts: Sequence[bytes]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Where each of n texts lies, (n + 1,), and all of them end to end; both read-only."""
    offsets = np.fromiter(accumulate(map(len, texts), initial=0), np.int64, len(texts) + 1)
    return frozen(offsets), np.frombuffer(b"".join(texts), np.uint8)


def _buffers(texts: pa.LargeStringArray) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """The offsets (n + 1,) and UTF-8 bytes of a column, without copying, read-only."""
    if texts.null_count:
        texts = texts.fill_null("")
    _, offsets, data = texts.buffers()
    if not len(texts):
        return frozen(np.zeros(1, np.int64)), frozen(np.zeros(0, np.uint8))
    marks = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    chars = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return frozen(marks), frozen(chars)


def frozen(array: NDArray[T]) -> NDArray[T]:
    """The ``array``, read-only: kernels are compiled for that alone."""
    if array.flags.writeable:
        array.flags.writeable = False
    return array
