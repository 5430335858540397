"""The files of a sparse index: vectors over a vocabulary, row by row and term by term.

With n rows, p entries that are not zero, v columns (terms of the vocabulary) and w windows of
65,536 rows, a folder of vectors holds

    offsets   (n + 1,) int64 where each row's entries lie
    columns   (p,) uint16, or uint32 beyond 65,536 columns; ascending within a row
    values    (p,) float32 above 0, at most 1e15

as ``.npy`` files, mapped at open, and that of an index the same entries by term:

    rows      (p,) uint16 row - 65,536 * window; by window, then by column, then by row
    codes     (p,) uint8 the least c with c * scale >= value
    starts    (w, v + 1) uint32 where each column's postings lie in its window
    scales    (w, v) float32 what a unit of a code is worth

An entry so takes 9 bytes. Codes only bound scores from above: what they cannot exclude is scored
with ``values``, so that quantising loses nothing, and no score depends on how rows are cut.

This is not the container of ``rag.indexers.postings``, which has runs of terms that are spelled
out, counts with an escape and lengths: a vocabulary is fixed, and its columns are looked up by
number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.errors import REFUSED, Damaged, InvalidInput, NotFound
from rag.indexers.head import AGAIN

WINDOW = 65_536
MOST = 1e15
"""The largest value of an entry, so that no sum of products overflows a float32."""
Arrays: TypeAlias = NDArray[Any]


class Segment(NamedTuple):
    """The arrays of an index of one segment; see the module's docstring."""

    offsets: NDArray[np.int64]
    columns: Arrays
    values: NDArray[np.float32]
    rows: NDArray[np.uint16]
    codes: NDArray[np.uint8]
    starts: NDArray[np.uint32]
    scales: NDArray[np.float32]


VECTORS = ("offsets", "columns", "values")


def column_type(dimensions: int) -> type[np.unsignedinteger[Any]]:
    """The type of a column's number."""
    return np.uint16 if dimensions <= 1 << 16 else np.uint32


def checked(found: Any, rows: int, dimensions: int, whose: str) -> tuple[Arrays, Arrays, Arrays]:
    """The entries of a scipy CSR matrix as ``offsets``, ``columns`` and ``values``, without zeros.

    Columns of a row come out ascending; equal ones are added.

    Args:
        found: what has ``shape``, ``indptr``, ``indices`` and ``data``, (rows, dimensions) float.
        rows: how many are expected.
        dimensions: how many columns are expected.
        whose: for errors.

    Raises:
        InvalidInput: another shape, or a value that is below 0, above 1e15 or no number.
    """
    if tuple(found.shape) != (rows, dimensions):
        raise InvalidInput(
            f"{whose} gave vectors of shape {tuple(found.shape)}, expected {(rows, dimensions)}: "
            "one row a text, one column a term of its vocabulary"
        )
    found = found.copy()
    found.sum_duplicates()  # sorts columns, too
    values = np.asarray(found.data, np.float32)
    wrong = np.flatnonzero(~((values >= 0) & (values <= MOST)))
    if len(wrong):
        row = int(np.searchsorted(found.indptr, wrong[0], "right")) - 1
        raise InvalidInput(
            f"{whose} gave the value {values[wrong[0]]} for column {found.indices[wrong[0]]} of "
            f"text {row + 1} of {rows}; a sparse index takes values from 0 to {MOST:g}"
        )
    stays = values > 0
    offsets = np.concatenate(([0], np.cumsum(stays)))[found.indptr].astype(np.int64)
    return offsets, found.indices[stays].astype(column_type(dimensions)), values[stays]


def write(
    out: Path,
    dimensions: int,
    parts: Sequence[tuple[Arrays, Arrays, Arrays]],
    keep: Sequence[NDArray[np.bool_] | None] | None = None,
) -> tuple[int, int]:
    """Write the vectors of the kept rows of ``parts``, in order, into ``out``.

    Args:
        out: a folder.
        dimensions: how many columns there are.
        parts: ``offsets``, ``columns`` and ``values`` of each.
        keep: for each part which rows, (rows,) bool; None for all.

    Returns:
        How many rows and entries they have.
    """
    masks = [None] * len(parts) if keep is None else keep
    counts = [np.zeros(1, np.int64)]
    for (offsets, _, _), mask in zip(parts, masks, strict=True):
        sizes = np.diff(offsets)
        if mask is not None and (mask.shape != sizes.shape or mask.dtype != np.bool_):
            raise InvalidInput(
                f"keep has shape {mask.shape} and type {mask.dtype}; the part has {len(sizes):,} "
                "rows, each kept or not (bool)"
            )
        counts.append(sizes if mask is None else sizes[mask])
    ends = np.cumsum(np.concatenate(counts), dtype=np.int64)
    np.save(out / "offsets.npy", ends, allow_pickle=False)
    total = int(ends[-1])
    for number, (name, dtype) in enumerate(
        (("columns", column_type(dimensions)), ("values", np.float32)), 1
    ):
        room = _room(out / f"{name}.npy", (total,), dtype)
        at = 0
        for part, mask in zip(parts, masks, strict=True):
            for entries in _blocks(part[0], part[number], mask):
                room[at : at + len(entries)] = entries
                at += len(entries)
    return len(ends) - 1, total


