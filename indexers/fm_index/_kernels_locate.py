"""Compiled loops that say where rows of an FM-index are, and read documents (``_kernels_rank``)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.compiled import kernel
from rag.indexers.fm_index._kernels_rank import BAD_RANGE, DAMAGED, U0, U1, rank

Arrays: TypeAlias = NDArray[Any]
Number: TypeAlias = Any
"""A scalar; numba gives it its machine type."""


@kernel
def _document(starts: Arrays, directory: Arrays, at: Number) -> Number:
    """The document at a position of the text."""
    last = np.int64(len(starts) - 2)
    low = min(np.int64(directory[at >> 7]), last)
    high = min(np.int64(directory[(at >> 7) + 1]), last)
    while low < high:
        middle = (low + high + 1) >> 1
        if starts[middle] <= at:
            low = middle
        else:
            high = middle - 1
    return low


@kernel
def _position(
    words: Arrays,
    zeros: Arrays,
    leaves: Arrays,
    size: Number,
    stride: Number,
    marks: Arrays,
    samples: Arrays,
    row: Number,
) -> Number:
    """The position of a row where samples are stored: token by token to the right until a mark."""
    at = np.uint64(row)
    most = np.uint64(size - 1)
    levels = len(zeros)
    for steps in range(1 << 8):
        at = min(at, most)
        before = rank(marks, U0, at)
        if rank(marks, U0, at + U1) > before:
            return np.int64(samples[np.int64(before)]) - steps if before < len(samples) else -1
        symbol = 0
        for level in range(levels):
            base = np.uint64(level * stride)
            at = min(at, most)
            ones = rank(words, base, at)
            if rank(words, base, at + U1) > ones:
                at = np.uint64(zeros[level]) + ones
                symbol = 2 * symbol + 1
            else:
                at -= ones
                symbol *= 2
        if symbol >= len(leaves):
            return -1
        at += np.uint64(leaves[symbol])
    return -1


@kernel
def locate(
    words: Arrays,
    zeros: Arrays,
    leaves: Arrays,
    size: Number,
    stride: Number,
    positions: Arrays,
    marks: Arrays,
    samples: Arrays,
    starts: Arrays,
    directory: Arrays,
    ranges: Arrays,
    targets: Arrays,
    first_document: Number,
    ordered: Number,
    documents: Arrays,
    offsets: Arrays,
) -> Number:
    """Where the rows of ``ranges[i]`` are, from ``documents[targets[i]]`` and ``offsets`` on.

    ``ordered``: by position; else in the order of the rows.
    """
    for i in range(len(ranges)):
        low, high = ranges[i, 0], ranges[i, 1]
        if low < 0 or high > size or low > high:
            return BAD_RANGE
        target = targets[i]
        width = high - low
        for j in range(width):
            if len(positions):
                at = np.int64(positions[low + j])
            else:
                at = _position(words, zeros, leaves, size, stride, marks, samples, low + j)
            if at < 0 or at >= size:
                return DAMAGED
            offsets[target + j] = at
        if ordered and width > 1:
            offsets[target : target + width].sort()
        for j in range(target, target + width):
            at = offsets[j]
            document = _document(starts, directory, at)
            documents[j] = first_document + document
            offsets[j] = at - np.int64(starts[document]) - 1
    return 0


@kernel
def gather(
    alphabet: Arrays, text: Arrays, starts: Arrays, numbers: Arrays, targets: Arrays, out: Arrays
) -> Number:
    """The tokens of the documents ``numbers[i]``, from ``out[targets[i]]`` on."""
    for i in range(len(numbers)):
        begin, end = np.int64(starts[numbers[i]]) + 1, np.int64(starts[numbers[i] + 1])
        if end > len(text):
            return DAMAGED
        target = targets[i]
        for j in range(begin, end):
            if text[j] >= len(alphabet) or target >= len(out):
                return DAMAGED
            out[target] = alphabet[text[j]]
            target += 1
    return 0
