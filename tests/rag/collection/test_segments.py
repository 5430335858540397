"""Seven segments answer as one, on every question of the shipped collection."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag import Collection
from rag.collection import Snapshot

XQUAD = Path(__file__).parents[3] / "examples" / "xquad-en"
Row = dict[str, Any]


def lines(name: str) -> list[Row]:
    data = (XQUAD / name).read_bytes()
    text = gzip.decompress(data) if name.endswith(".gz") else data
    return [json.loads(line) for line in text.decode().rstrip().split("\n")]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return lines("corpus.jsonl.gz")


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> Collection:
    return Collection.build(rows, tmp_path_factory.mktemp("one") / "c")[0]


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> Collection:
    path = tmp_path_factory.mktemp("seven") / "c"
    bounds = np.linspace(0, len(rows), 8).astype(int).tolist()
    collection, _ = Collection.build(rows[: bounds[1]], path)
    for start, end in pairwise(bounds[1:]):
        collection.add(rows[start:end])
    return collection


Answer = list[tuple[list[str], np.ndarray[Any, Any]]]


def answers(snapshot: Snapshot, k: int = 100) -> Answer:
    """The ids and scores of the passages found for each of the 1,190 questions."""
    questions = [row["text"] for row in lines("queries.jsonl")]
    assert len(questions) == 1190
    searcher = snapshot.index(snapshot.index_name("lexical"))
    offsets, docs, scores = searcher.search(questions, k, keep=snapshot.keep)
    ids = snapshot.rows(docs, ("id",))["id"].to_pylist()
    bounds = pairwise(offsets.tolist())
    return [(ids[start:end], scores[start:end]) for start, end in bounds]


def assert_same(left: Answer, right: Answer) -> None:
    for (ids, scores), (other_ids, other_scores) in zip(left, right, strict=True):
        assert ids == other_ids
        np.testing.assert_allclose(scores, other_scores, rtol=1e-6)


def test_before_and_after_deletes_and_after_compaction(
    one: Collection, seven: Collection, rows: list[Row], tmp_path: Path
) -> None:
    assert len(seven.snapshot().manifest.segments) == 7
    assert len(one.snapshot().manifest.segments) == 1
    whole = answers(one.snapshot())
    assert_same(answers(seven.snapshot()), whole)

    gone = [row["_id"] for row in rows[::3]] + [row["_id"] for row in rows[34:68]]
    for collection in (one, seven):
        collection.delete(list(dict.fromkeys(gone)))
    hidden = answers(one.snapshot())
    assert_same(answers(seven.snapshot()), hidden)
    assert not {name for ids, _ in hidden for name in ids} & set(gone)

    # Statistics still count what is hidden, so the scores of what is left have not moved.
    for (ids, scores), (before_ids, before_scores) in zip(hidden, whole, strict=True):
        before = dict(zip(before_ids, before_scores.tolist(), strict=True))
        assert all(before.get(n, s) == s for n, s in zip(ids, scores.tolist(), strict=True))

    left = [row for row in rows if row["_id"] not in set(gone)]
    fresh, _ = Collection.build(left, tmp_path / "fresh")
    expected = answers(fresh.snapshot())
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(hidden, expected, strict=True))
    for collection in (one, seven):
        collection.compact()
        found = answers(collection.snapshot())
        assert [ids for ids, _ in found] == [ids for ids, _ in expected]
        assert all(np.array_equal(a[1], b[1]) for a, b in zip(found, expected, strict=True))
        assert list(collection.passages()) == list(fresh.passages())


def test_compacted_indexes_hold_the_bytes_of_a_fresh_build(tmp_path: Path, rows: list[Row]) -> None:
    collection, _ = Collection.build(rows, tmp_path / "c", segment_rows=50)
    assert len(collection.snapshot().manifest.segments) > 4
    collection.delete([row["_id"] for row in rows[10:120]])
    collection.compact()
    fresh, _ = Collection.build(rows[:10] + rows[120:], tmp_path / "fresh")
    assert index_files(collection) == index_files(fresh)


def index_files(collection: Collection) -> list[dict[str, bytes]]:
    folders = collection.snapshot().manifest.indexes["lexical"].folders
    found = [collection.path / "indexes" / "lexical" / folder for folder in folders]
    return [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in found]
