"""A job that finds everything as it should be writes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag import Collection
from rag.collection import manifest
from rag.sources import Source, detect

WriteRows = Callable[[Path, list[dict[str, Any]]], Path]
ROWS = [{"id": f"p{n}", "text": f"apple birch {n}"} for n in range(20)]


@pytest.fixture
def source(tmp_path: Path, write_rows: WriteRows) -> Path:
    return write_rows(tmp_path / "rows.jsonl", ROWS)


def state(path: Path) -> dict[str, tuple[int, int]]:
    """Every file of the collection but the log, with its time and inode."""
    files = [file for file in path.rglob("*") if file.is_file() and file.parent.name != "log"]
    stats = [(str(file), file.stat()) for file in files]
    return {name: (stat.st_mtime_ns, stat.st_ino) for name, stat in stats}


def again(source: Any, path: Path, **more: Any) -> bool:
    before = state(path)
    _, done = Collection.build(source, path, **({"segment_rows": 6} | more))
    assert state(path) == before
    return done.unchanged


def test_run_again_with_the_source_as_it_was(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "c"
    Collection.build(source, path, segment_rows=6)
    assert again(source, path)
    assert again(source, path, workers=2)


def test_run_again_with_another_time_or_name_of_the_source(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "c"
    Collection.build(source, path, segment_rows=6)
    os.utime(source, (1, 1))
    assert again(source, path)
    moved = source.rename(tmp_path / "moved.jsonl")
    assert again(moved, path)
    assert again(ROWS, path)


def test_run_again_after_compaction(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "c"
    collection, _ = Collection.build(source, path, segment_rows=6)
    assert not collection.compact().unchanged
    assert len(collection.snapshot().manifest.segments) == 1
    assert again(source, path)
    assert again(source, path)
    before = state(path)
    assert collection.compact().unchanged
    assert state(path) == before


def test_run_again_after_an_addition_and_compaction(
    source: Path, tmp_path: Path, write_rows: WriteRows
) -> None:
    path = tmp_path / "c"
    more = [{"id": "new", "text": "cedar"}]
    collection, _ = Collection.build(source, path, segment_rows=6)
    collection.add(more)
    collection.compact()
    write_rows(source, [*ROWS, *more])
    _, done = Collection.build(source, path, segment_rows=6)
    assert len(Collection.open(path)) == 21
    assert again(source, path)
    assert done.manifest.number == manifest.numbers(path)[-1]


def test_a_source_that_changed_is_read_again(
    source: Path, tmp_path: Path, write_rows: WriteRows
) -> None:
    path = tmp_path / "c"
    Collection.build(source, path, segment_rows=6)
    write_rows(source, [*ROWS[:-1], {"id": "p19", "text": "apple birch 20"}])
    collection, done = Collection.build(source, path, segment_rows=6)
    assert not done.unchanged
    assert [row["text"] for row in collection.passages()][-1] == "apple birch 20"
    assert not Collection.build(ROWS[:-1], path, segment_rows=6)[1].unchanged
    assert len(Collection.open(path)) == 19


def test_what_was_deleted_is_back_after_a_run(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "c"
    collection, _ = Collection.build(source, path, segment_rows=6)
    collection.delete(["p3", "p4"])
    _, done = Collection.build(source, path, segment_rows=6)
    assert not done.unchanged
    assert (done.added, done.deleted) == (2, 0)
    assert [row["id"] for row in collection.passages()] == [row["id"] for row in ROWS]


def test_skipped_rows_are_told_in_every_run(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"id":"a","text":"apple"}\n{"id":"b"}\n')
    settings = detect(file).model_copy(update={"on_bad": "skip"})
    assert isinstance(settings, Source)
    for _ in range(3):
        _, done = Collection.build(settings, tmp_path / "c")
        assert done.bad == 1
        assert done.bad_file is not None
        assert done.bad_file.read_text().count("\n") == 1
    assert manifest.numbers(tmp_path / "c") == [1]
