"""Dense indexes on GPUs: one contract for all places, and a stand-in of FAISS that checks calls.

``pytest -m gpu tests/indexers/test_dense_devices.py`` runs the contract on real hardware.
"""

from __future__ import annotations

import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.errors import BackendFailed, InvalidInput
from rag.indexers import dense_devices, dense_faiss
from rag.indexers.dense import unit
from rag.indexers.dense_index import DenseIndex, Segment

faiss: Any = pytest.importorskip("faiss")
torch: Any = pytest.importorskip("torch")


class OnGpu:
    """What a FAISS index on GPUs takes: no settings of a search, one caller at a time."""

    def __init__(self, index: Any, gpus: list[int], options: Any) -> None:
        self.index, self.gpus, self.options = faiss.clone_index(index), gpus, options
        self.lists = 1
        self._busy = threading.Lock()

    def search(self, queries: Any, k: int) -> tuple[Any, Any]:
        assert k <= 2048 and self.lists <= 2048
        assert self._busy.acquire(blocking=False), "two threads in one index"
        try:
            time.sleep(0.001)
            params = faiss.SearchParametersIVF(nprobe=self.lists)
            found: tuple[Any, Any] = self.index.search(queries, k, params=params)
            return found
        finally:
            self._busy.release()


class Gpus:
    """FAISS as it is built for GPUs, on CPUs; ``made`` are the indexes that were placed."""

    def __init__(self, count: int, *, takes: bool = True) -> None:
        self.count, self.takes, self.made = count, takes, list[OnGpu]()

    def __getattr__(self, name: str) -> Any:
        if name in ("index_cpu_to_all_gpus", "knn_gpu"):
            raise AssertionError(f"{name} ends the process, or finds nothing, without a GPU")
        return getattr(faiss, name)

    class StandardGpuResources:
        pass

    class GpuClonerOptions:
        use_cuvs = False

    class GpuMultipleClonerOptions:
        shard = False

    class GpuParameterSpace:
        def set_index_parameter(self, index: OnGpu, name: str, value: int) -> None:
            assert name == "nprobe" and isinstance(value, int)
            index.lists = value

    def get_num_gpus(self) -> int:
        raise AssertionError("a broken driver ends the process here: another one has to ask")

    def index_cpu_to_gpu(self, resources: Any, gpu: int, index: Any, options: Any) -> OnGpu:
        assert isinstance(resources, self.StandardGpuResources)
        assert isinstance(options, self.GpuClonerOptions)
        return self._make(index, [gpu], options)

    def index_cpu_to_gpu_multiple_py(
        self, resources: list[Any], index: Any, options: Any, gpus: list[int]
    ) -> OnGpu:
        assert len(resources) == len(gpus) and isinstance(options, self.GpuMultipleClonerOptions)
        return self._make(index, gpus, options)

    def _make(self, index: Any, gpus: list[int], options: Any) -> OnGpu:
        assert self.count and max(gpus) < self.count
        if not self.takes:
            raise RuntimeError("Error: This index type is not implemented on GPU.")
        self.made.append(OnGpu(index, gpus, options))
        return self.made[-1]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(count: int, **settings: Any) -> Gpus:
        made = Gpus(count, **settings)
        monkeypatch.setattr(dense_faiss, "library", lambda: made)
        monkeypatch.setattr(dense_devices, "_asked", lambda code: made.count)
        dense_devices.faiss_gpus.cache_clear()
        return made

    yield make
    dense_devices.faiss_gpus.cache_clear()


def drawn(rows: int, seed: int = 1) -> NDArray[np.float32]:
    return unit(np.random.default_rng(seed).standard_normal((rows, 24)).astype(np.float32))


