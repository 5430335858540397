"""A snapshot searched by shards answers as one that is searched here (shards in this process)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("faiss")

from rag import Collection, Pipeline
from rag.batch import Batch
from rag.collection import spread
from rag.collection.spread import InProcess, SpreadSnapshot, WhenPartial
from rag.errors import BackendFailed, Conflict, InvalidInput, NotFound
from rag.indexers.fm_index import FMIndexes
from rag.retrievers import BM25, Dense, Fuse, Seal, Sparse
from rag.stage import Stage
from rag.where import Where
from tests.ray import five_segments
from tests.ray.five_segments import asked, ranked

Rag = Callable[..., tuple[int, str, str]]
WHERE = [None, {"even": True}, {"year": {"lt": 1935}}, {"year": {"gt": 3000}}]


@pytest.fixture(scope="module", autouse=True)
def encoders() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        five_segments.patch(patch)
        yield


@pytest.fixture(scope="module")
def wiki(encoders: None, tmp_path_factory: pytest.TempPathFactory) -> Collection:
    return five_segments.build(tmp_path_factory.mktemp("spread"))


def opened(
    wiki: Collection, cuts: int | list[tuple[int, int]], partial: WhenPartial = "fail"
) -> tuple[SpreadSnapshot, InProcess]:
    state = wiki.snapshot().manifest
    runs = spread.cut(state, cuts, wiki.path) if isinstance(cuts, int) else cuts
    shards = InProcess(spread.openings(wiki.path, state, runs))
    return SpreadSnapshot(wiki.path, state, runs, shards, partial=partial), shards


def stages(where: Any = None) -> dict[str, Stage]:
    at = None if where is None else Where(where)
    return {
        "bm25": BM25(top_k=7, where=at),
        "flat": Dense(top_k=7, index="flat", where=at),
        "hnsw": Dense(top_k=7, index="hnsw", where=at),
        "ivf": Dense(top_k=7, index="ivf", where=at),
        "sparse": Sparse(top_k=7, where=at),
        "seal": Seal(top_k=7, beam=3, length=4, device="cpu", smoothing=1.0, where=at),
    }


@pytest.mark.parametrize("where", WHERE, ids=str)
@pytest.mark.parametrize("name", ["bm25", "flat", "hnsw", "ivf", "sparse", "seal"])
def test_results_are_those_of_the_local_search(wiki: Collection, name: str, where: Any) -> None:
    snapshot, _ = opened(wiki, 3)
    stage = stages(where)[name]
    expected = ranked(stage, wiki, asked())
    assert ranked(stage, snapshot, asked()) == expected
    assert bool(len(expected.docs)) == (where != WHERE[-1])


@settings(max_examples=12, deadline=None)
@given(
    edges=st.sets(st.integers(1, 4)),
    question=st.integers(0, 200),
    k=st.integers(1, 160),
    name=st.sampled_from(["bm25", "flat", "hnsw", "ivf", "sparse", "seal"]),
)
def test_any_cut_gives_the_same(
    wiki: Collection, edges: set[int], question: int, k: int, name: str
) -> None:
    count = len(wiki.snapshot().manifest.segments)
    ends = [0, *sorted(edges), count]
    snapshot, _ = opened(wiki, list(pairwise(ends)))
    stage = stages()[name].model_copy(update={"top_k": k})
    questions = asked(2, question)
    assert ranked(stage, snapshot, questions) == ranked(stage, wiki, questions)


def test_what_faiss_finds_too_little_of_is_searched_exactly_in_a_second_round(
    wiki: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag.indexers import dense_faiss

    whole = dense_faiss.search

    def few(index: Any, queries: Any, *more: Any) -> Any:
        found = whole(index, queries, *more)
        found[queries[:, 0] > 0, 1:] = -1
        return found

    monkeypatch.setattr(dense_faiss, "search", few)
    snapshot, shards = opened(wiki, 3)
    local, spread_ = wiki.snapshot().index("ivf"), snapshot.index("ivf")
    queries = np.random.default_rng(0).standard_normal((9, 16)).astype(np.float32)
    assert 0 < (queries[:, 0] > 0).sum() < 9
    for keep in (None, snapshot.matching(Where({"even": True}))):
        shards.asked.clear()
        expected = local.search(queries, 8, keep=keep)
        for mine, other in zip(spread_.search(queries, 8, keep=keep), expected, strict=True):
            np.testing.assert_array_equal(mine, other)
        assert len(shards.asked) == 2
        exact = shards.asked[1][0].settings["exact"]
        assert exact and len(shards.asked[1][0].arguments[0]) == (queries[:, 0] > 0).sum()


def test_phrases_and_prefixes_are_those_of_the_local_search(wiki: Collection) -> None:
    snapshot, _ = opened(wiki, 3)
    stage = BM25(top_k=5, syntax="phrases", where=Where({"even": True}))
    words = [hit.text for hit in ranked(BM25(), wiki, ["w1"])[0]]
    pair = " ".join(words[0].split()[:2])
    queries = [f'"{pair}"', "w1*", f'w2 "{pair}"', "W0*"]
    expected = ranked(stage, wiki, queries)
    assert len(expected.docs)
    assert ranked(stage, snapshot, queries) == expected


def test_a_pipeline_of_several_stages_answers_the_same(wiki: Collection) -> None:
    snapshot, _ = opened(wiki, 2)
    every = [stage.model_copy(update={"into": name}) for name, stage in stages().items()]
    pipeline = [*every, Fuse(of=list(stages()), top_k=9)]
    with Pipeline(pipeline, wiki) as here, Pipeline(pipeline, snapshot) as there:
        assert there.run(asked())["documents"] == here.run(asked())["documents"]
        assert there.ask(asked()[0]).documents == here.ask(asked()[0]).documents


def test_one_call_a_shard_answers_a_batch(wiki: Collection) -> None:
    snapshot, shards = opened(wiki, 3)
    for name in ("bm25", "flat", "hnsw", "ivf", "sparse"):
        shards.asked.clear()
        ranked(stages()[name], snapshot, asked(50))
        assert [sorted(each) for each in shards.asked] == [[0, 1, 2]]


def test_what_faiss_wrote_is_read_by_shards_alone(
    wiki: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag.indexers import dense_faiss

    read: list[Path] = []
    whole = dense_faiss.read

    def counted(file: Path, *more: Any, **settings: Any) -> Any:
        read.append(file)
        return whole(file, *more, **settings)

    monkeypatch.setattr(dense_faiss, "read", counted)
    snapshot, _ = opened(wiki, 3)
    index = snapshot.index("hnsw")
    assert index.rows == 150 and read == []
    index.search(np.ones((1, 16), np.float32), 3)
    assert len(read) == len(set(read)) == len(snapshot.segments)


def test_a_filter_is_sent_as_a_condition_and_a_mask_as_bits(wiki: Collection) -> None:
    snapshot, shards = opened(wiki, 3)
    index = snapshot.index("lexical")
    mask = snapshot.matching(Where({"even": True}))
    shards.asked.clear()
    expected = index.search(["w1"], 5, keep=mask)
    [sent] = shards.asked
    assert {request.keep for request in sent.values()} == {spread.Kept(Where({"even": True}))}
    assert mask is not None
    found = index.search(["w1"], 5, keep=mask.copy())
    assert all(request.keep.bits is not None for request in shards.asked[-1].values())  # type: ignore[union-attr]
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, other)


def test_seal_takes_one_round_a_step_and_two_to_score(
    wiki: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot, shards = opened(wiki, 3)
    steps = 0
    whole = FMIndexes.top_k

    def counted(self: FMIndexes, *arguments: Any) -> Any:
        nonlocal steps
        steps += 1
        return whole(self, *arguments)

    stage = Seal(top_k=7, beam=5, length=6, device="cpu", smoothing=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(FMIndexes, "top_k", counted)
        ranked(stage, wiki, asked(1))
    with Pipeline([stage], snapshot) as pipeline:
        pipeline.run([])
        shards.asked.clear()
        pipeline.run(asked(1))
    methods = [next(iter(each.values())).method for each in shards.asked]
    expected = ["index.top_following"] * steps
    expected += ["index.find_flat", "index.looked_up", "index.documents"]  # first the question's
    assert methods == expected


def test_locating_samples_takes_more_rounds_and_gives_the_same(
    wiki: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ranked(stages()["seal"], wiki, asked())
    snapshot, shards = opened(wiki, 3)
    for each in [snapshot, *(shard.snapshot for shard in shards.shards if shard)]:
        index = each.index("ngrams").index
        monkeypatch.setattr(index, "full", False)
    assert ranked(stages()["seal"], snapshot, asked()) == expected


def test_explanations_and_expansions_need_no_shard(wiki: Collection) -> None:
    snapshot, shards = opened(wiki, 3)
    there, here = snapshot.index("lexical"), wiki.snapshot().index("lexical")
    shards.asked.clear()
    assert there.explain("w1 w2", 100) == here.explain("w1 w2", 100)
    assert there.expand("w1", most=50) == here.expand("w1", most=50)
    assert there.tokens("w1 w2") == ["w1", "w2"]
    assert not shards.asked


def test_a_shard_that_is_away_fails_the_search(wiki: Collection) -> None:
    snapshot, shards = opened(wiki, 3)
    shards.shards[1] = None
    with pytest.raises(BackendFailed, match=r"shard 2 of 3 \(segments? 3.* is away: .*partial: ok"):
        Pipeline([BM25()], snapshot).run(asked())


@pytest.mark.parametrize("name", ["bm25", "flat", "sparse", "seal"])
def test_partial_answers_say_so_in_each_row(wiki: Collection, name: str) -> None:
    snapshot, shards = opened(wiki, 3, "ok")
    shards.shards[2] = None
    first = snapshot.rows_of_shards[2][0]
    with Pipeline([stages()[name]], snapshot) as pipeline:
        batch: Batch = pipeline.run(asked())
        assert all("shard 3 of 3" in said for said in batch["partial"])
        assert "shard 3 of 3" in (pipeline.ask(asked()[0]).partial or "")
    found = batch["documents"]
    assert 0 < len(found.docs) and (found.docs < first).all()
    if name != "seal":  # its counts are those of what is there
        every = ranked(stages()[name].model_copy(update={"top_k": 200}), wiki, asked())
        assert found == every.keep(every.docs < first).top(7)


def test_a_shard_lost_between_two_rounds_of_seal(wiki: Collection) -> None:
    snapshot, shards = opened(wiki, 3, "ok")
    ask = shards.ask

    def lose(requests: Any) -> Any:
        if any(request.method == "index.documents" for request in requests.values()):
            shards.shards[0] = None
        return ask(requests)

    shards.ask = lose  # type: ignore[method-assign]
    batch = Pipeline([stages()["seal"]], snapshot).run(asked())
    assert all("shard 1 of 3" in said for said in batch["partial"])
    assert (batch["documents"].docs >= snapshot.rows_of_shards[0][1]).all()
    assert (batch["documents"].scores > 0).all()


def test_only_the_rows_that_were_searched_partly_are_partial(wiki: Collection) -> None:
    from rag import Unless
    from rag.retrievers import Rewrite

    snapshot, shards = opened(wiki, 3, "ok")
    shards.shards[0] = None
    skipping = Unless(when={"question": "skip"}, stages=[BM25()])
    with Pipeline([Rewrite(template="{question}", into="query"), skipping], snapshot) as pipeline:
        said = pipeline.run(["w1", "skip", "w2"])["partial"]
    assert [each is None for each in said] == [False, True, False]


def test_without_a_run_to_tell_partial_hits_are_refused(wiki: Collection) -> None:
    snapshot, shards = opened(wiki, 3, "ok")
    shards.shards[0] = None
    with pytest.raises(BackendFailed, match="shard 1 of 3"):
        snapshot.index("lexical").search(["w1"], 5)
    with pytest.raises(BackendFailed, match="shard 1 of 3"):  # a mask would be remembered
        snapshot.matching(Where({"even": True}))


def test_with_all_shards_away_there_is_no_partial_answer(wiki: Collection) -> None:
    snapshot, shards = opened(wiki, 2, "ok")
    shards.shards[:] = [None, None]
    with pytest.raises(BackendFailed, match="shard 2 of 2"):
        Pipeline([BM25()], snapshot).run(asked())


def test_more_shards_than_segments_are_refused(wiki: Collection) -> None:
    state = wiki.snapshot().manifest
    count = len(state.segments)
    with pytest.raises(InvalidInput, match=rf"has {count} segments, and {count + 1} shards are"):
        spread.cut(state, count + 1, wiki.path)
    with pytest.raises(InvalidInput, match="found 0, expected 1 or more"):
        spread.cut(state, 0, wiki.path)
    assert spread.cut(state, count, wiki.path) == [(n, n + 1) for n in range(count)]


def test_an_index_whose_searcher_cannot_be_spread_is_refused(
    wiki: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag.indexers.lexical_index import LexicalIndex

    snapshot, _ = opened(wiki, 2)
    monkeypatch.delattr(LexicalIndex, "spread")
    with pytest.raises(InvalidInput, match="type lexical cannot be searched spread out"):
        snapshot.index("lexical")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have shards opened in this process; those with the numbers in the list are away."""
    away: list[int] = []

    def opened_here(path: Path, state: Any, *, shards: int, ray: str, partial: Any) -> Any:
        assert ray == "local"
        cuts = spread.cut(state, shards, path)
        made = InProcess(spread.openings(path, state, cuts))
        for number in away:
            made.shards[number] = None
        return SpreadSnapshot(path, state, cuts, made, partial=partial)

    monkeypatch.setattr(spread, "opened", opened_here)
    return away