def _blocks(offsets: Arrays, entries: Arrays, mask: NDArray[np.bool_] | None) -> Iterator[Arrays]:
    """The entries of the kept rows, of a window of rows at a time."""
    for start in range(0, len(offsets) - 1, WINDOW):
        own = offsets[start : start + WINDOW + 1]
        block = entries[own[0] : own[-1]]
        if mask is None:
            yield block
        elif (kept := mask[start : start + WINDOW]).any():
            yield block if kept.all() else block[np.repeat(kept, np.diff(own))]


def invert(vectors: tuple[Arrays, Arrays, Arrays], dimensions: int, out: Path) -> None:
    """Write the postings of ``offsets``, ``columns`` and ``values``, window by window."""
    from rag.indexers import _kernels_sparse

    offsets, columns, values = vectors
    windows = -(-(len(offsets) - 1) // WINDOW)
    rows = _room(out / "rows.npy", columns.shape, np.uint16)
    codes = _room(out / "codes.npy", columns.shape, np.uint8)
    starts = np.zeros((windows, dimensions + 1), np.uint32)
    scales = np.zeros((windows, dimensions), np.float32)
    for window in range(windows):
        own = offsets[window * WINDOW : (window + 1) * WINDOW + 1]
        place = slice(own[0], own[-1])
        _kernels_sparse.invert(
            np.ascontiguousarray(own - own[0]),
            columns[place],
            values[place],
            starts[window],
            scales[window],
            rows[place],
            codes[place],
        )
    np.save(out / "starts.npy", starts, allow_pickle=False)
    np.save(out / "scales.npy", scales, allow_pickle=False)


def vectors(folder: Path, dimensions: int) -> tuple[Arrays, Arrays, Arrays]:
    """``offsets``, ``columns`` and ``values`` of a folder, mapped and read-only, each checked.

    Raises:
        NotFound: a file is absent.
        Damaged: a file is cut short, or what it says lies outside the others.
    """
    found = _vectors(folder, dimensions)
    offsets, columns, _ = found
    if offsets[0] != 0 or (np.diff(offsets) < 0).any():
        raise damaged(folder / "offsets.npy", "it does not ascend from 0")
    if len(columns) and columns.max() >= dimensions:
        raise damaged(folder / "columns.npy", f"it has more than {dimensions} columns")
    return found


def segment(folder: Path, place: Path, dimensions: int) -> Segment:
    """All arrays of the index in ``folder`` and its vectors in ``place``, mapped and read-only.

    What they hold is not read here; a search checks where it reads (``_kernels_sparse``).

    Raises:
        NotFound: a file is absent.
        Damaged: a file is cut short, or the files do not fit together.
    """
    offsets, columns, values = _vectors(place, dimensions)
    windows = -(-(len(offsets) - 1) // WINDOW)
    rows = _mapped(folder, "rows", np.uint16)
    codes = _mapped(folder, "codes", np.uint8)
    starts = _mapped(folder, "starts", np.uint32)
    scales = _mapped(folder, "scales", np.float32)
    if not len(rows) == len(codes) == len(values):
        raise damaged(folder, f"rows.npy, codes.npy and {place / 'values.npy'} do not fit together")
    if starts.shape != (windows, dimensions + 1) or scales.shape != (windows, dimensions):
        what = f"starts.npy, scales.npy and {place / 'offsets.npy'} do not fit together"
        raise damaged(folder, what)
    return Segment(offsets, columns, values, rows, codes, starts, scales)


def _vectors(folder: Path, dimensions: int) -> tuple[Arrays, Arrays, Arrays]:
    offsets = _mapped(folder, "offsets", np.int64)
    columns = _mapped(folder, "columns", column_type(dimensions))
    values = _mapped(folder, "values", np.float32)
    if not (len(offsets) > 0 and offsets[-1] == len(columns) == len(values)):
        raise damaged(folder, "offsets.npy, columns.npy, values.npy do not fit together")
    return offsets, columns, values


def _room(file: Path, shape: tuple[int, ...], dtype: Any) -> Arrays:
    """A new ``.npy`` file to write into, as an array; one without values cannot be mapped."""
    if 0 in shape:
        np.save(file, empty := np.zeros(shape, dtype), allow_pickle=False)
        return empty
    made: Arrays = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
    return made.view(np.ndarray)


_UNREADABLE = (ValueError, EOFError, OSError, SyntaxError, TokenError)
"""What numpy raises for a file that is no ``.npy`` file, or whose header is damaged."""


def _mapped(folder: Path, name: str, dtype: Any) -> Any:
    file = folder / f"{name}.npy"
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise NotFound(f"{file} is missing: {AGAIN}") from None
    except _UNREADABLE as error:
        if isinstance(error, OSError) and error.errno in REFUSED:
            raise
        try:
            array = np.load(file, allow_pickle=False)  # one without values cannot be mapped
        except _UNREADABLE:
            raise damaged(file, str(error)) from error
        if array.size:
            raise damaged(file, str(error)) from error
        array.flags.writeable = False
    wanted = 2 if name in ("starts", "scales") else 1
    if array.dtype != np.dtype(dtype) or array.ndim != wanted:
        raise damaged(file, f"it holds {array.ndim}-d {array.dtype}")
    return array.view(np.ndarray)


def damaged(path: Path, what: str) -> Damaged:
    """The error for a file, or several of a folder, that do not say what they must."""
    return Damaged(f"{path} is damaged: {what}; {AGAIN}")
