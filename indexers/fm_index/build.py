"""Building an FM-index: text, suffix array, next symbols, wavelet matrix, table of successors.

Tokens are appended to a temporary file as they come, so that a generator is never held whole.
After that, memory is about 14 bytes a token up to 65,535 different ids and 24 above.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rag.errors import InvalidInput
from rag.indexers.fm_index import files

MOST_TOKENS = 500_000_000
"""What one index holds; the suffix array of four-byte symbols then has less than 2^31 entries."""
MOST_ROWS = 2**29 - 1
CHUNK = 1 << 20
SAMPLING = 32
IDS = 2**31


def build(
    sequences: Iterable[ArrayLike], folder: Path, locate: Literal["full", "sampled"] = "full"
) -> None:
    """Write the index of the ``sequences`` to ``folder``; see ``FMIndex.build``."""
    from rag.indexers.fm_index import _kernels_build

    if locate not in ("full", "sampled"):
        raise InvalidInput(f"locate is {locate!r}; it is 'full' or 'sampled'")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / files.NAME).unlink(missing_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        lengths, seen = _append(sequences, file)
        alphabet, text, counts = _text(file, lengths, seen)
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths + 1, out=starts[1:])
    files.write(folder, "alphabet", alphabet)
    files.write(folder, "text", text)
    files.write(folder, "starts", starts.astype(np.uint32))
    at = np.arange(len(text) // files.DIRECTORY + 2) * files.DIRECTORY
    document = np.clip(np.searchsorted(starts, at, "right") - 1, 0, max(len(lengths) - 1, 0))
    files.write(folder, "directory", document.astype(np.uint32))

    order = np.zeros(len(alphabet), np.int32)  # 0 first, then by falling count
    order[1:] = np.argsort(-counts[1:], kind="stable") + 1
    spans = np.zeros((len(alphabet), 4), np.int64)
    spans[order, 1] = np.cumsum(counts[order])
    spans[:, 0] = spans[:, 1] - counts
    files.write(folder, "order", order)
    positions = _suffixes(text, order, counts)
    bwt = np.empty_like(text)
    _kernels_build.next_symbols(text, positions, bwt)
    with ThreadPoolExecutor(1) as other:  # the largest file is written while loops run
        writing = other.submit(_write_positions, folder, positions, text, locate)
        successors = _write_successors(folder, bwt, order, spans)
        files.write(folder, "spans", spans)
        _write_matrix(folder, bwt, counts, spans)
        samples = writing.result()
    tokens = int(lengths.sum())
    files.finish(folder, files.Shape(tokens, len(lengths), len(alphabet), successors, samples))


def _append(
    sequences: Iterable[ArrayLike], file: IO[bytes]
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Write all tokens to ``file`` as int32; the lengths of the documents, and the ids seen."""
    from rag.indexers.fm_index import _kernels_build

    lengths = array("q")
    seen = np.zeros(1, np.uint64)
    total = 0
    for chunk in _chunks(sequences):
        total += sum(map(len, chunk))
        if total > MOST_TOKENS or total + len(lengths) + len(chunk) > MOST_ROWS:
            raise InvalidInput(
                f"after {len(lengths) + len(chunk):,} documents there are {total:,} tokens; an "
                f"index holds at most {MOST_TOKENS:,} ({MOST_ROWS:,} with the documents' ends): "
                "build several, and open them with FMIndexes"
            )
        tokens = np.concatenate(chunk, dtype=np.int64, casting="unsafe")
        if len(tokens):
            low, high = int(tokens.min()), int(tokens.max())
            if low < 0 or high >= IDS:
                raise _bad_id(chunk, len(lengths))
            if high >> 6 >= len(seen):
                grown = np.zeros(1 << (high >> 6).bit_length(), np.uint64)
                grown[: len(seen)] = seen
                seen = grown
            small = tokens.astype(np.int32)
            _kernels_build.mark_ids(small, seen)
            small.tofile(file)
        lengths.extend(map(len, chunk))
    file.flush()
    return np.array(lengths, np.int64), seen


