"""Writers at once: whatever the order, nothing is lost and nothing is doubled."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rag import Collection
from rag.collection import manifest
from rag.errors import Conflict, InvalidInput
from rag.indexers import Lexical

ROOT = Path(__file__).parents[3]
ROWS = [{"id": f"p{n}", "text": f"apple w{n}"} for n in range(12)]
Racing = Callable[[Callable[[], object]], list[bool]]


def row(name: str, text: str = "apple new") -> dict[str, Any]:
    return {"id": name, "text": text}


def ids(collection: Collection) -> list[str]:
    """The ids in order, after checking that search and files agree with them."""
    rows = list(collection.passages())
    found = sorted(hit.id for hit in collection.search("apple", k=1000))
    assert found == sorted(r["id"] for r in rows)
    assert len(set(found)) == len(found)
    assert collection.verify() == []
    return [str(r["id"]) for r in rows]


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    made, _ = Collection.build(ROWS, tmp_path / "c", segment_rows=4)
    return made


@pytest.fixture
def racing(monkeypatch: pytest.MonkeyPatch) -> Racing:
    """Has another writer commit just before the next job does; the list says that it did."""

    def arrange(other: Callable[[], object]) -> list[bool]:
        create = manifest.create
        raced: list[bool] = []

        def late(path: Path, data: bytes) -> bool:
            if path.suffix == ".json" and not raced:
                raced.append(True)
                other()
            return create(path, data)

        monkeypatch.setattr(manifest, "create", late)
        return raced

    return arrange


def test_additions_commute(collection: Collection, racing: Racing) -> None:
    raced = racing(lambda: Collection(collection.path).add([row("b")]))
    assert collection.add([row("a")]).added == 1
    assert raced
    assert ids(collection) == [*(f"p{n}" for n in range(12)), "b", "a"]


def test_a_document_that_another_added_meanwhile_is_refused(
    collection: Collection, racing: Racing
) -> None:
    raced = racing(lambda: Collection(collection.path).add([row("a", "apple theirs")]))
    with pytest.raises(InvalidInput, match="has the document 'a' already"):
        collection.add([row("x"), row("a", "apple ours")])
    assert raced
    assert ids(collection)[12:] == ["a"]


@pytest.mark.parametrize("ours", [["a", "x"], ["a"], ["x", "a", "y", "b"]])
def test_a_document_that_another_added_meanwhile_is_skipped(
    collection: Collection, racing: Racing, ours: list[str]
) -> None:
    theirs = [row("a", "apple theirs"), row("b", "apple theirs")]
    racing(lambda: Collection(collection.path).add(theirs))
    new = [name for name in ours if name not in ("a", "b")]
    done = collection.add([row(name) for name in [*ours, "p3"]], on_existing="skip")
    assert (done.added, done.skipped) == (len(new), len(ours) - len(new) + 1)
    assert done.unchanged == (not new)
    assert ids(collection)[12:] == ["a", "b", *new]
    collection.compact()
    assert ids(collection)[12:] == ["a", "b", *new]


def test_a_document_that_another_added_meanwhile_gives_way(
    collection: Collection, racing: Racing
) -> None:
    racing(lambda: Collection(collection.path).add([row("a", "theirs"), row("b", "apple b")]))
    done = collection.add([row("a", "apple ours"), row("p3", "apple ours")], on_existing="replace")
    assert (done.added, done.deleted) == (2, 2)
    assert ids(collection) == [*(f"p{n}" for n in range(12) if n != 3), "b", "a", "p3"]


@pytest.mark.parametrize("how", ["skip", "replace"])
def test_the_same_rows_added_twice_at_once_are_there_once(
    collection: Collection, racing: Racing, how: Any
) -> None:
    rows = [row("a"), row("b")]
    racing(lambda: Collection(collection.path).add(rows))
    done = collection.add(rows, on_existing=how)
    assert (done.added, done.deleted) == ((0, 0) if how == "skip" else (2, 2))
    assert ids(collection)[12:] == ["a", "b"]


def test_rows_that_another_added_and_deleted_meanwhile_are_there(
    collection: Collection, racing: Racing
) -> None:
    def other() -> None:
        Collection(collection.path).add([row("a")])
        Collection(collection.path).delete(["a"])

    racing(other)
    assert collection.add([row("a")]).added == 1
    assert ids(collection)[12:] == ["a"]


def test_an_addition_outlives_a_deletion_and_a_compaction(
    collection: Collection, racing: Racing
) -> None:
    def other() -> None:
        Collection(collection.path).delete(["p1", "p2"])
        Collection(collection.path).compact()

    racing(other)
    done = collection.add([row("p1"), row("p5")], on_existing="replace")
    assert (done.added, done.deleted) == (2, 1)
    assert ids(collection) == [f"p{n}" for n in range(12) if n not in (1, 2, 5)] + ["p1", "p5"]


def test_an_addition_has_the_indexes_that_another_added(
    collection: Collection, racing: Racing
) -> None:
    other = {"exact": Lexical(stemmer="none")}
    racing(lambda: Collection(collection.path).add_index(other))
    collection.add([row("a")])
    assert [r["id"] for r in collection.passages()][12:] == ["a"]
    assert collection.verify() == []
    state = collection.snapshot().manifest
    folders = [len(entry.folders) for entry in state.indexes.values()]
    assert folders == [len(state.segments)] * 2


def test_an_addition_to_other_fields_says_so(collection: Collection, racing: Racing) -> None:
    fields: Any = {"year": "int"}
    racing(lambda: Collection.build(ROWS, collection.path, fields=fields))
    with pytest.raises(Conflict, match="another job changed the fields or the splitting"):
        collection.add([row("a")])
    assert len(ids(collection)) == 12


def test_deletions_commute(collection: Collection, racing: Racing) -> None:
    raced = racing(lambda: Collection(collection.path).delete(["p1", "p2"]))
    assert collection.delete(["p2", "p3"]).deleted == 1
    assert raced
    assert ids(collection) == [f"p{n}" for n in range(12) if n not in (1, 2, 3)]


def test_what_another_has_deleted_meanwhile_is_deleted(
    collection: Collection, racing: Racing
) -> None:
    racing(lambda: Collection(collection.path).delete(["p1"]))
    done = collection.delete(["p1"])
    assert (done.deleted, done.unchanged, done.manifest.number) == (0, True, 2)


def test_a_deletion_finds_what_was_compacted(collection: Collection, racing: Racing) -> None:
    collection.delete(["p0"])
    racing(lambda: Collection(collection.path).compact())
    assert collection.delete(["p2", "p9"]).deleted == 2
    assert ids(collection) == [f"p{n}" for n in range(12) if n not in (0, 2, 9)]


@pytest.mark.parametrize("size", [4, 7, 100])
def test_a_compaction_carries_over_what_was_deleted_and_added(
    collection: Collection, racing: Racing, size: int
) -> None:
    collection.delete(["p0", "p5", "p6"])

    def other() -> None:
        Collection(collection.path).delete(["p1", "p7", "p10", "p11"])
        Collection(collection.path).add([row("a"), row("b")])
        Collection(collection.path).delete(["a"])

    raced = racing(other)
    assert collection.compact(segment_rows=size).deleted == 3
    assert raced
    assert ids(collection) == [*(f"p{n}" for n in (2, 3, 4, 8, 9)), "b"]
    collection.compact()
    assert ids(collection) == [*(f"p{n}" for n in (2, 3, 4, 8, 9)), "b"]
    assert not collection.snapshot().manifest.deleted


def test_an_index_that_was_built_meanwhile_outlives_a_deletion(
    collection: Collection, racing: Racing
) -> None:
    racing(lambda: Collection(collection.path).delete(["p1"]))
    collection.add_index({"exact": Lexical(stemmer="none")})
    state = collection.snapshot()
    assert sorted(state.manifest.indexes) == ["exact", "lexical"]
    assert len(state) == 11


def test_jobs_that_cannot_hold_both_say_so(collection: Collection, racing: Racing) -> None:
    jobs: list[Callable[[], object]] = [
        lambda: Collection.build(ROWS[:3], collection.path),
        lambda: collection.add_index({"exact": Lexical(stemmer="none")}),
    ]
    for number, job in enumerate(jobs):
        raced = racing(lambda n=number: Collection(collection.path).add([row(f"x{n}")]))  # type: ignore[misc]
        with pytest.raises(Conflict, match="changed while the job ran; run the command again"):
            job()
        assert raced
        assert ids(collection)[12:] == [f"x{n}" for n in range(number + 1)]


WRITER = """
import json, sys, time
from rag import Collection
from rag.errors import NotFound

