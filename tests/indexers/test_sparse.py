"""The index kind ``sparse``: exact scores, bytes that do not depend on the cut, damage."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

pytest.importorskip("scipy.sparse")

from scipy import sparse

from rag.collection import Collection
from rag.errors import Damaged, InvalidInput, RagError
from rag.indexers import Sparse
from rag.indexers.sparse_index import SparseIndex

V = 300


class Drawn:
    """An encoder whose vectors are drawn at random, from the text alone."""

    kind, similarity, dimensions, hash = "vocabulary", "dot", V, "a" * 64

    def encode(self, texts: Sequence[str], kind: str = "query") -> Any:
        rows = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in zip(rows, texts, strict=True):
            rng = np.random.default_rng(list(text.encode()))
            entries = rng.integers(0, 30)
            columns = (rng.random(entries) ** 3 * self.dimensions).astype(int)
            row[columns] = rng.gamma(2.0, 0.4, entries)
        return sparse.csr_array(rows)


@pytest.fixture(autouse=True)
def _drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rag.encoders.load.load_encoder", lambda name, device="auto": Drawn())
    monkeypatch.setattr("rag.indexers.sparse._opened", {})


KIND = Sparse(encoder="drawn", hash="a" * 64, dimensions=V)


def table(rows: int, seed: int = 0) -> pa.Table:
    texts = [f"text {seed} {n}" for n in range(rows)]
    titles = [f"title {n}" if n % 3 else "" for n in range(rows)]
    names = pa.schema([("title", pa.large_string()), ("text", pa.large_string())])
    return pa.table({"title": titles, "text": texts}, schema=names)


def vectors(rows: int) -> Any:
    columns = table(rows).to_pydict()
    pairs = zip(columns["title"], columns["text"], strict=True)
    return Drawn().encode([f"{title} {text}" if title else text for title, text in pairs])


def built(passages: pa.Table, out: Path) -> Path:
    out.mkdir()
    KIND.build(passages, out)
    return out


def merged(parts: list[Path], keep: list[NDArray[np.bool_] | None], out: Path) -> dict[str, bytes]:
    """Make a segment's index, and beside it the folder of its vectors; the bytes of both."""
    vectors = beside(out)
    out.mkdir()
    vectors.mkdir()
    KIND.gather(parts, keep, vectors)
    KIND.index(vectors, None, out)
    return {file.name: file.read_bytes() for d in (out, vectors) for file in sorted(d.iterdir())}


def beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-vectors")


def open_all(folders: list[Path]) -> SparseIndex:
    return KIND.open(folders, [beside(folder) for folder in folders], None)


def opened(tmp_path: Path, rows: int, ends: Sequence[int]) -> SparseIndex:
    folders = []
    for n, (a, b) in enumerate(itertools.pairwise([0, *ends, rows])):
        part = built(table(rows).slice(a, b - a), tmp_path / f"part-{n}")
        merged([part], [None], tmp_path / f"segment-{n}")
        folders.append(tmp_path / f"segment-{n}")
    return open_all(folders)


def brute(queries: Any, passages: Any, k: int, keep: Any = None) -> list[tuple[Any, Any]]:
    """The k best of each query by the full product, best first, ties by number."""
    products = queries.toarray().astype(np.float64) @ passages.toarray().astype(np.float64).T
    found = []
    for row in products:
        scores = np.where(keep, row, 0) if keep is not None else row
        best = np.lexsort((np.arange(len(scores)), -scores.astype(np.float32)))[:k]
        best = best[scores[best] > 0]
        found.append((best, scores[best]))
    return found


def same(found: Any, wanted: list[tuple[Any, Any]]) -> None:
    offsets, rows, scores = found
    for number, (best, values) in enumerate(wanted):
        part = slice(offsets[number], offsets[number + 1])
        np.testing.assert_allclose(scores[part], values, rtol=2e-6)
        moved = np.flatnonzero(rows[part] != best)  # but for ties in the last bit
        np.testing.assert_allclose(values[moved], scores[part][moved], rtol=2e-6)