def _chunks(sequences: Iterable[ArrayLike]) -> Iterator[list[NDArray[Any]]]:
    """The sequences as arrays, in lists of about ``CHUNK`` tokens."""
    chunk: list[NDArray[Any]] = []
    size = 0
    for number, sequence in enumerate(sequences):
        tokens = np.asarray(sequence)
        if tokens.ndim != 1 or (tokens.dtype.kind not in "iu" and len(tokens)):
            raise InvalidInput(
                f"document {number:,} is an array of shape {tokens.shape} and type "
                f"{tokens.dtype}; a document is a one-dimensional array of integers"
            )
        chunk.append(tokens)
        size += len(tokens) + 16  # so that many empty documents end a list too
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _bad_id(chunk: list[NDArray[Any]], first: int) -> InvalidInput:
    for number, tokens in enumerate(chunk, first):
        for token in tokens.tolist():
            if not 0 <= token < IDS:
                return InvalidInput(
                    f"document {number:,} holds the token id {token}; ids are from 0 to {IDS - 1:,}"
                )
    raise AssertionError("a bad id was seen")


def _text(
    file: IO[bytes], lengths: NDArray[np.int64], seen: NDArray[np.uint64]
) -> tuple[NDArray[np.int32], NDArray[Any], NDArray[np.int64]]:
    """The alphabet, the text as symbols, and how often each symbol occurs."""
    from rag.indexers.fm_index import _kernels_build

    before = np.empty(len(seen), np.uint32)
    ids = _kernels_build.list_ids(seen, before, np.empty(0, np.int32))
    alphabet = np.full(ids + 1, -1, np.int32)
    _kernels_build.list_ids(seen, before, alphabet[1:])
    total = int(lengths.sum())
    tokens = np.memmap(file, np.int32, "r", shape=(total,)) if total else np.empty(0, np.int32)
    text = np.empty(total + len(lengths), np.uint16 if ids < 65_536 else np.uint32)
    counts = np.zeros(ids + 1, np.int64)
    _kernels_build.fill_text(tokens.view(np.ndarray), lengths, seen, before, text, counts)
    return alphabet, text, counts


