"""Jobs that exclude each other, and folders and disks that cannot be written."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag import Collection
from rag.collection import folders, leases, manifest
from rag.errors import Conflict, InvalidInput

ROOT = Path(__file__).parents[3]
Rag = Callable[..., tuple[int, str, str]]
Trees = Callable[[Path], dict[str, bytes]]
WriteRows = Callable[[Path, list[dict[str, Any]]], Path]
ROWS = [{"id": f"p{n}", "text": f"apple birch {n}"} for n in range(40)]

HOLD = """
import sys, time
from pathlib import Path
from rag.collection.leases import writing
with writing(Path(sys.argv[1]), rewrites=True):
    print("held", flush=True)
    time.sleep(600)
"""


def hold(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLD, str(path)]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "held\n"
    return running


def test_a_second_rewriter_is_told_who_writes(tmp_path: Path, rag: Rag) -> None:
    path = tmp_path / "c"
    collection, _ = Collection.build(ROWS, path)
    running = hold(path)
    try:
        for job in (
            lambda: collection.compact(),
            lambda: Collection.build(ROWS, path),
            lambda: collection.add_index({}),
        ):
            with pytest.raises(Conflict, match=f"another job.*process {running.pid}"):
                job()
        code, _, err = rag("compact", path)
        assert (code, f"process {running.pid}" in err) == (2, True)
        code, _, err = rag("clean", path)
        assert (code, f"another job is writing here (process {running.pid}), and" in err) == (
            2,
            True,
        )
        assert collection.delete(["p2"]).deleted == 1  # what commutes goes on
        assert collection.add([{"id": "new", "text": "apple"}]).added == 1
        assert len(collection.search("apple", k=50)) == 40
        # Not this process, whose writing has ended, nor one that was killed.
        with (path / "log" / leases.WRITERS).open("a") as file:
            file.write(f"process {2**22 + 1}\n")
        with pytest.raises(Conflict, match=rf"here \(process {running.pid}\), and"):
            collection.clean()
    finally:
        running.kill()
        running.wait()
        assert running.stdout is not None
        running.stdout.close()
    assert collection.delete(["p1"]).deleted == 1


def test_a_second_rewriter_of_one_process_is_refused_too(tmp_path: Path) -> None:
    ours = pytest.raises(Conflict, match=f"process {os.getpid()}")
    with leases.writing(tmp_path / "c", rewrites=True), ours:
        Collection.create(tmp_path / "c")
    Collection.create(tmp_path / "c")


def test_a_writer_leaves_alone_what_finished_pieces_there_are(tmp_path: Path) -> None:
    work = tmp_path / "c" / ".work"
    (work / "tmp-1").mkdir(parents=True)
    (work / "passages").mkdir()
    for part in ("manifest", "deleted"):
        (tmp_path / "c" / part).mkdir()
        (tmp_path / "c" / part / ".tmp-1-000001.json").touch()
    with leases.writing(tmp_path / "c"):
        assert {folder.name for folder in work.iterdir()} == {"passages"}
        assert not list((tmp_path / "c").glob("*/.tmp-*"))


@pytest.mark.parametrize("names", [["notes.txt"], ["log", "src"], ["segments", "data.csv"]])
def test_a_folder_of_other_things_is_refused(names: list[str], tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    for make in (lambda: Collection.create(tmp_path), lambda: Collection.build(ROWS, tmp_path)):
        with pytest.raises(InvalidInput, match="holds files and is not a collection"):
            make()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(InvalidInput, match="is a file; a collection is a folder"):
        Collection.create(file)


def test_a_collection_is_not_created_twice(tmp_path: Path) -> None:
    Collection.create(tmp_path / "c")
    with pytest.raises(InvalidInput, match=r"is a collection already; Collection\.open opens it"):
        Collection.create(tmp_path / "c")


def limited(bytes: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (bytes, bytes))


@pytest.mark.parametrize("size", [300, 2_000, 40_000, 130_000])
def test_a_file_that_cannot_be_written_whole_loses_nothing(
    size: int, tmp_path: Path, write_rows: WriteRows, trees: Trees
) -> None:
    rows = [{"id": f"p{n}", "text": f"apple w{n} x{n} " * 40} for n in range(400)]
    source = write_rows(tmp_path / "rows.jsonl", rows)
    path = tmp_path / "c"
    Collection.build(ROWS, path)
    before = trees(path)
    command = [sys.executable, "-m", "rag.cli", "index", str(source), "--out", str(path)]
    done = subprocess.run(
        command, cwd=ROOT, preexec_fn=limited(size), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert "make room and run the command again" in done.stderr
    collection = Collection.open(path)
    assert collection.snapshot().manifest.number == 1
    assert [row["id"] for row in collection.passages()] == [row["id"] for row in ROWS]
    assert collection.verify() == []
    assert {name: trees(path)[name] for name in before} == before
    _, finished = Collection.build(source, path)
    assert (finished.added, finished.manifest.live) == (400, 400)
    assert not (path / ".work").exists()


def test_a_full_disk_is_said_in_words(
    tmp_path: Path, rag: Rag, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c"
    collection, _ = Collection.build(ROWS, path)

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(folders, "sync", full)
    monkeypatch.setattr(manifest, "sync", full)
    code, _, err = rag("delete", path, "p1")
    assert (code, "No space left on device; the collection" in err) == (1, True)
    assert len(Collection.open(path)) == 40
    monkeypatch.undo()
    assert collection.delete(["p1"]).deleted == 1
    assert collection.verify() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_may_not_be_written_can_be_read(tmp_path: Path, rag: Rag) -> None:
    path = tmp_path / "c"
    Collection.build(ROWS, path)
    parts = [path, *(part for part in path.rglob("*") if part.is_dir())]
    for part in parts:
        part.chmod(0o500)
    (path / "log" / "writer.lock").chmod(0o400)
    try:
        code, _, err = rag("delete", path, "p1")
        assert (code, "Permission denied" in err) == (1, True)
        assert len(Collection.open(path).search("apple", k=50)) == 40
        assert Collection.open(path).verify() == []
    finally:
        for part in parts:
            part.chmod(0o700)
