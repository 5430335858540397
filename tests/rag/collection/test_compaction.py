"""Which segments a compaction rewrites, and which it leaves as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag import Collection


def grown(path: Path, sizes: list[int]) -> Collection:
    """A collection with one segment of each of these sizes."""
    collection = Collection.create(path)
    for number, size in enumerate(sizes):
        collection.add([{"id": f"{number}-{n}", "text": f"apple w{n}"} for n in range(size)])
    return collection


def rows(collection: Collection) -> list[int]:
    return [entry.rows for entry in collection.snapshot().manifest.segments]


@pytest.mark.parametrize(
    ("sizes", "limit", "expected"),
    [
        ([3, 2, 4], 100, [9]),
        ([3, 2, 4], 5, [5, 4]),
        ([5, 1, 1, 6, 1], 6, [6, 1, 6, 1]),
        ([4, 4, 4], 5, [4, 4, 4]),
        ([9], 5, [9]),
    ],
)
def test_neighbours_become_one_up_to_the_limit(
    sizes: list[int], limit: int, expected: list[int], tmp_path: Path
) -> None:
    collection = grown(tmp_path / "c", sizes)
    before = [row["id"] for row in collection.passages()]
    done = collection.compact(segment_rows=limit)
    assert rows(collection) == expected
    assert done.unchanged == (sizes == expected)
    assert [row["id"] for row in collection.passages()] == before
    assert collection.compact(segment_rows=limit).unchanged


def test_only_what_holds_deleted_rows_or_is_small_is_rewritten(tmp_path: Path) -> None:
    collection = grown(tmp_path / "c", [4, 4, 4, 1, 1])
    collection.delete(["1-0", "1-2"])
    before = [entry.folder for entry in collection.snapshot().manifest.segments]
    done = collection.compact(segment_rows=4)
    after = [entry.folder for entry in collection.snapshot().manifest.segments]
    assert done.deleted == 2
    assert rows(collection) == [4, 2, 4, 2]
    assert [folder in before for folder in after] == [True, False, True, False]
    assert not collection.snapshot().manifest.deleted


def test_segments_with_nothing_left_go(tmp_path: Path) -> None:
    collection = grown(tmp_path / "c", [2, 3, 2])
    collection.delete(["1-0", "1-1", "1-2"])
    collection.compact(segment_rows=2)
    assert rows(collection) == [2, 2]
    collection.delete(["0-0", "0-1", "2-0", "2-1"])
    collection.compact()
    assert rows(collection) == []
    assert collection.search("apple") == []
    assert collection.add([{"id": "1-0", "text": "apple"}]).added == 1