def one(path, what, argument):
    collection = Collection.open(path)
    if what == "delete":
        try:
            return collection.delete(argument).deleted
        except NotFound:
            return 0
    if what == "compact":
        collection.compact(segment_rows=argument)
        return 0
    how = "skip" if what == "skip" else "replace" if what == "replace" else "fail"
    rows = [{"id": name, "text": f"apple by {sys.argv[1]}"} for name in argument]
    return collection.add(rows, on_existing=how).added

one_ready = print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    began = time.monotonic()
    counts = [one(job["path"], job["what"], argument) for argument in job["arguments"]]
    print(json.dumps([began, time.monotonic(), counts]), flush=True)
"""


@pytest.fixture(scope="module")
def writers() -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that do what they are told."""
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, name], cwd=ROOT, stdin=pipe, stdout=pipe, text=True
        )
        for name in "ab"
    ]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    yield running
    for process in running:
        process.communicate()


def at_once(
    writers: list[subprocess.Popen[str]], path: Path, *jobs: tuple[str, list[Any]]
) -> list[list[int]]:
    """Both jobs at once; the counts of each, after checking that they did run side by side."""
    for process, (what, arguments) in zip(writers, jobs, strict=True):
        assert process.stdin is not None
        process.stdin.write(
            json.dumps({"path": str(path), "what": what, "arguments": arguments}) + "\n"
        )
        process.stdin.flush()
    answers = [json.loads(process.stdout.readline()) for process in writers if process.stdout]
    assert max(began for began, _, _ in answers) < min(ended for _, ended, _ in answers)
    return [counts for _, _, counts in answers]


