"""The container of an inverted index: what the files of one segment hold.

A segment's rows are cut into windows of 65,536. Postings are sorted by term, then by row; a *run*
is the postings of one term in one window, so that a row number takes two bytes at most. With r
runs, p postings and n rows, the folder holds these arrays as ``.npy`` files, mapped at open:

    terms            uint8 the dictionary, sorted by bytes, in g groups of 16 terms: see below
    group_texts      (g + 1,) uint32 where each group's terms lie
    group_runs       (g + 1,) uint32 where each group's runs lie
    run_windows      (r,)     uint16 the window of each run
    run_starts       (r + 1,) uint32 where each run's postings lie, of all p
    rows             uint16 row - 65,536 * window of the postings of runs of at most 1,024, in order
    long_runs        (l,)     uint32 the other runs, ascending
    long_starts      (l + 1,) uint32 where the low bytes of each lie
    long_highs       (256 l,) uint16 how many postings of the run have a lower high byte than each
    long_lows        uint8 the low bytes of the rows of these runs' postings, in order
    counts           (p/2,)   uint8  how often the term stands in the row, 4 bits each, low ones
                              first; 15: see below
    large_positions  (e,)     uint32 which postings have a count beyond 14, ascending
    large_counts     (e,)     uint32 their counts
    block_counts     (p/128,) uint8  largest count in 128 postings, 15 at most; bounds their scores
    block_lengths    (p/128,) uint16 smallest length of their rows, at most 65,535
    lengths          (n,)     uint32 the tokens of each row

A term is a byte 16 s + m, where it has its first s bytes, 15 at most, from the term before it in
the group; where m is 15, the rest's length less 15, else m is that length; the number of its runs;
and the rest of its UTF-8. Both numbers are in groups of seven bits, low ones first, all but the
last with 128 added.

A posting so takes 1.0 to 2.5 bytes and its share of the dictionary, 2.7 bytes in all for 200,000
passages. Statistics are not folded into scores: they are summed over segments at query time, and k1
and b stay free.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rag.errors import REFUSED, Damaged, InvalidInput, NotFound
from rag.indexers.tokenizer import Terms, frozen

WINDOW = 65_536
ESCAPE = 15
"""The count that stands for one beyond 14."""
LONG = 1024
"""A run of more postings has its rows in ``long_highs`` and ``long_lows``."""
U8: TypeAlias = NDArray[np.uint8]
U16: TypeAlias = NDArray[np.uint16]
U32: TypeAlias = NDArray[np.uint32]
I64: TypeAlias = NDArray[np.int64]


class Postings(NamedTuple):
    """The arrays of one segment; see the module's docstring."""

    terms: U8
    group_texts: U32
    group_runs: U32
    run_windows: U16
    run_starts: U32
    rows: U16
    long_runs: U32
    long_starts: U32
    long_highs: U16
    long_lows: U8
    counts: U8
    large_positions: U32
    large_counts: U32
    block_counts: U8
    block_lengths: U16
    lengths: U32

    @property
    def size(self) -> int:
        """p, the postings."""
        return len(self.rows) + len(self.long_lows)

    def save(self, folder: Path) -> None:
        """Write every array as a ``.npy`` file into ``folder``."""
        for name, array in self._asdict().items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)


_BYTES = (1, 4, 4, 2, 4, 2, 4, 4, 2, 1, 1, 4, 4, 1, 2, 4)
"""How wide the unsigned integers of each array are, in the order of ``Postings``."""


class _Plain(NamedTuple):
    """The arrays of a segment as its postings are made: not packed."""

    term_runs: I64
    run_windows: U16
    run_starts: U32
    rows: U16
    counts: U8


class _Layout(NamedTuple):
    """Room for the postings of t terms, and where those of each term go."""

    term_runs: U32
    next_posting: I64
    next_run: I64
    rows: U16
    counts: U8
    run_windows: U16
    run_starts: U32


def of_terms(terms: Terms) -> Postings:
    """The postings of tokenized rows; numbers in ``terms`` are those of the sorted names."""
    from rag.indexers import _kernels

    postings, runs = np.zeros((2, len(terms.names)), np.int64)
    _kernels.count_tokens(terms.ends, terms.ids, postings, runs)
    room = _room(postings, runs)
    at, large = _kernels.fill_tokens(
        terms.ends,
        terms.ids,
        room.next_posting,
        room.next_run,
        room.rows,
        room.counts,
        room.run_windows,
        room.run_starts,
    )
    names = pa.array(terms.names, pa.large_binary())
    return _finished(room, names, at, large, np.diff(terms.ends).astype(np.uint32))


