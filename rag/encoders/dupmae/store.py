"""What is kept of the documents of DupMAE, and the exact score of questions with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import Damaged, InvalidInput, NotFound

KEPT = 384
"""Entries of the vocabulary that a document keeps (k in the paper)."""

ROWS = 16_384  # so many documents are copied at a time
BLOCK = 1 << 22  # so many looked-up weights are held at a time


@dataclass(frozen=True)
class ForwardStore:
    """The vectors of n documents: a forward store, one row a document.

    Attributes:
        dense: (n, d) float32 or float16, the reduced vectors of [CLS].
        ids: (n, k) int32, the tokens that a document keeps, ascending.
        values: (n, k) float32 or float16, their weights.
    """

    dense: NDArray[Any]
    ids: NDArray[np.int32]
    values: NDArray[Any]

    def __post_init__(self) -> None:
        """Check the arrays against one another; ``InvalidInput`` says what does not fit."""
        if self.dense.ndim != 2 or self.ids.ndim != 2 or self.ids.shape != self.values.shape:
            shapes = ", ".join(f"{f.name} {getattr(self, f.name).shape}" for f in fields(self))
            raise InvalidInput(f"forward store: expected (n, d), (n, k), (n, k); found {shapes}")
        if len(self.dense) != len(self.ids):
            raise InvalidInput(f"forward store: {len(self.dense)} vectors, {len(self.ids)} id rows")
        if self.ids.dtype != np.int32:
            raise InvalidInput(f"forward store: ids are {self.ids.dtype}, and must be int32")
        for name in ("dense", "values"):
            if getattr(self, name).dtype not in (np.float32, np.float16):
                found = getattr(self, name).dtype
                raise InvalidInput(f"forward store: {name} is {found}, not float32 or float16")

    @classmethod
    def of(
        cls,
        dense: NDArray[Any],
        weights: NDArray[Any],
        *,
        k: int = KEPT,
        dtype: type[np.float32 | np.float16] = np.float32,
    ) -> ForwardStore:
        """Keep of each document the ``k`` largest entries of its weights; ties go to smaller ids.

        Args:
            dense: (n, d), h' of ``represent.Unified``.
            weights: (n, V), its mu. Where V is smaller than ``k``, all are kept.
            k: entries that are kept.
            dtype: of the vectors and weights. float16 loses at most 1/2048 of a number.

        Raises:
            InvalidInput: a number is not finite, as it is or in ``dtype``; the row is named.
        """
        order = np.argsort(-weights, axis=1, kind="stable")[:, :k]
        ids = np.sort(order, axis=1).astype(np.int32)
        with np.errstate(over="ignore"):
            kept = np.take_along_axis(weights, ids, axis=1).astype(dtype)
            vectors = dense.astype(dtype)
        for name, array in (("vector", vectors), ("weights", kept)):
            bad = np.flatnonzero(~np.isfinite(array).all(1))
            if len(bad):
                raise InvalidInput(
                    f"forward store: the {name} of document {bad[0]} has a number that is not "
                    f"finite in {np.dtype(dtype)}"
                )
        return cls(vectors, ids, kept)

    @classmethod
    def concat(cls, stores: Iterable[ForwardStore]) -> ForwardStore:
        """The documents of all stores, which keep equally many entries, one after another."""
        columns = zip(*((s.dense, s.ids, s.values) for s in stores), strict=True)
        return cls(*(np.concatenate(column) for column in columns))

    @classmethod
    def join(
        cls,
        stores: Sequence[ForwardStore],
        keep: Sequence[NDArray[np.bool_] | None],
        folder: Path | str,
    ) -> int:
        """Write documents of several stores as ``save`` would, a few at a time.

        Args:
            stores: at least one; all keep equally many entries, of the same types.
            keep: which documents of each, (n,) bool; None: all.
            folder: where to write; it is there.

        Returns:
            How many documents.
        """
        pairs = list(zip(stores, keep, strict=True))
        rows = sum(len(store) if mask is None else int(mask.sum()) for store, mask in pairs)
        for field in fields(cls):
            first = getattr(stores[0], field.name)
            with (Path(folder) / f"{field.name}.npy").open("wb") as out:
                form = first.dtype.newbyteorder("<")
                head = {"descr": form.str, "fortran_order": False, "shape": (rows, first.shape[1])}
                np.lib.format.write_array_header_1_0(out, head)
                for store, mask in pairs:
                    for start in range(0, len(store), ROWS):
                        part = getattr(store, field.name)[start : start + ROWS]
                        part = part if mask is None else part[mask[start : start + ROWS]]
                        out.write(np.ascontiguousarray(part, form).data)
        return rows

    def __len__(self) -> int:
        """The number of documents."""
        return len(self.dense)

    def scores(self, dense: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float32]:
        """The exact score of each question with each document.

            s(q, d) = h'_q . h'_d + sum over the ids i that d keeps of mu_q[i] values_d[i]

        The weights of a question are not cut: they are looked up by the documents' ids.

        Args:
            dense: (nq, d), h' of the questions.
            weights: (nq, V), their mu.

        Returns:
            (nq, n) float32.

        Raises:
            InvalidInput: d differs, or a document keeps an id that is not below V.
        """
        if dense.ndim != 2 or dense.shape[1] != self.dense.shape[1]:
            raise InvalidInput(
                f"forward store: questions of shape {dense.shape}, documents of "
                f"{self.dense.shape}; both need the same model"
            )
        if len(weights) != len(dense):
            raise InvalidInput(f"forward store: {len(dense)} vectors and {len(weights)} weights")
        if self.ids.size and int(self.ids.max()) >= weights.shape[1]:
            raise InvalidInput(
                f"forward store: a document keeps the token {int(self.ids.max())}, and the "
                f"questions have weights for {weights.shape[1]}; both need the same model"
            )
        found = np.empty((len(dense), len(self)), np.float32)
        asked = weights.astype(np.float32, copy=False)
        step = max(1, BLOCK // max(1, self.ids.shape[1]))
        for start in range(0, len(self), step):
            part = slice(start, start + step)
            found[:, part] = dense.astype(np.float32) @ self.dense[part].astype(np.float32).T
            ids, values = self.ids[part], self.values[part].astype(np.float32)
            for row, looked in enumerate(asked):
                found[row, part] += np.einsum("nk,nk->n", looked[ids], values)
        return found

    def save(self, folder: Path | str) -> None:
        """Write ``dense.npy``, ``ids.npy`` and ``values.npy``, little-endian, into a folder."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        for field in fields(self):
            array = getattr(self, field.name)
            np.save(path / f"{field.name}.npy", array.astype(array.dtype.newbyteorder("<")))

    @classmethod
    def open(cls, folder: Path | str) -> ForwardStore:
        """What ``save`` wrote, mapped into memory.

        Raises:
            NotFound: a file is not there.
            Damaged: a file is no array.
            InvalidInput: the arrays do not fit one another.
        """
        arrays = {}
        for field in fields(cls):
            file = Path(folder) / f"{field.name}.npy"
            if not file.is_file():
                raise NotFound(f"{file}: no such file of a forward store")
            try:
                # An array without rows cannot be mapped.
                mode: Any = "r" if _has_rows(file) else None
                arrays[field.name] = np.load(file, mmap_mode=mode, allow_pickle=False)
            except (ValueError, EOFError) as error:
                raise Damaged(f"{file}: no array: {error}") from error
        return cls(**arrays)


def _has_rows(file: Path) -> bool:
    """Whether an array in a file has any number."""
    with file.open("rb") as read:
        np.lib.format.read_magic(read)
        shape, _, _ = np.lib.format.read_array_header_1_0(read)
    return bool(np.prod(shape))