def flat(lists: list[list[str]]) -> list[str]:
    return [name for names in lists for name in names]


OLD = [f"p{n}" for n in range(12)]
A = [[f"a{n}", f"a{n}x"] for n in range(8)]
B = [[f"b{n}"] for n in range(8)]
SHARED = [[f"s{n}", f"s{n + 1}"] for n in range(8)]
HALF = [[name] for name in OLD[:7]]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (("add", A), ("add", B), {*OLD, *flat(A), *flat(B)}),
        (("skip", SHARED), ("skip", SHARED[::-1]), {*OLD, *flat(SHARED)}),
        (("replace", SHARED), ("replace", SHARED), {*OLD, *flat(SHARED)}),
        (("add", A), ("delete", HALF), {*OLD[7:], *flat(A)}),
        (("delete", HALF), ("delete", [[name] for name in OLD[4:10]]), set(OLD[10:])),
        (("compact", [5, 100, 7, 100]), ("delete", HALF), set(OLD[7:])),
        (("compact", [5, 100, 7, 100]), ("add", B), {*OLD, *flat(B)}),
    ],
    ids=lambda job: job[0] if isinstance(job, tuple) else "",
)
def test_two_processes_lose_and_double_nothing(
    collection: Collection,
    writers: list[subprocess.Popen[str]],
    first: tuple[str, list[Any]],
    second: tuple[str, list[Any]],
    expected: set[str],
) -> None:
    counts = at_once(writers, collection.path, first, second)
    assert sorted(ids(collection)) == sorted(expected)
    if "delete" in (first[0], second[0]):
        deleted = sum(
            sum(c) for c, (what, _) in zip(counts, (first, second), strict=True) if what == "delete"
        )
        assert deleted == len(set(OLD) - expected)
    collection.compact()
    assert sorted(ids(collection)) == sorted(expected)
    assert not (collection.path / ".work").exists()
