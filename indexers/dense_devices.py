"""Dense indexes on GPUs: exact search by torch, other indexes by FAISS's form for GPUs.

Files are always in the form for CPUs; what is placed on a GPU is a copy in its memory. This is
written from the documentation of both and tested with stand-ins; it is not verified on hardware.
"""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import BackendFailed, InvalidInput
from rag.indexers import dense_faiss

if TYPE_CHECKING:
    from rag.indexers.dense_index import Segment

MOST = 2048
"""The most rows and lists that FAISS searches on a GPU (GpuDistance, issues 1032 and 2103)."""
MOST_CUVS = 16_384
"""The same in a build with cuVS."""
SPARE = 32
"""Rows that torch finds besides: those that tie with the last one have to be among them."""
ROWS = 262_144
"""Rows of a block of torch's products."""
QUERIES = 256
"""Queries of one: its scores take 268 MB."""
UNSURE = -2
"""The row that is found where a query has to be searched exactly on the CPU."""
_log = logging.getLogger("rag")


@functools.cache
def faiss_gpus() -> int:
    """How many GPUs FAISS has; 0 where it is built for CPUs or cannot be asked.

    Without a GPU some of its functions end the process, and with a broken driver the question does:
    it is asked in a process of its own.
    """
    if not hasattr(dense_faiss.library(), "StandardGpuResources"):
        return 0
    return _asked("import faiss; print(faiss.get_num_gpus())")


def torch_gpus() -> int:
    """How many GPUs torch has; 0 where it is not installed."""
    if find_spec("torch") is None:
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def placed(
    parts: Sequence[Segment], device: str, placement: str | None, rounding: float
) -> list[Segment]:
    """The segments with what searches them on ``device``.

    Args:
        parts: segments as they are opened.
        device: ``cuda``, ``cuda:1`` or ``cuda:all`` are an error where that cannot be; ``auto`` is
            cuda where it can be; others leave the segments as they are.
        placement: over all GPUs, ``sharded`` (each has a part of the rows) or ``replicated`` (each
            has all rows, and answers a part of the queries); None for one GPU, or of ``cuda:all``
            for replicated.
        rounding: how far a product in float32 may be off, for a query of the length 1.

    Raises:
        InvalidInput: there is no such GPU, or FAISS has no form for GPUs of the index.
        BackendFailed: the vectors do not fit into its memory.
    """
    if not parts or not (device == "auto" or device.startswith("cuda")):
        return list(parts)
    by_torch = parts[0].index is None
    count = torch_gpus() if by_torch else faiss_gpus()
    if not count:
        if device == "auto":
            return list(parts)
        raise InvalidInput(f"device {device}: {_why(by_torch)}; use device: cpu or auto")
    numbers = _numbers(device, placement, count)
    try:
        if by_torch:
            places = [f"cuda:{number}" for number in numbers]
            found: list[Any] = [
                OnTorch(part.vectors, places, placement == "sharded", rounding) for part in parts
            ]
        else:
            found = _on_faiss(parts, numbers, placement, strict=device != "auto")
    except (RuntimeError, MemoryError) as error:
        said = (str(error).strip().splitlines() or [repr(error)])[0]
        if device == "auto":
            _log.warning("a dense index is searched on the CPU: %s", said)
            return list(parts)
        if by_torch or "memory" in said.lower():
            raise BackendFailed(
                f"device {device}: the vectors cannot be placed there ({said}); use placement: "
                "sharded with more GPUs, or device: cpu"
            ) from error
        raise InvalidInput(
            f"device {device}: FAISS has no form for GPUs of this index ({said}); use device: cpu "
            "or auto, or a factory such as IVF1024,Flat or IVF1024,PQ48"
        ) from error
    return [part._replace(place=place) for part, place in zip(parts, found, strict=True)]


