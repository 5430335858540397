"""Jobs that are killed with their workers, and what is there afterwards; see also tests/killed/."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag import Collection
from rag.collection import manifest
from rag.errors import BackendFailed, NotFound
from rag.jobs import TasksLost

ROOT = Path(__file__).parents[3]
Trees = Callable[[Path], dict[str, bytes]]
Rag = Callable[..., tuple[int, str, str]]
WriteRows = Callable[[Path, list[dict[str, Any]]], Path]
SEGMENT = 300


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, write_rows: WriteRows) -> Path:
    chance = random.Random(5)
    words = [f"w{chance.randrange(3000)}" for _ in range(120_000)]
    rows = [{"id": f"p{n}", "text": " ".join(words[n * 40 : n * 40 + 40])} for n in range(3000)]
    return write_rows(tmp_path_factory.mktemp("corpus") / "corpus.jsonl", rows)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, corpus: Path, trees: Trees) -> dict[str, bytes]:
    """The trees of a build that nobody disturbed."""
    path = tmp_path_factory.mktemp("whole") / "c"
    Collection.build(corpus, path, segment_rows=SEGMENT)
    return trees(path)


def start(*arguments: object) -> subprocess.Popen[bytes]:
    """The command in a process group of its own."""
    command = [sys.executable, "-m", "rag.cli", *map(str, arguments)]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet, start_new_session=True)


def kill_at_instants(
    folder: Path, command: Callable[[Path], tuple[object, ...]], count: int, seed: int
) -> list[tuple[Path, int]]:
    """Run ``command(path)`` so often, each killed at a random instant of its writing.

    Returns:
        Each path and the exit code of what wrote there: -9, or 0 where the job was faster.
    """
    chance = random.Random(seed)
    began = time.monotonic()
    timed = folder / "timed"
    running = start(*command(timed))
    begin_to_write(running, timed)
    lead = time.monotonic() - began
    assert running.wait() == 0
    length = time.monotonic() - began - lead
    found = []
    for number in range(count):
        path = folder / f"killed-{number}"
        running = start(*command(path))
        begin_to_write(running, path)
        time.sleep(chance.uniform(0, 0.9) * length)
        os.killpg(running.pid, signal.SIGKILL)
        found.append((path, running.wait()))
    return found


def begin_to_write(running: subprocess.Popen[bytes], path: Path) -> None:
    while running.poll() is None and not list(path.glob(".work/*")):
        time.sleep(0.005)


def check_killed_builds(
    rag: Rag, trees: Trees, corpus: Path, whole: dict[str, bytes], folder: Path, *more: object
) -> None:
    def command(path: Path) -> tuple[object, ...]:
        return ("index", corpus, "--out", path, "--segment-rows", SEGMENT, *more)

    killed = kill_at_instants(folder, command, 5, seed=len(more))
    assert [code for _, code in killed].count(-signal.SIGKILL) >= 3
    for path, code in killed:
        if code == -signal.SIGKILL and not manifest.numbers(path):
            with pytest.raises(NotFound, match="has no manifest yet.*run it again"):
                Collection.open(path)
            assert rag("info", path)[0] == 2
            assert rag("verify", path)[0] == 2
        else:
            assert len(Collection.open(path)) == 3000
        done = Collection.build(corpus, path, segment_rows=SEGMENT)[1]
        assert done.manifest.live == 3000
        assert trees(path) == whole
        assert not (path / ".work").exists()
        assert Collection(path).verify() == []
        assert manifest.numbers(path) == [1]


@pytest.mark.slow
def test_a_killed_build_goes_on_to_the_same_bytes(
    rag: Rag, trees: Trees, corpus: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    check_killed_builds(rag, trees, corpus, whole, tmp_path)


@pytest.mark.slow
def test_a_killed_build_on_processes_goes_on_to_the_same_bytes(
    rag: Rag, trees: Trees, corpus: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    check_killed_builds(rag, trees, corpus, whole, tmp_path, "--workers", 2)


@pytest.mark.slow
def test_killed_again_and_again_a_build_comes_to_its_end(
    trees: Trees, corpus: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    chance = random.Random(7)
    path = tmp_path / "c"
    for _ in range(40):
        running = start("index", corpus, "--out", path, "--segment-rows", SEGMENT)
        begin_to_write(running, path)
        time.sleep(chance.uniform(0.1, 0.5))
        os.killpg(running.pid, signal.SIGKILL)
        if running.wait() == 0:
            break
    Collection.build(corpus, path, segment_rows=SEGMENT)
    assert trees(path) == whole
    assert not (path / ".work").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["skip", "replace"])
def test_a_killed_addition_loses_and_doubles_nothing(
    how: str, corpus: Path, tmp_path: Path, write_rows: WriteRows
) -> None:
    first = [json.loads(line) for line in corpus.read_text().split("\n")[:300]]
    few = write_rows(tmp_path / "few.jsonl", [{**row, "text": "old"} for row in first])

    def command(path: Path) -> tuple[object, ...]:
        if not path.exists():
            Collection.build(few, path)
        return ("add", path, corpus, "--segment-rows", SEGMENT, "--on-existing", how)

    killed = kill_at_instants(tmp_path, command, 2 if how == "skip" else 1, seed=11)
    assert -signal.SIGKILL in [code for _, code in killed]
    expected = sorted(f"p{n}" for n in range(3000))
    for path, _ in killed:
        collection = Collection.open(path)
        assert len(collection) in (300, 3000)
        collection.add(corpus, segment_rows=SEGMENT, on_existing=how)  # type: ignore[arg-type]
        rows = list(collection.passages())
        assert sorted(row["id"] for row in rows) == expected
        assert sum(row["text"] == "old" for row in rows) == (300 if how == "skip" else 0)
        assert collection.verify() == []
        assert not (path / ".work").exists()


def test_workers_end_when_the_job_alone_is_killed(corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "c"
    running = start("index", corpus, "--out", path, "--segment-rows", SEGMENT, "--workers", 2)
    while not list(path.glob(".work/indexes/*/*")):
        assert running.poll() is None
        time.sleep(0.01)
    assert len(processes_of(running.pid)) > 1
    running.kill()  # not its workers
    assert running.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while processes_of(running.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = processes_of(running.pid)
    if left:
        os.killpg(running.pid, signal.SIGKILL)
    assert left == []


def processes_of(group: int) -> list[str]:
    """The living processes of a process group."""
    command = ["ps", "-A", "-o", "pgid=,stat="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [state for its_group, state in rows if int(its_group) == group and state[0] != "Z"]


DYING = """
import os, signal
from pathlib import Path
from rag.indexers import Lexical