def opened(vectors: Any, factory: str, folder: Path, cuts: tuple[int, ...] = (700,)) -> DenseIndex:
    """An index of two segments, written to files and read."""
    trained = None
    if dense_faiss.training_rows(factory, 24, "cosine"):
        trained = folder / "trained"
        dense_faiss.train(vectors, factory, "cosine", 1, trained)
    parts = []
    for number, some in enumerate(np.split(vectors, cuts)):
        index = None
        if factory != "Flat":
            dense_faiss.write(some, factory, "cosine", folder / f"{number}", trained)
            index = dense_faiss.read(folder / f"{number}", some.shape)
        parts.append(Segment(some, "cosine", index))
    return DenseIndex(parts, "drawn", "")


def contract(cpu: DenseIndex, there: DenseIndex, vectors: Any, *, most: int) -> None:
    """What a place finds is what the CPU finds, when all lists are looked at."""
    rng = np.random.default_rng(4)
    queries = np.concatenate([vectors[:5], drawn(40, 9)])
    for share in (None, 0.8, 0.1, 0.001):
        keep = None if share is None else rng.random(len(vectors)) < share
        for k in (1, 10, 200):
            found = there.search(queries, k, keep=keep, effort=100)
            wanted = cpu.search(queries, k, keep=keep, exact=True)
            for mine, theirs in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(mine, theirs)
    none = there.search(queries[:0], 3)
    assert none[0].tolist() == [0] and not len(none[1])
    nothing = there.search(queries, 3, keep=np.zeros(len(vectors), bool))
    assert not len(nothing[1])
    with ThreadPoolExecutor(4) as threads:  # together they find what each finds
        wanted = cpu.search(queries, 7, exact=True)
        for found in threads.map(lambda _: there.search(queries, 7, effort=100), range(8)):
            np.testing.assert_array_equal(found[1], wanted[1])
    if most < len(vectors):
        with pytest.raises(InvalidInput, match=f"k is {most + 1}.*searches {most:,} at most"):
            there.search(queries, most + 1)


@pytest.mark.parametrize("factory", ["IVF16,Flat", "IVF16,PQ8x4"])
@pytest.mark.parametrize("placement", [None, "sharded", "replicated"])
def test_the_contract_with_a_stand_in(
    placement: str | None, factory: str, gpus: Any, tmp_path: Path
) -> None:
    vectors = drawn(5000)
    cpu = opened(vectors, factory, tmp_path, (2500,))
    made = gpus(3)
    contract(cpu, cpu.on("cuda", placement), vectors, most=2048)
    assert [index.gpus for index in made.made] == [[0, 1, 2] if placement else [0]] * 2
    if placement:
        assert all(index.options.shard == (placement == "sharded") for index in made.made)


@pytest.mark.parametrize("places", [["cpu"], ["cpu", "cpu", "cpu"]])
@pytest.mark.parametrize("sharded", [False, True])
def test_the_contract_with_torch_on_the_cpu(
    sharded: bool, places: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dense_devices, "ROWS", 300)
    monkeypatch.setattr(dense_devices, "QUERIES", 7)
    vectors = drawn(1500)
    vectors[100:300] = vectors[3]  # more ties than are spare
    cpu = opened(vectors, "Flat", tmp_path)
    parts = [
        part._replace(place=dense_devices.OnTorch(part.vectors, places, sharded, cpu._rounding()))
        for part in cpu._parts
    ]
    contract(cpu, DenseIndex(parts, "drawn", ""), vectors, most=len(vectors))


@pytest.mark.gpu
@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "IVF16,PQ8", "IVF16,SQ8"])
def test_the_contract_on_a_gpu(factory: str, tmp_path: Path) -> None:
    if not (dense_devices.torch_gpus() if factory == "Flat" else dense_devices.faiss_gpus()):
        pytest.skip("no GPU")
    vectors = drawn(20_000)
    cpu = opened(vectors, factory, tmp_path)
    there = cpu.on("cuda")
    most = len(vectors)
    if factory != "Flat":
        most = there._parts[0].place._most
    contract(cpu, there, vectors, most=most)


