"""Random jobs on a collection, against a list of passages in memory."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from rag import Collection
from rag.collection import Snapshot
from rag.errors import InvalidInput, NotFound
from rag.sources import Split
from rag.sources.split import pieces

WORDS = ("apple", "birch", "cedar", "delta", "ember")
IDS = ("a", "b", "a#0", "a#1", "a#0#0", "b#0", "é", "東")
Row = dict[str, Any]

texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(
    lambda words: " ".join(word + "." * (n % 3 == 2) for n, word in enumerate(words)).title()
)
documents = st.lists(
    st.fixed_dictionaries(
        {"id": st.sampled_from(IDS), "text": texts},
        optional={
            "title": st.sampled_from(["", "Birch", "Ää"]),
            "number": st.none() | st.integers(-3, 3),
            "flag": st.none() | st.booleans(),
            "other": st.booleans(),
        },
    ),
    max_size=6,
    unique_by=lambda row: str(row["id"]),
)
sizes = st.sampled_from([1, 2, 3, 5, 100])


class Jobs(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "collection"
        self.passages: list[Row] = []
        self.held: list[tuple[Snapshot, list[Row]]] = []

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def cut(self, rows: list[Row]) -> list[Row]:
        """What the passages of these documents are."""
        cut = []
        for row in rows:
            text = row["text"]
            spans = [(0, len(text))] if self.split is None else pieces(text, self.split)
            for part, (start, end) in enumerate(spans):
                cut.append(
                    {
                        "id": row["id"] if self.split is None else f"{row['id']}#{part}",
                        "document": row["id"],
                        "part": part,
                        "start": start,
                        "end": end,
                        "title": row.get("title", ""),
                        "text": text[start:end],
                        "flag": row.get("flag"),
                        "number": row.get("number"),
                        "meta": {"other": row["other"]} if "other" in row else {},
                    }
                )
        return cut

    @initialize(
        rows=documents,
        split=st.sampled_from(
            [None, Split(by="words", size=2), Split(by="words", size=3, overlap=1)]
            + [Split(by="sentences", size=1)]
        ),
        size=sizes,
    )
    def begin(self, rows: list[Row], split: Split | None, size: int) -> None:
        self.split = split
        self.mirror(rows, size)

    @rule(rows=documents, size=sizes)
    def mirror(self, rows: list[Row], size: int) -> None:
        self.collection, done = Collection.build(
            rows,
            self.path,
            fields={"number": "int", "flag": "bool"},
            split=self.split,
            segment_rows=size,
        )
        before, self.passages = self.passages, self.cut(rows)
        assert done.added - done.deleted == len(self.passages) - len(before)
        assert done.added <= len(self.passages)
        assert not done.unchanged or before == self.passages

    @rule(size=sizes)
    def mirror_what_is_there(self, size: int) -> None:
        if self.split is None:
            extra = ("id", "title", "text", "flag", "number")
            rows = [{k: row[k] for k in extra} | row["meta"] for row in self.passages]
            self.mirror(rows, size)

    @rule(rows=documents, how=st.sampled_from(["fail", "skip", "replace"]), size=sizes)
    def add(self, rows: list[Row], how: Literal["fail", "skip", "replace"], size: int) -> None:
        there = {row["document"] for row in self.passages}
        new = {row["id"] for row in rows}
        if how == "fail" and there & new:
            number = self.collection.snapshot().manifest.number
            with pytest.raises(InvalidInput, match="has the document"):
                self.collection.add(rows, on_existing=how, segment_rows=size)
            assert self.collection.snapshot().manifest.number == number
            return
        done = self.collection.add(rows, on_existing=how, segment_rows=size)
        added = self.cut([row for row in rows if how != "skip" or row["id"] not in there])
        gone = [row for row in self.passages if how == "replace" and row["document"] in new]
        assert (done.added, done.deleted) == (len(added), len(gone))
        assert done.skipped == len(self.cut(rows)) - len(added)
        assert done.unchanged == (not added and not gone)
        self.passages = [row for row in self.passages if row not in gone] + added

    @rule(names=st.lists(st.sampled_from([*IDS, "b#1", "a#2", "é#0"]), max_size=4))
    def delete(self, names: list[str]) -> None:
        gone: list[Row] = []
        missing = []
        for name in names:
            passages = [row for row in self.passages if row["id"] == name]
            found = passages or [row for row in self.passages if row["document"] == name]
            missing += [] if found else [name]
            gone += found
        if missing:
            with pytest.raises(NotFound) as error:
                self.collection.delete(names)
            assert all(name in str(error.value) for name in missing)
            return
        done = self.collection.delete(names)
        kept = [row for row in self.passages if row not in gone]
        assert done.deleted == len(self.passages) - len(kept)
        self.passages = kept

    @precondition(lambda self: self.passages)
    @rule()
    def delete_all(self) -> None:
        self.collection.delete([row["id"] for row in self.passages])
        self.passages = []

    @rule(size=sizes)
    def compact(self, size: int) -> None:
        self.collection.compact(segment_rows=size)
        assert self.collection.compact(segment_rows=size).unchanged
        assert not self.collection.snapshot().manifest.deleted

    @rule()
    def reopen(self) -> None:
        self.collection = Collection.open(self.path)

    @rule()
    def hold(self) -> None:
        self.held.append((Collection.open(self.path).snapshot(), list(self.passages)))

    @invariant()
    def holds_the_passages(self) -> None:
        if not hasattr(self, "collection"):
            return
        assert list(self.collection.passages()) == self.passages
        assert len(self.collection) == len(self.passages)
        assert_finds(self.collection.snapshot(), self.passages)
        for word in WORDS:
            hits = self.collection.search(word, k=1000)
            expected = [r["id"] for r in self.passages if word in (r["title"] + r["text"]).lower()]
            assert sorted(hit.id for hit in hits) == sorted(expected)

    @invariant()
    def snapshots_stay_as_they_were(self) -> None:
        for snapshot, passages in self.held:
            assert len(snapshot) == len(passages)
            assert_finds(snapshot, passages)

    @invariant()
    def no_work_is_left(self) -> None:
        assert not hasattr(self, "collection") or not list(self.path.glob(".work/tmp-*"))


def assert_finds(snapshot: Snapshot, passages: list[Row]) -> None:
    """The snapshot has these passages and no other, by id, by document and by number."""
    names = [*IDS, *(f"{name}#{part}" for name in IDS for part in range(4))]
    found = snapshot.find(names)
    expected = {row["id"] for row in passages}
    assert {n for n, number in zip(names, found.tolist(), strict=True) if number >= 0} == expected
    numbers = snapshot.numbers([row["id"] for row in passages])
    assert numbers.tolist() == sorted(numbers.tolist())
    shown = snapshot.rows(numbers, ("text", "document")).to_pylist()
    assert shown == [{"text": row["text"], "document": row["document"]} for row in passages]
    by_document = snapshot.find_documents(list(IDS))
    for place, name in enumerate(IDS):
        own = [
            n for n, row in zip(numbers.tolist(), passages, strict=True) if row["document"] == name
        ]
        assert by_document.get(place, numbers[:0]).tolist() == own


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(
        Jobs,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_any_jobs_leave_what_a_list_in_memory_would_hold() -> None:
    run(12, 12)


@pytest.mark.slow
def test_many_more_jobs_leave_what_a_list_in_memory_would_hold() -> None:
    run(150, 30)


def test_a_document_comes_back_after_it_was_deleted(tmp_path: Path) -> None:
    rows = [{"id": f"p{n}", "text": f"apple {n}"} for n in range(5)]
    collection, _ = Collection.build(rows, tmp_path / "c", segment_rows=2)
    for _ in range(3):
        collection.delete([row["id"] for row in rows])
        assert collection.search("apple") == []
        collection.add(rows, segment_rows=2)
        assert [row["id"] for row in collection.passages()] == [row["id"] for row in rows]
        assert len(collection.search("apple")) == 5
    collection.compact()
    assert collection.verify() == []
    assert [hit.id for hit in collection.search("apple")] == [row["id"] for row in rows]


def test_fields_in_any_order_survive_addition_and_compaction(tmp_path: Path) -> None:
    collection, _ = Collection.build(
        [{"id": "a", "text": "apple", "year": 1, "author": "x"}],
        tmp_path / "c",
        fields={"year": "int", "author": "str"},
    )
    collection.add([{"id": "b", "text": "birch", "year": 2}])
    collection.compact()
    assert [(row["year"], row["author"]) for row in collection.passages()] == [(1, "x"), (2, None)]
