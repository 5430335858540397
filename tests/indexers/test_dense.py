"""The index kind ``dense`` and its stage, with an encoder that draws vectors from texts."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rag import Collection, Pipeline
from rag.batch import Batch
from rag.errors import BackendFailed, Damaged, InvalidInput, MissingExtra, NotFound
from rag.indexers import Dense, dense, dense_faiss
from rag.indexers.dense_index import DenseIndex, Segment
from rag.retrievers import Dense as DenseStage
from rag.stage import Context, Run


class Drawn:
    """Gives a text the vector that its bytes seed; counts what it encodes."""

    kind, dimensions, similarity, name = "dense", 24, "cosine", "drawn"
    hash = "a" * 64
    encoded = 0
    value = 1.0

    def encode(self, texts: Sequence[str], kind: str = "query") -> Any:
        assert kind in ("query", "document")
        if kind == "document":
            type(self).encoded += len(texts)
        seeds = [hashlib.sha256(text.encode()).digest()[:8] for text in texts]
        drawn = [
            np.random.default_rng(int.from_bytes(seed, "big")).standard_normal(self.dimensions)
            for seed in seeds
        ]
        return (np.array(drawn, np.float32) * self.value).reshape(len(texts), self.dimensions)


@pytest.fixture(autouse=True)
def drawn(monkeypatch: pytest.MonkeyPatch) -> type[Drawn]:
    class Here(Drawn):
        pass

    monkeypatch.setattr("rag.encoders.load.load_encoder", lambda name, device="auto": Here())
    monkeypatch.setattr("rag.encoders.load.encoder_hash", lambda name: Here.hash)
    dense._opened.clear()
    return Here


def rows(n: int) -> list[dict[str, Any]]:
    return [{"id": f"p{i}", "title": f"title {i % 7}", "text": f"text {i}"} for i in range(n)]


def table(n: int) -> pa.Table:
    names = pa.schema([("title", pa.large_string()), ("text", pa.large_string())])
    return pa.Table.from_pylist(rows(n), schema=names)


def built(kind: Dense, passages: pa.Table, out: Path) -> Path:
    out.mkdir()
    kind.build(passages, out)
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


FACTORIES = ["Flat", "HNSW16", "SQfp16"]


def needs(factory: str) -> None:
    if factory != "Flat":
        pytest.importorskip("faiss")


@pytest.mark.parametrize("factory", FACTORIES)
def test_the_bytes_do_not_depend_on_the_cut(factory: str, tmp_path: Path) -> None:
    needs(factory)
    kind, passages = Dense(encoder="drawn", factory=factory).pinned(), table(60)
    ends = [0, 7, 7, 40, 60]
    parts = [
        built(kind, passages.slice(a, b - a), tmp_path / f"part-{n}")
        for n, (a, b) in enumerate(itertools.pairwise(ends))
    ]
    keep = np.arange(60) % 3 > 0
    masks = [keep[a:b] for a, b in itertools.pairwise(ends)]
    chosen = passages.filter(pa.array(keep))

    def made(name: str, parts: list[Path], masks: list[Any]) -> dict[str, bytes]:
        vectors, index = tmp_path / f"{name}-vectors", tmp_path / name
        vectors.mkdir()
        index.mkdir()
        kind.gather(parts, masks, vectors)
        kind.index(vectors, None, index)
        return {**files(vectors), **files(index)}

    whole = made("whole", [built(kind, passages, tmp_path / "all")], [None])
    assert made("cut", parts, [None] * 4) == whole
    one = made("one", [built(kind, chosen, tmp_path / "few")], [None])
    assert made("some", parts, masks) == one
    assert made("again", [tmp_path / "cut-vectors"], [keep]) == one


def brute(vectors: Any, queries: Any, k: int, keep: Any) -> list[list[int]]:
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    if keep is not None:
        scores[:, ~keep] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return [[int(r) for r in some if s[r] > -np.inf] for some, s in zip(best, scores, strict=True)]


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_exact_search_is_brute_force_whatever_the_segments(
    similarity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag.indexers.dense_index.ROWS", 50)
    monkeypatch.setattr("rag.indexers.dense_index.QUERIES", 3)
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((400, 12)).astype(np.float32)
    queries = rng.standard_normal((10, 12)).astype(np.float32)
    if similarity == "cosine":
        vectors = dense.unit(vectors)
    ends = [0, 1, 1, 90, 200, 201, 350, 400]
    seven = [Segment(vectors[a:b], similarity, None) for a, b in itertools.pairwise(ends)]
    index = DenseIndex(seven, "drawn", "")
    one = DenseIndex([Segment(vectors, similarity, None)], "drawn", "")
    for share, k in itertools.product((None, 0.9, 0.02, 0.0), (1, 10, 500)):
        keep = None if share is None else rng.random(400) < share
        offsets, found, scores = index.search(queries, k, keep=keep)
        got = [found[a:b].tolist() for a, b in itertools.pairwise(offsets.tolist())]
        assert got == brute(vectors, queries, k, keep)
        for mine, theirs in zip(
            one.search(queries, k, keep=keep), (offsets, found, scores), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)


def test_ties_at_the_cut_go_to_the_lower_row() -> None:
    rng = np.random.default_rng(8)
    vectors = dense.unit(rng.standard_normal((5000, 40)).astype(np.float32))
    same = rng.choice(5000, 3000, replace=False)
    vectors[same] = vectors[7]
    keep = rng.random(5000) < 0.7
    queries = np.concatenate([vectors[[7, 7, 7]], vectors[:6], np.zeros((1, 40), np.float32)])
    parts = [Segment(some, "cosine", None) for some in np.split(vectors, [900, 901, 4000])]
    for k, mask in itertools.product((1, 40, 3100), (None, keep)):
        wanted = brute(vectors, queries, k, mask)
        # The queries that are equal to thousands of rows, and one without a direction.
        for number in (0, 9):
            offsets, found, _ = DenseIndex(parts, "drawn", "").search(queries, k, keep=mask)
            assert found[offsets[number] : offsets[number + 1]].tolist() == wanted[number]
            _, alone, _ = DenseIndex(parts, "drawn", "").search(queries[[number]], k, keep=mask)
            assert alone.tolist() == wanted[number]


@pytest.mark.parametrize("factory", FACTORIES)
def test_filters_deletes_and_compaction(factory: str, drawn: type[Drawn], tmp_path: Path) -> None:
    needs(factory)
    kind = Dense(encoder="drawn", factory=factory)
    made, _ = Collection.build(rows(120), tmp_path / "c", indexes={"dense": kind}, segment_rows=20)
    assert len(made.snapshot().manifest.segments) == 7 and drawn.encoded == 120
    stage = DenseStage(top_k=200)
    gone = [f"p{i}" for i in range(0, 120, 4)]
    questions = [f"title {i % 7} text {i}" for i in range(0, 120, 11)]

    def found() -> list[list[str]]:
        return [
            [h.id for h in row]
            for row in Pipeline([stage], collection=made).run(questions)["documents"]
        ]

    assert [row[0] for row in found()] == [f"p{i}" for i in range(0, 120, 11)]
    made.delete(gone)
    before = found()
    assert all(len(row) == 90 and not set(row) & set(gone) for row in before)
    hits = Pipeline([DenseStage(top_k=7, where=None)], collection=made).run(questions)["documents"]
    assert [[hit.id for hit in row] for row in hits] == [row[:7] for row in before]
    made.compact()
    assert drawn.encoded == 120  # vectors are copied
    assert len(made.snapshot().manifest.segments) == 1
    assert found() == before


def test_a_graph_finds_nearly_all_and_loses_nothing_by_filters(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    rng = np.random.default_rng(2)
    vectors = dense.unit(rng.standard_normal((3000, 16)).astype(np.float32))
    dense_faiss.write(vectors, "HNSW32", "cosine", tmp_path / "index.faiss")
    index = dense_faiss.read(tmp_path / "index.faiss", vectors.shape)
    both = DenseIndex([Segment(vectors, "cosine", index)], "drawn", "")
    queries = rng.standard_normal((50, 16)).astype(np.float32)
    for share in (None, 0.5, 0.01):
        keep = None if share is None else rng.random(3000) < share
        offsets, rows_, _ = both.search(queries, 10, keep=keep)
        _, exact, _ = both.search(queries, 10, keep=keep, exact=True)
        assert offsets.tolist() == list(range(0, 501, 10))
        assert keep is None or keep[rows_].all()
        pairs = zip(rows_.reshape(50, 10), exact.reshape(50, 10), strict=True)
        assert np.mean([len(np.intersect1d(a, b)) for a, b in pairs]) >= 9.9


def test_what_is_refused(
    drawn: type[Drawn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = Collection.build(rows(9), tmp_path / "c", indexes={"d": Dense(encoder="drawn")})
    index = made.snapshot().index("d")
    query = np.ones((1, 24), np.float32)
    with pytest.raises(InvalidInput, match="built with 24 dimensions"):
        index.search(query[:, :5], 3)
    with pytest.raises(InvalidInput, match="no finite number"):
        index.search(query * np.nan, 3)
    with pytest.raises(InvalidInput, match="at least 1"):
        index.search(query, 0)
    with pytest.raises(InvalidInput, match="keep has shape"):
        index.search(query, 1, keep=np.ones(4, bool))
    drawn.value = float("nan")
    with pytest.raises(InvalidInput, match=r"'title 0 text 0' a vector .* \(9 of 9 passages\)"):
        built(Dense(encoder="drawn"), table(9), tmp_path / "nan")
    run = Run()
    step = DenseStage(device="cpu").open(Context(made.snapshot()))
    step(Batch.of(["a"]).put(query=["a"]), run)
    assert "no finite number" in str(run.failed[0])
    drawn.hash = "b" * 64
    with pytest.raises(InvalidInput, match=r"has the hash bbbb.*was built with aaaa"):
        made.add([{"id": "new", "text": "x"}])
    with pytest.raises(InvalidInput, match="has the hash bbbb"):
        Pipeline([DenseStage()], collection=made).run(["a"])
    drawn.kind = "vocabulary"
    with pytest.raises(InvalidInput, match="not dense vectors"):
        Dense(encoder="drawn").pinned()


def test_a_damaged_folder_is_named(tmp_path: Path) -> None:
    kind = Dense(encoder="drawn").pinned()
    vectors, folder = built(kind, table(9), tmp_path / "v"), tmp_path / "i"
    folder.mkdir()
    kind.index(vectors, None, folder)
    assert kind.open([folder], [vectors], None).rows == 9
    np.save(vectors / "vectors.npy", np.zeros((8, 24), np.float32))
    with pytest.raises(Damaged, match="vectors.npy holds"):
        kind.open([folder], [vectors], None)
    (vectors / "vectors.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(Damaged, match="vectors.npy: is damaged"):
        kind.open([folder], [vectors], None)
    for place, name in ((vectors, "vectors.json"), (folder, "index.json")):
        (place / name).write_text("[")
        with pytest.raises(Damaged, match=f"{name} is damaged"):
            kind.open([folder], [vectors], None)
        (place / name).unlink()
        with pytest.raises(NotFound, match=f"{name} is missing"):
            kind.open([folder], [vectors], None)


def test_factories_that_are_refused() -> None:
    pytest.importorskip("faiss")
    for factory, why in {
        "IDMap,SQ8": "leave IDMap away",
        "BFlat": "bits",
        "LSH": "no index",
    }.items():
        with pytest.raises(InvalidInput, match=why):
            Dense(encoder="drawn", factory=factory).pinned()
    with pytest.raises(InvalidInput, match="FAISS makes no index of it"):
        Dense(encoder="drawn", factory="Nothing").pinned()


def test_faiss_is_looked_at_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Found:
        def __init__(self, name: str) -> None:
            self.metadata = {"Name": name}

    def installed(*names: str) -> None:
        monkeypatch.setattr(dense_faiss, "distributions", lambda: [Found(name) for name in names])
        dense_faiss.library.cache_clear()

    installed("faiss-cpu", "faiss-gpu")
    with pytest.raises(InvalidInput, match="faiss-cpu and faiss-gpu are installed"):
        dense_faiss.library()
    installed()
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises((MissingExtra, BackendFailed)):
        dense_faiss.library()