QUERIES = [f"query {n}" for n in range(25)]


def test_the_search_equals_the_full_product(tmp_path: Path) -> None:
    index, passages = opened(tmp_path, 700, []), vectors(700)
    queries = Drawn().encode(QUERIES)
    rng = np.random.default_rng(1)
    for k in (1, 10, 100, 5000):
        same(index.search(queries, k), brute(queries, passages, k))
        for share in (0.5, 0.01, 0.0):
            keep = rng.random(700) < share
            same(index.search(queries, k, keep=keep), brute(queries, passages, k, keep))
    negative = queries.copy()
    negative.data[::3] *= -1
    same(index.search(negative, 20), brute(negative, passages, 20))


def test_several_windows(tmp_path: Path) -> None:
    from rag.indexers import sparse_vectors as files

    rng = np.random.default_rng(5)
    rows, entries = 140_000, 6
    passages = sparse.csr_array(
        (
            rng.gamma(2.0, 0.4, rows * entries).astype(np.float32),
            (rng.random(rows * entries) ** 2 * V).astype(np.int32),
            np.arange(0, rows * entries + 1, entries),
        ),
        shape=(rows, V),
    )
    passages.sum_duplicates()
    found = files.checked(passages, rows, V, "x")
    files.write(tmp_path, V, [found])
    files.invert(found, V, tmp_path)
    index = SparseIndex([files.segment(tmp_path, tmp_path, V)], [(tmp_path, tmp_path)], V)
    queries = Drawn().encode(QUERIES[:5])
    keep = rng.random(rows) < 0.3
    for k in (10, 300):
        same(index.search(queries, k), brute(queries, passages, k))
        same(index.search(queries, k, keep=keep), brute(queries, passages, k, keep))