def _suffixes(
    text: NDArray[Any], order: NDArray[np.int32], counts: NDArray[np.int64]
) -> NDArray[np.int32]:
    """The positions of the ``text`` sorted by what is read from them to the left.

    divsufsort sorts bytes. No code begins another, so its order at the first bytes of codes is an
    order of symbols, frequent ones first.
    """
    import pydivsufsort

    from rag.indexers.fm_index import _kernels_build

    if not len(text):
        return np.empty(0, np.int32)
    codes, widths = code(order, counts)
    size = int((counts * widths).sum())
    data = np.empty(size, np.uint8)
    starts = np.zeros((size // 32 + 1, 2), np.uint32)
    _kernels_build.write_codes(text, codes, widths, data, starts)
    found = pydivsufsort.divsufsort(data)
    del data
    kept = _kernels_build.keep_symbols(found, starts, len(text))
    return found[:kept]  # type: ignore[no-any-return]


def code(
    order: NDArray[np.int32], counts: NDArray[np.int64]
) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """A code of one to four bytes for each symbol: the code, and how many bytes it has.

    Of the 256 first bytes, 0 is the code of symbol 0, a are codes of one byte, b, c and d begin
    codes of two, three and four. The split makes the text shortest; symbols take codes in
    ``order``, so that ascending codes are symbols of falling count.
    """
    tokens = len(order) - 1
    after = np.zeros(tokens + 2, np.int64)  # after[i]: occurrences of those from the i-th on
    after[:tokens] = np.cumsum(counts[order[:0:-1]])[::-1]
    b, c = (grid.ravel() for grid in np.mgrid[:256, : 256 if tokens > 65_536 else 2])
    short = tokens - (255 - b - c) - 256 * b - 65_536 * c
    d = np.maximum(0, -(-short // (2**24 - 1)))
    a = 255 - b - c - d
    ends = np.minimum(np.cumsum(np.stack((a, 256 * b, 65_536 * c)), axis=0), tokens + 1)
    size = np.where(a >= 0, after[np.maximum(ends, 0)].sum(axis=0), np.iinfo(np.int64).max)
    best = int(np.argmin(size))
    one, two, three = (int(end) for end in ends[:, best])

    index = np.arange(tokens, dtype=np.int64)
    first_two = 1 + int(a[best])
    first_three = first_two + int(b[best])
    first_four = first_three + int(c[best])
    rank_codes = np.select(
        [index < one, index < two, index < three],
        [
            1 + index,
            (first_two << 8) + index - one,
            (first_three << 16) + index - two,
        ],
        (first_four << 24) + index - three,
    )
    codes, widths = np.zeros(len(order), np.uint32), np.ones(len(order), np.uint8)
    codes[order[1:]] = rank_codes
    widths[order[1:]] = 1 + (index >= one) + (index >= two) + (index >= three)
    return codes, widths


def _write_positions(
    folder: Path, positions: NDArray[np.int32], text: NDArray[Any], locate: str
) -> int:
    """Write all positions, or samples of them; how many samples."""
    from rag.indexers.fm_index import _kernels_build

    if locate == "full" or not len(text):
        files.write(folder, "positions", positions.view(np.uint32))
        return 0
    marks = np.zeros(8 * (len(text) // files.BLOCK + 2), np.uint64)
    none = np.empty(0, np.uint32)
    samples = np.empty(
        _kernels_build.fill_samples(positions, text, SAMPLING, marks, none), np.uint32
    )
    _kernels_build.fill_samples(positions, text, SAMPLING, marks, samples)
    files.write(folder, "marks", marks)
    files.write(folder, "samples", samples)
    return len(samples)


def _write_successors(
    folder: Path, bwt: NDArray[Any], order: NDArray[np.int32], spans: NDArray[np.int64]
) -> int:
    """Write the table of what follows one symbol, and note in ``spans`` where; its length."""
    from rag.indexers.fm_index import _kernels_build

    # Room for the worst case; what is not written takes no memory.
    symbols, rows = np.empty(len(bwt), np.uint32), np.empty((len(bwt), 2), np.uint32)
    size = _kernels_build.fill_successors(bwt, order, spans, symbols, rows)
    files.write(folder, "successors", symbols[:size])
    files.write(folder, "successor_rows", rows[:size])
    return int(size)


def _write_matrix(
    folder: Path, bwt: NDArray[Any], counts: NDArray[np.int64], spans: NDArray[np.int64]
) -> None:
    """Write the wavelet matrix of ``bwt``, which is used up."""
    from rag.indexers.fm_index import _kernels_build

    symbols = np.arange(len(counts))
    levels = (len(counts) - 1).bit_length()
    zeros = np.zeros(levels, np.int64)
    turned = np.zeros(len(counts), np.int64)  # the last level is in the order of turned bits
    for level in range(levels):
        bit = (symbols >> (levels - 1 - level)) & 1
        zeros[level] = counts[bit == 0].sum()
        turned |= bit << level
    order = np.argsort(turned)
    leaves = np.empty(len(counts), np.int64)
    leaves[order] = np.cumsum(counts[order]) - counts[order]
    matrix = np.zeros(8 * (levels * (len(bwt) // files.BLOCK + 1) + 1), np.uint64)
    _kernels_build.fill_matrix(bwt, np.empty_like(bwt), levels, zeros, matrix)
    files.write(folder, "zeros", zeros)
    files.write(folder, "leaves", spans[:, 0] - leaves)
    files.write(folder, "matrix", matrix)
