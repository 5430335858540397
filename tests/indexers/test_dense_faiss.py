"""FAISS's indexes of segments: what they find is what exact search finds, or nearly."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rag.errors import Damaged, InvalidInput
from rag.indexers import dense_faiss
from rag.indexers.dense import unit
from rag.indexers.dense_index import DenseIndex, Segment

pytest.importorskip("faiss")

FACTORIES = [
    "HNSW16",
    "HNSW16_SQ8",
    "IVF16,Flat",
    "IVF16,PQ8",
    "IVF16,PQ8x4fs",
    "IVF16,PQ8x4fs,Refine(SQfp16)",
    "IVF16,SQ8",
    "IVF16_HNSW8,SQfp16",
    "OPQ8,IVF16,PQ8x4fs",
    "OPQ8_16,PQ8x4",
    "PCA8,SQ8",
    "PQ8",
    "PQ8x4fs,RFlat",
    "SQ4",
    "SQ8",
    "SQbf16",
]
ALL = 1e6
"""An effort with which every list and node is looked at."""


def clustered(rows: int, dimensions: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((rows // 20, dimensions))
    drawn = centres[rng.integers(0, len(centres), rows)]
    return unit((drawn + 0.6 * rng.standard_normal(drawn.shape)).astype(np.float32))


def segments(
    vectors: Any, cuts: list[int], factory: str, folder: Path, similarity: str = "cosine"
) -> DenseIndex:
    """Segments that are cut at ``cuts``, of indexes that are trained once."""
    trained = None
    if dense_faiss.training_rows(factory, vectors.shape[1], similarity):
        trained = folder / "trained"
        dense_faiss.train(vectors[::2], factory, similarity, 1, trained)
    parts = []
    for number, (a, b) in enumerate(itertools.pairwise([0, *cuts, len(vectors)])):
        file = folder / f"{number}"
        dense_faiss.write(vectors[a:b], factory, similarity, file, trained)
        index = dense_faiss.read(file, vectors[a:b].shape)
        parts.append(Segment(vectors[a:b], similarity, index))
    return DenseIndex(parts, "drawn", "")


def assert_same(found: Any, wanted: Any) -> None:
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("factory", FACTORIES)
def test_with_full_effort_every_factory_is_exact(
    factory: str, similarity: str, tmp_path: Path
) -> None:
    rng = np.random.default_rng(FACTORIES.index(factory))
    vectors = clustered(900, 16, 3)
    if similarity == "dot":
        vectors *= rng.uniform(0.5, 2, (900, 1)).astype(np.float32)
    vectors[400:420] = vectors[0]  # ties
    cuts = sorted(rng.choice(np.arange(50, 850), rng.integers(0, 7), replace=False).tolist())
    index = segments(vectors, cuts, factory, tmp_path, similarity)
    queries = np.concatenate([vectors[:2], rng.standard_normal((4, 16)).astype(np.float32)])
    for share, k in itertools.product((None, 0.97, 0.3, 0.06, 0.01), (1, 10, 950)):
        keep = None if share is None else rng.random(900) < share
        found = index.search(queries, k, keep=keep, effort=ALL)
        assert_same(found, index.search(queries, k, keep=keep, exact=True))


@pytest.mark.parametrize("factory", FACTORIES)
def test_filters_cost_no_hits_whatever_the_effort(factory: str, tmp_path: Path) -> None:
    vectors = clustered(900, 16, 3)
    index = segments(vectors, [300, 301], factory, tmp_path)
    rng = np.random.default_rng(1)
    for share in (0.9, 0.2, 0.06):
        keep = rng.random(900) < share
        offsets, rows, scores = index.search(vectors[:20], 50, keep=keep, effort=0.1)
        assert np.diff(offsets).tolist() == [min(50, int(keep.sum()))] * 20
        assert keep[rows].all()
        for a, b in itertools.pairwise(offsets.tolist()):
            assert len(set(rows[a:b].tolist())) == b - a
            assert (np.diff(scores[a:b]) <= 0).all()


@pytest.mark.parametrize("factory", ["HNSW16", "IVF32,PQ16x4fs,Refine(SQfp16)", "PQ16x4fs"])
def test_seven_segments_find_what_one_finds(factory: str, tmp_path: Path) -> None:
    vectors = clustered(4200, 32, 5)
    rng = np.random.default_rng(6)
    near = vectors[rng.choice(4200, 200, replace=False)]
    queries = (near + 0.1 * rng.standard_normal(near.shape)).astype(np.float32)
    recalls = []
    for name, cuts in {"one": [], "seven": [200, 900, 1500, 2000, 3000, 3600]}.items():
        (tmp_path / name).mkdir()
        index = segments(vectors, cuts, factory, tmp_path / name)
        found, wanted = (index.search(queries, 10, exact=exact)[1] for exact in (False, True))
        pairs = zip(found.reshape(200, 10), wanted.reshape(200, 10), strict=True)
        recalls.append(np.mean([len(np.intersect1d(*pair)) for pair in pairs]) / 10)
    one, seven = recalls
    assert one >= 0.95 and seven >= one - 0.01


@pytest.mark.parametrize("factory", ["IVF8,Flat", "OPQ8,IVF8,PQ8x4fs", "PQ8", "SQ8"])
def test_the_same_sample_and_seed_train_the_same_bytes(factory: str, tmp_path: Path) -> None:
    vectors = clustered(600, 16, 1)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        dense_faiss.train(vectors, factory, "cosine", seed, tmp_path / name)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b
    assert (a == c) == (factory == "SQ8")  # it draws nothing
    for name in ("x", "y"):
        dense_faiss.write(vectors, factory, "cosine", tmp_path / name, tmp_path / "a")
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_how_many_rows_are_wanted_for_training() -> None:
    wanted = {"Flat": 0, "HNSW32": 0, "SQfp16": 0, "SQ8": 65_536, "IVF4096,Flat": 262_144}
    for factory, rows in wanted.items():
        assert dense_faiss.training_rows(factory, 32, "cosine") == rows


def test_too_few_rows_and_other_vectors(tmp_path: Path) -> None:
    few = clustered(100, 16, 1)
    for factory, least in {"IVF128,Flat": 128, "PQ8": 256, "OPQ8,IVF8,PQ8": 256}.items():
        with pytest.raises(InvalidInput, match=rf"trained on {least} rows .* there are 100"):
            dense_faiss.train(few, factory, "cosine", 1, tmp_path / "t")
    with pytest.raises(InvalidInput, match="needs training"):
        dense_faiss.write(few, "SQ8", "cosine", tmp_path / "i")
    dense_faiss.train(few, "SQ8", "cosine", 1, tmp_path / "t")
    with pytest.raises(Damaged, match="16 dimensions"):
        dense_faiss.write(few[:, :8], "SQ8", "cosine", tmp_path / "i", tmp_path / "t")
    dense_faiss.write(few, "SQ8", "cosine", tmp_path / "i", tmp_path / "t")
    with pytest.raises(Damaged, match="holds 100 vectors"):
        dense_faiss.read(tmp_path / "i", (99, 16))
    (tmp_path / "i").write_bytes((tmp_path / "i").read_bytes()[:300])
    with pytest.raises(Damaged, match="is damaged"):
        dense_faiss.read(tmp_path / "i", (100, 16))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux what is in memory")
@pytest.mark.parametrize("factory", ["HNSW4", "IVF8,Flat", "SQfp16"])
def test_an_index_is_mapped_and_not_read_into_memory(factory: str, tmp_path: Path) -> None:
    def own() -> int:
        text = Path("/proc/self/status").read_text()
        return int(text.partition("RssAnon:")[2].split()[0]) << 10

    vectors = np.random.default_rng(0).standard_normal((2_000, 1024), dtype=np.float32)
    trained = None
    if dense_faiss.training_rows(factory, 1024, "dot"):
        trained = tmp_path / "trained"
        dense_faiss.train(vectors[:200], factory, "dot", 1, trained)
    dense_faiss.write(vectors, factory, "dot", tmp_path / "i", trained)
    before = own()
    index = dense_faiss.read(tmp_path / "i", vectors.shape)
    assert own() - before < (tmp_path / "i").stat().st_size / 4
    assert dense_faiss.search(index, vectors[:3], 1, None)[:, 0].shape == (3,)