class OnTorch:
    """The vectors of a segment on GPUs, searched exactly."""

    def __init__(
        self, vectors: NDArray[np.float32], places: Sequence[str], sharded: bool, rounding: float
    ) -> None:
        """Copy the vectors: a part of them to each place, or all to each."""
        import torch

        self._rounding = rounding
        if torch.backends.cuda.matmul.allow_tf32:
            self._rounding *= 2.0**14  # 10 bits of each factor instead of 24
        cuts = [0, len(vectors)]
        if sharded:
            cuts = np.linspace(0, len(vectors), len(places) + 1).astype(int).tolist()
        self._sharded = sharded
        # torch warns of arrays that cannot be written, and these are only read.
        self._held = [
            (place, cuts[n * sharded], torch.from_numpy(_own(vectors, cuts, n * sharded)).to(place))
            for n, place in enumerate(places)
        ]

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        keep: NDArray[np.bool_] | None,
        effort: float = 1,
        among: int | None = None,
    ) -> NDArray[np.int64]:
        """Rows among which the ``k`` best are, (q, c) int64; -1 for none.

        A query for which rounding leaves that open has ``UNSURE`` in all columns.
        """
        import torch

        parts = [slice(0, len(queries))] * len(self._held)
        if not self._sharded:
            cuts = np.linspace(0, len(queries), len(self._held) + 1).astype(int).tolist()
            parts = [slice(a, b) for a, b in pairwise(cuts)]
        # Nothing waits for a result before all GPUs have their work.
        tops = [
            self._top(queries[part], k + SPARE, keep, *held)
            for part, held in zip(parts, self._held, strict=True)
        ]
        tops = [(scores.cpu(), rows.cpu()) for scores, rows in tops]
        scores, rows = (torch.cat(some, int(self._sharded)) for some in zip(*tops, strict=True))
        scores, order = torch.topk(scores, min(k + SPARE, scores.shape[1]), dim=1)
        found: NDArray[np.int64] = torch.gather(rows, 1, order).numpy()
        values = scores.numpy()
        found = np.where(np.isneginf(values), -1, found)
        if found.shape[1] == k + SPARE:
            lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
            # The last of them could be among the best; -inf is no row at all.
            last = values[:, k - 1] - 2 * self._rounding * lengths
            found[(found[:, -1] >= 0) & (values[:, -1] >= last)] = UNSURE
        return found

    def _top(
        self,
        queries: NDArray[np.float32],
        wanted: int,
        keep: NDArray[np.bool_] | None,
        place: str,
        first: int,
        vectors: Any,
    ) -> tuple[Any, Any]:
        """The best scores of one place and their rows, (q, wanted) or fewer columns."""
        import torch

        held = torch.from_numpy(queries.copy()).to(place)
        hidden = None
        if keep is not None:
            hidden = torch.from_numpy(~keep[first : first + len(vectors)]).to(place)
        found = []
        for begin in range(0, max(len(held), 1), QUERIES):
            some = held[begin : begin + QUERIES]
            best = torch.empty((len(some), 0), device=place)
            rows = torch.empty((len(some), 0), dtype=torch.int64, device=place)
            for start in range(0, len(vectors), ROWS):
                scores = some @ vectors[start : start + ROWS].T
                if hidden is not None:
                    scores.masked_fill_(hidden[start : start + ROWS], -torch.inf)
                top, at = torch.topk(scores, min(wanted, scores.shape[1]), dim=1)
                best, rows = torch.cat([best, top], 1), torch.cat([rows, at + first + start], 1)
                best, order = torch.topk(best, min(wanted, best.shape[1]), dim=1)
                rows = torch.gather(rows, 1, order)
            found.append((best, rows))
        return torch.cat([best for best, _ in found]), torch.cat([rows for _, rows in found])


