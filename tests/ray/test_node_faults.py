"""Nodes, drivers, disks and rows that fail: nothing is lost, nothing is doubled, and it is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from rag import Collection, registry
from rag.collection import manifest
from rag.jobs import TasksLost
from tests.ray.conftest import ROOT, Nodes, Trees, processes_of, started
from tests.ray.test_nodes import Building, begun, passages

pytestmark = pytest.mark.slow

ROWS, SEGMENT = 300, 25


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    (tmp_path / "marks").mkdir()
    return tmp_path / "marks"


@pytest.fixture
def own(plugin: Path, room: Path) -> Iterator[Nodes]:
    """A cluster of three nodes that a test may break."""
    with started(plugin, 3) as found:
        yield found


def settings(marks: Path, **more: Any) -> dict[str, Any]:
    kind = registry.find("indexes", "faulty")(marks=str(marks), **more)
    return {"indexes": {"x": kind}, "segment_rows": SEGMENT}


def check(path: Path, trees: Trees, whole: Path, **options: Any) -> None:
    """All passages are there once, and every byte is that of an undisturbed build."""
    Collection.build(passages(ROWS), whole, **options)
    assert trees(path) == trees(whole)
    found = Collection.open(path)
    assert [row["id"] for row in found.passages()] == [f"p{n}" for n in range(ROWS)]
    assert found.verify() == []
    assert not (path / ".work").exists()


def worked_twice(marks: Path) -> set[str]:
    """The first passages of the partitions that more than one worker began."""
    firsts = [json.loads(path.read_text())["first"] for path in marks.glob("*.json")]
    return {first for first in firsts if firsts.count(first) > 1}


def test_a_node_that_is_killed_costs_only_its_tasks(
    own: Nodes, trees: Trees, tmp_path: Path, marks: Path
) -> None:
    options = settings(marks, pause=1.0)
    path = tmp_path / "c"
    build = lambda: Collection.build(  # noqa: E731
        passages(ROWS), path, ray=own.address, workers=3, **options
    )
    building = Building(build)
    head = own.cluster.head_node.node_id
    until = time.monotonic() + 120
    while not (away := [m for m in begun(marks, 1) if m["node"] != head]):
        assert time.monotonic() < until
        time.sleep(0.05)
    victim = away[-1]
    node = next(n for n in own.cluster.worker_nodes if n.node_id == victim["node"])
    raylet = node.all_processes["raylet"][0].process.pid
    os.kill(raylet, signal.SIGKILL)
    for pid in {mark["pid"] for mark in begun(marks, 1) if mark["node"] == victim["node"]}:
        try:
            os.kill(pid, signal.SIGKILL)  # what goes with a machine
        except ProcessLookupError:
            continue
    done = building.result()
    assert len(done.failures) >= 1
    why = ("its node is gone", "its process was killed", "it, or its node, could not be reached")
    assert all(any(reason in said for reason in why) for said in done.failures)
    assert repr(victim["first"]) in " ".join(done.failures)
    assert victim["first"] in worked_twice(marks)
    check(path, trees, tmp_path / "whole", **options)


DRIVER = """
import os, signal, sys
from pathlib import Path
from rag import Collection, registry
from rag.collection import build, index_job, manifest
sys.path.insert(0, {root!r})
from tests.ray.test_nodes import passages

def main():
    how = {how!r}
    if how == "commit":  # every folder is there, and the receipt, the manifest, is not
        def stopped(*given, **more):
            os.kill(os.getpid(), signal.SIGKILL)
        index_job.commit_after = stopped
    kind = registry.find("indexes", "faulty")(marks={marks!r}, pause={pause})
    Collection.build(passages({rows}), {path!r}, indexes=dict(x=kind), segment_rows={segment},
                     ray={address!r}, workers=3)

if __name__ == "__main__":
    main()
