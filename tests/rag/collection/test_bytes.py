"""The same source gives the same bytes, however it was read and built."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag import Collection
from rag.passages import FieldType
from rag.sources import Split, reader

Trees = Callable[[Path], dict[str, bytes]]
WriteRows = Callable[[Path, list[dict[str, Any]]], Path]
FIELDS: dict[str, FieldType] = {"year": "int", "draft": "bool", "author": "str", "weight": "float"}


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    chance = random.Random(3)
    words = ["apple", "Straße", "東京", "naïve", "delta", "e\u0301"]
    rows = []
    for number in range(400):
        row: dict[str, Any] = {"id": f"p{number}", "text": " ".join(chance.choices(words, k=9))}
        row["title"] = chance.choice(["", "Ä", "title"])
        row["year"] = chance.choice([None, 0, -5, 1999])
        row["draft"] = chance.choice([None, True, False])
        row["author"] = chance.choice([None, "", "é", "author"])
        row["weight"] = chance.choice([None, 0.0, -0.0, 1.5])
        rows.append(row | chance.choice([{}, {"note": ["ß", 1, None]}]))
    return rows


@pytest.fixture(scope="module")
def source(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], write_rows: WriteRows
) -> Path:
    return write_rows(tmp_path_factory.mktemp("source") / "rows.jsonl", rows)


def build(source: Any, path: Path, **more: Any) -> Path:
    split = Split(by="words", size=5, overlap=1)
    Collection.build(source, path, fields=FIELDS, segment_rows=60, split=split, **more)
    return path


@pytest.fixture(scope="module")
def expected(
    tmp_path_factory: pytest.TempPathFactory, source: Path, trees: Trees
) -> dict[str, bytes]:
    return trees(build(source, tmp_path_factory.mktemp("expected") / "c"))


def test_on_two_processes(
    source: Path, tmp_path: Path, trees: Trees, expected: dict[str, bytes]
) -> None:
    path = build(source, tmp_path / "c", workers=2)
    assert trees(path) == expected
    alone = build(source, tmp_path / "d")
    texts = [(folder / "manifest" / "000001.json").read_bytes() for folder in (path, alone)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("size", [1, 7, 61])
def test_in_batches_of_any_size(
    size: int,
    source: Path,
    tmp_path: Path,
    trees: Trees,
    expected: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader, "BATCH", size)
    assert trees(build(source, tmp_path / "c")) == expected


def test_from_rows_in_memory_and_with_fields_in_another_order(
    rows: list[dict[str, Any]], tmp_path: Path, trees: Trees, expected: dict[str, bytes]
) -> None:
    assert trees(build(iter(rows), tmp_path / "c")) == expected
    backwards = dict(reversed(FIELDS.items()))
    split = Split(by="words", size=5, overlap=1)
    Collection.build(rows, tmp_path / "d", fields=backwards, segment_rows=60, split=split)
    assert trees(tmp_path / "d") == expected


def test_a_source_that_grew_gives_what_a_fresh_build_gives(
    rows: list[dict[str, Any]], tmp_path: Path, trees: Trees, expected: dict[str, bytes]
) -> None:
    path = build(rows[:150] + rows[200:], tmp_path / "c")
    before = set(trees(path))
    build(rows, path)
    after = trees(path)
    assert {name: after[name] for name in expected} == expected
    # What was not touched by the new rows was kept, not built under another name.
    assert len(before & set(expected)) > len(expected) // 4


def test_an_inserted_row_builds_little_again(
    rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag.collection import build as work

    path = tmp_path / "c"
    Collection.build(rows, path, segment_rows=20)
    built: list[str] = []
    build_piece = work.build_piece

    def counted(task: work.PieceTask) -> int:
        built.append(task.piece.key)
        return build_piece(task)

    monkeypatch.setattr(work, "build_piece", counted)
    inserted = [*rows[:200], {"id": "new", "text": "delta"}, *rows[200:]]
    _, done = Collection.build(inserted, path, segment_rows=20)
    assert len(set(built)) <= 6
    assert (done.manifest.live, done.added - done.deleted) == (401, 1)
    assert [row["id"] for row in Collection.open(path).passages()] == [r["id"] for r in inserted]
