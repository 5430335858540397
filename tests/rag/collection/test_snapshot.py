"""Snapshots over several segments, against lists in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag import Collection
from rag.collection import Snapshot
from rag.sources import Split

Row = dict[str, Any]
DOCUMENTS = [f"d{n}" for n in range(30)] + ["d1#0", "é", "東京"]
COLUMNS = ("id", "document", "part", "text", "year", "meta")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, list[Row], set[str]]:
    """A snapshot of many segments, all its passages in order, and the ids of the deleted ones."""
    path = tmp_path_factory.mktemp("several") / "c"
    rows: list[Row] = [
        {"id": name, "text": " ".join(f"w{n}" for n in range(1 + place % 7)), "year": place % 3}
        for place, name in enumerate(DOCUMENTS)
    ]
    rows[20]["text"] = " ".join(f"w{n}" for n in range(300))  # a document of several partitions
    rows[21] |= {"year": None, "note": "x"}
    collection, _ = Collection.build(
        rows[:25], path, fields={"year": "int"}, split=Split(by="words", size=2), segment_rows=12
    )
    collection.add(rows[25:], segment_rows=5)
    snapshot = collection.snapshot()
    assert len(snapshot.segments) > 10
    passages = [row for batch in snapshot.passages() for row in batch.to_pylist()]
    gone = {row["id"] for row in passages[::4]} | {
        row["id"] for row in passages if row["document"] in ("d3", "é")
    }
    collection.delete(sorted(gone))
    return collection.snapshot(), passages, gone


Several = tuple[Snapshot, list[Row], set[str]]


@settings(deadline=None)
@given(data=st.data())
def test_rows_gives_any_numbers_in_any_order(several: Several, data: st.DataObject) -> None:
    snapshot, passages, _ = several
    numbers = data.draw(st.lists(st.integers(0, len(passages) - 1), max_size=20))
    columns = data.draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=3, unique=True))
    table = snapshot.rows(np.array(numbers, np.int64), columns)
    assert table.column_names == columns
    assert table.to_pylist() == [{c: passages[n][c] for c in columns} for n in numbers]


@settings(deadline=None)
@given(data=st.data())
def test_find_knows_what_is_there_and_what_is_deleted(
    several: Several, data: st.DataObject
) -> None:
    snapshot, passages, gone = several
    known = st.sampled_from([row["id"] for row in passages])
    ids = data.draw(st.lists(known | st.sampled_from(["", "d", "d1", "d1#", "é#9"]), max_size=20))
    place = {row["id"]: n for n, row in enumerate(passages)}
    expected = [place[name] if name in place and name not in gone else -1 for name in ids]
    assert snapshot.find(ids).tolist() == expected


@settings(deadline=None)
@given(data=st.data())
def test_find_documents_gives_all_passages_of_each(several: Several, data: st.DataObject) -> None:
    snapshot, passages, gone = several
    names = data.draw(st.lists(st.sampled_from([*DOCUMENTS, "", "none", "d1#1"]), max_size=20))
    found = snapshot.find_documents(names)
    for place, name in enumerate(names):
        live = [
            n for n, row in enumerate(passages) if row["document"] == name and row["id"] not in gone
        ]
        assert found.get(place, np.empty(0)).tolist() == live
    assert all(len(numbers) for numbers in found.values())


def test_passages_are_in_order_without_the_deleted(several: Several) -> None:
    snapshot, passages, gone = several
    shown = [row for batch in snapshot.passages() for row in batch.to_pylist()]
    assert shown == [row for row in passages if row["id"] not in gone]
    assert len(snapshot) == len(shown)
    assert snapshot.keep is not None
    assert not snapshot.keep.flags.writeable


def test_a_held_snapshot_answers_as_before(tmp_path: Path) -> None:
    rows = [{"id": f"p{n}", "text": f"apple w{n}"} for n in range(10)]
    collection, _ = Collection.build(rows, tmp_path / "c", segment_rows=3)
    held = collection.snapshot()
    assert collection.snapshot() is held
    collection.delete(["p1"])
    collection.add([{"id": "new", "text": "apple"}])
    collection.compact()
    Collection.build(rows[:2], tmp_path / "c")
    searcher = held.index("lexical")
    _, docs, _ = searcher.search(["apple"], 100, keep=held.keep)
    assert held.rows(np.sort(docs), ("id",))["id"].to_pylist() == [row["id"] for row in rows]
    assert len(held) == 10
    assert len(collection) == 2
    assert [len(collection.snapshot(n)) for n in range(1, 6)] == [10, 9, 10, 10, 2]


def test_ids_whose_hashes_collide_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag.collection import segments

    def few(ids: Any) -> Any:
        names = ids if isinstance(ids, list) else ids.to_pylist()
        return np.array([len(name) % 2 for name in names], np.uint64)

    monkeypatch.setattr(segments, "hash_ids", few)
    rows = [{"id": "x" * n, "text": "one two three"} for n in range(1, 9)]
    collection, _ = Collection.build(
        rows, tmp_path / "c", split=Split(by="words", size=1), segment_rows=10
    )
    snapshot = collection.snapshot()
    ids = [row["id"] for row in collection.passages()]
    assert snapshot.find([*ids, "xx", "y#0"]).tolist() == [*range(24), -1, -1]
    found = snapshot.find_documents(["xxx", "none", "x"])
    assert {place: numbers.tolist() for place, numbers in found.items()} == {
        0: [6, 7, 8],
        2: [0, 1, 2],
    }