"""


def driver(own: Nodes, tmp_path: Path, marks: Path, how: str, pause: float) -> Any:
    """A process that builds, and that is killed by itself or by a test."""
    text = DRIVER.format(
        root=str(ROOT),
        how=how,
        marks=str(marks),
        pause=pause,
        rows=ROWS,
        path=str(tmp_path / "c"),
        segment=SEGMENT,
        address=own.address,
    )
    (tmp_path / "driver.py").write_text(text)
    return own.python(tmp_path / "driver.py")


def test_a_driver_that_is_killed_goes_on(
    own: Nodes, trees: Trees, tmp_path: Path, marks: Path
) -> None:
    running = driver(own, tmp_path, marks, "", 0.5)
    begun(marks, 6, seconds=120)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    running.communicate()
    path = tmp_path / "c"
    assert manifest.numbers(path) == []
    finished = list(path.glob(".work/indexes/x/*"))
    assert finished
    before = len(list(marks.glob("*.json")))
    options = settings(marks, pause=0.5)
    _, done = Collection.build(passages(ROWS), path, ray=own.address, workers=3, **options)
    assert done.added == ROWS
    assert len(list(marks.glob("*.json"))) - before <= len(list(path.glob("indexes/x/*"))) * 2
    again = {json.loads(p.read_text())["first"] for p in sorted(marks.glob("*.json"))[before:]}
    kept = {json.loads(p.read_text())["first"] for p in sorted(marks.glob("*.json"))[:3]}
    assert not (kept & again)  # what was finished first was not done again
    check(path, trees, tmp_path / "whole", **options)


def test_a_driver_that_is_killed_between_data_and_receipt_goes_on(
    own: Nodes, trees: Trees, tmp_path: Path, marks: Path
) -> None:
    running = driver(own, tmp_path, marks, "commit", 0.0)
    assert running.wait() == -signal.SIGKILL, running.communicate()
    running.communicate()
    path = tmp_path / "c"
    assert manifest.numbers(path) == []
    assert list(path.glob("indexes/x/*"))
    before = len(list(marks.glob("*.json")))
    options = settings(marks)
    _, done = Collection.build(passages(ROWS), path, ray=own.address, workers=3, **options)
    assert done.added == ROWS
    assert len(list(marks.glob("*.json"))) == before  # nothing was done again
    check(path, trees, tmp_path / "whole", **options)


def test_a_corrupt_piece_is_built_again(
    own: Nodes, trees: Trees, tmp_path: Path, marks: Path
) -> None:
    running = driver(own, tmp_path, marks, "", 0.5)
    path = tmp_path / "c"
    until = time.monotonic() + 120
    while len(list(path.glob(".work/indexes/x/*/*"))) < 8:
        assert time.monotonic() < until
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    time.sleep(2)  # actors of a driver that is gone end by themselves
    files = [file for file in path.glob(".work/indexes/x/*/*") if file.suffix != ".json"]
    victim = max(files, key=lambda file: file.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    options = settings(marks, pause=0.5)
    before = len(list(marks.glob("*.json")))
    Collection.build(passages(ROWS), path, ray=own.address, workers=3, **options)
    assert len(list(marks.glob("*.json"))) > before
    check(path, trees, tmp_path / "whole", **options)


def test_a_node_whose_disk_is_full_is_left_alone(
    own: Nodes, trees: Trees, tmp_path: Path, marks: Path
) -> None:
    full = tmp_path / "full"
    options = settings(marks, pause=0.3, full=str(full))
    path = tmp_path / "c"
    build = lambda: Collection.build(  # noqa: E731
        passages(ROWS), path, ray=own.address, workers=3, **options
    )
    building = Building(build)
    head = own.cluster.head_node.node_id
    until = time.monotonic() + 120
    while not (away := [m for m in begun(marks, 1) if m["node"] != head]):
        assert time.monotonic() < until
        time.sleep(0.02)
    full.write_text(away[-1]["node"])
    done = building.result()
    assert any("No space left on device" in said for said in done.failures)
    assert all("other nodes go on" in said for said in done.failures)
    on_it = [m for m in begun(marks, 1) if m["node"] == away[-1]["node"]]
    assert len(on_it) >= 2  # it had work when its disk was full
    full.unlink()
    check(path, trees, tmp_path / "whole", **options)


def test_a_poison_row_is_named_and_all_others_are_done(
    own: Nodes, trees: Trees, tmp_path: Path, marks: Path
) -> None:
    path = tmp_path / "c"
    options = settings(marks, poison="p137")
    with pytest.raises(
        TasksLost, match=r"1 task ended their worker 3 times each: .*'p1\d\d'"
    ) as lost:
        Collection.build(passages(ROWS), path, ray=own.address, workers=3, **options)
    assert lost.value.__notes__[0] == "passage 'p137' ends its worker by itself"
    assert manifest.numbers(path) == []
    pieces = lost.value.done + 1
    assert len(list(path.glob(".work/indexes/x/*"))) == pieces - 1
    before = len(list(marks.glob("*.json")))
    good = [row for row in passages(ROWS) if row["id"] != "p137"]
    _, done = Collection.build(good, path, ray=own.address, workers=3, **options)
    assert done.added == ROWS - 1
    assert len(list(marks.glob("*.json"))) - before <= 3  # only where the row was cut out


def state(pid: int) -> str:
    """Of a process; nothing where there is none."""
    command = ["ps", "-o", "stat=", "-p", str(pid)]
    listed = subprocess.run(command, check=False, capture_output=True, text=True)
    return listed.stdout.strip()[:1]


def test_a_local_cluster_leaves_nothing_however_it_ends(
    plugin: Path, room: Path, tmp_path: Path, marks: Path
) -> None:
    for sent in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        for old in marks.iterdir():
            old.unlink()
        text = DRIVER.format(
            root=str(ROOT),
            how="",
            marks=str(marks),
            pause=2.0,
            rows=ROWS,
            path=str(tmp_path / f"c{sent}"),
            segment=SEGMENT,
            address="local",
        )
        (tmp_path / "driver.py").write_text(text)
        paths = os.pathsep.join([str(plugin), str(ROOT)])
        running = subprocess.Popen(
            [sys.executable, str(tmp_path / "driver.py")],
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        victim = begun(marks, 1, seconds=120)[0]
        assert list(room.glob("rag-ray-*")) and processes_of(room)
        running.send_signal(sent)
        assert running.wait(60) != 0
        until = time.monotonic() + 30
        while (list(room.glob("rag-ray-*")) or processes_of(room)) and time.monotonic() < until:
            time.sleep(0.1)
        assert list(room.glob("rag-ray-*")) == []
        assert processes_of(room) == []
        assert state(victim["pid"]) in ("", "Z")


def test_a_local_cluster_is_not_the_one_that_the_environment_names(
    own: Nodes, tmp_path: Path, room: Path
) -> None:
    import ray

    def jobs() -> int:
        ray.init(own.address, logging_level="critical", log_to_driver=False)
        count = len(ray._private.state.jobs())
        ray.shutdown()
        return count

    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in passages(60)))
    before, began = set(room.iterdir()), jobs()
    own.environment["RAY_ADDRESS"] = own.address
    running = own.rag("index", source, "--out", tmp_path / "e", "--ray", "local", "--workers", 1)
    out, err = running.communicate()
    assert running.returncode == 0, out + err
    assert len(Collection.open(tmp_path / "e")) == 60
    assert jobs() == began + 1  # this process, and not the command
    assert set(room.iterdir()) == before
