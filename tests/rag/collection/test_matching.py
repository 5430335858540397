"""Conditions over the passages of a collection: which rows a search may show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag import Collection
from rag.collection import snapshot as snapshots
from rag.errors import InvalidInput
from rag.where import Where

ROWS: list[dict[str, Any]] = [
    {
        "id": f"p{n}",
        "text": f"apple w{n}",
        "title": f"T{n % 3}",
        "year": None if n % 5 == 4 else 1990 + n,
        "lang": ["en", "de", "fr"][n % 3],
    }
    for n in range(40)
]
RECENT = Where({"year": {"gte": 2000}, "lang": {"in": ["en", "fr"]}})


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    fields: Any = {"year": "int", "lang": "str"}
    made, _ = Collection.build(ROWS, tmp_path / "c", fields=fields, segment_rows=9)
    return made


def recent(row: dict[str, Any]) -> bool:
    return row["year"] is not None and row["year"] >= 2000 and row["lang"] in ("en", "fr")


def test_rows_are_chosen_over_all_segments_and_without_the_deleted(collection: Collection) -> None:
    collection.delete(["p12", "p14", "p3"])
    collection.add([{"id": "new", "text": "apple", "lang": "en", "year": 2020}])
    snapshot = collection.snapshot()
    mask = snapshot.matching(RECENT)
    assert mask is not None
    assert len(snapshot.segments) > 4
    rows = [*ROWS, {"id": "new", "lang": "en", "year": 2020}]
    gone = ("p12", "p14", "p3")
    assert mask.tolist() == [recent(row) and row["id"] not in gone for row in rows]
    with pytest.raises(ValueError, match="read-only"):
        mask[0] = True
    shown = {hit.id for hit in collection.search("apple", 100, where=RECENT)}
    assert shown == {row["id"] for row in rows if recent(row) and row["id"] not in gone}


def test_the_best_of_those_that_fit_fill_the_top_k(collection: Collection) -> None:
    everything = [hit.id for hit in collection.search("apple", 100)]
    german = {row["id"] for row in ROWS if row["lang"] == "de"}
    found = [hit.id for hit in collection.search("apple", 5, where={"lang": "de"})]
    assert found == [name for name in everything if name in german][:5]
    assert collection.search("apple", where={"year": {"gt": 3000}}) == []


def test_titles_ids_and_documents_can_be_compared(collection: Collection) -> None:
    assert [hit.id for hit in collection.search("apple", where={"id": "p7"})] == ["p7"]
    assert [hit.id for hit in collection.search("apple", where={"document": "p8"})] == ["p8"]
    assert {hit.title for hit in collection.search("apple", 50, where={"title": "T1"})} == {"T1"}


def test_nothing_is_masked_where_every_passage_stays(collection: Collection) -> None:
    snapshot = collection.snapshot()
    assert snapshot.matching(None) is None
    assert snapshot.matching(Where({"lang": {"in": ["en", "de", "fr"]}})) is None
    collection.delete(["p1"])
    held = collection.snapshot()
    assert held.matching(None) is held.keep
    mask = held.matching(Where({"lang": {"in": ["en", "de", "fr"]}}))
    assert mask is not None
    assert np.flatnonzero(~mask).tolist() == [1]


def test_a_condition_is_computed_once_and_few_are_held(collection: Collection) -> None:
    snapshot = collection.snapshot()
    first = snapshot.matching(RECENT)
    assert snapshot.matching(Where(RECENT.mapping)) is first
    for year in range(snapshots.MASKS_HELD):
        snapshot.matching(Where({"year": {"gt": 1990 + year}}))
    again = snapshot.matching(RECENT)
    assert again is not first
    assert np.array_equal(again, first)  # type: ignore[arg-type]


def test_a_wrong_field_is_named_with_the_collection(collection: Collection) -> None:
    with pytest.raises(InvalidInput, match=r"c: where: unknown field 'yaer'; did you mean 'year'"):
        collection.search("apple", where={"yaer": 3})
    with pytest.raises(InvalidInput, match=r"year\.gt: found 'x', expected a whole number"):
        collection.search("apple", where={"year": {"gt": "x"}})


def test_an_empty_collection_has_nothing_to_choose_from(tmp_path: Path) -> None:
    fields: Any = {"year": "int"}
    empty = Collection.create(tmp_path / "e", fields=fields)
    assert empty.search("apple", where={"year": 3}) == []
