"""A disk that is full (a small tmpfs) or may only be read, under each job that writes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rag import Collection
from rag.collection import manifest

if TYPE_CHECKING:
    from tests.killed.conftest import Jobs

Disk = tuple["Jobs", Path, Path]
OLD = [{"id": f"p{n}", "text": f"apple w{n} " * 9} for n in range(200)]
NEW = [*OLD[:90], *({"id": f"n{n}", "text": f"apple v{n} " * 20} for n in range(400))]
OLD_IDS = {row["id"] for row in OLD if row["id"] not in ("p1", "p150")}
NEW_IDS = {row["id"] for row in NEW}
CUT = ("--segment-rows", 50)

JOBS: dict[str, tuple[Callable[[Path, Path], list[object]], set[str]]] = {
    # the command, given the folder on the disk and that of the sources; the ids that it leads to
    "index": (lambda at, home: ["index", home / "new.jsonl", "--out", at / "c", *CUT], NEW_IDS),
    "add": (
        lambda at, home: ["add", at / "c", home / "new.jsonl", "--on-existing", "skip", *CUT],
        OLD_IDS | NEW_IDS,
    ),
    "compact": (lambda at, home: ["compact", at / "c"], OLD_IDS),
    "delete": (lambda at, home: ["delete", at / "c", "p7"], OLD_IDS - {"p7"}),
    "run": (
        lambda at, home: [
            *("run", home / "asked.jsonl", at / "out.jsonl", "--texts"),
            *("-c", at / "c", "-p", "bm25-extract"),
        ],
        OLD_IDS,
    ),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    asked = [{"id": f"q{n}", "question": f"Which apple w{n}?"} for n in range(200)]
    for name, rows in (("old", OLD), ("new", NEW), ("asked", asked)):
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


def begin(disk: Disk, home: Path) -> Path:
    """An old collection with deleted rows, alone on the disk; the disk as it is seen from here."""
    jobs, there, here = disk
    jobs.empty(here)
    assert jobs.run("index", home / "old.jsonl", "--out", there / "c", *CUT).code == 0
    assert jobs.run("delete", there / "c", "p1", "p150").code == 0
    return here


def leave(here: Path, room: int) -> None:
    """Fill the disk but for ``room`` bytes."""
    stat = os.statvfs(here)
    (here / "ballast").touch()
    size = stat.f_bavail * stat.f_bsize - room
    with (here / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    stat = os.statvfs(here)
    assert stat.f_bavail * stat.f_bsize <= room


@pytest.mark.parametrize("name", JOBS)
def test_a_full_disk_loses_nothing_and_is_named(name: str, disk: Disk, home: Path) -> None:
    """With room for none to nearly all of what the job writes: the old state, and a way on."""
    jobs, there, _ = disk
    command, expected = JOBS[name][0](there, home), JOBS[name][1]
    here = begin(disk, home)
    before = os.statvfs(here).f_bavail
    assert jobs.run(*command).code == 0
    whole, ids = jobs.files(here), set(jobs.passages(here / "c"))
    assert ids == expected
    used = (before - os.statvfs(here).f_bavail) * os.statvfs(here).f_bsize
    faults = 0
    for share in (0.0, 0.4, 0.8):
        here = begin(disk, home)
        held = Collection.open(here / "c").snapshot()
        leave(here, int(used * share))
        said = jobs.run(*command)
        if said.code == 0:  # what is removed at the end may have made room
            assert share > 0.5
            continue
        faults += 1
        place = there / ("out.jsonl.parts" if name == "run" else "c")
        kept = "what was finished is kept" if name == "run" else "the collection is as it was"
        assert said.code == 1
        assert re.fullmatch(
            f"error: {re.escape(str(place))}: (No space left on device|not all could be written .*)"
            f"; {kept}; make room and run the (same )?command again\n",
            said.err,
        ), said.err
        assert {row["id"] for b in held.passages() for row in b.to_pylist()} == OLD_IDS
        assert set(jobs.passages(here / "c")) == OLD_IDS
        assert jobs.run("verify", there / "c").code == 0
        assert jobs.run("search", "apple", "-c", there / "c").code == 0
        assert manifest.numbers(here / "c") == [1, 2]
        assert not (here / "out.jsonl").exists()
        (here / "ballast").unlink()
        assert jobs.run(*command).code == 0
        assert jobs.files(here) == whole
    assert faults >= 2


def test_a_first_index_on_a_full_disk_says_so(disk: Disk, home: Path) -> None:
    jobs, there, here = disk
    jobs.empty(here)
    leave(here, 0)
    said = jobs.run("index", home / "old.jsonl", "--out", there / "c")
    assert said.code == 1
    assert "No space left on device" in said.err
    assert "make room and run the command again" in said.err
    (here / "ballast").unlink()
    assert jobs.run("index", home / "old.jsonl", "--out", there / "c").code == 0


def test_a_disk_that_may_only_be_read_is_named_and_can_be_searched(disk: Disk, home: Path) -> None:
    jobs, there, _ = disk
    here = begin(disk, home)
    whole = jobs.files(here)
    enter = ["nsenter", f"--target={jobs.pid}", "--user", "--preserve-credentials", "--mount"]
    mounted = subprocess.run([*enter, "mount", "-o", "remount,ro", str(there)], check=False)
    if mounted.returncode:
        pytest.skip("the disk cannot be mounted anew")
    try:
        with pytest.raises(OSError, match="Read-only file system"):
            (here / "x").touch()
        for name, (command, _) in JOBS.items():
            said = jobs.run(*command(there, home))
            assert said.code == 1, (name, said)
            assert re.fullmatch(
                f"error: {re.escape(str(there))}/[^:]+: Read-only file system; .*\n", said.err
            ), said.err
        for question in (["search", "apple"], ["ask", "Which apple?"]):
            assert jobs.run(*question, "-c", there / "c").code == 0
        assert jobs.run("verify", there / "c").code == 0
        assert jobs.run("info", there / "c").code == 0
    finally:
        subprocess.run([*enter, "mount", "-o", "remount,rw", str(there)], check=True)
    assert jobs.files(here) == whole
