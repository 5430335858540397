"""FAISS, imported where it is used: indexes of one segment that need no training."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distributions
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import BackendFailed, Damaged, InvalidInput, MissingExtra

WHEELS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu12", "faiss-cuda")
"""Distributions that all bring the module ``faiss``: with two of them, one has overwritten it."""
AT_ONCE = 65_536
"""Rows that are added at a time."""


def library() -> Any:
    """The module ``faiss``.

    Raises:
        MissingExtra: it is not installed.
        InvalidInput: several distributions bring it.
        BackendFailed: it cannot be imported.
    """
    names = {str(found.metadata["Name"]).lower() for found in distributions()}
    there = [name for name in WHEELS if name in names]
    if len(there) > 1:
        raise InvalidInput(
            f"{' and '.join(there)} are installed, and both are the module faiss; uninstall them "
            "all, then install one"
        )
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise MissingExtra("dense", "faiss") from error
    except (ImportError, RuntimeError, PackageNotFoundError) as error:
        raise BackendFailed(f"faiss is installed and cannot be imported: {error}") from error
    return faiss


def check(factory: str, dimensions: int, similarity: str) -> None:
    """Raise InvalidInput where FAISS knows no such index, or it needs training."""
    _empty(factory, dimensions, similarity)


def training_rows(factory: str, dimensions: int, similarity: str) -> int:
    """On how many vectors an index is trained at most; 0 where it needs no training."""
    _empty(factory, dimensions, similarity)
    return 0


def train(
    vectors: NDArray[np.float32], factory: str, similarity: str, seed: int, file: Path
) -> None:
    """Write an empty index that has learnt from ``vectors``, (s, d) float32."""
    raise NotImplementedError


def write(
    vectors: NDArray[np.float32],
    factory: str,
    similarity: str,
    file: Path,
    trained: Path | None = None,
) -> None:
    """Write the index of ``vectors``, (n, d) float32, in the form for CPUs.

    ``trained`` is the empty index that it begins with, where it needs training.

    One thread adds them, in order: several would make other graphs from run to run.
    """
    faiss = library()
    index = _empty(factory, vectors.shape[1], similarity)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        for start in range(0, len(vectors), AT_ONCE):
            index.add(np.ascontiguousarray(vectors[start : start + AT_ONCE]))
    finally:
        faiss.omp_set_num_threads(threads)
    file.write_bytes(faiss.serialize_index(index).data)


def read(file: Path, shape: tuple[int, ...]) -> Any:
    """The index of a file, for vectors of this ``shape``, mapped where its type can be.

    Raises:
        Damaged: it cannot be read, or it is of other vectors.
    """
    faiss = library()
    try:
        index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise Damaged(f"{file}: is damaged: {first}; run `rag verify`, then `rag index`") from error
    if (index.ntotal, index.d) != shape:
        raise Damaged(
            f"{file}: is damaged: it holds {index.ntotal} vectors of {index.d} dimensions, "
            f"vectors.npy {shape}; run `rag verify`, then `rag index` again"
        )
    return index


def search(
    index: Any, queries: NDArray[np.float32], k: int, keep: NDArray[np.bool_] | None
) -> NDArray[np.int64]:
    """The rows that FAISS finds among those that ``keep`` has, (q, k) int64; -1 for none."""
    faiss = library()
    settings: dict[str, Any] = {}
    if keep is not None:
        settings["sel"] = faiss.IDSelectorBitmap(np.packbits(keep, bitorder="little"))
    if _is_hnsw(index):
        # A graph is to look at more candidates than rows are asked for.
        params = faiss.SearchParametersHNSW(efSearch=max(64, 2 * k), **settings)
    else:
        params = faiss.SearchParameters(**settings)
    _, rows = index.search(queries, k, params=params)
    found: NDArray[np.int64] = rows
    return found


def _is_hnsw(index: Any) -> bool:
    return hasattr(index, "hnsw")


def _empty(factory: str, dimensions: int, similarity: str) -> Any:
    faiss = library()
    try:
        index = faiss.index_factory(dimensions, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        said = str(error).strip().splitlines()[-1]
        raise InvalidInput(
            f"factory {factory!r}: FAISS makes no index of it for {dimensions} dimensions ({said})"
        ) from error
    allowed = (faiss.IndexFlat, faiss.IndexHNSW, faiss.IndexScalarQuantizer)
    if not index.is_trained or not isinstance(index, allowed):
        raise InvalidInput(
            f"factory {factory!r} needs training, or vectors that are changed first, which is not "
            "there yet; use Flat (exact), HNSW32 or another HNSW, SQfp16 or SQbf16"
        )
    return index