def test_the_command_line_says_what_is_partial(rag: Rag, wiki: Collection, here: list[int]) -> None:
    question = ["search", "w1 w2", "-c", wiki.path, "--shards", "3"]
    _, local, _ = rag("search", "w1 w2", "-c", wiki.path, "--json")
    assert rag(*question, "--json") == (0, local, "")
    code, out, err = rag(*question, "--partial", "ok", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"partial": None, "documents": json.loads(local)}
    here.append(1)
    code, out, err = rag(*question, "--partial", "ok", "--json")
    assert (code, "shard 2 of 3" in err) == (0, True)
    assert "shard 2 of 3" in json.loads(out)["partial"]
    assert rag(*question, "--json")[:2] == (2, "")
    code, out, err = rag("ask", *question[1:], "-p", "bm25-extract", "--partial", "ok", "--json")
    assert "shard 2 of 3" in json.loads(out)["partial"] and "shard 2 of 3" in err


def test_the_command_line_refuses_too_few_numbers(rag: Rag, wiki: Collection) -> None:
    code, _, err = rag("search", "w1", "-c", wiki.path, "--ray", "local")
    assert (code, "say with --shards N" in err) == (2, True)
    code, _, err = rag("search", "w1", "-c", wiki.path, "--shards", "99")
    assert (code, "99 shards are asked for" in err) == (2, True)


