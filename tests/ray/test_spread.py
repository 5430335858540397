"""Searching by shards that are actors of a Ray cluster: what is found is what is found here."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")
pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("faiss")

from rag import Collection, Pipeline
from rag.collection.spread import Opening, SpreadSnapshot
from rag.errors import BackendFailed, InvalidInput, NotFound
from rag.ray_cluster import connect
from rag.ray_shards import STARTS, RayShards
from rag.retrievers import BM25, Dense, Seal, Sparse
from rag.stage import Stage
from rag.where import Where
from tests.ray import five_segments
from tests.ray.five_segments import asked, ranked

Rag = Callable[..., tuple[int, str, str]]
SHARDS = 3


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with connect("local", cpus=2):
        yield


@pytest.fixture(scope="module")
def wiki(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    with pytest.MonkeyPatch.context() as patch:
        five_segments.patch(patch)
        yield five_segments.build(tmp_path_factory.mktemp("spread"))


@pytest.fixture(scope="module")
def spread(cluster: None, wiki: Collection) -> Iterator[SpreadSnapshot]:
    with wiki.spread(shards=SHARDS) as snapshot:
        yield snapshot


STAGES: dict[str, Callable[..., Stage]] = {
    "bm25": lambda **more: BM25(top_k=7, **more),
    "flat": lambda **more: Dense(top_k=7, index="flat", **more),
    "hnsw": lambda **more: Dense(top_k=7, index="hnsw", **more),
    "ivf": lambda **more: Dense(top_k=7, index="ivf", **more),
    "sparse": lambda **more: Sparse(top_k=7, **more),
    "seal": lambda **more: Seal(top_k=7, beam=3, length=4, device="cpu", smoothing=1.0, **more),
}


@pytest.mark.parametrize("name", STAGES)
def test_results_are_those_of_the_local_search(
    wiki: Collection, spread: SpreadSnapshot, name: str
) -> None:
    for where in (None, Where({"even": True, "year": {"lt": 1990}})):
        stage = STAGES[name](where=where)
        expected = ranked(stage, wiki, asked())
        assert len(expected.docs)
        assert ranked(stage, spread, asked()) == expected


def test_phrases_are_those_of_the_local_search(wiki: Collection, spread: SpreadSnapshot) -> None:
    text = ranked(BM25(), wiki, ["w1"])[0][0].text
    stage = BM25(top_k=5, syntax="phrases")
    queries = ['"' + " ".join(text.split()[:2]) + '"', "w1*"]
    assert ranked(stage, spread, queries) == ranked(stage, wiki, queries)


def test_an_actor_is_called_once_for_a_batch(
    spread: SpreadSnapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[list[int]] = []
    ask = RayShards.ask

    def counted(self: RayShards, requests: Any) -> Any:
        rounds.append(sorted(requests))
        return ask(self, requests)

    monkeypatch.setattr(RayShards, "ask", counted)
    for name in ("bm25", "flat", "hnsw", "ivf", "sparse"):
        ranked(STAGES[name](), spread, asked(40))
    assert rounds == [list(range(SHARDS))] * 5


def test_what_a_shard_refuses_is_raised_as_it_is(spread: SpreadSnapshot) -> None:
    with pytest.raises(InvalidInput, match="^k is 0") as caught:
        spread.index("lexical").search(["w1"], 0)
    assert type(caught.value) is InvalidInput


def test_a_folder_that_a_machine_does_not_see_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"absent.*must see it at the same path"):
        RayShards([Opening(str(tmp_path / "absent"), 1, "0" * 64, (0, 1))])


def test_the_command_line_prints_what_the_local_search_prints(rag: Rag, wiki: Collection) -> None:
    question = ["search", asked(1)[0], "-c", wiki.path, "-k", "4", "--json"]
    spreading = ["--ray", "local", "--shards", "2"]
    code, out, _ = rag(*question)
    assert code == 0 and len(json.loads(out)) == 4
    assert rag(*question, *spreading) == (0, out, "")


def test_a_pipeline_file_says_how_it_is_spread(wiki: Collection, tmp_path: Path) -> None:
    file = tmp_path / "spread.yaml"
    file.write_text(
        f"kind: pipeline\ncollection: {wiki.path}\nspread: {{shards: 2, partial: ok}}\n"
        "stages: [bm25, extract]\n"
    )
    question = asked(1)[0]
    with Pipeline.load(file) as pipeline:
        snapshot = pipeline.snapshot
        assert isinstance(snapshot, SpreadSnapshot) and snapshot.partial == "ok"
        answer = pipeline.ask(question)
        assert (
            answer.documents
            == Pipeline.load("bm25-extract", collection=wiki)
            .ask(question)
            .documents[: len(answer.documents)]
        )
        assert isinstance(snapshot.shards, RayShards)
        processes = [process for _, process in snapshot.shards.processes()]
    assert ended(processes)


@pytest.mark.slow
def test_a_killed_shard_is_opened_again_and_meanwhile_answers_are_partial(wiki: Collection) -> None:
    expected = ranked(BM25(), wiki, asked())
    with wiki.spread(shards=SHARDS, partial="ok") as snapshot, Pipeline([BM25()], snapshot) as bm25:
        shards = snapshot.shards
        assert isinstance(shards, RayShards)
        assert bm25.run(asked())["documents"] == expected
        kill(shards, 1)
        first = bm25.run(asked())
        assert all("shard 2 of 3" in said for said in first["partial"])
        a, b = snapshot.rows_of_shards[1]
        of_it = (expected.docs >= a) & (expected.docs < b)
        assert of_it.any()  # it had something to lose
        docs = first["documents"].docs
        assert not ((docs >= a) & (docs < b)).any()
        whole = until_whole(bm25)
        assert whole["documents"] == expected


@pytest.mark.slow
def test_a_killed_shard_fails_searches_until_it_is_open_again(wiki: Collection) -> None:
    expected = ranked(BM25(), wiki, asked())
    with wiki.spread(shards=SHARDS) as snapshot, Pipeline([BM25()], snapshot) as bm25:
        shards = snapshot.shards
        assert isinstance(shards, RayShards)
        bm25.run(asked())
        kill(shards, 0)
        with pytest.raises(BackendFailed, match=r"shard 1 of 3.*process \d+ .* died.*opened again"):
            bm25.run(asked())
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                found = bm25.run(asked())["documents"]
                break
            except BackendFailed:
                time.sleep(0.1)
        assert found == expected


@pytest.mark.slow
def test_a_shard_that_dies_again_and_again_is_left(wiki: Collection) -> None:
    with wiki.spread(shards=2, partial="ok") as snapshot, Pipeline([BM25()], snapshot) as bm25:
        shards = snapshot.shards
        assert isinstance(shards, RayShards)
        for _ in range(STARTS):
            kill(shards, 0)
            assert "partial" in bm25.run(asked())
            until_whole(bm25)
        kill(shards, 0)
        for _ in range(2):
            [*_, said] = bm25.run(asked())["partial"]
            assert "is not started again for now" in said


def kill(shards: RayShards, shard: int) -> None:
    process = shards.processes()[shard][1]
    os.kill(process, signal.SIGKILL)
    assert ended([process])


def until_whole(pipeline: Pipeline) -> Any:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        batch = pipeline.run(asked())
        if "partial" not in batch:
            return batch
        time.sleep(0.1)
    raise AssertionError("the shard was not opened again within a minute")


def ended(processes: list[int]) -> bool:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        states = [state(process) for process in processes]
        if not any(states):
            return True
        time.sleep(0.05)
    return False


def state(process: int) -> bool:
    """Whether a process lives; one whose parent has not asked for its end yet does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
