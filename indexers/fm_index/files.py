"""The folder of an FM-index: its arrays, and the file that says how large each must be.

The text is, for each document, a 0 (its start) and then its tokens as *symbols*: 1 + the number of
smaller ids that occur. With n = tokens + documents positions, s symbols (0 included) and L levels,
L the bits of s - 1:

    alphabet           (s,)     int32  the id of each symbol, ascending; -1 for 0
    text               (n,)     symbols
    starts             (d + 1,) uint32 the position of each document's 0; then n
    directory          (n/128,) uint32 the document at each 128th position; then the last document
    order              (s,)     int32  the symbols in the order of their rows
    spans              (s, 4)   int64  the rows low .. high of a symbol, and begin .. end: below
    leaves             (s,)     int64  low - where the symbol's part of the last level begins
    zeros              (L,)     int64  how many bits of each level are 0
    matrix             (8b,)    uint64 the levels, b blocks of 448 bits in all; then 64 bytes of 0
    successors         (m,)     uint32 symbols; begin .. end: those that follow one, ascending
    successor_rows     (m, 2)   uint32 the rows low .. high of the two symbols
    positions          (n,)     uint32 the position of each row
    marks, samples              instead of positions: see ``_kernels_build.fill_samples``

*Rows* are the positions sorted by the text read from them to the left. The occurrences of an n-gram
are thus one range of rows, and the matrix (a wavelet matrix: Claude, Navarro, Ordóñez 2015) holds
the symbol to the right of each, so that an n-gram grows to the right. Sorting compares frequent
symbols as smaller, see ``code``. Symbols take two bytes where s <= 65,536, else four. A document's
start is the n-gram "0", and no other n-gram holds a 0.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from tokenize import TokenError
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag.errors import Damaged, InvalidInput, NotFound

FORMAT = 1
NAME = "fm_index.json"
BLOCK = 448
DIRECTORY = 128
REPAIR = "build the index again from its source"


class Shape(NamedTuple):
    """What ``fm_index.json`` says beside the files' sizes."""

    tokens: int
    documents: int
    symbols: int
    successors: int
    samples: int
    """0: all positions are stored."""

    @property
    def rows(self) -> int:
        """Positions of the text."""
        return self.tokens + self.documents

    @property
    def levels(self) -> int:
        """Levels of the matrix."""
        return (self.symbols - 1).bit_length()

    def arrays(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The type and the shape of each array."""
        rows, symbols = self.rows, self.symbols
        kind = "<u2" if symbols <= 65_536 else "<u4"
        blocks = rows // BLOCK + 1
        all_of = {
            "alphabet": ("<i4", (symbols,)),
            "text": (kind, (rows,)),
            "starts": ("<u4", (self.documents + 1,)),
            "directory": ("<u4", (rows // DIRECTORY + 2,)),
            "order": ("<i4", (symbols,)),
            "spans": ("<i8", (symbols, 4)),
            "leaves": ("<i8", (symbols,)),
            "zeros": ("<i8", (self.levels,)),
            "matrix": ("<u8", (8 * (self.levels * blocks + 1),)),
            "successors": ("<u4", (self.successors,)),
            "successor_rows": ("<u4", (self.successors, 2)),
        }
        if self.samples:
            marks = 8 * (blocks + 1)
            return all_of | {"marks": ("<u8", (marks,)), "samples": ("<u4", (self.samples,))}
        return all_of | {"positions": ("<u4", (rows,))}


def write(folder: Path, name: str, array: NDArray[Any]) -> None:
    """Write ``name.npy``; an older one stays as it is for those who have it open."""
    part = folder / f"{name}.npy.part"
    with part.open("wb") as file:
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    os.replace(part, folder / f"{name}.npy")


def finish(folder: Path, shape: Shape) -> None:
    """Write ``fm_index.json``, which makes the arrays in ``folder`` an index."""
    sizes = {f"{name}.npy": (folder / f"{name}.npy").stat().st_size for name in shape.arrays()}
    said = {"format": FORMAT, **shape._asdict(), "bytes": sizes}
    part = folder / f"{NAME}.part"
    part.write_text(json.dumps(said, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(part, folder / NAME)
    for name in {"positions", "marks", "samples"} - set(shape.arrays()):
        (folder / f"{name}.npy").unlink(missing_ok=True)  # of an older index


def read(folder: Path) -> tuple[Shape, dict[str, NDArray[Any]]]:
    """What is in ``folder``, the arrays mapped read-only.

    Raises:
        NotFound: there is no index, or a file of it is absent.
        InvalidInput: it was written in another format.
        Damaged: a file is cut short or is not what ``fm_index.json`` says.
    """
    shape, sizes = _said(folder)
    arrays = {}
    for name, (kind, of) in shape.arrays().items():
        path = folder / f"{name}.npy"
        arrays[name] = _mapped(path, sizes.get(path.name), np.dtype(kind), of)
    if (end := int(arrays["starts"][-1])) != shape.rows:
        raise _damaged(folder / "starts.npy", f"it ends with {end:,}, not {shape.rows:,}")
    alphabet = arrays["alphabet"]
    if alphabet[0] != -1 or (alphabet[1:] <= alphabet[:-1]).any():  # kernels index scores by it
        raise _damaged(folder / "alphabet.npy", "its ids do not ascend from -1")
    return shape, arrays


def _said(folder: Path) -> tuple[Shape, Mapping[str, Any]]:
    path = folder / NAME
    try:
        said = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NotFound(f"{folder}: no FM-index: there is no {NAME}") from None
    except ValueError as error:
        raise _damaged(path, f"it is not JSON: {error}") from None
    if not isinstance(said, dict):
        raise _damaged(path, "it holds no object")
    if said.get("format") != FORMAT:
        raise InvalidInput(
            f"{path}: format {said.get('format')!r}; this version reads {FORMAT}: {REPAIR}"
        )
    numbers = {name: said.get(name) for name in Shape._fields}
    for name, number in numbers.items():
        if type(number) is not int or not 0 <= number < 2**40 or (name == "symbols" and not number):
            raise _damaged(path, f"{name!r} is {number!r}, not a number of things")
    sizes = said.get("bytes")
    if not isinstance(sizes, dict):
        raise _damaged(path, f"'bytes' is {sizes!r}, not the sizes of the files")
    return Shape(**numbers), sizes  # type: ignore[arg-type]


def _mapped(path: Path, said: Any, kind: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise NotFound(f"{path}: the file is absent; {REPAIR}") from None
    if found != said:
        raise _damaged(path, f"it has {found:,} bytes, {NAME} says {said!r}")
    try:
        if all(shape):
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        else:  # a map cannot be empty
            array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError, TokenError) as error:
        raise _damaged(path, f"its header cannot be read: {error}") from None
    if array.dtype != kind or array.shape != shape:
        raise _damaged(
            path, f"it holds {array.dtype} {array.shape}, and {kind} {shape} was expected"
        )
    plain: NDArray[Any] = array.view(np.ndarray)
    plain.flags.writeable = False
    return plain


def _damaged(path: Path, what: str) -> Damaged:
    return Damaged(f"{path}: is damaged: {what}; {REPAIR}")