class Dying(Lexical, frozen=True, extra="forbid"):
    kind = "dying"
    marker: str
    always: bool = False
    at: str = ""

    def build(self, passages, out):
        ids = passages["id"].to_pylist()
        if self.at in ids or self.always or (not self.at and not Path(self.marker).exists()):
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        super().build(passages, out)
"""


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """An index kind of a plugin whose first build kills its process, or each one."""
    home = tmp_path / "plugin"
    info = home / "dying-1.0.dist-info"
    info.mkdir(parents=True)
    (home / "dying_kind.py").write_text(DYING)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dying\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rag.indexes]\ndying = dying_kind:Dying\n")
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.setenv("PYTHONPATH", str(home))
    from rag import registry

    return registry.find("indexes", "dying")


def test_a_job_outlives_a_killed_worker(dying: Any, corpus: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    indexes = {"x": dying(marker=str(marker))}
    rows = [{"id": f"p{n}", "text": f"apple {n}"} for n in range(20)]
    collection, done = Collection.build(
        rows, tmp_path / "c", indexes=indexes, segment_rows=10, workers=2
    )
    assert marker.exists()
    assert done.added == 20
    assert [row["id"] for row in collection.passages()] == [row["id"] for row in rows]
    assert collection.verify() == []


def test_a_passage_that_always_kills_its_worker_is_named(dying: Any, tmp_path: Path) -> None:
    path = tmp_path / "c"
    indexes = {"x": dying(marker=str(tmp_path / "marker"), at="p17")}
    rows = [{"id": f"p{n}", "text": f"apple {n}"} for n in range(30)]
    with pytest.raises(TasksLost, match=r"10 passages, 'p1\d' to 'p\d+' .*; \d others are") as lost:
        Collection.build(rows, path, indexes=indexes, segment_rows=10, workers=2)
    assert lost.value.__notes__[0] == "passage 'p17' ends its worker by itself"
    assert "nothing was committed" in lost.value.__notes__[1]
    assert not manifest.numbers(path)
    others = lost.value.done
    assert len(list(path.glob(".work/indexes/x/*"))) == others >= 2
    # Without it, only what held it is built.
    rest = [row for row in rows if row["id"] != "p17"]
    collection, done = Collection.build(rest, path, indexes=indexes, segment_rows=10)
    assert done.added == len(collection) == 29


def test_a_worker_that_always_dies_ends_the_job_by_name(dying: Any, tmp_path: Path) -> None:
    path = tmp_path / "c"
    indexes = {"x": dying(marker=str(tmp_path / "marker"), always=True)}
    rows = [{"id": f"p{n}", "text": f"apple {n}"} for n in range(10)]
    with pytest.raises(
        BackendFailed, match="build piece: 1 task ended their worker 3 times each: 10 passages"
    ):
        Collection.build(rows, path, indexes=indexes, segment_rows=10, workers=2)
    assert not manifest.numbers(path)
    assert not list(path.glob("segments/*"))
