"""Cleaning: only what nobody needs goes, and readers and writers do not notice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rag import Collection
from rag.collection import Cleaned, leases, manifest
from rag.errors import Conflict, Damaged, InvalidInput, NotFound

ROOT = Path(__file__).parents[3]
Rag = Callable[..., tuple[int, str, str]]
ROWS = [{"id": f"p{n}", "text": f"apple w{n}"} for n in range(12)]


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """Manifest 4 names one folder of each kind; 1 to 3 name others, and hidden rows."""
    made, _ = Collection.build(ROWS, tmp_path / "c", segment_rows=5)
    made.delete(["p1"])
    made.add([{"id": "new", "text": "apple"}])
    made.compact()
    return Collection.open(made.path)


def files(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


def named(collection: Collection, *numbers: int) -> set[str]:
    states = [manifest.read(collection.path, number) for number in numbers]
    return {folder for state in states for folder in state.folders()}


def folders(collection: Collection) -> set[str]:
    found = [*collection.path.glob("segments/*"), *collection.path.glob("indexes/*/*")]
    return {str(path.relative_to(collection.path)) for path in found}


def test_what_the_newest_manifest_does_not_name_goes(collection: Collection) -> None:
    before = sum(file.stat().st_size for file in collection.path.rglob("*") if file.is_file())
    done = collection.clean(older_than=0)
    after = sum(file.stat().st_size for file in collection.path.rglob("*") if file.is_file())
    assert (done.manifests, done.folders > 2, done.files, done.read) == (3, True, 4, ())
    assert done.bytes == before - after
    assert manifest.numbers(collection.path) == [4]
    assert folders(collection) == named(collection, 4)
    assert not list(collection.path.glob("deleted/*"))
    assert [path.name for path in collection.path.glob("log/*.json")] == ["000004.json"]
    assert len(collection.search("apple", 50)) == 12
    assert collection.verify() == []
    assert collection.clean(older_than=0) == Cleaned()
    assert collection.add([{"id": "more", "text": "apple"}]).manifest.number == 5


@pytest.mark.parametrize("keep", [2, 3, 4, 9])
def test_older_manifests_that_are_kept_stay_whole(collection: Collection, keep: int) -> None:
    collection.clean(keep, older_than=0)
    kept = manifest.numbers(collection.path)
    assert kept == [1, 2, 3, 4][-keep:]
    assert folders(collection) == named(collection, *kept)
    for number in kept:
        snapshot = collection.snapshot(number)
        assert sum(batch.num_rows for batch in snapshot.passages()) == len(snapshot)


def test_what_is_younger_than_a_day_stays(collection: Collection) -> None:
    before = files(collection.path)
    assert collection.clean() == Cleaned()
    assert files(collection.path) == before
    # An old folder stays too, as long as a young manifest names it.
    old = time.time() - 2 * 86_400
    for path in [*collection.path.glob("segments/*"), *collection.path.glob("indexes/*/*")]:
        os.utime(path, (old, old))
    assert collection.clean() == Cleaned()
    for number in (1, 2, 3):
        os.utime(manifest.path_of(collection.path, number), (old, old))
    assert collection.clean().manifests == 3
    assert folders(collection) == named(collection, 4)


def test_a_reader_is_not_disturbed(collection: Collection) -> None:
    held = collection.snapshot(2)
    collection.delete(["p3"])
    done = collection.clean(older_than=0)
    assert done.read == (2,)
    assert manifest.numbers(collection.path) == [2, 5]
    # Nothing was opened before: the hidden rows, the index and the texts are read only now.
    searcher = held.index("lexical")
    _, docs, _ = searcher.search(["apple"], 50, keep=held.keep)
    assert len(docs) == len(held) == 11
    expected = [f"p{n}" for n in range(12) if n != 1]
    assert sorted(held.rows(docs, ["id"])["id"].to_pylist()) == sorted(expected)
    del held, searcher
    assert collection.clean(older_than=0).manifests == 1
    assert manifest.numbers(collection.path) == [5]


READ = """
import sys
from rag import Collection
held = Collection.open(sys.argv[1]).snapshot()
print("held", flush=True)
sys.stdin.readline()
print(sum(batch.num_rows for batch in held.passages()), len(held.index("lexical").search(
    ["apple"], 50, keep=held.keep)[1]), flush=True)
"""


def test_a_reader_in_another_process_reads_on_across_compact_and_clean(
    collection: Collection,
) -> None:
    command = [sys.executable, "-c", READ, str(collection.path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "held\n"
        collection.delete(["p0", "p2"])
        collection.compact()
        assert collection.clean(older_than=0).read == (4,)
        assert collection.clean(older_than=0) == Cleaned(read=(4,))
        said, _ = reader.communicate("go\n")
    assert said == "12 12\n"
    assert collection.clean(older_than=0).manifests == 1


def test_nothing_goes_while_a_job_writes(collection: Collection) -> None:
    before = files(collection.path)
    with leases.writing(collection.path), pytest.raises(Conflict, match="another job is writing"):
        collection.clean(older_than=0)
    assert files(collection.path) == before


def test_pieces_of_killed_jobs_go_when_they_are_old(collection: Collection) -> None:
    work = collection.path / ".work"
    (work / "tmp-1").mkdir(parents=True)
    (work / "passages").mkdir()
    piece = work / "passages" / "1.arrow"
    piece.touch()
    collection.clean()
    assert piece.exists()
    assert not (work / "tmp-1").exists()
    collection.clean(older_than=0)
    assert not piece.exists()


def test_files_of_others_stay(collection: Collection) -> None:
    notes = [
        collection.path / name
        for name in ("notes.txt", "segments/notes.txt", "deleted/a.npy", "log/mine.json")
    ]
    for note in notes:
        note.write_text("mine")
    collection.clean(older_than=0)
    assert all(note.exists() for note in notes)


def test_a_damaged_manifest_that_is_kept_stops_it(collection: Collection) -> None:
    path = manifest.path_of(collection.path, 3)
    path.write_bytes(path.read_bytes().replace(b'"rows"', b'"rowz"'))
    before = files(collection.path)
    with pytest.raises(Damaged, match="000003.json: the manifest is damaged"):
        collection.clean(2, older_than=0)
    assert files(collection.path) == before
    assert collection.clean(1, older_than=0).manifests == 3


def test_mistakes_are_named(collection: Collection, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="found keep = 0, expected 1 or more"):
        collection.clean(0)
    for wrong in (-1.0, float("nan")):
        with pytest.raises(InvalidInput, match="older than .* expected 0 or more"):
            collection.clean(older_than=wrong)
    with pytest.raises(NotFound, match="no such folder"):
        Collection(tmp_path / "none").clean()
    assert not (tmp_path / "none").exists()


def test_the_command_says_what_it_removed(collection: Collection, rag: Rag) -> None:
    code, out, _ = rag("clean", collection.path)
    assert (code, "nothing to remove (what is younger than 86,400 s stays)" in out) == (0, True)
    code, out, _ = rag("clean", collection.path, "--keep", 2, "--older-than", 0)
    assert (code, "removed 2 manifests" in out, "bytes" in out) == (0, True, True)
    code, out, _ = rag("clean", collection.path, "--older-than", 0, "--json")
    assert (code, json.loads(out)["manifests"], json.loads(out)["read"]) == (0, 1, [])