def merged(parts: Sequence[Postings], keep: Sequence[NDArray[np.bool_] | None]) -> Postings:
    """The postings of the kept rows of the ``parts`` in order; terms without a row go."""
    from rag.indexers import _kernels

    names, numbers = _union([_names(part) for part in parts])
    moved, lengths = _moved(parts, keep)
    postings, runs = np.zeros((2, len(names)), np.int64)
    last = np.full(len(names), -1, np.int64)
    for part, terms, rows in zip(parts, numbers, moved, strict=True):
        source = _plain(part)  # twice, so that no more than one part is in memory
        _kernels.count_part(*source[:4], terms, rows, postings, runs, last)

    stay = postings > 0
    renumber = np.cumsum(stay) - 1
    names = names.filter(pa.array(stay))
    room = _room(postings[stay], runs[stay])
    last = np.full(len(names), -1, np.int64)
    positions: list[I64] = [np.zeros(0, np.int64)]
    larges: list[U32] = [np.zeros(0, np.uint32)]
    for part, terms, rows in zip(parts, numbers, moved, strict=True):
        old, new = _kernels.fill_part(
            *_plain(part),
            renumber[terms],
            rows,
            room.next_posting,
            room.next_run,
            last,
            room.rows,
            room.counts,
            room.run_windows,
            room.run_starts,
        )
        positions.append(new)
        larges.append(part.large_counts[np.searchsorted(part.large_positions, old)])
    return _finished(room, names, np.concatenate(positions), np.concatenate(larges), lengths)


def _room(postings: I64, runs: I64) -> _Layout:
    total, windows = int(postings.sum()), int(runs.sum())
    if total >= 2**32:
        raise InvalidInput(
            f"a segment of {total:,} postings is too large, at most {2**32 - 1:,} fit: "
            "build smaller segments"
        )
    starts = np.zeros(windows + 1, np.uint32)
    starts[-1] = total
    term_runs = np.concatenate(([0], np.cumsum(runs)))
    return _Layout(
        term_runs=term_runs.astype(np.uint32),
        next_posting=np.cumsum(postings) - postings,
        next_run=term_runs[:-1].copy(),
        rows=np.empty(total, np.uint16),
        counts=np.empty(total, np.uint8),
        run_windows=np.empty(windows, np.uint16),
        run_starts=starts,
    )


def _finished(
    room: _Layout, names: pa.LargeBinaryArray, positions: I64, larges: I64 | U32, lengths: U32
) -> Postings:
    """The postings, once ``room`` is filled: counts beyond 254 in order, and block bounds."""
    from rag.indexers import _kernels, _kernels_pack

    order = np.argsort(positions)
    bounds = _kernels.bound_blocks(
        room.run_windows, room.run_starts, room.rows, room.counts, lengths
    )
    _, offsets, data = names.buffers()
    marks = np.frombuffer(offsets, np.int64)[names.offset :][: len(names) + 1]
    text = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    terms, texts, runs = _kernels_pack.pack_terms(text, marks, room.term_runs)
    short, *long = _kernels_pack.pack_rows(room.run_starts, room.rows)
    return Postings(
        terms=terms,
        group_texts=texts,
        group_runs=runs,
        run_windows=room.run_windows,
        run_starts=room.run_starts,
        rows=short,
        long_runs=long[0],
        long_starts=long[1],
        long_highs=long[2],
        long_lows=long[3],
        counts=_kernels_pack.pack_counts(room.counts),
        large_positions=positions[order].astype(np.uint32),
        large_counts=larges[order].astype(np.uint32),
        block_counts=bounds[0],
        block_lengths=bounds[1],
        lengths=lengths,
    )


def _names(part: Postings) -> pa.LargeBinaryArray:
    text, offsets, _ = _dictionary(part)
    return pa.Array.from_buffers(
        pa.large_binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(text)]
    )


def _dictionary(part: Postings) -> tuple[U8, I64, I64]:
    """The text of the terms end to end, where each lies, and where the runs of each lie."""
    from rag.indexers import _kernels_pack

    text, offsets, runs, good = _kernels_pack.unpack_terms(
        part.terms, part.group_texts, part.group_runs
    )
    if not good:
        raise _damaged(folder_of(part), "terms.npy, group_texts.npy, group_runs.npy do not agree")
    return text, offsets, runs


def _plain(part: Postings) -> _Plain:
    from rag.indexers import _kernels_pack

    rows, good = _kernels_pack.unpack_rows(
        part.run_starts,
        part.rows,
        part.long_runs,
        part.long_starts,
        part.long_highs,
        part.long_lows,
    )
    if not good:
        raise _damaged(folder_of(part), "run_starts.npy and the files of rows do not agree")
    counts = _kernels_pack.unpack_counts(part.counts, part.size)
    return _Plain(_dictionary(part)[2], part.run_windows, part.run_starts, rows, counts)


def folder_of(part: Postings) -> Path:
    """The folder whose files ``part`` maps; "." for one that was just made."""
    return Path(getattr(part.lengths.base, "filename", None) or "./lengths.npy").parent