def test_where_there_is_no_gpu(gpus: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = drawn(900)
    ivf, flat = (opened(vectors, factory, tmp_path) for factory in ("IVF16,Flat", "Flat"))
    monkeypatch.setattr(dense_devices, "torch_gpus", lambda: 0)
    with pytest.raises(InvalidInput, match="torch has no GPU; use device: cpu or auto"):
        flat.on("cuda")
    if not hasattr(faiss, "StandardGpuResources"):
        dense_devices.faiss_gpus.cache_clear()
        with pytest.raises(InvalidInput, match=r"built for CPUs .*ragstone.dense-gpu"):
            ivf.on("cuda:0")
    gpus(0)
    with pytest.raises(InvalidInput, match="FAISS has no GPU"):
        ivf.on("cuda")
    for index in (flat, ivf):
        for device in ("auto", "cpu", "mps"):
            assert all(part.place is None for part in index.on(device)._parts)


def test_what_gpus_do_not_take(gpus: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vectors = drawn(3000)
    index = opened(vectors, "IVF16,Flat", tmp_path)
    gpus(2)
    with pytest.raises(InvalidInput, match="cuda:2: there are 2 GPUs"):
        index.on("cuda:2")
    with pytest.raises(InvalidInput, match="over all GPUs, and device is cuda:1"):
        index.on("cuda:1", "sharded")
    assert index.on("cuda:1")._parts[0].place._held.gpus == [1]
    on_auto = index.on("auto")  # a limit is no error then: the CPU has none
    found = on_auto.search(vectors[:2], 2100, effort=100)
    assert np.diff(found[0]).tolist() == [2100] * 2
    assert "k is 2100: searched on the CPU, as a GPU finds 2048" in caplog.text
    gpus(2, takes=False)
    with pytest.raises(InvalidInput, match=r"no form for GPUs of this index .*not implemented"):
        index.on("cuda")
    assert all(part.place is None for part in index.on("auto")._parts)
    assert "searched on the CPU: Error: This index type is not implemented" in caplog.text


def test_lists_are_found_on_a_gpu_where_there_is_one(
    gpus: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vectors = drawn(900)
    for name in ("cpu", "gpu"):
        dense_faiss.train(vectors, "IVF16,SQ8", "cosine", 1, tmp_path / name)
        made = gpus(1)
        monkeypatch.setattr(made, "_make", lambda index, gpus, options: faiss.clone_index(index))
    assert (tmp_path / "cpu").read_bytes() == (tmp_path / "gpu").read_bytes()
    called: list[Any] = []

    def to_gpu(*given: Any) -> Any:
        called.append(given)
        return given[2]

    monkeypatch.setattr(made, "index_cpu_to_gpu", to_gpu)
    dense_faiss.train(vectors, "OPQ8_16,IVF16,PQ8x4", "cosine", 1, tmp_path / "more")
    [(resources, gpu, index, _)] = called
    assert isinstance(resources, Gpus.StandardGpuResources) and gpu == 0 and index.d == 16
    dense_faiss.train(vectors, "SQ8", "cosine", 1, tmp_path / "none")
    assert len(called) == 1


def test_vectors_that_do_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    index = opened(drawn(900), "Flat", tmp_path)
    monkeypatch.setattr(dense_devices, "torch_gpus", lambda: 1)

    def full(*given: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(dense_devices, "OnTorch", full)
    with pytest.raises(BackendFailed, match="out of memory.*placement: sharded"):
        index.on("cuda")
    assert index.on("auto")._parts[0].place is None


def test_a_gpu_is_asked_for_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert dense_devices._asked("print(3)") == 3
    assert dense_devices._asked("import os; os.abort()") == 0
    assert dense_devices._asked("print('no driver')") == 0

    def slow(*given: Any, **settings: Any) -> None:
        raise subprocess.TimeoutExpired("python", 120)

    monkeypatch.setattr(subprocess, "run", slow)
    assert dense_devices._asked("print(3)") == 0