def test_explanations_and_highlights_of_the_command_line_are_the_local_ones(
    rag: Rag, wiki: Collection, here: list[int]
) -> None:
    for name in ("bm25", "seal"):
        question = ["search", "w1 w2", "-c", wiki.path, "-p", name, "-k", "3", "--explain"]
        expected = rag(*question, "--json")
        assert expected[0] == 0
        assert rag(*question, "--json", "--shards", "2") == expected


def test_an_evaluation_counts_partial_answers_as_failed(wiki: Collection) -> None:
    from rag.eval import Dataset, evaluate

    data = Dataset(
        "d", Path("d"), None, {"q1": "w1", "q2": "w2"}, {"q1": {"p1": 1}, "q2": {"p2": 1}}, {}
    )
    snapshot, shards = opened(wiki, 3, "ok")
    with Pipeline([BM25()], wiki) as local, Pipeline([BM25()], snapshot) as there:
        assert evaluate(data, there).measures == evaluate(data, local).measures
        shards.shards[1] = None
        report = evaluate(data, there)
    assert set(report.failed) == {"q1", "q2"}
    assert "partial: shard 2 of 3" in report.failed["q1"]
    assert set(report.measures.values()) == {0.0}


def test_an_evaluation_is_spread_or_has_workers(
    rag: Rag, wiki: Collection, here: list[int], tmp_path: Path
) -> None:
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "w1 w2"}\n')
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tp1\t1\n")
    measured = ["eval", tmp_path, "-c", wiki.path, "-p", "bm25", "--json"]
    code, local, _ = rag(*measured)
    assert code == 0
    code, out, _ = rag(*measured, "--shards", "3")
    assert code == 0 and json.loads(out)["measures"] == json.loads(local)["measures"]
    code, _, err = rag(*measured, "--shards", "3", "--workers", "2")
    assert (code, "give one of both" in err) == (2, True)


