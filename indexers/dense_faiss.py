"""FAISS, imported where it is used: training, writing, reading and asking indexes of segments.

What FAISS finds are candidates: the searcher scores them anew by the vectors that the collection
keeps. So a factory needs no ``Refine(…)``, which would keep the vectors a second time: it may be
named, as FAISS's own examples do, and is left away.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
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
EACH = 64
"""Rows of a sample for each list of IVF; FAISS's advice is 39 to 256."""
SAMPLE = 65_536
"""Rows of a sample at the least: 256 for each code of a product quantizer."""
KINDS = (
    "IndexFlat",
    "IndexHNSW",
    "IndexIVFFlat",
    "IndexIVFPQ",
    "IndexIVFPQFastScan",
    "IndexIVFScalarQuantizer",
    "IndexPQ",
    "IndexPQFastScan",
    "IndexScalarQuantizer",
)
_REFINE = re.compile(r",\s*(RFlat|Refine\(.*\))\s*$")
_USE = (
    "use Flat (exact), HNSW32, or IVF with Flat, SQ8, PQ48 or PQ48x4fs (IVF1024,PQ48x4fs), one of "
    "these without IVF, or after OPQ or PCA"
)


@functools.cache
def library() -> Any:
    """The module ``faiss``, looked at once.

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
    """Raise InvalidInput where FAISS makes no such index, or it has no use here."""
    _empty(factory, dimensions)


def training_rows(factory: str, dimensions: int, similarity: str) -> int:
    """On how many rows an index is trained at most; 0 where it needs no training."""
    if factory == "Flat":
        return 0
    index = _empty(factory, dimensions)
    if index.is_trained:
        return 0
    return max(SAMPLE, EACH * int(getattr(inner(index), "nlist", 0)))


def train(
    vectors: NDArray[np.float32], factory: str, similarity: str, seed: int, file: Path
) -> None:
    """Write an index without rows, trained on ``vectors``, (s, d) float32.

    One thread, so that the same vectors and seed give the same bytes. Where FAISS has a GPU, that
    finds the lists of IVF.

    Raises:
        InvalidInput: there are too few vectors.
    """
    faiss = library()
    index = _empty(factory, vectors.shape[1])
    least = _least(index)
    if len(vectors) < least:
        raise InvalidInput(
            f"factory {factory!r} is trained on {least:,} rows at least, and there are "
            f"{len(vectors):,}; use Flat, HNSW32, or fewer lists and codes"
        )
    with _prepared(index, seed), _one_thread(faiss):
        index.train(np.ascontiguousarray(vectors))
    file.write_bytes(faiss.serialize_index(index).data)


def write(
    vectors: NDArray[np.float32],
    factory: str,
    similarity: str,
    file: Path,
    trained: Path | None = None,
) -> None:
    """Write the index of ``vectors``, (n, d) float32, in the form for CPUs.

    One thread adds them, in order: several would make other graphs from run to run.

    Args:
        vectors: those of the segment, in order.
        factory: FAISS's name of the index.
        similarity: ``cosine`` or ``dot``; vectors are compared by the inner product in both.
        file: what is written.
        trained: what ``train`` wrote, where the factory needs training.

    Raises:
        InvalidInput: ``trained`` is lacking, or of other vectors.
        Damaged: it cannot be read.
    """
    faiss = library()
    if trained is None:
        index = _empty(factory, vectors.shape[1])
    else:
        index = read(trained, (0, vectors.shape[1]), mapped=False)
    if not index.is_trained:
        raise InvalidInput(f"factory {factory!r} needs training, and nothing is trained")
    with _one_thread(faiss):
        for start in range(0, len(vectors), AT_ONCE):
            index.add(np.ascontiguousarray(vectors[start : start + AT_ONCE]))
    file.write_bytes(faiss.serialize_index(index).data)


def read(file: Path, shape: tuple[int, ...], *, mapped: bool = True) -> Any:
    """The index of a file, for vectors of this ``shape``, mapped where its type can be.

    Raises:
        Damaged: it cannot be read, or it is of other vectors.
    """
    faiss = library()
    try:
        index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC if mapped else 0)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise Damaged(f"{file}: is damaged: {first}; run `rag verify`, then `rag index`") from error
    if (index.ntotal, index.d) != shape:
        raise Damaged(
            f"{file}: is damaged: it holds {index.ntotal} vectors of {index.d} dimensions, "
            f"expected {shape}; run `rag verify`, then `rag index` again"
        )
    return index


def inner(index: Any) -> Any:
    """The index that searches, without the changes of vectors before it (OPQ, PCA)."""
    faiss = library()
    found = faiss.downcast_index(index)
    while isinstance(found, faiss.IndexPreTransform):
        found = faiss.downcast_index(found.index)
    return found


def search(
    index: Any,
    queries: NDArray[np.float32],
    k: int,
    keep: NDArray[np.bool_] | None,
    effort: float = 1,
    among: int | None = None,
) -> NDArray[np.int64]:
    """Candidates for the ``k`` nearest rows among those that ``keep`` has.

    There are more of them than k where FAISS knows vectors only roughly. What takes no filter is
    asked for more until k are left, or a quarter of the rows is reached.

    Args:
        index: of ``read``.
        queries: (q, d) float32.
        k: how many rows are wanted.
        keep: (rows,) bool; None for all.
        effort: factor of how many lists, nodes of a graph and candidates are looked at.
        among: how many rows all segments keep, those of this index with them: so that lists are
            the same ones in each, as many as in an index of them all. Default: those of ``keep``.

    Returns:
        (q, c) int64, -1 where fewer are found; c is at least k, or the number of kept rows.
    """
    faiss = library()
    own = inner(index)
    rows = index.ntotal
    there = rows if keep is None else int(keep.sum())
    wanted, lists = plan(index, k, there, effort, among)
    if keep is None or not isinstance(own, faiss.IndexPQ | faiss.IndexPQFastScan):
        params = _params(own, wanted, lists, keep, effort)
        found: NDArray[np.int64] = index.search(queries, wanted, params=params)[1]
        return found if keep is None else np.where(keep[found] & (found >= 0), found, -1)
    least = min(k, there)
    fetch = min(rows, wanted * rows // there + 16)
    while True:
        found = index.search(queries, fetch)[1]
        found[~keep[found]] = -1
        if fetch * 4 > rows or ((found >= 0).sum(1) >= least).all():
            return found
        fetch = min(rows, 2 * fetch)


def plan(
    index: Any, k: int, there: int, effort: float = 1, among: int | None = None
) -> tuple[int, int]:
    """How many candidates of ``there`` rows are asked for, and in how many lists of IVF, or 0."""
    own = inner(index)
    among = there if among is None else among
    factor, more = _rough(index, own)
    wanted = max(k, math.ceil((k * factor + more) * effort))
    lists = int(getattr(own, "nlist", 0))
    if lists:
        # Lists enough to hold four times the candidates, if they were of one size.
        least = 4 * wanted * lists / max(among, 1)
        lists = min(lists, math.ceil(effort * max(5 * math.sqrt(lists), least)))
    return min(there, wanted), lists


def _rough(index: Any, own: Any) -> tuple[int, int]:
    """How many candidates an index gives for each row that is wanted, and how many besides.

    Its scores may be rough, and to score a candidate anew costs less than to find it.
    """
    faiss = library()
    if own.d < index.d:
        return 10, 200
    if isinstance(own, faiss.IndexHNSW):
        own = faiss.downcast_index(own.storage)
    if isinstance(own, faiss.IndexFlat | faiss.IndexIVFFlat):
        return 1, 0
    coarse = faiss.ScalarQuantizer
    if getattr(getattr(own, "sq", None), "qtype", None) in (
        coarse.QT_8bit, coarse.QT_fp16, coarse.QT_bf16,
    ):  # fmt: skip
        return 2, 20
    return 10, 200


def _params(
    own: Any, wanted: int, lists: int, keep: NDArray[np.bool_] | None, effort: float
) -> Any:
    """How FAISS searches an index for so many candidates in so many lists."""
    faiss = library()
    settings: dict[str, Any] = {}
    if keep is not None:
        settings["sel"] = faiss.IDSelectorBitmap(np.packbits(keep, bitorder="little"))
    if isinstance(own, faiss.IndexHNSW):
        nodes = math.ceil(effort * max(160, 2 * wanted))
        return faiss.SearchParametersHNSW(efSearch=min(own.ntotal, nodes), **settings)
    if lists:
        return faiss.SearchParametersIVF(nprobe=lists, **settings)
    return faiss.SearchParameters(**settings) if settings else None


def _empty(factory: str, dimensions: int) -> Any:
    """The index of a factory, neither trained nor filled."""
    faiss = library()
    if re.search(r"(^|,)IDMap2?(,|$)", factory):
        raise InvalidInput(
            f"factory {factory!r}: IDMap gives rows numbers of their own, and a segment "
            "numbers its rows; leave IDMap away"
        )
    if factory.startswith("B") and not factory.startswith("Binary"):
        raise InvalidInput(f"factory {factory!r} is for vectors of bits; {_USE}")
    try:
        index = faiss.index_factory(
            dimensions, _REFINE.sub("", factory), faiss.METRIC_INNER_PRODUCT
        )
    except RuntimeError as error:
        said = str(error).strip().splitlines()[-1]
        raise InvalidInput(
            f"factory {factory!r}: FAISS makes no index of it for {dimensions} dimensions ({said})"
        ) from error
    kinds = tuple(getattr(faiss, name) for name in KINDS)
    if not isinstance(inner(index), kinds):
        raise InvalidInput(f"factory {factory!r} is an index that is not supported here; {_USE}")
    return index


@contextmanager
def _prepared(index: Any, seed: int) -> Iterator[None]:
    """Set what training draws at random, and leave away what it has no use for here."""
    from rag.indexers.dense_devices import faiss_gpus

    faiss = library()
    kept: list[Any] = []
    own = inner(index)
    bits = own.pq.nbits if hasattr(own, "pq") else 8
    for change in _changes(index):
        if isinstance(change, faiss.OPQMatrix):
            # Its own would have 8 bits a code, whatever the index has, and take hours.
            kept.append(faiss.ProductQuantizer(change.d_out, change.M, bits))
            _quiet(kept[-1].cp, seed)
            change.pq = kept[-1]  # a pointer to what lives until the index is trained
    if hasattr(own, "cp"):
        _quiet(own.cp, seed)
        if faiss_gpus():
            kept.append(faiss.StandardGpuResources())
            nearest = faiss.IndexFlat(own.d, own.metric_type)
            kept.append(faiss.index_cpu_to_gpu(kept[-1], 0, nearest, faiss.GpuClonerOptions()))
            own.clustering_index = kept[-1]
    if hasattr(own, "pq"):
        _quiet(own.pq.cp, seed)
    if hasattr(own, "do_polysemous_training"):
        # It orders codes for a comparison by bits, which is not used, and takes the most time.
        own.do_polysemous_training = False
    yield
    if hasattr(own, "cp"):
        own.clustering_index = None


def _quiet(settings: Any, seed: int) -> None:
    """Set the seed of a k-means, and no warning for each where there are few rows."""
    settings.seed = seed
    settings.min_points_per_centroid = 1


def _least(index: Any) -> int:
    """The fewest rows on which FAISS trains an index."""
    faiss = library()
    own = inner(index)
    found = [1, int(getattr(own, "nlist", 0))]
    if hasattr(own, "pq"):
        found.append(int(own.pq.ksub))
    for change in _changes(index):
        if isinstance(change, faiss.OPQMatrix):
            found.append(1 << (own.pq.nbits if hasattr(own, "pq") else 8))
        elif isinstance(change, faiss.PCAMatrix):
            found.append(int(change.d_out))
    return max(found)


def _changes(index: Any) -> list[Any]:
    """What changes vectors before they are searched (OPQ, PCA)."""
    faiss = library()
    found = []
    index = faiss.downcast_index(index)
    while isinstance(index, faiss.IndexPreTransform):
        chain = index.chain
        found += [faiss.downcast_VectorTransform(chain.at(i)) for i in range(chain.size())]
        index = faiss.downcast_index(index.index)
    return found


@contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)
