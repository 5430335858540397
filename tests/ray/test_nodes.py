"""Three nodes build what one process builds, and outlive a killed actor."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
pytest.importorskip("faiss")
pytest.importorskip("tokenizers")

from rag import Collection, Pipeline, registry
from rag.errors import BackendFailed, InvalidInput
from rag.indexers import Lexical, NGrams
from rag.pipelines import run_file
from rag.retrievers import BM25
from tests.ray.conftest import Nodes, Trees

ROWS, SEGMENT = 200, 25


def passages(count: int = ROWS) -> list[dict[str, Any]]:
    draw = random.Random(3)
    words = [f"w{n}" for n in range(300)]
    return [
        {"id": f"p{n}", "title": draw.choice(words), "text": " ".join(draw.choices(words, k=30))}
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def every_kind(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An index of every kind; encoders are of the plugin."""
    from tests.retrievers.seal.tiny_seal import network, tokenizer

    model = tmp_path_factory.mktemp("model")
    tokenizer().save_pretrained(model)
    network("llama").config.save_pretrained(model)
    dense = registry.find("indexes", "drawn_dense")
    return {
        "lexical": Lexical(),
        "ngrams": NGrams(model=str(model)),
        "flat": dense(),
        "hnsw": dense(factory="HNSW8"),
        "ivf": dense(factory="IVF4,Flat"),
        "sparse": registry.find("indexes", "drawn_sparse")(),
    }


def test_three_nodes_build_the_bytes_of_one_process(
    nodes: Nodes, every_kind: dict[str, Any], trees: Trees, tmp_path: Path
) -> None:
    told: list[tuple[str, int, int | None]] = []
    options: dict[str, Any] = {"indexes": every_kind, "segment_rows": SEGMENT}
    Collection.build(passages(), tmp_path / "one", **options)
    built, done = Collection.build(
        passages(),
        tmp_path / "three",
        ray=nodes.address,
        workers=3,
        progress=lambda *what: told.append(what),
        **options,
    )
    expected = trees(tmp_path / "one")
    assert trees(tmp_path / "three") == expected
    kinds = {name.partition("/")[0] for name in expected}
    assert kinds == {"segments", "indexes", "vectors", "trained"}
    assert done.failures == ()
    assert built.verify() == []
    assert ("workers", 3, 3) in told
    assert max(count for what, count, _ in told if what == "rows") == ROWS
    # With nothing to do, no cluster is asked, and none needs to be there.
    again = Collection.build(passages(), tmp_path / "three", ray="127.0.0.1:1", **options)[1]
    assert again.unchanged or trees(tmp_path / "three") == expected


def begun(marks: Path, count: int, seconds: float = 60) -> list[dict[str, Any]]:
    """The marks of the first ``count`` pieces of work that began."""
    until = time.monotonic() + seconds
    while len(found := sorted(marks.glob("*.json"))) < count:
        assert time.monotonic() < until, f"only {len(found)} of {count} began"
        time.sleep(0.02)
    return [json.loads(path.read_text()) for path in found]


class Building(threading.Thread):
    """A build in a thread, so that a test can disturb it."""

    def __init__(self, build: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._build = build
        self.done: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            _, self.done = self._build()
        except BaseException as error:  # noqa: BLE001  (raised where it is waited for)
            self.error = error

    def result(self) -> Any:
        self.join(120)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.done


def test_a_killed_actor_costs_only_its_task(nodes: Nodes, trees: Trees, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    kind = registry.find("indexes", "faulty")(marks=str(marks), pause=0.3)
    options: dict[str, Any] = {"indexes": {"x": kind}, "segment_rows": SEGMENT}
    path = tmp_path / "three"
    options |= {"ray": nodes.address, "workers": 3}
    building = Building(lambda: Collection.build(passages(), path, **options))
    victim = begun(marks, 4)[-1]
    os.kill(victim["pid"], signal.SIGKILL)
    done = building.result()
    (said,) = done.failures
    assert f"process {victim['pid']} on" in said
    assert repr(victim["first"]) in said
    assert "(try 1 of 3): its process was killed" in said
    log = json.loads((path / "log" / "000001.json").read_text())
    assert log["failures"] == [said]
    worked = [mark["first"] for mark in begun(marks, 1)]
    twice = {first for first in worked if worked.count(first) > 1}
    assert twice == {victim["first"]}
    Collection.build(passages(), tmp_path / "one", **{**options, "ray": None})
    assert trees(path) == trees(tmp_path / "one")
    assert len(Collection.open(path)) == ROWS


def test_what_a_node_lacks_is_said_before_the_job_begins(nodes: Nodes, tmp_path: Path) -> None:
    import ray

    ray.init(nodes.address, logging_level="critical", log_to_driver=False)
    victim = next(node for node in ray.nodes() if node["Alive"])
    ray.shutdown()
    (tmp_path / "lacking").write_text(victim["NodeID"])
    marks = tmp_path / "marks"
    marks.mkdir()
    kind = registry.find("indexes", "faulty")(marks=str(marks), lacking=str(tmp_path / "lacking"))
    said = r"1 of 3 nodes of the cluster cannot do this job; nothing was begun:\n  .*: model tiny"
    with pytest.raises(BackendFailed, match=said):
        Collection.build(passages(40), tmp_path / "c", indexes={"x": kind}, ray=nodes.address)
    assert list(marks.iterdir()) == []


def test_questions_are_answered_as_in_one_process(nodes: Nodes, tmp_path: Path) -> None:
    Collection.build(passages(), tmp_path / "c")
    lines = [json.dumps({"id": f"q{n}", "question": f"w{n} w{n + 1}"}) for n in range(200)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    pipeline = Pipeline([BM25(top_k=5)], tmp_path / "c")
    run_file(tmp_path / "in.jsonl", tmp_path / "one.jsonl", pipeline)
    done = run_file(
        tmp_path / "in.jsonl", tmp_path / "three.jsonl", pipeline, ray=nodes.address, workers=2
    )
    assert (done.rows, done.failed, done.failures) == (200, 0, ())
    assert (tmp_path / "three.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()


def test_a_second_cluster_is_refused_by_name(nodes: Nodes) -> None:
    from rag.ray_cluster import connect

    refused = pytest.raises(InvalidInput, match="is connected to 127.0.0.1:")
    with connect(nodes.address), refused, connect("local"):
        pass


def test_without_its_name_no_cluster_is_joined_or_started(nodes: Nodes, tmp_path: Path) -> None:
    """One runs, and ``RAY_ADDRESS`` names it."""
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in passages(60)))
    program = f"""
import sys
from rag import Collection
if __name__ == "__main__":
    wiki, _ = Collection.build({str(source)!r}, {str(tmp_path / "c")!r}, segment_rows=30, workers=2)
    assert len(wiki.search("w1")) > 0
    assert "ray" not in sys.modules
"""
    (tmp_path / "program.py").write_text(program)
    nodes.environment["RAY_ADDRESS"] = nodes.address
    running = nodes.python(tmp_path / "program.py")
    out, err = running.communicate()
    del nodes.environment["RAY_ADDRESS"]
    assert running.returncode == 0, out + err
    clusters = [path for path in nodes.folder.parent.iterdir() if path.name.startswith("ra")]
    assert clusters == [nodes.folder]
