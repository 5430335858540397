"""The manifest: what is read is what was written, and two never share a number."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag import Collection
from rag.collection import manifest
from rag.collection.manifest import DeletedEntry, IndexEntry, Manifest, SegmentEntry
from rag.errors import Damaged, NotFound

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
count = st.integers(0, 2**40)
plain = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text | st.floats(-1e9, 1e9)
manifests = st.builds(
    Manifest,
    fields=st.dictionaries(text, st.sampled_from(["str", "int", "float", "bool"]), max_size=3),
    split=st.none() | st.dictionaries(text, plain, max_size=3),
    mapping=st.dictionaries(text, text, max_size=3),
    segments=st.lists(
        st.builds(
            SegmentEntry,
            folder=text,
            rows=count,
            characters=count,
            covers=st.lists(st.tuples(text, count), max_size=3).map(tuple),
        ),
        max_size=3,
    ).map(tuple),
    indexes=st.dictionaries(
        text,
        st.builds(
            IndexEntry,
            type=text,
            settings=st.dictionaries(text, plain, max_size=3),
            folders=st.lists(text, max_size=3).map(tuple),
        ),
        max_size=2,
    ),
    deleted=st.dictionaries(
        text, st.builds(DeletedEntry, file=text, sha256=text, rows=count), max_size=2
    ),
    pipeline=st.none() | text,
    number=st.just(0),
)


@given(manifests)
def test_what_is_written_is_read(state: Manifest) -> None:
    written = manifest._text(state)
    assert manifest.parse(written, Path("m")) == state
    assert manifest.parse(written, Path("m")).checksum == state.checksum


@settings(max_examples=30)
@given(manifests, st.data())
def test_any_other_byte_is_damage(state: Manifest, data: st.DataObject) -> None:
    written = bytearray(manifest._text(state))
    place = data.draw(st.integers(0, len(written) - 1))
    written[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Damaged, match="^m: the manifest is damaged"):
        manifest.parse(bytes(written), Path("m"))


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{}", b"\xff", b"[" * 5000, b'"\\ud800"'])
def test_what_is_no_manifest_is_damage(text: bytes) -> None:
    with pytest.raises(Damaged, match="^m: the manifest is damaged"):
        manifest.parse(text, Path("m"))


def test_of_many_racing_commits_each_number_is_one_writers(tmp_path: Path) -> None:
    wins: list[tuple[int, int]] = []
    barrier = threading.Barrier(4)

    def race(writer: int) -> None:
        barrier.wait()
        for _ in range(10):
            done = manifest.commit(
                tmp_path, lambda now: now.model_copy(update={"pipeline": f"{writer}"})
            )
            wins.append((done.number, writer))

    threads = [threading.Thread(target=race, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, _ in wins) == list(range(1, 41))
    for number, writer in wins:
        assert manifest.read(tmp_path, number).pipeline == str(writer)
    assert not list(tmp_path.glob("manifest/.tmp*"))


ROWS = [{"id": f"p{n}", "text": f"apple {n}"} for n in range(6)]


def test_a_deletion_that_loses_leaves_the_winners_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection, _ = Collection.build(ROWS, tmp_path / "c")
    create = manifest.create
    raced: list[bool] = []

    def late(path: Path, data: bytes) -> bool:
        if path.suffix == ".json" and not raced:
            raced.append(True)
            Collection(collection.path).delete(["p5"])
        return create(path, data)

    monkeypatch.setattr(manifest, "create", late)
    collection.delete(["p0", "p1"])
    assert raced
    assert [row["id"] for row in collection.passages()] == ["p2", "p3", "p4"]
    assert len(collection.snapshot(2)) == 5
    assert collection.verify() == []


def test_a_file_of_a_killed_deletion_does_no_harm(tmp_path: Path) -> None:
    collection, _ = Collection.build(ROWS, tmp_path / "c")
    (entry,) = collection.snapshot().manifest.segments
    left = tmp_path / "c" / "deleted" / f"{entry.folder}-000002.npy"
    left.parent.mkdir()
    left.write_bytes(b"half of")
    collection.delete(["p1"])
    assert [row["id"] for row in collection.passages()] == ["p0", "p2", "p3", "p4", "p5"]
    assert collection.verify() == []


def test_nothing_that_is_hashed_names_a_place_a_time_or_a_machine(tmp_path: Path) -> None:
    import datetime
    import platform

    collection, _ = Collection.build(ROWS, tmp_path / "c", segment_rows=2)
    collection.add([{"id": "new", "text": "t"}])
    collection.delete(["p1"])
    collection.compact()
    year = datetime.datetime.now(datetime.UTC).strftime("%Y-%m")
    words = [str(tmp_path), tmp_path.name, year, platform.node()]
    for part in ("manifest", "segments", "indexes", "deleted"):
        for file in (collection.path / part).rglob("*"):
            if file.is_file():
                data = file.read_bytes()
                assert not [word for word in words if len(word) > 5 and word.encode() in data]


def test_an_unknown_number_lists_those_there_are(tmp_path: Path) -> None:
    collection, _ = Collection.build(ROWS, tmp_path / "c")
    with pytest.raises(NotFound, match="no manifest 7; there are: 1"):
        collection.snapshot(7)


def test_folders_without_a_manifest_say_what_to_do(tmp_path: Path) -> None:
    for name, expected in (("none", "no such folder"), ("empty", "is not a collection")):
        if name == "empty":
            (tmp_path / name).mkdir()
        with pytest.raises(NotFound, match=expected):
            Collection.open(tmp_path / name)