def test_a_pipeline_closes_the_shards_that_it_opened(wiki: Collection, here: list[int]) -> None:
    from rag.spread import Spread

    one, two = (Pipeline([BM25()], wiki, spread=Spread(shards=2)) for _ in range(2))
    assert one.snapshot is two.snapshot  # shared, and open until both are closed
    snapshot: Any = one.snapshot
    closed: list[bool] = []
    snapshot.shards.close = lambda: closed.append(True)
    one.close()
    assert closed == []
    two.close()
    assert closed == [True]


def test_spread_is_of_the_outermost_pipeline(wiki: Collection, tmp_path: Path) -> None:
    from rag.errors import InvalidFile
    from rag.spread import Spread

    with pytest.raises(InvalidInput, match="has 'spread'; give that to the pipeline around it"):
        Pipeline([BM25()], str(wiki.path), spread=Spread(shards=2)).as_stage()
    (tmp_path / "inner.yaml").write_text("kind: pipeline\nspread: {shards: 2}\nstages: [bm25]\n")
    outer = tmp_path / "outer.yaml"
    outer.write_text("kind: pipeline\nstages:\n  - pipeline: ./inner.yaml\n")
    with pytest.raises(InvalidFile, match=r"outer.yaml:3:.*which the pipeline around it decides"):
        Pipeline.load(outer)
    snapshot, _ = opened(wiki, 2)
    with pytest.raises(InvalidInput, match="found SpreadSnapshot"):
        Pipeline([BM25()], snapshot, spread=Spread(shards=2)).run(["w1"])