class OnFaiss:
    """An index of FAISS on GPUs, for one caller at a time: its memory for a search is shared."""

    def __init__(self, index: Any, held: Any, most: int, strict: bool, lock: Any) -> None:
        """Take the index for CPUs, the one on GPUs, and whether limits are errors."""
        self._index, self._held, self._most = index, held, most
        self._strict, self._lock = strict, lock

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        keep: NDArray[np.bool_] | None,
        effort: float = 1,
        among: int | None = None,
    ) -> NDArray[np.int64]:
        """As ``dense_faiss.search``.

        On a GPU FAISS takes no filter: more rows are asked for, and where they would be more than
        a GPU finds, the index for CPUs is asked.

        Raises:
            InvalidInput: k or the lists to look at are more than FAISS searches on a GPU, and the
                device was asked for by name.
        """
        rows = self._index.ntotal
        there = rows if keep is None else int(keep.sum())
        wanted, lists = dense_faiss.plan(self._index, k, there, effort, among)
        if min(k, there) > self._most or lists > self._most:
            what = f"k is {k}" if k > self._most else f"{lists} lists are to be looked at"
            if self._strict:
                raise InvalidInput(
                    f"{what}, and on a GPU FAISS searches {self._most:,} at most; use less (top_k, "
                    "effort), or device: cpu"
                )
            _log.warning("%s: searched on the CPU, as a GPU finds %s at most", what, self._most)
            return dense_faiss.search(self._index, queries, k, keep, effort, among)
        fetch = min(wanted, self._most)
        if keep is not None and there:
            fetch = min(rows, wanted * rows // there + 16)
            if fetch > self._most:
                return dense_faiss.search(self._index, queries, k, keep, effort, among)
        with self._lock:
            if lists:
                space = dense_faiss.library().GpuParameterSpace()
                space.set_index_parameter(self._held, "nprobe", lists)
            found: NDArray[np.int64] = self._held.search(queries, fetch)[1]
        return found if keep is None else np.where(keep[found] & (found >= 0), found, -1)


def _on_faiss(
    parts: Sequence[Segment], numbers: Sequence[int], placement: str | None, *, strict: bool
) -> list[OnFaiss]:
    faiss = dense_faiss.library()
    # One for each GPU and index: it holds the memory that a search needs, 1.5 GB as a rule.
    resources = [faiss.StandardGpuResources() for _ in numbers]
    lock = threading.Lock()
    found = []
    for part in parts:
        if len(numbers) == 1:
            options = faiss.GpuClonerOptions()
            held = faiss.index_cpu_to_gpu(resources[0], numbers[0], part.index, options)
        else:
            options = faiss.GpuMultipleClonerOptions()
            options.shard = placement == "sharded"
            held = faiss.index_cpu_to_gpu_multiple_py(resources, part.index, options, list(numbers))
        held.used = resources  # they have to live as long
        most = MOST_CUVS if getattr(options, "use_cuvs", False) else MOST
        found.append(OnFaiss(part.index, held, most, strict, lock))
    return found


def _numbers(device: str, placement: str | None, count: int) -> list[int]:
    """The numbers of the GPUs that are used, of so many."""
    _, _, number = device.partition(":")
    if number == "all":
        return list(range(count))
    if number and placement is not None:
        raise InvalidInput(
            f"placement: {placement} is over all GPUs, and device is {device}; use device: cuda"
        )
    if number and int(number) >= count:
        raise InvalidInput(f"device {device}: there are {count} GPUs, from cuda:0")
    return list(range(count)) if placement is not None else [int(number or 0)]


def _why(by_torch: bool) -> str:
    if by_torch:
        return "torch has no GPU"
    if not hasattr(dense_faiss.library(), "StandardGpuResources"):
        return (
            "FAISS is built for CPUs (faiss-cpu); to search this index on a GPU, uninstall it and "
            "pip install 'ragstone[dense-gpu]'"
        )
    return "FAISS has no GPU"


def _asked(code: str) -> int:
    """The number that a process of its own prints; 0 where it fails."""
    try:
        asked = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    said = asked.stdout.strip()
    return int(said) if asked.returncode == 0 and said.isdigit() else 0


def _own(vectors: NDArray[np.float32], cuts: Sequence[int], number: int) -> NDArray[np.float32]:
    """A copy of the rows of one part."""
    return np.array(vectors[cuts[number] : cuts[number + 1]])
