"""Two writers of one collection, of which one stands still or is killed at a chosen point."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rag import Collection
from rag.collection import manifest

if TYPE_CHECKING:
    from tests.killed.conftest import Ended, Jobs, Point

OLD = {f"p{n}": f"apple w{n}" for n in range(60)}
OURS = {f"a{n}": f"apple of ours {n}" for n in range(50)}
THEIRS = {f"b{n}": f"apple of theirs {n}" for n in range(50)}
SHARED = {**THEIRS, **{f"a{n}": f"apple of ours {n}" for n in range(20)}}
CUT = ("--segment-rows", 20)

POINTS = {
    "with a piece half written": ("before", "rename", ".work/passages"),
    "with a segment half written": ("before", "rename", "/segments/"),
    "with its segments there": ("after", "rename", "/indexes/"),
    "about to commit": ("before", "link", "/manifest/"),
    "having committed": ("after", "link", "/manifest/"),
}
"""When a writer stops: before or after the last call of this name with this text."""


def write(path: Path, rows: dict[str, str]) -> Path:
    lines = [json.dumps({"id": name, "text": text}) + "\n" for name, text in rows.items()]
    path.write_text("".join(lines))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Collection.build(write(tmp_path / "old.jsonl", OLD), tmp_path / "c", segment_rows=20)
    return tmp_path / "c"


def point(jobs: Jobs, command: list[object], path: Path, name: str) -> Point:
    """The call at which ``command`` is to stop, the last of its kind on a copy of the folder."""
    when, call, text = POINTS[name]
    copy = jobs.copy(path)
    whole = jobs.run(*(copy if part == path else part for part in command))
    assert whole.code == 0, whole.err
    assert whole.calls is not None
    found = [made for made in whole.calls if made.startswith(call) and text in made]
    return len(found) - 1, when, call, text


def addition(path: Path, name: str, rows: dict[str, str], how: str = "skip") -> list[object]:
    source = write(path.with_name(f"{name}.jsonl"), rows)
    return ["add", path, source, "--on-existing", how, *CUT]


OTHERS = ("add", "add the same", "delete", "compact")
BESIDE = [
    pytest.param(
        other, where, marks=() if other == "add" or where == "about to commit" else pytest.mark.slow
    )
    for other in OTHERS
    for where in POINTS
]


@pytest.mark.parametrize(("other", "where"), BESIDE)
def test_a_writer_is_killed_beside_another(where: str, other: str, jobs: Jobs, path: Path) -> None:
    """One stands still in its midst while another does its whole job; then it is killed."""
    ours = addition(path, "ours", OURS)
    commands: dict[str, tuple[list[object], dict[str, str]]] = {
        "add": (addition(path, "theirs", THEIRS), {**OLD, **THEIRS}),
        "add the same": (addition(path, "shared", SHARED), {**OLD, **SHARED}),
        "delete": (
            ["delete", path, "p3", "p30"],
            {name: text for name, text in OLD.items() if name not in ("p3", "p30")},
        ),
        "compact": (["compact", path], OLD),
    }
    theirs, expected = commands[other]
    held = Collection.open(path).snapshot()
    stopped = jobs.stop(ours, point(jobs, ours, path, where))
    done = jobs.run(*theirs)
    assert done.code == 0, done.err
    if where == "having committed":
        expected = {**expected, **OURS}
    assert jobs.passages(path) == expected
    killed = jobs.end(stopped.pid, signal.SIGKILL)
    assert (killed.code, killed.calls) == (-signal.SIGKILL, None)
    assert jobs.passages(path) == expected
    assert Collection(path).verify() == []
    assert jobs.run(*ours).code == 0
    assert jobs.passages(path) == {**expected, **OURS}
    assert Collection(path).verify() == []
    assert not (path / ".work").exists()
    rows = [row["id"] for batch in held.passages() for row in batch.to_pylist()]
    assert rows == list(OLD)


@pytest.mark.parametrize(
    "where",
    [pytest.param(where, marks=() if "commit" in where else pytest.mark.slow) for where in POINTS],
)
def test_a_writer_goes_on_when_the_other_was_killed(where: str, jobs: Jobs, path: Path) -> None:
    """One stands still, another begins and is killed, and the first comes to its end."""
    ours = addition(path, "ours", OURS)
    theirs = addition(path, "theirs", SHARED, "replace")
    stopped = jobs.stop(ours, point(jobs, ours, path, "about to commit"))
    killed = jobs.kill(theirs, point(jobs, theirs, path, where))
    assert killed is not None
    committed = where == "having committed"
    assert jobs.passages(path) == ({**OLD, **SHARED} if committed else OLD)
    done = jobs.end(stopped.pid, signal.SIGCONT)
    assert done.code == 0, done.err
    assert jobs.passages(path) == {**OLD, **OURS, **(SHARED if committed else {})}
    assert jobs.run(*theirs).code == 0
    assert jobs.passages(path) == {**OLD, **OURS, **SHARED}
    assert Collection(path).verify() == []
    assert not (path / ".work").exists()


@pytest.mark.parametrize(
    "where", [pytest.param("with its segments there", marks=pytest.mark.slow), "about to commit"]
)
def test_a_compaction_stands_still_while_others_write(where: str, jobs: Jobs, path: Path) -> None:
    compaction: list[object] = ["compact", path]
    stopped = jobs.stop(compaction, point(jobs, compaction, path, where))
    assert jobs.run("delete", path, "p5").code == 0
    assert jobs.run(*addition(path, "theirs", THEIRS)).code == 0
    refused = jobs.run(*compaction)
    assert refused.code == 2
    who = f"{path}: another job is writing here (process {stopped.pid})"
    assert refused.err == f"error: {who}; wait until it ends and run the command again\n"
    assert "another job is writing here" in jobs.run("clean", path, "--older-than", 0).err
    expected = {**{name: text for name, text in OLD.items() if name != "p5"}, **THEIRS}
    assert jobs.passages(path) == expected
    done = jobs.end(stopped.pid, signal.SIGCONT)
    assert done.code == 0, done.err
    assert jobs.passages(path) == expected
    assert jobs.run("clean", path, "--older-than", 0).code == 0
    assert jobs.passages(path) == expected
    assert Collection(path).verify() == []


def leave_damaged(jobs: Jobs, path: Path, room: str) -> list[object]:
    """Finished folders that no manifest names, each with a damaged file; the job that made them."""
    ours = addition(path, "ours", OURS)
    jobs.kill(ours, point(jobs, ours, path, "about to commit"))
    state = Collection.open(path).snapshot().manifest
    named = {folder.rpartition("/")[2] for folder in state.folders()}
    found = [file for file in path.glob(room) if file.parent.name not in named]
    assert len(found) >= 3
    for file in found:
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    return ours


SEGMENTS, INDEXES = "segments/*/ids.arrow", "indexes/*/*/rows.npy"
REPAIRS = [
    pytest.param(room, when, end, marks=() if (room, when, end) in usual else pytest.mark.slow)
    for usual in [{(SEGMENTS, "before", signal.SIGCONT), (INDEXES, "after", signal.SIGKILL)}]
    for room in (SEGMENTS, INDEXES)
    for when in ("before", "after")
    for end in (signal.SIGCONT, signal.SIGKILL)
]


@pytest.mark.parametrize(("room", "when", "end"), REPAIRS)
def test_two_jobs_repair_one_folder(
    room: str, when: str, end: signal.Signals, jobs: Jobs, path: Path
) -> None:
    """One has found it damaged and stands still; what the other puts there it does not take away.

    Before it has the lock that repairs need, the other goes through; after, the other waits.
    """
    ours = leave_damaged(jobs, path, room)
    copy = jobs.copy(path)
    calls = jobs.run(*(copy if part == path else part for part in ours)).calls or []
    locks = [n for n, call in enumerate(calls) if "repair.lock" in call]
    assert locks
    stopped = jobs.stop(ours, (locks[0], when))
    other = jobs.begin(*addition(path, "again", OURS))
    if when == "before":
        done = jobs.end(other)
        assert done.code == 0, done.err
        assert jobs.passages(path) == {**OLD, **OURS}
        ended: Ended = jobs.end(stopped.pid, end)
    else:
        ended = jobs.end(stopped.pid, end)
        done = jobs.end(other)
        assert done.code == 0, done.err
    assert ended.code == (0 if end == signal.SIGCONT else -signal.SIGKILL), ended.err
    assert jobs.passages(path) == {**OLD, **OURS}
    assert Collection(path).verify() == []
    assert jobs.run(*ours).code == 0
    assert jobs.passages(path) == {**OLD, **OURS}
    assert Collection(path).verify() == []
    assert manifest.numbers(path) == [1, 2]
    assert not (path / ".work").exists()