def test_a_file_with_a_wrong_spread_says_where(tmp_path: Path) -> None:
    from rag.errors import InvalidFile

    file = tmp_path / "a.yaml"
    file.write_text("kind: pipeline\nspread: {shards: 0, parts: 2}\nstages: [bm25]\n")
    with pytest.raises(InvalidFile) as caught:
        Pipeline.load(file)
    assert "a.yaml:2:18: spread.shards" in str(caught.value)
    assert "a.yaml:2:21: spread.parts" in str(caught.value)


def test_a_shard_refuses_another_collection_at_its_path(wiki: Collection, tmp_path: Any) -> None:
    [good] = spread.openings(wiki.path, wiki.snapshot().manifest, [(0, 1)])
    with pytest.raises(Conflict, match="two collections lie at this path"):
        spread.Shard(spread.Opening(good.collection, good.number, "0" * 64, (0, 1)))
    with pytest.raises(NotFound, match="must see it at the same path"):
        spread.Shard(spread.Opening(str(tmp_path), 1, good.checksum, (0, 1)))
    with pytest.raises(Conflict, match="was started by 0.0.1; install the same version"):
        spread.Shard(replace(good, version="0.0.1"))


def test_a_mistake_at_a_shard_is_the_callers(wiki: Collection) -> None:
    snapshot, _ = opened(wiki, 2)
    with pytest.raises(InvalidInput, match="k is 0"):
        snapshot.index("lexical").search(["w1"], 0)
    with pytest.raises(InvalidInput, match="16 dimensions"):
        snapshot.index("flat").search(np.zeros((1, 3), np.float32), 5)
    with pytest.raises(InvalidInput, match="keep has shape"):
        snapshot.index("flat").search(np.zeros((1, 16), np.float32), 5, keep=np.ones(3, np.bool_))