def _union(names: Sequence[pa.LargeBinaryArray]) -> tuple[pa.LargeBinaryArray, list[I64]]:
    """All terms sorted by bytes, and for each part the numbers of its terms among them."""
    if not names:
        return pa.array([], pa.large_binary()), []
    every = pa.concat_arrays(names).dictionary_encode()
    order = pc.array_sort_indices(every.dictionary)
    rank = np.empty(len(order), np.int64)
    rank[order.to_numpy()] = np.arange(len(order))
    ends = np.cumsum([len(part) for part in names])
    return every.dictionary.take(order), np.split(rank[every.indices.to_numpy()], ends[:-1])


def _moved(
    parts: Sequence[Postings], keep: Sequence[NDArray[np.bool_] | None]
) -> tuple[list[I64], U32]:
    """For each part the merged row of each row (-1: dropped), and the kept rows' lengths."""
    moved: list[I64] = []
    lengths: list[U32] = [np.zeros(0, np.uint32)]
    first = 0
    for part, mask in zip(parts, keep, strict=True):
        kept = np.ones(len(part.lengths), np.bool_) if mask is None else mask
        if kept.shape != part.lengths.shape or kept.dtype != np.bool_:
            raise InvalidInput(
                f"keep has shape {kept.shape} and type {kept.dtype}; the part has "
                f"{len(part.lengths):,} rows, each kept or not (bool)"
            )
        moved.append(np.where(kept, first + np.cumsum(kept) - 1, -1))
        lengths.append(part.lengths[kept])
        first += int(kept.sum())
    return moved, np.concatenate(lengths)


def mapped(folder: Path) -> Postings:
    """The arrays of ``folder``, memory-mapped and read-only.

    Raises:
        NotFound: a file is absent.
        Damaged: a file is cut short, or the files do not fit together.
    """
    found: list[Any] = []
    for name, size in zip(Postings._fields, _BYTES, strict=True):
        array = _load(folder / f"{name}.npy")
        if array.dtype != np.dtype(f"u{size}") or array.ndim != 1:
            raise _damaged(folder / f"{name}.npy", f"it holds {array.ndim}-d {array.dtype}")
        found.append(array)
    arrays = Postings(*found)
    size, longs = arrays.size, len(arrays.long_runs)
    blocks = -(-size // 128)
    ends = {  # where the last of each must lie
        ("group_texts", "terms"): (arrays.group_texts, len(arrays.terms)),
        ("group_runs", "run_windows"): (arrays.group_runs, len(arrays.run_windows)),
        ("run_starts", "rows", "long_lows"): (arrays.run_starts, size),
        ("long_starts", "long_lows"): (arrays.long_starts, len(arrays.long_lows)),
    }
    fits: dict[tuple[str, ...], bool] = {
        names: len(of) > 0 and of[-1] == end for names, (of, end) in ends.items()
    }
    fits |= {
        ("group_texts", "group_runs"): len(arrays.group_texts) == len(arrays.group_runs),
        ("run_windows", "run_starts"): len(arrays.run_starts) == len(arrays.run_windows) + 1,
        ("long_runs", "long_starts"): len(arrays.long_starts) == longs + 1,
        ("long_runs", "long_highs"): len(arrays.long_highs) == 256 * longs,
        ("rows", "long_lows", "counts"): len(arrays.counts) == (size + 1) // 2,
        ("large_positions", "large_counts"): len(arrays.large_positions)
        == len(arrays.large_counts),
        ("rows", "long_lows", "block_counts"): len(arrays.block_counts) == blocks,
        ("rows", "long_lows", "block_lengths"): len(arrays.block_lengths) == blocks,
    }
    if wrong := sorted({f"{name}.npy" for names, fit in fits.items() if not fit for name in names}):
        raise _damaged(folder, f"{', '.join(wrong)} do not fit together")
    return arrays


_UNREADABLE = (ValueError, EOFError, OSError, SyntaxError, TokenError)
"""What numpy raises for a file that is no ``.npy`` file, or whose header is damaged."""


def _load(file: Path) -> NDArray[np.generic]:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise NotFound(f"{file} is missing: run `rag verify`, then `rag index` again") from None
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.errno in REFUSED:
            raise
        if file.is_file() and (empty := _empty(file)) is not None:
            return empty
        raise _damaged(file, str(error)) from error
    return frozen(array.view(np.ndarray))


def _empty(file: Path) -> NDArray[np.generic] | None:
    """The array of a file that holds no values, which cannot be mapped; else None."""
    try:
        array = np.load(file, allow_pickle=False)
    except _UNREADABLE:
        return None
    return frozen(array) if array.size == 0 else None


def _damaged(path: Path, what: str) -> Damaged:
    return Damaged(f"{path} is damaged: {what}; run `rag verify`, then `rag index` again")
