"""What the SDK says to arguments that cannot be used."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag import Collection
from rag.collection import manifest
from rag.errors import BadRow, InvalidInput, NotFound
from rag.indexers import Lexical
from rag.passages import RESERVED
from rag.sources import Split

ROWS = [{"id": f"p{n}", "text": f"apple birch {n}"} for n in range(4)]


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return Collection.build(ROWS, tmp_path / "c", segment_rows=2)[0]


@pytest.mark.parametrize("name", RESERVED)
def test_a_reserved_field_is_refused(name: str, tmp_path: Path) -> None:
    for make in (
        lambda: Collection.create(tmp_path / "c", fields={name: "str"}),
        lambda: Collection.build(ROWS, tmp_path / "c", fields={name: "str"}),
    ):
        with pytest.raises(InvalidInput, match=f"field '{name}': the name is taken"):
            make()
    assert not manifest.numbers(tmp_path / "c")


def test_an_unknown_type_of_a_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="field 'year': found 'date', expected str, int"):
        Collection.create(tmp_path / "c", fields={"year": "date"})  # type: ignore[dict-item]


@pytest.mark.parametrize("name", ["", "a/b", "..", "-", "ä", "a b", "a\n"])
def test_a_bad_name_of_an_index_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="use letters, digits, -, _ and"):
        Collection.create(tmp_path / "c", indexes={name: Lexical()})


def test_an_index_that_is_no_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"index 'a': found 'lexical', expected an index kind"):
        Collection.create(tmp_path / "c", indexes={"a": "lexical"})  # type: ignore[dict-item]


def test_deleting_unknown_ids_names_them_all_and_deletes_nothing(collection: Collection) -> None:
    with pytest.raises(NotFound, match="no passage or document has the id x, y; nothing was del"):
        collection.delete(["p0", "x", "p1", "y", "x"])
    assert len(collection) == 4
    assert collection.snapshot().manifest.number == 1
    with pytest.raises(NotFound, match="id n0, .*n9, …; nothing"):
        collection.delete([f"n{n}" for n in range(30)])
    collection.delete(["p0"])
    with pytest.raises(NotFound, match="id p0;"):
        collection.delete(["p0"])


def test_delete_takes_a_list_of_strings(collection: Collection) -> None:
    with pytest.raises(InvalidInput, match=r"write delete\(\[id\]\)"):
        collection.delete("p0")
    with pytest.raises(InvalidInput, match="found 7, expected a string"):
        collection.delete([7])  # type: ignore[list-item]
    assert collection.delete([]).unchanged
    assert collection.snapshot().manifest.number == 1


def test_deleting_the_same_twice_in_one_call_counts_once(tmp_path: Path) -> None:
    collection, _ = Collection.build(
        [{"id": "a", "text": "one two three four"}, {"id": "b", "text": "five"}],
        tmp_path / "c",
        split=Split(by="words", size=2),
    )
    assert collection.delete(["a#0", "a", "a#0"]).deleted == 2
    assert [row["id"] for row in collection.passages()] == ["b#0"]


@pytest.mark.parametrize("k", [0, -1])
def test_a_search_for_nothing_is_refused(k: int, collection: Collection) -> None:
    with pytest.raises(InvalidInput, match=f"found k = {k}, expected 1 or more"):
        collection.search("apple", k=k)


def test_more_than_there_is_and_words_that_are_nowhere(collection: Collection) -> None:
    assert len(collection.search("apple", k=10**6)) == 4
    assert collection.search("nowhere") == []
    assert collection.search("") == []
    assert collection.search("the of and") == []


def test_an_addition_that_fails_adds_nothing(collection: Collection) -> None:
    with pytest.raises(InvalidInput, match="has the document 'p2' already; add with --on-existing"):
        collection.add([{"id": "new", "text": "t"}, {"id": "p2", "text": "t"}])
    assert [row["id"] for row in collection.passages()] == ["p0", "p1", "p2", "p3"]
    assert collection.snapshot().manifest.number == 1


BAD: list[tuple[list[Any], str]] = [
    ([{"id": "a", "text": "t"}, {"id": "b"}], "^rows:2: field 'text': no key 'text'"),
    ([{"id": "a", "text": "t"}, {"text": "t"}], "^rows:2: field 'id': no key"),
    ([{"id": "a", "text": "t"}, {"id": "a", "text": "u"}], "^rows:2: field 'id': 'a' is the id of"),
    ([{"id": "a", "text": ""}], "^rows:1: field 'text': 'text' is empty"),
    ([{"id": 1.5, "text": "t"}], "^rows:1: field 'id'"),
    ([{"id": "a", "text": "t", "when": datetime.date(2000, 1, 1)}], "^rows:1: .*not JSON"),
    ([{"id": "a", "text": float("nan")}], "^rows:1: "),
    (["a"], "^rows:1: field 'row': found str; give a list of mappings"),
    ([{"id": "a", "text": "t"}, None], "^rows:2: field 'row': found NoneType"),
    ([{"id": "a", "text": "t\ud800"}], "^rows:1: field 'text': half of a surrogate pair"),
]


@pytest.mark.parametrize(("rows", "message"), BAD)
def test_a_bad_row_from_python_is_named_by_its_number(
    rows: list[Any], message: str, collection: Collection, tmp_path: Path
) -> None:
    for job in (
        lambda: collection.add(rows),
        lambda: Collection.build(rows, collection.path),
        lambda: Collection.build(rows, tmp_path / "new"),
    ):
        with pytest.raises(BadRow, match=message) as error:
            job()
        assert str(tmp_path) not in str(error.value)
    assert len(collection) == 4
    assert not manifest.numbers(tmp_path / "new")
    assert not list(tmp_path.glob("*/.work/tmp-*"))


def test_one_mapping_in_place_of_a_list_is_told(collection: Collection) -> None:
    with pytest.raises(BadRow, match="found str; give a list of mappings"):
        collection.add({"id": "a", "text": "t"})  # type: ignore[dict-item]


def test_rows_that_raise_leave_nothing_behind(collection: Collection) -> None:
    def rows() -> Any:
        yield {"id": "a", "text": "t"}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        collection.add(rows())
    assert len(collection) == 4
    assert not list(collection.path.glob(".work/*"))


def test_a_source_that_is_not_there(collection: Collection, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such file or folder"):
        collection.add(tmp_path / "nowhere.jsonl")
    with pytest.raises(NotFound, match="no such file or folder"):
        Collection.build(str(tmp_path / "nowhere.jsonl"), tmp_path / "d")


def test_sizes_and_workers_below_one_are_refused(collection: Collection) -> None:
    with pytest.raises(InvalidInput, match="segment rows: found 0, expected 1 or more"):
        collection.add(ROWS, segment_rows=0)
    with pytest.raises(InvalidInput, match="workers: found 0, expected 1 or more"):
        collection.compact(workers=0)


def test_an_absent_index_shows_the_line_that_adds_it(tmp_path: Path) -> None:
    collection, _ = Collection.build(ROWS, tmp_path / "c", indexes={})
    with pytest.raises(NotFound, match=r"no lexical index; 'rag index .*c --index lexical' adds"):
        collection.search("apple")
    collection.add_index({"lexical": Lexical()})
    assert len(collection.search("apple")) == 4
    with pytest.raises(NotFound, match="no index 'dense'; there are: lexical"):
        collection.snapshot().index_name("lexical", "dense")


def test_several_indexes_of_a_kind_must_be_told_apart(collection: Collection) -> None:
    collection.add_index({"plain": Lexical(stemmer="none")})
    with pytest.raises(InvalidInput, match=r"several lexical indexes \(lexical, plain\); name one"):
        collection.search("apple")
    snapshot = collection.snapshot()
    assert snapshot.index_name("lexical", "plain") == "plain"
    collection.add([{"id": "new", "text": "apples"}])
    entries = collection.snapshot().manifest.indexes
    sizes = {name: len(entry.folders) for name, entry in entries.items()}
    assert sizes == {"lexical": 3, "plain": 3}


def test_other_settings_replace_an_index(collection: Collection) -> None:
    assert collection.add_index({"lexical": Lexical()}).unchanged
    collection.add([{"id": "new", "text": "apples"}])
    assert len(collection.search("apple", k=9)) == 5
    assert not collection.add_index({"lexical": Lexical(stemmer="none")}).unchanged
    assert len(collection.search("apple", k=9)) == 4


def test_an_unknown_column_lists_those_there_are(collection: Collection) -> None:
    with pytest.raises(InvalidInput, match="no column 'body'; they have: id, document, part"):
        collection.snapshot().rows(np.array([0]), ("id", "body"))
    for number in (-1, 4):
        with pytest.raises(InvalidInput, match="numbers run to 3"):
            collection.snapshot().rows(np.array([number]), ("id",))
    with pytest.raises(NotFound, match="no passage 'x'"):
        collection.snapshot().numbers(["p0", "x"])


def test_an_empty_collection_answers(tmp_path: Path) -> None:
    collection = Collection.create(tmp_path / "c")
    assert (len(collection), list(collection.passages()), collection.search("a")) == (0, [], [])
    assert collection.verify() == []
    assert collection.compact().unchanged
    assert collection.add([]).unchanged
    snapshot = collection.snapshot()
    assert snapshot.find(["a"]).tolist() == [-1]
    assert snapshot.rows(np.empty(0, np.int64), ("id", "text")).num_rows == 0
    collection.add(ROWS)
    assert len(collection.search("apple")) == 4


def test_a_mapping_of_the_first_source_is_used_again(tmp_path: Path) -> None:
    from rag.sources import Source

    for name in ("a", "b"):
        file = tmp_path / f"{name}.jsonl"
        file.write_text(f'{{"key":"{name}","body":"apple","head":"{name}"}}\n')
    mapping = {"id": "key", "text": "body", "title": "head"}
    source = Source(type="jsonl", path=str(tmp_path / "a.jsonl"), fields=mapping)
    collection, _ = Collection.build(source, tmp_path / "c")
    Collection.open(tmp_path / "c").add(tmp_path / "b.jsonl")
    assert [(row["id"], row["title"]) for row in collection.passages()] == [("a", "a"), ("b", "b")]
    collection.add([{"id": "c", "text": "apple", "title": "c"}])
    assert len(collection) == 3