def test_seven_segments_answer_as_one(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "seven").mkdir()
    one = opened(tmp_path / "one", 400, [])
    seven = opened(tmp_path / "seven", 400, [1, 60, 60, 130, 250, 399])
    queries = Drawn().encode(QUERIES)
    for ours, theirs in zip(one.search(queries, 50), seven.search(queries, 50), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_bytes_do_not_depend_on_how_rows_are_cut(tmp_path: Path) -> None:
    passages = table(50)
    whole = merged([built(passages, tmp_path / "all")], [None], tmp_path / "whole")
    parts = [
        built(passages.slice(a, b - a), tmp_path / f"part-{n}")
        for n, (a, b) in enumerate(itertools.pairwise([0, 7, 7, 30, 50]))
    ]
    assert merged(parts, [None] * 4, tmp_path / "merged") == whole
    keep = np.arange(50) % 3 > 0
    some = built(passages.filter(pa.array(keep)), tmp_path / "some")
    fresh = merged([some], [None], tmp_path / "fresh")
    assert merged([beside(tmp_path / "merged")], [keep], tmp_path / "again") == fresh != whole
    none = merged([beside(tmp_path / "merged")], [np.zeros(50, np.bool_)], tmp_path / "none")
    assert none == merged([], [], tmp_path / "empty")
    offsets, rows, scores = open_all([tmp_path / "none"]).search(Drawn().encode(QUERIES), 3)
    assert offsets.tolist() == [0] * 26 and not len(rows) and not len(scores)


def test_explain_adds_up(tmp_path: Path) -> None:
    index = opened(tmp_path, 60, [20])
    query = Drawn().encode(["query 3"])
    offsets, rows, scores = index.search(query, 5)
    assert offsets[-1] > 0
    for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
        terms = index.explain(query, row)
        assert sum(term.score for term in terms) == pytest.approx(score, rel=1e-6)
        assert [t.score for t in terms] == sorted((t.score for t in terms), reverse=True)
    with pytest.raises(InvalidInput, match="row 60"):
        index.explain(query, 60)


def test_a_collection_deletes_and_compacts(tmp_path: Path) -> None:
    rows = [{"id": f"p{n}", "text": f"passage {n}"} for n in range(60)]
    indexes = {"sparse": Sparse(encoder="drawn")}
    many, _ = Collection.build(rows, tmp_path / "many", indexes=indexes, segment_rows=25)
    queries = Drawn().encode(QUERIES)
    many.delete([f"p{n}" for n in range(0, 60, 2)])
    snapshot = many.snapshot()
    found = snapshot.index("sparse").search(queries, 9, keep=snapshot.keep)
    assert all(number % 2 for number in found[1].tolist())
    many.compact()
    left = [row for n, row in enumerate(rows) if n % 2]
    fresh, _ = Collection.build(left, tmp_path / "fresh", indexes=indexes)
    again, anew = (made.snapshot().index("sparse").search(queries, 9) for made in (many, fresh))
    for ours, theirs in zip(again, anew, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(again[2], found[2])


def test_what_an_encoder_must_not_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (np.nan, np.inf, -1.0, 1e20):
        rows = np.zeros((3, V), np.float32)
        rows[1, 4] = value
        monkeypatch.setattr(Drawn, "encode", lambda *_, rows=rows, **__: sparse.csr_array(rows))
        with pytest.raises(InvalidInput, match="column 4 of text 2 of 3"):
            built(table(3), tmp_path / f"{value}")
    with pytest.raises(InvalidInput, match="shape"):
        built(table(4), tmp_path / "shape")
    monkeypatch.setattr(Drawn, "hash", "b" * 64)
    monkeypatch.setattr("rag.indexers.sparse._opened", {})
    with pytest.raises(InvalidInput, match="give back the encoder"):
        built(table(3), tmp_path / "other")
    monkeypatch.setattr(Drawn, "kind", "dense")
    with pytest.raises(InvalidInput, match="dense vectors"):
        Sparse(encoder="drawn").pinned()


def test_wrong_questions(tmp_path: Path) -> None:
    index = opened(tmp_path, 10, [])
    with pytest.raises(InvalidInput, match="7 columns|shape"):
        index.search(sparse.csr_array((1, 7), dtype=np.float32), 3)
    with pytest.raises(InvalidInput, match="at least 1"):
        index.search(Drawn().encode(["a"]), 0)
    with pytest.raises(InvalidInput, match="keep"):
        index.search(Drawn().encode(["a"]), 3, keep=np.ones(3, np.bool_))
    bad = sparse.csr_array(np.full((1, V), np.nan, np.float32))
    with pytest.raises(InvalidInput, match="no number"):
        index.search(bad, 3)


@pytest.mark.parametrize("name", ["offsets", "columns", "values", "rows", "codes", "starts",
                                  "scales"])  # fmt: skip
def test_damage_is_an_error_and_never_a_crash(tmp_path: Path, name: str) -> None:
    opened(tmp_path, 80, [])
    folder = tmp_path / "segment-0"
    folder = beside(folder) if name in ("offsets", "columns", "values") else folder
    file = folder / f"{name}.npy"
    whole = file.read_bytes()
    queries = Drawn().encode(QUERIES)
    start = 128  # the header
    changed = [whole[:-5], whole[:60], whole[:start] + b"\xff" * (len(whole) - start)]
    rng = np.random.default_rng(3)
    for _ in range(20):
        bytes_ = bytearray(whole)
        for place in rng.integers(start, len(whole), 8):
            bytes_[place] = rng.integers(256)
        changed.append(bytes(bytes_))
    said = 0
    for data in changed:
        file.write_bytes(data)
        try:
            open_all([tmp_path / "segment-0"]).search(queries, 10)
        except RagError as error:
            assert isinstance(error, Damaged)
            assert str(tmp_path) in str(error)
            said += 1
    assert said >= 2
    file.unlink()
    with pytest.raises(RagError, match="missing"):
        open_all([tmp_path / "segment-0"])
